/* Writes what ggml makes of its blocks: golden for tests/test_blocks.c. Built and run by make_ggml_blocks.sh against a
 * llama.cpp tree; uses its public functions alone.
 *
 *   ggml_blocks decode OUT               per type: name[16], 2 random blocks, their floats
 *   ggml_blocks encode SAFETENSORS OUT   per input and type a line: "INPUT TYPE ERR": squared error of ggml's
 *                                        encoder, without importance, relative to the input's; the inputs are
 *                                        N_INPUT weights in rows of 2048: gaussian, laplace, and the first BF16 values
 *                                        of the model. Million weights a second, one thread, go to stdout. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
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
enum { N = sizeof types / sizeof *types, BLOCKS = 2, WIDTH = 2048, N_INPUT = 1 << 18 };

static uint64_t state = 88172645463325252ull;
static uint8_t byte(void) {
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (uint8_t)(state >> 24);
}

static void put(FILE *f, const void *p, size_t n) {
	if (fwrite(p, 1, n, f) != n) exit(1);
}

/* Random bytes, with scales that are finite: exponent 31 is taken down. */
static void decode(FILE *f) {
	for (int i = 0; i < N; i++) {
		size_t bytes = ggml_type_size(types[i].type) * BLOCKS;
		int64_t n = ggml_blck_size(types[i].type) * BLOCKS;
		char name[16] = {0};
		uint8_t block[1024];
		float out[1024];
		for (size_t b = 0; b < bytes; b++) block[b] = byte();
		for (int b = 0; b < BLOCKS; b++)
			for (int k = 0; types[i].d[k] >= 0; k++) {
				uint8_t *hi = block + b * (bytes / BLOCKS) + types[i].d[k] + 1;
				if ((*hi & 0x7c) == 0x7c) *hi ^= 0x40;
			}
		if (types[i].type == GGML_TYPE_MXFP4) block[0] %= 255, block[bytes / BLOCKS] = 1; /* a subnormal */
		ggml_get_type_traits(types[i].type)->to_float(block, out, n);
		strcpy(name, types[i].name);
		put(f, name, sizeof name);
		put(f, block, bytes);
		put(f, out, (size_t)n * sizeof *out);
	}
}

static double seconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* tests/test_blocks.c makes the same numbers. */
static double uniform(void) {
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return ((double)(state >> 11) + 0.5) * 0x1p-53;
}

static void fill(float *w, const char *input, const char *model) {
	state = 88172645463325252ull;
	if (!strcmp(input, "real")) {
		uint64_t header;
		FILE *src = fopen(model, "rb");
		if (!src || fread(&header, 8, 1, src) != 1 || fseek(src, 8 + (long)header, SEEK_SET)) exit(1);
		for (int64_t i = 0; i < N_INPUT; i++) {
			uint16_t h;
			if (fread(&h, 2, 1, src) != 1) exit(1);
			uint32_t u = (uint32_t)h << 16;
			memcpy(w + i, &u, 4);
		}
		fclose(src);
		return;
	}
	for (int64_t i = 0; i < N_INPUT; i++) {
		double a = uniform(), b = uniform();
		w[i] = (float)(*input == 'g' ? sqrt(-2 * log(a)) * cos(6.283185307179586 * b)
		               : b < 0.5     ? log(a)
		                             : -log(a));
	}
}

static void encode(const char *model, FILE *f) {
	static const char *const input[] = {"gaussian", "laplace", "real"};
	float *w = malloc(N_INPUT * 4), *out = malloc(N_INPUT * 4);
	void *q = malloc(N_INPUT * 4);
	for (int k = 0; k < 3; k++) {
		fill(w, input[k], model);
		for (int i = 0; i < N; i++) {
			double t = seconds(), err = 0, ref = 0;
			ggml_quantize_chunk(types[i].type, w, q, 0, N_INPUT / WIDTH, WIDTH, NULL);
			t = seconds() - t;
			ggml_get_type_traits(types[i].type)->to_float(q, out, N_INPUT);
			for (int64_t j = 0; j < N_INPUT; j++)
				err += ((double)w[j] - out[j]) * ((double)w[j] - out[j]), ref += (double)w[j] * w[j];
			fprintf(f, "%s %s %.9e\n", input[k], types[i].name, err / ref);
			printf("%-8s %-6s %9.6f rms  %7.1f M/s\n", input[k], types[i].name, sqrt(err / ref),
			       N_INPUT / t / 1e6);
		}
	}
}

int main(int argc, char **argv) {
	FILE *f = argc > 2 ? fopen(argv[argc - 1], "wb") : NULL;
	if (!f) return 2;
	for (int i = 0; i < N; i++) ggml_quantize_init(types[i].type);
	if (!strcmp(argv[1], "decode"))
		decode(f);
	else
		encode(argv[2], f);
	return fclose(f) != 0;
}
