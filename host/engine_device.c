/* engine_device: runs programs on a device. Weights lie there as they are stored, or two layers of them at a time;
 * what the host does is to queue steps.
 *
 * A program becomes a list of steps in three ways: node by node with the plain kernels (the oracle); for many tokens,
 * with what precedes attention in one kernel; and for few, where a kernel costs more than its work, with linear nodes
 * of one input together, the norm or the activation before them and the addition after them included. */
#include <stdio.h>
#include "cuda/dev.h"
#include "formats/measure.h"
#include "formats/tensor.h"
#include "host/engine_own.h"
#include "host/progress.h"

enum { PLAIN, MANY, FEW, WAYS };
enum { NODE, GEMV, ATTEND };
enum { FEW_TOKENS = 8 };

typedef struct step {
	int kind, node;       /* node: NODE's, ATTEND's attention, GEMV's first linear */
	int n, y[3], add[3];  /* GEMV: linears node .. node + n - 1; where each result goes; -1 or what is added */
	int pre;              /* GEMV: the norm or swiglu before, or -1 */
	int rope[2], norm[2]; /* ATTEND: nodes of q and k; norm -1: none */
	whit_step_io io;
} step;

typedef struct way {
	step *step;
	int n;
	whit_buffers buf;
	int in_place; /* the output may lie where the input does */
} way;

typedef struct dev_slot {
	whit_mat mat; /* planes and codebook on the device */
	float *vec;
	size_t at[WHIT_PLANES]; /* of the program's memory */
	whit_mat other;         /* in its place, where other_memory is not NULL */
	uint8_t *other_memory;  /* other's planes and codebook */
} dev_slot;

typedef struct dev_program {
	const whit_program *p;
	whit_node *node; /* as p's, with numbers that kernels read on the device */
	dev_slot *slot;
	size_t bytes;    /* of its matrices, less those another program holds */
	uint8_t *memory; /* of them; NULL while they are not there */
	way way[WAYS];
} dev_program;

/* Host memory that has a copy on the device. */
typedef struct copied {
	const void *host;
	void *dev;
} copied;

typedef struct whit_device_model {
	whit_dev *d;
	dev_program embed, head, *layer;
	copied *shared; /* vectors, codebooks, frequencies */
	int n_shared;
	size_t shared_bytes;
	int streams, mark; /* marks mark .. mark + 3 are the model's */
	uint8_t *ring[2];  /* streamed layers */
	int64_t ring_layer[2];
	/* Grown as batches need them; epoch counts how often, for graphs name them. */
	void *values, *h, *last, *logits, *batch;
	size_t values_bytes, h_bytes, last_bytes, logits_bytes, batch_bytes;
	int64_t epoch;
	uint8_t *shadow; /* what batch holds */
	size_t shadow_bytes, shadow_room;
	int64_t *bad; /* device: first bad index of a layer or of each row of logits; then the ids */
	size_t bad_bytes;
} device_model;

static size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* ---- steps ---- */

static int is_op(const whit_node *n, const char *name) { return n->op && !strcmp(n->op->name, name); }

typedef struct builder {
	const whit_program *p;
	int *producer, *uses; /* of each value: node or -1; how often it is read */
	uint8_t *done;        /* nodes that are part of a step */
	step *step;
	int n;
} builder;

static step *push(builder *b, int kind, int node) {
	step *s = &b->step[b->n++];
	*s = (step){.kind = kind, .node = node, .pre = -1};
	for (int i = 0; i < 3; i++) s->y[i] = s->add[i] = -1;
	memset(&s->io, 0xff, sizeof s->io);
	return s;
}

/* The node that makes value v if it is of that op and only n nodes read v, else -1. */
static int made_by(const builder *b, int v, const char *op, int n) {
	int i = v < 0 ? -1 : b->producer[v];
	return i >= 0 && is_op(&b->p->node[i], op) && b->uses[v] == n ? i : -1;
}

static int same_rope(const whit_attr *a, const whit_attr *b) {
	return a->inv_freq == b->inv_freq && a->rot == b->rot && a->mscale == b->mscale && a->dim == b->dim;
}

/* An attention whose queries and keys come, by norms or not, out of ropes of one kind. */
static int attend(builder *b, int i) {
	const whit_node *node = b->p->node, *n = &node[i];
	step s = {.kind = ATTEND, .node = i};
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
	step *to = push(b, ATTEND, i);
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
		if (!is_op(n, "add") || (n->in[0] != v && n->in[1] != v)) continue;
		int o = n->in[n->in[0] == v];
		return o == 0 || b->producer[o] < first ? i : -1;
	}
	return -1;
}

static void gemv(builder *b, int i) {
	const whit_node *node = b->p->node;
	int x = node[i].in[0], in = 0;
	step *s = push(b, GEMV, i);
	while (s->n < 3 && i + s->n < b->p->n_node && whit_node_linear(&node[i + s->n]) && node[i + s->n].in[0] == x)
		s->n++;
	s->pre = made_by(b, x, "swiglu", s->n);
	if (s->pre < 0) s->pre = made_by(b, x, "rmsnorm", s->n);
	if (s->pre >= 0 && is_op(&node[s->pre], "rmsnorm") && node[s->pre].a.heads != 1) s->pre = -1;
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

/* What ATTEND and GEMV take in is marked done before its own turn: a norm stands before its linear, but an addition
 * after it. So fused steps are looked for first, and what is left are nodes. */
static void way_build(way *w, const whit_program *p, int kind) {
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
	step **of = whit_alloc((size_t)p->n_node * sizeof *of); /* the step that stands at a node */
	for (int i = 0; i < p->n_node; i++) {
		int n = b.n;
		if (b.done[i]) continue;
		if (kind != PLAIN && is_op(&p->node[i], "attention")) attend(&b, i);
		if (kind == FEW && whit_node_linear(&p->node[i])) gemv(&b, i);
		if (b.n > n) of[i] = &b.step[n], b.done[i] = 1;
	}
	step *all = whit_alloc((size_t)p->n_node * sizeof *all);
	w->n = 0;
	for (int i = 0; i < p->n_node; i++) {
		if (of[i]) {
			all[w->n++] = *of[i];
		} else if (!b.done[i]) {
			step *s = &all[w->n++];
			*s = (step){.kind = NODE, .node = i};
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

/* ---- weights ---- */

static const whit_mat *slot_mat(const whit_slot *s) { return s->dense.rows ? &s->dense : &s->weight->mat; }

static size_t mat_bytes(const whit_mat *m, size_t at[WHIT_PLANES], size_t from) {
	size_t end = from;
	for (int p = 0; p < WHIT_PLANES; p++) {
		if (!m->plane[p]) continue;
		if (at) at[p] = end;
		end += rounded((size_t)m->rows * m->row_bytes[p]);
	}
	return end - from;
}

/* The device's copy of n bytes at host, made once. */
static void *share(device_model *on, const void *host, size_t bytes) {
	if (!host) return NULL;
	for (int i = 0; i < on->n_shared; i++)
		if (on->shared[i].host == host) return on->shared[i].dev;
	void *p = whit_dev_alloc(on->d, bytes);
	if (p) whit_dev_put(on->d, p, host, bytes);
	on->shared = whit_realloc(on->shared, (size_t)on->n_shared * sizeof *on->shared,
	                          (size_t)(on->n_shared + 1) * sizeof *on->shared);
	on->shared[on->n_shared++] = (copied){host, p};
	on->shared_bytes += rounded(bytes);
	return p;
}

/* Whether the embedding's program holds that weight already: a tied head. */
static dev_slot *embed_slot(device_model *on, const dev_program *p, const whit_slot *s) {
	for (int i = 0; p == &on->head && i < on->embed.p->n_slot; i++)
		if (on->embed.p->slot[i].weight == s->weight) return &on->embed.slot[i];
	return NULL;
}

/* Everything but the matrices' bytes. */
static void program_make(device_model *on, dev_program *dp, const whit_program *p) {
	dp->p = p;
	dp->node = whit_alloc((size_t)p->n_node * sizeof *dp->node);
	dp->slot = whit_alloc((size_t)p->n_slot * sizeof *dp->slot);
	memcpy(dp->node, p->node, (size_t)p->n_node * sizeof *dp->node);
	for (int i = 0; i < WAYS; i++) way_build(&dp->way[i], p, i);
	for (int i = 0; i < p->n_node; i++) {
		whit_attr *a = &dp->node[i].a;
		a->inv_freq = share(on, a->inv_freq, (size_t)(a->rot / 2) * sizeof *a->inv_freq);
	}
	for (int i = 0; i < p->n_slot; i++) {
		const whit_slot *s = &p->slot[i];
		dev_slot *ds = &dp->slot[i];
		ds->vec = share(on, s->vec, (size_t)s->cols * sizeof *s->vec);
		if (!s->rows) continue;
		ds->mat = *slot_mat(s);
		ds->mat.codebook = share(on, ds->mat.codebook, sizeof(float) << ds->mat.spec.bits);
		if (!embed_slot(on, dp, s)) dp->bytes += mat_bytes(&ds->mat, ds->at, dp->bytes);
	}
}

static void program_free(device_model *on, dev_program *dp) {
	for (int i = 0; i < WAYS; i++) {
		whit_free(dp->way[i].step);
		whit_buffers_free(&dp->way[i].buf);
	}
	if (!on->streams || dp == &on->embed || dp == &on->head) whit_dev_free(on->d, dp->memory);
	for (int i = 0; i < dp->p->n_slot; i++) whit_dev_free(on->d, dp->slot[i].other_memory);
	whit_free(dp->node);
	whit_free(dp->slot);
}

/* Sends the matrices of dp to `memory` over the copy queue. */
static void program_load(device_model *on, dev_program *dp, uint8_t *memory) {
	dp->memory = memory;
	for (int i = 0; i < dp->p->n_slot; i++) {
		const whit_slot *s = &dp->p->slot[i];
		dev_slot *ds = &dp->slot[i], *other = embed_slot(on, dp, s);
		if (!s->rows) continue;
		const whit_mat *m = slot_mat(s);
		for (int p = 0; p < WHIT_PLANES; p++) {
			if (!m->plane[p]) continue;
			ds->mat.plane[p] = other ? other->mat.plane[p] : memory + ds->at[p];
			if (!other)
				whit_dev_upload(on->d, memory + ds->at[p], m->plane[p],
				                (size_t)m->rows * m->row_bytes[p]);
		}
		if (!s->dense.rows && !on->streams) whit_weight_drop(s->weight);
	}
}

int whit_device_replace(whit_model *m, int64_t i, int k, const whit_mat *mat, whit_err *e) {
	device_model *on = m->on;
	dev_slot *ds = &(i == 0 ? &on->embed : i <= m->layers ? &on->layer[i - 1] : &on->head)->slot[k];
	size_t at[WHIT_PLANES] = {0}, size, book;
	int rc = whit_dev_sync(on->d, e); /* queued work reads what is freed here */
	whit_dev_free(on->d, ds->other_memory);
	ds->other_memory = NULL;
	on->epoch++;
	if (rc || !mat) return rc;
	size = mat_bytes(mat, at, 0);
	book = mat->codebook ? sizeof(float) << mat->spec.bits : 0;
	ds->other = *mat;
	ds->other_memory = whit_dev_alloc(on->d, size + book);
	for (int p = 0; p < WHIT_PLANES && ds->other_memory; p++) {
		if (!mat->plane[p]) continue;
		ds->other.plane[p] = ds->other_memory + at[p];
		whit_dev_put(on->d, ds->other_memory + at[p], mat->plane[p], (size_t)mat->rows * mat->row_bytes[p]);
	}
	if (book && ds->other_memory) {
		ds->other.codebook = (const float *)(const void *)(ds->other_memory + size);
		whit_dev_put(on->d, ds->other_memory + size, mat->codebook, book);
	}
	return whit_dev_sync(on->d, e);
}

/* Layer l into the ring's place r, once the work that used the place is done. */
static void ring_load(device_model *on, int64_t l, int r) {
	if (on->ring_layer[r] == l) return;
	on->ring_layer[r] = l;
	whit_dev_wait(on->d, WHIT_QUEUE_COPY, on->mark + r);
	program_load(on, &on->layer[l], on->ring[r]);
	whit_dev_mark(on->d, WHIT_QUEUE_COPY, on->mark + 2 + r);
}

/* Before layer l runs: returns its place. */
static int layer_begin(device_model *on, int64_t l) {
	if (!on->streams) return 0;
	int r = on->ring_layer[1] == l;
	ring_load(on, l, r);
	whit_dev_wait(on->d, WHIT_QUEUE_WORK, on->mark + 2 + r);
	return r;
}

/* After it is queued: the next one is on its way while this one computes. */
static void layer_end(device_model *on, int64_t l, int64_t layers, int r) {
	if (!on->streams) return;
	whit_dev_mark(on->d, WHIT_QUEUE_WORK, on->mark + r);
	if (layers > 1) ring_load(on, (l + 1) % layers, 1 - r);
}

size_t whit_model_device_bytes(const whit_model *m) {
	const device_model *on = m->on;
	if (!on) return 0;
	size_t n = on->shared_bytes + on->embed.bytes + on->head.bytes;
	for (int64_t l = 0; l < m->layers && !on->streams; l++) n += on->layer[l].bytes;
	size_t most = 0;
	for (int64_t l = 0; l < m->layers && on->streams; l++) most = WHIT_MAX(most, on->layer[l].bytes);
	return n + 2 * most;
}

int whit_model_streams(const whit_model *m) { return m->on && m->on->streams; }

/* ---- memory ---- */

/* Floats of a token and columns at most of a node's input, of programs that may not be on a device yet: as many as
 * all values have. */
static void program_widths(const whit_program *p, int64_t *all, int64_t *most) {
	int64_t n = 0;
	for (int v = 0; v < p->n_val; v++) {
		n += p->width[v];
		*most = WHIT_MAX(*most, p->width[v]);
	}
	*all = WHIT_MAX(*all, n);
}

enum { NEED_FIXED = 128 << 20 }; /* cuBLAS's workspace, tiles of decoded weights */

size_t whit_model_need(const whit_model *m, int64_t T, int64_t rows, int n_seq, int64_t cap) {
	int64_t all = 0, most = 0;
	size_t state = 0;
	for (int64_t l = 0; l < m->layers; l++) {
		program_widths(&m->layer[l], &all, &most);
		for (int i = 0; i < m->layer[l].n_node; i++) {
			const whit_node *n = &m->layer[l].node[i];
			if (n->state >= 0 && cap) state += rounded(n->op->state_bytes(n, cap)) * (size_t)n_seq;
		}
	}
	/* activations; of the widest, three terms of 16 bits; hidden states; logits */
	return (size_t)T * (size_t)(4 * all + 6 * most + 8 * m->hidden) + (size_t)rows * (size_t)(4 * m->vocab) +
	       state + NEED_FIXED;
}

/* At least `bytes` at *p, its contents lost where it grows. */
static void room(device_model *on, void **p, size_t *have, size_t bytes) {
	if (*have >= bytes && *p) return;
	whit_dev_free(on->d, *p);
	*p = whit_dev_alloc(on->d, bytes);
	*have = *p ? bytes : 0;
	on->epoch++;
}

void whit_device_state_new(const whit_model *m, whit_state *s) {
	size_t size = 0, at = 0;
	s->on = whit_alloc((size_t)m->layers * sizeof *s->on);
	s->bytes = 0;
	for (int pass = 0; pass < 2; pass++) {
		for (int64_t l = 0; l < m->layers; l++) {
			const whit_program *p = &m->layer[l];
			if (!pass) s->on[l] = whit_alloc((size_t)(p->n_state + 1) * sizeof **s->on);
			for (int i = 0; i < p->n_node; i++) {
				const whit_node *n = &p->node[i];
				if (n->state < 0) continue;
				if (!pass && m->kv == WHIT_F16 && is_op(n, "attention")) s->each[l][n->state] /= 2;
				size_t each = s->each[l][n->state], arrays = rounded((size_t)s->n_seq * sizeof(void *));
				if (!pass) {
					size += arrays + rounded(each) * (size_t)s->n_seq;
					s->bytes += each * (size_t)s->n_seq;
					continue;
				}
				uint8_t *base = s->memory;
				s->on[l][n->state] = (void **)(void *)(base + at);
				at += arrays;
				for (int k = 0; k < s->n_seq; k++, at += rounded(each))
					s->block[l][n->state][k] = base + at;
				whit_dev_put(m->dev, s->on[l][n->state], s->block[l][n->state],
				             (size_t)s->n_seq * sizeof(void *));
			}
		}
		if (!pass && !(s->memory = whit_dev_alloc(m->dev, size))) return; /* the next step tells */
	}
	whit_device_state_clear(s);
}

void whit_device_state_free(whit_state *s) {
	if (s->graph) whit_graph_free(s->graph);
	whit_dev_free(s->dev, s->memory);
	for (int64_t l = 0; l < s->layers; l++) whit_free(s->on[l]);
	whit_free(s->on);
}

void whit_device_state_clear(whit_state *s) {
	for (int64_t l = 0; l < s->layers && s->memory; l++)
		for (int i = 0; s->block[l][i]; i++)
			for (int k = 0; k < s->n_seq; k++) whit_dev_zero(s->dev, s->block[l][i][k], s->each[l][i]);
}

/* ---- opening ---- */

void whit_device_model_close(whit_model *m) {
	device_model *on = m->on;
	if (!on) return;
	whit_err e; /* queued work reads what is freed here */
	whit_dev_sync(on->d, &e);
	for (int64_t l = 0; l < m->layers; l++) program_free(on, &on->layer[l]);
	program_free(on, &on->embed);
	program_free(on, &on->head);
	for (int i = 0; i < on->n_shared; i++) whit_dev_free(on->d, on->shared[i].dev);
	void *all[] = {on->ring[0], on->ring[1], on->values, on->h, on->last, on->logits, on->batch, on->bad};
	for (int i = 0; i < WHIT_COUNT(all); i++) whit_dev_free(on->d, all[i]);
	whit_free(on->shared);
	whit_free(on->layer);
	whit_free(on->shadow);
	whit_free(on);
	m->on = NULL;
	m->dev = NULL;
}

static void model_make(whit_model *m, whit_dev *d, int mark) {
	device_model *on = m->on = whit_alloc(sizeof *on);
	m->dev = on->d = d;
	on->mark = mark;
	on->ring_layer[0] = on->ring_layer[1] = -1;
	on->layer = whit_alloc((size_t)m->layers * sizeof *on->layer);
	program_make(on, &on->embed, &m->embed);
	program_make(on, &on->head, &m->head);
	for (int64_t l = 0; l < m->layers; l++) program_make(on, &on->layer[l], &m->layer[l]);
}

static void model_bytes(const whit_model *m, size_t *ends, size_t *layers, size_t *most) {
	const device_model *on = m->on;
	*ends = on->embed.bytes + on->head.bytes;
	*layers = *most = 0;
	for (int64_t l = 0; l < m->layers; l++) {
		*layers += rounded(on->layer[l].bytes);
		*most = WHIT_MAX(*most, on->layer[l].bytes);
	}
}

/* Other programs may hold what is missing, so all three sizes are told. */
static int too_little(const whit_model *m, size_t left, size_t need, size_t reserve, whit_err *e) {
	whit_dev_info info;
	whit_dev_describe(m->dev, &info);
	return whit_fail(
	        e, WHIT_ERESOURCE,
	        "%s: device memory: is %.3f GB free of %.3f GB, need %.3f GB with layers streamed, of it %.3f GB "
	        "for activations: a smaller --batch-tokens, --ctx or -n needs less, --device cpu none",
	        m->ckpt.path, (double)left / 1e9, (double)info.memory / 1e9, (double)need / 1e9, (double)reserve / 1e9);
}

/* Which models stream, so that all fit into `left` bytes: the largest first. */
static int choose(whit_model *const m[], int n, size_t left, size_t reserve, whit_err *e) {
	for (;;) {
		size_t need = reserve, ends, layers, most, largest = 0;
		int at = -1;
		for (int i = 0; i < n; i++) {
			model_bytes(m[i], &ends, &layers, &most);
			need += ends + (m[i]->on->streams ? 2 * most : layers);
			if (!m[i]->on->streams && layers > largest && layers > 2 * most) largest = layers, at = i;
		}
		if (need <= left) return 0;
		if (at < 0) return too_little(m[0], left, need, reserve, e);
		m[at]->on->streams = 1;
	}
}

static int model_load(whit_model *m, whit_err *e) {
	device_model *on = m->on;
	size_t ends, layers, most;
	int rc = 0;
	model_bytes(m, &ends, &layers, &most);
	program_load(on, &on->embed, whit_dev_alloc(on->d, on->embed.bytes));
	program_load(on, &on->head, whit_dev_alloc(on->d, on->head.bytes));
	if (on->streams) {
		for (int r = 0; r < 2; r++) on->ring[r] = whit_dev_alloc(on->d, most);
		whit_say("device: %s: %.3f GB of layers are streamed, %.3f GB at a time", m->ckpt.path,
		         (double)layers / 1e9, (double)(2 * most) / 1e9);
	}
	for (int64_t l = 0; l < m->layers && !on->streams && !rc; l++) {
		uint8_t *p = whit_dev_alloc(on->d, on->layer[l].bytes);
		if (p) program_load(on, &on->layer[l], p);
		rc = whit_interrupted(e);
	}
	return rc ? rc : whit_dev_sync(on->d, e);
}

int whit_models_device(whit_model *const m[], int n, whit_dev *dev, size_t reserve, whit_err *e) {
	if (!dev || !n) return 0;
	if (n > WHIT_DEV_MARKS / 4)
		return whit_fail(e, WHIT_EINTERNAL, "device: is %d models, need at most %d", n, WHIT_DEV_MARKS / 4);
	for (int i = 0; i < n; i++) model_make(m[i], dev, 4 * i);
	int rc = whit_dev_sync(dev, e);
	if (!rc) rc = choose(m, n, whit_dev_left(dev), reserve, e);
	for (int i = 0; i < n && !rc; i++) rc = model_load(m[i], e);
	return rc;
}

/* ---- running ---- */

/* The batch on the device, with the rows of each sequence's last token behind it: one copy, and none where it is the
 * same as the last. */
static void batch_put(device_model *on, const whit_batch *b, whit_batch *out, int64_t **last) {
	size_t n = (size_t)b->n_seq, T = (size_t)b->T, words = (n + 1) + n + T + n, size = words * 8 + T * 4;
	*out = (whit_batch){.T = b->T, .n_seq = b->n_seq};
	if (!b->start) return; /* the head's */
	if (on->shadow_room < 2 * size) {
		on->shadow = whit_realloc(on->shadow, on->shadow_room, 2 * size);
		on->shadow_room = 2 * size;
		on->shadow_bytes = 0;
	}
	int64_t *to = (int64_t *)(void *)(on->shadow + on->shadow_room / 2 / 8 * 8), *p = to;
	p = (int64_t *)memcpy(p, b->start, (n + 1) * 8) + n + 1;
	p = (int64_t *)memcpy(p, b->past, n * 8) + n;
	p = (int64_t *)memcpy(p, b->pos, T * 8) + T;
	for (size_t i = 0; i < n; i++) *p++ = b->start[i + 1] - 1;
	if (b->tokens)
		memcpy(p, b->tokens, T * 4);
	else
		memset(p, 0, T * 4);
	room(on, &on->batch, &on->batch_bytes, size);
	if (on->shadow_bytes != size || memcmp(on->shadow, to, size)) {
		memcpy(on->shadow, to, size);
		on->shadow_bytes = size;
		whit_dev_put(on->d, on->batch, on->shadow, size);
	}
	int64_t *d = on->batch;
	if (!d) return;
	out->start = d, d += n + 1;
	out->past = d, d += n;
	out->pos = d, d += T;
	if (last) *last = d;
	out->tokens = (const int32_t *)(const void *)(d + n);
}

/* A program about to run: where its values are. */
typedef struct running {
	whit_model *m;
	dev_program *p;
	const way *w;
	const whit_batch *b; /* on the device */
	void ***state;       /* device arrays by number, or NULL */
	int64_t cap;
	const float *in;
	float *out, *values;
	int64_t *offset; /* of each buffer, in floats */
} running;

static float *value(const running *r, int v) {
	if (v == r->p->p->n_val - 1) return r->out;
	return v == 0 ? (float *)(uintptr_t)r->in : r->values + r->offset[r->w->buf.of[v]];
}

static const whit_mat *matrix(const running *r, int w) {
	const dev_slot *s = &r->p->slot[w];
	return s->other_memory && !r->m->original ? &s->other : &s->mat;
}

static int observe(const running *r, int i, whit_err *e) {
	const whit_program *p = r->p->p;
	whit_model *m = r->m;
	if (!whit_program_observed(p, i)) return 0;
	int v = p->node[i].in[0];
	int64_t layer = p == &m->head ? m->layers : p - m->layer, n = r->b->T * p->width[v];
	float *x = whit_alloc((size_t)n * sizeof *x);
	whit_dev_get(m->dev, x, value(r, v), (size_t)n * sizeof *x);
	int rc = whit_dev_sync(m->dev, e);
	if (!rc) rc = m->observer->input(m->observer->ctx, layer, v, x, r->b->T, p->width[v], e);
	whit_free(x);
	return rc;
}

static int run_node(const running *r, int i, whit_err *e) {
	const whit_node *n = &r->p->node[i];
	whit_call c = {.node = n, .batch = r->b, .cap = r->cap, .dev = r->m->dev, .kv = r->m->kv};
	for (int k = 0; k < WHIT_NODE_IN; k++) {
		if (n->in[k] < 0) continue;
		c.in[k] = value(r, n->in[k]);
		c.in_width[k] = r->p->p->width[n->in[k]];
	}
	for (int k = 0; k < WHIT_NODE_OUT; k++) {
		if (n->out[k] < 0) continue;
		c.out[k] = value(r, n->out[k]);
		c.out_width[k] = r->p->p->width[n->out[k]];
	}
	for (int k = 0; k < WHIT_NODE_W; k++) {
		if (n->w[k] < 0) continue;
		c.w[k] = matrix(r, n->w[k]);
		c.vec[k] = r->p->slot[n->w[k]].vec;
	}
	if (r->state && n->state >= 0) c.state = r->state[n->state];
	int rc = r->m->observer ? observe(r, i, e) : 0;
	if (!rc) n->op->cuda(&c);
	return rc;
}

static void run_gemv(const running *r, const step *s) {
	const whit_node *node = r->p->node;
	whit_gemv g = {.x = value(r, s->io.in[0]), .pre = WHIT_PRE_NONE, .n = s->n};
	if (s->pre >= 0 && node[s->pre].in[1] >= 0) {
		g.pre = WHIT_PRE_SWIGLU;
		g.x2 = value(r, s->io.in[1]);
	} else if (s->pre >= 0) {
		g.pre = WHIT_PRE_NORM;
		g.norm = r->p->slot[node[s->pre].w[0]].vec;
		g.eps = node[s->pre].a.eps;
		g.shift = node[s->pre].a.shift;
	}
	for (int k = 0; k < s->n; k++) {
		const whit_node *n = &node[s->node + k];
		g.w[k] = matrix(r, n->w[0]);
		g.bias[k] = n->w[1] >= 0 ? r->p->slot[n->w[1]].vec : NULL;
		g.add[k] = s->add[k] >= 0 ? value(r, s->add[k]) : NULL;
		g.y[k] = value(r, s->y[k]);
	}
	whit_gemv_cuda(r->m->dev, &g, r->b->T);
}

static void run_attend(const running *r, const step *s) {
	const whit_node *node = r->p->node, *n = &node[s->node], *rope = &node[s->rope[0]];
	const whit_attr *a = &n->a;
	const whit_spans at = {r->b->T, r->b->n_seq, r->b->start, r->b->past, r->b->pos};
	void *const *cache = r->state && n->state >= 0 ? r->state[n->state] : NULL;
	whit_qkv p = {.q = value(r, s->io.in[0]),
	              .k = value(r, s->io.in[1]),
	              .v = value(r, s->io.in[2]),
	              .q_out = value(r, s->io.out[0]),
	              .k_out = value(r, s->io.out[1]),
	              .mscale = (float)rope->a.mscale,
	              .heads = a->heads,
	              .kv_heads = a->kv_heads,
	              .dim = a->dim,
	              .rot = rope->a.rot,
	              .inv_freq = rope->a.inv_freq};
	for (int k = 0; k < 2; k++) {
		const whit_node *norm = s->norm[k] < 0 ? NULL : &node[s->norm[k]];
		if (!norm) continue;
		*(k ? &p.k_norm : &p.q_norm) = r->p->slot[norm->w[0]].vec;
		p.eps = norm->a.eps;
		p.shift = norm->a.shift;
	}
	whit_qkv_cuda(r->m->dev, &p, cache, r->m->kv, r->cap, &at);
	whit_attention_cuda(r->m->dev, value(r, n->out[0]), p.q_out, p.k_out, p.v, cache, r->m->kv, r->cap, &at,
	                    a->heads, a->kv_heads, a->dim, a->scale, a->window);
}

static int run(whit_model *m, dev_program *p, const whit_batch *b, void ***state, int64_t cap, const float *in,
               float *out, whit_err *e) {
	device_model *on = m->on;
	const way *w = &p->way[m->plain ? PLAIN : m->observer || b->T > FEW_TOKENS ? MANY : FEW];
	running r = {m, p, w, b, state, cap, in, out, NULL, NULL};
	int64_t size = 0;
	int rc = 0, same = in == out && !w->in_place;
	whit_arena_reset(&m->values);
	r.offset = whit_take_bytes(&m->values, (size_t)(w->buf.n + 1) * sizeof *r.offset);
	for (int i = 0; i < w->buf.n; i++) {
		r.offset[i] = size;
		size += (b->T * w->buf.width[i] + 63) / 64 * 64;
	}
	int64_t aside = size, last = p->p->width[p->p->n_val - 1];
	if (same) size += b->T * last;
	room(on, &on->values, &on->values_bytes, (size_t)size * sizeof(float));
	r.values = on->values;
	if (same) r.out = r.values + aside;
	int was = whit_dev_plain(m->dev, m->plain);
	for (int i = 0; i < w->n && !rc; i++) {
		const step *s = &w->step[i];
		whit_dev_reset(m->dev);
		if (s->kind == NODE)
			rc = run_node(&r, s->node, e);
		else if (s->kind == GEMV)
			run_gemv(&r, s);
		else
			run_attend(&r, s);
		if (rc) rc = whit_fail_in(e, "%s", p->node[s->node].role);
	}
	whit_dev_plain(m->dev, was);
	if (same) whit_dev_copy(m->dev, out, r.out, (size_t)(b->T * last) * sizeof(float));
	return rc;
}

int whit_device_embed(whit_model *m, const whit_batch *b, float *h, whit_err *e) {
	whit_batch at;
	batch_put(m->on, b, &at, NULL);
	return run(m, &m->on->embed, &at, NULL, 0, NULL, h, e);
}

static int layer_queue(whit_model *m, int64_t l, const whit_batch *at, whit_state *s, float *h, whit_err *e) {
	int r = layer_begin(m->on, l);
	int rc = run(m, &m->on->layer[l], at, s ? s->on[l] : NULL, s ? s->cap : 0, h, h, e);
	layer_end(m->on, l, m->layers, r);
	return rc ? whit_fail_in(e, "layer %lld", (long long)l) : 0;
}

/* Index of the first NaN or Inf of x (rows, width) into *bad, -1 = none; waits. */
static int first_bad(whit_model *m, const float *x, int64_t rows, int64_t width, int64_t *bad, whit_err *e) {
	device_model *on = m->on;
	size_t bytes = (size_t)rows * sizeof *bad;
	int64_t *row = whit_alloc(bytes);
	room(on, (void **)&on->bad, &on->bad_bytes, bytes);
	whit_first_nonfinite_cuda(m->dev, on->bad, x, rows * width, width);
	whit_dev_get(m->dev, row, on->bad, bytes);
	int rc = whit_dev_sync(m->dev, e);
	*bad = -1;
	for (int64_t i = 0; i < rows && *bad < 0; i++)
		if (row[i] >= 0) *bad = i * width + row[i];
	whit_free(row);
	return rc;
}

int whit_device_layer(whit_model *m, int64_t l, const whit_batch *b, whit_state *s, float *h, whit_err *e) {
	whit_batch at;
	int64_t bad;
	batch_put(m->on, b, &at, NULL);
	int rc = layer_queue(m, l, &at, s, h, e);
	if (!rc) rc = first_bad(m, h, b->T, m->hidden, &bad, e);
	if (!rc && bad >= 0)
		rc = whit_fail(e, WHIT_ENONFINITE,
		               "%s: output of layer %lld: row %lld, column %lld is not finite, need a finite value",
		               m->ckpt.path, (long long)l, (long long)(bad / m->hidden), (long long)(bad % m->hidden));
	return rc;
}

static int logits_bad(const whit_model *m, int64_t row, int64_t token, whit_err *e) {
	return whit_fail(e, WHIT_ENONFINITE, "%s: logits: row %lld, token %lld is not finite, need a finite value",
	                 m->ckpt.path, (long long)row, (long long)token);
}

int whit_device_head(whit_model *m, const float *h, int64_t n, float *logits, whit_err *e) {
	whit_batch at = {.T = n};
	int64_t bad;
	int rc = run(m, &m->on->head, &at, NULL, 0, h, logits, e);
	if (!rc) rc = first_bad(m, logits, n, m->vocab, &bad, e);
	return rc || bad < 0 ? rc : logits_bad(m, bad / m->vocab, bad % m->vocab, e);
}

/* Queues a step: on->logits, and each row's likeliest token and first bad index. */
static int step_queue(whit_model *m, const whit_batch *at, const int64_t *last, whit_state *s, whit_err *e) {
	device_model *on = m->on;
	int rc = run(m, &on->embed, at, NULL, 0, NULL, on->h, e);
	for (int64_t l = 0; l < m->layers && !rc; l++) rc = layer_queue(m, l, at, s, on->h, e);
	const float *h = on->h;
	if (!rc && at->T != at->n_seq) {
		whit_rows_gather_cuda(m->dev, on->last, on->h, last, at->n_seq, m->hidden);
		h = on->last;
	}
	whit_batch rows = {.T = at->n_seq};
	if (!rc) rc = run(m, &on->head, &rows, NULL, 0, h, on->logits, e);
	whit_dev_reset(m->dev);
	if (!rc)
		whit_argmax_cuda(m->dev, (int32_t *)(void *)(on->bad + at->n_seq), on->bad, on->logits, at->n_seq,
		                 m->vocab);
	return rc;
}

/* The same out of the state's graph, which a second step like the one before records: the first has then allocated
 * and chosen all that a step needs. */
static int step_graph(whit_model *m, const whit_batch *at, const int64_t *last, whit_state *s, whit_err *e) {
	int can = s && at->T == at->n_seq && at->T <= FEW_TOKENS && at->n_seq == s->n_seq && !m->plain &&
	          !m->observer && !m->on->streams;
	int rc;
	if (s && (!can || s->graph_of != m->on->epoch)) {
		if (s->graph) whit_graph_free(s->graph);
		s->graph = NULL;
		s->steps = 0;
		s->graph_of = m->on->epoch;
	}
	if (can && s->steps++ == 1 && whit_graph_begin(m->dev)) {
		rc = step_queue(m, at, last, s, e);
		s->graph = whit_graph_end(m->dev);
		if (rc) return rc;
	}
	if (!can || !s->graph) {
		rc = step_queue(m, at, last, s, e);
		if (s && s->graph_of != m->on->epoch) s->steps = 0; /* something grew: not yet as it will be */
		return rc;
	}
	whit_graph_run(m->dev, s->graph);
	return 0;
}

/* Where a step went wrong: layer by layer again, with a look at each. The state's rows are written as before. */
static int step_explain(whit_model *m, const whit_batch *b, whit_state *s, whit_err *e) {
	int rc = whit_device_embed(m, b, m->on->h, e);
	for (int64_t l = 0; l < m->layers && !rc; l++) rc = whit_device_layer(m, l, b, s, m->on->h, e);
	return rc;
}

int whit_device_step(whit_model *m, const whit_batch *b, whit_state *s, float *logits, int32_t *id, whit_err *e) {
	device_model *on = m->on;
	size_t n = (size_t)b->n_seq, found = n * sizeof(int64_t) + n * sizeof(int32_t);
	whit_batch at;
	int64_t *last = NULL;
	int rc = whit_tokens_check(m, b, e);
	if (!rc) rc = whit_state_check(b, s, e);
	if (rc) return rc;
	room(on, &on->h, &on->h_bytes, (size_t)(b->T * m->hidden) * sizeof(float));
	room(on, &on->last, &on->last_bytes, n * (size_t)m->hidden * sizeof(float));
	room(on, &on->logits, &on->logits_bytes, n * (size_t)m->vocab * sizeof(float));
	room(on, (void **)&on->bad, &on->bad_bytes, found);
	batch_put(on, b, &at, &last);
	rc = whit_dev_failed(m->dev) ? whit_dev_sync(m->dev, e) : step_graph(m, &at, last, s, e);
	if (rc) return rc;
	int64_t *bad = whit_alloc(found);
	whit_dev_get(m->dev, bad, on->bad, found);
	if (logits) whit_dev_get(m->dev, logits, on->logits, n * (size_t)m->vocab * sizeof(float));
	rc = whit_dev_sync(m->dev, e);
	for (int i = 0; i < b->n_seq && !rc; i++) {
		if (bad[i] >= 0) {
			rc = step_explain(m, b, s, e);
			if (!rc) rc = logits_bad(m, i, bad[i], e);
		} else if (id) {
			memcpy(&id[i], (const int32_t *)(const void *)(bad + n) + i, sizeof *id);
		}
	}
	whit_free(bad);
	return rc;
}
