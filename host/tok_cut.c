/* tok_cut: normalizers and pre-tokenizers, as a list of steps over one section of text. A section is what lies
 * between added tokens; it begins as one piece. Each kind of tokenizer.json is spelled in a few primitive
 * steps. A step that needs characters sees UTF-8 stretches only: bytes that are not UTF-8 pass every step
 * unchanged, as pieces of their own where a regular expression cuts. */
#include <utf8proc.h>
#include "host/tok.h"

enum { FORM, LOWER, PREPEND, PREFIX, REPLACE, SPLIT, BYTES };
enum { REMOVED, ISOLATED, WITH_PREVIOUS, WITH_NEXT, CONTIGUOUS };
static const char *const behavior_name[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                            "Contiguous"};
enum { MOST_STEPS = 64 };

/* ---- bytes and characters ---- */

void whit_bytes_add(tok_bytes *b, const char *p, size_t n) {
	if (n == 0) return;
	if (n > b->room - b->n) {
		size_t room = WHIT_MAX(b->n + n, b->room * 2 + 64);
		b->p = whit_realloc(b->p, b->room, room);
		b->room = room;
	}
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

void whit_bytes_char(tok_bytes *b, uint32_t cp) {
	uint8_t t[4];
	whit_bytes_add(b, (char *)t, (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, t));
}

void whit_bytes_free(tok_bytes *b) {
	whit_free(b->p);
	*b = (tok_bytes){0};
}

size_t whit_utf8_char(const char *p, size_t n, uint32_t *cp) {
	utf8proc_int32_t c;
	if (n == 0) return 0;
	if (!(*p & 0x80)) {
		*cp = (uint8_t)*p;
		return 1;
	}
	utf8proc_ssize_t k = utf8proc_iterate((const uint8_t *)p, (utf8proc_ssize_t)WHIT_MIN(n, 4), &c);
	*cp = (uint32_t)c;
	return k > 0 ? (size_t)k : 0;
}

size_t whit_utf8_stretch(const char *p, size_t n, int *valid) {
	uint32_t cp;
	size_t i = whit_utf8_char(p, n, &cp), k;
	*valid = i > 0;
	if (*valid)
		while ((k = whit_utf8_char(p + i, n - i, &cp))) i += k;
	else
		for (i = 1; i < n && !whit_utf8_char(p + i, n - i, &cp);) i++;
	return i;
}

int whit_is_space(uint32_t c) {
	return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Visible Latin-1 stands for itself; the other 68 bytes, in order, are U+0100 and up (GPT-2's encoder.py). */
uint32_t whit_byte_to_char(uint8_t b) {
	if (b <= 32) return 256u + b;
	if (b >= 127 && b <= 160) return 256u + 33 + (b - 127u);
	return b == 173 ? 256 + 67 : b;
}

int whit_char_to_byte(uint32_t c) {
	if (c >= 256 && c <= 256 + 32) return (int)c - 256;
	if (c > 256 + 32 && c < 256 + 67) return (int)c - (256 + 33) + 127;
	if (c == 256 + 67) return 173;
	return c > 32 && c < 256 && !(c >= 127 && c <= 160) && c != 173 ? (int)c : -1;
}

/* ---- texts ---- */

static void add_piece(tok_text *t, size_t at, size_t n) {
	if (t->n == t->room) {
		size_t old = (size_t)t->room * sizeof *t->piece;
		t->room = t->room * 2 + 64;
		t->piece = whit_realloc(t->piece, old, (size_t)t->room * sizeof *t->piece);
	}
	t->piece[t->n++] = (tok_piece){at, n};
}

void whit_cut_begin(tok_work *w, const char *text, size_t n) {
	w->a.b.n = 0;
	w->a.n = 0;
	whit_bytes_add(&w->a.b, text, n);
	if (n) add_piece(&w->a, 0, n);
}

void whit_work_free(tok_work *w) {
	tok_text *const both[] = {&w->a, &w->b};
	for (int i = 0; i < 2; i++) {
		whit_bytes_free(&both[i]->b);
		whit_free(both[i]->piece);
	}
	whit_bytes_free(&w->kept);
	whit_matcher_free(&w->match);
	whit_free(w->cp);
	whit_free(w->sym);
	whit_free(w->heap);
	*w = (tok_work){0};
}

/* ---- normalization forms ---- */

static void add_cp(tok_work *w, uint32_t cp, int options) {
	for (;;) { /* one code point decomposes into at most 18 */
		int64_t left = w->room_cp - w->n_cp;
		int bound = 0;
		utf8proc_ssize_t k = left ? utf8proc_decompose_char((int32_t)cp, w->cp + w->n_cp, left,
		                                                    (utf8proc_option_t)options, &bound)
		                          : 1;
		if (k >= 0 && k <= left) {
			w->n_cp += k;
			return;
		}
		int64_t room = w->room_cp * 2 + 64;
		w->cp = whit_realloc(w->cp, (size_t)w->room_cp * sizeof *w->cp, (size_t)room * sizeof *w->cp);
		w->room_cp = room;
	}
}

/* Canonical order: each run of marks is sorted by combining class, stably. Counting, because a text may be one
 * run of a million marks, where the usual exchange sort never ends. */
static void order_marks(int32_t *cp, int64_t n) {
	int32_t *sorted = NULL;
	for (int64_t i = 0; i < n;) {
		int64_t from = i;
		while (i < n && utf8proc_get_property(cp[i])->combining_class) i++;
		if (i - from > 1) {
			int64_t start[257] = {0};
			if (!sorted) sorted = whit_alloc((size_t)n * sizeof *sorted);
			for (int64_t k = from; k < i; k++) start[utf8proc_get_property(cp[k])->combining_class + 1]++;
			for (int c = 0; c < 256; c++) start[c + 1] += start[c];
			for (int64_t k = from; k < i; k++)
				sorted[start[utf8proc_get_property(cp[k])->combining_class]++] = cp[k];
			memcpy(cp + from, sorted, (size_t)(i - from) * sizeof *cp);
		}
		i += i == from;
	}
	whit_free(sorted);
}

/* Appends the normalization form of the UTF-8 stretch p[n] to b. Characters below `low` neither change nor join
 * with what stands before them, so everything is copied but stretches of higher ones, each with the low
 * character before it. */
static void run_form(const tok_step *s, tok_work *w, const char *p, size_t n) {
	int options = s->form;
	uint32_t cp, low = options & UTF8PROC_COMPOSE && !(options & UTF8PROC_COMPAT) ? 0x300 : 0x80;
	for (size_t i = 0, k, plain = 0; i < n; plain = i) {
		size_t from = i;
		for (; i < n && (k = whit_utf8_char(p + i, n - i, &cp), cp < low); i += k) from = i;
		if (i == n) from = n;
		whit_bytes_add(&w->b.b, p + plain, from - plain);
		w->n_cp = 0;
		for (int first = 1; from < n; from += k, first = 0) {
			k = whit_utf8_char(p + from, n - from, &cp);
			if (cp < low && !(first && from < i)) break;
			add_cp(w, cp, options);
		}
		i = from;
		order_marks(w->cp, w->n_cp);
		if (options & UTF8PROC_COMPOSE)
			w->n_cp = utf8proc_normalize_utf32(w->cp, w->n_cp, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
		for (int64_t j = 0; j < w->n_cp; j++) whit_bytes_char(&w->b.b, (uint32_t)w->cp[j]);
	}
}

static void run_lower(tok_work *w, const char *p, size_t n) {
	uint32_t cp;
	for (size_t i = 0, k; i < n; i += k) {
		k = whit_utf8_char(p + i, n - i, &cp);
		whit_bytes_char(&w->b.b, (uint32_t)utf8proc_tolower((int32_t)cp));
		if (cp == 0x130) whit_bytes_char(&w->b.b, 0x307); /* the only letter that lowers to two */
	}
}

/* ---- the steps ---- */

/* A pattern in place of which much text stands could fill the memory. */
static int grown(const tok_step *s, tok_work *w, whit_err *e) {
	size_t most = WHIT_MIN(w->a.b.n * 64 + 4096, (size_t)INT32_MAX);
	if (w->b.b.n <= most) return 0;
	return whit_fail(e, WHIT_EINPUT, "normalizer: replacing %s grows a text of %zu bytes past %zu",
	                 s->find.re ? "matches" : s->find.text, w->a.b.n, most);
}

static int run_replace(const tok_step *s, tok_work *w, const char *p, size_t n, whit_err *e) {
	tok_scan scan = {.p = p, .n = n};
	size_t done = 0;
	int rc;
	while ((rc = whit_scan_next(&scan, &s->find, &w->match, e)) > 0) {
		whit_bytes_add(&w->b.b, p + done, scan.start - done);
		whit_bytes_add(&w->b.b, s->text, s->n);
		done = scan.end;
		if ((rc = grown(s, w, e))) return rc;
	}
	whit_bytes_add(&w->b.b, p + done, n - done);
	return rc;
}

/* One span of a cut, joined to the one before as the behavior says; first is the stretch's first piece. */
static void add_span(const tok_step *s, tok_text *t, int64_t first, size_t at, size_t n, int match, int *before) {
	match ^= s->invert;
	int join = 0;
	if (s->behavior == WITH_PREVIOUS) join = match && !*before;
	if (s->behavior == WITH_NEXT) join = !match && *before;
	if (s->behavior == CONTIGUOUS) join = match == *before;
	if (join && t->n > first)
		t->piece[t->n - 1].n += n;
	else if (!(s->behavior == REMOVED && match))
		add_piece(t, at, n);
	*before = match;
}

/* Cuts the stretch [at, at+n) of a into pieces of b (positions in a's bytes). */
static int run_split(const tok_step *s, tok_work *w, size_t at, size_t n, whit_err *e) {
	tok_scan scan = {.p = w->a.b.p + at, .n = n};
	int64_t first = w->b.n, keep = first;
	size_t done = 0;
	int rc, before = 0;
	while ((rc = whit_scan_next(&scan, &s->find, &w->match, e)) > 0) {
		if (scan.start > done) add_span(s, &w->b, first, at + done, scan.start - done, 0, &before);
		add_span(s, &w->b, first, at + scan.start, scan.end - scan.start, 1, &before);
		done = scan.end;
	}
	if (n > done) add_span(s, &w->b, first, at + done, n - done, 0, &before);
	for (int64_t i = first; i < w->b.n; i++) /* empty matches took part, empty pieces do not stay */
		if (w->b.piece[i].n) w->b.piece[keep++] = w->b.piece[i];
	w->b.n = keep;
	return rc;
}

static void run_bytes(tok_work *w, const char *p, size_t n) {
	for (size_t i = 0; i < n; i++) whit_bytes_char(&w->b.b, whit_byte_to_char((uint8_t)p[i]));
}

/* One stretch that is all UTF-8, or any bytes for steps that do not mind. */
static int run_stretch(const tok_step *s, tok_work *w, size_t at, size_t n, whit_err *e) {
	const char *p = w->a.b.p + at;
	switch (s->kind) {
	case FORM:
		run_form(s, w, p, n);
		break;
	case LOWER:
		run_lower(w, p, n);
		break;
	case REPLACE:
		return run_replace(s, w, p, n, e);
	case SPLIT:
		return run_split(s, w, at, n, e);
	case BYTES:
		run_bytes(w, p, n);
		break;
	default:
		whit_bytes_add(&w->b.b, p, n);
	}
	return 0;
}

static int run_piece(const tok_step *s, tok_work *w, tok_piece piece, int start, whit_err *e) {
	const char *p = w->a.b.p + piece.at;
	int needs_utf8 = s->kind == FORM || s->kind == LOWER || s->find.re, rc = 0, valid = 1;
	size_t from = w->b.b.n;
	if (s->kind == PREPEND) whit_bytes_add(&w->b.b, s->text, s->n);
	if (s->kind == PREFIX && (start || !s->first_only) && !(piece.n >= s->n && !memcmp(p, s->text, s->n)))
		whit_bytes_add(&w->b.b, s->text, s->n);
	for (size_t i = 0, k; i < piece.n && !rc; i += k) {
		k = needs_utf8 ? whit_utf8_stretch(p + i, piece.n - i, &valid) : piece.n;
		if (valid)
			rc = run_stretch(s, w, piece.at + i, k, e);
		else if (s->kind == SPLIT)
			add_piece(&w->b, piece.at + i, k);
		else
			whit_bytes_add(&w->b.b, p + i, k);
	}
	if (s->kind != SPLIT && w->b.b.n > from) add_piece(&w->b, from, w->b.b.n - from);
	return rc;
}

int whit_cut(const tok_steps *steps, tok_work *w, int start, whit_err *e) {
	int rc;
	for (int k = 0; k < steps->n; k++) {
		const tok_step *s = &steps->v[k];
		w->b.b.n = 0;
		w->b.n = 0;
		for (int64_t i = 0; i < w->a.n; i++) {
			if (i % 4096 == 4095 && (rc = whit_interrupted(e))) return rc;
			if ((rc = run_piece(s, w, w->a.piece[i], start && i == 0, e))) return rc;
		}
		tok_text t = w->a;
		w->a = w->b;
		w->b = t;
		if (s->kind == SPLIT) { /* new pieces of the same bytes */
			w->b.b = w->a.b;
			w->a.b = t.b;
		}
	}
	return 0;
}

/* ---- reading ---- */

static tok_step *add_step(tok_steps *s, int kind) {
	if (s->n == s->room) {
		size_t old = (size_t)s->room * sizeof *s->v;
		s->room = s->room * 2 + 4;
		s->v = whit_realloc(s->v, old, (size_t)s->room * sizeof *s->v);
	}
	s->v[s->n] = (tok_step){.kind = kind};
	return &s->v[s->n++];
}

void whit_steps_free(tok_steps *s) {
	for (int i = 0; i < s->n; i++) whit_regex_free(s->v[i].find.re);
	whit_free(s->v);
	*s = (tok_steps){0};
}

static void set_text(tok_step *s, const char *text, whit_arena *mem) {
	s->text = whit_take_text(mem, text);
	s->n = strlen(text);
}

static void add_prefix(tok_steps *s, const char *text, int first_only, whit_arena *mem) {
	tok_step *t = add_step(s, PREFIX);
	set_text(t, text, mem);
	t->first_only = first_only;
}

static int add_split(tok_steps *s, const char *regex, int behavior, int invert, const char *where, whit_err *e) {
	tok_step *t = add_step(s, SPLIT);
	t->behavior = behavior;
	t->invert = invert;
	return whit_regex_new(&t->find.re, regex, where, e);
}

int whit_find_read(tok_find *f, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	const json_t *p;
	const char *text = NULL, *regex = NULL;
	int rc = whit_json_member(j, where, "pattern", 1, JSON_OBJECT, &p, e);
	if (!rc) rc = whit_json_text(p, where, "String", 0, &text, e);
	if (!rc) rc = whit_json_text(p, where, "Regex", 0, &regex, e);
	if (rc) return rc;
	if (!text == !regex)
		return whit_fail(e, WHIT_EINPUT, "%s: pattern has %s, need one of String and Regex", where,
		                 text ? "both" : "neither");
	if (regex) return whit_regex_new(&f->re, regex, where, e);
	if (!*text) return whit_fail(e, WHIT_EINPUT, "%s: pattern String is empty", where);
	f->text = whit_take_text(mem, text);
	f->n = strlen(text);
	return 0;
}

static int read_behavior(const json_t *j, const char *where, int required, int *out, whit_err *e) {
	const char *name = NULL;
	int rc = whit_json_text(j, where, "behavior", required, &name, e);
	if (rc || !name) return rc;
	for (*out = 0; *out < WHIT_COUNT(behavior_name); ++*out)
		if (!strcmp(name, behavior_name[*out])) return 0;
	return whit_fail(e, WHIT_EINPUT,
	                 "%s: behavior is %s, need Removed, Isolated, MergedWithPrevious, MergedWithNext "
	                 "or Contiguous",
	                 where, name);
}

static int read_split(tok_steps *s, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	tok_step *t = add_step(s, SPLIT);
	int rc = read_behavior(j, where, 1, &t->behavior, e);
	if (!rc) rc = whit_json_bool(j, where, "invert", 0, &t->invert, e);
	return rc ? rc : whit_find_read(&t->find, j, where, mem, e);
}

static int read_byte_level(tok_steps *s, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	int prefix = 1, regex = 1;
	int rc = whit_json_bool(j, where, "add_prefix_space", 0, &prefix, e);
	if (!rc) rc = whit_json_bool(j, where, "use_regex", 0, &regex, e);
	if (rc) return rc;
	if (prefix) add_prefix(s, " ", 0, mem);
	if (regex && (rc = add_split(s, TOK_GPT2, ISOLATED, 0, where, e))) return rc;
	add_step(s, BYTES);
	return 0;
}

static int read_metaspace(tok_steps *s, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	const char *mark = "", *scheme = "always";
	int split = 1, legacy = 1;
	uint32_t cp;
	int rc = whit_json_text(j, where, "replacement", 1, &mark, e);
	if (!rc) rc = whit_json_text(j, where, "prepend_scheme", 0, &scheme, e);
	if (!rc) rc = whit_json_bool(j, where, "add_prefix_space", 0, &legacy, e);
	if (!rc) rc = whit_json_bool(j, where, "split", 0, &split, e);
	if (rc) return rc;
	if (whit_utf8_char(mark, strlen(mark), &cp) != strlen(mark) || !*mark)
		return whit_fail(e, WHIT_EINPUT, "%s: replacement is \"%s\", need one character", where, mark);
	int first = !strcmp(scheme, "first"), never = !strcmp(scheme, "never") || !legacy;
	if (!first && !never && strcmp(scheme, "always"))
		return whit_fail(e, WHIT_EINPUT, "%s: prepend_scheme is %s, need always, first or never", where,
		                 scheme);
	tok_step *t = add_step(s, REPLACE);
	t->find = (tok_find){.text = " ", .n = 1};
	set_text(t, mark, mem);
	if (!never) add_prefix(s, mark, first, mem);
	if (!split) return 0;
	t = add_step(s, SPLIT);
	t->behavior = WITH_NEXT;
	t->find = (tok_find){.text = whit_take_text(mem, mark), .n = strlen(mark)};
	return 0;
}

/* The kind of j, its members for a Sequence (key) or NULL; 1: null, nothing to do. */
static int read_kind(const tok_steps *s, const json_t *j, const char *where, const char *key, const char **kind,
                     const json_t **list, whit_err *e) {
	*list = NULL;
	if (!j || json_is_null(j)) return 1;
	if (s->n >= MOST_STEPS) return whit_fail(e, WHIT_EINPUT, "%s: has more than %d steps", where, MOST_STEPS);
	int rc = whit_json_text(j, where, "type", 1, kind, e);
	if (!rc && !strcmp(*kind, "Sequence")) rc = whit_json_member(j, where, key, 1, JSON_ARRAY, list, e);
	return rc;
}

static int read_normalizer(tok_steps *s, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	static const struct {
		const char *name;
		int options;
	} forms[] = {
	        {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
	        {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
	        {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
	        {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
	};
	const char *kind, *text;
	const json_t *list, *item;
	size_t i;
	int rc = read_kind(s, j, where, "normalizers", &kind, &list, e);
	if (rc) return WHIT_MIN(rc, 0);
	json_array_foreach((json_t *)list, i, item) /* nothing if it is no Sequence */
	        if ((rc = read_normalizer(s, item, where, mem, e))) return rc;
	if (list) return 0;
	for (i = 0; i < (size_t)WHIT_COUNT(forms); i++)
		if (!strcmp(kind, forms[i].name)) {
			add_step(s, FORM)->form = forms[i].options;
			return 0;
		}
	if (!strcmp(kind, "Lowercase")) {
		add_step(s, LOWER);
		return 0;
	}
	if (!strcmp(kind, "Prepend")) {
		if (!(rc = whit_json_text(j, where, "prepend", 1, &text, e))) set_text(add_step(s, PREPEND), text, mem);
		return rc;
	}
	if (!strcmp(kind, "Replace")) {
		tok_step *t = add_step(s, REPLACE);
		if ((rc = whit_json_text(j, where, "content", 1, &text, e))) return rc;
		set_text(t, text, mem);
		return whit_find_read(&t->find, j, where, mem, e);
	}
	return whit_fail(e, WHIT_EINPUT,
	                 "%s: type is %s, known are NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace and "
	                 "Sequence",
	                 where, kind);
}

static int read_pretokenizer(tok_steps *s, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	const char *kind;
	const json_t *list, *item;
	size_t i;
	int rc = read_kind(s, j, where, "pretokenizers", &kind, &list, e);
	if (rc) return WHIT_MIN(rc, 0);
	json_array_foreach((json_t *)list, i, item) if ((rc = read_pretokenizer(s, item, where, mem, e))) return rc;
	if (list) return 0;
	if (!strcmp(kind, "Split")) return read_split(s, j, where, mem, e);
	if (!strcmp(kind, "ByteLevel")) return read_byte_level(s, j, where, mem, e);
	if (!strcmp(kind, "Metaspace")) return read_metaspace(s, j, where, mem, e);
	if (!strcmp(kind, "Digits")) {
		int each = 0;
		if ((rc = whit_json_bool(j, where, "individual_digits", 0, &each, e))) return rc;
		return add_split(s, "\\p{N}", each ? ISOLATED : CONTIGUOUS, 0, where, e);
	}
	if (!strcmp(kind, "Punctuation")) {
		int behavior = ISOLATED;
		if ((rc = read_behavior(j, where, 0, &behavior, e))) return rc;
		return add_split(s, "[!-/:-@\\[-`{-~\\p{P}]", behavior, 0, where, e);
	}
	if (!strcmp(kind, "Whitespace")) return add_split(s, "\\w+|[^\\w\\s]+", REMOVED, 1, where, e);
	if (!strcmp(kind, "WhitespaceSplit")) return add_split(s, "\\s", REMOVED, 0, where, e);
	return whit_fail(e, WHIT_EINPUT,
	                 "%s: type is %s, known are Split, ByteLevel, Metaspace, Digits, Punctuation, "
	                 "Whitespace, WhitespaceSplit and Sequence",
	                 where, kind);
}

static int read_steps(tok_steps *s, const json_t *j, const char *file, const char *key, whit_arena *mem, whit_err *e,
                      int (*read)(tok_steps *, const json_t *, const char *, whit_arena *, whit_err *)) {
	char *where = whit_format_text("%s: %s", file, key);
	int rc = read(s, j, where, mem, e);
	whit_free(where);
	return rc;
}

int whit_normalizer_read(tok_steps *s, const json_t *j, const char *file, whit_arena *mem, whit_err *e) {
	return read_steps(s, j, file, "normalizer", mem, e, read_normalizer);
}

int whit_pretokenizer_read(tok_steps *s, const json_t *j, const char *file, whit_arena *mem, whit_err *e) {
	return read_steps(s, j, file, "pre_tokenizer", mem, e, read_pretokenizer);
}
