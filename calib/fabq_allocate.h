/* fabq_allocate: the size of blocks, the core and the codebook of each tensor of FABQ-RC under a byte budget (fabq.md
 * 2.4): of all choices of B in 64, 128, 256, 512, core rows in thousandths and codebook or none, those of least summed
 * D = sum F (w - w')^2 whose records and codebooks, all bytes, fit. w' are nearest codes; F is fisher.h's. */
#ifndef WHIT_FABQ_ALLOCATE_H
#define WHIT_FABQ_ALLOCATE_H
#include "calib/allocate.h"
#include "calib/fisher.h"

/* For the tensors of m's layers that f has sums of: *text, lines "tensor format", is the caller's to whit_free. Errors
 * of a large tensor are of some of its rows, evenly spread. Books (fabq.h) are trained on all of them for each B.
 * Allocation: in f's units. WHIT_EUSAGE: the budget is below the smallest choice, or f has none of m's tensors. */
int whit_fabq_allocate(const whit_model *m, const whit_fisher *f, double bpw, char **text, whit_allocation *out,
                       whit_err *e);
#endif
