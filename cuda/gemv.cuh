/* gemv: what the kernels of few tokens share: how a block makes its input, how a warp joins its sums. */
#ifndef WHIT_GEMV_CUH
#define WHIT_GEMV_CUH
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

/* Whether a matrix is of floats in whole loads of 16 bytes, at their place (gemv.cu). */
bool whit_gemv_streams(const whit_mat *w);
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

/* y (T, rows) += a low-rank branch, by kernels of its own (linear.cu); x as gemv_input says, rotated already. */
void whit_low_add(whit_dev *d, float *y, const gemv_input *in, int64_t rows, const whit_low *low);

/* Codes of 1, 2, 3, 4 or 8 bits times up to 128 tokens, on tensor cores (gemm_packed.cu), where it takes the matrix;
 * those of `which` (bits) whose codes are of one kind in one launch. x is rotated already. */
bool whit_gemm_packed_takes(const whit_mat *w, int64_t T);
void whit_gemm_packed(whit_dev *d, const gemv_input *in, const whit_gemv *g, unsigned which);

/* Where a block keeps column i of its input. A lane multiplies `values` columns that lie side by side in the matrix
 * and reads four floats at once: with eight columns to a lane, the lower and the upper four of all lanes each lie
 * together, so that lanes fall on different banks. */
template <int values> static __device__ __forceinline__ int gemv_place(int i) {
	return values == 4 ? i : i / 256 * 256 + i / 4 % 2 * 128 + i % 256 / 8 * 4 + i % 4;
}

/* V floats (1 or 4) that lie together. */
template <int V> struct gemv_floats { float f[V]; };
template <int V> static __device__ __forceinline__ gemv_floats<V> gemv_read(const float *p) {
	if constexpr (V == 4) {
		float4 a = *(const float4 *)p;
		return {{a.x, a.y, a.z, a.w}};
	} else {
		return {{*p}};
	}
}
template <int V> static __device__ __forceinline__ void gemv_write(float *p, const gemv_floats<V> &a) {
	if constexpr (V == 4)
		*(float4 *)p = make_float4(a.f[0], a.f[1], a.f[2], a.f[3]);
	else
		*p = a.f[0];
}

/* make(i, a, b) for columns i of a block's threads, V at a time, a from x and b from x2 (unless NULL). Reads of several
 * steps are queued before the first is used: a block waits for L2 once or twice, not once a step. */
template <int V, int STEPS, class F>
static __device__ __forceinline__ void gemv_each(const float *x, const float *x2, int n, F make) {
	int threads = (int)blockDim.x;
	for (int i0 = (int)threadIdx.x * V; i0 < n; i0 += STEPS * V * threads) {
		gemv_floats<V> a[STEPS], b[STEPS];
		WHIT_UNROLL
		for (int k = 0; k < STEPS; k++) {
			int i = i0 + k * V * threads, at = i < n ? i : i0;
			a[k] = gemv_read<V>(x + at);
			b[k] = x2 ? gemv_read<V>(x2 + at) : a[k];
		}
		WHIT_UNROLL
		for (int k = 0; k < STEPS; k++) {
			int i = i0 + k * V * threads;
			if (i < n) make(i, a[k], b[k]);
		}
	}
}

/* The norm's weights into the row of token 0, where gemv_fill wants them: parameters, so before WHIT_AFTER, if out is
 * shared memory. V 4: all rows and pointers are aligned to 16. */
template <int values, int V> static __device__ __forceinline__ void gemv_fill_norm(float *out, const gemv_input &in) {
	if (in.pre != WHIT_PRE_NORM) return;
	gemv_each<V, 12 / V>(in.norm, NULL, in.K, [&](int i, gemv_floats<V> a, gemv_floats<V>) {
		WHIT_UNROLL
		for (int k = 0; k < V; k++) a.f[k] += in.shift;
		gemv_write<V>(out + gemv_place<values>(i), a);
	});
}

/* pre(x) into out (tokens, stride), zero beyond K and beyond token T - 1; every thread of a block of whole warps. The
 * caller synchronizes. A thread meets the same columns in every token, so what it put there needs no barrier. */
template <int values, int V>
static __device__ __forceinline__ void gemv_fill(float *out, const gemv_input &in, int tokens, int stride) {
	for (int t = tokens - 1; t >= 0; t--) { /* token 0 last: its row has the norm's weights */
		const float *x = in.x + (int64_t)t * in.K;
		float *row = out + t * stride;
		int n = t < in.T ? in.K : 0;
		if (n && in.pre == WHIT_PRE_NORM) {
			float sum = 0;
			gemv_each<V, 12 / V>(x, NULL, n, [&](int, const gemv_floats<V> &a, const gemv_floats<V> &) {
				WHIT_UNROLL
				for (int k = 0; k < V; k++) sum = fmaf(a.f[k], a.f[k], sum);
			});
			float s = 1 / sqrtf(whit_block_sum(sum) / (float)n + in.eps);
			gemv_each<V, 8 / V>(x, NULL, n, [&](int i, gemv_floats<V> a, const gemv_floats<V> &) {
				gemv_floats<V> w = gemv_read<V>(out + gemv_place<values>(i));
				WHIT_UNROLL
				for (int k = 0; k < V; k++) a.f[k] = a.f[k] * s * w.f[k];
				gemv_write<V>(row + gemv_place<values>(i), a);
			});
		} else if (n && in.pre == WHIT_PRE_SWIGLU) {
			const float *x2 = in.x2 + (int64_t)t * in.K;
			gemv_each<V, 8 / V>(x, x2, n, [&](int i, gemv_floats<V> a, const gemv_floats<V> &b) {
				WHIT_UNROLL
				for (int k = 0; k < V; k++) a.f[k] = a.f[k] / (1 + expf(-a.f[k])) * b.f[k];
				gemv_write<V>(row + gemv_place<values>(i), a);
			});
		} else if (n) {
			gemv_each<V, 12 / V>(x, NULL, n, [&](int i, const gemv_floats<V> &a, const gemv_floats<V> &) {
				gemv_write<V>(row + gemv_place<values>(i), a);
			});
		}
		for (int i = (int)threadIdx.x * V; i < stride; i += V * (int)blockDim.x)
			if (i >= n) gemv_write<V>(row + gemv_place<values>(i), {});
	}
}

/* A group's input by itself, of one block, where no multiprocessor holds it; arguments as above. */
template <int values, int V>
__global__ void gemv_input_kernel(float *out, const gemv_input in, int tokens, int stride) {
	WHIT_AFTER();
	gemv_fill_norm<values, V>(out, in);
	gemv_fill<values, V>(out, in, tokens, stride);
}

#endif
