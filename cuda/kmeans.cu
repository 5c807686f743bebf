/* kmeans: coordinates in lanes j % 32, so that distances have the CPU's order; and sums of pieces of points, a warp a
 * cluster, added piece after piece. */
#include <limits.h>
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256, WARPS = THREADS / 32, BATCH = 8 /* points of a cluster that are read at once */ };

/* Plain: everything from memory, any dim. */
__global__ void kmeans_assign_kernel(int32_t *nearest, float *distance, const float *x, const float *w, const float *c,
                                     int64_t n, int64_t dim, int k) {
	int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
	int lane = (int)threadIdx.x % 32, best = 0;
	float least = 0;
	if (i >= n) return;
	for (int m = 0; m < k; m++) {
		float part = 0;
		for (int64_t j = lane; j < dim; j += 32) {
			float d = x[i * dim + j] - c[m * dim + j];
			part += (w ? w[i * dim + j] * d : d) * d;
		}
		part = whit_warp_sum(part);
		if (m == 0 || part < least) best = m, least = part;
	}
	if (lane == 0) nearest[i] = best, distance[i] = least;
}

/* ---- near: tensor cores say which centroids may be a point's nearest; those alone are measured as the CPU does ----
 *
 * X = S (x - o), C = S (c - o) for a vector o amid the centroids and a power of two S; an mma gets them as F16, X' and
 * C'. Half of S^2 |x - c|^2 without what all centroids share is v = |C|^2 / 2 - X C. What the mma makes is U = v + e +
 * P n, where P n is more than |e|; D coordinates are V times 32:
 *
 *  - X' C' - X C <= |X' - X| |C'| + |X| |C' - C| (Cauchy, Schwarz). The second factor is measured, E; the first is at
 *    most r |X| + 2^-25 sqrt(D), r = 2^-11 + 2^-21 with the float in front of it. With n = |C| + (2^11 + 1) E that is
 *    (r |X| + 2^-25 sqrt(D)) n.
 *  - a tensor core multiplies exactly, and adds 16 products to its accumulator by cutting each addend off at the last
 *    place of the largest or below (Fasi, Higham, Mikaitis, Pranesh 2021): 20 * 2^-23 for each of 2 V mmas is more, of
 *    the largest that a sum can be, |C|^2 / 2 + |X| |C| + P n.
 *  - |C|^2 / 2 itself, and what is rounded behind it: (V + 12) 2^-24 of it, 2^-20 of both.
 *
 * The CPU's distance F is w |x - c|^2 (1 +- g) +- t: V + 8 roundings, g = (V + 9) 2^-24; where products are subnormal
 * t = D 2^-150 (1 + |x - c|). Its least is of a centroid whose true distance is larger than any other's by at most
 * 2 (g w |x - c|^2 + t) and a bit: G = (g (|X| + |C|)^2 + S^2 t / w) 1.01 in half squares. So with T the least U, every
 * centroid that can be the CPU's has U - 2 P n <= T + G. They stand in a list. A list that is full, points beyond
 * 60000, what is not finite, distances that might overflow, and weights that differ within a point: all centroids are
 * measured, one after another, as the CPU does. */

enum {
	POINTS = 16, /* of a warp: the rows of an mma */
	LISTED = 16, /* centroids of a point, at most */
	SAMPLE = 16, /* centroids whose mean is u */
	FEW = 8      /* centroids that are all measured at once */
};
static constexpr float FARTHEST = 60000;
/* Warps of a block, at most: as registers allow. */
static constexpr int near_most(int V, bool weighted) { return V == 16 || (V == 4 && weighted) ? 8 : 12; }

struct listed {
	float low; /* U - 2 P n, or less */
	int m;
};
template <int V> struct near_warp {
	float stage[V <= 4 ? POINTS * V * 32 : 1 << 2]; /* the next points */
	listed list[POINTS][LISTED];
	int count[POINTS];
};
struct near_args {
	int32_t *nearest;
	float *distance;
	const float *x, *w, *center, *c;
	const uint16_t *c16; /* (padded k, V * 32): near_centroids_kernel's, as center, c and sizes */
	const float2 *sizes;
	int64_t n;
	int lots, step;     /* 16 points each, and of them those that run at once */
	int dim, k, vector; /* rows begin at 16 bytes */
	int tile, tiles; /* centroids in shared memory at once, and how often that is all of them; two tiles if not 1 */
};
struct eight { /* columns 4 t to 4 t + 3 and 16 + 4 t on of 32, t = lane % 4: of an mma's rows and columns alike */
	float v[8];
};

/* The lowest of equals. */
static __device__ __forceinline__ bool nearer(float a, int i, float b, int k) { return a < b || (a == b && i < k); }

static __device__ __forceinline__ unsigned near_halves(float a, float b) {
	__half2 h = __floats2half2_rn(a, b);
	unsigned u;
	memcpy(&u, &h, sizeof u);
	return u;
}

/* center: S o, and S and its inverse behind it; c (k, V * 32), zeros behind dim; c16: C of 32 columns by lanes as
 * `eight` has them, halves of 128 bytes swapped in every other row, so that lanes meet no bank twice; sizes: |C|^2 / 2
 * and n. A warp a centroid; those behind k are far from everything. */
template <int V>
__global__ void __launch_bounds__(THREADS, 1)
        near_centroids_kernel(float *center, float *to, uint16_t *c16, float2 *sizes, const float *c, int dim, int k,
                              int padded) {
	int m = (int)blockIdx.x * WARPS + (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
	int some = WHIT_MIN(k, SAMPLE);
	float u[V], sum = 0, lost = 0;
	unsigned far = 0; /* bits: in order of size */
	WHIT_AFTER();
	if (m >= padded) return;
	WHIT_UNROLL
	for (int s = 0; s < V; s++) {
		int j = 32 * s + lane;
		float v[SAMPLE];
		WHIT_UNROLL
		for (int i = 0; i < SAMPLE; i++) v[i] = i < some && j < dim ? c[(int64_t)i * k / some * dim + j] : 0.0f;
		u[s] = 0;
		WHIT_UNROLL
		for (int i = 0; i < SAMPLE; i++) u[s] += v[i];
		u[s] /= (float)some;
		WHIT_UNROLL
		for (int i = 0; i < SAMPLE; i++)
			if (i < some) far = WHIT_MAX(far, __float_as_uint(v[i] - u[s]) & 0x7fffffffu);
	}
	far = __reduce_max_sync(0xffffffffu, far);
	int shift = WHIT_MAX(WHIT_MIN(127 + 3 - (int)(far >> 23), 60), -60);
	float by = __uint_as_float((unsigned)(127 + shift) << 23);
	if (m == 0 && lane == 0) *(float4 *)(center + V * 32) = make_float4(by, 1 / by, 0, 0);
	WHIT_UNROLL
	for (int s = 0; s < V; s++) {
		int j = 32 * s + lane, slot = lane % 16 / 4 * 8 + lane / 16 * 4 + lane % 4;
		float own = m < k && j < dim ? c[(int64_t)m * dim + j] : 0.0f, mid = by * u[s];
		float v = m < k ? fmaf(by, own, -mid) : 0.0f;
		sum += v * v;
		if (m == 0) center[j] = mid;
		if (m < k) to[(int64_t)m * V * 32 + j] = own;
		uint16_t h = whit_dev_to_f16(v);
		float e = v - whit_dev_f16(h);
		lost += e * e;
		c16[(int64_t)m * V * 32 + (V > 1 ? s ^ (m & 1) : s) * 32 + slot] = h;
	}
	sum = whit_warp_sum(sum), lost = whit_warp_sum(lost);
	/* E: also the float's own rounding, of |C| */
	float size = sqrtf(sum) * (1 + 0x1p-16f) + 0x1p-50f,
	      E = sqrtf(lost) * (1 + 0x1p-16f) + 0x1p-23f * size + 0x1p-50f;
	if (lane == 0) sizes[m] = m < k ? make_float2(sum / 2, size + 2049 * E) : make_float2(1e30f, 0);
}

/* Lane t's eight of 32 columns of a row from `at` on. */
static __device__ __forceinline__ eight near_load(const float *row, int at, int dim, int vector) {
	eight e;
	WHIT_UNROLL
	for (int h = 0; h < 2; h++) {
		int j = at + 16 * h + (int)threadIdx.x % 4 * 4;
		float4 q = vector && j < dim ? *(const float4 *)(row + j) : make_float4(0, 0, 0, 0);
		e.v[4 * h] = q.x, e.v[4 * h + 1] = q.y, e.v[4 * h + 2] = q.z, e.v[4 * h + 3] = q.w;
		WHIT_UNROLL
		for (int i = 0; i < 4; i++)
			if (!vector && j + i < dim) e.v[4 * h + i] = row[j + i];
	}
	return e;
}

/* The CPU's distance, by the four lanes of a row: x(s) and w(s) are eight of columns 32 s on. */
template <int V, int at_once, bool weighted, class X, class W>
static __device__ __forceinline__ float near_distance(X x, W w, const float *c) {
	float part[8] = {};
	WHIT_UNROLL_BY(at_once)
	for (int s = 0; s < V; s++) {
		eight xs = x(s), cs = near_load(c, 32 * s, V * 32, 1), ws = {};
		if (weighted) ws = w(s);
		WHIT_UNROLL
		for (int i = 0; i < 8; i++) {
			float d = xs.v[i] - cs.v[i];
			part[i] += (weighted ? ws.v[i] * d : d) * d;
		}
	}
	WHIT_UNROLL
	for (int i = 0; i < 4; i++) {
		part[i] += part[i + 4];
		part[i] += __shfl_xor_sync(0xffffffffu, part[i], 2);
		part[i] += __shfl_xor_sync(0xffffffffu, part[i], 1);
	}
	return part[0] + part[2] + (part[1] + part[3]);
}

/* Points i0 on to a warp's shared memory, rows as they are, halves of 128 bytes swapped in every other one; zeros
 * behind dim and n. */
template <int V> static __device__ __forceinline__ void near_stage(float *to, const near_args &a, int64_t i0) {
	int lane = (int)threadIdx.x % 32;
	if (a.vector) {
		enum { step = 4 / V }; /* rows at once */
		int q = lane % (V * 8), row = lane / (V * 8);
		const float *from = a.x + (i0 + row) * a.dim + 4 * q;
		int left = 4 * q < a.dim ? (int)WHIT_MIN(a.n - i0 - row, (int64_t)POINTS) : 0;
		WHIT_UNROLL
		for (int k = 0; k < POINTS; k += step, from += step * a.dim)
			ptx_copy_async<16>(to + (row + k) * V * 32 + (q ^ ((row + k) & 1) * 4) * 4, from,
			                   k < left ? 16 : 0);
	} else {
		WHIT_UNROLL_BY(1)
		for (int i = lane; i < POINTS * V * 32; i += 32) {
			int row = i / (V * 32), j = i % (V * 32);
			bool in = j < a.dim && i0 + row < a.n;
			ptx_copy_async<4>(to + row * V * 32 + (j ^ (row & 1) * 16),
			                  in ? a.x + (i0 + row) * a.dim + j : a.x, in * 4);
		}
	}
	ptx_copy_commit();
}

/* Tile number `tile` of centroids and, behind it, their sizes, by all of the block. */
template <int V> static __device__ __forceinline__ void near_tile(uint8_t *to, const near_args &a, int tile) {
	const uint8_t *c16 = (const uint8_t *)(a.c16 + (int64_t)tile * a.tile * V * 32);
	const uint8_t *sizes = (const uint8_t *)(a.sizes + tile * a.tile);
	int bytes = a.tile * V * 64;
	WHIT_UNROLL_BY(2)
	for (int i = (int)threadIdx.x * 16; i < bytes; i += (int)blockDim.x * 16) ptx_copy_async<16>(to + i, c16 + i);
	WHIT_UNROLL_BY(1)
	for (int i = (int)threadIdx.x * 16; i < a.tile * 8; i += (int)blockDim.x * 16)
		ptx_copy_async<16>(to + bytes + i, sizes + i);
	ptx_copy_commit();
}

/* What the filter knows of a lane's two rows, g and g + 8. */
struct near_row {
	float P, slack, least; /* slack: G; least: of U so far */
	bool all;              /* to be measured against all centroids */
};

/* norm: sum of X^2, far: the largest n, by: S, back: 1 / S, w: the point's weight. */
template <int V>
static __device__ __forceinline__ near_row near_bounds(float norm, float far, float by, float back, float w) {
	constexpr float g = (V + 9) * 0x1p-24f, cut = 2 * V * 20 * 0x1p-23f, D = V * 32;
	constexpr float A = 0x1.01p-11f + 1.05f * cut + 0x1p-20f, B = 1.05f * cut + (V + 12) * 0x1p-24f + 0x1p-20f;
	float x = sqrtf(norm) * (1 + 0x1p-16f) + 0x1p-50f, reach = x + far, most = reach * back;
	near_row r;
	r.P = fmaf(B / 2, far, fmaf(A, x, D * 0x1p-27f)); /* sqrt(D) is at most D / 4 from 32 on */
	r.slack = 1.02f * g * reach * reach + by * by / w * (D * 0x1p-149f * (1 + most));
	r.least = __int_as_float(0x7f800000);
	r.all = !(x <= FARTHEST && far <= FARTHEST && w > 0 && WHIT_MAX(w, 1.0f) * most * most <= 1e36f &&
	          r.slack <= 1e30f);
	return r;
}

/* A list without what cannot be the nearest any more; one that has overflown stays as it is. */
static __device__ void near_weed(listed *list, int *count, float limit) {
	int n = *count, left = 0;
	if (n > LISTED) return;
	for (int i = 0; i < n; i++)
		if (list[i].low <= limit) list[left++] = list[i];
	*count = left;
}

/* A warp 16 points, all columns of theirs as F16 in registers, NT times 8 centroids at once; up to 128 columns of the
 * next ones are under way, and its own stay in registers as they were. */
template <int V, bool weighted>
__global__ void __launch_bounds__(near_most(V, weighted) * 32, 1) kmeans_near_kernel(const near_args a) {
	enum { NT = 4, held = V <= 4, pitch = V * 64 };
	WHIT_SHARED_DYNAMIC(uint8_t, memory);
	const unsigned every = 0xffffffffu;
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
	int g = lane / 4, t = lane % 4, slot = 0;
	float *center = (float *)memory;
	near_warp<V> &own = ((near_warp<V> *)(center + V * 32 + 4))[warp];
	uint8_t *tiles = (uint8_t *)((near_warp<V> *)(center + V * 32 + 4) + warps);
	unsigned widest = 0;
	WHIT_AFTER();
	near_tile<V>(tiles, a, 0);
	if (held) near_stage<V>(own.stage, a, (int64_t)((int)blockIdx.x * warps + warp) * POINTS);
	for (int m = lane; m < a.k; m += 32) widest = WHIT_MAX(widest, __float_as_uint(a.sizes[m].y));
	float far = __uint_as_float(__reduce_max_sync(every, widest));
	for (int i = (int)threadIdx.x; i < V * 32 + 4; i += (int)blockDim.x) center[i] = a.center[i];
	if (a.tiles == 1) ptx_copy_wait<0>();
	__syncthreads();
	for (int lot = (int)blockIdx.x * warps; lot < a.lots; lot += a.step) { /* the block's first */
		int64_t i0 = (int64_t)(lot + warp) * POINTS;
		eight x[2][held ? V : 1];
		float by = center[V * 32], back = center[V * 32 + 1];
		unsigned A[2 * V][4];
		float norm[2] = {}, w[2] = {1, 1};
		bool same[2] = {true, true};
		near_row r[2];
		auto at = [&](const float *p, int i) { return p + WHIT_MIN(i0 + g + 8 * i, a.n - 1) * a.dim; };
		if (held) ptx_copy_wait<0>();
		__syncwarp(); /* also: the lists have been read */
		if (t < 2) own.count[g + 8 * t] = 0;
		WHIT_UNROLL
		for (int i = 0; weighted && i < 2; i++) w[i] = *at(a.w, i);
		WHIT_UNROLL
		for (int s = 0; s < V; s++) {
			eight mid = near_load(center, 32 * s, V * 32, 1);
			WHIT_UNROLL
			for (int i = 0; i < 2; i++) {
				eight v;
				if constexpr (held) {
					const float4 *p =
					        (const float4 *)(own.stage + (g + 8 * i) * V * 32) + 8 * s + t;
					float4 lo = p[g & 1 ? 4 : 0], hi = p[g & 1 ? 0 : 4];
					v = x[i][s] = {{lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w}};
				} else {
					v = near_load(at(a.x, i), 32 * s, a.dim, a.vector);
				}
				if (weighted) {
					eight ws = near_load(at(a.w, i), 32 * s, a.dim, a.vector);
					WHIT_UNROLL
					for (int e = 0; e < 8; e++) {
						int j = 32 * s + e / 4 * 16 + 4 * t + e % 4;
						same[i] = same[i] && (j >= a.dim || ws.v[e] == w[i]);
					}
				}
				WHIT_UNROLL
				for (int e = 0; e < 8; e++) {
					v.v[e] = fmaf(-by, v.v[e], mid.v[e]); /* -X: the mma adds */
					norm[i] = fmaf(v.v[e], v.v[e], norm[i]);
				}
				WHIT_UNROLL
				for (int e = 0; e < 4; e++)
					A[2 * s + e / 2][e % 2 * 2 + i] = near_halves(v.v[2 * e], v.v[2 * e + 1]);
			}
			if (weighted || s % 2) __syncwarp(); /* no more loads at once than registers hold */
		}
		WHIT_UNROLL
		for (int i = 0; i < 2; i++) {
			norm[i] += __shfl_xor_sync(every, norm[i], 2);
			norm[i] += __shfl_xor_sync(every, norm[i], 1);
			r[i] = near_bounds<V>(norm[i], far, by, back, w[i]);
			bool measured = a.k < FEW || (i0 + g + 8 * i < a.n && (r[i].all || !same[i]));
			r[i].all = __any_sync(every, measured);
		}
		if (held) {
			__syncwarp(); /* the points have been read */
			near_stage<V>(own.stage, a, i0 + (int64_t)a.step * POINTS);
		}
		__syncwarp();
		bool all = r[0].all || r[1].all;
		for (int tile = 0; tile < a.tiles; tile++) {
			if (a.tiles > 1) {
				ptx_copy_wait<0>();
				__syncthreads();
				near_tile<V>(tiles + (slot ^ 1) * a.tile * (pitch + 8), a,
				             tile + 1 < a.tiles ? tile + 1 : 0);
			}
			const uint8_t *c16 = tiles + slot * a.tile * (pitch + 8);
			const float2 *size = (const float2 *)(c16 + a.tile * pitch);
			c16 += g * pitch + t * 16;
			slot ^= a.tiles > 1;
			for (int m0 = 0; m0 < a.tile && !all; m0 += 8 * NT) {
				float U[NT][4];
				WHIT_UNROLL
				for (int j = 0; j < NT; j++) {
					float4 q = *(const float4 *)(size + m0 + 8 * j + 2 * t);
					U[j][0] = fmaf(r[0].P, q.y, q.x), U[j][1] = fmaf(r[0].P, q.w, q.z);
					U[j][2] = fmaf(r[1].P, q.y, q.x), U[j][3] = fmaf(r[1].P, q.w, q.z);
				}
				WHIT_UNROLL
				for (int s = 0; s < V; s++) WHIT_UNROLL
				for (int j = 0; j < NT; j++) {
					int at = (V > 1 ? s ^ (g & 1) : s) * 64;
					uint4 b = *(const uint4 *)(c16 + (m0 + 8 * j) * pitch + at);
					unsigned b0[2] = {b.x, b.y}, b1[2] = {b.z, b.w};
					ptx_mma_f16(U[j], A[2 * s], b0);
					ptx_mma_f16(U[j], A[2 * s + 1], b1);
				}
				WHIT_UNROLL
				for (int i = 0; i < 2; i++) {
					float least = U[0][2 * i];
					WHIT_UNROLL
					for (int j = 0; j < 2 * NT; j++) least = fminf(least, U[j / 2][2 * i + j % 2]);
					float quad = fminf(least, __shfl_xor_sync(every, least, 2));
					r[i].least = fminf(r[i].least, fminf(quad, __shfl_xor_sync(every, quad, 1)));
					float limit = r[i].least + r[i].slack, loose = fmaf(2 * r[i].P, far, limit);
					unsigned there = 0;
					WHIT_UNROLL
					for (int j = 0; j < 2 * NT; j++)
						there |= U[j / 2][2 * i + j % 2] <= loose ? 1u << j : 0u;
					for (; there; there &= there - 1) { /* least is not more than any of them */
						int j = __ffs((int)there) - 1, m = m0 + j / 2 * 8 + 2 * t + j % 2;
						float low = fmaf(-2 * r[i].P, size[m].y, least);
						if (!(low <= limit) || tile * a.tile + m >= a.k) continue;
						int at = atomicAdd(&own.count[g + 8 * i], 1);
						if (at < LISTED) own.list[g + 8 * i][at] = {low, tile * a.tile + m};
					}
				}
				__syncwarp();
				int *its = &own.count[g + 8 * (t & 1)];
				bool full = t < 2 && *its > LISTED / 2;
				if (__any_sync(every, full)) {
					float limit = t ? r[1].least + r[1].slack : r[0].least + r[0].slack;
					if (full) near_weed(own.list[g + 8 * t], its, limit);
					__syncwarp();
				}
			}
		}
		int best[2] = {INT_MAX, INT_MAX}, next[2] = {};
		float least[2] = {__int_as_float(0x7f800000), __int_as_float(0x7f800000)};
		/* From memory, two times 32 columns at once: registers are few. */
		auto from = [&](const float *p, int i, int s) { return near_load(at(p, i), 32 * s, a.dim, a.vector); };
		bool full = !all && (own.count[g] > LISTED || own.count[g + 8] > LISTED);
		all = __any_sync(every, full) || all;
		for (int m = 0; m < a.k && all; m++) WHIT_UNROLL
		for (int i = 0; i < 2; i++) {
			const float *c = a.c + (int64_t)m * V * 32;
			float d;
			if constexpr (held && !weighted)
				d = near_distance<V, V, false>([&](int s) { return x[i][s]; },
				                               [](int) { return eight{}; }, c);
			else
				d = near_distance<V, 2, weighted>([&](int s) { return from(a.x, i, s); },
				                                  [&](int s) { return from(a.w, i, s); }, c);
			if (m == 0 || d < least[i]) best[i] = m, least[i] = d;
		}
		for (bool more = !all; more;) {
			more = false;
			WHIT_UNROLL
			for (int i = 0; i < 2; i++) {
				const listed *list = own.list[g + 8 * i];
				int n = own.count[g + 8 * i];
				float limit = r[i].least + r[i].slack;
				while (next[i] < n && !(list[next[i]].low <= limit)) next[i]++;
				bool there = next[i] < n;
				if (!__any_sync(every, there)) continue;
				int m = there ? list[next[i]++].m : 0;
				const float *c = a.c + (int64_t)m * V * 32;
				auto weight = [&](int) {
					return eight{{w[i], w[i], w[i], w[i], w[i], w[i], w[i], w[i]}};
				};
				float d;
				if constexpr (held)
					d = near_distance<V, V, weighted>([&](int s) { return x[i][s]; }, weight, c);
				else
					d = near_distance<V, 2, weighted>([&](int s) { return from(a.x, i, s); },
					                                  weight, c);
				if (there && nearer(d, m, least[i], best[i])) best[i] = m, least[i] = d;
				more = true;
			}
		}
		WHIT_UNROLL
		for (int i = 0; i < 2; i++)
			if (t == 0 && i0 + g + 8 * i < a.n)
				a.nearest[i0 + g + 8 * i] = best[i], a.distance[i0 + g + 8 * i] = least[i];
	}
	ptx_copy_wait<0>(); /* those behind the last point */
}

template <int V>
static void near(whit_dev *d, int32_t *nearest, float *distance, const float *x, const float *w, const float *c,
                 int64_t n, int dim, int k) {
	enum { chunk = 32, row = V * 64 + 8, head = V * 128 + 16 };
	int most = near_most(V, w != NULL), padded = (k + chunk - 1) / chunk * chunk, tile = padded, slots = 1;
	auto warps = [&]() {
		return (d->shared - 1024 - (int64_t)slots * tile * row - head) / (int64_t)sizeof(near_warp<V>);
	};
	for (int less = 128; warps() < most / 2 && less >= chunk; less /= 2)
		if (padded > less) padded = (k + less - 1) / less * less, tile = less, slots = 2;
	int64_t each = WHIT_MAX(whit_blocks(n, POINTS) / d->sms, 1), fit = warps();
	int block = (int)WHIT_MIN(each, WHIT_MIN(fit, (int64_t)most));
	size_t values = (size_t)padded * V * 32;
	float *center = (float *)whit_dev_take(d, head + 8 * (size_t)padded + 6 * values);
	if (!center) return;
	float2 *sizes = (float2 *)(center + head / 4);
	float *copy = (float *)(sizes + padded);
	uint16_t *c16 = (uint16_t *)(copy + values);
	int vector = dim % 4 == 0 && (uintptr_t)x % 16 == 0 && (uintptr_t)w % 16 == 0;
	int lots = (int)whit_blocks(n, POINTS), blocks = WHIT_MIN(d->sms, (int)whit_blocks(lots, block));
	const near_args a = {nearest, distance,       x,   w, center, copy, c16,          sizes, n,
	                     lots,    blocks * block, dim, k, vector, tile, padded / tile};
	WHIT_LAUNCH_EARLY((near_centroids_kernel<V>), whit_blocks(padded, WARPS), THREADS, 0, d, center, copy, c16,
	                  sizes, c, dim, k, padded);
	auto *kernel = w ? kmeans_near_kernel<V, true> : kmeans_near_kernel<V, false>;
	WHIT_LAUNCH_EARLY(kernel, (unsigned)blocks, block * 32,
	                  (size_t)(slots * tile * row + head) + block * sizeof(near_warp<V>), d, a);
}

extern "C" void whit_kmeans_assign_cuda(whit_dev *d, int32_t *nearest, float *distance, const float *x, const float *w,
                                        const float *c, int64_t n, int64_t dim, int k) {
	if (n == 0) return;
	if (d->plain || dim > 512)
		WHIT_LAUNCH(kmeans_assign_kernel, whit_blocks(n, WARPS), THREADS, 0, d, nearest, distance, x, w, c, n,
		            dim, k);
	else if (dim > 256)
		near<16>(d, nearest, distance, x, w, c, n, (int)dim, k);
	else if (dim > 128)
		near<8>(d, nearest, distance, x, w, c, n, (int)dim, k);
	else if (dim > 64)
		near<4>(d, nearest, distance, x, w, c, n, (int)dim, k);
	else if (dim > 32)
		near<2>(d, nearest, distance, x, w, c, n, (int)dim, k);
	else
		near<1>(d, nearest, distance, x, w, c, n, (int)dim, k);
}

/* A warp a piece of points, a cluster and a strip of V * 32 coordinates: it looks through the piece for the cluster's
 * points, BATCH of which are then read at once and added in their order. sum and weight (pieces, k, dim). */
template <int V, bool weighted>
__global__ void __launch_bounds__(THREADS, 2)
        kmeans_pieces_kernel(double *sum, double *weight, const int32_t *nearest, const float *x, const float *w,
                             int64_t n, int64_t dim, int k, int64_t piece) {
	WHIT_SHARED(int, queues, [WARPS][32 + BATCH]); /* points from the piece's first on */
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, m = (int)blockIdx.x * WARPS + warp, held = 0;
	int64_t i0 = blockIdx.y * piece, c0 = (int64_t)blockIdx.z * V * 32 + lane;
	int count = (int)(WHIT_MIN(n, i0 + piece) - i0), *queue = queues[warp];
	double s[V] = {}, t[V] = {};
	if (m >= k) return;
	nearest += i0, x += i0 * dim, w = weighted ? w + i0 * dim : NULL;
	for (int i = 0; i < count || held; i += 32) {
		bool own = i + lane < count && nearest[i + lane] == m;
		unsigned all = __ballot_sync(0xffffffffu, own);
		if (own) queue[held + __popc(all & ((1u << lane) - 1))] = i + lane;
		held += __popc(all);
		__syncwarp();
		int taken = 0;
		for (; held - taken >= (i + 32 < count ? BATCH : 1); taken += BATCH) {
			float vx[BATCH][V], vw[BATCH][V];
			WHIT_UNROLL
			for (int b = 0; b < BATCH * V; b++) {
				int64_t c = c0 + b % V * 32, at = queue[WHIT_MIN(taken + b / V, held - 1)] * dim + c;
				vx[b / V][b % V] = c < dim ? x[at] : 0.0f;
				vw[b / V][b % V] = c < dim && weighted ? w[at] : 1.0f;
			}
			WHIT_UNROLL
			for (int b = 0; b < BATCH * V; b++) {
				if (taken + b / V >= held) break;
				double v = vw[b / V][b % V];
				s[b % V] = fma(v, (double)vx[b / V][b % V], s[b % V]); /* an exact product */
				t[b % V] += v;
			}
		}
		held = WHIT_MAX(held - taken, 0);
		int rest = lane < held ? queue[taken + lane] : 0;
		__syncwarp();
		if (lane < held) queue[lane] = rest;
		__syncwarp();
	}
	WHIT_UNROLL
	for (int v = 0; v < V; v++) {
		int64_t c = c0 + 32 * v, at = ((int64_t)blockIdx.y * k + m) * dim + c;
		if (c < dim) sum[at] = s[v], weight[at] = t[v];
	}
}

template <int V>
static void pieces_of(whit_dev *d, double *sum, double *weight, const int32_t *nearest, const float *x, const float *w,
                      int64_t n, int64_t dim, int k, int64_t piece) {
	dim3 grid(whit_blocks(k, WARPS), whit_blocks(n, piece), whit_blocks(dim, 32 * V));
	auto *kernel = w ? kmeans_pieces_kernel<V, true> : kmeans_pieces_kernel<V, false>;
	WHIT_LAUNCH(kernel, grid, THREADS, 0, d, sum, weight, nearest, x, w, n, dim, k, piece);
}

extern "C" void whit_kmeans_sums_cuda(whit_dev *d, double *sum, double *weight, const int32_t *nearest, const float *x,
                                      const float *w, int64_t n, int64_t dim, int k) {
	int64_t piece = whit_kmeans_piece(n, dim), pieces = (n + piece - 1) / piece, all = k * dim;
	double *sums = (double *)whit_dev_take(d, (size_t)(2 * (pieces + 1) * all) * sizeof *sums),
	       *weights = sums + pieces * all;
	if (!sums) return;
	if (pieces && dim > 64)
		pieces_of<4>(d, sums, weights, nearest, x, w, n, dim, k, piece);
	else if (pieces && dim > 32)
		pieces_of<2>(d, sums, weights, nearest, x, w, n, dim, k, piece);
	else if (pieces)
		pieces_of<1>(d, sums, weights, nearest, x, w, n, dim, k, piece);
	whit_dev_parts(d, sum, weight, sums, all, pieces, 0);
}
