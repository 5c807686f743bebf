/* gguf_model: which architectures a GGUF may hold, its tensors' names, and config.json's keys out of its metadata.
 * Refuses what the architectures do not implement: experts, partial rotation, longrope, head counts that differ
 * between layers, unknown keys under the architecture's name (unless 0 or false: a feature that is off). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "formats/gguf_model.h"

static const whit_gguf_arch archs[] = {
        {.name = "llama", .paired = 1, .biases = 1},
        {.name = "qwen2", .qkv_bias = 1},
        {.name = "qwen3", .qk_norm = 1},
        {.name = "qwen35", .hf = "qwen3_5", .qk_norm = 1, .delta = 1},
};

const whit_gguf_arch *whit_gguf_arch_find(const char *name, whit_err *e) {
	char known[64] = "";
	for (int64_t i = 0; i < WHIT_COUNT(archs); i++) {
		const char *hf = archs[i].hf ? archs[i].hf : archs[i].name;
		size_t n = strlen(hf);
		if (!strcmp(archs[i].name, name)) return &archs[i];
		if (!strncmp(hf, name, n) && (!name[n] || (archs[i].hf && !strcmp(name + n, "_text"))))
			return &archs[i];
		snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", archs[i].name);
	}
	whit_fail(e, WHIT_EINPUT, "architecture is \"%.60s\", need one of: %s", name, known);
	return NULL;
}

/* ---- names ---- */

enum { ALWAYS, QK_NORM, QKV_BIAS, ANY_BIAS, DELTA, NO_DELTA };

/* Of tensors outside blocks, and inside, without "blk.N." and "model.layers.N.". */
static const struct entry {
	const char *gguf, *hf;
	int when;
} outside[] =
        {
                {"token_embd.weight", "model.embed_tokens.weight", ALWAYS},
                {"output_norm.weight", "model.norm.weight", ALWAYS},
                {"output.weight", "lm_head.weight", ALWAYS},
},
  inside[] = {
          {"attn_norm.weight", "input_layernorm.weight", ALWAYS},
          {"attn_q.weight", "self_attn.q_proj.weight", ALWAYS},
          {"attn_k.weight", "self_attn.k_proj.weight", ALWAYS},
          {"attn_v.weight", "self_attn.v_proj.weight", ALWAYS},
          {"attn_output.weight", "self_attn.o_proj.weight", ALWAYS},
          {"ffn_norm.weight", "post_attention_layernorm.weight", NO_DELTA},
          {"post_attention_norm.weight", "post_attention_layernorm.weight", DELTA},
          {"attn_qkv.weight", "linear_attn.in_proj_qkv.weight", DELTA},
          {"attn_gate.weight", "linear_attn.in_proj_z.weight", DELTA},
          {"ssm_alpha.weight", "linear_attn.in_proj_a.weight", DELTA},
          {"ssm_beta.weight", "linear_attn.in_proj_b.weight", DELTA},
          {"ssm_conv1d.weight", "linear_attn.conv1d.weight", DELTA},
          {"ssm_a", "linear_attn.A_log", DELTA},
          {"ssm_dt.bias", "linear_attn.dt_bias", DELTA},
          {"ssm_norm.weight", "linear_attn.norm.weight", DELTA},
          {"ssm_out.weight", "linear_attn.out_proj.weight", DELTA},
          {"ffn_gate.weight", "mlp.gate_proj.weight", ALWAYS},
          {"ffn_up.weight", "mlp.up_proj.weight", ALWAYS},
          {"ffn_down.weight", "mlp.down_proj.weight", ALWAYS},
          {"attn_q_norm.weight", "self_attn.q_norm.weight", QK_NORM},
          {"attn_k_norm.weight", "self_attn.k_norm.weight", QK_NORM},
          {"attn_q.bias", "self_attn.q_proj.bias", QKV_BIAS},
          {"attn_k.bias", "self_attn.k_proj.bias", QKV_BIAS},
          {"attn_v.bias", "self_attn.v_proj.bias", QKV_BIAS},
          {"attn_output.bias", "self_attn.o_proj.bias", ANY_BIAS},
          {"ffn_gate.bias", "mlp.gate_proj.bias", ANY_BIAS},
          {"ffn_up.bias", "mlp.up_proj.bias", ANY_BIAS},
          {"ffn_down.bias", "mlp.down_proj.bias", ANY_BIAS},
};

/* Of the block behind the last layer: a next-token head's own. */
static const struct entry next_token[] = {
        {"nextn.eh_proj.weight", "mtp.fc.weight", DELTA},
        {"nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight", DELTA},
        {"nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight", DELTA},
        {"nextn.shared_head_norm.weight", "mtp.norm.weight", DELTA},
};

static int has(const whit_gguf_arch *a, int when) {
	if (when == DELTA || when == NO_DELTA) return a->delta == (when == DELTA);
	return when == ALWAYS || (when == QK_NORM && a->qk_norm) || (when == QKV_BIAS && a->qkv_bias) ||
	       (when != QK_NORM && a->biases);
}

/* The number at the head of s up to a dot, as it would be printed; *rest is behind the dot. -1 = there is none. */
static int layer_number(const char *s, const char **rest) {
	int n = 0, digits = 0;
	for (; s[digits] >= '0' && s[digits] <= '9'; digits++) {
		if (digits == 6) return -1;
		n = 10 * n + (s[digits] - '0');
	}
	if (!digits || s[digits] != '.' || (digits > 1 && s[0] == '0')) return -1;
	*rest = s + digits + 1;
	return n;
}

static int starts(const char **s, const char *with) {
	size_t n = strlen(with);
	if (strncmp(*s, with, n)) return 0;
	*s += n;
	return 1;
}

int whit_gguf_name_to_hf(const whit_gguf_arch *a, const char *gguf, int64_t layers, char out[128]) {
	const char *rest = gguf;
	int n = starts(&rest, "blk.") ? layer_number(rest, &rest) : -1, next = a->delta && layers && n >= layers;
	for (int64_t i = 0; i < WHIT_COUNT(next_token) && next; i++) {
		if (strcmp(rest, next_token[i].gguf)) continue;
		snprintf(out, 128, "%s", next_token[i].hf);
		return 0;
	}
	for (int64_t i = 0; i < WHIT_COUNT(inside) && n >= 0; i++) {
		if (strcmp(rest, inside[i].gguf) || !has(a, inside[i].when)) continue;
		snprintf(out, 128, "%s.layers.%d.%s", next ? "mtp" : "model", next ? n - (int)layers : n, inside[i].hf);
		return 0;
	}
	for (int64_t i = 0; i < WHIT_COUNT(outside); i++) {
		if (strcmp(gguf, outside[i].gguf)) continue;
		snprintf(out, 128, "%s", outside[i].hf);
		return 0;
	}
	return -1;
}

int whit_gguf_name_from_hf(const whit_gguf_arch *a, const char *hf, char out[64]) {
	const char *rest = hf;
	if (!a->delta || !starts(&rest, "model.language_model.")) starts(&rest, "model.");
	const char *inner = rest;
	int n = starts(&rest, "layers.") ? layer_number(rest, &rest) : -1;
	for (int64_t i = 0; i < WHIT_COUNT(inside) && n >= 0; i++) {
		if (strcmp(rest, inside[i].hf) || !has(a, inside[i].when)) continue;
		snprintf(out, 64, "blk.%d.%s", n, inside[i].gguf);
		return 0;
	}
	for (int64_t i = 0; i < WHIT_COUNT(outside); i++) {
		const char *name = outside[i].hf;
		if (strcmp(hf, name) && !(starts(&name, "model.") && !strcmp(inner, name))) continue;
		snprintf(out, 64, "%s", outside[i].gguf);
		return 0;
	}
	return -1;
}

/* ---- values ---- */

static int64_t number(const json_t *config, const char *key) {
	return json_integer_value(json_object_get(config, key));
}

static int ends(const char *s, const char *with) {
	size_t n = strlen(s), k = strlen(with);
	return n >= k && !strcmp(s + n - k, with);
}

int whit_gguf_change_of(const whit_gguf_arch *a, const json_t *config, const char *hf, whit_gguf_change *c) {
	static const struct {
		const char *name;
		int first, each,
		        columns; /* first: behind keys and queries; each: of heads a value, or head_dim of them */
	} heads[] = {{"in_proj_qkv.weight", 1, 0, 0},
	             {"conv1d.weight", 1, 0, 0},
	             {"in_proj_z.weight", 0, 0, 0},
	             {"in_proj_a.weight", 0, 1, 0},
	             {"in_proj_b.weight", 0, 1, 0},
	             {"A_log", 0, 1, 0},
	             {"dt_bias", 0, 1, 0},
	             {"out_proj.weight", 0, 0, 1}};
	const char *delta = strstr(hf, "linear_attn.");
	*c = (whit_gguf_change){0};
	if (!a->delta || json_is_true(json_object_get(config, "whit_gguf_layout"))) return 0;
	c->one = ends(hf, "norm.weight") && !ends(hf, "linear_attn.norm.weight");
	c->rate = ends(hf, "linear_attn.A_log");
	c->k_heads = number(config, "linear_num_key_heads");
	c->v_heads = number(config, "linear_num_value_heads");
	for (int64_t i = 0; i < WHIT_COUNT(heads) && delta && c->k_heads != c->v_heads; i++) {
		int64_t dim = number(config, "linear_key_head_dim");
		if (strcmp(delta + strlen("linear_attn."), heads[i].name)) continue;
		c->first = heads[i].first ? 2 * c->k_heads * dim : 0;
		c->block = heads[i].each ? 1 : dim;
		c->columns = heads[i].columns;
	}
	return c->one || c->rate || c->block;
}

/* n pieces of `size` floats from w on: blocks of c->block pieces change places. */
static void reorder(const whit_gguf_change *c, float *w, int64_t size) {
	int64_t r = c->v_heads / c->k_heads, each = c->block * size;
	float *copy = whit_alloc((size_t)(c->v_heads * each) * sizeof *copy);
	memcpy(copy, w, (size_t)(c->v_heads * each) * sizeof *copy);
	for (int64_t k = 0; k < c->k_heads; k++)
		for (int64_t j = 0; j < r; j++)
			memcpy(w + (j * c->k_heads + k) * each, copy + (k * r + j) * each, (size_t)each * sizeof *w);
	whit_free(copy);
}

whit_gguf_change whit_gguf_change_back(const whit_gguf_change *c) {
	whit_gguf_change back = *c;
	if (c->block) back.k_heads = c->v_heads / c->k_heads; /* k * r + j and j * k_heads + k change roles */
	return back;
}

void whit_gguf_apply(const whit_gguf_change *c, float *w, int64_t rows, int64_t cols) {
	if (c->block && c->columns)
		for (int64_t r = 0; r < rows; r++) reorder(c, w + r * cols + c->first, 1);
	else if (c->block && rows == 1)
		reorder(c, w + c->first, 1);
	else if (c->block)
		reorder(c, w + c->first * cols, cols);
	for (int64_t i = 0; i < rows * cols; i++) {
		if (c->one) w[i] += 1;
		if (c->rate) w[i] = (float)-exp((double)w[i]);
	}
}

int whit_gguf_is_paired(const whit_gguf_arch *a, const char *hf) {
	const char *p = strstr(hf, ".self_attn.");
	if (!a->paired || !p) return 0;
	p += strlen(".self_attn.");
	return (starts(&p, "q_proj.") || starts(&p, "k_proj.")) && (!strcmp(p, "weight") || !strcmp(p, "bias"));
}

/* ---- metadata to config.json ---- */

typedef struct reader {
	const whit_gguf *g;
	const whit_gguf_arch *a;
	json_t *out;
	int64_t layers, heads, dim, rot, vocab;
} reader;

enum { MOST = 1 << 24 };

/* A key of the architecture's: "llama.rope.freq_base". */
static const char *key_of(const reader *r, const char *rest, char out[96]) {
	snprintf(out, 96, "%s.%s", r->a->name, rest);
	return out;
}

/* An integer, or an array that says the same of every layer. */
static int read_int(const reader *r, const char *rest, int required, int64_t hi, int64_t *v, whit_err *e) {
	char key[96];
	const whit_gguf_kv *kv = whit_gguf_find(r->g, key_of(r, rest, key));
	if (!kv || kv->kind != WHIT_GGUF_ARRAY) return whit_gguf_int(r->g, key, required, 1, hi, v, e);
	int64_t first = 0, next = 0;
	int bad = kv->n == 0 || whit_gguf_element(kv, 0, &first);
	for (int64_t i = 1; i < kv->n && !bad; i++) bad = whit_gguf_element(kv, i, &next) || next != first;
	if (bad || first < 1 || first > hi)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: key %s: is an array of %lld, need one integer of 1 to %lld for all layers",
		                 r->g->name, key, (long long)kv->n, (long long)hi);
	*v = first;
	return 0;
}

static void put_int(const reader *r, const char *key, int64_t v) { json_object_set_new(r->out, key, json_integer(v)); }

/* A float as the decimal that whoever made the file wrote: 1e-06, not 9.99999997e-07. */
static json_t *real(double v) {
	char text[32];
	for (int digits = 1; digits <= 9; digits++) {
		snprintf(text, sizeof text, "%.*g", digits, v);
		if (strtof(text, NULL) == (float)v) return json_real(strtod(text, NULL));
	}
	return json_real(v);
}

/* How many of the last blocks are a next-token head's. Without its tensors the number is wrong, and believing it would
 * lose a layer. */
static int read_next(reader *r, whit_err *e) {
	int64_t next = 0;
	char key[96], name[64];
	int rc = whit_gguf_int(r->g, key_of(r, "nextn_predict_layers", key), 0, 0, r->layers - 1, &next, e);
	if (rc || !next) return rc;
	r->layers -= next;
	snprintf(name, sizeof name, "blk.%lld.nextn.eh_proj.weight", (long long)r->layers);
	if (!r->g->n || whit_gguf_tensor_find(r->g, name)) return 0; /* none at all: a file of metadata alone */
	return whit_fail(e, WHIT_EINPUT, "%s: key %s: is %lld, need 0: tensor %s is missing", r->g->name, key,
	                 (long long)next, name);
}

static int read_sizes(reader *r, whit_err *e) {
	int64_t hidden, context, inner, kv_heads, value;
	double eps, theta = 10000;
	char key[96];
	int causal = 1;
	int rc = whit_gguf_bool(r->g, key_of(r, "attention.causal", key), 0, &causal, e);
	if (!rc && !causal)
		rc = whit_fail(e, WHIT_EINPUT, "%s: key %s: is false, need true: nothing else is implemented",
		               r->g->name, key);
	if (!rc) rc = whit_gguf_int(r->g, key_of(r, "block_count", key), 1, 1, 512, &r->layers, e);
	if (!rc) rc = read_int(r, "context_length", 1, INT32_MAX, &context, e);
	if (!rc) rc = read_int(r, "embedding_length", 1, MOST, &hidden, e);
	if (!rc) rc = read_int(r, "feed_forward_length", 1, MOST, &inner, e);
	if (!rc) rc = read_int(r, "attention.head_count", 1, MOST, &r->heads, e);
	if (rc) return rc;
	kv_heads = r->heads;
	r->dim = hidden / r->heads;
	rc = read_int(r, "attention.head_count_kv", 0, MOST, &kv_heads, e);
	if (!rc) rc = read_int(r, "attention.key_length", 0, MOST, &r->dim, e);
	value = hidden / r->heads;
	if (!rc) rc = read_int(r, "attention.value_length", 0, MOST, &value, e);
	r->rot = r->dim;
	if (!rc) rc = read_int(r, "rope.dimension_count", 0, MOST, &r->rot, e);
	if (!rc && r->a->delta) rc = read_next(r, e);
	if (!rc) rc = whit_gguf_real(r->g, key_of(r, "attention.layer_norm_rms_epsilon", key), 1, 0, 1, &eps, e);
	if (!rc) rc = whit_gguf_real(r->g, key_of(r, "rope.freq_base", key), 0, 1, 1e12, &theta, e);
	if (rc) return rc;
	if (value != r->dim)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s.attention.value_length: is %lld, need key_length, %lld",
		                 r->g->name, r->a->name, (long long)value, (long long)r->dim);
	if (r->rot != r->dim && (!r->a->delta || r->rot > r->dim || r->rot % 2))
		return whit_fail(
		        e, WHIT_EINPUT,
		        "%s: key %s.rope.dimension_count: is %lld, need %sa head's %lld: nothing else is implemented",
		        r->g->name, r->a->name, (long long)r->rot, r->a->delta ? "an even number up to " : "",
		        (long long)r->dim);
	put_int(r, "hidden_size", hidden);
	put_int(r, "intermediate_size", inner);
	put_int(r, "num_hidden_layers", r->layers);
	put_int(r, "num_attention_heads", r->heads);
	put_int(r, "num_key_value_heads", kv_heads);
	put_int(r, "head_dim", r->dim);
	put_int(r, "max_position_embeddings", context);
	json_object_set_new(r->out, "rms_norm_eps", real(eps));
	json_object_set_new(r->out, "rope_theta", real(theta));
	return 0;
}

/* What the layers of gated delta net are, and which. */
static int read_delta(reader *r, whit_err *e) {
	int64_t taps, dim, k_heads, v_heads, inner, interval = 4;
	char key[96];
	int rc = read_int(r, "ssm.conv_kernel", 1, 64, &taps, e);
	if (!rc) rc = read_int(r, "ssm.state_size", 1, MOST, &dim, e);
	if (!rc) rc = read_int(r, "ssm.group_count", 1, MOST, &k_heads, e);
	if (!rc) rc = read_int(r, "ssm.time_step_rank", 1, MOST, &v_heads, e);
	if (!rc) rc = read_int(r, "ssm.inner_size", 1, MOST, &inner, e);
	if (!rc) rc = read_int(r, "full_attention_interval", 0, MOST, &interval, e);
	if (rc) return rc;
	if (inner != v_heads * dim)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: key %s.ssm.inner_size: is %lld, need time_step_rank * state_size, %lld",
		                 r->g->name, r->a->name, (long long)inner, (long long)(v_heads * dim));
	put_int(r, "linear_conv_kernel_dim", taps);
	put_int(r, "linear_key_head_dim", dim);
	put_int(r, "linear_value_head_dim", dim);
	put_int(r, "linear_num_key_heads", k_heads);
	put_int(r, "linear_num_value_heads", v_heads);
	json_object_set_new(r->out, "partial_rotary_factor", json_real((double)r->rot / (double)r->dim));
	json_object_set_new(r->out, "whit_gguf_layout", json_true());
	const whit_gguf_kv *list = whit_gguf_find(r->g, key_of(r, "attention.recurrent_layers", key));
	if (!list) {
		put_int(r, "full_attention_interval", interval);
		return 0;
	}
	json_t *types = json_array();
	json_object_set_new(r->out, "layer_types", types);
	for (int64_t l = 0; l < r->layers; l++) {
		int64_t linear;
		if (list->kind != WHIT_GGUF_ARRAY || list->n < r->layers || whit_gguf_element(list, l, &linear))
			return whit_fail(e, WHIT_EINPUT, "%s: key %s: need a list of a truth for each of %lld layers",
			                 r->g->name, key, (long long)r->layers);
		json_array_append_new(types, json_string(linear ? "linear_attention" : "full_attention"));
	}
	return 0;
}

/* Rows of the embedding; without it (a file of metadata alone), what the metadata says. */
static int read_vocab(reader *r, whit_err *e) {
	const whit_gguf_tensor *t = whit_gguf_tensor_find(r->g, "token_embd.weight");
	const whit_gguf_kv *tokens = whit_gguf_find(r->g, "tokenizer.ggml.tokens");
	char key[96];
	int64_t said = tokens ? tokens->n : 0;
	int rc = whit_gguf_int(r->g, key_of(r, "vocab_size", key), 0, 1, INT32_MAX, &said, e);
	if (rc) return rc;
	r->vocab = t ? t->ne[1] : said;
	if (r->vocab < 1 || r->vocab > INT32_MAX)
		return whit_fail(e, WHIT_EINPUT, "%s: key %s: vocabulary is %lld, need 1 to %d", r->g->name, key,
		                 (long long)r->vocab, INT32_MAX);
	put_int(r, "vocab_size", r->vocab);
	json_object_set_new(r->out, "tie_word_embeddings", json_boolean(!whit_gguf_tensor_find(r->g, "output.weight")));
	return 0;
}

/* ---- rope ---- */

/* rope_freqs.weight: what each frequency is divided by. */
static int read_factors(reader *r, const whit_gguf_tensor *t, json_t *scaling, whit_err *e) {
	json_t *list = json_array();
	json_object_set_new(scaling, "rope_type", json_string("factors"));
	json_object_set_new(scaling, "factors", list);
	if (strcmp(t->type->name, "F32") || t->ne[0] != r->dim / 2 || t->ne[1] * t->ne[2] * t->ne[3] != 1)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is %s of %lld x %lld, need F32 of %lld", r->g->name,
		                 t->name, t->type->name, (long long)t->ne[0], (long long)t->ne[1],
		                 (long long)(r->dim / 2));
	for (int64_t i = 0; i < t->ne[0]; i++) {
		float f = whit_load_f32(t->data + 4 * i);
		if (!(f > 0 && isfinite(f)))
			return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: value %lld is %g, need a positive number",
			                 r->g->name, t->name, (long long)i, (double)f);
		json_array_append_new(list, json_real((double)f));
	}
	return 0;
}

static int read_rope(reader *r, whit_err *e) {
	const whit_gguf_tensor *freqs = whit_gguf_tensor_find(r->g, "rope_freqs.weight");
	const char *type = "linear"; /* llama.cpp's default; without a factor it does nothing */
	char key[96];
	double factor = 1, attention = 1;
	int64_t original = 0;
	int rc = whit_gguf_string(r->g, key_of(r, "rope.scaling.type", key), 0, &type, e);
	if (!rc) rc = whit_gguf_real(r->g, key_of(r, "rope.scale_linear", key), 0, 0, 1e6, &factor, e);
	if (!rc) rc = whit_gguf_real(r->g, key_of(r, "rope.scaling.factor", key), 0, 0, 1e6, &factor, e);
	if (!rc) rc = whit_gguf_real(r->g, key_of(r, "rope.scaling.attn_factor", key), 0, 1e-6, 1e6, &attention, e);
	if (!rc)
		rc = whit_gguf_int(r->g, key_of(r, "rope.scaling.original_context_length", key), 0, 1, INT32_MAX,
		                   &original, e);
	if (rc) return rc;
	int yarn = !strcmp(type, "yarn"), none = !strcmp(type, "none");
	if (!yarn && !none && strcmp(type, "linear"))
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: key %s.rope.scaling.type: is \"%.40s\", need none, linear or yarn", r->g->name,
		                 r->a->name, type);
	if (yarn && freqs)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is there beside yarn scaling, need one of them",
		                 r->g->name, freqs->name);
	if (!yarn && attention != 1)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: key %s.rope.scaling.attn_factor: is %g, need 1 for any type but yarn", r->g->name,
		                 r->a->name, attention);
	if (none || factor == 0) factor = 1;
	if (!yarn && !freqs && factor == 1) return 0;
	json_t *scaling = json_object();
	json_object_set_new(r->out, "rope_scaling", scaling);
	json_object_set_new(scaling, "rope_type", json_string(yarn ? "yarn" : "linear"));
	if (yarn || factor != 1) json_object_set_new(scaling, "factor", real(factor));
	if (yarn && original) json_object_set_new(scaling, "original_max_position_embeddings", json_integer(original));
	/* Both multiply cos and sin: by what YaRN's authors found for the factor, and by this. */
	if (yarn && attention != 1)
		json_object_set_new(scaling, "attention_factor",
		                    json_real(attention * (factor > 1 ? 0.1 * log(factor) + 1 : 1)));
	return freqs ? read_factors(r, freqs, scaling, e) : 0;
}

/* ---- tokens that begin and end a text ---- */

static void add_id(json_t *list, int64_t id) {
	json_t *v;
	size_t i;
	json_array_foreach(list, i, v) if (json_integer_value(v) == id) return;
	json_array_append_new(list, json_integer(id));
}

/* The tokens that llama.cpp ends a generation at for their text alone. */
static void add_known_ends(const reader *r, json_t *list) {
	static const char *const text[] = {"<|im_end|>",  "<|endoftext|>", "<|eot_id|>",   "<|eom_id|>",
	                                   "<|end|>",     "<end_of_turn>", "<EOT>",        "</s>",
	                                   "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|end_of_text|>"};
	enum { CONTROL = 3, USER = 4 };
	const whit_gguf_kv *tokens = whit_gguf_find(r->g, "tokenizer.ggml.tokens"),
	                   *types = whit_gguf_find(r->g, "tokenizer.ggml.token_type");
	int64_t kind;
	if (!tokens || !tokens->text || !types) return;
	for (int64_t i = 0; i < WHIT_MIN(WHIT_MIN(tokens->n, types->n), r->vocab); i++) {
		if (whit_gguf_element(types, i, &kind) || (kind != CONTROL && kind != USER)) continue;
		for (int64_t k = 0; k < WHIT_COUNT(text); k++)
			if (tokens->text[i].n == strlen(text[k]) &&
			    !memcmp(tokens->text[i].p, text[k], tokens->text[i].n))
				add_id(list, i);
	}
}

static int read_ids(reader *r, whit_err *e) {
	static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
	                                   "tokenizer.ggml.eom_token_id"};
	const char *model = "";
	int rc = whit_gguf_string(r->g, "tokenizer.ggml.model", 0, &model, e);
	int llama = !strcmp(model, "llama"), gpt2 = !strcmp(model, "gpt2");
	int64_t bos = llama ? 1 : gpt2 ? 11 : -1, first = llama ? 2 : gpt2 ? 11 : -1;
	json_t *list = json_array();
	if (!rc) rc = whit_gguf_int(r->g, "tokenizer.ggml.bos_token_id", 0, 0, r->vocab - 1, &bos, e);
	for (int i = 0; i < WHIT_COUNT(ends) && !rc; i++) {
		int64_t id = i ? -1 : first;
		rc = whit_gguf_int(r->g, ends[i], 0, 0, r->vocab - 1, &id, e);
		if (id >= 0 && id < r->vocab) add_id(list, id);
	}
	add_known_ends(r, list);
	if (bos >= 0 && bos < r->vocab) put_int(r, "bos_token_id", bos);
	if (json_array_size(list) == 1)
		json_object_set(r->out, "eos_token_id", json_array_get(list, 0));
	else if (json_array_size(list))
		json_object_set(r->out, "eos_token_id", list);
	json_decref(list);
	return rc;
}

/* ---- the whole ---- */

/* A feature that is switched off needs no implementation. */
static int is_off(const whit_gguf_kv *kv) {
	for (size_t i = 0; i < kv->raw_bytes - 4; i++)
		if (kv->kind == WHIT_GGUF_STRING || kv->kind == WHIT_GGUF_ARRAY || kv->data[i]) return 0;
	return 1;
}

/* What stands under the architecture's name is read above, changes nothing for these architectures (in llama.cpp
 * they have no windows, and YaRN's constants are fixed), or is an error. */
static int check_keys(const reader *r, whit_err *e) {
	static const char *const known[] = {"context_length",
	                                    "embedding_length",
	                                    "block_count",
	                                    "feed_forward_length",
	                                    "vocab_size",
	                                    "attention.head_count",
	                                    "attention.head_count_kv",
	                                    "attention.key_length",
	                                    "attention.value_length",
	                                    "attention.layer_norm_rms_epsilon",
	                                    "attention.causal",
	                                    "rope.dimension_count",
	                                    "rope.freq_base",
	                                    "rope.scale_linear",
	                                    "rope.scaling.type",
	                                    "rope.scaling.factor",
	                                    "rope.scaling.attn_factor",
	                                    "rope.scaling.original_context_length"};
	/* of architectures with gated delta net; sections of a position's axes are one for text */
	static const char *const delta[] = {"ssm.conv_kernel",
	                                    "ssm.state_size",
	                                    "ssm.group_count",
	                                    "ssm.time_step_rank",
	                                    "ssm.inner_size",
	                                    "full_attention_interval",
	                                    "attention.recurrent_layers",
	                                    "nextn_predict_layers",
	                                    "rope.dimension_sections"};
	static const char *const idle[] = {"rope.scaling.finetuned",
	                                   "rope.scaling.yarn_beta_fast",
	                                   "rope.scaling.yarn_beta_slow",
	                                   "rope.scaling.yarn_ext_factor",
	                                   "rope.scaling.yarn_attn_factor",
	                                   "rope.scaling.yarn_log_multiplier",
	                                   "attention.sliding_window",
	                                   "tensor_data_layout",
	                                   "use_parallel_residual",
	                                   "attention.layer_norm_epsilon",
	                                   "pooling_type"};
	for (int64_t i = 0; i < r->g->n_kv; i++) {
		const char *rest = r->g->kv[i].key;
		if (!starts(&rest, r->a->name) || !starts(&rest, ".")) continue;
		int ok = is_off(&r->g->kv[i]);
		for (int64_t k = 0; k < WHIT_COUNT(known) && !ok; k++) ok = !strcmp(rest, known[k]);
		for (int64_t k = 0; k < WHIT_COUNT(idle) && !ok; k++) ok = !strcmp(rest, idle[k]);
		for (int64_t k = 0; k < WHIT_COUNT(delta) && r->a->delta && !ok; k++) ok = !strcmp(rest, delta[k]);
		if (ok) continue;
		char list[700] = "";
		for (int64_t k = 0; k < WHIT_COUNT(known); k++)
			snprintf(list + strlen(list), sizeof list - strlen(list), " %s", known[k]);
		return whit_fail(e, WHIT_EINPUT, "%s: key %.100s is unknown to architecture %s, which implements:%s",
		                 r->g->name, r->g->kv[i].key, r->a->name, list);
	}
	return 0;
}

int whit_gguf_config(const whit_gguf *g, const whit_gguf_arch *a, json_t **config, whit_err *e) {
	reader r = {.g = g, .a = a, .out = json_object()};
	json_object_set_new(r.out, "model_type", json_string(a->delta ? "qwen3_5_text" : a->name));
	int rc = check_keys(&r, e);
	if (!rc) rc = read_sizes(&r, e);
	if (!rc && a->delta) rc = read_delta(&r, e);
	if (!rc) rc = read_vocab(&r, e);
	if (!rc) rc = read_rope(&r, e);
	if (!rc) rc = read_ids(&r, e);
	if (!rc && a->biases) { /* HF's llama says with a word what a GGUF shows by having them */
		json_object_set_new(r.out, "attention_bias",
		                    json_boolean(whit_gguf_tensor_find(g, "blk.0.attn_q.bias") != NULL));
		json_object_set_new(r.out, "mlp_bias",
		                    json_boolean(whit_gguf_tensor_find(g, "blk.0.ffn_gate.bias") != NULL));
	}
	if (rc) json_decref(r.out);
	*config = rc ? NULL : r.out;
	return rc;
}
