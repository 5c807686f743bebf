/* grid_simd: grid.h's search over the names of simd_plain.h, simd_avx2.h or simd_avx512.h. Lane l of a vector is group
 * l, so nothing is ever added across lanes and 1, 8 and 16 lanes give the same bits.
 *
 * Weights are brought to max |w| in [1, 2) by a power of two of each group, so that no sum overflows and none vanishes,
 * however the weights are scaled; a scale is taken back to be rounded to F16. Errors are sums of (w - d q)^2 as
 * they are, not differences of large sums, so F32 is enough for 8 bits. */

enum { VECTORS = WHIT_GRID_BATCH / W };

typedef struct lanes_of { /* one group in each lane */
	vf *x, *imp;      /* n each; the caller's memory */
	vf big;           /* max |x|, or 1 where all are 0 */
	vf scale, back;   /* x = w scale, w = x back */
	vf none;          /* 1 where all are 0, else 0 */
	int n, weighted;
} lanes_of;

/* Step or level sums of one trial: e = x - d q. */
typedef struct sums {
	vf ee, eq, qq, e, q;
} sums;

/* x[i] lane l = w[l n + i], l < groups. */
INLINE void load_lanes(vf *x, const float *w, int groups, int n) {
	for (int i = 0; i < n; i += W) {
		vf a[W], b[W];
		for (int l = 0; l < W; l++) a[l] = l < groups ? ld(w + (int64_t)l * n + i) : zero();
		WHIT_UNROLL for (int s = 1; s < W; s *= 2) { /* even lanes, then odd ones: log2(W) times transposes */
			WHIT_UNROLL for (int k = 0; k < W / 2; k++) unzip(a[2 * k], a[2 * k + 1], b + k, b + W / 2 + k);
			WHIT_UNROLL for (int k = 0; k < W; k++) a[k] = b[k];
		}
		WHIT_UNROLL for (int k = 0; k < W; k++) x[i + k] = a[k];
	}
}

INLINE vf peak_of(const vf *x, int n) {
	vf big = zero();
	for (int i = 0; i < n; i++) big = larger(big, magnitude(x[i]));
	return big;
}

/* The power of two that takes big near 1, and its inverse; both finite and normal for any big. */
INLINE vf unit_scale(vf big, vf *back) {
	vf b = smaller(larger(big, set1(0x1p-126f)), set1(0x1p126f));
	vu e = (vu)bits_of(b) & 0x7f800000u;
	*back = float_of((vi)e);
	return float_of((vi)(0x7f000000u - e));
}

INLINE void times(vf *x, int n, vf s, vf least) {
	for (int i = 0; i < n; i++) x[i] = larger(mul(x[i], s), least);
}

INLINE void load_weights(lanes_of *in, const float *w, const float *imp, int groups, int n) {
	in->n = n;
	in->weighted = imp != NULL;
	load_lanes(in->x, w, groups, n);
	in->big = peak_of(in->x, n);
	in->none = less_pick(zero(), in->big, zero(), set1(1));
	if (!imp) return;
	vf back;
	load_lanes(in->imp, imp, groups, n);
	times(in->imp, n, unit_scale(peak_of(in->imp, n), &back), set1(0x1p-24f));
}

INLINE void normalize(lanes_of *in) {
	times(in->x, in->n, in->scale, set1(-INFINITY));
	in->big = less_pick(zero(), in->big, mul(in->big, in->scale), set1(1));
}

/* ---- F16 ---- */

/* The nearest F16, a number: beyond is 65504; what is not 0 stays so where not `zero_ok`. */
INLINE vf grid_f16(vf v, int zero_ok) {
	vf r = round_f16(smaller(larger(v, set1(-65504)), set1(65504)));
	vf least = less_pick(v, zero(), set1(-0x1p-24f), set1(0x1p-24f));
	return zero_ok ? r : less_pick(magnitude(r), set1(0x1p-24f), least, r);
}

/* Stores scales; counts those that are beyond F16. */
INLINE void put_f16(uint16_t *d, vf v, int groups, int *bad) {
	float a[W];
	uint16_t h[W];
	st(a, v);
	st_f16(h, grid_f16(v, 1));
	for (int l = 0; l < W && l < groups; l++) {
		d[l] = h[l];
		*bad += !(fabsf(a[l]) <= 65504);
	}
}

/* ---- codes ---- */

INLINE vf clamped(vf q, vf lo, vf hi) { return smaller(larger(q, lo), hi); }

typedef struct table { /* of 16 ascending levels */
	lut level, middle;
} table;

INLINE vi nearest_level(const table *t, vf y) {
	vi k = iset1(0);
	WHIT_UNROLL for (int s = 8; s; s /= 2) k = step_above(k, y, lookup(t->middle, iadd(k, iset1(s - 1)), 4), s);
	return k;
}

/* scratch outlives the table. */
INLINE table table_of(const int8_t *level, float scratch[32]) {
	float *middle = scratch + 16;
	for (int k = 0; k < 16; k++) scratch[k] = level[k];
	for (int k = 0; k < 15; k++) middle[k] = (scratch[k] + scratch[k + 1]) / 2;
	middle[15] = INFINITY;
	table t = {lut_of(scratch), lut_of(middle)};
	return t;
}

/* Codes of each group for its stored scale d and minimum m, in the order of weights. */
INLINE void put_codes(const whit_grid *g, uint8_t *code, const float *w, const float *d, const float *m, int groups,
                      const table *t) {
	const vf lo = set1((float)g->lo), hi = set1((float)g->hi);
	for (int l = 0; l < groups; l++) {
		const vf inv = set1(d[l] != 0 ? 1 / d[l] : 0), min = set1(m ? m[l] : 0);
		for (int i = 0; i < g->weights; i += W, w += W, code += W) {
			vf y = mul(sub(ld(w), min), inv);
			vi k = t ? nearest_level(t, y) : iadd(to_int(clamped(rounded(y), lo, hi)), iset1(-g->lo));
			st_u8(code, k);
		}
	}
}

/* ---- sums of one trial ---- */

INLINE void add_term(sums *s, vf e, vf q, vf imp, int weighted, int only_error) {
	vf pe = weighted ? mul(imp, e) : e;
	s->ee = fmadd(pe, e, s->ee);
	if (only_error) return;
	s->eq = fmadd(pe, q, s->eq);
	s->qq = fmadd(weighted ? mul(imp, q) : q, q, s->qq);
}

INLINE void sums_clear(sums *s) { s->ee = s->eq = s->qq = s->e = s->q = zero(); }

/* Codes lo .. hi at step d; with two sides also -hi .. -lo. */
INLINE void step_sums(sums s[2], const lanes_of *in, int weighted, int sides, int only_error, vf d, vf inv, vf lo,
                      vf hi) {
	sums a, b;
	const vf less = sub(zero(), d), lo2 = sub(zero(), hi), hi2 = sub(zero(), lo);
	sums_clear(&a);
	sums_clear(&b);
	for (int i = 0; i < in->n; i++) {
		vf r = rounded(mul(in->x[i], inv)), q = clamped(r, lo, hi);
		add_term(&a, fmadd(less, q, in->x[i]), q, in->imp[i], weighted, only_error);
		if (sides == 1) continue;
		q = clamped(r, lo2, hi2);
		add_term(&b, fmadd(less, q, in->x[i]), q, in->imp[i], weighted, only_error);
	}
	s[0] = a;
	if (sides == 2) s[1] = b;
}

INLINE void level_sums(sums *s, const lanes_of *in, int weighted, int only_error, vf d, vf inv, const table *t) {
	sums a;
	const vf less = sub(zero(), d);
	sums_clear(&a);
	for (int i = 0; i < in->n; i++) {
		vf c = lookup(t->level, nearest_level(t, mul(in->x[i], inv)), 4);
		add_term(&a, fmadd(less, c, in->x[i]), c, in->imp[i], weighted, only_error);
	}
	*s = a;
}

/* w = m + d q, with q counted from the middle of its range and all five sums. */
INLINE void min_sums(sums *s, const lanes_of *in, int weighted, vf d, vf inv, vf m, vf hi) {
	sums a;
	const vf less = sub(zero(), d), middle = mul(hi, set1(.5f));
	sums_clear(&a);
	for (int i = 0; i < in->n; i++) {
		vf y = sub(in->x[i], m), q = clamped(rounded(mul(y, inv)), zero(), hi);
		vf e = fmadd(less, q, y), c = sub(q, middle);
		add_term(&a, e, c, in->imp[i], weighted, 0);
		a.e = weighted ? fmadd(in->imp[i], e, a.e) : add(a.e, e);
		a.q = weighted ? fmadd(in->imp[i], c, a.q) : add(a.q, c);
	}
	*s = a;
}

/* What d gains by least squares, and the error that is left then. */
INLINE vf refit(const sums *s, vf *err) {
	vf gain = quotient(s->eq, larger(s->qq, set1(0x1p-100f)));
	*err = sub(s->ee, mul(s->eq, gain));
	return gain;
}

typedef struct best { /* of the trials so far */
	vf err, d;
} best;
INLINE void keep(best *b, vf err, vf d) {
	b->d = less_pick(err, b->err, d, b->d);
	b->err = less_pick(err, b->err, err, b->err);
}
INLINE best best_none(void) {
	best b = {set1(INFINITY), zero()};
	return b;
}

/* ---- trials ---- */

enum { TRIALS = 64 };

/* From each trial a step is fitted, so they need only be dense enough to meet each way of rounding the largest weights.
 * Weights that matter little may be clipped far. */
INLINE int trials_of(const whit_grid *g, int weighted, float s[TRIALS]) {
	static const struct {
		int n;
		float times_to[12];
	} beyond[] = {/* by kind */
	              {7, {1.12f, 1.28f, 1.5f, 1.8f, 2.3f, 3, 4}},
	              {12, {.99f, .98f, .97f, .96f, .95f, .94f, .93f, .92f, .91f, .9f, .89f, .88f}},
	              {2, {-1.5f, -3}},
	              {5, {1.1f, 1.25f, 1.5f, 2, 2.6f}},
	              {0, {0}}, /* POWER, SIGN: none */
	              {0, {0}},
	              {5, {1.1f, 1.25f, 1.5f, 2, 2.6f}}};
	int n = (int)((g->to - g->from) / g->by + 1.5f);
	for (int i = 0; i < n; i++) s[i] = g->from + (float)i * g->by;
	for (int i = 0; weighted && i < beyond[g->kind].n; i++) s[n++] = g->to * beyond[g->kind].times_to[i];
	return n;
}

/* ---- the kinds; each returns its scale in the weights' own units, F16 but for what is beyond ---- */

/* From the unrounded d: rounded to F16 and refitted, the best of which counts. */
enum { POLISH = 2 };

INLINE vf beyond_f16(vf wanted, vf stored) { /* a scale that does not fit is shown as it is */
	return less_pick(set1(65504), magnitude(wanted), wanted, stored);
}

INLINE vf find_step(const whit_grid *g, const lanes_of *in, int weighted, int sides) {
	const vf lo = set1((float)g->lo), hi = set1((float)g->hi), one = quotient(set1(1), in->big);
	best b = best_none(), stored = best_none();
	sums s[2];
	vf err;
	float trial[TRIALS];
	int trials = trials_of(g, weighted, trial);
	for (int k = 0; k < trials; k++) {
		vf d = mul(in->big, set1(1 / trial[k]));
		step_sums(s, in, weighted, sides, 0, d, mul(one, set1(trial[k])), lo, hi);
		for (int i = 0; i < sides; i++) {
			vf fitted = add(d, refit(s + i, &err));
			keep(&b, err, i ? sub(zero(), fitted) : fitted);
		}
	}
	vf wanted = mul(b.d, in->back);
	for (int k = 0; k < POLISH; k++) {
		vf v = grid_f16(mul(b.d, in->back), 0), d = mul(v, in->scale);
		step_sums(s, in, weighted, 1, 0, d, quotient(set1(1), d), lo, hi);
		keep(&stored, s[0].ee, v);
		b.d = add(d, refit(s, &err));
	}
	return beyond_f16(wanted, stored.d);
}

INLINE vf find_fine(const whit_grid *g, const lanes_of *in, int weighted) {
	const vf lo = set1((float)g->lo), hi = set1((float)g->hi), big = mul(in->big, in->back);
	best stored = best_none();
	float trial[TRIALS];
	int trials = trials_of(g, weighted, trial);
	for (int k = 0; k < trials; k++) {
		vf v = grid_f16(quotient(big, set1(trial[k])), 0), d = mul(v, in->scale);
		sums s[2];
		step_sums(s, in, weighted, 1, 1, d, quotient(set1(1), d), lo, hi);
		keep(&stored, s[0].ee, v);
	}
	return beyond_f16(quotient(big, hi), stored.d);
}

INLINE vf find_level(const whit_grid *g, const lanes_of *in, int weighted, const table *t, int rounds) {
	const vf one = quotient(set1(1), in->big);
	best b = best_none(), stored = best_none();
	sums s;
	vf err;
	float trial[TRIALS];
	int trials = trials_of(g, weighted, trial);
	for (int k = 0; k < 2 * trials; k++) {
		float at = k % 2 ? -trial[k / 2] : trial[k / 2];
		vf d = mul(in->big, set1(1 / at));
		level_sums(&s, in, weighted, 0, d, mul(one, set1(at)), t);
		vf gain = refit(&s, &err);
		keep(&b, err, add(d, gain));
	}
	vf wanted = mul(b.d, in->back);
	stored.err = zero(); /* of d = 0: no level is 0, so the least F16 may be too large */
	for (int i = 0; i < in->n; i++)
		stored.err = fmadd(weighted ? mul(in->imp[i], in->x[i]) : in->x[i], in->x[i], stored.err);
	for (int k = 0; k < rounds; k++) {
		vf v = grid_f16(mul(b.d, in->back), 0), d = mul(v, in->scale);
		level_sums(&s, in, weighted, 0, d, quotient(set1(1), d), t);
		keep(&stored, s.ee, v);
		b.d = add(d, refit(&s, &err));
	}
	return rounds ? beyond_f16(wanted, stored.d) : b.d;
}

/* d = 2^(e - 128) with e >= 2, so that neither it nor its inverse is subnormal. */
INLINE vf find_power(const lanes_of *in, int weighted, const table *t) {
	static const float trial[] = {0.125f, 0.25f, 0.0625f}; /* 2^-3: 12 stands for 1.5, and max |x| is in [1, 2) */
	best stored = best_none();
	for (int k = 0; k < WHIT_COUNT(trial); k++) {
		vf v = mul(in->back, set1(trial[k])), d;
		sums s;
		v = clamped(v, set1(0x1p-126f), set1(0x1p126f));
		d = mul(v, in->scale);
		level_sums(&s, in, weighted, 1, d, quotient(set1(1), d), t);
		keep(&stored, s.ee, v);
	}
	return stored.d;
}

INLINE vf find_sign(const lanes_of *in, int weighted) {
	vf sum = zero(), all = zero();
	for (int i = 0; i < in->n; i++) {
		vf p = weighted ? in->imp[i] : set1(1);
		sum = fmadd(p, magnitude(in->x[i]), sum);
		all = add(all, p);
	}
	vf wanted = mul(quotient(sum, all), in->back);
	return beyond_f16(wanted, grid_f16(wanted, 1));
}

/* Least squares for d and m at once; what is nearly one code only leaves d as it is. */
INLINE void refit_min(const sums *s, vf all, vf hi, vf *d, vf *m, vf *err) {
	vf D = sub(mul(all, s->qq), mul(s->q, s->q)), floor = mul(set1(0x1p-18f), mul(all, s->qq));
	vf gain = quotient(sub(mul(all, s->eq), mul(s->q, s->e)), D);
	gain = less_pick(floor, D, gain, zero());
	vf shift = quotient(sub(s->e, mul(gain, s->q)), all);
	*err = sub(sub(s->ee, mul(gain, s->eq)), mul(shift, s->e));
	*d = add(*d, gain);
	*m = add(*m, sub(shift, mul(gain, mul(hi, set1(.5f)))));
}

typedef struct best_min {
	vf err, d, m;
} best_min;
INLINE void keep_min(best_min *b, vf err, vf d, vf m) {
	b->d = less_pick(err, b->err, d, b->d);
	b->m = less_pick(err, b->err, m, b->m);
	b->err = less_pick(err, b->err, err, b->err);
}

INLINE vf find_min(const whit_grid *g, const lanes_of *in, int weighted, vf *min) {
	const vf hi = set1((float)g->hi);
	best_min b = {set1(INFINITY), zero(), zero()}, stored = b;
	sums s;
	vf low = in->x[0], high = in->x[0], all = zero(), err;
	for (int i = 0; i < in->n; i++) {
		low = smaller(low, in->x[i]);
		high = larger(high, in->x[i]);
		all = add(all, weighted ? in->imp[i] : set1(1));
	}
	vf range = sub(high, low);
	float trial[TRIALS];
	int trials = trials_of(g, weighted, trial);
	for (int k = 0; k < trials * trials; k++) {
		const float below = trial[k / trials], above = trial[k % trials], steps = (float)g->hi + below + above;
		vf d = mul(range, set1(1 / steps)), m = fmadd(set1(below), d, low);
		vf inv = less_pick(zero(), range, quotient(set1(steps), range), zero());
		min_sums(&s, in, weighted, d, inv, m, hi);
		refit_min(&s, all, hi, &d, &m, &err);
		keep_min(&b, err, d, m);
	}
	/* Candidates, each rounded to F16: one for weights so far from 0 that F16 cannot place m within their range;
	 * the fitted; that refitted; and the best with its codes moved, since F16 may hold another m exactly. */
	static const float moved[] = {-1, 1, -2, 2};
	vf below = grid_f16(mul(fmadd(set1(-0x1p-11f), magnitude(low), low), in->back), 1);
	vf d = mul(sub(high, mul(below, in->scale)), quotient(set1(1), hi)), m = mul(below, in->scale);
	for (int k = 0; k < 3 + WHIT_COUNT(moved); k++) {
		vf vm = grid_f16(mul(m, in->back), 1), v = grid_f16(mul(d, in->back), 0);
		d = mul(v, in->scale), m = mul(vm, in->scale);
		min_sums(&s, in, weighted, d, quotient(set1(1), d), m, hi);
		keep_min(&stored, s.ee, v, vm);
		if (k == 0)
			d = b.d, m = b.m;
		else if (k == 1)
			refit_min(&s, all, hi, &d, &m, &err);
		else
			d = b.d, m = fmadd(set1(moved[(k - 2) % 4]), b.d, b.m);
	}
	*min = beyond_f16(mul(b.m, in->back), stored.m);
	return beyond_f16(mul(b.d, in->back), stored.d);
}

/* ---- one batch ---- */

INLINE void search(const whit_grid *g, const float *w, const float *imp, int groups, whit_grid_found *found,
                   const int kind, const int weighted, vf *x, vf *y) {
	float scratch[32];
	table t;
	lanes_of in;
	const int leveled = kind == WHIT_GRID_LEVELS || kind == WHIT_GRID_POWER, n = g->weights;
	if (leveled) t = table_of(g->level, scratch);
	for (int l = 0; l < groups; l += W, w += W * n) {
		int some = WHIT_MIN(W, groups - l);
		float d[W], m[W], none[W];
		vf v, min = zero();
		in.x = x, in.imp = y;
		load_weights(&in, w, weighted ? imp + l * n : NULL, some, n);
		in.scale = unit_scale(in.big, &in.back);
		normalize(&in);
		switch (kind) {
		case WHIT_GRID_STEP:
			v = g->lo == -g->hi ? find_step(g, &in, weighted, 1) : find_step(g, &in, weighted, 2);
			break;
		case WHIT_GRID_FINE:
			v = find_fine(g, &in, weighted);
			break;
		case WHIT_GRID_MIN:
			v = find_min(g, &in, weighted, &min);
			break;
		case WHIT_GRID_LEVELS:
			v = find_level(g, &in, weighted, &t, POLISH);
			break;
		case WHIT_GRID_POWER:
			v = find_power(&in, weighted, &t);
			break;
		default:
			v = find_sign(&in, weighted);
		}
		v = less_pick(zero(), in.none, zero(), v);
		st(d, v);
		st(m, min);
		st(none, in.none);
		for (int k = 0; k < some; k++) {
			uint32_t bits;
			memcpy(&bits, d + k, 4);
			found->zero += none[k] != 0;
			if (kind == WHIT_GRID_POWER) found->d[l + k] = (uint16_t)(d[k] != 0 ? (bits >> 23) + 1 : 0);
		}
		if (kind != WHIT_GRID_POWER) put_f16(found->d + l, v, some, &found->bad);
		if (kind == WHIT_GRID_MIN) put_f16(found->more + l, min, some, &found->bad);
		uint8_t *code = found->code + l * n;
		if (kind == WHIT_GRID_SIGN)
			for (int i = 0; i < some * n; i++) code[i] = w[i] >= 0;
		else {
			st(d, kind == WHIT_GRID_POWER ? v : grid_f16(v, 1));
			st(m, grid_f16(min, 1));
			put_codes(g, code, w, d, m, some, leveled ? &t : NULL);
		}
	}
}

/* ---- eight groups under one scale ---- */

enum { SUPER_WEIGHTS = 32, BLOCKS = WHIT_GRID_BATCH / 8 }; /* of a group; that share a D */

/* A way to scale BLOCKS blocks: group l has D[l / 8] s[l]. Sums are of each group. */
typedef struct super {
	float D[BLOCKS], err[WHIT_GRID_BATCH], eq[WHIT_GRID_BATCH], qq[WHIT_GRID_BATCH];
	int s[WHIT_GRID_BATCH];
} super;

INLINE void super_sums(super *p, const lanes_of *in, int weighted, const table *t) {
	float d[WHIT_GRID_BATCH];
	for (int l = 0; l < WHIT_GRID_BATCH; l++) d[l] = p->D[l / 8] * (float)p->s[l];
	for (int v = 0; v < VECTORS; v++) {
		vf dv = ld(d + v * W);
		vf inv = less_pick(zero(), magnitude(dv), quotient(set1(1), dv), zero());
		sums one;
		level_sums(&one, in + v, weighted, 0, dv, inv, t);
		st(p->err + v * W, one.ee);
		st(p->eq + v * W, one.eq);
		st(p->qq + v * W, one.qq);
	}
}

INLINE int super_clamp(float s) { return (int)(s < -32 ? -32 : s > 31 ? 31 : rintf(s)); }

/* The better of both, block by block or group by group (D is the same then). */
INLINE void super_keep(super *best, const super *p, int by_group) {
	const int n = by_group ? 1 : 8;
	for (int l = 0; l < WHIT_GRID_BATCH; l += n) {
		float a = 0, b = 0;
		for (int k = 0; k < n; k++) a += p->err[l + k], b += best->err[l + k];
		if (!(a < b)) continue;
		best->D[l / 8] = p->D[l / 8];
		for (int k = l; k < l + n; k++)
			best->s[k] = p->s[k], best->err[k] = p->err[k], best->eq[k] = p->eq[k], best->qq[k] = p->qq[k];
	}
}

INLINE float super_f16(float D, float back, float scale) {
	float v[W];
	st(v, grid_f16(set1(D * back), 0));
	return v[0] * scale;
}

INLINE void search_super(const whit_grid *g, const float *w, const float *imp, int groups, whit_grid_found *found,
                         const int weighted) {
	enum { ALL = WHIT_GRID_BATCH };
	static const float trial[] = {-32, -31, -30, -29, -28, -27, 31, 30, 29, 28, 27, 26};
	const int n = g->weights;
	float scratch[32], big[ALL], own[ALL], scale[BLOCKS], back[BLOCKS], top[BLOCKS] = {0};
	vf store[VECTORS][2][SUPER_WEIGHTS];
	lanes_of in[VECTORS];
	super p, best;
	table t = table_of(g->level, scratch);
	for (int v = 0; v < VECTORS; v++) {
		int at = v * W, some = WHIT_MAX(0, WHIT_MIN(W, groups - at));
		in[v].x = store[v][0], in[v].imp = store[v][1];
		load_weights(in + v, w + at * n, weighted ? imp + at * n : NULL, some, n);
		st(big + at, in[v].big);
	}
	for (int b = 0; b < BLOCKS; b++) { /* one power of two for all that share a scale */
		float most = 0, one[W], inverse[W];
		vf i, s;
		for (int l = 8 * b; l < 8 * b + 8; l++) most = big[l] > most ? big[l] : most;
		s = unit_scale(set1(most), &i);
		st(one, s);
		st(inverse, i);
		scale[b] = one[0], back[b] = inverse[0];
		if (8 * b < groups) found->zero += !(most > 0);
	}
	for (int v = 0; v < VECTORS; v++) {
		float s[W], i[W];
		for (int l = 0; l < W; l++) s[l] = scale[(v * W + l) / 8], i[l] = back[(v * W + l) / 8];
		in[v].scale = ld(s), in[v].back = ld(i);
		normalize(in + v);
		vf d = find_level(g, in + v, weighted, &t, 0);
		st(own + v * W, less_pick(zero(), in[v].none, zero(), d));
	}
	for (int l = 0; l < ALL; l++)
		if (fabsf(own[l]) > fabsf(top[l / 8])) top[l / 8] = own[l];
	for (int l = 0; l < ALL; l++) best.err[l] = INFINITY;
	for (int k = 0; k < WHIT_COUNT(trial); k++) {
		for (int b = 0; b < BLOCKS; b++) p.D[b] = super_f16(top[b] / trial[k], back[b], scale[b]);
		for (int l = 0; l < ALL; l++) p.s[l] = super_clamp(own[l] / p.D[l / 8]);
		super_sums(&p, in, weighted, &t);
		super_keep(&best, &p, 0);
	}
	p = best;
	for (int shift = -1; shift <= 1; shift += 2) {
		const super from = p;
		for (int l = 0; l < ALL; l++) p.s[l] = super_clamp((float)(p.s[l] + shift));
		super_sums(&p, in, weighted, &t);
		super_keep(&best, &p, 1);
		p = from;
	}
	p = best;
	for (int b = 0; b < BLOCKS; b++) {
		float sx = 0, ss = 0;
		for (int l = 8 * b; l < 8 * b + 8; l++) {
			float s = (float)p.s[l];
			sx += s * (p.eq[l] + p.D[b] * s * p.qq[l]);
			ss += s * s * p.qq[l];
		}
		p.D[b] = super_f16(ss > 0 ? sx / ss : p.D[b], back[b], scale[b]);
	}
	super_sums(&p, in, weighted, &t);
	super_keep(&best, &p, 0);
	float d[ALL], D[ALL] = {0};
	for (int l = 0; l < groups; l++) {
		D[l] = top[l / 8] != 0 ? best.D[l / 8] * back[l / 8] : 0;
		d[l] = D[l] * (float)best.s[l];
		found->more[l] = (uint16_t)(best.s[l] + 32);
		if (l % 8 == 0) found->bad += !(fabsf(top[l / 8] * back[l / 8]) <= 32 * 65504.0f);
	}
	int none = 0;
	for (int l = 0; l < groups; l += W) put_f16(found->d + l, ld(D + l), WHIT_MIN(W, groups - l), &none);
	put_codes(g, found->code, w, d, NULL, groups, &t);
}

/* ---- what a level exports; a kernel has a kind and calls its search ---- */
#ifndef __cplusplus

#define KIND(k)                                                                                                        \
	case k:                                                                                                        \
		if (imp)                                                                                               \
			search(g, w, imp, groups, found, k, 1, x, y);                                                  \
		else                                                                                                   \
			search(g, w, imp, groups, found, k, 0, x, y);                                                  \
		break;

TARGET void LEVEL(whit_grid_search)(const whit_grid *g, const float *w, const float *imp, int groups,
                                    whit_grid_found *found) {
	vf x[WHIT_GRID_LONGEST], y[WHIT_GRID_LONGEST];
	found->bad = found->zero = 0;
	switch (g->kind) {
		KIND(WHIT_GRID_STEP)
		KIND(WHIT_GRID_FINE)
		KIND(WHIT_GRID_MIN)
		KIND(WHIT_GRID_LEVELS)
		KIND(WHIT_GRID_POWER)
		KIND(WHIT_GRID_SIGN)
	default:
		if (imp)
			search_super(g, w, imp, groups, found, 1);
		else
			search_super(g, w, imp, groups, found, 0);
	}
}
#undef KIND
#endif
