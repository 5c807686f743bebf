/* whit quantize: preflight and plan first, then the work, then the report. Once the output has its final name,
 * nothing that fails afterwards takes it away (operations.md 3, "export before optional checks"). */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include "calib/quantize.h"
#include "eval/eval.h"
#include "eval/report.h"
#include "formats/codebook.h"
#include "formats/gguf.h"
#include "formats/json.h"
#include "host/commands.h"
#include "host/progress.h"

typedef struct options {
	const char *model, *out, *method, *format, *recipe, *rotation, *scale, *density, *json, *eval, *prompts;
	int64_t seed, ctx, samples;
	int embeddings, plan, force;
} options;

/* --help ends with what there is to choose from, read off the tables. */
static void print_tables(void) {
	printf("\nmethods:\n");
	for (int i = 0; whit_methods[i]; i++) printf("  %-22s %s\n", whit_methods[i]->name, whit_methods[i]->help);
	printf("\nformats:\n");
	for (int i = 0; whit_formats[i]; i++) printf("  %-22s %s\n", whit_formats[i]->name, whit_formats[i]->help);
}

static int parse_options(options *o, int argc, char **argv, whit_err *e) {
	*o = (options){.method = "turboquant", .seed = 42, .samples = 32};
	const whit_opt table[] = {
	        {"MODEL", 's', NULL, "Hugging Face directory or GGUF file of the model", &o->model, 1},
	        {"OUT", 's', NULL, "directory to write; must not exist", &o->out, 1},
	        {"--format", 's', "F",
	         "number format of the linears of blocks (with --recipe: of what it does not match)", &o->format, 0},
	        {"--method", 's', "M", "how codes are chosen: turboquant or nearest (default turboquant)", &o->method,
	         0},
	        {"--recipe", 's', "FILE", "lines 'pattern format [key=value ...]', first match final", &o->recipe, 0},
	        {"--rotation", 's', "K", "none, hadamard or haar_qr (default: the method's)", &o->rotation, 0},
	        {"--scale", 's', "RULE", "least_squares, raw, norm_corrected or ip (default least_squares)", &o->scale,
	         0},
	        {"--density", 's', "D", "codebooks fitted to gaussian or beta (default gaussian)", &o->density, 0},
	        {"--seed", 'i', "S", "seed of the rotations, 0 or more (default 42)", &o->seed, 0},
	        {"--embeddings", 'f', NULL, "quantize embedding and head too", &o->embeddings, 0},
	        {"--plan", 'f', NULL, "print the plan, write nothing", &o->plan, 0},
	        {"--json", 's', "FILE", "write plan and result there too", &o->json, 0},
	        {"--force", 'f', NULL, "replace an OUT that whit wrote before", &o->force, 0},
	        {"--eval", 's', "FILE",
	         "afterwards measure the result against MODEL on this text, for eval_summary.json", &o->eval, 0},
	        {"--ctx", 'i', "N", "window of --eval in tokens (default: the model's context, at most 512)", &o->ctx,
	         0},
	        {"--prompts", 's', "FILE", "prompts of sample_generations.json, one a line (default: three of our own)",
	         &o->prompts, 0},
	        {"--samples", 'i', "N", "tokens to generate for each prompt, 0 = no samples (default 32)", &o->samples,
	         0},
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	int rc = whit_options("quantize", "quantize a checkpoint below 16 bits into an output directory", table, argc,
	                      argv, e);
	if (rc == 1) print_tables();
	if (rc) return rc;
	if (!o->format && !o->recipe)
		return whit_fail(e, WHIT_EUSAGE,
		                 "quantize: --format is missing, need it or --recipe\nsee whit quantize --help");
	if (o->seed < 0)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --seed is %lld, need 0 or more", (long long)o->seed);
	if (o->ctx < 0) return whit_fail(e, WHIT_EUSAGE, "quantize: --ctx is %lld, need 2 or more", (long long)o->ctx);
	if (o->samples < 0 || o->samples > 4096)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --samples is %lld, need 0 to 4096", (long long)o->samples);
	return 0;
}

/* ---- recipe ---- */

static int bad_word(whit_err *e, const char *option, const char *is, const char *need) {
	return whit_fail(e, WHIT_EUSAGE, "quantize: %s is '%s', need %s\nsee whit quantize --help", option, is, need);
}

static int base_rule(whit_rule *b, const options *o, whit_err *e) {
	*b = (whit_rule){
	        .rotation = -1, .rule = WHIT_SCALE_LS, .density = WHIT_DENSITY_GAUSSIAN, .seed = (uint64_t)o->seed};
	if (!(b->method = whit_method_find(o->method, e))) return e->code;
	if (o->format && whit_spec_parse(o->format, &b->spec, e)) return whit_fail_in(e, "quantize: --format");
	if (o->rotation) {
		b->rotation = whit_rotation_kind_parse(o->rotation);
		if (b->rotation < 0 || b->rotation == WHIT_ROT_TQ3)
			return bad_word(e, "--rotation", o->rotation, "none, hadamard or haar_qr");
	}
	if (o->scale && (b->rule = whit_scale_parse(o->scale)) < 0)
		return bad_word(e, "--scale", o->scale, "least_squares, raw, norm_corrected or ip");
	if (o->density && (b->density = whit_density_parse(o->density)) < 0)
		return bad_word(e, "--density", o->density, "gaussian or beta");
	return 0;
}

static int make_recipe(whit_recipe *r, const options *o, whit_err *e) {
	whit_rule base;
	whit_map file;
	int rc = base_rule(&base, o, e);
	if (rc) return rc;
	if (!o->recipe) return whit_recipe_uniform(r, &base, o->embeddings, e);
	if ((rc = whit_map_open(&file, o->recipe, e))) return rc;
	rc = whit_recipe_parse(r, (const char *)file.data, file.bytes, o->recipe, &base, e);
	whit_map_close(&file);
	if (!rc && o->format && (rc = whit_recipe_add_uniform(r, o->embeddings, e))) whit_recipe_free(r);
	return rc;
}

/* ---- preflight ---- */

/* The directory that PATH lies in; whit_free it. */
static char *parent_of(const char *path) {
	char *dir = whit_strdup(path), *end = dir + strlen(dir);
	while (end > dir + 1 && end[-1] == '/') *--end = 0;
	char *slash = strrchr(dir, '/');
	if (!slash) {
		whit_free(dir);
		return whit_strdup(".");
	}
	slash[slash == dir] = 0;
	return dir;
}

/* Nothing but a directory that whit wrote, or an empty one, is ever replaced. */
static int check_replace(const char *out, whit_err *e) {
	char *manifest = whit_format_text("%s/quant_manifest.json", out);
	int ours = whit_file_exists(manifest), files = 0;
	whit_free(manifest);
	DIR *d = opendir(out);
	if (!d) return whit_fail(e, WHIT_EUSAGE, "%s: cannot open as a directory to replace: %s", out, strerror(errno));
	for (struct dirent *f; (f = readdir(d));) files += strcmp(f->d_name, ".") && strcmp(f->d_name, "..");
	closedir(d);
	return ours || !files
	               ? 0
	               : whit_fail(e, WHIT_EUSAGE, "%s: is not an output of whit, --force does not replace it", out);
}

static int check_out(const options *o, whit_err *e) {
	if (!*o->out) return whit_fail(e, WHIT_EUSAGE, "quantize: OUT is empty, need a name\nsee whit quantize --help");
	int exists = whit_file_exists(o->out), rc = 0;
	char *dir = parent_of(o->out), *in = realpath(o->model, NULL), *at = realpath(exists ? o->out : dir, NULL);
	size_t n = in ? strlen(in) : 0;
	if (!at)
		rc = whit_fail(e, WHIT_EUSAGE, "%s: cannot be made: %s: %s", o->out, dir, strerror(errno));
	else if (in && !strncmp(at, in, n) && (at[n] == '/' || !at[n]))
		rc = whit_fail(e, WHIT_EUSAGE, "%s: is the input or inside it (%s), need another place", o->out,
		               o->model);
	else if (exists && !o->force)
		rc = whit_fail(e, WHIT_EUSAGE, "%s: exists; give another name, or --force to replace it", o->out);
	else if (exists)
		rc = check_replace(o->out, e);
	free(in);
	free(at);
	whit_free(dir);
	return rc;
}

/* Weights and manifest as planned, and 5 % for config, tokenizer and report (operations.md 1). */
static double disk_need(const whit_plan *p) { return 1.05 * (double)p->file_bytes; }

/* Bytes that the file system of OUT has left, -1 if it does not say. */
static double disk_avail(const options *o) {
	struct statvfs s;
	char *dir = parent_of(o->out);
	int bad = statvfs(dir, &s);
	whit_free(dir);
	return bad ? -1 : (double)s.f_bavail * (double)s.f_frsize;
}

static int check_disk(const options *o, const whit_plan *p, double *avail, whit_err *e) {
	*avail = disk_avail(o);
	if (*avail < 0)
		return whit_fail(e, WHIT_ERESOURCE, "%s: cannot ask for free space: %s", o->out, strerror(errno));
	if (*avail >= disk_need(p)) return 0;
	return whit_fail(e, WHIT_ERESOURCE, "%s: disk: is %.6f GB available, need %.6f GB", o->out, *avail / 1e9,
	                 disk_need(p) / 1e9);
}

/* ---- the plan in print ---- */

static void row_format(const whit_plan_row *row, char out[96]) {
	char name[32];
	if (row->why_kept) {
		snprintf(out, 96, "keep (%s)", row->why_kept);
		return;
	}
	whit_spec_name(&row->spec, name);
	snprintf(out, 96, "%s %s %s", name, row->rule->method->name, whit_rotation_kind_name(row->rot.kind));
}

static void print_plan(const whit_plan *p, const options *o, double avail) {
	char shape[96], format[96];
	int name = 6, rule = 4;
	for (int64_t i = 0; i < p->n; i++) {
		name = WHIT_MAX(name, (int)strlen(p->row[i].w->name));
		if (p->row[i].rule) rule = WHIT_MAX(rule, (int)strlen(p->row[i].rule->pattern));
	}
	printf("%-*s  %-16s  %-*s  %-32s  %14s\n", name, "tensor", "shape", rule, "rule", "format", "bytes");
	int64_t source = 0;
	for (int64_t i = 0; i < p->n; i++) {
		const whit_plan_row *row = &p->row[i];
		whit_shape_text(row->w->shape, row->w->ndim, shape);
		row_format(row, format);
		source += row->w->alias ? 0 : row->w->bytes;
		printf("%-*s  %-16s  %-*s  %-32s  %14lld\n", name, row->w->name, shape, rule,
		       row->rule ? row->rule->pattern : "-", format, (long long)row->bytes);
	}
	printf("\nquantized     %lld of %lld tensors, %.3f M of %.3f M parameters\n", (long long)p->quantized,
	       (long long)p->n, (double)p->linear_weights / 1e6, (double)p->params / 1e6);
	printf("bits/weight   %.4f in quantized tensors, %.4f in the whole file\n", p->bpw_linear, p->bpw_file);
	printf("size          %.3f MB, from %.3f MB (MB = 10^6 bytes)\n", (double)p->file_bytes / 1e6,
	       (double)source / 1e6);
	printf("peak memory   about %.0f MB\n", (double)p->peak_bytes / 1e6);
	printf("disk          %.1f GB available for %s\n\n", avail / 1e9, o->out);
}

static json_t *plan_json(const whit_plan *p) {
	json_t *rows = json_array();
	for (int64_t i = 0; i < p->n; i++) {
		const whit_plan_row *row = &p->row[i];
		char format[32] = "keep";
		if (!row->why_kept) whit_spec_name(&row->spec, format);
		json_array_append_new(rows,
		                      json_pack("{s:s, s:s?, s:s, s:s?, s:s?, s:s?, s:I, s:I}", "name", row->w->name,
		                                "rule", row->rule ? row->rule->pattern : NULL, "format", format,
		                                "method", row->why_kept ? NULL : row->rule->method->name, "rotation",
		                                row->why_kept ? NULL : whit_rotation_kind_name(row->rot.kind), "kept",
		                                row->why_kept, "width", (json_int_t)row->width, "bytes",
		                                (json_int_t)row->bytes));
	}
	return json_pack("{s:o, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I}", "tensors", rows, "quantized",
	                 (json_int_t)p->quantized, "quantized_weights", (json_int_t)p->linear_weights,
	                 "quantized_bytes", (json_int_t)p->linear_bytes, "params", (json_int_t)p->params, "bpw_linear",
	                 p->bpw_linear, "bpw_file", p->bpw_file, "bytes", (json_int_t)p->file_bytes, "peak_bytes",
	                 (json_int_t)p->peak_bytes);
}

/* ---- what follows the export ---- */

static const char *const own_prompts[] = {"The history of the city begins",
                                          "In the second half of the season , the team",
                                          "The species was first described by"};

/* Everything that lives for one run of the command. */
typedef struct session {
	options o;
	whit_recipe recipe;
	whit_model model;
	whit_plan plan;
	whit_quantize_stats stats;
	whit_tok *tok; /* NULL: neither measuring nor samples */
	whit_map text; /* of --eval */
	whit_eval_opts eval;
	char **prompt; /* owned copies */
	int64_t n_prompt;
	char *command; /* as typed */
	json_t *json;  /* of --json */
} session;

static void add_prompt(session *s, const char *p, size_t n) {
	s->prompt = whit_realloc(s->prompt, (size_t)s->n_prompt * sizeof *s->prompt,
	                         (size_t)(s->n_prompt + 1) * sizeof *s->prompt);
	s->prompt[s->n_prompt++] = whit_format_text("%.*s", (int)n, p);
}

static int read_prompts(session *s, whit_err *e) {
	whit_map file;
	if (!s->o.prompts) {
		for (int i = 0; i < WHIT_COUNT(own_prompts); i++) add_prompt(s, own_prompts[i], strlen(own_prompts[i]));
		return 0;
	}
	int rc = whit_map_open(&file, s->o.prompts, e);
	if (rc) return rc;
	for (size_t i = 0, n; i < file.bytes; i += n + 1) {
		const char *line = (const char *)file.data + i, *end = memchr(line, '\n', file.bytes - i);
		n = end ? (size_t)(end - line) : file.bytes - i;
		size_t text = n && line[n - 1] == '\r' ? n - 1 : n;
		if (text > 1 << 20 || memchr(line, 0, text))
			rc = whit_fail(e, WHIT_EINPUT, "%s: offset %zu: is %s, need lines of text", s->o.prompts, i,
			               text > 1 << 20 ? "a line beyond 1 MiB" : "binary");
		else if (text)
			add_prompt(s, line, text);
		if (rc) break;
	}
	whit_map_close(&file);
	return rc || s->n_prompt ? rc : whit_fail(e, WHIT_EINPUT, "%s: is empty, need a prompt per line", s->o.prompts);
}

/* Opens what the report will need, so that its absence is known before the work and not after it. */
static int prepare_report(session *s, whit_err *e) {
	const options *o = &s->o;
	whit_ids ids = {0};
	whit_windows w = {0};
	char *file = whit_format_text("%s/tokenizer.json", o->model);
	const whit_gguf *g = s->model.ckpt.gguf;
	int there = g ? whit_gguf_find(g, "tokenizer.ggml.model") != NULL : whit_file_exists(file), rc = 0;
	whit_free(file);
	if (!there && !o->eval && !o->prompts && o->samples) {
		whit_say("warning: %s has no %s: no sample generations", o->model, g ? "tokenizer" : "tokenizer.json");
		whit_event("warn", json_pack("{s:s}", "what", "no_tokenizer"));
		s->o.samples = 0;
	}
	if (!o->eval && !o->samples) return 0;
	if ((rc = whit_tok_open(&s->tok, o->model, e))) return rc;
	if (o->samples && (rc = read_prompts(s, e))) return rc;
	if (!o->eval) return 0;
	if ((rc = whit_map_open(&s->text, o->eval, e))) return rc;
	s->eval = (whit_eval_opts){.name = o->eval, .mode = WHIT_SLIDING, .floor_tokens = -1};
	s->eval.ctx = o->ctx ? o->ctx : WHIT_MIN(s->model.context, 512);
	s->eval.stride = WHIT_MAX(s->eval.ctx / 2, 1);
	if (s->eval.ctx > s->model.context)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --ctx is %lld, need at most the model's %lld",
		                 (long long)s->eval.ctx, (long long)s->model.context);
	rc = whit_tok_encode(s->tok, (const char *)s->text.data, s->text.bytes, WHIT_TOK_SPECIAL, &ids, e);
	if (!rc)
		rc = whit_windows_make(&w, WHIT_SLIDING, ids.n, s->eval.ctx, s->eval.stride, whit_tok_adds_bos(s->tok),
		                       e);
	if (rc) whit_fail_in(e, "%s", o->eval);
	whit_windows_free(&w);
	whit_ids_free(&ids);
	return rc;
}

/* Greedy continuation as JSON text. */
static int continue_prompt(session *s, whit_model *m, const whit_ids *prompt, int64_t n, json_t **out, whit_err *e) {
	whit_ids ids = {0};
	size_t len;
	int rc = whit_generate(m, prompt->id, prompt->n, n, 0, 0, &ids, NULL, NULL, e);
	if (!rc) {
		char *text = whit_tok_decode(s->tok, ids.id, ids.n, 1, &len);
		*out = whit_report_text(text, len);
		whit_free(text);
	}
	whit_ids_free(&ids);
	return rc;
}

static int sample(session *s, whit_model *q, const char *prompt, json_t *all, whit_err *e) {
	whit_ids ids = {0};
	json_t *base = NULL, *quantized = NULL;
	int rc = whit_tok_encode(s->tok, prompt, strlen(prompt), WHIT_TOK_SPECIAL, &ids, e);
	int64_t n = WHIT_MIN(s->o.samples, s->model.context - ids.n);
	if (!rc && n < 1)
		rc = whit_fail(e, WHIT_EINPUT,
		               "prompt \"%.40s\": is %lld tokens, need less than the model's context %lld", prompt,
		               (long long)ids.n, (long long)s->model.context);
	if (!rc) rc = continue_prompt(s, &s->model, &ids, n, &base, e);
	if (!rc) rc = continue_prompt(s, q, &ids, n, &quantized, e);
	if (rc)
		json_decref(base);
	else
		json_array_append_new(all,
		                      json_pack("{s:o, s:o, s:o, s:I, s:s}", "prompt",
		                                whit_report_text(prompt, strlen(prompt)), "base", base, "quantized",
		                                quantized, "max_new_tokens", (json_int_t)n, "decoding", "greedy"));
	whit_ids_free(&ids);
	return rc;
}

static int write_in(const char *dir, const char *name, const json_t *j, whit_err *e) {
	char *path = whit_format_text("%s/%s", dir, name);
	int rc = whit_json_write(j, path, e);
	whit_free(path);
	return rc;
}

/* eval_summary.json: measured with --eval, else sizes and nulls. */
static int write_summary(session *s, whit_model *q, const json_t *samples, whit_err *e) {
	whit_eval_result res = {0};
	char print[48];
	double *cosine = whit_alloc((size_t)(s->n_prompt + 1) * sizeof *cosine);
	const char *const *prompt = (const char *const *)s->prompt;
	whit_report r = {.command = s->command,
	                 .model = q,
	                 .ref = &s->model,
	                 .compute = "packed",
	                 .text = s->o.eval,
	                 .samples = samples,
	                 .model_fp = print,
	                 .ref_fp = s->stats.fingerprint};
	int rc = whit_ckpt_fingerprint(&q->ckpt, print, e);
	if (!rc && s->n_prompt) {
		rc = whit_eval_prompts(q, &s->model, s->tok, prompt, (int)s->n_prompt, cosine, e);
		r.prompt = prompt;
		r.cosine = cosine;
		r.n_prompt = (int)s->n_prompt;
	}
	if (!rc && s->o.eval) {
		rc = whit_eval_run(&res, q, &s->model, s->tok, (const char *)s->text.data, s->text.bytes, &s->eval, e);
		r.result = &res;
	}
	if (!rc) {
		json_t *summary = whit_report_summary_json(&r);
		rc = write_in(s->o.out, "eval_summary.json", summary, e);
		json_decref(summary);
	}
	if (!rc && s->o.eval) {
		json_t *flat = whit_report_json(&r);
		whit_report_print(&r, stdout);
		whit_event("eval", json_incref(flat));
		json_object_set_new(s->json, "eval", flat);
	}
	whit_eval_free(&res);
	whit_free(cosine);
	return rc;
}

/* Opens the output as anyone would, which also proves that it can be read. */
static int report(session *s, whit_err *e) {
	whit_model q;
	json_t *samples = json_array();
	int rc = whit_model_open(&q, s->o.out, 0, e);
	if (!rc) {
		for (int64_t i = 0; i < s->n_prompt && !rc; i++) {
			rc = whit_interrupted(e);
			if (!rc) rc = sample(s, &q, s->prompt[i], samples, e);
		}
		if (!rc) rc = write_in(s->o.out, "sample_generations.json", samples, e);
		if (!rc) rc = write_summary(s, &q, samples, e);
		whit_model_close(&q);
	}
	json_decref(samples);
	return rc;
}

/* ---- the command ---- */

static int preflight(session *s, whit_err *e) {
	double avail = 0;
	int rc = check_out(&s->o, e);
	if (!rc && s->o.json) rc = whit_out_try(s->o.json, e);
	if (!rc) rc = make_recipe(&s->recipe, &s->o, e);
	if (!rc) rc = whit_model_open(&s->model, s->o.model, 0, e);
	if (!rc) rc = whit_plan_make(&s->plan, &s->model, &s->recipe, e);
	if (!rc) rc = check_disk(&s->o, &s->plan, &avail, e);
	if (!rc) rc = prepare_report(s, e);
	if (rc) return rc;
	print_plan(&s->plan, &s->o, avail);
	fflush(stdout);
	json_t *plan = plan_json(&s->plan);
	whit_event("plan", json_incref(plan));
	char *recipe = whit_recipe_text(&s->recipe);
	s->json = json_pack("{s:i, s:s, s:o, s:s, s:o, s:n, s:n}", "format_version", 1, "program", "whit " WHIT_VERSION,
	                    "model", whit_report_text(s->o.model, strlen(s->o.model)), "recipe", recipe, "plan", plan,
	                    "result", "eval");
	whit_free(recipe);
	return 0;
}

static int work(session *s, whit_err *e) {
	whit_outdir dir;
	int rc = whit_outdir_open(&dir, s->o.out, s->o.force, e);
	if (rc) return rc;
	rc = whit_quantize_run(&s->plan, &s->model, &s->recipe, &dir, &s->stats, e);
	if (rc)
		whit_outdir_abort(&dir);
	else
		rc = whit_outdir_commit(&dir, e);
	if (rc == WHIT_ERESOURCE)
		whit_fail_in(e, "disk: is %.6f GB available, need %.6f GB", disk_avail(&s->o) / 1e9,
		             disk_need(&s->plan) / 1e9);
	if (rc) return rc;
	const whit_quantize_stats *t = &s->stats;
	json_t *result =
	        json_pack("{s:o, s:f, s:I, s:f, s:I, s:I, s:I}", "out", whit_report_text(s->o.out, strlen(s->o.out)),
	                  "rel_mse", t->rel_mse, "weights", (json_int_t)t->weights, "seconds", t->seconds,
	                  "zero_groups", (json_int_t)t->zero_groups, "f32_scale_tensors",
	                  (json_int_t)t->f32_scale_tensors, "peak_rss", (json_int_t)whit_peak_rss());
	whit_event("commit", json_incref(result));
	json_object_set_new(s->json, "result", result);
	printf("wrote         %s: relative MSE %.6g, %lld zero groups, %lld tensors with F32 scales\n", s->o.out,
	       t->rel_mse, (long long)t->zero_groups, (long long)t->f32_scale_tensors);
	printf("time          %.2f s, %.1f M weights/s, peak memory %.0f MB\n", t->seconds,
	       (double)t->weights / t->seconds / 1e6, (double)whit_peak_rss() / 1e6);
	fflush(stdout);
	return 0;
}

/* The output is complete: whatever goes wrong now is a failed check, or an interruption. */
static int after(session *s, whit_err *e) {
	int rc = report(s, e);
	if (!rc && s->o.json) rc = whit_json_write(s->json, s->o.json, e);
	if (rc) whit_fail_in(e, "%s is complete, but its report is not", s->o.out);
	if (rc && rc != WHIT_EINT && rc != WHIT_ETERM) rc = e->code = WHIT_ECHECK;
	return rc;
}

int whit_cmd_quantize(int argc, char **argv, whit_err *e) {
	session s = {0};
	int rc = parse_options(&s.o, argc, argv, e);
	if (rc) return rc;
	s.command = whit_command_text(argc, argv);
	rc = preflight(&s, e);
	if (!rc && s.o.plan) {
		if (s.o.json) rc = whit_json_write(s.json, s.o.json, e);
	} else if (!rc && !(rc = work(&s, e))) {
		rc = after(&s, e);
	}
	whit_event("end", json_pack("{s:i}", "code", -rc));
	json_decref(s.json);
	for (int64_t i = 0; i < s.n_prompt; i++) whit_free(s.prompt[i]);
	whit_free(s.prompt);
	whit_free(s.command);
	if (s.text.path) whit_map_close(&s.text);
	if (s.tok) whit_tok_close(s.tok);
	whit_plan_free(&s.plan);
	if (s.model.ckpt.path) whit_model_close(&s.model);
	whit_recipe_free(&s.recipe);
	return rc;
}
