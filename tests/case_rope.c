/* rope */
#include "host/ops.h"
#include "tests/case.h"
#include <math.h>

static const struct {
	int64_t T, heads, dim, rot;
} rows[] = {{1, 1, 2, 2},     {3, 2, 8, 4}, {5, 1, 64, 64},  {0, 2, 64, 64},
            {4, 3, 130, 128}, {2, 2, 7, 0}, {7, 1, 256, 64}, {512, 40, 128, 128}};
static const int64_t positions[] = {0, 1, 7, 8191, 40000, 262143, 1000000};

static void row(case_run *r, int i) {
	int64_t T = rows[i].T, heads = rows[i].heads, dim = rows[i].dim, rot = rows[i].rot, n = T * heads * dim;
	size_t bytes = (size_t)n * sizeof(float);
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "%lld x %lld x %lld, %lld rotated", (long long)T, (long long)heads, (long long)dim,
	           (long long)rot);
	float *x = case_normal(r, n), *want = case_host(r, bytes), *mag = case_host(r, bytes);
	int64_t *pos = case_host(r, (size_t)T * sizeof *pos);
	double *freq = case_host(r, (size_t)(rot / 2 + 1) * sizeof *freq), mscale = i % 2 ? 1.0 : 1.25;
	for (int64_t t = 0; t < T; t++) pos[t] = positions[t % WHIT_COUNT(positions)];
	for (int64_t k = 0; k < rot / 2; k++) freq[k] = pow(10000, -2.0 * (double)k / (double)rot);
	whit_rope_cpu(want, x, pos, T, heads, dim, rot, freq, mscale);
	for (int64_t k = 0; k < n; k++) { /* |a| + |b| of the pair, the copied part exact */
		int64_t at = k % dim, other = at < rot / 2 ? k + rot / 2 : k - rot / 2;
		mag[k] = at < rot ? (float)mscale * (fabsf(x[k]) + fabsf(x[other])) : 0;
	}
	/* cos and sin: the turn's rounding to float, pi / 2 * 2^-24, 2 ulp of sincospif (of sincosf on the CPU), mscale
	 * and its product; two products, a sum and the reference's rounding */
	double tol = (1.6 + 4 + 2 + 3) * 0x1p-24;
	float *y = case_out(r, n), *in_place = case_inout(r, x, n), *dx = case_in(r, x, bytes);
	int64_t *dpos = case_in(r, pos, (size_t)T * sizeof *pos);
	double *dfreq = case_in(r, freq, (size_t)(rot / 2) * sizeof *freq);
	if (r->dev) {
		whit_rope_cuda(r->dev, y, dx, dpos, T, heads, dim, rot, dfreq, mscale);
		whit_rope_cuda(r->dev, in_place, in_place, dpos, T, heads, dim, rot, dfreq, mscale);
	} else {
		whit_rope_fast_cpu(y, dx, dpos, T, heads, dim, rot, dfreq, mscale);
		whit_rope_fast_cpu(in_place, in_place, dpos, T, heads, dim, rot, dfreq, mscale);
	}
	case_near(r, y, want, mag, n, tol);
	case_near(r, in_place, want, mag, n, tol);
}

const case_set cases_rope = {"rope", WHIT_COUNT(rows), row, 0};
