/* gate: a value times the sigmoid of another; split: heads that hold both. A thread a value. */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256 };

__global__ void gate_kernel(float *y, const float *x, const float *gate, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = x[i] / (1 + expf(-gate[i]));
}

__global__ void gate_back_kernel(float *dx, float *dgate, const float *dy, const float *x, const float *gate,
                                 int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n) return;
	/* 1 - s of its own: next to 1 the difference would be lost */
	float s = 1 / (1 + expf(-gate[i])), rest = 1 / (1 + expf(gate[i]));
	if (dx) dx[i] += dy[i] * s;
	if (dgate) dgate[i] += dy[i] * x[i] * (s * rest);
}

__global__ void split_kernel(float *a, float *b, const float *x, int64_t n, int64_t dim) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, at = i / dim * 2 * dim + i % dim;
	if (i < n) a[i] = x[at], b[i] = x[at + dim];
}

__global__ void split_back_kernel(float *dx, const float *da, const float *db, int64_t n, int64_t dim) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, at = i / dim * 2 * dim + i % dim;
	if (i >= n) return;
	if (da) dx[at] += da[i];
	if (db) dx[at + dim] += db[i];
}

extern "C" {

void whit_gate_cuda(whit_dev *d, float *y, const float *x, const float *gate, int64_t n) {
	if (n) WHIT_LAUNCH(gate_kernel, whit_blocks(n, THREADS), THREADS, 0, d, y, x, gate, n);
}

void whit_gate_back_cuda(whit_dev *d, float *dx, float *dgate, const float *dy, const float *x, const float *gate,
                         int64_t n) {
	if (n) WHIT_LAUNCH(gate_back_kernel, whit_blocks(n, THREADS), THREADS, 0, d, dx, dgate, dy, x, gate, n);
}

void whit_split_cuda(whit_dev *d, float *a, float *b, const float *x, int64_t T, int64_t heads, int64_t dim) {
	int64_t n = T * heads * dim;
	if (n) WHIT_LAUNCH(split_kernel, whit_blocks(n, THREADS), THREADS, 0, d, a, b, x, n, dim);
}

void whit_split_back_cuda(whit_dev *d, float *dx, const float *da, const float *db, int64_t T, int64_t heads,
                          int64_t dim) {
	int64_t n = T * heads * dim;
	if (n && dx) WHIT_LAUNCH(split_back_kernel, whit_blocks(n, THREADS), THREADS, 0, d, dx, da, db, n, dim);
}
}
