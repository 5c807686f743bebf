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

/* Fills sum for blocks of `block` rows on j's device, up to the first that is not sound; zero_groups and bad_scales of
 * all in the first of them. Blocks are sized and summed as on the CPU: the same numbers, and where the rotation is not
 * dense, the same bytes. */
int whit_rows_device(whit_job *j, int64_t block, whit_rows_sum *sum, whit_err *e);
#endif
