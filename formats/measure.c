#include "formats/measure.h"

/* Eight sums vectorise. */
double whit_sum_squares_cpu(const float *x, const float *y, int64_t n) {
	double s[8] = {0};
	int64_t i = 0;
	for (; i + 8 <= n; i += 8)
		for (int k = 0; k < 8; k++) {
			double d = y ? (double)x[i + k] - y[i + k] : x[i + k];
			s[k] += d * d;
		}
	for (; i < n; i++) {
		double d = y ? (double)x[i] - y[i] : x[i];
		s[0] += d * d;
	}
	return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}
