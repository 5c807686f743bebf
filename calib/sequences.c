/* sequences: what is drawn and what is kept out. */
#include "calib/sequences.h"

int whit_sequences_begin(whit_sequences *s, const whit_stats_states *x, int64_t tokens,
                         int (*kept_out)(int64_t c, int64_t n), const char *what, whit_err *e) {
	*s = (whit_sequences){.x = x, .each = WHIT_MAX(1, tokens / x->ctx), .kept_out = kept_out};
	if (x->chunks < 2)
		return whit_fail(e, WHIT_EINPUT, "%s: %lld sequences, need 2 at least", what, (long long)x->chunks);
	int64_t T = s->each * x->ctx;
	s->start = whit_alloc((size_t)(3 * s->each + 1 + T) * sizeof *s->start);
	s->past = s->start + s->each + 1;
	s->which = s->past + s->each;
	s->pos = s->which + s->each;
	s->tokens = whit_alloc((size_t)T * sizeof *s->tokens);
	for (int64_t i = 0; i <= s->each; i++) s->start[i] = i * x->ctx;
	for (int64_t i = 0; i < T; i++) s->pos[i] = i % x->ctx;
	s->b = (whit_batch){0, 0, s->start, s->past, s->pos, s->tokens};
	return 0;
}

static void empty(whit_sequences *s) { s->b.T = s->b.n_seq = 0; }

static void add(whit_sequences *s, int64_t c) {
	int64_t ctx = s->x->ctx;
	memcpy(s->tokens + s->b.T, s->x->tokens + c * ctx, (size_t)ctx * sizeof *s->tokens);
	s->which[s->b.n_seq++] = c;
	s->b.T += ctx;
}

void whit_sequences_draw(whit_sequences *s, whit_rng *g) {
	empty(s);
	while (s->b.n_seq < s->each) {
		int64_t c = (int64_t)(whit_rng_uniform(g) * (double)s->x->chunks);
		if (!s->kept_out(c, s->x->chunks)) add(s, c);
	}
}

int whit_sequences_next_kept(whit_sequences *s, int64_t *c) {
	empty(s);
	for (; *c < s->x->chunks && s->b.n_seq < s->each; ++*c)
		if (s->kept_out(*c, s->x->chunks)) add(s, *c);
	return s->b.n_seq > 0;
}

void whit_sequences_gather(const whit_sequences *s, float *to, const float *from, int64_t width) {
	int64_t size = s->x->ctx * width;
	for (int64_t i = 0; i < s->b.n_seq; i++)
		memcpy(to + i * size, from + s->which[i] * size, (size_t)size * sizeof *to);
}

void whit_sequences_free(whit_sequences *s) {
	whit_free(s->start);
	whit_free(s->tokens);
	*s = (whit_sequences){0};
}
