/* models: prefill and decode of a whole model, on the CPU or on a device, against the time that its bytes take at the
 * copy roof. */
#include "bench/run.h"
#include <stdio.h>
#include <stdlib.h>
#include "eval/eval.h"

typedef struct pass {
	whit_model *m;
	whit_state *s;
	int64_t prompt, n;
	int32_t *tokens, next; /* prompt + n; what whit_model_next said */
	int64_t *pos;          /* 0, 1, ... */
	float *logits;         /* one row */
	int greedy;
} pass;

/* T tokens behind `past`. The clock's reading is of the work alone: everything queued before is done when it starts,
 * and a step ends with its logits, or its token, in host memory. */
static int timed_step(pass *p, int64_t past, int64_t T, int greedy, double *seconds, whit_err *e) {
	int64_t start[2] = {0, T};
	whit_batch b = {
	        .T = T, .n_seq = 1, .start = start, .past = &past, .pos = p->pos + past, .tokens = p->tokens + past};
	double t0 = whit_now();
	int rc = greedy ? whit_model_next(p->m, &b, p->s, &p->next, e) : whit_model_step(p->m, &b, p->s, p->logits, e);
	*seconds = whit_now() - t0;
	return rc;
}

typedef struct measured {
	bench_time prefill; /* the whole prompt in one batch */
	bench_time first;   /* that and the decode step behind it */
	double cold;        /* the same the very first time: what is made once, graphs among it, included */
	bench_time decode;  /* one token at a time */
} measured;

static int time_prefill(pass *p, double seconds, measured *r, whit_err *e) {
	static double whole[BENCH_MOST], both[BENCH_MOST];
	double begin = 0, decode;
	int rc = 0, n = -1; /* sample -1 is the warm-up */
	for (; n < 0 || !bench_enough(n, whole[0], whit_now() - begin, seconds); n++) {
		int at = WHIT_MAX(n, 0);
		if (n == 0) begin = whit_now();
		whit_state_clear(p->s);
		if (p->m->dev && (rc = whit_dev_sync(p->m->dev, e))) return rc;
		if ((rc = timed_step(p, 0, p->prompt, 0, &whole[at], e))) return rc;
		if ((rc = timed_step(p, p->prompt, 1, p->greedy, &decode, e))) return rc;
		both[at] = whole[at] + decode;
		if (n < 0) r->cold = both[at];
		if ((rc = whit_interrupted(e))) return rc;
	}
	r->prefill = bench_spread(whole, n);
	r->first = bench_spread(both, n);
	return 0;
}

/* The state holds the prompt. Warm-ups write the row of the first step again and again: a device records a graph in
 * them, and clocks settle. */
static int time_decode(pass *p, measured *r, whit_err *e) {
	enum { WARM = 4 };
	double *took = whit_alloc(sizeof *took * (size_t)p->n);
	int rc = 0;
	for (int64_t i = -WARM; i < p->n && !rc; i++) {
		rc = timed_step(p, p->prompt + WHIT_MAX(i, 0), 1, p->greedy, &took[WHIT_MAX(i, 0)], e);
		if (!rc) rc = whit_interrupted(e);
	}
	if (!rc) r->decode = bench_spread(took, (int)p->n);
	whit_free(took);
	return rc;
}

/* ---- what a step reads ---- */

typedef struct traffic {     /* bytes, but: */
	double weights;      /* number of those of linears that one token passes: head included, embedding lookup not */
	double layers, head; /* those weights as they are stored: of the blocks, and of the head */
	double kv;           /* keys and values of a decode step, mean over the measured ones */
} traffic;

static double stored(const whit_program *p, double *weights) {
	double n = 0;
	for (int i = 0; i < p->n_slot; i++) {
		const whit_mat *w = &p->slot[i].weight->mat;
		if (w->rows <= 1) continue;
		double all = (double)w->rows * (double)w->cols;
		*weights += all;
		if (p->slot[i].dense.rows) n += 4 * all;
		for (int k = 0; k < WHIT_PLANES && !p->slot[i].dense.rows; k++)
			n += (double)w->row_bytes[k] * (double)w->rows;
	}
	return n;
}

/* State grows with the tokens it can hold; a window reads no more than itself. */
static double kv_read(const pass *p) {
	double all = 0, read = 0, tokens = (double)p->prompt + ((double)p->n + 1) / 2, cap = (double)(p->prompt + p->n);
	for (int64_t l = 0; l < p->m->layers; l++) {
		for (int i = 0; i < p->m->layer[l].n_node; i++) {
			const whit_node *n = &p->m->layer[l].node[i];
			if (n->state < 0) continue;
			double bytes = (double)n->op->state_bytes(n, p->prompt + p->n);
			all += bytes;
			read += bytes * (n->a.window ? WHIT_MIN(tokens, (double)n->a.window) : tokens) / cap;
		}
	}
	return all > 0 ? read / all * (double)whit_state_bytes(p->s) : 0; /* whose elements may be narrower */
}

static traffic traffic_of(const pass *p) {
	traffic t = {0};
	t.head = stored(&p->m->head, &t.weights);
	for (int64_t l = 0; l < p->m->layers; l++) t.layers += stored(&p->m->layer[l], &t.weights);
	t.kv = kv_read(p);
	return t;
}

/* Seconds that a token takes at least: all it reads at the copy roof, and, where layers are streamed, those through
 * the host's bus, meanwhile. */
static double bound(const bench_run *b, const pass *p, const traffic *t) {
	double s = (t->layers + t->head + t->kv) / b->roof.copy;
	if (whit_model_streams(p->m)) s = WHIT_MAX(s, t->layers / b->roof.upload);
	return s;
}

/* ---- the report ---- */

static json_t *spread_json(const bench_time *t, double tokens_per_s) {
	json_t *j = json_pack("{s:{s:f, s:f, s:f, s:f, s:f}, s:i}", "seconds", "p10", t->p10, "p50", t->median, "p90",
	                      t->p90, "p99", t->p99, "mean", t->mean, "samples", t->samples);
	if (tokens_per_s > 0) json_object_set_new(j, "tokens_per_s", json_real(tokens_per_s));
	return j;
}

static void print_times(const char *what, const bench_time *t, double tokens_per_s) {
	printf("  %-12s", what);
	if (tokens_per_s > 0)
		printf(" %10.1f tokens/s", tokens_per_s);
	else
		printf(" %19s", "");
	printf("   ms: p10 %.3f, p50 %.3f, p90 %.3f, p99 %.3f (%d samples)\n", t->p10 * 1e3, t->median * 1e3,
	       t->p90 * 1e3, t->p99 * 1e3, t->samples);
}

static void report(bench_run *b, const pass *p, const char *name, unsigned open_flags, const measured *r) {
	whit_dev *d = p->m->dev;
	traffic t = traffic_of(p);
	double bytes = t.layers + t.head + t.kv, s = bound(b, p, &t), fast = (double)p->prompt / r->prefill.median;
	double bits_linear, bits_file;
	int64_t file_bytes, parameters;
	bench_row row = {.t = r->prefill};
	whit_eval_size(p->m, &bits_linear, &bits_file, &file_bytes, &parameters);
	snprintf(row.name, sizeof row.name, "model %.40s prefill %lld", name, (long long)p->prompt);
	/* The head runs for the last token only. */
	row.flops = 2 * (double)p->prompt * (t.weights - (double)p->m->vocab * (double)p->m->hidden);
	bench_add(b, &row);
	row = (bench_row){.t = r->decode, .bytes = bytes, .flops = 2 * t.weights};
	snprintf(row.name, sizeof row.name, "model %.40s decode behind %lld", name, (long long)p->prompt);
	bench_add(b, &row);
	print_times("prefill", &r->prefill, fast);
	print_times("decode", &r->decode, 1 / r->decode.mean);
	print_times("first token", &r->first, 0);
	printf("  %-12s %.3f ms the first time\n", "", r->cold * 1e3);
	printf("  memory       KV %.1f MB, host peak %.3f GB", (double)whit_state_bytes(p->s) / 1e6,
	       (double)whit_peak_rss() / 1e9);
	if (d)
		printf("; device: weights %.3f GB, now %.3f GB, peak %.3f GB%s",
		       (double)whit_model_device_bytes(p->m) / 1e9, (double)whit_dev_used(d) / 1e9,
		       (double)whit_dev_peak(d) / 1e9, whit_model_streams(p->m) ? "; layers are streamed" : "");
	printf("\n  bound        %.3f GB weights + %.3f GB KV a token: %.3f ms at the %s roof; decode takes %.2f times "
	       "that\n",
	       (t.layers + t.head) / 1e9, t.kv / 1e9, s * 1e3, s > bytes / b->roof.copy ? "upload" : "copy",
	       r->decode.median / s);
	fflush(stdout);
	json_t *memory = json_pack("{s:I, s:I, s:o, s:o, s:o}", "kv_bytes", (json_int_t)whit_state_bytes(p->s),
	                           "host_peak_bytes", (json_int_t)whit_peak_rss(), "device_weight_bytes",
	                           d ? json_integer((json_int_t)whit_model_device_bytes(p->m)) : json_null(),
	                           "device_bytes", d ? json_integer((json_int_t)whit_dev_used(d)) : json_null(),
	                           "device_peak_bytes", d ? json_integer((json_int_t)whit_dev_peak(d)) : json_null());
	json_t *token = json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "weight_bytes", (json_int_t)(t.layers + t.head),
	                          "kv_bytes", t.kv, "bytes_per_s", bytes / r->decode.median, "copy_share",
	                          bytes / r->decode.median / b->roof.copy, "bound_seconds", s, "times_bound",
	                          r->decode.median / s);
	json_array_append_new(
	        b->models,
	        json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:b, s:b, s:I, s:I, s:o, s:o, s:o, s:f, s:o, s:o}", "model",
	                  name, "arch", p->m->arch->name, "parameters", (json_int_t)parameters, "active_weights",
	                  (json_int_t)t.weights, "file_bytes", (json_int_t)file_bytes, "compute",
	                  open_flags & WHIT_OPEN_DECODE ? "float" : "packed", "greedy", p->greedy, "streams",
	                  whit_model_streams(p->m), "prompt", (json_int_t)p->prompt, "n", (json_int_t)p->n, "prefill",
	                  spread_json(&r->prefill, fast), "decode", spread_json(&r->decode, 1 / r->decode.mean),
	                  "first_token", spread_json(&r->first, 0), "first_token_cold_seconds", r->cold, "memory",
	                  memory, "per_token", token));
}

static int measure(bench_run *b, whit_model *m, const char *name, const bench_load *load, int64_t prompt, whit_err *e) {
	int64_t all = prompt + load->n;
	pass p = {.m = m, .prompt = prompt, .n = load->n, .greedy = load->greedy, .s = whit_state_new(m, 1, all)};
	measured r = {0};
	whit_rng random;
	whit_rng_key(&random, 3, 0, 0);
	p.tokens = whit_alloc(sizeof *p.tokens * (size_t)all);
	p.pos = whit_alloc(sizeof *p.pos * (size_t)all);
	p.logits = whit_alloc(sizeof *p.logits * (size_t)m->vocab);
	for (int64_t i = 0; i < all; i++)
		p.tokens[i] = (int32_t)whit_rng_below(&random, (uint64_t)m->vocab), p.pos[i] = i;
	int rc = time_prefill(&p, b->seconds, &r, e);
	if (!rc) rc = time_decode(&p, &r, e);
	if (!rc) report(b, &p, name, load->open_flags, &r);
	whit_state_free(p.s);
	whit_free(p.logits);
	whit_free(p.tokens);
	whit_free(p.pos);
	return rc;
}

int bench_model(bench_run *b, const char *path, const bench_load *load, whit_dev *dev, whit_err *e) {
	whit_model m, *const one[] = {&m};
	int64_t longest = 0;
	int rc = whit_model_open(&m, path, load->open_flags, e);
	if (rc) return rc;
	const char *slash = strrchr(path, '/'), *name = slash && slash[1] ? slash + 1 : path;
	m.kv = load->kv;
	for (int i = 0; i < load->n_prompt; i++) longest = WHIT_MAX(longest, load->prompt[i]);
	if (longest + load->n > m.context)
		rc = whit_fail(e, WHIT_EUSAGE, "bench: prompt %lld + %lld new tokens exceed the model's context %lld",
		               (long long)longest, (long long)load->n, (long long)m.context);
	if (!rc) rc = whit_models_device(one, 1, dev, whit_model_need(&m, longest, 1, 1, longest + load->n), e);
	for (int i = 0; i < load->n_prompt && !rc; i++) rc = measure(b, &m, name, load, load->prompt[i], e);
	whit_model_close(&m);
	return rc;
}
