#include "tests/case_spans.h"
#include "formats/tensor.h"

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
	b->dev.T = b->T, b->dev.n_seq = b->n_seq;
	b->dev.start = case_in(r, b->start, (size_t)(b->n_seq + 1) * sizeof *b->start);
	b->dev.past = case_in(r, b->past, (size_t)b->n_seq * sizeof *b->past);
	b->dev.pos = case_in(r, b->pos, (size_t)b->T * sizeof *b->pos);
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
