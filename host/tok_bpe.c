/* tok_bpe: vocabulary, merges, and byte-pair encoding of one piece (Sennrich et al. 2016, with the order and
 * the fallbacks of Hugging Face's BPE model). Characters are the first symbols; the pair of lowest rank, the
 * leftmost of equals, merges next. A heap holds candidate pairs, so a piece of n characters costs n log n even
 * where a text is one piece (SentencePiece-style files without pre-tokenizer). Such a piece is cut first
 * between characters that no token holds side by side: no merge can cross, and short heaps stay in cache. Refuses
 * dropout, subword prefixes and suffixes, and models other than BPE. */
#include <stdio.h>
#include "host/tok.h"

/* ---- vocabulary ---- */

static uint64_t table_size(int64_t n) {
	uint64_t m = 16;
	while (m < (uint64_t)n * 2) m *= 2;
	return m;
}

/* The slot that holds p[n], or the free one where it would go. */
static uint64_t find_slot(const tok_bpe *b, const char *p, size_t n) {
	uint64_t i = whit_hash_bytes(p, n).lo & b->slot_mask;
	for (; b->slot[i] >= 0; i = (i + 1) & b->slot_mask) {
		const tok_word *w = &b->word[b->slot[i]];
		if (w->n == n && !memcmp(w->p, p, n)) break;
	}
	return i;
}

int32_t whit_bpe_find(const tok_bpe *b, const char *p, size_t n) { return b->slot[find_slot(b, p, n)]; }

static int read_vocab(tok_bpe *b, const json_t *vocab, int64_t room_id, const char *file, whit_err *e) {
	const char *key;
	json_t *v;
	int64_t top = room_id, count = (int64_t)json_object_size(vocab), bytes = 0;
	json_object_foreach((json_t *)vocab, key, v) {
		if (!json_is_integer(v))
			return whit_fail(e, WHIT_EINPUT, "%s: vocab: token \"%.100s\" is %s, need an integer", file,
			                 key, whit_json_kind(v));
		int64_t id = json_integer_value(v);
		if (id < 0 || id >= count * 8 + 4096) /* ids index tables, here and in the model */
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: vocab: token \"%.100s\" has id %lld, need 0 to %lld for %lld tokens",
			                 file, key, (long long)id, (long long)(count * 8 + 4095), (long long)count);
		top = WHIT_MAX(top, id + 1);
		bytes += (int64_t)strlen(key);
	}
	b->n_word = top;
	b->word = whit_alloc((size_t)top * sizeof *b->word + 1);
	b->slot_mask = table_size(count) - 1;
	b->slot = whit_alloc((b->slot_mask + 1) * sizeof *b->slot);
	memset(b->slot, 0xff, (b->slot_mask + 1) * sizeof *b->slot);
	char *text = whit_take_bytes(&b->mem, (size_t)bytes + 1);
	json_object_foreach((json_t *)vocab, key, v) {
		int32_t id = (int32_t)json_integer_value(v);
		size_t n = strlen(key);
		if (b->word[id].p)
			return whit_fail(e, WHIT_EINPUT, "%s: vocab: id %d is both \"%.100s\" and \"%.100s\"", file, id,
			                 b->word[id].p, key);
		memcpy(text, key, n);
		b->word[id] = (tok_word){.p = text, .n = n};
		b->slot[find_slot(b, key, n)] = id;
		text += n;
	}
	return 0;
}

/* ---- merges ---- */

static tok_pair *find_pair(const tok_bpe *b, uint64_t key) {
	uint64_t i = (key * 0x9e3779b97f4a7c15u) >> 24 & b->pair_mask;
	while (b->pair[i].id >= 0 && b->pair[i].key != key) i = (i + 1) & b->pair_mask;
	return &b->pair[i];
}

/* The two sides of a merge: "a b" or ["a", "b"]. 0 if it is neither. */
static int merge_sides(const json_t *m, const char **l, size_t *nl, const char **r, size_t *nr) {
	if (json_is_string(m)) {
		*l = json_string_value(m);
		const char *space = strchr(*l, ' ');
		if (!space || strchr(space + 1, ' ')) return 0;
		*nl = (size_t)(space - *l);
		*r = space + 1;
		*nr = strlen(*r);
		return 1;
	}
	const json_t *x = json_array_get(m, 0), *y = json_array_get(m, 1);
	if (json_array_size(m) != 2 || !json_is_string(x) || !json_is_string(y)) return 0;
	*l = json_string_value(x);
	*nl = json_string_length(x);
	*r = json_string_value(y);
	*nr = json_string_length(y);
	return 1;
}

static int read_merges(tok_bpe *b, const json_t *merges, const char *file, whit_err *e) {
	size_t rank, n = json_array_size(merges);
	const json_t *m;
	tok_bytes both = {0};
	int rc = 0;
	b->pair_mask = table_size((int64_t)n) - 1;
	b->pair = whit_alloc((b->pair_mask + 1) * sizeof *b->pair);
	for (uint64_t i = 0; i <= b->pair_mask; i++) b->pair[i].id = -1;
	json_array_foreach((json_t *)merges, rank, m) {
		const char *l, *r;
		size_t nl, nr;
		if (!merge_sides(m, &l, &nl, &r, &nr)) {
			rc = whit_fail(e, WHIT_EINPUT,
			               "%s: merges: entry %zu is %s, need \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"]",
			               file, rank, json_is_string(m) ? json_string_value(m) : whit_json_kind(m));
			break;
		}
		both.n = 0;
		whit_bytes_add(&both, l, nl);
		whit_bytes_add(&both, r, nr);
		int32_t a = whit_bpe_find(b, l, nl), c = whit_bpe_find(b, r, nr), id = whit_bpe_find(b, both.p, both.n);
		if (a < 0 || c < 0 || id < 0) {
			const char *what = a < 0 ? l : c < 0 ? r : both.p;
			size_t len = a < 0 ? nl : c < 0 ? nr : both.n;
			rc = whit_fail(e, WHIT_EINPUT,
			               "%s: merges: entry %zu needs token \"%.*s\", the vocabulary has none", file,
			               rank, (int)WHIT_MIN(len, 100), what ? what : "");
			break;
		}
		uint64_t key = (uint64_t)a << 32 | (uint32_t)c;
		*find_pair(b, key) =
		        (tok_pair){key, (uint32_t)rank, id}; /* of a merge listed twice, the later rank counts */
	}
	whit_bytes_free(&both);
	return rc;
}

/* ---- seams ---- */

static uint32_t seam(uint32_t left, uint32_t right) {
	return (uint32_t)(((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u >> 40) % TOK_SEAMS;
}

/* Marks the pairs within every token. Collisions only lose a cut. */
static void fill_seams(tok_bpe *b) {
	for (int64_t id = 0; id < b->n_word; id++) {
		const tok_word *w = &b->word[id];
		uint32_t left = 0, cp;
		for (size_t i = 0, k; i < w->n; i += k, left = cp) {
			k = whit_utf8_char(w->p + i, w->n - i, &cp); /* JSON gave UTF-8 */
			if (i) b->seam[seam(left, cp) / 8] |= (uint8_t)(1 << seam(left, cp) % 8);
		}
	}
}

/* ---- the model ---- */

static int refuse(const json_t *model, const char *file, whit_err *e) {
	static const char *const affix[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	const char *kind = "BPE", *text;
	double dropout = 0;
	int rc = whit_json_text(model, file, "type", 0, &kind, e);
	if (!rc && strcmp(kind, "BPE")) rc = whit_fail(e, WHIT_EINPUT, "%s: model type is %s, need BPE", file, kind);
	if (!rc) rc = whit_json_real(model, file, "dropout", 0, 0, 1, &dropout, e);
	if (!rc && dropout != 0) rc = whit_fail(e, WHIT_EINPUT, "%s: dropout is %g, need 0", file, dropout);
	for (int i = 0; i < WHIT_COUNT(affix) && !rc; i++) {
		text = "";
		rc = whit_json_text(model, file, affix[i], 0, &text, e);
		if (!rc && *text) rc = whit_fail(e, WHIT_EINPUT, "%s: %s is \"%s\", need none", file, affix[i], text);
	}
	return rc;
}

static int read_unk(tok_bpe *b, const json_t *model, const char *file, whit_err *e) {
	const char *unk = NULL;
	int rc = whit_json_text(model, file, "unk_token", 0, &unk, e);
	b->unk = -1;
	if (rc || !unk || !*unk) return rc;
	b->unk = whit_bpe_find(b, unk, strlen(unk));
	return b->unk >= 0
	               ? 0
	               : whit_fail(e, WHIT_EINPUT, "%s: unk_token is \"%s\", the vocabulary has none such", file, unk);
}

static void fill_tables(tok_bpe *b, int fallback) {
	tok_bytes t = {0};
	char name[8];
	for (uint32_t c = 0; c < TOK_LOW; c++) {
		t.n = 0;
		whit_bytes_char(&t, c);
		b->low[c] = whit_bpe_find(b, t.p, t.n);
	}
	whit_bytes_free(&t);
	for (unsigned i = 0; i < 256; i++) {
		snprintf(name, sizeof name, "<0x%02X>", i);
		b->byte[i] = fallback ? whit_bpe_find(b, name, 6) : -1;
	}
}

int whit_bpe_read(tok_bpe *b, const json_t *model, int64_t room_id, const char *file, whit_err *e) {
	const json_t *vocab, *merges;
	int fallback = 0;
	int rc = refuse(model, file, e);
	if (!rc) rc = whit_json_member(model, file, "vocab", 1, JSON_OBJECT, &vocab, e);
	if (!rc) rc = whit_json_member(model, file, "merges", 1, JSON_ARRAY, &merges, e);
	if (!rc) rc = whit_json_bool(model, file, "fuse_unk", 0, &b->fuse_unk, e);
	if (!rc) rc = whit_json_bool(model, file, "byte_fallback", 0, &fallback, e);
	if (!rc) rc = whit_json_bool(model, file, "ignore_merges", 0, &b->ignore_merges, e);
	if (!rc) rc = read_vocab(b, vocab, room_id, file, e);
	if (!rc) rc = read_merges(b, merges, file, e);
	if (!rc) rc = read_unk(b, model, file, e);
	if (!rc) fill_tables(b, fallback);
	if (!rc) fill_seams(b);
	return rc;
}

void whit_bpe_free(tok_bpe *b) {
	whit_free(b->word);
	whit_free(b->slot);
	whit_free(b->pair);
	whit_arena_free(&b->mem);
	*b = (tok_bpe){0};
}

/* ---- encoding ---- */

static void heap_push(tok_work *w, tok_merge m) {
	if (w->n_heap == w->room_heap) {
		size_t old = (size_t)w->room_heap * sizeof *w->heap;
		w->room_heap = w->room_heap * 2 + 64;
		w->heap = whit_realloc(w->heap, old, (size_t)w->room_heap * sizeof *w->heap);
	}
	int64_t i = w->n_heap++;
	for (int64_t up; i > 0 && w->heap[up = (i - 1) / 2].order > m.order; i = up) w->heap[i] = w->heap[up];
	w->heap[i] = m;
}

static tok_merge heap_pop(tok_work *w) {
	tok_merge top = w->heap[0], last = w->heap[--w->n_heap];
	int64_t i = 0;
	for (int64_t k; (k = 2 * i + 1) < w->n_heap; i = k) {
		if (k + 1 < w->n_heap && w->heap[k + 1].order < w->heap[k].order) k++;
		if (w->heap[k].order >= last.order) break;
		w->heap[i] = w->heap[k];
	}
	w->heap[i] = last;
	return top;
}

static const tok_pair *pair_at(const tok_bpe *b, const tok_work *w, int32_t i) {
	return find_pair(b, (uint64_t)w->sym[i].id << 32 | (uint32_t)w->sym[w->sym[i].next].id);
}

static void propose(const tok_bpe *b, tok_work *w, int32_t i) {
	if (i < 0 || w->sym[i].next < 0) return;
	const tok_pair *p = pair_at(b, w, i);
	if (p->id >= 0) heap_push(w, (tok_merge){(uint64_t)p->rank << 32 | (uint32_t)i, p->id});
}

#define NO_CHAR UINT32_MAX

static int32_t add_symbol(tok_work *w, int32_t n, int32_t id, uint32_t cp) {
	w->sym[n] = (tok_symbol){n - 1, n + 1, id, cp};
	return n + 1;
}

/* First symbols of p[n]: characters of the vocabulary, byte tokens, or the unknown token. Returns how many. */
static int64_t first_symbols(const tok_bpe *b, tok_work *w, const char *p, size_t n, const char *name, whit_err *e) {
	int32_t count = 0;
	int unknown = 0; /* the last symbol is the unknown token */
	for (size_t i = 0, k; i < n; i += k) {
		uint32_t cp;
		int valid = (k = whit_utf8_char(p + i, n - i, &cp)) > 0, bytes = 1;
		if (!valid) k = 1;
		int32_t id = !valid ? -1 : cp < TOK_LOW ? b->low[cp] : whit_bpe_find(b, p + i, k);
		if (id >= 0) {
			count = add_symbol(w, count, id, cp);
			unknown = 0;
			continue;
		}
		for (size_t j = 0; j < k; j++) bytes &= b->byte[(uint8_t)p[i + j]] >= 0;
		if (bytes) {
			for (size_t j = 0; j < k; j++)
				count = add_symbol(w, count, b->byte[(uint8_t)p[i + j]], NO_CHAR);
			unknown = 0;
		} else if (b->unk < 0) {
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: text has \"%.*s\" (first byte %02x), the vocabulary has no token for it",
			                 name, valid ? (int)k : 0, p + i, (uint8_t)p[i]);
		} else if (!unknown || !b->fuse_unk) {
			count = add_symbol(w, count, b->unk, NO_CHAR);
			unknown = 1;
		}
	}
	return count;
}

/* Whether some token may span symbols i and i+1. */
static int may_join(const tok_bpe *b, const tok_work *w, int64_t i) {
	uint32_t l = w->sym[i].cp, r = w->sym[i + 1].cp, s = seam(l, r);
	return l == NO_CHAR || r == NO_CHAR || (b->seam[s / 8] >> s % 8 & 1);
}

/* Merges symbols [from, to), which no merge crosses. */
static int merge_run(const tok_bpe *b, tok_work *w, int32_t from, int32_t to, whit_err *e) {
	int rc;
	w->n_heap = 0;
	w->sym[from].prev = w->sym[to - 1].next = -1;
	for (int32_t i = from; i < to - 1; i++) propose(b, w, i);
	for (unsigned pops = 1; w->n_heap; pops++) {
		if (pops % 65536 == 0 && (rc = whit_interrupted(e))) return rc;
		tok_merge m = heap_pop(w);
		int32_t i = (int32_t)(uint32_t)m.order;
		tok_symbol *s = &w->sym[i];
		/* Merged away, or its neighbour is another by now: this candidate is stale. */
		if (s->id < 0 || s->next < 0 || pair_at(b, w, i)->id != m.id) continue;
		tok_symbol *r = &w->sym[s->next];
		s->id = m.id;
		s->next = r->next;
		r->id = -1;
		if (s->next >= 0) w->sym[s->next].prev = i;
		propose(b, w, s->prev);
		propose(b, w, i);
	}
	return 0;
}

int whit_bpe_encode(const tok_bpe *b, tok_work *w, const char *p, size_t n, whit_ids *out, const char *name,
                    whit_err *e) {
	int32_t whole = b->ignore_merges ? whit_bpe_find(b, p, n) : -1;
	if (whole >= 0) {
		whit_ids_push(out, whole);
		return 0;
	}
	if (n >= INT32_MAX)
		return whit_fail(e, WHIT_EINPUT, "%s: a piece of text is %zu bytes, need below 2 GiB", name, n);
	if ((int64_t)n > w->room_sym) {
		whit_free(w->sym);
		w->room_sym = (int64_t)n + 64;
		w->sym = whit_alloc((size_t)w->room_sym * sizeof *w->sym);
	}
	int64_t count = first_symbols(b, w, p, n, name, e);
	if (count < 0) return (int)count;
	int rc = 0;
	for (int64_t from = 0, to; from < count && !rc; from = to) {
		for (to = from + 1; to < count && may_join(b, w, to - 1);) to++;
		rc = merge_run(b, w, (int32_t)from, (int32_t)to, e);
		for (int32_t i = (int32_t)from; i >= 0 && !rc; i = w->sym[i].next) whit_ids_push(out, w->sym[i].id);
	}
	return rc;
}
