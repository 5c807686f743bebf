/* whit_kernels: checks what a caller of the library says, and calls the twins. */
#include "cuda/whit_kernels.h"
#include <stdarg.h>
#include <stdio.h>
#include "cuda/dev.cuh"
extern "C" {
#include "formats/codebook.h"
#include "formats/format.h"
#include "formats/tensor.h"
#include "host/ops.h"
}

static_assert((int)WHIT_KERNELS_PLANES == (int)WHIT_PLANES && (int)WHIT_KERNELS_EUSAGE == (int)WHIT_EUSAGE &&
                      (int)WHIT_KERNELS_EINTERNAL == (int)WHIT_EINTERNAL &&
                      (int)WHIT_KERNELS_ERESOURCE == (int)WHIT_ERESOURCE,
              "one set of numbers");

struct whit_kernels {
	whit_dev *d;
	whit_err err;
	int64_t *count;           /* whit_rows_encode_cuda's, on the device */
	float book[2][9][1 << 8]; /* codebooks that were asked for last, by bits; host */
	int64_t book_dim[2][9];   /* what of */
};
struct whit_kernels_rotation {
	whit_rotation *r;
	int64_t cols;
};

/* 0, or the code of what a call has queued in vain; that is then forgotten. */
static int done(whit_kernels *k) {
	if (!whit_dev_failed(k->d)) return 0;
	k->err = k->d->err;
	k->d->err.code = 0;
	return k->err.code;
}

/* One thing that a call needs: an error unless good. */
static int need(whit_kernels *k, bool good, const char *fmt, ...) WHIT_PRINTF(3, 4);
static int need(whit_kernels *k, bool good, const char *fmt, ...) {
	va_list ap;
	if (good) return 0;
	va_start(ap, fmt);
	vsnprintf(k->err.text, sizeof k->err.text, fmt, ap);
	va_end(ap);
	return k->err.code = WHIT_EUSAGE;
}

static int need_count(whit_kernels *k, const char *what, int64_t n) {
	return need(k, n > 0 && n <= INT32_MAX, "%s: is %lld, need 1 to 2^31 - 1", what, (long long)n);
}

/* optional: NULL will do. */
static int need_pointer(whit_kernels *k, const char *what, const void *p, size_t align, int optional = 0) {
	if (need(k, p || optional, "%s: is NULL, need device memory", what)) return k->err.code;
	return need(k, (uintptr_t)p % align == 0, "%s: lies %zu bytes off a multiple of %zu, need one", what,
	            (size_t)((uintptr_t)p % align), align);
}

/* Format and shape of m as ours, without planes. */
static int shape_of(whit_kernels *k, whit_mat *to, const whit_kernels_matrix *m) {
	*to = {};
	if (need(k, m && m->format, "matrix: has no format, need a name")) return k->err.code;
	if (need_count(k, "matrix: rows", m->rows) || need_count(k, "matrix: cols", m->cols)) return k->err.code;
	if (whit_spec_parse(m->format, &to->spec, &k->err)) return k->err.code = WHIT_EUSAGE;
	if (need(k, !to->spec.fmt->record, "format %s: is of whole files, need one of rows", m->format))
		return k->err.code;
	whit_spec_resolve(&to->spec, m->cols);
	to->rows = m->rows, to->cols = to->width = m->cols, to->scale_f32 = m->scale_f32 != 0;
	return whit_spec_bytes(&to->spec, m->rows, m->cols, to->scale_f32, &k->err) < 0 ? k->err.code = WHIT_EUSAGE : 0;
}

/* Codebooks for normal weights are made once for each width; the device keeps them by their values. */
static int codebook_of(whit_kernels *k, whit_mat *to, const whit_kernels_matrix *m) {
	int bits = to->spec.bits;
	size_t bytes = sizeof(float) << bits;
	const float *book = m->codebook;
	if (!to->spec.fmt->needs_codebook) return 0;
	if (!book) {
		int64_t dim = to->spec.group ? to->spec.group : m->cols;
		int turn = k->book_dim[0][bits] != dim && k->book_dim[0][bits];
		if (k->book_dim[turn][bits] != dim &&
		    whit_codebook(k->book[turn][bits], bits, WHIT_DENSITY_GAUSSIAN, dim, &k->err))
			return k->err.code = WHIT_EUSAGE;
		k->book_dim[turn][bits] = dim;
		book = k->book[turn][bits];
	}
	for (int i = 0; i + 1 < 1 << bits; i++)
		if (need(k, book[i] < book[i + 1], "codebook: value %d is %g, value %d %g, need ascending ones", i,
		         (double)book[i], i + 1, (double)book[i + 1]))
			return k->err.code;
	to->codebook = book;
	whit_mat_mirror(to);
	size_t before = whit_dev_used(k->d);
	to->codebook = (const float *)whit_dev_keep(k->d, whit_hash_bytes(book, bytes), book, bytes);
	if (whit_dev_used(k->d) != before) return whit_dev_sync(k->d, &k->err); /* a new one; book may go after this */
	return done(k);
}

static int matrix_of(whit_kernels *k, whit_mat *to, const whit_kernels_matrix *m) {
	whit_plane_desc p[WHIT_PLANES];
	if (shape_of(k, to, m)) return k->err.code;
	int n = to->spec.fmt->planes(&to->spec, m->cols, to->scale_f32, p, &k->err);
	for (int i = 0; i < n; i++) {
		/* a plane of floats is read as such; codes and blocks are bytes */
		int floats = !p[i].suffix[0] && !to->spec.fmt->block;
		size_t align = floats ? p[i].row_bytes / (size_t)m->cols : 1;
		if (need_pointer(k, "matrix: plane", m->plane[i], align)) return k->err.code;
		to->plane[i] = (const uint8_t *)m->plane[i];
		to->row_bytes[i] = p[i].row_bytes;
	}
	return codebook_of(k, to, m);
}

/* ---- device and stream ---- */

extern "C" int whit_kernels_open(whit_kernels **out, int device, void *stream, char *text, size_t size) {
	whit_err e = {};
	*out = NULL;
	whit_kernels *k = (whit_kernels *)whit_alloc(sizeof *k);
	int rc = whit_dev_open_on(&k->d, device, stream, &e);
	if (!rc) {
		k->count = (int64_t *)whit_dev_alloc(k->d, 2 * sizeof *k->count);
		rc = k->count ? 0 : whit_dev_sync(k->d, &e);
	}
	if (!rc) {
		*out = k;
		return 0;
	}
	if (text && size) snprintf(text, size, "%s", e.text);
	whit_dev_close(k->d);
	whit_free(k);
	return rc == WHIT_EUSAGE || rc == WHIT_ERESOURCE ? rc : WHIT_ERESOURCE;
}

extern "C" void whit_kernels_close(whit_kernels *k) {
	if (!k) return;
	whit_dev_free(k->d, k->count);
	whit_dev_close(k->d);
	whit_free(k);
}

extern "C" const char *whit_kernels_error(const whit_kernels *k) { return k->err.text; }
extern "C" int whit_kernels_sync(whit_kernels *k) { return whit_dev_sync(k->d, &k->err); }
extern "C" size_t whit_kernels_memory(const whit_kernels *k) { return whit_dev_used(k->d); }

/* ---- matrices ---- */

extern "C" int whit_kernels_planes(whit_kernels *k, const whit_kernels_matrix *m,
                                   whit_kernels_plane plane[WHIT_KERNELS_PLANES]) {
	whit_plane_desc p[WHIT_PLANES];
	whit_mat to;
	if (shape_of(k, &to, m)) return k->err.code;
	int n = to.spec.fmt->planes(&to.spec, m->cols, to.scale_f32, p, &k->err);
	for (int i = 0; i < n; i++) plane[i] = {p[i].suffix, p[i].row_bytes, (size_t)m->rows * p[i].row_bytes};
	return n;
}

extern "C" int whit_kernels_linear(whit_kernels *k, float *y, const float *x, int64_t tokens,
                                   const whit_kernels_matrix *w, const float *bias, int exact) {
	whit_mat m;
	if (need_count(k, "tokens", tokens) || matrix_of(k, &m, w) || need_pointer(k, "y", y, 4) ||
	    need_pointer(k, "x", x, 4) || need_pointer(k, "bias", bias, 4, 1))
		return k->err.code;
	if (need(k, w->rank >= 0 && w->rank <= INT32_MAX, "matrix: rank is %lld, need 0 or more", (long long)w->rank) ||
	    (w->rank &&
	     (need_pointer(k, "matrix: low_a", w->low_a, 2) || need_pointer(k, "matrix: low_b", w->low_b, 2))))
		return k->err.code;
	whit_low low = {(const uint16_t *)w->low_a, (const uint16_t *)w->low_b, w->rank, w->low_scale};
	int was = whit_dev_terms(k->d, exact ? 3 : 1);
	whit_dev_reset(k->d);
	whit_linear_low_cuda(k->d, y, x, tokens, &m, w->rank ? &low : NULL, bias);
	whit_dev_terms(k->d, was);
	return done(k);
}

extern "C" int whit_kernels_decode(whit_kernels *k, float *out, const whit_kernels_matrix *w, int64_t first,
                                   int64_t n) {
	whit_mat m;
	if (need_count(k, "rows to decode", n) || matrix_of(k, &m, w) || need_pointer(k, "out", out, 4) ||
	    need(k, first >= 0 && first + n <= m.rows, "rows [%lld, %lld): the matrix has %lld", (long long)first,
	         (long long)(first + n), (long long)m.rows))
		return k->err.code;
	whit_rows_decode_cuda(k->d, &m, first, first + n, out);
	return done(k);
}

extern "C" int whit_kernels_encode(whit_kernels *k, const whit_kernels_matrix *w, const float *x,
                                   const float *importance, int64_t *beyond) {
	whit_mat m;
	if (matrix_of(k, &m, w) || need_pointer(k, "x", x, 4) || need_pointer(k, "importance", importance, 4, 1) ||
	    need(k, m.spec.fmt->encode, "format %s: has no nearest codes", w->format))
		return k->err.code;
	whit_dev_reset(k->d);
	whit_dev_zero(k->d, k->count, 2 * sizeof *k->count);
	whit_rows_encode_cuda(k->d, &m, 0, m.rows, x, importance, WHIT_SCALE_LS, k->count);
	if (beyond) whit_dev_get(k->d, beyond, k->count, sizeof *beyond);
	return beyond ? whit_dev_sync(k->d, &k->err) : done(k);
}

/* ---- transforms and statistics ---- */

extern "C" int whit_kernels_fwht(whit_kernels *k, float *x, int64_t rows, int64_t n) {
	return whit_kernels_fwht_stored(k, x, WHIT_KERNELS_F32, rows, n);
}

extern "C" int whit_kernels_fwht_stored(whit_kernels *k, void *x, int storage, int64_t rows, int64_t n) {
	static const int dtype[] = {WHIT_F32, WHIT_F16, WHIT_BF16};
	if (need(k, storage >= 0 && storage < (int)WHIT_COUNT(dtype), "storage: is %d, need F32, F16 or BF16 (0 to 2)",
	         storage) ||
	    need_count(k, "rows", rows) || need_count(k, "n", n) ||
	    need_pointer(k, "x", x, whit_dtype_size(dtype[storage])) ||
	    need(k, (n & (n - 1)) == 0, "n: is %lld, need a power of two", (long long)n))
		return k->err.code;
	whit_dev_reset(k->d);
	whit_fwht_stored_cuda(k->d, x, dtype[storage], rows, n);
	return done(k);
}

extern "C" int whit_kernels_rotation_new(whit_kernels *k, whit_kernels_rotation **out, int64_t cols, int64_t group,
                                         uint64_t seed) {
	whit_rotation_spec s;
	whit_rotation *r;
	*out = NULL;
	if (need_count(k, "cols", cols) ||
	    need(k, group >= 0 && group <= cols, "group: is %lld, need 0 to %lld", (long long)group, (long long)cols))
		return k->err.code;
	if (whit_rotation_plan(&s, WHIT_ROT_HADAMARD, seed, cols, group, &k->err) ||
	    whit_rotation_new(&r, &s, NULL, &k->err))
		return k->err.code = WHIT_EUSAGE;
	*out = (whit_kernels_rotation *)whit_alloc(sizeof **out);
	**out = {r, cols};
	return 0;
}

extern "C" int64_t whit_kernels_rotation_width(const whit_kernels_rotation *r) { return whit_rotation_width(r->r); }

extern "C" void whit_kernels_rotation_free(whit_kernels *k, whit_kernels_rotation *r) {
	whit_err e;
	if (!r) return;
	whit_dev_sync(k->d, &e); /* signs may be on their way from its memory */
	whit_rotation_free(r->r);
	whit_free(r);
}

static int check_rotate(whit_kernels *k, const whit_kernels_rotation *r, const float *y, const float *x, int64_t rows) {
	if (need(k, r, "rotation: is NULL, need one") || need_count(k, "rows", rows) || need_pointer(k, "y", y, 4) ||
	    need_pointer(k, "x", x, 4))
		return k->err.code;
	whit_dev_reset(k->d);
	return 0;
}

extern "C" int whit_kernels_rotate(whit_kernels *k, const whit_kernels_rotation *r, float *y, const float *x,
                                   int64_t rows) {
	if (check_rotate(k, r, y, x, rows)) return k->err.code;
	whit_rotate_cuda(k->d, r->r, y, x, rows);
	return done(k);
}

extern "C" int whit_kernels_rotate_back(whit_kernels *k, const whit_kernels_rotation *r, float *x, float *y,
                                        int64_t rows) {
	if (check_rotate(k, r, y, x, rows)) return k->err.code;
	whit_unrotate_cuda(k->d, r->r, x, y, rows);
	return done(k);
}

extern "C" int whit_kernels_gram(whit_kernels *k, float *h, const float *x, int64_t tokens, int64_t n) {
	if (need_count(k, "tokens", tokens) || need_count(k, "n", n) || need_pointer(k, "h", h, 4) ||
	    need_pointer(k, "x", x, 4))
		return k->err.code;
	whit_dev_reset(k->d);
	whit_gram_cuda(k->d, h, x, tokens, n);
	whit_gram_mirror_cuda(k->d, h, n);
	return done(k);
}

extern "C" int whit_kernels_square_sums(whit_kernels *k, float *full, double *row, double *col, const float *g,
                                        int64_t rows, int64_t cols) {
	if (need_count(k, "rows", rows) || need_count(k, "cols", cols) || need_pointer(k, "g", g, 4) ||
	    need_pointer(k, "full", full, 4, 1) || need_pointer(k, "row", row, 8, 1) ||
	    need_pointer(k, "col", col, 8, 1))
		return k->err.code;
	whit_dev_reset(k->d);
	whit_square_sums_cuda(k->d, full, row, col, g, rows, cols);
	return done(k);
}

static int check_points(whit_kernels *k, const float *x, const float *w, int64_t n, int64_t dim, int count) {
	return need_count(k, "points", n) || need_count(k, "dimensions", dim) || need_count(k, "centroids", count) ||
	       need_pointer(k, "x", x, 4) || need_pointer(k, "w", w, 4, 1);
}

extern "C" int whit_kernels_kmeans_assign(whit_kernels *k, int32_t *nearest, float *distance, const float *x,
                                          const float *w, const float *c, int64_t n, int64_t dim, int count) {
	if (check_points(k, x, w, n, dim, count) || need_pointer(k, "nearest", nearest, 4) ||
	    need_pointer(k, "distance", distance, 4) || need_pointer(k, "centroids", c, 4))
		return k->err.code;
	whit_dev_reset(k->d);
	whit_kmeans_assign_cuda(k->d, nearest, distance, x, w, c, n, dim, count);
	return done(k);
}

extern "C" int whit_kernels_kmeans_sums(whit_kernels *k, double *sum, double *weight, const int32_t *nearest,
                                        const float *x, const float *w, int64_t n, int64_t dim, int count) {
	if (check_points(k, x, w, n, dim, count) || need_pointer(k, "sum", sum, 8) ||
	    need_pointer(k, "weight", weight, 8) || need_pointer(k, "nearest", nearest, 4))
		return k->err.code;
	whit_dev_reset(k->d);
	whit_kmeans_sums_cuda(k->d, sum, weight, nearest, x, w, n, dim, count);
	return done(k);
}

extern "C" int whit_kernels_lloyd(whit_kernels *k, float *level, double *loss, const float *x, const float *w,
                                  int64_t rows, int64_t n, int count, int exact) {
	if (need_count(k, "rows", rows) || need_count(k, "n", n) || need_count(k, "levels", count) ||
	    need(k, n <= WHIT_LLOYD_MOST, "n: is %lld, need at most %d", (long long)n, WHIT_LLOYD_MOST) ||
	    need(k, count <= WHIT_LLOYD_LEVELS, "levels: is %d, need at most %d", count, WHIT_LLOYD_LEVELS) ||
	    need_pointer(k, "level", level, 4) || need_pointer(k, "loss", loss, 8) || need_pointer(k, "x", x, 4) ||
	    need_pointer(k, "w", w, 4, 1))
		return k->err.code;
	whit_dev_reset(k->d);
	whit_lloyd_cuda(k->d, level, loss, x, w, rows, n, count, exact);
	return done(k);
}

/* ---- memory ---- */

extern "C" void *whit_kernels_alloc(whit_kernels *k, size_t bytes) {
	void *p = whit_dev_alloc(k->d, bytes);
	done(k);
	return p;
}

extern "C" void whit_kernels_free(whit_kernels *k, void *p) { whit_dev_free(k->d, p); }

extern "C" int whit_kernels_put(whit_kernels *k, void *device, const void *host, size_t bytes) {
	whit_dev_put(k->d, device, host, bytes);
	return done(k);
}

extern "C" int whit_kernels_get(whit_kernels *k, void *host, const void *device, size_t bytes) {
	whit_dev_get(k->d, host, device, bytes);
	return whit_dev_sync(k->d, &k->err);
}
