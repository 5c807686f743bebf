/* attend: one token a sequence, from projections to attention in one kernel: against the CPU's twins one after the
 * other, and to the bit against the kernels that it replaces; and what it leaves to them */
#include <math.h>
#include "formats/tensor.h"
#include "tests/case_spans.h"

static const struct {
	int64_t heads, kv_heads, dim, rot, len[SPANS], past[SPANS], window, cap; /* cap: beyond the longest */
	int kv, norm;
	float shift;
	double mscale;
} rows[] = {
        /* parts of 16 keys, more than have any */
        {1, 1, 32, 32, {1, -1}, {0}, 0, 20, WHIT_F32, 1, 0, 1},
        {1, 1, 64, 64, {1, -1}, {15}, 0, 500, WHIT_F16, 1, 0, 1},
        {2, 1, 64, 32, {1, -1}, {16}, 0, 90, WHIT_F32, 1, 0, 1}, /* the newest key alone */
        {2, 1, 128, 128, {1, -1}, {17}, 0, 90, WHIT_F16, 1, 0, 1.25},
        {4, 1, 128, 128, {1, -1}, {63}, 0, 60, WHIT_F32, 1, 0, 1},
        {8, 1, 128, 128, {1, -1}, {64}, 0, 60, WHIT_F16, 0, 0, 1},
        {2, 1, 64, 64, {1, -1}, {50}, 1, 70, WHIT_F32, 1, 0, 1}, /* sees itself only */
        {16, 2, 256, 256, {1, -1}, {100}, 16, 0, WHIT_F16, 1, 0, 1},
        {6, 2, 64, 64, {1, 1, -1}, {17, 130}, 40, 3, WHIT_F16, 1, 0, 1}, /* a group between two kernels */
        /* longer ones, whose last keys are not near */
        {4, 1, 32, 32, {1, -1}, {800}, 0, 0, WHIT_F32, 1, 0, 1},
        {1, 1, 256, 64, {1, -1}, {800}, 0, 9, WHIT_F32, 1, 1, 1},
        {8, 2, 128, 128, {1, 1, -1}, {800, 0}, 0, 1, WHIT_F32, 1, 1, 1},
        {5, 1, 256, 256, {1, -1}, {800}, 0, 700, WHIT_F16, 1, 0, 1},
        {4, 2, 256, 64, {1, 1, 1, -1}, {15, 16, 63}, 0, 0, WHIT_F32, 0, 0, 1},
        {3, 1, 64, 64, {1, 1, 1, 1}, {64, 800, 17, 0}, 0, 0, WHIT_F16, 1, 0, 1},
        /* one part */
        {2, 2, 32, 0, {1, 1, 1, 1}, {0, 15, 800, 64}, 0, 0, WHIT_F16, 0, 0, 1},
        {8, 8, 64, 64, {1, -1}, {33}, 7, 0, WHIT_F32, 1, 0, 1},
        {16, 8, 64, 64, {1, 1, -1}, {16, 63}, 0, 9, WHIT_F16, 1, 0, 1},
        {4, 2, 128, 128, {1, -1}, {0}, 0, 0, WHIT_F32, 1, 0, 1},
        /* for others: as many tokens as sequences, but not one each; widths and groups */
        {4, 2, 64, 64, {0, 2, -1}, {3, 20}, 0, 90, WHIT_F16, 1, 0, 1},
        {2, 1, 32, 32, {2, 0, 1, 1}, {16, 2, 63, 0}, 0, 2, WHIT_F32, 1, 0, 1},
        {2, 1, 80, 80, {1, -1}, {20}, 0, 5, WHIT_F32, 1, 0, 1},
        {10, 1, 32, 32, {1, -1}, {20}, 0, 5, WHIT_F16, 1, 0, 1},
        {2, 1, 512, 512, {1, -1}, {20}, 0, 5, WHIT_F32, 1, 0, 1},
        /* of a model */
        {16, 8, 128, 128, {1, -1}, {180}, 0, 11, WHIT_F16, 1, 0, 1},
        {32, 8, 128, 128, {1, -1}, {4000}, 0, 95, WHIT_F32, 1, 0, 1},
        {32, 8, 128, 128, {1, 1, 1, 1}, {4000, 2000, 77, 900}, 0, 95, WHIT_F16, 1, 0, 1},
};

/* The sequence's keys or values as floats: earlier rows as they are, rounded; the new ones as the state holds them. */
static void take_new(float *x, const uint32_t *state, int64_t first, int64_t from, int64_t n, int kv) {
	for (int64_t i = 0; i < n; i++) {
		const uint16_t *half = (const uint16_t *)state;
		const float *full = (const float *)(const void *)state;
		x[from + i] = kv == WHIT_F16 ? whit_f16_to_f32(half[first + from + i]) : full[first + from + i];
	}
}

/* The caches a of the batch hold what they shall, and the keys that keys then have are theirs. */
static int states_check(case_run *r, const case_spans *b, void *const *block, float *const *keys, float *const *values,
                        int kv, int64_t cap, int64_t width, const float *want_k, const float *mag_k, double tol) {
	for (int s = 0; s < b->n_seq; s++) {
		int64_t past = b->past[s], T = b->start[s + 1] - b->start[s], at = b->start[s] * width;
		const uint32_t *got =
		        case_state_check(r, block[s], case_state_bits(r, past + T, keys[s], values[s], kv, cap, width),
		                         kv, past, T, cap, width, want_k + at, mag_k + at, tol);
		if (!got) return -1;
		case_round(keys[s], past * width, kv), case_round(values[s], (past + T) * width, kv);
		take_new(keys[s], got, 0, past * width, T * width, kv);
	}
	return 0;
}

/* What attention is to give for queries q, of which twins' are off by tol times mag_q. */
static void wanted(case_run *r, const case_spans *b, float *want, float *mag, const float *q, const float *mag_q,
                   double tol, float *const *keys, float *const *values, const whit_qkv *a, float scale,
                   int64_t window) {
	for (int s = 0; s < b->n_seq; s++) {
		int64_t past = b->past[s], T = b->start[s + 1] - b->start[s], at = b->start[s] * a->heads * a->dim;
		size_t bytes = (size_t)((past + T) * a->kv_heads * a->dim) * sizeof(float);
		float *sizes = memcpy(case_host(r, bytes), values[s], bytes);
		whit_attention_cpu(want + at, q + at, keys[s], values[s], T, past, a->heads, a->kv_heads, a->dim, scale,
		                   window);
		case_attention_mag(mag + at, q + at, mag_q + at, tol * 0x1p24, keys[s], sizes, T, past, a->heads,
		                   a->kv_heads, a->dim, scale, window);
	}
}

/* Three outputs and two sets of caches: the kernel, the kernel again, those that it replaces. */
static void row(case_run *r, int i) {
	int64_t heads = rows[i].heads, kv_heads = rows[i].kv_heads, dim = rows[i].dim, rot = rows[i].rot;
	int64_t width = kv_heads * dim, window = rows[i].window;
	int kv = rows[i].kv;
	float scale = 1 / sqrtf((float)dim);
	case_spans b;
	if (case_skip(r, !r->dev)) return;
	case_spans_make(r, &b, rows[i].len, rows[i].past);
	if (case_skip_big(r, b.T * b.most * heads * dim > 3000000)) return;
	case_label(r, "%lld/%lld x %lld, %lld rotated, %d sequences, %lld keys, window %lld, %s", (long long)heads,
	           (long long)kv_heads, (long long)dim, (long long)rot, b.n_seq, (long long)b.most, (long long)window,
	           whit_dtype_name(kv));
	int64_t n = b.T * heads * dim, m = b.T * width, cap = b.most + rows[i].cap;
	float *q = case_normal(r, n), *k = case_normal(r, m), *v = case_normal(r, m);
	float *qw = case_normal(r, dim), *kw = case_normal(r, dim);
	double *freq = case_host(r, (size_t)(rot / 2 + 1) * sizeof *freq);
	for (int64_t j = 0; j < rot / 2; j++) freq[j] = pow(10000, -2.0 * (double)j / (double)rot);
	/* on the host first, for the reference */
	whit_qkv a = {.eps = 1e-6f, .shift = rows[i].shift, .mscale = (float)rows[i].mscale, .heads = heads};
	a.kv_heads = kv_heads, a.dim = dim, a.rot = rot, a.inv_freq = freq;
	if (rows[i].norm) a.q_norm = qw, a.k_norm = kw;
	size_t bytes = (size_t)n * sizeof(float);
	float *want_q = case_host(r, bytes), *mag_q = case_host(r, bytes);
	float *want_k = case_host(r, bytes), *mag_k = case_host(r, bytes);
	float *want = case_host(r, bytes), *mag = case_host(r, bytes), *first = case_host(r, bytes);
	double tol = case_prepared(want_q, mag_q, q, a.q_norm, &b, heads, &a);
	case_prepared(want_k, mag_k, k, a.k_norm, &b, kv_heads, &a);
	a.q = case_in(r, q, bytes), a.k = case_in(r, k, (size_t)m * sizeof *k),
	a.v = case_in(r, v, (size_t)m * sizeof *v);
	a.inv_freq = case_in(r, freq, (size_t)(rot / 2) * sizeof *freq);
	if (rows[i].norm) {
		a.q_norm = case_in(r, qw, (size_t)dim * sizeof *qw);
		a.k_norm = case_in(r, kw, (size_t)dim * sizeof *kw);
	}
	float *keys[SPANS], *values[SPANS];
	case_state_rows(r, &b, want_k, v, width, keys, values);
	void *block[2][SPANS];
	void *const *cache[2];
	for (int c = 0; c < 2; c++)
		cache[c] = case_states(r, &b, (const float *const *)keys, (const float *const *)values, kv, cap, width,
		                       0, block[c]);
	float *y[3];
	a.q_out = case_out(r, n);
	for (int c = 0; c < 3; c++) {
		y[c] = case_out(r, n);
		if (c < 2) {
			whit_attend_cuda(r->dev, &a, cache[0], kv, cap, &b.dev, y[c], scale, window);
		} else {
			whit_qkv_cuda(r->dev, &a, cache[1], kv, cap, &b.dev);
			whit_attention_cuda(r->dev, y[c], a.q_out, NULL, a.v, cache[1], kv, cap, &b.dev, heads,
			                    kv_heads, dim, scale, window);
		}
		whit_dev_reset(r->dev);
	}
	for (int c = 1; c >= 0; c--) /* the kernel's keys last: they are what it has multiplied */
		if (states_check(r, &b, block[c], keys, values, kv, cap, width, want_k, mag_k, tol)) return;
	wanted(r, &b, want, mag, want_q, mag_q, tol, keys, values, &a, scale, window);
	case_near(r, y[0], want, mag, n, 0x1p-24);
	whit_dev_get(r->dev, first, y[0], bytes); /* case_same waits */
	case_same(r, y[1], first, n);
	case_same(r, y[2], first, n);
}

const case_set cases_attend = {"attend", WHIT_COUNT(rows), row, 0};
