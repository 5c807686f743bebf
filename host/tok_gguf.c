/* tok_gguf: a tokenizer from GGUF metadata (ggml.md 5): model gpt2 (byte-level BPE; merges are required) or llama
 * (SentencePiece's BPE by scores). Control and unknown tokens are special added tokens, user-defined ones added
 * tokens; [PAD{id}] of type unused is no token. Refuses, with both sides: other models, unknown pre-tokenizers, a
 * missing or short array, repeated or malformed tokens, types and ids out of range. */
#include <stdio.h>
#include "host/progress.h"
#include "host/tok.h"

#define KEY(name) "tokenizer.ggml." name

/* A score-driven merge looks at all ways to cut a token in two, so length costs its square. */
enum { MOST_SPM_TOKEN = 1024, MOST_TOKENS = 1 << 26 };

/* ---- pre-tokenizers ---- */

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LETTERS(digits) "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
#define LLAMA3 CONTRACTIONS LETTERS("\\p{N}{1,3}") SPACES
#define QWEN2 CONTRACTIONS LETTERS("\\p{N}") SPACES
#define QWEN35 CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES

/* Measured with llama-tokenize on random text; default cuts punctuation and some ASCII symbols off first, then as
 * GPT-2, then digits, by three. */
const tok_pre whit_tok_pres[] = {
        {"llama-bpe", {LLAMA3}, 1, 1},
        {"qwen2", {QWEN2}, 0, 0},
        {"qwen35", {QWEN35}, 0, 0},
        {"gpt-2", {TOK_GPT2}, 0, 0},
        {"default", {"[\\p{P}$+<=>^~|]+", TOK_GPT2, "\\p{N}+", "[0-9]{3}"}, 0, 0},
        {"llama3", {LLAMA3}, 1, 1},
        {"llama-v3", {LLAMA3}, 1, 1},
        {"deepseek-r1-qwen", {QWEN2}, 0, 0},
        {"phi-2", {TOK_GPT2}, 0, 0},
        {NULL, {NULL}, 0, 0},
};

char *whit_tok_pre_names(void) {
	char *all = whit_strdup("");
	for (const tok_pre *p = whit_tok_pres; p->name; p++) {
		char *longer = whit_format_text("%s%s%s", all, p == whit_tok_pres ? "" : ", ", p->name);
		whit_free(all);
		all = longer;
	}
	return all;
}

static int find_pre(const whit_gguf *g, const tok_pre **pre, whit_err *e) {
	const char *name = NULL;
	int rc = whit_gguf_string(g, KEY("pre"), 0, &name, e);
	if (rc) return rc;
	if (!name) whit_say("warning: %s: key %s is missing: taking default", g->name, KEY("pre"));
	if (!name || !*name) name = "default"; /* llama.cpp takes the empty name so, too */
	for (*pre = whit_tok_pres; (*pre)->name; ++*pre)
		if (!strcmp(name, (*pre)->name)) return 0;
	char *known = whit_tok_pre_names();
	whit_fail(e, WHIT_EINPUT, "%s: key %s: is \"%.100s\", known are %s", g->name, KEY("pre"), name, known);
	whit_free(known);
	return e->code;
}

/* The steps of tokenizer.json that do the same. */
static int set_pre(whit_tok *t, const tok_pre *pre, whit_err *e) {
	json_t *list = json_array();
	for (int i = 0; i < WHIT_COUNT(pre->pattern) && pre->pattern[i]; i++)
		json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s}", "type", "Split", "pattern", "Regex",
		                                      pre->pattern[i], "behavior", "Isolated"));
	json_array_append_new(list,
	                      json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0));
	json_t *pre_tokenizer = json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list),
	       *decoder = json_pack("{s:s}", "type", "ByteLevel");
	int rc = whit_pretokenizer_read(&t->pre, pre_tokenizer, t->name, &t->bpe.mem, e);
	if (!rc) rc = whit_undo_read(&t->decoder, decoder, t->name, &t->bpe.mem, e);
	json_decref(pre_tokenizer);
	json_decref(decoder);
	t->bpe.ignore_merges = pre->whole_words;
	return rc;
}

/* As the tokenizer.json of Llama 2: spaces are U+2581, one more in front of every section. */
static int set_spaces(whit_tok *t, int prefix, whit_err *e) {
	json_t *before = json_array(), *after = json_array();
	if (prefix) json_array_append_new(before, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", TOK_SPACE));
	json_array_append_new(before, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ",
	                                        "content", TOK_SPACE));
	json_array_append_new(after, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", TOK_SPACE,
	                                       "content", " "));
	json_array_append_new(after, json_pack("{s:s}", "type", "ByteFallback"));
	json_array_append_new(after, json_pack("{s:s}", "type", "Fuse"));
	if (prefix)
		json_array_append_new(after, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start",
		                                       1, "stop", 0));
	json_t *normalizer = json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", before),
	       *decoder = json_pack("{s:s, s:o}", "type", "Sequence", "decoders", after);
	int rc = whit_normalizer_read(&t->normalizer, normalizer, t->name, &t->bpe.mem, e);
	if (!rc) rc = whit_undo_read(&t->decoder, decoder, t->name, &t->bpe.mem, e);
	json_decref(normalizer);
	json_decref(decoder);
	return rc;
}

/* ---- tokens ---- */

typedef struct source {
	const whit_gguf *g;
	int spm;
	const whit_gguf_kv *token, *type, *score, *merge; /* type may be NULL: all normal */
	int64_t n;
} source;

static int type_of(const source *s, int64_t i) {
	return s->type ? (int)(int32_t)whit_load_u32(s->type->data + 4 * i) : TOK_NORMAL;
}

int whit_tok_known_control(const char *p, size_t n) {
	static const char *const known[] = {"</s>",           "<|im_end|>",      "<|endoftext|>",  "<|eot_id|>",
	                                    "<|eom_id|>",     "<|end_of_text|>", "<|end|>",        "<end_of_turn>",
	                                    "<eos>",          "<EOT>",           "<|fim_prefix|>", "<|fim_suffix|>",
	                                    "<|fim_middle|>", "<|fim_pad|>",     "<|repo_name|>",  "<|file_sep|>"};
	for (int64_t i = 0; i < WHIT_COUNT(known); i++)
		if (n == strlen(known[i]) && !memcmp(p, known[i], n)) return 1;
	return 0;
}

static int is_added(int type) { return type == TOK_UNKNOWN || type == TOK_CONTROL || type == TOK_USER_DEFINED; }

/* What fills a table of embeddings that has more rows than there are tokens. */
static int is_padding(const source *s, int64_t i) {
	char name[32];
	int n = snprintf(name, sizeof name, "[PAD%lld]", (long long)i);
	return type_of(s, i) == TOK_UNUSED && s->token->text[i].n == (size_t)n &&
	       !memcmp(s->token->text[i].p, name, (size_t)n);
}

static int read_array(source *s, const char *key, int elem, int required, const whit_gguf_kv **kv, whit_err *e) {
	int rc = whit_gguf_array(s->g, key, required, elem, kv, e);
	if (rc || !*kv || (*kv)->n == s->n) return rc;
	return whit_fail(e, WHIT_EINPUT, "%s: key %s: has %lld elements, need %lld, one for each token", s->g->name,
	                 key, (long long)(*kv)->n, (long long)s->n);
}

static int check_token(const source *s, int64_t i, whit_err *e) {
	whit_gguf_text t = s->token->text[i];
	int valid = 1, type = type_of(s, i);
	if (type < TOK_NORMAL || type >= TOK_TYPES)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: of token %lld is %d, need 1 to 6", s->g->name,
		                 KEY("token_type"), (long long)i, type);
	if (t.n && (whit_utf8_stretch(t.p, t.n, &valid) != t.n || !valid))
		return whit_fail(e, WHIT_EINPUT, "%s: token %lld is not UTF-8", s->g->name, (long long)i);
	if (s->spm && type == TOK_BYTE && whit_named_byte(t.p, t.n) < 0)
		return whit_fail(e, WHIT_EINPUT, "%s: token %lld is the byte \"%.*s\", need <0x00> to <0xFF>",
		                 s->g->name, (long long)i, (int)WHIT_MIN(t.n, 100), t.p);
	if (s->spm && !is_added(type) && t.n > MOST_SPM_TOKEN)
		return whit_fail(e, WHIT_EINPUT, "%s: token %lld is %zu bytes, need at most %d", s->g->name,
		                 (long long)i, t.n, MOST_SPM_TOKEN);
	if (s->score && !(whit_load_f32(s->score->data + 4 * i) == whit_load_f32(s->score->data + 4 * i)))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: of token %lld is not a number", s->g->name, KEY("scores"),
		                 (long long)i);
	return 0;
}

static int read_source(source *s, const whit_gguf *g, whit_err *e) {
	const char *model = NULL;
	*s = (source){.g = g};
	int rc = whit_gguf_string(g, KEY("model"), 1, &model, e);
	if (rc) return rc;
	s->spm = !strcmp(model, "llama");
	if (!s->spm && strcmp(model, "gpt2"))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: is \"%.100s\", known are gpt2 and llama", g->name,
		                 KEY("model"), model);
	if ((rc = whit_gguf_array(g, KEY("tokens"), 1, WHIT_GGUF_STRING, &s->token, e))) return rc;
	s->n = s->token->n;
	if (s->n > MOST_TOKENS)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: has %lld elements, need at most %d", g->name,
		                 KEY("tokens"), (long long)s->n, MOST_TOKENS);
	rc = read_array(s, KEY("token_type"), WHIT_GGUF_I32, 0, &s->type, e);
	if (!rc && s->spm) rc = read_array(s, KEY("scores"), WHIT_GGUF_F32, 1, &s->score, e);
	if (!rc && !s->spm) rc = whit_gguf_array(g, KEY("merges"), 1, WHIT_GGUF_STRING, &s->merge, e);
	for (int64_t i = 0; i < s->n && !rc; i++) rc = check_token(s, i, e);
	return rc;
}

static int enter_tokens(whit_tok *t, const source *s, whit_err *e) {
	size_t bytes = 0;
	for (int64_t i = 0; i < s->n; i++) bytes += is_added(type_of(s, i)) ? 0 : s->token->text[i].n;
	/* with scores, two characters of up to four bytes per token may come to the tokens */
	whit_bpe_begin(&t->bpe, s->n, s->spm ? 3 * s->n : s->n, s->spm ? bytes + 8 * (size_t)s->n : bytes);
	for (int64_t i = 0; i < s->n; i++) {
		whit_gguf_text x = s->token->text[i];
		if (is_added(type_of(s, i)) || is_padding(s, i)) continue;
		int32_t known = whit_bpe_enter(&t->bpe, (int32_t)i, x.p, x.n);
		if (known >= 0)
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: tokens %d and %lld are both \"%.*s\", need different ones", t->name,
			                 known, (long long)i, (int)WHIT_MIN(x.n, 100), x.p);
	}
	return 0;
}

static int enter_merges(whit_tok *t, const source *s, whit_err *e) {
	int rc = 0;
	whit_bpe_merges_begin(&t->bpe, s->merge->n);
	for (int64_t i = 0; i < s->merge->n && !rc; i++) {
		whit_gguf_text m = s->merge->text[i];
		const char *space = m.n ? memchr(m.p, ' ', m.n) : NULL;
		size_t left = space ? (size_t)(space - m.p) : 0, right = space ? m.n - left - 1 : 0;
		if (!left || !right || memchr(space + 1, ' ', right))
			rc = whit_fail(e, WHIT_EINPUT, "%s: merges: entry %lld is \"%.*s\", need \"LEFT RIGHT\"",
			               t->name, (long long)i, (int)WHIT_MIN(m.n, 100), m.p);
		else
			rc = whit_bpe_merge(&t->bpe, m.p, left, space + 1, right, i, t->name, e);
	}
	return rc;
}

static void enter_scores(whit_tok *t, const source *s) {
	float *score = whit_alloc((size_t)s->n * sizeof *score + 1); /* the file's are unaligned */
	if (s->n) memcpy(score, s->score->data, (size_t)s->n * sizeof *score);
	whit_bpe_merges_by_score(&t->bpe, score);
	whit_free(score);
}

/* llama.cpp looks for user-defined tokens of SentencePiece's kind in text that still has spaces. */
static void with_spaces(whit_arena *mem, tok_added *a) {
	static const tok_find mark = {.text = TOK_SPACE, .n = sizeof TOK_SPACE - 1};
	tok_scan s = {.p = a->p, .n = a->n};
	char *text = whit_take_bytes(mem, a->n + 1), *o = text;
	size_t done = 0;
	while (whit_scan_plain(&s, mark.text, mark.n)) {
		memcpy(o, a->p + done, s.start - done);
		o += s.start - done;
		*o++ = ' ';
		done = s.end;
	}
	memcpy(o, a->p + done, a->n - done);
	a->p = text;
	a->n = (size_t)(o - text) + a->n - done;
}

static int enter_added_tokens(whit_tok *t, const source *s, whit_err *e) {
	int64_t n = 0;
	for (int64_t i = 0; i < s->n; i++) n += is_added(type_of(s, i));
	tok_added *v = whit_alloc((size_t)n * sizeof *v + 1);
	n = 0;
	for (int64_t i = 0; i < s->n; i++) {
		int type = type_of(s, i);
		if (!is_added(type)) continue;
		whit_gguf_text x = s->token->text[i];
		int special = type != TOK_USER_DEFINED || whit_tok_known_control(x.p, x.n);
		v[n] = (tok_added){.p = x.p, .n = x.n, .id = (int32_t)i, .special = special};
		if (s->spm) with_spaces(&t->bpe.mem, &v[n]);
		n++;
	}
	int rc = whit_added_enter(t, v, n, e);
	whit_free(v);
	return rc;
}

/* ---- special ids ---- */

static int read_id(const source *s, const char *key, int32_t *id, whit_err *e) {
	int64_t v = *id < s->n ? *id : -1; /* a default that the vocabulary lacks is none */
	int rc = whit_gguf_int(s->g, key, 0, 0, s->n - 1, &v, e);
	if (!rc) *id = (int32_t)v;
	return rc;
}

static int read_ids(whit_tok *t, const source *s, int adds_bos, whit_err *e) {
	static const char *const others[] = {KEY("eot_token_id"), KEY("eom_token_id"), KEY("seperator_token_id"),
	                                     KEY("padding_token_id")};
	int adds_eos = 0;
	int32_t unknown = s->spm ? 0 : -1, none = -1;
	t->bos = s->spm ? 1 : -1;
	t->eos = s->spm ? 2 : -1;
	int rc = whit_gguf_bool(s->g, KEY("add_bos_token"), 0, &adds_bos, e);
	if (!rc) rc = whit_gguf_bool(s->g, KEY("add_eos_token"), 0, &adds_eos, e);
	if (!s->spm && adds_bos) t->bos = 11; /* llama.cpp's default, of GPT-2's kind of no use otherwise */
	if (!s->spm && adds_eos) t->eos = 11;
	if (!rc) rc = read_id(s, KEY("bos_token_id"), &t->bos, e);
	if (!rc) rc = read_id(s, KEY("eos_token_id"), &t->eos, e);
	if (!rc) rc = read_id(s, KEY("unknown_token_id"), &unknown, e);
	for (int i = 0; i < WHIT_COUNT(others) && !rc; i++) rc = read_id(s, others[i], &none, e);
	if (rc) return rc;
	t->bpe.unk = s->spm ? unknown : -1;
	if (adds_bos && t->bos >= 0) whit_ids_push(&t->front, t->bos);
	if (adds_eos && t->eos >= 0) whit_ids_push(&t->back, t->eos);
	return 0;
}

/* ---- the whole ---- */

static int read_all(whit_tok *t, const whit_gguf *g, whit_err *e) {
	source s;
	const tok_pre *pre = NULL;
	int prefix = 1;
	int rc = read_source(&s, g, e);
	if (!rc && !s.spm) rc = find_pre(g, &pre, e);
	if (!rc && s.spm) rc = whit_gguf_bool(g, KEY("add_space_prefix"), 0, &prefix, e);
	if (!rc) rc = enter_tokens(t, &s, e);
	if (!rc && s.spm) enter_scores(t, &s);
	if (!rc && !s.spm) rc = enter_merges(t, &s, e);
	if (rc) return rc;
	whit_bpe_finish(&t->bpe, s.spm);
	rc = s.spm ? set_spaces(t, prefix, e) : set_pre(t, pre, e);
	if (!rc) rc = enter_added_tokens(t, &s, e);
	return rc ? rc : read_ids(t, &s, s.spm || pre->adds_bos, e);
}

int whit_tok_from_gguf(whit_tok **out, const whit_gguf *g, whit_err *e) {
	whit_tok *t = whit_alloc(sizeof *t);
	t->name = whit_strdup(g->name);
	int rc = read_all(t, g, e);
	if (rc) {
		whit_tok_close(t);
		t = NULL;
	}
	*out = t;
	return rc;
}
