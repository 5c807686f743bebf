/* ldlq (QuIP, arXiv 2307.13304): gptq's codes by the triangular factor of H itself, in double and without blocks: the
 * plain twin that gptq is checked against, and slow. */
#include "calib/feedback.h"

const whit_method whit_method_ldlq = {
        .name = "ldlq",
        .id = "ldlq",
        .help = "the same codes computed plainly, in double: the oracle of gptq, slow (2307.13304)",
        .needs = WHIT_NEEDS_HESSIAN,
        .rotation = WHIT_ROT_NONE,
        .fits = whit_feedback_fits,
        .run = whit_feedback_run,
        .feedback = WHIT_FEEDBACK_LDLQ,
};
