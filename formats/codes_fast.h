/* codes_fast: what codes_avx2.c and codes_avx512.c hold (x86-64 only). Contracts are those of codes.h, floats.h. */
#ifndef WHIT_CODES_FAST_H
#define WHIT_CODES_FAST_H
#include "formats/codes.h"
#include "formats/floats.h"
#include "formats/simd.h"

#define WHIT_CODES_FAST(level)                                                                                         \
	void whit_codes_decode_##level(const whit_codes *c, int64_t r0, int64_t r1, float *out);                       \
	void whit_codes_gemv_##level(const whit_codes *c, int64_t r0, int64_t r1, const float *x, int T, float *y,     \
	                             int64_t ldy);                                                                     \
	void whit_floats_gemv_##level(const whit_mat *m, int dtype, int64_t r0, int64_t r1, const float *x, int T,     \
	                              float *y, int64_t ldy);
WHIT_CODES_FAST(avx2)
WHIT_CODES_FAST(avx512)
#undef WHIT_CODES_FAST
#endif
