/* codes_simd: the fast gemv and decode, over the names of simd_avx2.h or simd_avx512.h.
 *
 * Codes of 1 to 4 bits: W words hold W * m codes (m = 8, 16 or 32 to a word); a word shifted right by j * bits
 * has its code j at the bottom, and one permute looks it up, since a permute ignores index bits above its own.
 * So no masks and no unpacking, at the price of an x in the order (block, j, word), made once per call.
 * Wider codes and plain floats are read in natural order.
 *
 * Every (row, token) sums in one vector accumulator, whatever R and T: a result does not depend on how
 * many tokens or rows are computed together. R rows at once are there to hide the latency and to share x. */

/* ---- scales ---- */

/* The scales of row r as floats; s holds groups + W, the tail zero. */
INLINE void row_scales(const whit_codes *c, int64_t r, float *s) {
	const uint8_t *p = c->m->plane[1] + (size_t)r * c->m->row_bytes[1];
	int64_t g = 0;
	if (c->m->scale_f32) {
		memcpy(s, p, (size_t)c->groups * 4);
		return;
	}
	for (; g + W <= c->groups; g += W) st(s + g, ld_f16(p + 2 * g));
	if (g < c->groups) {
		uint16_t tail[W] = {0};
		memcpy(tail, p + 2 * g, (size_t)(c->groups - g) * 2);
		st(s + g, ld_f16(tail));
	}
}

/* ---- 1 to 4 bits ---- */

INLINE int per_word(int bits) { return bits >= 3 ? 8 : 16 * (3 - bits); }

INLINE lut lut_levels(const float *level, int bits) {
	float t[16];
	for (int i = 0; i < 16; i++) t[i] = level[i & ((1 << bits) - 1)];
	return lut_of(t);
}

/* xp[(k * m + j) * W + i] = x[k * W * m + i * m + j], zero beyond n: log2(m) times "evens first, then odds". */
INLINE void permute_x(float *xp, const float *x, int64_t n, const int m) {
	for (int64_t k = 0; k < n; k += W * m, xp += W * m) {
		float tail[32 * W] = {0};
		const float *src = x + k;
		if (n - k < W * m) src = memcpy(tail, src, (size_t)(n - k) * sizeof(float));
		vf a[32], b[32];
		for (int i = 0; i < m; i++) a[i] = ld(src + i * W);
		for (int s = 1; s < m; s *= 2) {
			for (int i = 0; i < m / 2; i++) unzip(a[2 * i], a[2 * i + 1], b + i, b + m / 2 + i);
			for (int i = 0; i < m; i++) a[i] = b[i];
		}
		for (int i = 0; i < m; i++) st(xp + i * W, a[i]);
	}
}

/* Rows [r, r + R): y[t * ldy + row] for T tokens. xp (T, xw) permuted; s is scratch of R * (groups + W). */
INLINE void packed_rows(const whit_codes *c, const int bits, int64_t r, const int R, const int T, const float *xp,
                        int64_t xw, float *y, int64_t ldy, float *s, lut t) {
	const int m = per_word(bits), block = W * m, bytes = block / 8 * bits;
	int64_t full = (int64_t)c->m->row_bytes[0] / bytes, blocks = xw / block, sw = c->groups + W;
	/* Blocks under one scale and then 1 group per step, or a block of several groups. */
	int64_t span = c->groups == 1 ? blocks : WHIT_MAX(1, c->group / block), groups = WHIT_MAX(1, block / c->group);
	int32_t lane_group[W];
	for (int i = 0; i < W; i++) lane_group[i] = groups == 1 ? 0 : (int32_t)(i * m / c->group);
	vi which = ild(lane_group);
	vf total[4][8];
	const uint8_t *code[4];
	uint8_t tail[4][4 * W];
	for (int q = 0; q < R; q++) {
		code[q] = c->m->plane[0] + (size_t)(r + q) * c->m->row_bytes[0];
		if (full < blocks) { /* the last block is partial: zeros follow it, and x is 0 there */
			memset(tail[q], 0, sizeof tail[q]);
			memcpy(tail[q], code[q] + full * bytes, c->m->row_bytes[0] - (size_t)(full * bytes));
		}
		row_scales(c, r + q, s + q * sw);
		for (int u = 0; u < T; u++) total[q][u] = zero();
	}
	for (int64_t b = 0; b < blocks; b += span, s += groups) {
		vf acc[4][8];
		for (int q = 0; q < R; q++)
			for (int u = 0; u < T; u++) acc[q][u] = zero();
		for (int64_t k = b; k < WHIT_MIN(b + span, blocks); k++) {
			vi v[4];
			WHIT_UNROLL for (int q = 0; q < R; q++) {
				v[q] = words(k < full ? code[q] + k * bytes : tail[q], bits);
				/* Rows are too short for the hardware to see a stream: ask for the next R now. */
				_mm_prefetch((const char *)code[q] + R * (int64_t)c->m->row_bytes[0] + k * bytes,
				             _MM_HINT_T0);
			}
			for (int j8 = 0; j8 < m; j8 += 8) {
				const float *x = xp + (k * m + j8) * W;
				WHIT_UNROLL for (int j = 0; j < 8; j++) {
					vf w[4];
					WHIT_UNROLL for (int q = 0; q < R; q++) w[q] =
					        lookup(t, shift_right(v[q], j * bits), bits);
					WHIT_UNROLL for (int u = 0; u < T; u++) {
						vf xv = ld(x + u * xw + j * W);
						WHIT_UNROLL for (int q = 0; q < R; q++) acc[q][u] =
						        fmadd(w[q], xv, acc[q][u]);
					}
				}
				if (m > 8)
					WHIT_UNROLL for (int q = 0; q < R; q++) v[q] = shift_right(v[q], 8 * bits % 32);
			}
		}
		WHIT_UNROLL for (int q = 0; q < R; q++) {
			vf scale = groups == 1 ? set1(s[q * sw]) : pick(ld(s + q * sw), which);
			WHIT_UNROLL for (int u = 0; u < T; u++) total[q][u] = fmadd(acc[q][u], scale, total[q][u]);
		}
	}
	for (int q = 0; q < R; q++)
		for (int u = 0; u < T; u++) y[u * ldy + r + q] = sum(total[q][u]);
}

/* ---- natural order ---- */

enum { AS_F32, AS_F16, AS_BF16, AS_I8, AS_LEVEL };
INLINE int element_bytes(int as) { return as == AS_F32 ? 4 : as == AS_I8 || as == AS_LEVEL ? 1 : 2; }

INLINE vf load_as(const uint8_t *p, const int as, const float *level) {
	switch (as) {
	case AS_F32: {
		vf v;
		memcpy(&v, p, sizeof v);
		return v;
	}
	case AS_F16:
		return ld_f16(p);
	case AS_BF16:
		return ld_bf16(p);
	case AS_I8:
		return to_float(ld_i8(p));
	default:
		return gather(level, ld_u8(p));
	}
}

INLINE vf load_tail(const uint8_t *p, int64_t n, const int as, const float *level) {
	uint8_t tail[4 * W] = {0};
	memcpy(tail, p, (size_t)(n * element_bytes(as)));
	return load_as(tail, as, level);
}

/* Rows at p[0..R) of n elements, s their scales by group, or NULL. Writes y[u * ldy + q]. */
INLINE void natural_rows(const uint8_t *const *p, int64_t n, const int as, const float *level, const float *s,
                         int64_t sw, int64_t group, const int R, const int T, const float *x, float *y, int64_t ldy) {
	const int e = element_bytes(as);
	vf acc[4][8];
	for (int q = 0; q < R; q++)
		for (int u = 0; u < T; u++) acc[q][u] = zero();
	for (int64_t g = 0; g * group < n; g++) {
		int64_t i = g * group, end = WHIT_MIN(n, i + group);
		vf scale[4];
		WHIT_UNROLL for (int q = 0; q < R; q++) scale[q] = s ? set1(s[q * sw + g]) : zero();
		for (; i + W <= end; i += W) {
			vf w[4];
			WHIT_UNROLL for (int q = 0; q < R; q++) {
				w[q] = load_as(p[q] + i * e, as, level);
				_mm_prefetch((const char *)p[q] + R * n * e + i * e,
				             _MM_HINT_T0); /* as in packed_rows */
				if (s) w[q] = mul(w[q], scale[q]);
			}
			WHIT_UNROLL for (int u = 0; u < T; u++) {
				vf xv = ld(x + u * n + i);
				WHIT_UNROLL for (int q = 0; q < R; q++) acc[q][u] = fmadd(w[q], xv, acc[q][u]);
			}
		}
		if (i == end) continue;
		vf xt[8];
		for (int u = 0; u < T; u++) xt[u] = load_tail((const uint8_t *)(x + u * n + i), end - i, AS_F32, NULL);
		for (int q = 0; q < R; q++) {
			vf w = load_tail(p[q] + i * e, end - i, as, level);
			if (s) w = mul(w, scale[q]);
			for (int u = 0; u < T; u++) acc[q][u] = fmadd(w, xt[u], acc[q][u]);
		}
	}
	for (int q = 0; q < R; q++)
		for (int u = 0; u < T; u++) y[u * ldy + q] = sum(acc[q][u]);
}

/* ---- T by 8, 4, 2, 1; rows by R, then 1 ---- */

#define EACH_T(call)                                                                                                   \
	for (int u = 0; u < T;) {                                                                                      \
		int left = T - u;                                                                                      \
		if (left >= 8) {                                                                                       \
			call(8, 2);                                                                                    \
			u += 8;                                                                                        \
		} else if (left >= 4) {                                                                                \
			call(4, 2);                                                                                    \
			u += 4;                                                                                        \
		} else if (left >= 2) {                                                                                \
			call(2, 4);                                                                                    \
			u += 2;                                                                                        \
		} else {                                                                                               \
			call(1, 4);                                                                                    \
			u++;                                                                                           \
		}                                                                                                      \
	}

#define PACKED(bits)                                                                                                   \
	static TARGET void packed_##bits(const whit_codes *c, int64_t r0, int64_t r1, const float *x, int T, float *y, \
	                                 int64_t ldy) {                                                                \
		const int m = per_word(bits);                                                                          \
		int64_t n = c->m->width, xw = (n + W * m - 1) / (W * m) * (W * m), sw = c->groups + W;                 \
		float *xp = whit_alloc((size_t)(xw * T + 4 * sw) * sizeof(float)), *s = xp + xw * T;                   \
		lut t = lut_levels(c->level, bits);                                                                    \
		for (int u = 0; u < T; u++) permute_x(xp + u * xw, x + u * n, n, m);                                   \
		EACH_T(PACKED_CALL_##bits)                                                                             \
		whit_free(xp);                                                                                         \
	}
#define PACKED_CALL(bits, TT, RR)                                                                                      \
	{                                                                                                              \
		int64_t r = r0;                                                                                        \
		for (; r + RR <= r1; r += RR)                                                                          \
			packed_rows(c, bits, r, RR, TT, xp + u * xw, xw, y + u * ldy, ldy, s, t);                      \
		for (; r < r1; r++) packed_rows(c, bits, r, 1, TT, xp + u * xw, xw, y + u * ldy, ldy, s, t);           \
	}
#define PACKED_CALL_1(TT, RR) PACKED_CALL(1, TT, RR)
#define PACKED_CALL_2(TT, RR) PACKED_CALL(2, TT, RR)
#define PACKED_CALL_3(TT, RR) PACKED_CALL(3, TT, RR)
#define PACKED_CALL_4(TT, RR) PACKED_CALL(4, TT, RR)
PACKED(1)
PACKED(2)
PACKED(3)
PACKED(4)

/* Plain floats when c is NULL; else codes of one byte, or of 5 to 7 bits, which are first unpacked to bytes. */
INLINE void natural(const whit_mat *mat, const whit_codes *c, const int as, int64_t r0, int64_t r1, const float *x,
                    int T, float *y, int64_t ldy) {
	int64_t n = mat->width, sw = c ? c->groups + W : 0, group = c ? c->group : n;
	int unpack = c && c->bits < 8;
	float *s = c ? whit_alloc((size_t)(4 * sw) * sizeof(float)) : NULL;
	uint8_t *bytes = unpack ? whit_alloc((size_t)(4 * n)) : NULL;
	const uint8_t *p[4];
#define NATURAL_SOME(TT, RR)                                                                                           \
	{                                                                                                              \
		for (int q = 0; q < RR; q++) {                                                                         \
			p[q] = mat->plane[0] + (size_t)(r + q) * mat->row_bytes[0];                                    \
			if (c) row_scales(c, r + q, s + q * sw);                                                       \
			if (unpack) {                                                                                  \
				whit_codes_unpack(bytes + q * n, p[q], n, c->bits);                                    \
				p[q] = bytes + q * n;                                                                  \
			}                                                                                              \
		}                                                                                                      \
		natural_rows(p, n, as, c ? c->level : NULL, s, sw, group, RR, TT, x + u * n, y + u * ldy + r, ldy);    \
	}
#define NATURAL_CALL(TT, RR)                                                                                           \
	{                                                                                                              \
		int64_t r = r0;                                                                                        \
		for (; r + RR <= r1; r += RR) NATURAL_SOME(TT, RR)                                                     \
		for (; r < r1; r++) NATURAL_SOME(TT, 1)                                                                \
	}
	EACH_T(NATURAL_CALL)
	whit_free(s);
	whit_free(bytes);
}

#define NATURAL(name, as)                                                                                              \
	static TARGET void natural_##name(const whit_mat *m, const whit_codes *c, int64_t r0, int64_t r1,              \
	                                  const float *x, int T, float *y, int64_t ldy) {                              \
		natural(m, c, as, r0, r1, x, T, y, ldy);                                                               \
	}
NATURAL(f32, AS_F32)
NATURAL(f16, AS_F16)
NATURAL(bf16, AS_BF16)
NATURAL(i8, AS_I8)
NATURAL(level, AS_LEVEL)

void LEVEL(whit_codes_gemv)(const whit_codes *c, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	switch (c->bits) {
	case 1:
		packed_1(c, r0, r1, x, T, y, ldy);
		return;
	case 2:
		packed_2(c, r0, r1, x, T, y, ldy);
		return;
	case 3:
		packed_3(c, r0, r1, x, T, y, ldy);
		return;
	case 4:
		packed_4(c, r0, r1, x, T, y, ldy);
		return;
	default:
		if (c->twos)
			natural_i8(c->m, c, r0, r1, x, T, y, ldy);
		else
			natural_level(c->m, c, r0, r1, x, T, y, ldy);
	}
}

void LEVEL(whit_floats_gemv)(const whit_mat *m, int dtype, int64_t r0, int64_t r1, const float *x, int T, float *y,
                             int64_t ldy) {
	if (dtype == WHIT_F32)
		natural_f32(m, NULL, r0, r1, x, T, y, ldy);
	else if (dtype == WHIT_F16)
		natural_f16(m, NULL, r0, r1, x, T, y, ldy);
	else
		natural_bf16(m, NULL, r0, r1, x, T, y, ldy);
}

/* ---- decode ---- */

INLINE void store_some(float *out, vf v, int64_t n) {
	float tail[W];
	if (n >= W) {
		st(out, v);
		return;
	}
	st(tail, v);
	memcpy(out, tail, (size_t)n * sizeof(float));
}

/* Vector k of a block holds its codes [k * W, k * W + W): code i of them is in word (k * W + i) / m. */
INLINE void decode_packed(const whit_codes *c, const int bits, const uint8_t *p, const float *s, float *out, lut t) {
	const int m = per_word(bits), bytes = W * m * bits / 8, spread = m > W ? m / W : 1, step = m > W ? 1 : W / m;
	int64_t n = c->m->width, row = (int64_t)c->m->row_bytes[0];
	int32_t word[W], shift[W];
	for (int i = 0; i < W; i++) word[i] = i / m, shift[i] = i % m * bits;
	vi word0 = ild(word), shift0 = ild(shift);
	int64_t next = c->group;
	for (int64_t at = 0, i = 0; i < n; at += bytes) {
		uint8_t tail[4 * W] = {0};
		const uint8_t *src = p + at;
		if (row - at < bytes) src = memcpy(tail, src, (size_t)(row - at));
		vi v = words(src, bits);
		for (int k = 0; k < m && i < n; k++, i += W) {
			if (i == next) s++, next += c->group; /* groups are whole vectors, or the row */
			vi w = pick_words(v, iadd(word0, iset1(k / spread * step)));
			vi code = shift_right_each(w, iadd(shift0, iset1(k % spread * W * bits)));
			store_some(out + i, mul(lookup(t, code, bits), set1(*s)), n - i);
		}
	}
}

INLINE void decode_bytes(const whit_codes *c, const int as, const uint8_t *p, const float *s, float *out) {
	for (int64_t g = 0; g < c->groups; g++) {
		int64_t i = g * c->group, end = WHIT_MIN(c->m->width, i + c->group);
		vf scale = set1(s[g]);
		for (; i < end; i += W) {
			vf v = end - i >= W ? load_as(p + i, as, c->level) : load_tail(p + i, end - i, as, c->level);
			store_some(out + i, mul(v, scale), end - i);
		}
	}
}

TARGET void LEVEL(whit_codes_decode)(const whit_codes *c, int64_t r0, int64_t r1, float *out) {
	int64_t n = c->m->width;
	float *s = whit_alloc((size_t)(c->groups + W) * sizeof(float));
	uint8_t *bytes = whit_alloc((size_t)n);
	lut t = lut_levels(c->level, c->bits <= 4 ? c->bits : 4);
	for (int64_t r = r0; r < r1; r++, out += n) {
		const uint8_t *p = c->m->plane[0] + (size_t)r * c->m->row_bytes[0];
		row_scales(c, r, s);
		switch (c->bits) {
		case 1:
			decode_packed(c, 1, p, s, out, t);
			break;
		case 2:
			decode_packed(c, 2, p, s, out, t);
			break;
		case 3:
			decode_packed(c, 3, p, s, out, t);
			break;
		case 4:
			decode_packed(c, 4, p, s, out, t);
			break;
		case 8:
			if (c->twos)
				decode_bytes(c, AS_I8, p, s, out);
			else
				decode_bytes(c, AS_LEVEL, p, s, out);
			break;
		default:
			whit_codes_unpack(bytes, p, n, c->bits);
			decode_bytes(c, AS_LEVEL, bytes, s, out);
		}
	}
	whit_free(bytes);
	whit_free(s);
}
