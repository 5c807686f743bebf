/* unit: groups of coded rows (codes.h) and ggml's blocks, one by one. */
#include "formats/unit.h"
#include <math.h>
#include <stdlib.h>
#include "formats/blocks.h"
#include "formats/codes.h"
#include "formats/frc1.h"
#include "formats/grid.h"
#include "formats/kquant.h"

/* ---- blocks: what a format's pack writes for scales of zero, over what it wrote for the chosen ones ---- */

static void pack_codes(const whit_block *b, uint8_t *out, const uint8_t *k) {
	static const uint16_t none[8];
	memset(out, 0, (size_t)b->bytes);
	if (b->grid) {
		b->grid->pack(out, 0, none, k);
		return;
	}
	whit_kblock q = {0};
	memcpy(q.code, k, sizeof q.code);
	b->shape->pack(out, &q);
}

static int block_count(const whit_block *b) {
	const whit_grid *g = b->grid;
	if (!g) return b->shape->code_hi - b->shape->code_lo + 1;
	return g->kind == WHIT_GRID_SIGN ? 2 : g->hi - g->lo + 1;
}

/* A code's bits are those that differ between blocks of other codes: all alike, and, since some formats spell several
 * codes in one byte, mixed. */
static void find_mask(whit_units *u, const whit_block *b) {
	enum { MIXED = 64 };
	uint8_t k[WHIT_GRID_LONGEST], first[256], other[256];
	memset(k, 0, sizeof k);
	pack_codes(b, first, k);
	for (int t = 0; t < u->count + MIXED; t++) {
		for (int i = 0; i < b->weights; i++)
			k[i] = (uint8_t)(t < u->count
			                         ? t
			                         : (int)((uint32_t)(i * MIXED + t) * 2654435761u >> 16) % u->count);
		pack_codes(b, other, k);
		for (int i = 0; i < b->bytes; i++) u->mask[i] |= first[i] ^ other[i];
	}
}

/* Where a block whose only number is that F16 has it. */
static int place_of(const whit_block *b, int second, uint16_t number) {
	static const uint8_t codes[WHIT_GRID_LONGEST];
	uint8_t out[256] = {0};
	uint16_t more[8] = {second ? number : 0};
	const whit_kblock q = {.d = second ? 0 : number, .m = second ? number : 0};
	if (b->grid)
		b->grid->pack(out, second ? 0 : number, more, codes);
	else
		b->shape->pack(out, &q);
	int at = 0;
	while (at + 1 < b->bytes && whit_load_u16(out + at) != number) at++;
	return at;
}

static void find_numbers(whit_units *u, const whit_block *b) {
	int first = b->shape || b->grid->kind == WHIT_GRID_MIN || b->grid->kind == WHIT_GRID_SUPER;
	int second = b->shape ? b->shape->min_hi > 0 : b->grid->kind == WHIT_GRID_MIN;
	u->stretches = first + second;
	for (int i = 0; i < u->stretches; i++) u->at[i] = place_of(b, i, 0x3579);
}

static void block_units(whit_units *u, const whit_block *b) {
	uint8_t k[WHIT_GRID_LONGEST], bytes[256], read[WHIT_GRID_LONGEST];
	float scale[WHIT_UNIT_RUNS], shift[WHIT_UNIT_RUNS];
	u->weights = b->weights;
	u->run = b->ints->group;
	u->count = block_count(b);
	find_mask(u, b);
	find_numbers(u, b);
	for (int i = 0; i < u->count; i++) {
		memset(k, i, sizeof k);
		pack_codes(b, bytes, k);
		b->ints->unpack(bytes, read, scale, shift);
		u->level[i] = (float)(read[0] - b->ints->zero);
	}
}

/* ---- coded rows ---- */

/* Scales of one byte a block, under one number of the row. */
static int is_bin(const whit_mat *m) { return m->spec.fmt == &whit_format_bin; }

/* The levels of "int" are codes as two's complement: in ascending order, code of level k. */
static int code_of(const whit_mat *m, int k) { return m->codebook || is_bin(m) ? k : k ^ 1 << (m->spec.bits - 1); }

static void coded_units(whit_units *u, const whit_mat *m) {
	u->weights = m->spec.group ? m->spec.group : m->width;
	u->run = m->spec.flags & WHIT_FRC_BOOK ? 1 : u->weights;
	u->count = 1 << m->spec.bits;
	for (int k = 0; k < u->count; k++)
		u->level[k] = is_bin(m) ? (float)(2 * k - 1) : m->codebook ? m->codebook[k] : (float)(k - u->count / 2);
}

int whit_units_make(whit_units *u, const whit_mat *m, whit_err *e) {
	const whit_block *b = m->spec.fmt->block;
	char name[32];
	memset(u, 0, sizeof *u);
	if (b && (b->grid || b->shape)) {
		block_units(u, b);
	} else if (!b && m->spec.bits && !m->spec.fmt->record) {
		coded_units(u, m);
	} else {
		whit_spec_name(&m->spec, name);
		return whit_fail(e, WHIT_EUSAGE, "format %s: has no codes to choose one by one", name);
	}
	u->spacing = (u->level[u->count - 1] - u->level[0]) / (float)(u->count - 1);
	u->even = 1;
	for (int k = 0; k + 1 < u->count; k++) {
		u->even &= u->level[k + 1] == u->level[k] + 1;
		u->boundary[k] = 0.5f * (u->level[k] + u->level[k + 1]);
	}
	return 0;
}

int whit_unit_nearest(const whit_units *u, float w, float scale, float shift) {
	float x = scale != 0 ? (w - shift) / scale : 0;
	int lo = 0, hi = u->count - 1;
	if (u->even) {
		x = ceilf(x - u->level[0] - 0.5f); /* halves go down */
		return x >= (float)hi ? hi : x > 0 ? (int)x : 0;
	}
	while (lo < hi) { /* the first boundary that is not below x */
		int mid = (lo + hi) / 2;
		if (u->boundary[mid] < x)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* ---- parameters ---- */

/* n units of `size` weights as one row of a matrix of their own. */
static whit_mat row_of_units(const whit_mat *m, int64_t n, int64_t size) {
	whit_mat one = {.spec = m->spec,
	                .rows = 1,
	                .cols = n * size,
	                .width = n * size,
	                .scale_f32 = m->scale_f32,
	                .codebook = m->codebook};
	if (!m->spec.fmt->block) one.spec.group = (int)size;
	return one;
}

/* What holds the parameters: whole blocks, or the plane of scales. */
static int parameter_plane(const whit_mat *m) { return m->spec.fmt->block ? 0 : 1; }
static size_t parameter_bytes(const whit_mat *m) {
	if (m->spec.fmt->block) return (size_t)m->spec.fmt->block->bytes;
	return is_bin(m) ? 1 : m->scale_f32 ? 4 : 2;
}

static uint8_t *at_column(const whit_mat *m, int plane, int64_t r, size_t offset) {
	return (uint8_t *)(uintptr_t)m->plane[plane] + (size_t)r * m->row_bytes[plane] + offset;
}

/* The one scale of the unit of "bin" at column c. */
static float bin_scale(const whit_units *u, const whit_mat *m, int64_t r, int64_t c) {
	return whit_frc_scale(whit_bin_row_scale(m, r), *at_column(m, 1, r, (size_t)(c / u->weights)));
}

/* The profile of the unit at column c, or NULL. */
static const float *profile(const whit_units *u, const whit_mat *m, int64_t r, int64_t c) {
	if (!(m->spec.flags & WHIT_FRC_BOOK)) return NULL;
	return m->codebook + whit_bin_profile(m, r, c / u->weights) * u->weights;
}

void whit_unit_spread(const whit_units *u, const whit_mat *m, int64_t r, int64_t c, float s, float *scale) {
	int64_t runs = u->weights / u->run;
	const float *f = m->spec.flags & WHIT_FRC_ADDITIVE ? NULL : profile(u, m, r, c);
	for (int64_t i = 0; i < runs; i++) scale[i] = f ? s * f[i] : s;
}

/* Of the unit of stored row r at column c whose parameters are at bytes. */
static void read_scales(const whit_units *u, const whit_mat *m, int64_t r, int64_t c, const uint8_t *bytes,
                        float *scale, float *shift) {
	const whit_block *b = m->spec.fmt->block;
	uint8_t codes[WHIT_GRID_LONGEST];
	if (is_bin(m)) {
		const float *f = m->spec.flags & WHIT_FRC_ADDITIVE ? profile(u, m, r, c) : NULL;
		whit_unit_spread(u, m, r, c, bin_scale(u, m, r, c), scale);
		for (int64_t i = 0; i < u->weights / u->run; i++) shift[i] = f ? f[i] : 0;
		return;
	}
	if (!b) {
		*scale = m->scale_f32 ? whit_load_f32(bytes) : whit_f16_to_f32(whit_load_u16(bytes));
		*shift = 0;
		return;
	}
	b->ints->unpack(bytes, codes, scale, shift);
	if (!b->ints->shifts) memset(shift, 0, (size_t)(u->weights / u->run) * sizeof *shift);
}

/* The same of "bin", whose rows keep the number their scales stand under. */
static void fit_bin(const whit_units *u, whit_mat *m, const int64_t *r, int64_t n, int64_t c, const float *w,
                    const float *imp, float *scale, float *shift, int64_t *zero) {
	int64_t size = whit_unit_size(u, m, c), runs = u->weights / u->run;
	for (int64_t k = 0; k < n; k++) {
		int profile;
		float s = whit_bin_choose(m, w + k * size, imp, c, size, &profile);
		*zero += s == 0;
		whit_bin_profile_put(m, r[k], c / u->weights, profile);
		whit_unit_scale(u, m, r[k], c, s);
		read_scales(u, m, r[k], c, NULL, scale + k * runs, shift + k * runs);
	}
}

int whit_units_fit(const whit_units *u, whit_mat *m, const int64_t *r, int64_t n, int64_t c, const float *w,
                   const float *imp, int rule, float *scale, float *shift, int64_t *zero) {
	int64_t size = whit_unit_size(u, m, c), runs = u->weights / u->run;
	int p = parameter_plane(m), bad;
	size_t bytes = parameter_bytes(m);
	whit_mat row = row_of_units(m, n, size);
	float *weight = NULL;
	whit_err e;
	if (is_bin(m)) {
		fit_bin(u, m, r, n, c, w, imp, scale, shift, zero);
		return 0;
	}
	if (whit_mat_alloc(&row, &e)) abort(); /* m was allocated with the same spec */
	if (imp) {
		weight = whit_alloc((size_t)(n * size) * sizeof *weight);
		for (int64_t k = 0; k < n; k++) memcpy(weight + k * size, imp + c, (size_t)size * sizeof *weight);
	}
	bad = m->spec.fmt->encode(&row, 0, w, weight, rule, zero);
	for (int64_t k = 0; k < n; k++) {
		uint8_t *to = at_column(m, p, r[k], (size_t)(c / u->weights) * bytes);
		memcpy(to, row.plane[p] + (size_t)k * bytes, bytes);
		read_scales(u, m, r[k], c, to, scale + k * runs, shift + k * runs);
	}
	whit_mat_free(&row);
	whit_free(weight);
	return bad;
}

void whit_unit_get(const whit_units *u, const whit_mat *m, int64_t r, int64_t c, float *scale, float *shift,
                   uint8_t *k) {
	int64_t size = whit_unit_size(u, m, c);
	const whit_block *b = m->spec.fmt->block;
	const uint8_t *at = at_column(m, parameter_plane(m), r, (size_t)(c / u->weights) * parameter_bytes(m));
	read_scales(u, m, r, c, at, scale, shift);
	if (b) {
		uint8_t read[WHIT_GRID_LONGEST];
		float s[WHIT_UNIT_RUNS], t[WHIT_UNIT_RUNS];
		b->ints->unpack(at, read, s, t);
		for (int64_t i = 0; i < size; i++)
			k[i] = (uint8_t)whit_unit_nearest(u, (float)(read[i] - b->ints->zero), 1, 0);
		return;
	}
	whit_codes_unpack(k, at_column(m, 0, r, (size_t)whit_codes_bytes(c, m->spec.bits)), size, m->spec.bits);
	for (int64_t i = 0; i < size; i++) k[i] = (uint8_t)code_of(m, k[i]); /* its own inverse */
}

int whit_units_scaled(const whit_mat *m) {
	const whit_block *b = m->spec.fmt->block;
	if (!b) return 1;
	return b->grid && b->grid->kind != WHIT_GRID_MIN && b->grid->kind != WHIT_GRID_POWER &&
	       b->grid->kind != WHIT_GRID_SUPER;
}

float whit_unit_one(const whit_units *u, const whit_mat *m, int64_t r, int64_t c) {
	float scale[WHIT_UNIT_RUNS], shift[WHIT_UNIT_RUNS];
	if (is_bin(m)) return bin_scale(u, m, r, c);
	read_scales(u, m, r, c, at_column(m, parameter_plane(m), r, (size_t)(c / u->weights) * parameter_bytes(m)),
	            scale, shift);
	return scale[0];
}

void whit_unit_parameters(const whit_units *u, const whit_mat *m, int64_t r, int64_t c, uint8_t *bytes, int back) {
	size_t n = parameter_bytes(m);
	uint8_t *at = at_column(m, parameter_plane(m), r, (size_t)(c / u->weights) * n);
	memcpy(back ? at : bytes, back ? bytes : at, n);
	if (!(m->spec.flags & WHIT_FRC_BOOK)) return;
	if (back)
		whit_bin_profile_put(m, r, c / u->weights, bytes[n]);
	else
		bytes[n] = (uint8_t)whit_bin_profile(m, r, c / u->weights);
}

float whit_unit_round(const whit_mat *m, int64_t r, float s) {
	if (is_bin(m)) {
		float top = whit_bin_row_scale(m, r);
		return whit_frc_scale(top, whit_frc_q(top, s));
	}
	if (!m->spec.fmt->block && m->scale_f32) return s;
	return whit_f16_to_f32(whit_f32_to_f16(fminf(fmaxf(s, -65504), 65504)));
}

void whit_unit_scale(const whit_units *u, whit_mat *m, int64_t r, int64_t c, float s) {
	static const uint16_t none[8];
	uint8_t codes[WHIT_GRID_LONGEST] = {0};
	uint8_t *at = at_column(m, parameter_plane(m), r, (size_t)(c / u->weights) * parameter_bytes(m));
	if (is_bin(m))
		*at = (uint8_t)whit_frc_q(whit_bin_row_scale(m, r), s);
	else if (m->spec.fmt->block)
		m->spec.fmt->block->grid->pack(at, whit_f32_to_f16(s), none, codes);
	else
		whit_scale_put(m, r, c / u->weights, s);
}

void whit_unit_stretch(const whit_units *u, whit_mat *m, int64_t r, int64_t c, const double *by) {
	uint8_t *block = at_column(m, 0, r, (size_t)(c / u->weights) * parameter_bytes(m));
	for (int i = 0; i < u->stretches; i++) {
		double x = whit_f16_to_f32(whit_load_u16(block + u->at[i])) * by[i];
		uint16_t to = whit_f32_to_f16(fminf(fmaxf((float)x, -65504), 65504));
		memcpy(block + u->at[i], &to, sizeof to);
	}
}

void whit_unit_put(const whit_units *u, whit_mat *m, int64_t r, int64_t c, const uint8_t *k) {
	uint8_t packed[256] = {0}, *code = packed;
	if (m->spec.fmt->block) {
		uint8_t *to = at_column(m, 0, r, (size_t)(c / u->weights) * parameter_bytes(m));
		pack_codes(m->spec.fmt->block, packed, k);
		for (int i = 0; i < m->spec.fmt->block->bytes; i++)
			to[i] = (uint8_t)((to[i] & ~u->mask[i]) | (packed[i] & u->mask[i]));
		return;
	}
	int64_t size = whit_unit_size(u, m, c);
	if (size > (int64_t)sizeof packed) code = whit_alloc((size_t)size);
	for (int64_t i = 0; i < size; i++) code[i] = (uint8_t)code_of(m, k[i]);
	whit_codes_pack(at_column(m, 0, r, (size_t)whit_codes_bytes(c, m->spec.bits)), code, size, m->spec.bits);
	if (code != packed) whit_free(code);
}
