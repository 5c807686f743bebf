/* gptq (arXiv 2210.17323): columns are rounded one after another, each error handed on to those behind it by the
 * inverse Hessian of the layer's inputs: feedback.h, in blocks. */
#include "calib/feedback.h"

const whit_method whit_method_gptq = {
        .name = "gptq",
        .id = "gptq",
        .help = "round with feedback by the inverse Hessian of the inputs (2210.17323)",
        .needs = WHIT_NEEDS_HESSIAN,
        .rotation = WHIT_ROT_NONE,
        .fits = whit_feedback_fits,
        .run = whit_feedback_run,
        .feedback = WHIT_FEEDBACK_GPTQ,
};
