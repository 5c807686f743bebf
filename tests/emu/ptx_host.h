/* ptx_host: what cuda/ptx.cuh's instructions mean, for the emulator. */
#ifndef WHIT_PTX_HOST_H
#define WHIT_PTX_HOST_H
#include "tests/emu/emu16.h"

namespace emu {

static inline unsigned lop3(unsigned a, unsigned b, unsigned c, unsigned table) {
	unsigned d = 0;
	for (int i = 0; i < 32; i++) d |= (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i;
	return d;
}

static inline unsigned prmt(unsigned a, unsigned b, unsigned selector) {
	uint64_t ab = (uint64_t)b << 32 | a;
	unsigned d = 0;
	for (int i = 0; i < 4; i++) {
		unsigned s = selector >> 4 * i, byte = (unsigned)(ab >> 8 * (s & 7)) & 255;
		d |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
	}
	return d;
}

template <class A, class B> int dp4a(unsigned a, unsigned b, int c) {
	unsigned d = (unsigned)c; /* it wraps */
	for (int i = 0; i < 4; i++) d += (unsigned)((int)(A)(a >> 8 * i) * (int)(B)(b >> 8 * i));
	return (int)d;
}

struct lane_matrix {
	unsigned *r;
	const void *row;
	int n;
	bool trans;
};
static inline void ldmatrix_lanes(uint32_t active, void *const arg[32]) {
	if (active != 0xffffffffu) fault("ldmatrix: lanes %08x take part, need all", active);
	const lane_matrix *first = (const lane_matrix *)arg[0];
	for (int i = 0; i < 8 * first->n; i++) {
		const void *row = ((const lane_matrix *)arg[i])->row;
		if ((uintptr_t)row % 16) fault("ldmatrix: lane %d's row is not aligned to 16 bytes", i);
		if (!in_shared(row, 16)) fault("ldmatrix: lane %d's row is not inside one shared array", i);
	}
	for (int l = 0; l < 32; l++)
		for (int m = 0; m < first->n; m++) {
			uint16_t v[2];
			for (int k = 0; k < 2; k++) {
				int row = first->trans ? 2 * (l % 4) + k : l / 4,
				    col = first->trans ? l / 4 : 2 * (l % 4) + k;
				memcpy(&v[k], (const uint16_t *)((const lane_matrix *)arg[8 * m + row])->row + col, 2);
			}
			((const lane_matrix *)arg[l])->r[m] = v[0] | (unsigned)v[1] << 16;
		}
}
static inline void ldmatrix(unsigned *r, const void *row, int n, bool trans, const char *file, int line) {
	lane_matrix a = {r, row, n, trans};
	collect("ldmatrix", 0xffffffffu, ldmatrix_lanes, &a, file, line);
}

/* Products are exact; they are added to c in order of k, in float (hardware's order and rounding are its own). */
enum mma_kind { F16_F32, BF16_F32, F16_F16, S8_S32, U8S8_S32 };
struct lane_mma {
	int kind;
	void *c;
	const unsigned *a, *b;
};
static inline float mma_float(int kind, unsigned reg, int half) {
	uint16_t h = (uint16_t)(reg >> 16 * half);
	return kind == BF16_F32 ? whit_bf16_to_f32(h) : whit_f16_to_f32(h);
}
static inline int mma_int(bool is_signed, unsigned reg, int byte) {
	unsigned v = reg >> 8 * byte & 255;
	return is_signed ? (int8_t)v : (int)v;
}
static inline void mma_lanes(uint32_t active, void *const arg[32]) {
	if (active != 0xffffffffu) fault("mma: lanes %08x take part, need all", active);
	const lane_mma *l[32];
	for (int i = 0; i < 32; i++) l[i] = (const lane_mma *)arg[i];
	int kind = l[0]->kind, ints = kind >= S8_S32, K = ints ? 32 : 16;
	float af[16][16], bf[16][8];
	int ai[16][32], bi[32][8];
	for (int lane = 0; lane < 32; lane++) {
		int g = lane / 4, t = lane % 4, per = ints ? 4 : 2;
		for (int i = 0; i < 4; i++)
			for (int e = 0; e < per; e++) {
				int row = g + 8 * (i % 2), col = per * t + e + K / 2 * (i / 2);
				if (ints)
					ai[row][col] = mma_int(kind == S8_S32, l[lane]->a[i], e);
				else
					af[row][col] = mma_float(kind, l[lane]->a[i], e);
			}
		for (int i = 0; i < 2; i++)
			for (int e = 0; e < per; e++) {
				int row = per * t + e + K / 2 * i;
				if (ints)
					bi[row][g] = mma_int(true, l[lane]->b[i], e);
				else
					bf[row][g] = mma_float(kind, l[lane]->b[i], e);
			}
	}
	for (int lane = 0; lane < 32; lane++)
		for (int i = 0; i < 4; i++) {
			int row = lane / 4 + 8 * (i / 2), col = 2 * (lane % 4) + i % 2;
			if (ints) {
				int *c = (int *)l[lane]->c + i;
				unsigned sum = (unsigned)*c; /* it wraps */
				for (int k = 0; k < K; k++) sum += (unsigned)(ai[row][k] * bi[k][col]);
				*c = (int)sum;
			} else if (kind == F16_F16) {
				uint16_t *c = (uint16_t *)l[lane]->c + i;
				float sum = whit_f16_to_f32(*c);
				for (int k = 0; k < K; k++) sum += af[row][k] * bf[k][col];
				*c = whit_f32_to_f16(sum);
			} else {
				float *c = (float *)l[lane]->c + i;
				for (int k = 0; k < K; k++) *c += af[row][k] * bf[k][col];
			}
		}
}
static inline void mma(const char *op, int kind, void *c, const unsigned *a, const unsigned *b, const char *file,
                       int line) {
	lane_mma m = {kind, c, a, b};
	collect(op, 0xffffffffu, mma_lanes, &m, file, line);
}

} // namespace emu
#endif
