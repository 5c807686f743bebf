/* ints_fast: the pieces of whit_ints_plan that each CPU level has: plain (ints.c), avx2, avx512, vnni. */
#ifndef WHIT_INTS_FAST_H
#define WHIT_INTS_FAST_H
#include "formats/blocks.h"
#include "formats/simd.h"

/* Rounded x of one panel. One token: code[width] and, for each four of them, init (-zero times their sum) and lane
 * (their d), in the level's order; d[groups], s[groups], both zero up to the next 16. Several, P: code[width /
 * 4][P][4], init, d and s [groups][P]. */
typedef struct whit_ints_x {
	int8_t *code;
	int32_t *init;
	float *d, *s, *lane;
} whit_ints_x;

/* Unpacked rows: u[width / 4][lanes][4] for each `lanes` rows, then scale and shift [groups][lanes] likewise. */
typedef struct whit_ints_tile {
	uint8_t *u;
	float *scale, *shift;
	int64_t u_size, floats; /* bytes of u, and floats of scale, that `lanes` rows take */
	int64_t groups;         /* of a row */
} whit_ints_tile;

struct whit_ints_set {
	int lanes, rows, tokens; /* rows of a register, of a gemm, tokens of a gemm */
	/* code, quad and d of whit_ints_round; base[n / 32]: d before F16 */
	void (*round)(int act, const float *x, int64_t n, int8_t *code, int32_t *quad, float *d, float *base);
	/* The order for one token: step i of each 256 codes in four-byte steps is step order[i]; 1 where what is in
	 * lanes i and i + 16 of each 32 steps ends in the first: its init is the sum of both. */
	int (*order)(const whit_format *f, uint8_t order[64]);
	/* y[r] for r in [r0, r1); work: float[2 * (groups + 16)], then u[width] */
	void (*gemv)(const whit_mat *m, int64_t r0, int64_t r1, const whit_ints_x *x, float *y, void *work);
	/* `lanes` rows from r0 on (those beyond m's last repeat it) to a tile at t; work as for gemv, `lanes` times */
	void (*pack)(const whit_mat *m, int64_t r0, const whit_ints_tile *t, void *work);
	/* y[t * ldy + r] for `rows` rows of t of which n are stored, and of `tokens` tokens the first T */
	void (*gemm)(const whit_ints *f, const whit_ints_tile *t, const whit_ints_x *x, int64_t n, int64_t T, float *y,
	             int64_t ldy);
};
extern const whit_ints_set whit_ints_avx2, whit_ints_avx512, whit_ints_vnni;

/* Scale of a group whose signed value of largest magnitude is top, and its inverse, 0 where all codes are 0: top is 0,
 * too small, or NaN. */
float whit_ints_scale(int act, float top, float *inverse);
/* One row to bytes and floats by the format's own unpack. */
void whit_ints_unpack_row(const whit_mat *m, int64_t r, uint8_t *u, float *scale, float *shift);
#endif
