/* packed: codes times up to 128 tokens on tensor cores (cuda/gemm_packed.cu), exactly. Weights, scales and activations are
 * such that every sum is a multiple of 2^-6 below 2^17 (of blocks, 2^-3 below 2^20): whatever the order and the way of
 * rounding, one float is right. What rounds is judged by linear and gemv. */
#include "formats/blocks.h"
#include "formats/twin.h"
#include "host/ops.h"
#include "tests/case_mat.h"
#include <math.h>

static const struct {
	const char *format;
	int64_t rows, width, T, paired;
	int f32, bias, terms;
} rows[] = {
        /* every width of codes and of loads: 16, 8 and 4 bytes a lane; one step and several */
        {"int8", 37, 512, 1, 0, 0, 0, 2},
        {"int8g64", 16, 192, 2, 0, 0, 1, 2},
        {"int8g32", 9, 96, 3, 0, 1, 0, 2},
        {"int4g512", 33, 1024, 4, 0, 0, 0, 2},
        {"int4g128", 70, 640, 1, 0, 0, 1, 2},
        {"int4g64", 17, 320, 5, 0, 0, 0, 2},
        {"int4g32", 15, 96, 8, 0, 0, 0, 2},
        {"int2g256", 40, 512, 7, 0, 0, 0, 2},
        {"int2g128", 12, 384, 1, 0, 0, 0, 1},
        {"int2g64", 31, 192, 8, 0, 1, 1, 1},
        {"tq1row", 20, 1024, 1, 0, 0, 0, 2},
        {"tq1g256", 33, 512, 2, 0, 0, 0, 2},
        {"tq1g128", 50, 384, 1, 0, 0, 1, 2},
        {"tq2g256", 19, 512, 1, 0, 0, 0, 2},
        {"tq2g128", 130, 256, 2, 0, 0, 0, 2},
        {"tq2g64", 8, 192, 9, 0, 1, 0, 2},
        {"tq4g256", 21, 512, 1, 0, 0, 0, 2},
        {"tq4g64", 34, 128, 4, 0, 0, 1, 2},
        {"tq8g128", 16, 256, 1, 0, 0, 0, 2},
        {"tq8row", 10, 160, 3, 0, 1, 0, 2},
        {"tq3g128", 35, 384, 1, 0, 0, 0, 2},
        {"tq3g256", 18, 512, 6, 0, 0, 1, 2},
        {"int3g128", 50, 256, 2, 0, 0, 0, 2},
        {"int3", 9, 160, 1, 0, 0, 0, 2},
        {"int3g512", 17, 1024, 9, 0, 0, 1, 1},
        /* lines of 128 bytes of a row, several; scales that begin in the upper half of a word */
        {"tq1g256", 40, 3072, 1, 0, 0, 0, 2},
        {"int2g128", 33, 1728, 1, 0, 0, 0, 2},
        {"tq3g128", 70, 1408, 2, 0, 0, 0, 2},
        {"int8g128", 20, 896, 1, 4, 0, 0, 2},
        {"tq2g64", 34, 1600, 6, 34, 0, 1, 2},
        {"tq4row", 35, 1600, 1, 0, 0, 0, 2},
        {"tq1g128", 20, 2176, 9, 0, 0, 0, 2},
        /* several groups a step */
        {"int4g32", 33, 256, 1, 0, 0, 0, 2},
        {"int4g32", 70, 384, 5, 10, 0, 1, 2},
        {"int4g32", 18, 128, 31, 0, 0, 0, 1},
        {"int8g32", 34, 256, 3, 0, 0, 1, 2},
        {"int8g32", 5, 64, 12, 0, 0, 0, 2},
        /* tails: of steps, of loads, of rows that are paired */
        {"int4g128", 6, 304, 1, 6, 0, 0, 2},
        {"int4", 12, 168, 6, 4, 0, 0, 2},
        {"int8", 5, 40, 1, 0, 0, 0, 2},
        {"int2", 7, 16, 2, 0, 0, 0, 2},
        {"tq4row", 1, 8, 1, 0, 0, 1, 2},
        /* more columns than an mma has, than a pass has, than shared memory holds */
        {"int4g128", 35, 256, 16, 0, 0, 1, 2},
        {"tq2g128", 18, 256, 17, 0, 0, 0, 2},
        {"tq4g128", 33, 128, 32, 0, 0, 0, 2},
        {"tq1g128", 16, 128, 31, 0, 0, 0, 1},
        {"int8g128", 20, 128, 32, 0, 0, 0, 1},
        {"int4g128", 5, 5120, 8, 0, 0, 0, 2},
        {"tq4g256", 3, 2048, 16, 0, 0, 0, 2},
        /* several passes, of columns and of rows */
        {"tq4g128", 33, 128, 128, 0, 0, 1, 2},
        {"int4g32", 20, 128, 64, 0, 0, 0, 1},
        {"int4g128", 240, 384, 33, 6, 0, 0, 2},
        {"int8g128", 40, 640, 40, 0, 0, 1, 2},
        {"int8g32", 18, 128, 65, 0, 0, 0, 1},
        {"tq2g128", 35, 256, 65, 0, 0, 0, 2},
        {"tq3g128", 18, 384, 34, 0, 0, 0, 2},
        {"tq1g256", 190, 512, 12, 0, 0, 0, 2},
        {"q4_k", 17, 512, 40, 0, 0, 0, 2},
        {"q5_k", 70, 256, 33, 0, 0, 0, 1},
        {"q6_k", 16, 256, 100, 0, 0, 1, 2},
        /* blocks: one, several, two rows' worth of a pass, more columns than a pass */
        {"q4_k", 1, 256, 1, 0, 0, 0, 2},
        {"q4_k", 37, 512, 1, 0, 0, 1, 2},
        {"q4_k", 70, 768, 3, 10, 0, 0, 2},
        {"q4_k", 20, 1280, 9, 0, 0, 1, 2},
        {"q4_k", 33, 256, 32, 0, 0, 0, 1},
        {"q5_k", 34, 512, 1, 0, 0, 1, 2},
        {"q5_k", 65, 1024, 5, 0, 0, 0, 2},
        {"q5_k", 9, 256, 17, 0, 0, 0, 2},
        {"q6_k", 1, 256, 1, 0, 0, 0, 2},
        {"q6_k", 35, 512, 1, 0, 0, 1, 2},
        {"q6_k", 66, 768, 4, 6, 0, 0, 2},
        {"q6_k", 18, 1280, 16, 0, 0, 1, 2},
        /* nothing */
        {"int4g128", 0, 256, 1, 0, 0, 0, 2},
        {"int4g128", 3, 256, 0, 0, 0, 0, 2},
        /* of models: kernels.md */
        {"int4g128", 5120, 17408, 1, 0, 0, 0, 2},
        {"tq4g128", 34816, 5120, 1, 0, 0, 0, 2},
        {"tq3g128", 5120, 6144, 1, 0, 0, 0, 2},
        {"tq2g128", 34816, 5120, 8, 0, 0, 0, 1},
        {"tq1g128", 16384, 5120, 1, 0, 0, 0, 2},
        {"tq8g128", 1024, 5120, 4, 0, 0, 0, 2},
        {"tq4g128", 7168, 1024, 32, 0, 0, 0, 2}};

/* Random blocks whose F16s are 1/8 to 1, and what a device makes of them. */
static whit_mat plain_blocks(case_run *r, whit_mat m) {
	const whit_block *b = m.spec.fmt->block;
	int64_t n = m.rows * m.width / b->weights, six = b->bytes == 210;
	const uint8_t *pick = case_random(r, (size_t)(2 * n + 1));
	for (int64_t k = 0; k < n; k++)
		for (int j = six; j < 2; j++) {
			uint16_t h = whit_f32_to_f16(ldexpf(1, -(pick[2 * k + j] % 4)));
			memcpy((uint8_t *)(uintptr_t)m.plane[0] + k * b->bytes + (six ? 208 : 2 * j), &h, sizeof h);
		}
	whit_mat t;
	if (!whit_twin_of(&m, &t)) return m;
	uint8_t *codes = case_host(r, (size_t)m.rows * t.row_bytes[0] + 1),
	        *scales = case_host(r, (size_t)m.rows * t.row_bytes[1] + 1);
	whit_twin_rows(&t, &m, 0, m.rows, codes, scales);
	t.plane[0] = codes, t.plane[1] = scales;
	return t;
}

/* Random codes; scales 1/8 to 1; levels multiples of 1/8 up to 16. */
static whit_mat plain_numbers(case_run *r, int i) {
	whit_mat m = case_mat(r, rows[i].format, rows[i].rows, rows[i].width, 1);
	if (m.spec.fmt->block) {
		m = plain_blocks(r, m);
		m.paired = rows[i].paired;
		return m;
	}
	int64_t groups = m.spec.group ? (m.width + m.spec.group - 1) / m.spec.group : 1;
	const uint8_t *pick = case_random(r, (size_t)(m.rows * groups + 256));
	float *book = case_host(r, 256 * sizeof *book);
	for (int k = 0; k < 256; k++) book[k] = (float)((k * 37 + pick[k]) % 257 - 128) / 8;
	/* symmetric, as codebooks are, in every second row */
	for (int k = 0; k < 1 << m.spec.bits && i % 2; k++) book[(1 << m.spec.bits) - 1 - k] = -book[k];
	if (m.codebook) m.codebook = book;
	m.scale_f32 = rows[i].f32;
	size_t size = m.scale_f32 ? 4 : 2;
	uint8_t *scales = case_host(r, (size_t)(m.rows * groups) * size + 1);
	for (int64_t k = 0; k < m.rows * groups; k++) {
		float s = ldexpf(1, -(pick[256 + k] % 4));
		uint16_t h = whit_f32_to_f16(s);
		memcpy(scales + (size_t)k * size, m.scale_f32 ? (void *)&s : (void *)&h, size);
	}
	m.plane[1] = scales, m.row_bytes[1] = (size_t)groups * size;
	m.paired = rows[i].paired;
	return m;
}

static void row(case_run *r, int i) {
	int64_t N = rows[i].rows, K = rows[i].width, T = rows[i].T;
	if (case_skip_big(r, N * K > 100000) || case_skip(r, !r->dev)) return;
	case_label(r, "%s %lld x %lld, %lld tokens", rows[i].format, (long long)N, (long long)K, (long long)T);
	whit_mat m = plain_numbers(r, i);
	const uint8_t *pick = case_random(r, (size_t)(T * K + N + 1));
	float *x = case_host(r, (size_t)(T * K + 1) * sizeof *x), *bias = case_host(r, (size_t)(N + 1) * sizeof *bias);
	float *want = case_host(r, (size_t)(T * N + 1) * sizeof *want), *w = case_host(r, (size_t)K * sizeof *w);
	for (int64_t k = 0; k < T * K; k++) x[k] = (float)(pick[k] % 17 - 8);
	for (int64_t k = 0; k < N; k++) bias[k] = (float)(pick[T * K + k] % 9 - 4);
	for (int64_t k = 0; k < N; k++) {
		whit_mat_decode(&m, k, k + 1, w);
		for (int64_t t = 0; t < T; t++) {
			double y = rows[i].bias ? bias[k] : 0;
			for (int64_t c = 0; c < K; c++) y += (double)w[c] * x[t * K + c];
			want[t * N + k] = (float)y;
		}
	}
	whit_mat at = case_mat_in(r, &m);
	float *y = case_out(r, T * N), *dx = case_in(r, x, (size_t)(T * K) * sizeof *x);
	whit_dev_terms(r->dev, rows[i].terms);
	whit_linear_cuda(r->dev, y, dx, T, &at, rows[i].bias ? case_in(r, bias, (size_t)N * sizeof *bias) : NULL);
	whit_dev_terms(r->dev, 3);
	case_same(r, y, want, T * N);
	whit_dev_reset(r->dev);
}

const case_set cases_packed = {"packed", WHIT_COUNT(rows), row, 0};
