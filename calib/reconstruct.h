/* reconstruct: a transformer block's codes and scales together, once they are chosen, so that the block gives the
 * original's outputs from the inputs it will really have (block reconstruction: BRECQ, 2102.05426; fabq.md 2.6 step 3).
 *
 * Every matrix keeps its format. Steps of Adam (latent.h) on the sum of squared differences; the state that does best
 * on sequences kept out of the steps is what is stored; where none beats the beginning, nothing changes. */
#ifndef WHIT_RECONSTRUCT_H
#define WHIT_RECONSTRUCT_H
#include "calib/latent.h"
#include "calib/stats.h"

typedef struct whit_reconstruct_opts {
	int64_t steps;       /* of a layer; 0 = none */
	double rate;         /* of latent weights, in mean distances of levels; 0 = 0.005 */
	double scale_rate;   /* of the logarithms of scales; 0 = 0.02 */
	int64_t step_tokens; /* of one step; 0 = 2048 */
	uint64_t seed;       /* of the order of sequences */
} whit_reconstruct_opts;

typedef struct whit_reconstruct_result {
	double before,
	        after; /* squared error per value of the sequences kept out, over the wanted outputs' mean square */
	int64_t steps; /* that it took to the state that was kept; 0: nothing changed */
} whit_reconstruct_result;

/* Layer l of m, on the CPU, whose matrices are `item`'s now; when it returns, they stand in their places again as
 * given. x: the layer's inputs and the wanted outputs. Sequences that are kept out: every eighth, one at least, so two
 * are needed (WHIT_EINPUT). Same bytes at any thread count. */
int whit_reconstruct(whit_model *m, int64_t l, const whit_stats_states *x, whit_latent_item *item, int n,
                     const whit_reconstruct_opts *o, whit_reconstruct_result *r, whit_err *e);
#endif
