/* q5_0: 32 weights in 22 bytes, w = d * (code - 16).
 *
 *   [d F16][u32: bit i is bit 4 of code i][16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	uint32_t high = whit_load_u32(b + 2);
	for (int i = 0; i < 32; i++) out[i] = (float)((whit_nibble(b + 6, i, 16) | (int)(high >> i & 1) << 4) - 16) * d;
}

WHIT_BLOCK_FORMAT(q5_0, "5.5 bits: 32 codes of 5 bits, one F16 scale", .weights = 32, .bytes = 22, .fallback = NULL,
                  .decode = decode);
