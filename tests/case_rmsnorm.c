/* rmsnorm */
#include "host/ops.h"
#include "tests/case.h"
#include <math.h>

static const struct {
	int64_t T, n, dim;
	float eps, shift;
} rows[] = {{1, 1, 2, 12.5f, 1},  {1, 1, 1, 1e-6f, 0},    {3, 1, 7, 1e-5f, 1},     {2, 3, 33, 1e-6f, 0},
            {0, 1, 16, 1e-6f, 0}, {7, 2, 64, 1e-6f, 0},   {5, 1, 128, 0, 1},       {1, 1, 1000, 1e-6f, 0},
            {9, 1, 257, 0, 0},    {1, 1, 5120, 1e-6f, 0}, {512, 1, 5120, 1e-6f, 1}};

static void row(case_run *r, int i) {
	int64_t T = rows[i].T, n = rows[i].n, dim = rows[i].dim, all = T * n * dim;
	size_t bytes = (size_t)all * sizeof(float);
	if (case_skip_big(r, all > 100000)) return;
	case_label(r, "%lld x %lld x %lld", (long long)T, (long long)n, (long long)dim);
	float *x = case_normal(r, all), *w = case_normal(r, dim), *want = case_host(r, bytes),
	      *mag = case_host(r, bytes);
	if (i == 0) x[0] = 3, x[1] = 4, w[0] = 1, w[1] = 1;
	whit_rmsnorm_cpu(want, x, w, T, n, dim, rows[i].eps, rows[i].shift);
	/* mean square of (3, 4) is 12.5; with eps 12.5 the root is 5: (0.6, 0.8) * (1 + 1) */
	if (i == 0 && !(fabsf(want[0] - 1.2f) <= 1e-6f && fabsf(want[1] - 1.6f) <= 1e-6f))
		case_fail(r, "by hand: is (%g, %g), need (1.2, 1.6)", want[0], want[1]);
	for (int64_t k = 0; k < all; k++) mag[k] = fabsf(want[k]);
	/* A square passes through dim / lanes additions and a tree of 10, all positive; the root halves that relative
	 * error. Mean, eps, root, inverse, two products, w + shift: a rounding each, and one of the reference. */
	double tol = ((double)dim / (r->dev ? 256 : 8) / 2 + 5 + 8) * 0x1p-24;
	float *y = case_out(r, all), *in_place = case_inout(r, x, all), *dx = case_in(r, x, bytes);
	float *dw = case_in(r, w, (size_t)dim * sizeof *w);
	if (r->dev) {
		whit_rmsnorm_cuda(r->dev, y, dx, dw, T, n, dim, rows[i].eps, rows[i].shift);
		whit_rmsnorm_cuda(r->dev, in_place, in_place, dw, T, n, dim, rows[i].eps, rows[i].shift);
	} else {
		whit_rmsnorm_fast_cpu(y, dx, dw, T, n, dim, rows[i].eps, rows[i].shift);
		whit_rmsnorm_fast_cpu(in_place, in_place, dw, T, n, dim, rows[i].eps, rows[i].shift);
	}
	case_near(r, y, want, mag, all, tol);
	case_near(r, in_place, want, mag, all, tol);
}

const case_set cases_rmsnorm = {"rmsnorm", WHIT_COUNT(rows), row, 0};
