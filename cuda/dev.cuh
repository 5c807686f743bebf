/* dev: what every kernel file uses: one checking macro, one launch macro, shared arrays, conversions, reductions. The
 * same source is built by nvcc and, for machines without a GPU, by the host compiler over tests/emu. */
#ifndef WHIT_DEV_CUH
#define WHIT_DEV_CUH
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "tests/emu/emu16.h"
#endif
extern "C" {
#include "cuda/dev.h"
}
#include "cuda/ptx.cuh"

enum { WHIT_DEV_PIECES = 64 }; /* pieces of memory that scratch is made of, at most */

struct whit_dev {
	whit_err err; /* code 0: none */
	int plain, terms;
	int sms, shared; /* multiprocessors; bytes of shared memory that a block may ask for */
	int capability;  /* compute capability, 80 for 8.0 */
	/* memory.cu's */
	struct {
		uint8_t *p;
		size_t bytes, used;
	} scratch[WHIT_DEV_PIECES];
	int scratches;
	struct whit_dev_piece *pieces; /* what is allocated: sizes by address */
	size_t n_pieces, room_pieces, used, peak, limit;
	struct whit_dev_kept *kept; /* whit_dev_keep's */
	size_t n_kept;
	unsigned *counters; /* whit_dev_counters' */
	whit_tuned *tuned;  /* linear.cu's, in order */
	int n_tuned;
	int64_t factors_from;
	const char *solver_library; /* NULL: the toolkit's */
#ifdef __CUDACC__
	int index;
	bool lent;  /* the stream is the caller's */
	bool early; /* a kernel may start before the one in front of it has ended: WHIT_AFTER */
	cudaStream_t stream, copy;
	cudaEvent_t mark[WHIT_DEV_MARKS];
	struct {
		uint8_t *p; /* pinned */
		cudaEvent_t read;
	} stage[2];
	int staged;
	void *blas; /* cublasHandle_t, made when it is first needed; its workspace */
	void *workspace;
	struct whit_dev_solver *solver; /* dev.cu's, made when it is first needed */
#endif
};

/* Frees what memory.cu allocated for itself; both closes call it. */
void whit_dev_memory_free(whit_dev *d);
/* 2 * sms counters, 0 before and behind every kernel that counts its blocks with them. Kept until close. */
unsigned *whit_dev_counters(whit_dev *d);
/* The runtime's part of memory.cu (dev.cu; tests/emu/dev.cpp). NULL without a kept error: too little. */
void *whit_dev_raw_alloc(whit_dev *d, size_t bytes);
void whit_dev_raw_free(whit_dev *d, void *p);
size_t whit_dev_raw_left(whit_dev *d);

#ifdef __CUDACC__
/* 0, or -1 after the failure of a CUDA call is kept: `if (WHIT_CHECK(d, cudaFree(p))) return;` */
#define WHIT_CHECK(d, call) whit_dev_check(d, call, #call, __FILE__, __LINE__)
int whit_dev_check(whit_dev *d, cudaError_t rc, const char *call, const char *file, int line);

/* kernel<<<grid, block, smem, stream of d>>>(...), checked; nothing once the device holds an error. A kernel of a
 * template goes in parentheses. A block gets more than 48 KB of shared memory if it is asked for, and the kernel's
 * static arrays, which a launch does not know, count: gemv's 48 KB of 12288 columns with its 3 KB need it. So 40 KB of
 * dynamic memory are where asking begins: static arrays beside it are 8 KB at most. */
#define WHIT_LAUNCH(kernel, grid, block, smem, d, ...) WHIT_LAUNCH_AS(0, kernel, grid, block, smem, d, __VA_ARGS__)
/* The same for a kernel that begins with WHIT_AFTER: where the device can (sm_90), its blocks take free
 * multiprocessors while the work in front of it ends, so what precedes WHIT_AFTER is hidden there. */
#define WHIT_LAUNCH_EARLY(kernel, grid, block, smem, d, ...)                                                           \
	WHIT_LAUNCH_AS((d)->early, kernel, grid, block, smem, d, __VA_ARGS__)
/* The same for a kernel that uses whit_grid_sync (grid.cuh): all its blocks run at once. More of them than the device
 * holds, or than 64 under emulation, are an error of the launch. */
#define WHIT_LAUNCH_COOPERATIVE(kernel, grid, block, smem, d, ...)                                                     \
	WHIT_LAUNCH_AS(WHIT_TOGETHER, kernel, grid, block, smem, d, __VA_ARGS__)
enum { WHIT_TOGETHER = 2 }; /* beside 0 and 1, an early launch */
#define WHIT_LAUNCH_AS(how, kernel, grid, block, smem, d, ...)                                                         \
	do {                                                                                                           \
		if ((d)->err.code) break;                                                                              \
		if ((smem) > 40 << 10 &&                                                                               \
		    WHIT_CHECK(d, cudaFuncSetAttribute((const void *)(kernel),                                         \
		                                       cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(smem))))     \
			break;                                                                                         \
		whit_dev_launch((d)->stream, how, kernel, grid, block, smem, __VA_ARGS__);                             \
		whit_dev_check(d, cudaGetLastError(), #kernel, __FILE__, __LINE__);                                    \
	} while (0)
template <class... P, class... A>
static inline void whit_dev_launch(cudaStream_t stream, int how, void (*kernel)(P...), dim3 grid, dim3 block,
                                   size_t smem, A... a) {
	cudaLaunchAttribute at[2] = {};
	cudaLaunchConfig_t c = {};
	at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
	at[0].val.programmaticStreamSerializationAllowed = 1;
	/* One split of L1 for all: blocks that need another one wait until the multiprocessor is empty. */
	at[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
	at[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
	c.gridDim = grid, c.blockDim = block, c.dynamicSmemBytes = smem, c.stream = stream;
	c.attrs = at, c.numAttrs = how ? 2 : 0;
	if (how == WHIT_TOGETHER) {
		at[0].id = cudaLaunchAttributeCooperative;
		at[0].val.cooperative = 1;
		c.numAttrs = 1;
	}
	cudaLaunchKernelEx(&c, kernel, static_cast<P>(a)...); /* its error is cudaGetLastError's */
}
/* A shared array: WHIT_SHARED(float, tile, [32][33]). The second form aligns it, for wide accesses; the third is the
 * launch's dynamic memory, aligned to 16. */
#define WHIT_SHARED(type, name, dims) __shared__ type name dims
#define WHIT_SHARED_ALIGNED(align, type, name, dims)                                                                   \
	__shared__ __align__(align)                                                                                    \
	type name dims
#define WHIT_SHARED_DYNAMIC(type, name)                                                                                \
	extern __shared__ __align__(16) unsigned char whit_dynamic[];                                                  \
	type *name = reinterpret_cast<type *>(whit_dynamic)
#else
#define WHIT_LAUNCH(kernel, grid, block, smem, d, ...) WHIT_LAUNCH_AS(false, kernel, grid, block, smem, d, __VA_ARGS__)
#define WHIT_LAUNCH_COOPERATIVE(kernel, grid, block, smem, d, ...)                                                     \
	WHIT_LAUNCH_AS(true, kernel, grid, block, smem, d, __VA_ARGS__)
#define WHIT_LAUNCH_AS(together, kernel, grid, block, smem, d, ...)                                                    \
	do {                                                                                                           \
		if ((d)->err.code) break;                                                                              \
		char whit_text[900];                                                                                   \
		if (emu::run_kernel(#kernel, kernel, grid, block, smem, together, whit_text, sizeof whit_text,         \
		                    __VA_ARGS__))                                                                      \
			whit_dev_fail(d, WHIT_EINTERNAL, "%s", whit_text);                                             \
	} while (0)
#define WHIT_LAUNCH_EARLY WHIT_LAUNCH
#define WHIT_SHARED_ALIGNED(align, type, name, dims)                                                                   \
	static char name##_key;                                                                                        \
	using name##_type = type dims;                                                                                 \
	name##_type &name = *static_cast<name##_type *>(emu::shared(&name##_key, sizeof(name##_type), align, #name))
#define WHIT_SHARED(type, name, dims) WHIT_SHARED_ALIGNED(alignof(type), type, name, dims)
#define WHIT_SHARED_DYNAMIC(type, name) type *name = static_cast<type *>(emu::shared_dynamic())
#endif

/* In a kernel of WHIT_LAUNCH_EARLY, by every thread, before anything that earlier work writes is read and before
 * anything is written: only weights and parameters may be touched above it. */
#define WHIT_AFTER() ptx_grid_wait()

#ifdef __CUDACC__
#define WHIT_PRAGMA(text) _Pragma(#text)
#define WHIT_UNROLL _Pragma("unroll")
#define WHIT_UNROLL_BY(n) WHIT_PRAGMA(unroll n)
#else
#define WHIT_UNROLL
#define WHIT_UNROLL_BY(n)
#endif

/* Blocks of `per` that hold n. */
static inline unsigned whit_blocks(int64_t n, int64_t per) { return (unsigned)((n + per - 1) / per); }

/* ---- 16-bit floats by their bits: equal to base.c's for every code ---- */
static __device__ __forceinline__ float whit_dev_f16(uint16_t h) { return __half2float(__ushort_as_half(h)); }
static __device__ __forceinline__ float whit_dev_bf16(uint16_t h) { return __uint_as_float((unsigned)h << 16); }
static __device__ __forceinline__ uint16_t whit_dev_to_f16(float f) { return __half_as_ushort(__float2half_rn(f)); }
static __device__ __forceinline__ uint16_t whit_dev_to_bf16(float f) {
	return __bfloat16_as_ushort(__float2bfloat16_rn(f));
}

/* cos and sin of an angle in float, by whole half turns in double: exact enough at any position, and without the
 * stack that sincosf keeps for large angles. */
static __device__ __forceinline__ void whit_dev_turn(float angle, float *c, float *s) {
	double halves = (double)angle * 0.31830988618379067; /* 1 / pi */
	sincospif((float)(halves - 2 * rint(halves / 2)), s, c);
}

/* ---- reductions: one fixed order, so that the same inputs give the same bits ---- */

/* Every lane gets the sum over the warp; all 32 lanes must be there. */
static __device__ __forceinline__ float whit_warp_sum(float v) {
	for (int k = 16; k > 0; k /= 2) v += __shfl_xor_sync(0xffffffffu, v, k);
	return v;
}

/* Lane l gets the sum over the warp of v[l / (32 / N)], in the order of whit_warp_sum: N - 1 exchanges and log2(32 / N)
 * sums, where one value after another takes 5 N. N a power of two up to 32; v is used up. */
template <int N, int half = 16, class T> static __device__ __forceinline__ T whit_warp_sums(T *v) {
	bool upper = threadIdx.x & half; /* this lane goes on with the upper half of the values */
	WHIT_UNROLL
	for (int i = 0; i < N / 2; i++) {
		T give = upper ? v[i] : v[i + N / 2], keep = upper ? v[i + N / 2] : v[i];
		v[i] = keep + __shfl_xor_sync(0xffffffffu, give, half);
	}
	if (N == 1) v[0] += __shfl_xor_sync(0xffffffffu, v[0], half);
	if constexpr (half > 1) return whit_warp_sums<(N > 1 ? N / 2 : 1), half / 2>(v);
	return v[0];
}

/* a[i] = (add ? a[i] : 0) + part[0][i] + part[1][i] + ..., in that order, i < n, and b (NULL: not) of the `parts` parts
 * behind those (sums.cu). */
void whit_dev_parts(whit_dev *d, double *a, double *b, const double *part, int64_t n, int64_t parts, int add);

/* Every thread gets the sum over a block of whole warps; may be called again at once. */
static __device__ __forceinline__ float whit_block_sum(float v) {
	WHIT_SHARED(float, warp_sums, [32]);
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
	v = whit_warp_sum(v);
	__syncthreads(); /* an earlier call's sums have been read */
	if (lane == 0) warp_sums[warp] = v;
	__syncthreads();
	return whit_warp_sum(lane < warps ? warp_sums[lane] : 0.0f);
}
#endif
