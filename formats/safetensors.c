/* safetensors: [u64 n, little-endian][n bytes of JSON][data]. The header is a stranger's word: each claim is
 * checked against the file's size before anything points there. Refuses all that safetensors.h lists. */
#include <ctype.h>
#include <stdlib.h>
#include <strings.h>
#include "formats/json.h"
#include "formats/safetensors.h"

enum { HEADER_CAP = 100000000, LENGTH = 8 };

/* ---- reading ---- */

/* What a file is that is not safetensors, or NULL. */
static const char *other_format(const uint8_t *d, size_t n) {
	static const struct {
		const char *magic;
		size_t n;
		const char *what;
	} known[] = {
	        {"version https://git-lfs", 23, "a Git-LFS pointer (the weights were not fetched)"},
	        {"PK\3\4", 4, "a zip archive (a PyTorch pickle, which is never unpickled)"},
	        {"\x80\2", 2, "a Python pickle, which is never unpickled"},
	        {"\x80\3", 2, "a Python pickle, which is never unpickled"},
	        {"\x80\4", 2, "a Python pickle, which is never unpickled"},
	        {"\x80\5", 2, "a Python pickle, which is never unpickled"},
	        {"GGUF", 4, "a GGUF file"},
	        {"\x1f\x8b", 2, "gzip data"},
	};
	for (int64_t i = 0; i < WHIT_COUNT(known); i++)
		if (n >= known[i].n && !memcmp(d, known[i].magic, known[i].n)) return known[i].what;
	size_t i = 0;
	while (i < n && isspace(d[i])) i++;
	static const char *const page[] = {"<!doctype", "<html", "<?xml", "<head"};
	for (int64_t k = 0; k < WHIT_COUNT(page); k++)
		if (n - i >= strlen(page[k]) && !strncasecmp((const char *)d + i, page[k], strlen(page[k])))
			return "an HTML or XML page";
	return NULL;
}

static int read_shape(whit_tensor *t, const json_t *info, uint64_t *bytes, whit_err *e) {
	const json_t *shape, *v;
	size_t i;
	char what[320];
	snprintf(what, sizeof what, "%s: tensor %.200s", t->file, t->name);
	int rc = whit_json_member(info, what, "shape", 1, JSON_ARRAY, &shape, e);
	if (rc) return rc;
	if (json_array_size(shape) > WHIT_DIMS)
		return whit_fail(e, WHIT_EINPUT, "%s: has %zu dimensions, need at most %d", what,
		                 json_array_size(shape), WHIT_DIMS);
	t->ndim = (int)json_array_size(shape);
	*bytes = whit_dtype_size(t->dtype);
	json_array_foreach(shape, i, v) {
		if (!json_is_integer(v) || json_integer_value(v) <= 0)
			return whit_fail(e, WHIT_EINPUT, "%s: dimension %zu is %s%s, need a positive integer", what, i,
			                 json_is_integer(v) ? json_integer_value(v) ? "negative " : "zero " : "",
			                 whit_json_kind(v));
		t->shape[i] = json_integer_value(v);
		if (__builtin_mul_overflow(*bytes, (uint64_t)t->shape[i], bytes) || *bytes > INT64_MAX)
			return whit_fail(e, WHIT_EINPUT, "%s: shape times %zu bytes is over 2^63, need less", what,
			                 whit_dtype_size(t->dtype));
	}
	return 0;
}

/* One header entry; space is the number of data bytes in the file, base where they begin. */
static int read_tensor(whit_tensor *t, const json_t *info, const uint8_t *base, uint64_t space, whit_err *e) {
	char what[320];
	const char *dtype;
	const json_t *at;
	uint64_t need = 0;
	snprintf(what, sizeof what, "%s: tensor %.200s", t->file, t->name);
	int rc = whit_json_text(info, what, "dtype", 1, &dtype, e);
	if (rc) return rc;
	if ((t->dtype = whit_dtype_parse(dtype, strlen(dtype))) < 0)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: dtype is %.40s, need BOOL, U8 to I64, F16, BF16, F32, F64, F8_E4M3 or F8_E5M2",
		                 what, dtype);
	if ((rc = read_shape(t, info, &need, e)) ||
	    (rc = whit_json_member(info, what, "data_offsets", 1, JSON_ARRAY, &at, e)))
		return rc;
	const json_t *b = json_array_get(at, 0), *c = json_array_get(at, 1);
	if (json_array_size(at) != 2 || !json_is_integer(b) || !json_is_integer(c))
		return whit_fail(e, WHIT_EINPUT, "%s: data_offsets is %zu values, need two integers", what,
		                 json_array_size(at));
	long long begin = json_integer_value(b), end = json_integer_value(c);
	if (begin < 0) return whit_fail(e, WHIT_EINPUT, "%s: data begins at %lld, need 0 or more", what, begin);
	if (end < begin)
		return whit_fail(e, WHIT_EINPUT, "%s: data_offsets are reversed: end is %lld, begin is %lld", what, end,
		                 begin);
	if ((uint64_t)end > space)
		return whit_fail(e, WHIT_EINPUT, "%s: data ends at %lld, need at most %llu (is the file truncated?)",
		                 what, end, (unsigned long long)space);
	if ((uint64_t)(end - begin) != need) {
		char shape[96];
		whit_shape_text(t->shape, t->ndim, shape);
		return whit_fail(e, WHIT_EINPUT, "%s: is %lld bytes, need %llu for %s %s", what, end - begin,
		                 (unsigned long long)need, dtype, shape);
	}
	t->data = base + begin;
	t->bytes = (size_t)need;
	return 0;
}

static int read_meta(whit_st *s, const json_t *meta, const char *name, whit_err *e) {
	const char *key;
	json_t *v;
	if (!json_is_object(meta))
		return whit_fail(e, WHIT_EINPUT, "%s: __metadata__ is %s, need object", name, whit_json_kind(meta));
	s->meta = whit_alloc((2 * json_object_size(meta) + 1) * sizeof *s->meta);
	json_object_foreach((json_t *)(uintptr_t)meta, key, v) {
		if (!json_is_string(v))
			return whit_fail(e, WHIT_EINPUT, "%s: __metadata__ key %.200s is %s, need string", name, key,
			                 whit_json_kind(v));
		s->meta[2 * s->n_meta] = whit_strdup(key);
		s->meta[2 * s->n_meta++ + 1] = whit_strdup(json_string_value(v));
	}
	return 0;
}

static int by_offset(const void *a, const void *b) {
	const whit_tensor *x = a, *y = b;
	return x->data != y->data ? (x->data < y->data ? -1 : 1) : strcmp(x->name, y->name);
}

/* Sorts by offset; the tensors must tile the data exactly. */
static int check_tiling(whit_st *s, const uint8_t *base, uint64_t space, const char *name, whit_err *e) {
	qsort(s->t, (size_t)s->n, sizeof *s->t, by_offset);
	const uint8_t *at = base;
	for (int64_t i = 0; i < s->n; i++) {
		const whit_tensor *t = &s->t[i];
		if (t->data != at)
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: begins at %lld, %s of %.200s at %lld",
			                 name, t->name, (long long)(t->data - base),
			                 t->data < at ? "overlapping the end" : "a gap after the end",
			                 i ? s->t[i - 1].name : "the header", (long long)(at - base));
		at += t->bytes;
	}
	if ((uint64_t)(at - base) != space)
		return whit_fail(e, WHIT_EINPUT, "%s: data is %llu bytes, need %lld as the last tensor ends", name,
		                 (unsigned long long)space, (long long)(at - base));
	return 0;
}

static int read_header(whit_st *s, const json_t *head, const uint8_t *base, uint64_t space, whit_err *e) {
	const char *key, *name = s->map.path;
	json_t *v;
	int rc = 0;
	if (!json_is_object(head))
		return whit_fail(e, WHIT_EINPUT, "%s: header is %s, need object", name, whit_json_kind(head));
	s->t = whit_alloc((json_object_size(head) + 1) * sizeof *s->t);
	json_object_foreach((json_t *)(uintptr_t)head, key, v) {
		if (!strcmp(key, "__metadata__")) {
			if ((rc = read_meta(s, v, name, e))) return rc;
			continue;
		}
		whit_tensor *t = &s->t[s->n++];
		t->name = whit_strdup(key);
		t->file = name;
		if ((rc = read_tensor(t, v, base, space, e))) return rc;
	}
	return check_tiling(s, base, space, name, e);
}

/* s->map.path is the name; s owns whatever else it has. */
static int parse(whit_st *s, const uint8_t *data, size_t n, whit_err *e) {
	const char *name = s->map.path;
	if (n == 0) return whit_fail(e, WHIT_EINPUT, "%s: is empty, need safetensors", name);
	const char *other = n > LENGTH && data[LENGTH] == '{' ? NULL : other_format(data, n);
	if (other) return whit_fail(e, WHIT_EINPUT, "%s: is %s, need safetensors", name, other);
	if (n < LENGTH)
		return whit_fail(e, WHIT_EINPUT, "%s: is %zu bytes, need at least %d for the header's length", name, n,
		                 LENGTH);
	uint64_t head = whit_load_u64(data);
	if (head > HEADER_CAP)
		return whit_fail(e, WHIT_EINPUT, "%s: header length is %llu, need at most %d", name,
		                 (unsigned long long)head, HEADER_CAP);
	if (head > n - LENGTH)
		return whit_fail(
		        e, WHIT_EINPUT,
		        "%s: header length is %llu, need at most the %zu bytes that follow (is the file truncated?)",
		        name, (unsigned long long)head, n - LENGTH);
	if (head == 0 || data[LENGTH] != '{')
		return whit_fail(e, WHIT_EINPUT, "%s: header does not begin with '{'", name);
	json_t *j;
	int rc = whit_json_parse(&j, (const char *)data + LENGTH, (size_t)head, name, e);
	if (rc) return rc;
	rc = read_header(s, j, data + LENGTH + head, n - LENGTH - head, e);
	json_decref(j);
	return rc;
}

int whit_st_open(whit_st *s, const char *path, whit_err *e) {
	memset(s, 0, sizeof *s);
	int rc = whit_map_open(&s->map, path, e);
	if (!rc) rc = parse(s, s->map.data, s->map.bytes, e);
	if (rc) whit_st_close(s);
	return rc;
}

int whit_st_parse(whit_st *s, const uint8_t *data, size_t n, const char *name, whit_err *e) {
	memset(s, 0, sizeof *s);
	s->map.path = whit_strdup(name);
	int rc = parse(s, data, n, e);
	if (rc) whit_st_close(s);
	return rc;
}

void whit_st_close(whit_st *s) {
	for (int64_t i = 0; i < s->n; i++) whit_free(s->t[i].name);
	for (int64_t i = 0; i < 2 * s->n_meta; i++) whit_free(s->meta[i]);
	whit_free(s->t);
	whit_free(s->meta);
	whit_map_close(&s->map); /* of whit_st_parse: only the name */
	memset(s, 0, sizeof *s);
}

const whit_tensor *whit_st_find(const whit_st *s, const char *name) {
	for (int64_t i = 0; i < s->n; i++)
		if (!strcmp(s->t[i].name, name)) return &s->t[i];
	return NULL;
}

/* ---- writing ---- */

struct whit_st_out {
	whit_out out;
	char *path;
	size_t room; /* header bytes reserved */
	json_t *head, *meta;
	const char *tensor;   /* the one begun last; borrowed from head */
	uint64_t begun, left; /* where it began in the data, bytes still to come */
};

/* The header as text; every name in it was accepted as UTF-8, so NULL cannot be. */
static char *dump(const json_t *j, size_t *n) {
	char *t = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
	*n = t ? strlen(t) : 0;
	return t;
}

size_t whit_st_header_bound(const char *name) {
	/* "NAME":{"dtype":"F8_E4M3","shape":[],"data_offsets":[,]}, and its numbers: the dimensions' product is
	 * under 2^63, so they have at most 19 + WHIT_DIMS digits and WHIT_DIMS - 1 commas; offsets have 19 each. */
	enum { FIXED = sizeof ":{\"dtype\":\"F8_E4M3\",\"shape\":[],\"data_offsets\":[,]}," + 19 + 2 * WHIT_DIMS + 38 };
	json_t *s = json_string(name);
	size_t n;
	char *t = s ? dump(s, &n) : NULL;
	if (!t) n = 0; /* not UTF-8: whit_st_out_begin refuses it */
	free(t);
	json_decref(s);
	return n + FIXED;
}

int whit_st_out_open(whit_st_out **out, const char *path, size_t header_bytes, whit_err *e) {
	enum { EMPTY = sizeof "{\"__metadata__\":{}}", ALIGN = 64 };
	whit_st_out *o = whit_alloc(sizeof *o);
	o->room = (LENGTH + header_bytes + EMPTY + ALIGN - 1) / ALIGN * ALIGN - LENGTH;
	*out = NULL;
	int rc = whit_out_open(&o->out, path, e);
	if (rc) {
		whit_free(o);
		return rc;
	}
	o->path = whit_strdup(path);
	o->head = json_object();
	o->meta = json_object();
	json_object_set(o->head, "__metadata__", o->meta);
	char *blank = whit_alloc(LENGTH + o->room);
	rc = whit_out_write(&o->out, blank, LENGTH + o->room, e);
	whit_free(blank);
	if (rc)
		whit_st_out_abort(o);
	else
		*out = o;
	return rc;
}

int whit_st_out_meta(whit_st_out *o, const char *key, const char *value, whit_err *e) {
	if (json_object_set_new(o->meta, key, json_string(value)))
		return whit_fail(e, WHIT_EINPUT, "%s: metadata key or value %.100s is not UTF-8", o->path, key);
	return 0;
}

static int complete(const whit_st_out *o, whit_err *e) {
	if (o->left == 0) return 0;
	return whit_fail(e, WHIT_EINTERNAL, "%s: tensor %.200s: still lacks %llu bytes", o->path, o->tensor,
	                 (unsigned long long)o->left);
}

int whit_st_out_begin(whit_st_out *o, const char *name, int dtype, int ndim, const int64_t *shape, whit_err *e) {
	int rc = complete(o, e);
	if (rc) return rc;
	if (json_object_get(o->head, name))
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %.200s: is written twice, need once", o->path, name);
	json_t *dims = json_array();
	uint64_t bytes = whit_dtype_size(dtype);
	int bad = ndim < 0 || ndim > WHIT_DIMS;
	for (int i = 0; !bad && i < ndim; i++) {
		bad = shape[i] <= 0 || __builtin_mul_overflow(bytes, (uint64_t)shape[i], &bytes) || bytes > INT64_MAX;
		json_array_append_new(dims, json_integer(shape[i]));
	}
	o->begun = o->out.bytes - LENGTH - o->room;
	json_t *info = json_pack("{s:s, s:o, s:[I, I]}", "dtype", whit_dtype_name(dtype), "shape", dims, "data_offsets",
	                         (json_int_t)o->begun, (json_int_t)(o->begun + bytes));
	if (bad) {
		json_decref(info);
		return whit_fail(e, WHIT_EINTERNAL, "%s: tensor %.200s: shape cannot be written", o->path, name);
	}
	if (json_object_set_new(o->head, name, info))
		return whit_fail(e, WHIT_EINPUT, "%s: tensor name %.200s is not UTF-8", o->path, name);
	o->tensor = json_object_iter_key(json_object_iter_at(o->head, name));
	o->left = bytes;
	return 0;
}

int whit_st_out_write(whit_st_out *o, const void *p, size_t n, whit_err *e) {
	if (n > o->left)
		return whit_fail(e, WHIT_EINTERNAL, "%s: tensor %.200s: is given %zu bytes, need %llu", o->path,
		                 o->tensor ? o->tensor : "", n, (unsigned long long)o->left);
	o->left -= n;
	return whit_out_write(&o->out, p, n, e);
}

static void out_free(whit_st_out *o) {
	json_decref(o->head);
	json_decref(o->meta);
	whit_free(o->path);
	whit_free(o);
}

int whit_st_out_commit(whit_st_out *o, whit_err *e) {
	int rc = complete(o, e);
	size_t n = 0;
	if (json_object_size(o->meta) == 0) json_object_del(o->head, "__metadata__");
	char *text = dump(o->head, &n), *block = NULL;
	if (!rc && (!text || n > o->room))
		rc = whit_fail(e, WHIT_EINTERNAL, "%s: header is %zu bytes, need at most %zu", o->path, n, o->room);
	if (!rc) {
		uint64_t length = o->room;
		block = whit_alloc(LENGTH + o->room);
		memcpy(block, &length, LENGTH);
		memset(block + LENGTH, ' ', o->room);
		memcpy(block + LENGTH, text, n);
		rc = whit_out_write_at(&o->out, 0, block, LENGTH + o->room, e);
	}
	if (!rc)
		rc = whit_out_commit(&o->out, e);
	else
		whit_out_abort(&o->out);
	whit_free(block);
	free(text);
	out_free(o);
	return rc;
}

void whit_st_out_abort(whit_st_out *o) {
	if (!o) return;
	whit_out_abort(&o->out);
	out_free(o);
}
