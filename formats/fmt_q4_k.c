/* q4_k: 256 weights in 144 bytes, eight groups g of 32: w = d * scale[g] * code - m * min[g].
 *
 *   [d F16][m F16][12 bytes: 6-bit scales and mins][4 x 32 bytes: codes 64 h + r low, 64 h + 32 + r high nibble] */
#include "formats/kquant.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	whit_k_scales(b, scale, shift);
	for (int g = 0; g < 8; g++)
		for (int r = 0; r < 32; r++) u[32 * g + r] = b[16 + g / 2 * 32 + r] >> 4 * (g % 2) & 15;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 32, .shifts = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_KQUANT(q4_k, .groups = 8, .code_hi = 15, .scale_hi = 63, .min_hi = 63, .tries = 12, .refits = 2, .from = 13,
            .to = 16, .reach = 4, .min_reach = 2, .bytes = 144)

WHIT_BLOCK_FORMAT(q4_k, "4.5 bits: groups of 32 with 6-bit scales and minima", .weights = 256, .bytes = 144,
                  .fallback = "q5_0", .decode = decode, .encode = encode, .shape = &shape);
