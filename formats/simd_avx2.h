/* simd_avx2: 8 floats. See simd.h. Only for *_avx2.c. */
#include "formats/simd.h"
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline, unused)) TARGET
#define LEVEL(name) name##_avx2
enum { W = 8 };
typedef __m256 vf;
typedef __m256i vi;
typedef __m256d vd;
typedef uint32_t vu __attribute__((vector_size(32)));

INLINE vf zero(void) { return _mm256_setzero_ps(); }
INLINE vf set1(float x) { return _mm256_set1_ps(x); }
INLINE vf ld(const float *p) { return _mm256_loadu_ps(p); }
INLINE void st(float *p, vf v) { _mm256_storeu_ps(p, v); }
INLINE vf fmadd(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf quotient(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE float sum(vf v) {
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE vf magnitude(vf v) { return _mm256_andnot_ps(set1(-0.0f), v); }
INLINE vf larger(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf smaller(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf rounded(vf v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf ld_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
INLINE vf ld_bf16(const void *p) {
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
INLINE vi ld_u8(const void *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
INLINE vi ld_i8(const void *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64(p)); }
INLINE void st_u8(void *p, vi v) { /* low bytes */
	const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
	                                     -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
	v = _mm256_shuffle_epi8(v, low);
	_mm_storel_epi64(p, _mm_unpacklo_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
INLINE vf to_float(vi v) { return _mm256_cvtepi32_ps(v); }
INLINE vi to_int(vf v) { return _mm256_cvtps_epi32(v); }
INLINE vi iset1(int x) { return _mm256_set1_epi32(x); }
INLINE vi iadd(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vi ishl4(vi a) { return _mm256_slli_epi32(a, 4); }
INLINE vi ild(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE vi shift_right(vi v, int n) { return (vi)((vu)v >> n); }
INLINE vi shift_right_each(vi v, vi n) { return _mm256_srlv_epi32(v, n); }
INLINE vi pick_words(vi v, vi i) { return _mm256_permutevar8x32_epi32(v, i); }
INLINE vf pick(vf v, vi i) { return _mm256_permutevar8x32_ps(v, i); }
INLINE vf gather(const float *table, vi i) { return _mm256_i32gather_ps(table, i, 4); }
/* k + (y > t ? step : 0) */
INLINE vi step_above(vi k, vf y, vf t, int step) {
	return iadd(k, _mm256_and_si256(_mm256_castps_si256(_mm256_cmp_ps(y, t, _CMP_GT_OQ)), iset1(step)));
}
/* a < b ? yes : no */
INLINE vf less_pick(vf a, vf b, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
INLINE vi bits_of(vf v) { return _mm256_castps_si256(v); }
INLINE vf float_of(vi v) { return _mm256_castsi256_ps(v); }
INLINE __m128i f16_of(vf v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf round_f16(vf v) { return _mm256_cvtph_ps(f16_of(v)); }
INLINE void st_f16(uint16_t *p, vf v) { _mm_storeu_si128((__m128i *)p, f16_of(v)); }
/* a, b = 2 W values; their even and their odd ones. */
INLINE void unzip(vf a, vf b, vf *even, vf *odd) {
	vf e = _mm256_shuffle_ps(a, b, 0x88), o = _mm256_shuffle_ps(a, b, 0xdd);
	*even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(e), 0xd8));
	*odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(o), 0xd8));
}
/* v with lanes l and l ^ h exchanged. */
INLINE vf swap_lanes(vf v, int h) {
	return h == 1   ? _mm256_permute_ps(v, 0xb1)
	       : h == 2 ? _mm256_permute_ps(v, 0x4e)
	                : _mm256_permute2f128_ps(v, v, 1);
}

/* W words that hold 8 codes of 3 or 4 bits, 16 of 2, or 32 of 1. */
INLINE vi words(const uint8_t *p, int bits) {
	if (bits != 3) return _mm256_loadu_si256((const __m256i *)p);
	const vi dwords = _mm256_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5);
	const vi bytes =
	        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
	vi v = _mm256_set_m128i(_mm_loadl_epi64((const __m128i *)(p + 16)), _mm_loadu_si128((const __m128i *)p));
	return _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(v, dwords), bytes);
}

/* A table of 16 floats; lookups use the low 4 bits of each lane, or the low 3 where bits <= 3. */
typedef struct lut {
	vf low, high;
} lut;
INLINE lut lut_of(const float t[16]) { return (lut){ld(t), ld(t + 8)}; }
INLINE vf lookup(lut t, vi i, int bits) {
	vf v = pick(t.low, i);
	return bits <= 3 ? v : _mm256_blendv_ps(v, pick(t.high, i), _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}

INLINE vd dzero(void) { return _mm256_setzero_pd(); }
INLINE vd low_half(vf v) { return _mm256_cvtps_pd(_mm256_castps256_ps128(v)); }
INLINE vd high_half(vf v) { return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)); }
INLINE vd dfma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
INLINE vd dmul(vd a, vd b) { return _mm256_mul_pd(a, b); }
INLINE void dst(double *p, vd v) { _mm256_storeu_pd(p, v); }

/* ---- bytes, for ints_simd.h ---- */

enum { ROWS = 1, TOKENS = 4 }; /* a register tile of products: vectors of rows, tokens */
INLINE vi izero(void) { return _mm256_setzero_si256(); }
INLINE void ist(int32_t *p, vi v) { _mm256_storeu_si256((__m256i *)p, v); }
INLINE vi shift_left(vi v, int n) { return (vi)((vu)v << n); }
INLINE float largest(vf v) {
	__m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	s = _mm_max_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
INLINE vi whole(__m256i low, __m256i high) {
	(void)high;
	return low;
}
/* Lane += sum of its four products u * a; u beyond 128 only where wide. */
INLINE vi dot4(vi acc, vi u, vi a, int wide) {
	const vi ones = _mm256_set1_epi16(1);
	vi half = _mm256_avg_epu8(u, izero());
	if (!wide) return iadd(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, a), ones));
	acc = iadd(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(half, a), ones));
	return iadd(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_sub_epi8(u, half), a), ones));
}
/* 1, 2 or 4 floats, each in as many lanes. */
INLINE vf each_1(const float *p) { return set1(*p); }
INLINE vf each_2(const float *p) { return _mm256_set_m128(_mm_set1_ps(p[1]), _mm_set1_ps(p[0])); }
INLINE vf each_4(const float *p) { return pick(ld(p), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)); }
/* Lane i of v[k] and lane k of v[i] change places. */
INLINE void transpose(vi v[8]) {
	vi e[8];
	WHIT_UNROLL for (int q = 0; q < 8; q += 4) {
		vi a = _mm256_unpacklo_epi32(v[q], v[q + 1]), b = _mm256_unpackhi_epi32(v[q], v[q + 1]);
		vi c = _mm256_unpacklo_epi32(v[q + 2], v[q + 3]), d = _mm256_unpackhi_epi32(v[q + 2], v[q + 3]);
		e[q] = _mm256_unpacklo_epi64(a, c), e[q + 1] = _mm256_unpackhi_epi64(a, c);
		e[q + 2] = _mm256_unpacklo_epi64(b, d), e[q + 3] = _mm256_unpackhi_epi64(b, d);
	}
	WHIT_UNROLL for (int j = 0; j < 4; j++) {
		v[j] = _mm256_permute2x128_si256(e[j], e[4 + j], 0x20);
		v[4 + j] = _mm256_permute2x128_si256(e[j], e[4 + j], 0x31);
	}
}
