/* qkv: norm, rope and cache of queries, keys and values, and the cache alone */
#include <math.h>
#include "formats/tensor.h"
#include "tests/case_spans.h"

static const struct {
	int64_t heads, kv_heads, dim, rot, len[SPANS], past[SPANS], cap;
	int kv, norm; /* kv -1: no cache */
	float shift;
	double mscale;
} rows[] = {
        {1, 1, 2, 2, {1, -1}, {0}, 0, -1, 0, 0, 1},
        {4, 2, 64, 64, {1, -1}, {7}, 3, WHIT_F32, 1, 0, 1},
        {4, 1, 128, 128, {1, 0, 1, 2}, {800, 2, 0, 41}, 5, WHIT_F16, 1, 0, 1.25},
        {3, 3, 80, 80, {7, -1}, {0}, 0, WHIT_F16, 0, 0, 1},
        {6, 2, 256, 64, {8, 1, -1}, {3, 100}, 1, WHIT_F32, 1, 1, 1},
        {12, 2, 128, 128, {9, 66, -1}, {0, 0}, 0, -1, 1, 0, 1},
        {2, 2, 16, 0, {65, -1}, {2}, 2, WHIT_F16, 1, 0, 1},
        {2, 1, 66, 32, {33, -1}, {1000}, 2, WHIT_F32, 0, 0, 1},
        {2, 1, 7, 4, {3, 2, -1}, {2, 0}, 2, WHIT_F32, 1, 0, 1},
        {1, 1, 300, 300, {3, -1}, {2}, 2, WHIT_F32, 1, 0, 1},
        {2, 1, 16, 16, {0, -1}, {2}, 2, WHIT_F32, 1, 0, 1},
        {32, 8, 128, 128, {1, 1, -1}, {4000, 2}, 96, WHIT_F16, 1, 0, 1},
        {32, 8, 128, 128, {512, -1}, {0}, 0, WHIT_F32, 1, 0, 1},
};

/* The states hold past rows as they were, new rows near want, NaN beyond: read through put's own bits, below. */
static void put_case(case_run *r, const case_spans *b, int kv, int64_t cap, int64_t width, const float *k,
                     const float *v) {
	float *keys[SPANS], *values[SPANS];
	void *block[SPANS];
	case_state_rows(r, b, k, v, width, keys, values);
	void *const *cache =
	        case_states(r, b, (const float *const *)keys, (const float *const *)values, kv, cap, width, 0, block);
	float *dk = case_in(r, k, (size_t)(b->T * width) * sizeof *k),
	      *dv = case_in(r, v, (size_t)(b->T * width) * sizeof *v);
	whit_attention_put_cuda(r->dev, cache, kv, cap, dk, dv, &b->dev, width);
	for (int s = 0; s < b->n_seq; s++) {
		int64_t rows = b->past[s] + b->start[s + 1] - b->start[s];
		case_bits(r, block[s], case_state_bits(r, rows, keys[s], values[s], kv, cap, width),
		          (int64_t)((size_t)(2 * cap * width) * whit_dtype_size(kv) / 4));
	}
}

static void row(case_run *r, int i) {
	int64_t heads = rows[i].heads, kv_heads = rows[i].kv_heads, dim = rows[i].dim, rot = rows[i].rot;
	int64_t width = kv_heads * dim;
	int kv = rows[i].kv < 0 ? WHIT_F32 : rows[i].kv;
	case_spans b;
	if (case_skip(r, !r->dev)) return;
	case_spans_make(r, &b, rows[i].len, rows[i].past);
	if (case_skip_big(r, (b.T + b.most) * (heads + 2 * kv_heads) * dim > 2000000)) return;
	case_label(r, "%lld/%lld x %lld, %lld rotated, %lld tokens, %s", (long long)heads, (long long)kv_heads,
	           (long long)dim, (long long)rot, (long long)b.T, rows[i].kv < 0 ? "rows" : whit_dtype_name(kv));
	int64_t n = b.T * heads * dim, m = b.T * width, cap = b.most + rows[i].cap;
	float *q = case_normal(r, n), *k = case_normal(r, m), *v = case_normal(r, m);
	float *qw = case_normal(r, dim), *kw = case_normal(r, dim);
	double *freq = case_host(r, (size_t)(rot / 2 + 1) * sizeof *freq);
	for (int64_t j = 0; j < rot / 2; j++) freq[j] = pow(10000, -2.0 * (double)j / (double)rot);
	/* on the host first, for the reference */
	whit_qkv a = {.eps = 1e-6f, .shift = rows[i].shift, .mscale = (float)rows[i].mscale, .heads = heads};
	a.kv_heads = kv_heads, a.dim = dim, a.rot = rot, a.inv_freq = freq;
	if (rows[i].norm) a.q_norm = qw, a.k_norm = kw;
	float *want = case_host(r, (size_t)n * sizeof *want), *mag = case_host(r, (size_t)n * sizeof *mag);
	float *want_k = case_host(r, (size_t)m * sizeof *want), *mag_k = case_host(r, (size_t)m * sizeof *mag);
	double tol = case_prepared(want, mag, q, a.q_norm, &b, heads, &a);
	case_prepared(want_k, mag_k, k, a.k_norm, &b, kv_heads, &a);
	a.q = case_in(r, q, (size_t)n * sizeof *q), a.k = case_in(r, k, (size_t)m * sizeof *k);
	if (rows[i].kv >= 0) a.v = case_in(r, v, (size_t)m * sizeof *v);
	a.inv_freq = case_in(r, freq, (size_t)(rot / 2) * sizeof *freq);
	if (rows[i].norm) {
		a.q_norm = case_in(r, qw, (size_t)dim * sizeof *qw);
		a.k_norm = case_in(r, kw, (size_t)dim * sizeof *kw);
	}
	float *keys[SPANS], *values[SPANS];
	case_state_rows(r, &b, want_k, v, width, keys, values);
	void *block[SPANS];
	void *const *cache = NULL;
	a.q_out = case_out(r, n);
	if (rows[i].kv < 0)
		a.k_out = case_out(r, m);
	else
		cache = case_states(r, &b, (const float *const *)keys, (const float *const *)values, kv, cap, width, 0,
		                    block);
	whit_qkv_cuda(r->dev, &a, cache, kv, cap, &b.dev);
	case_near(r, a.q_out, want, mag, n, tol);
	if (a.k_out) case_near(r, a.k_out, want_k, mag_k, m, tol);
	for (int s = 0; !a.k_out && s < b.n_seq; s++) {
		int64_t T = b.start[s + 1] - b.start[s], at = b.start[s] * width;
		case_state_check(r, block[s], case_state_bits(r, b.past[s] + T, keys[s], values[s], kv, cap, width), kv,
		                 b.past[s], T, cap, width, want_k + at, mag_k + at, tol);
	}
	if (rows[i].kv >= 0) put_case(r, &b, kv, cap, width, k, v);
}

const case_set cases_qkv = {"qkv", WHIT_COUNT(rows), row, 0};
