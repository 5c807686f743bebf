/* engine_ops: the table of ops, each row what an op of ops.h makes of a node. */
#include "host/engine.h"

/* w0: the matrix. */
static int embed_forward(whit_call *c, whit_err *e) {
	(void)e;
	(c->plain ? whit_embed_cpu : whit_embed_fast_cpu)(c->out[0], c->batch->tokens, c->batch->T, c->w[0]);
	return 0;
}

static int embed_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[], whit_err *e) {
	(void)e, (void)din;
	if (dw[0]) whit_embed_back_cpu(dw[0], dout[0], c->batch->tokens, c->batch->T, c->out_width[0]);
	return 0;
}

static void embed_cuda(whit_call *c) { whit_embed_cuda(c->dev, c->out[0], c->batch->tokens, c->batch->T, c->w[0]); }

static void embed_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	(void)din;
	if (dw[0])
		whit_embed_back_cuda(c->dev, dw[0], dout[0], c->batch->tokens, c->batch->T, c->out_width[0],
		                     c->w[0]->rows);
}

/* w0: the matrix, w1: bias or none. */
static int linear_forward(whit_call *c, whit_err *e) {
	(void)e;
	if (c->plain)
		whit_linear_cpu(c->out[0], c->in[0], c->batch->T, c->w[0], c->vec[1]);
	else
		whit_linear_fast_cpu(c->out[0], c->in[0], c->batch->T, c->w[0], c->vec[1], c->scratch);
	return 0;
}

static int linear_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[],
                           whit_err *e) {
	int64_t T = c->batch->T, rows = c->out_width[0], cols = c->in_width[0];
	(void)e;
	if (din[0] && c->plain)
		whit_linear_back_cpu(din[0], dout[0], T, c->w[0]);
	else if (din[0])
		whit_linear_back_fast_cpu(din[0], dout[0], T, c->w[0], c->scratch);
	if (!dw[0] && !dw[1]) return 0;
	if (c->plain)
		whit_linear_grad_cpu(dw[0], dw[1], dout[0], c->in[0], T, rows, cols);
	else
		whit_linear_grad_fast_cpu(dw[0], dw[1], dout[0], c->in[0], T, rows, cols, c->scratch);
	return 0;
}

static void linear_cuda(whit_call *c) {
	whit_linear_cuda(c->dev, c->out[0], c->in[0], c->batch->T, c->w[0], c->vec[1]);
}

static void linear_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	int64_t T = c->batch->T;
	if (din[0]) whit_linear_back_cuda(c->dev, din[0], dout[0], T, c->w[0]);
	if (dw[0] || dw[1])
		whit_linear_grad_cuda(c->dev, dw[0], dw[1], dout[0], c->in[0], T, c->out_width[0], c->in_width[0]);
}

/* w0: weight of dim; heads: runs per row; eps, shift. */
static int rmsnorm_forward(whit_call *c, whit_err *e) {
	const whit_attr *a = &c->node->a;
	(void)e;
	(c->plain ? whit_rmsnorm_cpu : whit_rmsnorm_fast_cpu)(c->out[0], c->in[0], c->vec[0], c->batch->T, a->heads,
	                                                      a->dim, a->eps, a->shift);
	return 0;
}

static int rmsnorm_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[],
                            whit_err *e) {
	const whit_attr *a = &c->node->a;
	(void)e;
	if (c->plain)
		whit_rmsnorm_back_cpu(din[0], dw[0], dout[0], c->in[0], c->vec[0], c->batch->T, a->heads, a->dim,
		                      a->eps, a->shift);
	else
		whit_rmsnorm_back_fast_cpu(din[0], dw[0], dout[0], c->in[0], c->vec[0], c->batch->T, a->heads, a->dim,
		                           a->eps, a->shift, c->scratch);
	return 0;
}

static void rmsnorm_cuda(whit_call *c) {
	const whit_attr *a = &c->node->a;
	whit_rmsnorm_cuda(c->dev, c->out[0], c->in[0], c->vec[0], c->batch->T, a->heads, a->dim, a->eps, a->shift);
}

static void rmsnorm_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	const whit_attr *a = &c->node->a;
	whit_rmsnorm_back_cuda(c->dev, din[0], dw[0], dout[0], c->in[0], c->vec[0], c->batch->T, a->heads, a->dim,
	                       a->eps, a->shift);
}

/* heads, dim, rot, inv_freq, mscale. */
static int rope_forward(whit_call *c, whit_err *e) {
	const whit_attr *a = &c->node->a;
	(void)e;
	(c->plain ? whit_rope_cpu : whit_rope_fast_cpu)(c->out[0], c->in[0], c->batch->pos, c->batch->T, a->heads,
	                                                a->dim, a->rot, a->inv_freq, a->mscale);
	return 0;
}

static int rope_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[], whit_err *e) {
	const whit_attr *a = &c->node->a;
	(void)e, (void)dw;
	if (din[0])
		(c->plain ? whit_rope_back_cpu : whit_rope_back_fast_cpu)(
		        din[0], dout[0], c->batch->pos, c->batch->T, a->heads, a->dim, a->rot, a->inv_freq, a->mscale);
	return 0;
}

static void rope_cuda(whit_call *c) {
	const whit_attr *a = &c->node->a;
	whit_rope_cuda(c->dev, c->out[0], c->in[0], c->batch->pos, c->batch->T, a->heads, a->dim, a->rot, a->inv_freq,
	               a->mscale);
}

static void rope_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	const whit_attr *a = &c->node->a;
	(void)dw;
	if (din[0])
		whit_rope_back_cuda(c->dev, din[0], dout[0], c->batch->pos, c->batch->T, a->heads, a->dim, a->rot,
		                    a->inv_freq, a->mscale);
}

static int swiglu_forward(whit_call *c, whit_err *e) {
	(void)e;
	(c->plain ? whit_swiglu_cpu : whit_swiglu_fast_cpu)(c->out[0], c->in[0], c->in[1],
	                                                    c->batch->T * c->in_width[0]);
	return 0;
}

static int swiglu_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[],
                           whit_err *e) {
	(void)e, (void)dw;
	(c->plain ? whit_swiglu_back_cpu : whit_swiglu_back_fast_cpu)(din[0], din[1], dout[0], c->in[0], c->in[1],
	                                                              c->batch->T * c->in_width[0]);
	return 0;
}

static void swiglu_cuda(whit_call *c) {
	whit_swiglu_cuda(c->dev, c->out[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
}

static void swiglu_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	(void)dw;
	whit_swiglu_back_cuda(c->dev, din[0], din[1], dout[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
}

static int add_forward(whit_call *c, whit_err *e) {
	(void)e;
	whit_add_cpu(c->out[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
	return 0;
}

static int add_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[], whit_err *e) {
	(void)e, (void)dw;
	for (int k = 0; k < 2; k++)
		if (din[k]) whit_add_cpu(din[k], din[k], dout[0], c->batch->T * c->in_width[0]);
	return 0;
}

static void add_cuda(whit_call *c) {
	whit_add_cuda(c->dev, c->out[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
}

static void add_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	(void)dw;
	for (int k = 0; k < 2; k++)
		if (din[k]) whit_add_cuda(c->dev, din[k], din[k], dout[0], c->batch->T * c->in_width[0]);
}

/* y = in 0 * sigmoid(in 1). */
static int gate_forward(whit_call *c, whit_err *e) {
	(void)e;
	(c->plain ? whit_gate_cpu : whit_gate_fast_cpu)(c->out[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
	return 0;
}

static int gate_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[], whit_err *e) {
	(void)e, (void)dw;
	(c->plain ? whit_gate_back_cpu : whit_gate_back_fast_cpu)(din[0], din[1], dout[0], c->in[0], c->in[1],
	                                                          c->batch->T * c->in_width[0]);
	return 0;
}

static void gate_cuda(whit_call *c) {
	whit_gate_cuda(c->dev, c->out[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
}

static void gate_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	(void)dw;
	whit_gate_back_cuda(c->dev, din[0], din[1], dout[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
}

/* heads, dim of either output. */
static int split_forward(whit_call *c, whit_err *e) {
	const whit_attr *a = &c->node->a;
	(void)e;
	whit_split_cpu(c->out[0], c->out[1], c->in[0], c->batch->T, a->heads, a->dim);
	return 0;
}

static int split_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[], whit_err *e) {
	const whit_attr *a = &c->node->a;
	(void)e, (void)dw;
	if (din[0]) whit_split_back_cpu(din[0], dout[0], dout[1], c->batch->T, a->heads, a->dim);
	return 0;
}

static void split_cuda(whit_call *c) {
	const whit_attr *a = &c->node->a;
	whit_split_cuda(c->dev, c->out[0], c->out[1], c->in[0], c->batch->T, a->heads, a->dim);
}

static void split_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	const whit_attr *a = &c->node->a;
	(void)dw;
	if (din[0]) whit_split_back_cuda(c->dev, din[0], dout[0], dout[1], c->batch->T, a->heads, a->dim);
}

/* w0: (channels, taps); taps. State: the last taps - 1 inputs. */
static int conv_forward(whit_call *c, whit_err *e) {
	const whit_batch *b = c->batch;
	int64_t taps = c->node->a.taps, n = c->in_width[0];
	(void)e;
	for (int s = 0; s < b->n_seq; s++) {
		int64_t at = b->start[s] * n, T = b->start[s + 1] - b->start[s];
		(c->plain ? whit_conv_cpu : whit_conv_fast_cpu)(c->out[0] + at, c->in[0] + at, c->vec[0],
		                                                c->state ? c->state[s] : NULL, T, n, taps);
	}
	return 0;
}

static int conv_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[], whit_err *e) {
	const whit_batch *b = c->batch;
	int64_t taps = c->node->a.taps, n = c->in_width[0];
	(void)e;
	for (int s = 0; s < b->n_seq; s++) {
		int64_t at = b->start[s] * n, T = b->start[s + 1] - b->start[s];
		float *dx = din[0] ? din[0] + at : NULL;
		if (c->plain)
			whit_conv_back_cpu(dx, dw[0], dout[0] + at, c->in[0] + at, c->vec[0], T, n, taps);
		else
			whit_conv_back_fast_cpu(dx, dw[0], dout[0] + at, c->in[0] + at, c->vec[0], T, n, taps,
			                        c->scratch);
		whit_arena_reset(c->scratch);
	}
	return 0;
}

/* The call's sequences on the device; their lengths are not known here. */
static whit_spans spans_of(const whit_call *c) {
	const whit_batch *b = c->batch;
	return (whit_spans){b->T, b->n_seq, b->start, b->past, b->pos, 0};
}

static void conv_cuda(whit_call *c) {
	const whit_spans at = spans_of(c);
	whit_conv_cuda(c->dev, c->out[0], c->in[0], c->vec[0], c->state, &at, c->in_width[0], c->node->a.taps);
}

static void conv_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	const whit_spans at = spans_of(c);
	whit_conv_back_cuda(c->dev, din[0], dw[0], dout[0], c->in[0], c->vec[0], &at, c->in_width[0], c->node->a.taps);
}

/* Channels are those of heads: of q and k, and kv_heads: of v, of dim. */
static size_t conv_state(const whit_node *n, int64_t cap) {
	(void)cap;
	return (size_t)((n->a.taps - 1) * (2 * n->a.heads + n->a.kv_heads) * n->a.dim) * sizeof(float);
}

/* in: qkv, beta, alpha; w0: rate, w1: dt_bias; heads: of q and k, kv_heads: of v; dim, tiled, rate_done. */
static whit_delta delta_of(const whit_call *c, int64_t t) {
	const whit_attr *a = &c->node->a;
	return (whit_delta){c->in[0] + t * c->in_width[0],
	                    c->in[1] + t * c->in_width[1],
	                    c->in[2] + t * c->in_width[2],
	                    c->vec[0],
	                    c->vec[1],
	                    a->heads,
	                    a->kv_heads,
	                    a->dim,
	                    a->tiled,
	                    a->rate_done};
}

static int delta_forward(whit_call *c, whit_err *e) {
	const whit_batch *b = c->batch;
	(void)e;
	for (int s = 0; s < b->n_seq; s++) {
		int64_t t = b->start[s], T = b->start[s + 1] - t;
		const whit_delta d = delta_of(c, t);
		float *y = c->out[0] + t * c->out_width[0], *state = c->state ? c->state[s] : NULL;
		if (c->plain)
			whit_delta_cpu(y, &d, state, T);
		else
			whit_delta_fast_cpu(y, &d, state, T, c->scratch);
		whit_arena_reset(c->scratch);
	}
	return 0;
}

static whit_delta_grad delta_grad_of(const whit_call *c, float *const din[], float *const dw[], int64_t t) {
	whit_delta_grad g = {.rate = dw[0], .dt_bias = dw[1]};
	if (din[0]) g.qkv = din[0] + t * c->in_width[0];
	if (din[1]) g.beta = din[1] + t * c->in_width[1];
	if (din[2]) g.alpha = din[2] + t * c->in_width[2];
	return g;
}

static int delta_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[], whit_err *e) {
	const whit_batch *b = c->batch;
	(void)e;
	for (int s = 0; s < b->n_seq; s++) {
		int64_t t = b->start[s], T = b->start[s + 1] - t;
		const whit_delta d = delta_of(c, t);
		const whit_delta_grad g = delta_grad_of(c, din, dw, t);
		const float *dy = dout[0] + t * c->out_width[0];
		if (c->plain)
			whit_delta_back_cpu(&g, dy, &d, T);
		else
			whit_delta_back_fast_cpu(&g, dy, &d, T, c->scratch);
		whit_arena_reset(c->scratch);
	}
	return 0;
}

static void delta_cuda(whit_call *c) {
	const whit_spans at = spans_of(c);
	const whit_delta d = delta_of(c, 0);
	whit_delta_cuda(c->dev, c->out[0], &d, c->state, &at);
}

static void delta_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	const whit_spans at = spans_of(c);
	const whit_delta d = delta_of(c, 0);
	const whit_delta_grad g = delta_grad_of(c, din, dw, 0);
	whit_delta_back_cuda(c->dev, &g, dout[0], &d, &at);
}

static size_t delta_state(const whit_node *n, int64_t cap) {
	(void)cap;
	return (size_t)(n->a.kv_heads * n->a.dim * n->a.dim) * sizeof(float);
}

/* in: q, k, v; heads, kv_heads, dim, scale, window. State: keys (cap, kv_heads*dim), then values. */
static int attention_forward(whit_call *c, whit_err *e) {
	const whit_attr *a = &c->node->a;
	const whit_batch *b = c->batch;
	int64_t w = a->kv_heads * a->dim;
	(void)e;
	for (int s = 0; s < b->n_seq; s++) {
		int64_t t0 = b->start[s], T = b->start[s + 1] - t0, past = b->past[s], at = t0 * a->heads * a->dim;
		const float *k = c->in[1] + t0 * w, *v = c->in[2] + t0 * w;
		if (c->state) {
			float *keys = c->state[s], *values = keys + c->cap * w;
			memcpy(keys + past * w, k, (size_t)(T * w) * sizeof *k);
			memcpy(values + past * w, v, (size_t)(T * w) * sizeof *v);
			k = keys;
			v = values;
		}
		if (c->plain)
			whit_attention_cpu(c->out[0] + at, c->in[0] + at, k, v, T, past, a->heads, a->kv_heads, a->dim,
			                   a->scale, a->window);
		else
			whit_attention_fast_cpu(c->out[0] + at, c->in[0] + at, k, v, T, past, a->heads, a->kv_heads,
			                        a->dim, a->scale, a->window, c->scratch);
		whit_arena_reset(c->scratch);
	}
	return 0;
}

static int attention_backward(whit_call *c, const float *const dout[], float *const din[], float *const dw[],
                              whit_err *e) {
	const whit_attr *a = &c->node->a;
	const whit_batch *b = c->batch;
	int64_t w = a->kv_heads * a->dim;
	(void)e, (void)dw;
	for (int s = 0; s < b->n_seq; s++) {
		int64_t t0 = b->start[s], T = b->start[s + 1] - t0, at = t0 * a->heads * a->dim;
		float *dq = din[0] ? din[0] + at : NULL, *dk = din[1] ? din[1] + t0 * w : NULL,
		      *dv = din[2] ? din[2] + t0 * w : NULL;
		const float *k = c->in[1] + t0 * w, *v = c->in[2] + t0 * w;
		if (c->plain)
			whit_attention_back_cpu(dq, dk, dv, dout[0] + at, c->out[0] + at, c->in[0] + at, k, v, T,
			                        a->heads, a->kv_heads, a->dim, a->scale, a->window);
		else
			whit_attention_back_fast_cpu(dq, dk, dv, dout[0] + at, c->out[0] + at, c->in[0] + at, k, v, T,
			                             a->heads, a->kv_heads, a->dim, a->scale, a->window, c->scratch);
		whit_arena_reset(c->scratch);
	}
	return 0;
}

static void attention_cuda(whit_call *c) {
	const whit_attr *a = &c->node->a;
	const whit_spans at = spans_of(c);
	if (c->state)
		whit_attention_put_cuda(c->dev, c->state, c->kv, c->cap, c->in[1], c->in[2], &at, a->kv_heads * a->dim);
	whit_attention_cuda(c->dev, c->out[0], c->in[0], c->in[1], c->in[2], c->state, c->kv, c->cap, &at, a->heads,
	                    a->kv_heads, a->dim, a->scale, a->window);
}

static void attention_backward_cuda(whit_call *c, const float *const dout[], float *const din[], float *const dw[]) {
	const whit_attr *a = &c->node->a;
	const whit_spans at = spans_of(c);
	(void)dw;
	whit_attention_back_cuda(c->dev, din[0], din[1], din[2], dout[0], c->out[0], c->in[0], c->in[1], c->in[2], &at,
	                         a->heads, a->kv_heads, a->dim, a->scale, a->window);
}

static size_t attention_state(const whit_node *n, int64_t cap) {
	return (size_t)(2 * cap * n->a.kv_heads * n->a.dim) * sizeof(float);
}

#define ROW(name, ...)                                                                                                 \
	static const whit_op name = {#name,                                                                            \
	                             .forward = name##_forward,                                                        \
	                             .backward = name##_backward,                                                      \
	                             .cuda = name##_cuda,                                                              \
	                             .backward_cuda = name##_backward_cuda,                                            \
	                             __VA_ARGS__}
ROW(embed);
ROW(linear);
ROW(rmsnorm);
ROW(rope);
ROW(swiglu);
ROW(gate);
ROW(split);
ROW(add);
ROW(attention, .state_bytes = attention_state);
ROW(conv, .state_bytes = conv_state);
ROW(delta, .state_bytes = delta_state);
const whit_op *const whit_ops[] = {&embed, &linear, &rmsnorm,   &rope, &swiglu, &gate,
                                   &split, &add,    &attention, &conv, &delta,  NULL};

const whit_op *whit_op_find(const char *name) {
	for (int i = 0; whit_ops[i]; i++)
		if (!strcmp(whit_ops[i]->name, name)) return whit_ops[i];
	return NULL;
}
