/* q1_0: 128 weights in 18 bytes, w = bit ? d : -d.
 *
 *   [d F16][bit i % 8 of byte i / 8] */
#include "formats/blocks.h"
#include "formats/codes.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	for (int i = 0; i < 128; i++) out[i] = b[2 + i / 8] >> i % 8 & 1 ? d : -d;
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	whit_codes_pack(b + 2, code, 128, 1);
}

static const whit_grid grid = {.kind = WHIT_GRID_SIGN, .weights = 128, .bytes = 18, .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(q1_0, "1.125 bits: 128 signs, one F16 scale", .weights = 128, .bytes = 18, .fallback = NULL,
                  .decode = decode, .encode = encode);
