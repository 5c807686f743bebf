/* rotate: random rotations of rows and their inverses (rotation.h). Float butterflies in stages of rising distance and
 * Paley's sums in rising order, as the CPU has them: the same bits. A dense rotation is a product. */
#include "cuda/rotate.cuh"
extern "C" {
#include "formats/tensor.h"
}

enum { THREADS = 256, WARPS = 4, MOST = 24576 }; /* MOST values fit in every device's shared memory */

/* One end of a map: rows of n values, ld apart, and the signs that go with them, which move on by step with each block
 * of the rotation; sign NULL: all 1. */
template <class T> struct end_of {
	T *p;
	int64_t ld, n;
	const float *sign;
	int64_t step;
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

/* Stages of distance 1, 2, ... R / 2 in registers. */
template <int R> static __device__ __forceinline__ void butterflies(float (&a)[R]) {
	WHIT_UNROLL
	for (int m = 1; m < R; m *= 2) {
		WHIT_UNROLL
		for (int k = 0; k < R; k++) {
			if (k & m) continue;
			float low = a[k], high = a[k | m];
			a[k] = low + high;
			a[k | m] = low - high;
		}
	}
}

/* Stages of distance 1 to `top` / 2 across lanes, top at most 32. */
template <int R> static __device__ __forceinline__ void lanes(float (&a)[R], int lane, int top) {
	WHIT_UNROLL
	for (int h = 1; h < 32; h *= 2) {
		if (h >= top) break;
		WHIT_UNROLL
		for (int k = 0; k < R; k++) {
			float b = __shfl_xor_sync(0xffffffffu, a[k], h);
			a[k] = lane & h ? b - a[k] : a[k] + b;
		}
	}
}

/* What is done to a row before it is rotated (gemv_input), and the norm's factor. */
struct before {
	const float *x2, *norm;
	float eps, shift;
	int pre;
};

/* Column c of row r, whose block's signs begin at sign; c is the i-th column of that block. */
static __device__ __forceinline__ float fetch(const from &x, const before &f, float factor, const float *sign,
                                              int64_t r, int64_t c, int64_t i) {
	if (c >= x.n) return 0;
	float v = x.p[r * x.ld + c];
	if (f.pre == WHIT_PRE_NORM) v = v * factor * (f.norm[c] + f.shift);
	if (f.pre == WHIT_PRE_SWIGLU) v = v / (1 + expf(-v)) * f.x2[r * x.ld + c];
	return sign ? v * sign[i] : v;
}

/* Of row r, by a whole block. */
static __device__ __forceinline__ float factor_of(const from &x, const before &f, int64_t r) {
	float sum = 0;
	WHIT_UNROLL_BY(8)
	for (int64_t i = threadIdx.x; i < x.n; i += blockDim.x) {
		float v = x.p[r * x.ld + i];
		sum = fmaf(v, v, sum);
	}
	return 1 / sqrtf(whit_block_sum(sum) / (float)x.n + f.eps);
}

static __device__ __forceinline__ void put(const to &y, const float *sign, int64_t r, int64_t c, int64_t i, float v) {
	if (c < y.n) y.p[r * y.ld + c] = sign ? v * sign[i] : v;
}

/* A warp a block of 32 V values, all in registers: no barrier. */
template <int V> __global__ void rotate_warp_kernel(to y, from x, before f, int64_t per_row, int64_t blocks) {
	WHIT_AFTER();
	int64_t w = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, r = w / per_row, b = w % per_row, c = b * 32 * V;
	int lane = (int)threadIdx.x % 32;
	if (w >= blocks) return;
	const float *in = x.sign ? x.sign + b * x.step : NULL, *out = y.sign ? y.sign + b * y.step : NULL;
	float a[V];
	WHIT_UNROLL
	for (int k = 0; k < V; k++) a[k] = fetch(x, f, 1, in, r, c + 32 * k + lane, 32 * k + lane);
	lanes(a, lane, 32);
	butterflies(a);
	WHIT_UNROLL
	for (int k = 0; k < V; k++) put(y, out, r, c + 32 * k + lane, 32 * k + lane, a[k]);
}

/* In shared memory, the stages of distance s to s R / 2 of n values. */
template <int R> static __device__ __forceinline__ void pass(float *v, int n, int s) {
	__syncthreads();
	for (int p = (int)threadIdx.x; p < n / R; p += (int)blockDim.x) {
		float *q = v + (p & ~(s - 1)) * R + (p & (s - 1)), a[R];
		WHIT_UNROLL
		for (int k = 0; k < R; k++) a[k] = q[k * s];
		butterflies(a);
		WHIT_UNROLL
		for (int k = 0; k < R; k++) q[k * s] = a[k];
	}
}

/* Rows [first, first + BASE / 4) of H_base at one column. */
template <int BASE, int first, class PUT>
static __device__ __forceinline__ void paley_rows(const float (&in)[BASE], const paley<BASE> &p, PUT result) {
	WHIT_UNROLL
	for (int k = first; k < first + BASE / 4; k++) {
		float sum = 0;
		WHIT_UNROLL
		for (int j = 0; j < BASE; j++) sum = fmaf(p.m[k * BASE + j], in[j], sum);
		result(k, sum);
	}
}

/* Threads of a block at most: two blocks a multiprocessor, and a column of H_base in registers. */
constexpr int most_threads(int base) { return base == 1 ? 512 : 320; }

/* A thread block a block of BASE h values. V values a lane in registers make the first stages, five of them by
 * shuffles; then shared memory, three stages a pass; then H_base, a quarter of its rows a thread. h is a multiple of
 * 32 V, or V is 1. */
template <int BASE, int V>
__global__ void __launch_bounds__(most_threads(BASE), 2)
        rotate_block_kernel(to y, from x, before f, int64_t per_row, int h, const paley<BASE> p) {
	WHIT_AFTER();
	WHIT_SHARED_DYNAMIC(float, v);
	int64_t r = blockIdx.x / per_row, b = blockIdx.x % per_row;
	int n = BASE * h, lane = (int)threadIdx.x % 32, s = WHIT_MIN(h, 32 * V);
	int64_t c = b * n;
	const float *in = x.sign ? x.sign + b * x.step : NULL, *out = y.sign ? y.sign + b * y.step : NULL;
	float factor = f.pre == WHIT_PRE_NORM ? factor_of(x, f, r) : 1;
	for (int i = (int)threadIdx.x / 32 * 32 * V; i < n; i += (int)blockDim.x * V) {
		float a[V];
		WHIT_UNROLL
		for (int k = 0; k < V; k++) {
			int at = i + 32 * k + lane;
			a[k] = at < n ? fetch(x, f, factor, in, r, c + at, at) : 0;
		}
		lanes(a, lane, s);
		butterflies(a);
		WHIT_UNROLL
		for (int k = 0; k < V; k++)
			if (i + 32 * k + lane < n) v[i + 32 * k + lane] = a[k];
	}
	for (; 8 * s <= h; s *= 8) pass<8>(v, n, s);
	if (4 * s <= h)
		pass<4>(v, n, s);
	else if (2 * s <= h)
		pass<2>(v, n, s);
	__syncthreads();
	if constexpr (BASE == 1) {
		for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) put(y, out, r, c + i, i, v[i]);
	} else {
		for (int i = (int)threadIdx.x; i < 4 * h; i += (int)blockDim.x) {
			int quarter = i / h, at = i & (h - 1);
			float col[BASE];
			WHIT_UNROLL
			for (int j = 0; j < BASE; j++) col[j] = v[j * h + at];
			auto result = [&](int k, float sum) { put(y, out, r, c + k * h + at, k * h + at, sum); };
			if (quarter == 0) paley_rows<BASE, 0>(col, p, result);
			if (quarter == 1) paley_rows<BASE, BASE / 4>(col, p, result);
			if (quarter == 2) paley_rows<BASE, BASE / 2>(col, p, result);
			if (quarter == 3) paley_rows<BASE, 3 * (BASE / 4)>(col, p, result);
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

static bool by_warps(int base, int64_t n) { return base == 1 && n >= 32 && n <= 512; }

template <int BASE>
static void fused(whit_dev *d, const to &y, const from &x, const before &f, int n, int64_t per_row, int64_t rows,
                  const paley<BASE> &p) {
	int64_t blocks = rows * per_row;
	int h = n / BASE, threads = WHIT_MIN(most_threads(BASE), (n / 8 + 31) / 32 * 32);
	if (n < 256) threads = WHIT_MIN(64, (n + 31) / 32 * 32);
	if (by_warps(BASE, n)) {
		unsigned grid = whit_blocks(blocks, WARPS);
		auto *kernel = n == 32    ? rotate_warp_kernel<1>
		               : n == 64  ? rotate_warp_kernel<2>
		               : n == 128 ? rotate_warp_kernel<4>
		               : n == 256 ? rotate_warp_kernel<8>
		                          : rotate_warp_kernel<16>;
		WHIT_LAUNCH_EARLY(kernel, grid, 32 * WARPS, 0, d, y, x, f, per_row, blocks);
	} else {
		auto *kernel = h >= 256 ? rotate_block_kernel<BASE, 8> : rotate_block_kernel<BASE, 1>;
		WHIT_LAUNCH_EARLY(kernel, whit_blocks(blocks, 1), (unsigned)threads, (size_t)n * sizeof(float), d, y, x,
		                  f, per_row, h, p);
	}
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
	to at = {work, w, w, NULL, 0};
	from back = {work, w, w, NULL, 0};
	auto period = [&](int64_t step) { return step ? w : s->block; };
	dim3 grid((unsigned)rows, whit_blocks(w, THREADS));
	WHIT_LAUNCH(scale_kernel, grid, THREADS, 0, d, at, x, x.sign, period(x.step), w);
	whit_fwht_cuda(d, work, rows * w / h, h);
	if (s->base == 12) paley_step<12>(d, r, work, rows, inverse);
	if (s->base == 20) paley_step<20>(d, r, work, rows, inverse);
	if (s->base == 28) paley_step<28>(d, r, work, rows, inverse);
	if (y.sign || y.p != work) WHIT_LAUNCH(scale_kernel, grid, THREADS, 0, d, y, back, y.sign, period(y.step), w);
}

static void hadamard(whit_dev *d, const whit_rotation *r, const to &y, const from &x, const before &f, float *work,
                     int64_t rows, int inverse) {
	const whit_rotation_spec *s = whit_rotation_get(r);
	int64_t per_row = whit_rotation_width(r) / s->block;
	if (d->plain || s->block > MOST)
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
		int64_t step = s->kind == WHIT_ROT_TQ3 ? 0 : block;
		if (whit_dev_failed(d)) return;
		if (inverse)
			hadamard(d, r, {y, dim, dim, in, step}, {x, w, w, out, 0}, f, work, rows, 1);
		else
			hadamard(d, r, {y, w, w, out, 0}, {x, dim, dim, in, step}, f, work, rows, 0);
	}
}

extern "C" void whit_rotate_cuda(whit_dev *d, const whit_rotation *r, float *y, const float *x, int64_t rows) {
	apply(d, r, y, x, {}, y, rows, 0);
}

extern "C" void whit_unrotate_cuda(whit_dev *d, const whit_rotation *r, float *x, float *y, int64_t rows) {
	apply(d, r, x, y, {}, y, rows, 1);
}

bool whit_fwht_takes(const whit_dev *d, int64_t n) { return !d->plain && n >= 32 && n <= MOST; }

void whit_fwht_fused(whit_dev *d, float *x, int64_t rows, int64_t n) {
	fused<1>(d, {x, n, n, NULL, 0}, {x, n, n, NULL, 0}, {}, (int)n, 1, rows, {});
}

/* A warp has too little of a row to know its norm. */
bool whit_rotate_takes(const whit_dev *d, const whit_rotation *r, int pre) {
	const whit_rotation_spec *s = whit_rotation_get(r);
	if (d->plain || s->kind == WHIT_ROT_NONE || s->kind == WHIT_ROT_HAAR_QR || s->block > MOST) return false;
	return pre != WHIT_PRE_NORM || !by_warps(s->base, s->block);
}

void whit_rotate_input(whit_dev *d, const whit_rotation *r, float *y, const gemv_input *in) {
	apply(d, r, y, in->x, {in->x2, in->norm, in->eps, in->shift, in->pre}, y, in->T, 0);
}
