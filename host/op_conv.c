/* conv: causal depthwise convolution over time, then silu. Plain; op_conv_fast.c has the fast ones. */
#include <math.h>
#include "host/ops.h"

/* Input t of a channel, t < 0 out of what came before. */
static double input(const float *x, const float *past, int64_t t, int64_t c, int64_t channels, int64_t taps) {
	if (t >= 0) return x[t * channels + c];
	return past ? past[(t + taps - 1) * channels + c] : 0;
}

/* The sum of token t and channel c, before silu. */
static double taps_sum(const float *x, const float *w, const float *past, int64_t t, int64_t c, int64_t channels,
                       int64_t taps) {
	double sum = 0;
	for (int64_t k = 0; k < taps; k++) sum += w[c * taps + k] * input(x, past, t - taps + 1 + k, c, channels, taps);
	return sum;
}

void whit_conv_cpu(float *y, const float *x, const float *w, float *past, int64_t T, int64_t channels, int64_t taps) {
	for (int64_t t = 0; t < T; t++) {
		for (int64_t c = 0; c < channels; c++) {
			double sum = taps_sum(x, w, past, t, c, channels, taps);
			y[t * channels + c] = (float)(sum / (1 + exp(-sum)));
		}
	}
	for (int64_t k = 0; past && k < taps - 1; k++) /* oldest first: what is read stands behind what is written */
		for (int64_t c = 0; c < channels; c++)
			past[k * channels + c] = (float)input(x, past, T - taps + 1 + k, c, channels, taps);
}

void whit_conv_back_cpu(float *dx, float *dw, const float *dy, const float *x, const float *w, int64_t T,
                        int64_t channels, int64_t taps) {
	double *dsum = whit_alloc((size_t)(T + 1) * sizeof *dsum); /* of one channel */
	for (int64_t c = 0; c < channels; c++) {
		for (int64_t t = 0; t < T; t++) {
			double sum = taps_sum(x, w, NULL, t, c, channels, taps), s = 1 / (1 + exp(-sum));
			dsum[t] = dy[t * channels + c] * s * (1 + sum / (1 + exp(sum)));
		}
		for (int64_t t = 0; dx && t < T; t++) {
			double add = 0;
			for (int64_t k = 0; k < taps && t + k < T; k++) add += w[c * taps + taps - 1 - k] * dsum[t + k];
			dx[t * channels + c] += (float)add;
		}
		for (int64_t k = 0; dw && k < taps; k++) {
			double add = 0;
			for (int64_t t = taps - 1 - k; t < T; t++)
				add += dsum[t] * x[(t - taps + 1 + k) * channels + c];
			dw[c * taps + k] += (float)add;
		}
	}
	whit_free(dsum);
}
