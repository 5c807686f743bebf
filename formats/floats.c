#include "formats/codes_fast.h"
#include <math.h>

int whit_floats_parse(const char *name, const char *want, const whit_format *fmt, whit_spec *spec) {
	if (strcmp(name, want)) return -1;
	*spec = (whit_spec){ .fmt = fmt };
	return 0;
}

int whit_floats_planes(int dtype, int64_t width, whit_plane_desc out[WHIT_PLANES]) {
	out[0] = (whit_plane_desc){ "", dtype, width, (size_t)width * (dtype == WHIT_F32 ? 4 : 2) };
	return 1;
}

void whit_floats_decode(const whit_mat *m, int dtype, int64_t r0, int64_t r1, float *out) {
	for (int64_t r = r0; r < r1; r++, out += m->width) {
		const uint8_t *src = m->plane[0] + (size_t)r * m->row_bytes[0];
		if (dtype == WHIT_F32) memcpy(out, src, (size_t)m->width * 4);
		else if (dtype == WHIT_F16) whit_f16_to_f32_n(out, src, m->width);
		else whit_bf16_to_f32_n(out, src, m->width);
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

void whit_floats_gemv_plain(const whit_mat *m, int dtype, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
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

void whit_floats_gemv(const whit_mat *m, int dtype, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
#if WHIT_SIMD
	if (whit_cpu_level() >= 2) whit_floats_gemv_avx512(m, dtype, r0, r1, x, T, y, ldy);
	else if (whit_cpu_level() == 1) whit_floats_gemv_avx2(m, dtype, r0, r1, x, T, y, ldy);
	else
#endif
		whit_floats_gemv_plain(m, dtype, r0, r1, x, T, y, ldy);
}
