/* stats: the statistics' table and the pass that feeds them. */
#include "calib/stats.h"
#include <stdio.h>
#include "host/progress.h"

/* ---- diag: sum of x^2 of each column ---- */

enum { COLUMNS = 64 }; /* of an item: 8 cache lines of sums */

typedef struct diag_job {
	double *sum;
	const float *x;
	int64_t T, cols;
} diag_job;

static void diag_item(void *ctx, int64_t i, int worker) {
	const diag_job *j = ctx;
	int64_t c0 = i * COLUMNS, n = WHIT_MIN(COLUMNS, j->cols - c0);
	double *sum = j->sum + c0;
	(void)worker;
	for (int64_t t = 0; t < j->T; t++) {
		const float *x = j->x + t * j->cols + c0;
		for (int64_t c = 0; c < n; c++) sum[c] += (double)x[c] * x[c]; /* the product is exact */
	}
}

static void diag_add(double *sum, const float *x, int64_t T, int64_t cols) {
	diag_job j = {sum, x, T, cols};
	whit_parallel((cols + COLUMNS - 1) / COLUMNS, diag_item, &j);
}

static int64_t diag_doubles(int64_t cols) { return cols; }

/* ---- the table ---- */

static const whit_statistic diag = {"diag", "mean square of each input column, as llama-imatrix's", diag_doubles,
                                    diag_add};
const whit_statistic *const whit_statistics[] = {&diag, NULL};

const whit_statistic *whit_statistic_find(const char *name, whit_err *e) {
	char known[256] = "";
	for (int i = 0; whit_statistics[i]; i++) {
		if (!strcmp(whit_statistics[i]->name, name)) return whit_statistics[i];
		size_t n = strlen(known);
		snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", whit_statistics[i]->name);
	}
	whit_fail(e, WHIT_EUSAGE, "--stats: is %.100s, need one of: %s", name, known);
	return NULL;
}

/* ---- the inputs of a model ---- */

static void add_input(whit_stats *s, const whit_program *p, int64_t layer, int at) {
	int value = p->node[at].in[0];
	s->in = whit_realloc(s->in, (size_t)s->n * sizeof *s->in, (size_t)(s->n + 1) * sizeof *s->in);
	whit_stats_input *in = &s->in[s->n++];
	*in = (whit_stats_input){.layer = layer, .value = value, .cols = p->width[value]};
	in->sum = whit_alloc((size_t)s->kind->doubles(in->cols) * sizeof *in->sum);
	in->weight = whit_alloc((size_t)p->n_node * sizeof *in->weight);
	for (int i = at; i < p->n_node; i++)
		if (p->node[i].op == p->node[at].op && p->node[i].in[0] == value)
			in->weight[in->n_weight++] = p->slot[p->node[i].w[0]].name;
}

static void find_inputs(whit_stats *s, const whit_model *m, int head) {
	for (int64_t l = 0; l < m->layers + (head ? 1 : 0); l++) {
		const whit_program *p = l < m->layers ? &m->layer[l] : &m->head;
		for (int i = 0; i < p->n_node; i++)
			if (whit_program_observed(p, i)) add_input(s, p, l, i);
	}
}

static int see(void *ctx, int64_t layer, int value, const float *x, int64_t T, int64_t cols, whit_err *e) {
	whit_stats *s = ctx;
	for (int64_t i = 0; i < s->n; i++) {
		whit_stats_input *in = &s->in[i];
		if (in->layer != layer || in->value != value) continue;
		s->kind->add(in->sum, x, T, cols);
		in->tokens += T;
		return 0;
	}
	return whit_fail(e, WHIT_EINTERNAL, "layer %lld, value %d: is no known input", (long long)layer, value);
}

/* ---- the texts ---- */

typedef struct chunks {
	whit_ids ids;   /* of all texts */
	int64_t *start; /* n: where each begins among ids */
	int64_t n;
} chunks;

static int cut(chunks *c, whit_stats_text *t, const whit_model *m, const whit_tok *tok, const whit_stats *s,
               int64_t most, whit_err *e) {
	int64_t from = c->ids.n, have;
	int rc = whit_tok_text(tok, t->name, t->data, t->bytes, m->vocab, &c->ids, &t->invalid, e);
	if (rc) return rc;
	t->tokens = c->ids.n - from;
	have = t->tokens / s->ctx;
	if (have < 1)
		return whit_fail(e, WHIT_EINPUT, "%s: text is %lld tokens, need at least %lld (one chunk)", t->name,
		                 (long long)t->tokens, (long long)s->ctx);
	t->chunks = most > 0 ? WHIT_MIN(have, most - c->n) : have;
	if (!t->chunks)
		whit_say("warning: %s: is not used, the texts before it give %lld chunks", t->name, (long long)most);
	c->start =
	        whit_realloc(c->start, (size_t)c->n * sizeof *c->start, (size_t)(c->n + t->chunks) * sizeof *c->start);
	for (int64_t k = 0; k < t->chunks; k++) c->start[c->n++] = from + k * s->ctx;
	return 0;
}

/* ---- the pass ---- */

enum { STATE_FLOATS = 8 << 20, BATCH_MOST = 4096 }; /* a batch in the middle of a layer */
enum { HELD_FLOATS = 64 << 20 };                    /* between layers: 256 MB */
enum { TILE_FLOATS = 16 << 20, TILE_MOST = 1024 };  /* logits, where the head is asked for */

typedef struct pass {
	whit_model *m;
	const chunks *c;
	int64_t ctx;
	int32_t bos;        /* -1, or what replaces each chunk's first token */
	int64_t each, held; /* chunks of a batch; of a group that goes through all layers together */
	int head;
	float *h; /* (held * ctx, hidden) */
	int64_t *start, *past, *pos;
	int32_t *tokens;
	float *logits; /* (tile, vocab) */
	int64_t tile;
	whit_progress *bar;
	double done;
} pass;

/* Chunks [c0, c1) as one batch. */
static void fill(const pass *s, int64_t c0, int64_t c1, whit_batch *b) {
	int64_t T = 0;
	for (int64_t c = c0; c < c1; c++) {
		s->start[c - c0] = T;
		s->past[c - c0] = 0;
		for (int64_t t = 0; t < s->ctx; t++, T++) {
			s->tokens[T] = t == 0 && s->bos >= 0 ? s->bos : s->c->ids.id[s->c->start[c] + t];
			s->pos[T] = t;
		}
	}
	s->start[c1 - c0] = T;
	*b = (whit_batch){T, (int)(c1 - c0), s->start, s->past, s->pos, s->tokens};
}

static int step(pass *s, int64_t tokens, int64_t g0, int64_t g1, int64_t layer, whit_err *e) {
	char label[112];
	s->done += (double)tokens;
	snprintf(label, sizeof label, "chunks %lld-%lld of %lld, %s %lld", (long long)g0 + 1, (long long)g1,
	         (long long)s->c->n, layer < s->m->layers ? "layer" : "head after layer",
	         (long long)WHIT_MIN(layer, s->m->layers - 1));
	whit_progress_step(s->bar, s->done, label);
	return whit_interrupted(e);
}

/* Logits are what the program makes of its input; nobody reads them. */
static int run_head(pass *s, float *h, int64_t n, whit_err *e) {
	int rc = 0;
	for (int64_t i = 0; i < n && !rc; i += s->tile)
		rc = whit_model_head(s->m, h + i * s->m->hidden, WHIT_MIN(s->tile, n - i), s->logits, e);
	return rc;
}

/* A group's states wait between layers, so a layer's weights are read once for all of them. */
static int run_group(pass *s, int64_t g0, int64_t g1, whit_err *e) {
	for (int64_t l = -1; l < s->m->layers + (s->head ? 1 : 0); l++) { /* -1 embeds */
		for (int64_t c = g0; c < g1; c += s->each) {
			whit_batch b;
			float *h = s->h + (c - g0) * s->ctx * s->m->hidden;
			fill(s, c, WHIT_MIN(c + s->each, g1), &b);
			int rc = l < 0              ? whit_model_embed(s->m, &b, h, e)
			         : l < s->m->layers ? whit_model_layer(s->m, l, &b, NULL, h, e)
			                            : run_head(s, h, b.T, e);
			if (rc)
				return whit_fail_in(e, "chunks %lld to %lld", (long long)c + 1,
				                    (long long)WHIT_MIN(c + s->each, g1));
			if (l >= 0 && (rc = step(s, b.T, g0, g1, l, e))) return rc;
		}
	}
	return 0;
}

/* Chunks of a batch, and chunks that wait together between layers: of chunks there are n. */
static void sizes(const whit_model *m, const whit_stats_opts *o, int64_t ctx, int64_t n, int64_t *each, int64_t *held) {
	int64_t room = o->batch_tokens > 0 ? o->batch_tokens : WHIT_MIN(STATE_FLOATS / m->hidden, BATCH_MOST);
	int64_t wait = o->held_tokens > 0 ? o->held_tokens : HELD_FLOATS / m->hidden;
	*each = WHIT_MIN(n, WHIT_MAX(1, room / ctx));
	*held = WHIT_MIN(n, WHIT_MAX(*each, wait / ctx / *each * *each));
}

static int64_t head_tile(const whit_model *m, int64_t tokens) {
	return WHIT_MAX(1, WHIT_MIN(WHIT_MIN(TILE_FLOATS / m->vocab, TILE_MOST), tokens));
}

static int64_t context_of(const whit_model *m, const whit_stats_opts *o) {
	return o->ctx ? o->ctx : m->context > 0 ? WHIT_MIN(m->context, 512) : 512;
}

size_t whit_stats_need(const whit_model *m, const whit_stats_opts *o) {
	int64_t each, held, ctx = WHIT_MAX(context_of(m, o), 1);
	sizes(m, o, ctx, o->chunks ? o->chunks : INT32_MAX, &each, &held);
	return whit_model_need(m, each * ctx, o->head ? head_tile(m, each * ctx) : 0, 0, 0) +
	       (size_t)(held * ctx * m->hidden) * sizeof(float);
}

static int run(pass *s, const whit_stats_opts *o, whit_err *e) {
	whit_arena a = {0};
	whit_progress bar;
	int rc = 0;
	sizes(s->m, o, s->ctx, s->c->n, &s->each, &s->held);
	s->h = whit_model_alloc(s->m, (size_t)(s->held * s->ctx * s->m->hidden) * sizeof(float));
	s->start = whit_take_bytes(&a, (size_t)(s->each + 1) * sizeof *s->start);
	s->past = whit_take_bytes(&a, (size_t)s->each * sizeof *s->past);
	s->pos = whit_take_bytes(&a, (size_t)(s->each * s->ctx) * sizeof *s->pos);
	s->tokens = whit_take_bytes(&a, (size_t)(s->each * s->ctx) * sizeof *s->tokens);
	s->tile = head_tile(s->m, s->each * s->ctx);
	if (s->head) s->logits = whit_model_alloc(s->m, (size_t)(s->tile * s->m->vocab) * sizeof(float));
	whit_progress_begin(&bar, "calibrate", (double)(s->c->n * s->ctx) * (double)(s->m->layers + (s->head ? 1 : 0)));
	s->bar = &bar;
	for (int64_t g = 0; g < s->c->n && !rc; g += s->held) rc = run_group(s, g, WHIT_MIN(g + s->held, s->c->n), e);
	whit_progress_end(&bar);
	whit_model_free(s->m, s->h);
	whit_model_free(s->m, s->logits);
	whit_arena_free(&a);
	return rc;
}

/* Every input must have seen every position: else the program branches in a way this pass does not know. */
static int check_seen(const whit_stats *s, whit_err *e) {
	for (int64_t i = 0; i < s->n; i++)
		if (s->in[i].tokens != s->tokens)
			return whit_fail(e, WHIT_EINTERNAL, "%s: its input was seen for %lld tokens, need %lld",
			                 s->in[i].weight[0], (long long)s->in[i].tokens, (long long)s->tokens);
	return 0;
}

int whit_stats_run(whit_stats *s, whit_model *m, const whit_tok *tok, whit_stats_text *text, int n_text,
                   const whit_stats_opts *o, whit_err *e) {
	chunks c = {0};
	double start;
	int rc = 0;
	*s = (whit_stats){.kind = o->kind};
	s->ctx = context_of(m, o);
	if (s->ctx < 1 || (m->context > 0 && s->ctx > m->context))
		return whit_fail(e, WHIT_EUSAGE, "%s: context is %lld, need 1 to the model's %lld", m->ckpt.path,
		                 (long long)s->ctx, (long long)m->context);
	for (int i = 0; i < n_text && !rc; i++) rc = cut(&c, &text[i], m, tok, s, o->chunks, e);
	s->chunks = c.n;
	s->tokens = c.n * s->ctx;
	if (!rc && o->chunks > c.n)
		whit_say("warning: the text gives %lld chunks of %lld tokens, %lld were asked for", (long long)c.n,
		         (long long)s->ctx, (long long)o->chunks);
	start = whit_now();
	if (!rc) {
		whit_observer watch = {see, s};
		pass p = {.m = m,
		          .c = &c,
		          .ctx = s->ctx,
		          .bos = whit_tok_adds_bos(tok) ? whit_tok_bos(tok) : -1,
		          .head = o->head};
		find_inputs(s, m, o->head);
		m->observer = &watch;
		rc = run(&p, o, e);
		m->observer = NULL;
	}
	if (!rc) rc = check_seen(s, e);
	s->seconds = whit_now() - start;
	whit_ids_free(&c.ids);
	whit_free(c.start);
	if (rc) whit_stats_free(s);
	return rc;
}

void whit_stats_free(whit_stats *s) {
	for (int64_t i = 0; i < s->n; i++) {
		whit_free(s->in[i].sum);
		whit_free(s->in[i].weight);
	}
	whit_free(s->in);
	memset(s, 0, sizeof *s);
}

/* ---- as an importance matrix ---- */

static int add_weight(whit_imatrix *im, const whit_stats_input *in, const char *hf, const whit_gguf_arch *arch,
                      whit_err *e) {
	char name[64];
	if (whit_gguf_name_from_hf(arch, hf, name))
		return whit_fail(e, WHIT_EINPUT, "%s: has no name in a GGUF of architecture %s", hf, arch->name);
	whit_importance *w = &im->w[im->n++];
	*w = (whit_importance){.name = whit_strdup(name), .cols = in->cols, .count = (double)in->tokens};
	w->sum2 = whit_alloc((size_t)w->cols * sizeof *w->sum2);
	w->mean = whit_alloc((size_t)w->cols * sizeof *w->mean);
	for (int64_t i = 0; i < w->cols; i++) w->sum2[i] = (float)in->sum[i]; /* Inf beyond float: refused below */
	return 0;
}

int whit_stats_imatrix(const whit_stats *s, const whit_model *m, const whit_stats_text *text, int n_text,
                       whit_imatrix *im, whit_err *e) {
	const whit_gguf_arch *arch = whit_gguf_arch_find(m->arch->name, e);
	int64_t room = 0;
	int rc = 0;
	memset(im, 0, sizeof *im);
	if (!arch) return e->code;
	for (int64_t i = 0; i < s->n; i++) room += s->in[i].n_weight;
	im->w = whit_alloc((size_t)(room + 1) * sizeof *im->w);
	im->dataset = whit_alloc((size_t)(n_text + 1) * sizeof *im->dataset);
	for (int i = 0; i < n_text; i++)
		if (text[i].chunks) im->dataset[im->n_dataset++] = whit_strdup(text[i].name);
	im->path = whit_strdup(m->ckpt.path);
	im->chunks = s->chunks;
	im->chunk_size = s->ctx;
	for (int64_t i = 0; i < s->n && !rc; i++)
		for (int k = 0; k < s->in[i].n_weight && !rc; k++)
			rc = add_weight(im, &s->in[i], s->in[i].weight[k], arch, e);
	if (!rc) rc = whit_imatrix_finish(im, e);
	if (rc) whit_imatrix_close(im);
	return rc;
}
