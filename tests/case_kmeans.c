/* kmeans: assignments, distances and sums, the CPU's bits on a device, both kernels; the CPU against double loops, and
 * ties, which go to the lowest. */
#include <math.h>
#include "calib/kmeans.h"
#include "host/ops.h"
#include "tests/case.h"

/* What points and centroids are, beside normal ones; EACH has weights of points, the others none or of coordinates. */
enum { NORMAL, EQUAL, MIDDLE, OFFSET, TINY, HUGE_ONES, STRAY, BROKEN, CLOSE };
enum { NONE, EVERY, EACH };
static const struct {
	int64_t n, dim;
	int k, weights, what;
} rows[] = {{0, 8, 3, NONE, NORMAL},           {1, 1, 1, EVERY, NORMAL},          {5, 3, 2, NONE, NORMAL},
            {40, 31, 7, EVERY, NORMAL},        {33, 64, 16, EVERY, NORMAL},       {100, 65, 5, NONE, NORMAL},
            {37, 128, 64, EVERY, NORMAL},      {9, 200, 33, EVERY, NORMAL},       {21, 512, 20, NONE, NORMAL},
            {12, 513, 3, EVERY, NORMAL},       {300, 1, 17, EVERY, NORMAL},       {2600, 509, 1, NONE, NORMAL},
            {300, 33, 3, NONE, NORMAL},        {600, 128, 64, NONE, NORMAL},      {33, 100, 1000, NONE, NORMAL},
            {33, 128, 256, NONE, MIDDLE},      {600, 65, 200, NONE, MIDDLE},      {1, 48, 16, NONE, OFFSET},
            {40, 128, 64, NONE, OFFSET},       {50, 64, 128, EACH, MIDDLE},       {40, 128, 64, EACH, NORMAL},
            {20, 300, 64, EACH, MIDDLE},       {20, 256, 40, NONE, MIDDLE},       {40, 20, 16, NONE, EQUAL},
            {35, 24, 64, EACH, TINY},          {35, 120, 32, NONE, TINY},         {35, 128, 32, NONE, HUGE_ONES},
            {40, 96, 64, NONE, STRAY},         {40, 96, 64, EACH, STRAY},         {40, 128, 64, NONE, BROKEN},
            {33, 32, 32, NONE, CLOSE},         {1 << 16, 128, 64, EVERY, NORMAL}, {1 << 16, 128, 64, EACH, NORMAL},
            {1 << 16, 128, 1024, NONE, NORMAL}};

/* Half way between two centroids, but for a last place here and there; far from 0; beyond the range of squares, below
 * and above; a tenth of all points and a centroid apart from the others; no numbers; centroids a last place apart. */
static void shape(float *x, float *c, int64_t n, int64_t dim, int k, int what) {
	static const float by[] = {1, 1, 1, 1, 1e-40f, 1e30f, 1, 1, 1};
	for (int64_t i = 0; i < k * dim; i++) {
		if (what == CLOSE)
			c[i] = i % dim == i / dim % dim ? nextafterf(c[i % dim], i % 3 ? 9 : -9) : c[i % dim];
		c[i] = (what == OFFSET ? 1e6f : 0) + c[i] * by[what] * (what == STRAY && i / dim == k - 1 ? 50 : 1);
	}
	for (int64_t i = 0; i < n * dim; i++) {
		int64_t p = i / dim, j = i % dim;
		if (what == MIDDLE) x[i] = (c[p % k * dim + j] + c[(p * 7 + 3) % k * dim + j]) / 2;
		if (what == MIDDLE && j == p % dim) x[i] = nextafterf(x[i], p % 2 ? 9 : -9);
		if (what == EQUAL) x[i] = x[j];
		x[i] = (what == OFFSET ? 1e6f : 0) + x[i] * by[what] * (what == STRAY && p % 10 == 3 ? 3e5f : 1);
		if (what == BROKEN && p % 10 == 3 && j == p) x[i] = p % 20 == 3 ? NAN : INFINITY;
	}
	if (what == BROKEN) c[3 * dim + 5] = NAN, c[5 * dim] = -INFINITY;
}

/* A sum of dim products of three roundings each, whose order is another. */
static void check_cpu(case_run *r, const float *x, const float *w, const float *c, const int32_t *nearest,
                      const float *distance, int64_t n, int64_t dim, int k) {
	double tol = (double)(dim / 32 + 12) * 0x1p-23;
	for (int64_t i = 0; i < n; i++) {
		double least = INFINITY, own = 0;
		for (int m = 0; m < k; m++) {
			double sum = 0;
			for (int64_t j = 0; j < dim; j++) {
				double d = (double)x[i * dim + j] - c[m * dim + j];
				sum += (w ? w[i * dim + j] : 1) * d * d;
			}
			least = fmin(least, sum);
			if (m == nearest[i]) own = sum;
		}
		if (!(fabs(distance[i] - own) <= tol * own) || !(own <= least * (1 + 2 * tol)))
			case_fail(r, "point %lld: cluster %d at %.9g, need %.9g, the least %.9g", (long long)i,
			          nearest[i], (double)distance[i], own, least);
	}
}

static void check_sums(case_run *r, const float *x, const float *w, const int32_t *nearest, const double *sum,
                       const double *weight, int64_t n, int64_t dim, int k) {
	for (int64_t a = 0; a < k * dim; a++) {
		double s = 0, t = 0, mag = 0;
		for (int64_t i = 0; i < n; i++) {
			double v = w ? w[i * dim + a % dim] : 1;
			if (nearest[i] != a / dim) continue;
			s += v * x[i * dim + a % dim], t += v, mag += fabs(v * x[i * dim + a % dim]);
		}
		if (!(fabs(sum[a] - s) <= (double)n * 0x1p-52 * mag) ||
		    !(fabs(weight[a] - t) <= (double)n * 0x1p-52 * t))
			case_fail(r, "sum %lld is %.17g of %.17g, need %.17g of %.17g", (long long)a, sum[a], weight[a],
			          s, t);
	}
}

/* All rounds of it there, and on the CPU. */
static void check_driver(case_run *r, const float *x, const float *w, int64_t n, int64_t dim, int k) {
	const whit_kmeans_opts o = {.k = k, .keep = k > 1, .rounds = 3, .seed = 5};
	size_t bytes = (size_t)(k * dim) * sizeof(float);
	float *c[2];
	whit_kmeans_result got[2];
	whit_err e;
	for (int i = 0; i < 2; i++) {
		c[i] = case_host(r, bytes);
		memset(c[i], 0, bytes);
		if (whit_kmeans(c[i], &o, x, w, n, dim, i ? r->dev : NULL, &got[i], &e)) case_fail(r, "%s", e.text);
	}
	if (memcmp(c[0], c[1], bytes) || got[0].loss != got[1].loss || got[0].rounds != got[1].rounds)
		case_fail(r, "%d rounds to %.17g, on the CPU %d to %.17g", got[1].rounds, got[1].loss, got[0].rounds,
		          got[0].loss);
}

static void row(case_run *r, int at) {
	int64_t n = rows[at].n, dim = rows[at].dim, all = rows[at].k * dim;
	int k = rows[at].k, what = rows[at].what;
	if (case_skip_big(r, n * dim * k > 3000000)) return;
	case_label(r, "%lld x %lld, %d centroids, weights %d, %d", (long long)n, (long long)dim, k, rows[at].weights,
	           what);
	float *x = case_normal(r, n * dim), *w = rows[at].weights ? case_normal(r, n * dim) : NULL,
	      *c = case_normal(r, all), *distance = case_host(r, (size_t)n * sizeof *x);
	int32_t *nearest = case_host(r, (size_t)n * sizeof *nearest);
	double *sum = case_host(r, (size_t)(2 * all) * sizeof *sum), *weight = sum + all;
	shape(x, c, n, dim, k, what);
	for (int64_t i = 0; w && i < n * dim; i++) w[i] = i % 11 ? fabsf(w[i]) : 0;
	for (int64_t i = 0; rows[at].weights == EACH && i < n * dim; i++)
		w[i] = i % dim ? w[i - 1] : i / dim == 35 ? 1e-44f : i / dim == 36 ? 3e38f : w[i];
	if (k > 2) memcpy(c + 2 * dim, c, (size_t)dim * sizeof *c); /* a tie */
	whit_kmeans_assign_cpu(nearest, distance, x, w, c, n, dim, k);
	whit_kmeans_sums_cpu(sum, weight, nearest, x, w, n, dim, k);
	for (int64_t i = 0; i < n && k > 2; i++)
		if (nearest[i] == 2) case_fail(r, "point %lld: the higher of equals", (long long)i);
	if (!r->dev && what != TINY && what != HUGE_ONES && what != BROKEN) {
		if (rows[at].weights != EACH) check_cpu(r, x, w, c, nearest, distance, n, dim, k);
		check_sums(r, x, w, nearest, sum, weight, n, dim, k);
	}
	if (!r->dev) return; /* the CPU has one twin */
	const float *dx = case_in(r, x, (size_t)(n * dim) * 4), *dw = w ? case_in(r, w, (size_t)(n * dim) * 4) : NULL,
	            *dc = case_in(r, c, (size_t)all * 4);
	for (int plain = 0; plain < 2; plain++) {
		int32_t *dn = (int32_t *)(void *)case_out(r, n);
		float *dd = case_out(r, n);
		double *ds = (double *)(void *)case_out(r, 4 * all);
		int was = whit_dev_plain(r->dev, plain);
		whit_kmeans_assign_cuda(r->dev, dn, dd, dx, dw, dc, n, dim, k);
		whit_kmeans_sums_cuda(r->dev, ds, ds + all, dn, dx, dw, n, dim, k);
		whit_dev_plain(r->dev, was);
		case_bits(r, dn, (const uint32_t *)nearest, n);
		case_same(r, dd, distance, n);
		if (what != BROKEN) case_bits(r, ds, (const uint32_t *)(const void *)sum, 4 * all);
	}
	if (n && what < HUGE_ONES) check_driver(r, x, w, n, dim, k);
}

const case_set cases_kmeans = {"kmeans", WHIT_COUNT(rows), row, 0};
