/* ggml's block formats: every row of the table that has a block. Golden bytes and errors are those of ggml's own code
 * (golden/ggml_blocks.c); encoders are held to them, to what blocks.h promises and to themselves. */
#include "formats/blocks.h"
#include "tests/test.h"

enum { WIDTH = 2048, MANY = 1 << 18, FEW = 1 << 15, INPUTS = 3 };
static const char *const input_name[INPUTS] = {"gaussian", "laplace", "real"};

static int is_one_of(const char *name, const char *list) { /* " a b c " */
	char word[40];
	snprintf(word, sizeof word, " %s ", name);
	return strstr(list, word) != NULL;
}

/* ---- inputs: as golden/ggml_blocks.c makes them ---- */

static uint64_t state;
static double uniform(void) {
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return ((double)(state >> 11) + 0.5) * 0x1p-53;
}
static double normal(void) {
	double a = uniform(), b = uniform();
	return sqrt(-2 * log(a)) * cos(6.283185307179586 * b);
}

static const float *input(int kind) { /* MANY weights, or NULL after a counted skip */
	static float w[INPUTS][MANY];
	static int made[INPUTS];
	if (made[kind]) return w[kind];
	state = 88172645463325252ull;
	if (kind == 2) {
		size_t n;
		char *dir = test_model("wiki12M-qwen3");
		if (!dir) return NULL;
		char *path = whit_format_text("%s/model.safetensors", dir), *file = test_read(path, &n);
		uint64_t header = file ? whit_load_u64(file) : 0;
		if (CHECK(file && header < n && n - header > 8 + 2 * MANY))
			for (int i = 0; i < MANY; i++)
				w[kind][i] = whit_bf16_to_f32(whit_load_u16(file + 8 + header + 2 * (size_t)i));
		whit_free(file);
		whit_free(path);
		whit_free(dir);
	}
	for (int i = 0; kind != 2 && i < MANY; i++) {
		double a = uniform(), b = uniform();
		w[kind][i] = (float)(kind == 0 ? sqrt(-2 * log(a)) * cos(6.283185307179586 * b)
		                     : b < 0.5 ? log(a)
		                               : -log(a));
	}
	made[kind] = 1;
	return w[kind];
}

/* ---- rows through a format ---- */

typedef struct coded {
	uint8_t *bytes;
	float *w;     /* decoded */
	int64_t zero; /* what encode counted */
	int bad;
} coded;

/* n weights in rows of width, imp[width] or NULL. */
static coded code(const whit_block *b, const float *w, const float *imp, int64_t n, int64_t width) {
	coded c = {whit_alloc((size_t)(n / b->weights * b->bytes)), whit_alloc((size_t)n * sizeof(float)), 0, 0};
	for (int64_t i = 0; i < n; i += width)
		c.bad += b->encode(c.bytes + i / b->weights * b->bytes, w + i, imp, width, &c.zero);
	for (int64_t i = 0; i < n / b->weights; i++) b->decode(c.bytes + i * b->bytes, c.w + i * b->weights);
	return c;
}

static void coded_free(coded *c) {
	whit_free(c->bytes);
	whit_free(c->w);
}

/* Squared error, weighted by imp[i % width] or 1. */
static double error(const float *got, const float *want, const float *imp, int64_t n, int64_t width) {
	double sum = 0;
	for (int64_t i = 0; i < n; i++) {
		double e = (double)got[i] - want[i];
		sum += (imp ? imp[i % width] : 1) * e * e;
	}
	return sum;
}

static double norm2(const float *w, int64_t n) {
	double sum = 0;
	for (int64_t i = 0; i < n; i++) sum += (double)w[i] * w[i];
	return sum;
}

/* The formats under test, one after the other. */
static const whit_format *next_format(int *i, int encodes) {
	for (; whit_formats[*i]; ++*i) {
		const whit_format *f = whit_formats[*i];
		if (f->block && (f->block->encode || !encodes)) return ++*i, f;
	}
	return NULL;
}
#define EACH(f, encodes) (int at = 0; (f = next_format(&at, encodes));)

/* ---- tests ---- */

static void decodes_as_ggml(void) {
	size_t n;
	char *file = test_read(WHIT_SOURCE "/tests/golden/ggml_blocks.bin", &n);
	const char *p = file, *end = file + n;
	int seen = 0, blocks = 0;
	const whit_format *f;
	if (!CHECK(file != NULL)) return;
	while (end - p >= 16) {
		whit_spec s;
		whit_err e;
		char name[17] = {0};
		float out[2 * 256];
		memcpy(name, p, 16);
		p += 16;
		if (!CHECK_RC(whit_spec_parse(name, &s, &e), e) || !CHECK(s.fmt->block != NULL)) break;
		const whit_block *b = s.fmt->block;
		size_t bytes = 2 * (size_t)b->bytes, floats = 2 * (size_t)b->weights * sizeof(float);
		if (!CHECK((size_t)(end - p) >= bytes + floats)) break;
		for (int k = 0; k < 2; k++) b->decode((const uint8_t *)p + k * b->bytes, out + k * b->weights);
		CHECK_MSG(!memcmp(out, p + bytes, floats), "%s: two blocks decode as ggml decodes them", name);
		p += bytes + floats;
		seen++;
	}
	for
		EACH(f, 0) blocks++;
	CHECK_INT(end - p, 0);
	CHECK_INT(seen, blocks);
	CHECK(seen >= 17);
	whit_free(file);
}

/* Plain squared error, relative; ggml's encoder without importance had `want`. */
static void nearer_than_ggml(void) {
	FILE *file = fopen(WHIT_SOURCE "/tests/golden/ggml_errors.txt", "r");
	char in[16], name[16];
	double want;
	int seen = 0;
	if (!CHECK(file != NULL)) return;
	while (fscanf(file, "%15s %15s %lf", in, name, &want) == 3) {
		whit_spec s;
		whit_err e;
		int kind = 0;
		while (kind < INPUTS - 1 && strcmp(in, input_name[kind])) kind++;
		if (!CHECK_RC(whit_spec_parse(name, &s, &e), e) || !s.fmt->block->encode) continue;
		const float *w = input(kind);
		if (!w) continue;
		coded c = code(s.fmt->block, w, NULL, MANY, WIDTH);
		double err = error(c.w, w, NULL, MANY, WIDTH) / norm2(w, MANY);
		/* q1_0 has one optimum, which both find: the file has ten digits */
		CHECK_MSG(err <= want * (1 + 1e-8), "%s %s: error is %.9e, ggml's is %.9e", name, in, err, want);
		CHECK_INT(c.bad, 0);
		coded_free(&c);
		seen++;
	}
	CHECK(seen > 0);
	fclose(file);
}

/* What a block holds is found again: values that have been encoded once lose nothing the second time, or, where scales
 * have scales, less than the first. */
static void exact(void) {
	const whit_format *f;
	for
		EACH(f, 1) {
			int nested = is_one_of(f->name, " q2_k q3_k q4_k q5_k q6_k ");
			for (int kind = 0; kind < 2; kind++) {
				const float *w = input(kind);
				coded a = code(f->block, w, NULL, FEW, WIDTH),
				      b = code(f->block, a.w, NULL, FEW, WIDTH);
				double lost = error(a.w, w, NULL, FEW, WIDTH),
				       again = error(b.w, a.w, NULL, FEW, WIDTH);
				double tol = nested ? lost : 1e-12 * norm2(w, FEW);
				CHECK_MSG(again <= tol, "%s %s: again loses %g of %g", f->name, input_name[kind], again,
				          lost);
				coded_free(&a);
				coded_free(&b);
			}
		}
}

static void importance(void) {
	const whit_format *f;
	static float imp[WIDTH], none[WIDTH];
	state = 4711;
	for (int i = 0; i < WIDTH; i++) imp[i] = i % 97 == 5 ? 0 : (float)exp(1.5 * normal());
	for
		EACH(f, 1) for (int kind = 0; kind < 2; kind++) {
			const float *w = input(kind);
			coded a = code(f->block, w, NULL, FEW, WIDTH), b = code(f->block, w, imp, FEW, WIDTH);
			coded c = code(f->block, w, none, FEW, WIDTH);
			double plain = error(a.w, w, imp, FEW, WIDTH), weighted = error(b.w, w, imp, FEW, WIDTH);
			CHECK_MSG(weighted < plain, "%s %s: weighted error is %g, that of the unweighted is %g",
			          f->name, input_name[kind], weighted, plain);
			/* without any: as if unweighted, and more may have been tried */
			plain = error(a.w, w, NULL, FEW, WIDTH), weighted = error(c.w, w, NULL, FEW, WIDTH);
			CHECK_MSG(weighted <= plain * (1 + 1e-6),
			          "%s %s: error is %g for no importance, %g for none given", f->name, input_name[kind],
			          weighted, plain);
			coded_free(&a);
			coded_free(&b);
			coded_free(&c);
		}
}

/* Every count of blocks up to more than one batch of lanes, at each level of the CPU. */
static void same_at_every_level(void) {
	const whit_format *f;
	static float imp[FEW], odd[FEW];
	int top = whit_cpu_level();
	state = 99;
	for (int i = 0; i < FEW; i++) {
		imp[i] = i % 31 == 3 ? 0 : (float)exp(normal());
		odd[i] = (float)(exp(4 * normal()) * normal());
		if (i / 256 % 5 == 2) odd[i] *= (float)pow(2, 20 * normal());
	}
	for
		EACH(f, 1) for (int blocks = 1; blocks <= 35; blocks += blocks < 18 ? 1 : 8) {
			int64_t n = (int64_t)blocks * f->block->weights;
			const float *w = blocks % 2 ? odd : input(1);
			coded got[2][3];
			for (int level = 0; level <= 2; level++) {
				whit_cpu_cap(level);
				got[0][level] = code(f->block, w, NULL, n, n);
				got[1][level] = code(f->block, w, imp, n, n);
			}
			for (int k = 0; k < 2; k++)
				for (int level = 1; level <= 2; level++) {
					const coded *a = &got[k][0], *b = &got[k][level];
					size_t bytes = (size_t)(blocks * f->block->bytes);
					if (memcmp(a->bytes, b->bytes, bytes) || a->bad != b->bad || a->zero != b->zero)
						CHECK_MSG(0, "%s: %d blocks%s differ at level %d", f->name, blocks,
						          k ? ", weighted," : "", level);
				}
			for (int k = 0; k < 6; k++) coded_free(&got[k / 3][k % 3]);
		}
	whit_cpu_cap(top);
	CHECK(1);
}

/* One row of a kind of trouble. Never farther from it than a row of zeros is; what F16 holds is counted as held. */
static void hostile(void) {
	enum { ZERO, ONE, EQUAL, NEGATIVE, FAR, SUBNORMAL, TINY, LARGE, SPREAD, BEYOND, KINDS };
	static const char *const what[] = {"zero",      "one weight", "equal", "negative", "far from 0",
	                                   "subnormal", "tiny",       "large", "spread",   "beyond F16"};
	enum { N = 1024 };
	const whit_format *f;
	for
		EACH(f, 1) for (int kind = 0; kind < KINDS; kind++) for (int weighted = 0; weighted < 2; weighted++) {
			float w[N], imp[N];
			state = 7;
			for (int i = 0; i < N; i++) {
				double x = normal();
				imp[i] = (float)exp(normal());
				w[i] = (float)(kind == ZERO        ? 0
				               : kind == ONE       ? i == 300 ? -3.7 : 0
				               : kind == EQUAL     ? .7
				               : kind == NEGATIVE  ? -.3
				               : kind == FAR       ? 1000 + .01 * x
				               : kind == SUBNORMAL ? 1e-40 * x
				               : kind == TINY      ? 1e-7 * x
				               : kind == LARGE     ? 10000 * x
				               : kind == SPREAD    ? x * pow(10, i % 12 - 8)
				                                   : 1e30 * x);
			}
			const float *p = weighted ? imp : NULL;
			coded c = code(f->block, w, p, N, N);
			double err = error(c.w, w, p, N, N), ref = 0;
			for (int i = 0; i < N; i++) ref += (p ? p[i] : 1) * (double)w[i] * w[i];
			int none = kind == ZERO ? N / f->block->weights : kind == ONE ? N / f->block->weights - 1 : 0;
			CHECK_MSG(c.zero == none, "%s %s: %d blocks are zero, counted %d", f->name, what[kind], none,
			          (int)c.zero);
			CHECK_MSG((c.bad > 0) == (kind == BEYOND && strcmp(f->name, "mxfp4")),
			          "%s %s: %d scales beyond F16", f->name, what[kind], c.bad);
			if (kind == BEYOND)
				CHECK_MSG(isfinite(err), "%s %s: decodes to numbers", f->name, what[kind]);
			else
				CHECK_MSG(err <= ref, "%s %s: error is %g of %g", f->name, what[kind], err, ref);
			if (kind == EQUAL || kind == NEGATIVE || kind == FAR)
				/* a power of two as the scale: E2M1 is within a fifth of any value */
				CHECK_MSG(err <= ref * pow(.2, 2), "%s %s: error is %g of %g", f->name, what[kind], err,
				          ref);
			coded_free(&c);
		}
}

TEST_MAIN(decodes_as_ggml, nearer_than_ggml, exact, importance, same_at_every_level, hostile)
