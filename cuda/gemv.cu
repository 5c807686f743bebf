/* gemv: up to three matrices of plain floats times one input of few tokens, in one launch, with what stands in front
 * of it (norm, swiglu) and behind it (bias, residual). Bound by reading the weights, so all is arranged around that:
 *
 * - A block a multiprocessor. It owns an equal share of all rows, in order, and its warps cut the share's loads evenly,
 *   in the middle of a row if need be; sums of cut rows meet in shared memory, in order of columns. So 1024 rows keep
 *   as many bytes under way as 150000, and no last wave runs half empty.
 * - A lane has R x U = 8 loads of 16 bytes under way, each replaced as it is used, over the ends of rows: 48 KB a
 *   multiprocessor. An H100 needs about 30 (3.35 TB/s at 1.2 us under load, by 132); 512 threads would leave a thread
 *   64 registers where two blocks share a multiprocessor, and it spills.
 * - The first loads are queued before WHIT_AFTER: nothing that runs earlier writes weights. For one token, a block
 *   takes half of a multiprocessor's registers, so the next kernel's block does this while this one still streams,
 *   and the input is made under its cover.
 * - R rows share what is read of the input, which lies in shared memory as float. Shared memory moves 128 bytes a
 *   clock, an H100 14 of weights: 2 R T / R rows' worth, so R rises with T. */
#include "cuda/rotate.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 384, WARPS = THREADS / 32 };

struct way {
	const uint8_t *w;
	int64_t row_bytes, paired, rows;
	float *y;
	const float *bias, *add;
};
struct gemv_args {
	gemv_input in;
	const float *ready;       /* the input made already, where it is too long for shared memory; else NULL */
	int rows, first1, first2; /* of all matrices; those before the second, the third */
	way m0, m1, m2;
};

/* values a lane loads at once, and four of them as floats */
struct gemv_f32 {
	enum { values = 4 };
	static __device__ __forceinline__ void four(float w[4], const uint4 &v, int) {
		w[0] = __uint_as_float(v.x), w[1] = __uint_as_float(v.y);
		w[2] = __uint_as_float(v.z), w[3] = __uint_as_float(v.w);
	}
};
struct gemv_f16 {
	enum { values = 8 };
	static __device__ __forceinline__ void four(float w[4], const uint4 &v, int half) {
		unsigned a = half ? v.z : v.x, b = half ? v.w : v.y;
		w[0] = whit_dev_f16((uint16_t)a), w[1] = whit_dev_f16((uint16_t)(a >> 16));
		w[2] = whit_dev_f16((uint16_t)b), w[3] = whit_dev_f16((uint16_t)(b >> 16));
	}
};
struct gemv_bf16 {
	enum { values = 8 };
	static __device__ __forceinline__ void four(float w[4], const uint4 &v, int half) {
		unsigned a = half ? v.z : v.x, b = half ? v.w : v.y;
		w[0] = __uint_as_float(a << 16), w[1] = __uint_as_float(a & 0xffff0000u);
		w[2] = __uint_as_float(b << 16), w[3] = __uint_as_float(b & 0xffff0000u);
	}
};

/* Member f of the matrix that holds row q of all; selections, since an index would put the arguments into memory. */
#define PICK(a, q, f) ((q) < (a).first1 ? (a).m0.f : (q) < (a).first2 ? (a).m1.f : (a).m2.f)
static __device__ __forceinline__ int row_within(const gemv_args &a, int q) {
	return q < a.first1 ? q : q < a.first2 ? q - a.first1 : q - a.first2;
}

/* Where a lane's next 16 bytes lie in R rows from q on, `step` loads of a lane behind their beginning. Beyond the
 * share's end stands the row before it: what it gives is not used, and its bytes are on their way already. */
template <int R>
static __device__ __forceinline__ void point(const uint4 *(&p)[R], const gemv_args &a, int q, int end, int step) {
	WHIT_UNROLL
	for (int j = 0; j < R; j++) {
		int row = q + j < end ? q + j : end - 1;
		whit_mat m;
		m.paired = PICK(a, row, paired);
		int64_t stored = whit_mat_row(&m, row_within(a, row));
		p[j] = (const uint4 *)(PICK(a, row, w) + stored * PICK(a, row, row_bytes)) + step;
	}
}

static __device__ __forceinline__ uint4 load(const uint4 *p, bool there) {
	return there ? ptx_load_stream(p) : make_uint4(0, 0, 0, 0);
}

static __device__ __forceinline__ void put(const gemv_args &a, int q, int t, float v) {
	int64_t r = row_within(a, q), at = t * PICK(a, q, rows) + r;
	const float *bias = PICK(a, q, bias), *add = PICK(a, q, add);
	if (bias) v += bias[r];
	if (add) v += add[at];
	PICK(a, q, y)[at] = v;
}

/* TT tokens or fewer; R rows at a time, U loads of each. `per` batches of R x U loads make R rows. */
template <class W, int TT, int R, int U, bool OWN>
__global__ void __launch_bounds__(THREADS, TT == 1 && OWN ? 2 : 1) gemv_kernel(const gemv_args a, int per) {
	constexpr int N = R * TT, STEP = 32 * W::values; /* columns of a warp's load */
	WHIT_SHARED_DYNAMIC(float, own);
	WHIT_SHARED(float, part, [WARPS][2][N]); /* sums of rows that a warp goes on with, and that it begins */
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	WHIT_SHARED(int, share, [WARPS]); /* batches of each warp */
	int b = (int)blockIdx.x, blocks = (int)gridDim.x, more = a.rows % blocks;
	int begin = a.rows / blocks * b + WHIT_MIN(b, more), end = begin + a.rows / blocks + (b < more);
	int all = (end - begin + R - 1) / R * per, from = all * warp / WARPS, left = all * (warp + 1) / WARPS - from;
	int c = from % per, q = begin + from / per * R; /* batch of the rows from q on */
	if (lane == 0) share[warp] = left;

	/* 1. the first loads */
	const uint4 *p[R] = {};
	uint4 v[U][R];
	int column = (c * U * 32 + lane) * W::values, limit = left ? a.in.K : 0;
	if (left) point(p, a, q, end, c * U * 32 + lane);
	WHIT_UNROLL
	for (int u = 0; u < U; u++) WHIT_UNROLL
	for (int j = 0; j < R; j++) v[u][j] = load(p[j] + u * 32, column + u * STEP < limit);

	/* 2. the input */
	int stride = per * U * STEP;
	if (OWN) gemv_fill_norm<W::values, 4>(own, a.in);
	WHIT_AFTER();
	if (OWN) gemv_fill<W::values, 4>(own, a.in, TT, stride);
	__syncthreads();
	const float *x = (OWN ? own : a.ready) + 4 * lane;

	/* 3. this warp's share */
	float sum[N] = {};
	bool whole = c == 0, open = false; /* the sums began with the rows; and ended before them */
	for (; left > 0; left--) {
		bool last = c + 1 == per;
		const float *xc = x + c * U * STEP;
		if (left == 1) {
			limit = 0;
		} else if (last) {
			column = lane * W::values;
			point(p, a, q + R, end, lane);
		} else {
			column += U * STEP;
			WHIT_UNROLL
			for (int j = 0; j < R; j++) p[j] += U * 32;
		}
		WHIT_UNROLL
		for (int u = 0; u < U; u++) {
			WHIT_UNROLL
			for (int half = 0; half < W::values / 4; half++) {
				float w[R][4];
				WHIT_UNROLL
				for (int j = 0; j < R; j++) W::four(w[j], v[u][j], half);
				WHIT_UNROLL
				for (int t = 0; t < TT; t++) {
					float4 f = *(const float4 *)(xc + t * stride + u * STEP + half * 128);
					WHIT_UNROLL
					for (int j = 0; j < R; j++) {
						float &s = sum[t * R + j];
						s = fmaf(w[j][0], f.x, s), s = fmaf(w[j][1], f.y, s);
						s = fmaf(w[j][2], f.z, s), s = fmaf(w[j][3], f.w, s);
					}
				}
			}
			WHIT_UNROLL
			for (int j = 0; j < R; j++) v[u][j] = load(p[j] + u * 32, column + u * STEP < limit);
		}
		if (last || left == 1) {
			float s = whit_warp_sums<N>(sum);
			int k = lane / (32 / N);
			if (lane % (32 / N) == 0) {
				if (!last || !whole)
					part[warp][whole][k] = s;
				else if (q + k % R < end && k / R < a.in.T)
					put(a, q + k % R, k / R, s);
			}
			WHIT_UNROLL
			for (int k = 0; k < N; k++) sum[k] = 0;
			open = !last && whole, whole = true;
		}
		c = last ? 0 : c + 1, q += last ? R : 0;
	}

	/* 4. rows that warps share: whoever began them adds what the next ones found, up to the rows' last batch */
	__syncthreads();
	if (!open || lane >= N) return;
	float s = part[warp][1][lane];
	for (int w = warp + 1, missing = per - c; missing > 0; missing -= share[w++])
		if (share[w]) s += part[w][0][lane];
	if (q + lane % R < end && lane / R < a.in.T) put(a, q + lane % R, lane / R, s);
}

/* ---- the host's part ---- */

/* One launch for all matrices of a, of blocks that make their input themselves; or none, where that is too long. */
template <class W, int TT, int R, int U> static bool launch_own(whit_dev *d, const gemv_args &a) {
	int step = U * 32 * W::values, per = (a.in.K + step - 1) / step;
	size_t bytes = (size_t)TT * per * step * sizeof(float), others = 2 * WARPS * R * TT * sizeof(float) + 256;
	unsigned grid = (unsigned)WHIT_MIN(d->sms, a.rows);
	if (bytes + others > (size_t)d->shared) return false;
	WHIT_LAUNCH_EARLY((gemv_kernel<W, TT, R, U, true>), grid, THREADS, bytes, d, a, per);
	return true;
}

/* Two launches, the first of which makes the input. R and U are small: ptxas wants the addresses and values of x in
 * registers. */
template <class W, int TT> static void launch_ready(whit_dev *d, gemv_args a) {
	constexpr int U = TT == 1 ? 4 : 2;
	int step = U * 32 * W::values, per = (a.in.K + step - 1) / step;
	float *ready = (float *)whit_dev_take(d, (size_t)TT * per * step * sizeof *ready);
	unsigned grid = (unsigned)WHIT_MIN(d->sms, a.rows);
	if (!ready) return;
	WHIT_LAUNCH_EARLY((gemv_input_kernel<W::values, 4>), 1, THREADS, 0, d, ready, a.in, TT, per * step);
	a.ready = ready;
	WHIT_LAUNCH_EARLY((gemv_kernel<W, TT, 2, U, false>), grid, THREADS, 0, d, a, per);
}

template <class W, int TT, int R, int U> static void launch(whit_dev *d, const gemv_args &a) {
	if (!launch_own<W, TT, R, U>(d, a)) launch_ready<W, TT>(d, a);
}

/* The same for tokens from t on. */
static void advance(way *m, int t) {
	if (m->y) m->y += t * m->rows;
	if (m->add) m->add += t * m->rows;
}

template <class W> static void launch_tokens(whit_dev *d, gemv_args a) {
	int T = a.in.T;
	if (T == 1) {
		launch<W, 1, 2, 4>(d, a);
	} else if (T == 2) {
		launch<W, 2, 2, 4>(d, a);
	} else if (T <= 4) {
		launch<W, 4, 4, 2>(d, a);
	} else if (!launch_own<W, 8, 4, 2>(d, a)) { /* in two parts: half the input may fit */
		a.in.T = 4;
		launch<W, 4, 4, 2>(d, a);
		a.in.T = T - 4;
		a.in.x += 4 * (int64_t)a.in.K;
		if (a.in.pre == WHIT_PRE_SWIGLU) a.in.x2 += 4 * (int64_t)a.in.K;
		advance(&a.m0, 4), advance(&a.m1, 4), advance(&a.m2, 4);
		launch_tokens<W>(d, a);
	}
}

static int float_bytes(const whit_mat *w) {
	const char *name = w->spec.fmt->name;
	return !strcmp(name, "f32") ? 4 : !strcmp(name, "f16") || !strcmp(name, "bf16") ? 2 : 0;
}

bool whit_gemv_streams(const whit_mat *w) {
	int bytes = float_bytes(w);
	return bytes && w->width * bytes % 16 == 0 && w->row_bytes[0] % 16 == 0 && (uintptr_t)w->plane[0] % 16 == 0 &&
	       w->width <= 1 << 20 && w->rows <= 1 << 24;
}

/* Kernels read 16 bytes of activations at once too; those that lie elsewhere are copied. K is a multiple of 4. */
static void align(whit_dev *d, const float **x, int64_t n) {
	float *copy = (uintptr_t)*x % 16 ? (float *)whit_dev_take(d, (size_t)n * sizeof *copy) : NULL;
	if (!copy) return;
	whit_dev_copy(d, copy, *x, (size_t)n * sizeof *copy);
	*x = copy;
}

/* Those of the matrices `which` (bits) that have the format of the first, in one launch; the bits of those done. */
static unsigned stream(whit_dev *d, const gemv_input *in, const whit_gemv *g, unsigned which) {
	gemv_args a = {};
	way *ways[] = {&a.m0, &a.m1, &a.m2};
	const char *name = NULL;
	unsigned done = 0;
	int n = 0, firsts[WHIT_GEMV_WAYS] = {};
	a.in = *in;
	for (int k = 0; k < g->n; k++) {
		const whit_mat *w = g->w[k];
		if (!(which >> k & 1) || (name && strcmp(name, w->spec.fmt->name))) continue;
		name = w->spec.fmt->name;
		*ways[n] = {w->plane[0], (int64_t)w->row_bytes[0], w->paired, w->rows, g->y[k], g->bias[k], g->add[k]};
		firsts[n++] = a.rows;
		a.rows += (int)w->rows;
		done |= 1u << k;
	}
	a.first1 = n > 1 ? firsts[1] : a.rows, a.first2 = n > 2 ? firsts[2] : a.rows;
	if (!strcmp(name, "f32"))
		launch_tokens<gemv_f32>(d, a);
	else if (!strcmp(name, "f16"))
		launch_tokens<gemv_f16>(d, a);
	else
		launch_tokens<gemv_bf16>(d, a);
	return done;
}

/* pre(x) as (T, K) in scratch, or x itself. */
static const float *prepared(whit_dev *d, const whit_gemv *g, int64_t T, int64_t K) {
	if (g->pre == WHIT_PRE_NONE) return g->x;
	float *y = (float *)whit_dev_take(d, (size_t)(T * K) * sizeof *y);
	if (y && g->pre == WHIT_PRE_NORM) whit_rmsnorm_cuda(d, y, g->x, g->norm, T, 1, K, g->eps, g->shift);
	if (y && g->pre == WHIT_PRE_SWIGLU) whit_swiglu_cuda(d, y, g->x, g->x2, T * K);
	return y;
}

static const float *rotated(whit_dev *d, const whit_rotation *r, const float *x, int64_t T, int64_t width) {
	float *y = r && x ? (float *)whit_dev_take(d, (size_t)(T * width) * sizeof *y) : NULL;
	if (y) whit_rotate_cuda(d, r, y, x, T);
	return r ? y : x;
}

/* What in tells of g, rotated for w; NULL after an error. *x: pre(x), once a rotation has needed it by itself. */
static const float *turned(whit_dev *d, const whit_gemv *g, const gemv_input *in, const whit_mat *w, const float **x) {
	if (!*x && whit_rotate_takes(d, w->rot, g->pre)) {
		float *y = (float *)whit_dev_take(d, (size_t)(in->T * w->width) * sizeof *y);
		if (y) whit_rotate_input(d, w->rot, y, in);
		return y;
	}
	if (!*x) *x = prepared(d, g, in->T, w->cols);
	return rotated(d, w->rot, *x, in->T, w->width);
}

/* A step at a time, by the plain kernels. */
static void plain(whit_dev *d, const whit_gemv *g, int64_t T) {
	const float *x = prepared(d, g, T, g->w[0]->cols);
	for (int k = 0; k < g->n; k++) {
		const whit_mat *w = g->w[k];
		const float *rx = rotated(d, w->rot, x, T, w->width);
		if (!rx) return;
		whit_linear_plain(d, g->y[k], rx, T, w, g->bias[k]);
		if (g->add[k]) whit_add_cuda(d, g->y[k], g->y[k], g->add[k], T * w->rows);
		gemv_input in = {rx, NULL, NULL, 0, 0, WHIT_PRE_NONE, (int)T, (int)w->width};
		if (g->low[k]) whit_low_add(d, g->y[k], &in, w->rows, g->low[k]);
	}
}

/* The matrices `which`, of one rotation, which x has gone through. */
static void multiply(whit_dev *d, const gemv_input *in, const whit_gemv *g, unsigned which) {
	unsigned fast = 0;
	for (int k = 0; k < g->n; k++)
		if (which >> k & 1 && whit_tier_of(d, g->w[k], in->T) == WHIT_TIER_STREAM) fast |= 1u << k;
	gemv_input at = *in;
	if (fast) {
		align(d, &at.x, (int64_t)at.T * at.K);
		if (at.pre == WHIT_PRE_SWIGLU) align(d, &at.x2, (int64_t)at.T * at.K);
		if (at.pre == WHIT_PRE_NORM) align(d, &at.norm, at.K);
	}
	for (unsigned left = fast; left;) left &= ~stream(d, &at, g, left);
	unsigned packed = 0;
	for (int k = 0; k < g->n; k++) {
		if (!(which >> k & 1) || fast >> k & 1) continue;
		if (whit_tier_of(d, g->w[k], in->T) == WHIT_TIER_PACKED)
			packed |= 1u << k;
		else
			whit_gemv_packed(d, in, g->w[k], g->y[k], g->bias[k], g->add[k]);
	}
	whit_gemm_packed(d, in, g, packed);
	for (int k = 0; k < g->n; k++)
		if (which >> k & 1 && !(packed >> k & 1) && g->low[k])
			whit_low_add(d, g->y[k], in, g->w[k]->rows, g->low[k]);
}

extern "C" void whit_gemv_cuda(whit_dev *d, const whit_gemv *g, int64_t T) {
	unsigned left = 0;
	const float *x = NULL; /* pre(x), once a rotation needs it by itself */
	for (int k = 0; k < g->n; k++) {
		if (g->w[k]->rows) left |= 1u << k;
		if (g->w[k]->cols == g->w[0]->cols) continue;
		whit_dev_fail(d, WHIT_EINTERNAL, "gemv: matrix %d has %lld columns, need %lld", k + 1,
		              (long long)g->w[k]->cols, (long long)g->w[0]->cols);
		return;
	}
	if (T > WHIT_GEMV_MAX || g->n > WHIT_GEMV_WAYS) {
		whit_dev_fail(d, WHIT_EINTERNAL, "gemv: is %lld tokens, %d matrices, need at most %d, %d", (long long)T,
		              g->n, WHIT_GEMV_MAX, WHIT_GEMV_WAYS);
		return;
	}
	if (T == 0 || !left) return;
	if (d->plain) {
		plain(d, g, T);
		return;
	}
	for (int k = 0; k < g->n; k++) {
		const whit_mat *w = g->w[k];
		gemv_input in = {g->x, g->x2, g->norm, g->eps, g->shift, g->pre, (int)T, (int)w->width};
		unsigned same = 0; /* those of this rotation */
		for (int j = k; j < g->n; j++)
			if (left >> j & 1 && g->w[j]->rot == w->rot) same |= 1u << j;
		if (!(left >> k & 1)) continue;
		left &= ~same;
		if (w->rot) {
			if (!(in.x = turned(d, g, &in, w, &x))) return;
			in.pre = WHIT_PRE_NONE;
		}
		multiply(d, &in, g, same);
	}
}
