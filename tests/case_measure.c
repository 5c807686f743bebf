/* measure: sums of squares and the first NaN of runs: the CPU's bits. */
#include <math.h>
#include "formats/measure.h"
#include "tests/case.h"

static const struct {
	int64_t n, run;
	int nan; /* how many, at places that move with the row */
} rows[] = {{0, 8, 0},  {1, 8, 0},     {1, 1, 1},      {7, 8, 1},        {8, 8, 0},        {9, 8, 2},
            {40, 7, 3}, {1000, 64, 5}, {3000, 900, 1}, {5000, 10000, 2}, {20000, 4096, 0}, {1 << 24, 1 << 15, 9}};

static void row(case_run *r, int i) {
	int64_t n = rows[i].n, run = rows[i].run, runs = (n + run - 1) / run;
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "%lld in runs of %lld", (long long)n, (long long)run);
	float *x = case_normal(r, n), *y = case_normal(r, n), *bad = case_host(r, (size_t)n * sizeof *bad);
	double *want = case_host(r, (size_t)(2 * runs) * sizeof *want);
	int64_t *first = case_host(r, (size_t)runs * sizeof *first);
	if (n) memcpy(bad, x, (size_t)n * sizeof *bad);
	for (int k = 0; k < rows[i].nan; k++) bad[(k * 7919 + i * 31) % n] = k % 2 ? -INFINITY : NAN;
	for (int64_t k = 0; k < runs; k++) {
		int64_t at = k * run, m = WHIT_MIN(run, n - at);
		want[k] = whit_sum_squares_cpu(x + at, NULL, m);
		want[runs + k] = whit_sum_squares_cpu(x + at, y + at, m);
		first[k] = whit_first_nonfinite(bad + at, m);
	}
	if (case_skip(r, !r->dev)) return; /* the CPU has one twin */
	const float *at[3] = {case_in(r, x, (size_t)n * 4), case_in(r, y, (size_t)n * 4),
	                      case_in(r, bad, (size_t)n * 4)};
	void *sum = case_out(r, 4 * runs), *where = case_out(r, 2 * runs);
	whit_sum_squares_cuda(r->dev, sum, at[0], NULL, n, run);
	whit_sum_squares_cuda(r->dev, (double *)sum + runs, at[0], at[1], n, run);
	whit_first_nonfinite_cuda(r->dev, where, at[2], n, run);
	case_bits(r, sum, (const uint32_t *)(const void *)want, 4 * runs);
	case_bits(r, where, (const uint32_t *)(const void *)first, 2 * runs);
}

const case_set cases_measure = {"measure", WHIT_COUNT(rows), row};
