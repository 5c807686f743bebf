/* linear, every format: straight from the packed bytes. The device multiplies floats, so the reference is the plain
 * product of decoded weights; the CPU rounds activations of block formats (ints.h; test_ints.c judges that). */
#include "host/ops.h"
#include "formats/blocks.h"
#include "tests/case_mat.h"
#include <math.h>

static const struct {
	const char *format;
	int64_t rows, width, T, paired;
	int bias;
} rows[] = {{"f32", 5, 33, 1, 0, 0},       {"f32", 4, 1, 3, 0, 1},        {"f16", 9, 100, 7, 0, 1},
            {"bf16", 8, 257, 8, 4, 1},     {"f32", 3, 16, 0, 0, 0},       {"tq1g128", 3, 128, 9, 0, 0},
            {"tq2g64", 5, 64, 1, 0, 0},    {"tq3g128", 7, 256, 2, 0, 1},  {"tq4g256", 2, 512, 1, 0, 0},
            {"tq5row", 3, 35, 1, 0, 0},    {"int2g32", 5, 100, 7, 0, 0},  {"int3", 3, 33, 1, 0, 0},
            {"int4g128", 6, 300, 8, 6, 1}, {"int8g512", 3, 600, 1, 0, 0}, {"q8_0", 3, 96, 1, 0, 0},
            {"q4_0", 3, 96, 9, 0, 0},      {"q4_1", 3, 96, 1, 0, 0},      {"q5_0", 3, 96, 1, 0, 0},
            {"q5_1", 3, 96, 1, 0, 0},      {"q2_k", 2, 256, 1, 0, 0},     {"q3_k", 2, 256, 1, 0, 0},
            {"q4_k", 3, 512, 9, 0, 1},     {"q5_k", 2, 256, 1, 0, 0},     {"q6_k", 2, 256, 1, 0, 0},
            {"iq4_nl", 3, 96, 1, 0, 0},    {"iq4_xs", 2, 256, 1, 0, 0},   {"mxfp4", 3, 96, 1, 0, 0},
            {"tq1_0", 2, 256, 1, 0, 0},    {"tq2_0", 2, 256, 1, 0, 0},    {"q1_0", 3, 128, 1, 0, 0},
            {"q2_0", 3, 64, 1, 0, 0},      {"q4_k", 4096, 4096, 8, 0, 0}};

static void row(case_run *r, int i) {
	int64_t N = rows[i].rows, K = rows[i].width, T = rows[i].T;
	if (case_skip_big(r, N * K > 100000)) return;
	case_label(r, "%s %lld x %lld, %lld tokens", rows[i].format, (long long)N, (long long)K, (long long)T);
	whit_mat m = case_mat(r, rows[i].format, N, K, 1);
	if (case_skip(r, !r->dev && m.spec.fmt->block)) return;
	m.paired = rows[i].paired;
	float *x = case_normal(r, T * K), *bias = rows[i].bias ? case_normal(r, N) : NULL;
	float *want = case_host(r, (size_t)(T * N) * sizeof *want), *mag = case_host(r, (size_t)(T * N) * sizeof *mag);
	float *w = case_host(r, (size_t)K * sizeof *w);
	for (int64_t k = 0; k < N; k++) {
		whit_mat_decode(&m, k, k + 1, w);
		for (int64_t t = 0; t < T; t++) {
			double y = bias ? bias[k] : 0, sum = fabs(y);
			for (int64_t c = 0; c < K; c++) {
				y += (double)w[c] * x[t * K + c];
				sum += fabs((double)w[c] * x[t * K + c]);
			}
			want[t * N + k] = (float)y;
			mag[t * N + k] = (float)sum;
		}
	}
	/* A lane adds K / 32 products, five additions join lanes, one adds the bias, one rounds the reference: a
	 * rounding each, of at most the sum of magnitudes. The CPU's bound: formats/codes.h, and its GEMM adds in order
	 * of k. */
	double tol = r->dev ? ((double)(K + 31) / 32 + 7) * 0x1p-24 : ((double)K + 12) * 0x1p-23;
	whit_arena scratch = {0};
	float *y = case_out(r, T * N), *dx = case_in(r, x, (size_t)(T * K) * sizeof *x);
	float *db = bias ? case_in(r, bias, (size_t)N * sizeof *bias) : NULL;
	whit_mat at = case_mat_in(r, &m);
	if (r->dev)
		whit_linear_cuda(r->dev, y, dx, T, &at, db);
	else
		whit_linear_fast_cpu(y, dx, T, &at, db, &scratch);
	whit_arena_free(&scratch);
	case_near(r, y, want, mag, T * N, tol);
}

const case_set cases_linear = {"linear", WHIT_COUNT(rows), row, 0};
