/* gemv: what the kernels of few tokens share: how a block makes its input, how a warp joins its sums. */
#ifndef WHIT_GEMV_CUH
#define WHIT_GEMV_CUH
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

/* The plain product (linear.cu): a warp an output, any format, any T. x is rotated already. */
void whit_linear_plain(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const float *bias);
/* One matrix of any format (gemv_packed.cu); x as gemv_input says, rotated already. */
struct gemv_input;
void whit_gemv_packed(whit_dev *d, const gemv_input *in, const whit_mat *w, float *y, const float *bias,
                      const float *add);

/* A group's input, as kernels get it. */
struct gemv_input {
	const float *x, *x2, *norm;
	float eps, shift;
	int pre, T, K;
};

/* Where a block keeps column i of its input. A lane multiplies `values` columns that lie side by side in the matrix
 * and reads four floats at once: with eight columns to a lane, the lower and the upper four of all lanes each lie
 * together, so that lanes fall on different banks. */
template <int values> static __device__ __forceinline__ int gemv_place(int i) {
	return values == 4 ? i : i / 256 * 256 + i / 4 % 2 * 128 + i % 256 / 8 * 4 + i % 4;
}

/* The norm's weights into the row of token 0, where gemv_fill wants them: parameters, so before WHIT_AFTER, if out is
 * shared memory. */
template <int values> static __device__ void gemv_fill_norm(float *out, const gemv_input &in) {
	if (in.pre != WHIT_PRE_NORM) return;
	for (int i = (int)threadIdx.x; i < in.K; i += (int)blockDim.x)
		out[gemv_place<values>(i)] = in.norm[i] + in.shift;
}

/* pre(x) into out (tokens, stride), zero beyond K and beyond token T - 1; every thread of a block of whole warps. The
 * caller synchronizes. A thread meets the same columns in every token, so what it put there needs no barrier. */
template <int values> static __device__ void gemv_fill(float *out, const gemv_input &in, int tokens, int stride) {
	int threads = (int)blockDim.x;
	for (int t = tokens - 1; t >= 0; t--) { /* token 0 last: its row has the norm's weights */
		const float *x = in.x + (int64_t)t * in.K;
		float *row = out + t * stride;
		int n = t < in.T ? in.K : 0;
		if (n && in.pre == WHIT_PRE_NORM) {
			float sum = 0;
			for (int i = (int)threadIdx.x; i < n; i += threads) sum = fmaf(x[i], x[i], sum);
			float s = 1 / sqrtf(whit_block_sum(sum) / (float)n + in.eps);
			for (int i = (int)threadIdx.x; i < n; i += threads)
				row[gemv_place<values>(i)] = x[i] * s * out[gemv_place<values>(i)];
		} else if (n && in.pre == WHIT_PRE_SWIGLU) {
			const float *x2 = in.x2 + (int64_t)t * in.K;
			for (int i = (int)threadIdx.x; i < n; i += threads)
				row[gemv_place<values>(i)] = x[i] / (1 + expf(-x[i])) * x2[i];
		} else {
			for (int i = (int)threadIdx.x; i < n; i += threads) row[gemv_place<values>(i)] = x[i];
		}
		/* i / threads is the same thread's for all of its columns; the rest is padding */
		int first = n + ((int)threadIdx.x - n % threads + threads) % threads;
		for (int i = first; i < stride; i += threads) row[gemv_place<values>(i)] = 0;
	}
}

/* Sums of n values (a power of two up to 32) over the warp, each step handing half of them to the other lane: lane l
 * gets value l / (32 / n), in one order of additions. */
template <int n, int h = 16> static __device__ __forceinline__ float gemv_fold(const float (&v)[n]) {
	constexpr int half = n > 1 ? n / 2 : 1;
	bool upper = threadIdx.x & h;
	float w[half];
	WHIT_UNROLL
	for (int i = 0; i < half; i++) {
		float keep = n > 1 && upper ? v[n - half + i] : v[i], give = n > 1 && !upper ? v[n - half + i] : v[i];
		w[i] = keep + __shfl_xor_sync(0xffffffffu, give, h);
	}
	if constexpr (h > 1)
		return gemv_fold<half, h / 2>(w);
	else
		return w[0];
}
#endif
