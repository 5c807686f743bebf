/* ladder: what many quantizations of one model lose on one text, each by one seed or several: the table, and the
 * picture of loss against size. */
#ifndef WHIT_LADDER_H
#define WHIT_LADDER_H
#include <jansson.h>
#include <stdio.h>
#include "eval/eval.h"

/* What is known of one run. Those from WHIT_RUN_TEXT on are of the text and the reference, the same in all runs but for
 * the noise floor, which is NaN where it was not measured. */
enum whit_run_value {
	WHIT_RUN_BYTES,
	WHIT_RUN_BPW_LINEAR,
	WHIT_RUN_BPW_FILE,
	WHIT_RUN_PPL,
	WHIT_RUN_PPL_SE,
	WHIT_RUN_KLD,
	WHIT_RUN_KLD_SE,
	WHIT_RUN_KLD_P999,
	WHIT_RUN_TOP1,
	WHIT_RUN_TOP1_SE,
	WHIT_RUN_REL_MSE,
	WHIT_RUN_QUANTIZE_S,
	WHIT_RUN_EVAL_S,
	WHIT_RUN_TEXT,
	WHIT_RUN_CTX = WHIT_RUN_TEXT,
	WHIT_RUN_STRIDE,
	WHIT_RUN_TOKENS,
	WHIT_RUN_POSITIONS,
	WHIT_RUN_WINDOWS,
	WHIT_RUN_PPL_REF,
	WHIT_RUN_FLOOR_KLD,
	WHIT_RUN_FLOOR_POSITIONS,
	WHIT_RUN_VALUES
};
typedef struct whit_run_name {
	const char *name; /* as JSON says it */
	int whole;        /* a whole number */
} whit_run_name;
extern const whit_run_name whit_run_names[WHIT_RUN_VALUES];

typedef struct whit_ladder_run {
	int64_t seed;
	int done;
	double value[WHIT_RUN_VALUES];
} whit_ladder_run;

typedef struct whit_ladder_entry {
	const char *label, *options; /* options: of whit quantize, as typed */
	whit_ladder_run *run;        /* n of them, one where no seed has a part in it */
	int n;
} whit_ladder_entry;

typedef struct whit_ladder {      /* everything is borrowed */
	const char *model, *text; /* as typed */
	const char *mode;
	const json_t *inputs; /* what the numbers depend on beside an entry's own, "program" and "device" among it; its
	                         hash is the fingerprint */
	const char *fingerprint;
	whit_ladder_entry *entry; /* n of them */
	int n;
} whit_ladder;

/* Copies what an evaluation says into a run's values: all but the relative MSE and the seconds of quantizing. */
void whit_ladder_values(double value[WHIT_RUN_VALUES], const whit_eval_result *r);
/* Mean over an entry's runs, and standard deviation of one run, NaN for a single one. */
double whit_ladder_mean(const whit_ladder_entry *x, enum whit_run_value v);
double whit_ladder_sd(const whit_ladder_entry *x, enum whit_run_value v);
/* A value from WHIT_RUN_TEXT on: of the first finished run that has it, or NaN. */
double whit_ladder_text(const whit_ladder *t, enum whit_run_value v);
/* 1 where no other entry is as small and loses less, or smaller and loses as little: whole-file bits against mean KLD.
 */
int whit_ladder_front(const whit_ladder *t, int i);

/* 1 where the loss is below three times the noise floor, or what F32 sums leave: it is not ranked (quality.md 2). */
int whit_ladder_at_floor(const whit_ladder *t, const whit_ladder_entry *x);

/* A run's values as an object: the text's ones, the other ones, or both. */
json_t *whit_ladder_run_json(const whit_ladder_run *r, int own, int text);
/* The machine-readable table; the caller owns it. Seconds apart, the same bytes whenever the same is measured. */
json_t *whit_ladder_json(const whit_ladder *t);
/* The table for people; and the picture, which has no seconds. whit_free them. */
char *whit_ladder_markdown(const whit_ladder *t);
char *whit_ladder_svg(const whit_ladder *t);
void whit_ladder_print(const whit_ladder *t, FILE *f);
#endif
