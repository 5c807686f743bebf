/* delta: the gated delta rule of linear attention. Plain; op_delta_fast.c has the fast ones. */
#include <math.h>
#include "host/ops.h"

/* One over the length of a head's x. */
static double inverse_length(const float *x, int64_t dim) {
	double sum = 0;
	for (int64_t i = 0; i < dim; i++) sum += (double)x[i] * x[i];
	return 1 / sqrt(sum + 1e-6);
}

/* ln(1 + exp(x)) */
static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static int64_t k_head(const whit_delta *d, int64_t h) {
	return d->tiled ? h % d->k_heads : h / (d->v_heads / d->k_heads);
}

/* One token of a v head. */
typedef struct token {
	const float *q, *k, *v;
	double qn, kn, decay, beta; /* q * qn and k * kn are what the rule reads */
	double rate, soft, slope;   /* ln decay = rate * soft; slope of soft by alpha */
} token;

static token token_of(const whit_delta *d, int64_t t, int64_t h) {
	int64_t dim = d->dim, kw = d->k_heads * dim;
	const float *row = d->qkv + t * (2 * kw + d->v_heads * dim);
	double a = (double)d->alpha[t * d->v_heads + h] + d->dt_bias[h];
	token r = {.q = row + k_head(d, h) * dim, .v = row + 2 * kw + h * dim};
	r.k = r.q + kw;
	r.kn = inverse_length(r.k, dim), r.qn = inverse_length(r.q, dim) / sqrt((double)dim);
	r.beta = sigmoid(d->beta[t * d->v_heads + h]);
	r.rate = d->rate_done ? d->rate[h] : -exp((double)d->rate[h]);
	r.soft = softplus(a), r.slope = sigmoid(a);
	r.decay = exp(r.rate * r.soft);
	return r;
}

/* The state S (dim of k, dim of v) becomes that behind the token; e (dim) = v - what S said of k, y (dim) is read. */
static void step(double *S, double *e, double *y, const token *p, int64_t dim) {
	/* 1. forget, and what the state says of k */
	for (int64_t j = 0; j < dim; j++) e[j] = p->v[j];
	for (int64_t i = 0; i < dim; i++)
		for (int64_t j = 0; j < dim; j++) e[j] -= (S[i * dim + j] *= p->decay) * (p->k[i] * p->kn);
	/* 2. write the difference, 3. read with q */
	for (int64_t j = 0; j < dim; j++) {
		double sum = 0, u = p->beta * e[j];
		for (int64_t i = 0; i < dim; i++) sum += (S[i * dim + j] += p->k[i] * p->kn * u) * (p->q[i] * p->qn);
		y[j] = sum;
	}
}

void whit_delta_cpu(float *y, const whit_delta *d, float *state, int64_t T) {
	int64_t dim = d->dim;
	double *S = whit_alloc((size_t)(dim * dim + 2 * dim) * sizeof *S), *e = S + dim * dim, *out = e + dim;
	for (int64_t h = 0; h < d->v_heads; h++) {
		for (int64_t i = 0; i < dim * dim; i++) S[i] = state ? state[h * dim * dim + i] : 0;
		for (int64_t t = 0; t < T; t++) {
			token p = token_of(d, t, h);
			step(S, e, out, &p, dim);
			for (int64_t j = 0; j < dim; j++) y[(t * d->v_heads + h) * dim + j] = (float)out[j];
		}
		for (int64_t i = 0; state && i < dim * dim; i++) state[h * dim * dim + i] = (float)S[i];
	}
	whit_free(S);
}

/* ---- gradient ---- */

/* What one v head's step is run back with: S, the state behind the token, and before, the one in front of it, decayed
 * neither; dS (dim, dim), the gradient by S, becomes that by `before`. Adds to dq, dk (dim), by q * qn and k * kn, and
 * writes dv (dim); returns the gradients by beta and by ln decay. u, du (dim) are room. */
typedef struct slopes {
	double beta, log_decay;
} slopes;
static slopes step_back(double *dS, double *dq, double *dk, double *dv, const double *S, const double *before,
                        const double *e, const float *dy, const token *p, int64_t dim) {
	slopes r = {0, 0};
	/* 3. */
	for (int64_t i = 0; i < dim; i++)
		for (int64_t j = 0; j < dim; j++) {
			dq[i] += S[i * dim + j] * dy[j];
			dS[i * dim + j] += p->q[i] * p->qn * dy[j];
		}
	/* 2. dv is at first the gradient by what is written, beta e */
	memset(dv, 0, (size_t)dim * sizeof *dv);
	for (int64_t i = 0; i < dim; i++)
		for (int64_t j = 0; j < dim; j++) {
			dk[i] += dS[i * dim + j] * p->beta * e[j];
			dv[j] += dS[i * dim + j] * (p->k[i] * p->kn);
		}
	for (int64_t j = 0; j < dim; j++) {
		r.beta += dv[j] * e[j];
		dv[j] *= p->beta;
	}
	/* 1. */
	for (int64_t i = 0; i < dim; i++)
		for (int64_t j = 0; j < dim; j++) {
			double kept = p->decay * before[i * dim + j];
			dk[i] -= kept * dv[j];
			dS[i * dim + j] -= p->k[i] * p->kn * dv[j];
			r.log_decay += dS[i * dim + j] * kept;
			dS[i * dim + j] *= p->decay;
		}
	return r;
}

/* dx += the gradient by x, of length 1 / n, of that by x n scale. */
static void length_back(float *dx, const double *dhat, const float *x, double n, double scale, int64_t dim) {
	double along = 0;
	for (int64_t i = 0; i < dim; i++) along += x[i] * dhat[i];
	for (int64_t i = 0; i < dim; i++) dx[i] += (float)(scale * n * (dhat[i] - x[i] * n * n * along));
}

/* All states of v head h, S (T + 1, dim, dim) with zeros in front, and e (T, dim). */
static void states(double *S, double *e, const whit_delta *d, int64_t T, int64_t h) {
	int64_t dim = d->dim, n = dim * dim;
	double *y = whit_alloc((size_t)(dim + 1) * sizeof *y);
	memset(S, 0, (size_t)n * sizeof *S);
	for (int64_t t = 0; t < T; t++) {
		token p = token_of(d, t, h);
		memcpy(S + (t + 1) * n, S + t * n, (size_t)n * sizeof *S);
		step(S + (t + 1) * n, e + t * dim, y, &p, dim);
	}
	whit_free(y);
}

/* One v head, from the last token to the first. dqk (T, 2, dim): sums of the v heads that share q and k. */
static void head_back(const whit_delta_grad *g, double *dqk, const float *dy, const whit_delta *d, int64_t T,
                      int64_t h) {
	int64_t dim = d->dim, n = dim * dim, kw = d->k_heads * dim, width = 2 * kw + d->v_heads * dim;
	double *S = whit_alloc((size_t)((T + 2) * n + (T + 1) * dim) * sizeof *S), *dS = S + (T + 1) * n, *e = dS + n,
	       *dv = e + T * dim, drate = 0, dt_bias = 0;
	states(S, e, d, T, h);
	for (int64_t t = T - 1; t >= 0; t--) {
		int64_t at = t * d->v_heads + h;
		token p = token_of(d, t, h);
		slopes r = step_back(dS, dqk + 2 * t * dim, dqk + (2 * t + 1) * dim, dv, S + (t + 1) * n, S + t * n,
		                     e + t * dim, dy + at * dim, &p, dim);
		for (int64_t j = 0; g->qkv && j < dim; j++) g->qkv[t * width + 2 * kw + h * dim + j] += (float)dv[j];
		if (g->beta) g->beta[at] += (float)(r.beta * p.beta * sigmoid(-(double)d->beta[at]));
		if (g->alpha) g->alpha[at] += (float)(r.log_decay * p.rate * p.slope);
		dt_bias += r.log_decay * p.rate * p.slope;
		drate += r.log_decay * p.soft * (d->rate_done ? 1 : p.rate);
	}
	if (g->rate) g->rate[h] += (float)drate;
	if (g->dt_bias) g->dt_bias[h] += (float)dt_bias;
	whit_free(S);
}

void whit_delta_back_cpu(const whit_delta_grad *g, const float *dy, const whit_delta *d, int64_t T) {
	int64_t dim = d->dim, kw = d->k_heads * dim, width = 2 * kw + d->v_heads * dim;
	double *dqk = whit_alloc((size_t)(2 * T * dim + 1) * sizeof *dqk);
	for (int64_t kh = 0; kh < d->k_heads; kh++) {
		memset(dqk, 0, (size_t)(2 * T * dim) * sizeof *dqk);
		for (int64_t h = 0; h < d->v_heads; h++)
			if (k_head(d, h) == kh) head_back(g, dqk, dy, d, T, h);
		for (int64_t t = 0; g->qkv && t < T; t++) {
			int64_t at = t * width + kh * dim;
			const float *q = d->qkv + at, *k = q + kw;
			length_back(g->qkv + at, dqk + 2 * t * dim, q, inverse_length(q, dim), 1 / sqrt((double)dim),
			            dim);
			length_back(g->qkv + at + kw, dqk + (2 * t + 1) * dim, k, inverse_length(k, dim), 1, dim);
		}
	}
	whit_free(dqk);
}
