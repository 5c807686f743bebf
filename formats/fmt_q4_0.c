/* q4_0: 32 weights in 18 bytes, w = d * (code - 8).
 *
 *   [d F16][byte j, 16 of them: code j in the low nibble, code j + 16 in the high one] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	(void)shift;
	scale[0] = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) u[i] = whit_nibble(b + 2, i, 16);
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 8, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 32, b, out); }

WHIT_GRID(q4_0, .kind = WHIT_GRID_STEP, .weights = 32, .bytes = 18, .lo = -8, .hi = 7, .from = 5.5f, .to = 9,
          .by = .25f)

WHIT_BLOCK_FORMAT(q4_0, "4.5 bits: 32 codes of 4 bits, one F16 scale", .weights = 32, .bytes = 18, .fallback = NULL,
                  .decode = decode, .encode = encode, .grid = &grid);
