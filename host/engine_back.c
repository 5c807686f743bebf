/* engine_back: gradients of programs, on the CPU or a device. A layer is computed again from its stored input, now with
 * every value kept; then its nodes are gone through from the last to the first. So what a pass over a deep model holds
 * is one layer's values and the layers' inputs (operations.md 2). */
#include <math.h>
#include "cuda/dev.h"
#include "host/engine_own.h"

/* The gradient of a value lives from its last reader down to the node that makes it: nodes in reverse order are steps
 * of which the first to add to a gradient makes it. */
static void plan(const whit_program *p, whit_buffers *b) {
	whit_step_io *step = whit_alloc((size_t)p->n_node * sizeof *step);
	uint8_t *made = whit_alloc((size_t)p->n_val);
	memset(step, 0xff, (size_t)p->n_node * sizeof *step); /* -1 everywhere */
	for (int i = p->n_node - 1, s = 0; i >= 0; i--, s++) {
		const whit_node *n = &p->node[i];
		int in = 0, out = 0;
		for (int k = 0; k < WHIT_NODE_OUT; k++)
			if (n->out[k] >= 0) step[s].in[in++] = n->out[k];
		for (int k = 0; k < WHIT_NODE_IN; k++) {
			if (n->in[k] <= 0) continue;
			if (made[n->in[k]]++)
				step[s].in[in++] = n->in[k];
			else
				step[s].out[out++] = n->in[k];
		}
	}
	whit_buffers_plan(b, step, p->n_node, p->width, p->n_val);
	whit_free(step);
	whit_free(made);
}

/* A program run forwards and backwards: where its values and their gradients are, by number. */
typedef struct back {
	whit_model *m;
	const whit_program *p;
	whit_placed at;
	const whit_batch *host;
	float **value, **grad;
	float *const *dw;
	uint8_t *made; /* the gradient holds something */
	int64_t layer; /* -1 = the embedding, the number of layers = the head */
} back;

/* Floats of a buffer for T tokens. */
static int64_t room(int64_t T, int64_t width) { return (T * width + 63) / 64 * 64; }

/* Floats of all values between, one buffer each, and of gradients between, for T tokens. */
static int64_t back_floats(const whit_program *p, const whit_buffers *b, int64_t T) {
	int64_t n = 0;
	for (int v = 1; v < p->n_val - 1; v++) n += room(T, p->width[v]);
	for (int i = 0; i < b->n; i++) n += room(T, b->width[i]);
	return n;
}

/* Scratch of a delta node's gradient on a device (ops.h): a state every 64 tokens, sequences of that many or more. */
static int64_t delta_floats(const whit_program *p, int64_t T) {
	int64_t n = 0;
	for (int i = 0; i < p->n_node; i++) {
		const whit_attr *a = &p->node[i].a;
		if (whit_node_is(&p->node[i], "delta"))
			n += (T / 32 + 1) * a->kv_heads * a->dim * a->dim + 2 * T * a->kv_heads * a->dim;
	}
	return n;
}

size_t whit_model_back_need(const whit_model *m, int64_t T) {
	int64_t most = 0;
	for (int64_t l = 0; l < m->layers; l++) {
		whit_buffers b = {0};
		plan(&m->layer[l], &b);
		most = WHIT_MAX(most,
		                back_floats(&m->layer[l], &b, T) + 2 * T * m->hidden + delta_floats(&m->layer[l], T));
		whit_buffers_free(&b);
	}
	return (size_t)most * sizeof(float);
}

/* Lays out values and gradients. in, out: of values 0 and the last; din, dout of their gradients (din NULL: not
 * wanted). */
static int begin(back *b, const whit_batch *host, const float *in, float *out, float *din, const float *dout,
                 whit_err *e) {
	whit_model *m = b->m;
	const whit_program *p = b->p;
	whit_buffers g = {0};
	size_t list = (size_t)p->n_val * sizeof(float *);
	int64_t T = host->T;
	b->host = host;
	whit_arena_reset(&m->values);
	b->value = whit_take_bytes(&m->values, list);
	b->grad = whit_take_bytes(&m->values, list);
	b->made = whit_take_bytes(&m->values, (size_t)p->n_val);
	memset(b->made, 0, (size_t)p->n_val);
	plan(p, &g);
	size_t bytes = (size_t)back_floats(p, &g, T) * sizeof(float);
	if (m->back_bytes < bytes || !m->back) {
		whit_model_free(m, m->back);
		m->back = whit_model_alloc(m, bytes);
		m->back_bytes = m->back ? bytes : 0;
	}
	float *at = m->back, **buffer = whit_take_bytes(&m->values, list);
	for (int v = 1; v < p->n_val - 1 && at; v++) b->value[v] = at, at += room(T, p->width[v]);
	for (int i = 0; i < g.n && at; i++) buffer[i] = at, at += room(T, g.width[i]);
	for (int v = 1; v < p->n_val - 1; v++) b->grad[v] = buffer[g.of[v]];
	b->value[0] = (float *)(uintptr_t)in; /* nodes only read it */
	b->value[p->n_val - 1] = out;
	b->grad[0] = din;
	b->grad[p->n_val - 1] = (float *)(uintptr_t)dout;
	b->made[p->n_val - 1] = 1;
	whit_buffers_free(&g);
	return at || !m->dev ? 0 : whit_dev_sync(m->dev, e);
}

static whit_call call_of(const back *b, int i) {
	whit_model *m = b->m;
	whit_call c = {.batch = &b->at.batch, .scratch = &m->scratch, .plain = m->plain, .dev = m->dev, .kv = m->kv};
	whit_call_fill(&c, b->p, &b->at.node[i], b->value, b->at.bound);
	whit_arena_reset(&m->scratch);
	if (m->dev) whit_dev_reset(m->dev);
	return c;
}

static int forward(const back *b, whit_err *e) {
	for (int i = 0; i < b->p->n_node; i++) {
		whit_call c = call_of(b, i);
		int rc = 0;
		if (b->m->dev)
			c.node->op->cuda(&c);
		else
			rc = c.node->op->forward(&c, e);
		if (rc) return whit_fail_in(e, "%s", c.node->role);
	}
	return 0;
}

static int back_node(back *b, int i, whit_err *e) {
	const whit_node *n = &b->p->node[i];
	const whit_grad_observer *o = b->m->grad_observer;
	const float *dout[WHIT_NODE_OUT] = {0};
	float *din[WHIT_NODE_IN] = {0}, *dw[WHIT_NODE_W] = {0};
	int any = 0, rc = 0;
	for (int k = 0; k < WHIT_NODE_OUT; k++) {
		if (n->out[k] < 0 || !b->made[n->out[k]]) continue;
		dout[k] = b->grad[n->out[k]];
		any = 1;
	}
	if (!any) return 0;
	for (int k = 0; k < WHIT_NODE_IN; k++) {
		int v = n->in[k];
		if (v < 0 || !b->grad[v]) continue;
		din[k] = b->grad[v];
		if (!b->made[v]++) whit_model_zero(b->m, din[k], (size_t)(b->host->T * b->p->width[v]) * sizeof(float));
	}
	for (int k = 0; k < WHIT_NODE_W && b->dw; k++)
		if (n->w[k] >= 0) dw[k] = b->dw[n->w[k]];
	whit_call c = call_of(b, i);
	if (!(b->m->dev ? n->op->backward_cuda != NULL : n->op->backward != NULL))
		return whit_fail(e, WHIT_EINTERNAL, "%s: op %s has no gradient here", n->role, n->op->name);
	if (b->m->dev)
		n->op->backward_cuda(&c, dout, din, dw);
	else
		rc = n->op->backward(&c, dout, din, dw, e);
	if (!rc && o && whit_node_linear(n)) {
		if (b->m->dev) whit_dev_reset(b->m->dev);
		rc = o->linear(o->ctx, b->layer, n->w[0], b->host, c.in[0], dout[0], e);
	}
	return rc ? whit_fail_in(e, "%s", n->role) : 0;
}

/* dout has been filled in, or will be by the time this is called. */
static int backward(back *b, whit_err *e) {
	for (int i = b->p->n_node - 1; i >= 0; i--) {
		int rc = back_node(b, i, e);
		if (rc) return rc;
	}
	return 0;
}

/* Which program, where. */
static void place(back *b, const whit_batch *batch) {
	whit_model *m = b->m;
	b->p = whit_program_at(m, b->layer + 1);
	if (m->dev)
		whit_device_place(m, b->layer, batch, &b->at);
	else
		b->at = (whit_placed){.node = b->p->node, .bound = b->p->bound, .batch = *batch};
}

/* dh = the gradient by y of *loss, the sum of (y - want)^2; all on the CPU. */
static int squared_loss(const float *y, const float *want, int64_t n, float *dh, double *loss, whit_err *e) {
	*loss = 0;
	for (int64_t i = 0; i < n; i++) {
		dh[i] = 2 * (y[i] - want[i]);
		*loss += (double)(y[i] - want[i]) * (y[i] - want[i]);
	}
	return isfinite(*loss) ? 0 : whit_fail(e, WHIT_ENONFINITE, "loss is %g, need a finite one", *loss);
}

/* want NULL: dh is given; else it is that of squared_loss. */
static int layer_back(whit_model *m, int64_t l, const whit_batch *b, const float *h, const float *want, double *loss,
                      float *dh, float *const dw[], whit_err *e) {
	int64_t n = b->T * m->hidden;
	back k = {.m = m, .layer = l, .dw = dw};
	int rc = whit_state_check(b, NULL, e);
	if (rc || !n) return rc;
	float *work = whit_model_alloc(m, (size_t)(2 * n) * sizeof *work); /* the output, and the input's gradient */
	int was = m->dev ? whit_dev_plain(m->dev, m->plain) : 0;
	place(&k, b);
	rc = begin(&k, b, h, work, work + n, dh, e);
	if (!rc) rc = forward(&k, e);
	if (!rc && want) rc = squared_loss(work, want, n, dh, loss, e);
	if (!rc) rc = backward(&k, e);
	if (!rc) whit_model_copy(m, dh, work + n, (size_t)n * sizeof *dh);
	if (m->dev) {
		whit_device_place_end(m, l - 1, &k.at);
		whit_dev_plain(m->dev, was);
	}
	whit_model_free(m, work);
	return rc ? whit_fail_in(e, "layer %lld, backwards", (long long)l) : 0;
}

int whit_model_layer_back(whit_model *m, int64_t l, const whit_batch *b, const float *h, float *dh, float *const dw[],
                          whit_err *e) {
	return layer_back(m, l, b, h, NULL, NULL, dh, dw, e);
}

int whit_model_layer_fit(whit_model *m, int64_t l, const whit_batch *b, const float *h, const float *want, double *loss,
                         float *const dw[], whit_err *e) {
	*loss = 0;
	if (m->dev) return whit_fail(e, WHIT_EINTERNAL, "layers are fitted on the CPU");
	float *dh = whit_model_alloc(m, (size_t)(b->T * m->hidden) * sizeof *dh);
	int rc = layer_back(m, l, b, h, want, loss, dh, dw, e);
	whit_model_free(m, dh);
	return rc;
}

enum { TILE_FLOATS = 32 << 20 }; /* of logits, and of their gradient */

int64_t whit_model_head_tile(const whit_model *m) { return WHIT_MAX(1, TILE_FLOATS / m->vocab); }

/* KL from the teacher of rows [r, r + n) of the whole, whose logits become their gradient. */
static int head_kl(back *k, int64_t r, int64_t n, const whit_loss *l, float *logits, whit_err *e) {
	whit_model *m = k->m;
	float *z = whit_alloc((size_t)(n * m->vocab) * sizeof *z);
	int rc = whit_model_head(l->teacher, l->taught + r * m->hidden, n, z, e);
	if (!rc) (m->plain ? whit_kl_cpu : whit_kl_fast_cpu)(l->loss + r, logits, logits, z, n, m->vocab);
	whit_free(z);
	return rc;
}

/* Rows [r, r + n) of the whole. loss, target and draw lie where the model computes. */
static int head_tile(back *k, const float *h, int64_t r, int64_t n, const whit_loss *l, double *loss, int32_t *target,
                     const double *draw, float *logits, float *dh, whit_err *e) {
	whit_model *m = k->m;
	whit_batch b = {.T = n};
	k->at.batch = b;
	int rc = begin(k, &b, h, logits, dh, logits, e);
	if (!rc) rc = forward(k, e);
	if (rc) return rc;
	if (l->teacher) {
		if ((rc = head_kl(k, r, n, l, logits, e))) return rc;
	} else if (m->dev) {
		if (l->draw) whit_draw_cuda(m->dev, target, logits, draw, n, m->vocab);
		whit_xent_cuda(m->dev, loss, logits, logits, target, n, m->vocab);
	} else {
		if (l->draw) whit_draw_cpu(target, logits, draw, n, m->vocab);
		(m->plain ? whit_xent_cpu : whit_xent_fast_cpu)(loss, logits, logits, target, n, m->vocab);
	}
	if (dh) whit_model_zero(m, dh, (size_t)(n * m->hidden) * sizeof *dh), k->made[0] = 1;
	return backward(k, e);
}

int whit_model_head_back(whit_model *m, const float *h, int64_t n, const whit_loss *l, float *dh, float *const dw[],
                         whit_err *e) {
	back k = {.m = m, .layer = m->layers, .dw = dw};
	int64_t tile = WHIT_MIN(n, whit_model_head_tile(m)), bad = -1;
	whit_batch none = {.T = n};
	if (!n) return 0;
	if (m->dev && l->teacher) return whit_fail(e, WHIT_EINTERNAL, "a teacher's loss is taken on the CPU");
	float *logits = whit_model_alloc(m, (size_t)(tile * m->vocab) * sizeof *logits);
	double *loss = l->loss, *draw = (double *)(uintptr_t)l->draw;
	int32_t *target = l->target;
	int was = m->dev ? whit_dev_plain(m->dev, m->plain) : 0, rc = 0;
	place(&k, &none);
	if (m->dev) {
		loss = whit_dev_alloc(m->dev, (size_t)n * sizeof *loss);
		target = whit_dev_alloc(m->dev, (size_t)n * sizeof *target);
		draw = whit_dev_alloc(m->dev, (size_t)n * sizeof *draw);
		if (!loss || !target || !draw) rc = whit_dev_sync(m->dev, e);
		if (!rc) whit_dev_put(m->dev, target, l->target, (size_t)n * sizeof *target);
		if (!rc && l->draw) whit_dev_put(m->dev, draw, l->draw, (size_t)n * sizeof *draw);
	}
	for (int64_t r = 0; r < n && !rc; r += tile) {
		int64_t at = r * m->hidden;
		rc = head_tile(&k, h + at, r, WHIT_MIN(tile, n - r), l, loss + r, target ? target + r : NULL,
		               draw ? draw + r : NULL, logits, dh ? dh + at : NULL, e);
	}
	if (m->dev) {
		if (!rc) whit_dev_get(m->dev, l->loss, loss, (size_t)n * sizeof *loss);
		if (!rc) whit_dev_get(m->dev, l->target, target, (size_t)n * sizeof *target);
		if (!rc) rc = whit_dev_sync(m->dev, e);
		whit_dev_free(m->dev, loss);
		whit_dev_free(m->dev, target);
		whit_dev_free(m->dev, draw);
		whit_dev_plain(m->dev, was);
	}
	whit_model_free(m, logits);
	for (int64_t i = 0; i < n && !rc && bad < 0; i++)
		if (!(l->loss[i] >= (l->teacher ? -1e-6 : 0) && l->loss[i] < INFINITY))
			bad = i; /* KL 0 may round below */
	if (rc || bad < 0) return rc ? whit_fail_in(e, "head, backwards") : 0;
	return whit_fail(e, WHIT_ENONFINITE, "%s: loss of row %lld is %g, need a finite value", m->ckpt.path,
	                 (long long)bad, l->loss[bad]);
}

int whit_model_embed_back(whit_model *m, const whit_batch *b, const float *dh, float *const dw[], whit_err *e) {
	back k = {.m = m, .layer = -1, .dw = dw};
	int rc = whit_tokens_check(m, b, e);
	if (rc || !b->T) return rc;
	place(&k, b);
	rc = begin(&k, b, NULL, NULL, NULL, dh, e); /* nobody needs its output */
	return rc ? rc : backward(&k, e);
}
