/* q8_0: 32 weights in 34 bytes, w = d * code.
 *
 *   [d F16][32 signed bytes] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	(void)shift;
	scale[0] = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) u[i] = b[2 + i] ^ 128;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 128, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 32, b, out); }

WHIT_GRID(q8_0, .kind = WHIT_GRID_FINE, .weights = 32, .bytes = 34, .lo = -127, .hi = 127, .from = 127.5f, .to = 115,
          .by = -.5f)

WHIT_BLOCK_FORMAT(q8_0, "8.5 bits: 32 codes of 8 bits, one F16 scale", .weights = 32, .bytes = 34, .fallback = NULL,
                  .decode = decode, .encode = encode, .grid = &grid);
