/* base: what every room may use. Errors, memory, threads, random numbers, hashes, 16-bit floats,
 * whole-file output. Knows no tensor, no model and no option. */
#ifndef WHIT_BASE_H
#define WHIT_BASE_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WHIT_VERSION "0.1.0"
#define WHIT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define WHIT_MIN(a, b) ((a) < (b) ? (a) : (b))
#define WHIT_MAX(a, b) ((a) > (b) ? (a) : (b))
#define WHIT_COUNT(a) ((int64_t)(sizeof(a) / sizeof((a)[0])))
/* Marks the few inline functions that kernels share with the host. */
#ifdef __CUDACC__
#define WHIT_BOTH static __host__ __device__ inline
#else
#define WHIT_BOTH static inline
#endif
/* A device with its memory and its queue of work (cuda/dev.h); named here for the prototypes of _cuda twins. */
typedef struct whit_dev whit_dev;
/* Marks what only a program with kernels has: elsewhere it is NULL, and nothing calls it, for want of a device. Kernels
 * themselves have each other, and say so: then a library can hand out just those that a program needs. */
#ifdef __CUDACC__
#define WHIT_DEVICE
#else
#define WHIT_DEVICE __attribute__((weak))
#endif

/* ---- errors: 0 is good, a negative code is bad and its text says "FILE: thing: is X, need Y" ----
 * The code is the negated exit status, so main() exits with -code. Only main() prints. */
enum {
	WHIT_EINTERNAL = -1,    /* a defect of whit */
	WHIT_EUSAGE = -2,       /* options, recipe, output that exists */
	WHIT_EINPUT = -3,       /* a file is not what it must be */
	WHIT_ERESOURCE = -4,    /* memory, disk, device */
	WHIT_ENONFINITE = -5,   /* NaN or Inf in weights or states */
	WHIT_EFINGERPRINT = -6, /* saved state or reference belongs to other inputs */
	WHIT_ECHECK = -8,       /* output is complete, a check after it failed */
	WHIT_EINT = -130,       /* SIGINT */
	WHIT_ETERM = -143       /* SIGTERM, SIGHUP */
};

typedef struct whit_err {
	int code;
	char text[1024];
} whit_err;

/* Stores code and text, returns code: `return whit_fail(e, WHIT_EINPUT, "%s: is %d, need %d", ...)`. */
int whit_fail(whit_err *e, int code, const char *fmt, ...) WHIT_PRINTF(3, 4);
/* Prepends "context: " to the text of an error that is already set; returns its code. */
int whit_fail_in(whit_err *e, const char *fmt, ...) WHIT_PRINTF(2, 3);

/* ---- memory: 64-byte aligned, zeroed; running out is fatal here (exit 4), never NULL ---- */
void *whit_alloc(size_t bytes);
void *whit_realloc(void *p, size_t old_bytes, size_t bytes); /* the new part is zeroed */
void whit_free(void *p);
char *whit_strdup(const char *s);
char *whit_format_text(const char *fmt, ...) WHIT_PRINTF(1, 2); /* caller frees with whit_free */

/* An arena: one lifetime, one free. Pieces are 64-byte aligned and NOT zeroed. */
typedef struct whit_arena {
	struct whit_chunk *head;
	size_t used, peak;
} whit_arena;
void *whit_take_bytes(whit_arena *a, size_t bytes);
static inline float *whit_take(whit_arena *a, int64_t n) {
	return (float *)whit_take_bytes(a, (size_t)n * sizeof(float));
}
char *whit_take_text(whit_arena *a, const char *s);
void whit_arena_reset(whit_arena *a); /* keeps the memory, forgets the pieces */
void whit_arena_free(whit_arena *a);

/* ---- threads ----
 * Runs fn(ctx, i, worker) for every i in [0, n), once each, on up to whit_threads() threads, the caller
 * included; returns when all are done. Items are handed out in any order, so an item's result must not
 * depend on another's: then results do not depend on the thread count. worker is in [0, whit_threads()).
 * Called from inside an item, it runs serially as that worker. */
typedef void (*whit_item_fn)(void *ctx, int64_t i, int worker);
void whit_parallel(int64_t n, whit_item_fn fn, void *ctx);
void whit_threads_set(int n); /* 0: one per core this process may use; not while items run */
int whit_threads(void);

/* ---- the CPU's vector level: 0 plain C, 1 AVX2+FMA+F16C, 2 AVX-512 F BW VL DQ, 3 also VNNI ---- */
enum { WHIT_CPU_TOP = 3 };
int whit_cpu_level(void);
void whit_cpu_cap(int level); /* use at most this level (tests, --cpu) */
const char *whit_cpu_level_name(int level);

/* ---- interruption: the first SIGINT, SIGTERM or SIGHUP sets a flag, the second ends the process ---- */
void whit_signals_catch(void);
int whit_interrupted(whit_err *e); /* 0, or WHIT_EINT / WHIT_ETERM with a text */

/* ---- random numbers ---- */
/* Standard MT19937 as torch's CPU generator seeds it (seed mod 2^32, multiplier 1812433253). */
typedef struct whit_mt {
	uint32_t s[624];
	int i;
} whit_mt;
void whit_mt_seed(whit_mt *m, uint64_t seed);
uint32_t whit_mt_next(whit_mt *m);
/* torch.randn(n) with that generator: fills x[n]. Box-Muller in blocks of 16 for n >= 16, scalar double
 * pairs below (turboquant.md 5a). Agrees with torch to the last few ulps. */
void whit_mt_randn(whit_mt *m, float *x, int64_t n);

/* xoshiro256**, keyed: the same (seed, a, b) gives the same stream whatever ran before. */
typedef struct whit_rng {
	uint64_t s[4];
} whit_rng;
void whit_rng_key(whit_rng *r, uint64_t seed, uint64_t a, uint64_t b);
uint64_t whit_rng_next(whit_rng *r);
double whit_rng_uniform(whit_rng *r); /* [0, 1), 53 bits */
double whit_rng_normal(whit_rng *r);  /* N(0,1), Box-Muller, one value per call */
uint64_t whit_rng_below(whit_rng *r, uint64_t n);

/* ---- hashes: XXH3-128, for accidents and not against attackers ---- */
typedef struct whit_hash {
	uint64_t hi, lo;
} whit_hash;
whit_hash whit_hash_bytes(const void *p, size_t n);
uint64_t whit_hash_u64(const char *s);          /* of a string: keys for whit_rng */
void whit_hash_hex(whit_hash h, char out[33]);  /* 32 lower-case digits */
void whit_hash_text(whit_hash h, char out[48]); /* "xxh3-128:" and those, as files say it */

/* ---- 16-bit and 8-bit floats: round to nearest even; NaN stays NaN; f16 overflow gives Inf ---- */
float whit_f16_to_f32(uint16_t h);
uint16_t whit_f32_to_f16(float f);
float whit_e4m3_to_f32(uint8_t b); /* fn form: no Inf, 0x7f and 0xff are NaN */
float whit_e5m2_to_f32(uint8_t b);
WHIT_BOTH float whit_bf16_to_f32(uint16_t h) {
	uint32_t u = (uint32_t)h << 16;
	float f;
	memcpy(&f, &u, 4);
	return f;
}
uint16_t whit_f32_to_bf16(float f);
/* n values, any alignment of src; vector code where the CPU has it, same bits. */
void whit_f16_to_f32_n(float *dst, const void *src, int64_t n);
void whit_bf16_to_f32_n(float *dst, const void *src, int64_t n);
/* Index of the first value of x[n] that is NaN or Inf, or -1. */
int64_t whit_first_nonfinite(const float *x, int64_t n);

/* Unaligned little-endian loads (files promise no alignment). */
WHIT_BOTH uint16_t whit_load_u16(const void *p) {
	uint16_t v;
	memcpy(&v, p, 2);
	return v;
}
WHIT_BOTH uint32_t whit_load_u32(const void *p) {
	uint32_t v;
	memcpy(&v, p, 4);
	return v;
}
WHIT_BOTH uint64_t whit_load_u64(const void *p) {
	uint64_t v;
	memcpy(&v, p, 8);
	return v;
}
WHIT_BOTH float whit_load_f32(const void *p) {
	float v;
	memcpy(&v, p, 4);
	return v;
}

/* ---- files ---- */
/* Maps a regular file for reading. Refuses directories, pipes and other non-files, saying what it is.
 * An empty file maps as data != NULL, bytes 0. */
typedef struct whit_map {
	char *path;
	const uint8_t *data;
	size_t bytes;
	int64_t mtime_ns;
} whit_map;
int whit_map_open(whit_map *m, const char *path, whit_err *e);
int whit_map_check(const whit_map *m, whit_err *e); /* error if the file on disk is no longer the same */
void whit_map_close(whit_map *m);

/* Output under a temporary name beside its target; the final name appears only when whit_out_commit
 * returned 0 (written, fsynced, closed, renamed, directory fsynced). Either commit or abort it. A target that is
 * there and no regular file is refused: WHIT_EUSAGE. */
typedef struct whit_out {
	char *path, *tmp;
	int fd;
	uint64_t bytes; /* position */
	uint8_t *buf;
	size_t fill;
} whit_out;
int whit_out_open(whit_out *o, const char *path, whit_err *e);
int whit_out_write(whit_out *o, const void *p, size_t n, whit_err *e);
int whit_out_write_at(whit_out *o, uint64_t offset, const void *p, size_t n, whit_err *e); /* overwrites */
int whit_out_commit(whit_out *o, whit_err *e);
void whit_out_abort(whit_out *o);
int whit_out_try(const char *path, whit_err *e); /* opens and aborts: finds out before the work, not after it */
/* Writes n bytes to path that way. */
int whit_write_file(const char *path, const void *p, size_t n, whit_err *e);

/* An output directory built as PATH.partial and renamed to PATH at commit. PATH must not exist unless
 * replace; a PATH.partial locked by a living writer is an error that names its process. */
typedef struct whit_outdir {
	char *path, *tmp;
	int lock;
	int replace;
} whit_outdir;
int whit_outdir_open(whit_outdir *d, const char *path, int replace, whit_err *e);
/* The same, but files that an interrupted writer left in PATH.partial stay, for it to go on from. */
int whit_outdir_resume(whit_outdir *d, const char *path, int replace, whit_err *e);
void whit_outdir_keep(whit_outdir *d); /* neither commit nor abort: what is there stays, to be resumed */
char *whit_outdir_file(const whit_outdir *d, const char *name); /* path inside; whit_free it */
int whit_outdir_commit(whit_outdir *d, whit_err *e);
void whit_outdir_abort(whit_outdir *d);
void whit_dir_remove(const char *path); /* with its plain files; one that has directories stays */
int whit_copy_file(const char *from, const char *to, whit_err *e);
int whit_file_exists(const char *path);
int whit_is_dir(const char *path);
/* One regular file by whatever names; of files that are not there yet, one name. */
int whit_same_file(const char *a, const char *b);

/* ---- clocks and memory, for progress and reports ---- */
double whit_now(void);       /* monotonic seconds */
int64_t whit_peak_rss(void); /* bytes, the process so far */
#endif
