/* codes: the encoders of tq, int and floats, byte for byte and count for count as the CPU's: scale rules, importance,
 * groups, tails, scales as floats, rows in pairs; rows of zeros, constants, outliers, subnormals, values beyond F16. */
#include "tests/case_mat.h"

static const struct {
	const char *format;
	int64_t rows, width;
	int rule, weighted, scale_f32, paired;
} rows[] = {{"tq1g128", 9, 256, WHIT_SCALE_LS, 0, 0, 0},
            {"tq2g64", 8, 192, WHIT_SCALE_LS, 1, 0, 4},
            {"tq3g128", 9, 256, WHIT_SCALE_NORM, 0, 0, 0},
            {"tq4g256", 8, 512, WHIT_SCALE_LS, 0, 0, 0},
            {"tq4g128", 9, 128, WHIT_SCALE_IP, 0, 1, 0},
            {"tq5g64", 8, 64, WHIT_SCALE_RAW, 1, 0, 0},
            {"tq6g128", 8, 128, WHIT_SCALE_LS, 1, 1, 0},
            {"tq7g64", 8, 64, WHIT_SCALE_LS, 0, 0, 0},
            {"tq8g128", 8, 128, WHIT_SCALE_LS, 0, 0, 0},
            {"tq3row", 8, 35, WHIT_SCALE_LS, 1, 0, 0},
            {"tq5row", 8, 1000, WHIT_SCALE_LS, 0, 0, 0},
            {"tq1row", 1, 4, WHIT_SCALE_LS, 0, 0, 0},
            {"tq4g128", 0, 128, WHIT_SCALE_LS, 0, 0, 0},
            {"int2g32", 9, 100, 0, 0, 0, 0},
            {"int3g64", 8, 172, 0, 1, 1, 4},
            {"int4g128", 8, 300, 0, 0, 0, 0},
            {"int8g512", 8, 600, 0, 1, 0, 0},
            {"int4", 8, 33, 0, 1, 0, 0},
            {"int8", 8, 100, 0, 0, 1, 0},
            {"int4g32", 9, 200, 0, 1, 0, 0},
            {"int4g128", 8, 600, 0, 1, 0, 0},
            {"int8g128", 9, 256, 0, 0, 0, 0},
            {"int8g64", 7, 256, 0, 1, 0, 0},
            {"int2g256", 8, 300, 0, 0, 0, 0},
            {"int3", 1, 7, 0, 0, 0, 0},
            {"f32", 8, 33, 0, 0, 0, 0},
            {"f16", 9, 100, 0, 0, 0, 0},
            {"bf16", 8, 35, 0, 0, 0, 4},
            {"tq4g256", 4096, 4096, 0, 0, 0, 0}};

/* A row of every kind, in turn. */
static void shape(float *w, int64_t n, int64_t kind) {
	for (int64_t i = 0; i < n; i++) {
		if (kind == 1) w[i] = 0;
		if (kind == 2) w[i] = 0.5f;
		if (kind == 3) w[i] *= i == n / 2 ? 1e4f : 1e-3f;
		if (kind == 4) w[i] *= 0x1p-140f;
		if (kind == 5) w[i] *= 1e7f;
		if (kind == 6) w[i] = i < n / 2 ? 0 : w[i];
	}
}

static void row(case_run *r, int i) {
	int64_t N = rows[i].rows, width = rows[i].width;
	if (case_skip_big(r, N * width > 100000) || case_skip(r, !r->dev)) return;
	case_label(r, "%s %lld x %lld, rule %d", rows[i].format, (long long)N, (long long)width, rows[i].rule);
	whit_mat m = case_mat(r, rows[i].format, N, width, 0), at = m;
	whit_plane_desc d[WHIT_PLANES];
	whit_err e;
	float *w = case_normal(r, N * width), *imp = rows[i].weighted ? case_normal(r, width) : NULL, *book = NULL;
	m.scale_f32 = rows[i].scale_f32;
	m.paired = rows[i].paired;
	m.spec.fmt->planes(&m.spec, width, m.scale_f32, d, &e);
	for (int64_t k = 0; k < N; k++) shape(w + k * width, width, k % 7);
	for (int64_t k = 0; imp && k < width; k++) imp[k] = k % 5 && (k < 64 || k > 127) ? imp[k] * imp[k] : 0;
	if (m.codebook) { /* ascending */
		book = case_host(r, sizeof(float) << m.spec.bits);
		for (int k = 0; k < 1 << m.spec.bits; k++)
			book[k] = ((float)(k - (1 << m.spec.bits) / 2) + 0.5f) / (float)(1 << m.spec.bits) / 3;
	}
	int64_t count[2] = {0, 0};
	m.codebook = book;
	at = m;
	if (book) at.codebook = case_in(r, book, sizeof(float) << m.spec.bits);
	int planes = m.plane[1] ? 2 : 1;
	float *out[2];
	for (int p = 0; p < planes; p++) {
		size_t bytes = (size_t)N * d[p].row_bytes, words = (bytes + 3) / 4;
		uint8_t *want = case_host(r, words * 4);
		memset(want, 0xff, words * 4); /* as unwritten output is */
		m.plane[p] = want;
		m.row_bytes[p] = at.row_bytes[p] = d[p].row_bytes;
		out[p] = case_out(r, (int64_t)words);
		at.plane[p] = (const uint8_t *)out[p];
	}
	whit_cpu_cap(0);
	for (int64_t k = 0; k < N; k++)
		count[0] += m.spec.fmt->encode(&m, whit_mat_row(&m, k), w + k * width, imp, rows[i].rule, &count[1]);
	whit_cpu_cap(WHIT_CPU_TOP);
	float *counts = case_inout(r, (const float *)(const void *)(int64_t[]){0, 0}, 4);
	whit_rows_encode_cuda(r->dev, &at, 0, N, case_in(r, w, (size_t)(N * width) * sizeof *w),
	                      imp ? case_in(r, imp, (size_t)width * sizeof *imp) : NULL, rows[i].rule,
	                      (int64_t *)(void *)counts);
	for (int p = 0; p < planes; p++)
		case_bits(r, out[p], (const uint32_t *)(const void *)m.plane[p],
		          (int64_t)((size_t)N * d[p].row_bytes + 3) / 4);
	case_bits(r, counts, (const uint32_t *)(const void *)count, 4);
}

const case_set cases_codes = {"codes", WHIT_COUNT(rows), row, 3};
