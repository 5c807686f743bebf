/* checkpoint_packed: reads the manifest of a directory that whit wrote (turboquant.md 7). Decoders take what
 * is stored, never what could be derived, except a rotation's matrix, which its seed defines and a sidecar
 * overrides. Refuses unknown versions and kinds, absent, unlisted or misshapen arrays, non-finite scales. */
#include <math.h>
#include "formats/checkpoint_own.h"
#include "formats/frc1.h"

typedef struct reader {
	whit_ckpt *c;
	const char *file; /* quant_manifest.json, for messages */
	const json_t *rotations, *codebooks;
} reader;

/* Per-tensor fields override the top level's. */
static const json_t *holder(const reader *r, const json_t *entry, const char *key) {
	const json_t *v = json_object_get(entry, key);
	return v && !json_is_null(v) ? entry : r->c->manifest;
}

/* ---- rotations and codebooks ---- */

static whit_named *named(whit_named *list, const char *id) {
	while (list && strcmp(list->id, id)) list = list->next;
	return list;
}

static void remember(whit_ckpt *c, whit_named **list, const char *id, void *p) {
	whit_named *n = whit_take_bytes(&c->own->arena, sizeof *n);
	*n = (whit_named){id, p, *list};
	*list = n;
}

/* The sidecar's F32 array of this name and shape, NULL if it has none. */
static int sidecar_find(whit_ckpt *c, const char *what, const char *id, int ndim, int64_t d, const whit_tensor **out,
                        whit_err *e) {
	char *name = whit_format_text("%s.%s", what, id);
	const whit_tensor *t = *out = whit_st_find(&c->own->sidecar, name);
	whit_free(name);
	if (!t) return 0;
	if (t->dtype == WHIT_F32 && t->ndim == ndim && t->shape[0] == d && t->shape[ndim - 1] == d)
		return whit_stored_finite(t, e);
	char shape[96];
	whit_shape_text(t->shape, t->ndim, shape);
	return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is %s %s, need F32 of %d dimensions of %lld", t->file,
	                 t->name, whit_dtype_name(t->dtype), shape, ndim, (long long)d);
}

static int read_rotation(reader *r, const char *id, int64_t cols, whit_rotation **out, whit_err *e) {
	char *at = whit_ckpt_text(r->c, "%s: rotations.%.100s", r->file, id);
	const json_t *j = json_object_get(r->rotations, id);
	const char *kind;
	int64_t seed = 0, block = 0, base = 1;
	whit_rotation_spec s = {0};
	*out = NULL;
	if (!j) return whit_fail(e, WHIT_EINPUT, "%s: is absent, a tensor needs it", at);
	int rc = whit_json_text(j, at, "kind", 1, &kind, e);
	if (rc) return rc;
	s.kind = whit_rotation_kind_parse(kind);
	if (s.kind == WHIT_ROT_NONE) return 0;
	if (s.kind != WHIT_ROT_HADAMARD && s.kind != WHIT_ROT_HAAR_QR)
		return whit_fail(e, WHIT_EINPUT, "%s: kind is %.40s, need haar_qr, hadamard or none", at, kind);
	if ((rc = whit_json_int(j, at, "dim", 1, 1, INT64_MAX, &s.dim, e)) ||
	    (rc = whit_json_int(j, at, "seed", 1, 0, INT64_MAX, &seed, e)))
		return rc;
	if (s.dim != cols)
		return whit_fail(e, WHIT_EINPUT, "%s: dim is %lld, need %lld, the columns of the tensor", at,
		                 (long long)s.dim, (long long)cols);
	int hadamard = s.kind == WHIT_ROT_HADAMARD;
	block = s.dim;
	/* A transform wider than the padded row cannot be: padding never doubles it. */
	if ((rc = whit_json_int(j, at, "block", hadamard, 1, hadamard ? 2 * WHIT_MAX(s.dim, 128) : s.dim, &block, e)) ||
	    (rc = whit_json_int(j, at, "base", hadamard, 1, 28, &base, e)))
		return rc;
	s.seed = (uint64_t)seed;
	s.block = block;
	s.base = (int)base;
	const whit_tensor *t;
	if ((rc = sidecar_find(r->c, "rotation", id, 2, s.dim, &t, e))) return rc;
	float *dense = t ? memcpy(whit_alloc(t->bytes), t->data, t->bytes) : NULL; /* aligned */
	rc = whit_rotation_new(out, &s, dense, e) ? whit_fail_in(e, "%s", at) : 0;
	whit_free(dense);
	return rc;
}

static int get_rotation(reader *r, const json_t *entry, const char *at, whit_mat *m, whit_err *e) {
	const json_t *from = holder(r, entry, "rotation");
	const char *id = NULL;
	/* A codebook belongs to rotated rows, so a file must say "none" aloud; plain integers need not. */
	int rc = whit_json_text(from, at, "rotation", m->spec.fmt->needs_codebook, &id, e);
	if (rc || !id) return rc;
	whit_named *n = named(r->c->own->rotation, id);
	whit_rotation *rot = n ? n->p : NULL;
	if (!n) {
		if ((rc = read_rotation(r, id, m->cols, &rot, e))) return rc;
		remember(r->c, &r->c->own->rotation, id, rot);
	}
	m->rot = rot;
	if (rot && whit_rotation_get(rot)->dim != m->cols)
		return whit_fail(e, WHIT_EINPUT, "%s: rotation %.100s turns %lld columns, need %lld", at, id,
		                 (long long)whit_rotation_get(rot)->dim, (long long)m->cols);
	if ((rot ? whit_rotation_width(rot) : m->cols) != m->width)
		return whit_fail(e, WHIT_EINPUT, "%s: padded is %lld, need %lld", at, (long long)m->width,
		                 (long long)(rot ? whit_rotation_width(rot) : m->cols));
	return 0;
}

static int read_codebook(reader *r, const char *id, int bits, const float **out, whit_err *e) {
	char *at = whit_ckpt_text(r->c, "%s: codebooks.%.100s", r->file, id);
	const json_t *j = json_object_get(r->codebooks, id), *values, *v;
	int64_t have;
	size_t i;
	if (!j) return whit_fail(e, WHIT_EINPUT, "%s: is absent, a tensor needs it", at);
	int rc = whit_json_int(j, at, "bits", 1, 1, 8, &have, e);
	if (rc) return rc;
	if (have != bits)
		return whit_fail(e, WHIT_EINPUT, "%s: bits is %lld, a tensor needs %d", at, (long long)have, bits);
	const whit_tensor *t;
	float *c = whit_take(&r->c->own->arena, (int64_t)1 << bits);
	if ((rc = sidecar_find(r->c, "codebook", id, 1, (int64_t)1 << bits, &t, e))) return rc;
	if (t) {
		memcpy(c, t->data, t->bytes);
	} else {
		if ((rc = whit_json_member(j, at, "values", 1, JSON_ARRAY, &values, e))) return rc;
		if (json_array_size(values) != (size_t)1 << bits)
			return whit_fail(e, WHIT_EINPUT, "%s: has %zu values, need %d", at, json_array_size(values),
			                 1 << bits);
		json_array_foreach(values, i, v) {
			if (!json_is_number(v))
				return whit_fail(e, WHIT_EINPUT, "%s: value %zu is %s, need number", at, i,
				                 whit_json_kind(v));
			c[i] = (float)json_number_value(v);
		}
	}
	for (int k = 0; k < 1 << bits; k++)
		if (!isfinite(c[k]) || (k && !(c[k - 1] < c[k])))
			return whit_fail(e, WHIT_EINPUT, "%s: value %d is %.9g after %.9g, need finite and ascending",
			                 at, k, (double)c[k], k ? (double)c[k - 1] : -INFINITY);
	*out = c;
	return 0;
}

static int get_codebook(reader *r, const json_t *entry, const char *at, whit_mat *m, whit_err *e) {
	const char *id;
	int rc = whit_json_text(holder(r, entry, "codebook"), at, "codebook", 1, &id, e);
	if (rc) return rc;
	/* One id may serve one width only, so that the cache cannot hand out a shorter table. */
	whit_named *n = named(r->c->own->codebook, id);
	if (n) {
		int64_t bits;
		if ((rc = whit_json_int(json_object_get(r->codebooks, id), at, "bits", 1, m->spec.bits, m->spec.bits,
		                        &bits, e)))
			return rc;
		m->codebook = n->p;
		return 0;
	}
	if ((rc = read_codebook(r, id, m->spec.bits, &m->codebook, e))) return rc;
	remember(r->c, &r->c->own->codebook, id, (void *)(uintptr_t)m->codebook);
	return 0;
}

/* ---- tensors ---- */

static int read_shape(const json_t *entry, const char *at, whit_weight *w, whit_err *e) {
	const json_t *shape, *v;
	size_t i;
	int64_t n = 1;
	int rc = whit_json_member(entry, at, "shape", 1, JSON_ARRAY, &shape, e);
	if (rc) return rc;
	if (json_array_size(shape) > WHIT_DIMS)
		return whit_fail(e, WHIT_EINPUT, "%s: shape has %zu dimensions, need at most %d", at,
		                 json_array_size(shape), WHIT_DIMS);
	w->ndim = (int)json_array_size(shape);
	json_array_foreach(shape, i, v) {
		w->shape[i] = json_integer_value(v);
		if (!json_is_integer(v) || w->shape[i] <= 0 || __builtin_mul_overflow(n, w->shape[i], &n))
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: dimension %zu is %s, need a positive integer, all together under 2^63",
			                 at, i, whit_json_kind(v));
	}
	w->mat.rows = w->ndim > 1 ? w->shape[0] : 1;
	w->mat.cols = n / w->mat.rows;
	return 0;
}

static int read_dtype(const json_t *entry, const char *at, whit_weight *w, whit_err *e) {
	const char *dtype;
	int rc = whit_json_text(entry, at, "dtype", 1, &dtype, e);
	if (rc) return rc;
	w->dtype = whit_dtype_parse(dtype, strlen(dtype));
	return w->dtype < 0 ? whit_fail(e, WHIT_EINPUT, "%s: dtype is %.40s, which is unknown", at, dtype) : 0;
}

/* "format" if it is there, else family tq with bits and group. */
static int read_spec(reader *r, const json_t *entry, const char *at, whit_spec *s, whit_err *e) {
	const char *name = NULL;
	char canonical[32];
	int64_t bits, group;
	int rc = whit_json_text(entry, at, "format", 0, &name, e);
	if (rc) return rc;
	if (!name) {
		if ((rc = whit_json_int(holder(r, entry, "bits"), at, "bits", 1, 1, 8, &bits, e)) ||
		    (rc = whit_json_int(holder(r, entry, "group"), at, "group", 1, 0, 1 << 20, &group, e)))
			return rc;
		*s = (whit_spec){.bits = (int)bits, .group = (int)group};
		for (int i = 0; whit_formats[i] && !s->fmt; i++)
			if (!strcmp(whit_formats[i]->name, "tq")) s->fmt = whit_formats[i];
		whit_spec_name(s, canonical);
		name = canonical;
	}
	if (whit_spec_parse(name, s, e)) {
		e->code = WHIT_EINPUT;
		return whit_fail_in(e, "%s", at);
	}
	if (s->group < 0) return whit_fail(e, WHIT_EINPUT, "%s: format is %.40s, need its group too", at, name);
	return 0;
}

/* The stored array of that name, which no other weight has. */
static int take_stored(reader *r, const char *at, const char *name, whit_stored **s, whit_err *e) {
	*s = whit_ckpt_stored(r->c, name);
	if (!*s) return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s is absent from the weights", at, name);
	if ((*s)->used)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s already belongs to another weight", at, name);
	return 0;
}

/* The same where that must be `need` bytes, which it then has been taken as. */
static int take_bytes(reader *r, const char *at, const char *name, int64_t need, whit_stored **s, whit_err *e) {
	int rc = take_stored(r, at, name, s, e);
	if (rc) return rc;
	const whit_tensor *t = (*s)->t;
	char shape[96];
	whit_shape_text(t->shape, t->ndim, shape);
	if (t->dtype != WHIT_U8 || t->ndim != 1 || t->shape[0] != need)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s is %s %s, need U8 [%lld]", at, name,
		                 whit_dtype_name(t->dtype), shape, (long long)need);
	(*s)->used = 1;
	return 0;
}

/* The codebook of a record, once a file, and of it the profiles that the record chooses from. */
static int get_frc_book(reader *r, const char *at, whit_mat *m, whit_err *e) {
	int tier = whit_frc_tier(m->plane[0]), flags = m->spec.flags, wide = flags & WHIT_FRC_WIDE;
	int64_t need = whit_frc_book_bytes(m->spec.group, flags);
	uint8_t id[WHIT_FRC_CHOICES];
	char name[48];
	whit_stored *s;
	whit_frc_book_name(m->spec.group, tier, flags, name);
	whit_named *n = named(r->c->own->frc_book, name);
	whit_frc_book *b = n ? n->p : NULL;
	if (!b) {
		int rc = take_bytes(r, at, name, need, &s, e);
		if (rc) return rc;
		b = whit_frc_book_in(whit_take_bytes(&r->c->own->arena, whit_frc_book_size(m->spec.group, flags)),
		                     m->spec.group, tier, flags);
		if (whit_frc_book_get(b, s->t->data, e)) return whit_fail_in(e, "%s: tensor %s", r->file, name);
		remember(r->c, &r->c->own->frc_book, whit_ckpt_text(r->c, "%s", name), b);
	}
	float *factors = whit_take(&r->c->own->arena, whit_frc_choices(&m->spec) * m->spec.group);
	whit_frc_ids(m->plane[0], id);
	whit_frc_factors(b, wide ? NULL : id, whit_frc_choices(&m->spec), factors);
	m->book = b;
	m->codebook = factors;
	return 0;
}

/* A record is one array of bytes, which its format checks. */
static int bind_record(reader *r, const char *at, const char *name, whit_weight *w, whit_err *e) {
	whit_mat *m = &w->mat;
	whit_stored *s;
	int64_t need = m->spec.fmt->record(&m->spec, m->rows, m->width);
	int rc = take_bytes(r, at, name, need, &s, e);
	if (rc) return rc;
	m->plane[0] = s->t->data;
	w->bytes = (int64_t)s->t->bytes;
	w->file = s->t->file;
	rc = m->spec.fmt->check(m, e) ? whit_fail_in(e, "%s: tensor %.200s", at, name) : 0;
	if (!rc && m->spec.flags & WHIT_FRC_BOOK) rc = get_frc_book(r, at, m, e);
	whit_weight_drop(w);
	return rc;
}

/* Binds every plane to its stored array, whose type and shape must be just what the format says. */
static int bind_planes(reader *r, const char *at, const char *prefix, whit_weight *w, whit_err *e) {
	whit_plane_desc d[WHIT_PLANES];
	whit_mat *m = &w->mat;
	int n = m->spec.fmt->planes(&m->spec, m->width, m->scale_f32, d, e), rc;
	if (n < 0) {
		e->code = WHIT_EINPUT;
		return whit_fail_in(e, "%s", at);
	}
	for (int p = 0; p < n; p++) {
		char *name = d[p].suffix[0] ? whit_ckpt_text(r->c, "%s.%s", prefix, d[p].suffix) : w->name;
		if (m->spec.fmt->record) return bind_record(r, at, name, w, e);
		whit_stored *s;
		if ((rc = take_stored(r, at, name, &s, e))) return rc;
		const whit_tensor *t = s->t;
		int shaped = d[p].suffix[0]
		                     ? t->ndim == 2 && t->shape[0] == m->rows && t->shape[1] == d[p].cols
		                     : t->bytes / d[p].row_bytes == (size_t)m->rows && t->bytes % d[p].row_bytes == 0;
		if (t->dtype != d[p].dtype || !shaped) {
			char shape[96];
			whit_shape_text(t->shape, t->ndim, shape);
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s is %s %s, need %s [%lld, %lld]", at, name,
			                 whit_dtype_name(t->dtype), shape, whit_dtype_name(d[p].dtype),
			                 (long long)m->rows, (long long)d[p].cols);
		}
		int scales = d[p].suffix[0] && (t->dtype == WHIT_F16 || t->dtype == WHIT_BF16 || t->dtype == WHIT_F32);
		if (scales && (rc = whit_stored_finite(t, e))) return rc;
		s->used = 1;
		m->plane[p] = t->data;
		m->row_bytes[p] = d[p].row_bytes;
		w->bytes += (int64_t)t->bytes;
		w->file = t->file;
	}
	whit_weight_drop(w); /* the check mapped scales and, around them, codes: opening must not grow with the model */
	return 0;
}

static int read_packed(reader *r, const json_t *entry, int64_t i, whit_weight *w, whit_err *e) {
	const char *name, *prefix, *norm = "F16";
	whit_mat *m = &w->mat;
	char *at = whit_ckpt_text(r->c, "%s: tensors[%lld]", r->file, (long long)i);
	int rc = whit_json_text(entry, at, "name", 1, &name, e);
	if (rc) return rc;
	at = whit_ckpt_text(r->c, "%s: %.200s", r->file, name);
	w->name = whit_ckpt_text(r->c, "%s", name);
	if ((rc = read_shape(entry, at, w, e)) || (rc = read_dtype(entry, at, w, e)) ||
	    (rc = read_spec(r, entry, at, &m->spec, e)) || (rc = whit_json_text(entry, at, "prefix", 1, &prefix, e)) ||
	    (rc = whit_json_text(holder(r, entry, "norm_dtype"), at, "norm_dtype", 0, &norm, e)))
		return rc;
	if (strcmp(norm, "F16") && strcmp(norm, "F32"))
		return whit_fail(e, WHIT_EINPUT, "%s: norm_dtype is %.40s, need F16 or F32", at, norm);
	char canonical[32];
	whit_spec_name(&m->spec, canonical);
	w->type = whit_ckpt_text(r->c, "%s", canonical);
	m->scale_f32 = !strcmp(norm, "F32");
	m->width = m->cols;
	/* The stored bytes bound the padded width, and it the columns, before anything of that size is built. */
	if ((rc = whit_json_int(entry, at, "padded", 0, 1, INT64_MAX / 64, &m->width, e))) return rc;
	if (m->width < m->cols || m->width > INT64_MAX / 64)
		return whit_fail(e, WHIT_EINPUT, "%s: padded is %lld, need at least %lld and under 2^57", at,
		                 (long long)m->width, (long long)m->cols);
	if ((rc = bind_planes(r, at, prefix, w, e)) || (rc = get_rotation(r, entry, at, m, e))) return rc;
	if (m->spec.fmt->needs_codebook && (rc = get_codebook(r, entry, at, m, e))) return rc;
	if ((rc = whit_json_int(entry, at, "zero_groups", 0, 0, INT64_MAX, &w->zero_groups, e))) return rc;
	return whit_json_real(entry, at, "rel_mse", 0, 0, INFINITY, &w->rel_mse, e);
}

static int read_passthrough(reader *r, const json_t *entry, int64_t i, whit_weight *w, whit_err *e) {
	const char *name;
	whit_weight said = {0};
	char *at = whit_ckpt_text(r->c, "%s: passthrough[%lld]", r->file, (long long)i);
	int rc = whit_json_text(entry, at, "name", 1, &name, e);
	if (rc) return rc;
	at = whit_ckpt_text(r->c, "%s: %.200s", r->file, name);
	if ((rc = read_shape(entry, at, &said, e)) || (rc = read_dtype(entry, at, &said, e))) return rc;
	whit_stored *s = whit_ckpt_stored(r->c, name);
	if (!s) return whit_fail(e, WHIT_EINPUT, "%s: is absent from the weights", at);
	if (s->used) return whit_fail(e, WHIT_EINPUT, "%s: already belongs to another weight", at);
	if (s->t->dtype != said.dtype || s->t->ndim != said.ndim ||
	    memcmp(s->t->shape, said.shape, sizeof said.shape)) {
		char is[96], need[96];
		whit_shape_text(s->t->shape, s->t->ndim, is);
		whit_shape_text(said.shape, said.ndim, need);
		return whit_fail(e, WHIT_EINPUT, "%s: is %s %s in the weights, need %s %s", at,
		                 whit_dtype_name(s->t->dtype), is, whit_dtype_name(said.dtype), need);
	}
	return whit_weight_plain(w, s, e);
}

/* Runs before the weights are sorted: n of them are there, none an alias. */
static int read_alias(reader *r, const char *name, const json_t *target, int64_t n, whit_weight *w, whit_err *e) {
	if (!json_is_string(target))
		return whit_fail(e, WHIT_EINPUT, "%s: aliases.%.200s is %s, need string", r->file, name,
		                 whit_json_kind(target));
	for (int64_t i = 0; i < n; i++) {
		if (strcmp(r->c->w[i].name, json_string_value(target))) continue;
		*w = r->c->w[i];
		w->alias = w->name;
		w->name = whit_ckpt_text(r->c, "%s", name);
		w->bytes = 0;
		return 0;
	}
	return whit_fail(e, WHIT_EINPUT, "%s: aliases.%.200s is %.200s, need a tensor that is stored", r->file, name,
	                 json_string_value(target));
}

static int read_entries(reader *r, whit_err *e) {
	whit_ckpt *c = r->c;
	const json_t *packed, *pass, *alias = NULL;
	const char *name;
	json_t *v;
	size_t i;
	int rc = whit_json_member(c->manifest, r->file, "tensors", 1, JSON_ARRAY, &packed, e);
	if (rc || (rc = whit_json_member(c->manifest, r->file, "passthrough", 1, JSON_ARRAY, &pass, e)) ||
	    (rc = whit_json_member(c->manifest, r->file, "aliases", 0, JSON_OBJECT, &alias, e)))
		return rc;
	c->w = whit_alloc((json_array_size(packed) + json_array_size(pass) + json_object_size(alias) + 1) *
	                  sizeof *c->w);
	json_array_foreach(packed, i, v) if ((rc = read_packed(r, v, (int64_t)i, &c->w[c->n++], e))) return rc;
	json_array_foreach(pass, i, v) if ((rc = read_passthrough(r, v, (int64_t)i, &c->w[c->n++], e))) return rc;
	int64_t stored = c->n;
	json_object_foreach((json_t *)(uintptr_t)alias, name,
	                    v) if ((rc = read_alias(r, name, v, stored, &c->w[c->n++], e))) return rc;
	for (int64_t k = 0; k < c->own->n_t; k++)
		if (!c->own->t[k].used)
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s of %s is not listed", r->file,
			                 c->own->t[k].t->name, c->own->t[k].t->file);
	return 0;
}

/* ---- the whole file ---- */

static int open_sidecar(reader *r, whit_err *e) {
	whit_ckpt *c = r->c;
	const char *name = NULL;
	int rc = whit_json_text(c->manifest, r->file, "sidecar", 0, &name, e);
	if (rc || !name) return rc;
	if (!*name || strchr(name, '/') || !strcmp(name, ".."))
		return whit_fail(e, WHIT_EINPUT, "%s: sidecar is \"%.200s\", need a file's name beside the manifest",
		                 r->file, name);
	rc = whit_st_open(&c->own->sidecar, whit_ckpt_text(c, "%s/%s", c->path, name), e);
	c->file_bytes += (int64_t)c->own->sidecar.map.bytes;
	return rc;
}

/* Which weight file a known manifest belongs to. */
static int check_head(reader *r, const char **weights, whit_err *e) {
	const json_t *j = r->c->manifest;
	const char *format, *method, *packing = "lsb_le";
	int64_t version;
	int rc = whit_json_text(j, r->file, "format", 1, &format, e);
	if (rc) return rc;
	*weights = !strcmp(format, "whit-turboquant") ? "turboquant_weights.safetensors"
	           : !strcmp(format, "whit-packed")   ? "packed_weights.safetensors"
	                                              : NULL;
	if (!*weights)
		return whit_fail(e, WHIT_EINPUT, "%s: format is %.40s, need whit-turboquant or whit-packed", r->file,
		                 format);
	if ((rc = whit_json_int(j, r->file, "format_version", 1, 1, 1, &version, e)) ||
	    (rc = whit_json_text(j, r->file, "method", 1, &method, e)) ||
	    (rc = whit_json_text(j, r->file, "packing", 0, &packing, e)))
		return rc;
	if (!strcmp(method, "turboquant_prod"))
		return whit_fail(e, WHIT_EINPUT, "%s: method is %s, need one without sign planes (tq_qjl)", r->file,
		                 method);
	if (strcmp(packing, "lsb_le"))
		return whit_fail(e, WHIT_EINPUT, "%s: packing is %.40s, need lsb_le", r->file, packing);
	return 0;
}

int whit_manifest_read(whit_ckpt *c, whit_err *e) {
	reader r = {.c = c, .file = c->own->manifest_path};
	const char *weights;
	int rc = check_head(&r, &weights, e);
	if (rc || (rc = whit_json_member(c->manifest, r.file, "rotations", 0, JSON_OBJECT, &r.rotations, e)) ||
	    (rc = whit_json_member(c->manifest, r.file, "codebooks", 0, JSON_OBJECT, &r.codebooks, e)))
		return rc;
	/* A fuzzer brings its own weights. */
	if (!c->own->n_st && ((rc = whit_ckpt_open_file(c, whit_ckpt_text(c, "%s/%s", c->path, weights), e)) ||
	                      (rc = whit_ckpt_index(c, e))))
		return rc;
	if ((rc = open_sidecar(&r, e))) return rc;
	return read_entries(&r, e);
}
