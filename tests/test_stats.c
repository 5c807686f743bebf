/* stats: the diagonal against llama-imatrix's of the same chunks (golden/imatrix), and what it must not depend on. */
#include "calib/stats.h"
#include "host/progress.h"
#include "tests/subject.h"

static int run_diag(subject *s, const whit_stats_opts *o, whit_imatrix *im) {
	whit_stats st;
	whit_stats_text t = {.name = "demo.txt", .data = s->text, .bytes = s->n};
	whit_stats_opts with = *o;
	with.kinds = WHIT_STAT_DIAG;
	if (!CHECK_RC(whit_stats_run(&st, &s->m, s->tok, &t, 1, &with, &e), e)) return 0;
	CHECK(s->m.observer == NULL);
	int ok = CHECK_RC(whit_stats_imatrix(&st, &s->m, &t, 1, im, &e), e);
	whit_stats_free(&st);
	return ok;
}

/* llama.cpp sums squares in float: over n tokens up to n / 2 ulps of 2^-24 off at random signs' worst, 1e-5 in
 * practice; its products are float in another order too, which earlier layers hand on. */
static void against_llama(char *dir, int64_t ctx, int64_t chunks, const char *name) {
	subject s;
	whit_imatrix im, want;
	char *path = whit_format_text("%s/tests/golden/imatrix/%s", WHIT_SOURCE, name);
	if (subject_open(&s, dir) && CHECK_RC(whit_imatrix_open(&want, path, &e), e) &&
	    run_diag(&s, &(whit_stats_opts){.ctx = ctx, .chunks = chunks}, &im)) {
		CHECK_INT(im.n, want.n);
		CHECK_INT(im.chunks, want.chunks);
		CHECK_INT(im.chunk_size, want.chunk_size);
		CHECK_TEXT(im.dataset[0], want.dataset[0]);
		for (int64_t i = 0; i < WHIT_MIN(im.n, want.n); i++) {
			double worst = 0;
			CHECK_TEXT(im.w[i].name, want.w[i].name);
			CHECK(im.w[i].cols == want.w[i].cols && im.w[i].count == want.w[i].count);
			for (int64_t k = 0; k < want.w[i].cols; k++) {
				double d = fabs(im.w[i].sum2[k] - want.w[i].sum2[k]) / want.w[i].sum2[k];
				if (!(d <= worst)) worst = d;
			}
			CHECK_MSG(worst <= 2e-4, "%s: relative difference %g", im.w[i].name, worst);
		}
		whit_imatrix_close(&im);
		whit_imatrix_close(&want);
	}
	whit_free(path);
	subject_close(&s);
}

static void run_llama(void) {
	against_llama(test_model("wiki12M-qwen3"), 128, 4, "wiki12M.gguf");
	against_llama(test_data("models/stories260K"), 64, 3, "stories.gguf"); /* llama: BOS replaces first tokens */
}

static int same(const whit_imatrix *a, const whit_imatrix *b) {
	if (a->n != b->n) return 0;
	for (int64_t i = 0; i < a->n; i++)
		if (strcmp(a->w[i].name, b->w[i].name) || a->w[i].count != b->w[i].count ||
		    memcmp(a->w[i].sum2, b->w[i].sum2, (size_t)a->w[i].cols * sizeof(float)))
			return 0;
	return 1;
}

/* The same bytes at any thread count, batch, and number of chunks between layers. */
static void run_invariance(void) {
	static const struct {
		int threads;
		int64_t batch, held;
	} ways[] = {{3, 0, 0}, {2, 200, 300}, {3, 1, 1}, {1, 96, 0}, {2, 96, 96}}; /* tokens */
	subject s;
	whit_imatrix want, got;
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	whit_threads_set(1);
	whit_stats_opts o = {.ctx = 96, .chunks = 7, .head = 1};
	if (run_diag(&s, &o, &want)) {
		CHECK_INT(want.n, 43);
		CHECK_TEXT(want.w[42].name, "token_embd.weight");
		for (int i = 0; i < (TEST_SANITIZED ? 2 : WHIT_COUNT(ways)); i++) {
			whit_threads_set(ways[i].threads);
			o.batch_tokens = ways[i].batch;
			o.held_bytes = ways[i].held * s.m.hidden * (int64_t)sizeof(float);
			if (!run_diag(&s, &o, &got)) break;
			CHECK_MSG(same(&want, &got), "threads %d, batch %lld, held %lld", ways[i].threads,
			          (long long)ways[i].batch, (long long)ways[i].held);
			whit_imatrix_close(&got);
		}
		whit_imatrix_close(&want);
	}
	whit_threads_set(0);
	subject_close(&s);
}

static const double *squares(const whit_stats *s, int64_t i) {
	return whit_stats_find(s, s->in[i].layer, "text", s->in[i].weight[0], "in.sq")->data;
}

/* Two texts are the chunks of the one and then of the other, and sums add up. */
static void run_texts(void) {
	subject s;
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	whit_stats_opts o = {.kinds = WHIT_STAT_DIAG, .ctx = 64};
	whit_stats both, one[2];
	whit_stats_text t[2] = {{.name = "a", .data = s.text, .bytes = 2000},
	                        {.name = "b", .data = s.text + 2000, .bytes = 3000}};
	int ok = CHECK_RC(whit_stats_run(&both, &s.m, s.tok, t, 2, &o, &e), e);
	CHECK_INT(both.chunks, t[0].chunks + t[1].chunks);
	CHECK_INT(both.n, 24); /* four distinct inputs of six layers */
	CHECK_INT(both.in[0].n_weight, 3);
	for (int i = 0; i < 2 && ok; i++) ok = CHECK_RC(whit_stats_run(&one[i], &s.m, s.tok, &t[i], 1, &o, &e), e);
	for (int64_t i = 0; i < both.n && ok; i++)
		for (int64_t k = 0; k < both.in[i].cols; k++) {
			double sum = squares(&one[0], i)[k] + squares(&one[1], i)[k];
			if (!(fabs(squares(&both, i)[k] - sum) <= 1e-12 * sum))
				CHECK_MSG(0, "input %lld, column %lld", (long long)i, (long long)k);
		}
	if (ok) {
		whit_stats_free(&both);
		whit_stats_free(&one[0]);
		whit_stats_free(&one[1]);
	}

	/* --chunks counts over all texts; one that is not reached is said and left out of the data sets */
	whit_imatrix im;
	o.chunks = 3;
	whit_quiet(1);
	if (CHECK_RC(whit_stats_run(&both, &s.m, s.tok, t, 2, &o, &e), e)) {
		CHECK_INT(both.tokens, 3 * 64);
		CHECK_INT(t[1].chunks, 0);
		if (CHECK_RC(whit_stats_imatrix(&both, &s.m, t, 2, &im, &e), e)) {
			CHECK_INT(im.n_dataset, 1);
			whit_imatrix_close(&im);
		}
		whit_stats_free(&both);
	}
	subject_close(&s);
}

static void run_refusals(void) {
	subject s;
	whit_stats st;
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	whit_stats_opts o = {.kinds = WHIT_STAT_DIAG, .ctx = 64};
	whit_stats_text t[2] = {{.name = "long", .data = s.text, .bytes = s.n},
	                        {.name = "short", .data = s.text, .bytes = 20}};
	CHECK_FAILS(whit_stats_run(&st, &s.m, s.tok, t, 2, &o, &e), WHIT_EINPUT, e, "short: text is");
	t[1].bytes = 0;
	CHECK_FAILS(whit_stats_run(&st, &s.m, s.tok, t, 2, &o, &e), WHIT_EINPUT, e, "short: is empty");
	CHECK(!st.in && !st.n);
	o.ctx = 513;
	CHECK_FAILS(whit_stats_run(&st, &s.m, s.tok, t, 1, &o, &e), WHIT_EUSAGE, e, "need 1 to the model's 512");
	unsigned bits;
	CHECK_FAILS(whit_statistics_parse("diag,hessians", &bits, &e), WHIT_EUSAGE, e,
	            "is hessians, need some of: diag");
	CHECK_FAILS(whit_statistics_parse("diag,", &bits, &e), WHIT_EUSAGE, e, "need some of");
	subject_close(&s);
}

/* ---- Hessians, gradients, directories ---- */

/* The inputs of one linear's program value, in double: the Hessian's reference. */
typedef struct seen {
	int64_t layer;
	int value;
	double *h, size[2]; /* of the first column: sum of |x|, and the largest */
	int64_t cols, tokens;
} seen;

static int see(void *ctx, int64_t layer, int value, const float *x, int64_t T, int64_t cols, whit_err *err) {
	seen *s = ctx;
	(void)err;
	if (layer != s->layer || value != s->value) return 0;
	for (int64_t t = 0; t < T; t++)
		for (int64_t i = 0; i < cols; i++)
			for (int64_t j = 0; j < cols; j++)
				s->h[i * cols + j] += (double)x[t * cols + i] * x[t * cols + j];
	for (int64_t t = 0; t < T; t++) {
		s->size[0] += fabsf(x[t * cols]);
		s->size[1] = fmax(s->size[1], fabsf(x[t * cols]));
	}
	s->tokens += T;
	return 0;
}

enum { LEN = 48, SAMPLES = 5 };

static whit_stats_text demo(const subject *s) {
	return (whit_stats_text){.name = "demo.txt", .data = s->text, .bytes = s->n};
}

/* One chunk of the demo text as a batch of its own. */
typedef struct chunk {
	whit_batch b;
	int64_t start[2], past[1], pos[LEN];
	int32_t target[LEN];
	double loss[LEN];
} chunk;

static const whit_batch *chunk_set(chunk *c, const whit_ids *ids, int64_t k) {
	c->start[0] = 0, c->start[1] = LEN, c->past[0] = 0;
	for (int64_t t = 0; t < LEN; t++) {
		c->pos[t] = t;
		c->target[t] = t + 1 < LEN ? ids->id[k * LEN + t + 1] : -1;
	}
	c->b = (whit_batch){LEN, 1, c->start, c->past, c->pos, ids->id + k * LEN};
	return &c->b;
}

static void demo_ids(subject *s, whit_ids *ids) {
	int64_t invalid;
	*ids = (whit_ids){0};
	CHECK_RC(whit_tok_text(s->tok, "demo", s->text, s->n, s->m.vocab, ids, &invalid, &e), e);
}

static void run_hessian(void) {
	subject s;
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	whit_stats_opts o = {
	        .kinds = WHIT_STAT_HESSIAN | WHIT_STAT_DIAG | WHIT_STAT_SIZE, .ctx = LEN, .chunks = SAMPLES};
	whit_stats_text t = demo(&s);
	whit_stats st;
	whit_ids ids;
	demo_ids(&s, &ids);
	if (CHECK_RC(whit_stats_run(&st, &s.m, s.tok, &t, 1, &o, &e), e)) {
		const whit_stats_input *in = &st.in[6]; /* of layer 1, before gate and up */
		int64_t n = in->cols;
		seen want = {.layer = in->layer, .value = in->value, .cols = n};
		want.h = whit_alloc((size_t)(n * n) * sizeof *want.h);
		const whit_observer watch = {see, &want};
		float *h = whit_alloc((size_t)(LEN * s.m.hidden) * sizeof *h);
		s.m.observer = &watch;
		for (int64_t k = 0; k < SAMPLES; k++) {
			chunk c;
			const whit_batch *b = chunk_set(&c, &ids, k);
			CHECK_RC(whit_model_embed(&s.m, b, h, &e), e);
			for (int64_t l = 0; l <= in->layer; l++) CHECK_RC(whit_model_layer(&s.m, l, b, NULL, h, &e), e);
		}
		s.m.observer = NULL;
		CHECK_INT(want.tokens, LEN * SAMPLES);
		CHECK_INT(in->n_weight, 2);
		const float *got = whit_stats_find(&st, in->layer, "text", in->weight[0], "in.hessian")->data;
		const double *sq = whit_stats_find(&st, in->layer, "text", in->weight[0], "in.sq")->data;
		const double *sum = whit_stats_find(&st, in->layer, "text", in->weight[0], "in.abs")->data;
		const double *most = whit_stats_find(&st, in->layer, "text", in->weight[0], "in.max")->data;
		CHECK(sum[0] == want.size[0] && most[0] == want.size[1] && most[0] > 0);
		double worst = 0, top = 0;
		for (int64_t i = 0; i < n * n; i++) {
			double d = fabs(got[i] - want.h[i]),
			       m = sqrt(want.h[i / n * (n + 1)] * want.h[i % n * (n + 1)]);
			if (!(d <= worst * m))
				worst = d / m; /* relative to the largest it could be, by Cauchy-Schwarz */
			if (i / n == i % n) top = fmax(top, fabs(sq[i / n] - want.h[i]) / want.h[i]);
			CHECK(got[i] == got[i % n * n + i / n]);
		}
		/* float sums of 48 products and 5 chunks */
		CHECK_MSG(worst <= 2e-6, "Hessian: relative error %.3g", worst);
		CHECK_MSG(top <= 1e-12, "diagonal: relative error %.3g", top);
		whit_free(want.h);
		whit_free(h);
		whit_stats_free(&st);
	}
	whit_ids_free(&ids);
	subject_close(&s);
}

/* Chunk k through m, and its gradients back to that layer, whose weights' go to dw (or NULL). */
static void there_and_back(whit_model *m, const whit_ids *ids, int64_t k, int64_t layer, float **dw, chunk *c) {
	int64_t size = LEN * m->hidden;
	float *h = whit_alloc((size_t)((m->layers + 2) * size) * sizeof *h), *dh = h + (m->layers + 1) * size;
	const whit_batch *b = chunk_set(c, ids, k);
	const whit_loss l = {.target = c->target, .loss = c->loss};
	CHECK_RC(whit_model_embed(m, b, h, &e), e);
	for (int64_t i = 0; i < m->layers; i++) {
		memcpy(h + (i + 1) * size, h + i * size, (size_t)size * sizeof *h);
		CHECK_RC(whit_model_layer(m, i, b, NULL, h + (i + 1) * size, &e), e);
	}
	CHECK_RC(whit_model_head_back(m, h + m->layers * size, LEN, &l, dh, NULL, &e), e);
	for (int64_t i = m->layers - 1; i >= layer; i--)
		CHECK_RC(whit_model_layer_back(m, i, b, h + i * size, dh, i == layer ? dw : NULL, &e), e);
	whit_free(h);
}

/* Squared gradients of one weight from the engine's own dw, a sequence at a time in double. */
static void own_fisher(subject *s, const whit_ids *ids, int64_t layer, int slot, double *row, double *col,
                       double *nll) {
	whit_model *m = &s->m;
	const whit_slot *w = &m->layer[layer].slot[slot];
	float *g = whit_alloc((size_t)(w->rows * w->cols) * sizeof *g),
	      **dw = whit_alloc((size_t)m->layer[layer].n_slot * sizeof *dw);
	dw[slot] = g;
	for (int64_t k = 0; k < SAMPLES; k++) {
		chunk c;
		memset(g, 0, (size_t)(w->rows * w->cols) * sizeof *g);
		there_and_back(m, ids, k, layer, dw, &c);
		for (int64_t t = 0; t < LEN; t++) *nll += c.loss[t];
		for (int64_t i = 0; i < w->rows * w->cols; i++) {
			row[i / w->cols] += (double)g[i] * g[i];
			col[i % w->cols] += (double)g[i] * g[i];
		}
	}
	whit_free(g);
	whit_free(dw);
}

static double rel(const double *got, const double *want, int64_t n) {
	double worst = 0;
	for (int64_t i = 0; i < n; i++) {
		double d = fabs(got[i] - want[i]) / (fabs(want[i]) + 1e-30);
		if (!(d <= worst)) worst = d;
	}
	return worst;
}

static void run_fisher(void) {
	enum { LAYER = 2 };
	subject s;
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	whit_stats_opts o = {.kinds = WHIT_STAT_BACK, .groups = 3, .ctx = LEN, .chunks = SAMPLES};
	whit_stats_text t = demo(&s);
	whit_stats st;
	whit_ids ids;
	demo_ids(&s, &ids);
	int slot = 0;
	const whit_program *p = &s.m.layer[LAYER];
	while (strcmp(p->slot[slot].role, "k_proj")) slot++;
	const whit_slot *w = &p->slot[slot];
	double *row = whit_alloc((size_t)w->rows * sizeof *row), *col = whit_alloc((size_t)w->cols * sizeof *col),
	       nll = 0;
	own_fisher(&s, &ids, LAYER, slot, row, col, &nll);
	if (CHECK_RC(whit_stats_run(&st, &s.m, s.tok, &t, 1, &o, &e), e)) {
		const double *r = whit_stats_find(&st, LAYER, "text", w->name, "fisher.rows")->data;
		const double *c = whit_stats_find(&st, LAYER, "text", w->name, "fisher.cols")->data;
		const float *f = whit_stats_find(&st, LAYER, "text", w->name, "fisher")->data;
		CHECK_MSG(rel(r, row, w->rows) <= 1e-4, "rows: relative error %.3g", rel(r, row, w->rows));
		CHECK_MSG(rel(c, col, w->cols) <= 1e-4, "columns: relative error %.3g", rel(c, col, w->cols));
		CHECK_NEAR(st.domain[0].nll, nll, 1e-6 * nll);
		double sum = 0, want = 0;
		for (int64_t i = 0; i < w->rows * w->cols; i++) sum += f[i];
		for (int64_t i = 0; i < w->rows; i++) want += row[i];
		CHECK_NEAR(sum, want, 1e-4 * want);
		whit_stats_free(&st);
	}
	whit_free(row);
	whit_free(col);

	/* one token a sequence but the last has a loss: both estimators are then the same sum */
	whit_stats token, seq;
	o.ctx = 2, o.kinds = WHIT_STAT_FISHER | WHIT_STAT_FISHER_FULL;
	o.estimator = WHIT_FISHER_TOKEN;
	int ok = CHECK_RC(whit_stats_run(&token, &s.m, s.tok, &t, 1, &o, &e), e);
	o.estimator = WHIT_FISHER_SEQ;
	ok = ok && CHECK_RC(whit_stats_run(&seq, &s.m, s.tok, &t, 1, &o, &e), e);
	const char *last = s.m.layer[s.m.layers - 1].slot[s.m.layer[s.m.layers - 1].n_slot - 1].name; /* down_proj */
	if (ok) {
		whit_sum *a = whit_stats_find(&token, s.m.layers - 1, "text", last, "fisher.rows"),
		         *b = whit_stats_find(&seq, s.m.layers - 1, "text", last, "fisher.rows");
		CHECK_MSG(rel(a->data, b->data, a->shape[0]) <= 1e-4, "token against seq: %.3g",
		          rel(a->data, b->data, a->shape[0]));
		a = whit_stats_find(&token, s.m.layers - 1, "text", last, "fisher.cols");
		b = whit_stats_find(&seq, s.m.layers - 1, "text", last, "fisher.cols");
		CHECK_MSG(rel(a->data, b->data, a->shape[0]) <= 1e-4, "token against seq: %.3g",
		          rel(a->data, b->data, a->shape[0]));
		whit_stats_free(&token);
		whit_stats_free(&seq);
	}
	whit_ids_free(&ids);
	subject_close(&s);
}

/* ---- tokens weighted by gradients ---- */

/* What one linear of a layer reads and the gradients at its outputs, all samples'. */
typedef struct heard {
	int64_t layer, rows, cols;
	int value, slot;
	float *x, *d; /* (SAMPLES * LEN, cols), (SAMPLES * LEN, rows) */
	int64_t at;   /* the token that comes next */
} heard;

static int hear(void *ctx, int64_t layer, int value, const float *x, int64_t T, int64_t cols, whit_err *err) {
	heard *o = ctx;
	(void)err;
	if (layer != o->layer || value != o->value) return 0;
	memcpy(o->x + o->at * cols, x, (size_t)(T * cols) * sizeof *x);
	o->at += T;
	return 0;
}

static int hear_gradient(void *ctx, int64_t layer, int slot, const whit_batch *b, const float *x, const float *d,
                         whit_err *err) {
	heard *o = ctx;
	(void)err, (void)x;
	if (layer != o->layer || slot != o->slot) return 0;
	memcpy(o->d + o->at * o->rows, d, (size_t)(b->T * o->rows) * sizeof *d);
	o->at += b->T;
	return 0;
}

/* o->x as m has it of every sample. */
static void hear_all(heard *o, whit_model *m, const whit_ids *ids) {
	const whit_observer watch = {hear, o};
	float *h = whit_alloc((size_t)(LEN * m->hidden) * sizeof *h);
	m->observer = &watch;
	o->at = 0;
	for (int64_t k = 0; k < SAMPLES; k++) {
		chunk c;
		const whit_batch *b = chunk_set(&c, ids, k);
		CHECK_RC(whit_model_embed(m, b, h, &e), e);
		for (int64_t l = 0; l <= o->layer; l++) CHECK_RC(whit_model_layer(m, l, b, NULL, h, &e), e);
	}
	CHECK_INT(o->at, SAMPLES * LEN);
	m->observer = NULL;
	whit_free(h);
}

/* The largest error of got (n, n) against sum over tokens of g x X^T in double, over the largest it could be. */
static double weighted_error(const heard *o, const float *X, const double *g, const float *got) {
	int64_t n = o->cols;
	double worst = 0, *sum = whit_alloc((size_t)(n * n + 2 * n) * sizeof *sum), *a = sum + n * n, *b = a + n;
	for (int64_t t = 0; t < o->at; t++)
		for (int64_t i = 0; i < n; i++) {
			double x = o->x[t * n + i], y = X[t * n + i];
			a[i] += g[t] * x * x, b[i] += g[t] * y * y;
			for (int64_t k = 0; k < n; k++) sum[i * n + k] += g[t] * x * X[t * n + k];
		}
	for (int64_t i = 0; i < n * n; i++) {
		double d = fabs(got[i] - sum[i]) / sqrt(a[i / n] * b[i % n]);
		if (!(d <= worst)) worst = d;
	}
	whit_free(sum);
	return worst;
}

enum { GROUPS = 3 };

static const void *sum_of(const whit_stats *s, const heard *o, const char *kind) {
	return whit_stats_find(s, o->layer, "text", s->m->layer[o->layer].slot[o->slot].name, kind)->data;
}

/* Weights of tokens, and by them the products of what a changed model reads with themselves and with the original's. */
static void check_weighted(const heard *o, const float *X, const whit_stats *w, const whit_stats *s) {
	int64_t each = (o->rows + GROUPS - 1) / GROUPS, n = o->cols;
	double g[SAMPLES * LEN], worst = 0;
	for (int k = 0; k < GROUPS; k++) {
		int64_t r0 = k * each, r1 = WHIT_MIN(o->rows, r0 + each);
		const float *is = (const float *)sum_of(w, o, "weights") + k * o->at;
		for (int64_t t = 0; t < o->at; t++) {
			g[t] = 0;
			for (int64_t r = r0; r < r1; r++)
				g[t] += (double)o->d[t * o->rows + r] * o->d[t * o->rows + r] / (double)(r1 - r0);
			worst = fmax(worst, fabs(is[t] - g[t]) / (g[t] + 1e-30));
		}
		/* gradients of one sequence or of several at once differ by roundings; then as of Hessians */
		double h = weighted_error(o, o->x, g, (const float *)sum_of(s, o, "guided") + k * n * n),
		       c = weighted_error(o, X, g, (const float *)sum_of(s, o, "guided.cross") + k * n * n);
		CHECK_MSG(h <= 1e-5 && c <= 1e-5, "group %d: errors %.3g and %.3g", k, h, c);
	}
	CHECK_MSG(worst <= 1e-3, "weights: relative error %.3g", worst);
}

/* Where all tokens weigh 1, every group has what there is without weights, bit for bit. */
static void check_equal(const heard *o, const whit_stats *s, const char *first) {
	size_t bytes = (size_t)(o->cols * o->cols) * sizeof(float);
	const float *h = whit_stats_find(s, o->layer, "text", first, "in.hessian")->data,
	            *c = whit_stats_find(s, o->layer, "text", first, "in.cross")->data;
	for (int k = 0; k < GROUPS; k++) {
		CHECK(!memcmp((const float *)sum_of(s, o, "guided") + k * o->cols * o->cols, h, bytes));
		CHECK(!memcmp((const float *)sum_of(s, o, "guided.cross") + k * o->cols * o->cols, c, bytes));
	}
	CHECK(memcmp(h, c, bytes) != 0);
}

static void run_weighted(void) {
	subject s;
	heard o = {.layer = 2};
	if (!subject_open(&s, test_model("wiki12M-qwen3"))) return subject_close(&s);
	const whit_program *p = &s.m.layer[o.layer];
	while (strcmp(p->slot[o.slot].role, "k_proj")) o.slot++;
	o.rows = p->slot[o.slot].rows, o.cols = p->slot[o.slot].cols;
	o.x = whit_alloc((size_t)(SAMPLES * LEN * (2 * o.cols + o.rows)) * sizeof *o.x);
	float *X = o.x + SAMPLES * LEN * o.cols;
	o.d = X + SAMPLES * LEN * o.cols;
	whit_stats_opts opts = {.kinds = WHIT_STAT_WEIGHTS, .groups = GROUPS, .ctx = LEN, .chunks = SAMPLES};
	whit_stats_text t = demo(&s);
	whit_stats weights, st;
	whit_model other;
	whit_mat changed;
	whit_ids ids;
	const char *name = s.m.layer[0].slot[s.m.layer[0].n_slot - 1].name, *first = NULL;
	demo_ids(&s, &ids);
	CHECK_RC(whit_model_open(&other, s.dir, 0, &e), e);
	CHECK_RC(whit_stats_run(&weights, &s.m, s.tok, &t, 1, &opts, &e), e);
	const whit_grad_observer watch = {hear_gradient, &o};
	s.m.grad_observer = &watch;
	for (int64_t k = 0; k < SAMPLES; k++) {
		chunk c;
		there_and_back(&s.m, &ids, k, o.layer, NULL, &c);
	}
	s.m.grad_observer = NULL;

	CHECK_RC(whit_mat_floats(&changed, &whit_ckpt_find(&s.m.ckpt, name)->mat, &e), e);
	for (int64_t i = 0; i < changed.rows * changed.cols; i++) ((float *)(uintptr_t)changed.plane[0])[i] *= 1.5f;
	CHECK_RC(whit_model_replace(&s.m, name, &changed, &e), e);
	opts.kinds = WHIT_STAT_HESSIAN | WHIT_STAT_CROSS | WHIT_STAT_WEIGHTED;
	opts.other = &other, opts.weights = &weights;
	for (int equal = 0; equal < 2; equal++) {
		whit_sum *u = whit_stats_find(&weights, o.layer, "text", p->slot[o.slot].name, "weights");
		for (int64_t i = 0; i < GROUPS * SAMPLES * LEN && equal; i++) ((float *)u->data)[i] = 1;
		if (!CHECK_RC(whit_stats_run(&st, &s.m, s.tok, &t, 1, &opts, &e), e)) break;
		for (int64_t i = 0; i < st.n; i++)
			for (int k = 0; k < st.in[i].n_weight; k++)
				if (!strcmp(st.in[i].weight[k], p->slot[o.slot].name))
					first = st.in[i].weight[0], o.value = st.in[i].value;
		if (equal) {
			check_equal(&o, &st, first);
		} else {
			float *x = o.x;
			hear_all(&o, &s.m, &ids);
			o.x = X;
			hear_all(&o, &other, &ids);
			o.x = x;
			check_weighted(&o, X, &weights, &st);
		}
		whit_stats_free(&st);
	}
	CHECK_RC(whit_model_replace(&s.m, name, NULL, &e), e);
	whit_mat_free(&changed);
	whit_stats_free(&weights);
	whit_model_close(&other);
	whit_ids_free(&ids);
	whit_free(o.x);
	subject_close(&s);
}

TEST_MAIN(run_llama, run_invariance, run_texts, run_refusals, run_hessian, run_fisher, run_weighted)
