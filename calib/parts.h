/* parts: a record (frc1.h, vp1.h) as what methods and refinements know: matrices of rows, one for each class. */
#ifndef WHIT_PARTS_H
#define WHIT_PARTS_H
#include "calib/fabq.h"

enum { WHIT_PARTS = 5 }; /* of any record, at most */

/* Rows p->row, p->mat.rows of them, out of src: p->src, for a part that has rows. */
int whit_part_source(whit_fabq_part *p, const whit_weight *src, whit_err *e);
/* Squared error of row w (as->width, finite) in as's spec and codebook, nearest, weighted by imp (NULL = 1); x: room
 * for it decoded. */
double whit_part_error(const whit_mat *as, const float *imp, int rule, const float *w, float *x);
/* What a method of records needs of a job: a Hessian as wide as the rows, finite weights (the solver would name rows of
 * a class). */
int whit_parts_ready(const whit_job *j, whit_err *e);
/* Chooses the codes of n parts, with feedback where the part's format has codes, else nearest; their sums add up in j.
 */
int whit_parts_run(whit_job *j, const whit_fabq_part *part, int n, whit_err *e);
/* Whether a part is for latent weights (latent.h): rows of floats have no codes, and a scale of 8-bit codes has nothing
 * to move for: other codes make up for it until the largest weights no longer fit. */
int whit_part_trains(const whit_fabq_part *p);
/* Takes any record apart; src is what its rows are of. The caller frees the parts, also after an error. */
int whit_parts_take(whit_fabq_part part[WHIT_PARTS], const whit_mat *m, const whit_weight *src, whit_err *e);
/* Puts the parts' codes, which may have changed since, into m. */
void whit_parts_put(whit_mat *m, const whit_fabq_part part[WHIT_PARTS]);
void whit_parts_free(whit_fabq_part part[WHIT_PARTS]);
#endif
