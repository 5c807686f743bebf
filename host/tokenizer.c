/* tokenizer: reads tokenizer.json and tokenizer_config.json, and drives encoding and decoding. A text is cut at
 * added tokens first; each section between them is normalized, cut into pieces, and each piece encoded. Refuses
 * kinds it does not know, by name, rather than skip them. truncation and padding in the file are not applied. */
#include <limits.h>
#include <stdlib.h>
#include "host/tok.h"

enum { MOST_TEXT = 1 << 30 };

void whit_ids_push(whit_ids *v, int32_t id) {
	if (v->n == v->room) {
		int64_t room = v->room * 2 + 64;
		v->id = whit_realloc(v->id, (size_t)v->room * sizeof *v->id, (size_t)room * sizeof *v->id);
		v->room = room;
	}
	v->id[v->n++] = id;
}

void whit_ids_free(whit_ids *v) {
	whit_free(v->id);
	*v = (whit_ids){0};
}

/* ---- added tokens in a text ---- */

/* The longest token of s that begins p[n], or NULL: [lo, hi) are those that agree in the first d bytes. */
static const tok_added *longest(const tok_added_set *s, const char *p, size_t n) {
	const tok_added *best = NULL;
	int64_t lo = 0, hi = s->n;
	for (size_t d = 0;; d++) {
		for (int same = 0; lo < hi && s->v[lo].n == d; lo++, same = 1)
			if (!same) best = &s->v[lo];
		if (d == n || lo == hi) return best;
		uint8_t c = (uint8_t)p[d];
		for (int64_t top = hi; lo < top;) { /* first whose byte d is not below c */
			int64_t m = lo + (top - lo) / 2;
			if ((uint8_t)s->v[m].p[d] < c)
				lo = m + 1;
			else
				top = m;
		}
		for (int64_t low = lo; low < hi;) { /* first whose byte d is above c */
			int64_t m = low + (hi - low) / 2;
			if ((uint8_t)s->v[m].p[d] <= c)
				low = m + 1;
			else
				hi = m;
		}
	}
}

/* The character that ends p[n]; 0 bytes if none does. */
static size_t last_char(const char *p, size_t n, uint32_t *cp) {
	for (size_t k = 1; k <= 4 && k <= n; k++)
		if (whit_utf8_char(p + n - k, k, cp) == k) return k;
	return 0;
}

static int is_word(const whit_tok *t, tok_work *w, const char *p, size_t n, whit_err *e) {
	return n ? whit_scan_next(&(tok_scan){.p = p, .n = n}, &t->word, &w->match, e) : 0;
}

/* Whether [at, end) stands alone in text[n]: no word character beside it. Negative: error. */
static int stands_alone(const whit_tok *t, tok_work *w, const char *text, size_t n, size_t at, size_t end,
                        whit_err *e) {
	uint32_t cp;
	size_t before = last_char(text, at, &cp);
	int rc = is_word(t, w, text + at - before, before, e);
	if (rc == 0) rc = is_word(t, w, text + end, whit_utf8_char(text + end, n - end, &cp), e);
	return rc < 0 ? rc : !rc;
}

/* Finds the next added token at or behind *cursor, where everything before `done` is spent. 1: [*at, *end) is
 * the token with the blanks that it takes, *cursor is behind it; 0: none; negative: error. */
static int next_added(const whit_tok *t, const tok_added_set *s, tok_work *w, const char *text, size_t n,
                      unsigned flags, size_t *cursor, size_t done, const tok_added **hit, size_t *at, size_t *end,
                      whit_err *e) {
	uint32_t cp;
	for (size_t i = *cursor; s->n && i < n; i++) {
		const tok_added *a = s->first[(uint8_t)text[i]] ? longest(s, text + i, n - i) : NULL;
		if (!a) continue;
		int rc = a->single_word ? stands_alone(t, w, text, n, i, i + a->n, e) : 1;
		if (rc < 0) return rc;
		*at = i;
		*end = *cursor = i + a->n;
		if (!rc || (a->special && !(flags & WHIT_TOK_PARSE))) { /* it stays text, and covers tokens within it */
			i = *cursor - 1;
			continue;
		}
		for (size_t k; a->lstrip && *at > done && (k = last_char(text, *at, &cp)) && whit_is_space(cp);)
			*at -= k;
		*at = WHIT_MAX(*at, done);
		for (size_t k; a->rstrip && (k = whit_utf8_char(text + *end, n - *end, &cp)) && whit_is_space(cp);)
			*end += k;
		*end = WHIT_MAX(*end, done);
		*hit = a;
		return 1;
	}
	return 0;
}

/* ---- encoding ---- */

/* Text without added tokens: w->a from text, cut and encoded. */
static int encode_part(const whit_tok *t, tok_work *w, const char *text, size_t n, int start, whit_ids *out,
                       whit_err *e) {
	whit_cut_begin(w, text, n);
	int rc = whit_cut(&t->pre, w, start, e);
	for (int64_t i = 0; i < w->a.n && !rc; i++) {
		tok_piece p = w->a.piece[i];
		rc = whit_bpe_encode(&t->bpe, w, w->a.b.p + p.at, p.n, out, t->name, e);
		if (!rc && i % 4096 == 4095) rc = whit_interrupted(e);
	}
	return rc;
}

/* The tokens of set s in text[n], and fn's ids for what lies between them. */
typedef int (*between_fn)(const whit_tok *t, tok_work *w, const char *text, size_t n, int start, unsigned flags,
                          whit_ids *out, whit_err *e);
static int encode_around(const whit_tok *t, const tok_added_set *s, tok_work *w, const char *text, size_t n, int start,
                         unsigned flags, between_fn fn, whit_ids *out, whit_err *e) {
	size_t cursor = 0, done = 0, at, end;
	const tok_added *hit;
	int rc;
	while ((rc = next_added(t, s, w, text, n, flags, &cursor, done, &hit, &at, &end, e)) > 0) {
		if (at > done && (rc = fn(t, w, text + done, at - done, start && done == 0, flags, out, e))) return rc;
		whit_ids_push(out, hit->id);
		done = end;
	}
	if (!rc && n > done) rc = fn(t, w, text + done, n - done, start && done == 0, flags, out, e);
	return rc;
}

static int encode_normalized(const whit_tok *t, tok_work *w, const char *text, size_t n, int start, unsigned flags,
                             whit_ids *out, whit_err *e) {
	(void)flags;
	return encode_part(t, w, text, n, start, out, e);
}

static int encode_section(const whit_tok *t, tok_work *w, const char *text, size_t n, int start, unsigned flags,
                          whit_ids *out, whit_err *e) {
	whit_cut_begin(w, text, n);
	int rc = whit_cut(&t->normalizer, w, start, e);
	if (rc) return rc;
	tok_bytes b = w->kept; /* the parts' cutting writes a and b */
	w->kept = w->a.b;
	w->a.b = b;
	return encode_around(t, &t->normalized, w, w->kept.p, w->kept.n, start, flags, encode_normalized, out, e);
}

int whit_tok_encode(const whit_tok *t, const char *text, size_t n, unsigned flags, whit_ids *out, whit_err *e) {
	tok_work w = {0};
	int64_t before = out->n;
	if (n > MOST_TEXT)
		return whit_fail(e, WHIT_EINPUT, "%s: text is %zu bytes, need at most %d", t->name, n, MOST_TEXT);
	for (int64_t i = 0; i < t->front.n && flags & WHIT_TOK_SPECIAL; i++) whit_ids_push(out, t->front.id[i]);
	int rc = encode_around(t, &t->raw, &w, text, n, 1, flags, encode_section, out, e);
	for (int64_t i = 0; i < t->back.n && flags & WHIT_TOK_SPECIAL; i++) whit_ids_push(out, t->back.id[i]);
	if (rc) out->n = before;
	whit_work_free(&w);
	return rc;
}

char *whit_tok_decode(const whit_tok *t, const int32_t *ids, int64_t n, int skip_special, size_t *len) {
	return whit_undo_run(&t->decoder, &t->bpe, ids, n, skip_special, len);
}

int64_t whit_tok_vocab(const whit_tok *t) { return t->bpe.n_word; }
int32_t whit_tok_bos(const whit_tok *t) { return t->bos; }
int32_t whit_tok_eos(const whit_tok *t) { return t->eos; }
int whit_tok_adds_bos(const whit_tok *t) { return t->front.n > 0 && t->front.id[0] == t->bos; }

int whit_tok_is_special(const whit_tok *t, int32_t id) {
	return id >= 0 && id < t->bpe.n_word && t->bpe.word[id].special;
}

/* ---- reading: added tokens ---- */

static int read_added(const whit_tok *t, const json_t *j, tok_added *a, whit_err *e) {
	const char *text;
	int64_t id;
	int rc = whit_json_int(j, t->name, "id", 1, 0, INT32_MAX - 1, &id, e);
	if (!rc) rc = whit_json_text(j, t->name, "content", 1, &text, e);
	if (!rc) rc = whit_json_bool(j, t->name, "special", 0, &a->special, e);
	if (!rc) rc = whit_json_bool(j, t->name, "lstrip", 0, &a->lstrip, e);
	if (!rc) rc = whit_json_bool(j, t->name, "rstrip", 0, &a->rstrip, e);
	if (!rc) rc = whit_json_bool(j, t->name, "single_word", 0, &a->single_word, e);
	if (rc) return whit_fail_in(e, "added_tokens");
	a->p = text;
	a->n = strlen(text);
	a->id = (int32_t)id;
	a->normalized = !a->special; /* the writers' default */
	return whit_json_bool(j, t->name, "normalized", 0, &a->normalized, e);
}

/* Gives an added token its id in the vocabulary, or finds it there already. */
static int enter_added(whit_tok *t, tok_added *a, whit_err *e) {
	tok_word *w = &t->bpe.word[a->id];
	int32_t known = whit_bpe_token(&t->bpe, a->p, a->n);
	if (known >= 0 && known != a->id)
		return whit_fail(e, WHIT_EINPUT, "%s: added token \"%.*s\" has id %d, the vocabulary says %d", t->name,
		                 (int)WHIT_MIN(a->n, 100), a->p, a->id, known);
	if (w->p && (w->added || known < 0))
		return whit_fail(e, WHIT_EINPUT, "%s: id %d is both \"%.*s\" and \"%.*s\"", t->name, a->id,
		                 (int)WHIT_MIN(w->n, 100), w->p, (int)WHIT_MIN(a->n, 100), a->p);
	if (!w->p) {
		char *p = whit_take_bytes(&t->bpe.mem, a->n + 1);
		memcpy(p, a->p, a->n);
		w->p = p;
	}
	w->n = a->n;
	w->added = 1;
	w->special = a->special;
	a->p = w->p;
	return 0;
}

static int by_bytes(const void *x, const void *y) {
	const tok_added *a = x, *b = y;
	int c = memcmp(a->p, b->p, WHIT_MIN(a->n, b->n));
	if (c) return c;
	return a->n != b->n ? (a->n < b->n ? -1 : 1) : a->id < b->id ? -1 : 1;
}

static void sort_set(tok_added_set *s) {
	if (s->n) qsort(s->v, (size_t)s->n, sizeof *s->v, by_bytes);
	for (int64_t i = 0; i < s->n; i++) s->first[(uint8_t)s->v[i].p[0]] = 1;
}

/* A normalized token is looked for in normalized text, so its own text is normalized too. */
static int normalize_added(whit_tok *t, tok_added *a, tok_work *w, whit_err *e) {
	whit_cut_begin(w, a->p, a->n);
	int rc = whit_cut(&t->normalizer, w, 1, e);
	if (rc) return rc;
	char *p = whit_take_bytes(&t->bpe.mem, w->a.b.n + 1);
	memcpy(p, w->a.b.p, w->a.b.n);
	a->p = p;
	a->n = w->a.b.n;
	return 0;
}

/* Two added tokens with one text would leave one of them unreachable. */
static int check_unique(const whit_tok *t, const tok_added *v, int64_t n, whit_err *e) {
	for (int64_t i = 1; i < n; i++)
		if (v[i].n == v[i - 1].n && !memcmp(v[i].p, v[i - 1].p, v[i].n))
			return whit_fail(e, WHIT_EINPUT, "%s: added token \"%.*s\" has ids %d and %d", t->name,
			                 (int)WHIT_MIN(v[i].n, 100), v[i].p, v[i - 1].id, v[i].id);
	return 0;
}

int whit_added_enter(whit_tok *t, tok_added *v, int64_t n, whit_err *e) {
	tok_work w = {0};
	int rc = 0;
	t->raw.v = whit_alloc((size_t)n * sizeof *v + 1);
	t->normalized.v = whit_alloc((size_t)n * sizeof *v + 1);
	for (int64_t i = 0; i < n && !rc; i++) rc = enter_added(t, &v[i], e);
	if (n) qsort(v, (size_t)n, sizeof *v, by_bytes);
	if (!rc) rc = check_unique(t, v, n, e);
	for (int64_t i = 0; i < n && !rc; i++) {
		tok_added a = v[i];
		if (a.single_word && !t->word.re)
			rc = whit_regex_new(&t->word.re, "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d]", t->name,
			                    e);
		if (a.n && a.normalized && !rc) rc = normalize_added(t, &a, &w, e);
		tok_added_set *s = a.normalized ? &t->normalized : &t->raw;
		if (a.n) s->v[s->n++] = a; /* an empty token has an id and is never found */
	}
	whit_work_free(&w);
	sort_set(&t->raw);
	sort_set(&t->normalized);
	return rc;
}

/* ---- reading: post-processor ---- */

int32_t whit_token_id(const whit_tok *t, const char *text) {
	size_t n = strlen(text);
	int32_t id = whit_bpe_token(&t->bpe, text, n);
	for (int32_t i = 0; id < 0 && i < t->bpe.n_word; i++) /* added tokens are outside the table */
		if (t->bpe.word[i].added && t->bpe.word[i].n == n && !memcmp(t->bpe.word[i].p, text, n)) id = i;
	return id;
}

/* Adds the ids of a template's special token. */
static int push_special(whit_tok *t, whit_ids *to, const json_t *table, const char *name, whit_err *e) {
	const json_t *entry, *ids, *v;
	size_t i;
	int rc = whit_json_member(table, t->name, name, 1, JSON_OBJECT, &entry, e);
	if (!rc) rc = whit_json_member(entry, t->name, "ids", 1, JSON_ARRAY, &ids, e);
	if (rc) return whit_fail_in(e, "post_processor: special_tokens");
	json_array_foreach((json_t *)ids, i, v) {
		int64_t id = json_is_integer(v) ? json_integer_value(v) : -1;
		if (id < 0 || id >= t->bpe.n_word || !t->bpe.word[id].p)
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: post_processor: special token %s has id %lld, need one of a token",
			                 t->name, name, (long long)id);
		whit_ids_push(to, (int32_t)id);
	}
	return 0;
}

static int read_template(whit_tok *t, const json_t *j, whit_err *e) {
	const json_t *single, *table = NULL, *item, *what;
	const char *name;
	size_t i;
	int seen = 0;
	int rc = whit_json_member(j, t->name, "single", 1, JSON_ARRAY, &single, e);
	if (!rc) rc = whit_json_member(j, t->name, "special_tokens", 0, JSON_OBJECT, &table, e);
	if (rc) return rc;
	json_array_foreach((json_t *)single, i, item) {
		int special = json_object_get(item, "SpecialToken") != NULL;
		if ((rc = whit_json_member(item, t->name, special ? "SpecialToken" : "Sequence", 1, JSON_OBJECT, &what,
		                           e)))
			return rc;
		if ((rc = whit_json_text(what, t->name, "id", 1, &name, e))) return rc;
		if (special)
			rc = push_special(t, seen ? &t->back : &t->front, table, name, e);
		else if (seen++ || strcmp(name, "A"))
			rc = whit_fail(e, WHIT_EINPUT, "%s: post_processor: single has sequence %s, need A once",
			               t->name, name);
		if (rc) return rc;
	}
	return seen ? 0 : whit_fail(e, WHIT_EINPUT, "%s: post_processor: single has no sequence A", t->name);
}

static int read_processor(whit_tok *t, const json_t *j, whit_err *e) {
	const char *kind;
	const json_t *list, *item;
	size_t i;
	if (!j || json_is_null(j)) return 0;
	int rc = whit_json_text(j, t->name, "type", 1, &kind, e);
	if (rc) return whit_fail_in(e, "post_processor");
	if (!strcmp(kind, "ByteLevel")) return 0; /* offsets only */
	if (!strcmp(kind, "Sequence")) {
		if ((rc = whit_json_member(j, t->name, "processors", 1, JSON_ARRAY, &list, e))) return rc;
		json_array_foreach((json_t *)list, i, item) if ((rc = read_processor(t, item, e))) return rc;
		return 0;
	}
	if (strcmp(kind, "TemplateProcessing"))
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: post_processor: type is %s, known are TemplateProcessing, ByteLevel and Sequence",
		                 t->name, kind);
	if (t->front.n || t->back.n)
		return whit_fail(e, WHIT_EINPUT, "%s: post_processor: has two templates, need one", t->name);
	return read_template(t, j, e);
}

/* ---- reading: tokenizer_config.json ---- */

/* The id of config's bos_token or eos_token: a text, or an object with "content"; else *id stays. */
static int read_named(const whit_tok *t, const json_t *config, const char *name, const char *key, int32_t *id,
                      whit_err *e) {
	const json_t *j = json_object_get(config, key);
	const char *text = NULL;
	int rc = json_is_object(j) ? whit_json_text(j, name, "content", 1, &text, e)
	                           : whit_json_text(config, name, key, 0, &text, e);
	if (rc || !text) return rc;
	*id = whit_token_id(t, text);
	return *id >= 0 ? 0
	                : whit_fail(e, WHIT_EINPUT, "%s: %s is \"%.100s\", %s has no such token", name, key, text,
	                            t->name);
}

/* add_bos_token or add_eos_token replaces the file's post-processor, as in transformers: an absent one of the
 * two is false. */
static int read_config(whit_tok *t, const json_t *config, const char *name, whit_err *e) {
	int bos = -1, eos = -1;
	int rc = read_named(t, config, name, "bos_token", &t->bos, e);
	if (!rc) rc = read_named(t, config, name, "eos_token", &t->eos, e);
	if (!rc) rc = whit_json_bool(config, name, "add_bos_token", 0, &bos, e);
	if (!rc) rc = whit_json_bool(config, name, "add_eos_token", 0, &eos, e);
	if (rc || (bos < 0 && eos < 0)) return rc;
	t->front.n = t->back.n = 0;
	if (bos > 0 && t->bos >= 0) whit_ids_push(&t->front, t->bos);
	if (eos > 0 && t->eos >= 0) whit_ids_push(&t->back, t->eos);
	return 0;
}

/* ---- reading: the whole ---- */

static int read_tokens(whit_tok *t, const json_t *root, whit_err *e) {
	const json_t *list = NULL, *model, *item;
	int64_t top = 0, n;
	size_t i;
	int rc = whit_json_member(root, t->name, "added_tokens", 0, JSON_ARRAY, &list, e);
	if (!rc) rc = whit_json_member(root, t->name, "model", 1, JSON_OBJECT, &model, e);
	if (rc) return rc;
	n = (int64_t)json_array_size(list);
	int64_t most = ((int64_t)json_object_size(json_object_get(model, "vocab")) + n) * 8 + 4096;
	tok_added *v = whit_alloc((size_t)n * sizeof *v + 1);
	json_array_foreach((json_t *)list, i, item) {
		if ((rc = read_added(t, item, &v[i], e))) break;
		top = WHIT_MAX(top, v[i].id + 1);
		if (v[i].id < most) continue;
		rc = whit_fail(e, WHIT_EINPUT, "%s: added token \"%.100s\" has id %d, need below %lld", t->name, v[i].p,
		               v[i].id, (long long)most);
		break;
	}
	if (!rc) rc = whit_bpe_read(&t->bpe, model, top, t->name, e);
	if (!rc) rc = whit_added_enter(t, v, n, e);
	whit_free(v);
	return rc;
}

static int read_all(whit_tok *t, const json_t *root, const json_t *config, whit_err *e) {
	if (!json_is_object(root))
		return whit_fail(e, WHIT_EINPUT, "%s: is %s, need an object", t->name, whit_json_kind(root));
	int rc = whit_normalizer_read(&t->normalizer, json_object_get(root, "normalizer"), t->name, &t->bpe.mem, e);
	if (!rc) rc = whit_pretokenizer_read(&t->pre, json_object_get(root, "pre_tokenizer"), t->name, &t->bpe.mem, e);
	if (!rc) rc = whit_undo_read(&t->decoder, json_object_get(root, "decoder"), t->name, &t->bpe.mem, e);
	if (!rc) rc = read_tokens(t, root, e);
	if (!rc) rc = read_processor(t, json_object_get(root, "post_processor"), e);
	if (!rc && t->front.n) t->bos = t->front.id[0];
	if (rc || !config) return rc;
	char *name = whit_format_text("%s with tokenizer_config.json", t->name);
	rc = read_config(t, config, name, e);
	whit_free(name);
	return rc;
}

int whit_tok_new(whit_tok **out, const json_t *root, const json_t *config, const char *name, whit_err *e) {
	whit_tok *t = whit_alloc(sizeof *t);
	t->name = whit_strdup(name);
	t->bos = t->eos = -1;
	int rc = read_all(t, root, config, e);
	if (rc) {
		whit_tok_close(t);
		t = NULL;
	}
	*out = t;
	return rc;
}

int whit_tok_parse(whit_tok **t, const char *json, size_t n, const char *config, size_t n_config, const char *name,
                   whit_err *e) {
	json_t *root = NULL, *more = NULL;
	*t = NULL;
	int rc = whit_json_parse(&root, json, n, name, e);
	if (!rc && config) rc = whit_json_parse(&more, config, n_config, "tokenizer_config.json", e);
	if (!rc) rc = whit_tok_new(t, root, more, name, e);
	json_decref(root);
	json_decref(more);
	return rc;
}

/* ---- where it is ---- */

int whit_tok_source(tok_source *s, const char *path, whit_err *e) {
	*s = (tok_source){0};
	if (!whit_is_dir(path)) {
		s->gguf = whit_strdup(path);
		return 0;
	}
	s->json = whit_format_text("%s/tokenizer.json", path);
	s->config = whit_format_text("%s/tokenizer_config.json", path);
	s->gguf = whit_format_text("%s/tokenizer.gguf", path);
	char **other[] = {&s->gguf, &s->json, &s->config};
	int json = whit_file_exists(s->json), gguf = whit_file_exists(s->gguf);
	for (int i = json ? 0 : 1; i < (json ? 1 : 3); i++) {
		whit_free(*other[i]);
		*other[i] = NULL;
	}
	if (s->config && !whit_file_exists(s->config)) {
		whit_free(s->config);
		s->config = NULL;
	}
	if (json || gguf) return 0;
	whit_tok_source_free(s);
	return whit_fail(e, WHIT_EINPUT, "%s: has neither tokenizer.json nor tokenizer.gguf, need one", path);
}

void whit_tok_source_free(tok_source *s) {
	whit_free(s->json);
	whit_free(s->config);
	whit_free(s->gguf);
	*s = (tok_source){0};
}

int whit_tok_source_load(const tok_source *s, json_t **root, json_t **config, whit_err *e) {
	*root = *config = NULL;
	int rc = whit_json_load(root, s->json, e);
	return rc || !s->config ? rc : whit_json_load(config, s->config, e);
}

int whit_tok_open(whit_tok **t, const char *path, whit_err *e) {
	tok_source s;
	json_t *root = NULL, *config = NULL;
	whit_gguf g;
	*t = NULL;
	int rc = whit_tok_source(&s, path, e);
	if (rc) return rc;
	if (s.json) {
		rc = whit_tok_source_load(&s, &root, &config, e);
		if (!rc) rc = whit_tok_new(t, root, config, s.json, e);
	} else if (!(rc = whit_gguf_open(&g, s.gguf, e))) {
		rc = whit_tok_from_gguf(t, &g, e);
		whit_gguf_close(&g);
	}
	json_decref(root);
	json_decref(config);
	whit_tok_source_free(&s);
	return rc;
}

int whit_tok_exists(const char *path) {
	tok_source s;
	whit_err e;
	int rc = whit_tok_source(&s, path, &e);
	if (!rc && s.gguf) { /* a GGUF may have no tokenizer, or say so; a broken one is not none */
		whit_gguf g;
		const char *kind = "none";
		if (!whit_file_exists(s.gguf)) {
			rc = -1;
		} else if (!whit_gguf_open(&g, s.gguf, &e)) {
			if (!whit_gguf_string(&g, "tokenizer.ggml.model", 0, &kind, &e) && !strcmp(kind, "none"))
				rc = -1;
			whit_gguf_close(&g);
		}
	}
	whit_tok_source_free(&s);
	return !rc;
}

static int same_files(const char *a, const char *b, int *same, whit_err *e) {
	whit_map x = {0}, y = {0};
	*same = !a && !b;
	if (!a || !b) return 0;
	int rc = whit_map_open(&x, a, e);
	if (!rc) rc = whit_map_open(&y, b, e);
	if (!rc) *same = x.bytes == y.bytes && !memcmp(x.data, y.data, x.bytes);
	whit_map_close(&x);
	whit_map_close(&y);
	return rc;
}

/* The tokenizer's pairs, in file order or not. */
static int same_pairs(const char *a, const char *b, int *same, whit_err *e) {
	whit_gguf g, h;
	int64_t n = 0;
	int rc = whit_gguf_open(&g, a, e);
	if (rc) return rc;
	if (!(rc = whit_gguf_open(&h, b, e))) {
		*same = 1;
		for (int64_t i = 0; i < g.n_kv; i++) {
			if (strncmp(g.kv[i].key, "tokenizer.", 10)) continue;
			const whit_gguf_kv *x = &g.kv[i], *y = whit_gguf_find(&h, x->key);
			*same &= y && x->raw_bytes == y->raw_bytes && !memcmp(x->raw, y->raw, x->raw_bytes);
			n++;
		}
		for (int64_t i = 0; i < h.n_kv; i++) n -= !strncmp(h.kv[i].key, "tokenizer.", 10);
		*same &= n == 0;
		whit_gguf_close(&h);
	}
	whit_gguf_close(&g);
	return rc;
}

int whit_tok_same(const char *path, const char *other, int *same, whit_err *e) {
	tok_source a, b = {0};
	int config = 0;
	*same = 0;
	int rc = whit_tok_source(&a, path, e);
	if (!rc) rc = whit_tok_source(&b, other, e);
	if (!rc && a.gguf && b.gguf) rc = same_pairs(a.gguf, b.gguf, same, e);
	if (!rc && a.json && b.json) {
		rc = same_files(a.json, b.json, same, e);
		if (!rc) rc = same_files(a.config, b.config, &config, e);
		*same &= config;
	}
	whit_tok_source_free(&a);
	whit_tok_source_free(&b);
	return rc;
}

void whit_tok_close(whit_tok *t) {
	if (!t) return;
	whit_free(t->name);
	whit_bpe_free(&t->bpe);
	whit_steps_free(&t->normalizer);
	whit_steps_free(&t->pre);
	whit_free(t->decoder.v);
	whit_free(t->raw.v);
	whit_free(t->normalized.v);
	whit_regex_free(t->word.re);
	whit_ids_free(&t->front);
	whit_ids_free(&t->back);
	whit_free(t);
}
