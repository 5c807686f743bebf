/* engine_device: runs programs on a device. Weights lie there as they are stored, or two layers of them at a time;
 * what the host does is to queue steps (engine_steps.c). */
#include <stdio.h>
#include "cuda/dev.h"
#include "formats/measure.h"
#include "formats/tensor.h"
#include "formats/twin.h"
#include "host/engine_own.h"
#include "host/progress.h"

enum { FEW_TOKENS = WHIT_GEMV_MAX };

typedef struct dev_slot {
	whit_mat mat;           /* planes and codebook on the device */
	whit_mat other;         /* in its place, where other_memory is not NULL */
	uint8_t *other_memory;  /* its planes and codebook */
	float *vec, *other_vec; /* other_vec: owned, vec while it is there */
	size_t at[WHIT_PLANES]; /* of the program's memory */
	int twin;               /* blocks of the host, planes here (formats/twin.h) */
} dev_slot;

typedef struct dev_program {
	const whit_program *p;
	whit_node *node; /* as p's, with numbers that kernels read on the device */
	dev_slot *slot;
	whit_bound *bound, *opened; /* slots as nodes see them, now and as they were opened */
	size_t bytes;               /* of its matrices, less those another program holds */
	uint8_t *memory;            /* of them; NULL while they are not there */
	whit_way way[WHIT_WAYS];
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
	int one;         /* of the batch: every sequence has exactly one token */
	size_t shadow_bytes, shadow_room;
	int64_t *bad; /* device: first bad index of a layer or of each row of logits; then the ids */
	size_t bad_bytes;
} device_model;

static size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* ---- weights ---- */

static size_t mat_bytes(const whit_mat *m, size_t at[WHIT_PLANES], size_t from) {
	size_t end = from;
	for (int p = 0; p < WHIT_PLANES; p++) {
		if (!m->plane[p]) continue;
		if (at) at[p] = end;
		end += rounded(whit_plane_bytes(m, p));
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
	dp->bound = whit_alloc((size_t)p->n_slot * sizeof *dp->bound);
	dp->opened = whit_alloc((size_t)p->n_slot * sizeof *dp->opened);
	memcpy(dp->node, p->node, (size_t)p->n_node * sizeof *dp->node);
	for (int i = 0; i < WHIT_WAYS; i++) whit_way_build(&dp->way[i], p, i);
	for (int i = 0; i < p->n_node; i++) {
		whit_attr *a = &dp->node[i].a;
		a->inv_freq = share(on, a->inv_freq, (size_t)(a->rot / 2) * sizeof *a->inv_freq);
	}
	for (int i = 0; i < p->n_slot; i++) {
		const whit_slot *s = &p->slot[i];
		dev_slot *ds = &dp->slot[i];
		ds->vec = share(on, s->vec, (size_t)s->cols * sizeof *s->vec);
		dp->bound[i] = dp->opened[i] = (whit_bound){s->rows ? &ds->mat : NULL, ds->vec};
		if (!s->rows) continue;
		ds->mat = *p->opened[i].mat;
		whit_mat_mirror(&ds->mat);
		ds->mat.codebook = share(on, ds->mat.codebook, whit_mat_book_bytes(&ds->mat));
		if (!embed_slot(on, dp, s)) dp->bytes += mat_bytes(&ds->mat, ds->at, dp->bytes);
	}
}

static void program_free(device_model *on, dev_program *dp) {
	for (int i = 0; i < WHIT_WAYS; i++) whit_way_free(&dp->way[i]);
	if (!on->streams || dp == &on->embed || dp == &on->head) whit_dev_free(on->d, dp->memory);
	for (int i = 0; i < dp->p->n_slot; i++) {
		whit_dev_free(on->d, dp->slot[i].other_memory);
		whit_dev_free(on->d, dp->slot[i].other_vec);
	}
	whit_free(dp->opened);
	whit_free(dp->node);
	whit_free(dp->slot);
	whit_free(dp->bound);
}

/* Blocks become planes of codes and scales, which have faster kernels, where the layers stay: to change them takes
 * longer than to send them. */
static void program_twin(device_model *on, dev_program *dp) {
	dp->bytes = 0;
	for (int i = 0; i < dp->p->n_slot; i++) {
		const whit_slot *s = &dp->p->slot[i];
		dev_slot *ds = &dp->slot[i], *other = embed_slot(on, dp, s);
		whit_mat t;
		if (!s->rows) continue;
		ds->twin = whit_twin_of(dp->p->opened[i].mat, &t);
		if (ds->twin) {
			ds->mat = t;
			whit_mat_mirror(&ds->mat);
			ds->mat.codebook = share(on, t.codebook, whit_mat_book_bytes(&t));
		}
		if (other) continue;
		for (int p = 0; p < WHIT_PLANES; p++) {
			if (!(ds->twin ? p < 2 : ds->mat.plane[p] != NULL)) continue;
			ds->at[p] = dp->bytes;
			dp->bytes += rounded(whit_plane_bytes(&ds->mat, p));
		}
	}
}

/* The matrix of slot ds, changed on its way, a piece at a time. */
static void twin_load(device_model *on, const dev_slot *ds, const whit_mat *m, uint8_t *memory) {
	enum { PIECE = 8 << 20 };
	const whit_mat *t = &ds->mat;
	int64_t rows = WHIT_MAX(1, PIECE / (int64_t)(t->row_bytes[0] + t->row_bytes[1]));
	uint8_t *codes = whit_alloc((size_t)rows * (t->row_bytes[0] + t->row_bytes[1])),
	        *scales = codes + (size_t)rows * t->row_bytes[0];
	for (int64_t r = 0; r < m->rows; r += rows) {
		int64_t n = WHIT_MIN(rows, m->rows - r);
		whit_twin_rows(t, m, r, r + n, codes, scales);
		whit_dev_upload(on->d, memory + ds->at[0] + (size_t)r * t->row_bytes[0], codes,
		                (size_t)n * t->row_bytes[0]);
		whit_dev_upload(on->d, memory + ds->at[1] + (size_t)r * t->row_bytes[1], scales,
		                (size_t)n * t->row_bytes[1]);
	}
	whit_free(codes);
}

/* Sends the matrices of dp to `memory` over the copy queue. */
static void program_load(device_model *on, dev_program *dp, uint8_t *memory) {
	dp->memory = memory;
	for (int i = 0; i < dp->p->n_slot; i++) {
		const whit_slot *s = &dp->p->slot[i];
		dev_slot *ds = &dp->slot[i], *other = embed_slot(on, dp, s);
		if (!s->rows) continue;
		const whit_mat *m = dp->p->opened[i].mat;
		for (int p = 0; p < 2 && ds->twin; p++)
			ds->mat.plane[p] = other ? other->mat.plane[p] : memory + ds->at[p];
		if (ds->twin && !other) twin_load(on, ds, m, memory);
		for (int p = 0; p < WHIT_PLANES && !ds->twin; p++) {
			if (!m->plane[p]) continue;
			ds->mat.plane[p] = other ? other->mat.plane[p] : memory + ds->at[p];
			if (!other) whit_dev_upload(on->d, memory + ds->at[p], m->plane[p], whit_plane_bytes(m, p));
		}
		if (!s->dense.rows && !on->streams) whit_weight_drop(s->weight);
	}
}

/* As whit_program_at counts them. */
static dev_program *program_on(const whit_model *m, int64_t i) {
	device_model *on = m->on;
	return i == 0 ? &on->embed : i <= m->layers ? &on->layer[i - 1] : &on->head;
}

int whit_device_replace(whit_model *m, int64_t i, int k, const whit_mat *mat, whit_err *e) {
	device_model *on = m->on;
	dev_program *dp = program_on(m, i);
	dev_slot *ds = &dp->slot[k];
	size_t at[WHIT_PLANES] = {0}, size, book;
	int rc = whit_dev_sync(on->d, e); /* queued work reads what is freed here */
	whit_dev_free(on->d, ds->other_memory);
	ds->other_memory = NULL;
	dp->bound[k] = dp->opened[k];
	on->epoch++;
	if (rc || !mat) return rc;
	size = mat_bytes(mat, at, 0);
	book = whit_mat_book_bytes(mat);
	ds->other = *mat;
	ds->other_memory = whit_dev_alloc(on->d, size + book);
	for (int p = 0; p < WHIT_PLANES && ds->other_memory; p++) {
		if (!mat->plane[p]) continue;
		ds->other.plane[p] = ds->other_memory + at[p];
		whit_dev_put(on->d, ds->other_memory + at[p], mat->plane[p], whit_plane_bytes(mat, p));
	}
	if (book && ds->other_memory) {
		whit_mat_mirror(&ds->other);
		ds->other.codebook = (const float *)(const void *)(ds->other_memory + size);
		whit_dev_put(on->d, ds->other_memory + size, mat->codebook, book);
	}
	dp->bound[k].mat = &ds->other;
	return whit_dev_sync(on->d, e);
}

int whit_device_replace_vector(whit_model *m, int64_t i, int k, const float *vec, whit_err *e) {
	device_model *on = m->on;
	dev_program *dp = program_on(m, i);
	dev_slot *ds = &dp->slot[k];
	size_t bytes = (size_t)dp->p->slot[k].cols * sizeof *vec;
	int rc = whit_dev_sync(on->d, e); /* queued work reads what is freed here */
	whit_dev_free(on->d, ds->other_vec);
	ds->other_vec = NULL;
	dp->bound[k].vec = ds->vec = (float *)(uintptr_t)dp->opened[k].vec;
	on->epoch++;
	if (rc || !vec) return rc;
	ds->other_vec = whit_dev_alloc(on->d, bytes);
	if (ds->other_vec) {
		whit_dev_put(on->d, ds->other_vec, vec, bytes);
		dp->bound[k].vec = ds->vec = ds->other_vec;
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
static void layer_end(device_model *on, int64_t next, int r) {
	if (!on->streams) return;
	whit_dev_mark(on->d, WHIT_QUEUE_WORK, on->mark + r);
	ring_load(on, next, 1 - r);
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
		for (int i = 0; i < m->layer[l].n_node && cap; i++)
			state += rounded(whit_node_state(m, &m->layer[l].node[i], cap)) * (size_t)n_seq;
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
	program_twin(on, &on->embed);
	program_twin(on, &on->head);
	for (int64_t l = 0; l < m->layers && !on->streams; l++) program_twin(on, &on->layer[l]);
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
	on->one = b->T == b->n_seq;
	for (size_t i = 0; i < n && on->one; i++) on->one = b->start[i + 1] == (int64_t)i + 1;
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
	const whit_batch *b; /* on the device */
	void ***state;       /* device arrays by number, or NULL */
	int64_t cap;
	float **value;
	const whit_bound *bound;
} running;

static int run_node(const running *r, int i, whit_err *e) {
	const whit_node *n = &r->p->node[i];
	whit_call c = {.batch = r->b, .cap = r->cap, .plain = r->m->plain, .dev = r->m->dev, .kv = r->m->kv};
	whit_call_fill(&c, r->p->p, n, r->value, r->bound);
	if (r->state && n->state >= 0) c.state = r->state[n->state];
	int rc = whit_observe(r->m, r->p->p, i, c.in[0], r->b->T, e);
	if (!rc) n->op->cuda(&c);
	return rc;
}

static void run_gemv(const running *r, const whit_step *s) {
	const whit_node *node = r->p->node;
	whit_gemv g = {.x = r->value[s->io.in[0]], .pre = WHIT_PRE_NONE, .n = s->n};
	if (s->pre >= 0 && node[s->pre].in[1] >= 0) {
		g.pre = WHIT_PRE_SWIGLU;
		g.x2 = r->value[s->io.in[1]];
	} else if (s->pre >= 0) {
		g.pre = WHIT_PRE_NORM;
		g.norm = r->p->slot[node[s->pre].w[0]].vec;
		g.eps = node[s->pre].a.eps;
		g.shift = node[s->pre].a.shift;
	}
	for (int k = 0; k < s->n; k++) {
		const whit_node *n = &node[s->node + k];
		g.w[k] = r->bound[n->w[0]].mat;
		g.bias[k] = n->w[1] >= 0 ? r->p->slot[n->w[1]].vec : NULL;
		g.add[k] = s->add[k] >= 0 ? r->value[s->add[k]] : NULL;
		g.y[k] = r->value[s->y[k]];
	}
	whit_gemv_cuda(r->m->dev, &g, r->b->T);
}

static void run_attend(const running *r, const whit_step *s) {
	const whit_node *node = r->p->node, *n = &node[s->node], *rope = &node[s->rope[0]];
	const whit_attr *a = &n->a;
	const whit_spans at = {r->b->T, r->b->n_seq, r->b->start, r->b->past, r->b->pos, r->m->on->one};
	void *const *cache = r->state && n->state >= 0 ? r->state[n->state] : NULL;
	whit_qkv p = {.q = r->value[s->io.in[0]],
	              .k = r->value[s->io.in[1]],
	              .v = r->value[s->io.in[2]],
	              .q_out = r->value[s->io.out[0]],
	              .k_out = r->value[s->io.out[1]],
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
	whit_attend_cuda(r->m->dev, &p, cache, r->m->kv, r->cap, &at, r->value[n->out[0]], a->scale, a->window);
}

static int run(whit_model *m, dev_program *p, const whit_batch *b, void ***state, int64_t cap, const float *in,
               float *out, whit_err *e) {
	device_model *on = m->on;
	const whit_way *w = &p->way[m->plain                           ? WHIT_WAY_PLAIN
	                            : m->observer || b->T > FEW_TOKENS ? WHIT_WAY_MANY
	                                                               : WHIT_WAY_FEW];
	int n_val = p->p->n_val, rc = 0, aside = in == out && !w->in_place;
	int64_t size = 0, last = p->p->width[n_val - 1];
	whit_arena_reset(&m->values);
	running r = {m,
	             p,
	             b,
	             state,
	             cap,
	             whit_take_bytes(&m->values, (size_t)n_val * sizeof *r.value),
	             m->original ? p->opened : p->bound};
	int64_t *offset = whit_take_bytes(&m->values, (size_t)(w->buf.n + 1) * sizeof *offset);
	for (int i = 0; i <= w->buf.n; i++) {
		offset[i] = size; /* the last: the output, where it may not be where it shall */
		if (i < w->buf.n) size += (b->T * w->buf.width[i] + 63) / 64 * 64;
	}
	if (aside) size += b->T * last;
	room(on, &on->values, &on->values_bytes, (size_t)size * sizeof(float));
	float *values = on->values;
	for (int v = 1; v < n_val - 1; v++) r.value[v] = values + offset[w->buf.of[v]];
	r.value[0] = (float *)(uintptr_t)in; /* steps only read it */
	r.value[n_val - 1] = aside ? values + offset[w->buf.n] : out;
	int was = whit_dev_plain(m->dev, m->plain);
	for (int i = 0; i < w->n && !rc; i++) {
		const whit_step *s = &w->step[i];
		whit_dev_reset(m->dev);
		if (s->kind == WHIT_STEP_NODE)
			rc = run_node(&r, s->node, e);
		else if (s->kind == WHIT_STEP_GEMV)
			run_gemv(&r, s);
		else
			run_attend(&r, s);
		if (rc) rc = whit_fail_in(e, "%s", p->node[s->node].role);
	}
	whit_dev_plain(m->dev, was);
	if (aside) whit_dev_copy(m->dev, out, r.value[n_val - 1], (size_t)(b->T * last) * sizeof(float));
	return rc;
}

void whit_device_place(whit_model *m, int64_t l, const whit_batch *b, whit_placed *out) {
	device_model *on = m->on;
	const dev_program *p = program_on(m, l + 1);
	*out = (whit_placed){.node = p->node, .bound = p->bound};
	batch_put(on, b, &out->batch, NULL);
	if (p != &on->embed && p != &on->head) out->ring = layer_begin(on, l);
}

void whit_device_place_end(whit_model *m, int64_t next, const whit_placed *at) {
	if (next >= 0 && m->layers > 1) layer_end(m->on, next, at->ring);
}

int whit_device_embed(whit_model *m, const whit_batch *b, float *h, whit_err *e) {
	whit_batch at;
	batch_put(m->on, b, &at, NULL);
	return run(m, &m->on->embed, &at, NULL, 0, NULL, h, e);
}

static int layer_queue(whit_model *m, int64_t l, const whit_batch *at, whit_state *s, float *h, whit_err *e) {
	int r = layer_begin(m->on, l);
	int rc = run(m, &m->on->layer[l], at, s ? s->on[l] : NULL, s ? s->cap : 0, h, h, e);
	if (m->layers > 1) layer_end(m->on, (l + 1) % m->layers, r);
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
	int can = s && m->on->one && at->T <= FEW_TOKENS && at->n_seq == s->n_seq && !m->plain && !m->observer &&
	          !m->on->streams;
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
