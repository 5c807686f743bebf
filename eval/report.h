/* report: an evaluation as JSON, as eval_summary.json, and as a table for people (quality.md 5). */
#ifndef WHIT_REPORT_H
#define WHIT_REPORT_H
#include <jansson.h>
#include <stdio.h>
#include "eval/eval.h"

/* What a report tells. Everything is borrowed. */
typedef struct whit_report {
	const char *command;            /* as typed; NULL = unknown */
	const whit_model *model, *ref;  /* ref NULL: perplexity only */
	const whit_adapted *adapter;    /* of the model, or NULL */
	const char *ref_logits;         /* base-logits file that stood for the reference, or NULL */
	const char *model_fp, *ref_fp;  /* whit_ckpt_fingerprint; NULL = not computed */
	const char *compute;            /* "packed": from the codes; "float": decoded at load */
	const char *text;               /* path of the text; NULL = none */
	const whit_eval_result *result; /* NULL: nothing was evaluated, its values are null */
	const char *const *prompt;      /* n_prompt, with the last-token cosine of each; NULL: not measured */
	const double *cosine;
	int n_prompt;
	const json_t *samples; /* generations, as in sample_generations.json; NULL: none */
} whit_report;

/* The report: flat keys for the numbers a script wants (tokens nll ppl ppl_se ppl_ref kld_mean kld_se kld_p50 ...
 * bpw_linear bpw_file bytes seconds tokens_per_s peak_rss), the rest in objects. What was not measured is null,
 * never absent. The caller owns the object and writes it with whit_json_write. */
json_t *whit_report_json(const whit_report *r);
/* eval_summary.json: the same with every measured number as {mean, se, n}. */
json_t *whit_report_summary_json(const whit_report *r);
/* The table. result must be set. */
void whit_report_print(const whit_report *r, FILE *f);
/* A JSON string of n bytes; those that are not UTF-8 (paths, halves of characters) become \xNN. */
json_t *whit_report_text(const char *s, size_t n);
/* Mean over prompts; NaN if there are none. */
double whit_report_cosine(const whit_report *r);
#endif
