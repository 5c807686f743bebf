/* run: the clock, the roofs, the table and the JSON. */
#define _GNU_SOURCE
#include "bench/run.h"
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "formats/json.h"

static int by_value(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

bench_time bench_spread(double *took, int n) {
	qsort(took, (size_t)n, sizeof *took, by_value);
	return (bench_time){took[n / 2], took[n / 10], took[n - 1 - n / 10], n};
}

bench_time bench_measure(void (*fn)(void *ctx, int64_t k), void *ctx, double seconds) {
	enum { MOST = 4096 };
	static double took[MOST];
	int n = 0;
	int64_t k = 0;
	fn(ctx, k++); /* warm-up: page faults, thread start, lazy tables */
	double begin = whit_now();
	while (n < MOST) {
		double t0 = whit_now();
		fn(ctx, k++);
		took[n++] = whit_now() - t0;
		double spent = whit_now() - begin;
		int enough = took[0] > 1 ? 5 : 30;
		if (n >= enough && spent >= seconds) break;
	}
	return bench_spread(took, n);
}

/* ---- roofs: every thread streams its own slice of arrays twice the last-level cache, at least 256 MB ---- */

typedef struct sweep {
	char *from, *to;
	size_t bytes; /* per slice */
	uint64_t sum[64];
} sweep;

static void copy_slice(void *ctx, int64_t i, int worker) {
	(void)worker;
	sweep *s = ctx;
	memcpy(s->to + (size_t)i * s->bytes, s->from + (size_t)i * s->bytes, s->bytes);
}

static void read_slice(void *ctx, int64_t i, int worker) {
	(void)worker;
	sweep *s = ctx;
	const uint64_t *p = (const uint64_t *)(void *)(s->from + (size_t)i * s->bytes);
	uint64_t a[8] = {0};
	for (size_t j = 0; j < s->bytes / 8; j += 8)
		for (int l = 0; l < 8; l++) a[l] += p[j + (size_t)l];
	for (int l = 0; l < 8; l++) s->sum[i] += a[l];
}

static void copy_all(void *ctx, int64_t k) { (void)k, whit_parallel(64, copy_slice, ctx); }
static void read_all(void *ctx, int64_t k) { (void)k, whit_parallel(64, read_slice, ctx); }

static double roof(size_t llc, double seconds, int copy) {
	size_t bytes = WHIT_MAX(WHIT_MIN(2 * llc, (size_t)1 << 30), (size_t)256 << 20) / 4096 * 4096;
	sweep s = {.from = whit_alloc(bytes), .to = copy ? whit_alloc(bytes) : NULL, .bytes = bytes / 64};
	memset(s.from, 1, bytes);
	bench_time t = bench_measure(copy ? copy_all : read_all, &s, seconds);
	whit_free(s.from);
	whit_free(s.to);
	return (copy ? 2 : 1) * (double)bytes / t.median;
}

static size_t last_level_cache(void) {
	size_t most = 0;
	for (int i = 0; i < 8; i++) {
		char path[96], unit = 0;
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
		FILE *f = fopen(path, "r");
		unsigned long n = 0;
		if (f && fscanf(f, "%lu%c", &n, &unit) == 2)
			most = WHIT_MAX(most, n * (unit == 'M' ? 1u << 20 : 1u << 10));
		if (f) fclose(f);
	}
	return most ? most : (size_t)32 << 20;
}

void bench_begin(bench_run *b, double seconds) {
	memset(b, 0, sizeof *b);
	b->seconds = seconds;
	b->llc = last_level_cache();
	b->copy = roof(b->llc, seconds, 1);
	b->read = roof(b->llc, seconds, 0);
	printf("roofs: copy %.1f GB/s (read + written), read %.1f GB/s, %d threads, %s; LLC %zu MiB; OpenBLAS kernels: "
	       "%s\n",
	       b->copy / 1e9, b->read / 1e9, whit_threads(), whit_cpu_level_name(whit_cpu_level()), b->llc >> 20,
	       openblas_get_corename());
	printf("%-44s %11s %9s %9s %10s %6s %6s\n", "case", "median", "GB/s", "GFLOP/s", "Mweights/s", "R", "C");
}

static void number(double v, int width, int digits) {
	if (v > 0)
		printf(" %*.*f", width, digits, v);
	else
		printf(" %*s", width, "-");
}

bench_row *bench_add(bench_run *b, const bench_row *row) {
	b->row = whit_realloc(b->row, sizeof *row * (size_t)b->n, sizeof *row * (size_t)(b->n + 1));
	bench_row *r = &b->row[b->n++];
	*r = *row;
	printf("%-44s", r->name);
	if (r->wrong || !(r->t.median > 0)) {
		printf(" %s\n", r->wrong ? "WRONG RESULT, no time" : "too short to time");
		memset(&r->t, 0, sizeof r->t);
		return r;
	}
	double s = r->t.median;
	if (r->bytes > 0) r->R = r->bytes / s / b->copy;
	printf(s < 1e-3 ? " %8.2f us" : s < 1 ? " %8.3f ms" : " %9.3f s", s < 1e-3 ? s * 1e6 : s < 1 ? s * 1e3 : s);
	number(r->bytes / s / 1e9, 9, 2);
	number(r->flops / s / 1e9, 9, 1);
	number(r->weights / s / 1e6, 10, 1);
	number(r->R, 6, 2);
	number(r->C, 6, 2);
	printf("\n");
	fflush(stdout);
	return r;
}

static json_t *or_null(double v) { return v > 0 && isfinite(v) ? json_real(v) : json_null(); }

static void cpu_name(char out[128]) {
	FILE *f = fopen("/proc/cpuinfo", "r");
	char line[256];
	snprintf(out, 128, "unknown");
	while (f && fgets(line, sizeof line, f)) {
		char *colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) || !colon) continue;
		snprintf(out, 128, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
		break;
	}
	if (f) fclose(f);
}

int bench_end(bench_run *b, const char *path, whit_err *e) {
	b->copy_end = roof(b->llc, b->seconds, 1);
	double drift = b->copy_end / b->copy - 1;
	printf("copy roof at the end: %.1f GB/s (%+.1f %%)%s\n", b->copy_end / 1e9, 100 * drift,
	       fabs(drift) > 0.03 ? "  DRIFT above 3 %: compare ratios inside this run only" : "");
	int wrong = 0;
	json_t *rows = json_array();
	for (int i = 0; i < b->n; i++) {
		bench_row *r = &b->row[i];
		double s = r->t.median;
		wrong += r->wrong;
		json_array_append_new(rows, json_pack("{s:s, s:o, s:o, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:b}", "case",
		                                      r->name, "seconds", or_null(s), "p10", or_null(r->t.p10), "p90",
		                                      or_null(r->t.p90), "samples", r->t.samples, "bytes_per_s",
		                                      or_null(r->bytes / s), "flops", or_null(r->flops / s),
		                                      "weights_per_s", or_null(r->weights / s), "R", or_null(r->R), "C",
		                                      or_null(r->C), "wrong", r->wrong));
	}
	int rc = 0;
	if (path) {
		char cpu[128];
		cpu_name(cpu);
		json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:f, s:f, s:f, s:b, s:O}",
		                      "format_version", 1, "program", WHIT_VERSION, "device", cpu, "vector_level",
		                      whit_cpu_level_name(whit_cpu_level()), "openblas", openblas_get_config(),
		                      "compiler", __VERSION__, "threads", whit_threads(), "llc_bytes",
		                      (json_int_t)b->llc, "copy_bytes_per_s", b->copy, "read_bytes_per_s", b->read,
		                      "copy_end_bytes_per_s", b->copy_end, "drift", fabs(drift) > 0.03, "rows", rows);
		rc = whit_json_write(j, path, e);
		json_decref(j);
	}
	json_decref(rows);
	whit_free(b->row);
	b->row = NULL;
	if (!rc && wrong) rc = whit_fail(e, WHIT_ECHECK, "bench: %d cases gave a wrong result", wrong);
	return rc;
}

int bench_wants(const bench_filter *f, const char *name) {
	for (int i = 0; i < f->n; i++)
		if (strstr(name, f->word[i])) return 1;
	return f->n == 0;
}
