/* test_quantize: a whole model through plan and run, and back: bytes, errors, manifest, and everything that
 * must be refused before or during the work. */
#define _GNU_SOURCE
#include "tests/test.h"
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "calib/quantize.h"
#include "formats/codebook.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "host/progress.h"

/* ---- a small random llama ---- */

enum { HIDDEN = 128, INNER = 192, LAYERS = 2, VOCAB = 96, KV = 64 };

static const struct {
	const char *name;
	int64_t rows, cols;
} shapes[] = {{"self_attn.q_proj.weight", HIDDEN, HIDDEN},   {"self_attn.k_proj.weight", KV, HIDDEN},
              {"self_attn.v_proj.weight", KV, HIDDEN},       {"self_attn.o_proj.weight", HIDDEN, HIDDEN},
              {"mlp.gate_proj.weight", INNER, HIDDEN},       {"mlp.up_proj.weight", INNER, HIDDEN},
              {"mlp.down_proj.weight", HIDDEN, INNER},       {"input_layernorm.weight", 0, HIDDEN},
              {"post_attention_layernorm.weight", 0, HIDDEN}};

/* What is special about one tensor: name, and what it becomes. */
typedef struct twist {
	const char *name;
	float scale;  /* of every weight; 0 = 1 */
	float value;  /* of row 5, column 7, where not 0 */
	int zero_row; /* row 3 is zero */
} twist;

static void put_tensor(whit_st_out *st, const char *name, int64_t rows, int64_t cols, const twist *t) {
	whit_err e;
	whit_rng r;
	int64_t n = (rows ? rows : 1) * cols, shape[2] = {rows ? rows : cols, cols};
	int mine = t && !strcmp(t->name, name);
	float *x = whit_alloc((size_t)n * sizeof *x);
	whit_rng_key(&r, 1, whit_hash_u64(name), 0);
	for (int64_t i = 0; i < n; i++) {
		x[i] = rows ? 0.05f * (float)whit_rng_normal(&r) : 1 + 0.1f * (float)whit_rng_normal(&r);
		if (mine && t->scale != 0) x[i] *= t->scale;
		if (mine && t->zero_row && i / cols == 3) x[i] = 0;
	}
	if (mine && t->value != 0) x[5 * cols + 7] = t->value;
	CHECK_RC(whit_st_out_begin(st, name, WHIT_F32, rows ? 2 : 1, shape, &e), e);
	CHECK_RC(whit_st_out_write(st, x, (size_t)n * sizeof *x, &e), e);
	whit_free(x);
}

/* Writes the model; whit_free the path. */
static char *make_model(const char *name, const twist *t) {
	static const char config[] =
	        "{\"model_type\": \"llama\", \"vocab_size\": 96, \"hidden_size\": 128, \"num_hidden_layers\": 2, "
	        "\"max_position_embeddings\": 64, \"intermediate_size\": 192, \"num_attention_heads\": 4, "
	        "\"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": false, \"bos_token_id\": "
	        "1, "
	        "\"eos_token_id\": 2, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\"}";
	whit_err e;
	whit_st_out *st;
	char *dir = test_scratch(name), *path = whit_format_text("%s/config.json", dir), full[128];
	mkdir(dir, 0777);
	test_write(path, config, sizeof config - 1);
	whit_free(path);
	path = whit_format_text("%s/model.safetensors", dir);
	if (!CHECK_RC(whit_st_out_open(&st, path, 16384, &e), e)) abort();
	put_tensor(st, "model.embed_tokens.weight", VOCAB, HIDDEN, t);
	for (int l = 0; l < LAYERS; l++)
		for (int i = 0; i < WHIT_COUNT(shapes); i++) {
			snprintf(full, sizeof full, "model.layers.%d.%s", l, shapes[i].name);
			put_tensor(st, full, shapes[i].rows, shapes[i].cols, t);
		}
	put_tensor(st, "model.norm.weight", 0, HIDDEN, t);
	put_tensor(st, "lm_head.weight", VOCAB, HIDDEN, t);
	CHECK_RC(whit_st_out_commit(st, &e), e);
	whit_free(path);
	return dir;
}

static void remove_tree(char *path) {
	char *rm = whit_format_text("rm -rf '%s' '%s.partial'", path, path);
	CHECK(!system(rm));
	whit_free(rm);
	whit_free(path);
}

/* ---- quantize by the library ---- */

static whit_rule base_rule(const char *format) {
	whit_err e;
	whit_rule b = {.method = whit_method_find("turboquant", &e), .rotation = -1, .seed = 42};
	if (format) CHECK_RC(whit_spec_parse(format, &b.spec, &e), e);
	return b;
}

/* recipe NULL: uniform with format. */
static int quantize(const char *in, const char *out, const char *format, const char *recipe, whit_quantize_stats *st,
                    whit_err *e) {
	whit_model m;
	whit_recipe r;
	whit_plan p;
	whit_outdir dir;
	whit_rule b = base_rule(format);
	whit_quiet(1);
	int rc = recipe ? whit_recipe_parse(&r, recipe, strlen(recipe), "r.txt", &b, e)
	                : whit_recipe_uniform(&r, &b, 0, e);
	if (rc) return rc;
	if (!(rc = whit_model_open(&m, in, 0, e))) {
		if (!(rc = whit_plan_make(&p, &m, &r, &(whit_target){0}, e))) {
			if (!(rc = whit_outdir_open(&dir, out, 0, e))) {
				rc = whit_quantize_run(&p, &m, &r, whit_sink_dir(&dir), st, e);
				if (rc)
					whit_outdir_abort(&dir);
				else
					rc = whit_outdir_commit(&dir, e);
			}
			whit_plan_free(&p);
		}
		whit_model_close(&m);
	}
	whit_recipe_free(&r);
	return rc;
}

static char *in_dir(const char *dir, const char *file) { return whit_format_text("%s/%s", dir, file); }

static void same_file(const char *a, const char *b, const char *name) {
	size_t n, k;
	char *pa = in_dir(a, name), *pb = in_dir(b, name), *ta = test_read(pa, &n), *tb = test_read(pb, &k);
	CHECK_MSG(ta && tb && n == k && !memcmp(ta, tb, n), "%s differs from %s", pa, pb);
	whit_free(ta);
	whit_free(tb);
	whit_free(pa);
	whit_free(pb);
}

/* Relative MSE of a decoded weight against its source. */
static double true_mse(const whit_weight *w, const whit_weight *src) {
	double err = 0, ref = 0;
	int64_t cols = src->mat.cols;
	float *a = whit_alloc((size_t)cols * sizeof *a), *b = whit_alloc((size_t)cols * sizeof *b);
	for (int64_t r = 0; r < src->mat.rows; r++) {
		whit_mat_decode(&src->mat, r, r + 1, a);
		whit_mat_decode(&w->mat, r, r + 1, b);
		for (int64_t i = 0; i < cols; i++) {
			err += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
			ref += (double)a[i] * a[i];
		}
	}
	whit_free(a);
	whit_free(b);
	return ref > 0 ? err / ref : 0;
}

/* Runs the method again, here, on tensor src as w says it was stored, and compares planes. */
static void check_planes(const whit_weight *w, const whit_weight *src) {
	whit_err e;
	whit_mat m = {.spec = w->mat.spec,
	              .rows = w->mat.rows,
	              .cols = w->mat.cols,
	              .width = w->mat.width,
	              .scale_f32 = w->mat.scale_f32,
	              .codebook = w->mat.codebook,
	              .rot = w->mat.rot};
	whit_job j = {.src = src, .dst = &m};
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	CHECK_RC(whit_method_rows(&j, &e), e);
	for (int p = 0; p < WHIT_PLANES && m.plane[p]; p++)
		for (int64_t r = 0; r < m.rows; r++)
			if (memcmp(m.plane[p] + (size_t)r * m.row_bytes[p],
			           w->mat.plane[p] + (size_t)r * w->mat.row_bytes[p], m.row_bytes[p])) {
				CHECK_MSG(0, "%s: plane %d row %lld differs", w->name, p, (long long)r);
				break;
			}
	CHECK_NEAR(w->rel_mse, j.err / j.ref, 1e-12);
	whit_mat_free(&m);
}

/* Opens both and compares everything. want: spec name of the quantized ones; quantized: how many. */
static void check_output(const char *in, const char *out, const char *want, int quantized) {
	whit_model src, q;
	whit_err e;
	char name[32];
	int n = 0;
	if (!CHECK_RC(whit_model_open(&src, in, 0, &e), e) || !CHECK_RC(whit_model_open(&q, out, 0, &e), e)) return;
	CHECK_INT(q.ckpt.kind, WHIT_CKPT_WHIT);
	for (int64_t i = 0; i < src.ckpt.n; i++) {
		const whit_weight *s = &src.ckpt.w[i], *w = whit_ckpt_find(&q.ckpt, s->name);
		if (!CHECK(w != NULL)) continue;
		if (w->passthrough) {
			CHECK(w->bytes == s->bytes && !memcmp(w->mat.plane[0], s->mat.plane[0], (size_t)s->bytes));
			continue;
		}
		n++;
		whit_spec_name(&w->mat.spec, name);
		if (want) CHECK_MSG(!strncmp(name, want, strlen(want)), "%s is %s, not %s", w->name, name, want);
		check_planes(w, s);
		double mse = true_mse(w, s);
		CHECK_MSG(fabs(mse - w->rel_mse) <= 1e-4 * mse, "%s: recorded %g, is %g", w->name, w->rel_mse, mse);
	}
	CHECK_INT(n, quantized);
	whit_model_close(&q);
	whit_model_close(&src);
}

static json_t *read_json(const char *dir, const char *file) {
	json_t *j = NULL;
	whit_err e;
	char *path = in_dir(dir, file);
	CHECK_RC(whit_json_load(&j, path, &e), e);
	whit_free(path);
	return j;
}

/* The `linears` tensors that pattern matches get each format; the rest is kept. */
static void formats_of(const char *in, const char *pattern, int linears, const char *tag) {
	static const struct {
		const char *format, *file;
		double mse;
	} row[] = {{"tq4", "turboquant_weights.safetensors", .0102},
	           {"tq2", "turboquant_weights.safetensors", .122},
	           {"int8", "packed_weights.safetensors", 2e-4}};
	for (int i = 0; i < WHIT_COUNT(row); i++) {
		whit_err e;
		whit_quantize_stats st;
		char name[64], *recipe = whit_format_text("%s %s\n* keep\n", pattern, row[i].format);
		snprintf(name, sizeof name, "quantize-%s-%s", tag, row[i].format);
		char *one = test_scratch(name);
		strcat(name, "-2");
		char *two = test_scratch(name);
		whit_threads_set(1);
		CHECK_RC(quantize(in, one, NULL, recipe, &st, &e), e);
		whit_threads_set(2);
		CHECK_RC(quantize(in, two, NULL, recipe, &st, &e), e);
		whit_threads_set(0);
		same_file(one, two, row[i].file);
		same_file(one, two, "quant_manifest.json");
		CHECK_MSG(st.rel_mse > 0 && st.rel_mse < row[i].mse, "%s: %g", row[i].format, st.rel_mse);
		CHECK_INT(st.f32_scale_tensors, 0);
		same_file(one, in, "config.json");
		check_output(in, one, row[i].format, linears);
		whit_free(recipe);
		remove_tree(one);
		remove_tree(two);
	}
}

static void tiny(void) {
	char *in = make_model("quantize-in", NULL);
	formats_of(in, "@linear", 7 * LAYERS, "tiny");
	remove_tree(in);
}

/* One block of the real model in every format, all of it with the embedding (which is the head too) in one. */
static void real(void) {
	char *in = test_model("wiki12M-qwen3"), *out = test_scratch("quantize-real-all");
	whit_quantize_stats st;
	whit_err e;
	if (in) {
		formats_of(in, "*.layers.3.*_proj.*", 7, "real");
		if (TEST_SANITIZED) {
			test_skip("the whole model: too slow under a sanitizer");
		} else {
			CHECK_RC(quantize(in, out, NULL, "* tq4", &st, &e), e);
			check_output(in, out, "tq4", 7 * 6 + 1);
		}
	}
	whit_free(in);
	remove_tree(out);
}

/* ---- the manifest, mixed recipes, what a tensor can be ---- */

static void mixed(void) {
	static const char recipe[] = "*.layers.0.*  keep\n"
	                             "*.down_proj.weight  tq4g64  scale=raw seed=7\n"
	                             "*.{k,v}_proj.weight  int8  method=nearest\n"
	                             "@linear  tq3row  rotation=haar_qr density=beta\n"
	                             "lm_head.weight  bf16  method=nearest\n"
	                             "@embedding  tq8g128\n";
	whit_err e;
	whit_quantize_stats st;
	char *in = make_model("quantize-mixed-in", NULL), *out = test_scratch("quantize-mixed");
	if (CHECK_RC(quantize(in, out, NULL, recipe, &st, &e), e)) {
		json_t *j = read_json(out, "quant_manifest.json"), *tensors = json_object_get(j, "tensors");
		CHECK_INT(json_array_size(tensors), 7 + 2);
		CHECK_TEXT(json_string_value(json_object_get(j, "format")), "whit-packed");
		CHECK_TEXT(json_string_value(json_object_get(j, "method")), "mixed");
		const char *text = json_string_value(json_object_get(j, "recipe"));
		CHECK(text && strstr(text, "*.down_proj.weight tq4g64 method=turboquant rotation=hadamard scale=raw "
		                           "density=gaussian seed=7"));
		CHECK(json_string_value(json_object_get(json_object_get(j, "source"), "fingerprint")) != NULL);
		const char *id = json_string_value(json_object_get(json_object_get(j, "source"), "id"));
		CHECK(id && !strchr(id, '/') && strstr(id, "quantize-mixed-in"));
		json_decref(j);
		whit_model m, src;
		CHECK_RC(whit_model_open(&src, in, 0, &e), e);
		if (CHECK_RC(whit_model_open(&m, out, 0, &e), e)) {
			const whit_weight *w = whit_ckpt_find(&m.ckpt, "model.layers.1.mlp.down_proj.weight");
			CHECK(w && w->mat.rot && whit_rotation_get(w->mat.rot)->seed == 7 && w->mat.width == 192);
			w = whit_ckpt_find(&m.ckpt, "model.layers.1.self_attn.k_proj.weight");
			CHECK(w && !w->mat.rot && w->mat.spec.bits == 8);
			w = whit_ckpt_find(&m.ckpt, "model.layers.1.self_attn.q_proj.weight");
			CHECK(w && w->mat.rot && whit_rotation_get(w->mat.rot)->kind == WHIT_ROT_HAAR_QR &&
			      w->mat.spec.group == 0);
			w = whit_ckpt_find(&m.ckpt, "model.layers.0.mlp.down_proj.weight");
			CHECK(w && w->passthrough);
			for (int64_t i = 0; i < m.ckpt.n; i++) {
				w = &m.ckpt.w[i];
				const whit_weight *s = whit_ckpt_find(&src.ckpt, w->name);
				double mse = true_mse(w, s);
				CHECK_MSG(mse <= .05 && fabs(mse - w->rel_mse) <= 1e-4 * mse, "%s: recorded %g, is %g",
				          w->name, w->rel_mse, mse);
			}
			whit_model_close(&m);
		}
		whit_model_close(&src);
	}
	remove_tree(in);
	remove_tree(out);
}

static void odd_weights(void) {
	whit_err e;
	whit_quantize_stats st;
	char *out = test_scratch("quantize-odd");
	/* A zero row is counted and decodes to zero. */
	char *in = make_model("quantize-zero", &(twist){.name = "model.layers.1.mlp.up_proj.weight", .zero_row = 1});
	CHECK_RC(quantize(in, out, "tq4", NULL, &st, &e), e);
	CHECK_INT(st.zero_groups, 1);
	check_output(in, out, "tq4", 7 * LAYERS);
	remove_tree(in);
	remove_tree(out);
	/* Norms beyond F16 get F32 scales, for that tensor only. */
	out = test_scratch("quantize-odd");
	in = make_model("quantize-huge", &(twist){.name = "model.layers.0.mlp.up_proj.weight", .scale = 1e7f});
	CHECK_RC(quantize(in, out, "tq4", NULL, &st, &e), e);
	CHECK_INT(st.f32_scale_tensors, 1);
	check_output(in, out, "tq4", 7 * LAYERS);
	json_t *j = read_json(out, "quant_manifest.json"), *t;
	size_t i;
	int f32 = 0;
	json_array_foreach(json_object_get(j, "tensors"), i, t) f32 +=
	        !strcmp(json_string_value(json_object_get(t, "norm_dtype")), "F32");
	CHECK_INT(f32, 1);
	json_decref(j);
	remove_tree(out);
	/* f16 has no scale that could help. */
	out = test_scratch("quantize-odd");
	CHECK_FAILS(quantize(in, out, NULL, "*.up_proj.* f16 method=nearest\n@linear tq4\n@embedding keep\n", &st, &e),
	            WHIT_EINPUT, e, "model.layers.0.mlp.up_proj.weight");
	CHECK(!whit_file_exists(out));
	remove_tree(in);
	remove_tree(out);
}

/* ---- refused ---- */

static void refused(void) {
	static const struct {
		const char *recipe;
		int code;
		const char *word;
	} row[] = {{"*.q_proj.* tq4\n", WHIT_EUSAGE, "no line matches tensor"},
	           {"@linear tq4\n@embedding keep\n*.experts.* tq2\n", WHIT_EUSAGE, "matches no tensor"},
	           {"@linear tq4\n@embedding keep\n*norm.weight int8\n", WHIT_EUSAGE, "are not quantized"},
	           {"* keep\n", WHIT_EUSAGE, "keeps every tensor"},
	           {"@linear tq4g128 method=nearest\n@embedding keep\n", WHIT_EUSAGE,
	            "model.layers.0.mlp.down_proj.weight"}};
	whit_err e;
	whit_quantize_stats st;
	char *in = make_model("quantize-refused", NULL), *out = test_scratch("quantize-refused-out");
	for (int i = 0; i < WHIT_COUNT(row); i++) {
		CHECK_FAILS(quantize(in, out, NULL, row[i].recipe, &st, &e), row[i].code, e, row[i].word);
		CHECK(!whit_file_exists(out));
	}
	CHECK_RC(quantize(in, out, "tq4", NULL, &st, &e), e);
	CHECK_FAILS(quantize(in, out, "tq4", NULL, &st, &e), WHIT_EUSAGE, e, "exists");
	char *again = test_scratch("quantize-again");
	CHECK_FAILS(quantize(out, again, "tq2", NULL, &st, &e), WHIT_EINPUT, e, "already quantized");
	CHECK(!whit_file_exists(again));
	remove_tree(again);
	remove_tree(out);
	remove_tree(in);

	/* NaN in a linear, Inf in the embedding, which is only kept: both are named. */
	out = test_scratch("quantize-refused-out");
	in = make_model("quantize-nan", &(twist){.name = "model.layers.1.self_attn.o_proj.weight", .value = NAN});
	CHECK_FAILS(quantize(in, out, "tq4", NULL, &st, &e), WHIT_ENONFINITE, e,
	            "model.layers.1.self_attn.o_proj.weight: row 5, column 7");
	CHECK(!whit_file_exists(out));
	remove_tree(in);
	/* Weights that F32 holds with norms that it does not. */
	in = make_model("quantize-vast", &(twist){.name = "model.layers.1.self_attn.k_proj.weight", .scale = 2e38f});
	CHECK_FAILS(quantize(in, out, "tq4", NULL, &st, &e), WHIT_ENONFINITE, e,
	            "model.layers.1.self_attn.k_proj.weight: rows 0 to 63: norm is");
	CHECK(!whit_file_exists(out));
	remove_tree(in);
	in = make_model("quantize-inf", &(twist){.name = "model.embed_tokens.weight", .value = -INFINITY});
	CHECK_FAILS(quantize(in, out, "tq4", NULL, &st, &e), WHIT_ENONFINITE, e,
	            "model.embed_tokens.weight: row 5, column 7");
	CHECK(!whit_file_exists(out));
	char *partial = whit_format_text("%s.partial", out);
	CHECK(!whit_file_exists(partial));
	whit_free(partial);
	remove_tree(in);
	remove_tree(out);
}

/* The plan's numbers are those of the output. */
static void plan_numbers(void) {
	whit_err e;
	whit_quantize_stats st;
	whit_model m, q;
	whit_recipe r;
	whit_plan p;
	whit_rule b = base_rule("tq3g64");
	char *in = make_model("quantize-plan", NULL), *out = test_scratch("quantize-plan-out");
	CHECK_RC(quantize(in, out, "tq3g64", NULL, &st, &e), e);
	CHECK_RC(whit_recipe_uniform(&r, &b, 0, &e), e);
	CHECK_RC(whit_model_open(&m, in, 0, &e), e);
	CHECK_RC(whit_model_open(&q, out, 0, &e), e);
	if (CHECK_RC(whit_plan_make(&p, &m, &r, &(whit_target){0}, &e), e)) {
		CHECK_INT(p.quantized, 7 * LAYERS);
		CHECK_INT(p.linear_weights, st.weights);
		int64_t params = 0;
		for (int64_t i = 0; i < p.n; i++) {
			const whit_weight *w = whit_ckpt_find(&q.ckpt, p.row[i].w->name);
			CHECK_INT(p.row[i].bytes, w->bytes);
			params += p.row[i].w->mat.rows * p.row[i].w->mat.cols;
			CHECK(i == 0 || p.row[i].layer >= p.row[i - 1].layer);
		}
		CHECK_INT(p.params, params);
		/* Headers and manifest are a guess, and large in so small a model. */
		CHECK_NEAR((double)p.file_bytes / (double)q.ckpt.file_bytes, 1, 0.15);
		CHECK(p.bpw_linear > 3.25 && p.bpw_linear < 3.3 && p.peak_bytes > 0);
		whit_plan_free(&p);
	}
	whit_model_close(&m);
	whit_model_close(&q);
	whit_recipe_free(&r);
	remove_tree(in);
	remove_tree(out);
}

/* ---- the program ---- */

/* Runs whit with a NULL-terminated list of words; output goes nowhere. file_limit: RLIMIT_FSIZE, 0 = none.
 * interrupt: SIGINT once the output's temporary exists. Returns the exit status. */
static int program(const char *const *word, int64_t file_limit, const char *interrupt) {
	fflush(stdout);
	pid_t pid = fork();
	if (pid < 0) abort();
	if (!pid) {
		char *argv[32] = {(char *)(uintptr_t)WHIT_PROGRAM};
		for (int i = 0; word[i] && i < 30; i++) argv[i + 1] = (char *)(uintptr_t)word[i];
		if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(99);
		if (file_limit) {
			signal(SIGXFSZ, SIG_IGN);
			setrlimit(RLIMIT_FSIZE, &(struct rlimit){(rlim_t)file_limit, (rlim_t)file_limit});
		}
		execv(WHIT_PROGRAM, argv);
		_exit(98);
	}
	int status = 0;
	pid_t done = 0;
	while (interrupt && !done && !whit_file_exists(interrupt)) {
		usleep(200);
		done = waitpid(pid, &status, WNOHANG);
	}
	if (interrupt && !done) kill(pid, SIGINT);
	if (!done) done = waitpid(pid, &status, 0);
	if (done != pid) abort();
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#define WHIT(...) program((const char *const[]){__VA_ARGS__, NULL}, 0, NULL)

static void command(void) {
	char *in = make_model("quantize-cmd", NULL), *out = test_scratch("quantize-cmd-out"),
	     *inside = in_dir(in, "out");
	char *json = test_scratch("quantize-cmd.json"), *partial = whit_format_text("%s.partial", out);
	CHECK_INT(WHIT("quantize", "--help"), 0);
	CHECK_INT(WHIT("quantize", in, out), 2);
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq9"), 2);
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq4", "--method", "magic"), 2);
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq4", "--rotation", "tq3"), 2);
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq4", "--scale", "none"), 2);
	CHECK_INT(WHIT("quantize", in, in, "--format", "tq4"), 2);
	CHECK_INT(WHIT("quantize", in, in, "--format", "tq4", "--force"), 2);
	CHECK_INT(WHIT("quantize", in, inside, "--format", "tq4"), 2);
	CHECK_INT(WHIT("quantize", in, "/nonexistent/place/out", "--format", "tq4"), 2);
	CHECK_INT(WHIT("quantize", "/nonexistent", out, "--format", "tq4"), 3);
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq4", "--eval", "/nonexistent"), 3);
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq4", "--plan", "--json", json), 0);
	CHECK(!whit_file_exists(out) && !whit_file_exists(partial) && !whit_file_exists(inside));
	CHECK(whit_file_exists(json));
	/* No tokenizer: a warning, and empty samples. */
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq4"), 0);
	CHECK(!whit_file_exists(partial));
	json_t *j = read_json(out, "sample_generations.json");
	CHECK(json_is_array(j) && !json_array_size(j));
	json_decref(j);
	j = read_json(out, "eval_summary.json");
	CHECK(json_is_null(json_object_get(json_object_get(j, "kld_mean"), "mean"))); /* null, never absent */
	CHECK(json_number_value(json_object_get(j, "bpw_linear")) > 4);
	json_decref(j);
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq2"), 2);
	CHECK_INT(WHIT("quantize", in, out, "--format", "tq2", "--force"), 0);
	/* --force replaces only what whit wrote. */
	char *foreign = test_scratch("quantize-foreign"), *file = in_dir(foreign, "thesis.txt");
	mkdir(foreign, 0777);
	test_write(file, "x", 1);
	CHECK_INT(WHIT("quantize", in, foreign, "--format", "tq2", "--force"), 2);
	CHECK(whit_file_exists(file));
	whit_free(file);
	remove_tree(foreign);
	/* A writer that is cut off leaves nothing. */
	remove_tree(out);
	out = test_scratch("quantize-cmd-out");
	CHECK_INT(program((const char *const[]){"quantize", in, out, "--format", "tq4", NULL}, 20000, NULL), 4);
	CHECK(!whit_file_exists(out) && !whit_file_exists(partial));
	whit_free(partial);
	whit_free(inside);
	remove_tree(json);
	remove_tree(out);
	remove_tree(in);
}

/* A disk of 64 KB, where we may mount one: refused before the work, with needed and available. */
static void full_disk(void) {
	char *in = make_model("quantize-disk-in", NULL), *at = test_scratch("quantize-disk"), *out = in_dir(at, "out");
	mkdir(at, 0777);
	if (mount("tmpfs", at, "tmpfs", 0, "size=64k")) {
		test_skip("full disk: cannot mount a small tmpfs");
	} else {
		CHECK_INT(WHIT("quantize", in, out, "--format", "tq4"), 4);
		CHECK(!whit_file_exists(out));
		umount(at);
	}
	whit_free(out);
	remove_tree(at);
	remove_tree(in);
}

/* Ctrl-C while a model is being quantized: exit 130, nothing under either name. Slowed by a dense rotation. */
static void interrupted(void) {
	char *in = test_model("wiki12M-qwen3"), *out = test_scratch("quantize-int"),
	     *partial = whit_format_text("%s.partial", out);
	if (in) {
		int rc = program((const char *const[]){"quantize", in, out, "--format", "tq8", "--rotation", "haar_qr",
		                                       "--threads", "1", "--embeddings", NULL},
		                 0, partial);
		CHECK_INT(rc, 130);
		CHECK(!whit_file_exists(out) && !whit_file_exists(partial));
	}
	whit_free(in);
	whit_free(partial);
	remove_tree(out);
}

static void reports(void) {
	char *in = test_model("wiki12M-qwen3"), *out = test_scratch("quantize-report"),
	     *text = test_scratch("quantize-text");
	if (in) {
		static const char words[] =
		        "The tower was built in the nineteenth century , and the town around it grew with the river . ";
		char *long_text = whit_alloc(40 * sizeof words);
		for (int i = 0; i < 40; i++) memcpy(long_text + i * (int)(sizeof words - 1), words, sizeof words - 1);
		test_write(text, long_text, 40 * (sizeof words - 1));
		CHECK_INT(WHIT("quantize", in, out, "--format", "tq4", "--eval", text, "--ctx", "64", "--samples", "8"),
		          0);
		json_t *j = read_json(out, "eval_summary.json"), *k = json_object_get(j, "kld_mean");
		CHECK(json_is_object(k) && json_number_value(json_object_get(k, "mean")) > 0);
		json_decref(j);
		j = read_json(out, "sample_generations.json");
		CHECK_INT(json_array_size(j), 3);
		json_t *first = json_array_get(j, 0);
		CHECK(json_is_string(json_object_get(first, "prompt")) &&
		      json_is_string(json_object_get(first, "base")) &&
		      json_is_string(json_object_get(first, "quantized")));
		CHECK_INT(json_integer_value(json_object_get(first, "max_new_tokens")), 8);
		json_decref(j);
		whit_free(long_text);
		/* A check that fails after the export: exit 8, and the output stays. */
		remove_tree(out);
		out = test_scratch("quantize-report");
		char *prompt = whit_alloc(2001);
		memset(prompt, '7', 2000);
		test_write(text, prompt, 2000);
		whit_free(prompt);
		CHECK_INT(WHIT("quantize", in, out, "--format", "tq4", "--prompts", text), 8);
		char *manifest = in_dir(out, "quant_manifest.json");
		CHECK(whit_file_exists(manifest));
		whit_free(manifest);
	}
	whit_free(in);
	remove_tree(text);
	remove_tree(out);
}

TEST_MAIN(tiny, real, mixed, odd_weights, refused, plan_numbers, command, full_disk, interrupted, reports)
