/* fabq: records to classes of rows and back. */
#include "calib/fabq.h"

/* Codes of a core row: a record has them plus 8, "int" in two's complement. */
static void core_codes(uint8_t *to, const uint8_t *from, int64_t cols) {
	for (int64_t i = 0; i < cols / 2; i++) to[i] = from[i] ^ 0x88;
	if (cols % 2) to[cols / 2] = from[cols / 2] ^ 0x08;
}

static int make_part(whit_fabq_part *p, const char *format, const whit_mat *m, const whit_weight *src, int core,
                     whit_err *e) {
	const whit_frc f = whit_frc_of(m);
	int64_t n = core ? f.core : f.binary, at = 0;
	p->row = whit_alloc((size_t)(n + 1) * sizeof *p->row);
	p->mat = (whit_mat){.rows = n, .cols = m->cols, .width = m->width, .rot = m->rot};
	int rc = whit_spec_parse(format, &p->mat.spec, e);
	if (rc || n == 0) return rc;
	if ((rc = whit_mat_alloc(&p->mat, e))) return rc;
	p->src = *src;
	p->src.mat = (whit_mat){.rows = n, .cols = m->cols, .width = m->cols};
	rc = whit_spec_parse("f32", &p->src.mat.spec, e);
	if (!rc) rc = whit_mat_alloc(&p->src.mat, e);
	if (rc) return rc;
	float *x = (float *)(uintptr_t)p->src.mat.plane[0];
	for (int64_t r = 0; r < m->rows; r++) {
		if (whit_frc_is_core(m->plane[0], r) != core) continue;
		p->row[at] = r;
		whit_mat_decode(&src->mat, r, r + 1, x + at++ * m->cols);
	}
	return 0;
}

static uint8_t *plane(const whit_mat *m, int p) { return (uint8_t *)(uintptr_t)m->plane[p]; }

int whit_fabq_split(whit_fabq_part part[WHIT_FABQ_PARTS], const whit_mat *m, const whit_weight *src, whit_err *e) {
	const whit_frc f = whit_frc_of(m);
	const whit_mat from = whit_frc_binary(m);
	char name[32];
	memset(part, 0, WHIT_FABQ_PARTS * sizeof *part);
	whit_spec_name(&from.spec, name);
	int rc = make_part(&part[WHIT_FABQ_BINARY], name, m, src, 0, e);
	if (!rc) rc = make_part(&part[WHIT_FABQ_CORE], WHIT_FABQ_CORE_FORMAT, m, src, 1, e);
	if (rc) return rc;
	for (int p = 0; p < 3 && f.binary; p++)
		memcpy(plane(&part[WHIT_FABQ_BINARY].mat, p), from.plane[p], (size_t)f.binary * from.row_bytes[p]);
	if (!f.core) return 0;
	const whit_mat *core = &part[WHIT_FABQ_CORE].mat;
	for (int64_t r = 0; r < f.core; r++)
		core_codes(plane(core, 0) + (size_t)r * f.code_row, m->plane[0] + f.codes + (size_t)r * f.code_row,
		           m->width);
	memcpy(plane(core, 1), m->plane[0] + f.scales, (size_t)(2 * f.core * f.groups));
	return 0;
}

int64_t whit_fabq_join(whit_mat *m, const whit_fabq_part part[WHIT_FABQ_PARTS]) {
	const whit_frc f = whit_frc_of(m);
	const whit_mat *binary = &part[WHIT_FABQ_BINARY].mat, *core = &part[WHIT_FABQ_CORE].mat,
	               to = whit_frc_binary(m);
	int64_t wide = (binary->scale_f32 ? f.binary : 0) + (core->scale_f32 ? f.core * f.groups : 0);
	if (wide) return wide;
	for (int p = 0; p < 3 && f.binary; p++)
		memcpy(plane(&to, p), binary->plane[p], (size_t)f.binary * to.row_bytes[p]);
	for (int64_t r = 0; r < f.core; r++)
		core_codes(plane(m, 0) + f.codes + (size_t)r * f.code_row, core->plane[0] + (size_t)r * f.code_row,
		           m->width);
	if (f.core) memcpy(plane(m, 0) + f.scales, core->plane[1], (size_t)(2 * f.core * f.groups));
	return 0;
}

void whit_fabq_free(whit_fabq_part part[WHIT_FABQ_PARTS]) {
	for (int i = 0; i < WHIT_FABQ_PARTS; i++) {
		whit_mat_free(&part[i].mat);
		whit_mat_free(&part[i].src.mat);
		whit_free(part[i].row);
		part[i].row = NULL;
	}
}
