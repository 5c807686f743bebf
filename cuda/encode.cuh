/* encode: what the files that encode share. */
#ifndef WHIT_ENCODE_CUH
#define WHIT_ENCODE_CUH
#include "cuda/dev.cuh"
extern "C" {
#include "formats/format.h"
}

/* whit_rows_encode_cuda (format.h) for ggml's blocks; false: m's format is none of those with an encoder. */
bool whit_blocks_encode(whit_dev *d, const whit_mat *m, int64_t r0, int64_t n, const float *w, const float *imp,
                        int64_t *count);
#endif
