/* The run of a quantization: codes from a method, bytes from a format; this walks the tensors, and layers where texts
 * run through the model. */
#include "calib/quantize.h"
#include "calib/parts.h"
#include "calib/quantize_own.h"
#include "calib/stats_own.h"
#include "host/progress.h"

/* A matrix that stands in the calibrated model's place of its own. */
typedef struct placed {
	struct placed *next; /* the model borrows them where they are */
	const whit_plan_row *row;
	whit_mat mat, floats; /* floats: where the model has rows or columns in another order, or an adapter */
	whit_lowrank lost;    /* the adapter's factors, rank 0: there are none */
	whit_job job;
	double seconds;
} placed;

typedef struct quantize_run {
	const whit_plan *plan;
	whit_encoder encoder; /* its rotations and codebooks until the output is complete */
	whit_sink *sink;
	whit_residual residual;
	whit_quantize_stats *st;
	double err, ref;
	whit_progress *bar; /* NULL: calibration has one */
	double done;
	const whit_model *model;
	whit_model *running; /* texts run through it; NULL: none do */
	placed *placed;
} quantize_run;

/* The model's own order of what a GGUF's row stores, its adapter added. */
static int own_order(placed *p, whit_err *e) {
	const whit_gguf_change back = whit_gguf_change_back(&p->row->change);
	whit_mat_free(&p->floats);
	int rc = whit_mat_floats(&p->floats, &p->mat, e);
	if (!rc && p->lost.rank) whit_lowrank_add(&p->lost, (float *)(uintptr_t)p->floats.plane[0]);
	if (rc || !p->row->changed || !back.block) return rc;
	whit_gguf_apply(&back, (float *)(uintptr_t)p->floats.plane[0], p->floats.rows, p->floats.cols);
	return 0;
}

/* The model goes on with p's codes. */
static int place(quantize_run *q, placed *p, whit_err *e) {
	int floats = p->row->changed || p->lost.rank, rc = floats ? own_order(p, e) : 0;
	return rc ? rc : whit_model_replace(q->running, p->row->w->name, floats ? &p->floats : &p->mat, e);
}

/* Gives the model its own matrices back, of layers (else of all). */
static void unplace(quantize_run *q, int layers) {
	whit_err none;
	for (placed **at = &q->placed, *p; (p = *at);) {
		if (layers && p->row->layer < 0) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		whit_model_replace(q->running, p->row->w->name, NULL, &none);
		whit_mat_free(&p->mat);
		whit_mat_free(&p->floats);
		whit_lowrank_free(&p->lost);
		whit_free(p);
	}
	for (const whit_scaled *v = q->encoder.scaled; v; v = v->next)
		if (v->vec) whit_model_replace_vector(q->running, v->w->name, NULL, &none);
}

static double rel_mse_of(const whit_job *j) { return j->ref > 0 ? j->err / j->ref : 0; }

/* A tensor's codes, and what they lack, to where results go. */
static int store_codes(quantize_run *q, const whit_plan_row *row, const whit_mat *m, const whit_lowrank *lost,
                       const whit_job *j, double seconds, whit_err *e) {
	char name[32];
	int rc = q->sink->add(q->sink, row, m, j->zero_groups, rel_mse_of(j), e);
	if (!rc) rc = whit_residual_write(&q->residual, row, m, lost, e);
	if (rc) return rc;
	q->err += j->err;
	q->ref += j->ref;
	q->st->weights += m->rows * m->cols;
	q->st->zero_groups += j->zero_groups;
	q->st->f32_scale_tensors += m->scale_f32;
	whit_spec_name(&row->spec, name);
	json_t *event =
	        json_pack("{s:s, s:s, s:s, s:I, s:f, s:I, s:b, s:f}", "name", row->w->name, "format", name, "method",
	                  row->method->name, "bytes", (json_int_t)row->bytes, "rel_mse", rel_mse_of(j), "zero_groups",
	                  (json_int_t)j->zero_groups, "scale_f32", m->scale_f32, "seconds", seconds);
	if (row->method->needs) {
		q->st->loss += j->loss;
		q->st->loss_nearest += j->loss_nearest;
		q->st->rows += m->rows;
		q->st->rows_nearest += j->rows_nearest;
		json_object_set_new(event, "loss", json_real(j->loss));
		json_object_set_new(event, "loss_nearest", json_real(j->loss_nearest));
		json_object_set_new(event, "rows_nearest", json_integer(j->rows_nearest));
	}
	whit_event("tensor", event);
	return 0;
}

static int quantize_tensor(quantize_run *q, const whit_plan_row *row, double *rel_mse, whit_err *e) {
	whit_mat m;
	whit_job j;
	whit_lowrank lost = {0};
	double start = whit_now();
	int rc = whit_encoder_run(&q->encoder, row, &m, &j, e);
	if (!rc) rc = whit_residual_fit(&q->residual, &q->encoder, row, &m, &lost, e);
	if (!rc) rc = store_codes(q, row, &m, &lost, &j, whit_now() - start, e);
	*rel_mse = rel_mse_of(&j);
	whit_lowrank_free(&lost);
	whit_mat_free(&m);
	return rc;
}

/* A kept tensor whose values go into other floats (a norm as F32), or into pairs: a vector's elements are then its
 * rows. */
static int convert_tensor(quantize_run *q, const whit_plan_row *row, whit_err *e) {
	float *copy;
	whit_weight src = whit_encoder_source(&q->encoder, row, &copy);
	if (row->paired && src.mat.rows == 1) {
		src.mat.rows = src.mat.cols;
		src.mat.cols = src.mat.width = 1;
		src.mat.row_bytes[0] /= (size_t)src.mat.rows;
	}
	whit_mat m = {.spec = row->spec,
	              .rows = src.mat.rows,
	              .cols = src.mat.cols,
	              .width = src.mat.cols,
	              .paired = row->paired};
	whit_job j = {.src = &src, .dst = &m};
	int rc = whit_mat_alloc(&m, e);
	if (!rc) rc = whit_method_rows(&j, e);
	if (!rc && j.bad_scales)
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: tensor %s: %lld weights are beyond F16, need a line of the recipe for it",
		               row->w->file, row->w->name, (long long)j.bad_scales);
	if (!rc) rc = q->sink->add(q->sink, row, &m, 0, 0, e);
	whit_mat_free(&m);
	whit_free(copy);
	return rc;
}

/* A weight that stays as it is still has to be finite, where it is made of numbers that could be otherwise. */
static int pass_tensor(quantize_run *q, const whit_plan_row *row, whit_err *e) {
	if (row->spec.fmt && (!row->as_is || (row->paired && row->w->mat.rows == 1))) return convert_tensor(q, row, e);
	int rc = row->w->mat.spec.fmt ? whit_weight_finite(row->w, e) : 0;
	const whit_scaled *own = whit_encoder_scaled(&q->encoder, row->w);
	return rc ? rc : q->sink->pass(q->sink, row, own ? own->bytes : NULL, e);
}

static int run_row(quantize_run *q, const whit_plan_row *row, whit_err *e) {
	double rel_mse = 0;
	if (row->absent) return 0;
	int rc = whit_interrupted(e);
	if (!rc) rc = row->why_kept || row->as_is ? pass_tensor(q, row, e) : quantize_tensor(q, row, &rel_mse, e);
	if (!row->why_kept && row->as_is) q->st->weights += row->w->mat.rows * row->w->mat.cols;
	whit_weight_drop(row->w);
	q->done += (double)row->w->bytes;
	if (rc || !q->bar) return rc;
	char *label = row->why_kept ? whit_format_text("%s kept", row->w->name)
	                            : whit_format_text("%s rel_mse %.3g", row->w->name, rel_mse);
	whit_progress_step(q->bar, q->done, label);
	whit_free(label);
	return 0;
}

static const placed *placed_of(const quantize_run *q, const whit_plan_row *row) {
	const placed *p = q->placed;
	while (p && p->row != row) p = p->next;
	return p;
}

/* Rows of that layer, which stand together, to where results go; those that are placed have their codes. */
static int run_layer(quantize_run *q, int64_t layer, whit_err *e) {
	const whit_plan *p = q->plan;
	int64_t i = 0;
	int rc = q->running || layer < 0 ? 0 : whit_encoder_scale(&q->encoder, p, &q->model->layer[layer], layer, e);
	while (i < p->n && p->row[i].layer < layer) i++;
	whit_event("layer_begin", json_pack("{s:I}", "layer", (json_int_t)layer));
	for (; i < p->n && p->row[i].layer == layer && !rc; i++) {
		const placed *x = placed_of(q, &p->row[i]);
		rc = x ? store_codes(q, x->row, &x->mat, &x->lost, &x->job, x->seconds, e) : run_row(q, &p->row[i], e);
	}
	return rc;
}

static int run_rows(quantize_run *q, int64_t layers, whit_err *e) {
	const whit_plan *p = q->plan;
	whit_progress bar;
	double total = 0;
	int rc = 0;
	for (int64_t i = 0; i < p->n; i++) total += p->row[i].absent ? 0 : (double)p->row[i].w->bytes;
	whit_progress_begin(&bar, p->target.gguf ? "export" : "quantize", total);
	q->bar = &bar;
	for (int64_t l = -1; l < layers && !rc; l++) rc = run_layer(q, l, e);
	whit_progress_end(&bar);
	return rc;
}

static int is_coded_row(const whit_plan_row *row) { return !row->absent && !row->why_kept && !row->as_is; }

/* Codes of all rows of that layer, in the model's places. */
static int place_layer(quantize_run *q, int64_t layer, whit_err *e) {
	const whit_plan *p = q->plan;
	int rc = 0;
	for (int64_t i = 0; i < p->n && !rc; i++) {
		const whit_plan_row *row = &p->row[i];
		if (row->layer != layer || !is_coded_row(row)) continue;
		double start = whit_now();
		placed *x = whit_alloc(sizeof *x);
		*x = (placed){.next = q->placed, .row = row};
		q->placed = x;
		rc = whit_encoder_run(&q->encoder, row, &x->mat, &x->job, e);
		x->seconds = whit_now() - start;
		if (!rc) rc = place(q, x, e);
		whit_weight_drop(row->w);
	}
	return rc;
}

/* What the layer's codes lack, in the model too: what trains them, and layers behind, are to see what a run with the
 * adapter will give them. */
static int adapt_layer(quantize_run *q, int64_t layer, whit_err *e) {
	int rc = 0;
	for (placed *p = q->placed; p && !rc; p = p->next) {
		if (p->row->layer != layer) continue;
		rc = whit_residual_fit(&q->residual, &q->encoder, p->row, &p->mat, &p->lost, e);
		if (!rc && p->lost.rank) rc = place(q, p, e);
	}
	return rc;
}

/* What a placed matrix is to reconstruction: itself, or its classes of rows. */
typedef struct rebuilt {
	placed *p;
	whit_weight src;
	float *copy, *more;              /* the source's own values, and the adapter's product, where there is one */
	whit_fabq_part part[WHIT_PARTS]; /* of a record */
	float *balance;                  /* that it stores */
} rebuilt;

/* Adds b's items; returns their number. */
static int take_apart(const quantize_run *q, rebuilt *b, whit_latent_item *item, whit_err *e) {
	placed *p = b->p;
	int n = 0;
	b->src = whit_encoder_source(&q->encoder, p->row, &b->copy);
	if (p->lost.rank) {
		b->more = whit_alloc((size_t)(p->mat.rows * p->mat.cols) * sizeof *b->more);
		whit_lowrank_add(&p->lost, b->more);
	}
	*item = (whit_latent_item){.name = p->row->w->name,
	                           .src = &b->src,
	                           .mat = &p->mat,
	                           .more = b->more,
	                           .change = p->row->changed ? &p->row->change : NULL};
	if (!p->mat.spec.fmt->record) return 1;
	if (p->mat.spec.flags & WHIT_FRC_BALANCE)
		whit_frc_balance(&p->mat, b->balance = whit_alloc((size_t)p->mat.width * sizeof *b->balance));
	int rc = whit_parts_take(b->part, &p->mat, &b->src, e);
	for (int i = 0; i < WHIT_PARTS && !rc; i++)
		if (b->part[i].mat.rows && whit_part_trains(&b->part[i]))
			item[n++] = (whit_latent_item){.name = p->row->w->name,
			                               .src = &b->part[i].src,
			                               .mat = &b->part[i].mat,
			                               .balance = b->balance,
			                               .row = b->part[i].row};
	return rc ? rc : n;
}

/* Placed matrices that have codes, of that layer or (-1) of all, apart: *n of them, *items items. The caller frees b by
 * put_together, item by whit_free, also after an error. */
static int take_layer_apart(quantize_run *q, int64_t layer, rebuilt **b, int *n, whit_latent_item **item, int *items,
                            whit_err *e) {
	size_t most = 1;
	int rc = 0;
	for (const placed *p = q->placed; p; p = p->next) most++;
	*n = *items = 0;
	*b = whit_alloc(most * sizeof **b);
	*item = whit_alloc(most * WHIT_PARTS * sizeof **item);
	for (placed *p = q->placed; p && rc >= 0; p = p->next) {
		if (p->row->layer < 0 || (layer >= 0 && p->row->layer != layer)) continue;
		if (!whit_feedback_fits(&p->row->spec) && !p->mat.spec.fmt->record) continue;
		(*b)[*n].p = p;
		rc = take_apart(q, &(*b)[(*n)++], *item + *items, e);
		*items += WHIT_MAX(rc, 0);
	}
	return WHIT_MIN(rc, 0);
}

/* What was trained goes on in the model; changed: it may be other codes. */
static int put_together(quantize_run *q, rebuilt *b, int n, int changed, int rc, whit_err *e) {
	for (int i = 0; i < n; i++) {
		placed *p = b[i].p;
		if (!rc && changed && p->mat.spec.fmt->record) whit_parts_put(&p->mat, b[i].part);
		if (!rc && changed) whit_weight_error(&b[i].src, &p->mat, &p->job.err, &p->job.ref);
		if (!rc) rc = place(q, p, e);
		whit_free(b[i].copy);
		whit_free(b[i].more);
		whit_free(b[i].balance);
		whit_parts_free(b[i].part);
	}
	whit_free(b);
	return rc;
}

/* The layer's codes (floats stay what they are) fitted to its outputs. */
static int rebuild_layer(quantize_run *q, int64_t layer, const whit_stats_states *x, whit_err *e) {
	const whit_reconstruct_opts *o = &q->encoder.calibration->reconstruct;
	whit_reconstruct_result r = {0};
	whit_latent_item *item;
	rebuilt *b;
	int n, items, rc = take_layer_apart(q, layer, &b, &n, &item, &items, e);
	if (!rc) rc = whit_reconstruct(q->running, layer, x, item, items, o, &r, e);
	rc = put_together(q, b, n, r.steps > 0, rc, e);
	whit_free(item);
	if (rc || !n) return rc;
	q->st->rebuilt_before += r.before;
	q->st->rebuilt_after += r.after;
	q->st->rebuilt++;
	whit_event("reconstruct", json_pack("{s:I, s:f, s:f, s:I}", "layer", (json_int_t)layer, "before", r.before,
	                                    "after", r.after, "steps", (json_int_t)r.steps));
	return 0;
}

/* All layers' codes fitted to the original's distribution. */
static int distill_model(quantize_run *q, const whit_stats_states *x, whit_err *e) {
	const whit_calibration *c = q->encoder.calibration;
	whit_distill_result *r = &q->st->distilled;
	whit_latent_item *item;
	rebuilt *b;
	int n, items, rc = take_layer_apart(q, -1, &b, &n, &item, &items, e);
	if (!rc) rc = whit_distill(q->running, c->original, x, item, items, &c->distill, r, e);
	rc = put_together(q, b, n, r->steps > 0, rc, e);
	whit_free(item);
	if (!rc)
		whit_event("distill", json_pack("{s:f, s:f, s:I}", "before", r->before, "after", r->after, "steps",
		                                (json_int_t)r->steps));
	return rc;
}

/* The layer's columns scaled, in the model too. */
static int scale_layer(quantize_run *q, int64_t layer, whit_err *e) {
	int rc = whit_encoder_scale(&q->encoder, q->plan, &q->running->layer[layer], layer, e);
	for (const whit_scaled *s = q->encoder.scaled; s && !rc; s = s->next)
		if (s->vec && s->layer == layer) rc = whit_model_replace_vector(q->running, s->w->name, s->vec, e);
	return rc;
}

/* Codes of layers wait in the model's places where the whole is to be distilled, else only until the next is known. */
static int layer_known(void *ctx, const whit_stats *s, int64_t layer, const whit_stats_states *x, whit_err *e) {
	quantize_run *q = ctx;
	whit_calibration *c = q->encoder.calibration;
	int wait = c->distill.steps > 0;
	c->live = s;
	if (!wait) unplace(q, 1);
	int rc = scale_layer(q, layer, e);
	if (!rc) rc = place_layer(q, layer, e);
	if (!rc) rc = adapt_layer(q, layer, e);
	if (!rc && c->reconstruct.steps) rc = rebuild_layer(q, layer, x, e);
	if (rc || !wait) return rc ? rc : run_layer(q, layer, e);
	if (layer + 1 < q->running->layers) return 0;
	rc = distill_model(q, x, e);
	for (int64_t l = 0; l <= layer && !rc; l++) rc = run_layer(q, l, e);
	return rc;
}

/* The models that texts run through, to the device. As many chunks as the texts' bytes can make are provided for. */
static int move_models(const whit_calibration *c, whit_err *e) {
	whit_model *both[2] = {c->running, c->o.other};
	whit_stats_opts o = c->o, back = {.kinds = WHIT_STAT_WEIGHTS, .ctx = o.ctx, .chunks = o.chunks};
	int64_t ctx = o.ctx ? o.ctx : 1, bytes = 0;
	for (int i = 0; i < c->n_text; i++) bytes += (int64_t)c->text[i].bytes;
	if (!o.chunks) o.chunks = bytes / ctx + 1;
	size_t need = whit_stats_need(c->running, &o);
	if (c->guided) need = WHIT_MAX(need, whit_stats_need(c->running, &back));
	return whit_models_device(both, o.other ? 2 : 1, c->dev, need, e);
}

/* What tokens weigh, by the gradients of the model that runs, which is the original as yet. */
static int weigh_tokens(whit_calibration *c, whit_stats *weights, whit_err *e) {
	whit_stats_opts o = c->o;
	double bytes = 0;
	o.kinds = WHIT_STAT_WEIGHTS, o.other = NULL, o.layer = NULL;
	int rc = whit_stats_run(weights, c->running, c->tok, c->text, c->n_text, &o, e);
	if (rc) return rc;
	for (int64_t l = 0; l < c->running->layers; l++)
		for (int64_t i = 0; i < weights->layer[l].n; i++)
			bytes += (double)whit_sum_bytes(&weights->layer[l].sum[i]);
	whit_say("weights of %lld tokens in %d groups of rows: %.1f MB are kept", (long long)weights->tokens, o.groups,
	         bytes / 1e6);
	c->o.weights = weights;
	return 0;
}

/* Texts run through the model and the rows are quantized as they come by. */
static int run_texts(quantize_run *q, whit_err *e) {
	whit_calibration *c = q->plan->target.calibration;
	whit_stats s, weights = {0};
	unsigned needs = 0, cross = WHIT_NEEDS_CROSS | WHIT_USES_CROSS;
	for (int64_t i = 0; i < q->plan->n; i++)
		if (q->plan->row[i].method) needs |= q->plan->row[i].method->needs;
	c->o.kinds = (needs || c->scaling || q->residual.out ? WHIT_STAT_HESSIAN : WHIT_STAT_DIAG) |
	             (needs & cross ? WHIT_STAT_CROSS : 0) | (needs && c->guided ? WHIT_STAT_WEIGHTED : 0) |
	             (whit_scaling_size(c->scaling) ? WHIT_STAT_SIZE : 0);
	c->o.other = needs & cross || c->reconstruct.steps || c->distill.steps ? c->original : NULL;
	c->o.layer = layer_known;
	c->o.ctx_layer = q;
	q->running = c->running;
	int rc = c->dev ? move_models(c, e) : 0;
	if (!rc && c->o.kinds & WHIT_STAT_WEIGHTED) rc = weigh_tokens(c, &weights, e);
	if (!rc) rc = place_layer(q, -1, e);
	if (!rc) rc = run_layer(q, -1, e);
	if (!rc) rc = whit_stats_run(&s, c->running, c->tok, c->text, c->n_text, &c->o, e);
	if (!rc) whit_stats_free(&s);
	if (c->o.weights) whit_stats_free(&weights);
	c->live = NULL, c->o.weights = NULL;
	unplace(q, 0);
	return rc;
}

/* Whether anything of the plan wants what the calibration's texts say. */
static int runs_texts(const whit_plan *p) {
	const whit_calibration *c = p->target.calibration;
	return c && !c->dir.path &&
	       (p->calibrated || c->scaling || c->reconstruct.steps || c->distill.steps || p->target.lora_rank);
}

int whit_quantize_run(const whit_plan *p, const whit_model *m, const whit_recipe *r, whit_sink *sink,
                      whit_quantize_stats *st, whit_err *e) {
	whit_calibration *c = p->target.calibration;
	quantize_run q = {
	        .plan = p, .st = st, .sink = sink, .model = m, .encoder = {.dev = p->target.dev, .calibration = c}};
	double start = whit_now();
	memset(st, 0, sizeof *st);
	if (c) c->feedback.dev = p->target.dev;
	int rc = sink->open(sink, p, m, r, st, e);
	if (!rc) rc = whit_residual_open(&q.residual, p, m, e);
	if (!rc) rc = whit_encoder_train(&q.encoder, p, e);
	if (!rc) rc = runs_texts(p) ? run_texts(&q, e) : run_rows(&q, m->layers, e);
	if (!rc) rc = whit_ckpt_check(&m->ckpt, e);
	if (!rc)
		rc = sink->commit(sink, e);
	else
		sink->abort(sink);
	rc = whit_residual_close(&q.residual, rc, e);

	st->lora = q.residual.st;
	st->folds = q.encoder.folds;
	whit_encoder_free(&q.encoder);
	st->rel_mse = q.ref > 0 ? q.err / q.ref : 0;
	st->seconds = whit_now() - start;
	return rc;
}
