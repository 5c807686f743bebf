/* emu16: half and bfloat16 as CUDA's headers offer them, over base.c's conversions. Each operation rounds once.
 * Ours serve with and without the toolkit, so that both builds test the same code; tests/emu/test_toolkit.cpp
 * compares them with the toolkit's own host types where its headers are. */
#ifndef WHIT_EMU16_H
#define WHIT_EMU16_H
#include "tests/emu/emu.h"
extern "C" {
#include "host/base.h"
}

namespace emu {
/* d + err, err far below d, to float with all that is lost kept in the last bit: a second rounding, to 16 bits, is
 * then the only one (Boldo & Melquiond 2008, rounding to odd). */
static inline float to_odd(double d, double err) {
	float f = (float)d;
	if (isnan(d) || isinf(d) || ((double)f == d && err == 0)) return f;
	uint32_t u;
	bool away = fabs((double)f) > fabs(d) || ((double)f == d && (err < 0) != (d < 0));
	memcpy(&u, &f, 4);
	u = (u - away) | 1;
	memcpy(&f, &u, 4);
	return f;
}
/* a * b + c of numbers whose product a double holds */
static inline float fma_odd(float a, float b, float c) {
	double p = (double)a * b, s = p + c, t = s - p;
	return to_odd(s, isfinite(s) ? (p - (s - t)) + (c - t) : 0);
}
} // namespace emu

#define EMU_HALF(type, type2, to, from, half_to_float, float_to_half, float_to_half_rn, as_bits, from_bits)            \
	struct type {                                                                                                  \
		uint16_t bits;                                                                                         \
	};                                                                                                             \
	struct alignas(4) type2 {                                                                                      \
		type x, y;                                                                                             \
	};                                                                                                             \
	static inline float half_to_float(type h) { return to(h.bits); }                                               \
	static inline type float_to_half(float f) { return {from(f)}; }                                                \
	static inline type float_to_half_rn(float f) { return {from(f)}; }                                             \
	static inline unsigned short as_bits(type h) { return h.bits; }                                                \
	static inline type from_bits(unsigned short u) { return {u}; }                                                 \
	static inline type __hadd(type a, type b) { return {from(half_to_float(a) + half_to_float(b))}; }              \
	static inline type __hsub(type a, type b) { return {from(half_to_float(a) - half_to_float(b))}; }              \
	static inline type __hmul(type a, type b) { return {from(half_to_float(a) * half_to_float(b))}; }              \
	static inline type __hfma(type a, type b, type c) {                                                            \
		return {from(emu::fma_odd(half_to_float(a), half_to_float(b), half_to_float(c)))};                     \
	}                                                                                                              \
	static inline type2 __hadd2(type2 a, type2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }                 \
	static inline type2 __hsub2(type2 a, type2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }                 \
	static inline type2 __hmul2(type2 a, type2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }                 \
	static inline type2 __hfma2(type2 a, type2 b, type2 c) {                                                       \
		return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                                                 \
	}
/* Sums of two f16 are exact in float; sums of two bf16 may not be, but float keeps 24 bits of a result of 8: twice 8
 * and 2 more, which makes the second rounding harmless (Figueroa 1995), as it does for products of either. */
EMU_HALF(__half, __half2, whit_f16_to_f32, whit_f32_to_f16, __half2float, __float2half, __float2half_rn,
         __half_as_ushort, __ushort_as_half)
EMU_HALF(__nv_bfloat16, __nv_bfloat162, whit_bf16_to_f32, whit_f32_to_bf16, __bfloat162float, __float2bfloat16,
         __float2bfloat16_rn, __bfloat16_as_ushort, __ushort_as_bfloat16)
#undef EMU_HALF
static inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
static inline __half __low2half(__half2 a) { return a.x; }
static inline __half __high2half(__half2 a) { return a.y; }
static inline __half2 __floats2half2_rn(float a, float b) { return {__float2half(a), __float2half(b)}; }
static inline float2 __half22float2(__half2 a) { return {__half2float(a.x), __half2float(a.y)}; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) {
	return {__float2bfloat16(a), __float2bfloat16(b)};
}
static inline float2 __bfloat1622float2(__nv_bfloat162 a) { return {__bfloat162float(a.x), __bfloat162float(a.y)}; }
#endif
