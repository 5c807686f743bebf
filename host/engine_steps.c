/* engine_steps: a program as the list of steps that a device queues, in one of three ways: node by node with the plain
 * kernels (the oracle); for many tokens, with what precedes attention in one kernel; and for few, where a kernel costs
 * more than its work, with linear nodes of one input together, the norm or the activation before them and the addition
 * after them included. */
#include "host/engine_own.h"

typedef struct builder {
	const whit_program *p;
	int *producer, *uses; /* of each value: node or -1; how often it is read */
	uint8_t *done;        /* nodes that are part of a whit_step */
	whit_step *step;
	int n;
} builder;

static whit_step *push(builder *b, int kind, int node) {
	whit_step *s = &b->step[b->n++];
	*s = (whit_step){.kind = kind, .node = node, .pre = -1};
	for (int i = 0; i < WHIT_GEMV_WAYS; i++) s->y[i] = s->add[i] = -1;
	memset(&s->io, 0xff, sizeof s->io);
	return s;
}

/* The node that makes value v if it is of that op and only n nodes read v, else -1. */
static int made_by(const builder *b, int v, const char *op, int n) {
	int i = v < 0 ? -1 : b->producer[v];
	return i >= 0 && whit_node_is(&b->p->node[i], op) && b->uses[v] == n ? i : -1;
}

static int same_rope(const whit_attr *a, const whit_attr *b) {
	return a->inv_freq == b->inv_freq && a->rot == b->rot && a->mscale == b->mscale && a->dim == b->dim;
}

/* An attention whose queries and keys come, by norms or not, out of ropes of one kind. */
static int attend(builder *b, int i) {
	const whit_node *node = b->p->node, *n = &node[i];
	whit_step s = {.kind = WHIT_STEP_ATTEND, .node = i};
	for (int k = 0; k < 2; k++) {
		s.rope[k] = made_by(b, n->in[k], "rope", 1);
		if (s.rope[k] < 0 || node[s.rope[k]].a.dim != n->a.dim) return 0;
		s.norm[k] = made_by(b, node[s.rope[k]].in[0], "rmsnorm", 1);
		if (s.norm[k] >= 0 && node[s.norm[k]].a.dim != n->a.dim) s.norm[k] = -1;
	}
	if (!same_rope(&node[s.rope[0]].a, &node[s.rope[1]].a)) return 0;
	if (s.norm[0] >= 0 && s.norm[1] >= 0 &&
	    (node[s.norm[0]].a.eps != node[s.norm[1]].a.eps || node[s.norm[0]].a.shift != node[s.norm[1]].a.shift))
		return 0;
	whit_step *to = push(b, WHIT_STEP_ATTEND, i);
	for (int k = 0; k < 2; k++) {
		to->rope[k] = s.rope[k], to->norm[k] = s.norm[k];
		b->done[s.rope[k]] = 1;
		if (s.norm[k] >= 0) b->done[s.norm[k]] = 1;
		to->io.in[k] = node[s.norm[k] >= 0 ? s.norm[k] : s.rope[k]].in[0];
		to->io.out[k] = n->in[k];
	}
	to->io.in[2] = n->in[2];
	to->io.out[2] = n->out[0];
	return 1;
}

/* The addition that alone reads value v and whose other summand is there before node `first`, or -1. */
static int added(const builder *b, int v, int first) {
	for (int i = first; i < b->p->n_node && b->uses[v] == 1; i++) {
		const whit_node *n = &b->p->node[i];
		if (!whit_node_is(n, "add") || (n->in[0] != v && n->in[1] != v)) continue;
		int o = n->in[n->in[0] == v];
		return o == 0 || b->producer[o] < first ? i : -1;
	}
	return -1;
}

static void gemv(builder *b, int i) {
	const whit_node *node = b->p->node;
	int x = node[i].in[0], in = 0;
	whit_step *s = push(b, WHIT_STEP_GEMV, i);
	while (s->n < WHIT_GEMV_WAYS && i + s->n < b->p->n_node && whit_node_linear(&node[i + s->n]) &&
	       node[i + s->n].in[0] == x)
		s->n++;
	s->pre = made_by(b, x, "swiglu", s->n);
	if (s->pre < 0) s->pre = made_by(b, x, "rmsnorm", s->n);
	if (s->pre >= 0 && whit_node_is(&node[s->pre], "rmsnorm") && node[s->pre].a.heads != 1) s->pre = -1;
	if (s->pre >= 0) {
		b->done[s->pre] = 1;
		s->io.in[in++] = node[s->pre].in[0];
		if (node[s->pre].in[1] >= 0) s->io.in[in++] = node[s->pre].in[1];
	} else {
		s->io.in[in++] = x;
	}
	for (int k = 0; k < s->n; k++) {
		int y = node[i + k].out[0], add = added(b, y, i);
		b->done[i + k] = 1;
		if (add >= 0) {
			b->done[add] = 1;
			s->add[k] = s->io.in[in++] = node[add].in[node[add].in[0] == y];
			y = node[add].out[0];
		}
		s->y[k] = s->io.out[k] = y;
	}
}

/* What WHIT_STEP_ATTEND and WHIT_STEP_GEMV take in is marked done before its own turn: a norm stands before its linear,
 * but an addition after it. So fused steps are looked for first, and what is left are nodes. */
void whit_way_build(whit_way *w, const whit_program *p, int kind) {
	builder b = {.p = p};
	b.producer = whit_alloc((size_t)p->n_val * sizeof *b.producer);
	b.uses = whit_alloc((size_t)p->n_val * sizeof *b.uses);
	b.done = whit_alloc((size_t)p->n_node);
	b.step = whit_alloc((size_t)p->n_node * sizeof *b.step);
	for (int v = 0; v < p->n_val; v++) b.producer[v] = -1;
	for (int i = 0; i < p->n_node; i++) {
		for (int k = 0; k < WHIT_NODE_IN; k++)
			if (p->node[i].in[k] >= 0) b.uses[p->node[i].in[k]]++;
		for (int k = 0; k < WHIT_NODE_OUT; k++)
			if (p->node[i].out[k] >= 0) b.producer[p->node[i].out[k]] = i;
	}
	whit_step **of = whit_alloc((size_t)p->n_node * sizeof *of); /* the step that stands at a node */
	for (int i = 0; i < p->n_node; i++) {
		int n = b.n;
		if (b.done[i]) continue;
		if (kind != WHIT_WAY_PLAIN && whit_node_is(&p->node[i], "attention")) attend(&b, i);
		if (kind == WHIT_WAY_FEW && whit_node_linear(&p->node[i])) gemv(&b, i);
		if (b.n > n) of[i] = &b.step[n], b.done[i] = 1;
	}
	whit_step *all = whit_alloc((size_t)p->n_node * sizeof *all);
	w->n = 0;
	for (int i = 0; i < p->n_node; i++) {
		if (of[i]) {
			all[w->n++] = *of[i];
		} else if (!b.done[i]) {
			whit_step *s = &all[w->n++];
			*s = (whit_step){.kind = WHIT_STEP_NODE, .node = i};
			memset(&s->io, 0xff, sizeof s->io);
			memcpy(s->io.in, p->node[i].in, sizeof p->node[i].in);
			memcpy(s->io.out, p->node[i].out, sizeof p->node[i].out);
		}
	}
	w->step = all;
	whit_step_io *io = whit_alloc((size_t)w->n * sizeof *io);
	int writer = w->n, reader = -1;
	for (int i = 0; i < w->n; i++) {
		io[i] = all[i].io;
		for (int k = 0; k < WHIT_STEP_OUT; k++)
			if (io[i].out[k] == p->n_val - 1) writer = i;
		for (int k = 0; k < WHIT_STEP_IN; k++)
			if (io[i].in[k] == 0) reader = i;
	}
	w->in_place = reader < writer;
	whit_buffers_plan(&w->buf, io, w->n, p->width, p->n_val);
	whit_free(io);
	whit_free(of);
	whit_free(b.producer);
	whit_free(b.uses);
	whit_free(b.done);
	whit_free(b.step);
}

void whit_way_free(whit_way *w) {
	whit_free(w->step);
	whit_buffers_free(&w->buf);
}
