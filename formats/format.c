#include "formats/format.h"
#include <stdio.h>
#include <stdlib.h>
#include "formats/frc1.h"

#define FORMAT(name) extern const whit_format whit_format_##name;
#include "formats/formats.def"
#undef FORMAT

#define FORMAT(name) &whit_format_##name,
const whit_format *const whit_formats[] = {
#include "formats/formats.def"
        NULL};
#undef FORMAT

int whit_spec_parse(const char *name, whit_spec *spec, whit_err *e) {
	for (int i = 0; whit_formats[i]; i++)
		if (!whit_formats[i]->parse(name, spec)) return 0;
	char known[512];
	size_t n = 0;
	for (int i = 0; whit_formats[i] && n < sizeof known; i++) {
		const whit_format *f = whit_formats[i]; /* one without parameters is written as it is called */
		n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? "; " : "",
		                      f->record || f->parse(f->name, spec) ? f->help : f->name);
	}
	return whit_fail(e, WHIT_EUSAGE, "format \"%.64s\": is unknown, need one of: %s", name, known);
}

void whit_spec_resolve(whit_spec *s, int64_t cols) {
	if (s->group != WHIT_GROUP_AUTO) return;
	s->group = cols % 256 == 0 ? 256 : cols == 64 ? 64 : 128;
}

int64_t whit_spec_bytes(const whit_spec *s, int64_t rows, int64_t width, int scale_f32, whit_err *e) {
	whit_plane_desc d[WHIT_PLANES];
	int64_t sum = 0, one;
	int n = s->fmt->planes(s, width, scale_f32, d, e);
	if (n < 0) return -1;
	int large = 0;
	if (s->fmt->record)
		large = (sum = s->fmt->record(s, rows, width)) < 0;
	else
		for (int i = 0; i < n; i++)
			large |= __builtin_mul_overflow(rows, (int64_t)d[i].row_bytes, &one) ||
			         __builtin_add_overflow(sum, one, &sum);
	if (!large) return sum;
	whit_fail(e, WHIT_EINPUT, "matrix of %lld x %lld: is larger than memory can be", (long long)rows,
	          (long long)width);
	return -1;
}

/* Rows that are decoded before they are rotated back: enough to amortise, few enough to stay in cache. */
enum { DECODE_ROWS = 16 };

void whit_mat_decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	if (m->paired) { /* never with a rotation: only GGUF has both orders */
		for (int64_t r = r0; r < r1; r++) {
			int64_t at = whit_mat_row(m, r);
			m->spec.fmt->decode(m, at, at + 1, out + (r - r0) * m->cols);
		}
		return;
	}
	if (!m->rot) {
		m->spec.fmt->decode(m, r0, r1, out);
		return;
	}
	float *tmp = whit_alloc((size_t)(DECODE_ROWS * m->width) * sizeof(float));
	for (int64_t r = r0; r < r1; r += DECODE_ROWS) {
		int64_t n = WHIT_MIN(DECODE_ROWS, r1 - r);
		m->spec.fmt->decode(m, r, r + n, tmp);
		whit_unrotate_cpu(m->rot, out + (r - r0) * m->cols, tmp, n);
	}
	whit_free(tmp);
}

size_t whit_mat_book_bytes(const whit_mat *m) {
	size_t floats = m->spec.flags & WHIT_FRC_BOOK ? (size_t)(whit_frc_choices(&m->spec) * m->spec.group)
	                                              : (size_t)1 << m->spec.bits;
	return m->codebook ? floats * sizeof(float) : 0;
}

int whit_mat_alloc(whit_mat *m, whit_err *e) {
	whit_plane_desc d[WHIT_PLANES];
	int n = m->spec.fmt->planes(&m->spec, m->width, m->scale_f32, d, e);
	if (n < 0 || whit_spec_bytes(&m->spec, m->rows, m->width, m->scale_f32, e) < 0) return e->code;
	for (int i = 0; i < WHIT_PLANES; i++) {
		m->row_bytes[i] = i < n ? d[i].row_bytes : 0;
		m->plane[i] = i < n ? whit_alloc(whit_plane_bytes(m, i)) : NULL;
	}
	return 0;
}

void whit_mat_free(whit_mat *m) {
	for (int i = 0; i < WHIT_PLANES; i++) {
		whit_free((void *)m->plane[i]);
		m->plane[i] = NULL;
	}
}

enum { FLOAT_ROWS = 64 }; /* of an item */

typedef struct floats_job {
	whit_mat *to;
	const whit_mat *m;
} floats_job;

static void floats_item(void *ctx, int64_t i, int worker) {
	const floats_job *j = ctx;
	int64_t r0 = i * FLOAT_ROWS, r1 = WHIT_MIN(r0 + FLOAT_ROWS, j->to->rows);
	float *out = (float *)(uintptr_t)j->to->plane[0]; /* whit_mat_alloc's planes are ours to write */
	(void)worker;
	whit_mat_decode(j->m, r0, r1, out + r0 * j->to->cols);
}

int whit_mat_floats(whit_mat *to, const whit_mat *m, whit_err *e) {
	floats_job j = {to, m};
	*to = (whit_mat){.rows = m->rows, .cols = m->cols, .width = m->cols};
	int rc = whit_spec_parse("f32", &to->spec, e);
	if (!rc) rc = whit_mat_alloc(to, e);
	if (!rc) whit_parallel((to->rows + FLOAT_ROWS - 1) / FLOAT_ROWS, floats_item, &j);
	return rc;
}

int whit_parse_number(const char **s) {
	if (**s < '1' || **s > '9') return -1;
	char *end;
	long v = strtol(*s, &end, 10);
	if (v > 65536) return -1;
	*s = end;
	return (int)v;
}
