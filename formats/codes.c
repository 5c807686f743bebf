#include "formats/codes_fast.h"
#include <float.h>
#include <math.h>

/* ---- bits ---- */

/* Eight bytes of `bits` bits each to one field of 8 * bits, and back: neighbours are joined three times. */
static inline uint64_t squeeze(uint64_t v, int bits) {
	v = (v & UINT64_C(0x00ff00ff00ff00ff)) | (v & UINT64_C(0xff00ff00ff00ff00)) >> (8 - bits);
	v = (v & UINT64_C(0x0000ffff0000ffff)) | (v & UINT64_C(0xffff0000ffff0000)) >> 2 * (8 - bits);
	return (v & UINT64_C(0x00000000ffffffff)) | (v & UINT64_C(0xffffffff00000000)) >> 4 * (8 - bits);
}

static inline uint64_t spread(uint64_t v, int bits) {
	uint64_t one = (UINT64_C(1) << bits) - 1, two = (UINT64_C(1) << 2 * bits) - 1,
	         four = (UINT64_C(1) << 4 * bits) - 1;
	v = (v & four) | (v & four << 4 * bits) << 4 * (8 - bits);
	v = (v & two * UINT64_C(0x0000000100000001)) | (v & (two * UINT64_C(0x0000000100000001)) << 2 * bits)
	                                                       << 2 * (8 - bits);
	one *= UINT64_C(0x0001000100010001);
	return (v & one) | (v & one << bits) << (8 - bits);
}

void whit_codes_pack(uint8_t *dst, const uint8_t *code, int64_t n, int bits) {
	int64_t i = 0;
	for (; i + 8 <= n; i += 8, dst += bits) {
		uint64_t v = squeeze(whit_load_u64(code + i), bits);
		memcpy(dst, &v, (size_t)bits);
	}
	if (i == n) return;
	uint64_t v = 0;
	memcpy(&v, code + i, (size_t)(n - i));
	v = squeeze(v, bits);
	memcpy(dst, &v, (size_t)whit_codes_bytes(n - i, bits));
}

void whit_codes_unpack(uint8_t *code, const uint8_t *src, int64_t n, int bits) {
	for (int64_t i = 0; i < n; i += 8, src += bits) {
		int64_t k = WHIT_MIN(8, n - i);
		uint64_t v = 0;
		memcpy(&v, src, (size_t)whit_codes_bytes(k, bits));
		v = spread(v, bits);
		memcpy(code + i, &v, (size_t)k);
	}
}

/* ---- scales ---- */

float whit_codes_scale(const whit_codes *c, int64_t r, int64_t g) {
	const uint8_t *p = c->m->plane[1] + (size_t)r * c->m->row_bytes[1];
	return c->m->scale_f32 ? whit_load_f32(p + 4 * g) : whit_f16_to_f32(whit_load_u16(p + 2 * g));
}

float whit_scale_round(double s, int scale_f32, int *bad) {
	if (scale_f32) return (float)fmax(fmin(s, FLT_MAX), -FLT_MAX);
	if (!(fabs(s) <= 65504) || (s != 0 && fabs(s) < 0x1p-14)) ++*bad;
	return whit_f16_to_f32(whit_f32_to_f16((float)s));
}

void whit_scale_put(const whit_mat *m, int64_t r, int64_t g, float s) {
	uint8_t *p = (uint8_t *)m->plane[1] + (size_t)r * m->row_bytes[1];
	if (m->scale_f32) {
		memcpy(p + 4 * g, &s, 4);
	} else {
		uint16_t h = whit_f32_to_f16(s);
		memcpy(p + 2 * g, &h, 2);
	}
}

/* ---- plain ---- */

/* One row of m->width weights. code is scratch. */
static void decode_row(const whit_codes *c, int64_t r, uint8_t *code, float *out) {
	int64_t n = c->m->width;
	whit_codes_unpack(code, c->m->plane[0] + (size_t)r * c->m->row_bytes[0], n, c->bits);
	for (int64_t g = 0; g < c->groups; g++) {
		float s = whit_codes_scale(c, r, g);
		for (int64_t i = g * c->group; i < WHIT_MIN(n, (g + 1) * c->group); i++) out[i] = s * c->level[code[i]];
	}
}

void whit_codes_decode_plain(const whit_codes *c, int64_t r0, int64_t r1, float *out) {
	uint8_t *code = whit_alloc((size_t)c->m->width);
	for (int64_t r = r0; r < r1; r++) decode_row(c, r, code, out + (r - r0) * c->m->width);
	whit_free(code);
}

void whit_codes_gemv_plain(const whit_codes *c, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	int64_t n = c->m->width;
	uint8_t *code = whit_alloc((size_t)n);
	float *w = whit_alloc((size_t)n * sizeof(float));
	for (int64_t r = r0; r < r1; r++) {
		decode_row(c, r, code, w);
		for (int t = 0; t < T; t++) {
			double acc = 0;
			for (int64_t i = 0; i < n; i++) acc += (double)w[i] * x[t * n + i];
			y[t * ldy + r] = (float)acc;
		}
	}
	whit_free(w);
	whit_free(code);
}

/* ---- the fastest this CPU has ---- */

void whit_codes_decode(const whit_codes *c, int64_t r0, int64_t r1, float *out) {
#if WHIT_SIMD
	if (whit_cpu_level() >= 2)
		whit_codes_decode_avx512(c, r0, r1, out);
	else if (whit_cpu_level() == 1)
		whit_codes_decode_avx2(c, r0, r1, out);
	else
#endif
		whit_codes_decode_plain(c, r0, r1, out);
}

void whit_codes_gemv(const whit_codes *c, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
#if WHIT_SIMD
	if (whit_cpu_level() >= 2)
		whit_codes_gemv_avx512(c, r0, r1, x, T, y, ldy);
	else if (whit_cpu_level() == 1)
		whit_codes_gemv_avx2(c, r0, r1, x, T, y, ldy);
	else
#endif
		whit_codes_gemv_plain(c, r0, r1, x, T, y, ldy);
}
