/* metrics: one position's two rows of logits become a whit_point; all points become a whit_summary.
 *
 * Rows are long (248,320 for current vocabularies), so whit_point_measure has a vector body. It is written
 * once with four-lane double vectors and compiled for the baseline and for AVX2, without FMA in both: the
 * bits are the same on every CPU. */
#include "eval/metrics.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

const double whit_bucket_edges[WHIT_BUCKETS + 1] = {0, .25, .5, .75, .9, .99, 1};
const double whit_dp_quantiles[WHIT_DP_QUANTILES] = {99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, .1};

enum { TOP = WHIT_LOGIT_TOP };
static const double llama_cut = -16;

/* ---- one position ---- */

/* Largest TOP values of x[n], descending; strict comparison in index order keeps the lowest index on ties. */
static void top_find(const float *x, int64_t n, int64_t top[TOP]) {
	int k = 0;
	for (int64_t i = 0; i < n; i++) {
		if (k == TOP && !(x[i] > x[top[TOP - 1]])) continue;
		int j = k < TOP ? k++ : TOP - 1;
		for (; j > 0 && x[i] > x[top[j - 1]]; j--) top[j] = top[j - 1];
		top[j] = i;
	}
	for (; k < TOP; k++) top[k] = -1 - k; /* vocabularies below TOP */
}

static int row_check(const float *x, int64_t n, const char *who, whit_err *e) {
	int64_t i = whit_first_nonfinite(x, n);
	if (i < 0) return 0;
	return whit_fail(e, WHIT_ENONFINITE, "%s: logit of token %lld is %g, need a finite number", who, (long long)i,
	                 (double)x[i]);
}

/* The sums over the vocabulary that make a point. */
typedef struct sums {
	double kld, rev, llama, pq, pp, qq;
} sums;

typedef double (*exp_sum_fn)(const float *x, int64_t n, double max);
/* max and ln sum exp(x - max) of a row: ln P = (x - max) - ln, so that no digit is lost to large logits */
typedef struct norm {
	double max, ln;
} norm;
typedef void (*pair_sums_fn)(sums *s, const float *p, const float *q, int64_t n, norm np, norm nq);

/* 1. sum exp(x - max) */
static double exp_sum_plain(const float *x, int64_t n, double max) {
	double s = 0;
	for (int64_t i = 0; i < n; i++) s += exp(x[i] - max);
	return s;
}

/* 2. both divergences, llama.cpp's cut one, and the dot products of the raw logits */
static void pair_sums_plain(sums *s, const float *p, const float *q, int64_t n, norm np, norm nq) {
	memset(s, 0, sizeof(*s));
	for (int64_t i = 0; i < n; i++) {
		double lp = p[i] - np.max - np.ln, lq = q[i] - nq.max - nq.ln, d = lp - lq, f = exp(lp) * d;
		s->kld += f;
		s->rev -= exp(lq) * d;
		if (lp > llama_cut) s->llama += f;
		s->pq += (double)p[i] * q[i];
		s->pp += (double)p[i] * p[i];
		s->qq += (double)q[i] * q[i];
	}
}

/* ---- the vector body ---- */

typedef double vd __attribute__((vector_size(32)));
typedef int64_t vi __attribute__((vector_size(32)));
typedef uint64_t vu __attribute__((vector_size(32)));
typedef float vf __attribute__((vector_size(16)));
enum { LANES = 4 };
#define INLINE static inline __attribute__((always_inline))

/* *y = exp(*x) for x <= 1, below -708 zero (there exp is under 1e-307, and a sum has terms near 1).
 * x = n ln2 + r, |r| <= ln2/2; Taylor to r^13 leaves 4e-18; n is added to the exponent bits. */
INLINE void exp_vec(const vd *x, vd *y) {
	const vd magic = {0x1.8p52, 0x1.8p52, 0x1.8p52, 0x1.8p52}; /* adding it rounds to an integer in the low bits */
	vd t = *x * 0x1.71547652b82fep0 + magic, n = t - magic;
	vd r = *x - n * 0x1.62e42fefa3800p-1; /* ln2 in two parts, the first with 42 bits: n times it is exact */
	vd s;
	r = r - n * 0x1.ef35793c76730p-45;
	s = r * (1.0 / 6227020800) + 1.0 / 479001600;
	s = s * r + 1.0 / 39916800;
	s = s * r + 1.0 / 3628800;
	s = s * r + 1.0 / 362880;
	s = s * r + 1.0 / 40320;
	s = s * r + 1.0 / 5040;
	s = s * r + 1.0 / 720;
	s = s * r + 1.0 / 120;
	s = s * r + 1.0 / 24;
	s = s * r + 1.0 / 6;
	s = s * r + 0.5;
	s = s * r + 1.0;
	s = s * r + 1.0;
	*y = (vd)(((vu)s + ((vu)t << 52)) & (vu)(*x > -708)); /* exponents add modulo 2^64 */
}

/* Four logits as doubles. */
INLINE void load_vec(const float *x, vd *v) {
	vf f;
	memcpy(&f, x, sizeof(f));
	*v = __builtin_convertvector(f, vd);
}

INLINE double add_lanes(const vd *v) { return ((*v)[0] + (*v)[1]) + ((*v)[2] + (*v)[3]); }

/* The last n < LANES logits in a vector of their own; the lanes beyond are masked out of every sum. */
static void load_tail(const float *x, int64_t n, float out[LANES], vi *mask) {
	for (int i = 0; i < LANES; i++) {
		out[i] = i < n ? x[i] : 0;
		(*mask)[i] = -(int64_t)(i < n);
	}
}

INLINE void exp_sum_step(vd *s, const float *x, double max, const vi *mask) {
	vd a, u;
	load_vec(x, &a);
	a = a - max;
	exp_vec(&a, &u);
	*s = *s + (vd)((vi)u & *mask);
}

INLINE double exp_sum_body(const float *x, int64_t n, double max) {
	const vi all = {-1, -1, -1, -1};
	vd s0 = {0}, s1 = {0};
	int64_t i = 0;
	for (; i + 2 * LANES <= n; i += 2 * LANES) { /* two chains hide the latency */
		exp_sum_step(&s0, x + i, max, &all);
		exp_sum_step(&s1, x + i + LANES, max, &all);
	}
	for (; i < n; i += LANES) {
		float tail[LANES];
		vi mask;
		load_tail(x + i, n - i, tail, &mask);
		exp_sum_step(&s0, tail, max, &mask);
	}
	s0 = s0 + s1;
	return add_lanes(&s0);
}

typedef struct vsums {
	vd kld, rev, llama, pq, pp, qq;
} vsums;

INLINE void pair_step(vsums *s, const float *p, const float *q, norm np, norm nq, const vi *mask) {
	vd a, b, lp, lq, u, v, d, f;
	load_vec(p, &a);
	load_vec(q, &b);
	lp = a - np.max - np.ln;
	lq = b - nq.max - nq.ln;
	exp_vec(&lp, &u);
	exp_vec(&lq, &v);
	d = (vd)((vi)(lp - lq) & *mask);
	f = u * d;
	s->kld = s->kld + f;
	s->rev = s->rev - v * d;
	s->llama = s->llama + (vd)((vi)f & (lp > llama_cut));
	s->pq = s->pq + a * b;
	s->pp = s->pp + a * a;
	s->qq = s->qq + b * b;
}

INLINE void pair_sums_body(sums *out, const float *p, const float *q, int64_t n, norm np, norm nq) {
	const vi all = {-1, -1, -1, -1};
	vsums s;
	int64_t i = 0;
	memset(&s, 0, sizeof(s));
	for (; i + LANES <= n; i += LANES) pair_step(&s, p + i, q + i, np, nq, &all);
	if (i < n) {
		float tp[LANES], tq[LANES];
		vi mask;
		load_tail(p + i, n - i, tp, &mask);
		load_tail(q + i, n - i, tq, &mask);
		pair_step(&s, tp, tq, np, nq, &mask);
	}
	*out = (sums){add_lanes(&s.kld), add_lanes(&s.rev), add_lanes(&s.llama),
	              add_lanes(&s.pq),  add_lanes(&s.pp),  add_lanes(&s.qq)};
}

static double exp_sum_base(const float *x, int64_t n, double max) { return exp_sum_body(x, n, max); }
static void pair_sums_base(sums *s, const float *p, const float *q, int64_t n, norm np, norm nq) {
	pair_sums_body(s, p, q, n, np, nq);
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
AVX2 static double exp_sum_avx2(const float *x, int64_t n, double max) { return exp_sum_body(x, n, max); }
AVX2 static void pair_sums_avx2(sums *s, const float *p, const float *q, int64_t n, norm np, norm nq) {
	pair_sums_body(s, p, q, n, np, nq);
}
#else
#define exp_sum_avx2 exp_sum_base
#define pair_sums_avx2 pair_sums_base
#endif

/* p_top: P's largest entry, ln P already where is_logp. */
static void point_fill(whit_point *pt, const whit_logit_sums *r, double p_top, int have_q, int is_logp) {
	*pt = (whit_point){.nll_p = r->ln_p - (r->p_target - r->max_p),
	                   .nll_q = NAN,
	                   .kld = NAN,
	                   .kld_rev = NAN,
	                   .kld_llama = NAN,
	                   .q_x = NAN,
	                   .cosine = NAN,
	                   .top1 = -1,
	                   .top5 = -1,
	                   .top1_in5 = -1};
	pt->p_x = exp(-pt->nll_p);
	pt->p_max = exp(p_top - r->max_p - r->ln_p);
	if (!have_q) return;
	pt->nll_q = r->ln_q - (r->q_target - r->max_q);
	pt->q_x = exp(-pt->nll_q);
	pt->kld_llama = r->llama;
	if (!is_logp) {
		pt->kld = r->kld;
		pt->kld_rev = r->rev;
		if (r->pp > 0 && r->qq > 0) pt->cosine = r->pq / (sqrt(r->pp) * sqrt(r->qq));
	}
	pt->top1 = r->top_p[0] == r->top_q[0];
	pt->top5 = pt->top1_in5 = 0;
	for (int i = 0; i < TOP; i++)
		for (int j = 0; j < TOP; j++) {
			pt->top5 += r->top_p[i] == r->top_q[j];
			pt->top1_in5 |= r->top_p[0] == r->top_q[j] && i == 0;
		}
}

/* is_logp: p is ln P already. */
static int measure(whit_point *pt, const float *p, int is_logp, const float *q, int64_t vocab, int32_t target,
                   exp_sum_fn exp_sum, pair_sums_fn pair_sums, whit_err *e) {
	int64_t top_p[TOP], top_q[TOP];
	whit_logit_sums r = {0};
	norm np, nq;
	sums s;
	int rc;
	if (target < 0 || target >= vocab)
		return whit_fail(e, WHIT_EINTERNAL, "target token is %d, need one below %lld", target,
		                 (long long)vocab);
	if ((rc = row_check(p, vocab, q ? "reference" : "model", e))) return rc;
	top_find(p, vocab, top_p);
	np = is_logp ? (norm){0, 0} : (norm){p[top_p[0]], log(exp_sum(p, vocab, p[top_p[0]]))};
	r.max_p = np.max, r.ln_p = np.ln, r.p_target = p[target];
	for (int i = 0; i < TOP; i++) r.top_p[i] = (int32_t)top_p[i];
	if (q) {
		if ((rc = row_check(q, vocab, "model", e))) return rc;
		top_find(q, vocab, top_q);
		nq = (norm){q[top_q[0]], log(exp_sum(q, vocab, q[top_q[0]]))};
		pair_sums(&s, p, q, vocab, np, nq);
		r.max_q = nq.max, r.ln_q = nq.ln, r.q_target = q[target];
		r.kld = s.kld, r.rev = s.rev, r.llama = s.llama, r.pq = s.pq, r.pp = s.pp, r.qq = s.qq;
		for (int i = 0; i < TOP; i++) r.top_q[i] = (int32_t)top_q[i];
	}
	point_fill(pt, &r, p[top_p[0]], q != NULL, is_logp);
	return 0;
}

int whit_point_of_sums(whit_point *pt, const whit_logit_sums *r, int have_q, whit_err *e) {
	if (r->bad_p >= 0 || r->bad_q >= 0)
		return whit_fail(e, WHIT_ENONFINITE, "%s: logit of token %lld is not finite, need a finite number",
		                 r->bad_p >= 0 && have_q ? "reference" : "model",
		                 (long long)(r->bad_p >= 0 ? r->bad_p : r->bad_q));
	point_fill(pt, r, r->max_p, have_q, 0);
	return 0;
}

static int measure_fast(whit_point *pt, const float *p, int is_logp, const float *q, int64_t vocab, int32_t target,
                        whit_err *e) {
	if (whit_cpu_level() > 0) return measure(pt, p, is_logp, q, vocab, target, exp_sum_avx2, pair_sums_avx2, e);
	return measure(pt, p, is_logp, q, vocab, target, exp_sum_base, pair_sums_base, e);
}

int whit_point_measure(whit_point *pt, const float *p, const float *q, int64_t vocab, int32_t target, whit_err *e) {
	return measure_fast(pt, p, 0, q, vocab, target, e);
}

int whit_point_measure_logp(whit_point *pt, const float *logp, const float *q, int64_t vocab, int32_t target,
                            whit_err *e) {
	return measure_fast(pt, logp, 1, q, vocab, target, e);
}

int whit_point_measure_plain(whit_point *pt, const float *p, const float *q, int64_t vocab, int32_t target,
                             whit_err *e) {
	return measure(pt, p, 0, q, vocab, target, exp_sum_plain, pair_sums_plain, e);
}

/* ---- all positions ---- */

double whit_percentile(const double *sorted, int64_t n, double q) {
	double at, low;
	if (n <= 0) return NAN;
	at = q * (double)(n - 1);
	low = floor(at);
	if (low >= (double)(n - 1)) return sorted[n - 1];
	return sorted[(int64_t)low] + (at - low) * (sorted[(int64_t)low + 1] - sorted[(int64_t)low]);
}

static int ascending(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* What a chunk contributes; statistics are functions of such sums, of all chunks or of a resample. WNLL are the
 * sums whose ratio to W is the perplexities' exponent. */
enum { W, WNLL_P, WNLL_Q, N, NP, NQ, NPP, NQQ, NPQ, KLD, REV, LLAMA, TOP1, TOP5, TOP1IN5, DP, DP2, COS, N_COS, SUMS };

static void add_point(double *s, const whit_point *pt) {
	double dp = pt->q_x - pt->p_x;
	s[N]++;
	s[NP] += pt->nll_p;
	s[NQ] += pt->nll_q;
	s[NPP] += pt->nll_p * pt->nll_p;
	s[NQQ] += pt->nll_q * pt->nll_q;
	s[NPQ] += pt->nll_p * pt->nll_q;
	s[KLD] += pt->kld;
	s[REV] += pt->kld_rev;
	s[LLAMA] += pt->kld_llama;
	s[TOP1] += pt->top1;
	s[TOP5] += pt->top5 / (double)TOP;
	s[TOP1IN5] += pt->top1_in5;
	s[DP] += dp;
	s[DP2] += dp * dp;
	if (pt->cosine == pt->cosine) {
		s[COS] += pt->cosine;
		s[N_COS]++;
	}
}

/* The statistics that have a bootstrap error, in the order of their places in whit_summary. */
enum {
	NLL,
	PPL,
	NLL_REF,
	PPL_REF,
	RATIO,
	DIFF,
	CORR,
	S_KLD,
	S_REV,
	S_LLAMA,
	S_TOP1,
	S_TOP5,
	S_TOP1IN5,
	S_DP,
	S_DPRMS,
	S_COS,
	STATS
};

static void stats_of(const double *s, int have_q, double *v) {
	double p = s[WNLL_P] / s[W], q = s[WNLL_Q] / s[W], n = s[N];
	for (int i = 0; i < STATS; i++) v[i] = NAN;
	v[NLL] = have_q ? q : p;
	v[PPL] = exp(v[NLL]);
	if (!have_q) return;
	v[NLL_REF] = p;
	v[PPL_REF] = exp(p);
	v[RATIO] = exp(q - p);
	v[DIFF] = exp(q) - exp(p);
	/* a variance that rounding could have made is none, and then there is no correlation */
	double vp = s[NPP] - s[NP] * s[NP] / n, vq = s[NQQ] - s[NQ] * s[NQ] / n;
	if (vp > 1e-12 * s[NPP] && vq > 1e-12 * s[NQQ]) v[CORR] = (s[NPQ] - s[NP] * s[NQ] / n) / sqrt(vp * vq);
	v[S_KLD] = s[KLD] / n;
	v[S_REV] = s[REV] / n;
	v[S_LLAMA] = s[LLAMA] / n;
	v[S_TOP1] = s[TOP1] / n;
	v[S_TOP5] = s[TOP5] / n;
	v[S_TOP1IN5] = s[TOP1IN5] / n;
	v[S_DP] = s[DP] / n;
	v[S_DPRMS] = sqrt(s[DP2] / n);
	v[S_COS] = s[COS] / s[N_COS];
}

/* Standard deviation and 2.5-97.5 % interval of each statistic over resamples of the chunks. */
static void bootstrap(whit_stat *const *st, const double *sum, int64_t chunks, int have_q) {
	double *rep = whit_alloc(sizeof(double) * STATS * WHIT_REPLICATES);
	whit_rng g;
	whit_rng_key(&g, WHIT_BOOTSTRAP_SEED, 0, 0);
	for (int r = 0; r < WHIT_REPLICATES; r++) {
		double s[SUMS] = {0}, v[STATS];
		for (int64_t c = 0; c < chunks; c++) {
			const double *draw = sum + whit_rng_below(&g, (uint64_t)chunks) * SUMS;
			for (int i = 0; i < SUMS; i++) s[i] += draw[i];
		}
		stats_of(s, have_q, v);
		for (int i = 0; i < STATS; i++) rep[i * WHIT_REPLICATES + r] = v[i];
	}
	for (int i = 0; i < STATS; i++) {
		double *x = rep + i * WHIT_REPLICATES, mean = 0, var = 0;
		int bad = 0; /* a resample without this statistic makes its error unknown */
		for (int r = 0; r < WHIT_REPLICATES; r++) {
			mean += x[r];
			bad |= !isfinite(x[r]);
		}
		if (bad) continue;
		mean /= WHIT_REPLICATES;
		for (int r = 0; r < WHIT_REPLICATES; r++) var += (x[r] - mean) * (x[r] - mean);
		qsort(x, WHIT_REPLICATES, sizeof(*x), ascending);
		st[i]->se = sqrt(var / (WHIT_REPLICATES - 1));
		st[i]->lo = whit_percentile(x, WHIT_REPLICATES, .025);
		st[i]->hi = whit_percentile(x, WHIT_REPLICATES, .975);
	}
	whit_free(rep);
}

/* The whole divergence, or what a base-logits file leaves of it. */
static double kld_of(const whit_point *pt) { return isnan(pt->kld) ? pt->kld_llama : pt->kld; }

/* Percentiles and extremes of KLD and dp, and the confidence buckets. */
static void distribution(whit_summary *s, const whit_point *pt, int64_t n) {
	double *x = whit_alloc((size_t)n * sizeof(double)), sum[WHIT_BUCKETS] = {0};
	for (int64_t i = 0; i < n; i++) {
		int b = WHIT_BUCKETS - 1;
		x[i] = kld_of(&pt[i]);
		while (b > 0 && pt[i].p_max < whit_bucket_edges[b]) b--;
		sum[b] += x[i];
		s->bucket_n[b]++;
	}
	for (int b = 0; b < WHIT_BUCKETS; b++)
		if (s->bucket_n[b]) s->bucket_kld[b] = sum[b] / (double)s->bucket_n[b];
	qsort(x, (size_t)n, sizeof(*x), ascending);
	s->kld_p50 = whit_percentile(x, n, .5);
	s->kld_p90 = whit_percentile(x, n, .9);
	s->kld_p95 = whit_percentile(x, n, .95);
	s->kld_p99 = whit_percentile(x, n, .99);
	s->kld_p999 = whit_percentile(x, n, .999);
	s->kld_max = x[n - 1];

	for (int64_t i = 0; i < n; i++) x[i] = pt[i].q_x - pt[i].p_x;
	qsort(x, (size_t)n, sizeof(*x), ascending);
	s->dp_min = x[0];
	s->dp_max = x[n - 1];
	for (int i = 0; i < WHIT_DP_QUANTILES; i++) s->dp_q[i] = whit_percentile(x, n, whit_dp_quantiles[i] / 100);
	whit_free(x);
}

/* sqrt(var / (n - 1)) of a mean, var with divisor n, as llama-perplexity prints. */
static double token_se(double sum, double squares, double n) {
	double mean = sum / n;
	return sqrt(WHIT_MAX(squares / n - mean * mean, 0) / (n - 1));
}

void whit_summarize(whit_summary *s, const whit_point *pt, int64_t n, int have_q, const double *chunk_weight,
                    int64_t chunks) {
	whit_stat *const st[STATS] = {&s->nll,      &s->ppl, &s->nll_ref, &s->ppl_ref,   &s->ppl_ratio, &s->ppl_diff,
	                              &s->nll_corr, &s->kld, &s->kld_rev, &s->kld_llama, &s->top1,      &s->top5,
	                              &s->top1_in5, &s->dp,  &s->dp_rms,  &s->cosine};
	double *sum, total[SUMS] = {0}, v[STATS], kld2 = 0;

	memset(s, 0, sizeof(*s));
	s->tokens = n;
	s->chunks = chunks;
	s->few = n < WHIT_FEW_TOKENS ? 1 : chunks < WHIT_FEW_CHUNKS ? 2 : 0;
	s->kld_p50 = s->kld_p90 = s->kld_p95 = s->kld_p99 = s->kld_p999 = s->kld_max = s->dp_min = s->dp_max = NAN;
	s->ppl_se_tokens = s->kld_se_tokens = s->top1_se_tokens = s->weight = NAN;
	for (int i = 0; i < WHIT_DP_QUANTILES; i++) s->dp_q[i] = NAN;
	for (int i = 0; i < WHIT_BUCKETS; i++) s->bucket_kld[i] = NAN;
	for (int i = 0; i < STATS; i++) *st[i] = (whit_stat){NAN, NAN, NAN, NAN};
	if (s->few == 1) return;

	sum = whit_alloc((size_t)chunks * SUMS * sizeof(double));
	for (int64_t i = 0; i < n; i++) {
		add_point(sum + (int64_t)pt[i].chunk * SUMS, &pt[i]);
		kld2 += kld_of(&pt[i]) * kld_of(&pt[i]);
	}
	for (int64_t c = 0; c < chunks; c++) {
		double *x = sum + c * SUMS;
		int weighted = chunk_weight && x[N] > 0;
		x[W] = weighted ? chunk_weight[c] : x[N];
		x[WNLL_P] = weighted ? x[NP] / x[N] * x[W] : x[NP];
		x[WNLL_Q] = weighted ? x[NQ] / x[N] * x[W] : x[NQ];
		for (int i = 0; i < SUMS; i++) total[i] += x[i];
	}
	s->weight = total[W];
	stats_of(total, have_q, v);
	for (int i = 0; i < STATS; i++) st[i]->mean = v[i];
	if (chunks > 1) bootstrap(st, sum, chunks, have_q);
	whit_free(sum);

	s->ppl_se_tokens = s->ppl.mean * token_se(total[have_q ? NQ : NP], total[have_q ? NQQ : NPP], (double)n);
	if (!have_q) return;
	s->cut = isnan(total[KLD]);
	s->kld_se_tokens = token_se(total[s->cut ? LLAMA : KLD], kld2, (double)n);
	s->top1_se_tokens = sqrt(s->top1.mean * (1 - s->top1.mean) / (double)n);
	distribution(s, pt, n);
}
