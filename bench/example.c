/* How another program uses whit's kernels (cuda/whit_kernels.h): it quantizes a matrix of its own on the device to
 * 4-bit TurboQuant codes behind a Hadamard rotation, multiplies, and checks the product against plain loops.
 *
 *   cc bench/example.c -I. -L out/release -lwhit_kernels -lcublas -lcudart_static -lstdc++ -lm -lpthread -ldl -lrt ...
 *
 * It calls nothing of CUDA's; a program that has pointers and a stream hands them over. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "cuda/whit_kernels.h"

enum { ROWS = 384, COLS = 512, TOKENS = 5, GROUP = 128 };

static float noise(unsigned *state) { /* uniform in [-1, 1) */
	*state = *state * 1664525u + 1013904223u;
	return (float)(int)*state / 2147483648.0f;
}

static void stop(const whit_kernels *k, const char *what) {
	fprintf(stderr, "%s: %s\n", what, k ? whit_kernels_error(k) : "no device");
	exit(1);
}

static void *upload(whit_kernels *k, const void *from, size_t bytes) {
	void *to = whit_kernels_alloc(k, bytes);
	if (!to || (from && whit_kernels_put(k, to, from, bytes))) stop(k, "memory");
	return to;
}

int main(void) {
	static float w[ROWS * COLS], x[TOKENS * COLS], y[TOKENS * ROWS];
	char text[256];
	unsigned state = 1;
	whit_kernels *k;
	if (whit_kernels_open(&k, 0, NULL, text, sizeof text)) {
		fprintf(stderr, "SKIP: %s\n", text);
		return 77;
	}
	for (int i = 0; i < ROWS * COLS; i++) w[i] = noise(&state) * noise(&state);
	for (int i = 0; i < TOKENS * COLS; i++) x[i] = noise(&state);

	/* the matrix, rotated and quantized */
	whit_kernels_rotation *r;
	whit_kernels_matrix m = {.format = "tq4g128", .rows = ROWS, .cols = COLS};
	whit_kernels_plane plane[WHIT_KERNELS_PLANES];
	int planes = whit_kernels_planes(k, &m, plane);
	size_t bytes = 0;
	if (planes < 0) stop(k, "format");
	for (int i = 0; i < planes; i++, bytes += plane[i - 1].bytes) m.plane[i] = upload(k, NULL, plane[i].bytes);
	if (whit_kernels_rotation_new(k, &r, COLS, GROUP, 7)) stop(k, "rotation");
	float *dw = upload(k, w, sizeof w), *turned = upload(k, NULL, sizeof w);
	if (whit_kernels_rotate(k, r, turned, dw, ROWS) || whit_kernels_encode(k, &m, turned, NULL, NULL))
		stop(k, "quantize");

	/* its product, whose input is rotated too */
	float *dx = upload(k, x, sizeof x), *dx_turned = upload(k, NULL, sizeof x), *dy = upload(k, NULL, sizeof y);
	if (whit_kernels_rotate(k, r, dx_turned, dx, TOKENS) ||
	    whit_kernels_linear(k, dy, dx_turned, TOKENS, &m, NULL, 1) || whit_kernels_get(k, y, dy, sizeof y))
		stop(k, "product");

	double off = 0, all = 0;
	for (int t = 0; t < TOKENS; t++)
		for (int i = 0; i < ROWS; i++) {
			double sum = 0;
			for (int c = 0; c < COLS; c++) sum += (double)w[i * COLS + c] * x[t * COLS + c];
			off += (y[t * ROWS + i] - sum) * (y[t * ROWS + i] - sum);
			all += sum * sum;
		}
	printf("%d x %d in %s: %zu bytes, %.3f bits a weight; %d products within %.4f of their mean square\n", ROWS,
	       COLS, m.format, bytes, 8.0 * (double)bytes / (ROWS * COLS), TOKENS * ROWS, off / all);
	void *const device[] = {dw, turned, dx, dx_turned, dy};
	for (int i = 0; i < planes; i++) whit_kernels_free(k, m.plane[i]);
	for (size_t i = 0; i < sizeof device / sizeof *device; i++) whit_kernels_free(k, device[i]);
	whit_kernels_rotation_free(k, r);
	whit_kernels_close(k);
	return off / all > 0 && off / all < 0.02 ? 0 : 1; /* a 4-bit Lloyd-Max codebook loses .0095 */
}
