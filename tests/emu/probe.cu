/* probe: the kernels of probe.h. Built for both the emulator and nvcc, so that every wrapper of ptx.cuh is compiled. */
#include "cuda/grid.cuh"
#include "tests/emu/tile.cuh"
extern "C" {
#include "tests/emu/probe.h"
}

__global__ void bits_kernel(uint32_t *out, const uint32_t *in, int64_t n) {
	int64_t i = (int64_t)blockIdx.x * 64 + threadIdx.x;
	if (i >= n) return;
	uint32_t a = in[4 * i], b = in[4 * i + 1], c = in[4 * i + 2], s = in[4 * i + 3];
	out += i * PROBE_BITS;
	out[0] = ptx_lop3<0xea>(a, b, c);
	out[1] = ptx_lop3<0x96>(a, b, c);
	out[2] = ptx_lop3<0xca>(a, b, c);
	out[3] = ptx_lop3<0x6a>(a, b, c);
	out[4] = ptx_prmt(a, b, 0x0123);
	out[5] = ptx_prmt(a, b, 0x5410);
	out[6] = ptx_prmt(a, b, 0xba98);
	out[7] = ptx_shift_left(a, b, s);
	out[8] = (uint32_t)ptx_dp4a((int)a, (int)b, (int)c);
	out[9] = (uint32_t)ptx_dp4a_us(a, (int)b, (int)c);
	out[10] = ptx_shift_right(a, b, s);
}

__global__ void ldmatrix_kernel(unsigned *out, int form) {
	WHIT_SHARED_ALIGNED(16, uint16_t, m, [4][8][16]);
	for (int i = (int)threadIdx.x; i < 512; i += 32) m[i / 128][i / 16 % 8][i % 16] = (uint16_t)i;
	__syncthreads();
	unsigned r[4] = {0, 0, 0, 0};
	const void *row = m[threadIdx.x / 8][threadIdx.x % 8];
	if (form == 0) ptx_ldmatrix_x4(r, row);
	if (form == 1) ptx_ldmatrix_x4_trans(r, row);
	if (form == 2) ptx_ldmatrix_x2(r, row);
	for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + (unsigned)i] = r[i];
}

__global__ void mma_kernel(int kind, unsigned *c, const unsigned *a, const unsigned *b) {
	unsigned lane = threadIdx.x, af[4], bf[2];
	for (int i = 0; i < 4; i++) af[i] = a[4 * lane + (unsigned)i];
	for (int i = 0; i < 2; i++) bf[i] = b[2 * lane + (unsigned)i];
	if (kind <= PROBE_BF16) {
		float f[4];
		for (int i = 0; i < 4; i++) f[i] = __uint_as_float(c[4 * lane + (unsigned)i]);
		if (kind == PROBE_F16)
			ptx_mma_f16(f, af, bf);
		else
			ptx_mma_bf16(f, af, bf);
		for (int i = 0; i < 4; i++) c[4 * lane + (unsigned)i] = __float_as_uint(f[i]);
	} else if (kind == PROBE_F16_F16) {
		ptx_mma_f16_f16(c + 4 * lane, af, bf);
	} else {
		int s[4];
		for (int i = 0; i < 4; i++) s[i] = (int)c[4 * lane + (unsigned)i];
		if (kind == PROBE_S8)
			ptx_mma_s8(s, af, bf);
		else
			ptx_mma_u8s8(s, af, bf);
		for (int i = 0; i < 4; i++) c[4 * lane + (unsigned)i] = (unsigned)s[i];
	}
}

/* Two warps. The first fetches by every size of cp.async, some of it zero-filled, and by a streaming load, and hands
 * over at barrier 1; the second reads, hands back at barrier 2 and waits for a flag that the first releases. */
__global__ void memory_kernel(uint32_t *y, const uint32_t *x, uint32_t *flag) {
	WHIT_SHARED_ALIGNED(16, uint32_t, s, [64]);
	int lane = (int)threadIdx.x % 32;
	if (threadIdx.x < 32) {
		if (lane < 4) ptx_copy_async<4>(s + lane, x + lane);
		if (lane < 2) ptx_copy_async<8>(s + 4 + 2 * lane, x + 4 + 2 * lane, 4);
		ptx_copy_commit();
		if (lane < 6) ptx_copy_async<16>(s + 8 + 4 * lane, x + 8 + 4 * lane, lane == 5 ? 0 : 16);
		ptx_copy_commit();
		ptx_copy_wait<1>();
		ptx_copy_wait<0>();
		if (lane < 8) {
			uint4 v = ptx_load_stream(reinterpret_cast<const uint4 *>(x + 32) + lane);
			s[32 + 4 * lane] = v.x, s[33 + 4 * lane] = v.y, s[34 + 4 * lane] = v.z, s[35 + 4 * lane] = v.w;
		}
		__syncwarp();
		ptx_barrier_arrive(1, 64);
		ptx_barrier_sync(2, 64);
		ptx_fence();
		if (lane == 0) ptx_store_release(flag, 1);
	} else {
		ptx_barrier_sync(1, 64);
		if (lane < 4)
			ptx_store((uint4 *)y + lane,
			          make_uint4(s[4 * lane], s[4 * lane + 1], s[4 * lane + 2], s[4 * lane + 3]));
		if (lane >= 8 && lane < 16) ptx_store((uint2 *)y + lane, make_uint2(s[2 * lane], s[2 * lane + 1]));
		ptx_barrier_arrive(2, 64);
		while (ptx_load_acquire(flag) == 0) {
		}
		y[32 + lane] = s[63 - lane];
	}
}

/* A ring of blocks: in each round every block takes what the next one holds, all at once. */
__global__ void grid_kernel(uint32_t *y, const uint32_t *x, int rounds) {
	unsigned n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
	y[i] = x[i];
	whit_grid_sync();
	for (int r = 0; r < rounds; r++) {
		uint32_t v = y[(i + blockDim.x) % n];
		whit_grid_sync();
		y[i] = v;
		whit_grid_sync();
	}
}

extern "C" {

void probe_bits_cuda(whit_dev *d, uint32_t *out, const uint32_t *in, int64_t n) {
	WHIT_LAUNCH(bits_kernel, whit_blocks(n, 64), 64, 0, d, out, in, n);
}

void probe_ldmatrix_cuda(whit_dev *d, uint32_t *out, int form) { WHIT_LAUNCH(ldmatrix_kernel, 1, 32, 0, d, out, form); }

void probe_mma_cuda(whit_dev *d, int kind, uint32_t *c, const uint32_t *a, const uint32_t *b) {
	WHIT_LAUNCH(mma_kernel, 1, 32, 0, d, kind, c, a, b);
}

void probe_memory_cuda(whit_dev *d, uint32_t *y, const uint32_t *x, uint32_t *flag) {
	WHIT_LAUNCH(memory_kernel, 1, 64, 0, d, y, x, flag);
}

void probe_grid_cuda(whit_dev *d, uint32_t *y, const uint32_t *x, int blocks, int rounds) {
	WHIT_LAUNCH_COOPERATIVE(grid_kernel, (unsigned)blocks, 64, 0, d, y, x, rounds);
}

void probe_tile_cuda(whit_dev *d, float *y, const uint16_t *a, const uint16_t *b, int64_t M, int64_t N, int64_t K,
                     int bf16) {
	dim3 grid(whit_blocks(N, TILE_N), whit_blocks(M, TILE_M));
	if (bf16)
		WHIT_LAUNCH((tile_kernel<true>), grid, 128, 0, d, y, a, b, M, N, K);
	else
		WHIT_LAUNCH((tile_kernel<false>), grid, 128, 0, d, y, a, b, M, N, K);
}
}
