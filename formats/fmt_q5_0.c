/* q5_0: 32 weights in 22 bytes, w = d * (code - 16).
 *
 *   [d F16][u32: bit i is bit 4 of code i][16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"
#include "formats/codes.h"
#include "formats/grid.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	uint32_t high = whit_load_u32(b + 2);
	(void)shift;
	scale[0] = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) u[i] = whit_nibble(b + 6, i, 16) | (high >> i & 1) << 4;
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 16, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 32, b, out); }

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	uint8_t high[32];
	memcpy(b, &d, 2);
	for (int i = 0; i < 32; i++) high[i] = code[i] >> 4;
	whit_codes_pack(b + 2, high, 32, 1);
	for (int i = 0; i < 16; i++) b[6 + i] = (uint8_t)((code[i] & 15) | code[i + 16] << 4);
}

WHIT_GRID(.kind = WHIT_GRID_STEP, .weights = 32, .bytes = 22, .lo = -16, .hi = 15, .from = 12, .to = 17, .by = .25f)

WHIT_BLOCK_FORMAT(q5_0, "5.5 bits: 32 codes of 5 bits, one F16 scale", .weights = 32, .bytes = 22, .fallback = NULL,
                  .decode = decode, .encode = encode);
