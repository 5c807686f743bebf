/* linear: y = x W^T + bias, W of any number format. Few tokens are gemv.cu's; for many, this file brings x and W to
 * what cuBLAS multiplies. */
#include "cuda/gemv.cuh"
#include "cuda/runs.cuh"
#include <stdlib.h>
extern "C" {
#include "formats/tensor.h"
}

enum { WARPS = 4, TOKENS = 8, THREADS = 256 };
#ifdef __CUDACC__
static constexpr int64_t SCRATCH = 64 << 20; /* bytes of a tile of weights, and of x in terms */
static constexpr size_t KEPT = (size_t)-1;   /* of a row in shared memory */
#else
static constexpr int64_t SCRATCH = 4 << 10; /* so that small cases have several tiles */
static constexpr size_t KEPT = 17 << 10;    /* and rows of both kinds */
#endif

/* ---- plain: straight from the bytes. A warp owns an output row, its lanes stride the columns, a weight is decoded
 * once for TOKENS tokens; sums in float, in one order ---- */

template <class F>
__global__ void linear_kernel(float *y, const float *x, int64_t T, const whit_mat m, const float *bias) {
	int64_t groups = (m.rows + WARPS - 1) / WARPS, t0 = blockIdx.x / groups * TOKENS;
	int64_t r = blockIdx.x % groups * WARPS + threadIdx.x / 32;
	int lane = (int)threadIdx.x % 32;
	if (r >= m.rows) return;
	int64_t stored = whit_mat_row(&m, r);
	float sum[TOKENS] = {};
	for (int64_t i = lane; i < m.width; i += 32) {
		float w = F::at(m, stored, i);
		WHIT_UNROLL
		for (int t = 0; t < TOKENS; t++)
			if (t0 + t < T) sum[t] = fmaf(w, x[(t0 + t) * m.width + i], sum[t]);
	}
	WHIT_UNROLL
	for (int t = 0; t < TOKENS; t++) {
		float s = whit_warp_sum(sum[t]);
		if (lane == 0 && t0 + t < T) y[(t0 + t) * m.rows + r] = bias ? s + bias[r] : s;
	}
}

void whit_linear_plain(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const float *bias) {
	if (T == 0 || w->rows == 0) return;
	unsigned grid = whit_blocks(w->rows, WARPS) * whit_blocks(T, TOKENS);
	bool known = whit_with_format(w, [&](auto f) {
		WHIT_LAUNCH((linear_kernel<decltype(f)>), grid, 32 * WARPS, 0, d, y, x, T, *w, bias);
	});
	if (!known) whit_dev_fail(d, WHIT_EINTERNAL, "format %s: has no device code", w->spec.fmt->name);
}

/* ---- x as a sum of 16-bit terms: term k of row t at out + (k T + t) K. Each is what the ones before it left, rounded
 * to nearest; what is left is exact (Dekker 1971: it fits the bits that rounding cut off), until it underflows.
 * Infinite and NaN values are their own first term, with zeros behind. ---- */

/* bf16 has float's range and 8 bits: three terms are x for |x| >= 2^-109, and below within 2^-134. Values that would
 * round to infinity begin with the largest number instead. */
__global__ void terms_bf16_kernel(uint16_t *out, const float *x, int64_t n, int terms) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= n) return;
	float rest = x[i];
	for (int k = 0; k < terms; k++) {
		uint16_t h = whit_dev_to_bf16(rest);
		if (isfinite(rest) && (h & 0x7fff) == 0x7f80) h--;
		out[k * n + i] = h;
		rest = isfinite(rest) ? rest - whit_dev_bf16(h) : 0.0f;
	}
}

/* f16 has 11 bits and a small range: a row is scaled by a power of two so that its largest finite value lies in [2^14,
 * 2^15), and `back` undoes it. Three terms are then x for values from 2^-15 of the row's largest on (if that is 2^-112
 * or more); smaller ones are within 2^-39 of the largest. A block a row. */
__global__ void terms_f16_kernel(uint16_t *out, float *back, const float *x, int64_t K, int terms) {
	WHIT_SHARED(unsigned, tops, [THREADS / 32]);
	int64_t n = gridDim.x * K;
	unsigned top = 0; /* bits of |x|: in order of size */
	out += blockIdx.x * K, x += blockIdx.x * K;
	for (int64_t i = threadIdx.x; i < K; i += THREADS)
		if (isfinite(x[i])) top = WHIT_MAX(top, __float_as_uint(x[i]) & 0x7fffffffu);
	top = __reduce_max_sync(0xffffffffu, top);
	if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
	__syncthreads();
	for (int w = 0; w < THREADS / 32; w++) top = WHIT_MAX(top, tops[w]);
	int shift = WHIT_MIN(127 + 14 - (int)(top >> 23), 126);
	float scale = __uint_as_float((unsigned)(127 + shift) << 23);
	if (threadIdx.x == 0) back[blockIdx.x] = __uint_as_float((unsigned)(127 - shift) << 23);
	for (int64_t i = threadIdx.x; i < K; i += THREADS) {
		float rest = x[i] * scale;
		for (int k = 0; k < terms; k++) {
			uint16_t h = whit_dev_to_f16(rest);
			out[k * n + i] = h;
			rest = isfinite(rest) ? rest - whit_dev_f16(h) : 0.0f;
		}
	}
}

/* y (T, rows) = y * back[t] * undo[r] + bias[r]; each may be NULL. */
__global__ void linear_end_kernel(float *y, int64_t T, int64_t rows, const float *back, const float *undo,
                                  const float *bias) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i >= T * rows) return;
	float v = y[i];
	if (back) v *= back[i / rows];
	if (undo) v *= undo[i % rows];
	if (bias) v += bias[i % rows];
	y[i] = v;
}

/* Logical rows [r0, ...) of a matrix of 16-bit floats, side by side and aligned. A block a row. */
__global__ void rows16_kernel(uint16_t *out, const whit_mat m, int64_t r0) {
	const uint8_t *p = whit_dev_row(m, 0, whit_mat_row(&m, r0 + blockIdx.x));
	for (int64_t i = threadIdx.x; i < m.width; i += THREADS)
		out[blockIdx.x * m.width + i] = whit_load_u16(p + 2 * i);
}

/* One or two terms of four finite values, the second `plane` behind the first; to and plane are aligned to 8 bytes. */
static __device__ __forceinline__ void halves_put(uint16_t *to, int64_t plane, const float4 w, int terms) {
	__half2 h[2] = {__floats2half2_rn(w.x, w.y), __floats2half2_rn(w.z, w.w)};
	uint2 bits;
	memcpy(&bits, h, sizeof bits);
	*(uint2 *)to = bits;
	if (terms == 1) return;
	float2 low = __half22float2(h[0]), high = __half22float2(h[1]);
	h[0] = __floats2half2_rn(w.x - low.x, w.y - low.y), h[1] = __floats2half2_rn(w.z - high.x, w.w - high.y);
	memcpy(&bits, h, sizeof bits);
	*(uint2 *)(to + plane) = bits;
}

/* Logical rows [r0, ...) of any format as F16 terms (terms, rows, width), as terms_f16_kernel makes those of x: a row
 * is scaled by a power of two, which `undo` (rows) undoes. A block a row. Its floats wait in shared memory (`kept`) for
 * the largest of them, or are decoded twice: held in registers, they would let one block onto a multiprocessor, which
 * then either reads or writes. */
template <class F>
__global__ void __launch_bounds__(THREADS, 4)
        expand_kernel(uint16_t *out, float *undo, const whit_mat m, int64_t r0, int terms, int kept) {
	enum { STEP = 4 * THREADS, AHEAD = 4 };
	WHIT_SHARED(unsigned, tops, [THREADS / 32]);
	WHIT_SHARED_DYNAMIC(float4, keep);
	int width = (int)m.width, i0 = 4 * (int)threadIdx.x;
	typename run<F>::row row = {};
	row.begin(m, whit_mat_row(&m, r0 + blockIdx.x));

	/* 1. bits of the largest |w|, in order of size; of the largest finite one, where a first look finds an
	 * infinity. It may miss a NaN: that makes its row's products NaN, whatever its second term is */
	unsigned top = 0;
	float most = 0;
	auto look = [&](int i, const float *w) {
		WHIT_UNROLL
		for (int k = 0; k < 4; k++) most = fmaxf(most, fabsf(w[k]));
		if (kept) keep[i / 4] = make_float4(w[0], w[1], w[2], w[3]);
	};
	auto again = [&](int i, int n, float *w) {
		if (!kept) {
			run<F>::template load<4>(w, m, row, i, n);
			return;
		}
		float4 v = keep[i / 4];
		w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
	};
	auto largest = [&] {
		top = __reduce_max_sync(0xffffffffu, top);
		if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
		__syncthreads();
		for (int k = 0; k < THREADS / 32; k++) top = WHIT_MAX(top, tops[k]);
	};
	int i = i0;
	for (; i + (AHEAD - 1) * STEP + 4 <= width; i += AHEAD * STEP) {
		float w[AHEAD][4];
		WHIT_UNROLL
		for (int u = 0; u < AHEAD; u++) run<F>::template load<4>(w[u], m, row, i, 4, u * STEP);
		WHIT_UNROLL
		for (int u = 0; u < AHEAD; u++) look(i + u * STEP, w[u]);
	}
	for (; i < width; i += STEP) {
		float w[4];
		run<F>::template load<4>(w, m, row, i, WHIT_MIN(width - i, 4));
		look(i, w);
	}
	top = __float_as_uint(most);
	largest();
	bool finite = top < 0x7f800000u;
	if (!finite) {
		__syncthreads();
		top = 0;
		for (i = i0; i < width; i += STEP) {
			float w[4];
			again(i, WHIT_MIN(width - i, 4), w);
			for (int k = 0; k < 4; k++)
				if (isfinite(w[k])) top = WHIT_MAX(top, __float_as_uint(w[k]) & 0x7fffffffu);
		}
		largest();
	}

	/* 2. terms */
	int shift = WHIT_MIN(127 + 14 - (int)(top >> 23), 126);
	float scale = __uint_as_float((unsigned)(127 + shift) << 23);
	if (threadIdx.x == 0) undo[blockIdx.x] = __uint_as_float((unsigned)(127 - shift) << 23);
	int64_t plane = (int64_t)gridDim.x * width;
	bool easy = finite && width % 4 == 0;
	out += (int64_t)blockIdx.x * width;
	if (easy && kept) {
		out += i0;
		for (i = i0; i < width; i += STEP, out += STEP) {
			float4 w = keep[i / 4];
			halves_put(out, plane, make_float4(w.x * scale, w.y * scale, w.z * scale, w.w * scale), terms);
		}
		return;
	}
	for (i = i0; i < width; i += STEP) {
		int n = WHIT_MIN(width - i, 4);
		float w[4];
		uint16_t *to = out + i;
		again(i, n, w);
		WHIT_UNROLL
		for (int k = 0; k < 4; k++) w[k] *= scale;
		if (easy) {
			halves_put(to, plane, make_float4(w[0], w[1], w[2], w[3]), terms);
			continue;
		}
		WHIT_UNROLL_BY(1)
		for (int k = 0; k < terms; k++, to += plane) {
			WHIT_UNROLL
			for (int c = 0; c < 4; c++) {
				uint16_t h = whit_dev_to_f16(w[c]);
				if (c < n) to[c] = h;
				w[c] = isfinite(w[c]) ? w[c] - whit_dev_f16(h) : 0.0f;
			}
		}
	}
}

__global__ void low_add_kernel(float *y, const float *part, int64_t n, float scale) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = fmaf(scale, part[i], y[i]);
}

/* ---- many tokens ---- */

static void end(whit_dev *d, float *y, int64_t T, int64_t rows, const float *back, const float *undo,
                const float *bias) {
	if (back || undo || bias)
		WHIT_LAUNCH(linear_end_kernel, whit_blocks(T * rows, THREADS), THREADS, 0, d, y, T, rows, back, undo,
		            bias);
}

/* cuBLAS reads rows side by side, in order, at their type's alignment. */
static bool dense(const whit_mat *w, size_t size) {
	return !w->paired && w->row_bytes[0] == (size_t)w->width * size && (uintptr_t)w->plane[0] % size == 0;
}

/* x by terms, tokens in tiles. The smallest term is multiplied first: the sum is then rounded once at its full size,
 * where the other way round it would be at every term. */
static void multiply16(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, int dtype,
                       const float *bias) {
	int64_t K = w->width, one = 2 * K * d->terms, tokens = WHIT_MIN(T, WHIT_MAX(1, SCRATCH / one));
	int64_t rows = dense(w, 2) ? w->rows : WHIT_MIN(w->rows, WHIT_MAX(1, SCRATCH / (2 * K)));
	uint16_t *term = (uint16_t *)whit_dev_take(d, (size_t)(tokens * one));
	uint16_t *copy = dense(w, 2) ? NULL : (uint16_t *)whit_dev_take(d, (size_t)(2 * rows * K));
	float *back = dtype == WHIT_F16 ? (float *)whit_dev_take(d, (size_t)tokens * sizeof *back) : NULL;
	for (int64_t t = 0; t < T && !whit_dev_failed(d); t += tokens) {
		int64_t n = WHIT_MIN(tokens, T - t);
		if (back)
			WHIT_LAUNCH(terms_f16_kernel, whit_blocks(n, 1), THREADS, 0, d, term, back, x + t * K, K,
			            d->terms);
		else
			WHIT_LAUNCH(terms_bf16_kernel, whit_blocks(n * K, THREADS), THREADS, 0, d, term, x + t * K,
			            n * K, d->terms);
		for (int64_t r = 0; r < w->rows; r += rows) {
			int64_t m = WHIT_MIN(rows, w->rows - r);
			if (copy) WHIT_LAUNCH(rows16_kernel, whit_blocks(m, 1), THREADS, 0, d, copy, *w, r);
			for (int k = d->terms - 1; k >= 0; k--)
				whit_dev_gemm(d, y + t * w->rows + r, w->rows, term + k * n * K,
				              copy ? (const void *)copy : w->plane[0], dtype, n, m, K,
				              k < d->terms - 1);
		}
		end(d, y + t * w->rows, n, w->rows, back, NULL, bias);
	}
}

static void multiply32(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const float *bias) {
	int64_t K = w->width, rows = WHIT_MIN(w->rows, WHIT_MAX(1, SCRATCH / (4 * K)));
	if (!strcmp(w->spec.fmt->name, "f32") && dense(w, 4)) {
		whit_dev_gemm(d, y, w->rows, x, w->plane[0], WHIT_F32, T, w->rows, K, 0);
	} else {
		float *tile = (float *)whit_dev_take(d, (size_t)(rows * K) * sizeof *tile);
		for (int64_t r = 0; r < w->rows && tile; r += rows) {
			int64_t m = WHIT_MIN(rows, w->rows - r);
			whit_dev_rows(d, w, r, m, tile);
			whit_dev_gemm(d, y + r, w->rows, x, tile, WHIT_F32, T, m, K, 0);
		}
	}
	end(d, y, T, w->rows, NULL, NULL, bias);
}

/* W of any format and x by two F16 terms each, W a tile of rows at a time: of the four products the least, 2^-22, is
 * left out. Where d->terms is 1, one term each. */
static void multiply_wide(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const float *bias) {
	int terms = WHIT_MIN(d->terms, 2);
	int64_t K = w->width, one = 2 * K * terms, tokens = WHIT_MIN(T, WHIT_MAX(1, SCRATCH / one));
	int64_t rows = WHIT_MIN(w->rows, WHIT_MAX(1, SCRATCH / one));
	size_t kept = (size_t)(K + 3) / 4 * sizeof(float4);
	if (kept > KEPT || 3 * (kept + 256) > (size_t)d->shared) kept = 0; /* three rows at once on a multiprocessor */
	uint16_t *term = (uint16_t *)whit_dev_take(d, (size_t)(tokens * one));
	uint16_t *tile = (uint16_t *)whit_dev_take(d, (size_t)(rows * one));
	float *back = (float *)whit_dev_take(d, (size_t)(tokens + w->rows) * sizeof *back), *undo = back + tokens;
	for (int64_t t = 0; t < T && !whit_dev_failed(d); t += tokens) {
		int64_t n = WHIT_MIN(tokens, T - t);
		WHIT_LAUNCH(terms_f16_kernel, whit_blocks(n, 1), THREADS, 0, d, term, back, x + t * K, K, terms);
		for (int64_t r = 0; r < w->rows; r += rows) {
			int64_t m = WHIT_MIN(rows, w->rows - r);
			float *to = y + t * w->rows + r;
			bool known = with_run(w, [&](auto f) {
				WHIT_LAUNCH((expand_kernel<decltype(f)>), whit_blocks(m, 1), THREADS, kept, d, tile,
				            undo + r, *w, r, terms, kept > 0);
			});
			if (!known)
				whit_dev_fail(d, WHIT_EINTERNAL, "format %s: has no device code", w->spec.fmt->name);
			for (int k = 2 * (terms - 1); k >= 0; k--) /* x's second term, W's, neither */
				whit_dev_gemm(d, to, w->rows, term + (k == 2) * n * K, tile + (k == 1) * m * K,
				              WHIT_F16, n, m, K, k < 2 * (terms - 1));
		}
		end(d, y + t * w->rows, n, w->rows, back, undo, bias);
	}
}

/* One matrix by itself, x as its columns are. */
static void packed(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const whit_low *low,
                   const float *bias) {
	whit_gemv g = {};
	gemv_input in = {x, NULL, NULL, 0, 0, WHIT_PRE_NONE, (int)T, (int)w->width};
	g.n = 1, g.w[0] = w, g.y[0] = y, g.bias[0] = bias, g.low[0] = low;
	whit_gemm_packed(d, &in, &g, 1);
}

/* And of few tokens, x not yet rotated: gemv.cu, which asks for the tier itself. */
static void few(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const whit_low *low,
                const float *bias) {
	whit_gemv g = {};
	g.x = x, g.n = 1, g.w[0] = w, g.y[0] = y, g.bias[0] = bias, g.low[0] = low;
	whit_gemv_cuda(d, &g, T);
}

static whit_mat factor(const uint16_t *p, int64_t rows, int64_t cols) {
	whit_mat m = {};
	whit_err e;
	whit_spec_parse("f16", &m.spec, &e);
	m.rows = rows, m.cols = m.width = cols, m.plane[0] = (const uint8_t *)p, m.row_bytes[0] = (size_t)cols * 2;
	return m;
}

void whit_low_add(whit_dev *d, float *y, const gemv_input *in, int64_t rows, const whit_low *low) {
	int64_t tokens = WHIT_MIN(in->T, WHIT_MAX(1, SCRATCH / (4 * rows)));
	float *ax = (float *)whit_dev_take(d, (size_t)(in->T * low->rank) * sizeof *ax);
	float *part = (float *)whit_dev_take(d, (size_t)(tokens * rows) * sizeof *part);
	if (!ax || !part || !low->rank) return;
	whit_mat a = factor(low->a, low->rank, in->K), b = factor(low->b, rows, low->rank);
	if (in->pre == WHIT_PRE_NONE) {
		whit_linear_cuda(d, ax, in->x, in->T, &a, NULL);
	} else {
		whit_gemv g = {};
		g.x = in->x, g.x2 = in->x2, g.pre = in->pre, g.norm = in->norm, g.eps = in->eps, g.shift = in->shift;
		g.n = 1, g.w[0] = &a, g.y[0] = ax;
		whit_gemv_cuda(d, &g, in->T);
	}
	for (int64_t t = 0; t < in->T; t += tokens) {
		int64_t n = WHIT_MIN(tokens, in->T - t);
		whit_linear_cuda(d, part, ax + t * low->rank, n, &b, NULL);
		WHIT_LAUNCH(low_add_kernel, whit_blocks(n * rows, THREADS), THREADS, 0, d, y + t * rows, part, n * rows,
		            low->scale);
	}
}

/* ---- tiers ---- */

static bool is(const whit_mat *w, const char *name) { return !strcmp(w->spec.fmt->name, name); }
static bool is_16(const whit_mat *w) { return is(w, "f16") || is(w, "bf16"); }
static bool takes_stream(const whit_mat *w, int64_t T) { return T <= WHIT_GEMV_MAX && whit_gemv_streams(w); }
static bool takes_gemv(const whit_mat *, int64_t T) { return T <= WHIT_GEMV_MAX; }
static bool takes_terms(const whit_mat *w, int64_t T) { return T > WHIT_GEMV_MAX && is_16(w); }
/* Floats would lose bits in it, or time. */
static bool takes_wide(const whit_mat *w, int64_t T) {
	return T > WHIT_GEMV_MAX && w->width < 1 << 30 && !is_16(w) && !is(w, "f32");
}
static bool takes_decoded(const whit_mat *, int64_t T) { return T > WHIT_GEMV_MAX; }

static void by_terms(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const float *bias) {
	multiply16(d, y, x, T, w, is(w, "f16") ? WHIT_F16 : WHIT_BF16, bias);
}

/* Three products of F16 instead of one of F32. Tensor cores that add in F32 have 16 times the rate of F32 on compute
 * capability 8.0 and 9.0 (A100, H100: NVIDIA's data sheets), but twice on 8.6 and 8.9 (RTX 3090, 4060). */
static bool quick_wide(const whit_dev *d) { return d->terms == 1 || d->capability == 80 || d->capability >= 90; }

/* The usual tier is the first that takes a product and, unless NULL, is quick on the device. run: of those that are no
 * other function's, by few and packed. */
static const struct tier {
	const char *name;
	bool (*takes)(const whit_mat *w, int64_t T);
	bool (*quick)(const whit_dev *d);
	void (*run)(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const float *bias);
} tiers[WHIT_TIERS] = {
        {"stream", takes_stream, NULL, NULL},            /* floats by 16 bytes (gemv.cu) */
        {"packed", whit_gemm_packed_takes, NULL, NULL},  /* codes on tensor cores (gemm_packed.cu) */
        {"gemv", takes_gemv, NULL, NULL},                /* any format, by runs of eight weights (gemv_packed.cu) */
        {"terms", takes_terms, NULL, by_terms},          /* x as terms of the weights' 16 bits, cuBLAS */
        {"wide", takes_wide, quick_wide, multiply_wide}, /* both as terms of F16, cuBLAS */
        {"decoded", takes_decoded, NULL, multiply32},    /* weights as F32, cuBLAS */
};

static int by_product(const void *a, const void *b) {
	const whit_tuned *p = (const whit_tuned *)a, *q = (const whit_tuned *)b;
	if (p->rows != q->rows) return p->rows < q->rows ? -1 : 1;
	if (p->width != q->width) return p->width < q->width ? -1 : 1;
	if (p->tokens != q->tokens) return p->tokens < q->tokens ? -1 : 1;
	return strcmp(p->format, q->format);
}

extern "C" {

const char *whit_tier_name(int tier) { return tier >= 0 && tier < WHIT_TIERS ? tiers[tier].name : NULL; }

int whit_tier_takes(int tier, const whit_mat *w, int64_t T) {
	return tier >= 0 && tier < WHIT_TIERS && tiers[tier].takes(w, T);
}

int whit_tier_usual(const whit_dev *d, const whit_mat *w, int64_t T) {
	int i = 0; /* gemv and decoded between them take everything */
	while (!tiers[i].takes(w, T) || (tiers[i].quick && !tiers[i].quick(d))) i++;
	return i;
}

int whit_tier_of(const whit_dev *d, const whit_mat *w, int64_t T) {
	whit_tuned key = {};
	const whit_tuned *found = NULL;
	if (d->n_tuned) {
		key.rows = w->rows, key.width = w->width;
		for (int i = 0; i < WHIT_TUNE_RANGES && whit_tune_from(i) <= T; i++) key.tokens = whit_tune_from(i);
		whit_spec_name(&w->spec, key.format);
		found = (const whit_tuned *)bsearch(&key, d->tuned, (size_t)d->n_tuned, sizeof key, by_product);
	}
	return found && whit_tier_takes(found->tier, w, T) ? found->tier : whit_tier_usual(d, w, T);
}

void whit_dev_tune(whit_dev *d, const whit_tuned *p, int n) {
	whit_free(d->tuned);
	d->tuned = (whit_tuned *)whit_alloc(sizeof *p * (size_t)WHIT_MAX(n, 1)), d->n_tuned = n;
	if (n) memcpy(d->tuned, p, sizeof *p * (size_t)n);
	qsort(d->tuned, (size_t)n, sizeof *p, by_product);
}

void whit_linear_cuda(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const float *bias) {
	whit_linear_low_cuda(d, y, x, T, w, NULL, bias);
}

void whit_linear_low_cuda(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w, const whit_low *low,
                          const float *bias) {
	if (T == 0 || w->rows == 0) return;
	if (T <= WHIT_GEMV_MAX) {
		few(d, y, x, T, w, low, bias);
		return;
	}
	if (w->rot) {
		float *rotated = (float *)whit_dev_take(d, (size_t)(T * w->width) * sizeof *rotated);
		if (!rotated) return;
		whit_rotate_cuda(d, w->rot, rotated, x, T);
		x = rotated;
	}
	int tier = d->plain ? -1 : whit_tier_of(d, w, T);
	if (tier == WHIT_TIER_PACKED) {
		packed(d, y, x, T, w, low, bias);
		return;
	}
	if (d->plain)
		whit_linear_plain(d, y, x, T, w, bias);
	else
		tiers[tier].run(d, y, x, T, w, bias);
	gemv_input in = {x, NULL, NULL, 0, 0, WHIT_PRE_NONE, (int)T, (int)w->width};
	if (low) whit_low_add(d, y, &in, w->rows, low);
}
}

/* ---- gradients ---- */

/* dy (T, rows) in stored order. */
__global__ void stored_order_kernel(float *out, const float *dy, const whit_mat m, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i % m.rows;
	if (i < n) out[i - r + whit_mat_row(&m, r)] = dy[i];
}

/* W is decoded to floats, a tile of rows at a time, whatever it is made of: gradients keep 32 bits. */
extern "C" void whit_linear_back_cuda(whit_dev *d, float *dx, const float *dy, int64_t T, const whit_mat *w) {
	int64_t K = w->width, rows = WHIT_MIN(w->rows, WHIT_MAX(1, SCRATCH / (4 * K))), n = T * w->rows;
	if (n == 0 || K == 0) return;
	float *tile = (float *)whit_dev_take(d, (size_t)(rows * K) * sizeof *tile), *to = dx;
	if (w->paired) {
		float *stored = (float *)whit_dev_take(d, (size_t)n * sizeof *stored);
		if (!stored) return;
		WHIT_LAUNCH(stored_order_kernel, whit_blocks(n, THREADS), THREADS, 0, d, stored, dy, *w, n);
		dy = stored;
	}
	if (w->rot) {
		to = (float *)whit_dev_take(d, (size_t)(T * K) * sizeof *to);
		if (to) whit_dev_zero(d, to, (size_t)(T * K) * sizeof *to);
	}
	if (!tile || !to) return;
	for (int64_t r = 0; r < w->rows; r += rows) {
		int64_t m = WHIT_MIN(rows, w->rows - r);
		whit_rows_decode_cuda(d, w, r, r + m, tile);
		whit_dev_mul(d, to, K, dy + r, w->rows, 0, tile, K, 0, T, K, m, 1);
	}
	if (!w->rot) return;
	float *back = (float *)whit_dev_take(d, (size_t)(T * w->cols) * sizeof *back);
	if (!back) return;
	whit_unrotate_cuda(d, w->rot, back, to, T);
	whit_add_cuda(d, dx, dx, back, T * w->cols);
}

__global__ void bias_kernel(float *dbias, const float *dy, int64_t T, int64_t rows) {
	int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	double sum = 0;
	for (int64_t t = 0; t < T && r < rows; t++) sum += dy[t * rows + r];
	if (r < rows) dbias[r] += (float)sum;
}

extern "C" void whit_linear_grad_cuda(whit_dev *d, float *dw, float *dbias, const float *dy, const float *x, int64_t T,
                                      int64_t rows, int64_t cols) {
	if (T * rows == 0) return;
	if (dbias) WHIT_LAUNCH(bias_kernel, whit_blocks(rows, THREADS), THREADS, 0, d, dbias, dy, T, rows);
	if (dw && cols) whit_dev_mul(d, dw, cols, dy, rows, 1, x, cols, 0, rows, cols, T, 1);
}
