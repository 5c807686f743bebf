/* whit_kernels: whit's CUDA kernels for other programs, on their own device pointers and stream. C and C++; needs no
 * other header of whit's, and none of CUDA's. Link libwhit_kernels.a, cuBLAS and the CUDA runtime (bench/example.c).
 *
 * Calls queue work and return: results are there when the stream is. Each returns 0 or a negative code, and then queues
 * nothing; whit_kernels_error tells what was wrong and what was needed ("tokens are 0, need 1 or more"). Matrices and
 * activations are row-major. Pointers are borrowed, are device memory unless said, and lie on a multiple of their
 * element's size. One host thread at a time per whit_kernels. Same inputs, same device: same bits. */
#ifndef WHIT_KERNELS_H
#define WHIT_KERNELS_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { WHIT_KERNELS_EINTERNAL = -1, WHIT_KERNELS_EUSAGE = -2, WHIT_KERNELS_ERESOURCE = -4 };

typedef struct whit_kernels whit_kernels;
/* Device number `device`, and a cudaStream_t of it: NULL is the default stream. *k is NULL after an error, whose text
 * goes into text (size bytes, or NULL). */
int whit_kernels_open(whit_kernels **k, int device, void *stream, char *text, size_t size);
void whit_kernels_close(whit_kernels *k);              /* waits for the stream, which stays; NULL is allowed */
const char *whit_kernels_error(const whit_kernels *k); /* of the last call that failed, "" at first */
/* Waits for the stream. The first error of queued work, if there was one. */
int whit_kernels_sync(whit_kernels *k);
/* Scratch and codebooks that calls keep: bytes of device memory now. */
size_t whit_kernels_memory(const whit_kernels *k);

/* ---- matrices of a number format ---- */

enum { WHIT_KERNELS_PLANES = 4 };
/* W (rows, cols) as a format stores it, in planes of rows (turboquant.md 6, ggml's blocks): names as whit quantize
 * --help lists them, "bf16", "tq4g128", "int4g128", "int8", "q4_k", "q1_0". The bytes are those of whit's files. */
typedef struct whit_kernels_matrix {
	const char *format;
	int64_t rows, cols;
	void *plane[WHIT_KERNELS_PLANES];
	int scale_f32;         /* scales are floats, not halves */
	const float *codebook; /* host memory, ascending, 2^bits; NULL: the format's own, or it has none */
	/* A low-rank branch, which whit_kernels_linear adds: low_scale low_b (rows, rank) (low_a (rank, cols) x), both
	 * F16; rank 0: none. Up to 128 tokens it is part of a packed product where rank and cols are multiples of 8 and
	 * both pointers of 16. */
	int64_t rank;
	const void *low_a, *low_b;
	float low_scale;
} whit_kernels_matrix;
typedef struct whit_kernels_plane {
	const char *name; /* "tq_codes"; "" where the matrix is one plane */
	size_t row_bytes, bytes;
} whit_kernels_plane;
/* Fills plane for m's format, rows, cols and scale_f32 (planes and codebook are not looked at); the number of planes,
 * or a negative code: no such format, or one that does not fit the width. */
int whit_kernels_planes(whit_kernels *k, const whit_kernels_matrix *m, whit_kernels_plane plane[WHIT_KERNELS_PLANES]);

/* y (tokens, rows) = x (tokens, cols) W^T + bias (rows, or NULL) + W's low-rank branch, straight from the codes: up to
 * 128 tokens tensor cores or a warp a row, above cuBLAS and decoded tiles of two F16 terms each (22 bits; F32 on
 * compute capability 8.6 and 8.9), never TF32. exact 0: activations and decoded tiles count as one half of 16 bits. */
int whit_kernels_linear(whit_kernels *k, float *y, const float *x, int64_t tokens, const whit_kernels_matrix *w,
                        const float *bias, int exact);
/* out (n, cols) = rows [first, first + n) of W. */
int whit_kernels_decode(whit_kernels *k, float *out, const whit_kernels_matrix *w, int64_t first, int64_t n);
/* The nearest codes of x (rows, cols), finite, into W's planes; importance (cols) weighs squared errors, NULL = 1.
 * *beyond (host memory, or NULL) = scales that a half cannot hold; asking for it waits for the stream. */
int whit_kernels_encode(whit_kernels *k, const whit_kernels_matrix *w, const float *x, const float *importance,
                        int64_t *beyond);

/* ---- transforms and statistics ---- */

/* x (rows, n), in place: the unnormalised Walsh-Hadamard transform of each row, Sylvester order; n a power of two. */
int whit_kernels_fwht(whit_kernels *k, float *x, int64_t rows, int64_t n);
/* The same of values stored as F16 or BF16 (or F32): all of it in float, rounded once, at the end; what is beyond F16
 * becomes infinite. Rows above 16384 may take (rows, n) floats of scratch, which k keeps. Errors: a storage that is
 * none of these, else as above. */
enum { WHIT_KERNELS_F32, WHIT_KERNELS_F16, WHIT_KERNELS_BF16 };
int whit_kernels_fwht_stored(whit_kernels *k, void *x, int storage, int64_t rows, int64_t n);
/* A randomized Hadamard rotation of rows of cols values, by blocks that fit a format's group (0 = whole rows), also of
 * lengths 12, 20 and 28 times a power of two: y (rows, width) = rotated x (rows, cols). back: x from y, which is
 * overwritten. */
typedef struct whit_kernels_rotation whit_kernels_rotation;
int whit_kernels_rotation_new(whit_kernels *k, whit_kernels_rotation **r, int64_t cols, int64_t group, uint64_t seed);
int64_t whit_kernels_rotation_width(const whit_kernels_rotation *r);        /* cols, or padded to whole blocks */
void whit_kernels_rotation_free(whit_kernels *k, whit_kernels_rotation *r); /* waits for the stream */
int whit_kernels_rotate(whit_kernels *k, const whit_kernels_rotation *r, float *y, const float *x, int64_t rows);
int whit_kernels_rotate_back(whit_kernels *k, const whit_kernels_rotation *r, float *x, float *y, int64_t rows);
/* h (n, n) += x^T x of x (tokens, n): a Hessian's sum, symmetric if h was. Values are two F16 terms of a common scale,
 * 22 bits down to 2^-17 of the largest; sums in 32 bits. */
int whit_kernels_gram(whit_kernels *k, float *h, const float *x, int64_t tokens, int64_t n);
/* Of a gradient g (rows, cols): full (rows, cols) += g^2; row (rows) and col (cols) += its sums, in double: Fisher
 * information. Each NULL: not wanted. */
int whit_kernels_square_sums(whit_kernels *k, float *full, double *row, double *col, const float *g, int64_t rows,
                             int64_t cols);
/* k-means of n points x (n, dim) with a weight w (n, dim; NULL = 1) for each coordinate. Assign: nearest[i] = the
 * centroid of c (count, dim) with the least weighted squared distance, the lowest of equals; distance[i] = that. Sums:
 * sum, weight (count, dim) = those of w x and w over each centroid's points. */
int whit_kernels_kmeans_assign(whit_kernels *k, int32_t *nearest, float *distance, const float *x, const float *w,
                               const float *c, int64_t n, int64_t dim, int count);
int whit_kernels_kmeans_sums(whit_kernels *k, double *sum, double *weight, const int32_t *nearest, const float *x,
                             const float *w, int64_t n, int64_t dim, int count);

/* Codebooks of one dimension: level (rows, count) ascending and loss (rows) = the sum of w (x - level)^2 at the nearest
 * level, of each row of x (rows, n) with weights w (rows, n; NULL = 1), all finite, w >= 0; n up to 8192, count up to
 * 256. exact: the least loss, by dynamic programming, in scratch that k keeps, (40 + 2 count) (n + 1) bytes for each
 * row or, if fewer, two a multiprocessor; else Lloyd's steps from equal weights until none moves a boundary, 100 at
 * most. Equal levels are the last one repeated: fewer different values than count, then loss 0. Weight 0: left out; a
 * row of nothing else has levels and loss 0. Errors: any of these counts. */
int whit_kernels_lloyd(whit_kernels *k, float *level, double *loss, const float *x, const float *w, int64_t rows,
                       int64_t n, int count, int exact);

/* ---- memory, for programs that have none of their own ---- */
void *whit_kernels_alloc(whit_kernels *k, size_t bytes);                             /* NULL: too little */
void whit_kernels_free(whit_kernels *k, void *p);                                    /* waits */
int whit_kernels_put(whit_kernels *k, void *device, const void *host, size_t bytes); /* queued; host stays until sync */
int whit_kernels_get(whit_kernels *k, void *host, const void *device, size_t bytes); /* waits */

#ifdef __cplusplus
}
#endif
#endif
