/* q8_0: 32 weights in 34 bytes, w = d * code.
 *
 *   [d F16][32 signed bytes] */
#include "formats/blocks.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) out[i] = (float)(int8_t)b[2 + i] * d;
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)(code[i] - 127);
}

static const float trial[] = {127.5,   127.375, 127.25,  127.125, 127,     126.875, 126.75,  126.625, 126.5,
                              126.375, 126.25,  126.125, 126,     125.875, 125.75,  125.625, 125.5,   125.375,
                              125.25,  125.125, 125,     124.875, 124.75,  124.625, 124.5};
static const whit_grid grid = {.kind = WHIT_GRID_FINE,
                               .weights = 32,
                               .bytes = 34,
                               .lo = -127,
                               .hi = 127,
                               .trial = trial,
                               .trials = WHIT_COUNT(trial),
                               .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(q8_0, "8.5 bits: 32 codes of 8 bits, one F16 scale", .weights = 32, .bytes = 34, .fallback = NULL,
                  .decode = decode, .encode = encode);
