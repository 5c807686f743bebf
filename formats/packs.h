/* packs: how each block format lays out what its search found; the drawings of the bytes stand in fmt_NAME.c. The CPU
 * and the device share them. Grid formats: d an F16, or POWER's exponent, more and code as whit_grid.pack says; K
 * formats: into zeroed bytes. */
#ifndef WHIT_PACKS_H
#define WHIT_PACKS_H
#include "formats/kquant.h"

/* n codes of 1 or 2 bits, n a multiple of 8, lowest bits first. */
WHIT_BOTH void whit_pack_bits(uint8_t *b, const uint8_t *code, int n, int bits) {
	for (int i = 0; i < n; i += 8 / bits, b++) {
		int v = 0;
		for (int k = 0; k < 8 / bits; k++) v |= code[i + k] << bits * k;
		*b = (uint8_t)v;
	}
}

WHIT_BOTH void whit_pack_q8_0(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)(code[i] - 127);
}

WHIT_BOTH void whit_pack_q4_0(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	for (int i = 0; i < 16; i++) b[2 + i] = (uint8_t)(code[i] | code[i + 16] << 4);
}

WHIT_BOTH void whit_pack_q4_1(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	memcpy(b, &d, 2);
	memcpy(b + 2, more, 2);
	for (int i = 0; i < 16; i++) b[4 + i] = (uint8_t)(code[i] | code[i + 16] << 4);
}

WHIT_BOTH void whit_pack_q5_0(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	uint8_t high[32];
	memcpy(b, &d, 2);
	for (int i = 0; i < 32; i++) high[i] = code[i] >> 4;
	whit_pack_bits(b + 2, high, 32, 1);
	for (int i = 0; i < 16; i++) b[6 + i] = (uint8_t)((code[i] & 15) | code[i + 16] << 4);
}

WHIT_BOTH void whit_pack_q5_1(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	uint8_t high[32];
	memcpy(b, &d, 2);
	memcpy(b + 2, more, 2);
	for (int i = 0; i < 32; i++) high[i] = code[i] >> 4;
	whit_pack_bits(b + 4, high, 32, 1);
	for (int i = 0; i < 16; i++) b[8 + i] = (uint8_t)((code[i] & 15) | code[i + 16] << 4);
}

WHIT_BOTH void whit_pack_iq4_nl(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	for (int i = 0; i < 16; i++) b[2 + i] = (uint8_t)(code[i] | code[i + 16] << 4);
}

WHIT_BOTH void whit_pack_iq4_xs(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	memcpy(b, &d, 2);
	memset(b + 2, 0, 6);
	for (int g = 0; g < 8; g++) {
		b[2 + g / 4] |= (uint8_t)(more[g] >> 4 << 2 * (g % 4));
		b[4 + g / 2] |= (uint8_t)((more[g] & 15) << 4 * (g % 2));
		for (int i = 0; i < 16; i++)
			b[8 + 16 * g + i] = (uint8_t)(code[32 * g + i] | code[32 * g + 16 + i] << 4);
	}
}

WHIT_BOTH void whit_pack_mxfp4(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	static const uint8_t stored[16] = {15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7, 7};
	b[0] = (uint8_t)d;
	for (int i = 0; i < 16; i++) b[1 + i] = (uint8_t)(stored[code[i]] | stored[code[i + 16]] << 4);
}

/* The inverse of fmt_tq1_0.c's read_trits. */
WHIT_BOTH void whit_spell(uint8_t *b, const uint8_t *code, int n, int trits) {
	for (int i = 0; i < n; i++) {
		int v = 0;
		for (int t = 0; t < 5; t++) v = 3 * v + (t < trits ? code[i + n * t] : 0);
		b[i] = (uint8_t)((256 * v + 242) / 243);
	}
}

WHIT_BOTH void whit_pack_tq1_0(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	whit_spell(b, code, 32, 5);
	whit_spell(b + 32, code + 160, 16, 5);
	whit_spell(b + 48, code + 240, 4, 4);
	memcpy(b + 52, &d, 2);
}

WHIT_BOTH void whit_pack_tq2_0(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	for (int i = 0; i < 64; i++) {
		const uint8_t *c = code + i / 32 * 128 + i % 32;
		b[i] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
	}
	memcpy(b + 64, &d, 2);
}

WHIT_BOTH void whit_pack_q1_0(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	whit_pack_bits(b + 2, code, 128, 1);
}

WHIT_BOTH void whit_pack_q2_0(uint8_t *b, uint16_t d, const uint16_t *more, const uint8_t *code) {
	(void)more;
	memcpy(b, &d, 2);
	whit_pack_bits(b + 2, code, 64, 2);
}

WHIT_BOTH void whit_pack_q2_k(uint8_t *o, const whit_kblock *b) {
	for (int s = 0; s < 16; s++) o[s] = (uint8_t)(b->scale[s] | b->min[s] << 4);
	for (int i = 0; i < 256; i++) o[16 + i / 128 * 32 + i % 32] |= (uint8_t)(b->code[i] << 2 * (i / 32 % 4));
	memcpy(o + 80, &b->d, 2);
	memcpy(o + 82, &b->m, 2);
}

WHIT_BOTH void whit_pack_q3_k(uint8_t *o, const whit_kblock *b) {
	for (int i = 0; i < 256; i++) {
		int code = b->code[i], g = i / 32, r = i % 32;
		o[r] |= (uint8_t)(code >> 2 << g);
		o[32 + i / 128 * 32 + r] |= (uint8_t)((code & 3) << 2 * (g % 4));
	}
	for (int s = 0; s < 16; s++) {
		int scale = b->scale[s] + 32;
		o[96 + s % 8] |= (uint8_t)((scale & 15) << 4 * (s / 8));
		o[104 + s % 4] |= (uint8_t)(scale >> 4 << 2 * (s / 4));
	}
	memcpy(o + 108, &b->d, 2);
}

WHIT_BOTH void whit_pack_q4_k(uint8_t *o, const whit_kblock *b) {
	memcpy(o, &b->d, 2);
	memcpy(o + 2, &b->m, 2);
	for (int g = 0; g < 8; g++) {
		whit_k_scale_set(o + 4, g, b->scale[g], b->min[g]);
		for (int r = 0; r < 32; r++) o[16 + g / 2 * 32 + r] |= (uint8_t)(b->code[32 * g + r] << 4 * (g % 2));
	}
}

WHIT_BOTH void whit_pack_q5_k(uint8_t *o, const whit_kblock *b) {
	memcpy(o, &b->d, 2);
	memcpy(o + 2, &b->m, 2);
	for (int g = 0; g < 8; g++) {
		whit_k_scale_set(o + 4, g, b->scale[g], b->min[g]);
		for (int r = 0; r < 32; r++) {
			int code = b->code[32 * g + r];
			o[16 + r] |= (uint8_t)(code >> 4 << g);
			o[48 + g / 2 * 32 + r] |= (uint8_t)((code & 15) << 4 * (g % 2));
		}
	}
}

WHIT_BOTH void whit_pack_q6_k(uint8_t *o, const whit_kblock *b) {
	for (int i = 0; i < 256; i++) {
		int code = b->code[i], n = i / 128, j = i / 32 % 4, r = i % 32;
		o[64 * n + 32 * (j % 2) + r] |= (uint8_t)((code & 15) << 4 * (j / 2));
		o[128 + 32 * n + r] |= (uint8_t)(code >> 4 << 2 * j);
	}
	memcpy(o + 192, b->scale, 16);
	memcpy(o + 208, &b->d, 2);
}
#endif
