#include "formats/ints_fast.h"
#if WHIT_SIMD
#define WHIT_VNNI
#include "formats/simd_avx512.h"
#include "formats/ints_simd.h"
#endif
