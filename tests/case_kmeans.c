/* kmeans: assignments, distances and sums, the CPU's bits on a device, both kernels; the CPU against double loops, and
 * ties, which go to the lowest. */
#include <math.h>
#include "calib/kmeans.h"
#include "host/ops.h"
#include "tests/case.h"

static const struct {
	int64_t n, dim;
	int k, weighted;
} rows[] = {{0, 8, 3, 0},    {1, 1, 1, 1},      {5, 3, 2, 0},    {40, 31, 7, 1},       {33, 64, 16, 1},
            {100, 65, 5, 0}, {37, 128, 64, 1},  {9, 200, 33, 1}, {21, 512, 20, 0},     {12, 513, 3, 1},
            {300, 1, 17, 1}, {2600, 509, 1, 0}, {300, 33, 3, 0}, {1 << 16, 128, 64, 1}};

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
	int k = rows[at].k;
	if (case_skip_big(r, n * dim * k > 3000000)) return;
	case_label(r, "%lld x %lld, %d centroids%s", (long long)n, (long long)dim, k,
	           rows[at].weighted ? ", weighted" : "");
	float *x = case_normal(r, n * dim), *w = rows[at].weighted ? case_normal(r, n * dim) : NULL,
	      *c = case_normal(r, all), *distance = case_host(r, (size_t)n * sizeof *x);
	int32_t *nearest = case_host(r, (size_t)n * sizeof *nearest);
	double *sum = case_host(r, (size_t)(2 * all) * sizeof *sum), *weight = sum + all;
	for (int64_t i = 0; w && i < n * dim; i++) w[i] = i % 11 ? fabsf(w[i]) : 0;
	if (k > 2) memcpy(c + 2 * dim, c, (size_t)dim * sizeof *c); /* a tie */
	whit_kmeans_assign_cpu(nearest, distance, x, w, c, n, dim, k);
	whit_kmeans_sums_cpu(sum, weight, nearest, x, w, n, dim, k);
	for (int64_t i = 0; i < n && k > 2; i++)
		if (nearest[i] == 2) case_fail(r, "point %lld: the higher of equals", (long long)i);
	if (!r->dev) {
		check_cpu(r, x, w, c, nearest, distance, n, dim, k);
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
		case_bits(r, dd, (const uint32_t *)(const void *)distance, n);
		case_bits(r, ds, (const uint32_t *)(const void *)sum, 4 * all);
	}
	if (n) check_driver(r, x, w, n, dim, k);
}

const case_set cases_kmeans = {"kmeans", WHIT_COUNT(rows), row, 0};
