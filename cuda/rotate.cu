/* rotate: random rotations of rows and their inverses (rotation.h), and the transform alone. Float butterflies in
 * stages of rising distance and Paley's sums in rising order, as the CPU has them: the same bits. A dense rotation is a
 * product.
 *
 * Memory is the limit only as long as a value takes few instructions: an H200 has 55 lanes' worth for one read and one
 * write of 4 bytes. So values move four at a time, a warp has 2 KB and more under way, a stage across lanes is an
 * exchange and a fused sum, and nothing is divided but once a warp. */
#include "cuda/rotate.cuh"
#include <type_traits>
extern "C" {
#include "formats/tensor.h"
}

enum { THREADS = 256, WARPS = 4 };

/* One end of a map: rows of n values, ld apart, and the signs that go with them: of column c sign[c & mask], where mask
 * keeps the place in a block of the rotation, or all of c; sign NULL: all 1. */
template <class T> struct end_of {
	T *p;
	int64_t ld, n;
	const float *sign;
	int mask;
};
using to = end_of<float>;
using from = end_of<const float>;

/* +-1, in the kernel's parameters: a sum's step is then one instruction. */
template <int BASE> struct paley { float m[BASE * BASE]; };

/* ---- kernels 1: one step after the other, from and to memory ---- */

/* y = x * sign, zero beyond x's n; n values of a row in blocks of `block`. */
__global__ void scale_kernel(to y, from x, const float *sign, int64_t period, int64_t width) {
	int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x, r = blockIdx.x;
	if (i >= WHIT_MIN(width, y.n)) return;
	float v = i < x.n ? x.p[r * x.ld + i] : 0;
	y.p[r * y.ld + i] = i < x.n && sign ? v * sign[i % period] : v;
}

/* In place, H_base across runs of h: a thread a column. */
template <int BASE> __global__ void paley_kernel(float *y, int64_t columns, int64_t h, const paley<BASE> p) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= columns) return;
	float in[BASE];
	y += i / h * h * BASE + i % h;
	WHIT_UNROLL
	for (int j = 0; j < BASE; j++) in[j] = y[j * h];
	WHIT_UNROLL
	for (int k = 0; k < BASE; k++) {
		float sum = 0;
		WHIT_UNROLL
		for (int j = 0; j < BASE; j++) sum = fmaf(p.m[k * BASE + j], in[j], sum);
		y[k * h] = sum;
	}
}

/* ---- kernels 2: all of it with one read and one write ---- */

/* Four values that are stored together, and V of them (1, 2 or 4) into memory. */
static __device__ __forceinline__ float4 read_four(const float *p) { return *(const float4 *)p; }
static __device__ __forceinline__ float4 read_four(const __half *p) {
	uint2 v = *(const uint2 *)p;
	return make_float4(whit_dev_f16((uint16_t)v.x), whit_dev_f16((uint16_t)(v.x >> 16)),
	                   whit_dev_f16((uint16_t)v.y), whit_dev_f16((uint16_t)(v.y >> 16)));
}
static __device__ __forceinline__ float4 read_four(const __nv_bfloat16 *p) {
	uint2 v = *(const uint2 *)p;
	return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
	                   __uint_as_float(v.y & 0xffff0000u));
}
static __device__ __forceinline__ float read_one(const float *p) { return *p; }
static __device__ __forceinline__ float read_one(const __half *p) { return __half2float(*p); }
static __device__ __forceinline__ float read_one(const __nv_bfloat16 *p) { return __bfloat162float(*p); }

static __device__ __forceinline__ void write_one(float *p, float v) { *p = v; }
static __device__ __forceinline__ void write_one(__half *p, float v) { *p = __float2half_rn(v); }
static __device__ __forceinline__ void write_one(__nv_bfloat16 *p, float v) { *p = __float2bfloat16_rn(v); }
static __device__ __forceinline__ unsigned pair_of(const __half *, float a, float b) {
	__half2 h = __floats2half2_rn(a, b);
	return __half_as_ushort(h.x) | (unsigned)__half_as_ushort(h.y) << 16;
}
static __device__ __forceinline__ unsigned pair_of(const __nv_bfloat16 *, float a, float b) {
	__nv_bfloat162 h = __floats2bfloat162_rn(a, b);
	return __bfloat16_as_ushort(h.x) | (unsigned)__bfloat16_as_ushort(h.y) << 16;
}
template <int W, class S> static __device__ __forceinline__ void write_wide(S *p, const float *v) {
	constexpr bool floats = std::is_same<S, float>::value;
	if constexpr (W == 1)
		write_one(p, v[0]);
	else if constexpr (floats && W == 2)
		*(float2 *)p = make_float2(v[0], v[1]);
	else if constexpr (floats)
		*(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
	else if constexpr (W == 2)
		*(unsigned *)p = pair_of(p, v[0], v[1]);
	else
		*(uint2 *)p = make_uint2(pair_of(p, v[0], v[1]), pair_of(p, v[2], v[3]));
}

/* A piece of a row: V values a lane, value k of a lane 4 lane + place(k) behind its beginning. What a lane gets of it,
 * and gives, is told by a pointer to its first value and the number of values from there on to the piece's end; those
 * beyond are 0. wide: p is aligned to four values and n a multiple of them. */
static __device__ __forceinline__ constexpr int place(int k) { return k / 4 * 128 + k % 4; }

template <bool wide, class S, int V>
static __device__ __forceinline__ void read_piece(float (&a)[V], const S *p, int n) {
	WHIT_UNROLL
	for (int k = 0; k < V; k += 4) {
		int i = place(k);
		float4 v = make_float4(0, 0, 0, 0);
		if constexpr (wide) {
			if (i < n) v = read_four(p + i);
		} else {
			if (i < n) v.x = read_one(p + i);
			if (i + 1 < n) v.y = read_one(p + i + 1);
			if (i + 2 < n) v.z = read_one(p + i + 2);
			if (i + 3 < n) v.w = read_one(p + i + 3);
		}
		a[k] = v.x, a[k + 1] = v.y, a[k + 2] = v.z, a[k + 3] = v.w;
	}
}

/* Four of them as one store: nvcc 13.0 takes the first of several apart. */
static __device__ __forceinline__ void write_four(float *p, const float *v) {
	ptx_store((uint4 *)p, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
	                                 __float_as_uint(v[3])));
}
template <class S> static __device__ __forceinline__ void write_four(S *p, const float *v) {
	ptx_store((uint2 *)p, make_uint2(pair_of(p, v[0], v[1]), pair_of(p, v[2], v[3])));
}

/* W values to p[i], where n are from p on. */
template <bool wide, int W, class S>
static __device__ __forceinline__ void write_some(S *p, int n, int i, const float *v) {
	if constexpr (wide) {
		if (i < n) write_wide<W>(p + i, v);
	} else {
		WHIT_UNROLL
		for (int j = 0; j < W; j++)
			if (i + j < n) write_one(p + i + j, v[j]);
	}
}

/* Values of a row from column c on, 0 to 2^30. */
template <class T> static __device__ __forceinline__ int left(const end_of<T> &x, int64_t c) {
	int64_t n = x.n - c;
	return (int)(n < 0 ? 0 : n > 1 << 30 ? 1 << 30 : n);
}

/* The lane's values times the signs (end_of) of columns c and on, of which n are there: where none is there may be no
 * sign, and zeros stay as they are. */
template <bool wide, int V>
static __device__ __forceinline__ void turn(float *a, const float *sign, int mask, int64_t c, int n) {
	if (!sign) return;
	int at = mask < 0 ? 0 : (int)c & mask;
	int64_t from_row = mask < 0 ? c : 0;
	WHIT_UNROLL
	for (int k = 0; k < V; k += 4) {
		float4 s = read_four(sign + (place(k) < n ? from_row + ((at + place(k)) & mask) : 0));
		const float by[4] = {s.x, s.y, s.z, s.w};
		WHIT_UNROLL
		for (int j = 0; j < 4; j++)
			if (place(k) + (wide ? 0 : j) < n) a[k + j] *= by[j];
	}
}

/* What is done to a row before it is rotated (gemv_input). */
struct before {
	const float *x2, *norm;
	float eps, shift;
	int pre;
};

/* To the lane's values from column c of row r on, of which n are there. */
template <bool wide, int V>
static __device__ __forceinline__ void prepare(float (&a)[V], const from &x, const before &f, float factor, int64_t r,
                                               int64_t c, int n) {
	constexpr int some = V <= 16 ? V : 8; /* are under way together */
	const float *with = f.pre == WHIT_PRE_NORM ? f.norm + c : f.x2 + r * x.ld + c;
	if (f.pre == WHIT_PRE_NONE) return;
	WHIT_UNROLL
	for (int k = 0; k < V; k += some) {
		float b[some];
		read_piece<wide>(b, with + place(k), n - place(k));
		WHIT_UNROLL
		for (int j = 0; j < some; j++) {
			float v = a[k + j];
			v = f.pre == WHIT_PRE_NORM ? v * factor * (b[j] + f.shift) : v / (1 + expf(-v)) * b[j];
			if (place(k + j) < n) a[k + j] = v;
		}
	}
}

/* The stage of distance m in registers. */
template <int R> static __device__ __forceinline__ void stage(float (&a)[R], int m) {
	WHIT_UNROLL
	for (int k = 0; k < R; k++) {
		if (k & m) continue;
		float low = a[k], high = a[k | m];
		a[k] = low + high;
		a[k | m] = low - high;
	}
}

/* All stages of a piece below distance `top`: in registers, across lanes, in registers. */
template <int V> static __device__ __forceinline__ void stages(float (&a)[V], int lane, int top) {
	if (top > 1) stage(a, 1);
	if (top > 2) stage(a, 2);
	WHIT_UNROLL
	for (int h = 1; h < 32; h *= 2) {
		if (4 * h >= top) break;
		float side = lane & h ? -1.0f : 1.0f;
		WHIT_UNROLL
		for (int k = 0; k < V; k++) a[k] = fmaf(a[k], side, __shfl_xor_sync(0xffffffffu, a[k], h));
	}
	WHIT_UNROLL
	for (int m = 4; m < V; m *= 2)
		if (32 * m < top) stage(a, m);
}

/* Blocks of `top` values, up to 32 V, in registers: a warp a piece of a row, whole blocks, no barrier. A thread block
 * is 2^band rows, so that its warps meet the same signs, times `warps >> band` pieces side by side; `across` of them
 * are a row. */
template <class S, int V, bool wide>
__global__ void __launch_bounds__(32 * WARPS, !wide    ? 1
                                              : V > 32 ? 3
                                              : V > 16 ? 6
                                                       : 8)
        rotate_warp_kernel(const end_of<S> y, const end_of<const S> x, const before f, int64_t rows, unsigned across,
                           int band, int top) {
	WHIT_AFTER();
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, side = (int)(blockDim.x / 32) >> band;
	unsigned down = blockIdx.x / across, over = blockIdx.x - down * across;
	int64_t r = ((int64_t)down << band) + (warp & ((1 << band) - 1));
	int64_t c = ((int64_t)over * side + (warp >> band)) * (32 * V);
	if (r >= rows || c >= y.n) return;
	c += 4 * lane;
	int have = left(x, c), want = left(y, c);
	float a[V];
	read_piece<wide>(a, x.p + r * x.ld + c, have);
	if constexpr (std::is_same<S, float>::value) {
		prepare<wide>(a, x, f, 1, r, c, have);
		turn<wide, V>(a, x.sign, x.mask, c, have);
	}
	stages(a, lane, top);
	S *out = y.p + r * y.ld + c;
	constexpr int some = WHIT_MIN(V, 16); /* signs are under way together */
	WHIT_UNROLL
	for (int k = 0; k < V; k += some) {
		if constexpr (std::is_same<S, float>::value)
			turn<wide, some>(a + k, y.sign, y.mask, c + place(k), want - place(k));
		WHIT_UNROLL
		for (int j = k; j < k + some; j += 4) {
			if (!wide)
				write_some<false, 4>(out, want, place(j), a + j);
			else if (place(j) < want)
				write_four(out + place(j), a + j);
		}
	}
}

/* The norm's factor of row r, by a whole block. */
static __device__ __forceinline__ float factor_of(const from &x, const before &f, int64_t r) {
	float sum = 0;
	WHIT_UNROLL_BY(8)
	for (int64_t i = threadIdx.x; i < x.n; i += blockDim.x) {
		float v = x.p[r * x.ld + i];
		sum = fmaf(v, v, sum);
	}
	return 1 / sqrtf(whit_block_sum(sum) / (float)x.n + f.eps);
}

/* The last stages, of distance s to s R / 2, from shared memory to p, column c of its row: W columns a thread. */
template <int R, int W, int s, bool wide, class S>
static __device__ __forceinline__ void last_stages(const float *v, const end_of<S> &y, S *p, int64_t c) {
	for (int i = (int)threadIdx.x * W; i < s; i += (int)blockDim.x * W) {
		float a[R * W]; /* (R, W): stages of W and more */
		WHIT_UNROLL
		for (int k = 0; k < R; k++) {
			const float *q = v + i + k * s;
			if constexpr (W == 4) {
				float4 b = read_four(q);
				a[4 * k] = b.x, a[4 * k + 1] = b.y, a[4 * k + 2] = b.z, a[4 * k + 3] = b.w;
			} else if constexpr (W == 2) {
				float2 b = *(const float2 *)q;
				a[2 * k] = b.x, a[2 * k + 1] = b.y;
			} else {
				a[k] = *q;
			}
		}
		WHIT_UNROLL
		for (int m = W; m < R * W; m *= 2) stage(a, m);
		int n = left(y, c + i);
		int64_t at = (y.mask < 0 ? c : 0) + i;
		WHIT_UNROLL
		for (int k = 0; k < R; k++) {
			if (y.sign && k * s < n) { /* all signs at once would spill */
				WHIT_UNROLL
				for (int j = 0; j < W; j++) a[k * W + j] *= (y.sign + at)[k * s + j];
			}
			write_some<wide, W>(p + i, n, k * s, a + k * W);
		}
	}
}

/* In shared memory, the stages of distance s to s R / 2 of n values. */
template <int R> static __device__ __forceinline__ void pass(float *v, int n, int s) {
	__syncthreads();
	for (int p = (int)threadIdx.x; p < n / R; p += (int)blockDim.x) {
		float *q = v + (p & ~(s - 1)) * R + (p & (s - 1)), a[R];
		WHIT_UNROLL
		for (int k = 0; k < R; k++) a[k] = q[k * s];
		WHIT_UNROLL
		for (int m = 1; m < R; m *= 2) stage(a, m);
		WHIT_UNROLL
		for (int k = 0; k < R; k++) q[k * s] = a[k];
	}
}

/* Threads of a block at most: a lane has 32 values of base 1 in 64 registers, in 128 with what is done before; a column
 * of H_base is BASE registers, and two blocks share a multiprocessor. */
constexpr int most_threads(int base, bool pre) { return base == 1 && !pre ? 1024 : 512; }

/* A thread block a block of BASE h values. Its warps make pieces of 32 V values as above, into shared memory; then one
 * pass from there to memory: the other stages (a block of base 1 has 4 to 32 pieces), or H_base, a column a thread. */
template <class S, int BASE, int V, bool wide, bool pre>
__global__ void __launch_bounds__(most_threads(BASE, pre), BASE == 1 ? 1 : 2)
        rotate_block_kernel(const end_of<S> y, const end_of<const S> x, const before f, unsigned per_row, int h,
                            const paley<BASE> p) {
	WHIT_AFTER();
	WHIT_SHARED_DYNAMIC(float, v);
	int n = BASE * h, lane = (int)threadIdx.x % 32, s = WHIT_MIN(h, 32 * V);
	int64_t r = blockIdx.x / per_row, c = (int64_t)(blockIdx.x % per_row) * n;
	float factor = 1;
	if constexpr (pre)
		if (f.pre == WHIT_PRE_NORM) factor = factor_of(x, f, r);
	int i = (int)threadIdx.x / 32 * 32 * V + 4 * lane;
	do { /* of base 1, a warp has one piece */
		int have = WHIT_MIN(left(x, c + i), n - i);
		float a[V];
		read_piece<wide>(a, x.p + r * x.ld + c + i, have);
		if constexpr (pre) prepare<wide>(a, x, f, factor, r, c + i, have);
		if constexpr (std::is_same<S, float>::value) turn<wide, V>(a, x.sign, x.mask, c + i, have);
		stages(a, lane, BASE == 1 ? 32 * V : s);
		WHIT_UNROLL
		for (int k = 0; k < V; k += 4)
			if (BASE == 1 || i + place(k) < n)
				*(float4 *)(v + i + place(k)) = make_float4(a[k], a[k + 1], a[k + 2], a[k + 3]);
		i += (int)blockDim.x * V;
	} while (BASE > 1 && i < n);
	S *out = y.p + r * y.ld + c;
	if constexpr (BASE == 1) {
		__syncthreads();
		constexpr int C = 32 * V;
		if (n == 4 * C) last_stages<4, 4, C, wide>(v, y, out, c);
		if (n == 8 * C) last_stages<8, 4, C, wide>(v, y, out, c);
		if (V > 8 && n == 16 * C) last_stages<16, 2, C, wide>(v, y, out, c);
		if (V > 8 && n == 32 * C) last_stages<32, 1, C, wide>(v, y, out, c);
	} else {
		if (h == 4 * s) pass<4>(v, n, s);
		if (h == 2 * s) pass<2>(v, n, s);
		__syncthreads();
		int want = left(y, c);
		for (int at = (int)threadIdx.x; at < h; at += (int)blockDim.x) {
			float col[BASE];
			WHIT_UNROLL
			for (int j = 0; j < BASE; j++) col[j] = v[j * h + at];
			WHIT_UNROLL
			for (int k = 0, i = at; k < BASE; k++, i += h) {
				float sum = 0;
				WHIT_UNROLL
				for (int j = 0; j < BASE; j++) sum = fmaf(p.m[k * BASE + j], col[j], sum);
				if (y.sign) sum *= (y.sign + c)[i]; /* as many as whole blocks have columns */
				if (i < want) write_one(out + i, sum);
			}
		}
	}
}

/* ---- choosing among them ---- */

template <int BASE> static paley<BASE> paley_of(const whit_rotation *r, int inverse) {
	paley<BASE> p = {};
	const float *m = whit_rotation_get_part(r, WHIT_ROT_PALEY).v;
	if (BASE > 1) memcpy(p.m, m + (inverse ? BASE * BASE : 0), sizeof p.m);
	return p;
}

static bool by_warps(int base, int64_t n) { return base == 1 && n <= 2048; }

/* Values that a block holds in shared memory, beside the norm's sums; a power of two is at most half of it. */
static int64_t most_values(const whit_dev *d) { return WHIT_MIN(32768, (d->shared - 1024) / (int)sizeof(float)); }
static bool fits(const whit_dev *d, int base, int64_t n) { return by_warps(base, n) || n <= most_values(d); }

/* Rows and pointers in whole fours. */
template <class S> static bool in_fours(const end_of<S> &y, const end_of<const S> &x, const before &f) {
	uintptr_t at = (uintptr_t)y.p | (uintptr_t)x.p;
	if ((y.ld | x.ld | y.n | x.n) % 4) return false;
	return at % (4 * sizeof(S)) == 0 && ((uintptr_t)f.x2 | (uintptr_t)f.norm) % 16 == 0;
}

template <class S, bool wide>
static void by_warp(whit_dev *d, end_of<S> y, end_of<const S> x, const before &f, int n, int64_t rows) {
	bool turned = x.sign || y.sign, apart = (x.sign && x.mask < 0) || (y.sign && y.mask < 0);
	if (!apart && x.n == x.ld && y.n == y.ld && x.n == y.n) /* one long row */
		x.n = y.n = rows * x.n, rows = 1;
	bool small = rows * y.n <= (int64_t)d->sms * 512; /* shared out */
	bool single = small || (turned && y.n % 512);     /* pieces of 512 would not be full */
	constexpr bool floats = std::is_same<S, float>::value;
	int v = n > 1024 ? 64 : n > 512 || !floats ? 32 : n <= 128 && single ? 4 : 16;
	auto *kernel = v == 64 ? rotate_warp_kernel<S, 64, wide> : rotate_warp_kernel<S, 32, wide>;
	if constexpr (floats) {
		if (v == 4) kernel = rotate_warp_kernel<S, 4, wide>;
		if (v == 16) kernel = rotate_warp_kernel<S, 16, wide>;
	}
	int warps = small ? 1 : WARPS, band = apart && rows >= WARPS && !small ? 2 : 0;
	unsigned across = whit_blocks(y.n, (int64_t)(warps >> band) * 32 * v);
	int64_t grid = (rows + (1 << band) - 1) / (1 << band) * across;
	WHIT_LAUNCH_EARLY(kernel, (unsigned)grid, 32 * warps, 0, d, y, x, f, rows, across, band, n);
}

template <class S, int BASE, bool wide>
static void by_block(whit_dev *d, const end_of<S> &y, const end_of<const S> &x, const before &f, int n, int64_t rows,
                     int64_t per_row, const paley<BASE> &p) {
	constexpr int wider = BASE == 1 ? 32 : 16;
	int h = n / BASE, v = BASE == 1 && n < 4096 ? 8 : wider, pieces = (n + 32 * v - 1) / (32 * v);
	int threads = WHIT_MIN(most_threads(BASE, BASE > 1), WHIT_MAX(32 * pieces, BASE == 1 ? 0 : (h + 31) / 32 * 32));
	auto *kernel = rotate_block_kernel<S, BASE, wider, wide, (BASE > 1)>;
	if constexpr (BASE == 1 && std::is_same<S, float>::value) {
		if (f.pre) kernel = rotate_block_kernel<S, 1, 32, wide, true>;
		if (v == 8) kernel = rotate_block_kernel<S, 1, 8, wide, true>;
	}
	WHIT_LAUNCH_EARLY(kernel, (unsigned)(rows * per_row), (unsigned)threads, (size_t)n * sizeof(float), d, y, x, f,
	                  (unsigned)per_row, h, p);
}

template <int BASE, class S>
static void fused(whit_dev *d, const end_of<S> &y, const end_of<const S> &x, const before &f, int n, int64_t per_row,
                  int64_t rows, const paley<BASE> &p) {
	bool fours = in_fours(y, x, f);
	if constexpr (BASE == 1) {
		if (by_warps(1, n) && f.pre != WHIT_PRE_NORM) {
			auto *go = fours ? by_warp<S, true> : by_warp<S, false>;
			go(d, y, x, f, n, rows);
			return;
		}
	}
	auto *go = fours ? by_block<S, BASE, true> : by_block<S, BASE, false>;
	go(d, y, x, f, n, rows, per_row, p);
}

template <int BASE> static void paley_step(whit_dev *d, const whit_rotation *r, float *y, int64_t rows, int inverse) {
	int64_t h = whit_rotation_get(r)->block / BASE, columns = rows * whit_rotation_width(r) / BASE;
	WHIT_LAUNCH((paley_kernel<BASE>), whit_blocks(columns, THREADS), THREADS, 0, d, y, columns, h,
	            paley_of<BASE>(r, inverse));
}

/* work (rows, width): where the steps of the plain version meet; x's or y's own memory. */
static void stepwise(whit_dev *d, const whit_rotation *r, const to &y, const from &x, float *work, int64_t rows,
                     int inverse) {
	const whit_rotation_spec *s = whit_rotation_get(r);
	int64_t w = whit_rotation_width(r), h = s->block / s->base;
	to at = {work, w, w, NULL, -1};
	from back = {work, w, w, NULL, -1};
	auto period = [&](int mask) { return mask < 0 ? w : s->block; };
	dim3 grid((unsigned)rows, whit_blocks(w, THREADS));
	WHIT_LAUNCH(scale_kernel, grid, THREADS, 0, d, at, x, x.sign, period(x.mask), w);
	whit_fwht_cuda(d, work, rows * w / h, h);
	if (s->base == 12) paley_step<12>(d, r, work, rows, inverse);
	if (s->base == 20) paley_step<20>(d, r, work, rows, inverse);
	if (s->base == 28) paley_step<28>(d, r, work, rows, inverse);
	if (y.sign || y.p != work) WHIT_LAUNCH(scale_kernel, grid, THREADS, 0, d, y, back, y.sign, period(y.mask), w);
}

/* Signs are read in fours. */
static bool takes(const whit_dev *d, const whit_rotation_spec *s) {
	return !d->plain && s->block >= 4 && fits(d, s->base, s->block);
}

static void hadamard(whit_dev *d, const whit_rotation *r, const to &y, const from &x, const before &f, float *work,
                     int64_t rows, int inverse) {
	const whit_rotation_spec *s = whit_rotation_get(r);
	int64_t per_row = whit_rotation_width(r) / s->block;
	if (!takes(d, s))
		stepwise(d, r, y, x, work, rows, inverse);
	else if (s->base == 12)
		fused<12>(d, y, x, f, (int)s->block, per_row, rows, paley_of<12>(r, inverse));
	else if (s->base == 20)
		fused<20>(d, y, x, f, (int)s->block, per_row, rows, paley_of<20>(r, inverse));
	else if (s->base == 28)
		fused<28>(d, y, x, f, (int)s->block, per_row, rows, paley_of<28>(r, inverse));
	else
		fused<1>(d, y, x, f, (int)s->block, per_row, rows, paley_of<1>(r, inverse));
}

static const float *part(whit_dev *d, const whit_rotation *r, int which) {
	whit_rotation_part p = whit_rotation_get_part(r, which);
	return p.v ? (const float *)whit_dev_keep(d, p.hash, p.v, (size_t)p.n * sizeof *p.v) : NULL;
}

/* y = Pi x or, inverse, y = Pi^T x. */
static void apply(whit_dev *d, const whit_rotation *r, float *y, const float *x, const before &f, float *work,
                  int64_t rows, int inverse) {
	const whit_rotation_spec *s = whit_rotation_get(r);
	int64_t dim = s->dim, w = whit_rotation_width(r), block = s->block;
	if (rows == 0) return;
	if (s->kind == WHIT_ROT_NONE) {
		whit_dev_copy(d, y, x, (size_t)(rows * dim) * sizeof *y);
	} else if (s->kind == WHIT_ROT_HAAR_QR) {
		const float *m = part(d, r, inverse ? WHIT_ROT_DENSE_T : WHIT_ROT_DENSE);
		whit_dev_gemm(d, y, dim, x, m, WHIT_F32, rows, dim, dim, 0);
	} else {
		const float *in = part(d, r, WHIT_ROT_IN), *out = part(d, r, WHIT_ROT_OUT);
		int mask = s->kind == WHIT_ROT_TQ3 || (w == block && s->base == 1) ? (int)block - 1 : -1;
		if (whit_dev_failed(d)) return;
		if (inverse)
			hadamard(d, r, {y, dim, dim, in, mask}, {x, w, w, out, mask}, f, work, rows, 1);
		else
			hadamard(d, r, {y, w, w, out, mask}, {x, dim, dim, in, mask}, f, work, rows, 0);
	}
}

extern "C" void whit_rotate_cuda(whit_dev *d, const whit_rotation *r, float *y, const float *x, int64_t rows) {
	apply(d, r, y, x, {}, y, rows, 0);
}

extern "C" void whit_unrotate_cuda(whit_dev *d, const whit_rotation *r, float *x, float *y, int64_t rows) {
	apply(d, r, x, y, {}, y, rows, 1);
}

int64_t whit_fwht_most(const whit_dev *d) {
	int64_t n = 2048;
	while (2 * n <= most_values(d)) n *= 2;
	return n;
}

template <class S> static void transform(whit_dev *d, void *x, int64_t rows, int64_t n) {
	S *p = (S *)x;
	fused<1, S>(d, {p, n, n, NULL, -1}, {p, n, n, NULL, -1}, {}, (int)n, 1, rows, {});
}

void whit_fwht_fused(whit_dev *d, void *x, int dtype, int64_t rows, int64_t n) {
	auto *go = dtype == WHIT_F16    ? transform<__half>
	           : dtype == WHIT_BF16 ? transform<__nv_bfloat16>
	                                : transform<float>;
	go(d, x, rows, n);
}

/* A warp has too little of a row to know its norm; a block of 32768 has no registers for what is done before. */
bool whit_rotate_takes(const whit_dev *d, const whit_rotation *r, int pre) {
	const whit_rotation_spec *s = whit_rotation_get(r);
	if (s->kind == WHIT_ROT_NONE || s->kind == WHIT_ROT_HAAR_QR || !takes(d, s)) return false;
	if (pre && s->base == 1 && s->block > 16384) return false;
	return pre != WHIT_PRE_NORM || s->base > 1 || s->block >= 1024;
}

void whit_rotate_input(whit_dev *d, const whit_rotation *r, float *y, const gemv_input *in) {
	apply(d, r, y, in->x, {in->x2, in->norm, in->eps, in->shift, in->pre}, y, in->T, 0);
}
