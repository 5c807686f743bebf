/* Units: for every format that has them, any codes that are put are what its decode gives, bit for bit, and the nearest
 * codes for the parameters that were fitted are no worse than the format's own encoder's. */
#include "formats/codebook.h"
#include "formats/unit.h"
#include "tests/test.h"

static const char *const names[] = {
        "tq1g128", "tq2g64",   "tq3g128",  "tq4g256", "tq8g128", "tq3row", "int2",  "int3", "int4", "int8",  "int2g32",
        "int3g64", "int4g128", "int8g512", "q8_0",    "q4_0",    "q4_1",   "q5_0",  "q5_1", "q2_k", "q3_k",  "q4_k",
        "q5_k",    "q6_k",     "iq4_nl",   "iq4_xs",  "mxfp4",   "tq1_0",  "tq2_0", "q1_0", "q2_0", "bin64", "bin256"};
enum { ROWS = 3, WIDEST = 1280 };

static double squares(const whit_mat *m, const float *w, const float *imp) {
	static float x[ROWS * WIDEST];
	double sum = 0;
	m->spec.fmt->decode(m, 0, ROWS, x);
	for (int64_t i = 0; i < ROWS * m->width; i++)
		sum += (imp ? imp[i % m->width] : 1) * ((double)x[i] - w[i]) * ((double)x[i] - w[i]);
	return sum;
}

/* Rows are stored in another order than they come in, as pairs are. */
static const int64_t place[ROWS] = {2, 0, 1};

/* What was put is read back, by number of its level or of another of the same value; and so is another scale. */
static void check_back(const char *name, const whit_units *u, whit_mat *m, int64_t r, int64_t c, const float *scale,
                       const float *shift, const uint8_t *k) {
	static uint8_t got[WIDEST];
	float s[WHIT_UNIT_RUNS], t[WHIT_UNIT_RUNS];
	int64_t n = whit_unit_size(u, m, c), runs = u->weights / u->run;
	whit_unit_get(u, m, r, c, s, t, got);
	for (int64_t i = 0; i < n; i++)
		if (u->level[got[i]] != u->level[k[i]]) CHECK_MSG(0, "%s: weight %lld", name, (long long)i);
	for (int64_t i = 0; i < runs; i++) CHECK(s[i] == scale[i] && t[i] == shift[i]);
	if (!whit_units_scaled(m)) return;
	whit_unit_scale(u, m, r, c, whit_unit_round(m, r, 0.37f));
	whit_unit_put(u, m, r, c, k);
	whit_unit_get(u, m, r, c, s, t, got);
	for (int64_t i = 0; i < runs; i++) CHECK_MSG(s[i] == whit_unit_round(m, r, 0.37f), "%s: scale %g", name, s[i]);
	for (int64_t i = 0; i < n; i++)
		if (u->level[got[i]] != u->level[k[i]]) CHECK_MSG(0, "%s: weight %lld", name, (long long)i);
	whit_unit_scale(u, m, r, c, *scale);
	whit_unit_put(u, m, r, c, k);
}

static void run(const char *name, int64_t width, const float *imp) {
	static float w[ROWS * WIDEST], unit[ROWS * WIDEST], want[ROWS * WIDEST], got[ROWS * WIDEST];
	static uint8_t k[WIDEST];
	float book[256], scale[ROWS * WHIT_UNIT_RUNS], shift[ROWS * WHIT_UNIT_RUNS];
	whit_mat m = {.rows = ROWS, .cols = width, .width = width};
	whit_units u;
	whit_err e;
	whit_rng g;
	int64_t zero = 0;
	whit_rng_key(&g, 5, (uint64_t)width, 0);
	for (int64_t i = 0; i < ROWS * width; i++) w[i] = (float)whit_rng_normal(&g) * (i % 97 ? 0.02f : 0.3f);
	CHECK_RC(whit_spec_parse(name, &m.spec, &e), e);
	if (m.spec.fmt->needs_codebook)
		CHECK_RC(whit_codebook(book, m.spec.bits, WHIT_DENSITY_GAUSSIAN, m.spec.group ? m.spec.group : width,
		                       &e),
		         e);
	m.codebook = m.spec.fmt->needs_codebook ? book : NULL;
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	for (int64_t r = 0; r < ROWS; r++) m.spec.fmt->encode(&m, place[r], w + r * width, imp, WHIT_SCALE_LS, &zero);
	for (int64_t r = 0; r < ROWS; r++) memcpy(unit + place[r] * width, w + r * width, (size_t)width * sizeof *w);
	double own = squares(&m, unit, imp);

	CHECK_RC(whit_units_make(&u, &m, &e), e);
	for (int best = 0; best < 2; best++) {
		for (int64_t c = 0; c < width; c += u.weights) {
			int64_t n = whit_unit_size(&u, &m, c), runs = u.weights / u.run;
			for (int64_t r = 0; r < ROWS; r++)
				memcpy(unit + r * n, w + r * width + c, (size_t)n * sizeof *w);
			CHECK_INT(whit_units_fit(&u, &m, place, ROWS, c, unit, imp, WHIT_SCALE_LS, scale, shift, &zero),
			          0);
			for (int64_t r = 0; r < ROWS; r++) {
				for (int64_t i = 0; i < n; i++) {
					float s = scale[r * runs + i / u.run], t = shift[r * runs + i / u.run];
					k[i] = best ? (uint8_t)whit_unit_nearest(&u, unit[r * n + i], s, t)
					            : (uint8_t)(whit_rng_next(&g) % (uint64_t)u.count);
					want[place[r] * width + c + i] = s * u.level[k[i]] + t;
				}
				whit_unit_put(&u, &m, place[r], c, k);
				check_back(name, &u, &m, place[r], c, scale + r * runs, shift + r * runs, k);
			}
		}
		m.spec.fmt->decode(&m, 0, ROWS, got);
		for (int64_t i = 0; i < ROWS * width; i++)
			if (!CHECK_MSG(got[i] == want[i], "%s, width %lld: value %lld is %g, need %g", name,
			               (long long)width, (long long)i, got[i], want[i]))
				break;
	}
	for (int64_t r = 0; r < ROWS; r++) memcpy(unit + place[r] * width, w + r * width, (size_t)width * sizeof *w);
	double nearest = squares(&m, unit, imp);
	CHECK_MSG(nearest <= own * (1 + 1e-5), "%s, width %lld: squared error %g, the encoder's %g", name,
	          (long long)width, nearest, own);
	whit_mat_free(&m);
}

static void test_units(void) {
	static const int64_t widths[] = {100, 256, 320, 1024, 1280};
	float imp[WIDEST];
	for (int i = 0; i < WIDEST; i++) imp[i] = (float)(1 + i % 5);
	for (int i = 0; i < WHIT_COUNT(names); i++)
		for (int j = 0; j < WHIT_COUNT(widths); j++) {
			whit_spec s;
			whit_plane_desc d[WHIT_PLANES];
			whit_err e;
			CHECK_RC(whit_spec_parse(names[i], &s, &e), e);
			if (s.fmt->planes(&s, widths[j], 0, d, &e) < 0) continue;
			run(names[i], widths[j], NULL);
			run(names[i], widths[j], imp);
		}
}

static void test_none(void) {
	whit_mat m = {.rows = 1, .cols = 64, .width = 64};
	whit_units u;
	whit_err e;
	CHECK_RC(whit_spec_parse("bf16", &m.spec, &e), e);
	CHECK_FAILS(whit_units_make(&u, &m, &e), WHIT_EUSAGE, e, "bf16");
}

TEST_MAIN(test_units, test_none)
