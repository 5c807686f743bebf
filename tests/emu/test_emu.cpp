/* The emulator itself: what CUDA promises, in every order of threads, and planted faults, each of which it must find.
 */
#include <functional>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>
#include "cuda/dev.cuh"
extern "C" {
#include "tests/test.h"
}

enum { ORDERS = 12 };
static const unsigned ALL = 0xffffffffu;
static whit_dev *dev;

/* Device memory that goes with its scope. */
template <class T> struct buffer {
	T *p;
	size_t n;
	buffer(size_t n) : p((T *)whit_dev_alloc(dev, n * sizeof(T))), n(n) {}
	buffer(size_t n, T v) : buffer(n) {
		for (size_t i = 0; i < n; i++) p[i] = v;
	}
	~buffer() { whit_dev_free(dev, p); }
	operator T *() const { return p; }
};

/* f in each order; it returns what must be the same in all. */
static void everywhere(const char *what, const std::function<void()> &f) {
	for (int k = 0; k < ORDERS; k++) {
		whit_err e = {0, ""};
		emu::now = emu::schedule_number(k);
		f();
		CHECK_MSG(!whit_dev_sync(dev, &e), "%s: %s", what, e.text);
	}
}

/* In how many of `orders` orders f ends in an error or says true: a fault must show. `word` is in the report. */
static int found(const char *what, const char *word, int orders, const std::function<bool()> &f) {
	int n = 0;
	for (int k = 0; k < orders; k++) {
		whit_err e = {0, ""};
		emu::now = emu::schedule_number(k);
		bool wrong = f();
		if (whit_dev_sync(dev, &e)) {
			wrong = true;
			CHECK_MSG(word && strstr(e.text, word), "%s: text \"%s\" lacks \"%s\"", what, e.text,
			          word ? word : "no error");
			char how[80];
			emu::describe(how, sizeof how);
			CHECK_MSG(strstr(e.text, how) != NULL, "%s: text \"%s\" lacks the order", what, e.text);
		}
		n += wrong;
	}
	return n;
}
#define CHECK_FOUND(what, word, f)                                                                                     \
	do {                                                                                                           \
		int n_found = found(what, word, ORDERS, f);                                                            \
		CHECK_MSG(n_found == ORDERS, "%s: found in %d of %d orders", what, n_found, ORDERS);                   \
	} while (0)

/* ---- shapes, early return, shared memory ---- */

__global__ void index_kernel(int *out, dim3 shape) {
	if (threadIdx.x == 1) return;
	int block = (int)(blockIdx.x + shape.x * (blockIdx.y + shape.y * blockIdx.z));
	int thread = (int)(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
	__syncthreads(); /* those that left are not waited for */
	out[block * (int)(blockDim.x * blockDim.y * blockDim.z) + thread] = 1000 * block + thread;
}

static void shapes() {
	static const dim3 grids[] = {{1, 1, 1}, {3, 1, 1}, {2, 3, 1}, {2, 2, 2}};
	static const dim3 blocks[] = {{1, 1, 1}, {7, 1, 1}, {33, 1, 1}, {4, 3, 1}, {5, 3, 7}, {1024, 1, 1}};
	everywhere("shapes", [] {
		for (dim3 g : grids)
			for (dim3 b : blocks) {
				int per = (int)(b.x * b.y * b.z), n = per * (int)(g.x * g.y * g.z), bad = 0;
				buffer<int> out((size_t)n, -5);
				WHIT_LAUNCH(index_kernel, g, b, 0, dev, out, g);
				for (int i = 0; i < n; i++)
					bad += out[i] != (i % per % (int)b.x == 1 ? -5 : i / per * 1000 + i % per);
				CHECK_INT(bad, 0);
			}
	});
	int ran = 0;
	CHECK_FOUND("block of 1025", "1025 threads", [&] {
		WHIT_LAUNCH(index_kernel, 1, 1025, 0, dev, &ran, 1);
		return false;
	});
	CHECK_FOUND("empty grid", "grid 0", [&] {
		WHIT_LAUNCH(index_kernel, 0, 32, 0, dev, &ran, 1);
		return false;
	});
	CHECK_FOUND("shared memory", "limit", [&] {
		WHIT_LAUNCH(index_kernel, 1, 32, 200 << 10, dev, &ran, 1);
		return false;
	});
}

/* Reverses n values through static and dynamic memory. */
__global__ void reverse_kernel(int *x, int n) {
	WHIT_SHARED(int, a, [256]);
	WHIT_SHARED_DYNAMIC(int, b);
	int i = (int)threadIdx.x;
	x += (int)blockIdx.x * n;
	a[i] = x[i];
	__syncthreads();
	b[i] = a[n - 1 - i];
	__syncthreads();
	x[n - 1 - i] = b[n - 1 - i];
}

static void shared_arrays() {
	everywhere("shared arrays", [] {
		buffer<int> x(3 * 100);
		for (int i = 0; i < 300; i++) x[i] = i;
		WHIT_LAUNCH(reverse_kernel, 3, 100, 100 * sizeof(int), dev, x, 100);
		int bad = 0;
		for (int i = 0; i < 300; i++) bad += x[i] != i / 100 * 100 + 99 - i % 100;
		CHECK_INT(bad, 0);
	});
}

/* ---- collectives ---- */

__global__ void shuffle_kernel(int *out, int width) {
	int i = (int)threadIdx.x;
	out += i * 4;
	out[0] = __shfl_sync(ALL, 100 + i, 5, width);
	out[1] = __shfl_up_sync(ALL, 100 + i, 3, width);
	out[2] = __shfl_down_sync(ALL, 100 + i, 2, width);
	out[3] = __shfl_xor_sync(ALL, 100 + i, 9, width);
}

__global__ void halves_kernel(int *out) {
	int i = (int)threadIdx.x;
	if (i < 16)
		out[i] = __shfl_xor_sync(0x0000ffffu, i, 1);
	else
		out[i] = __shfl_xor_sync(0xffff0000u, i, 2);
	out[i] += 100 * __shfl_xor_sync(ALL, i, 31);
}

__global__ void vote_kernel(unsigned *out) {
	unsigned i = threadIdx.x;
	out += 12 * i;
	out[0] = __ballot_sync(ALL, i % 3 == 0);
	out[1] = (unsigned)__all_sync(ALL, i < 32);
	out[2] = (unsigned)__any_sync(ALL, i == 40);
	out[3] = __match_any_sync(ALL, i / 5);
	out[4] = __reduce_add_sync(ALL, i);
	out[5] = __reduce_min_sync(ALL, i + 7);
	out[6] = (unsigned)__reduce_max_sync(ALL, -(int)i - 1);
	out[7] = __reduce_xor_sync(ALL, i);
	out[8] = (unsigned)__syncthreads_count((int)(i % 2));
	out[9] = (unsigned)__syncthreads_and(i < 20);
	out[10] = (unsigned)__syncthreads_or(i == 20);
	int same = 0;
	out[11] = __match_all_sync(ALL, 7, &same) + (unsigned)same;
}

static void collectives() {
	everywhere("collectives", [] {
		for (int width = 2; width <= 32; width *= 2) {
			buffer<int> out(32 * 4, 0);
			WHIT_LAUNCH(shuffle_kernel, 1, 32, 0, dev, out, width);
			int bad = 0;
			for (int i = 0; i < 32; i++) {
				int in = i % width, base = i - in, x = i ^ 9;
				bad += out[4 * i] != 100 + base + 5 % width;
				bad += out[4 * i + 1] != 100 + (in >= 3 ? i - 3 : i);
				bad += out[4 * i + 2] != 100 + (in + 2 < width ? i + 2 : i);
				bad += out[4 * i + 3] != 100 + (x < base + width ? x : i);
			}
			CHECK_INT(bad, 0);
		}
		buffer<int> half(32);
		WHIT_LAUNCH(halves_kernel, 1, 32, 0, dev, half);
		int bad = 0;
		for (int i = 0; i < 32; i++) bad += half[i] != (i < 16 ? i ^ 1 : i ^ 2) + 100 * (31 - i);
		CHECK_INT(bad, 0);
		buffer<unsigned> v(32 * 12);
		WHIT_LAUNCH(vote_kernel, 1, 32, 0, dev, v);
		for (unsigned i = 0; i < 32; i++) {
			const unsigned match = (i < 30 ? 31u << i / 5 * 5 : 3u << 30);
			const unsigned want[12] = {0x49249249u, 1, 0, match, 496, 7, ~0u, 0, 16, 0, 1, 0};
			for (int k = 0; k < 12; k++) CHECK_INT(v[12 * i + (unsigned)k], want[k]);
		}
	});
}

__global__ void partial_kernel(float *out) { /* 20 lanes: what the missing ones would give is poison */
	out[threadIdx.x] = __shfl_xor_sync(ALL, (float)threadIdx.x, 16);
}

/* Half the warps make, half use, through two numbered barriers. */
__global__ void producer_kernel(int *out, int rounds) {
	WHIT_SHARED(int, item, [32]);
	int lane = (int)threadIdx.x % 32;
	if (threadIdx.x < 32) {
		for (int r = 0; r < rounds; r++) {
			if (r) ptx_barrier_sync(2, 64);
			item[lane] = 100 * r + lane;
			ptx_barrier_arrive(1, 64);
		}
	} else {
		for (int r = 0; r < rounds; r++) {
			ptx_barrier_sync(1, 64);
			out[r * 32 + lane] = item[31 - lane];
			if (r + 1 < rounds) ptx_barrier_arrive(2, 64);
		}
	}
}

/* A lock by atomics, a counter read the volatile way, a ticket that tells the last block. */
__global__ void lock_kernel(unsigned *lock, unsigned *count, unsigned *ticket, unsigned *last) {
	while (atomicCAS(lock, 0u, 1u)) __nanosleep(20);
	*count += 1;
	__threadfence();
	atomicExch(lock, 0u);
	unsigned t = atomicAdd(ticket, 1u);
	while (ptx_load_acquire(ticket) < (t / blockDim.x + 1) * blockDim.x) {
	}
	if (t == gridDim.x * blockDim.x - 1) *last = t;
}

static void waiting() {
	everywhere("partial warp", [] {
		buffer<float> out(20);
		WHIT_LAUNCH(partial_kernel, 1, 20, 0, dev, out);
		for (int i = 0; i < 20; i++)
			CHECK(i < 4 ? out[i] == (float)(i + 16) : i >= 16 ? out[i] == (float)(i - 16) : isnan(out[i]));
	});
	everywhere("named barriers", [] {
		buffer<int> out(5 * 32, -1);
		WHIT_LAUNCH(producer_kernel, 1, 64, 0, dev, out, 5);
		int bad = 0;
		for (int i = 0; i < 160; i++) bad += out[i] != i / 32 * 100 + 31 - i % 32;
		CHECK_INT(bad, 0);
	});
	everywhere("locks", [] {
		buffer<unsigned> m(4, 0);
		WHIT_LAUNCH(lock_kernel, 3, 40, 0, dev, m, m + 1, m + 2, m + 3);
		CHECK_INT(m[1], 120);
		CHECK_INT(m[3], 119);
	});
}

__global__ void grid_kernel(int *x) {
	x[blockIdx.x * 32 + threadIdx.x] = (int)blockIdx.x;
	emu::grid_sync(__FILE__, __LINE__);
	int other = x[((blockIdx.x + 1) % gridDim.x) * 32 + threadIdx.x];
	emu::grid_sync(__FILE__, __LINE__);
	x[blockIdx.x * 32 + threadIdx.x] = other;
}

static void cooperative() {
	everywhere("cooperative", [] {
		buffer<int> x(4 * 32);
		char text[500];
		int bad = emu::run_kernel("grid_kernel", grid_kernel, 4, 32, 0, true, text, sizeof text, x.p);
		for (int i = 0; i < 128; i++) bad += x[i] != (i / 32 + 1) % 4;
		CHECK_MSG(!bad, "cooperative: %d", bad);
	});
	CHECK_FOUND("no cooperative launch", "not cooperative", [] {
		buffer<int> x(4 * 32);
		WHIT_LAUNCH(grid_kernel, 4, 32, 0, dev, x);
		return false;
	});
}

/* ---- planted faults ---- */

template <bool fixed> __global__ void barrier_missing_kernel(float *x) {
	WHIT_SHARED(float, s, [64]);
	int i = (int)threadIdx.x;
	s[i] = x[i];
	if (fixed) __syncthreads();
	x[i] = s[(i + 1) % 64] + s[(i + 63) % 64];
}

template <bool fixed> __global__ void shared_bounds_kernel(float *x) {
	WHIT_SHARED(float, row, [32]);
	WHIT_SHARED(float, other, [32]);
	float *p = row; /* UBSan knows row's length */
	p[threadIdx.x + (fixed ? 0 : 1)] = other[threadIdx.x] = x[threadIdx.x];
	x[threadIdx.x] = row[threadIdx.x] + other[threadIdx.x] * 0;
}

template <bool fixed> __global__ void dynamic_bounds_kernel(float *x) {
	WHIT_SHARED_DYNAMIC(float, row);
	row[threadIdx.x + (fixed ? 0 : 1)] = x[threadIdx.x];
}

template <bool fixed> __global__ void global_bounds_kernel(float *x, int n) {
	int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
	if (fixed ? i < n : i <= n) x[i] = 1;
}

template <bool fixed> __global__ void before_bounds_kernel(float *x) { x[(int)threadIdx.x - (fixed ? 0 : 1)] = 1; }

template <bool fixed> __global__ void divergent_kernel(float *x) {
	float v = x[threadIdx.x];
	if (fixed || threadIdx.x % 2)
		v += __shfl_xor_sync(ALL, v, 2);
	else
		v += __shfl_xor_sync(ALL, v, 2) * 1;
	x[threadIdx.x] = v;
}

template <bool fixed> __global__ void divergent_half_kernel(float *x) { /* the others wait elsewhere */
	float v = x[threadIdx.x];
	if (fixed || threadIdx.x < 16) v += __shfl_xor_sync(ALL, v, 2);
	__syncthreads();
	x[threadIdx.x] = v;
}

template <bool fixed> __global__ void mask_kernel(float *x) {
	x[threadIdx.x] = __shfl_xor_sync(fixed ? ALL : 0xfffffffeu, x[threadIdx.x], 1);
}

template <bool fixed> __global__ void divergent_barrier_kernel(float *x) {
	if (fixed || threadIdx.x < 32)
		__syncthreads();
	else
		__syncthreads(), x[0] = 1;
}

template <bool fixed> __global__ void shared_unwritten_kernel(float *x) {
	WHIT_SHARED(float, s, [64]);
	if (fixed || threadIdx.x != 7) s[threadIdx.x] = x[threadIdx.x];
	__syncthreads();
	x[threadIdx.x] = s[63 - threadIdx.x];
}

template <bool fixed> __global__ void shared_counter_kernel(int *x) { /* an integer has no NaN: two poisons differ */
	WHIT_SHARED(int, n, );
	if (fixed && threadIdx.x == 0) n = 0;
	__syncthreads();
	atomicAdd(&n, 1);
	__syncthreads();
	x[threadIdx.x] = n;
}

template <bool fixed> __global__ void copy_kernel(float *y, const float *x) { /* two stages in flight */
	WHIT_SHARED_ALIGNED(16, float, stage, [2][128]);
	int i = (int)threadIdx.x;
	for (int k = 0; k < 2; k++) {
		ptx_copy_async<16>(&stage[k][4 * i], x + 128 * k + 4 * i);
		ptx_copy_commit();
	}
	for (int k = 0; k < 2; k++) {
		if (!fixed || k)
			ptx_copy_wait<0>();
		else
			ptx_copy_wait<1>();
		if (!fixed) break;
		__syncthreads();
		for (int j = 0; j < 4; j++) y[128 * k + 4 * i + j] = stage[k][127 - 4 * i - j];
	}
	for (int k = 0; k < 2 && !fixed; k++) {
		ptx_copy_async<16>(&stage[k][4 * i], x + 128 * k + 4 * i);
		ptx_copy_commit();
		if (k) ptx_copy_wait<1>(); /* one too few for stage 1 */
		__syncthreads();
		if (k)
			for (int j = 0; j < 8; j++) y[8 * i + j] = stage[j / 4][127 - 4 * i - j % 4];
	}
}

__global__ void copy_sizes_kernel(unsigned *y, const unsigned *x) { /* what is not read is zero */
	WHIT_SHARED_ALIGNED(16, unsigned, s, [8]);
	if (threadIdx.x) return;
	ptx_copy_async<4>(s, x);
	ptx_copy_async<8>(s + 2, x + 2, 4);
	ptx_copy_async<16>(s + 4, x + 4, 0);
	ptx_copy_commit();
	ptx_copy_wait<0>();
	s[1] = 9;
	for (int k = 0; k < 8; k++) y[k] = s[k];
}

__global__ void copy_misaligned_kernel(const float *x) {
	WHIT_SHARED_ALIGNED(16, float, s, [8]);
	ptx_copy_async<16>(s, x + 1);
}

__global__ void copy_global_kernel(float *x) { ptx_copy_async<16>(x, x + 4); }

template <bool fixed> __global__ void deadlock_kernel(int one) {
	if (threadIdx.x < 32)
		ptx_barrier_sync(one, 64);
	else if (fixed)
		ptx_barrier_sync(one, 64);
	else
		ptx_barrier_sync(2, 64);
}

template <bool fixed> __global__ void float_atomic_kernel(float *sum, const float *x) {
	if (fixed) {
		float s = whit_block_sum(x[threadIdx.x]);
		if (threadIdx.x == 0) *sum = s;
	} else {
		atomicAdd(sum, x[threadIdx.x]);
	}
}

__global__ void stuck_kernel(unsigned *flag) {
	while (!ptx_load_acquire(flag)) {
	}
}

#define BOTH(what, word, call)                                                                                         \
	do {                                                                                                           \
		CHECK_FOUND(what, word, [] {                                                                           \
			constexpr bool fixed = false;                                                                  \
			return call;                                                                                   \
		});                                                                                                    \
		CHECK_INT(found(what, "", ORDERS,                                                                      \
		                [] {                                                                                   \
			                constexpr bool fixed = true;                                                   \
			                return call;                                                                   \
		                }),                                                                                    \
		          0);                                                                                          \
	} while (0)
/* Whether kernel, run by 64 (or n) threads on 0, 1, ..., leaves something other than want(i). */
template <class K> static bool differs(K kernel, unsigned n, float (*want)(int), size_t smem = 0) {
	buffer<float> x(n);
	for (unsigned i = 0; i < n; i++) x[i] = (float)i;
	WHIT_LAUNCH(kernel, 1, n, smem, dev, x);
	for (unsigned i = 0; i < n && want; i++)
		if (!(x[i] == want((int)i))) return true;
	return false;
}

static void faults() {
	auto ring = [](int i) { return (float)((i + 1) % 64 + (i + 63) % 64); };
	/* no order finds it for sure, all together must */
	int n = found("missing barrier", "", 22, [&] { return differs(barrier_missing_kernel<false>, 64, ring); });
	CHECK_MSG(n >= 20, "missing barrier: found in %d of 22 orders", n);
	CHECK_INT(found("missing barrier", "", 22, [&] { return differs(barrier_missing_kernel<true>, 64, ring); }), 0);
	BOTH("out-of-bounds shared write", "shared array row (128 bytes)",
	     differs(shared_bounds_kernel<fixed>, 32, NULL));
	BOTH("out-of-bounds dynamic shared write", "shared array (dynamic)",
	     differs(dynamic_bounds_kernel<fixed>, 32, NULL, 128));
	BOTH("out-of-bounds global write", "0 bytes past the end of a device buffer of 40", ([] {
		     buffer<float> x(10);
		     WHIT_LAUNCH(global_bounds_kernel<fixed>, 2, 8, 0, dev, x, 10);
		     return false;
	     }()));
	BOTH("write before a buffer", "4 bytes before a device buffer", differs(before_bounds_kernel<fixed>, 32, NULL));
	BOTH("divergent shuffle", "divergent", differs(divergent_kernel<fixed>, 32, NULL));
	BOTH("shuffle of a half", "deadlock; thread 0 to 15: __shfl_xor_sync",
	     differs(divergent_half_kernel<fixed>, 32, NULL));
	BOTH("own lane not in mask", "lacks lane 0", differs(mask_kernel<fixed>, 32, NULL));
	BOTH("divergent barrier", "divergent barrier", differs(divergent_barrier_kernel<fixed>, 64, NULL));
	BOTH("uninitialized shared read", NULL,
	     differs(shared_unwritten_kernel<fixed>, 64, [](int i) { return (float)(63 - i); }));
	BOTH("uninitialized shared counter", NULL, ([] {
		     buffer<int> x(40);
		     WHIT_LAUNCH(shared_counter_kernel<fixed>, 1, 40, 0, dev, x);
		     return x[3] != 40;
	     }()));
	BOTH("uninitialized global read", NULL, ([] {
		     buffer<float> sum(1), x(64);
		     for (int i = 0; i < (fixed ? 64 : 63); i++) x[i] = 1;
		     WHIT_LAUNCH(float_atomic_kernel<true>, 1, 64, 0, dev, sum, x);
		     return !(sum[0] == 64);
	     }()));
	BOTH("deadlock", "deadlock; thread 0 to 31: bar.sync", ([] {
		     WHIT_LAUNCH(deadlock_kernel<fixed>, 1, 64, 0, dev, 1);
		     return false;
	     }()));
	emu::now = emu::schedule_number(2);
	CHECK_INT(found("endless wait", "no progress", 1,
	                [] {
		                buffer<unsigned> flag(1, 0);
		                WHIT_LAUNCH(stuck_kernel, 1, 4, 0, dev, flag);
		                return false;
	                }),
	          1);
	whit_err e = {0, ""};
	buffer<float> x(4);
	whit_dev_free(dev, x.p + 1);
	CHECK_FAILS(whit_dev_sync(dev, &e), WHIT_EINTERNAL, e, "no device buffer");
}

/* Two reductions through one array. Without the first barrier a fast warp overwrites what a slow one has yet to read.
 */
template <bool fixed> __global__ void lapped_kernel(float *x) {
	WHIT_SHARED(float, sums, [3]);
	float all = 0;
	for (int round = 0; round < 2; round++) {
		float v = whit_warp_sum(x[threadIdx.x] * (float)(round + 1));
		if (fixed) __syncthreads();
		if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
		__syncthreads();
		all += sums[0] + sums[1] + sums[2];
		__syncwarp();
	}
	x[threadIdx.x] = all;
}

__global__ void sums_kernel(float *x) {
	float v = x[threadIdx.x], a = whit_block_sum(v), b = whit_block_sum(2 * v), c = whit_block_sum(v * v);
	x[threadIdx.x] = a + b + c;
}

/* Float atomics: the sum depends on the order, so seeds disagree; the reduction of dev.cuh does not. */
template <bool fixed> static int different_sums() {
	std::vector<uint32_t> seen;
	for (int k = 0; k < ORDERS; k++) {
		emu::now = emu::schedule_number(k);
		buffer<float> sum(1, 0), x(256);
		for (int i = 0; i < 256; i++) x[i] = (i % 2 ? -1.0f : 1.0f) * (float)(1 << i % 24) / 3;
		WHIT_LAUNCH(float_atomic_kernel<fixed>, 1, 256, 0, dev, sum, x);
		uint32_t u;
		memcpy(&u, sum.p, 4);
		bool fresh = true;
		for (uint32_t v : seen) fresh = fresh && v != u;
		if (fresh) seen.push_back(u);
	}
	return (int)seen.size();
}

static void atomics() {
	auto twice = [](int) { return 3.0f * 4560; };
	int lapped = found("lapped", "", 32, [&] { return differs(lapped_kernel<false>, 96, twice); });
	CHECK_MSG(lapped >= 4, "missing barrier between reductions: found in %d of 32 orders", lapped);
	CHECK_INT(found("lapped", "", 32, [&] { return differs(lapped_kernel<true>, 96, twice); }), 0);
	everywhere("sums, one after another",
	           [] { CHECK(!differs(sums_kernel, 96, [](int) { return 3.0f * 4560 + 290320; })); });
	CHECK_MSG(different_sums<false>() > 1, "float atomics: every order gives one sum");
	CHECK_INT(different_sums<true>(), 1);
}

/* ---- cp.async ---- */

template <bool fixed> static bool copies_differ() {
	buffer<float> x(256), y(256);
	for (int i = 0; i < 256; i++) x[i] = (float)i;
	WHIT_LAUNCH(copy_kernel<fixed>, 1, 32, 0, dev, y, x);
	for (int k = 0; k < 256; k++)
		if (!(y[k] == (fixed ? (float)(k / 128 * 128 + 127 - k % 128)
		                     : (float)(k / 4 % 2 * 128 + 127 - k / 8 * 4 - k % 4))))
			return true;
	return false;
}

static void async() {
	CHECK_INT(found("cp.async", "", ORDERS, copies_differ<true>), 0);
	/* eager copies hide it: the lazy half of the orders must show it, each of them */
	CHECK_INT(found("missing wait_group", "", ORDERS, copies_differ<false>), ORDERS / 2);
	everywhere("cp.async sizes", [] {
		buffer<unsigned> x(8), y(8);
		for (unsigned i = 0; i < 8; i++) x[i] = 10 + i;
		WHIT_LAUNCH(copy_sizes_kernel, 1, 32, 0, dev, y, x);
		const unsigned want[8] = {10, 9, 12, 0, 0, 0, 0, 0};
		for (int i = 0; i < 8; i++) CHECK_INT(y[i], want[i]);
	});
	CHECK_FOUND("cp.async alignment", "source is not aligned to 16", [] {
		buffer<float> x(8);
		WHIT_LAUNCH(copy_misaligned_kernel, 1, 1, 0, dev, x);
		return false;
	});
	CHECK_FOUND("cp.async to global", "not inside one shared array", [] {
		buffer<float> x(8);
		WHIT_LAUNCH(copy_global_kernel, 1, 1, 0, dev, x);
		return false;
	});
}

__global__ void twice_kernel(unsigned *x) { x[0] *= 2; }

/* Device memory by kernels and copies, and by a host that has no business there: a child dies of it. */
static void locking() {
	emu::locked = true;
	unsigned *x = (unsigned *)whit_dev_alloc(dev, 4), v = 21;
	whit_dev_put(dev, x, &v, 4);
	WHIT_LAUNCH(twice_kernel, 1, 1, 0, dev, x);
	whit_dev_get(dev, &v, x, 4);
	CHECK_INT(v, 42);
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		signal(SIGSEGV, SIG_DFL); /* a sanitizer's own would go on to exit 1 */
		_exit(*(volatile unsigned *)x == 42 ? 0 : 2);
	}
	int how = 0;
	CHECK(waitpid(child, &how, 0) == child && WIFSIGNALED(how) && WTERMSIG(how) == SIGSEGV);
	whit_dev_free(dev, x);
	emu::locked = false;
}

static void open_device() {
	whit_err e = {0, ""};
	CHECK_RC(whit_dev_open(&dev, 0, &e), e);
}
static void close_device() { whit_dev_close(dev); }

TEST_MAIN(open_device, shapes, shared_arrays, collectives, waiting, cooperative, faults, atomics, async, locking,
          close_device)
