/* gemm_packed: codes of 1, 2, 3, 4 or 8 bits times up to 32 tokens on tensor cores, straight from the canonical bytes.
 * What decides few bits is instructions per weight (kernels.md; bench/instructions.sh counts them), so:
 *
 * - mma.m16n8k16 takes 256 weights and 8 columns of input even for one token. Which of a row's columns is which of an
 *   mma's k is free as long as both factors agree: a lane takes V bytes of a row as they lie, and the input is put into
 *   that order once, by a kernel of its own (input_kernel).
 * - A field masked where it stands in the lower 10 bits of a half is a subnormal half, code * 2^(place - 24), exactly:
 *   one lop3 for two weights, and 2^-place goes into the input. Tensor cores take subnormals as they are (Fasi, Higham,
 *   Mikaitis, Pranesh 2021, Numerical behavior of NVIDIA tensor cores).
 * - Affine levels need codes alone: sum (a c + b) x = a sum c x + b sum x. Four levels that mirror each other are a sum
 *   over two bits. Three bits, and codebooks of 4 and 8, are read from shared memory, as F16, from a table for each
 * lane, so that lanes never meet in a bank.
 * - A step's columns lie within one group (V is chosen so), whose scale multiplies a step's sums once.
 * - A block has an equal share of the rows; its warps take tiles of up to 16 or 32, and cut the columns where tiles
 *   would be empty otherwise. 60 to 130 bytes a lane are under way: 25 to 50 KB a multiprocessor, as gemv.cu explains.
 *
 * Activations are two halves each (22 bits and the row's own power of two), or one where whit_dev_terms is 1: for one
 * to four tokens the second costs nothing, since there are eight columns anyway. */
#include "cuda/formats.cuh"
#include "cuda/gemv.cuh"
#include <limits.h>
#include <type_traits>

enum { THREADS = 384, WARPS = THREADS / 32, TILE = 16, COLUMNS = 8, MOST = 32 };

struct packed_args {
	const uint8_t *codes, *scales;
	int64_t row_bytes, scale_bytes, paired;
	const float *codebook;                /* NULL: two's complement */
	int group_shift;                      /* a group is 1 << group_shift steps */
	int rows, steps, cols, stride, terms; /* columns of input, also rounded up to 8 */
	const uint4 *x;                       /* (steps, pairs of mmas, cols, 4): two b fragments' halves of a lane */
	const float *sums;                    /* (steps, stride): of x over the step's columns */
	const float *back;                    /* (tokens): what undoes a token's power of two */
	float *y;
	const float *bias, *add;
	int cuts; /* warps that share the columns of the same rows: divides WARPS */
};

/* ---- decoders ----
 * A word's codes go by pairs, as the halves of a register: code i is `high` half or low half of `pair` i, at 2^place.
 */

/* Codes q and q + 16 / bits, as fields of both halves of the word. */
template <int B, int P> struct fields {
	enum { bits = B, planes = P, entries = 0, unit = 32 / B, words = 1 };
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

/* Of a step: columns, and mmas of a row tile. */
template <class D, int V> struct step_of {
	enum { lane = V * 8 / D::bits, columns = 4 * lane, mmas = lane / 4 };
};

/* ---- the input in the order of the products ----
 * Tokens as halves, scaled by a power of two so that a row's largest finite value lies in [2^14, 2^15): the smallest
 * place takes it to 2^7, which leaves 2^-32 of it as the last bit. A block a token; zeros beyond K. */
template <class D, int V>
__global__ void __launch_bounds__(THREADS) input_kernel(uint16_t *out, float *sums, float *back, const float *x, int K,
                                                        int steps, int cols, int stride, int terms) {
	using S = step_of<D, V>;
	WHIT_SHARED(unsigned, tops, [WARPS]);
	int token = (int)blockIdx.x, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	unsigned top = 0; /* bits of |x|: in order of size */
	WHIT_AFTER();
	x += (int64_t)token * K;
	for (int i = (int)threadIdx.x; i < K; i += THREADS)
		if (isfinite(x[i])) top = WHIT_MAX(top, __float_as_uint(x[i]) & 0x7fffffffu);
	top = __reduce_max_sync(0xffffffffu, top);
	if (lane == 0) tops[warp] = top;
	__syncthreads();
	for (int w = 0; w < WARPS; w++) top = WHIT_MAX(top, tops[w]);
	int shift = WHIT_MIN(127 + 14 - (int)(top >> 23), 126);
	float scale = __uint_as_float((unsigned)(127 + shift) << 23);
	if (threadIdx.x == 0) back[token] = __uint_as_float((unsigned)(127 - shift) << 23);
	for (int s = warp; s < steps; s += WARPS) {
		float sum[2] = {};
		for (int c = lane; c < S::columns; c += 32) {
			int at = s * S::columns + c, i = c % S::lane % D::unit, q = D::pair(i);
			int m = c % S::lane / D::unit * (D::unit / 4) + q / 2;
			float rest = at < K ? x[at] * scale : 0.0f;
			float place = (float)(1 << D::place(q)), unplace = 1 / place;
			WHIT_UNROLL
			for (int k = 0; k < 2; k++) {
				int n = token * terms + k;
				if (k >= terms) continue;
				uint16_t h = whit_dev_to_f16(rest * unplace);
				float was = whit_dev_f16(h) * place;
				int64_t slot = ((int64_t)(s * (S::mmas / 2) + m / 2) * cols + n) * 4 + c / S::lane;
				out[(slot * 2 + m % 2) * 4 + q % 2 * 2 + D::high(i)] = h;
				sum[k] += was;
				rest = isfinite(rest) ? rest - was : 0.0f;
			}
		}
		WHIT_UNROLL
		for (int k = 0; k < 2; k++) {
			float all = whit_warp_sum(sum[k]);
			if (lane == 0 && k < terms) sums[(int64_t)s * stride + token * terms + k] = all;
		}
	}
	/* the columns that round up to 8 */
	for (int i = (int)threadIdx.x; token == 0 && i < steps * (stride - cols); i += THREADS)
		sums[(int64_t)(i / (stride - cols)) * stride + cols + i % (stride - cols)] = 0;
}

/* ---- the product ---- */

template <int V> struct words { unsigned w[V / 4]; };
template <int V> static __device__ __forceinline__ words<V> read(const uint8_t *p, bool there) {
	words<V> v = {};
	if (!there) return v;
	if constexpr (V == 16) {
		uint4 a = ptx_load_stream((const uint4 *)p);
		v.w[0] = a.x, v.w[1] = a.y, v.w[2] = a.z, v.w[3] = a.w;
	} else if constexpr (V == 8) { /* neighbours' halves of a sector stay in L1 */
		uint2 a = *(const uint2 *)p;
		v.w[0] = a.x, v.w[1] = a.y;
	} else {
		WHIT_UNROLL
		for (int i = 0; i < V / 4; i++) v.w[i] = ((const unsigned *)p)[i];
	}
	return v;
}

/* Where a lane's rows q and q + 8 lie in both planes; 32 bits hold it (takes). Rows from `end` on are not read. */
struct place_of {
	unsigned codes[2], scales[2];
	bool there[2];
};
static __device__ __forceinline__ place_of find(const packed_args &a, int q, int end, int offset) {
	place_of p;
	WHIT_UNROLL
	for (int h = 0; h < 2; h++) {
		whit_mat m;
		m.paired = a.paired;
		p.there[h] = q + 8 * h < end;
		int64_t row = whit_mat_row(&m, p.there[h] ? q + 8 * h : end - 1);
		p.codes[h] = (unsigned)(row * a.row_bytes + offset);
		p.scales[h] = (unsigned)(row * a.scale_bytes);
	}
	return p;
}

/* A pass's sums of rows from q on: those of the warps that cut its columns, in order, and of a token's terms. */
template <int ROWS, int NT>
static __device__ __forceinline__ void put(const packed_args &a, const float *part, int q, int end, int first) {
	int each = NT * COLUMNS / a.terms, rows = WARPS / a.cuts * ROWS;
	for (int i = (int)threadIdx.x; i < rows * each; i += THREADS) {
		int row = i / each, r = q + row, t = first / a.terms + i % each;
		if (r >= end || t >= a.cols / a.terms) continue;
		const float *own = part + (row / ROWS * a.cuts * ROWS + row % ROWS) * NT * COLUMNS + i % each * a.terms;
		float v = 0;
		for (int k = a.terms - 1; k >= 0; k--) /* the smaller term first */
			for (int w = 0; w < a.cuts; w++) v += own[w * ROWS * NT * COLUMNS + k];
		v *= a.back[t];
		int64_t at = (int64_t)t * a.rows + r;
		if (a.bias) v += a.bias[r];
		if (a.add) v += a.add[at];
		a.y[at] = v;
	}
}

template <class D, int V, int NT> __global__ void __launch_bounds__(THREADS) packed_kernel(const packed_args a) {
	using S = step_of<D, V>;
	constexpr int R = NT == 1 ? 2 : 1, ROWS = R * TILE, DEPTH = V >= 12 ? 2 : V == 8 ? 3 : 5;
	constexpr int PART = WARPS * ROWS * NT * COLUMNS;
	WHIT_SHARED_DYNAMIC(uint8_t, memory);
	float *part = (float *)memory; /* two, in turns: (warps, rows, columns) */
	unsigned *table = (unsigned *)(part + 2 * PART);
	uint4 *own = (uint4 *)(table + 32 * D::entries);
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4, t = lane % 4;
	int b = (int)blockIdx.x, blocks = (int)gridDim.x, more = a.rows % blocks;
	int begin = a.rows / blocks * b + WHIT_MIN(b, more), end = begin + a.rows / blocks + (b < more);
	/* this warp's steps, and its rows of a pass: those of `cuts` warps that cut the columns */
	int from = a.steps * (warp % a.cuts) / a.cuts, per = a.steps * (warp % a.cuts + 1) / a.cuts - from;
	int rows = WARPS / a.cuts * ROWS, first = begin + warp / a.cuts * ROWS + g;
	int sweeps = (a.stride / COLUMNS + NT - 1) / NT, passes = (end - begin + rows - 1) / rows * sweeps;

	/* 1. the first loads */
	words<V> v[DEPTH][R][2];
	uint16_t scale[DEPTH][R][2] = {};
	place_of at[R];
	auto point = [&](int pass) {
		int q = first + pass / sweeps * rows;
		WHIT_UNROLL
		for (int r = 0; r < R; r++) at[r] = find(a, q + r * TILE, end, (from * 4 + t) * V);
	};
	auto load = [&](int d, int s) {
		int group = (from + s) >> a.group_shift;
		bool column = ((from + s) * 4 + t) * V < (int)a.row_bytes;
		WHIT_UNROLL
		for (int r = 0; r < R; r++) WHIT_UNROLL
		for (int h = 0; h < 2; h++) {
			bool there = at[r].there[h];
			v[d][r][h] = read<V>(a.codes + (at[r].codes[h] + (unsigned)s * (4 * V)), there && column);
			const uint8_t *p = a.scales + (at[r].scales[h] + (unsigned)group * 2);
			scale[d][r][h] = there ? *(const uint16_t *)p : 0;
		}
	};
	point(0);
	WHIT_UNROLL
	for (int d = 0; d < DEPTH; d++)
		if (d < per) load(d, d);

	/* 2. levels */
	float one = 0x1p24f, two = 0, zero = 0; /* of planes, and of sums of x */
	unsigned flip = 0;
	if constexpr (D::entries > 0) {
		one = 1;
		for (int i = (int)threadIdx.x; i < 32 * D::entries; i += THREADS) {
			table[i] = D::make(a.codebook, i / 32);
		}
	} else if (!a.codebook) {
		flip = 0x01010101u * (D::bits == 8 ? 0x80 : D::bits == 4 ? 0x88 : D::bits == 2 ? 0xaa : 0xff);
		zero = -(float)(1 << (D::bits - 1));
	} else {
		const float *l = a.codebook;
		one = (l[1] - l[0]) * 0x1p24f, zero = l[0];
		if (D::planes == 2) two = (l[2] - l[0]) * 0x1p23f;
	}

	/* 3. the input */
	WHIT_AFTER();
	const uint4 *x = NT == 1 ? own : a.x;
	if (NT == 1) {
		for (int i = (int)threadIdx.x; i < a.steps * (S::mmas / 2) * a.cols * 4; i += THREADS) own[i] = a.x[i];
	}
	__syncthreads();

	/* 4. this warp's steps of all passes */
	float total[R][NT][4] = {};
	int column = 0; /* the first of the pass at hand */
	auto multiply = [&](int d, int step) {
		float c[D::planes][R][NT][4] = {};
		const uint4 *xs = x + (step * (S::mmas / 2) * a.cols + column + g) * 4 + t;
		WHIT_UNROLL
		for (int m2 = 0; m2 < S::mmas / 2; m2++) {
			uint4 f[NT];
			WHIT_UNROLL
			for (int n = 0; n < NT; n++) {
				int col = column + n * COLUMNS + g;
				f[n] = col < a.cols ? xs[n * COLUMNS * 4] : make_uint4(0, 0, 0, 0);
			}
			xs += a.cols * 4;
			WHIT_UNROLL
			for (int odd = 0; odd < 2; odd++) {
				int m = 2 * m2 + odd, i = m / (D::unit / 4) * D::words, q = m % (D::unit / 4) * 2;
				WHIT_UNROLL
				for (int r = 0; r < R; r++) WHIT_UNROLL
				for (int p = 0; p < D::planes; p++) {
					unsigned w[4];
					WHIT_UNROLL
					for (int h = 0; h < 4; h++)
						w[h] = D::halves(v[d][r][h % 2].w + i, q + h / 2, p, flip,
						                 table + lane);
					WHIT_UNROLL
					for (int n = 0; n < NT; n++) {
						unsigned k[2] = {odd ? f[n].z : f[n].x, odd ? f[n].w : f[n].y};
						ptx_mma_f16(c[p][r][n], w, k);
					}
				}
			}
		}
		WHIT_UNROLL
		for (int n = 0; n < NT; n++) {
			float sum[2] = {};
			int col = column + n * COLUMNS + 2 * t;
			if (D::entries == 0 && col < a.stride) {
				float2 z = *(const float2 *)(a.sums + (int64_t)step * a.stride + col);
				sum[0] = z.x * zero, sum[1] = z.y * zero;
			}
			WHIT_UNROLL
			for (int r = 0; r < R; r++) WHIT_UNROLL
			for (int k = 0; k < 4; k++) {
				float by = whit_dev_f16(scale[d][r][k / 2]);
				float in = fmaf(c[0][r][n][k], one, sum[k % 2]);
				if constexpr (D::planes == 2) in = fmaf(c[1][r][n][k], two, in);
				total[r][n][k] = fmaf(by, in, total[r][n][k]);
			}
		}
	};
	for (int pass = 0; pass < passes; pass++) {
		int s = 0;
		column = pass % sweeps * NT * COLUMNS;
		for (; s + 2 * DEPTH <= per; s += DEPTH) {
			WHIT_UNROLL
			for (int d = 0; d < DEPTH; d++) {
				multiply(d, from + s + d);
				load(d, s + d + DEPTH);
			}
		}
		for (; s < per; s += DEPTH) { /* two rounds less one step at most */
			WHIT_UNROLL
			for (int d = 0; d < DEPTH; d++) {
				if (s + d >= per) break;
				multiply(d, from + s + d);
				if (s + d + DEPTH < per) load(d, s + d + DEPTH);
			}
		}
		if (pass + 1 < passes) { /* under way while the warps' sums meet */
			point(pass + 1);
			WHIT_UNROLL
			for (int d = 0; d < DEPTH; d++)
				if (d < per) load(d, d);
		}
		float *p = part + pass % 2 * PART + warp * ROWS * NT * COLUMNS;
		WHIT_UNROLL
		for (int r = 0; r < R; r++) WHIT_UNROLL
		for (int n = 0; n < NT; n++) {
			WHIT_UNROLL
			for (int k = 0; k < 4; k++) {
				int row = r * TILE + g + k / 2 * 8, col = n * COLUMNS + 2 * t + k % 2;
				p[row * NT * COLUMNS + col] = total[r][n][k];
				total[r][n][k] = 0;
			}
		}
		__syncthreads();
		put<ROWS, NT>(a, part + pass % 2 * PART, begin + pass / sweeps * rows, end, column);
	}
}

/* ---- the host's part ---- */

/* The largest loads whose step lies within a group, at their alignment; 0: none do. */
static int loads(const whit_mat *w) {
	static const int of[9][4] = {{0}, {8, 4}, {8, 4}, {12}, {16, 8, 4}, {0}, {0}, {0}, {16, 8}};
	int group = w->spec.group, bits = w->spec.bits;
	for (const int *V = of[bits]; *V; V++) {
		int columns = 4 * *V * 8 / bits, steps = group / columns, align = *V == 12 ? 4 : *V;
		if ((uintptr_t)w->plane[0] % align || w->row_bytes[0] % align) continue;
		if (!group || (group % columns == 0 && !(steps & (steps - 1)))) return *V;
	}
	return 0;
}

bool whit_gemm_packed_takes(const whit_mat *w, int64_t T) {
	const char *name = w->spec.fmt->name;
	int bits = w->spec.bits;
	if (T > MOST || w->width > 1 << 20 || (double)w->rows * (double)(w->row_bytes[0] + w->row_bytes[1]) > 4e9)
		return false;
	if (strcmp(name, "tq") && strcmp(name, "int")) return false;
	if (bits == 2 && w->codebook && !w->mirrored) return false;
	return loads(w) && !w->scale_f32 && (uintptr_t)w->plane[1] % 2 == 0;
}

/* Shared memory of a block whose input takes `halves` bytes of it. */
template <class D, int NT> static size_t packed_bytes(size_t halves) {
	constexpr int ROWS = (NT == 1 ? 2 : 1) * TILE;
	return 2 * WARPS * ROWS * NT * COLUMNS * sizeof(float) + 32 * D::entries * sizeof(unsigned) + halves;
}

template <class D, int V, int NT>
static void launch(whit_dev *d, packed_args a, const float *x, int64_t T, const whit_mat *w, whit_packed_input *have) {
	using S = step_of<D, V>;
	constexpr int ROWS = (NT == 1 ? 2 : 1) * TILE;
	int key = D::bits * 100 + V + (D::entries > 0 ? 50 : 0); /* an order of columns */
	a.steps = (int)((w->width + S::columns - 1) / S::columns);
	a.group_shift = w->spec.group ? 0 : 30;
	while (w->spec.group && S::columns << a.group_shift < w->spec.group) a.group_shift++;
	size_t halves = (size_t)a.steps * (S::mmas / 2) * a.cols * 4 * sizeof(uint4);
	if (have->x != x || have->key != key) {
		have->halves = whit_dev_take(d, halves);
		have->sums = (float *)whit_dev_take(d, (size_t)a.steps * a.stride * sizeof(float));
		have->back = (float *)whit_dev_take(d, (size_t)T * sizeof(float));
		if (!have->halves || !have->sums || !have->back) return;
		have->x = x, have->key = key;
		WHIT_LAUNCH_EARLY((input_kernel<D, V>), (unsigned)T, THREADS, 0, d, (uint16_t *)have->halves,
		                  have->sums, have->back, x, (int)w->width, a.steps, a.cols, a.stride, a.terms);
	}
	a.x = (const uint4 *)have->halves, a.sums = have->sums, a.back = have->back;
	/* Warps that cut columns multiply few steps a pass, those that do not leave rows of their tiles empty; joining
	 * their sums costs about two steps. */
	int grid = WHIT_MIN(d->sms, a.rows), share = (a.rows + grid - 1) / grid, best = INT_MAX;
	for (int cuts = WARPS; cuts > 0; cuts--) {
		int rows = WARPS / cuts * ROWS, cost = (share + rows - 1) / rows * ((a.steps + cuts - 1) / cuts + 2);
		if (WARPS % cuts == 0 && cost < best) best = cost, a.cuts = cuts;
	}
	size_t bytes = packed_bytes<D, NT>(NT == 1 ? halves : 0);
	WHIT_LAUNCH_EARLY((packed_kernel<D, V, NT>), (unsigned)grid, THREADS, bytes, d, a);
}

template <class D>
static void launch_loads(whit_dev *d, const packed_args &a, const float *x, int64_t T, const whit_mat *w,
                         whit_packed_input *have) {
	int V = loads(w);
	auto go = [&](auto size) {
		constexpr int V = decltype(size)::value;
		/* an input that does not fit is read past shared memory */
		size_t halves = (size_t)(w->width + 256) * a.cols * 2;
		if (a.cols <= COLUMNS && packed_bytes<D, 1>(halves) + 1024 <= (size_t)d->shared)
			launch<D, V, 1>(d, a, x, T, w, have);
		else
			launch<D, V, D::planes == 2 ? 2 : 4>(d, a, x, T, w, have); /* 4 of both would spill */
	};
	if constexpr (D::bits == 3) {
		go(std::integral_constant<int, 12>());
	} else {
		if constexpr (D::bits > 2)
			if (V == 16) go(std::integral_constant<int, 16>());
		if (V == 8) go(std::integral_constant<int, 8>());
		if constexpr (D::bits < 8)
			if (V == 4) go(std::integral_constant<int, 4>());
	}
}

void whit_gemm_packed(whit_dev *d, const float *x, int64_t T, const whit_mat *w, float *y, const float *bias,
                      const float *add, whit_packed_input *have) {
	bool tq = !strcmp(w->spec.fmt->name, "tq");
	packed_args a = {};
	a.codes = w->plane[0], a.scales = w->plane[1];
	a.row_bytes = (int64_t)w->row_bytes[0], a.scale_bytes = (int64_t)w->row_bytes[1], a.paired = w->paired;
	a.codebook = tq ? w->codebook : NULL, a.rows = (int)w->rows, a.terms = WHIT_MIN(d->terms, 2);
	a.cols = (int)T * a.terms, a.stride = (a.cols + COLUMNS - 1) / COLUMNS * COLUMNS;
	a.y = y, a.bias = bias, a.add = add;
	if (w->spec.bits == 1)
		launch_loads<fields<1, 1>>(d, a, x, T, w, have);
	else if (w->spec.bits == 2 && tq)
		launch_loads<fields<2, 2>>(d, a, x, T, w, have);
	else if (w->spec.bits == 2)
		launch_loads<fields<2, 1>>(d, a, x, T, w, have);
	else if (w->spec.bits == 3)
		launch_loads<table3>(d, a, x, T, w, have);
	else if (w->spec.bits == 4 && tq)
		launch_loads<table4>(d, a, x, T, w, have);
	else if (w->spec.bits == 4)
		launch_loads<fields<4, 1>>(d, a, x, T, w, have);
	else if (tq)
		launch_loads<table8>(d, a, x, T, w, have);
	else
		launch_loads<fields<8, 1>>(d, a, x, T, w, have);
}
