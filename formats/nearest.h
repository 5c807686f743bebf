/* nearest: the inner loops of encoders. Every function here gives the same bits at every CPU level: sums of
 * n terms are kept in 16 double lanes, term i in lane i % 16, then added lane 0 to 15; comparisons are exact. */
#ifndef WHIT_NEAREST_H
#define WHIT_NEAREST_H
#include "host/base.h"

/* sum y[i]^2 */
double whit_nearest_norm2(const float *y, int64_t n);
/* The first of the values of largest magnitude; 0 where all are 0. */
float whit_nearest_peak(const float *y, int64_t n);
/* code[i] = number of the `count` ascending boundaries strictly below y[i]; count = (1 << bits) - 1 <= 255. */
void whit_nearest_search(uint8_t *code, const float *y, int64_t n, const double *boundary, int bits);
/* *yc = sum imp y c, *cc = sum imp c^2 with c = level[code]; imp NULL = 1. level holds 1 << bits. */
void whit_nearest_dots(const float *y, const uint8_t *code, const float *imp, int64_t n, const float *level, int bits,
                       double *yc, double *cc);
/* The same sums for q = clamp(rint(y * inv), lo, hi). */
void whit_nearest_step_dots(const float *y, const float *imp, int64_t n, float inv, int lo, int hi, double *yq,
                            double *qq);
/* code[i] = clamp(rint(y[i] / step), lo, hi) as a two's complement byte; step is not 0. */
void whit_nearest_step(uint8_t *code, const float *y, int64_t n, float step, int lo, int hi);
#endif
