/* op_vec: three compilations of op_vecbody.h and the choice between them. */
#include "host/op_vec.h"
#include <math.h>

/* Loops whose counters are constants must vanish: their arrays are registers. */
#define WHIT_UNROLL _Pragma("GCC unroll 16")

/* ---- plain C ---- */
#define N(x) x##_c
#define VATTR
#define VW 1
#define VM 4 /* a GEMM tile: rows, */
#define VN 2 /* vectors of columns; at most 3 */
#define VF float
#define VSET(a) ((float)(a))
#define VLD(p) (*(p))
#define VST(p, v) (*(p) = (v))
#define VLDN(p, n) ((void)(n), *(p))
#define VSTN(p, v, n) ((void)(n), *(p) = (v))
#define VADD(a, b) ((a) + (b))
#define VSUB(a, b) ((a) - (b))
#define VMUL(a, b) ((a) * (b))
#define VDIV(a, b) ((a) / (b))
/* One rounding but for double ones: the sine's reduction needs exact products. */
#define VFMA(a, b, c) ((float)((double)(a) * (b) + (c)))
#define VFNMA(a, b, c) ((float)((c) - (double)(a) * (b)))
#define VMAX(a, b) max_c(a, b)
#define VMIN(a, b) min_c(a, b)
#define VROUND(a) nearbyintf(a)
#define VFLOOR(a) floorf(a)
#define VSCALEF(p, n) ldexp_c(p, n)
#define VSUM(a) (a)
#define VTOP(a) (a)
static inline float max_c(float a, float b) { return a > b ? a : b; } /* NaN in b stays, as maxps */
static inline float ldexp_c(float p, float n) { return n == n ? ldexpf(p, (int)n) : n; }
static inline float min_c(float a, float b) { return a < b ? a : b; }
#include "host/op_vecbody.h"

#ifdef __x86_64__
#include <immintrin.h>

/* ---- AVX2 + FMA ---- */
#define N(x) x##_avx2
#define VATTR __attribute__((target("avx2,fma")))
#define VW 8
#define VM 4
#define VN 3
#define VF __m256
#define VSET(a) _mm256_set1_ps(a)
#define VLD(p) _mm256_loadu_ps(p)
#define VST(p, v) _mm256_storeu_ps(p, v)
#define VLDN(p, n) ((n) == 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask_avx2(n)))
#define VSTN(p, v, n) ((n) == 8 ? _mm256_storeu_ps(p, v) : _mm256_maskstore_ps(p, mask_avx2(n), v))
#define VADD(a, b) _mm256_add_ps(a, b)
#define VSUB(a, b) _mm256_sub_ps(a, b)
#define VMUL(a, b) _mm256_mul_ps(a, b)
#define VDIV(a, b) _mm256_div_ps(a, b)
#define VFMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define VFNMA(a, b, c) _mm256_fnmadd_ps(a, b, c)
#define VMAX(a, b) _mm256_max_ps(a, b)
#define VMIN(a, b) _mm256_min_ps(a, b)
#define VROUND(a) _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define VFLOOR(a) _mm256_floor_ps(a)
#define VSCALEF(p, n) _mm256_mul_ps(p, power_avx2(n))
#define VSUM(a) sum_avx2(a)
#define VTOP(a) top_avx2(a)
VATTR static inline __m256i mask_avx2(int64_t n) {
	return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VATTR static inline __m256 power_avx2(__m256 n) { /* 2^n by its exponent bits */
	return _mm256_castsi256_ps(
	        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
VATTR static inline float sum_avx2(__m256 a) {
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
VATTR static inline float top_avx2(__m256 a) {
	__m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
	s = _mm_max_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
#include "host/op_vecbody.h"

/* ---- AVX-512 ---- */
#define N(x) x##_avx512
#define VATTR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define VW 16
#define VM 12
#define VN 2
#define VF __m512
#define VSET(a) _mm512_set1_ps(a)
#define VLD(p) _mm512_loadu_ps(p)
#define VST(p, v) _mm512_storeu_ps(p, v)
#define VLDN(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define VSTN(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), v)
#define VADD(a, b) _mm512_add_ps(a, b)
#define VSUB(a, b) _mm512_sub_ps(a, b)
#define VMUL(a, b) _mm512_mul_ps(a, b)
#define VDIV(a, b) _mm512_div_ps(a, b)
#define VFMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define VFNMA(a, b, c) _mm512_fnmadd_ps(a, b, c)
#define VMAX(a, b) _mm512_max_ps(a, b)
#define VMIN(a, b) _mm512_min_ps(a, b)
#define VROUND(a) _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define VFLOOR(a) _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
#define VSCALEF(p, n) _mm512_scalef_ps(p, n)
#define VSUM(a) _mm512_reduce_add_ps(a)
#define VTOP(a) _mm512_reduce_max_ps(a)
#include "host/op_vecbody.h"
#endif

const whit_vec *whit_vec_get(void) {
#ifdef __x86_64__
	int level = whit_cpu_level();
	if (level >= 2) return &set_avx512;
	if (level == 1) return &set_avx2;
#endif
	return &set_c;
}

void whit_items(int64_t n, int64_t work_per_item, whit_item_fn fn, void *ctx) {
	if (n * work_per_item > 100000) {
		whit_parallel(n, fn, ctx);
		return;
	}
	for (int64_t i = 0; i < n; i++) fn(ctx, i, 0);
}

typedef struct division {
	double *a, by;
	int64_t cols;
} division;

static void divide_row(void *ctx, int64_t i, int worker) {
	const division *d = ctx;
	(void)worker;
	for (int64_t k = i * d->cols; k < (i + 1) * d->cols; k++) d->a[k] /= d->by;
}

void whit_divide(double *a, int64_t rows, int64_t cols, double by) {
	whit_items(rows, cols, divide_row, &(division){a, by, cols});
}
