/* op_vec: the row kernels that fast twins are made of, one set per CPU level. Internal to host/op_*.c.
 * Written once (op_vecbody.h), compiled for plain C, AVX2 and AVX-512. Sums are float, in a fixed order. */
#ifndef WHIT_OP_VEC_H
#define WHIT_OP_VEC_H
#include "host/base.h"

typedef struct whit_vec {
	int64_t columns; /* of C that gemm holds in registers: panels of B are best this wide */
	float (*sumsq)(const float *x, int64_t n);
	/* y = x * s * (w + shift) */
	void (*scale)(float *y, const float *x, const float *w, float s, float shift, int64_t n);
	/* y = a + b; y == a allowed */
	void (*add)(float *y, const float *a, const float *b, int64_t n);
	void (*swiglu)(float *y, const float *gate, const float *up, int64_t n);
	/* y = 1 / (1 + exp(-x)); y == x allowed. Below -88 about 2^-127. */
	void (*sigmoid)(float *y, const float *x, int64_t n);
	/* S[i*n + j] = keep * S[i*n + j] + a[i] * b[j], i < rows, j < n */
	void (*outer)(float *S, float keep, const float *a, const float *b, int64_t rows, int64_t n);
	/* s = exp(s - max s) / sum, in place, n > 0 */
	void (*softmax)(float *s, int64_t n);
	/* the same over the n rows of every column q < lanes of s[j*ld + q] */
	void (*softmax_columns)(float *s, int64_t ld, int64_t n, int64_t lanes);
	/* cs[n], sn[n] = mscale * cos, sin of pos * inv_freq[i] (the product rounded to float) */
	void (*sincos)(float *cs, float *sn, const double *inv_freq, float pos, float mscale, int64_t n);
	/* y[i] = x[i] cs[i] - x[i+n] sn[i]; y[i+n] = x[i+n] cs[i] + x[i] sn[i]; y == x allowed */
	void (*rotate)(float *y, const float *x, const float *cs, const float *sn, int64_t n);
	/* s[j] = scale * dot(q, k + j*ld), j < n */
	void (*qk)(float *s, const float *q, const float *k, int64_t ld, int64_t n, int64_t dim, float scale);
	/* y[dim] = sum_j p[j] * v[j*ld + .] */
	void (*pv)(float *y, const float *p, const float *v, int64_t ld, int64_t n, int64_t dim);
	/* C[i*ldc + j] (+)= sum_k A[i*ai + k*ak] * B[k*ldb + j], i < M, j < n, k < K: serial, from memory in cache.
	 * An element's sum runs over k in order, whatever M and n are. */
	void (*gemm)(int64_t M, int64_t n, int64_t K, const float *A, int64_t ai, int64_t ak, const float *B,
	             int64_t ldb, float *C, int64_t ldc, int accumulate);
} whit_vec;

/* The set for whit_cpu_level(). */
const whit_vec *whit_vec_get(void);
/* fn(ctx, i, worker) for i in [0, n): through whit_parallel, or serially when the whole is less than
 * about 20 microseconds of work (about 100000 flops), which handing out would cost. */
void whit_items(int64_t n, int64_t work_per_item, whit_item_fn fn, void *ctx);
/* a (rows, cols) /= by, each value by itself. */
void whit_divide(double *a, int64_t rows, int64_t cols, double by);
#endif
