/* codebook: exact Lloyd-Max quantizers of one coordinate of a random direction (turboquant.md 1, 2). */
#ifndef WHIT_CODEBOOK_H
#define WHIT_CODEBOOK_H
#include "host/base.h"

enum { WHIT_DENSITY_GAUSSIAN, WHIT_DENSITY_BETA };
/* Ascending optimal centroids, 1 << bits of them, bits 1..8, for a coordinate of a uniformly random unit
 * vector of dimension d: GAUSSIAN is the shipped N(0,1) table times 1/sqrt(d), BETA solves the exact
 * density (1-t^2)^((d-3)/2). d >= 4. */
int whit_codebook(float *c, int bits, int density, int64_t d, whit_err *e);
/* Lloyd-Max solved here, in double, to convergence: N(0,1) when d == 0, else the unit-sphere coordinate.
 * Fills c[1 << bits] and, unless NULL, *mse = E (t - c)^2 relative to E t^2. */
int whit_lloyd_max(double *c, int bits, int64_t d, double *mse, whit_err *e);
/* N(0,1) Lloyd from equal-probability boundaries, exactly `steps` rounds: what TQ3 files derive (8). */
void whit_lloyd_steps(double *c, int bits, int steps);
#endif
