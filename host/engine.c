/* engine: builds, binds and runs programs. Knows ops only through their table, and no architecture. */
#include "host/engine_own.h"
#include "cuda/dev.h"
#include <stdio.h>

/* ---- programs ---- */

void whit_program_init(whit_program *p, int64_t in_width) {
	memset(p, 0, sizeof *p);
	whit_program_value(p, in_width);
}

/* Room for one more: arrays double at powers of two. */
static void *grow(void *p, int n, size_t each) {
	if (n & (n - 1)) return p;
	return whit_realloc(p, (size_t)n * each, (size_t)(n ? 2 * n : 1) * each);
}

int whit_program_value(whit_program *p, int64_t width) {
	p->width = grow(p->width, p->n_val, sizeof *p->width);
	p->width[p->n_val] = width;
	return p->n_val++;
}

int whit_program_slot(whit_program *p, const char *role, char *name, int64_t rows, int64_t cols) {
	p->slot = grow(p->slot, p->n_slot, sizeof *p->slot);
	p->slot[p->n_slot] = (whit_slot){.role = role, .name = name, .rows = rows, .cols = cols};
	return p->n_slot++;
}

whit_node *whit_program_node(whit_program *p, const char *op, const char *role) {
	p->node = grow(p->node, p->n_node, sizeof *p->node);
	whit_node *n = &p->node[p->n_node++];
	*n = (whit_node){.op = whit_op_find(op), .role = role, .state = -1};
	for (int i = 0; i < WHIT_NODE_IN; i++) n->in[i] = -1;
	for (int i = 0; i < WHIT_NODE_OUT; i++) n->out[i] = -1;
	for (int i = 0; i < WHIT_NODE_W; i++) n->w[i] = -1;
	if (n->op && n->op->state_bytes) n->state = p->n_state++;
	return n;
}

/* The last step that reads value v, -1 if none does. */
static int last_use(const whit_step_io *step, int n_step, int v) {
	for (int i = n_step - 1; i >= 0; i--)
		for (int k = 0; k < WHIT_STEP_IN; k++)
			if (step[i].in[k] == v) return i;
	return -1;
}

/* Gives every value in between a buffer: the narrowest free one that fits, else a widened or new one. */
void whit_buffers_plan(whit_buffers *p, const whit_step_io *step, int n_step, const int64_t *width, int n_val) {
	p->of = whit_alloc((size_t)n_val * sizeof *p->of);
	p->width = whit_alloc((size_t)n_val * sizeof *p->width);
	p->n = 0;
	int *busy_until = whit_alloc((size_t)n_val * sizeof *busy_until);
	for (int i = 0; i < n_step; i++) {
		for (int k = 0; k < WHIT_STEP_OUT; k++) {
			int v = step[i].out[k], best = -1;
			if (v < 0 || v == n_val - 1) continue;
			for (int b = 0; b < p->n; b++) {
				if (busy_until[b] >= i) continue;
				int fits = p->width[b] >= width[v];
				int best_fits = best >= 0 && p->width[best] >= width[v];
				if (best < 0 || (fits && !best_fits) ||
				    (fits == best_fits && (p->width[b] < p->width[best]) == fits))
					best = b;
			}
			if (best < 0) best = p->n++;
			p->width[best] = WHIT_MAX(p->width[best], width[v]);
			p->of[v] = best;
			busy_until[best] = WHIT_MAX(i, last_use(step, n_step, v));
		}
	}
	whit_free(busy_until);
}

void whit_buffers_free(whit_buffers *b) {
	whit_free(b->of);
	whit_free(b->width);
	memset(b, 0, sizeof *b);
}

static void plan_buffers(whit_program *p) {
	whit_step_io *step = whit_alloc((size_t)p->n_node * sizeof *step);
	whit_buffers b = {0};
	memset(step, 0xff, (size_t)p->n_node * sizeof *step); /* -1 everywhere */
	for (int i = 0; i < p->n_node; i++) {
		memcpy(step[i].in, p->node[i].in, sizeof p->node[i].in);
		memcpy(step[i].out, p->node[i].out, sizeof p->node[i].out);
	}
	whit_buffers_plan(&b, step, p->n_node, p->width, p->n_val);
	p->buffer = b.of;
	p->buffer_width = b.width;
	p->n_buffer = b.n;
	whit_free(step);
}

static void program_free(whit_program *p) {
	for (int i = 0; i < p->n_slot; i++) {
		whit_free(p->slot[i].name);
		whit_free(p->slot[i].vec);
		if (p->slot[i].dense.rows) whit_mat_free(&p->slot[i].dense);
	}
	whit_free(p->slot);
	whit_free(p->bound);
	whit_free(p->opened);
	whit_free(p->node);
	whit_free(p->width);
	whit_free(p->buffer);
	whit_free(p->buffer_width);
	memset(p, 0, sizeof *p);
}

whit_program *whit_program_at(const whit_model *m, int64_t i) {
	whit_model *own = (whit_model *)(uintptr_t)m;
	return i == 0 ? &own->embed : i <= m->layers ? &own->layer[i - 1] : &own->head;
}

/* ---- binding ---- */

static int is_plain(const whit_mat *w) {
	const char *f = w->spec.fmt->name;
	return !strcmp(f, "f32") || !strcmp(f, "f16") || !strcmp(f, "bf16");
}

static int bind_slot(const whit_model *m, whit_slot *s, unsigned flags, whit_err *e) {
	const whit_weight *w = s->weight = whit_ckpt_find(&m->ckpt, s->name);
	int64_t need[3] = {s->rows ? s->rows : s->taps ? s->cols / s->taps : s->cols, s->taps ? 1 : s->cols, s->taps};
	int ndim = s->rows ? 2 : s->taps ? 3 : 1;
	char is[96], want[96];
	if (!w) return whit_fail(e, WHIT_EINPUT, "%s: tensor %s is missing", m->ckpt.path, s->name);
	if (w->ndim != ndim || memcmp(w->shape, need, (size_t)ndim * sizeof *need)) {
		whit_shape_text(w->shape, w->ndim, is);
		whit_shape_text(need, ndim, want);
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is %s, need %s as config.json says", w->file, s->name,
		                 is, want);
	}
	if (!w->mat.spec.fmt)
		return whit_fail(e, WHIT_EINPUT, "%s: tensor %s: is %s, which whit lists and does not compute with",
		                 w->file, s->name, w->type);
	if (!s->rows) {
		s->vec = whit_alloc((size_t)s->cols * sizeof *s->vec);
		whit_mat_decode(&w->mat, 0, w->mat.rows, s->vec);
		int64_t bad = whit_first_nonfinite(s->vec, s->cols);
		if (bad >= 0)
			return whit_fail(e, WHIT_ENONFINITE, "%s: tensor %s: value %lld is %g, need a finite one",
			                 w->file, s->name, (long long)bad, s->vec[bad]);
	} else if ((flags & WHIT_OPEN_DECODE) && !is_plain(&w->mat)) {
		return whit_mat_floats(&s->dense, &w->mat, e);
	}
	return 0;
}

static whit_bound bound_of(const whit_slot *s) {
	return (whit_bound){s->vec ? NULL : s->dense.rows ? &s->dense : &s->weight->mat, s->vec};
}

static int glob(const char *pattern, const char *s) {
	for (; *pattern; pattern++, s++) {
		if (*pattern == '*') {
			for (;; s++) {
				if (glob(pattern + 1, s)) return 1;
				if (!*s) return 0;
			}
		}
		if (*pattern != *s) return 0;
	}
	return !*s;
}

static int bind(whit_model *m, unsigned flags, whit_err *e) {
	uint8_t *used = whit_alloc((size_t)m->ckpt.n + 1);
	int rc = 0;
	for (int64_t i = 0; i < m->layers + 2 && !rc; i++) {
		whit_program *p = whit_program_at(m, i);
		plan_buffers(p);
		p->bound = whit_alloc((size_t)p->n_slot * sizeof *p->bound);
		p->opened = whit_alloc((size_t)p->n_slot * sizeof *p->opened);
		for (int k = 0; k < p->n_slot && !rc; k++) {
			rc = bind_slot(m, &p->slot[k], flags, e);
			if (!rc) p->bound[k] = p->opened[k] = bound_of(&p->slot[k]);
			const whit_weight *w = p->slot[k].weight;
			if (!rc && !used[w - m->ckpt.w]++ && !(flags & WHIT_OPEN_LIST)) rc = whit_weight_scales(w, e);
		}
	}
	for (int64_t i = 0; i < m->ckpt.n && !rc; i++) {
		const whit_weight *w = &m->ckpt.w[i];
		int known = used[i] || (w->alias && whit_ckpt_find(&m->ckpt, w->alias) &&
		                        used[whit_ckpt_find(&m->ckpt, w->alias) - m->ckpt.w]);
		for (int k = 0; m->arch->ignored[k] && !known; k++) known = glob(m->arch->ignored[k], w->name);
		if (!known)
			rc = whit_fail(e, WHIT_EINPUT,
			               "%s: tensor %s is not used by architecture %s with this config.json", w->file,
			               w->name, m->arch->name);
	}
	whit_free(used);
	return rc;
}

static int find_arch(whit_model *m, whit_err *e) {
	char known[512] = "";
	json_t *type = json_object_get(m->ckpt.config, "model_type");
	if (!json_is_string(type))
		return whit_fail(e, WHIT_EINPUT, "%s: key model_type is missing or not text", m->ckpt.config_path);
	for (int i = 0; whit_archs[i]; i++) {
		if (!strcmp(whit_archs[i]->name, json_string_value(type))) m->arch = whit_archs[i];
		size_t n = strlen(known);
		snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", whit_archs[i]->name);
	}
	if (m->arch) return 0;
	return whit_fail(e, WHIT_EINPUT, "%s: model_type is \"%.100s\", need one of: %s", m->ckpt.config_path,
	                 json_string_value(type), known);
}

int whit_model_open(whit_model *m, const char *path, unsigned flags, whit_err *e) {
	memset(m, 0, sizeof *m);
	m->kv = WHIT_F32;
	int rc = whit_ckpt_open(&m->ckpt, path, e);
	if (rc) return rc;
	if (m->ckpt.unfit) rc = whit_fail(e, WHIT_EINPUT, "%s", m->ckpt.unfit);
	m->config = m->ckpt.config;
	if (!rc) rc = find_arch(m, e);
	if (!rc) rc = m->arch->build(m, e);
	if (!rc) rc = bind(m, flags, e);
	if (rc) whit_model_close(m);
	return rc;
}

void whit_model_close(whit_model *m) {
	whit_model_free(m, m->back);
	if (m->dev) whit_device_model_close(m);
	program_free(&m->embed);
	program_free(&m->head);
	for (int64_t l = 0; m->layer && l < m->layers; l++) program_free(&m->layer[l]);
	whit_free(m->layer);
	whit_arena_free(&m->arena);
	whit_arena_free(&m->out);
	whit_arena_free(&m->values);
	whit_arena_free(&m->scratch);
	whit_ckpt_close(&m->ckpt);
	memset(m, 0, sizeof *m);
}

int whit_model_role(const whit_model *m, const char *name, const char **role, int64_t *layer) {
	*role = NULL;
	*layer = -1;
	for (int64_t i = 0; i < m->layers + 2; i++) {
		const whit_program *p = whit_program_at(m, i);
		for (int k = 0; k < p->n_slot; k++) {
			if (strcmp(p->slot[k].name, name)) continue;
			int in_layer = i > 0 && i <= m->layers;
			*role = p->slot[k].role;
			*layer = in_layer ? i - 1 : -1;
			if (!p->slot[k].rows) return 0;
			for (int n = 0; n < p->n_node; n++)
				if (p->node[n].w[0] == k && (p->node[n].op == whit_op_find("linear") || !in_layer))
					return in_layer ? 1 : 2;
			return 0;
		}
	}
	return 0;
}

int whit_model_replace(whit_model *m, const char *name, const whit_mat *mat, whit_err *e) {
	const whit_weight *w = whit_ckpt_find(&m->ckpt, name);
	int found = 0, rc = 0;
	if (w && mat && (mat->rows != w->mat.rows || mat->cols != w->mat.cols))
		return whit_fail(e, WHIT_EINTERNAL, "tensor %s: what replaces it is %lld x %lld, need %lld x %lld",
		                 name, (long long)mat->rows, (long long)mat->cols, (long long)w->mat.rows,
		                 (long long)w->mat.cols);
	for (int64_t i = 0; i < m->layers + 2; i++) {
		whit_program *p = whit_program_at(m, i);
		for (int k = 0; k < p->n_slot; k++) {
			if (!w || p->slot[k].weight != w || !p->slot[k].rows) continue;
			p->bound[k].mat = mat ? mat : p->opened[k].mat;
			if (m->dev && !rc) rc = whit_device_replace(m, i, k, mat, e);
			found = 1;
		}
	}
	if (!found) return whit_fail(e, WHIT_EINTERNAL, "tensor %s: is no matrix of the model", name);
	if (rc) {
		whit_err again;
		whit_model_replace(m, name, NULL, &again);
	}
	return rc;
}

int whit_model_replace_vector(whit_model *m, const char *name, const float *vec, whit_err *e) {
	int found = 0, rc = 0;
	for (int64_t i = 0; i < m->layers + 2; i++) {
		whit_program *p = whit_program_at(m, i);
		for (int k = 0; k < p->n_slot; k++) {
			if (p->slot[k].rows || strcmp(p->slot[k].name, name)) continue;
			p->bound[k].vec = vec ? vec : p->opened[k].vec;
			if (m->dev && !rc) rc = whit_device_replace_vector(m, i, k, vec, e);
			found = 1;
		}
	}
	return found ? rc : whit_fail(e, WHIT_EINTERNAL, "tensor %s: is no vector of the model", name);
}

/* ---- memory and state ---- */

void *whit_model_alloc(const whit_model *m, size_t bytes) {
	return m->dev ? whit_dev_alloc(m->dev, bytes) : whit_alloc(bytes);
}

static void memory_free(whit_dev *d, void *p) {
	if (d)
		whit_dev_free(d, p);
	else
		whit_free(p);
}

void whit_model_free(const whit_model *m, void *p) { memory_free(m->dev, p); }

static void memory_zero(whit_dev *d, void *p, size_t n) {
	if (d)
		whit_dev_zero(d, p, n);
	else
		memset(p, 0, n);
}

void whit_model_zero(const whit_model *m, void *p, size_t n) { memory_zero(m->dev, p, n); }

void whit_model_copy(const whit_model *m, void *to, const void *from, size_t n) {
	if (m->dev)
		whit_dev_copy(m->dev, to, from, n);
	else
		memcpy(to, from, n);
}

size_t whit_node_state(const whit_model *m, const whit_node *n, int64_t cap) {
	size_t bytes = n->state < 0 ? 0 : n->op->state_bytes(n, cap);
	return m->dev && m->kv == WHIT_F16 && whit_node_is(n, "attention") ? bytes / 2 : bytes;
}

/* A device's blocks, and their addresses there; where memory is short, the next step tells. */
static void state_add(const whit_model *m, whit_state *s, int64_t l, const whit_node *n) {
	size_t bytes = s->each[l][n->state] = whit_node_state(m, n, s->cap), list = (size_t)s->n_seq * sizeof(void *);
	void **seq = s->block[l][n->state] = whit_alloc(list);
	for (int k = 0; k < s->n_seq; k++) seq[k] = whit_model_alloc(m, bytes);
	s->bytes += bytes * (size_t)s->n_seq;
	if (!m->dev) return;
	void *on = s->on[l][n->state] = whit_dev_alloc(m->dev, list);
	if (on) whit_dev_put(m->dev, on, seq, list);
}

whit_state *whit_state_new(const whit_model *m, int n_seq, int64_t cap) {
	whit_state *s = whit_alloc(sizeof *s);
	s->layers = m->layers;
	s->cap = cap;
	s->n_seq = n_seq;
	s->block = whit_alloc((size_t)m->layers * sizeof *s->block);
	s->each = whit_alloc((size_t)m->layers * sizeof *s->each);
	s->on = whit_alloc((size_t)m->layers * sizeof *s->on);
	s->dev = m->dev;
	for (int64_t l = 0; l < m->layers; l++) {
		const whit_program *p = &m->layer[l];
		s->block[l] = whit_alloc((size_t)(p->n_state + 1) * sizeof **s->block); /* NULL ends it */
		s->each[l] = whit_alloc((size_t)(p->n_state + 1) * sizeof **s->each);
		s->on[l] = whit_alloc((size_t)(p->n_state + 1) * sizeof **s->on);
		for (int i = 0; i < p->n_node; i++)
			if (p->node[i].state >= 0) state_add(m, s, l, &p->node[i]);
	}
	if (s->dev) whit_state_clear(s);
	return s;
}

void whit_state_free(whit_state *s) {
	if (!s) return;
	if (s->graph) whit_graph_free(s->graph);
	for (int64_t l = 0; l < s->layers; l++) {
		for (int i = 0; s->block[l][i]; i++) {
			for (int k = 0; k < s->n_seq; k++) memory_free(s->dev, s->block[l][i][k]);
			whit_free(s->block[l][i]);
			if (s->dev) whit_dev_free(s->dev, s->on[l][i]);
		}
		whit_free(s->block[l]);
		whit_free(s->each[l]);
		whit_free(s->on[l]);
	}
	whit_free(s->block);
	whit_free(s->each);
	whit_free(s->on);
	whit_free(s);
}

void whit_state_clear(whit_state *s) {
	for (int64_t l = 0; l < s->layers; l++)
		for (int i = 0; s->block[l][i]; i++)
			for (int k = 0; k < s->n_seq; k++)
				if (s->block[l][i][k]) memory_zero(s->dev, s->block[l][i][k], s->each[l][i]);
}

size_t whit_state_bytes(const whit_state *s) { return s->bytes; }

/* ---- running ---- */

int whit_node_is(const whit_node *n, const char *op) { return n->op && !strcmp(n->op->name, op); }
int whit_node_linear(const whit_node *n) { return whit_node_is(n, "linear"); }

int whit_program_observed(const whit_program *p, int i) {
	if (!whit_node_linear(&p->node[i])) return 0;
	for (int k = 0; k < i; k++)
		if (whit_node_linear(&p->node[k]) && p->node[k].in[0] == p->node[i].in[0]) return 0;
	return 1;
}

int whit_observe(const whit_model *m, const whit_program *p, int i, const float *x, int64_t T, whit_err *e) {
	if (!m->observer || !whit_program_observed(p, i)) return 0;
	int64_t layer = p == &m->head ? m->layers : p - m->layer;
	int v = p->node[i].in[0];
	return m->observer->input(m->observer->ctx, layer, v, x, T, p->width[v], e);
}

void whit_call_fill(whit_call *c, const whit_program *p, const whit_node *n, float *const value[],
                    const whit_bound *bound) {
	c->node = n;
	for (int k = 0; k < WHIT_NODE_IN; k++) {
		if (n->in[k] < 0) continue;
		c->in[k] = value[n->in[k]];
		c->in_width[k] = p->width[n->in[k]];
	}
	for (int k = 0; k < WHIT_NODE_OUT; k++) {
		if (n->out[k] < 0) continue;
		c->out[k] = value[n->out[k]];
		c->out_width[k] = p->width[n->out[k]];
	}
	for (int k = 0; k < WHIT_NODE_W; k++) {
		if (n->w[k] < 0) continue;
		c->w[k] = bound[n->w[k]].mat;
		c->vec[k] = bound[n->w[k]].vec;
	}
}

/* Runs p on value 0 = in, writing the last value to out (which may not be in). state: of p's nodes, or NULL. */
static int run(whit_model *m, const whit_program *p, const whit_batch *b, void ***state, int64_t cap, const float *in,
               float *out, whit_err *e) {
	whit_arena_reset(&m->values);
	float **value = whit_take_bytes(&m->values, (size_t)p->n_val * sizeof *value);
	float **buffer = whit_take_bytes(&m->values, (size_t)p->n_val * sizeof *buffer);
	for (int i = 0; i < p->n_buffer; i++) buffer[i] = whit_take(&m->values, b->T * p->buffer_width[i]);
	for (int i = 1; i < p->n_val - 1; i++) value[i] = buffer[p->buffer[i]];
	value[0] = (float *)(uintptr_t)in; /* nodes only read it */
	value[p->n_val - 1] = out;
	for (int i = 0; i < p->n_node; i++) {
		const whit_node *n = &p->node[i];
		whit_call c = {.batch = b, .cap = cap, .scratch = &m->scratch, .plain = m->plain};
		whit_call_fill(&c, p, n, value, m->original ? p->opened : p->bound);
		if (state && n->state >= 0) c.state = state[n->state];
		whit_arena_reset(&m->scratch);
		int rc = whit_observe(m, p, i, c.in[0], b->T, e);
		if (!rc) rc = n->op->forward(&c, e);
		if (rc) return whit_fail_in(e, "%s", n->role);
	}
	return 0;
}

int whit_tokens_check(const whit_model *m, const whit_batch *b, whit_err *e) {
	for (int64_t t = 0; t < b->T; t++)
		if (b->tokens[t] < 0 || b->tokens[t] >= m->vocab)
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: token %lld is %d, need an id below the %lld rows of the embedding",
			                 m->ckpt.path, (long long)t, b->tokens[t], (long long)m->vocab);
	return 0;
}

int whit_state_check(const whit_batch *b, const whit_state *s, whit_err *e) {
	for (int i = 0; i < b->n_seq; i++) {
		int64_t need = b->past[i] + b->start[i + 1] - b->start[i];
		if (s ? i >= s->n_seq || need > s->cap : b->past[i] != 0)
			return whit_fail(e, WHIT_EINTERNAL,
			                 "sequence %d reaches token %lld, state holds %d sequences of %lld", i,
			                 (long long)need, s ? s->n_seq : 0, s ? (long long)s->cap : 0);
	}
	return 0;
}

int whit_model_embed(whit_model *m, const whit_batch *b, float *h, whit_err *e) {
	int rc = whit_tokens_check(m, b, e);
	if (rc) return rc;
	return m->dev ? whit_device_embed(m, b, h, e) : run(m, &m->embed, b, NULL, 0, NULL, h, e);
}

int whit_model_layer(whit_model *m, int64_t l, const whit_batch *b, whit_state *s, float *h, whit_err *e) {
	int rc = whit_state_check(b, s, e);
	if (rc) return rc;
	if (m->dev) return whit_device_layer(m, l, b, s, h, e);
	whit_arena_reset(&m->out);
	float *out = whit_take(&m->out, b->T * m->hidden);
	rc = run(m, &m->layer[l], b, s ? s->block[l] : NULL, s ? s->cap : 0, h, out, e);
	if (rc) return whit_fail_in(e, "layer %lld", (long long)l);
	int64_t bad = whit_first_nonfinite(out, b->T * m->hidden);
	if (bad >= 0)
		return whit_fail(e, WHIT_ENONFINITE,
		                 "%s: output of layer %lld: row %lld, column %lld is %g, need a finite value",
		                 m->ckpt.path, (long long)l, (long long)(bad / m->hidden), (long long)(bad % m->hidden),
		                 out[bad]);
	memcpy(h, out, (size_t)(b->T * m->hidden) * sizeof *h);
	return 0;
}

int whit_model_head(whit_model *m, const float *h, int64_t n, float *logits, whit_err *e) {
	whit_batch b = {.T = n};
	if (m->dev) return whit_device_head(m, h, n, logits, e);
	int rc = run(m, &m->head, &b, NULL, 0, h, logits, e);
	int64_t bad = rc ? -1 : whit_first_nonfinite(logits, n * m->vocab);
	if (bad >= 0)
		return whit_fail(e, WHIT_ENONFINITE, "%s: logits: row %lld, token %lld is %g, need a finite value",
		                 m->ckpt.path, (long long)(bad / m->vocab), (long long)(bad % m->vocab), logits[bad]);
	return rc;
}

int whit_model_step(whit_model *m, const whit_batch *b, whit_state *s, float *logits, whit_err *e) {
	if (m->dev) return whit_device_step(m, b, s, logits, NULL, e);
	float *h = whit_alloc((size_t)(b->T * m->hidden) * sizeof *h),
	      *last = whit_alloc((size_t)(b->n_seq * m->hidden) * sizeof *h);
	int rc = whit_model_embed(m, b, h, e);
	for (int64_t l = 0; l < m->layers && !rc; l++) rc = whit_model_layer(m, l, b, s, h, e);
	for (int i = 0; i < b->n_seq && !rc; i++)
		memcpy(last + i * m->hidden, h + (b->start[i + 1] - 1) * m->hidden, (size_t)m->hidden * sizeof *h);
	if (!rc) rc = whit_model_head(m, last, b->n_seq, logits, e);
	whit_free(h);
	whit_free(last);
	return rc;
}

int whit_model_next(whit_model *m, const whit_batch *b, whit_state *s, int32_t *id, whit_err *e) {
	if (m->dev) return whit_device_step(m, b, s, NULL, id, e);
	float *logits = whit_alloc((size_t)(b->n_seq * m->vocab) * sizeof *logits);
	int rc = whit_model_step(m, b, s, logits, e);
	for (int i = 0; i < b->n_seq && !rc; i++) {
		const float *x = logits + i * m->vocab;
		id[i] = 0;
		for (int32_t k = 1; k < m->vocab; k++)
			if (x[k] > x[id[i]]) id[i] = k;
	}
	whit_free(logits);
	return rc;
}
