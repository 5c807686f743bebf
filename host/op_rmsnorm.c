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

/* With y_i = x_i s u_i, u = w + shift, s = (mean x^2 + eps)^-1/2: dx_i = s (u_i dy_i - x_i s^2 mean_j(dy_j u_j x_j)).
 */
void whit_rmsnorm_back_cpu(float *dx, float *dw, const float *dy, const float *x, const float *w, int64_t T, int64_t n,
                           int64_t dim, float eps, float shift) {
	double *sum = whit_alloc((size_t)dim * sizeof *sum);
	for (int64_t r = 0; r < T * n; r++, x += dim, dy += dim) {
		double sq = 0, dot = 0;
		for (int64_t i = 0; i < dim; i++) sq += (double)x[i] * x[i];
		for (int64_t i = 0; i < dim; i++) dot += (double)dy[i] * x[i] * ((double)w[i] + shift);
		double s = 1 / sqrt(sq / (double)dim + eps), back = s * s * dot / (double)dim;
		for (int64_t i = 0; i < dim; i++) {
			if (dx) dx[r * dim + i] += (float)(s * (((double)w[i] + shift) * dy[i] - back * x[i]));
			sum[i] += s * x[i] * dy[i];
		}
	}
	for (int64_t i = 0; dw && i < dim; i++) dw[i] += (float)sum[i];
	whit_free(sum);
}

typedef struct back_job {
	float *dx, *dw, *s; /* s: of each run */
	const float *dy, *x, *w;
	int64_t runs, n, dim;
	float eps, shift;
	const whit_vec *v;
} back_job;

static void back_item(void *ctx, int64_t t, int worker) {
	const back_job *j = ctx;
	(void)worker;
	for (int64_t r = t * j->n; r < (t + 1) * j->n; r++) {
		const float *x = j->x + r * j->dim, *dy = j->dy + r * j->dim;
		float s = j->s[r] = 1 / sqrtf(j->v->sumsq(x, j->dim) / (float)j->dim + j->eps), part[16] = {0}, dot = 0;
		if (!j->dx) continue;
		for (int64_t i = 0; i < j->dim; i++) part[i % 16] += dy[i] * x[i] * (j->w[i] + j->shift);
		for (int k = 0; k < 16; k++) dot += part[k];
		float back = s * s * dot / (float)j->dim, *dx = j->dx + r * j->dim;
		for (int64_t i = 0; i < j->dim; i++) dx[i] += s * ((j->w[i] + j->shift) * dy[i] - back * x[i]);
	}
}

enum { COLUMNS = 64 };

static void weight_item(void *ctx, int64_t item, int worker) {
	const back_job *j = ctx;
	int64_t c0 = item * COLUMNS, n = WHIT_MIN(COLUMNS, j->dim - c0);
	double sum[COLUMNS] = {0};
	(void)worker;
	for (int64_t r = 0; r < j->runs; r++) {
		const float *x = j->x + r * j->dim + c0, *dy = j->dy + r * j->dim + c0;
		double s = j->s[r];
		for (int64_t i = 0; i < n; i++) sum[i] += s * x[i] * dy[i];
	}
	for (int64_t i = 0; i < n; i++) j->dw[c0 + i] += (float)sum[i];
}

void whit_rmsnorm_back_fast_cpu(float *dx, float *dw, const float *dy, const float *x, const float *w, int64_t T,
                                int64_t n, int64_t dim, float eps, float shift, whit_arena *scratch) {
	back_job j = {dx, dw, whit_take(scratch, T * n), dy, x, w, T * n, n, dim, eps, shift, whit_vec_get()};
	whit_items(T, 3 * n * dim, back_item, &j);
	if (dw) whit_items((dim + COLUMNS - 1) / COLUMNS, COLUMNS * T * n, weight_item, &j);
}
