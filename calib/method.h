/* method: how codes are chosen. A method runs on any format it declares it fits; a transform (rotation)
 * goes before it, and the format's bytes never depend on the method. Rows: methods.def; method_NAME.c. */
#ifndef WHIT_METHOD_H
#define WHIT_METHOD_H
#include "formats/checkpoint.h"

enum { WHIT_NEEDS_NOTHING = 0, WHIT_NEEDS_HESSIAN = 1, WHIT_NEEDS_CROSS = 2 /* of the original model's inputs too */ };
enum { WHIT_USES_CROSS = 4 /* those too where texts run through both models, else the Hessian alone */ };

/* How fabq-rc ranks rows for its core (fabq.md 2.3): by what they lose as signs and not in more bits, and for
 * comparison by Fisher information, size, size under the Hessian's diagonal, or lot. */
enum { WHIT_CORE_GAIN, WHIT_CORE_FISHER, WHIT_CORE_MAGNITUDE, WHIT_CORE_HESSIAN, WHIT_CORE_RANDOM };
typedef struct whit_core_rank {
	int by;
	/* Fisher information, or NULL: of rows, and of columns in the frame of the stored ones; rows that come first */
	const double *rows, *cols;
	const uint8_t *spike;
} whit_core_rank;

/* One tensor's worth of work. */
typedef struct whit_job {
	const whit_weight *src;
	whit_mat *dst;        /* spec, rows, cols, width, rot, codebook set; planes allocated. A record with a codebook:
	                         book set, codebook the caller's room for the profiles that the method chooses */
	const float *balance; /* of a record that stores it: t (cols), F16 numbers; feedback is of columns over t */
	const float *importance; /* cols, in the frame of the stored columns, or NULL */
	int rule;                /* WHIT_SCALE_* */
	whit_dev *dev;           /* where rows are encoded; NULL = the CPU */
	whit_dev *solver;        /* where codes are chosen with feedback, if it can; NULL = the CPU */
	int64_t zero_groups;     /* out */
	int64_t bad_scales;      /* out: scales an F16 cannot hold; the caller repeats with scale_f32 */
	double err, ref;         /* out: sum (w - w')^2 over the source's elements, and sum w^2 */
	/* For methods that need a Hessian: of the weight's input, in the frame of the stored columns. */
	const struct whit_feedback *feedback;
	const whit_core_rank *core; /* fabq-rc's; NULL: by gain */
	int refits;                 /* sweeps over what feedback has chosen (refit.h) */
	double loss, loss_nearest;  /* out: sums over rows, of the codes chosen and of the nearest ones (feedback.h) */
	int64_t rows_nearest;       /* out: rows that kept the nearest */
} whit_job;

typedef struct whit_method {
	const char *name, *help;
	const char *id;                     /* what a manifest calls it (turboquant.md 7) */
	unsigned needs;                     /* WHIT_NEEDS_* */
	int rotation;                       /* default rotation kind (rotation.h) */
	int (*fits)(const whit_spec *spec); /* 1 = can fill this format */
	int (*run)(whit_job *j, whit_err *e);
	int feedback; /* with a Hessian: WHIT_FEEDBACK_* */
} whit_method;
extern const whit_method *const whit_methods[];                     /* NULL-terminated, in methods.def order */
const whit_method *whit_method_find(const char *name, whit_err *e); /* unknown: text lists what is known */

/* The row driver that methods without statistics share: fixed blocks of rows, in parallel: decode the source,
 * refuse NaN and Inf (WHIT_ENONFINITE: tensor, row, column), rotate, encode each row by the format's nearest
 * encoder, and measure. Sums run in double in a fixed order: same numbers at any thread count. With a device the same
 * there, strip by strip, planes brought back (rows_device.c). */
int whit_method_rows(whit_job *j, whit_err *e);
int64_t whit_method_scratch(int64_t width); /* its buffers' bytes at the present number of threads */
/* Its buffers' bytes on device d for such a job, as much as d has left or the least that will do: of dst it reads spec,
 * cols, width and paired; rot is dst's rotation, which is not counted. */
int64_t whit_method_device_bytes(whit_dev *d, const whit_mat *src, const whit_mat *dst, const whit_rotation_spec *rot);
/* *err: sum (w - w')^2 of w and what m decodes to, row after row; *ref: sum w^2. */
void whit_weight_error(const whit_weight *w, const whit_mat *m, double *err, double *ref);
/* The row driver's first half, for weights that stay as they are; w must be a number format. */
int whit_weight_finite(const whit_weight *w, whit_err *e);
#endif
