/* grid: the search for scales and codes of blocks of 32 to 256 weights that share a scale. What a format's levels
 * are, which scales are tried and how a block is packed is a whit_grid; the search is here, once.
 *
 * All kinds choose codes for the scale as it is stored, rounded to F16, and keep the best of what they tried. The
 * result is the same at every CPU level: 16 blocks lie in 16 lanes, and a lane's sums never meet another's. */
#ifndef WHIT_GRID_H
#define WHIT_GRID_H
#include "host/base.h"

enum {
	WHIT_GRID_STEP,   /* w = d q, q = lo .. hi: steps max |w| / trial and, where lo != -hi, their negatives; a
	                     least-squares step from each, the best of them rounded and refined */
	WHIT_GRID_FINE,   /* w = d q, -lo = hi large: d = F16(max |w| / trial), nothing refined */
	WHIT_GRID_MIN,    /* w = d q + m, q = 0 .. hi: the range cut by one trial's steps at its lower end and another's
	                     at its upper one, for all pairs; d and m by least squares */
	WHIT_GRID_LEVELS, /* w = d level[code], 16 ascending levels: level trial and -trial at max |w|, else as STEP */
	WHIT_GRID_POWER,  /* the same, d = 2^(e - 128), e = 0 .. 254: each e near that of max |w|; no trials */
	WHIT_GRID_SIGN,   /* w = d or -d: d = sum imp |w| / sum imp; no trials */
	WHIT_GRID_SUPER,  /* eight groups g, w = d (scale[g] - 32) level[code]: groups as LEVELS, then d and scales */
};

typedef struct whit_grid {
	int kind, weights;  /* weights of one group */
	int bytes;          /* of one block: eight groups for SUPER, else one */
	int lo, hi;         /* stored codes are q - lo */
	float from, to, by; /* trials; with importance, which may lie off the largest weights, others too */
	int8_t level[16];
	/* Lays out one block. d: F16, or POWER's exponent e. more: MIN's m as F16; SUPER's eight scales, 0 .. 63.
	 * code: one byte for each weight. */
	void (*pack)(uint8_t *block, uint16_t d, const uint16_t *more, const uint8_t *code);
} whit_grid;

enum { WHIT_GRID_LONGEST = 256 };
/* Groups that are searched at once, and codes of theirs; the device has other numbers. */
#ifndef WHIT_GRID_BATCH
#define WHIT_GRID_BATCH 16
#define WHIT_GRID_CODES (WHIT_GRID_BATCH * WHIT_GRID_LONGEST)
#endif
typedef struct whit_grid_found { /* of up to WHIT_GRID_BATCH groups */
	uint16_t d[WHIT_GRID_BATCH], more[WHIT_GRID_BATCH];
	uint8_t code[WHIT_GRID_CODES];
	int bad, zero; /* scales beyond F16, blocks of zeros */
} whit_grid_found;

/* One row, as whit_block.encode (blocks.h) says. A row without any importance is unweighted; importance below 2^-24
 * of a group's largest counts as that much, so a group without any is as if unweighted too, and what has none is
 * still near. */
int whit_grid_encode(const whit_grid *g, uint8_t *out, const float *w, const float *imp, int64_t n,
                     int64_t *zero_blocks);

/* A block format's grid, whose pack is packs.h's, and its encode. */
#define WHIT_GRID(id, ...)                                                                                             \
	static const whit_grid grid = {.pack = whit_pack_##id, __VA_ARGS__};                                           \
	static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {           \
		return whit_grid_encode(&grid, out, w, imp, n, zero_blocks);                                           \
	}
#endif
