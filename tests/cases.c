/* cases [--need-device] [--small] [--seeds N] [SET...]: runs the case table on its targets: cpu and emu, or, built with
 * CASES_CUDA, on a GPU; --small leaves rows of model size out there. A row's bytes must not depend on the schedule or
 * the run. Exit 1: a failure, 77: all skipped. */
#include "tests/case.h"
#include "tests/test.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CASES(name) extern const case_set cases_##name;
#include "tests/cases.def"
#undef CASES
static const case_set *const sets[] = {
#define CASES(name) &cases_##name,
#include "tests/cases.def"
#undef CASES
};

static int small;
enum { GUARD = 256 }; /* bytes on either side */
#ifdef CASES_CUDA
enum { ON_GPU = 1 };
void case_schedule(int i, char *text, size_t size) { snprintf(text, size, "cuda, run %d", i + 1); }
void case_shared(whit_dev *d, int bytes) { (void)d, (void)bytes; }
#else
enum { ON_GPU = 0 };
#endif

/* ---- what rows call ---- */

void case_label(case_run *r, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(r->label, sizeof r->label, fmt, ap);
	va_end(ap);
}

void case_fail(case_run *r, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	printf("FAILED: %s %s (%s): ", r->set, r->label, r->where);
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	r->failed++;
}

int case_skip(case_run *r, int cond) { return r->skipped = !!cond; }
int case_skip_big(case_run *r, int big) { return case_skip(r, big && !r->full); }
int case_skip_sanitized(case_run *r, int slow) { return case_skip(r, slow && TEST_SANITIZED); }

void *case_host(case_run *r, size_t bytes) { return whit_take_bytes(&r->host, bytes); }

void *case_random(case_run *r, size_t bytes) {
	uint8_t *p = case_host(r, bytes);
	whit_rng g;
	whit_rng_key(&g, 3, ++r->key, 0);
	for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)(whit_rng_next(&g) >> 56);
	return p;
}

float *case_normal(case_run *r, int64_t n) {
	float *p = case_host(r, (size_t)n * sizeof *p);
	whit_rng g;
	whit_rng_key(&g, 3, ++r->key, 1);
	for (int64_t i = 0; i < n; i++) p[i] = (float)whit_rng_normal(&g);
	return p;
}

/* Guards are NaN whatever reads them. */
static void *place(case_run *r, const void *init, size_t bytes) {
	uint8_t *all = case_host(r, bytes + 2 * GUARD), *base = all;
	if (r->buffers == CASE_BUFFERS) abort();
	memset(all, 0xff, bytes + 2 * GUARD);
	if (init && bytes) memcpy(all + GUARD, init, bytes);
	if (r->dev) {
		base = whit_dev_alloc(r->dev, bytes + 2 * GUARD);
		whit_dev_put(r->dev, base, all, bytes + 2 * GUARD);
	}
	r->buffer[r->buffers].base = base;
	r->buffer[r->buffers++].bytes = bytes;
	return base + GUARD;
}

void *case_in(case_run *r, const void *p, size_t bytes) { return place(r, p, bytes); }
float *case_out(case_run *r, int64_t n) { return place(r, NULL, (size_t)n * sizeof(float)); }
float *case_inout(case_run *r, const float *init, int64_t n) { return place(r, init, (size_t)n * sizeof(float)); }

/* The output, back on the host, its guards checked; NULL after a failure. */
static const float *fetch(case_run *r, const float *out, int64_t n) {
	size_t bytes = (size_t)n * sizeof(float);
	uint8_t *all = case_host(r, bytes + 2 * GUARD), *base = (uint8_t *)(uintptr_t)out - GUARD;
	whit_err e;
	if (r->dev) {
		whit_dev_get(r->dev, all, base, bytes + 2 * GUARD);
		if (whit_dev_sync(r->dev, &e)) return case_fail(r, "%s", e.text), NULL;
	} else {
		memcpy(all, base, bytes + 2 * GUARD);
	}
	for (size_t i = 0; i < GUARD; i++)
		if (all[i] != 0xff || all[GUARD + bytes + i] != 0xff)
			return case_fail(r, "wrote outside its output"), NULL;
	whit_hash h = whit_hash_bytes(all + GUARD, bytes);
	r->hash = r->hash * 31 + h.lo;
	return (const float *)(all + GUARD);
}

void case_near(case_run *r, const float *out, const float *want, const float *mag, int64_t n, double tol) {
	const float *got = fetch(r, out, n);
	for (int64_t i = 0; got && i < n; i++) {
		double t = tol * (mag ? mag[i] : 1);
		if (fabs((double)got[i] - want[i]) <= t) continue;
		case_fail(r, "element %lld of %lld is %.9g, need %.9g within %.3g", (long long)i, (long long)n,
		          (double)got[i], (double)want[i], t);
		return;
	}
}

void case_same(case_run *r, const float *out, const float *want, int64_t n) {
	const float *got = fetch(r, out, n);
	for (int64_t i = 0; got && i < n; i++) {
		if (!memcmp(got + i, want + i, sizeof *got) || (isnan(want[i]) && isnan(got[i]))) continue;
		case_fail(r, "element %lld of %lld is %.9g, need %.9g, the same bits", (long long)i, (long long)n,
		          (double)got[i], (double)want[i]);
		return;
	}
}

void case_doubles(case_run *r, const void *out, const double *want, int64_t n, double tol) {
	const double *got = (const double *)(const void *)fetch(r, out, 2 * n);
	for (int64_t i = 0; got && i < n; i++) {
		if (fabs(got[i] - want[i]) <= tol * fmax(fabs(want[i]), 1)) continue;
		case_fail(r, "double %lld of %lld is %.17g, need %.17g within %.3g", (long long)i, (long long)n, got[i],
		          want[i], tol);
		return;
	}
}

void case_bits(case_run *r, const void *out, const uint32_t *want, int64_t n) {
	const uint32_t *got = (const uint32_t *)(const void *)fetch(r, out, n);
	for (int64_t i = 0; got && i < n; i++) {
		if (got[i] == want[i]) continue;
		case_fail(r, "word %lld of %lld is %08x, need %08x", (long long)i, (long long)n, got[i], want[i]);
		return;
	}
}

/* ---- the runner ---- */

typedef struct tally {
	int ok, failed, skipped;
} tally;

/* Runs row i; 0 if skipped. *hash is that of the outputs, 0 of a row that failed. */
static int run_row(const case_set *s, int i, whit_dev *dev, const char *where, tally *t, uint64_t *hash) {
	case_run r = {.dev = dev, .full = ON_GPU && !small, .set = s->name, .where = where, .key = (uint64_t)i * 1000};
	whit_err e = {0};
	s->row(&r, i);
	for (int b = 0; dev && b < r.buffers; b++) whit_dev_free(dev, r.buffer[b].base);
	if (dev && whit_dev_sync(dev, &e)) case_fail(&r, "%s", e.text);
	whit_arena_free(&r.host);
	t->ok += !r.failed && !r.skipped;
	t->failed += !!r.failed;
	t->skipped += r.skipped;
	*hash = r.failed ? 0 : r.hash;
	return !r.skipped;
}

static void run_cpu(const case_set *s, tally *t) {
	uint64_t hash;
	for (int i = 0; i < s->rows; i++) run_row(s, i, NULL, "cpu", t, &hash);
}

/* Every row in several orders; bytes are those of the first. */
static void run_device(const case_set *s, whit_dev *dev, int orders, tally *t) {
	char where[100];
	for (int i = 0; i < s->rows; i++) {
		uint64_t first = 0, hash;
		for (int k = 0; k < orders; k++) {
			case_schedule(k, where, sizeof where);
			if (!run_row(s, i, dev, where, t, &hash)) break;
			if (k == 0) first = hash;
			if (!hash || !first || hash == first) continue;
			printf("FAILED: %s row %d (%s): other bytes than at first: the order of threads shows\n",
			       s->name, i, where);
			t->failed++, t->ok--;
		}
	}
}

static void count(const char *target, const tally *t, const char *reason) {
	printf("  %s %d ok", target, t->ok);
	if (t->failed) printf(", %d FAILED", t->failed);
	if (t->skipped) printf(", %d skipped (%s)", t->skipped, reason);
}

static int chosen(int argc, char **argv, const char *name) {
	int any = 0;
	for (int i = 1; i < argc; i++)
		if (argv[i][0] != '-' && strcmp(argv[i - 1], "--seeds")) {
			any = 1;
			if (!strcmp(argv[i], name)) return 1;
		}
	return !any;
}

int main(int argc, char **argv) {
	int need = 0, seeds = 3, ok = 0, failed = 0, known = 0;
	whit_dev *dev = NULL;
	whit_err e = {0};
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++) {
		need |= !strcmp(argv[i], "--need-device");
		small |= !strcmp(argv[i], "--small");
		if (i + 1 < argc && !strcmp(argv[i], "--seeds")) seeds = atoi(argv[i + 1]);
	}
	int missing = whit_dev_open(&dev, 0, &e);
	for (int i = 0; i < WHIT_COUNT(sets); i++) {
		tally cpu = {0}, device = {0};
		if (!chosen(argc, argv, sets[i]->name)) continue;
		known = 1;
		printf("%s:", sets[i]->name);
		if (!ON_GPU) {
			run_cpu(sets[i], &cpu);
			count("cpu", &cpu, "model shape, or no CPU twin of this arithmetic");
		}
		if (missing)
			device.skipped = sets[i]->rows;
		else
			run_device(sets[i], dev, ON_GPU ? 2 : sets[i]->orders ? sets[i]->orders : 2 + seeds, &device);
		count(ON_GPU ? "cuda" : "emu", &device, missing ? "no device" : "model shape");
		printf("\n");
		ok += cpu.ok + device.ok, failed += cpu.failed + device.failed;
	}
	if (missing) printf("%s: %s\n", need ? "FAILED" : "SKIP", e.text);
	whit_dev_close(dev);
	return failed || (missing && need) || !known ? 1 : ok ? 0 : 77;
}
