/* prompts: what to continue, one a line of a file, or a command's own. */
#ifndef WHIT_PROMPTS_H
#define WHIT_PROMPTS_H
#include "host/base.h"

typedef struct whit_prompts {
	const char **line; /* n of them, NUL-terminated */
	int n;
	whit_arena mem;
} whit_prompts;
/* The lines of the file at path that are not empty, without their \r\n; path NULL: own[n_own], borrowed. A file without
 * any, with a NUL, or with a line beyond 1 MiB is an error. */
int whit_prompts_read(whit_prompts *p, const char *path, const char *const *own, int64_t n_own, whit_err *e);
void whit_prompts_free(whit_prompts *p);
#endif
