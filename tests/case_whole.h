/* whole: models of tests/golden/models and text to run through them, for the cases of whole models. */
#ifndef WHIT_CASE_WHOLE_H
#define WHIT_CASE_WHOLE_H
#include "host/engine.h"
#include "tests/case.h"

enum { CASE_TOKENS = 40 }; /* of one of at most two sequences */
typedef struct case_text {
	int32_t token[2 * CASE_TOKENS];
	int64_t start[3], past[2], pos[2 * CASE_TOKENS];
	whit_batch b;
} case_text;

/* n_seq sequences of T tokens each, from position past; t keeps the batch. */
const whit_batch *case_text_set(case_text *t, int n_seq, int64_t T, int64_t past, int64_t vocab);
/* Opens the model at path where r's target computes (dev NULL: the CPU), within `limit` bytes of device memory (0 =
 * all there is). After an error r has failed and m needs no closing. */
int case_whole_open(case_run *r, whit_model *m, const char *path, whit_dev *dev, size_t limit);
/* ||got - want|| / ||want|| that two float32 computations of a model's outputs may differ by. */
double case_whole_tol(const whit_model *m);
/* The same of gradients by its weights. */
double case_whole_grad_tol(const whit_model *m);
#endif
