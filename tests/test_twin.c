/* Blocks and their twins: every weight the same number, for nearest codes and for any bytes, rows and tails of them. */
#include "formats/twin.h"
#include "tests/test.h"

static void check(const char *name, const char *twin, int64_t rows, int64_t width, int any) {
	whit_mat m = {.rows = rows, .cols = width, .width = width}, t;
	whit_err e;
	whit_rng g;
	int64_t zero = 0, wrong = 0;
	char is[32];
	whit_rng_key(&g, 12, (uint64_t)width, (uint64_t)any);
	CHECK_RC(whit_spec_parse(name, &m.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	float *w = whit_alloc((size_t)(3 * width) * sizeof *w), *a = w + width, *b = a + width;
	uint8_t *bytes = (uint8_t *)(uintptr_t)m.plane[0];
	for (int64_t r = 0; r < rows; r++) {
		for (int64_t i = 0; i < width; i++) w[i] = (float)whit_rng_normal(&g);
		m.spec.fmt->encode(&m, r, w, NULL, WHIT_SCALE_LS, &zero);
	}
	for (size_t i = 0; i < whit_plane_bytes(&m, 0) && any; i++) bytes[i] = (uint8_t)(whit_rng_next(&g) >> 56);
	CHECK(whit_twin_of(&m, &t));
	whit_spec_name(&t.spec, is);
	CHECK_TEXT(is, twin);
	uint8_t *codes = whit_alloc((size_t)rows * t.row_bytes[0]), *scales = whit_alloc((size_t)rows * t.row_bytes[1]);
	whit_twin_rows(&t, &m, 0, 1, codes, scales);
	whit_twin_rows(&t, &m, 1, rows, codes + t.row_bytes[0], scales + t.row_bytes[1]);
	t.plane[0] = codes, t.plane[1] = scales;
	for (int64_t r = 0; r < rows; r++) {
		m.spec.fmt->decode(&m, r, r + 1, a);
		t.spec.fmt->decode(&t, r, r + 1, b);
		for (int64_t i = 0; i < width; i++) wrong += !(a[i] == b[i] || (isnan(a[i]) && isnan(b[i])));
	}
	CHECK_MSG(wrong == 0, "%s, %lld x %lld, any %d: %lld wrong", name, (long long)rows, (long long)width, any,
	          (long long)wrong);
	whit_free(w), whit_free(codes), whit_free(scales);
	whit_mat_free(&m);
}

static void twins(void) {
	static const struct {
		const char *block, *twin;
		int64_t unit;
	} of[] = {{"q8_0", "int8g32", 32},      {"q4_0", "int4g32", 32},  {"q2_0", "int2g64", 64},
	          {"q1_0", "tq1g128", 128},     {"iq4_nl", "tq4g32", 32}, {"tq2_0", "int2g256", 256},
	          {"q6_k", WHIT_TWIN_Q6_K, 256}};
	for (int i = 0; i < WHIT_COUNT(of); i++)
		for (int any = 0; any < 2; any++) {
			check(of[i].block, of[i].twin, 5, 3 * of[i].unit, any);
			check(of[i].block, of[i].twin, 1, of[i].unit, any);
		}
}

static void others(void) {
	static const char *const none[] = {"q4_k", "q4_1", "q5_k", "mxfp4", "tq1_0", "bf16", "int4g32", "frc128"};
	for (int i = 0; i < WHIT_COUNT(none); i++) {
		whit_mat m = {.rows = 1, .cols = 256, .width = 256}, t;
		whit_err e;
		CHECK_RC(whit_spec_parse(none[i], &m.spec, &e), e);
		CHECK(!whit_twin_of(&m, &t));
	}
	CHECK(!whit_twin_of(&(whit_mat){.rows = 1}, &(whit_mat){0})); /* no number format */
}

TEST_MAIN(twins, others)
