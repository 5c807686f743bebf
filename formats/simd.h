/* simd: which vector levels are compiled in, and the few words both instruction sets share. The kernels are
 * written once (codes_simd.h, nearest_simd.h, fwht_simd.h) over the names that simd_avx2.h and simd_avx512.h
 * give to instructions, and compiled for each level by its *_avx2.c and *_avx512.c. */
#ifndef WHIT_SIMD_H
#define WHIT_SIMD_H
#if defined(__x86_64__)
#define WHIT_SIMD 1
#else
#define WHIT_SIMD 0
#endif
#ifdef WHIT_UNROLL /* dev.cuh's */
#elif defined(__clang__)
#define WHIT_UNROLL _Pragma("unroll")
#else
#define WHIT_UNROLL _Pragma("GCC unroll 16")
#endif
#endif
