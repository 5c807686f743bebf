/* mxfp4: 32 weights in 17 bytes, w = 2^(e - 127) * F4[code]; F4 = 0 .5 1 1.5 2 3 4 6, bit 3 the sign (OCP MX).
 *
 *   [e][16 bytes of nibbles as in q4_0]          e = 255 is no number */
#include "formats/blocks.h"

static void decode(const uint8_t *b, float out[]) {
	static const float level[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; /* doubled */
	uint32_t bits = b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23;              /* 2^(e - 128) */
	float d;
	memcpy(&d, &bits, 4);
	for (int i = 0; i < 32; i++) out[i] = level[whit_nibble(b + 1, i, 16)] * d;
}

WHIT_BLOCK_FORMAT(mxfp4, "4.25 bits: 32 E2M1 floats, one power of two", .weights = 32, .bytes = 17, .fallback = NULL,
                  .decode = decode);
