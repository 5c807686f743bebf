/* qwen3: Qwen3, dense: RMSNorm on the heads of q and k before rope. */
#include "host/arch_common.h"

static const char *const keys[] = {WHIT_DECODER_KEYS,
                                   "attention_bias",
                                   "use_sliding_window",
                                   "sliding_window",
                                   "max_window_layers",
                                   "layer_types",
                                   NULL};

/* Buffers that old checkpoints hold and the config implies. */
static const char *const ignored[] = {"*self_attn.rotary_emb.inv_freq", "lm_head.weight", NULL};

static int build(whit_model *m, whit_err *e) {
	whit_decoder d = {.qk_norm = 1};
	int rc = whit_config_check(m, keys, e);
	if (!rc) rc = whit_decoder_read(m, &d, 1, e);
	if (!rc) rc = whit_json_bool(m->config, m->ckpt.config_path, "attention_bias", 0, &d.qkv_bias, e);
	d.o_bias = d.qkv_bias;
	if (!rc) rc = whit_decoder_read_window(m, &d, e);
	return rc ? rc : whit_decoder_build(m, &d, e);
}

const whit_arch whit_arch_qwen3 = {"qwen3", "Qwen3 dense: QK-norm; sliding windows", build, ignored};
