/* feedback_make: what columns hand on to each other, from an input's sums: H = R R^T, U = R^-1, and what G adds. The
 * factors themselves are LAPACK's, on one thread, or a device's; what is n^2 work is threaded, each value by itself, so
 * that bytes do not depend on threads. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include "calib/feedback.h"
#include "cuda/dev.h"
#include "host/op_vec.h"
#include "host/ops.h"
#include "host/progress.h"

/* ---- a row of an (n, n) matrix at a time ---- */

typedef struct square {
	double *a;
	const double *b;
	float *to;
	const int64_t *order;
	double by;
	int64_t n;
} square;

static void each_row(const square *s, whit_item_fn fn) { whit_items(s->n, s->n, fn, (void *)(uintptr_t)s); }

/* to (n, floats): 1 where the row is not finite. */
static void row_unsound(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = 0; k < s->n; k++)
		if (!isfinite(s->b[i * s->n + k])) s->to[i] = 1;
}

static void row_reorder(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = 0; k < s->n; k++) s->a[i * s->n + k] = s->b[s->order[i] * s->n + s->order[k]];
}

/* a = J (b + by I) J; J turns the order round. */
static void row_turned(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	int64_t n = s->n, from = n - 1 - i;
	(void)worker;
	for (int64_t k = 0; k < n; k++) s->a[i * n + k] = s->b[from * n + n - 1 - k] + (i == k ? s->by : 0);
}

/* a = J a J where i < (n + 1) / 2: the row and the one that it changes places with. */
static void row_turn(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	double *x = s->a + i * s->n, *y = s->a + (s->n - i) * s->n - 1;
	(void)worker;
	for (int64_t k = 0; k < s->n && x + k < y - k; k++) {
		double t = x[k];
		x[k] = y[-k];
		y[-k] = t;
	}
}

/* to = J b J of b's lower triangle: an upper one. */
static void row_upper(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	int64_t n = s->n, from = n - 1 - i;
	(void)worker;
	for (int64_t k = 0; k < n; k++) s->to[i * n + k] = k < i ? 0 : (float)s->b[from * n + n - 1 - k];
}

static void row_less(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = i * s->n; k < (i + 1) * s->n; k++) s->a[k] = s->b[k] - s->a[k];
}

static void row_strict(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	memset(s->a + i * s->n, 0, (size_t)(i + 1) * sizeof *s->a);
}

static void row_floats(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	for (int64_t k = i * s->n; k < (i + 1) * s->n; k++) s->to[k] = (float)(s->b[k] * s->by);
}

/* a[i] = row i of b times the vector behind a's n values. */
static void row_times(void *ctx, int64_t i, int worker) {
	const square *s = ctx;
	(void)worker;
	s->a[i] = cblas_ddot((int)s->n, s->b + i * s->n, 1, s->a + s->n, 1);
}

static float *matrix(int64_t n) { return whit_alloc((size_t)(n * n) * sizeof(float)); }

/* ---- before they are factored ---- */

static int all_finite(const double *x, int64_t n) {
	float *bad = whit_alloc((size_t)n * sizeof *bad), any = 0;
	each_row(&(square){.b = x, .to = bad, .n = n}, row_unsound);
	for (int64_t i = 0; i < n; i++) any += bad[i];
	whit_free(bad);
	return any == 0;
}

typedef struct ranked {
	double v;
	int64_t i;
} ranked;

static int falling(const void *a, const void *b) {
	const ranked *x = a, *y = b;
	return x->v != y->v ? (x->v < y->v) - (x->v > y->v) : (x->i > y->i) - (x->i < y->i);
}

static int64_t *order_of(const double *h, int64_t n) {
	ranked *r = whit_alloc((size_t)n * sizeof *r);
	int64_t *order = whit_alloc((size_t)n * sizeof *order);
	for (int64_t i = 0; i < n; i++) r[i] = (ranked){h[i * n + i], i};
	qsort(r, (size_t)n, sizeof *r, falling);
	for (int64_t i = 0; i < n; i++) order[i] = r[i].i;
	whit_free(r);
	return order;
}

/* Rows and columns in that order. */
static void reorder(double *a, const int64_t *order, int64_t n) {
	double *b = whit_alloc((size_t)(n * n) * sizeof *b);
	memcpy(b, a, (size_t)(n * n) * sizeof *b);
	each_row(&(square){.a = a, .b = b, .order = order, .n = n}, row_reorder);
	whit_free(b);
}

/* The mean of the diagonal becomes 1, and so do its zeros. */
static int normalize(whit_feedback *f, double *h, double *g) {
	int64_t n = f->n;
	double mean = 0;
	for (int64_t i = 0; i < n; i++) mean += h[i * n + i] / (double)n;
	if (!(mean > 0)) return -1;
	f->scale = mean;
	whit_divide(h, n, n, mean);
	if (g) whit_divide(g, n, n, mean);
	for (int64_t i = 0; i < n; i++)
		if (!(h[i * n + i] > 0)) {
			h[i * n + i] = 1;
			f->dead++;
		}
	return 0;
}

/* The largest eigenvalue, about, by the power method. */
static double norm_of(const double *h, int64_t n) {
	enum { STEPS = 30 };
	double *y = whit_alloc((size_t)(2 * n) * sizeof *y), *x = y + n, norm = 0;
	for (int64_t i = 0; i < n; i++) x[i] = 1 / sqrt((double)n);
	for (int s = 0; s < STEPS; s++) {
		each_row(&(square){.a = y, .b = h, .n = n}, row_times);
		norm = cblas_dnrm2((int)n, y, 1);
		for (int64_t i = 0; i < n && norm > 0; i++) x[i] = y[i] / norm;
	}
	whit_free(y);
	return norm;
}

/* ---- factors, on the host or a device ---- */

static const size_t REST = 96 << 20; /* of device memory: cuBLAS's, and cuSOLVER's own */

typedef struct factors {
	whit_feedback *f;
	int64_t n;
	double *a;   /* (n, n): L of J (h + lambda) J = L L^T, rows of L one after another; then its inverse */
	whit_dev *d; /* where a lies; NULL = the host */
	double *b;   /* (n, n) there, where there is a G */
	float *to;   /* (n, n) there: on its way to the host */
	void *room;
} factors;

/* Host memory for a matrix that lies in m->to when the work queued so far is done. */
static float *to_host(const factors *m) {
	float *x = matrix(m->n);
	whit_dev_get(m->d, x, m->to, (size_t)(m->n * m->n) * sizeof *x);
	return x;
}

/* m->a of h + lambda I. 0, or 1: it is not positive definite. */
static int factor(const factors *m, const double *h, double lambda) {
	int64_t n = m->n;
	if (m->d) {
		whit_dev_put(m->d, m->a, h, (size_t)(n * n) * sizeof *h);
		whit_turn_cuda(m->d, m->a, n, lambda);
		return whit_dev_cholesky(m->d, m->a, n, m->room);
	}
	each_row(&(square){.a = m->a, .b = h, .by = lambda, .n = n}, row_turned);
	/* what is the lower triangle by rows is the upper one by columns */
	return LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', (int)n, m->a, (int)n) != 0;
}

static void invert(const factors *m) {
	if (m->d)
		whit_dev_invert(m->d, m->a, m->n, m->room);
	else
		LAPACKE_dtrtri(LAPACK_COL_MAJOR, 'U', 'N', (int)m->n, m->a, (int)m->n);
}

/* J a J of what is in m->a. */
static float *upper(const factors *m) {
	if (m->d) {
		whit_upper_cuda(m->d, m->to, m->a, m->n);
		return to_host(m);
	}
	float *x = matrix(m->n);
	each_row(&(square){.to = x, .b = m->a, .n = m->n}, row_upper);
	return x;
}

/* m->a, L^-1, becomes J L^-1 J, whose upper triangle is U; below it anything may be. */
static void turn(const factors *m) {
	if (m->d)
		whit_turn_cuda(m->d, m->a, m->n, 0);
	else
		whit_items((m->n + 1) / 2, m->n, row_turn, &(square){.a = m->a, .n = m->n});
}

/* by (x U^T) U, or, strict, of x U^T what is above the diagonal. x is used up. */
static float *project(const factors *m, double *x, int strict, double by) {
	int64_t n = m->n;
	square s = {.a = x, .b = x, .by = by, .n = n};
	if (m->d) {
		whit_dev_put(m->d, m->b, x, (size_t)(n * n) * sizeof *x);
		whit_dev_mul_upper(m->d, m->b, m->a, n, 1);
		if (strict) whit_strict_cuda(m->d, m->b, n);
		whit_dev_mul_upper(m->d, m->b, m->a, n, 0);
		whit_floats_cuda(m->d, m->to, m->b, n * n, by);
		return to_host(m);
	}
	cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, (int)n, (int)n, 1, m->a, (int)n, x,
	            (int)n);
	if (strict) each_row(&s, row_strict);
	cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, (int)n, (int)n, 1, m->a, (int)n,
	            x, (int)n);
	s.to = matrix(n);
	each_row(&s, row_floats);
	return s.to;
}

/* What G adds; h and g are used up. */
static void use_cross(const factors *m, double *h, double *g, double lambda, double alpha) {
	whit_feedback *f = m->f;
	int64_t n = m->n;
	turn(m);
	if (f->kind == WHIT_FEEDBACK_QRONOS) {
		f->first = whit_alloc((size_t)(2 * n) * sizeof *f->first);
		for (int64_t i = 0; i < n; i++) {
			f->first[i] = g[i * n] + (i == 0 ? lambda : 0);
			f->first[n + i] = h[i * n] + (i == 0 ? lambda : 0);
		}
	}
	if (f->kind == WHIT_FEEDBACK_GPTAQ) {
		each_row(&(square){.a = h, .b = g, .n = n}, row_less);
		f->pass = project(m, h, 1, alpha);
	}
	for (int64_t i = 0; i < n; i++) g[i * n + i] += lambda;
	f->target = project(m, g, 0, 1);
}

static void release(factors *m) {
	if (!m->d) {
		whit_free(m->a);
		return;
	}
	whit_dev_free(m->d, m->a);
	whit_dev_free(m->d, m->b);
	whit_dev_free(m->d, m->to);
	whit_dev_free(m->d, m->room);
}

/* Memory on the device, if it can factor a matrix as large; else why not is said, and it is the host's. */
static void place(factors *m, whit_dev *d, int cross, const char *name) {
	size_t square = (size_t)(m->n * m->n) * sizeof(double), need = square + square / 2 + (cross ? square : 0), room;
	whit_err why;
	int no = !d || m->n < whit_dev_factors_from(d, 0);
	if (!no && (no = whit_dev_factors(d, m->n, &room, &why))) {
		whit_say("%s: factors are computed on the host: %s", name, why.text);
	} else if (!no && (no = whit_dev_left(d) < need + room + REST)) {
		whit_say("%s: factors are computed on the host: device memory is %.3f GB free, need %.3f GB", name,
		         (double)whit_dev_left(d) / 1e9, (double)(need + room + REST) / 1e9);
	} else if (!no) {
		m->d = d;
		m->a = whit_dev_alloc(d, square);
		m->b = cross ? whit_dev_alloc(d, square) : NULL;
		m->to = whit_dev_alloc(d, square / 2);
		m->room = whit_dev_alloc(d, room);
		if ((no = whit_dev_sync(d, &why))) { /* as much is free, but not in one piece */
			whit_say("%s: factors are computed on the host: %s", name, why.text);
			release(m);
			m->d = NULL;
		}
	}
	if (no) m->a = whit_alloc(square);
}

int whit_feedback_make(whit_feedback *f, int kind, double *h, double *g, int64_t n, const whit_feedback_opts *o,
                       const char *name, whit_err *e) {
	enum { RETRIES = 3 };
	factors m = {.f = f, .n = n};
	int rc = 0;
	*f = (whit_feedback){.kind = kind, .n = n, .alpha = kind == WHIT_FEEDBACK_GPTAQ ? (float)o->alpha : 1};
	openblas_set_num_threads(1); /* sums of several threads would depend on their number */
	if (!all_finite(h, n) || (g && !all_finite(g, n)))
		return whit_fail(e, WHIT_ENONFINITE, "%s: statistics of its input hold NaN or Inf, need finite numbers",
		                 name);
	if (normalize(f, h, g))
		return whit_fail(e, WHIT_EINPUT, "%s: its input was always zero, need statistics of a text", name);
	if (o->act_order) {
		f->order = order_of(h, n);
		reorder(h, f->order, n);
		if (g) reorder(g, f->order, n);
	}
	double lambda = o->damping >= 0 ? o->damping : kind == WHIT_FEEDBACK_QRONOS ? 1e-6 * norm_of(h, n) : 0.01;
	place(&m, o->dev, g != NULL, name);
	f->on_device = m.d != NULL;
	while (!rc && factor(&m, h, lambda)) {
		if (++f->retries > RETRIES)
			rc = whit_fail(
			        e, WHIT_ENONFINITE,
			        "%s: Hessian is not positive definite with %.3g of its mean diagonal added, need "
			        "more tokens or a larger --damping",
			        name, lambda);
		else
			lambda = lambda > 0 ? 10 * lambda : 1e-4;
	}
	if (!rc) {
		f->damping = lambda;
		f->h_diag = whit_alloc((size_t)n * sizeof *f->h_diag);
		for (int64_t i = 0; i < n; i++) f->h_diag[f->order ? f->order[i] : i] = (float)(h[i * n + i] + lambda);
		f->r = upper(&m);
		invert(&m);
		f->u = upper(&m);
		if (g) use_cross(&m, h, g, lambda, o->alpha);
		if (m.d && (rc = whit_dev_sync(m.d, e))) whit_fail_in(e, "%s: factors", name);
	}
	release(&m);
	if (rc) whit_feedback_free(f);
	return rc;
}
