/* Scaling: which values fold, that folding changes nothing a model computes, each rule's factors on matrices made for
 * it, and whole models that were quantized so. */
#include "calib/clip.h"
#include "calib/quantize.h"
#include "calib/scaling.h"
#include "tests/test.h"

#define GOLDEN(name) WHIT_SOURCE "/tests/golden/models/" name

enum { MOST = 16, T = 12 };

static float *logits(whit_model *m, const int32_t *tokens) {
	whit_err e;
	int64_t pos[T], start[2] = {0, T}, past[1] = {0};
	for (int i = 0; i < T; i++) pos[i] = i;
	const whit_batch b = {.T = T, .n_seq = 1, .start = start, .past = past, .pos = pos, .tokens = tokens};
	float *h = whit_alloc((size_t)(T * m->hidden) * sizeof *h), *z = whit_alloc((size_t)(T * m->vocab) * sizeof *z);
	CHECK_RC(whit_model_embed(m, &b, h, &e), e);
	for (int64_t l = 0; l < m->layers; l++) CHECK_RC(whit_model_layer(m, l, &b, NULL, h, &e), e);
	CHECK_RC(whit_model_head(m, h, T, z, &e), e);
	whit_free(h);
	return z;
}

/* What a fold says, done by hand to the model's weights, in floats. */
typedef struct edited {
	whit_mat mat[256];
	float *vec[256];
} edited;

static float *matrix_of(whit_model *m, whit_program *p, edited *all, int slot) {
	whit_err e;
	if (!all->mat[slot].rows) {
		CHECK_RC(whit_mat_floats(&all->mat[slot], p->slot[slot].weight ? &p->slot[slot].weight->mat : NULL, &e),
		         e);
		CHECK_RC(whit_model_replace(m, p->slot[slot].name, &all->mat[slot], &e), e);
	}
	return (float *)(uintptr_t)all->mat[slot].plane[0];
}

static void divide(whit_model *m, whit_program *p, edited *all, int slot, const float *s, float shift, int64_t n) {
	whit_err e;
	if (slot < 0) return;
	float *v = all->vec[slot] = whit_alloc((size_t)n * sizeof *v);
	for (int64_t c = 0; c < n; c++) v[c] = (p->slot[slot].vec[c] + shift) / s[c] - shift;
	CHECK_RC(whit_model_replace_vector(m, p->slot[slot].name, v, &e), e);
}

static int64_t edit(whit_model *m, whit_program *p, edited *all, whit_rng *g) {
	whit_fold fold[MOST];
	int n = whit_folds(p, fold, MOST);
	for (int i = 0; i < n; i++) {
		const whit_fold *f = &fold[i];
		float *s = whit_alloc((size_t)(f->cols + f->factors) * sizeof *s), *spread = s + f->factors;
		for (int64_t c = 0; c < f->factors; c++) s[c] = (float)exp(2 * whit_rng_uniform(g) - 1);
		whit_scaling_spread(spread, f, s);
		for (int k = 0; k < f->n_reader; k++) {
			float *w = matrix_of(m, p, all, f->reader[k]);
			for (int64_t r = 0; r < p->slot[f->reader[k]].rows; r++)
				for (int64_t c = 0; c < f->cols; c++) w[r * f->cols + c] *= spread[c];
		}
		if (f->norm >= 0) {
			divide(m, p, all, f->norm, s, f->shift, f->factors);
		} else {
			float *w = matrix_of(m, p, all, f->maker);
			int64_t cols = p->slot[f->maker].cols;
			for (int64_t r = 0; r < f->factors; r++)
				for (int64_t c = 0; c < cols; c++) w[r * cols + c] /= s[r];
			divide(m, p, all, f->bias, s, 0, f->factors);
		}
		whit_free(s);
	}
	return n;
}

/* Scaled by random factors of e^-1 to e, a model computes what it did, within roundings of 32 bits. */
static void folding(void) {
	static const struct {
		const char *path;
		int64_t folds; /* of all layers: four of an attention's and its MLP's, three of a delta net's */
	} models[] = {
	        {GOLDEN("llama-bias-llama3-bf16"), 0}, {GOLDEN("qwen2-bf16-sharded"), 0},   {GOLDEN("qwen3-bf16"), 0},
	        {GOLDEN("qwen3-bias-f32"), 0},         {GOLDEN("qwen3_5-grouped-bf16"), 1}, {GOLDEN("qwen3_5-f32"), 1}};
	for (int i = 0; i < WHIT_COUNT(models); i++) {
		whit_model m;
		whit_err e;
		whit_rng g;
		int32_t tokens[T];
		int64_t folds = 0, want = 0;
		whit_rng_key(&g, 6, (uint64_t)i, 0);
		if (!CHECK_RC(whit_model_open(&m, models[i].path, 0, &e), e)) continue;
		for (int t = 0; t < T; t++) tokens[t] = (int32_t)whit_rng_below(&g, (uint64_t)m.vocab);
		float *before = logits(&m, tokens);
		edited *all = whit_alloc((size_t)m.layers * sizeof *all);
		for (int64_t l = 0; l < m.layers; l++) {
			int delta = 0;
			for (int n = 0; n < m.layer[l].n_node; n++)
				delta |= m.layer[l].node[n].op == whit_op_find("delta");
			folds += edit(&m, &m.layer[l], &all[l], &g);
			want += delta ? 3 : 4;
		}
		CHECK_INT(folds, want);
		float *after = logits(&m, tokens);
		double off = 0, top = 0;
		for (int64_t k = 0; k < T * m.vocab; k++) {
			off = fmax(off, fabs((double)after[k] - before[k]));
			top = fmax(top, fabs((double)before[k]));
		}
		CHECK_MSG(off > 0 && off <= (models[i].folds ? 3e-4 : 3e-5) * top, "%s: logits differ by %g of %g",
		          models[i].path, off, top);
		for (int64_t l = 0; l < m.layers; l++)
			for (int k = 0; k < m.layer[l].n_slot; k++) {
				const whit_slot *s = &m.layer[l].slot[k];
				if (all[l].mat[k].rows) CHECK_RC(whit_model_replace(&m, s->name, NULL, &e), e);
				if (all[l].vec[k]) CHECK_RC(whit_model_replace_vector(&m, s->name, NULL, &e), e);
				whit_mat_free(&all[l].mat[k]);
				whit_free(all[l].vec[k]);
			}
		whit_free(after);
		after = logits(&m, tokens);
		CHECK(!memcmp(before, after, (size_t)(T * m.vocab) * sizeof *after));
		CHECK_FAILS(whit_model_replace_vector(&m, "lm_head.weight", before, &e), WHIT_EINTERNAL, e,
		            "no vector");
		whit_free(before), whit_free(after), whit_free(all);
		whit_model_close(&m);
	}
}

/* ---- factors ---- */

static int parabola(void *ctx, const float *s, double *loss, whit_err *e) {
	(void)e;
	*loss = fabs(log((double)s[0]) - *(double *)ctx);
	return 0;
}

static int refuses(void *ctx, const float *s, double *loss, whit_err *e) {
	(void)ctx, (void)s, (void)loss;
	return whit_fail(e, WHIT_EINT, "interrupted");
}

static void rules(void) {
	enum { N = 8, ROWS = 64 };
	const whit_fold f = {.n_reader = 1, .cols = N, .factors = N, .dim = N, .share = 1};
	double h[N * N] = {0}, r, want = 0.35 * (log(16) - (log(16) + 7 * log(2)) / 8);
	float s[N], t[N];
	whit_mat w = {.rows = ROWS, .cols = N, .width = N};
	const whit_mat *const list[] = {&w};
	whit_err e;
	whit_rng g;
	CHECK_RC(whit_spec_parse("f32", &w.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&w, &e), e);
	float *x = (float *)(uintptr_t)w.plane[0];
	whit_rng_key(&g, 6, 6, 6);
	for (int c = 0; c < N; c++) t[c] = (float)exp(0.5 * whit_rng_normal(&g)), h[c * N + c] = 4;
	h[0] = 256;
	for (int i = 0; i < ROWS * N; i++) {
		float row = 1 + (float)(i / N % 5), sign = whit_rng_below(&g, 2) ? 1 : -1;
		x[i] = row * t[i % N] * sign;
	}
	x[3] *= 4; /* one weight is larger than the rest of its column */
	/* rms is 16 and seven times 2; want: of the first factor, whose geometric mean with the others is 1 */
	CHECK_RC(whit_scaling_factors(s, WHIT_SCALING_AWQ, &f, h, NULL, list, N, parabola, &want, &r, &e), e);
	CHECK_NEAR(r, 0.35, 1e-9);
	CHECK_NEAR(log(s[0]), want, 1e-6);
	CHECK_NEAR(log((double)s[1]), -want / 7, 1e-6);
	CHECK_FAILS(whit_scaling_factors(s, WHIT_SCALING_AWQ, &f, h, NULL, list, N, refuses, NULL, &r, &e), WHIT_EINT,
	            e, "interrupted");
	CHECK_RC(whit_scaling_factors(s, WHIT_SCALING_H_ALPHA, &f, h, NULL, list, N, NULL, NULL, &r, &e), e);
	CHECK_NEAR((double)s[0] / s[1], sqrt(8), 1e-5);
	CHECK_RC(whit_scaling_factors(s, WHIT_SCALING_SMOOTHQUANT, &f, h, NULL, list, N, NULL, NULL, &r, &e), e);
	CHECK_NEAR((double)s[0] / s[1], sqrt(8 * t[1] / t[0]), 1e-4);
	CHECK_NEAR((double)s[3] / s[1], sqrt(t[1] * 5.0 / fmax(5.0 * t[3], 4.0 * t[3])), 1e-4);
	x[3] /= 4;
	double size[N] = {5, 1, 1, 1, 1, 1, 1, 1}; /* in rms's place */
	want = 0.6 * (log(5) - log(5) / 8);
	CHECK_RC(whit_scaling_factors(s, WHIT_SCALING_AWQ, &f, h, size, list, N, parabola, &want, &r, &e), e);
	CHECK_NEAR(r, 0.6, 1e-9);
	CHECK_RC(whit_scaling_factors(s, WHIT_SCALING_SMOOTHQUANT, &f, h, size, list, N, NULL, NULL, &r, &e), e);
	CHECK_NEAR((double)s[0] / s[1], sqrt(5 * t[1] / t[0]), 1e-4);
	CHECK_RC(whit_scaling_factors(s, WHIT_SCALING_BALANCE, &f, h, NULL, list, N / 2, NULL, NULL, &r, &e), e);
	for (int c = 0; c < N; c++) { /* how blocks stand to each other is open: each has its scale */
		int first = c / (N / 2) * (N / 2);
		CHECK_NEAR((double)s[c] * t[c] / (s[first] * t[first]), 1, 1e-4);
	}
	h[N + 1] = 0; /* a column that is always zero */
	CHECK_RC(whit_scaling_factors(s, WHIT_SCALING_H_ALPHA, &f, h, NULL, list, N, NULL, NULL, &r, &e), e);
	CHECK(s[1] == 1);
	/* two heads read one value head of two columns */
	const whit_fold two = {.n_reader = 1, .cols = N, .factors = N / 2, .dim = 2, .share = 2};
	const float four[] = {1, 2, 3, 4};
	float all[N];
	whit_scaling_spread(all, &two, four);
	const float need[N] = {1, 2, 1, 2, 3, 4, 3, 4};
	CHECK(!memcmp(all, need, sizeof need));
	CHECK_INT(whit_scaling_parse("balance", &e), WHIT_SCALING_BALANCE);
	CHECK_FAILS(whit_scaling_parse("aqw", &e) < 0 ? e.code : 0, WHIT_EUSAGE, e, "smoothquant");
	whit_mat_free(&w);
}

/* ---- clipping ---- */

enum { WIDE = 100, GROUP = 32, CUT_ROWS = 12 };

/* e H e^T over the group of columns from c on, for the codes of row x against w. */
static double cut_loss(const whit_spec *spec, const float *x, const float *w, const double *h, int c) {
	whit_mat m = {.spec = *spec, .rows = 1, .cols = WIDE, .width = WIDE, .scale_f32 = 1};
	float y[WIDE];
	int64_t zero = 0;
	whit_err e;
	double sum = 0;
	CHECK_RC(whit_mat_alloc(&m, &e), e);
	m.spec.fmt->encode(&m, 0, x, NULL, WHIT_SCALE_RAW, &zero);
	m.spec.fmt->decode(&m, 0, 1, y);
	for (int i = c; i < WHIT_MIN(c + GROUP, WIDE); i++)
		for (int k = c; k < WHIT_MIN(c + GROUP, WIDE); k++)
			sum += h[i * WIDE + k] * ((double)y[i] - w[i]) * ((double)y[k] - w[k]);
	whit_mat_free(&m);
	return sum;
}

/* Every group is cut at the share that loses least of all, at any number of threads. */
static void clipping(void) {
	static float w[CUT_ROWS * WIDE], cut[2][CUT_ROWS * WIDE];
	static double h[WIDE * WIDE];
	whit_mat m = {.rows = CUT_ROWS, .cols = WIDE, .width = WIDE};
	whit_err e;
	whit_rng g;
	int cuts = 0;
	CHECK_RC(whit_spec_parse("int3g32", &m.spec, &e), e);
	whit_rng_key(&g, 9, 9, 9);
	for (int i = 0; i < CUT_ROWS * WIDE; i++) w[i] = (float)whit_rng_normal(&g);
	for (int t = 0; t < 2 * WIDE; t++) {
		double x[WIDE];
		for (int i = 0; i < WIDE; i++) x[i] = whit_rng_normal(&g) + (i ? 0.5 * x[i - 1] : 0);
		for (int i = 0; i < WIDE * WIDE; i++) h[i] += x[i / WIDE] * x[i % WIDE];
	}
	for (int k = 0; k < 2; k++) {
		memcpy(cut[k], w, sizeof w);
		whit_threads_set(k ? 3 : 1);
		CHECK_RC(whit_clip(cut[k], CUT_ROWS, &m, h, WHIT_SCALE_RAW, &e), e);
	}
	whit_threads_set(0);
	CHECK(!memcmp(cut[0], cut[1], sizeof w));
	for (int r = 0; r < CUT_ROWS; r++)
		for (int c = 0; c < WIDE; c += GROUP) {
			const float *row = w + r * WIDE;
			float most = 0, x[WIDE];
			double is = cut_loss(&m.spec, cut[0] + r * WIDE, row, h, c), least = INFINITY;
			for (int i = c; i < WHIT_MIN(c + GROUP, WIDE); i++) most = fmaxf(most, fabsf(row[i]));
			for (int k = 0; k < 10; k++) {
				float to = (1 - (float)k / 20) * most;
				for (int i = 0; i < WIDE; i++) x[i] = fminf(fmaxf(row[i], -to), to);
				least = fmin(least, cut_loss(&m.spec, x, row, h, c));
			}
			CHECK_NEAR(is, least, 1e-12 * least);
			cuts += memcmp(cut[0] + r * WIDE + c, row + c, 4) != 0 ||
			        is < cut_loss(&m.spec, row, row, h, c);
		}
	CHECK(cuts > CUT_ROWS);
	CHECK_RC(whit_spec_parse("f16", &m.spec, &e), e);
	CHECK_FAILS(whit_clip(cut[0], 1, &m, h, WHIT_SCALE_RAW, &e), WHIT_EUSAGE, e, "has no codes");
}

TEST_MAIN(folding, rules, clipping)
