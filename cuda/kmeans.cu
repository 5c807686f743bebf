/* kmeans: coordinates in lanes j % 32, so that distances have the CPU's order; and sums of pieces of points, a warp a
 * cluster, added piece after piece. */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256, WARPS = THREADS / 32, BATCH = 8 /* points of a cluster that are read at once */ };
enum { CENTROID_BYTES = 32 << 10 }; /* of a tile in shared memory: three blocks a multiprocessor and more */

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

/* The lowest of equals. */
static __device__ __forceinline__ bool nearer(float a, int i, float b, int k) { return a < b || (a == b && i < k); }

/* P points of V * 32 coordinates at most, in registers; centroids in tiles of shared memory, read once for all points,
 * so many at a time that a warp has 32 sums, which whit_warp_sums adds up together: lane l that of centroid l / P and
 * point l % P. Behind the last coordinate all are 0, which adds +0 to sums that begin as +0. */
template <int V, int P, bool weighted>
__global__ void __launch_bounds__(THREADS, V < 16 ? 2 : 1)
        kmeans_tiles_kernel(int32_t *nearest, float *distance, const float *x, const float *w, const float *c,
                            int64_t n, int dim, int k, int tile) {
	enum { C = 32 / P };
	WHIT_SHARED_DYNAMIC(float, shared);
	int64_t i0 = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * P;
	int lane = (int)threadIdx.x % 32, best = 0;
	float px[P][V], pw[P][V], least = __int_as_float(0x7f800000);
	WHIT_UNROLL
	for (int p = 0; p < P; p++) WHIT_UNROLL
	for (int v = 0; v < V; v++) {
		int j = 32 * v + lane;
		bool in = i0 + p < n && j < dim;
		px[p][v] = in ? x[(i0 + p) * dim + j] : 0.0f;
		pw[p][v] = in && weighted ? w[(i0 + p) * dim + j] : 0.0f;
	}
	for (int m0 = 0; m0 < k; m0 += tile) {
		int here = WHIT_MIN(tile, k - m0);
		__syncthreads(); /* the tile before has been read */
		for (int t = (int)threadIdx.x; t < tile * V * 32; t += THREADS) {
			int j = t % (V * 32), m = t / (V * 32);
			shared[t] = j < dim && m < here ? c[(int64_t)(m0 + m) * dim + j] : 0.0f;
		}
		__syncthreads();
		for (int m = 0; m < here; m += C) {
			float part[32] = {};
			WHIT_UNROLL
			for (int v = 0; v < V * C; v++) {
				float cv = shared[(m * V + v) * 32 + lane];
				WHIT_UNROLL
				for (int p = 0; p < P; p++) {
					float d = px[p][v % V] - cv;
					part[v / V * P + p] += (weighted ? pw[p][v % V] * d : d) * d;
				}
			}
			float sum = whit_warp_sums<32>(part);
			int own = m0 + m + lane / P;
			if (own < k && (own < C || sum < least)) best = own, least = sum;
		}
	}
	WHIT_UNROLL
	for (int half = 16; half >= P; half /= 2) {
		float other = __shfl_xor_sync(0xffffffffu, least, half);
		int its = __shfl_xor_sync(0xffffffffu, best, half);
		if (nearer(other, its, least, best)) best = its, least = other;
	}
	if (lane < P && i0 + lane < n) nearest[i0 + lane] = best, distance[i0 + lane] = least;
}

template <int V, int P>
static void tiles(whit_dev *d, int32_t *nearest, float *distance, const float *x, const float *w, const float *c,
                  int64_t n, int64_t dim, int k) {
	int tile = WHIT_MIN(CENTROID_BYTES / (V * 32 * (int)sizeof(float)), (k + 32 / P - 1) / (32 / P) * (32 / P));
	auto *kernel = w ? kmeans_tiles_kernel<V, P, true> : kmeans_tiles_kernel<V, P, false>;
	WHIT_LAUNCH(kernel, whit_blocks(n, WARPS * P), THREADS, CENTROID_BYTES, d, nearest, distance, x, w, c, n,
	            (int)dim, k, tile);
}

extern "C" void whit_kmeans_assign_cuda(whit_dev *d, int32_t *nearest, float *distance, const float *x, const float *w,
                                        const float *c, int64_t n, int64_t dim, int k) {
	if (n == 0) return;
	if (d->plain || dim > 512)
		WHIT_LAUNCH(kmeans_assign_kernel, whit_blocks(n, WARPS), THREADS, 0, d, nearest, distance, x, w, c, n,
		            dim, k);
	else if (dim > 256)
		tiles<16, 2>(d, nearest, distance, x, w, c, n, dim, k);
	else if (dim > 128)
		tiles<8, 4>(d, nearest, distance, x, w, c, n, dim, k);
	else if (dim > 64)
		tiles<4, 8>(d, nearest, distance, x, w, c, n, dim, k);
	else if (dim > 32)
		tiles<2, 8>(d, nearest, distance, x, w, c, n, dim, k);
	else
		tiles<1, 8>(d, nearest, distance, x, w, c, n, dim, k);
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
