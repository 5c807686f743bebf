/* encoder: a tensor's codes by its row of the plan, and what tensors share: rotations and codebooks. */
#include "calib/quantize_own.h"
#include <math.h>
#include "calib/clip.h"
#include "calib/fabq.h"
#include "calib/feedback.h"
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

static whit_frc_book *find_frc(const whit_encoder *q, const whit_plan_row *row) {
	int additive = row->spec.flags & WHIT_FRC_ADDITIVE;
	for (int i = 0; i < q->n_frc; i++)
		if (q->frc[i]->block == row->spec.group && q->frc[i]->tier == row->tier &&
		    !q->frc[i]->offset == !additive)
			return q->frc[i];
	return NULL;
}

static int has_frc(const whit_plan_row *row) { return whit_plan_has_book(row) && whit_frc_has_book(&row->spec); }

/* A row of the plan as what its codebook is trained on: balance, which then is not known yet, by its weights alone. */
static int source_of(whit_encoder *q, const whit_plan_row *row, whit_fabq_source *s, whit_err *e) {
	const whit_mat *w = &row->w->mat;
	*s = (whit_fabq_source){.src = row->w,
	                        .dst = {.spec = row->spec, .rows = w->rows, .cols = w->cols, .width = row->width}};
	if (row->spec.flags & WHIT_FRC_BALANCE) {
		s->balance = whit_alloc((size_t)w->cols * sizeof *s->balance);
		whit_scaling_columns(s->balance, NULL, w, row->spec.group);
		for (int64_t c = 0; c < w->cols; c++) s->balance[c] = 1 / s->balance[c];
	}
	return shared_rotation(q, &row->rot, &s->dst.rot, e);
}

int whit_encoder_train(whit_encoder *q, const whit_plan *p, whit_err *e) {
	whit_fabq_source *s = whit_alloc((size_t)(p->n + 1) * sizeof *s);
	int rc = 0;
	for (int64_t k = 0; k < p->n && !rc; k++) {
		const whit_plan_row *first = &p->row[k];
		int64_t n = 0;
		if (!has_frc(first) || find_frc(q, first)) continue;
		for (int64_t i = k; i < p->n && !rc; i++)
			if (has_frc(&p->row[i]) && p->row[i].tier == first->tier &&
			    whit_frc_same_book(&p->row[i].spec, &first->spec))
				rc = source_of(q, &p->row[i], &s[n++], e);
		whit_say("training the codebook of blocks of %d, tier %d", first->spec.group, first->tier);
		q->frc = whit_realloc(q->frc, (size_t)q->n_frc * sizeof *q->frc,
		                      (size_t)(q->n_frc + 1) * sizeof *q->frc);
		q->frc[q->n_frc++] = whit_frc_book_new(first->spec.group, first->tier, first->spec.flags);
		if (!rc) rc = whit_fabq_train(q->frc[q->n_frc - 1], s, n, 0, q->dev, e);
		for (int64_t i = 0; i < n; i++) whit_weight_drop(s[i].src), whit_free(s[i].balance);
	}
	whit_free(s);
	return rc;
}

/* The codebook of row's record, and room for what the record takes of it. */
static int own_book(whit_encoder *q, const whit_plan_row *row, whit_mat *m, whit_err *e) {
	if (!whit_frc_has_book(&row->spec)) return 0;
	m->book = find_frc(q, row);
	if (!m->book) return whit_fail(e, WHIT_EINTERNAL, "tensor %s: has no codebook trained for it", row->w->name);
	q->factors = whit_realloc(q->factors, (size_t)q->n_factors * sizeof *q->factors,
	                          (size_t)(q->n_factors + 1) * sizeof *q->factors);
	m->codebook = q->factors[q->n_factors++] =
	        whit_alloc((size_t)(whit_frc_choices(&row->spec) * row->spec.group) * sizeof(float));
	return 0;
}

static whit_scaled *find_scaled(const whit_encoder *q, const whit_weight *w) {
	whit_scaled *s = q->scaled;
	while (s && s->w != w) s = s->next;
	return s;
}

const whit_scaled *whit_encoder_scaled(const whit_encoder *q, const whit_weight *w) { return find_scaled(q, w); }

whit_weight whit_encoder_source(const whit_encoder *q, const whit_plan_row *row, float **copy) {
	const whit_scaled *s = whit_encoder_scaled(q, row->w);
	whit_weight w = *row->w;
	*copy = NULL;
	if (s && s->vec) w.mat.plane[0] = s->bytes;
	if (!row->changed && !(s && !s->vec)) return w;
	float *x = *copy = whit_alloc((size_t)(w.mat.rows * w.mat.cols) * sizeof *x);
	whit_mat_decode(&w.mat, 0, w.mat.rows, x);
	for (int64_t r = 0; r < w.mat.rows && s; r++)
		for (int64_t c = 0; c < w.mat.cols && !s->vec; c++)
			x[r * w.mat.cols + c] *= (s->cols ? s->cols[c] : 1) / (s->rows ? s->rows[r] : 1);
	if (row->changed) whit_gguf_apply(&row->change, x, w.mat.rows, w.mat.cols);
	w.mat = whit_plan_floats(&w.mat, x);
	return w;
}

/* scale: what the columns have been multiplied by, or NULL. */
static whit_calibration_of asked(const whit_encoder *q, const whit_plan_row *row, const whit_mat *m,
                                 const float *scale) {
	unsigned cross = WHIT_NEEDS_CROSS | (q->calibration && !q->calibration->dir.path ? WHIT_USES_CROSS : 0);
	return (whit_calibration_of){.name = row->w->name,
	                             .rot = m->rot,
	                             .change = row->changed && row->change.columns ? &row->change : NULL,
	                             .scale = scale,
	                             .kind = row->method->feedback,
	                             .cross = (row->method->needs & cross) != 0};
}

static const float *columns_scale(const whit_encoder *q, const whit_plan_row *row) {
	const whit_scaled *s = whit_encoder_scaled(q, row->w);
	return s ? s->cols : NULL;
}

whit_calibration_of whit_encoder_asks(const whit_encoder *q, const whit_plan_row *row, const whit_mat *m) {
	return asked(q, row, m, columns_scale(q, row));
}

/* The balance that a record is to store: t (cols), of whit_free, for src's columns and their inputs; *scale becomes
 * what the original's columns are then multiplied by, all in all. */
static int balance_of(whit_encoder *q, const whit_plan_row *row, const whit_weight *src, float **t, float **scale,
                      whit_err *e) {
	const float *before = columns_scale(q, row);
	int64_t n, cols = src->mat.cols;
	double *h;
	if (row->rot.kind != WHIT_ROT_NONE)
		return whit_fail(e, WHIT_EUSAGE, "tensor %s: is rotated, which a record with balance cannot be",
		                 row->w->name);
	const whit_calibration_of w = {.name = row->w->name, .scale = before};
	int rc = whit_calibration_hessian(q->calibration, &w, &h, &n, e);
	if (rc) return rc;
	*t = whit_alloc((size_t)cols * sizeof **t), *scale = whit_alloc((size_t)cols * sizeof **scale);
	for (int64_t c = 0; c < cols; c++) h[c] = h[c * n + c];
	whit_scaling_columns(*scale, h, &src->mat, row->spec.group);
	for (int64_t c = 0; c < cols; c++) {
		(*t)[c] = whit_f16_to_f32(whit_f32_to_f16(1 / (*scale)[c]));
		(*scale)[c] = (before ? before[c] : 1) / (*t)[c];
	}
	whit_free(h);
	return 0;
}

static int statistics(whit_encoder *q, const whit_plan_row *row, const whit_mat *m, const float *scale,
                      const whit_feedback **f, whit_err *e) {
	const whit_calibration_of w = asked(q, row, m, scale);
	if (q->calibration) return whit_calibration_get(q->calibration, &w, f, e);
	return whit_fail(e, WHIT_EINTERNAL, "tensor %s: method %s without statistics", row->w->name, row->method->name);
}

/* n rows of the source, at[], by themselves: their codes go to their places in j's matrix. */
static int run_rows(whit_job *j, const whit_plan_row *row, const whit_feedback *f, const int64_t *at, int64_t n,
                    whit_err *e) {
	const whit_mat *src = &j->src->mat;
	float *x = whit_alloc((size_t)(n * src->cols) * sizeof *x);
	whit_weight some = *j->src;
	whit_mat m = *j->dst;
	whit_job one = {
	        .src = &some, .dst = &m, .rule = j->rule, .feedback = f, .solver = j->solver, .refits = j->refits};
	for (int64_t r = 0; r < n; r++) whit_mat_decode(src, at[r], at[r] + 1, x + r * src->cols);
	some.mat = (whit_mat){.rows = n, .cols = src->cols};
	some.mat = whit_plan_floats(&some.mat, x);
	m.rows = n, m.paired = 0;
	int rc = whit_mat_alloc(&m, e);
	if (!rc) rc = row->method->run(&one, e);
	for (int64_t r = 0; r < n && !rc; r++)
		for (int p = 0; p < WHIT_PLANES && m.plane[p]; p++)
			memcpy((uint8_t *)(uintptr_t)j->dst->plane[p] +
			               (size_t)whit_mat_row(j->dst, at[r]) * m.row_bytes[p],
			       m.plane[p] + (size_t)r * m.row_bytes[p], m.row_bytes[p]);
	j->err += one.err, j->ref += one.ref;
	j->loss += one.loss, j->loss_nearest += one.loss_nearest;
	j->zero_groups += one.zero_groups, j->rows_nearest += one.rows_nearest, j->bad_scales += one.bad_scales;
	whit_mat_free(&m);
	whit_free(x);
	return rc;
}

/* at: which rows are the model's rows, one after another, where a GGUF has them in another order. */
static void rows_in_order(const whit_plan_row *row, int64_t *at, int64_t rows) {
	float *was = whit_alloc((size_t)rows * sizeof *was);
	for (int64_t r = 0; r < rows; r++) was[r] = (float)r;
	if (row->changed && row->change.block && !row->change.columns) whit_gguf_apply(&row->change, was, rows, 1);
	for (int64_t r = 0; r < rows; r++) at[(int64_t)was[r]] = r;
	whit_free(was);
}

/* Each group of rows with its own Hessian. */
static int run_groups(whit_encoder *q, const whit_plan_row *row, const whit_calibration_of *w, whit_job *j,
                      whit_err *e) {
	int groups = whit_calibration_groups(q->calibration), rc = 0;
	int64_t rows = j->dst->rows, each = (rows + groups - 1) / groups;
	int64_t *at = whit_alloc((size_t)rows * sizeof *at);
	j->err = j->ref = j->loss = j->loss_nearest = 0;
	j->zero_groups = j->rows_nearest = j->bad_scales = 0;
	rows_in_order(row, at, rows);
	for (int g = 0; g * each < rows && !rc; g++) {
		whit_feedback f;
		rc = whit_calibration_guided(q->calibration, w, g, &f, e);
		if (!rc) rc = run_rows(j, row, &f, at + g * each, WHIT_MIN(each, rows - g * each), e);
		whit_feedback_free(&f);
	}
	whit_free(at);
	return rc;
}

/* scale: what the columns have been multiplied by, or NULL. A record's rows have one Hessian. */
static int run_guided(whit_encoder *q, const whit_plan_row *row, const float *scale, whit_job *j, whit_err *e) {
	const whit_calibration_of w = asked(q, row, j->dst, scale);
	whit_feedback f;
	if (!row->spec.fmt->record) return run_groups(q, row, &w, j, e);
	int rc = whit_calibration_guided(q->calibration, &w, 0, &f, e);
	j->feedback = &f;
	if (!rc) rc = row->method->run(j, e);
	j->feedback = NULL;
	whit_feedback_free(&f);
	return rc;
}

static int is_guided(const whit_encoder *q, const whit_plan_row *row) {
	return row->method->needs && q->calibration && q->calibration->guided;
}

static int run_method(whit_encoder *q, const whit_plan_row *row, const float *scale, whit_job *j, whit_err *e) {
	return is_guided(q, row) ? run_guided(q, row, scale, j, e) : row->method->run(j, e);
}

/* What ranks the core's rows of a record: Fisher information in the frame of stored columns, scale being what those
 * have been multiplied by (or NULL). */
static int rank_of(const whit_encoder *q, const whit_plan_row *row, const float *scale, whit_fisher_sums *s,
                   whit_core_rank *c, whit_err *e) {
	const whit_calibration *k = q->calibration;
	const whit_scaled *changed = whit_encoder_scaled(q, row->w);
	int64_t rows = row->w->mat.rows, cols = row->w->mat.cols;
	*c = (whit_core_rank){.by = k ? k->core_by : WHIT_CORE_GAIN};
	*s = (whit_fisher_sums){0};
	if (!k || !k->fisher.dir.path || !row->spec.core || !row->spec.fmt->record) return 0;
	int rc = whit_fisher_read(&k->fisher, row->w->name, rows, cols, s, e);
	if (rc) return rc;
	for (int64_t i = 0; i < cols && scale; i++) s->cols[i] /= (double)scale[i] * scale[i];
	for (int64_t i = 0; i < rows && changed && changed->rows; i++)
		s->rows[i] *= (double)changed->rows[i] * changed->rows[i];
	c->rows = s->rows, c->cols = s->cols, c->spike = s->spike;
	return 0;
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
	                .solver = q->dev,
	                .refits = q->calibration ? q->calibration->refits : 0,
	                .dev = whit_plan_on_device(q->dev, row) ? q->dev : NULL};
	float *t = NULL, *scale = NULL;
	whit_fisher_sums sums;
	whit_core_rank rank;
	int rc = shared_rotation(q, &row->rot, &m->rot, e);
	if (!rc && row->spec.flags & WHIT_FRC_BALANCE) rc = balance_of(q, row, src, &t, &scale, e);
	j->balance = t;
	if (!rc && row->method->needs && !is_guided(q, row))
		rc = statistics(q, row, m, scale ? scale : columns_scale(q, row), &j->feedback, e);
	if (!rc) rc = shared_book(q, row, &m->codebook, e);
	if (!rc) rc = own_book(q, row, m, e);
	if (!rc) rc = whit_mat_alloc(m, e);
	int ranked = !rc;
	if (!rc) rc = rank_of(q, row, scale ? scale : columns_scale(q, row), &sums, &rank, e);
	j->core = &rank;
	if (!rc) rc = run_method(q, row, scale ? scale : columns_scale(q, row), j, e);
	if (ranked) whit_fisher_sums_free(&sums);
	j->balance = NULL, j->core = NULL;
	whit_free(t);
	whit_free(scale);
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
	return rc ? rc : run_method(q, row, columns_scale(q, row), j, e);
}

/* Weights are cut off before they are rounded, but for queries and keys, whose products it would change too far. A
 * tried row (below) has no role. */
static int is_clipped(const whit_encoder *q, const whit_plan_row *row) {
	const whit_calibration *c = q->calibration;
	if (!c || c->scaling != WHIT_SCALING_AWQ_CLIP || row->method->needs || row->rot.kind != WHIT_ROT_NONE) return 0;
	if (!row->role || !strcmp(row->role, "q_proj") || !strcmp(row->role, "k_proj")) return 0;
	return row->layer >= 0 && whit_calibration_has(c, row->w->name, row->layer) && whit_feedback_fits(&row->spec);
}

/* The same with the weights of src cut off. */
static int encode_clipped(whit_encoder *q, const whit_plan_row *row, const whit_weight *src, whit_mat *m, whit_job *j,
                          whit_err *e) {
	int64_t n, rows = src->mat.rows, cols = src->mat.cols;
	whit_mat as = {.spec = row->spec, .rows = rows, .cols = cols, .width = row->width};
	const whit_calibration_of w = whit_encoder_asks(q, row, &as);
	whit_weight cut = *src;
	double *h = NULL;
	*m = (whit_mat){0};
	float *x = whit_alloc((size_t)(rows * cols) * sizeof *x);
	whit_mat_decode(&src->mat, 0, rows, x);
	int rc = whit_calibration_hessian(q->calibration, &w, &h, &n, e);
	if (!rc) rc = shared_book(q, row, &as.codebook, e);
	if (!rc && whit_first_nonfinite(x, rows * cols) < 0) /* else the encoder refuses them, and says where */
		rc = whit_clip(x, rows, &as, h, row->rule->rule, e);
	cut.mat = whit_plan_floats(&src->mat, x);
	if (!rc) rc = encode(q, row, &cut, m, j, e);
	if (!rc) whit_weight_error(src, m, &j->err, &j->ref);
	whit_free(h);
	whit_free(x);
	return rc;
}

int whit_encoder_run(whit_encoder *q, const whit_plan_row *row, whit_mat *m, whit_job *j, whit_err *e) {
	float *copy;
	const whit_weight src = whit_encoder_source(q, row, &copy);
	int rc = is_clipped(q, row) ? encode_clipped(q, row, &src, m, j, e) : encode(q, row, &src, m, j, e);
	j->src = row->w;
	whit_free(copy);
	return rc;
}

/* ---- scaling ---- */

static whit_scaled *scaled(whit_encoder *q, const whit_weight *w, int64_t l) {
	whit_scaled *s = find_scaled(q, w);
	if (s) return s;
	s = whit_alloc(sizeof *s);
	*s = (whit_scaled){.next = q->scaled, .w = w, .layer = l};
	return q->scaled = s;
}

/* A fold's rows of the plan. */
typedef struct folded {
	const whit_fold *f;
	const whit_plan_row *reader[WHIT_FOLD_READERS], *maker, *vec; /* vec: the gain, or the bias, or NULL */
	whit_encoder *q;
	float *h; /* (cols, cols) */
} folded;

static const whit_plan_row *row_of(const whit_plan *p, const whit_program *program, int slot) {
	int64_t i = 0;
	if (slot < 0) return NULL;
	while (i < p->n && strcmp(p->row[i].w->name, program->slot[slot].name)) i++;
	return i < p->n ? &p->row[i] : NULL;
}

static int gets_codes(const whit_plan_row *row) { return row && !row->absent && !row->why_kept && !row->as_is; }

/* 0: one of them stays as it is. */
static int find_rows(folded *d, const whit_plan *p, const whit_program *program) {
	const whit_fold *f = d->f;
	int all = 1;
	for (int i = 0; i < f->n_reader; i++) all &= gets_codes(d->reader[i] = row_of(p, program, f->reader[i]));
	d->maker = row_of(p, program, f->maker);
	d->vec = row_of(p, program, f->norm >= 0 ? f->norm : f->bias);
	if (f->norm >= 0) return all && d->vec && d->vec->w->mat.rows == 1 && d->vec->w->mat.spec.fmt;
	return all && gets_codes(d->maker) && (f->bias < 0 || d->vec);
}

enum { TRIED_ROWS = 96 }; /* of a matrix, spread over it */

typedef struct tried {
	const folded *d;
	const float *w, *q, *s; /* (n, cols): rows, and decoded codes of their scaled columns; factors */
	double *loss;           /* n */
} tried;

static void tried_item(void *ctx, int64_t i, int worker) {
	const tried *t = ctx;
	int64_t n = t->d->f->cols;
	float *err = whit_alloc((size_t)(2 * n) * sizeof *err), *y = err + n;
	double sum = 0;
	(void)worker;
	for (int64_t c = 0; c < n; c++) err[c] = t->q[i * n + c] / t->s[c] - t->w[i * n + c];
	whit_multiply_add_cpu(y, n, err, n, t->d->h, n, 1, n, n);
	for (int64_t c = 0; c < n; c++) sum += (double)y[c] * err[c];
	t->loss[i] = sum;
	whit_free(err);
}

/* The loss of the nearest codes of some of a reader's rows, as of all of them. */
static int try_reader(const folded *d, const whit_plan_row *row, const float *s, double *loss, whit_err *e) {
	const whit_mat *m = &row->w->mat;
	int64_t n = WHIT_MIN(m->rows, TRIED_ROWS), cols = m->cols;
	float *x = whit_alloc((size_t)(3 * n * cols) * sizeof *x), *w = x + n * cols, *back = w + n * cols;
	whit_plan_row one = {.rule = row->rule, .spec = row->spec, .rot = row->rot, .width = row->width};
	whit_weight some = *row->w;
	whit_mat coded;
	whit_job j;
	for (int64_t i = 0; i < n; i++) {
		int64_t r = i * m->rows / n;
		whit_mat_decode(m, r, r + 1, w + i * cols);
		for (int64_t c = 0; c < cols; c++) x[i * cols + c] = w[i * cols + c] * s[c];
	}
	some.mat = (whit_mat){.rows = n, .cols = cols};
	some.mat = whit_plan_floats(&some.mat, x);
	one.w = &some;
	if (row->spec.fmt->record) one.spec = (whit_spec){&whit_format_bin, .bits = 1, .group = row->spec.group};
	int rc = (one.method = whit_method_find("nearest", e)) ? 0 : e->code;
	if (!rc) {
		rc = whit_encoder_run(d->q, &one, &coded, &j, e);
		if (!rc) whit_mat_decode(&coded, 0, n, back);
		whit_mat_free(&coded);
	}
	double *each = whit_alloc((size_t)n * sizeof *each), sum = 0;
	tried t = {d, w, back, s, each};
	if (!rc) whit_parallel(n, tried_item, &t);
	for (int64_t i = 0; i < n; i++) sum += each[i];
	*loss += sum * (double)m->rows / (double)n;
	whit_free(each);
	whit_free(x);
	return rc;
}

static int try_factors(void *ctx, const float *s, double *loss, whit_err *e) {
	const folded *d = ctx;
	int rc = whit_interrupted(e);
	*loss = 0;
	for (int i = 0; i < d->f->n_reader && !rc; i++) rc = try_reader(d, d->reader[i], s, loss, e);
	return rc;
}

/* The vector divided by s, as its type can hold it; s becomes what it was really divided by, where it is a gain. */
static int divide_vector(whit_scaled *v, const whit_fold *f, float *s, whit_err *e) {
	whit_mat one = v->w->mat;
	int64_t n = f->factors, zero = 0;
	float *x = v->vec = whit_alloc((size_t)(2 * n) * sizeof *x), *was = x + n;
	whit_mat_decode(&v->w->mat, 0, 1, was);
	for (int64_t c = 0; c < n; c++) x[c] = (was[c] + f->shift) / s[c] - f->shift;
	int rc = whit_mat_alloc(&one, e);
	if (rc) return rc;
	one.spec.fmt->encode(&one, 0, x, NULL, 0, &zero);
	whit_mat_decode(&one, 0, 1, x);
	for (int64_t c = 0; c < n && f->norm >= 0; c++) {
		float by = (was[c] + f->shift) / (x[c] + f->shift);
		int good = isfinite(by) && by > 0;
		s[c] = good ? by : 1;
		if (!good) x[c] = was[c];
	}
	one.spec.fmt->encode(&one, 0, x, NULL, 0, &zero);
	v->bytes = (uint8_t *)(uintptr_t)one.plane[0];
	return 0;
}

static int scale_fold(folded *d, whit_encoder *q, int64_t l, whit_err *e) {
	const whit_fold *f = d->f;
	const whit_spec *spec = &d->reader[0]->spec;
	const whit_mat *w[WHIT_FOLD_READERS];
	int64_t n, block = spec->fmt->block ? spec->fmt->block->weights : spec->group ? spec->group : f->cols;
	const char *size_of = whit_scaling_size(q->calibration->scaling);
	double *h, *size = NULL, r;
	const whit_calibration_of own = {.name = d->reader[0]->w->name};
	int rc = whit_calibration_hessian(q->calibration, &own, &h, &n, e);
	if (rc) return rc;
	if (size_of) rc = whit_calibration_sizes(q->calibration, own.name, size_of, &size, e);
	float *s = whit_alloc((size_t)f->factors * sizeof *s);
	d->h = whit_alloc((size_t)(n * n) * sizeof *d->h);
	for (int64_t i = 0; i < n * n; i++) d->h[i] = (float)h[i];
	for (int i = 0; i < f->n_reader; i++) w[i] = &d->reader[i]->w->mat;
	if (!rc) rc = whit_scaling_factors(s, q->calibration->scaling, f, h, size, w, block, try_factors, d, &r, e);
	if (!rc && d->vec) rc = divide_vector(scaled(q, d->vec->w, l), f, s, e);
	for (int i = 0; i < f->n_reader && !rc; i++) {
		whit_scaled *to = scaled(q, d->reader[i]->w, l);
		to->cols = whit_alloc((size_t)f->cols * sizeof *to->cols);
		whit_scaling_spread(to->cols, f, s);
	}
	if (!rc && d->maker) {
		whit_scaled *to = scaled(q, d->maker->w, l);
		to->rows = memcpy(whit_alloc((size_t)f->factors * sizeof *s), s, (size_t)f->factors * sizeof *s);
	}
	q->folds += !rc;
	if (!rc)
		whit_event("scaling",
		           json_pack("{s:I, s:s, s:s, s:f}", "layer", (json_int_t)l, "first", d->reader[0]->w->name,
		                     "kind", whit_scaling_name(q->calibration->scaling), "power", r));
	whit_free(d->h);
	whit_free(size);
	whit_free(h);
	whit_free(s);
	return rc;
}

int whit_encoder_scale(whit_encoder *q, const whit_plan *p, const whit_program *program, int64_t l, whit_err *e) {
	enum { MOST = 16 };
	whit_fold fold[MOST];
	whit_dev *dev = q->dev;
	int n = q->calibration && q->calibration->scaling ? whit_folds(program, fold, MOST) : 0, rc = 0;
	q->dev = NULL; /* few rows at a time */
	for (int i = 0; i < n && !rc; i++) {
		folded d = {.f = &fold[i], .q = q};
		if (find_rows(&d, p, program)) rc = scale_fold(&d, q, l, e);
	}
	q->dev = dev;
	return rc;
}

void whit_encoder_free(whit_encoder *q) {
	for (whit_scaled *s = q->scaled, *next; s; s = next) {
		next = s->next;
		whit_free(s->cols), whit_free(s->rows), whit_free(s->vec), whit_free(s->bytes);
		whit_free(s);
	}
	for (int64_t i = 0; i < q->n_rot; i++) whit_rotation_free(q->rot[i]);
	for (int64_t i = 0; i < q->n_book; i++) whit_free(q->book[i]);
	for (int i = 0; i < q->n_frc; i++) whit_free(q->frc[i]);
	whit_free(q->frc);
	for (int64_t i = 0; i < q->n_factors; i++) whit_free(q->factors[i]);
	whit_free(q->factors);
	whit_free(q->rot);
	whit_free(q->book);
	memset(q, 0, sizeof *q);
}
