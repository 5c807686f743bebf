/* q2_0: 64 weights in 18 bytes, w = d * (code - 1).
 *
 *   [d F16][byte j, 16 of them: codes 4j .. 4j + 3, lowest bits first] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	(void)shift;
	scale[0] = scale[1] = whit_block_f16(b, 0);
	for (int i = 0; i < 64; i++) u[i] = b[2 + i / 4] >> 2 * (i % 4) & 3;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 64, b, out); }

WHIT_GRID(q2_0, .kind = WHIT_GRID_STEP, .weights = 64, .bytes = 18, .lo = -1, .hi = 2, .from = 1, .to = 4.5f,
          .by = .25f)

WHIT_BLOCK_FORMAT(q2_0, "2.25 bits: 64 codes of 2 bits, -1 to 2, one F16 scale", .weights = 64, .bytes = 18,
                  .fallback = "q4_0", .decode = decode, .encode = encode, .grid = &grid);
