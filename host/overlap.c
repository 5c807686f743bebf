/* overlap: shared runs of tokens, by a table of the hashes of all runs of one text. */
#include "host/overlap.h"
#include "formats/safetensors.h"
#include <stdio.h>

static const uint64_t FACTOR = 0x9e3779b97f4a7c15u;

static uint64_t spread(uint64_t h) { return (h ^ (h >> 29)) * FACTOR; }

/* The rolling hash of a run: ids as digits of a number in base FACTOR, mod 2^64. */
static uint64_t first_run(const int32_t *a, int64_t run) {
	uint64_t h = 0;
	for (int64_t i = 0; i < run; i++) h = h * FACTOR + (uint32_t)a[i] + 1;
	return h;
}

int whit_overlap(const int32_t *a, int64_t na, const int32_t *b, int64_t nb, int64_t run, int64_t *ia, int64_t *ib) {
	if (na < run || nb < run || run < 1) return 0;
	uint64_t top = 1, h = first_run(a, run);
	int64_t size = 64, found = 0;
	while (size < 2 * (na - run + 1)) size *= 2;
	int64_t *table = whit_alloc((size_t)size * sizeof *table); /* where a run begins, and one; 0 = free */
	for (int64_t i = 1; i < run; i++) top *= FACTOR;
	for (int64_t i = 0; i + run <= na; i++) {
		if (i) h = (h - top * ((uint32_t)a[i - 1] + 1)) * FACTOR + (uint32_t)a[i + run - 1] + 1;
		uint64_t at = spread(h) & (uint64_t)(size - 1);
		/* of equal runs (a text that repeats itself) the first is enough */
		while (table[at] && memcmp(a + table[at] - 1, a + i, (size_t)run * sizeof *a))
			at = (at + 1) & (uint64_t)(size - 1);
		if (!table[at]) table[at] = i + 1;
	}
	h = first_run(b, run);
	for (int64_t i = 0; i + run <= nb && !found; i++) {
		if (i) h = (h - top * ((uint32_t)b[i - 1] + 1)) * FACTOR + (uint32_t)b[i + run - 1] + 1;
		for (uint64_t at = spread(h) & (uint64_t)(size - 1); table[at]; at = (at + 1) & (uint64_t)(size - 1)) {
			if (memcmp(a + table[at] - 1, b + i, (size_t)run * sizeof *a)) continue;
			*ia = table[at] - 1;
			*ib = i;
			found = 1;
			break;
		}
	}
	whit_free(table);
	return found;
}

/* The ids of a statistics directory: chunk by chunk, rows of tokens.safetensors. */
static int check_rows(const whit_tok *tok, const char *name, const int32_t *ids, int64_t n, const char *path,
                      const int32_t *rows, int64_t n_rows, int64_t cols, whit_err *e) {
	for (int64_t r = 0; r < n_rows; r++) {
		int64_t ia, ib;
		size_t len;
		if (!whit_overlap(rows + r * cols, cols, ids, n, WHIT_OVERLAP_RUN, &ia, &ib)) continue;
		char *words = whit_tok_decode(tok, ids + ib, WHIT_OVERLAP_RUN, 0, &len);
		whit_fail(e, WHIT_EINPUT, "%s: token %lld and the next %d are in %s too, need texts apart: \"%.160s\"",
		          name, (long long)ib, WHIT_OVERLAP_RUN - 1, path, words);
		whit_free(words);
		return e->code;
	}
	return 0;
}

static int check_directory(const whit_tok *tok, const char *name, const int32_t *ids, int64_t n, const char *path,
                           whit_err *e) {
	char *file = whit_format_text("%s/tokens.safetensors", path);
	whit_st st;
	int rc = whit_st_open(&st, file, e);
	if (!rc) {
		const whit_tensor *t = whit_st_find(&st, "tokens");
		if (!t || t->dtype != WHIT_I32 || t->ndim != 2)
			rc = whit_fail(e, WHIT_EINPUT, "%s: tensor tokens: is %s, need I32 of two dimensions", file,
			               t ? whit_dtype_name(t->dtype) : "absent");
		else
			rc = check_rows(tok, name, ids, n, path, (const int32_t *)(const void *)t->data, t->shape[0],
			                t->shape[1], e);
		whit_st_close(&st);
	}
	whit_free(file);
	return rc;
}

int whit_apart(const whit_tok *tok, int64_t vocab, const char *name, const int32_t *ids, int64_t n,
               const whit_list *from, whit_err *e) {
	int rc = 0;
	for (int i = 0; i < from->n && !rc; i++) {
		whit_map map;
		whit_ids other = {0};
		int64_t invalid;
		if (whit_is_dir(from->v[i])) {
			rc = check_directory(tok, name, ids, n, from->v[i], e);
			continue;
		}
		if ((rc = whit_map_open(&map, from->v[i], e))) break;
		rc = whit_tok_text(tok, from->v[i], (const char *)map.data, map.bytes, vocab, &other, &invalid, e);
		if (!rc) rc = check_rows(tok, name, ids, n, from->v[i], other.id, 1, other.n, e);
		whit_ids_free(&other);
		whit_map_close(&map);
	}
	return rc;
}
