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

/* ---- gram: inputs with a mean show a sum that is cut off at each step, as a tensor core's may be ---- */

static const struct {
	int64_t T, n;
	float mean;
	int exact; /* values that F16 holds, and sums that FP32 does */
	float by;  /* all values; a column of them 1000 times as large */
} grams[] = {{1, 1, 0, 0, 1},    {5, 3, 0, 0, 1},       {40, 96, 3, 0, 1},        {600, 97, 0, 0, 1},
             {17, 200, 0, 0, 1}, {0, 8, 0, 0, 1},       {64, 193, 1, 0, 1},       {64, 100, 0, 1, 1},
             {2, 1100, 1, 0, 1}, {2, 2050, 0, 1, 1},    {2200, 60, 3, 0, 1},      {20, 40, 0, 0, 0x1p-70f},
             {20, 40, 0, 0, 0},  {20, 40, 1, 0, 1e15f}, {20, 40, 3, 0, 0x1p-20f}, {20000, 200, 3, 0, 1}};

/* Of float64's sum over tokens. On the CPU: a running float sum of blocks of up to 512 products, a quarter of the worst
 * case's T roundings, and one more for each block and the start. On a device as host/ops.h has it; in FP32, and with
 * the emulator's sums, each of the T or 3 T products may cost a rounding. */
static double gram_tol(const case_run *r, int64_t T, int64_t n, int plain) {
	int64_t piece = whit_gram_piece(T, n), cut = 3 * piece / (r->full ? 16 : 4) + T / WHIT_MAX(piece, 1) + 2;
	if (!r->dev) return (double)(WHIT_MIN(T, 512) / 4 + T / 512 + 4) * 0x1p-24;
	return plain ? (double)(T / 4 + 4) * 0x1p-24 : 3 * 0x1p-22 + (double)cut * 0x1p-23;
}

static void gram_on(case_run *r, float *h, const float *x, int64_t T, int64_t n, int plain) {
	whit_arena scratch = {0};
	if (r->dev) {
		int was = whit_dev_plain(r->dev, plain);
		whit_gram_cuda(r->dev, h, case_in(r, x, (size_t)(T * n) * sizeof *x), T, n);
		whit_gram_mirror_cuda(r->dev, h, n);
		whit_dev_plain(r->dev, was);
		whit_dev_reset(r->dev);
	} else {
		whit_gram_fast_cpu(h, x, T, n, &scratch);
		whit_gram_mirror_cpu(h, n);
	}
	whit_arena_free(&scratch);
}

static void gram_row(case_run *r, int i) {
	int64_t T = grams[i].T, n = grams[i].n;
	if (case_skip_big(r, T * n > 200000)) return;
	case_label(r, "%lld x %lld around %g%s, times %g", (long long)T, (long long)n, (double)grams[i].mean,
	           grams[i].exact ? ", exact" : "", (double)grams[i].by);
	float *x = case_normal(r, T * n), *start = case_normal(r, n * n), *want = case_host(r, (size_t)(n * n) * 4),
	      *mag = case_host(r, (size_t)(n * n) * sizeof *mag);
	for (int64_t k = 0; k < T * n; k++) {
		x[k] = grams[i].exact ? rintf(8 * x[k]) : grams[i].by * (x[k] + grams[i].mean);
		if (!grams[i].exact && k % n == 2) x[k] *= 1000;
	}
	for (int64_t k = 0; k < n; k++) /* symmetric, as sums are */
		for (int64_t j = 0; j <= k; j++) {
			if (grams[i].exact) start[k * n + j] = rintf(start[k * n + j]);
			start[j * n + k] = start[k * n + j];
		}
	memcpy(want, start, (size_t)(n * n) * sizeof *want);
	whit_gram_cpu(want, x, T, n);
	memset(mag, 0, (size_t)(n * n) * sizeof *mag);
	for (int64_t t = 0; t < T; t++)
		for (int64_t k = 0; k < n * n; k++) mag[k] += fabsf(x[t * n + k / n] * x[t * n + k % n]);
	for (int64_t k = 0; k < n * n; k++) mag[k] += fabsf(want[k]);
	for (int plain = 0; plain < (r->dev ? 2 : 1); plain++) {
		float *h = case_inout(r, start, n * n);
		gram_on(r, h, x, T, n, plain);
		if (grams[i].exact)
			case_same(r, h, want, n * n);
		else
			case_near(r, h, want, mag, n * n, gram_tol(r, T, n, plain));
	}
}

const case_set cases_gram = {"gram", WHIT_COUNT(grams), gram_row, 2};
