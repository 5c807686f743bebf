/* arch_common: config reading, rope scaling, the decoder's program. */
#include "host/arch_common.h"
#include <math.h>
#include <stdio.h>

#define ARCH(name) extern const whit_arch whit_arch_##name;
#include "host/archs.def"
#undef ARCH
const whit_arch *const whit_archs[] = {
#define ARCH(name) &whit_arch_##name,
#include "host/archs.def"
#undef ARCH
        NULL};

static const double PI = 3.14159265358979323846;

/* ---- keys ---- */

/* clang-format off */
/* Keys that change nothing about the function from tokens to logits, or that the checkpoint reader judges. */
static const char *const harmless[] = {
	"model_type", "architectures", "torch_dtype", "dtype", "transformers_version", "use_cache", "initializer_range",
	"attention_dropout", "pad_token_id", "pretraining_tp", "_name_or_path", "_attn_implementation", "_commit_hash",
	"attn_implementation", "tokenizer_class", "is_decoder", "is_llama_config", "max_length", "min_length", "bos_token",
	"eos_token", "hidden_dropout", "resid_pdrop", "embd_pdrop", "residual_dropout", "embedding_dropout", "classifier_dropout",
	"unsloth_version", "unsloth_fixed", "unsloth_tied_embeddings_ok", "transformers.js_config", "output_attentions",
	"output_hidden_states", "return_dict", "torchscript", "id2label", "label2id", "problem_type", "finetuning_task",
	"task_specific_params", "chunk_size_feed_forward", "return_dict_in_generate", "keys_to_ignore_at_inference",
	"gradient_checkpointing", "use_bfloat16", "vocab_file", "license",
	"quantization_config", "compression_config", "auto_map", NULL
};

/* Keys of which we implement one value. */
static const struct fixed {
	const char *key, *value;
} fixed[] = {
	{ "hidden_act", "\"silu\"" },       { "rope_interleaved", "false" },     { "partial_rotary_factor", "1" },
	{ "is_encoder_decoder", "false" },  { "add_cross_attention", "false" },  { "tie_encoder_decoder", "false" },
};
/* clang-format on */

static int listed(const char *const *list, const char *key) {
	while (*list && strcmp(*list, key)) list++;
	return *list != NULL;
}

static int equals(const json_t *have, const char *text) {
	json_t *want = json_loads(text, JSON_DECODE_ANY, NULL);
	int same = json_is_number(have) && json_is_number(want) ? json_number_value(have) == json_number_value(want)
	                                                        : json_equal(have, want);
	json_decref(want);
	return same;
}

/* 1 = key may hold only one value and holds it, 0 = not such a key, negative = another value. */
static int check_fixed(const char *file, const char *key, const json_t *value, whit_err *e) {
	for (int i = 0; i < WHIT_COUNT(fixed); i++) {
		if (strcmp(fixed[i].key, key)) continue;
		if (equals(value, fixed[i].value)) return 1;
		char *is = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
		int rc = whit_fail(e, WHIT_EINPUT, "%s: key %s: is %.100s, need %s: nothing else is implemented", file,
		                   key, is, fixed[i].value);
		free(is);
		return rc;
	}
	return 0;
}

int whit_config_check(const whit_model *m, const char *const *read, whit_err *e) {
	const char *file = m->ckpt.config_path, *key;
	json_t *value, *config = (json_t *)(uintptr_t)m->config; /* iterators want it */
	json_object_foreach(config, key, value) {
		if (json_is_null(value) || listed(read, key) || listed(harmless, key)) continue;
		int rc = check_fixed(file, key, value, e);
		if (rc < 0) return rc;
		if (rc) continue;
		char known[700] = "";
		for (int i = 0; read[i]; i++)
			snprintf(known + strlen(known), sizeof known - strlen(known), " %s", read[i]);
		return whit_fail(e, WHIT_EINPUT, "%s: key %.100s is unknown to architecture %s, which implements:%s",
		                 file, key, m->arch->name, known);
	}
	return 0;
}

/* ---- rotary frequencies ---- */

/* clang-format off */
/* What a rope dictionary may hold, by type; of any type where positions have several
 * axes, which are one and the same for text. */
static const char *const rope_axes[] = { "mrope_section", "mrope_interleaved", NULL };
static const char *const rope_default[] = { "type", "rope_type", "rope_theta", "partial_rotary_factor", NULL };
static const char *const rope_linear[] = { "type", "rope_type", "rope_theta", "partial_rotary_factor", "factor", NULL };
static const char *const rope_llama3[] = { "type", "rope_type", "rope_theta", "partial_rotary_factor", "factor",
	"low_freq_factor", "high_freq_factor", "original_max_position_embeddings", NULL };
static const char *const rope_yarn[] = { "type", "rope_type", "rope_theta", "partial_rotary_factor", "factor",
	"original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", NULL };
static const char *const rope_factors[] = { "type", "rope_type", "rope_theta", "partial_rotary_factor", "factor", "factors", NULL };
/* clang-format on */

/* 1 / theta^(2i/dim), every step rounded to float: the models' own code does, and the low bits of a fast
 * frequency are visible at position 10^4. */
static void plain_freq(float *f, int64_t dim, double theta) {
	for (int64_t i = 0; i < dim / 2; i++) f[i] = 1 / (float)pow(theta, (float)(2 * i) / (float)dim);
}

/* Llama 3: slow waves are stretched, fast ones kept, those between interpolated. */
static int scale_llama3(float *f, int64_t dim, const json_t *j, const char *file, int64_t context, whit_err *e) {
	double factor, low, high;
	int64_t original = context;
	int rc = whit_json_real(j, file, "factor", 1, 1e-6, 1e6, &factor, e);
	if (!rc) rc = whit_json_real(j, file, "low_freq_factor", 1, 1e-6, 1e6, &low, e);
	if (!rc) rc = whit_json_real(j, file, "high_freq_factor", 1, 1e-6, 1e6, &high, e);
	if (!rc) rc = whit_json_int(j, file, "original_max_position_embeddings", 0, 1, INT32_MAX, &original, e);
	if (!rc && high <= low)
		rc = whit_fail(e, WHIT_EINPUT, "%s: key high_freq_factor: is %g, need more than low_freq_factor, %g",
		               file, high, low);
	for (int64_t i = 0; i < dim / 2 && !rc; i++) {
		float wave = (float)(2 * PI) / f[i], c = (float)original;
		float smooth = (c / wave - (float)low) / (float)(high - low);
		if (wave > c / (float)low)
			f[i] /= (float)factor;
		else if (wave >= c / (float)high)
			f[i] = (1 - smooth) * f[i] / (float)factor + smooth * f[i];
	}
	return rc;
}

/* Peng et al. 2023 (YaRN), with the attention factor folded into cos and sin. */
static int scale_yarn(float *f, int64_t dim, double theta, const json_t *j, const char *file, int64_t context,
                      double *mscale, whit_err *e) {
	double factor = 0, fast = 32, slow = 1, ms = 0, ms_all = 0, attention = 0;
	int64_t original = context;
	int truncate = 1;
	int rc = whit_json_int(j, file, "original_max_position_embeddings", 0, 1, INT32_MAX, &original, e);
	if (!rc) rc = whit_json_real(j, file, "factor", 0, 1e-6, 1e6, &factor, e);
	if (!rc) rc = whit_json_real(j, file, "beta_fast", 0, 1e-6, 1e6, &fast, e);
	if (!rc) rc = whit_json_real(j, file, "beta_slow", 0, 1e-6, 1e6, &slow, e);
	if (!rc) rc = whit_json_real(j, file, "mscale", 0, 0, 1e6, &ms, e);
	if (!rc) rc = whit_json_real(j, file, "mscale_all_dim", 0, 0, 1e6, &ms_all, e);
	if (!rc) rc = whit_json_real(j, file, "attention_factor", 0, 1e-6, 1e6, &attention, e);
	if (!rc) rc = whit_json_bool(j, file, "truncate", 0, &truncate, e);
	if (rc) return rc;
	if (factor == 0) factor = (double)context / (double)original;
	double log_factor = factor > 1 ? 0.1 * log(factor) : 0;
	if (attention != 0)
		*mscale = attention;
	else
		*mscale = ms != 0 && ms_all != 0 ? (ms * log_factor + 1) / (ms_all * log_factor + 1) : log_factor + 1;
	/* the dimension whose wave turns n times over the original context */
	double d = (double)dim, low = d * log((double)original / (fast * 2 * PI)) / (2 * log(theta));
	double high = d * log((double)original / (slow * 2 * PI)) / (2 * log(theta));
	low = WHIT_MAX(truncate ? floor(low) : low, 0);
	high = WHIT_MIN(truncate ? ceil(high) : high, d - 1);
	if (low == high) high += 0.001;
	for (int64_t i = 0; i < dim / 2; i++) {
		float ramp = (float)(((float)i - low) / (high - low));
		float keep = 1 - WHIT_MIN(WHIT_MAX(ramp, 0), 1);
		f[i] = f[i] / (float)factor * (1 - keep) + f[i] * keep;
	}
	return 0;
}

/* Ours, as a GGUF's rope_freqs.weight has it: a divisor for each frequency, and one for all. */
static int scale_factors(float *f, int64_t dim, const json_t *j, const char *file, whit_err *e) {
	const json_t *list, *v;
	double factor = 1;
	size_t i;
	int rc = whit_json_real(j, file, "factor", 0, 1e-6, 1e6, &factor, e);
	if (!rc) rc = whit_json_member(j, file, "factors", 1, JSON_ARRAY, &list, e);
	if (rc) return rc;
	if ((int64_t)json_array_size(list) != dim / 2)
		return whit_fail(e, WHIT_EINPUT, "%s: key factors: has %zu values, need %lld, half of head_dim", file,
		                 json_array_size(list), (long long)(dim / 2));
	json_array_foreach(list, i, v) {
		float by = (float)json_number_value(v);
		if (!(by > 0 && isfinite(by)))
			return whit_fail(e, WHIT_EINPUT, "%s: key factors: value %zu is %g, need a positive number",
			                 file, i, (double)by);
		f[i] = f[i] / by / (float)factor;
	}
	return 0;
}

static int read_rope(whit_model *m, whit_decoder *d, whit_err *e) {
	const char *file = m->ckpt.config_path, *type = "default", *key;
	json_t *scaling = json_object_get(m->config, "rope_scaling"),
	       *params = json_object_get(m->config, "rope_parameters");
	json_t *none = json_object(), *value;
	if (!json_is_object(scaling)) scaling = NULL;
	if (!json_is_object(params)) params = NULL;
	json_t *j = scaling ? scaling : params ? params : none;
	double theta = 10000, partial = d->partial > 0 ? d->partial : 1, factor;
	float *f = whit_alloc((size_t)d->dim * sizeof *f); /* rot / 2 of them at most */
	int rc = 0;
	if (scaling && params && !json_equal(scaling, params))
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: keys rope_scaling and rope_parameters say different things, need one", file);
	if (!rc) rc = whit_json_real(m->config, file, "rope_theta", 0, 1, 1e12, &theta, e);
	if (!rc) rc = whit_json_real(j, file, "rope_theta", 0, 1, 1e12, &theta, e);
	if (!rc) rc = whit_json_real(j, file, "partial_rotary_factor", 0, 0, 1, &partial, e);
	if (!rc && d->partial > 0) rc = whit_json_real(m->config, file, "partial_rotary_factor", 0, 0, 1, &partial, e);
	if (!rc && partial != 1 && !(d->partial > 0))
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: key partial_rotary_factor: is %g, need 1: nothing else is implemented", file,
		               partial);
	if (!rc) rc = whit_json_text(j, file, "type", 0, &type, e);
	if (!rc) rc = whit_json_text(j, file, "rope_type", 0, &type, e);
	if (rc) goto out;
	/* 1e-9: a part that was made by a division, 30 of 88, gives 30 again */
	d->rot = (int64_t)((double)d->dim * partial + 1e-9) / 2 * 2;
	if (d->rot < 2) {
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: key partial_rotary_factor: is %g, which is %lld of a head's %lld, need 2 or more",
		               file, partial, (long long)d->rot, (long long)d->dim);
		goto out;
	}
	const char *const *known = !strcmp(type, "default")   ? rope_default
	                           : !strcmp(type, "linear")  ? rope_linear
	                           : !strcmp(type, "llama3")  ? rope_llama3
	                           : !strcmp(type, "yarn")    ? rope_yarn
	                           : !strcmp(type, "factors") ? rope_factors
	                                                      : NULL;
	if (!known) {
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: key rope_type: is \"%.60s\", need one of: default, linear, llama3, yarn, factors",
		               file, type);
		goto out;
	}
	json_object_foreach(j, key, value) {
		if (json_is_null(value) || listed(known, key) || (d->partial > 0 && listed(rope_axes, key))) continue;
		rc = whit_fail(e, WHIT_EINPUT, "%s: rope key %.60s is unknown to rope_type \"%s\"", file, key, type);
		goto out;
	}
	plain_freq(f, d->rot, theta);
	d->mscale = 1;
	if (known == rope_linear) {
		rc = whit_json_real(j, file, "factor", 1, 1e-6, 1e6, &factor, e);
		for (int64_t i = 0; i < d->rot / 2 && !rc; i++) f[i] /= (float)factor;
	}
	if (known == rope_llama3) rc = scale_llama3(f, d->rot, j, file, m->context, e);
	if (known == rope_factors) rc = scale_factors(f, d->rot, j, file, e);
	if (known == rope_yarn) rc = scale_yarn(f, d->rot, theta, j, file, m->context, &d->mscale, e);
	double *inv = whit_take_bytes(&m->arena, (size_t)(d->rot / 2) * sizeof *inv);
	for (int64_t i = 0; i < d->rot / 2; i++) inv[i] = f[i];
	d->inv_freq = inv;
out:
	json_decref(none);
	whit_free(f);
	return rc;
}

/* ---- the decoder ---- */

/* One id or a list of them, added to m->eos. */
static int read_eos(whit_model *m, const json_t *config, const char *file, whit_err *e) {
	const json_t *v = json_object_get(config, "eos_token_id");
	size_t n = json_is_array(v) ? json_array_size(v) : v && !json_is_null(v);
	for (size_t i = 0; i < n; i++) {
		const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
		int known = 0;
		if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= m->vocab)
			return whit_fail(e, WHIT_EINPUT, "%s: key eos_token_id: need ids in [0, vocab_size), %lld",
			                 file, (long long)m->vocab);
		for (int k = 0; k < m->n_eos; k++) known |= m->eos[k] == json_integer_value(id);
		if (known) continue;
		if (m->n_eos == WHIT_COUNT(m->eos))
			return whit_fail(e, WHIT_EINPUT, "%s: key eos_token_id: is more than %d ids, need at most that",
			                 file, m->n_eos);
		m->eos[m->n_eos++] = (int32_t)json_integer_value(id);
	}
	return 0;
}

/* generation_config.json may name more ids that end a text (Qwen's chat models do). */
static int read_generation(whit_model *m, whit_err *e) {
	char *path = whit_format_text("%s/generation_config.json", m->ckpt.path);
	json_t *j = NULL;
	int rc = whit_file_exists(path) ? whit_json_load(&j, path, e) : 0;
	if (!rc && j) rc = read_eos(m, j, path, e);
	json_decref(j);
	whit_free(path);
	return rc;
}

int whit_decoder_read(whit_model *m, whit_decoder *d, int head_dim_required, whit_err *e) {
	const json_t *j = m->config;
	const char *file = m->ckpt.config_path;
	enum { MOST = 1 << 24 };
	int64_t bos = -1;
	double eps;
	int rc = whit_json_int(j, file, "vocab_size", 1, 1, INT32_MAX, &m->vocab, e);
	if (!rc) rc = whit_json_int(j, file, "hidden_size", 1, 1, MOST, &m->hidden, e);
	if (!rc) rc = whit_json_int(j, file, "num_hidden_layers", 1, 1, 1 << 16, &m->layers, e);
	if (!rc) rc = whit_json_int(j, file, "max_position_embeddings", 1, 1, INT32_MAX, &m->context, e);
	if (!rc) rc = whit_json_int(j, file, "intermediate_size", 1, 1, MOST, &d->inner, e);
	if (!rc) rc = whit_json_int(j, file, "num_attention_heads", 1, 1, MOST, &d->heads, e);
	if (rc) return rc;
	m->layer = whit_alloc((size_t)m->layers * sizeof *m->layer);
	d->kv_heads = d->heads;
	d->dim = head_dim_required ? 0 : m->hidden / d->heads;
	rc = whit_json_int(j, file, "num_key_value_heads", 0, 1, MOST, &d->kv_heads, e);
	if (!rc) rc = whit_json_int(j, file, "head_dim", head_dim_required, 2, MOST, &d->dim, e);
	if (!rc) rc = whit_json_real(j, file, "rms_norm_eps", 1, 0, 1, &eps, e);
	if (!rc) rc = whit_json_bool(j, file, "tie_word_embeddings", 0, &d->tied, e);
	if (!rc) rc = whit_json_int(j, file, "bos_token_id", 0, -1, INT32_MAX, &bos, e);
	if (!rc) rc = read_eos(m, j, file, e);
	if (!rc) rc = read_generation(m, e);
	if (rc) return rc;
	m->bos = (int32_t)bos;
	d->eps = (float)eps;
	if (d->heads % d->kv_heads)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: key num_attention_heads: is %lld, need a multiple of num_key_value_heads, %lld",
		                 file, (long long)d->heads, (long long)d->kv_heads);
	if (d->dim < 2 || d->dim % 2)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: head_dim (or hidden_size / num_attention_heads): is %lld, need an even number",
		                 file, (long long)d->dim);
	return read_rope(m, d, e);
}

int whit_decoder_read_window(const whit_model *m, whit_decoder *d, whit_err *e) {
	const json_t *j = m->config, *types = json_object_get(j, "layer_types");
	const char *file = m->ckpt.config_path;
	int use = 0;
	int64_t window = 0, from = m->layers;
	int rc = whit_json_bool(j, file, "use_sliding_window", 0, &use, e);
	if (!rc) rc = whit_json_int(j, file, "sliding_window", use, 1, INT32_MAX, &window, e);
	if (!rc) rc = whit_json_int(j, file, "max_window_layers", use, 0, INT32_MAX, &from, e);
	if (rc) return rc;
	d->window = use ? window : 0;
	d->window_from = WHIT_MIN(from, m->layers);
	if (!types || json_is_null(types)) return 0;
	if (!json_is_array(types) || (int64_t)json_array_size(types) != m->layers)
		return whit_fail(e, WHIT_EINPUT, "%s: key layer_types: need a list of num_hidden_layers, %lld, names",
		                 file, (long long)m->layers);
	for (int64_t l = 0; l < m->layers; l++) {
		const char *is = json_string_value(json_array_get(types, (size_t)l));
		const char *need = d->window && l >= d->window_from ? "sliding_attention" : "full_attention";
		if (!is || strcmp(is, need))
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: key layer_types: layer %lld is \"%.60s\", need \"%s\" as "
			                 "use_sliding_window and max_window_layers say",
			                 file, (long long)l, is ? is : "", need);
	}
	return 0;
}

int whit_build_norm(whit_build b, const char *role, int x, int64_t heads, int64_t dim, float eps, float shift) {
	int w = whit_program_slot(b.p, role, whit_format_text("%s%s.weight", b.prefix, role), 0, dim);
	int y = whit_program_value(b.p, heads * dim);
	whit_node *n = whit_program_node(b.p, "rmsnorm", role);
	n->in[0] = x;
	n->w[0] = w;
	n->out[0] = y;
	n->a = (whit_attr){.eps = eps, .shift = shift, .heads = heads, .dim = dim};
	return y;
}

int whit_build_linear(whit_build b, const char *part, const char *role, int x, int64_t rows, int64_t cols, int bias) {
	int w = whit_program_slot(b.p, role, whit_format_text("%s%s%s.weight", b.prefix, part, role), rows, cols);
	int c = bias ? whit_program_slot(b.p, role, whit_format_text("%s%s%s.bias", b.prefix, part, role), 0, rows)
	             : -1;
	int y = whit_program_value(b.p, rows);
	whit_node *n = whit_program_node(b.p, "linear", role);
	n->in[0] = x;
	n->w[0] = w;
	n->w[1] = c;
	n->out[0] = y;
	return y;
}

int whit_build_join(whit_build b, const char *op, const char *role, int x, int z) {
	int y = whit_program_value(b.p, b.p->width[x]);
	whit_node *n = whit_program_node(b.p, op, role);
	n->in[0] = x;
	n->in[1] = z;
	n->out[0] = y;
	return y;
}

static int rope(whit_build b, const whit_decoder *d, const char *role, int x, int64_t heads) {
	int y = whit_program_value(b.p, heads * d->dim);
	whit_node *n = whit_program_node(b.p, "rope", role);
	n->in[0] = x;
	n->out[0] = y;
	n->a = (whit_attr){.heads = heads, .dim = d->dim, .rot = d->rot, .inv_freq = d->inv_freq, .mscale = d->mscale};
	return y;
}

/* Of each head's values the first half, its queries; *gate the second. */
static int split(whit_build b, const whit_decoder *d, int x, int *gate) {
	int q = whit_program_value(b.p, d->heads * d->dim);
	*gate = whit_program_value(b.p, d->heads * d->dim);
	whit_node *n = whit_program_node(b.p, "split", "q_split");
	n->in[0] = x;
	n->out[0] = q;
	n->out[1] = *gate;
	n->a = (whit_attr){.heads = d->heads, .dim = d->dim};
	return q;
}

static int attention(whit_model *m, const whit_decoder *d, int64_t l, whit_build b, int x) {
	char *inner = whit_format_text("%sself_attn.", b.prefix);
	whit_build attn = {b.p, inner};
	int64_t H = m->hidden, qw = d->heads * d->dim, kw = d->kv_heads * d->dim;
	int q = whit_build_linear(b, "self_attn.", "q_proj", x, d->gated ? 2 * qw : qw, H, d->qkv_bias), gate = -1;
	int k = whit_build_linear(b, "self_attn.", "k_proj", x, kw, H, d->qkv_bias);
	int v = whit_build_linear(b, "self_attn.", "v_proj", x, kw, H, d->qkv_bias);
	if (d->gated) q = split(b, d, q, &gate);
	if (d->qk_norm) {
		q = whit_build_norm(attn, "q_norm", q, d->heads, d->dim, d->eps, d->shift);
		k = whit_build_norm(attn, "k_norm", k, d->kv_heads, d->dim, d->eps, d->shift);
	}
	q = rope(b, d, "rope_q", q, d->heads);
	k = rope(b, d, "rope_k", k, d->kv_heads);
	int a = whit_program_value(b.p, qw);
	whit_node *n = whit_program_node(b.p, "attention", "attn");
	n->in[0] = q;
	n->in[1] = k;
	n->in[2] = v;
	n->out[0] = a;
	n->a = (whit_attr){.heads = d->heads,
	                   .kv_heads = d->kv_heads,
	                   .dim = d->dim,
	                   .scale = (float)(1 / sqrt((double)d->dim)),
	                   .window = l >= d->window_from ? d->window : 0};
	if (d->gated) a = whit_build_join(b, "gate", "attn_gate", a, gate);
	whit_free(inner);
	return whit_build_linear(b, "self_attn.", "o_proj", a, H, qw, d->o_bias);
}

static void build_layer(whit_model *m, const whit_decoder *d, int64_t l, const char *prefix) {
	whit_build b = {&m->layer[l], prefix};
	int64_t H = m->hidden;
	whit_program_init(b.p, H);
	int x = whit_build_norm(b, "input_layernorm", 0, 1, H, d->eps, d->shift);
	int y = d->linear_layer && d->linear_layer[l] ? d->mixer(m, d, b, x) : attention(m, d, l, b, x);
	int h = whit_build_join(b, "add", "attn_residual", 0, y);
	x = whit_build_norm(b, "post_attention_layernorm", h, 1, H, d->eps, d->shift);
	int gate = whit_build_linear(b, "mlp.", "gate_proj", x, d->inner, H, d->mlp_bias);
	int up = whit_build_linear(b, "mlp.", "up_proj", x, d->inner, H, d->mlp_bias);
	int act = whit_build_join(b, "swiglu", "mlp_act", gate, up);
	whit_build_join(b, "add", "mlp_residual", h,
	                whit_build_linear(b, "mlp.", "down_proj", act, H, d->inner, d->mlp_bias));
}

/* A tied model's file may still hold the head: then it must be the embedding's bytes. */
static int check_tied_head(const whit_model *m, const char *embed, whit_err *e) {
	const whit_weight *head = whit_ckpt_find(&m->ckpt, "lm_head.weight"), *w = whit_ckpt_find(&m->ckpt, embed);
	if (!head || !w || head == w) return 0;
	int same =
	        head->mat.spec.fmt == w->mat.spec.fmt && head->mat.rows == w->mat.rows && head->mat.cols == w->mat.cols;
	for (int64_t r = 0; same && r < w->mat.rows; r++)
		same = !memcmp(head->mat.plane[0] + r * (int64_t)head->mat.row_bytes[0],
		               w->mat.plane[0] + r * (int64_t)w->mat.row_bytes[0], w->mat.row_bytes[0]);
	if (same) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: tensor lm_head.weight differs from %s, yet tie_word_embeddings is true",
	                 head->file, embed);
}

int whit_decoder_build(whit_model *m, const whit_decoder *d, whit_err *e) {
	/* A checkpoint of the inner model alone lacks the prefix; one of several towers has a longer one. */
	const char *root = whit_ckpt_find(&m->ckpt, "embed_tokens.weight") ? "" : "model.";
	if (whit_ckpt_find(&m->ckpt, "model.language_model.embed_tokens.weight")) root = "model.language_model.";
	char *embed = whit_format_text("%sembed_tokens.weight", root);
	int rc = d->tied ? check_tied_head(m, embed, e) : 0;
	whit_program_init(&m->embed, 0);
	int w = whit_program_slot(&m->embed, "embed_tokens", whit_strdup(embed), m->vocab, m->hidden);
	int y = whit_program_value(&m->embed, m->hidden);
	whit_node *n = whit_program_node(&m->embed, "embed", "embed_tokens");
	n->w[0] = w;
	n->out[0] = y;
	for (int64_t l = 0; l < m->layers; l++) {
		char *prefix = whit_format_text("%slayers.%lld.", root, (long long)l);
		build_layer(m, d, l, prefix);
		whit_free(prefix);
	}
	whit_program_init(&m->head, m->hidden);
	int x = whit_build_norm((whit_build){&m->head, root}, "norm", 0, 1, m->hidden, d->eps, d->shift);
	if (d->tied) {
		w = whit_program_slot(&m->head, "embed_tokens", whit_strdup(embed), m->vocab, m->hidden);
		y = whit_program_value(&m->head, m->vocab);
		n = whit_program_node(&m->head, "linear", "lm_head");
		n->in[0] = x;
		n->w[0] = w;
		n->out[0] = y;
	} else {
		whit_build_linear((whit_build){&m->head, ""}, "", "lm_head", x, m->vocab, m->hidden, 0);
	}
	whit_free(embed);
	return rc;
}
