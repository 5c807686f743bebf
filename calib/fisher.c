/* fisher: sums of domains put together. */
#include "calib/fisher.h"
#include <math.h>
#include "formats/safetensors.h"

static const char *domain_name(const whit_fisher *f, int d) {
	const json_t *all = json_object_get(f->dir.about, "domains");
	const char *name = json_string_value(json_object_get(json_array_get(all, (size_t)d), "name"));
	return name ? name : "";
}

/* Adds the sums over rows of a layer's file to the domains' totals. */
static int add_totals(whit_fisher *f, const whit_st *st, const char *path, whit_err *e) {
	for (int64_t i = 0; i < st->n; i++) {
		const whit_tensor *t = &st->t[i];
		const char *kind = strrchr(t->name, '/'), *end = strchr(t->name, '/');
		if (!kind || strcmp(kind, "/fisher.rows") || t->dtype != WHIT_F64) continue;
		for (int d = 0; d < f->domains; d++) {
			const char *name = domain_name(f, d);
			size_t n = (size_t)(end - t->name);
			if (strncmp(t->name, name, n) || name[n]) continue;
			for (size_t k = 0; k < t->bytes / 8; k++) {
				double x;
				memcpy(&x, t->data + 8 * k, 8);
				f->total[d] += x;
			}
			if (!(f->total[d] >= 0) || isinf(f->total[d]))
				return whit_fail(e, WHIT_ENONFINITE, "%s: tensor %s: is not finite, or negative", path,
				                 t->name);
		}
	}
	return 0;
}

int whit_fisher_open(whit_fisher *f, const char *path, const whit_model *m, whit_err *e) {
	*f = (whit_fisher){0};
	int rc = whit_stats_dir_open(&f->dir, path, m, e);
	if (rc) return rc;
	f->domains = (int)json_array_size(json_object_get(f->dir.about, "domains"));
	f->total = whit_alloc((size_t)(f->domains + 1) * sizeof *f->total);
	for (int64_t l = 0; l <= f->dir.layers && !rc; l++) {
		char *file = whit_stats_layer_path(f->dir.path, l, f->dir.layers);
		whit_st st;
		if (whit_file_exists(file) && !(rc = whit_st_open(&st, file, e))) {
			rc = add_totals(f, &st, file, e);
			whit_st_close(&st);
		}
		whit_free(file);
	}
	for (int d = 0; d < f->domains && !rc; d++)
		if (!(f->total[d] > 0))
			rc = whit_fail(e, WHIT_EINPUT,
			               "%s: domain '%s' has no Fisher information, need whit calibrate "
			               "--stats fisher",
			               path, domain_name(f, d));
	if (!rc && !f->domains) rc = whit_fail(e, WHIT_EINPUT, "%s: has no domains", path);
	if (rc) whit_fisher_close(f);
	return rc;
}

void whit_fisher_close(whit_fisher *f) {
	whit_stats_dir_close(&f->dir);
	whit_free(f->total);
	*f = (whit_fisher){0};
}

int whit_fisher_has(const whit_fisher *f, const char *weight) {
	int64_t layer, cols;
	return whit_stats_dir_input(&f->dir, weight, &layer, &cols) != NULL;
}

/* most (n): the largest of domains, each over its total; sum (n): of all. */
static int read_kind(const whit_fisher *f, const char *weight, int64_t layer, const char *kind, int64_t n, double *most,
                     double *sum, whit_err *e) {
	for (int d = 0; d < f->domains; d++) {
		whit_sum u = {.ndim = 1, .dtype = WHIT_F64, .shape = {n, 1, 1}};
		int rc = whit_stats_dir_read(&f->dir, layer, domain_name(f, d), weight, kind, &u, e);
		if (rc) return rc;
		for (int64_t i = 0; i < n; i++) {
			double x = ((const double *)u.data)[i] / f->total[d];
			most[i] = fmax(most[i], x);
			sum[i] += x;
		}
		whit_free(u.data);
	}
	return 0;
}

static double mean_of(const double *x, int64_t n) {
	double sum = 0;
	for (int64_t i = 0; i < n; i++) sum += x[i];
	return sum / (double)n;
}

int whit_fisher_read(const whit_fisher *f, const char *weight, int64_t rows, int64_t cols, whit_fisher_sums *s,
                     whit_err *e) {
	const double SHRINK = 0.2, SPIKE = 2;
	int64_t layer, width;
	*s = (whit_fisher_sums){0};
	if (!whit_stats_dir_input(&f->dir, weight, &layer, &width))
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: has no Fisher information", f->dir.path, weight);
	double *sum = whit_alloc((size_t)WHIT_MAX(rows, cols) * sizeof *sum);
	s->rows = whit_alloc((size_t)rows * sizeof *s->rows);
	s->cols = whit_alloc((size_t)cols * sizeof *s->cols);
	s->spike = whit_alloc((size_t)rows);
	int rc = read_kind(f, weight, layer, "fisher.cols", cols, s->cols, sum, e);
	memset(sum, 0, (size_t)rows * sizeof *sum);
	if (!rc) rc = read_kind(f, weight, layer, "fisher.rows", rows, s->rows, sum, e);
	for (int64_t i = 0; i < rows && !rc; i++) s->spike[i] = s->rows[i] * f->domains > SPIKE * sum[i];
	s->mean = mean_of(s->rows, rows) / (double)cols;
	double r = mean_of(s->rows, rows), c = mean_of(s->cols, cols);
	for (int64_t i = 0; i < rows; i++) s->rows[i] += SHRINK * (r - s->rows[i]);
	for (int64_t i = 0; i < cols; i++) s->cols[i] += SHRINK * (c - s->cols[i]);
	whit_free(sum);
	if (rc) whit_fisher_sums_free(s);
	return rc;
}

void whit_fisher_sums_free(whit_fisher_sums *s) {
	whit_free(s->rows);
	whit_free(s->cols);
	whit_free(s->spike);
	*s = (whit_fisher_sums){0};
}
