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
