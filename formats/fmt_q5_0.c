/* q5_0: 32 weights in 22 bytes, w = d * (code - 16).
 *
 *   [d F16][u32: bit i is bit 4 of code i][16 bytes of nibbles as in q4_0] */
#include "formats/blocks.h"
#include "formats/codes.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	uint32_t high = whit_load_u32(b + 2);
	for (int i = 0; i < 32; i++) out[i] = (float)((whit_nibble(b + 6, i, 16) | (int)(high >> i & 1) << 4) - 16) * d;
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	uint8_t high[32];
	memcpy(b, &d, 2);
	for (int i = 0; i < 32; i++) high[i] = code[i] >> 4;
	whit_codes_pack(b + 2, high, 32, 1);
	for (int i = 0; i < 16; i++) b[6 + i] = (uint8_t)((code[i] & 15) | code[i + 16] << 4);
}

static const float trial[] = {12,    12.25, 12.5,  12.75, 13,    13.25, 13.5,  13.75, 14,    14.25, 14.5,
                              14.75, 15,    15.25, 15.5,  15.75, 16,    16.25, 16.5,  16.75, 17};
static const whit_grid grid = {.kind = WHIT_GRID_STEP,
                               .weights = 32,
                               .bytes = 22,
                               .lo = -16,
                               .hi = 15,
                               .trial = trial,
                               .trials = WHIT_COUNT(trial),
                               .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(q5_0, "5.5 bits: 32 codes of 5 bits, one F16 scale", .weights = 32, .bytes = 22, .fallback = NULL,
                  .decode = decode, .encode = encode);
