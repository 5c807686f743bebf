/* The allocator against every allocation there is, its bound, and the table it reads. */
#include "calib/allocate.h"
#include "formats/json.h"
#include "tests/test.h"

enum { ITEMS = 6, OPTIONS = 4 };

/* The least loss within the budget, of all OPTIONS^ITEMS. */
static double by_trial(const whit_choice *c, int64_t budget) {
	double best = INFINITY;
	for (int n = 0; n < 4096; n++) {
		int64_t bytes = 0;
		double loss = 0;
		for (int i = 0, v = n; i < ITEMS; i++, v /= OPTIONS) {
			const whit_choice *a = &c[i * OPTIONS + v % OPTIONS];
			bytes += a->bytes < 0 ? budget + 1 : a->bytes;
			loss += a->loss;
		}
		if (bytes <= budget && loss < best) best = loss;
	}
	return best;
}

static void random_tasks(void) {
	whit_rng g;
	whit_err e;
	int uniform_beaten = 0;
	whit_rng_key(&g, 4, 0, 0);
	for (int t = 0; t < 300; t++) {
		whit_choice c[ITEMS * OPTIONS];
		whit_allocation a;
		int pick[ITEMS];
		int64_t least = 0, most = 0;
		for (int i = 0; i < ITEMS; i++) {
			int64_t weights = 1 + (int64_t)(whit_rng_uniform(&g) * 500), lo = INT64_MAX, hi = 0;
			for (int k = 0; k < OPTIONS; k++) {
				whit_choice *x = &c[i * OPTIONS + k];
				x->bytes = weights * (k + 1);
				x->loss = whit_rng_uniform(&g) * exp2(-2.0 * k) - (k == 3 ? 0.01 : 0);
				if (k == 2 && t % 5 == 0 && i % 2) x->bytes = -1; /* does not fit */
				if (x->bytes >= 0) lo = WHIT_MIN(lo, x->bytes), hi = WHIT_MAX(hi, x->bytes);
			}
			least += lo, most += hi;
		}
		int64_t budget = least + (int64_t)(whit_rng_uniform(&g) * 1.1 * (double)(most - least));
		if (!CHECK_RC(whit_allocate(c, ITEMS, OPTIONS, budget, pick, &a, &e), e)) return;
		double best = by_trial(c, budget), loss = 0;
		int64_t bytes = 0;
		for (int i = 0; i < ITEMS; i++) {
			CHECK(c[i * OPTIONS + pick[i]].bytes >= 0);
			bytes += c[i * OPTIONS + pick[i]].bytes;
			loss += c[i * OPTIONS + pick[i]].loss;
		}
		CHECK_INT(a.bytes, bytes);
		CHECK(bytes <= budget);
		CHECK_NEAR(a.loss, loss, 1e-12);
		CHECK_NEAR(a.loss, best, 1e-12); /* budgets below 2^16 bytes are solved to the byte */
		CHECK_MSG(a.bound <= best + 1e-12, "bound %g, best %g", a.bound, best);
		CHECK(a.uniform < 0 || a.loss <= a.uniform_loss);
		uniform_beaten += a.uniform >= 0 && a.loss < a.uniform_loss;
		CHECK_FAILS(whit_allocate(c, ITEMS, OPTIONS, least - 1, pick, &a, &e), WHIT_EUSAGE, e, "budget");
	}
	CHECK_MSG(uniform_beaten > 100, "%d", uniform_beaten);
}

/* Sizes far beyond 2^16: units are rounded, so a budget that exactly fits one format still gets at least that. */
static void large_sizes(void) {
	enum { N = 300 };
	static whit_choice c[N * 3];
	static int pick[N];
	whit_allocation a;
	whit_err e;
	int64_t exact = 0;
	double loss = 0;
	for (int i = 0; i < N; i++)
		for (int k = 0; k < 3; k++) {
			c[i * 3 + k] = (whit_choice){(1000003ll + i * 7919) * (k + 2), 1.0 / (1 + i % 13) * exp2(-k)};
			if (k == 1) exact += c[i * 3 + k].bytes, loss += c[i * 3 + k].loss;
		}
	CHECK_RC(whit_allocate(c, N, 3, exact, pick, &a, &e), e);
	CHECK(a.bytes <= exact && a.loss <= loss && a.bound <= a.loss);
	CHECK_MSG(a.loss <= a.bound * 1.002, "loss %g, bound %g", a.loss, a.bound);
	CHECK_RC(whit_allocate(c, 0, 3, 0, pick, &a, &e), e);
	CHECK_INT(a.bytes, 0);
}

static void table(void) {
	static const char text[] =
	        "{\"inputs\": {\"model\": \"m\"}, \"entries\": ["
	        "{\"by\": \"role\", \"name\": \"a\"},"
	        "{\"by\": \"tensor\", \"name\": \"a\", \"format\": \"tq2\", \"weights\": 80, \"bytes\": 20, "
	        "\"codebook_bytes\": 4, \"kld_mean\": 0.5},"
	        "{\"by\": \"tensor\", \"name\": \"a\", \"format\": \"tq4:nearest\", \"weights\": 80, \"bytes\": 40, "
	        "\"codebook_bytes\": 8, \"kld_mean\": 0.1},"
	        "{\"by\": \"tensor\", \"name\": \"b\", \"format\": \"tq2\", \"weights\": 80, \"bytes\": 20, "
	        "\"codebook_bytes\": 4, \"kld_mean\": 0.3},"
	        "{\"by\": \"tensor\", \"name\": \"b\", \"format\": \"tq4:nearest\", \"weights\": 80, \"bytes\": 40, "
	        "\"codebook_bytes\": 8, \"kld_mean\": 0.2}]}";
	whit_allocation a;
	whit_err e;
	json_t *j;
	char *recipe;
	if (!CHECK_RC(whit_json_parse(&j, text, sizeof text - 1, "t.json", &e), e)) return;
	if (CHECK_RC(whit_allocate_recipe(j, "t.json", "m", 0, 72, 1, &recipe, &a, &e), e)) { /* 60, and 12 of books */
		CHECK_TEXT(recipe, "a tq4 method=nearest\nb tq2\n");
		CHECK_INT(a.bytes, 60);
		whit_free(recipe);
	}
	if (CHECK_RC(whit_allocate_recipe(j, "t.json", "m", 4.6, 0, 0, &recipe, &a, &e), e)) { /* 4.6 x 160 / 8 = 92 */
		CHECK_TEXT(recipe, "a tq4\nb tq4\n");
		whit_free(recipe);
	}
	CHECK_FAILS(whit_allocate_recipe(j, "t.json", "n", 4.6, 0, 0, &recipe, &a, &e), WHIT_EFINGERPRINT, e, "t.json");
	CHECK_FAILS(whit_allocate_recipe(j, "t.json", "m", 1, 0, 0, &recipe, &a, &e), WHIT_EUSAGE, e, "need 40");
	json_object_set_new(j, "entries", json_array());
	CHECK_FAILS(whit_allocate_recipe(j, "t.json", "m", 1, 0, 0, &recipe, &a, &e), WHIT_EINPUT, e, "by tensor");
	json_decref(j);
}

TEST_MAIN(random_tasks, large_sizes, table)
