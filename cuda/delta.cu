/* delta: the gated delta rule of linear attention, over a batch of sequences. Sums in float, in one order. */
#include <math.h>
#include "cuda/spans.cuh"
extern "C" {
#include "host/ops.h"
}

/* What the kernels are told. */
struct delta_args {
	float *y;
	whit_delta d;
	void *const *state;
	float *own; /* without states: (n_seq, v_heads, dim, dim) for the plain kernel */
	const int64_t *start;
};

static __device__ __forceinline__ int64_t delta_k_head(const whit_delta &d, int64_t h) {
	return d.tiled ? h % d.k_heads : h / (d.v_heads / d.k_heads);
}
static __device__ __forceinline__ float delta_sigmoid(float x) { return 1 / (1 + expf(-x)); }
static __device__ __forceinline__ float delta_softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }
static __device__ __forceinline__ float delta_rate(const whit_delta &d, int64_t h) {
	return d.rate_done ? d.rate[h] : -expf(d.rate[h]);
}

/* Kernel 1, the plain one: a block has a v head of a sequence, a thread every blockDim-th column of its state, which
 * stays in memory. Shared: k and q. */
__global__ void delta_plain_kernel(const delta_args a) {
	WHIT_SHARED_DYNAMIC(float, k);
	const whit_delta &d = a.d;
	int64_t h = blockIdx.x, s = blockIdx.y, dim = d.dim, kw = d.k_heads * dim, width = 2 * kw + d.v_heads * dim;
	float *q = k + dim;
	float *S = a.state ? static_cast<float *>(a.state[s]) + h * dim * dim : a.own + (s * d.v_heads + h) * dim * dim;
	float rate = delta_rate(d, h);
	for (int64_t i = threadIdx.x; !a.state && i < dim * dim; i += blockDim.x) S[i] = 0;
	for (int64_t t = a.start[s]; t < a.start[s + 1]; t++) {
		const float *xq = d.qkv + t * width + delta_k_head(d, h) * dim, *xk = xq + kw,
		            *v = d.qkv + t * width + 2 * kw + h * dim;
		float qq = 0, kk = 0;
		for (int64_t i = threadIdx.x; i < dim; i += blockDim.x)
			qq = fmaf(xq[i], xq[i], qq), kk = fmaf(xk[i], xk[i], kk);
		float qn = 1 / sqrtf(whit_block_sum(qq) + 1e-6f) / sqrtf((float)dim),
		      kn = 1 / sqrtf(whit_block_sum(kk) + 1e-6f);
		for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) k[i] = xk[i] * kn, q[i] = xq[i] * qn;
		__syncthreads();
		float decay = expf(rate * delta_softplus(d.alpha[t * d.v_heads + h] + d.dt_bias[h]));
		float beta = delta_sigmoid(d.beta[t * d.v_heads + h]);
		for (int64_t j = threadIdx.x; j < dim; j += blockDim.x) {
			/* 1. forget, and what the state says of k */
			float m = 0, y = 0;
			for (int64_t i = 0; i < dim; i++) m = fmaf(S[i * dim + j] *= decay, k[i], m);
			/* 2. write the difference, 3. read with q */
			float u = beta * (v[j] - m);
			for (int64_t i = 0; i < dim; i++)
				y = fmaf(S[i * dim + j] = fmaf(k[i], u, S[i * dim + j]), q[i], y);
			a.y[(t * d.v_heads + h) * dim + j] = y;
		}
		__syncthreads(); /* k and q have been read */
	}
}

/* Kernel 2: the state in registers. LANES lanes share a column, each has DIM / LANES rows; a warp has 32 / LANES
 * columns, normalises k and q for itself and waits for no other. S^T k and S^T q are read off the state at once, so
 * that one reduction serves both: y = decay S^T q + (q.k) u. */
enum { LANES = 4, WARPS = 4 };
template <int DIM> __global__ void __launch_bounds__(32 * WARPS) delta_kernel(const delta_args a) {
	enum { ROWS = DIM / LANES, PER = DIM / 32 }; /* rows of a thread; values of q and k that a lane loads */
	WHIT_SHARED_ALIGNED(16, float, keys, [WARPS][2 * DIM]);
	WHIT_AFTER();
	const whit_delta &d = a.d;
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, part = lane % LANES;
	int64_t h = blockIdx.y, s = blockIdx.z, kw = d.k_heads * DIM, width = 2 * kw + d.v_heads * DIM;
	int64_t j = ((int64_t)blockIdx.x * WARPS + warp) * (32 / LANES) + lane / LANES;
	float *k = keys[warp], *q = k + DIM, S[ROWS], rate = delta_rate(d, h), bias = d.dt_bias[h];
	float *state = a.state ? static_cast<float *>(a.state[s]) + h * DIM * DIM + j : NULL;
	/* Row r of a thread is 4 LANES (r / 4) + 4 part + r % 4: float4 loads of k that meet all banks. */
	WHIT_UNROLL
	for (int r = 0; r < ROWS; r++) S[r] = state ? state[(4 * LANES * (r / 4) + 4 * part + r % 4) * DIM] : 0;
	for (int64_t t = a.start[s]; t < a.start[s + 1]; t++) {
		const float *xq = d.qkv + t * width + delta_k_head(d, h) * DIM, *xk = xq + kw;
		float x[PER], z[PER], qq = 0, kk = 0, qk = 0;
		float v = d.qkv[t * width + 2 * kw + h * DIM + j];
		float decay = expf(rate * delta_softplus(d.alpha[t * d.v_heads + h] + bias));
		float beta = delta_sigmoid(d.beta[t * d.v_heads + h]);
		WHIT_UNROLL
		for (int i = 0; i < PER; i++) {
			x[i] = xk[i * 32 + lane], z[i] = xq[i * 32 + lane];
			kk = fmaf(x[i], x[i], kk), qq = fmaf(z[i], z[i], qq), qk = fmaf(x[i], z[i], qk);
		}
		float kn = 1 / sqrtf(whit_warp_sum(kk) + 1e-6f),
		      qn = 1 / sqrtf(whit_warp_sum(qq) + 1e-6f) / sqrtf((float)DIM);
		qk = whit_warp_sum(qk) * kn * qn;
		WHIT_UNROLL
		for (int i = 0; i < PER; i++) k[i * 32 + lane] = x[i] * kn, q[i * 32 + lane] = z[i] * qn;
		__syncwarp();
		float sk = 0, sq = 0;
		WHIT_UNROLL
		for (int r = 0; r < ROWS; r += 4) {
			float4 x4 = *reinterpret_cast<const float4 *>(k + LANES * r + 4 * part);
			float4 z4 = *reinterpret_cast<const float4 *>(q + LANES * r + 4 * part);
			sk = fmaf(S[r + 3], x4.w, fmaf(S[r + 2], x4.z, fmaf(S[r + 1], x4.y, fmaf(S[r], x4.x, sk))));
			sq = fmaf(S[r + 3], z4.w, fmaf(S[r + 2], z4.z, fmaf(S[r + 1], z4.y, fmaf(S[r], z4.x, sq))));
		}
		WHIT_UNROLL
		for (int m = LANES / 2; m > 0; m /= 2) {
			sk += __shfl_xor_sync(0xffffffffu, sk, m);
			sq += __shfl_xor_sync(0xffffffffu, sq, m);
		}
		float u = beta * (v - decay * sk);
		if (part == 0) a.y[(t * d.v_heads + h) * DIM + j] = fmaf(qk, u, decay * sq);
		WHIT_UNROLL
		for (int r = 0; r < ROWS; r += 4) {
			float4 x4 = *reinterpret_cast<const float4 *>(k + LANES * r + 4 * part);
			S[r] = fmaf(x4.x, u, S[r] * decay), S[r + 1] = fmaf(x4.y, u, S[r + 1] * decay);
			S[r + 2] = fmaf(x4.z, u, S[r + 2] * decay), S[r + 3] = fmaf(x4.w, u, S[r + 3] * decay);
		}
		__syncwarp(); /* k and q have been read */
	}
	WHIT_UNROLL
	for (int r = 0; r < ROWS; r++)
		if (state) state[(4 * LANES * (r / 4) + 4 * part + r % 4) * DIM] = S[r];
}

/* ---- choice ---- */

template <int DIM> static void delta_fast(whit_dev *dev, const delta_args &a, int n_seq) {
	dim3 grid(DIM / (WARPS * 32 / LANES), (unsigned)a.d.v_heads, (unsigned)n_seq);
	WHIT_LAUNCH_EARLY((delta_kernel<DIM>), grid, 32 * WARPS, 0, dev, a);
}

extern "C" void whit_delta_cuda(whit_dev *dev, float *y, const whit_delta *d, void *const *state, const whit_spans *b) {
	delta_args a = {y, *d, state, NULL, b->start};
	if (b->T * d->v_heads * d->dim == 0) return;
	if (!dev->plain && d->dim == 128) {
		delta_fast<128>(dev, a, b->n_seq);
	} else if (!dev->plain && d->dim == 64) {
		delta_fast<64>(dev, a, b->n_seq);
	} else if (!dev->plain && d->dim == 32) {
		delta_fast<32>(dev, a, b->n_seq);
	} else {
		size_t kept = (size_t)(b->n_seq * d->v_heads * d->dim * d->dim) * sizeof(float);
		unsigned threads = (unsigned)WHIT_MIN((d->dim + 31) / 32 * 32, (int64_t)256);
		if (!state) a.own = (float *)whit_dev_take(dev, kept);
		WHIT_LAUNCH(delta_plain_kernel, dim3((unsigned)d->v_heads, (unsigned)b->n_seq), threads,
		            (size_t)(2 * d->dim) * sizeof(float), dev, a);
	}
}
