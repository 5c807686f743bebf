/* The engine and the architectures against transformers' logits, against themselves, and against bad input. */
#include "formats/json.h"
#include "formats/safetensors.h"
#include "host/engine.h"
#include "tests/test.h"
#include <unistd.h>

/* float32 sums in another order over these sizes agree to about 1e-6. A delta net of random weights magnifies that: its
 * heads of 8 are divided by their lengths, which may be small, and states are carried on; transformers, in float32, is
 * as far from the plain twins, whose ops compute in double. */
static double tol_of(const char *name) { return strncmp(name, "qwen3_5", 7) ? 2e-5 : 1e-4; }

typedef struct golden {
	whit_st st;
	const int32_t *tokens, *rows;
	const float *logits;
	int64_t T, n, vocab;
} golden;

static int golden_open(golden *g, const char *name, whit_err *e) {
	char *path = whit_format_text("%s/tests/golden/models/%s.golden.safetensors", WHIT_SOURCE, name);
	memset(g, 0, sizeof *g);
	int rc = whit_st_open(&g->st, path, e);
	whit_free(path);
	for (int64_t i = 0; !rc && i < g->st.n; i++) {
		const whit_tensor *t = &g->st.t[i];
		const void *data = t->data; /* the writer aligns tensors to 8 bytes, 4 are needed */
		if (!strcmp(t->name, "tokens")) g->tokens = data, g->T = t->shape[0];
		if (!strcmp(t->name, "rows")) g->rows = data;
		if (!strcmp(t->name, "logits")) g->logits = data, g->n = t->shape[0], g->vocab = t->shape[1];
	}
	return rc;
}

static char *golden_dir(const char *name) { return whit_format_text("%s/tests/golden/models/%s", WHIT_SOURCE, name); }

/* One sequence of T tokens from position past: the batch and what it points to. */
typedef struct one {
	whit_batch b;
	int64_t start[2], past[1];
	int64_t *pos;
} one;
static whit_batch *one_set(one *o, const int32_t *tokens, int64_t T, int64_t past) {
	o->pos = whit_alloc((size_t)(T + 1) * sizeof *o->pos);
	for (int64_t i = 0; i < T; i++) o->pos[i] = past + i;
	o->start[0] = 0;
	o->start[1] = T;
	o->past[0] = past;
	o->b = (whit_batch){.T = T, .n_seq = 1, .start = o->start, .past = o->past, .pos = o->pos, .tokens = tokens};
	return &o->b;
}

/* Logits of every row of a batch; whit_free them. NULL and a failed check on error. */
static float *all_logits(whit_model *m, const whit_batch *b, whit_state *s, whit_err *e) {
	float *h = whit_alloc((size_t)(b->T * m->hidden) * sizeof *h),
	      *y = whit_alloc((size_t)(b->T * m->vocab) * sizeof *y);
	int rc = whit_model_embed(m, b, h, e);
	for (int64_t l = 0; l < m->layers && !rc; l++) rc = whit_model_layer(m, l, b, s, h, e);
	if (!rc) rc = whit_model_head(m, h, b->T, y, e);
	whit_free(h);
	if (CHECK_RC(rc, *e)) return y;
	whit_free(y);
	return NULL;
}

static float *sequence_logits(whit_model *m, const int32_t *tokens, int64_t T, whit_err *e) {
	one o;
	float *y = all_logits(m, one_set(&o, tokens, T, 0), NULL, e);
	whit_free(o.pos);
	return y;
}

static void against_golden(whit_model *m, const golden *g, const char *name, whit_err *e) {
	for (m->plain = 0; m->plain < 2; m->plain++) {
		float *y = sequence_logits(m, g->tokens, g->T, e);
		double worst = y ? 0 : INFINITY;
		for (int64_t i = 0; y && i < g->n; i++)
			worst = fmax(worst,
			             whit_rel_err(y + g->rows[i] * g->vocab, g->logits + i * g->vocab, g->vocab));
		CHECK_MSG(worst <= tol_of(name), "%s %s: relative error of a row %.3g", name,
		          m->plain ? "plain" : "fast", worst);
		whit_free(y);
	}
	m->plain = 0;
}

/* The cache holds what a full pass computes: first a few tokens at once, then one by one, then some at once. */
static void by_steps(whit_model *m, const golden *g, const char *name, whit_err *e) {
	static const int64_t sizes[] = {3, 1, 1, 20, 1, 9, 1};
	float *full = sequence_logits(m, g->tokens, g->T, e);
	for (int plain = 0; full && plain < 2; plain++) {
		whit_state *s = whit_state_new(m, 1, g->T);
		double worst = 0;
		m->plain = plain;
		for (int64_t at = 0, i = 0; at < g->T; i++) {
			int64_t n = WHIT_MIN(sizes[i % WHIT_COUNT(sizes)], g->T - at);
			one o;
			float *y = all_logits(m, one_set(&o, g->tokens + at, n, at), s, e);
			worst = fmax(worst, y ? whit_rel_err(y, full + at * m->vocab, n * m->vocab) : INFINITY);
			whit_free(y);
			whit_free(o.pos);
			at += n;
		}
		CHECK_MSG(worst <= tol_of(name), "%s %s: steps against one pass: relative error %.3g", name,
		          plain ? "plain" : "fast", worst);
		whit_state_free(s);
	}
	m->plain = 0;
	whit_free(full);
}

/* Three sequences of unlike lengths and pasts in one batch equal each alone, bit for bit in the plain path
 * (nothing there depends on the batch) and within the sums' tolerance in the fast one. */
static void batched(whit_model *m, const golden *g, const char *name, whit_err *e) {
	static const int64_t head[] = {0, 5, 2}, len[] = {17, 1, 30};
	for (int plain = 0; plain < 2; plain++) {
		m->plain = plain;
		whit_state *together = whit_state_new(m, 3, 40);
		int64_t start[4] = {0}, pos[64], T = 0;
		int32_t tokens[64];
		float *alone[3] = {0};
		for (int i = 0; i < 3; i++) {
			whit_state *s = whit_state_new(m, 1, 40);
			one o;
			for (int64_t k = 0; k < head[i]; k++) { /* the past: fed to both, one token at a time */
				int64_t st[4], ps[3] = {0};
				for (int q = 0; q < 4; q++) st[q] = q > i;
				ps[i] = k;
				whit_batch b = {.T = 1,
				                .n_seq = 3,
				                .start = st,
				                .past = ps,
				                .pos = &k,
				                .tokens = g->tokens + i + k};
				whit_free(all_logits(m, &b, together, e));
				whit_free(all_logits(m, one_set(&o, g->tokens + i + k, 1, k), s, e));
				whit_free(o.pos);
			}
			alone[i] = all_logits(m, one_set(&o, g->tokens + i + head[i], len[i], head[i]), s, e);
			for (int64_t k = 0; k < len[i]; k++, T++) {
				tokens[T] = o.b.tokens[k];
				pos[T] = o.pos[k];
			}
			start[i + 1] = T;
			whit_free(o.pos);
			whit_state_free(s);
		}
		whit_batch b = {.T = T, .n_seq = 3, .start = start, .past = head, .pos = pos, .tokens = tokens};
		float *y = all_logits(m, &b, together, e);
		for (int i = 0; i < 3 && y; i++) {
			const float *part = y + start[i] * m->vocab;
			int64_t n = len[i] * m->vocab;
			double err = alone[i] ? whit_rel_err(part, alone[i], n) : INFINITY;
			CHECK_MSG(plain ? alone[i] && !memcmp(part, alone[i], (size_t)n * sizeof *y)
			                : err <= tol_of(name),
			          "%s %s: sequence %d of a batch against alone: relative error %.3g", name,
			          plain ? "plain" : "fast", i, err);
			whit_free(alone[i]);
		}
		whit_free(y);
		whit_state_free(together);
	}
	m->plain = 0;
}

/* The same bytes at any thread count. */
static void any_threads(whit_model *m, const golden *g, const char *name, whit_err *e) {
	float *want = NULL;
	for (int n = 1; n <= 3; n++) {
		whit_threads_set(n);
		float *y = sequence_logits(m, g->tokens, g->T, e);
		if (n == 1)
			want = y;
		else {
			CHECK_MSG(y && want && !memcmp(y, want, (size_t)(g->T * m->vocab) * sizeof *y),
			          "%s: %d threads give other bytes than 1", name, n);
			whit_free(y);
		}
	}
	whit_free(want);
	whit_threads_set(0);
}

static const char *const names[] = {"llama-f32",
                                    "llama-bias-llama3-bf16",
                                    "llama-tied-linear-f16",
                                    "llama-yarn-f16",
                                    "qwen2-bf16-sharded",
                                    "qwen2-window-f16",
                                    "qwen3-bf16",
                                    "qwen3-bias-f32",
                                    "qwen3_5-f32",
                                    "qwen3_5-grouped-bf16",
                                    "qwen3_5-tower-bf16"};

static void random_models(void) {
	for (int i = 0; i < WHIT_COUNT(names); i++) {
		whit_err e = {0};
		whit_model m;
		golden g;
		char *dir = golden_dir(names[i]);
		if (CHECK_RC(golden_open(&g, names[i], &e), e) && CHECK_RC(whit_model_open(&m, dir, 0, &e), e)) {
			CHECK_INT(m.vocab, g.vocab);
			CHECK_INT(m.layers, strncmp(names[i], "qwen3_5", 7) ? 2 : 4);
			CHECK_INT(m.bos, 1);
			CHECK_INT(m.n_eos, 1);
			CHECK_INT(m.eos[0], 2);
			against_golden(&m, &g, names[i], &e);
			by_steps(&m, &g, names[i], &e);
			batched(&m, &g, names[i], &e);
			any_threads(&m, &g, names[i], &e);
			whit_model_close(&m);
		}
		whit_st_close(&g.st);
		whit_free(dir);
	}
}

static void trained_models(void) {
	static const char *const trained[] = {"stories260K", "wiki5M", "wiki12M-qwen3"};
	for (int i = 0; i < WHIT_COUNT(trained); i++) {
		char *dir = test_model(trained[i]), *name = whit_format_text("trained-%s", trained[i]);
		whit_err e = {0};
		whit_model m;
		golden g;
		if (dir && CHECK_RC(golden_open(&g, name, &e), e)) {
			if (CHECK_RC(whit_model_open(&m, dir, 0, &e), e)) {
				against_golden(&m, &g, name, &e);
				by_steps(&m, &g, name, &e);
				whit_model_close(&m);
			}
			whit_st_close(&g.st);
		}
		whit_free(name);
		whit_free(dir);
	}
}

static void roles(void) {
	whit_err e = {0};
	whit_model m;
	char *dir = golden_dir("qwen3-bias-f32");
	const char *role;
	int64_t layer;
	if (CHECK_RC(whit_model_open(&m, dir, 0, &e), e)) {
		CHECK_INT(whit_model_role(&m, "model.layers.1.mlp.down_proj.weight", &role, &layer), 1);
		CHECK_TEXT(role, "down_proj");
		CHECK_INT(layer, 1);
		CHECK_INT(whit_model_role(&m, "model.layers.0.self_attn.q_proj.bias", &role, &layer), 0);
		CHECK_INT(whit_model_role(&m, "model.layers.0.self_attn.q_norm.weight", &role, &layer), 0);
		CHECK_TEXT(role, "q_norm");
		CHECK_INT(whit_model_role(&m, "model.embed_tokens.weight", &role, &layer), 2);
		CHECK_INT(layer, -1);
		CHECK_INT(whit_model_role(&m, "lm_head.weight", &role, &layer), 2);
		CHECK_INT(whit_model_role(&m, "model.norm.weight", &role, &layer), 0);
		CHECK_INT(whit_model_role(&m, "nothing", &role, &layer), 0);
		CHECK(role == NULL);
		whit_model_close(&m);
	}
	whit_free(dir);
}

/* ---- bad input: copies of a golden checkpoint with one thing changed ---- */

static char *copy_model(const char *name, const char *from) {
	char *dir = test_scratch(name), *src = golden_dir(from);
	whit_err e = {0};
	mkdir(dir, 0777);
	static const char *const files[] = {"config.json", "model.safetensors"};
	for (int i = 0; i < WHIT_COUNT(files); i++) {
		char *a = whit_format_text("%s/%s", src, files[i]), *b = whit_format_text("%s/%s", dir, files[i]);
		CHECK_RC(whit_copy_file(a, b, &e), e);
		whit_free(a);
		whit_free(b);
	}
	whit_free(src);
	return dir;
}

/* Sets key of the copy's config to a JSON text (NULL removes it) and opens the model. */
static int open_with(const char *from, const char *key, const char *value, whit_err *e) {
	char *dir = copy_model("model-bad", from), *path = whit_format_text("%s/config.json", dir);
	json_t *j = NULL;
	whit_model m;
	int rc = whit_json_load(&j, path, e);
	if (value)
		json_object_set_new(j, key, json_loads(value, JSON_DECODE_ANY, NULL));
	else
		json_object_del(j, key);
	if (!rc) rc = whit_json_write(j, path, e);
	json_decref(j);
	if (!rc) rc = whit_model_open(&m, dir, 0, e);
	if (!rc) whit_model_close(&m);
	whit_free(path);
	whit_free(dir);
	return rc;
}

static void bad_config(void) {
	static const struct {
		const char *from, *key, *value, *word;
	} bad[] = {
	        {"llama-f32", "model_type", "\"gpt_neox\"", "need one of: llama, qwen2, qwen3"},
	        {"llama-f32", "model_type", NULL, "model_type"},
	        {"llama-f32", "model_type", "7", "model_type"},
	        {"llama-f32", "hidden_size", NULL, "hidden_size"},
	        {"llama-f32", "hidden_size", "\"32\"", "hidden_size"},
	        {"llama-f32", "hidden_size", "32.5", "hidden_size"},
	        {"llama-f32", "hidden_size", "0", "hidden_size"},
	        {"llama-f32", "hidden_size", "1e300", "hidden_size"},
	        {"llama-f32", "hidden_size", "64", "[96, 32], need [96, 64]"},
	        {"llama-f32", "intermediate_size", "57", "need [57, 32]"},
	        {"llama-f32", "num_hidden_layers", "3", "model.layers.2.input_layernorm.weight is missing"},
	        {"llama-f32", "num_hidden_layers", "1", "is not used"},
	        {"llama-f32", "num_attention_heads", "3",
	         "num_attention_heads: is 3, need a multiple of num_key_value_heads, 2"},
	        {"llama-f32", "num_key_value_heads", "4", "need [32, 32]"},
	        {"llama-f32", "head_dim", "7", "need an even number"},
	        {"llama-f32", "vocab_size", "97", "need [97, 32]"},
	        {"llama-f32", "tie_word_embeddings", "true", "lm_head.weight differs"},
	        {"llama-f32", "tie_word_embeddings", "1", "tie_word_embeddings"},
	        {"llama-tied-linear-f16", "tie_word_embeddings", "false", "lm_head.weight is missing"},
	        {"llama-f32", "attention_bias", "true", "q_proj.bias is missing"},
	        {"llama-bias-llama3-bf16", "mlp_bias", "false", "mlp.down_proj.bias is not used"},
	        {"llama-f32", "hidden_act", "\"gelu\"", "need \"silu\""},
	        {"llama-f32", "rms_norm_eps", NULL, "rms_norm_eps"},
	        {"llama-f32", "eos_token_id", "96", "eos_token_id"},
	        {"llama-f32", "eos_token_id", "[2, \"x\"]", "eos_token_id"},
	        {"llama-f32", "no_such_key", "1", "no_such_key is unknown to architecture llama"},
	        {"llama-f32", "use_sliding_window", "true", "use_sliding_window is unknown"},
	        {"llama-f32", "partial_rotary_factor", "0.5", "partial_rotary_factor: is 0.5, need 1"},
	        {"llama-f32", "rope_scaling", "{\"rope_type\": \"dynamic\", \"factor\": 2.0}",
	         "rope_parameters say different"},
	        {"llama-f32", "rope_parameters", "{\"rope_type\": \"dynamic\", \"factor\": 2.0}",
	         "need one of: default, linear, llama3, yarn"},
	        {"llama-f32", "rope_parameters", "{\"rope_type\": \"longrope\"}", "need one of: default"},
	        {"llama-f32", "rope_parameters", "{\"rope_type\": \"linear\"}", "factor"},
	        {"llama-f32", "rope_parameters", "{\"rope_type\": \"linear\", \"factor\": 0}", "factor"},
	        {"llama-f32", "rope_parameters", "{\"rope_type\": \"default\", \"mrope_section\": [1]}",
	         "mrope_section is unknown"},
	        {"llama-f32", "rope_parameters",
	         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}",
	         "high_freq_factor: is 4, need more than"},
	        {"llama-f32", "auto_map", "{\"AutoModel\": \"evil.py\"}", "auto_map"},
	        {"llama-f32", "quantization_config", "{\"quant_method\": \"gptq\"}", "quantiz"},
	        {"qwen3-bf16", "head_dim", NULL, "head_dim"},
	        {"qwen3-bf16", "mlp_bias", "true", "mlp_bias is unknown to architecture qwen3"},
	        {"qwen2-window-f16", "sliding_window", NULL, "sliding_window"},
	        {"qwen2-window-f16", "sliding_window", "0", "sliding_window"},
	        {"qwen2-window-f16", "layer_types", "[\"full_attention\"]", "num_hidden_layers, 2"},
	        {"qwen2-window-f16", "layer_types", "[\"full_attention\", \"chunked_attention\"]",
	         "layer 1 is \"chunked_attention\""},
	};
	for (int i = 0; i < WHIT_COUNT(bad); i++) {
		whit_err e = {0};
		CHECK_FAILS(open_with(bad[i].from, bad[i].key, bad[i].value, &e), WHIT_EINPUT, e, bad[i].word);
	}
	whit_err e = {0};
	CHECK_RC(open_with("llama-f32", "pad_token_id", "null", &e), e);
	CHECK_RC(open_with("llama-f32", "attention_dropout", "0.1", &e), e);
	CHECK_RC(open_with("llama-f32", "rope_scaling", "null", &e), e);
	CHECK_RC(open_with("llama-f32", "eos_token_id", "[2, 3, 2]", &e), e);
}

/* Rewrites the weights of a golden model, with one tensor renamed, reshaped, dropped, added or poisoned. */
enum { RENAME, TRANSPOSE, DROP, ADD, POISON, ADD_INV_FREQ, TYPE };
static int open_edited(const char *from, const char *name, int edit, whit_err *e) {
	char *dir = copy_model("model-edited", from), *src = golden_dir(from);
	char *in = whit_format_text("%s/model.safetensors", src), *out = whit_format_text("%s/model.safetensors", dir);
	whit_st st;
	whit_st_out *o = NULL;
	whit_model m;
	size_t header = 1024;
	int rc = whit_st_open(&st, in, e);
	for (int64_t i = 0; !rc && i < st.n; i++) header += whit_st_header_bound(st.t[i].name) + 64;
	if (!rc) rc = whit_st_out_open(&o, out, header, e);
	for (int64_t i = 0; !rc && i < st.n; i++) {
		whit_tensor t = st.t[i];
		int hit = !strcmp(t.name, name);
		uint8_t *data = whit_alloc(t.bytes);
		memcpy(data, t.data, t.bytes);
		if (hit && edit == RENAME) t.name = "model.stranger.weight";
		if (hit && edit == TYPE) t.dtype = t.dtype == WHIT_F32 ? WHIT_I32 : WHIT_I16;
		if (hit && edit == TRANSPOSE) {
			int64_t d = t.shape[0];
			t.shape[0] = t.shape[t.ndim - 1];
			t.shape[t.ndim - 1] = d;
		}
		if (hit && edit == POISON) memset(data + t.bytes / 2 / 4 * 4, 0xff, 4);
		if (!hit || edit != DROP) rc = whit_st_out_begin(o, t.name, t.dtype, t.ndim, t.shape, e);
		if (!rc && (!hit || edit != DROP)) rc = whit_st_out_write(o, data, t.bytes, e);
		whit_free(data);
	}
	int64_t four = 4;
	const char *added = edit == ADD ? "model.extra.weight" : "model.layers.0.self_attn.rotary_emb.inv_freq";
	if (!rc && (edit == ADD || edit == ADD_INV_FREQ)) {
		rc = whit_st_out_begin(o, added, WHIT_F32, 1, &four, e);
		if (!rc) rc = whit_st_out_write(o, (const float[4]){1, 2, 3, 4}, 16, e);
	}
	if (!rc) rc = whit_st_out_commit(o, e);
	if (!rc) rc = whit_model_open(&m, dir, 0, e);
	if (!rc) {
		static const int32_t tokens[] = {3, 50, 48, 9};
		one b;
		float *logits = whit_alloc((size_t)m.vocab * sizeof *logits);
		rc = whit_model_step(&m, one_set(&b, tokens, 4, 0), NULL, logits, e);
		whit_free(b.pos);
		whit_free(logits);
		whit_model_close(&m);
	}
	whit_st_close(&st);
	whit_free(in);
	whit_free(out);
	whit_free(src);
	whit_free(dir);
	return rc;
}

static void bad_tensors(void) {
	whit_err e = {0};
	const char *down = "model.layers.1.mlp.down_proj.weight";
	CHECK_FAILS(open_edited("llama-f32", down, RENAME, &e), WHIT_EINPUT, e, "down_proj.weight is missing");
	CHECK_FAILS(open_edited("llama-f32", down, DROP, &e), WHIT_EINPUT, e, "down_proj.weight is missing");
	CHECK_FAILS(open_edited("llama-f32", down, TRANSPOSE, &e), WHIT_EINPUT, e, "is [56, 32], need [32, 56]");
	CHECK_FAILS(open_edited("llama-f32", down, TYPE, &e), WHIT_EINPUT, e, "is I32");
	CHECK_FAILS(open_edited("llama-f32", down, ADD, &e), WHIT_EINPUT, e, "model.extra.weight is not used");
	CHECK_RC(open_edited("llama-f32", down, ADD_INV_FREQ, &e), e);
	CHECK_FAILS(open_edited("llama-f32", down, POISON, &e), WHIT_ENONFINITE, e, "layer 1: row 0");
	CHECK_FAILS(open_edited("llama-f32", "model.layers.1.input_layernorm.weight", POISON, &e), WHIT_ENONFINITE, e,
	            "input_layernorm");
	CHECK_FAILS(open_edited("llama-f32", "lm_head.weight", POISON, &e), WHIT_ENONFINITE, e,
	            "logits: row 0, token 48");
	CHECK_FAILS(open_edited("llama-f32", "model.embed_tokens.weight", POISON, &e), WHIT_ENONFINITE, e,
	            "layer 0: row 2");
}

static void bad_calls(void) {
	whit_err e = {0};
	whit_model m;
	char *dir = golden_dir("llama-f32");
	if (CHECK_RC(whit_model_open(&m, dir, 0, &e), e)) {
		int32_t tokens[2] = {5, 96};
		one o;
		whit_batch *b = one_set(&o, tokens, 2, 0);
		float *h = whit_alloc((size_t)(2 * m.hidden) * sizeof *h);
		CHECK_FAILS(whit_model_embed(&m, b, h, &e), WHIT_EINPUT, e, "is 96, need an id below the 96 rows");
		tokens[1] = -1;
		CHECK_FAILS(whit_model_embed(&m, b, h, &e), WHIT_EINPUT, e, "is -1");
		whit_state *s = whit_state_new(&m, 1, 1);
		CHECK_FAILS(whit_model_layer(&m, 0, b, s, h, &e), WHIT_EINTERNAL, e, "reaches token 2");
		CHECK(whit_state_bytes(s) == 2 * 2 * 16 * sizeof(float)); /* layers, K and V, kv_heads * dim */
		whit_state_free(s);
		whit_free(h);
		whit_free(o.pos);
		whit_model_close(&m);
	}
	whit_free(dir);
}

TEST_MAIN(random_models, trained_models, roles, bad_config, bad_tensors, bad_calls)
