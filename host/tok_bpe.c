/* tok_bpe: vocabulary, merges, and byte-pair encoding of one piece (Sennrich et al. 2016, with the order and
 * the fallbacks of Hugging Face's BPE model). Characters are the first symbols; the pair of lowest rank, the
 * leftmost of equals, merges next. A heap holds candidate pairs, so a piece of n characters costs n log n even
 * where a text is one piece (SentencePiece-style files without pre-tokenizer). Such a piece is cut first
 * between characters that no token holds side by side: no merge can cross, and short heaps stay in cache. Refuses
 * dropout, subword prefixes and suffixes, and models other than BPE. */
#include <stdio.h>
#include <stdlib.h>
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

int32_t whit_bpe_token(const tok_bpe *b, const char *p, size_t n) {
	int32_t id = whit_bpe_find(b, p, n);
	return id < b->n_word ? id : -1;
}

void whit_bpe_begin(tok_bpe *b, int64_t n_word, int64_t n_token, size_t bytes) {
	b->n_word = n_word;
	b->word = whit_alloc((size_t)n_word * sizeof *b->word + 1);
	b->slot_mask = table_size(n_token) - 1;
	b->slot = whit_alloc((b->slot_mask + 1) * sizeof *b->slot);
	memset(b->slot, 0xff, (b->slot_mask + 1) * sizeof *b->slot);
	b->text = whit_take_bytes(&b->mem, bytes + 1);
}

int32_t whit_bpe_enter(tok_bpe *b, int32_t id, const char *p, size_t n) {
	uint64_t at = find_slot(b, p, n);
	if (b->slot[at] >= 0) return b->slot[at];
	if (n) memcpy(b->text, p, n);
	b->word[id] = (tok_word){.p = b->text, .n = n};
	b->text += n;
	b->slot[at] = id;
	return -1;
}

static int read_vocab(tok_bpe *b, const json_t *vocab, int64_t room_id, const char *file, whit_err *e) {
	const char *key;
	json_t *v;
	int64_t top = room_id, count = (int64_t)json_object_size(vocab);
	size_t bytes = 0;
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
		bytes += strlen(key);
	}
	whit_bpe_begin(b, top, count, bytes);
	json_object_foreach((json_t *)vocab, key, v) {
		int32_t id = (int32_t)json_integer_value(v);
		if (b->word[id].p)
			return whit_fail(e, WHIT_EINPUT, "%s: vocab: id %d is both \"%.*s\" and \"%.100s\"", file, id,
			                 (int)WHIT_MIN(b->word[id].n, 100), b->word[id].p, key);
		whit_bpe_enter(b, id, key, strlen(key));
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

void whit_bpe_merges_begin(tok_bpe *b, int64_t n) {
	b->pair_mask = table_size(n) - 1;
	b->pair = whit_alloc((b->pair_mask + 1) * sizeof *b->pair);
	for (uint64_t i = 0; i <= b->pair_mask; i++) b->pair[i].id = -1;
}

static void set_pair(tok_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id) {
	uint64_t key = (uint64_t)left << 32 | (uint32_t)right;
	*find_pair(b, key) = (tok_pair){key, rank, id}; /* of a merge listed twice, the later rank counts */
}

const tok_pair *whit_bpe_pair(const tok_bpe *b, int32_t left, int32_t right) {
	const tok_pair *p = find_pair(b, (uint64_t)left << 32 | (uint32_t)right);
	return p->id >= 0 ? p : NULL;
}

int whit_bpe_merge(tok_bpe *b, const char *l, size_t nl, const char *r, size_t nr, int64_t at, const char *file,
                   whit_err *e) {
	tok_bytes both = {0};
	int rc = 0;
	whit_bytes_add(&both, l, nl);
	whit_bytes_add(&both, r, nr);
	int32_t a = whit_bpe_find(b, l, nl), c = whit_bpe_find(b, r, nr), id = whit_bpe_find(b, both.p, both.n);
	if (a < 0 || c < 0 || id < 0) {
		const char *what = a < 0 ? l : c < 0 ? r : both.p;
		size_t len = a < 0 ? nl : c < 0 ? nr : both.n;
		rc = whit_fail(e, WHIT_EINPUT, "%s: merges: entry %lld needs token \"%.*s\", the vocabulary has none",
		               file, (long long)at, (int)WHIT_MIN(len, 100), what ? what : "");
	} else {
		set_pair(b, a, c, (uint32_t)at, id);
	}
	whit_bytes_free(&both);
	return rc;
}

static int read_merges(tok_bpe *b, const json_t *merges, const char *file, whit_err *e) {
	size_t rank;
	const json_t *m;
	int rc = 0;
	whit_bpe_merges_begin(b, (int64_t)json_array_size(merges));
	json_array_foreach((json_t *)merges, rank, m) {
		const char *l, *r;
		size_t nl, nr;
		if (!merge_sides(m, &l, &nl, &r, &nr))
			rc = whit_fail(e, WHIT_EINPUT,
			               "%s: merges: entry %zu is %s, need \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"]",
			               file, rank, json_is_string(m) ? json_string_value(m) : whit_json_kind(m));
		else
			rc = whit_bpe_merge(b, l, nl, r, nr, (int64_t)rank, file, e);
		if (rc) break;
	}
	return rc;
}

/* ---- merges by score ---- */

void whit_bpe_ways(const tok_bpe *b, tok_way_fn fn, void *ctx) {
	for (int64_t id = 0; id < b->n_word; id++) {
		const tok_word w = b->word[id]; /* fn may move the words */
		uint32_t cp;
		if (!w.p || w.added) continue;
		size_t first = whit_utf8_char(w.p, w.n, &cp);
		for (size_t i = first, k; i < w.n; i += k) {
			k = whit_utf8_char(w.p + i, w.n - i, &cp);
			int32_t l = whit_bpe_find(b, w.p, i), r = whit_bpe_find(b, w.p + i, w.n - i);
			if ((l >= 0 || i == first) && (r >= 0 || i + k == w.n)) fn(ctx, (int32_t)id, l, r, w.p + i);
		}
	}
}

/* How many tokens have a higher score, in place of a place in a list of merges: equals stay equal. */
typedef struct by_score {
	tok_bpe *b;
	const float *score, *sorted;
	int64_t n_sorted, ways;
} by_score;

static int descending(const void *x, const void *y) {
	float a = *(const float *)x, b = *(const float *)y;
	return a > b ? -1 : a < b;
}

static uint32_t score_rank(const by_score *s, float score) {
	int64_t lo = 0;
	for (int64_t hi = s->n_sorted; lo < hi;) {
		int64_t m = lo + (hi - lo) / 2;
		if (s->sorted[m] > score)
			lo = m + 1;
		else
			hi = m;
	}
	return (uint32_t)lo;
}

static void count_way(void *ctx, int32_t id, int32_t left, int32_t right, const char *at) {
	by_score *s = ctx;
	(void)id, (void)left, (void)right, (void)at;
	s->ways++;
}

/* The id of a character that is no token: a word behind the tokens. The walk over tokens does not reach it. */
static int32_t lone_character(tok_bpe *b, const char *p, size_t n) {
	int32_t id = whit_bpe_find(b, p, n);
	if (id >= 0) return id;
	size_t each = sizeof *b->word, had = (size_t)(b->n_word + b->n_lone);
	if (!(b->n_lone & (b->n_lone - 1))) /* it doubles at powers of two */
		b->word = whit_realloc(b->word, had * each, (had + (size_t)b->n_lone + 1) * each);
	id = (int32_t)(b->n_word + b->n_lone++);
	whit_bpe_enter(b, id, p, n);
	return id;
}

static void add_way(void *ctx, int32_t id, int32_t left, int32_t right, const char *at) {
	by_score *s = ctx;
	tok_word w = s->b->word[id];
	size_t n = (size_t)(at - w.p);
	if (left < 0) left = lone_character(s->b, w.p, n);
	if (right < 0) right = lone_character(s->b, at, w.n - n);
	set_pair(s->b, left, right, score_rank(s, s->score[id]), id);
}

void whit_bpe_merges_by_score(tok_bpe *b, const float *score) {
	by_score s = {.b = b, .score = score, .n_sorted = b->n_word};
	float *sorted = whit_alloc((size_t)b->n_word * sizeof *sorted + 1);
	memcpy(sorted, score, (size_t)b->n_word * sizeof *sorted);
	if (b->n_word) qsort(sorted, (size_t)b->n_word, sizeof *sorted, descending);
	s.sorted = sorted;
	whit_bpe_ways(b, count_way, &s);
	whit_bpe_merges_begin(b, s.ways);
	whit_bpe_ways(b, add_way, &s);
	whit_free(sorted);
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
			k = whit_utf8_char(w->p + i, w->n - i, &cp); /* the readers took UTF-8 only */
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

void whit_bpe_finish(tok_bpe *b, int byte_fallback) {
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
		b->byte[i] = byte_fallback ? whit_bpe_find(b, name, 6) : -1;
	}
	fill_seams(b);
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
	if (!rc) whit_bpe_finish(b, fallback);
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

static int no_token(const char *p, size_t n, int valid, const char *name, whit_err *e) {
	return whit_fail(e, WHIT_EINPUT, "%s: text has \"%.*s\" (first byte %02x), the vocabulary has no token for it",
	                 name, valid ? (int)n : 0, p, (uint8_t)*p);
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
			return no_token(p + i, k, valid, name, e);
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

/* A symbol's id; what is no token becomes its bytes, or the unknown token. */
static int push_symbol(const tok_bpe *b, int32_t id, whit_ids *out, const char *name, whit_err *e) {
	if (id < b->n_word) {
		whit_ids_push(out, id);
		return 0;
	}
	const tok_word *w = &b->word[id];
	int bytes = 1;
	for (size_t i = 0; i < w->n; i++) bytes &= b->byte[(uint8_t)w->p[i]] >= 0;
	if (!bytes && b->unk < 0) return no_token(w->p, w->n, 1, name, e);
	for (size_t i = 0; i < w->n && bytes; i++) whit_ids_push(out, b->byte[(uint8_t)w->p[i]]);
	if (!bytes) whit_ids_push(out, b->unk);
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
		for (int32_t i = (int32_t)from; i >= 0 && !rc; i = w->sym[i].next)
			rc = push_symbol(b, w->sym[i].id, out, name, e);
	}
	return rc;
}
