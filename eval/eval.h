/* eval: a model, or a pair, over a text: streamed together, layer by layer, one logit tile at a time. */
#ifndef WHIT_EVAL_H
#define WHIT_EVAL_H
#include "eval/metrics.h"
#include "eval/windows.h"
#include "host/engine.h"
#include "host/tokenizer.h"

typedef struct whit_eval_opts {
	const char *name;              /* of the text, for messages; NULL = "text" */
	int mode;                      /* enum whit_eval_mode */
	int64_t ctx, stride;           /* 0: ctx = min(model context, 512), stride = max(ctx / 2, 1) */
	int64_t max_tokens;            /* use the text's first so many tokens; 0 = all */
	const struct whit_list *apart; /* texts that must share no run with it (host/overlap.h), or NULL */
	int64_t batch_tokens;          /* tokens in flight per pass of the layers, one window at least; 0 = chosen */
	const char *save_logits,
	        *ref_logits;  /* base-logits files to write (of m) and to measure against, or NULL; chunked */
	int64_t floor_tokens; /* positions to measure the noise floor on; 0 = none, -1 = what a second or so allows */
} whit_eval_opts;

/* Sums over a block's output rows of both models, from which its errors follow. */
typedef struct whit_layer_sums {
	double diff2, p2, q2, pq; /* ||P - Q||^2, ||P||^2, ||Q||^2, <P, Q> */
} whit_layer_sums;

typedef struct whit_eval_result {
	whit_summary s; /* Q against P; without ref, the model is P and have_ref is 0 */
	int have_ref, mode;
	int64_t ctx, stride;                           /* stride is ctx when chunked */
	int64_t text_bytes, text_invalid, text_tokens; /* invalid: bytes that are not UTF-8; tokens after max_tokens */
	whit_hash text_hash;
	int64_t vocab;
	/* Reference against itself, fast kernels against plain twins, on a first window of floor_tokens + 1 tokens;
	 * NaN and 0 = not measured. */
	double floor_kld, floor_top1;
	int64_t floor_tokens;
	double bpw_linear, bpw_file;
	int64_t bytes, params;
	double seconds;      /* streaming and metrics, without tokenizing and noise floor */
	double tokens_per_s; /* tokens fed per second; with a reference each passes through both models */
	/* With ref of the same shape, else NULL: of each block's output, relative Frobenius error and cosine. */
	double *layer_err, *layer_cos;
	int64_t layers;
} whit_eval_result;

/* ref NULL and no ref_logits = perplexity only. With ref_logits ctx 0 is the file's, and as many chunks are measured as
 * it has; have_ref is 1, and what such a file cannot tell is NaN (metrics.h). Tokens come from tok, which both models
 * must share: their vocabularies must be equal. Special tokens stand only where the tokenizer puts them at the start;
 * written in the text they are text, as llama-perplexity has it. Errors: text empty, or too short for the mode, or with
 * fewer than 100 positions to score (WHIT_EINPUT); ctx beyond a model's context (WHIT_EINPUT); token beyond the
 * vocabulary; WHIT_ENONFINITE naming window and token. Bytes that are not UTF-8 are a counted warning. Memory does not
 * grow with the text beyond its tokens and 100 bytes per scored position. On an error r is empty. */
int whit_eval_run(whit_eval_result *r, whit_model *m, whit_model *ref, const whit_tok *tok, const char *text, size_t n,
                  const whit_eval_opts *o, whit_err *e);
void whit_eval_free(whit_eval_result *r);
/* Device memory that such a run takes beside the weights (whit_models_device's reserve). */
size_t whit_eval_need(const whit_model *m, const whit_model *ref, const whit_eval_opts *o);
/* linear and whole-file bits per weight (quality.md 6), bytes and parameters, from the checkpoint. linear: all
 * planes of the quantized tensors and their codebooks (each once), or of the blocks' linears where nothing is
 * quantized. params: the source's, tied tensors once. */
void whit_eval_size(const whit_model *m, double *bpw_linear, double *bpw_file, int64_t *bytes, int64_t *params);
/* cosine[i] of both models' logits at the last position of prompt[i]; special tokens in prompts are parsed. */
int whit_eval_prompts(whit_model *m, whit_model *ref, const whit_tok *tok, const char *const *prompt, int n,
                      double *cosine, whit_err *e);

enum { WHIT_PROMPT_CHUNK = 512 }; /* prompt tokens between two looks at the interruption flag */
/* Generation: ids of up to n new tokens appended to out, each also told to on_token (may be NULL); an id that
 * ends a text stops it and is not appended. temp 0 = greedy, lowest id on ties. prompt + n beyond the
 * context, an empty prompt: WHIT_EUSAGE. */
int whit_generate(whit_model *m, const int32_t *prompt, int64_t n_prompt, int64_t n, double temp, uint64_t seed,
                  whit_ids *out, void (*on_token)(void *ctx, int32_t id), void *ctx, whit_err *e);
#endif
