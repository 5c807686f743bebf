/* ints: products of block formats with activations rounded to 8 bits, as ggml computes them (ggml.md 2, "Kernels
 * here"). Every block format is read as unsigned bytes u with a scale and perhaps a shift for each group:
 *
 *   w[i] = scale[g] * (u[i] - zero) + shift[g]        g = i / group
 *   x[i] ~ d[k] * a[i], a in -127 .. 127              k = i / 32 or i / 256
 *   y    = sum_g scale[g] * d[k] * sum_i (u[i] - zero) * a[i]  +  shift[g] * s[g],   s[g] = d[k] * sum_i a[i]
 *
 * Sums inside a group are exact integers, so that CPU levels differ only in how groups are added up. The rounding was
 * measured against ggml's x86 build (tests/golden/ggml_dots.c): ties go to even codes; 127 / max and max / 127 are
 * each rounded once; Q8_K's scale has the sign that makes the first value of largest magnitude -127. A scale that
 * overflows F16 is Inf and reaches y: whoever checks y finds it. One NaN or Inf makes its group's d NaN. */
#ifndef WHIT_INTS_H
#define WHIT_INTS_H
#include "formats/format.h"

/* What activations become: groups of 32 with an F16 scale; the same with s rounded to F16; 256 with an F32 scale. */
enum { WHIT_ACT_Q8_0, WHIT_ACT_Q8_1, WHIT_ACT_Q8_K };

typedef struct whit_ints {
	int act;   /* WHIT_ACT_* */
	int group; /* 16 or 32 weights that share scale and shift */
	int zero;  /* 0 where there are shifts; u > 127 only where it is 128 */
	int shifts;
	/* One block to u[weights], scale[weights / group] and, with shifts, shift[weights / group]. */
	void (*unpack)(const uint8_t *b, uint8_t *u, float *scale, float *shift);
} whit_ints;

/* w of one block of n weights: the same bits as ggml's reference, which rounds as the formula above does. */
void whit_ints_decode(const whit_ints *f, int n, const uint8_t *b, float *out);

/* One row of x, n a multiple of 32 (Q8_K: 256), rounded: code[n], quad[n / 4] the sums of four codes each, d[n / 32]
 * as codes are multiplied by, and s[n / group]. Same bits at every CPU level. */
void whit_ints_round(const whit_ints *f, const float *x, int64_t n, int8_t *code, int32_t *quad, float *d, float *s);

/* The plain product, sums in double: y[t * m->rows + r] for all rows, in the order they are stored in; x (T, width) in
 * their frame. */
void whit_ints_linear_plain(float *y, const float *x, int64_t T, const whit_mat *m);

/* The fast product in pieces that threads share:
 *   whit_ints_plan     what sizes; give it memory of p.x_bytes for all, p.work_bytes for each worker
 *   whit_ints_prepare  tokens of panel i < p.panels; all before any
 *   whit_ints_item     rows of item i < p.items of all tokens into y as above
 * Every value of a fast sum passes through at most width / group additions and a few roundings more, each of relative
 * error 2^-24:  |y - plain| <= (width / group + 16) 2^-23 sum_g |scale d sum (u - zero) a| + |shift s|.
 * A result does not depend on other rows or tokens; whether T is 1 changes its order of addition. */
typedef struct whit_ints_set whit_ints_set;
typedef struct whit_ints_plan {
	const whit_mat *m;
	int64_t T, rows, tokens; /* rows of an item, tokens of a panel */
	int64_t panels, items;
	size_t x_bytes, work_bytes;
	uint8_t *x; /* x_bytes, aligned to 64, set by the caller */
	const whit_ints_set *set;
	int64_t groups; /* of a row */
	int64_t d_at, s_at, lane_at, panel_bytes, u_size;
} whit_ints_plan;
void whit_ints_plan_make(whit_ints_plan *p, const whit_mat *m, int64_t T);
void whit_ints_prepare(const whit_ints_plan *p, int64_t i, const float *x, void *work);
void whit_ints_item(const whit_ints_plan *p, int64_t i, float *y, void *work);
#endif
