/* case: one list of cases per op, checked on the CPU (fast twin against plain one), under emulation with several
 * schedules, and on a GPU where there is one. A row's function makes its inputs, computes the plain CPU's answer, and
 * calls the twin of the target at hand between guards on poisoned output:
 *
 *	float *y = case_out(r, n);
 *	if (r->dev) whit_add_cuda(r->dev, y, case_in(r, a, bytes), ...); else whit_add_fast_cpu(y, a, ...);
 *	case_near(r, y, want, mag, n, tol);
 *
 * Sets: cases.def; one file case_NAME.c each. */
#ifndef WHIT_CASE_H
#define WHIT_CASE_H
#include "cuda/dev.h"

enum { CASE_BUFFERS = 32 };
typedef struct case_run {
	whit_dev *dev;   /* NULL: the target is cpu */
	int full;        /* a GPU: rows of model size are run too */
	char label[128]; /* of the row, for messages */
	/* the runner's */
	const char *set, *where;
	uint64_t key;
	whit_arena host;
	struct {
		uint8_t *base;
		size_t bytes;
	} buffer[CASE_BUFFERS];
	int buffers, failed, skipped;
	uint64_t hash; /* of the outputs */
} case_run;

typedef struct case_set {
	const char *name;
	int rows;
	void (*row)(case_run *r, int i);
	int orders; /* of threads under emulation; 0: the usual number */
} case_set;

/* Names the row, for messages. */
void case_label(case_run *r, const char *fmt, ...) WHIT_PRINTF(2, 3);
/* Counts the row as skipped where cond holds, and returns cond. */
int case_skip(case_run *r, int cond);
/* Where rows of model size are not run: counts the row as skipped and returns 1. */
int case_skip_big(case_run *r, int big);
/* Where a sanitizer watches: whole models take minutes there, and their kernels are sanitized one by one. */
int case_skip_sanitized(case_run *r, int slow);
/* Host inputs, the same for the same row on every target. */
float *case_normal(case_run *r, int64_t n);
void *case_random(case_run *r, size_t bytes);
void *case_host(case_run *r, size_t bytes);
/* The same bytes where the target reads them. */
void *case_in(case_run *r, const void *p, size_t bytes);
/* n floats of output where the target writes them: NaN, or init's values, between guards. */
float *case_out(case_run *r, int64_t n);
float *case_inout(case_run *r, const float *init, int64_t n);
/* |got - want| <= tol * mag[i] (mag NULL: 1), NaN fails; or the same bits, where want is NaN any NaN. */
void case_near(case_run *r, const float *out, const float *want, const float *mag, int64_t n, double tol);
void case_same(case_run *r, const float *out, const float *want, int64_t n);
/* n words, whatever they are. */
void case_bits(case_run *r, const void *out, const uint32_t *want, int64_t n);
/* n doubles, within tol of the larger of 1 and the value. */
void case_doubles(case_run *r, const void *out, const double *want, int64_t n, double tol);
void case_fail(case_run *r, const char *fmt, ...) WHIT_PRINTF(2, 3);

/* The emulator's (tests/emu/dev.cpp): launches from now on run in order i. */
void case_schedule(int i, char *text, size_t size);
/* And a block may ask for so many bytes of shared memory, 0: 99 KB as at first. A GPU has what it has. */
void case_shared(whit_dev *d, int bytes);
#endif
