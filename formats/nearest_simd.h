/* nearest_simd: nearest.h's loops over the names of simd_avx2.h or simd_avx512.h; the same bits as the plain
 * ones. 16 double lanes are LANE_VECTORS registers; absent terms of a tail are zeros, which change no sum. */

enum { LANES = 16, LANE_VECTORS = 2 * LANES / W };

typedef struct lanes {
	vd v[LANE_VECTORS];
} lanes;

INLINE lanes lanes_zero(void) {
	lanes s;
	for (int i = 0; i < LANE_VECTORS; i++) s.v[i] = dzero();
	return s;
}

INLINE double lanes_sum(const lanes *s) {
	double lane[LANES], sum = 0;
	for (int i = 0; i < LANE_VECTORS; i++) dst(lane + i * (W / 2), s->v[i]);
	for (int l = 0; l < LANES; l++) sum += lane[l];
	return sum;
}

/* Adds imp c y to a and imp c^2 to b, for the W terms that begin at lane u * W. */
INLINE void lanes_dots(lanes *a, lanes *b, int u, vf y, vf c, vf imp, int weighted) {
	for (int half = 0; half < 2; half++) {
		vd dy = half ? high_half(y) : low_half(y), dc = half ? high_half(c) : low_half(c), p = dc;
		if (weighted) p = dmul(half ? high_half(imp) : low_half(imp), dc);
		a->v[2 * u + half] = dfma(p, dy, a->v[2 * u + half]);
		b->v[2 * u + half] = dfma(p, dc, b->v[2 * u + half]);
	}
}

INLINE vf ld_some(const float *p, int64_t n) {
	if (n >= W) return ld(p);
	float tail[W] = {0};
	if (n > 0) memcpy(tail, p, (size_t)n * sizeof(float));
	return ld(tail);
}

INLINE vi ld_codes(const uint8_t *p, int64_t n) {
	if (n >= W) return ld_u8(p);
	uint8_t tail[16] = {0};
	if (n > 0) memcpy(tail, p, (size_t)n);
	return ld_u8(tail);
}

INLINE void st_codes(uint8_t *p, vi v, int64_t n) {
	uint8_t tail[16];
	if (n >= W) {
		st_u8(p, v);
		return;
	}
	st_u8(tail, v);
	memcpy(p, tail, (size_t)n);
}

TARGET double LEVEL(whit_nearest_norm2)(const float *y, int64_t n) {
	lanes s = lanes_zero();
	for (int64_t i = 0; i < n; i += LANES) WHIT_UNROLL for (int u = 0; u < LANES / W; u++) {
			vf v = ld_some(y + i + u * W, n - i - u * W);
			s.v[2 * u] = dfma(low_half(v), low_half(v), s.v[2 * u]);
			s.v[2 * u + 1] = dfma(high_half(v), high_half(v), s.v[2 * u + 1]);
		}
	return lanes_sum(&s);
}

TARGET float LEVEL(whit_nearest_peak)(const float *y, int64_t n) {
	vf big = zero();
	float lane[W], top = 0;
	for (int64_t i = 0; i < n; i += W) big = larger(big, magnitude(ld_some(y + i, n - i)));
	st(lane, big);
	for (int l = 0; l < W; l++) top = lane[l] > top ? lane[l] : top;
	for (int64_t i = 0; i < n; i++)
		if (y[i] == top || y[i] == -top) return y[i];
	return top;
}

/* The largest float not above d. */
INLINE float float_below(double d) {
	float f = (float)d;
	int32_t b;
	memcpy(&b, &f, 4);
	int32_t down = b > 0 ? b - 1 : b < 0 && b != INT32_MIN ? b + 1 : INT32_MIN + 1;
	b = f > d ? down : b;
	memcpy(&f, &b, 4);
	return f;
}

/* y > boundary in double is y > float_below(boundary) in float. 15 boundaries sit in
 * a lookup table; of more, every 16th does, and the 15 between two of those are gathered. */
TARGET void LEVEL(whit_nearest_search)(uint8_t *code, const float *y, int64_t n, const double *boundary, int bits) {
	int count = (1 << bits) - 1, wide = bits > 4;
	float b[256], coarse[16];
	for (int k = 0; k < count; k++) b[k] = float_below(boundary[k]);
	for (int k = count; k < 256; k++) b[k] = INFINITY;
	for (int k = 0; k < 16; k++) coarse[k] = wide ? b[16 * k + 15] : b[k];
	lut t = lut_of(coarse);
	for (int64_t i = 0; i < n; i += W) {
		vf v = ld_some(y + i, n - i);
		vi k = iset1(0);
		WHIT_UNROLL for (int step = 8; step; step /= 2) k =
		        step_above(k, v, lookup(t, iadd(k, iset1(step - 1)), 4), step);
		if (wide) {
			k = ishl4(k);
			WHIT_UNROLL for (int step = 8; step; step /= 2) k =
			        step_above(k, v, gather(b, iadd(k, iset1(step - 1))), step);
		}
		st_codes(code + i, k, n - i);
	}
}

TARGET void LEVEL(whit_nearest_dots)(const float *y, const uint8_t *code, const float *imp, int64_t n,
                                     const float *level, int bits, double *yc, double *cc) {
	lanes a = lanes_zero(), b = lanes_zero();
	float table[16];
	for (int k = 0; k < 16; k++) table[k] = level[k & ((1 << bits) - 1)];
	lut t = lut_of(table);
	for (int64_t i = 0; i < n; i += LANES) WHIT_UNROLL for (int u = 0; u < LANES / W; u++) {
			int64_t j = i + u * W, left = n - j;
			if (left <= 0) break;
			vi k = ld_codes(code + j, left);
			vf c = bits <= 4 ? lookup(t, k, 4) : gather(level, k);
			if (left < W) { /* no level where there is no weight */
				float tail[W];
				st(tail, c);
				c = ld_some(tail, left);
			}
			lanes_dots(&a, &b, u, ld_some(y + j, left), c, imp ? ld_some(imp + j, left) : zero(),
			           imp != NULL);
		}
	*yc = lanes_sum(&a);
	*cc = lanes_sum(&b);
}

INLINE vf round_clamp(vf v, int lo, int hi) { return smaller(larger(rounded(v), set1((float)lo)), set1((float)hi)); }

TARGET void LEVEL(whit_nearest_step_dots)(const float *y, const float *imp, int64_t n, float inv, int lo, int hi,
                                          double *yq, double *qq) {
	lanes a = lanes_zero(), b = lanes_zero();
	for (int64_t i = 0; i < n; i += LANES) WHIT_UNROLL for (int u = 0; u < LANES / W; u++) {
			int64_t j = i + u * W, left = n - j;
			vf v = ld_some(y + j, left), q = round_clamp(mul(v, set1(inv)), lo, hi);
			lanes_dots(&a, &b, u, v, q, imp ? ld_some(imp + j, left) : zero(), imp != NULL);
		}
	*yq = lanes_sum(&a);
	*qq = lanes_sum(&b);
}

TARGET void LEVEL(whit_nearest_step)(uint8_t *code, const float *y, int64_t n, float step, int lo, int hi) {
	for (int64_t i = 0; i < n; i += W)
		st_codes(code + i, to_int(round_clamp(quotient(ld_some(y + i, n - i), set1(step)), lo, hi)), n - i);
}
