/* Rounding with feedback (calib/feedback.h) against the paper's recursion written out in double, closed forms, and what
 * is known of special cases. */
#include "calib/feedback.h"
#include "formats/codebook.h"
#include "formats/unit.h"
#include "tests/test.h"

enum { N = 192, MOST = 256, ROWS = 70, TOKENS = 600 };

static double H[MOST * MOST], G[MOST * MOST];
static float W[ROWS * MOST];

/* Correlated inputs whose sizes differ, and what a quantized prefix might make of them. */
static void make_inputs(int64_t n, uint64_t seed) {
	static double x[MOST], full[MOST];
	whit_rng r;
	whit_rng_key(&r, seed, (uint64_t)n, 0);
	memset(H, 0, sizeof H);
	memset(G, 0, sizeof G);
	for (int t = 0; t < TOKENS; t++) {
		for (int64_t i = 0; i < n; i++) {
			x[i] = whit_rng_normal(&r) * (0.3 + (double)(i % 5)) + (i % 16 ? 0.8 * x[i - 1] : 0);
			full[i] = x[i] + 0.2 * whit_rng_normal(&r);
		}
		for (int64_t i = 0; i < n; i++)
			for (int64_t k = 0; k < n; k++) {
				H[i * n + k] += x[i] * x[k] / TOKENS;
				G[i * n + k] += full[i] * x[k] / TOKENS;
			}
	}
	for (int64_t i = 0; i < ROWS * n; i++) W[i] = (float)(0.05 * whit_rng_normal(&r) * (i % 41 ? 1 : 4));
}

static int refits; /* of run */

typedef struct result {
	whit_mat mat;
	float book[256];
	whit_job job;
	whit_feedback f;
	float *q; /* decoded */
} result;

static const whit_feedback_opts plain = {.damping = 0.01, .alpha = 0.5};

/* h, g NULL: H, and no G. */
static int run(result *r, const char *format, int kind, const double *h, const double *g, int64_t n,
               const whit_feedback_opts *o, whit_err *e) {
	static char name[] = "layers.0.test.weight";
	static whit_weight src;
	size_t bytes = (size_t)(n * n) * sizeof *h;
	double *h2 = whit_alloc(bytes), *g2 = g ? whit_alloc(bytes) : NULL;
	memcpy(h2, h ? h : H, bytes);
	if (g) memcpy(g2, g, bytes);
	memset(r, 0, sizeof *r);
	int rc = whit_feedback_make(&r->f, kind, h2, g2, n, o, name, e);
	src = (whit_weight){.name = name, .file = "memory", .ndim = 2, .shape = {ROWS, n}};
	src.mat = (whit_mat){.rows = ROWS, .cols = n, .width = n, .plane = {(const uint8_t *)W}};
	src.mat.row_bytes[0] = (size_t)n * sizeof *W;
	r->mat = (whit_mat){.rows = ROWS, .cols = n, .width = n};
	if (!rc) rc = whit_spec_parse("f32", &src.mat.spec, e);
	if (!rc) rc = whit_spec_parse(format, &r->mat.spec, e);
	if (!rc && r->mat.spec.fmt->needs_codebook) {
		rc = whit_codebook(r->book, r->mat.spec.bits, WHIT_DENSITY_GAUSSIAN,
		                   r->mat.spec.group ? r->mat.spec.group : n, e);
		r->mat.codebook = r->book;
	}
	r->job = (whit_job){.src = &src, .dst = &r->mat, .feedback = &r->f, .refits = refits};
	if (!rc) rc = whit_mat_alloc(&r->mat, e);
	if (!rc) rc = whit_feedback_run(&r->job, e);
	r->q = whit_alloc((size_t)(ROWS * n) * sizeof *r->q);
	if (!rc) whit_mat_decode(&r->mat, 0, ROWS, r->q);
	whit_free(h2);
	whit_free(g2);
	return rc;
}

static void done(result *r) {
	whit_mat_free(&r->mat);
	whit_feedback_free(&r->f);
	whit_free(r->q);
}

/* Rows in which a value of a is not b's. */
static int64_t rows_apart(const float *a, const float *b, int64_t n) {
	int64_t apart = 0;
	for (int64_t i = 0; i < ROWS; i++) {
		int same = 1;
		for (int64_t k = i * n; k < (i + 1) * n; k++) same &= a[k] == b[k];
		apart += !same;
	}
	return apart;
}

/* sum over rows of (q - w) h (q - w)^T */
static double loss_of(const float *q, const double *h, int64_t n) {
	double sum = 0;
	for (int64_t r = 0; r < ROWS; r++)
		for (int64_t i = 0; i < n; i++)
			for (int64_t k = 0; k < n; k++)
				sum += ((double)q[r * n + i] - W[r * n + i]) * h[i * n + k] *
				       ((double)q[r * n + k] - W[r * n + k]);
	return sum;
}

/* Gauss and Jordan, with pivots. */
static void invert(double *a, int64_t n) {
	static double b[N * N];
	for (int64_t i = 0; i < n * n; i++) b[i] = i % (n + 1) == 0;
	for (int64_t c = 0; c < n; c++) {
		int64_t p = c;
		for (int64_t i = c; i < n; i++)
			if (fabs(a[i * n + c]) > fabs(a[p * n + c])) p = i;
		for (int64_t k = 0; k < n; k++) {
			double t = a[c * n + k], u = b[c * n + k];
			a[c * n + k] = a[p * n + k], a[p * n + k] = t;
			b[c * n + k] = b[p * n + k], b[p * n + k] = u;
		}
		double d = a[c * n + c];
		for (int64_t k = 0; k < n; k++) a[c * n + k] /= d, b[c * n + k] /= d;
		for (int64_t i = 0; i < n; i++) {
			double s = a[i * n + c];
			for (int64_t k = 0; i != c && k < n; k++)
				a[i * n + k] -= s * a[c * n + k], b[i * n + k] -= s * b[c * n + k];
		}
	}
	memcpy(a, b, (size_t)(n * n) * sizeof *a);
}

/* GPTQ as 2210.17323, equations 2 and 3, has it: the inverse of H over the columns that are left, of which a column is
 * eliminated when it has been rounded; units' parameters as r has them. */
static void paper(const result *r, int64_t n, float *out) {
	static double inv[N * N], w[ROWS * N];
	whit_units u;
	whit_err e;
	double mean = 0;
	for (int64_t i = 0; i < n; i++) mean += H[i * n + i] / (double)n;
	for (int64_t i = 0; i < n * n; i++) inv[i] = H[i] + (i % (n + 1) == 0 ? 0.01 * mean : 0);
	invert(inv, n);
	for (int64_t i = 0; i < ROWS * n; i++) w[i] = W[i];
	CHECK_RC(whit_units_make(&u, &r->mat, &e), e);
	for (int64_t j = 0; j < n; j++) {
		int64_t at = j % u.weights;
		for (int64_t i = 0; i < ROWS; i++) {
			float scale[WHIT_UNIT_RUNS], shift[WHIT_UNIT_RUNS];
			uint8_t codes[N];
			whit_unit_get(&u, &r->mat, i, j - at, scale, shift, codes);
			float s = scale[at / u.run], t = shift[at / u.run];
			float q = s * u.level[whit_unit_nearest(&u, (float)w[i * n + j], s, t)] + t;
			double err = (w[i * n + j] - q) / inv[j * n + j];
			for (int64_t k = j + 1; k < n; k++) w[i * n + k] -= err * inv[j * n + k];
			out[i * n + j] = q;
		}
		for (int64_t a = j + 1; a < n; a++)
			for (int64_t b = j + 1; b < n; b++)
				inv[a * n + b] -= inv[a * n + j] * inv[j * n + b] / inv[j * n + j];
	}
}

/* A tie, or what rounding in float makes one, sends a row another way; it is as good. */
static void recursion(void) {
	static const char *const formats[] = {"int4g32", "int2g64", "tq3g64", "q4_0", "q2_0", "int4"};
	static float want[ROWS * N];
	whit_err e;
	make_inputs(N, 1);
	for (int i = 0; i < WHIT_COUNT(formats); i++) {
		result a, b;
		if (!CHECK_RC(run(&a, formats[i], WHIT_FEEDBACK_GPTQ, NULL, NULL, N, &plain, &e), e) ||
		    !CHECK_RC(run(&b, formats[i], WHIT_FEEDBACK_LDLQ, NULL, NULL, N, &plain, &e), e))
			return;
		paper(&a, N, want);
		int64_t other = rows_apart(a.q, want, N), ldlq = rows_apart(b.q, want, N);
		CHECK_MSG(other <= ROWS / 8 && ldlq <= ROWS / 8,
		          "%s: %d rows of gptq and %d of ldlq are not the paper's", formats[i], (int)other, (int)ldlq);
		CHECK_NEAR(loss_of(a.q, H, N), loss_of(want, H, N), 0.01 * loss_of(want, H, N));
		CHECK_NEAR(a.job.loss, b.job.loss, 0.01 * b.job.loss);
		printf("# %s: of %d rows gptq has %d others than the paper, ldlq %d\n", formats[i], ROWS, (int)other,
		       (int)ldlq);
		done(&a);
		done(&b);
	}
}

/* What is reported is the loss on H as it was damped; and on H alone feedback halves it. */
static void closed_form(void) {
	static double damped[N * N];
	double mean = 0;
	whit_err e;
	make_inputs(N, 2);
	for (int64_t i = 0; i < N; i++) mean += H[i * N + i] / N;
	for (int64_t i = 0; i < N * N; i++) damped[i] = H[i] + (i % (N + 1) == 0 ? 0.01 * mean : 0);
	for (int kind = 0; kind < 2; kind++) {
		result r;
		if (!CHECK_RC(run(&r, "int3g64", kind, NULL, NULL, N, &plain, &e), e)) return;
		CHECK_NEAR(r.job.loss, loss_of(r.q, damped, N), 1e-4 * r.job.loss);
		CHECK_MSG(r.job.loss < 0.6 * r.job.loss_nearest, "loss %g, nearest %g", r.job.loss, r.job.loss_nearest);
		done(&r);
	}
}

/* H = I: nothing is handed on. G = H: nothing was lost. alpha = 0: none of it counts. */
static void special_cases(void) {
	static double I[N * N];
	const whit_feedback_opts none = {.damping = 0.01, .alpha = 0};
	result a, b;
	whit_err e;
	make_inputs(N, 3);
	for (int64_t i = 0; i < N * N; i++) I[i] = i % (N + 1) == 0;
	if (!CHECK_RC(run(&a, "int4g64", WHIT_FEEDBACK_GPTQ, I, NULL, N, &plain, &e), e)) return;
	CHECK_NEAR(a.job.loss, a.job.loss_nearest, 1e-6 * a.job.loss);
	for (int64_t i = 0; i < ROWS; i++)
		a.mat.spec.fmt->encode(&a.mat, i, W + i * N, NULL, WHIT_SCALE_LS, &(int64_t){0});
	static float nearest[ROWS * N];
	whit_mat_decode(&a.mat, 0, ROWS, nearest);
	CHECK_INT(rows_apart(a.q, nearest, N), 0);
	done(&a);
	if (!CHECK_RC(run(&a, "int4g64", WHIT_FEEDBACK_GPTQ, NULL, NULL, N, &plain, &e), e)) return;
	if (!CHECK_RC(run(&b, "int4g64", WHIT_FEEDBACK_GPTAQ, NULL, G, N, &none, &e), e)) return;
	/* but for rows on which the nearest codes win under G, which gptq does not see */
	CHECK_MSG(rows_apart(a.q, b.q, N) <= b.job.rows_nearest, "%d rows apart", (int)rows_apart(a.q, b.q, N));
	done(&b);
	if (!CHECK_RC(run(&b, "int4g64", WHIT_FEEDBACK_QRONOS, NULL, H, N, &plain, &e), e)) return;
	CHECK_MSG(rows_apart(a.q, b.q, N) <= ROWS / 8, "%d rows apart", (int)rows_apart(a.q, b.q, N));
	CHECK_NEAR(a.job.loss, b.job.loss, 0.01 * a.job.loss);
	done(&b);
	done(&a);
}

/* sum over rows of |w X - q X~|^2 per token, less what does not depend on q. */
static double cross_loss(const float *q) {
	double sum = 0;
	for (int64_t r = 0; r < ROWS; r++)
		for (int64_t i = 0; i < N; i++)
			for (int64_t k = 0; k < N; k++)
				sum += (double)q[r * N + k] *
				       (q[r * N + i] * H[i * N + k] - 2.0 * W[r * N + i] * G[i * N + k]);
	return sum;
}

/* With inputs that have lost something, those that know it come nearer to the original outputs. */
static void cross(void) {
	const whit_feedback_opts half = {.damping = 0.01, .alpha = 0.5};
	result a, b, c;
	whit_err e;
	make_inputs(N, 4);
	if (!CHECK_RC(run(&a, "int4g64", WHIT_FEEDBACK_GPTQ, NULL, NULL, N, &plain, &e), e) ||
	    !CHECK_RC(run(&b, "int4g64", WHIT_FEEDBACK_QRONOS, NULL, G, N, &plain, &e), e) ||
	    !CHECK_RC(run(&c, "int4g64", WHIT_FEEDBACK_GPTAQ, NULL, G, N, &half, &e), e))
		return;
	double gptq = cross_loss(a.q), qronos = cross_loss(b.q), gptaq = cross_loss(c.q);
	CHECK_MSG(qronos < gptq && gptaq < gptq, "gptq %g, qronos %g, gptaq %g", gptq, qronos, gptaq);
	done(&a);
	done(&b);
	done(&c);
}

static void act_order(void) {
	const whit_feedback_opts o = {.damping = 0.01, .act_order = 1};
	result a, b, c;
	whit_err e;
	make_inputs(N, 5);
	if (!CHECK_RC(run(&a, "int3g64", WHIT_FEEDBACK_GPTQ, NULL, NULL, N, &o, &e), e) ||
	    !CHECK_RC(run(&b, "int3g64", WHIT_FEEDBACK_LDLQ, NULL, NULL, N, &o, &e), e) ||
	    !CHECK_RC(run(&c, "int3g64", WHIT_FEEDBACK_GPTQ, NULL, NULL, N, &plain, &e), e))
		return;
	for (int64_t j = 1; j < N; j++) CHECK(H[a.f.order[j] * (N + 1)] <= H[a.f.order[j - 1] * (N + 1)]);
	CHECK_MSG(rows_apart(a.q, b.q, N) <= ROWS / 8, "%d rows apart", (int)rows_apart(a.q, b.q, N));
	CHECK_MSG(loss_of(a.q, H, N) < 0.6 * a.job.loss_nearest, "loss %g", loss_of(a.q, H, N));
	CHECK(rows_apart(a.q, c.q, N) > 0);
	done(&a);
	done(&b);
	done(&c);
}

static void bad_hessians(void) {
	static double h[N * N];
	result r;
	whit_err e;
	const whit_feedback_opts no_damping = {.damping = 0};
	make_inputs(N, 6);
	/* duplicate and dead columns: singular without damping, so it grows, counted */
	memcpy(h, H, sizeof h);
	for (int64_t i = 0; i < N; i++) h[i * N + 7] = h[i * N + 6];
	for (int64_t i = 0; i < N; i++) h[7 * N + i] = h[6 * N + i];
	h[7 * N + 7] = h[6 * N + 6] = h[6 * N + 7] = h[7 * N + 6] = H[6 * N + 6];
	h[6 * N + 7] = h[7 * N + 6] = H[6 * N + 6];
	for (int64_t i = 0; i < N; i++) h[i * N + 9] = h[9 * N + i] = 0;
	if (!CHECK_RC(run(&r, "int4g64", WHIT_FEEDBACK_GPTQ, h, NULL, N, &no_damping, &e), e)) return;
	CHECK_INT(r.f.dead, 1);
	CHECK_MSG(r.f.retries >= 1 || r.f.damping == 0, "retries %d", r.f.retries);
	for (int64_t i = 0; i < ROWS; i++) CHECK(fabsf(r.q[i * N + 9] - W[i * N + 9]) <= 0.05f);
	done(&r);
	/* indefinite by more than three retries mend */
	memcpy(h, H, sizeof h);
	h[3 * N + 4] = h[4 * N + 3] = 1e6;
	CHECK_FAILS(run(&r, "int4g64", WHIT_FEEDBACK_GPTQ, h, NULL, N, &plain, &e), WHIT_ENONFINITE, e,
	            "not positive definite");
	done(&r);
	memcpy(h, H, sizeof h);
	h[5] = NAN;
	CHECK_FAILS(run(&r, "int4g64", WHIT_FEEDBACK_GPTQ, h, NULL, N, &plain, &e), WHIT_ENONFINITE, e, "NaN");
	done(&r);
	memset(h, 0, sizeof h);
	CHECK_FAILS(run(&r, "int4g64", WHIT_FEEDBACK_GPTQ, h, NULL, N, &plain, &e), WHIT_EINPUT, e, "always zero");
	done(&r);
}

/* H with the damping that r had. */
static double *damped(const result *r, int64_t n) {
	double *h = whit_alloc((size_t)(n * n) * sizeof *h), mean = 0;
	for (int64_t i = 0; i < n; i++) mean += H[i * n + i] / (double)n;
	for (int64_t i = 0; i < n * n; i++) h[i] = H[i] + (i % (n + 1) == 0 ? r->f.damping * mean : 0);
	return h;
}

/* Codes of a row, none of which could be another level at less loss: of a few rows. */
static int64_t improvable(const result *r, const double *h, int64_t n) {
	int64_t better = 0;
	whit_units u;
	whit_err e;
	float scale[WHIT_UNIT_RUNS], shift[WHIT_UNIT_RUNS];
	uint8_t *k = whit_alloc((size_t)n);
	CHECK_RC(whit_units_make(&u, &r->mat, &e), e);
	for (int64_t row = 0; row < ROWS; row += 9)
		for (int64_t c = 0; c < n; c += u.weights) {
			whit_unit_get(&u, &r->mat, row, c, scale, shift, k);
			for (int64_t i = c; i < WHIT_MIN(n, c + u.weights); i++) {
				double g = 0;
				for (int64_t j = 0; j < n; j++)
					g += h[i * n + j] * ((double)r->q[row * n + j] - W[row * n + j]);
				for (int l = 0; l < u.count; l++) {
					double v = scale[(i - c) / u.run] * u.level[l] + shift[(i - c) / u.run],
					       by = v - r->q[row * n + i];
					better += by * (2 * g + by * h[i * n + i]) < -1e-6 * fabs(g * by);
				}
			}
		}
	whit_free(k);
	return better;
}

/* Sweeps lose no more, to what the closed form says; with enough of them no code could be better by itself; same bytes
 * at any thread count. */
static void refitted(void) {
	static const char *const format[] = {"int3", "int4g64", "tq2g64", "bin64", "q4_0", "q2_0",
	                                     "q1_0", "q4_1",    "q2_k",   "q3_k",  "q4_k", "iq4_xs"};
	whit_err e;
	for (int i = 0; i < WHIT_COUNT(format); i++) {
		int64_t n = i > 5 ? 256 : i == 2 || i == 5 ? 192 : 160;
		result r[4];
		make_inputs(n, 5);
		for (int k = 0; k < 4; k++) {
			refits = k == 0 ? 0 : k == 3 ? 200 : 3;
			whit_threads_set(k == 1 ? 1 : 2);
			CHECK_RC(run(&r[k], format[i], WHIT_FEEDBACK_GPTQ, NULL, NULL, n, &plain, &e), e);
		}
		refits = 0;
		double *h = damped(&r[0], n);
		CHECK(!memcmp(r[1].q, r[2].q, (size_t)(ROWS * n) * sizeof(float)));
		CHECK_MSG(r[1].job.loss < r[0].job.loss && r[3].job.loss <= r[1].job.loss, "%s: %g, %g, %g", format[i],
		          r[0].job.loss, r[1].job.loss, r[3].job.loss);
		CHECK_NEAR(r[1].job.loss, loss_of(r[1].q, h, n), 1e-4 * r[1].job.loss);
		CHECK_INT(improvable(&r[3], h, n), 0);
		CHECK(improvable(&r[0], h, n) > 0);
		double err = 0;
		for (int64_t k = 0; k < ROWS * n; k++) err += ((double)r[3].q[k] - W[k]) * ((double)r[3].q[k] - W[k]);
		CHECK_NEAR(r[3].job.err, err, 1e-6 * err);
		for (int k = 0; k < 4; k++) done(&r[k]);
		whit_free(h);
	}
}

/* A row that is shorter than its only block of signs is what it is in blocks of its own length. */
static void wide_signs(void) {
	whit_err e;
	make_inputs(MOST, 6);
	for (int kind = WHIT_FEEDBACK_GPTQ; kind <= WHIT_FEEDBACK_LDLQ; kind++) {
		result a, b;
		CHECK_RC(run(&a, "bin256", kind, NULL, NULL, MOST, &plain, &e), e);
		CHECK_RC(run(&b, "bin512", kind, NULL, NULL, MOST, &plain, &e), e);
		CHECK_INT(rows_apart(a.q, b.q, MOST), 0);
		done(&a);
		done(&b);
	}
}

TEST_MAIN(refitted, wide_signs, recursion, closed_form, special_cases, cross, act_order, bad_hessians)
