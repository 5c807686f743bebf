/* The ladder as JSON, as Markdown, and in print. */
#include "eval/ladder.h"
#include "eval/markup.h"
#include "eval/report.h"

#include <math.h>

const whit_run_name whit_run_names[WHIT_RUN_VALUES] = {
        [WHIT_RUN_BYTES] = {"bytes", 1},
        [WHIT_RUN_BPW_LINEAR] = {"bpw_linear", 0},
        [WHIT_RUN_BPW_FILE] = {"bpw_file", 0},
        [WHIT_RUN_PPL] = {"ppl", 0},
        [WHIT_RUN_PPL_SE] = {"ppl_se", 0},
        [WHIT_RUN_KLD] = {"kld_mean", 0},
        [WHIT_RUN_KLD_SE] = {"kld_se", 0},
        [WHIT_RUN_KLD_P999] = {"kld_p999", 0},
        [WHIT_RUN_TOP1] = {"top1", 0},
        [WHIT_RUN_TOP1_SE] = {"top1_se", 0},
        [WHIT_RUN_REL_MSE] = {"rel_mse", 0},
        [WHIT_RUN_QUANTIZE_S] = {"quantize_seconds", 0},
        [WHIT_RUN_EVAL_S] = {"eval_seconds", 0},
        [WHIT_RUN_CTX] = {"ctx", 1},
        [WHIT_RUN_STRIDE] = {"stride", 1},
        [WHIT_RUN_TOKENS] = {"text_tokens", 1},
        [WHIT_RUN_POSITIONS] = {"positions", 1},
        [WHIT_RUN_WINDOWS] = {"windows", 1},
        [WHIT_RUN_PPL_REF] = {"ppl_ref", 0},
        [WHIT_RUN_FLOOR_KLD] = {"floor_kld", 0},
        [WHIT_RUN_FLOOR_POSITIONS] = {"floor_positions", 1},
};
/* Below three times the noise floor a result is not ranked (quality.md 2). */
static const double floor_times = 3;

void whit_ladder_values(double v[WHIT_RUN_VALUES], const whit_eval_result *r) {
	const whit_summary *s = &r->s;
	v[WHIT_RUN_BYTES] = (double)r->bytes;
	v[WHIT_RUN_BPW_LINEAR] = r->bpw_linear;
	v[WHIT_RUN_BPW_FILE] = r->bpw_file;
	v[WHIT_RUN_PPL] = s->ppl.mean;
	v[WHIT_RUN_PPL_SE] = s->ppl.se;
	v[WHIT_RUN_KLD] = s->kld.mean;
	v[WHIT_RUN_KLD_SE] = s->kld.se;
	v[WHIT_RUN_KLD_P999] = s->kld_p999;
	v[WHIT_RUN_TOP1] = s->top1.mean;
	v[WHIT_RUN_TOP1_SE] = s->top1.se;
	v[WHIT_RUN_EVAL_S] = r->seconds;
	v[WHIT_RUN_CTX] = (double)r->ctx;
	v[WHIT_RUN_STRIDE] = (double)r->stride;
	v[WHIT_RUN_TOKENS] = (double)r->text_tokens;
	v[WHIT_RUN_POSITIONS] = (double)s->tokens;
	v[WHIT_RUN_WINDOWS] = (double)s->chunks;
	v[WHIT_RUN_PPL_REF] = s->ppl_ref.mean;
	v[WHIT_RUN_FLOOR_KLD] = r->floor_kld;
	v[WHIT_RUN_FLOOR_POSITIONS] = isfinite(r->floor_kld) ? (double)r->floor_tokens : NAN;
}

double whit_ladder_mean(const whit_ladder_entry *x, enum whit_run_value v) {
	double sum = 0;
	for (int i = 0; i < x->n; i++) sum += x->run[i].value[v];
	return sum / x->n;
}

double whit_ladder_sd(const whit_ladder_entry *x, enum whit_run_value v) {
	double mean = whit_ladder_mean(x, v), sum = 0;
	for (int i = 0; i < x->n; i++) sum += (x->run[i].value[v] - mean) * (x->run[i].value[v] - mean);
	return x->n > 1 ? sqrt(sum / (x->n - 1)) : NAN;
}

double whit_ladder_text(const whit_ladder *t, enum whit_run_value v) {
	for (int i = 0; i < t->n; i++)
		for (int k = 0; k < t->entry[i].n; k++)
			if (t->entry[i].run[k].done && isfinite(t->entry[i].run[k].value[v]))
				return t->entry[i].run[k].value[v];
	return NAN;
}

int whit_ladder_front(const whit_ladder *t, int i) {
	double bits = whit_ladder_mean(&t->entry[i], WHIT_RUN_BPW_FILE),
	       loss = whit_ladder_mean(&t->entry[i], WHIT_RUN_KLD);
	for (int k = 0; k < t->n; k++) {
		double b = whit_ladder_mean(&t->entry[k], WHIT_RUN_BPW_FILE),
		       l = whit_ladder_mean(&t->entry[k], WHIT_RUN_KLD);
		if (b <= bits && l <= loss && (b < bits || l < loss)) return 0;
	}
	return 1;
}

int whit_ladder_at_floor(const whit_ladder *t, const whit_ladder_entry *x) {
	double least = fmax(floor_times * fabs(whit_ladder_text(t, WHIT_RUN_FLOOR_KLD)), 1e-10);
	return whit_ladder_mean(x, WHIT_RUN_KLD) < least;
}

static double seconds(const whit_ladder_entry *x) {
	return whit_ladder_mean(x, WHIT_RUN_QUANTIZE_S) + whit_ladder_mean(x, WHIT_RUN_EVAL_S);
}

static int most_runs(const whit_ladder *t) {
	int most = 1;
	for (int i = 0; i < t->n; i++) most = WHIT_MAX(most, t->entry[i].n);
	return most;
}

/* With the digits that it has, be it as small as Q8_0's. */
static const char *loss_text(double x, char out[24]) {
	snprintf(out, 24, x != 0 && fabs(x) < 1e-3 ? "%.2e" : "%.6f", x);
	return out;
}

/* ---- JSON ---- */

static json_t *value_json(double x, int whole) {
	return whole && isfinite(x) ? json_integer((json_int_t)x) : whit_json_number(x);
}

static json_t *path_json(const char *s) { return whit_report_text(s, strlen(s)); }

json_t *whit_ladder_run_json(const whit_ladder_run *r, int own, int text) {
	json_t *j = json_object();
	if (own) json_object_set_new(j, "seed", json_integer(r->seed));
	for (int v = 0; v < WHIT_RUN_VALUES; v++)
		if (v < WHIT_RUN_TEXT ? own : text)
			json_object_set_new(j, whit_run_names[v].name,
			                    value_json(r->value[v], whit_run_names[v].whole));
	return j;
}

static json_t *entry_json(const whit_ladder *t, int i) {
	const whit_ladder_entry *x = &t->entry[i];
	json_t *runs = json_array(), *sd = json_object();
	json_t *j = json_pack("{s:o, s:o, s:b, s:b}", "label", path_json(x->label), "options", path_json(x->options),
	                      "front", whit_ladder_front(t, i), "at_floor", whit_ladder_at_floor(t, x));
	for (int v = 0; v < WHIT_RUN_TEXT; v++) {
		const whit_run_name *n = &whit_run_names[v];
		json_object_set_new(j, n->name, value_json(whit_ladder_mean(x, v), n->whole && x->n == 1));
		json_object_set_new(sd, n->name, whit_json_number(whit_ladder_sd(x, v)));
	}
	for (int k = 0; k < x->n; k++) json_array_append_new(runs, whit_ladder_run_json(&x->run[k], 1, 0));
	json_object_set_new(j, "sd_over_seeds", sd);
	json_object_set_new(j, "runs", runs);
	return j;
}

json_t *whit_ladder_json(const whit_ladder *t) {
	json_t *entries = json_array(), *j;
	for (int i = 0; i < t->n; i++) json_array_append_new(entries, entry_json(t, i));
	j = json_pack("{s:i, s:o, s:o, s:s, s:O}", "format_version", 1, "model", path_json(t->model), "text",
	              path_json(t->text), "fingerprint", t->fingerprint, "inputs", t->inputs);
	for (int v = WHIT_RUN_TEXT; v < WHIT_RUN_VALUES; v++)
		json_object_set_new(j, whit_run_names[v].name,
		                    value_json(whit_ladder_text(t, v), whit_run_names[v].whole));
	json_object_set_new(j, "floor_times", json_real(floor_times));
	json_object_set_new(j, "entries", entries);
	return j;
}

/* ---- Markdown ---- */

static void put_head(const whit_ladder *t, FILE *f) {
	double floor_kld = whit_ladder_text(t, WHIT_RUN_FLOOR_KLD);
	fprintf(f, "# Ladder of `");
	whit_text_put(f, t->model);
	fprintf(f, "`\n\nText: `");
	whit_text_put(f, t->text);
	fprintf(f, "`, %s, window %.0f, stride %.0f, %.0f windows, %.0f positions. Reference: perplexity %.4f", t->mode,
	        whit_ladder_text(t, WHIT_RUN_CTX), whit_ladder_text(t, WHIT_RUN_STRIDE),
	        whit_ladder_text(t, WHIT_RUN_WINDOWS), whit_ladder_text(t, WHIT_RUN_POSITIONS),
	        whit_ladder_text(t, WHIT_RUN_PPL_REF));
	if (isfinite(floor_kld))
		fprintf(f, ", noise floor KLD %.3g over %.0f positions", floor_kld,
		        whit_ladder_text(t, WHIT_RUN_FLOOR_POSITIONS));
	fprintf(f, ". %s, device: %s. Fingerprint `%s`.\n\n", json_string_value(json_object_get(t->inputs, "program")),
	        json_string_value(json_object_get(t->inputs, "device")), t->fingerprint);
	fprintf(f,
	        "KLD: mean, in nats per token, of the model as it is from the quantized one; ± is its standard "
	        "error over windows (bootstrap)%s. Bits per weight (bpw) of the quantized linears, and of all files "
	        "over all parameters. Bold: no other entry is as small and loses less. Seconds to quantize and to "
	        "evaluate both models.\n\n",
	        most_runs(t) > 1 ? ", sd the standard deviation over seeds; an entry's numbers are means over them"
	                         : "");
}

static void put_row(const whit_ladder *t, int i, FILE *f) {
	const whit_ladder_entry *x = &t->entry[i];
	const char *bold = whit_ladder_front(t, i) ? "**" : "";
	char loss[24], error[24];
	fprintf(f, "| %s", bold);
	whit_text_put(f, x->label);
	fprintf(f, "%s | %.0f | %.3f | %.3f | %.4f | %s%s | %s |", bold, whit_ladder_mean(x, WHIT_RUN_BYTES),
	        whit_ladder_mean(x, WHIT_RUN_BPW_LINEAR), whit_ladder_mean(x, WHIT_RUN_BPW_FILE),
	        whit_ladder_mean(x, WHIT_RUN_PPL), loss_text(whit_ladder_mean(x, WHIT_RUN_KLD), loss),
	        whit_ladder_at_floor(t, x) ? " (floor)" : "", loss_text(whit_ladder_mean(x, WHIT_RUN_KLD_SE), error));
	if (most_runs(t) > 1 && x->n > 1)
		fprintf(f, " %d | %.4f | %s |", x->n, whit_ladder_sd(x, WHIT_RUN_PPL),
		        loss_text(whit_ladder_sd(x, WHIT_RUN_KLD), error));
	else if (most_runs(t) > 1)
		fprintf(f, " 1 | | |");
	fprintf(f, " %.5f | %.4f | %.6f | %.1f | `", whit_ladder_mean(x, WHIT_RUN_KLD_P999),
	        whit_ladder_mean(x, WHIT_RUN_TOP1), whit_ladder_mean(x, WHIT_RUN_REL_MSE), seconds(x));
	whit_text_put(f, x->options);
	fprintf(f, "` |\n");
}

char *whit_ladder_markdown(const whit_ladder *t) {
	int seeds = most_runs(t) > 1;
	whit_text_out o;
	whit_text_open(&o);
	put_head(t, o.f);
	fprintf(o.f,
	        "| label | file bytes | bpw linear | bpw file | PPL | KLD | ± |%s 99.9 %% KLD | same top | relative "
	        "MSE | "
	        "seconds | options |\n|---|---|---|---|---|---|---|%s---|---|---|---|---|\n",
	        seeds ? " seeds | sd PPL | sd KLD |" : "", seeds ? "---|---|---|" : "");
	for (int i = 0; i < t->n; i++) put_row(t, i, o.f);
	return whit_text_close(&o);
}

/* ---- print ---- */

void whit_ladder_print(const whit_ladder *t, FILE *f) {
	int seeds = most_runs(t) > 1, wide = 5;
	double floor_kld = whit_ladder_text(t, WHIT_RUN_FLOOR_KLD);
	for (int i = 0; i < t->n; i++) wide = WHIT_MAX(wide, (int)strlen(t->entry[i].label));
	fprintf(f, "text          %s: %s: window %.0f, stride %.0f, %.0f windows, %.0f positions\n", t->text, t->mode,
	        whit_ladder_text(t, WHIT_RUN_CTX), whit_ladder_text(t, WHIT_RUN_STRIDE),
	        whit_ladder_text(t, WHIT_RUN_WINDOWS), whit_ladder_text(t, WHIT_RUN_POSITIONS));
	fprintf(f, "reference     perplexity %.4f\n", whit_ladder_text(t, WHIT_RUN_PPL_REF));
	if (isfinite(floor_kld)) fprintf(f, "noise floor   KLD %.4e\n", floor_kld);
	fprintf(f, "\n%-*s %12s %10s %9s %11s %10s %9s%s %8s %8s\n", wide, "label", "file bytes", "bpw linear",
	        "bpw file", "perplexity", "mean KLD", "error", seeds ? "   sd seeds" : "", "same top", "seconds");
	for (int i = 0; i < t->n; i++) {
		const whit_ladder_entry *x = &t->entry[i];
		char loss[24], error[24];
		fprintf(f, "%-*s %12.0f %10.3f %9.3f %11.4f %10s %9s", wide, x->label,
		        whit_ladder_mean(x, WHIT_RUN_BYTES), whit_ladder_mean(x, WHIT_RUN_BPW_LINEAR),
		        whit_ladder_mean(x, WHIT_RUN_BPW_FILE), whit_ladder_mean(x, WHIT_RUN_PPL),
		        loss_text(whit_ladder_mean(x, WHIT_RUN_KLD), loss),
		        loss_text(whit_ladder_mean(x, WHIT_RUN_KLD_SE), error));
		if (seeds && x->n > 1)
			fprintf(f, " %10s", loss_text(whit_ladder_sd(x, WHIT_RUN_KLD), error));
		else if (seeds)
			fprintf(f, " %10s", "");
		fprintf(f, " %8.4f %8.1f%s%s\n", whit_ladder_mean(x, WHIT_RUN_TOP1), seconds(x),
		        whit_ladder_front(t, i) ? "  front" : "", whit_ladder_at_floor(t, x) ? "  at floor" : "");
	}
	fflush(f);
}
