/* sequences: batches of what a calibration text left between layers (stats.h), for training: some sequences drawn for
 * steps, the others kept out to judge by. */
#ifndef WHIT_SEQUENCES_H
#define WHIT_SEQUENCES_H
#include "calib/stats.h"

typedef struct whit_sequences {
	const whit_stats_states *x;
	int64_t each; /* of a batch, at most */
	/* 1 where sequence c of n is kept out; it says so of one at least, and not of all where n is above 1 */
	int (*kept_out)(int64_t c, int64_t n);
	whit_batch b; /* the batch at hand, its tokens too */
	/* file-local from here */
	int64_t *start, *past, *pos, *which;
	int32_t *tokens;
} whit_sequences;

/* Batches of `tokens` tokens, one sequence at least; WHIT_EINPUT: x has less than 2 sequences, said of `what`. The
 * caller frees s, also after an error. */
int whit_sequences_begin(whit_sequences *s, const whit_stats_states *x, int64_t tokens,
                         int (*kept_out)(int64_t c, int64_t n), const char *what, whit_err *e);
/* The next batch is of `each` sequences that are not kept out, drawn with replacement. */
void whit_sequences_draw(whit_sequences *s, whit_rng *g);
/* The next batch is of those kept out from *c on, which moves behind them; 0: none is left. */
int whit_sequences_next_kept(whit_sequences *s, int64_t *c);
/* The batch's rows of `from` (chunks, ctx, width), one after another. */
void whit_sequences_gather(const whit_sequences *s, float *to, const float *from, int64_t width);
void whit_sequences_free(whit_sequences *s);
#endif
