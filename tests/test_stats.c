/* stats: the diagonal against llama-imatrix's of the same chunks (golden/imatrix), and what it must not depend on. */
#include "calib/stats.h"
#include "host/progress.h"
#include "tests/subject.h"

static int run_diag(subject *s, const whit_stats_opts *o, whit_imatrix *im) {
	whit_stats st;
	whit_stats_text t = {.name = "demo.txt", .data = s->text, .bytes = s->n};
	whit_stats_opts with = *o;
	with.kinds = WHIT_STAT_DIAG;
	if (!CHECK_RC(whit_stats_run(&st, &s->m, s->tok, &t, 1, &with, &e), e)) return 0;
	CHECK(s->m.observer == NULL);
	int ok = CHECK_RC(whit_stats_imatrix(&st, &s->m, &t, 1, im, &e), e);
	whit_stats_free(&st);
	return ok;
}

/* llama.cpp sums squares in float: over n tokens up to n / 2 ulps of 2^-24 off at random signs' worst, 1e-5 in
 * practice; its products are float in another order too, which earlier layers hand on. */
static void against_llama(char *dir, int64_t ctx, int64_t chunks, const char *name) {
	subject s;
	whit_imatrix im, want;
	char *path = whit_format_text("%s/tests/golden/imatrix/%s", WHIT_SOURCE, name);
	if (subject_open(&s, dir) && CHECK_RC(whit_imatrix_open(&want, path, &e), e) &&
	    run_diag(&s, &(whit_stats_opts){.ctx = ctx, .chunks = chunks}, &im)) {
		CHECK_INT(im.n, want.n);
		CHECK_INT(im.chunks, want.chunks);
		CHECK_INT(im.chunk_size, want.chunk_size);
		CHECK_TEXT(im.dataset[0], want.dataset[0]);
		for (int64_t i = 0; i < WHIT_MIN(im.n, want.n); i++) {
			double worst = 0;
			CHECK_TEXT(im.w[i].name, want.w[i].name);
			CHECK(im.w[i].cols == want.w[i].cols && im.w[i].count == want.w[i].count);
			for (int64_t k = 0; k < want.w[i].cols; k++) {
				double d = fabs(im.w[i].sum2[k] - want.w[i].sum2[k]) / want.w[i].sum2[k];
				if (!(d <= worst)) worst = d;
			}
			CHECK_MSG(worst <= 2e-4, "%s: relative difference %g", im.w[i].name, worst);
		}
		whit_imatrix_close(&im);
		whit_imatrix_close(&want);
	}
	whit_free(path);
	subject_close(&s);
}

static void run_llama(void) {
	against_llama(test_model("wiki12M-qwen3"), 128, 4, "wiki12M.gguf");
	against_llama(test_data("models/stories260K"), 64, 3, "stories.gguf"); /* llama: BOS replaces first tokens */
}

static int same(const whit_imatrix *a, const whit_imatrix *b) {
	if (a->n != b->n) return 0;
	for (int64_t i = 0; i < a->n; i++)
		if (strcmp(a->w[i].name, b->w[i].name) || a->w[i].count != b->w[i].count ||
		    memcmp(a->w[i].sum2, b->w[i].sum2, (size_t)a->w[i].cols * sizeof(float)))
			return 0;
	return 1;
}

/* The same bytes at any thread count, batch, and number of chunks between layers. */
static void run_invariance(void) {
	static const struct {
		int threads;
		int64_t batch, held;
	} ways[] = {{3, 0, 0}, {1, 96, 0}, {2, 200, 300}, {2, 96, 96}, {3, 1, 1}}; /* tokens */
	subject s;
	whit_imatrix want, got;
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	whit_threads_set(1);
	whit_stats_opts o = {.ctx = 96, .chunks = 7, .head = 1};
	if (run_diag(&s, &o, &want)) {
		CHECK_INT(want.n, 43);
		CHECK_TEXT(want.w[42].name, "token_embd.weight");
		for (int i = 0; i < WHIT_COUNT(ways); i++) {
			whit_threads_set(ways[i].threads);
			o.batch_tokens = ways[i].batch;
			o.held_bytes = ways[i].held * s.m.hidden * (int64_t)sizeof(float);
			if (!run_diag(&s, &o, &got)) break;
			CHECK_MSG(same(&want, &got), "threads %d, batch %lld, held %lld", ways[i].threads,
			          (long long)ways[i].batch, (long long)ways[i].held);
			whit_imatrix_close(&got);
		}
		whit_imatrix_close(&want);
	}
	whit_threads_set(0);
	subject_close(&s);
}

static const double *squares(const whit_stats *s, int64_t i) {
	return whit_stats_find(s, s->in[i].layer, "text", s->in[i].weight[0], "in.sq")->data;
}

/* Two texts are the chunks of the one and then of the other, and sums add up. */
static void run_texts(void) {
	subject s;
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	whit_stats_opts o = {.kinds = WHIT_STAT_DIAG, .ctx = 64};
	whit_stats both, one[2];
	whit_stats_text t[2] = {{.name = "a", .data = s.text, .bytes = 2000},
	                        {.name = "b", .data = s.text + 2000, .bytes = 3000}};
	int ok = CHECK_RC(whit_stats_run(&both, &s.m, s.tok, t, 2, &o, &e), e);
	CHECK_INT(both.chunks, t[0].chunks + t[1].chunks);
	CHECK_INT(both.n, 24); /* four distinct inputs of six layers */
	CHECK_INT(both.in[0].n_weight, 3);
	for (int i = 0; i < 2 && ok; i++) ok = CHECK_RC(whit_stats_run(&one[i], &s.m, s.tok, &t[i], 1, &o, &e), e);
	for (int64_t i = 0; i < both.n && ok; i++)
		for (int64_t k = 0; k < both.in[i].cols; k++) {
			double sum = squares(&one[0], i)[k] + squares(&one[1], i)[k];
			if (!(fabs(squares(&both, i)[k] - sum) <= 1e-12 * sum))
				CHECK_MSG(0, "input %lld, column %lld", (long long)i, (long long)k);
		}
	if (ok) {
		whit_stats_free(&both);
		whit_stats_free(&one[0]);
		whit_stats_free(&one[1]);
	}

	/* --chunks counts over all texts; one that is not reached is said and left out of the data sets */
	whit_imatrix im;
	o.chunks = 3;
	whit_quiet(1);
	if (CHECK_RC(whit_stats_run(&both, &s.m, s.tok, t, 2, &o, &e), e)) {
		CHECK_INT(both.tokens, 3 * 64);
		CHECK_INT(t[1].chunks, 0);
		if (CHECK_RC(whit_stats_imatrix(&both, &s.m, t, 2, &im, &e), e)) {
			CHECK_INT(im.n_dataset, 1);
			whit_imatrix_close(&im);
		}
		whit_stats_free(&both);
	}
	subject_close(&s);
}

static void run_refusals(void) {
	subject s;
	whit_stats st;
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	whit_stats_opts o = {.kinds = WHIT_STAT_DIAG, .ctx = 64};
	whit_stats_text t[2] = {{.name = "long", .data = s.text, .bytes = s.n},
	                        {.name = "short", .data = s.text, .bytes = 20}};
	CHECK_FAILS(whit_stats_run(&st, &s.m, s.tok, t, 2, &o, &e), WHIT_EINPUT, e, "short: text is");
	t[1].bytes = 0;
	CHECK_FAILS(whit_stats_run(&st, &s.m, s.tok, t, 2, &o, &e), WHIT_EINPUT, e, "short: is empty");
	CHECK(!st.in && !st.n);
	o.ctx = 513;
	CHECK_FAILS(whit_stats_run(&st, &s.m, s.tok, t, 1, &o, &e), WHIT_EUSAGE, e, "need 1 to the model's 512");
	unsigned bits;
	CHECK_FAILS(whit_statistics_parse("diag,hessians", &bits, &e), WHIT_EUSAGE, e,
	            "is hessians, need some of: diag");
	CHECK_FAILS(whit_statistics_parse("diag,", &bits, &e), WHIT_EUSAGE, e, "need some of");
	subject_close(&s);
}

TEST_MAIN(run_llama, run_invariance, run_texts, run_refusals)
