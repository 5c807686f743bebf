/* q4_0: 32 weights in 18 bytes, w = d * (code - 8).
 *
 *   [d F16][byte j, 16 of them: code j in the low nibble, code j + 16 in the high one] */
#include "formats/blocks.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	for (int i = 0; i < 32; i++) out[i] = (float)(whit_nibble(b + 2, i, 16) - 8) * d;
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	for (int i = 0; i < 16; i++) b[2 + i] = (uint8_t)(code[i] | code[i + 16] << 4);
}

static const float trial[] = {5.5, 5.75, 6, 6.25, 6.5, 6.75, 7, 7.25, 7.5, 7.75, 8, 8.25, 8.5, 8.75, 9};
static const whit_grid grid = {.kind = WHIT_GRID_STEP,
                               .weights = 32,
                               .bytes = 18,
                               .lo = -8,
                               .hi = 7,
                               .trial = trial,
                               .trials = WHIT_COUNT(trial),
                               .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(q4_0, "4.5 bits: 32 codes of 4 bits, one F16 scale", .weights = 32, .bytes = 18, .fallback = NULL,
                  .decode = decode, .encode = encode);
