/* stats: what a calibration text says about the linear layers of a model: about their inputs (mean, mean square,
 * Hessian) and, out of gradients, about their weights (Fisher). One pass upwards and one back, each a layer at a time;
 * sums are kept for one layer at a time where they go to a directory, which is what every method reads.
 *
 * A directory holds statistics.json and a safetensors file for each layer (layer-00000.safetensors, head.safetensors),
 * whose tensors are sums, never means (but for in.max): those of two directories add up (whit calibrate --merge). A
 *tensor is called DOMAIN/WEIGHT/KIND; what linear layers share (q, k and v their input) stands once, under the first of
 *them, as "inputs" in statistics.json says. T is the number of tokens, x (T, cols) a layer's input, d (T, rows) the
 *gradient by its output of L, the sum over a sequence of next-token cross entropies in nats; s runs over sequences.
 *
 *	in.sum (cols) F64            sum_t x                               diag
 *	in.sq (cols) F64             sum_t x^2                             diag
 *	in.abs (cols) F64            sum_t |x|                             size
 *	in.max (cols) F64            largest |x|: no sum, of two directories the larger
 *	in.hessian (cols, cols) F32  sum_t x x^T                           hessian
 *	in.cross (cols, cols) F32    sum_t x X^T, X: of another model      cross: GPTAQ's and Qronos' term
 *	fisher.rows (rows) F64       sums of fisher over a row             fisher: nats^2 per squared unit of weight
 *	fisher.cols (cols) F64       and over a column
 *	fisher (rows, cols) F32      sum_s (d_s^T x_s)^2                   fisher-full
 *	loss/nll (1) F64             sum_s L, in the first layer's file    where gradients are taken
 *	gradsq (rows) F64            sum_t d^2                             gradsq
 *	guided (groups, cols, cols) F32  sum_t g x x^T, g: mean of d^2 over a group of rows: GuidedQuant (2505.07004,
 *eq. 7)
 *
 * And where texts run through a model that changes (calibration.h), in memory alone:
 *
 *	weights (groups, T) F32      g of every token                      weights, of the model before it changes
 *	guided                       as above, by those weights            weighted
 *	guided.cross (groups, cols, cols) F32  sum_t g x X^T               weighted and cross
 *
 * Estimators of fisher (fabq.md 2.1): seq as above; token: sum_t (d x^T)^2; sampled: as seq with labels drawn from the
 * model, the true Fisher. Divide by the domain's tokens. */
#ifndef WHIT_STATS_H
#define WHIT_STATS_H
#include "formats/imatrix.h"
#include "host/engine.h"
#include "host/tokenizer.h"

enum {
	WHIT_STAT_DIAG = 1,
	WHIT_STAT_HESSIAN = 2,
	WHIT_STAT_CROSS = 4,
	WHIT_STAT_FISHER = 8,
	WHIT_STAT_FISHER_FULL = 16,
	WHIT_STAT_GRADSQ = 32,
	WHIT_STAT_GUIDED = 64,
	WHIT_STAT_WEIGHTS = 128,
	WHIT_STAT_SIZE = 512,
	WHIT_STAT_WEIGHTED = 256, /* by whit_stats_opts.weights, on the way up */
	WHIT_STAT_BACK =
	        WHIT_STAT_FISHER | WHIT_STAT_FISHER_FULL | WHIT_STAT_GRADSQ | WHIT_STAT_GUIDED | WHIT_STAT_WEIGHTS
};
typedef struct whit_statistic {
	const char *name, *help;
	unsigned bit;
} whit_statistic;
extern const whit_statistic whit_statistics[]; /* ends with name NULL */
/* "diag,hessian" to bits; unknown: WHIT_EUSAGE, text lists what there is. */
int whit_statistics_parse(const char *names, unsigned *bits, whit_err *e);

enum { WHIT_FISHER_SEQ, WHIT_FISHER_TOKEN, WHIT_FISHER_SAMPLED };
extern const char *const whit_estimators[]; /* names by number, NULL-terminated */

typedef struct whit_stats_text { /* in */
	const char *name;
	const char *data;
	size_t bytes;
	const char *domain; /* NULL: "text" */
	/* out */
	int64_t invalid, tokens, chunks; /* bytes that are not UTF-8; tokens of the whole text; chunks used */
} whit_stats_text;

static inline const char *whit_stats_domain_name(const whit_stats_text *t) { return t->domain ? t->domain : "text"; }

struct whit_stats;
/* What a layer has seen, where the model computes: (chunks * ctx, hidden). */
typedef struct whit_stats_states {
	int64_t chunks, ctx;
	const float *in;       /* its inputs */
	const float *want;     /* what `other`'s layer made of its own; NULL without other */
	const int32_t *tokens; /* (chunks, ctx): what the model was given; host memory */
} whit_stats_states;
typedef struct whit_stats_opts {
	unsigned kinds;
	int estimator;
	int groups;                 /* of rows, for guided, weights and weighted */
	uint64_t seed;              /* of drawn labels */
	int64_t ctx;                /* tokens of a chunk; 0 = the model's context, at most 512 */
	int64_t chunks;             /* the first so many of a domain's texts; 0 = all */
	int head;                   /* also the head's input (no gradients) */
	whit_model *other;          /* the model of cross's X, where m is; or NULL */
	struct whit_stats *weights; /* a run's with weights, of the same texts and groups; only with weighted */
	/* Tokens in flight and bytes between layers (hidden states, on the way back of every layer); 0 = chosen. On the
	 * CPU the result does not depend on them. */
	int64_t batch_tokens, held_bytes;
	const struct whit_list *apart; /* texts that must share no run with these (host/overlap.h), or NULL */
	const char *dir;               /* keep a layer's sums there between uses; NULL: all in memory */
	/* Where layers change as they go (no gradients, no dir): called when a layer's sums are complete, and nothing
	 * has gone beyond it yet; what goes on is what the layer, as it is then, makes of the same inputs. All chunks
	 * wait together between layers. The sums are dropped afterwards. */
	int (*layer)(void *ctx, const struct whit_stats *s, int64_t layer, const struct whit_stats_states *x,
	             whit_err *e);
	void *ctx_layer;
} whit_stats_opts;

typedef struct whit_sum {
	char *name;      /* DOMAIN/WEIGHT/KIND */
	int ndim, dtype; /* WHIT_F32 or WHIT_F64 */
	int64_t shape[3];
	void *data; /* NULL while the layer's sums are on disk */
	void *on;   /* its copy where the model computes, while the layer runs there */
} whit_sum;

typedef struct whit_stats_layer {
	whit_sum *sum;
	int64_t n;
	int64_t seen[2]; /* chunks that are in the sums of inputs, and of gradients */
	char text[33];   /* hash of all chunks, "" = of several */
} whit_stats_layer;

typedef struct whit_stats_input { /* what some linear layers of one program all multiply */
	int64_t layer;            /* the number of layers = the head */
	int value;                /* of the program */
	int64_t cols;
	const char **weight; /* n_weight checkpoint names, borrowed from the model */
	int n_weight;
} whit_stats_input;

typedef struct whit_stats_domain {
	const char *name; /* borrowed from the texts */
	int64_t chunks;
	double nll; /* sum of losses, where gradients were taken */
} whit_stats_domain;

typedef struct whit_stats {
	const whit_model *m;
	whit_stats_opts o;
	whit_stats_input *in; /* n, by layer, then in the order of the program */
	int64_t n;
	whit_stats_layer *layer; /* of all layers, and the head */
	whit_stats_domain *domain;
	int n_domain;
	int64_t ctx, chunks, tokens; /* tokens = ctx * chunks */
	whit_hash text;              /* of the chunks' ids */
	double seconds;
} whit_stats;

/* Each text is tokenized on its own and cut into disjoint chunks, its tail dropped; where the tokenizer adds a BOS,
 * it replaces each chunk's first token; all positions count. Texts of one domain stand together. Errors: a text shorter
 * than a chunk (WHIT_EINPUT), ctx out of range (WHIT_EUSAGE), what whit_tok_text and the engine refuse. Fills the out
 * members of text. With o->dir, layers' files that an interrupted run of the same job left there are gone on from: the
 * caller sees to it that it is the same (whit_stats_job). */
int whit_stats_run(whit_stats *s, whit_model *m, const whit_tok *tok, whit_stats_text *text, int n_text,
                   const whit_stats_opts *o, whit_err *e);
void whit_stats_free(whit_stats *s);
/* Memory that such a run takes beside the weights, where m computes (whit_models_device's reserve). */
size_t whit_stats_need(const whit_model *m, const whit_stats_opts *o);
/* Sum of that domain, weight and kind in a layer, or NULL. */
whit_sum *whit_stats_find(const whit_stats *s, int64_t layer, const char *domain, const char *weight, const char *kind);
/* The diagonal of all domains together as an importance matrix under GGUF's names; im is the caller's to close. A tied
 * head goes by the embedding's name. Sums are in memory. */
int whit_stats_imatrix(const whit_stats *s, const whit_model *m, const whit_stats_text *text, int n_text,
                       whit_imatrix *im, whit_err *e);

/* ---- one layer's sums as a file (stats_file.c) ---- */
char *whit_stats_layer_path(const char *dir, int64_t layer, int64_t layers); /* whit_free it */
/* Reads the sums that l lists; they must be there in these shapes, finite, and nothing else. Absent file: zeros. */
int whit_stats_layer_load(whit_stats_layer *l, const char *path, whit_err *e);
int whit_stats_layer_save(const whit_stats_layer *l, const char *path, whit_err *e);
#endif
