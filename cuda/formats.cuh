/* formats: each number format's weight (r, i) from its bytes, on the device, bit for bit as formats/fmt_NAME.c decodes
 * it. The drawings of the bytes stand there. A format is a struct with at(m, r, i); whit_with_format picks it. */
#ifndef WHIT_FORMATS_CUH
#define WHIT_FORMATS_CUH
#include "cuda/dev.cuh"
extern "C" {
#include "formats/blocks.h"
#include "formats/format.h"
#include "formats/frc1.h"
#include "formats/vp1.h"
}

#define WHIT_WEIGHT static __device__ __forceinline__ float

static __device__ __forceinline__ const uint8_t *whit_dev_row(const whit_mat &m, int plane, int64_t r) {
	return m.plane[plane] + (size_t)r * m.row_bytes[plane];
}

/* ---- plain floats ---- */

struct whit_fmt_f32 {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) { return whit_load_f32(whit_dev_row(m, 0, r) + 4 * i); }
};
struct whit_fmt_f16 {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		return whit_dev_f16(whit_load_u16(whit_dev_row(m, 0, r) + 2 * i));
	}
};
struct whit_fmt_bf16 {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		return whit_dev_bf16(whit_load_u16(whit_dev_row(m, 0, r) + 2 * i));
	}
};

/* ---- codes and scales ---- */

static __device__ __forceinline__ int whit_dev_code(const whit_mat &m, int64_t r, int64_t i) {
	int bits = m.spec.bits, low = (int)(i * bits % 8);
	const uint8_t *p = whit_dev_row(m, 0, r) + i * bits / 8;
	int v = *p >> low;
	if (low + bits > 8) v |= p[1] << (8 - low);
	return v & ((1 << bits) - 1);
}
static __device__ __forceinline__ float whit_dev_scale(const whit_mat &m, int64_t r, int64_t i) {
	const uint8_t *p = whit_dev_row(m, 1, r);
	unsigned g = m.spec.group ? (unsigned)i / (unsigned)m.spec.group : 0; /* columns fit 32 bits */
	return m.scale_f32 ? whit_load_f32(p + 4 * g) : whit_dev_f16(whit_load_u16(p + 2 * g));
}
struct whit_fmt_tq {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		return whit_dev_scale(m, r, i) * m.codebook[whit_dev_code(m, r, i)];
	}
};
struct whit_fmt_int {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		int top = 1 << (m.spec.bits - 1), code = whit_dev_code(m, r, i);
		return whit_dev_scale(m, r, i) * (float)((code ^ top) - top);
	}
};

/* ---- binary rows (frc1.h) ---- */

static __device__ const float whit_dev_root[16] = WHIT_FRC_T;
/* A block's scale: top, the row's greatest, down by q sixteenths of a power of two. */
static __device__ __forceinline__ float whit_dev_binary_scale(float top, uint8_t q) {
	return top * whit_dev_root[q % 16] * __uint_as_float((uint32_t)(127 - q / 16) << 23);
}
struct whit_fmt_bin {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		const uint8_t *p = whit_dev_row(m, 2, r);
		float top = m.scale_f32 ? whit_load_f32(p) : whit_dev_f16(whit_load_u16(p));
		float s = whit_dev_binary_scale(top, whit_dev_row(m, 1, r)[i / m.spec.group]);
		return whit_dev_row(m, 0, r)[i / 8] >> i % 8 & 1 ? s : -s;
	}
};
/* A row of a record, the c-th of its class. */
struct whit_frc_row {
	const uint8_t *codes, *q, *k, *scales; /* signs or codes; a binary row's; core scales */
	float r;
	bool core;
};
static __device__ __forceinline__ whit_frc_row whit_dev_frc_row(const whit_frc &f, const uint8_t *p, int64_t c,
                                                                bool core) {
	whit_frc_row row = {};
	row.core = core;
	if (core) {
		row.codes = p + f.codes + (size_t)c * f.code_row;
		row.scales = p + f.scales + 2 * (size_t)(c * f.groups);
	} else {
		row.codes = p + f.signs + (size_t)c * f.sign_row;
		row.q = p + f.q + (size_t)(c * f.blocks);
		row.k = p + f.k + (size_t)c * f.book_row;
		row.r = whit_dev_f16(whit_load_u16(p + f.r + 2 * c));
	}
	return row;
}
/* Scale of column i's block, or group; and where its profile begins in the codebook. */
static __device__ __forceinline__ float whit_dev_frc_scale(const whit_frc &f, const whit_frc_row &row, int64_t i) {
	int64_t group = f.flags & WHIT_FRC_CORE8 ? 0 : i / WHIT_FRC_CORE_GROUP;
	if (row.core) return whit_dev_f16(whit_load_u16(row.scales + 2 * group));
	return whit_dev_binary_scale(row.r, row.q[i / f.block]);
}
static __device__ __forceinline__ int64_t whit_dev_frc_profile(const whit_frc &f, const whit_frc_row &row, int64_t i) {
	int64_t b = i / f.block;
	return (f.flags & WHIT_FRC_WIDE ? row.k[b] & (WHIT_FRC_PROFILES - 1) : row.k[b / 2] >> 4 * (b % 2) & 15) *
	       f.block;
}
static __device__ __forceinline__ float whit_dev_frc_core(const whit_frc &f, const whit_frc_row &row, int64_t i) {
	if (f.flags & WHIT_FRC_CORE8) return (float)(int8_t)row.codes[i];
	return (float)((row.codes[i / 2] >> 4 * (i % 2) & 15) - 8);
}
/* By what the weight of column i is multiplied last. */
static __device__ __forceinline__ float whit_dev_frc_balance(const whit_mat &m, const whit_frc &f, int64_t i) {
	return whit_dev_f16(whit_load_u16(m.plane[0] + f.t + 2 * i));
}
static __device__ __forceinline__ float whit_dev_frc_weight(const whit_mat &m, const whit_frc &f,
                                                            const whit_frc_row &row, int64_t i) {
	float w = whit_dev_frc_scale(f, row, i);
	if (row.core) {
		w *= whit_dev_frc_core(f, row, i);
	} else {
		float c = f.book_row ? m.codebook[whit_dev_frc_profile(f, row, i) + i % f.block] : 1;
		bool additive = f.flags & WHIT_FRC_ADDITIVE;
		if (!additive) w *= c;
		w = row.codes[i / 8] >> i % 8 & 1 ? w : -w;
		if (additive) w += c;
	}
	return f.flags & WHIT_FRC_BALANCE ? w * whit_dev_frc_balance(m, f, i) : w;
}
/* Counts the row's place in its class anew for every weight: the plain version. */
struct whit_fmt_frc {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		const whit_frc f = whit_frc_of(&m);
		const uint8_t *p = m.plane[0], *bits = p + f.bitmap;
		int64_t c = 0;
		for (int64_t k = 0; k < r / 8; k++) c += __popc(bits[k]);
		c += __popc(bits[r / 8] & ((1u << r % 8) - 1));
		bool core = bits[r / 8] >> r % 8 & 1;
		return whit_dev_frc_weight(m, f, whit_dev_frc_row(f, p, core ? c : r - c, core), i);
	}
};
/* Core rows before row r, by the 32 lanes of a warp; `at` and `sum`, 0 at first, remember the bytes that were counted,
 * so that rows which follow each other cost only what lies between. */
struct whit_frc_count {
	int64_t at, sum;
};
static __device__ __forceinline__ int64_t whit_dev_frc_rank(whit_frc_count &n, const uint8_t *bits, int64_t r) {
	int more = 0;
	for (int64_t b = n.at + threadIdx.x % 32; b < r / 8; b += 32) more += __popc(bits[b]);
	for (int h = 16; h > 0; h /= 2) more += __shfl_xor_sync(0xffffffffu, more, h);
	n.at = r / 8, n.sum += more;
	return n.sum + __popc(bits[r / 8] & ((1u << r % 8) - 1));
}

/* ---- rows of five precisions (vp1.h) ---- */

/* A row: the r-th of the matrix that its class is. */
struct whit_vp_row {
	whit_mat of;
	int64_t r;
	int c;
};
static __device__ __forceinline__ float whit_dev_vp_weight(const whit_vp_row &row, int64_t i) {
	if (row.c == WHIT_VP_F16) return whit_fmt_f16::at(row.of, row.r, i);
	if (row.c == WHIT_VP_BINARY) return whit_fmt_bin::at(row.of, row.r, i);
	return whit_fmt_int::at(row.of, row.r, i);
}
/* What a lane has counted of each class in rows before `at`, 0 at first: rows that follow each other cost only what
 * lies between. The rank of row r in its class, by the 32 lanes of a warp. */
struct whit_vp_count {
	int64_t at;
	unsigned n[WHIT_VP_CLASSES];
};
static __device__ __forceinline__ int64_t whit_dev_vp_rank(whit_vp_count &have, const uint8_t *record, int64_t r,
                                                           int c) {
	for (int64_t i = have.at + threadIdx.x % 32; i < r / 8; i += 32) {
		uint32_t eight = whit_vp_eight(record, i);
		WHIT_UNROLL
		for (int k = 0; k < WHIT_VP_CLASSES; k++) have.n[k] += __popc(whit_vp_of(eight, k));
	}
	have.at = r / 8;
	unsigned mine = 0;
	WHIT_UNROLL
	for (int k = 0; k < WHIT_VP_CLASSES; k++)
		if (k == c) mine = have.n[k];
	for (int h = 16; h > 0; h /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, h);
	return mine + (int64_t)__popc(whit_vp_of(whit_vp_eight(record, r / 8), c) & ((1u << r % 8 * 3) - 1));
}
static __device__ __forceinline__ whit_vp_row whit_dev_vp_row(whit_vp_count &have, const whit_mat &m, int64_t r) {
	int c = whit_vp_code(m.plane[0], r);
	return {whit_vp_part(&m, c), whit_dev_vp_rank(have, m.plane[0], r, c), c};
}
/* Counts the row's place in its class anew for every weight: the plain version. */
struct whit_fmt_vp {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		int c = whit_vp_code(m.plane[0], r);
		int64_t n = __popc(whit_vp_of(whit_vp_eight(m.plane[0], r / 8), c) & ((1u << r % 8 * 3) - 1));
		for (int64_t k = 0; k < r / 8; k++) n += __popc(whit_vp_of(whit_vp_eight(m.plane[0], k), c));
		return whit_dev_vp_weight({whit_vp_part(&m, c), n, c}, i);
	}
};

/* ---- ggml's blocks: B::weight(b, i) is weight i of the block of bytes b ---- */

template <class B> struct whit_fmt_block {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		return B::weight(whit_dev_row(m, 0, r) + i / B::weights * B::bytes, (int)(i % B::weights));
	}
};
static __device__ __forceinline__ float whit_dev_block_f16(const uint8_t *b, int o) {
	return whit_dev_f16(whit_load_u16(b + o));
}
static __device__ __forceinline__ float whit_dev_iq4_level(int code) { /* whit_iq4_levels, two words a half */
	const uint32_t level[4] = {0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535};
	uint32_t w = code < 8 ? (code < 4 ? level[0] : level[1]) : (code < 12 ? level[2] : level[3]);
	return (float)(int8_t)(w >> 8 * (code & 3));
}
/* Code i of 2 bits as tq2_0 lays them out. */
static __device__ __forceinline__ int whit_dev_two(const uint8_t *p, int i) {
	return p[i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;
}

#define WHIT_DEV_BLOCK(name, n, size)                                                                                  \
	struct whit_block_##name {                                                                                     \
		enum { weights = n, bytes = size };                                                                    \
		static __device__ float weight(const uint8_t *b, int i);                                               \
	};                                                                                                             \
	__device__ __forceinline__ float whit_block_##name::weight(const uint8_t *b, int i)

WHIT_DEV_BLOCK(q8_0, 32, 34) { return (float)(int8_t)b[2 + i] * whit_dev_block_f16(b, 0); }
WHIT_DEV_BLOCK(q4_0, 32, 18) { return (float)(whit_nibble(b + 2, i, 16) - 8) * whit_dev_block_f16(b, 0); }
WHIT_DEV_BLOCK(q4_1, 32, 20) {
	return (float)whit_nibble(b + 4, i, 16) * whit_dev_block_f16(b, 0) + whit_dev_block_f16(b, 2);
}
WHIT_DEV_BLOCK(q5_0, 32, 22) {
	int code = whit_nibble(b + 6, i, 16) | (int)(whit_load_u32(b + 2) >> i & 1) << 4;
	return (float)(code - 16) * whit_dev_block_f16(b, 0);
}
WHIT_DEV_BLOCK(q5_1, 32, 24) {
	int code = whit_nibble(b + 8, i, 16) | (int)(whit_load_u32(b + 4) >> i & 1) << 4;
	return (float)code * whit_dev_block_f16(b, 0) + whit_dev_block_f16(b, 2);
}
WHIT_DEV_BLOCK(q2_k, 256, 84) {
	int s = b[i / 16];
	float dl = whit_dev_block_f16(b, 80) * (float)(s & 15), ml = whit_dev_block_f16(b, 82) * (float)(s >> 4);
	return dl * (float)whit_dev_two(b + 16, i) - ml;
}
WHIT_DEV_BLOCK(q3_k, 256, 110) {
	int s = i / 16;
	int scale = (b[96 + s % 8] >> 4 * (s / 8) & 15) | (b[104 + s % 4] >> 2 * (s / 4) & 3) << 4;
	int code = whit_dev_two(b + 32, i) | (b[i % 32] >> i / 32 & 1) << 2;
	return whit_dev_block_f16(b, 108) * (float)(scale - 32) * (float)(code - 4);
}
/* q4_k and q5_k: code without and with its fifth bit. */
static __device__ __forceinline__ float whit_dev_k45(const uint8_t *b, int i, int code) {
	int scale, min;
	whit_k_scale(b + 4, i / 32, &scale, &min);
	return whit_dev_block_f16(b, 0) * (float)scale * (float)code - whit_dev_block_f16(b, 2) * (float)min;
}
WHIT_DEV_BLOCK(q4_k, 256, 144) { return whit_dev_k45(b, i, b[16 + i / 64 * 32 + i % 32] >> 4 * (i / 32 % 2) & 15); }
WHIT_DEV_BLOCK(q5_k, 256, 176) {
	int low = b[48 + i / 64 * 32 + i % 32] >> 4 * (i / 32 % 2) & 15;
	return whit_dev_k45(b, i, low | (b[16 + i % 32] >> i / 32 & 1) << 4);
}
/* Without d, which stands in a plane of its own (formats/twin.h). */
static __device__ __forceinline__ float whit_dev_k6(const uint8_t *b, int i, float d) {
	int n = i / 128, j = i / 32 % 4, r = i % 32;
	int code = (b[64 * n + 32 * (j % 2) + r] >> 4 * (j / 2) & 15) | (b[128 + 32 * n + r] >> 2 * j & 3) << 4;
	return d * (float)(int8_t)b[192 + i / 16] * (float)(code - 32);
}
WHIT_DEV_BLOCK(q6_k, 256, 210) { return whit_dev_k6(b, i, whit_dev_block_f16(b, 208)); }
struct whit_fmt_q6_k_split {
	WHIT_WEIGHT at(const whit_mat &m, int64_t r, int64_t i) {
		float d = whit_dev_f16(whit_load_u16(whit_dev_row(m, 1, r) + i / 256 * 2));
		return whit_dev_k6(whit_dev_row(m, 0, r) + i / 256 * 208, (int)(i % 256), d);
	}
};
WHIT_DEV_BLOCK(iq4_nl, 32, 18) { return whit_dev_block_f16(b, 0) * whit_dev_iq4_level(whit_nibble(b + 2, i, 16)); }
WHIT_DEV_BLOCK(iq4_xs, 256, 136) {
	int g = i / 32, high = whit_load_u16(b + 2);
	int scale = (b[4 + g / 2] >> 4 * (g % 2) & 15) | (high >> 2 * g & 3) << 4;
	return whit_dev_block_f16(b, 0) * (float)(scale - 32) *
	       whit_dev_iq4_level(whit_nibble(b + 8 + 16 * g, i % 32, 16));
}
WHIT_DEV_BLOCK(mxfp4, 32, 17) { /* levels doubled, the scale halved */
	uint32_t bits = b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23;
	int code = whit_nibble(b + 1, i, 16), level = (int)(0xc8643210u >> 4 * (code & 7) & 15);
	return (float)(code & 8 ? -level : level) * __uint_as_float(bits);
}
WHIT_DEV_BLOCK(tq1_0, 256, 54) {
	int c = i % 32, t = i / 32;
	if (i >= 240)
		c = 48 + i % 4, t = (i - 240) / 4;
	else if (i >= 160)
		c = 32 + i % 16, t = (i - 160) / 16;
	int q = b[c];
	for (int k = 0; k < t; k++) q = q * 3 & 255;
	return (float)((q * 3 >> 8) - 1) * whit_dev_block_f16(b, 52);
}
WHIT_DEV_BLOCK(tq2_0, 256, 66) { return (float)(whit_dev_two(b, i) - 1) * whit_dev_block_f16(b, 64); }
WHIT_DEV_BLOCK(q1_0, 128, 18) {
	float d = whit_dev_block_f16(b, 0);
	return b[2 + i / 8] >> i % 8 & 1 ? d : -d;
}
WHIT_DEV_BLOCK(q2_0, 64, 18) { return (float)((b[2 + i / 4] >> 2 * (i % 4) & 3) - 1) * whit_dev_block_f16(b, 0); }

/* Logical rows [r0, r0 + n) as floats, out (n, m->width), still in the rotated frame (decode.cu). */
void whit_dev_rows(whit_dev *d, const whit_mat *m, int64_t r0, int64_t n, float *out);

/* f(F()) with F the format of m; false: the format has no device code. The table is by name, as a row's is. */
template <class Fn> bool whit_with_format(const whit_mat *m, Fn f) {
	const char *name = m->spec.fmt->name;
#define WHIT_TRY(id, F)                                                                                                \
	if (!strcmp(name, #id)) return f(F()), true
#define WHIT_TRY_BLOCK(id) WHIT_TRY(id, whit_fmt_block<whit_block_##id>)
	WHIT_TRY(f32, whit_fmt_f32);
	WHIT_TRY(f16, whit_fmt_f16);
	WHIT_TRY(bf16, whit_fmt_bf16);
	WHIT_TRY(tq, whit_fmt_tq);
	WHIT_TRY(int, whit_fmt_int);
	WHIT_TRY(bin, whit_fmt_bin);
	WHIT_TRY(frc, whit_fmt_frc);
	WHIT_TRY(vp, whit_fmt_vp);
	WHIT_TRY(q6_k_split, whit_fmt_q6_k_split);
	WHIT_TRY_BLOCK(q8_0);
	WHIT_TRY_BLOCK(q4_0);
	WHIT_TRY_BLOCK(q4_1);
	WHIT_TRY_BLOCK(q5_0);
	WHIT_TRY_BLOCK(q5_1);
	WHIT_TRY_BLOCK(q2_k);
	WHIT_TRY_BLOCK(q3_k);
	WHIT_TRY_BLOCK(q4_k);
	WHIT_TRY_BLOCK(q5_k);
	WHIT_TRY_BLOCK(q6_k);
	WHIT_TRY_BLOCK(iq4_nl);
	WHIT_TRY_BLOCK(iq4_xs);
	WHIT_TRY_BLOCK(mxfp4);
	WHIT_TRY_BLOCK(tq1_0);
	WHIT_TRY_BLOCK(tq2_0);
	WHIT_TRY_BLOCK(q1_0);
	WHIT_TRY_BLOCK(q2_0);
#undef WHIT_TRY_BLOCK
#undef WHIT_TRY
	return false;
}
#endif
