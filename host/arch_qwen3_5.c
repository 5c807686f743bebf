/* qwen3_5: the text part of Qwen3.5 and Qwen3.6, dense: three layers of gated delta net to one of gated attention.
 * Vision tower and next-token head of a multimodal checkpoint are left alone. Refused: delta net heads whose keys and
 * values differ in width, gates other than silu, attention without its gate. */
#include <math.h>
#include "host/arch_common.h"

static const char *const keys[] = {WHIT_DECODER_KEYS,
                                   "partial_rotary_factor",
                                   "attention_bias",
                                   "layer_types",
                                   "full_attention_interval",
                                   "linear_conv_kernel_dim",
                                   "linear_key_head_dim",
                                   "linear_value_head_dim",
                                   "linear_num_key_heads",
                                   "linear_num_value_heads",
                                   "attn_output_gate",
                                   "output_gate_type",
                                   "mamba_ssm_dtype",
                                   "mtp_num_hidden_layers",
                                   "mtp_use_dedicated_embeddings",
                                   "whit_gguf_layout",
                                   NULL};

/* Around text_config in a multimodal checkpoint. */
static const char *const outer[] = {"text_config",         "vision_config",         "image_token_id",
                                    "video_token_id",      "vision_start_token_id", "vision_end_token_id",
                                    "tie_word_embeddings", "language_model_only",   NULL};

static const char *const ignored[] = {
        "*self_attn.rotary_emb.inv_freq", "lm_head.weight", "model.visual.*", "visual.*", "mtp.*", "model.mtp.*", NULL};

typedef struct delta_net {
	int64_t k_heads, v_heads, dim, taps;
	int gguf; /* tensors are in GGUF's order: norms hold 1 + w, A_log -exp(A_log), v heads are tiled (qwen35.md 4)
	           */
} delta_net;

static int slot(whit_build b, const char *role, int64_t n) {
	return whit_program_slot(b.p, role, whit_format_text("%slinear_attn.%s", b.prefix, role), 0, n);
}

static int mixer(whit_model *m, const whit_decoder *d, whit_build b, int x) {
	const delta_net *o = d->own;
	char *inner = whit_format_text("%slinear_attn.", b.prefix);
	int64_t H = m->hidden, V = o->v_heads * o->dim, C = 2 * o->k_heads * o->dim + V;
	int qkv = whit_build_linear(b, "linear_attn.", "in_proj_qkv", x, C, H, 0);
	int z = whit_build_linear(b, "linear_attn.", "in_proj_z", x, V, H, 0);
	int beta = whit_build_linear(b, "linear_attn.", "in_proj_b", x, o->v_heads, H, 0);
	int alpha = whit_build_linear(b, "linear_attn.", "in_proj_a", x, o->v_heads, H, 0);
	whit_attr a = {.heads = o->k_heads,
	               .kv_heads = o->v_heads,
	               .dim = o->dim,
	               .taps = o->taps,
	               .tiled = o->gguf,
	               .rate_done = o->gguf};
	int w = slot(b, "conv1d.weight", C * o->taps), y = whit_program_value(b.p, C);
	b.p->slot[w].taps = o->taps;
	whit_node *n = whit_program_node(b.p, "conv", "conv1d");
	n->in[0] = qkv;
	n->w[0] = w;
	n->out[0] = y;
	n->a = a;
	int rate = slot(b, "A_log", o->v_heads), dt = slot(b, "dt_bias", o->v_heads), s = whit_program_value(b.p, V);
	n = whit_program_node(b.p, "delta", "delta");
	n->in[0] = y;
	n->in[1] = beta;
	n->in[2] = alpha;
	n->w[0] = rate;
	n->w[1] = dt;
	n->out[0] = s;
	n->a = a;
	s = whit_build_norm((whit_build){b.p, inner}, "norm", s, o->v_heads, o->dim, d->eps, 0);
	s = whit_build_join(b, "swiglu", "delta_gate", z, s); /* silu(z) norm(s) */
	whit_free(inner);
	return whit_build_linear(b, "linear_attn.", "out_proj", s, H, V, 0);
}

/* Which layers are linear: layer_types, else all but every interval-th. */
static int read_layers(const whit_model *m, uint8_t *linear, whit_err *e) {
	const char *file = m->ckpt.config_path;
	const json_t *types = json_object_get(m->config, "layer_types");
	int64_t interval = 4;
	int rc = whit_json_int(m->config, file, "full_attention_interval", 0, 1, 1 << 16, &interval, e);
	if (rc) return rc;
	for (int64_t l = 0; l < m->layers; l++) linear[l] = (l + 1) % interval != 0;
	if (!types || json_is_null(types)) return 0;
	if (!json_is_array(types) || (int64_t)json_array_size(types) != m->layers)
		return whit_fail(e, WHIT_EINPUT, "%s: key layer_types: need a list of num_hidden_layers, %lld, names",
		                 file, (long long)m->layers);
	for (int64_t l = 0; l < m->layers; l++) {
		const char *is = json_string_value(json_array_get(types, (size_t)l));
		linear[l] = is && !strcmp(is, "linear_attention");
		if (!is || (!linear[l] && strcmp(is, "full_attention")))
			return whit_fail(
			        e, WHIT_EINPUT,
			        "%s: key layer_types: layer %lld is \"%.60s\", need linear_attention or full_attention",
			        file, (long long)l, is ? is : "");
	}
	return 0;
}

static int read_delta(const whit_model *m, delta_net *o, whit_err *e) {
	const json_t *j = m->config;
	const char *file = m->ckpt.config_path, *gate = "silu";
	enum { MOST = 1 << 20 };
	int64_t value = 0;
	int gated = 1;
	o->taps = 4;
	int rc = whit_json_int(j, file, "linear_conv_kernel_dim", 0, 1, 64, &o->taps, e);
	if (!rc) rc = whit_json_int(j, file, "linear_key_head_dim", 1, 1, MOST, &o->dim, e);
	if (!rc) rc = whit_json_int(j, file, "linear_value_head_dim", 1, 1, MOST, &value, e);
	if (!rc) rc = whit_json_int(j, file, "linear_num_key_heads", 1, 1, MOST, &o->k_heads, e);
	if (!rc) rc = whit_json_int(j, file, "linear_num_value_heads", 1, 1, MOST, &o->v_heads, e);
	if (!rc) rc = whit_json_bool(j, file, "attn_output_gate", 0, &gated, e);
	if (!rc) rc = whit_json_text(j, file, "output_gate_type", 0, &gate, e);
	if (!rc) rc = whit_json_bool(j, file, "whit_gguf_layout", 0, &o->gguf, e);
	if (rc) return rc;
	if (value != o->dim)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: key linear_value_head_dim: is %lld, need linear_key_head_dim, %lld", file,
		                 (long long)value, (long long)o->dim);
	if (o->v_heads % o->k_heads)
		return whit_fail(
		        e, WHIT_EINPUT,
		        "%s: key linear_num_value_heads: is %lld, need a multiple of linear_num_key_heads, %lld", file,
		        (long long)o->v_heads, (long long)o->k_heads);
	if (!gated)
		return whit_fail(e, WHIT_EINPUT,
		                 "%s: key attn_output_gate: is false, need true: nothing else is implemented", file);
	if (strcmp(gate, "silu") && strcmp(gate, "swish"))
		return whit_fail(e, WHIT_EINPUT, "%s: key output_gate_type: is \"%.40s\", need silu or swish", file,
		                 gate);
	return 0;
}

/* tied: what is said of that outside m->config, which then holds; NULL: nothing. */
static int build_text(whit_model *m, whit_decoder *d, const json_t *tied, whit_err *e) {
	delta_net *o = whit_take_bytes(&m->arena, sizeof *o);
	memset(o, 0, sizeof *o);
	int rc = whit_config_check(m, keys, e);
	if (!rc) rc = whit_decoder_read(m, d, 1, e);
	if (json_is_boolean(tied)) d->tied = json_is_true(tied);
	if (!rc) rc = whit_json_bool(m->config, m->ckpt.config_path, "attention_bias", 0, &d->qkv_bias, e);
	if (!rc) rc = read_delta(m, o, e);
	if (rc) return rc;
	uint8_t *linear = whit_take_bytes(&m->arena, (size_t)m->layers);
	d->o_bias = d->qkv_bias;
	d->shift = o->gguf ? 0 : 1;
	d->linear_layer = linear;
	d->own = o;
	rc = read_layers(m, linear, e);
	return rc ? rc : whit_decoder_build(m, d, e);
}

static whit_decoder decoder(void) { return (whit_decoder){.qk_norm = 1, .gated = 1, .partial = 0.25, .mixer = mixer}; }

static int build(whit_model *m, whit_err *e) {
	whit_decoder d = decoder();
	return build_text(m, &d, NULL, e);
}

/* Two configs may differ on tied embeddings: the outer one is that of the whole model, whose head it is (transformers
 * 5.24, get_expanded_tied_weights_keys reads its config). */
static int build_multimodal(whit_model *m, whit_err *e) {
	whit_decoder d = decoder();
	const json_t *text, *tied = json_object_get(m->ckpt.config, "tie_word_embeddings");
	int rc = whit_config_check(m, outer, e);
	if (!rc) rc = whit_json_member(m->ckpt.config, m->ckpt.config_path, "text_config", 1, JSON_OBJECT, &text, e);
	if (!rc) rc = whit_json_bool(m->ckpt.config, m->ckpt.config_path, "tie_word_embeddings", 0, &d.tied, e);
	if (rc) return rc;
	m->config = text;
	return build_text(m, &d, tied, e);
}

const whit_arch whit_arch_qwen3_5 = {"qwen3_5", "Qwen3.5, Qwen3.6 dense: text part of the multimodal checkpoint",
                                     build_multimodal, ignored};
const whit_arch whit_arch_qwen3_5_text = {"qwen3_5_text", "the same, alone: gated delta net and gated attention", build,
                                          ignored};
