/* scaling: where a program's values can be scaled for nothing, and by what. */
#include "calib/scaling.h"
#include <math.h>
#include <stdio.h>

static const char *const names[] = {"none", "awq", "awq-clip", "smoothquant", "balance", "h-alpha"};

int whit_scaling_parse(const char *name, whit_err *e) {
	for (int i = 0; i < WHIT_COUNT(names); i++)
		if (!strcmp(names[i], name)) return i;
	whit_fail(e, WHIT_EUSAGE, "scaling is '%s', need none, awq, awq-clip, smoothquant, balance or h-alpha", name);
	return -1;
}

const char *whit_scaling_name(int kind) { return names[kind]; }

/* ---- folds ---- */

static int is(const whit_node *n, const char *op) { return n->op == whit_op_find(op); }

static const whit_node *maker_of(const whit_program *p, int value) {
	for (int i = 0; i < p->n_node; i++)
		for (int k = 0; k < WHIT_NODE_OUT; k++)
			if (value >= 0 && p->node[i].out[k] == value) return &p->node[i];
	return NULL;
}

static int reads(const whit_node *n, int value) {
	int times = 0;
	for (int k = 0; k < WHIT_NODE_IN; k++) times += n->in[k] == value;
	return times;
}

static int readers_of(const whit_program *p, int value) {
	int times = value == p->n_val - 1; /* the output is read by the next layer */
	for (int i = 0; i < p->n_node; i++) times += reads(&p->node[i], value);
	return times;
}

/* The linear node whose rows can be divided instead of value's columns, through nodes that are linear in it. */
static const whit_node *rows_behind(const whit_program *p, int value, whit_fold *f) {
	const whit_node *n = maker_of(p, value);
	f->factors = f->dim = f->cols, f->share = 1;
	if (n && is(n, "gate") && readers_of(p, n->in[0]) == 1) n = maker_of(p, n->in[0]);
	int behind = -1;
	if (n && is(n, "swiglu")) {
		behind = n->in[1];
	} else if (n && is(n, "attention")) {
		behind = n->in[2];
		f->dim = n->a.dim, f->share = n->a.heads / n->a.kv_heads;
		f->factors = n->a.kv_heads * n->a.dim;
	}
	const whit_node *rows = maker_of(p, behind);
	return rows && is(rows, "linear") && readers_of(p, behind) == 1 ? rows : NULL;
}

static int fold_of(const whit_program *p, int value, whit_fold *f) {
	const whit_node *n = maker_of(p, value), *rows;
	*f = (whit_fold){.value = value, .norm = -1, .maker = -1, .bias = -1, .cols = p->width[value]};
	for (int i = 0; i < p->n_node; i++) {
		if (!reads(&p->node[i], value)) continue;
		if (!is(&p->node[i], "linear") || f->n_reader == WHIT_FOLD_READERS) return 0;
		f->reader[f->n_reader++] = p->node[i].w[0];
	}
	if (!f->n_reader || !n || value == p->n_val - 1) return 0;
	if (is(n, "rmsnorm") && n->a.heads == 1) {
		f->norm = n->w[0];
		f->shift = n->a.shift;
		f->factors = f->dim = f->cols, f->share = 1;
		return 1;
	}
	if (!(rows = rows_behind(p, value, f))) return 0;
	f->maker = rows->w[0], f->bias = rows->w[1];
	return 1;
}

int whit_folds(const whit_program *p, whit_fold *fold, int most) {
	int n = 0;
	for (int v = 1; v < p->n_val && n < most; v++) n += fold_of(p, v, &fold[n]);
	return n;
}

/* ---- factors ---- */

void whit_scaling_spread(float *to, const whit_fold *f, const float *s) {
	for (int64_t c = 0; c < f->cols; c++) to[c] = s[whit_fold_factor(f, c)];
}

static int is_awq(int kind) { return kind == WHIT_SCALING_AWQ || kind == WHIT_SCALING_AWQ_CLIP; }

const char *whit_scaling_size(int kind) {
	return is_awq(kind) ? "in.abs" : kind == WHIT_SCALING_SMOOTHQUANT ? "in.max" : NULL;
}

/* Sizes (factors) of the value's columns, of those that share a factor the mean or, most, the largest. */
static void shared_sizes(double *to, const whit_fold *f, const double *size, int most) {
	memset(to, 0, (size_t)f->factors * sizeof *to);
	for (int64_t c = 0; c < f->cols; c++) {
		double *x = &to[whit_fold_factor(f, c)];
		*x = most ? fmax(*x, size[c]) : *x + size[c] / (double)f->share;
	}
}

/* rms (factors) of the value's columns. */
static void root_mean_square(double *rms, const whit_fold *f, const double *h) {
	memset(rms, 0, (size_t)f->factors * sizeof *rms);
	for (int64_t c = 0; c < f->cols; c++) rms[whit_fold_factor(f, c)] += h[c * f->cols + c] / (double)f->share;
	for (int64_t c = 0; c < f->factors; c++) rms[c] = sqrt(rms[c]);
}

/* Largest magnitudes of the readers' columns. */
static void largest(double *most, const whit_fold *f, const whit_mat *const w[]) {
	float *row = whit_alloc((size_t)f->cols * sizeof *row);
	memset(most, 0, (size_t)f->factors * sizeof *most);
	for (int i = 0; i < f->n_reader; i++)
		for (int64_t r = 0; r < w[i]->rows; r++) {
			whit_mat_decode(w[i], r, r + 1, row);
			for (int64_t c = 0; c < f->cols; c++) {
				double *m = &most[whit_fold_factor(f, c)];
				*m = fmax(*m, fabs((double)row[c]));
			}
		}
	whit_free(row);
}

/* Sums of one sweep of |w_ij| = r_ib t_j. */
static void sweep(double *sum, double *square, const double *t, const whit_fold *f, const double *h, int64_t stride,
                  const whit_mat *w, int64_t block) {
	float *row = whit_alloc((size_t)f->cols * sizeof *row);
	for (int64_t r = 0; r < w->rows; r++) {
		whit_mat_decode(w, r, r + 1, row);
		for (int64_t b = 0; b < f->cols; b += block) {
			double above = 0, below = 0, s;
			int64_t end = WHIT_MIN(f->cols, b + block);
			for (int64_t c = b; c < end; c++) {
				double tc = t[whit_fold_factor(f, c)], weight = h ? h[c * stride] : 1;
				above += weight * fabs((double)row[c]) * tc;
				below += weight * tc * tc;
			}
			s = below > 0 ? above / below : 0;
			for (int64_t c = b; c < end; c++) {
				sum[whit_fold_factor(f, c)] += fabs((double)row[c]) * s;
				square[whit_fold_factor(f, c)] += s * s;
			}
		}
	}
	whit_free(row);
}

/* h: E[x_j^2], `stride` apart, or NULL = 1. */
static void balance(double *s, const whit_fold *f, const double *h, int64_t stride, const whit_mat *const w[],
                    int64_t block) {
	enum { SWEEPS = 5 };
	int64_t n = f->factors;
	double *sum = whit_alloc((size_t)(2 * n) * sizeof *sum), *square = sum + n;
	for (int64_t c = 0; c < n; c++) s[c] = 1;
	for (int k = 0; k < SWEEPS; k++) {
		memset(sum, 0, (size_t)(2 * n) * sizeof *sum);
		for (int i = 0; i < f->n_reader; i++) sweep(sum, square, s, f, h, stride, w[i], block);
		for (int64_t c = 0; c < n; c++) s[c] = square[c] > 0 ? sum[c] / square[c] : 0;
	}
	for (int64_t c = 0; c < n; c++) s[c] = s[c] > 0 ? 1 / s[c] : 0;
	whit_free(sum);
}

/* To a geometric mean of 1, in float; what is not a positive number becomes 1. */
static void normalize(float *to, const double *s, int64_t n) {
	double mean = 0, most = 1e4;
	int64_t good = 0;
	for (int64_t c = 0; c < n; c++)
		if (s[c] > 0 && isfinite(s[c])) mean += log(s[c]), good++;
	mean = good ? exp(mean / (double)good) : 1;
	for (int64_t c = 0; c < n; c++)
		to[c] = s[c] > 0 && isfinite(s[c]) ? (float)fmin(fmax(s[c] / mean, 1 / most), most) : 1;
}

static int search(float *s, const whit_fold *f, const double *rms, whit_scaling_loss loss, void *ctx, double *r,
                  whit_err *e) {
	enum { STEPS = 20 };
	double least = INFINITY, *power = whit_alloc((size_t)f->factors * sizeof *power);
	float *all = whit_alloc((size_t)(f->cols + f->factors) * sizeof *all), *now = all + f->cols;
	int rc = 0;
	for (int k = 0; k < STEPS && !rc; k++) {
		double err;
		for (int64_t c = 0; c < f->factors; c++) power[c] = pow(rms[c], (double)k / STEPS);
		normalize(now, power, f->factors);
		whit_scaling_spread(all, f, now);
		if ((rc = loss(ctx, all, &err, e)) || !(err < least)) continue;
		least = err;
		*r = (double)k / STEPS;
		memcpy(s, now, (size_t)f->factors * sizeof *s);
	}
	whit_free(power);
	whit_free(all);
	return rc;
}

int whit_scaling_factors(float *s, int kind, const whit_fold *f, const double *h, const double *size,
                         const whit_mat *const w[], int64_t block, whit_scaling_loss loss, void *ctx, double *r,
                         whit_err *e) {
	double *v = whit_alloc((size_t)(2 * f->factors) * sizeof *v), *rms = v + f->factors;
	int rc = 0;
	*r = 0;
	for (int64_t c = 0; c < f->factors; c++) s[c] = 1;
	root_mean_square(rms, f, h);
	if (size) shared_sizes(rms, f, size, kind == WHIT_SCALING_SMOOTHQUANT);
	if (is_awq(kind)) {
		rc = search(s, f, rms, loss, ctx, r, e);
	} else {
		if (kind == WHIT_SCALING_BALANCE) balance(v, f, h, f->cols + 1, w, block);
		if (kind == WHIT_SCALING_SMOOTHQUANT) largest(v, f, w);
		for (int64_t c = 0; c < f->factors; c++) {
			if (kind == WHIT_SCALING_SMOOTHQUANT) v[c] = sqrt(rms[c] / v[c]);
			if (kind == WHIT_SCALING_H_ALPHA) v[c] = sqrt(rms[c]);
		}
		normalize(s, v, f->factors);
	}
	whit_free(v);
	return rc;
}

void whit_scaling_columns(float *s, const double *square, const whit_mat *w, int64_t block) {
	const whit_fold f = {.n_reader = 1, .cols = w->cols, .factors = w->cols, .dim = w->cols, .share = 1};
	double *v = whit_alloc((size_t)w->cols * sizeof *v);
	balance(v, &f, square, 1, (const whit_mat *[]){w}, block);
	normalize(s, v, w->cols);
	whit_free(v);
}
