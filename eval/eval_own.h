/* eval_own: what eval.c and sensitivity.c share: a text made ready, and one pass of two models over its windows. */
#ifndef WHIT_EVAL_OWN_H
#define WHIT_EVAL_OWN_H
#include "eval/eval.h"
#include "eval/logits.h"
#include "host/progress.h"

typedef struct whit_side { /* a model and its buffers, which lie where it computes */
	whit_model *m;     /* NULL: no such side */
	int plain;         /* run its plain twins */
	int original;      /* and its own weights, though others are in their place */
	float *h;          /* (batch tokens, hidden) */
	float *rows;       /* (tile, hidden): scored rows */
	float *logits;     /* (tile, vocab) */
	float *host;       /* the same on the host, where a file needs them; NULL on the CPU */
} whit_side;

typedef struct whit_pass {
	whit_side p, q; /* reference, or the only model; and the model measured against it */
	const int32_t *ids;
	int32_t bos; /* -1, or what replaces each window's first input */
	const whit_windows *ws;
	int64_t batch_tokens, tile;
	whit_point *pt;          /* ws->scored */
	const whit_logits *base; /* or NULL: ln P of each point from a file, p being the model measured against it */
	float *base_rows;        /* (tile, vocab) */
	whit_logits_out *save;   /* or NULL: where the model's logits go */
	whit_layer_sums *layer;  /* of each layer, or NULL */
	whit_progress *bar;      /* or NULL */
	const char *label;       /* what the bar says, or NULL: windows and layer */
	double done;
	/* The batch at hand: tokens of whole windows, and which rows are scored. */
	int64_t room; /* tokens it can hold */
	int64_t *start, *past, *pos, *row, rows;
	int32_t *tokens, *target, *chunk;
	double *row_sums; /* (tokens, 4) */
	int *bad;         /* tile */
	whit_dev *dev;    /* of both models; NULL: the CPU. There: the tile's rows, targets and sums; a layer's sums */
	int64_t *dev_row;
	int32_t *dev_target;
	whit_logit_sums *dev_sums, *sums; /* sums: on the host */
	double *dev_layer;
	whit_arena arena;
} whit_pass;

/* Buffers, once the members above "the batch at hand" are set but tile and base_rows. A device's shortage is told by
 * the next call there. */
void whit_pass_take(whit_pass *s);
void whit_pass_free(whit_pass *s);
/* The end of the batch that begins with window w0: as many whole windows as batch_tokens hold, one at least. */
int64_t whit_pass_end(const whit_pass *s, int64_t w0);
/* Windows [w0, w1) as one batch; s->rows of its rows are scored. */
void whit_pass_fill(whit_pass *s, int64_t w0, int64_t w1, whit_batch *b);
int whit_side_embed(whit_side *d, const whit_batch *b, whit_err *e);
/* Layer l in place on d->h; nothing for a side that has no such layer. */
int whit_side_layer(whit_side *d, int64_t l, const whit_batch *b, whit_err *e);
/* Head and metrics of the batch's scored rows, from both sides' h, into pt[s->rows], a tile at a time. */
int whit_pass_score(whit_pass *s, const whit_batch *b, whit_point *pt, whit_err *e);
/* The bar, and the interruption flag. */
int whit_pass_step(whit_pass *s, double work, const char *what, whit_err *e);

/* Sets what options say of mode, ctx and stride (file_ctx: a base-logits file's, or 0) and the sizes of m, tokenizes
 * the text and cuts its windows. Errors as whit_eval_run's. */
int whit_eval_prepare(whit_eval_result *r, whit_ids *ids, whit_windows *ws, const whit_model *m, const whit_model *ref,
                      const whit_tok *tok, const char *text, size_t n, const whit_eval_opts *o, int64_t file_ctx,
                      whit_err *e);
/* Tokens of a batch, where the options leave it open. */
int64_t whit_eval_batch(const whit_model *m, const whit_model *ref, int64_t ctx, const whit_eval_opts *o);
/* r's noise floor as o asks for it, r->params being set: ref against its plain twins. */
int whit_eval_floor(whit_eval_result *r, whit_model *ref, const whit_ids *ids, const whit_eval_opts *o, whit_err *e);
#endif
