/* packed: the directory whit writes: weights (safetensors) + quant_manifest.json + the source's config and
 * tokenizer files (turboquant.md 7). Reading it is checkpoint.h's business; this is the writer. */
#ifndef WHIT_PACKED_H
#define WHIT_PACKED_H
#include "formats/checkpoint.h"

/* What the manifest says once for the whole output. Strings are borrowed. */
typedef struct whit_packed_info {
	const char *method;      /* "turboquant_mse", "nearest" */
	const char *scale;       /* "least_squares", "raw", "norm_corrected", "ip" */
	const char *density;     /* "gaussian" or "beta": how codebooks were fitted */
	const char *recipe;      /* resolved recipe text */
	const char *source_id;   /* directory name of the source */
	const char *fingerprint; /* whit_ckpt_fingerprint of the source */
	int sidecar;             /* also dump matrices and codebooks to turboquant_sidecar.safetensors, which
	                            overrides what readers derive; forced when the source has one */
} whit_packed_info;

typedef struct whit_packed_out whit_packed_out;
/* Begins the weights and manifest inside an open output directory. plan: the source's weights, of which
 * each will be added exactly once. all_tq: every quantized tensor is of family "tq": then the names are
 * turboquant_weights.safetensors and format "whit-turboquant", else packed_weights.safetensors and
 * "whit-packed". */
int whit_packed_open(whit_packed_out **o, const whit_outdir *dir, const whit_ckpt *source, int all_tq,
                     const whit_packed_info *info, whit_err *e);
/* Adds a quantized weight: planes of m, rotation and codebook recorded (equal ones shared, "r0", "c0"). */
int whit_packed_add(whit_packed_out *o, const whit_weight *src, const whit_mat *m, int64_t zero_groups, double rel_mse,
                    whit_err *e);
/* Adds a weight unchanged: name, dtype and bytes, or (own not NULL) those bytes. One that is packed already stays so.
 */
int whit_packed_pass(whit_packed_out *o, const whit_weight *src, const uint8_t *own, whit_err *e);
/* Verifies that every source weight but aliases was added once, copies config and tokenizer files, writes the manifest.
 * Frees o, also on error. The directory is not committed here. */
int whit_packed_commit(whit_packed_out *o, whit_err *e);
void whit_packed_abort(whit_packed_out *o);
#endif
