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

typedef struct whit_writing { /* zero, then dest and recipe set by the command, the rest by the functions below */
	whit_dest dest;
	whit_recipe recipe;
	whit_imatrix imatrix;
	whit_dev *dev; /* that --device says, NULL = the CPU */
	whit_model model;
	whit_plan plan;
	whit_quantize_stats stats;
	json_t *json; /* what --json writes */
} whit_writing;

/* OUT must be new, or with force something that whit wrote (a GGUF: any GGUF), outside the input, and its place must
 * exist. */
int whit_dest_check(const whit_dest *d, whit_err *e);
/* Opens the model, the device, and the imatrix if that is not NULL, and plans: the result fits the file system. */
int whit_writing_plan(whit_writing *w, const char *imatrix, whit_err *e);
/* Prints the plan, and warns of losses that add up. Begins w->json, its "result" null as yet. */
void whit_writing_show(whit_writing *w);
/* After the run that ended with rc: prints the result and adds it to w->json, or says what the disk lacked. Returns
 * rc. */
int whit_writing_done(whit_writing *w, int rc, whit_err *e);
void whit_writing_free(whit_writing *w);
int whit_recipe_read(whit_recipe *r, const char *path, const whit_rule *base, whit_err *e); /* parses a file */
#endif
