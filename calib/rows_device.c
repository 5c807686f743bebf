/* The row driver on a device. Strips of rows: the source's bytes go up while the strip before is encoded, planes come
 * down. Strips are whole blocks, so that sums have the CPU's order, and whole groups of paired rows, so that a strip's
 * rows lie together in either order. */
#include "calib/rows.h"
#include "cuda/dev.h"
#include "formats/measure.h"
#include "host/ops.h"

/* Bytes that a strip's buffers are made to fill where the device has them: enough rows to keep it busy, and little
 * beside a model. Kept free for the rest: scratch of twins and cuBLAS's workspace. */
static const int64_t STRIP_BYTES = 256 << 20, REST = 48 << 20;

typedef struct strips {
	whit_job *j;
	whit_dev *d;
	int64_t block, rows; /* of a block, of a strip */
	whit_mat src, dst;   /* of one strip, planes on the device */
	/* device memory, in one piece */
	uint8_t *room;
	const uint8_t *source[2][WHIT_PLANES]; /* strips by turns */
	float *x, *y, *z; /* (rows, .): source, in another frame, decoded; y NULL: no other frame */
	float *importance;
	int32_t *ids; /* 0, 1, ...: rows of a paired matrix in their logical order */
	double *ref, *err;
	int64_t *bad, *count;
	/* host memory: all blocks', and ids' */
	double *host_ref, *host_err;
	int64_t *host_bad, host_count[2];
	int32_t *host_ids;
} strips;

static int64_t multiple(int64_t a, int64_t b) { /* the least common one */
	int64_t x = a, y = b;
	while (y) {
		int64_t t = x % y;
		x = y;
		y = t;
	}
	return a / x * b;
}

/* Rows that a strip must be a multiple of. */
static int64_t unit(int64_t block, const whit_mat *src, const whit_mat *dst) {
	return multiple(multiple(block, WHIT_MAX(src->paired, 1)), WHIT_MAX(dst->paired, 1));
}

/* Lays buffers for s->rows out, in s->room or nowhere. Returns their bytes. */
static int64_t layout(strips *s, int rotated) {
	const whit_mat *src = &s->src, *dst = &s->dst;
	int64_t n = s->rows, blocks = (n + s->block - 1) / s->block, at = 0;
	int64_t other = WHIT_MAX(rotated ? dst->width : 0, src->rot ? src->width : 0);
	for (int b = 0; b < (n < src->rows ? 2 : 1); b++)
		for (int p = 0; p < WHIT_PLANES; p++)
			s->source[b][p] =
			        src->plane[p] ? whit_rows_piece(s->room, &at, n * (int64_t)src->row_bytes[p]) : NULL;
	for (int p = 0; p < WHIT_PLANES; p++)
		s->dst.plane[p] =
		        dst->row_bytes[p] ? whit_rows_piece(s->room, &at, n * (int64_t)dst->row_bytes[p]) : NULL;
	s->x = whit_rows_piece(s->room, &at, n * src->cols * 4);
	s->y = other ? whit_rows_piece(s->room, &at, n * other * 4) : NULL;
	s->z = whit_rows_piece(s->room, &at, n * dst->width * 4);
	s->importance = whit_rows_piece(s->room, &at, dst->width * 4);
	s->ids = whit_rows_piece(s->room, &at, n * 4);
	s->ref = whit_rows_piece(s->room, &at, blocks * 8);
	s->err = whit_rows_piece(s->room, &at, blocks * 8);
	s->bad = whit_rows_piece(s->room, &at, blocks * 8);
	s->count = whit_rows_piece(s->room, &at, 16);
	return at;
}

/* Sizes strips for what the device has left, less `reserved`. Returns the buffers' bytes, which are more than that
 * where the least strip is. */
static int64_t size_strips(strips *s, int rotated, int64_t reserved) {
	int64_t least = unit(s->block, &s->src, &s->dst), all = s->src.rows;
	int64_t budget = WHIT_MIN(STRIP_BYTES, (int64_t)whit_dev_left(s->d) - reserved);
	s->rows = WHIT_MIN(least, all);
	int64_t bytes = layout(s, rotated), times = budget / bytes;
	if (times > 1) s->rows = WHIT_MIN(least * times, all);
	return times > 1 ? layout(s, rotated) : bytes;
}

/* Bytes of a rotation on the device. */
static int64_t rotation_bytes(const whit_rotation_spec *r) {
	if (r->kind == WHIT_ROT_HAAR_QR) return r->dim * r->dim * 4;
	return r->kind == WHIT_ROT_NONE ? 0 : (r->dim + 2 * r->block) * 4;
}

int64_t whit_method_device_bytes(whit_dev *d, const whit_mat *src, const whit_mat *dst, const whit_rotation_spec *rot) {
	whit_plane_desc desc[WHIT_PLANES];
	whit_err e;
	int64_t width = WHIT_MAX(dst->width, src->cols);
	strips s = {.d = d, .src = *src, .dst = *dst, .block = whit_rows_block(width, src->rows)};
	int planes = dst->spec.fmt->planes(&dst->spec, dst->width, 0, desc, &e);
	for (int p = 0; p < planes; p++) s.dst.row_bytes[p] = desc[p].row_bytes;
	return size_strips(&s, rot->kind != WHIT_ROT_NONE, rotation_bytes(rot) + REST);
}

/* ---- steps ---- */

static void open_strips(strips *s, whit_job *j, int64_t block) {
	const whit_mat *src = &j->src->mat, *dst = j->dst;
	int64_t blocks = (src->rows + block - 1) / block;
	size_t book = whit_mat_book_bytes(dst);
	*s = (strips){.j = j, .d = j->dev, .block = block, .src = *src, .dst = *dst};
	size_t bytes = (size_t)size_strips(s, dst->rot != NULL,
	                                   REST + (dst->rot ? rotation_bytes(whit_rotation_get(dst->rot)) : 0));
	s->host_ref = whit_alloc((size_t)blocks * sizeof *s->host_ref);
	s->host_err = whit_alloc((size_t)blocks * sizeof *s->host_err);
	s->host_bad = whit_alloc((size_t)blocks * sizeof *s->host_bad);
	s->host_ids = whit_alloc((size_t)s->rows * sizeof *s->host_ids);
	for (int64_t i = 0; i < s->rows; i++) s->host_ids[i] = (int32_t)i;
	s->room = whit_dev_alloc(s->d, bytes);
	if (!s->room) return;
	layout(s, dst->rot != NULL);
	if (dst->codebook)
		s->dst.codebook = whit_dev_keep(s->d, whit_hash_bytes(dst->codebook, book), dst->codebook, book);
	if (src->codebook) {
		book = whit_mat_book_bytes(src);
		s->src.codebook = whit_dev_keep(s->d, whit_hash_bytes(src->codebook, book), src->codebook, book);
	}
	if (j->importance) whit_dev_put(s->d, s->importance, j->importance, (size_t)dst->width * sizeof(float));
	whit_dev_put(s->d, s->ids, s->host_ids, (size_t)s->rows * sizeof *s->ids);
	whit_dev_zero(s->d, s->count, sizeof s->host_count);
}

static void upload(strips *s, int64_t r0) {
	const whit_mat *src = &s->j->src->mat;
	int64_t n = WHIT_MIN(s->rows, src->rows - r0), turn = r0 / s->rows % 2;
	for (int p = 0; p < WHIT_PLANES && r0 < src->rows; p++)
		if (src->plane[p])
			whit_dev_upload(s->d, (void *)(uintptr_t)s->source[turn][p],
			                src->plane[p] + (size_t)r0 * src->row_bytes[p], (size_t)n * src->row_bytes[p]);
	whit_dev_mark(s->d, WHIT_QUEUE_COPY, 0);
}

/* Rows 0 to n of m as they are stored but for their order, which is the logical one. */
static void decode(strips *s, float *out, const whit_mat *m, int64_t n) {
	if (m->paired)
		whit_embed_cuda(s->d, out, s->ids, n, m);
	else
		whit_rows_decode_cuda(s->d, m, 0, n, out);
}

/* The source of a strip in x, and what decides whether it may be encoded. */
static void look(strips *s, int64_t r0, int64_t n) {
	int64_t run = s->block * s->src.cols, all = n * s->src.cols, first = r0 / s->block;
	size_t bytes = (size_t)((n + s->block - 1) / s->block) * 8;
	for (int p = 0; p < WHIT_PLANES; p++) s->src.plane[p] = s->source[r0 / s->rows % 2][p];
	s->src.rows = n;
	whit_dev_wait(s->d, WHIT_QUEUE_WORK, 0);
	decode(s, s->src.rot ? s->y : s->x, &s->src, n);
	if (s->src.rot) whit_unrotate_cuda(s->d, s->src.rot, s->x, s->y, n);
	whit_first_nonfinite_cuda(s->d, s->bad, s->x, all, run);
	whit_sum_squares_cuda(s->d, s->ref, s->x, NULL, all, run);
	whit_dev_get(s->d, s->host_bad + first, s->bad, bytes);
	whit_dev_get(s->d, s->host_ref + first, s->ref, bytes);
}

/* Encodes x, then measures as block_item of method.c does. */
static void encode(strips *s, int64_t r0, int64_t n) {
	const whit_mat *dst = s->j->dst;
	int64_t run = s->block * dst->cols, all = n * dst->cols;
	const float *rotated = dst->rot ? s->y : s->x;
	s->dst.rows = n;
	if (dst->rot) whit_rotate_cuda(s->d, dst->rot, s->y, s->x, n);
	whit_rows_encode_cuda(s->d, &s->dst, 0, n, rotated, s->j->importance ? s->importance : NULL, s->j->rule,
	                      s->count);
	decode(s, s->z, &s->dst, n);
	if (dst->width == dst->cols) {
		whit_sum_squares_cuda(s->d, s->err, rotated, s->z, all, run);
	} else {
		whit_unrotate_cuda(s->d, dst->rot, s->y, s->z, n);
		whit_sum_squares_cuda(s->d, s->err, s->x, s->y, all, run);
	}
	whit_dev_get(s->d, s->host_err + r0 / s->block, s->err, (size_t)((n + s->block - 1) / s->block) * 8);
}

static void bring_back(strips *s, int64_t r0, int64_t n) {
	const whit_mat *dst = s->j->dst;
	for (int p = 0; p < WHIT_PLANES; p++)
		if (dst->plane[p])
			whit_dev_get(s->d, (uint8_t *)(uintptr_t)dst->plane[p] + (size_t)r0 * dst->row_bytes[p],
			             s->dst.plane[p], (size_t)n * dst->row_bytes[p]);
}

/* 1: all blocks of the strip may be encoded. */
static int sound(const strips *s, whit_rows_sum *sum, int64_t r0, int64_t n) {
	int good = 1;
	for (int64_t r = r0; r < r0 + n; r += s->block) {
		whit_rows_sum *b = &sum[r / s->block];
		int64_t bad = s->host_bad[r / s->block];
		b->bad = bad < 0 ? -1 : r * s->src.cols + bad;
		b->ref = s->host_ref[r / s->block];
		good = good && whit_rows_sound(b, s->j->dst);
	}
	return good;
}

int whit_rows_device(whit_job *j, int64_t block, whit_rows_sum *sum, whit_err *e) {
	int64_t rows = j->src->mat.rows, good = 1;
	strips s;
	int rc = 0;
	open_strips(&s, j, block);
	upload(&s, 0);
	for (int64_t r0 = 0; r0 < rows && !rc && good; r0 += s.rows) {
		int64_t n = WHIT_MIN(s.rows, rows - r0);
		if ((rc = whit_interrupted(e))) break;
		whit_dev_reset(s.d);
		look(&s, r0, n);
		if ((rc = whit_dev_sync(s.d, e)) || !(good = sound(&s, sum, r0, n))) break;
		encode(&s, r0, n);
		upload(&s, r0 + s.rows); /* what the buffer held was decoded before the last sync */
		bring_back(&s, r0, n);
	}
	if (!rc) whit_dev_get(s.d, s.host_count, s.count, sizeof s.host_count);
	int rc2 = whit_dev_sync(s.d, rc ? &(whit_err){0} : e);
	if (!rc) rc = rc2;
	for (int64_t i = 0; i < (rows + block - 1) / block && !rc && good; i++) sum[i].err = s.host_err[i];
	sum[0].bad_scales = s.host_count[0];
	sum[0].zero_groups = s.host_count[1];
	whit_dev_free(s.d, s.room);
	whit_free(s.host_ref);
	whit_free(s.host_err);
	whit_free(s.host_bad);
	whit_free(s.host_ids);
	return rc && rc != WHIT_EINT && rc != WHIT_ETERM ? whit_fail_in(e, "%s: tensor %s", j->src->file, j->src->name)
	                                                 : rc;
}
