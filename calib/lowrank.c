/* lowrank: eigenvectors of the smaller Gram matrix of M = D^1/2 E L. With rows <= cols those are U of M = U S V^T, and
 * A = U^T D^1/2 E needs no L at all: U U^T M L^-1 = U U^T D^1/2 E. Else V, and A = (L^-T V)^T by one triangular solve.
 * Products are cut into strips of rows that do not depend on threads. */
#include "calib/lowrank.h"
#include <cblas.h>
#include <lapacke.h>
#include <math.h>

enum { STRIP = 64 }; /* rows of a product at a time */

/* c (m, n) = a (m, k) b, where b (k, n) may be given transposed, (n, k). */
typedef struct product {
	const double *a, *b;
	double *c;
	int64_t m, n, k;
	int transposed;
} product;

static void product_item(void *ctx, int64_t i, int worker) {
	const product *p = ctx;
	int64_t r = i * STRIP, m = WHIT_MIN(STRIP, p->m - r);
	(void)worker;
	cblas_dgemm(CblasRowMajor, CblasNoTrans, p->transposed ? CblasTrans : CblasNoTrans, (int)m, (int)p->n,
	            (int)p->k, 1, p->a + r * p->k, (int)p->k, p->b, (int)(p->transposed ? p->k : p->n), 0,
	            p->c + r * p->n, (int)p->n);
}

static void multiply(double *c, const double *a, const double *b, int64_t m, int64_t n, int64_t k, int transposed) {
	product p = {a, b, c, m, n, k, transposed};
	whit_parallel((m + STRIP - 1) / STRIP, product_item, &p);
}

static double *doubles(int64_t n) { return whit_alloc((size_t)n * sizeof(double)); }

static void transpose(double *to, const double *a, int64_t rows, int64_t cols) {
	for (int64_t i = 0; i < rows; i++)
		for (int64_t k = 0; k < cols; k++) to[k * rows + i] = a[i * cols + k];
}

/* tr(x h x^T) of x (rows, cols); t: room for as many. */
static double weighted(const double *x, const double *h, int64_t rows, int64_t cols, double *t) {
	double sum = 0;
	multiply(t, x, h, rows, cols, cols, 0);
	for (int64_t i = 0; i < rows * cols; i++) sum += x[i] * t[i];
	return sum;
}

/* v (rank, n): eigenvectors of g (n, n; used up), those of the largest eigenvalues, the largest first; *sum: of these.
 */
static int largest(double *v, double *sum, double *g, int64_t n, int64_t rank) {
	double *w = doubles(n), *z = doubles(n * rank);
	lapack_int *support = whit_alloc((size_t)(2 * n) * sizeof *support), found = 0;
	int bad = (int)LAPACKE_dsyevr(LAPACK_COL_MAJOR, 'V', rank == n ? 'A' : 'I', 'U', (int)n, g, (int)n, 0, 0,
	                              (int)(n - rank + 1), (int)n, 0, &found, w, z, (int)n, support);
	bad |= found != rank;
	*sum = 0;
	for (int64_t r = 0; r < rank && !bad; r++) {
		*sum += fmax(w[rank - 1 - r], 0);
		memcpy(v + r * n, z + (rank - 1 - r) * n, (size_t)n * sizeof *v);
	}
	whit_free(support);
	whit_free(z);
	whit_free(w);
	return bad;
}

/* h = l l^T, l by rows, its upper triangle zero; 0, or not positive definite. */
static int cholesky(double *l, const double *h, int64_t n) {
	memcpy(l, h, (size_t)(n * n) * sizeof *l);
	/* what is the lower triangle by rows is the upper one by columns */
	int bad = (int)LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', (int)n, l, (int)n);
	for (int64_t i = 0; i < n && !bad; i++)
		for (int64_t k = i + 1; k < n; k++) l[i * n + k] = 0;
	return bad;
}

static void add_diagonal(double *h, int64_t n, double by) {
	for (int64_t i = 0; i < n; i++) h[i * n + i] += by;
}

/* h with damping added, and its factor at *l. */
static int damp(double *h, double **l, int64_t n, double damping, int64_t *raised, const char *name, whit_err *e) {
	enum { RETRIES = 3 };
	double mean = 0, now = 0;
	for (int64_t i = 0; i < n * n; i++)
		if (!isfinite(h[i]))
			return whit_fail(e, WHIT_ENONFINITE,
			                 "%s: statistics of its input hold NaN or Inf, need finite numbers", name);
	for (int64_t i = 0; i < n; i++) mean += h[i * n + i] / (double)n;
	if (!(mean > 0))
		return whit_fail(e, WHIT_EINPUT, "%s: its input was always zero, need statistics of a text", name);
	*l = doubles(n * n);
	for (int tried = 0;; tried++) {
		add_diagonal(h, n, (damping - now) * mean);
		now = damping;
		if (!cholesky(*l, h, n)) return 0;
		if (tried == RETRIES) break;
		++*raised;
		damping = damping > 0 ? 10 * damping : 1e-4;
	}
	return whit_fail(
	        e, WHIT_ENONFINITE,
	        "%s: Hessian is not positive definite with %.3g of its mean diagonal added, need more tokens or a "
	        "larger --damping",
	        name, now);
}

/* Factors of x (rows, cols) with rows <= cols: b (rows, rank) and a (rank, cols), of h as it is; *kept: the error they
 * take away. */
static int by_rows(const whit_lowrank *f, const double *x, const double *h, double *a, double *b, double *kept) {
	int64_t n = f->rows, cols = f->cols;
	double *t = doubles(n * cols), *g = doubles(n * n), *u = doubles(f->rank * n);
	multiply(t, x, h, n, cols, cols, 0);
	multiply(g, t, x, n, n, cols, 1);
	int bad = largest(u, kept, g, n, f->rank);
	multiply(a, u, x, f->rank, cols, n, 0);
	transpose(b, u, f->rank, n);
	whit_free(u);
	whit_free(g);
	whit_free(t);
	return bad;
}

/* The same with more rows than columns: by V, of h's factor l. */
static int by_columns(const whit_lowrank *f, const double *x, const double *l, double *a, double *b, double *kept) {
	int64_t n = f->cols, rows = f->rows;
	double *m = doubles(rows * n), *turned = doubles(rows * n), *g = doubles(n * n),
	       *columns = doubles(f->rank * n);
	multiply(m, x, l, rows, n, n, 0);
	transpose(turned, m, rows, n);
	multiply(g, turned, turned, n, n, rows, 1);
	int bad = largest(a, kept, g, n, f->rank);
	multiply(b, m, a, rows, f->rank, n, 1);
	/* l^T y = v; rows of a are its right sides, and what l is by rows is its transpose by columns */
	transpose(columns, a, f->rank, n);
	cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, (int)n, (int)f->rank, 1, l, (int)n,
	            columns, (int)f->rank);
	transpose(a, columns, n, f->rank);
	whit_free(columns);
	whit_free(g);
	whit_free(turned);
	whit_free(m);
	return bad;
}

static double most(const double *x, int64_t n, int64_t step) {
	double v = 0;
	for (int64_t i = 0; i < n; i++) v = fmax(v, fabs(x[i * step]));
	return v;
}

/* Each component's two vectors to one size, so that neither leaves F16, and there. */
static int to_f16(whit_lowrank *f, double *a, double *b, const double *root, const char *name, whit_err *e) {
	int64_t rank = f->rank;
	for (int64_t i = 0; i < f->rows && root; i++)
		for (int64_t r = 0; r < rank; r++) b[i * rank + r] /= root[i];
	for (int64_t r = 0; r < rank; r++) {
		double ma = most(a + r * f->cols, f->cols, 1), mb = most(b + r, f->rows, rank);
		double by = ma > 0 && mb > 0 ? sqrt(mb / ma) : 0;
		if (!(sqrt(ma * mb) <= 65504))
			return whit_fail(e, WHIT_ENONFINITE,
			                 "%s: low-rank factor %lld reaches %g, need at most 65504 in F16", name,
			                 (long long)r, sqrt(ma * mb));
		for (int64_t k = 0; k < f->cols; k++)
			f->a[r * f->cols + k] = whit_f32_to_f16((float)(a[r * f->cols + k] * by));
		for (int64_t i = 0; i < f->rows; i++)
			f->b[i * rank + r] = whit_f32_to_f16(by > 0 ? (float)(b[i * rank + r] / by) : 0);
	}
	return 0;
}

/* The product of the factors as they are stored, (rows, cols); the caller frees it. */
static double *product_of(const whit_lowrank *f) {
	int64_t na = f->rank * f->cols, nb = f->rows * f->rank;
	double *a = doubles(na + nb), *b = a + na, *ba = doubles(f->rows * f->cols);
	for (int64_t i = 0; i < na; i++) a[i] = whit_f16_to_f32(f->a[i]);
	for (int64_t i = 0; i < nb; i++) b[i] = whit_f16_to_f32(f->b[i]);
	multiply(ba, b, a, f->rows, f->cols, f->rank, 0);
	whit_free(a);
	return ba;
}

void whit_lowrank_add(const whit_lowrank *f, float *w) {
	double *ba = product_of(f);
	for (int64_t i = 0; i < f->rows * f->cols; i++) w[i] = (float)(w[i] + ba[i]);
	whit_free(ba);
}

/* x = D^1/2 (E - B A). */
static void leave(const whit_lowrank *f, double *x, const float *e, const double *root) {
	double *ba = product_of(f);
	for (int64_t i = 0; i < f->rows * f->cols; i++) x[i] = (e[i] - ba[i]) * (root ? root[i / f->cols] : 1);
	whit_free(ba);
}

/* Square roots of the rows' importance; NULL: all alike. */
static double *roots(const double *alpha, int64_t rows) {
	double *root = alpha ? doubles(rows) : NULL, mean = 0;
	for (int64_t i = 0; i < rows && root; i++) mean += alpha[i] / (double)rows;
	for (int64_t i = 0; i < rows && root; i++) root[i] = sqrt(alpha[i] / mean);
	return root;
}

static int fit(whit_lowrank *f, const float *e, const double *h, const double *l, const double *root, const char *name,
               whit_err *err) {
	int64_t n = f->rows * f->cols;
	double *x = doubles(n), *t = doubles(n), *a = doubles(f->rank * f->cols), *b = doubles(f->rows * f->rank), kept;
	for (int64_t i = 0; i < n; i++) x[i] = e[i] * (root ? root[i / f->cols] : 1);
	f->before = weighted(x, h, f->rows, f->cols, t);
	int rc = 0, bad = f->rows <= f->cols ? by_rows(f, x, h, a, b, &kept) : by_columns(f, x, l, a, b, &kept);
	if (bad)
		rc = whit_fail(err, WHIT_ENONFINITE, "%s: no eigenvectors of its weighted residual were found", name);
	else
		f->best = fmax(f->before - kept, 0);
	if (!rc) rc = to_f16(f, a, b, root, name, err);
	if (!rc) leave(f, x, e, root);
	if (!rc) f->after = weighted(x, h, f->rows, f->cols, t);
	whit_free(b);
	whit_free(a);
	whit_free(t);
	whit_free(x);
	return rc;
}

int whit_lowrank_fit(whit_lowrank *f, const float *e, int64_t rows, int64_t cols, double *h, const double *alpha,
                     int64_t rank, double damping, int64_t *raised, const char *name, whit_err *err) {
	double *l = NULL;
	*f = (whit_lowrank){.rows = rows, .cols = cols, .rank = rank};
	openblas_set_num_threads(1); /* sums of several threads would depend on their number */
	if (rank < 1 || rank > WHIT_MIN(rows, cols))
		return whit_fail(err, WHIT_EUSAGE, "%s: rank is %lld, need 1 to %lld", name, (long long)rank,
		                 (long long)WHIT_MIN(rows, cols));
	if (whit_first_nonfinite(e, rows * cols) >= 0)
		return whit_fail(err, WHIT_ENONFINITE, "%s: its codes lose NaN or Inf, need finite weights", name);
	int rc = damp(h, &l, cols, damping, raised, name, err);
	f->a = whit_alloc((size_t)(rank * cols) * sizeof *f->a);
	f->b = whit_alloc((size_t)(rows * rank) * sizeof *f->b);
	double *root = roots(alpha, rows);
	if (!rc) rc = fit(f, e, h, l, root, name, err);
	whit_free(root);
	whit_free(l);
	return rc;
}

void whit_lowrank_free(whit_lowrank *f) {
	whit_free(f->a);
	whit_free(f->b);
	*f = (whit_lowrank){0};
}

void whit_lowrank_shrink(double *alpha, int64_t rows) {
	enum { PARTS = 5 };
	double mean = 0;
	for (int64_t i = 0; i < rows; i++) mean += alpha[i] / (double)rows;
	for (int64_t i = 0; i < rows; i++) alpha[i] = mean > 0 ? alpha[i] + (mean - alpha[i]) / PARTS : 1;
}
