#include "formats/nearest_fast.h"
#if WHIT_SIMD
#include "formats/simd_avx512.h"
#include "formats/nearest_simd.h"
#include "formats/fwht_simd.h"
#endif
