/* whit_random_model: a checkpoint of random weights, too large for caches, to measure on: blocks of a published
 * qwen3's or qwen3.5's shape (of the text part), BF16. Same seed, same bytes, at any number of threads. No tokenizer:
 * it is for `whit bench --model` and `whit quantize`. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include "formats/json.h"
#include "formats/safetensors.h"
#include "host/options.h"

/* Columns as config.json of Qwen/Qwen3-NAME has them (qwen3.5's: Qwen/Qwen3.5-NAME, Qwen3.6-27B). */
typedef struct shape {
	const char *name;
	int64_t hidden, inner, heads, kv, dim, layers, vocab;
	int tied;                 /* the head is the embedding */
	int64_t k_heads, v_heads; /* of gated delta net, in all but every fourth layer; 0 = attention everywhere */
} shape;
enum { DELTA_DIM = 128, TAPS = 4 };
static const shape shapes[] = {
        {"qwen3-0.6b", 1024, 3072, 16, 8, 128, 28, 151936, 1, 0, 0},
        {"qwen3-4b", 2560, 9728, 32, 8, 128, 36, 151936, 1, 0, 0},
        {"qwen3-8b", 4096, 12288, 32, 8, 128, 36, 151936, 0, 0, 0},
        {"qwen3-14b", 5120, 17408, 40, 8, 128, 40, 151936, 0, 0, 0},
        {"qwen3.5-0.8b", 1024, 3584, 8, 2, 256, 24, 248320, 1, 16, 16},
        {"qwen3.6-27b", 5120, 17408, 24, 4, 256, 64, 248320, 0, 16, 48},
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

typedef struct part { /* a tensor of a block, or outside */
	const char *name;
	int64_t rows, cols; /* rows 0: a vector */
	float all;          /* its values */
	int conv;           /* shape is (rows, 1, cols) */
} part;

static int add(writer *w, const char *name, const part *p, whit_err *e) {
	int64_t rows = p->rows, cols = p->cols;
	int64_t dims[3] = {rows ? rows : cols, p->conv ? 1 : cols, cols};
	strip s = {whit_alloc((size_t)(STRIP * cols) * sizeof *s.out), w->table, w->seed, whit_hash_u64(name), 0, cols};
	int rc = whit_st_out_begin(w->o, name, WHIT_BF16, p->conv ? 3 : rows ? 2 : 1, dims, e);
	for (int64_t c = 0; c < cols && !rows; c++) s.out[c] = whit_f32_to_bf16(p->all);
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

enum { PARTS = 14 };

/* Of layer l; returns their number. Norms multiply by 1: qwen3.5's hold what is added to that. */
static int block_of(const shape *s, int64_t l, part p[PARTS]) {
	int64_t H = s->hidden, kd = s->k_heads * DELTA_DIM, vd = s->v_heads * DELTA_DIM;
	float one = s->k_heads ? 0 : 1;
	int64_t q = s->heads * s->dim * (s->k_heads ? 2 : 1); /* and its gate */
	const part common[] = {
	        {"input_layernorm.weight", 0, H, one, 0},          {"mlp.down_proj.weight", H, s->inner, 0, 0},
	        {"mlp.gate_proj.weight", s->inner, H, 0, 0},       {"mlp.up_proj.weight", s->inner, H, 0, 0},
	        {"post_attention_layernorm.weight", 0, H, one, 0},
	};
	const part attention[] = {
	        {"self_attn.k_norm.weight", 0, s->dim, one, 0},
	        {"self_attn.k_proj.weight", s->kv * s->dim, H, 0, 0},
	        {"self_attn.o_proj.weight", H, s->heads * s->dim, 0, 0},
	        {"self_attn.q_norm.weight", 0, s->dim, one, 0},
	        {"self_attn.q_proj.weight", q, H, 0, 0},
	        {"self_attn.v_proj.weight", s->kv * s->dim, H, 0, 0},
	};
	const part delta[] = {
	        {"linear_attn.A_log", 0, s->v_heads, 0, 0},
	        {"linear_attn.conv1d.weight", 2 * kd + vd, TAPS, 0, 1},
	        {"linear_attn.dt_bias", 0, s->v_heads, -3,
	         0}, /* a state forgets 5 % at a token: exp(-ln(1 + exp(-3))) */
	        {"linear_attn.in_proj_a.weight", s->v_heads, H, 0, 0},
	        {"linear_attn.in_proj_b.weight", s->v_heads, H, 0, 0},
	        {"linear_attn.in_proj_qkv.weight", 2 * kd + vd, H, 0, 0},
	        {"linear_attn.in_proj_z.weight", vd, H, 0, 0},
	        {"linear_attn.norm.weight", 0, DELTA_DIM, 1, 0},
	        {"linear_attn.out_proj.weight", H, vd, 0, 0},
	};
	int linear = s->k_heads && (l + 1) % 4;
	memcpy(p, common, sizeof common);
	memcpy(p + WHIT_COUNT(common), linear ? delta : attention, linear ? sizeof delta : sizeof attention);
	return WHIT_COUNT(common) + (linear ? WHIT_COUNT(delta) : WHIT_COUNT(attention));
}

static int64_t layer_params(const shape *s, int64_t l) {
	part p[PARTS];
	int64_t sum = 0;
	for (int i = block_of(s, l, p); i--;) sum += WHIT_MAX(p[i].rows, 1) * p[i].cols;
	return sum;
}

static int write_weights(const char *path, const shape *s, uint64_t seed, whit_err *e) {
	const part embed = {NULL, s->vocab, s->hidden, 0, 0}, norm = {NULL, 0, s->hidden, s->k_heads ? 0 : 1, 0};
	writer w = {.seed = seed};
	size_t bound = whit_st_header_bound("model.layers.9999.post_attention_layernorm.weight") + 64;
	int rc = whit_st_out_open(&w.o, path, (size_t)(s->layers * PARTS + 4) * bound, e);
	if (rc) return rc;
	w.quantile = whit_alloc(LEVELS * sizeof *w.quantile);
	w.table = whit_alloc(LEVELS * sizeof *w.table);
	whit_parallel(LEVELS / 2, find_quantile, w.quantile);
	rc = add(&w, "model.embed_tokens.weight", &embed, e);
	for (int64_t l = 0; l < s->layers && !rc; l++) {
		part block[PARTS];
		int n = block_of(s, l, block);
		for (int i = 0; i < n && !rc; i++) {
			char *name = whit_format_text("model.layers.%lld.%s", (long long)l, block[i].name);
			rc = add(&w, name, &block[i], e);
			whit_free(name);
		}
	}
	if (!rc) rc = add(&w, "model.norm.weight", &norm, e);
	if (!rc && !s->tied) rc = add(&w, "lm_head.weight", &embed, e);
	whit_free(w.quantile);
	whit_free(w.table);
	if (!rc) return whit_st_out_commit(w.o, e);
	whit_st_out_abort(w.o);
	return rc;
}

/* config.json of a qwen3. */
static json_t *config_of(const shape *s) {
	json_t *j =
	        json_pack("{ss s[s] sI sI sI sI sI sI sI sI sI sf sf sb ss ss}", "model_type", "qwen3", "architectures",
	                  "Qwen3ForCausalLM", "hidden_size", (json_int_t)s->hidden, "intermediate_size",
	                  (json_int_t)s->inner, "num_hidden_layers", (json_int_t)s->layers, "num_attention_heads",
	                  (json_int_t)s->heads, "num_key_value_heads", (json_int_t)s->kv, "head_dim",
	                  (json_int_t)s->dim, "vocab_size", (json_int_t)s->vocab, "max_position_embeddings",
	                  (json_int_t)40960, "eos_token_id", (json_int_t)0, "rms_norm_eps", 1e-6, "rope_theta", 1e6,
	                  "tie_word_embeddings", s->tied, "hidden_act", "silu", "torch_dtype", "bfloat16");
	if (!s->k_heads) return j;
	json_t *more = json_pack(
	        "{ss s[s] sI sI sI sI sI sI sI s{ss sf sf sb s[i,i,i]}}", "model_type", "qwen3_5_text", "architectures",
	        "Qwen3_5ForCausalLM", "max_position_embeddings", (json_int_t)262144, "full_attention_interval",
	        (json_int_t)4, "linear_conv_kernel_dim", (json_int_t)TAPS, "linear_key_head_dim", (json_int_t)DELTA_DIM,
	        "linear_value_head_dim", (json_int_t)DELTA_DIM, "linear_num_key_heads", (json_int_t)s->k_heads,
	        "linear_num_value_heads", (json_int_t)s->v_heads, "rope_parameters", "rope_type", "default",
	        "rope_theta", 1e7, "partial_rotary_factor", 0.25, "mrope_interleaved", 1, "mrope_section", 11, 11, 10);
	json_object_del(j, "rope_theta");
	json_object_update(j, more);
	json_decref(more);
	return j;
}

static int make(const char *out, const shape *s, uint64_t seed, int64_t params, whit_err *e) {
	whit_outdir d;
	int rc = whit_outdir_open(&d, out, 0, e);
	if (rc) return rc;
	char *config = whit_outdir_file(&d, "config.json"), *weights = whit_outdir_file(&d, "model.safetensors");
	json_t *j = config_of(s);
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
	const whit_opt opt[] = {
	        {"OUT", 's', "DIR", "directory to make", &out, 1},
	        {"--shape", 's', "NAME", "qwen3-0.6b (default), -4b, -8b, -14b, qwen3.5-0.8b or qwen3.6-27b", &name, 0},
	        {"--params", 'i', "N", "parameters, met to half a layer (default: the shape's number of layers)",
	         &params, 0},
	        {"--vocab", 'i', "N", "rows of the embedding (default: the shape's)", &vocab, 0},
	        {"--seed", 'i', "N", "(default 1)", &seed, 0},
	        {0}};
	whit_err e = {0};
	shape s;
	whit_signals_catch();
	int rc = whit_options("whit_random_model", "write a checkpoint of random weights", opt, argc, argv, &e);
	if (rc > 0) return 0;
	if (!rc) rc = shape_find(&s, name, &e);
	if (!rc && (params < 0 || vocab < 0 || vocab == 1))
		rc = whit_fail(&e, WHIT_EUSAGE, "--params and --vocab are %lld and %lld, need positive ones",
		               (long long)params, (long long)vocab);
	if (!rc) {
		if (vocab) s.vocab = vocab;
		int64_t all = (s.vocab * (s.tied ? 1 : 2) + 1) * s.hidden, l = 0;
		for (; params ? l < 1 || all + layer_params(&s, l) / 2 <= params : l < s.layers; l++)
			all += layer_params(&s, l);
		s.layers = l;
		rc = make(out, &s, (uint64_t)seed, all, &e);
	}
	if (rc) fprintf(stderr, "whit_random_model: %s\n", e.text);
	return -rc;
}
