/* rope: rotary position embedding, halves paired. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

void whit_rope_cpu(float *y, const float *x, const int64_t *pos, int64_t T, int64_t heads, int64_t dim, int64_t rot,
                   const double *inv_freq, double mscale) {
	int64_t half = rot / 2;
	for (int64_t t = 0; t < T; t++) {
		for (int64_t h = 0; h < heads; h++, x += dim, y += dim) {
			for (int64_t i = 0; i < half; i++) {
				float angle = (float)((double)pos[t] * inv_freq[i]);
				double c = cos(angle) * mscale, s = sin(angle) * mscale, a = x[i], b = x[i + half];
				y[i] = (float)(a * c - b * s);
				y[i + half] = (float)(b * c + a * s);
			}
			if (y != x) memcpy(y + rot, x + rot, (size_t)(dim - rot) * sizeof(float));
		}
	}
}

enum { CHUNK = 128 }; /* angles at a time */

typedef struct rope_job {
	float *y;
	const float *x;
	const int64_t *pos;
	int64_t heads, dim, rot;
	const double *inv_freq;
	double mscale;
	const whit_vec *v;
} rope_job;

static void rope_item(void *ctx, int64_t t, int worker) {
	const rope_job *j = ctx;
	(void)worker;
	int64_t half = j->rot / 2;
	float cs[CHUNK], sn[CHUNK], a[2 * CHUNK];
	for (int64_t i = 0; i < half; i += CHUNK) {
		int64_t n = WHIT_MIN(CHUNK, half - i);
		j->v->sincos(cs, sn, j->inv_freq + i, (float)j->pos[t], (float)j->mscale, n);
		for (int64_t h = t * j->heads; h < (t + 1) * j->heads; h++) {
			const float *x = j->x + h * j->dim + i;
			float *y = j->y + h * j->dim + i;
			if (n == half) {
				j->v->rotate(y, x, cs, sn, n);
				continue;
			}
			memcpy(a, x, (size_t)n * sizeof *a); /* a part of each half, brought together */
			memcpy(a + n, x + half, (size_t)n * sizeof *a);
			j->v->rotate(a, a, cs, sn, n);
			memcpy(y, a, (size_t)n * sizeof *a);
			memcpy(y + half, a + n, (size_t)n * sizeof *a);
		}
	}
	for (int64_t h = t * j->heads; j->y != j->x && h < (t + 1) * j->heads; h++)
		memcpy(j->y + h * j->dim + j->rot, j->x + h * j->dim + j->rot,
		       (size_t)(j->dim - j->rot) * sizeof(float));
}

void whit_rope_fast_cpu(float *y, const float *x, const int64_t *pos, int64_t T, int64_t heads, int64_t dim,
                        int64_t rot, const double *inv_freq, double mscale) {
	rope_job j = {y, x, pos, heads, dim, rot, inv_freq, mscale, whit_vec_get()};
	whit_items(T, 2 * heads * dim + 4 * rot, rope_item, &j);
}

/* The transposed turn. */
void whit_rope_back_cpu(float *dx, const float *dy, const int64_t *pos, int64_t T, int64_t heads, int64_t dim,
                        int64_t rot, const double *inv_freq, double mscale) {
	int64_t half = rot / 2;
	for (int64_t t = 0; t < T; t++) {
		for (int64_t h = 0; h < heads; h++, dx += dim, dy += dim) {
			for (int64_t i = 0; i < half; i++) {
				float angle = (float)((double)pos[t] * inv_freq[i]);
				double c = cos(angle) * mscale, s = sin(angle) * mscale, a = dy[i], b = dy[i + half];
				dx[i] += (float)(a * c + b * s);
				dx[i + half] += (float)(b * c - a * s);
			}
			for (int64_t i = rot; i < dim; i++) dx[i] += dy[i];
		}
	}
}

static void rope_back_item(void *ctx, int64_t t, int worker) {
	const rope_job *j = ctx;
	(void)worker;
	int64_t half = j->rot / 2;
	float cs[CHUNK], sn[CHUNK];
	for (int64_t i = 0; i < half; i += CHUNK) {
		int64_t n = WHIT_MIN(CHUNK, half - i);
		j->v->sincos(cs, sn, j->inv_freq + i, (float)j->pos[t], (float)j->mscale, n);
		for (int64_t h = t * j->heads; h < (t + 1) * j->heads; h++) {
			const float *dy = j->x + h * j->dim + i;
			float *dx = j->y + h * j->dim + i;
			for (int64_t k = 0; k < n; k++) {
				dx[k] += dy[k] * cs[k] + dy[k + half] * sn[k];
				dx[k + half] += dy[k + half] * cs[k] - dy[k] * sn[k];
			}
		}
	}
	for (int64_t h = t * j->heads; h < (t + 1) * j->heads; h++)
		for (int64_t i = h * j->dim + j->rot; i < (h + 1) * j->dim; i++) j->y[i] += j->x[i];
}

void whit_rope_back_fast_cpu(float *dx, const float *dy, const int64_t *pos, int64_t T, int64_t heads, int64_t dim,
                             int64_t rot, const double *inv_freq, double mscale) {
	rope_job j = {dx, dy, pos, heads, dim, rot, inv_freq, mscale, whit_vec_get()};
	whit_items(T, 2 * heads * dim + 4 * rot, rope_back_item, &j);
}
