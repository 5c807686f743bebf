/* calibration: where methods have the Hessian of a weight's input from: a directory of statistics (whit calibrate), of
 * the original model's inputs; or texts that run through the model while it is being quantized, layer by layer, each
 * layer seeing what the quantized ones before it make of them. */
#ifndef WHIT_CALIBRATION_H
#define WHIT_CALIBRATION_H
#include "calib/feedback.h"
#include "calib/distill.h"
#include "calib/fisher.h"
#include "calib/reconstruct.h"
#include "calib/scaling.h"
#include "calib/stats_dir.h"

/* What statistics weigh errors by, as --metric has it: hessian (also NULL), guided, or, where codes are chosen without
 * feedback, of columns alone: diag, the mean square of inputs, and fisher, Fisher information's sums. -1: another. */
enum { WHIT_METRIC_HESSIAN, WHIT_METRIC_GUIDED, WHIT_METRIC_DIAG, WHIT_METRIC_FISHER };
int whit_metric_parse(const char *name);

/* WHIT_CORE_* of gain (also NULL), fisher, magnitude, hessian and random; -1: it is none of them. */
int whit_core_parse(const char *name);

typedef struct whit_calibration {
	whit_feedback_opts feedback;
	whit_stats_dir dir; /* open, or path NULL: texts */
	/* Texts: what a layer's statistics are taken of, with o.kinds, o.other and o.layer set by whit_quantize_run.
	 * `running` is the model once more: in it, quantized matrices take the places of its own; `original` is the
	 * model, needed by methods that ask for its inputs too (WHIT_NEEDS_CROSS) and by
	 * reconstruction. All borrowed. */
	whit_model *running, *original;
	whit_dev *dev; /* where both go before texts run through them; NULL = they stay on the CPU */
	const whit_tok *tok;
	whit_stats_text *text;
	int n_text;
	whit_stats_opts o;
	int refits;         /* refit.h */
	whit_fisher fisher; /* of the model, or dir.path NULL: closed with the rest */
	int core_by;        /* WHIT_CORE_* */
	int tiers;          /* 1: a codebook for each quarter of records by Fisher information per weight */
	int metric;         /* WHIT_METRIC_* */
	/* Hessians of groups of rows, weighted by gradients: a directory's, or of `running` before anything is
	 * quantized, in o.groups groups. */
	int guided;
	int scaling;                       /* WHIT_SCALING_*: of each layer's columns, before its codes are chosen */
	whit_reconstruct_opts reconstruct; /* of each layer, when its codes are chosen; only with texts */
	whit_distill_opts distill;         /* of the model, when all are; only with texts */
	/* file-local from here */
	const whit_stats *live;
	struct whit_calibration_made *made; /* of the layer at hand */
	int n_made;
	int64_t layer;
	int64_t retries, dead; /* out: dampings that had to grow; columns whose input was always zero */
	int64_t few;           /* out: inputs with fewer tokens than columns */
} whit_calibration;

/* A weight that a method asks about. */
typedef struct whit_calibration_of {
	const char *name;
	const whit_rotation *rot;       /* of its stored columns, or NULL */
	const whit_gguf_change *change; /* of its columns, or NULL */
	const float *scale;             /* what its columns have been multiplied by (scaling.h), or NULL */
	int kind;                       /* WHIT_FEEDBACK_* */
	int cross;                      /* G too */
} whit_calibration_of;
/* *f, which lives until the next layer is asked for. Errors: no statistics of that weight (WHIT_EINPUT), and
 * whit_feedback_make's. */
int whit_calibration_get(whit_calibration *c, const whit_calibration_of *w, const whit_feedback **f, whit_err *e);
/* The groups of rows that guided sums are of; 0: a directory has none. */
int whit_calibration_groups(const whit_calibration *c);
/* The same of group g's rows of that weight by themselves: H = E[(mean of d^2 over the group) x x^T] (GuidedQuant,
 * 2505.07004, eq. 7), and G likewise; of a group without gradients all tokens weigh the same, which is said. The caller
 * frees f, after errors too. */
int whit_calibration_guided(whit_calibration *c, const whit_calibration_of *w, int g, whit_feedback *f, whit_err *e);
/* *h (n, n; the caller frees it): the mean of x x^T of what that weight multiplies, in the frame that w tells of. */
int whit_calibration_hessian(const whit_calibration *c, const whit_calibration_of *w, double **h, int64_t *n,
                             whit_err *e);
/* *size (cols, the caller frees it): what that weight multiplies, column by column, in the model's own frame: of kind
 * "in.abs" the mean of |x|, "in.max" the largest; NULL where a directory lacks it. */
int whit_calibration_sizes(const whit_calibration *c, const char *name, const char *kind, double **size, whit_err *e);
/* 1: a directory has that statistic ("hessian", "fisher"; stats.h). */
int whit_calibration_sums(const whit_calibration *c, const char *statistic);
/* sum (rows): the weight's fisher.rows of all domains, of a directory that has fisher. */
int whit_calibration_rows(const whit_calibration *c, const char *name, int64_t rows, double *sum, whit_err *e);
/* With metric diag or fisher: the importance of that weight's columns (cols), mean 1, the caller's to whit_free; *x
 * NULL: there are no statistics of it. */
int whit_calibration_columns(const whit_calibration *c, const char *name, int64_t rows, int64_t cols, float **x,
                             whit_err *e);
/* 1: it has, or will have, statistics of that weight. */
int whit_calibration_has(const whit_calibration *c, const char *name, int64_t layer);
/* Opens a directory of m's statistics, for that metric, in c->dir, c->metric and c->guided; whit_calibration_free
 * closes it. Errors: whit_stats_dir_open's; "guided", and it has no such sums (WHIT_EINPUT). */
int whit_calibration_open(whit_calibration *c, const char *path, const char *metric, const whit_model *m, whit_err *e);
/* Frees what it has made; closes the directory. */
void whit_calibration_free(whit_calibration *c);
#endif
