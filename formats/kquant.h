/* kquant: chooses scales, minima and codes of the K formats' blocks of 256 weights:
 *
 *   w = d * scale[g] * code - m * min[g]     g: groups of 16 or 32, scale and min small integers, d and m F16
 *
 * All of them together, for least squared error: each group's best step and minimum alone; d and m from the longest
 * step and the largest minimum; for these, each group's integers by trial among many near; d and m refitted to all
 * integers and codes, integers chosen again, and again. Last, d and m are lengthened a little: the nearest codes
 * shorten a block along itself, by its relative error, and that part of the error adds up over a model where the rest
 * averages out. What ggml's encoders do about it, weighing large weights more, costs more error for less.
 *
 * Bytes are the same at every vector level. Packing is the formats'. */
#ifndef WHIT_KQUANT_H
#define WHIT_KQUANT_H
#include "formats/blocks.h"

/* A block as chosen; code i belongs to weight i and is stored less code_lo: from 0 on. */
typedef struct whit_kblock {
	uint16_t d, m; /* F16 bits */
	int8_t scale[16];
	uint8_t min[16];
	uint8_t code[256];
} whit_kblock;

typedef struct whit_kshape {
	int groups;             /* of a block: 16 or 8 */
	int code_lo, code_hi;   /* codes as they multiply, -4 .. 3 or 0 .. 15 */
	int scale_lo, scale_hi; /* so scales */
	int min_hi;             /* minima are 0 .. min_hi; 0 = the format has none, its scales have signs */
	/* The search: a group's range (or largest magnitude) is from .. to steps in `tries` tries, each refitted
	 * `refits` times; integers up to reach and min_reach from the real ones are tried. */
	int tries, refits;
	float from, to;
	int reach, min_reach;
	int bytes;                                        /* of a block */
	void (*pack)(uint8_t *out, const whit_kblock *b); /* into zeroed bytes */
} whit_kshape;

/* blocks.h's encode. */
int whit_kquant_encode(const whit_kshape *k, uint8_t *out, const float *w, const float *imp, int64_t n,
                       int64_t *zero_blocks);

/* A block format's shape, whose pack is packs.h's, and its encode. */
#define WHIT_KQUANT(id, ...)                                                                                           \
	static const whit_kshape shape = {.pack = whit_pack_##id, __VA_ARGS__};                                        \
	static int encode(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks) {           \
		return whit_kquant_encode(&shape, out, w, imp, n, zero_blocks);                                        \
	}
#endif
