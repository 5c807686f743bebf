/* tq2_0: 256 ternary weights in 66 bytes, w = d * (code - 1).
 *
 *   [64 bytes: byte 32 h + r holds weights 128 h + r + 32 t, t = 0 .. 3, lowest bits first][d F16] */
#include "formats/blocks.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	float d = whit_block_f16(b, 64);
	for (int i = 0; i < 256; i++) out[i] = (float)((b[i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3) - 1) * d;
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	for (int i = 0; i < 64; i++) {
		const uint8_t *c = code + i / 32 * 128 + i % 32;
		b[i] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
	}
	memcpy(b + 64, &d, 2);
}

static const float trial[] = {1,    1.25, 1.5,  1.75, 2,    2.25, 2.5,  2.75, 3,    3.25, 3.5,
                              3.75, 4,    4.25, 4.5,  4.75, 5,    5.25, 5.5,  5.75, 6};
static const whit_grid grid = {.kind = WHIT_GRID_STEP,
                               .weights = 256,
                               .bytes = 66,
                               .lo = -1,
                               .hi = 1,
                               .trial = trial,
                               .trials = WHIT_COUNT(trial),
                               .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(tq2_0, "2.0625 bits: 256 ternary codes of 2 bits, one F16 scale", .weights = 256, .bytes = 66,
                  .fallback = "q4_0", .decode = decode, .encode = encode);
