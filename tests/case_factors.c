/* factors: a device's Cholesky factors, inverses and products of triangles against LAPACK's, what is around them, and
 * what becomes of a Hessian. Under emulation LAPACK computes both: the same bits. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include "calib/feedback.h"
#include "host/ops.h"
#include "host/progress.h"
#include "tests/case.h"

static const int64_t sizes[] = {1, 7, 128, 513, 4096};

/* Correlation 0.85 of neighbours, diagonals up to 5: eigenvalues are 760 times apart at most. */
static void fill(double *h, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		for (int64_t k = 0; k < n; k++)
			h[i * n + k] = pow(0.85, fabs((double)(i - k))) * sqrt((1 + i % 5) * (1 + k % 5));
}

/* Of values of about 1: n roundings of 2^-53, times that number twice, in the factor and in its inverse; in float, one
 * rounding more. */
static double tolerance(int64_t n, int single) { return 4 * (double)n * 0x1p-53 * 760 * 760 + (single ? 0x1p-23 : 0); }

static int emulated(case_run *r) {
	whit_dev_info i;
	whit_dev_describe(r->dev, &i);
	return !i.driver;
}

/* The triangle on and below the diagonal, above it anything. */
static void near_lower(case_run *r, const char *what, const double *at, const double *want, int64_t n) {
	double *got = case_host(r, (size_t)(n * n) * 8), tol = emulated(r) ? 0 : tolerance(n, 0);
	whit_err e;
	whit_dev_get(r->dev, got, at, (size_t)(n * n) * 8);
	if (whit_dev_sync(r->dev, &e)) {
		case_fail(r, "%s: %s", what, e.text);
		return;
	}
	for (int64_t i = 0; i < n; i++)
		for (int64_t k = 0; k <= i; k++)
			if (!(fabs(got[i * n + k] - want[i * n + k]) <= tol * fmax(1, fabs(want[i * n + k])))) {
				case_fail(r, "%s: row %lld, column %lld is %.17g, need %.17g", what, (long long)i,
				          (long long)k, got[i * n + k], want[i * n + k]);
				return;
			}
}

static void triangles(case_run *r, int64_t n) {
	size_t bytes = (size_t)(n * n) * 8, size;
	double *want = case_host(r, bytes), *in = case_host(r, bytes), *a, *b;
	whit_err e = {0};
	void *room = whit_dev_factors(r->dev, n, &size, &e) ? NULL : whit_dev_alloc(r->dev, size);
	if (!room) {
		case_fail(r, "%s", e.code ? e.text : "no memory");
		return;
	}
	fill(want, n);
	memcpy(in, want, bytes);
	for (int64_t i = 0; i < n; i++)
		for (int64_t k = i + 1; k < n; k++) in[i * n + k] = NAN; /* is not read */
	a = case_in(r, in, bytes);
	if (whit_dev_cholesky(r->dev, a, n, room)) case_fail(r, "is not positive definite");
	LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', (int)n, want, (int)n);
	near_lower(r, "factor", a, want, n);
	whit_dev_invert(r->dev, a, n, room);
	LAPACKE_dtrtri(LAPACK_COL_MAJOR, 'U', 'N', (int)n, want, (int)n);
	near_lower(r, "inverse", a, want, n);
	in[n * n - 1] = -1;
	a = case_in(r, in, bytes);
	if (!whit_dev_cholesky(r->dev, a, n, room)) case_fail(r, "-1 on the diagonal is positive definite");
	in[n * n - 1] = 1;
	for (int turn = 0; turn < 2; turn++) {
		for (int64_t i = 0; i < n * n; i++)
			want[i] = sin((double)(3 * i + turn)), in[i] = i / n > i % n ? NAN : cos((double)i) / (double)n;
		a = case_in(r, in, bytes);
		b = case_in(r, want, bytes);
		whit_dev_mul_upper(r->dev, b, a, n, turn);
		cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, turn ? CblasTrans : CblasNoTrans, CblasNonUnit,
		            (int)n, (int)n, 1, in, (int)n, want, (int)n);
		case_doubles(r, b, want, n * n, emulated(r) ? 0 : (double)n * 0x1p-53);
	}
	whit_dev_free(r->dev, room);
}

/* Kernels: the same bits everywhere. */
static void around(case_run *r, int64_t n) {
	size_t bytes = (size_t)(n * n) * 8;
	double *x = case_host(r, bytes), *want = case_host(r, bytes), *a;
	float *wide = case_host(r, bytes / 2), *to;
	for (int64_t i = 0; i < n * n; i++) x[i] = sin((double)i) * 3;
	for (int64_t i = 0; i < n * n; i++)
		want[i] = x[n * n - 1 - i] + (i % (n + 1) ? 0 : 0.125), wide[i] = (float)(x[i] * 0.3);
	whit_turn_cuda(r->dev, a = case_in(r, x, bytes), n, 0.125);
	case_doubles(r, a, want, n * n, 0);
	whit_floats_cuda(r->dev, to = case_out(r, n * n), case_in(r, x, bytes), n * n, 0.3);
	case_same(r, to, wide, n * n);
	for (int64_t i = 0; i < n * n; i++) {
		want[i] = i % n <= i / n ? 0 : x[i];
		wide[i] = i % n < i / n ? 0 : (float)x[n * n - 1 - i];
	}
	whit_upper_cuda(r->dev, to = case_out(r, n * n), case_in(r, x, bytes), n);
	case_same(r, to, wide, n * n);
	whit_strict_cuda(r->dev, a = case_in(r, x, bytes), n);
	case_doubles(r, a, want, n * n, 0);
}

static int make(case_run *r, whit_feedback *f, int kind, int64_t n, const whit_feedback_opts *o) {
	double *h = case_host(r, (size_t)(n * n) * 8), *g = case_host(r, (size_t)(n * n) * 8);
	int cross = kind == WHIT_FEEDBACK_GPTAQ || kind == WHIT_FEEDBACK_QRONOS;
	whit_err e;
	fill(h, n);
	for (int64_t i = 0; i < n * n; i++) g[i] = h[i] + 0.02 * sin((double)i);
	if (o->damping == 0 && n > 1) /* damped until it is positive definite: two columns are one, but for -1e-5 */
		for (int64_t k = 0; k < n; k++) h[n + k] = h[k * n + 1] = k == 1 ? h[0] - 1e-5 : h[k < 1 ? 0 : k];
	int rc = whit_feedback_make(f, kind, h, cross ? g : NULL, n, o, "w", &e);
	if (rc) case_fail(r, "%s", e.text);
	return rc;
}

static void near_floats(case_run *r, const char *what, const float *got, const float *want, int64_t n, double tol) {
	if (!got != !want) case_fail(r, "%s: %s", what, got ? "has none on the host" : "has none");
	for (int64_t i = 0; got && want && i < n; i++)
		if (!(fabs((double)got[i] - want[i]) <= tol * fmax(1, fabs(want[i])))) {
			case_fail(r, "%s: %lld is %.9g, need %.9g", what, (long long)i, got[i], want[i]);
			return;
		}
}

static void near_feedback(case_run *r, const whit_feedback *got, const whit_feedback *want, double tol) {
	int64_t n = want->n;
	near_floats(r, "R", got->r, want->r, n * n, tol);
	near_floats(r, "U", got->u, want->u, n * n, tol);
	near_floats(r, "target", got->target, want->target, n * n, tol);
	near_floats(r, "pass", got->pass, want->pass, n * n, tol);
	near_floats(r, "diagonal", got->h_diag, want->h_diag, n, 0);
	if (got->retries != want->retries || got->damping != want->damping || got->dead != want->dead ||
	    got->scale != want->scale || (want->first && memcmp(got->first, want->first, (size_t)(2 * n) * 8)) ||
	    (want->order && memcmp(got->order, want->order, (size_t)n * 8)))
		case_fail(r, "retries %d, damping %.17g, need %d, %.17g, or another order", got->retries, got->damping,
		          want->retries, want->damping);
}

/* kind on the device, twice, against the host; without a library, or memory, the host's. */
static void whole(case_run *r, int64_t n, int kind, whit_feedback_opts o) {
	double tol = emulated(r) ? 0 : tolerance(n, 1);
	int64_t from = whit_dev_factors_from(r->dev, 1);
	whit_feedback f[5];
	int made = 0;
	for (; made < WHIT_COUNT(f); made++) {
		o.dev = made ? r->dev : NULL;
		if (made == 3) whit_dev_factors_of(r->dev, "libnone-such.so");
		if (made == 4) whit_dev_limit(r->dev, whit_dev_used(r->dev) + 1000);
		whit_quiet(made > 2);
		int rc = make(r, &f[made], kind, n, &o);
		whit_quiet(0);
		whit_dev_factors_of(r->dev, NULL);
		whit_dev_limit(r->dev, 0);
		if (rc) break;
		if (f[made].on_device != (made == 1 || made == 2))
			case_fail(r, "%d: on %s", made, f[made].on_device ? "the device" : "the host");
		if (made) near_feedback(r, &f[made], &f[0], made > 2 ? 0 : tol);
		if (made == 2) near_feedback(r, &f[2], &f[1], 0);
	}
	if (o.damping == 0 && n > 1 && made && !f[0].retries) case_fail(r, "no damping was needed");
	while (made--) whit_feedback_free(&f[made]);
	whit_dev_factors_from(r->dev, from);
}

/* Codes by both factors, by the CPU's solver. A last digit decides about one code in 10^7, which changes those behind
 * it in its row: so few rows differ, and the loss hardly does. */
static void codes(case_run *r, int64_t n) {
	enum { N = 64 };
	float *w = case_normal(r, N * n);
	int64_t from = whit_dev_factors_from(r->dev, 1), apart = 0;
	whit_weight src = {.name = (char[]){"w"}, .file = "memory", .ndim = 2, .shape = {N, n}};
	whit_feedback f[2] = {0};
	whit_mat m[2] = {0};
	whit_job j[2];
	whit_err e = {0};
	src.mat = (whit_mat){
	        .rows = N, .cols = n, .width = n, .plane = {(const uint8_t *)w}, .row_bytes = {(size_t)n * 4}};
	int rc = whit_spec_parse("f32", &src.mat.spec, &e);
	for (int k = 0; k < 2 && !rc; k++) {
		const whit_feedback_opts o = {.damping = 0.01, .alpha = 0.5, .dev = k ? r->dev : NULL};
		if ((rc = make(r, &f[k], WHIT_FEEDBACK_GPTAQ, n, &o))) break;
		m[k] = (whit_mat){.rows = N, .cols = n, .width = n};
		rc = whit_spec_parse("int4", &m[k].spec, &e);
		if (!rc) rc = whit_mat_alloc(&m[k], &e);
		j[k] = (whit_job){.src = &src, .dst = &m[k], .feedback = &f[k]};
		if (!rc) rc = whit_feedback_run(&j[k], &e);
	}
	whit_dev_factors_from(r->dev, from);
	for (int64_t i = 0; i < N && !rc; i++)
		apart += memcmp(m[0].plane[0] + (size_t)i * m[0].row_bytes[0],
		                m[1].plane[0] + (size_t)i * m[1].row_bytes[0], m[0].row_bytes[0]) != 0;
	if (rc)
		case_fail(r, "codes: %s", e.text);
	else if (apart > (emulated(r) ? 0 : 1) || !(fabs(j[1].loss / j[0].loss - 1) <= 1e-4))
		case_fail(r, "%lld of %d rows differ, loss %.9g, need %.9g", (long long)apart, N, j[1].loss, j[0].loss);
	for (int k = 0; k < 2; k++) whit_feedback_free(&f[k]), whit_mat_free(&m[k]);
}

static void row(case_run *r, int at) {
	int64_t n = sizes[at];
	size_t size;
	whit_err e;
	if (case_skip(r, !r->dev) || case_skip_big(r, n > 1000)) return;
	case_label(r, "%lld columns", (long long)n);
	openblas_set_num_threads(1);
	whit_dev_factors_of(r->dev, "libnone-such.so");
	if (whit_dev_factors(r->dev, n, &size, &e) != WHIT_ERESOURCE || !strstr(e.text, "libnone-such.so"))
		case_fail(r, "a library that is not there is loaded");
	whit_dev_factors_of(r->dev, NULL);
	triangles(r, n);
	around(r, n);
	codes(r, n);
	for (int kind = WHIT_FEEDBACK_GPTQ; kind <= WHIT_FEEDBACK_QRONOS; kind++) {
		if (n > 1000 && kind != WHIT_FEEDBACK_GPTAQ) continue; /* the host takes seconds for each */
		whole(r, n, kind,
		      (whit_feedback_opts){.damping = kind == WHIT_FEEDBACK_QRONOS ? -1 : 0.01, .alpha = 0.5});
		if (kind == WHIT_FEEDBACK_GPTAQ && n < 1000)
			whole(r, n, kind, (whit_feedback_opts){.damping = 0.01, .alpha = 0.25, .act_order = 1});
		if (kind == WHIT_FEEDBACK_GPTQ) whole(r, n, kind, (whit_feedback_opts){.damping = 0});
	}
}

const case_set cases_factors = {"factors", WHIT_COUNT(sizes), row, 1};
