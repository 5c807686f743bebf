/* attention: causal, grouped queries, optional window, over a batch of sequences with or without caches; and what
 * comes before it: the norms of heads, rotary positions, the caches' new rows.
 *
 * Lengths are read on the device, so that a recorded step serves every position. Sums in float, in one order. */
#include "cuda/spans.cuh"
#include <math.h>
#include <type_traits>
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
	int n_seq, splits, group; /* group: queries of a kv head */
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
 * warp to a query's softmax, dim / 4 threads to a value. Parts are joined by attn_join_kernel, or by the last block of
 * attend_kernel. */
enum { KEYS = 64, PART = 16, DECODE_THREADS = 128, DECODE_BLOCKS = 3, DECODE_GROUP = 8, DECODE_DIM = 256 };

/* A block's shared memory; sums may lie where near keys and values were. */
struct attn_room {
	float *q;                  /* (G, dim): queries times scale */
	float *s;                  /* (G, KEYS): a chunk's scores, then its weights */
	float *top, *total, *keep; /* (G): so far; what the chunk leaves of what was before */
	float *sums;               /* (slots, G, dim) */
};
template <int G> static __device__ __forceinline__ attn_room attn_rooms(float *p, int dim) {
	attn_room r;
	r.q = p, r.s = r.q + G * dim, r.top = r.s + G * KEYS;
	r.total = r.top + G, r.keep = r.total + G, r.sums = r.keep + G;
	return r;
}

/* A block's keys [from, to) of one kv head, which is one of `parts` parts that have any. The first `near` of them are
 * on their way to shared memory, or near is 0. */
template <class E> struct attn_span {
	const E *k, *v;
	int64_t ld, from, to;
	const E *near_k, *near_v; /* (near, dim) */
	int near, parts;
};
template <class E>
static __device__ __forceinline__ attn_span<E> attn_cut(const attn_args &a, const attn_seen<E> &see, int64_t g,
                                                        unsigned split) {
	unsigned keys = (unsigned)(see.end - see.begin), splits = (unsigned)a.splits;
	unsigned each = ((keys + splits - 1) / splits + PART - 1) / PART * PART, from = WHIT_MIN(split * each, keys);
	attn_span<E> w = {};
	w.k = see.k + g * a.dim, w.v = see.v + g * a.dim;
	w.ld = a.kv_heads * a.dim;
	w.from = see.begin + from, w.to = see.begin + WHIT_MIN(from + each, keys);
	w.parts = (int)((keys + each - 1) / each);
	return w;
}

/* Of a power of two, as rows' widths are here: a division by one would take as long as a load from near memory. */
static __device__ __forceinline__ int attn_log(int n) { return __ffs(n) - 1; }

/* The threads of a value: which of the `slots` that share out a chunk's values, and the first of four dimensions. */
struct attn_place {
	int slots, slot, at;
};
static __device__ __forceinline__ attn_place attn_places(int dim) {
	int log = attn_log(dim / 4), tid = (int)threadIdx.x;
	attn_place p = {DECODE_THREADS >> log, tid >> log, (tid & (dim / 4 - 1)) * 4};
	return p;
}

/* Scores of the chunk at j0: four keys a warp and turn. */
template <class E, int G>
static __device__ __forceinline__ void attn_scores(const attn_span<E> &w, const attn_room &r, int dim, int64_t j0) {
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	for (int turn = 0; turn < KEYS; turn += PART) {
		int j = turn + warp * 4 + lane / 8;
		float dot[G] = {};
		if (j0 + j < w.to) {
			const E *row = j0 == w.from && j < w.near ? w.near_k + j * dim : w.k + (j0 + j) * w.ld;
			for (int d = lane % 8 * 4; d < dim; d += 32) {
				float4 k = attn_load4(row + d);
				WHIT_UNROLL
				for (int i = 0; i < G; i++) {
					float4 x = *reinterpret_cast<const float4 *>(r.q + i * dim + d);
					dot[i] = fmaf(x.w, k.w, fmaf(x.z, k.z, fmaf(x.y, k.y, fmaf(x.x, k.x, dot[i]))));
				}
			}
		}
		WHIT_UNROLL
		for (int i = 0; i < G; i++) {
			if (j0 + turn < w.to) /* the whole turn's: a short part has no more */
				for (int m = 4; m > 0; m /= 2) dot[i] += __shfl_xor_sync(0xffffffffu, dot[i], m);
			if (lane % 8 == 0) r.s[i * KEYS + j] = j0 + j < w.to ? dot[i] : -INFINITY;
		}
	}
}

/* Scores to weights: softmax so far. */
template <int G> static __device__ __forceinline__ void attn_weights(const attn_room &r) {
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	for (int i = warp; i < G; i += DECODE_THREADS / 32) {
		float x0 = r.s[i * KEYS + lane], x1 = r.s[i * KEYS + 32 + lane], most = fmaxf(x0, x1);
		for (int m = 16; m > 0; m /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, m));
		float before = r.top[i], higher = fmaxf(before, most), p0 = expf(x0 - higher), p1 = expf(x1 - higher);
		float p = whit_warp_sum(p0 + p1);
		r.s[i * KEYS + lane] = p0, r.s[i * KEYS + 32 + lane] = p1;
		__syncwarp();
		if (lane == 0) {
			r.keep[i] = expf(before - higher);
			r.total[i] = fmaf(r.total[i], r.keep[i], p);
			r.top[i] = higher;
		}
	}
}

/* sum: the thread's values, weighed. */
template <class E, int G>
static __device__ __forceinline__ void attn_scan(const attn_span<E> &w, const attn_room &r, int dim,
                                                 float (&sum)[G][4]) {
	attn_place p = attn_places(dim);
	for (int64_t j0 = w.from; j0 < w.to; j0 += KEYS) {
		attn_scores<E, G>(w, r, dim, j0);
		__syncthreads();
		attn_weights<G>(r);
		if (w.near) ptx_copy_wait<0>(); /* values */
		__syncthreads();
		WHIT_UNROLL
		for (int i = 0; i < G; i++)
			for (int c = 0; c < 4; c++) sum[i][c] *= r.keep[i];
		int n = (int)WHIT_MIN((int64_t)KEYS, w.to - j0);
		if (p.slot < p.slots) {
			WHIT_UNROLL_BY(4)
			for (int j = p.slot; j < n; j += p.slots) {
				bool near = j0 == w.from && j < w.near;
				float4 v = attn_load4((near ? w.near_v + j * dim : w.v + (j0 + j) * w.ld) + p.at);
				WHIT_UNROLL
				for (int i = 0; i < G; i++) {
					float x = r.s[i * KEYS + j];
					sum[i][0] = fmaf(x, v.x, sum[i][0]), sum[i][1] = fmaf(x, v.y, sum[i][1]);
					sum[i][2] = fmaf(x, v.z, sum[i][2]), sum[i][3] = fmaf(x, v.w, sum[i][3]);
				}
			}
		}
		__syncthreads();
	}
}

/* The slots' sums, joined in order: what heads from `head` on give, or, of several parts, this one's. */
template <int G>
static __device__ __forceinline__ void attn_leave(const attn_args &a, const attn_room &r, const float (&sum)[G][4],
                                                  int64_t head, unsigned split, int parts) {
	int dim = (int)a.dim;
	attn_place p = attn_places(dim);
	if (p.slot < p.slots) {
		WHIT_UNROLL
		for (int i = 0; i < G; i++)
			for (int c = 0; c < 4; c++) r.sums[(p.slot * G + i) * dim + p.at + c] = sum[i][c];
	}
	__syncthreads();
	for (int i = (int)threadIdx.x; i < a.group * dim; i += DECODE_THREADS) {
		int h = i >> attn_log(dim), d = i & (dim - 1);
		float v = 0;
		for (int k = 0; k < p.slots; k++) v += r.sums[(k * G + h) * dim + d];
		if (parts == 1) {
			a.y[(head + h) * dim + d] = v / r.total[h];
			continue;
		}
		float *part = a.part + ((head + h) * a.splits + split) * (dim + 2);
		part[d] = v;
		if (d == 0) part[dim] = r.top[h], part[dim + 1] = r.total[h];
	}
}

template <class E, int G>
__global__ void __launch_bounds__(DECODE_THREADS, DECODE_BLOCKS) attn_decode_kernel(const attn_args a) {
	WHIT_SHARED_DYNAMIC(float, shared);
	WHIT_AFTER();
	int dim = (int)a.dim, tid = (int)threadIdx.x;
	unsigned splits = (unsigned)a.splits, split = blockIdx.x % splits, unit = blockIdx.x / splits;
	int64_t g = unit % (unsigned)a.kv_heads, t = unit / (unsigned)a.kv_heads, head = t * a.heads + g * a.group;
	attn_room r = attn_rooms<G>(shared, dim);
	attn_span<E> w = attn_cut(a, attn_see<E>(a, whit_dev_sequence(a.start, a.n_seq, t), t), g, split);
	for (int i = tid; i < G * dim; i += DECODE_THREADS)
		r.q[i] = i < a.group * dim ? a.q[head * dim + i] * a.scale : 0;
	if (tid < G) r.top[tid] = -INFINITY, r.total[tid] = 0;
	float sum[G][4] = {};
	__syncthreads();
	attn_scan<E, G>(w, r, dim, sum);
	attn_leave<G>(a, r, sum, head, split, a.splits);
}

/* A block joins the parts of `heads` heads, in their order; a part without keys has maximum -Inf and weighs nothing.
 * part (heads, splits, dim + 2), of which `parts` are there; room (2, heads, parts), shared: their weights, totals. */
static __device__ __forceinline__ void attn_join(float *y, const float *part, int heads, int parts, int splits, int dim,
                                                 float *room) {
	int tid = (int)threadIdx.x, lane = tid % 32, ld = dim + 2;
	float *weight = room, *total = room + heads * parts;
	for (int h = tid / 32; h < heads; h += (int)blockDim.x / 32) {
		const float *end = part + (int64_t)h * splits * ld + dim;
		float *w = weight + h * parts, *x = total + h * parts, top = -INFINITY, sum = 0;
		for (int s = lane; s < parts; s += 32) {
			w[s] = end[s * ld], x[s] = end[s * ld + 1];
			top = fmaxf(top, w[s]);
		}
		for (int m = 16; m > 0; m /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, m));
		for (int s = lane; s < parts; s += 32) w[s] = expf(w[s] - top);
		__syncwarp();
		if (lane) continue;
		for (int s = 0; s < parts; s++) sum = fmaf(x[s], w[s], sum);
		x[0] = sum;
	}
	__syncthreads();
	for (int i = tid; i < heads * dim / 2; i += (int)blockDim.x) {
		int h = i >> attn_log(dim / 2), d = (i & (dim / 2 - 1)) * 2;
		const float *from = part + (int64_t)h * splits * ld + d, *w = weight + h * parts;
		float v0 = 0, v1 = 0;
		WHIT_UNROLL_BY(8)
		for (int s = 0; s < parts; s++) {
			float2 x = *reinterpret_cast<const float2 *>(from + s * ld);
			v0 = fmaf(x.x, w[s], v0), v1 = fmaf(x.y, w[s], v1);
		}
		y[h * dim + d] = v0 / total[h * parts], y[h * dim + d + 1] = v1 / total[h * parts];
	}
}

/* A block has one query of one head. */
__global__ void attn_join_kernel(float *y, const float *part, int splits, int dim) {
	WHIT_SHARED_DYNAMIC(float, room);
	WHIT_AFTER();
	attn_join(y + (int64_t)blockIdx.x * dim, part + (int64_t)blockIdx.x * splits * (dim + 2), 1, splits, splits,
	          dim, room);
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

/* Cosine and sine by which a position turns a pair. */
static __device__ __forceinline__ void qkv_turn(float2 *turn, double freq, int64_t pos, float mscale) {
	float c, s;
	whit_dev_turn((float)((double)pos * freq), &c, &s);
	*turn = make_float2(c * mscale, s * mscale);
}

/* A head's norm (or NULL) and turn, in place, by a warp; x is shared. */
static __device__ __forceinline__ void qkv_head(const whit_qkv &p, float *x, const float *norm, const float2 *turn,
                                                int lane) {
	int dim = (int)p.dim, half = (int)p.rot / 2;
	if (norm) {
		float sum = 0;
		for (int d = lane; d < dim; d += 32) sum = fmaf(x[d], x[d], sum);
		float s = 1 / sqrtf(whit_warp_sum(sum) / (float)dim + p.eps);
		for (int d = lane; d < dim; d += 32) x[d] = x[d] * s * (norm[d] + p.shift);
	}
	__syncwarp();
	for (int d = lane; d < half; d += 32) {
		float2 by = turn[d];
		float low = x[d], high = x[d + half];
		x[d] = low * by.x - high * by.y, x[d + half] = high * by.x + low * by.y;
	}
	__syncwarp();
}

/* A warp has one head of one token: of q, of k, or of v, which is only put into its cache. Of each warp rot / 2 turns
 * and dim values are shared. */
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
	const float *in = (is_q ? p.q : is_v ? p.v : p.k) + (t * n + h) * dim;
	float *out = (is_q ? p.q_out : p.k_out) + (t * n + h) * dim, *x = shared + QKV_WARPS * p.rot + warp * dim;
	float2 *turn = reinterpret_cast<float2 *>(shared) + warp * half;
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
	for (int64_t d = lane; d < dim; d += 32) x[d] = in[d];
	for (int64_t d = lane; d < half; d += 32) qkv_turn(turn + d, p.inv_freq[d], a.pos[t], p.mscale);
	__syncwarp();
	qkv_head(p, x, is_q ? p.q_norm : p.k_norm, turn, lane);
	for (int64_t d = lane; d < dim; d += 32) {
		if (row)
			attn_store(row + d, x[d]);
		else
			out[d] = x[d];
	}
}

/* ---- both, for one token a sequence ---- */

struct attend_args {
	attn_args a;
	whit_qkv p;
	const int64_t *pos;
	unsigned *count; /* of blocks, a (token, kv head) each: whit_dev_counters */
	int near, first; /* keys that are near; floats of them, of their values and of what follows in their place */
};

/* A block's shared memory. Sums and what joins parts come where near keys and values were. */
template <class E> struct attend_room {
	E *near_k, *near_v; /* (near, dim) */
	float *k, *v;       /* (dim): the new ones */
	float *q_norm, *k_norm;
	float2 *turn; /* (dim / 2) */
	attn_room r;
};
template <class E, int G>
static __device__ __forceinline__ attend_room<E> attend_rooms(float *shared, const attend_args &z) {
	int dim = (int)z.a.dim;
	attend_room<E> r;
	r.near_k = reinterpret_cast<E *>(shared), r.near_v = r.near_k + z.near * dim;
	r.k = shared + z.first, r.v = r.k + dim;
	r.q_norm = r.v + dim, r.k_norm = r.q_norm + dim;
	r.turn = reinterpret_cast<float2 *>(r.k_norm + dim);
	r.r = attn_rooms<G>(r.k_norm + 2 * dim, dim);
	r.r.sums = shared;
	return r;
}

/* `rows` rows of dim elements, ld apart, on their way to shared memory, all at once: 16 bytes a thread and turn. */
template <class E>
static __device__ __forceinline__ void attend_copy(E *to, const E *from, int64_t ld, int rows, int dim) {
	enum { EACH = 16 / sizeof(E) };
	int per = dim / EACH, log = attn_log(per), at = ((int)threadIdx.x & (per - 1)) * EACH;
	for (int i = (int)threadIdx.x >> log; i < rows; i += DECODE_THREADS >> log)
		ptx_copy_async<16>(to + i * dim + at, from + i * ld + at);
}

/* A row into its cache, and near, by a warp; what is read back is what is stored. */
template <class E>
static __device__ __forceinline__ void attend_put(E *row, E *near, const float *x, int dim, int lane) {
	for (int d = lane; d < dim; d += 32) {
		attn_store(row + d, x[d]);
		if (near) attn_store(near + d, x[d]);
	}
}

/* Whether this is the last of a unit's `parts` blocks that comes here, whose parts are then seen. The counter is 0
 * again. */
static __device__ __forceinline__ bool attend_last(unsigned *count, int parts) {
	int last = 0;
	__syncthreads();
	if (threadIdx.x == 0) {
		ptx_fence();
		last = atomicInc(count, (unsigned)parts - 1) == (unsigned)parts - 1;
		ptx_fence();
	}
	return __syncthreads_or(last);
}

/* Heads, a warp each: the queries, times scale; where w ends with the newest key, its n-th, that and its value. */
template <class E, int G>
static __device__ __forceinline__ void attend_heads(const attend_args &z, const attend_room<E> &r,
                                                    const attn_span<E> &w, int n, bool newest) {
	const whit_qkv &p = z.p;
	int dim = (int)p.dim, lane = (int)threadIdx.x % 32, group = z.a.group;
	int64_t row = (w.to - 1) * w.ld;
	bool near = n < w.near;
	for (int u = (int)threadIdx.x / 32; u < G + 2 * newest; u += DECODE_THREADS / 32) {
		float *x = r.r.q + u * dim;
		if (u < G) {
			if (u < group) qkv_head(p, x, p.q_norm ? r.q_norm : NULL, r.turn, lane);
			for (int d = lane; d < dim; d += 32) x[d] = u < group ? x[d] * z.a.scale : 0;
		} else if (u == G) {
			qkv_head(p, r.k, p.k_norm ? r.k_norm : NULL, r.turn, lane);
			attend_put(const_cast<E *>(w.k) + row, near ? r.near_k + n * dim : NULL, r.k, dim, lane);
		} else {
			attend_put(const_cast<E *>(w.v) + row, near ? r.near_v + n * dim : NULL, r.v, dim, lane);
		}
	}
}

/* A block has the G queries that share a kv head, which each makes for itself, and one of the parts of their keys. The
 * part with the newest key makes that too; no other reads it. All that does not wait for `past` is asked for first,
 * then all keys and values that are near. */
template <class E, int G>
__global__ void __launch_bounds__(DECODE_THREADS, DECODE_BLOCKS) attend_kernel(const attend_args z) {
	WHIT_SHARED_DYNAMIC(float, shared);
	const attn_args &a = z.a;
	const whit_qkv &p = z.p;
	int dim = (int)a.dim, tid = (int)threadIdx.x, half = (int)p.rot / 2;
	int64_t t = blockIdx.x, g = blockIdx.y, head = t * a.heads + g * a.group, kv_head = t * a.kv_heads + g;
	attend_room<E> r = attend_rooms<E, G>(shared, z);
	WHIT_UNROLL_BY(2)
	for (int d = tid; d < dim; d += DECODE_THREADS) {
		if (p.q_norm) r.q_norm[d] = p.q_norm[d];
		if (p.k_norm) r.k_norm[d] = p.k_norm[d];
	}
	double freq = tid < half ? p.inv_freq[tid] : 0;
	WHIT_AFTER();
	attn_seen<E> see = attn_see<E>(a, (int)t, t);
	int64_t pos = z.pos[t];
	attend_copy(r.r.q, p.q + head * dim, dim, a.group, dim);
	attend_copy(r.k, p.k + kv_head * dim, 0, 1, dim);
	attend_copy(r.v, p.v + kv_head * dim, 0, 1, dim);
	ptx_copy_commit();
	attn_span<E> w = attn_cut(a, see, g, blockIdx.z);
	if (w.from >= w.to) {
		ptx_copy_wait<0>();
		return;
	}
	int n = (int)(WHIT_MIN(w.to, see.end - 1) - w.from); /* keys that are in the cache */
	w.near_k = r.near_k, w.near_v = r.near_v, w.near = z.near;
	attend_copy(r.near_k, w.k + w.from * w.ld, w.ld, WHIT_MIN(n, z.near), dim);
	ptx_copy_commit();
	attend_copy(r.near_v, w.v + w.from * w.ld, w.ld, WHIT_MIN(n, z.near), dim);
	ptx_copy_commit();
	if (tid < half) qkv_turn(r.turn + tid, freq, pos, p.mscale);
	if (tid < G) r.r.top[tid] = -INFINITY, r.r.total[tid] = 0;
	ptx_copy_wait<2>(); /* the new ones */
	__syncthreads();
	attend_heads<E, G>(z, r, w, n, w.to == see.end);
	ptx_copy_wait<1>(); /* keys */
	__syncthreads();
	float sum[G][4] = {};
	attn_scan<E, G>(w, r.r, dim, sum);
	attn_leave<G>(a, r.r, sum, head, blockIdx.z, w.parts);
	if (w.parts > 1 && attend_last(z.count + kv_head, w.parts))
		attn_join(a.y + head * dim, a.part + head * a.splits * (dim + 2), a.group, w.parts, a.splits, dim,
		          shared);
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

/* Calls f with a constant: the queries of a kv head that a kernel is made for. */
template <class F> static void attn_group(int group, F f) {
	if (group == 1)
		f(std::integral_constant<int, 1>());
	else if (group == 2)
		f(std::integral_constant<int, 2>());
	else if (group <= 4)
		f(std::integral_constant<int, 4>());
	else
		f(std::integral_constant<int, 8>());
}

/* Rows of whole float4, that divide a block. */
static bool attn_few(const whit_dev *d, const attn_args &a) {
	return !d->plain && a.T <= 8 * a.n_seq && a.dim % 32 == 0 && (a.dim & (a.dim - 1)) == 0 &&
	       a.dim <= DECODE_DIM && a.group <= DECODE_GROUP;
}

/* Enough parts that all multiprocessors have two, none shorter than its warps' first turn; fixed for a recorded
 * step. */
static void attn_split(whit_dev *d, attn_args *a) {
	int64_t most = a->cache ? a->cap : a->T, units = a->T * a->kv_heads;
	a->splits = (int)WHIT_MAX(1, WHIT_MIN((most + PART - 1) / PART, (2 * d->sms + units - 1) / units));
	if (a->splits > 1)
		a->part =
		        (float *)whit_dev_take(d, (size_t)(a->T * a->heads * a->splits * (a->dim + 2)) * sizeof(float));
}

template <class E, int G> static void attn_decode(whit_dev *d, attn_args a) {
	attn_split(d, &a);
	size_t sums = (size_t)(DECODE_THREADS / (a.dim / 4)) * G * (size_t)a.dim;
	size_t smem = ((size_t)G * (size_t)(a.dim + KEYS + 3) + sums + 4) * sizeof(float);
	WHIT_LAUNCH_EARLY((attn_decode_kernel<E, G>), (unsigned)(a.T * a.kv_heads * a.splits), DECODE_THREADS, smem, d,
	                  a);
	if (a.splits > 1)
		WHIT_LAUNCH_EARLY(attn_join_kernel, (unsigned)(a.T * a.heads), (unsigned)WHIT_MIN(a.dim, (int64_t)128),
		                  2 * (size_t)a.splits * sizeof(float), d, a.y, a.part, a.splits, (int)a.dim);
}

enum { NEAR = 16 << 10 }; /* bytes of keys, and of values, that a block has under way: PART rows of 256 floats */
template <class E, int G> static void attend(whit_dev *d, attend_args z) {
	attn_args *a = &z.a;
	attn_split(d, a);
	int dim = (int)a->dim, each = (int)((a->cap + a->splits - 1) / a->splits + PART - 1) / PART * PART;
	z.near = WHIT_MIN(WHIT_MIN(each, (int)KEYS), NEAR / (dim * (int)sizeof(E)));
	z.first = WHIT_MAX(2 * z.near * dim * (int)sizeof(E) / (int)sizeof(float),
	                   WHIT_MAX(DECODE_THREADS * 4 * G, (2 * G * a->splits + 3) / 4 * 4));
	if (a->splits > 1) z.count = whit_dev_counters(d); /* then units are fewer than they */
	size_t smem = (size_t)(z.first + 5 * dim + G * (dim + KEYS + 3)) * sizeof(float);
	WHIT_LAUNCH_EARLY((attend_kernel<E, G>), dim3((unsigned)a->T, (unsigned)a->kv_heads, (unsigned)a->splits),
	                  DECODE_THREADS, smem, d, z);
}

template <class E> static void attn_choose(whit_dev *d, const attn_args &a) {
	if (attn_few(d, a)) {
		attn_group(a.group, [&](auto g) { attn_decode<E, decltype(g)::value>(d, a); });
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

static attn_args attn_args_of(float *y, void *const *cache, int64_t cap, const whit_spans *b, int64_t heads,
                              int64_t kv_heads, int64_t dim, float scale, int64_t window) {
	attn_args a = {};
	a.y = y, a.cache = cache, a.cap = cap;
	a.T = b->T, a.n_seq = b->n_seq, a.start = b->start, a.past = b->past;
	a.heads = heads, a.kv_heads = kv_heads, a.group = (int)(heads / kv_heads), a.dim = dim;
	a.scale = scale, a.window = window, a.splits = 1;
	return a;
}

extern "C" {

void whit_attention_cuda(whit_dev *d, float *y, const float *q, const float *k, const float *v, void *const *cache,
                         int kv, int64_t cap, const whit_spans *b, int64_t heads, int64_t kv_heads, int64_t dim,
                         float scale, int64_t window) {
	attn_args a = attn_args_of(y, cache, cap, b, heads, kv_heads, dim, scale, window);
	a.q = q, a.k = k, a.v = v;
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
		                  (size_t)(QKV_WARPS * (p->dim + p->rot)) * sizeof(float), d, a);
	});
}

void whit_attend_cuda(whit_dev *d, const whit_qkv *p, void *const *cache, int kv, int64_t cap, const whit_spans *b,
                      float *y, float scale, int64_t window) {
	attend_args z = {};
	z.a = attn_args_of(y, cache, cap, b, p->heads, p->kv_heads, p->dim, scale, window);
	z.p = *p, z.pos = b->pos;
	if (!cache || !b->one || !attn_few(d, z.a)) {
		whit_qkv_cuda(d, p, cache, kv, cap, b);
		whit_attention_cuda(d, y, p->q_out, p->k_out, p->v, cache, kv, cap, b, p->heads, p->kv_heads, p->dim,
		                    scale, window);
		return;
	}
	attn_element(d, kv, true, [&](auto e) {
		attn_group(z.a.group, [&](auto g) { attend<decltype(e), decltype(g)::value>(d, z); });
	});
}
}
