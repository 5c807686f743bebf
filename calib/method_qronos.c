/* qronos (arXiv 2505.11695): gptq towards the weights that give the original outputs best from the inputs as they are
 * behind quantized layers. */
#include "calib/feedback.h"

const whit_method whit_method_qronos = {
        .name = "qronos",
        .id = "qronos",
        .help = "gptq towards the weights that serve the quantized inputs best (2505.11695)",
        .needs = WHIT_NEEDS_HESSIAN | WHIT_NEEDS_CROSS,
        .rotation = WHIT_ROT_NONE,
        .fits = whit_feedback_fits,
        .run = whit_feedback_run,
        .feedback = WHIT_FEEDBACK_QRONOS,
};
