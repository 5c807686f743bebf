/* delta: inputs for the tests and cases of the delta rule, and what float twins may lose. */
#ifndef WHIT_TESTS_DELTA_H
#define WHIT_TESTS_DELTA_H
#include <math.h>
#include "host/ops.h"

/* Turns normal values into such inputs: most decays near 1, some of every size, down to exp(-70) = 4e-31 for every
 * seventh token of every third head; q and k of any length. rate (v_heads) holds the logarithm then. */
static inline void delta_inputs(float *qkv, float *alpha, float *rate, int64_t T, int64_t width, int64_t v_heads) {
	for (int64_t i = 0; i < T * width; i++) qkv[i] *= i % 3 ? 1 : 4;
	for (int64_t h = 0; h < v_heads; h++) rate[h] = h % 3 ? rate[h] - 2 : 0;
	for (int64_t i = 0; i < T * v_heads; i++)
		if (i % v_heads % 3 == 0) alpha[i] = i / v_heads % 7 == 3 ? 70 : alpha[i] - 3;
}

/* mag (T, v_heads*dim) of y and kept (v_heads, dim, dim) of the state, or NULL, in units of `dim + 80` roundings: a
 * column of S has at most the norm n of what was written, decayed, for I - beta k k^T lengthens nothing; s is the same
 * of the |u| that a chunk adds up, |v| + |S^T k| at most; a token's products of dim terms and sums of up to 64 lose
 * that many roundings of s, the rest (lengths, exp, sigmoid) fewer than 16; e sums the losses, decayed as all is. A
 * query has the length 1 / sqrt(dim). */
static inline void delta_bound(float *mag, float *kept, const whit_delta *d, const float *state, int64_t T) {
	int64_t dim = d->dim;
	for (int64_t h = 0; h < d->v_heads; h++) {
		double rate = d->rate_done ? d->rate[h] : -exp((double)d->rate[h]);
		for (int64_t j = 0; j < dim; j++) {
			double n = 0, e = 0;
			for (int64_t i = 0; state && i < dim; i++)
				n += (double)state[(h * dim + i) * dim + j] * state[(h * dim + i) * dim + j];
			double s = n = sqrt(n);
			for (int64_t t = 0; t < T; t++) {
				double a = (double)d->alpha[t * d->v_heads + h] + d->dt_bias[h];
				double decay = exp(rate * (a > 0 ? a + log1p(exp(-a)) : log1p(exp(a))));
				double beta = 1 / (1 + exp(-(double)d->beta[t * d->v_heads + h]));
				double v = fabs(
				        (double)d->qkv[(t * (2 * d->k_heads + d->v_heads) + 2 * d->k_heads + h) * dim +
				                       j]);
				s = decay * s + beta * (v + decay * n);
				n = decay * n + beta * v;
				e = decay * e + s;
				mag[(t * d->v_heads + h) * dim + j] = (float)(e / sqrt((double)dim));
			}
			for (int64_t i = 0; kept && i < dim; i++) kept[(h * dim + i) * dim + j] = (float)e;
		}
	}
}
#endif
