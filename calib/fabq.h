/* fabq: a matrix of format "frc" (frc1.h) as what methods and refinements know: two matrices of rows, "bin" and
 * of the core's format. */
#ifndef WHIT_FABQ_H
#define WHIT_FABQ_H
#include "calib/method.h"
#include "formats/frc1.h"

#define WHIT_FABQ_CORE_FORMAT "int4g128"
#define WHIT_FABQ_CORE8_FORMAT "int8"
/* The core's format. */
int whit_fabq_core_spec(whit_spec *core, const whit_spec *record, whit_err *e);

/* One class of rows. */
typedef struct whit_fabq_part {
	whit_mat mat;    /* its codes; rows 0: the class is empty, and has no planes */
	whit_weight src; /* its rows of the source, F32, over the record's balance if it stores one */
	int64_t *row;    /* mat.rows: which row of the whole each is, ascending */
	int borrowed;    /* mat's planes are another's */
} whit_fabq_part;

enum { WHIT_FABQ_BINARY, WHIT_FABQ_CORE, WHIT_FABQ_PARTS };

/* Takes m apart; src is what its rows are of. The caller frees both parts, also after an error. */
int whit_fabq_split(whit_fabq_part part[WHIT_FABQ_PARTS], const whit_mat *m, const whit_weight *src, whit_err *e);
/* Puts the parts' codes into m, whose header and bitmap are as they were. Returns the number of scales that are F32,
 * for which a record has no place: then m stays as it was. */
int64_t whit_fabq_join(whit_mat *m, const whit_fabq_part part[WHIT_FABQ_PARTS]);

/* What a codebook is trained on: a weight, and what its record will be (width and rot). */
typedef struct whit_fabq_source {
	const whit_weight *src;
	whit_mat dst;
	float *balance; /* cols, or NULL; the caller's */
} whit_fabq_source;
enum { WHIT_FABQ_POINTS = 1 << 16 }; /* blocks that it sees, at most */
/* Fills b (block set): k-means (kmeans.h) of the profiles |w| / s - 1 of whole blocks of all n weights' rows, each
 * weighted by s^2 over the mean square of its weight's blocks, s the mean of |w|; a weight has its share of the blocks,
 * evenly spread. Centroids to 8 bits under the least step that holds them (fabq.md 2.5). No whole block: all zero. An
 * additive one: of w less s with its sign, each over the mean square of its weight's blocks, centroids as they are.
 * WHIT_ENONFINITE names the weight. */
int whit_fabq_train(whit_frc_book *b, const whit_fabq_source *s, int64_t n, uint64_t seed, whit_dev *dev, whit_err *e);
/* Which profiles of j->dst's book j's rows choose from: none, then one after the other the one that, beside those
 * before, takes most off the errors of blocks, weighted by the Hessian's diagonal; of blocks spread over all rows. */
void whit_fabq_profiles(const whit_job *j, uint8_t id[WHIT_FRC_CHOICES]);
/* x (n) over t; t NULL: as it is. */
void whit_fabq_over(float *x, const float *t, int64_t n);
void whit_fabq_free(whit_fabq_part part[WHIT_FABQ_PARTS]);
void whit_part_free(whit_fabq_part *p);
#endif
