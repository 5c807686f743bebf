/* refit: sweeps over a row's scales, codes and profiles, in double. */
#include "calib/refit.h"
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include "calib/feedback.h"
#include "calib/rows.h"
#include "formats/frc1.h"
#include "formats/unit.h"

typedef struct refit {
	whit_job *j;
	whit_units u;
	int sweeps, scaled,
	        parts; /* numbers of a unit that are refitted: one, if it is scaled, or unit.h's stretches */
	int64_t n, units, runs;
	float *h; /* (n, n) */
	double *loss;
} refit;

/* A row while it is refitted. */
typedef struct row {
	const refit *f;
	int64_t stored;
	float *scale, *shift; /* (units, runs) */
	double *one;          /* units: their scales */
	uint8_t *code, *saved_code;
	double *v, *e, *g; /* n: values, v less the target, H e */
	double *a, *c;     /* (units parts)^2; units parts */
	uint8_t *saved;    /* (units, WHIT_UNIT_BYTES) */
} row;

static const float *factors_of(const row *w, int k) { return w->f->j->dst->codebook + (int64_t)k * w->f->u.weights; }

static int64_t run_at(const row *w, int64_t i) {
	return i / w->f->u.weights * w->f->runs + i % w->f->u.weights / w->f->u.run;
}

static double value(const row *w, int64_t i, int k) {
	int64_t at = run_at(w, i);
	return (double)(w->scale[at] * w->f->u.level[k] + w->shift[at]);
}

/* Parameters, codes and values as the matrix has them. */
static void load(row *w) {
	const refit *f = w->f;
	const whit_mat *m = f->j->dst;
	for (int64_t b = 0; b < f->units; b++) {
		int64_t c = b * f->u.weights;
		whit_unit_get(&f->u, m, w->stored, c, w->scale + b * f->runs, w->shift + b * f->runs, w->code + c);
		if (f->scaled) w->one[b] = whit_unit_one(&f->u, m, w->stored, c);
	}
	for (int64_t i = 0; i < f->n; i++) w->v[i] = value(w, i, w->code[i]);
}

/* e and g from v; returns the loss. */
static double measure(row *w, const double *t) {
	int64_t n = w->f->n;
	double loss = 0;
	for (int64_t i = 0; i < n; i++) w->e[i] = w->v[i] - t[i];
	memset(w->g, 0, (size_t)n * sizeof *w->g);
	for (int64_t i = 0; i < n; i++) {
		const float *h = w->f->h + i * n;
		double e = w->e[i];
		for (int64_t k = 0; k < n; k++) w->g[k] += e * h[k];
	}
	for (int64_t i = 0; i < n; i++) loss += w->e[i] * w->g[i];
	return loss;
}

/* The value of weight i becomes v. */
static void move(row *w, int64_t i, double v) {
	const float *h = w->f->h + i * w->f->n;
	double by = v - w->v[i];
	w->v[i] = v;
	w->e[i] += by;
	for (int64_t k = 0; k < w->f->n; k++) w->g[k] += by * h[k];
}

/* Of column i's value what is in proportion to its unit's number p: the scale's part, or the shift's. */
static double part_of(const row *w, int64_t i, int p) {
	double shift = w->shift[run_at(w, i)];
	return p ? shift : w->v[i] - shift;
}

/* A of the drawing, z_p being the parts of a unit's values, and c = z g: A (1 - f) = c has the factors f that the
 * numbers are to be multiplied by, which c becomes. 0: A is not positive. */
static int solve_factors(row *w) {
	const refit *f = w->f;
	int64_t n = f->n, B = f->u.weights, size = f->units * f->parts;
	double *y = whit_alloc((size_t)n * sizeof *y);
	memset(w->a, 0, (size_t)(size * size) * sizeof *w->a);
	for (int64_t s = 0; s < size; s++) {
		int64_t b = s / f->parts * B, end = WHIT_MIN(n, b + B);
		memset(y, 0, (size_t)n * sizeof *y);
		w->c[s] = 0;
		for (int64_t i = b; i < end; i++) {
			double z = part_of(w, i, (int)(s % f->parts));
			const float *h = f->h + i * n;
			for (int64_t k = 0; k < n; k++) y[k] += z * h[k];
			w->c[s] += z * w->g[i];
		}
		for (int64_t k = 0; k < n; k++)
			for (int p = 0; p < f->parts; p++)
				w->a[s * size + k / B * f->parts + p] += y[k] * part_of(w, k, p);
		if (!(w->a[s * size + s] > 0)) w->a[s * size + s] = 1; /* all zeros */
	}
	whit_free(y);
	int rc = LAPACKE_dposv(LAPACK_ROW_MAJOR, 'U', (int)size, 1, w->a, (int)size, w->c, 1);
	for (int64_t s = 0; s < size; s++) w->c[s] = 1 - w->c[s];
	return rc == 0;
}

/* The unit at column c has its numbers multiplied by `by`. */
static void rescale(row *w, int64_t c, const double *by) {
	const refit *f = w->f;
	whit_mat *m = f->j->dst;
	int64_t b = c / f->u.weights;
	float *scale = w->scale + b * f->runs, *shift = w->shift + b * f->runs;
	if (!f->scaled) {
		uint8_t unused[WHIT_UNIT_RUNS];
		whit_unit_stretch(&f->u, m, w->stored, c, by);
		whit_unit_get(&f->u, m, w->stored, c, scale, shift, unused);
		return;
	}
	w->one[b] = whit_unit_round(m, w->stored, (float)(w->one[b] * *by));
	whit_unit_scale(&f->u, m, w->stored, c, (float)w->one[b]);
	whit_unit_spread(&f->u, m, w->stored, c, (float)w->one[b], scale);
}

static void refit_scales(row *w) {
	const refit *f = w->f;
	if (!solve_factors(w)) return;
	for (int64_t b = 0; b < f->units; b++) {
		const double *by = w->c + b * f->parts;
		int good = 1;
		for (int p = 0; p < f->parts; p++) good &= by[p] > 0 && isfinite((float)by[p]); /* never through 0 */
		if (good) rescale(w, b * f->u.weights, by);
	}
	for (int64_t i = 0; i < f->n; i++) w->v[i] = value(w, i, w->code[i]);
}

/* What the loss changes by if weight i's value moves by `by`. */
static double gain(const row *w, int64_t i, double by) { return by * (2 * w->g[i] + by * w->f->h[i * w->f->n + i]); }

static void refit_codes(row *w) {
	const refit *f = w->f;
	for (int64_t i = 0; i < f->n; i++) {
		double want = w->v[i] - w->g[i] / f->h[i * f->n + i];
		int64_t at = run_at(w, i);
		int k = whit_unit_nearest(&f->u, (float)want, w->scale[at], w->shift[at]);
		if (k == w->code[i] || !(gain(w, i, value(w, i, k) - w->v[i]) < 0)) continue;
		w->code[i] = (uint8_t)k;
		move(w, i, value(w, i, k));
	}
}

/* Profile k's values of the block at column c, for its scale and signs as they are, at v; what the loss changes by. */
static double try_profile(const row *w, int64_t c, int k, double *v) {
	const refit *f = w->f;
	const float *p = factors_of(w, k);
	int additive = f->j->dst->spec.flags & WHIT_FRC_ADDITIVE;
	int64_t B = f->u.weights;
	float s = (float)w->one[c / B];
	double change = 0;
	for (int64_t i = 0; i < B; i++) {
		float level = f->u.level[w->code[c + i]];
		v[i] = additive ? (double)(s * level + p[i]) : (double)(s * p[i] * level);
	}
	for (int64_t i = 0; i < B; i++) {
		const float *h = f->h + (c + i) * f->n + c;
		double by = v[i] - w->v[c + i], sum = 0;
		for (int64_t l = 0; l < B; l++) sum += h[l] * (v[l] - w->v[c + l]);
		change += by * (2 * w->g[c + i] + sum);
	}
	return change;
}

static void refit_profiles(row *w) {
	const refit *f = w->f;
	whit_mat *m = f->j->dst;
	int64_t B = f->u.weights;
	double *v = whit_alloc((size_t)(2 * B) * sizeof *v), *best = v + B;
	uint8_t unused[WHIT_UNIT_RUNS];
	for (int64_t b = 0; b < f->n / B; b++) { /* a short block has none */
		int now = whit_bin_profile(m, w->stored, b), to = now;
		double most = 0;
		for (int k = 0; k < whit_frc_choices(&m->spec); k++) {
			double change = k == now ? 0 : try_profile(w, b * B, k, v);
			if (!(change < most)) continue;
			most = change, to = k;
			memcpy(best, v, (size_t)B * sizeof *v);
		}
		if (to == now) continue;
		whit_bin_profile_put(m, w->stored, b, to);
		whit_unit_get(&f->u, m, w->stored, b * B, w->scale + b * B, w->shift + b * B, unused);
		for (int64_t i = 0; i < B; i++) move(w, b * B + i, best[i]);
	}
	whit_free(v);
}

static void keep(row *w) {
	const refit *f = w->f;
	memcpy(w->saved_code, w->code, (size_t)f->n);
	for (int64_t b = 0; b < f->units; b++)
		whit_unit_parameters(&f->u, f->j->dst, w->stored, b * f->u.weights, w->saved + b * WHIT_UNIT_BYTES, 0);
}

/* The codes, or back to what was kept, into the matrix; values then as the format decodes them. */
static void put(row *w, int back) {
	const refit *f = w->f;
	for (int64_t b = 0; b < f->units; b++) {
		int64_t c = b * f->u.weights;
		if (back) whit_unit_parameters(&f->u, f->j->dst, w->stored, c, w->saved + b * WHIT_UNIT_BYTES, 1);
		whit_unit_put(&f->u, f->j->dst, w->stored, c, (back ? w->saved_code : w->code) + c);
	}
	load(w);
}

/* Where a sweep loses no less because scales had to be rounded, codes go on without. */
static void sweep_row(row *w, const double *t) {
	double before = measure(w, t), now;
	int scales = w->f->parts > 0;
	for (int s = 0; s < w->f->sweeps; s++) {
		keep(w);
		if (scales) refit_scales(w);
		measure(w, t);
		refit_codes(w);
		if (whit_frc_has_book(&w->f->j->dst->spec)) refit_profiles(w);
		put(w, 0);
		now = measure(w, t);
		if (now < before) {
			before = now;
			continue;
		}
		put(w, 1);
		measure(w, t);
		if (!scales) break;
		scales = 0;
	}
}

/* The row's targets: as far as gptaq's alpha goes, and whole, which losses are told by. */
static void make_targets(const refit *f, const float *in, double *t, double *full) {
	const whit_feedback *b = f->j->feedback;
	int64_t n = f->n;
	for (int64_t i = 0; i < n; i++) full[i] = b->target ? 0 : in[i];
	for (int64_t i = 0; i < n && b->target; i++)
		for (int64_t k = 0; k < n; k++) full[k] += (double)in[i] * b->target[i * n + k];
	for (int64_t i = 0; i < n; i++) t[i] = in[i] + (double)b->alpha * (full[i] - in[i]);
}

static void row_item(void *ctx, int64_t r, int worker) {
	const refit *f = ctx;
	const whit_mat *src = &f->j->src->mat, *dst = f->j->dst;
	int64_t n = f->n, units = f->units, size = units * f->parts, wide = WHIT_MAX(n, src->cols);
	double *room = whit_alloc((size_t)(5 * n + size * size + size + units) * sizeof *room), *t = room,
	       *full = room + 4 * n;
	float *x = whit_alloc((size_t)(2 * wide + 2 * units * f->runs) * sizeof *x), *in = x + wide;
	row w = {.f = f, .stored = whit_mat_row(dst, r), .scale = in + wide, .shift = in + wide + units * f->runs};
	whit_rows_sum sum = {0};
	whit_err stop;
	(void)worker;
	w.v = room + n, w.e = room + 2 * n, w.g = room + 3 * n;
	w.a = room + 5 * n, w.c = w.a + size * size, w.one = w.c + size;
	w.code = whit_alloc((size_t)(2 * n + units * WHIT_UNIT_BYTES));
	w.saved_code = w.code + n, w.saved = w.code + 2 * n;
	if (!whit_interrupted(&stop) && whit_rows_load(src, dst, r, r + 1, x, in, &sum)) {
		make_targets(f, in, t, full);
		load(&w);
		sweep_row(&w, t);
		f->loss[2 * r] = measure(&w, full);
	}
	whit_free(w.code);
	whit_free(x);
	whit_free(room);
}

enum { STRIP = 128 }; /* rows of R at a time: the same sums at any thread count */

/* Rows of H = R R^T, from the diagonal's square of them on: R is zero in front of it. */
static void hessian_item(void *ctx, int64_t i, int worker) {
	const refit *f = ctx;
	const float *R = f->j->feedback->r;
	int64_t n = f->n, r = i * STRIP, at = r * (n + 1);
	(void)worker;
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)WHIT_MIN(STRIP, n - r), (int)(n - r), (int)(n - r), 1,
	            R + at, (int)n, R + at, (int)n, 0, f->h + at, (int)n);
}

static void mirror_item(void *ctx, int64_t i, int worker) {
	const refit *f = ctx;
	(void)worker;
	for (int64_t k = 0; k < i; k++) f->h[i * f->n + k] = f->h[k * f->n + i];
}

int whit_refit(whit_job *j, int sweeps, double *loss, whit_err *e) {
	const whit_feedback *f = j->feedback;
	refit r = {.j = j, .sweeps = sweeps, .n = j->dst->width, .loss = loss};
	if (sweeps <= 0) return 0;
	if (f->order)
		return whit_fail(e, WHIT_EUSAGE, "tensor %s: refits and act-order: need one of them", j->src->name);
	int rc = whit_units_make(&r.u, j->dst, e);
	if (rc) return whit_fail_in(e, "tensor %s", j->src->name);
	r.scaled = whit_units_scaled(j->dst);
	r.parts = r.scaled ? 1 : r.u.stretches;
	r.units = (r.n + r.u.weights - 1) / r.u.weights;
	r.runs = r.u.weights / r.u.run;
	r.h = whit_alloc((size_t)(r.n * r.n) * sizeof *r.h);
	openblas_set_num_threads(1);
	whit_parallel((r.n + STRIP - 1) / STRIP, hessian_item, &r);
	whit_parallel(r.n, mirror_item, &r);
	whit_parallel(j->dst->rows, row_item, &r);
	whit_free(r.h);
	rc = whit_interrupted(e);
	if (!rc) whit_weight_error(j->src, j->dst, &j->err, &j->ref);
	return rc;
}
