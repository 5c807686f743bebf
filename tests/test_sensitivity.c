/* whit sensitivity against the real thing: each loss equals that of a model quantized on disk by a recipe that touches
 * only that part; the same bytes at any thread count, memory and after any interruption; and bad input. */
#define _GNU_SOURCE
#include "tests/test.h"
#include "calib/quantize.h"
#include "eval/eval.h"
#include "formats/json.h"
#include "host/commands.h"
#include "host/progress.h"

static whit_err e;

/* ---- the command ---- */

enum { WORDS = 40 };

/* Runs the command with space-separated words; its table goes nowhere. */
static int sensitivity(const char *words) {
	char *copy = whit_strdup(words), *argv[WORDS] = {copy}, *save = NULL;
	int argc = 1;
	for (char *w = strtok_r(copy, " ", &save); w && argc < WORDS; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
	FILE *out = stdout;
	stdout = fopen("/dev/null", "w");
	memset(&e, 0, sizeof e);
	int rc = whit_cmd_sensitivity(argc, argv, &e);
	fclose(stdout);
	stdout = out;
	whit_threads_set(0);
	whit_free(copy);
	return rc;
}

static json_t *load(const char *base, const char *suffix) {
	char *path = whit_format_text("%s%s", base, suffix);
	json_t *j = NULL;
	CHECK_RC(whit_json_load(&j, path, &e), e);
	whit_free(path);
	return j;
}

static const json_t *find(const json_t *table, const char *by, const char *name, const char *format) {
	const json_t *entries = json_object_get(table, "entries");
	for (size_t i = 0; i < json_array_size(entries); i++) {
		const json_t *x = json_array_get(entries, i);
		if (!strcmp(json_string_value(json_object_get(x, "by")), by) &&
		    !strcmp(json_string_value(json_object_get(x, "name")), name) &&
		    !strcmp(json_string_value(json_object_get(x, "format")), format))
			return x;
	}
	return NULL;
}

static double real_at(const json_t *j, const char *key) {
	const json_t *x = json_object_get(j, key);
	return json_is_number(x) ? json_number_value(x) : NAN;
}

static void same_file(const char *a, const char *b, const char *suffix) {
	size_t n = 0, k = 0;
	char *pa = whit_format_text("%s%s", a, suffix), *pb = whit_format_text("%s%s", b, suffix);
	char *ta = test_read(pa, &n), *tb = test_read(pb, &k);
	CHECK_MSG(ta && tb && n == k && !memcmp(ta, tb, n), "%s differs from %s", pa, pb);
	free(ta);
	free(tb);
	whit_free(pa);
	whit_free(pb);
}

static void same_outputs(const char *a, const char *b) {
	same_file(a, b, ".json");
	same_file(a, b, ".md");
	same_file(a, b, ".svg");
}

static void remove_tree(char *path) {
	char *rm = whit_format_text("rm -rf '%s' '%s'.*", path, path);
	CHECK(!system(rm));
	whit_free(rm);
	whit_free(path);
}

/* ---- the real thing ---- */

/* A directory that recipe makes of a model, with turboquant where a line does not say. */
static char *quantize(const char *model, const char *recipe) {
	whit_rule base = {.method = whit_method_find("turboquant", &e), .rotation = -1, .seed = 42};
	whit_quantize_stats st;
	whit_recipe r;
	whit_outdir dir;
	whit_model m;
	whit_plan p;
	char *out = test_scratch("quantized");
	if (!CHECK_RC(whit_recipe_parse(&r, recipe, strlen(recipe), "recipe", &base, &e), e)) abort();
	if (!CHECK_RC(whit_model_open(&m, model, 0, &e), e)) abort();
	if (!CHECK_RC(whit_plan_make(&p, &m, &r, &(whit_target){0}, &e), e)) abort();
	if (!CHECK_RC(whit_outdir_open(&dir, out, 0, &e), e)) abort();
	CHECK_RC(whit_quantize_run(&p, &m, &r, whit_sink_dir(&dir), &st, &e), e);
	CHECK_RC(whit_outdir_commit(&dir, &e), e);
	whit_plan_free(&p);
	whit_model_close(&m);
	whit_recipe_free(&r);
	return out;
}

/* What is coded of a model. */
static int64_t coded_bytes(const whit_model *m) {
	int64_t bytes = 0;
	for (int64_t i = 0; i < m->ckpt.n; i++)
		if (!m->ckpt.w[i].alias && !m->ckpt.w[i].passthrough) bytes += m->ckpt.w[i].bytes;
	return bytes;
}

/* Entry x of a table against a model that the recipe makes: both ways, kernels see the same weights and the same
 * batches, so the numbers are equal to the last bit. */
static void check_real(const json_t *x, const char *what, const char *dir, const char *recipe, const char *text_path,
                       unsigned flags, const whit_eval_opts *o) {
	char *out = quantize(dir, recipe);
	whit_model m, ref;
	whit_tok *tok;
	whit_map text;
	whit_eval_result r;
	if (!CHECK_MSG(x != NULL, "%s is in the table", what)) return;
	if (!CHECK_RC(whit_model_open(&m, out, flags, &e), e)) abort();
	if (!CHECK_RC(whit_model_open(&ref, dir, flags, &e), e)) abort();
	if (!CHECK_RC(whit_tok_open(&tok, dir, &e), e)) abort();
	if (!CHECK_RC(whit_map_open(&text, text_path, &e), e)) abort();
	if (CHECK_RC(whit_eval_run(&r, &m, &ref, tok, (const char *)text.data, text.bytes, o, &e), e)) {
		CHECK_MSG(real_at(x, "kld_mean") == r.s.kld.mean && r.s.kld.mean > 0, "%s: KLD is %.17g, need %.17g",
		          what, real_at(x, "kld_mean"), r.s.kld.mean);
		CHECK_MSG(real_at(x, "kld_se") == r.s.kld.se, "%s: error is %.17g, need %.17g", what,
		          real_at(x, "kld_se"), r.s.kld.se);
		CHECK_INT(real_at(x, "bytes"), coded_bytes(&m));
		CHECK_INT(real_at(x, "bytes") + real_at(x, "codebook_bytes"),
		          llround(r.bpw_linear * real_at(x, "weights") / 8));
		whit_eval_free(&r);
	}
	whit_map_close(&text);
	whit_tok_close(tok);
	whit_model_close(&ref);
	whit_model_close(&m);
	remove_tree(out);
}

static const struct {
	const char *by, *name, *format, *recipe;
} reals[] = {
        {"tensor", "model.layers.0.self_attn.v_proj.weight", "tq2",
         "model.layers.0.self_attn.v_proj.weight tq2\n* keep\n"},
        {"tensor", "model.layers.3.mlp.down_proj.weight", "tq2", "model.layers.3.mlp.down_proj.weight tq2\n* keep\n"},
        {"tensor", "model.layers.5.mlp.gate_proj.weight", "q4_0:nearest",
         "model.layers.5.mlp.gate_proj.weight q4_0 method=nearest\n* keep\n"},
        {"tensor", "model.embed_tokens.weight", "tq2", "model.embed_tokens.weight tq2\n* keep\n"}, /* and the head */
        {"role", "k_proj", "tq2", "*.k_proj.weight tq2\n* keep\n"},
        {"role", "up_proj", "q4_0:nearest", "*.up_proj.weight q4_0 method=nearest\n* keep\n"},
        {"layer", "layer 4", "tq2", "*.layers.4.*_proj.weight tq2\n* keep\n"},
        {"layer", "outside", "q4_0:nearest", "model.embed_tokens.weight q4_0 method=nearest\n* keep\n"},
        {"all", "all", "q4_0:nearest",
         "*_proj.weight q4_0 method=nearest\n*.embed_tokens.* q4_0 method=nearest\n* keep\n"},
};

static char *demo(void) { return whit_format_text("%s/eval/demo.txt", WHIT_SOURCE); }

static void run_real(void) {
	char *model = test_model("wiki12M-qwen3"), *text = demo(), *base = test_scratch("real");
	if (!model) return;
	char *words = whit_format_text("%s --text %s --ctx 64 --stride 32 --max-tokens 200 --formats tq2,q4_0:nearest "
	                               "--by %s --embeddings --floor-tokens 20 --device cpu --quiet --out %s",
	                               model, text, TEST_SANITIZED ? "role" : "tensor,role,layer", base);
	const whit_eval_opts o = {.ctx = 64, .stride = 32, .max_tokens = 200};
	if (CHECK_RC(sensitivity(words), e)) {
		json_t *j = load(base, ".json");
		for (int i = 0; i < WHIT_COUNT(reals); i++) {
			if (TEST_SANITIZED && strcmp(reals[i].name, "k_proj")) continue;
			check_real(find(j, reals[i].by, reals[i].name, reals[i].format), reals[i].name, model,
			           reals[i].recipe, text, 0, &o);
		}
		/* 43 tensors, 8 roles, 6 layers, what is outside and the whole, twice; sums are of what stands there */
		const size_t of = TEST_SANITIZED ? 8 : 43;
		CHECK_INT(json_array_size(json_object_get(j, "entries")),
		          2 * (TEST_SANITIZED ? 8 + 1 : 43 + 8 + 6 + 1 + 1));
		CHECK_INT(json_array_size(json_object_get(j, "unfit")), 0);
		CHECK(real_at(j, "floor_kld") < 1e-9 && real_at(j, "floor_positions") == 20);
		const json_t *sum = json_array_get(json_object_get(j, "additivity"), 0);
		double total = 0;
		for (size_t i = 0; i < of; i++)
			total += real_at(json_array_get(json_object_get(j, "entries"), i), "kld_mean");
		CHECK_NEAR(real_at(sum, "sum"), total, 0);
		CHECK_NEAR(real_at(sum, "joint"), real_at(find(j, "all", "all", "tq2"), "kld_mean"), 0);
		CHECK_NEAR(real_at(sum, "joint_over_sum"), real_at(sum, "joint") / total, 0);
		json_decref(j);
	}
	whit_free(words);
	whit_free(model);
	whit_free(text);
	remove_tree(base);
}

/* Decoded weights: block formats then lose nothing to 8-bit activations. */
static void run_float(void) {
	char *model = test_model("wiki12M-qwen3"), *text = demo(), *base = test_scratch("float");
	if (!model) return;
	char *words = whit_format_text("%s --text %s --mode chunked --ctx 64 --max-tokens 300 --formats q4_0:nearest "
	                               "--by role --compute float --floor-tokens 0 --device cpu --quiet --out %s",
	                               model, text, base);
	const whit_eval_opts o = {.mode = WHIT_CHUNKED, .ctx = 64, .max_tokens = 300};
	if (CHECK_RC(sensitivity(words), e)) {
		json_t *j = load(base, ".json");
		check_real(find(j, "role", "o_proj", "q4_0:nearest"), "o_proj", model,
		           "*.o_proj.weight q4_0 method=nearest\n* keep\n", text, WHIT_OPEN_DECODE, &o);
		CHECK(json_is_null(json_object_get(j, "floor_kld")));
		json_decref(j);
	}
	whit_free(words);
	whit_free(model);
	whit_free(text);
	remove_tree(base);
}

/* ---- the same bytes ---- */

/* The journal of `from` without its last `drop` entries, under another name: what an interruption leaves. */
static void cut_journal(const char *from, const char *to, size_t drop) {
	json_t *j = load(from, ".journal"), *entries = json_object_get(j, "entries");
	char *path = whit_format_text("%s.journal", to);
	if (!CHECK(json_array_size(entries) > drop)) abort();
	for (size_t i = 0; i < drop; i++) json_array_remove(entries, json_array_size(entries) - 1);
	/* a time that no run measures shows that what is left was not measured again */
	json_object_set_new(json_array_get(entries, 0), "seconds", json_real(12345));
	CHECK_RC(whit_json_write(j, path, &e), e);
	whit_free(path);
	json_decref(j);
}

static void run_same(void) {
	if (TEST_SANITIZED) { /* the program's runs take minutes there, and are the other tests' code again */
		test_skip("sensitivity: the same bytes whatever the threads: a sanitizer is at work");
		return;
	}
	char *model = test_model("wiki12M-qwen3"), *text = demo(), *a = test_scratch("a"), *b = test_scratch("b");
	if (!model) return;
	char *words =
	        whit_format_text("%s --text %s --ctx 64 --stride 64 --max-tokens 200 --formats tq2 --by role,layer "
	                         "--floor-tokens 0 --device cpu --quiet",
	                         model, text);
	char *first = whit_format_text("%s --threads 1 --out %s", words, a);
	/* 200 tokens of 384 floats are 0.3 MB a state: of seven there is room for three, so every third is kept */
	char *second = whit_format_text("%s --threads 3 --memory 1M --out %s", words, b);
	CHECK_RC(sensitivity(first), e);
	CHECK_RC(sensitivity(second), e);
	same_outputs(a, b);

	char *rm = whit_format_text("rm '%s'.*", b);
	CHECK(!system(rm));
	cut_journal(a, b, 5);
	CHECK_RC(sensitivity(second), e);
	same_outputs(a, b);
	json_t *j = load(b, ".journal"), *entries = json_object_get(j, "entries");
	CHECK_INT(json_array_size(entries), 7 + 6 + 1);
	CHECK_NEAR(real_at(json_array_get(entries, 0), "seconds"), 12345, 0);
	json_decref(j);
	CHECK_RC(sensitivity(second), e); /* all is there */
	same_outputs(a, b);

	/* other inputs */
	char *seed = whit_format_text("%s --seed 7", second), *tokens = whit_format_text("%s --max-tokens 201", second),
	     *format = whit_format_text("%s --formats tq2,tq3", second), *anew = whit_format_text("%s --force", seed);
	CHECK_FAILS(sensitivity(seed), WHIT_EFINGERPRINT, e, "seed is 42, need 7");
	CHECK_FAILS(sensitivity(tokens), WHIT_EFINGERPRINT, e, "tokens is");
	CHECK_FAILS(sensitivity(format), WHIT_EFINGERPRINT, e, "formats is");
	same_outputs(a, b);
	CHECK_RC(sensitivity(anew), e);
	json_t *was = load(a, ".json"), *is = load(b, ".json");
	CHECK(real_at(find(was, "role", "q_proj", "tq2"), "kld_mean") !=
	      real_at(find(is, "role", "q_proj", "tq2"), "kld_mean"));
	json_decref(was);
	json_decref(is);

	/* a journal that says nonsense */
	char *path = whit_format_text("%s.journal", b);
	j = load(b, ".journal");
	json_object_set_new(json_array_get(json_object_get(j, "entries"), 1), "kld", json_string("low"));
	CHECK_RC(whit_json_write(j, path, &e), e);
	CHECK_FAILS(sensitivity(seed), WHIT_EINPUT, e, "kld");
	json_object_del(json_array_get(json_object_get(j, "entries"), 1), "name");
	json_object_set_new(json_array_get(json_object_get(j, "entries"), 1), "kld", json_real(1));
	CHECK_RC(whit_json_write(j, path, &e), e);
	CHECK_FAILS(sensitivity(seed), WHIT_EINPUT, e, "none of this run's");
	test_write(path, "{\"inputs\": {}", 13);
	CHECK_FAILS(sensitivity(seed), WHIT_EINPUT, e, ".journal");
	json_decref(j);

	char *all[] = {words, first, second, rm, seed, tokens, format, anew, path, model, text};
	for (int i = 0; i < WHIT_COUNT(all); i++) whit_free(all[i]);
	remove_tree(a);
	remove_tree(b);
}

/* ---- what must be refused ---- */

/* A copy of a bf16 model with a NaN in the middle of its file, which is in a matrix of a layer. */
static char *poisoned(const char *dir) {
	static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
	                                    "model.safetensors"};
	char *out = test_scratch("poisoned");
	if (mkdir(out, 0777)) abort();
	for (int i = 0; i < 4; i++) {
		char *from = whit_format_text("%s/%s", dir, files[i]), *to = whit_format_text("%s/%s", out, files[i]);
		size_t n;
		char *bytes = test_read(from, &n);
		if (!CHECK_MSG(bytes != NULL, "%s is there", from)) abort();
		if (i == 3) memset(bytes + n / 4 * 2, 0xff, 2);
		test_write(to, bytes, n);
		free(bytes);
		whit_free(from);
		whit_free(to);
	}
	return out;
}

static void run_bad(void) {
	char *model = test_model("wiki12M-qwen3"), *text = demo(), *out = test_scratch("bad"), *nan, *tiny;
	if (!model) return;
	tiny = whit_format_text("%s.tiny", out);
	test_write(tiny, "a", 1);
	nan = poisoned(model);
	const struct {
		const char *model, *text, *more, *word;
		int code;
	} bad[] = {
	        {model, text, "--formats tq44", "tq44", WHIT_EUSAGE},
	        {model, text, "--formats tq4,,tq2", "--formats", WHIT_EUSAGE},
	        {model, text, "--formats tq4,tq4", "each format once", WHIT_EUSAGE},
	        {model, text, "--formats tq4:magic", "magic", WHIT_EUSAGE},
	        {model, text, "--formats q4_0", "turboquant", WHIT_EUSAGE},             /* which cannot fill blocks */
	        {model, text, "--formats q4_k:nearest", "fits no tensor", WHIT_EUSAGE}, /* 384 and 1152 columns */
	        {model, text, "--formats tq4 --by head", "--by is 'head'", WHIT_EUSAGE},
	        {model, text, "--formats tq4 --by role,role", "once each", WHIT_EUSAGE},
	        {model, text, "--formats tq4 --mode all", "--mode", WHIT_EUSAGE},
	        {model, text, "--formats tq4 --compute fast", "--compute", WHIT_EUSAGE},
	        {model, text, "--formats tq4 --rotation left", "--rotation", WHIT_EUSAGE},
	        {model, text, "--formats tq4 --seed -1", "--seed is -1", WHIT_EUSAGE},
	        {model, text, "--formats tq4 --ctx 4096", "4096", WHIT_EUSAGE},
	        {model, text, "--formats tq4 --max-tokens 300 --memory 100K", "--memory: is 0.100 MB, need 0.922",
	         WHIT_EUSAGE},
	        {model, tiny, "--formats tq4", "bad.tiny", WHIT_EINPUT},
	        {model, "/no/text", "--formats tq4", "/no/text", WHIT_EINPUT},
	        {nan, text, "--formats tq4 --max-tokens 300", "finite", WHIT_ENONFINITE},
	        {"/no/model", text, "--formats tq4", "/no/model", WHIT_EINPUT},
	};
	for (int i = 0; i < WHIT_COUNT(bad); i++) {
		char *words = whit_format_text("%s --text %s %s --device cpu --quiet --out %s", bad[i].model,
		                               bad[i].text, bad[i].more, out);
		CHECK_FAILS(sensitivity(words), bad[i].code, e, bad[i].word);
		whit_free(words);
	}
	static const char *const suffix[] = {".json", ".md", ".svg", ".journal"};
	for (int i = 0; i < 4; i++) {
		char *path = whit_format_text("%s%s", out, suffix[i]);
		CHECK_MSG(!whit_file_exists(path), "%s is not there", path);
		whit_free(path);
	}

	/* outputs that cannot be, or are not ours */
	char *absent =
	        whit_format_text("%s --text %s --formats tq4 --device cpu --quiet --out %s/no/out", model, text, out);
	CHECK_FAILS(sensitivity(absent), WHIT_EUSAGE, e, "no/out.json");
	char *config =
	        whit_format_text("%s --text %s --formats tq4 --device cpu --quiet --out %s/config", nan, text, nan);
	CHECK_FAILS(sensitivity(config), WHIT_EUSAGE, e, "config.json: exists");
	char *input = whit_format_text("%s --text %s.md --formats tq4 --device cpu --quiet --out %s", model, out, out),
	     *md = whit_format_text("%s.md", out);
	test_write(md, "text", 4);
	CHECK_FAILS(sensitivity(input), WHIT_EUSAGE, e, "is the input (--text)");
	char *all[] = {absent, config, input, md, tiny, model, text};
	for (int i = 0; i < WHIT_COUNT(all); i++) whit_free(all[i]);
	remove_tree(nan);
	remove_tree(out);
}

/* A format that fits some tensors leaves the others as they are, and says so. */
static void run_unfit(void) {
	char *model = test_model("stories260K"), *text = demo(), *base = test_scratch("unfit");
	if (!model) return;
	char *words = whit_format_text("%s --text %s --ctx 64 --max-tokens 300 --formats q4_0:nearest,tq2 "
	                               "--by tensor,role --device cpu --quiet --out %s",
	                               model, text, base);
	if (CHECK_RC(sensitivity(words), e)) {
		json_t *j = load(base, ".json");
		const json_t *unfit = json_object_get(j, "unfit"), *all = find(j, "all", "all", "q4_0:nearest");
		CHECK_INT(json_array_size(unfit), 5); /* down_proj, of 172 columns, no whole blocks, in five layers */
		for (size_t i = 0; i < json_array_size(unfit); i++) {
			const char *name = json_string_value(json_object_get(json_array_get(unfit, i), "tensor"));
			CHECK_MSG(strstr(name, "down_proj") != NULL, "%s does not fit", name);
		}
		CHECK(!find(j, "role", "down_proj", "q4_0:nearest"));
		CHECK(find(j, "role", "down_proj", "tq2") != NULL);
		CHECK_INT(real_at(all, "tensors"), 30);
		json_decref(j);
	}
	whit_free(words);
	whit_free(model);
	whit_free(text);
	remove_tree(base);
}

/* ---- the engine's part ---- */

static void run_replace(void) {
	char *model = test_model("wiki12M-qwen3");
	whit_model m;
	if (!model) return;
	if (!CHECK_RC(whit_model_open(&m, model, 0, &e), e)) abort();
	const whit_weight *q = whit_ckpt_find(&m.ckpt, "model.layers.0.self_attn.q_proj.weight"),
	                  *k = whit_ckpt_find(&m.ckpt, "model.layers.0.self_attn.k_proj.weight");
	CHECK_FAILS(whit_model_replace(&m, "model.layers.9.nothing", NULL, &e), WHIT_EINTERNAL, e, "no matrix");
	CHECK_FAILS(whit_model_replace(&m, "model.norm.weight", NULL, &e), WHIT_EINTERNAL, e, "no matrix");
	CHECK_FAILS(whit_model_replace(&m, q->name, &k->mat, &e), WHIT_EINTERNAL, e, "need 384 x 384");
	CHECK_RC(whit_model_replace(&m, q->name, &q->mat, &e), e);
	CHECK_RC(whit_model_replace(&m, q->name, NULL, &e), e);
	whit_model_close(&m);
	whit_free(model);
}

TEST_MAIN(run_replace, run_real, run_float, run_same, run_unfit, run_bad)
