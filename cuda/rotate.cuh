/* rotate: what other kernels' files use of rotate.cu. */
#ifndef WHIT_ROTATE_CUH
#define WHIT_ROTATE_CUH
#include "cuda/gemv.cuh"
extern "C" {
#include "formats/rotation.h"
}

/* pre(x), rotated, in one launch, where it takes that; in->K, the width behind it, is not read. */
bool whit_rotate_takes(const whit_dev *d, const whit_rotation *r, int pre);
void whit_rotate_input(whit_dev *d, const whit_rotation *r, float *y, const gemv_input *in);

/* whit_fwht_stored_cuda with one read and one write of memory, of rows of n values, at most whit_fwht_most: a power of
 * two, what a block holds. */
int64_t whit_fwht_most(const whit_dev *d);
void whit_fwht_fused(whit_dev *d, void *x, int dtype, int64_t rows, int64_t n);
#endif
