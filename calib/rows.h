/* rows: the row driver's two sides, method.c's on the CPU and rows_device.c's on a device, and what they share. */
#ifndef WHIT_ROWS_H
#define WHIT_ROWS_H
#include "calib/method.h"

/* What a block of rows leaves behind; method.c adds them up in block order. */
typedef struct whit_rows_sum {
	double err, ref;
	int64_t zero_groups, bad_scales;
	int64_t bad; /* row * cols + column of the first NaN or Inf, -1 = none */
} whit_rows_sum;

/* Rows of a block of `rows` rows that have at most `width` columns on either side. */
int64_t whit_rows_block(int64_t width, int64_t rows);
/* 1: what the block holds can be encoded, its rows are finite and so are their norms where those are stored. */
int whit_rows_sound(const whit_rows_sum *s, const whit_mat *dst);

/* Rows [r0, r1) of the source as floats in x, and as they are to be stored in w, which may be x where dst has no
 * rotation. 0: one is not finite, or its norm is beyond F32; s says where. */
int whit_rows_load(const whit_mat *src, const whit_mat *dst, int64_t r0, int64_t r1, float *x, float *w,
                   whit_rows_sum *s);
/* s->err of those rows of dst against x and w above; y and z: rows of the wider side. The error belongs to the source's
 * elements. A rotation keeps lengths, so it may be measured where the codes are; but where padding was added, part of
 * that length lies in columns that decoding drops. */
void whit_rows_measure(const whit_mat *dst, int64_t r0, int64_t r1, const float *x, const float *w, float *y, float *z,
                       whit_rows_sum *s);
/* Adds n blocks of `rows` rows up in j, from zero; what was not sound is an error that names the tensor and the row. */
int whit_rows_total(whit_job *j, const whit_rows_sum *sum, int64_t n, int64_t rows, whit_err *e);

/* Lays out device memory: the address of the next bytes, *at of room on, or NULL where room is only being measured; *at
 * moves past them, to where anything may lie. */
static inline void *whit_rows_piece(uint8_t *room, int64_t *at, int64_t bytes) {
	void *p = room ? room + *at : NULL;
	*at += (bytes + 255) / 256 * 256;
	return p;
}

/* Fills sum for blocks of `block` rows on j's device, up to the first that is not sound; zero_groups and bad_scales of
 * all in the first of them. Blocks are sized and summed as on the CPU: the same numbers, and where the rotation is not
 * dense, the same bytes. */
int whit_rows_device(whit_job *j, int64_t block, whit_rows_sum *sum, whit_err *e);
#endif
