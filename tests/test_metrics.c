/* metrics against hand-computed distributions, brute force in long double, and exact properties. */
#include "eval/metrics.h"
#include <float.h>
#include "tests/test.h"

static whit_err e;

/* The definitions of quality.md, straight, in long double. */
typedef struct truth {
	long double nll_p, nll_q, kld, rev, llama, cosine, sum_abs;
} truth;

static void brute(truth *t, const float *p, const float *q, int64_t n, int32_t x) {
	long double mp = p[0], mq = q[0], sp = 0, sq = 0, pq = 0, pp = 0, qq = 0;
	memset(t, 0, sizeof(*t));
	for (int64_t i = 0; i < n; i++) {
		mp = p[i] > mp ? p[i] : mp;
		mq = q[i] > mq ? q[i] : mq;
	}
	for (int64_t i = 0; i < n; i++) {
		sp += expl(p[i] - mp);
		sq += expl(q[i] - mq);
	}
	for (int64_t i = 0; i < n; i++) {
		long double lp = p[i] - mp - logl(sp), lq = q[i] - mq - logl(sq);
		t->kld += expl(lp) * (lp - lq);
		t->rev += expl(lq) * (lq - lp);
		t->sum_abs += (expl(lp) + expl(lq)) * (fabsl(lp) + fabsl(lq) + 1);
		if (lp > -16) t->llama += expl(lp) * (lp - lq);
		if (i == x) t->nll_p = -lp, t->nll_q = -lq;
		pq += (long double)p[i] * q[i];
		pp += (long double)p[i] * p[i];
		qq += (long double)q[i] * q[i];
	}
	t->cosine = pq / sqrtl(pp * qq);
}

/* Sums of n terms: (n + 8) 2^-52 of their magnitudes, worst case; ln P is rounded at its own size, which sum_abs
 * holds for KLD and the nll itself for nll. */
static void compare(const float *p, const float *q, int64_t n, int32_t x, const char *what) {
	whit_point pt[3];
	truth t;
	brute(&t, p, q, n, x);
	double unit = (double)(n + 8) * 0x1p-52, tol = unit * (double)t.sum_abs;
	CHECK_RC(whit_point_measure_plain(&pt[0], p, q, n, x, &e), e);
	whit_cpu_cap(0);
	CHECK_RC(whit_point_measure(&pt[1], p, q, n, x, &e), e);
	whit_cpu_cap(WHIT_CPU_TOP);
	CHECK_RC(whit_point_measure(&pt[2], p, q, n, x, &e), e);
	for (int k = 0; k < 3; k++) {
		double off = fabs(pt[k].nll_p - (double)t.nll_p) + fabs(pt[k].nll_q - (double)t.nll_q);
		CHECK_MSG(off <= unit * (2 + (double)(t.nll_p + t.nll_q)), "%s, twin %d: nll off by %g", what, k, off);
		off = fabs(pt[k].kld - (double)t.kld) + fabs(pt[k].kld_rev - (double)t.rev);
		CHECK_MSG(off <= 2 * tol, "%s, twin %d: kld off by %g, tolerance %g", what, k, off, 2 * tol);
		off = fabs(pt[k].kld_llama - (double)t.llama);
		CHECK_MSG(off <= tol, "%s, twin %d: llama's kld off by %g", what, k, off);
		off = fabs(pt[k].cosine - (double)t.cosine);
		CHECK_MSG(off <= 4 * unit, "%s, twin %d: cosine off by %g", what, k, off);
		CHECK(pt[k].q_x == exp(-pt[k].nll_q) && pt[k].p_x == exp(-pt[k].nll_p));
	}
	/* The vector body has the same bits at both levels. */
	pt[1].chunk = pt[2].chunk = 0;
	CHECK_MSG(!memcmp(&pt[1], &pt[2], sizeof(whit_point)), "%s: the same bits with and without AVX2", what);
	CHECK_MSG(pt[0].top1 == pt[2].top1 && pt[0].top5 == pt[2].top5 && pt[0].top1_in5 == pt[2].top1_in5,
	          "%s: agreement", what);
}

static void run_hand(void) {
	/* P = (1/4, 3/4), Q = (1/2, 1/2): KL(P||Q) = ln(1/2)/-4... worked out below; logits round ln 3 to float. */
	float p[2] = {0, logf(3)}, q[2] = {7, 7};
	whit_point pt;
	CHECK_RC(whit_point_measure(&pt, p, q, 2, 0, &e), e);
	CHECK_NEAR(pt.kld, .25 * log(.5) + .75 * log(1.5), 1e-7);     /* 0.130812 */
	CHECK_NEAR(pt.kld_rev, .5 * log(2) + .5 * log(2. / 3), 1e-7); /* 0.143841 */
	CHECK_NEAR(pt.nll_p, log(4), 1e-7);
	CHECK_NEAR(pt.nll_q, log(2), 1e-15);
	CHECK_NEAR(pt.p_x, .25, 1e-7);
	CHECK_NEAR(pt.p_max, .75, 1e-7);
	CHECK_NEAR(pt.cosine, sqrt(.5), 1e-7);
	CHECK_INT(pt.top1, 0); /* Q ties: index 0; P has 1 */
	CHECK_INT(pt.top1_in5, 1);

	/* Uniform over 1000. */
	float u[1000] = {0};
	CHECK_RC(whit_point_measure(&pt, u, NULL, 1000, 999, &e), e);
	CHECK_NEAR(pt.nll_p, log(1000), 1e-13);
	CHECK_NEAR(pt.p_max, .001, 1e-16);
	CHECK(isnan(pt.nll_q) && isnan(pt.kld) && isnan(pt.kld_rev) && isnan(pt.kld_llama));
	CHECK(isnan(pt.cosine) && isnan(pt.q_x));
	CHECK(pt.top1 < 0 && pt.top5 < 0);

	/* llama.cpp's cut: an entry of P at e^-20 whose Q is e^-40 counts in kld only. */
	float a[2] = {0, -20}, b[2] = {0, -40};
	CHECK_RC(whit_point_measure(&pt, a, b, 2, 0, &e), e);
	CHECK_NEAR(pt.kld, 20 * exp(-20) - exp(-20), 1e-15);
	CHECK_NEAR(pt.kld_llama, -exp(-20), 1e-15);
}

static void run_ties(void) {
	float p[8] = {1, 5, 5, 5, 5, 5, 5, 0}, q[8] = {5, 5, 5, 1, 5, 5, 5, 9};
	whit_point pt;
	CHECK_RC(whit_point_measure(&pt, p, q, 8, 0, &e), e);
	CHECK_INT(pt.top1, 0); /* P: 1, Q: 7 */
	CHECK_INT(pt.top5, 3); /* P: 1 2 3 4 5, Q: 7 0 1 2 4 */
	CHECK_INT(pt.top1_in5, 1);
	CHECK_RC(whit_point_measure(&pt, q, p, 8, 0, &e), e);
	CHECK_INT(pt.top1_in5, 0); /* 7 is not among 1 2 3 4 5 */
	float low[2] = {3, 3}, same[2] = {4, 4};
	CHECK_RC(whit_point_measure(&pt, low, same, 2, 1, &e), e);
	CHECK_INT(pt.top1, 1);
	CHECK(pt.kld == 0 && pt.kld_rev == 0);
}

static void fill(float *x, int64_t n, double scale, uint64_t key) {
	whit_rng g;
	whit_rng_key(&g, 11, key, (uint64_t)n);
	for (int64_t i = 0; i < n; i++) x[i] = (float)(scale * whit_rng_normal(&g));
}

static void run_brute(void) {
	enum { BIG = 151936 };
	float *p = whit_alloc(BIG * sizeof(float)), *q = whit_alloc(BIG * sizeof(float));
	char what[64];
	static const double scale[] = {1e-3, 1, 8, 300};
	for (int64_t n = 1; n <= 40; n++)
		for (int s = 0; s < WHIT_COUNT(scale); s++) {
			fill(p, n, scale[s], 1);
			fill(q, n, scale[s], 2);
			snprintf(what, sizeof(what), "%lld logits of scale %g", (long long)n, scale[s]);
			compare(p, q, n, (int32_t)(n / 2), what);
		}
	/* A large vocabulary, Q close to P as in a mild quantization, and far. */
	fill(p, BIG, 4, 3);
	fill(q, BIG, .02, 4);
	for (int64_t i = 0; i < BIG; i++) q[i] += p[i];
	compare(p, q, BIG, 77, "close rows");
	fill(q, BIG, 4, 5);
	compare(p, q, BIG, 77, "far rows");
	whit_free(p);
	whit_free(q);
}

static void run_extreme(void) {
	float p[9] = {1e4f, -1e4f, 0, 9999, 1e4f, -1e4f, 3, 1e4f, -1}, q[9] = {-1e4f, 1e4f, 0, 0, 1, 2, 3, 4, 5};
	whit_point pt;
	compare(p, q, 9, 0, "logits of 1e4");
	CHECK_RC(whit_point_measure(&pt, p, q, 9, 1, &e), e);
	CHECK_NEAR(pt.nll_p, 20000 + log(3 + exp(-1)), 1e-10); /* no clamping of tails */
	CHECK(isfinite(pt.kld) && isfinite(pt.kld_rev) && pt.kld > 1e4);
	float huge[3] = {FLT_MAX, -FLT_MAX, 0};
	CHECK_RC(whit_point_measure(&pt, huge, huge, 3, 0, &e), e);
	CHECK(pt.kld == 0 && pt.kld_rev == 0 && pt.nll_p == 0);
	float lowest[3] = {-FLT_MAX, -FLT_MAX, -FLT_MAX};
	CHECK_RC(whit_point_measure(&pt, lowest, lowest, 3, 0, &e), e);
	CHECK_NEAR(pt.p_x, 1. / 3, 1e-15);
	CHECK(pt.kld == 0);
}

static void run_hostile(void) {
	float p[12] = {0}, q[12] = {0};
	static const float bad[] = {NAN, INFINITY, -INFINITY};
	whit_point pt;
	for (int k = 0; k < 3; k++)
		for (int i = 0; i < 12; i++) {
			char word[64];
			snprintf(word, sizeof(word), "logit of token %d is", i);
			p[i] = bad[k];
			CHECK_FAILS(whit_point_measure(&pt, p, q, 12, 3, &e), WHIT_ENONFINITE, e, word);
			CHECK_FAILS(whit_point_measure(&pt, q, p, 12, 3, &e), WHIT_ENONFINITE, e, word);
			CHECK_FAILS(whit_point_measure(&pt, p, NULL, 12, 3, &e), WHIT_ENONFINITE, e, word);
			p[i] = 0;
		}
	CHECK_FAILS(whit_point_measure(&pt, p, q, 12, 12, &e), WHIT_EINTERNAL, e, "target token is 12");
	CHECK_FAILS(whit_point_measure(&pt, p, q, 12, -1, &e), WHIT_EINTERNAL, e, "target token is -1");
	CHECK_RC(whit_point_measure(&pt, p, q, 12, 3, &e), e);
	CHECK(isnan(pt.cosine)); /* all-zero rows have no direction */
}

/* Identical models: exactly nothing lost. */
static void run_identical(void) {
	enum { TOKENS = 600, CHUNKS = 30, VOCAB = 333 };
	static whit_point pt[TOKENS];
	float x[VOCAB];
	whit_summary s;
	for (int i = 0; i < TOKENS; i++) {
		fill(x, VOCAB, 5, (uint64_t)i);
		CHECK_RC(whit_point_measure(&pt[i], x, x, VOCAB, i % VOCAB, &e), e);
		pt[i].chunk = i / (TOKENS / CHUNKS);
		CHECK(pt[i].kld == 0 && pt[i].kld_rev == 0 && pt[i].kld_llama == 0 && pt[i].top1 == 1 &&
		      pt[i].top5 == 5);
	}
	whit_summarize(&s, pt, TOKENS, 1, NULL, CHUNKS);
	CHECK_INT(s.few, 0);
	CHECK(s.kld.mean == 0 && s.kld.se == 0 && s.kld_max == 0 && s.kld_rev.mean == 0 && s.kld_p999 == 0);
	CHECK(s.top1.mean == 1 && s.top1.se == 0 && s.top5.mean == 1 && s.top1_in5.mean == 1 && s.top1_se_tokens == 0);
	CHECK(s.ppl.mean == s.ppl_ref.mean && s.ppl_ratio.mean == 1 && s.ppl_ratio.se == 0 && s.ppl_diff.mean == 0);
	CHECK(s.ppl.se > 0 && s.ppl.lo < s.ppl.mean && s.ppl.mean < s.ppl.hi);
	CHECK(s.dp.mean == 0 && s.dp_rms.mean == 0 && s.dp_max == 0);
	CHECK_NEAR(s.cosine.mean, 1, 1e-15);
	CHECK_NEAR(s.nll_corr.mean, 1, 1e-12);
}

static whit_point made(double nll_p, double nll_q, double kld, double p_max, int chunk) {
	return (whit_point){.nll_p = nll_p,
	                    .nll_q = nll_q,
	                    .kld = kld,
	                    .kld_rev = 2 * kld,
	                    .kld_llama = kld,
	                    .p_x = exp(-nll_p),
	                    .q_x = exp(-nll_q),
	                    .p_max = p_max,
	                    .cosine = .5,
	                    .top1 = chunk % 2,
	                    .top5 = 4,
	                    .top1_in5 = 1,
	                    .chunk = chunk};
}

static void run_summary(void) {
	enum { CHUNKS = 400, EACH = 5, TOKENS = CHUNKS * EACH };
	static whit_point pt[TOKENS];
	double mean = 0, var = 0, sum2 = 0;
	whit_summary s, again;
	whit_rng g;
	whit_rng_key(&g, 5, 0, 0);
	for (int c = 0; c < CHUNKS; c++) {
		double level = 3 + .2 * whit_rng_normal(&g);
		for (int i = 0; i < EACH; i++)
			pt[c * EACH + i] = made(level, level + .25, (c * EACH + i) * 1e-3, (i + .5) / EACH, c);
		mean += level / CHUNKS;
		sum2 += level * level / CHUNKS;
	}
	var = (sum2 - mean * mean) * CHUNKS / (CHUNKS - 1.);
	whit_summarize(&s, pt, TOKENS, 1, NULL, CHUNKS);
	whit_summarize(&again, pt, TOKENS, 1, NULL, CHUNKS);
	CHECK(!memcmp(&s, &again, sizeof(s)));
	CHECK_INT(s.tokens, TOKENS);
	CHECK_INT(s.chunks, CHUNKS);
	CHECK_NEAR(s.weight, TOKENS, 0);
	CHECK_NEAR(s.nll_ref.mean, mean, 1e-12);
	CHECK_NEAR(s.nll.mean, mean + .25, 1e-12);
	CHECK_NEAR(s.ppl.mean, exp(mean + .25), 1e-10);
	/* Tokens of a chunk are equal: the error is that of CHUNKS values. 1000 replicates know a standard deviation
	 * to 1/sqrt(2000) = 2.2 %; 5 of those. */
	CHECK_NEAR(s.nll.se / sqrt(var / CHUNKS), 1, .112);
	CHECK_NEAR((s.nll.hi - s.nll.lo) / (2 * 1.96 * sqrt(var / CHUNKS)), 1, .15);
	/* The two series share their draws, so a constant difference has no error at all. */
	CHECK_NEAR(s.ppl_ratio.mean, exp(.25), 1e-12);
	CHECK(s.ppl_ratio.se < 1e-12 && s.ppl.se > .01 && s.ppl_diff.se > 1e-3);
	CHECK_NEAR(s.nll_corr.mean, 1, 1e-9);
	/* 0, .001 ... 1.999 */
	CHECK_NEAR(s.kld.mean, .9995, 1e-12);
	CHECK_NEAR(s.kld_rev.mean, 1.999, 1e-12);
	CHECK_NEAR(s.kld_p50, .9995, 1e-12);
	CHECK_NEAR(s.kld_p99, .99 * 1.999, 1e-12);
	CHECK_NEAR(s.kld_p999, .999 * 1.999, 1e-12);
	CHECK_NEAR(s.kld_max, 1.999, 1e-12);
	CHECK_NEAR(s.kld_se_tokens, sqrt((TOKENS * (double)TOKENS - 1) / 12 * 1e-6 / (TOKENS - 1)), 1e-9);
	CHECK_NEAR(s.top1.mean, .5, 0);
	CHECK_NEAR(s.top1_se_tokens, sqrt(.25 / TOKENS), 1e-15);
	CHECK_NEAR(s.top5.mean, .8, 1e-12);
	/* p_max .1 .3 .5 .7 .9: edges belong to the bucket above them. */
	static const int want[WHIT_BUCKETS] = {CHUNKS, CHUNKS, 2 * CHUNKS, 0, CHUNKS, 0};
	for (int b = 0; b < WHIT_BUCKETS; b++) CHECK_INT(s.bucket_n[b], want[b]);
	CHECK(isnan(s.bucket_kld[3]) && isnan(s.bucket_kld[5]));
	CHECK_NEAR(s.bucket_kld[0], .9975, 1e-12);
	CHECK_NEAR(s.bucket_kld[4], 1.0015, 1e-12);
	CHECK(s.dp_min <= s.dp_q[10] && s.dp_q[10] <= s.dp_q[5] && s.dp_q[5] <= s.dp_q[0] && s.dp_q[0] <= s.dp_max);
	CHECK(s.dp.mean < 0 && s.dp_rms.mean > -s.dp.mean && s.dp.se > 0 && s.dp_rms.se > 0);

	/* Perplexity only: everything of Q is unmeasured, not zero. */
	whit_summarize(&s, pt, TOKENS, 0, NULL, CHUNKS);
	CHECK_NEAR(s.nll.mean, mean, 1e-12);
	CHECK(isnan(s.kld.mean) && isnan(s.top1.mean) && isnan(s.ppl_ref.mean) && isnan(s.kld_max) &&
	      isnan(s.dp_rms.mean));
	CHECK(isnan(s.kld_se_tokens) && s.ppl_se_tokens > 0);
}

static void run_weights(void) {
	/* sliding_hf: windows' means weighted as told; 100 tokens of nll 1 with weight 3, 50 of nll 2 with weight 1. */
	static whit_point pt[150];
	static const double weight[2] = {3, 1};
	whit_summary s;
	for (int i = 0; i < 150; i++) pt[i] = made(i < 100 ? 1 : 2, i < 100 ? 2 : 4, i < 100 ? 0 : 3, .5, i >= 100);
	whit_summarize(&s, pt, 150, 1, weight, 2);
	CHECK_NEAR(s.nll_ref.mean, 1.25, 1e-12);
	CHECK_NEAR(s.nll.mean, 2.5, 1e-12);
	CHECK_NEAR(s.weight, 4, 0);
	CHECK_NEAR(s.kld.mean, 1, 1e-12); /* tokens count alike outside perplexity */
	CHECK_INT(s.few, 2);
}

static void run_few(void) {
	static whit_point pt[200];
	whit_summary s;
	for (int i = 0; i < 200; i++) pt[i] = made(2, 1 + i * .01, .1, .5, 0);
	whit_summarize(&s, pt, 99, 1, NULL, 1);
	CHECK_INT(s.few, 1);
	CHECK(isnan(s.ppl.mean) && isnan(s.kld.mean) && isnan(s.ppl_se_tokens) && isnan(s.weight));
	whit_summarize(&s, pt, 100, 1, NULL, 1);
	CHECK_INT(s.few, 2);
	/* One chunk resamples to itself: its error is unknown, not zero. */
	CHECK(s.ppl.mean > 1 && isnan(s.ppl.se) && isnan(s.ppl.lo) && isnan(s.kld.se) && s.ppl_se_tokens > 0);
	for (int i = 0; i < 200; i++) pt[i].chunk = i / 10;
	whit_summarize(&s, pt, 190, 1, NULL, 19);
	CHECK_INT(s.few, 2);
	whit_summarize(&s, pt, 200, 1, NULL, 20);
	CHECK_INT(s.few, 0);
	CHECK(s.ppl.se > 0);
	CHECK(isnan(s.nll_corr.mean)); /* P's nll is constant: no correlation */
	CHECK(isnan(s.nll_corr.se));
}

static void run_percentile(void) {
	static const double x[5] = {1, 2, 4, 8, 16};
	CHECK_NEAR(whit_percentile(x, 5, 0), 1, 0);
	CHECK_NEAR(whit_percentile(x, 5, 1), 16, 0);
	CHECK_NEAR(whit_percentile(x, 5, .5), 4, 0);
	CHECK_NEAR(whit_percentile(x, 5, .875), 12, 1e-12);
	CHECK_NEAR(whit_percentile(x, 1, .3), 1, 0);
	CHECK(isnan(whit_percentile(x, 0, .5)));
}

TEST_MAIN(run_hand, run_ties, run_brute, run_extreme, run_hostile, run_identical, run_summary, run_weights, run_few,
          run_percentile)
