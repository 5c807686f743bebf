/* q3_k: 256 weights in 110 bytes, sixteen groups s of 16: w = d * (scale[s] - 32) * (code - 4).
 *
 *   [32 bytes: bit g of byte r is bit 2 of code 32 g + r][64 bytes of low 2 bits as in tq2_0]
 *   [12 bytes of scales: byte s % 8 has low nibbles (s < 8: low half), byte 8 + s % 4 bits 4, 5 at 2 (s / 4)][d F16] */
#include "formats/kquant.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	float d = whit_block_f16(b, 108);
	(void)shift;
	for (int s = 0; s < 16; s++)
		scale[s] =
		        d *
		        (float)(((b[96 + s % 8] >> 4 * (s / 8) & 15) | (b[104 + s % 4] >> 2 * (s / 4) & 3) << 4) - 32);
	for (int i = 0; i < 256; i++) {
		int g = i / 32, r = i % 32;
		u[i] = (b[32 + i / 128 * 32 + r] >> 2 * (g % 4) & 3) | (b[r] >> g & 1) << 2;
	}
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 16, .zero = 4, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_KQUANT(q3_k, .groups = 16, .code_lo = -4, .code_hi = 3, .scale_lo = -32, .scale_hi = 31, .tries = 4, .refits = 1,
            .from = 3, .to = 5, .reach = 1, .bytes = 110)

WHIT_BLOCK_FORMAT(q3_k, "3.4375 bits: groups of 16 with 6-bit scales", .weights = 256, .bytes = 110, .fallback = "q4_0",
                  .decode = decode, .encode = encode, .shape = &shape);
