/* feedback: rounding that hands each column's error on to the columns behind it, so that the layer's outputs, not its
 * weights, come out near: what gptq, ldlq, gptaq and qronos share (methods.md 1, 2.1).
 *
 * w (a row of W), q (its codes decoded), x an input; H = E[x x^T] with x as the quantized model has it, G = E[X x^T]
 * with X as the original has it; both of the stored columns' frame. The loss of a row is (q - t) H (q - t)^T,
 * t = w G H^-1 (w where there is no G), and H = R R^T with R upper triangular, U = R^-1. Then
 *
 *   (q - t) R = sum over columns j of R_jj (q_j - t_j + sum_{k<j} (q_k - t_k) R_kj / R_jj)
 *
 * so the nearest q_j to t_j - sum_{k<j} (q_k - t_k) R_kj / R_jj, column after column, is LDLQ (2307.13304, eq. 4); GPTQ
 * (2210.17323, algorithm 1) is the same codes by way of U: err = (v_j - q_j) / U_jj, v_k -= err U_jk for k > j.
 * GPTAQ (2504.02692) adds v_j P_jk to v_k as well, P = alpha triu(C U^T, 1) U, C = G - H; Qronos (2505.11695) takes
 * t with G, and chooses its first column as if the others were to stay w. */
#ifndef WHIT_FEEDBACK_H
#define WHIT_FEEDBACK_H
#include "calib/method.h"

enum { WHIT_FEEDBACK_GPTQ, WHIT_FEEDBACK_LDLQ, WHIT_FEEDBACK_GPTAQ, WHIT_FEEDBACK_QRONOS };

/* Of one layer's input, for any number of weights that read it. */
typedef struct whit_feedback {
	int kind;
	int64_t n;      /* stored columns */
	float *r, *u;   /* (n, n) upper */
	float *h_diag;  /* n, damped: importance of columns where a unit's parameters are chosen */
	float *target;  /* (n, n): t = w target; NULL: t = w */
	float *pass;    /* (n, n): gptaq's P */
	float alpha;    /* in it; 1 for other kinds */
	double *first;  /* qronos: 2 n, G's first column, then H's */
	int64_t *order; /* n: column that comes j-th; NULL: as they stand */
	double scale;   /* the mean of H's diagonal: what r, u and h_diag hold is of H over it */
	double damping; /* lambda over the mean of H's diagonal, as it was at last */
	int retries;    /* how often lambda had to grow tenfold */
	int64_t dead;   /* columns whose input was always zero */
	int on_device;  /* r, u, target and pass are a device's: not the host's bits */
} whit_feedback;

typedef struct whit_feedback_opts {
	double damping; /* lambda = damping * mean of H's diagonal; < 0: the kind's own (0.01; qronos 1e-6 of H's norm)
	                 */
	double alpha;   /* gptaq's */
	int act_order;  /* columns in the order of falling H_jj; parameters are chosen before, from the original weights
	                 */
	whit_dev *dev;  /* where factors are computed, from whit_dev_factors_from columns on; NULL = the host */
} whit_feedback_opts;

/* h, g (n, n): sums or means over tokens, g NULL where the kind has no use for it; both are overwritten. In double by
 * LAPACK, on one thread, or by o->dev: cuSOLVER's sums come in another order, so last digits differ, and with them
 * codes of weights that lie all but equally near to two levels; the same bytes on the same device, and the host's under
 * emulation. Where the device lacks cuSOLVER or the memory for n, the host factors, and a line says so.
 * WHIT_ENONFINITE: not finite, or still indefinite after three retries, each counted and said. The device's errors. */
int whit_feedback_make(whit_feedback *f, int kind, double *h, double *g, int64_t n, const whit_feedback_opts *o,
                       const char *name, whit_err *e);
void whit_feedback_free(whit_feedback *f);

/* whit_method.run of these methods: fills j->dst for j->feedback. A unit's parameters are the format's nearest
 * encoder's, weighted by H's diagonal, for the unit's weights as corrected so far; then, for units of up to 256
 * columns (signs: 512), for what those had become when they were rounded, twice; each row keeps the ones that lose
 * least in the unit. A row on which feedback loses to the format's nearest encoder keeps the nearest codes, counted in
 * j->rows_nearest. Then j->refits sweeps over all rows (refit.h). Chunks of rows in parallel: same bytes at any thread
 * count. */
int whit_feedback_run(whit_job *j, whit_err *e);
/* 1: the format has codes to choose one by one. */
int whit_feedback_fits(const whit_spec *spec);
#endif
