/* reconstruct: Adam on what stands behind codes, a layer at a time. */
#include "calib/reconstruct.h"
#include <math.h>

enum { KEEP_OUT = 8, LOOK = 25, STEP_TOKENS = 2048 }; /* every so many; steps between looks */

typedef struct fit {
	whit_model *m;
	int64_t l;
	const whit_stats_states *x;
	whit_latent *p;
	int n;
	float **dw; /* by slot */
	float *h, *want;
	whit_batch b;
	int64_t *start, *past, *pos;
	int32_t *tokens;
} fit;

/* ---- sequences ---- */

static int kept_out(const fit *f, int64_t c) {
	return f->x->chunks < KEEP_OUT ? c == f->x->chunks - 1 : c % KEEP_OUT == KEEP_OUT - 1;
}

static void add_chunk(fit *f, int64_t c) {
	int64_t size = f->x->ctx * f->m->hidden, at = f->b.n_seq;
	memcpy(f->h + at * size, f->x->in + c * size, (size_t)size * sizeof *f->h);
	memcpy(f->want + at * size, f->x->want + c * size, (size_t)size * sizeof *f->want);
	f->b.n_seq++;
	f->b.T += f->x->ctx;
}

/* Squared error of the sequences kept out; of what was wanted at *all. */
static int look(fit *f, int64_t each, double *err, double *all, whit_err *e) {
	*err = *all = 0;
	whit_latent_decode(f->p, f->n);
	f->b.T = f->b.n_seq = 0;
	for (int64_t c = 0; c <= f->x->chunks; c++) {
		if (c < f->x->chunks && kept_out(f, c)) add_chunk(f, c);
		if (!f->b.n_seq || (c < f->x->chunks && f->b.n_seq < each)) continue;
		int rc = whit_model_layer(f->m, f->l, &f->b, NULL, f->h, e);
		if (rc) return rc;
		for (int64_t i = 0; i < f->b.T * f->m->hidden; i++) {
			double d = (double)f->h[i] - f->want[i];
			*err += d * d;
			*all += (double)f->want[i] * f->want[i];
		}
		f->b.T = f->b.n_seq = 0;
	}
	return 0;
}

static int one_step(fit *f, int64_t each, whit_rng *g, const whit_latent_step *step, whit_err *e) {
	double loss;
	f->b.T = f->b.n_seq = 0;
	while (f->b.n_seq < each) {
		int64_t c = (int64_t)(whit_rng_uniform(g) * (double)f->x->chunks);
		if (!kept_out(f, c)) add_chunk(f, c);
	}
	whit_latent_decode(f->p, f->n);
	whit_latent_clear(f->p, f->n);
	int rc = whit_model_layer_fit(f->m, f->l, &f->b, f->h, f->want, &loss, f->dw, e);
	if (!rc) whit_latent_update(f->p, f->n, step);
	return rc;
}

static void room(fit *f, int64_t each) {
	int64_t T = each * f->x->ctx;
	f->h = whit_alloc((size_t)(2 * T * f->m->hidden) * sizeof *f->h);
	f->want = f->h + T * f->m->hidden;
	f->start = whit_alloc((size_t)(2 * each + 1 + T) * sizeof *f->start);
	f->past = f->start + each + 1;
	f->pos = f->past + each;
	f->tokens = whit_alloc((size_t)T * sizeof *f->tokens);
	for (int64_t i = 0; i <= each; i++) f->start[i] = i * f->x->ctx;
	for (int64_t i = 0; i < T; i++) f->pos[i] = i % f->x->ctx;
	f->b = (whit_batch){0, 0, f->start, f->past, f->pos, f->tokens};
}

static int steps(fit *f, const whit_reconstruct_opts *o, int64_t each, whit_reconstruct_result *r, whit_err *e) {
	double err, all, best, rate = o->rate > 0 ? o->rate : 0.005,
	                       scale_rate = o->scale_rate > 0 ? o->scale_rate : 0.02;
	whit_rng g;
	whit_rng_key(&g, o->seed, (uint64_t)f->l, 0x626c6f636bu); /* "block" */
	int rc = look(f, each, &err, &all, e);
	r->before = r->after = all > 0 ? err / all : 0;
	best = err;
	for (int64_t t = 1; t <= o->steps && !rc; t++) {
		const whit_latent_step step = whit_latent_step_at(t, o->steps, rate, scale_rate);
		rc = whit_interrupted(e);
		if (!rc) rc = one_step(f, each, &g, &step, e);
		if (rc || (t % LOOK && t < o->steps)) continue;
		rc = look(f, each, &err, &all, e);
		if (rc || !(err < best)) continue;
		best = err;
		r->after = err / all;
		r->steps = t;
		whit_latent_remember(f->p, f->n);
	}
	return rc;
}

/* Where the layer's gradients go. */
static int wants_gradient(fit *f, const whit_latent *p, whit_err *e) {
	const whit_program *program = &f->m->layer[f->l];
	for (int i = 0; i < program->n_slot; i++)
		if (!strcmp(program->slot[i].name, p->item->name)) {
			f->dw[i] = p->grad;
			return 0;
		}
	return whit_fail(e, WHIT_EINTERNAL, "%s: is not of layer %lld", p->item->name, (long long)f->l);
}

int whit_reconstruct(whit_model *m, int64_t l, const whit_stats_states *x, whit_latent_item *item, int n,
                     const whit_reconstruct_opts *o, whit_reconstruct_result *r, whit_err *e) {
	fit f = {.m = m, .l = l, .x = x, .n = n};
	int64_t tokens = o->step_tokens > 0 ? o->step_tokens : STEP_TOKENS, each = WHIT_MAX(1, tokens / x->ctx);
	int rc = 0, done = 0;
	*r = (whit_reconstruct_result){0};
	if (!o->steps || !n) return 0;
	if (x->chunks < 2)
		return whit_fail(e, WHIT_EINPUT, "layer %lld: %lld sequences to reconstruct from, need 2 at least",
		                 (long long)l, (long long)x->chunks);
	f.p = whit_alloc((size_t)n * sizeof *f.p);
	f.dw = whit_alloc((size_t)m->layer[l].n_slot * sizeof *f.dw);
	room(&f, each);
	for (; done < n && !rc; done++) rc = whit_latent_begin(f.p, done, &item[done], m, e);
	for (int i = 0; i < done && !rc; i++) rc = wants_gradient(&f, &f.p[i], e);
	if (!rc) rc = steps(&f, o, each, r, e);
	if (!rc && r->steps) whit_latent_store(f.p, n);
	whit_latent_end(f.p, done, m);
	whit_free(f.p);
	whit_free(f.dw);
	whit_free(f.h);
	whit_free(f.start);
	whit_free(f.tokens);
	return rc;
}
