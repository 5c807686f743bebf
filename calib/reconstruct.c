/* reconstruct: Adam on what stands behind codes, a layer at a time. */
#include "calib/reconstruct.h"
#include <math.h>
#include "formats/unit.h"

enum { ROWS = 16, KEEP_OUT = 8, LOOK = 25, STEP_TOKENS = 2048 }; /* of an item; every so many; steps between looks */
static const float FIRST = 0.9f, SECOND = 0.99f, TINY = 1e-12f;

/* One matrix. Rows are mat's logical ones; the stored frame has `width` columns. */
typedef struct param {
	whit_reconstruct_item *item;
	whit_units u;
	int scaled, slot;
	int64_t rows, cols, width, units, runs; /* units of a row; runs of a unit */
	float *latent, *m1, *m2;                /* (rows, width) */
	float *scale, *shift, *log, *s1, *s2;   /* (rows, units, runs); log, s1, s2: (rows, units) */
	float *q;                               /* (rows, width): decoded */
	float *grad;                            /* by the model's matrix */
	whit_mat dense;                         /* the model's matrix; of items with the same name the first has it */
	int shares;                             /* dense and grad are another's */
	float *best, *best_scale;
} param;

typedef struct fit {
	whit_model *m;
	int64_t l;
	const whit_stats_states *x;
	param *p;
	int n;
	float **dw; /* by slot */
	float *h, *want;
	whit_batch b;
	int64_t *start, *past, *pos;
	int32_t *tokens;
	float rate, scale_rate; /* of this step */
	float fix1, fix2;       /* Adam's corrections of the means' beginnings */
} fit;

typedef struct row_job {
	fit *f;
	param *p;
} row_job;

static float *dense(const param *p) { return (float *)(uintptr_t)p->dense.plane[0]; }

/* The model's row of row r. */
static int64_t place_of(const param *p, int64_t r) { return p->item->row ? p->item->row[r] : r; }

static int64_t blocks_of(const param *p) { return (p->rows + ROWS - 1) / ROWS; }

/* The level of column i of row r, for its latent weight. */
static float value(const param *p, int64_t r, int64_t i, int *k) {
	int64_t at = (r * p->units + i / p->u.weights) * p->runs + i % p->u.weights / p->u.run;
	*k = whit_unit_nearest(&p->u, p->latent[r * p->width + i], p->scale[at], p->shift[at]);
	return p->scale[at] * p->u.level[*k] + p->shift[at];
}

/* Latent weights to the model's matrix, but for the order of its rows and columns. */
static void decode_item(void *ctx, int64_t item, int worker) {
	const row_job *j = ctx;
	param *p = j->p;
	int64_t r0 = item * ROWS, n = WHIT_MIN(ROWS, p->rows - r0);
	const whit_rotation *rot = p->item->mat->rot;
	(void)worker;
	for (int64_t r = r0; r < r0 + n; r++)
		for (int64_t i = 0; i < p->width; i++) {
			int k;
			p->q[r * p->width + i] = value(p, r, i, &k);
		}
	float *q = p->q + r0 * p->width, *copy = whit_alloc((size_t)(n * (p->width + p->cols)) * sizeof *q),
	      *own = copy + n * p->width;
	memcpy(copy, q, (size_t)(n * p->width) * sizeof *q); /* which rotating back overwrites */
	if (rot) whit_unrotate_cpu(rot, own, copy, n);
	for (int64_t r = 0; r < n; r++)
		memcpy(dense(p) + place_of(p, r0 + r) * p->cols, (rot ? own : copy) + r * p->cols,
		       (size_t)p->cols * sizeof *q);
	whit_free(copy);
}

static void decode_all(fit *f) {
	for (int i = 0; i < f->n; i++) {
		row_job j = {f, &f->p[i]};
		whit_parallel(blocks_of(j.p), decode_item, &j);
		if (!j.p->item->change) continue;
		whit_gguf_change back = whit_gguf_change_back(j.p->item->change);
		whit_gguf_apply(&back, dense(j.p), j.p->rows, j.p->cols);
	}
}

static float adam(const fit *f, float g, float *m1, float *m2) {
	*m1 = FIRST * *m1 + (1 - FIRST) * g;
	*m2 = SECOND * *m2 + (1 - SECOND) * g * g;
	return *m1 / f->fix1 / (sqrtf(*m2 / f->fix2) + TINY);
}

/* A row's gradient in the stored frame, to latent weights and scales. */
static void update_row(const fit *f, param *p, int64_t r, const float *g) {
	for (int64_t b = 0; b < p->units; b++) {
		int64_t c = b * p->u.weights, n = whit_unit_size(&p->u, p->item->mat, c),
		        at = (r * p->units + b) * p->runs;
		float by_log = 0;
		for (int64_t i = c; i < c + n; i++) {
			float step = f->rate * p->u.spacing * fabsf(p->scale[at + (i - c) / p->u.run]);
			int64_t w = r * p->width + i;
			by_log += g[i] * p->q[w];
			p->latent[w] -= step * adam(f, g[i], &p->m1[w], &p->m2[w]);
		}
		if (!p->scaled || p->scale[at] == 0) continue;
		int64_t s = r * p->units + b;
		p->log[s] -= f->scale_rate * adam(f, by_log, &p->s1[s], &p->s2[s]);
		float now = whit_unit_round(p->item->mat, whit_mat_row(p->item->mat, r),
		                            copysignf(expf(p->log[s]), p->scale[at]));
		for (int64_t k = 0; k < p->runs; k++) p->scale[at + k] = now;
	}
}

static void update_item(void *ctx, int64_t item, int worker) {
	const row_job *j = ctx;
	param *p = j->p;
	int64_t r0 = item * ROWS, n = WHIT_MIN(ROWS, p->rows - r0);
	const whit_rotation *rot = p->item->mat->rot;
	float *turned = rot ? whit_alloc((size_t)p->width * sizeof *turned) : NULL;
	(void)worker;
	for (int64_t r = r0; r < r0 + n; r++) {
		const float *g = p->grad + place_of(p, r) * p->cols;
		if (rot) whit_rotate_cpu(rot, turned, g, 1);
		update_row(j->f, p, r, rot ? turned : g);
	}
	whit_free(turned);
}

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
	decode_all(f);
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

static int one_step(fit *f, int64_t each, whit_rng *g, whit_err *e) {
	double loss;
	f->b.T = f->b.n_seq = 0;
	while (f->b.n_seq < each) {
		int64_t c = (int64_t)(whit_rng_uniform(g) * (double)f->x->chunks);
		if (!kept_out(f, c)) add_chunk(f, c);
	}
	decode_all(f);
	for (int i = 0; i < f->n; i++)
		memset(f->p[i].grad, 0, (size_t)(f->p[i].dense.rows * f->p[i].cols) * sizeof(float));
	int rc = whit_model_layer_fit(f->m, f->l, &f->b, f->h, f->want, &loss, f->dw, e);
	for (int i = 0; i < f->n && !rc; i++) {
		row_job j = {f, &f->p[i]};
		if (j.p->item->change) whit_gguf_apply(j.p->item->change, j.p->grad, j.p->rows, j.p->cols);
		whit_parallel(blocks_of(j.p), update_item, &j);
	}
	return rc;
}

/* ---- from codes and back ---- */

/* The original weight, or the nearest to it that still rounds to level k. */
static float into_interval(const param *p, float w, int k, float scale, float shift) {
	float margin = 1e-3f * p->u.spacing;
	float x = scale != 0 ? (w - shift) / scale : 0;
	if (scale == 0) return w;
	if (k > 0) x = fmaxf(x, p->u.boundary[k - 1] + margin);
	if (k + 1 < p->u.count) x = fminf(x, p->u.boundary[k] - margin);
	return x * scale + shift;
}

static int begin(fit *f, param *p, whit_err *e) {
	const whit_mat *m = p->item->mat, *src = &p->item->src->mat;
	int rc = whit_units_make(&p->u, m, e);
	if (rc) return rc;
	const whit_program *program = &f->m->layer[f->l];
	p->rows = m->rows, p->cols = m->cols, p->width = m->width;
	p->units = (p->width + p->u.weights - 1) / p->u.weights;
	p->runs = p->u.weights / p->u.run;
	p->scaled = whit_units_scaled(m);
	p->slot = -1;
	for (int i = 0; i < program->n_slot; i++)
		if (!strcmp(program->slot[i].name, p->item->name)) p->slot = i;
	if (p->slot < 0)
		return whit_fail(e, WHIT_EINTERNAL, "%s: is not of layer %lld", p->item->name, (long long)f->l);
	int64_t n = p->rows * p->width, s = p->rows * p->units, rows = program->slot[p->slot].rows;
	float *all = whit_alloc((size_t)(5 * n + s * (3 * p->runs + 3) + rows * p->cols) * sizeof *all);
	p->latent = all;
	p->m1 = all + n, p->m2 = all + 2 * n, p->q = all + 3 * n, p->best = all + 4 * n;
	p->scale = all + 5 * n, p->shift = p->scale + s * p->runs, p->best_scale = p->shift + s * p->runs;
	p->log = p->best_scale + s * p->runs, p->s1 = p->log + s, p->s2 = p->s1 + s, p->grad = p->s2 + s;
	for (const param *other = f->p; other < p; other++)
		if (other->slot == p->slot && !other->shares) {
			p->dense = other->dense;
			p->grad = other->grad;
			p->shares = 1;
		}
	if (!p->shares) {
		p->dense = (whit_mat){.rows = rows, .cols = p->cols, .width = p->cols};
		rc = whit_spec_parse("f32", &p->dense.spec, e);
		if (!rc) rc = whit_mat_alloc(&p->dense, e);
	}
	float *w = whit_alloc((size_t)(p->cols + 1) * sizeof *w);
	uint8_t *k = whit_alloc((size_t)p->width);
	for (int64_t r = 0; r < p->rows && !rc; r++) {
		float *latent = p->latent + r * p->width;
		whit_mat_decode(src, r, r + 1, w);
		if (m->rot)
			whit_rotate_cpu(m->rot, latent, w, 1);
		else
			memcpy(latent, w, (size_t)p->cols * sizeof *w);
		for (int64_t b = 0; b < p->units; b++) {
			int64_t c = b * p->u.weights, at = (r * p->units + b) * p->runs;
			whit_unit_get(&p->u, m, whit_mat_row(m, r), c, p->scale + at, p->shift + at, k);
			p->log[r * p->units + b] = logf(fabsf(p->scale[at]));
			for (int64_t i = 0; i < whit_unit_size(&p->u, m, c); i++)
				latent[c + i] = into_interval(p, latent[c + i], k[i], p->scale[at + i / p->u.run],
				                              p->shift[at + i / p->u.run]);
		}
	}
	whit_free(w);
	whit_free(k);
	f->dw[p->slot] = p->grad;
	return rc || p->shares ? rc : whit_model_replace(f->m, p->item->name, &p->dense, e);
}

static void remember(fit *f) {
	for (int i = 0; i < f->n; i++) {
		param *p = &f->p[i];
		memcpy(p->best, p->latent, (size_t)(p->rows * p->width) * sizeof *p->best);
		memcpy(p->best_scale, p->scale, (size_t)(p->rows * p->units * p->runs) * sizeof *p->best_scale);
	}
}

/* The best state as codes. */
static void store(param *p) {
	uint8_t *k = whit_alloc((size_t)p->width);
	whit_mat *m = p->item->mat;
	memcpy(p->latent, p->best, (size_t)(p->rows * p->width) * sizeof *p->best);
	memcpy(p->scale, p->best_scale, (size_t)(p->rows * p->units * p->runs) * sizeof *p->best_scale);
	for (int64_t r = 0; r < p->rows; r++) {
		for (int64_t i = 0; i < p->width; i++) {
			int level;
			value(p, r, i, &level);
			k[i] = (uint8_t)level;
		}
		for (int64_t b = 0; b < p->units; b++) {
			int64_t c = b * p->u.weights;
			if (p->scaled)
				whit_unit_scale(&p->u, m, whit_mat_row(m, r), c,
				                p->scale[(r * p->units + b) * p->runs]);
			whit_unit_put(&p->u, m, whit_mat_row(m, r), c, k + c);
		}
	}
	whit_free(k);
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
		double left = 0.5 * (1 + cos(3.14159265358979323846 * (double)(t - 1) / (double)o->steps));
		f->rate = (float)(rate * left);
		f->scale_rate = (float)(scale_rate * left);
		f->fix1 = 1 - powf(FIRST, (float)t);
		f->fix2 = 1 - powf(SECOND, (float)t);
		rc = whit_interrupted(e);
		if (!rc) rc = one_step(f, each, &g, e);
		if (rc || (t % LOOK && t < o->steps)) continue;
		rc = look(f, each, &err, &all, e);
		if (rc || !(err < best)) continue;
		best = err;
		r->after = err / all;
		r->steps = t;
		remember(f);
	}
	return rc;
}

int whit_reconstruct(whit_model *m, int64_t l, const whit_stats_states *x, whit_reconstruct_item *item, int n,
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
	for (; done < n && !rc; done++) {
		f.p[done].item = &item[done];
		rc = begin(&f, &f.p[done], e);
	}
	if (!rc) rc = steps(&f, o, each, r, e);
	for (int i = 0; i < done; i++) {
		whit_err none;
		param *p = &f.p[i];
		if (!rc && r->steps) store(p);
		whit_model_replace(m, item[i].name, NULL, &none);
		if (!p->shares) whit_mat_free(&p->dense);
		whit_free(p->latent);
	}
	whit_free(f.p);
	whit_free(f.dw);
	whit_free(f.h);
	whit_free(f.start);
	whit_free(f.tokens);
	return rc;
}
