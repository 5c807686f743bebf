/* kmeans: the two halves of a round of Lloyd's algorithm, with a weight for each coordinate. */
#include "host/op_vec.h"
#include "host/ops.h"

enum { LANES = 32, POINTS = 256 /* of an item of work */ };

typedef struct assign_job {
	int32_t *nearest;
	float *distance;
	const float *x, *w, *c;
	int64_t n, dim;
	int k;
} assign_job;

/* Lane by lane of a warp, halves added to halves: the order of the kernels in cuda/kmeans.cu, and one for vectors. */
static float distance_of(const float *x, const float *w, const float *c, int64_t dim) {
	float part[LANES] = {0};
	int64_t j = 0;
	for (; j + LANES <= dim; j += LANES)
		for (int l = 0; l < LANES; l++) {
			float d = x[j + l] - c[j + l];
			part[l] += (w ? w[j + l] * d : d) * d;
		}
	for (int l = 0; j + l < dim; l++) {
		float d = x[j + l] - c[j + l];
		part[l] += (w ? w[j + l] * d : d) * d;
	}
	for (int half = LANES / 2; half > 0; half /= 2)
		for (int l = 0; l < half; l++) part[l] += part[l + half];
	return part[0];
}

static void assign_item(void *ctx, int64_t item, int worker) {
	const assign_job *j = ctx;
	(void)worker;
	for (int64_t i = item * POINTS; i < WHIT_MIN(j->n, (item + 1) * POINTS); i++) {
		const float *x = j->x + i * j->dim, *w = j->w ? j->w + i * j->dim : NULL;
		int best = 0;
		float least = distance_of(x, w, j->c, j->dim);
		for (int k = 1; k < j->k; k++) {
			float d = distance_of(x, w, j->c + k * j->dim, j->dim);
			if (d < least) best = k, least = d;
		}
		j->nearest[i] = best;
		j->distance[i] = least;
	}
}

void whit_kmeans_assign_cpu(int32_t *nearest, float *distance, const float *x, const float *w, const float *c,
                            int64_t n, int64_t dim, int k) {
	assign_job j = {nearest, distance, x, w, c, n, dim, k};
	whit_items((n + POINTS - 1) / POINTS, POINTS * dim * k, assign_item, &j);
}

typedef struct sums_job {
	double *sum, *weight; /* (pieces, k, dim) */
	const int32_t *nearest;
	const float *x, *w;
	int64_t n, dim, piece;
	int k;
} sums_job;

static void sums_item(void *ctx, int64_t item, int worker) {
	const sums_job *j = ctx;
	int64_t dim = j->dim;
	double *sum = j->sum + item * j->k * dim, *weight = j->weight + item * j->k * dim;
	(void)worker;
	memset(sum, 0, (size_t)(j->k * dim) * sizeof *sum);
	memset(weight, 0, (size_t)(j->k * dim) * sizeof *weight);
	for (int64_t i = item * j->piece; i < WHIT_MIN(j->n, (item + 1) * j->piece); i++) {
		const float *x = j->x + i * dim, *w = j->w ? j->w + i * dim : NULL;
		double *s = sum + j->nearest[i] * dim, *t = weight + j->nearest[i] * dim;
		for (int64_t c = 0; c < dim; c++) {
			double v = w ? w[c] : 1;
			s[c] += v * x[c]; /* exact until it is added */
			t[c] += v;
		}
	}
}

void whit_kmeans_sums_cpu(double *sum, double *weight, const int32_t *nearest, const float *x, const float *w,
                          int64_t n, int64_t dim, int k) {
	int64_t piece = whit_kmeans_piece(n, dim), pieces = (n + piece - 1) / piece, all = k * dim;
	sums_job j = {.nearest = nearest, .x = x, .w = w, .n = n, .dim = dim, .piece = piece, .k = k};
	j.sum = whit_alloc((size_t)(2 * (pieces + 1) * all) * sizeof *j.sum);
	j.weight = j.sum + pieces * all;
	whit_items(pieces, piece * dim, sums_item, &j);
	memset(sum, 0, (size_t)all * sizeof *sum);
	memset(weight, 0, (size_t)all * sizeof *weight);
	for (int64_t p = 0; p < pieces; p++)
		for (int64_t i = 0; i < all; i++) {
			sum[i] += j.sum[p * all + i];
			weight[i] += j.weight[p * all + i];
		}
	whit_free(j.sum);
}
