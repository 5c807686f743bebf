/* quantize_own: what plan.c, encoder.c and quantize.c share; nobody else includes it. */
#ifndef WHIT_QUANTIZE_OWN_H
#define WHIT_QUANTIZE_OWN_H
#include "calib/quantize.h"

int whit_rotation_same(const whit_rotation_spec *a, const whit_rotation_spec *b);
int whit_plan_has_book(const whit_plan_row *row); /* 1: a codebook goes with its codes */
/* Whether a row is encoded on a device: not into other floats, which cost a CPU less than the way there, nor with
 * feedback. */
int whit_plan_on_device(const whit_dev *dev, const whit_plan_row *row);
/* m's values, at x, as a matrix. */
whit_mat whit_plan_floats(const whit_mat *m, const void *x);

/* Trains the codebooks of all records that the plan will have, one for each size of block. */
int whit_encoder_train(whit_encoder *q, const whit_plan *p, whit_err *e);
/* The source of a row, and where its values change floats of its own, at *copy, which the caller frees. */
whit_weight whit_encoder_source(const whit_plan_row *row, float **copy);
#endif
