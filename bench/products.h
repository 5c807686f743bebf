/* products: a matrix on a device, in a ring of copies that no cache holds, times few tokens: what products.c measures
 * and tune.c chooses by. */
#ifndef WHIT_BENCH_PRODUCTS_H
#define WHIT_BENCH_PRODUCTS_H
#include "bench/run.h"
#include "host/ops.h"

typedef struct products {
	whit_dev *d;
	whit_mat *m; /* a ring of n, planes on the device */
	void **memory;
	int n, launches;
	int64_t M;
	const float *x;  /* (M, cols), on the device */
	float *y;        /* (M, rows) */
	const void *x16; /* (M, cols) BF16: then cuBLAS multiplies, m being BF16 */
	double bytes;    /* one copy */
	int64_t rank;    /* of a low-rank branch; 0: none */
	whit_low *low;   /* n */
} products;

/* The formats, NULL behind the last, name+rRANK with a low-rank branch beside it, and n shapes (rows, columns). */
extern const char *const bench_product_formats[];
typedef struct bench_shape {
	int64_t rows, cols;
} bench_shape;
const bench_shape *bench_product_shapes(const whit_dev_info *info, int *n);

/* The ring of a matrix on the host, as a model's would lie on the device, rotation left out; or of random codes and
 * scales. p's other members are the caller's. Free with bench_ring_free, after an error too. */
int bench_ring(products *p, const whit_mat *host, const whit_dev_info *info, whit_err *e);
int bench_ring_random(products *p, const char *format, int64_t rows, int64_t cols, const whit_dev_info *info,
                      whit_err *e);
void bench_ring_free(products *p);
/* 1: whit_linear_cuda's result is not the plain kernel's; NaN, and what poison left, are wrong. */
int bench_product_wrong(products *p, whit_err *e);
bench_time bench_product(products *p, double seconds, whit_err *e);
/* Fills in what a product moves and computes, and which tier it is. */
void bench_product_row(bench_row *row, const products *p);

/* `in` inputs on the device, random, x as x16, and room for `out` results. */
typedef struct bench_inputs {
	whit_dev *d;
	float *x, *y;
	void *x16;
} bench_inputs;
int bench_inputs_make(bench_inputs *b, whit_dev *d, int64_t in, int64_t out, whit_err *e);
void bench_inputs_free(bench_inputs *b);
#endif
