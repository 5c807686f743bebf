/* linear, every format, each way that it goes: gemv of few tokens, terms of 16 bits, decoded tiles, and the plain
 * kernel. The device multiplies floats, so the reference is the plain product of decoded weights; the CPU rounds
 * activations of block formats (ints.h; test_ints.c judges that). */
#include "host/ops.h"
#include "formats/blocks.h"
#include "tests/case_mat.h"
#include <float.h>
#include <math.h>

static const struct {
	const char *format;
	int64_t rows, width, T, paired;
	int bias, shift; /* shift: bytes that the plane lies off 256 */
} rows[] = {{"f32", 5, 33, 1, 0, 0, 0},
            {"f32", 4, 1, 3, 0, 1, 0},
            {"f16", 9, 100, 7, 0, 1, 0},
            {"bf16", 8, 257, 8, 4, 1, 0},
            {"f32", 3, 16, 0, 0, 0, 0},
            {"tq1g128", 3, 128, 9, 0, 0, 0},
            {"tq2g64", 5, 64, 1, 0, 0, 0},
            {"tq3g128", 7, 256, 2, 0, 1, 0},
            {"tq4g256", 2, 512, 1, 0, 0, 0},
            {"tq5row", 3, 35, 1, 0, 0, 0},
            {"int2g32", 5, 100, 7, 0, 0, 0},
            {"int3", 3, 33, 1, 0, 0, 0},
            {"int4g128", 6, 300, 8, 6, 1, 0},
            {"bin64", 7, 100, 3, 0, 1, 0},
            {"frc64c300", 11, 100, 9, 0, 0, 0},
            {"frc128c100", 30, 200, 1, 0, 0, 0},
            {"frc64c100k", 30, 200, 9, 0, 0, 0},
            {"frc128c100k", 30, 300, 1, 0, 0, 0},
            {"frc64w100kaut", 30, 300, 9, 0, 0, 0},
            {"int8g512", 3, 600, 1, 0, 0, 0},
            {"q8_0", 3, 96, 1, 0, 0, 0},
            {"q4_0", 3, 96, 9, 0, 0, 0},
            {"q4_1", 3, 96, 1, 0, 0, 0},
            {"q5_0", 3, 96, 1, 0, 0, 0},
            {"q5_1", 3, 96, 1, 0, 0, 0},
            {"q2_k", 2, 256, 1, 0, 0, 0},
            {"q3_k", 2, 256, 1, 0, 0, 0},
            {"q4_k", 3, 512, 9, 0, 1, 0},
            {"q5_k", 2, 256, 1, 0, 0, 0},
            {"q6_k", 2, 256, 1, 0, 0, 0},
            {"iq4_nl", 3, 96, 1, 0, 0, 0},
            {"iq4_xs", 2, 256, 1, 0, 0, 0},
            {"mxfp4", 3, 96, 1, 0, 0, 0},
            {"tq1_0", 2, 256, 1, 0, 0, 0},
            {"tq2_0", 2, 256, 1, 0, 0, 0},
            {"q1_0", 3, 128, 1, 0, 0, 0},
            {"q2_0", 3, 64, 1, 0, 0, 0},
            /* many tokens, in several tiles of tokens and of rows where scratch is small (emulation) */
            {"bf16", 5, 100, 9, 0, 1, 0},
            {"bf16", 37, 257, 33, 0, 0, 0},
            {"f16", 5, 100, 9, 0, 0, 0},
            {"f16", 40, 130, 33, 0, 1, 0},
            {"f32", 6, 33, 9, 0, 1, 0},
            {"f32", 12, 300, 33, 6, 1, 0},
            {"bf16", 12, 300, 33, 6, 1, 0},
            {"f16", 8, 96, 10, 8, 0, 0},
            {"q4_k", 9, 256, 33, 0, 1, 0},
            {"q8_0", 12, 96, 33, 6, 0, 0},
            {"tq4g128", 7, 256, 33, 0, 1, 0},
            {"int3", 5, 35, 9, 0, 0, 0},
            {"bf16", 1, 1, 33, 0, 0, 0},
            {"f16", 0, 8, 9, 0, 1, 0},
            {"q3_k", 20, 512, 12, 4, 1, 0},
            {"iq4_xs", 3, 256, 40, 0, 0, 0},
            {"frc128k", 24, 300, 20, 0, 1, 0},
            {"vp", 30, 96, 9, 0, 0, 0},
            {"int8", 2, 41, 37, 0, 0, 0},
            /* rows that expand_kernel takes in whole steps, and beyond what it keeps under emulation */
            {"q8_0", 2, 4128, 9, 0, 0, 0},
            {"q3_k", 2, 4352, 9, 0, 0, 1},
            {"q5_0", 2, 4640, 9, 0, 0, 0},
            {"iq4_xs", 2, 4608, 10, 0, 0, 1},
            {"int3g512", 2, 4201, 130, 0, 0, 0},
            /* planes off their type's alignment */
            {"bf16", 6, 64, 1, 0, 0, 1},
            {"bf16", 12, 96, 17, 0, 1, 1},
            {"f16", 6, 96, 17, 0, 0, 3},
            {"f32", 6, 96, 17, 0, 0, 2},
            {"bf16", 6, 96, 17, 0, 0, 2},
            {"q4_k", 4096, 4096, 8, 0, 0, 0},
            {"bf16", 4096, 4096, 512, 0, 1, 0},
            {"f16", 4096, 4096, 64, 0, 0, 0},
            {"q4_k", 4096, 4096, 64, 0, 0, 0}};

static int bits16(const char *format) { return !strcmp(format, "bf16") ? 8 : !strcmp(format, "f16") ? 11 : 0; }

static void product(case_run *r, int i) {
	int64_t N = rows[i].rows, K = rows[i].width, T = rows[i].T, off = rows[i].shift;
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
	float *y = case_out(r, T * N), *dx = case_in(r, x, (size_t)(T * K) * sizeof *x);
	float *db = bias ? case_in(r, bias, (size_t)N * sizeof *bias) : NULL;
	whit_mat at = case_mat_in(r, &m);
	if (off) { /* the same rows, elsewhere */
		uint8_t *moved = case_host(r, (size_t)N * m.row_bytes[0] + (size_t)off);
		memcpy(moved + off, m.plane[0], (size_t)N * m.row_bytes[0]);
		at.plane[0] = (uint8_t *)case_in(r, moved, (size_t)N * m.row_bytes[0] + (size_t)off) + off;
	}
	if (!r->dev) { /* formats/codes.h; and the CPU's GEMM adds in order of k */
		whit_arena scratch = {0};
		whit_linear_fast_cpu(y, dx, T, &at, db, &scratch);
		whit_arena_free(&scratch);
		case_near(r, y, want, mag, T * N, ((double)K + 12) * 0x1p-23);
		return;
	}
	/* A lane adds K / 32 products, five additions join lanes, twelve at most warps, one adds the bias, one rounds
	 * the reference: a rounding each, of at most the sum of magnitudes. cuBLAS: in order of k at worst, and mma may
	 * cut off where it should round. */
	int wide = !bits16(rows[i].format) && strcmp(rows[i].format, "f32"); /* W and x by two F16 terms, 2^-22 each */
	double lanes = ((double)(K + 31) / 32 + 5 + 2) * 0x1p-24, order = ((double)K + 6) * 0x1p-23;
	whit_linear_cuda(r->dev, y, dx, T, &at, db);
	if (case_mat_packed(&m, T))
		case_near(r, y, want, case_mat_packed_bound(r, &m, x, mag, T), T * N, 1);
	else
		case_near(r, y, want, mag, T * N,
		          T <= WHIT_GEMV_MAX ? lanes + 12 * 0x1p-24 : order + (wide ? 0x1p-20 : 0));
	if (T > WHIT_GEMV_MAX && strcmp(rows[i].format, "f32") && !case_mat_packed(&m, T)) {
		/* and x rounded to the weight's type, or both to F16 */
		y = case_out(r, T * N);
		whit_dev_terms(r->dev, 1);
		whit_linear_cuda(r->dev, y, dx, T, &at, db);
		whit_dev_terms(r->dev, 3);
		case_near(r, y, want, mag, T * N, order + ldexp(1, wide ? -10 : -bits16(rows[i].format)));
	}
	y = case_out(r, T * N);
	whit_dev_plain(r->dev, 1);
	whit_linear_cuda(r->dev, y, dx, T, &at, db);
	whit_dev_plain(r->dev, 0);
	case_near(r, y, want, mag, T * N, lanes);
	whit_dev_reset(r->dev);
}

/* Times the unit matrix, with tokens of all sizes that cuda/linear.cu calls exact: x, bit for bit. */
static void exact(case_run *r, int f16) {
	enum { T = 9, K = 24 };
	static const float tops[T] = {1, FLT_MAX, 0x1p-80f, 0x1p100f, 3e4f, 0x1p-60f, 0, 1e-24f, 7e4f};
	case_label(r, "%s unit matrix", f16 ? "f16" : "bf16");
	if (case_skip(r, !r->dev)) return;
	whit_mat m = case_mat(r, f16 ? "f16" : "bf16", K, K, 1);
	float *x = case_normal(r, T * K);
	memset((uint8_t *)(uintptr_t)m.plane[0], 0, K * m.row_bytes[0]);
	for (int i = 0; i < K; i++)
		memcpy((uint8_t *)(uintptr_t)m.plane[0] + i * (2 * K + 2), f16 ? "\0\x3c" : "\x80\x3f", 2);
	for (int i = 0; i < T * K; i++) /* from the row's top down to 2^-14 of it, of both signs */
		x[i] = i % K ? tops[i / K] * ldexpf(fmodf(x[i], 1), -i % K % 15) : tops[i / K];
	for (int i = 0; i < T * K; i++) /* f16 takes 2^-15 of the top and more */
		if (fabsf(x[i]) <= tops[i / K] * 0x1p-15f) x[i] = 0;
	float *y = case_out(r, T * K), *dx = case_in(r, x, T * K * sizeof *x);
	whit_mat at = case_mat_in(r, &m);
	whit_linear_cuda(r->dev, y, dx, T, &at, NULL);
	case_same(r, y, x, T * K);
	whit_dev_reset(r->dev);
}

static void row(case_run *r, int i) {
	if (i < WHIT_COUNT(rows))
		product(r, i);
	else
		exact(r, i > WHIT_COUNT(rows));
}

const case_set cases_linear = {"linear", WHIT_COUNT(rows) + 2, row, 0};
