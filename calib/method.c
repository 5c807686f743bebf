/* The table of methods and the row driver they share. */
#include "calib/method.h"
#include "calib/rows.h"
#include "formats/measure.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#define METHOD(name) extern const whit_method whit_method_##name;
#include "calib/methods.def"
#undef METHOD
const whit_method *const whit_methods[] = {
#define METHOD(name) &whit_method_##name,
#include "calib/methods.def"
#undef METHOD
        NULL,
};

const whit_method *whit_method_find(const char *name, whit_err *e) {
	char known[512] = "";
	for (int i = 0; whit_methods[i]; i++) {
		if (!strcmp(whit_methods[i]->name, name)) return whit_methods[i];
		size_t n = strlen(known);
		snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", whit_methods[i]->name);
	}
	whit_fail(e, WHIT_EUSAGE, "method: is '%s', need one of %s", name, known);
	return NULL;
}

/* A block is about this many floats: with its rotated and decoded twins it stays in a core's L2 cache. */
enum { BLOCK_FLOATS = 1 << 15 };

typedef struct block_run {
	const whit_weight *src;
	whit_job *job; /* NULL: only look for NaN and Inf */
	int64_t rows;  /* of one block */
	int64_t room;  /* floats of one buffer */
	float *buf;    /* per worker: source block, rotated block, decoded block */
	whit_rows_sum *sum;
} block_run;

int whit_rows_load(const whit_mat *src, const whit_mat *dst, int64_t r0, int64_t r1, float *x, float *w,
                   whit_rows_sum *s) {
	int64_t n = (r1 - r0) * src->cols;
	whit_mat_decode(src, r0, r1, x);
	int64_t bad = whit_first_nonfinite(x, n);
	s->bad = bad >= 0 ? r0 * src->cols + bad : -1;
	if (bad >= 0 || !dst) return 0;
	s->ref = whit_sum_squares_cpu(x, NULL, n);
	if (dst->rot)
		whit_rotate_cpu(dst->rot, w, x, r1 - r0);
	else if (w != x)
		memcpy(w, x, (size_t)n * sizeof *w);
	return whit_rows_sound(s, dst);
}

void whit_rows_measure(const whit_mat *dst, int64_t r0, int64_t r1, const float *x, const float *w, float *y, float *z,
                       whit_rows_sum *s) {
	int64_t n = (r1 - r0) * dst->cols;
	if (dst->paired) /* never with a rotation */
		whit_mat_decode(dst, r0, r1, z);
	else
		dst->spec.fmt->decode(dst, r0, r1, z);
	if (dst->width == dst->cols) {
		s->err = whit_sum_squares_cpu(w, z, n);
	} else {
		whit_unrotate_cpu(dst->rot, y, z, r1 - r0);
		s->err = whit_sum_squares_cpu(x, y, n);
	}
}

static void block_item(void *ctx, int64_t i, int worker) {
	const block_run *b = ctx;
	const whit_mat *src = &b->src->mat;
	whit_rows_sum *s = &b->sum[i];
	whit_job *j = b->job;
	whit_mat *dst = j ? j->dst : NULL;
	int64_t r0 = i * b->rows, r1 = WHIT_MIN(r0 + b->rows, src->rows);
	float *x = b->buf + 3 * b->room * worker, *y = x + b->room, *z = y + b->room;
	float *w = dst && dst->rot ? y : x;
	whit_err stop;

	s->bad = -1;
	if (whit_interrupted(&stop)) /* asked again, and reported, after the last block */
		return;
	if (!whit_rows_load(src, dst, r0, r1, x, w, s)) return;
	for (int64_t r = r0; r < r1; r++)
		s->bad_scales += dst->spec.fmt->encode(dst, whit_mat_row(dst, r), w + (r - r0) * dst->width,
		                                       j->importance, j->rule, &s->zero_groups);
	whit_rows_measure(dst, r0, r1, x, w, y, z, s);
}

int64_t whit_method_scratch(int64_t width) {
	return 3 * WHIT_MAX((int64_t)BLOCK_FLOATS, width) * whit_threads() * (int64_t)sizeof(float);
}

/* Whether what is stored or passed through is as large as the norm of a group or a row, which may be beyond F32
 * where no weight is. The norm of a block of rows bounds them all. */
static int needs_norm(const whit_mat *m) { return m->rot || m->spec.fmt->needs_codebook; }

int whit_rows_sound(const whit_rows_sum *s, const whit_mat *dst) {
	return s->bad < 0 && (!needs_norm(dst) || s->ref <= (double)FLT_MAX * FLT_MAX);
}

int64_t whit_rows_block(int64_t width, int64_t rows) { return WHIT_MIN(WHIT_MAX(BLOCK_FLOATS / width, 1), rows); }

/* j NULL: only looks. */
static int total(const whit_weight *src, whit_job *j, const whit_rows_sum *sum, int64_t n, int64_t rows, whit_err *e) {
	if (j) {
		j->err = j->ref = 0;
		j->zero_groups = j->bad_scales = 0;
	}
	for (int64_t i = 0; i < n; i++) {
		const whit_rows_sum *s = &sum[i];
		if (s->bad >= 0)
			return whit_fail(e, WHIT_ENONFINITE,
			                 "%s: tensor %s: row %lld, column %lld: is NaN or Inf, need a finite weight",
			                 src->file, src->name, (long long)(s->bad / src->mat.cols),
			                 (long long)(s->bad % src->mat.cols));
		if (!j) continue;
		if (!whit_rows_sound(s, j->dst))
			return whit_fail(e, WHIT_ENONFINITE,
			                 "%s: tensor %s: rows %lld to %lld: norm is %g, need at most the %g of F32",
			                 src->file, src->name, (long long)(i * rows),
			                 (long long)(WHIT_MIN((i + 1) * rows, src->mat.rows) - 1), sqrt(s->ref),
			                 (double)FLT_MAX);
		j->err += s->err;
		j->ref += s->ref;
		j->zero_groups += s->zero_groups;
		j->bad_scales += s->bad_scales;
	}
	return 0;
}

int whit_rows_total(whit_job *j, const whit_rows_sum *sum, int64_t n, int64_t rows, whit_err *e) {
	return total(j->src, j, sum, n, rows, e);
}

static int walk_blocks(const whit_weight *src, whit_job *j, whit_err *e) {
	int64_t width = j ? WHIT_MAX(j->dst->width, src->mat.cols) : src->mat.cols;
	block_run b = {.src = src, .job = j};
	int rc = 0;
	b.rows = whit_rows_block(width, src->mat.rows);
	b.room = b.rows * width;
	int64_t blocks = (src->mat.rows + b.rows - 1) / b.rows;
	b.sum = whit_alloc((size_t)blocks * sizeof *b.sum);
	if (j && j->dev) {
		rc = whit_rows_device(j, b.rows, b.sum, e);
	} else {
		b.buf = whit_alloc((size_t)(3 * b.room * whit_threads()) * sizeof(float));
		whit_parallel(blocks, block_item, &b);
	}

	if (!rc) rc = whit_interrupted(e);
	if (!rc) rc = total(src, j, b.sum, blocks, b.rows, e);
	whit_free(b.sum);
	whit_free(b.buf);
	return rc;
}

int whit_method_rows(whit_job *j, whit_err *e) {
	const whit_mat *s = &j->src->mat, *d = j->dst;
	if (s->rows != d->rows || s->cols != d->cols || (!d->rot && d->width != d->cols) || (d->rot && d->paired))
		return whit_fail(e, WHIT_EINTERNAL,
		                 "tensor %s: destination is %lld x %lld (stored %lld), source %lld x %lld",
		                 j->src->name, (long long)d->rows, (long long)d->cols, (long long)d->width,
		                 (long long)s->rows, (long long)s->cols);
	return walk_blocks(j->src, j, e);
}

int whit_weight_finite(const whit_weight *w, whit_err *e) { return walk_blocks(w, NULL, e); }

void whit_weight_error(const whit_weight *w, const whit_mat *m, double *err, double *ref) {
	float *x = whit_alloc((size_t)(2 * m->cols) * sizeof *x), *y = x + m->cols;
	*err = *ref = 0;
	for (int64_t r = 0; r < m->rows; r++) {
		whit_mat_decode(&w->mat, r, r + 1, x);
		whit_mat_decode(m, r, r + 1, y);
		*err += whit_sum_squares_cpu(x, y, m->cols);
		*ref += whit_sum_squares_cpu(x, NULL, m->cols);
	}
	whit_free(x);
}
