/* refit: codes and scales chosen again, all of a row in sight, when a solver (feedback.h) has chosen them column after
 * column (fabq.md 2.6, step 2). What is to fall is the solver's loss, (q - t) H (q - t)^T, with gptaq t only as far
 * from w as its alpha goes: at one bit the whole way learns the calibration text. One sweep:
 *
 *   scales    of formats with one free scale a unit, or an F16 that all of a unit's scales, and one that all its minima
 *             are in proportion to (unit.h): with q = sum over these of s_b z_b + what is fixed, the s that solve
 *             A s = c, A_bb' = z_b H z_b'^T, rounded to what can be stored
 *   codes     one after the other, each the level that loses least beside all others
 *   profiles  of blocks that choose one (frc1.h), likewise
 *
 * until a sweep loses no less, which is then undone. */
#ifndef WHIT_REFIT_H
#define WHIT_REFIT_H
#include "calib/method.h"

/* Refits all rows of j->dst, which a solver has filled for j->feedback; loss (two a row: feedback's, over its scale):
 * the first becomes the row's new one. j->feedback has no order of its own (WHIT_EUSAGE). Rows in
 * parallel: same bytes at any thread count. */
int whit_refit(whit_job *j, int sweeps, double *loss, whit_err *e);
#endif
