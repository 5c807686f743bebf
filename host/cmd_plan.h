/* cmd_plan: what quantize and export share around the work: where the result may go, the plan in print and as JSON,
 * and the result. */
#ifndef WHIT_CMD_PLAN_H
#define WHIT_CMD_PLAN_H
#include <jansson.h>
#include "calib/quantize.h"

typedef struct whit_dest { /* strings are the command's options */
	const char *command, *model, *out;
	int force, gguf; /* gguf: OUT is a GGUF file, else a directory */
} whit_dest;

/* OUT must be new, or with force something that whit wrote (a GGUF: any GGUF), outside the input, and its place must
 * exist. */
int whit_dest_check(const whit_dest *d, whit_err *e);
/* The file system has room for the plan. */
int whit_dest_room(const whit_dest *d, const whit_plan *p, whit_err *e);
/* Prints the plan, and warns of losses that add up. Returns what --json writes, its "result" null as yet. */
json_t *whit_plan_show(const whit_plan *p, const whit_dest *d, const whit_recipe *r);
/* After the run that ended with rc: prints the result and adds it to json, or says what the disk lacked. Returns rc. */
int whit_dest_done(const whit_dest *d, const whit_plan *p, const whit_quantize_stats *t, json_t *json, int rc,
                   whit_err *e);
int whit_recipe_read(whit_recipe *r, const char *path, const whit_rule *base, whit_err *e); /* parses a file */
#endif
