/* conv: the fast twins, vectors over a block of channels. */
#include "host/op_vec.h"
#include "host/ops.h"

enum { BLOCK = 256, TOKENS = 64 }; /* channels and tokens of an item */

typedef struct conv_job {
	float *y, *dx, *dw;
	const float *dy, *x, *past;
	const float *w; /* (taps, channels): turned */
	int64_t T, channels, taps;
	float *room; /* of the gradient: (T, BLOCK) for each worker */
	const whit_vec *v;
} conv_job;

/* Row t of x, t < 0 of what came before; NULL: zeros. */
static const float *row_of(const conv_job *j, int64_t t) {
	if (t >= 0) return j->x + t * j->channels;
	return j->past ? j->past + (t + j->taps - 1) * j->channels : NULL;
}

/* sum = the n sums of token t from channel c on, s their sigmoids. */
static void conv_sums(const conv_job *j, float *sum, float *s, int64_t t, int64_t c, int64_t n) {
	memset(sum, 0, (size_t)n * sizeof *sum);
	for (int64_t k = 0; k < j->taps; k++) {
		const float *x = row_of(j, t - j->taps + 1 + k), *w = j->w + k * j->channels + c;
		for (int64_t i = 0; x && i < n; i++) sum[i] += w[i] * x[c + i];
	}
	j->v->sigmoid(s, sum, n);
}

static void conv_item(void *ctx, int64_t item, int worker) {
	const conv_job *j = ctx;
	(void)worker;
	int64_t blocks = (j->channels + BLOCK - 1) / BLOCK, c = item % blocks * BLOCK,
	        n = WHIT_MIN(BLOCK, j->channels - c);
	int64_t from = item / blocks * TOKENS, to = WHIT_MIN(from + TOKENS, j->T);
	float sum[BLOCK], s[BLOCK];
	for (int64_t t = from; t < to; t++) {
		float *y = j->y + t * j->channels + c;
		conv_sums(j, sum, s, t, c, n);
		for (int64_t i = 0; i < n; i++) y[i] = sum[i] * s[i];
	}
}

/* w (channels, taps), turned so that a vector has one tap of many channels; caller frees. */
static float *turned(const float *w, int64_t channels, int64_t taps) {
	float *r = whit_alloc((size_t)(channels * taps + 1) * sizeof *r);
	for (int64_t c = 0; c < channels; c++)
		for (int64_t k = 0; k < taps; k++) r[k * channels + c] = w[c * taps + k];
	return r;
}

void whit_conv_fast_cpu(float *y, const float *x, const float *w, float *past, int64_t T, int64_t channels,
                        int64_t taps) {
	float *wt = turned(w, channels, taps);
	conv_job j = {.y = y, .x = x, .past = past, .w = wt, .T = T, .channels = channels, .taps = taps};
	j.v = whit_vec_get();
	whit_items((T + TOKENS - 1) / TOKENS * ((channels + BLOCK - 1) / BLOCK),
	           WHIT_MIN(TOKENS, T) * BLOCK * 2 * (taps + 2), conv_item, &j);
	/* oldest first: what is read stands behind what is written */
	for (int64_t k = 0; past && T && k < taps - 1; k++)
		memcpy(past + k * channels, row_of(&j, T - taps + 1 + k), (size_t)channels * sizeof *past);
	whit_free(wt);
}

/* All tokens of a block of channels: dsum of each first, then what dx and dw make of them. */
static void conv_back_item(void *ctx, int64_t item, int worker) {
	const conv_job *j = ctx;
	int64_t c = item * BLOCK, n = WHIT_MIN(BLOCK, j->channels - c), T = j->T, taps = j->taps;
	float *dsum = j->room + worker * T * BLOCK, sum[BLOCK], s[BLOCK], rest[BLOCK];
	for (int64_t t = 0; t < T; t++) {
		const float *dy = j->dy + t * j->channels + c;
		conv_sums(j, sum, s, t, c, n);
		for (int64_t i = 0; i < n; i++) rest[i] = -sum[i];
		j->v->sigmoid(rest, rest, n); /* 1 - s of its own, as the plain twin has it */
		for (int64_t i = 0; i < n; i++) dsum[t * BLOCK + i] = dy[i] * s[i] * (1 + sum[i] * rest[i]);
	}
	for (int64_t t = 0; j->dx && t < T; t++) {
		float *dx = j->dx + t * j->channels + c;
		memset(sum, 0, sizeof sum);
		for (int64_t k = 0; k < taps && t + k < T; k++) {
			const float *w = j->w + (taps - 1 - k) * j->channels + c, *d = dsum + (t + k) * BLOCK;
			for (int64_t i = 0; i < n; i++) sum[i] += w[i] * d[i];
		}
		for (int64_t i = 0; i < n; i++) dx[i] += sum[i];
	}
	for (int64_t k = 0; j->dw && k < taps; k++) {
		double total[BLOCK] = {0}; /* a sum over all tokens */
		for (int64_t t = taps - 1 - k; t < T; t++) {
			const float *x = row_of(j, t - taps + 1 + k) + c, *d = dsum + t * BLOCK;
			for (int64_t i = 0; i < n; i++) total[i] += (double)d[i] * x[i];
		}
		for (int64_t i = 0; i < n; i++) j->dw[(c + i) * taps + k] += (float)total[i];
	}
}

void whit_conv_back_fast_cpu(float *dx, float *dw, const float *dy, const float *x, const float *w, int64_t T,
                             int64_t channels, int64_t taps, whit_arena *scratch) {
	float *wt = turned(w, channels, taps);
	conv_job j = {.dx = dx, .dw = dw, .dy = dy, .x = x, .w = wt, .T = T, .channels = channels, .taps = taps};
	j.v = whit_vec_get();
	j.room = whit_take(scratch, T * BLOCK * whit_threads());
	whit_items((channels + BLOCK - 1) / BLOCK, T * BLOCK * 4 * (taps + 3), conv_back_item, &j);
	whit_free(wt);
}
