/* Tokenizers in GGUF metadata: what is read gives llama.cpp's ids (measured with llama-tokenize d32676d), what is
 * written gives the same ids and bytes as the directory it came from, and wrong metadata is refused by name. */
#include <fcntl.h>
#include <unistd.h>
#include "formats/json.h"
#include "host/tokenizer.h"
#include "tests/test.h"

static whit_err e;

/* ---- a small GGUF from a list of tokens ---- */

enum { UNKNOWN = 2, CONTROL, USER, UNUSED, BYTE };
typedef struct tok {
	const char *text;
	float score;
	int type; /* 0 = normal */
} tok;

typedef struct meta {
	const char *model, *pre;   /* NULL: no such key */
	const tok *v;              /* ends with text NULL; behind the 3 + 256 tokens of Llama's kind */
	const char *const *merges; /* ends with NULL; of gpt2: "a b" */
	int no_types, no_scores, no_merges, short_types, short_scores, drop_byte;
	const char *flag; /* a flag's key and value */
	int on;
	const char *id_key; /* an id's key and value */
	uint32_t id;
	const char *kind_key; /* a key with a text in place of what it should be */
} meta;

static int put(whit_gguf_out *o, const meta *m, whit_err *err) {
	whit_gguf_text text[600];
	float score[600] = {0};
	int32_t type[600], n = 0;
	static char name[256][8];
	int spm = !m->model || !strcmp(m->model, "llama");
	if (spm) {
		static const char *const first[] = {"<unk>", "<s>", "</s>"};
		for (; n < 3; n++) {
			text[n] = (whit_gguf_text){first[n], strlen(first[n])};
			type[n] = n ? CONTROL : UNKNOWN;
		}
		for (int b = 0; b < 256; b++, n++) {
			snprintf(name[b], sizeof name[b], m->drop_byte && b == m->drop_byte ? "(0x%02X)" : "<0x%02X>",
			         b);
			text[n] = (whit_gguf_text){name[b], 6};
			type[n] = m->drop_byte && b == m->drop_byte ? 1 : BYTE;
		}
	}
	for (const tok *t = m->v; t->text; t++, n++) {
		text[n] = (whit_gguf_text){t->text, strlen(t->text)};
		score[n] = t->score;
		type[n] = t->type ? t->type : 1;
	}
	int rc = m->model ? whit_gguf_put_string(o, "tokenizer.ggml.model", m->model, err) : 0;
	if (!rc && m->pre) rc = whit_gguf_put_string(o, "tokenizer.ggml.pre", m->pre, err);
	if (!rc) rc = whit_gguf_put_strings(o, "tokenizer.ggml.tokens", text, n, err);
	if (!rc && !m->no_types)
		rc = whit_gguf_put_numbers(o, "tokenizer.ggml.token_type", WHIT_GGUF_I32, type, n - m->short_types,
		                           err);
	if (!rc && spm && !m->no_scores)
		rc = whit_gguf_put_numbers(o, "tokenizer.ggml.scores", WHIT_GGUF_F32, score, n - m->short_scores, err);
	if (!rc && !spm && !m->no_merges) {
		int k = 0;
		for (; m->merges && m->merges[k]; k++) text[k] = (whit_gguf_text){m->merges[k], strlen(m->merges[k])};
		rc = whit_gguf_put_strings(o, "tokenizer.ggml.merges", text, k, err);
	}
	if (!rc && m->flag) rc = whit_gguf_put_bool(o, m->flag, m->on, err);
	if (!rc && m->id_key) rc = whit_gguf_put_u32(o, m->id_key, m->id, err);
	if (!rc && m->kind_key) rc = whit_gguf_put_string(o, m->kind_key, "x", err);
	return rc;
}

static char *file_of(const meta *m) {
	char *path = test_scratch("tok_meta.gguf");
	whit_gguf_out *o;
	CHECK_RC(whit_gguf_out_open(&o, path, &e), e);
	CHECK_RC(put(o, m, &e), e);
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	return path;
}

static whit_tok *open_meta(const meta *m) {
	char *path = file_of(m);
	whit_tok *t;
	CHECK_RC(whit_tok_open(&t, path, &e), e);
	whit_free(path);
	return t;
}

/* The tokens of text, "|" between them; whit_free it. */
static char *pieces(const whit_tok *t, const char *text, size_t n, unsigned flags) {
	whit_ids ids = {0};
	char *all = whit_strdup("");
	if (CHECK_RC(whit_tok_encode(t, text, n, flags, &ids, &e), e))
		for (int64_t i = 0; i < ids.n; i++) {
			char *longer = whit_format_text("%s%s%d", all, i ? " " : "", ids.id[i]);
			whit_free(all);
			all = longer;
		}
	whit_ids_free(&ids);
	return all;
}

static void check_ids(const meta *m, const char *text, unsigned flags, const char *want) {
	whit_tok *t = open_meta(m);
	if (!t) return;
	char *got = pieces(t, text, strlen(text), flags);
	CHECK_MSG(!strcmp(got, want), "\"%s\" gives %s, need %s", text, got, want);
	whit_free(got);
	whit_tok_close(t);
}

#define SPACE "\xe2\x96\x81"
#define BOTH (WHIT_TOK_SPECIAL | WHIT_TOK_PARSE)

/* ---- what llama.cpp gives; ids of the list begin at 259, the byte b is 3 + b ---- */

static void test_scores(void) {
	static const tok ab[] = {{SPACE, -9, 0}, {"a", -1, 0},   {"b", -2, 0},
	                         {"ab", -3, 0},  {"abb", -4, 0}, {NULL, 0, 0}};
	const meta m = {.model = "llama", .pre = "default", .v = ab};
	check_ids(&m, "ab abb aab", BOTH, "1 259 262 259 263 259 260 262");
	/* equal scores: the leftmost */
	static const tok equal[] = {{SPACE, -9, 0}, {"a", -1, 0},  {"b", -1, 0},   {"ab", -3, 0},
	                            {"ba", -3, 0},  {"aa", -3, 0}, {"aab", -3, 0}, {NULL, 0, 0}};
	const meta q = {.model = "llama", .v = equal};
	check_ids(&q, "ababa aaab baab aaaa", BOTH, "1 259 262 262 260 259 264 262 259 263 262 259 264 264");
	/* "b" is no token, and merges; alone it is its byte */
	static const tok lone[] = {{SPACE, -9, 0},
	                           {"a", -1, 0},
	                           {"ab", -3, 0},
	                           {"bb", -2, 0},
	                           {"\xc3\xa9"
	                            "b",
	                            -5, 0},
	                           {NULL, 0, 0}};
	const meta l = {.model = "llama", .v = lone};
	check_ids(&l, "ab abb b bb bbb", BOTH, "1 259 261 259 260 262 259 101 259 262 259 262 101");
	check_ids(&l,
	          "\xc3\xa9"
	          "b \xc3\xa9",
	          0, "259 263 259 198 172");
	check_ids(&l,
	          "bb\xc3\xa9"
	          "bb",
	          0, "259 262 198 172 262"); /* bb scores more */
	/* user-defined tokens come first, in text that has its spaces; each section gets a space */
	static const tok user[] = {{SPACE, -9, 0},          {"s", -1, 0}, {"u", -4, USER}, {"us", -2, 0},
	                           {SPACE SPACE, -2, USER}, {NULL, 0, 0}};
	const meta u = {.model = "llama", .v = user};
	check_ids(&u, "us u", 0, "261 259 260 259 261");
	check_ids(&u, "  s", 0, "263 259 260");
	/* text never becomes a control token, as long as nobody asks */
	static const tok ctl[] = {{SPACE, -9, 0}, {"<", -1, 0},  {"s", -1, 0}, {">", -1, 0},
	                          {"<s", -2, 0},  {"s>", -2, 0}, {NULL, 0, 0}};
	const meta c = {.model = "llama", .v = ctl};
	check_ids(&c, "<s>", 0, "259 263 262");
	check_ids(&c, "<s>s", WHIT_TOK_PARSE, "1 259 261");
}

static void test_defaults(void) {
	static const tok s[] = {{SPACE, -9, 0}, {"s", -1, 0}, {NULL, 0, 0}};
	check_ids(&(meta){.model = "llama", .v = s}, "s</s>s", BOTH, "1 259 260 2 259 260");
	check_ids(&(meta){.model = "llama", .v = s}, "", BOTH, "1");
	check_ids(&(meta){.model = "llama", .v = s, .flag = "tokenizer.ggml.add_bos_token"}, "s", BOTH, "259 260");
	check_ids(&(meta){.model = "llama", .v = s, .flag = "tokenizer.ggml.add_eos_token", .on = 1}, "s", BOTH,
	          "1 259 260 2");
	check_ids(&(meta){.model = "llama", .v = s, .flag = "tokenizer.ggml.add_space_prefix"}, "s", BOTH, "1 260");
	/* a GPT-2 kind: BOS only with llama-bpe, 11 unless named */
	static const tok g[] = {{"a", 0, 0},   {"b", 0, 0},         {"ab", 0, 0},     {"c", 0, 0},
	                        {"d", 0, 0},   {"e", 0, 0},         {"f", 0, 0},      {"g", 0, 0},
	                        {"h", 0, 0},   {"i", 0, 0},         {"j", 0, 0},      {"k", 0, 0},
	                        {"abc", 0, 0}, {"<x>", 0, CONTROL}, {"<y>", 0, USER}, {"[PAD15]", 0, UNUSED},
	                        {NULL, 0, 0}};
	static const char *const merges[] = {"a b", NULL};
	check_ids(&(meta){.model = "gpt2", .pre = "llama-bpe", .v = g, .merges = merges}, "abc", BOTH, "11 12");
	check_ids(&(meta){.model = "gpt2", .pre = "qwen2", .v = g, .merges = merges}, "abc", BOTH, "2 3");
	check_ids(&(meta){.model = "gpt2",
	                  .pre = "llama3",
	                  .v = g,
	                  .merges = merges,
	                  .id_key = "tokenizer.ggml.bos_token_id",
	                  .id = 13},
	          "ab", BOTH, "13 2");
	check_ids(&(meta){.model = "gpt2", .pre = "", .v = g, .merges = merges}, "ab<y><x>", WHIT_TOK_PARSE, "2 14 13");
	check_ids(&(meta){.model = "gpt2", .v = g, .merges = merges, .no_types = 1}, "ab", BOTH, "2");
	whit_tok *t = open_meta(&(meta){.model = "gpt2", .pre = "qwen2", .v = g, .merges = merges});
	size_t len;
	char *text = whit_tok_decode(t, (int32_t[]){2, 13, 14, 15, 3}, 5, 1, &len);
	CHECK_TEXT(text, "ab<y>c");
	CHECK(whit_tok_is_special(t, 13) && !whit_tok_is_special(t, 14));
	CHECK_INT(whit_tok_vocab(t), 16);
	CHECK_INT(whit_tok_bos(t), -1);
	whit_free(text);
	whit_tok_close(t);
}

/* ---- refusals ---- */

/* The writer refuses such a score, so one is put into the bytes. */
static void test_nan(void) {
	static const tok a[] = {{"a", 0x1.234568p+20f, 0}, {NULL, 0, 0}};
	const float nan = NAN;
	size_t n;
	char *path = file_of(&(meta){.model = "llama", .v = a}), *bytes = test_read(path, &n);
	whit_tok *t;
	int found = 0;
	for (size_t i = 0; i + 4 <= n; i++)
		if (!memcmp(bytes + i, &a[0].score, 4)) {
			memcpy(bytes + i, &nan, 4);
			found++;
		}
	CHECK_INT(found, 1);
	test_write(path, bytes, n);
	CHECK_FAILS(whit_tok_open(&t, path, &e), WHIT_EINPUT, e, "not a number");
	free(bytes);
	whit_free(path);
}

static void test_refusals(void) {
	static const tok a[] = {{"a", -1, 0}, {NULL, 0, 0}},
	                 twice[] = {{"a", 0, 0}, {"b", 0, 0}, {"a", 0, 0}, {NULL, 0, 0}},
	                 special_twice[] = {{"a", 0, 0}, {"<x>", 0, CONTROL}, {"<x>", 0, USER}, {NULL, 0, 0}},
	                 mixed[] = {{"a", 0, 0}, {"a", 0, CONTROL}, {NULL, 0, 0}}, odd[] = {{"a", 0, 7}, {NULL, 0, 0}},
	                 negative[] = {{"a", 0, -1}, {NULL, 0, 0}}, byte[] = {{"<0xZZ>", 0, BYTE}, {NULL, 0, 0}},
	                 byte2[] = {{"a", 0, BYTE}, {NULL, 0, 0}}, cut[] = {{"\xe2\x96", 0, 0}, {NULL, 0, 0}},
	                 ab[] = {{"a", 0, 0}, {"b", 0, 0}, {"ab", 0, 0}, {NULL, 0, 0}};
	static char much[2000];
	memset(much, 'a', sizeof much - 1);
	const tok large[] = {{much, 0, 0}, {NULL, 0, 0}};
	static const char *const ok[] = {"a b", NULL}, *const none[] = {NULL}, *const bad[] = {"ab", NULL},
	                         *const three[] = {"a b ab", NULL}, *const empty[] = {" b", NULL},
	                         *const unknown[] = {"a c", NULL}, *const unmade[] = {"b a", NULL};
	const struct {
		meta m;
		const char *word;
	} cases[] = {
	        {{.v = a}, "tokenizer.ggml.model"},
	        {{.model = "bert", .v = a}, "gpt2 and llama"},
	        {{.model = "gpt2", .pre = "qwen2", .v = ab, .no_merges = 1}, "merges"},
	        {{.model = "gpt2", .pre = "starcoder9", .v = ab, .merges = ok}, "known are llama-bpe"},
	        {{.model = "gpt2", .pre = "qwen2", .v = ab, .merges = bad}, "LEFT RIGHT"},
	        {{.model = "gpt2", .pre = "qwen2", .v = ab, .merges = three}, "LEFT RIGHT"},
	        {{.model = "gpt2", .pre = "qwen2", .v = ab, .merges = empty}, "LEFT RIGHT"},
	        {{.model = "gpt2", .pre = "qwen2", .v = ab, .merges = unknown}, "\"c\""},
	        {{.model = "gpt2", .pre = "qwen2", .v = ab, .merges = unmade}, "\"ba\""},
	        {{.model = "gpt2", .pre = "qwen2", .v = twice, .merges = none}, "tokens 0 and 2"},
	        {{.model = "gpt2", .pre = "qwen2", .v = special_twice, .merges = none}, "ids 1 and 2"},
	        {{.model = "gpt2", .pre = "qwen2", .v = mixed, .merges = none}, "says 0"},
	        {{.model = "gpt2", .pre = "qwen2", .v = odd, .merges = none}, "is 7, need 1 to 6"},
	        {{.model = "gpt2", .pre = "qwen2", .v = negative, .merges = none}, "is -1, need 1 to 6"},
	        {{.model = "gpt2", .pre = "qwen2", .v = ab, .merges = ok, .short_types = 1}, "2 elements, need 3"},
	        {{.model = "llama", .v = a, .short_scores = 1}, "259 elements, need 260"},
	        {{.model = "llama", .v = a, .no_scores = 1}, "tokenizer.ggml.scores"},
	        {{.model = "llama", .v = byte}, "<0xZZ>"},
	        {{.model = "llama", .v = byte2}, "\"a\", need <0x00>"},
	        {{.model = "llama", .v = cut}, "UTF-8"},
	        {{.model = "llama", .v = large}, "1999 bytes"},
	        {{.model = "llama", .v = a, .id_key = "tokenizer.ggml.bos_token_id", .id = 260}, "bos_token_id"},
	        {{.model = "llama", .v = a, .id_key = "tokenizer.ggml.eot_token_id", .id = 4000000000u},
	         "eot_token_id"},
	        {{.model = "llama", .v = a, .id_key = "tokenizer.ggml.padding_token_id", .id = 260},
	         "padding_token_id"},
	        {{.model = "llama", .v = a, .id_key = "tokenizer.ggml.unknown_token_id", .id = 260},
	         "unknown_token_id"},
	        {{.model = "llama", .v = a, .kind_key = "tokenizer.ggml.add_bos_token"}, "add_bos_token"},
	        {{.model = "llama", .v = a, .kind_key = "tokenizer.ggml.eos_token_id"}, "eos_token_id"},
	};
	for (int i = 0; i < WHIT_COUNT(cases); i++) {
		char *path = file_of(&cases[i].m);
		whit_tok *t;
		CHECK_FAILS(whit_tok_open(&t, path, &e), WHIT_EINPUT, e, cases[i].word);
		CHECK(t == NULL);
		whit_tok_close(t);
		whit_free(path);
	}
	whit_tok *t =
	        open_meta(&(meta){.model = "llama", .v = a, .drop_byte = 'x', .id_key = "tokenizer.ggml.bos_token_id"});
	char *got = pieces(t, "axa", 3, 0);
	CHECK_TEXT(got, "229 153 132 259 0 259"); /* the unknown token; U+2581 is three bytes here */
	whit_free(got);
	whit_tok_close(t);
}

/* ---- models, there and back ---- */

static char *read_start(const char *relative, size_t most, size_t *n) {
	char *path = test_data(relative), *text = path ? test_read(path, n) : NULL;
	if (text && *n > most) text[ *n = most] = 0;
	whit_free(path);
	return text;
}

static void same_ids(const whit_tok *a, const whit_tok *b, const char *text, size_t n, unsigned flags) {
	whit_ids x = {0}, y = {0};
	CHECK_RC(whit_tok_encode(a, text, n, flags, &x, &e), e);
	CHECK_RC(whit_tok_encode(b, text, n, flags, &y, &e), e);
	CHECK_INT(y.n, x.n);
	CHECK(x.n > 0 && x.n == y.n && !memcmp(x.id, y.id, (size_t)x.n * sizeof *x.id));
	for (int skip = 0; skip < 2; skip++) {
		size_t nx, ny;
		char *tx = whit_tok_decode(a, x.id, x.n, skip, &nx), *ty = whit_tok_decode(b, x.id, x.n, skip, &ny);
		CHECK(nx == ny && !memcmp(tx, ty, nx));
		whit_free(tx);
		whit_free(ty);
	}
	whit_ids_free(&x);
	whit_ids_free(&y);
}

static int put_file(const char *model, int64_t rows, const char *path) {
	whit_gguf_out *o;
	int rc = whit_gguf_out_open(&o, path, &e);
	if (!rc && (rc = whit_tok_put_gguf(model, rows, o, &e)))
		whit_gguf_out_abort(o);
	else if (!rc)
		rc = whit_gguf_out_commit(o, &e);
	return rc;
}

static void test_models(void) {
	static const struct {
		const char *name;
		int64_t rows;
	} model[] = {{"wiki12M-qwen3", 4096}, {"wiki5M", 512}, {"stories260K", 512}};
	static const char mixed[] =
	        "  a<s>b</s> c<|endoftext|>\n\n12345 It's \xff\xc3 <unk>\xe4\xb8\xad  \xe2\x96\x81x";
	char *dir = test_scratch("tok_gguf"), *in_dir = whit_format_text("%s/tokenizer.gguf", dir);
	mkdir(dir, 0777);
	for (int i = 0; i < WHIT_COUNT(model); i++) {
		size_t n;
		char *own = i ? whit_format_text("models/%s", model[i].name) : NULL;
		char *from = i ? test_data(own) : test_model(model[i].name),
		     *text = read_start("text/wiki.test.raw", TEST_SANITIZED ? 20000 : 300000, &n);
		char *again = whit_format_text("%s/again.gguf", dir);
		whit_tok *a = NULL, *b = NULL, *c = NULL;
		int same = -1;
		if (from && CHECK_RC(put_file(from, model[i].rows, in_dir), e) &&
		    CHECK_RC(put_file(dir, model[i].rows + 5, again), e) && CHECK_RC(whit_tok_open(&a, from, &e), e) &&
		    CHECK_RC(whit_tok_open(&b, dir, &e), e) && CHECK_RC(whit_tok_open(&c, again, &e), e)) {
			for (unsigned flags = 0; flags < 4; flags++) {
				same_ids(a, b, mixed, sizeof mixed - 1, flags);
				if (text) same_ids(a, c, text, n, flags);
			}
			CHECK_INT(whit_tok_vocab(b), model[i].rows);
			CHECK_INT(whit_tok_vocab(c), model[i].rows + 5);
			CHECK_INT(whit_tok_eos(b), whit_tok_eos(a));
			CHECK_INT(whit_tok_adds_bos(b), whit_tok_adds_bos(a));
			CHECK_INT(whit_tok_is_special(b, whit_tok_eos(a)), 1);
			CHECK(whit_tok_exists(from) && whit_tok_exists(dir) && whit_tok_exists(again));
			CHECK_RC(whit_tok_same(dir, in_dir, &same, &e), e);
			CHECK_INT(same, 1);
			CHECK_RC(whit_tok_same(dir, again, &same, &e), e);
			CHECK_INT(same, 0);
			CHECK_RC(whit_tok_same(from, dir, &same, &e), e);
			CHECK_INT(same, 0);
			CHECK_RC(whit_tok_same(from, from, &same, &e), e);
			CHECK_INT(same, 1);
			CHECK_FAILS(put_file(from, model[i].rows - 2, again), WHIT_EINPUT, e, "rows");
			CHECK_FAILS(put_file(dir, model[i].rows - 2, again), WHIT_EINPUT, e, "rows");
		}
		whit_tok_close(a);
		whit_tok_close(b);
		whit_tok_close(c);
		free(text);
		whit_free(own);
		whit_free(from);
		whit_free(again);
	}
	whit_free(dir);
	whit_free(in_dir);
}

/* ---- from tokenizer.json: what is refused, and what else is written ---- */

#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]"
#define ADDED                                                                                                          \
	"\"added_tokens\":[{\"id\":3,\"content\":\"<x>\",\"special\":true},{\"id\":4,\"content\":\"<|eom_id|>\","      \
	"\"special\":true},{\"id\":5,\"content\":\"<y>\",\"special\":false},{\"id\":6,\"content\":\"<z>\","            \
	"\"special\":"                                                                                                 \
	"true}],"
#define JSON(more) "{" ADDED more ",\"model\":{" VOCAB "}}"
#define PRE(pre) JSON("\"pre_tokenizer\":" pre)

static void in_dir(const char *dir, const char *name, const char *text) {
	char *path = whit_format_text("%s/%s", dir, name);
	test_write(path, text, strlen(text));
	whit_free(path);
}

static void test_put_refusals(void) {
	static const char *const bad[][2] = {
	        {PRE("null"), "normalizer is absent"},
	        {PRE("{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"[0-9]\"}}"), "[0-9]"},
	        {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\","
	             "\"pattern\":{"
	             "\"Regex\":\"[0-9]{5}\"}}," BYTES "]}"),
	         "[0-9]{5}"},
	        {PRE("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"), "add_prefix_space"},
	        {PRE("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"), "llama-bpe"},
	        {PRE("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"split\":false}"), "Metaspace"},
	        {PRE("{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"}"), "Metaspace"},
	        {JSON("\"normalizer\":{\"type\":\"Lowercase\"},\"pre_tokenizer\":" BYTES), "Lowercase"},
	        {JSON("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
	              "\"},\"content\":\"\xe2\x96\x81\"}"),
	         "<0x00>"},
	        {JSON("\"pre_tokenizer\":" BYTES ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"
	              "\"SpecialToken\":{\"id\":\"<x>\"}},"
	              "{\"SpecialToken\":{\"id\":\"<z>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<x>\":{"
	              "\"ids\":"
	              "[3]},\"<z>\":{\"ids\":[6]}}}"),
	         "adds 2 tokens"},
	        {"{\"pre_tokenizer\":" BYTES ",\"model\":{\"ignore_merges\":true," VOCAB "}}", "ignore_merges is true"},
	        {"{\"pre_tokenizer\":" BYTES ",\"model\":{\"vocab\":{\"[PAD1]\":0},\"merges\":[]}}", "[PAD1]"},
	        {"{\"pre_tokenizer\":" BYTES
	         ",\"model\":{\"vocab\":{\" \":0,\"a\":1,\" a\":2},\"merges\":[[\" \",\"a\"]]}}",
	         "a space"},
	};
	char *dir = test_scratch("tok_put"), *out = whit_format_text("%s.gguf", dir);
	mkdir(dir, 0777);
	for (int i = 0; i < WHIT_COUNT(bad); i++) {
		in_dir(dir, "tokenizer.json", bad[i][0]);
		CHECK_FAILS(put_file(dir, 8, out), WHIT_EINPUT, e, bad[i][1]);
		CHECK(!whit_file_exists(out));
	}
	in_dir(dir, "tokenizer.json", PRE(BYTES));
	in_dir(dir, "generation_config.json", "{\"eos_token_id\":[3,99]}");
	CHECK_FAILS(put_file(dir, 8, out), WHIT_EINPUT, e, "99");
	in_dir(dir, "generation_config.json", "{\"eos_token_id\":\"<x>\"}");
	CHECK_FAILS(put_file(dir, 8, out), WHIT_EINPUT, e, "no integer");
	in_dir(dir, "generation_config.json", "{}");
	in_dir(dir, "tokenizer_config.json", "{\"chat_template\":7}");
	CHECK_FAILS(put_file(dir, 8, out), WHIT_EINPUT, e, "chat_template");
	whit_free(dir);
	whit_free(out);
}

static void check_id(const whit_gguf *g, const char *key, int64_t want) {
	int64_t v = -1;
	CHECK_RC(whit_gguf_int(g, key, 0, 0, 1000, &v, &e), e);
	CHECK_MSG(v == want, "%s is %lld, need %lld", key, (long long)v, (long long)want);
}

static void check_text(const whit_gguf *g, const char *key, const char *want) {
	const char *text = "";
	CHECK_RC(whit_gguf_string(g, key, 1, &text, &e), e);
	CHECK_TEXT(text, want);
}

/* Ids that end generation, templates, types, padding. */
static void test_put(void) {
	char *dir = test_scratch("tok_more"), *out = whit_format_text("%s.gguf", dir);
	whit_gguf g;
	const whit_gguf_kv *kv;
	mkdir(dir, 0777);
	in_dir(dir, "tokenizer.json", PRE(BYTES));
	in_dir(dir, "config.json", "{\"eos_token_id\":1,\"bos_token_id\":6}");
	in_dir(dir, "generation_config.json", "{\"eos_token_id\":[6,4,3,3]}");
	in_dir(dir, "tokenizer_config.json",
	       "{\"eos_token\":\"<x>\",\"pad_token\":{\"content\":\"<z>\"},\"chat_template\":[{\"name\":\"default\","
	       "\"template\":"
	       "\"D\"},{\"name\":\"tool_use\",\"template\":\"T\"}]}");
	if (CHECK_RC(put_file(dir, 9, out), e) && CHECK_RC(whit_gguf_open(&g, out, &e), e)) {
		static const int type[] = {1, 1, 1, CONTROL, CONTROL, USER, CONTROL, UNUSED, UNUSED};
		check_text(&g, "tokenizer.ggml.model", "gpt2");
		check_text(&g, "tokenizer.ggml.pre", "gpt-2");
		check_text(&g, "tokenizer.chat_template", "D");
		check_text(&g, "tokenizer.chat_template.tool_use", "T");
		check_id(&g, "tokenizer.ggml.eos_token_id", 3);
		check_id(&g, "tokenizer.ggml.eot_token_id", 6);
		check_id(&g, "tokenizer.ggml.eom_token_id", 4);
		check_id(&g, "tokenizer.ggml.bos_token_id", 6);
		check_id(&g, "tokenizer.ggml.padding_token_id", 6);
		CHECK_RC(whit_gguf_array(&g, "tokenizer.chat_templates", 1, WHIT_GGUF_STRING, &kv, &e), e);
		CHECK(kv && kv->n == 1 && kv->text[0].n == 8);
		CHECK_RC(whit_gguf_array(&g, "tokenizer.ggml.token_type", 1, WHIT_GGUF_I32, &kv, &e), e);
		for (int i = 0; i < WHIT_COUNT(type); i++) CHECK_INT(whit_load_u32(kv->data + 4 * i), type[i]);
		CHECK_RC(whit_gguf_array(&g, "tokenizer.ggml.tokens", 1, WHIT_GGUF_STRING, &kv, &e), e);
		CHECK(kv && kv->n == 9 && kv->text[8].n == 6 && !memcmp(kv->text[8].p, "[PAD8]", 6));
		whit_gguf_close(&g);
	}
	/* the newer file for templates stands in the key's place; a tokenizer's eos that ends nothing is not eos */
	in_dir(dir, "chat_template.jinja", "N");
	in_dir(dir, "generation_config.json", "{\"eos_token_id\":6}");
	if (CHECK_RC(put_file(dir, 7, out), e) && CHECK_RC(whit_gguf_open(&g, out, &e), e)) {
		check_text(&g, "tokenizer.chat_template", "N");
		check_id(&g, "tokenizer.ggml.eos_token_id", 6);
		check_id(&g, "tokenizer.ggml.eot_token_id", -1);
		whit_gguf_close(&g);
	}
	whit_free(dir);
	whit_free(out);
}

/* ---- merges as scores ---- */

/* tokenizer.json of SentencePiece's kind with all bytes, these tokens from id 259 on, and merges. */
static char *spaces_json(const char *tokens, const char *merges) {
	char bytes[256 * 16], *o = bytes;
	for (int b = 0; b < 256; b++) o += sprintf(o, "\"<0x%02X>\":%d,", b, 3 + b);
	return whit_format_text(
	        "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" SPACE
	        "\"},\"model\":{\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,%s%s},"
	        "\"merges\":[%s]}}",
	        bytes, tokens, merges);
}

/* What is said to stderr while model is put; whit_free it. */
static char *said(const char *model) {
	char *log = test_scratch("tok_said"), *out = test_scratch("tok_said.gguf");
	size_t n;
	fflush(stderr);
	int keep = dup(2), fd = open(log, O_CREAT | O_WRONLY | O_TRUNC, 0666);
	dup2(fd, 2);
	CHECK_RC(put_file(model, 300, out), e);
	fflush(stderr);
	dup2(keep, 2);
	close(keep);
	close(fd);
	char *text = test_read(log, &n);
	whit_free(log);
	whit_free(out);
	return text;
}

/* Scores merge b and c as well. Where that changes ids it is said; where it cannot, nothing is. */
static void test_as_scores(void) {
	char *dir = test_scratch("tok_scores");
	mkdir(dir, 0777);
	static const char tokens[] = "\"a\":259,\"b\":260,\"c\":261,\"ab\":262,\"bc\":263,\"abc\":264";
	static const struct {
		const char *merges;
		int warns;
	} c[] = {{"\"a b\",\"b c\",\"ab c\",\"a bc\"", 0},
	         {"\"a b\",\"ab c\"", 1},          /* bc is made of nothing here */
	         {"\"a b\",\"b c\",\"ab c\"", 0},  /* a and bc never meet: ab goes first */
	         {"\"b c\",\"a b\",\"ab c\"", 1}}; /* here they do */
	for (int i = 0; i < WHIT_COUNT(c); i++) {
		char *json = spaces_json(tokens, c[i].merges);
		in_dir(dir, "tokenizer.json", json);
		char *text = said(dir);
		CHECK_MSG(!!strstr(text, "merges become scores") == c[i].warns, "case %d says \"%s\"", i, text);
		free(text);
		whit_free(json);
	}
	whit_free(dir);
}

/* ---- no tokenizer ---- */

static void test_none(void) {
	char *dir = test_scratch("tok_none"), *file = whit_format_text("%s/tokenizer.gguf", dir);
	whit_gguf_out *o;
	whit_tok *t;
	mkdir(dir, 0777);
	CHECK(!whit_tok_exists(dir) && !whit_tok_exists(file));
	CHECK_FAILS(whit_tok_open(&t, dir, &e), WHIT_EINPUT, e, "neither");
	CHECK_RC(whit_gguf_out_open(&o, file, &e), e);
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	CHECK(!whit_tok_exists(dir));
	CHECK_FAILS(whit_tok_open(&t, dir, &e), WHIT_EINPUT, e, "tokenizer.ggml.model");
	CHECK_FAILS(put_file(dir, 7, file), WHIT_EINPUT, e, "tokenizer.ggml.tokens");
	/* said, of a wrong kind, and in a file that is none */
	CHECK_RC(whit_gguf_out_open(&o, file, &e), e);
	CHECK_RC(whit_gguf_put_string(o, "tokenizer.ggml.model", "none", &e), e);
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	CHECK(!whit_tok_exists(dir) && !whit_tok_exists(file));
	CHECK_RC(whit_gguf_out_open(&o, file, &e), e);
	CHECK_RC(whit_gguf_put_u32(o, "tokenizer.ggml.model", 7, &e), e);
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	CHECK(whit_tok_exists(dir) && whit_tok_exists(file));
	CHECK_RC(whit_write_file(file, "GGUF", 4, &e), e);
	CHECK(whit_tok_exists(dir));
	whit_free(dir);
	whit_free(file);
}

TEST_MAIN(test_scores, test_defaults, test_refusals, test_nan, test_models, test_put_refusals, test_put, test_as_scores,
          test_none)
