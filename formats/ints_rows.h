/* ints_rows: 256 weights of a row against one token, for the formats that are fast enough to care, with 512 bits. Part
 * of ints_simd.h. The token's codes come in the order in which the format's bytes unfold into registers without moving;
 * `lane` holds what each 32-bit lane is multiplied by. */

/* Position i of 64 four-byte steps holds step order_of(id, i) of its 256 weights. */
static int order_of(int id, int i) {
	switch (id) {
	case Q4_0: /* two times low nibbles of four blocks, then their high ones */
		return i / 32 * 32 + i % 16 / 4 * 8 + i / 16 % 2 * 4 + i % 4;
	case Q4_K: /* 64 bytes: low nibbles are groups 0 and 2, high ones 1 and 3 */
		return i / 32 * 32 + i / 8 % 2 * 16 + i / 16 % 2 * 8 + i % 8;
	default:
		return i;
	}
}
/* Both halves of 32 steps end in the same lanes. */
static int folds(int id) { return id == Q4_0; }
INLINE int has_rows(const int id) { return id == Q4_0 || id == Q4_K || id == Q1_0 || id == Q2_0; }

INLINE vf each_f16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_set1_epi16((short)whit_load_u16(p))); }

/* acc[k] += the product of the 256 weights at p. d, s: of the 256 values' groups. */
INLINE void row_256(const int id, const uint8_t *p, const int8_t *a, const int32_t *init, const float *lane,
                    const float *d, const float *s, vf acc[4]) {
	const vi low = _mm512_set1_epi8(15);
#define A(k) ild((const int32_t *)(a + 64 * (k)))
#define I(k) ild(init + 16 * (k))
#define L(k) ld(lane + 16 * (k))
	if (id == Q4_0) {
		/* words of the four blocks, in two loads 8 bytes apart: codes; scales, each for four lanes */
		const vi code = _mm512_set_epi16(63, 62, 61, 60, 31, 30, 29, 28, 26, 25, 24, 23, 22, 21, 20, 19, 17, 16,
		                                 15, 14, 13, 12, 11, 10, 8, 7, 6, 5, 4, 3, 2, 1);
		const vi scale = _mm512_castsi256_si512(
		        _mm256_setr_epi16(0, 0, 0, 0, 9, 9, 9, 9, 18, 18, 18, 18, 27, 27, 27, 27));
		WHIT_UNROLL for (int k = 0; k < 2; k++, p += 72) {
			vi first = _mm512_loadu_si512(p);
			vi packed = _mm512_permutex2var_epi16(first, code, _mm512_loadu_si512(p + 8));
			vf w = _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(scale, first)));
			vi dot = dot4(I(2 * k), _mm512_and_si512(packed, low), A(2 * k), 0);
			dot = dot4(dot, _mm512_and_si512(_mm512_srli_epi16(packed, 4), low), A(2 * k + 1), 0);
			acc[k] = fmadd(to_float(dot), mul(w, L(2 * k)), acc[k]);
		}
	} else if (id == Q4_K) {
		const vi pair = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
		float t[16];
		scales_k(p, t, t + 8);
		vf w = _mm512_castps256_ps512(_mm256_mul_ps(_mm256_loadu_ps(t), _mm256_set1_ps(*d)));
		vf shift = _mm512_castps256_ps512(_mm256_mul_ps(_mm256_loadu_ps(t + 8), _mm256_loadu_ps(s)));
		acc[0] = add(acc[0], _mm512_maskz_mov_ps(0xff, shift));
		WHIT_UNROLL for (int k = 0; k < 2; k++) {
			vi packed = _mm512_loadu_si512(p + 16 + 64 * k);
			vi even = dot4(izero(), _mm512_and_si512(packed, low), A(2 * k), 0);
			vi odd = dot4(izero(), _mm512_and_si512(_mm512_srli_epi16(packed, 4), low), A(2 * k + 1), 0);
			acc[2 * k] = fmadd(to_float(even), pick(w, iadd(pair, iset1(4 * k))), acc[2 * k]);
			acc[2 * k + 1] = fmadd(to_float(odd), pick(w, iadd(pair, iset1(4 * k + 1))), acc[2 * k + 1]);
		}
	} else if (id == Q1_0) {
		WHIT_UNROLL for (int k = 0; k < 2; k++, p += 18) {
			vi one = _mm512_maskz_set1_epi8(whit_load_u64(p + 2), 2),
			   two = _mm512_maskz_set1_epi8(whit_load_u64(p + 10), 2);
			vf sum = mul(to_float(dot4(I(2 * k), one, A(2 * k), 0)), L(2 * k));
			sum = fmadd(to_float(dot4(I(2 * k + 1), two, A(2 * k + 1), 0)), L(2 * k + 1), sum);
			acc[k] = fmadd(sum, each_f16(p), acc[k]);
		}
	} else if (id == Q2_0) {
		WHIT_UNROLL for (int k = 0; k < 4; k++, p += 18) { /* as pairs() */
			vi v = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p + 2)));
			v = _mm512_or_si512(v, _mm512_slli_epi32(v, 12));
			v = _mm512_and_si512(_mm512_or_si512(v, _mm512_slli_epi32(v, 6)), _mm512_set1_epi8(3));
			acc[k] = fmadd(to_float(dot4(I(k), v, A(k), 0)), mul(each_f16(p), L(k)), acc[k]);
		}
	}
#undef A
#undef I
#undef L
}
