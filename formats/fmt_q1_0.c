/* q1_0: 128 weights in 18 bytes, w = bit ? d : -d.
 *
 *   [d F16][bit i % 8 of byte i / 8] */
#include "formats/blocks.h"
#include "formats/codes.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	uint32_t d, minus = 0x80000000u;
	float scale = whit_block_f16(b, 0);
	memcpy(&d, &scale, 4);
	for (int i = 0; i < 16; i++)
		for (int k = 0; k < 8; k++) {
			uint32_t v = d ^ (~(uint32_t)b[2 + i] << (31 - k) & minus);
			memcpy(out + 8 * i + k, &v, 4);
		}
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	whit_codes_pack(b + 2, code, 128, 1);
}

WHIT_GRID(.kind = WHIT_GRID_SIGN, .weights = 128, .bytes = 18)

WHIT_BLOCK_FORMAT(q1_0, "1.125 bits: 128 signs, one F16 scale", .weights = 128, .bytes = 18, .fallback = NULL,
                  .decode = decode, .encode = encode);
