/* fwht_simd: the float transform of fwht.c, stage by stage in the same order, so with the same bits. */

/* Butterflies between lanes l and l ^ h: a + b where bit h of l is 0, a - b where it is 1; sign is +1, -1. */
INLINE vf lane_stage(vf v, int h, vf sign) { return fmadd(v, sign, swap_lanes(v, h)); }

TARGET void LEVEL(whit_fwht)(float *x, int64_t rows, int64_t n) {
	float one[W];
	vf sign[4];
	for (int s = 0; 1 << s < W; s++) {
		for (int l = 0; l < W; l++) one[l] = l & 1 << s ? -1 : 1;
		sign[s] = ld(one);
	}
	for (float *end = x + rows * n; x < end; x += n) {
		for (int64_t i = 0; i < n; i += W) {
			vf v = ld(x + i);
			WHIT_UNROLL for (int s = 0; 1 << s < W; s++) v = lane_stage(v, 1 << s, sign[s]);
			st(x + i, v);
		}
		int64_t h = W;
		for (; 4 * h <= n; h *= 4) /* two stages per pass */
			for (int64_t i = 0; i < n; i += 4 * h)
				for (float *p = x + i; p < x + i + h; p += W) {
					vf a = ld(p), b = ld(p + h), c = ld(p + 2 * h), d = ld(p + 3 * h);
					vf s = add(a, b), t = sub(a, b), u = add(c, d), v = sub(c, d);
					st(p, add(s, u));
					st(p + h, add(t, v));
					st(p + 2 * h, sub(s, u));
					st(p + 3 * h, sub(t, v));
				}
		if (2 * h > n) continue;
		for (float *p = x; p < x + h; p += W) {
			vf a = ld(p), b = ld(p + h);
			st(p, add(a, b));
			st(p + h, sub(a, b));
		}
	}
}
