/* sink_gguf: results as one GGUF file: metadata from config and tokenizer (of a GGUF source, also every key that
 * those do not say), tensors under GGUF's names in the plan's order, rows in GGUF's order. */
#define _GNU_SOURCE
#include "calib/quantize.h"
#include "formats/gguf_model.h"
#include "host/progress.h"
#include "host/tokenizer.h"

#include <stdlib.h>
#include <strings.h>

typedef struct gguf_sink {
	whit_sink sink;
	char *path, *type;
	whit_gguf_out *out;
} gguf_sink;

/* general.file_type: a label for people, the loader trusts the tensors' types (ggml.md 4). */
static const struct {
	const char *name;
	int id;
} file_types[] = {
        {"F32", 0},     {"F16", 1},     {"Q4_0", 2},    {"Q4_1", 3},    {"Q8_0", 7},    {"Q5_0", 8},
        {"Q5_1", 9},    {"Q2_K", 10},   {"Q3_K_S", 11}, {"Q3_K_M", 12}, {"Q3_K_L", 13}, {"Q4_K_S", 14},
        {"Q4_K_M", 15}, {"Q5_K_S", 16}, {"Q5_K_M", 17}, {"Q6_K", 18},   {"IQ4_NL", 25}, {"IQ4_XS", 30},
        {"BF16", 32},   {"TQ1_0", 36},  {"TQ2_0", 37},  {"MXFP4", 38},  {"Q1_0", 40},   {"Q2_0", 41},
};

/* -1 = there is none. A type that has only mixes is called by its middle one. */
static int file_type(const char *name) {
	char *mixed = whit_format_text("%s_M", name);
	int id = -1;
	for (int i = 0; i < WHIT_COUNT(file_types) && id < 0; i++)
		if (!strcasecmp(file_types[i].name, name) || !strcasecmp(file_types[i].name, mixed))
			id = file_types[i].id;
	whit_free(mixed);
	return id;
}

/* The type that most weights of matrices have. */
static const char *common_type(const whit_plan *p) {
	const char *best = "F32";
	int64_t most = 0;
	for (int64_t i = 0; i < p->n; i++) {
		int64_t n = 0;
		if (p->row[i].absent || !p->row[i].cls) continue;
		for (int64_t j = 0; j < p->n; j++)
			if (!p->row[j].absent && p->row[j].cls && p->row[j].spec.fmt == p->row[i].spec.fmt)
				n += p->row[j].w->mat.rows * p->row[j].width;
		if (n > most) best = whit_ggml_type_of_spec(&p->row[i].spec)->name;
		most = WHIT_MAX(most, n);
	}
	return best;
}

static int put_labels(gguf_sink *s, const whit_plan *p, whit_err *e) {
	int type = file_type(s->type ? s->type : common_type(p));
	int rc = type < 0 ? 0 : whit_gguf_put_u32(s->out, "general.file_type", (uint32_t)type, e);
	return rc ? rc : whit_gguf_put_u32(s->out, "general.quantization_version", 2, e);
}

/* What a GGUF source says and nothing above did. Its own labels, alignment and split are not true of the output, nor
 * what was said of the matrix that its codes were chosen with, nor of blocks behind the last layer, which stay behind:
 * their number, and a list with a word for each. */
static int copy_pairs(gguf_sink *s, const whit_gguf *g, whit_err *e) {
	static const char *const own[] = {"general.alignment", "general.file_type", "general.quantization_version",
	                                  "qwen35.nextn_predict_layers", "qwen35.attention.recurrent_layers"};
	int rc = 0;
	for (int64_t i = 0; i < g->n_kv && !rc; i++) {
		const char *key = g->kv[i].key;
		int skip = whit_gguf_out_has(s->out, key) || !strncmp(key, "split.", 6) ||
		           !strncmp(key, "quantize.imatrix.", 17);
		for (int k = 0; k < WHIT_COUNT(own) && !skip; k++) skip = !strcmp(key, own[k]);
		if (!skip) rc = whit_gguf_put_copy(s->out, &g->kv[i], e);
	}
	return rc;
}

/* As llama-quantize records it. */
static int put_imatrix(gguf_sink *s, const whit_imatrix *m, whit_err *e) {
	if (!m) return 0;
	int rc = whit_gguf_put_string(s->out, "quantize.imatrix.file", m->path, e);
	if (!rc && m->n_dataset) rc = whit_gguf_put_string(s->out, "quantize.imatrix.dataset", m->dataset[0], e);
	if (!rc) rc = whit_gguf_put_u32(s->out, "quantize.imatrix.entries_count", (uint32_t)m->n, e);
	if (!rc) rc = whit_gguf_put_u32(s->out, "quantize.imatrix.chunks_count", (uint32_t)m->chunks, e);
	return rc;
}

/* A model without a tokenizer can be measured for speed, no more. */
static int put_tokenizer(gguf_sink *s, const whit_model *m, whit_err *e) {
	if (whit_tok_exists(m->ckpt.path)) return whit_tok_put_gguf(m->ckpt.path, m->vocab, s->out, e);
	whit_say("warning: %s has no tokenizer, the GGUF will not read or write text", m->ckpt.path);
	whit_event("warn", json_pack("{s:s}", "what", "no_tokenizer"));
	return whit_gguf_put_string(s->out, "tokenizer.ggml.model", "none", e);
}

/* Shapes as GGUF counts them: the contiguous axis first. */
static int announce(gguf_sink *s, const whit_plan *p, int64_t n_factors, whit_err *e) {
	int rc = n_factors ? whit_gguf_out_tensor(s->out, "rope_freqs.weight", whit_ggml_type_of(0), 1, &n_factors, e)
	                   : 0;
	for (int64_t i = 0; i < p->n && !rc; i++) {
		const whit_plan_row *row = &p->row[i];
		int64_t ne[4] = {1, 1, 1, 1};
		if (row->absent) continue;
		int n = 0;
		for (int k = row->w->ndim - 1; k >= 0 && n < 4;
		     k--) /* a convolution's (channels, 1, taps) is (channels, taps) */
			if (row->w->ndim < 3 || row->w->shape[k] > 1) ne[n++] = row->w->shape[k];
		rc = whit_gguf_out_tensor(s->out, row->name, whit_ggml_type_of_spec(&row->spec), n, ne, e);
	}
	return rc;
}

static int open_gguf(whit_sink *sink, const whit_plan *p, const whit_model *m, const whit_recipe *r,
                     whit_quantize_stats *st, whit_err *e) {
	gguf_sink *s = (gguf_sink *)sink;
	const whit_ckpt *c = &m->ckpt;
	const whit_gguf_arch *a = whit_gguf_arch_find(m->arch->name, e);
	const char *name = NULL;
	float *factors = NULL;
	int64_t n = 0;
	(void)r, (void)st;
	if (!a) return e->code;
	char *real = realpath(c->path, NULL), *slash = real ? strrchr(real, '/') : NULL;
	int rc = c->gguf ? whit_gguf_string(c->gguf, "general.name", 0, &name, e) : 0;
	if (!name) name = slash ? slash + 1 : c->path;
	if (!rc) rc = whit_gguf_out_open(&s->out, s->path, e);
	if (!rc) rc = whit_gguf_put_config(s->out, a, m->config, c->config_path, name, &factors, &n, e);
	if (!rc) rc = put_labels(s, p, e);
	if (!rc) rc = put_imatrix(s, p->target.imatrix, e);
	if (!rc) rc = put_tokenizer(s, m, e);
	if (!rc && c->gguf) rc = copy_pairs(s, c->gguf, e);
	if (!rc) rc = announce(s, p, n, e);
	if (!rc && n) rc = whit_gguf_out_write(s->out, factors, (size_t)n * sizeof *factors, e);
	whit_free(factors);
	free(real);
	return rc;
}

static int add(whit_sink *sink, const whit_plan_row *row, const whit_mat *m, int64_t zero_groups, double rel_mse,
               whit_err *e) {
	(void)row, (void)zero_groups, (void)rel_mse;
	return whit_gguf_out_write(((gguf_sink *)sink)->out, m->plane[0], (size_t)m->rows * m->row_bytes[0], e);
}

static int pass(whit_sink *sink, const whit_plan_row *row, const uint8_t *own, whit_err *e) {
	gguf_sink *s = (gguf_sink *)sink;
	const whit_mat *m = &row->w->mat, to = {.paired = row->paired};
	const uint8_t *bytes = own ? own : m->plane[0];
	int rc = 0;
	if (m->paired == row->paired) return whit_gguf_out_write(s->out, bytes, (size_t)m->rows * m->row_bytes[0], e);
	for (int64_t r = 0; r < m->rows && !rc; r++) {
		int64_t from = whit_mat_row(m, whit_mat_logical(&to, r));
		rc = whit_gguf_out_write(s->out, bytes + (size_t)from * m->row_bytes[0], m->row_bytes[0], e);
	}
	return rc;
}

static void sink_free(gguf_sink *s) {
	whit_free(s->path);
	whit_free(s->type);
	whit_free(s);
}

static int commit(whit_sink *sink, whit_err *e) {
	int rc = whit_gguf_out_commit(((gguf_sink *)sink)->out, e);
	sink_free((gguf_sink *)sink);
	return rc;
}

static void abort_gguf(whit_sink *sink) {
	whit_gguf_out_abort(((gguf_sink *)sink)->out);
	sink_free((gguf_sink *)sink);
}

whit_sink *whit_sink_gguf(const char *path, const char *type) {
	gguf_sink *s = whit_alloc(sizeof *s);
	s->sink = (whit_sink){open_gguf, add, pass, commit, abort_gguf};
	s->path = whit_strdup(path);
	s->type = type ? whit_strdup(type) : NULL;
	return &s->sink;
}
