/* linear: y = x W^T + bias, W of any number format. */
#include <cblas.h>
#include "host/op_vec.h"
#include "host/ops.h"

void whit_linear_cpu(float *y, const float *x, int64_t T, const whit_mat *w, const float *bias) {
	float *row = whit_alloc((size_t)w->cols * sizeof *row);
	for (int64_t r = 0; r < w->rows; r++) {
		whit_mat_decode(w, r, r + 1, row);
		for (int64_t t = 0; t < T; t++) {
			double sum = bias ? bias[r] : 0;
			for (int64_t i = 0; i < w->cols; i++) sum += (double)row[i] * x[t * w->cols + i];
			y[t * w->rows + r] = (float)sum;
		}
	}
	whit_free(row);
}

enum { GEMM_ROWS = 128 }; /* rows of W in a tile of the GEMM path */
/* Rows of x rotated by one item. */
enum { ROTATE = 8 };

typedef struct linear_job {
	float *y;
	const float *x; /* (T, w->width) once rotated */
	int64_t T;
	const whit_mat *w;
	const float *bias;
	int64_t rows; /* of W, an item: fixed by the matrix alone, so that bytes do not depend on threads */
	float *tile;  /* rows * w->width floats for each worker, or NULL: the matrix is float already */
} linear_job;

typedef struct rotate_job {
	float *y;
	const float *x;
	int64_t T;
	const whit_mat *w;
} rotate_job;

static void rotate_item(void *ctx, int64_t i, int worker) {
	const rotate_job *j = ctx;
	(void)worker;
	int64_t t = i * ROTATE;
	whit_rotate_cpu(j->w->rot, j->y + t * j->w->width, j->x + t * j->w->cols, WHIT_MIN(ROTATE, j->T - t));
}

static void add_bias(const linear_job *j, int64_t r0, int64_t r1) {
	for (int64_t t = 0; j->bias && t < j->T; t++)
		for (int64_t r = r0; r < r1; r++) j->y[t * j->w->rows + r] += j->bias[r];
}

static void gemv_item(void *ctx, int64_t i, int worker) {
	const linear_job *j = ctx;
	(void)worker;
	int64_t r0 = i * j->rows, r1 = WHIT_MIN(r0 + j->rows, j->w->rows);
	j->w->spec.fmt->gemv(j->w, r0, r1, j->x, (int)j->T, j->y, j->w->rows);
	add_bias(j, r0, r1);
}

static void gemm_item(void *ctx, int64_t i, int worker) {
	const linear_job *j = ctx;
	const whit_mat *w = j->w;
	int64_t r0 = i * j->rows, r1 = WHIT_MIN(r0 + j->rows, w->rows);
	const float *tile;
	if (j->tile) {
		float *decoded = j->tile + worker * j->rows * w->width;
		w->spec.fmt->decode(w, r0, r1, decoded);
		tile = decoded;
	} else {
		tile = (const float *)(const void *)(w->plane[0] + r0 * (int64_t)w->row_bytes[0]);
	}
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)j->T, (int)(r1 - r0), (int)w->width, 1, j->x, (int)w->width,
	            tile, (int)w->width, 0, j->y + r0, (int)w->rows);
	add_bias(j, r0, r1);
}

static int is_plain_float(const whit_mat *w) {
	return !strcmp(w->spec.fmt->name, "f32") && (uintptr_t)w->plane[0] % sizeof(float) == 0 &&
	       w->row_bytes[0] == (size_t)w->width * sizeof(float);
}

void whit_linear_fast_cpu(float *y, const float *x, int64_t T, const whit_mat *w, const float *bias, whit_arena *scratch) {
	if (T == 0) return;
	whit_blas_serial();
	linear_job j = { y, x, T, w, bias, 0, NULL };
	if (w->rot) {
		rotate_job r = { whit_take(scratch, T * w->width), x, T, w };
		whit_items((T + ROTATE - 1) / ROTATE, ROTATE * w->width * 16, rotate_item, &r);
		j.x = r.y;
	}
	if (T <= WHIT_GEMV_MAX && w->spec.fmt->gemv) {
		/* about 64 KB of weights an item: enough to be worth handing out, small enough to balance */
		j.rows = WHIT_MAX(8, WHIT_MIN(256, 65536 / (int64_t)WHIT_MAX(w->row_bytes[0], 1)) / 8 * 8);
		whit_items((w->rows + j.rows - 1) / j.rows, j.rows * w->width * T, gemv_item, &j);
		return;
	}
	/* The fewer rows a tile has, the more often BLAS packs x again; the more, the less stays in cache. */
	j.rows = GEMM_ROWS;
	if (!is_plain_float(w)) j.tile = whit_take(scratch, j.rows * w->width * whit_threads());
	whit_items((w->rows + j.rows - 1) / j.rows, j.rows * w->width * T, gemm_item, &j);
}
