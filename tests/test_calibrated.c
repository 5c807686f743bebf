/* Quantizing with calibration (calib/calibration.h): Hessians in the frame of what is stored, texts that run along with
 * the quantizing against statistics of the original, directories against GGUF, and bad input. */
#include <math.h>
#include "calib/quantize.h"
#include "formats/lora.h"
#include "host/ops.h"
#include "host/progress.h"
#include "tests/test.h"

#define GOLDEN(name) WHIT_SOURCE "/tests/golden/models/" name
#define LLAMA GOLDEN("llama-f32")
#define QWEN35 GOLDEN("qwen3_5-grouped-bf16")

/* Letters between digits are tokens of their own, all of them below the golden models' 96. */
static const char text[] = "0a3B7c1d9E2f5G8h4i6J0k2L7m3n9O1p5q8R4s6T0u3v7W2x9Y1z5A8b4C6d0e2F7G"
                           "3a0B1c7d2E9f8G5h6i4J2k0L3m7n1O9p8q5R6s4T3u0v2W7x1Y9z8A5b6C4d2e0F3G";
enum { LEN = 16 };

static whit_tok *tokenizer(void) {
	whit_tok *tok = NULL;
	whit_err e;
	CHECK_RC(whit_tok_open(&tok, WHIT_SOURCE "/tests/models/wiki12M-qwen3", &e), e);
	return tok;
}

/* ---- frames ---- */

/* x (1, cols) as a stored row has it. */
static void as_stored(const whit_calibration_of *w, float *x, int64_t cols, float *out) {
	for (int64_t i = 0; i < cols && w->scale; i++) x[i] *= w->scale[i];
	if (w->change) whit_gguf_apply(w->change, x, 1, cols);
	if (w->rot)
		whit_rotate_cpu(w->rot, out, x, 1);
	else
		memcpy(out, x, (size_t)cols * sizeof *x);
}

static double form(const double *h, const float *x, int64_t n) {
	double sum = 0;
	for (int64_t i = 0; i < n; i++)
		for (int64_t k = 0; k < n; k++) sum += h[i * n + k] * x[i] * x[k];
	return sum;
}

/* x H x is the same in every frame: by the factor that was made, and by the sums. */
static void check_frame(whit_calibration *c, const whit_calibration_of *w, const float *hessian, int64_t cols,
                        double tokens) {
	const whit_feedback *f;
	whit_err e;
	whit_rng g;
	if (!CHECK_RC(whit_calibration_get(c, w, &f, &e), e)) return;
	double *h = whit_alloc((size_t)(f->n * f->n + cols * cols) * sizeof *h), *want = h + f->n * f->n;
	for (int64_t i = 0; i < f->n; i++)
		for (int64_t k = 0; k < f->n; k++) {
			double sum = i == k ? -f->damping : 0;
			for (int64_t j = 0; j < f->n; j++) sum += (double)f->r[i * f->n + j] * f->r[k * f->n + j];
			h[i * f->n + k] = f->scale * sum;
		}
	for (int64_t i = 0; i < cols * cols; i++) want[i] = hessian[i] / tokens;
	whit_rng_key(&g, 1, 2, 3);
	for (int t = 0; t < 20; t++) {
		float x[256], y[256];
		for (int64_t i = 0; i < cols; i++) x[i] = (float)whit_rng_normal(&g);
		double is = form(want, x, cols);
		as_stored(w, x, cols, y);
		CHECK_NEAR(form(h, y, f->n), is, 1e-4 * is);
	}
	whit_free(h);
}

static void frames(void) {
	whit_model m;
	whit_stats s;
	whit_err e;
	whit_tok *tok = tokenizer();
	whit_stats_text t = {.name = "text", .data = text, .bytes = sizeof text - 1};
	whit_stats_opts o = {.kinds = WHIT_STAT_HESSIAN, .ctx = LEN};
	whit_calibration c = {.feedback = {.damping = 0.01}, .live = &s};
	if (!tok || !CHECK_RC(whit_model_open(&m, QWEN35, 0, &e), e)) return;
	if (!CHECK_RC(whit_stats_run(&s, &m, tok, &t, 1, &o, &e), e)) return;
	const whit_gguf_arch *arch = whit_gguf_arch_find(m.arch->name, &e);
	int changed = 0;
	for (int64_t i = 0; i < s.n; i++)
		for (int way = 0; way < 4; way++) {
			int kind = way % 2;
			float scale[256];
			const whit_stats_input *in = &s.in[i];
			const float *hessian =
			        whit_stats_find(&s, in->layer, "text", in->weight[0], "in.hessian")->data;
			whit_gguf_change change;
			whit_rotation *rot = NULL;
			whit_rotation_spec spec;
			whit_calibration_of w = {.name = in->weight[in->n_weight - 1], .kind = WHIT_FEEDBACK_GPTQ};
			for (int c = 0; c < WHIT_COUNT(scale); c++) scale[c] = 0.5f + (float)(c * 7 % 11);
			if (way / 2) w.scale = scale;
			if (kind) {
				CHECK_RC(whit_rotation_plan(&spec, WHIT_ROT_HADAMARD, 5, in->cols, 64, &e), e);
				CHECK_RC(whit_rotation_new(&rot, &spec, NULL, &e), e);
				w.rot = rot;
			} else if (whit_gguf_change_of(arch, m.config, w.name, &change) && change.columns) {
				w.change = &change;
				changed++;
			}
			check_frame(&c, &w, hessian, in->cols, (double)s.tokens);
			whit_calibration_free(&c);
			whit_rotation_free(rot);
		}
	CHECK_MSG(changed >= 1, "no weight has columns in another order");
	whit_stats_free(&s);
	whit_model_close(&m);
	whit_tok_close(tok);
}

/* ---- whole models ---- */

typedef struct run {
	const char *model, *out, *method, *format, *stats; /* stats NULL: the text */
	int gguf, threads;
	const char *text;
	int64_t block_steps, distill_steps, lora_rank;
	int groups;              /* 0: not guided */
	const char *lora, *keep; /* the adapter; ",role" of more matrices that stay as they are */
	whit_quantize_stats st;
	whit_plan plan;
	int64_t lora_bytes;
} run;

static int quantize(run *r, whit_err *e) {
	static const char lines[] = "*{down_proj%s}.weight keep\n@linear %s method=%s\n"
	                            "@embedding keep\n";
	char recipe[256];
	whit_model m = {0}, running = {0};
	whit_recipe p;
	whit_outdir dir;
	whit_rule base = {.method = whit_method_find("nearest", e)};
	whit_tok *tok = tokenizer();
	const char *words = r->text ? r->text : text;
	whit_stats_text t = {.name = "text", .data = words, .bytes = strlen(words)};
	whit_calibration c = {
	        .feedback = {.damping = -1, .alpha = 0.5},
	        .running = &running,
	        .original = &m,
	        .tok = tok,
	        .text = &t,
	        .n_text = 1,
	        .o = {.ctx = LEN, .groups = r->groups},
	        .guided = r->groups > 0,
	        .reconstruct = {.steps = r->block_steps, .rate = 0.01, .scale_rate = 0.003, .step_tokens = 16 * LEN},
	        .distill = {.steps = r->distill_steps, .rate = 0.002, .scale_rate = 0.001, .step_tokens = 16 * LEN}};
	whit_target target = {.gguf = r->gguf, .calibration = &c, .lora = r->lora, .lora_rank = r->lora_rank};
	whit_quiet(1);
	whit_threads_set(r->threads);
	snprintf(recipe, sizeof recipe, lines, r->keep ? r->keep : "", r->format, r->method);
	int rc = whit_recipe_parse(&p, recipe, strlen(recipe), "lines", &base, e);
	if (rc) return rc;
	rc = whit_model_open(&m, r->model, 0, e);
	if (!rc) rc = whit_model_open(&running, r->model, 0, e);
	if (!rc && r->stats) rc = whit_stats_dir_open(&c.dir, r->stats, &m, e);
	if (!rc) rc = whit_plan_make(&r->plan, &m, &p, &target, e);
	if (!rc) r->lora_bytes = r->plan.lora_bytes;
	if (!rc && r->gguf) {
		rc = whit_quantize_run(&r->plan, &m, &p, whit_sink_gguf(r->out, NULL), &r->st, e);
	} else if (!rc && !(rc = whit_outdir_open(&dir, r->out, 0, e))) {
		rc = whit_quantize_run(&r->plan, &m, &p, whit_sink_dir(&dir), &r->st, e);
		if (rc)
			whit_outdir_abort(&dir);
		else
			rc = whit_outdir_commit(&dir, e);
	}
	whit_plan_free(&r->plan);
	whit_calibration_free(&c);
	if (running.ckpt.path) whit_model_close(&running);
	if (m.ckpt.path) whit_model_close(&m);
	whit_recipe_free(&p);
	whit_tok_close(tok);
	whit_threads_set(0);
	return rc;
}

/* How many matrices of a and b decode to other values; of layer `layer`, or all (-1). */
static int matrices_apart(const char *a, const char *b, int64_t layer, int *all) {
	whit_err e;
	whit_model x, y;
	int apart = 0;
	*all = 0;
	if (!CHECK_RC(whit_model_open(&x, a, 0, &e), e) || !CHECK_RC(whit_model_open(&y, b, 0, &e), e)) return -1;
	for (int64_t i = 0; i < x.ckpt.n; i++) {
		const whit_weight *v = &x.ckpt.w[i], *w = whit_ckpt_find(&y.ckpt, v->name);
		const char *role;
		int64_t l;
		if (whit_model_role(&x, v->name, &role, &l) != 1 || (layer >= 0 && l != layer)) continue;
		if (!CHECK_MSG(w != NULL, "%s: no %s", b, v->name)) continue;
		float p[256], q[256];
		int same = 1;
		for (int64_t r = 0; r < v->mat.rows; r++) {
			whit_mat_decode(&v->mat, r, r + 1, p);
			whit_mat_decode(&w->mat, r, r + 1, q);
			for (int64_t k = 0; k < v->mat.cols; k++) same &= p[k] == q[k];
		}
		apart += !same;
		++*all;
	}
	whit_model_close(&x);
	whit_model_close(&y);
	return apart;
}

/* Statistics of the original model, as whit calibrate leaves them. */
static char *statistics(const char *model, const char *name, unsigned kinds, whit_stats_text *t, int n) {
	whit_model m;
	whit_stats s;
	whit_err e;
	char print[48], *dir = test_scratch(name);
	whit_tok *tok = tokenizer();
	whit_stats_opts o = {.kinds = kinds, .groups = 3, .ctx = LEN, .dir = dir};
	mkdir(dir, 0777);
	CHECK_RC(whit_model_open(&m, model, 0, &e), e);
	CHECK_RC(whit_ckpt_fingerprint(&m.ckpt, print, &e), e);
	json_t *job = whit_stats_job(&m, print, NULL, t, n, &o, "cpu");
	if (CHECK_RC(whit_stats_run(&s, &m, tok, t, n, &o, &e), e)) {
		CHECK_RC(whit_stats_finish(&s, dir, job, &e), e);
		whit_stats_free(&s);
	}
	json_decref(job);
	whit_model_close(&m);
	whit_tok_close(tok);
	return dir;
}

static char *hessians(const char *model) {
	whit_stats_text t = {.name = "text", .data = text, .bytes = sizeof text - 1};
	return statistics(model, "calibrated-stats", WHIT_STAT_HESSIAN | WHIT_STAT_GUIDED, &t, 1);
}

/* A row's codes come of its group's Hessian alone: those of a matrix whose rows all had it. Groups of uneven size, rows
 * in pairs as a GGUF has them, F32 scales. */
static void guided(void) {
	static const struct {
		const char *weight, *format;
		int64_t paired;
		float by;
	} of[] = {{"model.layers.1.self_attn.q_proj.weight", "q4_0", 8, 1},
	          {"model.layers.0.mlp.up_proj.weight", "int3g32", 0, 1},
	          {"model.layers.0.mlp.up_proj.weight", "int3g32", 0, 1e9f}};
	whit_err e;
	whit_model m;
	char *dir = hessians(LLAMA);
	whit_calibration c = {.feedback = {.damping = -1, .alpha = 0.5}, .guided = 1};
	if (!CHECK_RC(whit_model_open(&m, LLAMA, 0, &e), e)) return;
	if (!CHECK_RC(whit_stats_dir_open(&c.dir, dir, &m, &e), e)) return;
	CHECK_INT(whit_calibration_groups(&c), 3);
	for (int i = 0; i < WHIT_COUNT(of); i++) {
		whit_encoder q = {.calibration = &c};
		whit_weight w = *whit_ckpt_find(&m.ckpt, of[i].weight);
		whit_mat scaled, got, whole;
		whit_job j, all;
		whit_rule rule = {.method = whit_method_find("gptq", &e), .rotation = WHIT_ROT_NONE};
		int64_t apart = 0, own = 0;
		CHECK_RC(whit_mat_floats(&scaled, &w.mat, &e), e);
		for (int64_t k = 0; k < scaled.rows * scaled.cols; k++)
			((float *)(uintptr_t)scaled.plane[0])[k] *= of[i].by;
		w.mat = scaled;
		CHECK_RC(whit_spec_parse(of[i].format, &rule.spec, &e), e);
		whit_plan_row row = {.w = &w, .rule = &rule, .paired = of[i].paired, .layer = 1};
		CHECK_RC(whit_plan_tensor(&row, &rule, &e), e);
		if (!CHECK_RC(whit_encoder_run(&q, &row, &got, &j, &e), e)) continue;
		CHECK_INT(got.scale_f32, of[i].by > 1);
		CHECK(j.loss > 0 && j.loss < j.loss_nearest);
		int64_t rows = got.rows, each = (rows + 2) / 3;
		for (int g = 0; g < 3; g++) {
			const whit_calibration_of ask = {.name = w.name, .kind = WHIT_FEEDBACK_GPTQ};
			whit_feedback f;
			CHECK_RC(whit_calibration_guided(&c, &ask, g, &f, &e), e);
			whole = (whit_mat){.spec = row.spec,
			                   .rows = rows,
			                   .cols = got.cols,
			                   .width = got.width,
			                   .paired = of[i].paired,
			                   .scale_f32 = got.scale_f32};
			CHECK_RC(whit_mat_alloc(&whole, &e), e);
			all = (whit_job){.src = &w, .dst = &whole, .feedback = &f};
			CHECK_RC(rule.method->run(&all, &e), e);
			for (int64_t r = 0; r < rows; r++) {
				size_t at = (size_t)whit_mat_row(&got, r) * got.row_bytes[0];
				int same = !memcmp(got.plane[0] + at, whole.plane[0] + at, got.row_bytes[0]);
				if (r / each == g)
					apart += !same;
				else
					own += !same;
			}
			whit_feedback_free(&f);
			whit_mat_free(&whole);
		}
		CHECK_INT(apart, 0);
		CHECK_MSG(own > rows / 4, "%s: groups' Hessians differ in %lld rows", of[i].weight, (long long)own);
		whit_mat_free(&got);
		whit_mat_free(&scaled);
		whit_encoder_free(&q);
	}
	whit_calibration_free(&c);
	whit_model_close(&m);
	whit_free(dir);
}

/* Where a GGUF has rows in another order, each still goes by its own group. */
static void guided_order(void) {
	whit_err e;
	whit_model m;
	char *dir = hessians(QWEN35);
	int changed = 0;
	whit_rule rule = {.method = whit_method_find("gptq", &e), .rotation = WHIT_ROT_NONE};
	whit_calibration c = {.feedback = {.damping = -1, .alpha = 0.5}, .guided = 1};
	if (!CHECK_RC(whit_model_open(&m, QWEN35, 0, &e), e)) return;
	CHECK_RC(whit_stats_dir_open(&c.dir, dir, &m, &e), e);
	CHECK_RC(whit_spec_parse("int3g32", &rule.spec, &e), e);
	const whit_gguf_arch *arch = whit_gguf_arch_find(m.arch->name, &e);
	for (int64_t i = 0; i < m.ckpt.n; i++) {
		const whit_weight *w = &m.ckpt.w[i];
		whit_plan_row row = {.w = w, .rule = &rule};
		whit_encoder q = {.calibration = &c};
		whit_mat mat[2];
		float *x[2];
		int64_t n = w->mat.rows * w->mat.cols;
		whit_job j;
		if (!whit_calibration_has(&c, w->name, 0) ||
		    !whit_gguf_change_of(arch, m.config, w->name, &row.change) || row.change.columns)
			continue;
		CHECK_RC(whit_plan_tensor(&row, &rule, &e), e);
		for (row.changed = 0; row.changed < 2; row.changed++) {
			int k = row.changed;
			CHECK_RC(whit_encoder_run(&q, &row, &mat[k], &j, &e), e);
			x[k] = whit_alloc((size_t)n * sizeof *x[k]);
			whit_mat_decode(&mat[k], 0, w->mat.rows, x[k]);
			whit_mat_free(&mat[k]);
		}
		CHECK(memcmp(x[0], x[1], (size_t)n * sizeof(float)) != 0);
		whit_gguf_apply(&row.change, x[0], w->mat.rows, w->mat.cols);
		CHECK_MSG(!memcmp(x[0], x[1], (size_t)n * sizeof(float)), "%s: codes are others", w->name);
		changed++;
		whit_free(x[0]);
		whit_free(x[1]);
		whit_encoder_free(&q);
	}
	CHECK(changed > 0);
	whit_calibration_free(&c);
	whit_model_close(&m);
	whit_free(dir);
}

/* Weights that share an input but not their columns' scale do not share what is made of it. */
static void scaled_apart(void) {
	static const char *const name[] = {"model.layers.1.self_attn.q_proj.weight",
	                                   "model.layers.1.self_attn.k_proj.weight"};
	whit_err e;
	whit_model m;
	char *dir = hessians(LLAMA);
	float scale[64], diag[3];
	whit_calibration c = {.feedback = {.damping = 0, .alpha = 0.5}};
	if (!CHECK_RC(whit_model_open(&m, LLAMA, 0, &e), e)) return;
	if (!CHECK_RC(whit_stats_dir_open(&c.dir, dir, &m, &e), e)) return;
	CHECK(whit_ckpt_find(&m.ckpt, name[0])->mat.cols <= 64);
	for (int i = 0; i < 64; i++) scale[i] = i ? 1 : 4;
	for (int i = 0; i < 3; i++) {
		const whit_calibration_of w = {
		        .name = name[i % 2], .kind = WHIT_FEEDBACK_GPTQ, .scale = i == 1 ? scale : NULL};
		const whit_feedback *f;
		CHECK_RC(whit_calibration_get(&c, &w, &f, &e), e);
		diag[i] = (float)(f->scale * (double)f->h_diag[0]);
	}
	CHECK_NEAR(diag[1], diag[0] / 16, 1e-5 * diag[0]);
	CHECK(diag[2] == diag[0]);
	whit_calibration_free(&c);
	whit_model_close(&m);
	whit_free(dir);
}

/* Fisher information of three domains, put together as fisher.h says, from the sums as they lie in the directory. */
static void fisher(void) {
	enum { DOMAINS = 3 };
	static const char name[] = "model.layers.1.self_attn.v_proj.weight";
	whit_stats_text t[DOMAINS];
	whit_err e;
	whit_model m;
	whit_fisher f;
	whit_fisher_sums s;
	static const char *const domain[DOMAINS] = {"a", "b", "c"};
	size_t third = (sizeof text - 1) / DOMAINS;
	for (int d = 0; d < DOMAINS; d++)
		t[d] = (whit_stats_text){
		        .name = domain[d], .domain = domain[d], .data = text + d * third, .bytes = third};
	char *dir = statistics(LLAMA, "calibrated-fisher", WHIT_STAT_FISHER, t, DOMAINS);
	if (!CHECK_RC(whit_model_open(&m, LLAMA, 0, &e), e)) return;
	const whit_weight *w = whit_ckpt_find(&m.ckpt, name);
	int64_t rows = w->mat.rows, cols = w->mat.cols;
	CHECK_RC(whit_fisher_open(&f, dir, &m, &e), e);
	CHECK_INT(f.domains, DOMAINS);
	CHECK_RC(whit_fisher_read(&f, name, rows, cols, &s, &e), e);
	double own[DOMAINS][64], total[DOMAINS] = {0}, mean = 0, kept = 0;
	CHECK(rows <= 64);
	for (int d = 0; d < DOMAINS; d++) {
		for (int64_t i = 0; i < m.ckpt.n; i++) { /* every weight that has sums */
			whit_sum u = {.ndim = 1, .dtype = WHIT_F64, .shape = {m.ckpt.w[i].mat.rows, 1, 1}};
			int64_t layer, width;
			if (!whit_stats_dir_input(&f.dir, m.ckpt.w[i].name, &layer, &width)) continue;
			CHECK_RC(whit_stats_dir_read(&f.dir, layer, domain[d], m.ckpt.w[i].name, "fisher.rows", &u, &e),
			         e);
			for (int64_t r = 0; r < u.shape[0]; r++) total[d] += ((const double *)u.data)[r];
			if (&m.ckpt.w[i] == w) memcpy(own[d], u.data, (size_t)rows * sizeof(double));
			whit_free(u.data);
		}
		CHECK_NEAR(f.total[d], total[d], 1e-12 * total[d]);
	}
	for (int64_t r = 0; r < rows; r++) {
		double most = 0;
		for (int d = 0; d < DOMAINS; d++) most = fmax(most, own[d][r] / total[d]);
		mean += most / (double)rows;
	}
	CHECK_NEAR(s.mean, mean / (double)cols, 1e-12 * mean);
	for (int64_t r = 0; r < rows; r++) {
		double most = 0, sum = 0;
		for (int d = 0; d < DOMAINS; d++) most = fmax(most, own[d][r] / total[d]), sum += own[d][r] / total[d];
		CHECK_NEAR(s.rows[r], 0.8 * most + 0.2 * mean, 1e-12 * mean);
		CHECK_INT(s.spike[r], most > 2 * sum / DOMAINS);
		kept += s.rows[r];
	}
	CHECK_NEAR(kept, mean * (double)rows, 1e-9 * kept);
	whit_fisher_sums_free(&s);
	CHECK_FAILS(whit_fisher_read(&f, "none", 4, 4, &s, &e), WHIT_EINPUT, e, "none: has no Fisher information");
	whit_fisher_close(&f);
	whit_model_close(&m);
	whit_free(dir);
}

static void routes(void) {
	static const struct {
		const char *name;
		int groups;
	} methods[] = {{"gptq", 0}, {"ldlq", 0}, {"gptaq", 0}, {"qronos", 0}, {"gptq", 1}, {"gptaq", 3}, {"qronos", 3}};
	whit_err e;
	int all;
	char *dir = test_scratch("calibrated-dir"), *again = test_scratch("calibrated-again"),
	     *file = test_scratch("calibrated.gguf"), *other = test_scratch("calibrated-other"),
	     *stats = hessians(LLAMA);
	for (int i = 0; i < WHIT_COUNT(methods); i++) {
		run a = {.model = LLAMA, .out = dir, .method = methods[i].name, .format = "q4_0", .threads = 1}, b, f;
		a.groups = methods[i].groups;
		b = f = a;
		b.out = again;
		b.threads = 3;
		f.out = file;
		f.gguf = 1;
		whit_free(test_scratch("calibrated-dir")); /* removes it */
		whit_free(test_scratch("calibrated-again"));
		whit_free(test_scratch("calibrated.gguf"));
		if (!CHECK_RC(quantize(&a, &e), e) || !CHECK_RC(quantize(&b, &e), e) || !CHECK_RC(quantize(&f, &e), e))
			break;
		CHECK_MSG(a.st.rows > 0 && a.st.loss < 0.95 * a.st.loss_nearest, "%s: loss %g of %g", methods[i].name,
		          a.st.loss, a.st.loss_nearest);
		CHECK_INT(matrices_apart(dir, again, -1, &all), 0);
		CHECK_INT(all, 14);
		/* q and k are stored in pairs there */
		CHECK_INT(matrices_apart(dir, file, -1, &all), 0);
	}
	/* Statistics of the original: the same where nothing is quantized before it. */
	run a = {.model = LLAMA, .out = other, .method = "gptq", .format = "q4_0", .stats = stats};
	run b = a;
	b.out = dir;
	b.stats = NULL;
	whit_free(test_scratch("calibrated-dir"));
	if (CHECK_RC(quantize(&a, &e), e) && CHECK_RC(quantize(&b, &e), e)) {
		CHECK_INT(matrices_apart(dir, other, 0, &all), 0);
		CHECK_MSG(matrices_apart(dir, other, 1, &all) > 0, "layer 1 saw the original inputs");
	}
	whit_free(dir);
	whit_free(again);
	whit_free(file);
	whit_free(other);
	whit_free(stats);
}

/* Digits and letters in turn, at random; whit_free it. */
static char *long_text(int n) {
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	char *s = whit_alloc((size_t)n + 1);
	whit_rng g;
	whit_rng_key(&g, 7, 7, 7);
	for (int i = 0; i < n; i++)
		s[i] = i % 2 ? letters[whit_rng_next(&g) % (sizeof letters - 1)] : (char)('0' + whit_rng_next(&g) % 10);
	return s;
}

/* The largest difference between what m, with its adapter, has of a linear that got codes and the source's; NAN where
 * there is none. In the order of m. */
static double from_source(const whit_model *m, const whit_model *source, const whit_weight *w) {
	const whit_gguf_arch *arch;
	whit_gguf_change c;
	whit_mat a, b;
	whit_err e;
	const char *role;
	int64_t l;
	double most = NAN;
	int k = 0;
	if (whit_model_role(m, w->name, &role, &l) != 1 || strstr(w->name, "down_proj")) return NAN;
	while (strcmp(m->layer[l].slot[k].name, w->name)) k++;
	CHECK_RC(whit_mat_floats(&a, m->layer[l].bound[k].mat, &e), e);
	CHECK_RC(whit_mat_floats(&b, &whit_ckpt_find(&source->ckpt, w->name)->mat, &e), e);
	float *x = (float *)(uintptr_t)b.plane[0];
	arch = whit_gguf_arch_find(source->arch->name, &e);
	if (whit_gguf_change_of(arch, source->config, w->name, &c)) whit_gguf_apply(&c, x, b.rows, b.cols);
	most = 0;
	for (int64_t i = 0; i < a.rows * a.cols; i++) most = fmax(most, fabs(x[i] - ((const float *)a.plane[0])[i]));
	whit_mat_free(&a);
	whit_mat_free(&b);
	return most;
}

/* With full rank an adapter gives back what codes lost, whatever order a GGUF stores rows and columns in. */
static void adapters(void) {
	static const struct {
		const char *model, *keep, *method;
		int64_t rank, block_steps, distill_steps;
		int exact; /* matrices whose smaller side the rank is, and those that stay */
	} of[] = {
	        {LLAMA, ",k_proj,v_proj", "gptq", 32, 0, 0, 12}, /* q's rows in pairs */
	        {LLAMA, "", "gptaq", 16, 0, 0, 4},               /* k's too */
	        {LLAMA, "", "nearest", 16, 4, 0, 0},             /* codes move on, the factors stay */
	        {LLAMA, "", "gptq", 16, 0, 4, 0},
	        {QWEN35, ",in_proj_a,in_proj_b,out_proj", "gptq", 32, 0, 0, 27}, /* blocks of rows change places */
	};
	whit_err e;
	char *file = test_scratch("adapted.gguf"), *lora = test_scratch("adapted-lora.gguf");
	for (int i = 0; i < WHIT_COUNT(of); i++) {
		whit_model m, source;
		whit_adapted info;
		int exact = 0;
		char *words = long_text(3000);
		run r = {.model = of[i].model,
		         .out = file,
		         .method = of[i].method,
		         .format = "q4_0",
		         .gguf = 1,
		         .keep = of[i].keep,
		         .lora = lora,
		         .lora_rank = of[i].rank,
		         .block_steps = of[i].block_steps,
		         .distill_steps = of[i].distill_steps,
		         .text = words};
		int ok = CHECK_RC(quantize(&r, &e), e);
		whit_free(words);
		if (!ok || !CHECK_RC(whit_model_open(&m, file, 0, &e), e)) continue;
		CHECK_RC(whit_model_open(&source, of[i].model, 0, &e), e);
		CHECK_RC(whit_model_adapt(&m, lora, &info, &e), e);
		CHECK_INT(info.matrices, r.st.lora.matrices);
		CHECK_INT(info.factor_bytes, r.lora_bytes);
		CHECK(r.st.lora.after < r.st.lora.before && r.st.lora.after >= 0.99 * r.st.lora.best);
		for (int64_t k = 0; k < source.ckpt.n; k++) {
			double far = from_source(&m, &source, &source.ckpt.w[k]);
			/* weights reach .1, what 4 bits lose .01, F16 factors of 32 terms 2^-10 of that */
			exact += far <= 1e-4;
		}
		if (of[i].exact) CHECK_INT(exact, of[i].exact);
		whit_model_close(&source);
		whit_model_close(&m);
	}
	whit_free(file);
	whit_free(lora);
}

/* What cannot be adapted is said before the work, and an adapter of another model when it is loaded. */
static void bad_adapters(void) {
	whit_err e;
	whit_model m;
	whit_adapted info;
	char *file = test_scratch("bad.gguf"), *lora = test_scratch("bad-lora.gguf"), *dir = test_scratch("bad-dir");
	run r = {.model = LLAMA, .out = dir, .method = "gptq", .format = "q4_0", .lora = lora, .lora_rank = 2};
	CHECK_FAILS(quantize(&r, &e), WHIT_EUSAGE, e, "output is a directory, need a GGUF");
	r.gguf = 1;
	r.out = file;
	r.lora_rank = 17; /* of k (16, 32) */
	CHECK_FAILS(quantize(&r, &e), WHIT_EUSAGE, e, "is 17, need 1 to 16");
	r.lora_rank = 2;
	r.format = "bf16";
	r.method = "nearest";
	CHECK_FAILS(quantize(&r, &e), WHIT_EUSAGE, e, "no linear of a block gets codes");
	CHECK(!whit_file_exists(file) && !whit_file_exists(lora));
	r.format = "q4_0";
	if (CHECK_RC(quantize(&r, &e), e) && CHECK_RC(whit_model_open(&m, LLAMA, 0, &e), e)) {
		CHECK_FAILS(whit_model_adapt(&m, lora, &info, &e), WHIT_EINPUT, e, "need a GGUF");
		whit_model_close(&m);
		CHECK_RC(whit_model_open(&m, file, 0, &e), e);
		CHECK_FAILS(whit_model_adapt(&m, file, &info, &e), WHIT_EINPUT, e, "general.type");
		whit_model_close(&m);
	}
	/* one whose matrices are there, of another shape, and one that has more */
	for (int i = 0; i < 2; i++) {
		whit_gguf_out *o;
		const uint16_t zero[64] = {0};
		const char *name = i ? "blk.2.attn_k.weight" : "blk.1.attn_k.weight";
		CHECK_RC(whit_lora_out_open(&o, lora, "llama", 1, &e), e);
		CHECK_RC(whit_lora_out_matrix(o, name, 16, 31, 1, &e), e);
		CHECK_RC(whit_gguf_out_write(o, zero, 2 * 47, &e), e);
		CHECK_RC(whit_gguf_out_commit(o, &e), e);
		if (!CHECK_RC(whit_model_open(&m, file, 0, &e), e)) continue;
		CHECK_FAILS(whit_model_adapt(&m, lora, &info, &e), WHIT_EINPUT, e,
		            i ? "has no linear of a block of that name" : "factors make 16 x 31, need the 16 x 32");
		whit_model_close(&m);
	}
	whit_free(file);
	whit_free(lora);
	whit_free(dir);
}

/* Fitted to its layers' outputs, a model comes nearer to them: from either side of a file, at any thread count. */
static void blocks(void) {
	static const char *const formats[] = {"q4_0", "tq2g64", "int3g32"};
	whit_err e;
	int all;
	char *dir = test_scratch("calibrated-block"), *again = test_scratch("calibrated-block-again"),
	     *file = test_scratch("calibrated-block.gguf"), *words = long_text(3000);
	for (int i = 0; i < WHIT_COUNT(formats); i++) {
		int gguf = !strcmp(formats[i], "q4_0"), padded = !strncmp(formats[i], "tq", 2);
		run a = {.model = LLAMA,
		         .out = dir,
		         .method = padded ? "gptq rotation=hadamard" : "gptq",
		         .format = formats[i],
		         .threads = 1,

		         .text = words,
		         .block_steps = 60},
		    b = a, f = a;
		b.out = again;
		b.threads = 3;
		f.out = file;
		f.gguf = 1;
		whit_free(test_scratch("calibrated-block"));
		whit_free(test_scratch("calibrated-block-again"));
		if (!CHECK_RC(quantize(&a, &e), e) || !CHECK_RC(quantize(&b, &e), e)) break;
		CHECK_INT(a.st.rebuilt, 2);
		CHECK_MSG(a.st.rebuilt_after > 0 && a.st.rebuilt_after < 0.98 * a.st.rebuilt_before,
		          "%s: outputs' error %g, before %g", formats[i], a.st.rebuilt_after, a.st.rebuilt_before);
		CHECK(a.st.rebuilt_after == b.st.rebuilt_after && a.st.rel_mse == b.st.rel_mse);
		CHECK_INT(matrices_apart(dir, again, -1, &all), 0);
		if (!gguf) continue;
		if (CHECK_RC(quantize(&f, &e), e)) CHECK_INT(matrices_apart(dir, file, -1, &all), 0);
	}
	/* any method's codes; floats among them stay as they are */
	run n = {.model = LLAMA, .out = dir, .method = "nearest", .format = "q4_0", .text = words, .block_steps = 60};
	whit_free(test_scratch("calibrated-block"));
	if (CHECK_RC(quantize(&n, &e), e)) CHECK(n.st.rebuilt == 2 && n.st.rebuilt_after < 0.98 * n.st.rebuilt_before);
	whit_free(test_scratch("calibrated-block"));
	n.format = "bf16";
	if (CHECK_RC(quantize(&n, &e), e)) CHECK_INT(n.st.rebuilt, 0);
	whit_free(dir);
	whit_free(again);
	whit_free(file);
	whit_free(words);
}

/* Logits of one sequence. */
static void logits_of(whit_model *m, const int32_t *id, float *z) {
	int64_t start[2] = {0, LEN}, past[1] = {0}, pos[LEN];
	whit_batch b = {LEN, 1, start, past, pos, id};
	float *h = whit_alloc((size_t)(LEN * m->hidden) * sizeof *h);
	whit_err e;
	for (int i = 0; i < LEN; i++) pos[i] = i;
	CHECK_RC(whit_model_embed(m, &b, h, &e), e);
	for (int64_t l = 0; l < m->layers; l++) CHECK_RC(whit_model_layer(m, l, &b, NULL, h, &e), e);
	CHECK_RC(whit_model_head(m, h, LEN, z, &e), e);
	whit_free(h);
}

/* Mean KL of what was written, over the sequences that are kept out (distill.h). */
static double kept_out(const char *path, const char *words) {
	whit_model m, q;
	whit_ids ids = {0};
	whit_err e;
	whit_tok *tok = tokenizer();
	int64_t bad, n = 0;
	double sum = 0, loss[LEN];
	if (!CHECK_RC(whit_model_open(&m, LLAMA, 0, &e), e) || !CHECK_RC(whit_model_open(&q, path, 0, &e), e))
		return NAN;
	CHECK_RC(whit_tok_text(tok, "words", words, strlen(words), m.vocab, &ids, &bad, &e), e);
	float *z = whit_alloc((size_t)(2 * LEN * m.vocab) * sizeof *z), *t = z + LEN * m.vocab;
	for (int64_t c = 0, all = ids.n / LEN; c < all; c++) {
		if (c * 16 / all % 8 != 7) continue;
		if (whit_tok_adds_bos(tok)) ids.id[c * LEN] = whit_tok_bos(tok);
		logits_of(&m, ids.id + c * LEN, t);
		logits_of(&q, ids.id + c * LEN, z);
		whit_kl_cpu(loss, z, z, t, LEN, m.vocab);
		for (int i = 0; i < LEN; i++) sum += loss[i];
		n += LEN;
	}
	whit_free(z);
	whit_ids_free(&ids);
	whit_model_close(&m), whit_model_close(&q);
	whit_tok_close(tok);
	return sum / (double)n;
}

/* Fitted to the original's distribution, a model comes nearer to it, as much as is said; at any thread count. */
static void distilled(void) {
	static const char *const ways[][2] = {{"iq4_nl", "nearest"},
	                                      {"int2g32", "turboquant"},
	                                      {"frc64c100", "fabq-rc"},
	                                      {"frc64c100k", "fabq-rc"},
	                                      {"vp50-50-0-200", "fabq-vp"}};
	whit_err e;
	int all;
	char *words = long_text(3000);
	for (int i = 0; i < WHIT_COUNT(ways); i++) {
		char *dir = test_scratch("calibrated-distill"), *again = test_scratch("calibrated-distill-again"),
		     *file = test_scratch("calibrated-distill.gguf");
		run a = {.model = LLAMA,
		         .out = dir,
		         .method = ways[i][1],
		         .format = ways[i][0],
		         .threads = 1,
		         .text = words,
		         .block_steps = i >= 2 ? 30 : 0,
		         .distill_steps = 80},
		    b = a, f = a;
		b.out = again;
		b.threads = 3;
		f.out = file;
		f.gguf = 1;
		if (CHECK_RC(quantize(&a, &e), e) && CHECK_RC(quantize(&b, &e), e)) {
			const whit_distill_result *r = &a.st.distilled;
			double most = i < 4 ? 0.98 : 1; /* few rows of the last one have scales that gain */
			CHECK_MSG(r->steps > 0 && r->after > 0 && r->after < most * r->before, "%s: KL %g, before %g",
			          ways[i][0], r->after, r->before);
			CHECK(r->after == b.st.distilled.after && a.st.rel_mse == b.st.rel_mse);
			CHECK_INT(matrices_apart(dir, again, -1, &all), 0);
			if (i) CHECK_NEAR(kept_out(dir, words), r->after, 1e-4 * r->after);
			if (!i && CHECK_RC(quantize(&f, &e), e)) CHECK_INT(matrices_apart(dir, file, -1, &all), 0);
		}
		whit_free(dir), whit_free(again), whit_free(file);
	}
	whit_free(words);
}

/* The gradient of KL by differences; itself as teacher; a hand-computed case. */
static void kl(void) {
	enum { T = 3, V = 7 };
	float z[T * V], p[T * V], dz[T * V];
	double loss[T], up[T], down[T];
	whit_rng g;
	whit_rng_key(&g, 4, 4, 4);
	for (int i = 0; i < T * V; i++) z[i] = (float)whit_rng_normal(&g), p[i] = (float)(3 * whit_rng_normal(&g));
	p[2] = -INFINITY; /* never a teacher's token */
	whit_kl_cpu(loss, dz, z, p, T, V);
	for (int i = 0; i < T * V; i++) {
		float was = z[i], none[T * V];
		z[i] = was + 0.01f;
		whit_kl_cpu(up, none, z, p, T, V);
		z[i] = was - 0.01f;
		whit_kl_cpu(down, none, z, p, T, V);
		CHECK_NEAR(dz[i], (up[i / V] - down[i / V]) / 0.02, 1e-4);
		z[i] = was;
	}
	whit_kl_fast_cpu(up, z, z, p, T, V);
	CHECK(!memcmp(z, dz, sizeof z) && !memcmp(up, loss, sizeof up));
	whit_kl_cpu(loss, dz, p, p, T, V);
	for (int i = 0; i < T * V; i++) CHECK(fabsf(dz[i]) < 1e-7f && fabs(loss[i / V]) < 1e-12);
	const float even[2] = {0, 0}, three[2] = {(float)log(3), 0};
	whit_kl_cpu(loss, dz, even, three, 1, 2);
	CHECK_NEAR(loss[0], 0.75 * log(1.5) + 0.25 * log(0.5), 1e-7);
	CHECK_NEAR(dz[0], -0.25, 1e-7);
}

static void bad_input(void) {
	whit_err e;
	char *stats = hessians(LLAMA), *out = test_scratch("calibrated-bad");
	run r = {.model = QWEN35, .out = out, .method = "gptq", .format = "q4_0", .stats = stats};
	CHECK_FAILS(quantize(&r, &e), WHIT_EFINGERPRINT, e, "statistics are of model");
	r.model = LLAMA;
	r.method = "gptaq"; /* needs what the directory does not hold */
	CHECK_FAILS(quantize(&r, &e), WHIT_EINPUT, e, "in.cross is missing");
	r.stats = NULL;
	r.text = "0a3B";
	CHECK_FAILS(quantize(&r, &e), WHIT_EINPUT, e, "text");
	CHECK(!whit_file_exists(out));
	whit_free(out);
	whit_free(stats);

	whit_model m;
	whit_recipe p;
	whit_plan plan;
	static const char lines[] = "@linear q4_0 method=gptq\n@embedding keep\n";
	whit_rule base = {.method = whit_method_find("nearest", &e)};
	CHECK_RC(whit_recipe_parse(&p, lines, sizeof lines - 1, "lines", &base, &e), e);
	CHECK_RC(whit_model_open(&m, LLAMA, 0, &e), e);
	CHECK_FAILS(whit_plan_make(&plan, &m, &p, &(whit_target){0}, &e), WHIT_EUSAGE, e, "needs calibration");
	whit_model_close(&m);
	whit_recipe_free(&p);
}

TEST_MAIN(frames, guided, guided_order, scaled_apart, fisher, routes, adapters, bad_adapters, blocks, kl, distilled,
          bad_input)
