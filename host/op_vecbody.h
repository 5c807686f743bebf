/* The bodies of op_vec.c. Included once per level, with the V* macros set to that level's instructions. */

/* exp, relative error below 2e-7 (Cephes' expf polynomial). Results below 2^-126 become about 2^-126. */
VATTR static inline VF N(exp)(VF x) {
	x = VMIN(VSET(88.0f), VMAX(VSET(-87.3f), x)); /* operand order keeps NaN */
	VF n = VROUND(VMUL(x, VSET(1.44269504088896341f)));
	VF r = VFNMA(n, VSET(-2.12194440e-4f), VFNMA(n, VSET(0.693359375f), x));
	VF p = VFMA(VSET(1.9875691500e-4f), r, VSET(1.3981999507e-3f));
	p = VFMA(p, r, VSET(8.3334519073e-3f));
	p = VFMA(p, r, VSET(4.1665795894e-2f));
	p = VFMA(p, r, VSET(1.6666665459e-1f));
	p = VFMA(p, r, VSET(5.0000001201e-1f));
	p = VADD(VFMA(VMUL(p, r), r, r), VSET(1.0f));
	return VSCALEF(p, n);
}

VATTR static float N(sumsq)(const float *x, int64_t n) {
	VF a = VSET(0), b = VSET(0);
	int64_t i = 0;
	for (; i + 2 * VW <= n; i += 2 * VW) {
		VF u = VLD(x + i), v = VLD(x + i + VW);
		a = VFMA(u, u, a);
		b = VFMA(v, v, b);
	}
	for (; i < n; i += VW) {
		VF u = VLDN(x + i, WHIT_MIN(VW, n - i));
		a = VFMA(u, u, a);
	}
	return VSUM(VADD(a, b));
}

VATTR static void N(scale)(float *y, const float *x, const float *w, float s, float shift, int64_t n) {
	for (int64_t i = 0; i < n; i += VW) {
		int64_t m = WHIT_MIN(VW, n - i);
		VSTN(y + i, VMUL(VMUL(VLDN(x + i, m), VSET(s)), VADD(VLDN(w + i, m), VSET(shift))), m);
	}
}

VATTR static void N(add)(float *y, const float *a, const float *b, int64_t n) {
	for (int64_t i = 0; i < n; i += VW) {
		int64_t m = WHIT_MIN(VW, n - i);
		VSTN(y + i, VADD(VLDN(a + i, m), VLDN(b + i, m)), m);
	}
}

VATTR static void N(swiglu)(float *y, const float *gate, const float *up, int64_t n) {
	for (int64_t i = 0; i < n; i += VW) {
		int64_t m = WHIT_MIN(VW, n - i);
		VF g = VLDN(gate + i, m), d = VADD(VSET(1.0f), N(exp)(VSUB(VSET(0), g)));
		VSTN(y + i, VMUL(VDIV(g, d), VLDN(up + i, m)), m);
	}
}

VATTR static void N(sigmoid)(float *y, const float *x, int64_t n) {
	for (int64_t i = 0; i < n; i += VW) {
		int64_t m = WHIT_MIN(VW, n - i);
		VSTN(y + i, VDIV(VSET(1.0f), VADD(VSET(1.0f), N(exp)(VSUB(VSET(0), VLDN(x + i, m))))), m);
	}
}

VATTR static void N(outer)(float *S, float keep, const float *a, const float *b, int64_t rows, int64_t n) {
	for (int64_t r = 0; r < rows; r++, S += n) {
		for (int64_t j = 0; j < n; j += VW) {
			int64_t m = WHIT_MIN(VW, n - j);
			VSTN(S + j, VFMA(VSET(a[r]), VLDN(b + j, m), VMUL(VSET(keep), VLDN(S + j, m))), m);
		}
	}
}

VATTR static void N(softmax)(float *s, int64_t n) {
	VF m = VSET(s[0]), sum = VSET(0);
	int64_t i = 0;
	for (; i + VW <= n; i += VW) m = VMAX(m, VLD(s + i));
	float max = VTOP(m);
	for (; i < n; i++) max = s[i] > max ? s[i] : max;
	for (i = 0; i + VW <= n; i += VW) {
		VF p = N(exp)(VSUB(VLD(s + i), VSET(max)));
		VST(s + i, p);
		sum = VADD(sum, p);
	}
	float total = VSUM(sum);
	if (i < n) {
		VSTN(s + i, N(exp)(VSUB(VLDN(s + i, n - i), VSET(max))), n - i);
		for (; i < n; i++) total += s[i];
	}
	VF inv = VSET(1.0f / total);
	for (i = 0; i < n; i += VW) VSTN(s + i, VMUL(VLDN(s + i, WHIT_MIN(VW, n - i)), inv), WHIT_MIN(VW, n - i));
}

/* Columns instead: lane q of s[j*ld + q], every column over all n rows. */
VATTR static void N(softmax_columns)(float *s, int64_t ld, int64_t n, int64_t lanes) {
	for (int64_t q = 0; q < lanes; q += VW, s += VW) {
		int64_t m = WHIT_MIN(VW, lanes - q);
		VF max = VLDN(s, m), sum = VSET(0);
		for (int64_t j = 1; j < n; j++) max = VMAX(max, VLDN(s + j * ld, m));
		for (int64_t j = 0; j < n; j++) {
			VF p = N(exp)(VSUB(VLDN(s + j * ld, m), max));
			VSTN(s + j * ld, p, m);
			sum = VADD(sum, p);
		}
		sum = VDIV(VSET(1.0f), sum);
		for (int64_t j = 0; j < n; j++) VSTN(s + j * ld, VMUL(VLDN(s + j * ld, m), sum), m);
	}
}

/* pi/2 in three parts; a multiple of 2^-23 below 1 is left after the first, so that step is exact. Then
 * Cephes' sinf and cosf polynomials on [-pi/4, pi/4]; quadrants by exact float arithmetic. */
VATTR static void N(sincos)(float *cs, float *sn, const double *inv_freq, float pos, float mscale, int64_t n) {
	for (int64_t i = 0; i < n; i += VW) {
		int64_t m = WHIT_MIN(VW, n - i);
		float a[VW];
		for (int64_t j = 0; j < VW; j++) a[j] = j < m ? (float)(pos * inv_freq[i + j]) : 0;
		VF x = VLD(a), k = VROUND(VMUL(x, VSET(0.636619772367581f)));
		VF r = VFNMA(k, VSET(1.5707963705062866f), x);
		r = VFNMA(k, VSET(-4.37113882867e-8f), r);
		r = VFNMA(k, VSET(-1.71512451e-15f), r);
		VF z = VMUL(r, r);
		VF s = VFMA(VFMA(VSET(-1.9515295891e-4f), z, VSET(8.3321608736e-3f)), z, VSET(-1.6666654611e-1f));
		s = VFMA(VMUL(s, z), r, r);
		VF c = VFMA(VFMA(VSET(2.443315711809948e-5f), z, VSET(-1.388731625493765e-3f)), z,
		            VSET(4.166664568298827e-2f));
		c = VADD(VFMA(VMUL(c, z), z, VMUL(VSET(-0.5f), z)), VSET(1.0f));
		VF half = VFLOOR(VMUL(k, VSET(0.5f))), odd = VFNMA(VSET(2.0f), half, k);
		VF sneg = VFNMA(VSET(2.0f), VFLOOR(VMUL(half, VSET(0.5f))), half); /* quadrants 2, 3 */
		VF flip = VADD(half, odd); /* cos is negative in quadrants 1, 2 */
		VF cneg = VFNMA(VSET(2.0f), VFLOOR(VMUL(flip, VSET(0.5f))), flip);
		VF even = VSUB(VSET(1.0f), odd), ms = VSET(mscale);
		VF so = VFMA(s, even, VMUL(c, odd)), co = VFMA(c, even, VMUL(s, odd));
		VSTN(sn + i, VMUL(VMUL(so, VFNMA(VSET(2.0f), sneg, VSET(1.0f))), ms), m);
		VSTN(cs + i, VMUL(VMUL(co, VFNMA(VSET(2.0f), cneg, VSET(1.0f))), ms), m);
	}
}

VATTR static void N(rotate)(float *y, const float *x, const float *cs, const float *sn, int64_t n) {
	for (int64_t i = 0; i < n; i += VW) {
		int64_t m = WHIT_MIN(VW, n - i);
		VF a = VLDN(x + i, m), b = VLDN(x + n + i, m), c = VLDN(cs + i, m), s = VLDN(sn + i, m);
		VSTN(y + i, VFNMA(b, s, VMUL(a, c)), m);
		VSTN(y + n + i, VFMA(a, s, VMUL(b, c)), m);
	}
}

VATTR static void N(qk)(float *s, const float *q, const float *k, int64_t ld, int64_t n, int64_t dim, float scale) {
	for (int64_t j = 0; j < n; j++) {
		const float *r = k + j * ld;
		VF a = VSET(0), b = VSET(0);
		int64_t i = 0;
		for (; i + 2 * VW <= dim; i += 2 * VW) {
			a = VFMA(VLD(q + i), VLD(r + i), a);
			b = VFMA(VLD(q + i + VW), VLD(r + i + VW), b);
		}
		for (; i < dim; i += VW) {
			int64_t m = WHIT_MIN(VW, dim - i);
			a = VFMA(VLDN(q + i, m), VLDN(r + i, m), a);
		}
		s[j] = VSUM(VADD(a, b)) * scale;
	}
}

VATTR static void N(pv)(float *y, const float *p, const float *v, int64_t ld, int64_t n, int64_t dim) {
	int64_t i = 0;
	for (; i + 4 * VW <= dim; i += 4 * VW) { /* a column block stays in registers over all keys */
		VF a = VSET(0), b = VSET(0), c = VSET(0), d = VSET(0);
		const float *r = v + i;
		for (int64_t j = 0; j < n; j++, r += ld) {
			VF w = VSET(p[j]);
			a = VFMA(w, VLD(r), a);
			b = VFMA(w, VLD(r + VW), b);
			c = VFMA(w, VLD(r + 2 * VW), c);
			d = VFMA(w, VLD(r + 3 * VW), d);
		}
		VST(y + i, a);
		VST(y + i + VW, b);
		VST(y + i + 2 * VW, c);
		VST(y + i + 3 * VW, d);
	}
	for (; i < dim; i += VW) {
		int64_t m = WHIT_MIN(VW, dim - i);
		VF a = VSET(0);
		for (int64_t j = 0; j < n; j++) a = VFMA(VSET(p[j]), VLDN(v + j * ld + i, m), a);
		VSTN(y + i, a, m);
	}
}

/* VM rows of C by up to VN vectors of columns, all in registers: each step over k loads nv vectors of B and
 * spreads VM values of A over them. Rows beyond m repeat the last one and are not stored. */
VATTR static inline __attribute__((always_inline)) void N(tile)(int64_t m, int nv, int64_t last, int64_t K,
                                                                const float *A, int64_t ai, int64_t ak, const float *B,
                                                                int64_t ldb, float *C, int64_t ldc, int accumulate) {
	VF acc[VM][VN];
	const float *a[VM];
	WHIT_UNROLL for (int i = 0; i < VM; i++) {
		a[i] = A + WHIT_MIN(i, m - 1) * ai;
		WHIT_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = VSET(0);
	}
	for (int64_t k = 0; k < K; k++, B += ldb) {
		VF b[VN];
		WHIT_UNROLL for (int j = 0; j < nv; j++)
		        __builtin_prefetch(B + 8 * ldb + j * VW); /* 10 % at 512 tokens */
		WHIT_UNROLL for (int j = 0; j < nv; j++) b[j] = j == nv - 1 ? VLDN(B + j * VW, last) : VLD(B + j * VW);
		WHIT_UNROLL for (int i = 0; i < VM; i++) {
			VF s = VSET(a[i][k * ak]);
			WHIT_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = VFMA(s, b[j], acc[i][j]);
		}
	}
	WHIT_UNROLL for (int i = 0; i < VM; i++) {
		if (i >= m) break;
		WHIT_UNROLL for (int j = 0; j < nv; j++) {
			float *c = C + i * ldc + j * VW;
			int64_t n = j == nv - 1 ? last : VW;
			VSTN(c, accumulate ? VADD(VLDN(c, n), acc[i][j]) : acc[i][j], n);
		}
	}
}

VATTR static void N(gemm)(int64_t M, int64_t n, int64_t K, const float *A, int64_t ai, int64_t ak, const float *B,
                          int64_t ldb, float *C, int64_t ldc, int accumulate) {
	for (int64_t c = 0; c < n; c += VN * VW) {
		int64_t cols = WHIT_MIN(VN * VW, n - c), nv = (cols + VW - 1) / VW, last = cols - (nv - 1) * VW;
		for (int64_t r = 0; r < M; r += VM) {
			int64_t m = WHIT_MIN(VM, M - r);
			const float *a = A + r * ai, *b = B + c;
			float *to = C + r * ldc + c;
			if (nv == VN && last == VW)
				N(tile)(m, VN, VW, K, a, ai, ak, b, ldb, to, ldc, accumulate);
			else if (nv == VN)
				N(tile)(m, VN, last, K, a, ai, ak, b, ldb, to, ldc, accumulate);
			else if (nv == 1)
				N(tile)(m, 1, last, K, a, ai, ak, b, ldb, to, ldc, accumulate);
			else
				N(tile)(m, 2, last, K, a, ai, ak, b, ldb, to, ldc, accumulate);
		}
	}
}

static const whit_vec N(set) = {VN * VW,    N(sumsq),           N(scale),  N(add),    N(swiglu), N(sigmoid), N(outer),
                                N(softmax), N(softmax_columns), N(sincos), N(rotate), N(qk),     N(pv),      N(gemm)};

#undef N
#undef VATTR
#undef VW
#undef VM
#undef VN
#undef VF
#undef VSET
#undef VLD
#undef VST
#undef VLDN
#undef VSTN
#undef VADD
#undef VSUB
#undef VMUL
#undef VDIV
#undef VFMA
#undef VFNMA
#undef VMAX
#undef VMIN
#undef VROUND
#undef VFLOOR
#undef VSCALEF
#undef VSUM
#undef VTOP
