/* test_base: the small things everything stands on. */
#include "tests/test.h"
#include <stdatomic.h>
#include <unistd.h>

static void errors(void) {
	whit_err e;
	CHECK_INT(whit_fail(&e, WHIT_EINPUT, "a is %d, need %d", 1, 2), WHIT_EINPUT);
	CHECK_TEXT(e.text, "a is 1, need 2");
	CHECK_INT(whit_fail_in(&e, "file %s", "x"), WHIT_EINPUT);
	CHECK_TEXT(e.text, "file x: a is 1, need 2");
	char big[3000];
	memset(big, 'y', sizeof big - 1);
	big[sizeof big - 1] = 0;
	whit_fail_in(&e, "%s", big);
	CHECK_INT(strlen(e.text), sizeof e.text - 1);
}

static void halves(void) {
	/* Every f16 and bf16 goes to float and back unchanged; NaN stays NaN. */
	int bad = 0;
	for (uint32_t h = 0; h < 65536; h++) {
		float f = whit_f16_to_f32((uint16_t)h), g = whit_bf16_to_f32((uint16_t)h);
		int nan_f = (h & 0x7c00) == 0x7c00 && (h & 0x3ff), nan_g = (h & 0x7f80) == 0x7f80 && (h & 0x7f);
		bad += nan_f ? !isnan(f) || !isnan(whit_f16_to_f32(whit_f32_to_f16(f))) : whit_f32_to_f16(f) != h;
		bad += nan_g ? !isnan(g) || !isnan(whit_bf16_to_f32(whit_f32_to_bf16(g))) : whit_f32_to_bf16(g) != h;
	}
	CHECK_INT(bad, 0);
	/* Rounding: halfway between neighbours goes to the even one, just beyond goes up. */
	for (uint32_t h = 0; h < 0x7bff; h++) {
		double a = whit_f16_to_f32((uint16_t)h), b = whit_f16_to_f32((uint16_t)(h + 1)), mid = (a + b) / 2;
		bad += whit_f32_to_f16((float)mid) != (h & 1 ? h + 1 : h);
		bad += whit_f32_to_f16(nextafterf((float)mid, INFINITY)) != h + 1;
		bad += whit_f32_to_f16(nextafterf((float)mid, 0)) != h;
	}
	CHECK_INT(bad, 0);
	CHECK_INT(whit_f32_to_f16(65519.996f), 0x7bff);
	CHECK_INT(whit_f32_to_f16(65520.0f), 0x7c00);
	CHECK_INT(whit_f32_to_bf16(1.00390625f), 0x3f80); /* 1 + 2^-8, halfway: even */
	uint8_t raw[2 * 37 + 1];
	float fast[37], slow[37];
	whit_rng r;
	whit_rng_key(&r, 1, 0, 0);
	for (int round = 0; round < 50; round++) {
		for (size_t i = 0; i < sizeof raw; i++) raw[i] = (uint8_t)whit_rng_next(&r);
		whit_f16_to_f32_n(fast, raw + 1, 37); /* odd address on purpose */
		for (int i = 0; i < 37; i++) slow[i] = whit_f16_to_f32(whit_load_u16(raw + 1 + 2 * i));
		for (int i = 0; i < 37; i++) bad += !(fast[i] == slow[i] || (isnan(fast[i]) && isnan(slow[i])));
		whit_bf16_to_f32_n(fast, raw + 1, 37);
		for (int i = 0; i < 37; i++) slow[i] = whit_bf16_to_f32(whit_load_u16(raw + 1 + 2 * i));
		bad += memcmp(fast, slow, sizeof fast) != 0;
	}
	CHECK_INT(bad, 0);
	CHECK_NEAR(whit_e4m3_to_f32(0x7e), 448, 0);
	CHECK_NEAR(whit_e4m3_to_f32(0x01), 0x1p-9, 0);
	CHECK(isnan(whit_e4m3_to_f32(0xff)));
	CHECK_NEAR(whit_e5m2_to_f32(0x7b), 57344, 0);
	float x[3000] = {0};
	CHECK_INT(whit_first_nonfinite(x, 3000), -1);
	x[2050] = NAN;
	x[2999] = INFINITY;
	CHECK_INT(whit_first_nonfinite(x, 3000), 2050);
}

static void random_numbers(void) {
	/* torch.manual_seed(s); torch.randn(n): the values of turboquant.md 5a. */
	static const struct {
		int n;
		uint64_t seed;
		float want[4];
	} row[] = {{16, 0, {-1.1258f, -1.1524f, -.2506f, -.4339f}},
	           {16, 42, {1.9269f, 1.4873f, .9007f, -2.1055f}},
	           {6, 0, {1.5410f, -.2934f, -2.1788f, .5684f}},
	           {6, 42, {.3367f, .1288f, .2345f, .2303f}}};
	for (int i = 0; i < WHIT_COUNT(row); i++) {
		whit_mt m;
		float x[16];
		whit_mt_seed(&m, row[i].seed);
		whit_mt_randn(&m, x, row[i].n);
		for (int j = 0; j < 4; j++) CHECK_NEAR(x[j], row[i].want[j], 1e-4);
	}
	whit_mt m;
	whit_mt_seed(&m, 5489);
	uint32_t last = 0;
	for (int i = 0; i < 10000; i++) last = whit_mt_next(&m);
	CHECK_INT(last, 4123659995u); /* the C++ standard's check value of mt19937 */
	whit_rng a, b;
	whit_rng_key(&a, 1, 2, 3);
	whit_rng_key(&b, 1, 2, 4);
	CHECK(whit_rng_next(&a) != whit_rng_next(&b));
	double sum = 0, square = 0;
	for (int i = 0; i < 100000; i++) {
		double v = whit_rng_normal(&a);
		sum += v;
		square += v * v;
	}
	CHECK_NEAR(sum / 1e5, 0, 5 / sqrt(1e5));
	CHECK_NEAR(square / 1e5, 1, 5 * sqrt(2 / 1e5));
	for (int i = 0; i < 1000; i++)
		if (whit_rng_below(&a, 7) >= 7) CHECK(!"below its bound");
}

static atomic_int visits[5000];
static void visit(void *ctx, int64_t i, int worker) {
	if (worker < 0 || worker >= whit_threads()) atomic_store(&visits[i], 99);
	atomic_fetch_add(&visits[i], 1);
	if (ctx) whit_parallel(3, visit, NULL); /* nested: serial */
}

static void threads(void) {
	for (int t = 1; t <= 5; t++) {
		whit_threads_set(t);
		for (int round = 0; round < 200; round++) {
			memset(visits, 0, sizeof visits);
			int n = round * 25 + 4, bad = 0;
			whit_parallel(n, visit, round % 2 ? visits : NULL);
			for (int i = 3; i < n; i++) bad += visits[i] != 1;
			bad += visits[0] != (round % 2 ? n + 1 : 1);
			if (bad) CHECK_MSG(0, "%d threads, %d items: %d visited wrongly", t, n, bad);
		}
		CHECK_INT(whit_threads(), t);
	}
	whit_threads_set(0);
}

static void arenas(void) {
	whit_arena a = {0};
	for (int round = 0; round < 3; round++) {
		uint8_t *prev = NULL;
		for (int i = 0; i < 100; i++) {
			uint8_t *p = whit_take_bytes(&a, (size_t)i * 1000);
			CHECK((uintptr_t)p % 64 == 0 && p != prev);
			memset(p, i, (size_t)i * 1000);
			prev = p;
		}
		whit_arena_reset(&a);
	}
	whit_arena_free(&a);
	CHECK(a.head == NULL);
}

static void files(void) {
	whit_err e;
	whit_map m;
	char *path = test_scratch("base-file");
	CHECK_RC(whit_write_file(path, "hello", 5, &e), e);
	CHECK_RC(whit_map_open(&m, path, &e), e);
	CHECK(m.bytes == 5 && !memcmp(m.data, "hello", 5));
	CHECK_RC(whit_map_check(&m, &e), e);
	test_write(path, "changed", 7);
	CHECK_FAILS(whit_map_check(&m, &e), WHIT_EINPUT, e, "changed");
	whit_map_close(&m);
	whit_out o;
	CHECK_RC(whit_out_open(&o, path, &e), e);
	CHECK_RC(whit_out_write(&o, "new", 3, &e), e);
	CHECK_RC(whit_out_write_at(&o, 0, "N", 1, &e), e);
	size_t n;
	char *text = test_read(path, &n);
	CHECK_TEXT(text, "changed"); /* until commit the old file stands */
	whit_free(text);
	CHECK_RC(whit_out_commit(&o, &e), e);
	text = test_read(path, &n);
	CHECK_TEXT(text, "New");
	whit_free(text);
	CHECK_FAILS(whit_map_open(&m, WHIT_SCRATCH, &e), WHIT_EINPUT, e, "directory");
	CHECK_FAILS(whit_map_open(&m, "/dev/null", &e), WHIT_EINPUT, e, "need a regular file");
	CHECK_FAILS(whit_write_file("/nonexistent/x", "", 0, &e), WHIT_EUSAGE, e, "/nonexistent/x");
	if (whit_file_exists("/dev/full")) {
		int rc = whit_out_open(&o, path, &e);
		CHECK_RC(rc, e);
		whit_out_abort(&o);
		CHECK(whit_file_exists(path));
	}
	unlink(path);
	whit_free(path);
}

static void directories(void) {
	whit_err e;
	whit_outdir d, second;
	char *path = test_scratch("base-dir");
	CHECK_RC(whit_outdir_open(&d, path, 0, &e), e);
	CHECK_FAILS(whit_outdir_open(&second, path, 0, &e), WHIT_EUSAGE, e, "being written by process");
	char *file = whit_outdir_file(&d, "a");
	CHECK_RC(whit_write_file(file, "x", 1, &e), e);
	CHECK(!whit_file_exists(path));
	CHECK_RC(whit_outdir_commit(&d, &e), e);
	CHECK(whit_is_dir(path));
	CHECK_FAILS(whit_outdir_open(&d, path, 0, &e), WHIT_EUSAGE, e, "exists");
	CHECK_RC(whit_outdir_open(&d, path, 1, &e), e);
	CHECK_RC(whit_outdir_commit(&d, &e), e);
	CHECK_RC(whit_outdir_open(&d, path, 1, &e), e);
	whit_free(file);
	file = whit_strdup(d.tmp);
	whit_outdir_abort(&d);
	CHECK(!whit_file_exists(file) && whit_is_dir(path));
	rmdir(path);
	whit_free(file);
	whit_free(path);
}

TEST_MAIN(errors, halves, random_numbers, threads, arenas, files, directories)
