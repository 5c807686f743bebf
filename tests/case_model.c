/* model: whole models on a device against the CPU: every row of a batch, steps with a cache (recorded as a graph where
 * the device can), several sequences, streamed layers. */
#include "calib/quantize.h"
#include "tests/case.h"
#include "tests/compare.h"
#include <stdlib.h>

static const char *const rows[] = {"golden/models/llama-f32",        "golden/models/llama-tied-linear-f16",
                                   "golden/models/llama-yarn-f16",   "golden/models/qwen2-bf16-sharded",
                                   "golden/models/qwen2-window-f16", "golden/models/qwen3-bf16",
                                   "golden/models/qwen3-bias-f32",   "golden/models/llama-bias-llama3-bf16",
                                   "golden/models/qwen3_5-f32",      "golden/models/qwen3_5-grouped-bf16"};

/* Sums in 32 bits and in another order, over a few hundred terms and two layers, or a delta net: test_model.c's. */
static double tol_of(const whit_model *m) { return strncmp(m->arch->name, "qwen3_5", 7) ? 2e-5 : 1e-4; }
enum { TOKENS = 40, HEAD = 11, CAP = 48 };

typedef struct text {
	int32_t token[2 * TOKENS];
	int64_t start[3], past[2], pos[2 * TOKENS];
	whit_batch b;
} text;

/* n_seq sequences of T tokens each, from position past. */
static whit_batch *text_set(text *t, int n_seq, int64_t T, int64_t past, int64_t vocab) {
	for (int s = 0; s < n_seq; s++) {
		t->start[s] = s * T;
		t->past[s] = past;
		for (int64_t i = 0; i < T; i++) {
			t->pos[s * T + i] = past + i;
			t->token[s * T + i] = (int32_t)(((past + i) * 37 + s * 11 + 5) % vocab);
		}
	}
	t->start[n_seq] = n_seq * T;
	t->b = (whit_batch){n_seq * T, n_seq, t->start, t->past, t->pos, t->token};
	return &t->b;
}

/* Logits of every row, on the host; the caller frees. */
static float *all_logits(case_run *r, whit_model *m, const whit_batch *b, whit_state *s) {
	size_t bytes = (size_t)(b->T * m->vocab) * sizeof(float);
	float *h = whit_model_alloc(m, (size_t)(b->T * m->hidden) * sizeof *h), *y = whit_model_alloc(m, bytes),
	      *host = y;
	whit_err e = {0};
	int rc = whit_model_embed(m, b, h, &e);
	for (int64_t l = 0; l < m->layers && !rc; l++) rc = whit_model_layer(m, l, b, s, h, &e);
	if (!rc) rc = whit_model_head(m, h, b->T, y, &e);
	if (m->dev) {
		host = whit_alloc(bytes);
		if (!rc) whit_dev_get(m->dev, host, y, bytes);
		if (!rc) rc = whit_dev_sync(m->dev, &e);
		whit_model_free(m, y);
	}
	whit_model_free(m, h);
	if (rc) case_fail(r, "%s", e.text);
	return host;
}

static void same(case_run *r, const whit_model *m, const char *what, const float *got, const float *want, int64_t n) {
	double err = whit_rel_err(got, want, n), tol = tol_of(m);
	if (!(err <= tol)) case_fail(r, "%s: relative error %.3g, need %.3g", what, err, tol);
}

static int open_on(case_run *r, whit_model *m, const char *name, size_t limit) {
	char *path = whit_format_text("%s/tests/%s", WHIT_SOURCE, name);
	whit_err e = {0};
	whit_model *one = m;
	int rc = whit_model_open(m, path, 0, &e);
	if (!rc && r->dev) {
		whit_dev_limit(r->dev, limit);
		rc = whit_models_device(&one, 1, r->dev, 0, &e);
		whit_dev_limit(r->dev, 0);
	}
	if (rc) case_fail(r, "%s", e.text);
	whit_free(path);
	return rc;
}

/* Two sequences: a head of several tokens, then one token at a time. */
static void steps(case_run *r, whit_model *m, whit_model *cpu) {
	text t;
	whit_err e = {0};
	whit_state *s = whit_state_new(m, 2, CAP), *want = whit_state_new(cpu, 2, CAP);
	float *x = whit_alloc((size_t)(2 * cpu->vocab) * sizeof *x),
	      *y = whit_alloc((size_t)(2 * cpu->vocab) * sizeof *y);
	for (int64_t at = 0, n = HEAD; at < HEAD + 3 && !r->failed; at += n, n = 1) {
		const whit_batch *b = text_set(&t, 2, n, at, cpu->vocab);
		int32_t id[2], best[2];
		int rc = whit_model_step(m, b, s, y, &e);
		if (!rc) rc = whit_model_step(cpu, b, want, x, &e);
		if (rc) case_fail(r, "step at %lld: %s", (long long)at, e.text);
		if (!rc) same(r, m, "step", y, x, 2 * cpu->vocab);
		if (!rc) rc = whit_model_next(m, b, s, id, &e) || whit_model_next(cpu, b, want, best, &e);
		if (rc || memcmp(id, best, sizeof id))
			case_fail(r, "next at %lld: other tokens, or %s", (long long)at, e.text);
	}
	whit_free(x);
	whit_free(y);
	whit_state_free(s);
	whit_state_free(want);
}

/* A layer's matrix and the embedding, which may also be the head, coded as tq4: the device computes with them what the
 * CPU does, with the model's own weights on request what it did before (own), and so again when they are back. */
static void replaced(case_run *r, whit_model *m, whit_model *cpu, const float *own) {
	const char *name[2] = {cpu->layer[cpu->layers - 1].slot[1].name, cpu->embed.slot[0].name};
	whit_encoder encoder = {0};
	whit_mat mat[2] = {0};
	whit_err e = {0};
	text t;
	const whit_batch *b = text_set(&t, 2, TOKENS, 0, cpu->vocab);
	size_t bytes = (size_t)(b->T * cpu->vocab) * sizeof(float);
	whit_rule rule = {.rotation = WHIT_ROT_HADAMARD, .method = whit_method_find("turboquant", &e), .seed = 3};
	int rc = whit_spec_parse("tq4", &rule.spec, &e);
	for (int i = 0; i < 2 && !rc; i++) {
		whit_plan_row row = {.w = whit_ckpt_find(&cpu->ckpt, name[i]), .rule = &rule};
		whit_job j;
		rc = whit_plan_tensor(&row, &rule, &e);
		if (!rc) rc = whit_encoder_run(&encoder, &row, &mat[i], &j, &e);
		if (!rc) rc = whit_model_replace(m, name[i], &mat[i], &e);
		if (!rc) rc = whit_model_replace(cpu, name[i], &mat[i], &e);
	}
	if (rc) case_fail(r, "replaced: %s", e.text);
	float *want = all_logits(r, cpu, b, NULL), *got = all_logits(r, m, b, NULL);
	same(r, cpu, "replaced", got, want, b->T * cpu->vocab);
	if (!memcmp(got, own, bytes)) case_fail(r, "replaced: nothing is");
	whit_free(got);
	m->original = 1;
	got = all_logits(r, m, b, NULL);
	if (memcmp(got, own, bytes)) case_fail(r, "original: other bits");
	whit_free(got);
	m->original = 0;
	for (int i = 0; i < 2; i++) {
		whit_model_replace(cpu, name[i], NULL, &e);
		if (whit_model_replace(m, name[i], NULL, &e)) case_fail(r, "put back: %s", e.text);
		whit_mat_free(&mat[i]);
	}
	got = all_logits(r, m, b, NULL);
	if (memcmp(got, own, bytes)) case_fail(r, "put back: other bits");
	whit_free(got);
	whit_free(want);
	whit_encoder_free(&encoder);
}

/* With a byte less than the weights take, layers are streamed, and nothing else is new: the same bits. */
static void streamed(case_run *r, const char *name, size_t bytes, whit_model *cpu, const float *want) {
	whit_model m;
	text t;
	if (open_on(r, &m, name, whit_dev_used(r->dev) + bytes - 1)) return;
	const whit_batch *b = text_set(&t, 2, TOKENS, 0, m.vocab);
	if (!whit_model_streams(&m)) case_fail(r, "%zu bytes hold all layers", bytes - 1);
	for (int pass = 0; pass < 2; pass++) {
		float *y = all_logits(r, &m, b, NULL);
		if (memcmp(y, want, (size_t)(b->T * m.vocab) * sizeof *y))
			case_fail(r, "streamed, pass %d: other bits", pass);
		whit_free(y);
	}
	replaced(r, &m, cpu, want);
	whit_model_close(&m);
}

static void row(case_run *r, int i) {
	whit_model cpu, m;
	text t;
	case_run on_cpu = {.set = r->set, .where = r->where};
	case_label(r, "%s", rows[i]);
#ifdef __SANITIZE_ADDRESS__ /* minutes there; its kernels are sanitized in delta, conv, gate and the rest */
	if (case_skip(r, strstr(rows[i], "qwen3_5") != NULL)) return;
#endif
	if (case_skip(r, !r->dev) || open_on(&on_cpu, &cpu, rows[i], 0)) return;
	if (open_on(r, &m, rows[i], 0)) {
		whit_model_close(&cpu);
		return;
	}
	const whit_batch *b = text_set(&t, 2, TOKENS, 0, cpu.vocab);
	int64_t n = b->T * cpu.vocab;
	float *want = all_logits(r, &cpu, b, NULL), *resident = all_logits(r, &m, b, NULL);
	same(r, &m, "one pass", resident, want, n);
	m.plain = 1;
	float *y = all_logits(r, &m, b, NULL);
	same(r, &m, "plain kernels", y, want, n);
	whit_free(y);
	m.plain = 0;
	b = text_set(&t, 1, 5, 0, cpu.vocab); /* few tokens: fused steps */
	y = all_logits(r, &m, b, NULL);
	same(r, &m, "five tokens", y, want, 5 * cpu.vocab);
	whit_free(y);
	steps(r, &m, &cpu);
	replaced(r, &m, &cpu, resident);
	size_t used = whit_model_device_bytes(&m), freed = whit_dev_used(r->dev);
	whit_model_close(&m);
	if (!(whit_dev_used(r->dev) + used <= freed)) case_fail(r, "closing gave back less than the weights");
	if (cpu.layers > 2) streamed(r, rows[i], used, &cpu, resident);
	whit_free(want);
	whit_free(resident);
	whit_model_close(&cpu);
}

/* A whole model takes seconds an order, and its kernels have their own cases. */
const case_set cases_model = {"model", WHIT_COUNT(rows), row, 1};
