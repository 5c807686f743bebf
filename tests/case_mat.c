#include "tests/case_mat.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "formats/blocks.h"
#include "formats/frc1.h"
#include "formats/twin.h"
#include "formats/vp1.h"

static whit_spec spec_of(const char *name) {
	whit_spec s;
	whit_err e = {0};
	if (whit_spec_parse(name, &s, &e)) {
		printf("%s\n", e.text);
		abort();
	}
	return s;
}

int64_t case_mat_width(const char *name, int64_t about) {
	whit_spec s = spec_of(name);
	int64_t unit = s.fmt->block ? s.fmt->block->weights : s.fmt->needs_codebook && s.group > 0 ? s.group : 1;
	return WHIT_MAX(unit, (about + unit / 2) / unit * unit);
}

static int tame(const whit_mat *m, int64_t r, float *w) {
	m->spec.fmt->decode(m, r, r + 1, w);
	for (int64_t i = 0; i < m->width; i++)
		if (!(fabsf(w[i]) <= 1000)) return 0;
	return 1;
}

/* n F16: from 2^-8 to 1. */
static void tame_scales(const uint8_t *p, int64_t n) {
	for (int64_t i = 0; i < n; i++) {
		uint8_t *s = (uint8_t *)(uintptr_t)p + 2 * i + 1;
		*s = (uint8_t)((*s & 0x80) | (0x1c + (*s & 0x1f)));
	}
}

/* A record of random bytes in all sections, every third row core as far as there are. */
static void random_record(case_run *r, whit_mat *m, int finite) {
	const whit_frc f = whit_frc_of(m);
	uint8_t *p = case_random(r, f.bytes), *at;
	int64_t *core = case_host(r, (size_t)(f.core + 1) * sizeof *core);
	whit_mat empty = *m;
	uint8_t id[WHIT_FRC_CHOICES] = {0};
	if (f.flags & WHIT_FRC_BOOK) { /* as loaders do: factors of profiles, zeros among them */
		int n = whit_frc_choices(&m->spec), wide = f.flags & WHIT_FRC_WIDE;
		whit_frc_book *b =
		        whit_frc_book_in(case_host(r, whit_frc_book_size(f.block, f.flags)), f.block, 0, f.flags);
		float *factors = case_host(r, (size_t)(n * f.block) * sizeof *factors),
		      *x = case_normal(r, WHIT_FRC_PROFILES * f.block);
		b->step = 0x1p-7f;
		for (int64_t i = 0; i < WHIT_FRC_PROFILES * f.block; i++) {
			float v = i < f.block ? 0 : x[i];
			if (b->offset) b->offset[i] = v;
			if (b->code) b->code[i] = (int8_t)(v * 40);
		}
		for (int i = 1; i < WHIT_FRC_CHOICES; i++) id[i] = (uint8_t)(4 * i - 1);
		whit_frc_factors(b, wide ? NULL : id, n, factors);
		m->book = empty.book = b, m->codebook = factors;
	}
	for (int64_t i = 0; i < f.core; i++) core[i] = i * f.rows / f.core;
	empty.plane[0] = at = case_host(r, f.bytes);
	whit_frc_begin(&empty, core, id);
	memcpy(p, at, f.t);
	for (size_t i = f.k; i < f.signs && f.flags & WHIT_FRC_WIDE; i++) p[i] &= WHIT_FRC_PROFILES - 1;
	if (finite && f.flags & WHIT_FRC_BALANCE) tame_scales(p + f.t, f.cols);
	if (finite) tame_scales(p + f.r, f.binary);
	if (finite) tame_scales(p + f.scales, f.core * f.groups);
	m->plane[0] = p;
}

/* The same of a record of five classes, dealt out in turn as far as there are. */
static void random_vp(case_run *r, whit_mat *m, int finite) {
	size_t bytes = whit_plane_bytes(m, 0);
	uint8_t *p = case_random(r, bytes), *empty = case_host(r, bytes), *code = case_host(r, (size_t)m->rows);
	int64_t left[WHIT_VP_CLASSES], zero = 0;
	for (int c = 0; c < WHIT_VP_CLASSES; c++) left[c] = whit_vp_rows(&m->spec, m->rows, c);
	for (int64_t i = 0, c = 0; i < m->rows; i++, c++) {
		while (!left[c % WHIT_VP_CLASSES]) c++;
		left[c % WHIT_VP_CLASSES]--, code[i] = (uint8_t)(c % WHIT_VP_CLASSES);
	}
	m->plane[0] = empty;
	whit_vp_begin(m, code);
	memcpy(p, empty, whit_vp_layout(&m->spec, m->rows, m->width, 0).at[0]);
	m->plane[0] = p;
	for (int c = 0; c < WHIT_VP_CLASSES && finite; c++) {
		whit_mat of = whit_vp_view(m, c);
		int scales = c == WHIT_VP_BINARY ? 2 : 1;
		float *x = case_normal(r, of.rows * of.width);
		for (int64_t k = 0; k < of.rows && c == WHIT_VP_F16; k++)
			of.spec.fmt->encode(&of, k, x + k * of.width, NULL, 0, &zero);
		if (c != WHIT_VP_F16) tame_scales(of.plane[scales], of.rows * (int64_t)of.row_bytes[scales] / 2);
	}
}

whit_mat case_mat(case_run *r, const char *name, int64_t rows, int64_t width, int finite) {
	whit_mat m = {.spec = spec_of(name), .rows = rows, .cols = width, .width = width};
	whit_plane_desc d[WHIT_PLANES];
	whit_err e = {0};
	/* every weight of a row may be bad, so rows are put together from pieces that have one scale or few */
	float *w = case_host(r, (size_t)(width + 1) * sizeof *w), *book = case_normal(r, 256);
	m.codebook = m.spec.fmt->needs_codebook ? book : NULL;
	int planes = m.spec.fmt->planes(&m.spec, width, 0, d, &e);
	if (planes < 0) {
		printf("%s\n", e.text);
		abort();
	}
	if (m.spec.fmt->record) {
		(m.spec.fmt == &whit_format_vp ? random_vp : random_record)(r, &m, finite);
		return m;
	}
	for (int p = 0; p < planes; p++) {
		m.plane[p] = case_random(r, (size_t)rows * d[p].row_bytes + 1);
		m.row_bytes[p] = d[p].row_bytes;
	}
	if (!finite) return m;
	if (planes > 1) tame_scales(m.plane[planes - 1], rows * (int64_t)m.row_bytes[planes - 1] / 2);
	const whit_block *b = m.spec.fmt->block;
	for (int64_t i = 0; b && i < rows * width / b->weights; i++) {
		uint8_t *at = (uint8_t *)(uintptr_t)m.plane[0] + i * b->bytes;
		whit_mat one = {.spec = m.spec, .width = b->weights, .plane = {at}, .row_bytes = {(size_t)b->bytes}};
		while (!tame(&one, 0, w)) memcpy(at, case_random(r, (size_t)b->bytes), (size_t)b->bytes);
	}
	if (!b && planes == 1) { /* floats */
		float *x = case_normal(r, rows * width);
		int64_t zero = 0;
		for (int64_t k = 0; k < rows; k++) m.spec.fmt->encode(&m, k, x + k * width, NULL, 0, &zero);
	}
	return m;
}

whit_mat case_mat_in(case_run *r, const whit_mat *m) {
	whit_mat d = *m;
	for (int p = 0; p < WHIT_PLANES; p++)
		if (m->plane[p]) d.plane[p] = case_in(r, m->plane[p], whit_plane_bytes(m, p));
	whit_mat_mirror(&d);
	if (m->codebook) d.codebook = case_in(r, m->codebook, whit_mat_book_bytes(m));
	return d;
}

int case_mat_packed(const whit_mat *m, int64_t T) {
	const char *name = m->spec.fmt->name;
	return T <= 128 && (!strcmp(name, "tq") || !strcmp(name, "int") || !strcmp(name, "q4_k") ||
	                   !strcmp(name, "q5_k") || !strcmp(name, WHIT_TWIN_Q6_K));
}

/* Levels of a table are F16, within 2^-12, and x two F16, within 2^-23. Others are codes less an offset, so that sums
 * hold up to twice the largest weight; of K products, 16 to an mma, whose sums may be cut off at 2^-23 each, and 8
 * warps'. */
float *case_mat_packed_bound(case_run *r, const whit_mat *m, const float *x, const float *mag, int64_t T) {
	float *w = case_host(r, (size_t)m->width * sizeof *w);
	float *bound = case_host(r, (size_t)(T * m->rows) * sizeof *bound);
	for (int64_t k = 0; k < m->rows; k++) {
		double top = 0;
		whit_mat_decode(m, k, k + 1, w);
		for (int64_t c = 0; c < m->width; c++) top = fmax(top, fabs((double)w[c]));
		for (int64_t t = 0; t < T; t++) {
			double sum = 0;
			for (int64_t c = 0; c < m->width; c++) sum += fabs((double)x[t * m->width + c]);
			bound[t * m->rows + k] = (float)(mag[t * m->rows + k] * 0x1p-12 +
			                                 2 * top * sum * ((double)m->width / 16 + 16) * 0x1p-23);
		}
	}
	return bound;
}
