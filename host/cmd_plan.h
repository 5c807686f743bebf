/* cmd_plan: what quantize and export share around the work: where the result may go, the plan in print and as JSON,
 * and the result. */
#ifndef WHIT_CMD_PLAN_H
#define WHIT_CMD_PLAN_H
#include <jansson.h>
#include "calib/quantize.h"
#include "host/options.h"

typedef struct whit_dest { /* strings are the command's options */
	const char *command, *model, *out;
	int force, gguf;  /* gguf: OUT is a GGUF file, else a directory */
	int bare;         /* nothing on stdout */
	const char *lora; /* an adapter that goes beside a GGUF, of rank lora_rank; NULL: none */
	int64_t lora_rank;
} whit_dest;

/* What calibrated methods are given: statistics or texts; options of both commands. */
typedef struct whit_calib_args {
	const char *stats, *eval; /* eval: a text that must be apart too, or NULL */
	whit_list text, apart;
	int64_t samples, len, refits, groups;
	double damping, alpha;
	const char *scaling, *metric, *fisher, *core_by;
	int act_order, tiers;
	whit_reconstruct_opts block;
	whit_distill_opts distill;
} whit_calib_args;
/* clang-format off */
#define WHIT_CALIB_DEFAULTS { .damping = -1, .alpha = 0.5, .groups = 4 }
#define WHIT_CALIB_OPTIONS(text_option, a) \
	{text_option, 'l', "FILE", "calibration text of methods that need it; may be given several times", \
	 &(a).text, 0}, \
	{"--stats", 'r', "DIR", "statistics instead (whit calibrate --stats hessian), of the original inputs", \
	 &(a).stats, 0}, \
	{"--calib-samples", 'i', "N", "use the first N samples of the calibration text (default: all)", \
	 &(a).samples, 0}, \
	{"--calib-len", 'i', "N", "tokens of a sample (default: the model's context, at most 512)", \
	 &(a).len, 0}, \
	{"--damping", 'd', "X", "added to the Hessian's diagonal, over its mean (default: the method's)", \
	 &(a).damping, 0}, \
	{"--alpha", 'd', "X", "of gptaq: how much of the inputs' error is made up for (default 0.5)", \
	 &(a).alpha, 0}, \
	{"--metric", 's', "K", "hessian; guided: of groups of rows, weighted by gradients; of nearest codes diag or fisher (--fisher)", \
	 &(a).metric, 0}, \
	{"--groups", 'i', "N", "of rows, for --metric guided with " text_option " (default 4)", &(a).groups, 0}, \
	{"--scaling", 's', "K", "awq, awq-clip, smoothquant, balance or h-alpha: columns scaled first, folded into norms (default none)", \
	 &(a).scaling, 0}, \
	{"--fisher", 's', "DIR", "statistics (whit calibrate --stats fisher) that weigh fabq-rc's rows, and its choices under --bpw", \
	 &(a).fisher, 0}, \
	{"--core-by", 's', "K", "rank fabq-rc's core rows by gain, fisher, magnitude, hessian or random (default gain)", \
	 &(a).core_by, 0}, \
	{"--tiers", 'f', NULL, "four codebooks for fabq-rc's records, by Fisher information", &(a).tiers, 0}, \
	{"--act-order", 'f', NULL, "round columns in the order of their inputs' size", &(a).act_order, 0}, \
	{"--refits", 'i', "N", "sweeps over each row's scales and codes, all in sight, behind the solver (default 0)", \
	 &(a).refits, 0}, \
	{"--block-steps", 'i', "N", "then fit each layer's codes and scales to its outputs in N steps (default 0)", \
	 &(a).block.steps, 0}, \
	{"--block-rate", 'd', "X", "of the weights behind codes, in distances of levels (default 0.005)", \
	 &(a).block.rate, 0}, \
	{"--block-scale-rate", 'd', "X", "of the logarithms of scales (default 0.02)", \
	 &(a).block.scale_rate, 0}, \
	{"--distill-steps", 'i', "N", "then fit all layers' scales to the model's distribution in N steps (default 0)", \
	 &(a).distill.steps, 0}, \
	{"--distill-rate", 'd', "X", "of the weights behind codes, which else stay, in distances of levels (default 0)", \
	 &(a).distill.rate, 0}, \
	{"--distill-scale-rate", 'd', "X", "of the logarithms of scales (default 0.005)", \
	 &(a).distill.scale_rate, 0}, \
	{"--apart", 'l', "PATH", "text or statistics that must share no 50 tokens with the calibration text", \
	 &(a).apart, 0}
/* clang-format on */

typedef struct whit_writing { /* zero, then dest and recipe set by the command, the rest by the functions below */
	whit_dest dest;
	whit_recipe recipe;
	whit_calib_args calib;
	whit_imatrix imatrix;
	int imatrix_given;
	whit_calibration calibration; /* of calib: zero where neither was given */
	whit_model running, original; /* the models that texts run through */
	whit_tok *tok;
	whit_map *map;   /* of each text */
	whit_list apart; /* calib's, and its eval */
	whit_dev *dev;   /* that --device says, NULL = the CPU */
	whit_model model;
	whit_plan plan;
	whit_quantize_stats stats;
	json_t *json; /* what --json writes */
} whit_writing;

/* OUT must be new, or with force something that whit wrote (a GGUF: any GGUF), outside the input, and its place must
 * exist. */
int whit_dest_check(const whit_dest *d, whit_err *e);
/* Opens the model, the device, and the imatrix if that is not NULL, and plans: the result fits the file system. */
int whit_writing_plan(whit_writing *w, const char *imatrix, whit_err *e);
/* Prints the plan, and warns of losses that add up. Begins w->json, its "result" null as yet. */
void whit_writing_show(whit_writing *w);
/* After the run that ended with rc: prints the result and adds it to w->json, or says what the disk lacked. Returns
 * rc. */
int whit_writing_done(whit_writing *w, int rc, whit_err *e);
void whit_writing_free(whit_writing *w);
int whit_recipe_read(whit_recipe *r, const char *path, const whit_rule *base, whit_err *e); /* parses a file */
/* For a GGUF: the preset of that name, or one type for all matrices; option: what names it, for messages. */
int whit_recipe_of_type(whit_recipe *r, const char *type, whit_rule *base, const char *option, whit_err *e);
#endif
