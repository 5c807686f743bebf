/* fisher: the Fisher information of a directory of statistics (whit calibrate --stats fisher) as FABQ-RC uses it
 * (fabq.md 2.1): how much a row and a column of a weight matter. */
#ifndef WHIT_FISHER_H
#define WHIT_FISHER_H
#include "calib/stats_dir.h"

typedef struct whit_fisher {
	whit_stats_dir dir;
	int domains;
	double *total; /* of the model in each domain */
} whit_fisher;

/* Of one weight: F_ij is about rows[i] cols[j] / sum of rows. Each domain's sums over its model's total, of domains the
 * largest, and of that 4 parts with 1 of the mean. The caller frees it. */
typedef struct whit_fisher_sums {
	double *rows, *cols;
	uint8_t *spike; /* rows: 1 = largest over mean of domains above 2, which takes three */
	double mean;    /* per weight, of the largest */
} whit_fisher_sums;

/* Opens a directory of m's statistics. Errors: whit_stats_dir_open's; it has no such sums (WHIT_EINPUT); one is not
 * finite (WHIT_ENONFINITE). */
int whit_fisher_open(whit_fisher *f, const char *path, const whit_model *m, whit_err *e);
void whit_fisher_close(whit_fisher *f);
int whit_fisher_has(const whit_fisher *f, const char *weight);
int whit_fisher_read(const whit_fisher *f, const char *weight, int64_t rows, int64_t cols, whit_fisher_sums *s,
                     whit_err *e);
void whit_fisher_sums_free(whit_fisher_sums *s);
#endif
