/* lowrank: the best low-rank fit of what codes have lost of a matrix, where errors count as its inputs and rows do.
 *
 * E = W - W^ (rows, cols), H = E[x x^T] = L L^T with damping added, D = diag(alpha), alpha > 0 the importance of rows.
 * Of all products of that rank, B A = D^-1/2 SVD_rank(D^1/2 E L) L^-1 leaves the least tr(D (E - B A) H (E - B A)^T):
 * the sum of the squared singular values that are not in it (Eckart-Young; methods.md 1, identity 3). */
#ifndef WHIT_LOWRANK_H
#define WHIT_LOWRANK_H
#include "host/base.h"

typedef struct whit_lowrank {
	int64_t rows, cols, rank;
	uint16_t *a, *b;     /* (rank, cols) and (rows, rank), F16 */
	double before, best; /* the weighted error of E, and the least that rank can leave of it */
	double after;        /* what these factors, rounded as they are, leave */
} whit_lowrank;

/* Fills f, which the caller frees also after an error. e (rows, cols); h (cols, cols), symmetric, used up; alpha
 * (rows), its mean taken as 1, or NULL: all alike. damping: over the mean of h's diagonal, times ten where h is not
 * positive definite even so, up to three times (`raised` counts). In double, by LAPACK; the same bytes at any thread
 * count. WHIT_ENONFINITE: h or e, or h stays indefinite; WHIT_EINPUT: h is all zero; name: of the matrix, for messages.
 */
int whit_lowrank_fit(whit_lowrank *f, const float *e, int64_t rows, int64_t cols, double *h, const double *alpha,
                     int64_t rank, double damping, int64_t *raised, const char *name, whit_err *err);
void whit_lowrank_free(whit_lowrank *f);
void whit_lowrank_add(const whit_lowrank *f, float *w); /* w (rows, cols) += B A */
/* Importance of rows with a part of its own mean, which keeps rows that hardly counted in a text from counting nothing
 * (fabq.md 2.1); all zero: all 1. */
void whit_lowrank_shrink(double *alpha, int64_t rows);
#endif
