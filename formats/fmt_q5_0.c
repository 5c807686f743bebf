/* q5_0: 32 weights in 22 bytes, w = d * (code - 16).
 *
 *   [d F16][u32: bit i is bit 4 of code i][16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	uint32_t high = whit_load_u32(b + 2);
	(void)shift;
	scale[0] = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) u[i] = whit_nibble(b + 6, i, 16) | (high >> i & 1) << 4;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 16, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 32, b, out); }

WHIT_GRID(q5_0, .kind = WHIT_GRID_STEP, .weights = 32, .bytes = 22, .lo = -16, .hi = 15, .from = 12, .to = 17,
          .by = .25f)

WHIT_BLOCK_FORMAT(q5_0, "5.5 bits: 32 codes of 5 bits, one F16 scale", .weights = 32, .bytes = 22, .fallback = NULL,
                  .decode = decode, .encode = encode, .grid = &grid);
