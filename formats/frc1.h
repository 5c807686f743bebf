/* frc1: the record of a matrix whose rows are of two classes (fabq.md 3): most binary, a sign for each weight and a
 * scale for each block, and a few of 4 bits, the core. Little-endian, a whole matrix in one run of bytes:
 *
 *   header 64 | row bitmap, 1 = core | t | r | q | k | signs | core scales | core codes  each padded with zeros to 64
 *
 *   header   "FRC1", u16 version 1, u8 log2 B, u8 flags, u32 rows, u32 columns, u32 core rows, u8 tier, zeros; from 24
 *            on sixteen ids of 6 bits, the first 0, lowest bits first; zeros. Tier only with a codebook, ids only where
 *            blocks choose from sixteen
 *   t        with flag 1, balance: F16 for each column, by which what the rest decodes to is multiplied
 *   r        F16 for each binary row
 *   q        u8 for each block of B columns of a binary row: its scale is s = r 2^(-q/16)
 *   k        with flag 2, codebook: 4 bits for each block, the even one low: which id its profile has; with flag 8,
 *            wide: 8 bits for each block, its profile
 *   signs    bit j % 8 of byte j / 8 of a binary row is column j: 1 = +s, 0 = -s; a row takes whole words of 32 bits
 *   scales   F16 for each 128 columns of a core row; with flag 16, core of 8 bits: F16 for each core row
 *   codes    4 bits for each column of a core row, the even column low: scale (code - 8); with flag 16 an i8: scale
 * code
 *
 * Rows keep their order within a class. s is (r T[q % 16]) 2^-(q / 16) in F32, T[f] the float nearest to 2^(-f/16). A
 * profile C of B numbers makes weight j of its block (s (1 + C[j])), with its sign, in F32; with flag 4, additive, s
 * with its sign, + C[j]. A file has one codebook of 64 profiles for each B, tier and kind, profile 0 all zero: an F16,
 * the step, then 64 B times an i8, C = step code >= -1; an additive one 64 B times an F32. Format "bin" is the binary
 * class alone, in planes of rows: signs, q, r, and k with a codebook, which only records have in a file. */
#ifndef WHIT_FRC1_H
#define WHIT_FRC1_H
#include "formats/format.h"

enum { WHIT_FRC_HEADER = 64, WHIT_FRC_CORE_GROUP = 128 };
enum { WHIT_FRC_PROFILES = 64, WHIT_FRC_CHOICES = 16, WHIT_FRC_TIERS = 4 };
enum { WHIT_FRC_BALANCE = 1, WHIT_FRC_BOOK = 2, WHIT_FRC_ADDITIVE = 4, WHIT_FRC_WIDE = 8, WHIT_FRC_CORE8 = 16 };
extern const whit_format whit_format_bin, whit_format_frc;

/* Where sections begin; bytes: of the record. */
typedef struct whit_frc {
	int64_t rows, cols, core, binary, block, blocks, groups; /* blocks, groups: of a binary row; of a core row */
	size_t sign_row, code_row;                               /* bytes */
	size_t book_row;                                         /* of k; 0 = no codebook */
	size_t bitmap, t, r, q, k, signs, scales, codes, bytes;
	int flags;
} whit_frc;
WHIT_BOTH size_t whit_frc_end(size_t at, int64_t bytes) { return (at + (size_t)bytes + 63) / 64 * 64; }
WHIT_BOTH whit_frc whit_frc_layout(int64_t rows, int64_t cols, int64_t block, int64_t core, int flags) {
	whit_frc f;
	f.rows = rows, f.cols = cols, f.block = block, f.core = core, f.binary = rows - core;
	f.blocks = (cols + block - 1) / block;
	f.flags = flags;
	f.groups = flags & WHIT_FRC_CORE8 ? 1 : (cols + WHIT_FRC_CORE_GROUP - 1) / WHIT_FRC_CORE_GROUP;
	f.sign_row = (size_t)((cols + 31) / 32 * 4);
	f.code_row = (size_t)(flags & WHIT_FRC_CORE8 ? cols : (cols + 1) / 2);
	f.book_row = (size_t)(flags & WHIT_FRC_WIDE ? f.blocks : flags & WHIT_FRC_BOOK ? (f.blocks + 1) / 2 : 0);
	f.bitmap = WHIT_FRC_HEADER;
	f.t = whit_frc_end(f.bitmap, (rows + 7) / 8);
	f.r = whit_frc_end(f.t, flags & WHIT_FRC_BALANCE ? 2 * cols : 0);
	f.q = whit_frc_end(f.r, 2 * f.binary);
	f.k = whit_frc_end(f.q, f.binary * f.blocks);
	f.signs = whit_frc_end(f.k, f.binary * (int64_t)f.book_row);
	f.scales = whit_frc_end(f.signs, f.binary * (int64_t)f.sign_row);
	f.codes = whit_frc_end(f.scales, 2 * core * f.groups);
	f.bytes = whit_frc_end(f.codes, core * (int64_t)f.code_row);
	return f;
}
/* Core rows of a matrix of `rows`: spec.core thousandths of them, rounded down. */
WHIT_BOTH int64_t whit_frc_core(const whit_spec *s, int64_t rows) { return rows * s->core / 1000; }
WHIT_BOTH whit_frc whit_frc_of(const whit_mat *m) {
	return whit_frc_layout(m->rows, m->width, m->spec.group, whit_frc_core(&m->spec, m->rows), m->spec.flags);
}
/* T of the drawing. */
#define WHIT_FRC_T                                                                                                     \
	{                                                                                                              \
		0x1p+0f, 0x1.ea4afap-1f, 0x1.d5818ep-1f, 0x1.c199bep-1f, 0x1.ae89fap-1f, 0x1.9c4918p-1f,               \
		        0x1.8ace54p-1f, 0x1.7a1148p-1f, 0x1.6a09e6p-1f, 0x1.5ab07ep-1f, 0x1.4bfdaep-1f,                \
		        0x1.3dea64p-1f, 0x1.306fep-1f, 0x1.2387a6p-1f, 0x1.172b84p-1f, 0x1.0b5586p-1f                  \
	}
/* s of the drawing. */
float whit_frc_scale(float r, int q);
/* Binary logarithm of a size that blocks may have, 64 to 512; else -1. */
static inline int whit_frc_log2(int64_t block) {
	for (int k = 6; k <= 9; k++)
		if (block == (int64_t)1 << k) return k;
	return -1;
}
/* Profiles that the blocks of such a matrix choose from. */
WHIT_BOTH int whit_frc_choices(const whit_spec *s) {
	return s->flags & WHIT_FRC_WIDE ? WHIT_FRC_PROFILES : WHIT_FRC_CHOICES;
}
static inline int whit_frc_has_book(const whit_spec *s) { return s->flags & WHIT_FRC_BOOK; }
/* 1: two specs with codebooks have the same, in one tier. */
static inline int whit_frc_same_book(const whit_spec *a, const whit_spec *b) {
	int kind = WHIT_FRC_BOOK | WHIT_FRC_ADDITIVE;
	return a->group == b->group && (a->flags & kind) == (b->flags & kind);
}
/* r of row r of a "bin" matrix. */
float whit_bin_row_scale(const whit_mat *m, int64_t r);
/* The scale of least squared error for signs, weighted by imp (NULL = 1): the mean of |w|. c (n factors, or NULL = 1):
 * sum |w| c / sum c^2. *gain, if wanted: how much less the error is than sum imp w^2. */
float whit_bin_fit(const float *w, const float *imp, const float *c, int64_t n, double *gain);
/* The same for signs and c added (NULL = 0): the mean of |w - c|. */
float whit_bin_fit_additive(const float *w, const float *imp, const float *c, int64_t n, double *gain);
/* The same under the best of m's profiles for the block at column col, the lowest of equals. */
float whit_bin_choose(const whit_mat *m, const float *w, const float *imp, int64_t col, int64_t n, int *k);
/* k of block b of row r of a "bin" matrix, 0 without a codebook. */
int whit_bin_profile(const whit_mat *m, int64_t r, int64_t b);
void whit_bin_profile_put(const whit_mat *m, int64_t r, int64_t b, int k);
/* q of the scale nearest to s under r, on the logarithm. */
int whit_frc_q(float r, float s);
static inline int whit_frc_is_core(const uint8_t *record, int64_t row) {
	return record[WHIT_FRC_HEADER + row / 8] >> row % 8 & 1;
}
/* Writes m's header and the bitmap, its other sections zero: core[i] are the rows, ascending, as many as m's spec says.
 * m's plane is its own. With a codebook id: the WHIT_FRC_CHOICES profiles of m->book, of which id[0] is 0; not looked
 * at where the index is wide. */
void whit_frc_begin(whit_mat *m, const int64_t *core, const uint8_t *id);

/* A codebook of a file. */
typedef struct whit_frc_book {
	int block, tier;
	float step;    /* of code */
	int8_t *code;  /* (WHIT_FRC_PROFILES, block); NULL: it is additive */
	float *offset; /* the same of an additive one, else NULL */
} whit_frc_book;
/* Bytes of it in a file, and its tensor's name there. */
static inline int64_t whit_frc_book_bytes(int64_t block, int flags) {
	return flags & WHIT_FRC_ADDITIVE ? 4 * WHIT_FRC_PROFILES * block : 2 + WHIT_FRC_PROFILES * block;
}
void whit_frc_book_name(int64_t block, int tier, int flags, char out[48]);
/* One of zeros, in memory of whit_frc_book_size bytes, aligned as whit_alloc's and zero; or such memory's own
 * (whit_free it). */
size_t whit_frc_book_size(int64_t block, int flags);
whit_frc_book *whit_frc_book_in(void *memory, int64_t block, int tier, int flags);
whit_frc_book *whit_frc_book_new(int64_t block, int tier, int flags);
/* To those bytes and back; WHIT_EINPUT: what the drawing forbids. */
void whit_frc_book_put(const whit_frc_book *b, uint8_t *bytes);
int whit_frc_book_get(whit_frc_book *b, const uint8_t *bytes, whit_err *e);
/* The numbers of profile k, block of them: 1 + C, or of an additive one C. */
void whit_frc_profile(const whit_frc_book *b, int k, float *out);
/* What m->codebook is to point at: those of n profiles, id[] or (NULL) the first ones. */
void whit_frc_factors(const whit_frc_book *b, const uint8_t *id, int n, float *out);
/* t of a record with balance, cols floats. */
void whit_frc_balance(const whit_mat *m, float *t);
void whit_frc_balance_put(whit_mat *m, const float *t); /* rounded to F16 */
/* Tier and ids of a record. */
int whit_frc_tier(const uint8_t *record);
void whit_frc_ids(const uint8_t *record, uint8_t id[WHIT_FRC_CHOICES]);
/* What the bytes of m must be to be decoded: header as spec and shape say, as many core rows, zeros between sections,
 * finite scales. WHIT_EINPUT. */
int whit_frc_check(const whit_mat *m, whit_err *e);
/* Planes of the binary class of m, in m's own bytes: the matrix of format "bin" that its rows are. */
whit_mat whit_frc_binary(const whit_mat *m);
#endif
