/* quantize: plan a whole model, then stream it tensor by tensor into an output directory. */
#ifndef WHIT_QUANTIZE_H
#define WHIT_QUANTIZE_H
#include "calib/recipe.h"
#include "host/engine.h"

typedef struct whit_plan_row {
	const whit_weight *w;
	const whit_rule *rule; /* NULL: not a candidate (norm, bias): kept */
	whit_rotation_spec rot;
	int64_t width, bytes;  /* stored */
	const char *why_kept;  /* non-NULL: kept, and why */
} whit_plan_row;

typedef struct whit_plan {
	whit_plan_row *row;
	int64_t n;
	int64_t linear_weights, linear_bytes, file_bytes, params;
	double bpw_linear, bpw_file;
	int64_t peak_bytes; /* predicted peak memory */
} whit_plan;

/* Preflight: matches every weight of m against the recipe, checks widths, groups, sizes. Writes nothing. */
int whit_plan_make(whit_plan *p, const whit_model *m, whit_recipe *r, whit_err *e);
void whit_plan_free(whit_plan *p);

typedef struct whit_quantize_stats {
	double seconds, rel_mse; /* rel_mse over all quantized weights */
	int64_t weights, zero_groups, f32_scale_tensors;
} whit_quantize_stats;
/* Executes the plan into dir (open; the caller commits or aborts). Peak memory <= largest tensor's work. */
int whit_quantize_run(const whit_plan *p, const whit_model *m, const whit_recipe *r, const whit_outdir *dir,
                      whit_quantize_stats *st, whit_err *e);
#endif
