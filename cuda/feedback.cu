/* feedback: rounding column after column with feedback (calib/feedback.h), many rows at once. A warp has a row: lane l
 * holds what stands in the block's columns l, l + 32, ..., so that a column's value is a shuffle away and the row of U
 * that goes with it one coalesced read, the same for all rows. Products are rounded before they are added, as the CPU's
 * are: the same bits, up to where blocks hand on to the columns behind them (whit_dev_mul). */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 128, WARPS = THREADS / 32, HELD = WHIT_COLUMNS_MOST / 32 };

/* whit_unit_nearest. */
static __device__ __forceinline__ int nearest(const whit_columns &a, const float *boundary, float level0, float v,
                                              float scale) {
	float x = scale != 0 ? v / scale : 0;
	int lo = 0, hi = a.count - 1;
	if (a.even) {
		x = ceilf(x - level0 - 0.5f);
		return x >= (float)hi ? hi : x > 0 ? (int)x : 0;
	}
	while (lo < hi) {
		int mid = (lo + hi) / 2;
		if (boundary[mid] < x)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

__global__ void __launch_bounds__(THREADS) columns_kernel(const whit_columns a) {
	WHIT_SHARED(float, table, [512]);
	int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
	int lane = (int)threadIdx.x % 32, size = (int)(a.to - a.from), all = (int)((a.turn ? a.to : a.end) - a.from);
	for (int i = (int)threadIdx.x; i < 2 * a.count; i += THREADS) table[i] = a.table[i];
	__syncthreads();
	if (r >= a.rows) return;
	float v[HELD], scale = a.scale[r];
	double loss = 0;
	float *row = a.v + r * a.n + a.from;
	WHIT_UNROLL
	for (int i = 0; i < HELD; i++) v[i] = 32 * i + lane < all ? row[32 * i + lane] : 0.0f;
	WHIT_UNROLL
	for (int i = 0; i < HELD; i++) {
		int last = WHIT_MIN(32, size - 32 * i);
		for (int l = 0; l < last; l++) {
			int64_t j = a.from + 32 * i + l;
			float vj = __shfl_sync(0xffffffffu, v[i], l);
			const float *u = a.u + j * a.n + a.from, *p = a.pass ? a.pass + j * a.n + a.from : NULL;
			int k = nearest(a, table + a.count, table[0], vj, scale);
			float q = scale * table[k] + 0.0f, err = (vj - q) / u[32 * i + l];
			loss += (double)err * err;
			WHIT_UNROLL
			for (int m = 0; m < HELD; m++) {
				int c = 32 * m + lane;
				if (m < i || c >= all || c <= 32 * i + l) continue;
				v[m] += -err * u[c];
				if (p) v[m] += vj * p[c];
			}
			if (!a.turn && lane == 0) a.err[r * a.n + j] = -err, a.level[r * a.n + j] = (uint8_t)k;
		}
	}
	float *to = a.turn ? a.turn + r * size : row;
	WHIT_UNROLL
	for (int i = 0; i < HELD; i++)
		if (32 * i + lane < all) to[32 * i + lane] = v[i];
	if (lane == 0) a.loss[r] = a.turn ? loss : a.loss[r] + loss;
}

extern "C" void whit_columns_cuda(whit_dev *d, const whit_columns *a) {
	if (!a->rows || a->from >= a->to) return;
	if (a->end - a->from > WHIT_COLUMNS_MOST || a->count > 256) {
		whit_dev_fail(d, WHIT_EINTERNAL, "columns: are %lld with %d levels, need at most %d with 256",
		              (long long)(a->end - a->from), a->count, WHIT_COLUMNS_MOST);
		return;
	}
	WHIT_LAUNCH(columns_kernel, whit_blocks(a->rows, WARPS), THREADS, 0, d, *a);
}

/* ---- what is around it: a thread a row, or a value ---- */

__global__ void columns_take_kernel(float *to, const float *from, int64_t rows, int64_t n, int64_t size) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < rows * size) to[i] = from[i / size * n + i % size];
}
extern "C" void whit_columns_take_cuda(whit_dev *d, float *to, const float *from, int64_t rows, int64_t n,
                                       int64_t size) {
	if (rows > 0 && size > 0)
		WHIT_LAUNCH(columns_take_kernel, whit_blocks(rows * size, THREADS), THREADS, 0, d, to, from, rows, n,
		            size);
}

static __device__ __forceinline__ float stored_scale(const uint8_t *p, int f32) {
	return f32 ? whit_load_f32(p) : whit_dev_f16(whit_load_u16(p));
}

__global__ void columns_better_kernel(float *best, double *least, const uint8_t *scales, int64_t row_bytes, int f32,
                                      const double *loss, int64_t rows) {
	int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (r >= rows || (loss && !(loss[r] < least[r]))) return;
	best[r] = stored_scale(scales + r * row_bytes, f32);
	if (loss) least[r] = loss[r];
}
extern "C" void whit_columns_better_cuda(whit_dev *d, float *best, double *least, const uint8_t *scales,
                                         int64_t row_bytes, int f32, const double *loss, int64_t rows) {
	if (rows)
		WHIT_LAUNCH(columns_better_kernel, whit_blocks(rows, THREADS), THREADS, 0, d, best, least, scales,
		            row_bytes, f32, loss, rows);
}

__global__ void columns_put_kernel(uint8_t *scales, int64_t row_bytes, int f32, const float *s, int64_t rows) {
	int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (r >= rows) return;
	if (f32) {
		memcpy(scales + r * row_bytes, s + r, 4);
		return;
	}
	/* Whole, since it is aligned: given its bytes to store, ptxas 13.0 makes the lower one of the number's value,
	 * by F2I, and not of its bits (tests/sass.txt). */
	*reinterpret_cast<uint16_t *>(scales + r * row_bytes) = whit_dev_to_f16(s[r]);
}
extern "C" void whit_columns_scale_cuda(whit_dev *d, uint8_t *scales, int64_t row_bytes, int f32, const float *s,
                                        int64_t rows) {
	if (rows)
		WHIT_LAUNCH(columns_put_kernel, whit_blocks(rows, THREADS), THREADS, 0, d, scales, row_bytes, f32, s,
		            rows);
}

/* A thread a byte: codes of `bits` bits, lowest first. */
__global__ void columns_pack_kernel(uint8_t *codes, const uint8_t *level, int64_t rows, int64_t n, int64_t row_bytes,
                                    int bits, int flip) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i / row_bytes, b = i % row_bytes * 8;
	if (r >= rows) return;
	unsigned byte = 0;
	for (int64_t c = b / bits; c < n && c * bits < b + 8; c++) {
		unsigned code = level[r * n + c] ^ (unsigned)flip;
		int64_t at = c * bits - b;
		byte |= at >= 0 ? code << at : code >> -at;
	}
	codes[i] = (uint8_t)byte;
}
extern "C" void whit_columns_pack_cuda(whit_dev *d, uint8_t *codes, const uint8_t *level, int64_t rows, int64_t n,
                                       int bits, int flip) {
	int64_t row_bytes = (n * bits + 7) / 8;
	if (rows > 0 && n > 0)
		WHIT_LAUNCH(columns_pack_kernel, whit_blocks(rows * row_bytes, THREADS), THREADS, 0, d, codes, level,
		            rows, n, row_bytes, bits, flip);
}

__global__ void columns_values_kernel(float *y, const uint8_t *k, const float *scale, const float *level, int64_t rows,
                                      int64_t n, int64_t unit) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < rows * n) y[i] = scale[i / n * (n / unit) + i % n / unit] * level[k[i]];
}
extern "C" void whit_columns_values_cuda(whit_dev *d, float *y, const uint8_t *k, const float *scale,
                                         const float *level, int64_t rows, int64_t n, int64_t unit) {
	if (rows > 0 && n > 0)
		WHIT_LAUNCH(columns_values_kernel, whit_blocks(rows * n, THREADS), THREADS, 0, d, y, k, scale, level,
		            rows, n, unit);
}

__global__ void columns_less_kernel(float *y, const float *a, const float *b, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n) y[i] = a[i] - b[i];
}
extern "C" void whit_subtract_cuda(whit_dev *d, float *y, const float *a, const float *b, int64_t n) {
	if (n) WHIT_LAUNCH(columns_less_kernel, whit_blocks(n, THREADS), THREADS, 0, d, y, a, b, n);
}
