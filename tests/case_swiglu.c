/* swiglu */
#include "host/ops.h"
#include "tests/case.h"
#include <math.h>

static const int64_t sizes[] = {0, 1, 33, 256, 4097, 1 << 22};

static void row(case_run *r, int i) {
	static const float extremes[] = {0, -100, 100, -88.8f, 88.8f, -1e-30f, 1e4f, -1e4f};
	int64_t n = sizes[i];
	size_t bytes = (size_t)n * sizeof(float);
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "%lld", (long long)n);
	float *gate = case_normal(r, n), *up = case_normal(r, n), *want = case_host(r, bytes),
	      *mag = case_host(r, bytes);
	for (int64_t k = 0; k < n; k++) gate[k] *= 4;
	for (int64_t k = 0; k < WHIT_MIN(n - 1, WHIT_COUNT(extremes)); k++) gate[k + 1] = extremes[k];
	whit_swiglu_cpu(want, gate, up, n);
	/* exp to 2 ulp, 1 + e, division, product, the reference; where exp(-gate) leaves the floats, 0 or the clamped
	 * exp stand for an exp(gate) below 2^-125, 2^-104 of this tolerance */
	for (int64_t k = 0; k < n; k++) mag[k] = fabsf(want[k]) + fabsf(gate[k] * up[k]) * 0x1p-104f;
	float *y = case_out(r, n), *dg = case_in(r, gate, bytes), *du = case_in(r, up, bytes);
	if (r->dev)
		whit_swiglu_cuda(r->dev, y, dg, du, n);
	else
		whit_swiglu_fast_cpu(y, dg, du, n);
	case_near(r, y, want, mag, n, 8 * 0x1p-24);
}

const case_set cases_swiglu = {"swiglu", WHIT_COUNT(sizes), row, 0};
