/* linear: y = x W^T + bias, W of any number format, straight from its bytes. The plain version: a warp owns an output
 * row, its lanes stride the columns, a weight is decoded once for TOKENS tokens; sums in float, in one order. */
#include "cuda/formats.cuh"
extern "C" {
#include "host/ops.h"
}

enum { WARPS = 4, TOKENS = 8 };

template <class F>
__global__ void linear_kernel(float *y, const float *x, int64_t T, const whit_mat m, const float *bias) {
	int64_t groups = (m.rows + WARPS - 1) / WARPS, t0 = blockIdx.x / groups * TOKENS;
	int64_t r = blockIdx.x % groups * WARPS + threadIdx.x / 32;
	int lane = (int)threadIdx.x % 32;
	if (r >= m.rows) return;
	int64_t stored = whit_mat_row(&m, r);
	float sum[TOKENS] = {};
	for (int64_t i = lane; i < m.width; i += 32) {
		float w = F::at(m, stored, i);
		WHIT_UNROLL
		for (int t = 0; t < TOKENS; t++)
			if (t0 + t < T) sum[t] = fmaf(w, x[(t0 + t) * m.width + i], sum[t]);
	}
	WHIT_UNROLL
	for (int t = 0; t < TOKENS; t++) {
		float s = whit_warp_sum(sum[t]);
		if (lane == 0 && t0 + t < T) y[(t0 + t) * m.rows + r] = bias ? s + bias[r] : s;
	}
}

extern "C" void whit_linear_cuda(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w,
                                 const float *bias) {
	if (T == 0 || w->rows == 0) return;
	if (w->rot) {
		whit_dev_fail(d, WHIT_EUSAGE,
		              "linear: the matrix is rotated, the device needs it in its original frame");
		return;
	}
	unsigned grid = whit_blocks(w->rows, WARPS) * whit_blocks(T, TOKENS);
	bool known = whit_with_format(w, [&](auto f) {
		WHIT_LAUNCH((linear_kernel<decltype(f)>), grid, 32 * WARPS, 0, d, y, x, T, *w, bias);
	});
	if (!known) whit_dev_fail(d, WHIT_EINTERNAL, "format %s: has no device code", w->spec.fmt->name);
}
