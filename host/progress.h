/* progress: what a long command says while it runs. Results go to stdout, this to stderr: one bar with ETA
 * on a terminal, plain lines otherwise, and JSON lines to --events FILE. */
#ifndef WHIT_PROGRESS_H
#define WHIT_PROGRESS_H
#include <jansson.h>
#include "host/base.h"

int whit_events_open(const char *path, whit_err *e); /* first line: {"event":"schema","version":1} */
void whit_events_close(void);
/* One JSON line {"event": name, "t": seconds, ...fields}; takes ownership of fields (may be NULL). */
void whit_event(const char *name, json_t *fields);
void whit_quiet(int on);

typedef struct whit_progress {
	const char *what; /* "quantize" */
	double total, done, start, shown;
	int tty;
} whit_progress;
void whit_progress_begin(whit_progress *p, const char *what, double total);
/* done so far in the units of total; label names the current thing ("layers.3.mlp.down_proj 0.0095"). */
void whit_progress_step(whit_progress *p, double done, const char *label);
void whit_progress_end(whit_progress *p);
/* A line to stderr that survives the bar. --quiet silences it unless it begins with "warning:". */
void whit_say(const char *fmt, ...) WHIT_PRINTF(1, 2);
#endif
