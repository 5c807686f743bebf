/* frc: FABQ-RC's record of binary and 4-bit rows (drawing: frc1.h), one run of bytes for a whole matrix. Rows are
 * encoded by calib/method_fabq_rc.c, which knows the matrix: which rows are core is no row's own affair. */
#include "formats/frc1.h"
#include <math.h>
#include <stdio.h>
#include "formats/codes.h"
#include "formats/tensor.h"

enum { MOST_CORE = 1000 };

/* 1, and past it: *s begins with c. */
static int takes(const char **s, char c) { return **s == c && (*s)++; }

static int parse(const char *name, whit_spec *spec) {
	if (strncmp(name, "frc", 3)) return -1;
	const char *s = name + 3;
	int group = whit_parse_number(&s), core = 0, flags = 0;
	if (whit_frc_log2(group) < 0) return -1;
	if (*s == 'c' || *s == 'w') {
		if (*s++ == 'w') flags |= WHIT_FRC_CORE8;
		core = whit_parse_number(&s);
		if (core < 1 || core > MOST_CORE) return -1;
	}
	if (takes(&s, 'k')) {
		flags |= WHIT_FRC_BOOK;
		if (takes(&s, 'a')) flags |= WHIT_FRC_ADDITIVE;
		if (takes(&s, 'u')) flags |= WHIT_FRC_WIDE;
	}
	if (takes(&s, 't')) flags |= WHIT_FRC_BALANCE;
	if (*s) return -1;
	*spec = (whit_spec){.fmt = &whit_format_frc, .group = group, .core = core, .flags = flags};
	return 0;
}

static void print(const whit_spec *spec, char out[32]) {
	char core[16] = "";
	if (spec->core) snprintf(core, sizeof core, "%c%d", spec->flags & WHIT_FRC_CORE8 ? 'w' : 'c', spec->core);
	snprintf(out, 32, "frc%d%s%s%s%s%s", spec->group, core, spec->flags & WHIT_FRC_BOOK ? "k" : "",
	         spec->flags & WHIT_FRC_ADDITIVE ? "a" : "", spec->flags & WHIT_FRC_WIDE ? "u" : "",
	         spec->flags & WHIT_FRC_BALANCE ? "t" : "");
}

static int planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES], whit_err *e) {
	(void)scale_f32;
	if (width < 1 || width > UINT32_MAX)
		return whit_fail(e, WHIT_EUSAGE, "format frc%d: width is %lld, need 1 to 2^32 - 1", spec->group,
		                 (long long)width),
		       -1;
	out[0] = (whit_plane_desc){"frc1", WHIT_U8, 0, 0}; /* record says how many */
	return 1;
}

static int64_t record(const whit_spec *spec, int64_t rows, int64_t width) {
	const int64_t most = INT64_MAX / 16;
	if (rows < 1 || rows > UINT32_MAX || width > most / rows) return -1;
	return (int64_t)whit_frc_layout(rows, width, spec->group, whit_frc_core(spec, rows), spec->flags).bytes;
}

static void put_u32(uint8_t *to, int64_t v) {
	for (int i = 0; i < 4; i++) to[i] = (uint8_t)(v >> 8 * i);
}

enum { AT_FLAGS = 7, AT_TIER = 20, AT_IDS = 24, ID_BITS = 6 };

static void header(uint8_t out[WHIT_FRC_HEADER], const whit_frc *f) {
	memset(out, 0, WHIT_FRC_HEADER);
	memcpy(out, "FRC1", 4);
	out[4] = 1;
	out[6] = (uint8_t)whit_frc_log2(f->block);
	out[AT_FLAGS] = (uint8_t)f->flags;
	put_u32(out + 8, f->rows);
	put_u32(out + 12, f->cols);
	put_u32(out + 16, f->core);
}

int whit_frc_tier(const uint8_t *record) { return record[AT_TIER]; }

void whit_frc_ids(const uint8_t *record, uint8_t id[WHIT_FRC_CHOICES]) {
	for (int i = 0; i < WHIT_FRC_CHOICES; i++) {
		int bit = i * ID_BITS;
		const uint8_t *p = record + AT_IDS + bit / 8;
		id[i] = (uint8_t)((p[0] | p[1] << 8) >> bit % 8 & (WHIT_FRC_PROFILES - 1));
	}
}

void whit_frc_begin(whit_mat *m, const int64_t *core, const uint8_t *id) {
	const whit_frc f = whit_frc_of(m);
	uint8_t *p = (uint8_t *)(uintptr_t)m->plane[0];
	memset(p, 0, f.bytes);
	header(p, &f);
	for (int64_t i = 0; i < f.core; i++) p[f.bitmap + (size_t)core[i] / 8] |= (uint8_t)(1 << core[i] % 8);
	if (!(f.flags & WHIT_FRC_BOOK)) return;
	p[AT_TIER] = (uint8_t)m->book->tier;
	for (int i = 0; i < WHIT_FRC_CHOICES && !(f.flags & WHIT_FRC_WIDE); i++) {
		int bit = i * ID_BITS, v = id[i] << bit % 8;
		p[AT_IDS + bit / 8] |= (uint8_t)v;
		if (v >> 8) p[AT_IDS + bit / 8 + 1] |= (uint8_t)(v >> 8);
	}
}

static int zeros(const uint8_t *p, size_t from, size_t to) {
	while (from < to && !p[from]) from++;
	return from == to;
}

static int finite(const uint8_t *p, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		if ((whit_load_u16(p + 2 * i) & 0x7c00) == 0x7c00) return 0;
	return 1;
}

/* Whether a row's k names profiles that there are, and none behind its last block. */
static int good_profiles(const whit_frc *f, const uint8_t *k) {
	if (!(f->flags & WHIT_FRC_WIDE)) return f->blocks % 2 == 0 || !(k[f->book_row - 1] >> 4);
	for (int64_t b = 0; b < f->blocks; b++)
		if (k[b] >= WHIT_FRC_PROFILES) return 0;
	return 1;
}

int whit_frc_check(const whit_mat *m, whit_err *e) {
	const whit_frc f = whit_frc_of(m);
	const uint8_t *p = m->plane[0];
	uint8_t want[WHIT_FRC_HEADER];
	int64_t core = 0;
	header(want, &f);
	if (f.flags & WHIT_FRC_BOOK) want[AT_TIER] = p[AT_TIER] & (WHIT_FRC_TIERS - 1);
	if (f.flags & WHIT_FRC_BOOK && !(f.flags & WHIT_FRC_WIDE)) { /* any of the file's, but the first */
		memcpy(want + AT_IDS, p + AT_IDS, WHIT_FRC_CHOICES * ID_BITS / 8);
		want[AT_IDS] &= (uint8_t) ~(WHIT_FRC_PROFILES - 1);
	}
	if (memcmp(p, want, 6))
		return whit_fail(e, WHIT_EINPUT, "record begins with %.4s version %d, need FRC1 version 1",
		                 whit_load_u32(p) == whit_load_u32(want) ? "FRC1" : "other bytes",
		                 whit_load_u16(p + 4));
	if (p[AT_FLAGS] != want[AT_FLAGS])
		return whit_fail(e, WHIT_EINPUT,
		                 "record has flags %d (1 balance, 2 codebook, 4 additive, 8 wide index, 16 "
		                 "int8 core), need %d",
		                 p[AT_FLAGS], want[AT_FLAGS]);
	if (memcmp(p, want, WHIT_FRC_HEADER))
		return whit_fail(
		        e, WHIT_EINPUT,
		        "record is of %u x %u, block 2^%d, %u core rows, tier %d, need %lld x %lld, 2^%d, %lld, "
		        "tier 0 to 3",
		        whit_load_u32(p + 8), whit_load_u32(p + 12), p[6], whit_load_u32(p + 16), p[AT_TIER],
		        (long long)f.rows, (long long)f.cols, want[6], (long long)f.core);
	for (int64_t i = 0; i < f.rows; i++) core += whit_frc_is_core(p, i);
	if (core != f.core)
		return whit_fail(e, WHIT_EINPUT, "record's bitmap has %lld core rows, need %lld", (long long)core,
		                 (long long)f.core);
	if (f.rows % 8 && p[f.bitmap + (size_t)f.rows / 8] >> f.rows % 8)
		return whit_fail(e, WHIT_EINPUT, "record's bitmap names rows beyond %lld", (long long)f.rows);
	if (!zeros(p, f.bitmap + (size_t)(f.rows + 7) / 8, f.t) ||
	    !zeros(p, f.t + (f.flags & WHIT_FRC_BALANCE ? 2 * (size_t)f.cols : 0), f.r) ||
	    !zeros(p, f.r + 2 * (size_t)f.binary, f.q) || !zeros(p, f.q + (size_t)(f.binary * f.blocks), f.k) ||
	    !zeros(p, f.k + (size_t)f.binary * f.book_row, f.signs) ||
	    !zeros(p, f.signs + (size_t)f.binary * f.sign_row, f.scales) ||
	    !zeros(p, f.scales + (size_t)(2 * f.core * f.groups), f.codes) ||
	    !zeros(p, f.codes + (size_t)f.core * f.code_row, f.bytes))
		return whit_fail(e, WHIT_EINPUT, "record has bytes between its sections that are not 0");
	for (int64_t r = 0; r < f.binary && f.flags & WHIT_FRC_BOOK; r++)
		if (!good_profiles(&f, p + f.k + (size_t)r * f.book_row))
			return whit_fail(e, WHIT_EINPUT, "record has a profile of row %lld that there is not",
			                 (long long)r);
	if (!finite(p + f.r, f.binary) || !finite(p + f.scales, f.core * f.groups) ||
	    (f.flags & WHIT_FRC_BALANCE && !finite(p + f.t, f.cols)))
		return whit_fail(e, WHIT_EINPUT, "record has scales that are not finite");
	return 0;
}

whit_mat whit_frc_binary(const whit_mat *m) {
	const whit_frc f = whit_frc_of(m);
	whit_mat b = {.spec = {.fmt = &whit_format_bin,
	                       .bits = 1,
	                       .group = m->spec.group,
	                       .flags = f.flags & (WHIT_FRC_BOOK | WHIT_FRC_ADDITIVE | WHIT_FRC_WIDE)},
	              .rows = f.binary,
	              .cols = m->cols,
	              .width = m->width,
	              .codebook = m->codebook,
	              .rot = m->rot};
	b.plane[0] = m->plane[0] + f.signs, b.row_bytes[0] = f.sign_row;
	b.plane[1] = m->plane[0] + f.q, b.row_bytes[1] = (size_t)f.blocks;
	b.plane[2] = m->plane[0] + f.r, b.row_bytes[2] = 2;
	if (f.book_row) b.plane[3] = m->plane[0] + f.k, b.row_bytes[3] = f.book_row;
	return b;
}

/* ---- balance ---- */

void whit_frc_balance(const whit_mat *m, float *t) {
	const uint8_t *p = m->plane[0] + whit_frc_of(m).t;
	for (int64_t i = 0; i < m->width; i++) t[i] = whit_f16_to_f32(whit_load_u16(p + 2 * i));
}

void whit_frc_balance_put(whit_mat *m, const float *t) {
	uint8_t *p = (uint8_t *)(uintptr_t)m->plane[0] + whit_frc_of(m).t;
	for (int64_t i = 0; i < m->width; i++) {
		uint16_t half = whit_f32_to_f16(t[i]);
		p[2 * i] = (uint8_t)half, p[2 * i + 1] = (uint8_t)(half >> 8);
	}
}

/* to[k * width + i] = x t[i] for n rows, in place too. */
static void balance_rows(const whit_mat *m, const float *x, int64_t n, float *to) {
	float *t = whit_alloc((size_t)m->width * sizeof *t);
	whit_frc_balance(m, t);
	for (int64_t k = 0; k < n; k++)
		for (int64_t i = 0; i < m->width; i++) to[k * m->width + i] = x[k * m->width + i] * t[i];
	whit_free(t);
}

/* ---- codebooks ---- */

void whit_frc_book_name(int64_t block, int tier, int flags, char out[48]) {
	snprintf(out, 48, "frc_codebook.b%lld.t%d%s", (long long)block, tier,
	         flags & WHIT_FRC_ADDITIVE ? ".additive" : "");
}

size_t whit_frc_book_size(int64_t block, int flags) {
	return sizeof(whit_frc_book) + (size_t)(WHIT_FRC_PROFILES * block) * (flags & WHIT_FRC_ADDITIVE ? 4 : 1);
}

whit_frc_book *whit_frc_book_in(void *memory, int64_t block, int tier, int flags) {
	whit_frc_book *b = memory;
	*b = (whit_frc_book){.block = (int)block, .tier = tier};
	if (flags & WHIT_FRC_ADDITIVE)
		b->offset = (float *)(b + 1);
	else
		b->code = (int8_t *)(b + 1);
	return b;
}

whit_frc_book *whit_frc_book_new(int64_t block, int tier, int flags) {
	return whit_frc_book_in(whit_alloc(whit_frc_book_size(block, flags)), block, tier, flags);
}

void whit_frc_book_put(const whit_frc_book *b, uint8_t *bytes) {
	size_t n = (size_t)(WHIT_FRC_PROFILES * b->block);
	if (b->offset) {
		memcpy(bytes, b->offset, 4 * n);
		return;
	}
	uint16_t step = whit_f32_to_f16(b->step);
	bytes[0] = (uint8_t)step, bytes[1] = (uint8_t)(step >> 8);
	memcpy(bytes + 2, b->code, n);
}

static int get_additive(whit_frc_book *b, const uint8_t *bytes, whit_err *e) {
	for (int64_t i = 0; i < WHIT_FRC_PROFILES * b->block; i++) {
		b->offset[i] = whit_load_f32(bytes + 4 * i);
		if (!isfinite(b->offset[i]) || (i < b->block && b->offset[i] != 0))
			return whit_fail(e, WHIT_EINPUT, "profile %lld of a codebook has %g at %lld, need %s",
			                 (long long)(i / b->block), (double)b->offset[i], (long long)(i % b->block),
			                 i < b->block ? "0" : "a finite number");
	}
	return 0;
}

int whit_frc_book_get(whit_frc_book *b, const uint8_t *bytes, whit_err *e) {
	int64_t n = WHIT_FRC_PROFILES * b->block;
	if (b->offset) return get_additive(b, bytes, e);
	b->step = whit_f16_to_f32(whit_load_u16(bytes));
	memcpy(b->code, bytes + 2, (size_t)n);
	if (!(b->step >= 0) || !isfinite(b->step))
		return whit_fail(e, WHIT_EINPUT, "codebook has step %g, need 0 or more", (double)b->step);
	for (int64_t i = 0; i < n; i++)
		if ((i < b->block && b->code[i]) || b->step * (float)b->code[i] < -1)
			return whit_fail(e, WHIT_EINPUT, "profile %lld of a codebook has %g at %lld, need %s",
			                 (long long)(i / b->block), (double)(b->step * (float)b->code[i]),
			                 (long long)(i % b->block), i < b->block ? "0" : "-1 or more");
	return 0;
}

void whit_frc_profile(const whit_frc_book *b, int k, float *out) {
	for (int j = 0; j < b->block; j++)
		out[j] = b->offset ? b->offset[k * b->block + j] : 1 + b->step * (float)b->code[k * b->block + j];
}

void whit_frc_factors(const whit_frc_book *b, const uint8_t *id, int n, float *out) {
	for (int k = 0; k < n; k++) whit_frc_profile(b, id ? id[k] : k, out + k * b->block);
}

/* The core's rows as codes; levels: room for them. */
static whit_codes core_of(const whit_mat *m, whit_mat *rows, float levels[256]) {
	const whit_frc f = whit_frc_of(m);
	int bits = f.flags & WHIT_FRC_CORE8 ? 8 : 4, half = 1 << (bits - 1);
	for (int k = 0; k < 2 * half; k++) levels[k] = (float)(bits == 4 ? k - half : (k ^ half) - half);
	*rows = (whit_mat){.rows = f.core, .cols = m->cols, .width = m->width};
	rows->plane[0] = m->plane[0] + f.codes, rows->row_bytes[0] = f.code_row;
	rows->plane[1] = m->plane[0] + f.scales, rows->row_bytes[1] = 2 * (size_t)f.groups;
	return (whit_codes){.m = rows,
	                    .level = levels,
	                    .bits = bits,
	                    .twos = bits == 8,
	                    .group = bits == 8 ? (int)m->width : WHIT_FRC_CORE_GROUP,
	                    .groups = f.groups};
}

/* Core rows before row r. */
static int64_t rank_of(const whit_mat *m, int64_t r) {
	const uint8_t *bits = m->plane[0] + WHIT_FRC_HEADER;
	int64_t n = 0;
	for (int64_t i = 0; i < r / 8; i++) n += __builtin_popcount(bits[i]);
	return n + __builtin_popcount(bits[r / 8] & ((1u << r % 8) - 1));
}

static void decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	if (r0 >= r1) return;
	const whit_mat binary = whit_frc_binary(m);
	whit_mat rows;
	float levels[256];
	whit_codes core = core_of(m, &rows, levels);
	int64_t c = rank_of(m, r0);
	for (int64_t r = r0; r < r1; r++, out += m->width) {
		if (whit_frc_is_core(m->plane[0], r)) {
			whit_codes_decode(&core, c, c + 1, out);
			c++;
		} else {
			whit_format_bin.decode(&binary, r - c, r - c + 1, out);
		}
		if (m->spec.flags & WHIT_FRC_BALANCE) balance_rows(m, out, 1, out);
	}
}

/* Each class by itself, then to its places. */
static void gemv(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	if (r0 >= r1) return;
	whit_mat binary = whit_frc_binary(m), rows;
	float levels[256];
	whit_codes core = core_of(m, &rows, levels);
	int64_t c0 = rank_of(m, r0), c1 = c0;
	for (int64_t r = r0; r < r1; r++) c1 += whit_frc_is_core(m->plane[0], r);
	int64_t b0 = r0 - c0, nc = c1 - c0, nb = r1 - r0 - nc;
	float *yc = whit_alloc((size_t)(T * (r1 - r0) + 1) * sizeof *yc), *yb = yc + T * nc, *own = NULL;
	if (m->spec.flags & WHIT_FRC_BALANCE) {
		own = whit_alloc((size_t)(T * m->width) * sizeof *own);
		balance_rows(m, x, T, own);
		x = own;
	}
	for (int p = 0; p < WHIT_PLANES && binary.plane[p]; p++) binary.plane[p] += (size_t)b0 * binary.row_bytes[p];
	for (int p = 0; p < 2; p++) rows.plane[p] += (size_t)c0 * rows.row_bytes[p];
	if (nc) whit_codes_gemv(&core, 0, nc, x, T, yc, nc);
	if (nb) whit_format_bin.gemv(&binary, 0, nb, x, T, yb, nb);
	for (int t = 0; t < T; t++)
		for (int64_t r = r0, c = 0; r < r1; r++) {
			int is = whit_frc_is_core(m->plane[0], r);
			y[t * ldy + r] = is ? yc[t * nc + c] : yb[t * nb + r - r0 - c];
			c += is;
		}
	whit_free(own);
	whit_free(yc);
}

const whit_format whit_format_frc = {
        .name = "frc",
        .help = "frcB[cP|wP][k[a][u]][t] (FABQ-RC: signs in blocks of B 64 to 512, P thousandths of the rows in 4 or 8 "
                "bits; codebook, balance)",
        .parse = parse,
        .print = print,
        .planes = planes,
        .record = record,
        .check = whit_frc_check,
        .decode = decode,
        .gemv = gemv,
};
