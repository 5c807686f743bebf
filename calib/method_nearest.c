/* nearest: every weight takes the code that decodes closest to it, as the format's own encoder does it,
 * without a rotation. Fits whatever can be encoded; the yardstick that other methods have to beat. */
#include "calib/method.h"
#include "formats/blocks.h"

static int fits(const whit_spec *spec) { return spec->fmt->encode && (!spec->fmt->block || spec->fmt->block->encode); }

const whit_method whit_method_nearest = {
        .name = "nearest",
        .id = "nearest",
        .help = "round to the format's nearest values; no rotation unless asked for",
        .needs = WHIT_NEEDS_NOTHING,
        .rotation = WHIT_ROT_NONE,
        .fits = fits,
        .run = whit_method_rows,
};
