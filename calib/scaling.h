/* scaling: what linear layers read is divided by a factor for each column, their columns are multiplied by it, and who
 * makes the value does the dividing, so that nothing is stored and the model computes what it did: the gain of an
 * RMSNorm, the rows of v (through attention, which is linear in them), the rows of up (through SwiGLU, likewise). Codes
 * are then chosen for columns of other sizes.
 *
 *   awq          s = (mean |x|)^r, the r of 0, .05 .. .95 whose nearest codes lose least: tr(E H E^T), H = E[x x^T]
 *                (2306.00978, eq. 4 and 5)
 *   awq-clip     the same, and nearest codes are then of clipped weights (clip.h)
 *   smoothquant  s = max |x|^a / max |w|^(1-a), a = .5 (2211.10438, eq. 4); in both rms(x) where statistics lack `size`
 *   balance      1 / s = t of |w_ij| = r_ib t_j, blocks b of the format, five sweeps (fabq.md 2.2)
 *   h-alpha      s = H_jj^a, a = .25
 *
 * Factors have geometric mean 1; columns that are always zero, and rows of zeros, have 1. */
#ifndef WHIT_SCALING_H
#define WHIT_SCALING_H
#include "host/engine.h"

enum {
	WHIT_SCALING_NONE,
	WHIT_SCALING_AWQ,
	WHIT_SCALING_AWQ_CLIP,
	WHIT_SCALING_SMOOTHQUANT,
	WHIT_SCALING_BALANCE,
	WHIT_SCALING_H_ALPHA
};
/* -1, with text that lists them: no such name. */
int whit_scaling_parse(const char *name, whit_err *e);
const char *whit_scaling_name(int kind);

/* A value of a layer's program that can be scaled so. */
enum { WHIT_FOLD_READERS = 8 };
typedef struct whit_fold {
	int value, n_reader, reader[WHIT_FOLD_READERS]; /* slots of the matrices that read it, which are all that do */
	int norm;                                       /* slot of the gain that makes it, -1: a matrix does */
	float shift;                                    /* what is added to that gain */
	int maker, bias;                                /* slots of that matrix, and of its bias (-1 = none) */
	int64_t cols, factors;                          /* of the value; of those, how many can be chosen */
	int64_t dim, share; /* column c has factor c / (dim share) dim + c % dim: `share` heads read one value head */
} whit_fold;
static inline int64_t whit_fold_factor(const whit_fold *f, int64_t c) {
	return c / (f->dim * f->share) * f->dim + c % f->dim;
}
/* Fills fold, at most `most`; returns how many p has. */
int whit_folds(const whit_program *p, whit_fold *fold, int most);

/* What awq tries factors by: the loss under s (cols). */
typedef int (*whit_scaling_loss)(void *ctx, const float *s, double *loss, whit_err *e);
/* The sum (stats.h) whose sizes of columns that kind takes, or NULL. */
const char *whit_scaling_size(int kind);
/* s (f->factors): the factors of that kind, by h (cols, cols), the mean of x x^T, size (cols), whit_scaling_size's or
 * NULL, and w, the readers' matrices, whose scales are of `block` columns each. *r: awq's choice. */
int whit_scaling_factors(float *s, int kind, const whit_fold *f, const double *h, const double *size,
                         const whit_mat *const w[], int64_t block, whit_scaling_loss loss, void *ctx, double *r,
                         whit_err *e);
/* The factors of balance for w's columns by themselves; square (cols): E[x_j^2], or NULL = 1. */
void whit_scaling_columns(float *s, const double *square, const whit_mat *w, int64_t block);
/* s (factors) to all columns, (cols). */
void whit_scaling_spread(float *to, const whit_fold *f, const float *s);
#endif
