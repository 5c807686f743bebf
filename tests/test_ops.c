/* ops against hand-computed vectors, and fast twins against plain ones at every vector level. Tolerances are
 * stated per element from the rounding of the fast path; comparisons fail on NaN. */
#include "host/ops.h"
#include "host/op_vec.h"
#include "tests/delta.h"
#include "tests/test.h"

static const double U = 0x1p-24; /* unit roundoff of float */

/* Runs f at each vector level this machine has, and at 1 and 3 threads. */
static void at_levels(void (*f)(const char *where)) {
	for (int level = 0; level <= WHIT_CPU_TOP; level++) {
		whit_cpu_cap(level);
		if (whit_cpu_level() < level) {
			test_skip("vector level %s: not on this machine", whit_cpu_level_name(level));
			continue;
		}
		for (int n = 1; n <= 3; n += 2) {
			whit_threads_set(n);
			f(whit_cpu_level_name(level));
		}
	}
	whit_threads_set(0);
	whit_cpu_cap(WHIT_CPU_TOP);
}

/* n values with guards on both sides; NaN where nothing was written. */
enum { GUARD = 16 };
static float *guarded(int64_t n) {
	float *p = whit_alloc((size_t)(n + 2 * GUARD) * sizeof *p);
	for (int64_t i = 0; i < n + 2 * GUARD; i++) p[i] = NAN;
	for (int i = 0; i < GUARD; i++) p[i] = p[n + GUARD + i] = 12345.0f;
	return p + GUARD;
}
static void guards_free(float *p, int64_t n, const char *what) {
	int intact = 1;
	for (int i = 0; i < GUARD; i++) intact &= p[-1 - i] == 12345.0f && p[n + i] == 12345.0f;
	CHECK_MSG(intact, "%s: wrote outside its output", what);
	whit_free(p - GUARD);
}

static float *normal(int64_t n, uint64_t key) {
	whit_rng r;
	float *x = whit_alloc((size_t)(n + 1) * sizeof *x);
	whit_rng_key(&r, 7, key, 0);
	for (int64_t i = 0; i < n; i++) x[i] = (float)whit_rng_normal(&r);
	return x;
}

/* |got - want| <= tol * mag[i] everywhere (mag NULL: 1). */
static void compare(const float *got, const float *want, const float *mag, int64_t n, double tol, const char *what,
                    const char *where) {
	for (int64_t i = 0; i < n; i++) {
		if (fabs((double)got[i] - want[i]) <= tol * (mag ? mag[i] : 1)) continue;
		CHECK_MSG(0, "%s (%s): element %lld of %lld is %.9g, need %.9g within %.3g", what, where, (long long)i,
		          (long long)n, (double)got[i], (double)want[i], tol * (mag ? mag[i] : 1));
		return;
	}
	CHECK_MSG(1, "%s", what);
}

/* ---- by hand ---- */

static whit_mat float_mat(const float *w, int64_t rows, int64_t cols, const char *format) {
	whit_mat m = {.rows = rows, .cols = cols, .width = cols};
	whit_err e = {0};
	int64_t zero = 0;
	CHECK_RC(whit_spec_parse(format, &m.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	for (int64_t r = 0; r < rows; r++) m.spec.fmt->encode(&m, r, w + r * cols, NULL, 0, &zero);
	return m;
}

static void by_hand(const char *where) {
	whit_arena a = {0};
	float y[8];
	/* mean square of (3, 4) is 12.5; with eps 12.5 the root is 5: (0.6, 0.8) * (2, 1 + 1) */
	whit_rmsnorm_fast_cpu(y, (float[]){3, 4}, (float[]){1, 1}, 1, 1, 2, 12.5f, 1.0f);
	compare(y, (float[]){1.2f, 1.6f}, NULL, 2, 4 * U, "rmsnorm by hand", where);
	whit_rmsnorm_cpu(y, (float[]){3, 4, 0, 0}, (float[]){2, 1}, 1, 2, 2, 12.5f, 0.0f);
	compare(y, (float[]){1.2f, 0.8f, 0, 0}, NULL, 4, 4 * U, "rmsnorm by hand", "plain");
	/* A turn of 90 degrees at position 1 takes (1, 0) to (0, 1); the third value is not rotated. */
	double quarter = acos(0);
	int64_t pos[] = {0, 1};
	float x[] = {1, 0, 7, 1, 0, 7};
	whit_rope_cpu(y, x, pos, 2, 1, 3, 2, &quarter, 2);
	compare(y, (float[]){2, 0, 7, 0, 2, 7}, NULL, 6, 4 * U, "rope by hand", "plain");
	whit_rope_fast_cpu(y, x, pos, 2, 1, 3, 2, &quarter, 2);
	compare(y, (float[]){2, 0, 7, 0, 2, 7}, NULL, 6, 4 * U, "rope by hand", where);
	/* silu(0) = 0, silu(large) = large, silu(-large) = -0, silu(ln 3) = 0.75 ln 3 */
	float l3 = (float)log(3);
	whit_swiglu_fast_cpu(y, (float[]){0, 100, -200, l3}, (float[]){5, 2, 1, 2}, 4);
	compare(y, (float[]){0, 200, 0, 1.5f * l3}, NULL, 4, 1e-6, "swiglu by hand", where);
	whit_add_cpu(y, (float[]){1, 2, 3}, (float[]){10, 20, 30}, 3);
	compare(y, (float[]){11, 22, 33}, NULL, 3, 0, "add by hand", where);
	/* sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4 */
	whit_gate_cpu(y, (float[]){3, 8, 5}, (float[]){0, l3, -200}, 3);
	compare(y, (float[]){1.5f, 6, 0}, NULL, 3, 4 * U * 6, "gate by hand", "plain");
	whit_split_cpu(y, y + 4, (float[]){1, 2, 3, 4, 5, 6, 7, 8}, 2, 1, 2);
	compare(y, (float[]){1, 2, 5, 6, 3, 4, 7, 8}, NULL, 8, 0, "split by hand", "plain");
	/* silu(ln 3) = 0.75 ln 3 of 2 ln 3 - ln 3; 3 * 0 + 0 * 5; two channels, taps of (past, now) */
	float past[] = {l3, 0};
	whit_conv_cpu(y, (float[]){2 * l3, 5}, (float[]){-1, 1, 3, 0}, past, 1, 2, 2);
	compare(y, (float[]){0.75f * l3, 0}, NULL, 2, 1e-6, "conv by hand", "plain");
	compare(past, (float[]){2 * l3, 5}, NULL, 2, 0, "conv's past by hand", "plain");
	/* Equal scores share: the mean of the seen values. Two query heads on one kv head; window 2. */
	float q[8] = {0}, k[4] = {1, 2, 3, 4}, v[4] = {1, 2, 6, 4};
	whit_attention_cpu(y, q, k, v, 4, 0, 2, 1, 1, 1, 2);
	compare(y, (float[]){1, 1, 1.5f, 1.5f, 4, 4, 5, 5}, NULL, 8, 4 * U, "attention by hand", "plain");
	whit_attention_fast_cpu(y, q, k, v, 4, 0, 2, 1, 1, 1, 2, &a);
	compare(y, (float[]){1, 1, 1.5f, 1.5f, 4, 4, 5, 5}, NULL, 8, 4 * U, "attention by hand", where);
	/* Scores ln 3 and 0: weights 3/4 and 1/4. */
	whit_attention_fast_cpu(y, (float[]){0.5f}, (float[]){2 * l3, 0}, (float[]){4, 8}, 1, 1, 1, 1, 1, 1, 0, &a);
	compare(y, (float[]){5}, NULL, 1, 1e-6, "attention of a past by hand", where);
	whit_mat m = float_mat((float[]){1, 2, 3, -4, 0, 5}, 2, 3, "f32");
	whit_linear_cpu(y, (float[]){1, 10, 100, 0, 1, 0}, 2, &m, (float[]){1000, 0});
	compare(y, (float[]){1321, 496, 1002, 0}, NULL, 4, 0, "linear by hand", "plain");
	whit_linear_fast_cpu(y, (float[]){1, 10, 100, 0, 1, 0}, 2, &m, (float[]){1000, 0}, &a);
	compare(y, (float[]){1321, 496, 1002, 0}, NULL, 4, 0, "linear by hand", where);
	whit_embed_fast_cpu(y, (int32_t[]){1, 0}, 2, &m);
	compare(y, (float[]){-4, 0, 5, 1, 2, 3}, NULL, 6, 0, "embed by hand", where);
	whit_mat_free(&m);
	whit_arena_free(&a);
}

/* ---- fast against plain ---- */

static void rmsnorm(const char *where) {
	static const int64_t shape[][3] = {{0, 1, 8}, {1, 1, 1}, {3, 1, 33}, {5, 4, 128}, {2, 1, 5120}, {130, 1, 1024}};
	for (int i = 0; i < WHIT_COUNT(shape); i++) {
		int64_t T = shape[i][0], n = shape[i][1], d = shape[i][2], all = T * n * d;
		float *x = normal(all, 1), *w = normal(d, 2), *want = whit_alloc((size_t)(all + 1) * sizeof *want),
		      *got = guarded(all);
		for (int64_t k = 0; k < all; k++) x[k] *= k % 7 ? 1 : 100;
		whit_rmsnorm_cpu(want, x, w, T, n, d, 1e-6f, 0.5f);
		whit_rmsnorm_fast_cpu(got, x, w, T, n, d, 1e-6f, 0.5f);
		/* the sum of squares rounds d times at worst and halves under the root; five more roundings, that of
		 * w + shift relative to its larger term */
		float *mag = whit_alloc((size_t)(all + 1) * sizeof *mag);
		for (int64_t k = 0; k < all; k++)
			mag[k] =
			        fabsf(want[k]) * (1 + (fabsf(w[k % d]) + 0.5f) / fmaxf(fabsf(w[k % d] + 0.5f), 1e-30f));
		compare(got, want, mag, all, (0.5 * (double)d / 8 + 6) * U, "rmsnorm", where);
		guards_free(got, all, "rmsnorm");
		whit_free(x), whit_free(w), whit_free(want), whit_free(mag);
	}
}

static void rope(const char *where) {
	static const int64_t shape[][4] = {{0, 1, 2, 2},   {1, 1, 2, 2},     {7, 3, 10, 10},
	                                   {5, 2, 64, 16}, {9, 8, 128, 128}, {2, 1, 600, 540}};
	static const int64_t pos[] = {0, 1, 2, 511, 8191, 40959, 131071, 262143, 17};
	for (int i = 0; i < WHIT_COUNT(shape); i++) {
		int64_t T = shape[i][0], h = shape[i][1], d = shape[i][2], rot = shape[i][3], all = T * h * d;
		double *f = whit_alloc((size_t)rot * sizeof *f);
		for (int64_t k = 0; k < rot / 2; k++) f[k] = (float)pow(1e4, -2.0 * (double)k / (double)rot);
		float *x = normal(all, 3), *want = whit_alloc((size_t)(all + 1) * sizeof *want), *got = guarded(all);
		whit_rope_cpu(want, x, pos, T, h, d, rot, f, 1.25);
		whit_rope_fast_cpu(got, x, pos, T, h, d, rot, f, 1.25);
		/* sine and cosine within 2 ulp, three roundings more, two terms of at most 1.25 * 6 sigma */
		compare(got, want, NULL, all, 5 * U * 2 * 1.25 * 6, "rope", where);
		whit_rope_fast_cpu(x, x, pos, T, h, d, rot, f, 1.25);
		CHECK_MSG(!memcmp(x, got, (size_t)all * sizeof *x), "rope (%s): in place differs", where);
		guards_free(got, all, "rope");
		whit_free(x), whit_free(want), whit_free(f);
	}
}

static void swiglu(const char *where) {
	static const int64_t size[] = {0, 1, 15, 17, 4096, 40001};
	for (int i = 0; i < WHIT_COUNT(size); i++) {
		int64_t n = size[i];
		float *g = normal(n, 4), *u = normal(n, 5), *want = whit_alloc((size_t)(n + 1) * sizeof *want),
		      *got = guarded(n);
		for (int64_t k = 0; k < n; k++) g[k] *= k % 3 ? 1 : 30;
		whit_swiglu_cpu(want, g, u, n);
		whit_swiglu_fast_cpu(got, g, u, n);
		float *mag = whit_alloc((size_t)(n + 1) * sizeof *mag);
		for (int64_t k = 0; k < n; k++) mag[k] = fabsf(want[k]) + 2e-29f; /* exp stops at e^88: 5e-36 beyond */
		/* exp to 2e-7, that is 4 U, and its argument's reduction; sum, quotient, product */
		compare(got, want, mag, n, 8 * U, "swiglu", where);
		guards_free(got, n, "swiglu");
		whit_free(g), whit_free(u), whit_free(want), whit_free(mag);
	}
}

static void attention(const char *where) {
	static const struct {
		int64_t T, past, heads, kv, dim, window;
	} c[] = {{1, 0, 1, 1, 1, 0},      {0, 4, 2, 1, 8, 0},     {1, 300, 6, 2, 64, 0}, {1, 63, 4, 4, 80, 20},
	         {7, 5, 4, 2, 10, 3},     {8, 0, 3, 1, 33, 0},    {65, 0, 2, 2, 64, 0},  {64, 7, 4, 1, 16, 9},
	         {130, 70, 2, 1, 128, 0}, {200, 11, 2, 1, 24, 70}};
	for (int i = 0; i < WHIT_COUNT(c); i++) {
		int64_t all = c[i].T * c[i].heads * c[i].dim, keys = (c[i].past + c[i].T) * c[i].kv * c[i].dim;
		float *q = normal(all, 6), *k = normal(keys, 7), *v = normal(keys, 8),
		      *want = whit_alloc((size_t)(all + 1) * sizeof *want);
		float *got = guarded(all), scale = (float)(1 / sqrt((double)c[i].dim));
		whit_arena a = {0};
		for (int64_t n = 0; n < all; n++) q[n] *= 3;
		whit_attention_cpu(want, q, k, v, c[i].T, c[i].past, c[i].heads, c[i].kv, c[i].dim, scale, c[i].window);
		whit_attention_fast_cpu(got, q, k, v, c[i].T, c[i].past, c[i].heads, c[i].kv, c[i].dim, scale,
		                        c[i].window, &a);
		/* a score is a sum of dim products of size 3 * scale * |k| <= 15 in all: its absolute error, at most
		 * dim U * 15, is the relative error of a weight; the weighted mean of values <= 6 adds keys U */
		double tol = 2 * U * 6 * (15 * (double)c[i].dim / 4 + sqrt((double)(c[i].past + c[i].T)) + 8);
		compare(got, want, NULL, all, tol, "attention", where);
		guards_free(got, all, "attention");
		whit_arena_free(&a);
		whit_free(q), whit_free(k), whit_free(v), whit_free(want);
	}
}

static void linear(const char *where) {
	static const struct {
		int64_t T, rows, cols;
		const char *format;
	} c[] = {{0, 3, 5, "f32"},         {1, 1, 1, "f32"},      {3, 7, 33, "bf16"},     {1, 1000, 256, "bf16"},
	         {8, 130, 1024, "f16"},    {9, 1, 17, "f32"},     {9, 13, 1, "f16"},      {33, 100, 513, "f32"},
	         {128, 200, 1024, "bf16"}, {600, 60, 70, "bf16"}, {17, 49, 13000, "bf16"}};
	for (int i = 0; i < WHIT_COUNT(c); i++) {
		int64_t all = c[i].T * c[i].rows, cols = c[i].cols;
		float *w = normal(c[i].rows * cols, 9), *x = normal(c[i].T * cols, 10), *b = normal(c[i].rows, 11);
		float *want = whit_alloc((size_t)(all + 1) * sizeof *want),
		      *mag = whit_alloc((size_t)(all + 1) * sizeof *mag), *got = guarded(all);
		whit_mat m = float_mat(w, c[i].rows, cols, c[i].format);
		whit_arena a = {0};
		whit_linear_cpu(want, x, c[i].T, &m, b);
		whit_linear_fast_cpu(got, x, c[i].T, &m, b, &a);
		for (int64_t r = 0; r < c[i].rows; r++) {
			for (int64_t t = 0; t < c[i].T; t++) {
				double sum = fabs((double)b[r]);
				for (int64_t k = 0; k < cols; k++)
					sum += fabs((double)w[r * cols + k] * x[t * cols + k]);
				mag[t * c[i].rows + r] = (float)sum;
			}
		}
		/* sums of at most 512 terms in order, then of blocks; a f16 or bf16 weight may exceed w by 1/256 */
		double terms = (double)WHIT_MIN(cols, 512) + (double)cols / 512 + 2;
		compare(got, want, mag, all, 1.01 * terms * U, c[i].format, where);
		/* An output does not depend on the other tokens: the first ten alone give the same bytes. */
		if (c[i].T > 10) {
			whit_linear_fast_cpu(want, x, 10, &m, b, &a);
			CHECK_MSG(!memcmp(got, want, (size_t)(10 * c[i].rows) * sizeof *got),
			          "linear (%s): depends on the number of tokens", where);
		}
		guards_free(got, all, "linear");
		whit_mat_free(&m);
		whit_arena_free(&a);
		whit_free(w), whit_free(x), whit_free(b), whit_free(want), whit_free(mag);
	}
}

/* Rotated and packed matrices: the same product as through the decoded weights. */
static void linear_packed(const char *where) {
	static const char *const format[] = {"int8", "int4g128"};
	for (int i = 0; i < WHIT_COUNT(format); i++) {
		for (int64_t T = 1; T <= 20; T += 19) {
			enum { ROWS = 70, COLS = 256 };
			whit_rotation_spec spec;
			whit_rotation *rot = NULL;
			whit_err e = {0};
			whit_arena a = {0};
			whit_mat m = {.rows = ROWS, .cols = COLS};
			int64_t zero = 0;
			float *w = normal(ROWS * COLS, 12), *x = normal(T * COLS, 13),
			      *r = whit_alloc(COLS * sizeof *r);
			float *want = whit_alloc((size_t)(T * ROWS) * sizeof *want), *got = guarded(T * ROWS);
			CHECK_RC(whit_rotation_plan(&spec, WHIT_ROT_HADAMARD, 42, COLS, 0, &e), e);
			CHECK_RC(whit_rotation_new(&rot, &spec, NULL, &e), e);
			CHECK_RC(whit_spec_parse(format[i], &m.spec, &e), e);
			m.width = whit_rotation_width(rot);
			m.rot = rot;
			CHECK_RC(whit_mat_alloc(&m, &e), e);
			for (int64_t k = 0; k < ROWS; k++) {
				whit_rotate_cpu(rot, r, w + k * COLS, 1);
				m.spec.fmt->encode(&m, k, r, NULL, 0, &zero);
			}
			whit_linear_cpu(want, x, T, &m, NULL);
			whit_linear_fast_cpu(got, x, T, &m, NULL, &a);
			/* sums of 256 terms of mean size 0.64, twice (rotation, product), and log2 256 steps of
			 * rotation */
			compare(got, want, NULL, T * ROWS, 2 * (256 + 8) * U * 256 * 0.64, format[i], where);
			guards_free(got, T * ROWS, format[i]);
			whit_mat_free(&m);
			whit_rotation_free(rot);
			whit_arena_free(&a);
			whit_free(w), whit_free(x), whit_free(r), whit_free(want);
		}
	}
}

static void gate(const char *where) {
	static const int64_t size[] = {0, 1, 17, 40001};
	for (int i = 0; i < WHIT_COUNT(size); i++) {
		int64_t n = size[i];
		float *x = normal(n, 20), *g = normal(n, 21), *want = whit_alloc((size_t)(n + 1) * sizeof *want),
		      *got = guarded(n);
		float *mag = whit_alloc((size_t)(n + 1) * sizeof *mag);
		for (int64_t k = 0; k < n; k++) g[k] *= k % 3 ? 1 : 30;
		whit_gate_cpu(want, x, g, n);
		whit_gate_fast_cpu(got, x, g, n);
		for (int64_t k = 0; k < n; k++) mag[k] = fabsf(want[k]) + 2e-29f; /* as swiglu */
		compare(got, want, mag, n, 8 * U, "gate", where);
		whit_gate_fast_cpu(x, x, g, n);
		CHECK_MSG(!memcmp(x, got, (size_t)n * sizeof *x), "gate (%s): in place differs", where);
		guards_free(got, n, "gate");
		whit_free(x), whit_free(g), whit_free(want), whit_free(mag);
	}
}

static void conv(const char *where) {
	static const int64_t shape[][4] = {{0, 3, 4, 1},   {1, 7, 4, 1},  {2, 300, 4, 1},  {3, 5, 4, 0},
	                                   {200, 3, 1, 1}, {2, 9, 20, 1}, {130, 40, 3, 1}, {65, 520, 4, 0}};
	for (int i = 0; i < WHIT_COUNT(shape); i++) {
		int64_t T = shape[i][0], c = shape[i][1], taps = shape[i][2], n = T * c, kept = (taps - 1) * c;
		float *x = normal(n, 22), *w = normal(c * taps, 23), *got = guarded(n), *mag = normal(n, 24);
		float *past = shape[i][3] ? normal(kept, 25) : NULL, *past2 = shape[i][3] ? normal(kept, 25) : NULL;
		float *want = whit_alloc((size_t)(n + 1) * sizeof *want), *zero = whit_alloc((size_t)kept * 4 + 4);
		for (int64_t k = 0; k < n; k++) {
			double sum = 0;
			for (int64_t tap = 0; tap < taps; tap++) {
				int64_t t = k / c - taps + 1 + tap;
				float in = t >= 0 ? x[t * c + k % c] : past ? past[(t + taps - 1) * c + k % c] : 0;
				sum += fabs((double)w[k % c * taps + tap] * in);
			}
			mag[k] = (float)sum;
		}
		whit_conv_cpu(want, x, w, past, T, c, taps);
		whit_conv_fast_cpu(got, x, w, past2, T, c, taps);
		/* a product and a sum a tap, silu changes 1.1 as fast as its argument; exp, sum, quotient, product */
		compare(got, want, mag, n, (1.1 * (double)(taps + 1) + 8) * U, "conv", where);
		CHECK_MSG(!past || !memcmp(past, past2, (size_t)kept * sizeof *past), "conv (%s): what is kept", where);
		/* No past is a past of zeros. */
		if (!past) {
			whit_conv_fast_cpu(want, x, w, zero, T, c, taps);
			CHECK_MSG(!memcmp(got, want, (size_t)n * sizeof *got), "conv (%s): zeros of the past", where);
		}
		/* Two calls are one. */
		if (past && T > 1) {
			whit_free(past);
			past = normal(kept, 25);
			whit_conv_fast_cpu(want, x, w, past, T / 2, c, taps);
			whit_conv_fast_cpu(want + T / 2 * c, x + T / 2 * c, w, past, T - T / 2, c, taps);
			CHECK_MSG(!memcmp(got, want, (size_t)n * sizeof *got), "conv (%s): in two calls", where);
			CHECK_MSG(!memcmp(past, past2, (size_t)kept * sizeof *past), "conv (%s): kept by two calls",
			          where);
		}
		guards_free(got, n, "conv");
		whit_free(x), whit_free(w), whit_free(mag), whit_free(past), whit_free(past2), whit_free(want),
		        whit_free(zero);
	}
}

/* Inputs of the delta rule, owned by the arena. */
static whit_delta delta_make(whit_arena *a, int64_t T, int64_t k_heads, int64_t v_heads, int64_t dim) {
	int64_t width = (2 * k_heads + v_heads) * dim, size[] = {T * width, T * v_heads, T * v_heads, v_heads, v_heads};
	float *x[5];
	for (int i = 0; i < 5; i++) {
		float *p = normal(size[i], 30 + (uint64_t)i);
		memcpy(x[i] = whit_take(a, size[i]), p, (size_t)size[i] * sizeof *p);
		whit_free(p);
	}
	delta_inputs(x[0], x[2], x[3], T, width, v_heads);
	return (whit_delta){x[0], x[1], x[2], x[3], x[4], k_heads, v_heads, dim, 0, 0};
}

/* The state of one v head as a product of matrices, S = decay (I - beta k k^T) S + beta k v^T, in the order of the
 * paper's eq. 10 turned, and y = S^T q. */
static void delta_literal(float *y, const whit_delta *d, int64_t T) {
	enum { DIM = 8 };
	int64_t width = (2 * d->k_heads + d->v_heads) * DIM;
	for (int64_t h = 0; h < d->v_heads; h++) {
		double S[DIM][DIM] = {{0}}, next[DIM][DIM], M[DIM][DIM], k[DIM], q[DIM];
		for (int64_t t = 0; t < T; t++) {
			const float *xq = d->qkv + t * width + h / (d->v_heads / d->k_heads) * DIM,
			            *xk = xq + d->k_heads * DIM, *v = d->qkv + t * width + (2 * d->k_heads + h) * DIM;
			double kk = 1e-6, qq = 1e-6;
			for (int i = 0; i < DIM; i++) kk += pow(xk[i], 2), qq += pow(xq[i], 2);
			for (int i = 0; i < DIM; i++) k[i] = xk[i] / sqrt(kk), q[i] = xq[i] / sqrt(qq) / sqrt(DIM);
			double beta = 1 / (1 + exp(-(double)d->beta[t * d->v_heads + h]));
			double soft = log(1 + exp((double)d->alpha[t * d->v_heads + h] + d->dt_bias[h]));
			double decay = exp(-exp((double)d->rate[h]) * soft);
			for (int i = 0; i < DIM; i++)
				for (int j = 0; j < DIM; j++) M[i][j] = decay * ((i == j) - beta * k[i] * k[j]);
			for (int i = 0; i < DIM; i++)
				for (int j = 0; j < DIM; j++) {
					next[i][j] = beta * k[i] * v[j];
					for (int x = 0; x < DIM; x++) next[i][j] += M[i][x] * S[x][j];
				}
			memcpy(S, next, sizeof S);
			for (int j = 0; j < DIM; j++) {
				double sum = 0;
				for (int i = 0; i < DIM; i++) sum += S[i][j] * q[i];
				y[(t * d->v_heads + h) * DIM + j] = (float)sum;
			}
		}
	}
}

static void delta_plain(void) {
	enum { T = 23, K = 2, V = 6, DIM = 8, WIDTH = (2 * K + V) * DIM, N = T * V * DIM, KEPT = V * DIM * DIM };
	whit_arena a = {0};
	whit_delta d = delta_make(&a, T, K, V, DIM), e = d;
	float *want = whit_take(&a, N), *got = whit_take(&a, N), *state = whit_alloc(KEPT * sizeof *state),
	      *two = whit_alloc(KEPT * sizeof *two), rate[V], *qkv = whit_take(&a, T * WIDTH);
	whit_delta_cpu(got, &d, NULL, T);
	delta_literal(want, &d, T);
	/* both in double: of values below 10 the rounding to float */
	compare(got, want, NULL, N, 10 * U, "delta, matrix by matrix", "plain");
	/* A state of zeros is none; what stands in it behind seven tokens serves the others. Rounded to float there:
	 * a state's 8 values of a column, each below 10. */
	whit_delta_cpu(want, &d, state, T);
	compare(want, got, NULL, N, 0, "delta, with a state", "plain");
	whit_delta_cpu(want, &d, two, 7);
	e.qkv += 7 * WIDTH, e.beta += 7 * V, e.alpha += 7 * V;
	whit_delta_cpu(want + 7 * V * DIM, &e, two, T - 7);
	compare(want, got, NULL, N, 8 * 10 * U, "delta, in two calls", "plain");
	compare(two, state, NULL, KEPT, 8 * 10 * U, "delta's state of two calls", "plain");
	/* A rate that is -exp(rate) already. */
	for (int h = 0; h < V; h++) rate[h] = (float)-exp((double)d.rate[h]);
	e = d, e.rate = rate, e.rate_done = 1;
	whit_delta_cpu(want, &e, NULL, T);
	compare(want, got, NULL, N, 100 * U, "delta, rate_done", "plain"); /* U of ln decay, 70 at most */
	/* Tiled: v head j K + k of the tiled order is k V/K + j of the other. */
	float *beta = whit_take(&a, T * V), *alpha = whit_take(&a, T * V), *bias = whit_take(&a, V);
	e = (whit_delta){qkv, beta, alpha, rate, bias, K, V, DIM, 1, 0};
	memcpy(qkv, d.qkv, T * WIDTH * sizeof *qkv);
	for (int h = 0; h < V; h++) {
		int from = h % K * (V / K) + h / K;
		rate[h] = d.rate[from], bias[h] = d.dt_bias[from];
		for (int t = 0; t < T; t++) {
			beta[t * V + h] = d.beta[t * V + from], alpha[t * V + h] = d.alpha[t * V + from];
			memcpy(qkv + t * WIDTH + (2 * K + h) * DIM, d.qkv + t * WIDTH + (2 * K + from) * DIM,
			       DIM * sizeof *qkv);
		}
	}
	whit_delta_cpu(want, &e, NULL, T);
	for (int h = 0; h < V; h++)
		for (int t = 0; t < T; t++)
			compare(want + (t * V + h) * DIM, got + (t * V + h % K * (V / K) + h / K) * DIM, NULL, DIM, 0,
			        "delta, tiled", "plain");
	whit_free(state), whit_free(two);
	whit_arena_free(&a);
}

static void delta(const char *where) {
	static const struct {
		int64_t T, k, v, dim;
		int tiled, past;
	} c[] = {{0, 1, 1, 8, 0, 1},  {1, 2, 6, 16, 1, 1},   {7, 1, 3, 5, 0, 0},    {8, 2, 2, 1, 0, 1},
	         {64, 1, 2, 8, 0, 0}, {65, 2, 4, 33, 1, 1},  {200, 2, 6, 16, 0, 1}, {129, 1, 3, 128, 0, 0},
	         {9, 2, 4, 7, 1, 1},  {127, 3, 6, 64, 1, 1}, {3, 2, 6, 128, 0, 1},  {63, 1, 1, 24, 0, 1}};
	for (int i = 0; i < WHIT_COUNT(c); i++) {
		int64_t T = c[i].T, dim = c[i].dim, n = T * c[i].v * dim, kept = c[i].v * dim * dim;
		whit_arena a = {0}, scratch = {0};
		whit_delta d = delta_make(&a, T, c[i].k, c[i].v, dim);
		float *want = whit_take(&a, n), *mag = whit_take(&a, n), *got = guarded(n), *off = whit_take(&a, kept);
		float *start = normal(kept, 40), *state = normal(kept, 40), *to = guarded(kept);
		memcpy(to, start, (size_t)kept * sizeof *to);
		d.tiled = c[i].tiled;
		whit_delta_cpu(want, &d, c[i].past ? state : NULL, T);
		whit_delta_fast_cpu(got, &d, c[i].past ? to : NULL, T, &scratch);
		delta_bound(mag, off, &d, c[i].past ? start : NULL, T);
		compare(got, want, mag, n, ((double)dim + 80) * U, "delta", where);
		int threads = whit_threads();
		float *again = whit_take(&a, n), *behind = whit_take(&a, kept);
		memcpy(behind, start, (size_t)kept * sizeof *behind);
		whit_threads_set(threads + 4);
		whit_delta_fast_cpu(again, &d, c[i].past ? behind : NULL, T, &scratch);
		whit_threads_set(threads);
		CHECK_MSG(!memcmp(got, again, (size_t)n * sizeof *got) &&
		                  (!c[i].past || !memcmp(to, behind, (size_t)kept * sizeof *to)),
		          "delta (%s): other bytes from %d threads than from %d", where, threads + 4, threads);
		if (c[i].past && T) compare(to, state, off, kept, ((double)dim + 80) * U, "delta's state", where);
		guards_free(got, n, "delta");
		guards_free(to, kept, "delta's state");
		whit_free(start), whit_free(state);
		whit_arena_free(&a), whit_arena_free(&scratch);
	}
}

static void nonfinite(const char *where) {
	whit_arena a = {0};
	float x[40], y[40], *w = normal(40 * 40, 14);
	for (int i = 0; i < 40; i++) x[i] = i == 20 ? NAN : 1;
	whit_swiglu_fast_cpu(y, x, w, 40);
	CHECK_MSG(isnan(y[20]) && isfinite(y[19]) && isfinite(y[21]), "swiglu (%s) hides NaN", where);
	whit_rmsnorm_fast_cpu(y, x, w, 1, 1, 40, 1e-6f, 0);
	CHECK_MSG(isnan(y[0]) && isnan(y[39]), "rmsnorm (%s) hides NaN", where);
	whit_attention_fast_cpu(y, x, w, w, 1, 9, 1, 1, 40, 1, 0, &a);
	CHECK_MSG(isnan(y[0]) && isnan(y[39]), "attention (%s) hides NaN", where);
	float *q = whit_alloc(400 * sizeof *q), *z = whit_alloc(400 * sizeof *z);
	q[3 * 10 + 1] = NAN;
	whit_attention_fast_cpu(z, q, w, w, 40, 0, 1, 1, 10, 1, 0, &a);
	CHECK_MSG(isnan(z[30]) && isfinite(z[29]) && isfinite(z[40]), "attention (%s) hides or spreads NaN", where);
	whit_gate_fast_cpu(y, w, x, 40);
	CHECK_MSG(isnan(y[20]) && isfinite(y[19]) && isfinite(y[21]), "gate (%s) hides or spreads NaN", where);
	whit_conv_fast_cpu(z, q, w, NULL, 40, 10, 4); /* channel 1 from token 3 on, for four */
	CHECK_MSG(isnan(z[31]) && isnan(z[61]) && isfinite(z[21]) && isfinite(z[71]) && isfinite(z[32]),
	          "conv (%s) hides or spreads NaN", where);
	for (int64_t T = 3; T <= 30;
	     T += 27) { /* value 1 of token 2, of v head 1 of two; chunks may spread it in time */
		whit_delta d = delta_make(&a, T, 1, 2, 4);
		((float *)(uintptr_t)d.qkv)[2 * 16 + 13] = NAN;
		whit_delta_fast_cpu(z, &d, NULL, T, &a);
		CHECK_MSG(isnan(z[2 * 8 + 5]) && isnan(z[(T - 1) * 8 + 5]) && isfinite(z[2 * 8 + 1]) &&
		                  isfinite(z[(T - 1) * 8 + 6]),
		          "delta (%s) hides or spreads NaN", where);
	}
	whit_mat m = float_mat(w, 40, 10, "f32");
	whit_linear_fast_cpu(z, q, 10, &m, NULL, &a);
	CHECK_MSG(isnan(z[3 * 40]) && isfinite(z[2 * 40 + 39]), "linear (%s) hides or spreads NaN", where);
	whit_mat_free(&m);
	whit_free(q), whit_free(z), whit_free(w);
	whit_arena_free(&a);
}

static void levels(void) {
	static void (*const f[])(const char *) = {by_hand, rmsnorm, rope,   swiglu,        attention, gate,
	                                          conv,    delta,   linear, linear_packed, nonfinite};
	for (int i = 0; i < WHIT_COUNT(f); i++) at_levels(f[i]);
}

TEST_MAIN(delta_plain, levels)
