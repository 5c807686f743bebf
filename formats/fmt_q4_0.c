/* q4_0: 32 weights in 18 bytes, w = d * (code - 8).
 *
 *   [d F16][byte j, 16 of them: code j in the low nibble, code j + 16 in the high one] */
#include "formats/blocks.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) out[i] = (float)(whit_nibble(b + 2, i, 16) - 8) * d;
}

WHIT_BLOCK_FORMAT(q4_0, "4.5 bits: 32 codes of 4 bits, one F16 scale", .weights = 32, .bytes = 18, .fallback = NULL,
                  .decode = decode);
