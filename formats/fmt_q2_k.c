/* q2_k: 256 weights in 84 bytes, sixteen groups s of 16: w = d * scale[s] * code - m * min[s].
 *
 *   [16 bytes: scale low, min high nibble][64 bytes of 2-bit codes as in tq2_0][d F16][m F16] */
#include "formats/kquant.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	float d = whit_block_f16(b, 80), m = whit_block_f16(b, 82);
	for (int g = 0; g < 16; g++) {
		scale[g] = d * (float)(b[g] & 15);
		shift[g] = -(m * (float)(b[g] >> 4));
	}
	for (int i = 0; i < 256; i++) u[i] = b[16 + i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 16, .shifts = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_KQUANT(q2_k, .groups = 16, .code_hi = 3, .scale_hi = 15, .min_hi = 15, .tries = 8, .refits = 3, .from = 2, .to = 4,
            .reach = 2, .min_reach = 2, .bytes = 84)

WHIT_BLOCK_FORMAT(q2_k, "2.625 bits: groups of 16 with 4-bit scales and minima", .weights = 256, .bytes = 84,
                  .fallback = "q4_0", .decode = decode, .encode = encode, .shape = &shape);
