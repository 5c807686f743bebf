/* qwen3_5 into a GGUF and back: order of value heads, norms, rates, the convolution; what is passed through; what is
 * refused. That the model itself is right is test_model.c's matter. */
#include <stdlib.h>
#include "formats/gguf_model.h"
#include "host/engine.h"
#include "tests/test.h"

static whit_err e;

static char *golden(const char *name) { return whit_format_text("%s/tests/golden/models/%s", WHIT_SOURCE, name); }

static int run(const char *fmt, const char *a, const char *b, const char *c) {
	char *args = whit_format_text(fmt, a, b, c),
	     *cmd = whit_format_text("%s %s >/dev/null 2>&1", WHIT_PROGRAM, args);
	int rc = system(cmd);
	whit_free(args);
	whit_free(cmd);
	return rc;
}
#pragma GCC diagnostic ignored "-Wformat-nonliteral"

enum { T = 50 };

/* Logits of T tokens; the caller frees. */
static float *logits(const char *path, int64_t *vocab) {
	whit_model m;
	float *y = NULL;
	if (!CHECK_RC(whit_model_open(&m, path, 0, &e), e)) return NULL;
	int32_t tokens[T];
	int64_t start[2] = {0, T}, past = 0, pos[T];
	for (int i = 0; i < T; i++) tokens[i] = (i * 37 + 5) % 96, pos[i] = i;
	const whit_batch b = {T, 1, start, &past, pos, tokens};
	float *h = whit_alloc((size_t)(T * m.hidden) * sizeof *h);
	y = whit_alloc((size_t)(T * m.vocab) * sizeof *y);
	*vocab = m.vocab;
	int rc = whit_model_embed(&m, &b, h, &e);
	for (int64_t l = 0; l < m.layers && !rc; l++) rc = whit_model_layer(&m, l, &b, NULL, h, &e);
	if (!rc) rc = whit_model_head(&m, h, T, y, &e);
	CHECK_RC(rc, e);
	whit_free(h);
	whit_model_close(&m);
	return y;
}

static double distance(const char *a, const char *b) {
	int64_t v, w;
	float *x = logits(a, &v), *y = logits(b, &w);
	double err = x && y && v == w ? whit_rel_err(y, x, T * v) : NAN;
	whit_free(x);
	whit_free(y);
	return err;
}

static const char *const names[] = {"qwen3_5-f32", "qwen3_5-grouped-bf16", "qwen3_5-tower-bf16"};

static void there_and_back(void) {
	static const char lines[] =
	        "*.in_proj_{qkv,z}.weight q8_0\n*.{q,k,v}_proj.weight q8_0\n@linear keep\n@embedding keep\n";
	char *recipe = test_scratch("qwen35.recipe");
	test_write(recipe, lines, sizeof lines - 1);
	for (int i = 0; i < WHIT_COUNT(names); i++) {
		char *dir = golden(names[i]), *f32 = test_scratch("qwen35-f32.gguf"),
		     *own = test_scratch("qwen35-own.gguf"), *q8 = test_scratch("qwen35-q8.gguf"),
		     *again = test_scratch("qwen35-again.gguf"), *packed = test_scratch("qwen35-packed"),
		     *packed2 = test_scratch("qwen35-packed2");
		/* 1 + w and exp are rounded once, and a delta net of random weights magnifies that (test_model.c) */
		CHECK_INT(run("export %s %s --type F32 --quiet", dir, f32, ""), 0);
		double err = distance(dir, f32);
		CHECK_MSG(err <= 1e-4, "%s as F32: relative error %.3g", names[i], err);
		CHECK_INT(run("export %s %s --type BF16 --quiet", f32, own, ""), 0);
		if (i) err = distance(f32, own); /* matrices were BF16 before */
		CHECK_MSG(err <= 1e-4, "%s as BF16: relative error %.3g", names[i], err);
		/* blocks chosen on the way out of either are the same */
		CHECK_INT(run("export %s %s --recipe %s --quiet", dir, q8, recipe), 0);
		CHECK_INT(run("export %s %s --recipe %s --quiet", f32, again, recipe), 0);
		CHECK(distance(q8, again) == 0);
		err = distance(dir, q8);
		CHECK_MSG(err > 0 && err <= 0.2, "%s as Q8_0: relative error %.3g", names[i], err);
		/* a directory from either holds the same model, in its source's order */
		CHECK_INT(run("quantize %s %s --method nearest --format int8 --quiet", dir, packed, ""), 0);
		CHECK_INT(run("quantize %s %s --method nearest --format int8 --quiet", f32, packed2, ""), 0);
		err = distance(packed, packed2);
		CHECK_MSG(err <= 2e-2, "%s, directories: relative error %.3g", names[i], err);
		whit_free(dir), whit_free(f32), whit_free(own), whit_free(q8), whit_free(again), whit_free(packed);
		whit_free(packed2);
	}
	whit_free(recipe);
}

/* What the language model does not use goes into a directory as it was, and is listed. */
static void passed(void) {
	char *dir = golden("qwen3_5-tower-bf16"), *out = test_scratch("qwen35-tower");
	whit_ckpt a, b;
	CHECK_INT(run("quantize %s %s --method nearest --format int4 --quiet", dir, out, ""), 0);
	if (CHECK_RC(whit_ckpt_open(&a, dir, &e), e) && CHECK_RC(whit_ckpt_open(&b, out, &e), e)) {
		int towers = 0;
		CHECK_INT(a.n, b.n);
		for (int64_t i = 0; i < a.n; i++) {
			const whit_weight *w = whit_ckpt_find(&b, a.w[i].name);
			int other = !strncmp(a.w[i].name, "model.visual.", 13) || !strncmp(a.w[i].name, "mtp.", 4);
			CHECK_MSG(w && w->ndim == a.w[i].ndim, "%s is missing", a.w[i].name);
			if (!other || !w) continue;
			towers++;
			CHECK_MSG(w->bytes == a.w[i].bytes &&
			                  !memcmp(w->mat.plane[0], a.w[i].mat.plane[0], (size_t)w->bytes),
			          "%s: other bytes", w->name);
		}
		CHECK(towers > 20);
		whit_ckpt_close(&b);
		whit_ckpt_close(&a);
	}
	whit_free(dir);
	whit_free(out);
}

static json_t *config(const char *text) {
	json_error_t err;
	json_t *j = json_loads(text, 0, &err);
	CHECK(j != NULL);
	return j;
}

/* Two key heads of three value heads each: k-major order becomes key heads by turns. */
static void changes(void) {
	static const struct {
		const char *name;
		int64_t rows, cols, first, block, columns, one, rate;
	} want[] = {{"in_proj_qkv.weight", 20, 3, 8, 2, 0, 0, 0},
	            {"conv1d.weight", 20, 4, 8, 2, 0, 0, 0},
	            {"in_proj_z.weight", 12, 3, 0, 2, 0, 0, 0},
	            {"in_proj_a.weight", 6, 3, 0, 1, 0, 0, 0},
	            {"in_proj_b.weight", 6, 3, 0, 1, 0, 0, 0},
	            {"A_log", 1, 6, 0, 1, 0, 0, 1},
	            {"dt_bias", 1, 6, 0, 1, 0, 0, 0},
	            {"out_proj.weight", 2, 12, 0, 2, 1, 0, 0}};
	static const int order[6] = {0, 3, 1, 4, 2, 5}; /* what stands at each place */
	const whit_gguf_arch *a = whit_gguf_arch_find("qwen3_5_text", &e);
	json_t *j = config("{\"linear_num_key_heads\": 2, \"linear_num_value_heads\": 6, \"linear_key_head_dim\": 2}"),
	       *flat = config(
	               "{\"linear_num_key_heads\": 2, \"linear_num_value_heads\": 2, \"linear_key_head_dim\": 2}"),
	       *gguf = config(
	               "{\"whit_gguf_layout\": true, \"linear_num_key_heads\": 2, \"linear_num_value_heads\": 6}");
	whit_gguf_change c;
	CHECK(a && !strcmp(a->name, "qwen35") && whit_gguf_arch_find("qwen3_5", &e) == a);
	CHECK(whit_gguf_arch_find("qwen3_text", &e) == NULL);
	for (int i = 0; i < WHIT_COUNT(want); i++) {
		char *name = whit_format_text("model.language_model.layers.0.linear_attn.%s", want[i].name);
		float w[80];
		int64_t rows = want[i].rows, cols = want[i].cols;
		CHECK(whit_gguf_change_of(a, j, name, &c));
		CHECK(!whit_gguf_change_of(a, gguf, name, &c));
		CHECK_INT(whit_gguf_change_of(a, flat, name, &c), want[i].rate);
		whit_gguf_change_of(a, j, name, &c);
		for (int k = 0; k < rows * cols; k++) w[k] = (float)k / 16;
		whit_gguf_apply(&c, w, rows, cols);
		for (int64_t k = 0; k < rows * cols; k++) {
			int64_t r = k / cols, q = k % cols, at = (want[i].columns || rows == 1 ? q : r) - want[i].first;
			int64_t from = at < 0 ? at : order[at / want[i].block] * want[i].block + at % want[i].block;
			int64_t src = want[i].columns ? r * cols + from + want[i].first
			              : rows == 1     ? from + want[i].first
			                              : (from + want[i].first) * cols + q;
			float is = (float)src / 16;
			CHECK_NEAR(w[k], want[i].rate ? -expf(is) : is, want[i].rate ? 1e-6 : 0);
		}
		whit_free(name);
	}
	CHECK(whit_gguf_change_of(a, flat, "model.layers.3.self_attn.q_norm.weight", &c) && c.one);
	CHECK(whit_gguf_change_of(a, flat, "model.norm.weight", &c) && c.one);
	CHECK(!whit_gguf_change_of(a, flat, "model.layers.0.linear_attn.norm.weight", &c));
	CHECK(!whit_gguf_change_of(a, j, "model.layers.0.mlp.up_proj.weight", &c));
	json_decref(j), json_decref(flat), json_decref(gguf);
}

static void tensor_names(void) {
	static const char *const both[][2] = {
	        {"blk.0.attn_qkv.weight", "model.layers.0.linear_attn.in_proj_qkv.weight"},
	        {"blk.0.ssm_a", "model.layers.0.linear_attn.A_log"},
	        {"blk.0.ssm_dt.bias", "model.layers.0.linear_attn.dt_bias"},
	        {"blk.3.attn_q_norm.weight", "model.layers.3.self_attn.q_norm.weight"},
	        {"blk.3.post_attention_norm.weight", "model.layers.3.post_attention_layernorm.weight"},
	        {"blk.4.nextn.eh_proj.weight", "mtp.fc.weight"},
	        {"blk.4.attn_q.weight", "mtp.layers.0.self_attn.q_proj.weight"},
	};
	const whit_gguf_arch *a = whit_gguf_arch_find("qwen35", &e), *qwen3 = whit_gguf_arch_find("qwen3", &e);
	char out[128], gguf[64];
	for (int i = 0; i < WHIT_COUNT(both); i++) {
		CHECK_INT(whit_gguf_name_to_hf(a, both[i][0], 4, out), 0);
		CHECK_TEXT(out, both[i][1]);
		if (!strncmp(both[i][1], "mtp", 3)) continue;
		char *whole = whit_format_text("model.language_%s", both[i][1]);
		CHECK_INT(whit_gguf_name_from_hf(a, both[i][1], gguf), 0);
		CHECK_TEXT(gguf, both[i][0]);
		CHECK_INT(whit_gguf_name_from_hf(a, whole, gguf), 0);
		CHECK_TEXT(gguf, both[i][0]);
		whit_free(whole);
	}
	CHECK_INT(whit_gguf_name_to_hf(qwen3, "blk.0.ssm_a", 4, out), -1);
	CHECK_INT(whit_gguf_name_to_hf(a, "blk.0.ffn_norm.weight", 4, out), -1);
}

TEST_MAIN(there_and_back, passed, changes, tensor_names)
