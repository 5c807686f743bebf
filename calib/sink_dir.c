/* sink_dir: results as the directory that whit writes (formats/packed.h). */
#define _GNU_SOURCE
#include "calib/quantize.h"
#include "formats/packed.h"

#include <stdlib.h>

typedef struct dir_sink {
	whit_sink sink;
	const whit_outdir *dir;
	whit_packed_out *out;
	char *recipe, *source; /* the manifest's; source from realpath */
} dir_sink;

/* What all quantized tensors share goes into the manifest's head; the recipe beside it has the rest. */
static void describe(const whit_plan *p, whit_packed_info *info, int *all_tq) {
	const whit_rule *first = NULL;
	*all_tq = 1;
	for (int64_t i = 0; i < p->n; i++) {
		const whit_rule *u = p->row[i].rule;
		if (p->row[i].why_kept) continue;
		if (strcmp(u->spec.fmt->name, "tq")) *all_tq = 0;
		if (!first) {
			first = u;
			info->method = u->method->id;
			info->scale = whit_scale_name(u->rule);
			info->density = whit_density_name(u->density);
		}
		if (u->method != first->method) info->method = "mixed";
		if (u->rule != first->rule) info->scale = "mixed";
		if (u->density != first->density) info->density = "mixed";
	}
}

static int open_dir(whit_sink *sink, const whit_plan *p, const whit_model *m, const whit_recipe *r,
                    whit_quantize_stats *st, whit_err *e) {
	dir_sink *s = (dir_sink *)sink;
	whit_packed_info info = {0};
	int all_tq;
	int rc = whit_ckpt_fingerprint(&m->ckpt, st->fingerprint, e);
	if (rc) return rc;
	s->source = realpath(m->ckpt.path, NULL);
	const char *slash = s->source ? strrchr(s->source, '/') : NULL;
	describe(p, &info, &all_tq);
	info.recipe = s->recipe = whit_recipe_text(r);
	info.source_id = slash ? slash + 1 : m->ckpt.path;
	info.fingerprint = st->fingerprint;
	return whit_packed_open(&s->out, s->dir, &m->ckpt, all_tq, &info, e);
}

static int add(whit_sink *sink, const whit_plan_row *row, const whit_mat *m, int64_t zero_groups, double rel_mse,
               whit_err *e) {
	return whit_packed_add(((dir_sink *)sink)->out, row->w, m, zero_groups, rel_mse, e);
}

static int pass(whit_sink *sink, const whit_plan_row *row, const uint8_t *own, whit_err *e) {
	return whit_packed_pass(((dir_sink *)sink)->out, row->w, own, e);
}

static void sink_free(dir_sink *s) {
	whit_free(s->recipe);
	free(s->source);
	whit_free(s);
}

static int commit(whit_sink *sink, whit_err *e) {
	int rc = whit_packed_commit(((dir_sink *)sink)->out, e);
	sink_free((dir_sink *)sink);
	return rc;
}

static void abort_dir(whit_sink *sink) {
	whit_packed_abort(((dir_sink *)sink)->out);
	sink_free((dir_sink *)sink);
}

whit_sink *whit_sink_dir(const whit_outdir *dir) {
	dir_sink *s = whit_alloc(sizeof *s);
	s->sink = (whit_sink){open_dir, add, pass, commit, abort_dir};
	s->dir = dir;
	return &s->sink;
}
