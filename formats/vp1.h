/* vp1: the record of a matrix whose rows have one of five precisions (fabq.md 5, VP). Little-endian, a whole matrix in
 * one run of bytes:
 *
 *   header 64 | class codes | planes of class 0 | planes of class 1 | ... | planes of class 4
 *                                                              class codes and each plane padded with zeros to 64
 *
 *   header   "VPR1", u16 version 1, u8 log2 of the binary block, u8 0, u32 rows, u32 columns, five u32: rows of each
 *            class; zeros
 *   codes    3 bits a row, the first row lowest: its class; 5, 6 and 7 are none
 *   planes   the rows of a class, in their order, are a matrix of that class's format, its planes as they are there:
 *
 *     class       0 f16     1 int8    2 int4g64   3 int2g128   4 bin128
 *     plane 0     values    codes     codes       codes        signs
 *     plane 1               scales    scales      scales       exponents, a byte a block
 *     plane 2                                                  an F16 a row
 *
 * How many rows each class has is the format's: of N rows, share / 1000 rounded down, the rest binary. */
#ifndef WHIT_VP1_H
#define WHIT_VP1_H
#include "formats/format.h"

enum { WHIT_VP_F16, WHIT_VP_INT8, WHIT_VP_INT4, WHIT_VP_INT2, WHIT_VP_BINARY, WHIT_VP_CLASSES };
enum { WHIT_VP_HEADER = 64, WHIT_VP_BLOCK = 128 };
extern const whit_format whit_format_vp;

/* One class: its rows, and where each plane's bytes begin; end: where the next class does. */
typedef struct whit_vp_class {
	int64_t rows;
	size_t at[3], row_bytes[3], end;
} whit_vp_class;
WHIT_BOTH size_t whit_vp_end(size_t at, size_t bytes) { return (at + bytes + 63) / 64 * 64; }
WHIT_BOTH int64_t whit_vp_rows(const whit_spec *s, int64_t rows, int c) {
	int64_t left = rows;
	if (c < WHIT_VP_BINARY) return rows * s->share[c] / 1000;
	for (int k = 0; k < WHIT_VP_BINARY; k++) left -= rows * s->share[k] / 1000;
	return left;
}
/* Bits of a weight of class c; columns that share a scale, 0 = the row. */
WHIT_BOTH int whit_vp_bits(int c) { return 16 >> c; }
WHIT_BOTH int whit_vp_group(int c) { return c == WHIT_VP_INT4 ? 64 : c >= WHIT_VP_INT2 ? 128 : 0; }
/* Class c of the record of a matrix of that format and shape. */
WHIT_BOTH whit_vp_class whit_vp_layout(const whit_spec *s, int64_t rows, int64_t cols, int c) {
	whit_vp_class k;
	k.end = whit_vp_end(WHIT_VP_HEADER, (size_t)(rows * 3 + 7) / 8);
	for (int i = 0; i <= c; i++) {
		int64_t group = whit_vp_group(i), groups = group ? (cols + group - 1) / group : 1;
		k.rows = whit_vp_rows(s, rows, i);
		k.row_bytes[0] =
		        i == WHIT_VP_BINARY ? (size_t)(cols + 31) / 32 * 4 : (size_t)(cols * whit_vp_bits(i) + 7) / 8;
		k.row_bytes[1] = i == WHIT_VP_F16 ? 0 : (size_t)groups * (i == WHIT_VP_BINARY ? 1 : 2);
		k.row_bytes[2] = i == WHIT_VP_BINARY ? 2 : 0;
		k.at[0] = k.end;
		k.at[1] = whit_vp_end(k.at[0], (size_t)k.rows * k.row_bytes[0]);
		k.at[2] = whit_vp_end(k.at[1], (size_t)k.rows * k.row_bytes[1]);
		k.end = whit_vp_end(k.at[2], (size_t)k.rows * k.row_bytes[2]);
	}
	return k;
}
/* The same of m, as the matrix that it is, all but the name of its format, which a device has no use for. */
WHIT_BOTH whit_mat whit_vp_part(const whit_mat *m, int c) {
	const whit_vp_class k = whit_vp_layout(&m->spec, m->rows, m->width, c);
	whit_mat part = *m;
	part.spec.fmt = NULL;
	part.spec.bits = c == WHIT_VP_F16 ? 0 : whit_vp_bits(c);
	part.spec.group = whit_vp_group(c);
	for (int i = 0; i < WHIT_VP_BINARY; i++) part.spec.share[i] = 0;
	part.rows = k.rows;
	part.scale_f32 = 0, part.codebook = NULL, part.book = NULL, part.paired = 0;
	for (int p = 0; p < 3; p++) {
		part.plane[p] = k.row_bytes[p] ? m->plane[0] + k.at[p] : NULL;
		part.row_bytes[p] = k.row_bytes[p];
	}
	return part;
}
/* Class of a row. Eight rows have three bytes to themselves, except where the rows end. */
WHIT_BOTH int whit_vp_code(const uint8_t *record, int64_t row) {
	const uint8_t *p = record + WHIT_VP_HEADER + row / 8 * 3;
	int bit = (int)(row % 8) * 3;
	return (bit % 8 > 5 ? p[bit / 8] | p[bit / 8 + 1] << 8 : p[bit / 8]) >> bit % 8 & 7;
}
/* Rows 8 i to 8 i + 7 as 24 bits; and of these, bit 3 k for each row k whose class is c. */
WHIT_BOTH uint32_t whit_vp_eight(const uint8_t *record, int64_t i) {
	const uint8_t *p = record + WHIT_VP_HEADER + 3 * i;
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
}
WHIT_BOTH uint32_t whit_vp_of(uint32_t eight, int c) {
	uint32_t other = eight ^ (uint32_t)c * 0x249249;
	return ~(other | other >> 1 | other >> 2) & 0x249249;
}
/* n[c]: rows of class c before row r. */
void whit_vp_ranks(const uint8_t *record, int64_t r, int64_t n[WHIT_VP_CLASSES]);
/* Class c of m in m's own bytes, of the format that its rows are of. */
whit_mat whit_vp_view(const whit_mat *m, int c);
/* Format of class c. */
whit_spec whit_vp_spec(int c);
/* Writes m's header and class codes, all else zero: code[r] is row r's class, as many of each as m's spec says. m's
 * plane is its own. */
void whit_vp_begin(whit_mat *m, const uint8_t *code);
/* What the bytes of m must be to be decoded: header as spec and shape say, rows of each class as many, zeros between
 * planes, finite numbers. WHIT_EINPUT. */
int whit_vp_check(const whit_mat *m, whit_err *e);
#endif
