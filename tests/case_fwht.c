/* fwht: the same bits as the CPU's fast twin, which adds in the same order; that one against the plain one. */
#include "formats/rotation.h"
#include "tests/case.h"
#include <math.h>

static const struct {
	int64_t rows, n;
} rows[] = {{1, 2},   {3, 1},   {5, 4},    {2, 16},   {0, 64},    {3, 32},    {7, 64},     {9, 128},
            {2, 256}, {7, 512}, {3, 1024}, {1, 8192}, {1, 16384}, {1, 32768}, {2048, 4096}};

static void row(case_run *r, int i) {
	int64_t n = rows[i].n, all = rows[i].rows * n, stages = 0;
	size_t bytes = (size_t)all * sizeof(float);
	if (case_skip_big(r, all > 100000)) return;
	case_label(r, "%lld x %lld", (long long)rows[i].rows, (long long)n);
	float *x = case_normal(r, all), *want = case_host(r, bytes), *mag = case_host(r, bytes);
	if (i == 0) x[0] = 3, x[1] = 5;
	memcpy(want, x, bytes);
	if (r->dev)
		whit_fwht_fast_cpu(want, rows[i].rows, n);
	else
		whit_fwht_cpu(want, rows[i].rows, n);
	if (i == 0 && !(want[0] == 8 && want[1] == -2))
		case_fail(r, "by hand: is (%g, %g), need (8, -2)", want[0], want[1]);
	float *y = case_inout(r, x, all);
	if (r->dev) {
		whit_fwht_cuda(r->dev, y, rows[i].rows, n);
		case_same(r, y, want, all);
		y = case_inout(r, x, all);
		whit_dev_plain(r->dev, 1);
		whit_fwht_cuda(r->dev, y, rows[i].rows, n);
		whit_dev_plain(r->dev, 0);
		case_same(r, y, want, all);
		return;
	}
	whit_fwht_fast_cpu(y, rows[i].rows, n);
	while ((int64_t)1 << stages < n) stages++;
	for (int64_t k = 0; k < all; k++) { /* each stage rounds once: log2(n) * 2^-24 of the sum of magnitudes */
		double sum = 0;
		for (int64_t j = k / n * n; j < k / n * n + n && k % n == 0; j++) sum += fabsf(x[j]);
		mag[k] = k % n ? mag[k - 1] : (float)sum;
	}
	case_near(r, y, want, mag, all, (double)(stages + 1) * 0x1p-24);
}

const case_set cases_fwht = {"fwht", WHIT_COUNT(rows), row, 0};
