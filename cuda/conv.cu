/* conv: causal depthwise convolution over time, then silu, over a batch of sequences. Sums in float, in one order. */
#include "cuda/spans.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 128, PART = 64 }; /* tokens of a partial sum of dw */

/* One sequence, from its first row on. */
struct conv_at {
	const float *x, *past; /* NULL: zeros */
	int64_t channels, taps;
};

static __device__ __forceinline__ float conv_input(const conv_at &a, int64_t t, int64_t c) {
	if (t >= 0) return a.x[t * a.channels + c];
	return a.past ? a.past[(t + a.taps - 1) * a.channels + c] : 0;
}

/* The sum of token t and channel c, before silu. */
static __device__ __forceinline__ float conv_sum(const conv_at &a, const float *w, int64_t t, int64_t c) {
	float sum = 0;
	for (int64_t k = 0; k < a.taps; k++) sum = fmaf(w[c * a.taps + k], conv_input(a, t - a.taps + 1 + k, c), sum);
	return sum;
}

/* What is left behind T tokens of channel c; oldest first: what is read stands behind what is written. */
static __device__ __forceinline__ void conv_keep(const conv_at &a, float *past, int64_t T, int64_t c) {
	for (int64_t k = 0; T && k < a.taps - 1; k++) past[k * a.channels + c] = conv_input(a, T - a.taps + 1 + k, c);
}

/* Kernel 1, the plain one, and for few tokens: a thread has a channel of a sequence, token after token. */
__global__ void conv_kernel(float *y, const float *x, const float *w, void *const *state, const int64_t *start,
                            int64_t channels, int64_t taps) {
	WHIT_AFTER();
	int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x, s = blockIdx.y, T = start[s + 1] - start[s];
	float *past = state ? static_cast<float *>(state[s]) : NULL;
	conv_at a = {x + start[s] * channels, past, channels, taps};
	if (c >= channels) return;
	y += start[s] * channels;
	for (int64_t t = 0; t < T; t++) {
		float sum = conv_sum(a, w, t, c);
		y[t * channels + c] = sum / (1 + expf(-sum));
	}
	if (past) conv_keep(a, past, T, c);
}

/* Kernel 2, for many: a thread has a channel of a token; conv_keep_kernel follows. */
__global__ void conv_rows_kernel(float *y, const float *x, const float *w, void *const *state, const int64_t *start,
                                 int n_seq, int64_t channels, int64_t taps) {
	int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x, t = blockIdx.x;
	int s = whit_dev_sequence(start, n_seq, t);
	conv_at a = {x + start[s] * channels, state ? static_cast<float *>(state[s]) : NULL, channels, taps};
	if (c >= channels) return;
	float sum = conv_sum(a, w, t - start[s], c);
	y[t * channels + c] = sum / (1 + expf(-sum));
}

__global__ void conv_keep_kernel(const float *x, void *const *state, const int64_t *start, int64_t channels,
                                 int64_t taps) {
	int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x, s = blockIdx.y;
	float *past = static_cast<float *>(state[s]);
	conv_at a = {x + start[s] * channels, past, channels, taps};
	if (c < channels) conv_keep(a, past, start[s + 1] - start[s], c);
}

/* ---- gradient ---- */

/* dsum (T, channels), the gradient by what silu is taken of. */
__global__ void conv_dsum_kernel(float *dsum, const float *dy, const float *x, const float *w, const int64_t *start,
                                 int n_seq, int64_t channels, int64_t taps) {
	int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x, t = blockIdx.x;
	int s = whit_dev_sequence(start, n_seq, t);
	conv_at a = {x + start[s] * channels, NULL, channels, taps};
	if (c >= channels) return;
	float sum = conv_sum(a, w, t - start[s], c), up = 1 / (1 + expf(-sum)), down = 1 / (1 + expf(sum));
	dsum[t * channels + c] = dy[t * channels + c] * up * (1 + sum * down);
}

__global__ void conv_dx_kernel(float *dx, const float *dsum, const float *w, const int64_t *start, int n_seq,
                               int64_t channels, int64_t taps) {
	int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x, t = blockIdx.x;
	int64_t end = start[whit_dev_sequence(start, n_seq, t) + 1];
	float sum = 0;
	if (c >= channels) return;
	for (int64_t k = 0; k < taps && t + k < end; k++)
		sum = fmaf(w[c * taps + taps - 1 - k], dsum[(t + k) * channels + c], sum);
	dx[t * channels + c] += sum;
}

/* part (parts, channels, taps): sums over PART tokens each; a thread has a channel. */
__global__ void conv_dw_kernel(float *part, const float *dsum, const float *x, const int64_t *start, int n_seq,
                               int64_t T, int64_t channels, int64_t taps) {
	int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x, from = (int64_t)blockIdx.x * PART,
	        to = WHIT_MIN(from + PART, T);
	if (c >= channels) return;
	for (int64_t k = 0; k < taps; k++) {
		int s = whit_dev_sequence(start, n_seq, from);
		float sum = 0;
		for (int64_t t = from; t < to; t++) {
			while (t >= start[s + 1]) s++;
			int64_t in = t - taps + 1 + k;
			if (in >= start[s]) sum = fmaf(dsum[t * channels + c], x[in * channels + c], sum);
		}
		part[(blockIdx.x * channels + c) * taps + k] = sum;
	}
}

__global__ void conv_dw_join_kernel(float *dw, const float *part, int64_t parts, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	double sum = 0;
	if (i >= n) return;
	for (int64_t p = 0; p < parts; p++) sum += part[p * n + i];
	dw[i] += (float)sum;
}

/* ---- choice ---- */

extern "C" {

void whit_conv_cuda(whit_dev *dev, float *y, const float *x, const float *w, void *const *state, const whit_spans *b,
                    int64_t channels, int64_t taps) {
	if (b->T * channels == 0) return;
	unsigned blocks = whit_blocks(channels, THREADS);
	if (dev->plain || b->T <= 8 * b->n_seq) {
		WHIT_LAUNCH_EARLY(conv_kernel, dim3(blocks, (unsigned)b->n_seq), THREADS, 0, dev, y, x, w, state,
		                  b->start, channels, taps);
		return;
	}
	WHIT_LAUNCH(conv_rows_kernel, dim3((unsigned)b->T, blocks), THREADS, 0, dev, y, x, w, state, b->start, b->n_seq,
	            channels, taps);
	if (state)
		WHIT_LAUNCH(conv_keep_kernel, dim3(blocks, (unsigned)b->n_seq), THREADS, 0, dev, x, state, b->start,
		            channels, taps);
}

void whit_conv_back_cuda(whit_dev *dev, float *dx, float *dw, const float *dy, const float *x, const float *w,
                         const whit_spans *b, int64_t channels, int64_t taps) {
	int64_t parts = (b->T + PART - 1) / PART;
	if (b->T * channels == 0) return;
	dim3 rows((unsigned)b->T, whit_blocks(channels, THREADS)), by_part((unsigned)parts, rows.y);
	float *dsum = (float *)whit_dev_take(dev, (size_t)(b->T * channels) * sizeof(float));
	float *part = dw ? (float *)whit_dev_take(dev, (size_t)(parts * channels * taps) * sizeof(float)) : NULL;
	WHIT_LAUNCH(conv_dsum_kernel, rows, THREADS, 0, dev, dsum, dy, x, w, b->start, b->n_seq, channels, taps);
	if (dx) WHIT_LAUNCH(conv_dx_kernel, rows, THREADS, 0, dev, dx, dsum, w, b->start, b->n_seq, channels, taps);
	if (!dw) return;
	WHIT_LAUNCH(conv_dw_kernel, by_part, THREADS, 0, dev, part, dsum, x, b->start, b->n_seq, b->T, channels, taps);
	WHIT_LAUNCH(conv_dw_join_kernel, whit_blocks(channels * taps, THREADS), THREADS, 0, dev, dw, part, parts,
	            channels * taps);
}
}
