/* base_num: random numbers, hashes, small floats. */
#define _GNU_SOURCE
#include "host/base.h"
#include <math.h>
#include <stdio.h>
#include <xxhash.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* ---- MT19937 (Matsumoto & Nishimura 1998), as torch seeds and draws it ---- */

void whit_mt_seed(whit_mt *m, uint64_t seed) {
	m->s[0] = (uint32_t)seed;
	for (uint32_t i = 1; i < 624; i++) m->s[i] = 1812433253u * (m->s[i - 1] ^ (m->s[i - 1] >> 30)) + i;
	m->i = 624;
}

uint32_t whit_mt_next(whit_mt *m) {
	if (m->i == 624) {
		for (int i = 0; i < 624; i++) {
			uint32_t y = (m->s[i] & 0x80000000u) | (m->s[(i + 1) % 624] & 0x7fffffffu);
			m->s[i] = m->s[(i + 397) % 624] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
		}
		m->i = 0;
	}
	uint32_t y = m->s[m->i++];
	y ^= y >> 11;
	y ^= (y << 7) & 0x9d2c5680u;
	y ^= (y << 15) & 0xefc60000u;
	return y ^ (y >> 18);
}

static float mt_uniform_f(whit_mt *m) { return (float)(whit_mt_next(m) & 0xffffff) * 0x1p-24f; }

static double mt_uniform_d(whit_mt *m) {
	uint64_t hi = whit_mt_next(m), lo = whit_mt_next(m);
	return (double)((hi << 32 | lo) & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* 16 uniforms become 16 normals: a[j] pairs with a[j+8]. */
static void normal_16(float *a) {
	for (int j = 0; j < 8; j++) {
		float u1 = 1 - a[j], u2 = a[j + 8];
		float r = sqrtf(-2 * logf(u1)), theta = (float)(2 * M_PI * u2);
		a[j] = r * cosf(theta);
		a[j + 8] = r * sinf(theta);
	}
}

void whit_mt_randn(whit_mt *m, float *x, int64_t n) {
	if (n >= 16) {
		for (int64_t i = 0; i < n; i++) x[i] = mt_uniform_f(m);
		for (int64_t i = 0; i + 16 <= n; i += 16) normal_16(x + i);
		if (n % 16 == 0) return;
		for (int64_t i = n - 16; i < n; i++) x[i] = mt_uniform_f(m);
		normal_16(x + n - 16);
		return;
	}
	for (int64_t i = 0; i < n; i += 2) {
		double u1 = mt_uniform_d(m), u2 = mt_uniform_d(m);
		double r = sqrt(-2 * log1p(-u2)), theta = 2 * M_PI * u1;
		x[i] = (float)(r * cos(theta));
		if (i + 1 < n) x[i + 1] = (float)(r * sin(theta));
	}
}

/* ---- xoshiro256** (Blackman & Vigna 2018), state from splitmix64 of the key ---- */

static uint64_t splitmix(uint64_t *s) {
	uint64_t z = *s += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

void whit_rng_key(whit_rng *r, uint64_t seed, uint64_t a, uint64_t b) {
	uint64_t s = seed;
	s = splitmix(&s) ^ a;
	s = splitmix(&s) ^ b;
	for (int i = 0; i < 4; i++) r->s[i] = splitmix(&s);
}

static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

uint64_t whit_rng_next(whit_rng *r) {
	uint64_t *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return out;
}

double whit_rng_uniform(whit_rng *r) { return (double)(whit_rng_next(r) >> 11) * 0x1p-53; }

double whit_rng_normal(whit_rng *r) {
	double u = 1 - whit_rng_uniform(r), v = whit_rng_uniform(r);
	return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

uint64_t whit_rng_below(whit_rng *r, uint64_t n) { return (uint64_t)(((unsigned __int128)whit_rng_next(r) * n) >> 64); }

/* ---- hashes ---- */

whit_hash whit_hash_bytes(const void *p, size_t n) {
	XXH128_hash_t h = XXH3_128bits(p, n);
	return (whit_hash){h.high64, h.low64};
}

uint64_t whit_hash_u64(const char *s) { return XXH3_64bits(s, strlen(s)); }

void whit_hash_hex(whit_hash h, char out[33]) {
	snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.hi, (unsigned long long)h.lo);
}

void whit_hash_text(whit_hash h, char out[48]) {
	memcpy(out, "xxh3-128:", 9);
	whit_hash_hex(h, out + 9);
}

/* ---- small floats ---- */

static float bits_f32(uint32_t u) {
	float f;
	memcpy(&f, &u, 4);
	return f;
}

static uint32_t f32_bits(float f) {
	uint32_t u;
	memcpy(&u, &f, 4);
	return u;
}

float whit_f16_to_f32(uint16_t h) {
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3ff;
	if (exp == 31) return bits_f32(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0));
	if (exp) return bits_f32(sign | (exp + 112) << 23 | man << 13);
	float sub = (float)man * 0x1p-24f;
	return sign ? -sub : sub;
}

uint16_t whit_f32_to_f16(float f) {
	uint32_t u = f32_bits(f), a = u & 0x7fffffffu;
	uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
	if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
	if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to Inf */
	if (a >= 0x38800000u) {                                 /* normal: drop 13 bits, nearest even */
		uint32_t r = a - 0x38000000u;
		return (uint16_t)(sign | (r + 0xfff + (r >> 13 & 1)) >> 13);
	}
	/* subnormal: adding 0.5 puts the unit of f16's subnormals at the last bit of the sum, rounded for us */
	return (uint16_t)(sign | (f32_bits(bits_f32(a) + 0.5f) - 0x3f000000u));
}

uint16_t whit_f32_to_bf16(float f) {
	uint32_t u = f32_bits(f);
	if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float whit_e4m3_to_f32(uint8_t b) {
	uint32_t sign = (uint32_t)(b & 0x80) << 24, exp = b >> 3 & 15, man = b & 7;
	if ((b & 0x7f) == 0x7f) return bits_f32(sign | 0x7fc00000u);
	if (exp) return bits_f32(sign | (exp + 120) << 23 | man << 20);
	float sub = (float)man * 0x1p-9f;
	return sign ? -sub : sub;
}

float whit_e5m2_to_f32(uint8_t b) { return whit_f16_to_f32((uint16_t)(b << 8)); }

#if defined(__x86_64__)
__attribute__((target("avx2,f16c"))) static int64_t f16_n_avx2(float *dst, const uint8_t *src, int64_t n) {
	int64_t i = 0;
	for (; i + 8 <= n; i += 8)
		_mm256_storeu_ps(dst + i,
		                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i))));
	return i;
}

__attribute__((target("avx2"))) static int64_t bf16_n_avx2(float *dst, const uint8_t *src, int64_t n) {
	int64_t i = 0;
	for (; i + 8 <= n; i += 8) {
		__m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i)));
		_mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)));
	}
	return i;
}
#endif

void whit_f16_to_f32_n(float *dst, const void *src, int64_t n) {
	const uint8_t *s = src;
	int64_t i = 0;
#if defined(__x86_64__)
	if (whit_cpu_level() >= 1) i = f16_n_avx2(dst, s, n);
#endif
	for (; i < n; i++) dst[i] = whit_f16_to_f32(whit_load_u16(s + 2 * i));
}

void whit_bf16_to_f32_n(float *dst, const void *src, int64_t n) {
	const uint8_t *s = src;
	int64_t i = 0;
#if defined(__x86_64__)
	if (whit_cpu_level() >= 1) i = bf16_n_avx2(dst, s, n);
#endif
	for (; i < n; i++) dst[i] = whit_bf16_to_f32(whit_load_u16(s + 2 * i));
}

int64_t whit_first_nonfinite(const float *x, int64_t n) {
	/* Or-ing a block's exponent tests keeps the loop vectorised; only a bad block is searched. */
	for (int64_t i = 0; i < n; i += 1024) {
		int64_t end = WHIT_MIN(n, i + 1024);
		uint32_t bad = 0;
		for (int64_t j = i; j < end; j++) bad |= (f32_bits(x[j]) & 0x7f800000u) == 0x7f800000u;
		for (int64_t j = i; bad && j < end; j++)
			if ((f32_bits(x[j]) & 0x7f800000u) == 0x7f800000u) return j;
	}
	return -1;
}
