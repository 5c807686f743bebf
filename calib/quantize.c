/* Planning and running a quantization: policy comes from the recipe, codes from a method, bytes from a
 * format; this walks the tensors. */
#define _GNU_SOURCE
#include "calib/quantize.h"
#include "calib/fabq.h"
#include "cuda/dev.h"
#include "formats/blocks.h"
#include "formats/codebook.h"
#include "formats/measure.h"
#include "formats/safetensors.h"
#include "host/progress.h"

#include <stdlib.h>

/* ---- the plan ---- */

/* Manifest bytes per tensor, for the prediction only: a quantized entry has a dozen keys, others three. */
enum { MANIFEST_ENTRY = 420, MANIFEST_PASS = 150, MANIFEST_HEAD = 8192 };
/* And of a GGUF: name, shape, type and place of a tensor; text, type, score and merge of a token. */
enum { GGUF_INFO = 80, GGUF_TOKEN = 40 };

static int by_layer(const void *a, const void *b) {
	const whit_plan_row *x = a, *y = b;
	if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
	return strcmp(x->w->name, y->w->name);
}

static int64_t weight_count(const whit_weight *w) {
	int64_t n = 1;
	for (int i = 0; i < w->ndim; i++) n *= w->shape[i];
	return n;
}

int whit_plan_tensor(whit_plan_row *row, const whit_rule *u, whit_err *e) {
	const whit_mat *m = &row->w->mat;
	row->spec = u->spec;
	if (!row->method) row->method = u->method;
	row->width = m->cols;
	whit_spec_resolve(&row->spec, m->cols);
	int rc = whit_rotation_plan(&row->rot, u->rotation, u->seed, m->cols, row->spec.group, e);
	if (!rc && u->rotation != WHIT_ROT_NONE)
		row->width = (m->cols + row->rot.block - 1) / row->rot.block * row->rot.block;
	if (!rc) row->bytes = whit_spec_bytes(&row->spec, m->rows, row->width, 0, e);
	return rc || row->bytes < 0 ? whit_fail_in(e, "%s: tensor %s", row->w->file, row->w->name) : 0;
}

/* ---- the same for a GGUF ---- */

static int is_coded(const whit_spec *s) { return s->bits || s->fmt->block || s->fmt->record; }

/* Where the asked format's block does not divide the width: the format's fallback, then f16; where it has none, an
 * error, as in llama.cpp. */
static int plan_fallback(whit_plan *p, whit_plan_row *row, whit_err *e) {
	const struct whit_block *b = row->spec.fmt->block;
	if (!b || row->width % b->weights == 0 || !b->fallback) return 0; /* no fallback: sizing it says why */
	row->asked = row->spec;
	p->fallbacks++;
	int rc = whit_spec_parse(b->fallback, &row->spec, e);
	b = row->spec.fmt->block;
	if (!rc && b && row->width % b->weights) rc = whit_spec_parse("f16", &row->spec, e);
	return rc;
}

/* What a kept tensor is stored as: vectors as F32, which is all that llama.cpp takes; matrices as they are where a
 * GGUF has that type, else as floats that hold their values. */
static int keep_spec(whit_plan_row *row, whit_err *e) {
	const whit_weight *w = row->w;
	int matrix = row->cls != WHIT_CLASS_NONE;
	if (!w->mat.spec.fmt)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: type is %s, which is no number format", w->file,
		                 w->name, w->type ? w->type : whit_dtype_name(w->dtype));
	row->spec = w->mat.spec;
	if (!matrix || !whit_ggml_type_of_spec(&row->spec) || w->mat.rot)
		return whit_spec_parse(matrix && is_coded(&row->spec) ? "f16" : "f32", &row->spec, e);
	return 0;
}

/* The nearest codes instead of a method that needs statistics. */
static int plan_nearest(whit_plan *p, whit_plan_row *row, whit_err *e) {
	p->uncalibrated++;
	row->method = whit_method_find("nearest", e);
	return row->method ? 0 : e->code;
}

static int plan_gguf(whit_plan *p, whit_plan_row *row, const whit_gguf_arch *a, const json_t *config, int64_t head_dim,
                     whit_err *e) {
	const whit_weight *w = row->w;
	char format[32];
	int rc = 0;
	if (whit_gguf_name_from_hf(a, w->name, row->name))
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: a GGUF of %s has no such tensor", w->file, w->name,
		                 a->name);
	row->paired = whit_gguf_is_paired(a, w->name) ? head_dim : 0;
	row->changed = whit_gguf_change_of(a, config, w->name, &row->change);
	row->width = w->mat.cols;
	if (row->why_kept) {
		rc = keep_spec(row, e);
	} else {
		row->spec = row->rule->spec;
		whit_spec_resolve(&row->spec, w->mat.cols);
		rc = plan_fallback(p, row, e);
		whit_spec_name(&row->spec, format);
		if (!rc && !whit_ggml_type_of_spec(&row->spec))
			rc = whit_fail(e, WHIT_EUSAGE, "%s: tensor %s: format is %s, need a type of GGUF", w->file,
			               w->name, format);
		if (!rc && row->method->needs && !row->method->fits(&row->spec)) {
			p->calibrated--;
			rc = plan_nearest(p, row, e);
		}
		if (!rc && !row->method->fits(&row->spec))
			rc = whit_fail(e, WHIT_EUSAGE, "%s: tensor %s: method %s cannot fill format %s", w->file,
			               w->name, row->method->name, format);
	}
	if (rc) return rc;
	/* Codes that are there already are not chosen again: the second choice could only lose. */
	row->as_is = row->spec.fmt == w->mat.spec.fmt && !w->mat.rot && !row->changed;
	row->bytes = whit_spec_bytes(&row->spec, w->mat.rows, row->width, 0, e);
	return row->bytes < 0 ? whit_fail_in(e, "%s: tensor %s", w->file, w->name) : 0;
}

/* Query heads per key head and width of a head, off the first attention. */
static const whit_attr *attention_of(const whit_model *m) {
	for (int64_t l = 0; l < m->layers; l++)
		for (int i = 0; i < m->layer[l].n_node; i++)
			if (m->layer[l].node[i].op == whit_op_find("attention")) return &m->layer[l].node[i].a;
	return NULL;
}

static int makes_logits(const whit_model *m, const char *name) {
	for (int i = 0; i < m->head.n_slot; i++)
		if (m->head.slot[i].rows && !strcmp(m->head.slot[i].name, name)) return 1;
	return 0;
}

/* Importance is of columns as a GGUF has them; a directory's matrix may have them in another order. */
static void plan_columns(whit_plan_row *row, const whit_gguf_arch *a, const json_t *config) {
	int64_t n = row->w->mat.cols;
	whit_gguf_change c;
	if (!whit_gguf_change_of(a, config, row->w->name, &c) || !c.columns) return;
	row->reordered = whit_alloc((size_t)n * sizeof *row->reordered);
	memcpy(row->reordered, row->importance, (size_t)n * sizeof *row->reordered);
	c = whit_gguf_change_back(&c);
	whit_gguf_apply(&c, row->reordered, 1, n);
	row->importance = row->reordered;
}

/* The importance of the row's columns, counted. */
static int plan_importance(whit_plan *p, whit_plan_row *row, const whit_gguf_arch *a, const json_t *config,
                           whit_err *e) {
	if (!p->target.imatrix || row->why_kept || row->as_is) return 0;
	if (row->rot.kind != WHIT_ROT_NONE) {
		p->rotated++;
		return 0;
	}
	row->importance = whit_imatrix_find(p->target.imatrix, a, row->w->name, row->w->mat.cols, e);
	if (!row->importance && e->code) return e->code;
	if (row->importance && !p->target.gguf) plan_columns(row, a, config);
	*(row->importance ? &p->weighted : &p->unweighted) += 1;
	return 0;
}

/* A method that needs statistics has them of linear layers; elsewhere the nearest codes are chosen. */
static int plan_method(whit_plan *p, whit_plan_row *row, whit_err *e) {
	const whit_calibration *c = p->target.calibration;
	row->method = row->rule->method;
	if (!row->method->needs) return 0;
	if (!c)
		return whit_fail(e, WHIT_EUSAGE, "tensor %s: method %s needs calibration, give --text or --stats",
		                 row->w->name, row->method->name);
	if (whit_calibration_has(c, row->w->name, row->layer)) {
		p->calibrated++;
		return 0;
	}
	return plan_nearest(p, row, e);
}

static int plan_row(whit_plan *p, whit_plan_row *row, const whit_model *m, whit_recipe *r, const whit_gguf_arch *a,
                    whit_err *e) {
	const whit_weight *w = row->w;
	const whit_attr *heads = attention_of(m);
	int tied = makes_logits(m, m->embed.slot[0].name);
	row->cls = whit_model_role(m, w->name, &row->role, &row->layer);
	if (row->cls == WHIT_CLASS_EMBEDDING && makes_logits(m, w->name)) row->cls = WHIT_CLASS_HEAD;
	row->absent = w->alias || (p->target.gguf && !row->role);
	row->bytes = row->absent ? 0 : w->bytes;
	const whit_subject s = {.name = w->name,
	                        .cls = w->alias ? WHIT_CLASS_NONE : row->cls,
	                        .layer = row->layer,
	                        .layers = m->layers,
	                        .gqa = heads ? heads->heads / heads->kv_heads : 1,
	                        .arch = m->arch->name,
	                        .tied = tied,
	                        .imatrix = p->target.imatrix != NULL};
	row->rule = whit_recipe_match(r, &s, e);
	if (!row->rule && e->code) return e->code;
	row->why_kept = w->alias                       ? "tied"
	                : row->absent                  ? "not used"
	                : row->rule && row->rule->keep ? "recipe"
	                : row->rule                    ? NULL
	                                               : "not a matrix of weights";
	if (row->absent) return 0;
	if (!row->why_kept && plan_method(p, row, e)) return e->code;
	int rc = p->target.gguf  ? plan_gguf(p, row, a, m->config, heads ? heads->dim : 0, e)
	         : row->why_kept ? 0
	                         : whit_plan_tensor(row, row->rule, e);
	if (!rc) rc = plan_importance(p, row, a, m->config, e);
	if (!rc && !row->why_kept && !row->as_is && w->mat.spec.fmt && is_coded(&w->mat.spec)) p->requantized++;
	return rc;
}

/* Adds what a row costs in files. */
static void plan_count(whit_plan *p, const whit_plan_row *row) {
	int64_t n = weight_count(row->w);
	if (row->absent) return;
	p->params += n;
	if (p->target.gguf)
		p->file_bytes += (row->bytes + GGUF_INFO + 31) / 32 * 32;
	else
		p->file_bytes += row->bytes + (int64_t)whit_st_header_bound(row->w->name) +
		                 (row->why_kept ? MANIFEST_PASS : MANIFEST_ENTRY);
	if (row->why_kept) return;
	p->quantized++;
	p->linear_weights += n;
	p->linear_bytes += row->bytes;
}

static int same_rotation(const whit_rotation_spec *a, const whit_rotation_spec *b) {
	return a->kind == b->kind && a->seed == b->seed && a->dim == b->dim && a->block == b->block &&
	       a->base == b->base;
}

static int has_book(const whit_plan_row *row) {
	return !row->why_kept && !row->absent && (row->spec.fmt->needs_codebook || row->spec.book);
}

static int same_book(const whit_plan_row *a, const whit_plan_row *b) {
	if (a->spec.book || b->spec.book)
		return has_book(a) && a->spec.book == b->spec.book && a->spec.group == b->spec.group;
	return !a->why_kept && !b->why_kept && a->spec.bits == b->spec.bits && a->rule->density == b->rule->density &&
	       (a->spec.group ? a->spec.group : a->width) == (b->spec.group ? b->spec.group : b->width);
}

int64_t whit_plan_books(const whit_plan_row *row, int64_t n) {
	int64_t bytes = 0;
	for (int64_t i = 0; i < n; i++) {
		int64_t j = 0;
		if (!has_book(&row[i])) continue;
		while (j < i && !same_book(&row[j], &row[i])) j++;
		if (j < i) continue;
		bytes += row[i].spec.book ? whit_frc_book_bytes(row[i].spec.group) : 4ll << row[i].spec.bits;
	}
	return bytes;
}

/* Library code and heap that only the work touches, and pages mapped around the ones asked for: 25 MB measured
 * on a 500 M model. */
enum { PEAK_SLACK = 32 << 20 };

static int by_size_down(const void *a, const void *b) {
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x < y) - (x > y);
}

/* Memory on top of the process so far: the larger of the fingerprint's, one tensor per thread, and the work's,
 * which maps one source tensor and holds its planes and each thread's blocks. */
static int64_t plan_memory(const whit_plan *p) {
	int64_t *size = whit_alloc((size_t)p->n * sizeof *size), hashed = 0, work = 0;
	for (int64_t i = 0; i < p->n; i++) {
		const whit_plan_row *row = &p->row[i];
		int encoded = !row->absent && !row->as_is && (!row->why_kept || p->target.gguf);
		size[i] = row->absent
		                  ? 0
		                  : row->w->bytes + (row->changed ? weight_count(row->w) * (int64_t)sizeof(float) : 0);
		work = WHIT_MAX(work, size[i] + (encoded ? row->bytes + whit_method_scratch(row->width) : 0));
	}
	qsort(size, (size_t)p->n, sizeof *size, by_size_down);
	for (int64_t i = 0; i < WHIT_MIN(p->n, whit_threads()); i++) hashed += size[i];
	whit_free(size);
	return WHIT_MAX(hashed, work);
}

/* Bytes of the dense rotations, which all live until the end. */
static int64_t plan_rotations(const whit_plan *p) {
	int64_t bytes = 0;
	for (int64_t i = 0; i < p->n; i++) {
		int64_t j = 0;
		while (j < i && !(p->row[j].rule && same_rotation(&p->row[j].rot, &p->row[i].rot))) j++;
		if (j == i && p->row[i].rot.kind == WHIT_ROT_HAAR_QR)
			bytes += p->row[i].rot.dim * p->row[i].rot.dim * 4;
	}
	return bytes;
}

/* m's values, at x, as a matrix. */
static whit_mat floats_of(const whit_mat *m, const void *x) {
	whit_err none;
	whit_mat f = {.rows = m->rows, .cols = m->cols, .width = m->cols};
	whit_spec_parse("f32", &f.spec, &none);
	f.plane[0] = x;
	f.row_bytes[0] = (size_t)m->cols * sizeof(float);
	return f;
}

/* Whether a row is encoded on a device: not into other floats, which cost a CPU less than the way there, nor with
 * feedback. */
static int on_device(const whit_dev *dev, const whit_plan_row *row) {
	return dev && !row->absent && !row->why_kept && !row->as_is && is_coded(&row->spec) && !row->method->needs;
}

/* Predicts device_bytes. Error: the device has too little left. */
static int plan_device(whit_plan *p, whit_err *e) {
	whit_dev *d = p->target.dev;
	int64_t rotations = d ? plan_rotations(p) : 0, left = d ? (int64_t)whit_dev_left(d) : 0;
	for (int64_t i = 0; i < p->n; i++) {
		const whit_plan_row *row = &p->row[i];
		whit_mat src = row->w->mat, dst = {.spec = row->spec,
		                                   .cols = row->w->mat.cols,
		                                   .width = row->width,
		                                   .paired = row->paired};
		if (!on_device(d, row)) continue;
		if (row->changed) src = floats_of(&src, src.plane[0]); /* which is only asked whether it is there */
		int64_t need = rotations + whit_method_device_bytes(d, &src, &dst, &row->rot);
		if (need > left)
			return whit_fail(e, WHIT_ERESOURCE,
			                 "%s: tensor %s: device memory: is %.3f MB, need %.3f MB, rotations included",
			                 row->w->file, row->w->name, (double)left / 1e6, (double)need / 1e6);
		p->device_bytes = WHIT_MAX(p->device_bytes, need);
	}
	return 0;
}

/* Into a GGUF anything that can be decoded; a directory is made from what others made. */
static int check_source(const whit_model *m, const whit_target *t, whit_err *e) {
	if (t->gguf || m->ckpt.kind == WHIT_CKPT_HF || m->ckpt.kind == WHIT_CKPT_GGUF) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: is %s, already quantized, need a Hugging Face checkpoint or a GGUF",
	                 m->ckpt.path, whit_ckpt_kind_name(m->ckpt.kind));
}

int whit_plan_make(whit_plan *p, const whit_model *m, whit_recipe *r, const whit_target *t, whit_err *e) {
	const whit_gguf_arch *a = NULL;
	memset(p, 0, sizeof *p);
	p->target = *t;
	int rc = check_source(m, t, e);
	if (!rc && (t->gguf || t->imatrix) && !(a = whit_gguf_arch_find(m->arch->name, e)))
		rc = whit_fail_in(e, "%s", m->ckpt.path);
	if (rc) return rc;
	p->n = m->ckpt.n;
	p->row = whit_alloc((size_t)p->n * sizeof *p->row);
	for (int64_t i = 0; i < p->n && !rc; i++) {
		p->row[i].w = &m->ckpt.w[i];
		rc = plan_row(p, &p->row[i], m, r, a, e);
	}
	if (!rc) rc = whit_recipe_idle(r, e);
	p->file_bytes = MANIFEST_HEAD + (t->gguf ? GGUF_TOKEN * m->vocab : 0);
	for (int64_t i = 0; i < p->n && !rc; i++) plan_count(p, &p->row[i]);
	if (!rc && !p->quantized && !t->gguf)
		rc = whit_fail(e, WHIT_EUSAGE, "%s: keeps every tensor, need a line that quantizes one", r->path);
	if (!rc) rc = plan_device(p, e);
	if (rc) {
		whit_plan_free(p);
		return rc;
	}
	qsort(p->row, (size_t)p->n, sizeof *p->row, by_layer);
	p->linear_bytes += whit_plan_books(p->row, p->n);
	p->bpw_linear = p->quantized ? 8.0 * (double)p->linear_bytes / (double)p->linear_weights : 0;
	p->bpw_file = 8.0 * (double)p->file_bytes / (double)p->params;
	p->peak_bytes = whit_peak_rss() + plan_memory(p) + plan_rotations(p) + PEAK_SLACK;
	return 0;
}

void whit_plan_free(whit_plan *p) {
	for (int64_t i = 0; i < p->n; i++) whit_free(p->row[i].reordered);
	whit_free(p->row);
	memset(p, 0, sizeof *p);
}

/* ---- the run ---- */

typedef struct whit_shared_book {
	int bits, density;
	int64_t dim;
	float value[256];
} shared_codebook;

static int shared_rotation(whit_encoder *q, const whit_rotation_spec *s, const whit_rotation **out, whit_err *e) {
	*out = NULL;
	if (s->kind == WHIT_ROT_NONE) return 0;
	for (int64_t i = 0; i < q->n_rot && !*out; i++)
		if (same_rotation(whit_rotation_get(q->rot[i]), s)) *out = q->rot[i];
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

/* Codebooks of all records that the plan will have, one for each size of block. */
static int train_books(whit_encoder *q, const whit_plan *p, whit_err *e) {
	whit_fabq_source *s = whit_alloc((size_t)(p->n + 1) * sizeof *s);
	int rc = 0;
	for (int k = 0; k < WHIT_COUNT(q->frc) && !rc; k++) {
		int64_t n = 0, block = 64ll << k;
		for (int64_t i = 0; i < p->n && !rc; i++) {
			const whit_plan_row *row = &p->row[i];
			if (!has_book(row) || !row->spec.book || row->spec.group != block) continue;
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

/* The source of a row whose values change: floats of its own, at *copy, which the caller frees. */
static whit_weight changed_source(const whit_plan_row *row, float **copy) {
	whit_weight w = *row->w;
	*copy = NULL;
	if (!row->changed) return w;
	float *x = *copy = whit_alloc((size_t)(w.mat.rows * w.mat.cols) * sizeof *x);
	whit_mat_decode(&w.mat, 0, w.mat.rows, x);
	whit_gguf_apply(&row->change, x, w.mat.rows, w.mat.cols);
	w.mat = floats_of(&w.mat, x);
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
	                .dev = on_device(q->dev, row) ? q->dev : NULL};
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
	const whit_weight src = changed_source(row, &copy);
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

/* A matrix that stands in the calibrated model's place of its own. */
typedef struct placed {
	struct placed *next; /* the model borrows them where they are */
	const whit_plan_row *row;
	whit_mat mat, floats; /* floats: where the model has rows or columns in another order */
	whit_job job;
	double seconds;
} placed;

typedef struct quantize_run {
	const whit_plan *plan;
	whit_encoder encoder; /* its rotations and codebooks until the output is complete */
	whit_sink *sink;
	whit_quantize_stats *st;
	double err, ref;
	whit_progress *bar; /* NULL: calibration has one */
	double done;
	whit_model *running; /* texts run through it; NULL: none do */
	placed *placed;
} quantize_run;

/* The model's own order of what a GGUF's row stores. */
static int own_order(placed *p, whit_err *e) {
	const whit_gguf_change back = whit_gguf_change_back(&p->row->change);
	whit_mat_free(&p->floats);
	int rc = whit_mat_floats(&p->floats, &p->mat, e);
	if (rc || !back.block) return rc;
	whit_gguf_apply(&back, (float *)(uintptr_t)p->floats.plane[0], p->floats.rows, p->floats.cols);
	return 0;
}

/* The model goes on with p's codes. */
static int place(quantize_run *q, placed *p, whit_err *e) {
	int rc = p->row->changed ? own_order(p, e) : 0;
	return rc ? rc : whit_model_replace(q->running, p->row->w->name, p->row->changed ? &p->floats : &p->mat, e);
}

/* Gives the model its own matrices back, of layers (else of all). */
static void unplace(quantize_run *q, int layers) {
	whit_err none;
	for (placed **at = &q->placed, *p; (p = *at);) {
		if (layers && p->row->layer < 0) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		whit_model_replace(q->running, p->row->w->name, NULL, &none);
		whit_mat_free(&p->mat);
		whit_mat_free(&p->floats);
		whit_free(p);
	}
}

static double rel_mse_of(const whit_job *j) { return j->ref > 0 ? j->err / j->ref : 0; }

/* A tensor's codes to where results go. */
static int store_codes(quantize_run *q, const whit_plan_row *row, const whit_mat *m, const whit_job *j, double seconds,
                       whit_err *e) {
	char name[32];
	int rc = q->sink->add(q->sink, row, m, j->zero_groups, rel_mse_of(j), e);
	if (rc) return rc;
	q->err += j->err;
	q->ref += j->ref;
	q->st->weights += m->rows * m->cols;
	q->st->zero_groups += j->zero_groups;
	q->st->f32_scale_tensors += m->scale_f32;
	whit_spec_name(&row->spec, name);
	json_t *event =
	        json_pack("{s:s, s:s, s:s, s:I, s:f, s:I, s:b, s:f}", "name", row->w->name, "format", name, "method",
	                  row->method->name, "bytes", (json_int_t)row->bytes, "rel_mse", rel_mse_of(j), "zero_groups",
	                  (json_int_t)j->zero_groups, "scale_f32", m->scale_f32, "seconds", seconds);
	if (j->feedback) {
		q->st->loss += j->loss;
		q->st->loss_nearest += j->loss_nearest;
		q->st->rows += m->rows;
		q->st->rows_nearest += j->rows_nearest;
		json_object_set_new(event, "loss", json_real(j->loss));
		json_object_set_new(event, "loss_nearest", json_real(j->loss_nearest));
		json_object_set_new(event, "rows_nearest", json_integer(j->rows_nearest));
	}
	whit_event("tensor", event);
	return 0;
}

static int quantize_tensor(quantize_run *q, const whit_plan_row *row, double *rel_mse, whit_err *e) {
	whit_mat m;
	whit_job j;
	double start = whit_now();
	int rc = whit_encoder_run(&q->encoder, row, &m, &j, e);
	if (!rc) rc = store_codes(q, row, &m, &j, whit_now() - start, e);
	*rel_mse = rel_mse_of(&j);
	whit_mat_free(&m);
	return rc;
}

/* A kept tensor whose values go into other floats (a norm as F32), or into pairs: a vector's elements are then its
 * rows. */
static int convert_tensor(quantize_run *q, const whit_plan_row *row, whit_err *e) {
	float *copy;
	whit_weight src = changed_source(row, &copy);
	if (row->paired && src.mat.rows == 1) {
		src.mat.rows = src.mat.cols;
		src.mat.cols = src.mat.width = 1;
		src.mat.row_bytes[0] /= (size_t)src.mat.rows;
	}
	whit_mat m = {.spec = row->spec,
	              .rows = src.mat.rows,
	              .cols = src.mat.cols,
	              .width = src.mat.cols,
	              .paired = row->paired};
	whit_job j = {.src = &src, .dst = &m};
	int rc = whit_mat_alloc(&m, e);
	if (!rc) rc = whit_method_rows(&j, e);
	if (!rc && j.bad_scales)
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: tensor %s: %lld weights are beyond F16, need a line of the recipe for it",
		               row->w->file, row->w->name, (long long)j.bad_scales);
	if (!rc) rc = q->sink->add(q->sink, row, &m, 0, 0, e);
	whit_mat_free(&m);
	whit_free(copy);
	return rc;
}

/* A weight that stays as it is still has to be finite, where it is made of numbers that could be otherwise. */
static int pass_tensor(quantize_run *q, const whit_plan_row *row, whit_err *e) {
	if (row->spec.fmt && (!row->as_is || (row->paired && row->w->mat.rows == 1))) return convert_tensor(q, row, e);
	int rc = row->w->mat.spec.fmt ? whit_weight_finite(row->w, e) : 0;
	return rc ? rc : q->sink->pass(q->sink, row, e);
}

static int run_row(quantize_run *q, const whit_plan_row *row, whit_err *e) {
	double rel_mse = 0;
	if (row->absent) return 0;
	int rc = whit_interrupted(e);
	if (!rc) rc = row->why_kept || row->as_is ? pass_tensor(q, row, e) : quantize_tensor(q, row, &rel_mse, e);
	if (!row->why_kept && row->as_is) q->st->weights += row->w->mat.rows * row->w->mat.cols;
	whit_weight_drop(row->w);
	q->done += (double)row->w->bytes;
	if (rc || !q->bar) return rc;
	char *label = row->why_kept ? whit_format_text("%s kept", row->w->name)
	                            : whit_format_text("%s rel_mse %.3g", row->w->name, rel_mse);
	whit_progress_step(q->bar, q->done, label);
	whit_free(label);
	return 0;
}

static const placed *placed_of(const quantize_run *q, const whit_plan_row *row) {
	const placed *p = q->placed;
	while (p && p->row != row) p = p->next;
	return p;
}

/* Rows of that layer, which stand together, to where results go; those that are placed have their codes. */
static int run_layer(quantize_run *q, int64_t layer, whit_err *e) {
	const whit_plan *p = q->plan;
	int64_t i = 0;
	int rc = 0;
	while (i < p->n && p->row[i].layer < layer) i++;
	whit_event("layer_begin", json_pack("{s:I}", "layer", (json_int_t)layer));
	for (; i < p->n && p->row[i].layer == layer && !rc; i++) {
		const placed *x = placed_of(q, &p->row[i]);
		rc = x ? store_codes(q, x->row, &x->mat, &x->job, x->seconds, e) : run_row(q, &p->row[i], e);
	}
	return rc;
}

static int run_rows(quantize_run *q, int64_t layers, whit_err *e) {
	const whit_plan *p = q->plan;
	whit_progress bar;
	double total = 0;
	int rc = 0;
	for (int64_t i = 0; i < p->n; i++) total += p->row[i].absent ? 0 : (double)p->row[i].w->bytes;
	whit_progress_begin(&bar, p->target.gguf ? "export" : "quantize", total);
	q->bar = &bar;
	for (int64_t l = -1; l < layers && !rc; l++) rc = run_layer(q, l, e);
	whit_progress_end(&bar);
	return rc;
}

static int is_coded_row(const whit_plan_row *row) { return !row->absent && !row->why_kept && !row->as_is; }

/* Codes of all rows of that layer, in the model's places. */
static int place_layer(quantize_run *q, int64_t layer, whit_err *e) {
	const whit_plan *p = q->plan;
	int rc = 0;
	for (int64_t i = 0; i < p->n && !rc; i++) {
		const whit_plan_row *row = &p->row[i];
		if (row->layer != layer || !is_coded_row(row)) continue;
		double start = whit_now();
		placed *x = whit_alloc(sizeof *x);
		*x = (placed){.next = q->placed, .row = row};
		q->placed = x;
		rc = whit_encoder_run(&q->encoder, row, &x->mat, &x->job, e);
		x->seconds = whit_now() - start;
		if (!rc) rc = place(q, x, e);
		whit_weight_drop(row->w);
	}
	return rc;
}

/* Squared error of codes that have changed since. */
static void measure(const whit_weight *src, const whit_mat *m, whit_job *j) {
	float *x = whit_alloc((size_t)(2 * m->cols) * sizeof *x), *y = x + m->cols;
	j->err = 0;
	for (int64_t r = 0; r < m->rows; r++) {
		whit_mat_decode(&src->mat, r, r + 1, x);
		whit_mat_decode(m, r, r + 1, y);
		j->err += whit_sum_squares_cpu(x, y, m->cols);
	}
	whit_free(x);
}

/* What a placed matrix is to reconstruction: itself, or its classes of rows. */
typedef struct rebuilt {
	placed *p;
	whit_weight src;
	float *copy;
	whit_fabq_part part[WHIT_FABQ_PARTS]; /* of a record */
} rebuilt;

/* Adds b's items; returns their number. */
static int take_apart(rebuilt *b, whit_latent_item *item, whit_err *e) {
	placed *p = b->p;
	int n = 0;
	b->src = changed_source(p->row, &b->copy);
	*item = (whit_latent_item){.name = p->row->w->name,
	                           .src = &b->src,
	                           .mat = &p->mat,
	                           .change = p->row->changed ? &p->row->change : NULL};
	if (!p->mat.spec.fmt->record) return 1;
	int rc = whit_fabq_split(b->part, &p->mat, &b->src, e);
	for (int i = 0; i < WHIT_FABQ_PARTS && !rc; i++)
		if (b->part[i].mat.rows)
			item[n++] = (whit_latent_item){.name = p->row->w->name,
			                               .src = &b->part[i].src,
			                               .mat = &b->part[i].mat,
			                               .row = b->part[i].row};
	return rc ? rc : n;
}

/* Placed matrices that have codes, of that layer or (-1) of all, apart: *n of them, *items items. The caller frees b by
 * put_together, item by whit_free, also after an error. */
static int take_layer_apart(quantize_run *q, int64_t layer, rebuilt **b, int *n, whit_latent_item **item, int *items,
                            whit_err *e) {
	size_t most = 1;
	int rc = 0;
	for (const placed *p = q->placed; p; p = p->next) most++;
	*n = *items = 0;
	*b = whit_alloc(most * sizeof **b);
	*item = whit_alloc(most * WHIT_FABQ_PARTS * sizeof **item);
	for (placed *p = q->placed; p && rc >= 0; p = p->next) {
		if (p->row->layer < 0 || (layer >= 0 && p->row->layer != layer)) continue;
		if (!whit_feedback_fits(&p->row->spec) && !p->mat.spec.fmt->record) continue;
		(*b)[*n].p = p;
		rc = take_apart(&(*b)[(*n)++], *item + *items, e);
		*items += WHIT_MAX(rc, 0);
	}
	return WHIT_MIN(rc, 0);
}

/* What was trained goes on in the model; changed: it may be other codes. */
static int put_together(quantize_run *q, rebuilt *b, int n, int changed, int rc, whit_err *e) {
	for (int i = 0; i < n; i++) {
		placed *p = b[i].p;
		if (!rc && changed && p->mat.spec.fmt->record) whit_fabq_join(&p->mat, b[i].part);
		if (!rc && changed) measure(&b[i].src, &p->mat, &p->job);
		if (!rc) rc = place(q, p, e);
		whit_free(b[i].copy);
		whit_fabq_free(b[i].part);
	}
	whit_free(b);
	return rc;
}

/* The layer's codes (floats stay what they are) fitted to its outputs. */
static int rebuild_layer(quantize_run *q, int64_t layer, const whit_stats_states *x, whit_err *e) {
	const whit_reconstruct_opts *o = &q->encoder.calibration->reconstruct;
	whit_reconstruct_result r = {0};
	whit_latent_item *item;
	rebuilt *b;
	int n, items, rc = take_layer_apart(q, layer, &b, &n, &item, &items, e);
	if (!rc) rc = whit_reconstruct(q->running, layer, x, item, items, o, &r, e);
	rc = put_together(q, b, n, r.steps > 0, rc, e);
	whit_free(item);
	if (rc || !n) return rc;
	q->st->rebuilt_before += r.before;
	q->st->rebuilt_after += r.after;
	q->st->rebuilt++;
	whit_event("reconstruct", json_pack("{s:I, s:f, s:f, s:I}", "layer", (json_int_t)layer, "before", r.before,
	                                    "after", r.after, "steps", (json_int_t)r.steps));
	return 0;
}

/* All layers' codes fitted to the original's distribution. */
static int distill_model(quantize_run *q, const whit_stats_states *x, whit_err *e) {
	const whit_calibration *c = q->encoder.calibration;
	whit_distill_result *r = &q->st->distilled;
	whit_latent_item *item;
	rebuilt *b;
	int n, items, rc = take_layer_apart(q, -1, &b, &n, &item, &items, e);
	if (!rc) rc = whit_distill(q->running, c->original, x, item, items, &c->distill, r, e);
	rc = put_together(q, b, n, r->steps > 0, rc, e);
	whit_free(item);
	if (!rc)
		whit_event("distill", json_pack("{s:f, s:f, s:I}", "before", r->before, "after", r->after, "steps",
		                                (json_int_t)r->steps));
	return rc;
}

/* Codes of layers wait in the model's places where the whole is to be distilled, else only until the next is known. */
static int layer_known(void *ctx, const whit_stats *s, int64_t layer, const whit_stats_states *x, whit_err *e) {
	quantize_run *q = ctx;
	whit_calibration *c = q->encoder.calibration;
	int wait = c->distill.steps > 0;
	c->live = s;
	if (!wait) unplace(q, 1);
	int rc = place_layer(q, layer, e);
	if (!rc && c->reconstruct.steps) rc = rebuild_layer(q, layer, x, e);
	if (rc || !wait) return rc ? rc : run_layer(q, layer, e);
	if (layer + 1 < q->running->layers) return 0;
	rc = distill_model(q, x, e);
	for (int64_t l = 0; l <= layer && !rc; l++) rc = run_layer(q, l, e);
	return rc;
}

/* Texts run through the model and the rows are quantized as they come by. */
static int run_texts(quantize_run *q, whit_err *e) {
	whit_calibration *c = q->plan->target.calibration;
	whit_stats s;
	unsigned needs = 0;
	for (int64_t i = 0; i < q->plan->n; i++)
		if (q->plan->row[i].method) needs |= q->plan->row[i].method->needs;
	c->o.kinds = (needs ? WHIT_STAT_HESSIAN : WHIT_STAT_DIAG) | (needs & WHIT_NEEDS_CROSS ? WHIT_STAT_CROSS : 0);
	c->o.other = needs & WHIT_NEEDS_CROSS || c->reconstruct.steps || c->distill.steps ? c->original : NULL;
	c->o.layer = layer_known;
	c->o.ctx_layer = q;
	q->running = c->running;
	int rc = place_layer(q, -1, e);
	if (!rc) rc = run_layer(q, -1, e);
	if (!rc) rc = whit_stats_run(&s, c->running, c->tok, c->text, c->n_text, &c->o, e);
	if (!rc) whit_stats_free(&s);
	c->live = NULL;
	unplace(q, 0);
	return rc;
}

int whit_quantize_run(const whit_plan *p, const whit_model *m, const whit_recipe *r, whit_sink *sink,
                      whit_quantize_stats *st, whit_err *e) {
	whit_calibration *c = p->target.calibration;
	quantize_run q = {.plan = p, .st = st, .sink = sink, .encoder = {.dev = p->target.dev, .calibration = c}};
	double start = whit_now();
	memset(st, 0, sizeof *st);
	int rc = sink->open(sink, p, m, r, st, e);
	if (!rc) rc = train_books(&q.encoder, p, e);
	if (!rc)
		rc = c && !c->dir.path && (p->calibrated || c->reconstruct.steps || c->distill.steps)
		             ? run_texts(&q, e)
		             : run_rows(&q, m->layers, e);
	if (!rc) rc = whit_ckpt_check(&m->ckpt, e);
	if (!rc)
		rc = sink->commit(sink, e);
	else
		sink->abort(sink);

	whit_encoder_free(&q.encoder);
	st->rel_mse = q.ref > 0 ? q.err / q.ref : 0;
	st->seconds = whit_now() - start;
	return rc;
}
