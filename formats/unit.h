/* unit: what methods see of a format that choose codes one by one. A unit is the run of a row's weights whose stored
 * parameters belong together, a group and its scale or a block of ggml's; once they are chosen, a weight is one of a
 * few values:
 *
 *   w[i] = scale[i / run] * level[k] + shift[i / run]     k = 0 .. count - 1, levels ascending
 *
 * with the bits that the format's decode gives. Formats of floats have no units. */
#ifndef WHIT_UNIT_H
#define WHIT_UNIT_H
#include "formats/format.h"

enum { WHIT_UNIT_RUNS = 512 }; /* scales of a unit, at most: of profiles (frc1.h) one a weight */

typedef struct whit_units {
	int64_t weights; /* of a unit; a row's last one may be shorter */
	int64_t run;     /* that share scale and shift */
	int count;       /* levels */
	int even;        /* level[k] = level[0] + k */
	float level[256];
	float spacing; /* mean distance of levels */
	int stretches; /* numbers that whit_unit_stretch has, 0 to 2 */
	/* file-local from here */
	int at[2];           /* of those numbers, in a block */
	float boundary[256]; /* between level[k] and level[k + 1] */
	uint8_t mask[256];   /* of a block's bytes: the bits that are codes */
} whit_units;

/* The units of matrices like m: of spec, width and codebook. WHIT_EUSAGE: its format has none. */
int whit_units_make(whit_units *u, const whit_mat *m, whit_err *e);
/* Number k of the level nearest to w for that scale and shift; of two equally near the lower. Scale 0: the level
 * nearest to 0. */
int whit_unit_nearest(const whit_units *u, float w, float scale, float shift);
/* Chooses the parameters of the unit at column c of n rows r[] (stored rows) of m, as the format's nearest encoder
 * does for w (n, the unit's weights), imp (width) and rule as whit_format.encode has them, and stores them; its codes
 * are to be put. scale and shift: (n, weights / run). Returns the number of scales beyond F16; adds units of zeros to
 * *zero. */
int whit_units_fit(const whit_units *u, whit_mat *m, const int64_t *r, int64_t n, int64_t c, const float *w,
                   const float *imp, int rule, float *scale, float *shift, int64_t *zero);
/* What the unit at column c of stored row r holds: scale and shift (weights / run), k (the unit's weights). */
void whit_unit_get(const whit_units *u, const whit_mat *m, int64_t r, int64_t c, float *scale, float *shift,
                   uint8_t *k);
/* 1: a unit has one scale, which whit_unit_scale can set to any number, and its runs are in fixed proportion to it;
 * else scales stay as they were fitted. */
int whit_units_scaled(const whit_mat *m);
/* s as it would be stored in stored row r: rounded to F16 and inside its range, where m's scales are; for "bin" the
 * nearest scale that the row has (frc1.h), whose own number only encode sets: rows are encoded before units of them are
 * fitted or scaled. */
float whit_unit_round(const whit_mat *m, int64_t r, float s);
/* Of such a unit at column c of stored row r: the scale that it has, and its runs' for scale s (weights / run). */
float whit_unit_one(const whit_units *u, const whit_mat *m, int64_t r, int64_t c);
void whit_unit_spread(const whit_units *u, const whit_mat *m, int64_t r, int64_t c, float s, float *scale);
/* Of a unit that whit_units_scaled says has no one scale, but F16 numbers that all its scales (the first) and all its
 * shifts (the second) are in proportion to: multiplies them, as near as an F16 can be. whit_unit_get tells the result.
 */
void whit_unit_stretch(const whit_units *u, whit_mat *m, int64_t r, int64_t c, const double *by);
/* The bytes that hold the unit's parameters, of which whit_unit_parameters copies at most WHIT_UNIT_BYTES, out or back.
 */
enum { WHIT_UNIT_BYTES = 256 };
void whit_unit_parameters(const whit_units *u, const whit_mat *m, int64_t r, int64_t c, uint8_t *bytes, int back);
/* Stores such a value as the scale of the unit at column c of stored row r; its codes are to be put. */
void whit_unit_scale(const whit_units *u, whit_mat *m, int64_t r, int64_t c, float s);
/* Stores the unit's codes at column c of stored row r: k[i] is the level of weight i. */
void whit_unit_put(const whit_units *u, whit_mat *m, int64_t r, int64_t c, const uint8_t *k);
/* Weights of the unit at column c. */
static inline int64_t whit_unit_size(const whit_units *u, const whit_mat *m, int64_t c) {
	return WHIT_MIN(u->weights, m->width - c);
}
#endif
