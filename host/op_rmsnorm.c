/* rmsnorm: root mean square normalisation of runs of values. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

void whit_rmsnorm_cpu(float *y, const float *x, const float *w, int64_t T, int64_t n, int64_t dim, float eps,
                      float shift) {
	for (int64_t r = 0; r < T * n; r++, x += dim, y += dim) {
		double sum = 0;
		for (int64_t i = 0; i < dim; i++) sum += (double)x[i] * x[i];
		double s = 1 / sqrt(sum / (double)dim + eps);
		for (int64_t i = 0; i < dim; i++) y[i] = (float)(x[i] * s * ((double)w[i] + shift));
	}
}

typedef struct norm_job {
	float *y;
	const float *x, *w;
	int64_t n, dim;
	float eps, shift;
	const whit_vec *v;
} norm_job;

static void norm_item(void *ctx, int64_t t, int worker) {
	const norm_job *j = ctx;
	(void)worker;
	for (int64_t r = t * j->n; r < (t + 1) * j->n; r++) {
		const float *x = j->x + r * j->dim;
		float s = 1 / sqrtf(j->v->sumsq(x, j->dim) / (float)j->dim + j->eps);
		j->v->scale(j->y + r * j->dim, x, j->w, s, j->shift, j->dim);
	}
}

void whit_rmsnorm_fast_cpu(float *y, const float *x, const float *w, int64_t T, int64_t n, int64_t dim, float eps,
                           float shift) {
	norm_job j = {y, x, w, n, dim, eps, shift, whit_vec_get()};
	whit_items(T, n * dim, norm_item, &j);
}
