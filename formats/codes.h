/* codes: rows of small codes and the scales of their groups: what "tq" and "int" are made of.
 *
 * A code of 1..8 bits names one of 1 << bits levels; a weight is scale * level. Codes of a row lie LSB-first
 * in a stream of bits that starts on a byte (turboquant.md 6): code i is stream bits [i*bits, (i+1)*bits),
 * stream bit t is bit t % 8 of byte t / 8. Unused tail bits are 0. */
#ifndef WHIT_CODES_H
#define WHIT_CODES_H
#include "formats/format.h"

/* The coded matrix m as the kernels see it. group > 0 (row-wise: width); the last group may be short. */
typedef struct whit_codes {
	const whit_mat *m;  /* plane 0 codes, plane 1 scales */
	const float *level; /* 1 << bits */
	int bits;
	int twos; /* levels are the codes read as two's complement integers */
	int64_t group, groups;
} whit_codes;

static inline int64_t whit_codes_bytes(int64_t n, int bits) { return (n * bits + 7) / 8; }
void whit_codes_pack(uint8_t *dst, const uint8_t *code, int64_t n, int bits);
void whit_codes_unpack(uint8_t *code, const uint8_t *src, int64_t n, int bits);

/* Scale g of row r, stored as F16 or F32. */
float whit_codes_scale(const whit_codes *c, int64_t r, int64_t g);
/* s as it will be read back. *bad += 1 if it is not 0 and an F16 must hold it but would overflow or be
 * subnormal (turboquant.md 6). A value beyond FLT_MAX becomes FLT_MAX. */
float whit_scale_round(double s, int scale_f32, int *bad);
/* Stores a value that whit_scale_round returned as scale g of row r. */
void whit_scale_put(const whit_mat *m, int64_t r, int64_t g, float s);

/* whit_format's decode and gemv: plain (double sums), and the fastest this CPU has. Decoded values are the same
 * bits at every level. A fast sum runs in 8 or 16 lanes, so no value passes through more than width / 8 additions,
 * a scale product and the final reduction, each of relative error 2^-24 twice over:
 *   |y - exact| <= (width / 8 + 12) 2^-23 sum |w x|.
 * y of a token does not depend on T or on [r0, r1). The cost of a call outside its rows is about that of 5 rows,
 * so give it 64 or more. */
void whit_codes_decode_plain(const whit_codes *c, int64_t r0, int64_t r1, float *out);
void whit_codes_gemv_plain(const whit_codes *c, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy);
void whit_codes_decode(const whit_codes *c, int64_t r0, int64_t r1, float *out);
void whit_codes_gemv(const whit_codes *c, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy);
#endif
