/* add: the residual connection. */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256 };

__global__ void add_kernel(float *y, const float *a, const float *b, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = a[i] + b[i];
}

extern "C" void whit_add_cuda(whit_dev *d, float *y, const float *a, const float *b, int64_t n) {
	if (n) WHIT_LAUNCH(add_kernel, whit_blocks(n, THREADS), THREADS, 0, d, y, a, b, n);
}
