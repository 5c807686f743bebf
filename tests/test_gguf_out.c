/* test_gguf_out: what the writer writes, the reader reads, bit for bit; what it must refuse; nothing half-written. */
#define _GNU_SOURCE
#include "tests/test.h"
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include "formats/gguf.h"

static const whit_ggml_type *type(const char *name) {
	for (int i = 0; whit_ggml_type_of(i); i++)
		if (!strcmp(whit_ggml_type_of(i)->name, name)) return whit_ggml_type_of(i);
	abort();
}

/* Nothing of that name or a temporary beside it. */
static int nothing_left(const char *path) {
	const char *name = strrchr(path, '/') + 1;
	char *dir = whit_format_text("%.*s", (int)(name - path), path);
	DIR *d = opendir(dir);
	int seen = 0;
	for (struct dirent *f; (f = readdir(d));) seen += !strncmp(f->d_name, name, strlen(name));
	closedir(d);
	whit_free(dir);
	return !seen;
}

static void round_trip(void) {
	whit_err e;
	whit_gguf_out *o;
	whit_gguf g;
	char *path = test_scratch("out.gguf"), *copy = test_scratch("copy.gguf");
	uint8_t f32[5 * 3 * 4], q8[2 * 34 * 7], f16[2];
	whit_rng r;
	whit_rng_key(&r, 3, 0, 0);
	for (size_t i = 0; i < sizeof f32; i++) f32[i] = (uint8_t)whit_rng_below(&r, 256);
	for (size_t i = 0; i < sizeof q8; i++) q8[i] = (uint8_t)whit_rng_below(&r, 256);
	f16[0] = 1, f16[1] = 2;
	const int16_t numbers[] = {-3, 0, 32767};
	const whit_gguf_text words[] = {{"a", 1}, {"", 0}, {"b\0c", 3}};
	if (!CHECK_RC(whit_gguf_out_open(&o, path, &e), e)) return;
	CHECK_RC(whit_gguf_put_string(o, "general.architecture", "llama", &e), e);
	CHECK_RC(whit_gguf_put_u32(o, "u32", 4294967295u, &e), e);
	CHECK_RC(whit_gguf_put_i32(o, "i32", -2, &e), e);
	CHECK_RC(whit_gguf_put_u16(o, "u16", 65535, &e), e);
	CHECK_RC(whit_gguf_put_f32(o, "f32", -0.1f, &e), e);
	CHECK_RC(whit_gguf_put_bool(o, "yes", 7, &e), e);
	CHECK_RC(whit_gguf_put_numbers(o, "numbers", WHIT_GGUF_I16, numbers, 3, &e), e);
	CHECK_RC(whit_gguf_put_numbers(o, "none", WHIT_GGUF_F64, NULL, 0, &e), e);
	CHECK_RC(whit_gguf_put_strings(o, "words", words, 3, &e), e);
	CHECK(whit_gguf_out_has(o, "u16") && !whit_gguf_out_has(o, "u1"));
	CHECK_RC(whit_gguf_out_tensor(o, "a", type("F32"), 2, (int64_t[]){5, 3}, &e), e);
	CHECK_RC(whit_gguf_out_tensor(o, "b.weight", type("Q8_0"), 3, (int64_t[]){64, 7, 1}, &e), e);
	CHECK_RC(whit_gguf_out_tensor(o, "c", type("F16"), 4, (int64_t[]){1, 1, 1, 1}, &e), e);
	/* In pieces that do not know where a tensor ends. */
	uint8_t all[sizeof f32 + sizeof q8 + sizeof f16];
	memcpy(all, f32, sizeof f32);
	memcpy(all + sizeof f32, q8, sizeof q8);
	memcpy(all + sizeof f32 + sizeof q8, f16, sizeof f16);
	for (size_t i = 0; i < sizeof all; i += 47)
		CHECK_RC(whit_gguf_out_write(o, all + i, WHIT_MIN(47, sizeof all - i), &e), e);
	CHECK(!whit_file_exists(path));
	CHECK_RC(whit_gguf_out_commit(o, &e), e);

	if (!CHECK_RC(whit_gguf_open(&g, path, &e), e)) return;
	CHECK_INT(g.version, 3);
	CHECK_INT(g.n_kv, 9);
	CHECK_INT(g.n, 3);
	CHECK_INT(g.map.bytes % 32, 0);
	int64_t v = 0;
	double x = 0;
	int yes = 0;
	const char *text;
	const whit_gguf_kv *kv;
	CHECK_RC(whit_gguf_int(&g, "u32", 1, 0, UINT32_MAX, &v, &e), e);
	CHECK_INT(v, 4294967295u);
	CHECK_RC(whit_gguf_int(&g, "i32", 1, -9, 9, &v, &e), e);
	CHECK_INT(v, -2);
	CHECK_RC(whit_gguf_int(&g, "u16", 1, 0, 65535, &v, &e), e);
	CHECK_INT(v, 65535);
	CHECK_RC(whit_gguf_real(&g, "f32", 1, -1, 1, &x, &e), e);
	CHECK_NEAR(x, -0.1f, 0);
	CHECK_RC(whit_gguf_bool(&g, "yes", 1, &yes, &e), e);
	CHECK_INT(yes, 1);
	CHECK_RC(whit_gguf_string(&g, "general.architecture", 1, &text, &e), e);
	CHECK_TEXT(text, "llama");
	CHECK_RC(whit_gguf_array(&g, "numbers", 1, WHIT_GGUF_I16, &kv, &e), e);
	CHECK(kv->n == 3 && !memcmp(kv->data, numbers, sizeof numbers));
	CHECK_RC(whit_gguf_array(&g, "words", 1, WHIT_GGUF_STRING, &kv, &e), e);
	for (int i = 0; i < 3; i++)
		CHECK(kv->text[i].n == words[i].n && !memcmp(kv->text[i].p, words[i].p, words[i].n));
	CHECK(g.t[0].bytes == sizeof f32 && !memcmp(g.t[0].data, f32, sizeof f32) && g.t[0].ndim == 2);
	CHECK(g.t[1].bytes == sizeof q8 && !memcmp(g.t[1].data, q8, sizeof q8) && g.t[1].ndim == 2);
	CHECK(g.t[2].bytes == sizeof f16 && !memcmp(g.t[2].data, f16, sizeof f16) && g.t[2].ndim == 1);

	/* Copied pair by pair and tensor by tensor, it is the same file. */
	CHECK_RC(whit_gguf_out_open(&o, copy, &e), e);
	for (int64_t i = 0; i < g.n_kv; i++) CHECK_RC(whit_gguf_put_copy(o, &g.kv[i], &e), e);
	for (int64_t i = 0; i < g.n; i++)
		CHECK_RC(whit_gguf_out_tensor(o, g.t[i].name, g.t[i].type, g.t[i].ndim, g.t[i].ne, &e), e);
	for (int64_t i = 0; i < g.n; i++) CHECK_RC(whit_gguf_out_write(o, g.t[i].data, g.t[i].bytes, &e), e);
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	size_t n, k;
	char *a = test_read(path, &n), *b = test_read(copy, &k);
	CHECK(a && b && n == k && !memcmp(a, b, n));
	whit_free(a);
	whit_free(b);
	whit_gguf_close(&g);
	remove(path);
	remove(copy);
	whit_free(path);
	whit_free(copy);
}

/* A file of pairs alone, and an empty one. */
static void no_tensors(void) {
	whit_err e;
	whit_gguf_out *o;
	whit_gguf g;
	char *path = test_scratch("pairs.gguf");
	for (int n = 0; n < 2; n++) {
		CHECK_RC(whit_gguf_out_open(&o, path, &e), e);
		if (n) CHECK_RC(whit_gguf_put_u32(o, "k", 1, &e), e);
		CHECK_RC(whit_gguf_out_commit(o, &e), e);
		if (CHECK_RC(whit_gguf_open(&g, path, &e), e)) {
			CHECK(g.n == 0 && g.n_kv == n);
			whit_gguf_close(&g);
		}
	}
	remove(path);
	whit_free(path);
}

static void refusals(void) {
	whit_err e;
	whit_gguf_out *o;
	char *path = test_scratch("refused.gguf"), name[80];
	CHECK_FAILS(whit_gguf_out_open(&o, "/nonexistent/x.gguf", &e), WHIT_EUSAGE, e, "/nonexistent/x.gguf");
	CHECK(!o);
	CHECK_RC(whit_gguf_out_open(&o, path, &e), e);
	CHECK_RC(whit_gguf_put_u32(o, "k", 1, &e), e);
	CHECK_FAILS(whit_gguf_put_i32(o, "k", 1, &e), WHIT_EINTERNAL, e, "there already");
	CHECK_FAILS(whit_gguf_put_i32(o, "", 1, &e), WHIT_EINTERNAL, e, "empty");
	CHECK_FAILS(whit_gguf_put_f32(o, "nan", NAN, &e), WHIT_EINPUT, e, "key nan");
	CHECK_FAILS(whit_gguf_put_f32(o, "inf", INFINITY, &e), WHIT_EINPUT, e, "key inf");
	CHECK_FAILS(whit_gguf_put_numbers(o, "list", WHIT_GGUF_F32, (float[]){1, NAN}, 2, &e), WHIT_EINPUT, e,
	            "element 1");
	CHECK_FAILS(whit_gguf_put_numbers(o, "list", WHIT_GGUF_STRING, "", 1, &e), WHIT_EINTERNAL, e, "no number");
	CHECK_FAILS(whit_gguf_put_numbers(o, "list", WHIT_GGUF_U8, "", -1, &e), WHIT_EINPUT, e, "-1 elements");
	CHECK(!whit_gguf_out_has(o, "nan") && !whit_gguf_out_has(o, "list"));

	memset(name, 'n', sizeof name);
	name[64] = 0;
	CHECK_FAILS(whit_gguf_out_tensor(o, name, type("F32"), 1, (int64_t[]){4}, &e), WHIT_EINPUT, e, "64 bytes");
	name[63] = 0;
	CHECK_RC(whit_gguf_out_tensor(o, name, type("F32"), 1, (int64_t[]){4}, &e), e);
	CHECK_FAILS(whit_gguf_out_tensor(o, name, type("F16"), 1, (int64_t[]){4}, &e), WHIT_EINPUT, e, "once");
	CHECK_FAILS(whit_gguf_out_tensor(o, "q", type("Q8_0"), 2, (int64_t[]){33, 2}, &e), WHIT_EINPUT, e,
	            "row has 33 weights, need a multiple of 32");
	CHECK_FAILS(whit_gguf_out_tensor(o, "q", type("Q8_1"), 1, (int64_t[]){32}, &e), WHIT_EINTERNAL, e, "Q8_1");
	CHECK_FAILS(whit_gguf_out_tensor(o, "q", type("Q4_2"), 1, (int64_t[]){32}, &e), WHIT_EINTERNAL, e, "Q4_2");
	CHECK_FAILS(whit_gguf_out_tensor(o, "q", type("F32"), 5, (int64_t[]){1, 1, 1, 1, 1}, &e), WHIT_EINTERNAL, e,
	            "5 dimensions");
	CHECK_FAILS(whit_gguf_out_tensor(o, "q", type("F32"), 2, (int64_t[]){4, 0}, &e), WHIT_EINPUT, e,
	            "dimension 1 is 0");
	CHECK_FAILS(whit_gguf_out_tensor(o, "q", type("F32"), 2, (int64_t[]){1ll << 40, 1ll << 40}, &e), WHIT_EINPUT, e,
	            "dimension 1");
	CHECK_FAILS(whit_gguf_out_tensor(o, "q", type("F32"), 1, (int64_t[]){1ll << 62}, &e), WHIT_EINPUT, e,
	            "larger than");
	CHECK_RC(whit_gguf_out_write(o, "0123456789abcdef", 15, &e), e);
	CHECK_FAILS(whit_gguf_put_u32(o, "late", 1, &e), WHIT_EINTERNAL, e, "after the first data");
	CHECK_FAILS(whit_gguf_out_tensor(o, "late", type("F32"), 1, (int64_t[]){4}, &e), WHIT_EINTERNAL, e,
	            "after the first data");
	CHECK_FAILS(whit_gguf_out_commit(o, &e), WHIT_EINTERNAL, e, "15 of 16 bytes");
	CHECK(nothing_left(path));

	CHECK_RC(whit_gguf_out_open(&o, path, &e), e);
	CHECK_RC(whit_gguf_out_tensor(o, "t", type("F32"), 1, (int64_t[]){4}, &e), e);
	CHECK_FAILS(whit_gguf_out_write(o, "0123456789abcdefX", 17, &e), WHIT_EINTERNAL, e, "after the last tensor");
	whit_gguf_out_abort(o);
	whit_gguf_out_abort(NULL);
	CHECK(nothing_left(path));
	whit_free(path);
}

/* A disk that fills up, by way of a limit on file size. */
static void full_disk(void) {
	whit_err e;
	whit_gguf_out *o;
	struct rlimit was, now;
	enum { ROWS = 4096 };
	char *path = test_scratch("full.gguf");
	float *x = whit_alloc(ROWS * sizeof *x);
	getrlimit(RLIMIT_FSIZE, &was);
	now = was;
	now.rlim_cur = 1 << 20;
	void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
	CHECK_RC(whit_gguf_out_open(&o, path, &e), e);
	CHECK_RC(whit_gguf_out_tensor(o, "t", type("F32"), 2, (int64_t[]){ROWS, 1000}, &e), e);
	setrlimit(RLIMIT_FSIZE, &now);
	int rc = 0;
	for (int i = 0; i < 1000 && !rc; i++) rc = whit_gguf_out_write(o, x, ROWS * sizeof *x, &e);
	CHECK_FAILS(rc, WHIT_ERESOURCE, e, "cannot write");
	whit_gguf_out_abort(o);
	setrlimit(RLIMIT_FSIZE, &was);
	signal(SIGXFSZ, handler);
	CHECK(nothing_left(path));
	whit_free(path);
	whit_free(x);
}

TEST_MAIN(round_trip, no_tensors, refusals, full_disk)
