#include "formats/ints_fast.h"
#if WHIT_SIMD
#include "formats/simd_avx2.h"
#include "formats/ints_simd.h"
#endif
