/* low: a low-rank branch beside matrices: what they give without it, and scale B (A x) of the plain op. */
#include "host/ops.h"
#include "tests/case_mat.h"
#include <math.h>

static const struct {
	const char *format[3];
	int64_t rows, width, T, rank[3];
	int pre, off; /* of A, in numbers */
} rows[] = {
        /* in the kernels of packed matrices: one, three with and without, the most columns */
        {{"int4g128"}, 37, 256, 1, {32}, WHIT_PRE_NONE, 0},
        {{"tq2g128"}, 50, 384, 2, {8}, WHIT_PRE_NORM, 0},
        {{"q4_k", "q4_k", "q4_k"}, 20, 512, 1, {16, 0, 40}, WHIT_PRE_NORM, 0},
        {{"int4g32", "int8g128", "int4g32"}, 21, 256, 3, {8, 24, 0}, WHIT_PRE_SWIGLU, 0},
        {{"tq1g128", "tq1g128"}, 16, 128, 8, {0, 128}, WHIT_PRE_NONE, 0},
        {{"tq4g128"}, 19, 128, 32, {8}, WHIT_PRE_NONE, 0},
        {{"int3g128"}, 40, 128, 17, {64}, WHIT_PRE_NONE, 0},
        /* in kernels of their own: ranks and places that do not suit those, other formats, more tokens */
        {{"int4g128"}, 9, 256, 1, {5}, WHIT_PRE_NORM, 0},
        {{"int4g128"}, 9, 256, 4, {8}, WHIT_PRE_NONE, 1},
        {{"bf16", "q3_k"}, 12, 256, 2, {16, 3}, WHIT_PRE_SWIGLU, 0},
        {{"bf16"}, 12, 100, 9, {7}, WHIT_PRE_NONE, 0},
        {{"int4g128"}, 33, 128, 40, {16}, WHIT_PRE_NONE, 0},
        {{"f32"}, 7, 33, 1, {1}, WHIT_PRE_NONE, 0},
        {{"int4g128"}, 4, 256, 1, {0}, WHIT_PRE_NONE, 0}};

/* n random F16, and their sizes. */
static uint16_t *halves(case_run *r, int64_t n, uint16_t **sizes) {
	float *x = case_normal(r, n + 1);
	uint16_t *h = case_host(r, (size_t)(n + 1) * sizeof *h);
	*sizes = case_host(r, (size_t)(n + 1) * sizeof **sizes);
	for (int64_t i = 0; i < n; i++) h[i] = whit_f32_to_f16(x[i]), (*sizes)[i] = h[i] & 0x7fff;
	return h;
}

static float *prepared(case_run *r, const float *x, const float *x2, const float *norm, int64_t T, int64_t K, int pre) {
	float *y = case_host(r, (size_t)(T * K) * sizeof *y);
	if (pre == WHIT_PRE_NORM)
		whit_rmsnorm_cpu(y, x, norm, T, 1, K, 1e-6f, 0);
	else if (pre == WHIT_PRE_SWIGLU)
		whit_swiglu_cpu(y, x, x2, T * K);
	else
		memcpy(y, x, (size_t)(T * K) * sizeof *y);
	return y;
}

static void multiply(case_run *r, whit_gemv *g, int64_t T) {
	if (T <= WHIT_GEMV_MAX)
		whit_gemv_cuda(r->dev, g, T);
	else
		whit_linear_low_cuda(r->dev, g->y[0], g->x, T, g->w[0], g->low[0], NULL);
}

/* What g gives now, against `base` and the branches. */
static void compare(case_run *r, whit_gemv *g, const float *const base[3], const whit_low host[3],
                    const whit_low sizes[3], const float *px, const float *ax, int64_t T, int64_t N, int64_t K) {
	for (int k = 0; k < g->n; k++) g->y[k] = case_out(r, T * N);
	multiply(r, g, T);
	for (int k = 0; k < g->n; k++) {
		size_t bytes = (size_t)(T * N) * sizeof(float);
		float *want = case_host(r, bytes), *mag = case_host(r, bytes);
		memcpy(want, base[k], bytes);
		memset(mag, 0, bytes);
		whit_low_cpu(want, px, T, N, K, &host[k]);
		whit_low_cpu(mag, ax, T, N, K, &sizes[k]);
		for (int64_t i = 0; i < T * N; i++) mag[i] += fabsf(base[k][i]);
		/* pre(x): some 20 roundings; A x, B: K and rank additions, in eight lanes and more */
		case_near(r, g->y[k], want, mag, T * N, (20 + (double)K / 8 + (double)host[k].rank) * 0x1p-23);
	}
}

static void row(case_run *r, int i) {
	int64_t N = rows[i].rows, K = rows[i].width, T = rows[i].T;
	if (case_skip(r, !r->dev)) return;
	case_label(r, "%s %lld x %lld, %lld tokens, rank %lld", rows[i].format[0], (long long)N, (long long)K,
	           (long long)T, (long long)rows[i].rank[0]);
	float *x = case_normal(r, T * K), *x2 = case_normal(r, T * K), *norm = case_normal(r, K);
	size_t bytes = (size_t)(T * K) * sizeof *x;
	float *px = prepared(r, x, x2, norm, T, K, rows[i].pre), *ax = case_host(r, bytes);
	for (int64_t k = 0; k < T * K; k++) ax[k] = fabsf(px[k]);
	whit_gemv g = {.x = case_in(r, x, bytes), .x2 = case_in(r, x2, bytes), .pre = rows[i].pre, .eps = 1e-6f};
	g.norm = case_in(r, norm, (size_t)K * sizeof *norm);
	whit_mat at[3];
	whit_low host[3], sizes[3], dev[3];
	const float *base[3];
	for (; g.n < 3 && rows[i].format[g.n]; g.n++) {
		int k = g.n;
		int64_t rank = rows[i].rank[k], off = rows[i].off;
		at[k] = case_mat(r, rows[i].format[k], N, K, 1);
		at[k] = case_mat_in(r, &at[k]);
		g.w[k] = at + k;
		uint16_t *a, *b, *a_size, *b_size;
		a = halves(r, rank * K, &a_size), b = halves(r, N * rank, &b_size);
		host[k] = (whit_low){a, b, rank, 0.75f}, sizes[k] = (whit_low){a_size, b_size, rank, 0.75f};
		uint16_t *moved = case_host(r, (size_t)(rank * K + off + 1) * sizeof *moved);
		memcpy(moved + off, a, (size_t)(rank * K) * sizeof *moved);
		dev[k] = host[k];
		dev[k].a = (uint16_t *)case_in(r, moved, (size_t)(rank * K + off) * sizeof *moved) + off;
		dev[k].b = case_in(r, b, (size_t)(N * rank) * sizeof *b);
	}
	for (int plain = 0; plain < 2; plain++) {
		whit_dev_plain(r->dev, plain);
		for (int k = 0; k < g.n; k++) g.low[k] = NULL, g.y[k] = case_out(r, T * N);
		multiply(r, &g, T);
		for (int k = 0; k < g.n; k++) {
			float *y = case_host(r, (size_t)(T * N) * sizeof *y);
			whit_dev_get(r->dev, y, g.y[k], (size_t)(T * N) * sizeof *y);
			base[k] = y;
			g.low[k] = rows[i].rank[k] || k == 0 ? &dev[k] : NULL; /* rank 0 is a branch, too */
		}
		whit_err e;
		if (whit_dev_sync(r->dev, &e)) case_fail(r, "%s", e.text);
		compare(r, &g, base, host, sizes, px, ax, T, N, K);
	}
	whit_dev_plain(r->dev, 0);
	whit_dev_reset(r->dev);
}

const case_set cases_low = {"low", WHIT_COUNT(rows), row, 0};
