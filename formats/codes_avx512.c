#include "formats/codes_fast.h"
#if WHIT_SIMD
#include "formats/simd_avx512.h"
#include "formats/codes_simd.h"
#endif
