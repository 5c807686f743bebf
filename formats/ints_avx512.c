#include "formats/ints_fast.h"
#if WHIT_SIMD
#include "formats/simd_avx512.h"
#include "formats/ints_simd.h"
#endif
