/* The picture of a ladder: whole-file bits per weight against mean KLD, decades of it, and the front. Labels are put
 * one after the other where they cover least of points, lines and each other, and once more when all are there. */
#include "eval/ladder.h"
#include "eval/markup.h"

#include <math.h>

enum { WIDTH = 960, HEIGHT = 640, LEFT = 78, RIGHT = 940, TOP = 62, BOTTOM = 584, TICKS = 40, RADIUS = 4 };
static const double text_width = 6.4, bold_width = 7.2, text_height = 13; /* of 11 px sans-serif, the widest */

typedef struct box {
	double x0, y0, x1, y1;
} box;

typedef struct mark {
	double x, y;     /* where the point is, in pixels */
	int front, low;  /* low: at the noise floor, drawn on the lower edge */
	double up, down; /* its error bar's ends; NaN = none */
	box label;
	int side;  /* of the label where the point is: 0 left, 1 middle, 2 right */
	double at; /* distance of the label; beyond a few pixels a line leads there */
	char *text;
	const whit_ladder_entry *entry;
} mark;

typedef struct plot {
	double x0, x1, y0, y1; /* bits, and decades of KLD */
	mark *m;
	int n, *line; /* line: marks of the front from left to right */
	int n_line;
} plot;

static double px(const plot *p, double bits) { return LEFT + (bits - p->x0) / (p->x1 - p->x0) * (RIGHT - LEFT); }
static double py(const plot *p, double decade) { return BOTTOM - (decade - p->y0) / (p->y1 - p->y0) * (BOTTOM - TOP); }

/* ---- axes ---- */

/* Room on both sides of lo..hi, and for a single value some. */
static void widen(double *lo, double *hi, double share, double least) {
	if (!(*lo <= *hi)) *lo = *hi = 0; /* nothing to show */
	double room = fmax((*hi - *lo) * share, least);
	*lo -= room;
	*hi += room;
}

static void find_range(plot *p, const whit_ladder *t) {
	p->x0 = p->y0 = INFINITY;
	p->x1 = p->y1 = -INFINITY;
	for (int i = 0; i < t->n; i++) {
		double bits = whit_ladder_mean(&t->entry[i], WHIT_RUN_BPW_FILE),
		       kld = whit_ladder_mean(&t->entry[i], WHIT_RUN_KLD);
		p->x0 = fmin(p->x0, bits);
		p->x1 = fmax(p->x1, bits);
		if (whit_ladder_at_floor(t, &t->entry[i])) continue;
		p->y0 = fmin(p->y0, log10(kld));
		p->y1 = fmax(p->y1, log10(kld));
	}
	widen(&p->x0, &p->x1, .06, .1);
	widen(&p->y0, &p->y1, .06, .1);
}

/* 1, 2 or 5 times a power of ten, so that about ten of them fit. */
static double nice_step(double range) {
	double step = pow(10, floor(log10(range / 10)));
	return range / step > 50 ? 10 * step : range / step > 20 ? 5 * step : range / step > 10 ? 2 * step : step;
}

static void put_x_axis(const plot *p, FILE *f) {
	double step = nice_step(p->x1 - p->x0);
	for (int i = 0; i < TICKS; i++) {
		double bits = (ceil(p->x0 / step) + i) * step, x = px(p, bits);
		if (bits > p->x1) break;
		whit_svg_line(f, x, TOP, x, BOTTOM, "#e4e4e4", NULL);
		fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n", x, BOTTOM + 18, bits);
	}
	fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">bits per weight, whole file</text>\n",
	        (LEFT + RIGHT) / 2, BOTTOM + 42);
}

/* Lines at 1, 2 and 5 times each power of ten, numbers at all of them where there is room. */
static void put_y_axis(const plot *p, FILE *f) {
	static const double step[3] = {1, 2, 5};
	int all = p->y1 - p->y0 < 4;
	for (int d = (int)floor(p->y0); d <= (int)floor(p->y1); d++) {
		for (int k = 0; k < 3; k++) {
			double decade = d + log10(step[k]), y = py(p, decade);
			if (decade < p->y0 || decade > p->y1) continue;
			whit_svg_line(f, LEFT, y, RIGHT, y, k ? "#f0f0f0" : "#d4d4d4", NULL);
			if (!k || all)
				fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT - 8,
				        y + 4, step[k] * pow(10, d));
		}
	}
	fprintf(f,
	        "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">mean KL divergence, nats per "
	        "token</text>\n",
	        (TOP + BOTTOM) / 2);
}

/* ---- labels ---- */

static double overlap(const box *a, const box *b) {
	double w = fmin(a->x1, b->x1) - fmax(a->x0, b->x0), h = fmin(a->y1, b->y1) - fmax(a->y0, b->y0);
	return w > 0 && h > 0 ? w * h : 0;
}

/* Whether a segment passes through a box: what is left of it between the box's four sides. */
static int crosses(const box *b, double x0, double y0, double x1, double y1) {
	const double from[4] = {x0 - b->x0, b->x1 - x0, y0 - b->y0, b->y1 - y0};
	const double step[4] = {x1 - x0, x0 - x1, y1 - y0, y0 - y1};
	double lo = 0, hi = 1;
	for (int i = 0; i < 4; i++) {
		if (step[i] == 0 && from[i] < 0) return 0;
		if (step[i] > 0) lo = fmax(lo, -from[i] / step[i]);
		if (step[i] < 0) hi = fmin(hi, -from[i] / step[i]);
	}
	return lo < hi;
}

/* The point of a label that is nearest to its mark. */
static void foot(const mark *m, double *x, double *y) {
	*x = fmin(fmax(m->x, m->label.x0), m->label.x1);
	*y = fmin(fmax(m->y, m->label.y0), m->label.y1);
}

static int leads(const mark *m) { return m->at > 14; }

/* What it costs to have mark i's label where it is: the others' being where they are, those not yet put nowhere. */
static double cost(const plot *p, int i) {
	const mark *m = &p->m[i];
	const box *b = &m->label, paper = {LEFT + 2, TOP + 2, RIGHT - 2, BOTTOM - 2};
	double sum = m->at * .5, x, y, area = (b->x1 - b->x0) * (b->y1 - b->y0);
	sum += 20 * (area - overlap(b, &paper));
	foot(m, &x, &y);
	for (int k = 0; k < p->n; k++) {
		const mark *o = &p->m[k];
		const box dot = {o->x - RADIUS - 2, o->y - RADIUS - 2, o->x + RADIUS + 2, o->y + RADIUS + 2};
		double ox, oy;
		if (overlap(b, &dot) > 0) sum += 150 + overlap(b, &dot);
		if (k == i) continue;
		if (leads(m) && crosses(&dot, m->x, m->y, x, y)) sum += 60;
		sum += overlap(b, &o->label) > 0 ? 200 + 3 * overlap(b, &o->label) : 0;
		if (leads(m) && o->label.x1 > o->label.x0 && crosses(&o->label, m->x, m->y, x, y)) sum += 200;
		foot(o, &ox, &oy);
		if (leads(o) && crosses(b, o->x, o->y, ox, oy)) sum += 200;
	}
	for (int k = 1; k < p->n_line; k++) {
		const mark *a = &p->m[p->line[k - 1]], *c = &p->m[p->line[k]];
		if (crosses(b, a->x, a->y, c->x, c->y)) sum += 90;
	}
	return sum;
}

/* A label at distance r in the direction (c, s). */
static void put_label(mark *m, double r, double c, double s) {
	double w = (double)strlen(m->text) * (m->front ? bold_width : text_width), x = m->x + r * c, y = m->y + r * s;
	double left = c > .5 ? x : c < -.5 ? x - w : x - w / 2 + c * w / 2;
	double top = s > .5 ? y : s < -.5 ? y - text_height : y - text_height / 2 + s * text_height;
	m->label = (box){left, top, left + w, top + text_height};
	m->at = r;
	m->side = c > .5 ? 0 : c < -.5 ? 2 : 1;
}

static void find_label(plot *p, int i) {
	/* right and left first: what comes first wins a tie */
	static const double way[16][2] = {{1, 0},        {-1, 0},        {.707, -.707}, {-.707, .707},
	                                  {.707, .707},  {-.707, -.707}, {0, -1},       {0, 1},
	                                  {.924, -.383}, {-.924, .383},  {.924, .383},  {-.924, -.383},
	                                  {.383, -.924}, {-.383, .924},  {.383, .924},  {-.383, -.924}};
	static const double distance[] = {9, 13, 22, 32, 44, 58, 74, 92, 112, 134};
	mark best = {.at = 0}, *m = &p->m[i];
	double least = INFINITY;
	for (int r = 0; r < WHIT_COUNT(distance); r++) {
		for (int k = 0; k < 16; k++) {
			put_label(m, distance[r], way[k][0], way[k][1]);
			double c = cost(p, i) + .05 * k;
			if (c < least) least = c, best = *m;
		}
	}
	*m = best;
}

/* ---- the points ---- */

static void make_marks(plot *p, const whit_ladder *t) {
	for (int i = 0; i < t->n; i++) {
		const whit_ladder_entry *x = &t->entry[i];
		mark *m = &p->m[i];
		double kld = whit_ladder_mean(x, WHIT_RUN_KLD),
		       off = x->n > 1 ? whit_ladder_sd(x, WHIT_RUN_KLD) : whit_ladder_mean(x, WHIT_RUN_KLD_SE);
		*m = (mark){.x = px(p, whit_ladder_mean(x, WHIT_RUN_BPW_FILE)),
		            .front = whit_ladder_front(t, i),
		            .low = whit_ladder_at_floor(t, x),
		            .entry = x,
		            .up = NAN,
		            .down = NAN};
		m->y = m->low ? BOTTOM : py(p, log10(kld));
		m->text = whit_format_text(m->low ? "%s: at floor" : "%s", x->label);
		if (m->low || !(off > 0)) continue;
		m->up = fmax(py(p, log10(kld + off)), TOP);
		m->down = kld > off ? fmin(py(p, log10(kld - off)), BOTTOM) : BOTTOM;
	}
}

static void make_line(plot *p) {
	for (int i = 0; i < p->n; i++) {
		if (!p->m[i].front) continue;
		int at = p->n_line++;
		for (; at > 0 && p->m[p->line[at - 1]].x > p->m[i].x; at--) p->line[at] = p->line[at - 1];
		p->line[at] = i;
	}
}

static void put_front(const plot *p, FILE *f) {
	fprintf(f, "<polyline fill=\"none\" stroke=\"#c83e4e\" stroke-width=\"1.5\" points=\"");
	for (int i = 0; i < p->n_line; i++)
		fprintf(f, "%s%.1f,%.1f", i ? " " : "", p->m[p->line[i]].x, p->m[p->line[i]].y);
	fprintf(f, "\"/>\n");
}

static void put_dot(FILE *f, double x, double y, int front) {
	fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%d\" fill=\"%s\" stroke=\"%s\"/>", x, y, RADIUS,
	        front ? "#c83e4e" : "#ffffff", front ? "#c83e4e" : "#5a6b8c");
}

static void put_mark(const mark *m, FILE *f) {
	const whit_ladder_entry *x = m->entry;
	fprintf(f, "<g><title>");
	whit_text_put(f, x->label);
	fprintf(f, ": KLD %.6g ± %.2g, %.4f bits per weight, %.0f bytes, perplexity %.4f</title>",
	        whit_ladder_mean(x, WHIT_RUN_KLD), whit_ladder_mean(x, WHIT_RUN_KLD_SE),
	        whit_ladder_mean(x, WHIT_RUN_BPW_FILE), whit_ladder_mean(x, WHIT_RUN_BYTES),
	        whit_ladder_mean(x, WHIT_RUN_PPL));
	if (isfinite(m->up)) whit_svg_line(f, m->x, m->up, m->x, m->down, m->front ? "#c83e4e" : "#5a6b8c", NULL);
	put_dot(f, m->x, m->y, m->front);
	fprintf(f, "</g>\n");
}

static void put_name(const mark *m, FILE *f) {
	static const char *const anchor[3] = {"start", "middle", "end"};
	const box *b = &m->label;
	double x, y;
	foot(m, &x, &y);
	if (leads(m)) whit_svg_line(f, m->x, m->y, x, y, "#b0b0b0", NULL);
	/* white behind the letters, so that lines do not touch them */
	fprintf(f,
	        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"11\"%s paint-order=\"stroke\" "
	        "stroke=\"#ffffff\" stroke-width=\"3\" stroke-linejoin=\"round\">",
	        b->x0 + (b->x1 - b->x0) * m->side / 2, b->y1 - 3, anchor[m->side],
	        m->front ? " font-weight=\"bold\"" : "");
	whit_text_put(f, m->text);
	fprintf(f, "</text>\n");
}

static void put_legend(FILE *f) {
	put_dot(f, RIGHT - 196, 38, 1);
	fprintf(f, "<text x=\"%d\" y=\"42\">on the front</text>\n", RIGHT - 186);
	put_dot(f, RIGHT - 96, 38, 0);
	fprintf(f, "<text x=\"%d\" y=\"42\">behind it</text>\n", RIGHT - 86);
}

char *whit_ladder_svg(const whit_ladder *t) {
	plot p = {.m = whit_alloc((size_t)t->n * sizeof *p.m),
	          .line = whit_alloc((size_t)t->n * sizeof *p.line),
	          .n = t->n};
	char line[96];
	whit_text_out o;
	find_range(&p, t);
	make_marks(&p, t);
	make_line(&p);
	for (int pass = 0; pass < 6; pass++)
		for (int i = 0; i < p.n; i++) find_label(&p, i);
	whit_text_open(&o);
	snprintf(line, sizeof line, "%s, window %.0f, %.0f positions", t->mode, whit_ladder_text(t, WHIT_RUN_CTX),
	         whit_ladder_text(t, WHIT_RUN_POSITIONS));
	whit_svg_open(o.f, WIDTH, HEIGHT, "Ladder", "Loss against size", t->model, line);
	put_x_axis(&p, o.f);
	put_y_axis(&p, o.f);
	fprintf(o.f, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#8a8a8a\"/>\n", LEFT,
	        TOP, RIGHT - LEFT, BOTTOM - TOP);
	put_front(&p, o.f);
	for (int i = 0; i < p.n; i++) put_name(&p.m[i], o.f);
	for (int i = 0; i < p.n; i++) put_mark(&p.m[i], o.f);
	put_legend(o.f);
	fprintf(o.f, "</svg>\n");
	for (int i = 0; i < p.n; i++) whit_free(p.m[i].text);
	whit_free(p.m);
	whit_free(p.line);
	return whit_text_close(&o);
}
