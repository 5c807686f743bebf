/* metrics: the numbers of quality.md, defined once. P = reference, Q = quantized, x = true next token.
 * Natural logarithms, nats; sums in double; never fast-math; no clamping of tails. */
#ifndef WHIT_METRICS_H
#define WHIT_METRICS_H
#include "host/ops.h"

/* All of one scored position. Without a second model everything of Q is NaN, its counts -1. */
typedef struct whit_point {
	double nll_p, nll_q; /* -ln P(x), -ln Q(x) */
	double kld, kld_rev; /* sum P ln(P/Q), sum Q ln(Q/P) over the whole vocabulary */
	double kld_llama;    /* only entries with ln P > -16, as llama.cpp */
	double p_x, q_x, p_max;
	double cosine; /* of the two logit vectors; NaN where one is all zero */
	int top1;      /* equal argmax, lowest index on ties */
	int top5;      /* |top5(P) & top5(Q)| */
	int top1_in5;  /* argmax of P lies in Q's top 5 */
	int32_t chunk; /* window or chunk it belongs to: the bootstrap's unit; set by the caller */
} whit_point;

/* Reduces one row of logits of both models, p and q (vocab), q NULL: nll of P only. 0 <= target < vocab.
 * A NaN or Inf logit is WHIT_ENONFINITE and names row and column. Equal rows give KLD exactly 0. A KLD below
 * about 1e-14 is rounding and may be negative. */
int whit_point_measure(whit_point *pt, const float *p, const float *q, int64_t vocab, int32_t target, whit_err *e);
/* The same where P is a row of ln P from a base-logits file: taken as it is, its tail cut, so that kld_llama is what
 * llama-perplexity computes, and kld, kld_rev and cosine are NaN. */
int whit_point_measure_logp(whit_point *pt, const float *logp, const float *q, int64_t vocab, int32_t target,
                            whit_err *e);
/* The same from what a device made of the row (whit_logits_measure_cuda). */
int whit_point_of_sums(whit_point *pt, const whit_logit_sums *r, int have_q, whit_err *e);
/* The plain twin, with libm's exp, one sum after the other. Sums of n terms differ from the fast twin's by at
 * most (n + 8) 2^-52 of the sum of their magnitudes. */
int whit_point_measure_plain(whit_point *pt, const float *p, const float *q, int64_t vocab, int32_t target,
                             whit_err *e);

typedef struct whit_stat { /* value with its bootstrap error and 2.5-97.5 % interval; NaN = not measured */
	double mean, se, lo, hi;
} whit_stat;

enum { WHIT_BUCKETS = 6, WHIT_DP_QUANTILES = 11, WHIT_FEW_TOKENS = 100, WHIT_FEW_CHUNKS = 20, WHIT_REPLICATES = 1000 };
enum { WHIT_BOOTSTRAP_SEED = 20240 };
extern const double whit_bucket_edges[WHIT_BUCKETS + 1];  /* of p_max: 0 .25 .5 .75 .9 .99 1 */
extern const double whit_dp_quantiles[WHIT_DP_QUANTILES]; /* in percent: 99.9 99 95 ... 1 .1 */

typedef struct whit_summary {
	int64_t tokens, chunks;
	double weight;      /* n of the perplexities: tokens, or sliding_hf's N - windows */
	int few;            /* 1: below 100 tokens, no statistics; 2: below 20 chunks, warn */
	whit_stat nll, ppl; /* of Q; with have_q 0 of P */
	whit_stat nll_ref, ppl_ref, ppl_ratio, ppl_diff, nll_corr;
	whit_stat kld, kld_rev, kld_llama, top1, top5, top1_in5, dp, dp_rms, cosine;
	int cut; /* P came from a base-logits file: percentiles, maximum and buckets are of kld_llama, kld is NaN */
	double kld_p50, kld_p90, kld_p95, kld_p99, kld_p999, kld_max;
	double dp_min, dp_max, dp_q[WHIT_DP_QUANTILES];
	double bucket_kld[WHIT_BUCKETS]; /* mean KLD by p_max; NaN where the bucket is empty */
	int64_t bucket_n[WHIT_BUCKETS];
	double ppl_se_tokens, kld_se_tokens, top1_se_tokens; /* as if tokens were independent, like llama.cpp */
} whit_summary;
/* Statistics of n points; have_q: 0 = perplexity only. Bootstrap over chunks (Efron 1979): 1000 resamples of
 * the chunks with replacement from a fixed seed, the same draws for both models, so that ratios carry the
 * covariance; with one chunk errors are NaN. chunk_weight[chunks]: sliding_hf's weight of each chunk's mean
 * nll, or NULL = its count; only perplexities use it. pt[].chunk < chunks. */
void whit_summarize(whit_summary *s, const whit_point *pt, int64_t n, int have_q, const double *chunk_weight,
                    int64_t chunks);
/* q in [0, 1], linear interpolation; NaN if n is 0 */
double whit_percentile(const double *sorted, int64_t n, double q);
#endif
