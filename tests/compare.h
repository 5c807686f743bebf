/* compare: how arrays of numbers are judged. Written so that NaN fails. */
#ifndef WHIT_COMPARE_H
#define WHIT_COMPARE_H
#include <stdint.h>
#include "formats/format.h"

/* Largest |got - want|; NaN or Inf in either gives +Inf. */
double whit_max_abs_diff(const float *got, const float *want, int64_t n);
/* ||got - want|| / ||want|| (Frobenius); +Inf when either holds NaN or Inf, or want is all zero and got not. */
double whit_rel_err(const float *got, const float *want, int64_t n);
/* Index of the first i with !(|got - want| <= tol[i or 0]), or -1. */
int64_t whit_first_beyond(const float *got, const float *want, int64_t n, double tol);
/* m's gemv of rows [r0, rows) times T <= 8 of x (8, width) against what m decodes to, in double: how many values are
 * off by more than lanes' sums may be, or were written where none belongs. */
int whit_gemv_wrong(const whit_mat *m, int64_t r0, const float *x, int T);
#endif
