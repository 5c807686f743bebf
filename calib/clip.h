/* clip: what awq does behind its scaling (2306.00978, section 3.2; AutoAWQ's search): the weights of each unit are cut
 * off at a share of the unit's largest, 1, .95 .. .55, the one whose nearest codes lose least in the layer's outputs,
 * E H E^T over the unit's columns alone. */
#ifndef WHIT_CLIP_H
#define WHIT_CLIP_H
#include "formats/format.h"

/* w (rows, m->width), in place: rows of a matrix of m's spec, width and codebook, which has units (unit.h); h (width,
 * width): the mean of x x^T; rule as whit_format.encode has it. Rows in parallel: same numbers at any thread count. */
int whit_clip(float *w, int64_t rows, const whit_mat *m, const double *h, int rule, whit_err *e);
#endif
