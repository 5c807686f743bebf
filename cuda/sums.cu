/* sums: what statistics add up. A thread has a column, or a warp a row, in the order of host/op_sums.c: the same bits.
 */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 128 };

__global__ void column_sums_kernel(double *sum, double *sq, const float *x, const double *weight, int64_t T,
                                   int64_t cols) {
	int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (c >= cols) return;
	double s = sum ? sum[c] : 0, q = sq ? sq[c] : 0;
	for (int64_t t = 0; t < T; t++) {
		double v = x[t * cols + c], v2 = v * v;
		s += v;
		q += weight ? weight[t] * v2 : v2;
	}
	if (sum) sum[c] = s;
	if (sq) sq[c] = q;
}

extern "C" void whit_column_sums_cuda(whit_dev *d, double *sum, double *sq, const float *x, const double *weight,
                                      int64_t T, int64_t cols) {
	if (T * cols == 0) return;
	WHIT_LAUNCH(column_sums_kernel, whit_blocks(cols, THREADS), THREADS, 0, d, sum, sq, x, weight, T, cols);
}

__global__ void row_squares_kernel(double *n, const float *x, int64_t T, int64_t cols, int64_t ld, int add) {
	int64_t t = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
	int lane = (int)threadIdx.x % 32;
	double part = 0;
	for (int64_t c = lane; c < cols && t < T; c += 32) {
		double v = x[t * ld + c];
		part += v * v;
	}
	for (int half = 16; half > 0; half /= 2) part += __shfl_xor_sync(0xffffffffu, part, half);
	if (lane == 0 && t < T) n[t] = add ? n[t] + part : part;
}

static void row_squares(whit_dev *d, double *n, const float *x, int64_t T, int64_t cols, int64_t ld, int add) {
	if (T) WHIT_LAUNCH(row_squares_kernel, whit_blocks(T, THREADS / 32), THREADS, 0, d, n, x, T, cols, ld, add);
}

extern "C" void whit_row_squares_cuda(whit_dev *d, double *n, const float *x, int64_t T, int64_t cols, int64_t ld) {
	row_squares(d, n, x, T, cols, ld, 0);
}

__global__ void squares_add_kernel(float *full, const float *g, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) full[i] += g[i] * g[i];
}

extern "C" void whit_square_sums_cuda(whit_dev *d, float *full, double *row, double *col, const float *g, int64_t rows,
                                      int64_t cols) {
	int64_t n = rows * cols;
	if (!n) return;
	if (full) WHIT_LAUNCH(squares_add_kernel, whit_blocks(n, THREADS), THREADS, 0, d, full, g, n);
	if (row) row_squares(d, row, g, rows, cols, cols, 1);
	if (col) whit_column_sums_cuda(d, NULL, col, g, NULL, rows, cols);
}

__global__ void rows_scale_kernel(float *y, const float *x, const double *w, int64_t n, int64_t cols) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = w ? (float)(x[i] * w[i / cols]) : x[i] * x[i];
}

extern "C" void whit_rows_scale_cuda(whit_dev *d, float *y, const float *x, const double *w, int64_t T, int64_t cols) {
	int64_t n = T * cols;
	if (n) WHIT_LAUNCH(rows_scale_kernel, whit_blocks(n, THREADS), THREADS, 0, d, y, x, w, n, cols);
}
