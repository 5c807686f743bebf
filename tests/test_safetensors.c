/* test_safetensors: every lie a weight file can tell is refused with a text that names it; what the writer
 * writes comes back bit for bit; JSON helpers. */
#include <unistd.h>
#include "formats/json.h"
#include "formats/safetensors.h"
#include "tests/test.h"

/* length-prefixed header, then `zeros` data bytes; n gets the size. The header of length n_head may hold NULs. */
static uint8_t *file_of(const char *head, size_t zeros, size_t *n) {
	uint64_t h = strlen(head);
	uint8_t *b = calloc(8 + h + zeros, 1);
	memcpy(b, &h, 8);
	memcpy(b + 8, head, h);
	*n = 8 + h + zeros;
	return b;
}

static int parse_rc(const uint8_t *b, size_t n, whit_err *e) {
	whit_st s;
	uint8_t *copy = malloc(n ? n : 1); /* exact, so that a sanitizer sees one byte too far */
	memcpy(copy, b, n);
	int rc = whit_st_parse(&s, copy, n, "t.safetensors", e);
	if (!rc) whit_st_close(&s);
	free(copy);
	return rc;
}

static void mutations(void) {
	static const struct {
		const char *head;
		size_t data;
		const char *word;
	} bad[] = {
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 8, "not JSON"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}x", 8, "not JSON"},
	        {"[1]", 0, "begin with '{'"},
	        {"{\"\xff\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "decode byte"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":["
	         "1],\"data_offsets\":[4,8]}}",
	         8, "duplicate"},
	        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "duplicate"},
	        {"{\"a\":7}", 0, "need object"},
	        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "key dtype is absent"},
	        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "key shape is absent"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "key data_offsets is absent"},
	        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype is F33"},
	        {"{\"a\":{\"dtype\":1,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "need string"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "need array"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.5],\"data_offsets\":[0,8]}}", 8, "positive integer"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "negative integer"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,2],\"data_offsets\":[0,0]}}", 0, "zero integer"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, "9 dimensions"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8,
	         "over 2^63"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2305843009213693952],\"data_offsets\":[0,8]}}", 8, "over 2^63"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8,
	         "positive integer"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "two integers"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,\"8\"]}}", 8, "two integers"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "begins at -8"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "reversed"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9223372036854775807]}}", 8,
	         "need at most 8"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "truncated"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "is 8 bytes, need 12"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, "data is 9 bytes, need 8"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "gap"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":["
	         "1],\"data_offsets\":[8,12]}}",
	         12, "gap"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":["
	         "2],\"data_offsets\":[4,12]}}",
	         12, "overlap"},
	        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":["
	         "2],\"data_offsets\":[0,8]}}",
	         8, "overlap"},
	        {"{\"__metadata__\":{\"a\":1}}", 0, "need string"},
	        {"{\"__metadata__\":[]}", 0, "need object"},
	};
	whit_err e;
	size_t n;
	for (int64_t i = 0; i < WHIT_COUNT(bad); i++) {
		uint8_t *b = file_of(bad[i].head, bad[i].data, &n);
		CHECK_FAILS(parse_rc(b, n, &e), WHIT_EINPUT, e, bad[i].word);
		CHECK_MSG(!strncmp(e.text, "t.safetensors: ", 15), "names the file: %s", e.text);
		free(b);
	}
}

static void not_safetensors(void) {
	static const struct {
		const char *bytes;
		size_t n;
		const char *word;
	} other[] = {
	        {"", 0, "is empty"},
	        {"1234567", 7, "is 7 bytes"},
	        {"version https://git-lfs.example/spec/v1\noid sha256:00\nsize 12\n", 60, "Git-LFS"},
	        {"PK\3\4\0\0\0\0\0\0\0\0", 12, "never unpickled"},
	        {"\x80\2}q\0(X\3\0\0\0", 10, "never unpickled"},
	        {"\n <!DOCTYPE html><html>", 23, "HTML"},
	        {"<html><body>404</body>", 22, "HTML"},
	        {"GGUF\3\0\0\0\0\0\0\0", 12, "GGUF"},
	        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "at most 100000000"},
	        {"\1\xe1\xf5\5\0\0\0\0{}", 10, "is 100000001, need at most 100000000"},
	        {"\3\0\0\0\0\0\0\0{}", 10, "header length is 3"},
	        {"\0\0\0\0\0\0\0\0{}", 10, "begin with '{'"},
	};
	whit_err e;
	for (int64_t i = 0; i < WHIT_COUNT(other); i++)
		CHECK_FAILS(parse_rc((const uint8_t *)other[i].bytes, other[i].n, &e), WHIT_EINPUT, e, other[i].word);
	whit_st s;
	CHECK_FAILS(whit_st_open(&s, WHIT_SCRATCH, &e), WHIT_EINPUT, e, "directory");
	CHECK_FAILS(whit_st_open(&s, WHIT_SCRATCH "/no such file", &e), WHIT_EINPUT, e, "cannot open");
	/* 640 is the length 80 02: a pickle's first bytes, and still a good file. */
	size_t n;
	char head[641];
	memset(head, ' ', 640);
	head[640] = 0;
	memcpy(head, "{}", 2);
	uint8_t *b = file_of(head, 0, &n);
	CHECK_RC(parse_rc(b, n, &e), e);
	free(b);
}

/* Writes a file with metadata, a scalar, an odd name and odd sizes; returns its path. */
static char *write_sample(uint8_t *u8, float *f32) {
	char *path = test_scratch("sample.safetensors");
	whit_err e;
	whit_st_out *o;
	const char *name[] = {"a \"quoted\"\n\xc3\xa9", "m.weight", "s"};
	for (int i = 0; i < 35; i++) u8[i] = (uint8_t)(i * 7);
	for (int i = 0; i < 6; i++) f32[i] = 1.5f - (float)i;
	size_t bound = whit_st_header_bound("k") + whit_st_header_bound("v\"");
	for (int i = 0; i < 3; i++) bound += whit_st_header_bound(name[i]);
	CHECK_RC(whit_st_out_open(&o, path, bound, &e), e);
	CHECK_RC(whit_st_out_meta(o, "k", "v\"", &e), e);
	CHECK_RC(whit_st_out_begin(o, name[0], WHIT_U8, 2, (int64_t[]){5, 7}, &e), e);
	for (int i = 0; i < 35; i += 5) CHECK_RC(whit_st_out_write(o, u8 + i, 5, &e), e);
	CHECK_RC(whit_st_out_begin(o, name[1], WHIT_F32, 2, (int64_t[]){2, 3}, &e), e);
	CHECK_RC(whit_st_out_write(o, f32, 24, &e), e);
	CHECK_RC(whit_st_out_begin(o, name[2], WHIT_I64, 0, NULL, &e), e);
	CHECK_RC(whit_st_out_write(o, "abcdefgh", 8, &e), e);
	CHECK(!whit_file_exists(path));
	CHECK_RC(whit_st_out_commit(o, &e), e);
	return path;
}

static void round_trip(void) {
	uint8_t u8[35];
	float f32[6];
	char *path = write_sample(u8, f32);
	whit_st s;
	whit_err e;
	if (!CHECK_RC(whit_st_open(&s, path, &e), e)) return;
	CHECK_INT(s.n, 3);
	CHECK_INT(s.n_meta, 1);
	CHECK_TEXT(s.meta[0], "k");
	CHECK_TEXT(s.meta[1], "v\"");
	CHECK_TEXT(s.t[0].name, "a \"quoted\"\n\xc3\xa9");
	CHECK_INT(s.t[0].dtype, WHIT_U8);
	CHECK(s.t[0].bytes == 35 && !memcmp(s.t[0].data, u8, 35));
	CHECK(s.t[1].bytes == 24 && !memcmp(s.t[1].data, f32, 24));
	CHECK_INT(s.t[1].shape[1], 3);
	CHECK_INT(s.t[2].ndim, 0);
	CHECK_INT(whit_tensor_count(&s.t[2]), 1);
	CHECK_INT((s.t[0].data - s.map.data) % 64, 0);
	CHECK(whit_st_find(&s, "m.weight") == &s.t[1] && !whit_st_find(&s, "m"));
	whit_st_close(&s);
	whit_free(path);
}

/* Every prefix and one extra byte of a good file is bad. */
static void truncation(void) {
	uint8_t u8[35];
	float f32[6];
	char *path = write_sample(u8, f32);
	size_t n;
	whit_err e;
	char *all = test_read(path, &n);
	int accepted = 0;
	for (size_t k = 0; k < n; k++) accepted += parse_rc((uint8_t *)all, k, &e) != WHIT_EINPUT;
	CHECK_INT(accepted, 0);
	CHECK_RC(parse_rc((uint8_t *)all, n, &e), e);
	char *more = malloc(n + 1);
	memcpy(more, all, n);
	more[n] = 0;
	CHECK_FAILS(parse_rc((uint8_t *)more, n + 1, &e), WHIT_EINPUT, e, "need");
	free(more);
	whit_free(all);
	whit_free(path);
}

static void writer_misuse(void) {
	char *path = test_scratch("misuse.safetensors");
	whit_err e;
	whit_st_out *o;
	CHECK_RC(whit_st_out_open(&o, path, whit_st_header_bound("a"), &e), e);
	CHECK_RC(whit_st_out_begin(o, "a", WHIT_F32, 1, (int64_t[]){2}, &e), e);
	CHECK_FAILS(whit_st_out_write(o, "123456789", 9, &e), WHIT_EINTERNAL, e, "need 8");
	CHECK_RC(whit_st_out_write(o, "1234", 4, &e), e);
	CHECK_FAILS(whit_st_out_begin(o, "b", WHIT_F32, 1, (int64_t[]){2}, &e), WHIT_EINTERNAL, e, "lacks 4");
	CHECK_RC(whit_st_out_write(o, "5678", 4, &e), e);
	CHECK_FAILS(whit_st_out_begin(o, "a", WHIT_F32, 1, (int64_t[]){2}, &e), WHIT_EINPUT, e, "twice");
	CHECK_FAILS(whit_st_out_begin(o, "\xff", WHIT_F32, 1, (int64_t[]){2}, &e), WHIT_EINPUT, e, "UTF-8");
	whit_st_out_abort(o);
	CHECK(!whit_file_exists(path));
	/* A header bound that was too small is a defect, and leaves no file. */
	CHECK_RC(whit_st_out_open(&o, path, 0, &e), e);
	for (int i = 0; i < 4; i++) {
		char name[2] = {(char)('a' + i), 0};
		CHECK_RC(whit_st_out_begin(o, name, WHIT_U8, 0, NULL, &e), e);
		CHECK_RC(whit_st_out_write(o, "x", 1, &e), e);
	}
	CHECK_FAILS(whit_st_out_commit(o, &e), WHIT_EINTERNAL, e, "header is");
	CHECK(!whit_file_exists(path));
	/* The bound holds for the longest entry there can be. */
	const int64_t long_shape[8] = {1, 1, 1, 1, 1, 1, 1, 1};
	CHECK_RC(whit_st_out_open(&o, path, 3 * whit_st_header_bound("\x01\x02\x03"), &e), e);
	CHECK_RC(whit_st_out_begin(o, "\x01\x02\x03", WHIT_F8_E5M2, 8, long_shape, &e), e);
	CHECK_RC(whit_st_out_write(o, "x", 1, &e), e);
	CHECK_RC(whit_st_out_commit(o, &e), e);
	whit_free(path);
}

static void dtypes(void) {
	for (int d = 0; d < WHIT_DTYPES; d++) {
		CHECK_INT(whit_dtype_parse(whit_dtype_name(d), strlen(whit_dtype_name(d))), d);
		CHECK(whit_dtype_size(d) >= 1 && whit_dtype_size(d) <= 8);
	}
	CHECK_INT(whit_dtype_parse("F3", 2), -1);
	char text[96];
	whit_shape_text((int64_t[]){1024, 3584}, 2, text);
	CHECK_TEXT(text, "[1024, 3584]");
	whit_shape_text(NULL, 0, text);
	CHECK_TEXT(text, "[]");
	int64_t huge[8];
	for (int i = 0; i < 8; i++) huge[i] = INT64_MAX;
	whit_shape_text(huge, 8, text);
	CHECK(strlen(text) < 96 && strstr(text, "...]"));
}

static void json(void) {
	static const struct {
		const char *text, *word;
	} bad[] = {
	        {"", "line 1"},
	        {"{\"a\":1,\"a\":2}", "duplicate"},
	        {"{\"a\":Infinity}", "Infinity"},
	        {"{\"a\":NaN}", "NaN"},
	        {"{} {}", "end of file"},
	        {"{\"a\\u0000\":1}", "NUL"},
	        {"[\"\\ud800\"]", "Unicode"},
	        {"[\"\xc3(\"]", "decode byte"},
	        {"[1e999]", "overflow"},
	        {"[1,]", "line 1"},
	};
	whit_err e;
	json_t *j;
	for (int64_t i = 0; i < WHIT_COUNT(bad); i++)
		CHECK_FAILS(whit_json_parse(&j, bad[i].text, strlen(bad[i].text), "c.json", &e), WHIT_EINPUT, e,
		            bad[i].word);
	const char good[] = "{\"i\":9007199254740993,\"r\":2.5,\"w\":3.0,\"b\":true,\"t\":\"x\",\"n\":null,\"l\":[1],"
	                    "\"big\":1000000000000000019884624838656,\"neg\":-99999999999999999999}";
	if (!CHECK_RC(whit_json_parse(&j, good, strlen(good), "c.json", &e), e)) return;
	int64_t i = -1;
	double d = -1;
	int b = -1;
	const char *t = "kept";
	const json_t *l;
	CHECK_RC(whit_json_int(j, "c.json", "i", 1, 0, INT64_MAX, &i, &e), e);
	CHECK_INT(i, 9007199254740993);
	CHECK_RC(whit_json_int(j, "c.json", "w", 1, 0, 5, &i, &e), e);
	CHECK_INT(i, 3);
	CHECK_FAILS(whit_json_int(j, "c.json", "r", 1, 0, 5, &i, &e), WHIT_EINPUT, e, "key r is 2.5, need an integer");
	CHECK_FAILS(whit_json_int(j, "c.json", "w", 1, 4, 5, &i, &e), WHIT_EINPUT, e, "is 3, need 4 to 5");
	CHECK_FAILS(whit_json_int(j, "c.json", "big", 1, 0, INT64_MAX, &i, &e), WHIT_EINPUT, e, "need an integer");
	CHECK_FAILS(whit_json_int(j, "c.json", "t", 1, 0, 5, &i, &e), WHIT_EINPUT, e, "key t is string, need integer");
	CHECK_FAILS(whit_json_int(j, "c.json", "n", 1, 0, 5, &i, &e), WHIT_EINPUT, e, "key n is null");
	CHECK_RC(whit_json_int(j, "c.json", "n", 0, 0, 5, &i, &e), e);
	CHECK_INT(i, 3);
	CHECK_RC(whit_json_real(j, "c.json", "big", 1, 0, 1e40, &d, &e), e);
	CHECK_NEAR(d, 1000000000000000019884624838656.0, 0);
	CHECK_RC(whit_json_real(j, "c.json", "neg", 1, -1e40, 0, &d, &e), e);
	CHECK_NEAR(d, -99999999999999999999.0, 0);
	CHECK_FAILS(whit_json_real(j, "c.json", "r", 1, 3, 4, &d, &e), WHIT_EINPUT, e, "is 2.5, need 3 to 4");
	CHECK_RC(whit_json_bool(j, "c.json", "b", 1, &b, &e), e);
	CHECK_INT(b, 1);
	CHECK_FAILS(whit_json_bool(j, "c.json", "i", 1, &b, &e), WHIT_EINPUT, e, "need true or false");
	CHECK_RC(whit_json_text(j, "c.json", "missing", 0, &t, &e), e);
	CHECK_TEXT(t, "kept");
	CHECK_FAILS(whit_json_text(j, "c.json", "missing", 1, &t, &e), WHIT_EINPUT, e, "key missing is absent");
	CHECK_RC(whit_json_member(j, "c.json", "l", 1, JSON_ARRAY, &l, &e), e);
	CHECK_FAILS(whit_json_member(j, "c.json", "l", 1, JSON_OBJECT, &l, &e), WHIT_EINPUT, e,
	            "is array, need object");
	CHECK_FAILS(whit_json_int(l, "c.json", "x", 0, 0, 5, &i, &e), WHIT_EINPUT, e, "need object");
	/* Doubles survive the file. */
	char *path = test_scratch("out.json");
	json_t *out = json_pack("{s:f, s:f, s:s}", "third", 1.0 / 3, "float", (double)0.1f, "z", "last"), *back;
	CHECK_RC(whit_json_write(out, path, &e), e);
	CHECK_RC(whit_json_load(&back, path, &e), e);
	CHECK(json_equal(out, back));
	size_t n;
	char *text = test_read(path, &n);
	CHECK(text && text[n - 1] == '\n' && strstr(text, "third") < strstr(text, "\"z\""));
	whit_free(text);
	json_decref(out);
	json_decref(back);
	json_decref(j);
	whit_free(path);
}

TEST_MAIN(mutations, not_safetensors, round_trip, truncation, writer_misuse, dtypes, json)
