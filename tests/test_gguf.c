/* test_gguf: the container's reader against every lie of ggml.md 1, with files made by hand; getters; the type
 * table against the block formats; names and config of the architectures. */
#include "formats/blocks.h"
#include "formats/gguf_model.h"
#include "tests/test.h"

/* ---- files by hand ---- */

typedef struct bytes {
	uint8_t b[8192];
	size_t n;
} bytes;

static void put(bytes *f, const void *p, size_t n) {
	if (f->n + n > sizeof f->b) abort();
	memcpy(f->b + f->n, p, n);
	f->n += n;
}
static void put32(bytes *f, uint32_t v) { put(f, &v, 4); }
static void put64(bytes *f, uint64_t v) { put(f, &v, 8); }
static void putf(bytes *f, float v) { put(f, &v, 4); }
static void text(bytes *f, const char *s) {
	put64(f, strlen(s));
	put(f, s, strlen(s));
}
static void zeros(bytes *f, size_t n) {
	while (n--) put(f, "", 1);
}
static void pad(bytes *f, size_t align) { zeros(f, (align - f->n % align) % align); }

static void head(bytes *f, uint32_t version, uint64_t tensors, uint64_t pairs) {
	f->n = 0;
	put(f, "GGUF", 4);
	put32(f, version);
	put64(f, tensors);
	put64(f, pairs);
}
static void kv32(bytes *f, const char *key, uint32_t v) {
	text(f, key);
	put32(f, WHIT_GGUF_U32);
	put32(f, v);
}
static void kvf(bytes *f, const char *key, float v) {
	text(f, key);
	put32(f, WHIT_GGUF_F32);
	putf(f, v);
}
static void kvs(bytes *f, const char *key, const char *v) {
	text(f, key);
	put32(f, WHIT_GGUF_STRING);
	text(f, v);
}
static void info(bytes *f, const char *name, int ndim, const int64_t *ne, uint32_t type, uint64_t offset) {
	text(f, name);
	put32(f, (uint32_t)ndim);
	for (int i = 0; i < ndim; i++) put64(f, (uint64_t)ne[i]);
	put32(f, type);
	put64(f, offset);
}
#define NE(...)                                                                                                        \
	(sizeof((int64_t[]){__VA_ARGS__}) / 8), (int64_t[]) { __VA_ARGS__ }

/* An exact heap copy, so that a sanitizer sees one byte too far. */
static int parse(const bytes *f, size_t n, whit_err *e) {
	whit_gguf g;
	uint8_t *copy = malloc(n ? n : 1);
	memcpy(copy, f->b, n);
	int rc = whit_gguf_parse(&g, copy, n, "t.gguf", e);
	if (rc)
		CHECK(!g.kv && !g.t && !g.map.path);
	else
		whit_gguf_close(&g);
	free(copy);
	return rc;
}

#define REFUSED(f, word)                                                                                               \
	do {                                                                                                           \
		whit_err e_ = {0};                                                                                     \
		CHECK_FAILS(parse(&(f), (f).n, &e_), WHIT_EINPUT, e_, word);                                           \
		CHECK_MSG(!strncmp(e_.text, "t.gguf: ", 8), "text \"%s\" names the file first", e_.text);              \
	} while (0)

/* ---- refusals ---- */

static void heads(void) {
	bytes f;
	whit_err e = {0};
	head(&f, 3, 0, 0);
	CHECK_RC(parse(&f, f.n, &e), e);
	head(&f, 2, 0, 0);
	CHECK_RC(parse(&f, f.n, &e), e);
	f.b[0] = 'g';
	REFUSED(f, "does not begin with \"GGUF\"");
	for (size_t n = 4; n < 24; n++) CHECK_FAILS(parse(&f, n, &e), WHIT_EINPUT, e, "GGUF");
	static const uint32_t bad[] = {0, 1, 4, 70000};
	for (int i = 0; i < WHIT_COUNT(bad); i++) {
		head(&f, bad[i], 0, 0);
		REFUSED(f, "need 2 or 3");
	}
	head(&f, 3u << 24, 0, 0);
	REFUSED(f, "big-endian");
	head(&f, 3, 0, UINT64_MAX);
	REFUSED(f, "has -1 pairs");
	head(&f, 3, UINT64_MAX, 0);
	REFUSED(f, "has -1 tensors");
	head(&f, 3, 0, (uint64_t)1 << 62);
	REFUSED(f, "pairs, need 0 to 0");
	head(&f, 3, (uint64_t)1 << 62, 0);
	REFUSED(f, "tensors, need 0 to 0");
	head(&f, 3, 0, 2);
	kv32(&f, "a", 1);
	zeros(&f, 12);
	REFUSED(f, "pair 1: key is empty");
}

static void pairs(void) {
	bytes f;
	head(&f, 3, 0, 1);
	kv32(&f, "", 1);
	REFUSED(f, "key is empty");
	head(&f, 3, 0, 1);
	put64(&f, 3);
	put(&f, "a\0b", 3);
	put32(&f, 4);
	put32(&f, 1);
	REFUSED(f, "key is binary");
	head(&f, 3, 0, 1);
	kv32(&f, "\xff\xfe", 1);
	REFUSED(f, "key is binary");
	head(&f, 3, 0, 1);
	kv32(&f, "a\x1b[0m", 1);
	REFUSED(f, "key is binary");
	head(&f, 3, 0, 3);
	kv32(&f, "twice", 1);
	kv32(&f, "once", 1);
	kvs(&f, "twice", "x");
	REFUSED(f, "key twice: is there twice");
	head(&f, 3, 0, 1);
	text(&f, "a");
	put32(&f, 13);
	put64(&f, 0);
	REFUSED(f, "key a: value type is 13, need 0 to 12");
	head(&f, 3, 0, 1);
	text(&f, "a");
	put32(&f, WHIT_GGUF_ARRAY);
	put32(&f, WHIT_GGUF_ARRAY);
	put64(&f, 0);
	REFUSED(f, "key a: is an array of arrays");
	head(&f, 3, 0, 1);
	text(&f, "a");
	put32(&f, WHIT_GGUF_ARRAY);
	put32(&f, 99);
	put64(&f, 0);
	REFUSED(f, "array's type is 99");
	head(&f, 3, 0, 1);
	text(&f, "a");
	put32(&f, WHIT_GGUF_ARRAY);
	put32(&f, WHIT_GGUF_U8);
	put64(&f, (1ull << 30) + 1);
	REFUSED(f, "array has 1073741825 elements");
	static const uint64_t beyond[] = {1ull << 30, 1 << 20, 9};
	for (int i = 0; i < WHIT_COUNT(beyond); i++) {
		head(&f, 3, 0, 1);
		text(&f, "a");
		put32(&f, WHIT_GGUF_ARRAY);
		put32(&f, WHIT_GGUF_U64);
		put64(&f, beyond[i]);
		zeros(&f, 64);
		REFUSED(f, "key a: value is");
	}
	head(&f, 3, 0, 1); /* a million strings in 64 bytes: each is read before a table is made */
	text(&f, "a");
	put32(&f, WHIT_GGUF_ARRAY);
	put32(&f, WHIT_GGUF_STRING);
	put64(&f, 1 << 20);
	zeros(&f, 64);
	REFUSED(f, "key a: a string is 8 bytes, need at most the 0");
	static const struct {
		uint64_t n;
		const char *word;
	} strings[] = {{(1ull << 30) + 1, "need at most 1073741824"},
	               {UINT64_MAX, "need at most 1073741824"},
	               {1ull << 30, "that are left"},
	               {5, "need at most the 4 that are left"}};
	for (int i = 0; i < WHIT_COUNT(strings); i++) {
		head(&f, 3, 0, 1);
		text(&f, "a");
		put32(&f, WHIT_GGUF_STRING);
		put64(&f, strings[i].n);
		zeros(&f, 4);
		REFUSED(f, strings[i].word);
	}
	head(&f, 3, 0, 1);
	text(&f, "general.alignment");
	put32(&f, WHIT_GGUF_U64);
	put64(&f, 32);
	REFUSED(f, "is u64, need u32");
	static const uint32_t alignment[] = {0, 3, 48};
	for (int i = 0; i < WHIT_COUNT(alignment); i++) {
		head(&f, 3, 0, 1);
		kv32(&f, "general.alignment", alignment[i]);
		REFUSED(f, "need a power of two");
	}
}

static void one_tensor(bytes *f, const char *name, int ndim, const int64_t *ne, uint32_t type, uint64_t offset,
                       size_t data) {
	head(f, 3, 1, 0);
	info(f, name, ndim, ne, type, offset);
	pad(f, 32);
	zeros(f, data);
}

static void tensors(void) {
	bytes f;
	whit_err e = {0};
	char name[80];
	memset(name, 'n', sizeof name);
	name[63] = 0;
	one_tensor(&f, name, NE(8), 0, 0, 32);
	CHECK_RC(parse(&f, f.n, &e), e);
	name[63] = 'n', name[64] = 0;
	one_tensor(&f, name, NE(8), 0, 0, 32);
	REFUSED(f, "name is 64 bytes, need at most 63");
	one_tensor(&f, "", NE(8), 0, 0, 32);
	REFUSED(f, "name is empty");
	one_tensor(&f, "t", NE(8, 1, 1, 1, 1), 0, 0, 32);
	REFUSED(f, "tensor t: has 5 dimensions");
	one_tensor(&f, "t", NE(-8), 0, 0, 32);
	REFUSED(f, "dimension 0 is -8");
	one_tensor(&f, "t", NE(1ll << 32, 1ll << 31), 0, 0, 32);
	REFUSED(f, "product is 2^63 or more");
	one_tensor(&f, "t", NE(INT64_MAX, 2), 0, 0, 32);
	REFUSED(f, "product is 2^63 or more");
	one_tensor(&f, "t", NE(1ll << 32, 1ll << 30), 0, 0, 32);
	REFUSED(f, "is 2^63 bytes or more");
	one_tensor(&f, "t", NE(1ll << 32, 1ll << 28), 0, 0, 32);
	REFUSED(f, "tensor t: is 4611686018427387904 bytes");
	static const uint32_t unknown[] = {43, 1000, INT32_MAX, UINT32_MAX}, gone[] = {4, 5, 31, 32, 33, 36, 37, 38},
	                      never[] = {9, 15};
	for (int i = 0; i < WHIT_COUNT(unknown); i++) {
		one_tensor(&f, "t", NE(256), unknown[i], 0, 512);
		REFUSED(f, "which is unknown");
	}
	for (int i = 0; i < WHIT_COUNT(gone) + WHIT_COUNT(never); i++) {
		one_tensor(&f, "t", NE(256), i < WHIT_COUNT(gone) ? gone[i] : never[i - WHIT_COUNT(gone)], 0, 512);
		REFUSED(f, "which files do not hold");
	}
	one_tensor(&f, "t", NE(33), 8, 0, 128);
	REFUSED(f, "rows are 33 long, need a multiple of Q8_0's block of 32");
	one_tensor(&f, "t", NE(128, 2), 12, 0, 512);
	REFUSED(f, "multiple of Q4_K's block of 256");
	one_tensor(&f, "t", NE(8), 0, 32, 64);
	REFUSED(f, "offset is 32, need 0");
	one_tensor(&f, "t", NE(8), 0, 4, 64);
	REFUSED(f, "offset is 4, need a multiple of 32");
	one_tensor(&f, "t", NE(8), 0, UINT64_MAX - 31, 64);
	REFUSED(f, "need 0, where the one before it ends");
	one_tensor(&f, "t", NE(8), 0, 0, 31);
	REFUSED(f, "is 32 bytes from");
	head(&f, 3, 1, 0); /* the file ends before data may begin */
	info(&f, "t", NE(0), 0, 0);
	f.n = f.n % 32 ? f.n : f.n - 1;
	REFUSED(f, "(is it cut?)");
	for (int gap = 0; gap < 3; gap++) {
		head(&f, 3, 2, 0);
		info(&f, "a", NE(9), 0, 0);
		info(&f, gap == 2 ? "a" : "b", NE(8), 0, gap == 0 ? 96 : gap == 1 ? 32 : 64);
		pad(&f, 32);
		zeros(&f, 256);
		REFUSED(f, gap == 0   ? "tensor b: offset is 96, need 64"
		           : gap == 1 ? "tensor b: offset is 32, need 64"
		                      : "tensor a: is there twice");
	}
	head(&f, 3, 2, 1); /* offsets of alignment 32 in a file of 64 */
	kv32(&f, "general.alignment", 64);
	info(&f, "a", NE(8), 0, 0);
	info(&f, "b", NE(8), 0, 32);
	pad(&f, 64);
	zeros(&f, 256);
	REFUSED(f, "offset is 32, need a multiple of 64");
}

/* ---- what is read ---- */

static void whole(bytes *f) {
	head(f, 3, 3, 8);
	kvs(f, "s", "text");
	text(f, "b");
	put32(f, WHIT_GGUF_BOOL);
	put(f, "\1", 1);
	text(f, "i");
	put32(f, WHIT_GGUF_I16);
	put(f, "\xfe\xff", 2);
	text(f, "u");
	put32(f, WHIT_GGUF_U64);
	put64(f, UINT64_MAX);
	kvf(f, "r", 0.5f);
	text(f, "strings");
	put32(f, WHIT_GGUF_ARRAY);
	put32(f, WHIT_GGUF_STRING);
	put64(f, 2);
	text(f, "one");
	text(f, "");
	text(f, "numbers");
	put32(f, WHIT_GGUF_ARRAY);
	put32(f, WHIT_GGUF_I32);
	put64(f, 2);
	put32(f, 7);
	put32(f, UINT32_MAX);
	text(f, "nan");
	put32(f, WHIT_GGUF_F64);
	put64(f, 0x7ff8000000000000);
	info(f, "q", NE(64, 2, 3), 8, 0);
	info(f, "scalar", 0, NULL, 0, 416);
	info(f, "none", NE(0, 4), 0, 448);
	pad(f, 32);
	for (int i = 0; i < 448; i++) put(f, &(uint8_t){(uint8_t)i}, 1);
}

static void reads(void) {
	bytes f;
	whit_gguf g;
	whit_err e = {0};
	int64_t i = 99;
	double r = 99;
	int b = 99;
	const char *s = "as it was";
	const whit_gguf_kv *kv = NULL;
	whole(&f);
	if (!CHECK_RC(whit_gguf_parse(&g, f.b, f.n, "t.gguf", &e), e)) return;
	CHECK_INT(g.version, 3);
	CHECK_INT(g.alignment, 32);
	CHECK_INT(g.n, 3);
	const whit_gguf_tensor *t = whit_gguf_tensor_find(&g, "q");
	if (CHECK(t != NULL)) {
		CHECK_INT(t->ndim, 3);
		CHECK(t->ne[0] == 64 && t->ne[1] == 2 && t->ne[2] == 3 && t->ne[3] == 1);
		CHECK_INT(t->bytes, 2 * 2 * 3 * 34);
		CHECK(t->data[7] == 7 && t->data == f.b + t->offset && t->offset % 32 == 0);
		CHECK_TEXT(t->type->name, "Q8_0");
	}
	t = whit_gguf_tensor_find(&g, "scalar");
	CHECK(t && t->bytes == 4 && t->data[0] == (uint8_t)416);
	t = whit_gguf_tensor_find(&g, "none");
	CHECK(t && t->bytes == 0);
	CHECK(!whit_gguf_tensor_find(&g, "absent") && !whit_gguf_find(&g, "absent"));

	CHECK_RC(whit_gguf_int(&g, "i", 1, -2, 5, &i, &e), e);
	CHECK_INT(i, -2);
	CHECK_FAILS(whit_gguf_int(&g, "i", 1, -1, 5, &i, &e), WHIT_EINPUT, e, "t.gguf: key i: is -2, need -1 to 5");
	CHECK_FAILS(whit_gguf_int(&g, "u", 1, 0, INT64_MAX, &i, &e), WHIT_EINPUT, e, "2^63 or more");
	CHECK_FAILS(whit_gguf_int(&g, "r", 1, 0, 9, &i, &e), WHIT_EINPUT, e, "key r: is f32, need an integer");
	CHECK_FAILS(whit_gguf_int(&g, "numbers", 1, 0, 9, &i, &e), WHIT_EINPUT, e, "is array, need an integer");
	CHECK_FAILS(whit_gguf_int(&g, "x", 1, 0, 9, &i, &e), WHIT_EINPUT, e, "key x: is missing");
	i = 99;
	CHECK_RC(whit_gguf_int(&g, "x", 0, 0, 9, &i, &e), e);
	CHECK_INT(i, 99);
	CHECK_RC(whit_gguf_real(&g, "r", 1, 0, 1, &r, &e), e);
	CHECK_NEAR(r, 0.5, 0);
	CHECK_FAILS(whit_gguf_real(&g, "r", 1, 1, 2, &r, &e), WHIT_EINPUT, e, "is 0.5, need 1 to 2");
	CHECK_FAILS(whit_gguf_real(&g, "nan", 1, -INFINITY, INFINITY, &r, &e), WHIT_EINPUT, e, "key nan: is");
	CHECK_FAILS(whit_gguf_real(&g, "i", 1, -9, 9, &r, &e), WHIT_EINPUT, e, "is i16, need f32 or f64");
	CHECK_RC(whit_gguf_bool(&g, "b", 1, &b, &e), e);
	CHECK_INT(b, 1);
	CHECK_FAILS(whit_gguf_bool(&g, "i", 1, &b, &e), WHIT_EINPUT, e, "need bool");
	CHECK_RC(whit_gguf_string(&g, "s", 1, &s, &e), e);
	CHECK_TEXT(s, "text");
	CHECK_FAILS(whit_gguf_string(&g, "strings", 1, &s, &e), WHIT_EINPUT, e, "is array, need string");
	CHECK_RC(whit_gguf_array(&g, "strings", 1, WHIT_GGUF_STRING, &kv, &e), e);
	CHECK(kv->n == 2 && kv->text[0].n == 3 && !memcmp(kv->text[0].p, "one", 3) && kv->text[1].n == 0);
	CHECK_FAILS(whit_gguf_array(&g, "numbers", 1, WHIT_GGUF_U32, &kv, &e), WHIT_EINPUT, e,
	            "is an array of i32, need one of u32");
	CHECK_RC(whit_gguf_array(&g, "numbers", 1, WHIT_GGUF_I32, &kv, &e), e);
	CHECK(!whit_gguf_element(kv, 1, &i) && i == -1);
	CHECK_INT(kv->raw_bytes, 4 + 4 + 8 + 8);
	whit_gguf_close(&g);
	CHECK(!g.kv && !g.t);
}

/* Any cut is refused but one in the padding after the last tensor. */
static void truncation(void) {
	bytes f;
	whit_err e = {0};
	whole(&f);
	size_t wrong = 0;
	for (size_t n = 0; n < f.n; n++) {
		e.text[0] = 0; /* the last tensor is empty, and still needs the place where it would begin */
		wrong += parse(&f, n, &e) != WHIT_EINPUT || !e.text[0];
	}
	CHECK_INT(wrong, 0);
	one_tensor(&f, "t", NE(9), 0, 0, 64);
	for (size_t n = f.n - 64 + 36; n <= f.n; n++) CHECK_RC(parse(&f, n, &e), e);
	CHECK_FAILS(parse(&f, f.n - 64 + 35, &e), WHIT_EINPUT, e, "(is it cut?)");
}

/* 150,000 strings and 20,000 tensors: the reader sorts, so this is no matter of minutes. */
static void large(void) {
	enum { STRINGS = 150000, TENSORS = 20000 };
	size_t n = 24 + 64 + (size_t)STRINGS * 16 + (size_t)TENSORS * 80 + 64, at = 0;
	uint8_t *b = calloc(n, 1);
	bytes f;
	char name[32];
	whit_gguf g;
	whit_err e = {0};
	head(&f, 3, TENSORS, 1);
	text(&f, "tokens");
	put32(&f, WHIT_GGUF_ARRAY);
	put32(&f, WHIT_GGUF_STRING);
	put64(&f, STRINGS);
	memcpy(b, f.b, f.n), at = f.n;
	for (int i = 0; i < STRINGS; i++) {
		f.n = 0;
		snprintf(name, sizeof name, "%08d", i);
		text(&f, name);
		memcpy(b + at, f.b, f.n), at += f.n;
	}
	for (int i = 0; i < TENSORS; i++) {
		f.n = 0;
		snprintf(name, sizeof name, "t%d", i);
		info(&f, name, NE(0), 0, 0);
		memcpy(b + at, f.b, f.n), at += f.n;
	}
	at = (at + 31) / 32 * 32;
	double start = whit_now();
	if (CHECK_RC(whit_gguf_parse(&g, b, at, "large.gguf", &e), e)) {
		const whit_gguf_kv *kv = whit_gguf_find(&g, "tokens");
		CHECK(kv && kv->n == STRINGS && !memcmp(kv->text[149999].p, "00149999", 8));
		for (int i = 0; i < TENSORS; i++) {
			snprintf(name, sizeof name, "t%d", i);
			if (whit_gguf_tensor_find(&g, name) != &g.t[i]) CHECK_MSG(0, "tensor %s is found", name);
		}
		whit_gguf_close(&g);
	}
	CHECK_MSG(whit_now() - start < (TEST_SANITIZED ? 30 : 5), "took %.2f s", whit_now() - start);
	free(b);
}

/* ---- types ---- */

static void types(void) {
	whit_err e = {0};
	CHECK(!whit_ggml_type_of(-1) && !whit_ggml_type_of(43));
	int with_format = 0;
	for (int id = 0; id < 43; id++) {
		const whit_ggml_type *t = whit_ggml_type_of(id);
		if (!CHECK(t && t->id == id)) continue;
		if (!t->format) continue;
		whit_spec s;
		whit_plane_desc d[WHIT_PLANES];
		with_format++;
		if (!CHECK_RC(whit_spec_parse(t->format, &s, &e), e)) continue;
		CHECK(whit_ggml_type_of_spec(&s) == t);
		CHECK_INT(s.fmt->planes(&s, 512, 0, d, &e), 1);
		CHECK_INT(d[0].row_bytes, 512 / t->block * t->bytes);
		CHECK((t->scales != 0) == (s.fmt->block != NULL));
	}
	CHECK_INT(with_format, 20); /* the list */
	for (int i = 0; whit_formats[i]; i++) {
		const whit_spec s = {.fmt = whit_formats[i]};
		int float_or_block = s.fmt->block || (strchr(s.fmt->name, 'f') && !s.fmt->record);
		CHECK_MSG((whit_ggml_type_of_spec(&s) != NULL) == float_or_block, "%s", s.fmt->name);
	}
}

/* ---- the model in it ---- */

static void names(void) {
	whit_err e = {0};
	CHECK(!whit_gguf_arch_find("gemma3", &e));
	CHECK(strstr(e.text, "\"gemma3\", need one of: llama, qwen2, qwen3") != NULL);
	static const struct {
		const char *arch, *gguf, *hf;
	} both[] = {
	        {"llama", "token_embd.weight", "model.embed_tokens.weight"},
	        {"llama", "output_norm.weight", "model.norm.weight"},
	        {"llama", "output.weight", "lm_head.weight"},
	        {"llama", "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
	        {"llama", "blk.31.attn_q.weight", "model.layers.31.self_attn.q_proj.weight"},
	        {"llama", "blk.1.attn_k.bias", "model.layers.1.self_attn.k_proj.bias"},
	        {"llama", "blk.1.attn_output.bias", "model.layers.1.self_attn.o_proj.bias"},
	        {"llama", "blk.10.ffn_down.bias", "model.layers.10.mlp.down_proj.bias"},
	        {"qwen2", "blk.2.attn_v.bias", "model.layers.2.self_attn.v_proj.bias"},
	        {"qwen2", "blk.2.attn_output.bias", NULL},
	        {"qwen2", "blk.2.attn_q_norm.weight", NULL},
	        {"qwen3", "blk.2.attn_q_norm.weight", "model.layers.2.self_attn.q_norm.weight"},
	        {"qwen3", "blk.2.attn_q.bias", NULL},
	        {"llama", "blk.2.attn_k_norm.weight", NULL},
	        {"llama", "blk.02.attn_q.weight", NULL},
	        {"llama", "blk..attn_q.weight", NULL},
	        {"llama", "blk.99999999999.attn_q.weight", NULL},
	        {"llama", "blk.1.attn_q.scale", NULL},
	        {"llama", "attn_q.weight", NULL},
	        {"llama", "rope_freqs.weight", NULL},
	};
	for (int i = 0; i < WHIT_COUNT(both); i++) {
		const whit_gguf_arch *a = whit_gguf_arch_find(both[i].arch, &e);
		char hf[128], gguf[64];
		int rc = whit_gguf_name_to_hf(a, both[i].gguf, 0, hf);
		CHECK_MSG((rc == 0) == (both[i].hf != NULL), "%s of %s", both[i].gguf, both[i].arch);
		if (rc || !both[i].hf) continue;
		CHECK_TEXT(hf, both[i].hf);
		CHECK_INT(whit_gguf_name_from_hf(a, hf, gguf), 0);
		CHECK_TEXT(gguf, both[i].gguf);
		if (strncmp(hf, "model.", 6)) continue;
		CHECK_INT(whit_gguf_name_from_hf(a, hf + 6, gguf), 0);
		CHECK_TEXT(gguf, both[i].gguf);
	}
	const whit_gguf_arch *llama = whit_gguf_arch_find("llama", &e), *qwen3 = whit_gguf_arch_find("qwen3", &e);
	char out[128];
	CHECK_INT(whit_gguf_name_from_hf(llama, "model.lm_head.weight", out), -1);
	CHECK_INT(whit_gguf_name_from_hf(llama, "model.model.norm.weight", out), -1);
	CHECK_INT(whit_gguf_name_from_hf(llama, "model.layers.1.self_attn.rotary_emb.inv_freq", out), -1);
	CHECK(whit_gguf_is_paired(llama, "model.layers.1.self_attn.q_proj.weight"));
	CHECK(whit_gguf_is_paired(llama, "model.layers.1.self_attn.k_proj.bias"));
	CHECK(!whit_gguf_is_paired(llama, "model.layers.1.self_attn.v_proj.weight"));
	CHECK(!whit_gguf_is_paired(qwen3, "model.layers.1.self_attn.q_proj.weight"));
}

/* A llama of 2 heads of 4; more: further pairs, `extra` of them. */
static void llama(bytes *f, const bytes *more, int extra, const char *skip) {
	static const char *const key[] = {"context_length",       "embedding_length",     "block_count",
	                                  "feed_forward_length",  "attention.head_count", "attention.head_count_kv",
	                                  "rope.dimension_count", "attention.key_length", "attention.value_length"};
	static const uint32_t value[] = {16, 8, 2, 12, 2, 1, 4, 4, 4};
	int n = 2 + extra;
	for (int i = 0; i < WHIT_COUNT(key); i++) n += !skip || strcmp(skip, key[i]);
	head(f, 3, 2, (uint64_t)n);
	kvs(f, "general.architecture", "llama");
	kvf(f, "llama.attention.layer_norm_rms_epsilon", 1e-6f);
	for (int i = 0; i < WHIT_COUNT(key); i++) {
		char full[64];
		snprintf(full, sizeof full, "llama.%s", key[i]);
		if (!skip || strcmp(skip, key[i])) kv32(f, full, value[i]);
	}
	if (more) put(f, more->b, more->n);
	info(f, "token_embd.weight", NE(8, 5), 0, 0);
	info(f, "rope_freqs.weight", NE(2), 0, 160);
	pad(f, 32);
	zeros(f, 160);
	putf(f, 1);
	putf(f, 2.5f);
	pad(f, 32);
}

static int config(const bytes *f, json_t **j, whit_err *e) {
	whit_gguf g;
	int rc = whit_gguf_parse(&g, f->b, f->n, "m.gguf", e);
	if (rc) return rc;
	rc = whit_gguf_config(&g, whit_gguf_arch_find("llama", e), j, e);
	whit_gguf_close(&g);
	return rc;
}

static void configs(void) {
	bytes f, more = {.n = 0};
	json_t *j = NULL;
	whit_err e = {0};
	kvf(&more, "llama.rope.freq_base", 500000);
	kvs(&more, "tokenizer.ggml.model", "gpt2");
	kv32(&more, "tokenizer.ggml.bos_token_id", 3);
	kv32(&more, "tokenizer.ggml.eos_token_id", 1);
	kv32(&more, "tokenizer.ggml.eot_token_id", 4);
	kv32(&more, "llama.expert_count", 0);
	text(&more, "tokenizer.ggml.tokens");
	put32(&more, WHIT_GGUF_ARRAY);
	put32(&more, WHIT_GGUF_STRING);
	put64(&more, 5);
	text(&more, "a"), text(&more, "b"), text(&more, "<|im_end|>"), text(&more, "<|endoftext|>"), text(&more, "c");
	text(&more, "tokenizer.ggml.token_type");
	put32(&more, WHIT_GGUF_ARRAY);
	put32(&more, WHIT_GGUF_I32);
	put64(&more, 5);
	put32(&more, 1), put32(&more, 1), put32(&more, 3), put32(&more, 1), put32(&more, 1);
	llama(&f, &more, 8, NULL);
	if (CHECK_RC(config(&f, &j, &e), e)) {
		json_t *want = json_pack(
		        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:i, s:b, s:{s:s, s:[f, f]}, s:i, "
		        "s:[i, i, i], s:b, s:b}",
		        "model_type", "llama", "hidden_size", 8, "intermediate_size", 12, "num_hidden_layers", 2,
		        "num_attention_heads", 2, "num_key_value_heads", 1, "head_dim", 4, "max_position_embeddings",
		        16, "rms_norm_eps", 1e-6, "rope_theta", 500000.0, "vocab_size", 5, "tie_word_embeddings", 1,
		        "rope_scaling", "rope_type", "factors", "factors", 1.0, 2.5, "bos_token_id", 3, "eos_token_id",
		        1, 4, 2, "attention_bias", 0, "mlp_bias", 0);
		char *is = json_dumps(j, JSON_SORT_KEYS), *need = json_dumps(want, JSON_SORT_KEYS);
		CHECK_TEXT(is, need);
		free(is);
		free(need);
		json_decref(want);
		json_decref(j);
	}
	static const char *const required[] = {"context_length", "embedding_length", "block_count",
	                                       "feed_forward_length", "attention.head_count"};
	for (int i = 0; i < WHIT_COUNT(required); i++) {
		llama(&f, NULL, 0, required[i]);
		CHECK_FAILS(config(&f, &j, &e), WHIT_EINPUT, e, required[i]);
		CHECK(strstr(e.text, "m.gguf: key llama.") != NULL && !j);
	}
	static const struct {
		const char *key;
		uint32_t v;
		const char *word;
	} bad[] = {{"block_count", 0, "need 1 to 512"},
	           {"block_count", 513, "need 1 to 512"},
	           {"rope.dimension_count", 2, "need a head's 4"},
	           {"attention.value_length", 8, "need key_length, 4"}};
	for (int i = 0; i < WHIT_COUNT(bad); i++) {
		char key[64];
		snprintf(key, sizeof key, "llama.%s", bad[i].key);
		more.n = 0;
		kv32(&more, key, bad[i].v);
		llama(&f, &more, 1, bad[i].key);
		CHECK_FAILS(config(&f, &j, &e), WHIT_EINPUT, e, bad[i].word);
	}
	more.n = 0;
	kv32(&more, "llama.expert_count", 8);
	llama(&f, &more, 1, NULL);
	CHECK_FAILS(config(&f, &j, &e), WHIT_EINPUT, e, "llama.expert_count is unknown to architecture llama");
	more.n = 0;
	kvs(&more, "llama.rope.scaling.type", "longrope");
	llama(&f, &more, 1, NULL);
	CHECK_FAILS(config(&f, &j, &e), WHIT_EINPUT, e, "\"longrope\", need none, linear or yarn");
	more.n = 0;
	kvs(&more, "llama.rope.scaling.type", "yarn");
	llama(&f, &more, 1, NULL);
	CHECK_FAILS(config(&f, &j, &e), WHIT_EINPUT, e, "rope_freqs.weight: is there beside yarn");
	more.n = 0;
	text(&more, "llama.attention.causal");
	put32(&more, WHIT_GGUF_BOOL);
	put(&more, "", 1);
	llama(&f, &more, 1, NULL);
	CHECK_FAILS(config(&f, &j, &e), WHIT_EINPUT, e, "causal: is false, need true");
	more.n = 0;
	kv32(&more, "tokenizer.ggml.eos_token_id", 5);
	llama(&f, &more, 1, NULL);
	CHECK_FAILS(config(&f, &j, &e), WHIT_EINPUT, e, "eos_token_id: is 5, need 0 to 4");
	for (int same = 0; same < 2; same++) { /* one number for each layer */
		more.n = 0;
		text(&more, "llama.attention.head_count");
		put32(&more, WHIT_GGUF_ARRAY);
		put32(&more, WHIT_GGUF_I32);
		put64(&more, 2);
		put32(&more, 2), put32(&more, same ? 2 : 1);
		llama(&f, &more, 1, "attention.head_count");
		if (same) {
			CHECK_RC(config(&f, &j, &e), e);
			CHECK_INT(json_integer_value(json_object_get(j, "num_attention_heads")), 2);
			json_decref(j);
		} else {
			CHECK_FAILS(config(&f, &j, &e), WHIT_EINPUT, e, "need one integer of 1 to");
		}
	}
}

TEST_MAIN(heads, pairs, tensors, reads, truncation, large, types, names, configs)
