/* inspect: what a model directory holds. Reads headers only, unless --verify hashes every byte. A model that
 * whit cannot run is listed all the same, with the reason. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "eval/report.h"
#include "formats/gguf.h"
#include "formats/json.h"
#include "host/commands.h"
#include "host/engine.h"

enum { FAMILIES = 64 };

typedef struct family { /* all weights of one format */
	char name[32];
	int64_t tensors, parameters, bytes;
} family;

typedef struct inventory {
	const whit_ckpt *c;
	const whit_model *model; /* NULL: cannot be run */
	const char *why;         /* then */
	const char *model_type;
	family f[FAMILIES];
	int n;
	family all, packed; /* aliases are nobody's: tied tensors count once */
	char fingerprint[48];
} inventory;

static double bpw(const family *f) { return f->parameters ? 8.0 * (double)f->bytes / (double)f->parameters : 0; }

static void format_name(const whit_weight *w, char out[32]) {
	if (w->mat.spec.fmt)
		whit_spec_name(&w->mat.spec, out);
	else
		snprintf(out, 32, "%s", w->type);
}

static void add(family *f, const whit_weight *w) {
	f->tensors++;
	f->parameters += w->mat.rows * w->mat.cols;
	f->bytes += w->bytes;
}

/* The family of that name, made if new; the last one takes the rest should a model hold 64 formats. */
static family *family_of(inventory *v, const char *name) {
	for (int i = 0; i < v->n; i++)
		if (!strcmp(v->f[i].name, name) || i == FAMILIES - 1) return &v->f[i];
	snprintf(v->f[v->n].name, sizeof v->f[0].name, "%s", v->n == FAMILIES - 1 ? "others" : name);
	return &v->f[v->n++];
}

static void take_stock(inventory *v) {
	for (int64_t i = 0; i < v->c->n; i++) {
		const whit_weight *w = &v->c->w[i];
		char name[32];
		if (w->alias) continue;
		format_name(w, name);
		add(family_of(v, name), w);
		add(&v->all, w);
		if (!w->passthrough) add(&v->packed, w);
	}
}

/* ---- metadata of a GGUF ---- */

/* One value: a number as it is, an array's kind and length, else text. */
static json_t *value_json(const whit_gguf *g, const whit_gguf_kv *kv) {
	int64_t i;
	double d;
	int b;
	whit_err e;
	if (kv->kind == WHIT_GGUF_ARRAY)
		return json_pack("{s:s, s:I}", "array", whit_gguf_kind_name(kv->elem), "n", (json_int_t)kv->n);
	if (kv->kind == WHIT_GGUF_STRING) return whit_report_text(kv->text->p, kv->text->n);
	if (kv->kind == WHIT_GGUF_BOOL) return whit_gguf_bool(g, kv->key, 1, &b, &e) ? json_null() : json_boolean(b);
	if (!whit_gguf_element(kv, 0, &i)) return json_integer(i);
	return whit_gguf_real(g, kv->key, 1, -INFINITY, INFINITY, &d, &e) || !isfinite(d) ? json_null() : json_real(d);
}

static json_t *metadata_json(const whit_gguf *g) {
	json_t *all = json_object();
	for (int64_t i = 0; i < g->n_kv; i++) json_object_set_new(all, g->kv[i].key, value_json(g, &g->kv[i]));
	return all;
}

/* On a line each; text is JSON's, so that no control character of a stranger's reaches the terminal. */
static void print_metadata(const whit_gguf *g) {
	json_t *all = metadata_json(g), *v;
	const char *key;
	printf("\nGGUF version %d, %lld tensors, alignment %lld, %lld keys\n", g->version, (long long)g->n,
	       (long long)g->alignment, (long long)g->n_kv);
	json_object_foreach(all, key, v) {
		char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(7));
		size_t n = text ? strlen(text) : 0;
		if (json_is_object(v))
			printf("%-44s %lld x %s\n", key, (long long)json_integer_value(json_object_get(v, "n")),
			       json_string_value(json_object_get(v, "array")));
		else
			printf("%-44s %.80s%s\n", key, n ? text : "", n > 80 ? "..." : "");
		free(text);
	}
	json_decref(all);
}

/* ---- text ---- */

static void print_weights(const inventory *v) {
	int wide = 6;
	for (int64_t i = 0; i < v->c->n; i++) wide = WHIT_MAX(wide, (int)strlen(v->c->w[i].name));
	printf("\n%-*s  %-10s %-5s %-16s %14s %8s  %s\n", wide, "tensor", "format", "dtype", "shape", "bytes", "bpw",
	       "relative MSE");
	for (int64_t i = 0; i < v->c->n; i++) {
		const whit_weight *w = &v->c->w[i];
		family one = {0};
		char name[32], shape[96], mse[32] = "";
		format_name(w, name);
		whit_shape_text(w->shape, w->ndim, shape);
		if (w->alias) {
			printf("%-*s  = %s\n", wide, w->name, w->alias);
			continue;
		}
		add(&one, w);
		if (!w->passthrough && !isnan(w->rel_mse)) snprintf(mse, sizeof mse, "  %.6g", w->rel_mse);
		printf("%-*s  %-10s %-5s %-16s %14lld %8.4f%s\n", wide, w->name, name, whit_dtype_name(w->dtype), shape,
		       (long long)w->bytes, bpw(&one), mse);
	}
}

static void print_family(const family *f) {
	printf("%-10s %9lld %16lld %16lld %8.4f\n", f->name, (long long)f->tensors, (long long)f->parameters,
	       (long long)f->bytes, bpw(f));
}

static void print_all(const inventory *v) {
	const whit_model *m = v->model;
	double bytes = (double)v->c->file_bytes;
	printf("model          %s\n", v->c->path);
	printf("kind           %s\n", whit_ckpt_kind_name(v->c->kind));
	printf("architecture   %s\n", v->model_type);
	if (m)
		printf("               %lld layers, hidden %lld, vocabulary %lld, context %lld\n", (long long)m->layers,
		       (long long)m->hidden, (long long)m->vocab, (long long)m->context);
	else
		printf("               cannot be run: %s\n", v->why);
	if (v->c->gguf) print_metadata(v->c->gguf);
	print_weights(v);
	printf("\n%-10s %9s %16s %16s %8s\n", "format", "tensors", "parameters", "bytes", "bpw");
	for (int i = 0; i < v->n; i++) print_family(&v->f[i]);
	print_family(&v->all);
	if (v->packed.tensors) print_family(&v->packed);
	printf("\nfiles          %lld bytes, %.3f GB (10^9), %.3f GiB (2^30)\n", (long long)v->c->file_bytes,
	       bytes / 1e9, bytes / 0x1p30);
	printf("whole-file bpw %.4f\n", v->all.parameters ? 8 * bytes / (double)v->all.parameters : 0.0);
	if (v->fingerprint[0]) printf("fingerprint    %s\n", v->fingerprint);
}

/* ---- JSON ---- */

static json_t *weight_json(const whit_weight *w) {
	char name[32];
	family one = {0};
	json_t *shape = json_array();
	for (int d = 0; d < w->ndim; d++) json_array_append_new(shape, json_integer(w->shape[d]));
	format_name(w, name);
	add(&one, w);
	return json_pack("{s:s, s:s, s:s, s:o, s:I, s:f, s:o, s:o}", "name", w->name, "format", name, "dtype",
	                 whit_dtype_name(w->dtype), "shape", shape, "bytes", (json_int_t)w->bytes, "bpw", bpw(&one),
	                 "rel_mse", w->passthrough || isnan(w->rel_mse) ? json_null() : json_real(w->rel_mse), "alias",
	                 w->alias ? json_string(w->alias) : json_null());
}

static json_t *family_json(const family *f) {
	return json_pack("{s:s, s:I, s:I, s:I, s:f}", "format", f->name, "tensors", (json_int_t)f->tensors,
	                 "parameters", (json_int_t)f->parameters, "bytes", (json_int_t)f->bytes, "bpw", bpw(f));
}

static int write_json(const inventory *v, const char *path, whit_err *e) {
	const whit_model *m = v->model;
	json_t *tensors = json_array(), *formats = json_array();
	for (int64_t i = 0; i < v->c->n; i++) json_array_append_new(tensors, weight_json(&v->c->w[i]));
	for (int i = 0; i < v->n; i++) json_array_append_new(formats, family_json(&v->f[i]));
	json_t *j = json_pack(
	        "{s:s, s:s, s:b, s:I, s:I, s:f, s:o, s:o, s:o, s:o}", "kind", whit_ckpt_kind_name(v->c->kind),
	        "model_type", v->model_type, "runs", m != NULL, "parameters", (json_int_t)v->all.parameters, "bytes",
	        (json_int_t)v->c->file_bytes, "bpw_file",
	        v->all.parameters ? 8.0 * (double)v->c->file_bytes / (double)v->all.parameters : 0.0, "bpw_linear",
	        v->packed.tensors ? json_real(bpw(&v->packed)) : json_null(), "fingerprint",
	        v->fingerprint[0] ? json_string(v->fingerprint) : json_null(), "formats", formats, "tensors", tensors);
	if (v->c->gguf) json_object_set_new(j, "metadata", metadata_json(v->c->gguf));
	json_object_set_new(j, "cannot_run", m ? json_null() : whit_report_text(v->why, strlen(v->why)));
	if (m)
		json_object_set_new(j, "sizes",
		                    json_pack("{s:I, s:I, s:I, s:I}", "layers", (json_int_t)m->layers, "hidden",
		                              (json_int_t)m->hidden, "vocab", (json_int_t)m->vocab, "context",
		                              (json_int_t)m->context));
	int rc = whit_json_write(j, path, e);
	json_decref(j);
	return rc;
}

int whit_cmd_inspect(int argc, char **argv, whit_err *e) {
	const char *path = NULL, *json = NULL;
	int verify = 0;
	const whit_opt opt[] = {
	        {"MODEL", 'r', NULL, "Hugging Face directory, GGUF file, directory that whit wrote, or a TQ3 directory",
	         &path, 1},
	        {"--json", 'w', "FILE", "also write what is printed to FILE as JSON", &json, 0},
	        {"--verify", 'f', NULL, "hash every weight and print the fingerprint, the same however it is sharded",
	         &verify, 0},
	        {0},
	};
	int rc = whit_options("inspect", "what a model holds: architecture, tensors, parameters, bytes", opt, argc,
	                      argv, e);
	if (rc) return rc;
	whit_model m;
	whit_ckpt c;
	whit_err cannot = {0};
	inventory v = {.model_type = "(config.json has no model_type)", .all.name = "all", .packed.name = "quantized"};
	int opened = !whit_model_open(&m, path, WHIT_OPEN_LIST, &cannot);
	if (!opened && (rc = whit_ckpt_open(&c, path, e))) return rc;
	v.c = opened ? &m.ckpt : &c;
	v.model = opened ? &m : NULL;
	v.why = cannot.text;
	take_stock(&v);
	rc = whit_json_text(v.c->config, v.c->config_path, "model_type", 0, &v.model_type, e);
	if (!rc && verify) rc = whit_ckpt_fingerprint(v.c, v.fingerprint, e);
	if (!rc && verify) rc = whit_ckpt_check(v.c, e);
	if (!rc && json) rc = write_json(&v, json, e);
	if (!rc) print_all(&v);
	if (opened)
		whit_model_close(&m);
	else
		whit_ckpt_close(&c);
	return rc;
}
