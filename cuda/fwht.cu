/* fwht: the Walsh-Hadamard transform in Sylvester order, in place. Butterflies in float, stages of rising distance, as
 * the CPU's fast twin has them: the same bits. Runs that a block holds are rotate.cu's; these are the plain kernels,
 * and those of longer runs. */
#include "cuda/rotate.cuh"
extern "C" {
#include "formats/rotation.h"
}

static constexpr int64_t THREADS = 256, SHARED = 8192; /* SHARED values are what a block holds */

/* Kernel 1: one stage of distance h, straight from and to memory. For rows no block can hold. */
__global__ void fwht_stage_kernel(float *x, int64_t pairs, int64_t h) {
	int64_t p = (int64_t)blockIdx.x * THREADS + threadIdx.x, j = p / h * 2 * h + p % h;
	if (p >= pairs) return;
	float a = x[j], b = x[j + h];
	x[j] = a + b;
	x[j + h] = a - b;
}

/* Kernel 2: the first stages of runs of n values, one read and one write: a run a block, five stages by shuffles in
 * registers, the others in shared memory. n >= 32. */
__global__ void fwht_kernel(float *x, int n) {
	WHIT_SHARED_DYNAMIC(float, v);
	x += (int64_t)blockIdx.x * n;
	for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
		float a = x[i];
		for (int h = 1; h < 32; h *= 2) {
			float b = __shfl_xor_sync(0xffffffffu, a, h);
			a = i & h ? b - a : a + b;
		}
		v[i] = a;
	}
	for (int h = 32; h < n; h *= 2) {
		__syncthreads();
		for (int p = (int)threadIdx.x; p < n / 2; p += (int)blockDim.x) {
			int j = p / h * 2 * h + p % h;
			float a = v[j], b = v[j + h];
			v[j] = a + b;
			v[j + h] = a - b;
		}
	}
	__syncthreads();
	for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) x[i] = v[i];
}

extern "C" void whit_fwht_cuda(whit_dev *d, float *x, int64_t rows, int64_t n) {
	int64_t h = 1;
	if (rows * n == 0) return;
	if (whit_fwht_takes(d, n)) {
		whit_fwht_fused(d, x, rows, n);
		return;
	}
	if (n >= 32) {
		h = WHIT_MIN(n, SHARED);
		WHIT_LAUNCH(fwht_kernel, whit_blocks(rows * n, h), (unsigned)WHIT_MIN(h, THREADS),
		            (size_t)h * sizeof(float), d, x, (int)h);
	}
	for (; h < n; h *= 2)
		WHIT_LAUNCH(fwht_stage_kernel, whit_blocks(rows * n / 2, THREADS), THREADS, 0, d, x, rows * n / 2, h);
}
