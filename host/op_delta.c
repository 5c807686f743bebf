/* delta: the gated delta rule of linear attention. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

/* One over the length of a head's x. */
static double inverse_length(const float *x, int64_t dim) {
	double sum = 0;
	for (int64_t i = 0; i < dim; i++) sum += (double)x[i] * x[i];
	return 1 / sqrt(sum + 1e-6);
}

/* ln(1 + exp(x)) */
static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }

static int64_t k_head(const whit_delta *d, int64_t h) {
	return d->tiled ? h % d->k_heads : h / (d->v_heads / d->k_heads);
}

void whit_delta_cpu(float *y, const whit_delta *d, float *state, int64_t T) {
	int64_t dim = d->dim, kw = d->k_heads * dim, width = 2 * kw + d->v_heads * dim;
	double *S = whit_alloc((size_t)(dim * dim) * sizeof *S), *m = whit_alloc((size_t)dim * sizeof *m);
	for (int64_t h = 0; h < d->v_heads; h++) {
		double rate = d->rate_done ? d->rate[h] : -exp((double)d->rate[h]);
		for (int64_t i = 0; i < dim * dim; i++) S[i] = state ? state[h * dim * dim + i] : 0;
		for (int64_t t = 0; t < T; t++) {
			const float *q = d->qkv + t * width + k_head(d, h) * dim, *k = q + kw;
			const float *v = d->qkv + t * width + 2 * kw + h * dim;
			double a = d->alpha[t * d->v_heads + h], b = d->beta[t * d->v_heads + h];
			double decay = exp(rate * softplus(a + d->dt_bias[h])), beta = 1 / (1 + exp(-b));
			double kn = inverse_length(k, dim), qn = inverse_length(q, dim) / sqrt((double)dim);
			/* 1. forget, and what the state says of k */
			memset(m, 0, (size_t)dim * sizeof *m);
			for (int64_t i = 0; i < dim; i++)
				for (int64_t j = 0; j < dim; j++) m[j] += (S[i * dim + j] *= decay) * (k[i] * kn);
			/* 2. write the difference, 3. read with q */
			for (int64_t j = 0; j < dim; j++) {
				double sum = 0, u = beta * (v[j] - m[j]);
				for (int64_t i = 0; i < dim; i++)
					sum += (S[i * dim + j] += k[i] * kn * u) * (q[i] * qn);
				y[(t * d->v_heads + h) * dim + j] = (float)sum;
			}
		}
		for (int64_t i = 0; state && i < dim * dim; i++) state[h * dim * dim + i] = (float)S[i];
	}
	whit_free(S);
	whit_free(m);
}

void whit_delta_fast_cpu(float *y, const whit_delta *d, float *state, int64_t T, whit_arena *scratch) {
	(void)scratch;
	whit_delta_cpu(y, d, state, T);
}
