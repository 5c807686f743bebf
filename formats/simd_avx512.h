/* simd_avx512: 16 floats. See simd.h. Only for *_avx512.c and, with WHIT_VNNI, *_vnni.c. */
#include "formats/simd.h"
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#ifdef WHIT_VNNI
#define TARGET __attribute__((target("avx512vnni,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#define LEVEL(name) name##_vnni
#else
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#define LEVEL(name) name##_avx512
#endif
#define INLINE static inline __attribute__((always_inline, unused)) TARGET
#define WHIT_512
enum { W = 16 };
typedef __m512 vf;
typedef __m512i vi;
typedef __m512d vd;
typedef uint32_t vu __attribute__((vector_size(64)));

INLINE vf zero(void) { return _mm512_setzero_ps(); }
INLINE vf set1(float x) { return _mm512_set1_ps(x); }
INLINE vf ld(const float *p) { return _mm512_loadu_ps(p); }
INLINE void st(float *p, vf v) { _mm512_storeu_ps(p, v); }
INLINE vf fmadd(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf quotient(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE float sum(vf v) { return _mm512_reduce_add_ps(v); }
INLINE vf magnitude(vf v) { return _mm512_abs_ps(v); }
INLINE vf larger(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf smaller(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf rounded(vf v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf ld_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE vf ld_bf16(const void *p) {
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
INLINE vi ld_u8(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
INLINE vi ld_i8(const void *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(p)); }
INLINE void st_u8(void *p, vi v) { _mm_storeu_si128(p, _mm512_cvtepi32_epi8(v)); } /* low bytes */
INLINE vf to_float(vi v) { return _mm512_cvtepi32_ps(v); }
INLINE vi to_int(vf v) { return _mm512_cvtps_epi32(v); }
INLINE vi iset1(int x) { return _mm512_set1_epi32(x); }
INLINE vi iadd(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi ishl4(vi a) { return _mm512_slli_epi32(a, 4); }
INLINE vi ild(const int32_t *p) { return _mm512_loadu_si512(p); }
INLINE vi shift_right(vi v, int n) { return (vi)((vu)v >> n); }
INLINE vi shift_right_each(vi v, vi n) { return _mm512_srlv_epi32(v, n); }
INLINE vi pick_words(vi v, vi i) { return _mm512_permutexvar_epi32(i, v); }
INLINE vf pick(vf v, vi i) { return _mm512_permutexvar_ps(i, v); }
INLINE vf gather(const float *table, vi i) { return _mm512_i32gather_ps(i, table, 4); }
/* k + (y > t ? step : 0) */
INLINE vi step_above(vi k, vf y, vf t, int step) {
	return _mm512_mask_add_epi32(k, _mm512_cmp_ps_mask(y, t, _CMP_GT_OQ), k, iset1(step));
}
/* a < b ? yes : no */
INLINE vf less_pick(vf a, vf b, vf yes, vf no) {
	return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
INLINE vi bits_of(vf v) { return _mm512_castps_si512(v); }
INLINE vf float_of(vi v) { return _mm512_castsi512_ps(v); }
INLINE __m256i f16_of(vf v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf round_f16(vf v) { return _mm512_cvtph_ps(f16_of(v)); }
INLINE void st_f16(uint16_t *p, vf v) { _mm256_storeu_si256((__m256i *)p, f16_of(v)); }
/* a, b = 2 W values; their even and their odd ones. */
INLINE void unzip(vf a, vf b, vf *even, vf *odd) {
	const vi e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
	*even = _mm512_permutex2var_ps(a, e, b);
	*odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(e, iset1(1)), b);
}
/* v with lanes l and l ^ h exchanged. */
INLINE vf swap_lanes(vf v, int h) {
	switch (h) {
	case 1:
		return _mm512_permute_ps(v, 0xb1);
	case 2:
		return _mm512_permute_ps(v, 0x4e);
	case 4:
		return _mm512_shuffle_f32x4(v, v, 0xb1);
	default:
		return _mm512_shuffle_f32x4(v, v, 0x4e);
	}
}

/* W words that hold 8 codes of 3 or 4 bits, 16 of 2, or 32 of 1. */
INLINE vi words(const uint8_t *p, int bits) {
	if (bits != 3) return _mm512_loadu_si512(p);
	const vi dwords = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
	const vi bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
	return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(dwords, _mm512_maskz_loadu_epi32(0x0fff, p)), bytes);
}

/* A table of 16 floats; lookups use the low 4 bits of each lane. */
typedef struct lut {
	vf t;
} lut;
INLINE lut lut_of(const float t[16]) { return (lut){ld(t)}; }
INLINE vf lookup(lut t, vi i, int bits) {
	(void)bits;
	return pick(t.t, i);
}

INLINE vd dzero(void) { return _mm512_setzero_pd(); }
INLINE vd low_half(vf v) { return _mm512_cvtps_pd(_mm512_castps512_ps256(v)); }
INLINE vd high_half(vf v) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)); }
INLINE vd dfma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
INLINE vd dmul(vd a, vd b) { return _mm512_mul_pd(a, b); }
INLINE void dst(double *p, vd v) { _mm512_storeu_pd(p, v); }

/* ---- bytes, for ints_simd.h ---- */

enum { ROWS = 2, TOKENS = 6 }; /* a register tile of products: vectors of rows, tokens */
INLINE vi izero(void) { return _mm512_setzero_si512(); }
INLINE void ist(int32_t *p, vi v) { _mm512_storeu_si512(p, v); }
INLINE vi shift_left(vi v, int n) { return (vi)((vu)v << n); }
INLINE float largest(vf v) { return _mm512_reduce_max_ps(v); }
INLINE vi whole(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }
/* Lane += sum of its four products u * a; u beyond 128 only where wide. */
INLINE vi dot4(vi acc, vi u, vi a, int wide) {
#ifdef WHIT_VNNI
	(void)wide;
	return _mm512_dpbusd_epi32(acc, u, a);
#else
	const vi ones = _mm512_set1_epi16(1);
	vi half = _mm512_avg_epu8(u, izero());
	if (!wide) return iadd(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(u, a), ones));
	acc = iadd(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(half, a), ones));
	return iadd(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_sub_epi8(u, half), a), ones));
#endif
}
/* 1, 2 or 4 floats, each in as many lanes. */
INLINE vf each_1(const float *p) { return set1(*p); }
INLINE vf each_2(const float *p) {
	double two;
	memcpy(&two, p, 8);
	return pick(_mm512_castpd_ps(_mm512_set1_pd(two)),
	            _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
}
INLINE vf each_4(const float *p) {
	return pick(_mm512_broadcast_f32x4(_mm_loadu_ps(p)),
	            _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
}
/* Lane i of v[k] and lane k of v[i] change places. */
INLINE void transpose(vi v[16]) {
	vi e[16];
	WHIT_UNROLL for (int q = 0; q < 16; q += 4) {
		vi a = _mm512_unpacklo_epi32(v[q], v[q + 1]), b = _mm512_unpackhi_epi32(v[q], v[q + 1]);
		vi c = _mm512_unpacklo_epi32(v[q + 2], v[q + 3]), d = _mm512_unpackhi_epi32(v[q + 2], v[q + 3]);
		e[q] = _mm512_unpacklo_epi64(a, c), e[q + 1] = _mm512_unpackhi_epi64(a, c);
		e[q + 2] = _mm512_unpacklo_epi64(b, d), e[q + 3] = _mm512_unpackhi_epi64(b, d);
	}
	WHIT_UNROLL for (int j = 0; j < 4; j++) { /* 128-bit lanes */
		vi a = _mm512_shuffle_i32x4(e[j], e[4 + j], 0x44), b = _mm512_shuffle_i32x4(e[8 + j], e[12 + j], 0x44);
		vi c = _mm512_shuffle_i32x4(e[j], e[4 + j], 0xee), d = _mm512_shuffle_i32x4(e[8 + j], e[12 + j], 0xee);
		v[j] = _mm512_shuffle_i32x4(a, b, 0x88), v[4 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
		v[8 + j] = _mm512_shuffle_i32x4(c, d, 0x88), v[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
	}
}
