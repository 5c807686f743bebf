/* iq4_xs: 256 weights in 136 bytes, eight groups g of 32: w = d * (scale[g] - 32) * level[code].
 *
 *   [d F16][u16: bits 4, 5 of scale g at 2g][4 bytes: low nibbles of scales][8 x 16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	float d = whit_block_f16(b, 0);
	int high = whit_load_u16(b + 2);
	(void)shift;
	for (int g = 0; g < 8; g++) {
		scale[g] = d * (float)(((b[4 + g / 2] >> 4 * (g % 2) & 15) | (high >> 2 * g & 3) << 4) - 32);
		for (int r = 0; r < 32; r++) u[32 * g + r] = whit_iq4_levels[whit_nibble(b + 8 + 16 * g, r, 16)] + 128;
	}
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 32, .zero = 128, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_GRID(iq4_xs, .kind = WHIT_GRID_SUPER, .weights = 32, .bytes = 136, .hi = 15, .from = 85, .to = 140, .by = 6,
          .level = {WHIT_IQ4_LEVELS})

WHIT_BLOCK_FORMAT(iq4_xs, "4.25 bits: groups of 32 with 6-bit scales, 16 uneven levels", .weights = 256, .bytes = 136,
                  .fallback = "iq4_nl", .decode = decode, .encode = encode, .grid = &grid);
