/* The host branches of ptx.cuh against index arithmetic; 16-bit types against what rounding once means; an example
 * with cp.async, ldmatrix and mma. On a GPU the same questions are the case table's. */
#include "tests/emu/tile.cuh"
extern "C" {
#include "tests/test.h"
}

enum { ORDERS = 4 };
static whit_dev *dev;
static uint64_t state = 1;
static uint32_t draw() { /* with edges now and then */
	static const uint32_t edges[] = {0,           1,           0xffffffffu, 0x80000000u,
	                                 0x7fffffffu, 0x80808080u, 0x7f7f7f7fu, 0x01010101u};
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	uint32_t v = (uint32_t)(state >> 32);
	return v % 5 ? v : edges[v / 5 % 8];
}

/* ---- bits ---- */

static void bits() {
	int bad[12] = {};
	for (int n = 0; n < 4000; n++) {
		uint32_t a = draw(), b = draw(), c = draw(), s = draw();
		bad[0] += ptx_lop3<0xea>(a, b, c) != ((a & b) | c);
		bad[1] += ptx_lop3<0x96>(a, b, c) != (a ^ b ^ c);
		bad[2] += ptx_lop3<0xca>(a, b, c) != ((a & b) | (~a & c));
		bad[3] += ptx_lop3<0x6a>(a, b, c) != ((a & b) ^ c);
		bad[4] += ptx_prmt(a, b, 0x3210) != a;
		bad[5] += ptx_prmt(a, b, 0x7654) != b;
		bad[6] += ptx_prmt(a, b, 0x0123) != __builtin_bswap32(a);
		bad[7] += ptx_prmt(a, b, 0x5410) != ((a & 0xffff) | b << 16);
		uint32_t sign = 0;
		for (int i = 0; i < 4; i++) sign |= ((int8_t)(a >> 8 * i) < 0 ? 255u : 0u) << 8 * i;
		bad[8] += ptx_prmt(a, b, 0xba98) != sign;
		bad[9] += ptx_shift_left(a, b, s) != (s % 32 ? b << s % 32 | a >> (32 - s % 32) : b);
		int64_t ss = (int)c, us = (int)c;
		for (int i = 0; i < 4; i++) {
			ss += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
			us += (uint8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
		}
		bad[10] += ptx_dp4a((int)a, (int)b, (int)c) != (int)ss;
		bad[11] += ptx_dp4a_us(a, (int)b, (int)c) != (int)us;
	}
	for (int b : bad) CHECK_INT(b, 0);
}

/* ---- fragments: element (row, column) of each matrix is a number of its own, laid out by the manual's formulas ----
 */

template <class F> static void in_orders(F f) {
	for (int k = 0; k < ORDERS; k++) {
		whit_err e = {0, ""};
		emu::now = emu::schedule_number(k);
		f();
		CHECK_RC(whit_dev_sync(dev, &e), e);
	}
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

static void ldmatrix() {
	in_orders([] {
		for (int form = 0; form < 3; form++) {
			unsigned *out = (unsigned *)whit_dev_alloc(dev, 128 * sizeof *out);
			int bad = 0;
			WHIT_LAUNCH(ldmatrix_kernel, 1, 32, 0, dev, out, form);
			for (int l = 0; l < 32; l++)
				for (int m = 0; m < 4; m++)
					for (int e = 0; e < 2; e++) {
						int row = l / 4, col = l % 4 * 2 + e,
						    at = form == 1 ? 16 * col + row : 16 * row + col;
						bad += (int)(out[4 * l + m] >> 16 * e & 0xffff) !=
						       (form == 2 && m > 1 ? 0 : 128 * m + at);
					}
			CHECK_INT(bad, 0);
			whit_dev_free(dev, out);
		}
	});
}

/* The manual's fragment formulas, as it prints them: row and column of element i of a lane. */
struct place {
	int row, col;
};
static place a16(int lane, int i) { /* i = 0..7 */
	int g = lane >> 2, t = lane % 4;
	return {(i < 2) || (i >= 4 && i < 6) ? g : g + 8, i < 4 ? t * 2 + (i & 1) : t * 2 + (i & 1) + 8};
}
static place b16(int lane, int i) { /* i = 0..3 */
	int g = lane >> 2, t = lane % 4;
	return {i < 2 ? t * 2 + (i & 1) : t * 2 + (i & 1) + 8, g};
}
static place a8(int lane, int i) { /* i = 0..15 */
	int g = lane >> 2, t = lane % 4;
	return {(i < 4) || (i >= 8 && i < 12) ? g : g + 8, i < 8 ? t * 4 + (i & 3) : t * 4 + (i & 3) + 16};
}
static place b8(int lane, int i) { /* i = 0..7 */
	int g = lane >> 2, t = lane % 4;
	return {i < 4 ? t * 4 + (i & 3) : t * 4 + (i & 3) + 16, g};
}
static place c32(int lane, int i) { /* i = 0..3 */
	int g = lane >> 2, t = lane % 4;
	return {i < 2 ? g : g + 8, t * 2 + (i & 1)};
}

__global__ void mma_kernel(int kind, unsigned *c, const unsigned *a, const unsigned *b) {
	unsigned lane = threadIdx.x, af[4], bf[2];
	for (int i = 0; i < 4; i++) af[i] = a[4 * lane + (unsigned)i];
	for (int i = 0; i < 2; i++) bf[i] = b[2 * lane + (unsigned)i];
	if (kind <= emu::BF16_F32) {
		float f[4];
		for (int i = 0; i < 4; i++) f[i] = __uint_as_float(c[4 * lane + (unsigned)i]);
		if (kind == emu::F16_F32)
			ptx_mma_f16(f, af, bf);
		else
			ptx_mma_bf16(f, af, bf);
		for (int i = 0; i < 4; i++) c[4 * lane + (unsigned)i] = __float_as_uint(f[i]);
	} else if (kind == emu::F16_F16) {
		ptx_mma_f16_f16(c + 4 * lane, af, bf);
	} else {
		int s[4];
		for (int i = 0; i < 4; i++) s[i] = (int)c[4 * lane + (unsigned)i];
		if (kind == emu::S8_S32)
			ptx_mma_s8(s, af, bf);
		else
			ptx_mma_u8s8(s, af, bf);
		for (int i = 0; i < 4; i++) c[4 * lane + (unsigned)i] = (unsigned)s[i];
	}
}

static void put(unsigned *reg, int i, int per, unsigned v) { /* element i into registers of `per` elements */
	int bits = 32 / per, shift = i % per * bits;
	reg[i / per] = (reg[i / per] & ~((bits == 16 ? 0xffffu : 0xffu) << shift)) | v << shift;
}

static void mma() {
	in_orders([] {
		for (int kind = emu::F16_F32; kind <= emu::U8S8_S32; kind++) {
			bool ints = kind >= emu::S8_S32;
			int K = ints ? 32 : 16, per = ints ? 4 : 2, bad = 0, A[16][32], B[32][8], C[16][8];
			for (auto &row : A)
				for (int &v : row) v = (int)(draw() % 15) - (kind == emu::U8S8_S32 ? 0 : 7);
			for (auto &row : B)
				for (int &v : row) v = (int)(draw() % 15) - 7;
			for (auto &row : C)
				for (int &v : row) v = (int)(draw() % 101) - 50;
			if (kind == emu::U8S8_S32) A[3][5] = 255, B[5][2] = -128;
			auto encode = [&](int v) {
				return kind == emu::BF16_F32 ? (unsigned)whit_f32_to_bf16((float)v)
				       : ints                ? (unsigned)v & 255u
				                             : (unsigned)whit_f32_to_f16((float)v);
			};
			unsigned *a = (unsigned *)whit_dev_alloc(dev, 512), *b = (unsigned *)whit_dev_alloc(dev, 256),
			         *c = (unsigned *)whit_dev_alloc(dev, 512);
			for (int l = 0; l < 32; l++) {
				for (int i = 0; i < 4 * per; i++) {
					place p = ints ? a8(l, i) : a16(l, i);
					put(a + 4 * l, i, per, encode(A[p.row][p.col]));
				}
				for (int i = 0; i < 2 * per; i++) {
					place p = ints ? b8(l, i) : b16(l, i);
					put(b + 2 * l, i, per, encode(B[p.row][p.col]));
				}
				for (int i = 0; i < 4; i++) {
					int v = C[c32(l, i).row][c32(l, i).col];
					if (kind == emu::F16_F16)
						put(c + 4 * l, i, 2, encode(v));
					else
						c[4 * l + i] = ints ? (unsigned)v : __float_as_uint((float)v);
				}
			}
			WHIT_LAUNCH(mma_kernel, 1, 32, 0, dev, kind, c, a, b);
			for (int l = 0; l < 32; l++)
				for (int i = 0; i < 4; i++) {
					place p = c32(l, i);
					int want = C[p.row][p.col];
					for (int k = 0; k < K; k++) want += A[p.row][k] * B[k][p.col];
					double got =
					        kind == emu::F16_F16
					                ? whit_f16_to_f32((uint16_t)(c[4 * l + i / 2] >> 16 * (i % 2)))
					        : ints ? (int)c[4 * l + i]
					               : __uint_as_float(c[4 * l + i]);
					bad += !(got == want);
				}
			CHECK_MSG(!bad, "mma kind %d: %d of 128 outputs are wrong", kind, bad);
			whit_dev_free(dev, a), whit_dev_free(dev, b), whit_dev_free(dev, c);
		}
	});
}

/* ---- the example, on whole numbers: exact ---- */

template <bool bf16> static void tile_run(int64_t M, int64_t N, int64_t K) {
	uint16_t *a = (uint16_t *)whit_dev_alloc(dev, (size_t)(M * K) * 2 + 16),
	         *b = (uint16_t *)whit_dev_alloc(dev, (size_t)(N * K) * 2 + 16);
	float *y = (float *)whit_dev_alloc(dev, (size_t)(M * N) * 4);
	auto encode = [](float f) { return bf16 ? whit_f32_to_bf16(f) : whit_f32_to_f16(f); };
	auto decode = [](uint16_t h) { return bf16 ? whit_bf16_to_f32(h) : whit_f16_to_f32(h); };
	for (int64_t i = 0; i < M * K; i++) a[i] = encode((float)((int)(draw() % 17) - 8));
	for (int64_t i = 0; i < N * K; i++) b[i] = encode((float)((int)(draw() % 17) - 8));
	WHIT_LAUNCH((tile_kernel<bf16>), dim3(whit_blocks(N, TILE_N), whit_blocks(M, TILE_M)), 128, 0, dev, y, a, b, M,
	            N, K);
	int64_t bad = 0;
	for (int64_t i = 0; i < M; i++)
		for (int64_t j = 0; j < N; j++) {
			float want = 0;
			for (int64_t k = 0; k < K; k++) want += decode(a[i * K + k]) * decode(b[j * K + k]);
			bad += !(y[i * N + j] == want);
		}
	CHECK_MSG(!bad, "tile %lld x %lld x %lld: %lld outputs are wrong", (long long)M, (long long)N, (long long)K,
	          (long long)bad);
	whit_dev_free(dev, a), whit_dev_free(dev, b), whit_dev_free(dev, y);
}

static void tile() {
	in_orders([] {
		tile_run<false>(32, 32, 32);
		tile_run<false>(1, 40, 8);
		tile_run<true>(33, 70, 200);
		tile_run<true>(7, 1, 136);
	});
}

/* ---- 16-bit types ---- */

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
		for (uint16_t &v : r) v = (uint16_t)draw();
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

static void open_device() {
	whit_err e = {0, ""};
	CHECK_RC(whit_dev_open(&dev, 0, &e), e);
}
static void close_device() { whit_dev_close(dev); }

TEST_MAIN(open_device, bits, ldmatrix, mma, tile, conversions, arithmetic, close_device)
