/* plan: what becomes of every tensor of a model: policy comes from the recipe, sizes from formats. */
#include "calib/quantize_own.h"
#include <stdlib.h>
#include "cuda/dev.h"
#include "formats/blocks.h"
#include "formats/frc1.h"
#include "formats/safetensors.h"

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

/* The same from statistics, in the source's order, brought into the stored one's. */
static int plan_statistics(whit_plan_row *row, const whit_calibration *c, whit_err *e) {
	const whit_mat *m = &row->w->mat;
	int rc = whit_calibration_columns(c, row->w->name, m->rows, m->cols, &row->reordered, e);
	row->importance = row->reordered;
	if (row->reordered && row->changed && row->change.columns)
		whit_gguf_apply(&row->change, row->reordered, 1, m->cols);
	return rc;
}

/* The importance of the row's columns, counted. */
static int plan_importance(whit_plan *p, whit_plan_row *row, const whit_gguf_arch *a, const json_t *config,
                           whit_err *e) {
	const whit_calibration *c = p->target.calibration;
	int statistics = c && c->metric >= WHIT_METRIC_DIAG && row->method && !row->method->needs;
	if ((!p->target.imatrix && !statistics) || row->why_kept || row->as_is) return 0;
	if (row->rot.kind != WHIT_ROT_NONE) {
		p->rotated++;
		return 0;
	}
	if (statistics) {
		if (plan_statistics(row, c, e)) return e->code;
	} else {
		row->importance = whit_imatrix_find(p->target.imatrix, a, row->w->name, row->w->mat.cols, e);
		if (!row->importance && e->code) return e->code;
		if (row->importance && !p->target.gguf) plan_columns(row, a, config);
	}
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
	if (c->metric >= WHIT_METRIC_DIAG)
		return whit_fail(e, WHIT_EUSAGE,
		                 "tensor %s: method %s takes whole Hessians, need nearest for a metric of columns",
		                 row->w->name, row->method->name);
	if (c->guided && c->dir.path && row->method->needs != WHIT_NEEDS_HESSIAN)
		return whit_fail(e, WHIT_EUSAGE,
		                 "tensor %s: method %s has no use for guided Hessians of %s, need gptq or ldlq, or "
		                 "--text",
		                 row->w->name, row->method->name, c->dir.path);
	if (c->guided && row->rule->spec.fmt->record && whit_calibration_groups(c) > 1)
		return whit_fail(e, WHIT_EUSAGE,
		                 "tensor %s: %d groups of rows, but a record has its rows by class, need --groups 1",
		                 row->w->name, whit_calibration_groups(c));
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

int whit_plan_has_book(const whit_plan_row *row) {
	return !row->why_kept && !row->absent && (row->spec.fmt->needs_codebook || whit_frc_has_book(&row->spec));
}

static int same_book(const whit_plan_row *a, const whit_plan_row *b) {
	if (whit_frc_has_book(&a->spec) || whit_frc_has_book(&b->spec))
		return whit_plan_has_book(a) && whit_frc_same_book(&a->spec, &b->spec) && a->tier == b->tier;
	return !a->why_kept && !b->why_kept && a->spec.bits == b->spec.bits && a->rule->density == b->rule->density &&
	       (a->spec.group ? a->spec.group : a->width) == (b->spec.group ? b->spec.group : b->width);
}

int64_t whit_plan_books(const whit_plan_row *row, int64_t n) {
	int64_t bytes = 0;
	for (int64_t i = 0; i < n; i++) {
		int64_t j = 0;
		if (!whit_plan_has_book(&row[i])) continue;
		while (j < i && !same_book(&row[j], &row[i])) j++;
		if (j < i) continue;
		bytes += whit_frc_has_book(&row[i].spec) ? whit_frc_book_bytes(row[i].spec.group, row[i].spec.flags)
		                                         : 4ll << row[i].spec.bits;
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
		while (j < i && !(p->row[j].rule && whit_rotation_same(&p->row[j].rot, &p->row[i].rot))) j++;
		if (j == i && p->row[i].rot.kind == WHIT_ROT_HAAR_QR)
			bytes += p->row[i].rot.dim * p->row[i].rot.dim * 4;
	}
	return bytes;
}

whit_mat whit_plan_floats(const whit_mat *m, const void *x) {
	whit_err none;
	whit_mat f = {.rows = m->rows, .cols = m->cols, .width = m->cols};
	whit_spec_parse("f32", &f.spec, &none);
	f.plane[0] = x;
	f.row_bytes[0] = (size_t)m->cols * sizeof(float);
	return f;
}

int whit_plan_on_device(const whit_dev *dev, const whit_plan_row *row) {
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
		if (!whit_plan_on_device(d, row)) continue;
		if (row->changed)
			src = whit_plan_floats(&src, src.plane[0]); /* which is only asked whether it is there */
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

typedef struct tiered {
	double mean;
	int64_t row;
} tiered;

static int by_mean(const void *a, const void *b) {
	const tiered *x = a, *y = b;
	return x->mean != y->mean ? (x->mean > y->mean) - (x->mean < y->mean) : (x->row > y->row) - (x->row < y->row);
}

/* A codebook for each quarter of the records that have one, by Fisher information per weight (fabq.md 2.5). */
static int plan_tiers(whit_plan *p, whit_err *e) {
	const whit_calibration *c = p->target.calibration;
	if (!c || !c->tiers) return 0;
	tiered *t = whit_alloc((size_t)(p->n + 1) * sizeof *t);
	int64_t n = 0;
	int rc = 0;
	for (int64_t i = 0; i < p->n && !rc; i++) {
		whit_fisher_sums s;
		const whit_weight *w = p->row[i].w;
		if (!whit_plan_has_book(&p->row[i]) || !whit_frc_has_book(&p->row[i].spec)) continue;
		rc = whit_fisher_read(&c->fisher, w->name, w->mat.rows, w->mat.cols, &s, e);
		if (rc) break;
		t[n++] = (tiered){s.mean, i};
		whit_fisher_sums_free(&s);
	}
	qsort(t, (size_t)n, sizeof *t, by_mean);
	for (int64_t i = 0; i < n; i++) p->row[t[i].row].tier = (int)(i * WHIT_FRC_TIERS / n);
	whit_free(t);
	return rc;
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
	if (!rc) rc = plan_tiers(p, e);
	p->file_bytes = MANIFEST_HEAD + (t->gguf ? GGUF_TOKEN * m->vocab : 0);
	for (int64_t i = 0; i < p->n && !rc; i++) plan_count(p, &p->row[i]);
	if (!rc && !p->quantized && !t->gguf)
		rc = whit_fail(e, WHIT_EUSAGE, "%s: keeps every tensor, need a line that quantizes one", r->path);
	if (!rc) rc = plan_device(p, e);
	if (!rc && t->lora_rank) rc = whit_residual_plan(p, e);
	if (rc) {
		whit_plan_free(p);
		return rc;
	}
	qsort(p->row, (size_t)p->n, sizeof *p->row, by_layer);
	p->linear_bytes += whit_plan_books(p->row, p->n);
	if (!t->gguf) p->file_bytes += whit_plan_books(p->row, p->n);
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
