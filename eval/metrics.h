/* metrics: the numbers of quality.md, defined once. P = reference, Q = quantized, x = true next token.
 * Natural logarithms, nats; sums in double; never fast-math; no clamping of tails. */
#ifndef WHIT_METRICS_H
#define WHIT_METRICS_H
#include "host/base.h"

/* All of one scored position. */
typedef struct whit_point {
	double nll_p, nll_q;   /* -ln P(x), -ln Q(x) */
	double kld, kld_rev;   /* sum P ln(P/Q), sum Q ln(Q/P) over the whole vocabulary */
	double kld_llama;      /* only entries with ln P > -16, as llama.cpp */
	double p_x, q_x, p_max;
	double cosine;         /* of the two logit vectors */
	int top1;              /* equal argmax, lowest index on ties */
	int top5;              /* |top5(P) & top5(Q)| */
	int top1_in5;          /* argmax of P lies in Q's top 5 */
	int32_t chunk;         /* window or chunk it belongs to: the bootstrap's unit */
} whit_point;

/* Reduces one row of logits of both models (q NULL: nll of P only). Non-finite logits: WHIT_ENONFINITE. */
int whit_point_measure(whit_point *pt, const float *p, const float *q, int64_t vocab, int32_t target, whit_err *e);

typedef struct whit_stat { /* value with its bootstrap error; NaN = not measured */
	double mean, se, lo, hi;
} whit_stat;

enum { WHIT_BUCKETS = 6 };
typedef struct whit_summary {
	int64_t tokens, chunks;
	int few;                       /* below 100 tokens: no statistics; below 20 chunks: 2, warn */
	whit_stat nll, ppl, nll_ref, ppl_ref, ppl_ratio, ppl_diff, nll_corr;
	whit_stat kld, kld_rev, kld_llama, top1, top5, top1_in5, dp, cosine;
	double kld_p50, kld_p90, kld_p95, kld_p99, kld_p999, kld_max;
	double dp_rms, dp_min, dp_max, dp_q[11]; /* 99.9 99 95 90 75 50 25 10 5 1 .1 % */
	double bucket_kld[WHIT_BUCKETS];         /* by p_max: edges 0 .25 .5 .75 .9 .99 1 */
	int64_t bucket_n[WHIT_BUCKETS];
	double ppl_se_tokens, kld_se_tokens;     /* independent-token errors, for llama.cpp's sake */
} whit_summary;
/* Statistics of n points; have_q: 0 = perplexity only. Bootstrap over chunks, 1000 replicates, fixed seed,
 * the same draws for both models. weights: sliding_hf's weight per chunk, or NULL. */
void whit_summarize(whit_summary *s, const whit_point *pt, int64_t n, int have_q, const double *chunk_weight, int64_t chunks);
double whit_percentile(const double *sorted, int64_t n, double q); /* linear interpolation */
#endif
