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

/* ---- by hand ---- */

static void by_hand(void) {
	whit_err e = {0};
	whit_mat m = {.rows = 1, .cols = 32, .width = 32};
	CHECK_RC(whit_spec_parse("q4_0", &m.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	uint8_t *b = (uint8_t *)(uintptr_t)m.plane[0];
	float x[32] = {254, 127, -254, 1}, y;
	/* d = 2: codes 127, 64 (63.5 to even), -127, 0 (0.5 to even). Weights 0.5 * (code - 8): code 9, 10, 5, 15, and
	 * 8 elsewhere */
	memset(b, 0x88, 18);
	b[0] = 0x00, b[1] = 0x38, b[2] = 0x89, b[3] = 0x8a, b[4] = 0x85, b[5] = 0x8f;
	whit_linear_cpu(&y, x, 1, &m, NULL);
	CHECK_NEAR(y, 2 * 0.5 * (127 * 1 + 64 * 2 + -127 * -3 + 0 * 7), 0);
	whit_linear_cpu(&y, x, 1, &m, (float[]){0.25f});
	CHECK_NEAR(y, 636.25, 0);
	whit_mat_free(&m);
	/* q4_1: w = 0.5 code + 3; s = F16(d * sum of codes) = 2 * (127 + 64 - 127) = 128 */
	CHECK_RC(whit_spec_parse("q4_1", &m.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	b = (uint8_t *)(uintptr_t)m.plane[0];
	memset(b, 0, 20);
	b[1] = 0x38, b[3] = 0x42, b[4] = 0x01, b[5] = 0x02;
	whit_linear_cpu(&y, x, 1, &m, NULL);
	CHECK_NEAR(y, 2 * 0.5 * (127 * 1 + 64 * 2) + 3 * 128, 0);
	whit_mat_free(&m);
}

/* What is no number reaches the output, at every level; a row of zeros and a tiny one give 0. */
static void not_numbers(void) {
	int top = whit_cpu_level();
	for (int k = 0; k < WHIT_COUNT(types); k++) {
		whit_mat m = random_mat(k, 3, 512);
		whit_arena a = {0};
		for (int level = 0; level <= top; level++)
			for (int T = 1; T <= 3; T += 2) {
				float x[3 * 512], y[9];
				whit_cpu_cap(level);
				for (int kind = 0; kind < 5; kind++) {
					static const float odd[] = {NAN, INFINITY, -INFINITY, 0, 1e-42f};
					for (int i = 0; i < T * 512; i++) x[i] = kind < 3 ? 1 : odd[kind];
					if (kind < 3) x[(T - 1) * 512 + 300] = odd[kind];
					whit_linear_fast_cpu(y, x, T, &m, NULL, &a);
					int good = 1;
					for (int i = 0; i < 3; i++) {
						good &= kind < 3 ? !isfinite(y[(T - 1) * 3 + i])
						                 : y[(T - 1) * 3 + i] == 0;
						good &= T == 1 || isfinite(y[i]);
					}
					CHECK_MSG(good, "%s (%s): %g in, %g out", types[k].name,
					          whit_cpu_level_name(level), (double)odd[kind],
					          (double)y[(T - 1) * 3]);
				}
				whit_arena_reset(&a);
			}
		whit_cpu_cap(WHIT_CPU_TOP);
		whit_mat_free(&m);
		whit_arena_free(&a);
	}
}

/* ---- ggml ---- */

static void golden(void) {
	size_t bytes;
	char *file = test_read(WHIT_SOURCE "/tests/golden/ggml_dots.bin", &bytes);
	if (!CHECK_MSG(file != NULL, "tests/golden/ggml_dots.bin is missing")) return;
	const uint8_t *p = (const uint8_t *)file, *end = p + bytes;
	enum { N = 512 };
	float x[N], y;
	memcpy(x, p, sizeof x);
	p += sizeof x;
	const uint8_t *act[3] = {p, p + N / 32 * 34, p + N / 32 * (34 + 36)};
	int top = whit_cpu_level();
	for (int kind = 0; kind < 3; kind++)
		for (int level = 0; level <= top; level++) {
			whit_ints f = {.act = kind, .group = 32};
			int8_t code[N];
			int32_t quad[N / 4];
			float d[N / 32], s[N / 32];
			int bad = 0;
			whit_cpu_cap(level);
			whit_ints_round(&f, x, N, code, quad, d, s);
			for (int i = 0; i < N; i++) {
				const uint8_t *b =
				        kind == 2 ? act[2] + i / 256 * 292 : act[kind] + i / 32 * (kind ? 36 : 34);
				int at = kind == 2 ? 4 + i % 256 : i % 32 + (kind ? 4 : 2);
				bad += code[i] != (int8_t)b[at];
				bad += d[i / 32] != (kind == 2 ? whit_load_f32(b) : whit_f16_to_f32(whit_load_u16(b)));
				bad += kind == 1 && s[i / 32] != whit_f16_to_f32(whit_load_u16(b + 2));
				bad += i % 4 == 0 && quad[i / 4] != code[i] + code[i + 1] + code[i + 2] + code[i + 3];
			}
			CHECK_MSG(!bad, "activations of kind %d (%s): %d differ from ggml's", kind,
			          whit_cpu_level_name(level), bad);
		}
	whit_cpu_cap(WHIT_CPU_TOP);
	p = act[2] + N / 256 * 292;
	int n = 0;
	for (; p < end; n++) {
		char name[17] = {0};
		whit_err e = {0};
		whit_mat m = {.rows = 1, .cols = N, .width = N};
		float want, mag;
		memcpy(name, p, 16);
		if (!CHECK_RC(whit_spec_parse(name, &m.spec, &e), e)) break;
		const whit_block *b = m.spec.fmt->block;
		m.plane[0] = p + 16;
		m.row_bytes[0] = (size_t)(N / b->weights * b->bytes);
		want = whit_load_f32(p + 16 + m.row_bytes[0]);
		whit_linear_cpu(&y, x, 1, &m, NULL);
		magnitudes(&mag, &m, x, 1);
		CHECK_MSG(fabs((double)y - want) <= 1e-6 * mag, "%s: %.9g, ggml has %.9g, magnitudes %g", name,
		          (double)y, (double)want, (double)mag);
		p += 20 + m.row_bytes[0];
	}
	CHECK_INT(n, WHIT_COUNT(types));
	whit_free(file);
}

TEST_MAIN(by_hand, golden, not_numbers, fast_is_plain)
