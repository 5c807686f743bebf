/* gate: a value times the sigmoid of another; split: heads that hold both. Plain; op_gate_fast.c has the fast ones. */
#include <math.h>
#include "host/ops.h"

void whit_gate_cpu(float *y, const float *x, const float *gate, int64_t n) {
	for (int64_t i = 0; i < n; i++) y[i] = (float)(x[i] / (1 + exp(-(double)gate[i])));
}

void whit_split_cpu(float *a, float *b, const float *x, int64_t T, int64_t heads, int64_t dim) {
	size_t bytes = (size_t)dim * sizeof *x;
	for (int64_t h = 0; h < T * heads; h++) {
		memcpy(a + h * dim, x + 2 * h * dim, bytes);
		memcpy(b + h * dim, x + (2 * h + 1) * dim, bytes);
	}
}

void whit_gate_back_cpu(float *dx, float *dgate, const float *dy, const float *x, const float *gate, int64_t n) {
	for (int64_t i = 0; i < n; i++) {
		/* 1 - s of its own: next to 1 the difference would be lost */
		double s = 1 / (1 + exp(-(double)gate[i])), rest = 1 / (1 + exp((double)gate[i]));
		if (dx) dx[i] += (float)(dy[i] * s);
		if (dgate) dgate[i] += (float)((double)dy[i] * x[i] * s * rest);
	}
}

void whit_split_back_cpu(float *dx, const float *da, const float *db, int64_t T, int64_t heads, int64_t dim) {
	for (int64_t i = 0; dx && i < T * heads * dim; i++) {
		int64_t at = i / dim * 2 * dim + i % dim;
		if (da) dx[at] += da[i];
		if (db) dx[at + dim] += db[i];
	}
}
