/* tok_decode: ids to bytes, as the file's "decoder" says: a list of steps over the tokens' texts. Bytes that
 * form no character come out as they are, so that a stream can be decoded token by token. */
#include <stdlib.h>
#include "host/tok.h"

enum { BYTE_LEVEL, REPLACE, FALLBACK, FUSE, STRIP, METASPACE };

/* ---- running ---- */

typedef struct part {
	size_t at, n;
	int added, byte; /* an added token; bytes that byte fallback gave */
} part;
typedef struct parts {
	tok_bytes b;
	part *v;
	int64_t n, room;
} parts;

static part *add_part(parts *t, part p) {
	if (t->n == t->room) {
		size_t old = (size_t)t->room * sizeof *t->v;
		t->room = t->room * 2 + 16;
		t->v = whit_realloc(t->v, old, (size_t)t->room * sizeof *t->v);
	}
	t->v[t->n] = p;
	return &t->v[t->n++];
}

/* A token's bytes, or -1 if it has a character outside the alphabet (then its text stands for itself). */
static int undo_bytes(tok_bytes *out, const char *p, size_t n) {
	size_t from = out->n;
	uint32_t cp;
	for (size_t i = 0, k; i < n; i += k) {
		int byte = (k = whit_utf8_char(p + i, n - i, &cp)) ? whit_char_to_byte(cp) : -1;
		if (byte < 0) {
			out->n = from;
			return -1;
		}
		char c = (char)byte;
		whit_bytes_add(out, &c, 1);
	}
	return 0;
}

static void undo_replace(tok_bytes *out, const tok_undo *u, const char *p, size_t n) {
	tok_scan s = {.p = p, .n = n};
	size_t done = 0;
	while (whit_scan_plain(&s, u->from, u->n_from)) {
		whit_bytes_add(out, p + done, s.start - done);
		whit_bytes_add(out, u->to, u->n_to);
		done = s.end;
	}
	whit_bytes_add(out, p + done, n - done);
}

int whit_named_byte(const char *p, size_t n) {
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	if (n != 6 || memcmp(p, "<0x", 3) || p[5] != '>') return -1;
	const char *h = memchr(digits, p[3], 32), *l = memchr(digits, p[4], 32);
	return h && l ? (int)((h - digits) % 16 * 16 + (l - digits) % 16) : -1;
}

static void undo_strip(tok_bytes *out, const tok_undo *u, const char *p, size_t n) {
	for (int64_t k = 0; k < u->left && n >= u->n_from && !memcmp(p, u->from, u->n_from); k++)
		p += u->n_from, n -= u->n_from;
	for (int64_t k = 0; k < u->right && n >= u->n_from && !memcmp(p + n - u->n_from, u->from, u->n_from); k++)
		n -= u->n_from;
	whit_bytes_add(out, p, n);
}

static void undo_one(const tok_undo *u, const parts *a, int64_t i, parts *b) {
	part t = a->v[i];
	const char *p = a->b.p + t.at;
	int byte = u->kind == FALLBACK ? whit_named_byte(p, t.n) : -1;
	int joins = u->kind == FUSE ? i > 0 : byte >= 0 && b->n && b->v[b->n - 1].byte;
	part *d = joins ? &b->v[b->n - 1] : add_part(b, (part){b->b.n, 0, t.added, byte >= 0});
	if (u->kind == BYTE_LEVEL && !t.added && undo_bytes(&b->b, p, t.n) == 0) {
		/* written */
	} else if (u->kind == REPLACE) {
		undo_replace(&b->b, u, p, t.n);
	} else if (byte >= 0) {
		char c = (char)byte;
		whit_bytes_add(&b->b, &c, 1);
	} else if (u->kind == STRIP) {
		undo_strip(&b->b, u, p, t.n);
	} else if (u->kind == METASPACE) {
		tok_undo first = {
		        .from = u->from, .n_from = u->n_from, .to = u->to, .n_to = i == 0 && u->left ? 0 : u->n_to};
		undo_replace(&b->b, &first, p, t.n);
	} else {
		whit_bytes_add(&b->b, p, t.n);
	}
	d->n = b->b.n - d->at;
}

char *whit_undo_run(const tok_decoder *d, const tok_bpe *b, const int32_t *ids, int64_t n, int skip_special,
                    size_t *len) {
	parts x = {0}, y = {0};
	for (int64_t i = 0; i < n; i++) {
		if (ids[i] < 0 || ids[i] >= b->n_word || !b->word[ids[i]].p) continue;
		const tok_word *w = &b->word[ids[i]];
		if (skip_special && w->special) continue;
		if (d->none && x.n) whit_bytes_add(&x.b, " ", 1);
		add_part(&x, (part){x.b.n, w->n, w->added, 0});
		whit_bytes_add(&x.b, w->p, w->n);
	}
	for (int k = 0; k < d->n; k++) {
		y.n = 0;
		y.b.n = 0;
		for (int64_t i = 0; i < x.n; i++) undo_one(&d->v[k], &x, i, &y);
		parts t = x;
		x = y;
		y = t;
	}
	*len = x.b.n;
	whit_bytes_add(&x.b, "", 1);
	whit_bytes_free(&y.b);
	whit_free(x.v);
	whit_free(y.v);
	return x.b.p;
}

/* ---- reading ---- */

static tok_undo *add_undo(tok_decoder *d, int kind) {
	if (d->n == d->room) {
		size_t old = (size_t)d->room * sizeof *d->v;
		d->room = d->room * 2 + 4;
		d->v = whit_realloc(d->v, old, (size_t)d->room * sizeof *d->v);
	}
	d->v[d->n] = (tok_undo){.kind = kind};
	return &d->v[d->n++];
}

static void set_from(tok_undo *u, const char *from, whit_arena *mem) {
	u->from = whit_take_text(mem, from);
	u->n_from = strlen(from);
}

static int read_replace(tok_undo *u, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	const char *to;
	tok_find f = {0};
	int rc = whit_json_text(j, where, "content", 1, &to, e);
	if (!rc) rc = whit_find_read(&f, j, where, mem, e);
	if (rc) return rc;
	if (f.re) {
		whit_regex_free(f.re);
		return whit_fail(e, WHIT_EINPUT, "%s: Replace has a Regex, need a String", where);
	}
	if (strlen(to) > f.n) /* no known file grows text here; so decoding is bounded by the tokens' length */
		return whit_fail(e, WHIT_EINPUT, "%s: Replace puts \"%.40s\" for \"%.40s\", need no longer text", where,
		                 to, f.text);
	u->from = f.text;
	u->n_from = f.n;
	u->to = whit_take_text(mem, to);
	u->n_to = strlen(to);
	return 0;
}

static int read_strip(tok_undo *u, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	const char *text;
	int rc = whit_json_text(j, where, "content", 1, &text, e);
	if (!rc) rc = whit_json_int(j, where, "start", 1, 0, INT32_MAX, &u->left, e);
	if (!rc) rc = whit_json_int(j, where, "stop", 1, 0, INT32_MAX, &u->right, e);
	if (!rc && !*text) rc = whit_fail(e, WHIT_EINPUT, "%s: Strip has an empty content", where);
	if (!rc) set_from(u, text, mem);
	return rc;
}

static int read_metaspace(tok_undo *u, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	const char *text, *scheme = "always";
	int legacy = 1;
	int rc = whit_json_text(j, where, "replacement", 1, &text, e);
	if (!rc) rc = whit_json_text(j, where, "prepend_scheme", 0, &scheme, e);
	if (!rc) rc = whit_json_bool(j, where, "add_prefix_space", 0, &legacy, e);
	if (!rc && !*text) rc = whit_fail(e, WHIT_EINPUT, "%s: Metaspace has an empty replacement", where);
	if (rc) return rc;
	set_from(u, text, mem);
	u->to = " ";
	u->n_to = 1;
	u->left = legacy && strcmp(scheme, "never");
	return 0;
}

static int read_decoder(tok_decoder *d, const json_t *j, const char *where, whit_arena *mem, whit_err *e) {
	const char *kind;
	const json_t *list, *item;
	size_t i;
	int rc = whit_json_text(j, where, "type", 1, &kind, e);
	if (rc) return rc;
	if (d->n >= 64) return whit_fail(e, WHIT_EINPUT, "%s: has more than 64 steps", where);
	if (!strcmp(kind, "Sequence")) {
		if ((rc = whit_json_member(j, where, "decoders", 1, JSON_ARRAY, &list, e))) return rc;
		json_array_foreach((json_t *)list, i, item) if ((rc = read_decoder(d, item, where, mem, e))) return rc;
		return 0;
	}
	if (!strcmp(kind, "Replace")) return read_replace(add_undo(d, REPLACE), j, where, mem, e);
	if (!strcmp(kind, "Strip")) return read_strip(add_undo(d, STRIP), j, where, mem, e);
	if (!strcmp(kind, "Metaspace")) return read_metaspace(add_undo(d, METASPACE), j, where, mem, e);
	if (!strcmp(kind, "ByteLevel"))
		add_undo(d, BYTE_LEVEL);
	else if (!strcmp(kind, "ByteFallback"))
		add_undo(d, FALLBACK);
	else if (!strcmp(kind, "Fuse"))
		add_undo(d, FUSE);
	else
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: type is %s, known are ByteLevel, ByteFallback, Fuse, Metaspace, Replace, "
		                 "Strip and Sequence",
		                 where, kind);
	return 0;
}

int whit_undo_read(tok_decoder *d, const json_t *j, const char *file, whit_arena *mem, whit_err *e) {
	d->none = !j || json_is_null(j);
	if (d->none) return 0;
	char *where = whit_format_text("%s: decoder", file);
	int rc = read_decoder(d, j, where, mem, e);
	whit_free(where);
	return rc;
}
