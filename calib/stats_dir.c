/* stats_dir: statistics.json, resuming, merging, reading. */
#include "calib/stats_dir.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "calib/stats_own.h"
#include "formats/json.h"
#include "host/progress.h"

enum { VERSION = 1 };
static const char FORMAT[] = "whit-statistics";

static char *path_of(const char *dir, const char *name) { return whit_format_text("%s/%s", dir, name); }

/* ---- the job ---- */

static json_t *kinds_json(unsigned kinds) {
	json_t *all = json_array();
	for (int i = 0; whit_statistics[i].name; i++)
		if (kinds & whit_statistics[i].bit) json_array_append_new(all, json_string(whit_statistics[i].name));
	return all;
}

static json_t *texts_json(const whit_stats_text *text, int n) {
	json_t *all = json_array();
	for (int i = 0; i < n; i++) {
		const char *base = strrchr(text[i].name, '/');
		char hash[48];
		whit_hash_text(whit_hash_bytes(text[i].data, text[i].bytes), hash);
		json_array_append_new(all, json_pack("{s:s, s:s, s:s, s:I}", "name", base ? base + 1 : text[i].name,
		                                     "domain", whit_stats_domain_name(&text[i]), "hash", hash, "bytes",
		                                     (json_int_t)text[i].bytes));
	}
	return all;
}

json_t *whit_stats_job(const whit_model *m, const char *model_print, const char *other_print,
                       const whit_stats_text *text, int n_text, const whit_stats_opts *o, const char *where) {
	json_t *j = json_pack("{s:s, s:i, s:s, s:{s:s, s:s, s:I}, s:o, s:s, s:i, s:I, s:I, s:I, s:b, s:s, s:o}",
	                      "format", FORMAT, "format_version", VERSION, "program", "whit " WHIT_VERSION, "model",
	                      "architecture", m->arch->name, "fingerprint", model_print, "layers",
	                      (json_int_t)m->layers, "stats", kinds_json(o->kinds), "estimator",
	                      whit_estimators[o->estimator], "groups", o->kinds & WHIT_STAT_GUIDED ? o->groups : 0,
	                      "seed", (json_int_t)o->seed, "len", (json_int_t)o->ctx, "samples", (json_int_t)o->chunks,
	                      "head", o->head, "where", where, "texts", texts_json(text, n_text));
	if (other_print) json_object_set_new(j, "against", json_string(other_print));
	return j;
}

static int differs(const char *path, const json_t *saved, const json_t *job, whit_err *e) {
	char list[700];
	if (!whit_json_differs(saved, job, list, sizeof list)) return 0;
	return whit_fail(e, WHIT_EFINGERPRINT, "%s: is of another run: %s", path, list);
}

int whit_stats_job_put(const char *dir, const json_t *job, int *resumed, whit_err *e) {
	char *path = path_of(dir, "job.json");
	json_t *saved = NULL;
	int rc;
	*resumed = whit_file_exists(path);
	if (*resumed) {
		rc = whit_json_load(&saved, path, e);
		if (!rc) rc = differs(path, saved, job, e);
		json_decref(saved);
	} else {
		rc = whit_json_write(job, path, e);
	}
	whit_free(path);
	return rc;
}

/* ---- agreement of domains ---- */

typedef struct ranked {
	double v;
	int64_t i;
} ranked;

static int by_value(const void *a, const void *b) {
	const ranked *x = a, *y = b;
	return x->v != y->v ? (x->v > y->v) - (x->v < y->v) : (x->i > y->i) - (x->i < y->i);
}

static void ranks(double *r, const double *x, int64_t n) {
	ranked *s = whit_alloc((size_t)n * sizeof *s);
	for (int64_t i = 0; i < n; i++) s[i] = (ranked){x[i], i};
	qsort(s, (size_t)n, sizeof *s, by_value);
	for (int64_t i = 0, k; i < n; i = k) {
		for (k = i; k < n && s[k].v == s[i].v; k++) continue;
		for (int64_t t = i; t < k; t++) r[s[t].i] = (double)(i + k - 1) / 2;
	}
	whit_free(s);
}

double whit_spearman(const double *a, const double *b, int64_t n) {
	double *ra = whit_alloc((size_t)(2 * n + 1) * sizeof *ra), *rb = ra + n, mean = (double)(n - 1) / 2;
	double ab = 0, aa = 0, bb = 0;
	ranks(ra, a, n);
	ranks(rb, b, n);
	for (int64_t i = 0; i < n; i++) {
		ab += (ra[i] - mean) * (rb[i] - mean);
		aa += (ra[i] - mean) * (ra[i] - mean);
		bb += (rb[i] - mean) * (rb[i] - mean);
	}
	whit_free(ra);
	return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

static const double *doubles(const whit_tensor *t) { return (const double *)(const void *)t->data; }

/* Of one file: every sum of doubles that domains a and b both have; "DOMAIN/WEIGHT/KIND". */
static void agree(json_t *out, const whit_st *st, const char *a, const char *b, int64_t *low) {
	for (int64_t i = 0; i < st->n; i++) {
		const char *rest = strchr(st->t[i].name, '/'), *kind = strrchr(st->t[i].name, '/') + 1;
		size_t n = (size_t)(rest - st->t[i].name);
		int used = !strcmp(kind, "fisher.rows") || !strcmp(kind, "fisher.cols") || !strcmp(kind, "in.sq");
		if (!used || strncmp(st->t[i].name, a, n) || a[n]) continue;
		char *name = whit_format_text("%s%s", b, rest);
		const whit_tensor *other = whit_st_find(st, name);
		if (other && other->shape[0] == st->t[i].shape[0]) {
			double r = whit_spearman(doubles(&st->t[i]), doubles(other), other->shape[0]);
			*low += r < 0.5;
			json_array_append_new(out, json_pack("{s:s, s:s, s:s, s:f}", "domain", a, "with", b, "sum",
			                                     rest + 1, "spearman", r));
		}
		whit_free(name);
	}
}

static int agreement(json_t *about, const char *dir, int64_t layers, whit_err *e) {
	const json_t *domains = json_object_get(about, "domains");
	json_t *all = json_array();
	int64_t low = 0;
	int rc = 0;
	for (int64_t l = 0; l <= layers && json_array_size(domains) > 1 && !rc; l++) {
		char *path = whit_stats_layer_path(dir, l, layers);
		whit_st st;
		if (whit_file_exists(path) && !(rc = whit_st_open(&st, path, e))) {
			for (size_t a = 0; a < json_array_size(domains); a++)
				for (size_t b = a + 1; b < json_array_size(domains); b++)
					agree(all, &st,
					      json_string_value(json_object_get(json_array_get(domains, a), "name")),
					      json_string_value(json_object_get(json_array_get(domains, b), "name")),
					      &low);
			whit_st_close(&st);
		}
		whit_free(path);
	}
	if (low)
		whit_say("warning: %lld of %zu rankings agree between domains by less than 0.5 (Spearman): each domain "
		         "needs "
		         "its own",
		         (long long)low, json_array_size(all));
	json_object_set_new(about, "agreement", all);
	return rc;
}

/* ---- finishing ---- */

static json_t *inputs_json(const whit_stats *s) {
	json_t *all = json_array();
	for (int64_t i = 0; i < s->n; i++) {
		json_t *weights = json_array();
		for (int k = 0; k < s->in[i].n_weight; k++)
			json_array_append_new(weights, json_string(s->in[i].weight[k]));
		json_array_append_new(all, json_pack("{s:I, s:I, s:o}", "layer", (json_int_t)s->in[i].layer, "cols",
		                                     (json_int_t)s->in[i].cols, "weights", weights));
	}
	return all;
}

static json_t *domains_json(const whit_stats *s) {
	json_t *all = json_array();
	for (int d = 0; d < s->n_domain; d++) {
		const whit_stats_domain *u = &s->domain[d];
		json_t *j = json_pack("{s:s, s:I, s:I}", "name", u->name, "samples", (json_int_t)u->chunks, "tokens",
		                      (json_int_t)(u->chunks * s->ctx));
		if (s->o.kinds & WHIT_STAT_BACK) json_object_set_new(j, "nll_sum", json_real(u->nll));
		json_array_append_new(all, j);
	}
	return all;
}

static int write_about(json_t *about, const char *dir, int64_t layers, whit_err *e) {
	char *path = path_of(dir, "statistics.json");
	int rc = agreement(about, dir, layers, e);
	if (!rc) rc = whit_json_write(about, path, e);
	whit_free(path);
	return rc;
}

int whit_stats_finish(const whit_stats *s, const char *dir, const json_t *job, whit_err *e) {
	json_t *about = json_deep_copy(job);
	char hex[33], *done = path_of(dir, "job.json");
	whit_hash_hex(s->text, hex);
	json_object_set_new(about, "len", json_integer(s->ctx));
	json_object_set_new(about, "tokens_hash", json_string(hex));
	json_object_set_new(about, "domains", domains_json(s));
	json_object_set_new(about, "inputs", inputs_json(s));
	int rc = write_about(about, dir, s->m->layers, e);
	if (!rc) unlink(done);
	whit_free(done);
	json_decref(about);
	return rc;
}

/* ---- reading ---- */

int whit_stats_dir_open(whit_stats_dir *d, const char *path, const whit_model *m, whit_err *e) {
	const char *format, *print;
	const json_t *model, *list;
	int64_t version;
	char *file = path_of(path, "statistics.json"), now[48];
	*d = (whit_stats_dir){.path = whit_strdup(path)};
	int rc = whit_json_load(&d->about, file, e);
	if (!rc) rc = whit_json_text(d->about, file, "format", 1, &format, e);
	if (!rc && strcmp(format, FORMAT))
		rc = whit_fail(e, WHIT_EINPUT, "%s: key format: is \"%.40s\", need \"%s\"", file, format, FORMAT);
	if (!rc) rc = whit_json_int(d->about, file, "format_version", 1, VERSION, VERSION, &version, e);
	if (!rc) rc = whit_json_member(d->about, file, "model", 1, JSON_OBJECT, &model, e);
	if (!rc) rc = whit_json_int(model, file, "layers", 1, 1, 1 << 20, &d->layers, e);
	if (!rc) rc = whit_json_text(model, file, "fingerprint", 1, &print, e);
	static const char *const lists[] = {"domains", "inputs", "texts", "stats"};
	for (int i = 0; i < WHIT_COUNT(lists) && !rc; i++)
		rc = whit_json_member(d->about, file, lists[i], 1, JSON_ARRAY, &list, e);
	if (!rc && m) rc = whit_ckpt_fingerprint(&m->ckpt, now, e);
	if (!rc && m && strcmp(now, print))
		rc = whit_fail(e, WHIT_EFINGERPRINT, "%s: statistics are of model %s, need those of %s (%s)", path,
		               print, m->ckpt.path, now);
	whit_free(file);
	if (rc) whit_stats_dir_close(d);
	return rc;
}

void whit_stats_dir_close(whit_stats_dir *d) {
	whit_free(d->path);
	json_decref(d->about);
	*d = (whit_stats_dir){0};
}

const char *whit_stats_dir_input(const whit_stats_dir *d, const char *weight, int64_t *layer, int64_t *cols) {
	size_t i, k;
	json_t *in, *w;
	json_array_foreach(json_object_get(d->about, "inputs"), i, in) {
		const json_t *weights = json_object_get(in, "weights");
		json_array_foreach(weights, k, w) {
			const char *first = json_string_value(json_array_get(weights, 0));
			if (!json_is_string(w) || !first || strcmp(json_string_value(w), weight)) continue;
			*layer = json_integer_value(json_object_get(in, "layer"));
			*cols = json_integer_value(json_object_get(in, "cols"));
			return first;
		}
	}
	return NULL;
}

int whit_stats_dir_read(const whit_stats_dir *d, int64_t layer, const char *domain, const char *weight,
                        const char *kind, whit_sum *u, whit_err *e) {
	int64_t at, cols;
	const char *input = strncmp(kind, "in.", 3) ? NULL : whit_stats_dir_input(d, weight, &at, &cols);
	const char *of = input ? input : weight;
	char *path = whit_stats_layer_path(d->path, layer, d->layers);
	char *name = whit_format_text("%s/%s/%s", domain, of, kind);
	whit_st st;
	int rc = whit_st_open(&st, path, e);
	if (!rc) {
		const whit_tensor *t = whit_st_find(&st, name);
		rc = t ? whit_sum_read(u, t, path, e)
		       : whit_fail(e, WHIT_EINPUT, "%s: tensor %s is missing: whit calibrate --stats makes it", path,
		                   name);
		whit_st_close(&st);
	}
	whit_free(name);
	whit_free(path);
	return rc;
}

/* ---- merging ---- */

static int same_units(const whit_stats_dir *a, const whit_stats_dir *b, whit_err *e) {
	static const char *const keys[] = {"model", "stats", "estimator", "groups", "len", "head", "against", "inputs"};
	json_t *x = json_object(), *y = json_object(), *t;
	size_t i, k;
	json_t *u;
	int rc = 0;
	for (int n = 0; n < WHIT_COUNT(keys); n++) {
		t = json_object_get(a->about, keys[n]);
		if (t) json_object_set(x, keys[n], t);
		t = json_object_get(b->about, keys[n]);
		if (t) json_object_set(y, keys[n], t);
	}
	rc = differs(b->path, y, x, e);
	if (!rc) rc = differs(a->path, x, y, e);
	json_array_foreach(json_object_get(a->about, "texts"), i, t) {
		json_array_foreach(json_object_get(b->about, "texts"), k, u) {
			const char *hash = json_string_value(json_object_get(t, "hash"));
			const char *other = json_string_value(json_object_get(u, "hash"));
			if (!rc && hash && other && !strcmp(hash, other))
				rc = whit_fail(e, WHIT_EUSAGE, "%s: text %s is in %s too: it would count twice",
				               b->path, json_string_value(json_object_get(u, "name")), a->path);
		}
	}
	json_decref(x);
	json_decref(y);
	return rc;
}

static int read_layer(whit_stats_layer *l, const whit_st *st, const char *path, whit_err *e) {
	int64_t seen[2];
	int rc = whit_stats_seen(st, path, seen, e);
	l->seen[0] += seen[0], l->seen[1] += seen[1];
	for (int64_t i = 0; i < st->n && !rc; i++) {
		const whit_tensor *t = &st->t[i];
		whit_sum u = {.ndim = t->ndim, .dtype = t->dtype, .shape = {1, 1, 1}}, *have = NULL;
		if ((t->dtype != WHIT_F32 && t->dtype != WHIT_F64) || t->ndim < 1 || t->ndim > 3) {
			rc = whit_fail(e, WHIT_EINPUT,
			               "%s: tensor %s: is %s of %d dimensions, need F32 or F64 of 1 to 3", path,
			               t->name, whit_dtype_name(t->dtype), t->ndim);
			continue;
		}
		for (int64_t k = 0; k < l->n; k++)
			if (!strcmp(l->sum[k].name, t->name)) have = &l->sum[k];
		if (have)
			u = (whit_sum){.ndim = have->ndim,
			               .dtype = have->dtype,
			               .shape = {have->shape[0], have->shape[1], have->shape[2]}};
		else
			memcpy(u.shape, t->shape, (size_t)t->ndim * sizeof *u.shape);
		if ((rc = whit_sum_read(&u, t, path, e))) {
			whit_free(u.data);
			continue;
		}
		if (!have) {
			l->sum = whit_realloc(l->sum, (size_t)l->n * sizeof *l->sum,
			                      (size_t)(l->n + 1) * sizeof *l->sum);
			u.name = whit_strdup(t->name);
			l->sum[l->n++] = u;
			continue;
		}
		int most = !strcmp(strrchr(t->name, '/') + 1, "in.max");
		for (int64_t k = 0; k < whit_sum_elements(&u); k++) {
			double *to = have->data, x = u.dtype == WHIT_F64 ? ((double *)u.data)[k] : 0;
			if (u.dtype == WHIT_F32)
				((float *)have->data)[k] += ((float *)u.data)[k];
			else
				to[k] = most ? fmax(to[k], x) : to[k] + x;
		}
		whit_free(u.data);
	}
	return rc;
}

static int merge_layer(const whit_stats_dir *d, const char *out, int64_t layer, whit_err *e) {
	whit_stats_layer l = {0};
	int rc = 0, any = 0;
	for (int k = 0; k < 2 && !rc; k++) {
		char *path = whit_stats_layer_path(d[k].path, layer, d[k].layers);
		whit_st st;
		if (layer < d[k].layers || whit_file_exists(path)) {
			rc = whit_st_open(&st, path, e);
			if (!rc) rc = read_layer(&l, &st, path, e), whit_st_close(&st), any = 1;
		}
		whit_free(path);
	}
	char *path = whit_stats_layer_path(out, layer, d[0].layers);
	if (!rc && any) rc = whit_stats_layer_save(&l, path, e);
	whit_free(path);
	whit_stats_layer_free(&l);
	return rc;
}

/* Adds the numbers of b's domains to those of the same names; new ones at the end. */
static void merge_domains(json_t *to, const json_t *from) {
	size_t i, k;
	json_t *d, *have;
	json_array_foreach(from, i, d) {
		json_t *same = NULL, *v;
		json_array_foreach(to, k, have) if (json_equal(json_object_get(have, "name"),
		                                               json_object_get(d, "name"))) same = have;
		if (!same) json_array_append(to, d);
		const char *key;
		for (void *it = same ? json_object_iter(d) : NULL; it; it = json_object_iter_next(d, it)) {
			key = json_object_iter_key(it), v = json_object_iter_value(it);
			const json_t *was = json_object_get(same, key);
			if (json_is_integer(v))
				json_object_set_new(same, key,
				                    json_integer(json_integer_value(v) + json_integer_value(was)));
			else if (json_is_real(v))
				json_object_set_new(same, key,
				                    json_real(json_number_value(v) + json_number_value(was)));
		}
	}
}

int whit_stats_merge(const char *a, const char *b, const char *out, whit_err *e) {
	whit_stats_dir d[2] = {0};
	int rc = whit_stats_dir_open(&d[0], a, NULL, e);
	if (!rc) rc = whit_stats_dir_open(&d[1], b, NULL, e);
	if (!rc) rc = same_units(&d[0], &d[1], e);
	for (int64_t l = 0; !rc && l <= d[0].layers; l++) {
		rc = merge_layer(d, out, l, e);
		if (!rc) rc = whit_interrupted(e);
	}
	if (!rc) {
		json_t *about = json_deep_copy(d[0].about);
		json_array_extend(json_object_get(about, "texts"), json_object_get(d[1].about, "texts"));
		merge_domains(json_object_get(about, "domains"), json_object_get(d[1].about, "domains"));
		json_t *hashes = json_pack("[O, O]", json_object_get(d[0].about, "tokens_hash"),
		                           json_object_get(d[1].about, "tokens_hash"));
		json_object_set_new(about, "tokens_hash", hashes ? hashes : json_null());
		rc = write_about(about, out, d[0].layers, e);
		json_decref(about);
	}
	for (int k = 0; k < 2; k++) whit_stats_dir_close(&d[k]);
	return rc;
}
