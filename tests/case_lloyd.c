/* lloyd: codebooks of one dimension. The CPU against a row by hand and all splits of the sorted values; levels and
 * losses as they are said to be; the CPU's bits at any number of threads, and on a device. */
#include <math.h>
#include <stdlib.h>
#include "host/ops.h"
#include "tests/case.h"

enum { NORMAL, HAND, OFFSET, FEW, NO_WEIGHT, HEAVY };
static const struct {
	int64_t rows, n;
	int k, weighted, kind;
} rows[] = {{1, 5, 3, 0, HAND},        {3, 0, 4, 0, NORMAL},     {0, 9, 2, 0, NORMAL},
            {4, 1, 3, 1, NORMAL},      {5, 7, 1, 0, NORMAL},     {9, 9, 2, 1, NORMAL},
            {7, 11, 3, 1, NORMAL},     {3, 16, 16, 0, NORMAL},   {2, 17, 16, 1, NORMAL},
            {3, 100, 16, 0, NORMAL},   {2, 300, 16, 1, OFFSET},  {2, 257, 3, 0, OFFSET},
            {3, 200, 5, 1, FEW},       {2, 150, 3, 1, FEW},      {2, 40, 16, 1, NO_WEIGHT},
            {2, 255, 8, 1, HEAVY},     {2, 256, 256, 0, NORMAL}, {1, 300, 256, 0, NORMAL},
            {2, 512, 2, 1, NORMAL},    {1, 1000, 16, 1, NORMAL}, {1, WHIT_LLOYD_MOST, 3, 1, NORMAL},
            {512, 4096, 16, 0, NORMAL}};

static int ascending(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* The least weighted squared error of n values (x, weight) in k runs (Wang & Song 2011, eq. 1), every split tried. */
static double every_split(case_run *r, const float *x, const float *w, int n, int k) {
	double *d = case_host(r, (size_t)((k + 1) * (n + 1)) * sizeof *d),
	       (*p)[2] = case_host(r, (size_t)(n + 1) * sizeof *p);
	for (int i = 0; i < n; i++) p[i][0] = x[i], p[i][1] = w ? w[i] : 1;
	qsort(p, (size_t)n, sizeof *p, ascending);
	for (int m = 0; m <= k; m++)
		for (int i = 0; i <= n; i++) {
			double all = 0, mean = 0, err = 0, best = i ? INFINITY : 0;
			for (int j = i; j > 0 && m; j--) { /* the last run is j .. i */
				double v = p[j - 1][1], away = p[j - 1][0] - mean;
				all += v;
				mean += all > 0 ? away * v / all : 0;
				err += v * away * (p[j - 1][0] - mean);
				best = fmin(best, d[(m - 1) * (n + 1) + j - 1] + err);
			}
			d[m * (n + 1) + i] = best;
		}
	return d[k * (n + 1) + n];
}

static void check_row(case_run *r, const float *level, double loss, const float *x, const float *w, int64_t n, int k) {
	double sum = 0;
	int repeated = 0;
	for (int j = 1; j < k; j++) {
		repeated |= level[j] == level[j - 1];
		if (!(level[j] >= level[j - 1]) || (repeated && level[j] != level[k - 1]))
			case_fail(r, "level %d is %g behind %g", j, (double)level[j], (double)level[j - 1]);
	}
	for (int64_t i = 0; i < n; i++) {
		double least = INFINITY;
		for (int j = 0; j < k; j++) {
			double d = (double)x[i] - level[j];
			least = fmin(least, (w ? w[i] : 1) * d * d);
		}
		sum += least;
	}
	if (!(fabs(loss - sum) <= 1e-12 * sum)) case_fail(r, "loss is %.17g, need %.17g", loss, sum);
}

/* What is said of both ways; against every split: levels are rounded to float, which costs sum w (2^-24 |x|)^2, and
 * sums as ops.h says. */
static void check_cpu(case_run *r, const float *const *level, const double *const *loss, const float *x, const float *w,
                      int64_t n, int k, int kind) {
	double least = *loss[1], all = 0, low = INFINITY, high = -INFINITY;
	for (int exact = 0; exact < 2; exact++) check_row(r, level[exact], *loss[exact], x, w, n, k);
	for (int64_t i = 0; i < n; i++) {
		if (w && w[i] == 0) continue;
		all += w ? w[i] : 1, low = fmin(low, x[i]), high = fmax(high, x[i]);
	}
	double size = fmax(fabs(low), fabs(high)) * 0x1p-24, spread = high - low,
	       tol = all > 0 ? all * (size * size + k * (n / 256 + 16) * 0x1p-50 * spread * spread) : 0;
	if (!(least <= *loss[0] + tol)) case_fail(r, "exact %.17g, by steps %.17g", least, *loss[0]);
	if (n <= 512) {
		double need = every_split(r, x, w, (int)n, k);
		if (!(fabs(least - need) <= tol + 1e-13 * need)) case_fail(r, "exact %.17g, need %.17g", least, need);
	}
	if ((n <= k || (kind == FEW && k > 4) || kind == NO_WEIGHT) && (least != 0 || *loss[0] != 0))
		case_fail(r, "losses are %g and %g, need 0", least, *loss[0]);
	for (int j = 0; kind == HAND && j < k; j++)
		if (level[1][j] != (float[]){-5, 0.5f, 10.5f}[j] || least != 1)
			case_fail(r, "level %d is %g", j, (double)level[1][j]);
	for (int j = 0; kind == NO_WEIGHT && j < k; j++)
		if (level[0][j] != 0 || level[1][j] != 0) case_fail(r, "level %d of nothing", j);
}

static void row(case_run *r, int at) {
	int64_t n = rows[at].n, R = rows[at].rows, all = R * n;
	int k = rows[at].k, kind = rows[at].kind;
	static const float hand[] = {10, 0, -5, 11, 1};
	if (case_skip_big(r, R > 100)) return;
	case_label(r, "%lld x %lld, %d levels%s, kind %d", (long long)R, (long long)n, k,
	           rows[at].weighted ? ", weighted" : "", kind);
	float *x = case_normal(r, all), *w = rows[at].weighted ? case_normal(r, all) : NULL, *level[2];
	double *loss[2];
	for (int64_t i = 0; i < all; i++) {
		if (w) w[i] = i % 7 == 3 || kind == NO_WEIGHT ? 0 : kind == HEAVY && i % 100 == 5 ? 1e6f : fabsf(w[i]);
		if (kind == HAND) x[i] = hand[i];
		if (kind == OFFSET) x[i] += 3e5f;
		if (kind == FEW) x[i] = (float)(i % 5) - 2; /* -0 among them */
		if (kind == FEW && x[i] == 0 && i % 2) x[i] = -x[i];
		if (kind == HEAVY && w[i] == 0) x[i] = 1e30f; /* does not count */
	}
	for (int exact = 0; exact < 2; exact++) {
		level[exact] = case_host(r, (size_t)(R * k) * sizeof **level);
		loss[exact] = case_host(r, (size_t)R * sizeof **loss);
		whit_lloyd_cpu(level[exact], loss[exact], x, w, R, n, k, exact);
	}
	if (!r->dev) {
		for (int64_t i = 0; i < R; i++)
			check_cpu(r, (const float *const[]){level[0] + i * k, level[1] + i * k},
			          (const double *const[]){loss[0] + i, loss[1] + i}, x + i * n, w ? w + i * n : NULL, n,
			          k, kind);
		int was = whit_threads();
		whit_threads_set(was == 1 ? 3 : 1);
		for (int exact = 0; exact < 2; exact++) {
			float *y = case_out(r, R * k);
			double *l = (double *)(void *)case_out(r, 2 * R);
			whit_lloyd_cpu(y, l, x, w, R, n, k, exact);
			case_bits(r, y, (const uint32_t *)(const void *)level[exact], R * k);
			case_bits(r, l, (const uint32_t *)(const void *)loss[exact], 2 * R);
		}
		whit_threads_set(was);
		return;
	}
	const float *dx = case_in(r, x, (size_t)all * 4), *dw = w ? case_in(r, w, (size_t)all * 4) : NULL;
	for (int exact = 0; exact < 2; exact++) {
		float *y = case_out(r, R * k);
		double *l = (double *)(void *)case_out(r, 2 * R);
		whit_lloyd_cuda(r->dev, y, l, dx, dw, R, n, k, exact);
		case_bits(r, y, (const uint32_t *)(const void *)level[exact], R * k);
		case_bits(r, l, (const uint32_t *)(const void *)loss[exact], 2 * R);
	}
}

const case_set cases_lloyd = {"lloyd", WHIT_COUNT(rows), row, 0};
