/* calibration: sums to Hessians, in the frame of a weight's stored columns. */
#include "calib/calibration.h"
#include <math.h>
#include <stdio.h>
#include "calib/stats_own.h"
#include "cuda/dev.h"
#include "formats/gguf_model.h"
#include "formats/tensor.h"
#include "host/op_vec.h"
#include "host/progress.h"

typedef struct whit_calibration_made {
	char *input; /* the first weight that reads it */
	const whit_rotation *rot;
	int changed, kind;
	float *scale; /* of its columns, or NULL */
	whit_feedback f;
} made;

static void forget(whit_calibration *c) {
	for (int i = 0; i < c->n_made; i++) {
		whit_free(c->made[i].input);
		whit_free(c->made[i].scale);
		whit_feedback_free(&c->made[i].f);
	}
	whit_free(c->made);
	c->made = NULL;
	c->n_made = 0;
}

void whit_calibration_free(whit_calibration *c) {
	forget(c);
	if (c->dir.path) whit_stats_dir_close(&c->dir);
	if (c->fisher.dir.path) whit_fisher_close(&c->fisher);
}

/* Which of n names `name` is, the first where it is NULL; -1: none. */
static int named(const char *const *names, int n, const char *name) {
	for (int i = 0; name && i < n; i++)
		if (!strcmp(names[i], name)) return i;
	return name ? -1 : 0;
}

int whit_core_parse(const char *name) {
	static const char *const names[] = {"gain", "fisher", "magnitude", "hessian", "random"}; /* WHIT_CORE_* */
	return named(names, WHIT_COUNT(names), name);
}

int whit_metric_parse(const char *name) {
	static const char *const names[] = {"hessian", "guided", "diag", "fisher"}; /* WHIT_METRIC_* */
	return named(names, WHIT_COUNT(names), name);
}

int whit_calibration_open(whit_calibration *c, const char *path, const char *metric, const whit_model *m, whit_err *e) {
	int rc = whit_stats_dir_open(&c->dir, path, m, e);
	c->metric = whit_metric_parse(metric);
	c->guided = c->metric == WHIT_METRIC_GUIDED;
	if (!rc && c->guided && !whit_calibration_groups(c))
		rc = whit_fail(e, WHIT_EINPUT, "%s: has no guided sums, need whit calibrate --stats guided", path);
	return rc;
}

typedef struct input {
	const char *weight; /* the first that reads it; NULL: no statistics */
	int64_t layer, cols;
} input;

static input input_of(const whit_calibration *c, const char *name) {
	input in = {0};
	if (c->dir.path) {
		in.weight = whit_stats_dir_input(&c->dir, name, &in.layer, &in.cols);
		return in;
	}
	for (int64_t i = 0; c->live && i < c->live->n; i++)
		for (int k = 0; k < c->live->in[i].n_weight; k++)
			if (!strcmp(c->live->in[i].weight[k], name))
				return (input){c->live->in[i].weight[0], c->live->in[i].layer, c->live->in[i].cols};
	return in;
}

int whit_calibration_has(const whit_calibration *c, const char *name, int64_t layer) {
	return c->dir.path ? input_of(c, name).weight != NULL : layer >= 0;
}

static int domains_of(const whit_calibration *c) {
	return c->dir.path ? (int)json_array_size(json_object_get(c->dir.about, "domains")) : c->live->n_domain;
}

/* *u, in the shape that it has: domain d's sum of that weight and kind, a directory's in memory of the caller's, else
 * *u becomes that of the run. Its tokens are added to *tokens. */
static int read_domain(const whit_calibration *c, const input *in, const char *weight, const char *kind, int d,
                       whit_sum **u, double *tokens, whit_err *e) {
	if (!c->dir.path) {
		*u = whit_stats_find(c->live, in->layer, c->live->domain[d].name, weight, kind);
		*tokens += (double)(c->live->domain[d].chunks * c->live->ctx);
		return 0;
	}
	const json_t *domain = json_array_get(json_object_get(c->dir.about, "domains"), (size_t)d);
	const char *name = json_string_value(json_object_get(domain, "name"));
	*tokens += (double)json_integer_value(json_object_get(domain, "tokens"));
	return whit_stats_dir_read(&c->dir, in->layer, name ? name : "", weight, kind, *u, e);
}

/* Rows of a matrix side by side, as many bytes at any thread count. */
typedef struct square {
	double *a;
	const float *x;
	float *to;
	const float *scale;
	int64_t rows, cols;
} square;

static void each_row(const square *s, whit_item_fn fn) { whit_items(s->rows, s->cols, fn, (void *)(uintptr_t)s); }

static void row_zero(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	memset(s->a + i * s->cols, 0, (size_t)s->cols * sizeof *s->a);
}

static void row_add(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = i * s->cols; k < (i + 1) * s->cols; k++) s->a[k] += s->x[k];
}

static void row_unscale(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = 0; k < s->cols; k++) s->a[i * s->cols + k] /= (double)s->scale[i] * s->scale[k];
}

static void row_floats(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = i * s->cols; k < (i + 1) * s->cols; k++) s->to[k] = (float)s->a[k];
}

static void row_doubles(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = i * s->cols; k < (i + 1) * s->cols; k++) s->a[k] = s->x[k];
}

/* to (rows, cols) of x (cols, rows). */
static void row_transposed(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = 0; k < s->cols; k++) s->to[i * s->cols + k] = s->x[k * s->rows + i];
}

/* What is left of the diagonal in row i for what is above it in column i: nobody else's. */
static void row_turn(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	int64_t n = s->cols;
	(void)worker;
	for (int64_t k = 0; k < i; k++) {
		double t = s->a[i * n + k];
		s->a[i * n + k] = s->a[k * n + i];
		s->a[k * n + i] = t;
	}
}

/* All domains' sums of that weight and kind, (n, n) in double, of a group of rows (-1: there are none); *tokens of
 * all. */
static int read_sums(const whit_calibration *c, const input *in, const char *weight, const char *kind, int group,
                     double *to, double *tokens, whit_err *e) {
	int64_t n = in->cols, first = group < 0 ? 0 : group * n * n;
	int rc = 0;
	each_row(&(square){.a = to, .rows = n, .cols = n}, row_zero);
	*tokens = 0;
	for (int d = 0; d < domains_of(c) && !rc; d++) {
		whit_sum own = {.ndim = 2, .dtype = WHIT_F32, .shape = {n, n, 1}}, *u = &own;
		if (group >= 0)
			own = (whit_sum){.ndim = 3, .dtype = WHIT_F32, .shape = {whit_calibration_groups(c), n, n}};
		rc = read_domain(c, in, weight, kind, d, &u, tokens, e);
		if (!rc)
			each_row(&(square){.a = to, .x = (const float *)u->data + first, .rows = n, .cols = n},
			         row_add);
		whit_free(own.data);
	}
	return rc;
}

static double trace(const double *h, int64_t n) {
	double sum = 0;
	for (int64_t i = 0; i < n; i++) sum += h[i * n + i];
	return sum;
}

/* H, and where it is asked for G as the sums have it; group: of rows, -1 = all alike. */
static int read_both(const whit_calibration *c, const whit_calibration_of *w, const input *in, int group, double *h,
                     double *g, double *tokens, whit_err *e) {
	const char *weight = group < 0 ? in->weight : w->name;
	int rc = read_sums(c, in, weight, group < 0 ? "in.hessian" : "guided", group, h, tokens, e);
	if (!rc && g) rc = read_sums(c, in, weight, group < 0 ? "in.cross" : "guided.cross", group, g, tokens, e);
	if (rc || group < 0 || trace(h, in->cols) != 0) return rc;
	whit_say("warning: %s: no gradient of its rows' group %d, all tokens weigh the same", w->name, group + 1);
	return read_both(c, w, in, -1, h, g, tokens, e);
}

/* a (cols, cols) becomes that of the stored columns, (width, width): columns scaled, in a GGUF's order, then rotated,
 * both ways. What is rotated is rounded to F32, as the sums are. */
static double *into_frame(double *a, const whit_calibration_of *w, int64_t cols, int64_t width) {
	if (w->scale) each_row(&(square){.a = a, .scale = w->scale, .rows = cols, .cols = cols}, row_unscale);
	if (!w->rot && !w->change) return a;
	int64_t size = width * WHIT_MAX(width, cols);
	float *x = whit_alloc((size_t)(2 * size) * sizeof *x), *y = x + size;
	each_row(&(square){.a = a, .to = x, .rows = cols, .cols = cols}, row_floats);
	for (int side = 0; side < 2; side++) {
		int64_t rows = side ? width : cols;
		if (w->change) whit_gguf_apply(w->change, x, rows, cols);
		if (w->rot)
			whit_rotate_cpu(w->rot, y, x, rows);
		else
			memcpy(y, x, (size_t)(rows * width) * sizeof *y);
		each_row(&(square){.x = y, .to = x, .rows = width, .cols = rows}, row_transposed);
	}
	a = whit_realloc(a, (size_t)(cols * cols) * sizeof *a, (size_t)(width * width) * sizeof *a);
	each_row(&(square){.a = a, .x = x, .rows = width, .cols = width}, row_doubles);
	whit_free(x);
	return a;
}

/* Once for all weights, where their factors cannot be the device's. */
static void check_device(whit_calibration *c) {
	size_t room;
	whit_err why;
	if (!c->feedback.dev || !whit_dev_factors(c->feedback.dev, 1, &room, &why)) return;
	whit_say("factors are computed on the host: %s", why.text);
	c->feedback.dev = NULL;
}

/* group: of rows, -1 = all alike. */
static int make(whit_calibration *c, const whit_calibration_of *w, const input *in, int group, whit_feedback *f,
                whit_err *e) {
	int64_t cols = in->cols, width = w->rot ? whit_rotation_width(w->rot) : cols;
	double *h = whit_alloc((size_t)(cols * cols) * sizeof *h), tokens;
	double *g = w->cross ? whit_alloc((size_t)(cols * cols) * sizeof *g) : NULL;
	int rc = read_both(c, w, in, group, h, g, &tokens, e);
	if (!rc) {
		whit_divide(h, cols, cols, tokens);
		if (g) { /* in.cross is sum x X^T, x of the model that runs: G's transpose */
			whit_divide(g, cols, cols, tokens);
			each_row(&(square){.a = g, .rows = cols, .cols = cols}, row_turn);
		}
		h = into_frame(h, w, cols, width);
		if (g) g = into_frame(g, w, cols, width);
		if (tokens < (double)cols && group <= 0) {
			c->few++;
			whit_say("warning: %s: %.0f tokens for an input of %lld columns, need as many at least",
			         w->name, tokens, (long long)cols);
		}
		check_device(c);
		rc = whit_feedback_make(f, w->kind, h, g, width, &c->feedback, w->name, e);
	}
	if (!rc && f->retries)
		whit_say("warning: %s: Hessian is not positive definite, damping raised %d times to %.3g", w->name,
		         f->retries, f->damping);
	if (!rc) c->retries += f->retries, c->dead += f->dead;
	whit_free(h);
	whit_free(g);
	return rc;
}

/* A directory's sums of n doubles, all domains'. */
static int add_domains(const whit_calibration *c, int64_t layer, const char *weight, const char *kind, int64_t n,
                       double *to, whit_err *e) {
	size_t i;
	json_t *domain;
	memset(to, 0, (size_t)n * sizeof *to);
	json_array_foreach(json_object_get(c->dir.about, "domains"), i, domain) {
		whit_sum u = {.ndim = 1, .dtype = WHIT_F64, .shape = {n, 1, 1}};
		const char *d = json_string_value(json_object_get(domain, "name"));
		int rc = whit_stats_dir_read(&c->dir, layer, d ? d : "", weight, kind, &u, e);
		if (rc) return rc;
		for (int64_t k = 0; k < n; k++) to[k] += ((const double *)u.data)[k];
		whit_free(u.data);
	}
	return 0;
}

int whit_calibration_columns(const whit_calibration *c, const char *name, int64_t rows, int64_t cols, float **x,
                             whit_err *e) {
	int fisher = c->metric == WHIT_METRIC_FISHER, rc = 0;
	const input in = fisher ? (input){0} : input_of(c, name);
	whit_fisher_sums s = {0};
	double *sum = NULL, mean = 0;
	*x = NULL;
	if (fisher ? !whit_fisher_has(&c->fisher, name) : !in.weight || in.cols != cols) return 0;
	if (fisher) {
		rc = whit_fisher_read(&c->fisher, name, rows, cols, &s, e);
	} else {
		sum = whit_alloc((size_t)cols * sizeof *sum);
		rc = add_domains(c, in.layer, in.weight, "in.sq", cols, sum, e);
	}
	const double *from = fisher ? s.cols : sum;
	for (int64_t i = 0; i < cols && !rc; i++) mean += from[i] / (double)cols;
	if (!rc && (!(mean > 0) || !isfinite(mean)))
		rc = whit_fail(e, WHIT_ENONFINITE, "tensor %s: mean importance of its columns is %g, need above 0",
		               name, mean);
	if (!rc) *x = whit_alloc((size_t)cols * sizeof **x);
	for (int64_t i = 0; i < cols && !rc; i++) (*x)[i] = (float)(from[i] / mean);
	whit_fisher_sums_free(&s);
	whit_free(sum);
	return rc;
}

int whit_calibration_groups(const whit_calibration *c) {
	return c->dir.path ? (int)json_integer_value(json_object_get(c->dir.about, "groups")) : c->o.groups;
}

int whit_calibration_guided(whit_calibration *c, const whit_calibration_of *w, int g, whit_feedback *f, whit_err *e) {
	const input in = input_of(c, w->name);
	*f = (whit_feedback){0};
	if (!in.weight || g < 0 || g >= whit_calibration_groups(c))
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: has no guided sums of group %d",
		                 c->dir.path ? c->dir.path : "calibration text", w->name, g);
	return make(c, w, &in, g, f, e);
}

int whit_calibration_hessian(const whit_calibration *c, const whit_calibration_of *w, double **h, int64_t *n,
                             whit_err *e) {
	const input in = input_of(c, w->name);
	double tokens;
	if (!in.weight)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: has no statistics of its input",
		                 c->dir.path ? c->dir.path : "calibration text", w->name);
	*n = w->rot ? whit_rotation_width(w->rot) : in.cols;
	*h = whit_alloc((size_t)(in.cols * in.cols) * sizeof **h);
	int rc = read_sums(c, &in, in.weight, "in.hessian", -1, *h, &tokens, e);
	if (rc) {
		whit_free(*h);
		*h = NULL;
		return rc;
	}
	whit_divide(*h, in.cols, in.cols, tokens);
	*h = into_frame(*h, w, in.cols, *n);
	return 0;
}

int whit_calibration_sizes(const whit_calibration *c, const char *name, const char *kind, double **size, whit_err *e) {
	const input in = input_of(c, name);
	int most = !strcmp(kind, "in.max"), rc = 0;
	*size = NULL;
	if (!in.weight || (c->dir.path && !whit_calibration_sums(c, "size"))) return 0;
	double tokens = 0, *to = *size = whit_alloc((size_t)in.cols * sizeof *to);
	for (int d = 0; d < domains_of(c) && !rc; d++) {
		whit_sum own = {.ndim = 1, .dtype = WHIT_F64, .shape = {in.cols, 1, 1}}, *u = &own;
		rc = read_domain(c, &in, in.weight, kind, d, &u, &tokens, e);
		for (int64_t i = 0; i < in.cols && !rc; i++) {
			double x = ((const double *)u->data)[i];
			to[i] = most ? fmax(to[i], x) : to[i] + x;
		}
		whit_free(own.data);
	}
	for (int64_t i = 0; i < in.cols && !most; i++) to[i] /= tokens;
	return rc;
}

int whit_calibration_sums(const whit_calibration *c, const char *statistic) {
	size_t i;
	json_t *word;
	json_array_foreach(json_object_get(c->dir.about, "stats"), i, word) {
		const char *is = json_string_value(word);
		if (is && !strcmp(is, statistic)) return 1;
	}
	return 0;
}

int whit_calibration_rows(const whit_calibration *c, const char *name, int64_t rows, double *sum, whit_err *e) {
	return add_domains(c, input_of(c, name).layer, name, "fisher.rows", rows, sum, e);
}

/* Of an input that several weights read, each may have scales of its own: those that its record stores. */
static int same_scale(const float *a, const float *b, int64_t n) {
	return a && b ? !memcmp(a, b, (size_t)n * sizeof *a) : a == b;
}

int whit_calibration_get(whit_calibration *c, const whit_calibration_of *w, const whit_feedback **f, whit_err *e) {
	const input in = input_of(c, w->name);
	if (!in.weight)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: has no statistics of its input",
		                 c->dir.path ? c->dir.path : "calibration text", w->name);
	if (in.layer != c->layer) forget(c);
	c->layer = in.layer;
	for (int i = 0; i < c->n_made; i++) {
		made *m = &c->made[i];
		if (strcmp(m->input, in.weight) || m->rot != w->rot || m->changed != (w->change != NULL) ||
		    m->kind != w->kind || !same_scale(m->scale, w->scale, in.cols))
			continue;
		*f = &m->f;
		return 0;
	}
	c->made = whit_realloc(c->made, (size_t)c->n_made * sizeof *c->made, (size_t)(c->n_made + 1) * sizeof *c->made);
	made *m = &c->made[c->n_made];
	*m = (made){.rot = w->rot, .changed = w->change != NULL, .kind = w->kind};
	int rc = make(c, w, &in, -1, &m->f, e);
	if (rc) return rc;
	m->input = whit_strdup(in.weight);
	if (w->scale) {
		size_t bytes = (size_t)in.cols * sizeof *m->scale;
		m->scale = memcpy(whit_alloc(bytes), w->scale, bytes);
	}
	c->n_made++;
	*f = &m->f;
	return 0;
}
