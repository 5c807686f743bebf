/* grid_fast: the search at each CPU level; grid_simd.h compiled in grid.c, grid_avx2.c and grid_avx512.c. */
#ifndef WHIT_GRID_FAST_H
#define WHIT_GRID_FAST_H
#include <math.h>
#include "formats/grid.h"
#include "formats/simd.h"

#define WHIT_GRID_FAST(level)                                                                                          \
	void whit_grid_search_##level(const whit_grid *g, const float *w, const float *imp, int groups,                \
	                              whit_grid_found *found);
WHIT_GRID_FAST(plain)
WHIT_GRID_FAST(avx2)
WHIT_GRID_FAST(avx512)
#undef WHIT_GRID_FAST
#endif
