/* clip: every share tried on whole rows, each unit keeping its best. */
#include "calib/clip.h"
#include <math.h>
#include <stdlib.h>
#include "formats/unit.h"

typedef struct clipping {
	float *w;
	const whit_mat *m;
	const double *h;
	int64_t unit;
	int rule;
} clipping;

/* to = the unit of n weights, none beyond that share of the largest. */
static void cut(float *to, const float *w, int64_t n, float share) {
	float most = 0;
	for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(w[i]));
	for (int64_t i = 0; i < n; i++) to[i] = fminf(fmaxf(w[i], -share * most), share * most);
}

/* e H e^T over the n columns from c on, e = y - w. */
static double loss_of(const clipping *p, const float *y, const float *w, int64_t c, int64_t n) {
	double sum = 0;
	for (int64_t i = c; i < c + n; i++) {
		const double *h = p->h + i * p->m->width;
		double part = 0;
		for (int64_t k = c; k < c + n; k++) part += h[k] * ((double)y[k] - w[k]);
		sum += part * ((double)y[i] - w[i]);
	}
	return sum;
}

static void clip_row(void *ctx, int64_t r, int worker) {
	enum { STEPS = 10 };
	const clipping *p = ctx;
	int64_t n = p->m->width, units = (n + p->unit - 1) / p->unit, zero = 0;
	float *w = p->w + r * n, *x = whit_alloc((size_t)(2 * n + units) * sizeof *x), *y = x + n, *best = y + n;
	double *least = whit_alloc((size_t)units * sizeof *least);
	whit_mat one = {.spec = p->m->spec, .rows = 1, .cols = n, .width = n, .codebook = p->m->codebook};
	whit_err e;
	(void)worker;
	one.scale_f32 = !one.spec.fmt->block;  /* what a scale cannot hold is not of the choice */
	if (whit_mat_alloc(&one, &e)) abort(); /* as whit_clip did */
	for (int k = 0; k < STEPS; k++) {
		float share = 1 - (float)k / (2 * STEPS);
		for (int64_t c = 0; c < n; c += p->unit) cut(x + c, w + c, WHIT_MIN(p->unit, n - c), share);
		one.spec.fmt->encode(&one, 0, x, NULL, p->rule, &zero);
		one.spec.fmt->decode(&one, 0, 1, y);
		for (int64_t u = 0; u < units; u++) {
			double loss = loss_of(p, y, w, u * p->unit, WHIT_MIN(p->unit, n - u * p->unit));
			if (k && !(loss < least[u])) continue;
			least[u] = loss, best[u] = share;
		}
	}
	for (int64_t u = 0; u < units; u++)
		cut(w + u * p->unit, w + u * p->unit, WHIT_MIN(p->unit, n - u * p->unit), best[u]);
	whit_mat_free(&one);
	whit_free(least);
	whit_free(x);
}

int whit_clip(float *w, int64_t rows, const whit_mat *m, const double *h, int rule, whit_err *e) {
	whit_units u;
	clipping p = {w, m, h, 0, rule};
	int rc = whit_units_make(&u, m, e);
	if (rc) return rc;
	p.unit = u.weights;
	whit_parallel(rows, clip_row, &p);
	return whit_interrupted(e);
}
