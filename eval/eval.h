/* eval: a model, or a pair, over a text: streamed together, layer by layer, one logit tile at a time. */
#ifndef WHIT_EVAL_H
#define WHIT_EVAL_H
#include "eval/metrics.h"
#include "eval/windows.h"
#include "host/engine.h"
#include "host/tokenizer.h"

typedef struct whit_eval_opts {
	int mode;
	int64_t ctx, stride;  /* 0: ctx = min(model context, 512), stride = ctx / 2 */
	int64_t max_tokens;   /* 0 = all */
	int64_t batch_tokens; /* tokens in flight per pass of the layers; 0 = chosen */
	int64_t floor_tokens; /* positions to measure the noise floor on; 0 = none */
} whit_eval_opts;

typedef struct whit_eval_result {
	whit_summary s;          /* Q against P; without ref, the model is P and have_q is 0 */
	int have_ref, mode;
	int64_t ctx, stride, text_tokens;
	double floor_kld, floor_top1; /* reference against itself, plain kernels; NaN = not measured */
	double bpw_linear, bpw_file;
	int64_t bytes, params;
	double seconds, tokens_per_s;
	double *layer_err;       /* with ref: relative Frobenius error of each block's output, layers of them */
	int64_t layers;
} whit_eval_result;

/* ref NULL = perplexity only. Both models must share vocabulary and tokens come from tok. */
int whit_eval_run(whit_eval_result *r, whit_model *m, whit_model *ref, const whit_tok *tok, const char *text,
                  size_t n, const whit_eval_opts *o, whit_err *e);
void whit_eval_free(whit_eval_result *r);
/* linear and whole-file bits per weight (quality.md 6), bytes and parameters, from the checkpoint. */
void whit_eval_size(const whit_model *m, double *bpw_linear, double *bpw_file, int64_t *bytes, int64_t *params);

/* Generation: ids of up to n new tokens appended to out, each also told to on_token (may be NULL); an id that
 * ends a text stops it and is not appended. temp 0 = greedy, lowest id on ties. prompt + n beyond the
 * context, an empty prompt: WHIT_EUSAGE. */
int whit_generate(whit_model *m, const int32_t *prompt, int64_t n_prompt, int64_t n, double temp, uint64_t seed,
                  whit_ids *out, void (*on_token)(void *ctx, int32_t id), void *ctx, whit_err *e);
#endif
