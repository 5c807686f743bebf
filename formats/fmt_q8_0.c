/* q8_0: 32 weights in 34 bytes, w = d * code.
 *
 *   [d F16][32 signed bytes] */
#include "formats/blocks.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) out[i] = (float)(int8_t)b[2 + i] * d;
}

WHIT_BLOCK_FORMAT(q8_0, "8.5 bits: 32 codes of 8 bits, one F16 scale", .weights = 32, .bytes = 34, .fallback = NULL,
                  .decode = decode);
