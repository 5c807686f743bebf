/* residual: the low-rank fits (lowrank.h) of what a GGUF's codes have lost, written beside it as an adapter that
 * llama.cpp loads with --lora. E and the Hessian are of the stored columns, scaling included; rows of B stand where the
 * GGUF stores the matrix's. Factors are of the codes as first chosen, and stay: block steps and distillation go on with
 * the codes around them, as layers behind see what the two make together. The other way round, factors of codes that
 * were trained alone, undoes what training did (bench/results/2026-11-28-fabq-g-lora.md). */
#include "calib/lowrank.h"
#include "calib/quantize_own.h"
#include "formats/lora.h"
#include "host/progress.h"

/* Whether row has codes that lose something, and a Hessian to weigh it by. */
static int has_residual(const whit_plan_row *row) {
	return row->cls == WHIT_CLASS_LINEAR && row->layer >= 0 && !row->absent && !row->why_kept && !row->as_is &&
	       (row->spec.bits || row->spec.fmt->block);
}

static int check_row(const whit_plan *p, const whit_plan_row *row, whit_err *e) {
	const whit_mat *m = &row->w->mat;
	int64_t most = WHIT_MIN(m->rows, m->cols);
	if (p->target.lora_rank > most)
		return whit_fail(e, WHIT_EUSAGE, "tensor %s: rank of its residual is %lld, need 1 to %lld",
		                 row->w->name, (long long)p->target.lora_rank, (long long)most);
	if (whit_calibration_has(p->target.calibration, row->w->name, row->layer)) return 0;
	return whit_fail(e, WHIT_EINPUT, "tensor %s: its residual needs a Hessian of its input, there is none",
	                 row->w->name);
}

int whit_residual_plan(whit_plan *p, whit_err *e) {
	const whit_calibration *c = p->target.calibration;
	int64_t rank = p->target.lora_rank;
	if (!p->target.gguf) return whit_fail(e, WHIT_EUSAGE, "low-rank residuals: output is a directory, need a GGUF");
	if (!c) return whit_fail(e, WHIT_EUSAGE, "low-rank residuals: need a Hessian, give --text or --stats");
	if (c->dir.path && !whit_calibration_sums(c, "hessian"))
		return whit_fail(e, WHIT_EINPUT, "%s: has no hessian, need whit calibrate --stats hessian",
		                 c->dir.path);
	for (int64_t i = 0; i < p->n; i++) {
		const whit_plan_row *row = &p->row[i];
		if (!has_residual(row)) continue;
		int rc = check_row(p, row, e);
		if (rc) return rc;
		p->lora_matrices++;
		p->lora_weights += row->w->mat.rows * row->w->mat.cols;
		p->lora_bytes += 2 * rank * (row->w->mat.rows + row->w->mat.cols);
	}
	if (p->lora_matrices) return 0;
	return whit_fail(e, WHIT_EUSAGE, "low-rank residuals: no linear of a block gets codes, need one that does");
}

int whit_residual_open(whit_residual *r, const whit_plan *p, const whit_model *m, whit_err *e) {
	if (!p->target.lora_rank) return 0;
	const whit_gguf_arch *a = whit_gguf_arch_find(m->arch->name, e);
	if (!a) return e->code;
	int rc = whit_lora_out_open(&r->out, p->target.lora, a->name, p->target.lora_rank, e);
	for (int64_t i = 0; i < p->n && !rc; i++) {
		const whit_plan_row *row = &p->row[i];
		if (has_residual(row))
			rc = whit_lora_out_matrix(r->out, row->name, row->w->mat.rows, row->w->mat.cols,
			                          p->target.lora_rank, e);
	}
	r->rank = p->target.lora_rank;
	return rc;
}

/* Fisher importance of row's rows in the order of what it stores; the caller frees *alpha, NULL where there is none. */
static int importance(const whit_encoder *q, const whit_plan_row *row, double **alpha, whit_err *e) {
	const whit_calibration *c = q->calibration;
	const whit_scaled *s = whit_encoder_scaled(q, row->w);
	int64_t n = row->w->mat.rows;
	*alpha = NULL;
	if (!c->dir.path || !whit_calibration_sums(c, "fisher")) return 0;
	*alpha = whit_alloc((size_t)n * sizeof **alpha);
	int rc = whit_calibration_rows(c, row->w->name, n, *alpha, e);
	if (rc) return rc;
	float *x = whit_alloc((size_t)n * sizeof *x);
	whit_lowrank_shrink(*alpha, n);
	/* a row that was divided by s has s times the gradient */
	for (int64_t i = 0; i < n && s && s->rows; i++) (*alpha)[i] *= (double)s->rows[i] * s->rows[i];
	if (row->changed && !row->change.columns) {
		for (int64_t i = 0; i < n; i++) x[i] = (float)(*alpha)[i];
		whit_gguf_apply(&row->change, x, n, 1);
		for (int64_t i = 0; i < n; i++) (*alpha)[i] = x[i];
	}
	whit_free(x);
	return 0;
}

/* ---- a matrix ---- */

/* *lost (rows, cols): what the source is more than m decodes to; the caller frees it. */
static int lost_of(const whit_encoder *q, const whit_plan_row *row, const whit_mat *m, float **lost, whit_err *e) {
	float *copy;
	const whit_weight src = whit_encoder_source(q, row, &copy);
	whit_mat was = {0}, is = {0};
	int64_t n = m->rows * m->cols;
	int rc = whit_mat_floats(&was, &src.mat, e);
	if (!rc) rc = whit_mat_floats(&is, m, e);
	*lost = rc ? NULL : whit_alloc((size_t)n * sizeof **lost);
	for (int64_t i = 0; i < n && !rc; i++)
		(*lost)[i] = ((const float *)was.plane[0])[i] - ((const float *)is.plane[0])[i];
	whit_mat_free(&was);
	whit_mat_free(&is);
	whit_free(copy);
	return rc;
}

static void count(whit_residual *r, const whit_plan_row *row, const whit_lowrank *f) {
	double share = f->before > 0 ? f->after / f->before : 1;
	r->st.share += (share - r->st.share) / (double)++r->st.matrices;
	r->st.before += f->before, r->st.best += f->best, r->st.after += f->after;
	whit_event("residual", json_pack("{s:s, s:I, s:f, s:f, s:f}", "name", row->w->name, "rank", (json_int_t)f->rank,
	                                 "before", f->before, "best", f->best, "after", f->after));
}

int whit_residual_fit(whit_residual *r, const whit_encoder *q, const whit_plan_row *row, const whit_mat *m,
                      whit_lowrank *f, whit_err *e) {
	double *h = NULL, *alpha = NULL;
	float *lost = NULL;
	int64_t n;
	if (!r->out || !has_residual(row)) return 0;
	const whit_calibration_of w = whit_encoder_asks(q, row, m);
	double damping = q->calibration->feedback.damping;
	int rc = whit_interrupted(e);
	if (!rc) rc = lost_of(q, row, m, &lost, e);
	if (!rc) rc = whit_calibration_hessian(q->calibration, &w, &h, &n, e);
	if (!rc) rc = importance(q, row, &alpha, e);
	if (!rc)
		rc = whit_lowrank_fit(f, lost, m->rows, m->cols, h, alpha, r->rank, damping >= 0 ? damping : 0.01,
		                      &r->st.raised, row->w->name, e);
	r->st.fisher += !rc && alpha;
	whit_free(alpha);
	whit_free(h);
	whit_free(lost);
	return rc;
}

int whit_residual_write(whit_residual *r, const whit_plan_row *row, const whit_mat *m, const whit_lowrank *f,
                        whit_err *e) {
	if (!f->rank) return 0;
	int rc = whit_gguf_out_write(r->out, f->a, (size_t)(f->rank * f->cols) * sizeof *f->a, e);
	for (int64_t i = 0; i < f->rows && !rc; i++)
		rc = whit_gguf_out_write(r->out, f->b + whit_mat_logical(m, i) * f->rank,
		                         (size_t)f->rank * sizeof *f->b, e);
	count(r, row, f);
	return rc;
}

int whit_residual_close(whit_residual *r, int rc, whit_err *e) {
	if (!r->out) return rc;
	if (rc)
		whit_gguf_out_abort(r->out);
	else
		rc = whit_gguf_out_commit(r->out, e);
	r->out = NULL;
	return rc;
}
