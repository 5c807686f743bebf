/* whit_random_model: a checkpoint of random weights, too large for caches, to measure on. Qwen3-0.6B's block
 * (hidden 1024, inner 3072, 16 query and 8 kv heads of 128), as many of them as the parameters ask for,
 * BF16, tied head. Same seed, same bytes. No tokenizer: it is for `whit bench --model` and `whit quantize`. */
#include <math.h>
#include <stdio.h>
#include "formats/json.h"
#include "formats/safetensors.h"
#include "host/options.h"

enum { HIDDEN = 1024, INNER = 3072, HEADS = 16, KV = 8, DIM = 128, STRIP = 256 };

typedef struct strip { /* rows of one matrix on their way to the file */
	uint16_t *out;
	uint64_t seed, key, first;
	int64_t cols;
} strip;

static void fill_row(void *ctx, int64_t i, int worker) {
	const strip *s = ctx;
	whit_rng r;
	(void)worker;
	whit_rng_key(&r, s->seed, s->key, s->first + (uint64_t)i);
	for (int64_t c = 0; c < s->cols; c++)
		s->out[i * s->cols + c] = whit_f32_to_bf16((float)(whit_rng_normal(&r) / sqrt((double)s->cols)));
}

/* rows 0: a vector of ones. */
static int add(whit_st_out *o, const char *name, int64_t rows, int64_t cols, uint64_t seed, whit_err *e) {
	int64_t shape[2] = {rows ? rows : cols, cols};
	strip s = {whit_alloc((size_t)(STRIP * cols) * sizeof *s.out), seed, whit_hash_u64(name), 0, cols};
	int rc = whit_st_out_begin(o, name, WHIT_BF16, rows ? 2 : 1, shape, e);
	for (int64_t c = 0; c < cols && !rows; c++) s.out[c] = whit_f32_to_bf16(1);
	if (!rc && !rows) rc = whit_st_out_write(o, s.out, (size_t)cols * sizeof *s.out, e);
	for (int64_t r = 0; r < rows && !rc; r += STRIP) {
		int64_t n = WHIT_MIN(STRIP, rows - r);
		s.first = (uint64_t)r;
		whit_parallel(n, fill_row, &s);
		rc = whit_st_out_write(o, s.out, (size_t)(n * cols) * sizeof *s.out, e);
		if (!rc) rc = whit_interrupted(e);
	}
	whit_free(s.out);
	return rc;
}

static const struct {
	const char *name;
	int64_t rows, cols;
} block[] = {
        {"input_layernorm", 0, HIDDEN},
        {"mlp.down_proj", HIDDEN, INNER},
        {"mlp.gate_proj", INNER, HIDDEN},
        {"mlp.up_proj", INNER, HIDDEN},
        {"post_attention_layernorm", 0, HIDDEN},
        {"self_attn.k_norm", 0, DIM},
        {"self_attn.k_proj", KV *DIM, HIDDEN},
        {"self_attn.o_proj", HIDDEN, HEADS *DIM},
        {"self_attn.q_norm", 0, DIM},
        {"self_attn.q_proj", HEADS *DIM, HIDDEN},
        {"self_attn.v_proj", KV *DIM, HIDDEN},
};

static int write_weights(const char *path, int64_t layers, int64_t vocab, uint64_t seed, whit_err *e) {
	whit_st_out *o = NULL;
	int rc = whit_st_out_open(
	        &o, path,
	        (size_t)(layers * WHIT_COUNT(block) + 4) *
	                (whit_st_header_bound("model.layers.9999.post_attention_layernorm.weight") + 64),
	        e);
	if (rc) return rc;
	rc = add(o, "model.embed_tokens.weight", vocab, HIDDEN, seed, e);
	for (int64_t l = 0; l < layers && !rc; l++) {
		for (int i = 0; i < WHIT_COUNT(block) && !rc; i++) {
			char *name = whit_format_text("model.layers.%lld.%s.weight", (long long)l, block[i].name);
			rc = add(o, name, block[i].rows, block[i].cols, seed, e);
			whit_free(name);
		}
	}
	if (!rc) rc = add(o, "model.norm.weight", 0, HIDDEN, seed, e);
	if (!rc) return whit_st_out_commit(o, e);
	whit_st_out_abort(o);
	return rc;
}

static int make(const char *out, int64_t params, int64_t vocab, uint64_t seed, whit_err *e) {
	int64_t each = 0, layers;
	for (int i = 0; i < WHIT_COUNT(block); i++) each += WHIT_MAX(block[i].rows, 1) * block[i].cols;
	layers = WHIT_MAX(1, (params - vocab * HIDDEN + each / 2) / each);
	whit_outdir d;
	int rc = whit_outdir_open(&d, out, 0, e);
	if (rc) return rc;
	char *config = whit_outdir_file(&d, "config.json"), *weights = whit_outdir_file(&d, "model.safetensors");
	json_t *j = json_pack("{ss s[s] sI sI sI sI sI sI sI sI sI sf sf sb ss ss}", "model_type", "qwen3",
	                      "architectures", "Qwen3ForCausalLM", "hidden_size", (json_int_t)HIDDEN,
	                      "intermediate_size", (json_int_t)INNER, "num_hidden_layers", (json_int_t)layers,
	                      "num_attention_heads", (json_int_t)HEADS, "num_key_value_heads", (json_int_t)KV,
	                      "head_dim", (json_int_t)DIM, "vocab_size", (json_int_t)vocab, "max_position_embeddings",
	                      (json_int_t)4096, "eos_token_id", (json_int_t)0, "rms_norm_eps", 1e-6, "rope_theta", 1e6,
	                      "tie_word_embeddings", 1, "hidden_act", "silu", "torch_dtype", "bfloat16");
	rc = whit_json_write(j, config, e);
	json_decref(j);
	if (!rc) rc = write_weights(weights, layers, vocab, seed, e);
	whit_free(config);
	whit_free(weights);
	if (!rc) rc = whit_outdir_commit(&d, e);
	if (rc)
		whit_outdir_abort(&d);
	else
		printf("%s: %lld layers, %.1fM parameters\n", out, (long long)layers,
		       (double)(each * layers + (vocab + 1) * HIDDEN) / 1e6);
	return rc;
}

int main(int argc, char **argv) {
	const char *out = NULL;
	int64_t params = 506000000, vocab = 64000, seed = 1;
	const whit_opt opt[] = {
	        {"OUT", 's', "DIR", "directory to make", &out, 1},
	        {"--params", 'i', "N", "parameters, met to half a layer of 15.7M (default 506000000)", &params, 0},
	        {"--vocab", 'i', "N", "rows of the embedding (default 64000)", &vocab, 0},
	        {"--seed", 'i', "N", "(default 1)", &seed, 0},
	        {0}};
	whit_err e = {0};
	whit_signals_catch();
	int rc = whit_options("whit_random_model", "write a checkpoint of random weights", opt, argc, argv, &e);
	if (rc > 0) return 0;
	if (!rc && (params < 1 || vocab < 2))
		rc = whit_fail(&e, WHIT_EUSAGE, "--params and --vocab are %lld and %lld, need positive ones",
		               (long long)params, (long long)vocab);
	if (!rc) rc = make(out, params, vocab, (uint64_t)seed, &e);
	if (rc) fprintf(stderr, "whit_random_model: %s\n", e.text);
	return -rc;
}
