/* q1_0: 128 weights in 18 bytes, w = bit ? d : -d.
 *
 *   [d F16][bit i % 8 of byte i / 8] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	float d = whit_block_f16(b, 0);
	(void)shift;
	for (int g = 0; g < 4; g++) scale[g] = d;
	for (int i = 0; i < 128; i++) u[i] = (uint8_t)(b[2 + i / 8] >> i % 8 & 1) * 2;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 128, b, out); }

WHIT_GRID(q1_0, .kind = WHIT_GRID_SIGN, .weights = 128, .bytes = 18)

WHIT_BLOCK_FORMAT(q1_0, "1.125 bits: 128 signs, one F16 scale", .weights = 128, .bytes = 18, .fallback = NULL,
                  .decode = decode, .encode = encode, .grid = &grid);
