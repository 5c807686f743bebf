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

/* All runs of a text, of which equal ones stand once: the first. */
typedef struct runs {
	const int32_t *id;
	int64_t n, run, size; /* size: of the table, a power of two */
	int64_t *table;       /* where a run begins, and one; 0 = free */
	uint64_t top;         /* FACTOR to the power of run - 1 */
} runs;

static int64_t *place(const runs *r, uint64_t hash, const int32_t *run) {
	uint64_t at = spread(hash) & (uint64_t)(r->size - 1);
	while (r->table[at] && memcmp(r->id + r->table[at] - 1, run, (size_t)r->run * sizeof *run))
		at = (at + 1) & (uint64_t)(r->size - 1);
	return &r->table[at];
}

/* The hash of run i of x behind that of run i - 1. */
static uint64_t next_run(const runs *r, uint64_t h, const int32_t *x, int64_t i) {
	return (h - r->top * ((uint32_t)x[i - 1] + 1)) * FACTOR + (uint32_t)x[i + r->run - 1] + 1;
}

static void runs_make(runs *r, const int32_t *id, int64_t n, int64_t run) {
	*r = (runs){.id = id, .n = n, .run = run, .size = 64, .top = 1};
	while (r->size < 2 * (n - run + 1)) r->size *= 2;
	r->table = whit_alloc((size_t)r->size * sizeof *r->table);
	for (int64_t i = 1; i < run; i++) r->top *= FACTOR;
	uint64_t h = n < run ? 0 : first_run(id, run);
	for (int64_t i = 0; i + run <= n; i++) {
		if (i) h = next_run(r, h, id, i);
		int64_t *at = place(r, h, id + i);
		if (!*at) *at = i + 1;
	}
}

/* The first run of b (nb) that is one of r's: *ir is where it stands there. */
static int runs_find(const runs *r, const int32_t *b, int64_t nb, int64_t *ir, int64_t *ib) {
	uint64_t h = nb < r->run ? 0 : first_run(b, r->run);
	for (int64_t i = 0; i + r->run <= nb; i++) {
		if (i) h = next_run(r, h, b, i);
		int64_t at = *place(r, h, b + i);
		if (!at) continue;
		*ir = at - 1;
		*ib = i;
		return 1;
	}
	return 0;
}

int whit_overlap(const int32_t *a, int64_t na, const int32_t *b, int64_t nb, int64_t run, int64_t *ia, int64_t *ib) {
	runs r;
	if (run < 1) return 0;
	runs_make(&r, a, na, run);
	int found = runs_find(&r, b, nb, ia, ib);
	whit_free(r.table);
	return found;
}

/* One text, or the chunks of a statistics directory, against the runs of `name`. */
static int check_rows(const whit_tok *tok, const char *name, const runs *r, const char *path, const int32_t *rows,
                      int64_t n_rows, int64_t cols, whit_err *e) {
	for (int64_t k = 0; k < n_rows; k++) {
		int64_t at, other;
		size_t len;
		if (!runs_find(r, rows + k * cols, cols, &at, &other)) continue;
		char *words = whit_tok_decode(tok, r->id + at, r->run, 0, &len);
		whit_fail(e, WHIT_EINPUT,
		          "%s: token %lld and the next %lld are in %s too, need texts apart: \"%.160s\"", name,
		          (long long)at, (long long)r->run - 1, path, words);
		whit_free(words);
		return e->code;
	}
	return 0;
}

static int check_directory(const whit_tok *tok, const char *name, const runs *r, const char *path, whit_err *e) {
	char *file = whit_format_text("%s/tokens.safetensors", path);
	whit_st st;
	int rc = whit_st_open(&st, file, e);
	if (!rc) {
		const whit_tensor *t = whit_st_find(&st, "tokens");
		if (!t || t->dtype != WHIT_I32 || t->ndim != 2)
			rc = whit_fail(e, WHIT_EINPUT, "%s: tensor tokens: is %s, need I32 of two dimensions", file,
			               t ? whit_dtype_name(t->dtype) : "absent");
		else
			rc = check_rows(tok, name, r, path, (const int32_t *)(const void *)t->data, t->shape[0],
			                t->shape[1], e);
		whit_st_close(&st);
	}
	whit_free(file);
	return rc;
}

int whit_apart(const whit_tok *tok, int64_t vocab, const char *name, const int32_t *ids, int64_t n,
               const whit_list *from, whit_err *e) {
	runs r;
	int rc = 0;
	runs_make(&r, ids, n, WHIT_OVERLAP_RUN);
	for (int i = 0; i < from->n && !rc; i++) {
		whit_map map;
		whit_ids other = {0};
		int64_t invalid;
		if (whit_is_dir(from->v[i])) {
			rc = check_directory(tok, name, &r, from->v[i], e);
			continue;
		}
		if ((rc = whit_map_open(&map, from->v[i], e))) break;
		rc = whit_tok_text(tok, from->v[i], (const char *)map.data, map.bytes, vocab, &other, &invalid, e);
		if (!rc) rc = check_rows(tok, name, &r, from->v[i], other.id, 1, other.n, e);
		whit_ids_free(&other);
		whit_map_close(&map);
	}
	whit_free(r.table);
	return rc;
}
