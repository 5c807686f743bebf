/* q4_0: 32 weights in 18 bytes, w = d * (code - 8).
 *
 *   [d F16][byte j, 16 of them: code j in the low nibble, code j + 16 in the high one] */
#include "formats/blocks.h"
#include "formats/grid.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	(void)shift;
	scale[0] = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) u[i] = whit_nibble(b + 2, i, 16);
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 8, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 32, b, out); }

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	for (int i = 0; i < 16; i++) b[2 + i] = (uint8_t)(code[i] | code[i + 16] << 4);
}

WHIT_GRID(.kind = WHIT_GRID_STEP, .weights = 32, .bytes = 18, .lo = -8, .hi = 7, .from = 5.5f, .to = 9, .by = .25f)

WHIT_BLOCK_FORMAT(q4_0, "4.5 bits: 32 codes of 4 bits, one F16 scale", .weights = 32, .bytes = 18, .fallback = NULL,
                  .decode = decode, .encode = encode);
