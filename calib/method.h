/* method: how codes are chosen. A method runs on any format it declares it fits; a transform (rotation)
 * goes before it, and the format's bytes never depend on the method. Rows: methods.def; method_NAME.c. */
#ifndef WHIT_METHOD_H
#define WHIT_METHOD_H
#include "formats/checkpoint.h"

enum { WHIT_NEEDS_NOTHING = 0, WHIT_NEEDS_DIAG = 1, WHIT_NEEDS_HESSIAN = 2, WHIT_NEEDS_FISHER = 4 };

/* One tensor's worth of work. */
typedef struct whit_job {
	const whit_weight *src;
	whit_mat *dst;            /* spec, rows, cols, width, rot, codebook set; planes allocated */
	const float *importance;  /* cols, in the frame of the source, or NULL */
	int rule;                 /* WHIT_SCALE_* */
	int64_t zero_groups;      /* out */
	int64_t bad_scales;       /* out: scales an F16 cannot hold; the caller repeats with scale_f32 */
	double err, ref;          /* out: sum (w - w')^2 and sum w^2 */
} whit_job;

typedef struct whit_method {
	const char *name, *help;
	unsigned needs; /* WHIT_NEEDS_* */
	int rotation;   /* default rotation kind (rotation.h) */
	int (*fits)(const whit_spec *spec); /* 1 = can fill this format */
	int (*run)(whit_job *j, whit_err *e);
} whit_method;
extern const whit_method *const whit_methods[]; /* NULL-terminated */
const whit_method *whit_method_find(const char *name, whit_err *e); /* unknown: text lists what is known */
#endif
