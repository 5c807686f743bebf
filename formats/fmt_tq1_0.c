/* tq1_0: 256 ternary weights in 54 bytes, w = d * (trit - 1); a byte holds ceil(256 v / 243), v the number
 * that five trits (the last four bytes: four) spell, the first the most significant.
 *
 *   [32 bytes: weights r + 32 t][16 bytes: 160 + r + 16 t][4 bytes: 240 + r + 4 t][d F16] */
#include "formats/blocks.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	static const uint8_t power[5] = {1, 3, 9, 27, 81};
	float d = whit_block_f16(b, 52);
	(void)shift;
	for (int g = 0; g < 8; g++) scale[g] = d;
	for (int i = 0; i < 256; i++) {
		int c, t;
		if (i < 160)
			c = i % 32, t = i / 32;
		else if (i < 240)
			c = 32 + i % 16, t = (i - 160) / 16;
		else
			c = 48 + i % 4, t = (i - 240) / 4;
		uint8_t q = (uint8_t)(b[c] * power[t]);
		u[i] = (uint8_t)(q * 3 >> 8);
	}
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 32, .zero = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_BLOCK_FORMAT(tq1_0, "1.6875 bits: 256 ternary codes, five in a byte, one F16 scale", .weights = 256, .bytes = 54,
                  .fallback = "q4_0", .decode = decode);
