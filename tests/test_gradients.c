/* Gradients of whole models: against transformers' (golden/models/NAME.grads.safetensors), for any batch and any number
 * of threads, and what they must refuse. */
#include <malloc.h>
#include "formats/safetensors.h"
#include "host/engine.h"
#include "tests/test.h"

static whit_err e;

/* Bytes that malloc has handed out; 0 where it does not tell (a sanitizer's). */
static double test_heap(void) {
	struct mallinfo2 i = mallinfo2();
	return (double)(i.uordblks + i.hblkhd);
}

/* Every slot's gradient, and the tokens' sequences as one batch. */
typedef struct run {
	whit_model m;
	float ***dw; /* [program: embedding, layers, head][slot] */
	int64_t T;
	int n_seq;
	int64_t *start, *past, *pos;
	int32_t *tokens, *target;
	double *loss;
} run;

static whit_program *program(run *r, int64_t i) {
	return i == 0 ? &r->m.embed : i <= r->m.layers ? &r->m.layer[i - 1] : &r->m.head;
}

static int64_t slot_size(const whit_slot *s) {
	int64_t n = 1;
	for (int i = 0; i < s->weight->ndim; i++) n *= s->weight->shape[i];
	return n;
}

static int open_run(run *r, const char *dir, const int32_t *tokens, int n_seq, int64_t each) {
	*r = (run){.n_seq = n_seq, .T = n_seq * each};
	if (!CHECK_RC(whit_model_open(&r->m, dir, 0, &e), e)) return 0;
	size_t T = (size_t)r->T;
	r->start = whit_alloc((size_t)(n_seq + 1) * sizeof *r->start);
	r->past = whit_alloc((size_t)n_seq * sizeof *r->past);
	r->pos = whit_alloc(T * sizeof *r->pos);
	r->tokens = whit_alloc(T * sizeof *r->tokens);
	r->target = whit_alloc(T * sizeof *r->target);
	r->loss = whit_alloc(T * sizeof *r->loss);
	for (int64_t t = 0; t < r->T; t++) {
		r->pos[t] = t % each;
		r->tokens[t] = tokens[t];
		r->target[t] = t % each + 1 < each ? tokens[t + 1] : -1;
		if (t % each == 0) r->start[t / each] = t;
	}
	r->start[n_seq] = r->T;
	r->dw = whit_alloc((size_t)(r->m.layers + 2) * sizeof *r->dw);
	for (int64_t i = 0; i < r->m.layers + 2; i++) {
		whit_program *p = program(r, i);
		r->dw[i] = whit_alloc((size_t)p->n_slot * sizeof **r->dw);
		for (int k = 0; k < p->n_slot; k++)
			r->dw[i][k] = whit_alloc((size_t)slot_size(&p->slot[k]) * sizeof(float));
	}
	return 1;
}

static void close_run(run *r) {
	for (int64_t i = 0; r->dw && i < r->m.layers + 2; i++) {
		for (int k = 0; k < program(r, i)->n_slot; k++) whit_free(r->dw[i][k]);
		whit_free(r->dw[i]);
	}
	whit_free(r->dw);
	whit_free(r->start);
	whit_free(r->past);
	whit_free(r->pos);
	whit_free(r->tokens);
	whit_free(r->target);
	whit_free(r->loss);
	if (r->m.ckpt.path) whit_model_close(&r->m);
}

/* Up and back; the sum of losses, NaN on error. */
static double back(run *r) {
	whit_model *m = &r->m;
	const whit_batch b = {r->T, r->n_seq, r->start, r->past, r->pos, r->tokens};
	const whit_loss l = {.target = r->target, .loss = r->loss};
	int64_t size = r->T * m->hidden;
	float *h = whit_alloc((size_t)((m->layers + 2) * size) * sizeof *h), *dh = h + (m->layers + 1) * size;
	double sum = 0;
	int rc = whit_model_embed(m, &b, h, &e);
	for (int64_t i = 0; i < m->layers && !rc; i++) {
		memcpy(h + (i + 1) * size, h + i * size, (size_t)size * sizeof *h);
		rc = whit_model_layer(m, i, &b, NULL, h + (i + 1) * size, &e);
	}
	if (!rc) rc = whit_model_head_back(m, h + m->layers * size, r->T, &l, dh, r->dw[m->layers + 1], &e);
	for (int64_t i = m->layers; i-- > 0 && !rc;)
		rc = whit_model_layer_back(m, i, &b, h + i * size, dh, r->dw[i + 1], &e);
	if (!rc) rc = whit_model_embed_back(m, &b, dh, r->dw[0], &e);
	for (int64_t t = 0; t < r->T; t++) sum += r->loss[t];
	whit_free(h);
	return CHECK_RC(rc, e) ? sum : NAN;
}

/* The gradient by the weight of that name: a tied head's and its embedding's together. The caller frees. */
static float *gradient(run *r, const char *name, int64_t n) {
	float *g = whit_alloc((size_t)n * sizeof *g);
	int found = 0;
	for (int64_t i = 0; i < r->m.layers + 2; i++)
		for (int k = 0; k < program(r, i)->n_slot; k++) {
			const whit_slot *s = &program(r, i)->slot[k];
			if (strcmp(s->name, name) || !CHECK_INT(slot_size(s), n)) continue;
			for (int64_t j = 0; j < n; j++) g[j] += r->dw[i][k][j];
			found++;
		}
	CHECK_MSG(found, "%s: is no weight of the model", name);
	return g;
}

static void against_golden(const char *name) {
	char *path = whit_format_text("%s/tests/golden/models/%s.golden.safetensors", WHIT_SOURCE, name);
	char *grads = whit_format_text("%s/tests/golden/models/%s.grads.safetensors", WHIT_SOURCE, name);
	char *dir = whit_format_text("%s/tests/golden/models/%s", WHIT_SOURCE, name);
	whit_st st = {0}, want = {0};
	run r = {0};
	if (CHECK_RC(whit_st_open(&st, path, &e), e) && CHECK_RC(whit_st_open(&want, grads, &e), e)) {
		const whit_tensor *tokens = whit_st_find(&st, "tokens");
		for (int plain = 0; plain < 2; plain++) {
			double worst = 0;
			if (!open_run(&r, dir, (const int32_t *)(const void *)tokens->data, 1, tokens->shape[0])) break;
			r.m.plain = plain;
			if (isnan(back(&r))) break;
			for (int64_t i = 0; i < want.n; i++) {
				int64_t n = (int64_t)(want.t[i].bytes / sizeof(float));
				float *got = gradient(&r, want.t[i].name, n);
				double err = whit_rel_err(got, (const float *)(const void *)want.t[i].data, n);
				/* float32 both ways; what a delta net magnifies (test_model.c) is magnified twice */
				CHECK_MSG(err <= (strncmp(name, "qwen3_5", 7) ? 2e-5 : 1e-3),
				          "%s %s: %s: relative error %.3g", name, plain ? "plain" : "fast",
				          want.t[i].name, err);
				worst = fmax(worst, err);
				whit_free(got);
			}
			printf("%s, %s: gradients of %lld weights, largest relative error %.2g\n", name,
			       plain ? "plain" : "fast", (long long)want.n, worst);
			close_run(&r);
			r = (run){0};
		}
	}
	close_run(&r);
	whit_st_close(&st);
	whit_st_close(&want);
	whit_free(path);
	whit_free(grads);
	whit_free(dir);
}

static void run_golden(void) {
	static const char *const names[] = {"llama-f32",   "llama-bias-llama3-bf16", "qwen2-window-f16",  "qwen3-bf16",
	                                    "qwen3_5-f32", "qwen3_5-grouped-bf16",   "qwen3_5-tower-bf16"};
	for (int i = 0; i < WHIT_COUNT(names); i++) against_golden(names[i]);
}

/* Every weight's gradient of a model over three sequences: the same bytes at any thread count, and, up to the rounding
 * of their sum, those of the sequences one by one. */
static void run_batches(void) {
	enum { EACH = 21, SEQ = 3 };
	char *dir = whit_format_text("%s/tests/golden/models/qwen3-bf16", WHIT_SOURCE);
	int32_t tokens[EACH * SEQ];
	run all, again, one[SEQ];
	for (int i = 0; i < EACH * SEQ; i++) tokens[i] = (i * 37 + i / 5) % 96;
	whit_threads_set(1);
	int ok = open_run(&all, dir, tokens, SEQ, EACH);
	double sum = ok ? back(&all) : NAN, parts = 0;
	whit_threads_set(3);
	ok = ok && open_run(&again, dir, tokens, SEQ, EACH);
	CHECK(ok && back(&again) == sum);
	for (int s = 0; s < SEQ && ok; s++) {
		ok = open_run(&one[s], dir, tokens + s * EACH, 1, EACH);
		if (ok) parts += back(&one[s]);
	}
	CHECK(fabs(parts - sum) <= 1e-5 * sum);
	for (int64_t i = 0; ok && i < all.m.layers + 2; i++)
		for (int k = 0; k < program(&all, i)->n_slot; k++) {
			const whit_slot *s = &program(&all, i)->slot[k];
			int64_t n = slot_size(s);
			float *w = all.dw[i][k];
			CHECK_MSG(!memcmp(w, again.dw[i][k], (size_t)n * sizeof *w), "%s: other bytes with 3 threads",
			          s->name);
			for (int64_t j = 0; j < n; j++) one[0].dw[i][k][j] += one[1].dw[i][k][j] + one[2].dw[i][k][j];
			double err = whit_rel_err(one[0].dw[i][k], w, n);
			CHECK_MSG(err <= 2e-5, "%s: relative error of a batch against its sequences %.3g", s->name,
			          err);
		}
	whit_threads_set(0);
	close_run(&all);
	close_run(&again);
	for (int s = 0; s < SEQ; s++) close_run(&one[s]);
	whit_free(dir);
}

/* Labels drawn from the model: the same for the same numbers, within the vocabulary, none where there was none. */
static void run_drawn(void) {
	char *dir = whit_format_text("%s/tests/golden/models/llama-f32", WHIT_SOURCE);
	run r;
	int32_t tokens[40];
	double u[40];
	for (int i = 0; i < 40; i++) tokens[i] = (i * 29) % 96, u[i] = i < 39 ? (double)i / 40 : -1;
	if (open_run(&r, dir, tokens, 1, 40)) {
		whit_model *m = &r.m;
		float *h = whit_alloc((size_t)(40 * m->hidden) * sizeof *h);
		const whit_loss l = {.target = r.target, .draw = u, .loss = r.loss};
		for (int64_t i = 0; i < 40 * m->hidden; i++) h[i] = sinf((float)i);
		CHECK_RC(whit_model_head_back(m, h, 40, &l, NULL, NULL, &e), e);
		CHECK_INT(r.target[39], -1);
		CHECK(r.loss[39] == 0);
		for (int i = 0; i < 39; i++) CHECK(r.target[i] >= 0 && r.target[i] < m->vocab && r.loss[i] > 0);
		h[5 * m->hidden] = NAN;
		CHECK_FAILS(whit_model_head_back(m, h, 40, &l, NULL, NULL, &e), WHIT_ENONFINITE, e, "loss of row 5");
		whit_free(h);
	}
	close_run(&r);
	whit_free(dir);
}

/* Memory in use after each layer, up and back, is that after the third, to 1 %. */
static void run_flat(void) {
	enum { N = 96, MOST = 64 };
	char *dir = test_model("wiki12M-qwen3");
	run r;
	int32_t tokens[N];
	double up[MOST] = {0}, down[MOST] = {0};
	for (int i = 0; i < N; i++) tokens[i] = (i * 97) % 4096;
	if (!dir || !open_run(&r, dir, tokens, 2, N / 2)) return whit_free(dir);
	whit_model *m = &r.m;
	const whit_batch b = {N, 2, r.start, r.past, r.pos, r.tokens};
	int64_t size = N * m->hidden;
	float *h = whit_alloc((size_t)((m->layers + 2) * size) * sizeof *h), *dh = h + (m->layers + 1) * size;
	CHECK_RC(whit_model_embed(m, &b, h, &e), e);
	for (int64_t l = 0; l < m->layers; l++) {
		memcpy(h + (l + 1) * size, h + l * size, (size_t)size * sizeof *h);
		CHECK_RC(whit_model_layer(m, l, &b, NULL, h + (l + 1) * size, &e), e);
		up[l] = test_heap();
	}
	for (int64_t i = 0; i < size; i++) dh[i] = sinf((float)i);
	for (int64_t l = m->layers - 1; l >= 0; l--) {
		CHECK_RC(whit_model_layer_back(m, l, &b, h + l * size, dh, NULL, &e), e);
		down[m->layers - 1 - l] = test_heap();
	}
	if (up[0] > 0) {
		for (int64_t l = 3; l < m->layers; l++) {
			CHECK_NEAR(up[l], up[2], 0.01 * up[2]);
			CHECK_NEAR(down[l], down[2], 0.01 * down[2]);
		}
	} else {
		test_skip("memory: the allocator does not tell what is in use");
	}
	whit_free(h);
	close_run(&r);
	whit_free(dir);
}

TEST_MAIN(run_golden, run_batches, run_drawn, run_flat)
