/* gate and split, with their gradients */
#include <math.h>
#include "host/ops.h"
#include "tests/case.h"

static const int64_t sizes[] = {0, 1, 33, 256, 4097, 1 << 22};
static const struct {
	int64_t T, heads, dim;
} splits[] = {{0, 2, 8}, {1, 1, 1}, {3, 2, 5}, {7, 3, 128}, {512, 24, 256}};

static void gate(case_run *r, int64_t n) {
	static const float extremes[] = {0, -100, 100, -88.8f, 88.8f, -1e-30f, 1e4f, -1e4f};
	size_t bytes = (size_t)n * sizeof(float);
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "%lld", (long long)n);
	float *x = case_normal(r, n), *gate = case_normal(r, n), *dy = case_normal(r, n), *init = case_normal(r, n);
	float *want = case_host(r, bytes), *wx = case_host(r, bytes), *wg = case_host(r, bytes),
	      *mag = case_host(r, bytes);
	for (int64_t k = 0; k < n; k++) gate[k] *= 4;
	for (int64_t k = 0; k < WHIT_MIN(n - 1, WHIT_COUNT(extremes)); k++) gate[k + 1] = extremes[k];
	whit_gate_cpu(want, x, gate, n);
	memcpy(wx, init, bytes), memcpy(wg, init, bytes);
	whit_gate_back_cpu(wx, wg, dy, x, gate, n);
	float *y = case_out(r, n), *in_place = case_inout(r, x, n), *dx = case_inout(r, init, n),
	      *dgate = case_inout(r, init, n);
	float *ix = case_in(r, x, bytes), *ig = case_in(r, gate, bytes), *idy = case_in(r, dy, bytes);
	if (r->dev) {
		whit_gate_cuda(r->dev, y, ix, ig, n);
		whit_gate_cuda(r->dev, in_place, in_place, ig, n);
		whit_gate_back_cuda(r->dev, dx, NULL, idy, ix, ig, n);
		whit_gate_back_cuda(r->dev, NULL, dgate, idy, ix, ig, n);
	} else {
		whit_gate_fast_cpu(y, ix, ig, n);
		whit_gate_fast_cpu(in_place, in_place, ig, n);
		whit_gate_back_fast_cpu(dx, NULL, idy, ix, ig, n);
		whit_gate_back_fast_cpu(NULL, dgate, idy, ix, ig, n);
	}
	/* as swiglu: exp to 2 ulp, 1 + e, quotient, product, the reference; clamped or lost exp(gate) below 2^-125 */
	for (int64_t k = 0; k < n; k++) mag[k] = fabsf(want[k]) + fabsf(x[k]) * 0x1p-104f;
	case_near(r, y, want, mag, n, 8 * 0x1p-24);
	case_near(r, in_place, want, mag, n, 8 * 0x1p-24);
	/* the same twice, two products and the sum more */
	for (int64_t k = 0; k < n; k++)
		mag[k] = fabsf(init[k]) + fabsf(wx[k] - init[k]) + fabsf(dy[k]) * (1 + fabsf(x[k])) * 0x1p-104f;
	case_near(r, dx, wx, mag, n, 10 * 0x1p-24);
	for (int64_t k = 0; k < n; k++)
		mag[k] = fabsf(init[k]) + fabsf(wg[k] - init[k]) + fabsf(dy[k]) * (1 + fabsf(x[k])) * 0x1p-104f;
	case_near(r, dgate, wg, mag, n, 18 * 0x1p-24);
}

static void split(case_run *r, int64_t T, int64_t heads, int64_t dim) {
	int64_t n = T * heads * dim;
	size_t bytes = (size_t)n * sizeof(float);
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "split of %lld x %lld x %lld", (long long)T, (long long)heads, (long long)dim);
	float *x = case_normal(r, 2 * n), *da = case_normal(r, n), *db = case_normal(r, n);
	float *wa = case_host(r, bytes), *wb = case_host(r, bytes), *wx = case_host(r, 2 * bytes);
	whit_split_cpu(wa, wb, x, T, heads, dim);
	memcpy(wx, x, 2 * bytes);
	whit_split_back_cpu(wx, da, db, T, heads, dim);
	float *a = case_out(r, n), *b = case_out(r, n), *ix = case_in(r, x, 2 * bytes), *dx = case_inout(r, x, 2 * n);
	float *ia = case_in(r, da, bytes), *ib = case_in(r, db, bytes);
	if (r->dev) {
		whit_split_cuda(r->dev, a, b, ix, T, heads, dim);
		whit_split_back_cuda(r->dev, dx, ia, NULL, T, heads, dim);
		whit_split_back_cuda(r->dev, dx, NULL, ib, T, heads, dim);
	} else { /* no twin is faster than the plain one: halves alone against both at once */
		whit_split_cpu(a, b, ix, T, heads, dim);
		whit_split_back_cpu(dx, ia, NULL, T, heads, dim);
		whit_split_back_cpu(dx, NULL, ib, T, heads, dim);
	}
	case_same(r, a, wa, n);
	case_same(r, b, wb, n);
	case_same(r, dx, wx, 2 * n);
}

static void row(case_run *r, int i) {
	int j = i - (int)WHIT_COUNT(sizes);
	if (j < 0)
		gate(r, sizes[i]);
	else
		split(r, splits[j].T, splits[j].heads, splits[j].dim);
}

const case_set cases_gate = {"gate", WHIT_COUNT(sizes) + WHIT_COUNT(splits), row, 0};
