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
/* Random earlier rows of each sequence of b, and behind them its new ones out of k and v (b->T, width). */
void case_state_rows(case_run *r, const case_spans *b, const float *k, const float *v, int64_t width,
                     float *keys[SPANS], float *values[SPANS]);
/* The words of such a state with all tokens there. */
uint32_t *case_state_bits(case_run *r, int64_t rows, const float *keys, const float *values, int dtype, int64_t cap,
                          int64_t width);
/* n values, rounded to dtype. */
void case_round(float *x, int64_t n, int dtype);
/* y, what whit_qkv_cuda makes of `heads` heads of x with norm w or NULL, and each value's size: a turned one is of the
 * size of its pair. Returns what a twin may be off by, relative to it. */
double case_prepared(float *y, float *mag, const float *x, const float *w, const case_spans *b, int64_t heads,
                     const whit_qkv *a);
/* What a state prepared for T tokens holds: earlier rows as they were, nothing beyond the new ones, their values to the
 * bit, their keys near want. exact: case_state_bits. Returns the state's words, or NULL. */
const uint32_t *case_state_check(case_run *r, const void *block, const uint32_t *exact, int kv, int64_t past, int64_t T,
                                 int64_t cap, int64_t width, const float *want, const float *mag, double tol);
/* What a value of attention may be off by, in units of 2^-24: sum of p |v|, times what p and the sums lose. A score
 * passes dim + 2 roundings of the sum of |scale q k|, one of the scaled query and, less the top, two of twice its size;
 * a part's top moves by whole differences of scores: the same again. Those errors of p stand above and below the line.
 * Relative to p |v| alone: exp, 3 ulp, each time the top moves; a rounding or two a key in both sums; few to merge.
 * Queries are of the size `sizes` and themselves off by `off` times that. v is lost. */
void case_attention_mag(float *mag, const float *q, const float *sizes, double off, const float *k, float *v, int64_t T,
                        int64_t past, int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window);
#endif
