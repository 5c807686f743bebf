/* engine_ops: the table of ops, each row what an op of ops.h makes of a node. */
#include "host/engine.h"

/* w0: the matrix. */
static int embed_forward(whit_call *c, whit_err *e) {
	(void)e;
	(c->plain ? whit_embed_cpu : whit_embed_fast_cpu)(c->out[0], c->batch->tokens, c->batch->T, c->w[0]);
	return 0;
}

static void embed_cuda(whit_call *c) { whit_embed_cuda(c->dev, c->out[0], c->batch->tokens, c->batch->T, c->w[0]); }

/* w0: the matrix, w1: bias or none. */
static int linear_forward(whit_call *c, whit_err *e) {
	(void)e;
	if (c->plain)
		whit_linear_cpu(c->out[0], c->in[0], c->batch->T, c->w[0], c->vec[1]);
	else
		whit_linear_fast_cpu(c->out[0], c->in[0], c->batch->T, c->w[0], c->vec[1], c->scratch);
	return 0;
}

static void linear_cuda(whit_call *c) {
	whit_linear_cuda(c->dev, c->out[0], c->in[0], c->batch->T, c->w[0], c->vec[1]);
}

/* w0: weight of dim; heads: runs per row; eps, shift. */
static int rmsnorm_forward(whit_call *c, whit_err *e) {
	const whit_attr *a = &c->node->a;
	(void)e;
	(c->plain ? whit_rmsnorm_cpu : whit_rmsnorm_fast_cpu)(c->out[0], c->in[0], c->vec[0], c->batch->T, a->heads,
	                                                      a->dim, a->eps, a->shift);
	return 0;
}

static void rmsnorm_cuda(whit_call *c) {
	const whit_attr *a = &c->node->a;
	whit_rmsnorm_cuda(c->dev, c->out[0], c->in[0], c->vec[0], c->batch->T, a->heads, a->dim, a->eps, a->shift);
}

/* heads, dim, rot, inv_freq, mscale. */
static int rope_forward(whit_call *c, whit_err *e) {
	const whit_attr *a = &c->node->a;
	(void)e;
	(c->plain ? whit_rope_cpu : whit_rope_fast_cpu)(c->out[0], c->in[0], c->batch->pos, c->batch->T, a->heads,
	                                                a->dim, a->rot, a->inv_freq, a->mscale);
	return 0;
}

static void rope_cuda(whit_call *c) {
	const whit_attr *a = &c->node->a;
	whit_rope_cuda(c->dev, c->out[0], c->in[0], c->batch->pos, c->batch->T, a->heads, a->dim, a->rot, a->inv_freq,
	               a->mscale);
}

static int swiglu_forward(whit_call *c, whit_err *e) {
	(void)e;
	(c->plain ? whit_swiglu_cpu : whit_swiglu_fast_cpu)(c->out[0], c->in[0], c->in[1],
	                                                    c->batch->T * c->in_width[0]);
	return 0;
}

static void swiglu_cuda(whit_call *c) {
	whit_swiglu_cuda(c->dev, c->out[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
}

static int add_forward(whit_call *c, whit_err *e) {
	(void)e;
	whit_add_cpu(c->out[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
	return 0;
}

static void add_cuda(whit_call *c) {
	whit_add_cuda(c->dev, c->out[0], c->in[0], c->in[1], c->batch->T * c->in_width[0]);
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

static void attention_cuda(whit_call *c) {
	const whit_attr *a = &c->node->a;
	const whit_batch *b = c->batch;
	const whit_spans at = {b->T, b->n_seq, b->start, b->past, b->pos};
	if (c->state)
		whit_attention_put_cuda(c->dev, c->state, c->kv, c->cap, c->in[1], c->in[2], &at, a->kv_heads * a->dim);
	whit_attention_cuda(c->dev, c->out[0], c->in[0], c->in[1], c->in[2], c->state, c->kv, c->cap, &at, a->heads,
	                    a->kv_heads, a->dim, a->scale, a->window);
}

static size_t attention_state(const whit_node *n, int64_t cap) {
	return (size_t)(2 * cap * n->a.kv_heads * n->a.dim) * sizeof(float);
}

static const whit_op embed = {"embed", embed_forward, NULL, NULL, embed_cuda};
static const whit_op linear = {"linear", linear_forward, NULL, NULL, linear_cuda};
static const whit_op rmsnorm = {"rmsnorm", rmsnorm_forward, NULL, NULL, rmsnorm_cuda};
static const whit_op rope = {"rope", rope_forward, NULL, NULL, rope_cuda};
static const whit_op swiglu = {"swiglu", swiglu_forward, NULL, NULL, swiglu_cuda};
static const whit_op add = {"add", add_forward, NULL, NULL, add_cuda};
static const whit_op attention = {"attention", attention_forward, NULL, attention_state, attention_cuda};
const whit_op *const whit_ops[] = {&embed, &linear, &rmsnorm, &rope, &swiglu, &add, &attention, NULL};

const whit_op *whit_op_find(const char *name) {
	for (int i = 0; whit_ops[i]; i++)
		if (!strcmp(whit_ops[i]->name, name)) return whit_ops[i];
	return NULL;
}
