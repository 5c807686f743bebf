/* The toolkit's own host conversions of 16-bit floats, where its headers are, against base.c's, which emu16 stands on:
 * what runs emulated is then what a kernel means by __half and __nv_bfloat16. */
extern "C" {
#include "tests/test.h"
}
#if __has_include(<cuda_fp16.h>)
#include <cuda_bf16.h>
#include <cuda_fp16.h>

static void conversions() {
	int bad = 0;
	for (uint32_t h = 0; h < 65536; h++) {
		float f = __half2float(__half(__half_raw{(unsigned short)h})), wf = whit_f16_to_f32((uint16_t)h);
		float b = __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{(unsigned short)h})),
		      wb = whit_bf16_to_f32((uint16_t)h);
		bad += memcmp(&f, &wf, 4) && !(isnan(f) && isnan(wf));
		bad += memcmp(&b, &wb, 4) && !(isnan(b) && isnan(wb));
	}
	CHECK_INT(bad, 0);
	for (uint64_t k = 0; k < UINT64_C(1) << 32; k += 4099) { /* every exponent, both sides of many ties */
		uint32_t u = (uint32_t)k ^ (uint32_t)(k % 3 == 0 ? 0x1000 : 0);
		float f;
		memcpy(&f, &u, 4);
		if (isnan(f)) continue;
		bad += __half_raw(__float2half_rn(f)).x != whit_f32_to_f16(f);
		bad += __nv_bfloat16_raw(__float2bfloat16_rn(f)).x != whit_f32_to_bf16(f);
	}
	CHECK_INT(bad, 0);
}

static void arithmetic() {
	int bad = 0;
	for (uint32_t k = 0; k < 400000; k++) {
		uint32_t u = k * 2654435761u;
		uint16_t x = (uint16_t)u, y = (uint16_t)(u >> 16);
		float a = whit_f16_to_f32(x), b = whit_f16_to_f32(y);
		if (isnan(a) || isnan(b) || isnan(a + b) || isnan(a * b)) continue;
		__half p = __half_raw{x}, q = __half_raw{y};
		bad += __half_raw(__hadd(p, q)).x != whit_f32_to_f16(a + b);
		bad += __half_raw(__hmul(p, q)).x != whit_f32_to_f16(a * b);
	}
	CHECK_INT(bad, 0);
}
#else
static void conversions() { test_skip("toolkit: its headers are absent"); }
static void arithmetic() {}
#endif

TEST_MAIN(conversions, arithmetic)
