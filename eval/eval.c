/* eval: streams one or two models over the windows of a text. Both see the same batches; logits live for one
 * tile and become points at once, so nothing but points grows with the text. */
#include "eval/eval_own.h"
#include <math.h>
#include <stdio.h>
#include "cuda/dev.h"
#include "formats/frc1.h"
#include "host/overlap.h"

enum { TILE_FLOATS = 16 << 20, TILE_MOST = 1024 };  /* a tile of logits is 64 MB at most */
enum { STATE_FLOATS = 8 << 20, BATCH_MOST = 4096 }; /* hidden states of a batch: 32 MB per model */
static const double floor_work = 4e9; /* multiply-adds of the noise floor's plain pass, about a second or two */

/* ---- one pass of both models over windows ---- */

static int64_t most_layers(const whit_pass *s) {
	return s->q.m ? WHIT_MAX(s->p.m->layers, s->q.m->layers) : s->p.m->layers;
}

/* What the bar counts: tokens through layers, the head being one more. */
static double pass_work(const whit_pass *s) {
	return (double)s->ws->fed * (double)(s->p.m->layers + 1 + (s->q.m ? s->q.m->layers + 1 : 0));
}

int whit_pass_step(whit_pass *s, double work, const char *what, whit_err *e) {
	s->done += work;
	if (s->bar) whit_progress_step(s->bar, s->done, s->label ? s->label : what);
	return whit_interrupted(e);
}

void whit_pass_fill(whit_pass *s, int64_t w0, int64_t w1, whit_batch *b) {
	int64_t T = 0;
	s->rows = 0;
	for (int64_t w = w0; w < w1; w++) {
		const whit_window *win = &s->ws->w[w];
		s->start[w - w0] = T;
		s->past[w - w0] = 0;
		for (int64_t t = win->begin; t < win->end; t++, T++) {
			s->tokens[T] = t == win->begin && s->bos >= 0 ? s->bos : s->ids[t];
			s->pos[T] = t - win->begin;
			if (t < win->first || t >= win->last) continue;
			s->row[s->rows] = T;
			s->target[s->rows] = s->ids[t + 1];
			s->chunk[s->rows++] = (int32_t)w;
		}
	}
	s->start[w1 - w0] = T;
	*b = (whit_batch){T, (int)(w1 - w0), s->start, s->past, s->pos, s->tokens};
}

/* d's model as d wants it run; swap again puts back what was there. */
static void swap(int *a, int *b) {
	int was = *a;
	*a = *b;
	*b = was;
}

static void side_swap(whit_side *d) {
	swap(&d->m->plain, &d->plain);
	swap(&d->m->original, &d->original);
}

int whit_side_embed(whit_side *d, const whit_batch *b, whit_err *e) {
	if (!d->m) return 0;
	side_swap(d);
	int rc = whit_model_embed(d->m, b, d->h, e);
	side_swap(d);
	return rc;
}

int whit_side_layer(whit_side *d, int64_t l, const whit_batch *b, whit_err *e) {
	if (!d->m || l >= d->m->layers) return 0;
	side_swap(d);
	int rc = whit_model_layer(d->m, l, b, NULL, d->h, e);
	side_swap(d);
	return rc;
}

static int side_head(whit_pass *s, whit_side *d, const int64_t *row, int64_t n, whit_err *e) {
	if (!d->m) return 0;
	if (s->dev)
		whit_rows_gather_cuda(s->dev, d->rows, d->h, s->dev_row, n, d->m->hidden);
	else
		for (int64_t i = 0; i < n; i++)
			memcpy(d->rows + i * d->m->hidden, d->h + row[i] * d->m->hidden,
			       (size_t)d->m->hidden * sizeof(float));
	side_swap(d);
	int rc = whit_model_head(d->m, d->rows, n, d->logits, e);
	side_swap(d);
	if (!rc && d->host) {
		whit_dev_get(s->dev, d->host, d->logits, (size_t)(n * d->m->vocab) * sizeof(float));
		rc = whit_dev_sync(s->dev, e);
	}
	return rc;
}

static void compare_row(void *ctx, int64_t t, int worker) {
	whit_pass *s = ctx;
	int64_t n = s->p.m->hidden;
	const float *p = s->p.h + t * n, *q = s->q.h + t * n;
	double *sum = s->row_sums + 4 * t, diff2 = 0, p2 = 0, q2 = 0, pq = 0;
	(void)worker;
	for (int64_t i = 0; i < n; i++) {
		double d = (double)p[i] - q[i];
		diff2 += d * d;
		p2 += (double)p[i] * p[i];
		q2 += (double)q[i] * q[i];
		pq += (double)p[i] * q[i];
	}
	sum[0] = diff2;
	sum[1] = p2;
	sum[2] = q2;
	sum[3] = pq;
}

static int compare_on_device(whit_pass *s, whit_layer_sums *out, int64_t T, whit_err *e) {
	double sum[4];
	whit_dev_reset(s->dev);
	whit_rows_compare_cuda(s->dev, s->dev_layer, s->p.h, s->q.h, T, s->p.m->hidden);
	whit_dev_get(s->dev, sum, s->dev_layer, sizeof sum);
	int rc = whit_dev_sync(s->dev, e);
	if (rc) return rc;
	out->diff2 += sum[0];
	out->p2 += sum[1];
	out->q2 += sum[2];
	out->pq += sum[3];
	return 0;
}

/* Rows in parallel, their sums in order: the same number at any thread count. */
static int compare_layer(whit_pass *s, int64_t l, int64_t T, whit_err *e) {
	whit_layer_sums *out = &s->layer[l];
	if (s->dev) return compare_on_device(s, out, T, e);
	whit_parallel(T, compare_row, s);
	for (int64_t t = 0; t < T; t++) {
		out->diff2 += s->row_sums[4 * t];
		out->p2 += s->row_sums[4 * t + 1];
		out->q2 += s->row_sums[4 * t + 2];
		out->pq += s->row_sums[4 * t + 3];
	}
	return 0;
}

typedef struct tile {
	whit_pass *s;
	int64_t first; /* scored row of the batch */
	whit_point *pt;
} tile;

static const float *host_logits(const whit_side *d) { return d->host ? d->host : d->logits; }

static int measure_row(const tile *t, int64_t i, whit_err *e) {
	const whit_pass *s = t->s;
	int64_t vocab = s->p.m->vocab;
	if (s->base) {
		float *logp = s->base_rows + i * vocab;
		int rc = whit_logits_row(s->base, t->pt - s->pt + i, logp, e);
		return rc ? rc
		          : whit_point_measure_logp(&t->pt[i], logp, host_logits(&s->p) + i * vocab, vocab,
		                                    s->target[t->first + i], e);
	}
	return whit_point_measure(&t->pt[i], s->p.logits + i * vocab, s->q.m ? s->q.logits + i * vocab : NULL, vocab,
	                          s->target[t->first + i], e);
}

static void measure_item(void *ctx, int64_t i, int worker) {
	const tile *t = ctx;
	whit_err e;
	(void)worker;
	t->s->bad[i] = measure_row(t, i, &e);
	t->pt[i].chunk = t->s->chunk[t->first + i];
}

/* e's text, with where the batch's scored row i is. */
static int fail_at(const whit_pass *s, int64_t i, whit_err *e) {
	return whit_fail_in(e, "window %d, its token %lld", s->chunk[i], (long long)s->pos[s->row[i]]);
}

/* The tile's sums come back and become points; what is not finite is told as measure_row does. */
static int measure_on_device(whit_pass *s, const tile *t, int64_t n, whit_err *e) {
	whit_dev_reset(s->dev);
	whit_logits_measure_cuda(s->dev, s->dev_sums, s->p.logits, s->q.m ? s->q.logits : NULL, n, s->p.m->vocab,
	                         s->dev_target);
	whit_dev_get(s->dev, s->sums, s->dev_sums, (size_t)n * sizeof *s->sums);
	int rc = whit_dev_sync(s->dev, e);
	for (int64_t i = 0; i < n && !rc; i++) {
		rc = whit_point_of_sums(&t->pt[i], &s->sums[i], s->q.m != NULL, e);
		if (rc) return fail_at(s, t->first + i, e);
		t->pt[i].chunk = s->chunk[t->first + i];
	}
	return rc;
}

static int measure_tile(whit_pass *s, tile *t, int64_t n, whit_err *e) {
	if (s->dev && !s->base) return measure_on_device(s, t, n, e);
	whit_parallel(n, measure_item, t);
	for (int64_t k = 0; k < n; k++) {
		if (!s->bad[k]) continue;
		measure_row(t, k, e); /* again, for its text */
		return fail_at(s, t->first + k, e);
	}
	return 0;
}

int whit_pass_score(whit_pass *s, const whit_batch *b, whit_point *pt, whit_err *e) {
	for (int64_t i = 0; i < s->rows; i += s->tile) {
		int64_t n = WHIT_MIN(s->tile, s->rows - i);
		tile t = {s, i, pt + i};
		if (s->dev) {
			whit_dev_put(s->dev, s->dev_row, s->row + i, (size_t)n * sizeof *s->row);
			whit_dev_put(s->dev, s->dev_target, s->target + i, (size_t)n * sizeof *s->target);
		}
		int rc = side_head(s, &s->p, s->row + i, n, e);
		if (!rc) rc = side_head(s, &s->q, s->row + i, n, e);
		if (!rc && s->save) rc = whit_logits_out_rows(s->save, host_logits(s->q.m ? &s->q : &s->p), n, e);
		if (!rc) rc = measure_tile(s, &t, n, e);
		if (!rc)
			rc = whit_pass_step(s, (double)b->T * (s->q.m ? 2 : 1) * (double)n / (double)s->rows, "head",
			                    e);
		if (rc) return rc;
	}
	return 0;
}

static int batch_run(whit_pass *s, int64_t w0, int64_t w1, whit_point *pt, whit_err *e) {
	char label[112];
	whit_batch b;
	int rc;
	whit_pass_fill(s, w0, w1, &b);
	if ((rc = whit_side_embed(&s->p, &b, e)) || (rc = whit_side_embed(&s->q, &b, e))) return rc;
	for (int64_t l = 0; l < most_layers(s); l++) {
		if ((rc = whit_side_layer(&s->p, l, &b, e)) || (rc = whit_side_layer(&s->q, l, &b, e))) return rc;
		if (s->layer && (rc = compare_layer(s, l, b.T, e))) return rc;
		snprintf(label, sizeof label, "windows %lld-%lld of %lld, layer %lld", (long long)w0 + 1, (long long)w1,
		         (long long)s->ws->n, (long long)l);
		double sides = (double)((l < s->p.m->layers) + (s->q.m && l < s->q.m->layers));
		if ((rc = whit_pass_step(s, (double)b.T * sides, label, e))) return rc;
	}
	return whit_pass_score(s, &b, pt, e);
}

/* to_host: its logits go into a file, or are measured against one. */
static void side_take(whit_side *d, whit_arena *a, int64_t tokens, int64_t tile, int to_host) {
	if (!d->m) return;
	d->h = whit_model_alloc(d->m, (size_t)(tokens * d->m->hidden) * sizeof(float));
	d->rows = whit_model_alloc(d->m, (size_t)(tile * d->m->hidden) * sizeof(float));
	d->logits = whit_model_alloc(d->m, (size_t)(tile * d->m->vocab) * sizeof(float));
	if (d->m->dev && to_host) d->host = whit_take(a, tile * d->m->vocab);
}

static void side_free(whit_side *d) {
	if (!d->m) return;
	whit_model_free(d->m, d->h);
	whit_model_free(d->m, d->rows);
	whit_model_free(d->m, d->logits);
}

/* What the metrics take on a device. A shortage is told by the next call there. */
static void take_on_device(whit_pass *s, whit_arena *a) {
	s->dev_row = whit_dev_alloc(s->dev, (size_t)s->tile * sizeof *s->dev_row);
	s->dev_target = whit_dev_alloc(s->dev, (size_t)s->tile * sizeof *s->dev_target);
	s->dev_sums = whit_dev_alloc(s->dev, (size_t)s->tile * sizeof *s->dev_sums);
	s->dev_layer = whit_dev_alloc(s->dev, 4 * sizeof *s->dev_layer);
	s->sums = whit_take_bytes(a, (size_t)s->tile * sizeof *s->sums);
}

static void free_on_device(whit_pass *s) {
	whit_dev_free(s->dev, s->dev_row);
	whit_dev_free(s->dev, s->dev_target);
	whit_dev_free(s->dev, s->dev_sums);
	whit_dev_free(s->dev, s->dev_layer);
}

/* Scored rows at once, of a batch of so many tokens. */
static int64_t choose_tile(const whit_model *m, int64_t tokens) {
	return WHIT_MAX(1, WHIT_MIN(WHIT_MIN(TILE_FLOATS / m->vocab, TILE_MOST), tokens));
}

void whit_pass_take(whit_pass *s) {
	whit_arena *a = &s->arena;
	int64_t longest = 0, room;
	for (int64_t w = 0; w < s->ws->n; w++) longest = WHIT_MAX(longest, s->ws->w[w].end - s->ws->w[w].begin);
	room = s->room = WHIT_MAX(longest, WHIT_MIN(s->batch_tokens, s->ws->fed));
	s->tile = choose_tile(s->p.m, room);
	s->dev = s->p.m->dev;
	side_take(&s->p, a, room, s->tile, s->base || s->save);
	side_take(&s->q, a, room, s->tile, s->save != NULL);
	if (s->dev) take_on_device(s, a);
	if (s->base) s->base_rows = whit_take(a, s->tile * s->p.m->vocab);
	s->start = whit_take_bytes(a, (size_t)(room + 1) * sizeof(*s->start)); /* a window is a token at least */
	s->past = whit_take_bytes(a, (size_t)room * sizeof(*s->past));
	s->pos = whit_take_bytes(a, (size_t)room * sizeof(*s->pos));
	s->row = whit_take_bytes(a, (size_t)room * sizeof(*s->row));
	s->tokens = whit_take_bytes(a, (size_t)room * sizeof(*s->tokens));
	s->target = whit_take_bytes(a, (size_t)room * sizeof(*s->target));
	s->chunk = whit_take_bytes(a, (size_t)room * sizeof(*s->chunk));
	s->row_sums = whit_take_bytes(a, (size_t)room * 4 * sizeof(*s->row_sums));
	s->bad = whit_take_bytes(a, (size_t)s->tile * sizeof(*s->bad));
}

void whit_pass_free(whit_pass *s) {
	if (!s->room) return;
	side_free(&s->p);
	side_free(&s->q);
	if (s->dev) free_on_device(s);
	whit_arena_free(&s->arena);
	s->room = 0;
}

int64_t whit_pass_end(const whit_pass *s, int64_t w0) {
	int64_t tokens = 0, end = w0;
	for (; end < s->ws->n && tokens + s->ws->w[end].end - s->ws->w[end].begin <= s->room; end++)
		tokens += s->ws->w[end].end - s->ws->w[end].begin;
	return end;
}

/* Fills s->pt and s->layer from s->ws. */
static int pass_run(whit_pass *s, whit_err *e) {
	int64_t done = 0;
	int rc = 0;
	whit_pass_take(s);
	for (int64_t w = 0, end; w < s->ws->n && !rc; w = end) {
		end = whit_pass_end(s, w);
		rc = batch_run(s, w, end, s->pt + done, e);
		done += s->rows;
	}
	whit_pass_free(s);
	return rc;
}

/* ---- the text ---- */

static int check_models(const whit_model *m, const whit_model *ref, int64_t ctx, whit_err *e) {
	if (ref && ref->vocab != m->vocab)
		return whit_fail(e, WHIT_EINPUT, "%s: vocabulary is %lld, need the %lld of the reference %s",
		                 m->ckpt.path, (long long)m->vocab, (long long)ref->vocab, ref->ckpt.path);
	for (int i = 0; i < 2; i++) {
		const whit_model *x = i ? ref : m;
		if (x && x->context > 0 && ctx > x->context)
			return whit_fail(e, WHIT_EUSAGE, "%s: context is %lld, need at most the model's %lld",
			                 x->ckpt.path, (long long)ctx, (long long)x->context);
	}
	return 0;
}

/* The context asked for, or what 0 stands for. */
static int64_t choose_ctx(const whit_model *m, const whit_model *ref, int64_t asked) {
	int64_t context = ref && ref->context > 0 ? WHIT_MIN(ref->context, m->context) : m->context;
	return asked ? asked : context > 0 ? WHIT_MIN(context, 512) : 512;
}

int whit_eval_prepare(whit_eval_result *r, whit_ids *ids, whit_windows *ws, const whit_model *m, const whit_model *ref,
                      const whit_tok *tok, const char *text, size_t n, const whit_eval_opts *o, int64_t file_ctx,
                      whit_err *e) {
	const char *name = o->name ? o->name : "text";
	r->mode = o->mode;
	r->vocab = m->vocab;
	r->floor_kld = r->floor_top1 = NAN;
	r->ctx = choose_ctx(m, ref, o->ctx || !file_ctx ? o->ctx : file_ctx);
	r->stride = o->mode == WHIT_CHUNKED ? r->ctx : o->stride ? o->stride : WHIT_MAX(r->ctx / 2, 1);
	whit_eval_size(m, &r->bpw_linear, &r->bpw_file, &r->bytes, &r->params);

	int rc = check_models(m, ref, r->ctx, e);
	if (rc) return rc;
	r->text_bytes = (int64_t)n;
	r->text_hash = whit_hash_bytes(text, n);
	if ((rc = whit_tok_text(tok, name, text, n, r->vocab, ids, &r->text_invalid, e))) return rc;
	if (o->max_tokens > 0) ids->n = WHIT_MIN(ids->n, o->max_tokens);
	r->text_tokens = ids->n;
	if (o->apart && (rc = whit_apart(tok, r->vocab, name, ids->id, ids->n, o->apart, e))) return rc;
	if ((rc = whit_windows_make(ws, r->mode, ids->n, r->ctx, r->stride, whit_tok_adds_bos(tok), e)))
		return rc == WHIT_EUSAGE ? rc
		                         : whit_fail_in(e, "%s", name); /* a wrong option is not the text's fault */
	if (ws->scored < WHIT_FEW_TOKENS)
		return whit_fail(e, WHIT_EINPUT, "%s: gives %lld positions to score, need at least %d for statistics",
		                 name, (long long)ws->scored, WHIT_FEW_TOKENS);
	if (ws->n < WHIT_FEW_CHUNKS)
		whit_say("warning: %s: %lld windows, need %d for errors to be trusted", name, (long long)ws->n,
		         WHIT_FEW_CHUNKS);
	return 0;
}

/* ---- the run ---- */

int64_t whit_eval_batch(const whit_model *m, const whit_model *ref, int64_t ctx, const whit_eval_opts *o) {
	if (o->batch_tokens > 0) return WHIT_MAX(ctx, o->batch_tokens);
	int64_t hidden = ref ? WHIT_MAX(m->hidden, ref->hidden) : m->hidden;
	return WHIT_MAX(ctx, WHIT_MIN(STATE_FLOATS / hidden, BATCH_MOST));
}

/* On the text's first tokens. */
int whit_eval_floor(whit_eval_result *r, whit_model *ref, const whit_ids *ids, const whit_eval_opts *o, whit_err *e) {
	int64_t want = o->floor_tokens >= 0 ? o->floor_tokens : (int64_t)(floor_work / (double)WHIT_MAX(r->params, 1));
	whit_pass s = {.p = {.m = ref}, .q = {.m = ref, .plain = 1}, .ids = ids->id, .bos = -1, .batch_tokens = r->ctx};
	int64_t n = WHIT_MIN(want + 1, WHIT_MIN(ids->n, r->ctx));
	double kld = 0, same = 0;
	whit_windows ws = {0};
	int rc;
	if (!want || n < 2) return 0;
	if ((rc = whit_windows_make(&ws, WHIT_SLIDING, n, n, n, 0, e))) return rc;
	s.ws = &ws;
	s.pt = whit_alloc((size_t)ws.scored * sizeof(*s.pt));
	rc = pass_run(&s, e);
	for (int64_t i = 0; i < ws.scored && !rc; i++) {
		kld += s.pt[i].kld;
		same += s.pt[i].top1;
	}
	if (!rc) {
		r->floor_tokens = ws.scored;
		r->floor_kld = kld / (double)ws.scored;
		r->floor_top1 = same / (double)ws.scored;
	}
	whit_free(s.pt);
	whit_windows_free(&ws);
	return rc ? whit_fail_in(e, "noise floor") : 0;
}

static void layer_errors(whit_eval_result *r, const whit_layer_sums *sum, int64_t layers) {
	r->layers = layers;
	r->layer_err = whit_alloc((size_t)layers * sizeof(*r->layer_err));
	r->layer_cos = whit_alloc((size_t)layers * sizeof(*r->layer_cos));
	for (int64_t l = 0; l < layers; l++) { /* 0 / 0 is NaN: a block that is all zero has neither */
		r->layer_err[l] = sqrt(sum[l].diff2 / sum[l].p2);
		r->layer_cos[l] = sum[l].pq / (sqrt(sum[l].p2) * sqrt(sum[l].q2));
	}
}

static int measure(whit_eval_result *r, whit_pass *s, whit_model *ref, whit_err *e) {
	int64_t layers = ref && ref->layers == s->q.m->layers && ref->hidden == s->q.m->hidden ? ref->layers : 0;
	double *weight = NULL, start = whit_now();
	whit_progress bar;
	int rc;
	whit_progress_begin(&bar, "eval", pass_work(s));
	s->bar = &bar;
	s->pt = whit_alloc((size_t)s->ws->scored * sizeof(*s->pt));
	s->layer = layers ? whit_alloc((size_t)layers * sizeof(*s->layer)) : NULL;
	rc = pass_run(s, e);
	whit_progress_end(&bar);
	if (!rc) {
		r->seconds = whit_now() - start;
		r->tokens_per_s = (double)s->ws->fed / r->seconds;
		if (r->mode == WHIT_SLIDING_HF) {
			weight = whit_alloc((size_t)s->ws->n * sizeof(*weight));
			for (int64_t w = 0; w < s->ws->n; w++) weight[w] = s->ws->w[w].weight;
		}
		whit_summarize(&r->s, s->pt, s->ws->scored, r->have_ref, weight, s->ws->n);
		if (layers) layer_errors(r, s->layer, layers);
	}
	whit_free(weight);
	whit_free(s->layer);
	whit_free(s->pt);
	return rc;
}

/* Both files stand for chunks: opens them, and keeps the windows that the reference has. */
static int open_logits(whit_pass *s, whit_logits_out *out, const whit_logits *base, const whit_eval_result *r,
                       const whit_ids *ids, whit_windows *ws, const char *name, const whit_eval_opts *o, whit_err *e) {
	int rc = 0;
	if (base->row) {
		rc = whit_logits_match(base, ids->id, ids->n, r->ctx, r->vocab, name, e);
		if (rc) return rc;
		ws->n = base->chunks;
		ws->scored = base->chunks * base->rows;
		ws->fed = base->chunks * base->ctx;
		s->base = base;
	}
	if (o->save_logits) rc = whit_logits_out_open(out, o->save_logits, r->ctx, r->vocab, ws->n, ids->id, e);
	if (!rc && o->save_logits) s->save = out;
	return rc;
}

int whit_eval_run(whit_eval_result *r, whit_model *m, whit_model *ref, const whit_tok *tok, const char *text, size_t n,
                  const whit_eval_opts *o, whit_err *e) {
	const char *name = o->name ? o->name : "text";
	whit_windows ws = {0};
	whit_ids ids = {0};
	whit_logits base = {0};
	whit_logits_out save = {0};
	int rc = 0;
	*r = (whit_eval_result){.have_ref = ref || o->ref_logits};
	if ((o->save_logits || o->ref_logits) && (o->mode != WHIT_CHUNKED || (ref && o->ref_logits)))
		rc = whit_fail(e, WHIT_EUSAGE, "base logits: need mode chunked, and one reference");
	if (!rc && o->ref_logits) rc = whit_logits_open(&base, o->ref_logits, e);
	if (rc) {
		whit_eval_free(r);
		return rc;
	}

	rc = whit_eval_prepare(r, &ids, &ws, m, ref, tok, text, n, o, base.row ? base.ctx : 0, e);
	if (!rc) {
		whit_pass s = {.p = {.m = ref ? ref : m},
		               .q = {.m = ref ? m : NULL},
		               .ids = ids.id,
		               .ws = &ws,
		               .bos = ws.bos_replaces_first ? whit_tok_bos(tok) : -1,
		               .batch_tokens = whit_eval_batch(m, ref, r->ctx, o)};
		s.p.plain = s.p.m->plain;
		s.q.plain = m->plain;
		rc = open_logits(&s, &save, &base, r, &ids, &ws, name, o, e);
		if (!rc) rc = measure(r, &s, ref, e);
	}
	if (!rc && ref) rc = whit_eval_floor(r, ref, &ids, o, e);
	if (!rc && base.row) rc = whit_map_check(&base.map, e);
	if (!rc && o->save_logits) rc = whit_logits_out_commit(&save, e);
	whit_logits_out_abort(&save); /* nothing, once committed */
	whit_logits_close(&base);
	whit_windows_free(&ws);
	whit_ids_free(&ids);
	if (rc) whit_eval_free(r);
	return rc;
}

size_t whit_eval_need(const whit_model *m, const whit_model *ref, const whit_eval_opts *o) {
	int64_t ctx = choose_ctx(m, ref, o->ctx);
	int64_t T = whit_eval_batch(m, ref, ctx, o);
	int64_t tile = choose_tile(m, T);
	return whit_model_need(m, T, tile, 0, 0) + (ref ? whit_model_need(ref, T, tile, 0, 0) : 0);
}

void whit_eval_free(whit_eval_result *r) {
	whit_free(r->layer_err);
	whit_free(r->layer_cos);
	memset(r, 0, sizeof(*r));
}

/* ---- size ---- */

static int64_t weight_count(const whit_weight *w) {
	int64_t n = 1;
	for (int d = 0; d < w->ndim; d++) n *= w->shape[d];
	return n;
}

/* Bytes of w's codebook unless an earlier weight of the checkpoint has the same one. */
static int64_t codebook_bytes(const whit_ckpt *c, int64_t i) {
	const whit_mat *m = &c->w[i].mat;
	const void *book = m->book ? (const void *)m->book : m->codebook;
	if (!book) return 0;
	for (int64_t k = 0; k < i; k++) {
		const whit_mat *o = &c->w[k].mat;
		if (!c->w[k].alias && !c->w[k].passthrough && (o->codebook == book || o->book == book)) return 0;
	}
	return m->book ? whit_frc_book_bytes(m->book->block, m->spec.flags) : (int64_t)whit_mat_book_bytes(m);
}

void whit_eval_size(const whit_model *m, double *bpw_linear, double *bpw_file, int64_t *bytes, int64_t *params) {
	const whit_ckpt *c = &m->ckpt;
	int64_t quant_bytes = 0, quant_n = 0, lin_bytes = 0, lin_n = 0, n = 0;
	for (int64_t i = 0; i < c->n; i++) {
		const whit_weight *w = &c->w[i];
		const char *role;
		int64_t layer, count = weight_count(w);
		if (w->alias) continue;
		n += count;
		if (c->kind != WHIT_CKPT_HF && !w->passthrough) {
			quant_bytes += w->bytes + codebook_bytes(c, i);
			quant_n += count;
		}
		if (whit_model_role(m, w->name, &role, &layer) == 1) {
			lin_bytes += w->bytes;
			lin_n += count;
		}
	}
	if (!quant_n) {
		quant_bytes = lin_bytes;
		quant_n = lin_n;
	}
	*bpw_linear = quant_n ? 8.0 * (double)quant_bytes / (double)quant_n : NAN;
	*bpw_file = n ? 8.0 * (double)c->file_bytes / (double)n : NAN;
	*bytes = c->file_bytes;
	*params = n;
}

/* ---- prompts ---- */

static double cosine_of(const float *p, const float *q, int64_t n) {
	double pp = 0, qq = 0, pq = 0;
	for (int64_t i = 0; i < n; i++) {
		pp += (double)p[i] * p[i];
		qq += (double)q[i] * q[i];
		pq += (double)p[i] * q[i];
	}
	return pp > 0 && qq > 0 ? pq / (sqrt(pp) * sqrt(qq)) : NAN;
}

/* Prompt i of many, encoded behind those before it. */
static int add_prompt(whit_ids *ids, const whit_tok *tok, const char *prompt, int i, int64_t context, whit_err *e) {
	int64_t before = ids->n;
	int rc = whit_tok_encode(tok, prompt, strlen(prompt), WHIT_TOK_SPECIAL | WHIT_TOK_PARSE, ids, e);
	if (rc) return whit_fail_in(e, "prompt %d", i + 1);
	if (ids->n == before) return whit_fail(e, WHIT_EINPUT, "prompt %d: is empty, need text", i + 1);
	if (context > 0 && ids->n - before > context)
		return whit_fail(e, WHIT_EINPUT, "prompt %d: is %lld tokens, need at most the model's context %lld",
		                 i + 1, (long long)(ids->n - before), (long long)context);
	return 0;
}

/* Prompts [i0, i1) as one batch through both models. */
static int prompt_batch(whit_model *m, whit_model *ref, const whit_tok *tok, const char *const *prompt, int i0, int i1,
                        double *cosine, whit_err *e) {
	int64_t context = WHIT_MIN(m->context, ref->context), *start, *past, *pos;
	whit_arena a = {0};
	whit_ids ids = {0};
	int n = i1 - i0, rc = 0;
	start = whit_take_bytes(&a, (size_t)(n + 1) * sizeof(*start));
	past = whit_take_bytes(&a, (size_t)n * sizeof(*past));
	start[0] = 0;
	for (int i = 0; i < n && !rc; i++) {
		past[i] = 0;
		rc = add_prompt(&ids, tok, prompt[i0 + i], i0 + i, context, e);
		start[i + 1] = ids.n;
	}
	if (!rc) {
		float *p = whit_take(&a, n * ref->vocab), *q = whit_take(&a, n * m->vocab);
		pos = whit_take_bytes(&a, (size_t)ids.n * sizeof(*pos));
		for (int i = 0; i < n; i++)
			for (int64_t t = start[i]; t < start[i + 1]; t++) pos[t] = t - start[i];
		whit_batch b = {ids.n, n, start, past, pos, ids.id};
		rc = whit_model_step(ref, &b, NULL, p, e);
		if (!rc) rc = whit_model_step(m, &b, NULL, q, e);
		for (int i = 0; i < n && !rc; i++)
			cosine[i0 + i] = cosine_of(p + i * m->vocab, q + i * m->vocab, m->vocab);
	}
	whit_ids_free(&ids);
	whit_arena_free(&a);
	return rc;
}

int whit_eval_prompts(whit_model *m, whit_model *ref, const whit_tok *tok, const char *const *prompt, int n,
                      double *cosine, whit_err *e) {
	int each = (int)WHIT_MAX(1, WHIT_MIN(TILE_FLOATS / m->vocab, 32)), rc = check_models(m, ref, 0, e);
	for (int i = 0; i < n && !rc; i += each) {
		rc = prompt_batch(m, ref, tok, prompt, i, WHIT_MIN(i + each, n), cosine, e);
		if (!rc) rc = whit_interrupted(e);
	}
	return rc;
}
