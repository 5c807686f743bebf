/* 16-bit types of the emulator against what rounding once means. */
#include "cuda/dev.cuh"
extern "C" {
#include "tests/test.h"
}

static uint16_t draw() {
	static uint64_t state = 1;
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint16_t)(state >> 40);
}

static void conversions() {
	int bad = 0;
	for (uint32_t h = 0; h < 65536; h++) {
		float f = whit_dev_f16((uint16_t)h), b = whit_dev_bf16((uint16_t)h), wf = whit_f16_to_f32((uint16_t)h),
		      wb = whit_bf16_to_f32((uint16_t)h);
		bad += memcmp(&f, &wf, 4) && !(isnan(f) && isnan(wf));
		bad += memcmp(&b, &wb, 4) != 0;
		bad += !isnan(f) && whit_dev_to_f16(f) != h;
		bad += !isnan(b) && whit_dev_to_bf16(b) != h;
	}
	CHECK_INT(bad, 0);
}

/* Rounds once: no 16-bit value is nearer to the exact result, found in long double by looking at both neighbours. */
template <class T, class D> static void nearest(T got, long double exact, D decode, int *bad) {
	float v = decode(got.bits);
	if (!isfinite(v)) return; /* overflow: the conversions' own test */
	for (int step = -1; step <= 1; step += 2) {
		float o = decode((uint16_t)(got.bits + step));
		if (isfinite(o) && fabsl(o - exact) < fabsl(v - exact)) ++*bad;
		if (isfinite(o) && o != v && fabsl(o - exact) == fabsl(v - exact) && got.bits % 2)
			++*bad; /* ties to even */
	}
}

static void arithmetic() {
	int bad = 0, f16 = 0;
	for (int n = 0; n < 200000; n++) {
		uint16_t r[3];
		for (uint16_t &v : r) v = draw();
		__half a = {r[0]}, b = {r[1]}, c = {r[2]};
		if (n % 2) c = __float2half(-__half2float(__hmul(a, b))); /* fma's hard case: nearly all cancels */
		long double x = __half2float(a), y = __half2float(b), z = __half2float(c);
		if (isfinite((double)x) && isfinite((double)y) && isfinite((double)z)) {
			nearest(__hadd(a, b), x + y, whit_f16_to_f32, &bad);
			nearest(__hsub(a, b), x - y, whit_f16_to_f32, &bad);
			nearest(__hmul(a, b), x * y, whit_f16_to_f32, &bad);
			nearest(__hfma(a, b, c), x * y + z, whit_f16_to_f32, &bad);
			f16++;
		}
		/* bf16 within 2^+-20, so that long double holds the sums exactly */
		auto tame = [](uint16_t u) { return (uint16_t)((u & 0x807f) | (127 - 20 + (u >> 7 & 255) % 40) << 7); };
		__nv_bfloat16 p = {tame(r[0])}, q = {tame(r[1])}, s = {tame(r[2])};
		x = __bfloat162float(p), y = __bfloat162float(q), z = __bfloat162float(s);
		nearest(__hadd(p, q), x + y, whit_bf16_to_f32, &bad);
		nearest(__hmul(p, q), x * y, whit_bf16_to_f32, &bad);
		nearest(__hfma(p, q, s), x * y + z, whit_bf16_to_f32, &bad);
	}
	CHECK_INT(bad, 0);
	CHECK(f16 > 100000);
}

TEST_MAIN(conversions, arithmetic)
