/* tune: the file that says which tier (host/ops.h) multiplies which matrix best by how many tokens, as `whit bench
 * --tune` has measured it. Commands read it whose files on disk cannot depend on it: generate, eval, bench. JSON:
 *
 *	{"format_version": 1, "devices": [
 *	  {"device": "NVIDIA H200", "compute_capability": "9.0", "toolkit": "13.0", "whit": "0.1.0", "terms": 2,
 *	   "products": [
 *	     {"format": "tq4g128", "rows": 5120, "width": 6144, "tokens": 9, "tier": "packed",
 *	      "us": {"packed": 21.5, "wide": 180.2}}]}]}
 *
 * terms: 1, or 2 for two and more (--precision); tokens: where a range begins (whit_tune_from); us: of a product. */
#ifndef WHIT_TUNE_H
#define WHIT_TUNE_H
#include "cuda/dev.h"
#include "host/ops.h"

typedef struct whit_tune_entry {
	whit_tuned p;
	double us[WHIT_TIERS]; /* 0: it does not take the product, or was wrong */
} whit_tune_entry;

/* The best tier by those times; the usual one where that is within 2 %, which is noise. -1: none has a time. */
int whit_tune_best(const double us[WHIT_TIERS], int usual);
/* The file's place: given, else whit/tune.json of $XDG_CACHE_HOME or ~/.cache, whose directories
 * are made where make. whit_free it. NULL: "none" is what is given, or there is no home. */
char *whit_tune_path(const char *given, int make);
/* Tunes d by its entries. A file that is not there has none; one that cannot be read as above is warned of. */
void whit_tune_read(whit_dev *d, const char *path);
/* Puts n entries of d into the file, in the place of those of the same products; all others stay. With n 0: tries
 * that, and changes nothing. Errors: a file that is there and cannot be read, or not be written. */
int whit_tune_write(whit_dev *d, const char *path, const whit_tune_entry *entry, int n, whit_err *e);
#endif
