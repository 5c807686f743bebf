/* turboquant: a random rotation of every row makes its coordinates nearly Gaussian, then each takes the
 * nearest centroid of a Lloyd-Max table fitted to that density (arXiv 2504.19874, the MSE form;
 * turboquant.md). As a weight recipe this is scalar HIGGS (2411.17525) and equals EDEN with S = 1
 * (2604.18555). Choosing codes is the format's nearest encoder: the method is the rotation before it, so
 * it serves uniform grids as well, and there is nothing in it for formats that keep floats. */
#include "calib/method.h"

static int fits(const whit_spec *spec) { return spec->fmt->encode != NULL && spec->bits > 0; }

const whit_method whit_method_turboquant = {
        .name = "turboquant",
        .id = "turboquant_mse",
        .help = "random rotation, then the nearest Lloyd-Max centroid (TurboQuant's MSE form; as a weight recipe, "
                "scalar HIGGS)",
        .needs = WHIT_NEEDS_NOTHING,
        .rotation = WHIT_ROT_HADAMARD,
        .fits = fits,
        .run = whit_method_rows,
};
