/* fabq-rc: binary weights with a core of rows of more bits, chosen with feedback (fabq.md 2.3, 2.5, 2.6 step 1). Core
 * rows are those that lose most as signs and least as core, weighted by Fisher information where there is some, else by
 * the Hessian's diagonal. */
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
	whit_mat binary, core; /* a row of either class */
	float *imp;            /* of columns */
	int by;
	ranked *row;
} gains;

/* What row r of weights w is ranked by; x: room. */
static double rank(const gains *g, int64_t r, const float *w, float *x) {
	const whit_core_rank *c = g->j->core;
	double sum = 0;
	whit_rng random;
	switch (g->by) {
	case WHIT_CORE_FISHER:
		return c->rows[r];
	case WHIT_CORE_RANDOM:
		whit_rng_key(&random, 0, (uint64_t)r, 0x636f7265u); /* "core" */
		return whit_rng_uniform(&random);
	case WHIT_CORE_MAGNITUDE:
	case WHIT_CORE_HESSIAN:
		for (int64_t i = 0; i < g->binary.width; i++)
			sum += (double)w[i] * w[i] * (g->by == WHIT_CORE_HESSIAN ? g->j->feedback->h_diag[i] : 1);
		return sum;
	}
	sum = whit_part_error(&g->binary, g->imp, g->j->rule, w, x) -
	      whit_part_error(&g->core, g->imp, g->j->rule, w, x);
	return c && c->rows ? sum * c->rows[r] : sum;
}

static void gain_item(void *ctx, int64_t r, int worker) {
	const gains *g = ctx;
	const whit_mat *src = &g->j->src->mat, *dst = g->j->dst;
	float *w = whit_alloc((size_t)(dst->width + WHIT_MAX(dst->width, src->cols)) * sizeof *w), *x = w + dst->width;
	whit_rows_sum sum = {0};
	(void)worker;
	g->row[r] = (ranked){-INFINITY, r}; /* of a row that the solver will refuse */
	int sound = whit_rows_load(src, dst, r, r + 1, x, w, &sum);
	whit_fabq_over(w, g->j->balance, dst->width);
	if (sound)
		g->row[r].gain = g->j->core && g->j->core->spike && g->j->core->spike[r] ? INFINITY : rank(g, r, w, x);
	whit_free(w);
}

/* Which rows are core: all of them in falling order. */
static int rank_rows(const whit_job *j, ranked *row, whit_err *e) {
	const whit_core_rank *c = j->core;
	gains g = {.j = j, .row = row, .by = c ? c->by : WHIT_CORE_GAIN};
	g.binary = (whit_mat){.spec = whit_frc_binary(j->dst).spec, .width = j->dst->width};
	g.binary.spec.flags = 0; /* which rows gain most hardly depends on the codebook */
	g.core.width = j->dst->width;
	int rc = whit_fabq_core_spec(&g.core.spec, &j->dst->spec, e);
	if (rc) return rc;
	g.imp = whit_alloc((size_t)j->dst->width * sizeof *g.imp);
	for (int64_t i = 0; i < j->dst->width; i++)
		g.imp[i] = c && c->cols ? (float)c->cols[i] : j->feedback->h_diag[i];
	whit_parallel(j->dst->rows, gain_item, &g);
	qsort(row, (size_t)j->dst->rows, sizeof *row, by_gain);
	whit_free(g.imp);
	return 0;
}

/* The record's bitmap, and its profiles. */
static int choose_core(const whit_job *j, whit_err *e) {
	whit_mat *m = j->dst;
	int64_t n = whit_frc_core(&m->spec, m->rows);
	ranked *row = whit_alloc((size_t)m->rows * sizeof *row);
	int64_t *core = whit_alloc((size_t)(n + 1) * sizeof *core);
	int rc = n > 0 && n < m->rows ? rank_rows(j, row, e) : 0;
	for (int64_t i = 0; i < n; i++) core[i] = n < m->rows ? row[i].row : i;
	qsort(core, (size_t)n, sizeof *core, by_row);
	uint8_t id[WHIT_FRC_CHOICES] = {0};
	int wide = m->spec.flags & WHIT_FRC_WIDE;
	if (whit_frc_has_book(&m->spec)) {
		if (!wide) whit_fabq_profiles(j, id);
		whit_frc_factors(m->book, wide ? NULL : id, whit_frc_choices(&m->spec),
		                 (float *)(uintptr_t)m->codebook);
	}
	whit_frc_begin(m, core, id);
	if (j->balance) whit_frc_balance_put(m, j->balance);
	whit_free(core);
	whit_free(row);
	return rc;
}

static int run(whit_job *j, whit_err *e) {
	whit_fabq_part part[WHIT_FABQ_PARTS];
	if ((j->balance != NULL) != ((j->dst->spec.flags & WHIT_FRC_BALANCE) != 0))
		return whit_fail(e, WHIT_EINTERNAL, "tensor %s: balance and its format do not agree", j->src->name);
	int rc = whit_parts_ready(j, e);
	if (rc) return rc;
	if ((rc = choose_core(j, e))) return rc;
	rc = whit_fabq_split(part, j->dst, j->src, e);
	if (!rc) rc = whit_parts_run(j, part, WHIT_FABQ_PARTS, e);
	if (!rc && !j->bad_scales) j->bad_scales = whit_fabq_join(j->dst, part);
	if (!rc && !j->bad_scales && j->balance) whit_weight_error(j->src, j->dst, &j->err, &j->ref);
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
