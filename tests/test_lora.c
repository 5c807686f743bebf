/* lora: low-rank fits against the closed form, and adapters' files: round trip, refusals, any cut. */
#include <lapacke.h>
#include "calib/lowrank.h"
#include "formats/lora.h"
#include "tests/test.h"

static whit_err e;

/* ---- fits ---- */

typedef struct problem {
	int64_t rows, cols;
	float *e;
	double *h, *alpha;
} problem;

static problem make(int64_t rows, int64_t cols) {
	problem p = {rows, cols, whit_alloc((size_t)(rows * cols) * sizeof(float)),
	             whit_alloc((size_t)(cols * cols) * sizeof(double)), whit_alloc((size_t)rows * sizeof(double))};
	double *x = whit_alloc((size_t)(3 * cols * cols) * sizeof *x);
	whit_rng g;
	whit_rng_key(&g, 5, (uint64_t)rows, (uint64_t)cols);
	for (int64_t i = 0; i < rows * cols; i++) p.e[i] = (float)(0.02 * whit_rng_normal(&g));
	for (int64_t i = 0; i < rows; i++) p.alpha[i] = 0.1 + whit_rng_uniform(&g);
	for (int64_t i = 0; i < 3 * cols; i++) /* columns of very different size */
		for (int64_t k = 0; k < cols; k++) x[i * cols + k] = whit_rng_normal(&g) / (double)(1 + k % 7);
	for (int64_t i = 0; i < cols; i++)
		for (int64_t k = 0; k < cols; k++)
			for (int64_t t = 0; t < 3 * cols; t++) p.h[i * cols + k] += x[t * cols + i] * x[t * cols + k];
	whit_free(x);
	return p;
}

static void drop(problem *p) {
	whit_free(p->e);
	whit_free(p->h);
	whit_free(p->alpha);
}

/* Squared singular values of D^1/2 E L, falling, the way the definition says it; h has its damping. */
static void singular(const problem *p, const double *h, const double *alpha, double *square) {
	int64_t n = p->cols, least = WHIT_MIN(p->rows, n);
	double *l = whit_alloc((size_t)(n * n) * sizeof *l), *m = whit_alloc((size_t)(p->rows * n) * sizeof *m),
	       mean = 0;
	double *rest = whit_alloc((size_t)least * sizeof *rest), none;
	memcpy(l, h, (size_t)(n * n) * sizeof *l);
	CHECK_INT(LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', (int)n, l, (int)n), 0);
	for (int64_t i = 0; i < p->rows && alpha; i++) mean += alpha[i] / (double)p->rows;
	for (int64_t i = 0; i < p->rows; i++)
		for (int64_t k = 0; k < n; k++)
			for (int64_t j = k; j < n; j++)
				m[i * n + k] += p->e[i * n + j] * l[j * n + k] * (alpha ? sqrt(alpha[i] / mean) : 1);
	CHECK_INT(LAPACKE_dgesvd(LAPACK_ROW_MAJOR, 'N', 'N', (int)p->rows, (int)n, m, (int)n, square, &none, 1, &none,
	                         1, rest),
	          0);
	for (int64_t i = 0; i < least; i++) square[i] *= square[i];
	whit_free(rest);
	whit_free(m);
	whit_free(l);
}

static double *damped(const problem *p, double by) {
	size_t bytes = (size_t)(p->cols * p->cols) * sizeof(double);
	double *h = memcpy(whit_alloc(bytes), p->h, bytes), mean = 0;
	for (int64_t i = 0; i < p->cols; i++) mean += p->h[i * p->cols + i] / (double)p->cols;
	for (int64_t i = 0; i < p->cols; i++) h[i * p->cols + i] += by * mean;
	return h;
}

/* Two factors in F16: each entry of B A is off by 2^-11 of each factor's term, twice; the sum of squares of that, over
 * whitened coordinates, is at most 2^-20 of what B A takes away times the spread of the factors: bounded by 100. */
static const double ROUNDED = 100 * 0x1p-20;

static void check_fit(const problem *p, const double *alpha, int64_t rank) {
	int64_t least = WHIT_MIN(p->rows, p->cols), raised = 0;
	double *square = whit_alloc((size_t)least * sizeof *square), all = 0, left = 0;
	double *with = damped(p, 0.01), *h = damped(p, 0);
	whit_lowrank f;
	singular(p, with, alpha, square);
	for (int64_t i = 0; i < least; i++) all += square[i], left += i >= rank ? square[i] : 0;
	if (CHECK_RC(whit_lowrank_fit(&f, p->e, p->rows, p->cols, h, alpha, rank, 0.01, &raised, "w", &e), e)) {
		CHECK_NEAR(f.before, all, 1e-12 * all);
		CHECK_NEAR(f.best, left, 1e-12 * all);
		CHECK_NEAR(f.after, left, ROUNDED * all);
		CHECK_INT(raised, 0);
	}
	float *w = whit_alloc((size_t)(p->rows * p->cols) * sizeof *w);
	whit_lowrank_add(&f, w);
	for (int64_t i = 0; i < p->rows * p->cols && rank == least; i++) /* factors reach about 1, of `least` terms */
		if (!(fabsf(w[i] - p->e[i]) <= 4e-4f)) CHECK_NEAR(w[i], p->e[i], 4e-4);
	whit_free(w);
	whit_lowrank_free(&f);
	whit_free(square);
	whit_free(with);
	whit_free(h);
}

static void fits(void) {
	static const int64_t shape[][2] = {{12, 20}, {20, 12}, {16, 16}, {130, 70}, {1, 9}, {9, 1}};
	for (int i = 0; i < WHIT_COUNT(shape); i++) {
		problem p = make(shape[i][0], shape[i][1]);
		int64_t least = WHIT_MIN(p.rows, p.cols);
		for (int64_t rank = 1; rank <= least; rank += rank < 4 ? 1 : least - rank ? least - rank : 1) {
			check_fit(&p, NULL, rank);
			check_fit(&p, p.alpha, rank);
		}
		drop(&p);
	}
}

static void threads(void) {
	problem p = make(300, 200);
	whit_lowrank f[2];
	int64_t raised = 0;
	for (int i = 0; i < 2; i++) {
		double *h = damped(&p, 0);
		whit_threads_set(i ? 3 : 1);
		CHECK_RC(whit_lowrank_fit(&f[i], p.e, p.rows, p.cols, h, p.alpha, 5, 0.01, &raised, "w", &e), e);
		whit_free(h);
	}
	whit_threads_set(0);
	CHECK(!memcmp(f[0].a, f[1].a, (size_t)(5 * p.cols) * sizeof *f[0].a));
	CHECK(!memcmp(f[0].b, f[1].b, (size_t)(5 * p.rows) * sizeof *f[0].b));
	whit_lowrank_free(&f[0]);
	whit_lowrank_free(&f[1]);
	drop(&p);
}

static int fit_with(const problem *p, int64_t rank, double damping, int64_t *raised) {
	whit_lowrank f;
	double *h = damped(p, 0);
	int rc = whit_lowrank_fit(&f, p->e, p->rows, p->cols, h, NULL, rank, damping, raised, "w", &e);
	whit_lowrank_free(&f);
	whit_free(h);
	return rc;
}

static void bad_fits(void) {
	problem p = make(6, 8);
	int64_t raised = 0;
	CHECK_FAILS(fit_with(&p, 0, 0.01, &raised), WHIT_EUSAGE, e, "rank is 0, need 1 to 6");
	CHECK_FAILS(fit_with(&p, 7, 0.01, &raised), WHIT_EUSAGE, e, "rank is 7, need 1 to 6");
	p.h[9] = NAN;
	CHECK_FAILS(fit_with(&p, 2, 0.01, &raised), WHIT_ENONFINITE, e, "NaN or Inf");
	for (int i = 0; i < 64; i++) p.h[i] = 0;
	CHECK_FAILS(fit_with(&p, 2, 0.01, &raised), WHIT_EINPUT, e, "always zero");
	p.h[0] = 1; /* of rank 1: without damping it has no factor, with a little it has */
	CHECK_RC(fit_with(&p, 2, 0, &raised), e);
	CHECK(raised > 0);
	p.e[3] = INFINITY;
	CHECK_FAILS(fit_with(&p, 2, 0.01, &raised), WHIT_ENONFINITE, e, "finite weights");
	double zero[3] = {0, 0, 0}, some[2] = {0, 10};
	whit_lowrank_shrink(zero, 3);
	whit_lowrank_shrink(some, 2);
	CHECK(zero[0] == 1 && zero[2] == 1);
	CHECK_NEAR(some[0], 1, 1e-12);
	CHECK_NEAR(some[1], 9, 1e-12);
	drop(&p);
}

/* ---- files ---- */

typedef struct made { /* what of a good adapter is to be otherwise */
	const char *type, *kind, *arch, *name, *other;
	int ggml; /* type of factors */
	int64_t rank_b, rows;
	double alpha;
	int norm, alora;
	uint32_t value; /* of factors' first number, where it is not 0 */
} made;
#define GOOD                                                                                                           \
	{ "adapter", "lora", "llama", "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b", 1, 2, 3, 4, 0, 0, 0 }

/* (3, 5) of rank 2, as its parts say; whit_free *data. */
static void write(const made *m, char **data, size_t *n) {
	char *path = test_scratch("adapter.gguf");
	uint8_t a[40] = {0}, b[64] = {0};
	whit_gguf_out *o;
	memcpy(a, &m->value, sizeof m->value);
	CHECK_RC(whit_gguf_out_open(&o, path, &e), e);
	whit_gguf_put_string(o, "general.type", m->type, &e);
	whit_gguf_put_string(o, "adapter.type", m->kind, &e);
	whit_gguf_put_string(o, "general.architecture", m->arch, &e);
	whit_gguf_put_f32(o, "adapter.lora.alpha", (float)m->alpha, &e);
	if (m->alora) whit_gguf_put_u32(o, "adapter.alora.invocation_tokens", 1, &e);
	const whit_ggml_type *t = whit_ggml_type_of(m->ggml);
	if (*m->name) CHECK_RC(whit_gguf_out_tensor(o, m->name, t, 2, (const int64_t[]){5, 2}, &e), e);
	if (*m->other) CHECK_RC(whit_gguf_out_tensor(o, m->other, t, 2, (const int64_t[]){m->rank_b, m->rows}, &e), e);
	if (m->norm) CHECK_RC(whit_gguf_out_tensor(o, "output_norm.weight", t, 1, (const int64_t[]){2}, &e), e);
	if (*m->name) CHECK_RC(whit_gguf_out_write(o, a, (size_t)(10 * t->bytes), &e), e);
	if (*m->other) CHECK_RC(whit_gguf_out_write(o, b, (size_t)(m->rank_b * m->rows * t->bytes), &e), e);
	if (m->norm) CHECK_RC(whit_gguf_out_write(o, b, (size_t)(2 * t->bytes), &e), e);
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	*data = test_read(path, n);
	remove(path);
	whit_free(path);
}

static int parse(const made *m) {
	whit_lora l;
	char *data;
	size_t n;
	write(m, &data, &n);
	int rc = whit_lora_parse(&l, (const uint8_t *)data, n, "adapter", "llama", &e);
	if (!rc) whit_lora_close(&l);
	whit_free(data);
	return rc;
}

static void refusals(void) {
	static const struct {
		made m;
		const char *word;
	} bad[] = {
	        {{"model", "lora", "llama", "w.lora_a", "w.lora_b", 1, 2, 3, 4, 0, 0, 0},
	         "general.type: is \"model\", need \"adapter\""},
	        {{"adapter", "ia3", "llama", "w.lora_a", "w.lora_b", 1, 2, 3, 4, 0, 0, 0}, "adapter.type: is \"ia3\""},
	        {{"adapter", "lora", "qwen3", "w.lora_a", "w.lora_b", 1, 2, 3, 4, 0, 0, 0},
	         "is \"qwen3\", need \"llama\""},
	        {{"adapter", "lora", "llama", "w.lora_a", "", 1, 2, 3, 4, 0, 0, 0}, "w.lora_b: is missing"},
	        {{"adapter", "lora", "llama", "", "w.lora_b", 1, 2, 3, 4, 0, 0, 0}, "w.lora_a: is missing"},
	        {{"adapter", "lora", "llama", "", "", 1, 2, 3, 4, 0, 0, 0}, "has no tensors"},
	        {{"adapter", "lora", "llama", "w", "w.lora_b", 1, 2, 3, 4, 0, 0, 0}, "need a name that ends in"},
	        {{"adapter", "lora", "llama", "w.lora_a", "w.lora_b", 24, 2, 3, 4, 0, 0, 0},
	         "is I8, need F32, F16 or BF16"},
	        {{"adapter", "lora", "llama", "w.lora_a", "w.lora_b", 1, 3, 3, 4, 0, 0, 0},
	         "is of rank 3, need w.lora_a's 2"},
	        {{"adapter", "lora", "llama", "w.lora_a", "w.lora_b", 1, 2, 1, 4, 0, 0, 0}, "rank is 2, need 1 to 1"},
	        {{"adapter", "lora", "llama", "w.lora_a", "w.lora_b", 1, 2, 3, 1e7, 0, 0, 0}, "adapter.lora.alpha"},
	        {{"adapter", "lora", "llama", "w.lora_a", "w.lora_b", 1, 2, 3, 4, 1, 0, 0}, "output_norm.weight"},
	        {{"adapter", "lora", "llama", "w.lora_a", "w.lora_b", 1, 2, 3, 4, 0, 1, 0}, "invocation_tokens"},
	};
	for (int i = 0; i < WHIT_COUNT(bad); i++) CHECK_FAILS(parse(&bad[i].m), WHIT_EINPUT, e, bad[i].word);
	const made nan = {"adapter", "lora", "llama", "w.lora_a", "w.lora_b", 1, 2, 3, 4, 0, 0, 0x7e000000};
	CHECK_FAILS(parse(&nan), WHIT_ENONFINITE, e, "row 0, column 1");
	for (int type = 0; type < 3; type++) { /* F32, F16, and BF16 */
		made m = GOOD;
		m.ggml = type < 2 ? type : 30;
		CHECK_RC(parse(&m), e);
	}
}

/* Every cut is refused, or, in the padding at the end, harmless. */
static void cuts(void) {
	made m = GOOD;
	char *data;
	size_t n;
	write(&m, &data, &n);
	for (size_t k = 0; k < n; k++) {
		char *copy = malloc(k ? k : 1);
		whit_lora l;
		memcpy(copy, data, k);
		if (!whit_lora_parse(&l, (const uint8_t *)copy, k, "cut", "llama", &e)) {
			CHECK_MSG(k + 32 > n, "a file of %zu bytes cut to %zu is read", n, k);
			whit_lora_close(&l);
		}
		free(copy);
	}
	whit_free(data);
}

static void round_trip(void) {
	char *path = test_scratch("round.gguf");
	whit_gguf_out *o;
	whit_lora l;
	uint16_t a[2 * 5], b[3 * 2];
	float x[10], y[6];
	for (int i = 0; i < 10; i++) a[i] = whit_f32_to_f16((float)i / 8);
	for (int i = 0; i < 6; i++) b[i] = whit_f32_to_f16((float)-i);
	CHECK_RC(whit_lora_out_open(&o, path, "llama", 2, &e), e);
	CHECK_RC(whit_lora_out_matrix(o, "blk.1.ffn_up.weight", 3, 5, 2, &e), e);
	CHECK_RC(whit_gguf_out_write(o, a, sizeof a, &e), e);
	CHECK_RC(whit_gguf_out_write(o, b, sizeof b, &e), e);
	CHECK_RC(whit_gguf_out_commit(o, &e), e);
	if (CHECK_RC(whit_lora_open(&l, path, "llama", &e), e)) {
		CHECK_INT(l.n, 1);
		CHECK_TEXT(l.pair[0].name, "blk.1.ffn_up.weight");
		CHECK(l.pair[0].rows == 3 && l.pair[0].cols == 5 && l.pair[0].rank == 2 && l.pair[0].scale == 1);
		whit_lora_floats(&l.pair[0], x, y);
		for (int i = 0; i < 10; i++) CHECK(x[i] == (float)i / 8);
		for (int i = 0; i < 6; i++) CHECK(y[i] == (float)-i);
		whit_lora_close(&l);
	}
	CHECK_FAILS(whit_lora_open(&l, path, "qwen3", &e), WHIT_EINPUT, e, "is \"llama\", need \"qwen3\"");
	remove(path);
	whit_free(path);
}

TEST_MAIN(fits, threads, bad_fits, round_trip, refusals, cuts)
