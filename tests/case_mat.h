/* case_mat: matrices of any format for cases, of random bytes: a decoder must not care who wrote them. */
#ifndef WHIT_CASE_MAT_H
#define WHIT_CASE_MAT_H
#include "formats/format.h"
#include "tests/case.h"

/* A matrix of format name on the host; finite: without NaN, Inf and weights beyond 1000. Aborts where the width does
 * not fit. */
whit_mat case_mat(case_run *r, const char *name, int64_t rows, int64_t width, int finite);
/* The same with planes and codebook where the target reads them. */
whit_mat case_mat_in(case_run *r, const whit_mat *m);
/* 1: a device may multiply T rows by m on tensor cores (cuda/gemm_packed.cu); then what its result may be off, (T, rows),
 * where mag holds the sums of |w x| and all else. */
int case_mat_packed(const whit_mat *m, int64_t T);
float *case_mat_packed_bound(case_run *r, const whit_mat *m, const float *x, const float *mag, int64_t T);
/* The width nearest to `about` that the format takes. */
int64_t case_mat_width(const char *name, int64_t about);
#endif
