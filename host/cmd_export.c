/* whit export: a model as one GGUF file that llama.cpp and its kin read. */
#include <stdio.h>
#include <string.h>
#include "formats/json.h"
#include "host/cmd_plan.h"
#include "host/commands.h"
#include "host/progress.h"

typedef struct options {
	const char *model, *out, *type, *recipe, *embd, *head, *method, *imatrix, *json;
	int plan, force;
	whit_calib_args calib;
} options;

/* --help ends with what there is to choose from, read off the tables. */
static void print_tables(void) {
	printf("\npresets of --type (recipes, calib/recipes):\n ");
	for (int i = 0; whit_presets[i].name; i++) printf(" %s", whit_presets[i].name);
	printf("\n\ntypes of --type, and of a recipe's lines:\n");
	for (int i = 0; whit_formats[i]; i++) {
		const whit_spec s = {.fmt = whit_formats[i]};
		if (whit_ggml_type_of_spec(&s)) printf("  %-8s %s\n", whit_formats[i]->name, whit_formats[i]->help);
	}
}

static int parse_options(options *o, int argc, char **argv, whit_err *e) {
	*o = (options){.method = "nearest", .calib = WHIT_CALIB_DEFAULTS};
	const whit_opt table[] = {
	        {"MODEL", 'r', NULL, "Hugging Face directory, GGUF file, or a directory that whit wrote", &o->model, 1},
	        {"OUT", 'w', NULL, "GGUF file to write; must not exist", &o->out, 1},
	        {"--type", 's', "T", "preset or type (below), any case (with --recipe: of what it does not match)",
	         &o->type, 0},
	        {"--recipe", 'r', "FILE", "lines 'pattern type [key=value ...]', first match final", &o->recipe, 0},
	        {"--token-embedding-type", 's', "T", "type of the token embedding, whatever else says", &o->embd, 0},
	        {"--output-tensor-type", 's', "T", "type of the head (or tied embedding), whatever else says", &o->head,
	         0},
	        {"--method", 's', "M", "how codes are chosen (default nearest)", &o->method, 0},
	        {"--imatrix", 'r', "FILE", "importance of columns (llama-imatrix, whit calibrate)", &o->imatrix, 0},
	        WHIT_CALIB_OPTIONS("--text", o->calib),
	        {"--plan", 'f', NULL, "print the plan, write nothing", &o->plan, 0},
	        {"--json", 'w', "FILE", "write plan and result there too", &o->json, 0},
	        {"--force", 'f', NULL, "replace an OUT that is a GGUF", &o->force, 0},
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	int rc = whit_options("export", "write a model as a GGUF file", table, argc, argv, e);
	if (rc == 1) print_tables();
	if (!rc && !o->type && !o->recipe)
		rc = whit_fail(e, WHIT_EUSAGE,
		               "export: --type is missing, need it or --recipe\nsee whit export --help");
	return rc;
}

/* ---- recipe ---- */

static int make_recipe(whit_recipe *r, const options *o, whit_err *e) {
	whit_rule base = {.rotation = WHIT_ROT_NONE};
	whit_recipe rest;
	if (!(base.method = whit_method_find(o->method, e))) return e->code;
	int rc = o->recipe ? whit_recipe_read(r, o->recipe, &base, e)
	                   : whit_recipe_of_type(r, o->type, &base, "export: --type", e);
	if (!rc && o->recipe && o->type && !(rc = whit_recipe_of_type(&rest, o->type, &base, "export: --type", e)))
		whit_recipe_join(r, &rest);
	if (!rc && o->head && (rc = whit_recipe_prepend(r, "@head", o->head, e)))
		whit_fail_in(e, "export: --output-tensor-type");
	if (!rc && o->embd && (rc = whit_recipe_prepend(r, "*embed_tokens.weight", o->embd, e)))
		whit_fail_in(e, "export: --token-embedding-type");
	return rc;
}

/* ---- the command ---- */

static int preflight(whit_writing *w, const options *o, whit_err *e) {
	w->dest = (whit_dest){.command = "export", .model = o->model, .out = o->out, .force = o->force, .gguf = 1};
	int rc = whit_dest_check(&w->dest, e);
	if (!rc && o->json) rc = whit_out_try(o->json, e);
	if (!rc) rc = make_recipe(&w->recipe, o, e);
	w->calib = o->calib;
	if (!rc) rc = whit_writing_plan(w, o->imatrix, e);
	if (!rc) whit_writing_show(w);
	return rc;
}

/* Opens the output as anyone would, which proves that it can be read. */
static int check(const char *path, whit_err *e) {
	whit_model m;
	int rc = whit_model_open(&m, path, 0, e);
	if (rc) {
		whit_fail_in(e, "%s is complete, but cannot be read", path);
		return e->code = WHIT_ECHECK;
	}
	whit_model_close(&m);
	return 0;
}

static int work(whit_writing *w, const options *o, whit_err *e) {
	whit_sink *sink = whit_sink_gguf(o->out, o->recipe ? NULL : o->type);
	int rc = whit_quantize_run(&w->plan, &w->model, &w->recipe, sink, &w->stats, e);
	rc = whit_writing_done(w, rc, e);
	return rc ? rc : check(o->out, e);
}

int whit_cmd_export(int argc, char **argv, whit_err *e) {
	options o;
	whit_writing w = {0};
	int rc = parse_options(&o, argc, argv, e);
	if (rc) return rc;
	rc = preflight(&w, &o, e);
	if (!rc && !o.plan) rc = work(&w, &o, e);
	if (!rc && o.json && (rc = whit_json_write(w.json, o.json, e)) && !o.plan) {
		whit_fail_in(e, "%s is complete, but its report is not", o.out);
		rc = e->code = WHIT_ECHECK;
	}
	whit_event("end", json_pack("{s:i}", "code", -rc));
	whit_writing_free(&w);
	return rc;
}
