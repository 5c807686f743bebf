/* encoder: a tensor's codes by its row of the plan, and what tensors share: rotations and codebooks. */
#include "calib/quantize_own.h"
#include "calib/fabq.h"
#include "formats/blocks.h"
#include "formats/codebook.h"
#include "host/progress.h"

typedef struct whit_shared_book {
	int bits, density;
	int64_t dim;
	float value[256];
} shared_codebook;

static int shared_rotation(whit_encoder *q, const whit_rotation_spec *s, const whit_rotation **out, whit_err *e) {
	*out = NULL;
	if (s->kind == WHIT_ROT_NONE) return 0;
	for (int64_t i = 0; i < q->n_rot && !*out; i++)
		if (whit_rotation_same(whit_rotation_get(q->rot[i]), s)) *out = q->rot[i];
	if (*out) return 0;
	q->rot = whit_realloc(q->rot, (size_t)q->n_rot * sizeof *q->rot, (size_t)(q->n_rot + 1) * sizeof *q->rot);
	int rc = whit_rotation_new(&q->rot[q->n_rot], s, NULL, e);
	if (!rc) *out = q->rot[q->n_rot++];
	return rc;
}

static int shared_book(whit_encoder *q, const whit_plan_row *row, const float **out, whit_err *e) {
	int64_t dim = row->spec.group ? row->spec.group : row->width;
	*out = NULL;
	if (!row->spec.fmt->needs_codebook) return 0;
	for (int64_t i = 0; i < q->n_book; i++) {
		const shared_codebook *b = q->book[i];
		if (b->bits == row->spec.bits && b->density == row->rule->density && b->dim == dim) {
			*out = b->value;
			return 0;
		}
	}
	shared_codebook *b = whit_alloc(sizeof *b);
	*b = (shared_codebook){.bits = row->spec.bits, .density = row->rule->density, .dim = dim};
	q->book = whit_realloc(q->book, (size_t)q->n_book * sizeof *q->book, (size_t)(q->n_book + 1) * sizeof *q->book);
	q->book[q->n_book++] = b;
	*out = b->value;
	return whit_codebook(b->value, b->bits, b->density, b->dim, e);
}

int whit_encoder_train(whit_encoder *q, const whit_plan *p, whit_err *e) {
	whit_fabq_source *s = whit_alloc((size_t)(p->n + 1) * sizeof *s);
	int rc = 0;
	for (int k = 0; k < WHIT_COUNT(q->frc) && !rc; k++) {
		int64_t n = 0, block = 64ll << k;
		for (int64_t i = 0; i < p->n && !rc; i++) {
			const whit_plan_row *row = &p->row[i];
			if (!whit_plan_has_book(row) || !row->spec.book || row->spec.group != block) continue;
			s[n] = (whit_fabq_source){.src = row->w};
			s[n].dst = (whit_mat){.spec = row->spec,
			                      .rows = row->w->mat.rows,
			                      .cols = row->w->mat.cols,
			                      .width = row->width};
			rc = shared_rotation(q, &row->rot, &s[n++].dst.rot, e);
		}
		if (!n || rc) continue;
		whit_say("training the codebook of blocks of %lld", (long long)block);
		q->frc[k] = whit_frc_book_new(block, 0);
		rc = whit_fabq_train(q->frc[k], s, n, 0, q->dev, e);
		for (int64_t i = 0; i < n; i++) whit_weight_drop(s[i].src);
	}
	whit_free(s);
	return rc;
}

/* The codebook of row's record, and room for what the record takes of it. */
static int own_book(whit_encoder *q, const whit_plan_row *row, whit_mat *m, whit_err *e) {
	if (!row->spec.book) return 0;
	m->book = q->frc[whit_frc_log2(row->spec.group) - 6];
	if (!m->book) return whit_fail(e, WHIT_EINTERNAL, "tensor %s: has no codebook trained for it", row->w->name);
	q->factors = whit_realloc(q->factors, (size_t)q->n_factors * sizeof *q->factors,
	                          (size_t)(q->n_factors + 1) * sizeof *q->factors);
	m->codebook = q->factors[q->n_factors++] =
	        whit_alloc((size_t)(WHIT_FRC_CHOICES * row->spec.group) * sizeof(float));
	return 0;
}

whit_weight whit_encoder_source(const whit_plan_row *row, float **copy) {
	whit_weight w = *row->w;
	*copy = NULL;
	if (!row->changed) return w;
	float *x = *copy = whit_alloc((size_t)(w.mat.rows * w.mat.cols) * sizeof *x);
	whit_mat_decode(&w.mat, 0, w.mat.rows, x);
	whit_gguf_apply(&row->change, x, w.mat.rows, w.mat.cols);
	w.mat = whit_plan_floats(&w.mat, x);
	return w;
}

static int statistics(whit_encoder *q, const whit_plan_row *row, const whit_mat *m, const whit_feedback **f,
                      whit_err *e) {
	const whit_calibration_of w = {.name = row->w->name,
	                               .rot = m->rot,
	                               .change = row->changed && row->change.columns ? &row->change : NULL,
	                               .kind = row->method->feedback,
	                               .cross = (row->method->needs & WHIT_NEEDS_CROSS) != 0};
	if (q->calibration) return whit_calibration_get(q->calibration, &w, f, e);
	return whit_fail(e, WHIT_EINTERNAL, "tensor %s: method %s without statistics", row->w->name, row->method->name);
}

static int encode(whit_encoder *q, const whit_plan_row *row, const whit_weight *src, whit_mat *m, whit_job *j,
                  whit_err *e) {
	*m = (whit_mat){.spec = row->spec,
	                .rows = row->w->mat.rows,
	                .cols = row->w->mat.cols,
	                .width = row->width,
	                .paired = row->paired};
	*j = (whit_job){.src = src,
	                .dst = m,
	                .rule = row->rule->rule,
	                .importance = row->importance,
	                .dev = whit_plan_on_device(q->dev, row) ? q->dev : NULL};
	int rc = shared_rotation(q, &row->rot, &m->rot, e);
	if (!rc && row->method->needs) rc = statistics(q, row, m, &j->feedback, e);
	if (!rc) rc = shared_book(q, row, &m->codebook, e);
	if (!rc) rc = own_book(q, row, m, e);
	if (!rc) rc = whit_mat_alloc(m, e);
	if (!rc) rc = row->method->run(j, e);
	if (rc || !j->bad_scales) return rc;
	if (!m->spec.bits)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: tensor %s: %lld %s are beyond what its format holds, need another format",
		                 row->w->file, row->w->name, (long long)j->bad_scales,
		                 m->spec.fmt->block ? "scales" : "weights");

	whit_say("warning: %s: %lld scales do not fit F16, F32 is used for this tensor", row->w->name,
	         (long long)j->bad_scales);
	whit_event("warn", json_pack("{s:s, s:s, s:I}", "tensor", row->w->name, "what", "f32_scales", "scales",
	                             (json_int_t)j->bad_scales));
	whit_mat_free(m);
	m->scale_f32 = 1;
	rc = whit_mat_alloc(m, e);
	return rc ? rc : row->method->run(j, e);
}

int whit_encoder_run(whit_encoder *q, const whit_plan_row *row, whit_mat *m, whit_job *j, whit_err *e) {
	float *copy;
	const whit_weight src = whit_encoder_source(row, &copy);
	int rc = encode(q, row, &src, m, j, e);
	j->src = row->w;
	whit_free(copy);
	return rc;
}

void whit_encoder_free(whit_encoder *q) {
	for (int64_t i = 0; i < q->n_rot; i++) whit_rotation_free(q->rot[i]);
	for (int64_t i = 0; i < q->n_book; i++) whit_free(q->book[i]);
	for (int i = 0; i < WHIT_COUNT(q->frc); i++) whit_free(q->frc[i]);
	for (int64_t i = 0; i < q->n_factors; i++) whit_free(q->factors[i]);
	whit_free(q->factors);
	whit_free(q->rot);
	whit_free(q->book);
	memset(q, 0, sizeof *q);
}
