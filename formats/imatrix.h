/* imatrix: llama.cpp's importance matrix (ggml.md 6): for each weight the mean square of each input column over
 * calibration tokens. Read from GGUF and from the older .dat; written as GGUF. Names inside are GGUF's; here they are
 * those of the checkpoint. */
#ifndef WHIT_IMATRIX_H
#define WHIT_IMATRIX_H
#include "formats/gguf_model.h"

typedef struct whit_importance { /* of one weight */
	char *name;              /* in the file, without suffix: "blk.0.attn_q.weight" */
	float *sum2;             /* (cols) sum of squares */
	int64_t cols;
	double count; /* tokens summed; 0 gives importance 1 */
	float *mean;  /* (cols) sum2 / count: the importance */
} whit_importance;

typedef struct whit_imatrix {
	char *path;
	whit_importance *w; /* n, sorted by name; owned, as all they point to */
	int64_t n;
	char **dataset; /* names of the texts */
	int64_t n_dataset, chunks, chunk_size;
} whit_imatrix;

/* Refuses values that are not finite or negative, lengths that do not fit, entries for several experts. */
int whit_imatrix_open(whit_imatrix *m, const char *path, whit_err *e);
int whit_imatrix_parse(whit_imatrix *m, const uint8_t *data, size_t n, const char *name, whit_err *e);
void whit_imatrix_close(whit_imatrix *m);
/* Importance of the columns of the checkpoint's weight `hf`; NULL = the file has none (e->code 0), or, with text, one
 * of another width. */
const float *whit_imatrix_find(const whit_imatrix *m, const whit_gguf_arch *a, const char *hf, int64_t cols,
                               whit_err *e);
/* Of entries with name, sum2, cols, count and a mean of cols: fills the means and sorts; the refusals of opening.
 * m->path names what they come from. */
int whit_imatrix_finish(whit_imatrix *m, whit_err *e);
/* Writes m (names, sum2, count, datasets, chunks, chunk_size) as GGUF, atomically. */
int whit_imatrix_write(const whit_imatrix *m, const char *path, whit_err *e);
#endif
