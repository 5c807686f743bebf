/* Generation against what the logits say, against itself at other thread counts and seeds, and misuse. */
#include "eval/eval.h"
#include "tests/test.h"

static int open_model(whit_model *m, const char *name, whit_err *e) {
	char *dir = whit_format_text("%s/tests/golden/models/%s", WHIT_SOURCE, name);
	int rc = whit_model_open(m, dir, 0, e);
	whit_free(dir);
	return CHECK_RC(rc, *e);
}

static const int32_t prompt[] = {7, 90, 33, 4, 18};

typedef struct heard {
	int64_t n;
	int32_t last;
} heard;
static void hear(void *ctx, int32_t id) {
	heard *h = ctx;
	h->n++;
	h->last = id;
}

/* Every greedy token is the largest logit of a pass over all that came before, without state. */
static void greedy(void) {
	whit_err e = {0};
	whit_model m;
	if (!open_model(&m, "qwen3-bias-f32", &e)) return;
	enum { P = WHIT_COUNT(prompt), N = 12 };
	m.n_eos = 0;
	whit_ids out = {0};
	heard h = {0};
	CHECK_RC(whit_generate(&m, prompt, P, N, 0, 0, &out, hear, &h, &e), e);
	CHECK_INT(out.n, N);
	CHECK_INT(h.n, N);
	CHECK_INT(h.last, out.id[N - 1]);
	int32_t all[P + N];
	int64_t pos[P + N], past = 0;
	float *logits = whit_alloc((size_t)m.vocab * sizeof *logits);
	memcpy(all, prompt, sizeof prompt);
	for (int64_t i = 0; i < P + N; i++) pos[i] = i;
	for (int64_t i = 0; i < out.n; i++) {
		int64_t start[2] = {0, P + i};
		whit_batch b = {.T = P + i, .n_seq = 1, .start = start, .past = &past, .pos = pos, .tokens = all};
		CHECK_RC(whit_model_step(&m, &b, NULL, logits, &e), e);
		int32_t best = 0;
		for (int32_t k = 1; k < m.vocab; k++) best = logits[k] > logits[best] ? k : best;
		CHECK_INT(out.id[i], best);
		all[P + i] = out.id[i];
	}
	/* The token that ends a text ends it, and is not part of it. */
	int64_t first = 0; /* where the newest token of the text stands */
	for (int64_t i = 1; i < out.n; i++) {
		int seen = 0;
		for (int64_t k = 0; k < i; k++) seen |= out.id[k] == out.id[i];
		first = seen ? first : i;
	}
	m.n_eos = 1;
	m.eos[0] = out.id[first];
	whit_ids cut = {0};
	CHECK_RC(whit_generate(&m, prompt, P, N, 0, 0, &cut, NULL, NULL, &e), e);
	CHECK(first > 0);
	CHECK_INT(cut.n, first);
	CHECK(cut.n == first && first > 0 && !memcmp(cut.id, out.id, (size_t)first * sizeof *out.id));
	whit_ids_free(&cut);
	whit_ids_free(&out);
	whit_free(logits);
	whit_model_close(&m);
}

/* Equal logits: the lowest id. A head of equal rows makes all logits equal. */
static void ties(void) {
	whit_err e = {0};
	whit_model m;
	if (!open_model(&m, "llama-f32", &e)) return;
	whit_slot *head = &m.head.slot[m.head.n_slot - 1];
	whit_mat equal = head->weight->mat;
	equal.row_bytes[0] = 0; /* every row is row 0 */
	CHECK_RC(whit_model_replace(&m, head->name, &equal, &e), e);
	whit_ids out = {0};
	CHECK_RC(whit_generate(&m, prompt, 3, 2, 0, 0, &out, NULL, NULL, &e), e);
	CHECK(out.n == 2 && out.id[0] == 0 && out.id[1] == 0);
	whit_ids_free(&out);
	whit_model_close(&m);
}

static void sampled(void) {
	whit_err e = {0};
	whit_model m;
	if (!open_model(&m, "llama-bias-llama3-bf16", &e)) return;
	m.n_eos = 0;
	whit_ids a = {0}, b = {0}, c = {0}, hot = {0};
	CHECK_RC(whit_generate(&m, prompt, 5, 40, 1.0, 11, &a, NULL, NULL, &e), e);
	whit_threads_set(3);
	CHECK_RC(whit_generate(&m, prompt, 5, 40, 1.0, 11, &b, NULL, NULL, &e), e);
	whit_threads_set(0);
	CHECK_RC(whit_generate(&m, prompt, 5, 40, 1.0, 12, &c, NULL, NULL, &e), e);
	CHECK(a.n == 40 && b.n == 40 && !memcmp(a.id, b.id, 40 * sizeof *a.id));
	CHECK(c.n == 40 && memcmp(a.id, c.id, 40 * sizeof *a.id));
	/* One draw from the prompt, many seeds: frequencies are the softmax at that temperature. */
	enum { DRAWS = 2000 };
	const double temp = 1.5;
	float *logits = whit_alloc((size_t)m.vocab * sizeof *logits);
	int64_t start[2] = {0, 5}, past = 0, pos[5] = {0, 1, 2, 3, 4};
	whit_batch batch = {.T = 5, .n_seq = 1, .start = start, .past = &past, .pos = pos, .tokens = prompt};
	CHECK_RC(whit_model_step(&m, &batch, NULL, logits, &e), e);
	double total = 0, chi = 0;
	int64_t count[512] = {0};
	for (int64_t k = 0; k < m.vocab; k++) total += exp(logits[k] / temp);
	for (int i = 0; i < DRAWS; i++) whit_generate(&m, prompt, 5, 1, temp, 1000 + (uint64_t)i, &hot, NULL, NULL, &e);
	for (int64_t i = 0; i < hot.n; i++) count[hot.id[i]]++;
	for (int64_t k = 0; k < m.vocab; k++) {
		double want = DRAWS * exp(logits[k] / temp) / total;
		chi += ((double)count[k] - want) * ((double)count[k] - want) / want;
	}
	/* chi-squared with 95 degrees of freedom: mean 95, deviation sqrt(190); the seeds are fixed */
	CHECK_MSG(hot.n == DRAWS && fabs(chi - 95) <= 5 * sqrt(190.0),
	          "%lld draws, chi-squared is %.1f, need 95 within 69", (long long)hot.n, chi);
	whit_ids_free(&a), whit_ids_free(&b), whit_ids_free(&c), whit_ids_free(&hot);
	whit_free(logits);
	whit_model_close(&m);
}

static void misuse(void) {
	whit_err e = {0};
	whit_model m;
	if (!open_model(&m, "llama-f32", &e)) return;
	whit_ids out = {0};
	int32_t bad[] = {96};
	CHECK_FAILS(whit_generate(&m, prompt, 5, 124, 0, 0, &out, NULL, NULL, &e), WHIT_EUSAGE, e,
	            "make 129, the model's context is 128");
	CHECK_FAILS(whit_generate(&m, prompt, 0, 4, 0, 0, &out, NULL, NULL, &e), WHIT_EUSAGE, e, "no tokens");
	CHECK_FAILS(whit_generate(&m, prompt, 5, 4, NAN, 0, &out, NULL, NULL, &e), WHIT_EUSAGE, e, "temperature");
	CHECK_FAILS(whit_generate(&m, prompt, 5, 4, -1, 0, &out, NULL, NULL, &e), WHIT_EUSAGE, e, "temperature");
	CHECK_FAILS(whit_generate(&m, bad, 1, 4, 0, 0, &out, NULL, NULL, &e), WHIT_EINPUT, e, "is 96");
	CHECK_INT(out.n, 0);
	CHECK_RC(whit_generate(&m, prompt, 5, 123, 0, 0, &out, NULL, NULL, &e), e);
	whit_ids_free(&out);
	whit_model_close(&m);
}

TEST_MAIN(greedy, ties, sampled, misuse)
