/* ints_simd: the pieces of whit_ints_plan for one vector level; W lanes of 32 bits. Included by ints_avx2.c,
 * ints_avx512.c and ints_vnni.c. Codes are unpacked 32 at a time, in their order, by the same code everywhere; a
 * format without that is unpacked by its own function to bytes (BYTES) first.
 *
 * Products of bytes: u unsigned, a signed. With VNNI one instruction adds four of them to a lane. Without, pairs are
 * added in 16 bits: 2 * 128 * 127 fits, so u beyond 128 (zero is 128: `wide`) goes in two halves. */
#include <math.h>

enum fmt_id {
	BYTES,
	Q1_0,
	Q2_0,
	Q4_0,
	Q4_1,
	Q5_0,
	Q5_1,
	Q8_0,
	Q2_K,
	Q3_K,
	Q4_K,
	Q5_K,
	Q6_K,
	IQ4_NL,
	IQ4_XS,
	MXFP4,
	TQ2_0
};

extern const whit_format whit_format_q1_0, whit_format_q2_0, whit_format_q4_0, whit_format_q4_1, whit_format_q5_0,
        whit_format_q5_1, whit_format_q8_0, whit_format_q2_k, whit_format_q3_k, whit_format_q4_k, whit_format_q5_k,
        whit_format_q6_k, whit_format_iq4_nl, whit_format_iq4_xs, whit_format_mxfp4, whit_format_tq2_0;

/* What is constant about a format; folds away where id is. */
INLINE int weights_of(const int id) {
	return id == BYTES || id == Q4_0 || id == Q4_1 || id == Q5_0 || id == Q5_1 || id == Q8_0 || id == IQ4_NL ||
	                       id == MXFP4
	               ? 32
	       : id == Q2_0 ? 64
	       : id == Q1_0 ? 128
	                    : 256;
}
INLINE int bytes_of(const int id) {
	static const int bytes[] = {
	        [BYTES] = 32, [Q1_0] = 18,   [Q2_0] = 18,    [Q4_0] = 18,  [Q4_1] = 20,  [Q5_0] = 22,
	        [Q5_1] = 24,  [Q8_0] = 34,   [Q2_K] = 84,    [Q3_K] = 110, [Q4_K] = 144, [Q5_K] = 176,
	        [Q6_K] = 210, [IQ4_NL] = 18, [IQ4_XS] = 136, [MXFP4] = 17, [TQ2_0] = 66};
	return bytes[id];
}

/* ---- 32 codes ---- */

typedef __m256i y32;
INLINE y32 y_ld(const void *p) { return _mm256_loadu_si256(p); }
INLINE y32 y_set(int b) { return _mm256_set1_epi8((char)b); }
INLINE y32 y_and(y32 a, y32 b) { return _mm256_and_si256(a, b); }
INLINE y32 y_or(y32 a, y32 b) { return _mm256_or_si256(a, b); }
INLINE y32 y_right(y32 a, int n) { return _mm256_srl_epi16(a, _mm_cvtsi32_si128(n)); }
INLINE y32 y_left(y32 a, int n) { return _mm256_sll_epi16(a, _mm_cvtsi32_si128(n)); }

/* 16 bytes: low nibbles, then high ones. */
INLINE y32 nibbles(const uint8_t *p) {
	__m128i x = _mm_loadu_si128((const __m128i *)p);
	return y_and(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), y_set(15));
}
/* Bit i of the 32 at p to byte i, as `value` or 0. */
INLINE y32 bits(const uint8_t *p, int value) {
	const y32 spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
	const y32 bit = _mm256_set1_epi64x((long long)0x8040201008040201);
	y32 v = _mm256_shuffle_epi8(_mm256_set1_epi32((int)whit_load_u32(p)), spread);
	return y_and(_mm256_cmpeq_epi8(y_and(v, bit), bit), y_set(value));
}
INLINE y32 levels(y32 code, const int8_t *t, int add) {
	y32 table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)t));
	return _mm256_add_epi8(_mm256_shuffle_epi8(table, code), y_set(add));
}
/* 8 bytes of four codes of 2 bits: dword i holds byte i; two steps put its codes into bytes. */
INLINE y32 pairs(const uint8_t *p) {
	y32 v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
	v = y_or(v, _mm256_slli_epi32(v, 12));
	return y_and(y_or(v, _mm256_slli_epi32(v, 6)), y_set(3));
}

/* Codes 32 c .. of the block at p. */
INLINE y32 codes32(const int id, const uint8_t *p, int c) {
	static const int8_t f4[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
	switch (id) {
	case Q1_0:
		return bits(p + 2 + 4 * c, 2);
	case Q2_0:
		return pairs(p + 2 + 8 * c);
	case Q4_0:
		return nibbles(p + 2);
	case Q4_1:
		return nibbles(p + 4);
	case Q5_0:
		return y_or(nibbles(p + 6), bits(p + 2, 16));
	case Q5_1:
		return y_or(nibbles(p + 8), bits(p + 4, 16));
	case Q8_0:
		return _mm256_xor_si256(y_ld(p + 2), y_set(128));
	case Q2_K:
		return y_and(y_right(y_ld(p + 16 + c / 4 * 32), 2 * (c % 4)), y_set(3));
	case Q3_K:
		return y_or(y_and(y_right(y_ld(p + 32 + c / 4 * 32), 2 * (c % 4)), y_set(3)),
		            y_left(y_and(y_right(y_ld(p), c), y_set(1)), 2));
	case Q4_K:
		return y_and(y_right(y_ld(p + 16 + c / 2 * 32), 4 * (c % 2)), y_set(15));
	case Q5_K:
		return y_or(y_and(y_right(y_ld(p + 48 + c / 2 * 32), 4 * (c % 2)), y_set(15)),
		            y_left(y_and(y_right(y_ld(p + 16), c), y_set(1)), 4));
	case Q6_K:
		return y_or(y_and(y_right(y_ld(p + c / 4 * 64 + c % 2 * 32), 4 * (c / 2 % 2)), y_set(15)),
		            y_left(y_and(y_right(y_ld(p + 128 + c / 4 * 32), 2 * (c % 4)), y_set(3)), 4));
	case IQ4_NL:
		return levels(nibbles(p + 2), whit_iq4_levels, 128);
	case IQ4_XS:
		return levels(nibbles(p + 8 + 16 * c), whit_iq4_levels, 128);
	case MXFP4:
		return levels(nibbles(p + 1), f4, 0);
	case TQ2_0:
		return y_and(y_right(y_ld(p + c / 4 * 32), 2 * (c % 4)), y_set(3));
	default:
		return y_ld(p);
	}
}

/* Codes from STEP c on, counted from the block at p; beyond the row, of which `have` are left, zeros. */
enum { STEP = 4 * W };
INLINE vi codes(const int id, const uint8_t *p, int c, int64_t have) {
	const int n = weights_of(id), b = bytes_of(id), k = c * STEP;
	y32 low = codes32(id, p + k / n * b, k % n / 32), high = _mm256_setzero_si256();
	if (STEP > 32 && have > 32) high = codes32(id, p + (k + 32) / n * b, (k + 32) % n / 32);
	return whole(low, high);
}

/* ---- scales ---- */

INLINE __m256 eight_f16(const uint8_t *p, int64_t step) {
#define H(i) (short)whit_load_u16(p + (i)*step)
	return _mm256_cvtph_ps(_mm_setr_epi16(H(0), H(1), H(2), H(3), H(4), H(5), H(6), H(7)));
#undef H
}
INLINE float one_f16(const uint8_t *p) { return _cvtsh_ss(whit_load_u16(p)); }

/* An F16 at byte `at` of each of n blocks, as often as it has groups of 32. */
INLINE void scales_f16(const int id, const uint8_t *p, int at, int64_t n, float *s) {
	const int b = bytes_of(id), per = weights_of(id) / 32;
	int64_t i = 0;
	if (per == 1)
		for (; i + 8 <= n; i += 8) _mm256_storeu_ps(s + i, eight_f16(p + i * b + at, b));
	for (; i < n; i++) {
		float d = one_f16(p + i * b + at);
		for (int k = 0; k < per; k++) s[i * per + k] = d;
	}
}

/* q4_k, q5_k: eight scales and minima of 6 bits in 12 bytes: four bytes of the one, four of the other, and their
 * nibbles of the upper four, whose top bits are those of the first eight bytes. */
INLINE void scales_k(const uint8_t *p, float *s, float *m) {
	uint64_t a = whit_load_u32(p + 4), b = whit_load_u32(p + 8), c = whit_load_u32(p + 12);
	uint64_t scale = (a & 0x3f3f3f3f) | ((c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)) << 32;
	uint64_t min = (b & 0x3f3f3f3f) | ((c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)) << 32;
	__m256 d = _mm256_set1_ps(one_f16(p)), e = _mm256_set1_ps(-one_f16(p + 2));
	_mm256_storeu_ps(
	        s, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)scale)))));
	_mm256_storeu_ps(m,
	                 _mm256_mul_ps(e, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)min)))));
}

/* Scales, and shifts where the format has them, of a row of n weights. */
INLINE void scales(const int id, const uint8_t *p, int64_t n, float *s, float *m) {
	const int b = bytes_of(id);
	int64_t blocks = n / weights_of(id);
	switch (id) {
	case Q4_1:
	case Q5_1:
		scales_f16(id, p, 2, blocks, m);
		scales_f16(id, p, 0, blocks, s);
		return;
	case TQ2_0:
		scales_f16(id, p, 64, blocks, s);
		return;
	case Q4_K:
	case Q5_K:
		for (; blocks--; p += b, s += 8, m += 8) scales_k(p, s, m);
		return;
	case Q6_K:
		for (; blocks--; p += b, s += 16)
			for (int k = 0; k < 16; k += W)
				st(s + k, mul(set1(one_f16(p + 208)), to_float(ld_i8(p + 192 + k))));
		return;
	case Q2_K:
		for (; blocks--; p += b, s += 16, m += 16)
			for (int k = 0; k < 16; k += W) {
				vi q = ld_u8(p + k);
				vi low = shift_right(shift_left(q, 28), 28);
				st(s + k, mul(set1(one_f16(p + 80)), to_float(low)));
				st(m + k, mul(set1(-one_f16(p + 82)), to_float(shift_right(q, 4))));
			}
		return;
	case Q3_K:
		for (; blocks--; p += b, s += 16)
			for (int k = 0; k < 16; k++) {
				int q = (p[96 + k % 8] >> 4 * (k / 8) & 15) | (p[104 + k % 4] >> 2 * (k / 4) & 3) << 4;
				s[k] = one_f16(p + 108) * (float)(q - 32);
			}
		return;
	case IQ4_XS:
		for (; blocks--; p += b, s += 8)
			for (int k = 0; k < 8; k++) {
				int q = (p[4 + k / 2] >> 4 * (k % 2) & 15) | (whit_load_u16(p + 2) >> 2 * k & 3) << 4;
				s[k] = one_f16(p) * (float)(q - 32);
			}
		return;
	case MXFP4:
		for (; blocks--; p += b, s++) {
			uint32_t v = *p < 2 ? 0x00200000u << *p : (uint32_t)(*p - 1) << 23;
			memcpy(s, &v, 4);
		}
		return;
	default:
		scales_f16(id, p, 0, blocks, s);
	}
}

/* ---- one token ---- */

#ifdef WHIT_512
#include "formats/ints_rows.h"
#else
static int order_of(int id, int i) { return (void)id, i; }
static int folds(int id) { return (void)id, 0; }
INLINE int has_rows(const int id) { return (void)id, 0; }
INLINE void row_256(const int id, const uint8_t *p, const int8_t *a, const int32_t *init, const float *lane,
                    const float *d, const float *s, vf acc[4]) {
	(void)id, (void)p, (void)a, (void)init, (void)lane, (void)d, (void)s, (void)acc;
}
#endif

/* STEP weights, codes from STEP c on of the block at p. per: groups of them, scales at s. */
INLINE vf step(const int id, const uint8_t *p, int c, int64_t have, const int8_t *a, const int32_t *init,
               const float *s, const int per, const int shifts, const int wide, vf acc) {
	vi dot = dot4(shifts ? izero() : ild(init), codes(id, p, c, have), ild((const int32_t *)a), wide);
	return fmadd(to_float(dot), per == 1 ? each_1(s) : per == 2 ? each_2(s) : each_4(s), acc);
}

enum { PREFETCH = 8192 }; /* bytes ahead: rows follow each other, pages end what hardware foresees */

/* group, shifts, wide are those of the format, constants. */
INLINE void gemv_as(const int id, const int group, const int shifts, const int wide, const whit_mat *m, int64_t r0,
                    int64_t r1, const whit_ints_x *x, float *y, void *work) {
	const int per = STEP / group;
	int64_t n = m->width, groups = n / group, ahead = has_rows(id) ? n / 256 * 256 : 0;
	float *s = work, *t = s + groups + 16;
	uint8_t *u = (uint8_t *)(t + groups + 16);
	for (int64_t r = r0; r < r1; r++) {
		const uint8_t *p = m->plane[0] + (size_t)r * m->row_bytes[0];
		vf acc[4] = {zero(), zero(), zero(), zero()};
		int64_t i = 0;
		for (size_t k = 0; k < m->row_bytes[0]; k += 64)
			__builtin_prefetch(p + PREFETCH + k); /* half again from memory */
		for (; i < ahead; i += 256, p += 256 / weights_of(id) * bytes_of(id))
			row_256(id, p, x->code + i, x->init + i / 4, x->lane + i / 4, x->d + i / group,
			        x->s + i / group, acc);
		if (i < n) { /* what is left: scales first */
			memset(s + groups, 0, 16 * sizeof *s), memset(t + groups, 0, 16 * sizeof *t);
			if (id == BYTES)
				whit_ints_unpack_row(m, r, u, s, t), p = u;
			else
				scales(id, p, n - i, s + i / group, t + i / group);
			for (int64_t g = i / group; g < groups; g += W) {
				if (shifts) acc[0] = fmadd(ld(t + g), ld(x->s + g), acc[0]);
				st(s + g, mul(ld(s + g), ld(x->d + g)));
			}
		}
		for (; i + 256 <= n; i += 256, p += 256 / weights_of(id) * bytes_of(id))
			WHIT_UNROLL for (int c = 0; c < 256 / STEP; c++) {
				int64_t k = i + c * STEP;
				acc[c % 4] = step(id, p, c, 256, x->code + k, x->init + k / 4, s + k / group, per,
				                  shifts, wide, acc[c % 4]);
			}
		for (int c = 0; i + c * STEP < n; c++) {
			int64_t k = i + c * STEP;
			acc[0] = step(id, p, c, n - k, x->code + k, x->init + k / 4, s + k / group, per, shifts, wide,
			              acc[0]);
		}
		y[r] = sum(add(add(acc[0], acc[1]), add(acc[2], acc[3])));
	}
}

/* ---- tiles ---- */

INLINE void pack_as(const int id, const whit_mat *m, int64_t r0, const whit_ints_tile *t, void *work) {
	const whit_ints *f = m->spec.fmt->block->ints;
	int64_t n = m->width, groups = t->groups, pad = (n + 63) / 64 * 64;
	float *s = work, *e = s + groups + 16;
	uint8_t *u = (uint8_t *)(e + groups + 16);
	const uint8_t *p[W];
	for (int k = 0; k < W; k++) {
		int64_t r = WHIT_MIN(r0 + k, m->rows - 1);
		p[k] = m->plane[0] + (size_t)r * m->row_bytes[0];
		if (id == BYTES)
			whit_ints_unpack_row(m, r, u + k * pad, s, e), p[k] = u + k * pad;
		else
			scales(id, p[k], n, s, e);
		for (int64_t g = 0; g < groups; g++) t->scale[g * W + k] = s[g];
		for (int64_t g = 0; f->shifts && g < groups; g++) t->shift[g * W + k] = e[g];
	}
	for (int64_t i = 0; i < n; i += STEP) {
		int64_t at = i / 256 * (256 / weights_of(id)) * bytes_of(id);
		vi v[W];
		for (int k = 0; k < W; k++) v[k] = codes(id, p[k] + at, (int)(i % 256 / STEP), n - i);
		transpose(v);
		for (int k = 0; k < W; k++) ist((int32_t *)(t->u + i * W) + k * W, v[k]);
	}
}

/* ---- many tokens ---- */

INLINE void gemm_as(const int group, const int shifts, const int wide, const whit_ints_tile *t, const whit_ints_x *x,
                    int64_t n, int64_t T, float *y, int64_t ldy) {
	enum { R = ROWS, P = TOKENS };
	vf total[R][P];
	const uint8_t *u = t->u;
	const int8_t *a = x->code;
	WHIT_UNROLL for (int r = 0; r < R; r++) WHIT_UNROLL for (int k = 0; k < P; k++) total[r][k] = zero();
	for (int64_t g = 0; g < t->groups; g++) {
		vi dot[R][P];
		WHIT_UNROLL for (int k = 0; k < P; k++) {
			vi init = shifts ? izero() : iset1(x->init[g * P + k]);
			WHIT_UNROLL for (int r = 0; r < R; r++) dot[r][k] = init;
		}
		for (int i = 0; i < group / 4; i++, u += 4 * W, a += 4 * P) {
			vi w[R];
			WHIT_UNROLL for (int r = 0; r < R; r++) w[r] = ild((const int32_t *)(u + r * t->u_size));
			WHIT_UNROLL for (int k = 0; k < P; k++) {
				vi b = iset1((int)whit_load_u32(a + 4 * k));
				WHIT_UNROLL for (int r = 0; r < R; r++) dot[r][k] = dot4(dot[r][k], w[r], b, wide);
			}
		}
		WHIT_UNROLL for (int r = 0; r < R; r++) {
			vf s = ld(t->scale + r * t->floats + g * W);
			WHIT_UNROLL for (int k = 0; k < P; k++) total[r][k] =
			        fmadd(to_float(dot[r][k]), mul(s, set1(x->d[g * P + k])), total[r][k]);
			if (!shifts) continue;
			vf e = ld(t->shift + r * t->floats + g * W);
			WHIT_UNROLL for (int k = 0; k < P; k++) total[r][k] =
			        fmadd(e, set1(x->s[g * P + k]), total[r][k]);
		}
	}
	WHIT_UNROLL for (int r = 0; r < R; r++) WHIT_UNROLL for (int k = 0; k < P; k++) {
		int64_t have = n - r * W;
		if (k >= T || have <= 0) continue;
		float tail[W];
		if (have >= W) {
			st(y + k * ldy + r * W, total[r][k]);
			continue;
		}
		st(tail, total[r][k]);
		memcpy(y + k * ldy + r * W, tail, (size_t)have * sizeof *tail);
	}
}

/* ---- activations ---- */

TARGET static void LEVEL(round)(int act, const float *x, int64_t n, int8_t *code, int32_t *quad, float *d,
                                float *base) {
	const int size = act == WHIT_ACT_Q8_K ? 256 : 32;
	for (int64_t i = 0; i < n; i += size) {
		vf top = zero(), poison = zero(), inverse_all;
		for (int k = 0; k < size; k += W) {
			vf v = ld(x + i + k);
			top = larger(magnitude(v), top);
			poison = fmadd(v, zero(), poison);
		}
		float most = sum(poison) + largest(top), inverse;
		if (size == 256) /* the sign is that of the first among equals */
			for (int k = 0; k < size; k++)
				if (fabsf(x[i + k]) == most) {
					most = x[i + k];
					break;
				}
		float scale = whit_ints_scale(act, most, &inverse);
		inverse_all = set1(inverse);
		if (inverse == 0)
			memset(code + i, 0, (size_t)size);
		else
			for (int k = 0; k < size; k += W) st_u8(code + i + k, to_int(mul(ld(x + i + k), inverse_all)));
		for (int64_t k = i; k < i + size; k += 32) {
			base[k / 32] = scale;
			d[k / 32] = act == WHIT_ACT_Q8_K ? scale : _cvtsh_ss(_cvtss_sh(scale, 0));
		}
	}
	const vi ones = iset1(0x01010101);
	for (int64_t i = 0; i < n; i += 4 * W) {
		int32_t four[W];
		if (n - i >= 4 * W) {
			ist(quad + i / 4, dot4(izero(), ones, ild((const int32_t *)(code + i)), 0));
			continue;
		}
		memset(four, 0, sizeof four);
		memcpy(four, code + i, (size_t)(n - i));
		ist(four, dot4(izero(), ones, ild(four), 0));
		memcpy(quad + i / 4, four, (size_t)(n - i));
	}
}

/* ---- the choice of constants ---- */

static int id_of(const whit_format *f) {
	static const struct {
		const whit_format *f;
		int id;
	} row[] = {{&whit_format_q1_0, Q1_0},     {&whit_format_q2_0, Q2_0},     {&whit_format_q4_0, Q4_0},
	           {&whit_format_q4_1, Q4_1},     {&whit_format_q5_0, Q5_0},     {&whit_format_q5_1, Q5_1},
	           {&whit_format_q8_0, Q8_0},     {&whit_format_q2_k, Q2_K},     {&whit_format_q3_k, Q3_K},
	           {&whit_format_q4_k, Q4_K},     {&whit_format_q5_k, Q5_K},     {&whit_format_q6_k, Q6_K},
	           {&whit_format_iq4_nl, IQ4_NL}, {&whit_format_iq4_xs, IQ4_XS}, {&whit_format_mxfp4, MXFP4},
	           {&whit_format_tq2_0, TQ2_0}};
	for (int i = 0; i < WHIT_COUNT(row); i++)
		if (row[i].f == f) return row[i].id;
	return BYTES;
}

/* One function for each format: inlined together they would share one frame of registers. */
#define EACH(F)                                                                                                        \
	F(BYTES, 32, 0, 0)                                                                                             \
	F(Q1_0, 32, 0, 0)                                                                                              \
	F(Q2_0, 32, 0, 0)                                                                                              \
	F(Q4_0, 32, 0, 0) F(Q4_1, 32, 1, 0) F(Q5_0, 32, 0, 0) F(Q5_1, 32, 1, 0) F(Q8_0, 32, 0, 1) F(Q2_K, 16, 1, 0)    \
	        F(Q3_K, 16, 0, 0) F(Q4_K, 32, 1, 0) F(Q5_K, 32, 1, 0) F(Q6_K, 16, 0, 0) F(IQ4_NL, 32, 0, 1)            \
	                F(IQ4_XS, 32, 0, 1) F(MXFP4, 32, 0, 0) F(TQ2_0, 32, 0, 0)
#define GEMV(id, group, shifts, wide)                                                                                  \
	TARGET static void gemv_##id(const whit_mat *m, int64_t r0, int64_t r1, const whit_ints_x *x, float *y,        \
	                             void *work) {                                                                     \
		gemv_as(id, group, shifts, wide, m, r0, r1, x, y, work);                                               \
	}
#define PACK(id, group, shifts, wide)                                                                                  \
	TARGET static void pack_##id(const whit_mat *m, int64_t r0, const whit_ints_tile *t, void *work) {             \
		pack_as(id, m, r0, t, work);                                                                           \
	}
EACH(GEMV)
EACH(PACK)

static int LEVEL(order)(const whit_format *f, uint8_t order[64]) {
	for (int i = 0; i < 64; i++) order[i] = (uint8_t)order_of(id_of(f), i);
	return folds(id_of(f));
}

static void LEVEL(gemv)(const whit_mat *m, int64_t r0, int64_t r1, const whit_ints_x *x, float *y, void *work) {
	switch (id_of(m->spec.fmt)) {
#define CASE(id, group, shifts, wide)                                                                                  \
	case id:                                                                                                       \
		gemv_##id(m, r0, r1, x, y, work);                                                                      \
		break;
		EACH(CASE)
#undef CASE
	}
}

static void LEVEL(pack)(const whit_mat *m, int64_t r0, const whit_ints_tile *t, void *work) {
	switch (id_of(m->spec.fmt)) {
#define CASE(id, group, shifts, wide)                                                                                  \
	case id:                                                                                                       \
		pack_##id(m, r0, t, work);                                                                             \
		break;
		EACH(CASE)
#undef CASE
	}
}

#define GEMM(group, shifts, wide)                                                                                      \
	TARGET static void gemm_##group##shifts##wide(const whit_ints_tile *t, const whit_ints_x *x, int64_t n,        \
	                                              int64_t T, float *y, int64_t ldy) {                              \
		gemm_as(group, shifts, wide, t, x, n, T, y, ldy);                                                      \
	}
GEMM(32, 0, 0)
GEMM(32, 0, 1)
GEMM(32, 1, 0)
GEMM(16, 0, 0)
GEMM(16, 1, 0)

static void LEVEL(gemm)(const whit_ints *f, const whit_ints_tile *t, const whit_ints_x *x, int64_t n, int64_t T,
                        float *y, int64_t ldy) {
	if (f->group == 16)
		(f->shifts ? gemm_1610 : gemm_1600)(t, x, n, T, y, ldy);
	else
		(f->shifts ? gemm_3210 : f->zero == 128 ? gemm_3201 : gemm_3200)(t, x, n, T, y, ldy);
}

const whit_ints_set LEVEL(whit_ints) = {W,           ROWS *W,     TOKENS,     LEVEL(round), LEVEL(order),
                                        LEVEL(gemv), LEVEL(pack), LEVEL(gemm)};
