/* latent: Adam on what stands behind codes. */
#include "calib/latent.h"
#include <math.h>

enum { ROWS = 16 }; /* of an item of work */
static const float FIRST = 0.9f, SECOND = 0.99f, TINY = 1e-12f;

typedef struct row_job {
	whit_latent *p;
	const whit_latent_step *s;
} row_job;

static float *dense(const whit_latent *p) { return (float *)(uintptr_t)p->dense.plane[0]; }

/* The model's row of row r. */
static int64_t place_of(const whit_latent *p, int64_t r) { return p->item->row ? p->item->row[r] : r; }

static int64_t blocks_of(const whit_latent *p) { return (p->rows + ROWS - 1) / ROWS; }

/* The level of column i of row r, for its latent weight. */
static float value(const whit_latent *p, int64_t r, int64_t i, int *k) {
	int64_t at = (r * p->units + i / p->u.weights) * p->runs + i % p->u.weights / p->u.run;
	*k = whit_unit_nearest(&p->u, p->latent[r * p->width + i], p->scale[at], p->shift[at]);
	return p->scale[at] * p->u.level[*k] + p->shift[at];
}

/* Latent weights to the model's matrix, but for the order of its rows and columns. */
static void decode_item(void *ctx, int64_t item, int worker) {
	const row_job *j = ctx;
	whit_latent *p = j->p;
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
	for (int64_t r = 0; r < n; r++) {
		float *to = dense(p) + place_of(p, r0 + r) * p->cols;
		const float *more = p->item->more ? p->item->more + (r0 + r) * p->cols : NULL;
		memcpy(to, (rot ? own : copy) + r * p->cols, (size_t)p->cols * sizeof *q);
		for (int64_t i = 0; i < p->cols && more; i++) to[i] += more[i];
		for (int64_t i = 0; i < p->cols && p->item->balance; i++) to[i] *= p->item->balance[i];
	}
	whit_free(copy);
}

void whit_latent_decode(whit_latent *all, int n) {
	for (int i = 0; i < n; i++) {
		row_job j = {.p = &all[i]};
		whit_parallel(blocks_of(j.p), decode_item, &j);
	}
	for (int i = 0; i < n; i++) {
		const whit_latent *p = &all[i];
		if (!p->item->change) continue;
		whit_gguf_change back = whit_gguf_change_back(p->item->change);
		whit_gguf_apply(&back, dense(p), p->rows, p->cols);
	}
}

static float adam(const whit_latent_step *s, float g, float *m1, float *m2) {
	*m1 = FIRST * *m1 + (1 - FIRST) * g;
	*m2 = SECOND * *m2 + (1 - SECOND) * g * g;
	return *m1 / s->fix1 / (sqrtf(*m2 / s->fix2) + TINY);
}

/* A row's gradient in the stored frame, to latent weights and scales. */
static void update_row(const whit_latent_step *f, whit_latent *p, int64_t r, const float *g) {
	for (int64_t b = 0; b < p->units; b++) {
		int64_t c = b * p->u.weights, n = whit_unit_size(&p->u, p->item->mat, c),
		        at = (r * p->units + b) * p->runs;
		float by_log = 0;
		for (int64_t i = c; i < c + n; i++) {
			float step = f->rate * p->u.spacing * fabsf(p->scale[at + (i - c) / p->u.run]);
			int64_t w = r * p->width + i;
			by_log += g[i] * (p->q[w] - p->shift[at + (i - c) / p->u.run]);
			p->latent[w] -= step * adam(f, g[i], &p->m1[w], &p->m2[w]);
		}
		int64_t s = r * p->units + b, row = whit_mat_row(p->item->mat, r);
		if (!p->scaled || p->one[s] == 0) continue;
		p->log[s] -= f->scale_rate * adam(f, by_log, &p->s1[s], &p->s2[s]);
		p->one[s] = whit_unit_round(p->item->mat, row, copysignf(expf(p->log[s]), p->one[s]));
		whit_unit_spread(&p->u, p->item->mat, row, c, p->one[s], p->scale + at);
	}
}

static void update_item(void *ctx, int64_t item, int worker) {
	const row_job *j = ctx;
	whit_latent *p = j->p;
	int64_t r0 = item * ROWS, n = WHIT_MIN(ROWS, p->rows - r0);
	const whit_rotation *rot = p->item->mat->rot;
	const float *t = p->item->balance;
	float *turned = rot || t ? whit_alloc((size_t)p->width * sizeof *turned) : NULL;
	(void)worker;
	for (int64_t r = r0; r < r0 + n; r++) {
		const float *g = p->grad + place_of(p, r) * p->cols;
		if (rot) whit_rotate_cpu(rot, turned, g, 1);
		for (int64_t i = 0; i < p->cols && t; i++) turned[i] = g[i] * t[i]; /* records are not rotated then */
		update_row(j->s, p, r, turned ? turned : g);
	}
	whit_free(turned);
}

whit_latent_step whit_latent_step_at(int64_t t, int64_t n, double rate, double scale_rate) {
	double left = 0.5 * (1 + cos(3.14159265358979323846 * (double)(t - 1) / (double)n));
	return (whit_latent_step){.rate = (float)(rate * left),
	                          .scale_rate = (float)(scale_rate * left),
	                          .fix1 = 1 - powf(FIRST, (float)t),
	                          .fix2 = 1 - powf(SECOND, (float)t)};
}

void whit_latent_clear(whit_latent *all, int n) {
	for (int i = 0; i < n; i++) memset(all[i].grad, 0, (size_t)(all[i].dense.rows * all[i].cols) * sizeof(float));
}

void whit_latent_update(whit_latent *all, int n, const whit_latent_step *s) {
	for (int i = 0; i < n; i++) {
		row_job j = {&all[i], s};
		if (j.p->item->change) whit_gguf_apply(j.p->item->change, j.p->grad, j.p->rows, j.p->cols);
		whit_parallel(blocks_of(j.p), update_item, &j);
	}
}

/* ---- from codes and back ---- */

/* The original weight, or the nearest to it that is inside level k's interval by a tenth of the levels' distance. At
 * the edge, where what a solver had moved would lie, the first step took half of its codes back. */
static float into_interval(const whit_latent *p, float w, int k, float scale, float shift) {
	float low = k > 0 ? p->u.boundary[k - 1] : -INFINITY, high = k + 1 < p->u.count ? p->u.boundary[k] : INFINITY,
	      margin = fminf(0.1f * p->u.spacing, (high - low) / 4);
	if (scale == 0) return w;
	return fminf(fmaxf((w - shift) / scale, low + margin), high - margin) * scale + shift;
}

/* Where the model has the item's matrix. */
static int find_slot(whit_latent *p, const whit_model *m, whit_err *e) {
	for (p->layer = 0; p->layer < m->layers; p->layer++)
		for (p->slot = 0; p->slot < m->layer[p->layer].n_slot; p->slot++)
			if (!strcmp(m->layer[p->layer].slot[p->slot].name, p->item->name)) return 0;
	return whit_fail(e, WHIT_EINTERNAL, "%s: is of no layer", p->item->name);
}

int whit_latent_begin(whit_latent *all, int k, const whit_latent_item *item, whit_model *model, whit_err *e) {
	whit_latent *p = &all[k];
	const whit_mat *m = item->mat, *src = &item->src->mat;
	*p = (whit_latent){.item = item};
	int rc = whit_units_make(&p->u, m, e);
	if (!rc) rc = find_slot(p, model, e);
	if (rc) return rc;
	p->rows = m->rows, p->cols = m->cols, p->width = m->width;
	p->units = (p->width + p->u.weights - 1) / p->u.weights;
	p->runs = p->u.weights / p->u.run;
	p->scaled = whit_units_scaled(m);
	int64_t n = p->rows * p->width, s = p->rows * p->units, rows = model->layer[p->layer].slot[p->slot].rows;
	float *room = whit_alloc((size_t)(5 * n + s * (3 * p->runs + 5) + rows * p->cols) * sizeof *room);
	p->latent = room;
	p->m1 = room + n, p->m2 = room + 2 * n, p->q = room + 3 * n, p->best = room + 4 * n;
	p->scale = room + 5 * n, p->shift = p->scale + s * p->runs, p->best_scale = p->shift + s * p->runs;
	p->log = p->best_scale + s * p->runs, p->s1 = p->log + s, p->s2 = p->s1 + s, p->one = p->s2 + s;
	p->best_one = p->one + s, p->grad = p->best_one + s;
	if (k > 0 && !strcmp(all[k - 1].item->name, item->name)) {
		p->dense = all[k - 1].dense;
		p->grad = all[k - 1].grad;
		p->shares = 1;
	}
	if (!p->shares) {
		p->dense = (whit_mat){.rows = rows, .cols = p->cols, .width = p->cols};
		rc = whit_spec_parse("f32", &p->dense.spec, e);
		if (!rc) rc = whit_mat_alloc(&p->dense, e);
		if (!rc && item->row) /* some rows may be of no item */
			whit_mat_decode(model->layer[p->layer].bound[p->slot].mat, 0, rows, dense(p));
	}
	float *w = whit_alloc((size_t)(p->cols + 1) * sizeof *w);
	uint8_t *code = whit_alloc((size_t)p->width);
	for (int64_t r = 0; r < p->rows && !rc; r++) {
		float *latent = p->latent + r * p->width;
		whit_mat_decode(src, r, r + 1, w);
		if (m->rot)
			whit_rotate_cpu(m->rot, latent, w, 1);
		else
			memcpy(latent, w, (size_t)p->cols * sizeof *w);
		for (int64_t b = 0; b < p->units; b++) {
			int64_t c = b * p->u.weights, at = (r * p->units + b) * p->runs;
			whit_unit_get(&p->u, m, whit_mat_row(m, r), c, p->scale + at, p->shift + at, code);
			if (p->scaled) {
				int64_t s1 = r * p->units + b;
				p->one[s1] = whit_unit_one(&p->u, m, whit_mat_row(m, r), c);
				p->log[s1] = logf(fabsf(p->one[s1]));
			}
			for (int64_t i = 0; i < whit_unit_size(&p->u, m, c); i++)
				latent[c + i] = into_interval(p, latent[c + i], code[i], p->scale[at + i / p->u.run],
				                              p->shift[at + i / p->u.run]);
		}
	}
	whit_free(w);
	whit_free(code);
	return rc || p->shares ? rc : whit_model_replace(model, item->name, &p->dense, e);
}

void whit_latent_remember(whit_latent *all, int n) {
	for (int i = 0; i < n; i++) {
		whit_latent *p = &all[i];
		memcpy(p->best, p->latent, (size_t)(p->rows * p->width) * sizeof *p->best);
		memcpy(p->best_scale, p->scale, (size_t)(p->rows * p->units * p->runs) * sizeof *p->best_scale);
		memcpy(p->best_one, p->one, (size_t)(p->rows * p->units) * sizeof *p->best_one);
	}
}

/* The best state as codes. */
static void store(whit_latent *p) {
	uint8_t *k = whit_alloc((size_t)p->width);
	whit_mat *m = p->item->mat;
	memcpy(p->latent, p->best, (size_t)(p->rows * p->width) * sizeof *p->best);
	memcpy(p->scale, p->best_scale, (size_t)(p->rows * p->units * p->runs) * sizeof *p->best_scale);
	memcpy(p->one, p->best_one, (size_t)(p->rows * p->units) * sizeof *p->best_one);
	for (int64_t r = 0; r < p->rows; r++) {
		for (int64_t i = 0; i < p->width; i++) {
			int level;
			value(p, r, i, &level);
			k[i] = (uint8_t)level;
		}
		for (int64_t b = 0; b < p->units; b++) {
			int64_t c = b * p->u.weights;
			if (p->scaled) whit_unit_scale(&p->u, m, whit_mat_row(m, r), c, p->one[r * p->units + b]);
			whit_unit_put(&p->u, m, whit_mat_row(m, r), c, k + c);
		}
	}
	whit_free(k);
}

void whit_latent_store(whit_latent *all, int n) {
	for (int i = 0; i < n; i++) store(&all[i]);
}

void whit_latent_end(whit_latent *all, int n, whit_model *m) {
	for (int i = 0; i < n; i++) {
		whit_err none;
		whit_model_replace(m, all[i].item->name, NULL, &none);
		if (!all[i].shares) whit_mat_free(&all[i].dense);
		whit_free(all[i].latent);
	}
}
