/* test_export: models as GGUF files and back: every value, llama's row pairs, biases, metadata; presets as
 * llama-quantize mixes them; what must be refused; the same bytes at any thread count. */
#define _GNU_SOURCE
#include "tests/test.h"
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>
#include "calib/quantize.h"
#include "formats/gguf_model.h"
#include "formats/json.h"
#include "host/progress.h"

/* ---- checkpoints ---- */

typedef struct shape {
	const char *arch;
	int64_t layers, heads, kv, dim, hidden, inner;
	int tied, bias;   /* bias: on every linear */
	int hole;         /* all zero, a hole in the file */
	const char *more; /* further keys of config.json */
} shape;

typedef struct maker {
	FILE *f;
	json_t *head;
	int64_t at;
	const shape *s;
} maker;

enum { VOCAB = 256 };

static void put(maker *m, const char *name, int64_t rows, int64_t cols) {
	int64_t n = (rows ? rows : 1) * cols;
	json_t *shape =
	        rows ? json_pack("[I, I]", (json_int_t)rows, (json_int_t)cols) : json_pack("[I]", (json_int_t)cols);
	json_object_set_new(m->head, name,
	                    json_pack("{s:s, s:o, s:[I, I]}", "dtype", m->s->hole ? "BF16" : "F32", "shape", shape,
	                              "data_offsets", (json_int_t)m->at,
	                              (json_int_t)(m->at + n * (m->s->hole ? 2 : 4))));
	m->at += n * (m->s->hole ? 2 : 4);
	for (int64_t i = 0; i < n && !m->s->hole; i++) {
		static whit_rng r;
		if (!i) whit_rng_key(&r, 5, whit_hash_u64(name), 0);
		float x = (float)whit_rng_normal(&r) * (rows ? 0.05f : 0.1f) + (rows ? 0 : 1);
		fwrite(&x, 4, 1, m->f);
	}
}

static void put_linear(maker *m, int64_t l, const char *name, int64_t rows, int64_t cols, int bias) {
	char full[128];
	snprintf(full, sizeof full, "model.layers.%" PRId64 ".%s.weight", l, name);
	put(m, full, rows, cols);
	snprintf(full, sizeof full, "model.layers.%" PRId64 ".%s.bias", l, name);
	if (bias) put(m, full, 0, rows);
}

static void put_norm(maker *m, int64_t l, const char *name, int64_t n) {
	char full[128];
	snprintf(full, sizeof full, "model.layers.%" PRId64 ".%s.weight", l, name);
	put(m, full, 0, n);
}

enum { K_HEADS = 2, V_HEADS = 6, DELTA_DIM = 128, TAPS = 4 };
static const char delta_keys[] = "\"linear_num_key_heads\": 2, \"linear_num_value_heads\": 6, "
                                 "\"linear_key_head_dim\": 128, \"linear_value_head_dim\": 128";

/* qwen3_5's layers that are not attention. */
static void put_delta(maker *m, int64_t l) {
	int64_t H = m->s->hidden, V = V_HEADS * DELTA_DIM, C = 2 * K_HEADS * DELTA_DIM + V;
	char full[128];
	put_linear(m, l, "linear_attn.in_proj_qkv", C, H, 0);
	put_linear(m, l, "linear_attn.in_proj_z", V, H, 0);
	put_linear(m, l, "linear_attn.in_proj_a", V_HEADS, H, 0);
	put_linear(m, l, "linear_attn.in_proj_b", V_HEADS, H, 0);
	put_linear(m, l, "linear_attn.out_proj", H, V, 0);
	put_norm(m, l, "linear_attn.norm", DELTA_DIM);
	put_norm(m, l, "linear_attn.conv1d", C * TAPS);
	json_t *shape = json_pack("[I, I, I]", (json_int_t)C, (json_int_t)1, (json_int_t)TAPS);
	snprintf(full, sizeof full, "model.layers.%" PRId64 ".linear_attn.conv1d.weight", l);
	json_object_set_new(json_object_get(m->head, full), "shape", shape);
	snprintf(full, sizeof full, "model.layers.%" PRId64 ".linear_attn.A_log", l);
	put(m, full, 0, V_HEADS);
	snprintf(full, sizeof full, "model.layers.%" PRId64 ".linear_attn.dt_bias", l);
	put(m, full, 0, V_HEADS);
}

/* whit_free the directory's name. */
static char *make_model(const char *name, const shape *s) {
	char *dir = test_scratch(name), *path = whit_format_text("%s/config.json", dir),
	     *data = test_scratch("data.tmp");
	mkdir(dir, 0777);
	char *config = whit_format_text("{\"model_type\": \"%s\", \"vocab_size\": %d, \"hidden_size\": %" PRId64
	                                ", \"num_hidden_layers\": %" PRId64
	                                ", \"max_position_embeddings\": 128, \"intermediate_size\": %" PRId64
	                                ", \"num_attention_heads\": %" PRId64 ", \"num_key_value_heads\": %" PRId64
	                                ", \"head_dim\": %" PRId64
	                                ", \"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": %s%s%s}",
	                                s->arch, VOCAB, s->hidden, s->layers, s->inner, s->heads, s->kv, s->dim,
	                                s->tied ? "true" : "false", s->more ? ", " : "", s->more ? s->more : "");
	test_write(path, config, strlen(config));
	whit_free(config);
	whit_free(path);
	maker m = {.f = fopen(data, "wb"), .head = json_object(), .s = s};
	int qwen2 = !strcmp(s->arch, "qwen2"), delta = !strcmp(s->arch, "qwen3_5_text");
	int qk_norm = delta || !strcmp(s->arch, "qwen3");
	if (!m.f) abort();
	put(&m, "model.embed_tokens.weight", VOCAB, s->hidden);
	for (int64_t l = 0; l < s->layers; l++) {
		int attention = !delta || (l + 1) % 4 == 0, gated = delta ? 2 : 1;
		if (attention) {
			put_linear(&m, l, "self_attn.q_proj", gated * s->heads * s->dim, s->hidden, s->bias || qwen2);
			put_linear(&m, l, "self_attn.k_proj", s->kv * s->dim, s->hidden, s->bias || qwen2);
			put_linear(&m, l, "self_attn.v_proj", s->kv * s->dim, s->hidden, s->bias || qwen2);
			put_linear(&m, l, "self_attn.o_proj", s->hidden, s->heads * s->dim, s->bias);
			if (qk_norm) put_norm(&m, l, "self_attn.q_norm", s->dim);
			if (qk_norm) put_norm(&m, l, "self_attn.k_norm", s->dim);
		} else {
			put_delta(&m, l);
		}
		put_linear(&m, l, "mlp.gate_proj", s->inner, s->hidden, s->bias);
		put_linear(&m, l, "mlp.up_proj", s->inner, s->hidden, s->bias);
		put_linear(&m, l, "mlp.down_proj", s->hidden, s->inner, s->bias);
		put_norm(&m, l, "input_layernorm", s->hidden);
		put_norm(&m, l, "post_attention_layernorm", s->hidden);
	}
	put(&m, "model.norm.weight", 0, s->hidden);
	if (!s->tied) put(&m, "lm_head.weight", VOCAB, s->hidden);
	fclose(m.f);

	size_t n = 0;
	char *head = json_dumps(m.head, JSON_COMPACT), *values = s->hole ? NULL : test_read(data, &n);
	uint64_t len = strlen(head);
	path = whit_format_text("%s/model.safetensors", dir);
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(&len, 8, 1, f) != 1 || fwrite(head, 1, len, f) != len ||
	    fwrite(values ? values : "", 1, n, f) != n)
		abort();
	fclose(f);
	if (truncate(path, (off_t)(8 + len + (uint64_t)m.at))) abort();
	remove(data);
	free(head);
	json_decref(m.head);
	whit_free(values);
	whit_free(data);
	whit_free(path);
	return dir;
}

static void remove_tree(char *path) {
	char *rm = whit_format_text("rm -rf '%s'", path);
	CHECK(!system(rm));
	whit_free(rm);
	whit_free(path);
}

/* ---- export by the library ---- */

/* type: a preset or format, or a recipe of lines. */
static int make_recipe(whit_recipe *r, const char *type, whit_err *e) {
	const whit_preset *preset = whit_preset_find(type);
	whit_rule base = {.method = whit_method_find("nearest", e)};
	if (preset) return whit_recipe_parse(r, preset->text, strlen(preset->text), preset->name, &base, e);
	if (strchr(type, '\n')) return whit_recipe_parse(r, type, strlen(type), "lines", &base, e);
	int rc = whit_spec_parse(type, &base.spec, e);
	return rc ? rc : whit_recipe_uniform(r, &base, 1, e);
}

static int export(const char *in, const char *out, const char *type, const whit_imatrix *im, whit_plan *plan,
                  whit_err *e) {
	whit_model m;
	whit_recipe r;
	whit_plan p = {0};
	whit_quantize_stats st;
	whit_target target = {.gguf = 1, .imatrix = im};
	int rc = make_recipe(&r, type, e);
	if (rc) return rc;
	if (!(rc = whit_model_open(&m, in, 0, e))) {
		rc = whit_plan_make(&p, &m, &r, &target, e);
		if (!rc) rc = whit_quantize_run(&p, &m, &r, whit_sink_gguf(out, NULL), &st, e);
		if (plan) *plan = p; /* its numbers */
		whit_plan_free(&p);
		whit_model_close(&m);
	}
	whit_recipe_free(&r);
	return rc;
}

/* All values of a weight; whit_free it. */
static float *values(const whit_weight *w) {
	float *x = whit_alloc((size_t)(w->mat.rows * w->mat.cols) * sizeof *x);
	whit_mat_decode(&w->mat, 0, w->mat.rows, x);
	return x;
}

/* Every weight of a is in b with the same shape and values; tol is on |difference| / rms. */
static void same_values(const char *a, const char *b, double tol) {
	whit_err e;
	whit_ckpt x, y;
	if (!CHECK_RC(whit_ckpt_open(&x, a, &e), e)) return;
	if (!CHECK_RC(whit_ckpt_open(&y, b, &e), e)) return;
	CHECK_INT(y.n, x.n);
	for (int64_t i = 0; i < x.n; i++) {
		const whit_weight *v = &x.w[i], *w = whit_ckpt_find(&y, v->name);
		if (v->alias || !CHECK_MSG(w != NULL, "%s: no %s", b, v->name)) continue;
		if (!CHECK(w->mat.rows == v->mat.rows && w->mat.cols == v->mat.cols)) continue;
		float *p = values(v), *q = values(w);
		double worst = 0, sum = 0;
		int64_t n = v->mat.rows * v->mat.cols;
		for (int64_t k = 0; k < n; k++) {
			sum += (double)p[k] * p[k];
			double d = fabs((double)p[k] - q[k]);
			if (!(d <= worst)) worst = d;
		}
		CHECK_MSG(worst <= tol * sqrt(sum / (double)n), "%s: differs by %g", v->name, worst);
		whit_free(p);
		whit_free(q);
	}
	whit_ckpt_close(&x);
	whit_ckpt_close(&y);
}

static const shape small[] = {
        {.arch = "llama", .layers = 2, .heads = 4, .kv = 2, .dim = 16, .hidden = 64, .inner = 96},
        {.arch = "llama",
         .layers = 2,
         .heads = 4,
         .kv = 4,
         .dim = 8,
         .hidden = 64,
         .inner = 96,
         .tied = 1,
         .bias = 1,
         .more = "\"attention_bias\": true, \"mlp_bias\": true"},
        {.arch = "qwen2", .layers = 2, .heads = 4, .kv = 2, .dim = 16, .hidden = 64, .inner = 96},
        {.arch = "qwen3", .layers = 2, .heads = 4, .kv = 2, .dim = 32, .hidden = 64, .inner = 96, .tied = 1}};

/* Every architecture as F32 has the very values; what a GGUF holds is copied on, blocks too; rows of q and k and
 * their biases stand in pairs in the file. */
static void round_trip(void) {
	whit_err e;
	for (int i = 0; i < WHIT_COUNT(small); i++) {
		const shape *s = &small[i];
		char *in = make_model("export-in", s), *f32 = test_scratch("export-f32.gguf"),
		     *kept = test_scratch("export-kept.gguf"), *q8 = test_scratch("export-q8.gguf"),
		     *again = test_scratch("export-again.gguf");
		CHECK_RC(export(in, f32, "F32", NULL, NULL, &e), e);
		same_values(in, f32, 0);
		CHECK_RC(export(in, q8, "Q8_0", NULL, NULL, &e), e);
		same_values(in, q8, 0.05);
		/* From the GGUF the same codes, and kept blocks stay. */
		CHECK_RC(export(f32, kept, "q8_0", NULL, NULL, &e), e);
		same_values(q8, kept, 0);
		CHECK_RC(export(q8, again, "* keep\n", NULL, NULL, &e), e);
		same_values(q8, again, 0);
		whit_gguf g, h;
		whit_ckpt c;
		if (CHECK_RC(whit_gguf_open(&g, q8, &e), e) && CHECK_RC(whit_gguf_open(&h, again, &e), e) &&
		    CHECK_RC(whit_ckpt_open(&c, in, &e), e)) {
			CHECK_INT(h.n, g.n);
			CHECK_INT(h.n_kv, g.n_kv);
			for (int64_t k = 0; k < g.n; k++) {
				const whit_gguf_tensor *t = whit_gguf_tensor_find(&h, g.t[k].name);
				CHECK(t && t->type == g.t[k].type && t->bytes == g.t[k].bytes &&
				      !memcmp(t->data, g.t[k].data, t->bytes));
			}
			whit_gguf_close(&h);
			CHECK_RC(whit_gguf_open(&h, f32, &e), e);
			static const char *const names[2][2] = {
			        {"blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight"},
			        {"blk.1.attn_q.bias", "model.layers.1.self_attn.q_proj.bias"}};
			for (int k = 0; k < 2; k++) {
				const whit_gguf_tensor *t = whit_gguf_tensor_find(&h, names[k][0]);
				const whit_weight *w = whit_ckpt_find(&c, names[k][1]);
				int64_t cols = k ? 1 : s->hidden, rows = k ? s->heads * s->dim : s->kv * s->dim;
				CHECK((t != NULL) == (w != NULL));
				for (int64_t r = 0; w && r < rows; r++) {
					int64_t in_head = r % s->dim, at = r;
					if (!strcmp(s->arch, "llama")) /* row 2p + t is row t * dim / 2 + p */
						at = r - in_head + in_head % 2 * (s->dim / 2) + in_head / 2;
					CHECK(!memcmp(t->data + 4 * r * cols, w->mat.plane[0] + 4 * at * cols,
					              (size_t)(4 * cols)));
				}
			}
			whit_gguf_close(&g);
			whit_gguf_close(&h);
			whit_ckpt_close(&c);
		}
		remove_tree(in);
		remove_tree(f32);
		remove_tree(kept);
		remove_tree(q8);
		remove_tree(again);
	}
}

/* What whit wrote: decoded, then encoded; blocks that were kept as bytes are copied, into pairs. */
static void from_directory(void) {
	whit_err e;
	whit_model m;
	whit_recipe r;
	whit_plan p;
	whit_outdir dir;
	whit_quantize_stats st;
	char *in = make_model("export-in", &small[0]), *packed = test_scratch("export-packed"),
	     *out = test_scratch("export-out.gguf"), *direct = test_scratch("export-direct.gguf");
	CHECK_RC(make_recipe(&r, "*.q_proj.weight q8_0\n*.k_proj.weight int8\n* keep\n", &e), e);
	CHECK_RC(whit_model_open(&m, in, 0, &e), e);
	CHECK_RC(whit_plan_make(&p, &m, &r, &(whit_target){0}, &e), e);
	CHECK_RC(whit_outdir_open(&dir, packed, 0, &e), e);
	CHECK_RC(whit_quantize_run(&p, &m, &r, whit_sink_dir(&dir), &st, &e), e);
	CHECK_RC(whit_outdir_commit(&dir, &e), e);
	whit_plan_free(&p);
	whit_recipe_free(&r);
	whit_model_close(&m);
	CHECK_RC(export(packed, out, "*.k_proj.weight f32\n* keep\n", NULL, &p, &e), e);
	CHECK_INT(p.requantized, small[0].layers);
	same_values(packed, out, 0);
	/* A kept matrix of codes that GGUF does not have becomes F16. */
	CHECK_RC(export(packed, out, "* keep\n", NULL, NULL, &e), e);
	same_values(packed, out, 4e-3);
	whit_gguf g;
	if (CHECK_RC(whit_gguf_open(&g, out, &e), e)) {
		CHECK_TEXT(whit_gguf_tensor_find(&g, "blk.0.attn_q.weight")->type->name, "Q8_0");
		CHECK_TEXT(whit_gguf_tensor_find(&g, "blk.0.attn_k.weight")->type->name, "F16");
		whit_gguf_close(&g);
	}
	remove_tree(in);
	remove_tree(packed);
	remove_tree(out);
	remove_tree(direct);
}

/* ---- presets ---- */

/* The type of layer l in "Q6_K", or "Q5_K*2,Q4_K*4". */
static const char *nth(const char *runs, int64_t l, char out[16]) {
	for (const char *p = runs;; p++) {
		int n = (int)strcspn(p, "*,");
		snprintf(out, 16, "%.*s", n, p);
		p += n;
		if (*p != '*') return out;
		int64_t k = strtol(p + 1, (char **)(uintptr_t)&p, 10);
		if (l < k || *p != ',') return l < k ? out : "none";
		l -= k;
	}
}

/* One line of the golden list against the plan. */
static void check_mix(const whit_model *m, const char *preset, const char *base, char *const *stem, int n,
                      const whit_imatrix *im) {
	whit_err e;
	whit_recipe r;
	whit_plan p;
	whit_target target = {.gguf = 1, .imatrix = im};
	if (!CHECK_RC(make_recipe(&r, preset, &e), e)) return;
	int rc = whit_plan_make(&p, m, &r, &target, &e);
	if (!strcmp(base, "refused")) {
		CHECK_FAILS(rc, WHIT_EUSAGE, e, "need a multiple of");
	} else if (CHECK_RC(rc, e)) {
		for (int64_t i = 0; i < p.n; i++) {
			const whit_plan_row *row = &p.row[i];
			const char *want = base, *is = row->name;
			char type[16];
			if (row->absent || row->cls == WHIT_CLASS_NONE) continue;
			if (!strncmp(is, "blk.", 4)) is = strchr(is + 4, '.') + 1;
			for (int k = 0; k < n; k++) {
				size_t len = strcspn(stem[k], "=");
				if (!strncmp(is, stem[k], len) && is[len] == '.')
					want = nth(stem[k] + len + 1, row->layer, type);
			}
			is = whit_ggml_type_of_spec(&row->spec)->name;
			CHECK_MSG(!strcmp(is, want), "%s %s of %s: is %s, llama-quantize has %s", preset, row->name,
			          m->ckpt.path, is, want);
		}
		whit_plan_free(&p);
	}
	whit_recipe_free(&r);
}

static void presets(void) {
	whit_err e;
	whit_model m;
	char key[128] = "", *dir = NULL, *line = NULL, *word[32];
	size_t room = 0;
	const whit_imatrix none = {.path = (char *)(uintptr_t) "none"};
	FILE *f = fopen(WHIT_SOURCE "/tests/golden/presets.txt", "r");
	if (!CHECK(f != NULL)) return;
	int lines = 0;
	while (getline(&line, &room, f) > 0) {
		int n = 0;
		char *rest;
		for (char *w = strtok_r(line, " \n", &rest); w && n < 32; w = strtok_r(NULL, " \n", &rest))
			word[n++] = w;
		if (!CHECK(n >= 10 || (n == 9 && !strcmp(word[8], "F16")))) break;
		char now[128];
		snprintf(now, sizeof now, "%s-%s-%s-%s-%s-%s-%s", word[0], word[1], word[2], word[3], word[4], word[5],
		         word[6]);
		if (strcmp(now, key)) {
			if (dir) {
				whit_model_close(&m);
				remove_tree(dir);
			}
			int64_t v[7] = {0};
			for (int i = 1; i < 7; i++) v[i] = atoll(word[i]);
			const shape s = {.arch = word[0],
			                 .layers = v[1],
			                 .heads = v[2],
			                 .kv = v[3],
			                 .dim = v[5] / v[2],
			                 .hidden = v[5],
			                 .inner = v[6],
			                 .tied = (int)v[4],
			                 .hole = 1,
			                 .more = strcmp(word[0], "qwen3_5_text") ? NULL : delta_keys};
			dir = make_model(now, &s);
			strcpy(key, now);
			if (!CHECK_RC(whit_model_open(&m, dir, 0, &e), e)) return;
		}
		int im = atoi(word[7]);
		if (im != 1) check_mix(&m, word[8], word[9], word + 10, n - 10, NULL);
		if (im != 0) check_mix(&m, word[8], word[9], word + 10, n - 10, &none);
		lines++;
	}
	CHECK(lines > 300);
	if (dir) {
		whit_model_close(&m);
		remove_tree(dir);
	}
	free(line);
	fclose(f);
}

/* ---- metadata ---- */

static void config_refusals(void) {
	static const struct {
		const char *arch, *more, *word;
	} row[] = {
	        {"qwen3", "\"use_sliding_window\": true, \"sliding_window\": 64, \"max_window_layers\": 1",
	         "sliding_window"},
	        {"qwen3", "\"attention_bias\": true", "attention_bias"},
	        {"llama", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"beta_fast\": 16}",
	         "beta_fast"},
	        {"llama", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"beta_slow\": 2}",
	         "beta_slow"},
	        {"llama", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"truncate\": false}",
	         "truncate"},
	};
	whit_err e;
	char *out = test_scratch("export-refused.gguf");
	for (int i = 0; i < WHIT_COUNT(row); i++) {
		const shape s = {.arch = row[i].arch,
		                 .layers = 2,
		                 .heads = 2,
		                 .kv = 1,
		                 .dim = 32,
		                 .hidden = 64,
		                 .inner = 64,
		                 .bias = i == 1,
		                 .more = row[i].more};
		char *in = make_model("export-in", &s);
		if (i == 1) { /* qwen3's attention_bias is of q, k, v and o only */
			whit_err any;
			CHECK(export(in, out, "F16", NULL, NULL, &any) < 0);
		} else {
			CHECK_FAILS(export(in, out, "F16", NULL, NULL, &e), WHIT_EINPUT, e, row[i].word);
		}
		CHECK(!whit_file_exists(out));
		remove_tree(in);
	}
	/* A window that nothing feels is no obstacle: as long as the context, or behind the last layer. */
	static const char *const fine[] = {
	        "\"use_sliding_window\": true, \"sliding_window\": 128, \"max_window_layers\": 0",
	        "\"use_sliding_window\": true, \"sliding_window\": 4, \"max_window_layers\": 2",
	        "\"use_sliding_window\": false, \"sliding_window\": 4"};
	for (int i = 0; i < WHIT_COUNT(fine); i++) {
		const shape s = {.arch = "qwen2",
		                 .layers = 2,
		                 .heads = 2,
		                 .kv = 1,
		                 .dim = 32,
		                 .hidden = 64,
		                 .inner = 64,
		                 .more = fine[i]};
		char *in = make_model("export-in", &s);
		CHECK_RC(export(in, out, "F16", NULL, NULL, &e), e);
		remove_tree(in);
	}
	remove_tree(out);
}

/* Rotary frequencies of the first layer; the model must stay open. */
static const double *inv_freq(const whit_model *m, double *mscale) {
	for (int i = 0; i < m->layer[0].n_node; i++)
		if (m->layer[0].node[i].op == whit_op_find("rope")) {
			*mscale = m->layer[0].node[i].a.mscale;
			return m->layer[0].node[i].a.inv_freq;
		}
	return NULL;
}

/* Every kind of rope scaling gives the same frequencies from the GGUF as from config.json. */
static void rope(void) {
	static const char *const scaling[] = {
	        "\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
	        "\"low_freq_factor\": 1.0, "
	        "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 64}",
	        "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}",
	        "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": "
	        "32}",
	        "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": "
	        "32, "
	        "\"attention_factor\": 1.5}",
	        "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": "
	        "32, "
	        "\"mscale\": 0.7, \"mscale_all_dim\": 0.3}",
	        "\"rope_scaling\": {\"rope_type\": \"yarn\", \"original_max_position_embeddings\": 32}",
	        "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1234.5}"};
	whit_err e;
	char *out = test_scratch("export-rope.gguf"), *twice = test_scratch("export-rope2.gguf");
	for (int i = 0; i < WHIT_COUNT(scaling); i++) {
		const shape s = {.arch = "llama",
		                 .layers = 1,
		                 .heads = 1,
		                 .kv = 1,
		                 .dim = 64,
		                 .hidden = 64,
		                 .inner = 64,
		                 .more = scaling[i]};
		char *in = make_model("export-in", &s);
		const char *path[] = {out, twice};
		whit_model a, b;
		double ma = 0, mb = 0;
		CHECK_RC(export(in, out, "F32", NULL, NULL, &e), e);
		CHECK_RC(export(out, twice, "F32", NULL, NULL, &e), e);
		for (int k = 0; k < 2; k++) {
			if (!CHECK_RC(whit_model_open(&a, in, 0, &e), e) ||
			    !CHECK_RC(whit_model_open(&b, path[k], 0, &e), e))
				return;
			const double *x = inv_freq(&a, &ma), *y = inv_freq(&b, &mb);
			CHECK_NEAR(mb / ma, 1, 1e-6);
			/* a float quotient, a float file, a float product */
			for (int f = 0; f < 32; f++) CHECK_NEAR(y[f] / x[f], 1, 4 * 0x1p-24 * (i < 2 ? 1 : 4));
			whit_model_close(&a);
			whit_model_close(&b);
		}
		remove_tree(in);
	}
	remove_tree(out);
	remove_tree(twice);
}

/* Keys of a GGUF source that whit does not know travel on; its labels do not. */
static void metadata(void) {
	whit_err e;
	whit_gguf g;
	whit_gguf_out *o;
	char *in = make_model("export-in", &small[3]), *a = test_scratch("export-a.gguf"),
	     *b = test_scratch("export-b.gguf"), *c = test_scratch("export-c.gguf");
	CHECK_RC(export(in, a, "F16", NULL, NULL, &e), e);
	if (!CHECK_RC(whit_gguf_open(&g, a, &e), e)) return;
	CHECK_RC(whit_gguf_out_open(&o, b, &e), e);
	CHECK_RC(whit_gguf_put_string(o, "tokenizer.chat_template", "{{ x }}", &e), e);
	CHECK_RC(whit_gguf_put_string(o, "general.license", "mit", &e), e);
	CHECK_RC(whit_gguf_put_u32(o, "general.alignment", 32, &e), e);
	CHECK_RC(whit_gguf_put_string(o, "quantize.imatrix.file", "x", &e), e);
	for (int64_t i = 0; i < g.n_kv; i++) CHECK_RC(whit_gguf_put_copy(o, &g.kv[i], &e), e);
	for (int64_t i = 0; i < g.n; i++)
		CHECK_RC(whit_gguf_out_tensor(o, g.t[i].name, g.t[i].type, g.t[i].ndim, g.t[i].ne, &e), e);
	for (int64_t i = 0; i < g.n; i++) CHECK_RC(whit_gguf_out_write(o, g.t[i].data, g.t[i].bytes, &e), e);
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	whit_gguf_close(&g);
	CHECK_RC(export(b, c, "Q8_0", NULL, NULL, &e), e);
	if (!CHECK_RC(whit_gguf_open(&g, c, &e), e)) return;
	const char *text = "";
	int64_t type = -1, version = -1;
	CHECK_RC(whit_gguf_string(&g, "tokenizer.chat_template", 1, &text, &e), e);
	CHECK_TEXT(text, "{{ x }}");
	CHECK(whit_gguf_find(&g, "general.license") != NULL);
	CHECK(!whit_gguf_find(&g, "general.alignment") && !whit_gguf_find(&g, "quantize.imatrix.file"));
	CHECK_RC(whit_gguf_int(&g, "general.file_type", 1, 0, 99, &type, &e), e);
	CHECK_RC(whit_gguf_int(&g, "general.quantization_version", 1, 0, 99, &version, &e), e);
	CHECK_INT(type, 7);
	CHECK_INT(version, 2);
	CHECK_RC(whit_gguf_string(&g, "general.name", 1, &text, &e), e);
	CHECK_TEXT(text, strrchr(in, '/') + 1);
	whit_gguf_close(&g);
	remove_tree(in);
	remove_tree(a);
	remove_tree(b);
	remove_tree(c);
}

/* ---- importance, threads, failure ---- */

static void importance(void) {
	whit_err e;
	whit_plan p;
	enum { COLS = 64 };
	float mean[COLS];
	for (int i = 0; i < COLS; i++) mean[i] = i < 8 ? 100 : 0.01f;
	whit_importance w = {.name = (char *)(uintptr_t) "blk.0.attn_q.weight",
	                     .sum2 = mean,
	                     .mean = mean,
	                     .cols = COLS,
	                     .count = 1};
	whit_imatrix im = {.path = (char *)(uintptr_t) "im.gguf", .w = &w, .n = 1, .chunks = 3};
	char *in = make_model("export-in", &small[2]), *plain = test_scratch("export-plain.gguf"),
	     *out = test_scratch("export-im.gguf");
	CHECK_RC(export(in, plain, "q4_0", NULL, &p, &e), e);
	CHECK_INT(p.weighted + p.unweighted, 0);
	CHECK_RC(export(in, out, "q4_0", &im, &p, &e), e);
	CHECK_INT(p.weighted, 1);
	CHECK_INT(p.unweighted, p.quantized - 1);
	whit_gguf a, b;
	if (CHECK_RC(whit_gguf_open(&a, plain, &e), e) && CHECK_RC(whit_gguf_open(&b, out, &e), e)) {
		for (int64_t i = 0; i < a.n; i++) {
			const whit_gguf_tensor *t = whit_gguf_tensor_find(&b, a.t[i].name);
			CHECK_INT(t && !memcmp(t->data, a.t[i].data, t->bytes), strcmp(a.t[i].name, w.name) != 0);
		}
		int64_t n = 0;
		const char *file = "";
		CHECK_RC(whit_gguf_string(&b, "quantize.imatrix.file", 1, &file, &e), e);
		CHECK_TEXT(file, "im.gguf");
		CHECK_RC(whit_gguf_int(&b, "quantize.imatrix.chunks_count", 1, 0, 9, &n, &e), e);
		CHECK_INT(n, 3);
		whit_gguf_close(&a);
		whit_gguf_close(&b);
	}
	w.cols = 32;
	CHECK_FAILS(export(in, out, "q4_0", &im, NULL, &e), WHIT_EINPUT, e, "blk.0.attn_q.weight: has 32 values");
	remove_tree(in);
	remove_tree(plain);
	remove_tree(out);
}

static void threads(void) {
	whit_err e;
	int was = whit_threads();
	char *first = NULL;
	size_t size = 0, n;
	char *in = make_model("export-in", &small[0]), *out = test_scratch("export-threads.gguf");
	for (int t = 1; t <= 3; t++) {
		whit_threads_set(t);
		CHECK_RC(export(in, out, "Q4_K_M", NULL, NULL, &e), e);
		char *bytes = test_read(out, &n);
		CHECK(bytes && (!first || (n == size && !memcmp(bytes, first, n))));
		if (first) {
			whit_free(bytes);
		} else {
			first = bytes;
			size = n;
		}
	}
	whit_threads_set(was);
	whit_free(first);
	remove_tree(in);
	remove_tree(out);
}

static void refusals(void) {
	whit_err e;
	whit_plan p;
	char *in = make_model(
	             "export-in",
	             &(shape){
	                     .arch = "llama", .layers = 1, .heads = 2, .kv = 2, .dim = 32, .hidden = 64, .inner = 172}),
	     *out = test_scratch("export-refused.gguf");
	CHECK_FAILS(export(in, out, "Q8_0", NULL, NULL, &e), WHIT_EUSAGE, e,
	            "down_proj.weight: format q8_0: width is 172");
	CHECK_FAILS(export(in, out, "tq4g64", NULL, NULL, &e), WHIT_EUSAGE, e, "format is tq4g64, need a type of GGUF");
	CHECK_FAILS(export(in, out, "*.q_proj.weight f16\n", NULL, NULL, &e), WHIT_EUSAGE, e, "no line matches");
	CHECK_FAILS(export(in, "/nonexistent/x.gguf", "F16", NULL, NULL, &e), WHIT_EUSAGE, e, "/nonexistent/x.gguf");
	CHECK(!whit_file_exists(out));
	CHECK_RC(export(in, out, "Q6_K", NULL, &p, &e), e);
	CHECK_INT(p.fallbacks, 9); /* seven linears, embedding, head: no row is whole blocks of 256 */
	remove_tree(in);
	remove_tree(out);
}

/* The models of the project: F32 and the source's own type are exact. */
static void real_models(void) {
	whit_err e;
	static const char *const name[] = {"wiki12M-qwen3", "wiki5M", "stories260K"};
	for (int i = 0; i < (TEST_SANITIZED ? 1 : WHIT_COUNT(name)); i++) {
		char *in = test_model(name[i]), *out = test_scratch("export-real.gguf");
		if (in) {
			CHECK_RC(export(in, out, "* keep\n", NULL, NULL, &e), e);
			same_values(in, out, 0);
			CHECK_RC(export(in, out, "F32", NULL, NULL, &e), e);
			same_values(in, out, 0);
			CHECK_RC(export(in, out, "Q4_K_M", NULL, NULL, &e), e);
			remove(out);
		}
		whit_free(in);
		whit_free(out);
	}
}

static void quiet(void) { whit_quiet(1); }

TEST_MAIN(quiet, round_trip, from_directory, presets, config_refusals, rope, metadata, importance, threads, refusals,
          real_models)
