/* run: how things are timed here. Work is repeated until 30 samples and the time budget are reached; the
 * median, p10 and p90 are kept. What is in the clock: the named work alone, on warm threads; weights are
 * cold (a ring of copies larger than the last-level cache) wherever the case says so. A case whose result
 * is wrong has no time. */
#ifndef WHIT_BENCH_RUN_H
#define WHIT_BENCH_RUN_H
#include <jansson.h>
#include "host/base.h"

typedef struct bench_time { /* seconds per call */
	double median, p10, p90;
	int samples;
} bench_time;

/* Sorts the n > 0 durations in place and reads median, p10 and p90 off them. */
bench_time bench_spread(double *took, int n);
/* Times fn(ctx, k), k counting calls from 0, for about `seconds` and at least 30 calls (5 where one call
 * lasts more than a second). */
bench_time bench_measure(void (*fn)(void *ctx, int64_t k), void *ctx, double seconds);

typedef struct bench_row {
	char name[96];
	bench_time t;
	double bytes, flops, weights; /* per call; 0 = not meaningful */
	double R;                     /* bytes/s over the copy roof of this run; 0 = none */
	double C;                     /* rate over OpenBLAS sgemm's at the same shape; 0 = none */
	int wrong;                    /* result differs from the oracle: no time is reported */
} bench_row;

typedef struct bench_run {
	bench_row *row;
	int n;
	double copy, read; /* bytes/s at the start */
	double copy_end;   /* and at the end: drift flags the run */
	double seconds;    /* time budget per case */
	size_t llc;        /* last-level cache, bytes */
} bench_run;

void bench_begin(bench_run *b, double seconds);
/* Adds a row, fills R from bytes, prints it. */
bench_row *bench_add(bench_run *b, const bench_row *row);
/* Prints the closing lines and, unless path is NULL, writes the JSON (device, versions, roofs, rows). */
int bench_end(bench_run *b, const char *path, whit_err *e);

/* The case families; each adds its rows. filter: words a row's name must contain, or none. */
typedef struct bench_filter {
	const char **word;
	int n;
} bench_filter;
int bench_wants(const bench_filter *f, const char *name);
int bench_kernels(bench_run *b, const bench_filter *f, whit_err *e);
int bench_model(bench_run *b, const char *path, unsigned open_flags, int64_t prompt, int64_t n, whit_err *e);
#endif
