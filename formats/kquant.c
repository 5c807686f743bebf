#include "formats/kquant_fast.h"
#include <math.h>
#include "formats/simd_plain.h"
#include "formats/kquant_simd.h"
#include "formats/kquant_scale.h"

#if WHIT_SIMD
#define PICK(name, ...)                                                                                                \
	(whit_cpu_level() >= 2   ? whit_kquant_##name##_avx512(__VA_ARGS__)                                            \
	 : whit_cpu_level() == 1 ? whit_kquant_##name##_avx2(__VA_ARGS__)                                              \
	                         : whit_kquant_##name##_plain(__VA_ARGS__))
#else
#define PICK(name, ...) whit_kquant_##name##_plain(__VA_ARGS__)
#endif

typedef struct chosen {
	float d[LANES], m[LANES], scale[LANES], min[LANES]; /* d, m: the same over a block's lanes */
	int over[LANES];                                    /* of a block's first lane: scales beyond F16 */
	whit_kfit fit;
} chosen;

/* Loads a block's 256 weights into lanes from `first` on; returns its exponent. */
static int load(whit_kpanel *p, int first, const float *w, const float *imp) {
	uint32_t peak = 0;
	float top, unit;
	double mean = 0, per_mean = 0;
	int exponent;
	for (int i = 0; i < 256; i++) { /* magnitudes as integers: a maximum that compilers vectorise */
		uint32_t bits = whit_load_u32(w + i) & 0x7fffffff;
		peak = bits > peak ? bits : peak;
	}
	memcpy(&top, &peak, 4);
	exponent = exponent_of(top);
	unit = (float)ldexp(1.0, -exponent);
	for (int i = 0; imp && i < 256; i++) mean += imp[i] / 256.0;
	if (mean > 0) per_mean = 1 / mean;
	for (int g = 0; g < 256 / p->n; g++)
		for (int i = 0; i < p->n; i++) {
			int to = i * LANES + first + g, from = g * p->n + i;
			p->x[to] = w[from] * unit;
			p->w[to] = mean > 0 ? weight_of(imp[from], per_mean) : 1;
		}
	return exponent;
}

static void set_scales(chosen *c, const whit_kshape *k, int first, double d, double m, int exponent) {
	int over = 0;
	float fd = f16_scale(d, exponent, &over), fm = k->min_hi ? f16_scale(m, exponent, &over) : 0;
	for (int l = first; l < first + k->groups; l++) c->d[l] = fd, c->m[l] = fm;
	c->over[first] = over;
}

/* d and m that make the longest step and the largest minimum the last integers. */
static void start(chosen *c, const whit_kshape *k, const whit_kfit fit[2], int first, int exponent) {
	float step = 0, m = 0;
	for (int l = first; l < first + k->groups; l++) {
		const whit_kfit *f = !k->min_hi && fit[1].err[l] < fit[0].err[l] ? fit + 1 : fit;
		if (fabsf(f->step[l]) > fabsf(step)) step = f->step[l];
		m = fmaxf(m, f->min[l]);
	}
	set_scales(c, k, first, step / (float)(k->min_hi ? k->scale_hi : k->scale_lo), m / fmaxf(1, (float)k->min_hi),
	           exponent);
}

/* d and m of least squared error for the integers and codes of c, where those give any. */
static void restart(chosen *c, const whit_kpanel *p, const whit_kshape *k, int first, int exponent) {
	double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
	for (int l = first; l < first + k->groups; l++) {
		double s = c->scale[l], t = c->min[l];
		aa += s * s * c->fit.qq[l];
		ab += s * t * c->fit.q[l];
		bb += t * t * p->sw[l];
		ax += s * c->fit.qx[l];
		bx += t * p->swx[l];
	}
	double d = c->d[first], m = c->m[first];
	if (solve(k, aa, ab, bb, ax, bx, &d, &m)) set_scales(c, k, first, d, m, exponent);
}

static double block_error(const whit_kfit *f, int first, int groups) {
	double e = 0;
	for (int l = first; l < first + groups; l++) e += f->err[l];
	return e;
}

static void take(chosen *to, const chosen *from, int first, int groups) {
#define TAKE(f) memcpy(to->f + first, from->f + first, (size_t)groups * sizeof *to->f)
	TAKE(d), TAKE(m), TAKE(scale), TAKE(min), TAKE(over), TAKE(fit.err);
#undef TAKE
}

static void lengthen(chosen *c, const whit_kpanel *p, const whit_kshape *k, int first, int exponent) {
	chosen old = *c;
	double xx = 0;
	for (int l = first; l < first + k->groups; l++) xx += p->swxx[l];
	double by = longer(block_error(&c->fit, first, k->groups), xx);
	set_scales(c, k, first, c->d[first] * by, c->m[first] * by, exponent);
	if (c->over[first] > old.over[first]) *c = old;
}

static void search(whit_kpanel *p, const whit_kshape *k, const int *exponent, chosen *best) {
	chosen c;
	whit_kfit fit[2];
	PICK(groups, p, k, fit);
	for (int l = 0; l < LANES; l++) best->fit.err[l] = INFINITY;
	for (int first = 0; first < LANES; first += k->groups) start(&c, k, fit, first, exponent[first / k->groups]);
	for (int r = 0; r <= RESTARTS; r++) {
		/* d and m move little from here on: so do the integers */
		int reach = r ? 1 : k->reach, min_reach = !k->min_hi ? 0 : r ? 1 : k->min_reach;
		PICK(near, p, k, c.d, c.m, r ? &c.fit : fit, r || k->min_hi ? 1 : 2, reach, min_reach, c.scale, c.min,
		     &c.fit);
		for (int first = 0; first < LANES; first += k->groups) {
			if (block_error(&c.fit, first, k->groups) < block_error(&best->fit, first, k->groups))
				take(best, &c, first, k->groups);
			if (r < RESTARTS) restart(&c, p, k, first, exponent[first / k->groups]);
		}
	}
	for (int first = 0; first < LANES; first += k->groups) lengthen(best, p, k, first, exponent[first / k->groups]);
}

int whit_kquant_encode(const whit_kshape *k, uint8_t *out, const float *w, const float *imp, int64_t n,
                       int64_t *zero_blocks) {
	int over = 0, blocks = LANES / k->groups;
	whit_kpanel p = {.n = 256 / k->groups};
	for (int64_t i = 0; i < n; i += 256 * blocks) {
		int exponent[2], count = n - i < 256 * blocks ? 1 : blocks;
		float step[LANES], min[LANES];
		uint8_t code[32 * LANES];
		chosen c;
		for (int b = 0; b < blocks; b++) { /* an odd last block stands twice */
			int64_t at = i + 256 * (b < count ? b : 0);
			exponent[b] = load(&p, b * k->groups, w + at, imp ? imp + at : NULL);
		}
		search(&p, k, exponent, &c);
		for (int l = 0; l < LANES; l++) step[l] = c.d[l] * c.scale[l], min[l] = c.m[l] * c.min[l];
		PICK(codes, &p, k, step, min, code);
		for (int b = 0; b < count; b++, out += k->bytes) {
			int first = b * k->groups, zero = 1;
			whit_kblock o = {.d = whit_f32_to_f16((float)ldexp(c.d[first], exponent[b])),
			                 .m = whit_f32_to_f16((float)ldexp(c.m[first], exponent[b]))};
			for (int g = 0; g < k->groups; g++) {
				o.scale[g] = (int8_t)c.scale[first + g];
				o.min[g] = (uint8_t)c.min[first + g];
				for (int j = 0; j < p.n; j++) o.code[g * p.n + j] = code[j * LANES + first + g];
			}
			for (int j = 0; zero && j < 256; j++) zero = w[i + 256 * b + j] == 0;
			*zero_blocks += zero;
			over += c.over[first];
			memset(out, 0, (size_t)k->bytes);
			k->pack(out, &o);
		}
	}
	return over;
}
