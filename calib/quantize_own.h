/* quantize_own: what plan.c, encoder.c, residual.c and quantize.c share; nobody else includes it. */
#ifndef WHIT_QUANTIZE_OWN_H
#define WHIT_QUANTIZE_OWN_H
#include "calib/lowrank.h"
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
/* What the calibration is asked for row's matrix m. */
whit_calibration_of whit_encoder_asks(const whit_encoder *q, const whit_plan_row *row, const whit_mat *m);
/* The source of a row, and where its values change floats of its own, at *copy, which the caller frees. */
whit_weight whit_encoder_source(const whit_encoder *q, const whit_plan_row *row, float **copy);

/* ---- what codes have lost, as an adapter beside the GGUF (residual.c) ---- */
typedef struct whit_residual { /* zero, then open */
	whit_gguf_out *out;    /* NULL: none is asked for */
	int64_t rank;
	whit_residual_stats st;
} whit_residual;
/* Refuses what cannot be: no matrix with codes, a rank beyond a matrix, no Hessians; counts the adapter's bytes. */
int whit_residual_plan(whit_plan *p, whit_err *e);
/* Begins the adapter where the plan's target asks for one. The functions below do nothing where it does not. */
int whit_residual_open(whit_residual *r, const whit_plan *p, const whit_model *m, whit_err *e);
/* Fills f with what m, the codes of row, lacks; f stays zero where row gets no factors. */
int whit_residual_fit(whit_residual *r, const whit_encoder *q, const whit_plan_row *row, const whit_mat *m,
                      whit_lowrank *f, whit_err *e);
/* Writes f; rows in the plan's order, those of B where m stores the matrix's. */
int whit_residual_write(whit_residual *r, const whit_plan_row *row, const whit_mat *m, const whit_lowrank *f,
                        whit_err *e);
/* rc 0: the file gets its name; else there is none. Frees what there is; returns rc, or what went wrong. */
int whit_residual_close(whit_residual *r, int rc, whit_err *e);
#endif
