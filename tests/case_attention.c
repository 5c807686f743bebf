/* attention: batches over rows and over caches, against the CPU's sequence by sequence */
#include <math.h>
#include "formats/tensor.h"
#include "tests/case_spans.h"

enum { ROWS = WHIT_F32 - 1000 }; /* no cache: keys and values are the rows */
static const struct {
	int64_t heads, kv_heads, dim, len[SPANS], past[SPANS], window, cap; /* cap: beyond the longest */
	int kv;
	float size; /* of the scores */
} rows[] = {
        /* few tokens a sequence: keys are split */
        {4, 1, 64, {1, -1}, {0}, 0, 500, WHIT_F32, 1}, /* parts without keys */
        {3, 1, 64, {1, -1}, {70}, 0, 200, WHIT_F32, 1},
        {8, 1, 128, {1, -1}, {150}, 0, 100, WHIT_F16, 1},
        {8, 2, 128, {1, -1}, {300}, 0, 0, WHIT_F32, 8},
        {2, 2, 64, {7, -1}, {60}, 0, 9, WHIT_F16, 1},
        {6, 2, 256, {1, 1, -1}, {9, 130}, 0, 40, WHIT_F32, 4},
        {2, 1, 256, {1, 1, -1}, {64, 63}, 50, 1, WHIT_F16, 1},
        {4, 2, 32, {8, -1}, {200}, 33, 300, WHIT_F16, 1},
        {8, 1, 32, {2, 0, 1, 9}, {3, 40, 127, 0}, 0, 5, WHIT_F32, 1},
        {4, 4, 128, {0, 7, 1, 8}, {5, 0, 200, 57}, 64, 3, WHIT_F16, 1},
        {2, 1, 64, {1, 7, -1}, {0, 0}, 0, 0, ROWS, 1},
        {16, 2, 32, {1, -1}, {2000}, 0, 60, WHIT_F32, 1}, /* parts longer than one round */
        /* widths and groups that the fast kernels leave, or only tiles have */
        {1, 1, 7, {1, 3, -1}, {5, 0}, 0, 2, WHIT_F16, 1},
        {4, 4, 80, {7, -1}, {60}, 0, 9, WHIT_F16, 1},
        {4, 1, 16, {1, -1}, {0}, 0, 3, WHIT_F32, 1},
        {12, 1, 16, {2, 0, 1, 9}, {3, 40, 127, 0}, 0, 5, WHIT_F32, 1},
        {10, 1, 32, {1, -1}, {20}, 0, 5, WHIT_F32, 1},
        {1, 1, 300, {9, -1}, {2}, 0, 2, WHIT_F32, 1},
        {3, 1, 80, {33, 9, -1}, {0, 0}, 0, 0, ROWS, 1},
        /* many: tiles */
        {2, 2, 16, {9, -1}, {0}, 0, 0, ROWS, 1},
        {4, 1, 64, {33, -1}, {0}, 0, 0, ROWS, 8},
        {8, 1, 128, {33, -1}, {50}, 0, 20, WHIT_F32, 1},
        {3, 1, 128, {1, 33, 0, 9}, {100, 3, 0, 65}, 0, 7, WHIT_F16, 1},
        {2, 1, 64, {70, -1}, {0}, 20, 0, WHIT_F16, 1}, /* rows that see nothing of their tile's first keys */
        {2, 1, 256, {33, -1}, {40}, 20, 0, WHIT_F16, 4},
        {3, 1, 256, {9, 33, -1}, {0, 0}, 0, 0, ROWS, 1},
        {4, 1, 16, {70, 0, 65, -1}, {70, 9, 0}, 45, 9, WHIT_F32, 1},
        {1, 1, 16, {0, 0, -1}, {2, 0}, 0, 2, WHIT_F32, 1},
        /* of a model */
        {32, 8, 128, {1, -1}, {127}, 0, 4096, WHIT_F32, 1},
        {32, 8, 128, {1, -1}, {4095}, 0, 4096, WHIT_F16, 1},
        {32, 8, 128, {1, 1, 1, 1}, {4095, 2000, 77, 900}, 0, 4096, WHIT_F32, 1},
        {16, 8, 128, {512, -1}, {0}, 0, 0, ROWS, 1},
        {28, 4, 128, {300, 211, -1}, {100, 0}, 0, 512, WHIT_F16, 1},
};

static float *normal(case_run *r, int64_t n, float size) {
	float *x = case_normal(r, n);
	for (int64_t i = 0; i < n; i++) x[i] *= size;
	return x;
}

static void row(case_run *r, int i) {
	int64_t heads = rows[i].heads, kv_heads = rows[i].kv_heads, dim = rows[i].dim, window = rows[i].window;
	int64_t width = kv_heads * dim;
	int kv = rows[i].kv == ROWS ? WHIT_F32 : rows[i].kv;
	float scale = 1 / sqrtf((float)dim);
	case_spans b;
	case_spans_make(r, &b, rows[i].len, rows[i].past);
	if (case_skip_big(r, b.T * b.most * heads * dim > 3000000)) return;
	case_label(r, "%lld/%lld x %lld, %d sequences, %lld tokens, %lld keys, window %lld, %s", (long long)heads,
	           (long long)kv_heads, (long long)dim, b.n_seq, (long long)b.T, (long long)b.most, (long long)window,
	           rows[i].kv == ROWS ? "rows" : whit_dtype_name(kv));
	int64_t n = b.T * heads * dim;
	float *q = normal(r, n, rows[i].size), *want = case_host(r, (size_t)n * sizeof *want),
	      *mag = case_host(r, (size_t)n * sizeof *mag), *keys[SPANS], *values[SPANS];
	float *k = case_host(r, (size_t)(b.T * width) * sizeof *k),
	      *v = case_host(r, (size_t)(b.T * width) * sizeof *v);
	for (int s = 0; s < b.n_seq; s++) {
		int64_t T = b.start[s + 1] - b.start[s], all = (b.past[s] + T) * width, at = b.start[s] * heads * dim;
		keys[s] = normal(r, all, rows[i].size), values[s] = case_normal(r, all);
		float *sizes = case_host(r, (size_t)all * sizeof *sizes);
		case_round(keys[s], all, kv), case_round(values[s], all, kv);
		memcpy(k + b.start[s] * width, keys[s] + b.past[s] * width, (size_t)(T * width) * sizeof *k);
		memcpy(v + b.start[s] * width, values[s] + b.past[s] * width, (size_t)(T * width) * sizeof *v);
		whit_attention_cpu(want + at, q + at, keys[s], values[s], T, b.past[s], heads, kv_heads, dim, scale,
		                   window);
		memcpy(sizes, values[s], (size_t)all * sizeof *sizes);
		case_attention_mag(mag + at, q + at, q + at, 0, keys[s], sizes, T, b.past[s], heads, kv_heads, dim,
		                   scale, window);
	}
	double tol = 0x1p-24;
	float *dq = case_in(r, q, (size_t)n * sizeof *q), *y = case_out(r, n);
	if (r->dev) {
		void *block[SPANS];
		void *const *cache = NULL;
		float *dk = NULL, *dv = NULL;
		if (rows[i].kv == ROWS) {
			dk = case_in(r, k, (size_t)(b.T * width) * sizeof *k);
			dv = case_in(r, v, (size_t)(b.T * width) * sizeof *v);
		} else {
			cache = case_states(r, &b, (const float *const *)keys, (const float *const *)values, kv,
			                    b.most + rows[i].cap, width, 1, block);
		}
		for (int plain = 0; plain < 2; plain++) {
			float *to = plain ? case_out(r, n) : y;
			int was = whit_dev_plain(r->dev, plain);
			whit_attention_cuda(r->dev, to, dq, dk, dv, cache, kv, b.most + rows[i].cap, &b.dev, heads,
			                    kv_heads, dim, scale, window);
			whit_dev_plain(r->dev, was);
			case_near(r, to, want, mag, n, tol);
			whit_dev_reset(r->dev);
		}
		return;
	}
	for (int s = 0; s < b.n_seq; s++) {
		int64_t T = b.start[s + 1] - b.start[s], all = (b.past[s] + T) * width, at = b.start[s] * heads * dim;
		const float *ks = case_in(r, keys[s], (size_t)all * sizeof *ks),
		            *vs = case_in(r, values[s], (size_t)all * sizeof *vs);
		whit_attention_fast_cpu(y + at, dq + at, ks, vs, T, b.past[s], heads, kv_heads, dim, scale, window,
		                        &r->host);
	}
	case_near(r, y, want, mag, n, tol);
}

const case_set cases_attention = {"attention", WHIT_COUNT(rows), row, 3};
