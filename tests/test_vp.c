/* The record of rows of five precisions (vp1.h): its size and bytes by hand, products, hostile bytes; who gets which
 * class (assign.h); and the method that fills it. */
#include "calib/assign.h"
#include "calib/feedback.h"
#include "calib/parts.h"
#include "formats/vp1.h"
#include "tests/test.h"

static whit_mat matrix(const char *format, int64_t rows, int64_t cols) {
	whit_mat m = {.rows = rows, .cols = cols, .width = cols};
	whit_err e;
	CHECK_RC(whit_spec_parse(format, &m.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	return m;
}

/* Section after section, each up to a multiple of 64. */
static void sizes(void) {
	whit_spec s;
	whit_err e;
	CHECK_RC(whit_spec_parse("vp", &s, &e), e);
	/* 4096 x 4096: rows 20 (.5 %: 20.48), 184 (184.32), 819 (819.2), 1024, and 2049 that are left */
	int64_t large = 64 + 1536                 /* 4096 * 3 / 8 */
	                + 20 * 8192               /* f16: 163840 */
	                + 184 * 4096 + 384        /* int8: 753664; 184 * 2 = 368 */
	                + 1677312 + 104832        /* int4: 819 * 2048; 64 groups, 819 * 128 */
	                + 1048576 + 65536         /* int2: 1024 * 1024; 32 groups, 1024 * 64 */
	                + 1049088 + 65600 + 4160; /* binary: 2049 * 512; 2049 * 32 = 65568; 2049 * 2 = 4098 */
	CHECK_INT(whit_spec_bytes(&s, 4096, 4096, 0, &e), large); /* 2.353 bits a weight */
	/* 1000 x 1100: rows 5, 45, 200, 250, 500 */
	int64_t odd = 64 + 384               /* 375 */
	              + 11008                /* 5 * 2200 = 11000 */
	              + 49536 + 128          /* 45 * 1100 = 49500; 90 */
	              + 110016 + 7232        /* 200 * 550 = 110000; 18 groups: 200 * 36 = 7200 */
	              + 68800 + 4544         /* 250 * 275 = 68750; 9 groups: 250 * 18 = 4500 */
	              + 70016 + 4544 + 1024; /* 35 words: 500 * 140 = 70000; 9 blocks: 4500; 1000 */
	CHECK_INT(whit_spec_bytes(&s, 1000, 1100, 0, &e), odd);
	CHECK_INT(whit_spec_bytes(&s, 1, 1, 0, &e), 64 + 64 + 3 * 64); /* a binary row */
	CHECK_FAILS(whit_spec_bytes(&s, INT64_MAX / 64, 1 << 20, 0, &e) < 0 ? e.code : 0, WHIT_EINPUT, e, "larger");
	CHECK_FAILS(whit_spec_bytes(&s, 1, (int64_t)1 << 32, 0, &e) < 0 ? e.code : 0, WHIT_EUSAGE, e, "width");
}

static void names(void) {
	static const char *const good[] = {"vp5-45-200-250", "vp0-0-0-0", "vp1000-0-0-0", "vp0-0-20-380"},
	                         *const wrong[] = {"vp5",
	                                           "vp5-45-200",
	                                           "vp5-45-200-",
	                                           "vp-5-45-200-250",
	                                           "vp05-4-20-25",
	                                           "vp5-45-200-250-",
	                                           "vp1-1-1-998",
	                                           "vp1001-0-0-0",
	                                           "vp00-0-0-0",
	                                           "vpx",
	                                           "vp5-45-200-250k",
	                                           "vp5--45-200-250"};
	whit_spec s, again;
	whit_err e;
	char out[32];
	for (int i = 0; i < WHIT_COUNT(good); i++) {
		CHECK_RC(whit_spec_parse(good[i], &s, &e), e);
		whit_spec_name(&s, out);
		CHECK_TEXT(out, good[i]);
	}
	for (int i = 0; i < WHIT_COUNT(wrong); i++)
		CHECK_FAILS(whit_spec_parse(wrong[i], &s, &e), WHIT_EUSAGE, e, "vpA-B-C-D");
	CHECK_RC(whit_spec_parse("vp", &s, &e), e);
	CHECK_RC(whit_spec_parse("vp5-45-200-250", &again, &e), e);
	CHECK(!memcmp(s.share, again.share, sizeof s.share));
}

/* The formats of the classes, by name. */
static void classes(void) {
	static const char *const name[WHIT_VP_CLASSES] = {"f16", "int8", "int4g64", "int2g128", "bin128"};
	for (int c = 0; c < WHIT_VP_CLASSES; c++) {
		whit_spec s = whit_vp_spec(c);
		char out[32];
		whit_spec_name(&s, out);
		CHECK_TEXT(out, name[c]);
		CHECK_INT(s.group, whit_vp_group(c));
		CHECK_INT(s.bits, c ? whit_vp_bits(c) : 0);
	}
}

/* 5 rows of 66 columns, one of each class, last class first: every byte that is not 0 is named. */
static void by_hand(void) {
	whit_mat m = matrix("vp200-200-200-200", 5, 66);
	uint8_t *p = (uint8_t *)(uintptr_t)m.plane[0];
	float out[5 * 66];
	whit_err e;
	whit_vp_begin(&m, (const uint8_t[]){4, 3, 2, 1, 0});
	CHECK(!memcmp(p, "VPR1\1\0\7\0\5\0\0\0\102\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0", 40));
	CHECK(p[64] == 0x9c && p[65] == 0x02 && p[66] == 0); /* 4 + 8 * 3 + 64 * 2 + 512 * 1 */
	size_t f16 = 128, int8 = 128 + 192, int4 = int8 + 128 + 64, int2 = int4 + 64 + 64, bin = int2 + 64 + 64;
	CHECK_INT((int64_t)whit_plane_bytes(&m, 0), (int64_t)bin + 3 * 64);
	p[f16 + 1] = 0x3c, p[f16 + 65 * 2 + 1] = 0xc0;                           /* columns 0: 1; 65: -2 */
	p[int8] = 0x80, p[int8 + 65] = 127, p[int8 + 128 + 1] = 0x38;            /* -128, 127; scale 1/2 */
	p[int4] = 0x78, p[int4 + 32] = 0x10;                                     /* -8, 7; 65: 1 */
	p[int4 + 64 + 1] = 0x3c, p[int4 + 64 + 3] = 0x40;                        /* groups of 64: 1, 2 */
	p[int2] = 0x1b, p[int2 + 64 + 1] = 0x40;                                 /* -1, -2, 1, 0; scale 2 */
	p[bin] = 0x05, p[bin + 8] = 0x02, p[bin + 64] = 16, p[bin + 129] = 0x40; /* columns 0, 2, 65; 2 * 2^-1 */
	CHECK_RC(whit_vp_check(&m, &e), e);
	m.spec.fmt->decode(&m, 0, 5, out);
	CHECK(out[0] == 1 && out[1] == -1 && out[2] == 1 && out[64] == -1 && out[65] == 1);
	CHECK(out[66] == -2 && out[67] == -4 && out[68] == 2 && out[69] == 0);
	CHECK(out[132] == -8 && out[133] == 7 && out[132 + 65] == 2);
	CHECK(out[198] == -64 && out[198 + 65] == 63.5f);
	CHECK(out[264] == 1 && out[264 + 65] == -2 && out[265] == 0);
	whit_mat_free(&m);
}

static float *normals(int64_t n, uint64_t key) {
	whit_rng g;
	float *x = whit_alloc((size_t)n * sizeof *x);
	whit_rng_key(&g, 9, key, 0);
	for (int64_t i = 0; i < n; i++) x[i] = (float)whit_rng_normal(&g);
	return x;
}

/* Classes dealt out at random, rows encoded by their formats. */
static whit_mat filled(const char *format, int64_t rows, int64_t cols, uint64_t key) {
	whit_mat m = matrix(format, rows, cols);
	uint8_t *code = whit_alloc((size_t)rows);
	float *w = normals(rows * cols, key);
	int64_t n = 0, zero = 0, at[WHIT_VP_CLASSES] = {0};
	whit_rng g;
	whit_rng_key(&g, 9, key, 1);
	for (int c = 0; c < WHIT_VP_CLASSES; c++)
		for (int64_t i = 0; i < whit_vp_rows(&m.spec, rows, c); i++) code[n++] = (uint8_t)c;
	CHECK_INT(n, rows);
	for (int64_t r = rows - 1; r > 0; r--) {
		int64_t k = (int64_t)whit_rng_below(&g, (uint64_t)r + 1);
		uint8_t t = code[r];
		code[r] = code[k], code[k] = t;
	}
	whit_vp_begin(&m, code);
	for (int64_t r = 0; r < rows; r++) {
		whit_mat part = whit_vp_view(&m, code[r]);
		CHECK(whit_vp_code(m.plane[0], r) == code[r]);
		CHECK_INT(part.spec.fmt->encode(&part, at[code[r]]++, w + r * cols, NULL, WHIT_SCALE_LS, &zero), 0);
	}
	whit_free(code);
	whit_free(w);
	return m;
}

static const struct {
	const char *format;
	int64_t rows, cols;
} shapes[] = {{"vp", 200, 384},           {"vp100-100-200-200", 37, 100}, {"vp0-0-0-0", 9, 1},
              {"vp0-500-0-500", 64, 769}, {"vp1000-0-0-0", 5, 33},        {"vp250-250-250-250", 8, 65},
              {"vp0-0-1000-0", 170, 31}};

/* A row decodes to what it does as a row of a matrix of its own; and encodes to that again. */
static void round_trip(void) {
	for (int i = 0; i < WHIT_COUNT(shapes); i++) {
		int64_t rows = shapes[i].rows, cols = shapes[i].cols, zero = 0;
		whit_mat m = filled(shapes[i].format, rows, cols, 3);
		whit_err e;
		CHECK_RC(whit_vp_check(&m, &e), e);
		float *w = normals(rows * cols, 3), *x = whit_alloc((size_t)(rows * cols) * sizeof *x),
		      *y = whit_alloc((size_t)cols * sizeof *y);
		m.spec.fmt->decode(&m, 0, rows, x);
		for (int64_t r = 0; r < rows; r++) {
			whit_mat one = {.spec = whit_vp_spec(whit_vp_code(m.plane[0], r)),
			                .rows = 1,
			                .cols = cols,
			                .width = cols};
			CHECK_RC(whit_mat_alloc(&one, &e), e);
			for (int again = 0; again < 2; again++) {
				one.spec.fmt->encode(&one, 0, again ? x + r * cols : w + r * cols, NULL, WHIT_SCALE_LS,
				                     &zero);
				one.spec.fmt->decode(&one, 0, 1, y);
				int64_t apart = 0; /* values: a zero may change its sign with its scale's */
				for (int64_t c = 0; c < cols; c++) apart += !(y[c] == x[r * cols + c]);
				if (apart) CHECK_MSG(0, "%s: row %lld, %d", shapes[i].format, (long long)r, again);
			}
			m.spec.fmt->decode(&m, r, r + 1, y);
			if (memcmp(y, x + r * cols, (size_t)cols * sizeof *y))
				CHECK_MSG(0, "%s: row %lld alone", shapes[i].format, (long long)r);
			whit_mat_free(&one);
		}
		whit_free(w), whit_free(x), whit_free(y);
		whit_mat_free(&m);
	}
}

/* Products against double sums of decoded rows, of all and of some rows; bound: whit_codes_gemv. */
static void products(void) {
	for (int i = 0; i < WHIT_COUNT(shapes); i++) {
		int64_t rows = shapes[i].rows, cols = shapes[i].cols, r0 = rows / 3;
		whit_mat m = filled(shapes[i].format, rows, cols, 4);
		float *x = normals(8 * cols, 5);
		for (int T = 1; T <= 8; T += 7) {
			int bad = whit_gemv_wrong(&m, r0, x, T);
			CHECK_MSG(!bad, "%s, %d tokens: %d wrong", shapes[i].format, T, bad);
		}
		whit_free(x);
		whit_mat_free(&m);
	}
}

/* ---- hostile bytes ---- */

/* Whether a byte is of a plane. */
static int is_plane(const whit_mat *m, size_t i) {
	for (int c = 0; c < WHIT_VP_CLASSES; c++) {
		const whit_vp_class k = whit_vp_layout(&m->spec, m->rows, m->width, c);
		for (int p = 0; p < 3; p++)
			if (i >= k.at[p] && i < k.at[p] + (size_t)k.rows * k.row_bytes[p]) return 1;
	}
	return 0;
}

static void refuse(const whit_mat *m, size_t i, uint8_t flip, const char *word) {
	uint8_t *p = (uint8_t *)(uintptr_t)m->plane[0];
	whit_err e;
	p[i] ^= flip;
	CHECK_FAILS(whit_vp_check(m, &e), WHIT_EINPUT, e, word);
	p[i] ^= flip;
}

/* Any bit of the header, the classes and the padding is refused; scales are where they are not finite. */
static void hostile(void) {
	whit_mat m = filled("vp100-100-200-200", 37, 100, 6);
	uint8_t *p = (uint8_t *)(uintptr_t)m.plane[0];
	whit_err e;
	size_t bytes = whit_plane_bytes(&m, 0), classes = 64 + 14; /* 37 * 3 = 111 bits */
	for (size_t i = 0; i < bytes; i++)
		for (int bit = 0; bit < 8; bit++) {
			p[i] ^= (uint8_t)(1 << bit);
			int rc = whit_vp_check(&m, &e), inside = is_plane(&m, i);
			if (inside ? rc && !strstr(e.text, "finite") : rc != WHIT_EINPUT)
				CHECK_MSG(0, "byte %zu, bit %d: %d", i, bit, rc);
			p[i] ^= (uint8_t)(1 << bit);
		}
	CHECK_RC(whit_vp_check(&m, &e), e);
	static const struct {
		size_t at;
		const char *word;
	} field[] = {{0, "other bytes"},
	             {4, "version 0, need VPR1 version 1"},
	             {6, "block 2^6"},
	             {7, "flags 1"},
	             {8, "36 x 100"},
	             {12, "37 x 101"},
	             {16, "2 rows of class 0, need 3"},
	             {20, "class 1"},
	             {24, "class 2"},
	             {28, "class 3"},
	             {32, "class 4"},
	             {36, "behind its counts"},
	             {63, "behind its counts"}};
	for (int i = 0; i < WHIT_COUNT(field); i++) refuse(&m, field[i].at, 1, field[i].word);
	refuse(&m, classes, 1, "rows beyond 37");
	refuse(&m, classes - 1, 0x80, "rows beyond 37"); /* the one bit that is left of it */
	for (int c = 5; c < 8; c++)                      /* class codes that are none */
		refuse(&m, 64, (uint8_t)((p[64] & 7) ^ c),
		       c == 5   ? "class 5 for row 0"
		       : c == 6 ? "class 6"
		                : "class 7");
	refuse(&m, 64, (uint8_t)((p[64] & 7) ^ ((p[64] & 7) + 1) % 5), "times class"); /* one row more, one less */
	for (int c = 0; c < WHIT_VP_CLASSES; c++) {
		const whit_vp_class k = whit_vp_layout(&m.spec, m.rows, m.width, c);
		size_t at = k.at[c == 0 ? 0 : c == 4 ? 2 : 1];
		uint8_t was = p[at + 1];
		p[at + 1] = 0x7c;
		CHECK_FAILS(whit_vp_check(&m, &e), WHIT_EINPUT, e, "finite");
		p[at + 1] = was;
	}
	whit_mat_free(&m);
}

/* ---- who gets which class ---- */

static double cost_of(const double *cost, const uint8_t *class, int64_t n, int classes) {
	double sum = 0;
	for (int64_t r = 0; r < n; r++) sum += cost[r * classes + class[r]];
	return sum;
}

/* The least sum, by trying all. */
static double least(const double *cost, int64_t r, int64_t n, int classes, int64_t *room) {
	double best = INFINITY;
	if (r == n) return 0;
	for (int c = 0; c < classes; c++) {
		if (!room[c]) continue;
		room[c]--;
		best = fmin(best, cost[r * classes + c] + least(cost, r + 1, n, classes, room));
		room[c]++;
	}
	return best;
}

static void small_assignments(void) {
	whit_rng g;
	whit_rng_key(&g, 9, 21, 0);
	for (int t = 0; t < 300; t++) {
		int classes = 1 + t % 5;
		int64_t n = 1 + t % 8, room[5] = {0}, used[5] = {0};
		double cost[8 * 5];
		uint8_t class[8];
		for (int i = 0; i < n * classes; i++)
			cost[i] = t % 3 ? (double)whit_rng_below(&g, 6) : whit_rng_normal(&g) * exp2(t % 60);
		for (int64_t r = 0; r < n; r++) room[whit_rng_below(&g, (uint64_t)classes)]++;
		whit_assign(class, cost, n, classes, room);
		for (int64_t r = 0; r < n; r++) used[class[r]]++;
		CHECK(!memcmp(used, room, sizeof used));
		double want = least(cost, 0, n, classes, room), scale = 0;
		for (int i = 0; i < n * classes; i++) scale = fmax(scale, fabs(cost[i]));
		CHECK_NEAR(cost_of(cost, class, n, classes), want, 1e-13 * scale);
	}
}

/* Of many rows: no circle of moves between classes is worth anything, which is what least means (Klein 1967). */
static void large_assignment(void) {
	enum { N = 20000, C = 5 };
	double *cost = whit_alloc(N * C * sizeof *cost), d[C][C];
	uint8_t *class = whit_alloc(N);
	int64_t room[C] = {100, 900, 4000, 5000, 10000};
	whit_rng g;
	whit_rng_key(&g, 9, 22, 0);
	for (int r = 0; r < N; r++) /* as of formats: each class about an eighth of the next */
		for (int c = 0; c < C; c++) cost[r * C + c] = exp(whit_rng_normal(&g) * 0.5) * exp2(3.0 * c);
	whit_assign(class, cost, N, C, room);
	for (int a = 0; a < C; a++)
		for (int b = 0; b < C; b++) d[a][b] = a == b ? 0 : INFINITY;
	for (int r = 0; r < N; r++)
		for (int b = 0; b < C; b++)
			d[class[r]][b] = fmin(d[class[r]][b], cost[r * C + b] - cost[r * C + class[r]]);
	for (int k = 0; k < C; k++)
		for (int a = 0; a < C; a++)
			for (int b = 0; b < C; b++) d[a][b] = fmin(d[a][b], d[a][k] + d[k][b]);
	for (int a = 0; a < C; a++) CHECK_MSG(d[a][a] >= -1e-9, "a circle through class %d gains %g", a, -d[a][a]);
	whit_free(cost), whit_free(class);
}

static void ties(void) {
	double cost[12] = {1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2}, odd[4] = {INFINITY, 1, 3, NAN};
	uint8_t class[6];
	whit_assign(class, cost, 6, 2, (const int64_t[]){2, 4});
	CHECK(!memcmp(class, "\0\0\1\1\1\1", 6));
	whit_assign(class, odd, 2, 2, (const int64_t[]){1, 1});
	CHECK(class[0] == 1 && class[1] == 0);
	memset(cost, 0, sizeof cost);
	whit_assign(class, cost, 6, 2, (const int64_t[]){3, 3});
	CHECK(!memcmp(class, "\0\0\0\1\1\1", 6));
}

/* ---- the method ---- */

enum { ROWS = 80, COLS = 200 };

typedef struct subject {
	whit_weight src;
	whit_feedback f;
	double h[COLS][COLS];
} subject;

static void make_subject(subject *s, uint64_t key) {
	static const int big[4] = {3, 30, 31, 79};
	const whit_method *method;
	const whit_feedback_opts o = {.damping = 0.01, .alpha = 0.5};
	double *h = whit_alloc(COLS * COLS * sizeof *h);
	whit_err e;
	s->src = (whit_weight){.name = "w", .file = "memory", .ndim = 2, .shape = {ROWS, COLS}};
	s->src.mat = matrix("f32", ROWS, COLS);
	float *x = (float *)(uintptr_t)s->src.mat.plane[0], *w = normals(ROWS * COLS, key);
	memcpy(x, w, ROWS * COLS * sizeof *w);
	for (int i = 0; i < 4; i++)
		for (int c = 0; c < COLS; c++) x[big[i] * COLS + c] *= 20;
	for (int i = 0; i < COLS; i++)
		for (int k = 0; k < COLS; k++) s->h[i][k] = h[i * COLS + k] = pow(0.8, abs(i - k));
	CHECK((method = whit_method_find("fabq-vp", &e)) != NULL);
	CHECK_RC(whit_feedback_make(&s->f, method->feedback, h, NULL, COLS, &o, "test", &e), e);
	whit_free(h);
	whit_free(w);
}

static void free_subject(subject *s) {
	whit_feedback_free(&s->f);
	whit_mat_free(&s->src.mat);
}

/* What the codes lose: sums of (q - w) H (q - w). */
static double loss_of(const subject *s, const whit_mat *m) {
	const float *w = (const float *)(const void *)s->src.mat.plane[0];
	float q[COLS];
	double sum = 0;
	for (int64_t r = 0; r < ROWS; r++) {
		m->spec.fmt->decode(m, r, r + 1, q);
		for (int i = 0; i < COLS; i++)
			for (int k = 0; k < COLS; k++)
				sum += ((double)q[i] - w[r * COLS + i]) * s->h[i][k] * ((double)q[k] - w[r * COLS + k]);
	}
	return sum;
}

static whit_mat run(const subject *s, const char *format, whit_job *j) {
	whit_err e;
	const whit_method *method = whit_method_find("fabq-vp", &e);
	whit_mat m = matrix(format, ROWS, COLS);
	*j = (whit_job){.src = &s->src, .dst = &m, .feedback = &s->f};
	CHECK_RC(method->run(j, &e), e);
	CHECK_RC(whit_vp_check(&m, &e), e);
	return m;
}

/* The largest rows become the best; same bytes at any thread count; more bits lose less than all rows binary by the
 * same solver, and feedback less than the nearest codes; what is not finite is named by its own row. */
static void method(void) {
	static const char *const shares[] = {"vp50-0-0-0", "vp0-50-0-0", "vp0-0-50-0", "vp0-0-0-100",
	                                     "vp50-50-200-250"};
	for (uint64_t key = 7; key < 10; key++) {
		subject s;
		whit_job j;
		make_subject(&s, key);
		whit_mat plain = run(&s, "vp0-0-0-0", &j);
		double worst = loss_of(&s, &plain);
		CHECK_MSG(j.loss < 0.9 * j.loss_nearest, "loss %g, nearest %g", j.loss, j.loss_nearest);
		for (int i = 0; i < WHIT_COUNT(shares); i++) {
			whit_threads_set(3);
			whit_mat m = run(&s, shares[i], &j);
			whit_threads_set(1);
			whit_mat again = run(&s, shares[i], &j);
			CHECK(!memcmp(m.plane[0], again.plane[0], whit_plane_bytes(&m, 0)));
			CHECK(j.ref > 0 && j.err > 0 && j.err < j.ref && j.bad_scales == 0 && j.loss < j.loss_nearest);
			double loss = loss_of(&s, &m);
			CHECK_MSG(loss < worst, "%s loses %g, binary rows %g", shares[i], loss, worst);
			for (int k = 0; k < 4 && i < 4; k++)
				CHECK(whit_vp_code(m.plane[0], (const int[]){3, 30, 31, 79}[k]) < WHIT_VP_BINARY);
			whit_mat_free(&m), whit_mat_free(&again);
		}
		whit_mat_free(&plain);
		free_subject(&s);
	}
}

static void refusals(void) {
	subject s;
	whit_err e;
	const whit_method *method = whit_method_find("fabq-vp", &e);
	make_subject(&s, 7);
	whit_mat m = matrix("vp", ROWS, COLS);
	float *x = (float *)(uintptr_t)s.src.mat.plane[0];
	x[31 * COLS + 4] = NAN;
	whit_job j = {.src = &s.src, .dst = &m, .feedback = &s.f};
	CHECK_FAILS(method->run(&j, &e), WHIT_ENONFINITE, e, "31");
	x[31 * COLS + 4] = 1e9f;
	CHECK_RC(method->run(&j, &e), e);
	CHECK(j.bad_scales > 0);
	j = (whit_job){.src = &s.src, .dst = &m};
	CHECK_FAILS(method->run(&j, &e), WHIT_EINTERNAL, e, "need 200");
	whit_mat_free(&m);
	free_subject(&s);
}

TEST_MAIN(sizes, names, classes, by_hand, round_trip, products, hostile, small_assignments, large_assignment, ties,
          method, refusals)
