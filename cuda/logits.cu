/* logits: what evaluation and decoding make of rows of logits and of hidden states: sums over the vocabulary of one
 * model or two, the likeliest token, chosen rows, distances. No logit is rounded or kept. */
#include "cuda/dev.cuh"
#include <math.h>
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256, TOP = WHIT_LOGIT_TOP };

/* ---- reductions over a block, each in one fixed order ---- */

static __device__ __forceinline__ double block_sum(double v) {
	WHIT_SHARED(double, sums, [THREADS / 32]);
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	for (int m = 16; m > 0; m /= 2) v += __shfl_xor_sync(0xffffffffu, v, m);
	__syncthreads(); /* an earlier call's sums have been read */
	if (lane == 0) sums[warp] = v;
	__syncthreads();
	v = 0;
	for (int w = 0; w < THREADS / 32; w++) v += sums[w];
	return v;
}

/* A value and where it stands; the larger, of equals the one that stands first. No index: not there. */
struct entry {
	float v;
	int32_t i;
};
static __device__ __forceinline__ bool before(entry a, entry b) {
	return a.i >= 0 && (b.i < 0 || a.v > b.v || (a.v == b.v && a.i < b.i));
}
static __device__ __forceinline__ entry block_first(entry e) {
	WHIT_SHARED(float, values, [THREADS / 32]);
	WHIT_SHARED(int32_t, places, [THREADS / 32]);
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	for (int m = 16; m > 0; m /= 2) {
		entry o = {__shfl_xor_sync(0xffffffffu, e.v, m), __shfl_xor_sync(0xffffffffu, e.i, m)};
		if (before(o, e)) e = o;
	}
	__syncthreads();
	if (lane == 0) values[warp] = e.v, places[warp] = e.i;
	__syncthreads();
	e = {values[0], places[0]};
	for (int w = 1; w < THREADS / 32; w++) {
		entry o = {values[w], places[w]};
		if (before(o, e)) e = o;
	}
	return e;
}

/* The least index >= 0, or -1. */
static __device__ __forceinline__ int64_t block_least(int64_t i) {
	WHIT_SHARED(int64_t, places, [THREADS / 32]);
	uint64_t u = (uint64_t)i; /* -1 is the largest */
	for (int m = 16; m > 0; m /= 2) {
		uint64_t o = __shfl_xor_sync(0xffffffffu, u, m); /* once: WHIT_MIN would say it twice, in some lanes */
		u = WHIT_MIN(u, o);
	}
	__syncthreads();
	if (threadIdx.x % 32 == 0) places[threadIdx.x / 32] = (int64_t)u;
	__syncthreads();
	for (int w = 0; w < THREADS / 32; w++) u = WHIT_MIN(u, (uint64_t)places[w]);
	return (int64_t)u;
}

/* ---- rows of two models ---- */

/* The TOP largest of a row, and its first entry that is no number: each thread keeps its own sorted, then the heads of
 * all lists compete. Entries that are not there are -1, -2, ... */
static __device__ __forceinline__ void row_top(const float *x, int64_t n, int32_t top[TOP], float *most, int64_t *bad) {
	entry own[TOP];
	int64_t wrong = -1;
	WHIT_UNROLL
	for (int k = 0; k < TOP; k++) own[k] = {0, -1};
	for (int64_t i = threadIdx.x; i < n; i += THREADS) {
		entry e = {x[i], (int32_t)i};
		if (wrong < 0 && !isfinite(e.v)) wrong = i;
		WHIT_UNROLL
		for (int k = 0; k < TOP; k++) /* what it passes moves down */
			if (before(e, own[k])) {
				entry o = own[k];
				own[k] = e, e = o;
			}
	}
	*bad = block_least(wrong);
	for (int k = 0; k < TOP; k++) {
		entry e = block_first(own[0]);
		if (k == 0) *most = e.v;
		top[k] = e.i < 0 ? -1 - k : e.i;
		if (e.i >= 0 && own[0].i == e.i) {
			WHIT_UNROLL
			for (int j = 0; j + 1 < TOP; j++) own[j] = own[j + 1];
			own[TOP - 1].i = -1;
		}
	}
}

static __device__ __forceinline__ double row_ln(const float *x, int64_t n, double most) {
	double s = 0;
	for (int64_t i = threadIdx.x; i < n; i += THREADS) s += exp((double)x[i] - most);
	return log(block_sum(s));
}

/* Kernel 2: a block a row. Three passes: the largest, the sums of exponentials, the sums of both: a row of one model
 * stays in L2 between them. exp is in double, as the CPU's: divergences of 1e-12 are measured; where doubles are slow
 * (1/64 of float on cards for games), 2 * 2048 rows of 248320 take about 0.1 s. */
__global__ void __launch_bounds__(THREADS)
        logits_kernel(whit_logit_sums *out, const float *p, const float *q, int64_t vocab, const int32_t *target) {
	whit_logit_sums r = {};
	float most = 0;
	p += blockIdx.x * vocab;
	row_top(p, vocab, r.top_p, &most, &r.bad_p);
	r.max_p = most;
	r.ln_p = row_ln(p, vocab, r.max_p);
	r.p_target = p[target[blockIdx.x]];
	r.bad_q = -1;
	if (q) {
		q += blockIdx.x * vocab;
		row_top(q, vocab, r.top_q, &most, &r.bad_q);
		r.max_q = most;
		r.ln_q = row_ln(q, vocab, r.max_q);
		r.q_target = q[target[blockIdx.x]];
		double kld = 0, rev = 0, llama = 0, pq = 0, pp = 0, qq = 0;
		for (int64_t i = threadIdx.x; i < vocab; i += THREADS) {
			double a = p[i], b = q[i], lp = a - r.max_p - r.ln_p, lq = b - r.max_q - r.ln_q, d = lp - lq;
			double f = exp(lp) * d;
			kld += f;
			rev -= exp(lq) * d;
			if (lp > -16) llama += f;
			pq += a * b, pp += a * a, qq += b * b;
		}
		r.kld = block_sum(kld), r.rev = block_sum(rev), r.llama = block_sum(llama);
		r.pq = block_sum(pq), r.pp = block_sum(pp), r.qq = block_sum(qq);
	}
	if (threadIdx.x == 0) out[blockIdx.x] = r;
}

/* Kernel 1, the plain one: a thread a row, the CPU's loops. */
static __device__ void plain_top(const float *x, int64_t n, int32_t top[TOP], double *most, double *ln, int64_t *bad) {
	*bad = -1;
	for (int64_t i = 0; i < n && *bad < 0; i++)
		if (!isfinite(x[i])) *bad = i;
	entry last = {0, -1}, best;
	for (int k = 0; k < TOP; k++, last = best) {
		best = {0, -1};
		for (int64_t i = 0; i < n; i++) {
			entry e = {x[i], (int32_t)i};
			if ((k == 0 || before(last, e)) && before(e, best)) best = e;
		}
		if (k == 0) *most = best.v;
		top[k] = best.i < 0 ? -1 - k : best.i;
		if (best.i < 0) {
			for (k++; k < TOP; k++) top[k] = -1 - k;
			break;
		}
	}
	double s = 0;
	for (int64_t i = 0; i < n; i++) s += exp((double)x[i] - *most);
	*ln = log(s);
}

__global__ void logits_plain_kernel(whit_logit_sums *out, const float *p, const float *q, int64_t rows, int64_t vocab,
                                    const int32_t *target) {
	int64_t t = (int64_t)blockIdx.x * 32 + threadIdx.x;
	if (t >= rows) return;
	whit_logit_sums &r = out[t];
	r = {};
	p += t * vocab;
	plain_top(p, vocab, r.top_p, &r.max_p, &r.ln_p, &r.bad_p);
	r.p_target = p[target[t]];
	r.bad_q = -1;
	if (!q) return;
	q += t * vocab;
	plain_top(q, vocab, r.top_q, &r.max_q, &r.ln_q, &r.bad_q);
	r.q_target = q[target[t]];
	for (int64_t i = 0; i < vocab; i++) {
		double a = p[i], b = q[i], lp = a - r.max_p - r.ln_p, lq = b - r.max_q - r.ln_q, d = lp - lq;
		r.kld += exp(lp) * d;
		r.rev -= exp(lq) * d;
		if (lp > -16) r.llama += exp(lp) * d;
		r.pq += a * b, r.pp += a * a, r.qq += b * b;
	}
}

extern "C" void whit_logits_measure_cuda(whit_dev *d, whit_logit_sums *out, const float *p, const float *q,
                                         int64_t rows, int64_t vocab, const int32_t *target) {
	if (rows == 0) return;
	if (d->plain)
		WHIT_LAUNCH(logits_plain_kernel, whit_blocks(rows, 32), 32, 0, d, out, p, q, rows, vocab, target);
	else
		WHIT_LAUNCH(logits_kernel, (unsigned)rows, THREADS, 0, d, out, p, q, vocab, target);
}

/* ---- the likeliest token ---- */

enum { SLICE = 4096, SLICES = 64 }; /* logits of a block at least; blocks of a row at most */

/* part (rows, slices): the first of each slice. An entry that is no number wins over none and loses to all others; its
 * place is kept apart. */
__global__ void __launch_bounds__(THREADS)
        argmax_kernel(float *value, int32_t *place, int64_t *bad, const float *x, int64_t vocab, int64_t slice) {
	WHIT_AFTER();
	int64_t from = blockIdx.y * slice, to = WHIT_MIN(from + slice, vocab), wrong = -1;
	entry best = {0, -1};
	x += blockIdx.x * vocab;
	for (int64_t i = from + threadIdx.x; i < to; i += THREADS) {
		entry e = {x[i], (int32_t)i};
		if (wrong < 0 && !isfinite(e.v)) wrong = i;
		if (before(e, best)) best = e;
	}
	best = block_first(best);
	wrong = block_least(wrong);
	if (threadIdx.x) return;
	int64_t at = (int64_t)blockIdx.x * gridDim.y + blockIdx.y;
	value[at] = best.v, place[at] = best.i, bad[at] = wrong;
}

/* A warp a row. */
__global__ void argmax_join_kernel(int32_t *out, int64_t *first, const float *value, const int32_t *place,
                                   const int64_t *bad, int slices) {
	WHIT_AFTER();
	int64_t at = (int64_t)blockIdx.x * slices;
	if (threadIdx.x) return;
	entry best = {0, -1};
	int64_t wrong = -1;
	for (int s = 0; s < slices; s++) {
		entry e = {value[at + s], place[at + s]};
		if (before(e, best)) best = e;
		if (wrong < 0) wrong = bad[at + s];
	}
	out[blockIdx.x] = best.i < 0 ? 0 : best.i;
	first[blockIdx.x] = wrong;
}

__global__ void argmax_plain_kernel(int32_t *out, int64_t *first, const float *x, int64_t vocab) {
	if (threadIdx.x) return;
	entry best = {0, -1};
	int64_t wrong = -1;
	x += blockIdx.x * vocab;
	for (int64_t i = 0; i < vocab; i++) {
		entry e = {x[i], (int32_t)i};
		if (wrong < 0 && !isfinite(e.v)) wrong = i;
		if (before(e, best)) best = e;
	}
	out[blockIdx.x] = best.i < 0 ? 0 : best.i;
	first[blockIdx.x] = wrong;
}

extern "C" void whit_argmax_cuda(whit_dev *d, int32_t *out, int64_t *bad, const float *x, int64_t rows, int64_t vocab) {
	if (rows == 0) return;
	if (d->plain) {
		WHIT_LAUNCH(argmax_plain_kernel, (unsigned)rows, 32, 0, d, out, bad, x, vocab);
		return;
	}
	int64_t slices = WHIT_MAX(1, WHIT_MIN((int64_t)SLICES, (vocab + SLICE - 1) / SLICE)),
	        slice = (vocab + slices - 1) / slices;
	size_t n = (size_t)(rows * slices);
	float *value = (float *)whit_dev_take(d, n * sizeof *value);
	int32_t *place = (int32_t *)whit_dev_take(d, n * sizeof *place);
	int64_t *wrong = (int64_t *)whit_dev_take(d, n * sizeof *wrong);
	WHIT_LAUNCH_EARLY(argmax_kernel, dim3((unsigned)rows, (unsigned)slices), THREADS, 0, d, value, place, wrong, x,
	                  vocab, slice);
	WHIT_LAUNCH_EARLY(argmax_join_kernel, (unsigned)rows, 32, 0, d, out, bad, value, place, wrong, (int)slices);
}

/* ---- rows ---- */

__global__ void gather_kernel(float *y, const float *x, const int64_t *row, int64_t width) {
	int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x;
	if (i < width) y[blockIdx.x * width + i] = x[row[blockIdx.x] * width + i];
}

extern "C" void whit_rows_gather_cuda(whit_dev *d, float *y, const float *x, const int64_t *row, int64_t n,
                                      int64_t width) {
	if (n * width == 0) return;
	dim3 grid((unsigned)n, whit_blocks(width, THREADS));
	WHIT_LAUNCH(gather_kernel, grid, THREADS, 0, d, y, x, row, width);
}

__global__ void __launch_bounds__(THREADS) compare_kernel(double *part, const float *p, const float *q, int64_t width) {
	double diff2 = 0, p2 = 0, q2 = 0, pq = 0;
	p += blockIdx.x * width, q += blockIdx.x * width;
	for (int64_t i = threadIdx.x; i < width; i += THREADS) {
		double a = p[i], b = q[i], e = a - b;
		diff2 += e * e, p2 += a * a, q2 += b * b, pq += a * b;
	}
	diff2 = block_sum(diff2), p2 = block_sum(p2), q2 = block_sum(q2), pq = block_sum(pq);
	if (threadIdx.x) return;
	part += 4 * (int64_t)blockIdx.x;
	part[0] = diff2, part[1] = p2, part[2] = q2, part[3] = pq;
}

/* One block: a thread adds every THREADS'th row, in order. */
__global__ void __launch_bounds__(THREADS) compare_join_kernel(double *sum, const double *part, int64_t rows) {
	for (int k = 0; k < 4; k++) {
		double s = 0;
		for (int64_t r = threadIdx.x; r < rows; r += THREADS) s += part[4 * r + k];
		s = block_sum(s);
		if (threadIdx.x == 0) sum[k] = s;
	}
}

extern "C" void whit_rows_compare_cuda(whit_dev *d, double *sum, const float *p, const float *q, int64_t rows,
                                       int64_t width) {
	double *part = (double *)whit_dev_take(d, (size_t)WHIT_MAX(rows, 1) * 4 * sizeof *part);
	if (rows) WHIT_LAUNCH(compare_kernel, (unsigned)rows, THREADS, 0, d, part, p, q, width);
	WHIT_LAUNCH(compare_join_kernel, 1, THREADS, 0, d, sum, part, rows);
}
