/* emu: as much of CUDA C++ as our kernels use, for a host compiler (emulation.md). One fiber per thread; the rest
 * of a block's threads stand still at switch points: barriers, collectives, atomics, volatile loads and fences.
 *
 * Refused, as compile errors: __shared__ (WHIT_SHARED, dev.cuh), chevrons (WHIT_LAUNCH), asm (ptx.cuh). Not found:
 * missing fences, races between two switch points, bank conflicts, speed. One launch at a time, in one host thread. */
#ifndef WHIT_EMU_H
#define WHIT_EMU_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))

/* ---- vector types: CUDA's sizes and alignments ---- */
#define EMU_VECTOR(T, name, align2, align4)                                                                            \
	struct alignas(align2) name##2 {                                                                               \
		T x, y;                                                                                                \
	};                                                                                                             \
	struct name##3 {                                                                                               \
		T x, y, z;                                                                                             \
	};                                                                                                             \
	struct alignas(align4) name##4 {                                                                               \
		T x, y, z, w;                                                                                          \
	};                                                                                                             \
	static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                              \
	static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                      \
	static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTOR(float, float, 8, 16)
EMU_VECTOR(int, int, 8, 16)
EMU_VECTOR(unsigned, uint, 8, 16)
EMU_VECTOR(unsigned char, uchar, 2, 4)
EMU_VECTOR(signed char, char, 2, 4)
EMU_VECTOR(unsigned short, ushort, 4, 8)
EMU_VECTOR(double, double, 16, 16)
#undef EMU_VECTOR

struct dim3 {
	unsigned x, y, z;
	constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern uint3 threadIdx, blockIdx; /* of the fiber that runs */
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emu {

/* ---- what a launch is run with ---- */
enum order {
	FORWARD,
	REVERSE,
	RANDOM, /* any thread that can run, at each switch point */
	SPRINT  /* a stretch of threads, drawn now and then, is ahead of all others: a barrier that only keeps the fast
	           from lapping the slow is missed by nothing else */
};
struct schedule {
	order by;
	uint64_t seed; /* of RANDOM and SPRINT */
	bool lazy;     /* cp.async completes when a wait demands it, its target poisoned until then; else at once */
	bool odd;      /* which of two poisons fills fresh memory: what depends on it differs between schedules */
};
extern schedule now; /* used by every launch until changed */
/* Schedule i of as many as wanted: forward, reverse, then random ones, each third a sprint; laziness and poison
 * alternate. */
schedule schedule_number(int i);
void describe(char *out, size_t size); /* "random seed 0x12, cp.async lazy" */

/* Runs body once per thread of every block. 0, or -1 and a report of the first fault in text[size]. */
struct launch {
	const char *kernel;
	dim3 grid, block;
	size_t smem;
	bool cooperative; /* all blocks alive at once */
	void (*body)(void *);
	void *ctx;
};
int run(const launch &l, char *text, size_t size);

/* Arguments become the kernel's parameter types once, as a real launch does it. */
template <class... P, class... A>
int run_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, bool cooperative, char *text,
               size_t size, A &&...a) {
	std::tuple<void (*)(P...), std::tuple<P...>> call(kernel, std::tuple<P...>(static_cast<P>(a)...));
	auto body = [](void *p) {
		auto *c = static_cast<decltype(call) *>(p);
		std::apply(std::get<0>(*c), std::get<1>(*c));
	};
	return run({name, grid, block, smem, cooperative, body, &call}, text, size);
}

/* ---- from inside a kernel ---- */
[[noreturn]] void fault(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* ends the launch */
void yield();                                                                        /* a switch point */
void spin(); /* a switch point that alone is no progress: a launch that does nothing else is stuck */
void progress();
void poison(void *p, size_t n);

/* fn sees the arguments of all lanes of the mask that are still alive, NULL elsewhere, and fills in their results:
 * it runs once, when the last of them has come to the same file and line with the same op and mask. */
typedef void (*collect_fn)(uint32_t active, void *const arg[32]);
void collect(const char *op, uint32_t mask, collect_fn fn, void *arg, const char *file, int line);
/* id 0..15. threads 0: all of the block that are alive, at one call site. wait false: arrive only. */
void barrier(const char *op, int id, int threads, bool wait, const char *file, int line);
void grid_sync(const char *file, int line);
unsigned lane();

/* Shared arrays: the first thread of a block to come makes them, poisoned, guarded, and aligned no better than asked.
 */
void *shared(void *key, size_t bytes, size_t align, const char *name);
void *shared_dynamic();
bool in_shared(const void *p, size_t n); /* inside one shared array of this block */

void copy_async(void *dst, const void *src, int bytes, int src_bytes);
void copy_commit();
void copy_wait(int pending); /* all but the latest `pending` groups; -1: everything, committed or not */

/* ---- device memory: from the heap, poisoned, between guards ---- */
void *device_alloc(size_t bytes);
int device_free(void *p, char *text, size_t size); /* -1 when its guards are damaged */
int device_check(char *text, size_t size);         /* guards of all that is allocated */
/* Allocations from now on are the kernels' and the queue's alone; at first, whether the environment has WHIT_EMU_LOCK.
 */
extern bool locked;
/* Shared memory of a block, at first the least of the architectures we build for, sm_86 and sm_89; up to sm_90's 227
 * KB. */
extern size_t shared_limit;
/* While one lives, the host reaches them too. */
struct device_reach {
	device_reach();
	~device_reach();
};

#define EMU_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* ---- collectives on values ---- */
enum shuffle_kind { IDX, UP, DOWN, XOR };
struct lane_value {
	uint64_t in, out;
	int by, width, kind;
};
void shuffle_lanes(uint32_t active, void *const arg[32]);
template <class T>
T shuffle(const char *op, int kind, uint32_t mask, T v, int by, int width, const char *file, int line) {
	static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "a lane exchanges at most 8 bytes");
	lane_value a = {0, 0, by, width, kind};
	memcpy(&a.in, &v, sizeof v);
	collect(op, mask, shuffle_lanes, &a, file, line);
	T out;
	memcpy(&out, &a.out, sizeof out);
	return out;
}
struct lane_vote {
	uint64_t in;
	uint32_t active, ballot, match, all_and, all_or, all_xor, sum, umin, umax;
	int32_t smin, smax;
};
void vote_lanes(uint32_t active, void *const arg[32]);
static inline lane_vote vote(const char *op, uint32_t mask, uint64_t v, const char *file, int line) {
	lane_vote a = {};
	a.in = v;
	collect(op, mask, vote_lanes, &a, file, line);
	return a;
}
int barrier_vote(const char *op, int pred, int what, const char *file, int line); /* 0 count, 1 and, 2 or */

/* An atomic is a switch point before it, and a fresh value after. Failing to change anything counts as spinning. */
template <class T, class F> T atomic(T *p, F f) {
	yield();
	T old = *p, fresh = f(old);
	if (memcmp(&old, &fresh, sizeof old))
		progress();
	else
		spin(), old = *p, fresh = f(old);
	*p = fresh;
	return old;
}
} // namespace emu

/* ---- barriers ---- */
static inline void __syncthreads(EMU_AT) { emu::barrier("__syncthreads", 0, 0, true, file, line); }
static inline int __syncthreads_count(int p, EMU_AT) {
	return emu::barrier_vote("__syncthreads_count", p, 0, file, line);
}
static inline int __syncthreads_and(int p, EMU_AT) { return emu::barrier_vote("__syncthreads_and", p, 1, file, line); }
static inline int __syncthreads_or(int p, EMU_AT) { return emu::barrier_vote("__syncthreads_or", p, 2, file, line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_AT) {
	emu::collect("__syncwarp", mask, nullptr, nullptr, file, line);
}
static inline void __threadfence() { emu::yield(); }
static inline void __threadfence_block() { emu::yield(); }
static inline void __threadfence_system() { emu::yield(); }
static inline void __nanosleep(unsigned) { emu::spin(); }

/* ---- shuffles, votes, match, reduce ---- */
#define EMU_SHUFFLE(name, kind, T2)                                                                                    \
	template <class T> static inline T name(unsigned mask, T v, T2 by, int width = 32, EMU_AT) {                   \
		return emu::shuffle(#name, kind, mask, v, (int)by, width, file, line);                                 \
	}
EMU_SHUFFLE(__shfl_sync, emu::IDX, int)
EMU_SHUFFLE(__shfl_up_sync, emu::UP, unsigned)
EMU_SHUFFLE(__shfl_down_sync, emu::DOWN, unsigned)
EMU_SHUFFLE(__shfl_xor_sync, emu::XOR, int)
#undef EMU_SHUFFLE
#define EMU_VOTE(R, name, T, field)                                                                                    \
	static inline R name(unsigned mask, T v, EMU_AT) {                                                             \
		return (R)emu::vote(#name, mask, (uint64_t)v, file, line).field;                                       \
	}
EMU_VOTE(unsigned, __reduce_add_sync, unsigned, sum)
EMU_VOTE(unsigned, __reduce_min_sync, unsigned, umin)
EMU_VOTE(unsigned, __reduce_max_sync, unsigned, umax)
EMU_VOTE(int, __reduce_add_sync, int, sum)
EMU_VOTE(int, __reduce_min_sync, int, smin)
EMU_VOTE(int, __reduce_max_sync, int, smax)
EMU_VOTE(unsigned, __reduce_and_sync, unsigned, all_and)
EMU_VOTE(unsigned, __reduce_or_sync, unsigned, all_or)
EMU_VOTE(unsigned, __reduce_xor_sync, unsigned, all_xor)
#undef EMU_VOTE
static inline unsigned __ballot_sync(unsigned mask, int p, EMU_AT) {
	return emu::vote("__ballot_sync", mask, p != 0, file, line).ballot;
}
static inline int __all_sync(unsigned mask, int p, EMU_AT) {
	return (int)emu::vote("__all_sync", mask, p != 0, file, line).all_and;
}
static inline int __any_sync(unsigned mask, int p, EMU_AT) {
	return (int)emu::vote("__any_sync", mask, p != 0, file, line).all_or;
}
template <class T> static inline unsigned __match_any_sync(unsigned mask, T v, EMU_AT) {
	uint64_t bits = 0;
	memcpy(&bits, &v, sizeof v);
	return emu::vote("__match_any_sync", mask, bits, file, line).match;
}
template <class T> static inline unsigned __match_all_sync(unsigned mask, T v, int *same, EMU_AT) {
	uint64_t bits = 0;
	memcpy(&bits, &v, sizeof v);
	emu::lane_vote a = emu::vote("__match_all_sync", mask, bits, file, line);
	*same = a.match == a.active;
	return *same ? a.match : 0;
}

/* ---- atomics ---- */
template <class T> static inline T atomicAdd(T *p, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T o) { return (T)(o + v); });
}
template <class T> static inline T atomicSub(T *p, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T o) { return (T)(o - v); });
}
template <class T> static inline T atomicExch(T *p, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T) { return v; });
}
template <class T> static inline T atomicMin(T *p, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T o) { return v < o ? v : o; });
}
template <class T> static inline T atomicMax(T *p, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T o) { return v > o ? v : o; });
}
template <class T> static inline T atomicAnd(T *p, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T o) { return (T)(o & v); });
}
template <class T> static inline T atomicOr(T *p, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T o) { return (T)(o | v); });
}
template <class T> static inline T atomicXor(T *p, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T o) { return (T)(o ^ v); });
}
template <class T> static inline T atomicCAS(T *p, std::common_type_t<T> want, std::common_type_t<T> v) {
	return emu::atomic(p, [=](T o) { return o == want ? v : o; });
}
static inline unsigned atomicInc(unsigned *p, unsigned top) {
	return emu::atomic(p, [=](unsigned o) { return o >= top ? 0 : o + 1; });
}
static inline unsigned atomicDec(unsigned *p, unsigned top) {
	return emu::atomic(p, [=](unsigned o) { return o == 0 || o > top ? top : o - 1; });
}

/* ---- arithmetic that C's library lacks or names otherwise; each is the correctly rounded or plain form ---- */
static inline float __int_as_float(int i) {
	float f;
	return memcpy(&f, &i, 4), f;
}
static inline float __uint_as_float(unsigned i) {
	float f;
	return memcpy(&f, &i, 4), f;
}
static inline float __double2float_rd(double d) {
	float f = (float)d;
	return (double)f > d ? nextafterf(f, -INFINITY) : f;
}
static inline double __hiloint2double(int high, int low) {
	uint64_t bits = (uint64_t)(uint32_t)high << 32 | (uint32_t)low;
	double d;
	memcpy(&d, &bits, 8);
	return d;
}
static inline int __float_as_int(float f) {
	int i;
	return memcpy(&i, &f, 4), i;
}
static inline unsigned __float_as_uint(float f) {
	unsigned i;
	return memcpy(&i, &f, 4), i;
}
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1 / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float rsqrtf(float a) { return (float)(1 / sqrt((double)a)); }
static inline void sincospif(float a, float *s, float *c) { /* exact reduction to a half turn, as CUDA's */
	double r = (double)a - 2 * rint((double)a / 2);
	*s = (float)sin(M_PI * r), *c = (float)cos(M_PI * r);
}
static inline int __float2int_rn(float a) { return (int)rintf(a); }
static inline int __popc(unsigned a) { return __builtin_popcount(a); }
static inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
static inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
static inline int __ffs(int a) { return __builtin_ffs(a); }
static inline unsigned __brev(unsigned a) {
	unsigned r = 0;
	for (int i = 0; i < 32; i++) r |= (a >> i & 1) << (31 - i);
	return r;
}
template <class T> static inline T __ldg(const T *p) { return *p; }
#endif
