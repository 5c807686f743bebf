/* fabq: a matrix of format "frc" (frc1.h) as what methods and refinements know: two matrices of rows, "bin" and
 * of the core's format. */
#ifndef WHIT_FABQ_H
#define WHIT_FABQ_H
#include "calib/method.h"
#include "formats/frc1.h"

#define WHIT_FABQ_CORE_FORMAT "int4g128"

/* One class of rows. */
typedef struct whit_fabq_part {
	whit_mat mat;    /* its codes; rows 0: the class is empty, and has no planes */
	whit_weight src; /* its rows of the source, F32 */
	int64_t *row;    /* mat.rows: which row of the whole each is, ascending */
} whit_fabq_part;

enum { WHIT_FABQ_BINARY, WHIT_FABQ_CORE, WHIT_FABQ_PARTS };

/* Takes m apart; src is what its rows are of. The caller frees both parts, also after an error. */
int whit_fabq_split(whit_fabq_part part[WHIT_FABQ_PARTS], const whit_mat *m, const whit_weight *src, whit_err *e);
/* Puts the parts' codes into m, whose header and bitmap are as they were. Returns the number of scales that are F32,
 * for which a record has no place: then m stays as it was. */
int64_t whit_fabq_join(whit_mat *m, const whit_fabq_part part[WHIT_FABQ_PARTS]);
void whit_fabq_free(whit_fabq_part part[WHIT_FABQ_PARTS]);
#endif
