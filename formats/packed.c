/* packed: writes weights as they come and keeps the manifest in memory (turboquant.md 7). No dates, no
 * machine's name: the same input and recipe give the same bytes. Refuses a weight that is added twice, never,
 * or not the source's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "formats/frc1.h"
#include "formats/gguf.h"
#include "formats/json.h"
#include "formats/packed.h"
#include "formats/safetensors.h"

typedef struct saved_rotation { /* what tells rotations apart; the caller may free its own */
	whit_rotation_spec spec;
	whit_hash hash; /* of the dense matrix, if it has one */
	float *dense;   /* (dim, dim), only for the sidecar */
} saved_rotation;

typedef struct saved_codebook {
	float *values; /* 1 << bits */
	int bits;
	int64_t dim;
} saved_codebook;

enum { FRC_BOOKS = 32 }; /* of an output, at most: four sizes of blocks, four tiers, two kinds */

typedef struct shape_count { /* how many tensors have this width and group */
	int bits, group;
	int64_t n;
} shape_count;

struct whit_packed_out {
	const whit_outdir *dir;
	const whit_ckpt *source;
	whit_packed_info info;
	int all_tq, sidecar;
	whit_st_out *st;
	json_t *rotations, *codebooks, *tensors, *passthrough;
	saved_rotation *rotation;
	saved_codebook *codebook;
	shape_count *count;
	int64_t n_rotation, n_codebook, n_count;
	const whit_frc_book *frc_book[FRC_BOOKS]; /* written already; borrowed */
	int n_frc_book;
	uint8_t *added; /* per source weight */
};

static const char SIDECAR[] = "turboquant_sidecar.safetensors";

/* "P.weight" -> "P"; whit_free it. */
static char *prefix_of(const char *name) {
	static const char tail[] = ".weight";
	size_t n = strlen(name), k = sizeof tail - 1;
	return whit_format_text("%.*s", (int)(n > k && !strcmp(name + n - k, tail) ? n - k : n), name);
}

/* Header bytes that any packing of the source can need. */
static size_t header_bound(const whit_ckpt *source, int all_tq) {
	size_t sum = 0, planes = all_tq ? 2 : WHIT_PLANES;
	for (int64_t i = 0; i < source->n; i++) {
		const whit_weight *w = &source->w[i];
		size_t one = whit_st_header_bound(w->name), suffix = 16;
		sum += w->alias ? 0 : w->mat.rows > 1 ? planes * (one + suffix) : one;
	}
	return sum + whit_st_header_bound("format") + whit_st_header_bound("whit-turboquant") +
	       FRC_BOOKS * whit_st_header_bound("frc_codebook.b1234.t1234.additive");
}

int whit_packed_open(whit_packed_out **out, const whit_outdir *dir, const whit_ckpt *source, int all_tq,
                     const whit_packed_info *info, whit_err *e) {
	whit_packed_out *o = whit_alloc(sizeof *o);
	*o = (whit_packed_out){.dir = dir, .source = source, .info = *info, .all_tq = all_tq};
	*out = NULL;
	o->sidecar = info->sidecar || json_is_string(json_object_get(source->manifest, "sidecar"));
	o->rotations = json_object();
	o->codebooks = json_object();
	o->tensors = json_array();
	o->passthrough = json_array();
	o->added = whit_alloc((size_t)source->n + 1);
	char *path = whit_outdir_file(dir, all_tq ? "turboquant_weights.safetensors" : "packed_weights.safetensors");
	int rc = whit_st_out_open(&o->st, path, header_bound(source, all_tq), e);
	whit_free(path);
	if (!rc) rc = whit_st_out_meta(o->st, "format", all_tq ? "whit-turboquant" : "whit-packed", e);
	if (rc)
		whit_packed_abort(o);
	else
		*out = o;
	return rc;
}

/* src must be a weight of the source that was not added before. */
static int mark(whit_packed_out *o, const whit_weight *src, whit_err *e) {
	/* As numbers: a pointer to another array's element may be any distance away. */
	uintptr_t away = (uintptr_t)src - (uintptr_t)o->source->w, i = away / sizeof *src;
	if (away % sizeof *src || i >= (uintptr_t)o->source->n || src->alias)
		return whit_fail(e, WHIT_EINTERNAL, "%s: tensor %s: is no weight of %s", o->dir->path, src->name,
		                 o->source->path);
	if (o->added[i])
		return whit_fail(e, WHIT_EINTERNAL, "%s: tensor %s: is added twice, need once", o->dir->path,
		                 src->name);
	o->added[i] = 1;
	return 0;
}

static json_t *shape_json(const whit_weight *w) {
	json_t *a = json_array();
	for (int i = 0; i < w->ndim; i++) json_array_append_new(a, json_integer(w->shape[i]));
	return a;
}

static int same_rotation(const saved_rotation *a, const saved_rotation *b) {
	return whit_rotation_same(&a->spec, &b->spec) && a->hash.hi == b->hash.hi && a->hash.lo == b->hash.lo;
}

/* The id of this rotation, new or known; rows of cols columns may have none. */
static int rotation_id(whit_packed_out *o, const char *name, const whit_rotation *rot, int64_t cols, char id[24],
                       whit_err *e) {
	saved_rotation r = {.spec = {.kind = WHIT_ROT_NONE, .dim = cols, .block = cols, .base = 1}};
	if (rot) r.spec = *whit_rotation_get(rot);
	const float *dense = rot ? whit_rotation_dense(rot) : NULL;
	size_t bytes = dense ? sizeof(float) * (size_t)(r.spec.dim * r.spec.dim) : 0;
	if (dense) r.hash = whit_hash_bytes(dense, bytes);
	int64_t i = 0;
	while (i < o->n_rotation && !same_rotation(&o->rotation[i], &r)) i++;
	snprintf(id, 24, "r%lld", (long long)i);
	if (i < o->n_rotation) return 0;
	if (r.spec.kind == WHIT_ROT_TQ3 || r.spec.seed > INT64_MAX)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: tensor %s: rotation is %s with seed %llu, need haar_qr, hadamard or none with a "
		                 "seed under 2^63",
		                 o->dir->path, name, whit_rotation_kind_name(r.spec.kind),
		                 (unsigned long long)r.spec.seed);
	if (dense && o->sidecar) r.dense = memcpy(whit_alloc(bytes), dense, bytes);
	o->rotation = whit_realloc(o->rotation, (size_t)i * sizeof r, (size_t)(i + 1) * sizeof r);
	o->rotation[o->n_rotation++] = r;
	json_object_set_new(o->rotations, id,
	                    json_pack("{s:s, s:I, s:I, s:I, s:i}", "kind", whit_rotation_kind_name(r.spec.kind), "seed",
	                              (json_int_t)r.spec.seed, "dim", (json_int_t)r.spec.dim, "block",
	                              (json_int_t)r.spec.block, "base", r.spec.base));
	return 0;
}

/* A float as JSON digits: the double it is, 17 significant digits, so it comes back bit for bit. */
static void codebook_id(whit_packed_out *o, const whit_mat *m, char id[24]) {
	int64_t i = 0, n = (int64_t)1 << m->spec.bits, dim = m->spec.group ? m->spec.group : m->width;
	while (i < o->n_codebook && !(o->codebook[i].bits == m->spec.bits && o->codebook[i].dim == dim &&
	                              !memcmp(o->codebook[i].values, m->codebook, sizeof(float) * (size_t)n)))
		i++;
	snprintf(id, 24, "c%lld", (long long)i);
	if (i < o->n_codebook) return;
	json_t *values = json_array();
	for (int64_t k = 0; k < n; k++) json_array_append_new(values, json_real((double)m->codebook[k]));
	o->codebook = whit_realloc(o->codebook, (size_t)i * sizeof *o->codebook, (size_t)(i + 1) * sizeof *o->codebook);
	float *copy = whit_alloc(sizeof(float) * (size_t)n);
	memcpy(copy, m->codebook, sizeof(float) * (size_t)n);
	o->codebook[o->n_codebook++] = (saved_codebook){copy, m->spec.bits, dim};
	json_object_set_new(o->codebooks, id,
	                    json_pack("{s:i, s:I, s:s, s:o}", "bits", m->spec.bits, "dim", (json_int_t)dim, "density",
	                              o->info.density ? o->info.density : "gaussian", "values", values));
}

static void count_spec(whit_packed_out *o, const whit_spec *s) {
	int64_t i = 0;
	while (i < o->n_count && (o->count[i].bits != s->bits || o->count[i].group != s->group)) i++;
	if (i == o->n_count) {
		o->count = whit_realloc(o->count, (size_t)i * sizeof *o->count, (size_t)(i + 1) * sizeof *o->count);
		o->count[o->n_count++] = (shape_count){s->bits, s->group, 0};
	}
	o->count[i].n++;
}

/* Rows of plane p in logical order, each without what may stand between them. */
static int write_rows(whit_packed_out *o, const whit_mat *m, int p, size_t row_bytes, whit_err *e) {
	int rc = 0;
	if (m->row_bytes[p] == row_bytes && !m->paired)
		return whit_st_out_write(o->st, m->plane[p], whit_plane_bytes(m, p), e);
	for (int64_t r = 0; r < m->rows && !rc; r++)
		rc = whit_st_out_write(o->st, m->plane[p] + (size_t)whit_mat_row(m, r) * m->row_bytes[p], row_bytes, e);
	return rc;
}

static int write_planes(whit_packed_out *o, const whit_weight *src, const char *prefix, const whit_mat *m,
                        whit_err *e) {
	whit_plane_desc d[WHIT_PLANES];
	int n = m->spec.fmt->planes(&m->spec, m->width, m->scale_f32, d, e), rc = 0;
	if (n < 0) return whit_fail_in(e, "%s: tensor %s", o->dir->path, src->name);
	for (int p = 0; p < n && !rc; p++) {
		int64_t shape[2] = {m->rows, d[p].cols};
		int ndim = 2;
		if (m->spec.fmt->record) shape[0] = (int64_t)whit_plane_bytes(m, p), ndim = 1;
		/* Plain numbers keep the tensor's own shape; blocks are bytes under its name. */
		int itself = !d[p].suffix[0], own = itself && !m->spec.fmt->block;
		char *name = itself ? whit_strdup(src->name) : whit_format_text("%s.%s", prefix, d[p].suffix);
		rc = whit_st_out_begin(o->st, name, d[p].dtype, own ? src->ndim : ndim, own ? src->shape : shape, e);
		whit_free(name);
		if (!rc) rc = write_rows(o, m, p, d[p].row_bytes, e);
	}
	return rc;
}

/* A record's codebook, before the first record that has it. */
static int write_frc_book(whit_packed_out *o, const whit_weight *src, const whit_mat *m, whit_err *e) {
	const whit_frc_book *b = m->book;
	int64_t bytes = whit_frc_book_bytes(b->block, m->spec.flags);
	char name[48];
	int i = 0;
	while (i < o->n_frc_book && o->frc_book[i] != b) i++;
	if (i < o->n_frc_book) return 0;
	whit_frc_book_name(b->block, b->tier, m->spec.flags, name);
	if (i == FRC_BOOKS)
		return whit_fail(e, WHIT_EINTERNAL, "%s: tensor %s: %s is one codebook too many", o->dir->path,
		                 src->name, name);
	o->frc_book[o->n_frc_book++] = b;
	uint8_t *data = whit_alloc((size_t)bytes);
	whit_frc_book_put(b, data);
	int rc = whit_st_out_begin(o->st, name, WHIT_U8, 1, &bytes, e);
	if (!rc) rc = whit_st_out_write(o->st, data, (size_t)bytes, e);
	whit_free(data);
	return rc;
}

int whit_packed_add(whit_packed_out *o, const whit_weight *src, const whit_mat *m, int64_t zero_groups, double rel_mse,
                    whit_err *e) {
	char rot[24], code[24], spec[32];
	int tq = !strcmp(m->spec.fmt->name, "tq"), rc = mark(o, src, e);
	if (!rc && o->all_tq && !tq) {
		whit_spec_name(&m->spec, spec);
		rc = whit_fail(e, WHIT_EINTERNAL, "%s: tensor %s: format is %s, need tq in this output", o->dir->path,
		               src->name, spec);
	}
	if (rc || (rc = rotation_id(o, src->name, m->rot, m->cols, rot, e))) return rc;
	if (m->spec.fmt->needs_codebook) codebook_id(o, m, code);
	if (m->book && (rc = write_frc_book(o, src, m, e))) return rc;
	whit_spec_name(&m->spec, spec);
	char *prefix = prefix_of(src->name);
	rc = write_planes(o, src, prefix, m, e);
	json_t *j = json_pack("{s:s, s:o, s:s, s:s}", "name", src->name, "shape", shape_json(src), "dtype",
	                      whit_dtype_name(src->dtype), "prefix", prefix);
	whit_free(prefix);
	if (!tq) json_object_set_new(j, "format", json_string(spec));
	json_object_set_new(j, "bits", json_integer(m->spec.bits));
	json_object_set_new(j, "group", json_integer(m->spec.group));
	json_object_set_new(j, "padded", json_integer(m->width));
	json_object_set_new(j, "rotation", json_string(rot));
	if (m->spec.fmt->needs_codebook) json_object_set_new(j, "codebook", json_string(code));
	json_object_set_new(j, "norm_dtype", json_string(m->scale_f32 ? "F32" : "F16"));
	json_object_set_new(j, "zero_groups", json_integer(zero_groups));
	json_object_set_new(j, "rel_mse", isfinite(rel_mse) ? json_real(rel_mse) : json_null());
	json_array_append_new(o->tensors, j);
	count_spec(o, &m->spec);
	return rc;
}

int whit_packed_pass(whit_packed_out *o, const whit_weight *src, const uint8_t *own, whit_err *e) {
	if (!src->passthrough && !src->mat.spec.fmt)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is %s, which whit lists and does not write", src->file,
		                 src->name, src->type);
	if (!src->passthrough) return whit_packed_add(o, src, &src->mat, src->zero_groups, src->rel_mse, e);
	int rc = mark(o, src, e);
	if (!rc) rc = whit_st_out_begin(o->st, src->name, src->dtype, src->ndim, src->shape, e);
	whit_mat m = src->mat;
	if (own) m.plane[0] = own;
	if (!rc) rc = write_rows(o, &m, 0, m.row_bytes[0], e);
	json_array_append_new(o->passthrough, json_pack("{s:s, s:s, s:o}", "name", src->name, "dtype",
	                                                whit_dtype_name(src->dtype), "shape", shape_json(src)));
	return rc;
}

/* ---- the end ---- */

static int write_sidecar(whit_packed_out *o, whit_err *e) {
	whit_st_out *st;
	char name[40];
	char *path = whit_outdir_file(o->dir, SIDECAR);
	size_t bound = (size_t)(o->n_rotation + o->n_codebook) * whit_st_header_bound("rotation.r0123456789012345678");
	int rc = whit_st_out_open(&st, path, bound, e);
	whit_free(path);
	if (rc) return rc;
	for (int64_t i = 0; i < o->n_rotation && !rc; i++) {
		int64_t d = o->rotation[i].spec.dim;
		if (!o->rotation[i].dense) continue;
		snprintf(name, sizeof name, "rotation.r%lld", (long long)i);
		rc = whit_st_out_begin(st, name, WHIT_F32, 2, (int64_t[]){d, d}, e);
		if (!rc) rc = whit_st_out_write(st, o->rotation[i].dense, sizeof(float) * (size_t)(d * d), e);
	}
	for (int64_t i = 0; i < o->n_codebook && !rc; i++) {
		int64_t n = (int64_t)1 << o->codebook[i].bits;
		snprintf(name, sizeof name, "codebook.c%lld", (long long)i);
		rc = whit_st_out_begin(st, name, WHIT_F32, 1, &n, e);
		if (!rc) rc = whit_st_out_write(st, o->codebook[i].values, sizeof(float) * (size_t)n, e);
	}
	if (!rc) return whit_st_out_commit(st, e);
	whit_st_out_abort(st);
	return rc;
}

/* JSON text or null; a path that is not UTF-8 becomes null too. */
static json_t *text_or_null(const char *s) {
	json_t *j = s ? json_string(s) : NULL;
	return j ? j : json_null();
}

static int write_manifest(whit_packed_out *o, whit_err *e) {
	shape_count most = {0};
	for (int64_t i = 0; i < o->n_count; i++)
		if (o->count[i].n > most.n) most = o->count[i];
	json_t *aliases = json_object();
	for (int64_t i = 0; i < o->source->n; i++)
		if (o->source->w[i].alias)
			json_object_set_new(aliases, o->source->w[i].name, json_string(o->source->w[i].alias));
	json_t *j =
	        json_pack("{s:s, s:i, s:{s:s, s:s}, s:o, s:i, s:i, s:o, s:s, s:O, s:O, s:O, s:O, s:o, s:{s:o, s:o, "
	                  "s:o}, s:o, s:o}",
	                  "format", o->all_tq ? "whit-turboquant" : "whit-packed", "format_version", 1, "program",
	                  "name", "whit", "version", WHIT_VERSION, "method", text_or_null(o->info.method), "bits",
	                  most.bits, "group", most.group, "scale", text_or_null(o->info.scale), "packing", "lsb_le",
	                  "rotations", o->rotations, "codebooks", o->codebooks, "tensors", o->tensors, "passthrough",
	                  o->passthrough, "aliases", aliases, "source", "id", text_or_null(o->info.source_id),
	                  "revision", json_null(), "fingerprint", text_or_null(o->info.fingerprint), "sidecar",
	                  o->sidecar ? json_string(SIDECAR) : json_null(), "recipe", text_or_null(o->info.recipe));
	char *path = whit_outdir_file(o->dir, "quant_manifest.json");
	int rc = whit_json_write(j, path, e);
	whit_free(path);
	json_decref(j);
	return rc;
}

/* A GGUF has no companions: its config is what was made of its metadata, its tokenizer a GGUF of metadata alone. */
static int write_companions(whit_packed_out *o, whit_err *e) {
	const whit_gguf *g = o->source->gguf;
	static const char *const about_weights[] = {"general.alignment", "general.file_type",
	                                            "general.quantization_version", "split.", "quantize."};
	whit_gguf_out *out;
	char *config = whit_outdir_file(o->dir, "config.json"), *tok = whit_outdir_file(o->dir, "tokenizer.gguf");
	int rc = whit_json_write(o->source->config, config, e);
	if (!rc && !(rc = whit_gguf_out_open(&out, tok, e))) {
		for (int64_t i = 0; i < g->n_kv && !rc; i++) {
			int skip = 0;
			for (int64_t k = 0; k < WHIT_COUNT(about_weights); k++)
				skip |= !strncmp(g->kv[i].key, about_weights[k], strlen(about_weights[k]));
			if (!skip) rc = whit_gguf_put_copy(out, &g->kv[i], e);
		}
		if (rc)
			whit_gguf_out_abort(out);
		else
			rc = whit_gguf_out_commit(out, e);
	}
	whit_free(config);
	whit_free(tok);
	return rc;
}

static int copy_companions(whit_packed_out *o, whit_err *e) {
	static const char *const file[] = {
	        "config.json",     "generation_config.json",  "tokenizer.json",     "tokenizer_config.json",
	        "tokenizer.model", "special_tokens_map.json", "added_tokens.json",  "vocab.json",
	        "merges.txt",      "chat_template.jinja",     "chat_template.json", "tokenizer.gguf"};
	int rc = 0;
	if (o->source->gguf) return write_companions(o, e);
	for (int64_t i = 0; i < WHIT_COUNT(file) && !rc; i++) {
		char *from = whit_format_text("%s/%s", o->source->path, file[i]),
		     *to = whit_outdir_file(o->dir, file[i]);
		if (whit_file_exists(from)) rc = whit_copy_file(from, to, e);
		whit_free(from);
		whit_free(to);
	}
	return rc;
}

int whit_packed_commit(whit_packed_out *o, whit_err *e) {
	int rc = 0;
	for (int64_t i = 0; i < o->source->n && !rc; i++)
		if (!o->added[i] && !o->source->w[i].alias)
			rc = whit_fail(e, WHIT_EINTERNAL, "%s: tensor %s: was never added", o->dir->path,
			               o->source->w[i].name);
	if (!rc) {
		rc = whit_st_out_commit(o->st, e);
		o->st = NULL;
	}
	if (!rc && o->sidecar) rc = write_sidecar(o, e);
	if (!rc) rc = copy_companions(o, e);
	if (!rc) rc = write_manifest(o, e);
	whit_packed_abort(o);
	return rc;
}

void whit_packed_abort(whit_packed_out *o) {
	if (!o) return;
	whit_st_out_abort(o->st);
	for (int64_t i = 0; i < o->n_rotation; i++) whit_free(o->rotation[i].dense);
	for (int64_t i = 0; i < o->n_codebook; i++) whit_free(o->codebook[i].values);
	whit_free(o->codebook);
	whit_free(o->rotation);
	whit_free(o->count);
	whit_free(o->added);
	json_decref(o->rotations);
	json_decref(o->codebooks);
	json_decref(o->tensors);
	json_decref(o->passthrough);
	whit_free(o);
}
