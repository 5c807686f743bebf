/* q4_1: 32 weights in 20 bytes, w = d * code + m.
 *
 *   [d F16][m F16][16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0), m = whit_block_f16(b, 2);
	for (int i = 0; i < 32; i++) out[i] = (float)whit_nibble(b + 4, i, 16) * d + m;
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	memcpy(b, &d, 2);
	memcpy(b + 2, more, 2);
	for (int i = 0; i < 16; i++) b[4 + i] = (uint8_t)(code[i] | code[i + 16] << 4);
}

static const float trial[] = {-0.5,  -0.5,  -0.5, -0.25, -0.5,  0,     -0.5, 0.25,  -0.5, 0.5, -0.25, -0.5, -0.25,
                              -0.25, -0.25, 0,    -0.25, 0.25,  -0.25, 0.5,  0,     -0.5, 0,   -0.25, 0,    0,
                              0,     0.25,  0,    0.5,   0.25,  -0.5,  0.25, -0.25, 0.25, 0,   0.25,  0.25, 0.25,
                              0.5,   0.5,   -0.5, 0.5,   -0.25, 0.5,   0,    0.5,   0.25, 0.5, 0.5};
static const whit_grid grid = {.kind = WHIT_GRID_MIN,
                               .weights = 32,
                               .bytes = 20,
                               .lo = 0,
                               .hi = 15,
                               .trial = trial,
                               .trials = WHIT_COUNT(trial) / 2,
                               .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(q4_1, "5 bits: 32 codes of 4 bits, F16 scale and minimum", .weights = 32, .bytes = 20,
                  .fallback = NULL, .decode = decode, .encode = encode);
