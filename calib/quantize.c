/* Planning and running a quantization: policy comes from the recipe, codes from a method, bytes from a
 * format; this walks the tensors. */
#define _GNU_SOURCE
#include "calib/quantize.h"
#include "formats/codebook.h"
#include "formats/packed.h"
#include "formats/safetensors.h"
#include "host/progress.h"

#include <stdlib.h>

/* ---- the plan ---- */

/* Manifest bytes per tensor, for the prediction only: a quantized entry has a dozen keys, others three. */
enum { MANIFEST_ENTRY = 420, MANIFEST_PASS = 150, MANIFEST_HEAD = 8192 };

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

/* Format, rotation and bytes of a tensor that rule u quantizes. */
static int plan_tensor(whit_plan_row *row, const whit_rule *u, whit_err *e) {
	const whit_mat *m = &row->w->mat;
	row->spec = u->spec;
	row->width = m->cols;
	whit_spec_resolve(&row->spec, m->cols);
	int rc = whit_rotation_plan(&row->rot, u->rotation, u->seed, m->cols, row->spec.group, e);
	if (!rc && u->rotation != WHIT_ROT_NONE)
		row->width = (m->cols + row->rot.block - 1) / row->rot.block * row->rot.block;
	if (!rc) row->bytes = whit_spec_bytes(&row->spec, m->rows, row->width, 0, e);
	return rc || row->bytes < 0 ? whit_fail_in(e, "%s: tensor %s", row->w->file, row->w->name) : 0;
}

static int plan_row(whit_plan_row *row, const whit_model *m, whit_recipe *r, whit_err *e) {
	const whit_weight *w = row->w;
	row->cls = whit_model_role(m, w->name, &row->role, &row->layer);
	row->bytes = w->alias ? 0 : w->bytes;
	row->rule = whit_recipe_match(r, w->name, w->alias ? WHIT_CLASS_NONE : row->cls, e);
	if (!row->rule && e->code) return e->code;
	row->why_kept = w->alias                       ? "tied"
	                : row->rule && row->rule->keep ? "recipe"
	                : row->rule                    ? NULL
	                                               : "not a matrix of weights";
	return row->why_kept ? 0 : plan_tensor(row, row->rule, e);
}

/* Adds what a row costs in files. */
static void plan_count(whit_plan *p, const whit_plan_row *row) {
	int64_t n = weight_count(row->w);
	if (row->w->alias) return;
	p->params += n;
	p->file_bytes += row->bytes + (int64_t)whit_st_header_bound(row->w->name);
	if (row->why_kept) {
		p->file_bytes += MANIFEST_PASS;
		return;
	}
	p->quantized++;
	p->linear_weights += n;
	p->linear_bytes += row->bytes;
	p->file_bytes += MANIFEST_ENTRY;
}

static int same_rotation(const whit_rotation_spec *a, const whit_rotation_spec *b) {
	return a->kind == b->kind && a->seed == b->seed && a->dim == b->dim && a->block == b->block &&
	       a->base == b->base;
}

static int same_book(const whit_plan_row *a, const whit_plan_row *b) {
	return !a->why_kept && !b->why_kept && a->spec.bits == b->spec.bits && a->rule->density == b->rule->density &&
	       (a->spec.group ? a->spec.group : a->width) == (b->spec.group ? b->spec.group : b->width);
}

/* Bytes of the codebooks, each once. */
static int64_t plan_books(const whit_plan *p) {
	int64_t bytes = 0;
	for (int64_t i = 0; i < p->n; i++) {
		int64_t j = 0;
		if (p->row[i].why_kept || !p->row[i].spec.fmt->needs_codebook) continue;
		while (j < i && !same_book(&p->row[j], &p->row[i])) j++;
		bytes += j == i ? 4ll << p->row[i].spec.bits : 0;
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
		int64_t block = row->why_kept ? 0 : whit_method_scratch(row->width);
		size[i] = row->w->alias ? 0 : row->w->bytes;
		work = WHIT_MAX(work, size[i] + (row->why_kept ? 0 : row->bytes) + block);
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

/* A GGUF may hold blocks: what their making lost cannot be had back. */
static void warn_quantized(const whit_ckpt *c) {
	const whit_weight *first = NULL;
	int64_t n = 0;
	for (int64_t i = 0; i < c->n; i++) {
		if (c->w[i].passthrough) continue;
		if (!n++) first = &c->w[i];
	}
	if (!n) return;
	whit_say("warning: %s: %lld of %lld tensors are quantized already (%s is %s): losses add up", c->path,
	         (long long)n, (long long)c->n, first->name, first->type);
	whit_event("warn", json_pack("{s:s, s:I}", "what", "quantized_source", "tensors", (json_int_t)n));
}

int whit_plan_make(whit_plan *p, const whit_model *m, whit_recipe *r, whit_err *e) {
	int rc = 0;
	memset(p, 0, sizeof *p);
	if (m->ckpt.kind != WHIT_CKPT_HF && m->ckpt.kind != WHIT_CKPT_GGUF)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: is %s, already quantized, need a Hugging Face checkpoint or a GGUF", m->ckpt.path,
		                 whit_ckpt_kind_name(m->ckpt.kind));
	warn_quantized(&m->ckpt);
	p->n = m->ckpt.n;
	p->row = whit_alloc((size_t)p->n * sizeof *p->row);
	for (int64_t i = 0; i < p->n && !rc; i++) {
		p->row[i].w = &m->ckpt.w[i];
		rc = plan_row(&p->row[i], m, r, e);
	}
	if (!rc) rc = whit_recipe_idle(r, e);
	p->file_bytes = MANIFEST_HEAD;
	for (int64_t i = 0; i < p->n && !rc; i++) plan_count(p, &p->row[i]);
	if (!rc && !p->quantized)
		rc = whit_fail(e, WHIT_EUSAGE, "%s: keeps every tensor, need a line that quantizes one", r->path);
	if (rc) {
		whit_plan_free(p);
		return rc;
	}
	qsort(p->row, (size_t)p->n, sizeof *p->row, by_layer);
	p->linear_bytes += plan_books(p);
	p->bpw_linear = 8.0 * (double)p->linear_bytes / (double)p->linear_weights;
	p->bpw_file = 8.0 * (double)p->file_bytes / (double)p->params;
	p->peak_bytes = whit_peak_rss() + plan_memory(p) + plan_rotations(p) + PEAK_SLACK;
	return 0;
}

void whit_plan_free(whit_plan *p) {
	whit_free(p->row);
	memset(p, 0, sizeof *p);
}

/* ---- the run ---- */

/* Rotations and codebooks, one per distinct kind, until the output is complete. */
typedef struct shared_codebook {
	int bits, density;
	int64_t dim;
	float value[256];
} shared_codebook;

typedef struct quantize_run {
	whit_rotation **rot;
	shared_codebook **book;
	int64_t n_rot, n_book;
	whit_packed_out *out;
	whit_quantize_stats *st;
	double err, ref;
} quantize_run;

static int shared_rotation(quantize_run *q, const whit_rotation_spec *s, const whit_rotation **out, whit_err *e) {
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

static int shared_book(quantize_run *q, const whit_plan_row *row, const float **out, whit_err *e) {
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

/* Encodes one tensor into planes of its own, with F32 scales if an F16 cannot hold one of them. */
static int encode_tensor(quantize_run *q, const whit_plan_row *row, whit_mat *m, whit_job *j, whit_err *e) {
	*m = (whit_mat){.spec = row->spec, .rows = row->w->mat.rows, .cols = row->w->mat.cols, .width = row->width};
	*j = (whit_job){.src = row->w, .dst = m, .rule = row->rule->rule};
	int rc = shared_rotation(q, &row->rot, &m->rot, e);
	if (!rc) rc = shared_book(q, row, &m->codebook, e);
	if (!rc) rc = whit_mat_alloc(m, e);
	if (!rc) rc = row->rule->method->run(j, e);
	if (rc || !j->bad_scales) return rc;
	if (!m->spec.bits)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: tensor %s: %lld weights are beyond what its format holds, need another format",
		                 row->w->file, row->w->name, (long long)j->bad_scales);

	whit_say("warning: %s: %lld scales do not fit F16, F32 is used for this tensor", row->w->name,
	         (long long)j->bad_scales);
	whit_event("warn", json_pack("{s:s, s:s, s:I}", "tensor", row->w->name, "what", "f32_scales", "scales",
	                             (json_int_t)j->bad_scales));
	q->st->f32_scale_tensors++;
	whit_mat_free(m);
	m->scale_f32 = 1;
	rc = whit_mat_alloc(m, e);
	return rc ? rc : row->rule->method->run(j, e);
}

static int quantize_tensor(quantize_run *q, const whit_plan_row *row, double *rel_mse, whit_err *e) {
	whit_mat m;
	whit_job j;
	char name[32];
	double start = whit_now();
	int rc = encode_tensor(q, row, &m, &j, e);
	*rel_mse = j.ref > 0 ? j.err / j.ref : 0;
	if (!rc) rc = whit_packed_add(q->out, row->w, &m, j.zero_groups, *rel_mse, e);
	whit_mat_free(&m);
	if (rc) return rc;
	q->err += j.err;
	q->ref += j.ref;
	q->st->weights += m.rows * m.cols;
	q->st->zero_groups += j.zero_groups;
	whit_spec_name(&row->spec, name);
	whit_event("tensor",
	           json_pack("{s:s, s:s, s:I, s:f, s:I, s:b, s:f}", "name", row->w->name, "format", name, "bytes",
	                     (json_int_t)row->bytes, "rel_mse", *rel_mse, "zero_groups", (json_int_t)j.zero_groups,
	                     "scale_f32", m.scale_f32, "seconds", whit_now() - start));
	return 0;
}

/* A weight that stays as it is still has to be finite, where it is made of numbers that could be otherwise. */
static int pass_tensor(quantize_run *q, const whit_plan_row *row, whit_err *e) {
	int rc = row->w->mat.spec.fmt ? whit_weight_finite(row->w, e) : 0;
	return rc ? rc : whit_packed_pass(q->out, row->w, e);
}

static int run_rows(quantize_run *q, const whit_plan *p, whit_err *e) {
	whit_progress bar;
	double total = 0, done = 0;
	int rc = 0;
	for (int64_t i = 0; i < p->n; i++) total += p->row[i].w->alias ? 0 : (double)p->row[i].w->bytes;
	whit_progress_begin(&bar, "quantize", total);
	for (int64_t i = 0, layer = -1; i < p->n && !rc; i++) {
		const whit_plan_row *row = &p->row[i];
		if (row->w->alias) continue;
		if (row->layer != layer)
			whit_event("layer_begin", json_pack("{s:I}", "layer", (json_int_t)(layer = row->layer)));
		double rel_mse = 0;
		if ((rc = whit_interrupted(e))) break;
		rc = row->why_kept ? pass_tensor(q, row, e) : quantize_tensor(q, row, &rel_mse, e);
		whit_weight_drop(row->w);
		done += (double)row->w->bytes;
		char *label = row->why_kept ? whit_format_text("%s kept", row->w->name)
		                            : whit_format_text("%s rel_mse %.3g", row->w->name, rel_mse);
		if (!rc) whit_progress_step(&bar, done, label);
		whit_free(label);
	}
	whit_progress_end(&bar);
	return rc;
}

/* What all quantized tensors share goes into the manifest's head; the recipe beside it has the rest. */
static void describe(const whit_plan *p, whit_packed_info *info, int *all_tq) {
	const whit_rule *first = NULL;
	*all_tq = 1;
	for (int64_t i = 0; i < p->n; i++) {
		const whit_rule *u = p->row[i].rule;
		if (p->row[i].why_kept) continue;
		if (strcmp(u->spec.fmt->name, "tq")) *all_tq = 0;
		if (!first) {
			first = u;
			info->method = u->method->id;
			info->scale = whit_scale_name(u->rule);
			info->density = whit_density_name(u->density);
		}
		if (u->method != first->method) info->method = "mixed";
		if (u->rule != first->rule) info->scale = "mixed";
		if (u->density != first->density) info->density = "mixed";
	}
}

int whit_quantize_run(const whit_plan *p, const whit_model *m, const whit_recipe *r, const whit_outdir *dir,
                      whit_quantize_stats *st, whit_err *e) {
	quantize_run q = {.st = st};
	whit_packed_info info = {0};
	int all_tq;
	double start = whit_now();
	memset(st, 0, sizeof *st);

	int rc = whit_ckpt_fingerprint(&m->ckpt, st->fingerprint, e);
	if (rc) return rc;
	char *real = realpath(m->ckpt.path, NULL);
	const char *slash = real ? strrchr(real, '/') : NULL;
	char *text = whit_recipe_text(r);
	describe(p, &info, &all_tq);
	info.recipe = text;
	info.source_id = slash ? slash + 1 : m->ckpt.path;
	info.fingerprint = st->fingerprint;
	rc = whit_packed_open(&q.out, dir, &m->ckpt, all_tq, &info, e);
	if (!rc) rc = run_rows(&q, p, e);
	if (!rc) rc = whit_ckpt_check(&m->ckpt, e);
	if (!rc)
		rc = whit_packed_commit(q.out, e);
	else if (q.out)
		whit_packed_abort(q.out);

	for (int64_t i = 0; i < q.n_rot; i++) whit_rotation_free(q.rot[i]);
	for (int64_t i = 0; i < q.n_book; i++) whit_free(q.book[i]);
	whit_free(q.rot);
	whit_free(q.book);
	whit_free(text);
	free(real);
	st->rel_mse = q.ref > 0 ? q.err / q.ref : 0;
	st->seconds = whit_now() - start;
	return rc;
}
