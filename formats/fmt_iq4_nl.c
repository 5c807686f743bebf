/* iq4_nl: 32 weights in 18 bytes, w = d * level[code], 16 uneven levels.
 *
 *   [d F16][16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	(void)shift;
	scale[0] = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) u[i] = whit_iq4_levels[whit_nibble(b + 2, i, 16)] + 128;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 128, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 32, b, out); }

WHIT_GRID(iq4_nl, .kind = WHIT_GRID_LEVELS, .weights = 32, .bytes = 18, .hi = 15, .from = 85, .to = 140, .by = 6,
          .level = {WHIT_IQ4_LEVELS})

WHIT_BLOCK_FORMAT(iq4_nl, "4.5 bits: 32 codes of 4 bits into 16 uneven levels, one F16 scale", .weights = 32,
                  .bytes = 18, .fallback = NULL, .decode = decode, .encode = encode, .grid = &grid);
