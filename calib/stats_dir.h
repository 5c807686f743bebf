/* stats_dir: a directory of statistics (stats.h) as a whole: what it was made of, whether it fits a model, how domains
 * agree, and the sum of two. */
#ifndef WHIT_STATS_DIR_H
#define WHIT_STATS_DIR_H
#include <jansson.h>
#include "calib/stats.h"

/* What a run is made of: all that its bytes depend on. model_print, other_print: whit_ckpt_fingerprint of the model and
 * of cross's other (NULL: none); where: the CPU's level or the device. The caller's to json_decref. */
json_t *whit_stats_job(const whit_model *m, const char *model_print, const char *other_print,
                       const whit_stats_text *text, int n_text, const whit_stats_opts *o, const char *where);
/* Puts job into the directory as job.json, or, where an interrupted run left one, compares: a difference is
 * WHIT_EFINGERPRINT and lists both sides. *resumed: one was there. */
int whit_stats_job_put(const char *dir, const json_t *job, int *resumed, whit_err *e);
/* Writes statistics.json for the layers' files that s left in dir, and removes job.json. */
int whit_stats_finish(const whit_stats *s, const char *dir, const json_t *job, whit_err *e);

/* out = a + b: of the same model, kinds, estimator and units (WHIT_EFINGERPRINT tells which differ), without a text in
 * common (WHIT_EUSAGE). out is an empty directory. */
int whit_stats_merge(const char *a, const char *b, const char *out, whit_err *e);

/* Opens a directory for a method: m NULL, or the model that it must be of (else WHIT_EFINGERPRINT, both sides). */
typedef struct whit_stats_dir {
	char *path;
	json_t *about; /* statistics.json */
	int64_t layers;
} whit_stats_dir;
int whit_stats_dir_open(whit_stats_dir *d, const char *path, const whit_model *m, whit_err *e);
void whit_stats_dir_close(whit_stats_dir *d);
/* The weight that stands for the input of `weight` (NULL: no statistics of it), its layer and columns. */
const char *whit_stats_dir_input(const whit_stats_dir *d, const char *weight, int64_t *layer, int64_t *cols);
/* A sum of `weight` of a layer, its input's found under the weight that stands for it; u (kind's dtype, ndim and shape
 * set) gets data, the caller's to whit_free. Absent: WHIT_EINPUT. */
int whit_stats_dir_read(const whit_stats_dir *d, int64_t layer, const char *domain, const char *weight,
                        const char *kind, whit_sum *u, whit_err *e);

/* Spearman's rank correlation of a and b (n), ties by their mean rank; 0 where either is constant. */
double whit_spearman(const double *a, const double *b, int64_t n);
#endif
