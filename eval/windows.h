/* windows: which tokens are fed and which are scored (quality.md 1). */
#ifndef WHIT_WINDOWS_H
#define WHIT_WINDOWS_H
#include "host/base.h"

enum whit_eval_mode { WHIT_SLIDING, WHIT_SLIDING_HF, WHIT_CHUNKED };
typedef struct whit_window {
	int64_t begin, end;   /* tokens [begin, end) are fed */
	int64_t first, last;  /* input positions [first, last) predict their successors and are scored */
	double weight;        /* sliding_hf: the script's weight of this window's mean; else number scored */
} whit_window;
typedef struct whit_windows {
	whit_window *w;
	int64_t n, scored;
	int bos_replaces_first; /* chunked: every window's first input is BOS */
} whit_windows;
/* N tokens; L window, S stride. Errors name both sides: text too short, stride 0 or > L, context. */
int whit_windows_make(whit_windows *ws, enum whit_eval_mode mode, int64_t N, int64_t L, int64_t S, int adds_bos, whit_err *e);
void whit_windows_free(whit_windows *ws);
int whit_eval_mode_parse(const char *name); /* -1 = unknown */
const char *whit_eval_mode_name(int mode);
#endif
