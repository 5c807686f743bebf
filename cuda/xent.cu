/* xent: cross entropy of logits and its gradient, a block a row; labels drawn from them, a thread a row. Sums in
 * double, as the CPU's. */
#include "cuda/dev.cuh"
#include <math.h>
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256, DRAWS = 32 };

/* The same for every thread: the largest, NaN where one is, and sum exp(z - top). */
static __device__ double row_sum(const float *z, int64_t n, double *top) {
	WHIT_SHARED(float, tops, [THREADS]);
	WHIT_SHARED(double, sums, [THREADS]);
	int me = (int)threadIdx.x;
	float most = -INFINITY;
	for (int64_t i = me; i < n; i += THREADS) most = z[i] > most || isnan(z[i]) ? z[i] : most;
	tops[me] = most;
	__syncthreads();
	for (int i = 0; i < THREADS; i++) most = tops[i] > most || isnan(tops[i]) ? tops[i] : most;
	double s = 0;
	for (int64_t i = me; i < n; i += THREADS) s += exp((double)z[i] - (double)most);
	sums[me] = s;
	__syncthreads();
	s = 0;
	for (int i = 0; i < THREADS; i++) s += sums[i];
	*top = most;
	return s;
}

__global__ void xent_kernel(double *loss, float *dz, const float *z, const int32_t *target, int64_t vocab) {
	int64_t t = blockIdx.x;
	int32_t want = target[t];
	double top, sum = row_sum(z + t * vocab, vocab, &top);
	z += t * vocab, dz += t * vocab;
	if (threadIdx.x == 0) loss[t] = want < 0 ? 0 : log(sum) - ((double)z[want] - top);
	__syncthreads(); /* dz may be z */
	for (int64_t i = threadIdx.x; i < vocab; i += THREADS)
		dz[i] = want < 0 ? 0.0f : (float)(exp((double)z[i] - top) / sum - (i == want));
}

extern "C" void whit_xent_cuda(whit_dev *d, double *loss, float *dz, const float *z, const int32_t *target, int64_t T,
                               int64_t vocab) {
	if (T > 0 && vocab > 0) WHIT_LAUNCH(xent_kernel, whit_blocks(T, 1), THREADS, 0, d, loss, dz, z, target, vocab);
}

__global__ void draw_kernel(int32_t *out, const float *z, const double *u, int64_t T, int64_t vocab) {
	int64_t t = (int64_t)blockIdx.x * DRAWS + threadIdx.x, i = 0;
	if (t >= T) return;
	float most = -INFINITY;
	double sum = 0, seen = 0;
	z += t * vocab;
	for (int64_t k = 0; k < vocab; k++) most = fmaxf(most, z[k]);
	for (int64_t k = 0; k < vocab; k++) sum += exp((double)z[k] - most);
	for (; i < vocab - 1 && u[t] >= 0; i++)
		if ((seen += exp((double)z[i] - most) / sum) > u[t]) break;
	out[t] = u[t] < 0 ? -1 : (int32_t)i;
}

extern "C" void whit_draw_cuda(whit_dev *d, int32_t *out, const float *z, const double *u, int64_t T, int64_t vocab) {
	if (T > 0 && vocab > 0) WHIT_LAUNCH(draw_kernel, whit_blocks(T, DRAWS), DRAWS, 0, d, out, z, u, T, vocab);
}
