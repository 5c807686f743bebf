/* mxfp4: 32 weights in 17 bytes, w = 2^(e - 127) * F4[code]; F4 = 0 .5 1 1.5 2 3 4 6, bit 3 the sign (OCP MX).
 *
 *   [e][16 bytes of nibbles as in q4_0]          e = 255 is no number */
#include "formats/blocks.h"
#include "formats/grid.h"
#include "formats/packs.h"

static void unpack(const uint8_t *b, uint8_t *u, float *scale, float *shift) {
	static const uint8_t level[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0}; /* doubled */
	uint32_t bits = b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23;                  /* 2^(e - 128) */
	(void)shift;
	memcpy(scale, &bits, 4);
	for (int i = 0; i < 32; i++) u[i] = level[whit_nibble(b + 1, i, 16)];
}

static const whit_ints ints = {.act = WHIT_ACT_Q8_0, .group = 32, .zero = 12, .unpack = unpack};

static void decode(const uint8_t *b, float out[]) { whit_ints_decode(&ints, 32, b, out); }

WHIT_GRID(mxfp4, .kind = WHIT_GRID_POWER, .weights = 32, .bytes = 17, .hi = 15,
          .level = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 12})

WHIT_BLOCK_FORMAT(mxfp4, "4.25 bits: 32 E2M1 floats, one power of two", .weights = 32, .bytes = 17, .fallback = NULL,
                  .decode = decode, .encode = encode, .grid = &grid);
