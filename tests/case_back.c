/* back: gradients of the ops against the plain CPU's, which tests/test_back.c and test_grad.c hold against differences.
 * Every result is added to what was there. */
#include <math.h>
#include "formats/rotation.h"
#include "tests/case_mat.h"
#include "tests/case_spans.h"

/* A gradient: what is there before, the plain CPU's sum, what may be lost, and the target's. */
typedef struct grad {
	float *want, *mag, *out;
	int64_t n;
} grad;

static grad grad_make(case_run *r, int64_t n) {
	grad g = {case_normal(r, n), case_host(r, (size_t)(n + 1) * sizeof(float)), NULL, n};
	for (int64_t i = 0; i < n; i++) g.mag[i] = fabsf(g.want[i]);
	g.out = case_inout(r, g.want, n);
	return g;
}

/* Magnitudes are of all terms of a sum, what was there included; tol in units of 2^-24. */
static void grad_check(case_run *r, const grad *g, double tol) {
	case_near(r, g->out, g->want, g->mag, g->n, tol * 0x1p-24);
}

static const float *input(case_run *r, const float *x, int64_t n) { return case_in(r, x, (size_t)n * sizeof *x); }

static float *absolute(case_run *r, const float *x, int64_t n) {
	float *a = case_host(r, (size_t)(n + 1) * sizeof *a);
	for (int64_t i = 0; i < n; i++) a[i] = fabsf(x[i]);
	return a;
}

/* ---- what goes element by element, and norms ---- */

enum { NORM, ROPE, SWIGLU, EMBED };
static const struct {
	int kind;
	int64_t T, heads, dim, rot; /* rot: of EMBED the vocabulary */
} rows[] = {{NORM, 1, 1, 1, 0},     {NORM, 5, 3, 7, 0},       {NORM, 3, 1, 300, 0},       {NORM, 9, 2, 64, 0},
            {NORM, 0, 1, 8, 0},     {NORM, 512, 1, 5120, 0},  {ROPE, 3, 2, 8, 4},         {ROPE, 5, 1, 64, 64},
            {ROPE, 2, 3, 7, 0},     {ROPE, 7, 2, 256, 64},    {ROPE, 512, 24, 256, 64},   {SWIGLU, 1, 1, 1, 0},
            {SWIGLU, 3, 1, 333, 0}, {SWIGLU, 0, 1, 8, 0},     {SWIGLU, 512, 1, 17408, 0}, {EMBED, 9, 1, 33, 5},
            {EMBED, 0, 1, 8, 3},    {EMBED, 512, 1, 1024, 50}};

/* Sums of dim terms: a sixteenth one after another and a tree (the CPU; a device's threads have fewer), and the
 * handful of roundings of each term. */
static double norm_loss(int64_t dim) { return (double)dim / 16 + 20; }

static void norm(case_run *r, int64_t T, int64_t n, int64_t dim) {
	int64_t all = T * n * dim;
	float *x = case_normal(r, all), *dy = case_normal(r, all), *w = case_normal(r, dim), eps = 1e-5f, shift = 1;
	grad dx = grad_make(r, all), dw = grad_make(r, dim);
	whit_arena scratch = {0};
	for (int64_t k = 0; k < T * n; k++) {
		double sq = 0, dot = 0;
		for (int64_t i = k * dim; i < (k + 1) * dim; i++) {
			sq += (double)x[i] * x[i];
			dot += fabs((double)dy[i] * x[i] * (w[i - k * dim] + shift));
		}
		double s = 1 / sqrt(sq / (double)dim + eps);
		for (int64_t i = 0; i < dim; i++) {
			int64_t at = k * dim + i;
			dx.mag[at] += (float)(s * fabs((w[i] + shift) * dy[at]) +
			                      s * s * s * dot / (double)dim * fabs(x[at]));
			dw.mag[i] += (float)(s * fabs((double)x[at] * dy[at]));
		}
	}
	whit_rmsnorm_back_cpu(dx.want, dw.want, dy, x, w, T, n, dim, eps, shift);
	const float *tdy = input(r, dy, all), *tx = input(r, x, all), *tw = input(r, w, dim);
	if (r->dev)
		whit_rmsnorm_back_cuda(r->dev, dx.out, dw.out, tdy, tx, tw, T, n, dim, eps, shift);
	else
		whit_rmsnorm_back_fast_cpu(dx.out, dw.out, tdy, tx, tw, T, n, dim, eps, shift, &scratch);
	grad_check(r, &dx, norm_loss(dim));
	grad_check(r, &dw, norm_loss(dim));
	whit_arena_free(&scratch);
}

static void rope(case_run *r, int64_t T, int64_t heads, int64_t dim, int64_t rot) {
	int64_t n = T * heads * dim, *pos = case_host(r, (size_t)(T + 1) * sizeof *pos);
	float *dy = case_normal(r, n);
	double *freq = case_host(r, (size_t)(rot / 2 + 1) * sizeof *freq), mscale = 1.25;
	grad dx = grad_make(r, n);
	for (int64_t t = 0; t < T; t++) pos[t] = t * t * 331;
	for (int64_t k = 0; k < rot / 2; k++) freq[k] = pow(10000, -2.0 * (double)k / (double)rot);
	for (int64_t k = 0; k < n; k++) {
		int64_t at = k % dim, other = at < rot / 2 ? k + rot / 2 : k - rot / 2;
		dx.mag[k] += at < rot ? (float)mscale * (fabsf(dy[k]) + fabsf(dy[other])) : fabsf(dy[k]);
	}
	whit_rope_back_cpu(dx.want, dy, pos, T, heads, dim, rot, freq, mscale);
	const float *tdy = input(r, dy, n);
	const int64_t *tpos = case_in(r, pos, (size_t)T * sizeof *pos);
	const double *tfreq = case_in(r, freq, (size_t)(rot / 2) * sizeof *freq);
	if (r->dev)
		whit_rope_back_cuda(r->dev, dx.out, tdy, tpos, T, heads, dim, rot, tfreq, mscale);
	else
		whit_rope_back_fast_cpu(dx.out, tdy, tpos, T, heads, dim, rot, tfreq, mscale);
	grad_check(r, &dx, 1.6 + 4 + 2 + 5); /* as tests/case_rope.c, and the addition */
}

/* exp's 3 ulp and a dozen roundings; silu / g on the CPU loses no more. */
static void swiglu(case_run *r, int64_t n) {
	float *gate = case_normal(r, n), *up = case_normal(r, n), *dy = case_normal(r, n);
	grad dg = grad_make(r, n), du = grad_make(r, n);
	for (int64_t i = 0; i < n; i++) {
		if (i % 5 == 0) gate[i] *= i % 10 ? 30 : 0;
		double g = gate[i], s = 1 / (1 + exp(-g));
		dg.mag[i] += (float)(fabs((double)dy[i] * up[i]) * s * (1 + fabs(g) * (1 - s)));
		du.mag[i] += (float)(fabs(dy[i] * g) * s);
	}
	whit_swiglu_back_cpu(dg.want, du.want, dy, gate, up, n);
	const float *tdy = input(r, dy, n), *tg = input(r, gate, n), *tu = input(r, up, n);
	if (r->dev)
		whit_swiglu_back_cuda(r->dev, dg.out, du.out, tdy, tg, tu, n);
	else
		whit_swiglu_back_fast_cpu(dg.out, du.out, tdy, tg, tu, n);
	grad_check(r, &dg, 24);
	grad_check(r, &du, 24);
}

static void embed(case_run *r, int64_t T, int64_t dim, int64_t vocab) {
	float *dy = case_normal(r, T * dim), *want = case_normal(r, vocab * dim),
	      *out = case_inout(r, want, vocab * dim);
	int32_t *tokens = case_host(r, (size_t)(T + 1) * sizeof *tokens);
	for (int64_t t = 0; t < T; t++) tokens[t] = (int32_t)(t * t % vocab);
	whit_embed_back_cpu(want, dy, tokens, T, dim);
	const float *tdy = input(r, dy, T * dim);
	const int32_t *tt = case_in(r, tokens, (size_t)T * sizeof *tokens);
	if (r->dev)
		whit_embed_back_cuda(r->dev, out, tdy, tt, T, dim, vocab);
	else
		whit_embed_back_cpu(out, tdy, tt, T, dim);
	case_same(r, out, want, vocab * dim);
}

static void row(case_run *r, int i) {
	static const char *const names[] = {"rmsnorm", "rope", "swiglu", "embed"};
	int64_t T = rows[i].T, heads = rows[i].heads, dim = rows[i].dim, rot = rows[i].rot;
	case_label(r, "%s %lld x %lld x %lld", names[rows[i].kind], (long long)T, (long long)heads, (long long)dim);
	if (case_skip_big(r, T * heads * dim > 100000)) return;
	if (rows[i].kind == NORM) norm(r, T, heads, dim);
	if (rows[i].kind == ROPE) rope(r, T, heads, dim, rot);
	if (rows[i].kind == SWIGLU) swiglu(r, T * dim);
	if (rows[i].kind == EMBED) embed(r, T, dim, rot);
}

const case_set cases_back = {"back", WHIT_COUNT(rows), row, 0};

/* ---- linear ---- */

static const struct {
	const char *format;
	int64_t rows, width, T, paired;
	int rotated;
} linears[] = {{"f32", 5, 33, 3, 0, 0},        {"bf16", 12, 100, 9, 6, 0},  {"f16", 40, 130, 33, 0, 0},
               {"tq4g128", 7, 256, 9, 0, 1},   {"tq2g64", 5, 64, 1, 0, 0},  {"int4g128", 12, 300, 8, 6, 0},
               {"q4_k", 3, 512, 9, 0, 0},      {"q8_0", 12, 96, 5, 6, 0},   {"bf16", 1, 1, 2, 0, 0},
               {"f32", 3, 16, 0, 0, 0},        {"bf16", 300, 70, 20, 0, 0}, {"bf16", 3584, 1024, 512, 0, 0},
               {"q4_k", 3584, 1024, 512, 0, 0}};

static void linear_row(case_run *r, int i) {
	int64_t R = linears[i].rows, K = linears[i].width, T = linears[i].T;
	case_label(r, "%s, %lld of %lld x %lld%s%s", linears[i].format, (long long)T, (long long)R, (long long)K,
	           linears[i].paired ? ", paired" : "", linears[i].rotated ? ", rotated" : "");
	if (case_skip_big(r, R * K > 200000)) return;
	whit_mat m = case_mat(r, linears[i].format, R, K, 1);
	whit_rotation *rot = NULL;
	whit_err e;
	m.paired = linears[i].paired;
	if (linears[i].rotated) {
		whit_rotation_spec s = {.kind = WHIT_ROT_HADAMARD, .seed = 5, .dim = K, .block = 128, .base = 1};
		if (whit_rotation_new(&rot, &s, NULL, &e)) return case_fail(r, "%s", e.text);
		m.rot = rot;
	}
	float *dy = case_normal(r, T * R), *x = case_normal(r, T * K),
	      *w = case_host(r, (size_t)(R * K + 1) * sizeof *w);
	whit_mat_decode(&m, 0, R, w);
	double largest = 0;
	for (int64_t k = 0; k < R * K; k++) largest = fmax(largest, fabs((double)w[k]));
	grad dx = grad_make(r, T * K), dw = grad_make(r, R * K), db = grad_make(r, R);
	for (int64_t t = 0; t < T; t++)
		for (int64_t o = 0; o < R; o++)
			for (int64_t k = 0; k < K; k++) {
				/* a rotation mixes a row: then the largest weight bounds them all */
				double v = linears[i].rotated ? largest : fabs((double)w[o * K + k]);
				dx.mag[t * K + k] += (float)(fabs((double)dy[t * R + o]) * v);
				dw.mag[o * K + k] += fabsf(dy[t * R + o] * x[t * K + k]);
				if (!k) db.mag[o] += fabsf(dy[t * R + o]);
			}
	whit_linear_back_cpu(dx.want, dy, T, &m);
	whit_linear_grad_cpu(dw.want, db.want, dy, x, T, R, K);
	whit_mat tm = case_mat_in(r, &m);
	const float *tdy = input(r, dy, T * R), *tx = input(r, x, T * K);
	whit_arena scratch = {0};
	if (r->dev) {
		whit_linear_back_cuda(r->dev, dx.out, tdy, T, &tm);
		whit_linear_grad_cuda(r->dev, dw.out, db.out, tdy, tx, T, R, K);
	} else {
		whit_linear_back_fast_cpu(dx.out, tdy, T, &tm, &scratch);
		whit_linear_grad_fast_cpu(dw.out, db.out, tdy, tx, T, R, K, &scratch);
	}
	/* float sums of R and of T terms; a rotation adds its own, a tree of log2 128 and its signs' scale */
	grad_check(r, &dx, (double)WHIT_MIN(R, 256) + (double)R / 256 + (linears[i].rotated ? 16 : 4));
	grad_check(r, &dw, (double)T + 4);
	grad_check(r, &db, 4);
	whit_arena_free(&scratch);
	whit_rotation_free(rot);
}

const case_set cases_linear_back = {"linear_back", WHIT_COUNT(linears), linear_row, 0};

/* ---- attention ---- */

static const struct {
	int64_t heads, kv_heads, dim, len[SPANS], window;
	float size; /* of the scores */
} attentions[] = {{1, 1, 1, {1, -1}, 0, 1},      {2, 1, 7, {5, 0, 3, -1}, 0, 1},  {4, 2, 16, {33, -1}, 0, 4},
                  {4, 1, 64, {9, 20, -1}, 6, 1}, {3, 3, 80, {70, -1}, 0, 1},      {2, 1, 256, {12, -1}, 5, 2},
                  {2, 2, 300, {6, -1}, 0, 1},    {4, 2, 8, {130, 3, -1}, 100, 1}, {16, 8, 128, {512, -1}, 0, 1}};

static void attention_row(case_run *r, int i) {
	static const int64_t none[SPANS] = {0};
	int64_t H = attentions[i].heads, G = attentions[i].kv_heads, dim = attentions[i].dim,
	        window = attentions[i].window;
	case_spans b;
	case_spans_make(r, &b, attentions[i].len, none);
	int64_t n = b.T * H * dim, m = b.T * G * dim;
	case_label(r, "%lld tokens, %lld of %lld x %lld%s", (long long)b.T, (long long)H, (long long)G, (long long)dim,
	           window ? ", window" : "");
	if (case_skip_big(r, b.T > 200)) return;
	float *q = case_normal(r, n), *k = case_normal(r, m), *v = case_normal(r, m), *dy = case_normal(r, n),
	      *y = case_host(r, (size_t)(n + 1) * sizeof *y), scale = (float)(attentions[i].size / sqrt((double)dim));
	grad dq = grad_make(r, n), dk = grad_make(r, m), dv = grad_make(r, m);
	float *aq = absolute(r, q, n), *ak = absolute(r, k, m), *ady = absolute(r, dy, n), *av = absolute(r, v, m);
	double most = 0;
	for (int s = 0; s < b.n_seq; s++) {
		int64_t at = b.start[s] * H * dim, kat = b.start[s] * G * dim, T = b.start[s + 1] - b.start[s];
		whit_attention_cpu(y + at, q + at, k + kat, v + kat, T, 0, H, G, dim, scale, window);
		whit_attention_back_cpu(dq.want + at, dk.want + kat, dv.want + kat, dy + at, y + at, q + at, k + kat,
		                        v + kat, T, H, G, dim, scale, window);
		/* every term's magnitude, p at its true value: sums over keys and queries of absolute values */
		for (int64_t t = 0; t < T; t++)
			for (int64_t h = 0; h < H; h++) {
				int64_t g = h / (H / G) * dim, qa = at + (t * H + h) * dim;
				int64_t begin = window && t + 1 > window ? t + 1 - window : 0;
				double top = -INFINITY, sum = 0, *p = case_host(r, (size_t)(T + 1) * sizeof *p),
				       bound = 0;
				for (int64_t j = begin; j <= t; j++) {
					double s1 = 0, s2 = 0;
					for (int64_t e = 0; e < dim; e++) {
						s1 += (double)q[qa + e] * k[kat + j * G * dim + g + e];
						s2 += (double)aq[qa + e] * ak[kat + j * G * dim + g + e];
					}
					p[j] = s1 * scale;
					most = fmax(most, s2 * scale);
					top = fmax(top, p[j]);
				}
				for (int64_t j = begin; j <= t; j++) sum += p[j] = exp(p[j] - top);
				for (int64_t j = begin; j <= t; j++)
					for (int64_t e = 0; e < dim; e++)
						bound += p[j] / sum * ady[qa + e] * av[kat + j * G * dim + g + e];
				for (int64_t j = begin; j <= t; j++) {
					double dp = bound, pj = p[j] / sum;
					for (int64_t e = 0; e < dim; e++)
						dp += (double)ady[qa + e] * av[kat + j * G * dim + g + e];
					for (int64_t e = 0; e < dim; e++) {
						int64_t ke = kat + j * G * dim + g + e;
						dq.mag[qa + e] += (float)(scale * pj * dp * ak[ke]);
						dk.mag[ke] += (float)(scale * pj * dp * aq[qa + e]);
						dv.mag[ke] += (float)(pj * ady[qa + e]);
					}
				}
			}
	}
	const float *tq = input(r, q, n), *tk = input(r, k, m), *tv = input(r, v, m), *tdy = input(r, dy, n),
	            *ty = input(r, y, n);
	whit_arena scratch = {0};
	if (r->dev)
		whit_attention_back_cuda(r->dev, dq.out, dk.out, dv.out, tdy, ty, tq, tk, tv, &b.dev, H, G, dim, scale,
		                         window);
	for (int s = 0; s < b.n_seq && !r->dev; s++) {
		int64_t at = b.start[s] * H * dim, kat = b.start[s] * G * dim, T = b.start[s + 1] - b.start[s];
		whit_attention_back_fast_cpu(dq.out + at, dk.out + kat, dv.out + kat, tdy + at, ty + at, tq + at,
		                             tk + kat, tv + kat, T, H, G, dim, scale, window, &scratch);
		whit_arena_reset(&scratch);
	}
	/* p loses what its score does (dim + 12 roundings of the largest sum of magnitudes, twice: the sum below it
	 * too) and exp's; dp its sum's dim + 2; then as many roundings as terms are added */
	double tol = 2 * (double)(dim + 12) * most + 2 * (double)(dim + 8) + (double)(b.T * (H / G)) + 24;
	grad_check(r, &dq, tol);
	grad_check(r, &dk, tol);
	grad_check(r, &dv, tol);
	whit_arena_free(&scratch);
}

const case_set cases_attention_back = {"attention_back", WHIT_COUNT(attentions), attention_row, 0};

/* ---- cross entropy ---- */

static const struct { int64_t T, vocab; } losses[] = {{1, 1}, {3, 5}, {5, 300}, {2, 4097}, {0, 7}, {512, 151936}};

static void xent_row(case_run *r, int i) {
	int64_t T = losses[i].T, V = losses[i].vocab, n = T * V;
	case_label(r, "%lld x %lld", (long long)T, (long long)V);
	if (case_skip_big(r, n > 100000)) return;
	float *z = case_normal(r, n), *mag = case_host(r, (size_t)(n + 1) * sizeof *mag),
	      *want = case_host(r, (size_t)(n + 1) * sizeof *want);
	double *u = case_host(r, (size_t)(T + 1) * sizeof *u), *loss = case_host(r, (size_t)(T + 1) * sizeof *loss);
	int32_t *target = case_host(r, (size_t)(T + 1) * sizeof *target),
	        *draw = case_host(r, (size_t)(T + 1) * sizeof *draw);
	for (int64_t k = 0; k < n; k++) z[k] *= 6, mag[k] = 1;
	for (int64_t t = 0; t < T; t++) {
		target[t] = t % 4 == 2 ? -1 : (int32_t)(t * 7919 % V);
		u[t] = t % 4 == 3 ? -1 : (double)t / (double)T + 0.01;
	}
	whit_xent_cpu(loss, want, z, target, T, V);
	whit_draw_cpu(draw, z, u, T, V);
	float *in_place = case_inout(r, z, n), *out = case_out(r, n), *tloss = case_out(r, 2 * T),
	      *tdraw = case_out(r, T), *tloss2 = case_out(r, 2 * T);
	const float *tz = input(r, z, n);
	const int32_t *tt = case_in(r, target, (size_t)T * sizeof *target);
	const double *tu = case_in(r, u, (size_t)T * sizeof *u);
	double *l1 = (double *)(void *)tloss, *l2 = (double *)(void *)tloss2;
	if (r->dev) {
		whit_xent_cuda(r->dev, l1, out, tz, tt, T, V);
		whit_draw_cuda(r->dev, (int32_t *)(void *)tdraw, tz, tu, T, V);
		whit_xent_cuda(r->dev, l2, in_place, in_place, tt, T, V);
	} else {
		whit_xent_fast_cpu(l1, out, tz, tt, T, V);
		whit_draw_cpu((int32_t *)(void *)tdraw, tz, tu, T, V);
		whit_xent_fast_cpu(l2, in_place, in_place, tt, T, V);
	}
	case_near(r, out, want, mag, n,
	          0x1p-24); /* doubles, rounded once; the order of their sum shows in the last bit */
	case_near(r, in_place, want, mag, n, 0x1p-24);
	/* u is not within a thousand roundings of doubles of any border here */
	case_bits(r, tdraw, (const uint32_t *)(const void *)draw, T);
	case_doubles(r, tloss, loss, T, 1e-12);
	case_doubles(r, tloss2, loss, T, 1e-12);
}

const case_set cases_xent = {"xent", WHIT_COUNT(losses), xent_row, 0};
