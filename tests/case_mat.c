#include "tests/case_mat.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "formats/blocks.h"

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
	for (int p = 0; p < planes; p++) {
		m.plane[p] = case_random(r, (size_t)rows * d[p].row_bytes + 1);
		m.row_bytes[p] = d[p].row_bytes;
	}
	if (!finite) return m;
	/* scales of codes: from 2^-8 to 1; whole blocks are drawn until they are tame */
	if (planes > 1)
		for (size_t i = 0; i + 1 < (size_t)rows * m.row_bytes[1]; i += 2) {
			uint8_t *s = (uint8_t *)(uintptr_t)m.plane[1] + i + 1;
			*s = (uint8_t)((*s & 0x80) | (0x1c + (*s & 0x1f)));
		}
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
		if (m->plane[p]) d.plane[p] = case_in(r, m->plane[p], (size_t)m->rows * m->row_bytes[p]);
	if (m->codebook) d.codebook = case_in(r, m->codebook, ((size_t)1 << m->spec.bits) * sizeof(float));
	return d;
}
