/* delta: batches with and without states, against the CPU's sequence by sequence; its gradient */
#include "tests/case_spans.h"
#include "tests/delta.h"

static const struct {
	int64_t k_heads, v_heads, dim, len[SPANS];
	int state, tiled, rate_done;
} rows[] = {
        /* any width: the state in memory */
        {1, 1, 1, {1, -1}, 1, 0, 0},
        {2, 6, 5, {1, 0, 3, 2}, 1, 1, 0},
        {1, 3, 16, {70, -1}, 0, 0, 0},
        {2, 2, 40, {9, 3, -1}, 0, 0, 1},
        {1, 1, 260, {2, -1}, 1, 0, 0},
        /* in registers */
        {1, 2, 32, {1, -1}, 1, 0, 0},
        {2, 4, 32, {65, 0, 2, 64}, 1, 1, 0},
        {2, 6, 32, {130, 3, -1}, 0, 0, 1},
        {1, 3, 64, {20, 1, -1}, 1, 0, 0},
        {1, 2, 128, {1, 1, -1}, 1, 0, 1},
        {1, 3, 128, {30, -1}, 0, 1, 0},
        /* of a model */
        {16, 48, 128, {1, 1, 1, 1}, 1, 0, 0},
        {16, 48, 128, {512, -1}, 1, 1, 1},
        {16, 16, 128, {300, 212, -1}, 0, 0, 0},
};

/* Inputs, on the host. */
typedef struct inputs {
	whit_delta d;
	int64_t size[5]; /* of its arrays */
	float *x[5];
} inputs;

static inputs make(case_run *r, int i, int64_t T) {
	int64_t v = rows[i].v_heads, width = (2 * rows[i].k_heads + v) * rows[i].dim;
	inputs in = {.size = {T * width, T * v, T * v, v, v}};
	for (int k = 0; k < 5; k++) in.x[k] = case_normal(r, in.size[k]);
	delta_inputs(in.x[0], in.x[2], in.x[3], T, width, v);
	for (int64_t h = 0; rows[i].rate_done && h < v; h++) in.x[3][h] = -expf(in.x[3][h]);
	in.d = (whit_delta){in.x[0],         in.x[1], in.x[2],     in.x[3],       in.x[4],
	                    rows[i].k_heads, v,       rows[i].dim, rows[i].tiled, rows[i].rate_done};
	return in;
}

/* d from token t on. */
static whit_delta from(const whit_delta *d, int64_t t) {
	whit_delta r = *d;
	r.qkv += t * (2 * d->k_heads + d->v_heads) * d->dim, r.beta += t * d->v_heads, r.alpha += t * d->v_heads;
	return r;
}

/* d with its arrays where the target reads them. */
static whit_delta on_target(case_run *r, const inputs *in) {
	whit_delta d = in->d;
	float *p[5];
	for (int k = 0; k < 5; k++) p[k] = case_in(r, in->x[k], (size_t)in->size[k] * sizeof(float));
	d.qkv = p[0], d.beta = p[1], d.alpha = p[2], d.rate = p[3], d.dt_bias = p[4];
	return d;
}

static void forward(case_run *r, int i, const case_spans *b, const inputs *in, const whit_delta *at) {
	int64_t dim = rows[i].dim, width = rows[i].v_heads * dim, n = b->T * width, kept = width * dim;
	float *want = case_host(r, (size_t)n * sizeof *want), *mag = case_host(r, (size_t)n * sizeof *mag);
	float *first[SPANS] = {NULL}, *last[SPANS] = {NULL}, *off[SPANS] = {NULL};
	for (int s = 0; s < b->n_seq; s++) {
		const whit_delta d = from(&in->d, b->start[s]);
		int64_t T = b->start[s + 1] - b->start[s];
		if (rows[i].state) {
			first[s] = case_normal(r, kept), last[s] = case_host(r, (size_t)kept * sizeof(float));
			off[s] = case_host(r, (size_t)kept * sizeof(float));
			memcpy(last[s], first[s], (size_t)kept * sizeof(float));
		}
		delta_bound(mag + b->start[s] * width, off[s], &d, first[s], T);
		whit_delta_cpu(want + b->start[s] * width, &d, last[s], T);
	}
	double tol = (double)(dim + 80) * 0x1p-24; /* delta.h */
	for (int plain = 0; plain <= !!r->dev; plain++) {
		float *y = case_out(r, n), *block[SPANS] = {NULL};
		for (int s = 0; rows[i].state && s < b->n_seq; s++) block[s] = case_inout(r, first[s], kept);
		for (int s = 0; !r->dev && s < b->n_seq; s++) {
			const whit_delta d = from(at, b->start[s]);
			whit_delta_fast_cpu(y + b->start[s] * width, &d, block[s], b->start[s + 1] - b->start[s],
			                    &r->host);
		}
		if (r->dev) {
			void *const *state = rows[i].state ? case_in(r, block, sizeof block) : NULL;
			int was = whit_dev_plain(r->dev, plain);
			whit_delta_cuda(r->dev, y, at, state, &b->dev);
			whit_dev_plain(r->dev, was);
		}
		case_near(r, y, want, mag, n, tol);
		for (int s = 0; rows[i].state && s < b->n_seq; s++) case_near(r, block[s], last[s], off[s], kept, tol);
	}
}

/* Gradients are added to what is there. A sequence's pass three products of dim terms and sums over 64 tokens (by u,
 * by keys, by a state), of terms that add up to the largest of an array's values at most; what stands there, and the
 * sums of sequences, round once more each. */
static void back(case_run *r, const case_spans *b, const inputs *in, const whit_delta *at) {
	const whit_delta_grad none = {NULL, NULL, NULL, NULL, NULL};
	int64_t width = in->d.v_heads * in->d.dim, n = b->T * width;
	float *dy = case_normal(r, n), *want[5], *got[5], most[5] = {0};
	for (int k = 0; k < 5; k++) {
		want[k] = case_normal(r, in->size[k]);
		got[k] = case_inout(r, want[k], in->size[k]);
		for (int64_t i = 0; i < in->size[k]; i++) most[k] = fmaxf(most[k], fabsf(want[k][i]));
	}
	for (int s = 0; s < b->n_seq; s++) {
		int64_t t = b->start[s];
		const whit_delta d = from(&in->d, t);
		const whit_delta_grad g = {want[0] + t * (2 * d.k_heads + d.v_heads) * d.dim, want[1] + t * d.v_heads,
		                           want[2] + t * d.v_heads, want[3], want[4]};
		whit_delta_back_cpu(&g, dy + t * width, &d, b->start[s + 1] - t);
	}
	float *idy = case_in(r, dy, (size_t)n * sizeof *dy);
	whit_delta_grad g = {got[0], got[1], got[2], NULL, NULL}, rest = none;
	rest.rate = got[3], rest.dt_bias = got[4];
	if (r->dev) {
		whit_delta_back_cuda(r->dev, &g, idy, at, &b->dev);
		whit_delta_back_cuda(r->dev, &rest, idy, at, &b->dev);
	}
	for (int s = 0; !r->dev && s < b->n_seq; s++) {
		int64_t t = b->start[s], T = b->start[s + 1] - t;
		const whit_delta d = from(at, t);
		const whit_delta_grad gs = {g.qkv + t * (2 * d.k_heads + d.v_heads) * d.dim, g.beta + t * d.v_heads,
		                            g.alpha + t * d.v_heads, NULL, NULL};
		whit_delta_back_fast_cpu(&gs, idy + t * width, &d, T, &r->host);
		whit_delta_back_fast_cpu(&rest, idy + t * width, &d, T, &r->host);
	}
	for (int k = 0; k < 5; k++) {
		for (int64_t i = 0; i < in->size[k]; i++) most[k] = fmaxf(most[k], fabsf(want[k][i]));
		case_near(r, got[k], want[k], NULL, in->size[k],
		          (3 * (double)(in->d.dim + 80) + 2 * b->n_seq) * most[k] * 0x1p-24);
	}
}

static void row(case_run *r, int i) {
	static const int64_t none[SPANS] = {0};
	case_spans b;
	case_spans_make(r, &b, rows[i].len, none);
	if (case_skip_big(r, b.T * rows[i].v_heads * rows[i].dim * rows[i].dim > 2000000)) return;
	case_label(r, "%lld/%lld x %lld, %d sequences, %lld tokens%s%s%s", (long long)rows[i].k_heads,
	           (long long)rows[i].v_heads, (long long)rows[i].dim, b.n_seq, (long long)b.T,
	           rows[i].state ? ", states" : "", rows[i].tiled ? ", tiled" : "",
	           rows[i].rate_done ? ", rate done" : "");
	inputs in = make(r, i, b.T);
	whit_delta at = on_target(r, &in);
	forward(r, i, &b, &in, &at);
	back(r, &b, &in, &at);
}

const case_set cases_delta = {"delta", WHIT_COUNT(rows), row, 3};
