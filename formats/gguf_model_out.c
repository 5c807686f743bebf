/* gguf_model_out: config.json as GGUF metadata (ggml.md 5). The keys' types are llama.cpp's, which are strict:
 * integers u32, reals f32. Refused, because no key says it and llama.cpp would compute another function: biases that
 * the architecture's table has no names for, sliding windows that some position could feel (dense models ignore
 * them), YaRN's betas other than 32 and 1, heads that do not fill the hidden size where the loader takes that for
 * granted. */
#include "formats/gguf_model.h"
#include "formats/json.h"
#include <math.h>
#include <stdio.h>

static const double PI = 3.14159265358979323846;

/* What one call reads and writes. */
typedef struct put {
	whit_gguf_out *o;
	const whit_gguf_arch *a;
	const json_t *config;
	const char *path;
	int64_t context, dim, rot; /* of the model, of a head, of what of a head is rotated */
	float **factors;
	int64_t *n_factors;
} put;

static int put_u32(const put *p, const char *key, int64_t v, whit_err *e) {
	char full[96];
	snprintf(full, sizeof full, "%s.%s", p->a->name, key);
	return whit_gguf_put_u32(p->o, full, (uint32_t)v, e);
}

static int put_f32(const put *p, const char *key, double v, whit_err *e) {
	char full[96];
	snprintf(full, sizeof full, "%s.%s", p->a->name, key);
	return whit_gguf_put_f32(p->o, full, (float)v, e);
}

static int put_text(const put *p, const char *key, const char *v, whit_err *e) {
	char full[96];
	snprintf(full, sizeof full, "%s.%s", p->a->name, key);
	return whit_gguf_put_string(p->o, full, v, e);
}

/* ---- what cannot be said ---- */

static int cannot(const put *p, whit_err *e, const char *key, const char *is, const char *need) {
	return whit_fail(e, WHIT_EINPUT, "%s: key %s: is %s, need %s: GGUF cannot say it for %s", p->path, key, is,
	                 need, p->a->name);
}

static int refuse_biases(const put *p, whit_err *e) {
	int attention = 0, mlp = 0;
	int rc = whit_json_bool(p->config, p->path, "attention_bias", 0, &attention, e);
	if (!rc) rc = whit_json_bool(p->config, p->path, "mlp_bias", 0, &mlp, e);
	if (!rc && attention && !p->a->biases) rc = cannot(p, e, "attention_bias", "true", "false");
	if (!rc && mlp && !p->a->biases) rc = cannot(p, e, "mlp_bias", "true", "false");
	return rc;
}

/* A window is no matter where it covers the whole context, or no layer uses it. */
static int refuse_window(const put *p, int64_t layers, whit_err *e) {
	int use = 0;
	char is[32];
	int64_t window = INT32_MAX, from = 0;
	int rc = whit_json_bool(p->config, p->path, "use_sliding_window", 0, &use, e);
	if (rc || !use) return rc;
	rc = whit_json_int(p->config, p->path, "sliding_window", 0, 1, INT32_MAX, &window, e);
	if (!rc) rc = whit_json_int(p->config, p->path, "max_window_layers", 0, 0, INT32_MAX, &from, e);
	if (rc || window >= p->context || from >= layers) return rc;
	snprintf(is, sizeof is, "%lld", (long long)window);
	return cannot(p, e, "sliding_window", is, "one of max_position_embeddings or more");
}

/* ---- rope ---- */

/* Llama 3's divisors of the rotary frequencies: slow waves are stretched by factor, fast ones kept, those between
 * interpolated. As the model's own code, in floats up to the wave length: a wave at the edge must fall on its side. */
static int llama3_factors(const put *p, const json_t *rope, double theta, whit_err *e) {
	double factor, low, high;
	int64_t original = p->context, n = p->dim / 2;
	int rc = whit_json_real(rope, p->path, "factor", 1, 1e-6, 1e6, &factor, e);
	if (!rc) rc = whit_json_real(rope, p->path, "low_freq_factor", 1, 1e-6, 1e6, &low, e);
	if (!rc) rc = whit_json_real(rope, p->path, "high_freq_factor", 1, 1e-6, 1e6, &high, e);
	if (!rc) rc = whit_json_int(rope, p->path, "original_max_position_embeddings", 0, 1, INT32_MAX, &original, e);
	if (!rc && high <= low)
		rc = whit_fail(e, WHIT_EINPUT, "%s: key high_freq_factor: is %g, need more than low_freq_factor, %g",
		               p->path, high, low);
	if (rc) return rc;
	float *f = whit_alloc((size_t)n * sizeof *f), c = (float)original;
	for (int64_t i = 0; i < n; i++) {
		float freq = 1 / (float)pow(theta, (float)(2 * i) / (float)p->dim), wave = (float)(2 * PI) / freq;
		double smooth = ((double)c / wave - low) / (high - low);
		f[i] = wave > c / (float)low     ? (float)factor
		       : wave >= c / (float)high ? (float)(1 / ((1 - smooth) / factor + smooth))
		                                 : 1;
	}
	*p->factors = f;
	*p->n_factors = n;
	return 0;
}

/* Divisors as they are: what a GGUF's own rope_freqs.weight reads as. */
static int given_factors(const put *p, const json_t *rope, whit_err *e) {
	const json_t *list;
	int rc = whit_json_member(rope, p->path, "factors", 1, JSON_ARRAY, &list, e);
	if (rc) return rc;
	if ((int64_t)json_array_size(list) != p->dim / 2)
		return whit_fail(e, WHIT_EINPUT, "%s: key factors: has %zu numbers, need head_dim / 2, %lld", p->path,
		                 json_array_size(list), (long long)p->dim / 2);
	float *f = whit_alloc((size_t)(p->dim / 2) * sizeof *f);
	*p->factors = f;
	*p->n_factors = p->dim / 2;
	for (int64_t i = 0; i < p->dim / 2; i++) {
		f[i] = (float)json_number_value(json_array_get(list, (size_t)i));
		if (!(f[i] > 0) || !isfinite(f[i]))
			return whit_fail(e, WHIT_EINPUT, "%s: key factors: number %lld is %g, need a positive number",
			                 p->path, (long long)i, (double)f[i]);
	}
	return 0;
}

/* llama.cpp multiplies attn_factor with 1 + 0.1 log factor, which is the whole of Hugging Face's default; so it is
 * written only where the config says another factor, as the quotient. */
static int put_yarn(const put *p, const json_t *rope, whit_err *e) {
	double factor = 0, fast = 32, slow = 1, ms = 0, ms_all = 0, attention = 0;
	int64_t original = p->context;
	int truncate = 1;
	char is[32];
	int rc = whit_json_int(rope, p->path, "original_max_position_embeddings", 0, 1, INT32_MAX, &original, e);
	if (!rc) rc = whit_json_real(rope, p->path, "factor", 0, 1e-6, 1e6, &factor, e);
	if (!rc) rc = whit_json_real(rope, p->path, "beta_fast", 0, 1e-6, 1e6, &fast, e);
	if (!rc) rc = whit_json_real(rope, p->path, "beta_slow", 0, 1e-6, 1e6, &slow, e);
	if (!rc) rc = whit_json_real(rope, p->path, "mscale", 0, 0, 1e6, &ms, e);
	if (!rc) rc = whit_json_real(rope, p->path, "mscale_all_dim", 0, 0, 1e6, &ms_all, e);
	if (!rc) rc = whit_json_real(rope, p->path, "attention_factor", 0, 1e-6, 1e6, &attention, e);
	if (!rc) rc = whit_json_bool(rope, p->path, "truncate", 0, &truncate, e);
	if (rc) return rc;
	if (factor == 0) factor = (double)p->context / (double)original;
	snprintf(is, sizeof is, "%g", fast != 32 ? fast : slow);
	if (fast != 32) return cannot(p, e, "beta_fast", is, "32");
	if (slow != 1) return cannot(p, e, "beta_slow", is, "1");
	if (!truncate) return cannot(p, e, "truncate", "false", "true");

	double log_factor = factor > 1 ? 0.1 * log(factor) : 0, own = 1 + 0.1 * log(factor);
	if (attention == 0)
		attention = ms != 0 && ms_all != 0 ? (ms * log_factor + 1) / (ms_all * log_factor + 1) : log_factor + 1;
	rc = put_text(p, "rope.scaling.type", "yarn", e);
	if (!rc) rc = put_f32(p, "rope.scaling.factor", factor, e);
	if (!rc) rc = put_u32(p, "rope.scaling.original_context_length", original, e);
	if (!rc && (float)(attention / own) != 1) rc = put_f32(p, "rope.scaling.attn_factor", attention / own, e);
	return rc;
}

static int put_linear(const put *p, const json_t *rope, int required, whit_err *e) {
	double factor = 0;
	int rc = whit_json_real(rope, p->path, "factor", required, 1e-6, 1e6, &factor, e);
	if (rc || factor == 0) return rc;
	rc = put_text(p, "rope.scaling.type", "linear", e);
	return rc ? rc : put_f32(p, "rope.scaling.factor", factor, e);
}

/* How many frequencies each axis of a position has, and none of a fourth; thirds where the config does not say. */
static int put_sections(const put *p, const json_t *rope, whit_err *e) {
	int64_t n = p->rot / 2, sum = 0;
	int32_t section[4] = {(int32_t)((n + 2) / 3), (int32_t)((n + 1) / 3), (int32_t)(n / 3), 0};
	const json_t *list = json_object_get(rope, "mrope_section");
	char text[96];
	for (size_t i = 0; i < 3 && list && !json_is_null(list); i++) {
		int64_t x = json_integer_value(json_array_get(list, i));
		sum += x >= 0 && x <= n ? x : n + 1;
		section[i] = (int32_t)x;
	}
	if (list && !json_is_null(list) && (sum != n || json_array_size(list) != 3)) {
		char *is = json_dumps(list, JSON_ENCODE_ANY | JSON_COMPACT);
		snprintf(text, sizeof text, "three counts of %lld frequencies together", (long long)n);
		int rc = cannot(p, e, "mrope_section", is, text);
		free(is);
		return rc;
	}
	snprintf(text, sizeof text, "%s.rope.dimension_sections", p->a->name);
	return whit_gguf_put_numbers(p->o, text, WHIT_GGUF_I32, section, 4, e);
}

static int put_delta(const put *p, int64_t layers, whit_err *e) {
	const json_t *types = json_object_get(p->config, "layer_types");
	int64_t taps = 4, dim, k_heads, v_heads, interval = 4;
	int rc = whit_json_int(p->config, p->path, "linear_conv_kernel_dim", 0, 1, 64, &taps, e);
	if (!rc) rc = whit_json_int(p->config, p->path, "linear_key_head_dim", 1, 1, INT32_MAX, &dim, e);
	if (!rc) rc = whit_json_int(p->config, p->path, "linear_num_key_heads", 1, 1, INT32_MAX, &k_heads, e);
	if (!rc) rc = whit_json_int(p->config, p->path, "linear_num_value_heads", 1, 1, INT32_MAX, &v_heads, e);
	if (!rc) rc = whit_json_int(p->config, p->path, "full_attention_interval", 0, 1, INT32_MAX, &interval, e);
	if (rc) return rc;
	/* layer_types may say another interval, which is all that a GGUF says here */
	for (int64_t l = 0; json_is_array(types) && l < layers; l++) {
		const char *is = json_string_value(json_array_get(types, (size_t)l));
		if (!is || strcmp(is, "full_attention")) continue;
		interval = l + 1;
		break;
	}
	for (int64_t l = 0; json_is_array(types) && l < layers; l++) {
		const char *is = json_string_value(json_array_get(types, (size_t)l));
		if (is && !strcmp(is, "full_attention") != ((l + 1) % interval != 0)) continue;
		return cannot(p, e, "layer_types", "irregular", "full_attention in every n-th layer");
	}
	rc = put_u32(p, "ssm.conv_kernel", taps, e);
	if (!rc) rc = put_u32(p, "ssm.state_size", dim, e);
	if (!rc) rc = put_u32(p, "ssm.group_count", k_heads, e);
	if (!rc) rc = put_u32(p, "ssm.time_step_rank", v_heads, e);
	if (!rc) rc = put_u32(p, "ssm.inner_size", v_heads * dim, e);
	return rc ? rc : put_u32(p, "full_attention_interval", interval, e);
}

static int put_rope(const put *p, whit_err *e) {
	json_t *none = json_object();
	const json_t *rope = json_object_get(p->config, "rope_scaling");
	const char *type = "default";
	double theta = 10000;
	if (!json_is_object(rope)) rope = json_object_get(p->config, "rope_parameters");
	if (!json_is_object(rope)) rope = none;
	int rc = whit_json_real(p->config, p->path, "rope_theta", 0, 1, 1e12, &theta, e);
	if (!rc) rc = whit_json_real(rope, p->path, "rope_theta", 0, 1, 1e12, &theta, e);
	if (!rc) rc = whit_json_text(rope, p->path, "type", 0, &type, e);
	if (!rc) rc = whit_json_text(rope, p->path, "rope_type", 0, &type, e);
	if (!rc) rc = put_u32(p, "rope.dimension_count", p->rot, e);
	if (!rc) rc = put_f32(p, "rope.freq_base", theta, e);
	if (!rc && p->a->delta) rc = put_sections(p, rope, e);
	if (rc || !strcmp(type, "default")) {
		;
	} else if (!strcmp(type, "linear")) {
		rc = put_linear(p, rope, 1, e);
	} else if (!strcmp(type, "llama3") && !p->a->delta) { /* whose graph takes no factors */
		rc = llama3_factors(p, rope, theta, e);
	} else if (!strcmp(type, "factors") && !p->a->delta) {
		rc = given_factors(p, rope, e);
		if (!rc) rc = put_linear(p, rope, 0, e); /* a GGUF may have both */
	} else if (!strcmp(type, "yarn")) {
		rc = put_yarn(p, rope, e);
	} else {
		rc = cannot(p, e, "rope_type", type,
		            p->a->delta ? "default, linear or yarn" : "default, linear, llama3 or yarn");
	}
	json_decref(none);
	return rc;
}

/* Qwen3.5's default, a rope dictionary's word, or the config's. */
static int read_rot(put *p, whit_err *e) {
	const json_t *rope = json_object_get(p->config, "rope_parameters");
	double part = 0.25;
	int rc = whit_json_real(p->config, p->path, "partial_rotary_factor", 0, 0, 1, &part, e);
	if (!json_is_object(rope)) rope = json_object_get(p->config, "rope_scaling");
	if (!rc && json_is_object(rope)) rc = whit_json_real(rope, p->path, "partial_rotary_factor", 0, 0, 1, &part, e);
	p->rot = (int64_t)((double)p->dim * part + 1e-9) / 2 * 2; /* as arch_common.c has it */
	return rc;
}

/* ---- all of it ---- */

int whit_gguf_put_config(whit_gguf_out *o, const whit_gguf_arch *a, const json_t *config, const char *path,
                         const char *model_name, float **rope_factors, int64_t *n_factors, whit_err *e) {
	put p = {.o = o, .a = a, .config = config, .path = path, .factors = rope_factors, .n_factors = n_factors};
	int64_t vocab, hidden, layers, inner, heads, kv_heads;
	double eps;
	*rope_factors = NULL;
	*n_factors = 0;
	int rc = whit_json_int(config, path, "vocab_size", 1, 1, INT32_MAX, &vocab, e);
	if (!rc) rc = whit_json_int(config, path, "hidden_size", 1, 1, INT32_MAX, &hidden, e);
	/* 512 blocks is llama.cpp's limit */
	if (!rc) rc = whit_json_int(config, path, "num_hidden_layers", 1, 1, 512, &layers, e);
	if (!rc) rc = whit_json_int(config, path, "max_position_embeddings", 1, 1, INT32_MAX, &p.context, e);
	if (!rc) rc = whit_json_int(config, path, "intermediate_size", 1, 1, INT32_MAX, &inner, e);
	if (!rc) rc = whit_json_int(config, path, "num_attention_heads", 1, 1, INT32_MAX, &heads, e);
	if (rc) return rc;
	kv_heads = heads;
	p.dim = hidden / heads;
	rc = whit_json_int(config, path, "num_key_value_heads", 0, 1, heads, &kv_heads, e);
	if (!rc) rc = whit_json_int(config, path, "head_dim", 0, 2, INT32_MAX, &p.dim, e);
	if (!rc) rc = whit_json_real(config, path, "rms_norm_eps", 1, 0, 1, &eps, e);
	if (!rc) rc = refuse_biases(&p, e);
	if (!rc) rc = refuse_window(&p, layers, e);
	if (!rc && a->qkv_bias && heads * p.dim != hidden) { /* the loader shapes q by the hidden size there */
		char is[32], need[64];
		snprintf(is, sizeof is, "%lld", (long long)p.dim);
		snprintf(need, sizeof need, "hidden_size / num_attention_heads, %lld / %lld", (long long)hidden,
		         (long long)heads);
		rc = cannot(&p, e, "head_dim", is, need);
	}
	if (!rc) rc = whit_gguf_put_string(o, "general.architecture", a->name, e);
	if (!rc) rc = whit_gguf_put_string(o, "general.type", "model", e);
	if (!rc) rc = whit_gguf_put_string(o, "general.name", model_name, e);
	if (!rc) rc = put_u32(&p, "vocab_size", vocab, e);
	if (!rc) rc = put_u32(&p, "context_length", p.context, e);
	if (!rc) rc = put_u32(&p, "embedding_length", hidden, e);
	if (!rc) rc = put_u32(&p, "block_count", layers, e);
	if (!rc) rc = put_u32(&p, "feed_forward_length", inner, e);
	if (!rc) rc = put_u32(&p, "attention.head_count", heads, e);
	if (!rc) rc = put_u32(&p, "attention.head_count_kv", kv_heads, e);
	if (!rc) rc = put_f32(&p, "attention.layer_norm_rms_epsilon", eps, e);
	p.rot = p.dim;
	if (!rc && a->delta) rc = read_rot(&p, e);
	if (!rc && a->delta) rc = put_delta(&p, layers, e);
	if (!rc && (p.dim * heads != hidden || a->delta)) {
		rc = put_u32(&p, "attention.key_length", p.dim, e);
		if (!rc) rc = put_u32(&p, "attention.value_length", p.dim, e);
	}
	if (!rc) rc = put_rope(&p, e);
	if (rc) {
		whit_free(*rope_factors);
		*rope_factors = NULL;
	}
	return rc;
}
