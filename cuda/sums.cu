/* sums: what statistics add up, in the order of host/ops.h: the same bits. Squares of floats are exact in double, so a
 * fused multiply-add rounds as the CPU's two operations do. */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum {
	THREADS = 128,
	WARPS = THREADS / 32,
	HELD = WHIT_SUM_COLS / 32 /* columns of a lane */,
	BATCH = 4,
	DEEP = 16,
	SPANS = 8
};

/* ---- parts, one after another ---- */

/* DEEP loads at once: the chain of sums is short, and their latency would be everything. */
__global__ void __launch_bounds__(THREADS)
        parts_kernel(double *a, double *b, const double *part, int64_t n, int64_t parts, int add) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	double *to = blockIdx.y ? b : a, got[DEEP];
	if (i >= n) return;
	double s = add ? to[i] : 0;
	part += blockIdx.y * parts * n + i;
	for (int64_t p = 0; p < parts; p += DEEP) {
		WHIT_UNROLL
		for (int k = 0; k < DEEP; k++) got[k] = p + k < parts ? part[(p + k) * n] : 0;
		WHIT_UNROLL
		for (int k = 0; k < DEEP; k++)
			if (p + k < parts) s += got[k];
	}
	to[i] = s;
}

void whit_dev_parts(whit_dev *d, double *a, double *b, const double *part, int64_t n, int64_t parts, int add) {
	if (n)
		WHIT_LAUNCH(parts_kernel, dim3(whit_blocks(n, THREADS), b ? 2 : 1), THREADS, 0, d, a, b, part, n, parts,
		            add);
}

/* ---- columns: a thread a piece of one ---- */

__global__ void __launch_bounds__(THREADS)
        column_sums_kernel(double *sum, double *sq, const float *x, const double *weight, int64_t T, int64_t cols) {
	int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x, t0 = (int64_t)blockIdx.y * WHIT_SUM_ROWS;
	int64_t t1 = WHIT_MIN(T, t0 + WHIT_SUM_ROWS);
	double s = 0, q = 0;
	float v[DEEP];
	if (c >= cols) return;
	for (int64_t t = t0; t < t1; t += DEEP) {
		WHIT_UNROLL
		for (int k = 0; k < DEEP; k++) v[k] = t + k < t1 ? x[(t + k) * cols + c] : 0.0f;
		WHIT_UNROLL
		for (int k = 0; k < DEEP; k++) {
			double d = v[k];
			if (t + k >= t1) break;
			if (sum) s += d;
			if (sq) q = weight ? q + weight[t + k] * (d * d) : fma(d, d, q);
		}
	}
	if (sum) sum[blockIdx.y * cols + c] = s;
	if (sq) sq[blockIdx.y * cols + c] = q;
}

extern "C" void whit_column_sums_cuda(whit_dev *d, double *sum, double *sq, const float *x, const double *weight,
                                      int64_t T, int64_t cols) {
	unsigned pieces = whit_blocks(T, WHIT_SUM_ROWS);
	int both = sum && sq;
	if (T * cols == 0 || (!sum && !sq)) return;
	double *part = (double *)whit_dev_take(d, (size_t)((both + 1) * pieces * cols) * sizeof *part);
	if (!part) return;
	WHIT_LAUNCH(column_sums_kernel, dim3(whit_blocks(cols, THREADS), pieces), THREADS, 0, d, sum ? part : NULL,
	            sq ? part + both * pieces * cols : NULL, x, weight, T, cols);
	whit_dev_parts(d, sum ? sum : sq, both ? sq : NULL, part, cols, pieces, 1);
}

/* ---- rows: a warp each, SPANS at once ---- */

__global__ void __launch_bounds__(THREADS)
        row_squares_kernel(double *n, const float *x, int64_t T, int64_t cols, int64_t ld) {
	int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
	int lane = (int)threadIdx.x % 32;
	double sum = 0;
	if (t >= T) return;
	x += t * ld;
	for (int64_t c0 = 0; c0 < cols; c0 += SPANS * WHIT_SUM_COLS) {
		float v[SPANS * HELD];
		double s[SPANS] = {};
		WHIT_UNROLL
		for (int k = 0; k < SPANS * HELD; k++) v[k] = x[WHIT_MIN(c0 + 32 * k + lane, cols - 1)]; /* no branch */
		WHIT_UNROLL
		for (int k = 0; k < SPANS * HELD; k++) {
			double d = c0 + 32 * k + lane < cols ? v[k] : 0.0f;
			s[k / HELD] = fma(d, d, s[k / HELD]);
		}
		double part = whit_warp_sums<SPANS>(s); /* spans behind the last column add +0 */
		WHIT_UNROLL
		for (int i = 0; i < SPANS; i++) sum += __shfl_sync(0xffffffffu, part, i * (32 / SPANS));
	}
	if (lane == 0) n[t] = sum;
}

extern "C" void whit_row_squares_cuda(whit_dev *d, double *n, const float *x, int64_t T, int64_t cols, int64_t ld) {
	if (T) WHIT_LAUNCH(row_squares_kernel, whit_blocks(T, WARPS), THREADS, 0, d, n, x, T, cols, ld);
}

/* ---- squares: one reading of g for all three. A warp has a span of columns of a piece of rows, BATCH rows at once
 * ---- */

/* row (spans, rows) and col (pieces, cols): the sums of each warp. */
__global__ void __launch_bounds__(THREADS, 5)
        square_sums_kernel(float *full, double *row, double *col, const float *g, int64_t rows, int64_t cols) {
	int lane = (int)threadIdx.x % 32;
	int64_t span = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, c0 = span * WHIT_SUM_COLS + lane;
	int64_t r0 = (int64_t)blockIdx.y * WHIT_SUM_ROWS, r1 = WHIT_MIN(rows, r0 + WHIT_SUM_ROWS);
	double q[HELD] = {};
	if (span * WHIT_SUM_COLS >= cols) return;
	for (int64_t r = r0; r < r1; r += BATCH) {
		float v[BATCH][HELD], f[BATCH][HELD];
		WHIT_UNROLL
		for (int i = 0; i < BATCH * HELD; i++) {
			int64_t c = c0 + i % HELD * 32, at = (r + i / HELD) * cols + c;
			bool in = c < cols && r + i / HELD < r1;
			v[i / HELD][i % HELD] = in ? g[at] : 0.0f;
			f[i / HELD][i % HELD] = in && full ? full[at] : 0.0f;
		}
		double s[BATCH] = {};
		WHIT_UNROLL
		for (int i = 0; i < BATCH * HELD; i++) {
			int64_t c = c0 + i % HELD * 32, at = (r + i / HELD) * cols + c;
			float a = v[i / HELD][i % HELD];
			double d = a;
			if (full && c < cols && r + i / HELD < r1) full[at] = f[i / HELD][i % HELD] + a * a;
			q[i % HELD] = fma(d, d, q[i % HELD]);
			s[i / HELD] = fma(d, d, s[i / HELD]);
		}
		if (!row) continue;
		double sum = whit_warp_sums<BATCH>(s);
		int64_t at = r + lane / (32 / BATCH);
		if (lane % (32 / BATCH) == 0 && at < r1) row[span * rows + at] = sum;
	}
	WHIT_UNROLL
	for (int k = 0; k < HELD; k++)
		if (col && c0 + 32 * k < cols) col[blockIdx.y * cols + c0 + 32 * k] = q[k];
}

extern "C" void whit_square_sums_cuda(whit_dev *d, float *full, double *row, double *col, const float *g, int64_t rows,
                                      int64_t cols) {
	int64_t spans = whit_blocks(cols, WHIT_SUM_COLS), pieces = whit_blocks(rows, WHIT_SUM_ROWS);
	if (rows * cols == 0) return;
	double *part = (double *)whit_dev_take(d, (size_t)(spans * rows + pieces * cols) * sizeof *part),
	       *cols_part = part + spans * rows;
	if (!part) return;
	WHIT_LAUNCH(square_sums_kernel, dim3(whit_blocks(spans, WARPS), (unsigned)pieces), THREADS, 0, d, full,
	            row ? part : NULL, col ? cols_part : NULL, g, rows, cols);
	if (row) whit_dev_parts(d, row, NULL, part, rows, spans, 1);
	if (col) whit_dev_parts(d, col, NULL, cols_part, cols, pieces, 1);
}

__global__ void rows_scale_kernel(float *y, const float *x, const double *w, int64_t n, int64_t cols) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = w ? (float)(x[i] * w[i / cols]) : x[i] * x[i];
}

extern "C" void whit_rows_scale_cuda(whit_dev *d, float *y, const float *x, const double *w, int64_t T, int64_t cols) {
	int64_t n = T * cols;
	if (n) WHIT_LAUNCH(rows_scale_kernel, whit_blocks(n, THREADS), THREADS, 0, d, y, x, w, n, cols);
}

/* ---- gram ----
 * x 2^s = hi + lo + r, the largest |x| 2^s in [2^14, 2^15). F16 has 11 bits, so |lo| <= 2^-11 |x 2^s| and |r| <= 2^-22
 * |x 2^s|, or 2^-25 where lo is subnormal: 2^-39 of the largest. Of x_i x_j the sum of hi hi, hi lo and lo hi lacks
 * lo lo, r_i x_j and x_i r_j: 3 * 2^-22 |x_i x_j| (+ 2^-39 max |x| (|x_i| + |x_j|)). Products of F16 are exact in FP32;
 * a tensor core adds 16 at a time to its accumulator, which costs a last place (2^-23, if it cuts off) each time: 3 T /
 * 16 of them for a piece of T tokens, and another for the sum with h. */

enum { TILE = 32 };
static constexpr unsigned TOP_BLOCKS = 1024;
static constexpr int64_t GRAM_ROWS = 1024; /* of a strip: 0.60 of all products at 5120 columns, 0.53 at 17408 */

/* Bits of the largest finite |x|: in order of size. */
__global__ void gram_top_kernel(unsigned *top, const float *x, int64_t n) {
	unsigned most = 0, v[BATCH];
	for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n;
	     i += (int64_t)gridDim.x * THREADS * BATCH) {
		WHIT_UNROLL
		for (int k = 0; k < BATCH; k++) v[k] = __float_as_uint(x[WHIT_MIN(i + k * gridDim.x * THREADS, n - 1)]);
		WHIT_UNROLL
		for (int k = 0; k < BATCH; k++)
			v[k] &= 0x7fffffff, most = v[k] < 0x7f800000 ? WHIT_MAX(most, v[k]) : most;
	}
	most = __reduce_max_sync(0xffffffffu, most);
	if (threadIdx.x % 32 == 0) atomicMax(top, most);
}

template <int W> struct __align__(4 * W) some_floats { float v[W]; };
template <int W> struct __align__(2 * W) some_halves { uint16_t v[W]; };

/* out (4, n): lo, hi, hi, lo. Three terms from the first on against three from the second on are all three products in
 * one. W values a thread, aligned. scale: what whit_dev_mul_f16 needs; beyond 2^+-60 squares are none of FP32's. */
template <int W>
__global__ void gram_terms_kernel(uint16_t *out, float *scale, const unsigned *top, const float *x, int64_t n) {
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * W;
	int s = WHIT_MAX(WHIT_MIN(127 + 14 - (int)(*top >> 23), 60), -60);
	float by = __uint_as_float((unsigned)(127 + s) << 23);
	some_halves<W> hi, lo;
	if (i == 0) scale[0] = __uint_as_float((unsigned)(127 - 2 * s) << 23), scale[1] = 1;
	if (i >= n) return;
	some_floats<W> got = *reinterpret_cast<const some_floats<W> *>(x + i);
	WHIT_UNROLL
	for (int k = 0; k < W; k++) {
		float v = got.v[k] * by;
		hi.v[k] = whit_dev_to_f16(v);
		lo.v[k] = whit_dev_to_f16(v - whit_dev_f16(hi.v[k]));
	}
	WHIT_UNROLL
	for (int k = 0; k < 4; k++) *reinterpret_cast<some_halves<W> *>(out + k * n + i) = k == 1 || k == 2 ? hi : lo;
}

static void gram_terms(whit_dev *d, uint16_t *term, float *scale, unsigned *top, const float *x, int64_t n) {
	whit_dev_zero(d, top, sizeof *top);
	WHIT_LAUNCH(gram_top_kernel, WHIT_MIN(whit_blocks(n, THREADS * BATCH), TOP_BLOCKS), THREADS, 0, d, top, x, n);
	if (n % 4 || (uintptr_t)x % 16)
		WHIT_LAUNCH((gram_terms_kernel<1>), whit_blocks(n, THREADS), THREADS, 0, d, term, scale, top, x, n);
	else
		WHIT_LAUNCH((gram_terms_kernel<4>), whit_blocks(n / 4, THREADS), THREADS, 0, d, term, scale, top, x, n);
}

extern "C" void whit_gram_cuda(whit_dev *d, float *h, const float *x, int64_t T, int64_t n) {
	int64_t piece = whit_gram_piece(T, n);
	if (T * n == 0) return;
	if (d->plain) {
		whit_dev_mul(d, h, n, x, n, 1, x, n, 0, n, n, T, 1);
		return;
	}
	float *scale = (float *)whit_dev_take(d, 4 * sizeof *scale);
	uint16_t *term = (uint16_t *)whit_dev_take(d, (size_t)(4 * piece * n) * sizeof *term);
	if (!scale || !term) return;
	for (int64_t t = 0; t < T; t += piece) {
		int64_t here = WHIT_MIN(piece, T - t), values = here * n;
		gram_terms(d, term, scale, (unsigned *)scale + 2, x + t * n, values);
		for (int64_t r = 0; r < n; r += GRAM_ROWS)
			whit_dev_mul_f16(d, h + r * n + r, n, term + r, term + values + r, n,
			                 WHIT_MIN(GRAM_ROWS, n - r), n - r, 3 * here, scale);
	}
}

/* A tile below the diagonal, or on it, from the one above it. */
__global__ void mirror_kernel(float *h, int64_t n) {
	WHIT_SHARED(float, tile, [TILE][TILE + 1]);
	int64_t i0 = (int64_t)blockIdx.y * TILE, j0 = (int64_t)blockIdx.x * TILE;
	int x = (int)threadIdx.x % TILE;
	if (j0 > i0) return;
	for (int y = (int)threadIdx.x / TILE; y < TILE; y += THREADS / TILE)
		if (j0 + y < n && i0 + x < n) tile[y][x] = h[(j0 + y) * n + i0 + x];
	__syncthreads();
	for (int y = (int)threadIdx.x / TILE; y < TILE; y += THREADS / TILE)
		if (i0 + y < n && j0 + x < i0 + y) h[(i0 + y) * n + j0 + x] = tile[x][y];
}

extern "C" void whit_gram_mirror_cuda(whit_dev *d, float *h, int64_t n) {
	unsigned tiles = whit_blocks(n, TILE);
	if (n) WHIT_LAUNCH(mirror_kernel, dim3(tiles, tiles), THREADS, 0, d, h, n);
}
