/* q6_k: 256 weights in 210 bytes, sixteen groups s of 16: w = d * scale[s] * (code - 32).
 *
 *   halves n of 128, quarters j of 32:  low nibble of code 128 n + 32 j + r: half j / 2 of byte 64 n + 32 (j % 2) + r
 *   [128 bytes of those][64 bytes: bits 4, 5 at 2j of byte 32 n + r][16 signed scales][d F16] */
#include "formats/kquant.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	float d = whit_block_f16(b, 208);
	(void)shift;
	for (int s = 0; s < 16; s++) scale[s] = d * (float)(int8_t)b[192 + s];
	for (int i = 0; i < 256; i++) {
		int n = i / 128, j = i / 32 % 4, r = i % 32;
		u[i] = (b[64 * n + 32 * (j % 2) + r] >> 4 * (j / 2) & 15) | (b[128 + 32 * n + r] >> 2 * j & 3) << 4;
	}
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 16, .zero = 32, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_KQUANT(q6_k, .groups = 16, .code_lo = -32, .code_hi = 31, .scale_lo = -128, .scale_hi = 127, .tries = 8,
            .refits = 1, .from = 26, .to = 33, .reach = 5, .bytes = 210)

WHIT_BLOCK_FORMAT(q6_k, "6.5625 bits: groups of 16 with 8-bit scales", .weights = 256, .bytes = 210, .fallback = "q8_0",
                  .decode = decode, .encode = encode, .shape = &shape);
