/* sums: what statistics add up: columns, rows, squares, and the Gram matrix of a batch. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

enum { COLUMNS = 64, ROWS = 16 }; /* of an item: 8 cache lines of sums; rows of a matrix */

typedef struct sums_job {
	double *sum, *sq;
	float *full;
	const float *x;
	const double *weight;
	int64_t T, cols;
} sums_job;

static void columns_item(void *ctx, int64_t i, int worker) {
	const sums_job *j = ctx;
	int64_t c0 = i * COLUMNS, n = WHIT_MIN(COLUMNS, j->cols - c0);
	double *sum = j->sum ? j->sum + c0 : NULL, *sq = j->sq ? j->sq + c0 : NULL;
	(void)worker;
	for (int64_t t0 = 0; t0 < j->T; t0 += WHIT_SUM_ROWS) {
		double s[COLUMNS] = {0}, q[COLUMNS] = {0};
		for (int64_t t = t0; t < WHIT_MIN(j->T, t0 + WHIT_SUM_ROWS); t++) {
			const float *x = j->x + t * j->cols + c0;
			double w = j->weight ? j->weight[t] : 1;
			for (int64_t c = 0; c < n && sum; c++) s[c] += x[c];
			for (int64_t c = 0; c < n && sq; c++) q[c] += w * ((double)x[c] * x[c]); /* an exact square */
		}
		for (int64_t c = 0; c < n && sum; c++) sum[c] += s[c];
		for (int64_t c = 0; c < n && sq; c++) sq[c] += q[c];
	}
}

void whit_column_sums_cpu(double *sum, double *sq, const float *x, const double *weight, int64_t T, int64_t cols) {
	sums_job j = {.sum = sum, .sq = sq, .x = x, .weight = weight, .T = T, .cols = cols};
	whit_items((cols + COLUMNS - 1) / COLUMNS, COLUMNS * T, columns_item, &j);
}

static void sizes_item(void *ctx, int64_t i, int worker) {
	const sums_job *j = ctx;
	int64_t c0 = i * COLUMNS, n = WHIT_MIN(COLUMNS, j->cols - c0);
	(void)worker;
	for (int64_t t = 0; t < j->T; t++) {
		const float *x = j->x + t * j->cols + c0;
		for (int64_t c = 0; c < n; c++) j->sum[c0 + c] += fabsf(x[c]);
		for (int64_t c = 0; c < n; c++) j->sq[c0 + c] = fmax(j->sq[c0 + c], fabsf(x[c]));
	}
}

void whit_column_sizes_cpu(double *sum, double *most, const float *x, int64_t T, int64_t cols) {
	sums_job j = {.sum = sum, .sq = most, .x = x, .T = T, .cols = cols};
	whit_items((cols + COLUMNS - 1) / COLUMNS, COLUMNS * T, sizes_item, &j);
}

/* Of up to WHIT_SUM_COLS values: lane by lane of a warp, halves added to halves, an order that vectors have too. */
static double span_squares(const float *x, int64_t n) {
	enum { LANES = 32 };
	double part[LANES] = {0};
	int64_t i = 0;
	for (; i + LANES <= n; i += LANES)
		for (int k = 0; k < LANES; k++) part[k] += (double)x[i + k] * x[i + k];
	for (int k = 0; i + k < n; k++) part[k] += (double)x[i + k] * x[i + k];
	for (int half = LANES / 2; half > 0; half /= 2)
		for (int k = 0; k < half; k++) part[k] += part[k + half];
	return part[0];
}

static double squares(double sum, const float *x, int64_t n) {
	for (int64_t i = 0; i < n; i += WHIT_SUM_COLS) sum += span_squares(x + i, WHIT_MIN(WHIT_SUM_COLS, n - i));
	return sum;
}

static void rows_item(void *ctx, int64_t i, int worker) {
	const sums_job *j = ctx;
	(void)worker;
	j->sum[i] = squares(0, j->x + i * j->T, j->cols);
}

void whit_row_squares_cpu(double *n, const float *x, int64_t T, int64_t cols, int64_t ld) {
	sums_job j = {.sum = n, .x = x, .cols = cols, .T = ld};
	whit_items(T, cols, rows_item, &j);
}

static void square_item(void *ctx, int64_t i, int worker) {
	const sums_job *j = ctx;
	(void)worker;
	for (int64_t r = i * ROWS; r < WHIT_MIN(j->T, (i + 1) * ROWS); r++) {
		const float *g = j->x + r * j->cols;
		float *full = j->full ? j->full + r * j->cols : NULL;
		for (int64_t c = 0; c < j->cols && full; c++) full[c] += g[c] * g[c];
		if (j->sum) j->sum[r] = squares(j->sum[r], g, j->cols);
	}
}

void whit_square_sums_cpu(float *full, double *row, double *col, const float *g, int64_t rows, int64_t cols) {
	sums_job j = {.sum = row, .full = full, .x = g, .T = rows, .cols = cols};
	if (full || row) whit_items((rows + ROWS - 1) / ROWS, ROWS * cols, square_item, &j);
	if (col) whit_column_sums_cpu(NULL, col, g, NULL, rows, cols);
}

typedef struct scale_job {
	float *y;
	const float *x;
	const double *w;
	int64_t cols;
} scale_job;

static void scale_item(void *ctx, int64_t t, int worker) {
	const scale_job *j = ctx;
	const float *x = j->x + t * j->cols;
	float *y = j->y + t * j->cols;
	(void)worker;
	for (int64_t c = 0; c < j->cols; c++) y[c] = j->w ? (float)(x[c] * j->w[t]) : x[c] * x[c];
}

void whit_rows_scale_cpu(float *y, const float *x, const double *w, int64_t T, int64_t cols) {
	scale_job j = {y, x, w, cols};
	whit_items(T, cols, scale_item, &j);
}

void whit_gram_cpu(float *h, const float *x, int64_t T, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < n; j++) {
			double sum = 0;
			for (int64_t t = 0; t < T; t++) sum += (double)x[t * n + i] * x[t * n + j];
			h[i * n + j] += (float)sum;
		}
}

/* x in panels of P columns, (T, P) each, zeros behind the last column: both factors of a tile come from there. */
enum {
	P = 96,     /* a multiple of every level's register tile: 12 rows; 2, 24 or 32 columns */
	DEPTH = 512 /* tokens of a block: sums of blocks round less than one long sum, and panels stay in cache */
};

typedef struct gram_job {
	float *h, *panel, *tile;
	const float *x;
	int64_t T, n, panels;
	const whit_vec *v;
} gram_job;

static void panel_item(void *ctx, int64_t i, int worker) {
	const gram_job *j = ctx;
	int64_t n = WHIT_MIN(P, j->n - i * P);
	float *p = j->panel + i * j->T * P;
	(void)worker;
	for (int64_t t = 0; t < j->T; t++, p += P) {
		memcpy(p, j->x + t * j->n + i * P, (size_t)n * sizeof *p);
		memset(p + n, 0, (size_t)(P - n) * sizeof *p);
	}
}

/* Panel i of rows against panels i.. of columns; rows of h right of the diagonal and a little left of it. */
static void gram_item(void *ctx, int64_t i, int worker) {
	const gram_job *j = ctx;
	int64_t rows = WHIT_MIN(P, j->n - i * P);
	float *c = j->tile + worker * P * P;
	for (int64_t k = i; k < j->panels; k++) {
		int64_t cols = WHIT_MIN(P, j->n - k * P);
		const float *a = j->panel + i * j->T * P, *b = j->panel + k * j->T * P;
		for (int64_t t = 0; t < j->T; t += DEPTH) {
			j->v->gemm(rows, cols, WHIT_MIN(DEPTH, j->T - t), a + t * P, 1, P, b + t * P, P, c, P, 0);
			for (int64_t r = 0; r < rows; r++)
				for (int64_t q = 0; q < cols; q++) j->h[(i * P + r) * j->n + k * P + q] += c[r * P + q];
		}
	}
}

void whit_gram_fast_cpu(float *h, const float *x, int64_t T, int64_t n, whit_arena *scratch) {
	gram_job j = {.h = h, .x = x, .T = T, .n = n, .v = whit_vec_get()};
	j.panels = (n + P - 1) / P;
	j.panel = whit_take(scratch, j.panels * P * T);
	j.tile = whit_take(scratch, P * P * whit_threads());
	whit_items(j.panels, T * P, panel_item, &j);
	whit_items(j.panels, T * P * n, gram_item, &j);
}

void whit_gram_mirror_cpu(float *h, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < i; j++) h[i * n + j] = h[j * n + i];
}
