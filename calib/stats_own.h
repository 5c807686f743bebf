/* stats_own: what the parts of stats share: stats.c (layout), stats_file.c, stats_run.c, stats_dir.c. */
#ifndef WHIT_STATS_OWN_H
#define WHIT_STATS_OWN_H
#include "calib/stats.h"
#include "formats/safetensors.h"

int64_t whit_sum_elements(const whit_sum *u);
size_t whit_sum_bytes(const whit_sum *u);
/* Of s->m, s->o and s->domain: the inputs and the layers' sums, without memory. */
void whit_stats_layout(whit_stats *s);
void whit_stats_layer_free(whit_stats_layer *l);
void whit_stats_layer_drop(whit_stats_layer *l); /* forgets the sums' memory */
/* u->data out of t, which must be of its type and shape and finite; path: for messages. */
int whit_sum_read(whit_sum *u, const whit_tensor *t, const char *path, whit_err *e);
int whit_stats_seen(const whit_st *st, const char *path, int64_t seen[2], whit_err *e);
#endif
