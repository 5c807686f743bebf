/* feedback: the two loops, plain (ldlq) and blocked; their factors are feedback_make.c's. */
#include "calib/feedback.h"
#include <math.h>
#include <stdlib.h>
#include "calib/feedback_own.h"
#include "calib/refit.h"
#include "formats/frc1.h"
#include "formats/measure.h"
#include "formats/unit.h"
#include "host/ops.h"

int whit_feedback_fits(const whit_spec *spec) {
	const whit_mat m = {.spec = *spec, .width = 64, .codebook = (const float[256]){0}};
	whit_units u;
	whit_err e;
	return spec->fmt->encode && !whit_units_make(&u, &m, &e);
}

void whit_feedback_free(whit_feedback *f) {
	whit_free(f->r);
	whit_free(f->u);
	whit_free(f->h_diag);
	whit_free(f->target);
	whit_free(f->pass);
	whit_free(f->first);
	whit_free(f->order);
	*f = (whit_feedback){0};
}

/* ---- rows ---- */

enum { ROWS = 64, COLUMNS = 128 }; /* of a chunk; between products with all columns behind */

typedef struct chunk {
	const whit_feedback *f;
	const whit_units *u;
	whit_mat *dst;
	int rule;
	int64_t rows, n, stored[ROWS];
	int64_t units, runs; /* of a row; of a unit */
	/* (ROWS, n): source, in the stored frame, and, in the order of the columns' turns: target, target as corrected
	 * so far, the negative of what a column handed on, error */
	float *x, *w, *t, *v, *err, *y;
	uint8_t *level;       /* (ROWS, n), in the frame of stored columns */
	uint8_t *saved;       /* (ROWS, bytes of a row): the nearest codes */
	float *scale, *shift; /* (ROWS, runs of a row) */
	double loss[ROWS], nearest[ROWS];
	int64_t zero, bad; /* of all fits, tried ones too */
} chunk;

typedef struct feedback_run {
	whit_job *j;
	whit_units u;
	uint8_t *memory; /* of all workers */
	size_t each;
	whit_rows_sum *sum;
	double *loss;  /* two a row: chosen, nearest */
	uint8_t *kept; /* a row: 1 = the nearest codes */
} feedback_run;

static int64_t column_of(const chunk *c, int64_t j) { return c->f->order ? c->f->order[j] : j; }

static size_t row_bytes(const whit_mat *m) {
	size_t n = 0;
	for (int p = 0; p < WHIT_PLANES; p++) n += m->plane[p] ? m->row_bytes[p] : 0;
	return n;
}

/* One row's bytes out of the matrix, or back. */
static void move_row(whit_mat *m, int64_t stored, uint8_t *bytes, int back) {
	for (int p = 0; p < WHIT_PLANES && m->plane[p]; p++) {
		uint8_t *at = (uint8_t *)(uintptr_t)m->plane[p] + (size_t)stored * m->row_bytes[p];
		memcpy(back ? at : bytes, back ? bytes : at, m->row_bytes[p]);
		bytes += m->row_bytes[p];
	}
}

/* Losses of the rows whose errors against the target stand in err. */
static void losses(chunk *c, double *loss) {
	int64_t n = c->n;
	memset(c->y, 0, (size_t)(c->rows * n) * sizeof *c->y);
	for (int64_t k = 0; k < n; k += COLUMNS)
		whit_multiply_add_cpu(c->y + k, n, c->err, n, c->f->r + k, n, c->rows, WHIT_MIN(COLUMNS, n - k),
		                      WHIT_MIN(n, k + COLUMNS));
	for (int64_t i = 0; i < c->rows; i++) loss[i] = whit_sum_squares_cpu(c->y + i * n, NULL, n);
}

/* err = what the stored rows decode to, less the target. */
static void errors(chunk *c) {
	for (int64_t i = 0; i < c->rows; i++) {
		float *q = c->y, *err = c->err + i * c->n;
		c->dst->spec.fmt->decode(c->dst, c->stored[i], c->stored[i] + 1, q);
		for (int64_t j = 0; j < c->n; j++) err[j] = q[column_of(c, j)] - c->t[i * c->n + j];
	}
}

static void make_target(chunk *c) {
	const whit_feedback *f = c->f;
	int64_t n = c->n;
	float *ordered = f->target ? c->y : c->t;
	for (int64_t i = 0; i < c->rows * n; i++) ordered[i] = c->w[i - i % n + column_of(c, i % n)];
	if (!f->target) return;
	memset(c->t, 0, (size_t)(c->rows * n) * sizeof *c->t);
	whit_multiply_add_cpu(c->t, n, ordered, n, f->target, n, c->rows, n, n);
}

/* Where scale and shift of row i's unit at column col begin. */
static int64_t scales_at(const chunk *c, int64_t i, int64_t col) {
	return (i * c->units + col / c->u->weights) * c->runs;
}

/* Chooses the parameters of the unit at column at, from weights v (ROWS, n) in stored columns' order. */
static void fit(chunk *c, int64_t at, const float *v) {
	int64_t size = whit_unit_size(c->u, c->dst, at), each = c->runs;
	float *w = whit_alloc((size_t)(c->rows * (size + 2 * each)) * sizeof *w), *s = w + c->rows * size,
	      *t = s + c->rows * each;
	for (int64_t i = 0; i < c->rows; i++) memcpy(w + i * size, v + i * c->n + at, (size_t)size * sizeof *w);
	c->bad += whit_units_fit(c->u, c->dst, c->stored, c->rows, at, w, c->f->h_diag, c->rule, s, t, &c->zero);
	for (int64_t i = 0; i < c->rows; i++) {
		memcpy(c->scale + scales_at(c, i, at), s + i * each, (size_t)each * sizeof *s);
		memcpy(c->shift + scales_at(c, i, at), t + i * each, (size_t)each * sizeof *t);
	}
	whit_free(w);
}

/* The value nearest to v at the column of turn j; its level is kept. */
static float choose(chunk *c, int64_t i, int64_t j, float v) {
	int64_t col = column_of(c, j), at = scales_at(c, i, col) + col % c->u->weights / c->u->run;
	int k = whit_unit_nearest(c->u, v, c->scale[at], c->shift[at]);
	c->level[i * c->n + col] = (uint8_t)k;
	return c->scale[at] * c->u->level[k] + c->shift[at];
}

/* Before any column, where columns do not come in their order. */
static void fit_all(chunk *c) {
	for (int64_t at = 0; at < c->n; at += c->u->weights) fit(c, at, c->w);
}

/* The first column's value by Qronos' rule: for the others as they are in w. */
static float first_value(const chunk *c, int64_t i) {
	const double *g = c->f->first, *h = g + c->n;
	const float *w = c->w + i * c->n;
	double sum = 0;
	for (int64_t j = 0; j < c->n; j++) sum += w[column_of(c, j)] * (g[j] - (j ? h[j] : 0));
	return (float)(sum / h[0]);
}

/* Rounds columns [from, to), handing errors on as far as end; v is what each was rounded from. */
typedef void run_fn(chunk *c, int64_t from, int64_t to, int64_t end);
static void run_columns(chunk *c, int64_t from, int64_t to, int64_t end) {
	const whit_feedback *f = c->f;
	int64_t n = c->n;
	for (int64_t j = from; j < to; j++) {
		for (int64_t i = 0; i < c->rows; i++) {
			float v = c->v[i * n + j], q = choose(c, i, j, j == 0 && f->first ? first_value(c, i) : v);
			float err = (v - q) / f->u[j * n + j];
			c->err[i * n + j] = -err;
			c->loss[i] += (double)err * err;
		}
		whit_multiply_add_cpu(c->v + j + 1, n, c->err + j, n, f->u + j * n + j + 1, n, c->rows, end - j - 1, 1);
		if (f->pass)
			whit_multiply_add_cpu(c->v + j + 1, n, c->v + j, n, f->pass + j * n + j + 1, n, c->rows,
			                      end - j - 1, 1);
	}
}

static void copy_columns(const chunk *c, float *to, const float *from, int64_t b, int64_t end) {
	for (int64_t i = 0; i < c->rows; i++)
		memcpy(to + i * c->n + b, from + i * c->n + b, (size_t)(end - b) * sizeof *to);
}

/* One unit of all rows: the parameters that have served each best. */
typedef struct tried {
	double loss[ROWS];
	uint8_t bytes[ROWS][WHIT_UNIT_BYTES];
	float scale[ROWS][WHIT_UNIT_RUNS], shift[ROWS][WHIT_UNIT_RUNS];
} tried;

static void keep_better(chunk *c, tried *best, int64_t at, const double *before, int first) {
	size_t bytes = (size_t)c->runs * sizeof(float);
	for (int64_t i = 0; i < c->rows; i++) {
		double loss = c->loss[i] - before[i];
		int64_t s = scales_at(c, i, at);
		if (!first && !(loss < best->loss[i])) continue;
		best->loss[i] = loss;
		whit_unit_parameters(c->u, c->dst, c->stored[i], at, best->bytes[i], 0);
		memcpy(best->scale[i], c->scale + s, bytes);
		memcpy(best->shift[i], c->shift + s, bytes);
	}
}

static void put_best(chunk *c, tried *best, int64_t at) {
	size_t bytes = (size_t)c->runs * sizeof(float);
	for (int64_t i = 0; i < c->rows; i++) {
		int64_t s = scales_at(c, i, at);
		whit_unit_parameters(c->u, c->dst, c->stored[i], at, best->bytes[i], 1);
		memcpy(c->scale + s, best->scale[i], bytes);
		memcpy(c->shift + s, best->shift[i], bytes);
	}
}

/* A unit's parameters: for its weights as they stand, then for what they had become when their turn came, which a pass
 * through the unit tells; of these each row keeps what lost least in the unit. */
static void fit_unit(chunk *c, int64_t at, int64_t end, run_fn *run) {
	enum { ROUNDS = 3 };
	int64_t to = at + whit_unit_size(c->u, c->dst, at);
	double before[ROWS];
	tried best;
	if (to > end) { /* a unit of several blocks: its columns' turns come too late */
		fit(c, at, c->v);
		return;
	}
	copy_columns(c, c->y, c->v, at, end);
	memcpy(before, c->loss, sizeof before);
	for (int round = 0; round < ROUNDS; round++) {
		fit(c, at, c->v);
		copy_columns(c, c->v, c->y, at, end);
		run(c, at, to, end);
		keep_better(c, &best, at, before, round == 0);
		memcpy(c->loss, before, sizeof before);
	}
	copy_columns(c, c->v, c->y, at, end);
	put_best(c, &best, at);
}

/* A unit whose parameters are tried is one block. A device holds blocks of up to 256, and what it can take is alike
 * here; signs, which it cannot, depend most on being tried. */
static int tried_whole(const chunk *c) {
	return c->u->weights <= (c->dst->spec.fmt == &whit_format_bin ? 4 : 2) * COLUMNS;
}

/* Blocks of columns: inside one the error goes from column to column, behind it in one product. */
static void run_blocked(chunk *c) {
	const whit_feedback *f = c->f;
	int64_t n = c->n, unit = c->u->weights, block = unit > COLUMNS && tried_whole(c) ? unit : COLUMNS;
	for (int64_t i = 0; i < c->rows * n; i++) /* gptaq comes to its target on the way */
		c->v[i] = f->pass ? c->w[i - i % n + column_of(c, i % n)] : c->t[i];
	memset(c->loss, 0, sizeof c->loss);
	if (f->order) fit_all(c);
	for (int64_t b = 0, end; b < n; b = end) {
		end = WHIT_MIN(n, b + block);
		for (int64_t j = b, to; j < end; j = to) {
			to = WHIT_MIN(end, j + unit - j % unit);
			if (!f->order && j % unit == 0) fit_unit(c, j, end, run_columns);
			run_columns(c, j, to, end);
		}
		whit_multiply_add_cpu(c->v + end, n, c->err + b, n, f->u + b * n + end, n, c->rows, n - end, end - b);
		if (f->pass)
			whit_multiply_add_cpu(c->v + end, n, c->v + b, n, f->pass + b * n + end, n, c->rows, n - end,
			                      end - b);
	}
}

/* The oracle: in double, each column out of all before it; err is q - t. */
static void run_plain_columns(chunk *c, int64_t from, int64_t to, int64_t end) {
	const float *R = c->f->r;
	int64_t n = c->n;
	(void)end;
	for (int64_t i = 0; i < c->rows; i++) {
		float *done = c->err + i * n;
		for (int64_t j = from; j < to; j++) {
			double sum = 0, diagonal = R[j * n + j];
			for (int64_t k = 0; k < j; k++) sum += (double)done[k] * R[k * n + j];
			float v = c->v[i * n + j] = (float)(c->t[i * n + j] - sum / diagonal), q = choose(c, i, j, v);
			done[j] = (float)((double)q - c->t[i * n + j]);
			c->loss[i] += diagonal * diagonal * ((double)q - v) * ((double)q - v);
		}
	}
}

/* What columns [from, to) would best be if none of them were rounded: (v - t) R = 0 there. */
static void solve_plain(chunk *c, int64_t from, int64_t to) {
	const float *R = c->f->r;
	int64_t n = c->n;
	double *d = whit_alloc((size_t)n * sizeof *d);
	for (int64_t i = 0; i < c->rows; i++)
		for (int64_t j = from; j < to; j++) {
			double sum = 0;
			for (int64_t k = 0; k < from; k++) sum += (double)c->err[i * n + k] * R[k * n + j];
			for (int64_t k = from; k < j; k++) sum += d[k] * R[k * n + j];
			d[j] = -sum / R[j * n + j];
			c->v[i * n + j] = (float)(c->t[i * n + j] + d[j]);
		}
	whit_free(d);
}

static void run_plain(chunk *c) {
	memset(c->loss, 0, sizeof c->loss);
	if (c->f->order) fit_all(c);
	for (int64_t b = 0, to; b < c->n; b = to) {
		to = b + whit_unit_size(c->u, c->dst, b);
		if (!c->f->order) {
			solve_plain(c, b, to);
			fit_unit(c, b, tried_whole(c) ? to : b, run_plain_columns);
		}
		run_plain_columns(c, b, to, to);
	}
}

/* Puts the codes where they win; kept: 1 where the nearest do. */
static void settle(chunk *c, uint8_t *kept, size_t bytes) {
	int64_t n = c->n;
	for (int64_t i = 0; i < c->rows; i++) {
		for (int64_t at = 0; at < n; at += c->u->weights)
			whit_unit_put(c->u, c->dst, c->stored[i], at, c->level + i * n + at);
	}
	if (c->f->pass) { /* gptaq's recursion has another sum */
		errors(c);
		losses(c, c->loss);
	}
	for (int64_t i = 0; i < c->rows; i++) {
		kept[i] = !(c->loss[i] <= c->nearest[i]);
		if (kept[i]) move_row(c->dst, c->stored[i], c->saved + (size_t)i * bytes, 1);
	}
}

static void *piece(uint8_t *memory, size_t *at, size_t bytes) {
	void *p = memory ? memory + *at : NULL;
	*at += (bytes + 63) / 64 * 64;
	return p;
}

/* Lays c's arrays out in a worker's memory; returns its size, which is all that memory NULL is for. */
static size_t lay_out(chunk *c, const whit_mat *src, uint8_t *memory) {
	size_t at = 0;
	size_t floats = (size_t)(ROWS * c->n) * sizeof(float), row = row_bytes(c->dst);
	size_t scales = (size_t)(ROWS * (c->n / c->u->run + WHIT_UNIT_RUNS + 1)) * sizeof(float);
	c->x = piece(memory, &at, (size_t)(ROWS * WHIT_MAX(c->n, src->cols)) * sizeof(float));
	c->w = piece(memory, &at, floats);
	c->t = piece(memory, &at, floats);
	c->v = piece(memory, &at, floats);
	c->err = piece(memory, &at, floats);
	c->y = piece(memory, &at, floats);
	c->level = piece(memory, &at, (size_t)(ROWS * c->n));
	c->saved = piece(memory, &at, ROWS * row);
	c->scale = piece(memory, &at, scales);
	c->shift = piece(memory, &at, scales);
	return at;
}

static void chunk_item(void *ctx, int64_t item, int worker) {
	const feedback_run *run = ctx;
	whit_job *j = run->j;
	const whit_mat *src = &j->src->mat;
	int64_t r0 = item * ROWS;
	chunk c = {.f = j->feedback,
	           .u = &run->u,
	           .dst = j->dst,
	           .rule = j->rule,
	           .rows = WHIT_MIN(ROWS, src->rows - r0),
	           .n = j->dst->width,
	           .units = (j->dst->width + run->u.weights - 1) / run->u.weights,
	           .runs = run->u.weights / run->u.run};
	whit_rows_sum *s = &run->sum[item];
	whit_err stop;
	s->bad = -1;
	if (whit_interrupted(&stop)) return; /* asked again, and reported, after the last chunk */
	lay_out(&c, src, run->memory + (size_t)worker * run->each);
	if (!whit_rows_load(src, c.dst, r0, r0 + c.rows, c.x, c.w, s)) return;
	for (int64_t i = 0; i < c.rows; i++) c.stored[i] = whit_mat_row(c.dst, r0 + i);
	make_target(&c);

	size_t bytes = row_bytes(c.dst);
	for (int64_t i = 0; i < c.rows; i++) {
		s->bad_scales += c.dst->spec.fmt->encode(c.dst, c.stored[i], c.w + i * c.n, c.f->h_diag, j->rule,
		                                         &s->zero_groups);
		move_row(c.dst, c.stored[i], c.saved + (size_t)i * bytes, 0);
	}
	errors(&c);
	losses(&c, c.nearest);
	if (c.f->kind == WHIT_FEEDBACK_LDLQ)
		run_plain(&c);
	else
		run_blocked(&c);
	settle(&c, run->kept + r0, bytes);
	if (!s->bad_scales) s->bad_scales = c.bad > 0;
	for (int64_t i = 0; i < c.rows; i++) {
		run->loss[2 * (r0 + i)] = run->kept[r0 + i] ? c.nearest[i] : c.loss[i];
		run->loss[2 * (r0 + i) + 1] = c.nearest[i];
	}
	whit_rows_measure(c.dst, r0, r0 + c.rows, c.x, c.w, c.y, c.v, s);
}

int whit_feedback_run(whit_job *j, whit_err *e) {
	feedback_run r = {.j = j};
	int64_t rows = j->dst->rows, chunks = (rows + ROWS - 1) / ROWS;
	if (!j->feedback || j->feedback->n != j->dst->width)
		return whit_fail(e, WHIT_EINTERNAL, "tensor %s: Hessian is %lld wide, need %lld", j->src->name,
		                 j->feedback ? (long long)j->feedback->n : 0, (long long)j->dst->width);
	int rc = whit_units_make(&r.u, j->dst, e);
	if (rc) return whit_fail_in(e, "tensor %s", j->src->name);
	chunk size = {.u = &r.u, .dst = j->dst, .n = j->dst->width};
	int done = 0;
	r.each = lay_out(&size, &j->src->mat, NULL);
	r.sum = whit_alloc((size_t)chunks * sizeof *r.sum);
	r.loss = whit_alloc((size_t)(2 * rows) * sizeof *r.loss);
	r.kept = whit_alloc((size_t)rows);
	if (whit_feedback_device_takes(j, &r.u))
		rc = whit_feedback_device(j, &r.u, ROWS, r.sum, r.loss, r.kept, &done, e);
	if (!rc && !done) {
		r.memory = whit_alloc(r.each * (size_t)whit_threads());
		whit_parallel(chunks, chunk_item, &r);
	}
	if (!rc) rc = whit_interrupted(e);
	if (!rc) rc = whit_rows_total(j, r.sum, chunks, ROWS, e);
	if (!rc) rc = whit_refit(j, j->refits, r.loss, e);
	j->loss = j->loss_nearest = 0;
	j->rows_nearest = 0;
	for (int64_t i = 0; i < rows; i++) {
		j->loss += j->feedback->scale * r.loss[2 * i];
		j->loss_nearest += j->feedback->scale * r.loss[2 * i + 1];
		j->rows_nearest += r.kept[i];
	}
	whit_free(r.memory);
	whit_free(r.sum);
	whit_free(r.loss);
	whit_free(r.kept);
	return rc;
}
