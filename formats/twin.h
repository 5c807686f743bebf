/* twin: block formats of ggml's whose weights are a level times one F16, and so are also codes and scales in planes of
 * their own, value for value: what kernels for such planes (cuda/gemm_packed.cu) can read.
 *
 *   q8_0 -> int8 of groups of 32      q4_0 -> int4 of 32      iq4_nl -> tq4 of 32, its levels the codebook
 *   q2_0 -> int2 of 64, tq2_0 -> int2 of 256: codes are turned round, and so is the scale's sign, since two's
 * complement reaches down to -2 and they reach up to 2; q1_0 -> tq1 of 128, the codebook -1 and 1
 *
 *   q6_k -> q6_k_split, a format of twins alone: 208 bytes of a block as they are, and the F16 behind them in a plane
 * of its own, since no load of 16 bytes fits rows of blocks of 210 */
#ifndef WHIT_TWIN_H
#define WHIT_TWIN_H
#include "formats/format.h"

#define WHIT_TWIN_Q6_K "q6_k_split"
/* 1: m's format has a twin: *t is m in it, but for its planes, which are NULL; row_bytes and codebook (static) are set.
 * 0: it has none. */
int whit_twin_of(const whit_mat *m, whit_mat *t);
/* Rows [r0, r1), as they are stored, of m in t's format, whose codebook is not read: codes (r1 - r0, t->row_bytes[0]),
 * scales (r1 - r0, t->row_bytes[1]). Rows in parallel. */
void whit_twin_rows(const whit_mat *t, const whit_mat *m, int64_t r0, int64_t r1, uint8_t *codes, uint8_t *scales);
#endif
