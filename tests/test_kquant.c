/* The K formats' encoders beyond what test_blocks.c asks of all blocks: what kquant.h says of groups without importance
 * and of length. */
#include "formats/blocks.h"
#include "tests/test.h"

enum { N = 1 << 14 };
static const char *const name[] = {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k"};
static float w[N], got[N];

static void code(const whit_block *b, const float *imp) {
	static uint8_t bytes[N];
	int64_t zero = 0;
	CHECK_INT(b->encode(bytes, w, imp, N, &zero), 0);
	for (int i = 0; i < N / 256; i++) b->decode(bytes + i * b->bytes, got + 256 * i);
}

/* Of the weights with i / 32 % 4 == part, or all for part < 0. */
static double error(int part) {
	double sum = 0;
	for (int i = 0; i < N; i++)
		if (part < 0 || i / 32 % 4 == part) sum += ((double)w[i] - got[i]) * ((double)w[i] - got[i]);
	return sum;
}

static const whit_block *block(int k) {
	whit_spec s = {0};
	whit_err e;
	CHECK_RC(whit_spec_parse(name[k], &s, &e), e);
	return s.fmt->block;
}

static void make(void) {
	whit_rng r;
	whit_rng_key(&r, 3, 1, 4);
	for (int i = 0; i < N; i++) w[i] = (float)whit_rng_normal(&r);
}

/* A quarter of the groups has none: they lose by scales that others chose, and little. */
static void groups_without_importance(void) {
	static float imp[N];
	make();
	for (int i = 0; i < N; i++) imp[i] = i / 32 % 4 == 2 ? 0 : 1;
	for (int k = 0; k < WHIT_COUNT(name); k++) {
		const whit_block *b = block(k);
		code(b, NULL);
		double plain = error(2), all = error(-1);
		code(b, imp);
		CHECK_MSG(error(2) <= 1.5 * plain, "%s: without importance error %g, alike %g", name[k], error(2),
		          plain);
		CHECK_MSG(error(-1) - error(2) <= 1.01 * (all - plain), "%s: the others' error %g, alike %g", name[k],
		          error(-1) - error(2), all - plain);
	}
}

/* Nearest codes alone have <w, got> = |w|^2 - error, short by the whole error. Where codes are few a part is left;
 * where they are many, codes nearest to the longer steps take most of it back, and nothing depends on it. */
static void length(void) {
	make();
	for (int k = 0; k < 2; k++) {
		double along = 0, ww = 0;
		code(block(k), NULL);
		for (int i = 0; i < N; i++) along += (double)w[i] * got[i], ww += (double)w[i] * w[i];
		double left = (ww - along) / error(-1);
		CHECK_MSG(left > 0 && left < .7, "%s: short by %g of its error", name[k], left);
	}
}

TEST_MAIN(groups_without_importance, length)
