/* Rotations: orthogonality, inverses, the Hadamard matrices themselves, plans, torch's numbers, equal bits at
 * every CPU level. */
#include "formats/rotation.h"
#include "tests/test.h"

static void fill(float *x, int64_t n, uint64_t key) {
	whit_rng g;
	whit_rng_key(&g, 5, key, 0);
	for (int64_t i = 0; i < n; i++) x[i] = (float)whit_rng_normal(&g);
}

static whit_rotation *make(int kind, uint64_t seed, int64_t dim, int64_t group) {
	whit_rotation_spec s;
	whit_rotation *r = NULL;
	whit_err e;
	if (!CHECK_RC(whit_rotation_plan(&s, kind, seed, dim, group, &e), e)) return NULL;
	CHECK_RC(whit_rotation_new(&r, &s, NULL, &e), e);
	return r;
}

/* Columns of Pi are rotated unit vectors: Pi^T Pi = I, whatever the padding; the inverse undoes it. */
static void orthogonal(void) {
	static const struct {
		int kind;
		int64_t dim, group;
	} cases[] = {
	        {WHIT_ROT_NONE, 7, 0},         {WHIT_ROT_HADAMARD, 1, 0},     {WHIT_ROT_HADAMARD, 8, 0},
	        {WHIT_ROT_HADAMARD, 256, 128}, {WHIT_ROT_HADAMARD, 768, 256}, {WHIT_ROT_HADAMARD, 384, 128},
	        {WHIT_ROT_HADAMARD, 48, 0},    {WHIT_ROT_HADAMARD, 160, 0},   {WHIT_ROT_HADAMARD, 320, 64},
	        {WHIT_ROT_HADAMARD, 896, 0},   {WHIT_ROT_HADAMARD, 28, 0},    {WHIT_ROT_HADAMARD, 172, 128},
	        {WHIT_ROT_HADAMARD, 100, 0},   {WHIT_ROT_HADAMARD, 300, 256}, {WHIT_ROT_HAAR_QR, 5, 0},
	        {WHIT_ROT_HAAR_QR, 64, 64},    {WHIT_ROT_TQ3, 300, 128},      {WHIT_ROT_TQ3, 128, 128},
	};
	for (int c = 0; c < WHIT_COUNT(cases); c++) {
		int64_t d = cases[c].dim;
		whit_rotation *r = make(cases[c].kind, 42, d, cases[c].group);
		if (!r) continue;
		int64_t w = whit_rotation_width(r);
		float *eye = whit_alloc((size_t)(d * d) * 4), *cols = whit_alloc((size_t)(d * w) * 4),
		      *back = whit_alloc((size_t)(d * d) * 4);
		for (int64_t i = 0; i < d; i++) eye[i * d + i] = 1;
		whit_rotate_cpu(r, cols, eye, d);
		double worst = 0, worst_back = 0;
		for (int64_t i = 0; i < d; i++)
			for (int64_t j = 0; j < d; j++) {
				double dot = 0;
				for (int64_t k = 0; k < w; k++) dot += (double)cols[i * w + k] * cols[j * w + k];
				worst = fmax(worst, fabs(dot - (i == j)));
			}
		whit_unrotate_cpu(r, back, cols, d);
		worst_back = whit_max_abs_diff(back, eye, d * d);
		/* Float entries of size <= 1, log2(w) + 28 additions of relative error 2^-24 each. */
		CHECK_MSG(worst <= 48 * 0x1p-24 && worst_back <= 48 * 0x1p-24,
		          "kind %d dim %lld group %lld: orthogonal to %g, inverse to %g", cases[c].kind, (long long)d,
		          (long long)cases[c].group, worst, worst_back);
		whit_free(eye), whit_free(cols), whit_free(back);
		whit_rotation_free(r);
	}
}

/* H H^T = n I exactly for base 12, 20, 28, and H (x) H_4 has the Kronecker structure: entries +-1 / sqrt(n). */
static void paley(void) {
	for (int m = 12; m <= 28; m += 8)
		for (int k = 0; k <= 2; k += 2) {
			int64_t n = (int64_t)m << k;
			whit_rotation_spec s = {WHIT_ROT_HADAMARD, 1, n, n, m};
			whit_rotation *r;
			whit_err e;
			if (!CHECK_RC(whit_rotation_new(&r, &s, NULL, &e), e)) continue;
			float *x = whit_alloc((size_t)(n * n) * 4), *h = whit_alloc((size_t)(n * n) * 4);
			for (int64_t i = 0; i < n; i++) x[i * n + i] = 1;
			whit_rotate_cpu(r, h, x, n); /* row i: column i of H, times +-1 / sqrt(n) */
			int bad = 0;
			for (int64_t i = 0; i < n * n; i++) bad += !(fabs(fabs(h[i]) * sqrt((double)n) - 1) <= 1e-6);
			for (int64_t i = 0; i < n; i++)
				for (int64_t j = 0; j < n; j++) {
					int dot = 0;
					for (int64_t c = 0; c < n; c++)
						dot += (h[i * n + c] > 0) == (h[j * n + c] > 0) ? 1 : -1;
					bad += dot != (i == j ? n : 0);
				}
			/* columns a * 2^k + b: sign of entry (a' 2^k + b') against entry with b' = 0 depends on b, b'
			 * only */
			for (int64_t c = 0; k && c < n; c++)
				for (int64_t row = 0; row < n; row++) {
					int64_t b = c & 3, b2 = row & 3;
					int flip = __builtin_popcountll((unsigned long long)(b & b2)) & 1;
					bad += ((h[c * n + row] > 0) != (h[c * n + (row & ~INT64_C(3))] > 0)) != flip;
				}
			CHECK_MSG(!bad, "H_%d (x) H_%d: %d wrong", m, 1 << k, bad);
			whit_free(x), whit_free(h);
			whit_rotation_free(r);
		}
}

/* Sylvester order: y = H D u / sqrt(B), D from one MT19937 word per channel, odd = +1. */
static void sylvester_signs(void) {
	enum { N = 16 };
	whit_rotation *r = make(WHIT_ROT_HADAMARD, 42, N, 0);
	whit_mt mt;
	float x[N], y[N], d[N];
	whit_mt_seed(&mt, 42);
	for (int i = 0; i < N; i++) d[i] = whit_mt_next(&mt) & 1 ? 1 : -1;
	fill(x, N, 1);
	whit_rotate_cpu(r, y, x, 1);
	for (int i = 0; i < N; i++) {
		double s = 0;
		for (int j = 0; j < N; j++) s += (__builtin_popcount((unsigned)(i & j)) & 1 ? -1.0 : 1.0) * d[j] * x[j];
		CHECK_NEAR(y[i], s / 4, 1e-5);
	}
	whit_rotation_free(r);
}

/* turboquant.md 8: w = D1 H D2 c / sqrt(128), D1 then D2 of 128 draws each, 2 (word mod 2) - 1. */
static void tq3_order(void) {
	enum { N = 128 };
	whit_rotation *r = make(WHIT_ROT_TQ3, 42, N, N);
	whit_mt mt;
	float c[N], scratch[N], w[N];
	double d1[N], d2[N], worst = 0;
	whit_mt_seed(&mt, 42);
	for (int i = 0; i < N; i++) d1[i] = 2.0 * (whit_mt_next(&mt) % 2) - 1;
	for (int i = 0; i < N; i++) d2[i] = 2.0 * (whit_mt_next(&mt) % 2) - 1;
	fill(c, N, 2);
	memcpy(scratch, c, sizeof c);
	whit_unrotate_cpu(r, w, scratch, 1);
	for (int i = 0; i < N; i++) {
		double s = 0;
		for (int j = 0; j < N; j++)
			s += (__builtin_popcount((unsigned)(i & j)) & 1 ? -1.0 : 1.0) * d2[j] * c[j];
		worst = fmax(worst, fabs(d1[i] * s / sqrt(N) - w[i]));
	}
	CHECK_MSG(worst <= 1e-5, "tq3 decode off by %g", worst);
	whit_rotation_free(r);
}

static void plans(void) {
	static const struct {
		int64_t dim, group, block;
		int base;
		int64_t width;
	} want[] = {
	        {1024, 256, 1024, 1, 1024}, {3584, 256, 256, 1, 3584},   {896, 128, 128, 1, 896},
	        {3584, 0, 3584, 28, 3584},  {5120, 0, 5120, 20, 5120},   {6144, 0, 6144, 12, 6144},
	        {17408, 0, 256, 1, 17408},  {17408, 256, 256, 1, 17408}, {320, 64, 320, 20, 320},
	        {172, 128, 128, 1, 256},    {896, 256, 256, 1, 1024},    {64, 64, 64, 1, 64},
	        {64, 128, 128, 1, 128},     {172, 0, 128, 1, 256},       {100, 256, 256, 1, 256},
	};
	whit_rotation_spec s;
	whit_rotation *r;
	whit_err e;
	for (int i = 0; i < WHIT_COUNT(want); i++) {
		CHECK_RC(whit_rotation_plan(&s, WHIT_ROT_HADAMARD, 1, want[i].dim, want[i].group, &e), e);
		int ok = s.block == want[i].block && s.base == want[i].base && whit_rotation_new(&r, &s, NULL, &e) == 0;
		CHECK_MSG(ok && whit_rotation_width(r) == want[i].width, "dim %lld group %lld: block %lld base %d",
		          (long long)want[i].dim, (long long)want[i].group, (long long)s.block, s.base);
		if (ok) whit_rotation_free(r);
	}
	CHECK_FAILS(whit_rotation_plan(&s, WHIT_ROT_HAAR_QR, 1, 300, 128, &e), WHIT_EUSAGE, e, "300");
	CHECK_FAILS(whit_rotation_plan(&s, WHIT_ROT_HAAR_QR, 1, 1 << 20, 0, &e), WHIT_EUSAGE, e, "1048576");
	CHECK_FAILS(whit_rotation_plan(&s, WHIT_ROT_HADAMARD, 1, 0, 0, &e), WHIT_EUSAGE, e, "width 0");
	CHECK_FAILS(whit_rotation_plan(&s, 9, 1, 64, 0, &e), WHIT_EUSAGE, e, "kind 9");
	static const whit_rotation_spec bad[] = {
	        {9, 0, 64, 64, 1},
	        {WHIT_ROT_HADAMARD, 0, 64, 0, 1},
	        {WHIT_ROT_HADAMARD, 0, 64, 48, 1},
	        {WHIT_ROT_HADAMARD, 0, 64, 64, 3},
	        {WHIT_ROT_HADAMARD, 0, -5, 64, 1},
	        {WHIT_ROT_HADAMARD, 0, INT64_MAX, 64, 1},
	        {WHIT_ROT_HAAR_QR, 0, 1 << 24, 1 << 24, 1},
	        {WHIT_ROT_TQ3, 0, 64, 100, 1},
	};
	for (int i = 0; i < WHIT_COUNT(bad); i++)
		CHECK_FAILS(whit_rotation_new(&r, &bad[i], NULL, &e), WHIT_EINPUT, e, "impossible");
	float dense[4] = {1, 0, 0, NAN};
	CHECK_FAILS(whit_rotation_new(&r, &(whit_rotation_spec){WHIT_ROT_HAAR_QR, 0, 2, 2, 1}, dense, &e), WHIT_EINPUT,
	            e, "NaN");
	CHECK_FAILS(whit_rotation_new(&r, &(whit_rotation_spec){WHIT_ROT_HADAMARD, 0, 2, 2, 1}, dense, &e), WHIT_EINPUT,
	            e, "hadamard");
	for (int k = 0; k < 4; k++) CHECK_INT(whit_rotation_kind_parse(whit_rotation_kind_name(k)), k);
	CHECK_INT(whit_rotation_kind_parse("givens"), -1);
}

/* float stages in a fixed order: equal bits at every level and any number of rows together; near the double one. */
static void levels_agree(void) {
	static const int64_t sizes[] = {1, 2, 8, 16, 32, 64, 128, 256, 512, 2048};
	int top = whit_cpu_level();
	for (int i = 0; i < WHIT_COUNT(sizes); i++) {
		int64_t n = sizes[i], rows = 3;
		float *x = whit_alloc((size_t)(rows * n) * 4), *plain = whit_alloc((size_t)(rows * n) * 4),
		      *ref = whit_alloc((size_t)(rows * n) * 4);
		fill(x, rows * n, (uint64_t)n);
		memcpy(plain, x, (size_t)(rows * n) * 4);
		memcpy(ref, x, (size_t)(rows * n) * 4);
		whit_fwht_cpu(ref, rows, n);
		whit_cpu_cap(0);
		whit_fwht_fast_cpu(plain, rows, n);
		CHECK_MSG(whit_rel_err(plain, ref, rows * n) <= 16 * 0x1p-24, "fwht %lld against double", (long long)n);
		for (int level = 1; level <= top; level++) {
			float *fast = whit_alloc((size_t)(rows * n) * 4);
			memcpy(fast, x, (size_t)(rows * n) * 4);
			whit_cpu_cap(level);
			whit_fwht_fast_cpu(fast, rows, n);
			CHECK_MSG(!memcmp(fast, plain, (size_t)(rows * n) * 4), "fwht %lld: %s differs", (long long)n,
			          whit_cpu_level_name(level));
			whit_free(fast);
		}
		whit_cpu_cap(top);
		whit_free(x), whit_free(plain), whit_free(ref);
	}
	whit_rotation *r = make(WHIT_ROT_HAAR_QR, 3, 96, 0);
	float x[11 * 96], a[11 * 96], b[11 * 96];
	fill(x, 11 * 96, 9);
	whit_rotate_cpu(r, a, x, 11);
	for (int i = 0; i < 11; i++) whit_rotate_cpu(r, b + 96 * i, x + 96 * i, 1);
	CHECK_MSG(!memcmp(a, b, sizeof a), "haar_qr: a row depends on its company");
	whit_rotation_free(r);
}

/* Golden numbers of torch (make_rotation.py). torch's vectorised build differs in the last ulps. */
static void torch_numbers(void) {
	FILE *f = fopen(WHIT_SOURCE "/tests/golden/rotation.txt", "r");
	char what[16];
	unsigned long long seed;
	int n, seen = 0;
	if (!CHECK_MSG(f != NULL, "tests/golden/rotation.txt is missing")) return;
	while (fscanf(f, "%15s %llu %d", what, &seed, &n) == 3) {
		int haar = !strcmp(what, "haar"), count = haar ? n * n : n;
		float *want = whit_alloc((size_t)count * 4), *got = whit_alloc((size_t)count * 4);
		for (int i = 0; i < count; i++)
			if (fscanf(f, "%f", want + i) != 1) CHECK_MSG(0, "rotation.txt is cut short");
		if (haar) {
			whit_rotation *r = make(WHIT_ROT_HAAR_QR, seed, n, 0);
			if (r) memcpy(got, whit_rotation_dense(r), (size_t)count * 4);
			whit_rotation_free(r);
		} else {
			whit_mt mt;
			whit_mt_seed(&mt, seed);
			whit_mt_randn(&mt, got, n);
		}
		double off = whit_max_abs_diff(got, want, count);
		CHECK_MSG(off <= 1e-5, "%s seed %llu, %d: off by %g", what, seed, n, off);
		whit_free(want), whit_free(got);
		seen++;
	}
	CHECK_INT(seen, 27);
	fclose(f);
}

static void sidecar(void) {
	float dense[4] = {0, 1, -1, 0}, x[2] = {3, 4}, y[2], back[2];
	whit_rotation *r;
	whit_err e;
	if (!CHECK_RC(whit_rotation_new(&r, &(whit_rotation_spec){WHIT_ROT_HAAR_QR, 0, 2, 2, 1}, dense, &e), e)) return;
	whit_rotate_cpu(r, y, x, 1);
	CHECK_NEAR(y[0], 4, 0);
	CHECK_NEAR(y[1], -3, 0);
	whit_unrotate_cpu(r, back, y, 1);
	CHECK_NEAR(back[0], 3, 0);
	CHECK_NEAR(back[1], 4, 0);
	whit_rotation_free(r);
}

TEST_MAIN(orthogonal, paley, sylvester_signs, tq3_order, plans, levels_agree, torch_numbers, sidecar)
