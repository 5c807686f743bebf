/* The table of sensitivities as JSON, as Markdown, as a heat map, and in short. */
#include "eval/sensitivity.h"
#include "eval/markup.h"
#include "eval/report.h"

#include <math.h>
#include <stdlib.h>

const char *const whit_sens_by_name[WHIT_BYS] = {"tensor", "role", "layer", "all"};
/* Below three times the noise floor a result is not ranked (quality.md 2). */
static const double floor_times = 3;

static double bpw(const whit_sens_entry *x) {
	return 8 * (double)(x->bytes + x->book_bytes) / (double)WHIT_MAX(x->weights, 1);
}

/* NaN where no floor was measured: then nothing is known to be at it. */
static int at_floor(const whit_sens_table *t, const whit_sens_entry *x) {
	return x->kld < floor_times * fabs(t->eval->floor_kld);
}

whit_sens_sum whit_sens_add(const whit_sens_table *t, int by, int format) {
	whit_sens_sum s = {NAN, NAN, NAN};
	double sum = 0;
	int n = 0;
	for (int64_t i = 0; i < t->n; i++) {
		const whit_sens_entry *x = &t->entry[i];
		if (x->format != format) continue;
		if (x->by == WHIT_BY_ALL) s.joint = x->kld, s.joint_se = x->se;
		if (x->by == by) sum += x->kld, n++;
	}
	if (n) s.sum = sum;
	return s;
}

static int has(const whit_sens_table *t, int by) {
	for (int64_t i = 0; i < t->n; i++)
		if (t->entry[i].by == by) return 1;
	return 0;
}

/* ---- JSON ---- */

static json_t *path_json(const char *s) { return whit_report_text(s, strlen(s)); }

static json_t *entry_json(const whit_sens_table *t, const whit_sens_entry *x) {
	json_t *layer = x->layer < 0 ? json_null() : json_integer(x->layer);
	return json_pack("{s:s, s:s, s:s?, s:o, s:s, s:I, s:I, s:I, s:I, s:f, s:o, s:o, s:b, s:o}", "by",
	                 whit_sens_by_name[x->by], "name", x->name, "role", x->role, "layer", layer, "format",
	                 t->format[x->format], "tensors", (json_int_t)x->tensors, "weights", (json_int_t)x->weights,
	                 "bytes", (json_int_t)x->bytes, "codebook_bytes", (json_int_t)x->book_bytes, "bpw", bpw(x),
	                 "kld_mean", whit_json_number(x->kld), "kld_se", whit_json_number(x->se), "at_floor",
	                 at_floor(t, x), "rel_mse", whit_json_number(x->rel_mse));
}

static json_t *sums_json(const whit_sens_table *t) {
	json_t *all = json_array();
	for (int by = 0; by < WHIT_BY_ALL; by++) {
		for (int f = 0; f < t->formats && has(t, by); f++) {
			whit_sens_sum s = whit_sens_add(t, by, f);
			json_array_append_new(
			        all, json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "by", whit_sens_by_name[by], "format",
			                       t->format[f], "sum", whit_json_number(s.sum), "joint",
			                       whit_json_number(s.joint), "joint_se", whit_json_number(s.joint_se),
			                       "joint_over_sum", whit_json_number(s.joint / s.sum)));
		}
	}
	return all;
}

json_t *whit_sens_json(const whit_sens_table *t) {
	const whit_eval_result *r = t->eval;
	json_t *entries = json_array();
	for (int64_t i = 0; i < t->n; i++) json_array_append_new(entries, entry_json(t, &t->entry[i]));
	return json_pack("{s:i, s:o, s:o, s:s, s:O, s:I, s:I, s:I, s:o, s:I, s:f, s:o, s:o, s:O}", "format_version", 1,
	                 "model", path_json(t->model), "text", path_json(t->text), "fingerprint", t->fingerprint,
	                 "inputs", t->inputs, "text_tokens", (json_int_t)r->text_tokens, "positions",
	                 (json_int_t)r->s.tokens, "windows", (json_int_t)r->s.chunks, "floor_kld",
	                 whit_json_number(r->floor_kld), "floor_positions", (json_int_t)r->floor_tokens, "floor_times",
	                 floor_times, "additivity", sums_json(t), "entries", entries, "unfit", t->unfit);
}

/* ---- what stands where: role x layer, the last column and row being all layers and all roles ---- */

enum { OUTSIDE = -1, ALL = -2 }; /* columns beside layers; ALL also as a row */

static const whit_sens_entry *cell(const whit_sens_table *t, int format, int64_t role, int64_t layer) {
	int by = role == ALL    ? layer == ALL ? WHIT_BY_ALL : WHIT_BY_LAYER
	         : layer == ALL ? WHIT_BY_ROLE
	                        : WHIT_BY_TENSOR;
	for (int64_t i = 0; i < t->n; i++) {
		const whit_sens_entry *x = &t->entry[i];
		if (x->by != by || x->format != format) continue;
		if (role != ALL && strcmp(x->role, t->role[role])) continue;
		if (layer == ALL || x->layer == layer) return x;
	}
	return NULL;
}

static int outside(const whit_sens_table *t) {
	for (int64_t i = 0; i < t->n; i++)
		if ((t->entry[i].by == WHIT_BY_TENSOR || t->entry[i].by == WHIT_BY_LAYER) && t->entry[i].layer < 0)
			return 1;
	return 0;
}

typedef struct grid {
	int64_t *col, cols, *row, rows; /* layers and roles, or OUTSIDE or ALL */
} grid;

static void grid_make(grid *g, const whit_sens_table *t) {
	*g = (grid){whit_alloc((size_t)(t->layers + 2) * sizeof *g->col), 0,
	            whit_alloc((size_t)(t->roles + 1) * sizeof *g->row), 0};
	int parts = has(t, WHIT_BY_TENSOR) || has(t, WHIT_BY_ROLE);
	for (int64_t l = 0; l < t->layers && (has(t, WHIT_BY_TENSOR) || has(t, WHIT_BY_LAYER)); l++)
		g->col[g->cols++] = l;
	if (outside(t)) g->col[g->cols++] = OUTSIDE;
	g->col[g->cols++] = ALL;
	for (int64_t r = 0; r < t->roles && parts; r++) g->row[g->rows++] = r;
	g->row[g->rows++] = ALL;
}

static void grid_free(grid *g) {
	whit_free(g->col);
	whit_free(g->row);
}

static const char *col_name(int64_t col, char out[24]) {
	if (col < 0) return col == ALL ? "all layers" : "outside";
	snprintf(out, 24, "%lld", (long long)col);
	return out;
}

static const char *row_name(const whit_sens_table *t, int64_t row) { return row == ALL ? "all roles" : t->role[row]; }

/* ---- Markdown ---- */

static void put_sums(const whit_sens_table *t, FILE *f) {
	fprintf(f, "| parts | format | sum of KLD | joint KLD | ± | joint / sum |\n|---|---|---|---|---|---|\n");
	for (int by = 0; by < WHIT_BY_ALL; by++) {
		for (int k = 0; k < t->formats && has(t, by); k++) {
			whit_sens_sum s = whit_sens_add(t, by, k);
			if (isnan(s.sum)) continue;
			fprintf(f, "| %s | %s | %.6f | %.6f | %.6f | %.3f |\n", whit_sens_by_name[by], t->format[k],
			        s.sum, s.joint, s.joint_se, s.joint / s.sum);
		}
	}
}

static void put_list(const whit_sens_table *t, int by, FILE *f) {
	fprintf(f,
	        "\n## %s%s\n\n| %s | format | tensors | bytes | bits/weight | mean KLD | ± | relative MSE |\n"
	        "|---|---|---|---|---|---|---|---|\n",
	        by == WHIT_BY_ALL ? "All together" : "By ", by == WHIT_BY_ALL ? "" : whit_sens_by_name[by],
	        by == WHIT_BY_ALL ? "parts" : whit_sens_by_name[by]);
	for (int64_t i = 0; i < t->n; i++) {
		const whit_sens_entry *x = &t->entry[i];
		if (x->by != by) continue;
		fprintf(f, "| %s | %s | %lld | %lld | %.4f | %.6g%s | %.2g | %.4g |\n", x->name, t->format[x->format],
		        (long long)x->tensors, (long long)x->bytes, bpw(x), x->kld, at_floor(t, x) ? " (floor)" : "",
		        x->se, x->rel_mse);
	}
}

static void put_matrix(const whit_sens_table *t, int format, FILE *f) {
	char name[24];
	grid g;
	grid_make(&g, t);
	fprintf(f, "\n## By tensor, %s: mean KLD\n\n| role |", t->format[format]);
	for (int64_t c = 0; c < g.cols; c++) fprintf(f, " %s |", col_name(g.col[c], name));
	fprintf(f, "\n|---|");
	for (int64_t c = 0; c < g.cols; c++) fprintf(f, "---|");
	for (int64_t r = 0; r < g.rows; r++) {
		fprintf(f, "\n| %s |", row_name(t, g.row[r]));
		for (int64_t c = 0; c < g.cols; c++) {
			const whit_sens_entry *x = cell(t, format, g.row[r], g.col[c]);
			if (x)
				fprintf(f, " %.3g |", x->kld);
			else
				fprintf(f, " |");
		}
	}
	fprintf(f, "\n");
	grid_free(&g);
}

char *whit_sens_markdown(const whit_sens_table *t) {
	const whit_eval_result *r = t->eval;
	whit_text_out o;
	whit_text_open(&o);
	fprintf(o.f, "# Sensitivity of `");
	whit_text_put(o.f, t->model);
	fprintf(o.f, "`\n\nMean KL divergence in nats per token of the model as it is from the model with one part "
	             "quantized. Text: `");
	whit_text_put(o.f, t->text);
	fprintf(o.f,
	        "`, %s, window %lld, stride %lld, %lld windows, %lld positions. ± is the standard error over windows "
	        "(bootstrap). ",
	        whit_eval_mode_name(r->mode), (long long)r->ctx, (long long)r->stride, (long long)r->s.chunks,
	        (long long)r->s.tokens);
	if (isfinite(r->floor_kld))
		fprintf(o.f, "Noise floor: KLD %.3g over %lld positions. ", r->floor_kld, (long long)r->floor_tokens);
	fprintf(o.f, "Fingerprint `%s`.\n\n", t->fingerprint);
	put_sums(t, o.f);
	for (int by = WHIT_BY_ROLE; by < WHIT_BYS; by++)
		if (has(t, by)) put_list(t, by, o.f);
	for (int k = 0; k < t->formats && has(t, WHIT_BY_TENSOR); k++) put_matrix(t, k, o.f);
	if (json_array_size(t->unfit))
		fprintf(o.f, "\n%zu pairs of tensor and format do not fit and were left out; the JSON names them.\n",
		        json_array_size(t->unfit));
	return whit_text_close(&o);
}

/* ---- the heat map ---- */

enum { CELL_W = 62, CELL_H = 26, LEFT = 120, HEAD = 58, PANEL_HEAD = 50, PANEL_GAP = 18, LEGEND_H = 56, STEPS = 48 };

typedef struct scale { /* of colours: decades of KLD */
	double lo, hi;
} scale;

static scale scale_of(const whit_sens_table *t) {
	scale s = {INFINITY, -INFINITY};
	for (int64_t i = 0; i < t->n; i++) {
		if (!(t->entry[i].kld > 0)) continue;
		s.lo = fmin(s.lo, log10(t->entry[i].kld));
		s.hi = fmax(s.hi, log10(t->entry[i].kld));
	}
	if (!(s.lo <= s.hi)) s = (scale){-1, 0}; /* nothing was lost anywhere */
	if (s.hi - s.lo < 1e-9) s.lo = s.hi - 1;
	return s;
}

/* 0 where nothing is lost, 1 where most is. */
static double shade(scale s, double kld) { return kld > 0 ? fmin(fmax((log10(kld) - s.lo) / (s.hi - s.lo), 0), 1) : 0; }

/* Lightness falls all the way, so that the map reads in grey too. */
static void colour(double x, char out[8]) {
	static const double stop[4][3] = {{255, 250, 224}, {250, 176, 92}, {200, 62, 78}, {70, 14, 84}};
	int i = x >= 1 ? 2 : (int)(3 * x);
	double w = 3 * x - i;
	long c[3];
	for (int k = 0; k < 3; k++) c[k] = lround(stop[i][k] * (1 - w) + stop[i + 1][k] * w);
	snprintf(out, 8, "#%02x%02x%02x", (unsigned)c[0] & 255, (unsigned)c[1] & 255, (unsigned)c[2] & 255);
}

static void put_cell(const whit_sens_table *t, scale s, const whit_sens_entry *x, int64_t left, int64_t top, FILE *f) {
	char rgb[8];
	double at = shade(s, x->kld);
	colour(at, rgb);
	fprintf(f, "<g><title>%s, %s: KLD %.6g ± %.2g, %lld bytes, %.4f bits per weight</title>", x->name,
	        t->format[x->format], x->kld, x->se, (long long)x->bytes, bpw(x));
	fprintf(f, "<rect x=\"%lld\" y=\"%lld\" width=\"%d\" height=\"%d\" fill=\"%s\"/>", (long long)left,
	        (long long)top, CELL_W - 2, CELL_H - 2, rgb);
	fprintf(f, "<text x=\"%lld\" y=\"%lld\" text-anchor=\"middle\" fill=\"%s\">%.2g</text></g>\n",
	        (long long)left + CELL_W / 2 - 1, (long long)top + 16, at > .56 ? "#ffffff" : "#1a1a1a", x->kld);
}

static void put_panel(const whit_sens_table *t, const grid *g, scale s, int format, int64_t top, FILE *f) {
	char name[24];
	fprintf(f, "<text x=\"10\" y=\"%lld\" font-size=\"15\" font-weight=\"bold\">%s</text>\n", (long long)top + 16,
	        t->format[format]);
	top += PANEL_HEAD;
	for (int64_t c = 0; c < g->cols; c++)
		fprintf(f, "<text x=\"%lld\" y=\"%lld\" text-anchor=\"middle\">%s</text>\n",
		        (long long)(LEFT + c * CELL_W + CELL_W / 2 - 1), (long long)top - 8, col_name(g->col[c], name));
	for (int64_t r = 0; r < g->rows; r++) {
		int64_t y = top + r * CELL_H;
		fprintf(f, "<text x=\"%d\" y=\"%lld\" text-anchor=\"end\">%s</text>\n", LEFT - 8, (long long)y + 16,
		        row_name(t, g->row[r]));
		for (int64_t c = 0; c < g->cols; c++) {
			const whit_sens_entry *x = cell(t, format, g->row[r], g->col[c]);
			if (x) put_cell(t, s, x, LEFT + c * CELL_W, y, f);
		}
	}
}

static void put_legend(scale s, int64_t top, FILE *f) {
	enum { STEP_W = 6 };
	char rgb[8];
	for (int i = 0; i < STEPS; i++) {
		colour((i + .5) / STEPS, rgb);
		fprintf(f, "<rect x=\"%d\" y=\"%lld\" width=\"%d\" height=\"14\" fill=\"%s\"/>\n", LEFT + i * STEP_W,
		        (long long)top, STEP_W, rgb);
	}
	for (int i = 0; i < 3; i++)
		fprintf(f, "<text x=\"%d\" y=\"%lld\" text-anchor=\"middle\">%.2g</text>\n",
		        LEFT + i * STEPS * STEP_W / 2, (long long)top + 30, pow(10, s.lo + (s.hi - s.lo) * i / 2));
	fprintf(f, "<text x=\"%d\" y=\"%lld\" text-anchor=\"end\">KLD, log</text>\n", LEFT - 24, (long long)top + 12);
}

char *whit_sens_svg(const whit_sens_table *t) {
	scale s = scale_of(t);
	whit_text_out o;
	grid g;
	grid_make(&g, t);
	int64_t panel = PANEL_HEAD + g.rows * CELL_H + PANEL_GAP, height = HEAD + t->formats * panel + LEGEND_H;
	int64_t width = WHIT_MAX(LEFT + g.cols * CELL_W + 20, 560);
	whit_text_open(&o);
	char line[64];
	snprintf(line, sizeof line, "nats per token over %lld positions", (long long)t->eval->s.tokens);
	whit_svg_open(o.f, width, height, "Sensitivity", "Mean KL divergence, one part quantized", t->model, line);
	for (int k = 0; k < t->formats; k++) put_panel(t, &g, s, k, HEAD + k * panel, o.f);
	put_legend(s, HEAD + t->formats * panel + 4, o.f);
	fprintf(o.f, "</svg>\n");
	grid_free(&g);
	return whit_text_close(&o);
}

/* ---- the short table ---- */

enum { SHOWN = 5 };

static int by_loss(const void *a, const void *b) {
	const whit_sens_entry *x = *(const whit_sens_entry *const *)a, *y = *(const whit_sens_entry *const *)b;
	return x->kld != y->kld ? x->kld < y->kld ? 1 : -1 : (x > y) - (x < y);
}

static void print_largest(const whit_sens_table *t, int by, int format, FILE *f) {
	const whit_sens_entry **x = whit_alloc((size_t)t->n * sizeof *x);
	int64_t n = 0;
	for (int64_t i = 0; i < t->n; i++)
		if (t->entry[i].by == by && t->entry[i].format == format) x[n++] = &t->entry[i];
	qsort(x, (size_t)n, sizeof *x, by_loss);
	for (int64_t i = 0; i < WHIT_MIN(n, SHOWN); i++)
		fprintf(f, "%-6s  %-18s %-40s %12lld %8.4f %10.6f %9.6f %8.2f%s\n", whit_sens_by_name[by],
		        t->format[format], x[i]->name, (long long)x[i]->bytes, bpw(x[i]), x[i]->kld, x[i]->se,
		        x[i]->seconds, at_floor(t, x[i]) ? "  at floor" : "");
	if (n > SHOWN) fprintf(f, "%-6s  %-18s and %lld more\n", "", "", (long long)(n - SHOWN));
	whit_free(x);
}

void whit_sens_print(const whit_sens_table *t, FILE *f) {
	const whit_eval_result *r = t->eval;
	fprintf(f, "text          %s: %lld tokens, %s: window %lld, stride %lld, %lld windows, %lld positions\n",
	        t->text, (long long)r->text_tokens, whit_eval_mode_name(r->mode), (long long)r->ctx,
	        (long long)r->stride, (long long)r->s.chunks, (long long)r->s.tokens);
	if (isfinite(r->floor_kld))
		fprintf(f, "noise floor   KLD %.4e over %lld positions\n", r->floor_kld, (long long)r->floor_tokens);
	fprintf(f, "\n%-6s  %-18s %-40s %12s %8s %10s %9s %8s\n", "by", "format", "largest losses", "bytes", "bpw",
	        "mean KLD", "error", "seconds");
	for (int by = 0; by < WHIT_BYS; by++)
		for (int k = 0; k < t->formats; k++) print_largest(t, by, k, f);
	fprintf(f, "\n%-6s  %-18s %12s %12s %10s %12s\n", "by", "format", "sum of KLD", "joint KLD", "error",
	        "joint / sum");
	for (int by = 0; by < WHIT_BY_ALL; by++) {
		for (int k = 0; k < t->formats; k++) {
			whit_sens_sum s = whit_sens_add(t, by, k);
			if (!isnan(s.sum))
				fprintf(f, "%-6s  %-18s %12.6f %12.6f %10.6f %12.3f\n", whit_sens_by_name[by],
				        t->format[k], s.sum, s.joint, s.joint_se, s.joint / s.sum);
		}
	}
	fflush(f);
}
