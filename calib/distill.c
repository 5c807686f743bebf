/* distill: Adam on what stands behind the codes of a whole model. */
#include "calib/distill.h"
#include "host/progress.h"

enum { PARTS = 16, KEEP_OUT = 8, LOOK = 20, STEP_TOKENS = 2048 }; /* of the text; every so many; steps between looks */

typedef struct run {
	whit_model *m, *original;
	const whit_stats_states *x;
	whit_latent *p;
	int n;
	float ***dw;   /* by layer and slot */
	float *h, *dh; /* h: the input of each layer, and the last one's output, (layers + 1, T, hidden) */
	float *taught; /* (T, hidden) */
	double *loss;
	int32_t *target; /* which KL has no use for */
	whit_batch b;
	int64_t *start, *past, *pos;
	int32_t *tokens;
} run;

/* Long runs of the text: a sequence between others of the same document says little of what is new. */
static int kept_out(const run *r, int64_t c) {
	int64_t n = r->x->chunks;
	return n < PARTS ? c == n - 1 : c * PARTS / n % KEEP_OUT == KEEP_OUT - 1;
}

static void add_chunk(run *r, int64_t c) {
	int64_t ctx = r->x->ctx, size = ctx * r->m->hidden;
	memcpy(r->tokens + r->b.T, r->x->tokens + c * ctx, (size_t)ctx * sizeof *r->tokens);
	memcpy(r->taught + r->b.T * r->m->hidden, r->x->want + c * size, (size_t)size * sizeof *r->taught);
	r->b.n_seq++;
	r->b.T += ctx;
}

/* The batch up through all layers, inputs kept; loss, and the gradient by the last output where it is wanted. */
static int forward(run *r, float *dh, double *sum, whit_err *e) {
	int64_t size = r->b.T * r->m->hidden, L = r->m->layers;
	const whit_loss loss = {.target = r->target, .loss = r->loss, .teacher = r->original, .taught = r->taught};
	int rc = whit_model_embed(r->m, &r->b, r->h, e);
	for (int64_t l = 0; l < L && !rc; l++) {
		memcpy(r->h + (l + 1) * size, r->h + l * size, (size_t)size * sizeof *r->h);
		rc = whit_model_layer(r->m, l, &r->b, NULL, r->h + (l + 1) * size, e);
	}
	if (!rc) rc = whit_model_head_back(r->m, r->h + L * size, r->b.T, &loss, dh, NULL, e);
	for (int64_t t = 0; t < r->b.T && !rc; t++) *sum += r->loss[t];
	return rc;
}

/* Mean KL of the sequences kept out. */
static int look(run *r, int64_t each, double *mean, whit_err *e) {
	double sum = 0;
	int64_t tokens = 0;
	whit_latent_decode(r->p, r->n);
	r->b.T = r->b.n_seq = 0;
	for (int64_t c = 0; c <= r->x->chunks; c++) {
		if (c < r->x->chunks && kept_out(r, c)) add_chunk(r, c);
		if (!r->b.n_seq || (c < r->x->chunks && r->b.n_seq < each)) continue;
		int rc = forward(r, NULL, &sum, e);
		if (rc) return rc;
		tokens += r->b.T;
		r->b.T = r->b.n_seq = 0;
	}
	*mean = sum / (double)tokens;
	return 0;
}

static int one_step(run *r, int64_t each, whit_rng *g, const whit_latent_step *step, whit_err *e) {
	double sum = 0;
	r->b.T = r->b.n_seq = 0;
	while (r->b.n_seq < each) {
		int64_t c = (int64_t)(whit_rng_uniform(g) * (double)r->x->chunks);
		if (!kept_out(r, c)) add_chunk(r, c);
	}
	whit_latent_decode(r->p, r->n);
	whit_latent_clear(r->p, r->n);
	int64_t size = r->b.T * r->m->hidden;
	int rc = forward(r, r->dh, &sum, e);
	for (int64_t l = r->m->layers - 1; l >= 0 && !rc; l--)
		rc = whit_model_layer_back(r->m, l, &r->b, r->h + l * size, r->dh, r->dw[l], e);
	if (!rc) whit_latent_update(r->p, r->n, step);
	return rc;
}

static int steps(run *r, const whit_distill_opts *o, int64_t each, whit_distill_result *out, whit_err *e) {
	double mean, scale_rate = o->scale_rate > 0 ? o->scale_rate : 0.005;
	whit_progress bar;
	whit_rng g;
	whit_rng_key(&g, o->seed, 0, 0x64697374u); /* "dist" */
	int rc = look(r, each, &mean, e);
	out->before = out->after = mean;
	whit_progress_begin(&bar, "distill", (double)o->steps);
	for (int64_t t = 1; t <= o->steps && !rc; t++) {
		const whit_latent_step step = whit_latent_step_at(t, o->steps, o->rate, scale_rate);
		rc = whit_interrupted(e);
		if (!rc) rc = one_step(r, each, &g, &step, e);
		if (rc || (t % LOOK && t < o->steps)) continue;
		rc = look(r, each, &mean, e);
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

static void room(run *r, int64_t each) {
	int64_t T = each * r->x->ctx, L = r->m->layers;
	r->h = whit_alloc((size_t)((L + 3) * T * r->m->hidden) * sizeof *r->h);
	r->dh = r->h + (L + 1) * T * r->m->hidden;
	r->taught = r->dh + T * r->m->hidden;
	r->loss = whit_alloc((size_t)T * sizeof *r->loss);
	r->target = whit_alloc((size_t)(2 * T) * sizeof *r->target);
	r->tokens = r->target + T;
	r->start = whit_alloc((size_t)(2 * each + 1 + T) * sizeof *r->start);
	r->past = r->start + each + 1;
	r->pos = r->past + each;
	for (int64_t i = 0; i <= each; i++) r->start[i] = i * r->x->ctx;
	for (int64_t i = 0; i < T; i++) r->pos[i] = i % r->x->ctx;
	r->b = (whit_batch){0, 0, r->start, r->past, r->pos, r->tokens};
	r->dw = whit_alloc((size_t)(L + 1) * sizeof *r->dw);
	for (int64_t l = 0; l < L; l++) r->dw[l] = whit_alloc((size_t)(r->m->layer[l].n_slot + 1) * sizeof **r->dw);
}

static void want_gradients(run *r) {
	for (int64_t l = 0; l < r->m->layers; l++)
		for (int k = 0; k < r->m->layer[l].n_slot; k++)
			for (int i = 0; i < r->n; i++)
				if (!strcmp(r->m->layer[l].slot[k].name, r->p[i].item->name))
					r->dw[l][k] = r->p[i].grad;
}

int whit_distill(whit_model *m, whit_model *original, const whit_stats_states *x, const whit_latent_item *item, int n,
                 const whit_distill_opts *o, whit_distill_result *out, whit_err *e) {
	run r = {.m = m, .original = original, .x = x};
	int64_t tokens = o->step_tokens > 0 ? o->step_tokens : STEP_TOKENS, each = WHIT_MAX(1, tokens / x->ctx);
	int rc = 0;
	*out = (whit_distill_result){0};
	if (!o->steps || !n) return 0;
	if (m->dev) return whit_fail(e, WHIT_EINTERNAL, "models are distilled on the CPU");
	if (x->chunks < 2)
		return whit_fail(e, WHIT_EINPUT, "distilling: %lld sequences, need 2 at least", (long long)x->chunks);
	r.p = whit_alloc((size_t)n * sizeof *r.p);
	room(&r, each);
	for (; r.n < n && !rc; r.n++) rc = whit_latent_begin(r.p, r.n, &item[r.n], m, e);
	if (!rc) want_gradients(&r);
	if (!rc) rc = steps(&r, o, each, out, e);
	if (!rc && out->steps) whit_latent_store(r.p, r.n);
	whit_latent_end(r.p, r.n, m);
	for (int64_t l = 0; l < m->layers; l++) whit_free(r.dw[l]);
	whit_free(r.dw);
	whit_free(r.p);
	whit_free(r.h);
	whit_free(r.loss);
	whit_free(r.target);
	whit_free(r.start);
	return rc;
}
