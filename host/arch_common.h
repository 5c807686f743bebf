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

/* A decoder; config readers fill it. */
typedef struct whit_decoder {
	int64_t inner, heads, kv_heads, dim; /* inner: of the feed-forward part */
	float eps;
	int qkv_bias, o_bias, mlp_bias, qk_norm, tied;
	int64_t window, window_from; /* layers from window_from on see `window` tokens; 0 = all */
	const double *inv_freq;      /* dim / 2 of them, in the model's arena */
	double mscale;
} whit_decoder;

/* Reads what all three families have, into m and d: sizes, eps, ties, ids that end generation, activation,
 * rope. head_dim is required or defaults to hidden / heads. */
int whit_decoder_read(whit_model *m, whit_decoder *d, int head_dim_required, whit_err *e);
/* use_sliding_window, sliding_window, max_window_layers, layer_types: Qwen's. */
int whit_decoder_read_window(const whit_model *m, whit_decoder *d, whit_err *e);
/* Emits the programs: h += o(attn(rope(norm?(q)), ...)); h += down(silu(gate) * up). */
int whit_decoder_build(whit_model *m, const whit_decoder *d, whit_err *e);
#endif
