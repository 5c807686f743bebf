/* llama: Llama 1 to 3 and kin; biases and head_dim where the config says so. */
#include "host/arch_common.h"

static const char *const keys[] = {WHIT_DECODER_KEYS, "attention_bias", "mlp_bias", NULL};

/* Buffers that old checkpoints hold and the config implies. */
static const char *const ignored[] = {"*self_attn.rotary_emb.inv_freq", "lm_head.weight", NULL};

static int build(whit_model *m, whit_err *e) {
	whit_decoder d = {0};
	int rc = whit_config_check(m, keys, e);
	if (!rc) rc = whit_decoder_read(m, &d, 0, e);
	if (!rc) rc = whit_json_bool(m->config, m->ckpt.config_path, "attention_bias", 0, &d.qkv_bias, e);
	d.o_bias = d.qkv_bias;
	if (!rc) rc = whit_json_bool(m->config, m->ckpt.config_path, "mlp_bias", 0, &d.mlp_bias, e);
	return rc ? rc : whit_decoder_build(m, &d, e);
}

const whit_arch whit_arch_llama = {"llama", "Llama 1-3: rope scaled as the config says, optional biases", build,
                                   ignored};
