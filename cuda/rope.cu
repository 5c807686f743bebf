/* rope: rotary position embedding, halves paired. A thread has one frequency of one token, for all heads. */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 64 };

__global__ void rope_kernel(float *y, const float *x, const int64_t *pos, int64_t heads, int64_t dim, int64_t half,
                            const double *inv_freq, float mscale) {
	int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x, t = blockIdx.x;
	x += t * heads * dim, y += t * heads * dim;
	if (i < half) {
		float c, s;
		whit_dev_turn((float)((double)pos[t] * inv_freq[i]), &c, &s);
		c *= mscale, s *= mscale;
		for (int64_t h = 0; h < heads; h++) {
			float a = x[h * dim + i], b = x[h * dim + i + half];
			y[h * dim + i] = a * c - b * s;
			y[h * dim + i + half] = b * c + a * s;
		}
	} else if (i < dim - half) { /* threads half .. dim - half copy what stands beyond both halves */
		for (int64_t h = 0; h < heads; h++) y[h * dim + half + i] = x[h * dim + half + i];
	}
}

extern "C" void whit_rope_cuda(whit_dev *d, float *y, const float *x, const int64_t *pos, int64_t T, int64_t heads,
                               int64_t dim, int64_t rot, const double *inv_freq, double mscale) {
	if (T * heads * dim == 0) return;
	dim3 grid(whit_blocks(T, 1), whit_blocks(dim - rot / 2, THREADS));
	WHIT_LAUNCH(rope_kernel, grid, THREADS, 0, d, y, x, pos, heads, dim, rot / 2, inv_freq, (float)mscale);
}

/* The transposed turn, by the same threads. */
__global__ void rope_back_kernel(float *dx, const float *dy, const int64_t *pos, int64_t heads, int64_t dim,
                                 int64_t half, const double *inv_freq, float mscale) {
	int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x, t = blockIdx.x;
	dy += t * heads * dim, dx += t * heads * dim;
	if (i < half) {
		float c, s;
		whit_dev_turn((float)((double)pos[t] * inv_freq[i]), &c, &s);
		c *= mscale, s *= mscale;
		for (int64_t h = 0; h < heads; h++) {
			float a = dy[h * dim + i], b = dy[h * dim + i + half];
			dx[h * dim + i] += a * c + b * s;
			dx[h * dim + i + half] += b * c - a * s;
		}
	} else if (i < dim - half) {
		for (int64_t h = 0; h < heads; h++) dx[h * dim + half + i] += dy[h * dim + half + i];
	}
}

extern "C" void whit_rope_back_cuda(whit_dev *d, float *dx, const float *dy, const int64_t *pos, int64_t T,
                                    int64_t heads, int64_t dim, int64_t rot, const double *inv_freq, double mscale) {
	if (T * heads * dim == 0) return;
	dim3 grid(whit_blocks(T, 1), whit_blocks(dim - rot / 2, THREADS));
	WHIT_LAUNCH(rope_back_kernel, grid, THREADS, 0, d, dx, dy, pos, heads, dim, rot / 2, inv_freq, (float)mscale);
}
