/* f32, f16, bf16: IEEE binary32, binary16 and the upper half of binary32, little-endian, nearest even. One plane;
 * the three rows differ in the element type alone. */
#include "formats/codes_fast.h"
#include <math.h>
#include <stdio.h>
#include <strings.h>

void whit_floats_decode(const whit_mat *m, int dtype, int64_t r0, int64_t r1, float *out) {
	for (int64_t r = r0; r < r1; r++, out += m->width) {
		const uint8_t *src = m->plane[0] + (size_t)r * m->row_bytes[0];
		if (dtype == WHIT_F32)
			memcpy(out, src, (size_t)m->width * 4);
		else if (dtype == WHIT_F16)
			whit_f16_to_f32_n(out, src, m->width);
		else
			whit_bf16_to_f32_n(out, src, m->width);
	}
}

int whit_floats_encode(whit_mat *m, int dtype, int64_t r, const float *w, int64_t *zero_groups) {
	uint8_t *dst = (uint8_t *)m->plane[0] + (size_t)r * m->row_bytes[0];
	int over = 0, any = 0;
	for (int64_t i = 0; i < m->width; i++) {
		any |= w[i] != 0;
		if (dtype == WHIT_F32) {
			memcpy(dst + 4 * i, w + i, 4);
			continue;
		}
		over += dtype == WHIT_F16 && !(fabsf(w[i]) <= 65504);
		uint16_t h = dtype == WHIT_F16 ? whit_f32_to_f16(w[i]) : whit_f32_to_bf16(w[i]);
		memcpy(dst + 2 * i, &h, 2);
	}
	*zero_groups += !any;
	return over;
}

void whit_floats_gemv_plain(const whit_mat *m, int dtype, int64_t r0, int64_t r1, const float *x, int T, float *y,
                            int64_t ldy) {
	float *w = whit_alloc((size_t)m->width * sizeof(float));
	for (int64_t r = r0; r < r1; r++) {
		whit_floats_decode(m, dtype, r, r + 1, w);
		for (int t = 0; t < T; t++) {
			double acc = 0;
			for (int64_t i = 0; i < m->width; i++) acc += (double)w[i] * x[t * m->width + i];
			y[t * ldy + r] = (float)acc;
		}
	}
	whit_free(w);
}

void whit_floats_gemv(const whit_mat *m, int dtype, int64_t r0, int64_t r1, const float *x, int T, float *y,
                      int64_t ldy) {
#if WHIT_SIMD
	if (whit_cpu_level() >= 2)
		whit_floats_gemv_avx512(m, dtype, r0, r1, x, T, y, ldy);
	else if (whit_cpu_level() == 1)
		whit_floats_gemv_avx2(m, dtype, r0, r1, x, T, y, ldy);
	else
#endif
		whit_floats_gemv_plain(m, dtype, r0, r1, x, T, y, ldy);
}

/* ---- the rows ---- */

extern const whit_format whit_format_f32, whit_format_f16, whit_format_bf16;

static const struct {
	const whit_format *fmt;
	int dtype;
} rows[] = {{&whit_format_f32, WHIT_F32}, {&whit_format_f16, WHIT_F16}, {&whit_format_bf16, WHIT_BF16}};

static int dtype_of(const whit_format *fmt) {
	int i = 0;
	while (rows[i].fmt != fmt) i++;
	return rows[i].dtype;
}

static int parse(const char *name, whit_spec *spec) {
	for (int i = 0; i < WHIT_COUNT(rows); i++) {
		if (strcasecmp(name, rows[i].fmt->name)) continue;
		*spec = (whit_spec){.fmt = rows[i].fmt};
		return 0;
	}
	return -1;
}

static void print(const whit_spec *spec, char out[32]) { snprintf(out, 32, "%s", spec->fmt->name); }

static int planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES], whit_err *e) {
	int dtype = dtype_of(spec->fmt);
	(void)scale_f32, (void)e;
	out[0] = (whit_plane_desc){"", dtype, width, (size_t)width * whit_dtype_size(dtype)};
	return 1;
}

static void decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	whit_floats_decode(m, dtype_of(m->spec.fmt), r0, r1, out);
}

static int encode(whit_mat *m, int64_t r, const float *w, const float *imp, int rule, int64_t *zero_groups) {
	(void)imp, (void)rule;
	return whit_floats_encode(m, dtype_of(m->spec.fmt), r, w, zero_groups);
}

static void gemv(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	whit_floats_gemv(m, dtype_of(m->spec.fmt), r0, r1, x, T, y, ldy);
}

#define ROW(f, text)                                                                                                   \
	const whit_format whit_format_##f = {.name = #f,                                                               \
	                                     .help = text,                                                             \
	                                     .parse = parse,                                                           \
	                                     .print = print,                                                           \
	                                     .planes = planes,                                                         \
	                                     .decode = decode,                                                         \
	                                     .encode = encode,                                                         \
	                                     .gemv = gemv}
ROW(f32, "32-bit floats, as they are");
ROW(f16, "IEEE half precision");
ROW(bf16, "the upper half of a 32-bit float");
