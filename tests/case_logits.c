/* logits: a device's sums over rows of logits, the likeliest token, chosen rows, distances */
#include <math.h>
#include "eval/metrics.h"
#include "tests/case.h"

enum { TOP = WHIT_LOGIT_TOP };
enum { MEASURE, ARGMAX, GATHER, COMPARE };
enum {
	ONE = 1,   /* p alone */
	EQUAL = 2, /* q is p */
	TIES = 4,  /* few different values */
	BAD = 8    /* NaN and Inf in some rows */
};
static const struct {
	int kind;
	int64_t n, width;
	int flags;
	float size; /* of the logits */
} rows[] = {
        {MEASURE, 1, 1, 0, 1},
        {MEASURE, 7, 5, 0, 3},
        {MEASURE, 9, 3, ONE, 3},
        {MEASURE, 33, 3, TIES, 1},
        {MEASURE, 8, 33, TIES, 1},
        {MEASURE, 7, 33, BAD, 1},
        {MEASURE, 1, 1000, EQUAL, 5},
        {MEASURE, 3, 1000, ONE | TIES, 2},
        {MEASURE, 9, 1025, BAD, 4},
        {MEASURE, 2, 1025, TIES, 300}, /* most terms underflow */
        {MEASURE, 2, 32003, 0, 4},
        {MEASURE, 1, 32003, EQUAL | TIES, 4},
        {MEASURE, 0, 100, 0, 1},
        {MEASURE, 64, 151936, 0, 4},
        {ARGMAX, 1, 1, 0, 1},
        {ARGMAX, 7, 5, TIES, 1},
        {ARGMAX, 9, 257, BAD, 1},
        {ARGMAX, 3, 4096, TIES, 1},
        {ARGMAX, 2, 4097, BAD | TIES, 1},
        {ARGMAX, 8, 12001, BAD, 1},
        {ARGMAX, 3, 20000, TIES, 1},
        {ARGMAX, 1, 20000, 0, 1},
        {ARGMAX, 0, 20000, 0, 1},
        {ARGMAX, 64, 151936, TIES, 1},
        {GATHER, 1, 1, 0, 1},
        {GATHER, 7, 255, 0, 1},
        {GATHER, 9, 257, 0, 1},
        {GATHER, 33, 1000, 0, 1},
        {GATHER, 0, 16, 0, 1},
        {GATHER, 512, 5120, 0, 1},
        {COMPARE, 1, 1, 0, 1},
        {COMPARE, 0, 16, 0, 1},
        {COMPARE, 7, 255, 0, 3},
        {COMPARE, 9, 257, EQUAL, 1},
        {COMPARE, 300, 33, 0, 1}, /* more rows than the joining block has threads */
        {COMPARE, 2048, 5120, 0, 1},
};

/* n * width logits. Ties: multiples of size, so that the largest is there several times, at both ends of a slice too.
 */
static float *logits(case_run *r, int i) {
	int64_t all = rows[i].n * rows[i].width, width = rows[i].width;
	float *x = case_normal(r, all);
	for (int64_t k = 0; k < all; k++) {
		x[k] = (rows[i].flags & TIES ? roundf(x[k]) : x[k]) * rows[i].size;
		if (rows[i].flags & TIES && (k % width % 4096 == 4095 || k % width == width - 1))
			x[k] = 9 * rows[i].size;
	}
	return x;
}

/* NaN, Inf or -Inf twice in two rows of three. */
static void spoil(float *x, int i, int which) {
	static const float wrong[] = {NAN, INFINITY, -INFINITY};
	int64_t n = rows[i].n, width = rows[i].width;
	for (int64_t t = 0; rows[i].flags & BAD && t < n; t++) {
		if ((t + which) % 3 == 2) continue;
		x[t * width + (t * 7919 + which * 31) % width] = wrong[t % 3];
		x[t * width + (t * 104729 + 17) % width] = wrong[(t + 1) % 3];
	}
}

/* The target's bytes, their guards checked; NULL after a failure. */
static void *fetched(case_run *r, const void *out, size_t bytes) {
	void *got = case_host(r, bytes);
	int failed = r->failed;
	whit_err e;
	whit_dev_get(r->dev, got, out, bytes);
	if (whit_dev_sync(r->dev, &e)) return case_fail(r, "%s", e.text), NULL;
	case_bits(r, out, got, (int64_t)(bytes / 4));
	return r->failed == failed ? got : NULL;
}

static int64_t first_bad(const float *x, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		if (!isfinite(x[i])) return i;
	return -1;
}

/* The k-th: the largest of those that stand behind the one before, in order of value, then of place. */
static void best(const float *x, int64_t n, int32_t top[TOP]) {
	for (int k = 0; k < TOP; k++) {
		int64_t b = -1, last = k ? top[k - 1] : -1;
		for (int64_t i = 0; i < n && k < n; i++) {
			if (k && !(x[i] < x[last] || (x[i] == x[last] && i > last))) continue;
			if (b < 0 || x[i] > x[b]) b = i;
		}
		top[k] = b < 0 ? -1 - k : (int32_t)b;
	}
}

/* ---- whit_logits_measure_cuda ---- */

static void near(case_run *r, int64_t t, const char *what, double got, double want, double tol) {
	if (!(fabs(got - want) <= tol))
		case_fail(r, "row %lld: %s is %.17g, need %.17g within %.3g", (long long)t, what, got, want, tol);
}

static double ln_sum(const float *x, int64_t n, double max) {
	double s = 0;
	for (int64_t i = 0; i < n; i++) s += exp((double)x[i] - max);
	return log(s);
}

static void one_model(case_run *r, int64_t t, const char *who, const float *x, int64_t n, int32_t target, double max,
                      double ln, float at, const int32_t *top) {
	int32_t want[TOP];
	best(x, n, want);
	for (int k = 0; k < TOP; k++)
		if (top[k] != want[k])
			case_fail(r, "row %lld: top %d of %s is %d, need %d", (long long)t, k, who, top[k], want[k]);
	near(r, t, "the largest", max, x[want[0]], 0);
	near(r, t, "the target's logit", at, x[target], 0);
	/* n terms, each exp within 2 ulp, here and there; a difference below its argument's own rounding */
	near(r, t, "ln of the sum", ln, ln_sum(x, n, x[want[0]]), 2 * (double)(n + 8) * 0x1p-52);
}

/* Every logarithm is off by its sum's (n + 8) ulp and the roundings of what it is made of, |lp|; P by that much of
 * itself; a sum adds an ulp a term. All that in both, and the reference alike. */
static void two_models(case_run *r, int64_t t, const whit_logit_sums *got, const float *p, const float *q, int64_t n) {
	double u = 4 * (double)(n + 16) * 0x1p-52, kld = 0, rev = 0, llama = 0, pq = 0, pp = 0, qq = 0;
	double of_kld = 0, of_rev = 0, of_pq = 0;
	int equal = !memcmp(p, q, (size_t)n * sizeof *p);
	for (int64_t i = 0; i < n; i++) {
		double a = p[i], b = q[i], lp = a - got->max_p - got->ln_p, lq = b - got->max_q - got->ln_q,
		       d = lp - lq;
		double error = fabs(d) + 1 + fabs(lp) + fabs(lq), P = exp(lp), Q = exp(lq);
		kld += P * d, rev -= Q * d, llama += lp > -16 ? P * d : 0, pq += a * b, pp += a * a, qq += b * b;
		of_kld += P * (error + fabs(d * lp)), of_rev += Q * (error + fabs(d * lq)), of_pq += fabs(a * b);
	}
	near(r, t, "KLD", got->kld, kld, equal ? 0 : u * of_kld);
	near(r, t, "reverse KLD", got->rev, rev, equal ? 0 : u * of_rev);
	near(r, t, "llama.cpp's KLD", got->llama, llama, equal ? 0 : u * of_kld);
	near(r, t, "<p, q>", got->pq, pq, u * of_pq);
	near(r, t, "|p|^2", got->pp, pp, u * pp);
	near(r, t, "|q|^2", got->qq, qq, u * qq);
	if (equal && (got->kld != 0 || got->rev != 0 || got->llama != 0))
		case_fail(r, "row %lld: equal rows diverge by %g", (long long)t, got->kld);
}

/* What evaluation makes of it is what the CPU's plain twin makes of the rows: the sums mean the same to both. */
static void point(case_run *r, int64_t t, const whit_logit_sums *got, const float *p, const float *q, int64_t n,
                  int32_t target) {
	whit_point a, b;
	whit_err e;
	double u = 4 * (double)(n + 16) * 0x1p-52, far = 1 + fabs(got->max_p) + fabs(got->max_q);
	int bad = got->bad_p >= 0 || got->bad_q >= 0, code = whit_point_of_sums(&a, got, q != NULL, &e);
	int cpu = whit_point_measure_plain(&b, p, q, n, target, &e);
	if (!!code != bad || !!cpu != bad) case_fail(r, "row %lld: codes %d and %d", (long long)t, code, cpu);
	if (code || cpu) return;
	for (int64_t i = 0; i < n; i++) far = fmax(far, fabs((double)p[i]) + (q ? fabs((double)q[i]) : 0));
	far *= 4; /* of any logarithm, and of their difference */
	near(r, t, "nll_p", a.nll_p, b.nll_p, u * far);
	if (!q) return;
	near(r, t, "nll_q", a.nll_q, b.nll_q, u * far);
	near(r, t, "kld", a.kld, b.kld, u * far * far);
	if (a.top1 != b.top1 || a.top5 != b.top5 || a.top1_in5 != b.top1_in5)
		case_fail(r, "row %lld: agreement of the top differs from the CPU's", (long long)t);
}

static void check_measure(case_run *r, int i, const whit_logit_sums *out, const float *p, const float *q,
                          const int32_t *target) {
	int64_t n = rows[i].n, vocab = rows[i].width;
	const whit_logit_sums *got = fetched(r, out, (size_t)n * sizeof *got);
	for (int64_t t = 0; got && t < n && !r->failed; t++, got++, p += vocab, q += q ? vocab : 0) {
		int64_t bad_p = first_bad(p, vocab), bad_q = q ? first_bad(q, vocab) : -1;
		if (got->bad_p != bad_p || got->bad_q != bad_q)
			case_fail(r, "row %lld: bad at %lld and %lld, need %lld and %lld", (long long)t,
			          (long long)got->bad_p, (long long)got->bad_q, (long long)bad_p, (long long)bad_q);
		point(r, t, got, p, q, vocab, target[t]);
		if (bad_p < 0)
			one_model(r, t, "P", p, vocab, target[t], got->max_p, got->ln_p, got->p_target, got->top_p);
		if (q && bad_q < 0)
			one_model(r, t, "Q", q, vocab, target[t], got->max_q, got->ln_q, got->q_target, got->top_q);
		if (q && bad_p < 0 && bad_q < 0) two_models(r, t, got, p, q, vocab);
		if (!q && (got->max_q != 0 || got->ln_q != 0 || got->kld != 0 || got->rev != 0 || got->llama != 0 ||
		           got->pq != 0 || got->pp != 0 || got->qq != 0 || got->q_target != 0))
			case_fail(r, "row %lld: sums of Q without Q", (long long)t);
	}
}

static void measure(case_run *r, int i) {
	int64_t n = rows[i].n, vocab = rows[i].width;
	size_t bytes = (size_t)(n * vocab) * sizeof(float);
	float *p = logits(r, i), *q = NULL, *dq = NULL;
	int32_t *target = case_host(r, (size_t)n * sizeof *target);
	for (int64_t t = 0; t < n; t++) target[t] = (int32_t)((t * 7919 + vocab - 1) % vocab);
	if (rows[i].flags & EQUAL) {
		q = case_host(r, bytes);
		memcpy(q, p, bytes);
	} else if (!(rows[i].flags & ONE)) { /* a model beside the first */
		q = case_normal(r, n * vocab);
		for (int64_t k = 0; k < n * vocab; k++)
			q[k] = p[k] + (rows[i].flags & TIES ? rows[i].size * roundf(0.5f * q[k]) : 0.1f * q[k]);
	}
	spoil(p, i, 0);
	if (q) spoil(q, i, rows[i].flags & EQUAL ? 0 : 1);
	float *dp = case_in(r, p, bytes);
	if (q) dq = case_in(r, q, bytes);
	int32_t *dt = case_in(r, target, (size_t)n * sizeof *target);
	for (int plain = 0; plain < 2; plain++) {
		whit_logit_sums *out = (void *)case_out(r, n * (int64_t)(sizeof *out / 4));
		int was = whit_dev_plain(r->dev, plain);
		whit_logits_measure_cuda(r->dev, out, dp, dq, n, vocab, dt);
		whit_dev_plain(r->dev, was);
		check_measure(r, i, out, p, q, target);
	}
}

/* ---- the others ---- */

static void argmax(case_run *r, int i) {
	int64_t n = rows[i].n, vocab = rows[i].width;
	float *x = logits(r, i);
	spoil(x, i, 0);
	float *dx = case_in(r, x, (size_t)(n * vocab) * sizeof *x);
	for (int plain = 0; plain < 2; plain++) {
		int32_t *out = (void *)case_out(r, n);
		int64_t *bad = (void *)case_out(r, 2 * n);
		int was = whit_dev_plain(r->dev, plain);
		whit_argmax_cuda(r->dev, out, bad, dx, n, vocab);
		whit_dev_plain(r->dev, was);
		const int32_t *at = fetched(r, out, (size_t)n * sizeof *at);
		const int64_t *wrong = fetched(r, bad, (size_t)n * sizeof *wrong);
		for (int64_t t = 0; at && wrong && t < n; t++) {
			const float *l = x + t * vocab;
			int64_t most = 0, first = first_bad(l, vocab);
			for (int64_t k = 1; k < vocab; k++)
				if (l[k] > l[most]) most = k;
			if (wrong[t] != first)
				case_fail(r, "row %lld: bad at %lld, need %lld", (long long)t, (long long)wrong[t],
				          (long long)first);
			if (first < 0 ? at[t] != most : at[t] < 0 || at[t] >= vocab) /* of a bad row: some index */
				case_fail(r, "row %lld: largest at %d, need %lld", (long long)t, at[t],
				          (long long)most);
		}
		whit_dev_reset(r->dev);
	}
}

static void gather(case_run *r, int i) {
	int64_t n = rows[i].n, width = rows[i].width, from = n + 3;
	float *x = case_normal(r, from * width), *want = case_host(r, (size_t)(n * width) * sizeof *want);
	int64_t *row = case_host(r, (size_t)n * sizeof *row);
	for (int64_t t = 0; t < n; t++) { /* backwards, some twice */
		row[t] = t % 4 == 3 ? row[t - 1] : from - 1 - t;
		memcpy(want + t * width, x + row[t] * width, (size_t)width * sizeof *x);
	}
	float *y = case_out(r, n * width), *dx = case_in(r, x, (size_t)(from * width) * sizeof *x);
	whit_rows_gather_cuda(r->dev, y, dx, case_in(r, row, (size_t)n * sizeof *row), n, width);
	case_same(r, y, want, n * width);
}

static void compare(case_run *r, int i) {
	static const char *const name[] = {"|p - q|^2", "|p|^2", "|q|^2", "<p, q>"};
	int64_t n = rows[i].n, width = rows[i].width, all = n * width;
	float *p = logits(r, i), *q = rows[i].flags & EQUAL ? p : case_normal(r, all);
	double want[4] = {0}, mag[4] = {0};
	for (int64_t k = 0; k < all; k++) {
		double a = p[k], b = q[k], term[] = {(a - b) * (a - b), a * a, b * b, a * b};
		for (int j = 0; j < 4; j++) want[j] += term[j], mag[j] += fabs(term[j]);
	}
	double *out = (void *)case_out(r, 8);
	whit_rows_compare_cuda(r->dev, out, case_in(r, p, (size_t)all * sizeof *p),
	                       case_in(r, q, (size_t)all * sizeof *q), n, width);
	const double *got = fetched(r, out, sizeof want);
	/* an addition and three roundings a term, here and there; alike: exactly nothing between them */
	for (int j = 0; got && j < 4; j++)
		near(r, 0, name[j], got[j], want[j], 2 * (double)(all + 8) * 0x1p-53 * mag[j]);
	whit_dev_reset(r->dev);
}

static void row(case_run *r, int i) {
	static const char *const name[] = {"measure", "argmax", "gather", "compare"};
	static void (*const run[])(case_run *, int) = {measure, argmax, gather, compare};
	if (case_skip(r, !r->dev)) return; /* the CPU has its own, tests/test_metrics.c */
	if (case_skip_big(r, rows[i].n * rows[i].width > 150000)) return;
	case_label(r, "%s, %lld x %lld, flags %d", name[rows[i].kind], (long long)rows[i].n, (long long)rows[i].width,
	           rows[i].flags);
	run[rows[i].kind](r, i);
}

const case_set cases_logits = {"logits", WHIT_COUNT(rows), row, 0};
