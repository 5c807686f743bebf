/* fwht: the Walsh-Hadamard transform in Sylvester order, in place. Butterflies in float, stages of rising distance, as
 * the CPU's fast twin has them: the same bits. Runs that a block holds are rotate.cu's; these are the plain kernel, and
 * what longer runs and 16-bit ones need beside. */
#include "cuda/rotate.cuh"
extern "C" {
#include "formats/tensor.h"
#include "host/ops.h"
}

static constexpr int64_t THREADS = 256;

/* Kernel 1: one stage of distance h, straight from and to memory. */
__global__ void fwht_stage_kernel(float *x, int64_t pairs, int64_t h) {
	int64_t p = (int64_t)blockIdx.x * THREADS + threadIdx.x, j = p / h * 2 * h + p % h;
	if (p >= pairs) return;
	float a = x[j], b = x[j + h];
	x[j] = a + b;
	x[j + h] = a - b;
}

/* Kernel 2, behind those stages that a block holds: of distance h = 2^log to h R / 2 with one read and one write, W
 * columns a thread. */
template <int R, int W> __global__ void fwht_far_kernel(float *x, int64_t columns, int log) {
	int64_t p = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * W, h = (int64_t)1 << log;
	if (p >= columns) return;
	x += (p >> log << log) * R + (p & (h - 1));
	gemv_floats<W> a[R];
	WHIT_UNROLL
	for (int k = 0; k < R; k++) a[k] = gemv_read<W>(x + k * h);
	WHIT_UNROLL
	for (int m = 1; m < R; m *= 2) {
		WHIT_UNROLL
		for (int k = 0; k < R * W; k++) {
			int low = k / W, j = k % W;
			if (low & m) continue;
			float b = a[low].f[j], c = a[low | m].f[j];
			a[low].f[j] = b + c;
			a[low | m].f[j] = b - c;
		}
	}
	WHIT_UNROLL
	for (int k = 0; k < R; k++) gemv_write<W>(x + k * h, a[k]);
}

/* 16-bit values that are transformed as floats elsewhere: to them, and back, rounded once. */
__global__ void fwht_widen_kernel(float *y, const uint16_t *x, int64_t n, bool bf16) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = bf16 ? whit_dev_bf16(x[i]) : whit_dev_f16(x[i]);
}
__global__ void fwht_narrow_kernel(uint16_t *y, const float *x, int64_t n, bool bf16) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = bf16 ? whit_dev_to_bf16(x[i]) : whit_dev_to_f16(x[i]);
}

/* The stages of distance h and more. */
static void far_stages(whit_dev *d, float *x, int64_t all, int64_t n, int64_t h) {
	bool wide = h % 4 == 0 && (uintptr_t)x % 16 == 0;
	int log = 0;
	while ((int64_t)1 << log < h) log++;
	while (h < n) {
		int radix = (int)WHIT_MIN(8, n / h);
		auto *kernel = radix == 8   ? wide ? fwht_far_kernel<8, 4> : fwht_far_kernel<8, 1>
		                 : radix == 4 ? wide ? fwht_far_kernel<4, 4> : fwht_far_kernel<4, 1>
		                 : wide ? fwht_far_kernel<2, 4>
		                            : fwht_far_kernel<2, 1>;
		WHIT_LAUNCH(kernel, whit_blocks(all / radix, THREADS * (wide ? 4 : 1)), THREADS, 0, d, x, all / radix,
		            log);
		h *= radix, log += radix == 8 ? 3 : radix / 2;
	}
}

extern "C" void whit_fwht_cuda(whit_dev *d, float *x, int64_t rows, int64_t n) {
	int64_t all = rows * n, h = 1;
	if (all == 0 || n == 1) return;
	if (!d->plain) {
		h = WHIT_MIN(n, whit_fwht_most(d));
		whit_fwht_fused(d, x, WHIT_F32, all / h, h);
		far_stages(d, x, all, n, h);
		return;
	}
	for (; h < n; h *= 2)
		WHIT_LAUNCH(fwht_stage_kernel, whit_blocks(all / 2, THREADS), THREADS, 0, d, x, all / 2, h);
}

extern "C" void whit_fwht_stored_cuda(whit_dev *d, void *x, int dtype, int64_t rows, int64_t n) {
	int64_t all = rows * n;
	if (all == 0 || n == 1) return;
	if (dtype == WHIT_F32) {
		whit_fwht_cuda(d, (float *)x, rows, n);
	} else if (!d->plain && n <= whit_fwht_most(d)) {
		whit_fwht_fused(d, x, dtype, rows, n);
	} else {
		float *y = (float *)whit_dev_take(d, (size_t)all * sizeof *y);
		if (!y) return;
		unsigned grid = whit_blocks(all, THREADS);
		WHIT_LAUNCH(fwht_widen_kernel, grid, THREADS, 0, d, y, (const uint16_t *)x, all, dtype == WHIT_BF16);
		whit_fwht_cuda(d, y, rows, n);
		WHIT_LAUNCH(fwht_narrow_kernel, grid, THREADS, 0, d, (uint16_t *)x, y, all, dtype == WHIT_BF16);
	}
}
