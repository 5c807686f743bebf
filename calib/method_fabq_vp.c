/* fabq-vp: rows of five precisions, each row in the class where that costs least in the Hessian's diagonal, all classes
 * as large as the format says; then codes class by class with feedback (fabq.md 5, VP). */
#include "calib/assign.h"
#include "calib/feedback.h"
#include "calib/parts.h"
#include "calib/rows.h"
#include "formats/vp1.h"

static int fits(const whit_spec *spec) { return spec->fmt == &whit_format_vp; }

typedef struct costs {
	const whit_job *j;
	whit_spec spec[WHIT_VP_CLASSES];
	double *row; /* (rows, classes) */
} costs;

static void cost_item(void *ctx, int64_t r, int worker) {
	const costs *k = ctx;
	const whit_mat *src = &k->j->src->mat, *dst = k->j->dst;
	float *w = whit_alloc((size_t)(dst->width + WHIT_MAX(dst->width, src->cols)) * sizeof *w), *x = w + dst->width;
	whit_rows_sum sum = {0};
	(void)worker;
	if (whit_rows_load(src, dst, r, r + 1, x, w, &sum)) /* else the solver will refuse it */
		for (int c = 0; c < WHIT_VP_CLASSES; c++) {
			const whit_mat as = {.spec = k->spec[c], .width = dst->width};
			k->row[r * WHIT_VP_CLASSES + c] =
			        whit_part_error(&as, k->j->feedback->h_diag, k->j->rule, w, x);
		}
	whit_free(w);
}

/* The record's classes. */
static void choose_classes(const whit_job *j) {
	whit_mat *m = j->dst;
	int64_t room[WHIT_VP_CLASSES];
	costs k = {.j = j, .row = whit_alloc((size_t)(m->rows * WHIT_VP_CLASSES) * sizeof *k.row)};
	uint8_t *code = whit_alloc((size_t)m->rows);
	for (int c = 0; c < WHIT_VP_CLASSES; c++)
		k.spec[c] = whit_vp_spec(c), room[c] = whit_vp_rows(&m->spec, m->rows, c);
	whit_parallel(m->rows, cost_item, &k);
	whit_assign(code, k.row, m->rows, WHIT_VP_CLASSES, room);
	whit_vp_begin(m, code);
	whit_free(code);
	whit_free(k.row);
}

static int run(whit_job *j, whit_err *e) {
	whit_fabq_part part[WHIT_PARTS];
	int rc = whit_parts_ready(j, e);
	if (rc) return rc;
	choose_classes(j);
	rc = whit_parts_take(part, j->dst, j->src, e);
	if (!rc) rc = whit_parts_run(j, part, WHIT_VP_CLASSES, e);
	whit_parts_free(part);
	return rc;
}

const whit_method whit_method_fabq_vp = {
        .name = "fabq-vp",
        .id = "fabq-vp",
        .help = "rows of five precisions, each where it costs least (format vp), chosen with feedback as by gptaq, "
                "with "
                "--stats as by gptq",
        .needs = WHIT_NEEDS_HESSIAN | WHIT_USES_CROSS,
        .rotation = WHIT_ROT_NONE,
        .fits = fits,
        .run = run,
        .feedback = WHIT_FEEDBACK_GPTAQ,
};
