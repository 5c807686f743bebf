/* whit quantize: preflight and plan first, then the work, then the report. Once the output has its final name,
 * nothing that fails afterwards takes it away (operations.md 3, "export before optional checks"). */
#include <stdio.h>
#include <stdlib.h>
#include "calib/fabq_allocate.h"
#include "calib/allocate.h"
#include "eval/eval.h"
#include "eval/report.h"
#include "formats/codebook.h"
#include "formats/json.h"
#include "host/cmd_quantize.h"
#include "host/commands.h"
#include "host/progress.h"
#include "host/prompts.h"

/* --help ends with what there is to choose from, read off the tables. */
static void print_tables(void) {
	printf("\nmethods:\n");
	for (int i = 0; whit_methods[i]; i++) printf("  %-22s %s\n", whit_methods[i]->name, whit_methods[i]->help);
	printf("\nformats:\n");
	for (int i = 0; whit_formats[i]; i++) printf("  %-22s %s\n", whit_formats[i]->name, whit_formats[i]->help);
}

/* FABQ-RC's own allocation, of records by Fisher information. */
static int allocates_records(const whit_quantize_opts *o) {
	return o->bpw != 0 && !o->bytes && !o->sensitivity && !o->format && !o->gguf && o->calib.fisher && o->method &&
	       !strcmp(o->method, "fabq-rc");
}

static int parse_options(whit_quantize_opts *o, int argc, char **argv, whit_err *e) {
	*o = (whit_quantize_opts)WHIT_QUANTIZE_DEFAULTS;
	const whit_opt table[] = {
	        {"MODEL", 'r', NULL, "Hugging Face directory or GGUF file of the model", &o->model, 1},
	        {"OUT", 'w', NULL, "directory to write, or NAME.gguf for a GGUF of its types; must not exist", &o->out,
	         1},
	        WHIT_QUANTIZE_OPTIONS(*o),
	        {"--lora-rank", 'i', "R",
	         "of a GGUF: also write an adapter of rank R for what the codes lose (llama.cpp's --lora), to be run "
	         "with it",
	         &o->lora_rank, 0},
	        {"--lora", 'w', "FILE", "its name (default: OUT's, with -lora.gguf for .gguf)", &o->lora, 0},
	        {"--plan", 'f', NULL, "print the plan, write nothing", &o->plan, 0},
	        {"--json", 'w', "FILE", "write plan and result there too", &o->json, 0},
	        {"--force", 'f', NULL, "replace an OUT that whit wrote before", &o->force, 0},
	        {"--eval", 'r', "FILE",
	         "afterwards measure the result against MODEL on this text, for eval_summary.json", &o->eval, 0},
	        {"--ctx", 'i', "N", "window of --eval in tokens (default: the model's context, at most 512)", &o->ctx,
	         0},
	        {"--prompts", 'r', "FILE", "prompts of sample_generations.json, one a line (default: three of our own)",
	         &o->prompts, 0},
	        {"--samples", 'i', "N", "tokens to generate for each prompt, 0 = no samples (default 32)", &o->samples,
	         0},
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	int rc = whit_options("quantize", "quantize a checkpoint below 16 bits into an output directory", table, argc,
	                      argv, e);
	if (rc == 1) print_tables();
	if (rc) return rc;
	size_t n = strlen(o->out);
	o->gguf = n > 5 && !strcmp(o->out + n - 5, ".gguf");
	if (o->gguf) o->samples = 0;
	return whit_quantize_check(o, e);
}

int whit_quantize_check(const whit_quantize_opts *o, whit_err *e) {
	if (o->gguf && (o->rotation || o->scale || o->density || o->prompts || o->embeddings))
		return whit_fail(e, WHIT_EUSAGE,
		                 "quantize: --rotation, --scale, --density, --embeddings and --prompts are of "
		                 "directories, and OUT is a GGUF");
	if (o->lora_rank != -1 && o->lora_rank < 1)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --lora-rank is %lld, need 1 or more",
		                 (long long)o->lora_rank);
	if (o->lora && o->lora_rank < 0) return whit_fail(e, WHIT_EUSAGE, "quantize: --lora: needs --lora-rank");
	if (o->lora_rank > 0 && !o->gguf)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --lora-rank: OUT is a directory, need NAME.gguf");
	if (o->lora_rank > 0 && !o->calib.text.n && !o->calib.stats)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --lora-rank: needs --text or --stats");
	if (!allocates_records(o) &&
	    (!o->sensitivity != !(o->bpw != 0 || o->bytes != 0) || (o->bpw != 0 && o->bytes != 0)))
		return whit_fail(
		        e, WHIT_EUSAGE,
		        "quantize: --sensitivity and one of --bpw and --bytes: need both or neither (or --bpw, "
		        "--fisher and method fabq-rc)");
	if (o->bpw < 0 || o->bpw > 32)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --bpw is %g, need above 0 to 32", o->bpw);
	if (!o->format && !o->recipe && !o->sensitivity && !allocates_records(o))
		return whit_fail(e, WHIT_EUSAGE,
		                 "quantize: --format is missing, need it or --recipe\nsee whit quantize --help");
	if (o->seed < 0)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --seed is %lld, need 0 or more", (long long)o->seed);
	if (o->ctx < 0) return whit_fail(e, WHIT_EUSAGE, "quantize: --ctx is %lld, need 2 or more", (long long)o->ctx);
	if (o->samples < 0 || o->samples > 4096)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --samples is %lld, need 0 to 4096", (long long)o->samples);
	return 0;
}

/* Everything that lives for one run of the command. */
typedef struct session {
	whit_quantize_opts o;
	whit_writing w;
	whit_tok *tok; /* NULL: neither measuring nor samples */
	whit_map text; /* of --eval */
	whit_eval_opts eval;
	whit_prompts prompts;
	whit_allocation allocation;
	whit_adapted adapted;
	char *lora; /* the adapter's name, NULL: there is none */
} session;

/* "NAME.gguf" to "NAME-lora.gguf", where there is no other name. */
static char *lora_name(const whit_quantize_opts *o) {
	if (o->lora_rank < 1) return NULL;
	return o->lora ? whit_strdup(o->lora) : whit_format_text("%.*s-lora.gguf", (int)strlen(o->out) - 5, o->out);
}

/* ---- recipe ---- */

static int bad_word(whit_err *e, const char *option, const char *is, const char *need) {
	return whit_fail(e, WHIT_EUSAGE, "quantize: %s is '%s', need %s\nsee whit quantize --help", option, is, need);
}

static int base_rule(whit_rule *b, const whit_quantize_opts *o, whit_err *e) {
	*b = (whit_rule){
	        .rotation = -1, .rule = WHIT_SCALE_LS, .density = WHIT_DENSITY_GAUSSIAN, .seed = (uint64_t)o->seed};
	const char *method = o->method ? o->method : o->gguf ? "nearest" : "turboquant";
	if (!(b->method = whit_method_find(method, e))) return e->code;
	if (o->gguf)
		b->rotation = WHIT_ROT_NONE;
	else if (o->format && whit_spec_parse(o->format, &b->spec, e))
		return whit_fail_in(e, "quantize: --format");
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

/* The lines of text, that an allocator has made, and behind them --recipe's, or to keep all else. */
static int join_rest(whit_recipe *r, const char *text, const char *name, const whit_quantize_opts *o,
                     const whit_rule *base, whit_err *e) {
	static const char keep[] = "@linear keep\n@embedding keep\n";
	whit_recipe rest = {0};
	int rc = whit_recipe_parse(r, text, strlen(text), name, base, e);
	if (rc) return rc;
	rc = o->recipe ? whit_recipe_read(&rest, o->recipe, base, e)
	               : whit_recipe_parse(&rest, keep, sizeof keep - 1, "what is not allocated", base, e);
	if (rc)
		whit_recipe_free(r);
	else
		whit_recipe_join(r, &rest);
	return rc;
}

/* What the allocator makes of --sensitivity. */
static int allocate_formats(whit_allocated *a, const whit_quantize_opts *o, whit_err *e) {
	char print[48];
	json_t *table;
	whit_ckpt ckpt;
	int rc = whit_json_load(&table, o->sensitivity, e);
	if (rc) return rc;
	if (!(rc = whit_ckpt_open(&ckpt, o->model, e))) {
		rc = whit_ckpt_fingerprint(&ckpt, print, e);
		whit_ckpt_close(&ckpt);
	}
	if (!rc)
		rc = whit_allocate_recipe(table, o->sensitivity, print, o->bpw, o->bytes, !o->method, &a->text, &a->of,
		                          e);
	json_decref(table);
	return rc;
}

/* What the allocator of records makes of --fisher and --bpw. */
static int allocate_records(whit_allocated *a, const whit_quantize_opts *o, whit_err *e) {
	whit_model m;
	whit_fisher f;
	int rc = whit_model_open(&m, o->model, 0, e);
	if (rc) return rc;
	if (!(rc = whit_fisher_open(&f, o->calib.fisher, &m, e))) {
		rc = whit_fabq_allocate(&m, &f, o->bpw, &a->text, &a->of, e);
		whit_fisher_close(&f);
	}
	whit_model_close(&m);
	return rc;
}

int whit_quantize_allocate(whit_allocated *a, const whit_quantize_opts *o, whit_err *e) {
	*a = (whit_allocated){0};
	if (o->sensitivity) return allocate_formats(a, o, e);
	return allocates_records(o) ? allocate_records(a, o, e) : 0;
}

/* The allocator's lines, before what else there is. */
static int allocated_recipe(whit_recipe *r, const whit_quantize_opts *o, const whit_rule *base, whit_allocation *a,
                            whit_err *e) {
	whit_allocated own = {0};
	const whit_allocated *made = o->allocated ? o->allocated : &own;
	int rc = o->allocated ? 0 : whit_quantize_allocate(&own, o, e);
	*a = made->of;
	if (!rc) rc = join_rest(r, made->text, o->sensitivity ? o->sensitivity : o->calib.fisher, o, base, e);
	whit_free(own.text);
	return rc;
}

/* Of a GGUF: --format is a type or preset for all that the recipe does not match. */
static int gguf_recipe(whit_recipe *r, const whit_quantize_opts *o, whit_rule *base, whit_err *e) {
	static const char option[] = "quantize: --format";
	whit_recipe rest;
	if (!o->recipe) return whit_recipe_of_type(r, o->format, base, option, e);
	int rc = whit_recipe_read(r, o->recipe, base, e);
	if (!rc && o->format && !(rc = whit_recipe_of_type(&rest, o->format, base, option, e)))
		whit_recipe_join(r, &rest);
	return rc;
}

static int make_recipe(whit_recipe *r, const whit_quantize_opts *o, whit_allocation *a, whit_err *e) {
	whit_rule base;
	int rc = base_rule(&base, o, e);
	if (rc) return rc;
	if (o->sensitivity || allocates_records(o)) return allocated_recipe(r, o, &base, a, e);
	if (o->gguf) return gguf_recipe(r, o, &base, e);
	if (!o->recipe) return whit_recipe_uniform(r, &base, o->embeddings, e);
	rc = whit_recipe_read(r, o->recipe, &base, e);
	if (!rc && o->format && (rc = whit_recipe_add_uniform(r, o->embeddings, e))) whit_recipe_free(r);
	return rc;
}

int whit_quantize_recipe(whit_recipe *r, const whit_quantize_opts *o, whit_err *e) {
	whit_allocation a;
	return make_recipe(r, o, &a, e);
}

/* ---- what follows the export ---- */

static const char *const own_prompts[] = {"The history of the city begins",
                                          "In the second half of the season , the team",
                                          "The species was first described by"};

/* Opens what the report will need, so that its absence is known before the work and not after it. */
static int prepare_report(session *s, whit_err *e) {
	const whit_quantize_opts *o = &s->o;
	whit_ids ids = {0};
	whit_windows w = {0};
	int rc = 0;
	if (!o->eval && !o->prompts && o->samples && !whit_tok_exists(s->w.model.ckpt.path)) {
		whit_say("warning: %s has no tokenizer: no sample generations", o->model);
		whit_event("warn", json_pack("{s:s}", "what", "no_tokenizer"));
		s->o.samples = 0;
	}
	if (!o->eval && !o->samples) return 0;
	if ((rc = whit_tok_open(&s->tok, s->w.model.ckpt.path, e))) return rc;
	if (o->samples && (rc = whit_prompts_read(&s->prompts, o->prompts, own_prompts, WHIT_COUNT(own_prompts), e)))
		return rc;
	if (!o->eval) return 0;
	if ((rc = whit_map_open(&s->text, o->eval, e))) return rc;
	s->eval = (whit_eval_opts){.name = o->eval, .mode = WHIT_SLIDING, .floor_tokens = -1};
	s->eval.ctx = o->ctx ? o->ctx : WHIT_MIN(s->w.model.context, 512);
	s->eval.stride = WHIT_MAX(s->eval.ctx / 2, 1);
	if (s->eval.ctx > s->w.model.context)
		return whit_fail(e, WHIT_EUSAGE, "quantize: --ctx is %lld, need at most the model's %lld",
		                 (long long)s->eval.ctx, (long long)s->w.model.context);
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
	int64_t n = WHIT_MIN(s->o.samples, s->w.model.context - ids.n);
	if (!rc && n < 1)
		rc = whit_fail(e, WHIT_EINPUT,
		               "prompt \"%.40s\": is %lld tokens, need less than the model's context %lld", prompt,
		               (long long)ids.n, (long long)s->w.model.context);
	if (!rc) rc = continue_prompt(s, &s->w.model, &ids, n, &base, e);
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
	double *cosine = whit_alloc((size_t)(s->prompts.n + 1) * sizeof *cosine);
	whit_report r = {.command = s->o.command,
	                 .model = q,
	                 .ref = &s->w.model,
	                 .compute = "packed",
	                 .text = s->o.eval,
	                 .samples = samples,
	                 .adapter = s->lora ? &s->adapted : NULL,
	                 .model_fp = print,
	                 .ref_fp = s->w.stats.fingerprint};
	int rc = whit_ckpt_fingerprint(&q->ckpt, print, e);
	if (!rc && s->prompts.n) {
		rc = whit_eval_prompts(q, &s->w.model, s->tok, s->prompts.line, s->prompts.n, cosine, e);
		r.prompt = s->prompts.line;
		r.cosine = cosine;
		r.n_prompt = s->prompts.n;
	}
	if (!rc && s->o.eval) {
		rc = whit_eval_run(&res, q, &s->w.model, s->tok, (const char *)s->text.data, s->text.bytes, &s->eval,
		                   e);
		r.result = &res;
	}
	if (!rc) {
		json_t *summary = whit_report_summary_json(&r);
		if (!s->o.gguf) rc = write_in(s->o.out, "eval_summary.json", summary, e);
		json_decref(summary);
	}
	if (!rc && s->o.eval) {
		json_t *flat = whit_report_json(&r);
		whit_report_print(&r, stdout);
		whit_event("eval", json_incref(flat));
		json_object_set_new(s->w.json, "eval", flat);
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
		if (s->lora) rc = whit_model_adapt(&q, s->lora, &s->adapted, e);
		for (int i = 0; i < s->prompts.n && !rc; i++) {
			rc = whit_interrupted(e);
			if (!rc) rc = sample(s, &q, s->prompts.line[i], samples, e);
		}
		if (!rc && !s->o.gguf) rc = write_in(s->o.out, "sample_generations.json", samples, e);
		if (!rc) rc = write_summary(s, &q, samples, e);
		whit_model_close(&q);
	}
	json_decref(samples);
	return rc;
}

/* ---- the command ---- */

static void show_allocation(session *s) {
	const whit_allocation *a = &s->allocation;
	json_t *j = json_pack("{s:I, s:f, s:f}", "bytes", (json_int_t)a->bytes, "loss", a->loss, "bound", a->bound);
	printf("allocation    %lld bytes, losses alone sum to %.6g (no allocation: below %.6g)", (long long)a->bytes,
	       a->loss, a->bound);
	if (a->uniform < 0) {
		printf("; no one format fits\n\n");
	} else {
		printf("; the best one format %.6g in %lld\n\n", a->uniform_loss, (long long)a->uniform_bytes);
		json_object_set_new(j, "uniform_loss", json_real(a->uniform_loss));
		json_object_set_new(j, "uniform_bytes", json_integer(a->uniform_bytes));
	}
	fflush(stdout);
	json_object_set_new(s->w.json, "allocation", j);
}

int whit_quantize_asks(const whit_recipe *r, const whit_quantize_opts *o) {
	const whit_calib_args *a = &o->calib;
	int needs = !o->calib_if_asked || a->block.steps || a->scaling;
	for (int i = 0; i < r->n; i++) needs |= !r->rule[i].keep && r->rule[i].method->needs;
	return needs && (a->text.n || a->stats);
}

static int preflight(session *s, whit_err *e) {
	const whit_quantize_opts *o = &s->o;
	s->lora = lora_name(o);
	s->w.dest = (whit_dest){.command = "quantize",
	                        .model = o->model,
	                        .out = o->out,
	                        .force = o->force,
	                        .gguf = o->gguf,
	                        .bare = o->bare,
	                        .lora = s->lora,
	                        .lora_rank = WHIT_MAX(o->lora_rank, 0)};
	int rc = whit_dest_check(&s->w.dest, e);
	if (!rc && o->json) rc = whit_out_try(o->json, e);
	if (!rc) rc = make_recipe(&s->w.recipe, o, &s->allocation, e);
	if (rc) return rc;
	if (!o->calib_if_asked || whit_quantize_asks(&s->w.recipe, o)) s->w.calib = o->calib;
	if (o->eval && o->calib.text.n) s->w.calib.eval = o->eval;
	rc = whit_writing_plan(&s->w, o->imatrix, e);
	if (!rc && !o->bare) rc = prepare_report(s, e);
	if (!rc && !(o->bare && o->plan)) whit_writing_show(&s->w);
	if (!rc && (o->sensitivity || allocates_records(o)) && !o->bare) show_allocation(s);
	return rc;
}

static int work(session *s, whit_err *e) {
	whit_outdir dir;
	if (s->o.gguf) {
		whit_sink *sink = whit_sink_gguf(s->o.out, s->o.recipe ? NULL : s->o.format);
		return whit_writing_done(
		        &s->w, whit_quantize_run(&s->w.plan, &s->w.model, &s->w.recipe, sink, &s->w.stats, e), e);
	}
	int rc = whit_outdir_open(&dir, s->o.out, s->o.force, e);
	if (rc) return rc;
	rc = whit_quantize_run(&s->w.plan, &s->w.model, &s->w.recipe, whit_sink_dir(&dir), &s->w.stats, e);
	if (rc)
		whit_outdir_abort(&dir);
	else
		rc = whit_outdir_commit(&dir, e);
	return whit_writing_done(&s->w, rc, e);
}

/* The output is complete: whatever goes wrong now is a failed check, or an interruption. */
static int after(session *s, whit_err *e) {
	int rc = report(s, e);
	if (!rc && s->o.json) rc = whit_json_write(s->w.json, s->o.json, e);
	if (rc) whit_fail_in(e, "%s is complete, but its report is not", s->o.out);
	if (rc && rc != WHIT_EINT && rc != WHIT_ETERM) rc = e->code = WHIT_ECHECK;
	return rc;
}

int whit_quantize_write(const whit_quantize_opts *o, whit_quantize_stats *st, whit_err *e) {
	session s = {.o = *o};
	int rc = preflight(&s, e);
	if (!rc && o->plan) {
		if (o->json) rc = whit_json_write(s.w.json, o->json, e);
	} else if (!rc && !(rc = work(&s, e)) && !o->bare) {
		rc = after(&s, e);
	}
	if (st) *st = s.w.stats;
	whit_prompts_free(&s.prompts);
	if (s.text.path) whit_map_close(&s.text);
	if (s.tok) whit_tok_close(s.tok);
	whit_writing_free(&s.w);
	whit_free(s.lora);
	return rc;
}

int whit_cmd_quantize(int argc, char **argv, whit_err *e) {
	whit_quantize_opts o;
	int rc = parse_options(&o, argc, argv, e);
	if (rc) return rc;
	char *command = whit_command_text(argc, argv);
	o.command = command;
	rc = whit_quantize_write(&o, NULL, e);
	whit_event("end", json_pack("{s:i}", "code", -rc));
	whit_free(command);
	whit_free(o.calib.text.v);
	whit_free(o.calib.apart.v);
	return rc;
}
