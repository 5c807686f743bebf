/* gradients: of whole models on a device against the CPU, by every weight and by the tokens' embeddings, over two
 * sequences: fast and plain kernels, streamed layers, losses at drawn targets. */
#include <math.h>
#include "tests/case_whole.h"
#include "tests/compare.h"

#define GOLDEN WHIT_SOURCE "/tests/golden/models/"
static const char *const rows[] = {GOLDEN "llama-f32", GOLDEN "qwen2-window-f16", GOLDEN "qwen3-bf16",
                                   GOLDEN "qwen3_5-grouped-bf16"};
enum { LEN = 20, T = 2 * LEN }; /* two sequences */

/* What a pass back gives: the gradient by each weight, all programs' slots one after another, then by the input. */
typedef struct grads {
	float *all; /* on the host */
	int32_t target[T];
	double loss[T];
} grads;

/* 0 the embedding, then layers, last the head. */
static const whit_program *program(const whit_model *m, int64_t i) {
	return i == 0 ? &m->embed : i <= m->layers ? &m->layer[i - 1] : &m->head;
}

static int64_t slot_size(const whit_slot *s) {
	int64_t n = 1;
	for (int i = 0; i < s->weight->ndim; i++) n *= s->weight->shape[i];
	return n;
}

/* Floats before slot k of program i, each slot's beginning aligned as memory of its own would be; k == n_slot of the
 * head: of all. */
static int64_t offset_of(const whit_model *m, int64_t i, int k) {
	int64_t n = 0;
	for (int64_t p = 0; p <= i; p++)
		for (int j = 0; j < (p == i ? k : program(m, p)->n_slot); j++)
			n += (slot_size(&program(m, p)->slot[j]) + 63) / 64 * 64;
	return n;
}

/* The pointers that program i's calls want. */
static float **places(const whit_model *m, float *all, int64_t i, float **dw) {
	for (int k = 0; k < program(m, i)->n_slot; k++) dw[k] = all + offset_of(m, i, k);
	return dw;
}

/* Up, every layer's input kept, and back. draw: as whit_loss's, or NULL. */
static int up_and_back(whit_model *m, const whit_batch *b, const double *draw, grads *g, float *h, float *all,
                       whit_err *e) {
	const whit_loss loss = {.target = g->target, .draw = draw, .loss = g->loss};
	float *dw[64], *dh = h + (m->layers + 1) * T * m->hidden;
	int64_t size = T * m->hidden, end = offset_of(m, m->layers + 1, m->head.n_slot);
	int rc = whit_model_embed(m, b, h, e);
	for (int64_t l = 0; l < m->layers && !rc; l++) {
		float *in = h + l * size;
		whit_model_copy(m, in + size, in, (size_t)size * sizeof *h);
		rc = whit_model_layer(m, l, b, NULL, in + size, e);
	}
	if (!rc) rc = whit_model_head_back(m, h + m->layers * size, T, &loss, dh, places(m, all, m->layers + 1, dw), e);
	for (int64_t l = m->layers; l-- > 0 && !rc;)
		rc = whit_model_layer_back(m, l, b, h + l * size, dh, places(m, all, l + 1, dw), e);
	if (!rc) rc = whit_model_embed_back(m, b, dh, places(m, all, 0, dw), e);
	size_t bytes = (size_t)size * sizeof *h;
	if (!rc && m->dev) {
		whit_dev_copy(m->dev, all + end, dh, bytes);
		whit_dev_get(m->dev, g->all, all, (size_t)(end + size) * sizeof *all);
		rc = whit_dev_sync(m->dev, e);
	} else if (!rc) {
		memcpy(g->all, all, (size_t)end * sizeof *all);
		memcpy(g->all + end, dh, bytes);
	}
	return rc;
}

static int gradients(case_run *r, whit_model *m, const double *draw, grads *g) {
	case_text t;
	const whit_batch *b = case_text_set(&t, 2, LEN, 0, m->vocab);
	int64_t size = T * m->hidden, n = offset_of(m, m->layers + 1, m->head.n_slot) + size;
	float *h = whit_model_alloc(m, (size_t)((m->layers + 2) * size) * sizeof *h),
	      *all = whit_model_alloc(m, (size_t)n * sizeof *all);
	whit_err e = {0};
	g->all = case_host(r, (size_t)n * sizeof *g->all);
	if (m->dev) whit_dev_zero(m->dev, all, (size_t)n * sizeof *all);
	for (int i = 0; i < T; i++) g->target[i] = (i + 1) % LEN ? t.token[i + 1] : -1;
	int rc = up_and_back(m, b, draw, g, h, all, &e);
	if (rc) case_fail(r, "%s", e.text);
	whit_model_free(m, h);
	whit_model_free(m, all);
	return rc;
}

static void near(case_run *r, const whit_model *m, const char *what, const char *name, const float *got,
                 const float *want, int64_t n) {
	double err = whit_rel_err(got, want, n), tol = case_whole_grad_tol(m);
	if (!(err <= tol)) case_fail(r, "%s: %s: relative error %.3g, need %.3g", what, name, err, tol);
}

static void compare(case_run *r, const whit_model *m, const char *what, const grads *got, const grads *want) {
	for (int64_t i = 0; i < m->layers + 2; i++)
		for (int k = 0; k < program(m, i)->n_slot; k++) {
			const whit_slot *s = &program(m, i)->slot[k];
			int64_t at = offset_of(m, i, k);
			near(r, m, what, s->name, got->all + at, want->all + at, slot_size(s));
		}
	int64_t end = offset_of(m, m->layers + 1, m->head.n_slot);
	near(r, m, what, "input", got->all + end, want->all + end, T * m->hidden);
	for (int i = 0; i < T; i++) {
		/* logits off by tol of their size, a few nats, and a sum of exponentials over a small vocabulary */
		double tol = 4 * case_whole_tol(m);
		if (fabs(got->loss[i] - want->loss[i]) <= tol && got->target[i] == want->target[i]) continue;
		case_fail(r, "%s: row %d: loss %g at target %d, need %g at %d within %.3g", what, i, got->loss[i],
		          got->target[i], want->loss[i], want->target[i], tol);
		return;
	}
}

/* Targets change where a number is within rounding of a border between two tokens' probabilities: none of these is. */
static void drawn(case_run *r, whit_model *cpu, whit_model *m) {
	grads want, got;
	double draw[T];
	for (int i = 0; i < T; i++) draw[i] = i % 7 ? (i * 13 % T + 0.5) / T : -1;
	if (gradients(r, cpu, draw, &want) || gradients(r, m, draw, &got)) return;
	compare(r, m, "drawn", &got, &want);
}

static void row(case_run *r, int i) {
	whit_model cpu, m;
	grads want, got, again;
	case_label(r, "%s", rows[i] + sizeof GOLDEN - 1);
	if (case_skip(r, !r->dev) || case_skip_sanitized(r, i > 0) || case_whole_open(r, &cpu, rows[i], NULL, 0))
		return;
	if (case_whole_open(r, &m, rows[i], r->dev, 0)) {
		whit_model_close(&cpu);
		return;
	}
	size_t weights = whit_model_device_bytes(&m);
	int ok = !gradients(r, &cpu, NULL, &want) && !gradients(r, &m, NULL, &got);
	if (ok) {
		size_t bytes = (size_t)(offset_of(&m, m.layers + 1, m.head.n_slot) + T * m.hidden) * sizeof *got.all;
		compare(r, &m, "fast", &got, &want);
		if (i == 0) drawn(r, &cpu, &m); /* what is drawn depends on the logits alone */
		m.plain = 1;
		if (!gradients(r, &m, NULL, &again)) compare(r, &m, "plain", &again, &want);
		whit_model_close(&m);
		if (cpu.layers > 2 && !case_whole_open(r, &m, rows[i], r->dev, whit_dev_used(r->dev) + weights - 1)) {
			if (!whit_model_streams(&m)) case_fail(r, "%zu bytes hold all layers", weights - 1);
			if (!gradients(r, &m, NULL, &again) && memcmp(again.all, got.all, bytes))
				case_fail(r, "streamed: other bits");
			whit_model_close(&m);
		}
	} else {
		whit_model_close(&m);
	}
	whit_model_close(&cpu);
}

/* A whole model takes seconds an order, and its kernels have their own cases. */
const case_set cases_gradients = {"gradients", WHIT_COUNT(rows), row, 1};
