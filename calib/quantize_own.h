/* quantize_own: what plan.c, encoder.c and quantize.c share; nobody else includes it. */
#ifndef WHIT_QUANTIZE_OWN_H
#define WHIT_QUANTIZE_OWN_H
#include "calib/quantize.h"

int whit_plan_has_book(const whit_plan_row *row); /* 1: a codebook goes with its codes */
/* Whether a row is encoded on a device: not into other floats, which cost a CPU less than the way there, nor with
 * feedback. */
int whit_plan_on_device(const whit_dev *dev, const whit_plan_row *row);
/* m's values, at x, as a matrix. */
whit_mat whit_plan_floats(const whit_mat *m, const void *x);

/* Trains the codebooks of all records that the plan will have, one for each size of block. */
int whit_encoder_train(whit_encoder *q, const whit_plan *p, whit_err *e);
/* A weight that scaling (scaling.h) has changed. */
typedef struct whit_scaled {
	struct whit_scaled *next;
	const whit_weight *w;
	int64_t layer;
	float *cols, *rows; /* what columns are multiplied by, what rows are divided by; NULL = they are not */
	float *vec;         /* a vector's values, and as its type stores them */
	uint8_t *bytes;
} whit_scaled;
const whit_scaled *whit_encoder_scaled(const whit_encoder *q, const whit_weight *w); /* NULL = it has not */
/* Scales what it can of layer l, whose program is given, by the calibration's statistics: values all of whose readers,
 * and the matrix that makes them, get codes. */
int whit_encoder_scale(whit_encoder *q, const whit_plan *p, const whit_program *program, int64_t l, whit_err *e);
/* The source of a row, and where its values change floats of its own, at *copy, which the caller frees. */
whit_weight whit_encoder_source(const whit_encoder *q, const whit_plan_row *row, float **copy);
#endif
