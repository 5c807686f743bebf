/* nearest_fast: what nearest_avx2.c and nearest_avx512.c hold (x86-64 only). Contracts are those of nearest.h. */
#ifndef WHIT_NEAREST_FAST_H
#define WHIT_NEAREST_FAST_H
#include <math.h>
#include "formats/nearest.h"
#include "formats/rotation.h"
#include "formats/simd.h"

#define WHIT_NEAREST_FAST(level)                                                                                       \
	double whit_nearest_norm2_##level(const float *y, int64_t n);                                                  \
	float whit_nearest_peak_##level(const float *y, int64_t n);                                                    \
	void whit_nearest_search_##level(uint8_t *code, const float *y, int64_t n, const double *boundary, int bits);  \
	void whit_nearest_dots_##level(const float *y, const uint8_t *code, const float *imp, int64_t n,               \
	                               const float *levels, int bits, double *yc, double *cc);                         \
	void whit_nearest_step_dots_##level(const float *y, const float *imp, int64_t n, float inv, int lo, int hi,    \
	                                    double *yq, double *qq);                                                   \
	void whit_nearest_step_##level(uint8_t *code, const float *y, int64_t n, float step, int lo, int hi);          \
	void whit_fwht_##level(float *x, int64_t rows, int64_t n);
WHIT_NEAREST_FAST(avx2)
WHIT_NEAREST_FAST(avx512)
#undef WHIT_NEAREST_FAST
#endif
