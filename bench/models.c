/* models: prefill and decode of a whole model, and the sgemm rate at the same shapes. */
#include "bench/run.h"
#include <stdio.h>
#include "host/engine.h"

typedef struct pass {
	whit_model *m;
	whit_state *s;
	whit_batch b;
	float *logits;
	int rc;
	whit_err e;
} pass;

static void run_step(void *ctx, int64_t k) {
	(void)k;
	pass *p = ctx;
	whit_state_clear(p->s);
	if (!p->rc) p->rc = whit_model_step(p->m, &p->b, p->s, p->logits, &p->e);
}

/* Weights of linears that one token passes, head included, embedding lookup not. */
static double active_weights(const whit_model *m) {
	double n = 0;
	for (int64_t l = -1; l < m->layers; l++) {
		const whit_program *p = l < 0 ? &m->head : &m->layer[l];
		for (int i = 0; i < p->n_slot; i++) {
			const whit_mat *w = &p->slot[i].weight->mat;
			if (w->rows > 1) n += (double)w->rows * (double)w->cols;
		}
	}
	return n;
}

/* Bytes of those weights as they are stored. */
static double active_bytes(const whit_model *m) {
	double n = 0;
	for (int64_t l = -1; l < m->layers; l++) {
		const whit_program *p = l < 0 ? &m->head : &m->layer[l];
		for (int i = 0; i < p->n_slot; i++) {
			const whit_mat *w = &p->slot[i].weight->mat;
			if (p->slot[i].dense.rows)
				n += 4.0 * (double)w->rows * (double)w->cols;
			else
				for (int k = 0; k < WHIT_PLANES; k++) n += (double)w->row_bytes[k] * (double)w->rows;
		}
	}
	return n;
}

int bench_model(bench_run *b, const char *path, unsigned open_flags, int64_t prompt, int64_t n, whit_err *e) {
	whit_model m;
	int rc = whit_model_open(&m, path, open_flags, e);
	if (rc) return rc;
	if (prompt + n > m.context) {
		rc = whit_fail(e, WHIT_EUSAGE, "bench: prompt %lld + %lld new tokens exceed the model's context %lld",
		               (long long)prompt, (long long)n, (long long)m.context);
		whit_model_close(&m);
		return rc;
	}
	const char *name = strrchr(path, '/') && strrchr(path, '/')[1] ? strrchr(path, '/') + 1 : path;
	int32_t *tokens = whit_alloc(sizeof *tokens * (size_t)(prompt + n));
	int64_t *pos = whit_alloc(sizeof *pos * (size_t)(prompt + n)), start[2] = {0, prompt}, past[1] = {0};
	whit_rng r;
	whit_rng_key(&r, 3, 0, 0);
	for (int64_t i = 0; i < prompt + n; i++) tokens[i] = (int32_t)whit_rng_below(&r, (uint64_t)m.vocab), pos[i] = i;
	pass p = {
	        .m = &m, .s = whit_state_new(&m, 1, prompt + n), .logits = whit_alloc(sizeof(float) * (size_t)m.vocab)};
	double weights = active_weights(&m), bytes = active_bytes(&m);
	bench_row row = {0};
	p.b = (whit_batch){.T = prompt, .n_seq = 1, .start = start, .past = past, .pos = pos, .tokens = tokens};
	snprintf(row.name, sizeof row.name, "model %.40s prefill %lld", name, (long long)prompt);
	row.t = bench_measure(run_step, &p, b->seconds);
	/* The head runs for the last token only. */
	row.flops = 2 * (double)prompt * (weights - (double)m.vocab * (double)m.hidden);
	double prefill = row.t.median;
	if (!p.rc) bench_add(b, &row);
	/* Decoding: one token at a time behind the prompt, each step timed. */
	double *took = whit_alloc(sizeof *took * (size_t)n);
	whit_state_clear(p.s);
	if (!p.rc) p.rc = whit_model_step(&m, &p.b, p.s, p.logits, &p.e);
	double begin = whit_now();
	for (int64_t i = 0; i < n && !p.rc; i++) {
		start[1] = 1;
		past[0] = prompt + i;
		p.b = (whit_batch){.T = 1,
		                   .n_seq = 1,
		                   .start = start,
		                   .past = past,
		                   .pos = pos + prompt + i,
		                   .tokens = tokens + prompt + i};
		double t0 = whit_now();
		p.rc = whit_model_step(&m, &p.b, p.s, p.logits, &p.e);
		took[i] = whit_now() - t0;
	}
	double decode = (whit_now() - begin) / (double)n;
	if (p.rc) rc = p.rc, *e = p.e;
	if (!rc) {
		row = (bench_row){.t = bench_spread(took, (int)n), .bytes = bytes, .flops = 2 * weights};
		snprintf(row.name, sizeof row.name, "model %.40s decode", name);
		bench_add(b, &row);
		printf("  %s: prefill %.1f tokens/s, decode %.1f tokens/s (p50 %.2f ms, p90 %.2f ms), first token "
		       "after %.1f ms, "
		       "%.3f GB read per token, KV %.1f MB, peak memory %.3f GB\n",
		       name, (double)prompt / prefill, 1 / decode, took[n / 2] * 1e3, took[n - 1 - n / 10] * 1e3,
		       prefill * 1e3, bytes / 1e9, (double)whit_state_bytes(p.s) / 1e6, (double)whit_peak_rss() / 1e9);
	}
	whit_free(took);
	whit_state_free(p.s);
	whit_free(p.logits);
	whit_free(tokens);
	whit_free(pos);
	whit_model_close(&m);
	return rc;
}
