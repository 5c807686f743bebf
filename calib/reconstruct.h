/* reconstruct: a transformer block's codes and scales together, once they are chosen, so that the block gives the
 * original's outputs from the inputs it will really have (block reconstruction: BRECQ, 2102.05426; fabq.md 2.6 step 3).
 *
 * Every matrix keeps its format. Behind each code stands a latent weight, at first the original one, moved no further
 * than into the code's own interval; the code is the level nearest to it. Steps of Adam on the sum of squared
 * differences: a latent weight takes the gradient by its decoded value (straight through), a unit's scale the one by
 * its logarithm, where the format has one free scale a unit; what else a unit stores stays as it was. The state that
 * does best on sequences kept out of the steps is what is stored; where none beats the beginning, nothing changes. */
#ifndef WHIT_RECONSTRUCT_H
#define WHIT_RECONSTRUCT_H
#include "calib/stats.h"
#include "formats/gguf_model.h"

typedef struct whit_reconstruct_opts {
	int64_t steps;       /* of a layer; 0 = none */
	double rate;         /* of latent weights, in mean distances of levels; 0 = 0.005 */
	double scale_rate;   /* of the logarithms of scales; 0 = 0.02 */
	int64_t step_tokens; /* of one step; 0 = 2048 */
	uint64_t seed;       /* of the order of sequences */
} whit_reconstruct_opts;

typedef struct whit_reconstruct_item {
	const char *name;               /* of the weight in the model */
	const whit_weight *src;         /* its original values, in the frame of mat's logical rows */
	whit_mat *mat;                  /* the codes; changed in place */
	const whit_gguf_change *change; /* from the model's order to mat's, or NULL */
	const int64_t
	        *row; /* mat.rows rows of the model's matrix, which other items have the rest of; NULL: all, in order */
} whit_reconstruct_item;

typedef struct whit_reconstruct_result {
	double before,
	        after; /* squared error per value of the sequences kept out, over the wanted outputs' mean square */
	int64_t steps; /* that it took to the state that was kept; 0: nothing changed */
} whit_reconstruct_result;

/* Layer l of m, on the CPU, whose matrices are `item`'s now; when it returns, they stand in their places again as
 * given. x: the layer's inputs and the wanted outputs. Sequences that are kept out: every eighth, one at least, so two
 * are needed (WHIT_EINPUT). Same bytes at any thread count. */
int whit_reconstruct(whit_model *m, int64_t l, const whit_stats_states *x, whit_reconstruct_item *item, int n,
                     const whit_reconstruct_opts *o, whit_reconstruct_result *r, whit_err *e);
#endif
