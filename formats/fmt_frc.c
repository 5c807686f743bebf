/* frc: FABQ-RC's record of binary and 4-bit rows (drawing: frc1.h), one run of bytes for a whole matrix. Rows are
 * encoded by calib/method_fabq_rc.c, which knows the matrix: which rows are core is no row's own affair. */
#include "formats/frc1.h"
#include <math.h>
#include <stdio.h>
#include "formats/codes.h"
#include "formats/tensor.h"

enum { MOST_CORE = 1000 };

static int parse(const char *name, whit_spec *spec) {
	if (strncmp(name, "frc", 3)) return -1;
	const char *s = name + 3;
	int group = whit_parse_number(&s), core = 0;
	if (whit_frc_log2(group) < 0) return -1;
	if (*s == 'c') {
		s++;
		core = whit_parse_number(&s);
		if (core < 1 || core > MOST_CORE) return -1;
	}
	if (*s) return -1;
	*spec = (whit_spec){.fmt = &whit_format_frc, .group = group, .core = core};
	return 0;
}

static void print(const whit_spec *spec, char out[32]) {
	if (spec->core)
		snprintf(out, 32, "frc%dc%d", spec->group, spec->core);
	else
		snprintf(out, 32, "frc%d", spec->group);
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
	return (int64_t)whit_frc_layout(rows, width, spec->group, whit_frc_core(spec, rows)).bytes;
}

static void put_u32(uint8_t *to, int64_t v) {
	for (int i = 0; i < 4; i++) to[i] = (uint8_t)(v >> 8 * i);
}

static void header(uint8_t out[WHIT_FRC_HEADER], const whit_frc *f) {
	memset(out, 0, WHIT_FRC_HEADER);
	memcpy(out, "FRC1", 4);
	out[4] = 1;
	out[6] = (uint8_t)whit_frc_log2(f->block);
	put_u32(out + 8, f->rows);
	put_u32(out + 12, f->cols);
	put_u32(out + 16, f->core);
}

void whit_frc_begin(whit_mat *m, const int64_t *core) {
	const whit_frc f = whit_frc_of(m);
	uint8_t *p = (uint8_t *)(uintptr_t)m->plane[0];
	memset(p, 0, f.bytes);
	header(p, &f);
	for (int64_t i = 0; i < f.core; i++) p[f.bitmap + (size_t)core[i] / 8] |= (uint8_t)(1 << core[i] % 8);
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

int whit_frc_check(const whit_mat *m, whit_err *e) {
	const whit_frc f = whit_frc_of(m);
	const uint8_t *p = m->plane[0];
	uint8_t want[WHIT_FRC_HEADER];
	int64_t core = 0;
	header(want, &f);
	if (memcmp(p, want, 6))
		return whit_fail(e, WHIT_EINPUT, "record begins with %.4s version %d, need FRC1 version 1",
		                 whit_load_u32(p) == whit_load_u32(want) ? "FRC1" : "other bytes",
		                 whit_load_u16(p + 4));
	if (p[7])
		return whit_fail(e, WHIT_EINPUT,
		                 "record has flags %d (1 balance, 2 codebook, 4 additive, 8 wide index, 16 "
		                 "int8 core), need none",
		                 p[7]);
	if (memcmp(p, want, WHIT_FRC_HEADER))
		return whit_fail(e, WHIT_EINPUT,
		                 "record is of %u x %u, block 2^%d, %u core rows, need %lld x %lld, 2^%d, %lld",
		                 whit_load_u32(p + 8), whit_load_u32(p + 12), p[6], whit_load_u32(p + 16),
		                 (long long)f.rows, (long long)f.cols, want[6], (long long)f.core);
	for (int64_t i = 0; i < f.rows; i++) core += whit_frc_is_core(p, i);
	if (core != f.core)
		return whit_fail(e, WHIT_EINPUT, "record's bitmap has %lld core rows, need %lld", (long long)core,
		                 (long long)f.core);
	if (f.rows % 8 && p[f.bitmap + (size_t)f.rows / 8] >> f.rows % 8)
		return whit_fail(e, WHIT_EINPUT, "record's bitmap names rows beyond %lld", (long long)f.rows);
	if (!zeros(p, f.bitmap + (size_t)(f.rows + 7) / 8, f.r) || !zeros(p, f.r + 2 * (size_t)f.binary, f.q) ||
	    !zeros(p, f.q + (size_t)(f.binary * f.blocks), f.signs) ||
	    !zeros(p, f.signs + (size_t)f.binary * f.sign_row, f.scales) ||
	    !zeros(p, f.scales + (size_t)(2 * f.core * f.groups), f.codes) ||
	    !zeros(p, f.codes + (size_t)f.core * f.code_row, f.bytes))
		return whit_fail(e, WHIT_EINPUT, "record has bytes between its sections that are not 0");
	if (!finite(p + f.r, f.binary) || !finite(p + f.scales, f.core * f.groups))
		return whit_fail(e, WHIT_EINPUT, "record has scales that are not finite");
	return 0;
}

whit_mat whit_frc_binary(const whit_mat *m) {
	const whit_frc f = whit_frc_of(m);
	whit_mat b = {.spec = {.fmt = &whit_format_bin, .bits = 1, .group = m->spec.group},
	              .rows = f.binary,
	              .cols = m->cols,
	              .width = m->width,
	              .rot = m->rot};
	b.plane[0] = m->plane[0] + f.signs, b.row_bytes[0] = f.sign_row;
	b.plane[1] = m->plane[0] + f.q, b.row_bytes[1] = (size_t)f.blocks;
	b.plane[2] = m->plane[0] + f.r, b.row_bytes[2] = 2;
	return b;
}

static whit_codes core_of(const whit_mat *m, whit_mat *rows) {
	static const float level[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
	const whit_frc f = whit_frc_of(m);
	*rows = (whit_mat){.rows = f.core, .cols = m->cols, .width = m->width};
	rows->plane[0] = m->plane[0] + f.codes, rows->row_bytes[0] = f.code_row;
	rows->plane[1] = m->plane[0] + f.scales, rows->row_bytes[1] = 2 * (size_t)f.groups;
	return (whit_codes){.m = rows, .level = level, .bits = 4, .group = WHIT_FRC_CORE_GROUP, .groups = f.groups};
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
	whit_codes core = core_of(m, &rows);
	int64_t c = rank_of(m, r0);
	for (int64_t r = r0; r < r1; r++, out += m->width) {
		if (whit_frc_is_core(m->plane[0], r)) {
			whit_codes_decode(&core, c, c + 1, out);
			c++;
		} else {
			whit_format_bin.decode(&binary, r - c, r - c + 1, out);
		}
	}
}

/* Each class by itself, then to its places. */
static void gemv(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	if (r0 >= r1) return;
	whit_mat binary = whit_frc_binary(m), rows;
	whit_codes core = core_of(m, &rows);
	int64_t c0 = rank_of(m, r0), c1 = c0;
	for (int64_t r = r0; r < r1; r++) c1 += whit_frc_is_core(m->plane[0], r);
	int64_t b0 = r0 - c0, nc = c1 - c0, nb = r1 - r0 - nc;
	float *yc = whit_alloc((size_t)(T * (r1 - r0) + 1) * sizeof *yc), *yb = yc + T * nc;
	for (int p = 0; p < 3; p++) binary.plane[p] += (size_t)b0 * binary.row_bytes[p];
	for (int p = 0; p < 2; p++) rows.plane[p] += (size_t)c0 * rows.row_bytes[p];
	if (nc) whit_codes_gemv(&core, 0, nc, x, T, yc, nc);
	if (nb) whit_format_bin.gemv(&binary, 0, nb, x, T, yb, nb);
	for (int t = 0; t < T; t++)
		for (int64_t r = r0, c = 0; r < r1; r++) {
			int is = whit_frc_is_core(m->plane[0], r);
			y[t * ldy + r] = is ? yc[t * nc + c] : yb[t * nb + r - r0 - c];
			c += is;
		}
	whit_free(yc);
}

const whit_format whit_format_frc = {
        .name = "frc",
        .help = "frcB, frcBcP (FABQ-RC: binary rows in blocks of B 64, 128, 256 or 512, P thousandths of the rows in 4 "
                "bits)",
        .parse = parse,
        .print = print,
        .planes = planes,
        .record = record,
        .check = whit_frc_check,
        .decode = decode,
        .gemv = gemv,
};
