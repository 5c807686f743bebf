/* arch_common: what architectures share: strict reading of config.json, rotary frequencies, and the block
 * program of pre-norm decoders with grouped-query attention and a gated feed-forward part. */
#ifndef WHIT_ARCH_COMMON_H
#define WHIT_ARCH_COMMON_H
#include "formats/json.h"
#include "host/engine.h"

/* Every key that stands in config.json (null = absent) must be in `read` (NULL-terminated: what the
 * architecture's reader looks at), in the common list of keys without effect on the function, or in the
 * common list of keys with one implemented value; anything else is an error that lists `read`. */
int whit_config_check(const whit_model *m, const char *const *read, whit_err *e);

/* A program under construction and what names its weights. */
typedef struct whit_build {
	whit_program *p;
	const char *prefix;
} whit_build;
/* Nodes with their weights "PREFIX{part}{role}.weight" (part: where it lives, "self_attn."); they return the value they
 * make. */
int whit_build_norm(whit_build b, const char *role, int x, int64_t heads, int64_t dim, float eps, float shift);
int whit_build_linear(whit_build b, const char *part, const char *role, int x, int64_t rows, int64_t cols, int bias);
int whit_build_join(whit_build b, const char *op, const char *role, int x, int z); /* of two values of one width */

/* A decoder; config readers fill it. */
typedef struct whit_decoder whit_decoder;
struct whit_decoder {
	int64_t inner, heads, kv_heads, dim; /* inner: of the feed-forward part */
	float eps, shift;                    /* shift: of norms' weights, 1 where they are zero-centred */
	int qkv_bias, o_bias, mlp_bias, qk_norm, tied;
	int64_t window, window_from; /* layers from window_from on see `window` tokens; 0 = all */
	double partial;              /* of a head that is rotated unless the config says another part; 0 = all */
	int64_t rot;                 /* which makes so many values */
	const double *inv_freq;      /* rot / 2 of them, in the model's arena */
	double mscale;
	int gated;                   /* q_proj holds a gate of the attention's output beside each head's queries */
	const uint8_t *linear_layer; /* of each layer: 1 = `mixer` stands for attention; NULL = none */
	int (*mixer)(whit_model *m, const whit_decoder *d, whit_build b, int x);
	const void *own; /* the mixer's */
};

/* The keys that whit_decoder_read reads. */
#define WHIT_DECODER_KEYS                                                                                              \
	"vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings", "intermediate_size",              \
	        "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings",       \
	        "bos_token_id", "eos_token_id", "rope_theta", "rope_scaling", "rope_parameters"
/* Reads what all families have, into m and d: sizes, eps, ties, ids that end generation, activation,
 * rope. head_dim is required or defaults to hidden / heads. */
int whit_decoder_read(whit_model *m, whit_decoder *d, int head_dim_required, whit_err *e);
/* use_sliding_window, sliding_window, max_window_layers, layer_types: Qwen's. */
int whit_decoder_read_window(const whit_model *m, whit_decoder *d, whit_err *e);
/* Emits the programs: h += o(attn(rope(norm?(q)), ...)); h += down(silu(gate) * up). */
int whit_decoder_build(whit_model *m, const whit_decoder *d, whit_err *e);
#endif
