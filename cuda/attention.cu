/* attention: causal, grouped queries, optional window, over a batch of sequences with or without caches; and what
 * comes before it: the norms of heads, rotary positions, the caches' new rows.
 *
 * Lengths are read on the device, so that a recorded step serves every position. Sums in float, in one order. */
#include "cuda/spans.cuh"
#include <math.h>
extern "C" {
#include "formats/tensor.h"
#include "host/ops.h"
}

/* What the kernels are told; E is the element type of keys and values. */
struct attn_args {
	float *y;
	const float *q, *k, *v; /* k, v: without caches */
	void *const *cache;
	int64_t cap, T, heads, kv_heads, dim, window;
	const int64_t *start, *past;
	int n_seq, splits;
	float scale;
	float *part; /* of splits: (T, heads, splits, dim + 2): sums, then their maximum and total */
};

static __device__ __forceinline__ float attn_load(const float *p) { return *p; }
static __device__ __forceinline__ float attn_load(const uint16_t *p) { return whit_dev_f16(*p); }
static __device__ __forceinline__ float4 attn_load4(const float *p) { return *reinterpret_cast<const float4 *>(p); }
static __device__ __forceinline__ float4 attn_load4(const uint16_t *p) {
	ushort4 h = *reinterpret_cast<const ushort4 *>(p);
	return make_float4(whit_dev_f16(h.x), whit_dev_f16(h.y), whit_dev_f16(h.z), whit_dev_f16(h.w));
}
static __device__ __forceinline__ void attn_store(float *p, float v) { *p = v; }
static __device__ __forceinline__ void attn_store(uint16_t *p, float v) { *p = whit_dev_to_f16(v); }

/* Keys and values of sequence s, and the keys [begin, end) that its row t sees. */
template <class E> struct attn_seen {
	const E *k, *v;
	int64_t begin, end;
};
template <class E> static __device__ __forceinline__ attn_seen<E> attn_see(const attn_args &a, int s, int64_t t) {
	int64_t ld = a.kv_heads * a.dim, end = a.past[s] + t - a.start[s] + 1;
	attn_seen<E> r;
	if (a.cache) {
		r.k = static_cast<const E *>(a.cache[s]);
		r.v = r.k + a.cap * ld;
	} else {
		r.k = reinterpret_cast<const E *>(a.k) + a.start[s] * ld;
		r.v = reinterpret_cast<const E *>(a.v) + a.start[s] * ld;
	}
	r.end = end;
	r.begin = a.window && end > a.window ? end - a.window : 0;
	return r;
}

/* Kernel 1, the plain one: a warp has one query of one head, key after key. Online softmax: Milakov & Gimelshein 2018,
 * algorithm 3. */
template <class E> __global__ void attn_plain_kernel(const attn_args a) {
	int64_t t = blockIdx.x, h = blockIdx.y, ld = a.kv_heads * a.dim, g = h / (a.heads / a.kv_heads);
	int lane = (int)threadIdx.x;
	attn_seen<E> see = attn_see<E>(a, whit_dev_sequence(a.start, a.n_seq, t), t);
	const float *q = a.q + (t * a.heads + h) * a.dim;
	float *y = a.y + (t * a.heads + h) * a.dim;
	float top = -INFINITY, total = 0;
	for (int64_t d = lane; d < a.dim; d += 32) y[d] = 0;
	for (int64_t j = see.begin; j < see.end; j++) {
		const E *k = see.k + j * ld + g * a.dim, *v = see.v + j * ld + g * a.dim;
		float dot = 0;
		for (int64_t d = lane; d < a.dim; d += 32) dot = fmaf(q[d], attn_load(k + d), dot);
		dot = whit_warp_sum(dot) * a.scale;
		float higher = fmaxf(top, dot), keep = expf(top - higher), p = expf(dot - higher);
		total = fmaf(total, keep, p);
		top = higher;
		for (int64_t d = lane; d < a.dim; d += 32) y[d] = fmaf(y[d], keep, p * attn_load(v + d));
	}
	for (int64_t d = lane; d < a.dim; d += 32) y[d] /= total;
}

/* Kernel 2, for few queries: a block has the G queries that share a kv head and one of `splits` parts of their keys, so
 * that each key is read once and short texts too fill a device. Chunks of KEYS keys: eight lanes to a key's product, a
 * warp to a query's softmax, dim / 4 threads to a value. Parts are joined by attn_join_kernel. */
enum { KEYS = 64, PART = 16, DECODE_THREADS = 128, DECODE_GROUP = 8, DECODE_DIM = 256 };
template <class E, int G> __global__ void __launch_bounds__(DECODE_THREADS) attn_decode_kernel(const attn_args a) {
	WHIT_SHARED_DYNAMIC(float, shared);
	WHIT_AFTER();
	int group = (int)(a.heads / a.kv_heads), dim = (int)a.dim, tid = (int)threadIdx.x, lane = tid % 32,
	    warp = tid / 32;
	int split = (int)(blockIdx.x % a.splits);
	int64_t g = blockIdx.x / a.splits % a.kv_heads, t = blockIdx.x / a.splits / a.kv_heads, ld = a.kv_heads * a.dim;
	float *q = shared, *s = q + G * dim, *top = s + G * KEYS, *total = top + G, *keep = total + G, *sums = keep + G;
	attn_seen<E> see = attn_see<E>(a, whit_dev_sequence(a.start, a.n_seq, t), t);
	int64_t keys = see.end - see.begin, each = ((keys + a.splits - 1) / a.splits + PART - 1) / PART * PART;
	int64_t from = see.begin + WHIT_MIN(split * each, keys), to = WHIT_MIN(from + each, see.end);
	const float *qs = a.q + (t * a.heads + g * group) * a.dim;
	for (int i = tid; i < G * dim; i += DECODE_THREADS) q[i] = i < group * dim ? qs[i] * a.scale : 0;
	if (tid < G) top[tid] = -INFINITY, total[tid] = 0;
	const E *kh = see.k + g * dim, *vh = see.v + g * dim;
	int per = dim / 4, slots = DECODE_THREADS / per, slot = tid / per, at = tid % per * 4; /* of a value */
	float sum[G][4] = {};
	__syncthreads();
	for (int64_t j0 = from; j0 < to; j0 += KEYS) {
		/* 1. scores: four keys a warp and turn */
		for (int j = warp * 4 + lane / 8; j < KEYS; j += DECODE_THREADS / 8) {
			float dot[G] = {};
			if (j0 + j < to)
				for (int d = lane % 8 * 4; d < dim; d += 32) {
					float4 k = attn_load4(kh + (j0 + j) * ld + d);
					WHIT_UNROLL
					for (int i = 0; i < G; i++) {
						float4 x = *reinterpret_cast<const float4 *>(q + i * dim + d);
						dot[i] = fmaf(x.w, k.w,
						              fmaf(x.z, k.z, fmaf(x.y, k.y, fmaf(x.x, k.x, dot[i]))));
					}
				}
			WHIT_UNROLL
			for (int i = 0; i < G; i++) {
				for (int m = 4; m > 0; m /= 2) dot[i] += __shfl_xor_sync(0xffffffffu, dot[i], m);
				if (lane % 8 == 0) s[i * KEYS + j] = j0 + j < to ? dot[i] : -INFINITY;
			}
		}
		__syncthreads();
		/* 2. softmax so far */
		for (int i = warp; i < G; i += DECODE_THREADS / 32) {
			float x0 = s[i * KEYS + lane], x1 = s[i * KEYS + 32 + lane], most = fmaxf(x0, x1);
			for (int m = 16; m > 0; m /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, m));
			float before = top[i], higher = fmaxf(before, most), p0 = expf(x0 - higher),
			      p1 = expf(x1 - higher);
			float p = whit_warp_sum(p0 + p1);
			s[i * KEYS + lane] = p0, s[i * KEYS + 32 + lane] = p1;
			__syncwarp();
			if (lane == 0) {
				keep[i] = expf(before - higher);
				total[i] = fmaf(total[i], keep[i], p);
				top[i] = higher;
			}
		}
		__syncthreads();
		/* 3. values */
		WHIT_UNROLL
		for (int i = 0; i < G; i++)
			for (int c = 0; c < 4; c++) sum[i][c] *= keep[i];
		int n = (int)WHIT_MIN((int64_t)KEYS, to - j0);
		if (slot < slots) {
			WHIT_UNROLL_BY(4)
			for (int j = slot; j < n; j += slots) {
				float4 v = attn_load4(vh + (j0 + j) * ld + at);
				WHIT_UNROLL
				for (int i = 0; i < G; i++) {
					float p = s[i * KEYS + j];
					sum[i][0] = fmaf(p, v.x, sum[i][0]), sum[i][1] = fmaf(p, v.y, sum[i][1]);
					sum[i][2] = fmaf(p, v.z, sum[i][2]), sum[i][3] = fmaf(p, v.w, sum[i][3]);
				}
			}
		}
		__syncthreads();
	}
	/* The slots' sums, joined in order. */
	if (slot < slots) {
		WHIT_UNROLL
		for (int i = 0; i < G; i++)
			for (int c = 0; c < 4; c++) sums[(slot * G + i) * dim + at + c] = sum[i][c];
	}
	__syncthreads();
	for (int i = tid; i < group * dim; i += DECODE_THREADS) {
		int h = i / dim, d = i % dim;
		float v = 0;
		for (int k = 0; k < slots; k++) v += sums[(k * G + h) * dim + d];
		int64_t head = t * a.heads + g * group + h;
		if (a.splits == 1) {
			a.y[head * dim + d] = v / total[h];
			continue;
		}
		float *part = a.part + (head * a.splits + split) * (dim + 2);
		part[d] = v;
		if (d == 0) part[dim] = top[h], part[dim + 1] = total[h];
	}
}

/* A block has one query of one head; a part without keys has maximum -Inf and weighs nothing. */
__global__ void attn_join_kernel(float *y, const float *part, int splits, int dim) {
	WHIT_AFTER();
	part += (int64_t)blockIdx.x * splits * (dim + 2), y += (int64_t)blockIdx.x * dim;
	float top = -INFINITY, total = 0;
	for (int s = 0; s < splits; s++) top = fmaxf(top, part[s * (dim + 2) + dim]);
	for (int s = 0; s < splits; s++)
		total = fmaf(part[s * (dim + 2) + dim + 1], expf(part[s * (dim + 2) + dim] - top), total);
	for (int d = (int)threadIdx.x; d < dim; d += (int)blockDim.x) {
		float v = 0;
		for (int s = 0; s < splits; s++)
			v = fmaf(part[s * (dim + 2) + d], expf(part[s * (dim + 2) + dim] - top), v);
		y[d] = v / total;
	}
}

/* Kernel 3, for many queries: a block has ROWS queries of one head and goes over their keys COLS at a time (Dao et al.
 * 2022, algorithm 1). Products in float: tensor cores would round what KL divergences of 1e-5 are measured with. A
 * thread of the 16 x 16 has ROWS / 16 queries; of the scores COLS / 16 keys, of the values every 16th column. Keys and
 * values take turns in one tile; rows a float longer, so that columns of it meet all banks. */
enum { COLS = 32, TILE_THREADS = 256 };
template <class E, int ROWS, int DIM>
__global__ void __launch_bounds__(TILE_THREADS) attn_tile_kernel(const attn_args a) {
	WHIT_SHARED_DYNAMIC(float, shared);
	enum { R = ROWS / 16, C = COLS / 16, V = DIM / 16, LD = DIM + 1 };
	float *q = shared, *kv = q + ROWS * LD, *p = kv + COLS * LD; /* p (ROWS, COLS + 1) */
	int tid = (int)threadIdx.x, tx = tid % 16, ty = tid / 16;
	int64_t h = blockIdx.y, g = h / (a.heads / a.kv_heads), ld = a.kv_heads * DIM, tile = blockIdx.x, t0 = -1;
	int s = 0;
	for (; s < a.n_seq; s++) {
		int64_t tiles = (a.start[s + 1] - a.start[s] + ROWS - 1) / ROWS;
		if (tile < tiles) {
			t0 = a.start[s] + tile * ROWS;
			break;
		}
		tile -= tiles;
	}
	if (t0 < 0) return; /* there are as many blocks as the sequences' lengths could need */
	int rows = (int)WHIT_MIN((int64_t)ROWS, a.start[s + 1] - t0);
	attn_seen<E> first = attn_see<E>(a, s, t0), last = attn_see<E>(a, s, t0 + rows - 1);
	for (int i = tid; i < ROWS * DIM; i += TILE_THREADS)
		q[i / DIM * LD + i % DIM] =
		        i / DIM < rows ? a.q[((t0 + i / DIM) * a.heads + h) * DIM + i % DIM] * a.scale : 0;
	float sum[R][V] = {}, top[R], total[R] = {};
	for (int i = 0; i < R; i++) top[i] = -INFINITY;
	for (int64_t j0 = first.begin; j0 < last.end; j0 += COLS) {
		int n = (int)WHIT_MIN((int64_t)COLS, last.end - j0);
		__syncthreads();
		for (int i = tid; i < COLS * DIM; i += TILE_THREADS)
			kv[i / DIM * LD + i % DIM] =
			        i / DIM < n ? attn_load(first.k + (j0 + i / DIM) * ld + g * DIM + i % DIM) : 0;
		__syncthreads();
		float score[R][C] = {};
		WHIT_UNROLL_BY(4)
		for (int d = 0; d < DIM; d++) {
			float x[R], k[C];
			WHIT_UNROLL
			for (int i = 0; i < R; i++) x[i] = q[(ty * R + i) * LD + d];
			WHIT_UNROLL
			for (int c = 0; c < C; c++) k[c] = kv[(tx + 16 * c) * LD + d];
			WHIT_UNROLL
			for (int i = 0; i < R; i++)
				for (int c = 0; c < C; c++) score[i][c] = fmaf(x[i], k[c], score[i][c]);
		}
		WHIT_UNROLL
		for (int i = 0; i < R; i++) {
			int64_t end = first.end + ty * R + i, begin = a.window && end > a.window ? end - a.window : 0;
			float most = -INFINITY, add = 0;
			for (int c = 0; c < C; c++) {
				int64_t j = j0 + tx + 16 * c;
				if (j < begin || j >= end) score[i][c] = -INFINITY;
				most = fmaxf(most, score[i][c]);
			}
			for (int m = 8; m > 0; m /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, m));
			float higher = fmaxf(top[i], most);
			/* a query that has seen no key yet: nothing to weigh, and Inf - Inf is no number */
			float keep = top[i] == -INFINITY ? 0 : expf(top[i] - higher);
			for (int c = 0; c < C; c++) {
				float w = score[i][c] == -INFINITY ? 0 : expf(score[i][c] - higher);
				p[(ty * R + i) * (COLS + 1) + tx + 16 * c] = w;
				add += w;
			}
			for (int m = 8; m > 0; m /= 2) add += __shfl_xor_sync(0xffffffffu, add, m);
			total[i] = fmaf(total[i], keep, add);
			top[i] = higher;
			for (int c = 0; c < V; c++) sum[i][c] *= keep;
		}
		__syncthreads();
		for (int i = tid; i < COLS * DIM; i += TILE_THREADS)
			kv[i / DIM * LD + i % DIM] =
			        i / DIM < n ? attn_load(first.v + (j0 + i / DIM) * ld + g * DIM + i % DIM) : 0;
		__syncthreads();
		WHIT_UNROLL_BY(4)
		for (int j = 0; j < COLS; j++) {
			float w[R];
			WHIT_UNROLL
			for (int i = 0; i < R; i++) w[i] = p[(ty * R + i) * (COLS + 1) + j];
			WHIT_UNROLL
			for (int c = 0; c < V; c++) {
				float v = kv[j * LD + tx + 16 * c];
				WHIT_UNROLL
				for (int i = 0; i < R; i++) sum[i][c] = fmaf(w[i], v, sum[i][c]);
			}
		}
	}
	WHIT_UNROLL
	for (int i = 0; i < R; i++)
		if (ty * R + i < rows)
			for (int c = 0; c < V; c++)
				a.y[((t0 + ty * R + i) * a.heads + h) * DIM + tx + 16 * c] = sum[i][c] / total[i];
}

/* ---- before attention ---- */

struct qkv_args {
	whit_qkv p;
	void *const *cache;
	int64_t cap, T;
	const int64_t *start, *past, *pos;
	int n_seq;
};

/* A warp has one head of one token: of q, of k, or of v, which is only put into its cache. */
enum { QKV_WARPS = 4 };
template <class E> __global__ void qkv_kernel(const qkv_args a) {
	WHIT_SHARED_DYNAMIC(float, shared);
	WHIT_AFTER();
	const whit_qkv &p = a.p;
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	int64_t units = p.heads + p.kv_heads * (a.cache ? 2 : 1), i = (int64_t)blockIdx.x * QKV_WARPS + warp;
	if (i >= a.T * units) return;
	int64_t t = i / units, u = i % units, dim = p.dim, half = p.rot / 2;
	int is_q = u < p.heads, is_v = u >= p.heads + p.kv_heads;
	int64_t h = is_q ? u : (u - p.heads) % p.kv_heads, n = is_q ? p.heads : p.kv_heads;
	const float *in = (is_q ? p.q : is_v ? p.v : p.k) + (t * n + h) * dim, *norm = is_q ? p.q_norm : p.k_norm;
	float *out = (is_q ? p.q_out : p.k_out) + (t * n + h) * dim, *x = shared + warp * dim;
	E *row = NULL;
	if (!is_q && a.cache) {
		int s = whit_dev_sequence(a.start, a.n_seq, t);
		row = static_cast<E *>(a.cache[s]) + ((a.past[s] + t - a.start[s]) + (is_v ? a.cap : 0)) * n * dim +
		      h * dim;
	}
	if (is_v) {
		for (int64_t d = lane; d < dim; d += 32) attn_store(row + d, in[d]);
		return;
	}
	float sum = 0;
	for (int64_t d = lane; d < dim; d += 32) x[d] = in[d], sum = fmaf(in[d], in[d], sum);
	if (norm) {
		float s = 1 / sqrtf(whit_warp_sum(sum) / (float)dim + p.eps);
		for (int64_t d = lane; d < dim; d += 32) x[d] = x[d] * s * (norm[d] + p.shift);
	}
	__syncwarp();
	for (int64_t d = lane; d < dim; d += 32) {
		float v = x[d];
		if (d < 2 * half) {
			float c, s, other = x[d < half ? d + half : d - half];
			whit_dev_turn((float)((double)a.pos[t] * p.inv_freq[d < half ? d : d - half]), &c, &s);
			c *= p.mscale, s *= p.mscale;
			v = d < half ? v * c - other * s : v * c + other * s;
		}
		if (row)
			attn_store(row + d, v);
		else
			out[d] = v;
	}
}

/* Rows of keys and values as they are. */
template <class E>
__global__ void attn_put_kernel(void *const *cache, int64_t cap, const float *k, const float *v, const int64_t *start,
                                const int64_t *past, int n_seq, int64_t width) {
	int64_t t = blockIdx.x;
	int s = whit_dev_sequence(start, n_seq, t);
	E *row = static_cast<E *>(cache[s]) + (past[s] + t - start[s]) * width;
	for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
		attn_store(row + i, k[t * width + i]);
		attn_store(row + cap * width + i, v[t * width + i]);
	}
}

/* ---- choice ---- */

/* Calls f(E()) with the caches' element; without caches keys are floats. */
template <class F> static void attn_element(whit_dev *d, int kv, bool cached, F f) {
	if (!cached || kv == WHIT_F32)
		f(float());
	else if (kv == WHIT_F16)
		f(uint16_t());
	else
		whit_dev_fail(d, WHIT_EINTERNAL, "attention: type of caches is %d, need F32 or F16", kv);
}

template <class E, int ROWS, int DIM> static void attn_tile(whit_dev *d, const attn_args &a) {
	dim3 grid(whit_blocks(a.T, ROWS) + (unsigned)a.n_seq, (unsigned)a.heads);
	size_t smem = ((size_t)(ROWS + COLS) * (DIM + 1) + (size_t)ROWS * (COLS + 1)) * sizeof(float);
	WHIT_LAUNCH((attn_tile_kernel<E, ROWS, DIM>), grid, TILE_THREADS, smem, d, a);
}

template <class E, int G> static void attn_decode(whit_dev *d, attn_args a) {
	/* Enough parts that all multiprocessors have two, none shorter than its warps' first turn; fixed for a recorded
	 * step. */
	int64_t most = a.cache ? a.cap : a.T, units = a.T * a.kv_heads;
	a.splits = (int)WHIT_MAX(1, WHIT_MIN((most + PART - 1) / PART, (2 * d->sms + units - 1) / units));
	if (a.splits > 1)
		a.part = (float *)whit_dev_take(d, (size_t)(a.T * a.heads * a.splits * (a.dim + 2)) * sizeof(float));
	size_t sums = (size_t)(DECODE_THREADS / (a.dim / 4)) * G * (size_t)a.dim;
	size_t smem = ((size_t)G * (size_t)(a.dim + KEYS + 3) + sums + 4) * sizeof(float);
	WHIT_LAUNCH_EARLY((attn_decode_kernel<E, G>), (unsigned)(units * a.splits), DECODE_THREADS, smem, d, a);
	if (a.splits > 1)
		WHIT_LAUNCH_EARLY(attn_join_kernel, (unsigned)(a.T * a.heads), (unsigned)WHIT_MIN(a.dim, (int64_t)128),
		                  0, d, a.y, a.part, a.splits, (int)a.dim);
}

template <class E> static void attn_choose(whit_dev *d, const attn_args &a) {
	int64_t group = a.heads / a.kv_heads;
	bool vectors = a.dim % 32 == 0 && (a.dim & (a.dim - 1)) == 0; /* rows of whole float4, that divide a block */
	if (!d->plain && a.T <= 8 * a.n_seq && vectors && a.dim <= DECODE_DIM && group <= DECODE_GROUP) {
		if (group == 1)
			attn_decode<E, 1>(d, a);
		else if (group == 2)
			attn_decode<E, 2>(d, a);
		else if (group <= 4)
			attn_decode<E, 4>(d, a);
		else
			attn_decode<E, 8>(d, a);
	} else if (!d->plain && a.dim == 16) {
		attn_tile<E, 64, 16>(d, a);
	} else if (!d->plain && a.dim == 64) {
		attn_tile<E, 64, 64>(d, a);
	} else if (!d->plain && a.dim == 128) {
		attn_tile<E, 64, 128>(d, a);
	} else if (!d->plain && a.dim == 256) {
		attn_tile<E, 32, 256>(d, a);
	} else {
		WHIT_LAUNCH((attn_plain_kernel<E>), dim3((unsigned)a.T, (unsigned)a.heads), 32, 0, d, a);
	}
}

extern "C" {

void whit_attention_cuda(whit_dev *d, float *y, const float *q, const float *k, const float *v, void *const *cache,
                         int kv, int64_t cap, const whit_spans *b, int64_t heads, int64_t kv_heads, int64_t dim,
                         float scale, int64_t window) {
	attn_args a = {y,   q,      k,        v,       cache,    cap, b->T,  heads, kv_heads,
	               dim, window, b->start, b->past, b->n_seq, 1,   scale, NULL};
	if (b->T == 0) return;
	attn_element(d, kv, cache != NULL, [&](auto e) { attn_choose<decltype(e)>(d, a); });
}

void whit_attention_put_cuda(whit_dev *d, void *const *cache, int kv, int64_t cap, const float *k, const float *v,
                             const whit_spans *b, int64_t width) {
	if (b->T == 0) return;
	attn_element(d, kv, true, [&](auto e) {
		WHIT_LAUNCH((attn_put_kernel<decltype(e)>), (unsigned)b->T, 128, 0, d, cache, cap, k, v, b->start,
		            b->past, b->n_seq, width);
	});
}

void whit_qkv_cuda(whit_dev *d, const whit_qkv *p, void *const *cache, int kv, int64_t cap, const whit_spans *b) {
	qkv_args a = {*p, cache, cap, b->T, b->start, b->past, b->pos, b->n_seq};
	int64_t units = b->T * (p->heads + p->kv_heads * (cache ? 2 : 1));
	if (b->T == 0) return;
	attn_element(d, kv, cache != NULL, [&](auto e) {
		WHIT_LAUNCH_EARLY((qkv_kernel<decltype(e)>), whit_blocks(units, QKV_WARPS), 32 * QKV_WARPS,
		                  (size_t)(QKV_WARPS * p->dim) * sizeof(float), d, a);
	});
}
}
