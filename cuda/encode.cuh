/* encode: the parts of whit_rows_encode_cuda (encode.cu). */
#ifndef WHIT_ENCODE_CUH
#define WHIT_ENCODE_CUH
#include "cuda/dev.cuh"
extern "C" {
#include "formats/format.h"
}

/* n rows of w (n, m->width), device memory, into stored rows whit_mat_row(m, r0 + i) of m, planes on the device; imp
 * (width) or NULL; adds scales beyond F16 to count[0] and zero blocks to count[1] (device memory). The CPU's bytes.
 * Takes scratch. false: not a block format with an encoder, nothing is queued. */
bool whit_blocks_encode(whit_dev *d, const whit_mat *m, int64_t r0, int64_t n, const float *w, const float *imp,
                        int64_t *count);

/* Each of `lanes` neighbours in a warp gets the sum of their values, one added after the other: the CPU's order. mask:
 * the warp's lanes that are here. */
template <int lanes> static __device__ __forceinline__ double encode_sum(double v, unsigned mask = 0xffffffffu) {
	double s = 0;
	for (int k = 0; k < lanes; k++) s += __shfl_sync(mask, v, k, lanes);
	return s;
}
#endif
