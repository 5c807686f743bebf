/* iq4_nl: 32 weights in 18 bytes, w = d * level[code], 16 uneven levels.
 *
 *   [d F16][16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) out[i] = d * (float)whit_iq4_levels[whit_nibble(b + 2, i, 16)];
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	for (int i = 0; i < 16; i++) b[2 + i] = (uint8_t)(code[i] | code[i + 16] << 4);
}

static const float level[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const float trial[] = {95,  98,   101,  104,  107,  110,  113,  116,  119,  122,  125,  128,  131,  134, -95,
                              -98, -101, -104, -107, -110, -113, -116, -119, -122, -125, -128, -131, -134, -137};
static const whit_grid grid = {.kind = WHIT_GRID_LEVELS,
                               .weights = 32,
                               .bytes = 18,
                               .lo = 0,
                               .hi = 15,
                               .level = level,
                               .trial = trial,
                               .trials = WHIT_COUNT(trial),
                               .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(iq4_nl, "4.5 bits: 32 codes of 4 bits into 16 uneven levels, one F16 scale", .weights = 32,
                  .bytes = 18, .fallback = NULL, .decode = decode, .encode = encode);
