/* decode: rows of a matrix as floats, by number or by token. */
#include "cuda/runs.cuh"
extern "C" {
#include "host/ops.h"
}
#include <type_traits>

enum { THREADS = 256 };

/* The plain version, a thread a weight. out row k is stored row r0 + k, logical row r0 + k or, with tokens, logical row
 * tokens[k]. */
template <class F>
__global__ void decode_plain_kernel(const whit_mat m, const int32_t *tokens, int64_t r0, int logical, float *out) {
	int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x, k = blockIdx.x;
	if (i >= m.width) return;
	int64_t r = tokens ? tokens[k] : r0 + k;
	out[k * m.width + i] = F::at(m, logical ? whit_mat_row(&m, r) : r, i);
}

/* The same, a thread a run. */
template <class F>
__global__ void decode_kernel(const whit_mat m, const int32_t *tokens, int64_t r0, int logical, float *out) {
	int i = (int)(blockIdx.y * THREADS + threadIdx.x) * RUN, n = WHIT_MIN((int)m.width - i, RUN);
	if (n <= 0) return;
	int64_t k = blockIdx.x, r = tokens ? tokens[k] : r0 + k;
	float w[RUN];
	run<F>::load(w, m, {logical ? whit_mat_row(&m, r) : r}, i, n);
	out += k * m.width + i;
	if (n == RUN && (uintptr_t)out % 16 == 0) {
		((float4 *)out)[0] = make_float4(w[0], w[1], w[2], w[3]);
		((float4 *)out)[1] = make_float4(w[4], w[5], w[6], w[7]);
		return;
	}
	WHIT_UNROLL
	for (int c = 0; c < RUN; c++)
		if (c < n) out[c] = w[c];
}

/* A record's rows, a block a row: its place in its class is counted once. */
__global__ void decode_record_kernel(const whit_mat m, const int32_t *tokens, int64_t r0, float *out) {
	int64_t k = blockIdx.x, r = tokens ? tokens[k] : r0 + k;
	const whit_frc f = whit_frc_of(&m);
	const uint8_t *bits = m.plane[0] + f.bitmap;
	whit_frc_count count = {};
	int64_t c = whit_dev_frc_rank(count, bits, r);
	bool core = bits[r / 8] >> r % 8 & 1;
	const whit_frc_row row = whit_dev_frc_row(f, m.plane[0], core ? c : r - c, core);
	for (int64_t i = threadIdx.x; i < m.width; i += THREADS)
		out[k * m.width + i] = whit_dev_frc_weight(m, f, row, i);
}

/* The same of a record of five classes. */
__global__ void decode_vp_kernel(const whit_mat m, const int32_t *tokens, int64_t r0, float *out) {
	int64_t k = blockIdx.x, r = tokens ? tokens[k] : r0 + k;
	whit_vp_count count = {};
	const whit_vp_row row = whit_dev_vp_row(count, m, r);
	for (int64_t i = threadIdx.x; i < m.width; i += THREADS) out[k * m.width + i] = whit_dev_vp_weight(row, i);
}

static void decode(whit_dev *d, const whit_mat *m, const int32_t *tokens, int64_t r0, int logical, int64_t n,
                   float *out) {
	if (n == 0 || m->width == 0) return;
	dim3 grid(whit_blocks(n, 1), whit_blocks(m->width, THREADS));
	if (!strcmp(m->spec.fmt->name, "vp") && !d->plain) {
		WHIT_LAUNCH(decode_vp_kernel, grid.x, THREADS, 0, d, *m, tokens, r0, out);
		return;
	}
	if (m->spec.fmt->record && !d->plain) { /* its rows are never paired */
		WHIT_LAUNCH(decode_record_kernel, grid.x, THREADS, 0, d, *m, tokens, r0, out);
		return;
	}
	dim3 runs(grid.x, whit_blocks(m->width, THREADS * RUN));
	bool known = whit_with_format(m, [&](auto f) {
		using F = decltype(f);
		if constexpr (std::is_same<typename run<F>::row, run<whit_fmt_f32>::row>::value)
			if (!d->plain && m->width < 1 << 30) {
				WHIT_LAUNCH((decode_kernel<F>), runs, THREADS, 0, d, *m, tokens, r0, logical, out);
				return;
			}
		WHIT_LAUNCH((decode_plain_kernel<F>), grid, THREADS, 0, d, *m, tokens, r0, logical, out);
	});
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
