/* tile: an example of all that a fast kernel is made of, checked exactly: y (M, N) = a (M, K) b (N, K)^T of 16-bit
 * operands, M and N any, K a multiple of 8. cp.async in two stages with zero fill, padded rows, ldmatrix, mma.
 *
 * A block of four warps has 32 x 32 outputs, a warp 16 x 16 of them; K goes by 32. */
#include "cuda/dev.cuh"

enum { TILE_M = 32, TILE_N = 32, TILE_K = 32, TILE_PAD = 8 /* rows 80 bytes apart: ldmatrix meets all banks */ };

static __device__ __forceinline__ void tile_fetch(uint16_t (*to)[TILE_K + TILE_PAD], const uint16_t *from, int64_t row0,
                                                  int64_t rows, int64_t k0, int64_t K) {
	/* 32 rows of 64 bytes are 128 pieces of 16: one a thread */
	int r = (int)threadIdx.x / 4, c = (int)threadIdx.x % 4 * 8;
	bool inside = row0 + r < rows && k0 + c < K;
	ptx_copy_async<16>(&to[r][c], inside ? from + (row0 + r) * K + k0 + c : from, inside ? 16 : 0);
}

template <bool bf16>
__global__ void __launch_bounds__(128)
        tile_kernel(float *y, const uint16_t *a, const uint16_t *b, int64_t M, int64_t N, int64_t K) {
	WHIT_SHARED_ALIGNED(16, uint16_t, as, [2][TILE_M][TILE_K + TILE_PAD]);
	WHIT_SHARED_ALIGNED(16, uint16_t, bs, [2][TILE_N][TILE_K + TILE_PAD]);
	int64_t m0 = (int64_t)blockIdx.y * TILE_M, n0 = (int64_t)blockIdx.x * TILE_N;
	int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, wm = warp / 2 * 16, wn = warp % 2 * 16;
	float c[2][4] = {};
	int64_t steps = (K + TILE_K - 1) / TILE_K;
	for (int64_t s = 0; s <= steps; s++) {
		int into = (int)(s % 2), from = 1 - into;
		if (s < steps) {
			tile_fetch(as[into], a, m0, M, s * TILE_K, K);
			tile_fetch(bs[into], b, n0, N, s * TILE_K, K);
		}
		ptx_copy_commit();
		if (s == 0) continue;
		ptx_copy_wait<1>();
		__syncthreads();
		WHIT_UNROLL
		for (int k = 0; k < TILE_K; k += 16) {
			unsigned af[4], bf[4];
			/* a: rows 0-7, 8-15 of columns 0-7, then of 8-15. b: columns 0-7, 8-15 of rows 0-7, then 8-15
			 */
			ptx_ldmatrix_x4(af, &as[from][wm + lane % 16][k + lane / 16 * 8]);
			ptx_ldmatrix_x4(bf, &bs[from][wn + lane % 8 + lane / 16 * 8][k + lane / 8 % 2 * 8]);
			for (int j = 0; j < 2; j++)
				if (bf16)
					ptx_mma_bf16(c[j], af, bf + 2 * j);
				else
					ptx_mma_f16(c[j], af, bf + 2 * j);
		}
		__syncthreads(); /* the stage is free to be fetched into */
	}
	for (int j = 0; j < 2; j++)
		for (int i = 0; i < 4; i++) {
			int64_t row = m0 + wm + lane / 4 + i / 2 * 8, col = n0 + wn + 8 * j + lane % 4 * 2 + i % 2;
			if (row < M && col < N) y[row * N + col] = c[j][i];
		}
}
