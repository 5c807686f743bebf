/* stats: what a calibration text says about the inputs of a model's linear layers. A statistic is a row of the table
 * (stats.c): what it keeps of one input, and how tokens are added to it. The pass is shared: chunks as llama-imatrix
 * cuts them, a layer over all chunks before the next one, each distinct input (q, k and v share one) once. */
#ifndef WHIT_STATS_H
#define WHIT_STATS_H
#include "formats/imatrix.h"
#include "host/engine.h"
#include "host/tokenizer.h"

typedef struct whit_statistic {
	const char *name, *help;
	int64_t (*doubles)(int64_t cols); /* kept of one input, zeroed at first */
	/* Adds the rows of x (T, cols), in their order: the same bytes at any thread count, and however the tokens were
	 * cut into calls. */
	void (*add)(double *sum, const float *x, int64_t T, int64_t cols);
} whit_statistic;
extern const whit_statistic *const whit_statistics[];                     /* NULL-terminated */
const whit_statistic *whit_statistic_find(const char *name, whit_err *e); /* unknown: text lists what there is */

typedef struct whit_stats_text { /* in */
	const char *name;
	const char *data;
	size_t bytes;
	/* out */
	int64_t invalid, tokens, chunks; /* bytes that are not UTF-8; tokens of the whole text; chunks used */
} whit_stats_text;

typedef struct whit_stats_opts {
	const whit_statistic *kind;
	int64_t ctx;    /* tokens of a chunk; 0 = the model's context, at most 512 */
	int64_t chunks; /* the first so many of all texts; 0 = all */
	int head;       /* also the head's input */
	int64_t batch_tokens,
	        held_tokens; /* in flight, and between layers; 0 = chosen; the result does not depend on them */
} whit_stats_opts;

typedef struct whit_stats_input { /* what some linear layers of one program all multiply */
	int64_t layer;            /* the number of layers = the head */
	int value;                /* of the program */
	int64_t cols, tokens;
	double *sum;         /* the statistic's */
	const char **weight; /* n_weight checkpoint names, borrowed from the model */
	int n_weight;
} whit_stats_input;

typedef struct whit_stats {
	const whit_statistic *kind;
	whit_stats_input *in; /* n, by layer, then in the order of the program */
	int64_t n;
	int64_t ctx, chunks, tokens; /* tokens = ctx * chunks */
	double seconds;
} whit_stats;

/* Each text is tokenized on its own and cut into disjoint chunks, its tail dropped; where the tokenizer adds a BOS,
 * it replaces each chunk's first token; all positions count. Errors: a text shorter than a chunk (WHIT_EINPUT), ctx
 * out of range (WHIT_EUSAGE), what whit_tok_text and the engine refuse. Fills the out members of text. */
int whit_stats_run(whit_stats *s, whit_model *m, const whit_tok *tok, whit_stats_text *text, int n_text,
                   const whit_stats_opts *o, whit_err *e);
void whit_stats_free(whit_stats *s);
/* Device memory that such a run takes beside the weights (whit_models_device's reserve). */
size_t whit_stats_need(const whit_model *m, const whit_stats_opts *o);
/* The diagonal as an importance matrix under GGUF's names; im is the caller's to close. A tied head goes by the
 * embedding's name. */
int whit_stats_imatrix(const whit_stats *s, const whit_model *m, const whit_stats_text *text, int n_text,
                       whit_imatrix *im, whit_err *e);
#endif
