/* lloyd: codebooks of one dimension, a block a row: host/op_lloyd.c step by step, all sums and searches in its order.
 * Rows are sorted in shared memory, by a bitonic network of which a thread does four steps at a time in registers. */
#include <math.h>
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256, WARPS = THREADS / 32, PIECE = 8, PER_WARP = 32 * PIECE };

/* Slot i of a row lies there: neither a thread's 16 slots in a row, nor slots a multiple of 16 apart, share a bank. */
static __host__ __device__ __forceinline__ int at(int i) { return i + (i >> 4); }

/* A slot is a key at first, an order-preserving one of the value and, below it, the value's index; all ones: none. Then
 * it is the value and its weight. */
static __device__ __forceinline__ uint64_t key_of(float v, int i) {
	unsigned u = __float_as_uint(v + 0.0f); /* -0 is 0 */
	return (uint64_t)(u >> 31 ? ~u : u | 0x80000000u) << 32 | (unsigned)i;
}
static __device__ __forceinline__ float value_of(uint64_t key) {
	unsigned u = (unsigned)(key >> 32);
	return __uint_as_float(u >> 31 ? u & 0x7fffffffu : ~u);
}

static __device__ __forceinline__ void order(uint64_t &a, uint64_t &b, bool down) {
	bool swap = (a > b) != down;
	uint64_t low = swap ? b : a;
	b = swap ? a : b;
	a = low;
}

/* S steps of a merge to runs of `run`: distances 2^(log + S - 1) to 2^log, so a thread's 2^S keys differ in those bits.
 * log: a multiple of 4. */
template <int S> static __device__ __forceinline__ void merge(uint64_t *key, int slots, int run, int log) {
	for (int t = (int)threadIdx.x; t < slots >> S; t += THREADS) {
		int base = t >> log << (log + S) | (t & ((1 << log) - 1)), apart = log ? at(1 << log) : 1;
		uint64_t v[1 << S], *own = key + at(base);
		WHIT_UNROLL
		for (int j = 0; j < 1 << S; j++) v[j] = own[j * apart];
		WHIT_UNROLL
		for (int d = 1 << (S - 1); d > 0; d /= 2) WHIT_UNROLL
		for (int j = 0; j < 1 << S; j++)
			if (!(j & d)) order(v[j], v[j | d], base & run);
		WHIT_UNROLL
		for (int j = 0; j < 1 << S; j++) own[j * apart] = v[j];
	}
	__syncthreads();
}

/* slots: a power of two, 16 at least. */
static __device__ __forceinline__ void sort(uint64_t *key, int slots) {
	for (int t = (int)threadIdx.x; t < slots / 16; t += THREADS) {
		uint64_t v[16];
		WHIT_UNROLL
		for (int j = 0; j < 16; j++) v[j] = key[at(16 * t + j)];
		WHIT_UNROLL
		for (int run = 2; run <= 16; run *= 2) WHIT_UNROLL
		for (int d = run / 2; d > 0; d /= 2) WHIT_UNROLL
		for (int j = 0; j < 16; j++)
			if (!(j & d)) order(v[j], v[j | d], (run < 16 ? j : 16 * t) & run);
		WHIT_UNROLL
		for (int j = 0; j < 16; j++) key[at(16 * t + j)] = v[j];
	}
	__syncthreads();
	for (int run = 32, log = 5; run <= slots; run *= 2, log++) {
		int left = log / 4 * 4;
		if (log % 4 == 1) merge<1>(key, slots, run, left);
		if (log % 4 == 2) merge<2>(key, slots, run, left);
		if (log % 4 == 3) merge<3>(key, slots, run, left);
		while (left > 4) merge<4>(key, slots, run, left -= 4);
		merge<4>(key, slots, run, 0);
	}
}

struct points {
	int m;
	const float2 *slot; /* value, weight */
	double middle;
	double *piece, (*before)[3]; /* (3, pieces): sums in front of a piece within its 32; and in front of those */
	int pieces;
	double *sums[3];   /* exact: all prefix sums, in scratch */
	double (*ends)[2]; /* else those of weights and values in front of each boundary */

	__device__ __forceinline__ float x(int i) const { return slot[at(i)].x; }
	__device__ __forceinline__ double term(int power, int i) const {
		if (i >= m) return 0;
		float2 v = slot[at(i)];
		double w = v.y, d = v.x - middle;
		return power == 0 ? w : power == 1 ? w * d : w * d * d;
	}
	__device__ __forceinline__ double prefix(int power, int i) const {
		if (sums[0]) return sums[power][i];
		double t = before[i / PER_WARP][power] + piece[power * pieces + i / PIECE];
		for (int j = i / PIECE * PIECE; j < i; j++) t += term(power, j);
		return t;
	}
	/* Both at once: i, the boundary in front of level j. */
	__device__ __forceinline__ void end(int j, int i) const {
		double w = before[i / PER_WARP][0] + piece[i / PIECE],
		       s = before[i / PER_WARP][1] + piece[pieces + i / PIECE];
		for (int q = i / PIECE * PIECE; q < i; q++) {
			float2 v = slot[at(q)];
			w += v.y, s += v.y * (v.x - middle);
		}
		ends[j][0] = w, ends[j][1] = s;
	}
	__device__ __forceinline__ double cost(int a, int b) const {
		double w = sums[0][b] - sums[0][a], s = sums[1][b] - sums[1][a],
		       e = sums[2][b] - sums[2][a] - (w > 0 ? s * s / w : 0);
		return w > 0 && e > 0 ? e : 0;
	}
};

/* 2. Prefix sums, by all threads. */
static __device__ __forceinline__ void sum_row(const points &p, int powers) {
	int lane = (int)threadIdx.x % 32;
	for (int g = (int)threadIdx.x / 32; g <= p.m / PER_WARP; g += WARPS)
		for (int power = 0; power < powers; power++) {
			double t = 0;
			for (int i = 0; i < PIECE; i++) t += p.term(power, g * PER_WARP + lane * PIECE + i);
			for (int by = 1; by < 32; by *= 2) {
				double other = __shfl_up_sync(0xffffffffu, t, by);
				if (lane >= by) t += other;
			}
			double front = __shfl_up_sync(0xffffffffu, t, 1);
			p.piece[power * p.pieces + g * 32 + lane] = lane ? front : 0;
			if (lane == 31) p.before[g + 1][power] = t;
		}
	__syncthreads();
	if ((int)threadIdx.x < powers) {
		double t = p.before[0][threadIdx.x] = 0;
		for (int g = 0; g <= p.m / PER_WARP; g++) {
			t += p.before[g + 1][threadIdx.x];
			p.before[g + 1][threadIdx.x] = t;
		}
	}
	__syncthreads();
}

/* The first i in [0, m] that is beyond, where all behind one that is are too. */
template <class F> static __device__ __forceinline__ int first(int m, F beyond) {
	int lo = 0, hi = m;
	while (lo < hi) {
		int i = (lo + hi) / 2;
		if (beyond(i))
			hi = i;
		else
			lo = i + 1;
	}
	return lo;
}

/* The same, looked for around a guess. */
template <class F> static __device__ __forceinline__ int first_near(int m, int guess, F beyond) {
	int lo = guess, hi = guess, by = 1;
	for (; lo > 0 && beyond(lo - 1); by *= 2) hi = lo - 1, lo = WHIT_MAX(hi - by, 0);
	for (; hi < m && lo == guess && !beyond(hi); by *= 2) lo = guess = hi + 1, hi = WHIT_MIN(lo + by, m);
	return lo + first(hi - lo, [&](int i) { return beyond(lo + i); });
}

/* Thread j its level, and its boundary. */
static __device__ __forceinline__ void levels_of(float *level, const int *bound, int k, const points &p) {
	int j = (int)threadIdx.x;
	if (j < k && bound[j] < bound[j + 1]) {
		int a = bound[j], b = bound[j + 1];
		double w = p.ends ? p.ends[j + 1][0] - p.ends[j][0] : p.sums[0][b] - p.sums[0][a],
		       s = p.ends ? p.ends[j + 1][1] - p.ends[j][1] : p.sums[1][b] - p.sums[1][a];
		float mean = (float)(p.middle + (w > 0 ? s / w : 0)), low = p.x(a), high = p.x(b - 1);
		level[j] = mean > low ? mean < high ? mean : high : low;
	}
	__syncthreads();
}
static __device__ __forceinline__ bool bounds_of(int *bound, const float *level, int k, const points &p) {
	int j = (int)threadIdx.x, moved = 0;
	if (j > 0 && j < k) {
		double half = ((double)level[j - 1] + level[j]) / 2;
		int b = first_near(p.m, bound[j], [&](int i) { return p.x(i) > half; });
		moved = b != bound[j];
		if (moved) bound[j] = b;
		if (moved && p.ends) p.end(j, b);
	}
	return __syncthreads_or(moved);
}

/* 3a. Lloyd's steps. */
static __device__ __forceinline__ void steps(float *level, int *bound, int k, const points &p) {
	int me = (int)threadIdx.x;
	if (me > 0 && me < k) {
		double than = p.prefix(0, p.m) * me / k;
		bound[me] = first(p.m, [&](int i) { return p.prefix(0, i) >= than; });
	}
	__syncthreads();
	for (int j = 1; j < k && me == 0; j++) bound[j] = WHIT_MIN(WHIT_MAX(bound[j], bound[j - 1] + 1), p.m - (k - j));
	__syncthreads();
	if (me < k) p.end(me, bound[me]);
	if (me == 0) p.end(k, p.m);
	__syncthreads();
	levels_of(level, bound, k, p);
	for (int i = 1; i < WHIT_LLOYD_STEPS && bounds_of(bound, level, k, p); i++) levels_of(level, bound, k, p);
}

/* By one thread, or by the lanes of a warp. */
template <int lanes>
static __device__ __forceinline__ void last_run(double *least, uint16_t *from, const double *before, int i, int lo,
                                                int hi, const points &p) {
	int lane = (int)threadIdx.x % lanes, best = hi;
	double e = INFINITY;
	for (int s = lo + lane; s <= hi; s += lanes) {
		double its = before[s] + p.cost(s, i);
		if (its < e) e = its, best = s;
	}
	for (int half = lanes / 2; half > 0; half /= 2) {
		double its = __shfl_xor_sync(0xffffffffu, e, half);
		int s = __shfl_xor_sync(0xffffffffu, best, half);
		if (its < e || (its == e && s < best)) e = its, best = s;
	}
	if (lane == 0) least[i] = e, from[i] = (uint16_t)best;
}

/* 3b. The optimum. Prefix indices up to a power of two by halving distances: while there are few, a warp each. least,
 * before (m + 1), froms (k, m + 1) in scratch. */
static __device__ __forceinline__ void program(int *bound, int k, const points &p, double *least, double *before,
                                               uint16_t *froms) {
	int m = p.m, top = 1, me = (int)threadIdx.x;
	while (2 * top <= m) top *= 2;
	for (int i = me + 1; i <= m; i += THREADS) least[i] = p.cost(0, i);
	__syncthreads();
	for (int j = 2; j <= k; j++) {
		uint16_t *from = froms + (int64_t)(j - 1) * (m + 1);
		double *t = before;
		before = least, least = t;
		if (me < 32) last_run<32>(least, from, before, m, j - 1, m - 1, p);
		__syncthreads();
		for (int h = top; h > 0 && j < k; h /= 2) {
			bool warps = m / (2 * h) < THREADS / 2;
			for (int i = h + 2 * h * (warps ? me / 32 : me); i < m;
			     i += 2 * h * (warps ? WARPS : THREADS)) {
				if (i < j) continue;
				int lo = i - h < j ? j - 1 : from[i - h],
				    hi = WHIT_MIN(i - 1, (int)from[WHIT_MIN(i + h, m)]);
				if (warps)
					last_run<32>(least, from, before, i, lo, hi, p);
				else
					last_run<1>(least, from, before, i, lo, hi, p);
			}
			__syncthreads();
		}
	}
	for (int j = k - 1; j > 0 && me == 0; j--) bound[j] = froms[(int64_t)j * (m + 1) + bound[j + 1]];
	__syncthreads();
}

static __host__ __device__ __forceinline__ size_t scratch_of(int n, int k) {
	return ((size_t)(n + 1) * (5 * sizeof(double) + 2 * (size_t)k) + 15) / 16 * 16;
}

/* Dynamic shared memory: at(slots) slots, then for each power summed slots / 8 + 32 pieces. */
template <bool exact>
__global__ void __launch_bounds__(THREADS, exact ? 2 : 3)
        lloyd_kernel(float *levels, double *loss, const float *x, const float *w, int64_t rows, int n, int slots, int k,
                     uint8_t *scratch) {
	WHIT_SHARED_DYNAMIC(uint64_t, key);
	WHIT_SHARED(double, before, [WHIT_LLOYD_MOST / PER_WARP + 2][3]);
	WHIT_SHARED(double, ends,
	            [exact ? THREADS / 2 : WHIT_LLOYD_LEVELS + 1][2]); /* in the end the parts of the loss */
	WHIT_SHARED(float, level, [WHIT_LLOYD_LEVELS]);
	WHIT_SHARED(int, bound, [WHIT_LLOYD_LEVELS + 1]);
	int me = (int)threadIdx.x;
	float2 *slot = (float2 *)(void *)key;
	double *more = (double *)(void *)(scratch + blockIdx.x * scratch_of(n, k));
	for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
		const float *xs = x + row * n, *ws = w ? w + row * n : NULL;
		/* 1. the values that count, sorted */
		for (int i = me; i < slots; i += THREADS)
			key[at(i)] = i < n && (!ws || ws[i] > 0) ? key_of(xs[i], i) : ~(uint64_t)0;
		__syncthreads();
		sort(key, slots);
		points p = {};
		p.slot = slot, p.before = before, p.ends = exact ? NULL : ends;
		p.m = first(slots, [&](int i) { return key[at(i)] == ~(uint64_t)0; });
		__syncthreads();
		for (int i = me; i < p.m; i += THREADS) {
			uint64_t v = key[at(i)];
			slot[at(i)] = make_float2(value_of(v), ws ? ws[(unsigned)v] : 1);
		}
		if (me < k) level[me] = 0;
		if (me < k) bound[me] = 0;
		if (me == 0) bound[k] = p.m;
		__syncthreads();
		/* 2. sums */
		p.middle = p.m ? p.x(p.m / 2) : 0;
		p.piece = (double *)(void *)(key + at(slots)), p.pieces = slots / PIECE + 32;
		sum_row(p, exact ? 3 : 2);
		if (exact) {
			for (int i = me; i <= p.m; i += THREADS)
				for (int power = 0; power < 3; power++) more[power * (n + 1) + i] = p.prefix(power, i);
			for (int power = 0; power < 3; power++) p.sums[power] = more + power * (n + 1);
		}
		/* 3. levels */
		float distinct = 0;
		for (int i = me; i < p.m; i += THREADS) distinct += i == 0 || p.x(i) != p.x(i - 1);
		if (whit_block_sum(distinct) <= (float)k) {
			for (int i = 0, held = 0; me == 0 && held < k && p.m; held++) {
				if (i < p.m)
					level[held] = p.x(i);
				else
					level[held] = level[held - 1];
				if (i < p.m) i = first(p.m, [&](int s) { return p.x(s) > level[held]; });
			}
			__syncthreads();
		} else if (exact) {
			program(bound, k, p, more + 3 * (n + 1), more + 4 * (n + 1),
			        (uint16_t *)(void *)(more + 5 * (n + 1)));
			levels_of(level, bound, k, p);
		} else {
			steps(level, bound, k, p);
		}
		/* 4. equal levels once, and the error */
		if (me == 0) {
			int held = 1;
			for (int j = 1; j < k; j++)
				if (level[j] != level[held - 1]) level[held++] = level[j];
			for (int j = held; j < k; j++) level[j] = level[held - 1];
		}
		__syncthreads();
		bounds_of(bound, level, k, p);
		double sum = 0, *part = ends[0];
		for (int i = me; i < p.m; i += THREADS) {
			float2 v = slot[at(i)];
			double d = (double)v.x - level[first(k - 1, [&](int j) { return bound[j + 1] > i; })];
			sum += v.y * d * d;
		}
		part[me] = sum;
		__syncthreads();
		for (int half = THREADS / 2; half > 0; half /= 2) {
			if (me < half) part[me] += part[me + half];
			__syncthreads();
		}
		if (me == 0) loss[row] = part[0];
		if (me < k) levels[row * k + me] = level[me];
		if (!exact) break; /* a row a block; a loop would keep what it has in common in registers */
	}
}

extern "C" void whit_lloyd_cuda(whit_dev *d, float *level, double *loss, const float *x, const float *w, int64_t rows,
                                int64_t n, int k, int exact) {
	int slots = 16;
	if (rows <= 0) return;
	if (n > WHIT_LLOYD_MOST || k < 1 || k > WHIT_LLOYD_LEVELS) {
		whit_dev_fail(d, WHIT_EUSAGE, "lloyd: is %lld values a row and %d levels, need at most %d and 1 to %d",
		              (long long)n, k, WHIT_LLOYD_MOST, WHIT_LLOYD_LEVELS);
		return;
	}
	while (slots < n) slots *= 2;
	size_t shared = (size_t)(at(slots) + (exact ? 3 : 2) * (slots / PIECE + 32)) * sizeof(uint64_t);
	unsigned grid = (unsigned)(exact ? WHIT_MIN(rows, 2 * d->sms) : rows);
	uint8_t *scratch = exact ? (uint8_t *)whit_dev_take(d, grid * scratch_of((int)n, k)) : NULL;
	if (exact && !scratch) return;
	auto *kernel = exact ? lloyd_kernel<true> : lloyd_kernel<false>;
	WHIT_LAUNCH(kernel, grid, THREADS, shared, d, level, loss, x, w, rows, (int)n, slots, k, scratch);
}
