/* distill: all codes and scales of a model together, once they are chosen, so that its next-token distribution comes
 * near the original's (fabq.md 2.6 step 4; with latent weights too, as in quantization-aware distillation).
 *
 * Steps of Adam (latent.h) on the sum over tokens of KL(original || quantized); the state that does best on sequences
 * kept out of the steps is what is stored; where none beats the beginning, nothing changes. */
#ifndef WHIT_DISTILL_H
#define WHIT_DISTILL_H
#include "calib/latent.h"
#include "calib/stats.h"

typedef struct whit_distill_opts {
	int64_t steps;       /* 0 = none */
	double rate;         /* of latent weights, in mean distances of levels; 0: they stay, scales alone are fitted */
	double scale_rate;   /* of the logarithms of scales; 0 = 0.005 */
	int64_t step_tokens; /* of one step; 0 = 2048 */
	uint64_t seed;       /* of the order of sequences */
} whit_distill_opts;

typedef struct whit_distill_result {
	double before, after; /* mean KL of the sequences kept out, nats */
	int64_t steps;        /* that it took to the state that was kept; 0: nothing changed */
} whit_distill_result;

/* m, on the CPU, whose matrices are item's now (items of one name together); when it returns, m has its own again in
 * their places. x: the tokens, and what the original's last layer makes of them (want); original makes its logits.
 * Memory: 24 bytes for each weight of the items, 4 (layers + 2) hidden for each token of a step. Sequences that are
 * kept out: the last sixteenth of either half, one at least, so two are needed (WHIT_EINPUT). Same bytes at any thread
 * count. */
int whit_distill(whit_model *m, whit_model *original, const whit_stats_states *x, const whit_latent_item *item, int n,
                 const whit_distill_opts *o, whit_distill_result *r, whit_err *e);
#endif
