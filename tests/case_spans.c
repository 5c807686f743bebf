#include "tests/case_spans.h"
#include "formats/tensor.h"
#include <math.h>

void case_spans_make(case_run *r, case_spans *b, const int64_t *len, const int64_t *past) {
	memset(b, 0, sizeof *b);
	for (; b->n_seq < SPANS && len[b->n_seq] >= 0; b->n_seq++) {
		int s = b->n_seq;
		b->past[s] = past[s];
		b->start[s + 1] = b->start[s] + len[s];
		b->most = WHIT_MAX(b->most, past[s] + len[s]);
	}
	b->T = b->start[b->n_seq];
	b->pos = case_host(r, (size_t)b->T * sizeof *b->pos);
	for (int s = 0; s < b->n_seq; s++)
		for (int64_t t = b->start[s]; t < b->start[s + 1]; t++) b->pos[t] = b->past[s] + t - b->start[s];
	b->dev.T = b->T, b->dev.n_seq = b->n_seq, b->dev.one = b->T == b->n_seq;
	for (int s = 0; s < b->n_seq; s++) b->dev.one = b->dev.one && len[s] == 1;
	b->dev.start = case_in(r, b->start, (size_t)(b->n_seq + 1) * sizeof *b->start);
	b->dev.past = case_in(r, b->past, (size_t)b->n_seq * sizeof *b->past);
	b->dev.pos = case_in(r, b->pos, (size_t)b->T * sizeof *b->pos);
}

void case_state_rows(case_run *r, const case_spans *b, const float *k, const float *v, int64_t width,
                     float *keys[SPANS], float *values[SPANS]) {
	for (int s = 0; s < b->n_seq; s++) {
		int64_t T = b->start[s + 1] - b->start[s], all = (b->past[s] + T) * width, at = b->past[s] * width;
		keys[s] = case_normal(r, all), values[s] = case_normal(r, all);
		memcpy(keys[s] + at, k + b->start[s] * width, (size_t)(T * width) * sizeof *k);
		memcpy(values[s] + at, v + b->start[s] * width, (size_t)(T * width) * sizeof *v);
	}
}

uint32_t *case_state_bits(case_run *r, int64_t rows, const float *keys, const float *values, int dtype, int64_t cap,
                          int64_t width) {
	int64_t n = cap * width;
	size_t bytes = (size_t)(2 * n) * whit_dtype_size(dtype);
	uint8_t *p = case_host(r, (bytes + 3) / 4 * 4);
	memset(p, 0xff, bytes);
	for (int64_t i = 0; i < rows * width; i++) {
		if (dtype == WHIT_F16) {
			((uint16_t *)(void *)p)[i] = whit_f32_to_f16(keys[i]);
			((uint16_t *)(void *)p)[n + i] = whit_f32_to_f16(values[i]);
		} else {
			((float *)(void *)p)[i] = keys[i];
			((float *)(void *)p)[n + i] = values[i];
		}
	}
	return (uint32_t *)(void *)p;
}

void *const *case_states(case_run *r, const case_spans *b, const float *const *keys, const float *const *values,
                         int dtype, int64_t cap, int64_t width, int filled, void **block) {
	for (int s = 0; s < b->n_seq; s++) {
		int64_t rows = b->past[s] + (filled ? b->start[s + 1] - b->start[s] : 0);
		block[s] = case_in(r, case_state_bits(r, rows, keys[s], values[s], dtype, cap, width),
		                   (size_t)(2 * cap * width) * whit_dtype_size(dtype));
	}
	return case_in(r, block, (size_t)b->n_seq * sizeof *block);
}

void case_round(float *x, int64_t n, int dtype) {
	for (int64_t i = 0; dtype == WHIT_F16 && i < n; i++) x[i] = whit_f16_to_f32(whit_f32_to_f16(x[i]));
}

double case_prepared(float *y, float *mag, const float *x, const float *w, const case_spans *b, int64_t heads,
                     const whit_qkv *a) {
	int64_t n = b->T * heads * a->dim;
	memcpy(y, x, (size_t)n * sizeof *y);
	if (w) whit_rmsnorm_cpu(y, x, w, b->T, heads, a->dim, a->eps, a->shift);
	for (int64_t i = 0; i < n; i++) {
		int64_t at = i % a->dim, other = at < a->rot / 2 ? i + a->rot / 2 : i - a->rot / 2;
		mag[i] = fabsf(y[i]) + (at < a->rot ? fabsf(y[other]) : 0);
		mag[i] *= at < a->rot ? (float)a->mscale : 1;
	}
	whit_rope_cpu(y, y, b->pos, b->T, heads, a->dim, a->rot, a->inv_freq, a->mscale);
	/* case_rope.c's, and case_rmsnorm.c's with 32 lanes */
	return (1.6 + 4 + 2 + 3 + (w ? (double)a->dim / 32 / 2 + 5 + 8 : 0)) * 0x1p-24;
}

const uint32_t *case_state_check(case_run *r, const void *block, const uint32_t *exact, int kv, int64_t past, int64_t T,
                                 int64_t cap, int64_t width, const float *want, const float *mag, double tol) {
	int64_t words = (int64_t)((size_t)(2 * cap * width) * whit_dtype_size(kv) / 4);
	uint32_t *got = case_host(r, (size_t)words * sizeof *got);
	uint16_t *got16 = (uint16_t *)got, *exact16 = case_host(r, (size_t)words * sizeof *exact);
	whit_err e;
	whit_dev_get(r->dev, got, block, (size_t)words * sizeof *got);
	if (whit_dev_sync(r->dev, &e)) {
		case_fail(r, "%s", e.text);
		return NULL;
	}
	memcpy(exact16, exact, (size_t)words * sizeof *exact);
	for (int64_t i = 0; i < T * width; i++) { /* keys that pass are taken out of the exact comparison */
		int64_t at = past * width + i;
		float f = kv == WHIT_F16 ? whit_f16_to_f32(got16[at]) : ((float *)(void *)got)[at];
		double t = tol * mag[i] + (kv == WHIT_F16 ? 0x1p-11 * fabs((double)want[i]) + 0x1p-25 : 0);
		if (!(fabs((double)f - want[i]) <= t)) {
			case_fail(r, "key %lld of %lld is %.9g, need %.9g within %.3g", (long long)i,
			          (long long)(T * width), (double)f, (double)want[i], t);
			return NULL;
		}
		if (kv == WHIT_F16)
			exact16[at] = got16[at];
		else
			((uint32_t *)(void *)exact16)[at] = got[at];
	}
	case_bits(r, block, (uint32_t *)(void *)exact16, words);
	return got;
}

void case_attention_mag(float *mag, const float *q, const float *sizes, double off, const float *k, float *v, int64_t T,
                        int64_t past, int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window) {
	int64_t ld = kv_heads * dim;
	for (int64_t i = 0; i < (past + T) * ld; i++) v[i] = fabsf(v[i]);
	whit_attention_cpu(mag, q, k, v, T, past, heads, kv_heads, dim, scale, window);
	for (int64_t t = 0; t < T; t++)
		for (int64_t h = 0; h < heads; h++, sizes += dim, mag += dim) {
			double most = 0;
			for (int64_t j = 0; j <= past + t; j++) {
				double sum = 0;
				for (int64_t i = 0; i < dim; i++)
					sum += fabs((double)sizes[i] * k[j * ld + h / (heads / kv_heads) * dim + i]);
				most = fmax(most, sum * scale);
			}
			double lost = 2 * ((double)(dim + 10) + off) * most + 2.0 * (double)(past + T + 24);
			for (int64_t i = 0; i < dim; i++) mag[i] *= (float)lost;
		}
}
