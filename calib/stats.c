/* stats: the statistics' table, which sums a model's layers have, and the diagonal as an importance matrix. */
#include "calib/stats_own.h"
#include <stdio.h>
#include "formats/tensor.h"

const whit_statistic whit_statistics[] = {
        {"diag", "mean and mean square of input columns", WHIT_STAT_DIAG},
        {"size", "mean and largest magnitude of input columns", WHIT_STAT_SIZE},
        {"hessian", "input columns' products", WHIT_STAT_HESSIAN},
        {"cross", "products with another model's inputs (--against)", WHIT_STAT_CROSS},
        {"fisher", "squared gradients, summed over rows and over columns", WHIT_STAT_FISHER},
        {"fisher-full", "squared gradient of every weight", WHIT_STAT_FISHER_FULL},
        {"gradsq", "squared gradient of every output", WHIT_STAT_GRADSQ},
        {"guided", "input products weighted by squared gradients of groups of outputs", WHIT_STAT_GUIDED},
        {NULL, NULL, 0},
};
const char *const whit_estimators[] = {"seq", "token", "sampled", NULL};

static int unknown(const char *name, size_t n, whit_err *e) {
	char known[256] = "";
	for (int i = 0; whit_statistics[i].name; i++) {
		size_t k = strlen(known);
		snprintf(known + k, sizeof known - k, "%s%s", i ? ", " : "", whit_statistics[i].name);
	}
	return whit_fail(e, WHIT_EUSAGE, "--stats: is %.*s, need some of: %s", (int)WHIT_MIN(n, 100), name, known);
}

int whit_statistics_parse(const char *names, unsigned *bits, whit_err *e) {
	*bits = 0;
	for (const char *p = names;; p++) {
		size_t n = strcspn(p, ",");
		unsigned bit = 0;
		for (int i = 0; whit_statistics[i].name; i++)
			if (strlen(whit_statistics[i].name) == n && !strncmp(whit_statistics[i].name, p, n))
				bit = whit_statistics[i].bit;
		if (!bit) return unknown(p, n, e);
		*bits |= bit;
		p += n;
		if (!*p) return 0;
	}
}

/* ---- the sums of a layer ---- */

static void add_sum(whit_stats_layer *l, const char *domain, const char *weight, const char *kind, int dtype, int ndim,
                    int64_t a, int64_t b, int64_t c) {
	l->sum = whit_realloc(l->sum, (size_t)l->n * sizeof *l->sum, (size_t)(l->n + 1) * sizeof *l->sum);
	l->sum[l->n++] = (whit_sum){.name = whit_format_text("%s/%s/%s", domain, weight, kind),
	                            .ndim = ndim,
	                            .dtype = dtype,
	                            .shape = {a, b, c}};
}

/* Of all linear nodes of p; of the head only what concerns its input. */
static void add_sums(whit_stats *s, const whit_program *p, int64_t layer, const whit_stats_domain *of) {
	whit_stats_layer *l = &s->layer[layer];
	unsigned kinds = s->o.kinds;
	const char *domain = of->name;
	for (int64_t i = 0; i < s->n; i++) {
		const whit_stats_input *in = &s->in[i];
		if (in->layer != layer) continue;
		if (kinds & WHIT_STAT_DIAG) add_sum(l, domain, in->weight[0], "in.sum", WHIT_F64, 1, in->cols, 1, 1);
		if (kinds & WHIT_STAT_DIAG) add_sum(l, domain, in->weight[0], "in.sq", WHIT_F64, 1, in->cols, 1, 1);
		if (kinds & WHIT_STAT_SIZE) add_sum(l, domain, in->weight[0], "in.abs", WHIT_F64, 1, in->cols, 1, 1);
		if (kinds & WHIT_STAT_SIZE) add_sum(l, domain, in->weight[0], "in.max", WHIT_F64, 1, in->cols, 1, 1);
		if (kinds & WHIT_STAT_HESSIAN)
			add_sum(l, domain, in->weight[0], "in.hessian", WHIT_F32, 2, in->cols, in->cols, 1);
		if (kinds & WHIT_STAT_CROSS)
			add_sum(l, domain, in->weight[0], "in.cross", WHIT_F32, 2, in->cols, in->cols, 1);
	}
	if (layer == 0 && (kinds & WHIT_STAT_BACK)) add_sum(l, domain, "loss", "nll", WHIT_F64, 1, 1, 1, 1);
	for (int i = 0; i < p->n_node && layer < s->m->layers; i++) {
		const whit_node *n = &p->node[i];
		if (!n->op || strcmp(n->op->name, "linear")) continue;
		const whit_slot *w = &p->slot[n->w[0]];
		if (kinds & WHIT_STAT_FISHER) add_sum(l, domain, w->name, "fisher.rows", WHIT_F64, 1, w->rows, 1, 1);
		if (kinds & WHIT_STAT_FISHER) add_sum(l, domain, w->name, "fisher.cols", WHIT_F64, 1, w->cols, 1, 1);
		if (kinds & WHIT_STAT_FISHER_FULL)
			add_sum(l, domain, w->name, "fisher", WHIT_F32, 2, w->rows, w->cols, 1);
		if (kinds & WHIT_STAT_GRADSQ) add_sum(l, domain, w->name, "gradsq", WHIT_F64, 1, w->rows, 1, 1);
		if (kinds & (WHIT_STAT_GUIDED | WHIT_STAT_WEIGHTED))
			add_sum(l, domain, w->name, "guided", WHIT_F32, 3, s->o.groups, w->cols, w->cols);
		if ((kinds & WHIT_STAT_WEIGHTED) && (kinds & WHIT_STAT_CROSS))
			add_sum(l, domain, w->name, "guided.cross", WHIT_F32, 3, s->o.groups, w->cols, w->cols);
		if (kinds & WHIT_STAT_WEIGHTS)
			add_sum(l, domain, w->name, "weights", WHIT_F32, 2, s->o.groups, of->chunks * s->ctx, 1);
	}
}

static void add_input(whit_stats *s, const whit_program *p, int64_t layer, int at) {
	int value = p->node[at].in[0];
	s->in = whit_realloc(s->in, (size_t)s->n * sizeof *s->in, (size_t)(s->n + 1) * sizeof *s->in);
	whit_stats_input *in = &s->in[s->n++];
	*in = (whit_stats_input){.layer = layer, .value = value, .cols = p->width[value]};
	in->weight = whit_alloc((size_t)p->n_node * sizeof *in->weight);
	for (int i = at; i < p->n_node; i++)
		if (p->node[i].op == p->node[at].op && p->node[i].in[0] == value)
			in->weight[in->n_weight++] = p->slot[p->node[i].w[0]].name;
}

void whit_stats_layout(whit_stats *s) {
	const whit_model *m = s->m;
	s->layer = whit_alloc((size_t)(m->layers + 1) * sizeof *s->layer);
	for (int64_t l = 0; l < m->layers + (s->o.head ? 1 : 0); l++) {
		const whit_program *p = l < m->layers ? &m->layer[l] : &m->head;
		for (int i = 0; i < p->n_node; i++)
			if (whit_program_observed(p, i)) add_input(s, p, l, i);
		for (int d = 0; d < s->n_domain; d++) add_sums(s, p, l, &s->domain[d]);
	}
}

whit_sum *whit_stats_find(const whit_stats *s, int64_t layer, const char *domain, const char *weight,
                          const char *kind) {
	size_t d = strlen(domain), w = strlen(weight);
	for (int64_t i = 0; i < s->layer[layer].n; i++) {
		whit_sum *u = &s->layer[layer].sum[i];
		const char *p = u->name;
		if (!strncmp(p, domain, d) && p[d] == '/' && !strncmp(p + d + 1, weight, w) && p[d + 1 + w] == '/' &&
		    !strcmp(p + d + w + 2, kind))
			return u;
	}
	return NULL;
}

void whit_stats_layer_drop(whit_stats_layer *l) {
	for (int64_t i = 0; i < l->n; i++) {
		whit_free(l->sum[i].data);
		l->sum[i].data = NULL;
	}
}

void whit_stats_layer_free(whit_stats_layer *l) {
	whit_stats_layer_drop(l);
	for (int64_t i = 0; i < l->n; i++) whit_free(l->sum[i].name);
	whit_free(l->sum);
	*l = (whit_stats_layer){0};
}

void whit_stats_free(whit_stats *s) {
	for (int64_t i = 0; i < s->n; i++) whit_free(s->in[i].weight);
	for (int64_t l = 0; s->layer && l <= s->m->layers; l++) whit_stats_layer_free(&s->layer[l]);
	whit_free(s->in);
	whit_free(s->layer);
	whit_free(s->domain);
	memset(s, 0, sizeof *s);
}

/* ---- as an importance matrix ---- */

static int add_weight(const whit_stats *s, whit_imatrix *im, const whit_stats_input *in, const char *hf,
                      const whit_gguf_arch *arch, whit_err *e) {
	char name[64];
	if (whit_gguf_name_from_hf(arch, hf, name))
		return whit_fail(e, WHIT_EINPUT, "%s: has no name in a GGUF of architecture %s", hf, arch->name);
	whit_importance *w = &im->w[im->n++];
	*w = (whit_importance){.name = whit_strdup(name), .cols = in->cols, .count = (double)s->tokens};
	w->sum2 = whit_alloc((size_t)w->cols * sizeof *w->sum2);
	w->mean = whit_alloc((size_t)w->cols * sizeof *w->mean);
	double *sum = whit_alloc((size_t)w->cols * sizeof *sum);
	for (int d = 0; d < s->n_domain; d++) {
		const double *sq = whit_stats_find(s, in->layer, s->domain[d].name, in->weight[0], "in.sq")->data;
		for (int64_t c = 0; c < w->cols; c++) sum[c] += sq[c];
	}
	for (int64_t c = 0; c < w->cols; c++) w->sum2[c] = (float)sum[c];
	whit_gguf_change change; /* columns in the order that the GGUF's matrix has them */
	if (whit_gguf_change_of(arch, s->m->config, hf, &change) && change.columns)
		whit_gguf_apply(&change, w->sum2, 1, w->cols);
	whit_free(sum);
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
			rc = add_weight(s, im, &s->in[i], s->in[i].weight[k], arch, e);
	if (!rc) rc = whit_imatrix_finish(im, e);
	if (rc) whit_imatrix_close(im);
	return rc;
}
