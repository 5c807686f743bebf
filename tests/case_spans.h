/* spans: batches of sequences for the cases of attention and of what prepares it. */
#ifndef WHIT_CASE_SPANS_H
#define WHIT_CASE_SPANS_H
#include "host/ops.h"
#include "tests/case.h"

enum { SPANS = 4 };
typedef struct case_spans {
	int n_seq;
	int64_t T, start[SPANS + 1], past[SPANS], most; /* most: keys of the longest */
	int64_t *pos;                                   /* (T) */
	whit_spans dev;                                 /* the same where the target reads it */
} case_spans;

/* Sequences of len[s] new tokens, up to the first negative one. */
void case_spans_make(case_run *r, case_spans *b, const int64_t *len, const int64_t *past);

/* States, one a sequence: rows [0, past[s] + filled) of keys and values as given, all others NaN; filled: how many of
 * the new tokens are there already (0 or all). Returns the array of pointers where the target reads it; block[s] is
 * the state itself, an output of case_bits. */
void *const *case_states(case_run *r, const case_spans *b, const float *const *keys, const float *const *values,
                         int dtype, int64_t cap, int64_t width, int filled, void **block);
/* The words of such a state with all tokens there. */
uint32_t *case_state_bits(case_run *r, int64_t rows, const float *keys, const float *values, int dtype, int64_t cap,
                          int64_t width);
/* n values, rounded to dtype. */
void case_round(float *x, int64_t n, int dtype);
#endif
