/* overlap: texts that must be apart: calibration, search and evaluation (quality.md 4). Tokens they share in a run of
 * WHIT_OVERLAP_RUN are an error. */
#ifndef WHIT_OVERLAP_H
#define WHIT_OVERLAP_H
#include "host/options.h"
#include "host/tokenizer.h"

enum { WHIT_OVERLAP_RUN = 50 };
/* Whether a (na) and b (nb) share a run of `run` tokens; then *ia and *ib are where one begins. */
int whit_overlap(const int32_t *a, int64_t na, const int32_t *b, int64_t nb, int64_t run, int64_t *ia, int64_t *ib);
/* The text `name`, of n ids, against each path of `from`: a text file, or a directory of statistics, whose
 * tokens.safetensors holds what was calibrated on. WHIT_EINPUT names both and the words they share. */
int whit_apart(const whit_tok *tok, int64_t vocab, const char *name, const int32_t *ids, int64_t n,
               const whit_list *from, whit_err *e);
#endif
