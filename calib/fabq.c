/* fabq: records to classes of rows and back; their codebooks. */
#include "calib/fabq.h"
#include <math.h>
#include "calib/feedback.h"
#include "calib/kmeans.h"
#include "calib/parts.h"
#include "calib/rows.h"
#include "formats/measure.h"

int whit_fabq_core_spec(whit_spec *core, const whit_spec *record, whit_err *e) {
	return whit_spec_parse(record->flags & WHIT_FRC_CORE8 ? WHIT_FABQ_CORE8_FORMAT : WHIT_FABQ_CORE_FORMAT, core,
	                       e);
}

/* Codes of a core row: of 4 bits a record has them plus 8, "int" in two's complement. */
static void core_codes(uint8_t *to, const uint8_t *from, const whit_frc *f) {
	int64_t cols = f->cols;
	if (f->flags & WHIT_FRC_CORE8) {
		memcpy(to, from, f->code_row);
		return;
	}
	for (int64_t i = 0; i < cols / 2; i++) to[i] = from[i] ^ 0x88;
	if (cols % 2) to[cols / 2] = from[cols / 2] ^ 0x08;
}

void whit_fabq_over(float *x, const float *t, int64_t n) {
	for (int64_t i = 0; i < n && t; i++) x[i] /= t[i];
}

static int make_part(whit_fabq_part *p, const whit_spec *spec, const whit_mat *m, const whit_weight *src, int core,
                     whit_err *e) {
	const whit_frc f = whit_frc_of(m);
	int64_t n = core ? f.core : f.binary, at = 0;
	p->row = whit_alloc((size_t)(n + 1) * sizeof *p->row);
	p->mat = (whit_mat){.spec = *spec, .rows = n, .cols = m->cols, .width = m->width, .rot = m->rot};
	p->mat.codebook = core ? NULL : m->codebook;
	if (n == 0) return 0;
	int rc = whit_mat_alloc(&p->mat, e);
	if (rc) return rc;
	for (int64_t r = 0; r < m->rows; r++)
		if (whit_frc_is_core(m->plane[0], r) == core) p->row[at++] = r;
	rc = whit_part_source(p, src, e);
	if (rc || !(f.flags & WHIT_FRC_BALANCE)) return rc;
	float *x = (float *)(uintptr_t)p->src.mat.plane[0], *t = whit_alloc((size_t)m->width * sizeof *t);
	whit_frc_balance(m, t);
	for (int64_t r = 0; r < n; r++) whit_fabq_over(x + r * m->cols, t, m->cols);
	whit_free(t);
	return 0;
}

static uint8_t *plane(const whit_mat *m, int p) { return (uint8_t *)(uintptr_t)m->plane[p]; }

int whit_fabq_split(whit_fabq_part part[WHIT_FABQ_PARTS], const whit_mat *m, const whit_weight *src, whit_err *e) {
	const whit_frc f = whit_frc_of(m);
	const whit_mat from = whit_frc_binary(m);
	whit_spec core_spec;
	memset(part, 0, WHIT_FABQ_PARTS * sizeof *part);
	int rc = whit_fabq_core_spec(&core_spec, &m->spec, e);
	if (!rc) rc = make_part(&part[WHIT_FABQ_BINARY], &from.spec, m, src, 0, e);
	if (!rc) rc = make_part(&part[WHIT_FABQ_CORE], &core_spec, m, src, 1, e);
	if (rc) return rc;
	for (int p = 0; p < WHIT_PLANES && f.binary && from.plane[p]; p++)
		memcpy(plane(&part[WHIT_FABQ_BINARY].mat, p), from.plane[p], (size_t)f.binary * from.row_bytes[p]);
	if (!f.core) return 0;
	const whit_mat *core = &part[WHIT_FABQ_CORE].mat;
	for (int64_t r = 0; r < f.core; r++)
		core_codes(plane(core, 0) + (size_t)r * f.code_row, m->plane[0] + f.codes + (size_t)r * f.code_row, &f);
	memcpy(plane(core, 1), m->plane[0] + f.scales, (size_t)(2 * f.core * f.groups));
	return 0;
}

int64_t whit_fabq_join(whit_mat *m, const whit_fabq_part part[WHIT_FABQ_PARTS]) {
	const whit_frc f = whit_frc_of(m);
	const whit_mat *binary = &part[WHIT_FABQ_BINARY].mat, *core = &part[WHIT_FABQ_CORE].mat,
	               to = whit_frc_binary(m);
	int64_t wide = (binary->scale_f32 ? f.binary : 0) + (core->scale_f32 ? f.core * f.groups : 0);
	if (wide) return wide;
	for (int p = 0; p < WHIT_PLANES && f.binary && to.plane[p]; p++)
		memcpy(plane(&to, p), binary->plane[p], (size_t)f.binary * to.row_bytes[p]);
	for (int64_t r = 0; r < f.core; r++)
		core_codes(plane(m, 0) + f.codes + (size_t)r * f.code_row, core->plane[0] + (size_t)r * f.code_row, &f);
	if (f.core) memcpy(plane(m, 0) + f.scales, core->plane[1], (size_t)(2 * f.core * f.groups));
	return 0;
}

void whit_part_free(whit_fabq_part *p) {
	if (!p->borrowed) whit_mat_free(&p->mat);
	whit_mat_free(&p->src.mat);
	whit_free(p->row);
	p->row = NULL;
}

void whit_fabq_free(whit_fabq_part part[WHIT_FABQ_PARTS]) {
	for (int i = 0; i < WHIT_FABQ_PARTS; i++) whit_part_free(&part[i]);
}

/* ---- codebooks ---- */

typedef struct training {
	const whit_fabq_source *s;
	int additive;
	int64_t block, points, at; /* points of this source; points before it */
	float *x, *w;
	double *square; /* points */
	uint8_t *bad;
} training;

/* Block i of n, of b columns and spread over all rows of dst, as src's rows, over t, are to be stored: where it stands
 * in *row, which the caller frees. NULL: its row is not sound. */
static const float *load_block(const whit_mat *src, const whit_mat *dst, const float *t, int64_t b, int64_t i,
                               int64_t n, float **row) {
	int64_t each = dst->width / b, pick = i * (dst->rows * each) / n, r = pick / each;
	float *x =
	        (*row = whit_alloc((size_t)(dst->width + WHIT_MAX(dst->width, src->cols)) * sizeof **row)) + dst->width;
	whit_rows_sum sum = {0};
	if (!whit_rows_load(src, dst, r, r + 1, x, *row, &sum)) return NULL;
	whit_fabq_over(*row, t, dst->width);
	return *row + pick % each * b;
}

static void training_item(void *ctx, int64_t i, int worker) {
	const training *t = ctx;
	int64_t b = t->block;
	float *row, *to = t->x + (t->at + i) * b;
	const float *w = load_block(&t->s->src->mat, &t->s->dst, t->s->balance, b, i, t->points, &row);
	(void)worker;
	t->bad[i] = !w;
	float s = t->bad[i] ? 0 : whit_bin_fit(w, NULL, NULL, b, NULL);
	t->square[i] = t->bad[i] ? 0 : whit_sum_squares_cpu(w, NULL, b);
	for (int64_t k = 0; k < b; k++) {
		float rest = s > 0 ? fabsf(w[k]) / s - 1 : 0;
		to[k] = t->additive && s > 0 ? w[k] - copysignf(s, w[k]) : rest;
		t->w[(t->at + i) * b + k] = t->additive ? 1 : s * s;
	}
	whit_free(row);
}

/* Weights over the source's mean square, so that all sources count alike. */
static void level(training *t) {
	double mean = 0;
	for (int64_t i = 0; i < t->points; i++) mean += t->square[i] / (double)(t->points * t->block);
	for (int64_t i = 0; i < t->points * t->block && mean > 0; i++)
		t->w[t->at * t->block + i] = (float)(t->w[t->at * t->block + i] / mean);
}

/* Centroids as the file has them. */
static void to_codes(whit_frc_book *b, const float *c) {
	int64_t n = WHIT_FRC_PROFILES * b->block;
	float most = 0;
	for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(c[i]));
	uint16_t step = whit_f32_to_f16(most / 127);
	if (most / 127 > whit_f16_to_f32(step)) step++;
	b->step = whit_f16_to_f32(step);
	for (int64_t i = 0; i < n && b->step > 0; i++) {
		float code = rintf(c[i] / b->step);
		while (b->step * code < -1) code++;
		b->code[i] = (int8_t)code;
	}
}

int whit_fabq_train(whit_frc_book *b, const whit_fabq_source *s, int64_t n, uint64_t seed, whit_dev *dev, whit_err *e) {
	training t = {.block = b->block, .additive = b->offset != NULL};
	int64_t all = 0;
	int rc = 0;
	for (int64_t i = 0; i < n; i++) all += s[i].dst.rows * (s[i].dst.width / b->block);
	int64_t room = WHIT_MIN(all, WHIT_FABQ_POINTS) + n;
	t.x = whit_alloc((size_t)(2 * room * b->block) * sizeof *t.x);
	t.w = t.x + room * b->block;
	t.square = whit_alloc((size_t)room * sizeof *t.square);
	t.bad = whit_alloc((size_t)room);
	for (int64_t i = 0; i < n && !rc; i++) {
		t.s = &s[i];
		int64_t blocks = s[i].dst.rows * (s[i].dst.width / b->block);
		t.points = all > WHIT_FABQ_POINTS ? (int64_t)((double)blocks / (double)all * WHIT_FABQ_POINTS) : blocks;
		whit_parallel(t.points, training_item, &t);
		for (int64_t k = 0; k < t.points && !rc; k++)
			if (t.bad[k]) rc = whit_weight_finite(s[i].src, e);
		level(&t);
		t.at += t.points;
		if (!rc) rc = whit_interrupted(e);
	}
	/* The profile of zeros stays out of it: in so many dimensions it is nearer to nearly all points than any seed
	 * is, and clusters that begin as one point would stay one point. */
	float *c = whit_alloc((size_t)(WHIT_FRC_PROFILES * b->block) * sizeof *c);
	const whit_kmeans_opts o = {.k = WHIT_FRC_PROFILES - 1, .seed = seed};
	whit_kmeans_result r;
	if (!rc && t.at) rc = whit_kmeans(c + b->block, &o, t.x, t.w, t.at, b->block, dev, &r, e);
	if (!rc && b->offset) memcpy(b->offset, c, (size_t)(WHIT_FRC_PROFILES * b->block) * sizeof *c);
	if (!rc && b->code) to_codes(b, c);
	whit_free(c);
	whit_free(t.x);
	whit_free(t.square);
	whit_free(t.bad);
	return rc;
}

/* ---- which profiles of the codebook a matrix chooses from ---- */

enum { BLOCKS = 4096 }; /* that tell */

typedef struct sampled {
	const whit_job *j;
	int64_t n;
	double (*gain)[WHIT_FRC_PROFILES]; /* squared error that each block loses under each profile */
} sampled;

static void sampled_item(void *ctx, int64_t i, int worker) {
	const sampled *s = ctx;
	const whit_mat *dst = s->j->dst;
	int64_t b = dst->spec.group;
	float *row, *factor = whit_alloc((size_t)b * sizeof *factor);
	const float *w = load_block(&s->j->src->mat, dst, s->j->balance, b, i, s->n, &row);
	(void)worker;
	for (int k = 0; k < WHIT_FRC_PROFILES && w; k++) {
		const float *imp = s->j->feedback->h_diag + (w - row);
		whit_frc_profile(dst->book, k, factor);
		if (dst->book->offset)
			whit_bin_fit_additive(w, imp, factor, b, &s->gain[i][k]);
		else
			whit_bin_fit(w, imp, factor, b, &s->gain[i][k]);
	}
	whit_free(factor);
	whit_free(row);
}

void whit_fabq_profiles(const whit_job *j, uint8_t id[WHIT_FRC_CHOICES]) {
	sampled s = {.j = j, .n = WHIT_MIN(j->dst->rows * (j->dst->width / j->dst->spec.group), BLOCKS)};
	s.gain = whit_alloc((size_t)(s.n + 1) * sizeof *s.gain);
	double *most = whit_alloc((size_t)(s.n + 1) * sizeof *most);
	whit_parallel(s.n, sampled_item, &s);
	memset(id, 0, WHIT_FRC_CHOICES);
	for (int k = 0; k < WHIT_FRC_CHOICES; k++) {
		double best = 0;
		for (int c = 1; c < WHIT_FRC_PROFILES && k > 0; c++) {
			double more = 0;
			for (int64_t i = 0; i < s.n; i++) more += fmax(s.gain[i][c] - most[i], 0);
			if (more > best) best = more, id[k] = (uint8_t)c;
		}
		for (int64_t i = 0; i < s.n; i++) most[i] = fmax(most[i], s.gain[i][id[k]]);
	}
	whit_free(most);
	whit_free(s.gain);
}
