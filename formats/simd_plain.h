/* simd_plain: the names of simd_avx2.h for one float at a time in plain C, for bodies that are compiled for it too.
 * Only what grid_simd.h needs. In C++ this is a kernel's vocabulary: a thread is a lane, and dev.cuh comes first. */
#include "formats/simd.h"
#include <math.h>
#include "host/base.h"

#ifdef __cplusplus
#define TARGET static __device__ __forceinline__
#define INLINE static __device__ __forceinline__
#define LEVEL(name) name##_lane
#define F16_TO_F32 whit_dev_f16
#define F32_TO_F16 whit_dev_to_f16
static constexpr int W = 1;
#else
#define TARGET
#define INLINE static inline __attribute__((always_inline, unused))
#define LEVEL(name) name##_plain
#define F16_TO_F32 whit_f16_to_f32
#define F32_TO_F16 whit_f32_to_f16
enum { W = 1 };
#endif
typedef float vf;
typedef int32_t vi;
typedef uint32_t vu;

INLINE vf zero(void) { return 0; }
INLINE vf set1(float x) { return x; }
INLINE vf ld(const float *p) { return *p; }
INLINE void st(float *p, vf v) { *p = v; }
INLINE vf fmadd(vf a, vf b, vf c) { return fmaf(a, b, c); }
INLINE vf mul(vf a, vf b) { return a * b; }
INLINE vf add(vf a, vf b) { return a + b; }
INLINE vf sub(vf a, vf b) { return a - b; }
INLINE vf quotient(vf a, vf b) { return a / b; }
INLINE vf magnitude(vf v) { return fabsf(v); }
INLINE vf larger(vf a, vf b) { return a > b ? a : b; } /* as maxps: b where they are equal */
INLINE vf smaller(vf a, vf b) { return a < b ? a : b; }
INLINE vf rounded(vf v) { return rintf(v); }
INLINE void st_u8(void *p, vi v) { *(uint8_t *)p = (uint8_t)v; }
INLINE vi to_int(vf v) { return (vi)v; }
INLINE vi iset1(int x) { return x; }
INLINE vi iadd(vi a, vi b) { return a + b; }
INLINE vi step_above(vi k, vf y, vf t, int step) { return y > t ? k + step : k; }
INLINE vf less_pick(vf a, vf b, vf yes, vf no) { return a < b ? yes : no; }
INLINE vi bits_of(vf v) {
	vi b;
	memcpy(&b, &v, 4);
	return b;
}
INLINE vf float_of(vi b) {
	vf v;
	memcpy(&v, &b, 4);
	return v;
}
INLINE vf round_f16(vf v) { return F16_TO_F32(F32_TO_F16(v)); }
INLINE void st_f16(uint16_t *p, vf v) { *p = F32_TO_F16(v); }
INLINE void unzip(vf a, vf b, vf *even, vf *odd) { *even = a, *odd = b; } /* never called: W / 2 pairs are none */

typedef struct lut {
	const float *t;
} lut;
INLINE lut lut_of(const float t[16]) {
	lut l = {t};
	return l;
}
INLINE vf lookup(lut t, vi i, int bits) {
	(void)bits;
	return t.t[i];
}
