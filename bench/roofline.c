/* roofline: the picture of one file of `whit bench --json`: each case's rate against its operations per byte, under the
 * run's own roofs: what its copy (and read) bandwidth allows, and the best rate that the BLAS reached in the same run.
 */
#include <math.h>
#include "bench/run.h"
#include "eval/markup.h"
#include "formats/json.h"

enum { WIDTH = 960, HEIGHT = 640, LEFT = 78, RIGHT = 760, TOP = 62, BOTTOM = 584, KINDS = 12 };

static const char *const colours[KINDS] = {"#2f5fb3", "#c83e4e", "#2e8b57", "#b8860b", "#7b4fa6", "#1f9aa8",
                                           "#d2691e", "#6b6b6b", "#a0396b", "#4d7c0f", "#8b5a2b", "#3b3b8f"};

typedef struct point {
	double intensity, rate; /* operations a byte, and a second */
	int kind;
	const char *name;
} point;

typedef struct plot {
	point *p;
	int n, wrong, n_kind;
	char kind[KINDS][24]; /* the second word of a case: its format; the last stands for all others */
	double copy, read, blas;
	double x0, x1, y0, y1; /* decades */
} plot;

static double number(const json_t *j, const char *key) {
	const json_t *v = json_object_get(j, key);
	return json_is_number(v) ? json_number_value(v) : NAN;
}

static int kind_of(plot *p, const char *name) {
	char word[24] = "";
	const char *at = strchr(name, ' ');
	if (at) sscanf(at + 1, "%23s", word);
	for (int i = 0; i < p->n_kind; i++)
		if (!strcmp(p->kind[i], word)) return i;
	if (p->n_kind == KINDS) return KINDS - 1;
	snprintf(p->kind[p->n_kind], sizeof p->kind[0], "%s", p->n_kind == KINDS - 1 ? "others" : word);
	return p->n_kind++;
}

/* Cases that count operations and bytes; a wrong one has no rate. */
static void take_rows(plot *p, const json_t *rows) {
	size_t i;
	json_t *row;
	p->p = whit_alloc((json_array_size(rows) + 1) * sizeof *p->p);
	json_array_foreach(rows, i, row) {
		const char *name = json_string_value(json_object_get(row, "case"));
		double bytes = number(row, "bytes_per_s"), flops = number(row, "flops"), C = number(row, "C");
		p->wrong += json_is_true(json_object_get(row, "wrong"));
		if (!name || !(bytes > 0) || !(flops > 0)) continue;
		p->p[p->n++] = (point){flops / bytes, flops, kind_of(p, name), name};
		if (C > 0) p->blas = fmax(p->blas, flops / C);
	}
}

static void find_range(plot *p) {
	p->x0 = p->y0 = INFINITY, p->x1 = p->y1 = -INFINITY;
	for (int i = 0; i < p->n; i++) {
		double x = log10(p->p[i].intensity), y = log10(p->p[i].rate);
		p->x0 = fmin(p->x0, x), p->x1 = fmax(p->x1, x);
		p->y0 = fmin(p->y0, y);
		p->y1 = fmax(p->y1, fmax(y, x + log10(p->copy))); /* the roof is seen, however far */
	}
	if (p->blas > 0) p->y1 = fmax(p->y1, log10(p->blas));
	p->x0 = floor(4 * p->x0) / 4 - .25, p->x1 = ceil(4 * p->x1) / 4 + .25;
	p->y0 = floor(4 * p->y0) / 4 - .25, p->y1 = ceil(4 * p->y1) / 4 + .25;
}

static double px(const plot *p, double x) { return LEFT + (x - p->x0) / (p->x1 - p->x0) * (RIGHT - LEFT); }
static double py(const plot *p, double y) { return BOTTOM - (y - p->y0) / (p->y1 - p->y0) * (BOTTOM - TOP); }

static void put_axes(const plot *p, FILE *f) {
	for (int axis = 0; axis < 2; axis++) {
		double lo = axis ? p->y0 : p->x0, hi = axis ? p->y1 : p->x1;
		for (int decade = (int)ceil(lo); decade <= hi; decade++) {
			if (axis) {
				double y = py(p, decade);
				whit_svg_line(f, LEFT, y, RIGHT, y, "#e4e4e4", "none");
				fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">1e%d</text>\n", LEFT - 6,
				        y + 4, decade);
			} else {
				double x = px(p, decade);
				whit_svg_line(f, x, TOP, x, BOTTOM, "#e4e4e4", "none");
				fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", x,
				        BOTTOM + 18, pow(10, decade));
			}
		}
	}
	fprintf(f,
	        "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#808080\"/>\n"
	        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">operations per byte</text>\n"
	        "<text x=\"%d\" y=\"%d\">operations per second</text>\n",
	        LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP, (LEFT + RIGHT) / 2, BOTTOM + 40, LEFT, TOP - 6);
}

/* The part of y = x + bandwidth, in decades, that is inside. */
static void put_bandwidth(const plot *p, FILE *f, double bandwidth, const char *name, int left) {
	double b = log10(bandwidth), lo = fmax(p->x0, p->y0 - b), hi = fmin(p->x1, p->y1 - b);
	if (!(bandwidth > 0) || !(lo < hi)) return;
	whit_svg_line(f, px(p, lo), py(p, lo + b), px(p, hi), py(p, hi + b), "#303030", left ? "none" : "4 4");
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"#303030\">%s %.4g GB/s</text>\n",
	        px(p, hi) + (left ? -16 : 2), py(p, hi + b) + 14, left ? "end" : "start", name, bandwidth / 1e9);
}

static void put_points(const plot *p, FILE *f) {
	for (int i = 0; i < p->n; i++) {
		fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\" fill-opacity=\"0.75\"><title>",
		        px(p, log10(p->p[i].intensity)), py(p, log10(p->p[i].rate)), colours[p->p[i].kind]);
		whit_text_put(f, p->p[i].name);
		fprintf(f, ": %.4g operations a second, %.3g of the copy roof's</title></circle>\n", p->p[i].rate,
		        p->p[i].rate / (p->p[i].intensity * p->copy));
	}
	for (int i = 0; i < p->n_kind; i++) {
		fprintf(f, "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">", RIGHT + 20,
		        TOP + 10 + 20 * i, colours[i], RIGHT + 32, TOP + 14 + 20 * i);
		whit_text_put(f, p->kind[i]);
		fprintf(f, "</text>\n");
	}
}

static char *draw(plot *p, const char *device, const char *line) {
	whit_text_out o;
	whit_text_open(&o);
	whit_svg_open(o.f, WIDTH, HEIGHT, "Roofline", "Cases under the roofs of their own run", device, line);
	put_axes(p, o.f);
	put_bandwidth(p, o.f, p->copy, "copy", 1);
	put_bandwidth(p, o.f, p->read, "read", 0);
	if (p->blas > 0) {
		double y = py(p, log10(p->blas));
		whit_svg_line(o.f, LEFT, y, RIGHT, y, "#303030", "none");
		fprintf(o.f, "<text x=\"%d\" y=\"%.1f\" fill=\"#303030\">BLAS %.4g G/s</text>\n", LEFT + 6, y - 4,
		        p->blas / 1e9);
	}
	put_points(p, o.f);
	fprintf(o.f, "</svg>\n");
	return whit_text_close(&o);
}

int bench_roofline(const char *run, const char *to, whit_err *e) {
	json_t *j;
	plot p = {0};
	int rc = whit_json_load(&j, run, e);
	if (rc) return rc;
	const json_t *rows = json_object_get(j, "rows"), *device = json_object_get(j, "device"),
	             *date = json_object_get(j, "date");
	const json_t *roofs = json_object_get(j, "roofs");
	if (!roofs) roofs = j; /* files of before 2026-11-27 */
	p.copy = number(roofs, "copy_bytes_per_s"), p.read = number(roofs, "read_bytes_per_s");
	take_rows(&p, rows);
	if (!p.n || !(p.copy > 0))
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: has %d cases with operations and bytes, and a copy roof of %g; need "
		               "a file of whit bench --json",
		               run, p.n, p.copy);
	if (!rc) {
		whit_out out;
		char line[160];
		find_range(&p);
		snprintf(line, sizeof line, "%.40s%s%d cases%s", json_is_string(date) ? json_string_value(date) : "",
		         json_is_string(date) ? ", " : "", p.n,
		         json_is_true(json_object_get(j, "drift")) ? ", ROOFS DRIFTED" : "");
		char *svg = draw(&p, json_is_string(device) ? json_string_value(device) : "device untold", line);
		rc = whit_out_open(&out, to, e);
		if (!rc && (rc = whit_out_write(&out, svg, strlen(svg), e)))
			whit_out_abort(&out);
		else if (!rc)
			rc = whit_out_commit(&out, e);
		whit_free(svg);
	}
	if (!rc) printf("%s: %d cases%s\n", to, p.n, p.wrong ? ", wrong ones left out" : "");
	whit_free(p.p);
	json_decref(j);
	return rc;
}
