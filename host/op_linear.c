/* linear: y = x W^T + bias, W of any number format. */
#include "formats/ints.h"
#include "host/op_vec.h"
#include "host/ops.h"

/* Block formats: activations are rounded (ints.h). */
static void linear_ints(float *y, const float *x, int64_t T, const whit_mat *w, const float *bias) {
	float *frame = NULL, *stored = whit_alloc((size_t)(T * w->rows) * sizeof *stored);
	if (w->rot) {
		frame = whit_alloc((size_t)(T * w->width) * sizeof *frame);
		whit_rotate_cpu(w->rot, frame, x, T);
	}
	whit_ints_linear_plain(stored, frame ? frame : x, T, w);
	for (int64_t i = 0; i < T * w->rows; i++) {
		int64_t r = i % w->rows;
		y[i] = stored[i - r + whit_mat_row(w, r)] + (bias ? bias[r] : 0);
	}
	whit_free(stored);
	whit_free(frame);
}

void whit_low_cpu(float *y, const float *x, int64_t T, int64_t rows, int64_t width, const whit_low *low) {
	double *ax = whit_alloc((size_t)(low->rank + 1) * sizeof *ax);
	for (int64_t t = 0; t < T; t++) {
		for (int64_t k = 0; k < low->rank; k++) {
			ax[k] = 0;
			for (int64_t i = 0; i < width; i++)
				ax[k] += (double)whit_f16_to_f32(low->a[k * width + i]) * x[t * width + i];
		}
		for (int64_t r = 0; r < rows; r++) {
			double sum = 0;
			for (int64_t k = 0; k < low->rank; k++)
				sum += whit_f16_to_f32(low->b[r * low->rank + k]) * ax[k];
			y[t * rows + r] = (float)(y[t * rows + r] + low->scale * sum);
		}
	}
	whit_free(ax);
}

void whit_linear_cpu(float *y, const float *x, int64_t T, const whit_mat *w, const float *bias) {
	if (w->spec.fmt->block) {
		linear_ints(y, x, T, w, bias);
		return;
	}
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

/* The GEMM path. Rows of W are decoded a tile at a time, stay in L2 and are spread over vectors of tokens, so
 * x is packed once: blocks of DEPTH columns, each cut into panels of as many tokens as registers hold. Sums
 * run over k in order within a block, then over blocks: an output does not depend on the other tokens.
 * Not OpenBLAS: on a processor younger than itself it falls back to SSE3 and a third of this speed, and it
 * would pack x again for every tile. */
enum {
	DEPTH = 512,      /* columns of a block: sums of blocks also round less than one long sum */
	TOKENS = 576,     /* tokens of an item: a multiple of every level's panel (2, 24, 32) */
	ROWS = 96,        /* rows of W in an item at most: a multiple of 12, one register tile */
	TILE = 640 << 10, /* bytes of W in an item at most */
	PAD = 16,         /* between rows of a tile: rows 4096 bytes apart would share one cache set */
	STEP = 64,        /* columns packed at a time */
	ROTATE = 8        /* rows of x rotated by an item */
};

typedef struct linear_job {
	float *y;
	const float *x; /* (T, w->width), rotated */
	int64_t T;
	const whit_mat *w;
	const float *bias;
	int64_t rows;  /* of W, an item */
	float *packed; /* x in panels */
	float *tile;   /* per worker: rows * (w->width + PAD) of W, then rows * TOKENS of y */
	int64_t tile_size;
	const whit_vec *v;
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

static void gemv_item(void *ctx, int64_t i, int worker) {
	const linear_job *j = ctx;
	(void)worker;
	int64_t r0 = i * j->rows, r1 = WHIT_MIN(r0 + j->rows, j->w->rows);
	j->w->spec.fmt->gemv(j->w, r0, r1, j->x, (int)j->T, j->y, j->w->rows);
	for (int64_t t = 0; j->bias && t < j->T; t++)
		for (int64_t r = r0; r < r1; r++) j->y[t * j->w->rows + r] += j->bias[r];
}

typedef struct ints_job {
	whit_ints_plan plan;
	float *y;
	const float *x, *bias;
	uint8_t *work; /* plan.work_bytes for each worker */
} ints_job;

static void prepare_item(void *ctx, int64_t i, int worker) {
	const ints_job *j = ctx;
	whit_ints_prepare(&j->plan, i, j->x, j->work + (size_t)worker * j->plan.work_bytes);
}

static void ints_item(void *ctx, int64_t i, int worker) {
	const ints_job *j = ctx;
	int64_t rows = j->plan.m->rows, r0 = i * j->plan.rows, r1 = WHIT_MIN(r0 + j->plan.rows, rows);
	whit_ints_item(&j->plan, i, j->y, j->work + (size_t)worker * j->plan.work_bytes);
	for (int64_t t = 0; j->bias && t < j->plan.T; t++)
		for (int64_t r = r0; r < r1; r++) j->y[t * rows + r] += j->bias[r];
}

static void ints_run(const linear_job *l, whit_arena *scratch) {
	ints_job j = {.y = l->y, .x = l->x, .bias = l->bias};
	whit_ints_plan *p = &j.plan;
	whit_ints_plan_make(p, l->w, l->T);
	p->x = whit_take_bytes(scratch, p->x_bytes);
	p->work_bytes = (p->work_bytes + 63) / 64 * 64;
	j.work = whit_take_bytes(scratch, p->work_bytes * (size_t)whit_threads());
	whit_items(p->panels, p->tokens * l->w->width * 4, prepare_item, &j);
	whit_items(p->items, p->rows * l->w->width * l->T / 2, ints_item, &j);
}

/* Where the panel of tokens [t, ...) of column block k stands: blocks one after another, panels within. */
static int64_t panel_at(const linear_job *j, int64_t k, int64_t t) {
	int64_t padded = (j->T + j->v->columns - 1) / j->v->columns * j->v->columns;
	return k * padded + t * WHIT_MIN(DEPTH, j->w->width - k);
}

static void pack_item(void *ctx, int64_t i, int worker) {
	const linear_job *j = ctx;
	(void)worker;
	int64_t P = j->v->columns, t0 = i * P, n = WHIT_MIN(P, j->T - t0), width = j->w->width;
	for (int64_t k0 = 0; k0 < width; k0 += DEPTH) {
		float *p = j->packed + panel_at(j, k0, t0);
		int64_t depth = WHIT_MIN(DEPTH, width - k0);
		for (int64_t kk = 0; kk < depth; kk += STEP) /* so that the lines written stay in L1 */
			for (int64_t t = 0; t < n; t++)
				for (int64_t k = kk; k < WHIT_MIN(kk + STEP, depth); k++)
					p[k * P + t] = j->x[(t0 + t) * width + k0 + k];
	}
}

static void gemm_item(void *ctx, int64_t item, int worker) {
	const linear_job *j = ctx;
	const whit_mat *w = j->w;
	int64_t blocks = (w->rows + j->rows - 1) / j->rows, P = j->v->columns, ld = w->width + PAD;
	int64_t r0 = item % blocks * j->rows, n = WHIT_MIN(j->rows, w->rows - r0);
	int64_t t0 = item / blocks * TOKENS, t1 = WHIT_MIN(t0 + TOKENS, j->T);
	float *tile = j->tile + worker * j->tile_size, *c = tile + j->rows * ld;
	for (int64_t i = 0; i < n; i++) w->spec.fmt->decode(w, r0 + i, r0 + i + 1, tile + i * ld);
	for (int64_t k = 0; k < w->width; k += DEPTH)
		for (int64_t t = t0; t < t1; t += P)
			j->v->gemm(n, WHIT_MIN(P, t1 - t), WHIT_MIN(DEPTH, w->width - k), tile + k, ld, 1,
			           j->packed + panel_at(j, k, t), P, c + t - t0, TOKENS, k > 0);
	for (int64_t t = t0; t < t1; t++)
		for (int64_t i = 0; i < n; i++)
			j->y[t * w->rows + r0 + i] = c[i * TOKENS + t - t0] + (j->bias ? j->bias[r0 + i] : 0);
}

/* A matrix whose rows are stored in pairs was multiplied in stored order: puts each token's outputs into logical
 * order. bias: none was added yet. */
static void unpair(float *y, int64_t T, const whit_mat *w, const float *bias, whit_arena *scratch) {
	float *row = whit_take(scratch, w->rows);
	for (int64_t t = 0; t < T; t++, y += w->rows) {
		memcpy(row, y, (size_t)w->rows * sizeof *row);
		for (int64_t r = 0; r < w->rows; r++) y[r] = row[whit_mat_row(w, r)] + (bias ? bias[r] : 0);
	}
}

/* In the order of stored rows. */
static void linear_stored(float *y, const float *x, int64_t T, const whit_mat *w, const float *bias,
                          whit_arena *scratch) {
	linear_job j = {.y = y, .x = x, .T = T, .w = w, .bias = bias, .v = whit_vec_get()};
	if (w->rot) {
		rotate_job r = {whit_take(scratch, T * w->width), x, T, w};
		whit_items((T + ROTATE - 1) / ROTATE, ROTATE * w->width * 16, rotate_item, &r);
		j.x = r.y;
	}
	if (w->spec.fmt->block) {
		ints_run(&j, scratch);
		return;
	}
	if (T <= WHIT_GEMV_MAX && w->spec.fmt->gemv) {
		/* about 64 KB of weights an item: enough to be worth handing out, small enough to balance */
		j.rows = WHIT_MAX(8, WHIT_MIN(256, 65536 / (int64_t)WHIT_MAX(w->row_bytes[0], 1)) / 8 * 8);
		whit_items((w->rows + j.rows - 1) / j.rows, j.rows * w->width * T, gemv_item, &j);
		return;
	}
	int64_t P = j.v->columns, panels = (T + P - 1) / P;
	/* Many rows read x less often, few balance threads; the result is the same. */
	int64_t fit = TILE / (int64_t)sizeof(float) / w->width, share = w->rows / (8 * whit_threads());
	j.rows = WHIT_MAX(12, WHIT_MIN(ROWS, WHIT_MIN(fit, share)) / 12 * 12);
	j.packed = whit_take(scratch, panels * P * w->width);
	j.tile_size = j.rows * (w->width + PAD + TOKENS);
	j.tile = whit_take(scratch, j.tile_size * whit_threads());
	whit_items(panels, P * w->width, pack_item, &j);
	int64_t blocks = (w->rows + j.rows - 1) / j.rows;
	whit_items(blocks * ((T + TOKENS - 1) / TOKENS), j.rows * w->width * WHIT_MIN(T, TOKENS), gemm_item, &j);
}

void whit_linear_fast_cpu(float *y, const float *x, int64_t T, const whit_mat *w, const float *bias,
                          whit_arena *scratch) {
	linear_stored(y, x, T, w, w->paired ? NULL : bias, scratch);
	if (w->paired) unpair(y, T, w, bias, scratch);
}

/* ---- gradients ---- */

void whit_linear_back_cpu(float *dx, const float *dy, int64_t T, const whit_mat *w) {
	float *row = whit_alloc((size_t)w->cols * sizeof *row);
	double *sum = whit_alloc((size_t)(T * w->cols + 1) * sizeof *sum);
	for (int64_t r = 0; r < w->rows; r++) {
		whit_mat_decode(w, r, r + 1, row);
		for (int64_t t = 0; t < T; t++)
			for (int64_t i = 0; i < w->cols; i++)
				sum[t * w->cols + i] += (double)dy[t * w->rows + r] * row[i];
	}
	for (int64_t i = 0; i < T * w->cols; i++) dx[i] += (float)sum[i];
	whit_free(row);
	whit_free(sum);
}

/* BACK_ROWS rows of W at a time are decoded once for all tokens; a panel of their columns stays in L1 while the tokens
 * pass. Sums run over rows in order within such a block, then over blocks. */
enum { BACK_ROWS = 256, BACK_COLUMNS = 96, BACK_ITEM = 8 };

typedef struct linear_back_job {
	float *dx;       /* (T, width) */
	const float *dy; /* (T, rows), in stored order */
	int64_t T, r0, n;
	const whit_mat *w;
	float *tile; /* (BACK_ROWS, width + PAD) */
	const whit_vec *v;
} linear_back_job;

static void back_decode_item(void *ctx, int64_t i, int worker) {
	const linear_back_job *j = ctx;
	int64_t ld = j->w->width + PAD;
	(void)worker;
	for (int64_t r = i * BACK_ITEM; r < WHIT_MIN(j->n, (i + 1) * BACK_ITEM); r++)
		j->w->spec.fmt->decode(j->w, j->r0 + r, j->r0 + r + 1, j->tile + r * ld);
}

static void back_gemm_item(void *ctx, int64_t i, int worker) {
	const linear_back_job *j = ctx;
	int64_t c = i * BACK_COLUMNS, width = j->w->width;
	(void)worker;
	j->v->gemm(j->T, WHIT_MIN(BACK_COLUMNS, width - c), j->n, j->dy + j->r0, j->w->rows, 1, j->tile + c,
	           width + PAD, j->dx + c, width, 1);
}

void whit_linear_back_fast_cpu(float *dx, const float *dy, int64_t T, const whit_mat *w, whit_arena *scratch) {
	linear_back_job j = {.dx = dx, .dy = dy, .T = T, .w = w, .v = whit_vec_get()};
	if (w->paired) {
		float *stored = whit_take(scratch, T * w->rows);
		for (int64_t i = 0; i < T * w->rows; i++) {
			int64_t r = i % w->rows;
			stored[i - r + whit_mat_row(w, r)] = dy[i];
		}
		j.dy = stored;
	}
	if (w->rot) {
		j.dx = whit_take(scratch, T * w->width);
		memset(j.dx, 0, (size_t)(T * w->width) * sizeof *j.dx);
	}
	j.tile = whit_take(scratch, BACK_ROWS * (w->width + PAD));
	for (j.r0 = 0; j.r0 < w->rows; j.r0 += BACK_ROWS) {
		j.n = WHIT_MIN(BACK_ROWS, w->rows - j.r0);
		whit_items((j.n + BACK_ITEM - 1) / BACK_ITEM, BACK_ITEM * w->width, back_decode_item, &j);
		whit_items((w->width + BACK_COLUMNS - 1) / BACK_COLUMNS, BACK_COLUMNS * T * j.n, back_gemm_item, &j);
	}
	if (!w->rot) return;
	float *row = whit_take(scratch, w->cols);
	for (int64_t t = 0; t < T; t++) {
		whit_unrotate_cpu(w->rot, row, j.dx + t * w->width, 1);
		for (int64_t i = 0; i < w->cols; i++) dx[t * w->cols + i] += row[i];
	}
}

void whit_multiply_add_cpu(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb,
                           int64_t rows, int64_t n, int64_t k) {
	const whit_vec *v = whit_vec_get();
	for (int64_t i = 0; i < n; i += BACK_COLUMNS)
		v->gemm(rows, WHIT_MIN(BACK_COLUMNS, n - i), k, a, lda, 1, b + i, ldb, c + i, ldc, 1);
}

void whit_linear_grad_cpu(float *dw, float *dbias, const float *dy, const float *x, int64_t T, int64_t rows,
                          int64_t cols) {
	for (int64_t r = 0; r < rows; r++) {
		double bias = 0;
		for (int64_t t = 0; t < T; t++) bias += dy[t * rows + r];
		if (dbias) dbias[r] += (float)bias;
		for (int64_t c = 0; dw && c < cols; c++) {
			double sum = 0;
			for (int64_t t = 0; t < T; t++) sum += (double)dy[t * rows + r] * x[t * cols + c];
			dw[r * cols + c] += (float)sum;
		}
	}
}

enum { GRAD_TOKENS = 256, GRAD_ROWS = 192 };

typedef struct grad_job {
	float *dw, *dbias, *turned; /* dy^T (rows, T) */
	const float *dy, *x;
	int64_t T, rows, cols;
	const whit_vec *v;
} grad_job;

static void turn_item(void *ctx, int64_t i, int worker) {
	const grad_job *j = ctx;
	(void)worker;
	for (int64_t r = i * 16; r < WHIT_MIN(j->rows, (i + 1) * 16); r++) {
		double sum = 0;
		for (int64_t t = 0; t < j->T; t++) sum += j->turned[r * j->T + t] = j->dy[t * j->rows + r];
		if (j->dbias) j->dbias[r] += (float)sum;
	}
}

static void grad_item(void *ctx, int64_t item, int worker) {
	const grad_job *j = ctx;
	int64_t panels = (j->cols + BACK_COLUMNS - 1) / BACK_COLUMNS, c = item % panels * BACK_COLUMNS;
	int64_t r = item / panels * GRAD_ROWS;
	(void)worker;
	for (int64_t t = 0; t < j->T; t += GRAD_TOKENS)
		j->v->gemm(WHIT_MIN(GRAD_ROWS, j->rows - r), WHIT_MIN(BACK_COLUMNS, j->cols - c),
		           WHIT_MIN(GRAD_TOKENS, j->T - t), j->turned + r * j->T + t, j->T, 1, j->x + t * j->cols + c,
		           j->cols, j->dw + r * j->cols + c, j->cols, 1);
}

void whit_linear_grad_fast_cpu(float *dw, float *dbias, const float *dy, const float *x, int64_t T, int64_t rows,
                               int64_t cols, whit_arena *scratch) {
	grad_job j = {dw, dbias, whit_take(scratch, T * rows), dy, x, T, rows, cols, whit_vec_get()};
	int64_t panels = (cols + BACK_COLUMNS - 1) / BACK_COLUMNS;
	whit_items((rows + 15) / 16, 16 * T, turn_item, &j);
	if (dw) whit_items((rows + GRAD_ROWS - 1) / GRAD_ROWS * panels, GRAD_ROWS * BACK_COLUMNS * T, grad_item, &j);
}
