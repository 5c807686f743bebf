/* model: whole models on a device against the CPU: every row of a batch, steps with a cache (recorded as a graph where
 * the device can), several sequences, streamed layers. */
#include "calib/quantize.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "tests/case_whole.h"
#include "tests/compare.h"
#include "tests/test.h"

#define TRAINED "models/wiki12M-qwen3"
#define DEEP "qwen3-bf16, its layers twice"
#define BLOCKS "qwen3-bf16, of ggml's blocks"
static const char *const rows[] = {"golden/models/llama-f32",
                                   "golden/models/llama-tied-linear-f16",
                                   "golden/models/llama-yarn-f16",
                                   "golden/models/qwen2-bf16-sharded",
                                   "golden/models/qwen2-window-f16",
                                   "golden/models/qwen3-bf16",
                                   "golden/models/qwen3-bias-f32",
                                   "golden/models/llama-bias-llama3-bf16",
                                   "golden/models/qwen3_5-f32",
                                   "golden/models/qwen3_5-grouped-bf16",
                                   TRAINED,
                                   DEEP,
                                   BLOCKS};

enum { HEAD = 11, CAP = 48, BRIEF = 9 }; /* BRIEF: other kernels than few tokens have */

/* Logits of every row, on the host; the caller frees. */
static float *all_logits(case_run *r, whit_model *m, const whit_batch *b, whit_state *s) {
	size_t bytes = (size_t)(b->T * m->vocab) * sizeof(float);
	float *h = whit_model_alloc(m, (size_t)(b->T * m->hidden) * sizeof *h), *y = whit_model_alloc(m, bytes),
	      *host = y;
	whit_err e = {0};
	int rc = whit_model_embed(m, b, h, &e);
	for (int64_t l = 0; l < m->layers && !rc; l++) rc = whit_model_layer(m, l, b, s, h, &e);
	if (!rc) rc = whit_model_head(m, h, b->T, y, &e);
	if (m->dev) {
		host = whit_alloc(bytes);
		if (!rc) whit_dev_get(m->dev, host, y, bytes);
		if (!rc) rc = whit_dev_sync(m->dev, &e);
		whit_model_free(m, y);
	}
	whit_model_free(m, h);
	if (rc) case_fail(r, "%s", e.text);
	return host;
}

static void near(case_run *r, const whit_model *m, const char *what, const float *got, const float *want, int64_t n,
                 double extra) {
	double err = whit_rel_err(got, want, n), tol = case_whole_tol(m) + extra;
	if (!(err <= tol)) case_fail(r, "%s: relative error %.3g, need %.3g", what, err, tol);
}
static void same(case_run *r, const whit_model *m, const char *what, const float *got, const float *want, int64_t n) {
	near(r, m, what, got, want, n, 0);
}

/* ---- a model whose layers are worth streaming: the golden qwen3 with its two once more behind them ---- */

#define SHALLOW WHIT_SOURCE "/tests/golden/models/qwen3-bf16/"

/* t as it is, or as that of two layers on. */
static int put(whit_st_out *out, const whit_tensor *t, int again, whit_err *e) {
	static const char layer[] = "model.layers.";
	enum { DIGIT = sizeof layer - 1 };
	int is_layer = !strncmp(t->name, layer, DIGIT), rc;
	if (again && !is_layer) return 0;
	char *name = whit_format_text("%s", t->name);
	if (again) name[DIGIT] = (char)(name[DIGIT] + 2);
	rc = whit_st_out_begin(out, name, t->dtype, t->ndim, t->shape, e);
	if (!rc) rc = whit_st_out_write(out, t->data, t->bytes, e);
	whit_free(name);
	return rc;
}

static int deepen_weights(const char *to, whit_err *e) {
	whit_st in;
	whit_st_out *out;
	size_t bound = whit_st_header_bound("model.layers.0.post_attention_layernorm.weight");
	int rc = whit_st_open(&in, SHALLOW "model.safetensors", e);
	if (rc) return rc;
	rc = whit_st_out_open(&out, to, 2 * (size_t)in.n * bound, e);
	if (!rc) {
		for (int64_t i = 0; i < 2 * in.n && !rc; i++) rc = put(out, &in.t[i % in.n], i >= in.n, e);
		if (rc)
			whit_st_out_abort(out);
		else
			rc = whit_st_out_commit(out, e);
	}
	whit_st_close(&in);
	return rc;
}

static int deepen(const char *dir, whit_err *e) {
	char *config = whit_format_text("%s/config.json", dir),
	     *weights = whit_format_text("%s/model.safetensors", dir);
	json_t *j = NULL;
	int rc = whit_json_load(&j, SHALLOW "config.json", e);
	if (!rc && mkdir(dir, 0777)) rc = whit_fail(e, WHIT_ERESOURCE, "%s: cannot be made", dir);
	if (!rc) {
		json_object_set_new(j, "num_hidden_layers", json_integer(4));
		json_object_del(j, "layer_types"); /* one entry a layer, all full_attention: the default */
		rc = whit_json_write(j, config, e);
	}
	if (!rc) rc = deepen_weights(weights, e);
	json_decref(j);
	whit_free(config);
	whit_free(weights);
	return rc;
}

/* ---- a model of blocks, which a device keeps as codes and scales in planes (formats/twin.h), or as they are ---- */

static int into_blocks(const char *path, whit_err *e) {
	static const char lines[] =
	        "*q_proj.weight q4_0\n*k_proj.weight iq4_nl\n*v_proj.weight q8_0\n*o_proj.weight q4_1\n"
	        "*gate_proj.weight q8_0\n*up_proj.weight q4_0\n@embedding q8_0\n* keep\n";
	whit_rule base = {.method = whit_method_find("nearest", e)};
	whit_model m;
	whit_recipe p;
	whit_plan plan;
	whit_outdir dir;
	whit_quantize_stats st;
	int rc = whit_recipe_parse(&p, lines, sizeof lines - 1, "lines", &base, e);
	if (rc || (rc = whit_model_open(&m, SHALLOW, 0, e))) return rc;
	rc = whit_plan_make(&plan, &m, &p, &(whit_target){0}, e);
	if (!rc && !(rc = whit_outdir_open(&dir, path, 0, e))) {
		rc = whit_quantize_run(&plan, &m, &p, whit_sink_dir(&dir), &st, e);
		if (rc)
			whit_outdir_abort(&dir);
		else
			rc = whit_outdir_commit(&dir, e);
	}
	whit_plan_free(&plan);
	whit_recipe_free(&p);
	whit_model_close(&m);
	return rc;
}

/* ---- rows ---- */

/* Two sequences: a head of several tokens, then one token at a time. */
static void steps(case_run *r, whit_model *m, whit_model *cpu) {
	case_text t;
	whit_err e = {0};
	whit_state *s = whit_state_new(m, 2, CAP), *want = whit_state_new(cpu, 2, CAP);
	float *x = whit_alloc((size_t)(2 * cpu->vocab) * sizeof *x),
	      *y = whit_alloc((size_t)(2 * cpu->vocab) * sizeof *y);
	for (int64_t at = 0, n = HEAD; at < HEAD + 3 && !r->failed; at += n, n = 1) {
		const whit_batch *b = case_text_set(&t, 2, n, at, cpu->vocab);
		int32_t id[2], best[2];
		int rc = whit_model_step(m, b, s, y, &e);
		if (!rc) rc = whit_model_step(cpu, b, want, x, &e);
		if (rc) case_fail(r, "step at %lld: %s", (long long)at, e.text);
		if (!rc) same(r, m, "step", y, x, 2 * cpu->vocab);
		if (!rc) rc = whit_model_next(m, b, s, id, &e) || whit_model_next(cpu, b, want, best, &e);
		if (rc || memcmp(id, best, sizeof id))
			case_fail(r, "next at %lld: other tokens, or %s", (long long)at, e.text);
	}
	whit_free(x);
	whit_free(y);
	whit_state_free(s);
	whit_state_free(want);
}

/* A layer's matrix and the embedding, which may also be the head, coded as tq4: the device computes with them what the
 * CPU does, with the model's own weights on request what it did before (own), and so again when they are back. */
static void replaced(case_run *r, whit_model *m, whit_model *cpu, const whit_batch *b, const float *own) {
	const char *name[2] = {cpu->layer[cpu->layers - 1].slot[1].name, cpu->embed.slot[0].name};
	whit_encoder encoder = {0};
	whit_mat mat[2] = {0};
	whit_err e = {0};
	size_t bytes = (size_t)(b->T * cpu->vocab) * sizeof(float);
	whit_rule rule = {.rotation = WHIT_ROT_HADAMARD, .method = whit_method_find("turboquant", &e), .seed = 3};
	int rc = whit_spec_parse("tq4", &rule.spec, &e);
	for (int i = 0; i < 2 && !rc; i++) {
		whit_plan_row row = {.w = whit_ckpt_find(&cpu->ckpt, name[i]), .rule = &rule};
		whit_job j;
		rc = whit_plan_tensor(&row, &rule, &e);
		if (!rc) rc = whit_encoder_run(&encoder, &row, &mat[i], &j, &e);
		if (!rc) rc = whit_model_replace(m, name[i], &mat[i], &e);
		if (!rc) rc = whit_model_replace(cpu, name[i], &mat[i], &e);
	}
	if (rc) case_fail(r, "replaced: %s", e.text);
	float *want = all_logits(r, cpu, b, NULL), *got = all_logits(r, m, b, NULL);
	/* levels of both are F16 on tensor cores: each within 2^-12 of its size */
	near(r, cpu, "replaced", got, want, b->T * cpu->vocab, 2 * 0x1p-12);
	if (!memcmp(got, own, bytes)) case_fail(r, "replaced: nothing is");
	whit_free(got);
	m->original = 1;
	got = all_logits(r, m, b, NULL);
	if (memcmp(got, own, bytes)) case_fail(r, "original: other bits");
	whit_free(got);
	m->original = 0;
	for (int i = 0; i < 2; i++) {
		whit_model_replace(cpu, name[i], NULL, &e);
		if (whit_model_replace(m, name[i], NULL, &e)) case_fail(r, "put back: %s", e.text);
		whit_mat_free(&mat[i]);
	}
	got = all_logits(r, m, b, NULL);
	if (memcmp(got, own, bytes)) case_fail(r, "put back: other bits");
	whit_free(got);
	whit_free(want);
	whit_encoder_free(&encoder);
}

/* With a byte less than the weights take, layers are streamed, and nothing else is new: the same bits. */
static void streamed(case_run *r, const char *path, size_t bytes, const whit_batch *b, whit_model *cpu,
                     const float *want) {
	whit_model m;
	if (case_whole_open(r, &m, path, r->dev, whit_dev_used(r->dev) + bytes - 1)) return;
	if (!whit_model_streams(&m)) case_fail(r, "%zu bytes hold all layers", bytes - 1);
	for (int pass = 0; pass < 2; pass++) {
		float *y = all_logits(r, &m, b, NULL);
		if (memcmp(y, want, (size_t)(b->T * m.vocab) * sizeof *y))
			case_fail(r, "streamed, pass %d: other bits", pass);
		whit_free(y);
	}
	replaced(r, &m, cpu, b, want);
	whit_model_close(&m);
}

/* What else a resident model must do; of two sequences of CASE_TOKENS, want on the CPU and got here. */
static void resident(case_run *r, whit_model *m, whit_model *cpu, const float *want, const float *got) {
	case_text t;
	const whit_batch *b = case_text_set(&t, 2, CASE_TOKENS, 0, cpu->vocab);
	m->plain = 1;
	float *y = all_logits(r, m, b, NULL);
	same(r, m, "plain kernels", y, want, b->T * cpu->vocab);
	whit_free(y);
	m->plain = 0;
	b = case_text_set(&t, 1, 5, 0, cpu->vocab); /* few tokens: fused steps */
	y = all_logits(r, m, b, NULL);
	same(r, m, "five tokens", y, want, 5 * cpu->vocab);
	whit_free(y);
	steps(r, m, cpu);
	replaced(r, m, cpu, case_text_set(&t, 2, CASE_TOKENS, 0, cpu->vocab), got);
}

static void compare(case_run *r, const char *path) {
	whit_model cpu, m;
	case_text t;
	if (case_whole_open(r, &cpu, path, NULL, 0)) return;
	if (case_whole_open(r, &m, path, r->dev, 0)) {
		whit_model_close(&cpu);
		return;
	}
	int brief = cpu.layers > 2 && !r->full; /* emulated, time is for streaming alone */
	const whit_batch *b =
	        brief ? case_text_set(&t, 1, BRIEF, 0, cpu.vocab) : case_text_set(&t, 2, CASE_TOKENS, 0, cpu.vocab);
	float *want = all_logits(r, &cpu, b, NULL), *got = all_logits(r, &m, b, NULL);
	same(r, &m, "one pass", got, want, b->T * cpu.vocab);
	if (!brief) resident(r, &m, &cpu, want, got);
	size_t used = whit_model_device_bytes(&m), freed = whit_dev_used(r->dev);
	whit_model_close(&m);
	if (!(whit_dev_used(r->dev) + used <= freed)) case_fail(r, "closing gave back less than the weights");
	if (cpu.layers > 2) streamed(r, path, used, b, &cpu, got);
	whit_free(want);
	whit_free(got);
	whit_model_close(&cpu);
}

/* The device multiplies activations as they are, so the CPU does it with decoded weights. */
static void blocks(case_run *r, const char *path) {
	whit_model cpu, m;
	case_text t;
	whit_err e = {0};
	if (whit_model_open(&cpu, path, WHIT_OPEN_DECODE, &e)) {
		case_fail(r, "%s", e.text);
		return;
	}
	if (!case_whole_open(r, &m, path, r->dev, 0)) {
		for (int few = 0; few < 2; few++) {
			const whit_batch *b = case_text_set(&t, 1, few ? 5 : CASE_TOKENS, 0, cpu.vocab);
			float *want = all_logits(r, &cpu, b, NULL), *got = all_logits(r, &m, b, NULL);
			/* levels of a table are F16 on tensor cores */
			near(r, &cpu, few ? "few tokens" : "many tokens", got, want, b->T * cpu.vocab, 2 * 0x1p-12);
			whit_free(want);
			whit_free(got);
		}
		whit_model_close(&m);
	}
	whit_model_close(&cpu);
}

static void row(case_run *r, int i) {
	static const char scratch[] = "case-model";
	int deep = !strcmp(rows[i], DEEP), coded = !strcmp(rows[i], BLOCKS);
	whit_err e = {0};
	case_label(r, "%s", rows[i]);
	/* emulated, the trained one takes 30 s for nine tokens */
	if (case_skip(r, !r->dev) || case_skip_big(r, !strcmp(rows[i], TRAINED)) || case_skip_sanitized(r, i > 0))
		return;
	char *path = deep || coded ? test_scratch(scratch) : whit_format_text("%s/tests/%s", WHIT_SOURCE, rows[i]);
	if ((deep && deepen(path, &e)) || (coded && into_blocks(path, &e)))
		case_fail(r, "%s", e.text);
	else
		(coded ? blocks : compare)(r, path);
	if (deep || coded) whit_free(test_scratch(scratch)); /* removes it */
	whit_free(path);
}

/* A whole model takes seconds an order, and its kernels have their own cases. */
const case_set cases_model = {"model", WHIT_COUNT(rows), row, 1};
