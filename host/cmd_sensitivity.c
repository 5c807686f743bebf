/* whit sensitivity: what quantizing one part of a model costs, part after part, in every format asked for. Finished
 * parts are kept in a journal, so that an interrupted run goes on where it was. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "calib/quantize.h"
#include "cuda/dev.h"
#include "eval/report.h"
#include "eval/sensitivity.h"
#include "formats/codebook.h"
#include "formats/json.h"
#include "host/cmd_measure.h"
#include "host/commands.h"
#include "host/device.h"
#include "host/journal.h"

typedef struct args {
	const char *model, *formats, *by, *method, *rotation, *scale, *density, *out, *stats, *metric;
	whit_measure_args on;
	int64_t seed, memory;
	int embeddings, force;
} args;

typedef struct choice { /* one of --formats */
	char *name;     /* canonical: FORMAT, or FORMAT:METHOD where it is not --method's */
	whit_recipe recipe;
	const whit_rule *rule;
} choice;

typedef struct part { /* a matrix that can be quantized */
	const whit_weight *w;
	const char *role;
	int64_t layer;
	int cls;
	whit_mat *mat; /* what stands in its place, or NULL */
} part;

typedef struct session {
	args a;
	whit_eval_opts eval;
	int by[WHIT_BY_ALL], n_by;
	choice *choice;
	const char **format; /* their names */
	int n_choice;
	whit_map text;
	whit_model m;
	whit_tok *tok;
	whit_dev *dev;
	part *part; /* n of them, by layer, outside first */
	int64_t n;
	whit_encoder encoder;
	whit_calibration calibration; /* of --stats */
	whit_probe *probe;
	whit_journal journal;
	json_t *unfit;
	whit_arena names;
	whit_sens_table table;
} session;

/* ---- options ---- */

static int parse_options(session *s, int argc, char **argv, whit_err *e) {
	args *a = &s->a;
	*a = (args){
	        .by = "tensor", .method = "turboquant", .on = WHIT_MEASURE_DEFAULTS, .seed = 42, .memory = 2000000000};
	const whit_opt table[] = {
	        {"MODEL", 'r', "MODEL", "Hugging Face directory or GGUF file: the reference", &a->model, 1},
	        {"--formats", 's', "F,G:M,...", "formats to measure, each with the method that fills it after a colon",
	         &a->formats, 1},
	        {"--out", 's', "BASE",
	         "writes BASE.json, BASE.md and BASE.svg, and BASE.journal, from which it resumes", &a->out, 1},
	        {"--by", 's', "KINDS", "what is quantized at a time: tensor, role, layer, or several (default tensor)",
	         &a->by, 0},
	        {"--method", 's', "M", "how codes are chosen, where --formats does not say (default turboquant)",
	         &a->method, 0},
	        {"--rotation", 's', "K", "none, hadamard or haar_qr (default: the method's)", &a->rotation, 0},
	        {"--scale", 's', "RULE", "least_squares, raw, norm_corrected or ip (default least_squares)", &a->scale,
	         0},
	        {"--density", 's', "D", "codebooks fitted to gaussian or beta (default gaussian)", &a->density, 0},
	        {"--seed", 'i', "S", "seed of the rotations, 0 or more (default 42)", &a->seed, 0},
	        {"--stats", 'r', "DIR", "statistics (whit calibrate) for methods that need them", &a->stats, 0},
	        {"--metric", 's', "K", "hessian, or guided: of groups of rows, weighted by gradients", &a->metric, 0},
	        {"--embeddings", 'f', NULL, "measure embedding and head too", &a->embeddings, 0},
	        WHIT_MEASURE_OPTIONS(a->on),
	        {"--memory", 'b', "BYTES",
	         "at most so much for the reference's hidden states, below which layers run again (default 2G)",
	         &a->memory, 0},
	        {"--force", 'f', NULL, "start anew over a journal of other inputs", &a->force, 0},
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	return whit_options("sensitivity", "KL divergence that quantizing one part alone costs", table, argc, argv, e);
}

static int bad_word(whit_err *e, const char *option, const char *is, const char *need) {
	return whit_fail(e, WHIT_EUSAGE, "sensitivity: %s is '%s', need %s\nsee whit sensitivity --help", option, is,
	                 need);
}

/* The next word of a list, a copy in an arena; NULL at its end. */
static char *next_word(const char **list, whit_arena *a) {
	if (!**list) return NULL;
	size_t n = strcspn(*list, ",");
	char *word = whit_take_bytes(a, n + 1);
	memcpy(word, *list, n);
	word[n] = 0;
	*list += n + ((*list)[n] == ',');
	return word;
}

static int parse_by(session *s, whit_err *e) {
	const char *list = s->a.by;
	for (char *word; (word = next_word(&list, &s->names));) {
		int by = 0;
		while (by < WHIT_BY_ALL && strcmp(word, whit_sens_by_name[by])) by++;
		if (by == WHIT_BY_ALL) return bad_word(e, "--by", word, "tensor, role or layer, once each");
		for (int i = 0; i < s->n_by; i++)
			if (s->by[i] == by) return bad_word(e, "--by", s->a.by, "tensor, role or layer, once each");
		s->by[s->n_by++] = by;
	}
	return s->n_by ? 0 : bad_word(e, "--by", s->a.by, "tensor, role or layer, once each");
}

/* The rule that `whit quantize --format F --method M` with these options means. */
static int parse_choice(session *s, choice *c, char *word, whit_err *e) {
	const args *a = &s->a;
	char *colon = strchr(word, ':'), name[32];
	whit_rule base = {
	        .rotation = -1, .rule = WHIT_SCALE_LS, .density = WHIT_DENSITY_GAUSSIAN, .seed = (uint64_t)a->seed};
	if (colon) *colon = 0;
	if (!(base.method = whit_method_find(colon ? colon + 1 : a->method, e)))
		return whit_fail_in(e, "sensitivity: %s", colon ? "--formats" : "--method");
	if (whit_spec_parse(word, &base.spec, e)) return whit_fail_in(e, "sensitivity: --formats");
	if (a->rotation) {
		base.rotation = whit_rotation_kind_parse(a->rotation);
		if (base.rotation < 0 || base.rotation == WHIT_ROT_TQ3)
			return bad_word(e, "--rotation", a->rotation, "none, hadamard or haar_qr");
	}
	if (a->scale && (base.rule = whit_scale_parse(a->scale)) < 0)
		return bad_word(e, "--scale", a->scale, "least_squares, raw, norm_corrected or ip");
	if (a->density && (base.density = whit_density_parse(a->density)) < 0)
		return bad_word(e, "--density", a->density, "gaussian or beta");
	int rc = whit_recipe_uniform(&c->recipe, &base, a->embeddings, e);
	if (rc) return whit_fail_in(e, "sensitivity: --formats");
	c->rule = &c->recipe.rule[0];
	whit_spec_name(&base.spec, name);
	c->name = whit_format_text(colon && strcmp(colon + 1, a->method) ? "%s:%s" : "%s", name, base.method->name);
	return 0;
}

static int parse_formats(session *s, whit_err *e) {
	const char *list = s->a.formats;
	int rc = 0, room = 1;
	for (const char *p = list; *p; p++) room += *p == ',';
	s->choice = whit_alloc((size_t)room * sizeof *s->choice);
	s->format = whit_alloc((size_t)room * sizeof *s->format);
	for (char *word; !rc && (word = next_word(&list, &s->names));) {
		choice *c = &s->choice[s->n_choice++];
		rc = parse_choice(s, c, word, e);
		s->format[s->n_choice - 1] = c->name;
		for (int i = 0; i < s->n_choice - 1 && !rc; i++)
			if (!strcmp(s->format[i], c->name))
				rc = bad_word(e, "--formats", s->a.formats, "each format once");
	}
	return rc || s->n_choice ? rc : bad_word(e, "--formats", s->a.formats, "a format");
}

/* What quantizes one part alone has the original's inputs, so nothing to make up for. */
static int check_needs(const session *s, const choice *c, whit_err *e) {
	const whit_method *m = c->rule->method;
	if (m->needs & WHIT_NEEDS_CROSS)
		return whit_fail(e, WHIT_EUSAGE,
		                 "sensitivity: method %s makes up for quantized layers before, of which there "
		                 "are none here, need gptq or ldlq",
		                 m->name);
	if (m->needs && !s->a.stats) return whit_fail(e, WHIT_EUSAGE, "sensitivity: method %s needs --stats", m->name);
	return 0;
}

static int check_args(session *s, whit_err *e) {
	const args *a = &s->a;
	int rc = whit_measure_opts(&s->eval, &a->on, "sensitivity", e);
	if (!rc && a->seed < 0)
		rc = whit_fail(e, WHIT_EUSAGE, "sensitivity: --seed is %lld, need at least 0", (long long)a->seed);
	int metric = whit_metric_parse(a->metric);
	if (!rc && (metric < 0 || metric > WHIT_METRIC_GUIDED))
		rc = bad_word(e, "--metric", a->metric, "hessian or guided");
	if (!rc && a->metric && !a->stats) rc = whit_fail(e, WHIT_EUSAGE, "sensitivity: --metric: needs --stats");
	if (!rc) rc = parse_by(s, e);
	if (!rc) rc = parse_formats(s, e);
	for (int i = 0; i < s->n_choice && !rc; i++) rc = check_needs(s, &s->choice[i], e);
	return rc ? rc : whit_journal_open(&s->journal, "sensitivity", a->out, a->on.text, a->force, e);
}

/* ---- what is measured ---- */

/* The parts, in the order of their layers and within them of the model's programs. */
static void find_parts(session *s) {
	const whit_model *m = &s->m;
	s->part = whit_alloc((size_t)m->ckpt.n * sizeof *s->part);
	for (int64_t i = 0; i < m->ckpt.n; i++) {
		part p = {.w = &m->ckpt.w[i]};
		p.cls = p.w->alias ? 0 : whit_model_role(m, p.w->name, &p.role, &p.layer);
		if (p.cls != WHIT_CLASS_LINEAR && !(p.cls && s->a.embeddings)) continue;
		int64_t at = s->n++;
		for (; at > 0 && p.layer < s->part[at - 1].layer; at--) s->part[at] = s->part[at - 1];
		s->part[at] = p;
	}
}

/* Roles in the order of the programs' slots, those alone that parts have. */
static void find_roles(session *s) {
	whit_sens_table *t = &s->table;
	const char **role = whit_take_bytes(&s->names, (size_t)(s->n + 1) * sizeof *role);
	const whit_model *m = &s->m;
	for (int64_t l = -1; l <= m->layers; l++) {
		const whit_program *p = l < 0 ? &m->embed : l < m->layers ? &m->layer[l] : &m->head;
		for (int k = 0; k < p->n_slot; k++) {
			int64_t have = 0, wanted = 0;
			for (int64_t i = 0; i < t->roles; i++) have |= !strcmp(role[i], p->slot[k].role);
			for (int64_t i = 0; i < s->n; i++) wanted |= !strcmp(s->part[i].role, p->slot[k].role);
			if (wanted && !have) role[t->roles++] = p->slot[k].role;
		}
	}
	t->role = role;
}

/* Whether rule u can be applied to a part; row is filled. */
static int part_fits(const session *s, const part *p, const whit_rule *u, whit_plan_row *row, whit_err *e) {
	*row = (whit_plan_row){.w = p->w, .rule = u, .role = p->role, .layer = p->layer, .cls = p->cls};
	if (u->method->needs && !whit_calibration_has(&s->calibration, p->w->name, p->layer))
		row->method = whit_method_find("nearest", e); /* as in whit quantize */
	return whit_plan_tensor(row, u, e) == 0;
}

static int concerns(const whit_sens_entry *x, const part *p) {
	return x->by == WHIT_BY_TENSOR  ? !strcmp(x->name, p->w->name)
	       : x->by == WHIT_BY_ROLE  ? !strcmp(x->role, p->role)
	       : x->by == WHIT_BY_LAYER ? x->layer == p->layer
	                                : 1;
}

/* The lowest layer that an entry changes, as whit_probe_run has it. */
static int64_t first_layer(const session *s, const whit_sens_entry *x) {
	int64_t first = s->m.layers;
	for (int64_t i = 0; i < s->n; i++) {
		const part *p = &s->part[i];
		whit_plan_row row;
		whit_err e;
		if (!concerns(x, p) || !part_fits(s, p, s->choice[x->format].rule, &row, &e)) continue;
		/* outside layers: the embedding, but for a head of its own */
		int head = p->layer < 0 && strcmp(p->w->name, s->m.embed.slot[0].weight->name);
		if (!head) first = WHIT_MIN(first, p->layer);
	}
	return first;
}

/* Counts what the entry quantizes. Nothing: the entry is dropped. */
static void add_entry(session *s, whit_sens_entry x) {
	whit_plan_row *row = whit_alloc((size_t)s->n * sizeof *row);
	int64_t n = 0;
	for (int64_t i = 0; i < s->n; i++) {
		whit_err e;
		if (!concerns(&x, &s->part[i]) || !part_fits(s, &s->part[i], s->choice[x.format].rule, &row[n], &e))
			continue;
		x.weights += row[n].w->mat.rows * row[n].w->mat.cols;
		x.bytes += row[n].bytes;
		n++;
	}
	x.tensors = n;
	x.book_bytes = whit_plan_books(row, n);
	if (n) s->table.entry[s->table.n++] = x;
	whit_free(row);
}

static void add_entries(session *s, int by, int format) {
	const whit_sens_table *t = &s->table;
	whit_sens_entry x = {.by = by, .format = format, .layer = -1, .name = "all"};
	if (by == WHIT_BY_ALL) add_entry(s, x);
	for (int64_t i = 0; by == WHIT_BY_TENSOR && i < s->n; i++) {
		x.name = s->part[i].w->name;
		x.role = s->part[i].role;
		x.layer = s->part[i].layer;
		add_entry(s, x);
	}
	for (int64_t i = 0; by == WHIT_BY_ROLE && i < t->roles; i++) {
		x.name = x.role = t->role[i];
		add_entry(s, x);
	}
	for (int64_t l = -1; by == WHIT_BY_LAYER && l < s->m.layers; l++) {
		char *name = l < 0 ? whit_strdup("outside") : whit_format_text("layer %lld", (long long)l);
		x.name = whit_take_text(&s->names, name);
		x.layer = l;
		whit_free(name);
		add_entry(s, x);
	}
}

/* Names what does not fit; a format that fits nothing is an error, the last tensor's. */
static int check_fit(session *s, int format, whit_err *e) {
	int64_t fit = 0;
	for (int64_t i = 0; i < s->n; i++) {
		whit_plan_row row;
		whit_err why;
		if (part_fits(s, &s->part[i], s->choice[format].rule, &row, &why)) {
			fit++;
			continue;
		}
		*e = why;
		json_array_append_new(s->unfit, json_pack("{s:s, s:s, s:o}", "tensor", s->part[i].w->name, "format",
		                                          s->format[format], "why",
		                                          whit_report_text(why.text, strlen(why.text))));
	}
	if (fit) return 0;
	return s->n ? whit_fail_in(e, "sensitivity: format %s fits no tensor", s->format[format])
	            : whit_fail(e, WHIT_EINPUT, "%s: has no matrix to quantize", s->m.ckpt.path);
}

static int make_entries(session *s, whit_err *e) {
	whit_sens_table *t = &s->table;
	int rc = 0;
	s->unfit = json_array();
	for (int f = 0; f < s->n_choice && !rc; f++) rc = check_fit(s, f, e);
	if (rc) return rc;
	find_roles(s);
	int64_t each = s->n + t->roles + s->m.layers + 2;
	t->entry = whit_alloc((size_t)(each * s->n_choice) * sizeof *t->entry);
	for (int i = 0; i < s->n_by; i++)
		for (int f = 0; f < s->n_choice; f++) add_entries(s, s->by[i], f);
	for (int f = 0; f < s->n_choice; f++) add_entries(s, WHIT_BY_ALL, f);
	return 0;
}

/* ---- what the numbers depend on, and the journal ---- */

/* Paths and threads are not among them. */
static int make_inputs(session *s, whit_err *e) {
	const args *a = &s->a;
	const whit_rule *u = s->choice[0].rule;
	whit_hash tokens;
	const whit_eval_result *r = whit_probe_text(s->probe, &tokens);
	char model[48];
	int rc = whit_ckpt_fingerprint(&s->m.ckpt, model, e);
	json_t *stats = NULL;
	if (!rc && a->stats) rc = whit_measure_hash_stats(&stats, a->stats, e);
	if (rc) return rc;
	json_t *formats = json_array(), *by = json_array();
	for (int i = 0; i < s->n_choice; i++) {
		char *recipe =
		        whit_format_text("%s method=%s rotation=%s", s->format[i], s->choice[i].rule->method->name,
		                         whit_rotation_kind_name(s->choice[i].rule->rotation));
		json_array_append_new(formats, json_string(recipe));
		whit_free(recipe);
	}
	for (int i = 0; i < s->n_by; i++) json_array_append_new(by, json_string(whit_sens_by_name[s->by[i]]));
	json_t *inputs = json_pack(
	        "{s:s, s:s, s:s, s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:s, s:I, s:b, s:s, s:o}", "program",
	        "whit " WHIT_VERSION, "architecture", s->m.arch->name, "model", model, "text",
	        whit_measure_hash(r->text_hash), "tokens", whit_measure_hash(tokens), "mode",
	        whit_eval_mode_name(r->mode), "ctx", (json_int_t)r->ctx, "stride", (json_int_t)r->stride,
	        "batch_tokens", (json_int_t)a->on.batch_tokens, "floor_tokens", (json_int_t)a->on.floor_tokens, "by",
	        by, "formats", formats, "scale", whit_scale_name(u->rule), "density", whit_density_name(u->density),
	        "seed", (json_int_t)a->seed, "embeddings", a->embeddings, "compute", a->on.compute, "device",
	        whit_measure_device(s->dev));
	if (stats) { /* absent where nothing is calibrated, so that older journals go on */
		json_object_set_new(inputs, "statistics", stats);
		json_object_set_new(inputs, "metric", json_string(a->metric ? a->metric : "hessian"));
	}
	whit_journal_inputs(&s->journal, inputs);
	return 0;
}

static json_t *key_json(const session *s, const whit_sens_entry *x) {
	return json_pack("{s:s, s:s, s:s}", "by", whit_sens_by_name[x->by], "name", x->name, "format",
	                 s->format[x->format]);
}

static int journal_write(const session *s, whit_err *e) {
	json_t *entries = json_array();
	for (int64_t i = 0; i < s->table.n; i++) {
		const whit_sens_entry *x = &s->table.entry[i];
		if (!x->done) continue;
		json_t *j = key_json(s, x);
		json_object_set_new(j, "bytes", json_integer(x->bytes));
		json_object_set_new(j, "kld", json_real(x->kld));
		json_object_set_new(j, "se", isfinite(x->se) ? json_real(x->se) : json_null());
		json_object_set_new(j, "rel_mse", json_real(x->rel_mse));
		json_object_set_new(j, "seconds", json_real(x->seconds));
		json_array_append_new(entries, j);
	}
	return whit_journal_write(&s->journal, entries, e);
}

static int journal_entry(void *ctx, const json_t *j, whit_err *e) {
	session *s = ctx;
	const char *path = s->journal.path[WHIT_TO_JOURNAL];
	whit_sens_entry got = {.se = NAN};
	int rc = whit_json_int(j, path, "bytes", 1, 0, INT64_MAX, &got.bytes, e);
	if (!rc) rc = whit_json_real(j, path, "kld", 1, -1e300, 1e300, &got.kld, e);
	if (!rc) rc = whit_json_real(j, path, "se", 0, 0, 1e300, &got.se, e);
	if (!rc) rc = whit_json_real(j, path, "rel_mse", 1, 0, 1e300, &got.rel_mse, e);
	if (!rc) rc = whit_json_real(j, path, "seconds", 1, 0, 1e300, &got.seconds, e);
	if (rc) return rc;
	for (int64_t i = 0; i < s->table.n; i++) {
		whit_sens_entry *x = &s->table.entry[i];
		json_t *key = key_json(s, x);
		int same = 1;
		const char *k;
		json_t *v;
		json_object_foreach(key, k, v) same &= json_equal(v, json_object_get(j, k));
		json_decref(key);
		if (!same) continue;
		x->bytes = got.bytes;
		x->kld = got.kld;
		x->se = got.se;
		x->rel_mse = got.rel_mse;
		x->seconds = got.seconds;
		x->done = 1;
		return 0;
	}
	return whit_fail(e, WHIT_EINPUT, "%s: has an entry that is none of this run's, need --force to start anew",
	                 path);
}

/* ---- the run ---- */

/* m becomes what it decodes to, as whit eval --compute float has it. */
static int decode(whit_mat *m, whit_err *e) {
	whit_mat to;
	int rc = whit_mat_floats(&to, m, e);
	if (rc) return rc;
	whit_mat_free(m);
	*m = to;
	return 0;
}

static int put_part(session *s, part *p, const whit_plan_row *row, whit_sens_entry *x, double *err, double *ref,
                    whit_err *e) {
	whit_job j = {0};
	p->mat = whit_alloc(sizeof *p->mat);
	int rc = whit_encoder_run(&s->encoder, row, p->mat, &j, e);
	if (rc) return rc;
	*err += j.err;
	*ref += j.ref;
	for (int i = 0; i < WHIT_PLANES; i++)
		if (p->mat->plane[i]) x->bytes += (int64_t)whit_plane_bytes(p->mat, i);
	if (!strcmp(s->a.on.compute, "float")) rc = decode(p->mat, e);
	return rc ? rc : whit_model_replace(&s->m, p->w->name, p->mat, e);
}

/* Puts the model's own weights back. */
static void take_parts(session *s) {
	whit_err e;
	for (int64_t i = 0; i < s->n; i++) {
		part *p = &s->part[i];
		if (!p->mat) continue;
		whit_model_replace(&s->m, p->w->name, NULL, &e);
		whit_mat_free(p->mat);
		whit_free(p->mat);
		p->mat = NULL;
	}
}

static int measure(session *s, whit_sens_entry *x, whit_progress *bar, whit_err *e) {
	char *label = whit_format_text("%s %s", x->name, s->format[x->format]);
	double start = whit_now(), err = 0, ref = 0;
	whit_summary sum;
	int rc = 0;
	x->bytes = 0; /* as they come out: scales may be F32 */
	for (int64_t i = 0; i < s->n && !rc; i++) {
		whit_plan_row row;
		whit_err misfit;
		if (concerns(x, &s->part[i]) && part_fits(s, &s->part[i], s->choice[x->format].rule, &row, &misfit))
			rc = put_part(s, &s->part[i], &row, x, &err, &ref, e);
	}
	if (!rc) rc = whit_probe_run(s->probe, first_layer(s, x), &sum, bar, label, e);
	if (rc) whit_fail_in(e, "%s", label);
	take_parts(s);
	whit_free(label);
	if (rc) return rc;
	x->kld = sum.kld.mean;
	x->se = sum.kld.se;
	x->rel_mse = ref > 0 ? err / ref : 0;
	x->seconds = whit_now() - start;
	x->done = 1;
	json_t *event = key_json(s, x);
	json_object_set_new(event, "kld", json_real(x->kld));
	json_object_set_new(event, "bytes", json_integer(x->bytes));
	json_object_set_new(event, "seconds", json_real(x->seconds));
	whit_event("sensitivity", event);
	return 0;
}

static int measure_all(session *s, whit_err *e) {
	whit_sens_table *t = &s->table;
	whit_progress bar;
	double total = 0;
	int rc = 0;
	for (int64_t i = 0; i < t->n; i++)
		if (!t->entry[i].done) total += whit_probe_work(s->probe, first_layer(s, &t->entry[i]));
	whit_progress_begin(&bar, "sensitivity", total);
	for (int64_t i = 0; i < t->n && !rc; i++) {
		if (t->entry[i].done) continue;
		rc = measure(s, &t->entry[i], &bar, e);
		if (!rc) rc = journal_write(s, e);
	}
	whit_progress_end(&bar);
	return rc;
}

/* ---- the command ---- */

static int open_all(session *s, whit_err *e) {
	const args *a = &s->a;
	whit_model *m = &s->m;
	int rc = whit_map_open(&s->text, a->on.text, e);
	if (!rc) rc = whit_model_open(m, a->model, whit_measure_flags(&a->on), e);
	if (rc) return rc;
	if (a->stats) {
		s->calibration.feedback = (whit_feedback_opts){.damping = -1, .alpha = 0.5};
		s->encoder.calibration = &s->calibration;
		rc = whit_calibration_open(&s->calibration, a->stats, a->metric, m, e);
		if (rc) return rc;
	}
	s->table.layers = m->layers;
	find_parts(s);
	rc = make_entries(s, e);
	if (!rc) rc = whit_tok_open(&s->tok, m->ckpt.path, e);
	if (!rc) rc = whit_device_open(&s->dev, e);
	if (!rc) rc = whit_models_device(&m, 1, s->dev, whit_probe_need(m, &s->eval), e);
	s->encoder.dev = s->dev;
	return rc;
}

static int work(session *s, whit_err *e) {
	whit_sens_table *t = &s->table;
	char *const *path = s->journal.path;
	int rc = open_all(s, e);
	if (!rc)
		rc = whit_probe_open(&s->probe, &s->m, s->tok, (const char *)s->text.data, s->text.bytes, &s->eval,
		                     s->a.memory, e);
	if (!rc) rc = make_inputs(s, e);
	if (!rc) rc = whit_journal_read(&s->journal, t->n, journal_entry, s, e);
	if (!rc) rc = measure_all(s, e);
	/* The inputs must still be what was measured. */
	if (!rc) rc = whit_ckpt_check(&s->m.ckpt, e);
	if (!rc) rc = whit_map_check(&s->text, e);
	if (rc) return rc;
	t->model = s->a.model;
	t->text = s->a.on.text;
	t->inputs = s->journal.inputs;
	t->fingerprint = s->journal.print;
	t->eval = whit_probe_text(s->probe, NULL);
	t->format = s->format;
	t->formats = s->n_choice;
	t->unfit = s->unfit;
	rc = whit_journal_results(&s->journal, whit_sens_json(t), whit_sens_markdown(t), whit_sens_svg(t), e);
	if (rc) return rc;
	whit_sens_print(t, stdout);
	printf("\nwrote         %s, %s and %s\n", path[WHIT_TO_JSON], path[WHIT_TO_MARKDOWN], path[WHIT_TO_SVG]);
	return 0;
}

static void close_all(session *s) {
	if (s->m.ckpt.path) take_parts(s);
	whit_probe_close(s->probe);
	if (s->m.ckpt.path) whit_model_close(&s->m);
	whit_encoder_free(&s->encoder);
	whit_calibration_free(&s->calibration);
	whit_device_close(s->dev);
	if (s->tok) whit_tok_close(s->tok);
	if (s->text.path) whit_map_close(&s->text);
	for (int i = 0; i < s->n_choice; i++) {
		whit_recipe_free(&s->choice[i].recipe);
		whit_free(s->choice[i].name);
	}
	whit_journal_free(&s->journal);
	whit_free(s->choice);
	whit_free(s->format);
	whit_free(s->part);
	whit_free(s->table.entry);
	json_decref(s->unfit);
	whit_arena_free(&s->names);
}

int whit_cmd_sensitivity(int argc, char **argv, whit_err *e) {
	session s = {0};
	int rc = parse_options(&s, argc, argv, e);
	if (!rc) rc = check_args(&s, e);
	if (!rc) rc = work(&s, e);
	whit_event("end", json_pack("{s:i}", "code", rc < 0 ? -rc : 0));
	close_all(&s);
	return rc;
}
