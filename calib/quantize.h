/* quantize: plan a whole model, then stream it tensor by tensor to where its results go: an output directory, or a
 * GGUF file. What differs between the two is a sink; the plan, the methods and the walk are the same. */
#ifndef WHIT_QUANTIZE_H
#define WHIT_QUANTIZE_H
#include "calib/calibration.h"
#include "calib/recipe.h"
#include "formats/gguf_model.h"
#include "formats/imatrix.h"
#include "host/engine.h"

/* What a plan is made for. */
typedef struct whit_target {
	int gguf;                      /* a GGUF: its names, types and row order */
	const whit_imatrix *imatrix;   /* importance of columns, or NULL */
	whit_dev *dev;                 /* where rows are encoded; NULL = the CPU */
	whit_calibration *calibration; /* for methods that need it, or NULL; borrowed until the run is over */
	int64_t lora_rank;             /* of an adapter for what the codes lose (lowrank.h), of a GGUF; 0 = none */
	const char *lora;              /* where it goes */
} whit_target;

typedef struct whit_plan_row {
	const whit_weight *w;
	const whit_method *method; /* the rule's, or nearest where it needs statistics that there are none of */
	const whit_rule *rule;     /* NULL: no line concerns it (norm, bias, tied): kept */
	const char *role;          /* the architecture's, NULL = none */
	int64_t layer;             /* -1 = outside layers */
	int cls;                   /* WHIT_CLASS_* */
	const char *why_kept; /* non-NULL: kept, and why; without a GGUF the rest below is then zero but for bytes */
	int absent;           /* not written: an alias, or (GGUF) what the model does not use */
	int as_is;            /* stored with its very bytes, though rows may change places */
	whit_spec spec;       /* stored: the rule's, group resolved for this width, or what a GGUF keeps it as */
	whit_spec asked;      /* the rule's where spec is its fallback, else without fmt (ggml.md 4) */
	whit_rotation_spec rot;
	int64_t width;           /* stored columns */
	int tier;                /* of a record's codebook (frc1.h) */
	int64_t bytes;           /* stored; 0 for an alias */
	const float *importance; /* of the columns; NULL = none given, or the row is rotated */
	float *reordered;        /* the same where it had to be copied; owned */
	char name[64];           /* in a GGUF */
	int64_t paired;          /* whit_mat.paired in a GGUF */
	int changed;             /* values are not the source's in a GGUF, but what `change` makes of them */
	whit_gguf_change change;
} whit_plan_row;

typedef struct whit_plan {
	whit_target target;
	whit_plan_row *row; /* n of them, by layer, then name */
	int64_t n;
	int64_t quantized;                    /* rows that are */
	int64_t linear_weights, linear_bytes; /* of the quantized tensors and codebooks: quality.md 6 */
	int64_t file_bytes;                   /* weights file and manifest, about */
	int64_t params;                       /* of the source, tied tensors once */
	double bpw_linear, bpw_file;
	int64_t peak_bytes;   /* predicted peak memory: process so far, largest tensor, rotations, scratch */
	int64_t device_bytes; /* predicted memory on the target's device: rotations, the largest tensor's strips */
	int64_t requantized;  /* rows whose source is coded already, and that get other codes: losses add up */
	int64_t calibrated, uncalibrated; /* rows whose method has statistics; that take the nearest for want of them */
	int64_t fallbacks;                /* rows whose width is no multiple of the asked format's block */
	int64_t weighted, unweighted, rotated; /* quantized rows with importance; that the imatrix lacks; that are
	                                          rotated, where importance of columns means nothing */
	int64_t lora_matrices, lora_weights, lora_bytes; /* of the adapter: matrices, their weights, bytes of factors */
} whit_plan;

/* Preflight: matches every weight of m against the recipe, checks widths, groups, sizes. Writes nothing.
 * Into a directory, m must not be one that whit wrote. The plan borrows from m, r and t's imatrix. */
int whit_plan_make(whit_plan *p, const whit_model *m, whit_recipe *r, const whit_target *t, whit_err *e);
void whit_plan_free(whit_plan *p);

/* What rule u makes of the matrix row->w in a directory: fills spec, rot, width and bytes (its planes). WHIT_EUSAGE
 * where the format or the rotation does not fit its width. */
int whit_plan_tensor(whit_plan_row *row, const whit_rule *u, whit_err *e);

/* Bytes of the codebooks of n rows, each once: equal ones are shared. */
int64_t whit_plan_books(const whit_plan_row *row, int64_t n);

/* Encodes one tensor after the other; zero, then dev set. Owns rotations and codebooks, which codes share. */
typedef struct whit_encoder {
	whit_dev *dev;                 /* where rows are encoded, NULL = the CPU */
	whit_calibration *calibration; /* for rows whose method needs it */
	whit_rotation **rot;
	struct whit_shared_book **book;
	int64_t n_rot, n_book;
	struct whit_frc_book **frc; /* of records, n_frc of them, by kind and tier */
	int n_frc;
	float **factors; /* of n_factors records */
	int64_t n_factors;
	struct whit_scaled *scaled; /* weights that layers' scaling has changed */
	int64_t folds;              /* values that were scaled */
} whit_encoder;
/* Chooses the codes of row (w, method, rule, spec, rot, width, importance, paired, change) by its method: the bytes
 * that whit_quantize_run stores. m gets planes of its own, with F32 scales if an F16 cannot hold one of them, to be
 * freed by whit_mat_free also after an error; j its errors. m's rotation and codebook live as long as the encoder. NaN
 * or Inf among the weights: WHIT_ENONFINITE. */
int whit_encoder_run(whit_encoder *q, const whit_plan_row *row, whit_mat *m, whit_job *j, whit_err *e);
void whit_encoder_free(whit_encoder *q);

typedef struct whit_residual_stats {
	int64_t matrices, raised, fisher;  /* raised: dampings; fisher: matrices whose rows were weighted by it */
	double before, best, after, share; /* lowrank.h's sums; share: mean over matrices of after / before */
} whit_residual_stats;

typedef struct whit_quantize_stats {
	double seconds, rel_mse; /* rel_mse over all quantized weights */
	int64_t weights, zero_groups, f32_scale_tensors;
	double loss, loss_nearest;            /* feedback.h's, of all calibrated tensors */
	int64_t rows, rows_nearest;           /* of those; that kept the nearest codes */
	double rebuilt_before, rebuilt_after; /* reconstruct.h's, mean over layers */
	int64_t rebuilt;                      /* layers that were reconstructed */
	int64_t folds;                        /* values that were scaled */
	whit_distill_result distilled;
	whit_residual_stats lora;
	char fingerprint[48]; /* of the source, if the sink asked for it */
} whit_quantize_stats;

/* Where results go. A sink is opened once, gets every row of the plan that is not absent in its order, and is then
 * committed or aborted, both of which free it; whit_quantize_run does all that. */
typedef struct whit_sink whit_sink;
struct whit_sink {
	int (*open)(whit_sink *s, const whit_plan *p, const whit_model *m, const whit_recipe *r,
	            whit_quantize_stats *st, whit_err *e);
	int (*add)(whit_sink *s, const whit_plan_row *row, const whit_mat *m, int64_t zero_groups, double rel_mse,
	           whit_err *e);
	/* The source's bytes; own: others of the same type and shape. */
	int (*pass)(whit_sink *s, const whit_plan_row *row, const uint8_t *own, whit_err *e);
	int (*commit)(whit_sink *s, whit_err *e);
	void (*abort)(whit_sink *s);
};
/* An open output directory (the caller commits or aborts it). */
whit_sink *whit_sink_dir(const whit_outdir *dir);
/* A GGUF file, whole or absent. type: what general.file_type is to say ("Q4_K_M"), or NULL: the most common one. */
whit_sink *whit_sink_gguf(const char *path, const char *type);

/* Executes the plan into the sink, which is used up. Where the target's calibration is of texts, they run through the
 * model layer by layer, and each layer is quantized when its inputs are known. One tensor is in memory at a time: the
 * mapped source, the packed planes, and blocks of floats. With an adapter, layers behind its matrices are
 * calibrated to run with it. */
int whit_quantize_run(const whit_plan *p, const whit_model *m, const whit_recipe *r, whit_sink *sink,
                      whit_quantize_stats *st, whit_err *e);
#endif
