/* tiers: the ways that cuda/linear.cu has to multiply, by its own list. Without tuning a product goes as the rules say,
 * which stand here once more; tuned to a tier that takes it, by that one, with the right result; to one that does not,
 * as usual. And how the best is chosen (host/tune.h). */
#include "host/tune.h"
#include "tests/case_mat.h"
#include <math.h>

static const struct {
	const char *format;
	int64_t rows, width;
	int shift; /* bytes that the plane lies off 256 */
} rows[] = {{"f32", 9, 96, 0},       {"f16", 9, 2048, 0},    {"bf16", 9, 100, 0},      {"bf16", 9, 96, 1},
            {"tq3g128", 40, 256, 0}, {"int4g32", 20, 96, 0}, {"int8g128", 17, 128, 0}, {"tq5row", 9, 96, 0},
            {"q4_k", 18, 256, 0},    {"q3_k", 9, 256, 0},    {"iq4_xs", 9, 256, 0},    {"frc64c100k", 20, 128, 0}};
static const int64_t tokens[] = {1, 8, 9, 32, 33};

/* What cuda/linear.cu did before it had a list. */
static int rule(const whit_dev_info *i, int terms, const whit_mat *m, int64_t T, int aligned) {
	const char *name = m->spec.fmt->name;
	int f32 = !strcmp(name, "f32"), is_16 = !strcmp(name, "f16") || !strcmp(name, "bf16");
	int loads = m->row_bytes[0] % 16 == 0 && aligned, quick = i->major == 8 ? i->minor == 0 : i->major >= 9;
	if (T <= 8 && (f32 || is_16) && loads) return WHIT_TIER_STREAM;
	if (case_mat_packed(m, T) && m->spec.bits != 5) return WHIT_TIER_PACKED;
	if (T <= 8) return WHIT_TIER_GEMV;
	if (is_16) return WHIT_TIER_TERMS;
	return !f32 && (terms == 1 || quick) ? WHIT_TIER_WIDE : WHIT_TIER_DECODED;
}

static void decide(case_run *r, const whit_mat *m, int64_t T, int aligned) {
	whit_dev_info info;
	whit_dev_describe(r->dev, &info);
	for (int terms = 1; terms <= 3; terms += 2) {
		whit_dev_terms(r->dev, terms);
		int is = whit_tier_of(r->dev, m, T), need = rule(&info, terms, m, T, aligned);
		if (is != need || whit_tier_usual(r->dev, m, T) != need)
			case_fail(r, "%lld tokens, %d terms: goes by %s, need %s", (long long)T, terms,
			          whit_tier_name(is), whit_tier_name(need));
	}
}

/* Tuned to each tier in turn. Two that take a product differ in the order of their sums: equal bits of all results
 * would be those of one. */
static void force(case_run *r, const whit_mat *m, const whit_mat *host, const float *x, int64_t T) {
	int64_t n = T * m->rows, K = m->width;
	float *first = case_host(r, (size_t)n * sizeof *first), *got = case_host(r, (size_t)n * sizeof *got);
	float *want = case_host(r, (size_t)n * sizeof *want), *mag = case_host(r, (size_t)n * sizeof *mag);
	float *w = case_host(r, (size_t)K * sizeof *w);
	const float *dx = case_in(r, x, (size_t)(T * K) * sizeof *x);
	int ran = 0, differ = 0, usual = whit_tier_usual(r->dev, m, T);
	for (int64_t i = 0; i < n; i++) {
		double y = 0, sum = 0;
		if (i % T == 0) whit_mat_decode(host, i / T, i / T + 1, w);
		for (int64_t c = 0; c < K; c++)
			y += (double)w[c] * x[i % T * K + c], sum += fabs((double)w[c] * x[i % T * K + c]);
		want[i % T * m->rows + i / T] = (float)y, mag[i % T * m->rows + i / T] = (float)sum;
	}
	for (int tier = 0; tier < WHIT_TIERS; tier++) {
		whit_tuned p = {.rows = m->rows, .width = K, .tier = tier};
		for (int i = 0; i < WHIT_TUNE_RANGES && whit_tune_from(i) <= T; i++) p.tokens = whit_tune_from(i);
		whit_spec_name(&m->spec, p.format);
		whit_dev_tune(r->dev, &p, 1);
		int takes = whit_tier_takes(tier, m, T);
		if (whit_tier_of(r->dev, m, T) != (takes ? tier : usual) || (!takes && tier == usual))
			case_fail(r, "%lld tokens: tuned to %s, goes by %s", (long long)T, whit_tier_name(tier),
			          whit_tier_name(whit_tier_of(r->dev, m, T)));
		p.tokens = T < 9 ? 9 : 1; /* another range, another shape, another format */
		whit_dev_tune(r->dev, &p, 1);
		if (whit_tier_of(r->dev, m, T) != usual) case_fail(r, "tuned as for other numbers of tokens");
		if (!takes) continue;
		for (int i = 0; i < WHIT_TUNE_RANGES && whit_tune_from(i) <= T; i++) p.tokens = whit_tune_from(i);
		whit_dev_tune(r->dev, &p, 1);
		float *y = case_out(r, n);
		whit_linear_cuda(r->dev, y, dx, T, m, NULL);
		whit_dev_get(r->dev, got, y, (size_t)n * sizeof *got);
		/* case_linear.c derives them: sums in any order, two terms of F16 each */
		if (tier == WHIT_TIER_PACKED)
			case_near(r, y, want, case_mat_packed_bound(r, host, x, mag, T), n, 1);
		else
			case_near(r, y, want, mag, n,
			          ((double)K + 6) * 0x1p-23 + (tier == WHIT_TIER_WIDE ? 0x1p-20 : 0));
		whit_dev_reset(r->dev);
		whit_dev_sync(r->dev, &(whit_err){0});
		if (ran++) differ |= memcmp(first, got, (size_t)n * sizeof *got) != 0;
		if (ran == 1) memcpy(first, got, (size_t)n * sizeof *got);
	}
	whit_dev_tune(r->dev, NULL, 0);
	if (ran > 1 && !differ)
		case_fail(r, "%lld tokens: %d tiers have the same bits, as if one had run", (long long)T, ran);
}

static void choose(case_run *r) {
	static const struct {
		double us[WHIT_TIERS];
		int usual, best;
	} of[] = {{{0, 100, 99, 0, 0, 0}, 1, 1},
	          {{0, 100, 97, 0, 0, 0}, 1, 2},
	          {{0, 100, 300, 0, 0, 0}, 2, 1},
	          {{0, 0, 99, 0, 0, 0}, 1, 2},
	          {{0}, 1, -1},
	          {{0, 50, 0, 40, 30, 98}, 5, 4}};
	case_label(r, "the best tier");
	for (int i = 0; i < WHIT_COUNT(of); i++)
		if (whit_tune_best(of[i].us, of[i].usual) != of[i].best)
			case_fail(r, "of times %d tier %d is best, need %d", i, whit_tune_best(of[i].us, of[i].usual),
			          of[i].best);
}

static void row(case_run *r, int i) {
	if (i == WHIT_COUNT(rows)) {
		choose(r);
		return;
	}
	case_label(r, "%s %lld x %lld", rows[i].format, (long long)rows[i].rows, (long long)rows[i].width);
	if (case_skip(r, !r->dev)) return;
	whit_mat m = case_mat(r, rows[i].format, rows[i].rows, rows[i].width, 1), at = case_mat_in(r, &m);
	if (rows[i].shift) {
		uint8_t *moved = case_host(r, (size_t)m.rows * m.row_bytes[0] + (size_t)rows[i].shift);
		memcpy(moved + rows[i].shift, m.plane[0], (size_t)m.rows * m.row_bytes[0]);
		at.plane[0] = (uint8_t *)case_in(r, moved, (size_t)m.rows * m.row_bytes[0] + (size_t)rows[i].shift) +
		              rows[i].shift;
	}
	for (int k = 0; k < WHIT_COUNT(tokens); k++) {
		decide(r, &at, tokens[k], !rows[i].shift);
		force(r, &at, &m, case_normal(r, tokens[k] * m.width), tokens[k]);
	}
}

const case_set cases_tiers = {"tiers", WHIT_COUNT(rows) + 1, row, 1};
