/* encode: rows into the bytes and counts of the CPU's encoders, at its plain level. */
#include <math.h>
#include "formats/blocks.h"
#include "tests/case_mat.h"

static const char *const names[] = {"q8_0", "q4_0",   "q4_1",   "q5_0",  "q5_1",  "q2_k",  "q3_k", "q4_k", "q5_k",
                                    "q6_k", "iq4_nl", "iq4_xs", "mxfp4", "tq1_0", "tq2_0", "q1_0", "q2_0"};
/* rows beyond those asked for are there before and after, and stay */
enum { IMP_NONE, IMP_SOME, IMP_ZERO, IMPS };
static const struct {
	int64_t about, first, n, paired; /* width; rows first .. first + n - 1 */
	int imp;
} shapes[] = {{256, 0, 12, 0, IMP_NONE},   {768, 1, 6, 0, IMP_SOME}, {256, 2, 5, 8, IMP_ZERO},
              {512, 3, 9, 8, IMP_SOME},    {32, 0, 1, 0, IMP_NONE},  {256, 1, 0, 0, IMP_NONE},
              {4096, 0, 512, 64, IMP_SOME}};

/* Row i of w: every kind of row there is, one after another. */
static void fill(float *w, int64_t i, int64_t n) {
	static const float by[] = {1, 1e-3f, 3e7f, 1e30f, 1e-7f, 1e-30f, 1e-41f, 0x1p-149f};
	switch (i % 12) {
	case 8:
		memset(w, 0, (size_t)n * sizeof *w);
		break;
	case 9:
		for (int64_t k = 0; k < n; k++) w[k] = k / 32 % 2 ? .37f : -2.5f;
		break;
	case 10: /* some blocks of zeros, some outliers, -0 */
		for (int64_t k = 0; k < n; k++) w[k] = k / 64 % 2 ? -0.0f : k % 37 ? w[k] : 60 * w[k];
		break;
	case 11: /* far from 0 */
		for (int64_t k = 0; k < n; k++) w[k] = 10 + w[k] / 8;
		break;
	default:
		for (int64_t k = 0; k < n; k++) w[k] *= by[i % 12];
	}
}

static void row(case_run *r, int i) {
	const char *name = names[i % WHIT_COUNT(names)];
	int s = i / (int)WHIT_COUNT(names), imps = shapes[s].imp;
	if (case_skip_big(r, shapes[s].n > 100)) return;
	if (case_skip(r, !r->dev)) return; /* the CPU's levels are compared by test_blocks and test_kquant */
	int64_t width = case_mat_width(name, shapes[s].about), n = shapes[s].n, first = shapes[s].first;
	int64_t rows = shapes[s].paired ? WHIT_MAX(16, n) : first + n + 1, count[2] = {5, 7}, old = 3;
	case_label(r, "%s, %lld rows of %lld, importance %d", name, (long long)n, (long long)width, imps);
	whit_mat m = case_mat(r, name, rows, width, 0);
	m.paired = shapes[s].paired;
	size_t bytes = ((size_t)rows * m.row_bytes[0] + 3) / 4 * 4;
	uint8_t *planes = case_host(r, bytes);
	memset(planes, 0xa5, bytes);
	float *w = case_normal(r, n * width + 1), *imp = case_normal(r, width);
	for (int64_t k = 0; k < n; k++) fill(w + k * width, k, width);
	for (int64_t k = 0; k < width; k++) /* a stretch without any, some small */
		imp[k] = imps == IMP_ZERO || k / 48 % 5 == 3 ? 0 : k % 7 ? imp[k] * imp[k] : 1e-12f;
	const float *p = imps == IMP_NONE ? NULL : imp;
	whit_mat d = m;
	float *out = case_inout(r, (const float *)(const void *)planes, (int64_t)bytes / 4);
	float *counts = case_inout(r, (const float *)(const void *)count, 4);
	d.plane[0] = (const uint8_t *)out;
	whit_rows_encode_cuda(r->dev, &d, first, n, case_in(r, w, (size_t)(n * width) * 4),
	                      p ? case_in(r, p, (size_t)width * 4) : NULL, 0, (int64_t *)(void *)counts);
	m.plane[0] = planes;
	old = whit_cpu_level();
	whit_cpu_cap(0);
	for (int64_t k = 0; k < n; k++)
		count[0] += m.spec.fmt->encode(&m, whit_mat_row(&m, first + k), w + k * width, p, 0, count + 1);
	whit_cpu_cap((int)old);
	case_bits(r, out, (const uint32_t *)(const void *)planes, (int64_t)bytes / 4);
	case_bits(r, counts, (const uint32_t *)(const void *)count, 4);
}

const case_set cases_encode = {"encode", WHIT_COUNT(names) * WHIT_COUNT(shapes), row, 2};
