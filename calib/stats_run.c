/* stats_run: the passes that feed the sums. Upwards: a group of chunks goes through all layers together, its states
 * waiting between layers, so a layer's weights and sums are read once for the group. Back: the same with the input of
 * every layer kept. Sums are taken a chunk at a time, whatever the batch: so its size, the group's, and where an
 * interrupted run goes on do not show. */
#include <math.h>
#include <stdio.h>
#include "calib/stats_own.h"
#include "cuda/dev.h"
#include "host/overlap.h"
#include "host/progress.h"

/* ---- the texts ---- */

typedef struct chunks {
	whit_ids ids;   /* of all texts */
	int64_t *start; /* n: where each begins among ids */
	int *domain;    /* of each */
	int64_t n;
} chunks;

static int cut(chunks *c, whit_stats_text *t, const whit_model *m, const whit_tok *tok, int64_t ctx, int domain,
               int64_t *left, whit_err *e) {
	int64_t from = c->ids.n, have;
	int rc = whit_tok_text(tok, t->name, t->data, t->bytes, m->vocab, &c->ids, &t->invalid, e);
	if (rc) return rc;
	t->tokens = c->ids.n - from;
	have = t->tokens / ctx;
	if (have < 1)
		return whit_fail(e, WHIT_EINPUT, "%s: text is %lld tokens, need at least %lld (one chunk)", t->name,
		                 (long long)t->tokens, (long long)ctx);
	t->chunks = *left >= 0 ? WHIT_MIN(have, *left) : have;
	if (!t->chunks) whit_say("warning: %s: is not used, the texts before it give enough chunks", t->name);
	if (*left >= 0) *left -= t->chunks;
	c->start =
	        whit_realloc(c->start, (size_t)c->n * sizeof *c->start, (size_t)(c->n + t->chunks) * sizeof *c->start);
	c->domain = whit_realloc(c->domain, (size_t)c->n * sizeof *c->domain,
	                         (size_t)(c->n + t->chunks) * sizeof *c->domain);
	for (int64_t k = 0; k < t->chunks; k++, c->n++) {
		c->start[c->n] = from + k * ctx;
		c->domain[c->n] = domain;
	}
	return 0;
}

/* Domains in the order they are first named, their texts together. */
static int cut_all(whit_stats *s, chunks *c, const whit_tok *tok, whit_stats_text *text, int n_text, whit_err *e) {
	int rc = 0;
	s->domain = whit_alloc((size_t)n_text * sizeof *s->domain);
	for (int i = 0; i < n_text; i++) {
		int known = 0;
		for (int d = 0; d < s->n_domain; d++)
			known |= !strcmp(s->domain[d].name, whit_stats_domain_name(&text[i]));
		if (!known) s->domain[s->n_domain++].name = whit_stats_domain_name(&text[i]);
	}
	for (int d = 0; d < s->n_domain && !rc; d++) {
		int64_t left = s->o.chunks > 0 ? s->o.chunks : -1;
		int64_t first = c->n;
		for (int i = 0; i < n_text && !rc; i++)
			if (!strcmp(s->domain[d].name, whit_stats_domain_name(&text[i])))
				rc = cut(c, &text[i], s->m, tok, s->ctx, d, &left, e);
		s->domain[d].chunks = c->n - first;
		if (!rc && left > 0)
			whit_say("warning: domain %s: its text gives %lld chunks of %lld tokens, %lld were asked for",
			         s->domain[d].name, (long long)s->domain[d].chunks, (long long)s->ctx,
			         (long long)s->o.chunks);
	}
	return rc;
}

/* Of the ids that the chunks hold, and their domains. */
static whit_hash hash_of(const chunks *c, int64_t ctx) {
	int64_t each = ctx + 1;
	int32_t *all = whit_alloc((size_t)(c->n * each) * sizeof *all);
	for (int64_t k = 0; k < c->n; k++) {
		all[k * each] = c->domain[k];
		memcpy(all + k * each + 1, c->ids.id + c->start[k], (size_t)ctx * sizeof *all);
	}
	whit_hash h = whit_hash_bytes(all, (size_t)(c->n * each) * sizeof *all);
	whit_free(all);
	return h;
}

/* What was calibrated on, for who must keep apart from it (host/overlap.h). */
static int write_tokens(const chunks *c, const char *dir, int64_t ctx, whit_err *e) {
	char *path = whit_format_text("%s/tokens.safetensors", dir);
	whit_st_out *o;
	int64_t shape[2] = {c->n, ctx};
	int rc = whit_st_out_open(&o, path, 1024, e);
	whit_free(path);
	if (rc) return rc;
	rc = whit_st_out_begin(o, "tokens", WHIT_I32, 2, shape, e);
	for (int64_t k = 0; k < c->n && !rc; k++)
		rc = whit_st_out_write(o, c->ids.id + c->start[k], (size_t)ctx * sizeof *c->ids.id, e);
	if (!rc) return whit_st_out_commit(o, e);
	whit_st_out_abort(o);
	return rc;
}

/* ---- sizes ---- */

enum { STATE_FLOATS = 8 << 20, BATCH_MOST = 4096 }; /* a batch in the middle of a layer */
enum { HELD_BYTES = 256 << 20, BACK_BYTES = 1 << 30 };
enum { TILE_FLOATS = 16 << 20, TILE_MOST = 1024 }; /* logits, where the head is asked for */

/* States of each chunk that are held: on the way back all layers' inputs, the last output and a gradient. */
static int64_t copies_of(const whit_model *m, const whit_stats_opts *o, int back) {
	return back ? m->layers + 2 : o->other ? 2 : 1;
}

/* Chunks of a batch, and chunks that wait together between layers, of n. */
static void sizes(const whit_model *m, const whit_stats_opts *o, int64_t ctx, int64_t n, int back, int64_t *each,
                  int64_t *held) {
	int64_t state = ctx * m->hidden * (int64_t)sizeof(float) * copies_of(m, o, back);
	int64_t room = o->batch_tokens > 0 ? o->batch_tokens : WHIT_MIN(STATE_FLOATS / m->hidden, BATCH_MOST);
	int64_t wait = o->held_bytes > 0 ? o->held_bytes : back ? BACK_BYTES : HELD_BYTES;
	*each = WHIT_MIN(n, WHIT_MAX(1, room / ctx));
	*held = o->layer ? n : WHIT_MIN(n, WHIT_MAX(*each, wait / state / *each * *each));
}

static int64_t head_tile(const whit_model *m, int64_t tokens) {
	return WHIT_MAX(1, WHIT_MIN(WHIT_MIN(TILE_FLOATS / m->vocab, TILE_MOST), tokens));
}

static int64_t context_of(const whit_model *m, const whit_stats_opts *o) {
	return o->ctx ? o->ctx : m->context > 0 ? WHIT_MIN(m->context, 512) : 512;
}

/* Of the layer that has most: its sums, and the largest weight's gradient. */
static size_t sums_bytes(const whit_model *m, const whit_stats_opts *o, int64_t ctx) {
	size_t most = 0;
	for (int64_t l = 0; l < m->layers; l++) {
		size_t n = 0, largest = 0, terms = 0; /* terms: a device's scratch */
		for (int k = 0; k < m->layer[l].n_slot; k++) {
			const whit_slot *w = &m->layer[l].slot[k];
			size_t square = (size_t)w->cols * (size_t)w->cols * sizeof(float);
			size_t full = (size_t)w->rows * (size_t)w->cols * sizeof(float);
			if (!w->rows) continue;
			n += 2 * (size_t)(w->rows + w->cols) * sizeof(double);
			if (o->kinds & (WHIT_STAT_HESSIAN | WHIT_STAT_CROSS)) n += 2 * square;
			if (o->kinds & WHIT_STAT_FISHER_FULL) n += full;
			if (o->kinds & (WHIT_STAT_GUIDED | WHIT_STAT_WEIGHTED)) n += (size_t)o->groups * square;
			if ((o->kinds & WHIT_STAT_WEIGHTED) && (o->kinds & WHIT_STAT_CROSS))
				n += (size_t)o->groups * square;
			if (o->kinds & WHIT_STAT_WEIGHTED)
				n += (size_t)(o->groups * o->chunks * context_of(m, o)) * sizeof(double);
			largest = WHIT_MAX(largest, full);
			terms = WHIT_MAX(terms, 8 * (size_t)(whit_gram_piece(ctx, w->cols) * w->cols));
		}
		most = WHIT_MAX(most, n + largest + (o->kinds & WHIT_STAT_HESSIAN ? terms : 0));
	}
	return most;
}

size_t whit_stats_need(const whit_model *m, const whit_stats_opts *o) {
	size_t most = 0;
	int64_t ctx = WHIT_MAX(context_of(m, o), 1);
	for (int back = 0; back < (o->kinds & WHIT_STAT_BACK ? 2 : 1); back++) {
		int64_t each, held;
		sizes(m, o, ctx, o->chunks ? o->chunks : INT32_MAX, back, &each, &held);
		size_t n = whit_model_need(m, each * ctx, o->head ? head_tile(m, each * ctx) : 0, 0, 0) +
		           sums_bytes(m, o, ctx) +
		           (size_t)(held * ctx * m->hidden * copies_of(m, o, back)) * sizeof(float);
		if (back)
			n += whit_model_back_need(m, each * ctx) +
			     (size_t)(WHIT_MIN(ctx, whit_model_head_tile(m)) * m->vocab) * sizeof(float);
		most = WHIT_MAX(most, n);
	}
	return most;
}

/* ---- a layer's sums while it runs ---- */

typedef struct pass {
	whit_stats *s;
	whit_model *m;
	const chunks *c;
	int32_t bos;        /* -1, or what replaces each chunk's first token */
	int64_t each, held; /* chunks of a batch; of a group that goes through all layers together */
	float *copy, *look; /* of a batch, where layers change: the first look at one goes no further */
	float *h, *x;       /* states of a group, where m computes; x: of cross's other model */
	int64_t *start, *past, *pos;
	int32_t *tokens;
	int32_t *given; /* all chunks' tokens, where layers change */
	float *work;    /* a weight's gradient, or an input as it is scaled; where m computes */
	size_t work_bytes;
	double *norm; /* (2, ctx) of a chunk's rows, where m computes */
	whit_progress *bar;
	double done;
	int64_t at;               /* the first chunk of the batch that runs */
	int64_t rows;             /* of a chunk, or of its part that runs */
	int64_t from;             /* the first chunk that a layer's sums lack */
	whit_arena scratch, kept; /* kept: inputs of a batch that cross's other model is to meet */
	const float **met;        /* by number of the input in s->in; NULL: not yet */
} pass;

static int is_kind(const whit_sum *u, const char *kind) { return !strcmp(strrchr(u->name, '/') + 1, kind); }

/* The loss and sizes are the host's to add up, and weights of tokens to keep, wherever the model computes. */
static int on_device(const pass *p, const whit_sum *u) {
	static const char *const host[] = {"nll", "weights", "in.abs", "in.max"};
	int ours = 0;
	for (int i = 0; i < WHIT_COUNT(host); i++) ours |= is_kind(u, host[i]);
	return p->m->dev && !ours;
}

/* The square roots of a layer's weights of tokens, where the model computes. */
static int roots_begin(pass *p, int64_t layer, whit_err *e) {
	whit_stats_layer *l = p->s->o.weights ? &p->s->o.weights->layer[layer] : NULL;
	int rc = 0;
	for (int64_t i = 0; l && i < l->n && !rc; i++) {
		whit_sum *u = &l->sum[i];
		int64_t n = whit_sum_elements(u);
		if (!is_kind(u, "weights")) continue;
		double *root = whit_alloc((size_t)n * sizeof *root);
		for (int64_t k = 0; k < n; k++) root[k] = sqrt((double)((const float *)u->data)[k]);
		u->on = root;
		if (!p->m->dev) continue;
		if ((u->on = whit_dev_alloc(p->m->dev, (size_t)n * sizeof *root)))
			whit_dev_put(p->m->dev, u->on, root, (size_t)n * sizeof *root);
		rc = whit_dev_sync(p->m->dev, e);
		whit_free(root);
	}
	return rc;
}

static void roots_end(pass *p, int64_t layer) {
	whit_stats_layer *l = p->s->o.weights ? &p->s->o.weights->layer[layer] : NULL;
	for (int64_t i = 0; l && i < l->n; i++) {
		if (is_kind(&l->sum[i], "weights")) whit_model_free(p->m, l->sum[i].on);
		l->sum[i].on = NULL;
	}
}

static int on_begin(pass *p, int64_t layer, whit_err *e) {
	whit_stats *s = p->s;
	whit_stats_layer *l = &s->layer[layer];
	int rc = 0;
	if (s->o.dir || !l->n || !l->sum[0].data) {
		char *path = s->o.dir ? whit_stats_layer_path(s->o.dir, layer, s->m->layers) : NULL;
		rc = whit_stats_layer_load(l, path ? path : "", e);
		whit_free(path);
	}
	for (int64_t i = 0; i < l->n && !rc; i++) {
		whit_sum *u = &l->sum[i];
		u->on = u->data;
		if (!on_device(p, u)) continue;
		if ((u->on = whit_dev_alloc(p->m->dev, whit_sum_bytes(u))))
			whit_dev_put(p->m->dev, u->on, u->data, whit_sum_bytes(u));
	}
	if (!rc) rc = roots_begin(p, layer, e);
	return rc || !p->m->dev ? rc : whit_dev_sync(p->m->dev, e);
}

/* Of each group, where there are any: a device's products need not be symmetric to the last bit. */
static void mirror(whit_sum *u) {
	int64_t n = u->shape[1], groups = u->ndim == 3 ? u->shape[0] : 1;
	for (int64_t g = 0; g < groups; g++) whit_gram_mirror_cpu((float *)u->data + g * n * n, n);
}

/* Back to the host and, where there is a directory, to disk. */
static int on_end(pass *p, int64_t layer, whit_err *e) {
	whit_stats *s = p->s;
	whit_stats_layer *l = &s->layer[layer];
	int rc = 0;
	for (int64_t i = 0; i < l->n; i++)
		if (on_device(p, &l->sum[i]) && l->sum[i].on)
			whit_dev_get(p->m->dev, l->sum[i].data, l->sum[i].on, whit_sum_bytes(&l->sum[i]));
	if (p->m->dev) rc = whit_dev_sync(p->m->dev, e);
	roots_end(p, layer);
	for (int64_t i = 0; i < l->n; i++) {
		if (on_device(p, &l->sum[i])) whit_dev_free(p->m->dev, l->sum[i].on);
		if (is_kind(&l->sum[i], "in.hessian") || is_kind(&l->sum[i], "guided")) mirror(&l->sum[i]);
		l->sum[i].on = NULL;
	}
	if (rc || !s->o.dir) return rc;
	char *path = whit_stats_layer_path(s->o.dir, layer, s->m->layers);
	rc = whit_stats_layer_save(l, path, e);
	whit_free(path);
	whit_stats_layer_drop(l);
	return rc;
}

/* Chunk k of the batch: its domain's sum of that weight and kind, or NULL. */
static whit_sum *sum_of(const pass *p, int64_t layer, int64_t k, const char *weight, const char *kind) {
	return whit_stats_find(p->s, layer, p->s->domain[p->c->domain[p->at + k]].name, weight, kind);
}

static void *on(const whit_sum *u) { return u ? u->on : NULL; }

static void column_sums(const pass *p, whit_sum *sum, whit_sum *sq, const float *x, const double *w, int64_t cols) {
	if (!sum && !sq) return;
	if (p->m->dev)
		whit_column_sums_cuda(p->m->dev, on(sum), on(sq), x, w, p->rows, cols);
	else
		whit_column_sums_cpu(on(sum), on(sq), x, w, p->rows, cols);
}

/* to (rows, cols) += d^T x */
static void product(pass *p, float *to, const float *d, const float *x, int64_t rows, int64_t cols) {
	if (p->m->dev) {
		whit_dev_reset(p->m->dev);
		whit_linear_grad_cuda(p->m->dev, to, NULL, d, x, p->rows, rows, cols);
	} else {
		whit_arena_reset(&p->scratch);
		whit_linear_grad_fast_cpu(to, NULL, d, x, p->rows, rows, cols, &p->scratch);
	}
}

static void gram(pass *p, float *to, const float *x, int64_t cols) {
	if (p->m->dev) {
		whit_dev_reset(p->m->dev);
		whit_gram_cuda(p->m->dev, to, x, p->rows, cols);
	} else {
		whit_arena_reset(&p->scratch);
		whit_gram_fast_cpu(to, x, p->rows, cols, &p->scratch);
	}
}

static float *work(pass *p, int64_t n) {
	size_t bytes = (size_t)n * sizeof(float);
	if (p->work_bytes < bytes) {
		whit_model_free(p->m, p->work);
		p->work = whit_model_alloc(p->m, bytes);
		p->work_bytes = bytes;
	}
	return p->work;
}

static void scaled(pass *p, float *y, const float *x, const double *w, int64_t cols) {
	if (p->m->dev)
		whit_rows_scale_cuda(p->m->dev, y, x, w, p->rows, cols);
	else
		whit_rows_scale_cpu(y, x, w, p->rows, cols);
}

static void row_squares(pass *p, double *n, const float *x, int64_t cols, int64_t ld) {
	if (p->m->dev)
		whit_row_squares_cuda(p->m->dev, n, x, p->rows, cols, ld);
	else
		whit_row_squares_cpu(n, x, p->rows, cols, ld);
}

/* ---- what observers add ---- */

static int find_input(const whit_stats *s, int64_t layer, int value, int64_t *i, whit_err *e) {
	for (*i = 0; *i < s->n; ++*i)
		if (s->in[*i].layer == layer && s->in[*i].value == value) return 0;
	return whit_fail(e, WHIT_EINTERNAL, "layer %lld, value %d: is no known input", (long long)layer, value);
}

/* Sizes of x (rows, cols), for which it comes to the host: they are asked for where columns are scaled, which is rare.
 */
static int sizes_of(pass *p, whit_sum *sum, whit_sum *most, const float *x, int64_t cols, whit_err *e) {
	size_t bytes = (size_t)(p->rows * cols) * sizeof *x;
	float *copy = p->m->dev ? whit_alloc(bytes) : NULL;
	int rc = 0;
	if (copy) whit_dev_get(p->m->dev, copy, x, bytes);
	if (copy) rc = whit_dev_sync(p->m->dev, e);
	if (!rc) whit_column_sizes_cpu(sum->data, most->data, copy ? copy : x, p->rows, cols);
	whit_free(copy);
	return rc;
}

/* Where chunk k of the batch begins among its domain's tokens. */
static int64_t token_of(const pass *p, int64_t k) {
	int64_t chunk = p->at + k;
	for (int d = 0; d < p->c->domain[p->at + k]; d++) chunk -= p->s->domain[d].chunks;
	return chunk * p->s->ctx;
}

/* For every weight that reads input `in`, and every group of its rows: x's products with themselves or, X not NULL,
 * with X, of chunk k of the batch, weighted. */
static int weigh(pass *p, int64_t k, const whit_stats_input *in, const float *x, const float *X, whit_err *e) {
	int64_t n = in->cols, T = p->rows;
	float *y = work(p, 2 * T * n), *Y = y + T * n;
	if (!y) return whit_dev_sync(p->m->dev, e);
	for (int i = 0; i < in->n_weight; i++) {
		const char *domain = p->s->domain[p->c->domain[p->at + k]].name;
		whit_sum *u = sum_of(p, in->layer, k, in->weight[i], X ? "guided.cross" : "guided");
		const whit_sum *w = whit_stats_find(p->s->o.weights, in->layer, domain, in->weight[i], "weights");
		for (int64_t g = 0; g < w->shape[0]; g++) {
			const double *root = (const double *)w->on + g * w->shape[1] + token_of(p, k);
			float *to = (float *)u->on + g * n * n;
			scaled(p, y, x, root, n);
			if (X) scaled(p, Y, X, root, n);
			if (X)
				product(p, to, y, Y, n, n);
			else
				gram(p, to, y, n);
		}
	}
	return 0;
}

/* T is a whole number of chunks, or of the head a part of one. */
static int see(void *ctx, int64_t layer, int value, const float *x, int64_t T, int64_t cols, whit_err *e) {
	pass *p = ctx;
	int64_t i;
	int rc = find_input(p->s, layer, value, &i, e);
	if (rc) return rc;
	const char *weight = p->s->in[i].weight[0];
	for (int64_t k = 0; k * p->rows < T; k++) {
		const float *at = x + k * p->rows * cols;
		if (p->at + k < p->from) continue;
		whit_sum *h = sum_of(p, layer, k, weight, "in.hessian"), *u = sum_of(p, layer, k, weight, "in.abs");
		if (p->m->dev) whit_dev_reset(p->m->dev);
		column_sums(p, sum_of(p, layer, k, weight, "in.sum"), sum_of(p, layer, k, weight, "in.sq"), at, NULL,
		            cols);
		if (h) gram(p, h->on, at, cols);
		if (u) rc = sizes_of(p, u, sum_of(p, layer, k, weight, "in.max"), at, cols, e);
		if (!rc && p->s->o.weights && layer < p->m->layers) rc = weigh(p, k, &p->s->in[i], at, NULL, e);
		if (rc) return rc;
	}
	if (!(p->s->o.kinds & WHIT_STAT_CROSS)) return 0;
	size_t bytes = (size_t)(T * cols) * sizeof *x; /* the engine reuses its memory */
	float *keep = p->m->dev ? whit_model_alloc(p->m, bytes) : whit_take_bytes(&p->kept, bytes);
	p->met[i] = keep;
	if (keep) whit_model_copy(p->m, keep, x, bytes);
	return 0;
}

/* The other model's input against ours of the same tokens. */
static int see_other(void *ctx, int64_t layer, int value, const float *x, int64_t T, int64_t cols, whit_err *e) {
	pass *p = ctx;
	int64_t i;
	int rc = find_input(p->s, layer, value, &i, e);
	if (rc) return rc;
	if (cols != p->s->in[i].cols || !p->met[i])
		return whit_fail(e, WHIT_EINPUT, "%s: input of %s is %lld wide there, need %lld",
		                 p->s->o.other->ckpt.path, p->s->in[i].weight[0], (long long)cols,
		                 (long long)p->s->in[i].cols);
	for (int64_t k = 0; k * p->rows < T; k++) {
		int64_t at = k * p->rows * cols;
		if (p->at + k < p->from) continue;
		product(p, sum_of(p, layer, k, p->s->in[i].weight[0], "in.cross")->on, p->met[i] + at, x + at, cols,
		        cols);
		if (p->s->o.weights && layer < p->m->layers) rc = weigh(p, k, &p->s->in[i], p->met[i] + at, x + at, e);
		if (rc) return rc;
	}
	return 0;
}

static int fisher(pass *p, int64_t layer, int64_t k, const whit_slot *w, const float *x, const float *d, whit_err *e) {
	whit_sum *row = sum_of(p, layer, k, w->name, "fisher.rows"), *col = sum_of(p, layer, k, w->name, "fisher.cols"),
	         *full = sum_of(p, layer, k, w->name, "fisher");
	int64_t T = p->s->ctx, n = w->rows * w->cols;
	if (!row && !full) return 0;
	if (p->s->o.estimator == WHIT_FISHER_TOKEN) {
		row_squares(p, p->norm, x, w->cols, w->cols);
		row_squares(p, p->norm + T, d, w->rows, w->rows);
		column_sums(p, NULL, row, d, p->norm, w->rows);
		column_sums(p, NULL, col, x, p->norm + T, w->cols);
		if (!full) return 0;
		float *x2 = work(p, T * (w->rows + w->cols)), *d2 = x2 + T * w->cols;
		if (!x2) return whit_dev_sync(p->m->dev, e);
		scaled(p, x2, x, NULL, w->cols);
		scaled(p, d2, d, NULL, w->rows);
		product(p, full->on, d2, x2, w->rows, w->cols);
		return 0;
	}
	float *g = work(p, n);
	if (!g) return whit_dev_sync(p->m->dev, e);
	whit_model_zero(p->m, g, (size_t)n * sizeof *g);
	product(p, g, d, x, w->rows, w->cols);
	if (p->m->dev)
		whit_square_sums_cuda(p->m->dev, on(full), on(row), on(col), g, w->rows, w->cols);
	else
		whit_square_sums_cpu(on(full), on(row), on(col), g, w->rows, w->cols);
	return 0;
}

/* Groups are runs of as many rows, the last one shorter. u: weights, of chunk k of the batch. */
static int keep_weights(pass *p, whit_sum *u, int64_t k, const whit_slot *w, const float *d, whit_err *e) {
	int64_t T = p->s->ctx, each = (w->rows + u->shape[0] - 1) / u->shape[0];
	double *copy = p->m->dev ? whit_alloc((size_t)T * sizeof *copy) : NULL, *norm = copy ? copy : p->norm;
	int rc = 0;
	for (int64_t g = 0; g * each < w->rows && !rc; g++) {
		int64_t n = WHIT_MIN(each, w->rows - g * each);
		float *to = (float *)u->data + g * u->shape[1] + token_of(p, k);
		row_squares(p, p->norm, d + g * each, n, w->rows);
		if (copy) whit_dev_get(p->m->dev, copy, p->norm, (size_t)T * sizeof *copy);
		if (copy) rc = whit_dev_sync(p->m->dev, e);
		for (int64_t t = 0; t < T; t++) to[t] = (float)(norm[t] / (double)n);
	}
	whit_free(copy);
	return rc;
}

static int guided(pass *p, whit_sum *u, const whit_slot *w, const float *x, const float *d, whit_err *e) {
	int64_t T = p->s->ctx, each = (w->rows + u->shape[0] - 1) / u->shape[0];
	float *y = work(p, T * w->cols);
	if (!y) return whit_dev_sync(p->m->dev, e);
	for (int64_t g = 0; g * each < w->rows; g++) {
		int64_t n = WHIT_MIN(each, w->rows - g * each);
		row_squares(p, p->norm, d + g * each, n, w->rows);
		scaled(p, y, x, p->norm, w->cols);
		product(p, (float *)u->on + g * w->cols * w->cols, y, x, w->cols, w->cols);
	}
	return 0;
}

static int see_gradient(void *ctx, int64_t layer, int slot, const whit_batch *b, const float *x, const float *d,
                        whit_err *e) {
	pass *p = ctx;
	const whit_slot *w = &p->m->layer[layer].slot[slot];
	int rc = 0;
	for (int64_t k = 0; k < b->n_seq && !rc; k++) {
		const float *xk = x + b->start[k] * w->cols, *dk = d + b->start[k] * w->rows;
		if (p->at + k < p->from) continue;
		whit_sum *u = sum_of(p, layer, k, w->name, "guided");
		if (p->m->dev) whit_dev_reset(p->m->dev);
		rc = fisher(p, layer, k, w, xk, dk, e);
		column_sums(p, NULL, sum_of(p, layer, k, w->name, "gradsq"), dk, NULL, w->rows);
		if (!rc && u) rc = guided(p, u, w, xk, dk, e);
		u = sum_of(p, layer, k, w->name, "weights");
		if (!rc && u) rc = keep_weights(p, u, k, w, dk, e);
	}
	return rc;
}

/* ---- the pass upwards ---- */

/* Chunks [c0, c1) as one batch. */
static void fill(pass *p, int64_t c0, int64_t c1, whit_batch *b) {
	int64_t T = 0;
	p->at = c0;
	for (int64_t c = c0; c < c1; c++) {
		p->start[c - c0] = T;
		p->past[c - c0] = 0;
		for (int64_t t = 0; t < p->s->ctx; t++, T++) {
			p->tokens[T] = t == 0 && p->bos >= 0 ? p->bos : p->c->ids.id[p->c->start[c] + t];
			p->pos[T] = t;
		}
	}
	p->start[c1 - c0] = T;
	*b = (whit_batch){T, (int)(c1 - c0), p->start, p->past, p->pos, p->tokens};
}

/* All chunks, as the model is given them. */
static void give(pass *p) {
	p->given = whit_alloc((size_t)p->s->tokens * sizeof *p->given);
	for (int64_t c = 0; c < p->c->n; c++) {
		whit_batch b;
		fill(p, c, c + 1, &b);
		memcpy(p->given + c * p->s->ctx, b.tokens, (size_t)b.T * sizeof *b.tokens);
	}
}

static int step(pass *p, double tokens, int64_t g0, int64_t g1, int64_t layer, int back, whit_err *e) {
	char label[112];
	p->done += tokens;
	snprintf(label, sizeof label, "chunks %lld-%lld of %lld, %s %lld%s", (long long)g0 + 1, (long long)g1,
	         (long long)p->c->n, layer < p->m->layers ? "layer" : "head after layer",
	         (long long)WHIT_MIN(layer, p->m->layers - 1), back ? ", backwards" : "");
	whit_progress_step(p->bar, p->done, label);
	return whit_interrupted(e);
}

/* What see kept for see_other. */
static void forget(pass *p) {
	for (int64_t i = 0; p->met && i < p->s->n; i++) {
		if (p->m->dev) whit_model_free(p->m, (void *)(uintptr_t)p->met[i]);
		p->met[i] = NULL;
	}
	whit_arena_reset(&p->kept);
}

/* The head's input is what is asked for; nobody reads the logits. Tiles are parts of one chunk. at: of the first. */
static int run_head(pass *p, int64_t at, int64_t c0, int64_t c1, whit_err *e) {
	whit_model *m = p->m, *other = p->s->o.other;
	int64_t ctx = p->s->ctx, tile = head_tile(m, ctx), vocab = other ? WHIT_MAX(m->vocab, other->vocab) : m->vocab;
	float *logits = whit_model_alloc(m, (size_t)(tile * vocab) * sizeof *logits);
	int rc = 0;
	for (int64_t r = 0; r < (c1 - c0) * ctx && !rc; r += p->rows, at += p->rows * m->hidden) {
		p->at = c0 + r / ctx;
		p->rows = WHIT_MIN(tile, ctx - r % ctx);
		rc = whit_model_head(m, p->h + at, p->rows, logits, e);
		if (!rc && other) rc = whit_model_head(other, p->x + at, p->rows, logits, e);
		forget(p);
	}
	p->rows = ctx;
	whit_model_free(m, logits);
	return rc;
}

/* One batch of a layer (-1 embeds), by cross's other model too. */
static int run_batch(pass *p, int64_t l, int64_t g0, int64_t c, int64_t end, int64_t *tokens, whit_err *e) {
	whit_model *m = p->m, *other = p->s->o.other;
	whit_batch b;
	int64_t at = (c - g0) * p->s->ctx * m->hidden;
	float *h = p->h + at;
	int rc;
	fill(p, c, WHIT_MIN(c + p->each, end), &b);
	*tokens = b.T;
	if (l == m->layers) return run_head(p, at, c, c + b.n_seq, e);
	if (p->look) whit_model_copy(m, h = p->look, p->h + at, (size_t)(b.T * m->hidden) * sizeof *h);
	rc = l < 0 ? whit_model_embed(m, &b, p->h + at, e) : whit_model_layer(m, l, &b, NULL, h, e);
	if (!rc && other)
		rc = l < 0 ? whit_model_embed(other, &b, p->x + at, e)
		           : whit_model_layer(other, l, &b, NULL, p->x + at, e);
	forget(p);
	return rc;
}

/* The layer may change now; then it runs for good. */
static int change_layer(pass *p, int64_t l, int64_t g0, int64_t g1, whit_err *e) {
	const whit_stats_states x = {g1 - g0, p->s->ctx, p->h, p->x, p->given + g0 * p->s->ctx};
	int rc = p->s->o.layer(p->s->o.ctx_layer, p->s, l, &x, e);
	whit_stats_layer_drop(&p->s->layer[l]);
	for (int64_t c = g0; c < g1 && !rc && l < p->m->layers; c += p->each) {
		whit_batch b;
		fill(p, c, WHIT_MIN(c + p->each, g1), &b);
		rc = whit_model_layer(p->m, l, &b, NULL, p->h + (c - g0) * p->s->ctx * p->m->hidden, e);
	}
	return rc;
}

/* Layers whose sums hold the group already are run for what comes after them, unobserved. */
static int run_group(pass *p, int64_t g0, int64_t g1, int64_t layers, whit_err *e) {
	whit_observer watch = {see, p}, watch_other = {see_other, p};
	whit_model *other = p->s->o.other;
	int cross = (p->s->o.kinds & WHIT_STAT_CROSS) != 0;
	int64_t last = layers - 1;
	while (last >= 0 && p->s->layer[last].seen[0] >= g1) last--;
	for (int64_t l = -1; l <= last; l++) {
		int observed = l >= 0 && p->s->layer[l].seen[0] < g1;
		int rc = observed ? on_begin(p, l, e) : 0;
		p->from = observed ? p->s->layer[l].seen[0] : 0;
		for (int64_t c = g0; c < g1 && !rc; c += p->each) {
			int64_t tokens;
			p->look = l >= 0 ? p->copy : NULL;
			p->m->observer = observed ? &watch : NULL;
			if (other) other->observer = observed && cross ? &watch_other : NULL;
			rc = run_batch(p, l, g0, c, g1, &tokens, e);
			p->m->observer = NULL;
			if (other) other->observer = NULL;
			if (rc)
				return whit_fail_in(e, "chunks %lld to %lld", (long long)c + 1,
				                    (long long)WHIT_MIN(c + p->each, g1));
			if (l >= 0) rc = step(p, (double)tokens, g0, g1, l, 0, e);
		}
		if (!rc && observed) {
			p->s->layer[l].seen[0] = g1;
			rc = on_end(p, l, e);
		}
		if (!rc && observed && p->s->o.layer) rc = change_layer(p, l, g0, g1, e);
		if (rc) return rc;
	}
	return 0;
}

/* ---- and back ---- */

/* Gradients by the last layer's output, a chunk's loss at a time, into dh. */
static int losses(pass *p, const float *h, float *dh, int64_t c0, int64_t c1, double *nll, whit_err *e) {
	whit_stats *s = p->s;
	int64_t T = s->ctx;
	whit_loss l = {.target = whit_alloc((size_t)T * sizeof *l.target),
	               .loss = whit_alloc((size_t)T * sizeof *l.loss)};
	double *u = s->o.estimator == WHIT_FISHER_SAMPLED ? whit_alloc((size_t)T * sizeof *u) : NULL;
	int rc = 0;
	l.draw = u;
	for (int64_t c = c0; c < c1 && !rc; c++) {
		int64_t at = (c - c0) * T * p->m->hidden;
		whit_rng g;
		whit_rng_key(&g, s->o.seed, (uint64_t)c, 0x6c6162656cu); /* "label" */
		for (int64_t t = 0; t < T; t++) {
			l.target[t] = t + 1 < T ? p->c->ids.id[p->c->start[c] + t + 1] : -1;
			if (u) u[t] = t + 1 < T ? whit_rng_uniform(&g) : -1;
		}
		rc = whit_model_head_back(p->m, h + at, T, &l, dh + at, NULL, e);
		nll[c - c0] = 0;
		for (int64_t t = 0; t < T - 1; t++) nll[c - c0] += l.loss[t];
		if (!rc) rc = step(p, (double)T, c0, c1, p->m->layers, 1, e);
	}
	whit_free(l.target);
	whit_free(l.loss);
	whit_free(u);
	return rc;
}

/* h: (layers + 1, chunks of the group, ctx, hidden), the input of each layer and the last one's output. */
static int keep_inputs(pass *p, int64_t g0, int64_t g1, int64_t size, whit_err *e) {
	whit_model *m = p->m;
	whit_batch b;
	for (int64_t l = -1; l < m->layers; l++) {
		for (int64_t c = g0; c < g1; c += p->each) {
			int64_t at = (c - g0) * p->s->ctx * m->hidden;
			float *in = p->h + WHIT_MAX(l, 0) * size + at, *out = p->h + (l + 1) * size + at;
			fill(p, c, WHIT_MIN(c + p->each, g1), &b);
			if (l >= 0) whit_model_copy(m, out, in, (size_t)(b.T * m->hidden) * sizeof *in);
			int rc = l < 0 ? whit_model_embed(m, &b, out, e) : whit_model_layer(m, l, &b, NULL, out, e);
			if (rc) return rc;
			if (l >= 0 && (rc = step(p, (double)b.T, g0, g1, l, 0, e))) return rc;
		}
	}
	return 0;
}

static int back_group(pass *p, int64_t g0, int64_t g1, whit_err *e) {
	whit_model *m = p->m;
	whit_grad_observer watch = {see_gradient, p};
	int64_t size = (g1 - g0) * p->s->ctx * m->hidden, first = 0;
	float *dh = p->h + (m->layers + 1) * size;
	double *nll = whit_alloc((size_t)(g1 - g0) * sizeof *nll);
	while (first < m->layers && p->s->layer[first].seen[1] >= g1) first++; /* those below are done */
	int rc = first < m->layers ? keep_inputs(p, g0, g1, size, e) : 0;
	if (!rc && first < m->layers) rc = losses(p, p->h + m->layers * size, dh, g0, g1, nll, e);
	for (int64_t l = m->layers - 1; l >= first && !rc; l--) {
		int observed = p->s->layer[l].seen[1] < g1;
		p->from = observed ? p->s->layer[l].seen[1] : 0;
		if (observed) rc = on_begin(p, l, e);
		for (int64_t c = g0; c < g1 && !rc; c += p->each) {
			whit_batch b;
			int64_t at = (c - g0) * p->s->ctx * m->hidden;
			fill(p, c, WHIT_MIN(c + p->each, g1), &b);
			m->grad_observer = observed ? &watch : NULL;
			rc = whit_model_layer_back(m, l, &b, p->h + l * size + at, dh + at, NULL, e);
			m->grad_observer = NULL;
			if (!rc) rc = step(p, (double)(3 * b.T), g0, g1, l, 1, e);
		}
		for (int64_t c = WHIT_MAX(g0, p->from); c < g1 && !rc && l == 0 && observed; c++) {
			whit_sum *u = whit_stats_find(p->s, 0, p->s->domain[p->c->domain[c]].name, "loss", "nll");
			*(double *)u->data += nll[c - g0];
		}
		if (!rc && observed) {
			p->s->layer[l].seen[1] = g1;
			rc = on_end(p, l, e);
		}
	}
	whit_free(nll);
	return rc;
}

/* ---- all of it ---- */

static void room(pass *p, int back) {
	whit_stats *s = p->s;
	sizes(p->m, &s->o, s->ctx, p->c->n, back, &p->each, &p->held);
	size_t state = (size_t)(p->held * s->ctx * p->m->hidden) * sizeof(float), T = (size_t)(p->each * s->ctx);
	p->h = whit_model_alloc(p->m, back ? state * (size_t)copies_of(p->m, &s->o, 1) : state);
	p->x = s->o.other && !back ? whit_model_alloc(s->o.other, state) : NULL;
	p->copy = s->o.layer ? whit_model_alloc(p->m, T * (size_t)p->m->hidden * sizeof(float)) : NULL;
	p->start = whit_alloc((size_t)(p->each + 1) * sizeof *p->start);
	p->past = whit_alloc((size_t)p->each * sizeof *p->past);
	p->pos = whit_alloc(T * sizeof *p->pos);
	p->tokens = whit_alloc(T * sizeof *p->tokens);
	if (p->s->o.layer) give(p);
}

static void room_free(pass *p) {
	whit_model_free(p->m, p->h);
	if (p->x) whit_model_free(p->s->o.other, p->x);
	if (p->copy) whit_model_free(p->m, p->copy);
	whit_free(p->start);
	whit_free(p->past);
	whit_free(p->pos);
	whit_free(p->given);
	whit_free(p->tokens);
}

/* What a directory of an interrupted run holds already. */
static int resume(whit_stats *s, int64_t layers, whit_err *e) {
	for (int64_t l = 0; l < layers && s->o.dir; l++) {
		whit_stats_layer *y = &s->layer[l];
		char *path = whit_stats_layer_path(s->o.dir, l, s->m->layers);
		int rc = whit_file_exists(path) ? whit_stats_layer_load(y, path, e) : 0;
		whit_stats_layer_drop(y);
		whit_free(path);
		if (rc) return rc;
	}
	return 0;
}

static int passes(pass *p, whit_err *e) {
	whit_stats *s = p->s;
	whit_progress bar;
	int64_t layers = p->m->layers + (s->o.head ? 1 : 0);
	int up = (s->o.kinds & ~(unsigned)WHIT_STAT_BACK) != 0, back = (s->o.kinds & WHIT_STAT_BACK) != 0;
	int rc = resume(s, layers, e);
	p->rows = s->ctx;
	p->norm = whit_model_alloc(p->m, (size_t)(2 * s->ctx) * sizeof *p->norm);
	p->met = s->o.other ? whit_alloc((size_t)s->n * sizeof *p->met) : NULL;
	whit_progress_begin(&bar, "calibrate",
	                    (double)s->tokens * (double)(up * layers + back * (4 * p->m->layers + 1)));
	p->bar = &bar;
	for (int k = 0; k < 2 && !rc; k++) {
		if (!(k ? back : up)) continue;
		room(p, k);
		for (int64_t g = 0; g < s->chunks && !rc; g += p->held) {
			int64_t end = WHIT_MIN(g + p->held, s->chunks);
			rc = k ? back_group(p, g, end, e) : run_group(p, g, end, layers, e);
		}
		room_free(p);
	}
	whit_progress_end(&bar);
	whit_model_free(p->m, p->norm);
	whit_model_free(p->m, p->work);
	whit_free(p->met);
	whit_arena_free(&p->scratch);
	whit_arena_free(&p->kept);
	return rc;
}

/* Every sum has seen every chunk: else the program branches in a way these passes do not know. */
static int check_seen(const whit_stats *s, whit_err *e) {
	for (int64_t l = 0; l < s->m->layers; l++)
		for (int k = 0; k < 2; k++)
			if ((k ? s->o.kinds & WHIT_STAT_BACK : s->o.kinds & ~(unsigned)WHIT_STAT_BACK) &&
			    s->layer[l].seen[k] != s->chunks)
				return whit_fail(e, WHIT_EINTERNAL, "layer %lld has seen %lld chunks, need %lld",
				                 (long long)l, (long long)s->layer[l].seen[k], (long long)s->chunks);
	return 0;
}

static int read_nll(whit_stats *s, whit_err *e) {
	char *path = s->o.dir ? whit_stats_layer_path(s->o.dir, 0, s->m->layers) : NULL;
	int rc = path ? whit_stats_layer_load(&s->layer[0], path, e) : 0;
	for (int d = 0; d < s->n_domain && !rc; d++)
		s->domain[d].nll = *(const double *)whit_stats_find(s, 0, s->domain[d].name, "loss", "nll")->data;
	if (path) whit_stats_layer_drop(&s->layer[0]);
	whit_free(path);
	return rc;
}

int whit_stats_run(whit_stats *s, whit_model *m, const whit_tok *tok, whit_stats_text *text, int n_text,
                   const whit_stats_opts *o, whit_err *e) {
	chunks c = {0};
	double start = whit_now();
	int rc = 0;
	*s = (whit_stats){.m = m, .o = *o};
	s->ctx = context_of(m, o);
	if (s->ctx < 1 || (m->context > 0 && s->ctx > m->context))
		return whit_fail(e, WHIT_EUSAGE, "%s: context is %lld, need 1 to the model's %lld", m->ckpt.path,
		                 (long long)s->ctx, (long long)m->context);
	if ((o->kinds & WHIT_STAT_BACK) && s->ctx < 2)
		return whit_fail(e, WHIT_EUSAGE, "%s: context is %lld, need 2 where gradients are taken", m->ckpt.path,
		                 (long long)s->ctx);
	rc = cut_all(s, &c, tok, text, n_text, e);
	if (!rc && o->apart) rc = whit_apart(tok, m->vocab, "calibration text", c.ids.id, c.ids.n, o->apart, e);
	s->chunks = c.n;
	s->tokens = c.n * s->ctx;
	s->text = hash_of(&c, s->ctx);
	if (!rc) {
		pass p = {.s = s, .m = m, .c = &c, .bos = whit_tok_adds_bos(tok) ? whit_tok_bos(tok) : -1};
		whit_stats_layout(s);
		for (int64_t l = 0; l <= m->layers; l++) whit_hash_hex(s->text, s->layer[l].text);
		if (o->dir) rc = write_tokens(&c, o->dir, s->ctx, e);
		if (!rc) rc = passes(&p, e);
	}
	if (!rc) rc = check_seen(s, e);
	if (!rc && (o->kinds & WHIT_STAT_BACK)) rc = read_nll(s, e);
	s->seconds = whit_now() - start;
	whit_ids_free(&c.ids);
	whit_free(c.start);
	whit_free(c.domain);
	if (rc) whit_stats_free(s);
	return rc;
}
