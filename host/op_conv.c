/* conv: causal depthwise convolution over time, then silu. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

/* Input t of a channel, t < 0 out of what came before. */
static double input(const float *x, const float *past, int64_t t, int64_t c, int64_t channels, int64_t taps) {
	if (t >= 0) return x[t * channels + c];
	return past ? past[(t + taps - 1) * channels + c] : 0;
}

void whit_conv_cpu(float *y, const float *x, const float *w, float *past, int64_t T, int64_t channels, int64_t taps) {
	for (int64_t t = 0; t < T; t++) {
		for (int64_t c = 0; c < channels; c++) {
			double sum = 0;
			for (int64_t k = 0; k < taps; k++)
				sum += w[c * taps + k] * input(x, past, t - taps + 1 + k, c, channels, taps);
			y[t * channels + c] = (float)(sum / (1 + exp(-sum)));
		}
	}
	for (int64_t k = 0; past && k < taps - 1; k++) /* oldest first: what is read stands behind what is written */
		for (int64_t c = 0; c < channels; c++)
			past[k * channels + c] = (float)input(x, past, T - taps + 1 + k, c, channels, taps);
}

void whit_conv_fast_cpu(float *y, const float *x, const float *w, float *past, int64_t T, int64_t channels,
                        int64_t taps) {
	whit_conv_cpu(y, x, w, past, T, channels, taps);
}
