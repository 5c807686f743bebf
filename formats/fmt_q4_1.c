/* q4_1: 32 weights in 20 bytes, w = d * code + m.
 *
 *   [d F16][m F16][16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	scale[0] = whit_block_f16(b, 0);
	shift[0] = whit_block_f16(b, 2);
	for (int i = 0; i < 32; i++) u[i] = whit_nibble(b + 4, i, 16);
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_1, .group = 32, .shifts = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 32, b, out); }

WHIT_GRID(q4_1, .kind = WHIT_GRID_MIN, .weights = 32, .bytes = 20, .hi = 15, .from = .5f, .to = -1, .by = -.3f)

WHIT_BLOCK_FORMAT(q4_1, "5 bits: 32 codes of 4 bits, F16 scale and minimum", .weights = 32, .bytes = 20,
                  .fallback = NULL, .decode = decode, .encode = encode, .grid = &grid);
