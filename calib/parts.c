/* parts: what methods of records share. */
#include "calib/parts.h"
#include <stdlib.h>
#include "calib/feedback.h"
#include "formats/vp1.h"

int whit_part_source(whit_fabq_part *p, const whit_weight *src, whit_err *e) {
	int64_t n = p->mat.rows, cols = p->mat.cols;
	p->src = *src;
	p->src.mat = (whit_mat){.rows = n, .cols = cols, .width = cols};
	int rc = whit_spec_parse("f32", &p->src.mat.spec, e);
	if (!rc) rc = whit_mat_alloc(&p->src.mat, e);
	for (int64_t i = 0; i < n && !rc; i++)
		whit_mat_decode(&src->mat, p->row[i], p->row[i] + 1,
		                (float *)(uintptr_t)p->src.mat.plane[0] + i * cols);
	return rc;
}

double whit_part_error(const whit_mat *as, const float *imp, int rule, const float *w, float *x) {
	whit_mat m = {.spec = as->spec, .rows = 1, .cols = as->width, .width = as->width, .codebook = as->codebook};
	int64_t zero = 0;
	double err = 0;
	whit_err e;
	if (whit_mat_alloc(&m, &e)) abort(); /* formats of parts fit any width */
	m.spec.fmt->encode(&m, 0, w, imp, rule, &zero);
	m.spec.fmt->decode(&m, 0, 1, x);
	for (int64_t i = 0; i < m.width; i++)
		err += (imp ? (double)imp[i] : 1) * ((double)x[i] - w[i]) * ((double)x[i] - w[i]);
	whit_mat_free(&m);
	return err;
}

int whit_parts_ready(const whit_job *j, whit_err *e) {
	if (!j->feedback || j->feedback->n != j->dst->width)
		return whit_fail(e, WHIT_EINTERNAL, "tensor %s: Hessian is %lld wide, need %lld", j->src->name,
		                 j->feedback ? (long long)j->feedback->n : 0, (long long)j->dst->width);
	return whit_weight_finite(j->src, e);
}

static void add(whit_job *j, const whit_job *part) {
	j->err += part->err;
	j->ref += part->ref;
	j->loss += part->loss;
	j->loss_nearest += part->loss_nearest;
	j->zero_groups += part->zero_groups;
	j->rows_nearest += part->rows_nearest;
	j->bad_scales += part->bad_scales;
}

int whit_parts_run(whit_job *j, const whit_fabq_part *part, int n, whit_err *e) {
	int rc = 0;
	for (int i = 0; i < n && !rc; i++) {
		whit_mat m = part[i].mat;
		whit_job one = {
		        .src = &part[i].src, .dst = &m, .rule = j->rule, .feedback = j->feedback, .refits = j->refits};
		if (m.rows == 0) continue;
		rc = whit_feedback_fits(&m.spec) ? whit_feedback_run(&one, e) : whit_method_rows(&one, e);
		add(j, &one);
	}
	return rc;
}

int whit_part_trains(const whit_fabq_part *p) { return p->mat.spec.bits < 8 && whit_feedback_fits(&p->mat.spec); }

/* ---- classes of a record ---- */

/* The parts are m's own bytes. */
static int take_vp(whit_fabq_part part[WHIT_PARTS], const whit_mat *m, const whit_weight *src, whit_err *e) {
	int64_t at[WHIT_VP_CLASSES] = {0};
	int rc = 0;
	for (int c = 0; c < WHIT_VP_CLASSES; c++) {
		part[c].mat = whit_vp_view(m, c);
		part[c].borrowed = 1;
		part[c].row = whit_alloc((size_t)(part[c].mat.rows + 1) * sizeof *part[c].row);
	}
	for (int64_t r = 0; r < m->rows; r++) {
		int c = whit_vp_code(m->plane[0], r);
		part[c].row[at[c]++] = r;
	}
	for (int c = 0; c < WHIT_VP_CLASSES && !rc; c++)
		if (part[c].mat.rows) rc = whit_part_source(&part[c], src, e);
	return rc;
}

int whit_parts_take(whit_fabq_part part[WHIT_PARTS], const whit_mat *m, const whit_weight *src, whit_err *e) {
	memset(part, 0, WHIT_PARTS * sizeof *part);
	return m->spec.fmt == &whit_format_vp ? take_vp(part, m, src, e) : whit_fabq_split(part, m, src, e);
}

void whit_parts_put(whit_mat *m, const whit_fabq_part part[WHIT_PARTS]) {
	if (m->spec.fmt == &whit_format_frc) whit_fabq_join(m, part);
}

void whit_parts_free(whit_fabq_part part[WHIT_PARTS]) {
	for (int i = 0; i < WHIT_PARTS; i++) whit_part_free(&part[i]);
}
