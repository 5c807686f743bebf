/* decode: rows of a matrix as floats, by number or by token. */
#include "cuda/runs.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256, WARPS = THREADS / 32, SPAN = 4 * 32, PIECE = 4 * SPAN };

/* The plain version, a thread a weight. out row k is stored row r0 + k, logical row r0 + k or, with tokens, logical row
 * tokens[k]. */
template <class F>
__global__ void decode_plain_kernel(const whit_mat m, const int32_t *tokens, int64_t r0, int logical, float *out) {
	int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x, k = blockIdx.x;
	if (i >= m.width) return;
	int64_t r = tokens ? tokens[k] : r0 + k;
	out[k * m.width + i] = F::at(m, logical ? whit_mat_row(&m, r) : r, i);
}

/* Records have their rows' places counted: once for a row. */
template <class F>
constexpr bool of_records = std::is_same<F, whit_fmt_frc>::value || std::is_same<F, whit_fmt_vp>::value;

static __device__ __forceinline__ void put(float *out, const float *w, int n, int wide) {
	if (wide) {
		*(float4 *)out = make_float4(w[0], w[1], w[2], w[3]);
		return;
	}
	WHIT_UNROLL
	for (int c = 0; c < 4; c++)
		if (c < n) out[c] = w[c];
}

/* The same, a warp a piece of a row, of `each` columns, a multiple of PIECE unless it is the whole row. Lanes have four
 * columns each and lie side by side: a warp writes whole lines, where eight columns a lane in two halves wrote half of
 * every sector at a time. (2, 4 and 8 bits then took 29 us alike on an H200, their bytes 21 to 25.) All of a PIECE is
 * read before any of it is written. wide: rows of out are aligned to 16. */
template <class F>
__global__ void __launch_bounds__(THREADS, 4)
        decode_kernel(const whit_mat m, const int32_t *tokens, int64_t r0, int logical, float *out, unsigned parts,
                      unsigned pieces, int each, int wide) {
	constexpr int AHEAD = of_records<F> ? 1 : PIECE / SPAN;
	unsigned part = blockIdx.x * WARPS + threadIdx.x / 32, k = part / pieces;
	if (part >= parts) return;
	int from = (int)(part - k * pieces) * each, to = WHIT_MIN((int)m.width - from, each) + from;
	int64_t r = tokens ? tokens[k] : r0 + k;
	typename run<F>::row row = {};
	row.begin(m, logical ? whit_mat_row(&m, r) : r);
	out += k * m.width;
	int i = from + 4 * ((int)threadIdx.x % 32);
	for (; AHEAD > 1 && wide && i - i % SPAN + PIECE <= to; i += PIECE) {
		float w[AHEAD][4];
		WHIT_UNROLL
		for (int u = 0; u < AHEAD; u++) run<F>::template load<4>(w[u], m, row, i, 4, u * SPAN);
		WHIT_UNROLL
		for (int u = 0; u < AHEAD; u++) put(out + i + u * SPAN, w[u], 4, 1);
	}
	for (; i < to; i += SPAN) {
		float w[4];
		int n = WHIT_MIN(to - i, 4);
		run<F>::template load<4>(w, m, row, i, n);
		put(out + i, w, n, wide);
	}
}

static void decode(whit_dev *d, const whit_mat *m, const int32_t *tokens, int64_t r0, int logical, int64_t n,
                   float *out) {
	if (n == 0 || m->width == 0) return;
	bool known;
	if (d->plain || m->width >= 1 << 30) {
		dim3 grid(whit_blocks(n, 1), whit_blocks(m->width, THREADS));
		known = whit_with_format(m, [&](auto f) {
			WHIT_LAUNCH((decode_plain_kernel<decltype(f)>), grid, THREADS, 0, d, *m, tokens, r0, logical,
			            out);
		});
	} else {
		int each = m->spec.fmt->record ? (int)m->width : PIECE;
		int64_t pieces = (m->width + each - 1) / each, most = ((int64_t)1 << 31) / pieces;
		int wide = m->width % 4 == 0 && (uintptr_t)out % 16 == 0;
		known = with_run(m, [&](auto f) {
			for (int64_t k = 0; k < n; k += most) {
				int64_t parts = WHIT_MIN(n - k, most) * pieces;
				WHIT_LAUNCH((decode_kernel<decltype(f)>), whit_blocks(parts, WARPS), THREADS, 0, d, *m,
				            tokens ? tokens + k : NULL, r0 + k, logical, out + k * m->width,
				            (unsigned)parts, (unsigned)pieces, each, wide);
			}
		});
	}
	if (!known) whit_dev_fail(d, WHIT_EINTERNAL, "format %s: has no device code", m->spec.fmt->name);
}

void whit_dev_rows(whit_dev *d, const whit_mat *m, int64_t r0, int64_t n, float *out) {
	decode(d, m, NULL, r0, 1, n, out);
}

extern "C" void whit_rows_decode_cuda(whit_dev *d, const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	decode(d, m, NULL, r0, 0, r1 - r0, out);
}

extern "C" void whit_embed_cuda(whit_dev *d, float *y, const int32_t *tokens, int64_t T, const whit_mat *w) {
	float *rotated = w->rot && T ? (float *)whit_dev_take(d, (size_t)(T * w->width) * sizeof *y) : NULL;
	if (!w->rot) {
		decode(d, w, tokens, 0, 1, T, y);
	} else if (rotated) {
		decode(d, w, tokens, 0, 1, T, rotated);
		whit_unrotate_cuda(d, w->rot, y, rotated, T);
	}
}

/* A thread has a column of all tokens: those that occur twice are added in order. */
__global__ void embed_back_kernel(float *dw, const float *dy, const int32_t *tokens, int64_t T, int64_t dim) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	for (int64_t t = 0; t < T && i < dim; t++) dw[tokens[t] * dim + i] += dy[t * dim + i];
}

extern "C" void whit_embed_back_cuda(whit_dev *d, float *dw, const float *dy, const int32_t *tokens, int64_t T,
                                     int64_t dim, int64_t) {
	if (T > 0 && dim > 0)
		WHIT_LAUNCH(embed_back_kernel, whit_blocks(dim, THREADS), THREADS, 0, d, dw, dy, tokens, T, dim);
}
