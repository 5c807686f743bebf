/* fabq-rc: binary weights with a core of 4-bit rows, chosen with feedback (fabq.md 2.3, 2.5, 2.6 step 1). Core rows are
 * those that lose most as signs and least as 4 bits, in the Hessian's diagonal. */
#include <math.h>
#include <stdlib.h>
#include "calib/feedback.h"
#include "calib/parts.h"
#include "calib/rows.h"

static int fits(const whit_spec *spec) { return spec->fmt == &whit_format_frc; }

typedef struct ranked {
	double gain;
	int64_t row;
} ranked;

static int by_gain(const void *a, const void *b) {
	const ranked *x = a, *y = b;
	if (x->gain != y->gain) return x->gain < y->gain ? 1 : -1;
	return (x->row > y->row) - (x->row < y->row);
}

static int by_row(const void *a, const void *b) {
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

typedef struct gains {
	const whit_job *j;
	whit_spec core;
	ranked *row;
} gains;

static void gain_item(void *ctx, int64_t r, int worker) {
	const gains *g = ctx;
	const whit_mat *src = &g->j->src->mat, *dst = g->j->dst;
	float *w = whit_alloc((size_t)(dst->width + WHIT_MAX(dst->width, src->cols)) * sizeof *w), *x = w + dst->width;
	whit_spec binary = whit_frc_binary(dst).spec;
	binary.book = 0; /* which of them a row gains most from hardly depends on it */
	whit_rows_sum sum = {0};
	(void)worker;
	g->row[r] = (ranked){-INFINITY, r}; /* of a row that the solver will refuse */
	if (whit_rows_load(src, dst, r, r + 1, x, w, &sum))
		g->row[r].gain = whit_part_error(&binary, g->j, w, x) - whit_part_error(&g->core, g->j, w, x);
	whit_free(w);
}

/* The record's bitmap, and its profiles. */
static int choose_core(const whit_job *j, whit_err *e) {
	whit_mat *m = j->dst;
	int64_t n = whit_frc_core(&m->spec, m->rows);
	gains g = {.j = j, .row = whit_alloc((size_t)m->rows * sizeof *g.row)};
	int64_t *core = whit_alloc((size_t)(n + 1) * sizeof *core);
	int rc = whit_spec_parse(WHIT_FABQ_CORE_FORMAT, &g.core, e);
	if (!rc && n > 0 && n < m->rows) {
		whit_parallel(m->rows, gain_item, &g);
		qsort(g.row, (size_t)m->rows, sizeof *g.row, by_gain);
	}
	for (int64_t i = 0; i < n; i++) core[i] = n < m->rows ? g.row[i].row : i;
	qsort(core, (size_t)n, sizeof *core, by_row);
	uint8_t id[WHIT_FRC_CHOICES] = {0};
	if (m->spec.book) {
		whit_fabq_profiles(j, id);
		whit_frc_factors(m->book, id, (float *)(uintptr_t)m->codebook);
	}
	whit_frc_begin(m, core, id);
	whit_free(core);
	whit_free(g.row);
	return rc;
}

static int run(whit_job *j, whit_err *e) {
	whit_fabq_part part[WHIT_FABQ_PARTS];
	int rc = whit_parts_ready(j, e);
	if (rc) return rc;
	if ((rc = choose_core(j, e))) return rc;
	rc = whit_fabq_split(part, j->dst, j->src, e);
	if (!rc) rc = whit_parts_run(j, part, WHIT_FABQ_PARTS, e);
	if (!rc && !j->bad_scales) j->bad_scales = whit_fabq_join(j->dst, part);
	whit_fabq_free(part);
	return rc;
}

const whit_method whit_method_fabq_rc = {
        .name = "fabq-rc",
        .id = "fabq-rc",
        .help = "signs with scales, and the rows that lose most in 4 bits (format frc), chosen with feedback as by "
                "gptaq",
        .needs = WHIT_NEEDS_HESSIAN | WHIT_NEEDS_CROSS,
        .rotation = WHIT_ROT_NONE,
        .fits = fits,
        .run = run,
        .feedback = WHIT_FEEDBACK_GPTAQ,
};
