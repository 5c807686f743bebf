/* back: gradients of the gate, split, conv and delta. The plain twins' own text is read a second time with `float`
 * being double, so that central differences of exactly that code judge its gradients to many digits; the plain twins
 * are then those results rounded, and the fast ones near the plain ones. */
#include "host/ops.h"
#include "tests/delta.h"
#include "tests/test.h"

#define float double
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
	double fast_tol; /* of the largest value of a gradient */
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
		for (int64_t i = 0; i < o->size[a]; i++) same &= got[i] == 2 * v->fdx[a][i];
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
	twin(&o, &v, o.back, U, "plain"); /* double throughout, rounded once */
	fast(&o, &v);
	values_free(&v, &o);
}

static void small(void) {
	judge(make_gate(37), 1);
	judge(make_split(3, 2, 5), 1);
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

TEST_MAIN(small, larger)
