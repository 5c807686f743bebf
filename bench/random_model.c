/* whit_random_model: a checkpoint of random weights, too large for caches, to measure on: blocks of a published
 * qwen3's shape, BF16. Same seed, same bytes, at any number of threads. No tokenizer: it is for
 * `whit bench --model` and `whit quantize`. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include "formats/json.h"
#include "formats/safetensors.h"
#include "host/options.h"

/* Columns as config.json of Qwen/Qwen3-NAME has them. */
typedef struct shape {
	const char *name;
	int64_t hidden, inner, heads, kv, dim, layers, vocab;
	int tied; /* the head is the embedding */
} shape;
static const shape shapes[] = {
        {"qwen3-0.6b", 1024, 3072, 16, 8, 128, 28, 151936, 1},
        {"qwen3-4b", 2560, 9728, 32, 8, 128, 36, 151936, 1},
        {"qwen3-8b", 4096, 12288, 32, 8, 128, 36, 151936, 0},
        {"qwen3-14b", 5120, 17408, 40, 8, 128, 40, 151936, 0},
};

/* ---- random values: N(0, 1/cols) by its quantiles ----
 * Value i of the table is quantile (i + 1/2) / 65536, so 16 random bits are one draw: a 64-bit one gives four values,
 * at a load each. (Box-Muller takes a log and a cosine: 40 times as long, and minutes for a model of 8B.) The bits of
 * a row depend on the seed, the tensor's name and the row alone. */

enum { LEVELS = 1 << 16, STRIP = 1024 };

typedef struct strip { /* rows of one matrix on their way to the file */
	uint16_t *out;
	const uint16_t *table; /* LEVELS */
	uint64_t seed, key, first;
	int64_t cols;
} strip;

static void fill_row(void *ctx, int64_t i, int worker) {
	const strip *s = ctx;
	uint16_t *out = s->out + i * s->cols;
	whit_rng r;
	(void)worker;
	whit_rng_key(&r, s->seed, s->key, s->first + (uint64_t)i);
	for (int64_t c = 0; c < s->cols; c += 4) {
		uint64_t bits = whit_rng_next(&r);
		for (int64_t k = 0; k < WHIT_MIN(4, s->cols - c); k++)
			out[c + k] = s->table[bits >> 16 * k & (LEVELS - 1)];
	}
}

/* Item i: quantile (i + 1/2) / LEVELS, and by symmetry that of LEVELS - 1 - i, i in the upper half. Newton's steps on
 * the distribution from z = 0 rise to the root: it is concave there. */
static void find_quantile(void *ctx, int64_t i, int worker) {
	double *z = ctx, v = 0, dv = 1, p = (LEVELS / 2 + (double)i + 0.5) / LEVELS;
	(void)worker;
	for (int k = 0; k < 100 && dv > 1e-14; k++)
		v += dv = (p - 0.5 * erfc(-v / M_SQRT2)) * sqrt(2 * M_PI) * exp(0.5 * v * v);
	z[LEVELS / 2 + i] = v;
	z[LEVELS / 2 - 1 - i] = -v;
}

/* ---- the checkpoint ---- */

typedef struct writer {
	whit_st_out *o;
	double *quantile; /* LEVELS, of N(0, 1) */
	uint16_t *table;  /* LEVELS, of the matrix at hand */
	uint64_t seed;
} writer;

/* rows 0: a vector of ones. */
static int add(writer *w, const char *name, int64_t rows, int64_t cols, whit_err *e) {
	int64_t dims[2] = {rows ? rows : cols, cols};
	strip s = {whit_alloc((size_t)(STRIP * cols) * sizeof *s.out), w->table, w->seed, whit_hash_u64(name), 0, cols};
	int rc = whit_st_out_begin(w->o, name, WHIT_BF16, rows ? 2 : 1, dims, e);
	for (int64_t c = 0; c < cols && !rows; c++) s.out[c] = whit_f32_to_bf16(1);
	if (!rc && !rows) rc = whit_st_out_write(w->o, s.out, (size_t)cols * sizeof *s.out, e);
	for (int i = 0; i < LEVELS && rows; i++)
		w->table[i] = whit_f32_to_bf16((float)(w->quantile[i] / sqrt((double)cols)));
	for (int64_t r = 0; r < rows && !rc; r += STRIP) {
		int64_t n = WHIT_MIN(STRIP, rows - r);
		s.first = (uint64_t)r;
		whit_parallel(n, fill_row, &s);
		rc = whit_st_out_write(w->o, s.out, (size_t)(n * cols) * sizeof *s.out, e);
		if (!rc) rc = whit_interrupted(e);
	}
	whit_free(s.out);
	return rc;
}

typedef struct part {
	const char *name;
	int64_t rows, cols;
} part;
enum { PARTS = 11 };

static void block_of(const shape *s, part p[PARTS]) {
	const part block[PARTS] = {
	        {"input_layernorm", 0, s->hidden},
	        {"mlp.down_proj", s->hidden, s->inner},
	        {"mlp.gate_proj", s->inner, s->hidden},
	        {"mlp.up_proj", s->inner, s->hidden},
	        {"post_attention_layernorm", 0, s->hidden},
	        {"self_attn.k_norm", 0, s->dim},
	        {"self_attn.k_proj", s->kv * s->dim, s->hidden},
	        {"self_attn.o_proj", s->hidden, s->heads * s->dim},
	        {"self_attn.q_norm", 0, s->dim},
	        {"self_attn.q_proj", s->heads * s->dim, s->hidden},
	        {"self_attn.v_proj", s->kv * s->dim, s->hidden},
	};
	memcpy(p, block, sizeof block);
}

static int write_weights(const char *path, const shape *s, uint64_t seed, whit_err *e) {
	part block[PARTS];
	writer w = {.seed = seed};
	size_t bound = whit_st_header_bound("model.layers.9999.post_attention_layernorm.weight") + 64;
	int rc = whit_st_out_open(&w.o, path, (size_t)(s->layers * PARTS + 4) * bound, e);
	if (rc) return rc;
	w.quantile = whit_alloc(LEVELS * sizeof *w.quantile);
	w.table = whit_alloc(LEVELS * sizeof *w.table);
	whit_parallel(LEVELS / 2, find_quantile, w.quantile);
	block_of(s, block);
	rc = add(&w, "model.embed_tokens.weight", s->vocab, s->hidden, e);
	for (int64_t l = 0; l < s->layers && !rc; l++) {
		for (int i = 0; i < PARTS && !rc; i++) {
			char *name = whit_format_text("model.layers.%lld.%s.weight", (long long)l, block[i].name);
			rc = add(&w, name, block[i].rows, block[i].cols, e);
			whit_free(name);
		}
	}
	if (!rc) rc = add(&w, "model.norm.weight", 0, s->hidden, e);
	if (!rc && !s->tied) rc = add(&w, "lm_head.weight", s->vocab, s->hidden, e);
	whit_free(w.quantile);
	whit_free(w.table);
	if (!rc) return whit_st_out_commit(w.o, e);
	whit_st_out_abort(w.o);
	return rc;
}

static int make(const char *out, const shape *s, uint64_t seed, int64_t params, whit_err *e) {
	whit_outdir d;
	int rc = whit_outdir_open(&d, out, 0, e);
	if (rc) return rc;
	char *config = whit_outdir_file(&d, "config.json"), *weights = whit_outdir_file(&d, "model.safetensors");
	json_t *j =
	        json_pack("{ss s[s] sI sI sI sI sI sI sI sI sI sf sf sb ss ss}", "model_type", "qwen3", "architectures",
	                  "Qwen3ForCausalLM", "hidden_size", (json_int_t)s->hidden, "intermediate_size",
	                  (json_int_t)s->inner, "num_hidden_layers", (json_int_t)s->layers, "num_attention_heads",
	                  (json_int_t)s->heads, "num_key_value_heads", (json_int_t)s->kv, "head_dim",
	                  (json_int_t)s->dim, "vocab_size", (json_int_t)s->vocab, "max_position_embeddings",
	                  (json_int_t)40960, "eos_token_id", (json_int_t)0, "rms_norm_eps", 1e-6, "rope_theta", 1e6,
	                  "tie_word_embeddings", s->tied, "hidden_act", "silu", "torch_dtype", "bfloat16");
	rc = whit_json_write(j, config, e);
	json_decref(j);
	if (!rc) rc = write_weights(weights, s, seed, e);
	whit_free(config);
	whit_free(weights);
	if (!rc) rc = whit_outdir_commit(&d, e);
	if (rc)
		whit_outdir_abort(&d);
	else
		printf("%s: %lld layers, %.1fM parameters\n", out, (long long)s->layers, (double)params / 1e6);
	return rc;
}

static int shape_find(shape *s, const char *name, whit_err *e) {
	char known[256] = "";
	for (int i = 0; i < WHIT_COUNT(shapes); i++) {
		size_t n = strlen(known);
		if (!strcmp(shapes[i].name, name)) return *s = shapes[i], 0;
		snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", shapes[i].name);
	}
	return whit_fail(e, WHIT_EUSAGE, "--shape is %s, need one of: %s", name, known);
}

int main(int argc, char **argv) {
	const char *out = NULL, *name = shapes[0].name;
	int64_t params = 0, vocab = 0, seed = 1;
	const whit_opt opt[] = {{"OUT", 's', "DIR", "directory to make", &out, 1},
	                        {"--shape", 's', "NAME", "qwen3-0.6b, -4b, -8b or -14b (default qwen3-0.6b)", &name, 0},
	                        {"--params", 'i', "N",
	                         "parameters, met to half a layer (default: the shape's number of layers)", &params, 0},
	                        {"--vocab", 'i', "N", "rows of the embedding (default: the shape's)", &vocab, 0},
	                        {"--seed", 'i', "N", "(default 1)", &seed, 0},
	                        {0}};
	whit_err e = {0};
	shape s;
	part block[PARTS];
	whit_signals_catch();
	int rc = whit_options("whit_random_model", "write a checkpoint of random weights", opt, argc, argv, &e);
	if (rc > 0) return 0;
	if (!rc) rc = shape_find(&s, name, &e);
	if (!rc && (params < 0 || vocab < 0 || vocab == 1))
		rc = whit_fail(&e, WHIT_EUSAGE, "--params and --vocab are %lld and %lld, need positive ones",
		               (long long)params, (long long)vocab);
	if (!rc) {
		int64_t each = 0, rest;
		block_of(&s, block);
		for (int i = 0; i < PARTS; i++) each += WHIT_MAX(block[i].rows, 1) * block[i].cols;
		if (vocab) s.vocab = vocab;
		rest = (s.vocab * (s.tied ? 1 : 2) + 1) * s.hidden;
		if (params) s.layers = WHIT_MAX(1, (params - rest + each / 2) / each);
		rc = make(out, &s, (uint64_t)seed, each * s.layers + rest, &e);
	}
	if (rc) fprintf(stderr, "whit_random_model: %s\n", e.text);
	return -rc;
}
