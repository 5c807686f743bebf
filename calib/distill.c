/* distill: Adam on what stands behind the codes of a whole model. */
#include "calib/distill.h"
#include "calib/sequences.h"
#include "host/progress.h"

enum { PARTS = 16, KEEP_OUT = 8, LOOK = 20, STEP_TOKENS = 2048 }; /* of the text; every so many; steps between looks */

typedef struct run {
	whit_model *m, *original;
	whit_sequences s;
	whit_latent *p;
	int n;
	float ***dw;   /* by layer and slot */
	float *h, *dh; /* h: the input of each layer, and the last one's output, (layers + 1, T, hidden) */
	float *taught; /* (T, hidden) */
	double *loss;
} run;

/* Long runs of the text: a sequence between others of the same document says little of what is new. */
static int kept_out(int64_t c, int64_t n) { return n < PARTS ? c == n - 1 : c * PARTS / n % KEEP_OUT == KEEP_OUT - 1; }

/* The batch up through all layers, inputs kept; loss, and the gradient by the last output where it is wanted. */
static int forward(run *r, float *dh, double *sum, whit_err *e) {
	const whit_batch *b = &r->s.b;
	int64_t size = b->T * r->m->hidden, L = r->m->layers;
	const whit_loss loss = {.loss = r->loss, .teacher = r->original, .taught = r->taught};
	whit_sequences_gather(&r->s, r->taught, r->s.x->want, r->m->hidden);
	int rc = whit_model_embed(r->m, b, r->h, e);
	for (int64_t l = 0; l < L && !rc; l++) {
		memcpy(r->h + (l + 1) * size, r->h + l * size, (size_t)size * sizeof *r->h);
		rc = whit_model_layer(r->m, l, b, NULL, r->h + (l + 1) * size, e);
	}
	if (!rc) rc = whit_model_head_back(r->m, r->h + L * size, b->T, &loss, dh, NULL, e);
	for (int64_t t = 0; t < b->T && !rc; t++) *sum += r->loss[t];
	return rc;
}

/* Mean KL of the sequences kept out. */
static int look(run *r, double *mean, whit_err *e) {
	double sum = 0;
	int64_t tokens = 0;
	whit_latent_decode(r->p, r->n);
	for (int64_t c = 0; whit_sequences_next_kept(&r->s, &c); tokens += r->s.b.T) {
		int rc = forward(r, NULL, &sum, e);
		if (rc) return rc;
	}
	*mean = sum / (double)tokens;
	return 0;
}

static int one_step(run *r, whit_rng *g, const whit_latent_step *step, whit_err *e) {
	double sum = 0;
	whit_sequences_draw(&r->s, g);
	whit_latent_decode(r->p, r->n);
	whit_latent_clear(r->p, r->n);
	int64_t size = r->s.b.T * r->m->hidden;
	int rc = forward(r, r->dh, &sum, e);
	for (int64_t l = r->m->layers - 1; l >= 0 && !rc; l--)
		rc = whit_model_layer_back(r->m, l, &r->s.b, r->h + l * size, r->dh, r->dw[l], e);
	if (!rc) whit_latent_update(r->p, r->n, step);
	return rc;
}

static int steps(run *r, const whit_distill_opts *o, whit_distill_result *out, whit_err *e) {
	double mean = 0, scale_rate = o->scale_rate > 0 ? o->scale_rate : 0.005;
	whit_progress bar;
	whit_rng g;
	whit_rng_key(&g, o->seed, 0, 0x64697374u); /* "dist" */
	int rc = look(r, &mean, e);
	out->before = out->after = mean;
	whit_progress_begin(&bar, "distill", (double)o->steps);
	for (int64_t t = 1; t <= o->steps && !rc; t++) {
		const whit_latent_step step = whit_latent_step_at(t, o->steps, o->rate, scale_rate);
		rc = whit_interrupted(e);
		if (!rc) rc = one_step(r, &g, &step, e);
		if (rc || (t % LOOK && t < o->steps)) continue;
		rc = look(r, &mean, e);
		char *label = whit_format_text("KLD %.4g, at first %.4g", mean, out->before);
		whit_progress_step(&bar, (double)t, label);
		whit_free(label);
		if (rc || !(mean < out->after)) continue;
		out->after = mean;
		out->steps = t;
		whit_latent_remember(r->p, r->n);
	}
	whit_progress_end(&bar);
	return rc;
}

static void room(run *r) {
	int64_t T = r->s.each * r->s.x->ctx, L = r->m->layers;
	r->h = whit_alloc((size_t)((L + 3) * T * r->m->hidden) * sizeof *r->h);
	r->dh = r->h + (L + 1) * T * r->m->hidden;
	r->taught = r->dh + T * r->m->hidden;
	r->loss = whit_alloc((size_t)T * sizeof *r->loss);
	r->dw = whit_alloc((size_t)(L + 1) * sizeof *r->dw);
	for (int64_t l = 0; l < L; l++) r->dw[l] = whit_alloc((size_t)(r->m->layer[l].n_slot + 1) * sizeof **r->dw);
}

int whit_distill(whit_model *m, whit_model *original, const whit_stats_states *x, const whit_latent_item *item, int n,
                 const whit_distill_opts *o, whit_distill_result *out, whit_err *e) {
	run r = {.m = m, .original = original};
	*out = (whit_distill_result){0};
	if (!o->steps || !n) return 0;
	if (m->dev) return whit_fail(e, WHIT_EINTERNAL, "models are distilled on the CPU");
	int rc = whit_sequences_begin(&r.s, x, o->step_tokens > 0 ? o->step_tokens : STEP_TOKENS, kept_out,
	                              "distilling", e);
	if (rc) return rc;
	r.p = whit_alloc((size_t)n * sizeof *r.p);
	room(&r);
	for (; r.n < n && !rc; r.n++) {
		const whit_latent *p = &r.p[r.n];
		rc = whit_latent_begin(r.p, r.n, &item[r.n], m, e);
		if (!rc) r.dw[p->layer][p->slot] = p->grad;
	}
	if (!rc) rc = steps(&r, o, out, e);
	if (!rc && out->steps) whit_latent_store(r.p, r.n);
	whit_latent_end(r.p, r.n, m);
	for (int64_t l = 0; l < m->layers; l++) whit_free(r.dw[l]);
	whit_free(r.dw);
	whit_free(r.p);
	whit_free(r.h);
	whit_free(r.loss);
	whit_sequences_free(&r.s);
	return rc;
}
