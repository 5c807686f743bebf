/* Products of block formats with rounded activations: the fast ones against the plain one at every CPU level, the plain
 * one by hand and against ggml's (tests/golden/ggml_dots.bin), and the rounding of activations. */
#include "formats/blocks.h"
#include "host/ops.h"
#include "tests/test.h"

static const struct {
	const char *name;
	int d[3]; /* offsets of F16 scales, -1 = none */
} types[] = {{"q1_0", {0, -1}},   {"q2_0", {0, -1}},    {"q4_0", {0, -1}},    {"q4_1", {0, 2, -1}},
             {"q5_0", {0, -1}},   {"q5_1", {0, 2, -1}}, {"q8_0", {0, -1}},    {"q2_k", {80, 82, -1}},
             {"q3_k", {108, -1}}, {"q4_k", {0, 2, -1}}, {"q5_k", {0, 2, -1}}, {"q6_k", {208, -1}},
             {"iq4_nl", {0, -1}}, {"iq4_xs", {0, -1}},  {"mxfp4", {-1}},      {"tq1_0", {52, -1}},
             {"tq2_0", {64, -1}}};

/* Blocks of random bytes whose scales are finite, of mixed size and sign. */
static whit_mat random_mat(int type, int64_t rows, int64_t width) {
	whit_mat m = {.rows = rows, .cols = width, .width = width};
	whit_err e = {0};
	whit_rng g;
	whit_rng_key(&g, 5, (uint64_t)type, (uint64_t)width);
	CHECK_RC(whit_spec_parse(types[type].name, &m.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	const whit_block *b = m.spec.fmt->block;
	uint8_t *p = (uint8_t *)(uintptr_t)m.plane[0];
	for (size_t i = 0; i < (size_t)rows * m.row_bytes[0]; i++) p[i] = (uint8_t)(whit_rng_next(&g) >> 33);
	for (int64_t i = 0; i < rows * width / b->weights; i++, p += b->bytes) {
		for (int k = 0; types[type].d[k] >= 0; k++) {
			uint16_t h = whit_f32_to_f16((float)(0.02 * whit_rng_normal(&g)));
			memcpy(p + types[type].d[k], &h, 2);
		}
		if (!strcmp(types[type].name, "mxfp4")) p[0] = (uint8_t)(110 + p[0] % 16);
	}
	return m;
}

/* Activations with what hurts: outliers, groups of zeros, values that are not numbers of this size. */
static float *activations(int64_t T, int64_t width) {
	whit_rng g;
	float *x = whit_alloc((size_t)(T * width) * sizeof *x);
	whit_rng_key(&g, 6, (uint64_t)T, (uint64_t)width);
	for (int64_t i = 0; i < T * width; i++) {
		x[i] = (float)whit_rng_normal(&g);
		if (whit_rng_below(&g, 97) == 0) x[i] *= 300;
		if (i / 32 % 11 == 3) x[i] = 0;
		if (i / 256 % 7 == 5) x[i] = 0;
		if (i / 32 % 13 == 4) x[i] *= 1e-30f;
	}
	return x;
}

/* mag[t * rows + r] = sum over groups of |scale d dot| + |shift s|. */
static void magnitudes(float *mag, const whit_mat *m, const float *x, int64_t T) {
	const whit_ints *f = m->spec.fmt->block->ints;
	const whit_block *b = m->spec.fmt->block;
	int64_t n = m->width, groups = n / f->group;
	uint8_t *u = whit_alloc((size_t)n);
	int8_t *a = whit_alloc((size_t)n);
	int32_t *quad = whit_alloc((size_t)n);
	float *scale = whit_alloc((size_t)groups * 4), *shift = whit_alloc((size_t)groups * 4),
	      *d = whit_alloc((size_t)n), *s = whit_alloc((size_t)n);
	for (int64_t t = 0; t < T; t++) {
		whit_ints_round(f, x + t * n, n, a, quad, d, s);
		for (int64_t r = 0; r < m->rows; r++) {
			for (int64_t i = 0; i < n / b->weights; i++)
				f->unpack(m->plane[0] + (size_t)r * m->row_bytes[0] + i * b->bytes, u + i * b->weights,
				          scale + i * b->weights / f->group, shift + i * b->weights / f->group);
			double sum = 0;
			for (int64_t g = 0; g < groups; g++) {
				int dot = 0;
				for (int k = 0; k < f->group; k++)
					dot += (u[g * f->group + k] - f->zero) * a[g * f->group + k];
				sum += fabs((double)scale[g] * d[g * f->group / 32] * dot);
				if (f->shifts) sum += fabs((double)shift[g] * s[g]);
			}
			mag[t * m->rows + r] = (float)sum;
		}
	}
	whit_free(u), whit_free(a), whit_free(quad), whit_free(scale), whit_free(shift), whit_free(d), whit_free(s);
}

static void fast_is_plain(void) {
	static const int64_t Ts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 130};
	static const int64_t widths[] = {256, 768, 32, 64, 96, 128, 352, 1056};
	int top = whit_cpu_level();
	for (int k = 0; k < WHIT_COUNT(types); k++) {
		whit_spec spec;
		whit_err e = {0};
		CHECK_RC(whit_spec_parse(types[k].name, &spec, &e), e);
		for (int q = 0; q < WHIT_COUNT(Ts) * WHIT_COUNT(widths); q++) {
			int64_t T = Ts[q / WHIT_COUNT(widths)], width = widths[q % WHIT_COUNT(widths)],
			        rows = 1 + (q * 29) % 83;
			if (width % spec.fmt->block->weights || (TEST_SANITIZED && q % 3)) continue;
			whit_mat m = random_mat(k, rows, width);
			float *x = activations(T, width), *bias = activations(1, rows * 32);
			size_t bytes = (size_t)(T * rows) * sizeof(float);
			float *want = whit_alloc(bytes), *got = whit_alloc(bytes + 64), *mag = whit_alloc(bytes),
			      *again = whit_alloc(bytes);
			whit_arena a = {0};
			magnitudes(mag, &m, x, T);
			whit_linear_cpu(want, x, T, &m, bias);
			for (int level = 0; level <= top; level++) {
				int bad = 0;
				whit_cpu_cap(level);
				memset(got, 0xff, bytes + 64);
				whit_threads_set(1 + q % 3);
				whit_linear_fast_cpu(got, x, T, &m, bias, &a);
				for (int64_t i = 0; i < T * rows; i++) {
					double terms = (double)(width / spec.fmt->block->ints->group + 16);
					bad += !(fabs((double)got[i] - want[i]) <=
					         terms * 0x1p-23 * (mag[i] + fabs((double)bias[i % rows])));
				}
				for (int i = 0; i < 64; i++) bad += ((uint8_t *)got)[bytes + (size_t)i] != 0xff;
				CHECK_MSG(!bad, "%s %lld x %lld, %lld tokens (%s): %d beyond the bound", types[k].name,
				          (long long)rows, (long long)width, (long long)T, whit_cpu_level_name(level),
				          bad);
				/* a token's output depends on no other, whatever the threads */
				whit_threads_set(1);
				whit_linear_fast_cpu(again, x, T, &m, bias, &a);
				bad = memcmp(again, got, bytes) != 0;
				if (T > 2) {
					whit_linear_fast_cpu(again, x + width, T - 1, &m, bias, &a);
					bad += memcmp(again, got + rows, bytes - (size_t)rows * sizeof *got) != 0;
				}
				CHECK_MSG(!bad, "%s (%s): depends on threads or other tokens", types[k].name,
				          whit_cpu_level_name(level));
				whit_arena_reset(&a);
			}
			whit_cpu_cap(WHIT_CPU_TOP);
			whit_threads_set(0);
			whit_mat_free(&m);
			whit_arena_free(&a);
			whit_free(x), whit_free(bias), whit_free(want), whit_free(got), whit_free(mag),
			        whit_free(again);
		}
	}
}

TEST_MAIN(fast_is_plain)
