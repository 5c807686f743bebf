/* reconstruct: Adam on what stands behind codes, a layer at a time. */
#include "calib/reconstruct.h"
#include <math.h>
#include <stdio.h>
#include "calib/sequences.h"

enum { KEEP_OUT = 8, LOOK = 25, STEP_TOKENS = 2048 }; /* every so many; steps between looks */

typedef struct fit {
	whit_model *m;
	int64_t l;
	whit_sequences s;
	whit_latent *p;
	int n;
	float **dw;      /* by slot */
	float *h, *want; /* of the batch */
} fit;

static int kept_out(int64_t c, int64_t n) { return n < KEEP_OUT ? c == n - 1 : c % KEEP_OUT == KEEP_OUT - 1; }

static void gather(fit *f) {
	whit_sequences_gather(&f->s, f->h, f->s.x->in, f->m->hidden);
	whit_sequences_gather(&f->s, f->want, f->s.x->want, f->m->hidden);
}

/* Squared error of the sequences kept out; of what was wanted at *all. */
static int look(fit *f, double *err, double *all, whit_err *e) {
	*err = *all = 0;
	whit_latent_decode(f->p, f->n);
	for (int64_t c = 0; whit_sequences_next_kept(&f->s, &c);) {
		gather(f);
		int rc = whit_model_layer(f->m, f->l, &f->s.b, NULL, f->h, e);
		if (rc) return rc;
		for (int64_t i = 0; i < f->s.b.T * f->m->hidden; i++) {
			double d = (double)f->h[i] - f->want[i];
			*err += d * d;
			*all += (double)f->want[i] * f->want[i];
		}
	}
	return 0;
}

static int one_step(fit *f, whit_rng *g, const whit_latent_step *step, whit_err *e) {
	double loss;
	whit_sequences_draw(&f->s, g);
	gather(f);
	whit_latent_decode(f->p, f->n);
	whit_latent_clear(f->p, f->n);
	int rc = whit_model_layer_fit(f->m, f->l, &f->s.b, f->h, f->want, &loss, f->dw, e);
	if (!rc) whit_latent_update(f->p, f->n, step);
	return rc;
}

static int steps(fit *f, const whit_reconstruct_opts *o, whit_reconstruct_result *r, whit_err *e) {
	double err, all, best, rate = o->rate > 0 ? o->rate : 0.005,
	                       scale_rate = o->scale_rate > 0 ? o->scale_rate : 0.02;
	whit_rng g;
	whit_rng_key(&g, o->seed, (uint64_t)f->l, 0x626c6f636bu); /* "block" */
	int rc = look(f, &err, &all, e);
	r->before = r->after = all > 0 ? err / all : 0;
	best = err;
	for (int64_t t = 1; t <= o->steps && !rc; t++) {
		const whit_latent_step step = whit_latent_step_at(t, o->steps, rate, scale_rate);
		rc = whit_interrupted(e);
		if (!rc) rc = one_step(f, &g, &step, e);
		if (rc || (t % LOOK && t < o->steps)) continue;
		rc = look(f, &err, &all, e);
		if (rc || !(err < best)) continue;
		best = err;
		r->after = err / all;
		r->steps = t;
		whit_latent_remember(f->p, f->n);
	}
	return rc;
}

int whit_reconstruct(whit_model *m, int64_t l, const whit_stats_states *x, whit_latent_item *item, int n,
                     const whit_reconstruct_opts *o, whit_reconstruct_result *r, whit_err *e) {
	fit f = {.m = m, .l = l};
	char what[32];
	*r = (whit_reconstruct_result){0};
	if (!o->steps || !n) return 0;
	snprintf(what, sizeof what, "layer %lld", (long long)l);
	int rc = whit_sequences_begin(&f.s, x, o->step_tokens > 0 ? o->step_tokens : STEP_TOKENS, kept_out, what, e);
	if (rc) return rc;
	int64_t size = f.s.each * x->ctx * m->hidden;
	f.p = whit_alloc((size_t)n * sizeof *f.p);
	f.dw = whit_alloc((size_t)m->layer[l].n_slot * sizeof *f.dw);
	f.h = whit_alloc((size_t)(2 * size) * sizeof *f.h);
	f.want = f.h + size;
	for (; f.n < n && !rc; f.n++) {
		rc = whit_latent_begin(f.p, f.n, &item[f.n], m, e);
		if (!rc) f.dw[f.p[f.n].slot] = f.p[f.n].grad;
	}
	if (!rc) rc = steps(&f, o, r, e);
	if (!rc && r->steps) whit_latent_store(f.p, n);
	whit_latent_end(f.p, f.n, m);
	whit_free(f.p);
	whit_free(f.dw);
	whit_free(f.h);
	whit_sequences_free(&f.s);
	return rc;
}
