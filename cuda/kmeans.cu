/* kmeans: a warp a point, its coordinates in lanes j % 32, so that sums have the CPU's order; and sums of pieces of
 * points, a thread a coordinate, added piece after piece. */
#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}

enum { THREADS = 256, WARPS = THREADS / 32, POINTS = 4 /* of a warp */, STRIP = 32 };
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

/* V * 32 coordinates at most, in registers for POINTS points; centroids in tiles of shared memory, read once for all
 * points. Behind the last coordinate all are 0, which adds +0 to sums that begin as +0. */
template <int V>
__global__ void kmeans_tiles_kernel(int32_t *nearest, float *distance, const float *x, const float *w, const float *c,
                                    int64_t n, int dim, int k, int tile) {
	WHIT_SHARED_DYNAMIC(float, shared);
	int64_t i0 = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * POINTS;
	int lane = (int)threadIdx.x % 32, best[POINTS];
	float px[POINTS][V], pw[POINTS][V], least[POINTS];
	WHIT_UNROLL for (int p = 0; p < POINTS; p++) {
		best[p] = 0, least[p] = __int_as_float(0x7f800000);
		WHIT_UNROLL for (int v = 0; v < V; v++) {
			int j = 32 * v + lane;
			bool in = i0 + p < n && j < dim;
			px[p][v] = in ? x[(i0 + p) * dim + j] : 0.0f;
			pw[p][v] = in ? (w ? w[(i0 + p) * dim + j] : 1.0f) : 0.0f;
		}
	}
	for (int m0 = 0; m0 < k; m0 += tile) {
		int here = WHIT_MIN(tile, k - m0);
		__syncthreads(); /* the tile before has been read */
		for (int t = (int)threadIdx.x; t < here * V * 32; t += THREADS) {
			int j = t % (V * 32);
			shared[t] = j < dim ? c[(int64_t)(m0 + t / (V * 32)) * dim + j] : 0.0f;
		}
		__syncthreads();
		for (int m = 0; m < here; m++) {
			float part[POINTS] = {};
			WHIT_UNROLL for (int v = 0; v < V; v++) {
				float cv = shared[(m * V + v) * 32 + lane];
				WHIT_UNROLL for (int p = 0; p < POINTS; p++) {
					float d = px[p][v] - cv;
					part[p] += pw[p][v] * d * d;
				}
			}
			WHIT_UNROLL for (int p = 0; p < POINTS; p++) {
				float sum = whit_warp_sum(part[p]);
				if ((m0 + m == 0) | (sum < least[p])) best[p] = m0 + m, least[p] = sum;
			}
		}
	}
	WHIT_UNROLL for (int p = 0; p < POINTS; p++) if (lane == p && i0 + p < n) nearest[i0 + p] = best[p],
	                                                                                       distance[i0 + p] =
	                                                                                               least[p];
}

template <int V>
static void tiles(whit_dev *d, int32_t *nearest, float *distance, const float *x, const float *w, const float *c,
                  int64_t n, int64_t dim, int k) {
	int tile = CENTROID_BYTES / (V * 32 * (int)sizeof(float));
	WHIT_LAUNCH((kmeans_tiles_kernel<V>), whit_blocks(n, WARPS * POINTS), THREADS, CENTROID_BYTES, d, nearest,
	            distance, x, w, c, n, (int)dim, k, WHIT_MIN(tile, k));
}

extern "C" void whit_kmeans_assign_cuda(whit_dev *d, int32_t *nearest, float *distance, const float *x, const float *w,
                                        const float *c, int64_t n, int64_t dim, int k) {
	if (n == 0) return;
	if (d->plain || dim > 512)
		WHIT_LAUNCH(kmeans_assign_kernel, whit_blocks(n, WARPS), THREADS, 0, d, nearest, distance, x, w, c, n,
		            dim, k);
	else if (dim > 256)
		tiles<16>(d, nearest, distance, x, w, c, n, dim, k);
	else if (dim > 128)
		tiles<8>(d, nearest, distance, x, w, c, n, dim, k);
	else if (dim > 64)
		tiles<4>(d, nearest, distance, x, w, c, n, dim, k);
	else if (dim > 32)
		tiles<2>(d, nearest, distance, x, w, c, n, dim, k);
	else
		tiles<1>(d, nearest, distance, x, w, c, n, dim, k);
}

/* Sums of one piece and strip of coordinates, in memory of this thread alone: sum and weight (pieces, k, dim). */
__global__ void kmeans_pieces_kernel(double *sum, double *weight, const int32_t *nearest, const float *x,
                                     const float *w, int64_t n, int64_t dim, int k, int64_t piece) {
	int64_t c = (int64_t)blockIdx.y * STRIP + threadIdx.x, i0 = blockIdx.x * piece, i1 = WHIT_MIN(n, i0 + piece);
	if (c >= dim) return;
	sum += (int64_t)blockIdx.x * k * dim + c, weight += (int64_t)blockIdx.x * k * dim + c;
	for (int m = 0; m < k; m++) sum[m * dim] = weight[m * dim] = 0;
	for (int64_t i = i0; i < i1; i++) {
		int64_t m = nearest[i] * dim;
		double v = w ? (double)w[i * dim + c] : 1.0;
		sum[m] += v * x[i * dim + c];
		weight[m] += v;
	}
}

extern "C" void whit_kmeans_sums_cuda(whit_dev *d, double *sum, double *weight, const int32_t *nearest, const float *x,
                                      const float *w, int64_t n, int64_t dim, int k) {
	int64_t piece = whit_kmeans_piece(n, dim), pieces = (n + piece - 1) / piece, all = k * dim;
	double *sums = (double *)whit_dev_take(d, (size_t)(2 * (pieces + 1) * all) * sizeof *sums),
	       *weights = sums + pieces * all;
	if (!sums) return;
	if (pieces)
		WHIT_LAUNCH(kmeans_pieces_kernel, dim3((unsigned)pieces, whit_blocks(dim, STRIP)), STRIP, 0, d, sums,
		            weights, nearest, x, w, n, dim, k, piece);
	whit_dev_parts(d, sum, weight, sums, all, pieces, 0);
}
