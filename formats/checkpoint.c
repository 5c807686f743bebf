/* checkpoint: finds a directory's weight files, maps them, lists every weight by name. What whit and others
 * packed is read by checkpoint_packed.c and checkpoint_tq3.c. Weights stay mapped; nothing is converted.
 * Refuses foreign quantization and remote code; runs none. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "formats/checkpoint_own.h"

static const char *const kind_names[] = {"huggingface", "whit", "tq3", "gguf"};

const char *whit_ckpt_kind_name(whit_ckpt_kind k) { return kind_names[k]; }

char *whit_ckpt_text(whit_ckpt *c, const char *fmt, ...) {
	va_list a, b;
	va_start(a, fmt);
	va_copy(b, a);
	int n = vsnprintf(NULL, 0, fmt, a);
	char *t = whit_take_bytes(&c->own->arena, (size_t)n + 1);
	vsnprintf(t, (size_t)n + 1, fmt, b);
	va_end(b);
	va_end(a);
	return t;
}

/* ---- files ---- */

int whit_ckpt_open_file(whit_ckpt *c, const char *path, whit_err *e) {
	struct whit_ckpt_private *o = c->own;
	o->st = whit_realloc(o->st, (size_t)o->n_st * sizeof *o->st, (size_t)(o->n_st + 1) * sizeof *o->st);
	int rc = whit_st_open(&o->st[o->n_st], path, e);
	if (!rc) c->file_bytes += (int64_t)o->st[o->n_st++].map.bytes;
	return rc;
}

/* Loads a JSON file that the weights cannot be read without. */
static int load_counted(whit_ckpt *c, json_t **j, const char *path, whit_err *e) {
	struct stat s;
	int rc = whit_json_load(j, path, e);
	if (!rc && !stat(path, &s)) c->file_bytes += s.st_size;
	return rc;
}

static int by_stored_name(const void *a, const void *b) {
	const whit_stored *x = a, *y = b;
	return strcmp(x->t->name, y->t->name);
}

int whit_ckpt_index(whit_ckpt *c, whit_err *e) {
	struct whit_ckpt_private *o = c->own;
	for (int64_t i = 0; i < o->n_st; i++) o->n_t += o->st[i].n;
	o->t = whit_alloc((size_t)(o->n_t + 1) * sizeof *o->t);
	int64_t k = 0;
	for (int64_t i = 0; i < o->n_st; i++)
		for (int64_t j = 0; j < o->st[i].n; j++) o->t[k++].t = &o->st[i].t[j];
	qsort(o->t, (size_t)k, sizeof *o->t, by_stored_name);
	for (int64_t i = 1; i < k; i++) {
		const whit_tensor *a = o->t[i - 1].t, *b = o->t[i].t;
		if (!strcmp(a->name, b->name))
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is also in %s, need it once", a->file,
			                 a->name, b->file);
	}
	return 0;
}

whit_stored *whit_ckpt_stored(const whit_ckpt *c, const char *name) {
	whit_tensor t = {.name = (char *)(uintptr_t)name};
	whit_stored key = {.t = &t};
	return bsearch(&key, c->own->t, (size_t)c->own->n_t, sizeof key, by_stored_name);
}

/* A shard's name in an index is a stranger's word too. */
static int check_shard_name(const char *index, const char *shard, whit_err *e) {
	const char *wrong = !*shard ? "empty" : *shard == '/' ? "absolute" : NULL;
	for (const char *p = shard; !wrong && p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
		if (!strncmp(p, "..", 2) && (p[2] == '/' || p[2] == 0)) wrong = "outside";
	if (!wrong) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: shard path \"%.200s\" is %s, need a file inside the model's directory",
	                 index, shard, wrong);
}

/* Every tensor of the map is in its shard and every tensor of a shard is in the map. */
static int check_map(whit_ckpt *c, const char *index, const json_t *map, whit_err *e) {
	const char *name;
	json_t *shard;
	size_t prefix = strlen(c->path) + 1;
	json_object_foreach((json_t *)(uintptr_t)map, name, shard) {
		whit_stored *s = whit_ckpt_stored(c, name);
		if (!s)
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is absent, need it in %.200s", index, name,
			                 json_string_value(shard));
		if (strcmp(s->t->file + prefix, json_string_value(shard)))
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is in %s, need it in %.200s", index, name,
			                 s->t->file, json_string_value(shard));
	}
	for (int64_t i = 0; i < c->own->n_t; i++)
		if (!json_object_get(map, c->own->t[i].t->name))
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is in %s but not in the index", index,
			                 c->own->t[i].t->name, c->own->t[i].t->file);
	return 0;
}

static int open_map(whit_ckpt *c, const char *index, const json_t *map, whit_err *e) {
	const char *name;
	json_t *shard, *seen = json_object();
	int rc = 0;
	json_object_foreach((json_t *)(uintptr_t)map, name, shard) {
		const char *file = json_string_value(shard);
		if (!file) {
			rc = whit_fail(e, WHIT_EINPUT, "%s: weight_map key %.200s is %s, need string", index, name,
			               whit_json_kind(shard));
			break;
		}
		if (json_object_get(seen, file)) continue;
		json_object_set_new(seen, file, json_true());
		if ((rc = check_shard_name(index, file, e))) break;
		char *path = whit_format_text("%s/%s", c->path, file);
		rc = whit_file_exists(path) ? whit_ckpt_open_file(c, path, e)
		                            : whit_fail(e, WHIT_EINPUT, "%s: shard %s is missing", index, path);
		whit_free(path);
		if (rc) break;
	}
	json_decref(seen);
	if (!rc) rc = whit_ckpt_index(c, e);
	return rc ? rc : check_map(c, index, map, e);
}

int whit_ckpt_open_shards(whit_ckpt *c, whit_err *e) {
	char *one = whit_format_text("%s/model.safetensors", c->path);
	char *index = whit_format_text("%s/model.safetensors.index.json", c->path);
	json_t *j = NULL;
	const json_t *map;
	int rc;
	if (whit_file_exists(one)) {
		rc = whit_ckpt_open_file(c, one, e);
		if (!rc) rc = whit_ckpt_index(c, e);
	} else if (whit_file_exists(index)) {
		rc = load_counted(c, &j, index, e);
		if (!rc) rc = whit_json_member(j, index, "weight_map", 1, JSON_OBJECT, &map, e);
		if (!rc) rc = open_map(c, index, map, e);
	} else {
		char *bin = whit_format_text("%s/pytorch_model.bin", c->path);
		int pickle = whit_file_exists(bin);
		whit_free(bin);
		rc = whit_fail(
		        e, WHIT_EINPUT, "%s: holds no model.safetensors nor model.safetensors.index.json, need one%s",
		        c->path,
		        pickle ? " (pytorch_model.bin is a pickle, which is never opened: save it as safetensors)"
		               : "");
	}
	json_decref(j);
	whit_free(one);
	whit_free(index);
	return rc;
}

/* ---- weights ---- */

int whit_weight_plain(whit_weight *w, whit_stored *s, whit_err *e) {
	const whit_tensor *t = s->t;
	const char *format = t->dtype == WHIT_F32    ? "f32"
	                     : t->dtype == WHIT_F16  ? "f16"
	                     : t->dtype == WHIT_BF16 ? "bf16"
	                                             : NULL;
	s->used = 1;
	w->name = t->name;
	w->dtype = t->dtype;
	w->ndim = t->ndim;
	memcpy(w->shape, t->shape, sizeof w->shape);
	w->file = t->file;
	w->type = whit_dtype_name(t->dtype);
	w->bytes = (int64_t)t->bytes;
	w->passthrough = 1;
	w->mat.rows = t->ndim > 1 ? t->shape[0] : 1;
	w->mat.cols = w->mat.width = whit_tensor_count(t) / w->mat.rows;
	w->mat.plane[0] = t->data;
	w->mat.row_bytes[0] = t->bytes / (size_t)w->mat.rows;
	return format ? whit_spec_parse(format, &w->mat.spec, e) : 0;
}

int whit_stored_finite(const whit_tensor *t, whit_err *e) {
	enum { STEP = 4096 };
	int64_t n = whit_tensor_count(t);
	float x[STEP];
	for (int64_t i = 0; i < n; i += STEP) {
		int64_t k = WHIT_MIN((int64_t)STEP, n - i);
		const uint8_t *p = t->data + (size_t)i * whit_dtype_size(t->dtype);
		if (t->dtype == WHIT_F16)
			whit_f16_to_f32_n(x, p, k);
		else if (t->dtype == WHIT_BF16)
			whit_bf16_to_f32_n(x, p, k);
		else
			memcpy(x, p, (size_t)k * sizeof *x);
		int64_t bad = whit_first_nonfinite(x, k);
		if (bad < 0) continue;
		int64_t at = i + bad, cols = t->ndim ? t->shape[t->ndim - 1] : 1;
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: value at row %lld, column %lld is %g, need finite",
		                 t->file, t->name, (long long)(at / cols), (long long)(at % cols), (double)x[bad]);
	}
	return 0;
}

static int plain_weights(whit_ckpt *c, whit_err *e) {
	struct whit_ckpt_private *o = c->own;
	c->w = whit_alloc((size_t)(o->n_t + 1) * sizeof *c->w);
	int rc = 0;
	for (c->n = 0; c->n < o->n_t && !rc; c->n++) rc = whit_weight_plain(&c->w[c->n], &o->t[c->n], e);
	return rc;
}

/* ---- opening ---- */

/* Foreign quantization, or code that a config wants run. */
static int check_config(const whit_ckpt *c, whit_err *e) {
	static const char *const key[] = {"quantization_config", "compression_config"};
	if (!json_is_object(c->config))
		return whit_fail(e, WHIT_EINPUT, "%s: is %s, need object", c->config_path, whit_json_kind(c->config));
	for (int i = 0; i < 2 && c->kind == WHIT_CKPT_HF; i++) {
		const json_t *q = json_object_get(c->config, key[i]), *how = json_object_get(q, "quant_method");
		if (!q || json_is_null(q)) continue;
		return whit_fail(e, WHIT_EINPUT, "%s: is already quantized with %.60s, need the original checkpoint",
		                 c->config_path, json_is_string(how) ? json_string_value(how) : "an unnamed method");
	}
	const json_t *code = json_object_get(c->config, "auto_map");
	if (code && !json_is_null(code))
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: auto_map asks for remote code, which is never run; need a config without it",
		                 c->config_path);
	return 0;
}

static int by_weight_name(const void *a, const void *b) {
	const whit_weight *x = a, *y = b;
	return strcmp(x->name, y->name);
}

static int open_kind(whit_ckpt *c, whit_err *e) {
	char *manifest = whit_ckpt_text(c, "%s/quant_manifest.json", c->path);
	char *tq3 = whit_ckpt_text(c, "%s/tq_config.json", c->path);
	c->kind = whit_file_exists(manifest) ? WHIT_CKPT_WHIT : whit_file_exists(tq3) ? WHIT_CKPT_TQ3 : WHIT_CKPT_HF;
	int rc = whit_json_load(&c->config, c->config_path, e);
	if (!rc) rc = check_config(c, e);
	if (rc) return rc;
	if (c->kind == WHIT_CKPT_WHIT) {
		c->own->manifest_path = manifest;
		rc = load_counted(c, &c->manifest, manifest, e);
		return rc ? rc : whit_manifest_read(c, e);
	}
	if ((rc = whit_ckpt_open_shards(c, e))) return rc;
	if (c->kind == WHIT_CKPT_HF) return plain_weights(c, e);
	json_t *tq;
	if ((rc = load_counted(c, &tq, tq3, e))) return rc;
	rc = whit_tq3_read(c, tq, tq3, e);
	json_decref(tq);
	return rc;
}

int whit_ckpt_open(whit_ckpt *c, const char *path, whit_err *e) {
	memset(c, 0, sizeof *c);
	if (!whit_file_exists(path))
		return whit_fail(e, WHIT_EINPUT, "%s: does not exist, need a model directory or a GGUF file", path);
	int dir = whit_is_dir(path);
	if (!dir && !whit_gguf_is(path))
		return whit_fail(e, WHIT_EINPUT, "%s: is not a directory nor a GGUF file, need a model", path);
	c->own = whit_alloc(sizeof *c->own);
	c->path = whit_strdup(path);
	for (size_t n = strlen(c->path); n > 1 && c->path[n - 1] == '/'; n--) c->path[n - 1] = 0;
	c->config_path = dir ? whit_format_text("%s/config.json", c->path) : whit_strdup(path);
	int rc = dir ? open_kind(c, e) : whit_ckpt_read_gguf(c, e);
	if (!rc) {
		qsort(c->w, (size_t)c->n, sizeof *c->w, by_weight_name);
		for (int64_t i = 1; i < c->n && !rc; i++)
			if (!strcmp(c->w[i - 1].name, c->w[i].name))
				rc = whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is listed twice, need once", c->path,
				               c->w[i].name);
	}
	if (rc) whit_ckpt_close(c);
	return rc;
}

void whit_ckpt_close(whit_ckpt *c) {
	struct whit_ckpt_private *o = c->own;
	if (!o) return;
	for (int64_t i = 0; i < o->n_st; i++) whit_st_close(&o->st[i]);
	for (int64_t i = 0; i < o->n_gguf; i++) whit_gguf_close(&o->gguf[i]);
	whit_gguf_close(&o->joined);
	whit_st_close(&o->sidecar);
	for (whit_named *r = o->rotation; r; r = r->next) whit_rotation_free(r->p);
	whit_free(o->st);
	whit_free(o->gguf);
	whit_free(o->t);
	whit_arena_free(&o->arena);
	whit_free(o);
	json_decref(c->config);
	json_decref(c->manifest);
	whit_free(c->config_path);
	whit_free(c->path);
	whit_free(c->w);
	memset(c, 0, sizeof *c);
}

const whit_weight *whit_ckpt_find(const whit_ckpt *c, const char *name) {
	whit_weight key = {.name = (char *)(uintptr_t)name};
	const whit_weight *w = bsearch(&key, c->w, (size_t)c->n, sizeof key, by_weight_name);
	return w && w->alias ? whit_ckpt_find(c, w->alias) : w;
}

int whit_ckpt_check(const whit_ckpt *c, whit_err *e) {
	int rc = 0;
	for (int64_t i = 0; i < c->own->n_st && !rc; i++) rc = whit_map_check(&c->own->st[i].map, e);
	for (int64_t i = 0; i < c->own->n_gguf && !rc; i++) rc = whit_map_check(&c->own->gguf[i].map, e);
	return rc;
}

/* ---- fingerprint ---- */

typedef struct hashing {
	const whit_ckpt *c;
	whit_hash *hash; /* of each weight's bytes */
	int *rc;
	whit_err *e; /* one per weight */
} hashing;

/* Of a plane's rows in logical order, so that a GGUF of floats has the hashes of the checkpoint it is made of. */
static whit_hash hash_plane(const whit_mat *m, int p) {
	size_t each = m->row_bytes[p], all = each * (size_t)m->rows;
	if (!m->paired) return whit_hash_bytes(m->plane[p], all);
	uint8_t *rows = whit_alloc(all);
	for (int64_t r = 0; r < m->rows; r++)
		memcpy(rows + (size_t)r * each, m->plane[p] + (size_t)whit_mat_row(m, r) * each, each);
	whit_hash h = whit_hash_bytes(rows, all);
	whit_free(rows);
	return h;
}

/* A plain weight: hash of its bytes. A packed one: hash of all that decides what it decodes to. */
static void hash_weight(void *ctx, int64_t i, int worker) {
	(void)worker;
	hashing *h = ctx;
	const whit_mat *m = &h->c->w[i].mat;
	if (h->c->w[i].alias || (h->rc[i] = whit_interrupted(&h->e[i]))) return;
	whit_hash part[WHIT_PLANES + 2] = {0};
	for (int p = 0; p < WHIT_PLANES && m->plane[p]; p++) part[p] = hash_plane(m, p);
	h->hash[i] = part[0];
	whit_weight_drop(&h->c->w[i]);
	if (h->c->w[i].passthrough) return;
	char name[32], rot[128] = "none";
	if (m->spec.fmt)
		whit_spec_name(&m->spec, name);
	else
		snprintf(name, sizeof name, "%s", h->c->w[i].type);
	if (m->codebook) part[WHIT_PLANES] = whit_hash_bytes(m->codebook, whit_mat_book_bytes(m));
	if (m->rot) {
		const whit_rotation_spec *r = whit_rotation_get(m->rot);
		snprintf(rot, sizeof rot, "%s %llu %lld %lld %d", whit_rotation_kind_name(r->kind),
		         (unsigned long long)r->seed, (long long)r->dim, (long long)r->block, r->base);
		/* A matrix derived from its seed may differ in the last ulp between machines; the seed says it all. */
		const float *dense = h->c->own->sidecar.n ? whit_rotation_dense(m->rot) : NULL;
		if (dense) part[WHIT_PLANES + 1] = whit_hash_bytes(dense, sizeof(float) * (size_t)(r->dim * r->dim));
	}
	char hex[WHIT_PLANES + 2][33], *text;
	for (int p = 0; p < WHIT_PLANES + 2; p++) whit_hash_hex(part[p], hex[p]);
	text = whit_format_text("%s %s %s %s %s %s %s %s", name, rot, hex[0], hex[1], hex[2], hex[3], hex[4], hex[5]);
	h->hash[i] = whit_hash_bytes(text, strlen(text));
	whit_free(text);
}

int whit_ckpt_fingerprint(const whit_ckpt *c, char out[48], whit_err *e) {
	hashing h = {.c = c};
	h.hash = whit_alloc((size_t)(c->n + 1) * sizeof *h.hash);
	h.rc = whit_alloc((size_t)(c->n + 1) * sizeof *h.rc);
	h.e = whit_alloc((size_t)(c->n + 1) * sizeof *h.e);
	whit_parallel(c->n, hash_weight, &h);
	char *all = NULL;
	size_t n = 0;
	int rc = 0;
	for (int64_t i = 0; i < c->n && !rc; i++) {
		const whit_weight *w = &c->w[i];
		if ((rc = h.rc[i])) *e = h.e[i];
		if (rc || w->alias) continue;
		char shape[96], hex[33];
		whit_shape_text(w->shape, w->ndim, shape);
		whit_hash_hex(h.hash[i], hex);
		char *line = whit_format_text("%s, %s, %s, %s\n", w->name, whit_dtype_name(w->dtype), shape, hex);
		size_t k = strlen(line);
		all = whit_realloc(all, n, n + k);
		memcpy(all + n, line, k);
		n += k;
		whit_free(line);
	}
	if (!rc) whit_hash_text(whit_hash_bytes(all ? all : "", n), out);
	whit_free(all);
	whit_free(h.hash);
	whit_free(h.rc);
	whit_free(h.e);
	return rc;
}

/* ---- scales inside blocks ---- */

enum { SCALE_ROWS = 64 };

typedef struct scale_scan {
	const whit_mat *m;
	const whit_ggml_type *type;
	int64_t *bad; /* of each item: its first row with such a scale, -1 = none */
} scale_scan;

static int bad_row(const whit_ggml_type *t, const uint8_t *b, size_t bytes) {
	for (const uint8_t *end = b + bytes; b < end; b += t->bytes) {
		if (t->scales == WHIT_GGML_E8M0 && b[t->at] == 255) return 1;
		for (int k = 0; k < t->scales; k++)
			if ((whit_load_u16(b + t->at + 2 * k) & 0x7c00) == 0x7c00) return 1;
	}
	return 0;
}

static void scan_item(void *ctx, int64_t i, int worker) {
	const scale_scan *s = ctx;
	const whit_mat *m = s->m;
	(void)worker;
	s->bad[i] = -1;
	for (int64_t r = i * SCALE_ROWS; r < WHIT_MIN((i + 1) * SCALE_ROWS, m->rows) && s->bad[i] < 0; r++) {
		const uint8_t *row = m->plane[0] + (size_t)whit_mat_row(m, r) * m->row_bytes[0];
		if (bad_row(s->type, row, m->row_bytes[0])) s->bad[i] = r;
	}
}

int whit_weight_scales(const whit_weight *w, whit_err *e) {
	if (!w->mat.spec.fmt || !w->mat.spec.fmt->block) return 0;
	int64_t items = (w->mat.rows + SCALE_ROWS - 1) / SCALE_ROWS, row = -1;
	scale_scan s = {&w->mat, whit_ggml_type_of_spec(&w->mat.spec), whit_alloc((size_t)items * sizeof *s.bad)};
	whit_parallel(items, scan_item, &s);
	for (int64_t i = 0; i < items && row < 0; i++) row = s.bad[i];
	whit_free(s.bad);
	whit_weight_drop(w); /* opening must not grow with the model */
	if (row < 0) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: a scale of %s in row %lld is NaN or Inf, need finite",
	                 w->file, w->name, s.type->name, (long long)row);
}

void whit_weight_drop(const whit_weight *w) {
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	for (int p = 0; p < WHIT_PLANES && w->mat.plane[p]; p++) {
		/* Whole pages only: the edges hold a neighbour's bytes. Advice, so a failure is no error. */
		uintptr_t a = ((uintptr_t)w->mat.plane[p] + page - 1) / page * page;
		uintptr_t b = ((uintptr_t)w->mat.plane[p] + w->mat.row_bytes[p] * (size_t)w->mat.rows) / page * page;
		if (b > a) madvise((void *)a, b - a, MADV_DONTNEED);
	}
}
