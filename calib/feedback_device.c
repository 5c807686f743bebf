/* feedback on a device: formats of one scale a unit (tq, int, blocks such as q4_0), gptq and gptaq. The host walks
 * blocks and units as run_blocked of feedback.c does; what it queues works on a strip of rows. Inside a block the CPU's
 * bits; behind blocks products add up in another order, so that codes of values that lie all but equally near to two
 * levels may differ. */
#include "calib/feedback_own.h"
#include "calib/rows.h"
#include "cuda/dev.h"
#include "formats/blocks.h"
#include "formats/codes.h"
#include "formats/grid.h"
#include "host/ops.h"
#include "host/progress.h"

enum { BLOCK = 128 };
/* Device memory of a strip's rows, where there is as much; left to scratch and cuBLAS. */
static const int64_t STRIP_BYTES = 1ll << 30, REST = 64 << 20;

typedef struct strip {
	whit_job *j;
	whit_dev *d;
	const whit_units *u;
	const whit_block *block; /* units are blocks of ggml's, NULL = groups */
	int64_t scale_at;        /* where in a block its scale is */
	int64_t rows, n, units;  /* rows of this strip */
	uint8_t *room, *matrices;
	/* device: of the input; of the rows */
	float *r, *up, *pass, *target, *h_diag, *table;
	float *w, *t, *v, *err, *y, *unit, *best;
	float *unit_scale;       /* (rows, units): of blocks */
	uint8_t *level, *scales; /* scales: of a unit that is tried, 4 bytes a row */
	double *loss, *nearest, *least, *tried;
	int64_t *count;       /* of the nearest codes, then of all fits */
	whit_mat dst, saved;  /* (rows, n): chosen; nearest */
	uint8_t *tried_codes; /* of a unit, whose codes have no use */
	/* host */
	float *host_w, *x;
	double *host_loss; /* chosen, nearest */
} strip;

/* Where a block's bytes are its scale, an F16; -1: nowhere. */
static int64_t scale_place(const whit_block *b) {
	static const uint16_t none[8];
	static const uint8_t codes[WHIT_GRID_LONGEST];
	uint8_t one[256] = {0}, two[256] = {0};
	b->grid->pack(one, 0x1234, none, codes);
	b->grid->pack(two, 0x5678, none, codes);
	for (int64_t i = 0; i + 1 < b->bytes; i++)
		if (one[i] == 0x34 && one[i + 1] == 0x12 && two[i] == 0x78 && two[i + 1] == 0x56) return i;
	return -1;
}

int whit_feedback_device_takes(const whit_job *j, const whit_units *u) {
	const whit_feedback *f = j->feedback;
	const char *name = j->dst->spec.fmt->name;
	const whit_block *b = j->dst->spec.fmt->block;
	int one = b ? b->grid && whit_units_scaled(j->dst) && scale_place(b) >= 0
	            : !strcmp(name, "tq") || !strcmp(name, "int");
	return j->solver && one && !f->order && (f->kind == WHIT_FEEDBACK_GPTQ || f->kind == WHIT_FEEDBACK_GPTAQ) &&
	       u->count <= 256;
}

static int64_t lay_matrices(strip *s, uint8_t *room) {
	const whit_feedback *f = s->j->feedback;
	int64_t at = 0, square = s->n * s->n * 4;
	s->r = whit_rows_piece(room, &at, square);
	s->up = whit_rows_piece(room, &at, square);
	s->pass = f->pass ? whit_rows_piece(room, &at, square) : NULL;
	s->target = f->target ? whit_rows_piece(room, &at, square) : NULL;
	s->h_diag = whit_rows_piece(room, &at, s->n * 4);
	s->table = whit_rows_piece(room, &at, 512 * 4);
	s->count = whit_rows_piece(room, &at, 4 * 8);
	return at;
}

static int64_t lay_rows(strip *s, uint8_t *room, int64_t rows) {
	const whit_mat *dst = s->j->dst;
	int64_t at = 0, values = rows * s->n * 4, unit = rows * WHIT_MIN(s->u->weights, s->n) * 4;
	s->w = whit_rows_piece(room, &at, values);
	s->t = s->j->feedback->target ? whit_rows_piece(room, &at, values) : s->w;
	s->v = whit_rows_piece(room, &at, values);
	s->err = whit_rows_piece(room, &at, values);
	s->y = whit_rows_piece(room, &at, values);
	s->level = whit_rows_piece(room, &at, rows * s->n);
	s->unit = whit_rows_piece(room, &at, unit);
	s->unit_scale = s->block ? whit_rows_piece(room, &at, rows * s->units * 4) : NULL;
	s->tried_codes = whit_rows_piece(room, &at, unit);
	s->scales = whit_rows_piece(room, &at, rows * 4);
	s->best = whit_rows_piece(room, &at, rows * 4);
	s->loss = whit_rows_piece(room, &at, rows * 8);
	s->nearest = whit_rows_piece(room, &at, rows * 8);
	s->least = whit_rows_piece(room, &at, rows * 8);
	s->tried = whit_rows_piece(room, &at, rows * 8);
	s->dst = s->saved = *dst;
	s->dst.paired = s->saved.paired = 0; /* rows are put in their places on the host */
	for (int p = 0; p < 2 && dst->row_bytes[p]; p++) {
		s->dst.plane[p] = whit_rows_piece(room, &at, rows * (int64_t)dst->row_bytes[p]);
		s->saved.plane[p] = whit_rows_piece(room, &at, rows * (int64_t)dst->row_bytes[p]);
	}
	return at;
}

/* ---- a strip ---- */

/* loss[r] = |(y - t) R|^2 of what m decodes to, or (NULL) of the levels chosen; y and err are overwritten. */
static void losses(strip *s, const whit_mat *m, double *loss) {
	if (m)
		whit_rows_decode_cuda(s->d, m, 0, s->rows, s->y);
	else
		whit_columns_values_cuda(s->d, s->y, s->level, s->unit_scale, s->table, s->rows, s->n, s->u->weights);
	whit_subtract_cuda(s->d, s->err, s->y, s->t, s->rows * s->n);
	whit_dev_mul(s->d, s->y, s->n, s->err, s->n, 0, s->r, s->n, 0, s->rows, s->n, s->n, 0);
	whit_row_squares_cuda(s->d, loss, s->y, s->rows, s->n, s->n);
}

static whit_columns columns(const strip *s, int64_t from, int64_t to, int64_t end) {
	return (whit_columns){.v = s->v,
	                      .err = s->err,
	                      .level = s->level,
	                      .loss = s->loss,
	                      .scale = s->best,
	                      .u = s->up,
	                      .pass = s->pass,
	                      .table = s->table,
	                      .count = s->u->count,
	                      .even = s->u->even,
	                      .rows = s->rows,
	                      .n = s->n,
	                      .from = from,
	                      .to = to,
	                      .end = end};
}

/* The scale of the unit at column `at` for its weights in s->unit: into s->scales. */
static void fit(strip *s, int64_t at, int64_t size) {
	whit_mat m = s->dst;
	if (!s->block) m.spec.group = (int)size;
	m.rows = s->rows, m.cols = m.width = size;
	m.plane[0] = s->tried_codes;
	m.row_bytes[0] = s->block ? (size_t)s->block->bytes : (size_t)whit_codes_bytes(size, m.spec.bits);
	m.plane[1] = s->scales, m.row_bytes[1] = m.scale_f32 ? 4 : 2;
	whit_rows_encode_cuda(s->d, &m, 0, s->rows, s->unit, s->h_diag + at, s->j->rule, s->count + 2);
}

/* fit_unit of feedback.c: s->best is the scale that served each row best. */
static void fit_unit(strip *s, int64_t at, int64_t end) {
	enum { ROUNDS = 3 };
	int64_t size = whit_unit_size(s->u, &s->dst, at), scale_bytes = s->dst.scale_f32 ? 4 : 2, step;
	/* where a trial leaves its scales */
	const uint8_t *scales = s->block ? s->tried_codes + s->scale_at : s->scales;
	step = s->block ? s->block->bytes : scale_bytes;
	whit_columns_take_cuda(s->d, s->unit, s->v + at, s->rows, s->n, size);
	for (int round = 0; round < ROUNDS; round++) {
		fit(s, at, size);
		if (at + size > end) { /* a unit of several blocks: its columns' turns come too late */
			whit_columns_better_cuda(s->d, s->best, NULL, scales, step, s->dst.scale_f32, NULL, s->rows);
			break;
		}
		whit_columns a = columns(s, at, at + size, at + size);
		float *tried_scale = s->y; /* free while columns are rounded */
		whit_columns_better_cuda(s->d, tried_scale, NULL, scales, step, s->dst.scale_f32, NULL, s->rows);
		a.scale = tried_scale;
		a.turn = s->unit;
		a.loss = round ? s->tried : s->least;
		whit_columns_cuda(s->d, &a);
		whit_columns_better_cuda(s->d, s->best, s->least, scales, step, s->dst.scale_f32,
		                         round ? s->tried : NULL, s->rows);
	}
	if (s->block)
		whit_columns_scale_cuda(s->d, (uint8_t *)(s->unit_scale + at / size), s->units * 4, 1, s->best,
		                        s->rows);
	else
		whit_columns_scale_cuda(s->d, (uint8_t *)(uintptr_t)s->dst.plane[1] + at / s->u->weights * scale_bytes,
		                        (int64_t)s->dst.row_bytes[1], s->dst.scale_f32, s->best, s->rows);
}

static void run_blocked(strip *s) {
	const whit_feedback *f = s->j->feedback;
	int64_t n = s->n, unit = s->u->weights, block = unit > BLOCK && unit <= 2 * BLOCK ? unit : BLOCK;
	whit_dev_copy(s->d, s->v, f->pass ? s->w : s->t, (size_t)(s->rows * n) * 4);
	whit_dev_zero(s->d, s->loss, (size_t)s->rows * 8);
	for (int64_t b = 0, end; b < n; b = end) {
		end = WHIT_MIN(n, b + block);
		for (int64_t j = b, to; j < end; j = to) {
			to = WHIT_MIN(end, j + unit - j % unit);
			if (j % unit == 0) fit_unit(s, j, end);
			const whit_columns a = columns(s, j, to, end);
			whit_columns_cuda(s->d, &a);
		}
		whit_dev_mul(s->d, s->v + end, n, s->err + b, n, 0, s->up + b * n + end, n, 0, s->rows, n - end,
		             end - b, 1);
		if (f->pass)
			whit_dev_mul(s->d, s->v + end, n, s->v + b, n, 0, s->pass + b * n + end, n, 0, s->rows, n - end,
			             end - b, 1);
	}
	if (s->block) return; /* packed on the host */
	whit_columns_pack_cuda(s->d, (uint8_t *)(uintptr_t)s->dst.plane[0], s->level, s->rows, n, s->dst.spec.bits,
	                       s->dst.codebook ? 0 : 1 << (s->dst.spec.bits - 1));
}

static void solve(strip *s) {
	const whit_feedback *f = s->j->feedback;
	int64_t n = s->n;
	whit_dev_put(s->d, s->w, s->host_w, (size_t)(s->rows * n) * 4);
	if (f->target) whit_dev_mul(s->d, s->t, n, s->w, n, 0, s->target, n, 0, s->rows, n, n, 0);
	whit_rows_encode_cuda(s->d, &s->saved, 0, s->rows, s->w, s->h_diag, s->j->rule, s->count);
	losses(s, &s->saved, s->nearest);
	run_blocked(s);
	if (f->pass) losses(s, s->block ? NULL : &s->dst, s->loss); /* gptaq's recursion has another sum */
	whit_dev_get(s->d, s->host_loss, s->loss, (size_t)s->rows * 8);
	whit_dev_get(s->d, s->host_loss + s->rows, s->nearest, (size_t)s->rows * 8);
}

/* The nearest blocks, and over them levels and scales of rows that keep something else. */
static void bring_blocks_back(strip *s, int64_t r0, const uint8_t *kept) {
	whit_mat *dst = s->j->dst;
	size_t bytes = dst->row_bytes[0], n = (size_t)s->n, units = (size_t)s->units;
	uint8_t *nearest = whit_alloc((size_t)s->rows * (bytes + n)), *level = nearest + (size_t)s->rows * bytes;
	float *scale = whit_alloc((size_t)s->rows * units * sizeof *scale);
	whit_err waited;
	whit_dev_get(s->d, nearest, s->saved.plane[0], (size_t)s->rows * bytes);
	whit_dev_get(s->d, level, s->level, (size_t)s->rows * n);
	whit_dev_get(s->d, scale, s->unit_scale, (size_t)s->rows * units * sizeof *scale);
	if (whit_dev_sync(s->d, &waited)) whit_dev_fail(s->d, waited.code, "%s", waited.text);
	for (int64_t r = 0; r < s->rows && !whit_dev_failed(s->d); r++) {
		int64_t stored = whit_mat_row(dst, r0 + r);
		memcpy((uint8_t *)(uintptr_t)dst->plane[0] + (size_t)stored * bytes, nearest + (size_t)r * bytes,
		       bytes);
		for (int64_t b = 0; b < s->units && !kept[r0 + r]; b++) {
			int64_t c = b * s->u->weights;
			whit_unit_scale(s->u, dst, stored, c, scale[r * s->units + b]);
			whit_unit_put(s->u, dst, stored, c, level + r * s->n + c);
		}
	}
	whit_free(nearest);
	whit_free(scale);
}

/* Rows to their places, the nearest codes where they win. */
static void bring_back(strip *s, int64_t r0, uint8_t *kept, double *loss) {
	whit_mat *dst = s->j->dst;
	for (int64_t r = 0; r < s->rows; r++) {
		double chosen = s->host_loss[r], nearest = s->host_loss[s->rows + r];
		int keep = kept[r0 + r] = !(chosen <= nearest);
		loss[2 * (r0 + r)] = keep ? nearest : chosen;
		loss[2 * (r0 + r) + 1] = nearest;
	}
	if (s->block) {
		bring_blocks_back(s, r0, kept);
		return;
	}
	for (int p = 0; p < 2; p++) {
		size_t bytes = dst->row_bytes[p];
		uint8_t *both = whit_alloc(2 * (size_t)s->rows * bytes), *from;
		whit_err waited;
		whit_dev_get(s->d, both, s->dst.plane[p], (size_t)s->rows * bytes);
		whit_dev_get(s->d, both + (size_t)s->rows * bytes, s->saved.plane[p], (size_t)s->rows * bytes);
		if (!whit_dev_sync(s->d, &waited))
			for (int64_t r = 0; r < s->rows; r++) {
				from = both + (size_t)(kept[r0 + r] ? s->rows + r : r) * bytes;
				memcpy((uint8_t *)(uintptr_t)dst->plane[p] + (size_t)whit_mat_row(dst, r0 + r) * bytes,
				       from, bytes);
			}
		else
			whit_dev_fail(s->d, waited.code, "%s", waited.text);
		whit_free(both);
	}
}

/* ---- all rows ---- */

typedef struct load_job {
	strip *s;
	whit_rows_sum *sum;
	int64_t r0, chunk;
} load_job;

static void load_item(void *ctx, int64_t i, int worker) {
	const load_job *l = ctx;
	const whit_mat *src = &l->s->j->src->mat;
	int64_t r0 = l->r0 + i * l->chunk, n = WHIT_MIN(l->chunk, l->r0 + l->s->rows - r0);
	whit_rows_sum *sum = &l->sum[r0 / l->chunk];
	(void)worker;
	sum->bad = -1;
	whit_rows_load(src, l->s->j->dst, r0, r0 + n, l->s->x + (r0 - l->r0) * src->cols,
	               l->s->host_w + (r0 - l->r0) * l->s->n, sum);
}

static void measure_item(void *ctx, int64_t i, int worker) {
	const load_job *l = ctx;
	const strip *s = l->s;
	int64_t r0 = l->r0 + i * l->chunk, n = WHIT_MIN(l->chunk, l->r0 + s->rows - r0), cols = s->j->src->mat.cols,
	        wide = WHIT_MAX(s->n, cols);
	float *y = whit_alloc((size_t)(2 * n * wide) * sizeof *y);
	(void)worker;
	whit_rows_measure(s->j->dst, r0, r0 + n, s->x + (r0 - l->r0) * cols, s->host_w + (r0 - l->r0) * s->n, y,
	                  y + n * wide, &l->sum[r0 / l->chunk]);
	whit_free(y);
}

static int open_strip(strip *s, whit_err *e) {
	const whit_feedback *f = s->j->feedback;
	size_t square = (size_t)(s->n * s->n) * 4, book = whit_mat_book_bytes(s->j->dst);
	float table[512] = {0};
	s->matrices = whit_dev_alloc(s->d, (size_t)lay_matrices(s, NULL));
	s->room = s->matrices ? whit_dev_alloc(s->d, (size_t)lay_rows(s, NULL, s->rows)) : NULL;
	if (!s->room) return whit_dev_sync(s->d, e);
	lay_matrices(s, s->matrices);
	lay_rows(s, s->room, s->rows);
	whit_dev_put(s->d, s->r, f->r, square);
	whit_dev_put(s->d, s->up, f->u, square);
	if (f->pass) whit_dev_put(s->d, s->pass, f->pass, square);
	if (f->target) whit_dev_put(s->d, s->target, f->target, square);
	whit_dev_put(s->d, s->h_diag, f->h_diag, (size_t)s->n * 4);
	memcpy(table, s->u->level, (size_t)s->u->count * 4);
	memcpy(table + s->u->count, s->u->boundary, (size_t)s->u->count * 4);
	whit_dev_put(s->d, s->table, table, sizeof table);
	whit_dev_zero(s->d, s->count, 4 * 8);
	if (book)
		s->dst.codebook = s->saved.codebook =
		        whit_dev_keep(s->d, whit_hash_bytes(s->j->dst->codebook, book), s->j->dst->codebook, book);
	return whit_dev_sync(s->d, e);
}

int whit_feedback_device(whit_job *j, const whit_units *u, int64_t chunk, whit_rows_sum *sum, double *loss,
                         uint8_t *kept, int *done, whit_err *e) {
	const whit_mat *src = &j->src->mat;
	strip s = {.j = j, .d = j->solver, .u = u, .n = j->dst->width, .block = j->dst->spec.fmt->block};
	s.units = (s.n + u->weights - 1) / u->weights;
	s.scale_at = s.block ? scale_place(s.block) : 0;
	int64_t all = src->rows, count[4], left = (int64_t)whit_dev_left(s.d) - REST - lay_matrices(&s, NULL),
	        each = lay_rows(&s, NULL, chunk), strips = WHIT_MIN(left, STRIP_BYTES) / each;
	int rc, sound = 1;
	*done = 0;
	if (strips < 1) {
		whit_say("%s: solved on the CPU: device memory is %.3f GB free, need %.3f GB", j->src->name,
		         (double)whit_dev_left(s.d) / 1e9, (double)(lay_matrices(&s, NULL) + each + REST) / 1e9);
		return 0;
	}
	*done = 1;
	int64_t most = s.rows = WHIT_MIN(all, strips * chunk);
	s.host_w = whit_alloc((size_t)(most * (s.n + src->cols)) * sizeof *s.host_w);
	s.x = s.host_w + most * s.n;
	s.host_loss = whit_alloc((size_t)(2 * most) * sizeof *s.host_loss);
	rc = open_strip(&s, e);
	for (int64_t r0 = 0; r0 < all && !rc && sound; r0 += most) {
		load_job l = {&s, sum, r0, chunk};
		s.rows = WHIT_MIN(most, all - r0);
		int64_t chunks = (s.rows + chunk - 1) / chunk;
		whit_parallel(chunks, load_item, &l);
		for (int64_t i = 0; i < chunks; i++) sound &= whit_rows_sound(&sum[r0 / chunk + i], j->dst);
		if (!sound || (rc = whit_interrupted(e))) break;
		whit_dev_reset(s.d);
		solve(&s);
		if ((rc = whit_dev_sync(s.d, e))) break;
		bring_back(&s, r0, kept, loss);
		if (!(rc = whit_dev_sync(s.d, e))) whit_parallel(chunks, measure_item, &l);
	}
	if (!rc && sound) {
		whit_dev_get(s.d, count, s.count, sizeof count);
		rc = whit_dev_sync(s.d, e);
		if (!rc) sum[0].bad_scales = count[0] ? count[0] : count[2] > 0, sum[0].zero_groups = count[1];
	}
	whit_dev_free(s.d, s.room);
	whit_dev_free(s.d, s.matrices);
	whit_free(s.host_w);
	whit_free(s.host_loss);
	return rc && rc != WHIT_EINT && rc != WHIT_ETERM ? whit_fail_in(e, "%s: tensor %s", j->src->file, j->src->name)
	                                                 : rc;
}
