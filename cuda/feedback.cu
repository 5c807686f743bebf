/* feedback: rounding column after column with feedback (calib/feedback.h), many rows at once. Products are rounded
 * before they are added, as the CPU's are: the same bits, up to where blocks hand on to the columns behind them
 * (whit_dev_mul).
 */
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

/* Plain, with `pass` and any number of columns: a warp has a row, lane l what stands in columns l, l + 32, ..., so that
 * a column's value is a shuffle away and the row of U that goes with it one coalesced read. */
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

/* Four lanes have a row, each every fourth column: what all lanes of a row do alike, two divisions and a search, is
 * done for eight rows at once, and is hidden behind other warps' sums. v[0] is the lane's column of the four whose turn
 * it is; behind each four, registers move up. U lies in shared memory as it is read: of row j for each lane its columns
 * from j's four on, in chunks of CHUNK rows whose length falls by CHUNK / 4; four floats more keep lanes' banks apart.
 */
enum { LANES = 4, CHUNK = 32, LANE_MOST = 32 /* columns of a lane */ };
template <int H> struct chunk {
	enum { FLOATS = CHUNK * LANES * (H + 4), ALL = FLOATS + chunk<H - CHUNK / LANES>::ALL };
};
template <> struct chunk<0> {
	enum { ALL = 0 };
};

template <int H> static __device__ __forceinline__ void chunk_load(const whit_columns &a, float *to, int j0) {
	int size = (int)(a.to - a.from), all = (int)((a.turn ? a.to : a.end) - a.from);
	if (j0 >= size) return;
	for (int i = (int)threadIdx.x; i < CHUNK * LANES * H; i += THREADS) {
		int j = i / (LANES * H), at = i % (LANES * H), c = (j0 + j) / LANES * LANES + at;
		bool in = j0 + j < size && c < all;
		ptx_copy_async<4>(to + (j * LANES + at % LANES) * (H + 4) + at / LANES,
		                  a.u + (in ? (a.from + j0 + j) * a.n + a.from + c : 0), in ? 4 : 0);
	}
	if constexpr (H > CHUNK / LANES) chunk_load<H - CHUNK / LANES>(a, to + chunk<H>::FLOATS, j0 + CHUNK);
}

/* What a lane knows of its row. */
typedef struct turn_row {
	int64_t r;
	float scale;
	double loss;
	bool in; /* there is such a row */
} turn_row;

template <int H>
static __device__ __forceinline__ void chunk_turns(const whit_columns &a, float *v, const float *u, const float *table,
                                                   turn_row *row, int j0) {
	int size = (int)(a.to - a.from), all = (int)((a.turn ? a.to : a.end) - a.from), own = (int)threadIdx.x % LANES;
	for (int j = j0; j < WHIT_MIN(j0 + CHUNK, all); j += LANES) {
		float handed = 0;
		int chosen = 0;
		for (int l = 0; l < WHIT_MIN(LANES, size - j); l++, u += LANES * (H + 4)) {
			float vj = __shfl_sync(0xffffffffu, v[0], l, LANES);
			int k = nearest(a, table + a.count, table[0], vj, row->scale);
			float q = row->scale * table[k] + 0.0f, err = (vj - q) / u[l * (H + 4)];
			row->loss = fma((double)err, (double)err, row->loss); /* an exact square */
			if (own == l) handed = -err, chosen = k;
			const float4 *mine = reinterpret_cast<const float4 *>(u + own * (H + 4));
			WHIT_UNROLL
			for (int m = 0; m < H / 4; m++) {
				float4 w = mine[m];
				float first = v[4 * m] + -err * w.x;
				if (m > 0 || own > l) v[4 * m] = first;
				v[4 * m + 1] += -err * w.y;
				v[4 * m + 2] += -err * w.z;
				v[4 * m + 3] += -err * w.w;
			}
		}
		int64_t at = row->r * a.n + a.from + j + own;
		if (row->in && j + own < all) (a.turn ? a.turn[row->r * size + j + own] : a.v[at]) = v[0];
		if (row->in && j + own < size && !a.turn) a.err[at] = handed, a.level[at] = (uint8_t)chosen;
		WHIT_UNROLL
		for (int m = 0; m + 1 < H; m++) v[m] = v[m + 1];
	}
	if constexpr (H > CHUNK / LANES) chunk_turns<H - CHUNK / LANES>(a, v, u, table, row, j0 + CHUNK);
}

/* Columns of up to H a lane. */
template <int H> __global__ void __launch_bounds__(THREADS) columns_block_kernel(const whit_columns a) {
	WHIT_SHARED_DYNAMIC(float, u);
	float *table = u + chunk<H>::ALL, v[H];
	int all = (int)((a.turn ? a.to : a.end) - a.from), own = (int)threadIdx.x % LANES;
	int64_t r = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES;
	turn_row row = {WHIT_MIN(r, a.rows - 1), 0, 0, r < a.rows};
	chunk_load<H>(a, u, 0);
	ptx_copy_commit();
	row.scale = a.scale[row.r];
	WHIT_UNROLL
	for (int i = 0; i < H; i++) {
		int c = LANES * i + own;
		v[i] = c < all ? a.v[row.r * a.n + a.from + c] : 0.0f;
	}
	for (int i = (int)threadIdx.x; i < 2 * a.count; i += THREADS) table[i] = a.table[i];
	ptx_copy_wait<0>();
	__syncthreads();
	chunk_turns<H>(a, v, u, table, &row, 0);
	if (own == 0 && row.in) a.loss[r] = a.turn ? row.loss : a.loss[r] + row.loss;
}

template <int H> static void columns_block(whit_dev *d, const whit_columns *a) {
	size_t bytes = (size_t)(chunk<H>::ALL + 2 * a->count) * sizeof(float);
	WHIT_LAUNCH((columns_block_kernel<H>), whit_blocks(a->rows * LANES, THREADS), THREADS, bytes, d, *a);
}

extern "C" void whit_columns_cuda(whit_dev *d, const whit_columns *a) {
	if (!a->rows || a->from >= a->to) return;
	if (a->end - a->from > WHIT_COLUMNS_MOST || a->count > 256) {
		whit_dev_fail(d, WHIT_EINTERNAL, "columns: are %lld with %d levels, need at most %d with 256",
		              (long long)(a->end - a->from), a->count, WHIT_COLUMNS_MOST);
		return;
	}
	int64_t all = (a->turn ? a->to : a->end) - a->from;
	if (d->plain || a->pass || all > LANES * LANE_MOST)
		WHIT_LAUNCH(columns_kernel, whit_blocks(a->rows, WARPS), THREADS, 0, d, *a);
	else if (all > 96)
		columns_block<32>(d, a);
	else if (all > 64)
		columns_block<24>(d, a);
	else if (all > 32)
		columns_block<16>(d, a);
	else
		columns_block<8>(d, a);
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
