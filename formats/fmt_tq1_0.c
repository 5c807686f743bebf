/* tq1_0: 256 ternary weights in 54 bytes, w = d * (trit - 1); a byte holds ceil(256 v / 243), v the number
 * that five trits (the last four bytes: four) spell, the first the most significant.
 *
 *   [32 bytes: weights r + 32 t][16 bytes: 160 + r + 16 t][4 bytes: 240 + r + 4 t][d F16] */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

/* n bytes of `trits` codes each, a byte's codes n apart; v 3^t, less what is beyond 8 bits, leaves trit t on top. */
static void read_trits(const uint8_t *b, int n, int trits, uint8_t *u) {
	for (int t = 0, power = 1; t < trits; t++, power *= 3)
		for (int i = 0; i < n; i++) *u++ = (uint8_t)((b[i] * power & 255) * 3 >> 8);
}

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	float d = whit_block_f16(b, 52);
	(void)shift;
	for (int g = 0; g < 8; g++) scale[g] = d;
	read_trits(b, 32, 5, u);
	read_trits(b + 32, 16, 5, u + 160);
	read_trits(b + 48, 4, 4, u + 240);
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_K, .group = 32, .zero = 1, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 256, b, out); }

WHIT_GRID(tq1_0, .kind = WHIT_GRID_STEP, .weights = 256, .bytes = 54, .lo = -1, .hi = 1, .from = 1, .to = 8, .by = .35f)

WHIT_BLOCK_FORMAT(tq1_0, "1.6875 bits: 256 ternary codes, five in a byte, one F16 scale", .weights = 256, .bytes = 54,
                  .fallback = "q4_0", .decode = decode, .encode = encode, .grid = &grid);
