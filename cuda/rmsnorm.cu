/* rmsnorm: root mean square normalisation of runs of values. A block a run, sums in float in one order. */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256 };

__global__ void rmsnorm_kernel(float *y, const float *x, const float *w, int64_t dim, float eps, float shift) {
	float sum = 0;
	x += blockIdx.x * dim, y += blockIdx.x * dim;
	for (int64_t i = threadIdx.x; i < dim; i += THREADS) sum = fmaf(x[i], x[i], sum);
	float s = 1 / sqrtf(whit_block_sum(sum) / (float)dim + eps);
	for (int64_t i = threadIdx.x; i < dim; i += THREADS) y[i] = x[i] * s * (w[i] + shift);
}

extern "C" void whit_rmsnorm_cuda(whit_dev *d, float *y, const float *x, const float *w, int64_t T, int64_t n,
                                  int64_t dim, float eps, float shift) {
	if (T * n * dim == 0) return;
	WHIT_LAUNCH(rmsnorm_kernel, whit_blocks(T * n, 1), THREADS, 0, d, y, x, w, dim, eps, shift);
}

/* ---- gradients: a block a run, which leaves its factor; then a thread a column ---- */

__global__ void rmsnorm_back_kernel(float *dx, float *factor, const float *dy, const float *x, const float *w,
                                    int64_t dim, float eps, float shift) {
	float sq = 0, dot = 0;
	x += blockIdx.x * dim, dy += blockIdx.x * dim;
	for (int64_t i = threadIdx.x; i < dim; i += THREADS) {
		sq = fmaf(x[i], x[i], sq);
		dot = fmaf(dy[i] * (w[i] + shift), x[i], dot);
	}
	float s = 1 / sqrtf(whit_block_sum(sq) / (float)dim + eps), back = s * s * whit_block_sum(dot) / (float)dim;
	if (threadIdx.x == 0) factor[blockIdx.x] = s;
	for (int64_t i = threadIdx.x; dx && i < dim; i += THREADS)
		dx[blockIdx.x * dim + i] += s * ((w[i] + shift) * dy[i] - back * x[i]);
}

__global__ void rmsnorm_weight_kernel(float *dw, const float *factor, const float *dy, const float *x, int64_t runs,
                                      int64_t dim) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	double sum = 0;
	for (int64_t r = 0; r < runs && i < dim; r++) sum += (double)factor[r] * x[r * dim + i] * dy[r * dim + i];
	if (i < dim) dw[i] += (float)sum;
}

extern "C" void whit_rmsnorm_back_cuda(whit_dev *d, float *dx, float *dw, const float *dy, const float *x,
                                       const float *w, int64_t T, int64_t n, int64_t dim, float eps, float shift) {
	if (T * n * dim == 0) return;
	float *factor = (float *)whit_dev_take(d, (size_t)(T * n) * sizeof *factor);
	if (!factor) return;
	WHIT_LAUNCH(rmsnorm_back_kernel, whit_blocks(T * n, 1), THREADS, 0, d, dx, factor, dy, x, w, dim, eps, shift);
	if (dw)
		WHIT_LAUNCH(rmsnorm_weight_kernel, whit_blocks(dim, THREADS), THREADS, 0, d, dw, factor, dy, x, T * n,
		            dim);
}
