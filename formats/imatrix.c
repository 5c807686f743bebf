/* imatrix: two containers, one content. The file is a GGUF if it begins as one, else the older .dat; what either says
 * that is not an importance (a width that does not fit, a negative or non-finite value, counts without sums, several
 * experts) is refused, nothing is repaired. */
#include "formats/imatrix.h"
#include <math.h>
#include <stdlib.h>

static const char sum_suffix[] = ".in_sum2", count_suffix[] = ".counts";

static int by_name(const void *a, const void *b) {
	return strcmp(((const whit_importance *)a)->name, ((const whit_importance *)b)->name);
}

/* Values are sums of squares over count; the mean is what quantizers weigh with. */
static int entry_finish(whit_importance *w, const char *file, whit_err *e) {
	if (!(w->count >= 0) || !isfinite(w->count))
		return whit_fail(e, WHIT_EINPUT, "%s: %s: count is %g, need a finite number, 0 or more", file, w->name,
		                 w->count);
	for (int64_t i = 0; i < w->cols; i++) {
		if (!(w->sum2[i] >= 0) || !isfinite(w->sum2[i]))
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: %s: value %lld is %g, need a finite sum of squares, 0 or more", file,
			                 w->name, (long long)i, (double)w->sum2[i]);
		double mean = w->count > 0 ? w->sum2[i] / w->count : 1;
		if (!(mean <= 0x1.fffffep127)) /* a count below 1 can take a finite sum beyond float */
			return whit_fail(e, WHIT_EINPUT, "%s: %s: value %lld over its count is %g, need a float", file,
			                 w->name, (long long)i, mean);
		w->mean[i] = (float)mean;
	}
	return 0;
}

int whit_imatrix_finish(whit_imatrix *m, whit_err *e) {
	for (int64_t i = 0; i < m->n; i++) {
		int rc = entry_finish(&m->w[i], m->path, e);
		if (rc) return rc;
	}
	qsort(m->w, (size_t)m->n, sizeof *m->w, by_name);
	for (int64_t i = 1; i < m->n; i++)
		if (!strcmp(m->w[i - 1].name, m->w[i].name))
			return whit_fail(e, WHIT_EINPUT, "%s: %s stands twice", m->path, m->w[i].name);
	return 0;
}

static whit_importance *entry_new(whit_imatrix *m, const char *name, size_t n, int64_t cols) {
	whit_importance *w = &m->w[m->n++];
	w->name = whit_alloc(n + 1);
	memcpy(w->name, name, n);
	w->cols = cols;
	w->sum2 = whit_alloc((size_t)cols * sizeof *w->sum2);
	w->mean = whit_alloc((size_t)cols * sizeof *w->mean);
	return w;
}

/* ---- GGUF ---- */

/* Bytes of name before the suffix, 0 if it does not end so. */
static size_t stem(const char *name, const char *suffix) {
	size_t n = strlen(name), k = strlen(suffix);
	return n > k && !strcmp(name + n - k, suffix) ? n - k : 0;
}

static int check_tensor(const whit_gguf_tensor *t, const char *file, int64_t width, whit_err *e) {
	if (strcmp(t->type->name, "F32"))
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is %s, need F32", file, t->name, t->type->name);
	if (t->ne[0] < 1 || (width && t->ne[0] != width) || t->ne[2] != 1 || t->ne[3] != 1)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is [%lld, %lld, %lld, %lld], need [%s, 1]", file,
		                 t->name, (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2],
		                 (long long)t->ne[3], width ? "1" : "columns");
	if (t->ne[1] != 1)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: holds %lld experts, need 1: experts are not supported",
		                 file, t->name, (long long)t->ne[1]);
	return 0;
}

static int add_pair(whit_imatrix *m, const whit_gguf *g, const whit_gguf_tensor *t, size_t n, whit_err *e) {
	char *other = whit_format_text("%.*s%s", (int)n, t->name, count_suffix);
	const whit_gguf_tensor *c = whit_gguf_tensor_find(g, other);
	int rc = check_tensor(t, m->path, 0, e);
	if (!rc && !c) rc = whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is there without %s", m->path, t->name, other);
	if (!rc) rc = check_tensor(c, m->path, 1, e);
	whit_free(other);
	if (rc) return rc;
	whit_importance *w = entry_new(m, t->name, n, t->ne[0]);
	memcpy(w->sum2, t->data, t->bytes);
	w->count = whit_load_f32(c->data);
	return 0;
}

static int read_gguf(whit_imatrix *m, const whit_gguf *g, whit_err *e) {
	const char *type = NULL;
	const whit_gguf_kv *names;
	int rc = whit_gguf_string(g, "general.type", 1, &type, e);
	if (!rc && strcmp(type, "imatrix"))
		rc = whit_fail(e, WHIT_EINPUT, "%s: general.type is \"%.100s\", need \"imatrix\"", m->path, type);
	if (!rc) rc = whit_gguf_array(g, "imatrix.datasets", 1, WHIT_GGUF_STRING, &names, e);
	if (!rc) rc = whit_gguf_int(g, "imatrix.chunk_count", 1, 0, INT32_MAX, &m->chunks, e);
	if (!rc) rc = whit_gguf_int(g, "imatrix.chunk_size", 1, 0, INT32_MAX, &m->chunk_size, e);
	if (rc) return rc;
	m->dataset = whit_alloc((size_t)(names->n + 1) * sizeof *m->dataset);
	for (; m->n_dataset < names->n; m->n_dataset++)
		m->dataset[m->n_dataset] =
		        whit_format_text("%.*s", (int)names->text[m->n_dataset].n, names->text[m->n_dataset].p);
	m->w = whit_alloc((size_t)(g->n + 1) * sizeof *m->w);
	int64_t counts = 0;
	for (int64_t i = 0; i < g->n && !rc; i++) {
		const char *name = g->t[i].name;
		size_t n = stem(name, sum_suffix);
		if (n)
			rc = add_pair(m, g, &g->t[i], n, e);
		else if (stem(name, count_suffix))
			counts++;
		else
			rc = whit_fail(e, WHIT_EINPUT, "%s: tensor %s: ends in neither %s nor %s", m->path, name,
			               sum_suffix, count_suffix);
	}
	if (!rc && counts != m->n)
		rc = whit_fail(e, WHIT_EINPUT, "%s: has %lld tensors %s, need the %lld of %s", m->path,
		               (long long)counts, count_suffix, (long long)m->n, sum_suffix);
	return rc;
}

/* ---- the older form:  i32 entries { i32 length, name, i32 calls, i32 n, n f32 = mean * calls }
 *                       and perhaps  i32 chunks, i32 length, path of the text ---- */

typedef struct reader {
	const char *file;
	const uint8_t *p;
	size_t left;
} reader;

static int take_i32(reader *r, const char *what, int64_t least, int64_t *v, whit_err *e) {
	if (r->left < 4)
		return whit_fail(e, WHIT_EINPUT, "%s: ends before %s, need 4 more bytes, have %zu", r->file, what,
		                 r->left);
	*v = (int32_t)whit_load_u32(r->p);
	r->p += 4;
	r->left -= 4;
	if (*v < least)
		return whit_fail(e, WHIT_EINPUT, "%s: %s is %lld, need at least %lld", r->file, what, (long long)*v,
		                 (long long)least);
	return 0;
}

static int take(reader *r, const char *what, size_t n, const uint8_t **p, whit_err *e) {
	if (r->left < n)
		return whit_fail(e, WHIT_EINPUT, "%s: %s takes %zu bytes, only %zu are left", r->file, what, n,
		                 r->left);
	*p = r->p;
	r->p += n;
	r->left -= n;
	return 0;
}

static int read_entry(whit_imatrix *m, reader *r, whit_err *e) {
	const uint8_t *name = NULL, *values = NULL;
	int64_t len = 0, calls = 0, n = 0;
	int rc = take_i32(r, "the length of a name", 1, &len, e);
	if (!rc) rc = take(r, "a name", (size_t)len, &name, e);
	if (!rc && memchr(name, 0, (size_t)len))
		rc = whit_fail(e, WHIT_EINPUT, "%s: name of entry %lld holds a NUL", m->path, (long long)m->n);
	if (!rc) rc = take_i32(r, "the number of calls", 1, &calls, e);
	if (!rc) rc = take_i32(r, "the number of values", 1, &n, e);
	if (!rc) rc = take(r, "an entry's values", 4 * (size_t)n, &values, e);
	if (rc) return m->n ? whit_fail_in(e, "after %s", m->w[m->n - 1].name) : rc;
	whit_importance *w = entry_new(m, (const char *)name, (size_t)len, n);
	memcpy(w->sum2, values, 4 * (size_t)n);
	w->count = (double)calls;
	return 0;
}

static int read_legacy(whit_imatrix *m, reader *r, whit_err *e) {
	int64_t n = 0, len = 0;
	const uint8_t *path = NULL;
	int rc = take_i32(r, "the number of entries", 1, &n, e);
	if (rc) return rc;
	if ((uint64_t)n > r->left / 17) /* an entry of one value and a name of one letter */
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: is no GGUF, and as an older imatrix announces %lld entries in %zu bytes", m->path,
		                 (long long)n, r->left);
	m->w = whit_alloc((size_t)n * sizeof *m->w);
	while (m->n < n)
		if ((rc = read_entry(m, r, e))) return rc;
	if (!r->left) return 0;
	rc = take_i32(r, "the number of chunks", 0, &m->chunks, e);
	if (!rc) rc = take_i32(r, "the length of the text's name", 0, &len, e);
	if (!rc) rc = take(r, "the text's name", (size_t)len, &path, e);
	if (!rc && r->left) rc = whit_fail(e, WHIT_EINPUT, "%s: has %zu bytes after its end", m->path, r->left);
	if (rc) return rc;
	m->dataset = whit_alloc(sizeof *m->dataset);
	m->dataset[m->n_dataset++] = whit_format_text("%.*s", (int)len, (const char *)path);
	return 0;
}

/* ---- both ---- */

int whit_imatrix_parse(whit_imatrix *m, const uint8_t *data, size_t n, const char *name, whit_err *e) {
	whit_gguf g;
	int rc;
	memset(m, 0, sizeof *m);
	m->path = whit_strdup(name);
	if (n >= 4 && !memcmp(data, "GGUF", 4)) {
		rc = whit_gguf_parse(&g, data, n, name, e);
		if (!rc) {
			rc = read_gguf(m, &g, e);
			whit_gguf_close(&g);
		}
	} else
		rc = read_legacy(m, &(reader){name, data, n}, e);
	if (!rc) rc = whit_imatrix_finish(m, e);
	if (rc) whit_imatrix_close(m);
	return rc;
}

int whit_imatrix_open(whit_imatrix *m, const char *path, whit_err *e) {
	whit_map map;
	memset(m, 0, sizeof *m);
	int rc = whit_map_open(&map, path, e);
	if (rc) return rc;
	rc = whit_imatrix_parse(m, map.data, map.bytes, path, e);
	whit_map_close(&map);
	return rc;
}

void whit_imatrix_close(whit_imatrix *m) {
	for (int64_t i = 0; i < m->n; i++) {
		whit_free(m->w[i].name);
		whit_free(m->w[i].sum2);
		whit_free(m->w[i].mean);
	}
	for (int64_t i = 0; i < m->n_dataset; i++) whit_free(m->dataset[i]);
	whit_free(m->w);
	whit_free(m->dataset);
	whit_free(m->path);
	memset(m, 0, sizeof *m);
}

const float *whit_imatrix_find(const whit_imatrix *m, const whit_gguf_arch *a, const char *hf, int64_t cols,
                               whit_err *e) {
	char name[64];
	e->code = 0;
	e->text[0] = 0;
	if (!m->n || whit_gguf_name_from_hf(a, hf, name)) return NULL;
	const whit_importance key = {.name = name}, *w = bsearch(&key, m->w, (size_t)m->n, sizeof *m->w, by_name);
	if (!w) return NULL;
	if (w->cols == cols) return w->mean;
	whit_fail(e, WHIT_EINPUT, "%s: %s: has %lld values, need the %lld columns of %s", m->path, w->name,
	          (long long)w->cols, (long long)cols, hf);
	return NULL;
}

static int announce(whit_gguf_out *o, const char *name, const char *suffix, int64_t cols, whit_err *e) {
	char *full = whit_format_text("%s%s", name, suffix);
	int64_t ne[2] = {cols, 1};
	int rc = whit_gguf_out_tensor(o, full, whit_ggml_type_of(0), 2, ne, e);
	whit_free(full);
	return rc;
}

int whit_imatrix_write(const whit_imatrix *m, const char *path, whit_err *e) {
	whit_gguf_text *names = whit_alloc((size_t)(m->n_dataset + 1) * sizeof *names);
	whit_gguf_out *o = NULL;
	for (int64_t i = 0; i < m->n_dataset; i++) names[i] = (whit_gguf_text){m->dataset[i], strlen(m->dataset[i])};
	int rc = whit_gguf_out_open(&o, path, e);
	if (!rc) rc = whit_gguf_put_string(o, "general.type", "imatrix", e);
	if (!rc) rc = whit_gguf_put_strings(o, "imatrix.datasets", names, m->n_dataset, e);
	if (!rc) rc = whit_gguf_put_u32(o, "imatrix.chunk_count", (uint32_t)m->chunks, e);
	if (!rc) rc = whit_gguf_put_u32(o, "imatrix.chunk_size", (uint32_t)m->chunk_size, e);
	for (int64_t i = 0; i < m->n && !rc; i++) {
		rc = announce(o, m->w[i].name, sum_suffix, m->w[i].cols, e);
		if (!rc) rc = announce(o, m->w[i].name, count_suffix, 1, e);
	}
	for (int64_t i = 0; i < m->n && !rc; i++) {
		float count = (float)m->w[i].count;
		rc = whit_gguf_out_write(o, m->w[i].sum2, (size_t)m->w[i].cols * sizeof(float), e);
		if (!rc) rc = whit_gguf_out_write(o, &count, sizeof count, e);
	}
	whit_free(names);
	if (!rc) return whit_gguf_out_commit(o, e);
	if (o) whit_gguf_out_abort(o);
	return rc;
}
