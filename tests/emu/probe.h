/* probe: kernels that show what the instructions of cuda/ptx.cuh do, for tests/case_ptx.c. */
#ifndef WHIT_PROBE_H
#define WHIT_PROBE_H
#include "cuda/dev.h"

enum { PROBE_BITS = 11, PROBE_LDMATRIX = 3 };
enum { PROBE_F16, PROBE_BF16, PROBE_F16_F16, PROBE_S8, PROBE_U8S8, PROBE_MMAS };
/* out[n][PROBE_BITS] of in[n][4]: operands a, b, c, s. */
void probe_bits_cuda(whit_dev *d, uint32_t *out, const uint32_t *in, int64_t n);
/* The four registers of each lane, after the matrices m of halves 128 m + 16 row + column: x4, x4 transposed, x2. */
void probe_ldmatrix_cuda(whit_dev *d, uint32_t *out, int form);
/* One mma on fragments: c, a: 4 registers a lane (c of PROBE_F16_F16: the first two), b: 2. */
void probe_mma_cuda(whit_dev *d, int kind, uint32_t *c, const uint32_t *a, const uint32_t *b);
/* y[64] from x[64], aligned to 16 bytes: see probe.cu. */
void probe_memory_cuda(whit_dev *d, uint32_t *y, const uint32_t *x, uint32_t *flag);
/* y[64 blocks]: x, turned by 64 values `rounds` times, by a kernel whose blocks wait for each other. */
void probe_grid_cuda(whit_dev *d, uint32_t *y, const uint32_t *x, int blocks, int rounds);
/* y (M, N) = a (M, K) b (N, K)^T, f16 or bf16, K a multiple of 8 (tile.cuh). */
void probe_tile_cuda(whit_dev *d, float *y, const uint16_t *a, const uint16_t *b, int64_t M, int64_t N, int64_t K,
                     int bf16);
#endif
