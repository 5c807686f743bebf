/* qwen3_5 into a GGUF and back: order of value heads, norms, rates, the convolution; what is passed through; what is
 * refused. That the model itself is right is test_model.c's matter. */
#include <stdlib.h>
#include <sys/stat.h>
#include "calib/quantize.h"
#include "formats/json.h"
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

/* ---- configs ---- */

/* A checkpoint like `name` whose config.json has the members of `text` too (null: has them no more); whit_free it. */
static char *with_config(const char *name, const char *text) {
	char *from = golden(name), *dir = test_scratch("qwen35-config"), *cmd;
	json_t *j = NULL, *more = config(text);
	mkdir(dir, 0777);
	cmd = whit_format_text("cp %s/model.safetensors %s", from, dir);
	CHECK_INT(system(cmd), 0);
	whit_free(cmd);
	char *path = whit_format_text("%s/config.json", from);
	CHECK_RC(whit_json_load(&j, path, &e), e);
	whit_free(path);
	json_object_update(j, more);
	path = whit_format_text("%s/config.json", dir);
	CHECK_RC(whit_json_write(j, path, &e), e);
	whit_free(path);
	whit_free(from);
	json_decref(j), json_decref(more);
	return dir;
}

static int opens(const char *path) {
	whit_model m;
	int rc = whit_model_open(&m, path, 0, &e);
	if (!rc) whit_model_close(&m);
	return rc;
}

static void configs(void) {
	static const struct {
		const char *text, *word;
	} row[] = {
	        {"{\"linear_value_head_dim\": 4}", "need linear_key_head_dim, 8"},
	        {"{\"linear_num_value_heads\": 3}", "need a multiple of linear_num_key_heads, 2"},
	        {"{\"linear_num_key_heads\": null}", "linear_num_key_heads"},
	        {"{\"linear_key_head_dim\": 0}", "linear_key_head_dim"},
	        {"{\"linear_conv_kernel_dim\": 3}", "linear_attn.conv1d.weight"},
	        {"{\"attn_output_gate\": false}", "need true"},
	        {"{\"output_gate_type\": \"sigmoid\"}", "need silu or swish"},
	        {"{\"layer_types\": [\"full_attention\"]}", "need a list of num_hidden_layers, 4"},
	        {"{\"layer_types\": [1, 2, 3, 4]}", "need linear_attention or full_attention"},
	        {"{\"layer_types\": null, \"full_attention_interval\": 2}",
	         "layers.1.self_attn.q_proj.weight is missing"},
	        {"{\"layer_types\": null, \"full_attention_interval\": 0}", "full_attention_interval"},
	        {"{\"rope_parameters\": {\"rope_theta\": 1e4, \"partial_rotary_factor\": 0.1}}", "need 2 or more"},
	        {"{\"rope_parameters\": {\"rope_theta\": 1e4, \"new_key\": 1}}", "new_key is unknown"},
	        {"{\"num_experts\": 8}", "num_experts is unknown"},
	};
	for (int i = 0; i < WHIT_COUNT(row); i++) {
		char *dir = with_config("qwen3_5-f32", row[i].text);
		CHECK_FAILS(opens(dir), WHIT_EINPUT, e, row[i].word);
		whit_free(dir);
	}
	/* what changes nothing, or says what is so already */
	char *plain = golden("qwen3_5-f32"), *dir = with_config("qwen3_5-f32", "{\"output_gate_type\": \"swish\"}");
	CHECK(distance(plain, dir) == 0);
	whit_free(dir);
	dir = with_config("qwen3_5-f32", "{\"layer_types\": null}");
	CHECK(distance(plain, dir) == 0);
	whit_free(dir);
	/* the whole model's word on its head holds, and the text model's where there is none */
	char *tower = golden("qwen3_5-tower-bf16");
	json_t *j = NULL, *inner;
	char *path = whit_format_text("%s/config.json", tower);
	CHECK_RC(whit_json_load(&j, path, &e), e);
	inner = json_object_get(j, "text_config");
	for (int i = 0; i < 2; i++) {
		json_object_set_new(i ? j : inner, "tie_word_embeddings", i ? json_null() : json_false());
		if (i) json_object_set_new(inner, "tie_word_embeddings", json_true());
		char *text = json_dumps(j, 0);
		dir = with_config("qwen3_5-tower-bf16", text);
		CHECK(distance(tower, dir) == 0);
		free(text);
		whit_free(dir);
	}
	json_decref(j);
	whit_free(path), whit_free(tower);
	/* a longer context, as the models' authors describe it: frequencies of what is rotated, on the way out too */
	char *gguf = test_scratch("qwen35-yarn.gguf");
	dir = with_config("qwen3_5-f32",
	                  "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 10000.0, \"factor\": 4.0, "
	                  "\"partial_rotary_factor\": 0.5, \"original_max_position_embeddings\": 32, "
	                  "\"mrope_section\": [2, 1, 1], \"mrope_interleaved\": true}}");
	CHECK(distance(plain, dir) > 1e-3);
	CHECK_INT(run("export %s %s --type F32 --quiet", dir, gguf, ""), 0);
	CHECK(distance(dir, gguf) <= 1e-4); /* as in there_and_back */
	whit_free(dir), whit_free(gguf);
	/* sections that do not cover what is rotated */
	static const char *const sections[] = {"[2, 1]", "[2, 1, 2]", "[5, -1, 0]", "[2, 1, 1, 0]", "\"all\""};
	for (int i = 0; i < WHIT_COUNT(sections); i++) {
		char *text = whit_format_text("{\"rope_parameters\": {\"partial_rotary_factor\": 0.5, "
		                              "\"mrope_section\": %s}}",
		                              sections[i]);
		dir = with_config("qwen3_5-f32", text);
		gguf = test_scratch("qwen35-sections.gguf");
		CHECK(run("export %s %s --type F32 --quiet", dir, gguf, "") != 0);
		whit_free(text), whit_free(dir), whit_free(gguf);
	}
	whit_free(plain);
}

/* ---- other people's files ---- */

static void put_ones(whit_gguf_out *o, const int64_t ne[2]) {
	int64_t n = ne[0] * ne[1];
	float *x = whit_alloc((size_t)n * sizeof *x);
	for (int64_t i = 0; i < n; i++) x[i] = 1;
	CHECK_RC(whit_gguf_out_write(o, x, (size_t)n * sizeof *x, &e), e);
	whit_free(x);
}

/* Copies a GGUF of qwen35. key: left out, or *value instead. next: with a next-token head: block 4, which is block 3
 * again and four tensors more. */
static char *rewrite(const char *from, const char *key, const int64_t *value, int next) {
	static const char *const own[] = {"eh_proj", "enorm", "hnorm", "shared_head_norm"};
	static const int64_t ne[][2] = {{64, 32}, {32, 1}, {32, 1}, {32, 1}};
	char *to = test_scratch("qwen35-rewritten.gguf"), *full = whit_format_text("qwen35.%s", key);
	whit_gguf g;
	whit_gguf_out *o;
	if (!CHECK_RC(whit_gguf_open(&g, from, &e), e) || !CHECK_RC(whit_gguf_out_open(&o, to, &e), e)) abort();
	for (int64_t i = 0; i < g.n_kv; i++) {
		int other = !strcmp(g.kv[i].key, full) || (next && !strcmp(g.kv[i].key, "qwen35.block_count"));
		if (!other) CHECK_RC(whit_gguf_put_copy(o, &g.kv[i], &e), e);
	}
	if (value) CHECK_RC(whit_gguf_put_u32(o, full, (uint32_t)*value, &e), e);
	if (next) CHECK_RC(whit_gguf_put_u32(o, "qwen35.block_count", 5, &e), e);
	if (next) CHECK_RC(whit_gguf_put_u32(o, "qwen35.nextn_predict_layers", 1, &e), e);
	for (int pass = 0; pass < 2; pass++) { /* names, then bytes */
		for (int64_t i = 0; i < g.n; i++) {
			const whit_gguf_tensor *t = &g.t[i];
			if (pass)
				CHECK_RC(whit_gguf_out_write(o, t->data, t->bytes, &e), e);
			else
				CHECK_RC(whit_gguf_out_tensor(o, t->name, t->type, t->ndim, t->ne, &e), e);
		}
		for (int64_t i = 0; next && i < g.n; i++) {
			const whit_gguf_tensor *t = &g.t[i];
			if (strncmp(t->name, "blk.3.", 6)) continue;
			char *name = whit_format_text("blk.4.%s", t->name + 6);
			if (pass)
				CHECK_RC(whit_gguf_out_write(o, t->data, t->bytes, &e), e);
			else
				CHECK_RC(whit_gguf_out_tensor(o, name, t->type, t->ndim, t->ne, &e), e);
			whit_free(name);
		}
		for (int i = 0; next && i < WHIT_COUNT(own); i++) {
			char *name = whit_format_text("blk.4.nextn.%s.weight", own[i]);
			if (pass)
				put_ones(o, ne[i]);
			else
				CHECK_RC(whit_gguf_out_tensor(o, name, whit_ggml_type_of(0), i ? 1 : 2, ne[i], &e), e);
			whit_free(name);
		}
	}
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	whit_gguf_close(&g);
	whit_free(full);
	return to;
}

static void hostile(void) {
	enum { DROP = -1 };
	static const struct {
		const char *key;
		int64_t value;
		const char *word;
	} row[] = {
	        {"ssm.conv_kernel", DROP, "ssm.conv_kernel"},
	        {"ssm.inner_size", DROP, "ssm.inner_size"},
	        {"ssm.state_size", DROP, "ssm.state_size"},
	        {"ssm.time_step_rank", DROP, "ssm.time_step_rank"},
	        {"ssm.group_count", DROP, "ssm.group_count"},
	        {"ssm.conv_kernel", 0, "ssm.conv_kernel"},
	        {"ssm.conv_kernel", 3, "conv1d.weight"},
	        {"ssm.conv_kernel", UINT32_MAX, "ssm.conv_kernel"},
	        {"ssm.inner_size", 17, "need time_step_rank * state_size, 48"},
	        {"ssm.state_size", 0, "ssm.state_size"},
	        {"ssm.state_size", 1 << 24, "need time_step_rank * state_size"},
	        {"ssm.group_count", 0, "ssm.group_count"},
	        {"ssm.group_count", 4, "multiple of linear_num_key_heads, 4"},
	        {"ssm.group_count", 3, "in_proj_qkv.weight"},
	        {"full_attention_interval", 0, "full_attention_interval"},
	        {"full_attention_interval", 2, "layers.1.self_attn"},
	        {"attention.recurrent_layers", 1, "need a list of a truth for each of 4 layers"},
	        {"rope.dimension_count", 7, "need an even number up to a head's 16"},
	        {"rope.dimension_count", 18, "need an even number up to a head's 16"},
	        {"nextn_predict_layers", 1, "blk.3.nextn.eh_proj.weight is missing"},
	        {"nextn_predict_layers", 4, "nextn_predict_layers"},
	        {"expert_count", 8, "expert_count"},
	};
	char *dir = golden("qwen3_5-grouped-bf16"), *f32 = test_scratch("qwen35-hostile.gguf");
	CHECK_INT(run("export %s %s --type F32 --quiet", dir, f32, ""), 0);
	for (int i = 0; i < WHIT_COUNT(row); i++) {
		char *path = rewrite(f32, row[i].key, row[i].value == DROP ? NULL : &row[i].value, 0);
		CHECK_FAILS(opens(path), WHIT_EINPUT, e, row[i].word);
		whit_free(path);
	}
	whit_free(dir), whit_free(f32);
}

/* A next-token head behind the last layer is not the model's, and stays behind with what was said of it. */
static void next_token_head(void) {
	char *dir = golden("qwen3_5-grouped-bf16"), *f32 = test_scratch("qwen35-head.gguf"),
	     *out = test_scratch("qwen35-headless.gguf"), *packed = test_scratch("qwen35-head-packed");
	whit_ckpt c;
	CHECK_INT(run("export %s %s --type F32 --quiet", dir, f32, ""), 0);
	char *with = rewrite(f32, "none", NULL, 1);
	CHECK(distance(f32, with) == 0);
	CHECK_INT(run("export %s %s --type F32 --quiet", with, out, ""), 0);
	CHECK(distance(f32, out) == 0);
	/* a directory keeps it */
	CHECK_INT(run("quantize %s %s --method nearest --format int8 --quiet", with, packed, ""), 0);
	if (CHECK_RC(whit_ckpt_open(&c, packed, &e), e)) {
		CHECK(whit_ckpt_find(&c, "mtp.fc.weight") != NULL);
		CHECK(whit_ckpt_find(&c, "mtp.layers.0.self_attn.q_proj.weight") != NULL);
		whit_ckpt_close(&c);
	}
	whit_free(dir), whit_free(f32), whit_free(out), whit_free(packed), whit_free(with);
}

/* An importance matrix knows columns as a GGUF has them: a directory's recipe gets them in the source's order. */
static void importance(void) {
	whit_model m;
	whit_recipe r;
	whit_plan p;
	enum { COLS = 48, BLOCK = 8, KEYS = 2, EACH = 3 };
	float sum2[COLS];
	whit_importance one = {
	        .name = whit_strdup("blk.0.ssm_out.weight"), .sum2 = sum2, .cols = COLS, .count = 1, .mean = sum2};
	const whit_imatrix im = {.path = (char *)(uintptr_t) "none", .w = &one, .n = 1};
	static const char lines[] = "@linear int8\n* keep\n";
	const whit_rule base = {.method = whit_method_find("nearest", &e)};
	char *dir = golden("qwen3_5-grouped-bf16");
	for (int i = 0; i < COLS; i++) sum2[i] = (float)i;
	CHECK_RC(whit_recipe_parse(&r, lines, sizeof lines - 1, "lines", &base, &e), e);
	if (CHECK_RC(whit_model_open(&m, dir, 0, &e), e) &&
	    CHECK_RC(whit_plan_make(&p, &m, &r, &(whit_target){.imatrix = &im}, &e), e)) {
		int seen = 0;
		CHECK_INT(p.weighted, 1);
		for (int64_t i = 0; i < p.n; i++) {
			if (!p.row[i].importance) continue;
			seen++;
			CHECK_TEXT(p.row[i].w->name, "model.layers.0.linear_attn.out_proj.weight");
			for (int h = 0; h < KEYS * EACH; h++) /* head h is value h % EACH of key h / EACH */
				for (int k = 0; k < BLOCK; k++)
					CHECK_NEAR(p.row[i].importance[h * BLOCK + k],
					           (h % EACH * KEYS + h / EACH) * BLOCK + k, 0);
		}
		CHECK_INT(seen, 1);
		whit_plan_free(&p);
		whit_model_close(&m);
	}
	whit_recipe_free(&r);
	whit_free(one.name);
	whit_free(dir);
}

TEST_MAIN(there_and_back, passed, changes, tensor_names, configs, hostile, next_token_head, importance)
