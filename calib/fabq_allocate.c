/* fabq_allocate: errors of rows in each binary format and in the core's, then the knapsack, once for each set of
 * codebooks that could be paid for. */
#include "calib/fabq_allocate.h"
#include <stdlib.h>
#include <math.h>
#include <stdio.h>
#include "calib/feedback.h"
#include "calib/parts.h"
#include "calib/recipe.h"
#include "host/progress.h"

enum { SIZES = 4, BOOKS = 2, SHARES = 9, OPTIONS = SIZES * BOOKS * SHARES, MOST_ROWS = 1024 };
static const int share[SHARES] = {0, 5, 10, 15, 20, 30, 40, 50, 60};

static whit_spec spec_of(int size, int book, int core) {
	return (whit_spec){
	        .fmt = &whit_format_frc, .group = 64 << size, .core = share[core], .flags = book ? WHIT_FRC_BOOK : 0};
}

static int option_of(int size, int book, int core) { return (size * BOOKS + book) * SHARES + core; }

/* Rows of one weight, some or all. */
typedef struct rows {
	const whit_mat *src;
	const whit_fisher_sums *f;
	int64_t n;
	float *imp; /* of columns */
	whit_mat binary[SIZES][BOOKS], core;
	double (*err)[SIZES * BOOKS + 1]; /* n; the core's last */
} rows;

static void row_item(void *ctx, int64_t i, int worker) {
	const rows *s = ctx;
	int64_t r = i * s->src->rows / s->n, cols = s->src->cols;
	float *w = whit_alloc((size_t)(2 * cols) * sizeof *w), *x = w + cols;
	(void)worker;
	whit_mat_decode(s->src, r, r + 1, w);
	for (int k = 0; k <= SIZES * BOOKS; k++) {
		const whit_mat *as = k == SIZES * BOOKS ? &s->core : &s->binary[k / BOOKS][k % BOOKS];
		s->err[i][k] = s->f->rows[r] * whit_part_error(as, s->imp, WHIT_SCALE_LS, w, x);
	}
	whit_free(w);
}

static int falling(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x < y) - (x > y);
}

/* Losses of all options from the errors of rows: the core takes the rows that gain most. */
static int choices_of(const rows *s, whit_choice *to, whit_err *e) {
	double *gain = whit_alloc((size_t)s->n * sizeof *gain), scale = (double)s->src->rows / (double)s->n;
	int rc = 0;
	for (int k = 0; k < SIZES * BOOKS && !rc; k++) {
		double all = 0;
		for (int64_t i = 0; i < s->n; i++) {
			all += s->err[i][k];
			gain[i] = s->err[i][k] - s->err[i][SIZES * BOOKS];
		}
		qsort(gain, (size_t)s->n, sizeof *gain, falling);
		for (int c = 0; c < SHARES; c++) {
			const whit_spec spec = spec_of(k / BOOKS, k % BOOKS, c);
			whit_choice *o = &to[option_of(k / BOOKS, k % BOOKS, c)];
			double left = all;
			for (int64_t i = 0; i < s->n * share[c] / 1000; i++) left -= gain[i];
			*o = (whit_choice){whit_spec_bytes(&spec, s->src->rows, s->src->cols, 0, e), left * scale};
			if (o->bytes < 0) rc = e->code;
		}
	}
	whit_free(gain);
	return rc;
}

/* The choices of one weight; book: of each size. */
static int measure(const whit_weight *w, const whit_fisher_sums *f, whit_frc_book *const *book, whit_choice *to,
                   whit_err *e) {
	rows s = {.src = &w->mat, .f = f, .n = WHIT_MIN(w->mat.rows, MOST_ROWS)};
	int64_t cols = w->mat.cols;
	float *factors = whit_alloc((size_t)(WHIT_FRC_CHOICES * (64 + 128 + 256 + 512)) * sizeof *factors),
	      *at = factors;
	const whit_spec first = spec_of(0, 0, 0);
	double sum = 0;
	for (int64_t i = 0; i < w->mat.rows; i++) sum += f->rows[i];
	s.imp = whit_alloc((size_t)cols * sizeof *s.imp);
	for (int64_t i = 0; i < cols; i++) s.imp[i] = sum > 0 ? (float)(f->cols[i] / sum) : 0;
	int rc = whit_fabq_core_spec(&s.core.spec, &first, e);
	s.core.width = cols;
	for (int k = 0; k < SIZES && !rc; k++) {
		const whit_feedback weighted = {.n = cols, .h_diag = s.imp};
		whit_mat m = {.spec = spec_of(k, 1, 0), .rows = w->mat.rows, .cols = cols, .width = cols};
		uint8_t id[WHIT_FRC_CHOICES];
		m.book = book[k], m.codebook = at;
		whit_fabq_profiles(&(whit_job){.src = w, .dst = &m, .feedback = &weighted}, id);
		whit_frc_factors(book[k], id, WHIT_FRC_CHOICES, at);
		for (int b = 0; b < BOOKS; b++)
			s.binary[k][b] = (whit_mat){.spec = {.fmt = &whit_format_bin,
			                                     .bits = 1,
			                                     .group = m.spec.group,
			                                     .flags = b ? WHIT_FRC_BOOK : 0},
			                            .width = cols,
			                            .codebook = b ? at : NULL};
		at += WHIT_FRC_CHOICES * m.spec.group;
	}
	s.err = whit_alloc((size_t)s.n * sizeof *s.err);
	if (!rc) whit_parallel(s.n, row_item, &s);
	if (!rc) rc = choices_of(&s, to, e);
	whit_free(s.err);
	whit_free(s.imp);
	whit_free(factors);
	return rc;
}

/* The weights of layers that there are sums of; *n of them. */
static const whit_weight **weights_of(const whit_model *m, const whit_fisher *f, int64_t *n) {
	const whit_weight **w = whit_alloc((size_t)(m->ckpt.n + 1) * sizeof *w);
	*n = 0;
	for (int64_t i = 0; i < m->ckpt.n; i++) {
		const whit_weight *x = &m->ckpt.w[i];
		const char *role;
		int64_t layer;
		if (x->alias || whit_model_role(m, x->name, &role, &layer) != WHIT_CLASS_LINEAR) continue;
		if (x->mat.spec.fmt && whit_fisher_has(f, x->name)) w[(*n)++] = x;
	}
	return w;
}

static int train(whit_frc_book **book, const whit_weight *const *w, int64_t n, whit_err *e) {
	whit_fabq_source *s = whit_alloc((size_t)n * sizeof *s);
	int rc = 0;
	for (int k = 0; k < SIZES && !rc; k++) {
		for (int64_t i = 0; i < n; i++) {
			s[i] = (whit_fabq_source){.src = w[i]};
			s[i].dst = (whit_mat){.spec = spec_of(k, 1, 0),
			                      .rows = w[i]->mat.rows,
			                      .cols = w[i]->mat.cols,
			                      .width = w[i]->mat.cols};
		}
		book[k] = whit_frc_book_new(64 << k, 0, WHIT_FRC_BOOK);
		rc = whit_fabq_train(book[k], s, n, 0, NULL, e);
	}
	whit_free(s);
	return rc;
}

/* Whether a budget is enough for the smallest records, which are known without measuring. */
static int check_budget(const whit_weight *const *w, int64_t n, int64_t budget, whit_err *e) {
	const whit_spec spec = spec_of(SIZES - 1, 0, 0);
	int64_t least = 0;
	for (int64_t i = 0; i < n; i++) {
		int64_t bytes = whit_spec_bytes(&spec, w[i]->mat.rows, w[i]->mat.cols, 0, e);
		if (bytes < 0) return e->code;
		least += bytes;
	}
	return least <= budget ? 0
	                       : whit_fail(e, WHIT_EUSAGE, "budget is %lld bytes, need %lld for the smallest records",
	                                   (long long)budget, (long long)least);
}

/* The best of all sets of codebooks that a budget can pay for. */
static int choose(const whit_choice *all, int64_t n, int64_t budget, int *pick, whit_allocation *out, whit_err *e) {
	whit_choice *now = whit_alloc((size_t)(n * OPTIONS) * sizeof *now);
	int *tried = whit_alloc((size_t)n * sizeof *tried), found = 0, rc = 0;
	for (int set = 0; set < 1 << SIZES && !rc; set++) {
		whit_allocation a;
		whit_err none;
		int64_t books = 0;
		for (int k = 0; k < SIZES; k++) books += set >> k & 1 ? whit_frc_book_bytes(64 << k, WHIT_FRC_BOOK) : 0;
		for (int64_t i = 0; i < n * OPTIONS; i++) {
			int size = (int)(i % OPTIONS) / (BOOKS * SHARES), book = (int)(i % OPTIONS) / SHARES % BOOKS;
			now[i] = all[i];
			if (book && !(set >> size & 1)) now[i].bytes = -1;
		}
		rc = whit_interrupted(e);
		if (rc || books >= budget || whit_allocate(now, n, OPTIONS, budget - books, tried, &a, &none)) continue;
		a.bytes += books, a.uniform_bytes += a.uniform >= 0 ? books : 0;
		if (found && !(a.loss < out->loss)) continue;
		found = 1, *out = a;
		memcpy(pick, tried, (size_t)n * sizeof *pick);
	}
	whit_free(now);
	whit_free(tried);
	if (!rc && !found) rc = whit_fail(e, WHIT_EINTERNAL, "no records within %lld bytes", (long long)budget);
	return rc;
}

static char *recipe_of(const whit_weight *const *w, const int *pick, int64_t n) {
	char *text = whit_strdup(""), format[32];
	for (int64_t i = 0; i < n; i++) {
		int o = pick[i];
		const whit_spec spec = spec_of(o / (BOOKS * SHARES), o / SHARES % BOOKS, o % SHARES);
		whit_spec_name(&spec, format);
		char *more = whit_format_text("%s%s %s\n", text, w[i]->name, format);
		whit_free(text);
		text = more;
	}
	return text;
}

int whit_fabq_allocate(const whit_model *m, const whit_fisher *f, double bpw, char **text, whit_allocation *out,
                       whit_err *e) {
	int64_t n, weights = 0;
	const whit_weight **w = weights_of(m, f, &n);
	whit_frc_book *book[SIZES] = {NULL};
	whit_choice *all = whit_alloc((size_t)(n * OPTIONS + 1) * sizeof *all);
	int *pick = whit_alloc((size_t)(n + 1) * sizeof *pick);
	int rc = n ? 0 : whit_fail(e, WHIT_EUSAGE, "%s: has no sums of this model's linear layers", f->dir.path);
	for (int64_t i = 0; i < n; i++) weights += w[i]->mat.rows * w[i]->mat.cols;
	int64_t budget = (int64_t)(bpw * (double)weights / 8);
	if (!rc) rc = check_budget(w, n, budget, e);
	if (!rc) whit_say("measuring %lld tensors in %d record formats", (long long)n, OPTIONS);
	if (!rc) rc = train(book, w, n, e);
	for (int64_t i = 0; i < n && !rc; i++) {
		whit_fisher_sums s;
		rc = whit_interrupted(e);
		if (!rc) rc = whit_fisher_read(f, w[i]->name, w[i]->mat.rows, w[i]->mat.cols, &s, e);
		if (rc) break;
		rc = measure(w[i], &s, book, all + i * OPTIONS, e);
		whit_fisher_sums_free(&s);
		whit_weight_drop(w[i]);
	}
	if (!rc) rc = choose(all, n, budget, pick, out, e);
	if (!rc) *text = recipe_of(w, pick, n);
	for (int k = 0; k < SIZES; k++) whit_free(book[k]);
	whit_free(pick);
	whit_free(all);
	whit_free(w);
	return rc;
}
