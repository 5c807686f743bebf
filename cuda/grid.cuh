/* grid: a barrier of all blocks of a kernel. A header of its own, since CUDA's is slow to read. */
#ifndef WHIT_GRID_CUH
#define WHIT_GRID_CUH
#include "cuda/dev.cuh"
#ifdef __CUDACC__
#include <cooperative_groups.h>
#endif

/* In a kernel of WHIT_LAUNCH_COOPERATIVE, by every thread of every block: what any of them wrote before it, all see
 * behind it. */
#ifdef __CUDACC__
static __device__ __forceinline__ void whit_grid_sync() { cooperative_groups::this_grid().sync(); }
#else
static inline void whit_grid_sync(EMU_AT) { emu::grid_sync(file, line); }
#endif
#endif
