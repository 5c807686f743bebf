/* kmeans: seeds, rounds and empty clusters; the work over points is ops'. */
#include "calib/kmeans.h"
#include <math.h>
#include "cuda/dev.h"
#include "host/ops.h"

typedef struct points {
	const float *x, *w;
	int64_t n, dim;
	int k;
	int32_t *nearest;
	float *distance;
	double *sum, *weight;
	/* the same on a device */
	whit_dev *d;
	float *d_x, *d_w, *d_c, *d_distance;
	int32_t *d_nearest;
	double *d_sum;
} points;

static void *on_device(points *p, const void *from, size_t bytes) {
	void *to = whit_dev_alloc(p->d, bytes);
	if (to && from) whit_dev_put(p->d, to, from, bytes);
	return to;
}

static int begin_device(points *p, whit_err *e) {
	size_t floats = (size_t)(p->n * p->dim) * sizeof(float);
	if (!p->d) return 0;
	p->d_x = on_device(p, p->x, floats);
	if (p->w) p->d_w = on_device(p, p->w, floats);
	p->d_c = on_device(p, NULL, (size_t)(p->k * p->dim) * sizeof(float));
	p->d_distance = on_device(p, NULL, (size_t)p->n * sizeof(float));
	p->d_nearest = on_device(p, NULL, (size_t)p->n * sizeof(int32_t));
	p->d_sum = on_device(p, NULL, (size_t)(2 * p->k * p->dim) * sizeof(double));
	return whit_dev_sync(p->d, e);
}

static void end_device(points *p) {
	if (!p->d) return;
	void *all[] = {p->d_x, p->d_w, p->d_c, p->d_distance, p->d_nearest, p->d_sum};
	for (int i = 0; i < WHIT_COUNT(all); i++) whit_dev_free(p->d, all[i]);
}

static int assign_device(points *p, const float *c, int k, whit_err *e) {
	whit_dev_reset(p->d);
	whit_dev_put(p->d, p->d_c, c, (size_t)(k * p->dim) * sizeof *c);
	whit_kmeans_assign_cuda(p->d, p->d_nearest, p->d_distance, p->d_x, p->d_w, p->d_c, p->n, p->dim, k);
	whit_dev_get(p->d, p->nearest, p->d_nearest, (size_t)p->n * sizeof *p->nearest);
	whit_dev_get(p->d, p->distance, p->d_distance, (size_t)p->n * sizeof *p->distance);
	return whit_dev_sync(p->d, e);
}

static int sums_device(points *p, whit_err *e) {
	int64_t all = p->k * p->dim;
	whit_dev_reset(p->d);
	whit_kmeans_sums_cuda(p->d, p->d_sum, p->d_sum + all, p->d_nearest, p->d_x, p->d_w, p->n, p->dim, p->k);
	whit_dev_get(p->d, p->sum, p->d_sum, (size_t)(2 * all) * sizeof *p->sum);
	return whit_dev_sync(p->d, e);
}

/* nearest and distance of c's first k. */
static int assign(points *p, const float *c, int k, whit_err *e) {
	if (p->d) return assign_device(p, c, k, e);
	whit_kmeans_assign_cpu(p->nearest, p->distance, p->x, p->w, c, p->n, p->dim, k);
	return 0;
}

static int sums(points *p, whit_err *e) {
	if (p->d) return sums_device(p, e);
	whit_kmeans_sums_cpu(p->sum, p->weight, p->nearest, p->x, p->w, p->n, p->dim, p->k);
	return 0;
}

static double total(const float *distance, int64_t n) {
	double sum = 0;
	for (int64_t i = 0; i < n; i++) sum += distance[i];
	return sum;
}

/* The point at which the running sum of distances passes u times their whole. */
static int64_t draw(const float *distance, int64_t n, double u) {
	double left = u * total(distance, n);
	int64_t last = 0;
	for (int64_t i = 0; i < n; i++) {
		if (distance[i] > 0) last = i;
		left -= distance[i];
		if (left < 0 && distance[i] > 0) return i;
	}
	return last;
}

static void take_point(const points *p, float *to, int64_t i) {
	memcpy(to, p->x + i * p->dim, (size_t)p->dim * sizeof *to);
}

/* Each seed is a point, drawn in proportion to its distance from the seeds before. */
static int seed(points *p, float *c, const whit_kmeans_opts *o, whit_err *e) {
	float *least = whit_alloc((size_t)p->n * sizeof *least);
	whit_rng g;
	int rc = 0, m = o->keep;
	whit_rng_key(&g, o->seed, 0x6b6d, 0);
	if (m == 0) take_point(p, c, (int64_t)(whit_rng_uniform(&g) * (double)p->n)), m = 1;
	rc = assign(p, c, m, e);
	memcpy(least, p->distance, (size_t)p->n * sizeof *least);
	for (; m < o->k && !rc; m++) {
		float *to = c + m * p->dim;
		take_point(p, to, draw(least, p->n, whit_rng_uniform(&g)));
		rc = assign(p, to, 1, e);
		for (int64_t i = 0; i < p->n; i++) least[i] = fminf(least[i], p->distance[i]);
	}
	whit_free(least);
	return rc;
}

/* Empty clusters take the points that are worst off, each its own. */
static int64_t fill_empty(points *p, float *c, int keep) {
	int64_t *size = whit_alloc((size_t)p->k * sizeof *size), empty = 0;
	for (int64_t i = 0; i < p->n; i++) size[p->nearest[i]]++;
	for (int m = keep; m < p->k; m++) {
		int64_t worst = 0;
		if (size[m]) continue;
		for (int64_t i = 1; i < p->n; i++)
			if (p->distance[i] > p->distance[worst]) worst = i;
		if (!(p->distance[worst] > 0)) break;
		p->distance[worst] = 0;
		take_point(p, c + m * p->dim, worst);
		empty++;
	}
	whit_free(size);
	return empty;
}

static int rounds(points *p, float *c, const whit_kmeans_opts *o, whit_kmeans_result *r, whit_err *e) {
	int most = o->rounds ? o->rounds : 25, rc = assign(p, c, p->k, e);
	double change = o->change > 0 ? o->change : 1e-4;
	r->loss = total(p->distance, p->n);
	while (!rc && r->rounds < most && r->loss > 0) {
		double before = r->loss;
		int64_t emptied;
		if ((rc = whit_interrupted(e)) || (rc = sums(p, e))) break;
		for (int64_t i = o->keep * p->dim; i < p->k * p->dim; i++)
			if (p->weight[i] > 0) c[i] = (float)(p->sum[i] / p->weight[i]);
		r->empty += emptied = fill_empty(p, c, o->keep);
		rc = assign(p, c, p->k, e);
		r->loss = total(p->distance, p->n);
		r->rounds++;
		if (!emptied && before - r->loss <= change * before) break;
	}
	return rc;
}

int whit_kmeans(float *c, const whit_kmeans_opts *o, const float *x, const float *w, int64_t n, int64_t dim,
                whit_dev *dev, whit_kmeans_result *r, whit_err *e) {
	points p = {.x = x, .w = w, .n = n, .dim = dim, .k = o->k, .d = dev};
	memset(r, 0, sizeof *r);
	if (n < 1 || dim < 1 || o->k < 1 || o->keep < 0 || o->keep > o->k)
		return whit_fail(e, WHIT_EUSAGE,
		                 "k-means: is of %lld points of %lld, %d centroids, %d given; need 1 or more of each, "
		                 "no more given than there are",
		                 (long long)n, (long long)dim, o->k, o->keep);
	p.nearest = whit_alloc((size_t)n * sizeof *p.nearest);
	p.distance = whit_alloc((size_t)n * sizeof *p.distance);
	p.sum = whit_alloc((size_t)(2 * o->k * dim) * sizeof *p.sum);
	p.weight = p.sum + o->k * dim;
	int rc = begin_device(&p, e);
	if (!rc) rc = seed(&p, c, o, e);
	if (!rc) rc = rounds(&p, c, o, r, e);
	end_device(&p);
	whit_free(p.nearest);
	whit_free(p.distance);
	whit_free(p.sum);
	return rc;
}
