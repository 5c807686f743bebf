/* run: the clock, the roofs, the table and the JSON. */
#define _GNU_SOURCE
#include "bench/run.h"
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "formats/json.h"

static int by_value(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

bench_time bench_spread(double *took, int n) {
	double sum = 0;
	qsort(took, (size_t)n, sizeof *took, by_value);
	for (int i = 0; i < n; i++) sum += took[i];
	return (bench_time){took[n / 2], took[n / 10], took[n - 1 - n / 10], took[n - 1 - n / 100], sum / n, n};
}

int bench_enough(int n, double first, double spent, double seconds) {
	int least = first > 1 ? 5 : 30;
	return n >= BENCH_MOST || (n >= least && spent >= seconds);
}

/* before(ctx), unless NULL, ahead of every call and outside the clock. */
static bench_time measure(void (*fn)(void *ctx, int64_t k), void (*before)(void *ctx), void *ctx, double seconds) {
	static double took[BENCH_MOST];
	int n = 0;
	int64_t k = 0;
	if (before) before(ctx);
	fn(ctx, k++); /* warm-up: page faults, thread start, lazy tables */
	double begin = whit_now();
	do {
		if (before) before(ctx);
		double t0 = whit_now();
		fn(ctx, k++);
		took[n++] = whit_now() - t0;
	} while (!bench_enough(n, took[0], whit_now() - begin, seconds));
	return bench_spread(took, n);
}

bench_time bench_measure(void (*fn)(void *ctx, int64_t k), void *ctx, double seconds) {
	return measure(fn, NULL, ctx, seconds);
}

typedef struct queued {
	whit_dev *d;
	void (*queue)(void *ctx, int i);
	void (*before)(void *ctx);
	void *ctx;
	int launches;
	whit_graph *graph;
} queued;

static void queue_all(const queued *q) {
	for (int i = 0; i < q->launches; i++) {
		whit_dev_reset(q->d); /* as a model's steps do: one after the other, they share scratch */
		q->queue(q->ctx, i);
	}
}

static void replay(void *ctx, int64_t k) {
	queued *q = ctx;
	(void)k;
	if (q->graph)
		whit_graph_run(q->d, q->graph);
	else
		queue_all(q);
	whit_dev_sync(q->d, &(whit_err){0}); /* an error stays in what is compared */
}

static void fresh(void *ctx) {
	const queued *q = ctx;
	q->before(q->ctx);
	whit_dev_sync(q->d, &(whit_err){0});
}

bench_time bench_queued_afresh(whit_dev *d, void (*queue)(void *ctx, int i), void (*before)(void *ctx), void *ctx,
                               int launches, double seconds, whit_err *e) {
	queued q = {d, queue, before, ctx, launches, NULL};
	bench_time t = {0};
	if (before) before(ctx);
	queue_all(&q); /* what it allocates, it allocates now */
	if (whit_dev_sync(d, e)) return t;
	if (whit_graph_begin(d)) {
		queue_all(&q);
		q.graph = whit_graph_end(d);
	}
	if (whit_dev_sync(d, e)) return t;
	t = measure(replay, before ? fresh : NULL, &q, seconds);
	whit_graph_free(q.graph);
	double *v[] = {&t.median, &t.p10, &t.p90, &t.p99, &t.mean};
	for (int i = 0; i < WHIT_COUNT(v); i++) *v[i] /= launches;
	return t;
}

bench_time bench_queued(whit_dev *d, void (*queue)(void *ctx, int i), void *ctx, int launches, double seconds,
                        whit_err *e) {
	return bench_queued_afresh(d, queue, NULL, ctx, launches, seconds, e);
}

/* ---- roofs of the CPU: every thread streams its own slice of arrays twice the last-level cache, at least 256 MB ----
 */

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

static double cpu_roof(size_t llc, double seconds, int copy) {
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

/* ---- roofs of a device ---- */

/* Copies queued before a sync, so that the sync is a small part of them; bytes of one upload. */
enum { COPIES = 4, UPLOAD = 128 << 20 };

typedef struct moves {
	whit_dev *d;
	uint8_t *from, *to, *host;
	size_t bytes, upload;
	whit_err e;
} moves;

static void settle(moves *m) {
	whit_err e = {0};
	if (whit_dev_sync(m->d, &e) && !m->e.code) m->e = e;
}

static void copy_device(void *ctx, int64_t k) {
	(void)k;
	moves *m = ctx;
	for (int i = 0; i < COPIES; i++) whit_dev_copy(m->d, m->to, m->from, m->bytes);
	settle(m);
}

static void upload_device(void *ctx, int64_t k) {
	(void)k;
	moves *m = ctx;
	whit_dev_upload(m->d, m->to, m->host, m->upload);
	settle(m);
}

static void touch_device(void *ctx, int64_t k) {
	(void)k;
	moves *m = ctx;
	whit_dev_zero(m->d, m->to, 4);
	settle(m);
}

/* Buffers of 1 GB, or 4 L2 caches where that is more; less where the device's memory is small. An emulated device
 * (driver 0) has no roof worth a gigabyte. */
static int device_roofs(bench_run *b, bench_roofs *r, whit_err *e) {
	size_t least = 4 * b->info.l2, most = whit_dev_left(b->dev) / 3;
	size_t bytes = b->info.driver ? WHIT_MAX((size_t)1 << 30, least) : least;
	moves m = {.d = b->dev, .bytes = WHIT_MAX(WHIT_MIN(bytes, most), 1 << 20) / 256 * 256};
	m.upload = WHIT_MIN(m.bytes, UPLOAD);
	m.from = whit_dev_alloc(b->dev, m.bytes);
	m.to = whit_dev_alloc(b->dev, m.bytes);
	m.host = whit_alloc(m.upload);
	memset(m.host, 1, m.upload);
	if (m.to) whit_dev_upload(b->dev, m.from, m.host, m.upload); /* data that is no zero, spread over the buffer */
	for (size_t at = m.upload; m.to && at < m.bytes; at += m.upload)
		whit_dev_copy(b->dev, m.from + at, m.from, WHIT_MIN(m.upload, m.bytes - at));
	settle(&m);
	if (!m.e.code) {
		r->copy = 2.0 * COPIES * (double)m.bytes / bench_measure(copy_device, &m, b->seconds).median;
		r->upload = (double)m.upload / bench_measure(upload_device, &m, b->seconds).median;
		r->sync = bench_measure(touch_device, &m, 0).median;
	}
	whit_dev_free(b->dev, m.from);
	whit_dev_free(b->dev, m.to);
	whit_free(m.host);
	if (m.e.code) *e = m.e;
	return m.e.code;
}

static int take_roofs(bench_run *b, bench_roofs *r, whit_err *e) {
	if (b->dev) return device_roofs(b, r, e);
	r->copy = cpu_roof(b->llc, b->seconds, 1);
	r->read = cpu_roof(b->llc, b->seconds, 0);
	return 0;
}

int bench_begin(bench_run *b, double seconds, whit_dev *dev, whit_err *e) {
	memset(b, 0, sizeof *b);
	b->seconds = seconds;
	b->llc = last_level_cache();
	b->dev = dev;
	if (dev) whit_dev_describe(dev, &b->info);
	int rc = take_roofs(b, &b->roof, e);
	if (rc) return rc;
	b->models = json_array();
	if (dev)
		printf("roofs of %s (compute capability %d.%d, %d SMs, L2 %zu MiB): copy %.1f GB/s (read + written), "
		       "upload %.1f GB/s, %.1f us to queue and wait\n",
		       b->info.name, b->info.major, b->info.minor, b->info.sms, b->info.l2 >> 20, b->roof.copy / 1e9,
		       b->roof.upload / 1e9, b->roof.sync * 1e6);
	else
		printf("roofs: copy %.1f GB/s (read + written), read %.1f GB/s, %d threads, %s; LLC %zu MiB; OpenBLAS "
		       "kernels: %s\n",
		       b->roof.copy / 1e9, b->roof.read / 1e9, whit_threads(), whit_cpu_level_name(whit_cpu_level()),
		       b->llc >> 20, openblas_get_corename());
	printf("%-44s %11s %9s %9s %10s %6s %6s\n", "case", "median", "GB/s", "GFLOP/s", "Mweights/s", "R", "C");
	return 0;
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
	if (r->bytes > 0) r->R = r->bytes / s / b->roof.copy;
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

/* How much a roof is off at the end, as a share; a roof that was not measured is not off. */
static double off(double begin, double end) { return begin > 0 ? end / begin - 1 : 0; }

static json_t *cuda_json(const bench_run *b) {
	const whit_dev_info *i = &b->info;
	char capability[32], driver[32], toolkit[32];
	if (!b->dev) return json_null();
	snprintf(capability, sizeof capability, "%d.%d", i->major, i->minor);
	snprintf(driver, sizeof driver, "%d.%d", i->driver / 1000, i->driver / 10 % 100);
	snprintf(toolkit, sizeof toolkit, "%d.%d", i->toolkit / 1000, i->toolkit / 10 % 100);
	return json_pack("{s:s, s:i, s:s, s:i, s:I, s:I, s:I, s:s, s:s, s:i, s:i}", "name", i->name, "index", i->index,
	                 "compute_capability", capability, "sms", i->sms, "l2_bytes", (json_int_t)i->l2, "memory_bytes",
	                 (json_int_t)i->memory, "free_bytes", (json_int_t)i->free, "driver", driver, "toolkit", toolkit,
	                 "terms", whit_dev_terms(b->dev, 0), "tuned", i->tuned);
}

static json_t *row_json(const bench_row *r) {
	double s = r->t.median;
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:s?, s:b}", "case", r->name,
	                 "seconds", or_null(s), "p10", or_null(r->t.p10), "p90", or_null(r->t.p90), "p99",
	                 or_null(r->t.p99), "samples", r->t.samples, "bytes_per_s", or_null(r->bytes / s), "flops",
	                 or_null(r->flops / s), "weights_per_s", or_null(r->weights / s), "R", or_null(r->R), "C",
	                 or_null(r->C), "tier", r->tier, "wrong", r->wrong);
}

static json_t *roofs_json(const bench_roofs *r) {
	return json_pack("{s:o, s:o, s:o, s:o}", "copy_bytes_per_s", or_null(r->copy), "read_bytes_per_s",
	                 or_null(r->read), "upload_bytes_per_s", or_null(r->upload), "sync_seconds", or_null(r->sync));
}

static int write_json(const bench_run *b, const char *path, double drift, whit_err *e) {
	char cpu[128], date[32];
	time_t now = time(NULL);
	struct tm utc;
	cpu_name(cpu);
	strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
	json_t *rows = json_array();
	for (int i = 0; i < b->n; i++) json_array_append_new(rows, row_json(&b->row[i]));
	json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:o, s:s, s:s, s:s, s:i, s:I, s:o, s:o, s:f, s:b, s:o, s:O}",
	                      "format_version", 2, "program", WHIT_VERSION, "date", date, "device",
	                      b->dev ? b->info.name : cpu, "cpu", cpu, "cuda", cuda_json(b), "vector_level",
	                      whit_cpu_level_name(whit_cpu_level()), "openblas", openblas_get_config(), "compiler",
	                      __VERSION__, "threads", whit_threads(), "llc_bytes", (json_int_t)b->llc, "roofs",
	                      roofs_json(&b->roof), "roofs_end", roofs_json(&b->end), "drift_share", drift, "drift",
	                      !(fabs(drift) <= 0.03), "rows", rows, "models", b->models);
	int rc = whit_json_write(j, path, e);
	json_decref(j);
	return rc;
}

int bench_end(bench_run *b, const char *path, whit_err *e) {
	int rc = take_roofs(b, &b->end, e), wrong = 0;
	double copy = off(b->roof.copy, b->end.copy), read = off(b->roof.read, b->end.read);
	double drift = fabs(copy) >= fabs(read) ? copy : read;
	if (rc) return rc;
	printf("copy roof at the end: %.1f GB/s (%+.1f %%)", b->end.copy / 1e9, 100 * copy);
	if (b->end.read > 0) printf(", read %.1f GB/s (%+.1f %%)", b->end.read / 1e9, 100 * read);
	printf("%s\n", fabs(drift) <= 0.03 ? "" : "  DRIFT above 3 %: compare ratios inside this run only");
	for (int i = 0; i < b->n; i++) wrong += b->row[i].wrong;
	if (path) rc = write_json(b, path, drift, e);
	if (!rc && wrong) rc = whit_fail(e, WHIT_ECHECK, "bench: %d cases gave a wrong result", wrong);
	return rc;
}

void bench_free(bench_run *b) {
	json_decref(b->models);
	whit_free(b->row);
	memset(b, 0, sizeof *b);
}

int bench_wants(const bench_filter *f, const char *name) {
	for (int i = 0; i < f->n; i++)
		if (strstr(name, f->word[i])) return 1;
	return f->n == 0;
}
