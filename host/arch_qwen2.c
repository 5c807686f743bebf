/* qwen2: Qwen2 and Qwen2.5, dense: biases on q, k and v. */
#include "host/arch_common.h"

static const char *const keys[] = {WHIT_DECODER_KEYS,   "use_sliding_window", "sliding_window",
                                   "max_window_layers", "layer_types",        NULL};

/* Buffers that old checkpoints hold and the config implies. */
static const char *const ignored[] = {"*self_attn.rotary_emb.inv_freq", "lm_head.weight", NULL};

static int build(whit_model *m, whit_err *e) {
	whit_decoder d = {.qkv_bias = 1};
	int rc = whit_config_check(m, keys, e);
	if (!rc) rc = whit_decoder_read(m, &d, 0, e);
	if (!rc) rc = whit_decoder_read_window(m, &d, e);
	return rc ? rc : whit_decoder_build(m, &d, e);
}

const whit_arch whit_arch_qwen2 = {"qwen2", "Qwen2, Qwen2.5: biases on q, k, v; sliding windows", build, ignored};
