#include "formats/rotation.h"
#include "formats/floats.h"
#include <lapacke.h>
#include <math.h>

struct whit_rotation {
	whit_rotation_spec s;
	int64_t width;
	float *in;    /* hadamard: D / sqrt(block), width long; tq3: D1 / sqrt(block), block long */
	float *out;   /* tq3: D2, block long */
	float *paley; /* hadamard with base > 1: (base, base) of +-1, then its transpose */
	float *dense; /* haar_qr: (dim, dim), then its transpose */
	whit_rotation_part part[WHIT_ROT_PARTS];
};

static const char *const kind_names[] = {"none", "hadamard", "haar_qr", "tq3"};

const char *whit_rotation_kind_name(int kind) { return kind_names[kind]; }

int whit_rotation_kind_parse(const char *name) {
	for (int i = 0; i < WHIT_COUNT(kind_names); i++)
		if (!strcmp(name, kind_names[i])) return i;
	return -1;
}

/* ---- planning ---- */

static int is_pow2(int64_t n) { return n > 0 && !(n & (n - 1)); }

/* m in {12, 20, 28} with dim = m * 2^k, or 0. */
static int paley_base(int64_t dim) {
	for (int m = 12; m <= 28; m += 8)
		if (dim % m == 0 && is_pow2(dim / m)) return m;
	return 0;
}

enum { DENSE_MAX = 32768 }; /* dim^2 floats twice: 8 GB */

/* A block never splits a group and a group is at most a block, so that all coordinates of a group are alike:
 * hence the first two choices of turboquant.md 5(b) swap for row-wise groups, where 256 < group. */
int whit_rotation_plan(whit_rotation_spec *s, int kind, uint64_t seed, int64_t dim, int64_t group, whit_err *e) {
	*s = (whit_rotation_spec){.kind = kind, .seed = seed, .dim = dim, .block = dim, .base = 1};
	if (kind < 0 || kind >= WHIT_COUNT(kind_names) || dim < 1 || group < 0)
		return whit_fail(e, WHIT_EUSAGE, "rotation: kind %d, width %lld, group %lld: is impossible", kind,
		                 (long long)dim, (long long)group);
	int64_t g = group ? group : dim, pad = WHIT_MAX(group, 128);
	if (kind == WHIT_ROT_NONE) return 0;
	if (kind == WHIT_ROT_HAAR_QR) {
		if (dim % g || dim > DENSE_MAX)
			return whit_fail(e, WHIT_EUSAGE,
			                 "rotation haar_qr: width is %lld, need a multiple of group %lld, at most %d",
			                 (long long)dim, (long long)g, DENSE_MAX);
		return 0;
	}
	if (kind == WHIT_ROT_TQ3) {
		if (!is_pow2(group))
			return whit_fail(e, WHIT_EUSAGE, "rotation tq3: group is %lld, need a power of two",
			                 (long long)group);
		s->block = group;
		return 0;
	}
	if (is_pow2(dim) && dim % g == 0) return 0;
	if (dim % 256 == 0 && group && 256 % group == 0)
		s->block = 256;
	else if (dim % 128 == 0 && group && 128 % group == 0)
		s->block = 128;
	else if (paley_base(dim) && dim % g == 0)
		s->base = paley_base(dim);
	else if (dim % 256 == 0 && !group)
		s->block = 256;
	else if (dim % 128 == 0 && !group)
		s->block = 128;
	else
		s->block = is_pow2(pad) ? pad : 0;
	if (!s->block)
		return whit_fail(e, WHIT_EUSAGE, "rotation hadamard: group is %lld, need a power of two",
		                 (long long)group);
	return 0;
}

/* ---- building ---- */

/* Quadratic character of a mod prime q. */
static int character(int a, int q) {
	a = ((a % q) + q) % q;
	if (!a) return 0;
	for (int i = 1; i < q; i++)
		if (i * i % q == a) return 1;
	return -1;
}

/* Hadamard matrices of order 12, 20 (Paley I, q = 11, 19: I + [[0, 1], [-1, Q]]) and 28 (Paley II, q = 13: in
 * [[0, 1], [1, Q]] 0 becomes [[1, -1], [-1, -1]] and +-1 becomes +-[[1, 1], [1, -1]]). turboquant.md 5(b). */
static float *paley_make(int m) {
	float *h = whit_alloc((size_t)(2 * m * m) * sizeof(float));
	int two = m == 28 ? 2 : 1, n = m / two, q = n - 1;
	for (int i = 0; i < m; i++)
		for (int j = 0; j < m; j++) {
			int a = i / two, b = j / two, low = (i % two) && (j % two), v;
			int core = a && b ? character(a - b, q) : a == b ? 0 : two == 1 && a > b ? -1 : 1;
			if (two == 1)
				v = core + (a == b);
			else if (core)
				v = low ? -core : core;
			else
				v = i % two || j % two ? -1 : 1;
			h[i * m + j] = h[m * m + j * m + i] = (float)v;
		}
	return h;
}

/* Pi = Q diag(sign R_ii) of the QR factors of randn(d, d), turboquant.md 5(a). */
static int haar_make(float *pi, int64_t d, uint64_t seed, whit_err *e) {
	whit_mt mt;
	size_t n = (size_t)(d * d);
	whit_mt_seed(&mt, seed);
	whit_mt_randn(&mt, pi, d * d);
	double *a = whit_alloc(n * sizeof(double));
	double *tau = whit_alloc((size_t)d * sizeof(double)), *sign = whit_alloc((size_t)d * sizeof(double));
	for (int64_t i = 0; i < d; i++)
		for (int64_t j = 0; j < d; j++) a[i + j * d] = pi[i * d + j]; /* column-major */
	lapack_int k = (lapack_int)d;
	lapack_int bad = LAPACKE_dgeqrf(LAPACK_COL_MAJOR, k, k, a, k, tau);
	for (int64_t j = 0; j < d; j++) sign[j] = a[j + j * d] < 0 ? -1 : 1;
	if (!bad) bad = LAPACKE_dorgqr(LAPACK_COL_MAJOR, k, k, k, a, k, tau);
	for (int64_t i = 0; i < d; i++)
		for (int64_t j = 0; j < d; j++) pi[i * d + j] = (float)(a[i + j * d] * sign[j]);
	whit_free(sign);
	whit_free(tau);
	whit_free(a);
	if (bad)
		return whit_fail(e, WHIT_EINTERNAL, "rotation haar_qr: QR of width %lld failed (%d)", (long long)d,
		                 (int)bad);
	return 0;
}

static int check_spec(const whit_rotation_spec *s, int dense, whit_err *e) {
	int ok = s->dim >= 1 && s->dim <= (INT64_C(1) << 30);
	switch (s->kind) {
	case WHIT_ROT_NONE:
		break;
	case WHIT_ROT_HADAMARD:
		ok = ok && s->block >= 1 && s->block <= (INT64_C(1) << 30);
		ok = ok && (s->base == 1 || s->base == 12 || s->base == 20 || s->base == 28) &&
		     s->block % s->base == 0 && is_pow2(s->block / s->base);
		break;
	case WHIT_ROT_HAAR_QR:
		ok = ok && s->dim <= DENSE_MAX && s->block == s->dim;
		break;
	case WHIT_ROT_TQ3:
		ok = ok && is_pow2(s->block) && s->block <= 65536;
		break;
	default:
		ok = 0;
	}
	if (!ok)
		return whit_fail(
		        e, WHIT_EINPUT,
		        "rotation: kind %d, dim %lld, block %lld, base %d: is impossible; need block = base * 2^k,"
		        " base 1, 12, 20 or 28",
		        s->kind, (long long)s->dim, (long long)s->block, s->base);
	if (dense && s->kind != WHIT_ROT_HAAR_QR)
		return whit_fail(e, WHIT_EINPUT, "rotation: kind is %s, need haar_qr for a stored matrix",
		                 kind_names[s->kind]);
	return 0;
}

/* n draws of +-scale, odd words positive. */
static float *draw_signs(whit_mt *mt, int64_t n, double scale) {
	float *s = whit_alloc((size_t)n * sizeof(float));
	for (int64_t i = 0; i < n; i++) s[i] = (float)(whit_mt_next(mt) & 1 ? scale : -scale);
	return s;
}

static void set_part(whit_rotation *r, int part, const float *v, int64_t n) {
	if (v) r->part[part] = (whit_rotation_part){v, n, whit_hash_bytes(v, (size_t)n * sizeof *v)};
}

int whit_rotation_new(whit_rotation **out, const whit_rotation_spec *s, const float *dense, whit_err *e) {
	if (check_spec(s, dense != NULL, e)) return e->code;
	whit_rotation *r = whit_alloc(sizeof *r);
	int64_t d = s->dim;
	whit_mt mt;
	whit_mt_seed(&mt, s->seed);
	r->s = *s;
	r->width =
	        s->kind == WHIT_ROT_HADAMARD || s->kind == WHIT_ROT_TQ3 ? (d + s->block - 1) / s->block * s->block : d;
	if (s->kind == WHIT_ROT_HADAMARD) {
		r->in = draw_signs(&mt, r->width, 1 / sqrt((double)s->block));
		if (s->base > 1) r->paley = paley_make(s->base);
	}
	if (s->kind == WHIT_ROT_TQ3) {
		r->in = draw_signs(&mt, s->block, 1 / sqrt((double)s->block));
		r->out = draw_signs(&mt, s->block, 1);
	}
	if (s->kind == WHIT_ROT_HAAR_QR) {
		r->dense = whit_alloc((size_t)(2 * d * d) * sizeof(float));
		if (dense) memcpy(r->dense, dense, (size_t)(d * d) * sizeof(float));
		int rc = dense ? 0 : haar_make(r->dense, d, s->seed, e);
		if (!rc && whit_first_nonfinite(r->dense, d * d) >= 0)
			rc = whit_fail(e, WHIT_EINPUT, "rotation haar_qr: matrix holds NaN or Inf");
		if (rc) return whit_rotation_free(r), rc;
		for (int64_t i = 0; i < d; i++)
			for (int64_t j = 0; j < d; j++) r->dense[d * d + j * d + i] = r->dense[i * d + j];
	}
	set_part(r, WHIT_ROT_IN, r->in, r->out ? s->block : r->width);
	set_part(r, WHIT_ROT_OUT, r->out, s->block);
	set_part(r, WHIT_ROT_PALEY, r->paley, 2 * s->base * s->base);
	set_part(r, WHIT_ROT_DENSE, r->dense, d * d);
	set_part(r, WHIT_ROT_DENSE_T, r->dense ? r->dense + d * d : NULL, d * d);
	*out = r;
	return 0;
}

void whit_rotation_free(whit_rotation *r) {
	if (!r) return;
	whit_free(r->in);
	whit_free(r->out);
	whit_free(r->paley);
	whit_free(r->dense);
	whit_free(r);
}

int whit_rotation_same(const whit_rotation_spec *a, const whit_rotation_spec *b) {
	return a->kind == b->kind && a->seed == b->seed && a->dim == b->dim && a->block == b->block &&
	       a->base == b->base;
}

const whit_rotation_spec *whit_rotation_get(const whit_rotation *r) { return &r->s; }
int64_t whit_rotation_width(const whit_rotation *r) { return r->width; }
const float *whit_rotation_dense(const whit_rotation *r) { return r->dense; }
whit_rotation_part whit_rotation_get_part(const whit_rotation *r, int part) { return r->part[part]; }

/* ---- applying ---- */

/* y[t] = M x[t] for a dense (d, d) M. A row's result does not depend on how many go with it. */
static void dense_apply(const float *mat, int64_t d, float *y, const float *x, int64_t rows) {
	whit_mat m = {.rows = d, .cols = d, .width = d, .plane = {(const uint8_t *)mat}, .row_bytes = {(size_t)d * 4}};
	for (int64_t t = 0; t < rows; t += WHIT_GEMV_MAX)
		whit_floats_gemv(&m, WHIT_F32, 0, d, x + t * d, (int)WHIT_MIN(WHIT_GEMV_MAX, rows - t), y + t * d, d);
}

/* In place, each block of row y[width]: H or, with a transposed Paley factor, its transpose. */
static void transform(const whit_rotation *r, float *y, const float *paley) {
	int base = r->s.base;
	int64_t h = r->s.block / base;
	whit_fwht_fast_cpu(y, r->width / h, h);
	if (base == 1) return;
	enum { STRIP = 64 };
	float tmp[28 * STRIP];
	for (float *b = y; b < y + r->width; b += r->s.block)
		for (int64_t c = 0; c < h;
		     c += STRIP) { /* H_base across the block's runs of h, a strip of columns at once */
			int64_t n = WHIT_MIN(STRIP, h - c);
			for (int i = 0; i < base; i++) {
				float *t = tmp + i * STRIP;
				memset(t, 0, (size_t)n * sizeof(float));
				for (int j = 0; j < base; j++) {
					float s = paley[i * base + j];
					const float *src = b + j * h + c;
					for (int64_t k = 0; k < n; k++) t[k] += s * src[k];
				}
			}
			for (int i = 0; i < base; i++)
				memcpy(b + i * h + c, tmp + i * STRIP, (size_t)n * sizeof(float));
		}
}

static void scale_by(float *y, const float *x, const float *s, int64_t n, int64_t period) {
	for (int64_t i = 0; i < n; i += period)
		for (int64_t k = 0; k < WHIT_MIN(period, n - i); k++) y[i + k] = x[i + k] * s[k];
}

void whit_rotate_cpu(const whit_rotation *r, float *y, const float *x, int64_t rows) {
	int64_t d = r->s.dim, w = r->width;
	if (r->s.kind == WHIT_ROT_NONE)
		memcpy(y, x, (size_t)(rows * d) * sizeof(float));
	else if (r->dense)
		dense_apply(r->dense, d, y, x, rows);
	else
		for (int64_t t = 0; t < rows; t++, x += d, y += w) {
			scale_by(y, x, r->in, d, r->out ? r->s.block : w);
			memset(y + d, 0, (size_t)(w - d) * sizeof(float));
			transform(r, y, r->paley);
			if (r->out) scale_by(y, y, r->out, w, r->s.block);
		}
}

void whit_unrotate_cpu(const whit_rotation *r, float *x, float *y, int64_t rows) {
	int64_t d = r->s.dim, w = r->width;
	if (r->s.kind == WHIT_ROT_NONE)
		memcpy(x, y, (size_t)(rows * d) * sizeof(float));
	else if (r->dense)
		dense_apply(r->dense + d * d, d, x, y, rows);
	else
		for (int64_t t = 0; t < rows; t++, x += d, y += w) {
			if (r->out) scale_by(y, y, r->out, w, r->s.block);
			transform(r, y, r->paley ? r->paley + r->s.base * r->s.base : NULL);
			scale_by(x, y, r->in, d, r->out ? r->s.block : w);
		}
}
