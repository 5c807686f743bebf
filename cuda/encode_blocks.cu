#include "cuda/encode.cuh"
bool whit_blocks_encode(whit_dev *, const whit_mat *, int64_t, int64_t, const float *, const float *, int64_t *) { return false; }
