/* sensitivity: replays a model from the hidden states that it had before its weights were replaced. */
#include "eval/sensitivity.h"
#include "cuda/dev.h"
#include "eval/eval_own.h"

struct whit_probe {
	whit_model *m;
	whit_eval_result text;
	whit_hash tokens;
	whit_ids ids;
	whit_windows ws;
	whit_pass pass;
	int64_t every; /* input of layer l is kept where l is a multiple; the head's always */
	float **state; /* [l / every], the head's last: (ws.fed, hidden), in host memory */
	int64_t states;
};

/* ---- hidden states ---- */

static int64_t state_count(int64_t layers, int64_t every) { return (layers + every - 1) / every + 1; }

/* The densest spacing that fits into `memory`; 1, where there is no layer between. */
static int choose_states(whit_probe *p, int64_t memory, whit_err *e) {
	int64_t layers = p->m->layers, each = p->ws.fed * p->m->hidden * (int64_t)sizeof(float);
	p->every = 1;
	while (p->every < layers && memory / each < state_count(layers, p->every)) p->every++;
	p->states = state_count(layers, p->every);
	if (memory / each < p->states)
		return whit_fail(e, WHIT_EUSAGE,
		                 "--memory: is %.3f MB, need %.3f MB for the hidden states of %lld tokens at two "
		                 "places, or fewer --max-tokens",
		                 (double)memory / 1e6, (double)(each * p->states) / 1e6, (long long)p->ws.fed);
	p->state = whit_alloc((size_t)p->states * sizeof *p->state);
	for (int64_t i = 0; i < p->states; i++) p->state[i] = whit_alloc((size_t)each);
	return 0;
}

/* Rows [at, at + T) of a kept state to or from where the model computes. */
static int state_keep(whit_probe *p, int64_t i, int64_t at, int64_t T, whit_err *e) {
	float *to = p->state[i] + at * p->m->hidden;
	size_t bytes = (size_t)(T * p->m->hidden) * sizeof *to;
	if (!p->m->dev) {
		memcpy(to, p->pass.p.h, bytes);
		return 0;
	}
	whit_dev_get(p->m->dev, to, p->pass.p.h, bytes);
	return whit_dev_sync(p->m->dev, e);
}

static void state_load(whit_probe *p, float *h, int64_t i, int64_t at, int64_t T) {
	const float *from = p->state[i] + at * p->m->hidden;
	size_t bytes = (size_t)(T * p->m->hidden) * sizeof *from;
	if (p->m->dev)
		whit_dev_put(p->m->dev, h, from, bytes); /* states stay until the probe is closed */
	else
		memcpy(h, from, bytes);
}

/* ---- the reference ---- */

static int reference_batch(whit_probe *p, const whit_batch *b, int64_t at, whit_err *e) {
	whit_pass *s = &p->pass;
	int rc = whit_side_embed(&s->p, b, e);
	for (int64_t l = 0; l < p->m->layers && !rc; l++) {
		if (l % p->every == 0) rc = state_keep(p, l / p->every, at, b->T, e);
		if (!rc) rc = whit_side_layer(&s->p, l, b, e);
		if (!rc) rc = whit_pass_step(s, (double)b->T, NULL, e);
	}
	return rc ? rc : state_keep(p, p->states - 1, at, b->T, e);
}

static int reference_run(whit_probe *p, whit_err *e) {
	whit_pass *s = &p->pass;
	whit_progress bar;
	whit_batch b;
	int64_t at = 0;
	int rc = 0;
	whit_progress_begin(&bar, "sensitivity", (double)p->ws.fed * (double)p->m->layers);
	s->bar = &bar;
	s->label = "reference";
	for (int64_t w = 0, end; w < p->ws.n && !rc; w = end, at += b.T) {
		end = whit_pass_end(s, w);
		whit_pass_fill(s, w, end, &b);
		rc = reference_batch(p, &b, at, e);
	}
	whit_progress_end(&bar);
	return rc;
}

int whit_probe_open(whit_probe **out, whit_model *m, const whit_tok *tok, const char *text, size_t n,
                    const whit_eval_opts *o, int64_t memory, whit_err *e) {
	whit_probe *p = whit_alloc(sizeof *p);
	*out = NULL;
	p->m = m;
	int rc = whit_eval_prepare(&p->text, &p->ids, &p->ws, m, NULL, tok, text, n, o, 0, e);
	if (!rc) rc = choose_states(p, memory, e);
	if (!rc) {
		p->text.s.tokens = p->ws.scored;
		p->text.s.chunks = p->ws.n;
		p->tokens = whit_hash_bytes(p->ids.id, (size_t)p->ids.n * sizeof *p->ids.id);
		p->pass = (whit_pass){.p = {.m = m, .plain = m->plain, .original = 1},
		                      .q = {.m = m, .plain = m->plain},
		                      .ids = p->ids.id,
		                      .ws = &p->ws,
		                      .bos = p->ws.bos_replaces_first ? whit_tok_bos(tok) : -1,
		                      .batch_tokens = whit_eval_batch(m, m, p->text.ctx, o)};
		p->pass.pt = whit_alloc((size_t)p->ws.scored * sizeof *p->pass.pt);
		whit_pass_take(&p->pass);
		rc = reference_run(p, e);
	}
	if (!rc) rc = whit_eval_floor(&p->text, m, &p->ids, o, e);
	if (rc)
		whit_probe_close(p);
	else
		*out = p;
	return rc;
}

void whit_probe_close(whit_probe *p) {
	if (!p) return;
	whit_pass_free(&p->pass);
	whit_free(p->pass.pt);
	for (int64_t i = 0; p->state && i < p->states; i++) whit_free(p->state[i]);
	whit_free(p->state);
	whit_windows_free(&p->ws);
	whit_ids_free(&p->ids);
	whit_eval_free(&p->text);
	whit_free(p);
}

/* ---- a replacement ---- */

/* The layer to begin at: the last kept input at or below `first`; the number of layers = the head. */
static int64_t begin_at(const whit_probe *p, int64_t first) {
	return first >= p->m->layers ? p->m->layers : WHIT_MAX(first, 0) / p->every * p->every;
}

/* What the bar counts: tokens through layers, and through both heads. */
double whit_probe_work(const whit_probe *p, int64_t first) {
	return (double)p->ws.fed * (double)(p->m->layers - begin_at(p, first) + 2);
}

static int probe_batch(whit_probe *p, int64_t first, const whit_batch *b, int64_t at, whit_point *pt, whit_err *e) {
	whit_pass *s = &p->pass;
	int64_t l = begin_at(p, first);
	int rc = 0;
	state_load(p, s->p.h, p->states - 1, at, b->T);
	if (first < 0)
		rc = whit_side_embed(&s->q, b, e);
	else
		state_load(p, s->q.h, l < p->m->layers ? l / p->every : p->states - 1, at, b->T);
	for (; l < p->m->layers && !rc; l++) {
		rc = whit_side_layer(&s->q, l, b, e);
		if (!rc) rc = whit_pass_step(s, (double)b->T, NULL, e);
	}
	return rc ? rc : whit_pass_score(s, b, pt, e);
}

int whit_probe_run(whit_probe *p, int64_t first, whit_summary *out, whit_progress *bar, const char *label,
                   whit_err *e) {
	whit_pass *s = &p->pass;
	whit_batch b;
	int64_t at = 0, scored = 0;
	int rc = 0;
	s->bar = bar;
	s->label = label;
	s->done = bar ? bar->done : 0;
	for (int64_t w = 0, end; w < p->ws.n && !rc; w = end, at += b.T, scored += s->rows) {
		end = whit_pass_end(s, w);
		whit_pass_fill(s, w, end, &b);
		rc = probe_batch(p, first, &b, at, s->pt + scored, e);
	}
	if (!rc) whit_summarize(out, s->pt, p->ws.scored, 1, NULL, p->ws.n);
	return rc;
}

const whit_eval_result *whit_probe_text(const whit_probe *p, whit_hash *tokens) {
	if (tokens) *tokens = p->tokens;
	return &p->text;
}

size_t whit_probe_need(const whit_model *m, const whit_eval_opts *o) { return whit_eval_need(m, m, o); }
