/* q2_0: 64 weights in 18 bytes, w = d * (code - 1).
 *
 *   [d F16][byte j, 16 of them: codes 4j .. 4j + 3, lowest bits first] */
#include "formats/blocks.h"
#include "formats/codes.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 0);
	for (int i = 0; i < 64; i++) out[i] = (float)((b[2 + i / 4] >> 2 * (i % 4) & 3) - 1) * d;
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	whit_codes_pack(b + 2, code, 64, 2);
}

static const float trial[] = {1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 3.75, 4, 4.25, 4.5};
static const whit_grid grid = {.kind = WHIT_GRID_STEP,
                               .weights = 64,
                               .bytes = 18,
                               .lo = -1,
                               .hi = 2,
                               .trial = trial,
                               .trials = WHIT_COUNT(trial),
                               .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(q2_0, "2.25 bits: 64 codes of 2 bits, -1 to 2, one F16 scale", .weights = 64, .bytes = 18,
                  .fallback = "q4_0", .decode = decode, .encode = encode);
