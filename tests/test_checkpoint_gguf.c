/* test_checkpoint_gguf: a model as a GGUF file is the model: same fingerprint and logits as the directory it is made
 * of, whatever the row order, biases, types, ties and splits; what cannot be computed is listed and refused by name. */
#include <stdio.h>
#include <unistd.h>
#include "formats/gguf_model.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "host/cmd_plan.h"
#include "host/engine.h"
#include "tests/test.h"

/* ---- a small llama with biases, as a directory ---- */

enum { VOCAB = 40, HIDDEN = 64, INNER = 256, HEADS = 4, KV = 2, DIM = 16, LAYERS = 2, T = 24 };

static void random_tensor(whit_st_out *o, const char *name, int ndim, int64_t rows, int64_t cols) {
	whit_err e;
	whit_rng r;
	float *x = whit_alloc((size_t)(rows * cols) * sizeof *x);
	whit_rng_key(&r, 7, whit_hash_u64(name), 0);
	for (int64_t i = 0; i < rows * cols; i++) x[i] = (float)(ndim == 1 ? 1 : .1) * (float)whit_rng_normal(&r);
	int64_t shape[2] = {ndim == 2 ? rows : cols, cols};
	if (whit_st_out_begin(o, name, WHIT_F32, ndim, shape, &e) ||
	    whit_st_out_write(o, x, (size_t)(rows * cols) * sizeof *x, &e))
		abort();
	whit_free(x);
}

static char *llama_dir(void) {
	static const struct {
		const char *name;
		int64_t rows, cols;
	} part[] = {{"self_attn.q_proj", HEADS * DIM, HIDDEN}, {"self_attn.k_proj", KV * DIM, HIDDEN},
	            {"self_attn.v_proj", KV * DIM, HIDDEN},    {"self_attn.o_proj", HIDDEN, HEADS * DIM},
	            {"mlp.gate_proj", INNER, HIDDEN},          {"mlp.up_proj", INNER, HIDDEN},
	            {"mlp.down_proj", HIDDEN, INNER}};
	static const char config[] =
	        "{\"model_type\": \"llama\", \"vocab_size\": 40, \"hidden_size\": 64, \"intermediate_size\": 256, "
	        "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 16, "
	        "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "
	        "\"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true}";
	whit_st_out *o;
	whit_err e;
	char *dir = test_scratch("llama"), *file = whit_format_text("%s/config.json", dir), name[96];
	mkdir(dir, 0777);
	test_write(file, config, sizeof config - 1);
	whit_free(file);
	file = whit_format_text("%s/model.safetensors", dir);
	if (whit_st_out_open(&o, file, 100000, &e)) abort();
	whit_free(file);
	random_tensor(o, "model.embed_tokens.weight", 2, VOCAB, HIDDEN);
	random_tensor(o, "model.norm.weight", 1, 1, HIDDEN);
	for (int l = 0; l < LAYERS; l++) {
		for (int i = 0; i < WHIT_COUNT(part); i++) {
			snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, part[i].name);
			random_tensor(o, name, 2, part[i].rows, part[i].cols);
			snprintf(name, sizeof name, "model.layers.%d.%s.bias", l, part[i].name);
			random_tensor(o, name, 1, 1, part[i].rows);
		}
		snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", l);
		random_tensor(o, name, 1, 1, HIDDEN);
		snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", l);
		random_tensor(o, name, 1, 1, HIDDEN);
	}
	if (whit_st_out_commit(o, &e)) abort();
	return dir;
}

/* ---- as a GGUF ---- */

/* How a file differs from the plain F32 one. */
typedef struct variant {
	const char *arch;                /* general.architecture, NULL = the model's */
	int q8;                          /* matrices as Q8_0 */
	const char *odd_name, *odd_type; /* this tensor (GGUF name) is of this type, all zeros */
	int output;                      /* 1: output.weight, the embedding's values; 2: in F16; 3: twice the values */
	const char *scale;               /* an additional F32 [1] of this name */
	int no, count, total;            /* of a split; count 0 = none. Tensor i is in file i % count */
	int twice;                       /* a split whose files all have the first file's tensors */
} variant;

static void q8_row(const float *x, int64_t n, uint8_t *out) {
	for (int64_t i = 0; i < n; i += 32, out += 34) {
		float max = 0;
		for (int k = 0; k < 32; k++) max = fmaxf(max, fabsf(x[i + k]));
		uint16_t d = whit_f32_to_f16(max / 127);
		float step = whit_f16_to_f32(d);
		memcpy(out, &d, 2);
		for (int k = 0; k < 32; k++) {
			float q = step > 0 ? roundf(x[i + k] / step) : 0;
			out[2 + k] = (uint8_t)(int8_t)fmaxf(-127, fminf(127, q));
		}
	}
}

static const whit_ggml_type *type_named(const char *name) {
	for (int id = 0; whit_ggml_type_of(id); id++)
		if (!strcmp(whit_ggml_type_of(id)->name, name)) return whit_ggml_type_of(id);
	abort();
}

typedef struct item {
	char name[64];
	const whit_weight *w;
	const whit_ggml_type *type;
	int64_t paired;
	float times;
} item;

static int items_of(const whit_ckpt *c, const whit_gguf_arch *a, const variant *v, item *out) {
	whit_err e;
	int64_t dim = 0;
	int n = 0;
	if (whit_json_int(c->config, "config", "head_dim", 1, 1, 4096, &dim, &e)) abort();
	for (int64_t i = 0; i < c->n; i++) {
		item *t = &out[n++];
		*t = (item){.w = &c->w[i], .type = type_named("F32"), .times = 1};
		if (whit_gguf_name_from_hf(a, c->w[i].name, t->name)) abort();
		if (c->w[i].ndim == 2 && v->q8) t->type = type_named("Q8_0");
		if (whit_gguf_is_paired(a, c->w[i].name)) t->paired = dim;
		if (v->odd_name && !strcmp(t->name, v->odd_name)) t->type = type_named(v->odd_type);
		if (strcmp(t->name, "token_embd.weight") || !v->output) continue;
		out[n] = *t;
		snprintf(out[n].name, 64, "output.weight");
		if (v->output == 2) out[n].type = type_named("F16");
		if (v->output == 3) out[n].times = 2;
		n++;
	}
	return n;
}

static void write_item(whit_gguf_out *o, const item *t) {
	whit_err e;
	const whit_mat *m = &t->w->mat;
	int bias = t->w->ndim == 1 && t->type->block == 1;
	int64_t rows = bias && t->paired ? m->cols : m->rows, cols = bias && t->paired ? 1 : m->cols;
	size_t each = (size_t)(cols / t->type->block * t->type->bytes);
	float *x = whit_alloc((size_t)(m->rows * m->cols) * sizeof *x);
	uint8_t *stored = whit_alloc(each * (size_t)rows);
	const whit_mat order = {.paired = t->paired};
	whit_mat_decode(m, 0, m->rows, x);
	for (int64_t i = 0; i < m->rows * m->cols; i++) x[i] *= t->times;
	for (int64_t r = 0; r < rows; r++) {
		uint8_t *to = stored + (size_t)whit_mat_row(&order, r) * each;
		if (!strcmp(t->type->name, "F32")) memcpy(to, x + r * cols, each);
		if (!strcmp(t->type->name, "Q8_0")) q8_row(x + r * cols, cols, to);
		for (int64_t k = 0; k < cols && !strcmp(t->type->name, "F16"); k++) {
			uint16_t h = whit_f32_to_f16(x[r * cols + k]);
			memcpy(to + 2 * k, &h, 2);
		}
	}
	if (whit_gguf_out_write(o, stored, each * (size_t)rows, &e)) abort();
	whit_free(stored);
	whit_free(x);
}

static void write_gguf(const char *path, const char *dir, const variant *v) {
	static item all[512];
	whit_ckpt c;
	whit_err e;
	whit_gguf_out *o;
	float *factors, one = 1;
	int64_t n_factors;
	if (whit_ckpt_open(&c, dir, &e)) abort();
	const char *arch = json_string_value(json_object_get(c.config, "model_type"));
	const whit_gguf_arch *a = whit_gguf_arch_find(arch, &e);
	int n = items_of(&c, a, v, all);
	json_object_del(c.config, "attention_bias"); /* is what the tensors say */
	json_object_del(c.config, "mlp_bias");
	if (whit_gguf_out_open(&o, path, &e)) abort();
	if (v->arch && whit_gguf_put_string(o, "general.architecture", v->arch, &e)) abort();
	if (!v->arch && (!v->count || v->no == 0) &&
	    whit_gguf_put_config(o, a, c.config, "config.json", "test", &factors, &n_factors, &e)) {
		printf("%s\n", e.text);
		abort();
	}
	if (v->count && (whit_gguf_put_u16(o, "split.no", (uint16_t)v->no, &e) ||
	                 whit_gguf_put_u16(o, "split.count", (uint16_t)v->count, &e) ||
	                 whit_gguf_put_i32(o, "split.tensors.count", v->total ? v->total : n, &e)))
		abort();
	for (int pass = 0; pass < 2; pass++) {
		for (int i = 0; i < n; i++) {
			const whit_mat *m = &all[i].w->mat;
			if (v->count && i % v->count != (v->twice ? 0 : v->no)) continue;
			if (pass)
				write_item(o, &all[i]);
			else if (whit_gguf_out_tensor(o, all[i].name, all[i].type, all[i].w->ndim,
			                              (int64_t[]){m->cols, m->rows}, &e))
				abort();
		}
		if (!v->scale) continue;
		if (pass ? whit_gguf_out_write(o, &one, 4, &e)
		         : whit_gguf_out_tensor(o, v->scale, type_named("F32"), 1, (int64_t[]){1}, &e))
			abort();
	}
	if (whit_gguf_out_commit(o, &e)) abort();
	whit_ckpt_close(&c);
}

/* ---- the same model ---- */

/* Logits of one batch; NULL with a failed check. */
static float *logits(const char *path, unsigned flags, char print[48]) {
	whit_model m;
	whit_err e = {0};
	if (!CHECK_RC(whit_model_open(&m, path, flags, &e), e)) return NULL;
	int32_t token[T];
	int64_t pos[T], start[2] = {0, T}, past[1] = {0};
	for (int i = 0; i < T; i++) token[i] = (i * 37 + 11) % (int)WHIT_MIN(m.vocab, 500), pos[i] = i;
	whit_batch b = {T, 1, start, past, pos, token};
	float *out = whit_alloc((size_t)m.vocab * sizeof *out);
	CHECK_RC(whit_model_step(&m, &b, NULL, out, &e), e);
	CHECK_RC(whit_ckpt_fingerprint(&m.ckpt, print, &e), e);
	CHECK_RC(whit_ckpt_check(&m.ckpt, &e), e);
	whit_model_close(&m);
	return out;
}

/* Largest difference of logits over the largest logit. */
static double compare(const char *a, const char *b, unsigned flags, int same_print, int64_t vocab) {
	char pa[48], pb[48];
	float *x = logits(a, flags, pa), *y = logits(b, flags, pb);
	double diff = NAN, most = 0;
	if (x && y) {
		diff = 0;
		for (int64_t i = 0; i < vocab; i++) {
			diff = fmax(diff, fabs((double)x[i] - y[i]));
			most = fmax(most, fabs((double)x[i]));
		}
		if (same_print) CHECK_TEXT(pb, pa);
	}
	whit_free(x);
	whit_free(y);
	return diff / most;
}

static void same_model(void) {
	char *dir = llama_dir(), *f = test_scratch("m.gguf");
	write_gguf(f, dir, &(variant){0});
	CHECK_NEAR(compare(dir, f, 0, 1, VOCAB), 0, 0);
	write_gguf(f, dir, &(variant){.output = 1}); /* a head of its own, though equal */
	CHECK_NEAR(compare(dir, f, 0, 0, VOCAB), 0, 0);
	write_gguf(f, dir, &(variant){.output = 2});
	CHECK_NEAR(compare(dir, f, 0, 0, VOCAB), 0, 2 * 0x1p-11); /* one F16 rounding of each weight */
	write_gguf(f, dir, &(variant){.output = 3});
	CHECK_NEAR(compare(dir, f, 0, 0, VOCAB), 1, 1e-6); /* twice the head, twice the logits */
	write_gguf(f, dir, &(variant){.q8 = 1});
	double err = compare(dir, f, 0, 0, VOCAB), decoded = compare(dir, f, WHIT_OPEN_DECODE, 0, VOCAB);
	CHECK_MSG(err > 0 && err < .05, "relative error of Q8_0 is %g", err);
	CHECK_MSG(decoded > 0 && decoded < .05, "relative error of decoded Q8_0 is %g", decoded);
	/* the rows of a paired matrix come out in logical order, whatever the format */
	whit_ckpt a, b;
	whit_err e;
	if (CHECK_RC(whit_ckpt_open(&a, dir, &e), e) && CHECK_RC(whit_ckpt_open(&b, f, &e), e)) {
		const whit_weight *p = whit_ckpt_find(&a, "model.layers.1.self_attn.k_proj.weight");
		const whit_weight *q = whit_ckpt_find(&b, "model.layers.1.self_attn.k_proj.weight");
		float x[KV * DIM * HIDDEN], y[KV * DIM * HIDDEN];
		CHECK(q && q->mat.paired == DIM && !strcmp(q->type, "Q8_0") && q->dtype == WHIT_F32 && !q->passthrough);
		CHECK_INT(q->bytes, KV * DIM * HIDDEN / 32 * 34);
		whit_mat_decode(&p->mat, 0, KV * DIM, x);
		whit_mat_decode(&q->mat, 0, KV * DIM, y);
		for (int i = 0; i < KV * DIM * HIDDEN; i++)
			if (!(fabsf(x[i] - y[i]) < .01f)) CHECK_MSG(0, "value %d is %g, need %g", i, y[i], x[i]);
		CHECK(b.gguf && b.kind == WHIT_CKPT_GGUF && !b.unfit && b.file_bytes > 0);
		whit_ckpt_close(&a);
		whit_ckpt_close(&b);
	}
	/* and so whit writes them: kept or quantized, out of a GGUF it is the same model */
	char *recipe = test_scratch("r.recipe"), *out = test_scratch("out");
	static const char lines[] =
	        "*.layers.0.self_attn.* keep\n@linear int8 method=nearest rotation=none\n@embedding keep\n";
	test_write(recipe, lines, sizeof lines - 1);
	for (int q8 = 0; q8 < 2; q8++) {
		write_gguf(f, dir, &(variant){.q8 = q8});
		char *cmd =
		        whit_format_text("'%s' quantize '%s' '%s' --recipe '%s' --samples 0 --force >/dev/null 2>&1",
		                         WHIT_PROGRAM, f, out, recipe);
		CHECK_INT(system(cmd), 0);
		err = compare(dir, out, 0, 0, VOCAB);
		CHECK_MSG(err > 0 && err < .05, "relative error through a GGUF and int8 is %g", err);
		char *tok = whit_format_text("%s/tokenizer.gguf", out);
		CHECK(whit_gguf_is(tok));
		whit_free(tok);
		whit_free(cmd);
	}
	whit_free(recipe);
	whit_free(out);
	whit_free(f);
	whit_free(dir);
}

static void real_models(void) {
	static const char *const name[] = {"wiki12M-qwen3", "stories260K", "wiki5M"};
	for (int i = 0; i < (TEST_SANITIZED ? 2 : 3); i++) {
		char *dir = test_model(name[i]);
		if (!dir) continue;
		char *f = test_scratch("real.gguf");
		write_gguf(f, dir, &(variant){0});
		/* one is BF16: the same values, other bytes */
		CHECK_NEAR(compare(dir, f, 0, i > 0, i ? 512 : 4096), 0, 0);
		whit_ckpt a, b;
		whit_err e;
		if (CHECK_RC(whit_ckpt_open(&a, dir, &e), e) && CHECK_RC(whit_ckpt_open(&b, f, &e), e)) {
			const char *key;
			json_t *v;
			json_object_foreach(b.config, key, v) { /* no key says another thing than the original */
				json_t *was = json_object_get(a.config, key);
				int same = !was || json_equal(v, was);
				CHECK_MSG(same, "%s: key %s", name[i], key);
			}
			whit_ckpt_close(&a);
			whit_ckpt_close(&b);
		}
		unlink(f);
		whit_free(f);
		whit_free(dir);
	}
}

/* ---- splits ---- */

static char *part_name(const char *prefix, int no, int count) {
	return whit_format_text("%s-%05d-of-%05d.gguf", prefix, no + 1, count);
}

static void splits(void) {
	char *dir = llama_dir(), *prefix = test_scratch("split"), *part[3];
	whit_ckpt c;
	whit_err e = {0};
	for (int i = 0; i < 3; i++) {
		part[i] = part_name(prefix, i, 3);
		write_gguf(part[i], dir, &(variant){.no = i, .count = 3});
	}
	for (int i = 0; i < 3; i++) CHECK_NEAR(compare(dir, part[i], 0, 1, VOCAB), 0, 0);
	if (CHECK_RC(whit_ckpt_open(&c, part[2], &e), e)) {
		CHECK_TEXT(c.path, part[0]);
		CHECK(whit_ckpt_find(&c, "model.norm.weight") != NULL);
		whit_ckpt_close(&c);
	}
	for (int i = 0; i < 3; i++) { /* none of them may be written over */
		whit_writing w = {.dest = {.command = "export", .model = part[2], .out = part[i], .gguf = 1}};
		CHECK_FAILS(whit_writing_plan(&w, NULL, &e), WHIT_EUSAGE, e, "is part of the input");
		whit_writing_free(&w);
	}
	write_gguf(part[1], dir, &(variant){.no = 2, .count = 3});
	CHECK_FAILS(whit_ckpt_open(&c, part[0], &e), WHIT_EINPUT, e, "is file 2 of 3");
	CHECK(strstr(e.text, part[1]) != NULL);
	CHECK_FAILS(whit_ckpt_open(&c, part[1], &e), WHIT_EINPUT, e,
	            "need a name that ends in \"-00003-of-00003.gguf\"");
	write_gguf(part[1], dir, &(variant){.no = 1, .count = 4});
	CHECK_FAILS(whit_ckpt_open(&c, part[0], &e), WHIT_EINPUT, e, "is file 1 of 4");
	write_gguf(part[1], dir, &(variant){.no = 1, .count = 3, .total = 5});
	CHECK_FAILS(whit_ckpt_open(&c, part[0], &e), WHIT_EINPUT, e, "split.tensors.count: is 5, need the first");
	write_gguf(part[1], dir, &(variant){0});
	CHECK_FAILS(whit_ckpt_open(&c, part[0], &e), WHIT_EINPUT, e, "key split.count: is missing");
	write_gguf(part[1], dir, &(variant){.no = 5, .count = 3});
	CHECK_FAILS(whit_ckpt_open(&c, part[1], &e), WHIT_EINPUT, e, "split.no: is 5, need less than");
	write_gguf(part[1], dir, &(variant){.no = 1, .count = 3, .twice = 1});
	CHECK_FAILS(whit_ckpt_open(&c, part[0], &e), WHIT_EINPUT, e, "key split.tensors.count");
	unlink(part[1]);
	CHECK_FAILS(whit_ckpt_open(&c, part[2], &e), WHIT_EINPUT, e, "is missing, need all 3 files");
	char *a = part_name(prefix, 0, 2), *b = part_name(prefix, 1, 2);
	/* 32 tensors: 16 in each of two files, the same ones */
	write_gguf(a, dir, &(variant){.no = 0, .count = 2, .twice = 1});
	write_gguf(b, dir, &(variant){.no = 1, .count = 2, .twice = 1});
	CHECK_FAILS(whit_ckpt_open(&c, a, &e), WHIT_EINPUT, e, "is there twice");
	for (int i = 0; i < 3; i++) whit_free(part[i]);
	whit_free(a);
	whit_free(b);
	whit_free(prefix);
	whit_free(dir);
}

/* ---- what is listed and not run ---- */

static void refused(void) {
	char *dir = llama_dir(), *f = test_scratch("m.gguf");
	whit_model m;
	whit_ckpt c;
	whit_err e = {0};
	write_gguf(f, dir, &(variant){.odd_name = "blk.1.ffn_down.weight", .odd_type = "IQ2_XXS"});
	CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e, "model.layers.1.mlp.down_proj.weight: is IQ2_XXS");
	char print[48];
	if (CHECK_RC(whit_ckpt_open(&c, f, &e), e)) {
		const whit_weight *w = whit_ckpt_find(&c, "model.layers.1.mlp.down_proj.weight");
		CHECK(w && !w->mat.spec.fmt && !strcmp(w->type, "IQ2_XXS") && w->bytes == 64 * 66 && !w->passthrough);
		CHECK_INT(w->shape[0], HIDDEN);
		CHECK_INT(w->shape[1], INNER);
		CHECK_RC(whit_ckpt_fingerprint(&c, print, &e), e);
		whit_ckpt_close(&c);
	}
	write_gguf(f, dir, &(variant){.odd_name = "blk.0.attn_q.weight", .odd_type = "NVFP4"});
	CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e, "self_attn.q_proj.weight: is NVFP4");
	write_gguf(f, dir, &(variant){.odd_name = "blk.0.attn_q.bias", .odd_type = "I32"});
	CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e, "q_proj.bias: is I32");
	write_gguf(f, dir, &(variant){.odd_name = "blk.0.attn_q.bias", .odd_type = "Q8_0"});
	CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e, "is a vector of Q8_0");
	write_gguf(f, dir, &(variant){.scale = "blk.0.attn_q.scale"});
	CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e, "tensor blk.0.attn_q.scale: is a factor");
	write_gguf(f, dir, &(variant){.scale = "blk.0.ffn_gate_inp.weight"});
	CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e,
	            "tensor blk.0.ffn_gate_inp.weight is not used by architecture llama");
	write_gguf(f, dir, &(variant){.arch = "gemma3"});
	CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e, "\"gemma3\", need one of: llama, qwen2, qwen3");
	if (CHECK_RC(whit_ckpt_open(&c, f, &e), e)) {
		CHECK(c.unfit && whit_ckpt_find(&c, "blk.0.attn_q.weight"));
		CHECK_TEXT(json_string_value(json_object_get(c.config, "model_type")), "gemma3");
		whit_ckpt_close(&c);
	}
	write_gguf(f, dir, &(variant){.arch = "qwen2"}); /* known, and nothing else said */
	CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e, "key qwen2.block_count: is missing");
	CHECK_FAILS(whit_ckpt_open(&c, "/dev/null", &e), WHIT_EINPUT, e, "is not a directory nor a GGUF file");
	whit_free(f);
	whit_free(dir);
}

/* A scale that is no number: found before anything is computed, named with the row that it is of. */
static void scales(void) {
	static const uint16_t bad[] = {0x7c00, 0xfc00, 0x7e00, 0xffff};
	char *dir = llama_dir(), *f = test_scratch("m.gguf");
	whit_err e = {0};
	whit_gguf g;
	whit_model m;
	write_gguf(f, dir, &(variant){.q8 = 1});
	if (!CHECK_RC(whit_gguf_open(&g, f, &e), e)) return;
	uint64_t at = whit_gguf_tensor_find(&g, "blk.1.attn_q.weight")->offset;
	whit_gguf_close(&g);
	size_t n;
	char *b = test_read(f, &n);
	for (int i = 0; i < WHIT_COUNT(bad); i++) { /* stored row 3 of the second head is its row 9 */
		uint16_t was;
		char *block = b + at + (DIM + 3) * (HIDDEN / 32 * 34) + 34;
		memcpy(&was, block, 2);
		memcpy(block, &bad[i], 2);
		test_write(f, b, n);
		CHECK_FAILS(whit_model_open(&m, f, 0, &e), WHIT_EINPUT, e,
		            "model.layers.1.self_attn.q_proj.weight: a scale of Q8_0 in row 25 is NaN or Inf");
		if (CHECK_RC(whit_model_open(&m, f, WHIT_OPEN_LIST, &e), e)) whit_model_close(&m);
		memcpy(block, &was, 2);
	}
	test_write(f, b, n);
	if (CHECK_RC(whit_model_open(&m, f, 0, &e), e)) whit_model_close(&m);
	whit_free(b);
	whit_free(f);
	whit_free(dir);
}

/* Every cut of a whole model's file is refused by the reader; some, through a checkpoint, from disk. */
static void truncation(void) {
	char *dir = llama_dir(), *f = test_scratch("m.gguf");
	whit_err e = {0};
	whit_gguf g;
	whit_ckpt c;
	size_t n, accepted = 0;
	write_gguf(f, dir, &(variant){.q8 = 1});
	char *b = test_read(f, &n);
	for (size_t k = 0; k < n; k++) {
		if (whit_gguf_parse(&g, (const uint8_t *)b, k, "cut", &e)) continue;
		accepted += n - k > 32; /* but what pads the last tensor */
		whit_gguf_close(&g);
	}
	CHECK_INT(accepted, 0);
	for (size_t k = 0; k < n - 32; k += n / 40) {
		test_write(f, b, k);
		CHECK_FAILS(whit_ckpt_open(&c, f, &e), WHIT_EINPUT, e, f);
	}
	whit_free(b);
	whit_free(f);
	whit_free(dir);
}

TEST_MAIN(same_model, real_models, splits, refused, scales, truncation)
