/* blocks: formats whose rows are whole blocks of a fixed number of weights and bytes, one plane, no padding:
 * ggml's (ggml.md 2). A format of this kind is a file fmt_NAME.c with one whit_block; what they share is here. */
#ifndef WHIT_BLOCKS_H
#define WHIT_BLOCKS_H
#include "formats/ints.h"

typedef struct whit_block {
	int weights, bytes;   /* of one block */
	const char *fallback; /* the format for rows that are no multiple of weights (ggml.md 4); NULL = none */
	/* One block to floats, bit for bit as ggml's reference. */
	void (*decode)(const uint8_t *b, float out[]);
	/* One row of n weights (a multiple of weights, finite), to out[n / weights * bytes]: the codes and scales of
	 * least squared error found, weighted by imp[n] (not negative) or, imp NULL, by 1. Returns the number of
	 * scales that are beyond F16; adds blocks without any nonzero weight to *zero_blocks. The K
	 * formats spend a little of that error on length (kquant.h). */
	int (*encode)(uint8_t *out, const float *w, const float *imp, int64_t n, int64_t *zero_blocks);
	/* What encode searches, for the device's twin: of one of these kinds, the other NULL (grid.h, kquant.h). */
	const struct whit_grid *grid;
	const struct whit_kshape *shape;
	const whit_ints *ints; /* how products with 8-bit activations read it, and decode with them */
} whit_block;

/* What the rows of such formats hold. Names are ggml's in lower case; any case is read. */
int whit_block_planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES],
                      whit_err *e);
void whit_block_print(const whit_spec *spec, char out[32]);
int whit_block_parse(const whit_format *f, const char *name, whit_spec *spec);
void whit_block_decode(const whit_mat *m, int64_t r0, int64_t r1, float *out);
int whit_block_encode(whit_mat *m, int64_t r, const float *w, const float *imp, int rule, int64_t *zero_groups);

#define WHIT_BLOCK_FORMAT(id, text, ...)                                                                               \
	extern const whit_format whit_format_##id;                                                                     \
	static int parse(const char *name, whit_spec *spec) {                                                          \
		return whit_block_parse(&whit_format_##id, name, spec);                                                \
	}                                                                                                              \
	static const whit_block block = {__VA_ARGS__, .ints = &ints};                                                  \
	const whit_format whit_format_##id = {.name = #id,                                                             \
	                                      .help = text,                                                            \
	                                      .parse = parse,                                                          \
	                                      .print = whit_block_print,                                               \
	                                      .planes = whit_block_planes,                                             \
	                                      .decode = whit_block_decode,                                             \
	                                      .encode = whit_block_encode,                                             \
	                                      .gemv = NULL,                                                            \
	                                      .block = &block}

/* Little-endian F16 at byte o of a block. */
static inline float whit_block_f16(const uint8_t *b, int o) { return whit_f16_to_f32(whit_load_u16(b + o)); }
/* Code i of the nibbles from p on: the first n in the low halves, the next n in the high ones. */
WHIT_BOTH uint8_t whit_nibble(const uint8_t *p, int i, int n) { return i < n ? p[i] & 15 : p[i - n] >> 4; }
/* Scale and minimum of group g from the 12 bytes p that q4_k and q5_k keep them in, six bits each. */
WHIT_BOTH void whit_k_scale(const uint8_t *p, int g, int *scale, int *min) {
	*scale = g < 4 ? p[g] & 63 : (p[g + 4] & 15) | p[g - 4] >> 6 << 4;
	*min = g < 4 ? p[g + 4] & 63 : p[g + 4] >> 4 | p[g] >> 6 << 4;
}
/* Of all eight groups, multiplied out: a block begins [d F16][m F16][those 12 bytes]. */
static inline void whit_k_scales(const uint8_t *b, float scale[8], float shift[8]) {
	float d = whit_block_f16(b, 0), m = whit_block_f16(b, 2);
	for (int g = 0; g < 8; g++) {
		int sc, min;
		whit_k_scale(b + 4, g, &sc, &min);
		scale[g] = d * (float)sc;
		shift[g] = -(m * (float)min);
	}
}
WHIT_BOTH void whit_k_scale_set(uint8_t *p, int g, int scale, int min) { /* p was zero */
	if (g < 4) {
		p[g] |= (uint8_t)scale;
		p[g + 4] |= (uint8_t)min;
	} else {
		p[g + 4] |= (uint8_t)((scale & 15) | (min & 15) << 4);
		p[g - 4] |= (uint8_t)(scale >> 4 << 6);
		p[g] |= (uint8_t)(min >> 4 << 6);
	}
}
/* IQ4_NL's and IQ4_XS's levels. */
#define WHIT_IQ4_LEVELS -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
extern const int8_t whit_iq4_levels[16];
#endif
