/* Recipes: parsing, matching, printing. Knows names of tensors only as strings. */
#define _GNU_SOURCE
#include "calib/recipe.h"
#include "formats/codebook.h"
#include "host/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum { LINE_MAX_BYTES = 4096, BRACES_MAX = 256 };

/* ---- words: names of enumerated values ---- */

static const char *const scale_words[] = {"least_squares", "raw", "norm_corrected", "ip", NULL};
static const char *const density_words[] = {"gaussian", "beta", NULL};
static const char *const key_words[] = {"method", "rotation", "scale", "density", "seed", "when", NULL};
static const char *const class_words[] = {"@linear", "@embedding", "@head", NULL}; /* WHIT_CLASS_LINEAR - 1, ... */

static int word_find(const char *const *words, const char *s) {
	for (int i = 0; words[i]; i++)
		if (!strcmp(words[i], s)) return i;
	return -1;
}

const char *whit_scale_name(int rule) { return scale_words[rule]; }
int whit_scale_parse(const char *name) { return word_find(scale_words, name); }
const char *whit_density_name(int density) { return density_words[density]; }
int whit_density_parse(const char *name) { return word_find(density_words, name); }

/* The same of what is listed elsewhere. */
enum { TABLE_WORDS = 64 };
static void method_words(const char *out[TABLE_WORDS]) {
	int n = 0;
	for (; whit_methods[n] && n < TABLE_WORDS - 1; n++) out[n] = whit_methods[n]->name;
	out[n] = NULL;
}

static const int rotation_kinds[] = {WHIT_ROT_NONE, WHIT_ROT_HADAMARD, WHIT_ROT_HAAR_QR}; /* tq3 is only read */
static void rotation_words(const char *out[TABLE_WORDS]) {
	for (int i = 0; i < WHIT_COUNT(rotation_kinds); i++) out[i] = whit_rotation_kind_name(rotation_kinds[i]);
	out[WHIT_COUNT(rotation_kinds)] = NULL;
}

/* ---- globs ---- */

/* End of the [class] that begins at p, past its ']'; NULL if it does not end. A ']' right after '[' or '[!'
 * is a member. */
static const char *class_end(const char *p) {
	p++;
	if (*p == '!' || *p == '^') p++;
	if (*p == ']') p++;
	while (*p && *p != ']') p++;
	return *p ? p + 1 : NULL;
}

static int class_holds(const char *p, const char *end, unsigned char c) {
	int not = p[1] == '!' || p[1] == '^', in = 0;
	p += 1 + not ;
	for (end--; p < end; p++) {
		if (p + 2 < end && p[1] == '-') {
			in |= (unsigned char)p[0] <= c && c <= (unsigned char)p[2];
			p += 2;
		} else {
			in |= (unsigned char)*p == c;
		}
	}
	return in != not ;
}

/* A pattern without braces. Only the last star can need another try, so this takes pattern x name steps. */
static int glob_plain(const char *p, const char *s) {
	const char *star = NULL, *retry = NULL;
	while (*s) {
		const char *end = *p == '[' ? class_end(p) : p + 1;
		if (*p == '*') {
			star = ++p;
			retry = s;
		} else if (*p && (*p == '?' || (*p == '[' ? class_holds(p, end, (unsigned char)*s) : *p == *s))) {
			p = end;
			s++;
		} else if (star) {
			p = star;
			s = ++retry;
		} else {
			return 0;
		}
	}
	while (*p == '*') p++;
	return !*p;
}

/* The '}' that closes the '{' at p, or NULL. */
static const char *brace_end(const char *p) {
	for (int depth = 0; *p; p++) {
		if (*p == '[') {
			p = class_end(p) - 1;
		} else if (*p == '{') {
			depth++;
		} else if (*p == '}' && !--depth) {
			return p;
		}
	}
	return NULL;
}

/* Expands the first {a,b} of pattern p and goes on with each alternative; counts plain patterns in *n and
 * stops beyond BRACES_MAX. name NULL: only count. Returns 1 when name matches one. */
static int glob_braces(const char *p, const char *name, int *n) {
	const char *open = p;
	while (*open && *open != '{') open = *open == '[' ? class_end(open) : open + 1;
	if (!*open) {
		++*n;
		return name && glob_plain(p, name);
	}
	const char *close = brace_end(open), *from = open + 1;
	for (int depth = 0; *n <= BRACES_MAX;) {
		const char *to = from;
		for (; to < close && (depth || *to != ','); to++) {
			if (*to == '[')
				to = class_end(to) - 1;
			else
				depth += (*to == '{') - (*to == '}');
		}
		char *q = whit_format_text("%.*s%.*s%s", (int)(open - p), p, (int)(to - from), from, close + 1);
		int hit = glob_braces(q, name, n);
		whit_free(q);
		if (hit) return 1;
		if (to == close) return 0;
		from = to + 1;
	}
	return 0;
}

/* 0, or what is wrong with the pattern. Everything that matches later has passed here. */
static const char *glob_fault(const char *p) {
	int depth = 0, n = 0;
	for (const char *q = p; *q; q++) {
		if (*q == '[') {
			if (!(q = class_end(q))) return "has '[' without ']'";
			q--;
		}
		depth += (*q == '{') - (*q == '}');
		if (depth < 0) return "has '}' without '{'";
	}
	if (depth) return "has '{' without '}'";
	glob_braces(p, NULL, &n);
	return n > BRACES_MAX ? "has too many alternatives in braces" : NULL;
}

/* ---- conditions ---- */

/* "12" or "n/8" at *p, which moves past it; n layers. -1 = neither. */
static int64_t when_number(const char **p, int64_t n) {
	int divide = (*p)[0] == 'n' && (*p)[1] == '/', digits = 0;
	int64_t v = 0;
	*p += 2 * divide;
	for (; **p >= '0' && **p <= '9' && digits < 6; ++*p, digits++) v = 10 * v + (**p - '0');
	if (!digits || (divide && !v)) return -1;
	return divide ? n / v : v;
}

/* Whether the terms of a "when" hold for s; s NULL: whether they are terms at all. -1 = they are not. */
static int when_holds(const char *p, const whit_subject *s) {
	static const whit_subject any = {.arch = ""};
	static const char *const flag[] = {"more", "tied", "untied", "imatrix"};
	static const char *const var[] = {"layers", "layer", "gqa"}; /* the longer name first */
	const whit_subject *t = s ? s : &any;
	int64_t i = t->layer, n = t->layers, value[] = {n, i, t->gqa};
	int more = i >= 0 && (i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2);
	int state[] = {more, t->tied, !t->tied, t->imatrix}, all = 1;
	for (;; p++) {
		size_t len = strcspn(p, ",");
		int known = 0;
		for (int k = 0; k < WHIT_COUNT(flag) && !known; k++)
			if ((known = strlen(flag[k]) == len && !strncmp(p, flag[k], len))) {
				all &= state[k];
				p += len;
			}
		if (!known && !strncmp(p, "arch=", 5) && (known = len > 5)) {
			all &= strlen(t->arch) == len - 5 && !strncmp(p + 5, t->arch, len - 5);
			p += len;
		}
		for (int k = 0; k < WHIT_COUNT(var) && !known; k++) {
			if (strncmp(p, var[k], strlen(var[k]))) continue;
			p += strlen(var[k]);
			int op = *p == '<' ? 0 : p[0] == '>' && p[1] == '=' ? 1 : *p == '=' ? 2 : -1;
			if (op < 0) return -1;
			p += 1 + (op == 1);
			int64_t x = when_number(&p, n);
			if (x < 0) return -1;
			known = 1;
			all &= value[k] >= 0 && (op == 0 ? value[k] < x : op == 1 ? value[k] >= x : value[k] == x);
		}
		if (!known || (*p && *p != ',')) return -1;
		if (!*p) return all;
	}
}

/* ---- parsing ---- */

typedef struct line_at {
	const char *path;
	int line;
} line_at;

static int fail_at(whit_err *e, const line_at *at, const char *what, const char *is, const char *need) {
	return whit_fail(e, WHIT_EUSAGE, "%s:%d: %s: is '%s', need %s", at->path, at->line, what, is, need);
}

static int fail_near(whit_err *e, const line_at *at, const char *what, const char *is, const char *const *words) {
	char known[512] = "";
	int n = 0;
	for (; words[n]; n++) {
		size_t len = strlen(known);
		snprintf(known + len, sizeof known - len, "%s%s", n ? ", " : "", words[n]);
	}
	const char *near = whit_nearest_name(is, words, n);
	return whit_fail(e, WHIT_EUSAGE, "%s:%d: %s: is '%s', need one of %s%s%s", at->path, at->line, what, is, known,
	                 near ? "; did you mean " : "", near ? near : "");
}

static int parse_seed(whit_rule *u, const char *value, const line_at *at, whit_err *e) {
	char *end;
	errno = 0;
	long long v = strtoll(value, &end, 10);
	if (errno || *end || end == value || v < 0 || *value == '+') /* a manifest holds seeds below 2^63 */
		return fail_at(e, at, "seed", value, "a number 0..9223372036854775807");
	u->seed = (uint64_t)v;
	return 0;
}

/* One key=value of a line. */
static int parse_option(whit_rule *u, char *word, const line_at *at, whit_err *e) {
	const char *words[TABLE_WORDS];
	char *value = strchr(word, '=');
	if (!value) return fail_at(e, at, "option", word, "key=value");
	*value++ = 0;
	switch (word_find(key_words, word)) {
	case 0: {
		whit_err unknown;
		method_words(words);
		u->method = whit_method_find(value, &unknown);
		return u->method ? 0 : fail_near(e, at, "method", value, words);
	}
	case 1:
		rotation_words(words);
		u->rotation = word_find(words, value) < 0 ? -1 : whit_rotation_kind_parse(value);
		return u->rotation >= 0 ? 0 : fail_near(e, at, "rotation", value, words);
	case 2:
		u->rule = whit_scale_parse(value);
		return u->rule >= 0 ? 0 : fail_near(e, at, "scale", value, scale_words);
	case 3:
		u->density = whit_density_parse(value);
		return u->density >= 0 ? 0 : fail_near(e, at, "density", value, density_words);
	case 4:
		return parse_seed(u, value, at, e);
	case 5:
		if (when_holds(value, NULL) < 0)
			return fail_at(e, at, "when", value,
			               "terms like more, layer<n/8, layers=80, gqa>=4, arch=llama, tied, untied, "
			               "imatrix with commas between");
		whit_free(u->when);
		u->when = whit_strdup(value);
		return 0;
	}
	return fail_near(e, at, "key", word, key_words);
}

/* Fills in what neither line nor base said, and drops what does not apply, so that equal rules look equal. */
static int finish_rule(whit_rule *u, whit_err *e) {
	char name[32];
	if (!u->method)
		return whit_fail(e, WHIT_EUSAGE, "method: is missing, need one in the line or for the whole command");
	whit_spec_name(&u->spec, name);
	if (!u->method->fits(&u->spec))
		return whit_fail(e, WHIT_EUSAGE, "method %s: does not fit format %s", u->method->name, name);
	if (u->rotation < 0) u->rotation = u->method->rotation;
	if (!u->spec.bits) u->rotation = WHIT_ROT_NONE;
	if (!u->spec.fmt->needs_codebook) {
		u->rule = WHIT_SCALE_LS;
		u->density = WHIT_DENSITY_GAUSSIAN;
	}
	return 0;
}

/* Splits line in place at blanks; returns the number of words, or -1 beyond max. */
static int split_words(char *line, char *word[], int max) {
	int n = 0;
	char *rest;
	for (char *p = strtok_r(line, " \t\r", &rest); p; p = strtok_r(NULL, " \t\r", &rest)) {
		if (n == max) return -1;
		word[n++] = p;
	}
	return n;
}

static int parse_rule(whit_rule *u, char *word[], int n, const line_at *at, whit_err *e) {
	const char *fault;
	u->line = at->line;
	if (*word[0] == '@' && word_find(class_words, word[0]) < 0)
		return fail_near(e, at, "pattern", word[0], class_words);
	if ((fault = glob_fault(word[0])))
		return whit_fail(e, WHIT_EUSAGE, "%s:%d: pattern '%s' %s", at->path, at->line, word[0], fault);
	if (n < 2) return fail_at(e, at, "line", word[0], "'pattern format [key=value ...]'");
	u->keep = !strcmp(word[1], "keep");
	if (u->keep && n > 2 && (n > 3 || strncmp(word[2], "when=", 5)))
		return fail_at(e, at, "option of 'keep'", word[2], "none but when=");
	if (!u->keep && whit_spec_parse(word[1], &u->spec, e)) return whit_fail_in(e, "%s:%d", at->path, at->line);

	int given = 0;
	for (int i = 2; i < n; i++) {
		int rc = parse_option(u, word[i], at, e);
		if (rc) return rc;
		int key = 1 << word_find(key_words, word[i]); /* parse_option cut the word at '=' */
		if (given & key) return fail_at(e, at, "key", word[i], "each key once");
		given |= key;
		if ((key == 1 << 2 || key == 1 << 3) && !u->spec.fmt->needs_codebook)
			return fail_at(e, at, "key", word[i], "a format with a codebook for it");
		if (key == 1 << 1 && !u->spec.bits && !u->spec.fmt->record && !u->spec.fmt->block)
			return fail_at(e, at, "key", word[i], "a format of codes for it, not plain floats");
	}
	if (!u->keep && finish_rule(u, e)) return whit_fail_in(e, "%s:%d", at->path, at->line);
	u->pattern = whit_strdup(word[0]);
	return 0;
}

static whit_rule *add_rule(whit_recipe *r) {
	r->rule = whit_realloc(r->rule, (size_t)r->n * sizeof *r->rule, (size_t)(r->n + 1) * sizeof *r->rule);
	whit_rule *u = &r->rule[r->n++];
	*u = r->base;
	u->pattern = u->when = NULL;
	return u;
}

int whit_recipe_parse(whit_recipe *r, const char *text, size_t n, const char *path, const whit_rule *base,
                      whit_err *e) {
	memset(r, 0, sizeof *r);
	r->path = whit_strdup(path);
	r->base = *base;
	line_at at = {r->path, 0};
	int rc = 0;
	for (size_t i = 0; i < n && !rc;) {
		char line[LINE_MAX_BYTES], *word[2 + 8];
		const char *end = memchr(text + i, '\n', n - i);
		size_t len = end ? (size_t)(end - (text + i)) : n - i;
		at.line++;
		if (len >= sizeof line || memchr(text + i, 0, len)) {
			rc = fail_at(e, &at, "line", len >= sizeof line ? "longer than 4095 bytes" : "binary", "text");
			break;
		}
		memcpy(line, text + i, len);
		line[len] = 0;
		i += len + 1;
		line[strcspn(line, "#")] = 0;
		int words = split_words(line, word, WHIT_COUNT(word));
		if (words < 0)
			rc = fail_at(e, &at, "line", "longer than 10 words", "'pattern format [key=value ...]'");
		else if (words)
			rc = parse_rule(add_rule(r), word, words, &at, e);
	}
	if (!rc && !r->n)
		rc = whit_fail(e, WHIT_EUSAGE, "%s: is empty, need at least one line 'pattern format [key=value ...]'",
		               path);
	if (rc) whit_recipe_free(r);
	return rc;
}

int whit_recipe_add_uniform(whit_recipe *r, int with_embeddings, whit_err *e) {
	for (int i = 0; i < 2; i++) {
		whit_rule *u = add_rule(r);
		u->pattern = whit_strdup(class_words[i]);
		u->keep = i == 1 && !with_embeddings;
		if (!u->keep && finish_rule(u, e)) return e->code;
	}
	return 0;
}

int whit_recipe_uniform(whit_recipe *r, const whit_rule *base, int with_embeddings, whit_err *e) {
	memset(r, 0, sizeof *r);
	r->path = whit_strdup("options");
	r->base = *base;
	if (whit_recipe_add_uniform(r, with_embeddings, e)) whit_recipe_free(r);
	return r->n ? 0 : e->code;
}

int whit_recipe_prepend(whit_recipe *r, const char *pattern, const char *format, whit_err *e) {
	whit_rule first = r->base;
	int rc = whit_spec_parse(format, &first.spec, e);
	if (!rc) rc = finish_rule(&first, e);
	if (rc) return rc;
	first.pattern = whit_strdup(pattern);
	add_rule(r);
	memmove(r->rule + 1, r->rule, (size_t)(r->n - 1) * sizeof *r->rule);
	r->rule[0] = first;
	return 0;
}

void whit_recipe_join(whit_recipe *r, whit_recipe *rest) {
	for (int i = 0; i < rest->n; i++) {
		whit_rule *u = add_rule(r);
		*u = rest->rule[i];
		u->line = 0;
		rest->rule[i].pattern = rest->rule[i].when = NULL;
	}
	whit_recipe_free(rest);
}

const whit_preset *whit_preset_find(const char *name) {
	char *mixed = whit_format_text("%s_M", name);
	const whit_preset *found = NULL;
	for (int i = 0; whit_presets[i].name && !found; i++)
		if (!strcasecmp(whit_presets[i].name, name) || !strcasecmp(whit_presets[i].name, mixed))
			found = &whit_presets[i];
	whit_free(mixed);
	return found;
}

/* ---- matching ---- */

static int rule_matches(const whit_rule *u, const whit_subject *s) {
	int n = 0, word = word_find(class_words, u->pattern) + 1;
	int named = word ? word == s->cls || (word == WHIT_CLASS_EMBEDDING && s->cls == WHIT_CLASS_HEAD)
	                 : glob_braces(u->pattern, s->name, &n);
	return named && (!u->when || when_holds(u->when, s));
}

whit_rule *whit_recipe_match(whit_recipe *r, const whit_subject *s, whit_err *e) {
	whit_rule *hit = NULL;
	e->code = 0;
	for (int i = 0; i < r->n; i++) {
		whit_rule *u = &r->rule[i];
		if (!rule_matches(u, s)) continue;
		if (s->cls == WHIT_CLASS_NONE && !u->keep) {
			u->unfit++;
		} else if (hit) {
			u->shadowed++;
			u->yielded += hit->when != NULL;
		} else {
			hit = u;
			u->hits++;
		}
	}
	if (!hit && s->cls != WHIT_CLASS_NONE)
		whit_fail(e, WHIT_EUSAGE,
		          "%s: no line matches tensor %s; end with '@linear FORMAT' and '@embedding keep'", r->path,
		          s->name);
	return hit;
}

int whit_recipe_idle(const whit_recipe *r, whit_err *e) {
	for (int i = 0; i < r->n; i++) {
		const whit_rule *u = &r->rule[i];
		if (u->hits || !u->line || u->when || u->yielded) continue;
		const char *why = u->shadowed ? "matches only tensors that earlier lines decide"
		                  : u->unfit ? "matches only tensors that are not quantized (norms, biases, tied heads)"
		                             : "matches no tensor";
		return whit_fail(e, WHIT_EUSAGE, "%s:%d: pattern '%s' %s", r->path, u->line, u->pattern, why);
	}
	return 0;
}

/* ---- printing ---- */

char *whit_recipe_text(const whit_recipe *r) {
	char *all = whit_strdup("");
	for (int i = 0; i < r->n; i++) {
		const whit_rule *u = &r->rule[i];
		char line[LINE_MAX_BYTES + 512], name[32];
		if (!u->hits && !u->line) continue;
		int n = snprintf(line, sizeof line, "%s keep", u->pattern);
		if (!u->keep) {
			whit_spec_name(&u->spec, name);
			n = snprintf(line, sizeof line, "%s %s method=%s rotation=%s", u->pattern, name,
			             u->method->name, whit_rotation_kind_name(u->rotation));
			if (u->spec.fmt->needs_codebook)
				n += snprintf(line + n, sizeof line - (size_t)n, " scale=%s density=%s",
				              whit_scale_name(u->rule), whit_density_name(u->density));
			snprintf(line + n, sizeof line - (size_t)n, " seed=%" PRIu64, u->seed);
		}
		char *more = whit_format_text("%s%s%s%s\n", all, line, u->when ? " when=" : "", u->when ? u->when : "");
		whit_free(all);
		all = more;
	}
	return all;
}

void whit_recipe_free(whit_recipe *r) {
	for (int i = 0; i < r->n; i++) {
		whit_free(r->rule[i].pattern);
		whit_free(r->rule[i].when);
	}
	whit_free(r->rule);
	whit_free(r->path);
	memset(r, 0, sizeof *r);
}
