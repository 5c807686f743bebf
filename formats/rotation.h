/* rotation: orthogonal maps of a weight row's input axis, y = Pi u, and their inverse (turboquant.md 5).
 * A stored rotated row r' = Pi r needs its input rotated too: r'.(Pi x) = r.x. */
#ifndef WHIT_ROTATION_H
#define WHIT_ROTATION_H
#include "host/base.h"

enum whit_rotation_kind { WHIT_ROT_NONE, WHIT_ROT_HADAMARD, WHIT_ROT_HAAR_QR, WHIT_ROT_TQ3 };

/* What a file says of a rotation. Two equal specs (whit_rotation_same) are the same map. */
typedef struct whit_rotation_spec {
	int kind;
	uint64_t seed;
	int64_t dim;   /* input width before padding */
	int64_t block; /* hadamard: width of one transform; dim padded up to a multiple of it; haar_qr: dim */
	int base;      /* hadamard: 1 (power of two), 12, 20 or 28: H_base (x) H_2^k */
} whit_rotation_spec;

typedef struct whit_rotation whit_rotation; /* spec plus signs or matrix; immutable, shared between threads */

/* Fills block and base for (kind, dim, group) by the order of turboquant.md 5(b); group 0 = row-wise.
 * Error: kind or group impossible for dim. */
int whit_rotation_plan(whit_rotation_spec *s, int kind, uint64_t seed, int64_t dim, int64_t group, whit_err *e);
int whit_rotation_same(const whit_rotation_spec *a, const whit_rotation_spec *b);
/* Builds it; dense (dim, dim) row-major overrides the derived matrix (sidecar), NULL = derive. */
int whit_rotation_new(whit_rotation **r, const whit_rotation_spec *s, const float *dense, whit_err *e);
void whit_rotation_free(whit_rotation *r);
const whit_rotation_spec *whit_rotation_get(const whit_rotation *r);
int64_t whit_rotation_width(const whit_rotation *r);      /* stored columns, >= dim */
const float *whit_rotation_dense(const whit_rotation *r); /* haar_qr: (dim, dim), else NULL */
const char *whit_rotation_kind_name(int kind);
int whit_rotation_kind_parse(const char *name); /* -1 = unknown */

/* y (rows, width) = rotated x (rows, dim), padded inputs being zero. x and y may not overlap. Serial. */
void whit_rotate_cpu(const whit_rotation *r, float *y, const float *x, int64_t rows);
/* x (rows, dim) = Pi^T y (rows, width); y is scratch and is overwritten. Serial. */
void whit_unrotate_cpu(const whit_rotation *r, float *x, float *y, int64_t rows);

/* Their twins: the same bits, but for haar_qr, whose sums the device takes in another order. Signs and matrix go to the
 * device at first use and stay there (whit_dev_keep): r must live until the whit_dev_sync after it. */
WHIT_DEVICE void whit_rotate_cuda(whit_dev *d, const whit_rotation *r, float *y, const float *x, int64_t rows);
WHIT_DEVICE void whit_unrotate_cuda(whit_dev *d, const whit_rotation *r, float *x, float *y, int64_t rows);

/* What a rotation is made of, for the twins. */
enum {
	WHIT_ROT_IN,      /* hadamard: (width) signs over sqrt(block), before the transform; tq3: (block) */
	WHIT_ROT_OUT,     /* tq3: (block) signs after it */
	WHIT_ROT_PALEY,   /* hadamard with base > 1: (base, base) of +-1, then its transpose */
	WHIT_ROT_DENSE,   /* haar_qr: (dim, dim) */
	WHIT_ROT_DENSE_T, /* and its transpose */
	WHIT_ROT_PARTS
};
typedef struct whit_rotation_part {
	const float *v; /* NULL: its kind has none */
	int64_t n;
	whit_hash hash; /* of the n values */
} whit_rotation_part;
whit_rotation_part whit_rotation_get_part(const whit_rotation *r, int part);

/* In-place unnormalised Sylvester Walsh-Hadamard transform of rows of n = 2^k values: plain, double. */
void whit_fwht_cpu(float *x, int64_t rows, int64_t n);
/* The same, vectorised, float. */
void whit_fwht_fast_cpu(float *x, int64_t rows, int64_t n);
/* The fast twin's bits. */
WHIT_DEVICE void whit_fwht_cuda(whit_dev *d, float *x, int64_t rows, int64_t n);
#endif
