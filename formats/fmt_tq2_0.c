/* tq2_0: 256 ternary weights in 66 bytes, w = d * (code - 1).
 *
 *   [64 bytes: byte 32 h + r holds weights 128 h + r + 32 t, t = 0 .. 3, lowest bits first][d F16] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	float d = whit_block_f16(b, 64);
	(void)shift;
	for (int g = 0; g < 8; g++) scale[g] = d;
	for (int h = 0; h < 2; h++)
		for (int t = 0; t < 4; t++)
			for (int r = 0; r < 32; r++) *u++ = b[32 * h + r] >> 2 * t & 3;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 32, .zero = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_GRID(tq2_0, .kind = WHIT_GRID_STEP, .weights = 256, .bytes = 66, .lo = -1, .hi = 1, .from = 1, .to = 8, .by = .35f)

WHIT_BLOCK_FORMAT(tq2_0, "2.0625 bits: 256 ternary codes of 2 bits, one F16 scale", .weights = 256, .bytes = 66,
                  .fallback = "q4_0", .decode = decode, .encode = encode, .grid = &grid);
