/* assign: each of n rows to one of a few classes that have room for a given number, at the least total cost (a
 * transportation problem). */
#ifndef WHIT_ASSIGN_H
#define WHIT_ASSIGN_H
#include "host/base.h"

enum { WHIT_ASSIGN_CLASSES = 5 }; /* at most */

/* class[r], 0 to classes - 1, for costs (n, classes), as many of each class as room says, which sum up to n. Exact, for
 * costs to 2^-56 of the largest one; one that is not finite is above all others. Where choices cost the same, lower
 * rows stay in the class that they have. */
void whit_assign(uint8_t *class, const double *cost, int64_t n, int classes, const int64_t *room);
#endif
