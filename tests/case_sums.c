/* sums: what statistics are made of. On a device the CPU's bits; the CPU against plain loops. */
#include "host/ops.h"
#include "tests/case.h"
#include <math.h>

static const struct {
	int64_t T, cols;
	int weighted;
} rows[] = {{1, 1, 0}, {5, 3, 1},     {33, 64, 0},   {7, 200, 1},    {64, 97, 1},
            {0, 8, 0}, {300, 130, 0}, {65, 1100, 1}, {129, 1025, 0}, {2048, 5120, 1}};

/* n doubles that begin as init and are then added to, on the target. */
static double *doubles(case_run *r, const double *init, int64_t n) {
	return (double *)(void *)case_inout(r, (const float *)(const void *)init, 2 * n);
}

static void same_doubles(case_run *r, const double *out, const double *want, int64_t n) {
	case_bits(r, out, (const uint32_t *)(const void *)want, 2 * n);
}

static double *filled(case_run *r, int64_t n, double v) {
	double *p = case_host(r, (size_t)n * sizeof *p);
	for (int64_t i = 0; i < n; i++) p[i] = v * (double)(i % 7 + 1);
	return p;
}

/* Sums of up to n positive terms in another order: n + 2 roundings of 2^-53. */
static void near(case_run *r, const char *what, double got, double want, int64_t n) {
	double tol = (double)(n + 2) * 0x1p-53 * fabs(want) + 1e-300;
	if (!(fabs(got - want) <= tol)) case_fail(r, "%s is %.17g, need %.17g", what, got, want);
}

/* The CPU's sums, which a device's are compared with, against a loop over one row and one column. */
static void check_cpu(case_run *r, const float *x, const double *w, const double *sq, const double *n, int64_t T,
                      int64_t cols, double start) {
	int64_t c = cols / 2, t = T / 2;
	double col = start * (double)(c % 7 + 1), row = 0;
	for (int64_t i = 0; i < T; i++) col += (w ? w[i] : 1) * x[i * cols + c] * x[i * cols + c];
	for (int64_t i = 0; i < cols && T; i++) row += (double)x[t * cols + i] * x[t * cols + i];
	near(r, "a column's sum", sq[c], col, 2 * T);
	if (T) near(r, "a row's sum", n[t], row, cols);
}

static void row(case_run *r, int i) {
	int64_t T = rows[i].T, cols = rows[i].cols, n = T * cols;
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "%lld x %lld%s", (long long)T, (long long)cols, rows[i].weighted ? ", weighted" : "");
	float *x = case_normal(r, n), *scaled = case_host(r, (size_t)n * sizeof *x), *squared = case_normal(r, n),
	      *full = case_host(r, (size_t)n * sizeof *x);
	double *w = rows[i].weighted ? filled(r, T, 0.3) : NULL, *sum = filled(r, cols, 0.5),
	       *sq = filled(r, cols, 0.25), *norm = filled(r, T, 0), *row_sum = filled(r, T, 2),
	       *col_sum = filled(r, cols, 3);
	double *d_sum = doubles(r, sum, cols), *d_sq = doubles(r, sq, cols), *d_norm = doubles(r, norm, T),
	       *d_row = doubles(r, row_sum, T), *d_col = doubles(r, col_sum, cols);
	const double *d_w = w ? case_in(r, w, (size_t)T * sizeof *w) : NULL;
	const float *d_x = case_in(r, x, (size_t)n * sizeof *x);
	float *d_full = case_inout(r, squared, n), *d_scaled = case_out(r, n), *d_square = case_out(r, n);
	memcpy(full, squared, (size_t)n * sizeof *full);
	whit_column_sums_cpu(sum, sq, x, w, T, cols);
	whit_row_squares_cpu(norm, x, T, cols, cols);
	check_cpu(r, x, w, sq, norm, T, cols, 0.25);
	whit_square_sums_cpu(full, row_sum, col_sum, x, T, cols);
	for (int64_t k = 0; k < n; k++) {
		if (!(full[k] == squared[k] + x[k] * x[k]))
			case_fail(r, "square %lld is %g", (long long)k, (double)full[k]);
		scaled[k] = w ? (float)(x[k] * w[k / cols]) : x[k] * x[k];
	}
	if (r->dev) {
		whit_column_sums_cuda(r->dev, d_sum, d_sq, d_x, d_w, T, cols);
		whit_row_squares_cuda(r->dev, d_norm, d_x, T, cols, cols);
		whit_square_sums_cuda(r->dev, d_full, d_row, d_col, d_x, T, cols);
		whit_rows_scale_cuda(r->dev, d_scaled, d_x, d_w, T, cols);
		whit_rows_scale_cuda(r->dev, d_square, d_x, NULL, T, cols);
	} else {
		whit_column_sums_cpu(d_sum, d_sq, d_x, d_w, T, cols);
		whit_row_squares_cpu(d_norm, d_x, T, cols, cols);
		whit_square_sums_cpu(d_full, d_row, d_col, d_x, T, cols);
		whit_rows_scale_cpu(d_scaled, d_x, d_w, T, cols);
		whit_rows_scale_cpu(d_square, d_x, NULL, T, cols);
	}
	same_doubles(r, d_sum, sum, cols);
	same_doubles(r, d_sq, sq, cols);
	same_doubles(r, d_norm, norm, T);
	same_doubles(r, d_row, row_sum, T);
	same_doubles(r, d_col, col_sum, cols);
	case_same(r, d_full, full, n);
	case_same(r, d_scaled, scaled, n);
	for (int64_t k = 0; k < n; k++) scaled[k] = x[k] * x[k];
	case_same(r, d_square, scaled, n);
}

const case_set cases_sums = {"sums", WHIT_COUNT(rows), row, 0};

/* ---- gram: the CPU's alone; a device's is whit_linear_grad ---- */

static const struct { int64_t T, n; } grams[] = {{1, 1}, {5, 3}, {40, 96}, {600, 97}, {17, 200}, {0, 8}, {64, 193}};

static void gram_row(case_run *r, int i) {
	int64_t T = grams[i].T, n = grams[i].n;
	case_label(r, "%lld x %lld", (long long)T, (long long)n);
	if (case_skip(r, r->dev != NULL)) return;
	float *x = case_normal(r, T * n), *want = case_normal(r, n * n),
	      *mag = case_host(r, (size_t)(n * n) * sizeof *mag);
	for (int64_t k = 0; k < n; k++) /* symmetric, as sums are */
		for (int64_t j = 0; j < k; j++) want[k * n + j] = want[j * n + k];
	float *h = case_inout(r, want, n * n);
	whit_gram_cpu(want, x, T, n);
	whit_arena scratch = {0};
	whit_gram_fast_cpu(h, x, T, n, &scratch);
	whit_gram_mirror_cpu(h, n);
	whit_arena_free(&scratch);
	for (int64_t k = 0; k < n * n; k++) {
		double m = fabs((double)want[k]);
		for (int64_t t = 0; t < T; t++) m += fabs((double)x[t * n + k / n] * x[t * n + k % n]);
		mag[k] = (float)m;
	}
	/* a running float sum of blocks of up to 512 products: a quarter of the worst case's T roundings, and one more
	 * for each block and the start */
	case_near(r, h, want, mag, n * n, (double)(WHIT_MIN(T, 512) / 4 + T / 512 + 4) * 0x1p-24);
}

const case_set cases_gram = {"gram", WHIT_COUNT(grams), gram_row, 0};
