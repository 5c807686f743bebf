/* windows: which tokens are fed and which are scored (quality.md 1). All indices count from the text's first
 * token. */
#ifndef WHIT_WINDOWS_H
#define WHIT_WINDOWS_H
#include "host/base.h"

enum whit_eval_mode { WHIT_SLIDING, WHIT_SLIDING_HF, WHIT_CHUNKED, WHIT_EVAL_MODES };
typedef struct whit_window {
	int64_t begin, end; /* tokens [begin, end) are fed */
	int64_t first,
	        last;  /* inputs [first, last) predict their successors and are scored: last > first, last < end */
	double weight; /* of this window's mean nll: sliding_hf as the script has it, else the number scored */
} whit_window;
typedef struct whit_windows {
	whit_window *w;
	int64_t n, scored, fed; /* windows, scored positions, tokens fed */
	int bos_replaces_first; /* chunked: every window's first input is BOS */
} whit_windows;
/* N tokens; L window, S stride (chunked ignores it). Windows that would score nothing are left out. Errors name
 * both sides: text too short (WHIT_EINPUT), window or stride out of range (WHIT_EUSAGE). */
int whit_windows_make(whit_windows *ws, enum whit_eval_mode mode, int64_t N, int64_t L, int64_t S, int adds_bos,
                      whit_err *e);
void whit_windows_free(whit_windows *ws);
int whit_eval_mode_parse(const char *name); /* -1 = unknown */
const char *whit_eval_mode_name(int mode);
#endif
