/* report: one table of metrics feeds both JSON forms, so that neither can lack what the other has. */
#include "eval/report.h"
#include <math.h>
#include <utf8proc.h>

/* ---- the metrics, by key ---- */

#define AT(field) offsetof(whit_summary, field)
static const struct stat_key { /* *_mean's error is *_se, X's is X_se; likewise _lo and _hi */
	const char *key, *stem;
	size_t at;
} stat_keys[] = {
        {"nll", "nll", AT(nll)},
        {"ppl", "ppl", AT(ppl)},
        {"nll_ref", "nll_ref", AT(nll_ref)},
        {"ppl_ref", "ppl_ref", AT(ppl_ref)},
        {"ppl_ratio", "ppl_ratio", AT(ppl_ratio)},
        {"ppl_diff", "ppl_diff", AT(ppl_diff)},
        {"nll_corr", "nll_corr", AT(nll_corr)},
        {"kld_mean", "kld", AT(kld)},
        {"kld_rev_mean", "kld_rev", AT(kld_rev)},
        {"kld_llama_mean", "kld_llama", AT(kld_llama)},
        {"top1", "top1", AT(top1)},
        {"top5", "top5", AT(top5)},
        {"top1_in5", "top1_in5", AT(top1_in5)},
        {"dp_mean", "dp", AT(dp)},
        {"dp_rms", "dp_rms", AT(dp_rms)},
        {"cosine_positions", "cosine_positions", AT(cosine)},
};
static const struct value_key {
	const char *key;
	size_t at;
} value_keys[] = {
        {"kld_p50", AT(kld_p50)},   {"kld_p90", AT(kld_p90)}, {"kld_p95", AT(kld_p95)}, {"kld_p99", AT(kld_p99)},
        {"kld_p999", AT(kld_p999)}, {"kld_max", AT(kld_max)}, {"dp_min", AT(dp_min)},   {"dp_max", AT(dp_max)},
};
#undef AT

static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }
static json_t *integer(int64_t x) { return json_integer((json_int_t)x); }

json_t *whit_report_text(const char *s, size_t n) {
	char *out = whit_alloc(4 * n + 1);
	size_t k = 0;
	json_t *j;
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t c;
		utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
		if (len > 0) {
			memcpy(out + k, s + i, (size_t)len);
			k += (size_t)len;
			i += (size_t)len;
		} else
			k += (size_t)snprintf(out + k, 5, "\\x%02x", (unsigned char)s[i++]);
	}
	j = json_stringn(out, k);
	whit_free(out);
	return j;
}

static json_t *text(const char *s) { return s ? whit_report_text(s, strlen(s)) : json_null(); }

/* key: value, or in a summary key: {mean, se, n}. */
static void put_number(json_t *j, const char *key, double mean, double se, int64_t n, int summary) {
	json_t *v;
	if (!summary) {
		json_object_set_new(j, key, number(mean));
		return;
	}
	v = json_object();
	json_object_set_new(v, "mean", number(mean));
	json_object_set_new(v, "se", number(se));
	json_object_set_new(v, "n", isfinite(mean) ? integer(n) : json_null());
	json_object_set_new(j, key, v);
}

static void put_suffixed(json_t *j, const char *stem, const char *suffix, double x) {
	char key[64];
	snprintf(key, sizeof key, "%s%s", stem, suffix);
	json_object_set_new(j, key, number(x));
}

static void put_stats(json_t *j, const whit_summary *s, int summary) {
	for (int64_t i = 0; i < WHIT_COUNT(stat_keys); i++) {
		const struct stat_key *k = &stat_keys[i];
		const whit_stat *v = (const whit_stat *)((const char *)s + k->at);
		put_number(j, k->key, v->mean, v->se, s->tokens, summary);
		if (!summary) put_suffixed(j, k->stem, "_se", v->se);
		put_suffixed(j, k->stem, "_lo", v->lo);
		put_suffixed(j, k->stem, "_hi", v->hi);
	}
	for (int64_t i = 0; i < WHIT_COUNT(value_keys); i++)
		put_number(j, value_keys[i].key, *(const double *)((const char *)s + value_keys[i].at), NAN, s->tokens,
		           summary);
}

/* ---- the parts around them ---- */

static json_t *buckets_json(const whit_summary *s) {
	json_t *a = json_array();
	for (int b = 0; b < WHIT_BUCKETS; b++) {
		json_t *o = json_object();
		json_object_set_new(o, "p_max_from", number(whit_bucket_edges[b]));
		json_object_set_new(o, "p_max_to", number(whit_bucket_edges[b + 1]));
		json_object_set_new(o, "n", integer(s->bucket_n[b]));
		json_object_set_new(o, "kld_mean", number(s->bucket_kld[b]));
		json_array_append_new(a, o);
	}
	return a;
}

static json_t *dp_json(const whit_summary *s) {
	json_t *o = json_object();
	for (int i = 0; i < WHIT_DP_QUANTILES; i++) {
		char key[32];
		snprintf(key, sizeof key, "p%g", whit_dp_quantiles[i]);
		json_object_set_new(o, key, number(s->dp_q[i]));
	}
	return o;
}

static json_t *layers_json(const whit_eval_result *r) {
	json_t *a = json_array();
	if (!r->layer_err) {
		json_decref(a);
		return json_null();
	}
	for (int64_t l = 0; l < r->layers; l++) {
		json_t *o = json_object();
		json_object_set_new(o, "layer", integer(l));
		json_object_set_new(o, "rel_err", number(r->layer_err[l]));
		json_object_set_new(o, "sqnr_db",
		                    number(-20 * log10(r->layer_err[l]))); /* null where nothing was lost */
		json_object_set_new(o, "cosine", number(r->layer_cos[l]));
		json_array_append_new(a, o);
	}
	return a;
}

static json_t *floor_json(const whit_eval_result *r) {
	json_t *o = json_object();
	json_object_set_new(o, "kld", number(r->floor_kld));
	json_object_set_new(o, "top1", number(r->floor_top1));
	json_object_set_new(o, "tokens", r->floor_tokens ? integer(r->floor_tokens) : json_null());
	json_object_set_new(o, "what", json_string("reference against itself, fast kernels against plain twins"));
	return o;
}

/* Bits and error of each tensor of a model that whit or another quantizer wrote; null for a plain checkpoint. */
static json_t *tensors_json(const whit_model *m) {
	json_t *a;
	if (m->ckpt.kind == WHIT_CKPT_HF) return json_null();
	a = json_array();
	for (int64_t i = 0; i < m->ckpt.n; i++) {
		const whit_weight *w = &m->ckpt.w[i];
		int64_t count = 1;
		char name[32];
		json_t *o;
		if (w->alias) continue;
		for (int d = 0; d < w->ndim; d++) count *= w->shape[d];
		o = json_object();
		json_object_set_new(o, "name", text(w->name));
		if (w->mat.spec.fmt) whit_spec_name(&w->mat.spec, name);
		json_object_set_new(o, "format", json_string(w->mat.spec.fmt ? name : w->type));
		json_object_set_new(o, "bits_per_weight", number(8.0 * (double)w->bytes / (double)count));
		json_object_set_new(o, "rel_mse", w->passthrough ? json_real(0) : number(w->rel_mse));
		json_array_append_new(a, o);
	}
	return a;
}

static json_t *model_json(const whit_model *m, const char *fingerprint, const char *compute) {
	double linear, file;
	int64_t bytes, params;
	json_t *o;
	if (!m) return json_null();
	o = json_object();
	whit_eval_size(m, &linear, &file, &bytes, &params);
	json_object_set_new(o, "path", text(m->ckpt.path));
	json_object_set_new(o, "kind", json_string(whit_ckpt_kind_name(m->ckpt.kind)));
	json_object_set_new(o, "architecture", json_string(m->arch->name));
	json_object_set_new(o, "compute", text(compute));
	json_object_set_new(o, "params", integer(params));
	json_object_set_new(o, "bytes", integer(bytes));
	json_object_set_new(o, "bpw_linear", number(linear));
	json_object_set_new(o, "bpw_file", number(file));
	json_object_set_new(o, "fingerprint", text(fingerprint));
	json_object_set_new(o, "tensors", tensors_json(m));
	return o;
}

static json_t *adapter_json(const whit_adapted *a) {
	json_t *o;
	if (!a) return json_null();
	o = json_object();
	json_object_set_new(o, "path", text(a->path));
	json_object_set_new(o, "bytes", integer(a->bytes));
	json_object_set_new(o, "matrices", integer(a->matrices));
	json_object_set_new(o, "weights", integer(a->weights));
	json_object_set_new(o, "rank", integer(a->rank));
	json_object_set_new(o, "bits_per_weight", number(8.0 * (double)a->factor_bytes / (double)a->weights));
	return o;
}

/* What is known of a reference that was a file of logits. */
static json_t *logits_json(const char *path) {
	static const char *const unknown[] = {"architecture", "compute",  "params",      "bytes",
	                                      "bpw_linear",   "bpw_file", "fingerprint", "tensors"};
	json_t *o = json_object();
	json_object_set_new(o, "path", text(path));
	json_object_set_new(o, "kind", json_string("base logits"));
	for (int64_t i = 0; i < WHIT_COUNT(unknown); i++) json_object_set_new(o, unknown[i], json_null());
	return o;
}

static json_t *texts_json(const whit_report *r) {
	const whit_eval_result *v = r->result;
	json_t *o = json_object(), *t = json_object();
	char hash[48];
	json_object_set_new(o, "calibration", json_null()); /* of other programs' steps: not known here */
	json_object_set_new(o, "search", json_null());
	json_object_set_new(t, "path", text(r->text));
	if (v) whit_hash_text(v->text_hash, hash);
	json_object_set_new(t, "hash", v ? json_string(hash) : json_null());
	json_object_set_new(t, "bytes", v ? integer(v->text_bytes) : json_null());
	json_object_set_new(t, "bytes_not_utf8", v ? integer(v->text_invalid) : json_null());
	json_object_set_new(t, "tokens", v ? integer(v->text_tokens) : json_null());
	json_object_set_new(o, "eval", t);
	return o;
}

/* The processor's name as Linux knows it; null elsewhere. */
static json_t *cpu_json(void) {
	FILE *f = fopen("/proc/cpuinfo", "r");
	char line[512];
	json_t *j = NULL;
	while (f && !j && fgets(line, sizeof line, f)) {
		char *colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) || !colon) continue;
		line[strcspn(line, "\n")] = 0;
		j = text(colon + 1 + (colon[1] == ' '));
	}
	if (f) fclose(f);
	return j ? j : json_null();
}

static json_t *hardware_json(void) {
	json_t *o = json_object();
	json_object_set_new(o, "cpu", cpu_json());
	json_object_set_new(o, "vector", json_string(whit_cpu_level_name(whit_cpu_level())));
	json_object_set_new(o, "threads", json_integer(whit_threads()));
	return o;
}

static json_t *prompts_json(const whit_report *r) {
	json_t *a;
	if (!r->cosine) return json_null();
	a = json_array();
	for (int i = 0; i < r->n_prompt; i++) {
		json_t *o = json_object();
		json_object_set_new(o, "prompt", text(r->prompt[i]));
		json_object_set_new(o, "cosine", number(r->cosine[i]));
		json_array_append_new(a, o);
	}
	return a;
}

double whit_report_cosine(const whit_report *r) {
	double sum = 0;
	if (!r->cosine || r->n_prompt < 1) return NAN;
	for (int i = 0; i < r->n_prompt; i++) sum += r->cosine[i];
	return sum / r->n_prompt;
}

/* Standard error of the mean over prompts. */
static double cosine_se(const whit_report *r) {
	double mean = whit_report_cosine(r), var = 0;
	if (!r->cosine || r->n_prompt < 2) return NAN;
	for (int i = 0; i < r->n_prompt; i++) var += (r->cosine[i] - mean) * (r->cosine[i] - mean);
	return sqrt(var / (r->n_prompt - 1) / r->n_prompt);
}

/* ---- warnings that belong to the numbers ---- */

enum { FLAGS = 6 };
/* Writes up to FLAGS texts, returns how many. */
static int find_flags(const whit_eval_result *r, const char *flag[FLAGS]) {
	int n = 0;
	if (!r) return 0;
	if (r->s.few == 1) flag[n++] = "fewer than 100 scored tokens: no statistics";
	if (r->s.few == 2) flag[n++] = "fewer than 20 chunks: errors are not to be trusted";
	if (r->have_ref && r->s.kld.mean <= 3 * r->floor_kld)
		flag[n++] = "at floor: mean KLD is not above three times the noise floor";
	if (r->s.cut)
		flag[n++] = "the reference is a base-logits file: 16 bits, tail cut; KLD is kld_llama (ln P > -16)";
	if (r->s.ppl.mean > (double)r->vocab)
		flag[n++] = "RED: perplexity exceeds the vocabulary size, worse than guessing";
	if (r->text_invalid) flag[n++] = "the text holds bytes that are not UTF-8";
	return n;
}

static json_t *flags_json(const whit_eval_result *r) {
	const char *flag[FLAGS];
	int n = find_flags(r, flag);
	json_t *a = json_array();
	for (int i = 0; i < n; i++) json_array_append_new(a, json_string(flag[i]));
	return a;
}

/* ---- both JSON forms ---- */

static void put_head(json_t *j, const whit_report *r) {
	json_t *program = json_object(), *seeds = json_object();
	json_object_set_new(j, "format_version", json_integer(1));
	json_object_set_new(program, "name", json_string("whit"));
	json_object_set_new(program, "version", json_string(WHIT_VERSION));
	json_object_set_new(j, "program", program);
	json_object_set_new(j, "command", text(r->command));
	json_object_set_new(seeds, "bootstrap", json_integer(WHIT_BOOTSTRAP_SEED));
	json_object_set_new(seeds, "replicates", json_integer(WHIT_REPLICATES));
	json_object_set_new(j, "seeds", seeds);
	json_object_set_new(j, "model", model_json(r->model, r->model_fp, r->compute));
	json_object_set_new(j, "adapter", adapter_json(r->adapter));
	json_object_set_new(j, "reference",
	                    r->ref_logits ? logits_json(r->ref_logits) : model_json(r->ref, r->ref_fp, r->compute));
	json_object_set_new(j, "texts", texts_json(r));
	json_object_set_new(j, "hardware", hardware_json());
}

/* A result of which nothing was measured. */
static void empty_result(whit_eval_result *r) {
	memset(r, 0, sizeof *r);
	whit_summarize(&r->s, NULL, 0, 0, NULL, 0);
	r->floor_kld = r->floor_top1 = r->bpw_linear = r->bpw_file = r->seconds = r->tokens_per_s = NAN;
}

static json_t *build(const whit_report *r, int summary) {
	json_t *j = json_object(), *independent = json_object();
	const whit_eval_result *v = r->result;
	whit_eval_result none;
	if (!v) {
		empty_result(&none);
		v = &none;
		if (r->model) whit_eval_size(r->model, &none.bpw_linear, &none.bpw_file, &none.bytes, &none.params);
	}
	put_head(j, r);
	json_object_set_new(j, "mode", r->result ? json_string(whit_eval_mode_name(v->mode)) : json_null());
	json_object_set_new(j, "window", r->result ? integer(v->ctx) : json_null());
	json_object_set_new(j, "stride", r->result ? integer(v->stride) : json_null());
	json_object_set_new(j, "n", number(v->s.weight));
	json_object_set_new(j, "chunks", r->result ? integer(v->s.chunks) : json_null());
	json_object_set_new(j, "tokens", r->result ? integer(v->s.tokens) : json_null());
	put_stats(j, &v->s, summary);
	put_number(j, "cosine", whit_report_cosine(r), cosine_se(r), r->n_prompt, summary);
	if (!summary) json_object_set_new(j, "cosine_se", number(cosine_se(r)));
	json_object_set_new(independent, "ppl_se", number(v->s.ppl_se_tokens));
	json_object_set_new(independent, "kld_se", number(v->s.kld_se_tokens));
	json_object_set_new(independent, "top1_se", number(v->s.top1_se_tokens));
	json_object_set_new(j, "independent_tokens", independent);
	json_object_set_new(j, "kld_buckets", r->result && v->have_ref ? buckets_json(&v->s) : json_null());
	json_object_set_new(j, "dp_percentiles", dp_json(&v->s));
	json_object_set_new(j, "floor", floor_json(v));
	json_object_set_new(j, "layers", layers_json(v));
	json_object_set_new(j, "bpw_linear", number(v->bpw_linear));
	json_object_set_new(j, "bpw_file", number(v->bpw_file));
	json_object_set_new(j, "bytes", r->model ? integer(v->bytes) : json_null());
	json_object_set_new(j, "params", r->model ? integer(v->params) : json_null());
	json_object_set_new(j, "seconds", number(v->seconds));
	json_object_set_new(j, "tokens_per_s", number(v->tokens_per_s));
	json_object_set_new(j, "peak_rss", integer(whit_peak_rss()));
	json_object_set_new(j, "prompts", prompts_json(r));
	json_object_set_new(j, "samples", r->samples ? json_deep_copy(r->samples) : json_null());
	json_object_set_new(j, "baseline",
	                    json_null()); /* a Q4_K_M of the same size: run by hand, not by this command */
	json_object_set_new(j, "repetitions", json_integer(1));
	json_object_set_new(j, "flags", flags_json(r->result));
	return j;
}

json_t *whit_report_json(const whit_report *r) { return build(r, 0); }
json_t *whit_report_summary_json(const whit_report *r) { return build(r, 1); }

/* ---- the table ---- */

/* 1234567 -> "1,234,567" */
static const char *grouped(int64_t x, char out[32]) {
	char digits[24];
	int n = snprintf(digits, sizeof digits, "%lld", (long long)(x < 0 ? -x : x)), k = 0;
	if (x < 0) out[k++] = '-';
	for (int i = 0; i < n; i++) {
		out[k++] = digits[i];
		if (i < n - 1 && (n - 1 - i) % 3 == 0) out[k++] = ',';
	}
	out[k] = 0;
	return out;
}

/* A number in 12 columns with about six digits, or a dash. */
static const char *cell(double x, char out[32]) {
	if (!isfinite(x))
		snprintf(out, 32, "%12s", "-");
	else if (x == 0)
		snprintf(out, 32, "%12s", "0");
	else if (fabs(x) < 1e-4 || fabs(x) >= 1e7)
		snprintf(out, 32, "%12.4e", x);
	else
		snprintf(out, 32, "%12.*f", fabs(x) >= 1000 ? 2 : fabs(x) >= 10 ? 4 : 6, x);
	return out;
}

static void print_stat(FILE *f, const char *name, const whit_stat *s) {
	char a[32], b[32], c[32], d[32];
	fprintf(f, "%-24s%s%s%s%s\n", name, cell(s->mean, a), cell(s->se, b), cell(s->lo, c), cell(s->hi, d));
}

static void print_size(FILE *f, const char *name, const whit_model *m) {
	double linear, file;
	int64_t bytes, params;
	char a[32], b[32];
	whit_eval_size(m, &linear, &file, &bytes, &params);
	fprintf(f, "%-10s %s: %s, %s parameters\n", name, m->ckpt.path, m->arch->name, grouped(params, a));
	fprintf(f, "%-10s %.4f bits per weight in linears, %.4f in the whole file: %s bytes\n", "", linear, file,
	        grouped(bytes, b));
	fprintf(f, "%-10s = %.4f GB (10^9 bytes) = %.4f GiB (2^30 bytes)\n", "", (double)bytes / 1e9,
	        (double)bytes / 0x1p30);
}

static void print_adapter(FILE *f, const whit_adapted *a) {
	char bytes[32];
	fprintf(f, "%-10s %s: %lld matrices, rank %lld, beside that %.4f bits per weight of theirs: %s bytes\n",
	        "adapter", a->path, (long long)a->matrices, (long long)a->rank,
	        8.0 * (double)a->factor_bytes / (double)a->weights, grouped(a->bytes, bytes));
}

static void print_reference_part(FILE *f, const whit_report *r) {
	const whit_eval_result *v = r->result;
	const whit_summary *s = &v->s;
	char a[32], b[32], c[32], d[32], g[32], h[32];
	whit_stat last = {whit_report_cosine(r), cosine_se(r), NAN, NAN};
	double worst = NAN;
	int64_t at = -1;
	print_stat(f, "  of the reference", &s->ppl_ref);
	print_stat(f, "  ratio", &s->ppl_ratio);
	print_stat(f, "  difference", &s->ppl_diff);
	if (s->cut)
		print_stat(f, "KLD where ln P > -16", &s->kld_llama);
	else
		print_stat(f, "KLD (P||Q), nats", &s->kld);
	print_stat(f, "KLD reverse (Q||P)", &s->kld_rev);
	print_stat(f, "same top token", &s->top1);
	print_stat(f, "top-5 overlap", &s->top5);
	print_stat(f, "P's top in Q's top 5", &s->top1_in5);
	print_stat(f, "dp mean", &s->dp);
	print_stat(f, "dp rms", &s->dp_rms);
	print_stat(f, "cosine, last token", &last);
	fprintf(f,
	        "\nKLD          median         p90         p95         p99       p99.9         max\n      "
	        "%s%s%s%s%s%s\n",
	        cell(s->kld_p50, a), cell(s->kld_p90, b), cell(s->kld_p95, c), cell(s->kld_p99, d),
	        cell(s->kld_p999, g), cell(s->kld_max, h));
	fprintf(f, "by P's confidence");
	for (int i = 0; i < WHIT_BUCKETS; i++)
		fprintf(f, "%s%g-%g: %s (%s)", i % 3 ? "; " : "\n      ", whit_bucket_edges[i],
		        whit_bucket_edges[i + 1], cell(s->bucket_kld[i], a) + strspn(a, " "),
		        grouped(s->bucket_n[i], b));
	fprintf(f, "\nnoise floor  KLD %s, same top token %s, over %s positions\n",
	        cell(v->floor_kld, a) + strspn(a, " "), cell(v->floor_top1, b) + strspn(b, " "),
	        grouped(v->floor_tokens, c));
	for (int64_t l = 0; l < v->layers; l++)
		if (!(v->layer_err[l] <= worst)) worst = v->layer_err[at = l];
	if (at >= 0)
		fprintf(f, "layers       largest error of a block's output %.6f, layer %lld\n", worst, (long long)at);
}

void whit_report_print(const whit_report *r, FILE *f) {
	const whit_eval_result *v = r->result;
	const char *flag[FLAGS];
	char a[32], b[32], c[32];
	int n = find_flags(v, flag);
	print_size(f, "model", r->model);
	if (r->adapter) print_adapter(f, r->adapter);
	if (r->ref) print_size(f, "reference", r->ref);
	if (r->ref_logits) fprintf(f, "%-10s %s: base logits\n", "reference", r->ref_logits);
	fprintf(f, "%-10s %s: %s bytes, %s tokens\n", "text", r->text, grouped(v->text_bytes, a),
	        grouped(v->text_tokens, b));
	fprintf(f, "%-10s %s: window %lld, stride %lld, %s %s, %s positions scored, n = %.0f\n", "mode",
	        whit_eval_mode_name(v->mode), (long long)v->ctx, (long long)v->stride, grouped(v->s.chunks, a),
	        v->mode == WHIT_CHUNKED ? "chunks" : "windows", grouped(v->s.tokens, b), v->s.weight);
	fprintf(f, "%-10s %.1f s, %s tokens/s, peak memory %.3f GB (10^9 bytes)\n\n", "speed", v->seconds,
	        grouped((int64_t)v->tokens_per_s, c), (double)whit_peak_rss() / 1e9);
	fprintf(f, "%-24s%12s%12s%12s%12s\n", "", "value", "error", "2.5 %", "97.5 %");
	print_stat(f, "nll per token, nats", &v->s.nll);
	print_stat(f, "perplexity", &v->s.ppl);
	fprintf(f, "%-24s%12s%s\n", "  independent tokens", "", cell(v->s.ppl_se_tokens, a));
	if (v->have_ref) print_reference_part(f, r);
	for (int i = 0; i < n; i++) fprintf(f, "! %s\n", flag[i]);
}
