/* whit calibrate: runs a model over text, forwards and, where gradients are asked for, back, and writes what its linear
 * layers saw: a directory of statistics (calib/stats.h), or, as llama.cpp reads it too, an importance matrix. */
#include <stdio.h>
#include "calib/stats_dir.h"
#include "eval/report.h"
#include "formats/json.h"
#include "host/commands.h"
#include "host/device.h"
#include "host/progress.h"

typedef struct args {
	const char *model, *stats, *estimator, *against, *out, *json;
	whit_list text, domains, apart, merge;
	int64_t ctx, samples, groups, seed, held;
	int head, force;
} args;

/* Everything that lives for one run of the command. */
typedef struct session {
	args a;
	unsigned kinds;
	int estimator;
	whit_model model, other;
	whit_tok *tok;
	int n;         /* texts */
	whit_map *map; /* of each text */
	char **name;   /* of each domain; owned */
	whit_stats_text *text;
	whit_stats stats;
	whit_outdir dir; /* path NULL: an importance matrix */
	json_t *job;
	whit_dev *dev;
	char *command;
} session;

static int ends_with(const char *s, const char *end) {
	size_t n = strlen(s), k = strlen(end);
	return n >= k && !strcmp(s + n - k, end);
}

static int check_options(session *s, whit_err *e) {
	const args *a = &s->a;
	int rc = whit_statistics_parse(a->stats, &s->kinds, e);
	if (rc) return rc;
	s->estimator = -1;
	for (int i = 0; whit_estimators[i]; i++)
		if (!strcmp(whit_estimators[i], a->estimator)) s->estimator = i;
	if (s->estimator < 0)
		return whit_fail(e, WHIT_EUSAGE, "--estimator: is %.40s, need seq, token or sampled", a->estimator);
	if (a->ctx < 0 || a->samples < 0)
		return whit_fail(e, WHIT_EUSAGE, "--len and --samples: are %lld and %lld, need 1 or more",
		                 (long long)a->ctx, (long long)a->samples);
	if (a->groups < 1 || a->groups > 1024)
		return whit_fail(e, WHIT_EUSAGE, "--groups: is %lld, need 1 to 1024", (long long)a->groups);
	if (!(s->kinds & WHIT_STAT_CROSS) != !a->against)
		return whit_fail(e, WHIT_EUSAGE, "--stats cross and --against MODEL: need both or neither");
	if (ends_with(a->out, ".gguf") && s->kinds != WHIT_STAT_DIAG)
		return whit_fail(e, WHIT_EUSAGE,
		                 "--out: %s is an importance matrix, which holds diag; is %s, need a directory", a->out,
		                 a->stats);
	if (a->text.n + a->domains.n == 0) return whit_fail(e, WHIT_EUSAGE, "need --text FILE or --domains NAME=FILE");
	return 0;
}

static int parse_options(session *s, int argc, char **argv, whit_err *e) {
	args *a = &s->a;
	const whit_opt opts[] = {
	        {"MODEL", 'r', "MODEL",
	         "Hugging Face directory, GGUF file, or a directory that whit wrote; with --merge none", &a->model, 0},
	        {"--text", 'l', "FILE", "calibration text; may be given several times", &a->text, 0},
	        {"--domains", 'l', "NAME=FILE",
	         "text of a domain whose sums are kept apart; may be given several times", &a->domains, 0},
	        {"--stats", 's', "WHAT,...",
	         "diag, size, hessian, cross, fisher, fisher-full, gradsq, guided (default diag): README, Calibration",
	         &a->stats, 0},
	        {"--estimator", 's', "HOW", "of fisher: seq, token or sampled (default seq)", &a->estimator, 0},
	        {"--groups", 'i', "N", "groups of outputs for guided (default 4)", &a->groups, 0},
	        {"--against", 'r', "MODEL", "cross: the other model, usually this one quantized", &a->against, 0},
	        {"--out", 'w', "PATH", "directory to write, or importance matrix as llama.cpp's imatrix.gguf", &a->out,
	         1},
	        {"--len", 'i', "N", "tokens of a sample (default: the model's context, at most 512)", &a->ctx, 0},
	        {"--ctx", 'i', "N", "the same", &a->ctx, 0},
	        {"--samples", 'i', "N", "use the first N samples of each domain (default: all)", &a->samples, 0},
	        {"--chunks", 'i', "N", "the same", &a->samples, 0},
	        {"--seed", 'i', "N", "of labels drawn by --estimator sampled (default 1)", &a->seed, 0},
	        {"--apart", 'l', "PATH", "text or statistics that must share no 50 tokens with the calibration text",
	         &a->apart, 0},
	        {"--process-output", 'f', NULL,
	         "also the input of the head (output.weight; of a tied head, token_embd)", &a->head, 0},
	        {"--ram", 'b', "BYTES", "states between layers (default 256M, with gradients 1G); changes no bytes",
	         &a->held, 0},
	        {"--merge", 'l', "DIR", "add up two directories of statistics instead: --merge A --merge B", &a->merge,
	         0},
	        {"--force", 'f', NULL, "replace --out if it exists", &a->force, 0},
	        {"--json", 'w', "FILE", "write a summary as JSON", &a->json, 0},
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	int rc = whit_options("calibrate", "statistics of a model's layers over calibration text", opts, argc, argv, e);
	if (rc) return rc;
	if (a->merge.n) {
		if (a->merge.n != 2 || a->model || a->text.n || a->domains.n)
			rc = whit_fail(e, WHIT_EUSAGE, "--merge: needs two directories, and no model or text");
	} else if (!a->model) {
		rc = whit_fail(e, WHIT_EUSAGE, "MODEL is missing");
	} else {
		rc = check_options(s, e);
	}
	return rc ? whit_fail_in(e, "calibrate") : 0;
}

static int open_text(session *s, const char *path, const char *domain, whit_err *e) {
	whit_map *map = &s->map[s->n];
	int rc = whit_map_open(map, path, e);
	if (rc) return rc;
	s->text[s->n++] =
	        (whit_stats_text){.name = path, .data = (const char *)map->data, .bytes = map->bytes, .domain = domain};
	return 0;
}

static int open_texts(session *s, whit_err *e) {
	const args *a = &s->a;
	size_t n = (size_t)(a->text.n + a->domains.n);
	int rc = 0;
	s->map = whit_alloc(n * sizeof *s->map);
	s->text = whit_alloc(n * sizeof *s->text);
	s->name = whit_alloc(n * sizeof *s->name);
	for (int i = 0; i < a->text.n && !rc; i++) rc = open_text(s, a->text.v[i], NULL, e);
	for (int i = 0; i < a->domains.n && !rc; i++) {
		const char *v = a->domains.v[i], *file = strchr(v, '=');
		size_t k = file ? (size_t)(file - v) : 0;
		if (!k || k > 60 || k != strspn(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"))
			return whit_fail(e, WHIT_EUSAGE,
			                 "--domains: is %.80s, need NAME=FILE, a name of letters, digits, - and _", v);
		s->name[i] = whit_format_text("%.*s", (int)k, v);
		rc = open_text(s, file + 1, s->name[i], e);
	}
	return rc;
}

static whit_stats_opts options_of(session *s) {
	const args *a = &s->a;
	return (whit_stats_opts){.kinds = s->kinds,
	                         .estimator = s->estimator,
	                         .groups = (int)a->groups,
	                         .seed = (uint64_t)a->seed,
	                         .ctx = a->ctx,
	                         .chunks = a->samples,
	                         .head = a->head,
	                         .other = a->against ? &s->other : NULL,
	                         .held_bytes = a->held,
	                         .apart = a->apart.n ? &a->apart : NULL,
	                         .dir = s->dir.tmp};
}

/* What the bytes of a result depend on, as a directory remembers it. */
static int make_job(session *s, whit_err *e) {
	char print[48], other[48];
	whit_stats_opts o = options_of(s);
	int rc = whit_ckpt_fingerprint(&s->model.ckpt, print, e);
	if (!rc && s->a.against) rc = whit_ckpt_fingerprint(&s->other.ckpt, other, e);
	if (rc) return rc;
	char *where = whit_device_text(s->dev);
	s->job = whit_stats_job(&s->model, print, s->a.against ? other : NULL, s->text, s->n, &o, where);
	whit_free(where);
	return 0;
}

/* Whether an interrupted run left something to go on from. */
static int any_layer(const session *s) {
	int any = 0;
	for (int64_t l = 0; l <= s->model.layers && s->dir.tmp; l++) {
		char *path = whit_stats_layer_path(s->dir.tmp, l, s->model.layers);
		any |= whit_file_exists(path);
		whit_free(path);
	}
	return any;
}

/* What can be known to fail is found before the work. */
static int preflight(session *s, whit_err *e) {
	const args *a = &s->a;
	int matrix = ends_with(a->out, ".gguf"), resumed = 0;
	int rc = a->json ? whit_out_try(a->json, e) : 0;
	if (!rc && matrix) rc = whit_out_try(a->out, e);
	if (!rc) rc = open_texts(s, e);
	if (!rc) rc = whit_tok_open(&s->tok, a->model, e);
	if (!rc) rc = whit_model_open(&s->model, a->model, 0, e);
	if (!rc && a->against) rc = whit_model_open(&s->other, a->against, 0, e);
	if (!rc && a->against && (s->other.layers != s->model.layers || s->other.hidden != s->model.hidden))
		rc = whit_fail(e, WHIT_EINPUT, "%s: is %lld layers of %lld, need %lld of %lld as %s", a->against,
		               (long long)s->other.layers, (long long)s->other.hidden, (long long)s->model.layers,
		               (long long)s->model.hidden, a->model);
	if (!rc && matrix && !whit_gguf_arch_find(s->model.arch->name, e)) rc = e->code;
	if (!rc) rc = whit_device_open(&s->dev, e);
	if (rc || matrix) return rc;
	rc = whit_outdir_resume(&s->dir, a->out, a->force, e);
	if (!rc && !any_layer(s)) {
		whit_outdir_abort(&s->dir);
		rc = whit_outdir_open(&s->dir, a->out, a->force, e);
	}
	if (!rc) rc = make_job(s, e);
	if (!rc) rc = whit_stats_job_put(s->dir.tmp, s->job, &resumed, e);
	if (rc == WHIT_EFINGERPRINT) whit_fail_in(e, "%s: delete it, or finish that run", s->dir.tmp);
	if (!rc && resumed) whit_say("resuming what an interrupted run left in %s", s->dir.tmp);
	return rc;
}

static json_t *texts_json(const session *s) {
	json_t *all = json_array();
	for (int i = 0; i < s->n; i++) {
		const whit_stats_text *t = &s->text[i];
		char hash[48];
		whit_hash_text(whit_hash_bytes(t->data, t->bytes), hash);
		json_array_append_new(all, json_pack("{s:o, s:s, s:s, s:I, s:I, s:I, s:I}", "path",
		                                     whit_report_text(t->name, strlen(t->name)), "domain",
		                                     whit_stats_domain_name(t), "hash", hash, "bytes",
		                                     (json_int_t)t->bytes, "bytes_not_utf8", (json_int_t)t->invalid,
		                                     "tokens", (json_int_t)t->tokens, "chunks", (json_int_t)t->chunks));
	}
	return all;
}

static int write_json(const session *s, int64_t weights, whit_err *e) {
	const whit_stats *t = &s->stats;
	char print[48];
	int rc = whit_ckpt_fingerprint(&s->model.ckpt, print, e);
	if (rc) return rc;
	json_t *j = json_pack(
	        "{s:i, s:s, s:o, s:{s:o, s:s, s:s}, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:f, s:f, "
	        "s:i, s:I}",
	        "format_version", 1, "program", "whit " WHIT_VERSION, "command",
	        whit_report_text(s->command, strlen(s->command)), "model", "path",
	        whit_report_text(s->a.model, strlen(s->a.model)), "architecture", s->model.arch->name, "fingerprint",
	        print, "texts", texts_json(s), "stats", s->a.stats, "ctx", (json_int_t)t->ctx, "chunks",
	        (json_int_t)t->chunks, "tokens", (json_int_t)t->tokens, "inputs", (json_int_t)t->n, "weights",
	        (json_int_t)weights, "process_output", s->a.head, "out", whit_report_text(s->a.out, strlen(s->a.out)),
	        "seconds", t->seconds, "tokens_per_s", (double)t->tokens / t->seconds, "threads", whit_threads(),
	        "peak_rss", (json_int_t)whit_peak_rss());
	rc = whit_json_write(j, s->a.json, e);
	json_decref(j);
	return rc;
}

/* The result under its name. */
static int finish(session *s, whit_err *e) {
	whit_imatrix im;
	int rc;
	if (s->dir.path) {
		rc = whit_stats_finish(&s->stats, s->dir.tmp, s->job, e);
		return rc ? rc : whit_outdir_commit(&s->dir, e);
	}
	rc = whit_stats_imatrix(&s->stats, &s->model, s->text, s->n, &im, e);
	if (rc) return rc;
	rc = whit_imatrix_write(&im, s->a.out, e);
	whit_imatrix_close(&im);
	return rc;
}

static int work(session *s, whit_err *e) {
	whit_stats_opts o = options_of(s);
	whit_model *models[] = {&s->model, &s->other};
	int rc = whit_models_device(models, s->a.against ? 2 : 1, s->dev, whit_stats_need(&s->model, &o), e);
	if (!rc) rc = whit_stats_run(&s->stats, &s->model, s->tok, s->text, s->n, &o, e);
	if (!rc) rc = whit_ckpt_check(&s->model.ckpt, e); /* the inputs must still be what was measured */
	for (int i = 0; i < s->n && !rc; i++) rc = whit_map_check(&s->map[i], e);
	if (!rc) rc = finish(s, e);
	if (rc) return rc;
	const whit_stats *t = &s->stats;
	int64_t weights = 0;
	for (int64_t i = 0; i < t->n; i++) weights += t->in[i].n_weight;
	printf("wrote         %s: %s of %lld weights, %lld samples of %lld tokens\n", s->a.out, s->a.stats,
	       (long long)weights, (long long)t->chunks, (long long)t->ctx);
	for (int d = 0; d < t->n_domain && (s->kinds & WHIT_STAT_BACK); d++)
		printf("loss          %s: %.4f nats a token\n", t->domain[d].name,
		       t->domain[d].nll / (double)(t->domain[d].chunks * (t->ctx - 1)));
	printf("time          %.2f s, %.0f tokens/s, peak memory %.0f MB\n", t->seconds, (double)t->tokens / t->seconds,
	       (double)whit_peak_rss() / 1e6);
	whit_event("calibrate", json_pack("{s:s, s:I, s:I}", "stats", s->a.stats, "weights", (json_int_t)weights,
	                                  "tokens", (json_int_t)t->tokens));
	if (s->a.json && (rc = write_json(s, weights, e))) {
		whit_fail_in(e, "%s is complete, but its summary is not", s->a.out);
		if (rc != WHIT_EINT && rc != WHIT_ETERM) rc = e->code = WHIT_ECHECK;
	}
	return rc;
}

static int merge(session *s, whit_err *e) {
	const args *a = &s->a;
	int rc = whit_outdir_open(&s->dir, a->out, a->force, e);
	if (!rc) rc = whit_stats_merge(a->merge.v[0], a->merge.v[1], s->dir.tmp, e);
	if (rc) {
		whit_outdir_abort(&s->dir);
		return rc;
	}
	rc = whit_outdir_commit(&s->dir, e);
	if (!rc) printf("wrote         %s: %s and %s together\n", a->out, a->merge.v[0], a->merge.v[1]);
	return rc;
}

int whit_cmd_calibrate(int argc, char **argv, whit_err *e) {
	session s = {.a = {.stats = "diag", .estimator = "seq", .groups = 4, .seed = 1}};
	int rc = parse_options(&s, argc, argv, e);
	if (!rc) {
		s.command = whit_command_text(argc, argv);
		rc = s.a.merge.n ? merge(&s, e) : preflight(&s, e);
		if (!rc && !s.a.merge.n) rc = work(&s, e);
		whit_event("end", json_pack("{s:i}", "code", -rc));
	}
	if (any_layer(&s)) /* after a failure: what is whole stays, to be gone on from */
		whit_outdir_keep(&s.dir);
	else
		whit_outdir_abort(&s.dir);
	whit_stats_free(&s.stats);
	json_decref(s.job);
	if (s.other.ckpt.path) whit_model_close(&s.other);
	if (s.model.ckpt.path) whit_model_close(&s.model);
	whit_device_close(s.dev);
	if (s.tok) whit_tok_close(s.tok);
	for (int i = 0; i < s.n; i++) whit_map_close(&s.map[i]);
	for (int i = 0; s.name && i < s.a.domains.n; i++) whit_free(s.name[i]);
	whit_free(s.name);
	whit_free(s.map);
	whit_free(s.text);
	whit_free(s.command);
	whit_free(s.a.text.v);
	whit_free(s.a.domains.v);
	whit_free(s.a.apart.v);
	whit_free(s.a.merge.v);
	return rc;
}
