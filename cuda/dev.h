/* dev: a device, as C sees it: no CUDA header is needed to read this. Errors of queued work stay with the device,
 * the first one counts, and whit_dev_sync tells it; after an error queued work is dropped.
 *
 * A device has two queues. The work queue runs kernels and products in the order they were queued; the copy queue
 * brings data from the host beside it. One host thread at a time per device.
 *
 * A build without CUDA has none of these functions, nor any _cuda twin: host/device.h tells it. */
#ifndef WHIT_DEV_H
#define WHIT_DEV_H
#include "host/base.h"

/* Device number index. WHIT_ERESOURCE with the reason: none there, driver too old, device too old. */
WHIT_DEVICE int whit_dev_open(whit_dev **d, int index, whit_err *e);
/* The same, whose work queue is a stream of the caller's (a cudaStream_t, NULL = the default one), which stays. */
WHIT_DEVICE int whit_dev_open_on(whit_dev **d, int index, void *stream, whit_err *e);
WHIT_DEVICE void whit_dev_close(whit_dev *d); /* waits; NULL is allowed */

typedef struct whit_dev_info {
	char name[128];
	int index, major, minor, sms; /* compute capability; multiprocessors */
	int driver, toolkit;          /* CUDA versions, 1000 major + 10 minor; 0 under emulation */
	size_t l2, memory, free;      /* bytes; free: now, by all that run on the device */
	int tuned;                    /* products that whit_dev_tune has told of */
} whit_dev_info;
WHIT_DEVICE void whit_dev_describe(whit_dev *d, whit_dev_info *info);

/* 1: twins run their plain kernels, the oracles; 0 (at first): the fast ones. Returns what was set before. */
WHIT_DEVICE int whit_dev_plain(whit_dev *d, int plain);
/* Terms that a 32-bit activation is cut into where it meets 16-bit weights in a matrix product: 3 (at first) lose
 * nothing, 1 rounds it to the weight's type. Returns what was set before; terms 0 changes nothing. */
WHIT_DEVICE int whit_dev_terms(whit_dev *d, int terms);

/* A product whose tier (host/ops.h) is known by measurement: of a matrix of that format (whit_spec_name, as it lies on
 * the device) and shape, times tokens of the range that begins with `tokens`. */
typedef struct whit_tuned {
	char format[32];
	int64_t rows, width, tokens;
	int tier;
} whit_tuned;
enum { WHIT_TUNE_RANGES = 8 };
/* Where range i begins: kernels differ for one token, up to 4 (two terms each are one mma's columns), 8, 32. */
static inline int64_t whit_tune_from(int i) {
	static const int64_t from[WHIT_TUNE_RANGES] = {1, 2, 5, 9, 17, 33, 65, 129};
	return from[i];
}
/* Lets those n products, in place of earlier ones, run by their tiers, where these take them. p is copied. */
WHIT_DEVICE void whit_dev_tune(whit_dev *d, const whit_tuned *p, int n);

/* ---- memory ---- */

/* Device memory of at least 1 byte, aligned to 256, not zeroed. NULL: too little, told by whit_dev_sync too. */
WHIT_DEVICE void *whit_dev_alloc(whit_dev *d, size_t bytes);
WHIT_DEVICE void whit_dev_free(whit_dev *d, void *p); /* waits; NULL is allowed */
/* A piece of the device's scratch, aligned to 256: for queued work until whit_dev_reset, which forgets all pieces
 * and keeps the memory. Work queued after a reset may reuse what earlier work is still using: the queue orders them. */
WHIT_DEVICE void *whit_dev_take(whit_dev *d, size_t bytes);
WHIT_DEVICE void whit_dev_reset(whit_dev *d);
/* A copy of src's bytes on the device, made by the first call with that hash of them and kept until whit_dev_close; src
 * must then stay until whit_dev_sync. For what twins need of host objects: signs, matrices, codebooks. */
WHIT_DEVICE const void *whit_dev_keep(whit_dev *d, whit_hash hash, const void *src, size_t bytes);
/* At most `bytes` may be allocated from now on, what is allocated included; 0: what the device has. */
WHIT_DEVICE void whit_dev_limit(whit_dev *d, size_t bytes);
WHIT_DEVICE size_t whit_dev_used(const whit_dev *d); /* bytes allocated now, scratch included */
WHIT_DEVICE size_t whit_dev_peak(const whit_dev *d); /* and at most so far */
WHIT_DEVICE size_t whit_dev_left(whit_dev *d);       /* that could still be allocated */

/* ---- the work queue ---- */

/* Copies; src of put must stay until whit_dev_sync. */
WHIT_DEVICE void whit_dev_put(whit_dev *d, void *dst, const void *src, size_t bytes);
WHIT_DEVICE void whit_dev_get(whit_dev *d, void *dst, const void *src, size_t bytes);
WHIT_DEVICE void whit_dev_copy(whit_dev *d, void *dst, const void *src, size_t bytes); /* device to device */
WHIT_DEVICE void whit_dev_zero(whit_dev *d, void *dst, size_t bytes);
/* y (T, ldy, of which rows are written) = x (T, cols) w^T, added to y where add; w (rows, cols). x and w are of one
 * type, F32, F16 or BF16 (tensor.h's whit_dtype); products and sums in 32 bits, never TF32. cuBLAS; OpenBLAS under
 * emulation. */
WHIT_DEVICE void whit_dev_gemm(whit_dev *d, float *y, int64_t ldy, const void *x, const void *w, int dtype, int64_t T,
                               int64_t rows, int64_t cols, int add);
/* c (m, ldc, of which n are written) = A B, added to c where add; A is a (m, k) of row length lda, or, turn_a, a (k, m)
 * turned; B likewise (k, n) or (n, k). F32 as above. */
WHIT_DEVICE void whit_dev_mul(whit_dev *d, float *c, int64_t ldc, const float *a, int64_t lda, int turn_a,
                              const float *b, int64_t ldb, int turn_b, int64_t m, int64_t n, int64_t k, int add);
/* c (m, ldc, of which n are written) += scale[0] A^T B of a (k, ld, of which m are read) and b (k, ld, of which n),
 * F16: products and sums in 32 bits. scale: device memory, scale[1] is 1. */
WHIT_DEVICE void whit_dev_mul_f16(whit_dev *d, float *c, int64_t ldc, const uint16_t *a, const uint16_t *b, int64_t ld,
                                  int64_t m, int64_t n, int64_t k, const float *scale);
/* ---- factors: of (n, n) doubles, row after row. cuSOLVER, which is loaded when it is first asked for, and cuBLAS; one
 * device's bytes are always the same, and LAPACK's to the last digits. LAPACK and OpenBLAS under emulation. ---- */

/* 0: they can be computed here, which takes *room bytes of device memory beside the matrix. WHIT_ERESOURCE with the
 * reason: there is no cuSOLVER, or it does not start. */
WHIT_DEVICE int whit_dev_factors(whit_dev *d, int64_t n, size_t *room, whit_err *e);
/* Both wait, and neither reads above the diagonal nor promises what is there afterwards; room is what whit_dev_factors
 * told. Cholesky: a's lower triangle becomes L of a = L L^T; 1: a is not positive definite, and of no more use; 0 also
 * where an error is kept. Invert: a lower triangle without zeros on its diagonal becomes its inverse. */
WHIT_DEVICE int whit_dev_cholesky(whit_dev *d, double *a, int64_t n, void *room);
WHIT_DEVICE void whit_dev_invert(whit_dev *d, double *a, int64_t n, void *room);
/* b becomes b u, or, turn, b u^T, of u's upper triangle alone. */
WHIT_DEVICE void whit_dev_mul_upper(whit_dev *d, double *b, const double *u, int64_t n, int turn);
/* Columns from which the host leaves factors to the device: at first 512, as many as it has within the time of the ways
 * there and back; 1 under emulation. Returns what was set before; n 0 changes nothing. */
WHIT_DEVICE int64_t whit_dev_factors_from(whit_dev *d, int64_t n);
/* Another library to load as cuSOLVER, NULL = the toolkit's: tests ask for one that is not there. */
WHIT_DEVICE void whit_dev_factors_of(whit_dev *d, const char *library);

/* Waits for all that is queued. 0, or the first error since the last call, which is then forgotten. */
WHIT_DEVICE int whit_dev_sync(whit_dev *d, whit_err *e);
/* Keeps an error, unless one is kept already: what a twin cannot do. */
WHIT_DEVICE void whit_dev_fail(whit_dev *d, int code, const char *fmt, ...) WHIT_PRINTF(3, 4);
WHIT_DEVICE int whit_dev_failed(const whit_dev *d); /* the code of the error that is kept, or 0 */

/* ---- the copy queue ---- */

/* Queues a copy from any host memory, through pinned staging; src has been read when this returns. */
WHIT_DEVICE void whit_dev_upload(whit_dev *d, void *dst, const void *src, size_t bytes);
enum { WHIT_QUEUE_WORK, WHIT_QUEUE_COPY };
enum { WHIT_DEV_MARKS = 8 };
/* Mark i: the place that queue has come to. The other one waits there before what is queued to it from now on. */
WHIT_DEVICE void whit_dev_mark(whit_dev *d, int queue, int i);
WHIT_DEVICE void whit_dev_wait(whit_dev *d, int queue, int i);

/* ---- graphs: work recorded once, queued again at the cost of one launch ---- */
typedef struct whit_graph whit_graph;
/* 1: work queued from now on is recorded and not run, until whit_graph_end; it may not allocate, so run it once
 * before. 0: this device records nothing (emulation). */
WHIT_DEVICE int whit_graph_begin(whit_dev *d);
WHIT_DEVICE whit_graph *whit_graph_end(whit_dev *d); /* NULL after an error */
WHIT_DEVICE void whit_graph_run(whit_dev *d, whit_graph *g);
WHIT_DEVICE void whit_graph_free(whit_graph *g);
#endif
