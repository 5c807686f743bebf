/* swiglu: the gated activation of the feed-forward part (Shazeer 2020). */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

void whit_swiglu_cpu(float *y, const float *gate, const float *up, int64_t n) {
	for (int64_t i = 0; i < n; i++) y[i] = (float)((double)gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

enum { BLOCK = 4096 };

typedef struct swiglu_job {
	float *y;
	const float *gate, *up;
	int64_t n;
	const whit_vec *v;
} swiglu_job;

static void swiglu_item(void *ctx, int64_t i, int worker) {
	const swiglu_job *j = ctx;
	(void)worker;
	int64_t at = i * BLOCK;
	j->v->swiglu(j->y + at, j->gate + at, j->up + at, WHIT_MIN(BLOCK, j->n - at));
}

void whit_swiglu_fast_cpu(float *y, const float *gate, const float *up, int64_t n) {
	swiglu_job j = {y, gate, up, n, whit_vec_get()};
	whit_items((n + BLOCK - 1) / BLOCK, BLOCK * 4, swiglu_item, &j);
}

/* silu'(g) = s (1 + g (1 - s)), s = sigmoid(g). */
void whit_swiglu_back_cpu(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n) {
	for (int64_t i = 0; i < n; i++) {
		double g = gate[i], s = 1 / (1 + exp(-g));
		if (dgate) dgate[i] += (float)(dy[i] * (double)up[i] * s * (1 + g * (1 - s)));
		if (dup) dup[i] += (float)(dy[i] * g * s);
	}
}

typedef struct swiglu_back_job {
	float *dgate, *dup;
	const float *dy, *gate, *up;
	int64_t n;
	const whit_vec *v;
} swiglu_back_job;

enum { PIECE = 256 };

static void swiglu_back_item(void *ctx, int64_t item, int worker) {
	const swiglu_back_job *j = ctx;
	float silu[PIECE], one[PIECE];
	(void)worker;
	for (int i = 0; i < PIECE; i++) one[i] = 1;
	for (int64_t at = item * BLOCK; at < WHIT_MIN(j->n, (item + 1) * BLOCK); at += PIECE) {
		int64_t n = WHIT_MIN(PIECE, j->n - at);
		const float *g = j->gate + at, *dy = j->dy + at;
		j->v->swiglu(silu, g, one, n);
		for (int64_t i = 0; i < n && j->dup; i++) j->dup[at + i] += dy[i] * silu[i];
		for (int64_t i = 0; i < n && j->dgate; i++) {
			float s = g[i] == 0 ? 0.5f : silu[i] / g[i];
			j->dgate[at + i] += dy[i] * j->up[at + i] * (s + silu[i] * (1 - s));
		}
	}
}

void whit_swiglu_back_fast_cpu(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                               int64_t n) {
	swiglu_back_job j = {dgate, dup, dy, gate, up, n, whit_vec_get()};
	whit_items((n + BLOCK - 1) / BLOCK, BLOCK * 8, swiglu_back_item, &j);
}
