/* q2_0: 64 weights in 18 bytes, w = d * (code - 1).
 *
 *   [d F16][byte j, 16 of them: codes 4j .. 4j + 3, lowest bits first] */
#include "formats/blocks.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	for (int i = 0; i < 64; i++) out[i] = (float)((b[2 + i / 4] >> 2 * (i % 4) & 3) - 1) * d;
}

WHIT_BLOCK_FORMAT(q2_0, "2.25 bits: 64 codes of 2 bits, -1 to 2, one F16 scale", .weights = 64, .bytes = 18,
                  .fallback = "q4_0", .decode = decode);
