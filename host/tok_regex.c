/* tok_regex: tokenizer.json's regular expressions, written for Oniguruma in Ruby syntax, run by PCRE2 with JIT.
 * The pattern is rewritten where the two mean different things and refused where no rewriting is known:
 *
 *   Oniguruma                          PCRE2 would                     here
 *   \s is White_Space                  add U+180E                      spelled out
 *   \w is Alphabetic M Nd Pc           take L, N and _                 spelled out; \b built on it
 *   \h is a hex digit, \v is U+000B    take blank, vertical space      spelled out
 *   \p{Han} is the script              take script extensions          \p{sc:Han}
 *   x{1,3}+ is (?:x{1,3})+             be possessive                   (?:...)
 *   x{,3} is x{0,3}                    take it as text                 {0,3}
 *   (?m) lets . match newline          let ^ match at lines            (?s); ^ and $ always match at lines
 *   [a[b]] and [a&&b] are sets         take [ and & as text            refused
 *
 * Left: (?i) folds one character to one (Oniguruma also matches "ss" with U+00DF), and characters assigned
 * after Unicode 14 (PCRE2 10.42) have no category. \p, case and everything else were compared over all code
 * points (tests/golden/make_tokenizer.py). */
#define _GNU_SOURCE /* memmem */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include "host/tok.h"

/* Backtracking steps one match may take. A real pattern takes a few per character of its match. */
enum { MATCH_LIMIT = 50000000, JIT_STACK = 64 << 20, POLL_EVERY = 4096 };

struct tok_regex {
	pcre2_code *code;
	char *where;
};

#define SPACE "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                                      \
	"\\x00-\\x08\\x0e-\\x1f\\x21-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"                       \
	"\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD_IN "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD WORD_IN "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" /* outside classes Oniguruma's Latin-1 table adds these */
#define HEX "0-9a-fA-F"

/* Escapes that need other words: outside a class, inside one (NULL: refused there). */
static const struct {
	char c;
	const char *outside, *inside;
} escape[] = {
        {'s', "[" SPACE "]", SPACE},
        {'S', "[^" SPACE "]", NOT_SPACE},
        {'w', "[" WORD "]", WORD_IN},
        {'W', "[^" WORD "]", NULL},
        {'h', "[" HEX "]", HEX},
        {'H', "[^" HEX "]", NULL},
        {'v', "\\x0b", "\\x0b"},
        {'b', "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))", "\\x08"},
        {'B', "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))", NULL},
        {'A', "\\A", NULL},
        {'Z', "\\Z", NULL},
        {'z', "\\z", NULL},
        {'d', "\\d", "\\d"},
        {'D', "\\D", "\\D"},
        {'n', "\\n", "\\n"},
        {'r', "\\r", "\\r"},
        {'t', "\\t", "\\t"},
        {'f', "\\f", "\\f"},
        {'a', "\\a", "\\a"},
        {'e', "\\e", "\\e"},
};

typedef struct rewrite {
	const char *p; /* what is left of the pattern, NUL-terminated */
	tok_bytes out;
	const char *why; /* set when refused */
	size_t *open;    /* where each open group began in out */
	int depth, room;
	size_t atom; /* where the last thing that a quantifier can follow began; NONE: nothing */
} rewrite;
#define NONE SIZE_MAX

static void put(rewrite *w, const char *s) { whit_bytes_add(&w->out, s, strlen(s)); }

/* Whether PCRE2 knows \p{sc:NAME}. */
static int is_script(const char *name, size_t n) {
	char t[64];
	int error;
	PCRE2_SIZE at;
	snprintf(t, sizeof t, "\\p{sc:%.*s}", (int)n, name);
	pcre2_code *c = pcre2_compile((PCRE2_SPTR)t, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
	pcre2_code_free(c);
	return c != NULL;
}

/* \p{...} and \P{...}; p is behind the letter. */
static void rewrite_property(rewrite *w, char letter) {
	const char *end = *w->p == '{' ? strchr(w->p, '}') : NULL;
	size_t n = end ? (size_t)(end - w->p - 1) : 0;
	const char *name = w->p + 1;
	if (!end || n == 0 || n > 40) {
		w->why = "\\p without a {property}";
		return;
	}
	int negated = *name == '^';
	if (negated) name++, n--;
	char t[64];
	snprintf(t, sizeof t, "\\%c{%s%s%.*s}", letter, negated ? "^" : "", n > 2 && is_script(name, n) ? "sc:" : "",
	         (int)n, name);
	put(w, t);
	w->p = end + 1;
}

/* \xHH, \x{H...}, \uHHHH; p is behind the letter. */
static void rewrite_code(rewrite *w, char letter) {
	char digits[9] = "", t[16];
	size_t n = 0, most = letter == 'u' ? 4 : 2;
	int braced = letter == 'x' && *w->p == '{';
	if (braced) w->p++, most = 8;
	while (n < most && isxdigit((unsigned char)*w->p)) digits[n++] = *w->p++;
	unsigned long cp = strtoul(digits, NULL, 16);
	if (braced ? *w->p != '}' || n == 0 : n != most)
		w->why = "a malformed \\x or \\u";
	else if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
		w->why = "a \\x or \\u that is no character";
	else if (letter == 'x' && !braced && cp >= 0x80)
		w->why = "\\xHH above 7f (a raw byte)";
	snprintf(t, sizeof t, "\\x{%lx}", cp);
	put(w, t);
	if (braced && !w->why) w->p++;
}

/* One escape; p is behind the backslash. */
static void rewrite_escape(rewrite *w, int inside) {
	char c = *w->p;
	if (c) w->p++;
	for (int64_t i = 0; i < WHIT_COUNT(escape); i++) {
		const char *t = inside ? escape[i].inside : escape[i].outside;
		if (escape[i].c != c) continue;
		if (t)
			put(w, t);
		else
			w->why = "\\W, \\H, \\B, \\A, \\Z or \\z inside a class";
		return;
	}
	if (c == 'p' || c == 'P')
		rewrite_property(w, c);
	else if (c == 'x' || c == 'u')
		rewrite_code(w, c);
	else if (ispunct((unsigned char)c) || c == ' ')
		whit_bytes_add(&w->out, w->p - 2, 2);
	else
		w->why = c ? "an escape that is not known here" : "a \\ at its end";
}

/* A class; p is behind its [. */
static void rewrite_class(rewrite *w) {
	put(w, "[");
	if (*w->p == '^') put(w, "^"), w->p++;
	if (*w->p == ']') put(w, "\\]"), w->p++;
	while (*w->p && *w->p != ']' && !w->why) {
		char c = *w->p++;
		if (c == '\\')
			rewrite_escape(w, 1);
		else if (c == '[')
			w->why = "a class inside a class";
		else if (c == '&' && *w->p == '&')
			w->why = "&& inside a class";
		else
			whit_bytes_add(&w->out, &c, 1);
	}
	if (!w->why && !*w->p) w->why = "a class without its ]";
	if (!w->why) put(w, "]"), w->p++;
}

/* The options of (?imx-imx) or (?imx-imx:...); p is behind the ?. */
static void rewrite_options(rewrite *w, int first) {
	put(w, "(?");
	for (; *w->p && !strchr(":)", *w->p); w->p++) {
		if (*w->p == 'm')
			put(w, "s");
		else if (*w->p == 'i' || *w->p == '-')
			whit_bytes_add(&w->out, w->p, 1);
		else
			w->why = "a group or option that is not known here";
		if (w->why) return;
	}
	/* Oniguruma ends such an option at the group's end and takes later alternatives into it. */
	if (*w->p == ')' && !first) w->why = "an option that does not begin its group";
	if (!*w->p) w->why = "a group without its )";
}

/* What follows a ( : the group's kind, and the group is open; p is behind the (. */
static void rewrite_open(rewrite *w) {
	static const char *const kinds[] = {"?:", "?=", "?!", "?>", "?<=", "?<!"};
	size_t at = w->out.n;
	/* At the start of the pattern or of a group nothing was taken since. */
	int first = w->atom == NONE && (at == 0 || w->out.p[at - 1] == '(' || w->out.p[at - 1] == ':');
	int k = 0;
	while (k < WHIT_COUNT(kinds) && strncmp(w->p, kinds[k], strlen(kinds[k]))) k++;
	if (k < WHIT_COUNT(kinds)) {
		put(w, "(");
		put(w, kinds[k]);
		w->p += strlen(kinds[k]);
	} else if (w->p[0] == '?' && w->p[1] == '<') { /* a name: nothing refers to it */
		put(w, "(?:");
		w->p += strcspn(w->p, ">");
		if (*w->p) w->p++;
	} else if (w->p[0] == '?') {
		w->p++;
		rewrite_options(w, first);
		if (w->why) return;
		whit_bytes_add(&w->out, w->p, 1);
		if (*w->p++ == ')') return; /* holds until the group around it ends */
	} else {
		put(w, "(?:");
	}
	if (w->depth == w->room) {
		size_t old = (size_t)w->room * sizeof *w->open;
		w->room = w->room * 2 + 16;
		w->open = whit_realloc(w->open, old, (size_t)w->room * sizeof *w->open);
	}
	w->open[w->depth++] = at;
	w->atom = NONE;
}

/* {n}, {n,}, {,n}, {n,m}: 1 and p behind it, or 0: the brace is text. p is behind the {. */
static int rewrite_interval(rewrite *w) {
	char low[8] = "", high[8] = "";
	const char *p = w->p;
	size_t n = strspn(p, "0123456789"), m = 0;
	int comma = p[n] == ',';
	if (comma) m = strspn(p + n + 1, "0123456789");
	if (p[n + comma + m] != '}' || n + m == 0) return 0;
	if (n > 7 || m > 7) w->why = "a repeat count that is too large";
	if (w->atom == NONE) w->why = "a repeat of nothing or of a repeat";
	if (w->why) return 1;
	memcpy(low, p, n);
	memcpy(high, p + n + 1, m);
	w->p += n + comma + m + 1;
	if (!comma && *w->p == '?') w->why = "{n}?";
	char t[32];
	snprintf(t, sizeof t, "{%s%s%s}", n ? low : "0", comma ? "," : "", high);
	/* A further * or + repeats the whole in Ruby; so it gets a group of its own. */
	if (*w->p == '+' || *w->p == '*') {
		tok_bytes tail = {0};
		whit_bytes_add(&tail, w->out.p + w->atom, w->out.n - w->atom);
		w->out.n = w->atom;
		put(w, "(?:");
		whit_bytes_add(&w->out, tail.p, tail.n);
		put(w, t);
		put(w, ")");
		whit_bytes_free(&tail);
		return 1;
	}
	put(w, t);
	if (*w->p == '?') put(w, "?"), w->p++;
	w->atom = NONE;
	return 1;
}

/* *, + or ?, with a following ? (lazy) or + (possessive). */
static void rewrite_repeat(rewrite *w) {
	whit_bytes_add(&w->out, w->p++, 1);
	if (*w->p == '?' || *w->p == '+') whit_bytes_add(&w->out, w->p++, 1);
	w->atom = NONE;
}

static void rewrite_pattern(rewrite *w) {
	w->atom = NONE;
	while (*w->p && !w->why) {
		char c = *w->p;
		size_t at = w->out.n;
		if (strchr("*+?", c)) {
			if (w->atom == NONE)
				w->why = "a repeat of nothing or of a repeat";
			else
				rewrite_repeat(w);
			continue;
		}
		w->p++;
		if (c == '{' && rewrite_interval(w)) continue;
		if (c == '\\')
			rewrite_escape(w, 0);
		else if (c == '[')
			rewrite_class(w);
		else if (c == '(') {
			rewrite_open(w);
			continue;
		} else if (c == ')') {
			if (w->depth == 0)
				w->why = "a ) without its (";
			else
				at = w->open[--w->depth];
			put(w, ")");
		} else if (c == '{')
			put(w, "\\{");
		else {
			size_t n = 1;
			while ((w->p[n - 1] & 0xc0) == 0x80) n++; /* the rest of a character */
			whit_bytes_add(&w->out, w->p - 1, n);
			w->p += n - 1;
		}
		w->atom = c == '|' || c == '^' ? NONE : at;
	}
	if (!w->why && w->depth) w->why = "a ( without its )";
}

int whit_regex_new(tok_regex **r, const char *pattern, const char *where, whit_err *e) {
	rewrite w = {.p = pattern};
	int error, rc = 0;
	PCRE2_SIZE at;
	*r = NULL;
	rewrite_pattern(&w);
	if (w.why) {
		rc = whit_fail(e, WHIT_EINPUT, "%s: regular expression has %s at byte %zu: %.200s", where, w.why,
		               (size_t)(w.p - pattern), pattern);
		goto out;
	}
	pcre2_compile_context *c = pcre2_compile_context_create(NULL);
	if (c) {
		pcre2_set_newline(c, PCRE2_NEWLINE_LF);
		pcre2_set_max_pattern_length(c, 1 << 16);
	}
	pcre2_code *code =
	        pcre2_compile((PCRE2_SPTR)w.out.p, w.out.n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &at, c);
	pcre2_compile_context_free(c);
	if (!code) {
		char text[160] = "";
		pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
		rc = whit_fail(e, WHIT_EINPUT, "%s: regular expression: %s: %.200s", where, text, pattern);
		goto out;
	}
	/* Where the machine forbids JIT, pcre2_match interprets: slower, the same matches. */
	pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
	*r = whit_alloc(sizeof **r);
	(*r)->code = code;
	(*r)->where = whit_strdup(where);
out:
	whit_bytes_free(&w.out);
	whit_free(w.open);
	return rc;
}

void whit_regex_free(tok_regex *r) {
	if (!r) return;
	pcre2_code_free(r->code);
	whit_free(r->where);
	whit_free(r);
}

void whit_matcher_free(tok_matcher *m) {
	pcre2_match_data_free(m->data);
	pcre2_match_context_free(m->context);
	if (m->stack) pcre2_jit_stack_free(m->stack);
	*m = (tok_matcher){0};
}

static int matcher_ready(tok_matcher *m, whit_err *e) {
	if (m->data) return 0;
	m->data = pcre2_match_data_create(1, NULL);
	m->context = pcre2_match_context_create(NULL);
	m->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK, NULL);
	if (!m->data || !m->context || !m->stack) return whit_fail(e, WHIT_ERESOURCE, "PCRE2: no memory for matching");
	pcre2_set_match_limit(m->context, MATCH_LIMIT);
	pcre2_jit_stack_assign(m->context, NULL, m->stack);
	return 0;
}

int whit_scan_plain(tok_scan *s, const char *text, size_t n) {
	const char *hit = s->n - s->at < n ? NULL : memmem(s->p + s->at, s->n - s->at, text, n);
	if (!hit) return 0;
	s->start = (size_t)(hit - s->p);
	s->at = s->end = s->start + n;
	return 1;
}

int whit_scan_next(tok_scan *s, const tok_find *f, tok_matcher *m, whit_err *e) {
	int rc;
	if (++m->count % POLL_EVERY == 0 && (rc = whit_interrupted(e))) return rc;
	if (!f->re) return whit_scan_plain(s, f->text, f->n);
	if ((rc = matcher_ready(m, e))) return rc;
	for (;;) {
		rc = pcre2_match(f->re->code, (PCRE2_SPTR)s->p, s->n, s->at, PCRE2_NO_UTF_CHECK, m->data, m->context);
		if (rc == PCRE2_ERROR_NOMATCH) return 0;
		if (rc < 0) {
			char text[160] = "";
			pcre2_get_error_message(rc, (PCRE2_UCHAR *)text, sizeof text);
			return whit_fail(e, WHIT_EINPUT, "%s: regular expression on %zu bytes of text: %s",
			                 f->re->where, s->n, text);
		}
		const PCRE2_SIZE *o = pcre2_get_ovector_pointer(m->data);
		int again = o[0] == o[1] && s->any && s->end == o[1];
		s->start = o[0];
		s->at = s->end = o[1];
		s->any = 1;
		if (!again) return 1;
		uint32_t cp;
		if (s->at == s->n) return 0;
		s->at += whit_utf8_char(s->p + s->at, s->n - s->at, &cp);
	}
}
