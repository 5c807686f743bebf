/* vp: FABQ-VP's record of rows of five precisions (drawing: vp1.h), one run of bytes for a whole matrix. Rows are
 * encoded by calib/method_fabq_vp.c, which knows the matrix: which class a row has is no row's own affair. */
#include "formats/vp1.h"
#include <stdio.h>
#include "formats/frc1.h"
#include "formats/tensor.h"

extern const whit_format whit_format_f16, whit_format_int;

enum { PRESET = 4, ALL = 1000 }; /* shares of a name; thousandths */

/* A decimal number up to ALL without leading zeros, or -1. */
static int parse_share(const char **s) {
	if (**s != '0') return whit_parse_number(s);
	(*s)++;
	return 0;
}

static int parse(const char *name, whit_spec *spec) {
	static const int16_t published[PRESET] = {5, 45, 200, 250};
	if (strncmp(name, "vp", 2)) return -1;
	const char *s = name + 2;
	int sum = 0;
	*spec = (whit_spec){.fmt = &whit_format_vp, .group = WHIT_VP_BLOCK};
	memcpy(spec->share, published, sizeof published);
	for (int i = 0; i < PRESET && (i || *s); i++) {
		if (i && *s++ != '-') return -1;
		int share = parse_share(&s);
		if (share < 0 || (sum += share) > ALL) return -1;
		spec->share[i] = (int16_t)share;
	}
	return *s ? -1 : 0;
}

static void print(const whit_spec *spec, char out[32]) {
	snprintf(out, 32, "vp%d-%d-%d-%d", spec->share[0], spec->share[1], spec->share[2], spec->share[3]);
}

static int planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES], whit_err *e) {
	(void)spec, (void)scale_f32;
	if (width < 1 || width > UINT32_MAX)
		return whit_fail(e, WHIT_EUSAGE, "format vp: width is %lld, need 1 to 2^32 - 1", (long long)width), -1;
	out[0] = (whit_plane_desc){"vp1", WHIT_U8, 0, 0}; /* record says how many */
	return 1;
}

static int64_t record(const whit_spec *spec, int64_t rows, int64_t width) {
	const int64_t most = INT64_MAX / 16;
	if (rows < 1 || rows > UINT32_MAX || width > most / rows) return -1;
	return (int64_t)whit_vp_layout(spec, rows, width, WHIT_VP_BINARY).end;
}

/* ---- the bytes ---- */

static void put_u32(uint8_t *to, int64_t v) {
	for (int i = 0; i < 4; i++) to[i] = (uint8_t)(v >> 8 * i);
}

enum { AT_BLOCK = 6, AT_ROWS = 8, AT_COLS = 12, AT_COUNTS = 16 };

static void header(uint8_t out[WHIT_VP_HEADER], const whit_mat *m) {
	memset(out, 0, WHIT_VP_HEADER);
	memcpy(out, "VPR1", 4);
	out[4] = 1;
	out[AT_BLOCK] = 7;
	put_u32(out + AT_ROWS, m->rows);
	put_u32(out + AT_COLS, m->width);
	for (int c = 0; c < WHIT_VP_CLASSES; c++) put_u32(out + AT_COUNTS + 4 * c, whit_vp_rows(&m->spec, m->rows, c));
}

void whit_vp_begin(whit_mat *m, const uint8_t *code) {
	uint8_t *p = (uint8_t *)(uintptr_t)m->plane[0];
	memset(p, 0, whit_plane_bytes(m, 0));
	header(p, m);
	for (int64_t r = 0; r < m->rows; r++) {
		uint8_t *at = p + WHIT_VP_HEADER + r / 8 * 3 + r % 8 * 3 / 8;
		int v = code[r] << r % 8 * 3 % 8;
		at[0] |= (uint8_t)v;
		if (v >> 8) at[1] |= (uint8_t)(v >> 8);
	}
}

void whit_vp_ranks(const uint8_t *record, int64_t r, int64_t n[WHIT_VP_CLASSES]) {
	memset(n, 0, WHIT_VP_CLASSES * sizeof *n);
	for (int64_t i = 0; i <= r / 8; i++) {
		uint32_t mask = i < r / 8 ? 0xffffff : (1u << r % 8 * 3) - 1,
		         eight = mask ? whit_vp_eight(record, i) : 0;
		for (int c = 0; c < WHIT_VP_CLASSES && mask; c++)
			n[c] += __builtin_popcount(whit_vp_of(eight, c) & mask);
	}
}

whit_spec whit_vp_spec(int c) {
	static const whit_spec spec[WHIT_VP_CLASSES] = {
	        {.fmt = &whit_format_f16},
	        {.fmt = &whit_format_int, .bits = 8},
	        {.fmt = &whit_format_int, .bits = 4, .group = 64},
	        {.fmt = &whit_format_int, .bits = 2, .group = 128},
	        {.fmt = &whit_format_bin, .bits = 1, .group = WHIT_VP_BLOCK},
	};
	return spec[c];
}

whit_mat whit_vp_view(const whit_mat *m, int c) {
	whit_mat v = whit_vp_part(m, c);
	v.spec = whit_vp_spec(c);
	return v;
}

/* ---- hostile bytes ---- */

static int zeros(const uint8_t *p, size_t from, size_t to) {
	while (from < to && !p[from]) from++;
	return from == to;
}

static int finite(const uint8_t *p, size_t bytes) {
	for (size_t i = 0; i < bytes; i += 2)
		if ((whit_load_u16(p + i) & 0x7c00) == 0x7c00) return 0;
	return 1;
}

static int check_header(const whit_mat *m, whit_err *e) {
	const uint8_t *p = m->plane[0];
	uint8_t want[WHIT_VP_HEADER];
	char name[32];
	header(want, m);
	if (memcmp(p, want, 6))
		return whit_fail(e, WHIT_EINPUT, "record begins with %s version %d, need VPR1 version 1",
		                 memcmp(p, want, 4) ? "other bytes" : "VPR1", whit_load_u16(p + 4));
	if (memcmp(p, want, AT_COUNTS))
		return whit_fail(e, WHIT_EINPUT,
		                 "record is of %u x %u, block 2^%d, flags %d, need %lld x %lld, 2^%d, 0",
		                 whit_load_u32(p + AT_ROWS), whit_load_u32(p + AT_COLS), p[AT_BLOCK], p[AT_BLOCK + 1],
		                 (long long)m->rows, (long long)m->width, want[AT_BLOCK]);
	whit_spec_name(&m->spec, name);
	for (int c = 0; c < WHIT_VP_CLASSES; c++)
		if (memcmp(p + AT_COUNTS + 4 * c, want + AT_COUNTS + 4 * c, 4))
			return whit_fail(e, WHIT_EINPUT, "record has %u rows of class %d, need %u of %s",
			                 whit_load_u32(p + AT_COUNTS + 4 * c), c,
			                 whit_load_u32(want + AT_COUNTS + 4 * c), name);
	if (!memcmp(p, want, WHIT_VP_HEADER)) return 0;
	return whit_fail(e, WHIT_EINPUT, "record's header has bytes behind its counts that are not 0, need 0");
}

static int check_codes(const whit_mat *m, whit_err *e) {
	const uint8_t *p = m->plane[0];
	int64_t n[8] = {0};
	size_t at = WHIT_VP_HEADER, bits = (size_t)m->rows * 3;
	for (int64_t r = 0; r < m->rows; r++) {
		int c = whit_vp_code(p, r);
		if (c >= WHIT_VP_CLASSES)
			return whit_fail(e, WHIT_EINPUT, "record has class %d for row %lld, need 0 to 4", c,
			                 (long long)r);
		n[c]++;
	}
	for (int c = 0; c < WHIT_VP_CLASSES; c++)
		if (n[c] != whit_vp_rows(&m->spec, m->rows, c))
			return whit_fail(e, WHIT_EINPUT, "record's codes are %lld times class %d, need %lld times",
			                 (long long)n[c], c, (long long)whit_vp_rows(&m->spec, m->rows, c));
	if ((bits % 8 && p[at + bits / 8] >> bits % 8) ||
	    !zeros(p, at + (bits + 7) / 8, whit_vp_layout(&m->spec, m->rows, m->width, 0).at[0]))
		return whit_fail(e, WHIT_EINPUT, "record has classes of rows beyond %lld", (long long)m->rows);
	return 0;
}

int whit_vp_check(const whit_mat *m, whit_err *e) {
	int rc = check_header(m, e);
	if (!rc) rc = check_codes(m, e);
	for (int c = 0; c < WHIT_VP_CLASSES && !rc; c++) {
		const whit_vp_class k = whit_vp_layout(&m->spec, m->rows, m->width, c);
		int f16 = c == WHIT_VP_F16 ? 0 : c == WHIT_VP_BINARY ? 2 : 1;
		for (int p = 0; p < 3 && !rc; p++)
			if (!zeros(m->plane[0], k.at[p] + (size_t)k.rows * k.row_bytes[p], p < 2 ? k.at[p + 1] : k.end))
				rc = whit_fail(e, WHIT_EINPUT,
				               "record has bytes between the planes of class %d that are not 0", c);
		if (!rc && !finite(m->plane[0] + k.at[f16], (size_t)k.rows * k.row_bytes[f16]))
			rc = whit_fail(e, WHIT_EINPUT, "record has %s that are not finite in class %d",
			               f16 ? "scales" : "weights", c);
	}
	return rc;
}

/* ---- rows ---- */

static void views(const whit_mat *m, whit_mat part[WHIT_VP_CLASSES]) {
	for (int c = 0; c < WHIT_VP_CLASSES; c++) part[c] = whit_vp_view(m, c);
}

static void decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	whit_mat part[WHIT_VP_CLASSES];
	int64_t at[WHIT_VP_CLASSES];
	if (r0 >= r1) return;
	views(m, part);
	whit_vp_ranks(m->plane[0], r0, at);
	for (int64_t r = r0; r < r1; r++, out += m->width) {
		int c = whit_vp_code(m->plane[0], r);
		part[c].spec.fmt->decode(&part[c], at[c], at[c] + 1, out);
		at[c]++;
	}
}

/* Rows [a, b) of class c, side by side in y. */
static void gemv_class(const whit_mat *m, int c, int64_t a, int64_t b, const float *x, int T, float *y) {
	whit_mat part = whit_vp_view(m, c);
	if (a == b) return;
	for (int p = 0; p < 3; p++)
		if (part.plane[p]) part.plane[p] += (size_t)a * part.row_bytes[p];
	part.rows = b - a;
	part.spec.fmt->gemv(&part, 0, b - a, x, T, y, b - a);
}

/* Each class by itself, then to its places. */
static void gemv(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	int64_t from[WHIT_VP_CLASSES], to[WHIT_VP_CLASSES];
	float *part[WHIT_VP_CLASSES], *own = whit_alloc((size_t)(T * (r1 - r0) + 1) * sizeof *own), *next = own;
	if (r0 < r1) whit_vp_ranks(m->plane[0], r0, from), whit_vp_ranks(m->plane[0], r1, to);
	for (int c = 0; c < WHIT_VP_CLASSES && r0 < r1; c++) {
		part[c] = next;
		gemv_class(m, c, from[c], to[c], x, T, part[c]);
		next += T * (to[c] - from[c]);
	}
	for (int t = 0; t < T && r0 < r1; t++) {
		int64_t at[WHIT_VP_CLASSES] = {0};
		for (int64_t r = r0; r < r1; r++) {
			int c = whit_vp_code(m->plane[0], r);
			y[t * ldy + r] = part[c][t * (to[c] - from[c]) + at[c]++];
		}
	}
	whit_free(own);
}

const whit_format whit_format_vp = {
        .name = "vp",
        .help = "vp, vpA-B-C-D (FABQ-VP: A, B, C, D thousandths of the rows in f16, int8, int4g64, int2g128, the rest "
                "bin128; vp: 5-45-200-250)",
        .parse = parse,
        .print = print,
        .planes = planes,
        .record = record,
        .check = whit_vp_check,
        .decode = decode,
        .gemv = gemv,
};
