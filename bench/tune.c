/* tune: which tier (host/ops.h) multiplies each product best on this device, for the file of host/tune.h. Each tier
 * that takes a product is checked, then timed, as products.c does it: a range of tokens by its largest number. Matrices
 * are multiplied one by one; a launch that several share while decoding is not measured. */
#include "bench/products.h"
#include <stdio.h>
#include "host/engine_own.h"
#include "host/progress.h"
#include "host/tune.h"

typedef struct tuner {
	bench_run *b;
	const bench_filter *f;
	whit_tune_entry *entry;
	int n, unusual; /* of these, those whose best tier is not the usual one */
} tuner;

/* The tokens that range i is measured with. Without an end, 512: cuBLAS has reached its rate then. */
static int64_t tokens_of(const bench_run *b, int i) {
	return i + 1 < WHIT_TUNE_RANGES ? whit_tune_from(i + 1) - 1 : b->info.driver ? 512 : whit_tune_from(i);
}

/* All tiers that take p->M tokens; what the best is goes to t's entries, if one is right. */
static int tune_range(tuner *t, products *p, const char *name, int range, whit_err *e) {
	const whit_mat *m = &p->m[0];
	whit_tune_entry *n;
	int usual = whit_tier_usual(p->d, m, p->M), rc = 0;
	t->entry = whit_realloc(t->entry, sizeof *n * (size_t)t->n, sizeof *n * (size_t)(t->n + 1));
	n = &t->entry[t->n];
	memset(n, 0, sizeof *n);
	n->p.rows = m->rows, n->p.width = m->width, n->p.tokens = whit_tune_from(range);
	whit_spec_name(&m->spec, n->p.format);
	for (int i = 0; i < WHIT_TIERS && !rc; i++) {
		bench_row row = {0};
		if (!whit_tier_takes(i, m, p->M)) continue;
		n->p.tier = i;
		whit_dev_tune(p->d, &n->p, 1);
		snprintf(row.name, sizeof row.name, "%s by %s", name, whit_tier_name(i));
		bench_product_row(&row, p);
		row.wrong = bench_product_wrong(p, e);
		if (!row.wrong) row.t = bench_product(p, t->b->seconds, e);
		if (!(rc = e->code)) n->us[i] = bench_add(t->b, &row)->t.median * 1e6;
		if (!rc) rc = whit_interrupted(e);
	}
	whit_dev_tune(p->d, NULL, 0);
	n->p.tier = whit_tune_best(n->us, usual);
	if (rc || n->p.tier < 0) return rc;
	t->n++, t->unusual += n->p.tier != usual;
	return 0;
}

/* All ranges of a matrix: of the host's, or random where that is NULL. */
static int tune_matrix(tuner *t, const bench_inputs *in, const char *format, int64_t rows, int64_t cols,
                       const whit_mat *host, whit_err *e) {
	products p = {.d = t->b->dev, .x = in->x, .y = in->y};
	int rc = 0;
	for (int i = 0; i < WHIT_TUNE_RANGES && !rc; i++) {
		char name[80];
		p.M = tokens_of(t->b, i);
		snprintf(name, sizeof name, "product %s %lldx%lld M=%lld", format, (long long)rows, (long long)cols,
		         (long long)p.M);
		if (!bench_wants(t->f, name)) continue;
		if (!p.n)
			rc = host ? bench_ring(&p, host, &t->b->info, e)
			          : bench_ring_random(&p, format, rows, cols, &t->b->info, e);
		if (!rc) rc = tune_range(t, &p, name, i, e);
	}
	bench_ring_free(&p);
	return rc;
}

static int tune_random(tuner *t, whit_err *e) {
	int n, rc;
	const bench_shape *s = bench_product_shapes(&t->b->info, &n);
	int64_t M = tokens_of(t->b, WHIT_TUNE_RANGES - 1), most = 0;
	bench_inputs in;
	for (int i = 0; i < n; i++) most = WHIT_MAX(most, WHIT_MAX(s[i].rows, s[i].cols));
	rc = bench_inputs_make(&in, t->b->dev, M * most, M * most, e);
	for (int i = 0; i < n; i++)
		for (const char *const *f = bench_product_formats; *f && !rc; f++)
			if (!strchr(*f, '+')) rc = tune_matrix(t, &in, *f, s[i].rows, s[i].cols, NULL, e);
	bench_inputs_free(&in);
	return rc;
}

/* ---- a model's own matrices, one of each format and shape ---- */

static int alike(const whit_mat *a, const whit_mat *b) {
	char x[32], y[32];
	whit_spec_name(&a->spec, x), whit_spec_name(&b->spec, y);
	return a->rows == b->rows && a->width == b->width && !strcmp(x, y);
}

/* Those of its linear nodes, in order; whit_free the list. */
static const whit_mat **matrices(const whit_model *m, int *n) {
	const whit_mat **list = NULL;
	*n = 0;
	for (int64_t i = 0; i < m->layers + 2; i++) {
		const whit_program *p = whit_program_at(m, i);
		for (int k = 0; k < p->n_node; k++) {
			if (!whit_node_linear(&p->node[k])) continue;
			const whit_mat *w = p->opened[p->node[k].w[0]].mat;
			int at = 0;
			while (at < *n && !alike(list[at], w)) at++;
			if (at < *n) continue;
			list = whit_realloc(list, sizeof *list * (size_t)*n, sizeof *list * (size_t)(*n + 1));
			list[(*n)++] = w;
		}
	}
	return list;
}

static int tune_model(tuner *t, const char *path, whit_err *e) {
	whit_model m;
	bench_inputs in;
	int64_t M = tokens_of(t->b, WHIT_TUNE_RANGES - 1), rows = 0, width = 0;
	int n, rc = whit_model_open(&m, path, 0, e);
	if (rc) return rc;
	const whit_mat **w = matrices(&m, &n);
	for (int i = 0; i < n; i++) rows = WHIT_MAX(rows, w[i]->rows), width = WHIT_MAX(width, w[i]->width);
	rc = bench_inputs_make(&in, t->b->dev, M * width, M * rows, e);
	for (int i = 0; i < n && !rc; i++) {
		char format[32];
		whit_spec_name(&w[i]->spec, format);
		rc = tune_matrix(t, &in, format, w[i]->rows, w[i]->width, w[i], e);
	}
	bench_inputs_free(&in);
	whit_free(w);
	whit_model_close(&m);
	return rc;
}

int bench_tune(bench_run *b, const bench_filter *f, const char *const *model, int n_model, const char *path,
               whit_err *e) {
	tuner t = {.b = b, .f = f};
	whit_err later = {0};
	int rc = whit_tune_write(b->dev, path, NULL, 0, e); /* else found out after the work */
	if (rc) return rc;
	if (!n_model) rc = tune_random(&t, e);
	for (int i = 0; i < n_model && !rc; i++) rc = tune_model(&t, model[i], e);
	/* what was measured before an error is worth keeping */
	if (t.n && whit_tune_write(b->dev, path, t.entry, t.n, &later) && !rc) *e = later, rc = later.code;
	if (t.n && !later.code)
		printf("%s: %d products tuned, %d to another than their usual tier\n", path, t.n, t.unusual);
	whit_free(t.entry);
	return rc;
}
