#include "formats/grid_fast.h"
#include "formats/simd_plain.h"
#include "formats/grid_simd.h"

static int any_nonzero(const float *x, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		if (x[i] != 0) return 1;
	return 0;
}

int whit_grid_encode(const whit_grid *g, uint8_t *out, const float *w, const float *imp, int64_t n,
                     int64_t *zero_blocks) {
	int groups = g->kind == WHIT_GRID_SUPER ? 8 : 1, bad = 0;
	whit_grid_found found;
	if (imp && !any_nonzero(imp, n)) imp = NULL;
	for (int64_t i = 0; i < n; i += (int64_t)WHIT_GRID_BATCH * g->weights) {
		int some = (int)WHIT_MIN(WHIT_GRID_BATCH, (n - i) / g->weights);
		const float *p = imp ? imp + i : NULL;
#if WHIT_SIMD
		if (whit_cpu_level() >= 2)
			whit_grid_search_avx512(g, w + i, p, some, &found);
		else if (whit_cpu_level() == 1)
			whit_grid_search_avx2(g, w + i, p, some, &found);
		else
#endif
			whit_grid_search_plain(g, w + i, p, some, &found);
		for (int k = 0; k < some; k += groups, out += g->bytes)
			g->pack(out, found.d[k], found.more + k, found.code + k * g->weights);
		bad += found.bad;
		*zero_blocks += found.zero;
	}
	return bad;
}
