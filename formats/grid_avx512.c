#include "formats/grid_fast.h"
#if WHIT_SIMD
#include "formats/simd_avx512.h"
#include "formats/grid_simd.h"
#endif
