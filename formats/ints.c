/* ints: rounding of activations, the plain product, plain pieces of the fast one and how they are put together. */
#include "formats/ints_fast.h"
#include <float.h>
#include <math.h>

void whit_ints_decode(const whit_ints *f, int n, const uint8_t *b, float *out) {
	uint8_t u[256];
	float scale[16], shift[16];
	f->unpack(b, u, scale, shift);
	for (int i = 0; i < n; i++) {
		float w = scale[i / f->group] * (float)(u[i] - f->zero);
		out[i] = f->shifts ? w + shift[i / f->group] : w;
	}
}

void whit_ints_unpack_row(const whit_mat *m, int64_t r, uint8_t *u, float *scale, float *shift) {
	const whit_block *b = m->spec.fmt->block;
	const uint8_t *p = m->plane[0] + (size_t)r * m->row_bytes[0];
	int per = b->weights / b->ints->group;
	for (int64_t i = 0; i < m->width; i += b->weights, p += b->bytes, scale += per, shift += per)
		b->ints->unpack(p, u + i, scale, shift);
}

/* ---- activations ---- */

/* The signed value of largest magnitude, the first of equals; NaN if there is a NaN or Inf. */
static float extreme(const float *x, int n) {
	float top = 0, poison = 0;
	for (int i = 0; i < n; i++) {
		top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
		poison += x[i] * 0;
	}
	return top + poison;
}

float whit_ints_scale(int act, float top, float *inverse) {
	int k = act == WHIT_ACT_Q8_K;
	*inverse = k ? -127 / top : 127 / fabsf(top);
	if (!(fabsf(*inverse) <= FLT_MAX)) {
		*inverse = 0;
		return top == top ? 0 : top;
	}
	return k ? 1 / *inverse : fabsf(top) / 127;
}

static void round_plain(int act, const float *x, int64_t n, int8_t *code, int32_t *quad, float *d, float *base) {
	int size = act == WHIT_ACT_Q8_K ? 256 : 32;
	for (int64_t i = 0; i < n; i += size) {
		float inverse, scale = whit_ints_scale(act, extreme(x + i, size), &inverse);
		for (int64_t k = i; k < i + size; k++) code[k] = inverse == 0 ? 0 : (int8_t)nearbyintf(x[k] * inverse);
		for (int64_t k = i; k < i + size; k += 32) {
			base[k / 32] = scale;
			d[k / 32] = act == WHIT_ACT_Q8_K ? scale : whit_f16_to_f32(whit_f32_to_f16(scale));
		}
	}
	for (int64_t i = 0; i < n; i += 4) quad[i / 4] = code[i] + code[i + 1] + code[i + 2] + code[i + 3];
}

static const whit_ints_set *set(void);

/* Sum of the codes of group g. */
static int group_sum(const whit_ints *f, const int32_t *quad, int64_t g) {
	int sum = 0;
	for (int k = 0; k < f->group / 4; k++) sum += quad[g * f->group / 4 + k];
	return sum;
}

static float shift_factor(const whit_ints *f, float d, float base, int sum) {
	return f->act == WHIT_ACT_Q8_1 ? whit_f16_to_f32(whit_f32_to_f16(base * (float)sum)) : d * (float)sum;
}

static void round_with(const whit_ints_set *v, const whit_ints *f, const float *x, int64_t n, int8_t *code,
                       int32_t *quad, float *d, float *s) {
	float base[8]; /* of 256 values */
	for (int64_t i = 0; i < n; i += 256) {
		int64_t m = WHIT_MIN(256, n - i);
		v->round(f->act, x + i, m, code + i, quad + i / 4, d + i / 32, base);
		for (int64_t g = i / f->group; g < (i + m) / f->group; g++) {
			int64_t k = g * f->group / 32;
			s[g] = shift_factor(f, d[k], base[k - i / 32], group_sum(f, quad, g));
		}
	}
}

void whit_ints_round(const whit_ints *f, const float *x, int64_t n, int8_t *code, int32_t *quad, float *d, float *s) {
	round_with(set(), f, x, n, code, quad, d, s);
}

/* ---- plain ---- */

void whit_ints_linear_plain(float *y, const float *x, int64_t T, const whit_mat *m) {
	const whit_ints *f = m->spec.fmt->block->ints;
	int64_t n = m->width, groups = n / f->group;
	uint8_t *u = whit_alloc((size_t)n);
	int8_t *code = whit_alloc((size_t)(T * n));
	int32_t *quad = whit_alloc((size_t)n / 4 * sizeof *quad);
	float *scale = whit_alloc((size_t)groups * sizeof *scale), *shift = whit_alloc((size_t)groups * sizeof *shift);
	float *d = whit_alloc((size_t)(T * n / 32) * sizeof *d), *s = whit_alloc((size_t)(T * groups) * sizeof *s);
	whit_ints_set plain = {.round = round_plain};
	for (int64_t t = 0; t < T; t++)
		round_with(&plain, f, x + t * n, n, code + t * n, quad, d + t * n / 32, s + t * groups);
	for (int64_t r = 0; r < m->rows; r++) {
		whit_ints_unpack_row(m, r, u, scale, shift);
		for (int64_t t = 0; t < T; t++) {
			double sum = 0;
			for (int64_t g = 0; g < groups; g++) {
				int dot = 0;
				for (int64_t i = g * f->group; i < (g + 1) * f->group; i++)
					dot += (u[i] - f->zero) * code[t * n + i];
				sum += (double)scale[g] * d[t * n / 32 + g * f->group / 32] * dot;
				if (f->shifts) sum += (double)shift[g] * s[t * groups + g];
			}
			y[t * m->rows + r] = (float)sum;
		}
	}
	whit_free(u), whit_free(code), whit_free(quad), whit_free(scale), whit_free(shift), whit_free(d), whit_free(s);
}

/* One row and one token at a time: panels of one token, tiles of one row. */
static void gemm_plain(const whit_ints *f, const whit_ints_tile *t, const whit_ints_x *x, int64_t n, int64_t T,
                       float *y, int64_t ldy) {
	float sum = 0;
	(void)n, (void)T, (void)ldy;
	for (int64_t g = 0; g < t->groups; g++) {
		const uint8_t *u = t->u + g * f->group;
		const int8_t *a = x->code + g * f->group;
		int dot = x->init[g];
		for (int i = 0; i < f->group; i++) dot += u[i] * a[i];
		sum += t->scale[g] * x->d[g] * (float)dot;
		if (f->shifts) sum += t->shift[g] * x->s[g];
	}
	*y = sum;
}

static void pack_plain(const whit_mat *m, int64_t r0, const whit_ints_tile *t, void *work) {
	(void)work;
	whit_ints_unpack_row(m, r0, t->u, t->scale, t->shift);
}

static const whit_ints_set set_plain = {1, 1, 1, round_plain, NULL, NULL, pack_plain, gemm_plain};

static const whit_ints_set *set(void) {
#if WHIT_SIMD
	switch (whit_cpu_level()) {
	case 3:
		return &whit_ints_vnni;
	case 2:
		return &whit_ints_avx512;
	case 1:
		return &whit_ints_avx2;
	}
#endif
	return &set_plain;
}

/* ---- the fast product ---- */

enum {
	ROW_BYTES = 32 << 10, /* of weights, an item of a gemv: worth handing out, small enough to balance */
	MIN_ROWS = 16,
	PAD = 16 /* floats that vectors may touch behind the groups of a row */
};

static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* A vector step of rows is 64 columns: unpacked rows have room for whole ones. */
static int64_t u_bytes(const whit_mat *m) { return padded(m->width); }

static int64_t row_work(const whit_ints_plan *p) {
	return u_bytes(p->m) + padded(2 * (p->groups + PAD) * (int64_t)sizeof(float));
}

static int is_gemv(const whit_ints_plan *p) { return p->T == 1 && p->set->gemv; }

void whit_ints_plan_make(whit_ints_plan *p, const whit_mat *m, int64_t T) {
	const whit_ints_set *v = set();
	*p = (whit_ints_plan){.m = m, .T = T, .set = v, .groups = m->width / m->spec.fmt->block->ints->group};
	p->tokens = is_gemv(p) ? 1 : v->tokens;
	p->rows = is_gemv(p) ? WHIT_MAX(MIN_ROWS, ROW_BYTES / (int64_t)m->row_bytes[0]) : WHIT_MAX(MIN_ROWS, v->rows);
	p->panels = (T + p->tokens - 1) / p->tokens;
	p->items = (m->rows + p->rows - 1) / p->rows;
	p->d_at = padded(m->width * p->tokens) + padded((is_gemv(p) ? m->width / 4 : p->groups * p->tokens) * 4);
	p->s_at = p->d_at + padded((p->groups * p->tokens + PAD) * 4);
	p->lane_at = p->s_at + padded((p->groups * p->tokens + PAD) * 4);
	p->panel_bytes = p->lane_at + (is_gemv(p) ? padded(m->width) : 0);
	p->x_bytes = (size_t)(p->panel_bytes * p->panels);
	p->u_size = u_bytes(m) * v->lanes;
	/* rounding a row: code, quad, d, s; a tile and the rows it is made of */
	int64_t round = 4 * padded(m->width + 4 * PAD), floats = padded((p->groups + PAD) * v->lanes * 4);
	int64_t tile = p->rows / v->lanes * (p->u_size + 2 * floats) + v->lanes * row_work(p);
	p->work_bytes = (size_t)WHIT_MAX(round, is_gemv(p) ? row_work(p) : tile);
}

static whit_ints_x panel(const whit_ints_plan *p, int64_t i) {
	uint8_t *at = p->x + i * p->panel_bytes;
	return (whit_ints_x){(int8_t *)at, (int32_t *)(at + padded(p->m->width * p->tokens)), (float *)(at + p->d_at),
	                     (float *)(at + p->s_at), (float *)(at + p->lane_at)};
}

/* Token t of a panel for gemm: columns of its four-byte steps and of its groups. */
static void into_panel(const whit_ints_plan *p, const whit_ints_x *x, int64_t t, const int8_t *code,
                       const int32_t *quad, const float *d, const float *s) {
	const whit_ints *f = p->m->spec.fmt->block->ints;
	int64_t P = p->tokens;
	for (int64_t k = 0; k < p->m->width / 4; k++) memcpy(x->code + 4 * (k * P + t), code + 4 * k, 4);
	for (int64_t g = 0; g < p->groups; g++) {
		x->init[g * P + t] = f->zero ? -f->zero * group_sum(f, quad, g) : 0;
		x->d[g * P + t] = d[g * f->group / 32];
		x->s[g * P + t] = s[g];
	}
}

/* The only token, for gemv. */
static void into_order(const whit_ints_plan *p, const whit_ints_x *x, const int8_t *code, const int32_t *quad,
                       const float *d, const float *s) {
	const whit_ints *f = p->m->spec.fmt->block->ints;
	int64_t steps = p->m->width / 4;
	uint8_t order[64];
	int fold = p->set->order(p->m->spec.fmt, order);
	for (int64_t i = 0; i < steps; i++) {
		int64_t from = i < steps / 64 * 64 ? i / 64 * 64 + order[i % 64] : i;
		memcpy(x->code + 4 * i, code + 4 * from, 4);
		x->init[i] = -f->zero * quad[from];
		x->lane[i] = d[from / 8];
	}
	for (int64_t i = 0; fold && i < steps / 64 * 64; i++)
		if (i % 32 < 16) x->init[i] += x->init[i + 16];
	for (int64_t g = 0; g < p->groups; g++) {
		x->d[g] = d[g * f->group / 32];
		x->s[g] = s[g];
	}
}

void whit_ints_prepare(const whit_ints_plan *p, int64_t i, const float *in, void *work) {
	const whit_ints *f = p->m->spec.fmt->block->ints;
	int64_t n = p->m->width, part = padded(n + 4 * PAD), T = WHIT_MIN(p->tokens, p->T - i * p->tokens);
	int8_t *code = work;
	int32_t *quad = (int32_t *)((uint8_t *)work + part);
	float *d = (float *)((uint8_t *)work + 2 * part), *s = (float *)((uint8_t *)work + 3 * part);
	whit_ints_x x = panel(p, i);
	if (T < p->tokens || is_gemv(p)) memset(x.code, 0, (size_t)p->panel_bytes); /* what stands for no token */
	for (int64_t t = 0; t < T; t++) {
		round_with(p->set, f, in + (i * p->tokens + t) * n, n, code, quad, d, s);
		if (is_gemv(p))
			into_order(p, &x, code, quad, d, s);
		else
			into_panel(p, &x, t, code, quad, d, s);
	}
}

void whit_ints_item(const whit_ints_plan *p, int64_t i, float *y, void *work) {
	const whit_ints_set *v = p->set;
	const whit_mat *m = p->m;
	int64_t r0 = i * p->rows, r1 = WHIT_MIN(r0 + p->rows, m->rows);
	if (is_gemv(p)) {
		whit_ints_x x = panel(p, 0);
		v->gemv(m, r0, r1, &x, y, work);
		return;
	}
	int64_t floats = (p->groups + PAD) * v->lanes, all = p->rows / v->lanes;
	whit_ints_tile t = {.u = work, .u_size = p->u_size, .groups = p->groups};
	t.scale = (float *)(t.u + all * t.u_size);
	t.shift = t.scale + all * floats;
	void *row = t.shift + all * floats;
	t.floats = floats;
	for (int64_t k = 0; k < (r1 - r0 + v->rows - 1) / v->rows * v->rows / v->lanes; k++) {
		whit_ints_tile one = t;
		one.u += k * t.u_size, one.scale += k * floats, one.shift += k * floats;
		v->pack(m, r0 + k * v->lanes, &one, row);
	}
	for (int64_t q = 0; q < p->panels; q++) {
		whit_ints_x x = panel(p, q);
		int64_t t0 = q * p->tokens;
		for (int64_t r = r0; r < r1; r += v->rows) {
			whit_ints_tile at = t;
			int64_t k = (r - r0) / v->lanes;
			at.u += k * t.u_size, at.scale += k * floats, at.shift += k * floats;
			v->gemm(m->spec.fmt->block->ints, &at, &x, WHIT_MIN(v->rows, r1 - r),
			        WHIT_MIN(p->tokens, p->T - t0), y + t0 * m->rows + r, m->rows);
		}
	}
}
