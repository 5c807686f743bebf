/* logits: llama-perplexity's own file (golden/logits, by make_logits.sh) read and made again; the 16-bit rows; a file
 * in place of a reference model; lies. */
#include "eval/eval.h"
#include "eval/logits.h"
#include "host/progress.h"
#include "tests/subject.h"

static int run_eval(subject *s, whit_model *ref, const whit_eval_opts *o, whit_eval_result *r) {
	return whit_eval_run(r, &s->m, ref, s->tok, s->text, s->n, o, &e);
}

/* ---- llama-perplexity's file ---- */

enum { CTX = 32, CHUNKS = 7, VOCAB = 512, TOKENS = CTX * CHUNKS };

/* Both programs' logits differ by float rounding, so a code may fall to its neighbour, and a row's least by 16 e^-x of
 * the largest logit's 1e-6. */
static void compare_files(const char *a, const char *b) {
	whit_logits x, y;
	if (!CHECK_RC(whit_logits_open(&x, a, &e), e) || !CHECK_RC(whit_logits_open(&y, b, &e), e)) return;
	CHECK_INT(x.map.bytes, y.map.bytes);
	CHECK(!memcmp(x.map.data, y.map.data, (size_t)(x.row - x.map.data))); /* header and tokens */
	for (int64_t i = 0; i < x.chunks * x.rows; i++) {
		const uint8_t *p = x.row + (size_t)i * x.row_bytes, *q = y.row + (size_t)i * y.row_bytes;
		int far = 0;
		for (int64_t v = 0; v < x.vocab; v++)
			far += abs(whit_load_u16(p + 8 + 2 * v) - whit_load_u16(q + 8 + 2 * v)) > 1;
		CHECK_INT(far, 0);
		CHECK_NEAR(whit_load_f32(p), whit_load_f32(q), 1e-5 * whit_load_f32(q));
		CHECK_NEAR(whit_load_f32(p + 4), whit_load_f32(q + 4), 1e-4);
	}
	whit_logits_close(&x);
	whit_logits_close(&y);
}

static void run_llama(void) {
	char *golden = whit_format_text("%s/tests/golden/logits/stories.bin", WHIT_SOURCE),
	     *own = test_scratch("own.bin");
	whit_logits l;
	if (CHECK_RC(whit_logits_open(&l, golden, &e), e)) {
		CHECK_INT(l.ctx, CTX);
		CHECK_INT(l.vocab, VOCAB);
		CHECK_INT(l.chunks, CHUNKS);
		CHECK_INT(l.rows, 15);
		whit_logits_close(&l);
	}
	subject s;
	whit_eval_result r;
	whit_eval_opts o = {.mode = WHIT_CHUNKED, .ref_logits = golden, .save_logits = own};
	whit_quiet(1);
	if (subject_open(&s, test_data("models/stories260K")) && CHECK_RC(run_eval(&s, NULL, &o, &r), e)) {
		CHECK_INT(r.ctx, CTX); /* the file's */
		CHECK_INT(r.s.tokens, 15 * CHUNKS);
		CHECK(r.have_ref && r.s.cut);
		CHECK_NEAR(r.s.ppl.mean, 28.6010, 6e-5);               /* as it printed */
		CHECK_NEAR(r.s.ppl_ref.mean, 28.6010, 1e-4 * 28.6010); /* 16-bit steps */
		CHECK_NEAR(r.s.kld_llama.mean, 0, 1e-5);
		CHECK_NEAR(r.s.top1.mean, 1, 0);
		CHECK(isnan(r.s.kld.mean) && isnan(r.s.kld_rev.mean) && isnan(r.s.cosine.mean) && !r.layer_err);
		CHECK(isfinite(r.s.kld_max) && isfinite(r.s.kld_se_tokens) && isfinite(r.s.kld_llama.se));
		whit_eval_free(&r);
		compare_files(own, golden);
	}
	subject_close(&s);
	whit_free(golden);
	whit_free(own);
}

/* ---- rows ---- */

static void run_rows(void) {
	static const struct {
		int64_t vocab;
		double spread;
	} kinds[] = {{1, 1}, {2, 1}, {7, 3}, {513, 5}, {1000, 20}, {64, 0}, {4097, 200}};
	whit_rng g;
	whit_rng_key(&g, 5, 0, 0);
	for (int k = 0; k < WHIT_COUNT(kinds); k++) {
		int64_t n = kinds[k].vocab;
		size_t bytes = 2 * (2 * (((size_t)n + 1) / 2) + 4);
		float *x = malloc((size_t)n * 4), *p = malloc((size_t)n * 4);
		uint8_t *row = malloc(bytes + 1);
		double max = -1e30, sum = 0;
		for (int64_t v = 0; v < n; v++) {
			x[v] = (float)(100 + kinds[k].spread * whit_rng_normal(&g));
			max = WHIT_MAX(max, x[v]);
		}
		for (int64_t v = 0; v < n; v++) sum += exp(x[v] - max);
		row[bytes] = 0xa5;
		whit_logits_pack(row, x, n);
		CHECK_INT(row[bytes], 0xa5);
		if (n % 2) CHECK_INT(whit_load_u16(row + bytes - 2), 0);
		whit_logits l = {.name = "row", .vocab = n, .chunks = 1, .rows = 1, .row = row, .row_bytes = bytes};
		if (CHECK_RC(whit_logits_row(&l, 0, p, &e), e)) {
			int bad = 0;
			for (int64_t v = 0; v < n; v++) {
				double want = WHIT_MAX(x[v], max - 16) - max - log(sum);
				/* half a step of 16 / 65535; then least and products near 32 in float */
				bad += !(fabs(p[v] - want) <= .5 * 16 / 65535 + 2 * 32 * 0x1p-24);
			}
			CHECK_INT(bad, 0);
		}
		free(x);
		free(p);
		free(row);
	}
}

/* ---- in place of a reference ---- */

/* The same pair of models, the reference once as a model and once as the file it wrote. */
static void run_pair(void) {
	char *dir = test_model("wiki12M-qwen3"), *out = test_scratch("coarse.int4"), *path = test_scratch("base.bin");
	subject s = {0};
	whit_model ref;
	whit_eval_result a, b;
	whit_eval_opts o = {.mode = WHIT_CHUNKED, .ctx = 64, .floor_tokens = 0};
	whit_quiet(1);
	if (dir) {
		char *run = whit_format_text(
		        "'%s' quantize '%s' '%s' --method nearest --format int4g32 --samples 0 --quiet >/dev/null",
		        WHIT_PROGRAM, dir, out);
		CHECK_INT(system(run), 0);
		whit_free(run);
	}
	if (dir && CHECK_RC(whit_model_open(&ref, dir, 0, &e), e)) {
		if (subject_open(&s, whit_strdup(out)) && CHECK_RC(run_eval(&s, &ref, &o, &a), e)) {
			subject r = s;
			r.m = ref;
			o.save_logits = path;
			o.batch_tokens = 100; /* uneven batches: rows must still come in order */
			CHECK_RC(run_eval(&r, NULL, &o, &b), e);
			CHECK(!b.have_ref);
			whit_eval_free(&b);
			o.save_logits = NULL;
			o.ref_logits = path;
			o.batch_tokens = 0;
			if (CHECK_RC(run_eval(&s, NULL, &o, &b), e)) {
				CHECK(a.s.kld_llama.mean > 1e-3);
				CHECK_NEAR(b.s.kld_llama.mean, a.s.kld_llama.mean,
				           WHIT_MAX(.01 * a.s.kld_llama.mean, 1e-5));
				CHECK_NEAR(b.s.kld_p50, a.s.kld_p50, WHIT_MAX(.02 * a.s.kld_p50, 1e-5));
				CHECK_NEAR(b.s.kld_max, a.s.kld_max, .02 * a.s.kld_max);
				CHECK_NEAR(b.s.ppl.mean, a.s.ppl.mean, 0); /* the measured model is the same */
				CHECK_NEAR(b.s.ppl_ratio.mean, a.s.ppl_ratio.mean, 2e-4); /* tokens below the cut */
				CHECK_NEAR(b.s.dp.mean, a.s.dp.mean, 1e-5);
				CHECK_NEAR(b.s.dp_rms.mean, a.s.dp_rms.mean, 1e-5);
				CHECK_NEAR(b.s.top1.mean, a.s.top1.mean,
				           2.0 / (double)a.s.tokens); /* ties in 16 bits */
				whit_eval_free(&b);
			}
			whit_eval_free(&a);
		}
		subject_close(&s);
		whit_model_close(&ref);
	}
	whit_free(dir);
	whit_free(out);
	whit_free(path);
}

/* ---- lies ---- */

static uint8_t *golden_bytes(size_t *n) {
	char *path = whit_format_text("%s/tests/golden/logits/stories.bin", WHIT_SOURCE);
	uint8_t *b = (uint8_t *)test_read(path, n);
	whit_free(path);
	return b;
}

static void run_truncation(void) {
	size_t n;
	uint8_t *b = golden_bytes(&n);
	whit_logits l;
	int good = 0;
	if (!CHECK(b != NULL)) return;
	for (size_t k = 0; k < n; k += k < 2000 ? 1 : 97) good += !whit_logits_parse(&l, b, k, "cut", &e);
	CHECK_INT(good, 0);
	CHECK_FAILS(whit_logits_parse(&l, b, n - 1, "cut", &e), WHIT_EINPUT, e, "need 109276 for 7 chunks of 32");
	CHECK_FAILS(whit_logits_parse(&l, b, 19, "cut", &e), WHIT_EINPUT, e, "is 19 bytes");
	uint8_t *longer = calloc(n + 1, 1);
	memcpy(longer, b, n);
	CHECK_FAILS(whit_logits_parse(&l, longer, n + 1, "long", &e), WHIT_EINPUT, e, "long: is 109277 bytes");
	free(longer);
	free(b);
}

static void run_header(void) {
	static const struct {
		int at;
		int32_t v;
		const char *word;
	} lies[] = {{0, 0, "_logits_"},
	            {8, 2, "window is 2"},
	            {8, -1, "window is -1"},
	            {8, 33, "is 109276 bytes"},
	            {12, 0, "vocabulary is 0"},
	            {12, INT32_MIN, "vocabulary is -2147483648"},
	            {16, 0, "number of chunks is 0"},
	            {16, INT32_MAX, "is 109276 bytes"}};
	size_t n;
	uint8_t *b = golden_bytes(&n);
	whit_logits l;
	if (!CHECK(b != NULL)) return;
	for (int i = 0; i < WHIT_COUNT(lies); i++) {
		uint8_t was[4];
		memcpy(was, b + lies[i].at, 4);
		memcpy(b + lies[i].at, &lies[i].v, 4);
		CHECK_FAILS(whit_logits_parse(&l, b, n, "lie", &e), WHIT_EINPUT, e, lies[i].word);
		memcpy(b + lies[i].at, was, 4);
	}
	const int32_t huge[3] = {INT32_MAX, INT32_MAX, INT32_MAX};
	memcpy(b + 8, huge, sizeof huge);
	CHECK_FAILS(whit_logits_parse(&l, b, n, "lie", &e), WHIT_EINPUT, e, "is 109276 bytes");
	free(b);
}

/* About another text, window or model; rows that are no log-probabilities. Nothing is written meanwhile. */
static void run_mismatch(void) {
	size_t n;
	uint8_t *b = golden_bytes(&n);
	char *path = test_scratch("lie.bin"), *save = test_scratch("never.bin");
	subject s;
	whit_eval_result r;
	whit_eval_opts o = {.mode = WHIT_CHUNKED, .ref_logits = path, .save_logits = save};
	if (subject_open(&s, test_data("models/stories260K")) && CHECK(b != NULL)) {
		test_write(path, b, n);
		o.ctx = 64;
		CHECK_FAILS(run_eval(&s, NULL, &o, &r), WHIT_EFINGERPRINT, e, "window is 32 tokens, need the 64");
		o.ctx = 0;
		whit_logits l;
		int32_t ids[TOKENS];
		memcpy(ids, b + 20, sizeof ids);
		CHECK_RC(whit_logits_parse(&l, b, n, "base", &e), e);
		CHECK_FAILS(whit_logits_match(&l, ids, TOKENS - 1, CTX, VOCAB, "text", &e), WHIT_EFINGERPRINT, e,
		            "holds 7 chunks, need at most the 6 of text");
		CHECK_FAILS(whit_logits_match(&l, ids, TOKENS, CTX, VOCAB + 1, "text", &e), WHIT_EFINGERPRINT, e,
		            "vocabulary is 512, need the model's 513");
		o.mode = WHIT_SLIDING;
		CHECK_FAILS(run_eval(&s, NULL, &o, &r), WHIT_EUSAGE, e, "chunked");
		o.mode = WHIT_CHUNKED;
		CHECK_FAILS(run_eval(&s, &s.m, &o, &r), WHIT_EUSAGE, e, "one reference");
		b[20 + 4 * 5] ^= 1;
		test_write(path, b, n);
		CHECK_FAILS(run_eval(&s, NULL, &o, &r), WHIT_EFINGERPRINT, e, "token 5 is");
		b[20 + 4 * 5] ^= 1;
		static const float bad[][2] = {{NAN, -20}, {1e-4f, NAN}, {1e-4f, INFINITY}, {-1e-4f, -2}, {1, -20}};
		for (int i = 0; i < WHIT_COUNT(bad); i++) {
			uint8_t *row = b + 20 + 4 * TOKENS + 17 * (2 * VOCAB + 8); /* chunk 1, its third */
			memcpy(row, bad[i], 8);
			test_write(path, b, n);
			CHECK_FAILS(run_eval(&s, NULL, &o, &r), WHIT_ENONFINITE, e, "chunk 1, row 2");
		}
		CHECK(!whit_file_exists(save));
		CHECK(!r.layer_err && !r.s.tokens);
	}
	subject_close(&s);
	free(b);
	whit_free(path);
	whit_free(save);
}

TEST_MAIN(run_llama, run_rows, run_pair, run_truncation, run_header, run_mismatch)
