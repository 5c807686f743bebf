/* runs: weights of a row that lie side by side, four or eight, of every number format: what they share (scale, block
 * header, profile) is read once, their codes by words. */
#ifndef WHIT_RUNS_CUH
#define WHIT_RUNS_CUH
#include "cuda/formats.cuh"
#include <type_traits>

enum { RUN = 8 };

/* run<F>::load<N>(w, m, row, i, n, off): N (4 or 8) weights from column i + off on, of which n are there; the rest are
 * zero. i is a multiple of N; off, a constant, one of 128, and i % 512 + off % 512 stays below 512: what depends on i
 * is then worked out once for several off. run<F>::row is what is known of a row before its weights are read. */
template <class F> struct run;

/* ---- words: four bytes from any address on are in the two words around them, and those are one if it is aligned:
 * nothing is read beyond the words that hold the n bytes (at most 4) asked for. off, a constant, is apart from p: where
 * it is a multiple of 4, words with several of them share what is worked out ---- */

struct whit_words {
	const uint8_t *low, *high;
	unsigned shift;
	__device__ __forceinline__ whit_words(const uint8_t *p, int off = 0, int n = 4) {
		unsigned over = ((unsigned)(uintptr_t)p + (unsigned)off) & 3;
		low = p - over, high = low + ((over + (unsigned)n - 1) & 4), shift = 8 * over;
		low += off, high += off;
	}
	__device__ __forceinline__ uint32_t operator[](int k) const {
		return ptx_shift_right(*(const uint32_t *)(low + 4 * k), *(const uint32_t *)(high + 4 * k), shift);
	}
};

/* Byte k of v, less `less`: in the low bits of 2^23, which takes a conversion's place. */
static __device__ __forceinline__ float byte_float(uint32_t v, int k, int less) {
	return __uint_as_float(ptx_prmt(v, 0x4b000000, 0x7440 | (unsigned)k)) - (float)((1 << 23) + less);
}
static __device__ __forceinline__ void bytes_times(float *w, uint32_t v, int less, float d) {
	WHIT_UNROLL
	for (int k = 0; k < 4; k++) w[k] = byte_float(v, k, less) * d;
}
static __device__ __forceinline__ void bytes_times_plus(float *w, uint32_t v, float d, float m) {
	WHIT_UNROLL
	for (int k = 0; k < 4; k++) w[k] = byte_float(v, k, 0) * d + m;
}
/* Bits 0 to 3 of v as four bytes. */
static __device__ __forceinline__ uint32_t bits_bytes(uint32_t v) { return (v & 15) * 0x00204081 & 0x01010101; }
/* d where bit k of plus is 1, else -d. */
static __device__ __forceinline__ float signed_by(unsigned plus, int k, float d) {
	return __uint_as_float(__float_as_uint(d) ^ (~plus << (31 - k) & 0x80000000u));
}
/* Four codes of 4 bits, a byte each, by a table of 16 bytes. */
static __device__ __forceinline__ uint32_t bytes_of(uint32_t v, uint32_t t0, uint32_t t1, uint32_t t2, uint32_t t3) {
	uint32_t s = ptx_prmt(v | v >> 4, 0, 0x4420), upper = s >> 1 & 0x4444;
	return ptx_prmt(ptx_prmt(t0, t1, s & 0x7777), ptx_prmt(t2, t3, s & 0x7777), 0x3210 | upper);
}

/* ---- plain floats ---- */

struct run_bytes {
	const uint8_t *p;
	__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) { p = whit_dev_row(m, 0, r); }
};
template <> struct run<whit_fmt_f32> {
	using row = run_bytes;
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &, const row &at, int i, int n,
	                                            int off = 0) {
		const uint8_t *p = at.p + 4 * (int64_t)i;
		const whit_words v(p, 4 * off);
		bool whole = n == N && (uintptr_t)p % 16 == 0;
		WHIT_UNROLL
		for (int k = 0; k < N; k += 4) {
			if (whole) {
				float4 f = *(const float4 *)(p + 4 * off + 4 * k);
				w[k] = f.x, w[k + 1] = f.y, w[k + 2] = f.z, w[k + 3] = f.w;
				continue;
			}
			WHIT_UNROLL
			for (int c = k; c < k + 4; c++) w[c] = c < n ? __uint_as_float(v[c]) : 0.0f;
		}
	}
};
/* Two in a word, the last of an odd number in the first two bytes of one. */
template <int N, class Fn>
static __device__ __forceinline__ void load_halves(float *w, const uint8_t *p, int off, int n, Fn value) {
	bool whole = n == N && ((uintptr_t)p + (unsigned)off) % 8 == 0;
	uint2 all[N / 4];
	WHIT_UNROLL
	for (int k = 0; k < N / 4; k++)
		if (whole) all[k] = *(const uint2 *)(p + off + 8 * k);
	WHIT_UNROLL
	for (int k = 0; k < N; k += 2) {
		uint32_t v = whole   ? k % 4 ? all[k / 4].y : all[k / 4].x
		             : k < n ? whit_words(p, off + 2 * k, k + 1 < n ? 4 : 2)[0]
		                     : 0;
		w[k] = value((uint16_t)v), w[k + 1] = k + 1 < n ? value((uint16_t)(v >> 16)) : 0.0f;
	}
}
template <> struct run<whit_fmt_f16> {
	using row = run_bytes;
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &, const row &at, int i, int n,
	                                            int off = 0) {
		load_halves<N>(w, at.p + 2 * (int64_t)i, 2 * off, n, [](uint16_t h) { return whit_dev_f16(h); });
	}
};
template <> struct run<whit_fmt_bf16> {
	using row = run_bytes;
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &, const row &at, int i, int n,
	                                            int off = 0) {
		load_halves<N>(w, at.p + 2 * (int64_t)i, 2 * off, n, [](uint16_t h) { return whit_dev_bf16(h); });
	}
};

/* ---- codes and scales. Groups are powers of two ---- */

static __device__ __forceinline__ int group_shift(int group) { return group ? 31 - __clz(group) : 31; }

struct run_codes {
	const uint8_t *codes, *scales;
	int bits, shift, scale_f32;
	__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) {
		codes = whit_dev_row(m, 0, r), scales = whit_dev_row(m, 1, r);
		bits = m.spec.bits, shift = group_shift(m.spec.group), scale_f32 = m.scale_f32;
	}
	__device__ __forceinline__ float scale(int i, int off) const {
		unsigned g = (unsigned)i >> shift, more = (unsigned)off >> shift;
		if (scale_f32) return __uint_as_float(whit_words(scales + 4 * g + 4 * more)[0]);
		return whit_dev_f16(whit_load_u16(scales + 2 * g + 2 * more));
	}
	/* The n codes from column i + off on, a multiple of 4; above them are others. */
	__device__ __forceinline__ uint32_t four(int i, int n, int off) const {
		unsigned half = (unsigned)i / 4 * (unsigned)bits, odd = half & 1;
		whit_words v(codes + half / 2, off / 8 * bits, (int)(4 * odd + (unsigned)(n * bits) + 7) / 8);
		v.shift += 4 * odd;
		return v[0];
	}
};
template <int N, class Fn>
static __device__ __forceinline__ void load_codes(float *w, const run_codes &at, int i, int n, int off, Fn level) {
	float scale = at.scale(i, off);
	uint32_t mask = (1u << at.bits) - 1;
	WHIT_UNROLL
	for (int k = 0; k < N; k += 4) {
		uint32_t v = k < n ? at.four(i + k, WHIT_MIN(n - k, 4), off) : 0;
		WHIT_UNROLL
		for (int c = 0; c < 4; c++) w[k + c] = k + c < n ? scale * level(v >> at.bits * c, mask) : 0.0f;
	}
}
template <> struct run<whit_fmt_tq> {
	using row = run_codes;
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &m, const row &at, int i, int n,
	                                            int off = 0) {
		load_codes<N>(w, at, i, n, off, [&](uint32_t v, uint32_t mask) { return m.codebook[v & mask]; });
	}
};
template <> struct run<whit_fmt_int> {
	using row = run_codes;
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &, const row &at, int i, int n,
	                                            int off = 0) {
		uint32_t top = 0x4b000000u | 1u << (at.bits - 1); /* as byte_float */
		load_codes<N>(w, at, i, n, off, [=](uint32_t v, uint32_t mask) {
			return __uint_as_float((v & mask) ^ top) - __uint_as_float(top);
		});
	}
};

/* The same of matrices whose scales are F16, which is then no question in a loop. */
template <class F> struct scales_f16 : F {};
template <class F> struct run<scales_f16<F>> : run<F> {
	struct row : run_codes {
		__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) {
			run_codes::begin(m, r);
			scale_f32 = 0;
		}
	};
};

/* ---- binary rows and records ---- */

struct run_signs {
	const uint8_t *signs, *q;
	float top;
	int shift;
	__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) {
		const uint8_t *p = whit_dev_row(m, 2, r);
		signs = whit_dev_row(m, 0, r), q = whit_dev_row(m, 1, r), shift = group_shift(m.spec.group);
		top = m.scale_f32 ? whit_load_f32(p) : whit_dev_f16(whit_load_u16(p));
	}
};
template <> struct run<whit_fmt_bin> {
	using row = run_signs;
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &, const row &at, int i, int n,
	                                            int off = 0) {
		float s = whit_dev_binary_scale(at.top, at.q[(unsigned)(i + off) >> at.shift]);
		unsigned plus = (unsigned)at.signs[i / 8 + off / 8] >> i % 8;
		WHIT_UNROLL
		for (int k = 0; k < N; k++) w[k] = k < n ? signed_by(plus, k, s) : 0.0f;
	}
};

/* A record's: signs, or four or eight bits of codes; one scale and, with a codebook, numbers of one profile. */
template <> struct run<whit_fmt_frc> {
	struct row {
		whit_frc f;
		whit_frc_row at;
		whit_frc_count count;
		int shift;
		__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) {
			if (!count.at) f = whit_frc_of(&m), shift = group_shift(m.spec.group);
			const uint8_t *bits = m.plane[0] + f.bitmap;
			int64_t c = whit_dev_frc_rank(count, bits, r);
			bool core = bits[r / 8] >> r % 8 & 1;
			at = whit_dev_frc_row(f, m.plane[0], core ? c : r - c, core);
		}
	};
	/* Code less 8, or of 8 bits; n as load's. */
	template <int N> static __device__ __forceinline__ void core(float *w, const row &r, int i, int n) {
		bool wide = r.f.flags & WHIT_FRC_CORE8;
		WHIT_UNROLL
		for (int k = 0; k < N; k += 4) {
			int left = WHIT_MIN(n - k, 4);
			if (left <= 0) break;
			uint32_t v = whit_words(r.at.codes + (wide ? i + k : (i + k) / 2), 0,
			                        wide ? left : (left + 1) / 2)[0];
			/* nibbles to bytes */
			if (!wide) v = (v & 0xf) | (v & 0xf0) << 4 | (v & 0xf00) << 8 | (v & 0xf000) << 12;
			v = wide ? v ^ 0x80808080 : v | 0x80808080;
			WHIT_UNROLL
			for (int c = 0; c < 4; c++) w[k + c] *= byte_float(v, c, 128 + (wide ? 0 : 8));
		}
	}
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &m, const row &r, int i, int n,
	                                            int off = 0) {
		i += off;
		int b = i >> r.shift, within = i & ((1 << r.shift) - 1);
		bool additive = r.f.flags & WHIT_FRC_ADDITIVE, book = r.f.book_row && !r.at.core;
		float s;
		if (r.at.core)
			s = whit_dev_frc_scale(r.f, r.at, i);
		else
			s = whit_dev_binary_scale(r.at.r, r.at.q[b]);
		unsigned plus = r.at.core ? ~0u : (unsigned)r.at.codes[i / 8] >> i % 8;
		int profile = !book                       ? 0
		              : r.f.flags & WHIT_FRC_WIDE ? r.at.k[b] & (WHIT_FRC_PROFILES - 1)
		                                          : r.at.k[b / 2] >> 4 * (b % 2) & 15;
		const float *c = m.codebook + ((profile << r.shift) + within);
		WHIT_UNROLL
		for (int k = 0; k < N; k++) w[k] = k < n ? s : 0.0f;
		if (r.at.core) core<N>(w, r, i, n);
		WHIT_UNROLL
		for (int k = 0; k < N; k++) {
			if (k >= n) continue;
			if (book && !additive) w[k] *= c[k];
			w[k] = signed_by(plus, k, w[k]);
			if (book && additive) w[k] += c[k];
			if (r.f.flags & WHIT_FRC_BALANCE) w[k] *= whit_dev_frc_balance(m, r.f, i + k);
		}
	}
};

/* A record's of five classes: what the row's class loads. */
template <> struct run<whit_fmt_vp> {
	struct row {
		int c;
		run_codes codes;
		run_signs signs;
		whit_vp_count count;
		__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) {
			const whit_vp_row at = whit_dev_vp_row(count, m, r);
			c = at.c;
			codes.codes = whit_dev_row(at.of, 0, at.r);
			if (c == WHIT_VP_BINARY)
				signs.begin(at.of, at.r);
			else if (c != WHIT_VP_F16)
				codes.begin(at.of, at.r);
		}
	};
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &m, const row &r, int i, int n,
	                                            int off = 0) {
		if (r.c == WHIT_VP_F16)
			run<whit_fmt_f16>::load<N>(w, m, {r.codes.codes}, i, n, off);
		else if (r.c == WHIT_VP_BINARY)
			run<whit_fmt_bin>::load<N>(w, m, r.signs, i, n, off);
		else
			run<whit_fmt_int>::load<N>(w, m, r.codes, i, n, off);
	}
};

/* ---- ggml's blocks, which hold whole runs, as rows do blocks: N weights from weight i on of the block at b + off,
 * with the roundings of B::weight (formats.cuh) ---- */

#define RUN_OF(name)                                                                                                   \
	template <int N>                                                                                               \
	static __device__ __forceinline__ void block_run(whit_block_##name, float *w, const uint8_t *b, int off,       \
	                                                 int i)
#define EACH_FOUR                                                                                                      \
	WHIT_UNROLL                                                                                                    \
	for (int k = 0; k < N / 4; k++)

/* F16 at b + off, and the one behind it. */
static __device__ __forceinline__ float2 two_halves(const uint8_t *b, int off) {
	uint32_t v = whit_words(b, off)[0];
	return make_float2(whit_dev_f16((uint16_t)v), whit_dev_f16((uint16_t)(v >> 16)));
}
/* Nibbles as whit_nibble finds them, 16 low ones first. */
struct run_nibbles {
	whit_words v;
	int high;
	__device__ __forceinline__ run_nibbles(const uint8_t *p, int off, int i)
	    : v(p + i % 16, off), high(i & 16 ? 4 : 0) {}
	__device__ __forceinline__ uint32_t operator[](int k) const { return v[k] >> high & 0x0f0f0f0f; }
};
/* As whit_dev_two and whit_dev_k45 find them: `of` codes in a byte, 32 columns apart. */
template <int of> struct run_fields {
	whit_words v;
	int shift;
	__device__ __forceinline__ run_fields(const uint8_t *p, int off, int i)
	    : v(p + i / (32 * of) * 32 + i % 32, off), shift(8 / of * (i / 32 % of)) {}
	__device__ __forceinline__ uint32_t operator[](int k) const {
		return v[k] >> shift & (of == 8 ? 0x01010101 : of == 4 ? 0x03030303 : 0x0f0f0f0f);
	}
};

RUN_OF(q8_0) {
	const whit_words q(b + i, off + 2);
	float d = whit_dev_block_f16(b, off);
	EACH_FOUR bytes_times(w + 4 * k, q[k] ^ 0x80808080, 128, d);
}
RUN_OF(q4_0) {
	const run_nibbles q(b, off + 2, i);
	float d = whit_dev_block_f16(b, off);
	EACH_FOUR bytes_times(w + 4 * k, q[k], 8, d);
}
RUN_OF(q4_1) {
	const run_nibbles q(b, off + 4, i);
	float2 d = two_halves(b, off);
	EACH_FOUR bytes_times_plus(w + 4 * k, q[k], d.x, d.y);
}
RUN_OF(q5_0) {
	const run_nibbles q(b, off + 6, i);
	uint32_t high = (uint32_t)b[off + 2 + i / 8] >> i % 8;
	float d = whit_dev_block_f16(b, off);
	EACH_FOUR bytes_times(w + 4 * k, q[k] | bits_bytes(high >> 4 * k) << 4, 16, d);
}
RUN_OF(q5_1) {
	const run_nibbles q(b, off + 8, i);
	uint32_t high = (uint32_t)b[off + 4 + i / 8] >> i % 8;
	float2 d = two_halves(b, off);
	EACH_FOUR bytes_times_plus(w + 4 * k, q[k] | bits_bytes(high >> 4 * k) << 4, d.x, d.y);
}
RUN_OF(q2_k) {
	const run_fields<4> q(b, off + 16, i);
	int s = b[off + i / 16];
	float2 d = two_halves(b, off + 80);
	float dl = d.x * (float)(s & 15), ml = d.y * (float)(s >> 4);
	EACH_FOUR bytes_times_plus(w + 4 * k, q[k], dl, -ml);
}
RUN_OF(q3_k) {
	const run_fields<4> q(b, off + 32, i);
	const run_fields<8> high(b, off, i);
	int s = i / 16;
	int scale = (b[off + 96 + s % 8] >> 4 * (s / 8) & 15) | (b[off + 104 + s % 4] >> 2 * (s / 4) & 3) << 4;
	float dl = whit_dev_block_f16(b, off + 108) * (float)(scale - 32);
	EACH_FOUR bytes_times(w + 4 * k, q[k] | high[k] << 2, 4, dl);
}
/* The same as whit_k_scale with three bytes for any group; d scale and - m min. */
static __device__ __forceinline__ void k45_scales(const uint8_t *b, int off, int i, float *dl, float *ml) {
	int g = i / 32;
	const uint8_t *p = b + off + 4 + g % 4;
	int x = p[0], y = p[4], z = p[8];
	int scale = g < 4 ? x & 63 : (z & 15) | x >> 6 << 4, min = g < 4 ? y & 63 : z >> 4 | y >> 6 << 4;
	float2 d = two_halves(b, off);
	*dl = d.x * (float)scale;
	*ml = -(d.y * (float)min);
}
RUN_OF(q4_k) {
	const run_fields<2> q(b, off + 16, i);
	float dl, ml;
	k45_scales(b, off, i, &dl, &ml);
	EACH_FOUR bytes_times_plus(w + 4 * k, q[k], dl, ml);
}
RUN_OF(q5_k) {
	const run_fields<2> q(b, off + 48, i);
	const run_fields<8> high(b, off + 16, i);
	float dl, ml;
	k45_scales(b, off, i, &dl, &ml);
	EACH_FOUR bytes_times_plus(w + 4 * k, q[k] | high[k] << 4, dl, ml);
}
template <int N> static __device__ __forceinline__ void k6_run(float *w, const uint8_t *b, int off, int i, float d) {
	/* nibbles of columns j and j + 64 share a byte */
	const whit_words low(b + i / 128 * 64 + i % 64, off);
	const run_fields<4> high(b, off + 128, i);
	float dl = d * (float)(int8_t)b[off + 192 + i / 16];
	EACH_FOUR bytes_times(w + 4 * k, (low[k] >> (i & 64 ? 4 : 0) & 0x0f0f0f0f) | high[k] << 4, 32, dl);
}
RUN_OF(q6_k) { k6_run<N>(w, b, off, i, whit_dev_block_f16(b, off + 208)); }
/* Values from -127 to 127, more by 128. */
RUN_OF(iq4_nl) {
	const run_nibbles q(b, off + 2, i);
	float d = whit_dev_block_f16(b, off);
	EACH_FOUR bytes_times(w + 4 * k, bytes_of(q[k], 0x3f2d1801, 0x766a5d4f, 0xa6998d81, 0xf1d9c5b5), 128, d);
}
RUN_OF(iq4_xs) {
	int g = i / 32, high = whit_load_u16(b + off + 2);
	const run_nibbles q(b, off + 8 + 16 * g, i);
	int scale = (b[off + 4 + g / 2] >> 4 * (g % 2) & 15) | (high >> 2 * g & 3) << 4;
	float dl = whit_dev_block_f16(b, off) * (float)(scale - 32);
	EACH_FOUR bytes_times(w + 4 * k, bytes_of(q[k], 0x3f2d1801, 0x766a5d4f, 0xa6998d81, 0xf1d9c5b5), 128, dl);
}
RUN_OF(mxfp4) { /* levels doubled, the scale halved */
	const run_nibbles q(b, off + 1, i);
	uint32_t bits = b[off] < 2 ? 0x00200000u << b[off] : (uint32_t)(b[off] - 1) << 23;
	float d = __uint_as_float(bits);
	EACH_FOUR bytes_times(w + 4 * k, bytes_of(q[k], 0x13121110, 0x1c181614, 0x0d0e0f10, 0x04080a0c), 16, d);
}
/* A byte's t-th digit of base three is in the upper byte of three times its product with 3^t. */
RUN_OF(tq1_0) {
	float d = whit_dev_block_f16(b, off + 52);
	EACH_FOUR {
		int at = i + 4 * k, c = at < 160 ? at % 32 : at < 240 ? 32 + at % 16 : 48;
		int t = at < 160 ? at / 32 : at < 240 ? (at - 160) / 16 : (at - 240) / 4;
		uint32_t v = whit_words(b + c, off)[0], power = ptx_prmt(0x1b090301, 81, 0x5550 | (unsigned)t);
		uint32_t even = (v & 0x00ff00ff) * power & 0x00ff00ff, odd = (v >> 8 & 0x00ff00ff) * power & 0x00ff00ff;
		bytes_times(w + 4 * k, (even * 3 >> 8 & 0x00ff00ff) | (odd * 3 & 0xff00ff00), 1, d);
	}
}
RUN_OF(tq2_0) {
	const run_fields<4> q(b, off, i);
	float d = whit_dev_block_f16(b, off + 64);
	EACH_FOUR bytes_times(w + 4 * k, q[k], 1, d);
}
RUN_OF(q1_0) {
	float d = whit_dev_block_f16(b, off);
	unsigned plus = (unsigned)b[off + 2 + i / 8] >> i % 8;
	WHIT_UNROLL
	for (int k = 0; k < N; k++) w[k] = signed_by(plus, k, d);
}
RUN_OF(q2_0) {
	float d = whit_dev_block_f16(b, off);
	EACH_FOUR {
		uint32_t v = b[off + 2 + i / 4 + k], two = (v | v << 12) & 0x000f000f;
		bytes_times(w + 4 * k, (two | two << 6) & 0x03030303, 1, d);
	}
}
#undef EACH_FOUR
#undef RUN_OF

template <class B> struct run<whit_fmt_block<B>> {
	using row = run_bytes;
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &, const row &at, int i, int,
	                                            int off = 0) {
		unsigned block = (unsigned)i / B::weights, within = (unsigned)i % B::weights;
		block_run<N>(B(), w, at.p + (size_t)block * B::bytes, off / B::weights * B::bytes,
		             (int)within + off % B::weights);
	}
};
template <> struct run<whit_fmt_q6_k_split> {
	struct row {
		const uint8_t *p, *d;
		__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) {
			p = whit_dev_row(m, 0, r), d = whit_dev_row(m, 1, r);
		}
	};
	template <int N>
	static __device__ __forceinline__ void load(float *w, const whit_mat &, const row &at, int i, int,
	                                            int off = 0) {
		unsigned block = (unsigned)i / 256, within = (unsigned)i % 256;
		k6_run<N>(w, at.p + (size_t)block * 208, off / 256 * 208, (int)within + off % 256,
		          whit_dev_block_f16(at.d + 2 * (size_t)block, off / 256 * 2));
	}
};

/* As whit_with_format, for kernels that are worth it. */
template <class Fn> bool with_run(const whit_mat *m, Fn f) {
	return whit_with_format(m, [&](auto g) {
		using F = decltype(g);
		if constexpr (std::is_same<typename run<F>::row, run_codes>::value) {
			if (!m->scale_f32) {
				f(scales_f16<F>());
				return;
			}
		}
		f(g);
	});
}
#endif
