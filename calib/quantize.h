/* quantize: plan a whole model, then stream it tensor by tensor into an output directory. */
#ifndef WHIT_QUANTIZE_H
#define WHIT_QUANTIZE_H
#include "calib/recipe.h"
#include "host/engine.h"

typedef struct whit_plan_row {
	const whit_weight *w;
	const whit_rule *rule; /* NULL: no line concerns it (norm, bias, tied): kept */
	const char *role;      /* the architecture's, NULL = none */
	int64_t layer;         /* -1 = outside layers */
	int cls;               /* WHIT_CLASS_* */
	const char *why_kept;  /* non-NULL: kept, and why; the rest below is then zero but for bytes */
	whit_spec spec;        /* the rule's, group resolved for this width */
	whit_rotation_spec rot;
	int64_t width; /* stored columns */
	int64_t bytes; /* stored; 0 for an alias */
} whit_plan_row;

typedef struct whit_plan {
	whit_plan_row *row; /* n of them, by layer, then name */
	int64_t n;
	int64_t quantized;                    /* rows that are */
	int64_t linear_weights, linear_bytes; /* of the quantized tensors and codebooks: quality.md 6 */
	int64_t file_bytes;                   /* weights file and manifest, about */
	int64_t params;                       /* of the source, tied tensors once */
	double bpw_linear, bpw_file;
	int64_t peak_bytes; /* predicted peak memory: process so far, largest tensor, rotations, scratch */
} whit_plan;

/* Preflight: matches every weight of m against the recipe, checks widths, groups, sizes. Writes nothing.
 * m must not be quantized already. The plan borrows from m and r. */
int whit_plan_make(whit_plan *p, const whit_model *m, whit_recipe *r, whit_err *e);
void whit_plan_free(whit_plan *p);

typedef struct whit_quantize_stats {
	double seconds, rel_mse; /* rel_mse over all quantized weights */
	int64_t weights, zero_groups, f32_scale_tensors;
	char fingerprint[48]; /* of the source */
} whit_quantize_stats;
/* Executes the plan into dir (open; the caller commits or aborts). One tensor is in memory at a time: the
 * mapped source, the packed planes, and blocks of floats. */
int whit_quantize_run(const whit_plan *p, const whit_model *m, const whit_recipe *r, const whit_outdir *dir,
                      whit_quantize_stats *st, whit_err *e);
#endif
