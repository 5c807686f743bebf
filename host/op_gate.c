/* gate: a value times the sigmoid of another; split: heads that hold both. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

void whit_gate_cpu(float *y, const float *x, const float *gate, int64_t n) {
	for (int64_t i = 0; i < n; i++) y[i] = (float)(x[i] / (1 + exp(-(double)gate[i])));
}

void whit_gate_fast_cpu(float *y, const float *x, const float *gate, int64_t n) { whit_gate_cpu(y, x, gate, n); }

void whit_split_cpu(float *a, float *b, const float *x, int64_t T, int64_t heads, int64_t dim) {
	size_t bytes = (size_t)dim * sizeof *x;
	for (int64_t h = 0; h < T * heads; h++) {
		memcpy(a + h * dim, x + 2 * h * dim, bytes);
		memcpy(b + h * dim, x + (2 * h + 1) * dim, bytes);
	}
}
