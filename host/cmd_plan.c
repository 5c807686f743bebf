/* cmd_plan: preflight, plan and result of the commands that write weights. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include "host/cmd_plan.h"
#include "eval/report.h"
#include "host/device.h"
#include "host/progress.h"

int whit_recipe_read(whit_recipe *r, const char *path, const whit_rule *base, whit_err *e) {
	whit_map file;
	int rc = whit_map_open(&file, path, e);
	if (rc) return rc;
	rc = whit_recipe_parse(r, (const char *)file.data, file.bytes, path, base, e);
	whit_map_close(&file);
	return rc;
}

static int unknown_type(whit_err *e, const char *option, const char *type) {
	char known[700] = "";
	for (int i = 0; whit_presets[i].name; i++)
		snprintf(known + strlen(known), sizeof known - strlen(known), " %s", whit_presets[i].name);
	for (int i = 0; whit_formats[i]; i++) {
		const whit_spec s = {.fmt = whit_formats[i]};
		if (whit_ggml_type_of_spec(&s) && !whit_preset_find(whit_formats[i]->name))
			snprintf(known + strlen(known), sizeof known - strlen(known), " %s",
			         whit_ggml_type_of_spec(&s)->name);
	}
	return whit_fail(e, WHIT_EUSAGE, "%s is '%.40s', need one of:%s", option, type, known);
}

int whit_recipe_of_type(whit_recipe *r, const char *type, whit_rule *base, const char *option, whit_err *e) {
	const whit_preset *preset = whit_preset_find(type);
	whit_err unknown;
	if (preset) return whit_recipe_parse(r, preset->text, strlen(preset->text), preset->name, base, e);
	if (whit_spec_parse(type, &base->spec, &unknown) || !whit_ggml_type_of_spec(&base->spec))
		return unknown_type(e, option, type);
	return whit_recipe_uniform(r, base, 1, e);
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

/* Nor a file that is no GGUF. */
static int check_replace_file(const char *out, whit_err *e) {
	if (whit_is_dir(out)) return whit_fail(e, WHIT_EUSAGE, "%s: is a directory, need a file to replace", out);
	return whit_gguf_is(out) ? 0 : whit_fail(e, WHIT_EUSAGE, "%s: is no GGUF, --force does not replace it", out);
}

/* The adapter's place: as OUT's, and not OUT's own. */
static int check_lora(const whit_dest *o, whit_err *e) {
	if (!*o->lora) return whit_fail(e, WHIT_EUSAGE, "%s: --lora is empty, need a name", o->command);
	if (whit_same_file(o->lora, o->out) || whit_same_file(o->lora, o->model))
		return whit_fail(e, WHIT_EUSAGE, "%s: is OUT or MODEL too, need another --lora", o->lora);
	if (!whit_file_exists(o->lora)) return whit_out_try(o->lora, e);
	if (!o->force)
		return whit_fail(e, WHIT_EUSAGE, "%s: exists; give another name, or --force to replace it", o->lora);
	return check_replace_file(o->lora, e);
}

int whit_dest_check(const whit_dest *o, whit_err *e) {
	if (!*o->out)
		return whit_fail(e, WHIT_EUSAGE, "%s: OUT is empty, need a name\nsee whit %s --help", o->command,
		                 o->command);
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
		rc = o->gguf ? check_replace_file(o->out, e) : check_replace(o->out, e);
	else if (o->gguf)
		rc = whit_out_try(o->out, e);
	if (!rc && o->lora) rc = check_lora(o, e);
	free(in);
	free(at);
	whit_free(dir);
	return rc;
}

/* Weights and manifest as planned, and 5 % for config, tokenizer and report (operations.md 1). */
static double disk_need(const whit_plan *p) { return 1.05 * (double)(p->file_bytes + p->lora_bytes); }

/* Bytes that the file system of OUT has left, -1 if it does not say. */
static double disk_avail(const whit_dest *o) {
	struct statvfs s;
	char *dir = parent_of(o->out);
	int bad = statvfs(dir, &s);
	whit_free(dir);
	return bad ? -1 : (double)s.f_bavail * (double)s.f_frsize;
}

static int check_room(const whit_dest *o, const whit_plan *p, whit_err *e) {
	double avail = disk_avail(o);
	if (avail < 0)
		return whit_fail(e, WHIT_ERESOURCE, "%s: cannot ask for free space: %s", o->out, strerror(errno));
	if (avail >= disk_need(p)) return 0;
	return whit_fail(e, WHIT_ERESOURCE, "%s: disk: is %.6f GB available, need %.6f GB", o->out, avail / 1e9,
	                 disk_need(p) / 1e9);
}

/* MODEL may name one file of several (a split). */
static int check_parts(const whit_writing *w, whit_err *e) {
	const whit_ckpt *c = &w->model.ckpt;
	const char *out = w->dest.out, *file = c->path, *last = NULL;
	for (int64_t i = -1; i < c->n; last = file, i++) {
		if (i >= 0) file = c->w[i].file;
		if (file && file != last && w->dest.lora && whit_same_file(w->dest.lora, file))
			return whit_fail(e, WHIT_EUSAGE, "%s: is part of the input (%s), need another place",
			                 w->dest.lora, w->dest.model);
		if (file && file != last && whit_same_file(out, file))
			return whit_fail(e, WHIT_EUSAGE, "%s: is part of the input (%s), need another place", out,
			                 w->dest.model);
	}
	return 0;
}

static int open_texts(whit_writing *w, whit_err *e) {
	whit_calibration *c = &w->calibration;
	const whit_list *text = &w->calib.text;
	int rc = whit_model_open(&w->running, w->dest.model, 0, e);
	if (!rc) rc = whit_tok_open(&w->tok, w->running.ckpt.path, e);
	c->running = &w->running;
	c->original = &w->model;
	c->tok = w->tok;
	c->guided = whit_metric_parse(w->calib.metric) == WHIT_METRIC_GUIDED;
	c->o = (whit_stats_opts){
	        .ctx = w->calib.len, .chunks = w->calib.samples, .groups = (int)w->calib.groups, .apart = &w->apart};
	w->apart.v = whit_alloc((size_t)(w->calib.apart.n + 1) * sizeof *w->apart.v);
	for (int i = 0; i < w->calib.apart.n; i++) w->apart.v[w->apart.n++] = w->calib.apart.v[i];
	if (w->calib.eval) w->apart.v[w->apart.n++] = w->calib.eval;
	w->map = whit_alloc((size_t)text->n * sizeof *w->map);
	c->text = whit_alloc((size_t)text->n * sizeof *c->text);
	for (int i = 0; i < text->n && !rc; i++) {
		if ((rc = whit_map_open(&w->map[i], text->v[i], e))) break;
		c->text[c->n_text++] = (whit_stats_text){
		        .name = text->v[i], .data = (const char *)w->map[i].data, .bytes = w->map[i].bytes};
	}
	return rc;
}

static int check_calib(const whit_writing *w, whit_err *e) {
	const whit_calib_args *a = &w->calib;
	if (a->samples < 0 || a->len < 0)
		return whit_fail(e, WHIT_EUSAGE,
		                 "%s: --calib-samples and --calib-len: are %lld and %lld, need 1 or more",
		                 w->dest.command, (long long)a->samples, (long long)a->len);
	if (a->damping != -1 && !(a->damping >= 0 && a->damping <= 1e3))
		return whit_fail(e, WHIT_EUSAGE, "%s: --damping: is %g, need 0 to 1000", w->dest.command, a->damping);
	if (!(a->alpha >= 0 && a->alpha <= 1))
		return whit_fail(e, WHIT_EUSAGE, "%s: --alpha: is %g, need 0 to 1", w->dest.command, a->alpha);
	if (whit_core_parse(a->core_by) < 0)
		return whit_fail(e, WHIT_EUSAGE,
		                 "%s: --core-by is '%s', need gain, fisher, magnitude, hessian or random",
		                 w->dest.command, a->core_by);
	if (!a->fisher && (a->tiers || whit_core_parse(a->core_by) == WHIT_CORE_FISHER))
		return whit_fail(e, WHIT_EUSAGE, "%s: %s needs --fisher", w->dest.command,
		                 a->tiers ? "--tiers" : "--core-by fisher");
	if (a->refits < 0 || a->refits > 1000)
		return whit_fail(e, WHIT_EUSAGE, "%s: --refits: is %lld, need 0 to 1000", w->dest.command,
		                 (long long)a->refits);
	if (a->refits && !a->text.n && !a->stats)
		return whit_fail(e, WHIT_EUSAGE, "%s: --refits: needs --text or --stats", w->dest.command);
	if (a->refits && a->act_order)
		return whit_fail(e, WHIT_EUSAGE, "%s: --refits and --act-order: need one of them", w->dest.command);
	if (a->block.steps < 0 || !(a->block.rate >= 0 && a->block.rate <= 10) ||
	    !(a->block.scale_rate >= 0 && a->block.scale_rate <= 10))
		return whit_fail(e, WHIT_EUSAGE, "%s: --block-steps and rates: are %lld, %g and %g, need 0 or more",
		                 w->dest.command, (long long)a->block.steps, a->block.rate, a->block.scale_rate);
	if (a->distill.steps < 0 || !(a->distill.rate >= 0 && a->distill.rate <= 10) ||
	    !(a->distill.scale_rate >= 0 && a->distill.scale_rate <= 10))
		return whit_fail(e, WHIT_EUSAGE, "%s: --distill-steps and rates: are %lld, %g and %g, need 0 or more",
		                 w->dest.command, (long long)a->distill.steps, a->distill.rate, a->distill.scale_rate);
	int metric = whit_metric_parse(a->metric);
	if (metric < 0)
		return whit_fail(e, WHIT_EUSAGE, "%s: --metric is '%s', need hessian, guided, diag or fisher",
		                 w->dest.command, a->metric);
	if ((metric == WHIT_METRIC_GUIDED && !a->text.n && !a->stats) || (metric == WHIT_METRIC_DIAG && !a->stats))
		return whit_fail(e, WHIT_EUSAGE, "%s: --metric %s: needs --stats%s", w->dest.command, a->metric,
		                 metric == WHIT_METRIC_GUIDED ? " or a calibration text" : "");
	if (metric == WHIT_METRIC_GUIDED && (a->groups < 1 || a->groups > 1024))
		return whit_fail(e, WHIT_EUSAGE, "%s: --groups: is %lld, need 1 to 1024", w->dest.command,
		                 (long long)a->groups);
	if (metric == WHIT_METRIC_FISHER && !a->fisher)
		return whit_fail(e, WHIT_EUSAGE, "%s: --metric fisher: needs --fisher", w->dest.command);
	if (a->fisher && !a->text.n && !a->stats && metric != WHIT_METRIC_FISHER)
		return whit_fail(e, WHIT_EUSAGE, "%s: --fisher: needs --text or --stats, or --metric fisher",
		                 w->dest.command);
	if (metric >= WHIT_METRIC_DIAG && w->imatrix_given)
		return whit_fail(e, WHIT_EUSAGE, "%s: --metric %s and --imatrix: need one of them", w->dest.command,
		                 a->metric);
	if (a->scaling && whit_scaling_parse(a->scaling, e) < 0)
		return whit_fail_in(e, "%s: --scaling", w->dest.command);
	if (a->scaling && !a->text.n && !a->stats)
		return whit_fail(e, WHIT_EUSAGE, "%s: --scaling: needs --text or --stats", w->dest.command);
	if (a->distill.steps && !a->text.n)
		return whit_fail(e, WHIT_EUSAGE, "%s: --distill-steps: needs --text", w->dest.command);
	if (a->block.steps && !a->text.n)
		return whit_fail(e, WHIT_EUSAGE, "%s: --block-steps: needs --text", w->dest.command);
	if (a->stats && a->text.n)
		return whit_fail(e, WHIT_EUSAGE, "%s: --stats and --text: need one of them", w->dest.command);
	return 0;
}

/* What --text or --stats gives. */
static int open_calibration(whit_writing *w, whit_err *e) {
	const whit_calib_args *a = &w->calib;
	w->calibration.feedback =
	        (whit_feedback_opts){.damping = a->damping, .alpha = a->alpha, .act_order = a->act_order};
	w->calibration.refits = (int)a->refits;
	w->calibration.core_by = whit_core_parse(a->core_by);
	w->calibration.tiers = a->tiers;
	w->calibration.scaling = a->scaling ? whit_scaling_parse(a->scaling, e) : WHIT_SCALING_NONE;
	w->calibration.reconstruct = a->block;
	w->calibration.distill = a->distill;
	int rc = a->fisher ? whit_fisher_open(&w->calibration.fisher, a->fisher, &w->model, e) : 0;
	w->calibration.metric = whit_metric_parse(a->metric);
	if (rc || (!a->stats && !a->text.n)) return rc;
	return a->stats ? whit_calibration_open(&w->calibration, a->stats, a->metric, &w->model, e) : open_texts(w, e);
}

/* Where texts run. On a device the original is opened once more: what reports run stays on the CPU. */
static int place_texts(whit_writing *w, whit_err *e) {
	whit_calibration *c = &w->calibration;
	if (!w->dev || !w->calib.text.n) return 0;
	if (c->reconstruct.steps || c->distill.steps) {
		whit_say("texts run on the CPU: block steps and distillation are computed there");
		return 0;
	}
	c->dev = w->dev;
	c->original = &w->original;
	return whit_model_open(&w->original, w->dest.model, 0, e);
}

int whit_writing_plan(whit_writing *w, const char *imatrix, whit_err *e) {
	whit_target target = {.gguf = w->dest.gguf, .lora = w->dest.lora, .lora_rank = w->dest.lora_rank};
	int rc = 0;
	w->imatrix_given = imatrix != NULL;
	if (imatrix && !(rc = whit_imatrix_open(&w->imatrix, imatrix, e))) target.imatrix = &w->imatrix;
	if (!rc) rc = whit_model_open(&w->model, w->dest.model, 0, e);
	if (!rc) rc = check_parts(w, e);
	if (!rc) rc = check_calib(w, e);
	if (!rc && (w->calib.stats || w->calib.text.n || w->calib.fisher)) {
		target.calibration = &w->calibration;
		rc = open_calibration(w, e);
	}
	if (!rc) rc = whit_device_open(&w->dev, e);
	target.dev = w->dev;
	if (!rc) rc = place_texts(w, e);
	if (!rc) rc = whit_plan_make(&w->plan, &w->model, &w->recipe, &target, e);
	return rc ? rc : check_room(&w->dest, &w->plan, e);
}

void whit_writing_free(whit_writing *w) {
	json_decref(w->json);
	whit_plan_free(&w->plan);
	if (w->imatrix.path) whit_imatrix_close(&w->imatrix);
	whit_calibration_free(&w->calibration);
	for (int i = 0; i < w->calibration.n_text; i++) whit_map_close(&w->map[i]);
	whit_free(w->map);
	whit_free(w->apart.v);
	whit_free(w->calibration.text);
	if (w->tok) whit_tok_close(w->tok);
	if (w->running.ckpt.path) whit_model_close(&w->running);
	if (w->original.ckpt.path) whit_model_close(&w->original);
	if (w->model.ckpt.path) whit_model_close(&w->model);
	whit_recipe_free(&w->recipe);
	whit_device_close(w->dev);
}

/* ---- the plan in print ---- */

/* "keep (tied)"; "q4_k nearest none"; for a GGUF "F32 (not a matrix of weights)", "Q5_0 nearest: 64 is no multiple
 * of q4_k's block". */
static void row_format(const whit_plan *p, const whit_plan_row *row, char out[128]) {
	char name[32], asked[32];
	if (row->absent || (row->why_kept && !p->target.gguf)) {
		snprintf(out, 128, "%s (%s)", p->target.gguf ? "none" : "keep", row->why_kept);
		return;
	}
	whit_spec_name(&row->spec, name);
	if (row->why_kept || row->as_is) {
		snprintf(out, 128, "%s (%s)", name, row->why_kept ? row->why_kept : "copied");
	} else if (row->asked.fmt) {
		whit_spec_name(&row->asked, asked);
		snprintf(out, 128, "%s %s: %lld is no multiple of %s's block", name, row->method->name,
		         (long long)row->width, asked);
	} else {
		snprintf(out, 128, "%s %s %s", name, row->method->name, whit_rotation_kind_name(row->rot.kind));
	}
}

static void print_plan(const whit_plan *p, const whit_dest *o) {
	char shape[96], format[128];
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
		row_format(p, row, format);
		source += row->w->alias ? 0 : row->w->bytes;
		printf("%-*s  %-16s  %-*s  %-32s  %14lld\n", name, row->w->name, shape, rule,
		       row->rule ? row->rule->pattern : "-", format, (long long)row->bytes);
	}
	printf("\nquantized     %lld of %lld tensors, %.3f M of %.3f M parameters\n", (long long)p->quantized,
	       (long long)p->n, (double)p->linear_weights / 1e6, (double)p->params / 1e6);
	if (p->fallbacks)
		printf("fallbacks     %lld tensors whose rows are no whole blocks of the format asked for\n",
		       (long long)p->fallbacks);
	if (p->target.imatrix)
		printf("importance    %lld tensors, %lld not in %s, %lld rotated and encoded without\n",
		       (long long)p->weighted, (long long)p->unweighted, p->target.imatrix->path,
		       (long long)p->rotated);
	const whit_calibration *c = p->target.calibration;
	if (c && c->metric >= WHIT_METRIC_DIAG)
		printf("importance    %lld tensors by %s, %lld without statistics, %lld rotated and encoded without\n",
		       (long long)p->weighted, c->metric == WHIT_METRIC_FISHER ? c->fisher.dir.path : c->dir.path,
		       (long long)p->unweighted, (long long)p->rotated);
	else if (c)
		printf("calibration   %lld tensors by %s, %lld without statistics take the nearest codes\n",
		       (long long)p->calibrated, c->dir.path ? c->dir.path : "text", (long long)p->uncalibrated);
	printf("bits/weight   %.4f in quantized tensors, %.4f in the whole file\n", p->bpw_linear, p->bpw_file);
	printf("size          %.3f MB, from %.3f MB (MB = 10^6 bytes)\n", (double)p->file_bytes / 1e6,
	       (double)source / 1e6);
	if (p->lora_matrices)
		printf("low rank      %lld of %lld matrices, %.3f MB beside that: %.4f bits of their weights, %.4f of "
		       "the file's\n",
		       (long long)p->target.lora_rank, (long long)p->lora_matrices, (double)p->lora_bytes / 1e6,
		       8.0 * (double)p->lora_bytes / (double)p->lora_weights,
		       8.0 * (double)p->lora_bytes / (double)p->params);
	printf("peak memory   about %.0f MB", (double)p->peak_bytes / 1e6);
	if (p->target.dev) printf(", and %.0f MB on the device", (double)p->device_bytes / 1e6);
	if (p->target.calibration) printf(", without Hessians and what the text becomes between layers");
	printf("\n");
	printf("disk          %.1f GB available for %s\n\n", disk_avail(o) / 1e9, o->out);
	fflush(stdout);
}

static json_t *plan_json(const whit_plan *p) {
	json_t *rows = json_array();
	for (int64_t i = 0; i < p->n; i++) {
		const whit_plan_row *row = &p->row[i];
		char format[32] = "keep", asked[32];
		if (row->spec.fmt) whit_spec_name(&row->spec, format);
		json_t *j = json_pack("{s:s, s:s?, s:s, s:s?, s:s?, s:s?, s:I, s:I}", "name", row->w->name, "rule",
		                      row->rule ? row->rule->pattern : NULL, "format", format, "method",
		                      row->why_kept ? NULL : row->method->name, "rotation",
		                      row->why_kept ? NULL : whit_rotation_kind_name(row->rot.kind), "kept",
		                      row->why_kept, "width", (json_int_t)row->width, "bytes", (json_int_t)row->bytes);
		if (p->target.gguf) json_object_set_new(j, "gguf", row->absent ? json_null() : json_string(row->name));
		if (row->asked.fmt) {
			whit_spec_name(&row->asked, asked);
			json_object_set_new(j, "asked", json_string(asked));
		}
		if (p->target.imatrix) json_object_set_new(j, "importance", json_boolean(row->importance != NULL));
		json_array_append_new(rows, j);
	}
	return json_pack("{s:o, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
	                 "tensors", rows, "quantized", (json_int_t)p->quantized, "quantized_weights",
	                 (json_int_t)p->linear_weights, "quantized_bytes", (json_int_t)p->linear_bytes, "params",
	                 (json_int_t)p->params, "bpw_linear", p->bpw_linear, "bpw_file", p->bpw_file, "bytes",
	                 (json_int_t)p->file_bytes, "peak_bytes", (json_int_t)p->peak_bytes, "device_bytes",
	                 (json_int_t)p->device_bytes, "fallbacks", (json_int_t)p->fallbacks, "requantized",
	                 (json_int_t)p->requantized, "weighted", (json_int_t)p->weighted, "unweighted",
	                 (json_int_t)p->unweighted, "rotated", (json_int_t)p->rotated, "calibrated",
	                 (json_int_t)p->calibrated, "uncalibrated", (json_int_t)p->uncalibrated);
}

void whit_writing_show(whit_writing *w) {
	const whit_plan *p = &w->plan;
	const whit_dest *d = &w->dest;
	if (!d->bare) print_plan(p, d);
	if (p->requantized) {
		whit_say("warning: %lld tensors of %s are quantized already: they are decoded and encoded again, and "
		         "losses add up",
		         (long long)p->requantized, d->model);
		whit_event("warn",
		           json_pack("{s:s, s:I}", "what", "requantized", "tensors", (json_int_t)p->requantized));
	}
	const whit_calibration *c = p->target.calibration;
	if (c && !p->calibrated && !c->scaling && !c->reconstruct.steps && !c->distill.steps && !p->lora_matrices)
		whit_say("warning: no method of this plan uses %s", c->dir.path ? "--stats" : "--text");
	json_t *plan = plan_json(p);
	whit_event("plan", json_incref(plan));
	char *recipe = whit_recipe_text(&w->recipe);
	w->json = json_pack("{s:i, s:s, s:o, s:s, s:o, s:n, s:n}", "format_version", 1, "program", "whit " WHIT_VERSION,
	                    "model", whit_report_text(d->model, strlen(d->model)), "recipe", recipe, "plan", plan,
	                    "result", "eval");
	whit_free(recipe);
}

/* ---- the result ---- */

static void print_result(const whit_dest *d, const whit_quantize_stats *t, const whit_calibration *c) {
	double n = (double)t->rebuilt;
	if (c && t->rows) {
		printf("calibrated    loss %.6g, %.3f of the nearest codes'; %lld of %lld rows keep the nearest",
		       t->loss, t->loss / t->loss_nearest, (long long)t->rows_nearest, (long long)t->rows);
		printf("; %lld dead columns, damping raised %lld times\n", (long long)c->dead, (long long)c->retries);
	}
	if (t->rebuilt)
		printf("reconstructed %lld layers, relative error of outputs %.4g before, %.4g after, mean\n",
		       (long long)t->rebuilt, t->rebuilt_before / n, t->rebuilt_after / n);
	if (t->lora.matrices)
		printf("low rank      %s: weighted loss %.6g before, %.6g after: %.3f of it, of a matrix's in the mean "
		       "%.3f\n",
		       d->lora, t->lora.before, t->lora.after, t->lora.after / t->lora.before, t->lora.share);
	printf("wrote         %s: relative MSE %.6g, %lld zero groups", d->out, t->rel_mse, (long long)t->zero_groups);
	if (!d->gguf) printf(", %lld tensors with F32 scales", (long long)t->f32_scale_tensors);
	printf("\ntime          %.2f s, %.1f M weights/s, peak memory %.0f MB\n", t->seconds,
	       (double)t->weights / t->seconds / 1e6, (double)whit_peak_rss() / 1e6);
	fflush(stdout);
}

int whit_writing_done(whit_writing *w, int rc, whit_err *e) {
	const whit_dest *d = &w->dest;
	const whit_quantize_stats *t = &w->stats;
	if (rc == WHIT_ERESOURCE && !strstr(e->text, "device memory: "))
		whit_fail_in(e, "disk: is %.6f GB available, need %.6f GB", disk_avail(d) / 1e9,
		             disk_need(&w->plan) / 1e9);
	if (rc) return rc;
	json_t *result =
	        json_pack("{s:o, s:f, s:I, s:f, s:I, s:I, s:I}", "out", whit_report_text(d->out, strlen(d->out)),
	                  "rel_mse", t->rel_mse, "weights", (json_int_t)t->weights, "seconds", t->seconds,
	                  "zero_groups", (json_int_t)t->zero_groups, "f32_scale_tensors",
	                  (json_int_t)t->f32_scale_tensors, "peak_rss", (json_int_t)whit_peak_rss());
	const whit_calibration *c = w->plan.target.calibration;
	if (c && t->rows) {
		json_object_set_new(result, "calibration",
		                    json_pack("{s:f, s:f, s:I, s:I, s:I, s:I, s:I}", "loss", t->loss, "loss_nearest",
		                              t->loss_nearest, "rows", (json_int_t)t->rows, "rows_nearest",
		                              (json_int_t)t->rows_nearest, "damping_raised", (json_int_t)c->retries,
		                              "dead_columns", (json_int_t)c->dead, "few_tokens", (json_int_t)c->few));
	}
	if (t->folds) {
		json_object_set_new(result, "scaled_values", json_integer(t->folds));
		printf("scaled        %lld values of layers, folded into what makes them\n", (long long)t->folds);
	}
	if (t->distilled.before > 0) {
		const whit_distill_result *d = &t->distilled;
		json_object_set_new(result, "distillation",
		                    json_pack("{s:f, s:f, s:I}", "before", d->before, "after", d->after, "steps",
		                              (json_int_t)d->steps));
		printf("distilled     KLD on calibration text kept out %.5g before, %.5g after\n", d->before, d->after);
	}
	if (t->lora.matrices) {
		const whit_residual_stats *l = &t->lora;
		json_object_set_new(result, "low_rank",
		                    json_pack("{s:o, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:I}", "out",
		                              whit_report_text(d->lora, strlen(d->lora)), "rank",
		                              (json_int_t)d->lora_rank, "bytes", (json_int_t)w->plan.lora_bytes,
		                              "weights", (json_int_t)w->plan.lora_weights, "loss_before", l->before,
		                              "loss_after", l->after, "loss_best", l->best, "share", l->share, "fisher",
		                              (json_int_t)l->fisher, "damping_raised", (json_int_t)l->raised));
	}
	if (t->rebuilt) {
		double n = (double)t->rebuilt;
		json_object_set_new(result, "reconstruction",
		                    json_pack("{s:I, s:f, s:f}", "layers", (json_int_t)t->rebuilt, "before",
		                              t->rebuilt_before / n, "after", t->rebuilt_after / n));
	}
	whit_event("commit", json_incref(result));
	json_object_set_new(w->json, "result", result);
	if (!d->bare) print_result(d, t, c);
	return 0;
}
