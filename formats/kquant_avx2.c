#include "formats/kquant_fast.h"
#if WHIT_SIMD
#include <math.h>
#include "formats/simd_avx2.h"
#include "formats/kquant_simd.h"
#endif
