/* The record of binary and 4-bit rows (frc1.h): its size, its bytes by hand, products, hostile bytes; taking it apart;
 * and the method that fills it. */
#include "calib/fabq.h"
#include "calib/feedback.h"
#include "tests/test.h"

/* fabq.md 7, "Exact": with a codebook. */
static void sizes(void) {
	static const struct {
		int64_t rows, cols, block, core, bytes;
	} want[] = {{4096, 4096, 256, 163, 2460864}, {4096, 11008, 256, 163, 6601216}, {1000, 1100, 128, 40, 172736}};
	for (int i = 0; i < WHIT_COUNT(want); i++) {
		const whit_frc f =
		        whit_frc_layout(want[i].rows, want[i].cols, want[i].block, want[i].core, WHIT_FRC_BOOK);
		CHECK_INT((int64_t)f.bytes, want[i].bytes);
	}
}

static whit_mat matrix(const char *format, int64_t rows, int64_t cols) {
	whit_mat m = {.rows = rows, .cols = cols, .width = cols};
	whit_err e;
	CHECK_RC(whit_spec_parse(format, &m.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	return m;
}

static void names(void) {
	static const char *const good[] = {"frc64",       "frc128c1",    "frc256c25", "frc512c1000",
	                                   "frc64k",      "frc128c16k",  "frc128ka",  "frc64ku",
	                                   "frc64w3kaut", "frc128w1000", "frc256c4t", "frc512kt"},
	                         *const wrong[] = {"frc",         "frc32",     "frc1024", "frc128c",   "frc128c0",
	                                           "frc128c1001", "frc128c5x", "bin",     "bin32",     "frc128kc5",
	                                           "frc128kk",    "bin64k",    "frc128a", "frc128kua", "frc128tk",
	                                           "frc128wk",    "frc128u"};
	whit_spec s;
	whit_err e;
	char out[32];
	for (int i = 0; i < WHIT_COUNT(good); i++) {
		CHECK_RC(whit_spec_parse(good[i], &s, &e), e);
		whit_spec_name(&s, out);
		CHECK_TEXT(out, good[i]);
	}
	for (int i = 0; i < WHIT_COUNT(wrong); i++)
		CHECK_FAILS(whit_spec_parse(wrong[i], &s, &e), WHIT_EUSAGE, e, "frcB");
	CHECK_RC(whit_spec_parse("frc64c500", &s, &e), e);
	CHECK_FAILS(whit_spec_bytes(&s, INT64_MAX / 64, 1 << 20, 0, &e) < 0 ? e.code : 0, WHIT_EINPUT, e, "larger");
}

/* 4 rows of 66 columns, blocks of 64, rows 1 and 3 core: every byte that is not 0 is named. */
static void by_hand(void) {
	whit_mat m = matrix("frc64c500", 4, 66);
	uint8_t *p = (uint8_t *)(uintptr_t)m.plane[0];
	float out[4 * 66];
	whit_err e;
	whit_frc_begin(&m, (const int64_t[]){1, 3}, NULL);
	CHECK(!memcmp(p, "FRC1\1\0\6\0\4\0\0\0\102\0\0\0\2\0\0\0\0", 21));
	CHECK_INT(p[64], 0x0a);
	p[128] = 0x00, p[129] = 0x3c;      /* r of row 0: 1 */
	p[130] = 0x00, p[131] = 0xc0;      /* of row 2: -2 */
	p[192] = 16, p[193] = 8;           /* q of row 0: 1/2, 2^(-1/2) */
	p[194] = 0, p[195] = 255;          /* of row 2 */
	p[256] = 0x81, p[256 + 8] = 0x02;  /* signs of row 0: columns 0, 7, 65 */
	p[320] = 0x00, p[321] = 0x3c;      /* scale of row 1: 1 */
	p[322] = 0x00, p[323] = 0x38;      /* of row 3: 1/2 */
	p[384] = 0x90, p[384 + 33] = 0x0f; /* codes of row 1: -8, 1; of row 3: 7, -8 */
	CHECK_INT((int64_t)whit_plane_bytes(&m, 0), 384 + 128);
	CHECK_RC(whit_frc_check(&m, &e), e);
	m.spec.fmt->decode(&m, 0, 4, out);
	CHECK(out[0] == 0.5f && out[1] == -0.5f && out[7] == 0.5f && out[63] == -0.5f);
	CHECK(out[64] == -0x1.6a09e6p-1f && out[65] == 0x1.6a09e6p-1f);
	CHECK(out[66] == -8 && out[67] == 1 && out[68] == -8);
	CHECK(out[132] == 2 && out[132 + 64] == 2 * 0x1.0b5586p-1f * 0x1p-15f);
	CHECK(out[198] == 3.5f && out[199] == -4);
	whit_mat_free(&m);
}

/* A block of 64 and a tail of 2, two profiles of which one block takes the second: bytes and factors by hand. */
static void profile_by_hand(void) {
	whit_mat m = matrix("frc64k", 1, 66);
	uint8_t *p = (uint8_t *)(uintptr_t)m.plane[0], id[WHIT_FRC_CHOICES] = {0, 63, 5}, back[WHIT_FRC_CHOICES];
	float out[66], factors[WHIT_FRC_CHOICES * 64];
	whit_err e;
	whit_frc_book *b = whit_frc_book_new(64, 3, 0), *again = whit_frc_book_new(64, 3, 0);
	uint8_t *bytes = whit_alloc((size_t)whit_frc_book_bytes(64, 0));
	b->step = 0x1p-4f;
	b->code[63 * 64 + 0] = -16, b->code[63 * 64 + 1] = 8, b->code[63 * 64 + 2] = -4, b->code[5 * 64] = 127;
	whit_frc_book_put(b, bytes);
	CHECK(bytes[0] == 0 && bytes[1] == 0x2c && bytes[2 + 63 * 64] == 0xf0 && bytes[2 + 5 * 64] == 0x7f);
	CHECK_RC(whit_frc_book_get(again, bytes, &e), e);
	CHECK(b->step == again->step && !memcmp(b->code, again->code, WHIT_FRC_PROFILES * 64));
	bytes[2 + 63 * 64] = 0xef; /* below -1 */
	CHECK_FAILS(whit_frc_book_get(again, bytes, &e), WHIT_EINPUT, e, "profile 63 of a codebook has -1.0625 at 0");
	bytes[2 + 63 * 64] = 0, bytes[2] = 1;
	CHECK_FAILS(whit_frc_book_get(again, bytes, &e), WHIT_EINPUT, e, "profile 0");
	bytes[2] = 0, bytes[1] = 0x7c;
	CHECK_FAILS(whit_frc_book_get(again, bytes, &e), WHIT_EINPUT, e, "step inf");
	m.book = b, m.codebook = factors;
	whit_frc_begin(&m, (const int64_t[]){0}, id);
	CHECK(!memcmp(p, "FRC1\1\0\6\2\1\0\0\0\102\0\0\0\0\0\0\0\3\0\0\0\300\137\0", 27));
	CHECK_INT(whit_frc_tier(p), 3);
	whit_frc_ids(p, back);
	CHECK(!memcmp(back, id, sizeof id));
	whit_frc_factors(b, id, WHIT_FRC_CHOICES, factors);
	CHECK(factors[0] == 1 && factors[64] == 0 && factors[65] == 1.5f && factors[66] == 0.75f &&
	      factors[128] == 8.9375f);
	CHECK_INT((int64_t)whit_plane_bytes(&m, 0), 6 * 64);
	p[128] = 0x00, p[129] = 0x40; /* r: 2 */
	p[192] = 16, p[193] = 0;      /* q: 1, 2 */
	p[256] = 0x01;                /* k of the first block */
	p[320] = 0x05, p[328] = 0x02; /* signs: columns 0, 2, 65 */
	CHECK_RC(whit_frc_check(&m, &e), e);
	m.spec.fmt->decode(&m, 0, 1, out);
	CHECK(out[0] == 0 && out[1] == -1.5f && out[2] == 0.75f && out[3] == -1 && out[64] == -2 && out[65] == 2);
	p[256] = 0x12; /* the tail's may be chosen too */
	m.spec.fmt->decode(&m, 0, 1, out);
	CHECK(out[0] == 8.9375f && out[1] == -1 && out[64] == -0.0f && out[65] == 3);
	whit_mat_free(&m);
	whit_free(b), whit_free(again), whit_free(bytes);
}

static float *normals(int64_t n, uint64_t key) {
	whit_rng g;
	float *x = whit_alloc((size_t)n * sizeof *x);
	whit_rng_key(&g, 9, key, 0);
	for (int64_t i = 0; i < n; i++) x[i] = (float)whit_rng_normal(&g);
	return x;
}

/* The same block in each way that a record may have it (frc1.h): bytes and weights by hand. */
static void flags_by_hand(void) {
	whit_mat m = matrix("frc64w500kaut", 2, 66);
	uint8_t *p = (uint8_t *)(uintptr_t)m.plane[0];
	const whit_frc f = whit_frc_of(&m);
	float out[2 * 66], t[66], offsets[WHIT_FRC_PROFILES * 64];
	whit_err e;
	whit_frc_book *b = whit_frc_book_new(64, 2, m.spec.flags), *again = whit_frc_book_new(64, 2, m.spec.flags);
	uint8_t *bytes = whit_alloc((size_t)whit_frc_book_bytes(64, m.spec.flags));
	CHECK_INT(whit_frc_book_bytes(64, m.spec.flags), 256 * 64);
	b->offset[63 * 64 + 1] = 0.25f, b->offset[63 * 64 + 2] = -3;
	whit_frc_book_put(b, bytes);
	CHECK_RC(whit_frc_book_get(again, bytes, &e), e);
	CHECK(!memcmp(b->offset, again->offset, WHIT_FRC_PROFILES * 64 * sizeof(float)));
	bytes[0] = 1;
	CHECK_FAILS(whit_frc_book_get(again, bytes, &e), WHIT_EINPUT, e, "profile 0");
	bytes[0] = 0, bytes[4 * 64 + 3] = 0x7f, bytes[4 * 64 + 2] = 0x80;
	CHECK_FAILS(whit_frc_book_get(again, bytes, &e), WHIT_EINPUT, e, "profile 1 of a codebook has inf at 0");
	m.book = b, m.codebook = offsets;
	whit_frc_factors(b, NULL, WHIT_FRC_PROFILES, offsets);
	whit_frc_begin(&m, (const int64_t[]){1}, NULL);
	CHECK(!memcmp(p, "FRC1\1\0\6\37\2\0\0\0\102\0\0\0\1\0\0\0\2\0\0\0\0", 25));
	CHECK_INT((int64_t)f.t, 128);
	CHECK_INT((int64_t)f.r, 128 + 192);
	CHECK_INT((int64_t)(f.signs - f.k), 64);
	CHECK_INT((int64_t)(f.bytes - f.codes), 128);
	for (int i = 0; i < 66; i++) t[i] = i == 65 ? 4 : 1;
	t[1] = 0.5f;
	whit_frc_balance_put(&m, t);
	p[f.r + 1] = 0x40;                         /* r: 2 */
	p[f.q] = 16, p[f.k] = 63;                  /* s: 1, 2 */
	p[f.signs] = 0x05, p[f.signs + 8] = 0x02;  /* columns 0, 2, 65 */
	p[f.scales + 1] = 0x38;                    /* of the core row: 1/2 */
	p[f.codes] = 0x80, p[f.codes + 65] = 0x7f; /* -128, 127 */
	CHECK_RC(whit_frc_check(&m, &e), e);
	m.spec.fmt->decode(&m, 0, 2, out);
	CHECK(out[0] == 1 && out[1] == -0.375f && out[2] == -2 && out[3] == -1 && out[64] == -2 && out[65] == 8);
	CHECK(out[66] == -64 && out[67] == 0 && out[131] == 254);
	p[f.k] = 64;
	CHECK_FAILS(whit_frc_check(&m, &e), WHIT_EINPUT, e, "profile of row 0 that there is not");
	p[f.k] = 0, p[f.t + 1] = 0x7c;
	CHECK_FAILS(whit_frc_check(&m, &e), WHIT_EINPUT, e, "not finite");
	whit_mat_free(&m);
	whit_free(b), whit_free(again), whit_free(bytes);
}

/* A codebook and the choice of it for m, in memory of its own. */
static void give_book(whit_mat *m, uint8_t id[WHIT_FRC_CHOICES], uint64_t key) {
	whit_frc_book *b = whit_frc_book_new(m->spec.group, 1, m->spec.flags);
	int n = whit_frc_choices(&m->spec);
	float *factors = whit_alloc((size_t)(n * b->block) * sizeof *factors);
	whit_rng g;
	whit_rng_key(&g, 9, key, 1);
	b->step = 0x1p-8f;
	for (int64_t i = b->block; i < WHIT_FRC_PROFILES * b->block; i++) {
		int code = (int)whit_rng_below(&g, 256) - 128;
		if (b->code) b->code[i] = (int8_t)code;
		if (b->offset) b->offset[i] = (float)code / 256;
	}
	for (int i = 0; i < WHIT_FRC_CHOICES; i++) id[i] = (uint8_t)(i * 3);
	whit_frc_factors(b, m->spec.flags & WHIT_FRC_WIDE ? NULL : id, n, factors);
	m->book = b, m->codebook = factors;
}

static void free_book(whit_mat *m) {
	whit_free((void *)(uintptr_t)m->book);
	whit_free((void *)(uintptr_t)m->codebook);
	whit_mat_free(m);
}

/* Classes filled with random codes, joined: decodes to the classes' rows, splits to the same bytes. */
static whit_mat joined(const char *format, int64_t rows, int64_t cols, whit_fabq_part part[2], uint64_t key) {
	whit_mat m = matrix(format, rows, cols);
	float *w = normals(rows * cols, key);
	whit_weight src = {.name = (char[]){"w"}, .file = "memory", .ndim = 2, .shape = {rows, cols}};
	int64_t n = whit_frc_core(&m.spec, rows), *core = whit_alloc((size_t)(n + 1) * sizeof *core), zero = 0;
	whit_err e;
	for (int64_t i = 0; i < n; i++) core[i] = i * rows / n;
	uint8_t id[WHIT_FRC_CHOICES];
	if (whit_frc_has_book(&m.spec)) give_book(&m, id, key);
	src.mat = matrix("f32", rows, cols);
	memcpy((void *)(uintptr_t)src.mat.plane[0], w, (size_t)(rows * cols) * sizeof *w);
	whit_frc_begin(&m, core, id);
	if (m.spec.flags & WHIT_FRC_BALANCE) {
		float *t = normals(cols, key + 1);
		for (int64_t i = 0; i < cols; i++) t[i] = 0.5f + fabsf(t[i]);
		whit_frc_balance_put(&m, t);
		whit_free(t);
	}
	CHECK_RC(whit_fabq_split(part, &m, &src, &e), e);
	for (int k = 0; k < 2; k++)
		for (int64_t r = 0; r < part[k].mat.rows; r++)
			part[k].mat.spec.fmt->encode(&part[k].mat, r, w + part[k].row[r] * cols, NULL, WHIT_SCALE_LS,
			                             &zero);
	CHECK_INT(whit_fabq_join(&m, part), 0);
	whit_mat_free(&src.mat);
	whit_free(core);
	whit_free(w);
	return m;
}

static const struct {
	const char *format;
	int64_t rows, cols;
} shapes[] = {{"frc64c100", 37, 100},  {"frc128", 9, 1},           {"frc256c250", 64, 769}, {"frc512c1000", 5, 33},
              {"frc128c30", 200, 384}, {"frc64c100k", 37, 200},    {"frc128k", 5, 100},     {"frc64w100ka", 37, 200},
              {"frc64ku", 9, 200},     {"frc64w200kaut", 20, 201}, {"frc128c500t", 8, 300}};

static void apart(void) {
	for (int i = 0; i < WHIT_COUNT(shapes); i++) {
		int64_t rows = shapes[i].rows, cols = shapes[i].cols;
		whit_fabq_part part[2], again[2];
		whit_mat m = joined(shapes[i].format, rows, cols, part, 3);
		whit_weight none = {.mat = m};
		whit_err e;
		CHECK_RC(whit_frc_check(&m, &e), e);
		float *x = whit_alloc((size_t)(rows * cols) * sizeof *x), *y = whit_alloc((size_t)cols * sizeof *y);
		float *t = NULL;
		if (m.spec.flags & WHIT_FRC_BALANCE) whit_frc_balance(&m, t = whit_alloc((size_t)cols * sizeof *t));
		m.spec.fmt->decode(&m, 0, rows, x);
		CHECK_RC(whit_fabq_split(again, &m, &none, &e), e);
		for (int k = 0; k < 2; k++) {
			const whit_mat *a = &part[k].mat, *b = &again[k].mat;
			for (int p = 0; p < WHIT_PLANES && a->rows; p++)
				CHECK(!a->plane[p] ||
				      !memcmp(a->plane[p], b->plane[p], (size_t)a->rows * a->row_bytes[p]));
			for (int64_t r = 0; r < a->rows; r++) {
				a->spec.fmt->decode(a, r, r + 1, y);
				for (int64_t c = 0; c < cols && t; c++) y[c] *= t[c];
				if (memcmp(y, x + part[k].row[r] * cols, (size_t)cols * sizeof *y))
					CHECK_MSG(0, "%s: row %lld of class %d", shapes[i].format, (long long)r, k);
			}
		}
		whit_fabq_free(part), whit_fabq_free(again);
		whit_free(x), whit_free(y), whit_free(t);
		free_book(&m);
	}
}

/* Products against double sums of decoded rows, of all and of some rows; bound: whit_codes_gemv. */
static void products(void) {
	for (int i = 0; i < WHIT_COUNT(shapes); i++) {
		int64_t rows = shapes[i].rows, cols = shapes[i].cols, r0 = rows / 3;
		whit_fabq_part part[2];
		whit_mat m = joined(shapes[i].format, rows, cols, part, 4);
		float *x = normals(8 * cols, 5);
		for (int T = 1; T <= 8; T += 7) {
			int bad = whit_gemv_wrong(&m, r0, x, T);
			CHECK_MSG(!bad, "%s, %d tokens: %d wrong", shapes[i].format, T, bad);
		}
		whit_fabq_free(part);
		whit_free(x);
		free_book(&m);
	}
}

/* A byte of the header, the bitmap, padding or a scale that is not as it must be is refused. */
static void hostile_of(const char *format, int64_t cols) {
	whit_fabq_part part[2];
	whit_mat m = joined(format, 37, cols, part, 6);
	const whit_frc f = whit_frc_of(&m);
	uint8_t *p = (uint8_t *)(uintptr_t)m.plane[0];
	whit_err e;
	int64_t refused = 0;
	for (size_t i = 0; i < f.bytes; i++) {
		uint8_t was = p[i];
		size_t of_k = i - f.k;
		int choice =
		        whit_frc_has_book(&m.spec) && (i == 20 || (i >= 24 && i < 36 && !(f.flags & WHIT_FRC_WIDE)));
		int padding = (i < f.t && !choice) || (choice && i == 24) ||
		              (i >= f.t + (f.flags & WHIT_FRC_BALANCE ? 2 * (size_t)cols : 0) && i < f.r) ||
		              (i >= f.r + 2 * (size_t)f.binary && i < f.q) ||
		              (i >= f.q + (size_t)(f.binary * f.blocks) && i < f.k) ||
		              (i >= f.k && of_k >= (size_t)f.binary * f.book_row && i < f.signs) ||
		              (i >= f.signs + (size_t)f.binary * f.sign_row && i < f.scales) ||
		              (i >= f.scales + 2 * (size_t)(f.core * f.groups) && i < f.codes) ||
		              i >= f.codes + (size_t)f.core * f.code_row;
		p[i] ^= 0x01;
		int rc = whit_frc_check(&m, &e);
		if (padding != (rc == WHIT_EINPUT)) CHECK_MSG(0, "byte %zu: %d", i, rc);
		refused += rc != 0;
		p[i] = was;
	}
	CHECK(refused > 64);
	p[7] ^= 2;
	CHECK_FAILS(whit_frc_check(&m, &e), WHIT_EINPUT, e, "codebook");
	p[7] ^= 2;
	if (whit_frc_has_book(&m.spec) && !(f.flags & WHIT_FRC_WIDE) && f.blocks % 2) { /* behind the last block */
		p[f.k + f.book_row - 1] ^= 0x10;
		CHECK_FAILS(whit_frc_check(&m, &e), WHIT_EINPUT, e, "profile of row 0");
		p[f.k + f.book_row - 1] ^= 0x10;
	}
	p[f.r + 1] = 0x7c, p[f.r] = 0;
	CHECK_FAILS(whit_frc_check(&m, &e), WHIT_EINPUT, e, "finite");
	whit_fabq_free(part);
	free_book(&m);
}

static void hostile(void) {
	hostile_of("frc64c100", 100);
	hostile_of("frc64c100k", 150);
	hostile_of("frc64w100kut", 150);
}

/* The rows that vary most in size become core; the codes lose no more than the nearest; same bytes at any thread
 * count; what is not finite is named by its own row. */
static void method_of(const char *format) {
	enum { ROWS = 80, COLS = 200, CORE = 4 };
	whit_err e;
	const whit_method *method = whit_method_find("fabq-rc", &e);
	float *w = normals(ROWS * COLS, 7);
	whit_weight src = {.name = (char[]){"w"}, .file = "memory", .ndim = 2, .shape = {ROWS, COLS}};
	double *h = whit_alloc(COLS * COLS * sizeof *h), *g = whit_alloc(COLS * COLS * sizeof *g);
	const whit_feedback_opts o = {.damping = 0.01, .alpha = 0.5};
	whit_feedback f;
	static const int64_t big[CORE] = {3, 30, 31, 79};
	float *t = NULL;
	for (int i = 0; i < CORE; i++)
		for (int c = 0; c < COLS; c++) w[big[i] * COLS + c] *= 5;
	if (strchr(format, 't')) { /* columns of other sizes, and the inputs that go with them */
		t = whit_alloc(COLS * sizeof *t);
		for (int c = 0; c < COLS; c++) t[c] = 0.25f * (float)(1 + c % 8);
		for (int i = 0; i < ROWS * COLS; i++) w[i] *= t[i % COLS];
	}
	src.mat = matrix("f32", ROWS, COLS);
	float *x = (float *)(uintptr_t)src.mat.plane[0];
	memcpy(x, w, ROWS * COLS * sizeof *w);
	for (int i = 0; i < COLS; i++)
		for (int k = 0; k < COLS; k++) h[i * COLS + k] = g[i * COLS + k] = pow(0.8, abs(i - k));
	CHECK_RC(whit_feedback_make(&f, method->feedback, h, g, COLS, &o, "test", &e), e);
	whit_mat m[2];
	uint8_t id[WHIT_FRC_CHOICES];
	for (int i = 0; i < 2; i++) {
		m[i] = matrix(format, ROWS, COLS);
		if (whit_frc_has_book(&m[i].spec)) give_book(&m[i], id, 8);
		whit_job j = {.src = &src, .dst = &m[i], .feedback = &f, .balance = t};
		whit_threads_set(i ? 1 : 2);
		CHECK_RC(method->run(&j, &e), e);
		CHECK_MSG(j.loss < 0.9 * j.loss_nearest, "loss %g, nearest %g", j.loss, j.loss_nearest);
		CHECK(j.ref > 0 && j.err > 0 && j.err < j.ref && j.bad_scales == 0);
	}
	CHECK_RC(whit_frc_check(&m[0], &e), e);
	for (int i = 0; i < CORE; i++) CHECK(whit_frc_is_core(m[0].plane[0], big[i]));
	CHECK(!memcmp(m[0].plane[0], m[1].plane[0], whit_plane_bytes(&m[0], 0)));
	x[31 * COLS + 4] = NAN;
	whit_job j = {.src = &src, .dst = &m[0], .feedback = &f, .balance = t};
	CHECK_FAILS(method->run(&j, &e), WHIT_ENONFINITE, e, "31");
	x[31 * COLS + 4] = 1e9f;
	j = (whit_job){.src = &src, .dst = &m[0], .feedback = &f, .balance = t};
	CHECK_RC(method->run(&j, &e), e);
	CHECK(j.bad_scales > 0);
	whit_feedback_free(&f);
	for (int i = 0; i < 2; i++) free_book(&m[i]);
	whit_mat_free(&src.mat);
	whit_free(w), whit_free(h), whit_free(g), whit_free(t);
}

static void method(void) {
	method_of("frc64c50");
	method_of("frc64c50k");
	method_of("frc64w50kau");
	method_of("frc64c50kt");
}

/* fabq.md 7, c = 0: blocks of 128 of normal weights lose (1 - 2/pi) (1 - 1/128) of their square as signs, and .967 of
 * that with one of 16 profiles (k-means' tolerance .01, within which is what it helps to have seen these blocks). */
static void profiles(void) {
	enum { ROWS = 2048, COLS = 1100, BLOCKS = COLS / 128 };
	whit_mat m = matrix("frc128k", ROWS, COLS);
	whit_spec plain;
	whit_err e;
	float *h = whit_alloc(COLS * sizeof *h), *x = whit_alloc(COLS * sizeof *x);
	double err[2] = {0}, ref = 0;
	whit_weight src = {.name = (char[]){"w"}, .file = "memory", .ndim = 2, .shape = {ROWS, COLS}};
	whit_frc_book *b[2];
	src.mat = matrix("f32", ROWS, COLS);
	float *w = normals(ROWS * COLS, 11);
	memcpy((void *)(uintptr_t)src.mat.plane[0], w, (size_t)(ROWS * COLS) * sizeof *w);
	for (int i = 0; i < COLS; i++) h[i] = 1;
	for (int i = 0; i < 2; i++) {
		whit_threads_set(i ? 1 : 2);
		b[i] = whit_frc_book_new(128, 0, m.spec.flags);
		CHECK_RC(whit_fabq_train(b[i], &(whit_fabq_source){.src = &src, .dst = m}, 1, 5, NULL, &e), e);
	}
	CHECK(b[0]->step == b[1]->step && !memcmp(b[0]->code, b[1]->code, WHIT_FRC_PROFILES * 128));
	CHECK_MSG(b[0]->step > 0 && b[0]->step * 127 < 3, "step %g", (double)b[0]->step);
	uint8_t id[WHIT_FRC_CHOICES];
	float factors[WHIT_FRC_CHOICES * 128];
	const whit_feedback f = {.n = COLS, .h_diag = h};
	m.book = b[0], m.codebook = factors;
	whit_fabq_profiles(&(whit_job){.src = &src, .dst = &m, .feedback = &f}, id);
	for (int i = 0; i < WHIT_FRC_CHOICES; i++)
		for (int k = 0; k < i; k++) CHECK(id[i] != id[k]);
	CHECK_INT(id[0], 0);
	whit_frc_factors(b[0], id, WHIT_FRC_CHOICES, factors);
	for (int p = 0; p < 2; p++) {
		whit_mat one = {.spec = whit_frc_binary(&m).spec, .rows = 1, .cols = COLS, .width = COLS};
		int64_t zero = 0;
		one.spec.flags = p ? WHIT_FRC_BOOK : 0, one.codebook = p ? factors : NULL, plain = one.spec;
		CHECK_RC(whit_mat_alloc(&one, &e), e);
		for (int64_t r = 0; r < ROWS; r++) {
			plain.fmt->encode(&one, 0, w + r * COLS, NULL, WHIT_SCALE_LS, &zero);
			plain.fmt->decode(&one, 0, 1, x);
			for (int i = 0; i < BLOCKS * 128; i++) {
				double d = (double)x[i] - w[r * COLS + i];
				err[p] += d * d;
				if (p) ref += (double)w[r * COLS + i] * w[r * COLS + i];
			}
			CHECK(!p || whit_bin_profile(&one, 0, BLOCKS) == 0); /* the short block has none */
		}
		whit_mat_free(&one);
	}
	CHECK_NEAR(err[0] / ref, (1 - 2 / 3.14159265358979) * (1 - 1 / 128.0), 0.002);
	CHECK_NEAR(err[1] / err[0], 0.967, 0.01);
	whit_free(b[0]), whit_free(b[1]), whit_free(h), whit_free(x), whit_free(w);
	whit_mat_free(&src.mat), whit_mat_free(&m);
}

TEST_MAIN(sizes, names, by_hand, profile_by_hand, flags_by_hand, apart, products, hostile, method, profiles)
