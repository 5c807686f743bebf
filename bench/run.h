/* run: how things are timed here, on the CPU or on a device. Work is repeated until 30 samples and the time budget are
 * reached; the median and percentiles are kept. What is in the clock: the named work alone, on warm threads; weights
 * are cold (a ring of copies larger than the last-level cache) wherever the case says so. A case whose result is wrong
 * has no time. Work on a device is timed by the wall clock around calls that end with a sync, so what the host and the
 * way to the device take is in it. */
#ifndef WHIT_BENCH_RUN_H
#define WHIT_BENCH_RUN_H
#include <jansson.h>
#include "cuda/dev.h"
#include "host/engine.h"

typedef struct bench_time { /* seconds per call */
	double median, p10, p90, p99, mean;
	int samples;
} bench_time;

/* Sorts the n > 0 durations in place and reads the percentiles off them. */
bench_time bench_spread(double *took, int n);
/* The same of `launches` calls of queue(ctx, i) on d, i from 0: recorded as one graph and replayed where the device
 * can; a call's share, with the gaps between calls. queue's scratch is forgotten before each of them. */
bench_time bench_queued(whit_dev *d, void (*queue)(void *ctx, int i), void *ctx, int launches, double seconds,
                        whit_err *e);
/* The same of work that changes what it works on: before(ctx) queues fresh inputs ahead of each sample, outside the
 * clock. */
bench_time bench_queued_afresh(whit_dev *d, void (*queue)(void *ctx, int i), void (*before)(void *ctx), void *ctx,
                               int launches, double seconds, whit_err *e);
enum { BENCH_MOST = 4096 }; /* samples, at most */
/* 1: n samples, the first of which took `first` seconds and all `spent`, are enough for a budget of `seconds`. */
int bench_enough(int n, double first, double spent, double seconds);
/* Times fn(ctx, k), k counting calls from 0, for about `seconds` and at least 30 calls (5 where one call
 * lasts more than a second). */
bench_time bench_measure(void (*fn)(void *ctx, int64_t k), void *ctx, double seconds);

typedef struct bench_row {
	char name[96];
	bench_time t;
	double bytes, flops, weights; /* per call; 0 = not meaningful */
	double R;                     /* bytes/s over the copy roof of this run; 0 = none */
	double C;         /* rate over the BLAS's at the same shape: OpenBLAS sgemm, cuBLAS with BF16; 0 = none */
	const char *tier; /* of a product on a device (host/ops.h), else NULL */
	int wrong;        /* result differs from the oracle: no time is reported */
} bench_row;

/* What the machine can do at most, measured in the process that is compared with it; 0 = not measured. */
typedef struct bench_roofs {
	double copy;   /* bytes/s, read and written counted */
	double read;   /* bytes/s; the CPU's */
	double upload; /* bytes/s from the host's memory to the device's, through whit_dev_upload */
	double sync;   /* seconds from queueing 4 bytes of work to knowing that they are done */
} bench_roofs;

typedef struct bench_run {
	bench_row *row;
	int n;
	whit_dev *dev; /* what is measured; NULL: the CPU. Borrowed */
	whit_dev_info info;
	bench_roofs roof, end; /* before and after the cases: drift flags the run */
	double seconds;        /* time budget per case */
	size_t llc;            /* last-level cache of the CPU, bytes */
	json_t *models;        /* one object for each model and prompt */
} bench_run;

/* Takes the roofs of dev (NULL: the CPU) and prints them. Free with bench_free, after an error too. */
int bench_begin(bench_run *b, double seconds, whit_dev *dev, whit_err *e);
/* Adds a row, fills R from bytes, prints it. */
bench_row *bench_add(bench_run *b, const bench_row *row);
/* Takes the roofs again, prints the closing lines and, unless path is NULL, writes the JSON (device, versions, date,
 * roofs, rows, models). */
int bench_end(bench_run *b, const char *path, whit_err *e);
void bench_free(bench_run *b);

/* The case families; each adds its rows. filter: words a row's name must contain, or none. */
typedef struct bench_filter {
	const char **word;
	int n;
} bench_filter;
int bench_wants(const bench_filter *f, const char *name);
int bench_kernels(bench_run *b, const bench_filter *f, whit_err *e);  /* on the CPU */
int bench_products(bench_run *b, const bench_filter *f, whit_err *e); /* on b->dev: packed products */
/* Times every tier of those products, or of the models' own, and writes the best of each to the file at path (which
 * tune.h tells of), where something was measured. */
int bench_tune(bench_run *b, const bench_filter *f, const char *const *model, int n_model, const char *path,
               whit_err *e);
int bench_ops(bench_run *b, const bench_filter *f, whit_err *e); /* on b->dev: what quantizing is made of */
/* Prints the cases of two files of --json side by side. Errors: a file that is none, no case in common. */
int bench_compare(const char *before, const char *after, whit_err *e);
/* Draws one such file as an SVG: rates against operations per byte, under that run's roofs. */
int bench_roofline(const char *run, const char *svg, whit_err *e);
typedef struct bench_load { /* what a model is given to do */
	unsigned open_flags;
	int kv, greedy; /* element type of a device's caches; 1: decode by whit_model_next */
	const int64_t *prompt;
	int n_prompt;
	int64_t n; /* tokens to decode behind each prompt */
} bench_load;
/* Prefill and decode of the model at path, on dev, freshly opened so that its peak is this model's (NULL: the CPU).
 * Adds two rows and an object of b->models for each prompt, and prints what the object holds. Random tokens. */
int bench_model(bench_run *b, const char *path, const bench_load *load, whit_dev *dev, whit_err *e);
#endif
