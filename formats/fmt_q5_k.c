/* q5_k: 256 weights in 176 bytes, eight groups g of 32: w = d * scale[g] * code - m * min[g].
 *
 *   [d F16][m F16][12 bytes as in q4_k][32 bytes: bit g of byte r is bit 4 of code 32 g + r][128 bytes as in q4_k] */
#include "formats/kquant.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	whit_k_scales(b, scale, shift);
	for (int g = 0; g < 8; g++)
		for (int r = 0; r < 32; r++)
			u[32 * g + r] = (b[48 + g / 2 * 32 + r] >> 4 * (g % 2) & 15) | (b[16 + r] >> g & 1) << 4;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 32, .shifts = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_KQUANT(q5_k, .groups = 8, .code_hi = 31, .scale_hi = 63, .min_hi = 63, .tries = 8, .refits = 1, .from = 28,
            .to = 32, .reach = 5, .min_reach = 4, .bytes = 176)

WHIT_BLOCK_FORMAT(q5_k, "5.5 bits: groups of 32 with 6-bit scales and minima", .weights = 256, .bytes = 176,
                  .fallback = "q5_1", .decode = decode, .encode = encode, .shape = &shape);
