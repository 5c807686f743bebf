/* lora: the pairs of an adapter's GGUF, checked against each other; what they fit is the caller's to know. */
#include "formats/lora.h"
#include <math.h>
#include <stdio.h>

static const char suffix_a[] = ".lora_a", suffix_b[] = ".lora_b";

/* Bytes of name before the suffix, 0 if it does not end so. */
static size_t stem(const char *name, const char *suffix) {
	size_t n = strlen(name), k = strlen(suffix);
	return n > k && !strcmp(name + n - k, suffix) ? n - k : 0;
}

static int check_word(const whit_gguf *g, const char *key, const char *need, whit_err *e) {
	const char *is;
	int rc = whit_gguf_string(g, key, 1, &is, e);
	if (rc || !strcmp(is, need)) return rc;
	return whit_fail(e, WHIT_EINPUT, "%s: key %s: is \"%.60s\", need \"%s\"", g->name, key, is, need);
}

static int to_floats(const whit_gguf_tensor *t, float *x, int64_t n) {
	if (!strcmp(t->type->name, "F32"))
		memcpy(x, t->data, (size_t)n * sizeof *x);
	else if (!strcmp(t->type->name, "F16"))
		whit_f16_to_f32_n(x, t->data, n);
	else if (!strcmp(t->type->name, "BF16"))
		whit_bf16_to_f32_n(x, t->data, n);
	else
		return -1;
	return 0;
}

/* A row at a time: a factor may be as large as the file says. */
static int check_values(const whit_gguf *g, const whit_gguf_tensor *t, whit_err *e) {
	float *x = whit_alloc((size_t)t->ne[0] * sizeof *x);
	whit_gguf_tensor row = *t;
	int rc = 0;
	for (int64_t i = 0; i < t->ne[1] && !rc; i++) {
		row.data = t->data + (size_t)i * (t->bytes / (size_t)t->ne[1]);
		if (to_floats(&row, x, t->ne[0])) {
			rc = whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is %s, need F32, F16 or BF16", g->name, t->name,
			               t->type->name);
			break;
		}
		int64_t bad = whit_first_nonfinite(x, t->ne[0]);
		if (bad >= 0)
			rc = whit_fail(e, WHIT_ENONFINITE,
			               "%s: tensor %s: row %lld, column %lld is %g, need a finite value", g->name,
			               t->name, (long long)i, (long long)bad, (double)x[bad]);
	}
	whit_free(x);
	return rc;
}

static int check_shape(const whit_gguf *g, const whit_gguf_tensor *t, whit_err *e) {
	if (t->ne[0] >= 1 && t->ne[1] >= 1 && t->ne[2] == 1 && t->ne[3] == 1) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is %lld x %lld x %lld x %lld, need a matrix", g->name, t->name,
	                 (long long)t->ne[3], (long long)t->ne[2], (long long)t->ne[1], (long long)t->ne[0]);
}

static int make_pair(whit_lora_pair *p, const whit_gguf *g, const whit_gguf_tensor *a, double alpha, whit_err *e) {
	char b_name[80];
	size_t n = stem(a->name, suffix_a);
	if (n >= sizeof p->name)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %.100s: name of its matrix has %zu bytes, need at most 63",
		                 g->name, a->name, n);
	memcpy(p->name, a->name, n);
	snprintf(b_name, sizeof b_name, "%s%s", p->name, suffix_b);
	p->a = a;
	p->b = whit_gguf_tensor_find(g, b_name);
	if (!p->b) return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is missing, %s is there", g->name, b_name, a->name);
	int rc = check_shape(g, a, e);
	if (!rc) rc = check_shape(g, p->b, e);
	if (rc) return rc;
	p->rank = a->ne[1], p->cols = a->ne[0], p->rows = p->b->ne[1];
	p->scale = (float)(alpha != 0 ? alpha / (double)p->rank : 1);
	if (p->b->ne[0] != p->rank)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is of rank %lld, need %s's %lld", g->name, b_name,
		                 (long long)p->b->ne[0], a->name, (long long)p->rank);
	if (p->rank > WHIT_MIN(p->rows, p->cols))
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: rank is %lld, need 1 to %lld", g->name, a->name,
		                 (long long)p->rank, (long long)WHIT_MIN(p->rows, p->cols));
	rc = check_values(g, a, e);
	return rc ? rc : check_values(g, p->b, e);
}

/* The pairs of l's file. */
static int read_pairs(whit_lora *l, const char *arch, whit_err *e) {
	const whit_gguf *g = &l->gguf;
	double alpha = 0;
	int rc = check_word(g, "general.type", "adapter", e);
	if (!rc) rc = check_word(g, "adapter.type", "lora", e);
	if (!rc) rc = check_word(g, "general.architecture", arch, e);
	if (!rc) rc = whit_gguf_real(g, "adapter.lora.alpha", 0, -1e6, 1e6, &alpha, e);
	if (!rc && whit_gguf_find(g, "adapter.alora.invocation_tokens"))
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: key adapter.alora.invocation_tokens: is there, need an adapter for all tokens",
		               g->name);
	l->pair = whit_alloc((size_t)(g->n + 1) * sizeof *l->pair);
	for (int64_t i = 0; i < g->n && !rc; i++) {
		const whit_gguf_tensor *t = &g->t[i];
		char name[80];
		size_t n = stem(t->name, suffix_b);
		if (stem(t->name, suffix_a)) {
			rc = make_pair(&l->pair[l->n++], g, t, alpha, e);
			continue;
		}
		if (!n)
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %.100s: need a name that ends in %s or %s",
			                 g->name, t->name, suffix_a, suffix_b);
		snprintf(name, sizeof name, "%.*s%s", (int)WHIT_MIN(n, 64), t->name, suffix_a);
		if (!whit_gguf_tensor_find(g, name))
			rc = whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is missing, %.100s is there", g->name, name,
			               t->name);
	}
	if (!rc && !l->n)
		rc = whit_fail(e, WHIT_EINPUT, "%s: has no tensors, need pairs of lora_a and lora_b", g->name);
	return rc;
}

int whit_lora_open(whit_lora *l, const char *path, const char *arch, whit_err *e) {
	memset(l, 0, sizeof *l);
	int rc = whit_gguf_open(&l->gguf, path, e);
	if (rc) return rc;
	if ((rc = read_pairs(l, arch, e))) whit_lora_close(l);
	return rc;
}

int whit_lora_parse(whit_lora *l, const uint8_t *data, size_t n, const char *name, const char *arch, whit_err *e) {
	memset(l, 0, sizeof *l);
	int rc = whit_gguf_parse(&l->gguf, data, n, name, e);
	if (rc) return rc;
	if ((rc = read_pairs(l, arch, e))) whit_lora_close(l);
	return rc;
}

void whit_lora_close(whit_lora *l) {
	whit_gguf_close(&l->gguf);
	whit_free(l->pair);
	memset(l, 0, sizeof *l);
}

void whit_lora_floats(const whit_lora_pair *p, float *a, float *b) {
	to_floats(p->a, a, p->rank * p->cols);
	to_floats(p->b, b, p->rows * p->rank);
}

/* ---- writing ---- */

int whit_lora_out_open(whit_gguf_out **o, const char *path, const char *arch, int64_t rank, whit_err *e) {
	int rc = whit_gguf_out_open(o, path, e);
	if (!rc) rc = whit_gguf_put_string(*o, "general.type", "adapter", e);
	if (!rc) rc = whit_gguf_put_string(*o, "general.architecture", arch, e);
	if (!rc) rc = whit_gguf_put_string(*o, "adapter.type", "lora", e);
	if (!rc) rc = whit_gguf_put_f32(*o, "adapter.lora.alpha", (float)rank, e);
	if (!rc) return 0;
	whit_gguf_out_abort(*o);
	*o = NULL;
	return rc;
}

int whit_lora_out_matrix(whit_gguf_out *o, const char *name, int64_t rows, int64_t cols, int64_t rank, whit_err *e) {
	const whit_ggml_type *f16 = whit_ggml_type_of(1);
	char factor[80];
	snprintf(factor, sizeof factor, "%s%s", name, suffix_a);
	int rc = whit_gguf_out_tensor(o, factor, f16, 2, (const int64_t[]){cols, rank}, e);
	snprintf(factor, sizeof factor, "%s%s", name, suffix_b);
	return rc ? rc : whit_gguf_out_tensor(o, factor, f16, 2, (const int64_t[]){rank, rows}, e);
}
