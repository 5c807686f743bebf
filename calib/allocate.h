/* allocate: which format each tensor gets under a byte budget, from what each costs alone (whit sensitivity): the
 * multiple-choice knapsack of fabq.md 5, EBQ. Losses alone are taken to add up; how far they do, the table says. */
#ifndef WHIT_ALLOCATE_H
#define WHIT_ALLOCATE_H
#include <jansson.h>
#include "host/base.h"

typedef struct whit_choice {
	int64_t bytes; /* -1: there is no such choice */
	double loss;
} whit_choice;

typedef struct whit_allocation {
	int64_t bytes; /* of the choices made */
	double loss;   /* their sum */
	double bound;  /* no allocation within the budget has less: of the linear relaxation */
	int uniform;   /* the option that is best for all items alike within the budget, -1 = none fits */
	double uniform_loss;
	int64_t uniform_bytes;
} whit_allocation;

/* pick (items): the option of each, of least summed loss within `budget` bytes: by dynamic programming over bytes in
 * units of budget / 2^16, sizes rounded up, then single steps into what is left over; never worse than the best uniform
 * choice. choice (items, options). Of equal losses fewer bytes, then the first. WHIT_EUSAGE: the smallest choices are
 * beyond the budget (both sizes). */
int whit_allocate(const whit_choice *choice, int64_t items, int options, int64_t budget, int *pick,
                  whit_allocation *out, whit_err *e);

/* The recipe that a table of whit sensitivity (path: for messages), by tensor, gives for a budget: bits per weight of
 * its tensors if bpw > 0, else bytes of them, codebooks included; fingerprint: of the model that it must be of. *text,
 * lines "tensor format [method=...]", is the caller's to whit_free; methods: 1 = as measured, 0 = left to the command.
 * Tensors that are not in the table are not in it. */
int whit_allocate_recipe(const json_t *table, const char *path, const char *fingerprint, double bpw, int64_t bytes,
                         int methods, char **text, whit_allocation *out, whit_err *e);
#endif
