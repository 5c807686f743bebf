/* measure: what is asked of runs of floats after coding: how far apart they are, and whether they are numbers. Sums run
 * in double in one fixed order: the same bits on every target. */
#ifndef WHIT_MEASURE_H
#define WHIT_MEASURE_H
#include "host/base.h"

/* Sum of x^2 (y NULL) or (x - y)^2 of n values: eight interleaved sums, added pairwise. */
double whit_sum_squares_cpu(const float *x, const float *y, int64_t n);
/* The same of each run of `run` values, the last maybe shorter: sum (ceil(n / run)). */
WHIT_DEVICE void whit_sum_squares_cuda(whit_dev *d, double *sum, const float *x, const float *y, int64_t n,
                                       int64_t run);
/* Twin of whit_first_nonfinite for each run: where in it the first NaN or Inf is, or -1: first (ceil(n / run)). */
WHIT_DEVICE void whit_first_nonfinite_cuda(whit_dev *d, int64_t *first, const float *x, int64_t n, int64_t run);
#endif
