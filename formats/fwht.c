/* fwht: the Walsh-Hadamard transform in Sylvester order, H[i][j] = (-1)^popcount(i & j). */
#include "formats/nearest_fast.h"

void whit_fwht_cpu(float *x, int64_t rows, int64_t n) {
	double *t = whit_alloc((size_t)n * sizeof(double));
	for (int64_t r = 0; r < rows; r++, x += n) {
		for (int64_t i = 0; i < n; i++) t[i] = x[i];
		for (int64_t h = 1; h < n; h *= 2)
			for (int64_t i = 0; i < n; i += 2 * h)
				for (int64_t j = i; j < i + h; j++) {
					double a = t[j], b = t[j + h];
					t[j] = a + b;
					t[j + h] = a - b;
				}
		for (int64_t i = 0; i < n; i++) x[i] = (float)t[i];
	}
	whit_free(t);
}

/* Butterflies in float, stages of rising distance: the order every level keeps, so that all give the same bits. */
static void fwht_float(float *x, int64_t rows, int64_t n) {
	for (float *end = x + rows * n; x < end; x += n)
		for (int64_t h = 1; h < n; h *= 2)
			for (int64_t i = 0; i < n; i += 2 * h)
				for (int64_t j = i; j < i + h; j++) {
					float a = x[j], b = x[j + h];
					x[j] = a + b;
					x[j + h] = a - b;
				}
}

void whit_fwht_fast_cpu(float *x, int64_t rows, int64_t n) {
#if WHIT_SIMD
	if (n >= 16 && whit_cpu_level() >= 2)
		whit_fwht_avx512(x, rows, n);
	else if (n >= 16 && whit_cpu_level() == 1)
		whit_fwht_avx2(x, rows, n);
	else
#endif
		fwht_float(x, rows, n);
}
