/* gguf: reads one file of llama.cpp's container (ggml.md 1). Every claim is checked against the bytes that are there
 * before memory is taken for it or anything points at it; time and memory grow with the header, not with what it
 * claims. Refuses all that ggml.md 1 lists; nonzero padding and bytes after the last tensor are nobody's and ignored.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include "formats/gguf.h"

enum { MAGIC = 4, HEAD = 24, NAME_CAP = 63, ALIGNMENT = 32 };
static const uint64_t string_cap = 1ull << 30, array_cap = 1ull << 30;

/* Bytes of a number of each kind; 0 = none. */
static const uint8_t number_bytes[WHIT_GGUF_KINDS] = {
        [WHIT_GGUF_U8] = 1,  [WHIT_GGUF_I8] = 1,  [WHIT_GGUF_U16] = 2, [WHIT_GGUF_I16] = 2,
        [WHIT_GGUF_U32] = 4, [WHIT_GGUF_I32] = 4, [WHIT_GGUF_F32] = 4, [WHIT_GGUF_BOOL] = 1,
        [WHIT_GGUF_U64] = 8, [WHIT_GGUF_I64] = 8, [WHIT_GGUF_F64] = 8};
static const char *const kind_name[WHIT_GGUF_KINDS] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                       "bool", "string", "array", "u64", "i64", "f64"};

const char *whit_gguf_kind_name(int kind) { return kind >= 0 && kind < WHIT_GGUF_KINDS ? kind_name[kind] : "unknown"; }

/* ---- reading ---- */

/* What is left to read, and what is being read, for messages: "FILE: key K" or "FILE: tensor T". */
typedef struct cursor {
	const uint8_t *p;
	size_t left;
	char at[512];
} cursor;

static int need_bytes(const cursor *c, uint64_t n, const char *what, whit_err *e) {
	if (n <= c->left) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: %s is %llu bytes, need at most the %zu that are left (is the file cut?)",
	                 c->at, what, (unsigned long long)n, c->left);
}

static const uint8_t *take(cursor *c, size_t n) {
	const uint8_t *p = c->p;
	c->p += n;
	c->left -= n;
	return p;
}

static int read_u32(cursor *c, const char *what, uint32_t *v, whit_err *e) {
	int rc = need_bytes(c, 4, what, e);
	if (!rc) *v = whit_load_u32(take(c, 4));
	return rc;
}

static int read_u64(cursor *c, const char *what, uint64_t *v, whit_err *e) {
	int rc = need_bytes(c, 8, what, e);
	if (!rc) *v = whit_load_u64(take(c, 8));
	return rc;
}

static int read_text(cursor *c, const char *what, whit_gguf_text *t, whit_err *e) {
	uint64_t n = 0;
	int rc = read_u64(c, what, &n, e);
	if (rc) return rc;
	if (n > string_cap)
		return whit_fail(e, WHIT_EINPUT, "%s: %s is %llu bytes, need at most %llu", c->at, what,
		                 (unsigned long long)n, (unsigned long long)string_cap);
	if ((rc = need_bytes(c, n, what, e))) return rc;
	*t = (whit_gguf_text){(const char *)take(c, (size_t)n), (size_t)n};
	return 0;
}

/* A key or a tensor's name, as a C string in the arena. */
static int read_name(whit_gguf *g, cursor *c, const char *what, char **name, whit_err *e) {
	whit_gguf_text t = {0};
	int rc = read_text(c, what, &t, e);
	if (rc) return rc;
	if (t.n == 0) return whit_fail(e, WHIT_EINPUT, "%s: %s is empty, need text", c->at, what);
	*name = whit_take_bytes(&g->arena, t.n + 1);
	memcpy(*name, t.p, t.n);
	(*name)[t.n] = 0;
	json_t *text = json_stringn(*name, t.n); /* NULL if it is not UTF-8 */
	int bad = !text;
	for (size_t i = 0; i < t.n; i++) bad |= (unsigned char)t.p[i] < ' ' || t.p[i] == 0x7f;
	json_decref(text);
	return bad ? whit_fail(e, WHIT_EINPUT, "%s: %s is binary, need UTF-8 without control characters", c->at, what)
	           : 0;
}

/* n strings, checked; then a table of them: memory is taken only for strings that are there. */
static int read_strings(whit_gguf *g, cursor *c, whit_gguf_kv *kv, whit_err *e) {
	cursor first = *c;
	whit_gguf_text t;
	int rc = 0;
	for (int64_t i = 0; i < kv->n && !rc; i++) rc = read_text(c, "a string", &t, e);
	if (rc) return rc;
	*c = first;
	kv->text = whit_take_bytes(&g->arena, (size_t)kv->n * sizeof *kv->text);
	for (int64_t i = 0; i < kv->n && !rc; i++) rc = read_text(c, "a string", &kv->text[i], e);
	if (rc || kv->kind != WHIT_GGUF_STRING) return rc;
	char *copy = whit_take_bytes(&g->arena, kv->text[0].n + 1); /* getters promise a NUL */
	memcpy(copy, kv->text[0].p, kv->text[0].n);
	copy[kv->text[0].n] = 0;
	kv->text[0].p = copy;
	return 0;
}

static int read_kind(cursor *c, const char *what, int *kind, whit_err *e) {
	uint32_t v = 0;
	int rc = read_u32(c, what, &v, e);
	if (!rc && v >= WHIT_GGUF_KINDS)
		rc = whit_fail(e, WHIT_EINPUT, "%s: %s is %u, need 0 to %d", c->at, what, v, WHIT_GGUF_KINDS - 1);
	*kind = (int)v;
	return rc;
}

static int read_kv(whit_gguf *g, cursor *c, whit_gguf_kv *kv, whit_err *e) {
	snprintf(c->at, sizeof c->at, "%s: pair %lld", g->name, (long long)g->n_kv);
	int rc = read_name(g, c, "key", &kv->key, e);
	if (rc) return rc;
	snprintf(c->at, sizeof c->at, "%.300s: key %.200s", g->name, kv->key);
	kv->raw = c->p;
	if ((rc = read_kind(c, "value type", &kv->kind, e))) return rc;
	kv->elem = kv->kind;
	kv->n = 1;
	if (kv->kind == WHIT_GGUF_ARRAY) {
		uint64_t n = 0;
		if ((rc = read_kind(c, "array's type", &kv->elem, e)) || (rc = read_u64(c, "array's length", &n, e)))
			return rc;
		if (kv->elem == WHIT_GGUF_ARRAY)
			return whit_fail(e, WHIT_EINPUT, "%s: is an array of arrays, need one of numbers or strings",
			                 c->at);
		if (n > array_cap)
			return whit_fail(e, WHIT_EINPUT, "%s: array has %llu elements, need at most %llu", c->at,
			                 (unsigned long long)n, (unsigned long long)array_cap);
		kv->n = (int64_t)n;
	}
	size_t each = number_bytes[kv->elem];
	if (each) {
		if ((rc = need_bytes(c, (uint64_t)kv->n * each, "value", e))) return rc;
		kv->data = take(c, (size_t)kv->n * each);
	} else if ((rc = read_strings(g, c, kv, e))) {
		return rc;
	}
	kv->raw_bytes = (size_t)(c->p - kv->raw);
	return 0;
}

/* Name, dimensions and type; bytes follow from them. */
static int read_tensor(whit_gguf *g, cursor *c, whit_gguf_tensor *t, uint64_t *offset, whit_err *e) {
	uint32_t ndim = 0, id = 0;
	uint64_t v = 0;
	int64_t count = 1, bytes;
	snprintf(c->at, sizeof c->at, "%s: tensor %lld", g->name, (long long)g->n);
	int rc = read_name(g, c, "name", &t->name, e);
	if (rc) return rc;
	snprintf(c->at, sizeof c->at, "%.300s: tensor %.100s", g->name, t->name);
	if (strlen(t->name) > NAME_CAP)
		return whit_fail(e, WHIT_EINPUT, "%s: name is %zu bytes, need at most %d", c->at, strlen(t->name),
		                 NAME_CAP);
	if ((rc = read_u32(c, "number of dimensions", &ndim, e))) return rc;
	if (ndim > 4) return whit_fail(e, WHIT_EINPUT, "%s: has %u dimensions, need at most 4", c->at, ndim);
	t->ndim = (int)ndim;
	for (int i = 0; i < 4; i++) {
		t->ne[i] = 1;
		if (i >= t->ndim) continue;
		if ((rc = read_u64(c, "dimension", &v, e))) return rc;
		t->ne[i] = (int64_t)v;
		if (t->ne[i] < 0)
			return whit_fail(e, WHIT_EINPUT, "%s: dimension %d is %lld, need 0 or more", c->at, i,
			                 (long long)t->ne[i]);
	}
	for (int i = 0; i < 4; i++)
		if (__builtin_mul_overflow(count, t->ne[i], &count))
			return whit_fail(e, WHIT_EINPUT, "%s: dimensions' product is 2^63 or more, need less", c->at);
	if ((rc = read_u32(c, "type", &id, e)) || (rc = read_u64(c, "offset", offset, e))) return rc;
	t->type = id <= INT32_MAX ? whit_ggml_type_of((int)id) : NULL;
	if (!t->type) return whit_fail(e, WHIT_EINPUT, "%s: type is %u, which is unknown", c->at, id);
	if (!t->type->block)
		return whit_fail(e, WHIT_EINPUT, "%s: type is %u (%s), which files do not hold (any more)", c->at, id,
		                 t->type->name);
	if (t->ne[0] % t->type->block)
		return whit_fail(e, WHIT_EINPUT, "%s: rows are %lld long, need a multiple of %s's block of %d", c->at,
		                 (long long)t->ne[0], t->type->name, t->type->block);
	if (__builtin_mul_overflow(count / t->type->block, (int64_t)t->type->bytes, &bytes))
		return whit_fail(e, WHIT_EINPUT, "%s: is 2^63 bytes or more, need less", c->at);
	t->bytes = (size_t)bytes;
	t->file = g->name;
	return 0;
}

/* ---- the whole ---- */

static const char *key_of(const void *p) { return (*(const whit_gguf_kv *const *)p)->key; }
static const char *name_of(const void *p) { return (*(const whit_gguf_tensor *const *)p)->name; }
static int by_key(const void *a, const void *b) { return strcmp(key_of(a), key_of(b)); }
static int by_name(const void *a, const void *b) { return strcmp(name_of(a), name_of(b)); }

/* Tables sorted by name, to find with; the same name twice is an error. */
static int sort_names(whit_gguf *g, whit_err *e) {
	g->kv_by_key = whit_take_bytes(&g->arena, (size_t)g->n_kv * sizeof *g->kv_by_key);
	g->t_by_name = whit_take_bytes(&g->arena, (size_t)g->n * sizeof *g->t_by_name);
	for (int64_t i = 0; i < g->n_kv; i++) g->kv_by_key[i] = &g->kv[i];
	for (int64_t i = 0; i < g->n; i++) g->t_by_name[i] = &g->t[i];
	qsort(g->kv_by_key, (size_t)g->n_kv, sizeof *g->kv_by_key, by_key);
	qsort(g->t_by_name, (size_t)g->n, sizeof *g->t_by_name, by_name);
	for (int64_t i = 1; i < g->n_kv; i++)
		if (!by_key(&g->kv_by_key[i - 1], &g->kv_by_key[i]))
			return whit_fail(e, WHIT_EINPUT, "%s: key %.200s: is there twice, need once", g->name,
			                 g->kv_by_key[i]->key);
	for (int64_t i = 1; i < g->n; i++)
		if (!by_name(&g->t_by_name[i - 1], &g->t_by_name[i]))
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is there twice, need once",
			                 g->t_by_name[i]->file, g->t_by_name[i]->name);
	return 0;
}

int whit_gguf_join(whit_gguf *g, const whit_gguf *part, int64_t n, whit_err *e) {
	*g = (whit_gguf){.name = part->name, .version = part->version, .alignment = part->alignment};
	for (int64_t i = 0; i < n; i++) g->n += part[i].n;
	g->n_kv = part->n_kv;
	g->kv = memcpy(whit_alloc((size_t)(g->n_kv + 1) * sizeof *g->kv), part->kv, (size_t)g->n_kv * sizeof *g->kv);
	whit_gguf_tensor *t = g->t = whit_alloc((size_t)(g->n + 1) * sizeof *t);
	for (int64_t i = 0; i < n; t += part[i++].n)
		if (part[i].n) memcpy(t, part[i].t, (size_t)part[i].n * sizeof *t);
	return sort_names(g, e);
}

/* Points every tensor at its bytes: each begins where the one before it ends, padded. offset: as the infos say. */
static int place_tensors(whit_gguf *g, const uint8_t *data, size_t n, size_t infos_end, const uint64_t *offset,
                         whit_err *e) {
	uint64_t align = (uint64_t)g->alignment, base = (infos_end + align - 1) / align * align, at = 0;
	for (int64_t i = 0; i < g->n; i++) {
		whit_gguf_tensor *t = &g->t[i];
		if (offset[i] % align)
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: offset is %llu, need a multiple of %lld",
			                 g->name, t->name, (unsigned long long)offset[i], (long long)g->alignment);
		if (offset[i] != at)
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: tensor %s: offset is %llu, need %llu, where the one before it ends",
			                 g->name, t->name, (unsigned long long)offset[i], (unsigned long long)at);
		if (base > n || at > n - base || t->bytes > n - base - at)
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: tensor %s: is %zu bytes from %llu on, need an end within the file's %zu "
			                 "(is it cut?)",
			                 g->name, t->name, t->bytes, (unsigned long long)(base + at), n);
		t->offset = base + at;
		t->data = data + t->offset;
		at += (t->bytes + align - 1) / align * align; /* no overflow: bytes are under n, align under 2^32 */
	}
	return 0;
}

static int read_alignment(whit_gguf *g, whit_err *e) {
	const whit_gguf_kv *kv = whit_gguf_find(g, "general.alignment");
	g->alignment = ALIGNMENT;
	if (!kv) return 0;
	if (kv->kind != WHIT_GGUF_U32)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: is %s, need u32", g->name, kv->key,
		                 whit_gguf_kind_name(kv->kind));
	g->alignment = whit_load_u32(kv->data);
	if (g->alignment == 0 || g->alignment & (g->alignment - 1))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: is %lld, need a power of two", g->name, kv->key,
		                 (long long)g->alignment);
	return 0;
}

/* Magic, version and the two counts; of these the least a pair and an info take bounds what may follow. */
static int read_head(whit_gguf *g, cursor *c, int64_t *n_tensors, int64_t *n_kv, whit_err *e) {
	enum { LEAST_KV = 8 + 1 + 4 + 1, LEAST_TENSOR = 8 + 1 + 4 + 4 + 8 };
	snprintf(c->at, sizeof c->at, "%s", g->name);
	if (c->left < MAGIC || memcmp(c->p, "GGUF", MAGIC))
		return whit_fail(e, WHIT_EINPUT, "%s: does not begin with \"GGUF\", need a GGUF file", g->name);
	if (c->left < HEAD)
		return whit_fail(e, WHIT_EINPUT, "%s: is %zu bytes, need at least %d for the head (is it cut?)",
		                 g->name, c->left, HEAD);
	take(c, MAGIC);
	uint32_t version = whit_load_u32(take(c, 4));
	if (version && !(version & 0xffff))
		return whit_fail(e, WHIT_EINPUT, "%s: is big-endian GGUF, need little-endian", g->name);
	if (version < 2 || version > 3)
		return whit_fail(e, WHIT_EINPUT, "%s: is GGUF version %u, need 2 or 3", g->name, version);
	g->version = (int)version;
	*n_tensors = (int64_t)whit_load_u64(take(c, 8));
	*n_kv = (int64_t)whit_load_u64(take(c, 8));
	if (*n_kv < 0 || (uint64_t)*n_kv > c->left / LEAST_KV)
		return whit_fail(e, WHIT_EINPUT, "%s: has %lld pairs, need 0 to %zu, as the bytes allow", g->name,
		                 (long long)*n_kv, c->left / LEAST_KV);
	if (*n_tensors < 0 || (uint64_t)*n_tensors > c->left / LEAST_TENSOR)
		return whit_fail(e, WHIT_EINPUT, "%s: has %lld tensors, need 0 to %zu, as the bytes allow", g->name,
		                 (long long)*n_tensors, c->left / LEAST_TENSOR);
	return 0;
}

/* Room for one more: arrays double at powers of two, so that memory follows what was read. */
static void *grow(void *p, int64_t n, size_t each) {
	if (n & (n - 1)) return p;
	return whit_realloc(p, (size_t)n * each, (size_t)(n ? 2 * n : 1) * each);
}

/* g->map.path is the name; g owns whatever else it has. */
static int parse(whit_gguf *g, const uint8_t *data, size_t n, whit_err *e) {
	cursor c = {.p = data, .left = n};
	int64_t n_tensors = 0, n_kv = 0;
	uint64_t *offset = NULL;
	g->name = g->map.path;
	int rc = read_head(g, &c, &n_tensors, &n_kv, e);
	for (; g->n_kv < n_kv && !rc; g->n_kv++) {
		g->kv = grow(g->kv, g->n_kv, sizeof *g->kv);
		rc = read_kv(g, &c, &g->kv[g->n_kv], e);
	}
	for (; g->n < n_tensors && !rc; g->n++) {
		g->t = grow(g->t, g->n, sizeof *g->t);
		offset = grow(offset, g->n, sizeof *offset);
		rc = read_tensor(g, &c, &g->t[g->n], &offset[g->n], e);
	}
	if (!rc) rc = sort_names(g, e);
	if (!rc) rc = read_alignment(g, e);
	if (!rc) rc = place_tensors(g, data, n, n - c.left, offset, e);
	whit_free(offset);
	return rc;
}

int whit_gguf_open(whit_gguf *g, const char *path, whit_err *e) {
	memset(g, 0, sizeof *g);
	int rc = whit_map_open(&g->map, path, e);
	if (!rc) rc = parse(g, g->map.data, g->map.bytes, e);
	if (rc) whit_gguf_close(g);
	return rc;
}

int whit_gguf_parse(whit_gguf *g, const uint8_t *data, size_t n, const char *name, whit_err *e) {
	memset(g, 0, sizeof *g);
	g->map.path = whit_strdup(name);
	int rc = parse(g, data, n, e);
	if (rc) whit_gguf_close(g);
	return rc;
}

void whit_gguf_close(whit_gguf *g) {
	whit_free(g->kv);
	whit_free(g->t);
	whit_arena_free(&g->arena);
	whit_map_close(&g->map); /* of whit_gguf_parse: only the name */
	memset(g, 0, sizeof *g);
}

int whit_gguf_is(const char *path) {
	whit_map m;
	whit_err e;
	if (whit_map_open(&m, path, &e)) return 0;
	int is = m.bytes >= MAGIC && !memcmp(m.data, "GGUF", MAGIC);
	whit_map_close(&m);
	return is;
}

/* ---- finding ---- */

const whit_gguf_kv *whit_gguf_find(const whit_gguf *g, const char *key) {
	whit_gguf_kv k = {.key = (char *)(uintptr_t)key}, *p = &k;
	whit_gguf_kv **found = bsearch(&p, g->kv_by_key, (size_t)g->n_kv, sizeof p, by_key);
	return found ? *found : NULL;
}

const whit_gguf_tensor *whit_gguf_tensor_find(const whit_gguf *g, const char *name) {
	whit_gguf_tensor t = {.name = (char *)(uintptr_t)name}, *p = &t;
	whit_gguf_tensor **found = bsearch(&p, g->t_by_name, (size_t)g->n, sizeof p, by_name);
	return found ? *found : NULL;
}

/* The pair, or NULL: absent (rc 0 unless required), or of no kind that the mask `kinds` has. */
static int find_kind(const whit_gguf *g, const char *key, int required, unsigned kinds, const char *need,
                     const whit_gguf_kv **kv, whit_err *e) {
	*kv = whit_gguf_find(g, key);
	if (!*kv)
		return required ? whit_fail(e, WHIT_EINPUT, "%s: key %s: is missing, need %s", g->name, key, need) : 0;
	if (kinds >> (*kv)->kind & 1) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: key %s: is %s, need %s", g->name, key, whit_gguf_kind_name((*kv)->kind),
	                 need);
}

int whit_gguf_element(const whit_gguf_kv *kv, int64_t i, int64_t *v) {
	const uint8_t *p = kv->data + (size_t)i * number_bytes[kv->elem];
	uint64_t u = 0;
	switch (kv->elem) {
	case WHIT_GGUF_U8:
		*v = *p;
		return 0;
	case WHIT_GGUF_I8:
		*v = (int8_t)*p;
		return 0;
	case WHIT_GGUF_U16:
		*v = whit_load_u16(p);
		return 0;
	case WHIT_GGUF_I16:
		*v = (int16_t)whit_load_u16(p);
		return 0;
	case WHIT_GGUF_U32:
		*v = whit_load_u32(p);
		return 0;
	case WHIT_GGUF_I32:
		*v = (int32_t)whit_load_u32(p);
		return 0;
	case WHIT_GGUF_I64:
		*v = (int64_t)whit_load_u64(p);
		return 0;
	case WHIT_GGUF_U64:
		u = whit_load_u64(p);
		*v = (int64_t)u;
		return u > INT64_MAX ? -1 : 0;
	default:
		return -1;
	}
}

int whit_gguf_int(const whit_gguf *g, const char *key, int required, int64_t lo, int64_t hi, int64_t *v, whit_err *e) {
	const unsigned kinds = 1u << WHIT_GGUF_U8 | 1u << WHIT_GGUF_I8 | 1u << WHIT_GGUF_U16 | 1u << WHIT_GGUF_I16 |
	                       1u << WHIT_GGUF_U32 | 1u << WHIT_GGUF_I32 | 1u << WHIT_GGUF_U64 | 1u << WHIT_GGUF_I64;
	const whit_gguf_kv *kv;
	int64_t x = 0;
	int rc = find_kind(g, key, required, kinds, "an integer", &kv, e);
	if (rc || !kv) return rc;
	if (whit_gguf_element(kv, 0, &x))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: is 2^63 or more, need less", g->name, key);
	if (x < lo || x > hi)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: is %lld, need %lld to %lld", g->name, key, (long long)x,
		                 (long long)lo, (long long)hi);
	*v = x;
	return 0;
}

int whit_gguf_real(const whit_gguf *g, const char *key, int required, double lo, double hi, double *v, whit_err *e) {
	const whit_gguf_kv *kv;
	int rc = find_kind(g, key, required, 1u << WHIT_GGUF_F32 | 1u << WHIT_GGUF_F64, "f32 or f64", &kv, e);
	if (rc || !kv) return rc;
	double x;
	if (kv->kind == WHIT_GGUF_F32)
		x = whit_load_f32(kv->data);
	else
		memcpy(&x, kv->data, sizeof x);
	if (!(x >= lo && x <= hi))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: is %g, need %g to %g", g->name, key, x, lo, hi);
	*v = x;
	return 0;
}

int whit_gguf_bool(const whit_gguf *g, const char *key, int required, int *v, whit_err *e) {
	const whit_gguf_kv *kv;
	int rc = find_kind(g, key, required, 1u << WHIT_GGUF_BOOL, "bool", &kv, e);
	if (!rc && kv) *v = kv->data[0] != 0;
	return rc;
}

int whit_gguf_string(const whit_gguf *g, const char *key, int required, const char **text, whit_err *e) {
	const whit_gguf_kv *kv;
	int rc = find_kind(g, key, required, 1u << WHIT_GGUF_STRING, "string", &kv, e);
	if (rc || !kv) return rc;
	if (memchr(kv->text[0].p, 0, kv->text[0].n))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: holds a NUL, need text", g->name, key);
	*text = kv->text[0].p;
	return 0;
}

int whit_gguf_array(const whit_gguf *g, const char *key, int required, int elem, const whit_gguf_kv **kv, whit_err *e) {
	const whit_gguf_kv *found;
	int rc = find_kind(g, key, required, 1u << WHIT_GGUF_ARRAY, "array", &found, e);
	if (rc || !found) return rc;
	if (found->elem != elem)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: is an array of %s, need one of %s", g->name, key,
		                 whit_gguf_kind_name(found->elem), whit_gguf_kind_name(elem));
	*kv = found;
	return 0;
}
