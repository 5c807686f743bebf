/* measure: sums of squares and a search, run by run. A thread holds one of the CPU's eight sums of a run, so that the
 * order is the CPU's; there are enough runs in a strip of a matrix to fill a device. */
#include "cuda/dev.cuh"
extern "C" {
#include "formats/measure.h"
}

enum { THREADS = 128, SUMS = 8 };

__global__ void sum_squares_kernel(double *sum, const float *x, const float *y, int64_t n, int64_t run) {
	int64_t r = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / SUMS, at = r * run;
	int k = (int)threadIdx.x % SUMS;
	int64_t here = at < n ? WHIT_MIN(run, n - at) : 0, whole = here / SUMS * SUMS;
	double s = 0;
	for (int64_t i = at + k; i < at + whole; i += SUMS) {
		double d = y ? (double)x[i] - y[i] : x[i];
		s += d * d;
	}
	for (int64_t i = at + whole; k == 0 && i < at + here; i++) {
		double d = y ? (double)x[i] - y[i] : x[i];
		s += d * d;
	}
	for (int m = 1; m < SUMS; m *= 2) s += __shfl_xor_sync(0xffffffffu, s, m);
	if (k == 0 && here) sum[r] = s;
}

/* A warp a run: each lane finds its first, the least of them counts. */
__global__ void first_nonfinite_kernel(int64_t *first, const float *x, int64_t n, int64_t run) {
	int64_t r = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32, at = r * run;
	int lane = (int)threadIdx.x % 32;
	int64_t here = at < n ? WHIT_MIN(run, n - at) : 0, found = INT64_MAX;
	for (int64_t i = lane; i < here; i += 32)
		if (!isfinite(x[at + i])) {
			found = i;
			break;
		}
	for (int m = 16; m > 0; m /= 2) {
		int64_t other = __shfl_xor_sync(0xffffffffu, found, m);
		found = WHIT_MIN(found, other);
	}
	if (lane == 0 && here) first[r] = found == INT64_MAX ? -1 : found;
}

extern "C" void whit_sum_squares_cuda(whit_dev *d, double *sum, const float *x, const float *y, int64_t n,
                                      int64_t run) {
	if (n == 0) return;
	int64_t runs = (n + run - 1) / run;
	WHIT_LAUNCH(sum_squares_kernel, whit_blocks(runs * SUMS, THREADS), THREADS, 0, d, sum, x, y, n, run);
}

extern "C" void whit_first_nonfinite_cuda(whit_dev *d, int64_t *first, const float *x, int64_t n, int64_t run) {
	if (n == 0) return;
	int64_t runs = (n + run - 1) / run;
	WHIT_LAUNCH(first_nonfinite_kernel, whit_blocks(runs * 32, THREADS), THREADS, 0, d, first, x, n, run);
}
