/* latent: what stands behind codes while they are trained. Behind each code a latent weight, at first the original one,
 * moved no further than into the code's own interval; the code is the level nearest to it. A step of Adam moves latent
 * weights by the gradient at their decoded values (straight through), and, where the format has one free scale a unit,
 * a unit's scale by the gradient at its logarithm; what else a unit stores stays as it was. */
#ifndef WHIT_LATENT_H
#define WHIT_LATENT_H
#include "formats/gguf_model.h"
#include "formats/unit.h"
#include "host/engine.h"

typedef struct whit_latent_item {
	const char *name;               /* of the weight in the model */
	const whit_weight *src;         /* its original values, in the frame of mat's logical rows */
	whit_mat *mat;                  /* the codes; changed in place by whit_latent_store alone */
	const whit_gguf_change *change; /* from the model's order to mat's, or NULL */
	const float *balance; /* the model's columns are mat's times this (cols), which src's are over; NULL = 1 */
	const float *more; /* (rows, cols), frame of mat's logical rows: what the model's matrix is more than the codes
	                      decode to, an adapter; or NULL */
	const int64_t
	        *row; /* mat.rows rows of the model's matrix, which other items have the rest of; NULL: all, in order */
} whit_latent_item;

/* One item's. Rows are mat's logical ones; the stored frame has `width` columns. */
typedef struct whit_latent {
	const whit_latent_item *item;
	int64_t layer; /* of the model, and its matrix there */
	int slot;
	whit_units u;
	int scaled;
	int64_t rows, cols, width, units, runs; /* units of a row; runs of a unit */
	float *latent, *m1, *m2;                /* (rows, width) */
	float *scale, *shift;                   /* (rows, units, runs) */
	float *one, *log, *s1, *s2;             /* (rows, units): scaled ones' scale, and its logarithm */
	float *q;                               /* (rows, width): decoded */
	float *grad;                            /* by the model's matrix, in its shape */
	whit_mat dense;                         /* the model's matrix */
	int shares;                             /* dense and grad are those of an item before, of the same name */
	float *best, *best_scale, *best_one;
} whit_latent;

/* Of one step: rates, and Adam's corrections of the beginnings of its means. */
typedef struct whit_latent_step {
	float rate, scale_rate; /* of latent weights, in mean distances of levels; of the logarithms of scales */
	float fix1, fix2;
} whit_latent_step;
/* Step t of n, from 1: rates fall to 0 along a cosine. */
whit_latent_step whit_latent_step_at(int64_t t, int64_t n, double rate, double scale_rate);

/* Begins all[k] for item, the model's matrix becoming what whit_latent_decode writes (whit_model_replace). Items of the
 * same name stand together in all. */
int whit_latent_begin(whit_latent *all, int k, const whit_latent_item *item, whit_model *m, whit_err *e);
/* Latent weights and scales to the model's matrices, of n items. Rows in parallel, as below. */
void whit_latent_decode(whit_latent *all, int n);
/* Zeroes n items' gradients. */
void whit_latent_clear(whit_latent *all, int n);
/* A step by the gradients that have been added up since; n items. */
void whit_latent_update(whit_latent *all, int n, const whit_latent_step *s);
/* Keeps the present state as the best; writes the best as codes. */
void whit_latent_remember(whit_latent *all, int n);
void whit_latent_store(whit_latent *all, int n);
/* Gives the model its own matrices back, and frees. */
void whit_latent_end(whit_latent *all, int n, whit_model *m);
#endif
