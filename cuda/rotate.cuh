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

/* whit_fwht_cuda with one read and one write of memory, where a block holds n values. */
bool whit_fwht_takes(const whit_dev *d, int64_t n);
void whit_fwht_fused(whit_dev *d, float *x, int64_t rows, int64_t n);
#endif
