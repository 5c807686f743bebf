/* swiglu: the gated activation of the feed-forward part. */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256 };

__global__ void swiglu_kernel(float *y, const float *gate, const float *up, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

extern "C" void whit_swiglu_cuda(whit_dev *d, float *y, const float *gate, const float *up, int64_t n) {
	if (n) WHIT_LAUNCH(swiglu_kernel, whit_blocks(n, THREADS), THREADS, 0, d, y, gate, up, n);
}

__global__ void swiglu_back_kernel(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                                   int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n) return;
	float s = 1 / (1 + expf(-gate[i]));
	if (dgate) dgate[i] += dy[i] * up[i] * s * (1 + gate[i] * (1 - s));
	if (dup) dup[i] += dy[i] * gate[i] * s;
}

extern "C" void whit_swiglu_back_cuda(whit_dev *d, float *dgate, float *dup, const float *dy, const float *gate,
                                      const float *up, int64_t n) {
	if (n) WHIT_LAUNCH(swiglu_back_kernel, whit_blocks(n, THREADS), THREADS, 0, d, dgate, dup, dy, gate, up, n);
}
