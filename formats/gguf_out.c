/* gguf_out: writes a GGUF (ggml.md 1): version 3, little-endian, alignment 32, padded after the last tensor too
 * (llama.cpp's imatrix reader refuses a file cut there). general.alignment is never written: llama-quantize copies
 * that key and pads to 32 all the same. Pairs and infos are collected in memory and written with the first data, so
 * every tensor's place is known before its bytes are. The file appears under its name when it is whole. */
#include "formats/gguf.h"
#include <math.h>

enum { ALIGN = 32, NAME_MAX_BYTES = 63, ALIGNED = ALIGN - 1, VERSION = 3 };
#define STRING_MAX ((size_t)1 << 30)
#define ELEMENTS_MAX ((int64_t)1 << 30)

typedef struct out_tensor {
	uint64_t hash; /* of the name */
	char *name;
	const whit_ggml_type *type;
	int ndim;
	int64_t ne[4];
	uint64_t bytes;
} out_tensor;

typedef struct bytes {
	uint8_t *p;
	size_t n, room;
} bytes;

struct whit_gguf_out {
	whit_out out;
	bytes kv; /* as in the file */
	char **key;
	int64_t n_kv;
	out_tensor *t;
	int64_t n;
	int started;    /* the header is written: nothing can be added */
	int64_t at;     /* tensor that the next byte belongs to */
	uint64_t there; /* its bytes so far */
};

static const size_t kind_size[WHIT_GGUF_KINDS] = {
        [WHIT_GGUF_U8] = 1,  [WHIT_GGUF_I8] = 1,  [WHIT_GGUF_U16] = 2, [WHIT_GGUF_I16] = 2,
        [WHIT_GGUF_U32] = 4, [WHIT_GGUF_I32] = 4, [WHIT_GGUF_F32] = 4, [WHIT_GGUF_BOOL] = 1,
        [WHIT_GGUF_U64] = 8, [WHIT_GGUF_I64] = 8, [WHIT_GGUF_F64] = 8,
};

static void add(bytes *b, const void *p, size_t n) {
	if (b->n + n > b->room) {
		size_t room = WHIT_MAX(2 * b->room, b->n + n + 4096);
		b->p = whit_realloc(b->p, b->room, room);
		b->room = room;
	}
	if (n) memcpy(b->p + b->n, p, n);
	b->n += n;
}

static void add_u32(bytes *b, uint32_t v) { add(b, &v, 4); }
static void add_u64(bytes *b, uint64_t v) { add(b, &v, 8); }

static void add_text(bytes *b, const char *p, size_t n) {
	add_u64(b, n);
	add(b, p, n);
}

int whit_gguf_out_open(whit_gguf_out **out, const char *path, whit_err *e) {
	whit_gguf_out *o = whit_alloc(sizeof *o);
	int rc = whit_out_open(&o->out, path, e);
	*out = rc ? NULL : o;
	if (rc) whit_free(o);
	return rc;
}

/* ---- pairs ---- */

int whit_gguf_out_has(const whit_gguf_out *o, const char *key) {
	for (int64_t i = 0; i < o->n_kv; i++)
		if (!strcmp(o->key[i], key)) return 1;
	return 0;
}

static int text_fits(const whit_gguf_out *o, const char *key, size_t n, whit_err *e) {
	if (n <= STRING_MAX) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: key %s: string has %zu bytes, need at most %zu", o->out.path, key, n,
	                 STRING_MAX);
}

static int put_key(whit_gguf_out *o, const char *key, whit_err *e) {
	size_t n = strlen(key);
	if (!n || n > STRING_MAX || whit_gguf_out_has(o, key))
		return whit_fail(e, WHIT_EINTERNAL, "%s: key '%.64s' is %s, need a new name", o->out.path, key,
		                 !n               ? "empty"
		                 : n > STRING_MAX ? "beyond 1 GiB"
		                                  : "there already");
	if (o->started) return whit_fail(e, WHIT_EINTERNAL, "%s: key %s comes after the first data", o->out.path, key);
	o->key = whit_realloc(o->key, (size_t)o->n_kv * sizeof *o->key, (size_t)(o->n_kv + 1) * sizeof *o->key);
	o->key[o->n_kv++] = whit_strdup(key);
	add_text(&o->kv, key, n);
	return 0;
}

static int put_value(whit_gguf_out *o, const char *key, int kind, const void *v, whit_err *e) {
	int rc = put_key(o, key, e);
	if (rc) return rc;
	add_u32(&o->kv, (uint32_t)kind);
	add(&o->kv, v, kind_size[kind]);
	return 0;
}

int whit_gguf_put_u32(whit_gguf_out *o, const char *key, uint32_t v, whit_err *e) {
	return put_value(o, key, WHIT_GGUF_U32, &v, e);
}

int whit_gguf_put_i32(whit_gguf_out *o, const char *key, int32_t v, whit_err *e) {
	return put_value(o, key, WHIT_GGUF_I32, &v, e);
}

int whit_gguf_put_u16(whit_gguf_out *o, const char *key, uint16_t v, whit_err *e) {
	return put_value(o, key, WHIT_GGUF_U16, &v, e);
}

int whit_gguf_put_f32(whit_gguf_out *o, const char *key, float v, whit_err *e) {
	if (!isfinite(v))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: is %g, need a finite number", o->out.path, key,
		                 (double)v);
	return put_value(o, key, WHIT_GGUF_F32, &v, e);
}

int whit_gguf_put_bool(whit_gguf_out *o, const char *key, int v, whit_err *e) {
	return put_value(o, key, WHIT_GGUF_BOOL, &(uint8_t){v != 0}, e);
}

int whit_gguf_put_string(whit_gguf_out *o, const char *key, const char *text, whit_err *e) {
	size_t n = strlen(text);
	int rc = text_fits(o, key, n, e);
	if (rc || (rc = put_key(o, key, e))) return rc;
	add_u32(&o->kv, WHIT_GGUF_STRING);
	add_text(&o->kv, text, n);
	return 0;
}

/* Key and head of an array of n elements. */
static int put_array(whit_gguf_out *o, const char *key, int elem, int64_t n, whit_err *e) {
	if (n < 0 || n > ELEMENTS_MAX)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: array has %lld elements, need 0 to %lld", o->out.path,
		                 key, (long long)n, (long long)ELEMENTS_MAX);
	int rc = put_key(o, key, e);
	if (rc) return rc;
	add_u32(&o->kv, WHIT_GGUF_ARRAY);
	add_u32(&o->kv, (uint32_t)elem);
	add_u64(&o->kv, (uint64_t)n);
	return 0;
}

int whit_gguf_put_numbers(whit_gguf_out *o, const char *key, int elem, const void *v, int64_t n, whit_err *e) {
	if (elem < 0 || elem >= WHIT_GGUF_KINDS || !kind_size[elem])
		return whit_fail(e, WHIT_EINTERNAL, "%s: key %s: kind %d is no number", o->out.path, key, elem);
	if (elem == WHIT_GGUF_F32 && whit_first_nonfinite(v, n) >= 0)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: element %lld is NaN or Inf, need finite numbers",
		                 o->out.path, key, (long long)whit_first_nonfinite(v, n));
	int rc = put_array(o, key, elem, n, e);
	if (!rc) add(&o->kv, v, (size_t)n * kind_size[elem]);
	return rc;
}

int whit_gguf_put_strings(whit_gguf_out *o, const char *key, const whit_gguf_text *v, int64_t n, whit_err *e) {
	int rc = 0;
	for (int64_t i = 0; i < n && !rc; i++) rc = text_fits(o, key, v[i].n, e);
	if (rc || (rc = put_array(o, key, WHIT_GGUF_STRING, n, e))) return rc;
	for (int64_t i = 0; i < n; i++) add_text(&o->kv, v[i].p, v[i].n);
	return 0;
}

int whit_gguf_put_copy(whit_gguf_out *o, const whit_gguf_kv *kv, whit_err *e) {
	int rc = put_key(o, kv->key, e);
	if (!rc) add(&o->kv, kv->raw, kv->raw_bytes);
	return rc;
}

/* ---- tensors ---- */

int whit_gguf_out_tensor(whit_gguf_out *o, const char *name, const whit_ggml_type *type, int ndim, const int64_t *ne,
                         whit_err *e) {
	const char *path = o->out.path;
	uint64_t hash = whit_hash_u64(name);
	size_t len = strlen(name);
	if (o->started) return whit_fail(e, WHIT_EINTERNAL, "%s: tensor %s comes after the first data", path, name);
	if (!len || len > NAME_MAX_BYTES)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor '%.80s': name has %zu bytes, need 1 to %d", path, name,
		                 len, NAME_MAX_BYTES);
	for (int64_t i = 0; i < o->n; i++)
		if (o->t[i].hash == hash && !strcmp(o->t[i].name, name))
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %s is there already, need each name once", path,
			                 name);
	if (!type || !type->block || ndim < 1 || ndim > 4)
		return whit_fail(e, WHIT_EINTERNAL, "%s: tensor %s: type is %s, %d dimensions, need one of files, 1-4",
		                 path, name, type ? type->name : "none", ndim);

	out_tensor t = {.hash = hash, .type = type, .ndim = ndim, .ne = {1, 1, 1, 1}};
	int64_t count = 1;
	for (int i = 0; i < ndim; i++) {
		t.ne[i] = ne[i];
		if (ne[i] < 1 || __builtin_mul_overflow(count, ne[i], &count))
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: dimension %d is %lld, need 1 or more", path,
			                 name, i, (long long)ne[i]);
	}
	if (ne[0] % type->block)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: row has %lld weights, need a multiple of %d for %s",
		                 path, name, (long long)ne[0], type->block, type->name);
	if (__builtin_mul_overflow((uint64_t)(count / type->block), (uint64_t)type->bytes, &t.bytes) ||
	    t.bytes > INT64_MAX)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is larger than a file can be", path, name);
	t.name = whit_strdup(name);
	o->t = whit_realloc(o->t, (size_t)o->n * sizeof t, (size_t)(o->n + 1) * sizeof t);
	o->t[o->n++] = t;
	return 0;
}

static int pad(whit_gguf_out *o, whit_err *e) {
	static const uint8_t zero[ALIGN];
	return whit_out_write(&o->out, zero, -o->out.bytes & ALIGNED, e);
}

static int write_header(whit_gguf_out *o, whit_err *e) {
	bytes h = {0};
	uint64_t offset = 0;
	add(&h, "GGUF", 4);
	add_u32(&h, VERSION);
	add_u64(&h, (uint64_t)o->n);
	add_u64(&h, (uint64_t)o->n_kv);
	add(&h, o->kv.p, o->kv.n);
	for (int64_t i = 0; i < o->n; i++) {
		const out_tensor *t = &o->t[i];
		int n = t->ndim;
		while (n > 1 && t->ne[n - 1] == 1) n--; /* as other writers: trailing ones are not dimensions */
		add_text(&h, t->name, strlen(t->name));
		add_u32(&h, (uint32_t)n);
		add(&h, t->ne, (size_t)n * sizeof *t->ne);
		add_u32(&h, (uint32_t)t->type->id);
		add_u64(&h, offset);
		offset += (t->bytes + ALIGNED) & ~(uint64_t)ALIGNED;
	}
	o->started = 1;
	int rc = whit_out_write(&o->out, h.p, h.n, e);
	whit_free(h.p);
	return rc ? rc : pad(o, e);
}

int whit_gguf_out_write(whit_gguf_out *o, const void *p, size_t n, whit_err *e) {
	int rc = o->started ? 0 : write_header(o, e);
	const uint8_t *b = p;
	while (n && !rc) {
		if (o->at == o->n)
			return whit_fail(e, WHIT_EINTERNAL, "%s: %zu bytes of data after the last tensor", o->out.path,
			                 n);
		const out_tensor *t = &o->t[o->at];
		size_t k = (size_t)WHIT_MIN((uint64_t)n, t->bytes - o->there);
		rc = whit_out_write(&o->out, b, k, e);
		b += k;
		n -= k;
		o->there += k;
		if (o->there == t->bytes) {
			o->at++;
			o->there = 0;
			if (!rc) rc = pad(o, e);
		}
	}
	return rc;
}

static void out_free(whit_gguf_out *o) {
	for (int64_t i = 0; i < o->n_kv; i++) whit_free(o->key[i]);
	for (int64_t i = 0; i < o->n; i++) whit_free(o->t[i].name);
	whit_free(o->key);
	whit_free(o->t);
	whit_free(o->kv.p);
	whit_free(o);
}

int whit_gguf_out_commit(whit_gguf_out *o, whit_err *e) {
	int rc = o->started ? 0 : write_header(o, e);
	if (!rc && o->at < o->n)
		rc = whit_fail(e, WHIT_EINTERNAL, "%s: tensor %s: %llu of %llu bytes were written", o->out.path,
		               o->t[o->at].name, (unsigned long long)o->there, (unsigned long long)o->t[o->at].bytes);
	if (rc)
		whit_out_abort(&o->out);
	else
		rc = whit_out_commit(&o->out, e);
	out_free(o);
	return rc;
}

void whit_gguf_out_abort(whit_gguf_out *o) {
	if (!o) return;
	whit_out_abort(&o->out);
	out_free(o);
}
