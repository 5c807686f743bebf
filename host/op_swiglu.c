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
