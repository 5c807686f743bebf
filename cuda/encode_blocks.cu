/* encode_blocks: the CPU's searches for ggml's block formats (grid_simd.h, kquant_simd.h), compiled for one lane a
 * thread: the same source, the same bytes. A lane is a group of weights, and lanes never add up, so threads need
 * each other only where groups share a scale. */
#include "cuda/encode.cuh"
/* Batches of the device: eight groups where they share a scale, else one of up to 256 weights. */
#define WHIT_GRID_BATCH 8
#define WHIT_GRID_CODES 256
#define WHIT_KLANES 1
extern "C" {
#include "formats/grid.h"
#include "formats/kquant_fast.h"
#include "formats/packs.h"
}
#include "formats/simd_plain.h"
namespace grid {
#include "formats/grid_simd.h"
}
namespace kquant {
#include "formats/kquant_simd.h"
#include "formats/kquant_scale.h"
} // namespace kquant

enum { THREADS = 64 };

/* What a launch encodes: blocks of all rows, one after the other. */
typedef struct job {
	whit_mat m;
	int64_t r0, blocks, row; /* blocks in all, of a row */
	int weights, bytes, id;
	const float *w, *imp;
	unsigned long long *count;
} job;

static __device__ __forceinline__ uint8_t *block_at(const job &j, int64_t b) {
	int64_t r = whit_mat_row(&j.m, j.r0 + b / j.row);
	return (uint8_t *)(uintptr_t)j.m.plane[0] + (size_t)r * j.m.row_bytes[0] + b % j.row * j.bytes;
}
static __device__ __forceinline__ void count_add(const job &j, int bad, int zero) {
	if (bad) atomicAdd(j.count, (unsigned long long)bad);
	if (zero) atomicAdd(j.count + 1, (unsigned long long)zero);
}

/* ---- grid formats ---- */

enum { Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, IQ4_XS, MXFP4, TQ1_0, TQ2_0, Q1_0, Q2_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K };
static const char *const names[] = {"q8_0",  "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "iq4_xs", "mxfp4", "tq1_0",
                                    "tq2_0", "q1_0", "q2_0", "q2_k", "q3_k", "q4_k",   "q5_k",   "q6_k"};

/* The formats of a kind: a kernel holds no other's. */
template <int kind> static __device__ __forceinline__ void pack_grid(int id, uint8_t *b, const whit_grid_found &f) {
#define PACK(k, ID, name)                                                                                              \
	if (kind == k && id == ID) whit_pack_##name(b, f.d[0], f.more, f.code)
	PACK(WHIT_GRID_FINE, Q8_0, q8_0);
	PACK(WHIT_GRID_STEP, Q4_0, q4_0);
	PACK(WHIT_GRID_STEP, Q5_0, q5_0);
	PACK(WHIT_GRID_STEP, Q2_0, q2_0);
	PACK(WHIT_GRID_STEP, TQ1_0, tq1_0);
	PACK(WHIT_GRID_STEP, TQ2_0, tq2_0);
	PACK(WHIT_GRID_MIN, Q4_1, q4_1);
	PACK(WHIT_GRID_MIN, Q5_1, q5_1);
	PACK(WHIT_GRID_LEVELS, IQ4_NL, iq4_nl);
	PACK(WHIT_GRID_SUPER, IQ4_XS, iq4_xs);
	PACK(WHIT_GRID_POWER, MXFP4, mxfp4);
	PACK(WHIT_GRID_SIGN, Q1_0, q1_0);
#undef PACK
}

/* *any = 1 where a column has importance; it was 0. */
__global__ void any_nonzero_kernel(int *any, const float *imp, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (i < n && imp[i] != 0) atomicMax(any, 1);
}

/* A thread a block. N: weights of a group at most. any: of the row's importance, NULL where there is none. */
template <int kind, int N>
__global__ void __launch_bounds__(THREADS) grid_encode_kernel(const job j, const whit_grid g, const int *any) {
	int64_t b = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (b >= j.blocks) return;
	whit_grid_found found;
	const float *w = j.w + b * j.weights, *imp = j.imp + (any ? b % j.row * j.weights : 0);
	bool weighted = any && *any;
	found.bad = found.zero = 0;
	if (kind == WHIT_GRID_SUPER) {
		if (weighted)
			grid::search_super(&g, w, imp, 8, &found, 1);
		else
			grid::search_super(&g, w, NULL, 8, &found, 0);
	} else {
		float x[N], y[N];
		x[0] = 0; /* no group is empty, which compilers cannot know */
		if (weighted)
			grid::search(&g, w, imp, 1, &found, kind, 1, x, y);
		else
			grid::search(&g, w, NULL, 1, &found, kind, 0, x, y);
	}
	pack_grid<kind>(j.id, block_at(j, b), found);
	count_add(j, found.bad, found.zero);
}

template <int kind, int N> static void launch_grid(whit_dev *d, const job &j, const whit_grid &g, const int *any) {
	WHIT_LAUNCH((grid_encode_kernel<kind, N>), whit_blocks(j.blocks, THREADS), THREADS, 0, d, j, g, any);
}

static void encode_grid(whit_dev *d, const job &j, const whit_grid &g) {
	int *any = NULL;
	if (j.imp) {
		any = (int *)whit_dev_take(d, sizeof *any);
		whit_dev_zero(d, any, sizeof *any);
		WHIT_LAUNCH(any_nonzero_kernel, whit_blocks(j.m.width, THREADS), THREADS, 0, d, any, j.imp, j.m.width);
	}
	switch (g.kind) {
	case WHIT_GRID_STEP:
		return g.weights <= 64 ? launch_grid<WHIT_GRID_STEP, 64>(d, j, g, any)
		                       : launch_grid<WHIT_GRID_STEP, 256>(d, j, g, any);
	case WHIT_GRID_FINE:
		return launch_grid<WHIT_GRID_FINE, 32>(d, j, g, any);
	case WHIT_GRID_MIN:
		return launch_grid<WHIT_GRID_MIN, 32>(d, j, g, any);
	case WHIT_GRID_LEVELS:
		return launch_grid<WHIT_GRID_LEVELS, 32>(d, j, g, any);
	case WHIT_GRID_POWER:
		return launch_grid<WHIT_GRID_POWER, 32>(d, j, g, any);
	case WHIT_GRID_SIGN:
		return launch_grid<WHIT_GRID_SIGN, 128>(d, j, g, any);
	case WHIT_GRID_SUPER:
		return launch_grid<WHIT_GRID_SUPER, 32>(d, j, g, any);
	}
}

/* ---- K formats ---- */

enum { K = 256 };

/* 1 / the mean importance of each block of columns, 0 where there is none: kquant.c's load, in its order. */
__global__ void mean_kernel(double *per_mean, const float *imp, int64_t blocks) {
	int64_t b = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	if (b >= blocks) return;
	double mean = 0;
	for (int i = 0; i < K; i++) mean += imp[b * K + i] / 256.0;
	per_mean[b] = mean > 0 ? 1 / mean : 0;
}

typedef struct chosen { /* kquant.c's, of one lane; d, m, over: the same in a block's lanes */
	float d, m, scale, min;
	int over;
	whit_kfit fit;
} chosen;

static __device__ __forceinline__ void set_scales(chosen *c, const whit_kshape &k, double d, double m, int exponent) {
	c->over = 0;
	c->d = kquant::f16_scale(d, exponent, &c->over);
	c->m = k.min_hi ? kquant::f16_scale(m, exponent, &c->over) : 0;
}

template <int lanes>
static __device__ __forceinline__ void start(chosen *c, const whit_kshape &k, const whit_kfit fit[2], int exponent) {
	bool second = !k.min_hi && fit[1].err[0] < fit[0].err[0];
	float mine = second ? fit[1].step[0] : fit[0].step[0], my_min = second ? fit[1].min[0] : fit[0].min[0];
	float step = 0, m = 0;
	for (int l = 0; l < lanes; l++) {
		float s = __shfl_sync(0xffffffffu, mine, l, lanes);
		if (fabsf(s) > fabsf(step)) step = s;
		m = fmaxf(m, __shfl_sync(0xffffffffu, my_min, l, lanes));
	}
	set_scales(c, k, step / (float)(k.min_hi ? k.scale_hi : k.scale_lo), m / fmaxf(1.0f, (float)k.min_hi),
	           exponent);
}

template <int lanes>
static __device__ __forceinline__ void restart(chosen *c, const whit_kpanel &p, const whit_kshape &k, int exponent) {
	double s = c->scale, t = c->min, d = c->d, m = c->m;
	double aa = encode_sum<lanes>(s * s * c->fit.qq[0]), ab = encode_sum<lanes>(s * t * c->fit.q[0]);
	double bb = encode_sum<lanes>(t * t * p.sw[0]);
	double ax = encode_sum<lanes>(s * c->fit.qx[0]), bx = encode_sum<lanes>(t * p.swx[0]);
	if (kquant::solve(&k, aa, ab, bb, ax, bx, &d, &m)) set_scales(c, k, d, m, exponent);
}

/* A thread a group; those of a block are neighbours in a warp. Beyond the last block they repeat it and write nothing.
 */
template <int lanes>
__global__ void __launch_bounds__(THREADS)
        kquant_encode_kernel(const job j, const whit_kshape k, const double *per_mean) {
	constexpr int N = K / lanes, HERE = THREADS / lanes;
	WHIT_SHARED(whit_kblock, blocks, [HERE]);
	WHIT_SHARED(uint8_t, bytes, [HERE][K]);
	int g = (int)threadIdx.x % lanes, here = (int)threadIdx.x / lanes;
	int64_t at = (int64_t)blockIdx.x * HERE + here, b = WHIT_MIN(at, j.blocks - 1);
	const float *w = j.w + b * K + g * N;
	whit_kpanel p;
	whit_kfit fit[2];
	chosen c, best;
	uint32_t peak = 0;
	p.n = N;
	for (int i = 0; i < N; i++) {
		uint32_t bits = __float_as_uint(w[i]) & 0x7fffffff;
		peak = bits > peak ? bits : peak;
	}
	for (int m = 1; m < lanes; m *= 2) {
		uint32_t other = __shfl_xor_sync(0xffffffffu, peak, m);
		peak = other > peak ? other : peak;
	}
	int exponent = kquant::exponent_of(__uint_as_float(peak));
	float unit = (float)ldexp(1.0, -exponent);
	double per = per_mean ? per_mean[b % j.row] : 0;
	for (int i = 0; i < N; i++) {
		p.x[i] = w[i] * unit;
		p.w[i] = per > 0 ? kquant::weight_of(j.imp[b % j.row * K + g * N + i], per) : 1;
	}
	kquant::whit_kquant_groups_lane(&p, &k, fit);
	best = chosen();
	double least = INFINITY;
	start<lanes>(&c, k, fit, exponent);
	for (int r = 0; r <= kquant::RESTARTS; r++) {
		int reach = r ? 1 : k.reach, min_reach = !k.min_hi ? 0 : r ? 1 : k.min_reach;
		if (r) fit[0] = c.fit;
		kquant::whit_kquant_near_lane(&p, &k, &c.d, &c.m, fit, r || k.min_hi ? 1 : 2, reach, min_reach,
		                              &c.scale, &c.min, &c.fit);
		double error = encode_sum<lanes>(c.fit.err[0]);
		if (error < least) best = c, least = error;
		if (r < kquant::RESTARTS) restart<lanes>(&c, p, k, exponent);
	}
	double by = kquant::longer(least, encode_sum<lanes>(p.swxx[0]));
	c = best;
	set_scales(&best, k, c.d * by, c.m * by, exponent);
	if (best.over > c.over) best = c;

	float step = best.d * best.scale, min = best.m * best.min;
	uint8_t *code = blocks[here].code + g * N;
	kquant::whit_kquant_codes_lane(&p, &k, &step, &min, code);
	blocks[here].scale[g] = (int8_t)best.scale;
	blocks[here].min[g] = (uint8_t)best.min;
	if (g == 0) {
		blocks[here].d = whit_dev_to_f16((float)ldexp((double)best.d, exponent));
		blocks[here].m = whit_dev_to_f16((float)ldexp((double)best.m, exponent));
	}
	for (int i = g; i < j.bytes; i += lanes) bytes[here][i] = 0;
	__syncthreads();
	if (g == 0) {
		const whit_kblock *o = &blocks[here];
		if (lanes == 16) {
			if (j.id == Q2_K) whit_pack_q2_k(bytes[here], o);
			if (j.id == Q3_K) whit_pack_q3_k(bytes[here], o);
			if (j.id == Q6_K) whit_pack_q6_k(bytes[here], o);
		} else {
			if (j.id == Q4_K) whit_pack_q4_k(bytes[here], o);
			if (j.id == Q5_K) whit_pack_q5_k(bytes[here], o);
		}
		if (at == b) count_add(j, best.over, peak == 0);
	}
	__syncthreads();
	if (at != b) return;
	uint8_t *out = block_at(j, b);
	for (int i = g; i < j.bytes; i += lanes) out[i] = bytes[here][i];
}

static void encode_kquant(whit_dev *d, const job &j, const whit_kshape &k) {
	double *per_mean = NULL;
	if (j.imp) {
		per_mean = (double *)whit_dev_take(d, (size_t)j.row * sizeof *per_mean);
		WHIT_LAUNCH(mean_kernel, whit_blocks(j.row, THREADS), THREADS, 0, d, per_mean, j.imp, j.row);
	}
	unsigned grid = whit_blocks(j.blocks * k.groups, THREADS);
	if (k.groups == 16)
		WHIT_LAUNCH((kquant_encode_kernel<16>), grid, THREADS, 0, d, j, k, per_mean);
	else
		WHIT_LAUNCH((kquant_encode_kernel<8>), grid, THREADS, 0, d, j, k, per_mean);
}

bool whit_blocks_encode(whit_dev *d, const whit_mat *m, int64_t r0, int64_t n, const float *w, const float *imp,
                        int64_t *count) {
	const whit_block *b = m->spec.fmt->block;
	int id = 0;
	while (id < WHIT_COUNT(names) && strcmp(names[id], m->spec.fmt->name)) id++;
	if (!b || id == WHIT_COUNT(names)) return false;
	job j = {};
	j.m = *m, j.r0 = r0, j.row = m->width / b->weights, j.blocks = n * j.row;
	j.weights = b->weights, j.bytes = b->bytes, j.id = id;
	j.w = w, j.imp = imp, j.count = (unsigned long long *)count;
	if (j.blocks == 0) return true;
	if (b->grid)
		encode_grid(d, j, *b->grid);
	else
		encode_kquant(d, j, *b->shape);
	return true;
}
