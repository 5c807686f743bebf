/* Tokenizer against: Hugging Face's library (golden files), llama.cpp's vectors, a plain byte-pair encoder, and
 * its own inverse. */
#define _GNU_SOURCE /* memmem */
#include "formats/json.h"
#include "host/tokenizer.h"
#include "tests/test.h"

static whit_err e;

/* ---- helpers ---- */

static whit_tok *parse(const char *json, const char *config) {
	whit_tok *t;
	CHECK_RC(whit_tok_parse(&t, json, strlen(json), config, config ? strlen(config) : 0, "test", &e), e);
	return t;
}

static whit_tok *parse_json(json_t *j) {
	char *text = json_dumps(j, JSON_COMPACT);
	whit_tok *t = parse(text, NULL);
	free(text);
	json_decref(j);
	return t;
}

static char *unhex(const char *hex, size_t *n) {
	*n = strlen(hex) / 2;
	char *p = whit_alloc(*n + 1);
	for (size_t i = 0; i < *n; i++) {
		unsigned v = 0;
		if (sscanf(hex + 2 * i, "%2x", &v) != 1) abort();
		p[i] = (char)v;
	}
	return p;
}

static int same_ids(const whit_ids *got, const json_t *want) {
	int same = got->n == (int64_t)json_array_size(want);
	for (int64_t i = 0; i < got->n && same; i++)
		same = json_integer_value(json_array_get(want, (size_t)i)) == got->id[i];
	return same;
}

/* Encodes and decodes; the result is text again. */
static int round_trip(const whit_tok *t, const char *text, size_t n, unsigned flags) {
	whit_ids ids = {0};
	size_t len = 0;
	int same = 0;
	if (CHECK_RC(whit_tok_encode(t, text, n, flags, &ids, &e), e)) {
		char *back = whit_tok_decode(t, ids.id, ids.n, 0, &len);
		same = len == n && !memcmp(back, text, n);
		whit_free(back);
	}
	whit_ids_free(&ids);
	return same;
}

/* The ids of text as "1 2 3"; whit_free it. */
static char *ids_text(const whit_tok *t, const char *text, size_t n, unsigned flags) {
	whit_ids ids = {0};
	char *s = whit_strdup("");
	CHECK_RC(whit_tok_encode(t, text, n, flags, &ids, &e), e);
	size_t room = (size_t)ids.n * 12 + 1, at = 0;
	s = whit_realloc(s, 1, room);
	for (int64_t i = 0; i < ids.n; i++) at += (size_t)snprintf(s + at, room - at, "%s%d", i ? " " : "", ids.id[i]);
	whit_ids_free(&ids);
	return s;
}

static void check_ids(const whit_tok *t, const char *text, unsigned flags, const char *want) {
	char *got = ids_text(t, text, strlen(text), flags);
	CHECK_MSG(!strcmp(got, want), "\"%s\" gives %s, need %s", text, got, want);
	whit_free(got);
}

/* ---- golden files of the tokenizers library ---- */

static void check_cases(const whit_tok *t, const char *name, const json_t *cases) {
	size_t i;
	const json_t *c;
	CHECK(json_array_size(cases) > 30);
	json_array_foreach((json_t *)cases, i, c) {
		size_t n, n_back, len;
		char *text = unhex(json_string_value(json_array_get(c, 1)), &n);
		const char *hex = json_string_value(json_array_get(c, 3)); /* NULL: the library decodes it otherwise */
		char *back = hex ? unhex(hex, &n_back) : NULL;
		whit_ids ids = {0};
		unsigned flags = json_is_true(json_array_get(c, 0)) ? WHIT_TOK_PARSE : 0;
		CHECK_RC(whit_tok_encode(t, text, n, flags, &ids, &e), e);
		CHECK_MSG(same_ids(&ids, json_array_get(c, 2)), "%s: case %zu: ids of %s", name, i, text);
		char *got = whit_tok_decode(t, ids.id, ids.n, 0, &len);
		if (back)
			CHECK_MSG(len == n_back && !memcmp(got, back, len), "%s: case %zu: decoded to %s, need %s",
			          name, i, got, back);
		whit_free(got);
		whit_free(text);
		whit_free(back);
		whit_ids_free(&ids);
	}
}

static json_t *golden(const char *name) {
	json_t *j = NULL;
	char *path = whit_format_text(WHIT_SOURCE "/tests/golden/%s", name);
	CHECK_RC(whit_json_load(&j, path, &e), e);
	whit_free(path);
	return j;
}

static void test_golden_model(void) {
	whit_tok *t = NULL;
	char *dir = test_model("wiki12M-qwen3");
	if (!dir) return;
	if (CHECK_RC(whit_tok_open(&t, dir, &e), e)) {
		json_t *cases = golden("tokenizer_model.json");
		check_cases(t, "wiki12M-qwen3", cases);
		json_decref(cases);
		CHECK_INT(whit_tok_vocab(t), 4096);
		CHECK_INT(whit_tok_bos(t), -1);
		CHECK_INT(whit_tok_eos(t), 4095);
		CHECK(whit_tok_is_special(t, 4095) && !whit_tok_is_special(t, 4094) && !whit_tok_is_special(t, 4096));
		CHECK(!whit_tok_is_special(t, -1) && !whit_tok_adds_bos(t));
	}
	whit_tok_close(t);
	whit_free(dir);
}

static void test_golden_kinds(void) {
	json_t *base = NULL, *entry;
	size_t i;
	char *dir = test_model("wiki12M-qwen3");
	if (!dir) return;
	char *path = whit_format_text("%s/tokenizer.json", dir);
	CHECK_RC(whit_json_load(&base, path, &e), e);
	json_t *kinds = golden("tokenizer_kinds.json");
	CHECK(json_array_size(kinds) > 20);
	json_array_foreach(kinds, i, entry) {
		json_t *own = json_copy(base);
		json_object_update(own, json_object_get(entry, "keys"));
		whit_tok *t = parse_json(own);
		if (t)
			check_cases(t, json_string_value(json_object_get(entry, "name")),
			            json_object_get(entry, "cases"));
		whit_tok_close(t);
	}
	json_decref(base);
	json_decref(kinds);
	whit_free(path);
	whit_free(dir);
}

/* WikiText-2's test text has 400,659 tokens (the model's README; llama-tokenize agrees). */
static void test_wiki(void) {
	whit_tok *t = NULL;
	whit_ids ids = {0};
	size_t n, len;
	char *dir = test_model("wiki12M-qwen3"), *path = dir ? test_data("text/wiki.test.raw") : NULL;
	char *text = path ? test_read(path, &n) : NULL;
	if (text && CHECK_RC(whit_tok_open(&t, dir, &e), e)) {
		double t0 = whit_now();
		CHECK_RC(whit_tok_encode(t, text, n, WHIT_TOK_SPECIAL, &ids, &e), e);
		printf("wiki.test.raw: %.3f s\n", whit_now() - t0);
		CHECK_INT(ids.n, 400659);
		char *back = whit_tok_decode(t, ids.id, ids.n, 0, &len);
		CHECK(len == n && !memcmp(back, text, n));
		whit_free(back);
	}
	whit_ids_free(&ids);
	whit_tok_close(t);
	free(text);
	whit_free(path);
	whit_free(dir);
}

/* ---- llama.cpp's vectors, with tokenizer.json put together from older forms ---- */

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define QWEN2                                                                                                          \
	CONTRACTIONS                                                                                                   \
	"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN35                                                                                                         \
	CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|"              \
	             "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3                                                                                                         \
	CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"                       \
	             "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* A byte-level tokenizer.json of these parts (stolen); regex NULL: GPT-2's, inside ByteLevel. */
static json_t *byte_level(json_t *vocab, json_t *merges, const char *regex, const char *normalizer, int ignore_merges) {
	json_t *bytes = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0,
	                          "use_regex", !regex);
	json_t *pre =
	        regex ? json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, O]}", "type", "Sequence", "pretokenizers", "type",
	                          "Split", "pattern", "Regex", regex, "behavior", "Isolated", "invert", 0, bytes)
	              : json_incref(bytes);
	json_t *norm = normalizer ? json_pack("{s:s}", "type", normalizer) : json_null();
	return json_pack("{s:o, s:o, s:o, s:{s:s, s:b, s:o, s:o}}", "normalizer", norm, "pre_tokenizer", pre, "decoder",
	                 bytes, "model", "type", "BPE", "ignore_merges", ignore_merges, "vocab", vocab, "merges",
	                 merges);
}

/* The lines "left right" of a merges file, without its "#version" line; NULL if absent. */
static json_t *read_merges(const char *relative, int pairs) {
	size_t n;
	char *path = test_data(relative), *text = path ? test_read(path, &n) : NULL;
	whit_free(path);
	if (!text) return NULL;
	json_t *list = json_array();
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		char *space = strchr(line, ' ');
		if (!strncmp(line, "#version", 8) || !space) continue;
		if (pairs) {
			*space = 0;
			json_array_append_new(list, json_pack("[ss]", line, space + 1));
		} else {
			json_array_append_new(list, json_string(line));
		}
	}
	free(text);
	return list;
}

static json_t *read_vocab(const char *relative) {
	json_t *j = NULL;
	char *path = test_data(relative);
	if (path) CHECK_RC(whit_json_load(&j, path, &e), e);
	whit_free(path);
	return j;
}

/* ---- tiktoken ranks: the merge of a token is what the lower ranks leave of it ---- */

typedef struct rank {
	uint8_t *p;
	int n;
} rank;
static rank *ranks;
static int n_ranks;
static int32_t rank_slot[1 << 20];

static uint32_t rank_find(const uint8_t *p, int n) {
	uint32_t i = (uint32_t)whit_hash_bytes(p, (size_t)n).lo % WHIT_COUNT(rank_slot);
	while (rank_slot[i] >= 0 && (ranks[rank_slot[i]].n != n || memcmp(ranks[rank_slot[i]].p, p, (size_t)n)))
		i = (i + 1) % (uint32_t)WHIT_COUNT(rank_slot);
	return i;
}

static int from_base64(const char *s, size_t n, uint8_t *out) {
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits = 0;
	int have = 0, len = 0;
	for (size_t i = 0; i < n && s[i] != '='; i++) {
		bits = bits << 6 | (uint32_t)(strchr(digits, s[i]) - digits);
		if ((have += 6) >= 8) out[len++] = (uint8_t)(bits >> (have -= 8));
	}
	return len;
}

/* GPT-2's alphabet once more, from its definition: printable Latin-1 stands, the rest counts up from U+0100. */
static json_t *alphabet(const uint8_t *p, int n) {
	char text[4096], *o = text;
	for (int i = 0; i < n; i++) {
		uint32_t c = p[i], other = 256;
		for (uint32_t b = 0; b < 256; b++) {
			int visible = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
			if (b == p[i] && !visible) c = other;
			other += !visible;
		}
		if (c >= 0x80) *o++ = (char)(0xc0 | c >> 6);
		*o++ = (char)(c >= 0x80 ? 0x80 | (c & 63) : c);
	}
	return json_stringn(text, (size_t)(o - text));
}

/* Appends the merge that makes token k, if it is not a byte. */
static void add_merge(json_t *merges, int k) {
	const uint8_t *p = ranks[k].p;
	int cut[512], parts = ranks[k].n;
	for (int i = 0; i <= parts; i++) cut[i] = i;
	while (parts > 2) {
		int best = n_ranks, at = -1;
		for (int i = 0; i + 2 <= parts; i++) {
			int32_t r = rank_slot[rank_find(p + cut[i], cut[i + 2] - cut[i])];
			if (r >= 0 && r < best && r < k) best = r, at = i;
		}
		if (at < 0) break;
		for (int i = at + 1; i < parts; i++) cut[i] = cut[i + 1];
		parts--;
	}
	if (parts == 2)
		json_array_append_new(
		        merges, json_pack("[oo]", alphabet(p, cut[1]), alphabet(p + cut[1], ranks[k].n - cut[1])));
}

static json_t *tiktoken(const char *relative, const char *regex, const char *normalizer) {
	size_t n;
	char *path = test_data(relative), *text = path ? test_read(path, &n) : NULL;
	whit_free(path);
	if (!text) return NULL;
	json_t *vocab = json_object(), *merges = json_array();
	memset(rank_slot, 0xff, sizeof rank_slot);
	ranks = whit_alloc(200000 * sizeof *ranks);
	n_ranks = 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		size_t len = strcspn(line, " ");
		if (len > 600 || n_ranks == 200000 || atoi(line + len) != n_ranks) abort();
		rank *r = &ranks[n_ranks];
		r->p = whit_alloc(len + 1);
		r->n = from_base64(line, len, r->p);
		rank_slot[rank_find(r->p, r->n)] = n_ranks++;
	}
	for (int k = 0; k < n_ranks; k++) {
		json_t *key = alphabet(ranks[k].p, ranks[k].n);
		json_object_set_new(vocab, json_string_value(key), json_integer(k));
		json_decref(key);
		if (ranks[k].n > 1) add_merge(merges, k);
	}
	for (int k = 0; k < n_ranks; k++) whit_free(ranks[k].p);
	whit_free(ranks);
	free(text);
	return byte_level(vocab, merges, regex, normalizer, 0);
}

/* The tokenizer that comes back from the GGUF that t's tokenizer.json makes. */
static whit_tok *through_gguf(const json_t *j, const char *name) {
	char *dir = test_scratch("tok_vectors"), *json = whit_format_text("%s/tokenizer.json", dir),
	     *gguf = whit_format_text("%s/%s.gguf", dir, name), *text = json_dumps(j, JSON_COMPACT);
	whit_gguf_out *o;
	whit_tok *t = NULL;
	mkdir(dir, 0777);
	test_write(json, text, strlen(text));
	if (CHECK_RC(whit_gguf_out_open(&o, gguf, &e), e)) {
		if (!CHECK_RC(whit_tok_put_gguf(dir, 160000, o, &e), e))
			whit_gguf_out_abort(o);
		else if (CHECK_RC(whit_gguf_out_commit(o, &e), e))
			CHECK_RC(whit_tok_open(&t, gguf, &e), e);
	}
	if (t) CHECK_INT(whit_tok_vocab(t), 160000);
	free(text);
	whit_free(json);
	whit_free(gguf);
	whit_free(dir);
	return t;
}

/* Each case of ggml-vocab-NAME.gguf.inp gives the ids of its line in .out. t is closed. */
static void check_vectors(whit_tok *t, const char *name, int want_cases) {
	static const char line[] = "\n__ggml_vocab_test__\n";
	size_t n, n_out;
	char *a = whit_format_text("tokenizers/ggml-vocab/ggml-vocab-%s.gguf.inp", name), *in = test_data(a);
	char *b = whit_format_text("tokenizers/ggml-vocab/ggml-vocab-%s.gguf.out", name), *out = test_data(b);
	if (t && in && out) {
		char *text = test_read(in, &n), *ids = test_read(out, &n_out), *from = text, *want = ids;
		int cases = 0, good = 0;
		for (char *end = text; end; cases++) { /* the last case, behind the last separator, is the empty text */
			end = strstr(from, line);
			size_t len = end ? (size_t)(end - from) : strlen(from), n_want = strcspn(want, "\n");
			char *got = ids_text(t, from, len, 0);
			while (*want == ' ') want++, n_want--;
			int same = strlen(got) == n_want && !memcmp(got, want, n_want);
			good += CHECK_MSG(same, "%s: case %d: %s, need %.*s", name, cases, got, (int)n_want, want);
			whit_free(got);
			from += end ? len + strlen(line) : len;
			want += n_want + (want[n_want] == '\n');
		}
		CHECK_INT(cases, want_cases);
		printf("%s: %d of %d vectors\n", name, good, cases);
		free(text);
		free(ids);
	}
	whit_free(a);
	whit_free(b);
	whit_free(in);
	whit_free(out);
	whit_tok_close(t);
}

static void check_byte_vectors(const char *name, const char *vocab_file, const char *merges_file, const char *regex,
                               const char *normalizer, int ignore_merges, int cases) {
	json_t *vocab = read_vocab(vocab_file), *merges = vocab ? read_merges(merges_file, ignore_merges) : NULL;
	if (!merges) {
		json_decref(vocab);
		return;
	}
	json_t *j = byte_level(vocab, merges, regex, normalizer, ignore_merges);
	check_vectors(through_gguf(j, name), name, cases);
	check_vectors(parse_json(j), name, cases);
}

static void test_vectors(void) {
	check_byte_vectors("gpt-2", "tokenizers/gpt2/vocab.json", "tokenizers/gpt2/merges.txt", NULL, NULL, 0, 47);
	check_byte_vectors("qwen2", "tokenizers/qwen/vocab.json", "tokenizers/qwen/merges.txt", QWEN2, "NFC", 0, 47);
	/* llama.cpp does not normalize; two of these cases are decomposed letters, which NFC would join */
	check_byte_vectors("qwen35", "tokenizers/qwen/vocab.json", "tokenizers/qwen/merges.txt", QWEN35, NULL, 0, 51);
	check_byte_vectors("llama-bpe", "tokenizers/llama3/encoder.json", "tokenizers/llama3/vocab.bpe", LLAMA3, NULL,
	                   1, 47);
	json_t *qwen = tiktoken("tokenizers/qwen/qwen.tiktoken", QWEN2, "NFC");
	if (qwen) check_vectors(parse_json(qwen), "qwen2", 47);
}

/* This copy of Llama 2's file has spaces where NO-BREAK SPACE stood; whit refuses it, so they are put back. */
static void test_vectors_spm(void) {
	json_t *j = read_vocab("tokenizers/llama2/tokenizer.json"), *v, *vocab = json_object(), *merges = json_array();
	const char *key;
	size_t i;
	if (j) {
		json_t *model = json_object_get(j, "model");
		json_object_foreach(json_object_get(model, "vocab"), key, v) {
			char text[256], *o = text;
			for (const char *p = key; *p && o < text + 200; p++) {
				if (*p == ' ') *o++ = (char)0xc2;
				*o++ = *p == ' ' ? (char)0xa0 : *p;
			}
			*o = 0;
			json_object_set(vocab, text, v);
		}
		json_array_foreach(json_object_get(model, "merges"), i, v) {
			const char *s = json_string_value(v), *space = strchr(s, ' ');
			const char *wide[][3] = {{"   ", "\u00a0", "\u00a0"},
			                         {"     ", "\u00a0\u00a0", "\u00a0\u00a0"},
			                         {"\u2581  ", "\u2581", "\u00a0"}};
			int w = 0;
			while (w < 3 && strcmp(s, wide[w][0])) w++;
			if (w < 3)
				json_array_append_new(merges, json_pack("[ss]", wide[w][1], wide[w][2]));
			else
				json_array_append_new(merges, json_pack("[s%s]", s, (int)(space - s), space + 1));
		}
		json_object_set(model, "vocab", vocab);
		json_object_set(model, "merges", merges);
		check_vectors(through_gguf(j, "llama-spm"), "llama-spm", 47);
		check_vectors(parse_json(j), "llama-spm", 47);
	}
	json_decref(vocab);
	json_decref(merges);
}

/* ---- the same vectors through GGUF metadata ---- */

static void test_vectors_gguf(void) {
	static const char *const name[] = {"gpt-2", "llama-spm"};
	for (int i = 0; i < WHIT_COUNT(name); i++) {
		whit_tok *t = NULL;
		char *file = whit_format_text("tokenizers/ggml-vocab/ggml-vocab-%s.gguf", name[i]),
		     *path = test_data(file);
		if (path && CHECK_RC(whit_tok_open(&t, path, &e), e)) {
			CHECK(whit_tok_exists(path));
			check_vectors(t, name[i], 47);
		}
		whit_free(file);
		whit_free(path);
	}
}

/* ---- the plain encoder: the lowest rank, leftmost, until none is left ---- */

enum { LETTERS = 3, MERGES = 24 };

static int plain_bpe(char tok[][64], int merge[][2], int n_merges, const char *text, int *id) {
	int n = 0;
	for (; text[n]; n++) id[n] = text[n] - 'a';
	for (;;) {
		int best = n_merges, at = -1;
		for (int i = 0; i + 1 < n; i++)
			for (int m = 0; m < best; m++)
				if (merge[m][0] == id[i] && merge[m][1] == id[i + 1]) best = m, at = i;
		if (at < 0) return n;
		char both[128];
		snprintf(both, sizeof both, "%s%s", tok[id[at]], tok[id[at + 1]]);
		for (id[at] = 0; strcmp(tok[id[at]], both); id[at]++) {
		}
		n--;
		for (int i = at + 1; i < n; i++) id[i] = id[i + 1];
	}
}

/* Random merges over three letters, with many ways to the same token, against the plain encoder. */
static void test_merging(void) {
	whit_rng r;
	int wrong = 0;
	for (int round = 0; round < 200; round++) {
		char tok[LETTERS + MERGES][64] = {"a", "b", "c"};
		int merge[MERGES][2], n_tok = LETTERS, n_merges = 0;
		json_t *vocab = json_object(), *merges = json_array();
		whit_rng_key(&r, 7, (uint64_t)round, 0);
		for (int k = 0; k < MERGES; k++) {
			int a = (int)whit_rng_below(&r, (uint64_t)n_tok), b = (int)whit_rng_below(&r, (uint64_t)n_tok),
			    known = 0, again = 0;
			if (strlen(tok[a]) + strlen(tok[b]) > 8) continue;
			for (int m = 0; m < n_merges; m++) again |= merge[m][0] == a && merge[m][1] == b;
			if (again) continue;
			char both[128];
			snprintf(both, sizeof both, "%s%s", tok[a], tok[b]);
			while (known < n_tok && strcmp(tok[known], both)) known++;
			if (known == n_tok) memcpy(tok[n_tok++], both, strlen(both) + 1);
			merge[n_merges][0] = a;
			merge[n_merges++][1] = b;
			json_array_append_new(merges, json_pack("[ss]", tok[a], tok[b]));
		}
		for (int k = 0; k < n_tok; k++) json_object_set_new(vocab, tok[k], json_integer(k));
		whit_tok *t = parse_json(json_pack("{s:{s:o, s:o}}", "model", "vocab", vocab, "merges", merges));
		for (int k = 0; k < 20 && t; k++) {
			char text[65] = "";
			int want[64], n = (int)whit_rng_below(&r, 64);
			for (int i = 0; i < n; i++) text[i] = (char)('a' + whit_rng_below(&r, LETTERS));
			whit_ids got = {0};
			CHECK_RC(whit_tok_encode(t, text, (size_t)n, 0, &got, &e), e);
			int count = plain_bpe(tok, merge, n_merges, text, want);
			wrong += got.n != count || (count && memcmp(got.id, want, (size_t)count * sizeof *want));
			whit_ids_free(&got);
		}
		whit_tok_close(t);
	}
	CHECK_INT(wrong, 0);
}

/* ---- inverses ---- */

/* Every byte has a token; optionally <0x00> ... beside letters, in SentencePiece's way. */
static json_t *bytes_only(const char *regex, const char *normalizer) {
	json_t *vocab = json_object();
	for (int b = 0; b < 256; b++) {
		json_t *key = alphabet(&(uint8_t){(uint8_t)b}, 1);
		json_object_set_new(vocab, json_string_value(key), json_integer(b));
		json_decref(key);
	}
	return byte_level(vocab, json_array(), regex, normalizer, 0);
}

static const char spm[] =
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},"
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":"
        "0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[256],"
        "\"tokens\":[\"<s>\"]}}},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u2581\"},"
        "\"content\":\" \"},"
        "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
        "\",\"start\":1,\"stop\":0}]},"
        "\"added_tokens\":[{\"id\":256,\"content\":\"<s>\",\"special\":true},{\"id\":257,\"content\":\"</"
        "s>\",\"special\":true}]}";

static whit_tok *spm_tok(const char *config) {
	json_t *j = NULL, *vocab = json_object();
	CHECK_RC(whit_json_parse(&j, spm, strlen(spm), "spm", &e), e);
	for (int b = 0; b < 256; b++) {
		char key[8];
		snprintf(key, sizeof key, "<0x%02X>", b);
		json_object_set_new(vocab, key, json_integer(b));
	}
	const char *const more[] = {"\u2581", "a", "b", "ab", "\u2581ab"};
	for (int i = 0; i < 5; i++) json_object_set_new(vocab, more[i], json_integer(258 + i));
	json_object_set_new(j, "model",
	                    json_pack("{s:s, s:b, s:o, s:[ss]}", "type", "BPE", "byte_fallback", 1, "vocab", vocab,
	                              "merges", "a b", "\u2581 ab"));
	char *text = json_dumps(j, 0);
	whit_tok *t = parse(text, config);
	free(text);
	json_decref(j);
	return t;
}

/* Random bytes, sometimes with words, broken characters and specials among them. */
static size_t noise(whit_rng *r, char *p, size_t room) {
	static const char *const some[] = {" ",        "\u00e9",       "e\u0301",  "\u2581", "ab", "\n",
	                                   "\xe2\x82", "\xed\xa0\x80", "\xc0\xaf", "12",     "'s", "<s>"};
	size_t n = 0;
	while (n < room - 8 && whit_rng_below(r, 64)) {
		if (whit_rng_below(r, 2))
			p[n++] = (char)whit_rng_next(r);
		else
			n += (size_t)snprintf(p + n, 8, "%s", some[whit_rng_below(r, (uint64_t)WHIT_COUNT(some))]);
	}
	return n;
}

static void test_round_trip(void) {
	whit_tok *t[] = {parse_json(bytes_only(NULL, NULL)),   parse_json(bytes_only(QWEN2, NULL)),
	                 parse_json(bytes_only(QWEN35, NULL)), parse_json(bytes_only(LLAMA3, NULL)),
	                 parse_json(bytes_only("\\s+", NULL)), spm_tok(NULL)};
	whit_rng r;
	char p[512], all[256];
	for (int b = 0; b < 256; b++) all[b] = (char)b;
	for (int k = 0; k < WHIT_COUNT(t) && t[k]; k++) {
		int lost = 0;
		CHECK(round_trip(t[k], all, 256, 0));
		for (int i = 0; i < (TEST_SANITIZED ? 400 : 2000); i++) {
			whit_rng_key(&r, 3, (uint64_t)k, (uint64_t)i);
			size_t n = noise(&r, p, sizeof p);
			if (k == 5) /* U+2581 is how this kind writes a space: it decodes to one */
				for (char *u; (u = memmem(p, n, "\u2581", 3));) memset(u, 'x', 3);
			lost += !round_trip(t[k], p, n, 0);
		}
		CHECK_INT(lost, 0);
	}
	for (int k = 0; k < WHIT_COUNT(t); k++) whit_tok_close(t[k]);
	/* NFC changes what has another composed form, and nothing else: broken bytes stay. */
	whit_tok *nfc = parse_json(bytes_only(QWEN2, "NFC"));
	check_ids(nfc,
	          "\xff"
	          "e\u0301\xff",
	          0, "255 195 169 255");
	CHECK(round_trip(nfc, "\xe2\x82 \xed\xa0\x80\xff\xfe\u00e9\xc3", 12, 0));
	whit_tok_close(nfc);
}

/* The text of the first ids is the beginning of the text of all. */
static void test_stream(void) {
	whit_tok *t[] = {parse_json(bytes_only(QWEN2, NULL)), spm_tok(NULL)};
	const char text[] = "ab \u00e9\U0001f600 ab\xff ab";
	for (int k = 0; k < 2; k++) {
		whit_ids ids = {0};
		size_t len, all, before = 0;
		CHECK_RC(whit_tok_encode(t[k], text, strlen(text), 0, &ids, &e), e);
		char *whole = whit_tok_decode(t[k], ids.id, ids.n, 0, &all);
		for (int64_t n = 0; n <= ids.n; n++) {
			char *part = whit_tok_decode(t[k], ids.id, n, 0, &len);
			CHECK(len <= all && len >= before && !memcmp(part, whole, len) && part[len] == 0);
			before = len;
			whit_free(part);
		}
		CHECK_INT(before, strlen(text));
		whit_free(whole);
		whit_ids_free(&ids);
		whit_tok_close(t[k]);
	}
}

/* ---- specials and the side file ---- */

static void test_specials(void) {
	size_t len;
	whit_tok *t = spm_tok(NULL);
	CHECK(whit_tok_adds_bos(t));
	CHECK_INT(whit_tok_bos(t), 256);
	CHECK_INT(whit_tok_eos(t), -1);
	CHECK_INT(whit_tok_vocab(t), 263);
	check_ids(t, "ab", 0, "262");
	check_ids(t, "ab", WHIT_TOK_SPECIAL, "256 262");
	check_ids(t, "", WHIT_TOK_SPECIAL, "256");
	check_ids(t, "ab</s>ab", WHIT_TOK_PARSE, "262 257 262");
	check_ids(t, "</s>", 0, "258 60 47 115 62");
	char *text = whit_tok_decode(t, (int32_t[]){256, 262, -1, 9999, 257, 259}, 6, 1, &len);
	CHECK_TEXT(text, "aba");
	whit_free(text);
	text = whit_tok_decode(t, (int32_t[]){256, 262, 257}, 3, 0, &len);
	CHECK_TEXT(text, "<s> ab</s>");
	whit_free(text);
	whit_tok_close(t);
	/* tokenizer_config.json speaks last; what it does not name of the two is off. */
	t = spm_tok("{\"bos_token\":\"</s>\",\"eos_token\":{\"content\":\"<s>\"},\"add_eos_token\":true}");
	check_ids(t, "ab", WHIT_TOK_SPECIAL, "262 256");
	CHECK(!whit_tok_adds_bos(t));
	CHECK_INT(whit_tok_bos(t), 257);
	CHECK_INT(whit_tok_eos(t), 256);
	whit_tok_close(t);
	t = spm_tok("{\"bos_token\":null,\"add_bos_token\":null}");
	check_ids(t, "ab", WHIT_TOK_SPECIAL, "256 262");
	whit_tok_close(t);
}

/* ---- refusals ---- */

#define MODEL(body) "{\"model\":{" body "}}"
#define SMALL "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]"
#define WITH(key, value) "{\"" key "\":" value ",\"model\":{" SMALL "}}"
#define REGEX(r)                                                                                                       \
	WITH("pre_tokenizer", "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"" r "\"}}")

static void test_refusals(void) {
	static const char *const bad[][2] = {
	        {"", "JSON"},
	        {"[]", "object"},
	        {"{}", "model"},
	        {"{\"model\":[]}", "object"},
	        {MODEL("\"vocab\":{}"), "merges"},
	        {MODEL("\"merges\":[]"), "vocab"},
	        {MODEL("\"type\":\"Unigram\"," SMALL), "Unigram"},
	        {MODEL("\"dropout\":0.1," SMALL), "dropout"},
	        {MODEL("\"end_of_word_suffix\":\"</w>\"," SMALL), "</w>"},
	        {MODEL("\"unk_token\":\"u\"," SMALL), "unk_token"},
	        {MODEL("\"vocab\":{\"a\":\"0\"},\"merges\":[]"), "integer"},
	        {MODEL("\"vocab\":{\"a\":-1},\"merges\":[]"), "-1"},
	        {MODEL("\"vocab\":{\"a\":2147483647},\"merges\":[]"), "2147483647"},
	        {MODEL("\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]"), "both"},
	        {MODEL("\"vocab\":{\"a\":1,\"a\":2},\"merges\":[]"), "duplicate"},
	        {MODEL("\"vocab\":{\"a\":1.5},\"merges\":[]"), "real"},
	        {MODEL("\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]"), "\"ab\""},
	        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a c\"]"), "\"c\""},
	        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"ab\"]"), "entry 0"},
	        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a b c\"]"), "entry 0"},
	        {MODEL("\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]"), "entry 0"},
	        {MODEL("\"vocab\":{\"a\":0},\"merges\":[1]"), "entry 0"},
	        {MODEL("\"vocab\":{\"a\":0},\"merges\":{}"), "array"},
	        {WITH("added_tokens", "{}"), "array"},
	        {WITH("added_tokens", "[{\"id\":3}]"), "content"},
	        {WITH("added_tokens", "[{\"content\":\"x\"}]"), "id"},
	        {WITH("added_tokens", "[{\"id\":1,\"content\":\"x\"}]"), "both"},
	        {WITH("added_tokens", "[{\"id\":9,\"content\":\"a\"}]"), "says 0"},
	        {WITH("added_tokens", "[{\"id\":3,\"content\":\"x\"},{\"id\":4,\"content\":\"x\"}]"), "ids 3 and 4"},
	        {WITH("added_tokens", "[{\"id\":3,\"content\":\"x\"},{\"id\":3,\"content\":\"y\"}]"), "both"},
	        {WITH("added_tokens", "[{\"id\":2000000000,\"content\":\"x\"}]"), "2000000000"},
	        {WITH("normalizer", "{\"type\":\"Precompiled\"}"), "NFKC"},
	        {WITH("normalizer", "{}"), "type"},
	        {WITH("normalizer", "3"), "integer"},
	        {WITH("normalizer", "{\"type\":\"Sequence\"}"), "normalizers"},
	        {WITH("normalizer", "{\"type\":\"Prepend\"}"), "prepend"},
	        {WITH("normalizer", "{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{}}"), "neither"},
	        {WITH("normalizer", "{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"String\":\"\"}}"), "empty"},
	        {WITH("pre_tokenizer", "{\"type\":\"UnicodeScripts\"}"), "Metaspace"},
	        {WITH("pre_tokenizer", "{\"type\":\"Split\",\"behavior\":\"Odd\",\"pattern\":{\"String\":\"x\"}}"),
	         "Odd"},
	        {WITH("pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), "one character"},
	        {WITH("pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"odd\"}"),
	         "odd"},
	        {WITH("decoder", "{\"type\":\"CTC\"}"), "ByteFallback"},
	        {WITH("decoder", "{\"type\":\"Strip\",\"content\":\" \"}"), "start"},
	        {WITH("decoder", "{\"type\":\"Replace\",\"content\":\"xx\",\"pattern\":{\"String\":\"x\"}}"), "longer"},
	        {WITH("decoder", "{\"type\":\"Replace\",\"content\":\"x\",\"pattern\":{\"Regex\":\"x\"}}"), "Regex"},
	        {WITH("post_processor", "{\"type\":\"BertProcessing\"}"), "TemplateProcessing"},
	        {WITH("post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[]}"), "no sequence"},
	        {WITH("post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\"}}]}"),
	         "need A"},
	        {WITH("post_processor",
	              "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"a\"}}],"
	              "\"special_tokens\":{\"a\":{\"ids\":[7]}}}"),
	         "id 7"},
	        {REGEX("("), "without its )"},
	        {REGEX(")"), "without its ("},
	        {REGEX("[a"), "without its ]"},
	        {REGEX("[a[b]]"), "class inside"},
	        {REGEX("[a&&b]"), "&&"},
	        {REGEX("a**"), "repeat"},
	        {REGEX("a{2}{3}"), "repeat"},
	        {REGEX("*"), "repeat"},
	        {REGEX("a{2}?"), "{n}?"},
	        {REGEX("\\\\k<a>"), "escape"},
	        {REGEX("(a)\\\\1"), "escape"},
	        {REGEX("(?x: a)"), "option"},
	        {REGEX("a(?i)b"), "begin its group"},
	        {REGEX("\\\\p{Klingon}"), "Klingon"},
	        {REGEX("\\\\pL"), "property"},
	        {REGEX("\\\\x{110000}"), "no character"},
	        {REGEX("\\\\x{41"), "malformed"},
	        {REGEX("\\\\"), "end"},
	        {REGEX("(?<=a*)b"), "lookbehind"},
	        {REGEX("[b-a]"), "range"},
	        {REGEX("((a{999}){999}){999}"), "too large"},
	};
	whit_tok *t;
	for (int i = 0; i < WHIT_COUNT(bad); i++) {
		CHECK_FAILS(whit_tok_parse(&t, bad[i][0], strlen(bad[i][0]), NULL, 0, "bad.json", &e), WHIT_EINPUT, e,
		            bad[i][1]);
		CHECK(t == NULL);
		whit_tok_close(t);
	}
	static const char *const config[][2] = {{"[]", "object"},
	                                        {"{\"bos_token\":\"<x>\"}", "<x>"},
	                                        {"{\"eos_token\":7}", "integer"},
	                                        {"{\"eos_token\":{}}", "content"},
	                                        {"{\"add_bos_token\":\"yes\"}", "string"},
	                                        {"{", "JSON"}};
	for (int i = 0; i < WHIT_COUNT(config); i++)
		CHECK_FAILS(whit_tok_parse(&t, MODEL(SMALL), strlen(MODEL(SMALL)), config[i][0], strlen(config[i][0]),
		                           "good.json", &e),
		            WHIT_EINPUT, e, config[i][1]);
	CHECK_FAILS(whit_tok_open(&t, WHIT_SCRATCH "/no/such/dir", &e), WHIT_EINPUT, e, "cannot open");
}

/* Encoding refuses what it has no token for, a pattern that runs away, text that grows without end. */
static void test_limits(void) {
	whit_ids ids = {0};
	whit_tok *t = parse(MODEL(SMALL), NULL);
	whit_ids_push(&ids, 5);
	CHECK_FAILS(whit_tok_encode(t, "ab\u00e9", 4, 0, &ids, &e), WHIT_EINPUT, e, "c3");
	CHECK_INT(ids.n, 1);
	whit_tok_close(t);
	t = parse(REGEX("(?:a|a|ab?)+[cd]"), NULL);
	char text[4096];
	memset(text, 'a', sizeof text);
	double t0 = whit_now();
	CHECK_FAILS(whit_tok_encode(t, text, sizeof text, 0, &ids, &e), WHIT_EINPUT, e, "limit");
	printf("runaway pattern stopped after %.2f s\n", whit_now() - t0);
	whit_tok_close(t);
	t = parse(WITH("normalizer",
	               "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":"
	               "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}"),
	          NULL);
	CHECK_FAILS(whit_tok_encode(t, text, sizeof text, 0, &ids, &e), WHIT_EINPUT, e, "grows");
	whit_tok_close(t);
	whit_ids_free(&ids);
}

/* Long single pieces cost n log n. Quadratic work would take minutes here. */
static void test_long(void) {
	static const char *const unit[] = {"a", " ", "1", "\xff", "\u0301\u0323", "\n ", "!", "ab "};
	size_t n = TEST_SANITIZED ? 100000 : 400000;
	char *text = whit_alloc(n);
	json_t *j = bytes_only(QWEN2, "NFC"), *m = json_object_get(j, "model");
	json_t *vocab = json_object_get(m, "vocab"), *merges = json_object_get(m, "merges");
	char word[] = "aaaaaaaaaaaaaaaa";
	for (int k = 2, id = 256; k <= 16; k *= 2, id++) {
		json_object_set_new(vocab, word + 16 - k, json_integer(id));
		json_array_append_new(merges, json_pack("[ss]", word + 16 - k / 2, word + 16 - k / 2));
	}
	whit_tok *t[] = {parse_json(j), spm_tok(NULL)};
	double t0 = whit_now();
	for (int k = 0; k < 2; k++)
		for (int u = 0; u < WHIT_COUNT(unit); u++) {
			whit_ids ids = {0};
			size_t len = strlen(unit[u]);
			for (size_t i = 0; i < n; i++) text[i] = unit[u][i % len];
			CHECK_RC(whit_tok_encode(t[k], text, n, 0, &ids, &e), e);
			CHECK_INT(ids.n > 0, 1);
			whit_ids_free(&ids);
		}
	double s = whit_now() - t0;
	CHECK_MSG(s < 120, "16 texts of %zu bytes took %.1f s", n, s);
	for (int k = 0; k < 2; k++) whit_tok_close(t[k]);
	whit_free(text);
}

/* One tokenizer, several threads, the same ids. */
static whit_tok *shared;
static whit_ids per_item[32];
static void encode_item(void *ctx, int64_t i, int worker) {
	whit_err own;
	const char *text = ctx;
	(void)worker;
	if (whit_tok_encode(shared, text, strlen(text), 0, &per_item[i], &own)) abort();
}

static void test_threads(void) {
	char text[] = "The quick brown fox's 12 caf\u00e9s \u2014 and \U0001f600 more,\n\n  with  spaces.";
	shared = parse_json(bytes_only(QWEN35, "NFC"));
	whit_parallel(32, encode_item, text);
	for (int i = 0; i < 32; i++) {
		CHECK(per_item[i].n == per_item[0].n &&
		      !memcmp(per_item[i].id, per_item[0].id, (size_t)per_item[0].n * sizeof(int32_t)));
		if (i) whit_ids_free(&per_item[i]);
	}
	whit_ids_free(&per_item[0]);
	whit_tok_close(shared);
}

TEST_MAIN(test_golden_model, test_golden_kinds, test_wiki, test_vectors, test_vectors_spm, test_vectors_gguf,
          test_merging, test_round_trip, test_stream, test_specials, test_refusals, test_limits, test_long,
          test_threads)
