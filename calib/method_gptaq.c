/* gptaq (arXiv 2504.02692): gptq that also hands on what the inputs have lost already behind quantized layers. */
#include "calib/feedback.h"

const whit_method whit_method_gptaq = {
        .name = "gptaq",
        .id = "gptaq",
        .help = "gptq that also makes up for the inputs' own error (2504.02692)",
        .needs = WHIT_NEEDS_HESSIAN | WHIT_NEEDS_CROSS,
        .rotation = WHIT_ROT_NONE,
        .fits = whit_feedback_fits,
        .run = whit_feedback_run,
        .feedback = WHIT_FEEDBACK_GPTAQ,
};
