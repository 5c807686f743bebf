/* kquant_simd: kquant_fast.h's functions over the names of simd_plain.h, simd_avx2.h or simd_avx512.h. A group is a
 * lane, and a lane never meets another: the same bits at any width. */

enum { LANES = WHIT_KLANES };

typedef struct sums {
	vf err, q, qq, qx;
} sums;

INLINE vf tiny(void) { return set1(0x1p-80f); }
/* 1 / v; 0 for next to nothing: then codes and integers are 0. */
INLINE vf inverse(vf v) { return less_pick(mul(v, v), tiny(), zero(), quotient(set1(1), v)); }
INLINE vf clamped(vf v, vf lo, vf hi) { return smaller(larger(rounded(v), lo), hi); }

/* Lanes l.. with this step and minimum: nearest codes, their error and sums. Unused sums cost nothing. */
INLINE sums pass(const whit_kpanel *p, int l, vf step, vf min, vf lo, vf hi) {
	sums s = {zero(), zero(), zero(), zero()};
	vf inv = inverse(step), shift = mul(min, inv), neg = sub(zero(), step);
	for (int i = 0; i < p->n; i++) {
		vf x = ld(p->x + i * LANES + l), w = ld(p->w + i * LANES + l);
		vf q = clamped(fmadd(x, inv, shift), lo, hi);
		vf r = fmadd(neg, q, add(x, min)), wq = mul(w, q);
		s.err = fmadd(mul(w, r), r, s.err);
		s.q = add(s.q, wq);
		s.qq = fmadd(wq, q, s.qq);
		s.qx = fmadd(wq, x, s.qx);
	}
	return s;
}

typedef struct best {
	vf step, min;
	sums s;
} best;

INLINE void keep(best *b, vf step, vf min, sums s) {
	vf old = b->s.err;
	b->step = less_pick(s.err, old, step, b->step);
	b->min = less_pick(s.err, old, min, b->min);
	b->s.q = less_pick(s.err, old, s.q, b->s.q);
	b->s.qq = less_pick(s.err, old, s.qq, b->s.qq);
	b->s.qx = less_pick(s.err, old, s.qx, b->s.qx);
	b->s.err = smaller(s.err, old);
}

INLINE void st_best(whit_kfit *f, int l, best b) {
	st(f->step + l, b.step);
	st(f->min + l, b.min);
	st(f->err + l, b.s.err);
	st(f->q + l, b.s.q);
	st(f->qq + l, b.s.qq);
	st(f->qx + l, b.s.qx);
}

/* Step and minimum, neither below 0, of least error for codes with these sums; sw, swx: of w and w x. Where the codes
 * hardly differ there is no telling a step from a minimum, but in the noise of the sums: then no minimum. */
INLINE void refit(sums s, vf sw, vf swx, vf *step, vf *min) {
	vf full = mul(sw, s.qq), det = sub(full, mul(s.q, s.q));
	vf both = quotient(sub(mul(sw, s.qx), mul(swx, s.q)), larger(det, tiny()));
	vf m = quotient(sub(mul(s.q, both), swx), larger(sw, tiny()));
	m = less_pick(det, mul(full, set1(1e-5f)), zero(), m);
	vf alone = quotient(s.qx, larger(s.qq, tiny()));
	*step = larger(less_pick(zero(), m, both, alone), zero());
	*min = larger(m, zero());
}

INLINE float steps(const whit_kshape *k, int t) {
	return k->from + (k->to - k->from) * (float)t / (float)(k->tries - 1);
}

INLINE void groups_min(const whit_kpanel *p, const whit_kshape *k, int l, whit_kfit *fit) {
	vf lo = zero(), hi = set1((float)k->code_hi), low = zero(), high = ld(p->x + l);
	vf sw = ld(p->sw + l), swx = ld(p->swx + l);
	for (int i = 0; i < p->n; i++) {
		vf x = ld(p->x + i * LANES + l);
		low = smaller(x, low);
		high = larger(x, high);
	}
	vf floor = sub(zero(), low), range = sub(high, low);
	best b = {zero(), floor, pass(p, l, zero(), floor, lo, hi)};
	for (int t = 0; t < k->tries; t++) {
		vf step = quotient(range, set1(steps(k, t))), min = floor;
		for (int r = 0; r <= k->refits; r++) {
			sums s = pass(p, l, step, min, lo, hi);
			keep(&b, step, min, s);
			refit(s, sw, swx, &step, &min);
		}
	}
	st_best(fit, l, b);
}

INLINE void groups_sign(const whit_kpanel *p, const whit_kshape *k, int l, whit_kfit fit[2]) {
	vf lo = set1((float)k->code_lo), hi = set1((float)k->code_hi), peak = zero();
	for (int i = 0; i < p->n; i++) peak = larger(magnitude(ld(p->x + i * LANES + l)), peak);
	for (int sign = 0; sign < 2; sign++) {
		best b = {zero(), zero(), pass(p, l, zero(), zero(), lo, hi)};
		for (int t = 0; t < k->tries; t++) {
			vf step = quotient(peak, set1(sign ? steps(k, t) : -steps(k, t)));
			for (int r = 0; r <= k->refits; r++) {
				sums s = pass(p, l, step, zero(), lo, hi);
				keep(&b, step, zero(), s);
				step = quotient(s.qx, larger(s.qq, tiny()));
			}
		}
		st_best(fit + sign, l, b);
	}
}

TARGET void LEVEL(whit_kquant_groups)(whit_kpanel *p, const whit_kshape *k, whit_kfit fit[2]) {
	for (int l = 0; l < LANES; l += W) {
		vf sw = zero(), swx = zero(), swxx = zero();
		for (int i = 0; i < p->n; i++) {
			vf x = ld(p->x + i * LANES + l), w = ld(p->w + i * LANES + l), wx = mul(w, x);
			sw = add(sw, w);
			swx = add(swx, wx);
			swxx = fmadd(wx, x, swxx);
		}
		st(p->sw + l, sw);
		st(p->swx + l, swx);
		st(p->swxx + l, swxx);
		if (k->min_hi)
			groups_min(p, k, l, fit);
		else
			groups_sign(p, k, l, fit);
	}
}

TARGET void LEVEL(whit_kquant_near)(const whit_kpanel *p, const whit_kshape *k, const float *d, const float *m,
                                    const whit_kfit *fit, int fits, int reach, int min_reach, float *scale, float *min,
                                    whit_kfit *out) {
	vf lo = set1((float)k->code_lo), hi = set1((float)k->code_hi);
	vf slo = set1((float)k->scale_lo), shi = set1((float)k->scale_hi), mhi = set1((float)k->min_hi);
	for (int l = 0; l < LANES; l += W) {
		vf unit = ld(d + l), inv = inverse(unit), min_unit = ld(m + l), min_inv = inverse(min_unit);
		vf err = set1(INFINITY), bs = zero(), bm = zero(), sw = ld(p->sw + l);
		for (int f = 0; f < fits; f++) {
			vf step = ld(fit[f].step + l), mean = quotient(ld(fit[f].q + l), larger(sw, tiny()));
			for (int a = -reach; a <= reach; a++) {
				vf s = clamped(fmadd(step, inv, set1((float)a)), slo, shi), ds = mul(unit, s);
				/* the minimum moves with the step, so that the codes' mean stays where it is */
				vf floor = fmadd(sub(ds, step), mean, ld(fit[f].min + l));
				for (int b = -min_reach; b <= min_reach; b++) {
					vf t = clamped(fmadd(floor, min_inv, set1((float)b)), zero(), mhi);
					vf e = pass(p, l, ds, mul(min_unit, t), lo, hi).err;
					bs = less_pick(e, err, s, bs);
					bm = less_pick(e, err, t, bm);
					err = smaller(e, err);
				}
			}
		}
		st(scale + l, bs);
		st(min + l, bm);
		vf step = mul(unit, bs), floor = mul(min_unit, bm);
		best b = {step, floor, pass(p, l, step, floor, lo, hi)};
		st_best(out, l, b);
	}
}

TARGET void LEVEL(whit_kquant_codes)(const whit_kpanel *p, const whit_kshape *k, const float *step, const float *min,
                                     uint8_t *code) {
	vf lo = set1((float)k->code_lo), hi = set1((float)k->code_hi);
	for (int l = 0; l < LANES; l += W) {
		vf inv = inverse(ld(step + l)), shift = mul(ld(min + l), inv);
		for (int i = 0; i < p->n; i++)
			st_u8(code + i * LANES + l,
			      to_int(sub(clamped(fmadd(ld(p->x + i * LANES + l), inv, shift), lo, hi), lo)));
	}
}
