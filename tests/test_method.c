/* test_method: what every row of the methods table owes, on every format it says it fits (architecture.md,
 * "Adding things"; methods.md 4), and TurboQuant's published distortions. */
#include "tests/test.h"
#include "calib/feedback.h"
#include "calib/recipe.h"
#include "formats/codebook.h"

static const char *const formats[] = {"f32",     "f16",     "bf16",    "tq1g64",   "tq2g128",
                                      "tq3g256", "tq4g256", "tq4row",  "tq5g64",   "tq6row",
                                      "tq8g128", "int2g64", "int3g64", "int4g128", "int8"};

/* A source matrix in memory, with what encodes it. */
typedef struct fixture {
	whit_weight w;
	whit_mat dst;
	whit_rotation *rot;
	float book[256];
	whit_job job;
} fixture;

static void source_open(fixture *f, int64_t rows, int64_t cols) {
	whit_err e;
	static char name[] = "layers.3.test.weight";
	*f = (fixture){.w = {.name = name, .file = "memory", .ndim = 2, .shape = {rows, cols}}};
	f->w.mat = (whit_mat){.rows = rows, .cols = cols, .width = cols};
	CHECK_RC(whit_spec_parse("f32", &f->w.mat.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&f->w.mat, &e), e);
}

static float *source(fixture *f) { return (float *)(uintptr_t)f->w.mat.plane[0]; }

/* Inputs of `width` correlated columns, of several sizes, and one that is always zero; X differs a little. */
static int statistics_make(fixture *f, int kind, int64_t width, whit_err *e) {
	enum { TOKENS = 700, KINDS = 4, WIDTHS = 4 };
	static whit_feedback made[KINDS][WIDTHS]; /* which costs more than what uses it */
	whit_feedback *to = made[kind];
	while (to->n && to->n != width) to++;
	f->job.feedback = to;
	if (to->n) return 0;
	const whit_feedback_opts o = {.damping = -1, .alpha = 0.5};
	int64_t n = width;
	double *h = whit_alloc((size_t)(n * n) * sizeof *h), *g = whit_alloc((size_t)(n * n) * sizeof *g),
	       *x = whit_alloc((size_t)(2 * n) * sizeof *x), *full = x + n;
	whit_rng r;
	whit_rng_key(&r, 3, (uint64_t)n, 0);
	for (int t = 0; t < TOKENS; t++) {
		for (int64_t i = 0; i < n; i++) {
			x[i] = i == 5 ? 0 : whit_rng_normal(&r) * (1 + i % 3) + (i % 8 ? 0.7 * x[i - 1] : 0);
			full[i] = x[i] + (i == 5 ? 0 : 0.1 * whit_rng_normal(&r));
		}
		for (int64_t i = 0; i < n; i++)
			for (int64_t k = 0; k < n; k++) {
				h[i * n + k] += x[i] * x[k] / TOKENS;
				g[i * n + k] += full[i] * x[k] / TOKENS;
			}
	}
	int cross = kind == WHIT_FEEDBACK_GPTAQ || kind == WHIT_FEEDBACK_QRONOS;
	int rc = whit_feedback_make(to, kind, h, cross ? g : NULL, n, &o, "test", e);
	whit_free(h);
	whit_free(g);
	whit_free(x);
	return rc;
}

/* Prepares the destination: rotation kind, seed. */
static int target_open(fixture *f, const char *format, int kind, uint64_t seed, int density, int rule, whit_err *e) {
	int rc;
	f->dst = (whit_mat){.rows = f->w.mat.rows, .cols = f->w.mat.cols, .width = f->w.mat.cols};
	if ((rc = whit_spec_parse(format, &f->dst.spec, e))) return rc;
	if (kind != WHIT_ROT_NONE) {
		whit_rotation_spec s;
		if ((rc = whit_rotation_plan(&s, kind, seed, f->dst.cols, f->dst.spec.group, e))) return rc;
		if ((rc = whit_rotation_new(&f->rot, &s, NULL, e))) return rc;
		f->dst.rot = f->rot;
		f->dst.width = whit_rotation_width(f->rot);
	}
	if (f->dst.spec.fmt->needs_codebook) {
		int64_t dim = f->dst.spec.group ? f->dst.spec.group : f->dst.width;
		if ((rc = whit_codebook(f->book, f->dst.spec.bits, density, dim, e))) return rc;
		f->dst.codebook = f->book;
	}
	f->job = (whit_job){.src = &f->w, .dst = &f->dst, .rule = rule};
	return whit_mat_alloc(&f->dst, e);
}

/* The same for a method, with what it needs. */
static int method_open(fixture *f, const whit_method *m, const char *format, uint64_t seed, whit_err *e) {
	int rc = target_open(f, format, m->rotation, seed, WHIT_DENSITY_GAUSSIAN, WHIT_SCALE_LS, e);
	return rc || !m->needs ? rc : statistics_make(f, m->feedback, f->dst.width, e);
}

static void target_close(fixture *f) {
	whit_mat_free(&f->dst);
	whit_rotation_free(f->rot);
	f->rot = NULL;
}

static void source_close(fixture *f) { whit_mat_free(&f->w.mat); }

/* Laplace-distributed weights, heavier-tailed than a rotated row ever is. */
static void fill_laplace(fixture *f, uint64_t seed) {
	whit_rng r;
	whit_rng_key(&r, seed, 0, 0);
	for (int64_t i = 0; i < f->w.mat.rows * f->w.mat.cols; i++) {
		double u = whit_rng_uniform(&r) - 0.5;
		source(f)[i] = (float)(-0.02 * copysign(log(1 - 2 * fabs(u)), u));
	}
}

/* sum (w - w')^2 in the source's frame, the slow way. */
static double true_error(const fixture *f) {
	int64_t n = f->w.mat.cols;
	float *row = whit_alloc((size_t)n * sizeof *row);
	double sum = 0;
	for (int64_t r = 0; r < f->w.mat.rows; r++) {
		const float *w = (const float *)(const void *)f->w.mat.plane[0] + r * n;
		whit_mat_decode(&f->dst, r, r + 1, row);
		for (int64_t i = 0; i < n; i++) sum += ((double)w[i] - row[i]) * ((double)w[i] - row[i]);
	}
	whit_free(row);
	return sum;
}

static int fits(const whit_method *m, const char *format) {
	whit_spec s;
	whit_err e;
	return CHECK_RC(whit_spec_parse(format, &s, &e), e) && m->fits(&s);
}

/* Mean relative error over seeds of method m; NaN if something fails. */
static double mean_error(fixture *f, const whit_method *m, const char *format) {
	enum { SEEDS = 4 };
	double sum = 0;
	for (int seed = 1; seed <= SEEDS; seed++) {
		whit_err e;
		fill_laplace(f, (uint64_t)seed);
		if (!CHECK_RC(method_open(f, m, format, (uint64_t)seed, &e), e) || !CHECK_RC(m->run(&f->job, &e), e))
			return NAN;
		double err = true_error(f);
		/* Measured where the codes are, it is the error in the source's frame up to float rounding of the
		 * rotation: 2^-24 log2(256) per weight, which counts against the smallest error here, that of bf16
		 * and the 8-bit formats (relative 4e-5), as less than 1e-3 of it. f32 has none. */
		CHECK_MSG(fabs(f->job.err - err) <= 1e-3 * err + 1e-13 * f->job.ref, "%s %s: measured %g, is %g",
		          m->name, format, f->job.err, err);
		CHECK_INT(f->job.bad_scales, 0);
		if (m->needs) /* its own metric */
			CHECK_MSG(f->job.loss_nearest > 0 && f->job.loss <= f->job.loss_nearest,
			          "%s %s: loss %g, nearest %g", m->name, format, f->job.loss, f->job.loss_nearest);
		sum += err / f->job.ref / SEEDS;
		target_close(f);
	}
	return sum;
}

static void never_worse(void) {
	static const int64_t cols[] = {256, 192}; /* 192: hadamard pads to 256 for most groups */
	for (int i = 0; whit_methods[i]; i++)
		for (int j = 0; j < WHIT_COUNT(formats); j++)
			for (int k = 0; k < 2; k++) {
				const whit_method *m = whit_methods[i];
				whit_err e;
				whit_spec s;
				if (!fits(m, formats[j]) || whit_spec_parse(formats[j], &s, &e)) continue;
				if (m->rotation == WHIT_ROT_NONE && s.group > 0 && cols[k] % s.group) continue;
				fixture f;
				source_open(&f, 96, cols[k]);
				double own = mean_error(&f, m, formats[j]);
				/* Nearest has no way to store 192 columns in groups of 128 or 256: it gets 256 Laplace
				 * columns. */
				fixture g;
				source_open(&g, 96, s.group > 0 && cols[k] % s.group ? 256 : cols[k]);
				double nearest = mean_error(&g, whit_methods[0], formats[j]);
				CHECK_MSG(m->needs || own <= nearest * (1 + 1e-9),
				          "%s on %s, %d columns: %g, nearest %g", m->name, formats[j], (int)cols[k],
				          own, nearest);
				source_close(&g);
				source_close(&f);
			}
}

/* Runs at t threads and returns a hash of all planes. */
static whit_hash bytes_at(fixture *f, const whit_method *m, int t) {
	whit_err e;
	whit_hash h = {0, 0};
	whit_threads_set(t);
	for (int p = 0; p < WHIT_PLANES; p++)
		if (f->dst.plane[p])
			memset((void *)(uintptr_t)f->dst.plane[p], 0xa5, f->dst.row_bytes[p] * (size_t)f->dst.rows);
	CHECK_RC(m->run(&f->job, &e), e);
	for (int p = 0; p < WHIT_PLANES; p++)
		if (f->dst.plane[p]) {
			whit_hash one = whit_hash_bytes(f->dst.plane[p], f->dst.row_bytes[p] * (size_t)f->dst.rows);
			h.hi = h.hi * 31 + one.hi;
			h.lo = h.lo * 31 + one.lo;
		}
	whit_threads_set(0);
	return h;
}

static void same_bytes(void) {
	whit_err e;
	for (int i = 0; whit_methods[i]; i++) {
		const whit_method *m = whit_methods[i];
		fixture f;
		source_open(&f, m->needs ? 200 : 777, m->needs ? 256 : 512);
		fill_laplace(&f, 5);
		for (int j = 0; j < WHIT_COUNT(formats); j++) {
			if (!fits(m, formats[j])) continue;
			if (!CHECK_RC(method_open(&f, m, formats[j], 9, &e), e)) return;
			whit_hash one = bytes_at(&f, m, 1);
			double err = f.job.err, ref = f.job.ref;
			for (int t = 2; t <= 4; t++) {
				whit_hash more = bytes_at(&f, m, t);
				CHECK_MSG(more.hi == one.hi && more.lo == one.lo, "%s %s: other bytes at %d threads",
				          m->name, formats[j], t);
				CHECK(f.job.err == err && f.job.ref == ref);
			}
			target_close(&f);
		}
		source_close(&f);
	}
}

/* Zero, constant, one outlier, subnormal, one weight: everything decodes to something finite and near. */
static void odd_rows(void) {
	enum { COLS = 256, ROWS = 6 };
	fixture f;
	whit_err e;
	source_open(&f, ROWS, COLS);
	for (int c = 0; c < COLS; c++) {
		source(&f)[1 * COLS + c] = 0.37f;
		source(&f)[2 * COLS + c] = c == 77 ? 900.f : 0.01f * (float)(c % 7 - 3);
		source(&f)[3 * COLS + c] = c % 2 ? 1e-40f : -1e-41f;
		source(&f)[5 * COLS + c] = c % 3 ? -1.f : 1.f;
	}
	source(&f)[4 * COLS + 3] = -2.f;
	for (int i = 0; whit_methods[i]; i++)
		for (int j = 0; j < WHIT_COUNT(formats); j++) {
			const whit_method *m = whit_methods[i];
			if (!fits(m, formats[j])) continue;
			if (!CHECK_RC(method_open(&f, m, formats[j], 9, &e), e)) return;
			CHECK_RC(m->run(&f.job, &e), e);
			int f32_scales = f.job.bad_scales > 0;
			if (f32_scales && f.dst.spec.bits) { /* row 3's scale is below F16's normal numbers */
				whit_mat_free(&f.dst);
				f.dst.scale_f32 = 1;
				CHECK_RC(whit_mat_alloc(&f.dst, &e), e);
				CHECK_RC(m->run(&f.job, &e), e);
			}
			CHECK_INT(f.job.bad_scales, 0);
			CHECK_MSG(f32_scales == (f.dst.spec.bits > 0), "%s %s: F32 scales %d", m->name, formats[j],
			          f32_scales);
			CHECK_MSG(f.job.zero_groups >= 1, "%s %s: %d zero groups", m->name, formats[j],
			          (int)f.job.zero_groups);
			for (int r = 0; r < ROWS; r++) {
				float out[COLS];
				whit_mat_decode(&f.dst, r, r + 1, out);
				CHECK_MSG(whit_first_nonfinite(out, COLS) < 0, "%s %s: row %d", m->name, formats[j], r);
				/* A least-squares scale never loses to decoding everything to zero; so a zero row stays
				 * zero. */
				double ref = 0, err = 0;
				for (int c = 0; c < COLS; c++) {
					double w = source(&f)[r * COLS + c];
					ref += w * w;
					err += (w - out[c]) * (w - out[c]);
				}
				CHECK_MSG((m->needs && ref > 0) || err <= ref * (1 + 1e-5), "%s %s: row %d: %g of %g",
				          m->name, formats[j], r, err, ref);
			}
			target_close(&f);
		}
	source_close(&f);
}

static void nonfinite(void) {
	fixture f;
	whit_err e;
	static const float bad[] = {NAN, INFINITY, -INFINITY};
	source_open(&f, 300, 256);
	for (int i = 0; whit_methods[i]; i++)
		for (int b = 0; b < 3; b++) {
			fill_laplace(&f, 1);
			source(&f)[211 * 256 + 17] = source(&f)[212 * 256 + 3] = bad[b];
			if (!CHECK_RC(method_open(&f, whit_methods[i], "int8", 9, &e), e)) return;
			CHECK_FAILS(whit_methods[i]->run(&f.job, &e), WHIT_ENONFINITE, e,
			            "layers.3.test.weight: row 211, column 17");
			target_close(&f);
		}
	CHECK_FAILS(whit_weight_finite(&f.w, &e), WHIT_ENONFINITE, e, "row 211, column 17");
	fill_laplace(&f, 1);
	CHECK_RC(whit_weight_finite(&f.w, &e), e);
	source_close(&f);
}

/* turboquant.md 4: relative MSE at d = 128 by bits and scale rule, within 1 %, over 2^13 directions rotated by
 * either kind. What remains is sampling noise: the relative MSE of one direction spreads by less than 40 %
 * of its mean, so the mean of 8192 by less than 0.5 %. */
static void distortion(void) {
	static const double want[4][4] = {{.3605, .3608, .4010, .5671},
	                                  {.1152, .1160, .1188, .1305},
	                                  {.03352, .03398, .03382, .03473},
	                                  {.00917, .00933, .00919, .00925}};
	enum { ROWS = 1 << 12, COLS = 256 };
	fixture f;
	whit_err e;
	whit_rng r;
	whit_rng_key(&r, 11, 0, 0);
	source_open(&f, ROWS, COLS);
	for (int64_t i = 0; i < (int64_t)ROWS * COLS; i++) source(&f)[i] = (float)whit_rng_normal(&r);
	const whit_method *m = whit_method_find("turboquant", &e);
	for (int bits = 1; bits <= 4; bits++)
		for (int rule = 0; rule < 4; rule++) {
			char format[32];
			snprintf(format, sizeof format, "tq%dg128", bits);
			int kind = rule == WHIT_SCALE_LS ? WHIT_ROT_HAAR_QR : WHIT_ROT_HADAMARD;
			if (!CHECK_RC(target_open(&f, format, kind, 3, WHIT_DENSITY_BETA, rule, &e), e)) return;
			CHECK_RC(m->run(&f.job, &e), e);
			CHECK_NEAR(f.job.err / f.job.ref, want[bits - 1][rule], 0.01 * want[bits - 1][rule]);
			target_close(&f);
		}
	source_close(&f);
}

static void table(void) {
	whit_err e;
	CHECK(!whit_method_find("nearst", &e));
	CHECK_FAILS(e.code, WHIT_EUSAGE, e, "nearest, turboquant");
	for (int i = 0; whit_methods[i]; i++) {
		CHECK(whit_method_find(whit_methods[i]->name, &e) == whit_methods[i]);
		CHECK(whit_methods[i]->help && whit_methods[i]->id && whit_methods[i]->run && whit_methods[i]->fits);
	}
	CHECK_TEXT(whit_methods[0]->name, "nearest"); /* the yardstick of this file */
}

TEST_MAIN(table, never_worse, same_bytes, odd_rows, nonfinite, distortion)
