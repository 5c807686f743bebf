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

/* What a lane loads of a token, a token ahead: a load takes as long as all else. */
template <int DIM> struct delta_row { float k[DIM / 32], q[DIM / 32], v, alpha, beta; };
template <int DIM>
static __device__ __forceinline__ delta_row<DIM> delta_load(const whit_delta &d, int64_t t, int64_t h, int64_t j) {
	int64_t kw = d.k_heads * DIM, lane = threadIdx.x % 32;
	const float *row = d.qkv + t * (2 * kw + d.v_heads * DIM), *q = row + delta_k_head(d, h) * DIM + lane;
	delta_row<DIM> r;
	WHIT_UNROLL
	for (int i = 0; i < DIM / 32; i++) r.k[i] = q[kw + i * 32], r.q[i] = q[i * 32];
	r.v = row[2 * kw + h * DIM + j], r.alpha = d.alpha[t * d.v_heads + h], r.beta = d.beta[t * d.v_heads + h];
	return r;
}

template <int DIM> __global__ void __launch_bounds__(32 * WARPS) delta_kernel(const delta_args a) {
	enum { ROWS = DIM / LANES, PER = DIM / 32 }; /* rows of a thread; values of q and k that a lane loads */
	WHIT_SHARED_ALIGNED(16, float, keys, [WARPS][2 * DIM]);
	WHIT_AFTER();
	const whit_delta &d = a.d;
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, part = lane % LANES;
	int64_t h = blockIdx.y, s = blockIdx.z;
	int64_t j = ((int64_t)blockIdx.x * WARPS + warp) * (32 / LANES) + lane / LANES;
	float *k = keys[warp], *q = k + DIM, S[ROWS], rate = delta_rate(d, h), bias = d.dt_bias[h];
	float *state = a.state ? static_cast<float *>(a.state[s]) + h * DIM * DIM + j : NULL;
	/* Row r of a thread is 4 LANES (r / 4) + 4 part + r % 4: float4 loads of k that meet all banks. */
	WHIT_UNROLL
	for (int r = 0; r < ROWS; r++) S[r] = state ? state[(4 * LANES * (r / 4) + 4 * part + r % 4) * DIM] : 0;
	int64_t end = a.start[s + 1];
	delta_row<DIM> next = {};
	if (a.start[s] < end) next = delta_load<DIM>(d, a.start[s], h, j);
	for (int64_t t = a.start[s]; t < end; t++) {
		delta_row<DIM> x = next;
		next = delta_load<DIM>(d, WHIT_MIN(t + 1, end - 1), h, j);
		float kk = 0, qq = 0, qk = 0;
		float decay = expf(rate * delta_softplus(x.alpha + bias)), beta = delta_sigmoid(x.beta);
		WHIT_UNROLL
		for (int i = 0; i < PER; i++)
			kk = fmaf(x.k[i], x.k[i], kk), qq = fmaf(x.q[i], x.q[i], qq), qk = fmaf(x.k[i], x.q[i], qk);
		float kn = rsqrtf(whit_warp_sum(kk) + 1e-6f), qn = rsqrtf(whit_warp_sum(qq) + 1e-6f) * rsqrtf(DIM);
		qk = whit_warp_sum(qk) * kn * qn;
		WHIT_UNROLL
		for (int i = 0; i < PER; i++) k[i * 32 + lane] = x.k[i] * kn, q[i * 32 + lane] = x.q[i] * qn;
		__syncwarp();
		float sks[2] = {}, sqs[2] = {}; /* two chains each: one waits for itself */
		WHIT_UNROLL
		for (int r = 0; r < ROWS; r += 4) {
			float4 x4 = *reinterpret_cast<const float4 *>(k + LANES * r + 4 * part);
			float4 z4 = *reinterpret_cast<const float4 *>(q + LANES * r + 4 * part);
			float &sk = sks[r / 4 % 2], &sq = sqs[r / 4 % 2];
			sk = fmaf(S[r + 3], x4.w, fmaf(S[r + 2], x4.z, fmaf(S[r + 1], x4.y, fmaf(S[r], x4.x, sk))));
			sq = fmaf(S[r + 3], z4.w, fmaf(S[r + 2], z4.z, fmaf(S[r + 1], z4.y, fmaf(S[r], z4.x, sq))));
		}
		float sk = sks[0] + sks[1], sq = sqs[0] + sqs[1];
		WHIT_UNROLL
		for (int m = LANES / 2; m > 0; m /= 2) {
			sk += __shfl_xor_sync(0xffffffffu, sk, m);
			sq += __shfl_xor_sync(0xffffffffu, sq, m);
		}
		float u = beta * (x.v - decay * sk);
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

/* ---- gradient: chunks as matrix products, by the equations of host/op_delta_fast.c ---- */

enum { CHUNK = 64, BACK_THREADS = 256, TILE = 64, DEEP = 16, PAD = 4 };

struct delta_back_args {
	whit_delta d;
	whit_delta_grad g;
	const float *dy;
	const int64_t *start;
	float *states; /* (chunks of all sequences, v_heads, dim, dim), in front of each */
	float *room;   /* back_floats(dim) for each block */
	float *dkq;    /* (T, v_heads, 2, dim): by k and q of length 1 and 1 / sqrt(dim) */
	double *sums;  /* (n_seq, v_heads, 2): by rate and dt_bias */
};

/* A matrix whose element (i, k) is p[i * row + k * col]. */
struct delta_mat {
	const float *p;
	int row, col;
};

/* C (M, N), rows of ldc, = keep * base + a (M, K) b (K, N); base, of C's shape, may be C, or NULL. By the whole block,
 * a TILE x TILE part at a time, of which a thread has 4 x 4. */
static __device__ void delta_mm(int M, int N, int K, delta_mat a, delta_mat b, float *C, int ldc, const float *base,
                                float keep) {
	WHIT_SHARED_ALIGNED(16, float, as, [DEEP][TILE + PAD]);
	WHIT_SHARED_ALIGNED(16, float, bs, [DEEP][TILE + PAD]);
	int tid = (int)threadIdx.x, x = tid % 16 * 4, y = tid / 16 * 4;
	for (int m0 = 0; m0 < M; m0 += TILE) {
		for (int n0 = 0; n0 < N; n0 += TILE) {
			float acc[4][4] = {};
			for (int k0 = 0; k0 < K; k0 += DEEP) {
				__syncthreads(); /* what is read now is written; the last part has been read */
				for (int i = tid; i < DEEP * TILE; i += BACK_THREADS) {
					/* neighbours read neighbours */
					int k = a.col == 1 ? i % DEEP : i / TILE, m = a.col == 1 ? i / DEEP : i % TILE;
					as[k][m] =
					        k0 + k < K && m0 + m < M ? a.p[(m0 + m) * a.row + (k0 + k) * a.col] : 0;
					k = b.col == 1 ? i / TILE : i % DEEP, m = b.col == 1 ? i % TILE : i / DEEP;
					bs[k][m] =
					        k0 + k < K && n0 + m < N ? b.p[(k0 + k) * b.row + (n0 + m) * b.col] : 0;
				}
				__syncthreads();
				WHIT_UNROLL
				for (int k = 0; k < DEEP; k++) {
					float4 u = *reinterpret_cast<const float4 *>(&as[k][y]);
					float4 v = *reinterpret_cast<const float4 *>(&bs[k][x]);
					float p[4] = {u.x, u.y, u.z, u.w}, q[4] = {v.x, v.y, v.z, v.w};
					WHIT_UNROLL
					for (int i = 0; i < 4; i++)
						for (int j = 0; j < 4; j++) acc[i][j] = fmaf(p[i], q[j], acc[i][j]);
				}
			}
			WHIT_UNROLL
			for (int i = 0; i < 4; i++)
				for (int j = 0; j < 4; j++) {
					if (m0 + y + i >= M || n0 + x + j >= N) continue;
					int at = (m0 + y + i) * ldc + n0 + x + j;
					C[at] = base ? fmaf(keep, base[at], acc[i][j]) : acc[i][j];
				}
		}
	}
	__syncthreads();
}

/* n tokens from t0 of a v head, in the block's room; names as the CPU has them. Square matrices have rows of CHUNK. */
struct delta_chunk {
	int n;
	int64_t t0;
	float *kq, *read, *dread;                /* (2n, dim) */
	float *e, *u, *kend, *du, *dkend;        /* (n, dim) */
	float *dots;                             /* (2n, CHUNK) */
	float *decay, *A, *B, *dA, *dB;          /* (n, CHUNK) */
	float *dS;                               /* (dim, dim) */
	float *from, *beta, *soft, *slope, *row; /* (CHUNK), shared */
	double *sums, *dbeta;                    /* (CHUNK), shared; sums: of ln decay, then by them */
};

static __host__ __device__ __forceinline__ int64_t back_floats(int64_t dim) {
	return 11 * CHUNK * dim + 7 * CHUNK * CHUNK + dim * dim;
}

static __device__ __forceinline__ void chunk_place(delta_chunk &c, float *p, int64_t dim) {
	int64_t m = CHUNK * dim, sq = CHUNK * CHUNK;
	c.kq = p, c.read = p += 2 * m, c.dread = p += 2 * m, c.e = p += 2 * m, c.u = p += m, c.kend = p += m;
	c.du = p += m, c.dkend = p += m, c.dots = p += m, c.decay = p += 2 * sq, c.A = p += sq, c.B = p += sq;
	c.dA = p += sq, c.dB = p += sq, c.dS = p += sq;
}

/* Keys, queries and their products, a warp a token; decays, differences of sums in double: of large ones floats would
 * leave nothing. */
static __device__ void chunk_begin(delta_chunk &c, const delta_back_args &a, int64_t h, int64_t t0, int64_t end) {
	const whit_delta &d = a.d;
	int tid = (int)threadIdx.x, lane = tid % 32, dim = (int)d.dim;
	int64_t kw = d.k_heads * dim, width = 2 * kw + d.v_heads * dim;
	c.t0 = t0, c.n = (int)WHIT_MIN((int64_t)CHUNK, end - t0);
	int n = c.n;
	for (int i = tid / 32; i < n; i += BACK_THREADS / 32) {
		const float *q = d.qkv + (t0 + i) * width + delta_k_head(d, h) * dim, *k = q + kw;
		float qq = 0, kk = 0;
		for (int x = lane; x < dim; x += 32) qq = fmaf(q[x], q[x], qq), kk = fmaf(k[x], k[x], kk);
		qq = 1 / sqrtf(whit_warp_sum(qq) + 1e-6f) / sqrtf((float)dim);
		kk = 1 / sqrtf(whit_warp_sum(kk) + 1e-6f);
		for (int x = lane; x < dim; x += 32) c.kq[i * dim + x] = k[x] * kk, c.kq[(n + i) * dim + x] = q[x] * qq;
	}
	if (tid < n) {
		int64_t at = (t0 + tid) * d.v_heads + h;
		float x = d.alpha[at] + d.dt_bias[h];
		c.soft[tid] = delta_softplus(x), c.slope[tid] = delta_sigmoid(x),
		c.beta[tid] = delta_sigmoid(d.beta[at]);
		c.sums[tid] = (double)delta_rate(d, h) * c.soft[tid];
	}
	__syncthreads();
	if (tid == 0)
		for (int i = 1; i < n; i++) c.sums[i] += c.sums[i - 1];
	delta_mm(2 * n, n, dim, {c.kq, dim, 1}, {c.kq, 1, dim}, c.dots, CHUNK, NULL, 0);
	for (int i = tid; i < n * CHUNK; i += BACK_THREADS) {
		int r = i / CHUNK, s = i % CHUNK;
		float D = s < r ? expf((float)(c.sums[r] - c.sums[s])) : s == r;
		c.decay[i] = D;
		c.A[i] = s <= r ? D * c.dots[(n + r) * CHUNK + s] : 0;
		c.B[i] = s < r ? D * c.dots[i] : 0;
		if (s == 0) c.from[r] = expf((float)c.sums[r]);
	}
	__syncthreads();
	for (int i = tid; i < n * dim; i += BACK_THREADS) c.kend[i] = c.kq[i] * c.decay[(n - 1) * CHUNK + i / dim];
	__syncthreads();
}

/* e and u behind the state S: a thread has columns, that know nothing of each other. */
static __device__ void chunk_solve(const delta_chunk &c, const delta_back_args &a, int64_t h, const float *S) {
	const whit_delta &d = a.d;
	int dim = (int)d.dim, n = c.n;
	delta_mm(2 * n, dim, dim, {c.kq, dim, 1}, {S, dim, 1}, c.read, dim, NULL, 0);
	for (int x = (int)threadIdx.x; x < dim; x += BACK_THREADS) {
		const float *v = d.qkv + (c.t0 * (2 * d.k_heads + d.v_heads) + 2 * d.k_heads + h) * dim + x;
		for (int i = 0; i < n; i++, v += (2 * d.k_heads + d.v_heads) * dim) {
			float sum = 0;
			for (int k = 0; k < i; k++) sum = fmaf(c.B[i * CHUNK + k], c.u[k * dim + x], sum);
			float e = *v - c.from[i] * c.read[i * dim + x] - sum;
			c.e[i * dim + x] = e, c.u[i * dim + x] = c.beta[i] * e;
		}
	}
	__syncthreads();
}

/* du, then de in its place, and by beta. */
static __device__ void back_solve(const delta_chunk &c, const delta_back_args &a, const float *dy) {
	int dim = (int)a.d.dim, n = c.n, lane = (int)threadIdx.x % 32;
	delta_mm(n, dim, n, {c.A, 1, CHUNK}, {dy, (int)a.d.v_heads * dim, 1}, c.du, dim, NULL, 0);
	delta_mm(n, dim, dim, {c.kend, dim, 1}, {c.dS, dim, 1}, c.du, dim, c.du, 1);
	for (int x = (int)threadIdx.x; x < dim; x += BACK_THREADS) {
		for (int i = n - 1; i >= 0; i--) {
			float sum = 0;
			for (int k = i + 1; k < n; k++)
				sum = fmaf(c.B[k * CHUNK + i], c.beta[k] * c.du[k * dim + x], sum);
			c.du[i * dim + x] -= sum;
		}
	}
	__syncthreads();
	for (int i = (int)threadIdx.x / 32; i < n; i += BACK_THREADS / 32) {
		float sum = 0;
		for (int x = lane; x < dim; x += 32) {
			sum = fmaf(c.du[i * dim + x], c.e[i * dim + x], sum);
			c.du[i * dim + x] *= c.beta[i];
		}
		sum = whit_warp_sum(sum);
		if (lane == 0) c.dbeta[i] = sum;
	}
	__syncthreads();
}

/* Through A and B to keys, queries and decays. What a pair adds to one sum it takes from the other: in double, so that
 * it is gone from all that do not stand between the two. */
static __device__ void back_pairs(const delta_chunk &c, const delta_back_args &a, const float *dy, float *dk) {
	int tid = (int)threadIdx.x, dim = (int)a.d.dim, n = c.n;
	int ld = (int)a.d.v_heads * 2 * dim;
	const float *k = c.kq, *q = k + n * dim;
	float *dq = dk + dim;
	delta_mm(n, n, dim, {dy, (int)a.d.v_heads * dim, 1}, {c.u, 1, dim}, c.dA, CHUNK, NULL, 0);
	delta_mm(n, n, dim, {c.du, dim, 1}, {c.u, 1, dim}, c.dB, CHUNK, NULL, 0);
	if (tid < n) {
		double sum = 0;
		for (int s = 0; s < n; s++) { /* row tid, then column tid */
			int at = s < tid ? tid * CHUNK + s : s * CHUNK + tid;
			double x = (double)c.dA[at] * c.A[at] - (double)c.dB[at] * c.B[at];
			if (s != tid) sum += s < tid ? x : -x;
		}
		c.sums[tid] = sum;
	}
	__syncthreads();
	for (int i = tid; i < n * CHUNK; i += BACK_THREADS) {
		int r = i / CHUNK, s = i % CHUNK;
		c.dA[i] = s <= r ? c.dA[i] * c.decay[i] : 0;
		c.dB[i] = s < r ? -c.dB[i] * c.decay[i] : 0;
	}
	delta_mm(n, dim, n, {c.dA, CHUNK, 1}, {k, dim, 1}, dq, ld, NULL, 0);
	delta_mm(n, dim, n, {c.dA, 1, CHUNK}, {q, dim, 1}, dk, ld, NULL, 0);
	delta_mm(n, dim, n, {c.dB, CHUNK, 1}, {k, dim, 1}, dk, ld, dk, 1);
	delta_mm(n, dim, n, {c.dB, 1, CHUNK}, {k, dim, 1}, dk, ld, dk, 1);
}

/* Through the states; dS becomes the gradient by the one in front of the chunk, S. */
static __device__ void back_states(const delta_chunk &c, const delta_back_args &a, const float *dy, float *dk,
                                   const float *S) {
	int tid = (int)threadIdx.x, lane = tid % 32, dim = (int)a.d.dim, n = c.n;
	int ldy = (int)a.d.v_heads * dim, ld = 2 * ldy;
	delta_mm(n, dim, dim, {c.u, dim, 1}, {c.dS, 1, dim}, c.dkend, dim, NULL, 0);
	for (int i = tid / 32; i < n; i += BACK_THREADS / 32) {
		float end = 0, read = 0, D = c.decay[(n - 1) * CHUNK + i];
		for (int x = lane; x < dim; x += 32) {
			int at = i * dim + x, q = (n + i) * dim + x;
			float rk = -c.from[i] * c.du[at], rq = c.from[i] * dy[i * ldy + x];
			end = fmaf(c.dkend[at], c.kend[at], end);
			read = fmaf(rk, c.read[at], fmaf(rq, c.read[q], read));
			dk[i * ld + x] += D * c.dkend[at];
			c.dread[at] = rk, c.dread[q] = rq;
		}
		end = whit_warp_sum(end), read = whit_warp_sum(read);
		if (lane == 0) c.row[i] = end, c.sums[i] += (double)read - end;
	}
	float all = 0;
	for (int i = tid; i < dim * dim; i += BACK_THREADS) all = fmaf(c.dS[i], S[i], all);
	all = whit_block_sum(all);
	__syncthreads();
	if (tid == 0) {
		c.sums[n - 1] += c.from[n - 1] * all;
		for (int i = 0; i < n; i++) c.sums[n - 1] += c.row[i];
	}
	delta_mm(n, dim, dim, {c.dread, dim, 1}, {S, 1, dim}, dk, ld, dk, 1);
	delta_mm(n, dim, dim, {c.dread + n * dim, dim, 1}, {S, 1, dim}, dk + dim, ld, dk + dim, 1);
	delta_mm(dim, dim, 2 * n, {c.kq, 1, dim}, {c.dread, dim, 1}, c.dS, dim, c.dS, c.from[n - 1]);
}

/* What v head h has of its own; a token's ln decay is in the sums of it and of all behind it. */
static __device__ void back_head(const delta_chunk &c, const delta_back_args &a, int64_t h, double *by_rate,
                                 double *by_bias) {
	const whit_delta &d = a.d;
	int tid = (int)threadIdx.x, dim = (int)d.dim, n = c.n;
	int64_t heads = 2 * d.k_heads + d.v_heads;
	float rate = delta_rate(d, h);
	if (tid == 0)
		for (int i = n - 1; i >= 0; i--) {
			if (i < n - 1) c.sums[i] += c.sums[i + 1];
			*by_rate += c.sums[i] * c.soft[i] * (d.rate_done ? 1 : rate);
			*by_bias += c.sums[i] * rate * c.slope[i];
		}
	__syncthreads();
	for (int i = tid; a.g.qkv && i < n * dim; i += BACK_THREADS)
		a.g.qkv[((c.t0 + i / dim) * heads + 2 * d.k_heads + h) * dim + i % dim] += c.du[i];
	if (tid < n) {
		int64_t at = (c.t0 + tid) * d.v_heads + h;
		if (a.g.beta) a.g.beta[at] += (float)(c.dbeta[tid] * c.beta[tid] * delta_sigmoid(-d.beta[at]));
		if (a.g.alpha) a.g.alpha[at] += (float)(c.sums[tid] * rate * c.slope[tid]);
	}
	__syncthreads();
}

/* Sequence s of v head h: forward, states kept in front of each chunk; then back. */
static __device__ void back_sequence(delta_chunk &c, const delta_back_args &a, int64_t h, int64_t s) {
	const whit_delta &d = a.d;
	int tid = (int)threadIdx.x, dim = (int)d.dim;
	int64_t start = a.start[s], end = a.start[s + 1], size = (int64_t)dim * dim, step = d.v_heads * size;
	int64_t chunks = (end - start + CHUNK - 1) / CHUNK;
	/* The chunks of the sequences before are at most so many: each has one that is not full. */
	float *states = a.states + (start / CHUNK + s) * step + h * size;
	double by_rate = 0, by_bias = 0; /* thread 0's */
	for (int64_t i = tid; chunks && i < size; i += BACK_THREADS) states[i] = c.dS[i] = 0;
	for (int64_t k = 0; k < chunks - 1; k++) {
		const float *S = states + k * step;
		chunk_begin(c, a, h, start + k * CHUNK, end);
		chunk_solve(c, a, h, S);
		delta_mm(dim, dim, c.n, {c.kend, 1, dim}, {c.u, dim, 1}, states + (k + 1) * step, dim, S,
		         c.from[c.n - 1]);
	}
	for (int64_t k = chunks - 1; k >= 0; k--) {
		const float *S = states + k * step, *dy = a.dy + ((start + k * CHUNK) * d.v_heads + h) * dim;
		float *dk = a.dkq + ((start + k * CHUNK) * d.v_heads + h) * 2 * dim;
		chunk_begin(c, a, h, start + k * CHUNK, end);
		chunk_solve(c, a, h, S);
		back_solve(c, a, dy);
		back_pairs(c, a, dy, dk);
		back_states(c, a, dy, dk, S);
		back_head(c, a, h, &by_rate, &by_bias);
	}
	if (tid == 0) a.sums[(s * d.v_heads + h) * 2] = by_rate, a.sums[(s * d.v_heads + h) * 2 + 1] = by_bias;
}

/* A block has a v head, and every gridDim.y-th sequence: its room is large. */
__global__ void __launch_bounds__(BACK_THREADS, 1) delta_back_kernel(const delta_back_args a, int n_seq) {
	WHIT_SHARED(float, scalars, [5][CHUNK]);
	WHIT_SHARED(double, sums, [2][CHUNK]);
	delta_chunk c;
	int64_t h = blockIdx.x;
	chunk_place(c, a.room + (blockIdx.y * a.d.v_heads + h) * back_floats(a.d.dim), a.d.dim);
	c.from = scalars[0], c.beta = scalars[1], c.soft = scalars[2], c.slope = scalars[3], c.row = scalars[4];
	c.sums = sums[0], c.dbeta = sums[1];
	for (int s = (int)blockIdx.y; s < n_seq; s += (int)gridDim.y) back_sequence(c, a, h, s);
}

/* From unit keys and queries to those of the model: a warp has one of a token, dkq's sums over its v heads in order. */
__global__ void delta_back_keys_kernel(const delta_back_args a) {
	const whit_delta &d = a.d;
	int64_t t = blockIdx.x, g = blockIdx.y, dim = d.dim, group = d.v_heads / d.k_heads;
	int is_q = threadIdx.x < 32, lane = (int)threadIdx.x % 32;
	int64_t at = t * (2 * d.k_heads + d.v_heads) * dim + (g + (is_q ? 0 : d.k_heads)) * dim;
	const float *x = d.qkv + at, *from = a.dkq + (t * d.v_heads * 2 + is_q) * dim;
	int64_t first = (d.tiled ? g : g * group) * 2 * dim, next = (d.tiled ? d.k_heads : 1) * 2 * dim;
	float n = 0, along = 0;
	for (int64_t i = lane; i < dim; i += 32) {
		float unit = 0;
		for (int64_t k = 0; k < group; k++) unit += from[first + k * next + i];
		n = fmaf(x[i], x[i], n), along = fmaf(unit, x[i], along);
	}
	n = 1 / sqrtf(whit_warp_sum(n) + 1e-6f), along = whit_warp_sum(along) * n * n;
	float scale = is_q ? n / sqrtf((float)dim) : n;
	for (int64_t i = lane; i < dim; i += 32) {
		float unit = 0;
		for (int64_t k = 0; k < group; k++) unit += from[first + k * next + i];
		a.g.qkv[at + i] += scale * (unit - x[i] * along);
	}
}

__global__ void delta_back_rates_kernel(const delta_back_args a, int n_seq) {
	int64_t h = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	double rate = 0, bias = 0;
	if (h >= a.d.v_heads) return;
	for (int s = 0; s < n_seq; s++) {
		rate += a.sums[(s * a.d.v_heads + h) * 2];
		bias += a.sums[(s * a.d.v_heads + h) * 2 + 1];
	}
	if (a.g.rate) a.g.rate[h] += (float)rate;
	if (a.g.dt_bias) a.g.dt_bias[h] += (float)bias;
}

extern "C" void whit_delta_back_cuda(whit_dev *dev, const whit_delta_grad *g, const float *dy, const whit_delta *d,
                                     const whit_spans *b) {
	int64_t dim = d->dim, v = d->v_heads, chunks = b->T / CHUNK + b->n_seq;
	int64_t at_once = WHIT_MIN((int64_t)b->n_seq, (2 * dev->sms + v - 1) / v);
	if (b->T * v * dim == 0) return;
	delta_back_args a = {*d, *g, dy, b->start, NULL, NULL, NULL, NULL};
	a.states = (float *)whit_dev_take(dev, (size_t)(chunks * v * dim * dim) * sizeof(float));
	a.room = (float *)whit_dev_take(dev, (size_t)(at_once * v * back_floats(dim)) * sizeof(float));
	a.dkq = (float *)whit_dev_take(dev, (size_t)(b->T * v * 2 * dim) * sizeof(float));
	a.sums = (double *)whit_dev_take(dev, (size_t)(b->n_seq * v * 2) * sizeof(double));
	WHIT_LAUNCH(delta_back_kernel, dim3((unsigned)v, (unsigned)at_once), BACK_THREADS, 0, dev, a, b->n_seq);
	if (g->qkv) WHIT_LAUNCH(delta_back_keys_kernel, dim3((unsigned)b->T, (unsigned)d->k_heads), 64, 0, dev, a);
	WHIT_LAUNCH(delta_back_rates_kernel, whit_blocks(v, 64), 64, 0, dev, a, b->n_seq);
}
