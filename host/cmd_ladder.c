/* whit ladder: many quantizations of one model, each measured on one text, in one table. Finished runs are kept in a
 * journal, so that an interrupted ladder goes on where it was. One output is on disk at a time, beside BASE. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include "eval/ladder.h"
#include "eval/report.h"
#include "formats/json.h"
#include "host/cmd_measure.h"
#include "host/cmd_quantize.h"
#include "host/commands.h"
#include "host/device.h"
#include "host/journal.h"
#include "host/progress.h"

typedef struct args {
	const char *model, *out;
	whit_list recipes;
	whit_measure_args on;
	whit_calib_args calib;
	int64_t seeds, seed;
	int force;
} args;

typedef struct entry { /* a recipe file, or a line of a list */
	char *label, *options;
	char *at; /* "FILE" or "FILE:LINE", for messages */
	whit_quantize_opts q;
	whit_allocated allocated; /* what q asks an allocator for, once */
	json_t *inputs;           /* what its numbers depend on beside the session's */
	int seeded;               /* seeds have a part in it */
} entry;

typedef struct session {
	args a;
	whit_eval_opts eval;
	entry *entry;
	int n;
	whit_arena names;
	whit_map text;
	whit_tok *tok;
	whit_journal journal;
	whit_outdir work; /* never committed */
	whit_ladder table;
} session;

enum { WORDS = 64 }; /* of a line */

/* ---- options ---- */

static int parse_options(args *a, int argc, char **argv, whit_err *e) {
	*a = (args){.on = WHIT_MEASURE_DEFAULTS, .calib = WHIT_CALIB_DEFAULTS, .seeds = 1, .seed = 42};
	const whit_opt table[] = {
	        {"RECIPE...", 'l', NULL,
	         "recipe files, or NAME.list: lines 'label  options of whit quantize', with --gguf into a GGUF",
	         &a->recipes, 1},
	        {"--model", 'r', "MODEL", "Hugging Face directory or GGUF file: what is quantized, and the reference",
	         &a->model, 1},
	        {"--out", 's', "BASE",
	         "writes BASE.json, BASE.md and BASE.svg, and BASE.journal, from which it resumes", &a->out, 1},
	        WHIT_MEASURE_OPTIONS(a->on),
	        {"--seeds", 'i', "N", "run each recipe that has a rotation with N seeds (default 1)", &a->seeds, 0},
	        {"--seed", 'i', "S", "the first of them, where a line does not say (default 42)", &a->seed, 0},
	        WHIT_CALIB_OPTIONS("--calib-text", a->calib),
	        {"--force", 'f', NULL, "start anew over a journal of other inputs", &a->force, 0},
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	int rc = whit_options("ladder", "many quantizations of one model, measured on one text", table, argc, argv, e);
	if (!rc && (a->seeds < 1 || a->seeds > 1000))
		rc = whit_fail(e, WHIT_EUSAGE, "ladder: --seeds is %lld, need 1 to 1000", (long long)a->seeds);
	if (!rc && a->seed < 0)
		rc = whit_fail(e, WHIT_EUSAGE, "ladder: --seed is %lld, need at least 0", (long long)a->seed);
	return rc;
}

/* ---- what is to be run ---- */

/* What a line leaves open is the command's. */
static void set_defaults(const args *a, whit_quantize_opts *q) {
	*q = (whit_quantize_opts)WHIT_QUANTIZE_DEFAULTS;
	q->model = a->model;
	q->seed = a->seed;
	q->calib = a->calib;
	q->calib.stats = NULL;
	q->calib.text = q->calib.apart = (whit_list){0}; /* a line's are its own, and not added to those */
	q->samples = 0;
	q->bare = 1;
}

static int finish(const args *a, entry *x, whit_err *e) {
	whit_quantize_opts *q = &x->q;
	if (!q->calib.text.n && !q->calib.stats) {
		q->calib.text = a->calib.text;
		q->calib.stats = a->calib.stats;
		q->calib_if_asked = 1;
	}
	if (!q->calib.apart.n) q->calib.apart = a->calib.apart;
	q->calib.eval = a->on.text;
	int rc = whit_quantize_check(q, e);
	return rc ? whit_fail_in(e, "%s", x->at) : 0;
}

static int add_entry(session *s, char *label, char *options, char *at, whit_err *e) {
	for (int i = 0; i < s->n; i++)
		if (!strcmp(s->entry[i].label, label))
			return whit_fail(e, WHIT_EUSAGE, "%s: label '%s' is that of %s, need another", at, label,
			                 s->entry[i].at);
	s->entry = whit_realloc(s->entry, (size_t)s->n * sizeof *s->entry, (size_t)(s->n + 1) * sizeof *s->entry);
	s->entry[s->n] = (entry){.label = label, .options = options, .at = at};
	set_defaults(&s->a, &s->entry[s->n++].q);
	return 0;
}

/* A copy in the session's arena of text that is freed. */
static char *keep(session *s, char *text) {
	char *copy = whit_take_text(&s->names, text);
	whit_free(text);
	return copy;
}

static int add_recipe(session *s, const char *path, whit_err *e) {
	static const char suffix[] = ".recipe";
	const char *slash = strrchr(path, '/');
	char *label = whit_take_text(&s->names, slash ? slash + 1 : path);
	size_t n = strlen(label), k = sizeof suffix - 1;
	if (n > k && !strcmp(label + n - k, suffix)) label[n - k] = 0;
	int rc =
	        add_entry(s, label, keep(s, whit_format_text("--recipe %s", path)), whit_take_text(&s->names, path), e);
	if (rc) return rc;
	s->entry[s->n - 1].q.recipe = path;
	return finish(&s->a, &s->entry[s->n - 1], e);
}

/* The words of a line, which is cut up; more than there is room for: -1. */
static int split(char *line, char *word[WORDS]) {
	int n = 0;
	for (char *c = line; *(c += strspn(c, " \t\r"));) {
		if (n == WORDS) return -1;
		word[n++] = c;
		c += strcspn(c, " \t\r");
		if (*c) *c++ = 0;
	}
	return n;
}

static int parse_line(session *s, char *text, char *at, whit_err *e) {
	char *word[WORDS], *label = text + strspn(text, " \t\r");
	if (!*label || *label == '#') return 0;
	size_t n = strcspn(label, " \t\r");
	char *options = label + n + strspn(label + n, " \t\r");
	if (*label == '-')
		return whit_fail(e, WHIT_EUSAGE, "%s: '%.*s' is an option, need a label first", at, (int)n, label);
	options = whit_take_text(&s->names, options);
	int words = split(label, word);
	if (words < 0) return whit_fail(e, WHIT_EUSAGE, "%s: has more than %d words", at, WORDS);
	int rc = add_entry(s, label, options, at, e);
	if (rc) return rc;
	entry *x = &s->entry[s->n - 1];
	const whit_opt table[] = {
	        WHIT_QUANTIZE_OPTIONS(x->q),
	        {"--gguf", 'f', NULL, "into a GGUF", &x->q.gguf, 0},
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	rc = whit_options_line("quantize", table, words, word, e);
	return rc ? whit_fail_in(e, "%s", at) : finish(&s->a, x, e);
}

static int add_list(session *s, const char *path, whit_err *e) {
	whit_map file;
	int rc = whit_map_open(&file, path, e);
	if (rc) return rc;
	char *text = whit_take_bytes(&s->names, file.bytes + 1), *next = text;
	memcpy(text, file.data, file.bytes);
	text[file.bytes] = 0;
	if (memchr(text, 0, file.bytes)) rc = whit_fail(e, WHIT_EUSAGE, "%s: has a NUL byte, need text", path);
	whit_map_close(&file);
	for (int line = 1; !rc && *next; line++) {
		char *here = next, *end = strchr(next, '\n');
		next = end ? end + 1 : next + strlen(next);
		if (end) *end = 0;
		rc = parse_line(s, here, keep(s, whit_format_text("%s:%d", path, line)), e);
	}
	return rc;
}

static int read_recipes(session *s, whit_err *e) {
	int rc = 0;
	for (int i = 0; i < s->a.recipes.n && !rc; i++) {
		const char *path = s->a.recipes.v[i];
		size_t n = strlen(path);
		rc = n > 5 && !strcmp(path + n - 5, ".list") ? add_list(s, path, e) : add_recipe(s, path, e);
	}
	return rc || s->n ? rc : whit_fail(e, WHIT_EUSAGE, "%s: has no line", s->a.recipes.v[0]);
}

/* ---- what the numbers depend on ---- */

static int calib_inputs(json_t *j, const whit_calib_args *c, whit_err *e) {
	json_t *texts = json_array(), *hash = NULL, *fisher = NULL;
	int rc = 0;
	for (int i = 0; i < c->text.n && !rc; i++)
		if (!(rc = whit_measure_hash_file(&hash, c->text.v[i], e))) json_array_append_new(texts, hash);
	hash = NULL;
	if (!rc && c->fisher) rc = whit_measure_hash_stats(&fisher, c->fisher, e);
	if (!rc && c->stats) rc = whit_measure_hash_stats(&hash, c->stats, e);
	json_object_set_new(j, "calibration",
	                    json_pack("{s:o, s:o, s:I, s:I, s:f, s:f, s:b, s:I, s:f, s:f, s:I, s:f, s:f, s:s, s:s, "
	                              "s:I, s:I, s:o, s:s, s:b}",
	                              "texts", texts, "stats", hash ? hash : json_null(), "samples",
	                              (json_int_t)c->samples, "len", (json_int_t)c->len, "damping", c->damping, "alpha",
	                              c->alpha, "act_order", c->act_order, "block_steps", (json_int_t)c->block.steps,
	                              "block_rate", c->block.rate, "block_scale_rate", c->block.scale_rate,
	                              "distill_steps", (json_int_t)c->distill.steps, "distill_rate", c->distill.rate,
	                              "distill_scale_rate", c->distill.scale_rate, "scaling",
	                              c->scaling ? c->scaling : "none", "metric", c->metric ? c->metric : "hessian",
	                              "groups", (json_int_t)c->groups, "refits", (json_int_t)c->refits, "fisher",
	                              fisher ? fisher : json_null(), "core_by", c->core_by ? c->core_by : "gain",
	                              "tiers", c->tiers));
	return rc;
}

/* The rules of both recipes, whose seeds differ where they are the command's: then a run's seed stands there. */
static json_t *rules_json(const whit_recipe *r, const whit_recipe *other) {
	json_t *all = json_array();
	for (int i = 0; i < r->n; i++) {
		const whit_rule *u = &r->rule[i];
		char name[32] = "keep", seed[32] = "";
		if (!u->keep) {
			whit_spec_name(&u->spec, name);
			if (u->seed == other->rule[i].seed) snprintf(seed, sizeof seed, " seed=%" PRIu64, u->seed);
		}
		char *line = u->keep ? whit_format_text("%s %s when=%s", u->pattern, name, u->when ? u->when : "")
		                     : whit_format_text("%s %s method=%s rotation=%s scale=%s density=%s when=%s%s",
		                                        u->pattern, name, u->method->name,
		                                        whit_rotation_kind_name(u->rotation), whit_scale_name(u->rule),
		                                        whit_density_name(u->density), u->when ? u->when : "", seed);
		json_array_append_new(all, whit_report_text(line, strlen(line)));
		whit_free(line);
	}
	return all;
}

static int entry_inputs(entry *x, whit_err *e) {
	whit_recipe r = {0}, other = {0};
	json_t *hash = NULL;
	int rc = whit_quantize_allocate(&x->allocated, &x->q, e);
	if (x->allocated.text) x->q.allocated = &x->allocated;
	whit_quantize_opts next = x->q;
	next.seed++;
	if (!rc) rc = whit_quantize_recipe(&r, &x->q, e);
	if (!rc) rc = whit_quantize_recipe(&other, &next, e);
	if (!rc) {
		x->inputs = json_pack("{s:b, s:o}", "gguf", x->q.gguf, "rules", rules_json(&r, &other));
		for (int i = 0; i < r.n; i++)
			x->seeded |= !r.rule[i].keep && r.rule[i].rotation != WHIT_ROT_NONE &&
			             r.rule[i].seed != other.rule[i].seed;
		if (whit_quantize_asks(&r, &x->q)) rc = calib_inputs(x->inputs, &x->q.calib, e);
	}
	if (!rc && x->q.imatrix && !(rc = whit_measure_hash_file(&hash, x->q.imatrix, e)))
		json_object_set_new(x->inputs, "imatrix", hash);
	whit_recipe_free(&r);
	whit_recipe_free(&other);
	return rc ? whit_fail_in(e, "%s", x->at) : 0;
}

/* Paths, labels and threads are not among them. */
static int make_inputs(session *s, whit_err *e) {
	const args *a = &s->a;
	whit_dev *dev;
	whit_ckpt ckpt;
	char model[48];
	int rc = whit_ckpt_open(&ckpt, a->model, e);
	if (rc) return rc;
	rc = whit_ckpt_fingerprint(&ckpt, model, e);
	if (!rc) rc = whit_tok_open(&s->tok, ckpt.path, e);
	whit_ckpt_close(&ckpt);
	if (!rc) rc = whit_map_open(&s->text, a->on.text, e);
	if (!rc) rc = whit_device_open(&dev, e);
	if (rc) return rc;
	whit_journal_inputs(
	        &s->journal,
	        json_pack("{s:s, s:s, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:o}", "program", "whit " WHIT_VERSION,
	                  "model", model, "text", whit_measure_hash(whit_hash_bytes(s->text.data, s->text.bytes)),
	                  "mode", whit_eval_mode_name(s->eval.mode), "ctx", (json_int_t)a->on.ctx, "stride",
	                  (json_int_t)a->on.stride, "max_tokens", (json_int_t)a->on.max_tokens, "batch_tokens",
	                  (json_int_t)a->on.batch_tokens, "floor_tokens", (json_int_t)a->on.floor_tokens, "compute",
	                  a->on.compute, "device", whit_measure_device(dev)));
	whit_device_close(dev);
	for (int i = 0; i < s->n && !rc; i++) rc = entry_inputs(&s->entry[i], e);
	return rc;
}

static void make_table(session *s) {
	const args *a = &s->a;
	whit_ladder *t = &s->table;
	*t = (whit_ladder){.model = a->model,
	                   .text = a->on.text,
	                   .mode = whit_eval_mode_name(s->eval.mode),
	                   .inputs = s->journal.inputs,
	                   .fingerprint = s->journal.print,
	                   .entry = whit_alloc((size_t)s->n * sizeof *t->entry),
	                   .n = s->n};
	for (int i = 0; i < s->n; i++) {
		const entry *x = &s->entry[i];
		whit_ladder_entry *row = &t->entry[i];
		row->label = x->label;
		row->options = x->options;
		row->n = x->seeded ? (int)a->seeds : 1;
		row->run = whit_alloc((size_t)row->n * sizeof *row->run);
		for (int k = 0; k < row->n; k++) row->run[k].seed = x->q.seed + k;
	}
}

/* ---- the journal ---- */

static int journal_write(const session *s, whit_err *e) {
	json_t *all = json_array();
	for (int i = 0; i < s->n; i++) {
		for (int k = 0; k < s->table.entry[i].n; k++) {
			const whit_ladder_run *r = &s->table.entry[i].run[k];
			if (!r->done) continue;
			const char *label = s->entry[i].label;
			json_t *j = json_pack("{s:o, s:O}", "label", whit_report_text(label, strlen(label)), "inputs",
			                      s->entry[i].inputs);
			json_t *values = whit_ladder_run_json(r, 1, 1);
			json_object_update(j, values);
			json_decref(values);
			json_array_append_new(all, j);
		}
	}
	return whit_journal_write(&s->journal, all, e);
}

static int read_run(whit_ladder_run *r, const json_t *j, const char *path, whit_err *e) {
	int rc = 0;
	for (int v = 0; v < WHIT_RUN_VALUES && !rc; v++) {
		r->value[v] = NAN;
		rc = whit_json_real(j, path, whit_run_names[v].name, v == WHIT_RUN_KLD, -1e300, 1e300, &r->value[v], e);
	}
	r->done = !rc;
	return rc;
}

static int journal_entry(void *ctx, const json_t *j, whit_err *e) {
	session *s = ctx;
	const char *path = s->journal.path[WHIT_TO_JOURNAL], *label;
	const json_t *inputs;
	char list[600];
	int64_t seed;
	int rc = whit_json_text(j, path, "label", 1, &label, e), i = 0;
	if (!rc) rc = whit_json_int(j, path, "seed", 1, 0, INT64_MAX, &seed, e);
	if (!rc) rc = whit_json_member(j, path, "inputs", 1, JSON_OBJECT, &inputs, e);
	if (rc) return rc;
	while (i < s->n && strcmp(s->entry[i].label, label)) i++;
	for (int k = 0; i < s->n && k < s->table.entry[i].n; k++) {
		if (s->table.entry[i].run[k].seed != seed) continue;
		if (json_equal(inputs, s->entry[i].inputs)) return read_run(&s->table.entry[i].run[k], j, path, e);
		if (!whit_json_differs(inputs, s->entry[i].inputs, list, sizeof list))
			snprintf(list, sizeof list, "it had more");
		return whit_fail(e, WHIT_EFINGERPRINT,
		                 "%s: '%s' had other inputs: %s; give another --out, or --force to start anew", path,
		                 label, list);
	}
	return whit_fail(e, WHIT_EFINGERPRINT,
	                 "%s: has '%s' with seed %lld, which is none of this run's; give another --out, or --force to "
	                 "start anew",
	                 path, label, (long long)seed);
}

/* ---- the run ---- */

static void remove_outputs(session *s) {
	static const char *const name[] = {"q", "q.partial"};
	for (int i = 0; i < WHIT_COUNT(name); i++) {
		char *path = whit_outdir_file(&s->work, name[i]);
		whit_dir_remove(path);
		whit_free(path);
	}
}

/* The output's place, new for each: a directory, or a GGUF file, which --force replaces. whit_free it. */
static char *output(session *s, whit_quantize_opts *q) {
	remove_outputs(s);
	char *path = whit_outdir_file(&s->work, q->gguf ? "q.gguf" : "q");
	q->out = path;
	q->force = q->gguf;
	return path;
}

static int evaluate(session *s, const whit_quantize_opts *q, double value[WHIT_RUN_VALUES], whit_err *e) {
	whit_eval_opts o = s->eval;
	const char *stats[1] = {q->calib.stats};
	const whit_list apart = {stats, 1};
	unsigned flags = whit_measure_flags(&s->a.on);
	whit_model m = {0}, ref = {0}, *both[] = {&m, &ref};
	whit_dev *dev = NULL;
	whit_eval_result r = {0};
	if (isfinite(whit_ladder_text(&s->table, WHIT_RUN_FLOOR_KLD))) o.floor_tokens = 0; /* once is enough */
	if (q->calib.stats) o.apart = &apart;
	int rc = whit_model_open(&m, q->out, flags, e);
	if (!rc) rc = whit_model_open(&ref, s->a.model, flags, e);
	if (!rc) rc = whit_device_open(&dev, e);
	if (!rc) rc = whit_models_device(both, 2, dev, whit_eval_need(&m, &ref, &o), e);
	if (!rc) rc = whit_eval_run(&r, &m, &ref, s->tok, (const char *)s->text.data, s->text.bytes, &o, e);
	/* The inputs must still be what was measured. */
	if (!rc) rc = whit_ckpt_check(&ref.ckpt, e);
	if (!rc) rc = whit_map_check(&s->text, e);
	if (!rc) whit_ladder_values(value, &r);
	whit_eval_free(&r);
	if (ref.ckpt.path) whit_model_close(&ref);
	if (m.ckpt.path) whit_model_close(&m);
	whit_device_close(dev);
	return rc;
}

static int run_one(session *s, const entry *x, whit_ladder_run *r, whit_err *e) {
	whit_quantize_opts q = x->q;
	whit_quantize_stats st;
	double value[WHIT_RUN_VALUES];
	char *path = output(s, &q);
	q.seed = r->seed;
	int rc = whit_quantize_write(&q, &st, e);
	if (!rc) rc = evaluate(s, &q, value, e);
	whit_free(path);
	if (rc) return whit_fail_in(e, "%s: %s", x->at, x->label);
	value[WHIT_RUN_REL_MSE] = st.rel_mse;
	value[WHIT_RUN_QUANTIZE_S] = st.seconds;
	memcpy(r->value, value, sizeof value);
	r->done = 1;
	json_t *event = whit_ladder_run_json(r, 1, 0);
	json_object_set_new(event, "label", whit_report_text(x->label, strlen(x->label)));
	whit_event("ladder", event);
	return 0;
}

static int64_t count_runs(const session *s, int done) {
	int64_t n = 0;
	for (int i = 0; i < s->n; i++)
		for (int k = 0; k < s->table.entry[i].n; k++) n += !done || s->table.entry[i].run[k].done;
	return n;
}

/* Plans them all, so that the last one's misfit is known before the first one's work. */
static int plan_all(session *s, whit_err *e) {
	int rc = 0;
	for (int i = 0; i < s->n && !rc; i++) {
		whit_quantize_opts q = s->entry[i].q;
		char *path = output(s, &q);
		q.plan = 1;
		rc = whit_quantize_write(&q, NULL, e);
		if (rc) whit_fail_in(e, "%s: %s", s->entry[i].at, s->entry[i].label);
		whit_free(path);
	}
	return rc;
}

static int run_all(session *s, whit_err *e) {
	int rc = 0;
	for (int i = 0; i < s->n; i++) {
		whit_ladder_entry *row = &s->table.entry[i];
		for (int k = 0; k < row->n && !rc; k++) {
			if (row->run[k].done) continue;
			whit_say("ladder: %lld of %lld: %s, seed %lld", (long long)count_runs(s, 1) + 1,
			         (long long)count_runs(s, 0), row->label, (long long)row->run[k].seed);
			rc = whit_interrupted(e);
			if (!rc) rc = run_one(s, &s->entry[i], &row->run[k], e);
			if (!rc) rc = journal_write(s, e);
		}
	}
	return rc;
}

/* ---- the command ---- */

static int work(session *s, whit_err *e) {
	const args *a = &s->a;
	const whit_ladder *t = &s->table;
	char *const *path = s->journal.path;
	int rc = whit_measure_opts(&s->eval, &a->on, "ladder", e);
	if (!rc) rc = read_recipes(s, e);
	if (!rc) rc = whit_journal_open(&s->journal, "ladder", a->out, a->on.text, a->force, e);
	if (!rc) rc = make_inputs(s, e);
	if (rc) return rc;
	make_table(s);
	rc = whit_journal_read(&s->journal, count_runs(s, 0), journal_entry, s, e);
	if (rc) return rc;
	char *place = whit_format_text("%s.work", a->out);
	rc = whit_outdir_open(&s->work, place, 0, e);
	whit_free(place);
	if (!rc && count_runs(s, 1) < count_runs(s, 0)) rc = plan_all(s, e);
	if (!rc) rc = run_all(s, e);
	if (!rc)
		rc = whit_journal_results(&s->journal, whit_ladder_json(t), whit_ladder_markdown(t), whit_ladder_svg(t),
		                          e);
	if (rc) return rc;
	whit_ladder_print(t, stdout);
	printf("\nwrote         %s, %s and %s\n", path[WHIT_TO_JSON], path[WHIT_TO_MARKDOWN], path[WHIT_TO_SVG]);
	return 0;
}

static void free_list(whit_list *l, const whit_list *shared) {
	if (l->v != shared->v) whit_free(l->v);
}

static void close_all(session *s) {
	args *a = &s->a;
	if (s->work.tmp) {
		remove_outputs(s);
		whit_outdir_abort(&s->work);
	}
	for (int i = 0; i < s->table.n; i++) whit_free(s->table.entry[i].run);
	whit_free(s->table.entry);
	for (int i = 0; i < s->n; i++) {
		entry *x = &s->entry[i];
		free_list(&x->q.calib.text, &a->calib.text);
		free_list(&x->q.calib.apart, &a->calib.apart);
		json_decref(x->inputs);
		whit_free(x->allocated.text);
	}
	whit_free(s->entry);
	whit_free(a->calib.text.v);
	whit_free(a->calib.apart.v);
	whit_free(a->recipes.v);
	if (s->tok) whit_tok_close(s->tok);
	if (s->text.path) whit_map_close(&s->text);
	whit_journal_free(&s->journal);
	whit_arena_free(&s->names);
}

int whit_cmd_ladder(int argc, char **argv, whit_err *e) {
	session s = {0};
	int rc = parse_options(&s.a, argc, argv, e);
	if (!rc) rc = work(&s, e);
	whit_event("end", json_pack("{s:i}", "code", rc < 0 ? -rc : 0));
	close_all(&s);
	return rc;
}
