/* factors: what is done to a solver's matrices around cuSOLVER and cuBLAS (cuda/dev.h): a thread a value, bound by
 * memory; the CPU's bits (calib/feedback_make.c). */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256 };

/* J a J is a from its end to its beginning; a value and the one that it changes places with lie both on the diagonal,
 * every n + 1st, or both beside it. */
__global__ void turn_kernel(double *a, int64_t n, double more) {
	int64_t p = (int64_t)blockIdx.x * THREADS + threadIdx.x, q = n * n - 1 - p;
	if (p > q) return;
	double x = a[p], y = a[q], plus = p % (n + 1) ? 0 : more;
	a[p] = y + plus;
	a[q] = x + plus;
}
extern "C" void whit_turn_cuda(whit_dev *d, double *a, int64_t n, double more) {
	if (n > 0) WHIT_LAUNCH(turn_kernel, whit_blocks((n * n + 1) / 2, THREADS), THREADS, 0, d, a, n, more);
}

__global__ void upper_kernel(float *to, const double *a, int64_t n) {
	int64_t p = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (p < n * n) to[p] = p % n < p / n ? 0.0f : (float)a[n * n - 1 - p];
}
extern "C" void whit_upper_cuda(whit_dev *d, float *to, const double *a, int64_t n) {
	if (n > 0) WHIT_LAUNCH(upper_kernel, whit_blocks(n * n, THREADS), THREADS, 0, d, to, a, n);
}

__global__ void strict_kernel(double *a, int64_t n) {
	int64_t p = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (p < n * n && p % n <= p / n) a[p] = 0;
}
extern "C" void whit_strict_cuda(whit_dev *d, double *a, int64_t n) {
	if (n > 0) WHIT_LAUNCH(strict_kernel, whit_blocks(n * n, THREADS), THREADS, 0, d, a, n);
}

__global__ void floats_kernel(float *to, const double *a, int64_t n, double by) {
	int64_t p = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (p < n) to[p] = (float)(a[p] * by);
}
extern "C" void whit_floats_cuda(whit_dev *d, float *to, const double *a, int64_t n, double by) {
	if (n > 0) WHIT_LAUNCH(floats_kernel, whit_blocks(n, THREADS), THREADS, 0, d, to, a, n, by);
}
