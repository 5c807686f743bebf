/* Writes what ggml rounds activations to and what its products are: golden for tests/test_ints.c. Built and run by
 * make_ggml_dots.sh against a llama.cpp tree; uses its public functions alone.
 *
 *   ggml_dots OUT     x[512] floats; their Q8_0, Q8_1 and Q8_K blocks; per type name[16], 512 weights, dot (float) */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ggml-cpu.h"
#include "ggml.h"

static const struct {
	const char *name;
	enum ggml_type type;
	int d[4]; /* offsets of F16 scales, -1 = none */
} types[] = {
        {"q8_0", GGML_TYPE_Q8_0, {0, -1}},     {"q4_0", GGML_TYPE_Q4_0, {0, -1}},
        {"q4_1", GGML_TYPE_Q4_1, {0, 2, -1}},  {"q5_0", GGML_TYPE_Q5_0, {0, -1}},
        {"q5_1", GGML_TYPE_Q5_1, {0, 2, -1}},  {"q2_k", GGML_TYPE_Q2_K, {80, 82, -1}},
        {"q3_k", GGML_TYPE_Q3_K, {108, -1}},   {"q4_k", GGML_TYPE_Q4_K, {0, 2, -1}},
        {"q5_k", GGML_TYPE_Q5_K, {0, 2, -1}},  {"q6_k", GGML_TYPE_Q6_K, {208, -1}},
        {"iq4_nl", GGML_TYPE_IQ4_NL, {0, -1}}, {"iq4_xs", GGML_TYPE_IQ4_XS, {0, -1}},
        {"mxfp4", GGML_TYPE_MXFP4, {-1}},      {"tq1_0", GGML_TYPE_TQ1_0, {52, -1}},
        {"tq2_0", GGML_TYPE_TQ2_0, {64, -1}},  {"q1_0", GGML_TYPE_Q1_0, {0, -1}},
        {"q2_0", GGML_TYPE_Q2_0, {0, -1}},
};
enum { N = sizeof types / sizeof *types, WIDTH = 512 };

static uint64_t state = 88172645463325252ull;
static double uniform(void) {
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return ((double)(state >> 11) + 0.5) * 0x1p-53;
}

static void put(FILE *f, const void *p, size_t n) {
	if (fwrite(p, 1, n, f) != n) exit(1);
}

int main(int argc, char **argv) {
	static const enum ggml_type act[] = {GGML_TYPE_Q8_0, GGML_TYPE_Q8_1, GGML_TYPE_Q8_K};
	float x[WIDTH];
	uint8_t rounded[8192], block[8192];
	FILE *f = argc > 1 ? fopen(argv[1], "wb") : NULL;
	if (!f) return 2;
	ggml_cpu_init();
	for (int i = 0; i < WIDTH; i++) {
		double a = uniform(), b = uniform();
		x[i] = (float)(sqrt(-2 * log(a)) * cos(6.283185307179586 * b) * (i % 61 == 7 ? 40 : 1));
		if (i < 32) x[i] = (float)(i - 16) * 7 + 0.5f; /* ties, once the step is 1 */
		if (i / 32 == 3) x[i] = 0;
	}
	x[31] = 127;
	x[300] = -(x[256] = 90); /* two of the largest magnitude in a block of 256: the first gives the sign */
	put(f, x, sizeof x);
	for (int i = 0; i < 3; i++) {
		ggml_get_type_traits_cpu(act[i])->from_float(x, rounded, WIDTH);
		put(f, rounded, ggml_row_size(act[i], WIDTH));
	}
	for (int i = 0; i < N; i++) {
		const struct ggml_type_traits_cpu *t = ggml_get_type_traits_cpu(types[i].type);
		size_t bytes = ggml_row_size(types[i].type, WIDTH), each = ggml_type_size(types[i].type);
		char name[16] = {0};
		float y;
		for (size_t b = 0; b < bytes; b++) block[b] = (uint8_t)(uniform() * 256);
		for (size_t b = 0; b < bytes; b += each) {
			for (int k = 0; types[i].d[k] >= 0; k++) {
				ggml_fp16_t h = ggml_fp32_to_fp16((float)(uniform() - 0.5));
				memcpy(block + b + types[i].d[k], &h, 2);
			}
			if (types[i].type == GGML_TYPE_MXFP4) block[b] = (uint8_t)(120 + block[b] % 8);
		}
		ggml_get_type_traits_cpu(t->vec_dot_type)->from_float(x, rounded, WIDTH);
		t->vec_dot(WIDTH, &y, 0, block, 0, rounded, 0, 1);
		strcpy(name, types[i].name);
		put(f, name, sizeof name);
		put(f, block, bytes);
		put(f, &y, sizeof y);
	}
	return fclose(f) != 0;
}
