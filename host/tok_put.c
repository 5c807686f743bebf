/* tok_put: a model's tokenizer as GGUF metadata (ggml.md 5). A GGUF's pairs are copied, whatever they are, padded to
 * the rows asked for. A tokenizer.json is turned into pairs from which llama.cpp, and tok_gguf.c, make the same ids:
 * byte-level BPE with a pre-tokenizer that GGUF has a name for, or SentencePiece-style BPE with byte fallback, whose
 * merges become scores. Refuses what GGUF cannot say; warns where only some texts may differ. NFC is dropped without
 * a word: GGUF knows no normalizer, and text is NFC. */
#include <stdio.h>
#include <stdlib.h>
#include "host/progress.h"
#include "host/tok.h"

#define KEY(name) "tokenizer.ggml." name

/* ---- the table of tokens ---- */

typedef struct table {
	int64_t rows;
	whit_gguf_text *text; /* all have rows entries */
	int32_t *type;
	float *score; /* NULL: none */
	whit_arena mem;
} table;

static void table_init(table *b, int64_t rows, int scores) {
	*b = (table){.rows = rows};
	b->text = whit_alloc((size_t)rows * sizeof *b->text + 1);
	b->type = whit_alloc((size_t)rows * sizeof *b->type + 1);
	if (scores) b->score = whit_alloc((size_t)rows * sizeof *b->score + 1);
}

static void table_free(table *b) {
	whit_free(b->text);
	whit_free(b->type);
	whit_free(b->score);
	whit_arena_free(&b->mem);
}

static void pad(table *b, int64_t id) {
	char *text = whit_take_bytes(&b->mem, 32);
	b->text[id] = (whit_gguf_text){text, (size_t)snprintf(text, 32, "[PAD%lld]", (long long)id)};
	b->type[id] = TOK_UNUSED;
}

static int table_put(const table *b, whit_gguf_out *o, whit_err *e) {
	int rc = whit_gguf_put_strings(o, KEY("tokens"), b->text, b->rows, e);
	if (!rc && b->score) rc = whit_gguf_put_numbers(o, KEY("scores"), WHIT_GGUF_F32, b->score, b->rows, e);
	return rc ? rc : whit_gguf_put_numbers(o, KEY("token_type"), WHIT_GGUF_I32, b->type, b->rows, e);
}

/* ---- from a GGUF ---- */

static int check_rows(const char *name, int64_t tokens, int64_t rows, whit_err *e) {
	if (tokens <= rows) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: has token ids up to %lld, need less than the embedding's %lld rows", name,
	                 (long long)tokens - 1, (long long)rows);
}

/* The three arrays of n tokens, with padding behind them. */
static int put_padded(const whit_gguf *g, const whit_gguf_kv *tokens, int64_t rows, whit_gguf_out *o, whit_err *e) {
	const whit_gguf_kv *type = NULL, *score = NULL;
	table b;
	int rc = whit_gguf_array(g, KEY("token_type"), 0, WHIT_GGUF_I32, &type, e);
	if (!rc) rc = whit_gguf_array(g, KEY("scores"), 0, WHIT_GGUF_F32, &score, e);
	if (rc) return rc;
	if ((type && type->n != tokens->n) || (score && score->n != tokens->n))
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: has %lld elements, need %lld, one for each token",
		                 g->name, type && type->n != tokens->n ? type->key : score->key,
		                 (long long)(type && type->n != tokens->n ? type->n : score->n), (long long)tokens->n);
	table_init(&b, rows, score != NULL);
	for (int64_t i = 0; i < tokens->n; i++) {
		b.text[i] = tokens->text[i];
		b.type[i] = type ? (int32_t)whit_load_u32(type->data + 4 * i) : TOK_NORMAL;
		if (score) b.score[i] = whit_load_f32(score->data + 4 * i);
	}
	for (int64_t i = tokens->n; i < rows; i++) pad(&b, i);
	rc = table_put(&b, o, e);
	table_free(&b);
	return rc;
}

static int put_copy(const whit_gguf *g, int64_t rows, whit_gguf_out *o, whit_err *e) {
	const whit_gguf_kv *tokens = NULL;
	int rc = whit_gguf_array(g, KEY("tokens"), 1, WHIT_GGUF_STRING, &tokens, e);
	if (!rc) rc = check_rows(g->name, tokens->n, rows, e);
	if (rc) return rc;
	int more = tokens->n < rows;
	if (more) rc = put_padded(g, tokens, rows, o, e);
	for (int64_t i = 0; i < g->n_kv && !rc; i++) {
		const char *key = g->kv[i].key;
		int table =
		        !strcmp(key, KEY("tokens")) || !strcmp(key, KEY("token_type")) || !strcmp(key, KEY("scores"));
		if (!strncmp(key, "tokenizer.", 10) && !(more && table)) rc = whit_gguf_put_copy(o, &g->kv[i], e);
	}
	return rc;
}

/* ---- which kind, and which pre-tokenizer ---- */

static int has_type(const json_t *j, const char *type) {
	const char *is = json_string_value(json_object_get(j, "type"));
	return is && !strcmp(is, type);
}

/* The members of a Sequence under key, or j alone; *n 0 for null. */
static const json_t *step(const json_t *j, const char *key, size_t i, size_t *n) {
	const json_t *list = has_type(j, "Sequence") ? json_object_get(j, key) : NULL;
	*n = list ? json_array_size(list) : j && !json_is_null(j);
	return list ? json_array_get(list, i) : i == 0 ? j : NULL;
}

static const char *text_at(const json_t *j, const char *key) {
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "";
}

static int cannot_say(const whit_tok *t, const char *key, const json_t *j, const char *need, whit_err *e) {
	char *shown = j ? json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	whit_fail(e, WHIT_EINPUT, "%s: %s is %.600s, need what GGUF can say: %s", t->name, key,
	          shown ? shown : "absent", need);
	free(shown);
	return e->code;
}

/* The regular expressions that the pieces are cut by, if bytes come last and nothing else is asked for: their number,
 * or -1. */
static int cut_patterns(const json_t *pre, const char *pattern[4]) {
	size_t n;
	int k = 0;
	step(pre, "pretokenizers", 0, &n);
	for (size_t i = 0; i < n; i++) {
		const json_t *j = step(pre, "pretokenizers", i, &n);
		const char *regex = json_string_value(json_object_get(json_object_get(j, "pattern"), "Regex"));
		if (has_type(j, "ByteLevel")) {
			const json_t *cuts = json_object_get(j, "use_regex");
			if (i + 1 < n || !json_is_false(json_object_get(j, "add_prefix_space"))) return -1;
			if (cuts && !json_is_null(cuts) && !json_is_true(cuts)) return k;
			if (k == 4) return -1;
			pattern[k++] = TOK_GPT2;
			return k;
		}
		if (!has_type(j, "Split") || !regex || strcmp(text_at(j, "behavior"), "Isolated") ||
		    json_is_true(json_object_get(j, "invert")) || k == 4)
			return -1;
		pattern[k++] = regex;
	}
	return -1;
}

static int find_pre(const whit_tok *t, const json_t *pre, const char **name, whit_err *e) {
	const char *pattern[4];
	int n = cut_patterns(pre, pattern), other = 0;
	for (const tok_pre *p = whit_tok_pres; p->name && n >= 0; p++) {
		int same = n == 4 || !p->pattern[n];
		for (int i = 0; i < n && same; i++) same = p->pattern[i] && !strcmp(p->pattern[i], pattern[i]);
		if (same && p->whole_words == t->bpe.ignore_merges) {
			*name = p->name;
			return 0;
		}
		other |= same;
	}
	char *known = whit_tok_pre_names();
	int rc = other ? whit_fail(e, WHIT_EINPUT,
	                           "%s: ignore_merges is %s, GGUF has no pre-tokenizer of this pattern so", t->name,
	                           t->bpe.ignore_merges ? "true" : "false")
	               : cannot_say(t, "pre_tokenizer", pre, known, e);
	whit_free(known);
	return rc;
}

/* Whether j puts U+2581 for a space and does nothing else. */
static int marks_spaces(const json_t *j) {
	const json_t *p = json_object_get(json_object_get(j, "pattern"), "String");
	return has_type(j, "Replace") && !strcmp(text_at(j, "content"), TOK_SPACE) && json_is_string(p) &&
	       !strcmp(json_string_value(p), " ");
}

/* How spaces are marked, in one of two places; *prefix: one more goes in front. */
static int find_prefix(const whit_tok *t, const json_t *normalizer, const json_t *pre, int *prefix, whit_err *e) {
	size_t n, n_pre;
	const json_t *first = step(normalizer, "normalizers", 0, &n),
	             *last = step(normalizer, "normalizers", n - 1, &n), *meta = step(pre, "pretokenizers", 0, &n_pre);
	*prefix = n == 2 && has_type(first, "Prepend") && !strcmp(text_at(first, "prepend"), TOK_SPACE);
	if (n_pre == 0 && (n == 1 || *prefix) && marks_spaces(last)) return 0;
	const char *scheme = text_at(meta, "prepend_scheme");
	if (n == 0 && n_pre == 1 && has_type(meta, "Metaspace") && !strcmp(text_at(meta, "replacement"), TOK_SPACE) &&
	    json_is_false(json_object_get(meta, "split"))) {
		*prefix = strcmp(scheme, "never") && !json_is_false(json_object_get(meta, "add_prefix_space"));
		if (*prefix)
			whit_say("warning: %s: in GGUF a text that begins with a space%s gets one more than here",
			         t->name, strcmp(scheme, "first") ? "" : ", and one behind a special token,");
		return 0;
	}
	return n_pre ? cannot_say(t, "pre_tokenizer", pre, "spaces as U+2581 (Metaspace without split)", e)
	             : cannot_say(t, "normalizer", normalizer, "spaces as U+2581, or one more in front", e);
}

/* ---- tokens, merges, scores ---- */

static int is_byte(const tok_bpe *b, int64_t id) {
	int byte = whit_named_byte(b->word[id].p, b->word[id].n);
	return byte >= 0 && b->byte[byte] == id;
}

static int fill_table(const whit_tok *t, table *b, whit_err *e) {
	const tok_bpe *bpe = &t->bpe;
	for (int64_t id = 0; id < b->rows; id++) {
		const tok_word *w = id < bpe->n_word ? &bpe->word[id] : NULL;
		if (!w || !w->p) {
			pad(b, id);
			if (whit_token_id(t, b->text[id].p) >= 0)
				return whit_fail(e, WHIT_EINPUT,
				                 "%s: id %lld has no token, need its name %s to be none", t->name,
				                 (long long)id, b->text[id].p);
			continue;
		}
		b->text[id] = (whit_gguf_text){w->p, w->n};
		b->type[id] = id == bpe->unk                                                   ? TOK_UNKNOWN
		              : w->special || (w->added && whit_tok_known_control(w->p, w->n)) ? TOK_CONTROL
		              : w->added                                                       ? TOK_USER_DEFINED
		              : is_byte(bpe, id)                                               ? TOK_BYTE
		                                                                               : TOK_NORMAL;
	}
	return 0;
}

static int by_rank(const void *x, const void *y) {
	const tok_pair *a = x, *b = y;
	return a->rank < b->rank ? -1 : a->rank > b->rank;
}

/* All merges in order; *n. whit_free it. */
static tok_pair *sorted_merges(const tok_bpe *b, int64_t *n) {
	int64_t k = 0;
	for (uint64_t i = 0; i <= b->pair_mask; i++) k += b->pair[i].id >= 0;
	tok_pair *v = whit_alloc((size_t)k * sizeof *v + 1);
	k = 0;
	for (uint64_t i = 0; i <= b->pair_mask; i++)
		if (b->pair[i].id >= 0) v[k++] = b->pair[i];
	if (k) qsort(v, (size_t)k, sizeof *v, by_rank);
	*n = k;
	return v;
}

static int put_merges(const whit_tok *t, whit_gguf_out *o, whit_err *e) {
	int64_t n;
	tok_pair *pair = sorted_merges(&t->bpe, &n);
	whit_gguf_text *text = whit_alloc((size_t)n * sizeof *text + 1);
	whit_arena mem = {0};
	int rc = 0;
	for (int64_t i = 0; i < n && !rc; i++) {
		const tok_word *l = &t->bpe.word[pair[i].key >> 32], *r = &t->bpe.word[(uint32_t)pair[i].key];
		char *p = whit_take_bytes(&mem, l->n + 1 + r->n);
		if (l->n) memcpy(p, l->p, l->n);
		p[l->n] = ' ';
		if (r->n) memcpy(p + l->n + 1, r->p, r->n);
		text[i] = (whit_gguf_text){p, l->n + 1 + r->n};
		if (!l->n || !r->n || memchr(l->p, ' ', l->n) || memchr(r->p, ' ', r->n))
			rc = whit_fail(e, WHIT_EINPUT, "%s: merge \"%.*s\" has %s, need two texts without spaces",
			               t->name, (int)WHIT_MIN(text[i].n, 100), p,
			               l->n && r->n ? "a space" : "an empty side");
	}
	if (!rc) rc = whit_gguf_put_strings(o, KEY("merges"), text, n, e);
	whit_arena_free(&mem);
	whit_free(text);
	whit_free(pair);
	return rc;
}

/* Merges driven by scores join any two texts whose whole is a token: ways that tokenizer.json may not have. */
static void count_missing(void *ctx, int32_t id, int32_t left, int32_t right, const char *at) {
	const tok_bpe *b = ((void **)ctx)[0];
	int64_t *missing = ((void **)ctx)[1];
	(void)id, (void)at;
	*missing += left < 0 || right < 0 || !whit_bpe_pair(b, left, right);
}

/* What a reader of the scores makes of them. */
static void trial_begin(tok_bpe *s, const tok_bpe *b, const float *score) {
	size_t bytes = 0;
	for (int64_t id = 0; id < b->n_word; id++) bytes += b->word[id].n;
	whit_bpe_begin(s, b->n_word, 3 * b->n_word, bytes + 8 * (size_t)b->n_word);
	for (int64_t id = 0; id < b->n_word; id++)
		if (b->word[id].p && !b->word[id].added) whit_bpe_enter(s, (int32_t)id, b->word[id].p, b->word[id].n);
	whit_bpe_merges_by_score(s, score);
	whit_bpe_finish(s, 1);
	s->unk = b->unk;
}

/* Both ways of merging on each token's text, alone and before and after others: says so if ids differ. */
static void trial(const whit_tok *t, const float *score) {
	const tok_bpe *b = &t->bpe;
	tok_bpe s = {0};
	tok_work w = {0};
	whit_ids x = {0}, y = {0};
	tok_bytes text = {0}, example = {0};
	whit_err e;
	whit_rng r;
	int64_t tried = 0, other = 0;
	whit_rng_key(&r, 1, (uint64_t)b->n_word, 0);
	trial_begin(&s, b, score);
	for (int64_t i = 0; i < 4 * b->n_word; i++) {
		text.n = x.n = y.n = 0;
		for (int64_t k = 0, id = i % b->n_word; k <= i / b->n_word; k++) {
			if (b->word[id].p && !b->word[id].added) whit_bytes_add(&text, b->word[id].p, b->word[id].n);
			id = (int64_t)whit_rng_below(&r, (uint64_t)b->n_word);
		}
		if (!text.n || whit_bpe_encode(b, &w, text.p, text.n, &x, t->name, &e) ||
		    whit_bpe_encode(&s, &w, text.p, text.n, &y, t->name, &e))
			continue;
		tried++;
		if (x.n == y.n && !memcmp(x.id, y.id, (size_t)x.n * sizeof *x.id)) continue;
		if (!other++) whit_bytes_add(&example, text.p, text.n);
	}
	if (other)
		whit_say("warning: %s: merges become scores in GGUF, which merge more: %lld of %lld texts of one to "
		         "four "
		         "tokens get other ids, the first is \"%.*s\"",
		         t->name, (long long)other, (long long)tried, (int)WHIT_MIN(example.n, 60), example.p);
	whit_bytes_free(&text);
	whit_bytes_free(&example);
	whit_ids_free(&x);
	whit_ids_free(&y);
	whit_work_free(&w);
	whit_bpe_free(&s);
}

/* A token's score is minus the place of its first merge. That says all there is to say if its merges stand together
 * in the list and are all the ways to make it, as in files that were made from SentencePiece models; if not, it is
 * tried. */
static void fill_scores(const whit_tok *t, table *b) {
	const tok_bpe *bpe = &t->bpe;
	int64_t n, doubts = 0;
	tok_pair *pair = sorted_merges(bpe, &n);
	uint8_t *seen = whit_alloc((size_t)bpe->n_word + 1);
	for (int64_t i = 0; i < n; i++) {
		int32_t id = pair[i].id;
		if (!seen[id])
			b->score[id] = -(float)i;
		else
			doubts += pair[i - 1].id != id;
		seen[id] = 1;
	}
	for (int64_t id = 0; id < bpe->n_word; id++)
		if (b->type[id] == TOK_NORMAL && !seen[id])
			b->score[id] = -(float)n; /* characters, as in SentencePiece */
	whit_bpe_ways(bpe, count_missing, (void *[]){(void *)(uintptr_t)bpe, &doubts});
	if (doubts) trial(t, b->score);
	whit_free(seen);
	whit_free(pair);
}

/* ---- special ids ---- */

static int in_list(const whit_ids *v, int32_t id) {
	for (int64_t i = 0; i < v->n; i++)
		if (v->id[i] == id) return 1;
	return 0;
}

/* Appends key's id or list of ids; absent, null or -1 (some files say so): none. */
static int read_ends(const json_t *j, const char *file, const char *key, int64_t rows, whit_ids *out, whit_err *e) {
	const json_t *v = json_object_get(j, key), *item;
	size_t n = json_is_array(v) ? json_array_size(v) : v && !json_is_null(v);
	for (size_t i = 0; i < n; i++) {
		item = json_is_array(v) ? json_array_get(v, i) : v;
		if (json_is_integer(item) && json_integer_value(item) == -1) continue;
		if (!json_is_integer(item) || json_integer_value(item) < 0 || json_integer_value(item) >= rows)
			return whit_fail(e, WHIT_EINPUT, "%s: %s: is %s%lld, need ids below %lld", file, key,
			                 json_is_integer(item) ? "" : "no integer, ",
			                 (long long)json_integer_value(item), (long long)rows);
		if (!in_list(out, (int32_t)json_integer_value(item)))
			whit_ids_push(out, (int32_t)json_integer_value(item));
	}
	return 0;
}

typedef struct special {
	whit_ids ends, bos, pad; /* of generation_config.json, else config.json; of bos and pad the first counts */
} special;

static int read_special(special *s, const char *dir, int64_t rows, whit_err *e) {
	static const char *const file[] = {"generation_config.json", "config.json"};
	int rc = 0;
	for (int i = 0; i < 2 && !rc; i++) {
		char *path = whit_format_text("%s/%s", dir, file[i]);
		json_t *j = NULL;
		if (whit_file_exists(path)) {
			rc = whit_json_load(&j, path, e);
			if (!rc && !s->ends.n) rc = read_ends(j, path, "eos_token_id", rows, &s->ends, e);
			if (!rc) rc = read_ends(j, path, "bos_token_id", rows, &s->bos, e);
			if (!rc) rc = read_ends(j, path, "pad_token_id", rows, &s->pad, e);
		}
		json_decref(j);
		whit_free(path);
	}
	return rc;
}

static int put_id(whit_gguf_out *o, const char *key, int32_t id, whit_err *e) {
	return id < 0 ? 0 : whit_gguf_put_u32(o, key, (uint32_t)id, e);
}

/* eos is the tokenizer's, if it ends generation; then eot and eom, the latter for <|eom_id|>. */
static int put_ends(const whit_tok *t, const whit_ids *ends, whit_gguf_out *o, whit_err *e) {
	int32_t eos = t->eos, eot = -1, eom = -1;
	if (ends->n && !in_list(ends, eos) && !t->back.n) eos = ends->id[0];
	for (int64_t i = 0; i < ends->n; i++) {
		int32_t id = ends->id[i];
		const tok_word *w = id < t->bpe.n_word ? &t->bpe.word[id] : NULL;
		int named = w && w->p && w->n == 10 && !memcmp(w->p, "<|eom_id|>", 10);
		if (id == eos) continue;
		if (named ? eom < 0 : eot < 0)
			*(named ? &eom : &eot) = id;
		else if (eom < 0)
			eom = id;
		else if (eot < 0)
			eot = id;
		else
			whit_say("warning: %s: id %d ends generation too, GGUF has names for three such", t->name, id);
	}
	int rc = put_id(o, KEY("eos_token_id"), eos, e);
	if (!rc) rc = put_id(o, KEY("eot_token_id"), eot, e);
	return rc ? rc : put_id(o, KEY("eom_token_id"), eom, e);
}

static int32_t config_id(const whit_tok *t, const json_t *config, const char *key) {
	const json_t *j = json_object_get(config, key);
	const char *text = json_string_value(json_is_object(j) ? json_object_get(j, "content") : j);
	return text ? whit_token_id(t, text) : -1;
}

/* What the post-processor puts at one end: nothing, or the token that GGUF calls bos or eos. */
static int check_end(const whit_tok *t, const whit_ids *v, int32_t id, const char *what, whit_err *e) {
	if (v->n == 0 || (v->n == 1 && v->id[0] == id)) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: post_processor: adds %lld tokens from id %d on, need nothing or %s (%d)",
	                 t->name, (long long)v->n, v->id[0], what, id);
}

static int put_ids(const whit_tok *t, const json_t *config, const special *s, whit_gguf_out *o, whit_err *e) {
	int32_t bos = t->bos >= 0 ? t->bos : s->bos.n ? s->bos.id[0] : -1, pad = config_id(t, config, "pad_token");
	int rc = check_end(t, &t->front, bos, "bos", e);
	if (!rc) rc = check_end(t, &t->back, t->eos, "eos", e);
	if (!rc) rc = put_id(o, KEY("bos_token_id"), bos, e);
	if (!rc) rc = put_ends(t, &s->ends, o, e);
	if (!rc) rc = put_id(o, KEY("unknown_token_id"), t->bpe.unk, e);
	if (!rc) rc = put_id(o, KEY("seperator_token_id"), config_id(t, config, "sep_token"), e);
	if (!rc) rc = put_id(o, KEY("padding_token_id"), pad < 0 && s->pad.n ? s->pad.id[0] : pad, e);
	if (!rc) rc = whit_gguf_put_bool(o, KEY("add_bos_token"), t->front.n > 0, e);
	return rc ? rc : whit_gguf_put_bool(o, KEY("add_eos_token"), t->back.n > 0, e);
}

/* ---- chat templates ---- */

/* A template, of any name but "default" under a key of its own; names gets it. */
static int put_template(const char *name, const char *text, json_t *names, whit_gguf_out *o, whit_err *e) {
	if (!strcmp(name, "default")) return whit_gguf_put_string(o, "tokenizer.chat_template", text, e);
	char *key = whit_format_text("tokenizer.chat_template.%s", name);
	int rc = whit_gguf_out_has(o, key) ? whit_fail(e, WHIT_EINPUT, "chat_template %.100s is there twice", name)
	                                   : whit_gguf_put_string(o, key, text, e);
	json_array_append_new(names, json_string(name));
	whit_free(key);
	return rc;
}

static int put_names(const json_t *names, whit_gguf_out *o, whit_err *e) {
	size_t n = json_array_size(names);
	whit_gguf_text *v = whit_alloc(n * sizeof *v + 1);
	for (size_t i = 0; i < n; i++) {
		const json_t *s = json_array_get(names, i);
		v[i] = (whit_gguf_text){json_string_value(s), json_string_length(s)};
	}
	int rc = n ? whit_gguf_put_strings(o, "tokenizer.chat_templates", v, (int64_t)n, e) : 0;
	whit_free(v);
	return rc;
}

/* tokenizer_config.json's: a text, or a list of {name, template}. */
static int put_config_templates(const json_t *config, const char *file, int has_default, json_t *names,
                                whit_gguf_out *o, whit_err *e) {
	const json_t *j = json_object_get(config, "chat_template"), *item;
	const char *name, *text;
	size_t i;
	int rc = 0;
	if (json_is_string(j)) return has_default ? 0 : put_template("default", json_string_value(j), names, o, e);
	if (!j || json_is_null(j)) return 0;
	if (!json_is_array(j))
		return whit_fail(e, WHIT_EINPUT, "%s: chat_template is %s, need a string or an array", file,
		                 whit_json_kind(j));
	json_array_foreach((json_t *)j, i, item) {
		if (!rc) rc = whit_json_text(item, file, "name", 1, &name, e);
		if (!rc) rc = whit_json_text(item, file, "template", 1, &text, e);
		if (!rc && !(has_default && !strcmp(name, "default"))) rc = put_template(name, text, names, o, e);
	}
	return rc;
}

/* chat_template.jinja is newer than the key of tokenizer_config.json, and stands in its place. */
static int put_templates(const char *dir, const json_t *config, const char *config_file, whit_gguf_out *o,
                         whit_err *e) {
	char *path = whit_format_text("%s/chat_template.jinja", dir);
	json_t *names = json_array();
	int has_default = whit_file_exists(path), rc = 0;
	whit_map m = {0};
	if (has_default && !(rc = whit_map_open(&m, path, e))) {
		if (memchr(m.data, 0, m.bytes)) rc = whit_fail(e, WHIT_EINPUT, "%s: holds a NUL, need text", path);
		char *text = whit_alloc(m.bytes + 1);
		memcpy(text, m.data, m.bytes);
		if (!rc) rc = put_template("default", text, names, o, e);
		whit_free(text);
		whit_map_close(&m);
	}
	if (!rc && config) rc = put_config_templates(config, config_file, has_default, names, o, e);
	if (!rc) rc = put_names(names, o, e);
	json_decref(names);
	whit_free(path);
	return rc;
}

/* ---- from tokenizer.json ---- */

/* GGUF's special tokens are plain text. */
static void warn_added(const whit_tok *t) {
	const tok_added_set *const set[] = {&t->raw, &t->normalized};
	for (int k = 0; k < 2; k++)
		for (int64_t i = 0; i < set[k]->n; i++) {
			const tok_added *a = &set[k]->v[i];
			if (a->lstrip || a->rstrip || a->single_word)
				whit_say("warning: %s: added token \"%.*s\": GGUF cannot say %s", t->name,
				         (int)WHIT_MIN(a->n, 40), a->p,
				         a->single_word ? "single_word"
				         : a->lstrip    ? "lstrip"
				                        : "rstrip");
		}
}

static int put_bytes_kind(const whit_tok *t, const json_t *root, table *b, whit_gguf_out *o, whit_err *e) {
	const json_t *normalizer = json_object_get(root, "normalizer");
	const char *pre = NULL;
	int rc = find_pre(t, json_object_get(root, "pre_tokenizer"), &pre, e);
	if (!rc && normalizer && !json_is_null(normalizer) && !has_type(normalizer, "NFC"))
		rc = cannot_say(t, "normalizer", normalizer, "none (NFC is taken for none)", e);
	if (!rc) rc = whit_gguf_put_string(o, KEY("model"), "gpt2", e);
	if (!rc) rc = whit_gguf_put_string(o, KEY("pre"), pre, e);
	if (!rc) rc = table_put(b, o, e);
	return rc ? rc : put_merges(t, o, e);
}

static int put_spaces_kind(const whit_tok *t, const json_t *root, table *b, whit_gguf_out *o, whit_err *e) {
	int prefix = 0;
	int rc =
	        find_prefix(t, json_object_get(root, "normalizer"), json_object_get(root, "pre_tokenizer"), &prefix, e);
	for (int i = 0; i < 256 && !rc; i++)
		if (t->bpe.byte[i] < 0)
			rc = whit_fail(
			        e, WHIT_EINPUT,
			        "%s: byte_fallback: has no token <0x%02X>, need one for each byte (llama.cpp fails "
			        "on a text with it)",
			        t->name, i);
	if (rc) return rc;
	fill_scores(t, b);
	rc = whit_gguf_put_string(o, KEY("model"), "llama", e);
	if (!rc) rc = whit_gguf_put_string(o, KEY("pre"), "default", e);
	if (!rc) rc = table_put(b, o, e);
	return rc ? rc : whit_gguf_put_bool(o, KEY("add_space_prefix"), prefix, e);
}

static int put_json(const tok_source *s, const char *dir, int64_t rows, whit_gguf_out *o, whit_err *e) {
	json_t *root, *config;
	whit_tok *t = NULL;
	special sp = {0};
	table b = {0};
	int rc = whit_tok_source_load(s, &root, &config, e);
	if (!rc) rc = whit_tok_new(&t, root, config, s->json, e);
	if (!rc) rc = check_rows(t->name, t->bpe.n_word, rows, e);
	if (!rc) rc = read_special(&sp, dir, rows, e);
	if (!rc) {
		const json_t *pre = json_object_get(root, "pre_tokenizer");
		size_t n;
		step(pre, "pretokenizers", 0, &n);
		int bytes = n && has_type(step(pre, "pretokenizers", n - 1, &n), "ByteLevel");
		table_init(&b, rows, !bytes);
		rc = fill_table(t, &b, e);
		if (!rc) rc = (bytes ? put_bytes_kind : put_spaces_kind)(t, root, &b, o, e);
		table_free(&b);
	}
	if (!rc) rc = put_ids(t, config, &sp, o, e);
	if (!rc) rc = put_templates(dir, config, s->config, o, e);
	if (!rc) warn_added(t);
	whit_ids_free(&sp.ends);
	whit_ids_free(&sp.bos);
	whit_ids_free(&sp.pad);
	whit_tok_close(t);
	json_decref(root);
	json_decref(config);
	return rc;
}

int whit_tok_put_gguf(const char *path, int64_t rows, whit_gguf_out *o, whit_err *e) {
	tok_source s;
	whit_gguf g;
	int rc = whit_tok_source(&s, path, e);
	if (rc) return rc;
	if (s.json) {
		rc = put_json(&s, path, rows, o, e);
	} else if (!(rc = whit_gguf_open(&g, s.gguf, e))) {
		rc = put_copy(&g, rows, o, e);
		whit_gguf_close(&g);
	}
	whit_tok_source_free(&s);
	return rc;
}
