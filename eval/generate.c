/* generate: token by token from a prompt, greedy or sampled. */
#include <math.h>
#include "eval/eval.h"

/* One draw from softmax(logits / temp). The stream is keyed by the position, so that a continuation from
 * there draws the same. */
static int32_t sample(const float *logits, int64_t vocab, double temp, uint64_t seed, int64_t pos) {
	whit_rng r;
	double top = logits[0], total = 0, seen = 0;
	int32_t last = 0;
	for (int64_t i = 1; i < vocab; i++) top = WHIT_MAX(top, (double)logits[i]);
	for (int64_t i = 0; i < vocab; i++) total += exp((logits[i] - top) / temp);
	whit_rng_key(&r, seed, (uint64_t)pos, 0);
	double u = whit_rng_uniform(&r) * total;
	for (int32_t i = 0; i < vocab; i++) {
		double p = exp((logits[i] - top) / temp);
		if (p == 0) continue;
		seen += p;
		last = i;
		if (seen > u) break;
	}
	return last;
}

static int ends(const whit_model *m, int32_t id) {
	for (int i = 0; i < m->n_eos; i++)
		if (m->eos[i] == id) return 1;
	return 0;
}

/* Feeds T tokens of the only sequence from position past; what follows them: its logits, or the likeliest token. */
static int feed(whit_model *m, whit_state *s, const int32_t *tokens, int64_t T, int64_t past, float *logits,
                int32_t *next, whit_err *e) {
	int64_t start[2] = {0, T}, pos[WHIT_PROMPT_CHUNK];
	for (int64_t i = 0; i < T; i++) pos[i] = past + i;
	whit_batch b = {.T = T, .n_seq = 1, .start = start, .past = &past, .pos = pos, .tokens = tokens};
	int rc = whit_interrupted(e);
	if (rc) return rc;
	return logits ? whit_model_step(m, &b, s, logits, e) : whit_model_next(m, &b, s, next, e);
}

int whit_generate(whit_model *m, const int32_t *prompt, int64_t n_prompt, int64_t n, double temp, uint64_t seed,
                  whit_ids *out, void (*on_token)(void *ctx, int32_t id), void *ctx, whit_err *e) {
	if (n_prompt < 1) return whit_fail(e, WHIT_EUSAGE, "generate: the prompt has no tokens, need at least 1");
	if (n_prompt + n > m->context)
		return whit_fail(
		        e, WHIT_EUSAGE,
		        "generate: a prompt of %lld tokens and %lld new ones make %lld, the model's context is %lld",
		        (long long)n_prompt, (long long)n, (long long)(n_prompt + n), (long long)m->context);
	if (!(temp >= 0 && temp <= 1e6))
		return whit_fail(e, WHIT_EUSAGE, "generate: temperature is %g, need 0 to 1e6", temp);
	whit_state *s = whit_state_new(m, 1, n_prompt + n);
	float *logits = temp > 0 ? whit_alloc((size_t)m->vocab * sizeof *logits) : NULL;
	int32_t next = 0;
	int rc = 0;
	for (int64_t at = 0; at < n_prompt && !rc; at += WHIT_PROMPT_CHUNK)
		rc = feed(m, s, prompt + at, WHIT_MIN(WHIT_PROMPT_CHUNK, n_prompt - at), at, logits, &next, e);
	for (int64_t i = 0; i < n && !rc; i++) {
		int32_t id = logits ? sample(logits, m->vocab, temp, seed, n_prompt + i) : next;
		if (ends(m, id)) break;
		whit_ids_push(out, id);
		if (on_token) on_token(ctx, id);
		if (i + 1 < n) rc = feed(m, s, &id, 1, n_prompt + i, logits, &next, e);
	}
	whit_free(logits);
	whit_state_free(s);
	return rc;
}
