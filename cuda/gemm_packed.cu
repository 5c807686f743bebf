/* gemm_packed: codes of 1, 2, 3, 4 or 8 bits times up to 128 tokens on tensor cores, straight from the canonical bytes.
 * What decides few bits is instructions per weight (kernels.md; bench/instructions.sh counts them), so:
 *
 * - mma.m16n8k16 takes 256 weights and 8 columns of input even for one token. Which of a row's columns is which of an
 *   mma's k is free as long as both factors agree: a lane takes V bytes of a row as they lie, and the input is put into
 *   that order once, by a kernel of its own (input_kernel), which also does what stands in front of it (norm, swiglu).
 * - A field masked where it stands in the lower 10 bits of a half is a subnormal half, code * 2^(place - 24), exactly:
 *   one lop3 for two weights, and 2^-place goes into the input. Tensor cores take subnormals as they are (Fasi, Higham,
 *   Mikaitis, Pranesh 2021, Numerical behavior of NVIDIA tensor cores).
 * - Affine levels need codes alone: sum (a c + b) x = a sum c x + b sum x. Four levels that mirror each other are a sum
 *   over two bits. Three bits, and codebooks of 4 and 8, are read from shared memory, as F16, from a table for each
 *   lane, so that lanes never meet in a bank.
 * - A step's columns lie within one group (V is chosen so), whose scale multiplies a step's sums once. Groups of 32 at
 * 4 and 8 bits are smaller than 16 bytes a lane: then a step holds F of them, each folded by itself.
 * - Rows come by whole lines through shared memory (line_of), past the registers: loads into registers shared a
 *   scoreboard, so that a step waited for what it had just asked for.
 * - Up to three matrices of one kind in a launch share its blocks by their rows. A block's warps take tiles of 16 or 32
 *   of its rows, and cut the columns where tiles would be empty otherwise.
 *
 * Activations are two halves each (22 bits and the row's own power of two), or one where whit_dev_terms is 1: for one
 * to four tokens the second costs nothing, since there are eight columns anyway. */
#include "cuda/formats.cuh"
#include "cuda/gemv.cuh"
extern "C" {
#include "formats/twin.h"
}
#include <limits.h>
#include <type_traits>

enum { THREADS = 384, WARPS = THREADS / 32, TILE = 16, COLUMNS = 8, MOST = 128 };

struct packed_way {
	const uint8_t *codes, *scales;
	int64_t paired;
	const float *codebook; /* NULL: two's complement */
	int rows, block;       /* the first of its blocks */
	float *y;
	const float *bias, *add;
	const uint16_t *low; /* (rows, rank): a low-rank branch's B; NULL: none */
	const float *ax;     /* (tokens, rank) */
	int rank;
	float low_scale;
};
/* A low-rank branch's A (rank, K), whose products with the input its kernel makes too: of up to three matrices. */
struct low_down {
	const uint16_t *a0, *a1, *a2;
	int first1, first2, rows; /* the second's first row of all, the third's */
	float *ax0, *ax1, *ax2;
};
struct packed_args {
	/* one kind of codes, of as many columns; those that are not there begin behind the last block */
	packed_way m0, m1, m2;
	int64_t row_bytes, scale_bytes;
	int group_shift;                /* a group is 1 << group_shift steps */
	int steps, cols, stride, terms; /* columns of input, also rounded up to 8 */
	int stages;                     /* lines of a warp under way */
	int parted;                     /* sums go through shared memory: warps cut columns, or there are branches */
	int lines;                      /* of a row */
	const uint4 *x;                 /* (steps, pairs of mmas, cols, 4): two b fragments' halves of a lane */
	const float *sums;              /* (steps, F, stride): of x over the columns of a step, or of its groups */
	const float *back;              /* (tokens): what undoes a token's power of two */
	int cuts;                       /* warps that share the columns of the same rows: divides a block's */
};

/* ---- decoders ----
 * A word's codes go by pairs, as the halves of a register: code i is `high` half or low half of `pair` i, at 2^place.
 */

/* Codes q and q + 16 / bits, as fields of both halves of the word. */
template <int B, int P> struct fields {
	enum { bits = B, planes = P, entries = 0, unit = 32 / B, words = 1, block = 0 };
	WHIT_BOTH int pair(int i) { return i % (16 / B); }
	WHIT_BOTH int high(int i) { return i / (16 / B); }
	WHIT_BOTH int place(int q) { return B * q % 8; }
	/* Plane p of two: bit p alone. */
	static __device__ __forceinline__ unsigned halves(const unsigned *w, int q, int p, unsigned flip,
	                                                  const unsigned *) {
		unsigned at = B * q >= 8 ? w[0] >> 8 : w[0];
		unsigned mask = (P == 1 ? (1u << B) - 1 : p == 1 ? 2u : 1u) << place(q);
		return ptx_lop3<0x28>(at, flip, mask | mask << 16); /* (a ^ b) & c */
	}
};

/* Codes side by side, read from a table whose entries are 128 bytes apart: a word a lane. */
struct table_of {
	enum { block = 0 };
	WHIT_BOTH int pair(int i) { return i / 2; }
	WHIT_BOTH int high(int i) { return i % 2; }
	WHIT_BOTH int place(int) { return 0; }
	/* The entry that `width` bits from bit `at` of the words on name. */
	template <int width>
	static __device__ __forceinline__ unsigned entry(const unsigned *w, int at, const unsigned *table) {
		int i = at / 32, from = at % 32;
		unsigned v = from < 7 ? w[i] << (7 - from) : w[i] >> (from - 7);
		if (from + width > 32) v |= w[i + 1] << (39 - from);
		return *(const unsigned *)((const uint8_t *)table + (v & ((1u << width) - 1) << 7));
	}
	/* Of two codes; level NULL: two's complement. */
	template <int bits> static __device__ __forceinline__ unsigned both(const float *level, int i) {
		constexpr int top = 1 << (bits - 1);
		int low = i % (1 << bits), high = i >> bits;
		float a = level ? level[low] : (float)((low ^ top) - top);
		float b = level ? level[high] : (float)((high ^ top) - top);
		return whit_dev_to_f16(a) | (unsigned)whit_dev_to_f16(b) << 16;
	}
};
struct table3 : table_of {
	enum { bits = 3, planes = 1, entries = 64, unit = 32, words = 3 };
	static __device__ __forceinline__ unsigned halves(const unsigned *w, int q, int, unsigned, const unsigned *t) {
		return entry<6>(w, 6 * q, t);
	}
	static __device__ __forceinline__ unsigned make(const float *level, int i) { return both<3>(level, i); }
};
struct table4 : table_of {
	enum { bits = 4, planes = 1, entries = 256, unit = 8, words = 1 };
	static __device__ __forceinline__ unsigned halves(const unsigned *w, int q, int, unsigned, const unsigned *t) {
		return entry<8>(w, 8 * q, t);
	}
	static __device__ __forceinline__ unsigned make(const float *level, int i) { return both<4>(level, i); }
};
struct table8 : table_of {
	enum { bits = 8, planes = 1, entries = 256, unit = 4, words = 1 };
	static __device__ __forceinline__ unsigned halves(const unsigned *w, int q, int, unsigned, const unsigned *t) {
		return ptx_prmt(entry<8>(w, 16 * q, t), entry<8>(w, 16 * q + 8, t), 0x5410);
	}
	static __device__ __forceinline__ unsigned make(const float *level, int i) { return whit_dev_to_f16(level[i]); }
};

/* ---- blocks of 256 weights as ggml lays them out (formats/fmt_q4_k.c, fmt_q5_k.c, fmt_q6_k.c) ----
 * A line is a block of each row, a step a quarter of it: 64 columns of F groups, `held` words a lane. Its scales are
 * multiplied out once, by a lane for each row, into `scaled` floats, four of them for each step. Codes reach from 0;
 * what is to be taken off is a group's own minimum, or the same for all. */

/* Where a step's column is: lane, mma, which of its two registers and which half of it, at 2^place. */
struct where {
	int lane, mma, reg, high, place;
};
enum { SCALED = 16, SCALED_PITCH = 20 }; /* floats; rows that far apart meet no bank twice */

/* Byte b of a lane's word holds columns b and, in its upper half, b + 32. */
template <bool five> struct block45 {
	enum { bits = 4, planes = 1, entries = 0, unit = 8, words = 1 };
	enum { block = five ? 176 : 144, held = five ? 4 : 2, scales = 0, minima = 1, zero = 0 };
	static __device__ __forceinline__ int column(int step, int c) { return step * 64 + c; }
	static __device__ __forceinline__ where place(int c) {
		int upper = c / 32, l = c % 32;
		return {l % 16 / 4, upper * 2 + l / 16, l % 2, l % 4 / 2, 4 * upper};
	}
	static __device__ __forceinline__ void hold(unsigned w[held], const uint8_t *row, int step, int t) {
		const uint8_t *low = row + (five ? 48 : 16) + 32 * step + 4 * t, *high = row + 16 + 4 * t;
		w[0] = *(const unsigned *)low, w[1] = *(const unsigned *)(low + 16);
		if constexpr (five) {
			w[2] = *(const unsigned *)high >> 2 * step;
			w[3] = *(const unsigned *)(high + 16) >> 2 * step;
		}
	}
	static __device__ __forceinline__ unsigned halves(const unsigned *w, int m, int reg) {
		unsigned at = reg ? w[m % 2] >> 8 : w[m % 2], mask = m / 2 ? 0x00f000f0u : 0x000f000fu;
		if constexpr (!five) return at & mask;
		unsigned h = w[2 + m % 2],
		         top = m / 2 ? (reg ? h >> 1 : h << 7) & 0x01000100u : (reg ? h >> 4 : h << 4) & 0x00100010u;
		return ptx_lop3<0xea>(at, mask, top); /* a & b | c */
	}
	/* d * scale * 2^24 and -(m * min) of each group, in turn. */
	static __device__ __forceinline__ void scale(float out[SCALED], const uint8_t *row, float) {
		uint4 v = *(const uint4 *)row;
		float d = whit_dev_f16((uint16_t)v.x) * 0x1p24f, m = -whit_dev_f16((uint16_t)(v.x >> 16));
		unsigned s[2] = {v.y & 0x3f3f3f3fu, (v.w & 0x0f0f0f0fu) | (v.y >> 2 & 0x30303030u)};
		unsigned n[2] = {v.z & 0x3f3f3f3fu, (v.w >> 4 & 0x0f0f0f0fu) | (v.z >> 2 & 0x30303030u)};
		WHIT_UNROLL
		for (int g = 0; g < 8; g++) {
			out[2 * g] = d * (float)(s[g / 4] >> 8 * (g % 4) & 255);
			out[2 * g + 1] = m * (float)(n[g / 4] >> 8 * (g % 4) & 255);
		}
	}
};
/* As formats/twin.h splits it: 208 bytes and, in a plane of their own, the F16s. A step is 16 of each of a half's four
 * groups of 32; bits 4 and 5 stand for all four in one byte. */
struct block6 {
	enum { bits = 4, planes = 1, entries = 0, unit = 8, words = 1 };
	enum { block = 208, held = 3, scales = 1, minima = 0, zero = -32 };
	static __device__ __forceinline__ int column(int step, int c) {
		return step / 4 * 256 + step % 4 / 2 * 128 + step % 2 * 16 + c / 16 * 32 + c % 16;
	}
	static __device__ __forceinline__ where place(int c) {
		return {c % 16 / 4, c / 16, c % 2, c % 4 / 2, c / 32 * 4};
	}
	static __device__ __forceinline__ void hold(unsigned w[held], const uint8_t *row, int step, int t) {
		const uint8_t *low = row + step / 2 * 64 + step % 2 * 16 + 4 * t;
		w[0] = *(const unsigned *)low, w[1] = *(const unsigned *)(low + 32);
		w[2] = *(const unsigned *)(row + 128 + step / 2 * 32 + step % 2 * 16 + 4 * t);
	}
	static __device__ __forceinline__ unsigned halves(const unsigned *w, int m, int reg) {
		unsigned at = reg ? w[m % 2] >> 8 : w[m % 2], mask = m / 2 ? 0x00f000f0u : 0x000f000fu;
		unsigned h = m % 2 ? (reg ? w[2] >> 6 : w[2] << 2) : (reg ? w[2] >> 4 : w[2] << 4);
		return ptx_lop3<0xea>(at, mask, h & (m / 2 ? 0x03000300u : 0x00300030u)); /* a & b | c */
	}
	static __device__ __forceinline__ void scale(float out[SCALED], const uint8_t *row, float d) {
		uint4 v = *(const uint4 *)(row + 192);
		unsigned s[4] = {v.x, v.y, v.z, v.w};
		WHIT_UNROLL
		for (int g = 0; g < 16; g++) { /* group 8 n + 2 j + x is number j of step 2 n + x */
			int to = (g / 8 * 2 + g % 2) * 4 + g % 8 / 2;
			out[to] = d * 0x1p24f * (float)(int8_t)(s[g / 4] >> 8 * (g % 4));
		}
	}
};

/* Of a step: columns, and mmas of a row tile. */
template <class D, int V> struct step_of {
	enum { lane = D::block > 0 ? 16 : V * 8 / D::bits, columns = 4 * lane, mmas = lane / 4 };
};

/* Where a step holds F groups, 16 bytes are columns of one of them, so the four lanes of a row share them, a word each:
 * kernels exchange them in shared memory. */
template <class D, int V, int F> static __device__ __forceinline__ where place(int c) {
	if constexpr (D::block > 0) {
		return D::place(c);
	} else {
		constexpr int each = step_of<D, V>::lane;
		int lane = F > 1 ? c / D::unit % 4 : c / each, unit = F > 1 ? c / (4 * D::unit) : c % each / D::unit;
		int code = c % D::unit, pair = D::pair(code);
		return {lane, unit * (D::unit / 4) + pair / 2, pair % 2, D::high(code), D::place(pair)};
	}
}
template <class D, int V> static __device__ __forceinline__ int column(int step, int c) {
	if constexpr (D::block > 0)
		return D::column(step, c);
	else
		return step * step_of<D, V>::columns + c;
}

/* ---- the input in the order of the products ----
 * Tokens as halves, scaled by a power of two so that a row's largest finite value lies in [2^14, 2^15): the smallest
 * place takes it to 2^7, which leaves 2^-32 of it as the last bit. Zeros beyond K. Blocks (tokens, parts): each finds
 * the row's largest value anew, which is quicker than asking another, and makes its part of the steps. */

/* Row r of a branch's A times the input, by a block; value(column) is that. */
template <class Value>
static __device__ __forceinline__ void low_row(const low_down &low, int r, int token, int K, Value value) {
	const uint16_t *a = r < low.first1 ? low.a0 : r < low.first2 ? low.a1 : low.a2;
	float *ax = r < low.first1 ? low.ax0 : r < low.first2 ? low.ax1 : low.ax2;
	int begin = r < low.first1 ? 0 : r < low.first2 ? low.first1 : low.first2;
	int end = r < low.first1 ? low.first1 : r < low.first2 ? low.first2 : low.rows;
	float sum = 0;
	for (int i = (int)threadIdx.x * 8; i < K; i += 8 * THREADS) {
		uint4 v = *(const uint4 *)(a + (int64_t)(r - begin) * K + i);
		unsigned w[4] = {v.x, v.y, v.z, v.w};
		WHIT_UNROLL
		for (int k = 0; k < 8; k++)
			sum = fmaf(whit_dev_f16((uint16_t)(w[k / 2] >> 16 * (k % 2))), value(i + k), sum);
	}
	sum = whit_block_sum(sum);
	if (threadIdx.x == 0) ax[(int64_t)token * (end - begin) + r - begin] = sum;
}

/* Blocks (tokens, parts of the steps + rows of low-rank branches). */
template <class D, int V, int F>
__global__ void __launch_bounds__(THREADS, 1)
        input_kernel(uint16_t *out, float *sums, float *back, const gemv_input in, int steps, int cols, int stride,
                     int terms, int parts, const low_down low) {
	using S = step_of<D, V>;
	WHIT_SHARED(unsigned, tops, [WARPS]);
	int token = (int)blockIdx.x, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, K = in.K;
	unsigned top = 0; /* bits of |x|: in order of size */
	WHIT_AFTER();
	const float *x = in.x + (int64_t)token * K, *x2 = in.x2 ? in.x2 + (int64_t)token * K : NULL;
	const float *other = in.pre == WHIT_PRE_SWIGLU ? x2 : in.pre == WHIT_PRE_NORM ? in.norm : NULL;
	float norm = 0;
	if (in.pre == WHIT_PRE_NORM) {
		gemv_each<1, 12>(x, NULL, K, [&](int, const gemv_floats<1> &v, const gemv_floats<1> &) {
			norm = fmaf(v.f[0], v.f[0], norm);
		});
		norm = 1 / sqrtf(whit_block_sum(norm) / (float)K + in.eps);
	}
	auto value = [&](float v, float o) {
		if (in.pre == WHIT_PRE_NORM) return v * norm * (o + in.shift);
		return in.pre == WHIT_PRE_SWIGLU ? v / (1 + expf(-v)) * o : v;
	};
	if ((int)blockIdx.y >= parts) {
		low_row(low, (int)blockIdx.y - parts, token, K,
		        [&](int i) { return value(x[i], other ? other[i] : 0); });
		return;
	}
	gemv_each<1, 12>(x, other, K, [&](int, const gemv_floats<1> &v, const gemv_floats<1> &o) {
		float f = value(v.f[0], o.f[0]);
		if (isfinite(f)) top = WHIT_MAX(top, __float_as_uint(f) & 0x7fffffffu);
	});
	top = __reduce_max_sync(0xffffffffu, top);
	if (lane == 0) tops[warp] = top;
	__syncthreads();
	for (int w = 0; w < WARPS; w++) top = WHIT_MAX(top, tops[w]);
	int shift = WHIT_MIN(127 + 14 - (int)(top >> 23), 126);
	float scale = __uint_as_float((unsigned)(127 + shift) << 23);
	bool first = blockIdx.y == 0;
	if (first && threadIdx.x == 0) back[token] = __uint_as_float((unsigned)(127 - shift) << 23);
	for (int s = (int)blockIdx.y * WARPS + warp; s < steps; s += parts * WARPS) {
		constexpr int shared = S::columns / F < 32 ? 2 : 1, own = F / shared; /* groups of a turn's lanes */
		float sum[own][2] = {};
		WHIT_UNROLL
		for (int turn = 0; turn < S::columns / 32; turn++) {
			int c = 32 * turn + lane, at = column<D, V>(s, c);
			auto o = place<D, V, F>(c);
			int there = WHIT_MIN(at, K - 1);
			float v = value(x[there], other ? other[there] : 0), rest = at < K ? v * scale : 0.0f;
			float up = (float)(1 << o.place), down = 1 / up;
			WHIT_UNROLL
			for (int k = 0; k < 2; k++) {
				int n = token * terms + k;
				if (k >= terms) continue;
				uint16_t h = whit_dev_to_f16(rest * down);
				float was = whit_dev_f16(h) * up;
				int64_t slot = ((int64_t)(s * (S::mmas / 2) + o.mma / 2) * cols + n) * 4 + o.lane;
				out[(slot * 2 + o.mma % 2) * 4 + o.reg * 2 + o.high] = h;
				sum[turn * own / (S::columns / 32)][k] += was;
				rest = isfinite(rest) ? rest - was : 0.0f;
			}
		}
		WHIT_UNROLL
		for (int i = 0; i < 2 * own; i++) {
			float all = sum[i / 2][i % 2];
			for (int half = 16 / shared; half > 0; half /= 2)
				all += __shfl_xor_sync(0xffffffffu, all, half);
			if (lane % (32 / shared) || i % 2 >= terms) continue;
			int f = i / 2 * shared + lane / 16 % shared;
			sums[(int64_t)(s * F + f) * stride + token * terms + i % 2] = all;
		}
	}
	/* the columns that round up to 8 */
	for (int i = (int)threadIdx.x; first && token == 0 && i < steps * F * (stride - cols); i += THREADS)
		sums[(int64_t)(i / (stride - cols)) * stride + cols + i % (stride - cols)] = 0;
}

/* ---- the product ---- */

/* A lane's words of a step: `row` is a line of a row, whose 16 bytes lie where `swap` says. */
template <class D, int V> WHIT_BOTH constexpr int held() {
	if constexpr (D::block > 0)
		return D::held;
	else
		return V / 4;
}
template <class D, int V, int F>
static __device__ __forceinline__ void hold(unsigned *w, const uint8_t *row, int step, int t, int swap) {
	if constexpr (D::block > 0) {
		D::hold(*(unsigned(*)[D::held])w, row, step, t);
	} else if constexpr (F > 1) {
		WHIT_UNROLL
		for (int k = 0; k < V / 4; k++)
			w[k] = *(const unsigned *)(row + (((step * 4 + k) * 16) ^ swap) + t * 4);
	} else {
		const uint8_t *p = row + (((step * 4 + t) * V) ^ swap);
		if constexpr (V == 16) {
			uint4 a = *(const uint4 *)p;
			w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
		} else if constexpr (V == 8) {
			uint2 a = *(const uint2 *)p;
			w[0] = a.x, w[1] = a.y;
		} else {
			WHIT_UNROLL
			for (int i = 0; i < V / 4; i++) w[i] = ((const unsigned *)p)[i];
		}
	}
}
/* Register `reg` of mma m: two codes of plane p. */
template <class D>
static __device__ __forceinline__ unsigned operand(const unsigned *w, int m, int reg, int p, unsigned flip,
                                                   const unsigned *table) {
	if constexpr (D::block > 0)
		return D::halves(w, m, reg);
	else
		return D::halves(w + m / (D::unit / 4) * D::words, m % (D::unit / 4) * 2 + reg, p, flip, table);
}

/* Until all but the latest `pending` lines of this lane's have arrived. */
static __device__ __forceinline__ void arrived(int pending) {
	if (pending == 2)
		ptx_copy_wait<2>();
	else if (pending == 1)
		ptx_copy_wait<1>();
	else
		ptx_copy_wait<0>();
}

/* Member f of the matrix that block b multiplies; selections, since an index would put the arguments into memory. */
#define PICK(a, b, f) ((b) < (a).m1.block ? (a).m0.f : (b) < (a).m2.block ? (a).m1.f : (a).m2.f)

/* Row r of a branch's B times what A made of token t. */
static __device__ __forceinline__ float low_dot(const uint16_t *b, const float *ax, int rank, int r, int t) {
	const uint4 *p = (const uint4 *)(b + (int64_t)r * rank);
	const float4 *q = (const float4 *)(ax + (int64_t)t * rank);
	float sum = 0;
	for (int k = 0; k < rank / 8; k++) {
		uint4 w = p[k];
		float4 x = q[2 * k], z = q[2 * k + 1];
		sum = fmaf(whit_dev_f16((uint16_t)w.x), x.x, sum),
		sum = fmaf(whit_dev_f16((uint16_t)(w.x >> 16)), x.y, sum);
		sum = fmaf(whit_dev_f16((uint16_t)w.y), x.z, sum),
		sum = fmaf(whit_dev_f16((uint16_t)(w.y >> 16)), x.w, sum);
		sum = fmaf(whit_dev_f16((uint16_t)w.z), z.x, sum),
		sum = fmaf(whit_dev_f16((uint16_t)(w.z >> 16)), z.y, sum);
		sum = fmaf(whit_dev_f16((uint16_t)w.w), z.z, sum),
		sum = fmaf(whit_dev_f16((uint16_t)(w.w >> 16)), z.w, sum);
	}
	return sum;
}

/* A row's product with a token to where it belongs. */
static __device__ __forceinline__ void finish(const packed_args &a, int r, int t, float v) {
	int b = (int)blockIdx.x;
	int64_t at = (int64_t)t * PICK(a, b, rows) + r;
	const float *bias = PICK(a, b, bias), *add = PICK(a, b, add);
	if (bias) v += bias[r];
	if (add) v += add[at];
	PICK(a, b, y)[at] = v;
}

/* A pass's sums of rows from q on: those of the warps that cut its columns, in order, and of a token's terms, the
 * smaller one first. part (warps, rows of a warp, columns). */
template <int ROWS, int NT>
static __device__ __forceinline__ void put(const packed_args &a, const float *part, int q, int end, int first) {
	int warps = (int)blockDim.x / 32, each = NT * COLUMNS / a.terms, W = warps / a.cuts;
	for (int i = (int)threadIdx.x; i < W * ROWS * each; i += (int)blockDim.x) {
		int row = i / each, r = q + row, t = first / a.terms + i % each, tile = row / TILE;
		if (r >= end || t >= a.cols / a.terms) continue;
		const float *own = part + ((tile % W * a.cuts) * ROWS + tile / W * TILE + row % TILE) * NT * COLUMNS +
		                   i % each * a.terms;
		float v = 0;
		for (int k = a.terms - 1; k >= 0; k--)
			for (int w = 0; w < a.cuts; w++) v += own[w * ROWS * NT * COLUMNS + k];
		int b = (int)blockIdx.x;
		const uint16_t *low = PICK(a, b, low);
		v *= a.back[t];
		if (low) v = fmaf(PICK(a, b, low_scale), low_dot(low, PICK(a, b, ax), PICK(a, b, rank), r, t), v);
		finish(a, r, t, v);
	}
}

/* F16s of a row that go with a line; whether its groups have minima. */
template <class D> WHIT_BOTH constexpr int scales_of(int flat) {
	if constexpr (D::block > 0)
		return D::scales;
	else
		return flat;
}
template <class D> WHIT_BOTH constexpr bool minima_of() {
	if constexpr (D::block > 0)
		return D::minima > 0;
	else
		return false;
}

/* A line: what a warp loads at once of each row of its tiles. Kernels that asked for 64, 32 or 16 bytes of a row at a
 * time got 35 to 41 such pieces a nanosecond from an H200, whatever their size (bench/results): a part of a line of L2
 * takes as long as the whole. In shared memory, 16 bytes lie where lanes that read together meet no bank twice; behind
 * them the words with the rows' scales. */
template <class D, int V, int NT, int F> struct line_of {
	enum {
		/* row tiles of a warp, and warps: what registers hold (12 warps: 168, 8: 255) */
		R = NT <= 2 ? 2 : 1,
		wide = NT == 8 || NT * D::planes * F >= 16 ||
		       (NT == 2 && (V * D::bits >= 32 || D::planes == 2 || F == 4)),
		most = wide ? 8 : 12,
		rows = R * TILE,
		line = D::block > 0 ? D::block
		       : V == 12    ? 96
		                    : 128,
		pitch = V == 12 ? 112
		                : line, /* of blocks too, an odd number of 16 bytes: words of eight rows lie apart */
		steps = D::block > 0 ? 4 : line / (4 * WHIT_MAX(V, 1)),
		chunks = line / 16,
		copies = (rows * chunks + 31) / 32, /* of 16 bytes, a lane's */
		scales = scales_of<D>(steps * F),
		words = scales ? scales / 2 + 1 : 0,
		codes = rows * pitch,
		bytes = codes + rows * words * 4,
		scaled = D::block > 0 ? SCALED_PITCH * 4 * rows : 0, /* bytes, once for all lines of a warp */
		pairs = steps * (step_of<D, V>::mmas / 2),           /* of mmas */
		halves = pairs * NT * COLUMNS * 4,                   /* of x, in 16 bytes */
		sums = D::entries == 0 ? steps * F * NT * COLUMNS / 4 : 0,
		input = halves + sums
	};
	WHIT_BOTH int turned(int row) {
		return V == 12 || D::block > 0 ? 0 : F > 1 || V == 4 ? row & 7 : V == 8 ? (row & 3) * 2 : (row & 1) * 4;
	}
};

/* Which line is next: of which pass, into which stage. */
struct cursor {
	int pass, line, slot;
};

template <class D, int V, int NT, int F>
__global__ void __launch_bounds__(32 * line_of<D, V, NT, F>::most, 1) packed_kernel(const packed_args a) {
	using S = step_of<D, V>;
	using L = line_of<D, V, NT, F>;
	constexpr int R = L::R, ROWS = L::rows;
	WHIT_SHARED_DYNAMIC(uint8_t, memory);
	int threads = (int)blockDim.x, warps = threads / 32, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	int g = lane / 4, t = lane % 4, W = warps / a.cuts, w = warp / a.cuts, cut = warp % a.cuts;
	float *part = (float *)memory; /* (warps, rows, columns), where warps cut columns */
	unsigned *table = (unsigned *)(part + (a.parted ? warps * ROWS * NT * COLUMNS : 0));
	uint8_t *stages = (uint8_t *)(table + 32 * D::entries);
	float *scaled = (float *)(stages + a.stages * warps * L::bytes) + warp * (L::scaled / 4);
	/* the input: NT 1: all of it, and its sums; else what goes with lines, (stages, cuts, pairs, columns, 4) */
	uint4 *own = (uint4 *)(stages + warps * (a.stages * L::bytes + L::scaled));
	int halves = a.steps * (S::mmas / 2) * a.cols * 4;
	float *own_sums = (float *)(own + halves);
	int block = (int)blockIdx.x, of = PICK(a, block, rows), first_block = PICK(a, block, block);
	int next = block < a.m1.block ? a.m1.block : block < a.m2.block ? a.m2.block : (int)gridDim.x;
	int blocks = next - first_block, b = block - first_block, more = of % blocks;
	int begin = of / blocks * b + WHIT_MIN(b, more), end = begin + of / blocks + (b < more);
	const uint8_t *codes = PICK(a, block, codes), *scales = PICK(a, block, scales);
	const float *codebook = PICK(a, block, codebook);
	int paired = (int)PICK(a, block, paired);
	/* this warp's lines, and its tiles of a pass: number w, w + W, ... */
	int from = a.lines * cut / a.cuts, per = a.lines * (cut + 1) / a.cuts - from,
	    longest = (a.lines + a.cuts - 1) / a.cuts;
	int sweeps = (a.stride / COLUMNS + NT - 1) / NT, passes = (end - begin + W * ROWS - 1) / (W * ROWS) * sweeps;
	/* whit_mat_row; never beyond this block's. */
	auto stored = [&](int row) {
		int r = WHIT_MIN(row, end - 1), i = paired ? r % paired : 0;
		return paired ? r - i + 2 * (i % (paired / 2)) + i / (paired / 2) : r;
	};
	/* Row i of this warp's. */
	auto row_of = [&](int pass, int i) {
		return begin + pass / sweeps * (W * ROWS) + (i / TILE * W + w) * TILE + i % TILE;
	};
	/* Those that share what is loaded: a warp, or, with lines of the input, the block. */
	auto meet = [&]() {
		if (NT > 1)
			__syncthreads();
		else
			__syncwarp();
	};

	/* 1. the first loads */
	unsigned scale_end = (unsigned)(of * a.scale_bytes);
	int groups = WHIT_MAX(L::scales >> a.group_shift, 1);
	auto load = [&](const cursor &c) {
		uint8_t *to = stages + (c.slot * warps + warp) * L::bytes;
		if (c.pass >= passes || c.line >= per) return;
		int at = (from + c.line) * L::line;
		WHIT_UNROLL
		for (int k = 0; k < L::copies; k++) {
			int i = (32 * k + lane) / L::chunks, j = (32 * k + lane) % L::chunks, r = row_of(c.pass, i);
			unsigned row = (unsigned)stored(r) * (unsigned)a.row_bytes;
			bool there = r < end && at + j * 16 < (int)a.row_bytes;
			if (L::rows * L::chunks % 32 && i >= ROWS) continue;
			ptx_copy_async<16>(to + i * L::pitch + (j ^ L::turned(i)) * 16,
			                   codes + (row + (unsigned)(at + j * 16)), there ? 16 : 0);
		}
		int r = row_of(c.pass, lane);
		unsigned scale = (unsigned)stored(r) * (unsigned)a.scale_bytes +
		                 (unsigned)((from + c.line) * L::scales >> a.group_shift) * 2;
		WHIT_UNROLL
		for (int j = 0; j < L::words; j++) {
			if (lane >= ROWS || 2 * j >= (int)(scale / 2 % 2) + groups) continue;
			unsigned word = (scale & ~3u) + 4 * j; /* nothing lies behind the last scale */
			bool there = r < end && word < scale_end;
			ptx_copy_async<4>(to + L::codes + (lane * L::words + j) * 4, scales + word,
			                  there ? WHIT_MIN((int)(scale_end - word), 4) : 0);
		}
	};
	/* What goes with a line of the input, by the warps of this cut. */
	auto load_input = [&](const cursor &c) {
		uint4 *to = own + (c.slot * a.cuts + cut) * L::input;
		if (c.pass >= passes || c.line >= per) return;
		int column = c.pass % sweeps * NT * COLUMNS, pair = (from + c.line) * L::pairs;
		for (int i = w * 32 + lane; i < L::sums; i += W * 32) {
			int col = column + i * 4 % (NT * COLUMNS),
			    of = (from + c.line) * L::steps * F + i * 4 / (NT * COLUMNS);
			bool there = col < a.stride;
			ptx_copy_async<16>(to + L::halves + i, a.sums + (there ? of * a.stride + col : 0),
			                   there ? 16 : 0);
		}
		for (int i = w * 32 + lane; i < L::halves; i += W * 32) {
			int col = column + i / 4 % (NT * COLUMNS), m = pair + i / (4 * NT * COLUMNS);
			bool there = col < a.cols;
			ptx_copy_async<16>(to + i, a.x + (there ? (m * a.cols + col) * 4 + i % 4 : 0), there ? 16 : 0);
		}
	};
	auto onward = [&](cursor &c) {
		c.slot = c.slot + 1 < a.stages ? c.slot + 1 : 0;
		if (++c.line == longest) c.line = 0, c.pass++;
	};
	cursor ahead = {0, 0, 0};
	for (int d = 0; d < a.stages; d++, onward(ahead)) {
		load(ahead);
		ptx_copy_commit();
	}

	/* 2. levels */
	float one = 0x1p24f, two = 0, zero = 0; /* of planes, and of sums of x */
	unsigned flip = 0;
	if constexpr (D::entries > 0) {
		one = 1;
		for (int i = (int)threadIdx.x; i < 32 * D::entries; i += threads) table[i] = D::make(codebook, i / 32);
	} else if constexpr (D::block > 0) {
		one = 1, zero = D::zero * 0x1p-24f;
	} else if (!codebook) {
		flip = 0x01010101u * (D::bits == 8 ? 0x80 : D::bits == 4 ? 0x88 : D::bits == 2 ? 0xaa : 0xff);
		zero = -(float)(1 << (D::bits - 1));
	} else {
		const float *l = codebook;
		one = (l[1] - l[0]) * 0x1p24f, zero = l[0];
		if (D::planes == 2) two = (l[2] - l[0]) * 0x1p23f;
	}

	/* 3. the input */
	WHIT_AFTER();
	if (NT == 1) {
		for (int i = (int)threadIdx.x; i < halves; i += threads) own[i] = a.x[i];
		for (int i = (int)threadIdx.x; D::entries == 0 && i < a.steps * F * COLUMNS; i += threads)
			own_sums[i] = a.sums[i];
	} else {
		cursor c = {0, 0, 0};
		for (int d = 0; d < a.stages; d++, onward(c)) {
			load_input(c);
			ptx_copy_commit();
		}
	}
	__syncthreads();

	/* 4. this warp's lines of all passes */
	float total[R][NT][4] = {};
	/* A group's sums of codes, times its scale; z: the sums of x that go with it. */
	auto fold = [&](float(&c)[R][NT][4], float(&c2)[R][NT][4], float(&by)[F][R][2], float(&less)[F][R][2], int f,
	                const float *z) {
		WHIT_UNROLL
		for (int n = 0; n < NT; n++) {
			float sum[2] = {};
			if (D::entries == 0) {
				float2 at = *(const float2 *)(z + n * COLUMNS + 2 * t);
				sum[0] = at.x, sum[1] = at.y;
			}
			WHIT_UNROLL
			for (int r = 0; r < R; r++) WHIT_UNROLL
			for (int k = 0; k < 4; k++) {
				float &to = total[r][n][k], in = c[r][n][k], s = by[f][r][k / 2];
				if constexpr (minima_of<D>()) {
					to = fmaf(less[f][r][k / 2], sum[k % 2], fmaf(s, in, to));
				} else {
					in = fmaf(in, one, sum[k % 2] * zero);
					if constexpr (D::planes == 2) in = fmaf(c2[r][n][k], two, in);
					to = fmaf(s, in, to);
				}
			}
		}
	};
	for (int pass = 0, slot = 0; pass < passes; pass++) {
		WHIT_UNROLL
		for (int i = 0; i < R * NT * 4; i++) total[i / NT / 4][i / 4 % NT][i % 4] = 0;
		unsigned odd = 0; /* rows whose scales begin in the upper half of a word */
		WHIT_UNROLL
		for (int i = 0; i < 2 * R; i++)
			odd |= (unsigned)(stored(row_of(pass, g + 8 * i)) * a.scale_bytes / 2 & 1) << i;
		int column = pass % sweeps * NT * COLUMNS; /* the first of the pass */
		bool idle = row_of(pass, 0) >= end, second = R > 1 && row_of(pass, TILE) < end;
		for (int line = from; line < from + longest; line++) {
			const uint8_t *have = stages + (slot * warps + warp) * L::bytes;
			int width = NT > 1 ? NT * COLUMNS : a.cols; /* columns of the input there */
			const float *sums = NT > 1 ? (const float *)(own + (slot * a.cuts + cut) * L::input + L::halves)
			                           : own_sums + line * L::steps * F * COLUMNS;
			const uint4 *x = own +
			                 (NT > 1 ? (slot * a.cuts + cut) * L::input : line * L::pairs * width * 4) +
			                 g * 4 + t;
			unsigned upper = line * L::scales >> a.group_shift & 1 ? ~odd : odd;
			slot = slot + 1 < a.stages ? slot + 1 : 0;
			arrived(a.stages - 1);
			meet(); /* lanes read what others brought */
			if (D::block > 0 && line < from + per && !idle) {
				if constexpr (D::block > 0) {
					const uint8_t *at = have + lane * L::pitch;
					const uint16_t *s = (const uint16_t *)(have + L::codes + lane * L::words * 4);
					unsigned half =
					        L::scales
					                ? (unsigned)(stored(row_of(pass, lane)) * (a.scale_bytes / 2) +
					                             line) &
					                          1
					                : 0;
					if (lane < ROWS) {
						float out[SCALED];
						D::scale(out, at, L::scales ? whit_dev_f16(s[half]) : 0.0f);
						WHIT_UNROLL
						for (int k = 0; k < SCALED; k += 4)
							*(float4 *)(scaled + lane * SCALED_PITCH + k) =
							        make_float4(out[k], out[k + 1], out[k + 2], out[k + 3]);
					}
				}
				__syncwarp();
			}
			WHIT_UNROLL_BY(1)
			for (int sub = 0; sub < L::steps && line < from + per && !idle; sub++) {
				unsigned v[R][2][held<D, V>()];
				float by[F][R][2], less[F][R][2] = {}; /* scale; minimum, the other way round */
				WHIT_UNROLL
				for (int r = 0; r < R; r++) WHIT_UNROLL
				for (int h = 0; h < 2; h++) {
					int i = r * TILE + h * 8 + g;
					hold<D, V, F>(v[r][h], have + i * L::pitch, sub, t, L::turned(i) * 16);
					if constexpr (D::block > 0) {
						float4 s = *(const float4 *)(scaled + i * SCALED_PITCH + 4 * sub);
						float of[4] = {s.x, s.y, s.z, s.w};
						WHIT_UNROLL
						for (int f = 0; f < F; f++) {
							by[f][r][h] = of[f * (1 + D::minima)];
							if (D::minima > 0) less[f][r][h] = of[f * 2 + 1];
						}
					} else {
						const uint16_t *s =
						        (const uint16_t *)(have + L::codes + i * L::words * 4);
						WHIT_UNROLL
						for (int f = 0; f < F; f++)
							by[f][r][h] = whit_dev_f16(
							        s[(upper >> (r * 2 + h) & 1) +
							          (unsigned)((sub * F + f) >> a.group_shift)]);
					}
				}
				const uint4 *xs = x + sub * (S::mmas / 2) * width * 4;
				constexpr int each = S::mmas / F;                /* of a group */
				float c[each == 1 ? 2 : 1][D::planes][R][NT][4]; /* of the groups that a pair is of */
				WHIT_UNROLL
				for (int m2 = 0; m2 < S::mmas / 2; m2++, xs += width * 4) {
					unsigned o[2][D::planes][R][4];
					WHIT_UNROLL
					for (int i = 0; i < 2 * D::planes * R * 4; i++) {
						int m = i % 2, p = i / 2 % D::planes, r = i / 2 / D::planes % R,
						    h = i / 2 / D::planes / R;
						if (r == 0 || second)
							o[m][p][r][h] = operand<D>(v[r][h % 2], 2 * m2 + m, h / 2, p,
							                           flip, table + lane);
					}
					WHIT_UNROLL
					for (int n = 0; n < NT; n++) {
						uint4 f = NT > 1 || g < a.cols ? xs[n * COLUMNS * 4]
						                               : make_uint4(0, 0, 0, 0);
						WHIT_UNROLL
						for (int m = 2 * m2; m < 2 * m2 + 2; m++) {
							unsigned k[2] = {m % 2 ? f.z : f.x, m % 2 ? f.w : f.y};
							WHIT_UNROLL
							for (int r = 0; r < R; r++) WHIT_UNROLL
							for (int p = 0; p < D::planes; p++) {
								float(&to)[4] = c[each == 1 ? m % 2 : 0][p][r][n];
								if (m % each == 0) to[0] = to[1] = to[2] = to[3] = 0;
								if (r == 0 || second)
									ptx_mma_f16(to, o[m % 2][p][r], k);
							}
						}
					}
					WHIT_UNROLL
					for (int m = 2 * m2; m < 2 * m2 + 2; m++)
						if (m % each == each - 1) {
							auto &of = c[each == 1 ? m % 2 : 0];
							fold(of[0], of[D::planes - 1], by, less, m / each,
							     sums + (sub * F + m / each) * NT * COLUMNS);
						}
				}
			}
			meet();
			load(ahead);
			if (NT > 1) load_input(ahead);
			onward(ahead);
			ptx_copy_commit();
		}
		if (!a.parted) {
			WHIT_UNROLL
			for (int i = 0; i < R * NT * 4; i++) {
				int r = i / NT / 4, n = i / 4 % NT, k = i % 4,
				    row = row_of(pass, r * TILE + g + k / 2 * 8);
				int col = column + n * COLUMNS + 2 * t + k % 2;
				if (row >= end || col >= a.cols) continue;
				if (a.terms == 1)
					finish(a, row, col, a.back[col] * total[r][n][k]);
				else if (k % 2 == 0)
					finish(a, row, col / 2,
					       a.back[col / 2] * (total[r][n][k + 1] + total[r][n][k]));
			}
			continue;
		}
		float *p = part + warp * ROWS * NT * COLUMNS;
		if (pass > 0) __syncthreads(); /* the pass before has been put */
		WHIT_UNROLL
		for (int r = 0; r < R; r++) WHIT_UNROLL
		for (int n = 0; n < NT; n++) WHIT_UNROLL
		for (int k = 0; k < 4; k++) {
			int row = r * TILE + g + k / 2 * 8, col = n * COLUMNS + 2 * t + k % 2;
			p[row * NT * COLUMNS + col] = total[r][n][k];
		}
		__syncthreads();
		put<ROWS, NT>(a, part, begin + pass / sweeps * (W * ROWS), end, column);
	}
	ptx_copy_wait<0>();
}

/* ---- the host's part ---- */

static bool is(const whit_mat *w, const char *name) { return !strcmp(w->spec.fmt->name, name); }
/* Blocks of 256 weights that kernels read as they are. */
static bool blocks(const whit_mat *w) { return is(w, "q4_k") || is(w, "q5_k") || is(w, WHIT_TWIN_Q6_K); }

/* The largest part of a row that a lane decodes at once, whose step lies within a group; 0: none does. */
static int loads(const whit_mat *w) {
	static const int of[9][4] = {{0}, {8, 4}, {8, 4}, {12}, {16, 8, 4}, {0}, {0}, {0}, {16, 8}};
	int group = w->spec.group, bits = w->spec.bits;
	if ((uintptr_t)w->plane[0] % 16 || w->row_bytes[0] % 16) return 0;
	if (blocks(w)) return 16;
	for (const int *V = of[bits]; *V; V++) {
		int columns = 4 * *V * 8 / bits, steps = group / columns;
		if (!group || (group % columns == 0 && !(steps & (steps - 1)))) return *V;
	}
	return 0;
}

/* Groups of a step of 16 bytes a lane, where they are smaller than it; 1: it lies within one. */
static int folds(const whit_mat *w) {
	int bits = w->spec.bits, folds = bits == 4 ? 4 : 2;
	return w->spec.group == 32 && (bits == 4 || (bits == 8 && !w->codebook)) ? folds : 1;
}

bool whit_gemm_packed_takes(const whit_mat *w, int64_t T) {
	int bits = w->spec.bits;
	if (T > MOST || w->width > 1 << 20 || (double)w->rows * (double)(w->row_bytes[0] + w->row_bytes[1]) > 4e9)
		return false;
	if (!blocks(w) && !is(w, "tq") && !is(w, "int")) return false;
	if (bits == 2 && w->codebook && !w->mirrored) return false;
	return loads(w) && !w->scale_f32 && (uintptr_t)w->plane[1] % 4 == 0;
}

/* Deals the blocks out by rows, each matrix one at least where it has rows; the largest share of a block. */
static int deal(packed_args &a, int grid) {
	packed_way *m[] = {&a.m0, &a.m1, &a.m2};
	int64_t all = 0, before = 0;
	int share = 0;
	for (int k = 0; k < 3; k++) all += m[k]->rows;
	for (int k = 0, at = 0; k < 3; k++) {
		m[k]->block = at;
		if (!m[k]->rows) continue;
		before += m[k]->rows;
		int behind = 0;
		for (int j = k + 1; j < 3; j++) behind += m[j]->rows > 0;
		int to = behind ? (int)((before * grid + all / 2) / all) : grid;
		to = WHIT_MIN(WHIT_MAX(to, at + 1), grid - behind);
		share = WHIT_MAX(share, (m[k]->rows + to - at - 1) / (to - at));
		at = to;
	}
	return share;
}

/* Warps, stages and cuts for blocks of `share` rows, whose input takes `own` bytes of shared memory: of those that fit
 * the least time, in lines of a tile: what the warp with most of them needs, or what keeps a multiprocessor busy, eight
 * warps. Warps that cut columns multiply few lines a pass, those that do not may be without rows; joining their sums
 * costs about a line. Fewer stages wait longer; by how much is a guess. Returns the bytes; 0: nothing fits. */
template <class D, int V, int NT, int F>
static size_t arrange(const whit_dev *d, size_t own, int share, bool branches, packed_args &a, int *warps) {
	using L = line_of<D, V, NT, F>;
	static const int of[][2] = {{12, 3}, {12, 2}, {9, 3}, {9, 2}, {8, 3}, {8, 2}, {6, 2}, {4, 2}, {4, 1}, {2, 1}};
	double least = 0;
	size_t best = 0;
	for (const auto &n : of)
		for (int cuts = n[0]; cuts > 0; cuts--) {
			int W = n[0] / cuts, tiles = (share + TILE - 1) / TILE;
			size_t bytes = own + (size_t)n[0] * (n[1] * L::bytes + L::scaled) + 32 * D::entries * 4;
			if (cuts > 1 || branches) bytes += (size_t)n[0] * L::rows * NT * COLUMNS * sizeof(float);
			if (NT > 1) bytes += (size_t)n[1] * cuts * L::input * sizeof(uint4);
			if (n[0] % cuts || n[0] > L::most || bytes + 1024 > (size_t)d->shared) continue;
			double alone = (double)((tiles + W - 1) / W) * ((a.lines + cuts - 1) / cuts + 1);
			double cost = fmax(alone, (double)tiles * (a.lines + cuts) / 8);
			cost *= (n[1] == 3 ? 1 : n[1] == 2 ? 1.05 : 1.5);
			if (best && cost >= least) continue;
			least = cost, best = bytes;
			*warps = n[0], a.stages = n[1], a.cuts = cuts;
			a.parted = cuts > 1 || branches;
		}
	return best;
}

/* false: shared memory does not hold the input, or no line. */
template <class D, int V, int NT, int F>
static bool launch(whit_dev *d, packed_args a, const gemv_input &in, const low_down &low, const whit_mat *w) {
	using S = step_of<D, V>;
	using L = line_of<D, V, NT, F>;
	a.lines = (int)((a.row_bytes + L::line - 1) / L::line);
	a.steps = a.lines * L::steps;
	int group = D::block > 0 ? S::columns : w->spec.group;
	a.group_shift = group ? 0 : 30;
	while (group && S::columns << a.group_shift < group) a.group_shift++;
	size_t halves = (size_t)a.steps * (S::mmas / 2) * a.cols * 4 * sizeof(uint4);
	size_t own = NT == 1 ? halves + (size_t)a.steps * F * COLUMNS * sizeof(float) : 0;
	int grid = WHIT_MIN(d->sms, a.m0.rows + a.m1.rows + a.m2.rows), warps = 0;
	size_t bytes = arrange<D, V, NT, F>(d, own, deal(a, grid), low.rows > 0, a, &warps);
	if (!bytes) return false;
	uint16_t *x = (uint16_t *)whit_dev_take(d, halves);
	float *sums = (float *)whit_dev_take(d, (size_t)a.steps * F * a.stride * sizeof *sums);
	float *back = (float *)whit_dev_take(d, (size_t)in.T * sizeof *back);
	if (!x || !sums || !back) return true; /* an error is kept */
	int parts = WHIT_MIN((a.steps + WARPS - 1) / WARPS, 16);
	WHIT_LAUNCH_EARLY((input_kernel<D, V, F>), dim3((unsigned)in.T, (unsigned)(parts + low.rows)), THREADS, 0, d, x,
	                  sums, back, in, a.steps, a.cols, a.stride, a.terms, parts, low);
	a.x = (const uint4 *)x, a.sums = sums, a.back = back;
	WHIT_LAUNCH_EARLY((packed_kernel<D, V, NT, F>), (unsigned)grid, 32 * (unsigned)warps, bytes, d, a);
	return true;
}

template <class D>
static void launch_loads(whit_dev *d, const packed_args &a, const gemv_input &in, const low_down &low,
                         const whit_mat *w) {
	int V = loads(w);
	auto go = [&](auto size, auto several) {
		constexpr int V = decltype(size)::value, F = decltype(several)::value;
		/* as many columns as a pass can have, fewer where shared memory does not hold that */
		bool done = a.cols <= COLUMNS && launch<D, V, 1, F>(d, a, in, low, w);
		if (!done && a.cols > 4 * COLUMNS) done = launch<D, V, 8, F>(d, a, in, low, w);
		if (!done && a.cols > 2 * COLUMNS) done = launch<D, V, 4, F>(d, a, in, low, w);
		if (!done && !launch<D, V, 2, F>(d, a, in, low, w))
			whit_dev_fail(d, WHIT_EINTERNAL, "packed product: %d bytes of shared memory hold no line",
			              d->shared);
	};
	std::integral_constant<int, 1> one;
	std::integral_constant<int, 4> four;
	std::integral_constant<int, 8> eight;
	if constexpr (D::block > 0) {
		std::integral_constant<int, 0> none;
		std::integral_constant<int, 4 / (1 + D::minima)> groups; /* of a step */
		go(none, groups);
	} else if constexpr (D::bits == 3) {
		go(std::integral_constant<int, 12>(), one);
	} else {
		if constexpr (D::bits > 2) {
			std::integral_constant<int, 16> sixteen;
			if constexpr (!std::is_same<D, table8>::value)
				if (folds(w) > 1)
					return go(sixteen, std::integral_constant < int, D::bits == 4 ? 4 : 2 > ());
			if (V == 16) return go(sixteen, one);
		}
		if (V == 8) go(eight, one);
		if constexpr (D::bits < 8)
			if (V == 4) go(four, one);
	}
}

/* One launch serves both. */
static bool alike(const whit_mat *a, const whit_mat *b) {
	return a->spec.fmt == b->spec.fmt && a->spec.bits == b->spec.bits && a->spec.group == b->spec.group &&
	       a->width == b->width && a->row_bytes[0] == b->row_bytes[0] && a->row_bytes[1] == b->row_bytes[1] &&
	       loads(a) == loads(b) && folds(a) == folds(b);
}

/* What the input's kernel and the sums' end can do by the way. */
static bool fuses(const whit_low *low, int K) {
	return low && low->rank > 0 && low->rank <= 1024 && low->rank % 8 == 0 && K % 8 == 0 &&
	       (uintptr_t)low->a % 16 == 0 && (uintptr_t)low->b % 16 == 0;
}

/* Puts the branches of the ways that have one together; false after an error. */
static bool join(whit_dev *d, const gemv_input *in, const whit_low *const of[3], packed_way *const ways[3],
                 low_down *low) {
	const uint16_t **a[] = {&low->a0, &low->a1, &low->a2};
	float **ax[] = {&low->ax0, &low->ax1, &low->ax2};
	int *first[] = {&low->first1, &low->first2, &low->rows};
	for (int k = 0; k < 3; k++) {
		int rank = of[k] ? (int)of[k]->rank : 0;
		if (rank) {
			*ax[k] = (float *)whit_dev_take(d, (size_t)in->T * (size_t)rank * sizeof **ax);
			if (!*ax[k]) return false;
			*a[k] = of[k]->a;
			ways[k]->low = of[k]->b, ways[k]->ax = *ax[k], ways[k]->rank = rank;
			ways[k]->low_scale = of[k]->scale;
		}
		*first[k] = (k ? *first[k - 1] : 0) + rank;
	}
	return true;
}

void whit_gemm_packed(whit_dev *d, const gemv_input *in, const whit_gemv *g, unsigned which) {
	packed_args a = {};
	packed_way *ways[] = {&a.m0, &a.m1, &a.m2};
	low_down low = {};
	const whit_low *of[3] = {};
	const whit_mat *w = NULL;
	unsigned left = 0;
	int n = 0;
	for (int k = 0; k < g->n; k++) {
		const whit_mat *m = g->w[k];
		if (!(which >> k & 1)) continue;
		if (w && !alike(w, m)) {
			left |= 1u << k;
			continue;
		}
		w = m;
		const float *levels = is(m, "tq") ? m->codebook : NULL;
		*ways[n] = {m->plane[0], m->plane[1], m->paired,  levels,    (int)m->rows,
		            0,           g->y[k],     g->bias[k], g->add[k], NULL,
		            NULL,        0,           0};
		if (fuses(g->low[k], in->K)) of[n] = g->low[k];
		n++;
	}
	if (!w || !join(d, in, of, ways, &low)) return;
	a.row_bytes = (int64_t)w->row_bytes[0], a.scale_bytes = (int64_t)w->row_bytes[1];
	a.terms = WHIT_MIN(d->terms, 2), a.cols = in->T * a.terms;
	a.stride = (a.cols + COLUMNS - 1) / COLUMNS * COLUMNS;
	bool tq = a.m0.codebook;
	if (is(w, "q4_k"))
		launch_loads<block45<false>>(d, a, *in, low, w);
	else if (is(w, "q5_k"))
		launch_loads<block45<true>>(d, a, *in, low, w);
	else if (is(w, WHIT_TWIN_Q6_K))
		launch_loads<block6>(d, a, *in, low, w);
	else if (w->spec.bits == 1)
		launch_loads<fields<1, 1>>(d, a, *in, low, w);
	else if (w->spec.bits == 2 && tq)
		launch_loads<fields<2, 2>>(d, a, *in, low, w);
	else if (w->spec.bits == 2)
		launch_loads<fields<2, 1>>(d, a, *in, low, w);
	else if (w->spec.bits == 3)
		launch_loads<table3>(d, a, *in, low, w);
	else if (w->spec.bits == 4 && tq)
		launch_loads<table4>(d, a, *in, low, w);
	else if (w->spec.bits == 4)
		launch_loads<fields<4, 1>>(d, a, *in, low, w);
	else if (tq)
		launch_loads<table8>(d, a, *in, low, w);
	else
		launch_loads<fields<8, 1>>(d, a, *in, low, w);
	for (int k = 0; k < g->n; k++)
		if (which >> k & ~(left >> k) & 1 && g->low[k] && !fuses(g->low[k], in->K))
			whit_low_add(d, g->y[k], in, g->w[k]->rows, g->low[k]);
	whit_gemm_packed(d, in, g, left);
}
