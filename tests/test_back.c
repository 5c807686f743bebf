/* back: gradients of the ops. The plain twins' own text is read a second time with `float` being double, so that
 * central differences of exactly that code judge its gradients to many digits; the plain twins are then those results
 * rounded, and the fast ones near the plain ones. */
#include "host/ops.h"
#include "tests/delta.h"
#include "tests/test.h"

static double *take_d(whit_arena *a, int64_t n) { return whit_take_bytes(a, (size_t)n * sizeof(double)); }

#define float double
#define whit_take take_d
#define whit_gate_cpu gate_d
#define whit_gate_back_cpu gate_back_d
#define whit_split_cpu split_d
#define whit_split_back_cpu split_back_d
#define whit_conv_cpu conv_d
#define whit_conv_back_cpu conv_back_d
#define whit_delta delta_args_d
#define whit_delta_grad delta_grad_d
#define whit_delta_cpu delta_d
#define whit_delta_back_cpu delta_back_d
/* ops.h's, members by the same names */
typedef struct whit_delta {
	const float *qkv, *beta, *alpha, *rate, *dt_bias;
	int64_t k_heads, v_heads, dim;
	int tiled, rate_done;
} whit_delta;
typedef struct whit_delta_grad {
	float *qkv, *beta, *alpha, *rate, *dt_bias;
} whit_delta_grad;
#define whit_rmsnorm_cpu rmsnorm_d
#define whit_rmsnorm_back_cpu rmsnorm_back_d
#define whit_rope_cpu rope_d
#define whit_rope_back_cpu rope_back_d
#define whit_swiglu_cpu swiglu_d
#define whit_swiglu_back_cpu swiglu_back_d
#define whit_attention_cpu attention_d
#define whit_attention_back_cpu attention_back_d
#define whit_xent_cpu xent_d
/* the fast twins of these files, which nothing here calls */
#define whit_rmsnorm_fast_cpu rmsnorm_fast_d
#define whit_rmsnorm_back_fast_cpu rmsnorm_back_fast_d
#define whit_rope_fast_cpu rope_fast_d
#define whit_rope_back_fast_cpu rope_back_fast_d
#define whit_swiglu_fast_cpu swiglu_fast_d
#define whit_swiglu_back_fast_cpu swiglu_back_fast_d
#define whit_attention_fast_cpu attention_fast_d
#define whit_attention_back_fast_cpu attention_back_fast_d
#define whit_xent_fast_cpu xent_fast_d
#define whit_kl_cpu kl_d
#define whit_kl_fast_cpu kl_fast_d
#define whit_draw_cpu draw_d
#include "host/op_rmsnorm.c"
#include "host/op_rope.c"
#define BLOCK SWIGLU_BLOCK
#include "host/op_swiglu.c"
#undef BLOCK
#define BLOCK ATTENTION_BLOCK
#include "host/op_attention.c"
#undef BLOCK
#include "host/op_xent.c"
#include "host/op_conv.c"
#include "host/op_delta.c"
#include "host/op_gate.c"
#undef float
#undef whit_gate_cpu
#undef whit_gate_back_cpu
#undef whit_split_cpu
#undef whit_split_back_cpu
#undef whit_conv_cpu
#undef whit_conv_back_cpu
#undef whit_delta
#undef whit_delta_grad
#undef whit_delta_cpu
#undef whit_delta_back_cpu
#undef whit_take
#undef whit_rmsnorm_cpu
#undef whit_rmsnorm_back_cpu
#undef whit_rope_cpu
#undef whit_rope_back_cpu
#undef whit_swiglu_cpu
#undef whit_swiglu_back_cpu
#undef whit_attention_cpu
#undef whit_attention_back_cpu
#undef whit_xent_cpu
#undef whit_rmsnorm_fast_cpu
#undef whit_rmsnorm_back_fast_cpu
#undef whit_rope_fast_cpu
#undef whit_rope_back_fast_cpu
#undef whit_swiglu_fast_cpu
#undef whit_swiglu_back_fast_cpu
#undef whit_attention_fast_cpu
#undef whit_attention_back_fast_cpu
#undef whit_xent_fast_cpu
#undef whit_kl_cpu
#undef whit_kl_fast_cpu
#undef whit_draw_cpu

static const double U = 0x1p-24; /* unit roundoff of float */
enum { ARRAYS = 5 };

/* One op on some shape: its inputs, in double and, the same values, in float, and three ways to gradients. */
typedef struct op op;
struct op {
	const char *name;
	int n_in;
	int64_t size[ARRAYS], n_out; /* of the inputs, of the output */
	int64_t T, a, b, dim;        /* its shape: channels, taps; k heads, v heads; heads */
	int tiled, rate_done;
	void (*forward)(const op *o, double *y, double *const *x);
	void (*back_d)(const op *o, double *const *dx, const double *dy, double *const *x);
	void (*back)(const op *o, float *const *dx, const float *dy, float *const *x);
	void (*back_fast)(const op *o, float *const *dx, const float *dy, float *const *x); /* or NULL */
	double plain_tol, fast_tol; /* of the largest value of a gradient; plain 0: it is rounded once */
	int blocks;                 /* sums of several blocks are added: twice that is not quite twice the sum */
};

/* ---- the ops ---- */

static void gate_f(const op *o, double *y, double *const *x) { gate_d(y, x[0], x[1], o->n_out); }
static void gate_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	gate_back_d(dx[0], dx[1], dy, x[0], x[1], o->n_out);
}
static void gate_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_gate_back_cpu(dx[0], dx[1], dy, x[0], x[1], o->n_out);
}
static void gate_fast(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_gate_back_fast_cpu(dx[0], dx[1], dy, x[0], x[1], o->n_out);
}

static void split_f(const op *o, double *y, double *const *x) {
	split_d(y, y + o->n_out / 2, x[0], o->T, o->a, o->dim);
}
static void split_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	(void)x;
	split_back_d(dx[0], dy, dy + o->n_out / 2, o->T, o->a, o->dim);
}
static void split_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	(void)x; /* one half at a time: the other is not wanted */
	whit_split_back_cpu(dx[0], dy, NULL, o->T, o->a, o->dim);
	whit_split_back_cpu(dx[0], NULL, dy + o->n_out / 2, o->T, o->a, o->dim);
}

static void conv_f(const op *o, double *y, double *const *x) { conv_d(y, x[0], x[1], NULL, o->T, o->a, o->b); }
static void conv_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	conv_back_d(dx[0], dx[1], dy, x[0], x[1], o->T, o->a, o->b);
}
static void conv_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_conv_back_cpu(dx[0], dx[1], dy, x[0], x[1], o->T, o->a, o->b);
}
static void conv_fast(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_arena a = {0};
	whit_conv_back_fast_cpu(dx[0], dx[1], dy, x[0], x[1], o->T, o->a, o->b, &a);
	whit_arena_free(&a);
}

#define DELTA_ARGS                                                                                                     \
	{ x[0], x[1], x[2], x[3], x[4], o->a, o->b, o->dim, o->tiled, o->rate_done }
#define DELTA_GRAD                                                                                                     \
	{ dx[0], dx[1], dx[2], dx[3], dx[4] }
static void delta_f(const op *o, double *y, double *const *x) {
	delta_args_d d = DELTA_ARGS;
	delta_d(y, &d, NULL, o->T);
}
static void delta_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	delta_args_d d = DELTA_ARGS;
	delta_grad_d g = DELTA_GRAD;
	delta_back_d(&g, dy, &d, o->T);
}
static void delta_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_delta d = DELTA_ARGS;
	whit_delta_grad g = DELTA_GRAD;
	whit_delta_back_cpu(&g, dy, &d, o->T);
}
static void delta_fast(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_delta d = DELTA_ARGS;
	whit_delta_grad g = DELTA_GRAD;
	whit_arena a = {0};
	whit_delta_back_fast_cpu(&g, dy, &d, o->T, &a);
	whit_arena_free(&a);
}

/* Sums of several blocks: added twice, they are not quite twice themselves. */
static void norm_f(const op *o, double *y, double *const *x) { rmsnorm_d(y, x[0], x[1], o->T, o->a, o->dim, 1e-3, 1); }
static void norm_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	rmsnorm_back_d(dx[0], dx[1], dy, x[0], x[1], o->T, o->a, o->dim, 1e-3, 1);
}
static void norm_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_rmsnorm_back_cpu(dx[0], dx[1], dy, x[0], x[1], o->T, o->a, o->dim, 1e-3f, 1);
}
static void norm_fast(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_arena a = {0};
	whit_rmsnorm_back_fast_cpu(dx[0], dx[1], dy, x[0], x[1], o->T, o->a, o->dim, 1e-3f, 1, &a);
	whit_arena_free(&a);
}

enum { ROPE_MOST = 64 };
static const int64_t *positions(void) {
	static int64_t pos[ROPE_MOST];
	for (int64_t t = 0; t < ROPE_MOST; t++) pos[t] = t * 3;
	return pos;
}
static const double frequencies[] = {1, 0.3, 0.05, 0.001};
static void rope_f(const op *o, double *y, double *const *x) {
	rope_d(y, x[0], positions(), o->T, o->a, o->dim, o->b, frequencies, 1.5);
}
static void rope_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	(void)x;
	rope_back_d(dx[0], dy, positions(), o->T, o->a, o->dim, o->b, frequencies, 1.5);
}
static void rope_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	(void)x;
	whit_rope_back_cpu(dx[0], dy, positions(), o->T, o->a, o->dim, o->b, frequencies, 1.5);
}
static void rope_fast(const op *o, float *const *dx, const float *dy, float *const *x) {
	(void)x;
	whit_rope_back_fast_cpu(dx[0], dy, positions(), o->T, o->a, o->dim, o->b, frequencies, 1.5);
}

static void swiglu_f(const op *o, double *y, double *const *x) { swiglu_d(y, x[0], x[1], o->n_out); }
static void swiglu_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	swiglu_back_d(dx[0], dx[1], dy, x[0], x[1], o->n_out);
}
static void swiglu_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_swiglu_back_cpu(dx[0], dx[1], dy, x[0], x[1], o->n_out);
}
static void swiglu_fast(const op *o, float *const *dx, const float *dy, float *const *x) {
	whit_swiglu_back_fast_cpu(dx[0], dx[1], dy, x[0], x[1], o->n_out);
}

/* a heads of b kv heads; tiled: the window */
static void attention_f(const op *o, double *y, double *const *x) {
	attention_d(y, x[0], x[1], x[2], o->T, 0, o->a, o->b, o->dim, 0.5, o->tiled);
}
static void attention_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	double *y = whit_alloc((size_t)(o->n_out + 1) * sizeof *y);
	attention_f(o, y, x);
	attention_back_d(dx[0], dx[1], dx[2], dy, y, x[0], x[1], x[2], o->T, o->a, o->b, o->dim, 0.5, o->tiled);
	whit_free(y);
}
static void attention_any(const op *o, float *const *dx, const float *dy, float *const *x, int plain) {
	whit_arena a = {0};
	float *y = whit_take(&a, o->n_out + 1);
	whit_attention_cpu(y, x[0], x[1], x[2], o->T, 0, o->a, o->b, o->dim, 0.5f, o->tiled);
	if (plain)
		whit_attention_back_cpu(dx[0], dx[1], dx[2], dy, y, x[0], x[1], x[2], o->T, o->a, o->b, o->dim, 0.5f,
		                        o->tiled);
	else
		whit_attention_back_fast_cpu(dx[0], dx[1], dx[2], dy, y, x[0], x[1], x[2], o->T, o->a, o->b, o->dim,
		                             0.5f, o->tiled, &a);
	whit_arena_free(&a);
}
static void attention_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	attention_any(o, dx, dy, x, 1);
}
static void attention_fast(const op *o, float *const *dx, const float *dy, float *const *x) {
	attention_any(o, dx, dy, x, 0);
}

/* T rows of `dim` logits; the output is the losses, so a row's gradient is dy times what the twin writes. */
static void targets(const op *o, int32_t *target) {
	for (int64_t t = 0; t < o->T; t++) target[t] = t == 1 ? -1 : (int32_t)(t * 5 % o->dim);
}
static void xent_f(const op *o, double *y, double *const *x) {
	int32_t target[64];
	double *dz = whit_alloc((size_t)(o->size[0] + 1) * sizeof *dz);
	targets(o, target);
	xent_d(y, dz, x[0], target, o->T, o->dim);
	whit_free(dz);
}
static void xent_b(const op *o, double *const *dx, const double *dy, double *const *x) {
	int32_t target[64];
	double y[64];
	targets(o, target);
	xent_d(y, dx[0], x[0], target, o->T, o->dim);
	for (int64_t i = 0; i < o->size[0]; i++) dx[0][i] *= dy[i / o->dim];
}
static void xent_any(const op *o, float *const *dx, const float *dy, float *const *x,
                     void (*f)(double *, float *, const float *, const int32_t *, int64_t, int64_t)) {
	int32_t target[64];
	double y[64];
	float *dz = whit_alloc((size_t)(o->size[0] + 1) * sizeof *dz);
	targets(o, target);
	f(y, dz, x[0], target, o->T, o->dim);
	for (int64_t i = 0; i < o->size[0]; i++) dx[0][i] += dz[i] * dy[i / o->dim];
	whit_free(dz);
}
static void xent_plain(const op *o, float *const *dx, const float *dy, float *const *x) {
	xent_any(o, dx, dy, x, whit_xent_cpu);
}
static void xent_fast(const op *o, float *const *dx, const float *dy, float *const *x) {
	xent_any(o, dx, dy, x, whit_xent_fast_cpu);
}

static op make_norm(int64_t T, int64_t heads, int64_t dim) {
	int64_t n = T * heads * dim;
	/* sums of dim terms, a sixteenth one after another; then few roundings, of terms around the largest */
	return (op){.name = "rmsnorm",
	            .n_in = 2,
	            .size = {n, dim},
	            .n_out = n,
	            .T = T,
	            .a = heads,
	            .dim = dim,
	            .forward = norm_f,
	            .back_d = norm_b,
	            .back = norm_plain,
	            .back_fast = norm_fast,
	            .fast_tol = 4 * ((double)dim / 16 + 24) * 0x1p-24};
}
static op make_rope(int64_t T, int64_t heads, int64_t dim, int64_t rot) {
	int64_t n = T * heads * dim;
	/* the angle is rounded to float in one and not in the other: up to 200 * 2^-24; sincos; three roundings */
	return (op){.name = "rope",
	            .n_in = 1,
	            .size = {n},
	            .n_out = n,
	            .T = T,
	            .a = heads,
	            .b = rot,
	            .dim = dim,
	            .forward = rope_f,
	            .back_d = rope_b,
	            .back = rope_plain,
	            .back_fast = rope_fast,
	            .plain_tol = 200 * 0x1p-24,
	            .fast_tol = 220 * 0x1p-24};
}
static op make_swiglu(int64_t n) {
	return (op){.name = "swiglu",
	            .n_in = 2,
	            .size = {n, n},
	            .n_out = n,
	            .forward = swiglu_f,
	            .back_d = swiglu_b,
	            .back = swiglu_plain,
	            .back_fast = swiglu_fast,
	            .fast_tol = 16 * 0x1p-24};
}
static op make_attention(int64_t T, int64_t heads, int64_t kv_heads, int64_t dim, int window) {
	/* y, which both get in float, is off by 2^-24, so dy.y by dim of that; fast, a score's sum of dim terms moves
	 * p, and sums run over T queries of a group */
	return (op){.name = "attention",
	            .n_in = 3,
	            .size = {T * heads * dim, T * kv_heads * dim, T * kv_heads * dim},
	            .n_out = T * heads * dim,
	            .T = T,
	            .a = heads,
	            .b = kv_heads,
	            .dim = dim,
	            .tiled = window,
	            .blocks = T > 64 || heads > kv_heads,
	            .forward = attention_f,
	            .back_d = attention_b,
	            .back = attention_plain,
	            .back_fast = attention_fast,
	            .plain_tol = (double)(dim + 2) * 0x1p-24,
	            .fast_tol = 4 * (double)(dim + T + 40) * 0x1p-24};
}
static op make_xent(int64_t T, int64_t vocab) {
	return (op){.name = "xent",
	            .n_in = 1,
	            .size = {T * vocab},
	            .n_out = T,
	            .T = T,
	            .dim = vocab,
	            .forward = xent_f,
	            .back_d = xent_b,
	            .back = xent_plain,
	            .back_fast = xent_fast,
	            .plain_tol = 3 * 0x1p-24, /* rounded once, times dy */
	            .fast_tol = 3 * 0x1p-24};
}

static op make_gate(int64_t n) {
	return (op){.name = "gate",
	            .n_in = 2,
	            .size = {n, n},
	            .n_out = n,
	            .forward = gate_f,
	            .back_d = gate_b,
	            .back = gate_plain,
	            .back_fast = gate_fast,
	            .fast_tol = 12 * 0x1p-24};
}
static op make_split(int64_t T, int64_t heads, int64_t dim) {
	int64_t n = T * heads * 2 * dim;
	return (op){.name = "split",
	            .n_in = 1,
	            .size = {n},
	            .n_out = n,
	            .T = T,
	            .a = heads,
	            .dim = dim,
	            .forward = split_f,
	            .back_d = split_b,
	            .back = split_plain};
}
static op make_conv(int64_t T, int64_t channels, int64_t taps) {
	/* dsum: a sum over taps, its sigmoid's slope, a product more; then a sum over taps, or, in double, over tokens.
	 * Sizes of terms stand at most 8 times above the largest result here. */
	return (op){.name = "conv",
	            .n_in = 2,
	            .size = {T * channels, channels * taps},
	            .n_out = T * channels,
	            .T = T,
	            .a = channels,
	            .b = taps,
	            .forward = conv_f,
	            .back_d = conv_b,
	            .back = conv_plain,
	            .back_fast = conv_fast,
	            .fast_tol = 8 * (double)(3 * taps + 16) * 0x1p-24};
}
static op make_delta(int64_t T, int64_t k_heads, int64_t v_heads, int64_t dim, int tiled, int rate_done) {
	/* A gradient passes three products of dim terms and sums over 64 tokens (by u, by keys, by a state), of terms
	 * that add up to its largest value at most. */
	return (op){.name = "delta",
	            .n_in = 5,
	            .size = {T * (2 * k_heads + v_heads) * dim, T * v_heads, T * v_heads, v_heads, v_heads},
	            .n_out = T * v_heads * dim,
	            .T = T,
	            .a = k_heads,
	            .b = v_heads,
	            .dim = dim,
	            .tiled = tiled,
	            .rate_done = rate_done,
	            .forward = delta_f,
	            .back_d = delta_b,
	            .back = delta_plain,
	            .back_fast = delta_fast,
	            .fast_tol = 3 * (double)(dim + 80) * 0x1p-24};
}

/* ---- the judge ---- */

typedef struct values {
	double *x[ARRAYS], *dx[ARRAYS], *dy;
	float *fx[ARRAYS], *fdx[ARRAYS], *fdy; /* the same x and dy; dx: twin results */
} values;

static void *numbers(int64_t n, size_t size) { return whit_alloc((size_t)(n + 1) * size); }

static void values_make(values *v, const op *o) {
	whit_rng r;
	whit_rng_key(&r, 11, (uint64_t)o->n_out, (uint64_t)o->dim);
	v->dy = numbers(o->n_out, sizeof(double)), v->fdy = numbers(o->n_out, sizeof(float));
	for (int64_t i = 0; i < o->n_out; i++) v->dy[i] = v->fdy[i] = (float)whit_rng_normal(&r);
	for (int a = 0; a < o->n_in; a++) {
		v->x[a] = numbers(o->size[a], sizeof(double)), v->dx[a] = numbers(o->size[a], sizeof(double));
		v->fx[a] = numbers(o->size[a], sizeof(float)), v->fdx[a] = numbers(o->size[a], sizeof(float));
		for (int64_t i = 0; i < o->size[a]; i++) v->fx[a][i] = (float)whit_rng_normal(&r);
	}
	if (o->back_fast == delta_fast) {
		delta_inputs(v->fx[0], v->fx[2], v->fx[3], o->T, (2 * o->a + o->b) * o->dim, o->b);
		for (int64_t h = 0; o->rate_done && h < o->b; h++) v->fx[3][h] = -expf(v->fx[3][h]);
	}
	for (int a = 0; a < o->n_in; a++)
		for (int64_t i = 0; i < o->size[a]; i++) v->x[a][i] = v->fx[a][i];
}

static void values_free(values *v, const op *o) {
	whit_free(v->dy), whit_free(v->fdy);
	for (int a = 0; a < o->n_in; a++)
		whit_free(v->x[a]), whit_free(v->dx[a]), whit_free(v->fx[a]), whit_free(v->fdx[a]);
}

static double largest(const double *x, int64_t n) {
	double m = 0;
	for (int64_t i = 0; i < n; i++) m = fmax(m, fabs(x[i]));
	return m;
}

/* sum dy y, the scalar whose gradients those are */
static double scalar(const op *o, const values *v, double *y) {
	double sum = 0;
	o->forward(o, y, v->x);
	for (int64_t i = 0; i < o->n_out; i++) sum += v->dy[i] * y[i];
	return sum;
}

/* Differences over 2h and 4h, whose h^2 terms cancel (Richardson): what is left of the curve is h^4 = 1e-16 of its
 * fifth derivative, and of the scalar's rounding, 1e-15 of hundreds, over h = 1e-4: 1e-9 of gradients around 1. */
static void differences(const op *o, values *v) {
	double *y = numbers(o->n_out, sizeof *y), h = 1e-4;
	for (int a = 0; a < o->n_in; a++) {
		double worst = 0, most = largest(v->dx[a], o->size[a]);
		int64_t at = 0;
		for (int64_t i = 0; i < o->size[a]; i++) {
			double was = v->x[a][i], f[4];
			for (int k = 0; k < 4; k++) {
				v->x[a][i] = was + (double[]){h, -h, 2 * h, -2 * h}[k];
				f[k] = scalar(o, v, y);
			}
			v->x[a][i] = was;
			double off = fabs((8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h) - v->dx[a][i]);
			if (!(off <= worst)) worst = off, at = i;
		}
		CHECK_MSG(worst <= 1e-6 * most,
		          "%s, gradient %d of shape %lld %lld %lld %lld: element %lld is off by %.3g, "
		          "need %.3g",
		          o->name, a, (long long)o->T, (long long)o->a, (long long)o->b, (long long)o->dim,
		          (long long)at, worst, 1e-6 * most);
	}
	whit_free(y);
}

static double most_of(const float *x, int64_t n) {
	double m = 0;
	for (int64_t i = 0; i < n; i++) m = fmax(m, fabs((double)x[i]));
	return m;
}

/* A float twin against the gradients in double, elements within tol of the largest; added to what was there. */
static void twin(const op *o, values *v, void (*back)(const op *, float *const *, const float *, float *const *),
                 double tol, const char *what) {
	for (int a = 0; a < o->n_in; a++) memset(v->fdx[a], 0, (size_t)o->size[a] * sizeof(float));
	back(o, v->fdx, v->fdy, v->fx);
	for (int a = 0; a < o->n_in; a++) {
		double most = largest(v->dx[a], o->size[a]), worst = 0;
		for (int64_t i = 0; i < o->size[a]; i++) {
			double off = fabs(v->fdx[a][i] - v->dx[a][i]);
			if (!(off <= worst)) worst = off;
		}
		CHECK_MSG(worst <= tol * most,
		          "%s (%s), gradient %d of shape %lld %lld %lld %lld: off by %.3g, need %.3g", o->name, what, a,
		          (long long)o->T, (long long)o->a, (long long)o->b, (long long)o->dim, worst, tol * most);
	}
	/* One alone is the same, and added to what stands there: exact, for 0 + x + x is 2 x. */
	for (int a = 0; a < o->n_in; a++) {
		float *alone[ARRAYS] = {NULL}, *got = numbers(o->size[a], sizeof *got);
		int same = 1;
		alone[a] = got;
		back(o, alone, v->fdy, v->fx);
		back(o, alone, v->fdy, v->fx);
		for (int64_t i = 0; i < o->size[a]; i++)
			same &= o->blocks ? fabs(got[i] - 2 * v->fdx[a][i]) <= 1e-5 * most_of(v->fdx[a], o->size[a])
			                  : got[i] == 2 * v->fdx[a][i];
		CHECK_MSG(same, "%s (%s): gradient %d alone, twice, is not twice that of all", o->name, what, a);
		whit_free(got);
	}
}

/* The fast twin at each vector level, with the same bytes from one thread and three. */
static void fast(const op *o, values *v) {
	for (int level = 0; o->back_fast && level <= WHIT_CPU_TOP; level++) {
		uint64_t hash[2] = {0, 0};
		whit_cpu_cap(level);
		if (whit_cpu_level() < level) {
			test_skip("vector level %s: not on this machine", whit_cpu_level_name(level));
			continue;
		}
		for (int n = 0; n < 2; n++) {
			whit_threads_set(1 + 2 * n);
			twin(o, v, o->back_fast, o->fast_tol, whit_cpu_level_name(level));
			for (int a = 0; a < o->n_in; a++)
				hash[n] = hash[n] * 31 +
				          whit_hash_bytes(v->fdx[a], (size_t)o->size[a] * sizeof(float)).lo;
		}
		CHECK_MSG(hash[0] == hash[1], "%s: other bytes from three threads", o->name);
	}
	whit_threads_set(0);
	whit_cpu_cap(WHIT_CPU_TOP);
}

static void judge(op o, int by_differences) {
	values v = {{NULL}, {NULL}, NULL, {NULL}, {NULL}, NULL};
	values_make(&v, &o);
	o.back_d(&o, v.dx, v.dy, v.x);
	if (by_differences) differences(&o, &v);
	twin(&o, &v, o.back, o.plain_tol > 0 ? o.plain_tol : U, "plain"); /* double throughout */
	fast(&o, &v);
	values_free(&v, &o);
}

static void small(void) {
	judge(make_gate(37), 1);
	judge(make_split(3, 2, 5), 1);
	judge(make_norm(5, 1, 9), 1);
	judge(make_norm(3, 2, 4), 1);
	judge(make_norm(1, 1, 1), 1);
	judge(make_rope(4, 2, 6, 4), 1);
	judge(make_rope(3, 1, 8, 8), 1);
	judge(make_rope(2, 2, 3, 0), 1);
	judge(make_swiglu(37), 1);
	judge(make_attention(1, 1, 1, 3, 0), 1);
	judge(make_attention(7, 4, 2, 4, 0), 1);
	judge(make_attention(9, 3, 1, 5, 4), 1);
	judge(make_xent(4, 11), 1);
	judge(make_xent(1, 1), 1);
	judge(make_conv(9, 3, 4), 1);
	judge(make_conv(2, 3, 4), 1);
	judge(make_conv(5, 2, 1), 1);
	judge(make_delta(1, 1, 1, 3, 0, 0), 1);
	judge(make_delta(9, 2, 4, 4, 0, 0), 1);
	judge(make_delta(9, 2, 6, 3, 1, 1), 1);
	judge(make_delta(70, 1, 2, 2, 0, 1), 1);
}

static void larger(void) {
	judge(make_gate(5000), 0);
	judge(make_norm(0, 1, 9), 0);
	judge(make_norm(40, 2, 128), 0);
	judge(make_rope(60, 3, 16, 8), 0);
	judge(make_swiglu(9000), 0);
	judge(make_attention(0, 2, 1, 8, 0), 0);
	judge(make_attention(64, 4, 2, 16, 0), 0);
	judge(make_attention(150, 2, 2, 32, 0), 0);
	judge(make_attention(130, 4, 1, 16, 70), 0);
	judge(make_xent(40, 3000), 0);
	judge(make_gate(0), 0);
	judge(make_split(0, 2, 5), 0);
	judge(make_conv(0, 3, 4), 0);
	judge(make_conv(130, 300, 4), 0);
	judge(make_conv(70, 20, 3), 0);
	judge(make_delta(0, 1, 2, 8, 0, 0), 0);
	judge(make_delta(64, 2, 2, 16, 0, 0), 0);
	judge(make_delta(65, 1, 3, 33, 1, 0), 0);
	judge(make_delta(200, 2, 6, 32, 0, 1), 0);
	judge(make_delta(130, 1, 3, 128, 1, 0), 0);
}

/* linear is linear: <dy, W dx> = <W^T dy, dx>, and its weights' gradient is a sum of products. */
static void linear(void) {
	static const struct {
		const char *format;
		int64_t rows, cols, paired;
		int rotated;
	} ways[] = {{"f32", 5, 33, 0, 0},
	            {"bf16", 12, 64, 6, 0},
	            {"tq4g128", 20, 256, 0, 1},
	            {"q4_k", 6, 256, 0, 0},
	            {"int8", 300, 100, 0, 0}};
	for (int i = 0; i < WHIT_COUNT(ways); i++) {
		int64_t R = ways[i].rows, K = ways[i].cols, T = 7;
		whit_err e = {0};
		whit_mat m = {.rows = R, .cols = K, .width = K, .paired = ways[i].paired};
		whit_rotation *rot = NULL;
		whit_arena a = {0};
		float book[256];
		float *dy = whit_take(&a, T * R), *x = whit_take(&a, T * K), *w = whit_take(&a, R * K);
		whit_rng g;
		whit_rng_key(&g, 5, (uint64_t)i, 0);
		for (int64_t k = 0; k < T * R; k++) dy[k] = (float)whit_rng_normal(&g);
		for (int64_t k = 0; k < T * K; k++) x[k] = (float)whit_rng_normal(&g);
		for (int64_t k = 0; k < R * K; k++) w[k] = (float)whit_rng_normal(&g);
		whit_rotation_spec spec = {.kind = WHIT_ROT_HADAMARD, .seed = 5, .dim = K, .block = 128, .base = 1};
		int rc = whit_spec_parse(ways[i].format, &m.spec, &e);
		if (!rc) whit_spec_resolve(&m.spec, K);
		if (!rc && ways[i].rotated) rc = whit_rotation_new(&rot, &spec, NULL, &e), m.rot = rot;
		for (int k = 0; k < 16; k++) book[k] = (float)(k - 8) / 40;
		m.codebook = m.spec.fmt && m.spec.fmt->needs_codebook ? book : NULL;
		if (!rc) rc = whit_mat_alloc(&m, &e);
		int64_t zero = 0;
		for (int64_t r = 0; r < R && !rc; r++) m.spec.fmt->encode(&m, r, w + r * K, NULL, WHIT_SCALE_LS, &zero);
		if (!CHECK_RC(rc, e)) continue;
		whit_mat_decode(&m, 0, R, w);
		for (int way = 0; way < 2; way++) {
			float *dx = whit_take(&a, T * K), *dw = whit_take(&a, R * K), *db = whit_take(&a, R);
			for (int64_t k = 0; k < T * K; k++) dx[k] = 1;
			memset(dw, 0, (size_t)(R * K) * sizeof *dw);
			memset(db, 0, (size_t)R * sizeof *db);
			if (way) {
				whit_linear_back_fast_cpu(dx, dy, T, &m, &a);
				whit_linear_grad_fast_cpu(dw, db, dy, x, T, R, K, &a);
			} else {
				whit_linear_back_cpu(dx, dy, T, &m);
				whit_linear_grad_cpu(dw, db, dy, x, T, R, K);
			}
			double left = 0, right = 0, size = 0, worst = 0, bias = 0;
			for (int64_t t = 0; t < T; t++)
				for (int64_t r = 0; r < R; r++) {
					double sum = 0;
					for (int64_t k = 0; k < K; k++) sum += (double)w[r * K + k] * x[t * K + k];
					left += sum * dy[t * R + r];
					size += fabs(sum * dy[t * R + r]);
				}
			for (int64_t k = 0; k < T * K; k++) right += (double)(dx[k] - 1) * x[k];
			/* float sums of R terms; dx began as 1 */
			CHECK_MSG(fabs(left - right) <= 1e-5 * size, "%s (%s): %.9g and %.9g", ways[i].format,
			          way ? "fast" : "plain", left, right);
			for (int64_t r = 0; r < R; r++) {
				double b = 0;
				for (int64_t t = 0; t < T; t++) b += dy[t * R + r];
				bias = fmax(bias, fabs(b - db[r]));
				for (int64_t k = 0; k < K; k++) {
					double sum = 0;
					for (int64_t t = 0; t < T; t++) sum += (double)dy[t * R + r] * x[t * K + k];
					double off = fabs(sum - dw[r * K + k]);
					if (!(off <= worst)) worst = off;
				}
			}
			CHECK_MSG(worst <= 16 * 7 * U && bias <= 16 * U, "%s (%s): weights off by %.3g, bias by %.3g",
			          ways[i].format, way ? "fast" : "plain", worst, bias);
		}
		whit_mat_free(&m);
		whit_rotation_free(rot);
		whit_arena_free(&a);
	}
}

/* What is not a number stays none; what nobody asks for is not written. */
static void edges(void) {
	float z[6] = {1, NAN, 0, 1, 2, 3}, dz[6];
	double loss[2];
	const int32_t target[2] = {0, 2};
	whit_xent_cpu(loss, dz, z, target, 2, 3);
	CHECK(isnan(loss[0]) && isnan(dz[0]));
	CHECK_NEAR(loss[1], log(exp(-2.0) + exp(-1.0) + 1), 1e-15);
	CHECK_NEAR(dz[5], 1 / (exp(-2.0) + exp(-1.0) + 1) - 1, 1e-7);
	int32_t drawn[3];
	const double u[3] = {0.2, 0.999999, -1};
	const float logits[9] = {0, 0, 0, -100, 50, 0, 1, 1, 1};
	whit_draw_cpu(drawn, logits, u, 3, 3);
	CHECK(drawn[0] == 0 && drawn[1] == 1 && drawn[2] == -1);
}

TEST_MAIN(small, larger, linear, edges)
