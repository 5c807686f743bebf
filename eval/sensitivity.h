/* sensitivity: the mean KL divergence that replacing some weights costs, one replacement after the other. The reference
 * runs once; its hidden states are kept, and each replacement runs from the first layer that it changes. */
#ifndef WHIT_SENSITIVITY_H
#define WHIT_SENSITIVITY_H
#include <jansson.h>
#include <stdio.h>
#include "eval/eval.h"
#include "host/progress.h"

/* ---- measuring ---- */

typedef struct whit_probe whit_probe;
/* Runs m, nothing being replaced, over the windows of a text, as whit_eval_run cuts them, and measures its noise floor.
 * memory: at most so many bytes of hidden states are kept, 4 x hidden for each token fed (windows overlap) and each
 * kept layer input; where they do not hold all layers, every second, third, ... input is kept, and a replacement runs
 * again what lies between: the results are the same. Fewer than two inputs: WHIT_EUSAGE with both sizes. m, tok and
 * what o names are borrowed. Other errors: as whit_eval_run. On an error *p is NULL. */
int whit_probe_open(whit_probe **p, whit_model *m, const whit_tok *tok, const char *text, size_t n,
                    const whit_eval_opts *o, int64_t memory, whit_err *e);
/* Statistics of m as it is now (Q) against m as it was opened (P), where whit_model_replace changed nothing below layer
 * `first`: -1 = the embedding, the number of layers = nothing but the head. The numbers of whit_eval_run for a model
 * with these weights: on the CPU to the bit. bar: stepped by whit_probe_work(p, first) in all, or NULL; label: what it
 * says. */
int whit_probe_run(whit_probe *p, int64_t first, whit_summary *s, whit_progress *bar, const char *label, whit_err *e);
double whit_probe_work(const whit_probe *p, int64_t first);
/* The text, its windows and the noise floor (of s only tokens and chunks), and the hash of its tokens (NULL is
 * allowed). Lives as long as p. */
const whit_eval_result *whit_probe_text(const whit_probe *p, whit_hash *tokens);
void whit_probe_close(whit_probe *p); /* NULL is allowed */
/* Device memory that a probe takes beside the weights. */
size_t whit_probe_need(const whit_model *m, const whit_eval_opts *o);

/* ---- the result ---- */

enum whit_sens_by { WHIT_BY_TENSOR, WHIT_BY_ROLE, WHIT_BY_LAYER, WHIT_BY_ALL, WHIT_BYS };
extern const char *const whit_sens_by_name[WHIT_BYS]; /* "tensor", "role", "layer", "all" */

typedef struct whit_sens_entry {
	int by;                          /* enum whit_sens_by */
	const char *name;                /* the tensor's, the role, "layer 3" or "outside" (layers), "all" */
	const char *role;                /* of a tensor or role, else NULL */
	int64_t layer;                   /* of a tensor or layer; -1 = outside layers, or several */
	int format;                      /* index into the table's */
	int64_t tensors, weights, bytes; /* of the tensors that are quantized, exact, without codebooks */
	int64_t book_bytes;              /* of their codebooks, each once; other tensors may share them */
	int done;
	double kld, se, rel_mse, seconds; /* nats per token; bootstrap error */
} whit_sens_entry;

typedef struct whit_sens_table {  /* everything is borrowed but by whom it was made */
	const char *model, *text; /* as typed */
	const json_t *inputs;     /* what the numbers depend on; its hash is the fingerprint */
	const char *fingerprint;
	const whit_eval_result *eval; /* whit_probe_text's */
	const char *const *format;    /* "tq4", "int4g128:nearest" */
	int formats;
	const char *const *role; /* in the model's order */
	int64_t roles, layers;
	whit_sens_entry *entry; /* n of them, all done */
	int64_t n;
	const json_t *unfit; /* array of {tensor, format, why}: what a format does not fit, which stays as it is */
} whit_sens_table;

/* Of one format: the sum of KLD over the entries of one kind, and what joint quantization costs; NaN = not there. */
typedef struct whit_sens_sum {
	double sum, joint, joint_se;
} whit_sens_sum;
whit_sens_sum whit_sens_add(const whit_sens_table *t, int by, int format);

/* The machine-readable table; the caller owns it. Seconds are in none of the three: the same bytes whenever the same is
 * measured. */
json_t *whit_sens_json(const whit_sens_table *t);
/* The table for people, and a heat map, role x layer for each format; whit_free them. */
char *whit_sens_markdown(const whit_sens_table *t);
char *whit_sens_svg(const whit_sens_table *t);
/* The short table: sums, and of each kind and format the largest losses. */
void whit_sens_print(const whit_sens_table *t, FILE *f);
#endif
