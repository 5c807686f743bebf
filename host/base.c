/* base: errors, memory, threads, interruption, clocks. Numbers live in base_num.c, files in base_file.c. */
#define _GNU_SOURCE
#include "host/base.h"
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* ---- errors ---- */

int whit_fail(whit_err *e, int code, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	e->code = code;
	vsnprintf(e->text, sizeof e->text, fmt, ap);
	va_end(ap);
	return code;
}

int whit_fail_in(whit_err *e, const char *fmt, ...) {
	whit_err inner = *e;
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
	va_end(ap);
	size_t at = (size_t)WHIT_MAX(n, 0);
	if (at + 3 > sizeof e->text) return e->code;
	memcpy(e->text + at, ": ", 2);
	size_t room = sizeof e->text - at - 3, len = strlen(inner.text);
	memcpy(e->text + at + 2, inner.text, WHIT_MIN(len, room));
	e->text[at + 2 + WHIT_MIN(len, room)] = 0;
	return e->code;
}

/* ---- memory ---- */

static void out_of_memory(size_t bytes) {
	fprintf(stderr, "whit: memory: need %zu more bytes, the system has none\n", bytes);
	exit(-WHIT_ERESOURCE);
}

/* Large blocks go straight back to the system when freed. Otherwise glibc up to 2.37 cannot reuse the hole that an
 * aligned block leaves (it asks for alignment bytes more than it has), and a loop over tensors grows for ever. */
static void tune_malloc(void) {
#if defined(__GLIBC__)
	mallopt(M_MMAP_THRESHOLD, 128 << 10);
#endif
}

static void *aligned(size_t bytes) {
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, tune_malloc);
	if (bytes > SIZE_MAX / 2) out_of_memory(bytes);
	void *p = aligned_alloc(64, WHIT_MAX((bytes + 63) / 64 * 64, 64));
	if (!p) out_of_memory(bytes);
	return p;
}

void *whit_alloc(size_t bytes) { return memset(aligned(bytes), 0, WHIT_MAX(bytes, 64)); }

void *whit_realloc(void *p, size_t old_bytes, size_t bytes) {
	void *q = whit_alloc(bytes);
	if (p) memcpy(q, p, WHIT_MIN(old_bytes, bytes));
	free(p);
	return q;
}

void whit_free(void *p) { free(p); }

char *whit_strdup(const char *s) {
	size_t n = strlen(s) + 1;
	return memcpy(whit_alloc(n), s, n);
}

char *whit_format_text(const char *fmt, ...) {
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	char *s = whit_alloc((size_t)n + 1);
	vsnprintf(s, (size_t)n + 1, fmt, again);
	va_end(again);
	return s;
}

/* Chunks grow geometrically; reset keeps them all, so a loop that resets allocates only in its first round. */
struct whit_chunk {
	struct whit_chunk *next;
	size_t room, used;
	char *data;
};

void *whit_take_bytes(whit_arena *a, size_t bytes) {
	size_t need = (bytes + 63) / 64 * 64;
	if (need == 0) need = 64;
	struct whit_chunk *c = a->head;
	while (c && c->room - c->used < need) c = c->next;
	if (!c) {
		c = whit_alloc(sizeof *c);
		c->room = WHIT_MAX(need, WHIT_MIN(a->used + ((size_t)1 << 16), (size_t)1 << 26));
		c->data = aligned(c->room);
		c->next = a->head;
		a->head = c;
	}
	void *p = c->data + c->used;
	c->used += need;
	a->used += need;
	a->peak = WHIT_MAX(a->peak, a->used);
	return p;
}

char *whit_take_text(whit_arena *a, const char *s) {
	size_t n = strlen(s) + 1;
	return memcpy(whit_take_bytes(a, n), s, n);
}

void whit_arena_reset(whit_arena *a) {
	for (struct whit_chunk *c = a->head; c; c = c->next) c->used = 0;
	a->used = 0;
}

void whit_arena_free(whit_arena *a) {
	while (a->head) {
		struct whit_chunk *c = a->head;
		a->head = c->next;
		free(c->data);
		free(c);
	}
	memset(a, 0, sizeof *a);
}

/* ---- threads: a pool that spins briefly before it sleeps, because decoding starts a region every few
 * hundred microseconds and a futex wake costs tens ---- */

enum { SPINS = 4000 };

static struct {
	pthread_mutex_t lock; /* guards generation, quit and the sleepers' wait */
	pthread_cond_t wake;
	pthread_mutex_t region; /* one region at a time: a second caller waits */
	pthread_t *thread;
	int n_thread, wanted; /* helpers running; threads wanted in all, 0 = default */
	atomic_uint generation;
	atomic_int busy; /* helpers that have not finished this generation */
	atomic_int quit;
	_Atomic int64_t next;
	int64_t n;
	whit_item_fn fn;
	void *ctx;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .region = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local int inside = -1; /* worker number while running an item */

static void run_items(int worker) {
	inside = worker;
	for (;;) {
		int64_t i = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
		if (i >= pool.n) break;
		pool.fn(pool.ctx, i, worker);
	}
	inside = -1;
}

static void *helper(void *arg) {
	int worker = (int)(intptr_t)arg;
	unsigned seen = 0;
	for (;;) {
		for (int k = 0; k < SPINS && atomic_load(&pool.generation) == seen && !atomic_load(&pool.quit); k++) {
#if defined(__x86_64__)
			__builtin_ia32_pause();
#endif
		}
		pthread_mutex_lock(&pool.lock);
		while (atomic_load(&pool.generation) == seen && !atomic_load(&pool.quit))
			pthread_cond_wait(&pool.wake, &pool.lock);
		pthread_mutex_unlock(&pool.lock);
		if (atomic_load(&pool.quit)) return NULL;
		seen = atomic_load(&pool.generation);
		run_items(worker);
		atomic_fetch_sub(&pool.busy, 1);
	}
}

static int cores(void) {
	static atomic_int found;
	cpu_set_t set;
	if (!found) found = sched_getaffinity(0, sizeof set, &set) ? 1 : WHIT_MAX(1, CPU_COUNT(&set));
	return found;
}

int whit_threads(void) { return pool.wanted ? pool.wanted : cores(); }

static void pool_stop(void) {
	pthread_mutex_lock(&pool.lock);
	atomic_store(&pool.quit, 1);
	pthread_cond_broadcast(&pool.wake);
	pthread_mutex_unlock(&pool.lock);
	for (int i = 0; i < pool.n_thread; i++) pthread_join(pool.thread[i], NULL);
	whit_free(pool.thread);
	pool.thread = NULL;
	pool.n_thread = 0;
	atomic_store(&pool.quit, 0);
}

static void pool_start(int helpers) {
	pool.thread = whit_alloc(sizeof *pool.thread * (size_t)helpers);
	atomic_store(&pool.generation, 0);
	for (int i = 0; i < helpers; i++) {
		/* Fewer threads than asked is no error: items run on those there are. */
		if (pthread_create(&pool.thread[i], NULL, helper, (void *)(intptr_t)(i + 1))) break;
		pool.n_thread++;
	}
	static int registered;
	if (!registered++) atexit(pool_stop);
}

void whit_threads_set(int n) {
	pthread_mutex_lock(&pool.region);
	if (pool.n_thread) pool_stop();
	pool.wanted = WHIT_MAX(0, n);
	pthread_mutex_unlock(&pool.region);
}

void whit_parallel(int64_t n, whit_item_fn fn, void *ctx) {
	if (n <= 0) return;
	if (inside >= 0 || n == 1 || whit_threads() == 1) {
		int worker = WHIT_MAX(inside, 0), was = inside;
		inside = worker;
		for (int64_t i = 0; i < n; i++) fn(ctx, i, worker);
		inside = was;
		return;
	}
	pthread_mutex_lock(&pool.region);
	if (!pool.n_thread) pool_start(whit_threads() - 1);
	pool.fn = fn;
	pool.ctx = ctx;
	pool.n = n;
	atomic_store(&pool.next, 0);
	atomic_store(&pool.busy, pool.n_thread);
	pthread_mutex_lock(&pool.lock);
	atomic_fetch_add(&pool.generation, 1);
	pthread_cond_broadcast(&pool.wake);
	pthread_mutex_unlock(&pool.lock);
	run_items(0);
	for (int k = 0; atomic_load(&pool.busy) > 0; k++) {
#if defined(__x86_64__)
		__builtin_ia32_pause();
#endif
		if (k > SPINS) sched_yield();
	}
	pthread_mutex_unlock(&pool.region);
}

/* ---- the CPU's vector level ---- */

static int cpu_cap = WHIT_CPU_TOP;

int whit_cpu_level(void) {
	static int found = -1;
	if (found < 0) {
#if defined(__x86_64__)
		__builtin_cpu_init();
		unsigned a, b, c = 0, d; /* clang 14 has no name for F16C: bit 29 of leaf 1 */
		__get_cpuid(1, &a, &b, &c, &d);
		int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (c >> 29 & 1);
		int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
		found = avx512 && __builtin_cpu_supports("avx512vnni") ? 3 : avx512 ? 2 : avx2 ? 1 : 0;
#else
		found = 0;
#endif
	}
	return WHIT_MIN(found, cpu_cap);
}

void whit_cpu_cap(int level) { cpu_cap = level; }

const char *whit_cpu_level_name(int level) {
	static const char *const name[] = {"plain", "avx2", "avx512", "vnni"};
	return level >= 0 && level < WHIT_COUNT(name) ? name[level] : "unknown";
}

/* ---- interruption ---- */

static volatile sig_atomic_t caught;

static void on_signal(int sig) {
	if (caught) _exit(128 + sig);
	caught = sig;
}

static void on_bus(int sig) {
	(void)sig;
	static const char text[] = "whit: a mapped file shrank or its disk failed while it was being read\n";
	if (write(2, text, sizeof text - 1) < 0) _exit(-WHIT_EINPUT);
	_exit(-WHIT_EINPUT);
}

void whit_signals_catch(void) {
	struct sigaction a = {.sa_handler = on_signal}, hup;
	sigemptyset(&a.sa_mask);
	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
	if (!sigaction(SIGHUP, NULL, &hup) && hup.sa_handler != SIG_IGN) sigaction(SIGHUP, &a, NULL); /* not nohup's */
	a.sa_handler = on_bus;
	sigaction(SIGBUS, &a, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file size limit is then EFBIG from write, with cleanup */
}

int whit_interrupted(whit_err *e) {
	if (!caught) return 0;
	if (caught != SIGINT) return whit_fail(e, WHIT_ETERM, "terminated: nothing was left half-written");
	return whit_fail(e, WHIT_EINT, "interrupted: nothing was left half-written");
}

/* ---- clocks and memory ---- */

double whit_now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t whit_peak_rss(void) {
	struct rusage u;
	return getrusage(RUSAGE_SELF, &u) ? 0 : (int64_t)u.ru_maxrss * 1024;
}
