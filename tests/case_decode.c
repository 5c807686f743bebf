/* decode of every number format, of random bytes, NaN and infinite scales included: bit for bit. */
#include "tests/case_mat.h"

static const struct {
	const char *format;
	int64_t rows, width;  /* the width is brought to what the format takes */
	int scale_f32, shift; /* shift: bytes that the planes lie off 256 */
} rows[] = {{"f32", 3, 33, 0, 0},
            {"f16", 5, 257, 0, 0},
            {"bf16", 2, 100, 0, 0},
            {"f32", 1, 1, 0, 0},
            {"f16", 0, 8, 0, 0},
            {"tq1g128", 3, 256, 0, 0},
            {"tq2g64", 3, 192, 0, 0},
            {"tq3g128", 3, 384, 1, 0},
            {"tq4g256", 2, 512, 0, 0},
            {"tq5g64", 3, 64, 0, 0},
            {"tq6g128", 2, 256, 0, 0},
            {"tq7g64", 3, 192, 0, 0},
            {"tq8g128", 2, 256, 0, 0},
            {"tq3row", 5, 35, 0, 0},
            {"tq5row", 3, 100, 1, 0},
            {"int2", 3, 33, 0, 0},
            {"int3", 5, 35, 0, 0},
            {"int4", 1, 7, 0, 0},
            {"int8", 3, 100, 0, 0},
            {"int2g32", 2, 100, 0, 0},
            {"int3g64", 3, 172, 1, 0},
            {"int4g128", 3, 300, 0, 0},
            {"int8g512", 2, 600, 0, 0},
            {"q8_0", 3, 96, 0, 0},
            {"q4_0", 3, 96, 0, 0},
            {"q4_1", 3, 96, 0, 0},
            {"q5_0", 3, 96, 0, 0},
            {"q5_1", 3, 96, 0, 0},
            {"q2_k", 2, 512, 0, 0},
            {"q3_k", 2, 512, 0, 0},
            {"q4_k", 2, 512, 0, 0},
            {"q5_k", 2, 512, 0, 0},
            {"q6_k", 2, 512, 0, 0},
            {"iq4_nl", 3, 96, 0, 0},
            {"iq4_xs", 2, 512, 0, 0},
            {"mxfp4", 9, 96, 0, 0},
            {"tq1_0", 2, 512, 0, 0},
            {"tq2_0", 2, 512, 0, 0},
            {"q1_0", 3, 256, 0, 0},
            {"q2_0", 3, 192, 0, 0},
            {"bin64", 3, 100, 0, 0},
            {"bin256", 2, 769, 0, 0},
            {"frc64c300", 23, 100, 0, 0},
            {"frc256", 5, 33, 0, 0},
            {"frc128c1000", 3, 129, 0, 0},
            {"frc64c300k", 23, 200, 0, 0},
            {"frc128k", 9, 769, 0, 0},
            {"frc64w300ku", 23, 201, 0, 0},
            {"frc128ka", 9, 769, 0, 0},
            {"frc64w500kaut", 11, 150, 0, 0},
            {"frc64c300t", 23, 67, 0, 0},
            {"vp", 203, 769, 0, 0},
            {"vp", 171, 1, 0, 0},
            {"vp0-0-0-0", 3, 33, 0, 0},
            /* whole pieces of 512 columns; planes at odd places */
            {"f32", 3, 520, 0, 2},
            {"f16", 3, 1028, 0, 0},
            {"bf16", 3, 516, 0, 1},
            {"bf16", 2, 514, 0, 0},
            {"tq1g128", 3, 640, 0, 0},
            {"tq2g256", 3, 1280, 0, 1},
            {"tq3g128", 3, 640, 0, 3},
            {"tq5g64", 3, 576, 1, 2},
            {"tq7g64", 2, 576, 0, 1},
            {"tq6row", 3, 1100, 0, 1},
            {"int2g32", 3, 1164, 0, 1},
            {"int3g512", 3, 1100, 0, 0},
            {"int4g64", 3, 516, 1, 3},
            {"int8g256", 3, 1028, 0, 1},
            {"q8_0", 3, 544, 0, 0},
            {"q8_0", 3, 1056, 0, 1},
            {"q4_0", 3, 544, 0, 2},
            {"q4_1", 3, 544, 0, 3},
            {"q5_0", 3, 544, 0, 1},
            {"q5_1", 3, 544, 0, 2},
            {"q2_k", 3, 768, 0, 1},
            {"q3_k", 3, 768, 0, 1},
            {"q4_k", 3, 768, 0, 3},
            {"q5_k", 3, 768, 0, 1},
            {"q6_k", 3, 768, 0, 3},
            {"iq4_nl", 3, 544, 0, 1},
            {"iq4_xs", 3, 768, 0, 2},
            {"mxfp4", 3, 544, 0, 0},
            {"mxfp4", 3, 544, 0, 1},
            {"tq1_0", 3, 768, 0, 1},
            {"tq2_0", 3, 768, 0, 1},
            {"q1_0", 3, 640, 0, 1},
            {"q2_0", 3, 576, 0, 1},
            {"bin64", 3, 520, 0, 1},
            {"bin128", 3, 1030, 0, 0},
            {"frc64c300k", 9, 520, 0, 0},
            {"frc128ka", 9, 1028, 0, 0},
            {"vp", 31, 516, 0, 0},
            {"q4_k", 4096, 4096, 0, 0}};

static void row(case_run *r, int i) {
	int64_t width = case_mat_width(rows[i].format, rows[i].width), n = rows[i].rows * width;
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "%s %lld x %lld", rows[i].format, (long long)rows[i].rows, (long long)width);
	whit_mat m = case_mat(r, rows[i].format, rows[i].rows, width, 0);
	if (rows[i].scale_f32) {
		whit_plane_desc d[WHIT_PLANES];
		whit_err e;
		m.scale_f32 = 1;
		m.spec.fmt->planes(&m.spec, width, 1, d, &e);
		m.plane[1] = case_random(r, (size_t)m.rows * d[1].row_bytes);
		m.row_bytes[1] = d[1].row_bytes;
	}
	float *want = case_host(r, (size_t)n * sizeof *want), *y = case_out(r, n);
	whit_mat at = case_mat_in(r, &m);
	for (int p = 0; p < WHIT_PLANES && rows[i].shift; p++) {
		size_t bytes = m.plane[p] ? whit_plane_bytes(&m, p) : 0, shift = (size_t)rows[i].shift;
		uint8_t *off = bytes ? case_host(r, bytes + shift) : NULL;
		if (!off) continue;
		memcpy(off + shift, m.plane[p], bytes);
		at.plane[p] = (const uint8_t *)case_in(r, off, bytes + shift) + shift;
	}
	whit_cpu_cap(0);
	m.spec.fmt->decode(&m, 0, m.rows, want);
	whit_cpu_cap(2);
	if (r->dev)
		whit_rows_decode_cuda(r->dev, &at, 0, m.rows, y);
	else
		m.spec.fmt->decode(&at, 0, m.rows, y);
	case_same(r, y, want, n);
	if (!r->dev) return;
	y = case_out(r, n);
	whit_dev_plain(r->dev, 1);
	whit_rows_decode_cuda(r->dev, &at, 0, m.rows, y);
	whit_dev_plain(r->dev, 0);
	case_same(r, y, want, n);
}

const case_set cases_decode = {"decode", WHIT_COUNT(rows), row, 0};
