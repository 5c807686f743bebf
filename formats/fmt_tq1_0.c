/* tq1_0: 256 ternary weights in 54 bytes, w = d * (trit - 1); a byte holds ceil(256 v / 243), v the number
 * that five trits (the last four bytes: four) spell, the first the most significant.
 *
 *   [32 bytes: weights r + 32 t][16 bytes: 160 + r + 16 t][4 bytes: 240 + r + 4 t][d F16] */
#include "formats/blocks.h"
#include "formats/grid.h"

static void decode(const uint8_t *b, float out[]) {
	static const uint8_t power[5] = {1, 3, 9, 27, 81};
	float d = whit_block_f16(b, 52);
	for (int i = 0; i < 256; i++) {
		int c, t;
		if (i < 160)
			c = i % 32, t = i / 32;
		else if (i < 240)
			c = 32 + i % 16, t = (i - 160) / 16;
		else
			c = 48 + i % 4, t = (i - 240) / 4;
		uint8_t q = (uint8_t)(b[c] * power[t]);
		out[i] = (float)((q * 3 >> 8) - 1) * d;
	}
}

/* n bytes of `trits` codes each, a byte's codes n apart. */
static void spell(uint8_t *b, const uint8_t *code, int n, int trits) {
	for (int i = 0; i < n; i++) {
		int v = 0;
		for (int t = 0; t < 5; t++) v = 3 * v + (t < trits ? code[i + n * t] : 0);
		b[i] = (uint8_t)((256 * v + 242) / 243);
	}
}

static void pack(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	spell(b, code, 32, 5);
	spell(b + 32, code + 160, 16, 5);
	spell(b + 48, code + 240, 4, 4);
	memcpy(b + 52, &d, 2);
}

static const float trial[] = {1,    1.25, 1.5,  1.75, 2,    2.25, 2.5,  2.75, 3,    3.25, 3.5,
                              3.75, 4,    4.25, 4.5,  4.75, 5,    5.25, 5.5,  5.75, 6};
static const whit_grid grid = {.kind = WHIT_GRID_STEP,
                               .weights = 256,
                               .bytes = 54,
                               .lo = -1,
                               .hi = 1,
                               .trial = trial,
                               .trials = WHIT_COUNT(trial),
                               .pack = pack};

static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {
	return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);
}

WHIT_BLOCK_FORMAT(tq1_0, "1.6875 bits: 256 ternary codes, five in a byte, one F16 scale", .weights = 256, .bytes = 54,
                  .fallback = "q4_0", .decode = decode, .encode = encode);
