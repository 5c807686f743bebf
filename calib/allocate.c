/* allocate: the knapsack, and the table it is read from. */
#include "calib/allocate.h"
#include <math.h>
#include <stdlib.h>
#include "formats/json.h"

enum { UNITS = 1 << 16 };

typedef struct task {
	const whit_choice *c;
	int64_t items;
	int options;
	int64_t budget;
} task;

static const whit_choice *at(const task *t, int64_t i, int k) { return &t->c[i * t->options + k]; }

/* 1: option k of item i loses no more than `than` and takes no more bytes, and less of one of them. */
static int better(const task *t, int64_t i, int k, int than) {
	const whit_choice *a = at(t, i, k), *b = at(t, i, than);
	return a->bytes >= 0 && a->bytes <= b->bytes &&
	       (a->loss < b->loss || (a->loss == b->loss && a->bytes < b->bytes));
}

static int smallest(const task *t, int64_t i) {
	int best = -1;
	for (int k = 0; k < t->options; k++) {
		const whit_choice *a = at(t, i, k), *b = best < 0 ? NULL : at(t, i, best);
		if (a->bytes >= 0 && (!b || a->bytes < b->bytes || (a->bytes == b->bytes && a->loss < b->loss)))
			best = k;
	}
	return best;
}

static void total(const task *t, const int *pick, int64_t *bytes, double *loss) {
	*bytes = 0;
	*loss = 0;
	for (int64_t i = 0; i < t->items; i++) {
		*bytes += at(t, i, pick[i])->bytes;
		*loss += at(t, i, pick[i])->loss;
	}
}

/* best[u]: the least loss of the items so far within u units; from[i][u]: what item i then is. */
static void solve(const task *t, int *pick) {
	int64_t unit = WHIT_MAX(1, (t->budget + UNITS - 1) / UNITS), room = t->budget / unit;
	double *best = whit_alloc((size_t)(2 * (room + 1)) * sizeof *best), *next = best + room + 1;
	uint8_t *from = whit_alloc((size_t)(t->items * (room + 1)));
	for (int64_t i = 0; i < t->items; i++) {
		uint8_t *f = from + i * (room + 1);
		for (int64_t u = 0; u <= room; u++) {
			next[u] = INFINITY;
			f[u] = UINT8_MAX;
			for (int k = 0; k < t->options; k++) {
				const whit_choice *c = at(t, i, k);
				int64_t size = (c->bytes + unit - 1) / unit;
				if (c->bytes < 0 || size > u || !(best[u - size] + c->loss < next[u])) continue;
				next[u] = best[u - size] + c->loss;
				f[u] = (uint8_t)k;
			}
		}
		memcpy(best, next, (size_t)(room + 1) * sizeof *best);
	}
	int found = t->items == 0 || from[(t->items - 1) * (room + 1) + room] != UINT8_MAX;
	for (int64_t i = t->items - 1, u = room; i >= 0; i--) {
		/* rounding up may leave no room where the exact sizes have some */
		pick[i] = found ? from[i * (room + 1) + u] : smallest(t, i);
		if (found) u -= (at(t, i, pick[i])->bytes + unit - 1) / unit;
	}
	whit_free(best);
	whit_free(from);
}

/* Single steps, the largest gain first, into what rounding left over. */
static void fill(const task *t, int *pick) {
	int64_t bytes;
	double loss;
	total(t, pick, &bytes, &loss);
	for (;;) {
		int64_t item = -1;
		double gain = 0;
		int option = -1;
		for (int64_t i = 0; i < t->items; i++)
			for (int k = 0; k < t->options; k++) {
				const whit_choice *a = at(t, i, pick[i]), *b = at(t, i, k);
				if (b->bytes < 0 || bytes - a->bytes + b->bytes > t->budget ||
				    !(a->loss - b->loss > gain))
					continue;
				gain = a->loss - b->loss;
				item = i;
				option = k;
			}
		if (item < 0) return;
		bytes += at(t, item, option)->bytes - at(t, item, pick[item])->bytes;
		pick[item] = option;
	}
}

static void best_uniform(const task *t, whit_allocation *out) {
	out->uniform = -1;
	for (int k = 0; k < t->options; k++) {
		int64_t bytes = 0, i = 0;
		double loss = 0;
		for (; i < t->items && at(t, i, k)->bytes >= 0; i++) {
			bytes += at(t, i, k)->bytes;
			loss += at(t, i, k)->loss;
		}
		if (i < t->items || bytes > t->budget || (out->uniform >= 0 && !(loss < out->uniform_loss))) continue;
		*out = (whit_allocation){.uniform = k, .uniform_loss = loss, .uniform_bytes = bytes};
	}
}

/* ---- the bound ---- */

typedef struct climb {
	double loss, rate; /* lost less by it, and for each byte */
	int64_t bytes;
} climb;

static int by_rate(const void *a, const void *b) {
	double x = ((const climb *)a)->rate, y = ((const climb *)b)->rate;
	return (x < y) - (x > y);
}

/* From each item's smallest choice up its lower convex hull, the steepest steps of all items first, the last in part.
 */
static double bound_of(const task *t) {
	climb *step = whit_alloc((size_t)(t->items * t->options + 1) * sizeof *step);
	int64_t n = 0, left = t->budget;
	double loss = 0;
	for (int64_t i = 0; i < t->items; i++) {
		int now = smallest(t, i);
		loss += at(t, i, now)->loss;
		left -= at(t, i, now)->bytes;
		for (;;) {
			const whit_choice *a = at(t, i, now);
			int to = -1;
			double rate = 0;
			for (int k = 0; k < t->options; k++) {
				const whit_choice *b = at(t, i, k);
				if (b->bytes <= a->bytes || !(b->loss < a->loss)) continue;
				double r = (a->loss - b->loss) / (double)(b->bytes - a->bytes);
				if (r < rate || (r == rate && b->bytes < at(t, i, to)->bytes)) continue;
				rate = r;
				to = k;
			}
			if (to < 0) break;
			step[n++] = (climb){a->loss - at(t, i, to)->loss, rate, at(t, i, to)->bytes - a->bytes};
			now = to;
		}
	}
	qsort(step, (size_t)n, sizeof *step, by_rate);
	for (int64_t k = 0; k < n && left > 0; k++) {
		double part = step[k].bytes <= left ? 1 : (double)left / (double)step[k].bytes;
		loss -= part * step[k].loss;
		left -= step[k].bytes;
	}
	whit_free(step);
	return loss;
}

int whit_allocate(const whit_choice *choice, int64_t items, int options, int64_t budget, int *pick,
                  whit_allocation *out, whit_err *e) {
	const task t = {choice, items, options, budget};
	int64_t least = 0;
	memset(out, 0, sizeof *out);
	if (options < 1 || options >= UINT8_MAX)
		return whit_fail(e, WHIT_EUSAGE, "allocation: is of %d formats, need 1 to 254", options);
	for (int64_t i = 0; i < items; i++) {
		int k = smallest(&t, i);
		if (k < 0) return whit_fail(e, WHIT_EINPUT, "allocation: item %lld has no choice", (long long)i);
		least += at(&t, i, k)->bytes;
	}
	if (least > budget)
		return whit_fail(e, WHIT_EUSAGE, "budget: is %lld bytes, need %lld for the smallest formats",
		                 (long long)budget, (long long)least);
	best_uniform(&t, out);
	solve(&t, pick);
	fill(&t, pick);
	total(&t, pick, &out->bytes, &out->loss);
	if (out->uniform >= 0 && !(out->loss <= out->uniform_loss)) {
		for (int64_t i = 0; i < items; i++) pick[i] = out->uniform;
		total(&t, pick, &out->bytes, &out->loss);
	}
	for (int64_t i = 0; i < items; i++) /* the same for fewer bytes */
		for (int k = 0; k < options; k++)
			if (better(&t, i, k, pick[i])) pick[i] = k;
	total(&t, pick, &out->bytes, &out->loss);
	out->bound = bound_of(&t);
	return 0;
}

/* ---- the table ---- */

typedef struct table {
	const char **name, **format; /* items; options */
	int64_t items, weights;
	int options;
	whit_choice *choice; /* (items, options) of MOST */
	int64_t *book;       /* by option: bytes of codebooks */
} table;

enum { MOST = 64 }; /* formats of a table */

static int64_t item_of(table *t, const char *name, int64_t weights) {
	for (int64_t i = 0; i < t->items; i++)
		if (!strcmp(t->name[i], name)) return i;
	t->name[t->items] = name;
	t->weights += weights;
	for (int k = 0; k < MOST; k++) t->choice[t->items * MOST + k].bytes = -1;
	return t->items++;
}

static int option_of(table *t, const char *format) {
	for (int k = 0; k < t->options; k++)
		if (!strcmp(t->format[k], format)) return k;
	if (t->options == MOST) return -1;
	t->format[t->options] = format;
	return t->options++;
}

static int read_entry(table *t, const json_t *j, const char *path, whit_err *e) {
	const char *by, *name, *format;
	int64_t weights, bytes, book;
	double loss;
	int rc = whit_json_text(j, path, "by", 1, &by, e);
	if (rc || strcmp(by, "tensor")) return rc;
	rc = whit_json_text(j, path, "name", 1, &name, e);
	if (!rc) rc = whit_json_text(j, path, "format", 1, &format, e);
	if (!rc) rc = whit_json_int(j, path, "weights", 1, 1, INT64_MAX, &weights, e);
	if (!rc) rc = whit_json_int(j, path, "bytes", 1, 0, INT64_MAX, &bytes, e);
	if (!rc) rc = whit_json_int(j, path, "codebook_bytes", 1, 0, INT64_MAX, &book, e);
	if (!rc) rc = whit_json_real(j, path, "kld_mean", 1, -1e30, 1e30, &loss, e);
	if (rc) return rc;
	int k = option_of(t, format);
	if (k < 0) return whit_fail(e, WHIT_EINPUT, "%s: has more than %d formats", path, MOST);
	t->choice[item_of(t, name, weights) * MOST + k] = (whit_choice){bytes, loss};
	t->book[k] = WHIT_MAX(t->book[k], book);
	return 0;
}

/* "tq4:nearest" as a recipe has it. */
static void add_line(char **text, const char *name, const char *format, int methods) {
	const char *colon = strchr(format, ':');
	int n = colon ? (int)(colon - format) : (int)strlen(format);
	char *line = colon && methods ? whit_format_text("%s%s %.*s method=%s\n", *text, name, n, format, colon + 1)
	                              : whit_format_text("%s%s %.*s\n", *text, name, n, format);
	whit_free(*text);
	*text = line;
}

static int check_model(const json_t *all, const char *path, const char *fingerprint, whit_err *e) {
	const json_t *inputs;
	const char *is;
	int rc = whit_json_member(all, path, "inputs", 1, JSON_OBJECT, &inputs, e);
	if (!rc) rc = whit_json_text(inputs, path, "model", 1, &is, e);
	if (!rc && strcmp(is, fingerprint))
		rc = whit_fail(e, WHIT_EFINGERPRINT, "%s: sensitivities are of model %.60s, need those of %s", path, is,
		               fingerprint);
	return rc;
}

static int allocate_table(const table *t, double bpw, int64_t bytes, const char *path, int methods, char **text,
                          whit_allocation *out, whit_err *e) {
	whit_choice *packed = whit_alloc((size_t)(t->items * t->options + 1) * sizeof *packed);
	int *pick = whit_alloc((size_t)(t->items + 1) * sizeof *pick);
	int64_t budget = bpw > 0 ? (int64_t)(bpw / 8 * (double)t->weights) : bytes, books = 0;
	for (int64_t i = 0; i < t->items; i++)
		memcpy(packed + i * t->options, t->choice + i * MOST, (size_t)t->options * sizeof *packed);
	for (int k = 0; k < t->options; k++) books += t->book[k];
	int rc = whit_allocate(packed, t->items, t->options, budget - books, pick, out, e);
	if (rc) whit_fail_in(e, "%s", path);
	*text = whit_strdup("");
	for (int64_t i = 0; i < t->items && !rc; i++) add_line(text, t->name[i], t->format[pick[i]], methods);
	whit_free(packed);
	whit_free(pick);
	if (rc) {
		whit_free(*text);
		*text = NULL;
	}
	return rc;
}

int whit_allocate_recipe(const json_t *all, const char *path, const char *fingerprint, double bpw, int64_t bytes,
                         int methods, char **text, whit_allocation *out, whit_err *e) {
	const json_t *entries;
	*text = NULL;
	int rc = check_model(all, path, fingerprint, e);
	if (!rc) rc = whit_json_member(all, path, "entries", 1, JSON_ARRAY, &entries, e);
	if (rc) return rc;
	size_t n = json_array_size(entries);
	table t = {.name = whit_alloc((n + 1) * sizeof *t.name),
	           .format = whit_alloc(MOST * sizeof *t.format),
	           .choice = whit_alloc((n + 1) * MOST * sizeof *t.choice),
	           .book = whit_alloc(MOST * sizeof *t.book)};
	for (size_t i = 0; i < n && !rc; i++) rc = read_entry(&t, json_array_get(entries, i), path, e);
	if (!rc && !t.items)
		rc = whit_fail(e, WHIT_EINPUT, "%s: has no entries by tensor: whit sensitivity --by tensor makes them",
		               path);
	if (!rc) rc = allocate_table(&t, bpw, bytes, path, methods, text, out, e);
	whit_free(t.name);
	whit_free(t.format);
	whit_free(t.choice);
	whit_free(t.book);
	return rc;
}
