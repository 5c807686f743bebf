/* gate: the fast twins. */
#include "host/op_vec.h"
#include "host/ops.h"

enum { BLOCK = 1024 };

typedef struct gate_job {
	float *y, *dx, *dgate;
	const float *dy, *x, *gate;
	int64_t n;
	const whit_vec *v;
} gate_job;

static void gate_item(void *ctx, int64_t i, int worker) {
	const gate_job *j = ctx;
	(void)worker;
	int64_t at = i * BLOCK, n = WHIT_MIN(BLOCK, j->n - at);
	float s[BLOCK];
	j->v->sigmoid(s, j->gate + at, n);
	for (int64_t k = 0; k < n; k++) j->y[at + k] = j->x[at + k] * s[k];
}

void whit_gate_fast_cpu(float *y, const float *x, const float *gate, int64_t n) {
	gate_job j = {.y = y, .x = x, .gate = gate, .n = n, .v = whit_vec_get()};
	whit_items((n + BLOCK - 1) / BLOCK, BLOCK * 4, gate_item, &j);
}

static void gate_back_item(void *ctx, int64_t i, int worker) {
	const gate_job *j = ctx;
	(void)worker;
	int64_t at = i * BLOCK, n = WHIT_MIN(BLOCK, j->n - at);
	float s[BLOCK], rest[BLOCK];
	j->v->sigmoid(s, j->gate + at, n);
	for (int64_t k = 0; j->dx && k < n; k++) j->dx[at + k] += j->dy[at + k] * s[k];
	if (!j->dgate) return;
	for (int64_t k = 0; k < n; k++) rest[k] = -j->gate[at + k];
	j->v->sigmoid(rest, rest, n); /* 1 - s of its own: next to 1 the difference would be lost */
	for (int64_t k = 0; k < n; k++) j->dgate[at + k] += j->dy[at + k] * j->x[at + k] * (s[k] * rest[k]);
}

void whit_gate_back_fast_cpu(float *dx, float *dgate, const float *dy, const float *x, const float *gate, int64_t n) {
	gate_job j = {.dx = dx, .dgate = dgate, .dy = dy, .x = x, .gate = gate, .n = n, .v = whit_vec_get()};
	whit_items((n + BLOCK - 1) / BLOCK, BLOCK * 8, gate_back_item, &j);
}
