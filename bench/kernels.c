/* kernels: packed and plain matrix products against sgemm and the copy roof, the Hadamard transform, encoders,
 * decoders.
 * Shapes are those of an 8B model's down projection and of Qwen3.5-0.8B's (kernels.md). */
#include "bench/run.h"
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include "calib/method.h"
#include "formats/blocks.h"
#include "formats/codebook.h"
#include "host/ops.h"

static void fill_normal(float *x, int64_t n, uint64_t key) {
	whit_rng r;
	whit_rng_key(&r, 7, key, 0);
	for (int64_t i = 0; i < n; i++) x[i] = (float)whit_rng_normal(&r);
}

/* ---- a matrix of a format with random content, and a ring of copies of it ---- */

typedef struct ring {
	whit_mat *m;
	int n;
	float codebook[256];
	whit_rotation *rot;
	double bytes; /* one copy, all planes */
} ring;

typedef struct fill_job {
	whit_mat *m;
	int64_t bad;
} fill_job;

static void fill_row(void *ctx, int64_t r, int worker) {
	(void)worker;
	fill_job *j = ctx;
	float *w = whit_alloc((size_t)j->m->width * sizeof *w);
	int64_t zero = 0;
	fill_normal(w, j->m->width, (uint64_t)r % 97); /* 97 distinct rows: random data, cheap to make */
	for (int64_t i = 0; i < j->m->width; i++) w[i] *= 0.02f;
	if (j->m->spec.fmt->block) { /* bytes that make no F16 larger than 2: time does not depend on them */
		uint8_t *p = (uint8_t *)(uintptr_t)j->m->plane[0] + (size_t)r * j->m->row_bytes[0];
		whit_rng g;
		whit_rng_key(&g, 7, (uint64_t)r, 1);
		for (size_t i = 0; i < j->m->row_bytes[0]; i++) p[i] = (uint8_t)(whit_rng_next(&g) >> 40) & 0xbf;
	} else {
		j->m->spec.fmt->encode(j->m, r, w, NULL, WHIT_SCALE_LS, &zero);
	}
	whit_free(w);
}

static int ring_make(ring *g, const char *format, int64_t rows, int64_t cols, size_t llc, int cold, whit_err *e) {
	memset(g, 0, sizeof *g);
	whit_mat m = {.rows = rows, .cols = cols, .width = cols};
	int rc = whit_spec_parse(format, &m.spec, e);
	if (rc) return rc;
	if (m.spec.fmt->needs_codebook) {
		int64_t d = m.spec.group ? m.spec.group : cols;
		if ((rc = whit_codebook(g->codebook, m.spec.bits, WHIT_DENSITY_GAUSSIAN, d, e))) return rc;
		m.codebook = g->codebook;
	}
	if ((rc = whit_mat_alloc(&m, e))) return rc;
	whit_parallel(rows, fill_row, &(fill_job){&m, 0});
	for (int p = 0; p < WHIT_PLANES; p++) g->bytes += (double)m.row_bytes[p] * (double)rows;
	g->n = cold ? (int)WHIT_MAX(2, WHIT_MIN(64, 1.5 * (double)llc / g->bytes + 1)) : 1;
	g->m = whit_alloc(sizeof m * (size_t)g->n);
	g->m[0] = m;
	for (int i = 1; i < g->n; i++) {
		g->m[i] = m;
		if ((rc = whit_mat_alloc(&g->m[i], e))) return rc;
		for (int p = 0; p < WHIT_PLANES; p++)
			if (m.plane[p])
				memcpy((void *)(uintptr_t)g->m[i].plane[p], m.plane[p], m.row_bytes[p] * (size_t)rows);
	}
	return 0;
}

static void ring_free(ring *g) {
	for (int i = 0; i < g->n; i++) whit_mat_free(&g->m[i]);
	whit_free(g->m);
}

/* ---- linear ---- */

typedef struct product {
	ring *g;
	const float *x;
	float *y;
	int64_t M;
	whit_arena *scratch;
} product;

static void run_linear(void *ctx, int64_t k) {
	product *p = ctx;
	whit_arena_reset(p->scratch);
	whit_linear_fast_cpu(p->y, p->x, p->M, &p->g->m[k % p->g->n], NULL, p->scratch);
}

/* The fast product against the plain one on 8 rows spread over the matrix: |difference| within the bound
 * n * eps * sum |w||x| of two float summations in any order. NaN (the poison) fails. */
static int product_wrong(const product *p) {
	const whit_mat *m = &p->g->m[0];
	int bad = 0;
	float *w = whit_alloc((size_t)m->cols * sizeof *w);
	/* blocks round x: by at most half a step, 1/254 of the largest of 256 values */
	double rounding = m->spec.fmt->block ? 1.0 / 254 + 0x1p-10 : 0;
	memset(p->y, 0xff, (size_t)(p->M * m->rows) * sizeof *p->y);
	run_linear((void *)(uintptr_t)p, 0);
	for (int i = 0; i < 8; i++) {
		int64_t r = m->rows * i / 8, t = p->M * i / 8;
		double sum = 0, mag = 0, top = 0, all = 0;
		whit_mat_decode(m, r, r + 1, w);
		for (int64_t j = 0; j < m->cols; j++) {
			top = fmax(top, fabs((double)p->x[t * m->cols + j]));
			all += fabs((double)w[j]);
			sum += (double)w[j] * p->x[t * m->cols + j];
			mag += fabs((double)w[j] * p->x[t * m->cols + j]);
		}
		bad += !(fabs(p->y[t * m->rows + r] - sum) <= (double)m->cols * 0x1p-24 * mag + rounding * top * all);
	}
	whit_free(w);
	return bad != 0;
}

typedef struct dense {
	float *w;
	const float *x;
	float *y;
	int64_t M, rows, cols;
} dense;

static void run_sgemm(void *ctx, int64_t k) {
	(void)k;
	dense *d = ctx;
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)d->M, (int)d->rows, (int)d->cols, 1, d->x,
	            (int)d->cols, d->w, (int)d->cols, 0, d->y, (int)d->rows);
}

/* OpenBLAS with all threads of its own on float weights: what C divides by. */
static bench_time sgemm_time(const bench_run *b, int64_t rows, int64_t cols, int64_t M, const float *x, float *y) {
	dense d = {whit_alloc((size_t)(rows * cols) * sizeof(float)), x, y, M, rows, cols};
	fill_normal(d.w, cols, 5);
	for (int64_t r = 1; r < rows; r++) memcpy(d.w + r * cols, d.w, (size_t)cols * sizeof(float));
	openblas_set_num_threads(whit_threads());
	bench_time t = bench_measure(run_sgemm, &d, b->seconds);
	openblas_set_num_threads(1);
	whit_free(d.w);
	return t;
}

static int bench_linear(bench_run *b, const bench_filter *f, int64_t rows, int64_t cols, whit_err *e) {
	static const char *const format[] = {"f32",     "f16",     "bf16", "tq1g256",  "tq2g256", "tq3g256",
	                                     "tq4g256", "tq8g256", "int8", "int4g128", "q8_0",    "q4_0",
	                                     "q4_k",    "q6_k",    "q2_k", "q1_0",     "q2_0"};
	static const int64_t Ms[] = {1, 8, 128, 512};
	float *x = whit_alloc((size_t)(512 * cols) * sizeof *x), *y = whit_alloc((size_t)(512 * rows) * sizeof *y);
	bench_time blas[WHIT_COUNT(Ms)] = {{0}};
	whit_arena scratch = {0};
	int rc = 0;
	fill_normal(x, 512 * cols, 1);
	for (int i = 0; !rc && i < WHIT_COUNT(format); i++) {
		ring g = {0};
		for (int k = 0; !rc && k < WHIT_COUNT(Ms); k++) {
			bench_row row = {0};
			int64_t M = Ms[k];
			snprintf(row.name, sizeof row.name, "linear %s %lldx%lld M=%lld%s", format[i], (long long)rows,
			         (long long)cols, (long long)M, M <= 8 ? " cold" : "");
			if (!bench_wants(f, row.name)) continue;
			if (!g.n && (rc = ring_make(&g, format[i], rows, cols, b->llc, 1, e))) break;
			if (M > 8 && !blas[k].samples) blas[k] = sgemm_time(b, rows, cols, M, x, y);
			product p = {&g, x, y, M, &scratch};
			row.wrong = product_wrong(&p);
			if (!row.wrong) row.t = bench_measure(run_linear, &p, b->seconds);
			row.flops = 2.0 * (double)(M * rows) * (double)cols;
			row.weights = (double)rows * (double)cols;
			if (M <= 8) row.bytes = g.bytes + 4.0 * (double)(M * (rows + cols));
			if (M > 8 && row.t.median > 0) row.C = blas[k].median / row.t.median;
			bench_add(b, &row);
			rc = whit_interrupted(e);
		}
		ring_free(&g);
	}
	whit_arena_free(&scratch);
	whit_free(x);
	whit_free(y);
	return rc;
}

/* ---- Walsh-Hadamard ---- */

typedef struct transform {
	float *x;
	int64_t rows, n;
} transform;

static void run_fwht_rows(void *ctx, int64_t i, int worker) {
	(void)worker;
	transform *t = ctx;
	whit_fwht_fast_cpu(t->x + i * 64 * t->n, 64, t->n);
	for (int64_t j = 0; j < 64 * t->n; j += 16) t->x[i * 64 * t->n + j] *= 1e-3f; /* repeats must not overflow */
}

static void run_fwht(void *ctx, int64_t k) {
	(void)k;
	whit_parallel(((transform *)ctx)->rows / 64, run_fwht_rows, ctx);
}

static int fwht_wrong(int64_t n) {
	float *a = whit_alloc((size_t)n * 3 * sizeof *a), *c = whit_alloc((size_t)n * 3 * sizeof *c);
	fill_normal(a, 3 * n, 2);
	memcpy(c, a, (size_t)n * 3 * sizeof *c);
	whit_fwht_cpu(a, 3, n);
	whit_fwht_fast_cpu(c, 3, n);
	int bad = 0;
	/* log2(n) roundings of sums that grow like sqrt(n) */
	for (int64_t i = 0; i < 3 * n; i++)
		bad += !(fabs(a[i] - c[i]) <= 0x1p-23 * log2((double)n) * 6 * sqrt((double)n));
	whit_free(a);
	whit_free(c);
	return bad != 0;
}

static void bench_fwht(bench_run *b, const bench_filter *f) {
	for (int64_t n = 64; n <= 4096; n *= 4) {
		bench_row row = {0};
		snprintf(row.name, sizeof row.name, "fwht f32 n=%lld", (long long)n);
		if (!bench_wants(f, row.name)) continue;
		transform t = {NULL, ((int64_t)2 << 25) / n / 64 * 64, n};
		t.x = whit_alloc((size_t)(t.rows * n) * sizeof *t.x);
		fill_normal(t.x, t.rows * n / 64, 3);
		row.wrong = fwht_wrong(n);
		row.t = bench_measure(run_fwht, &t, b->seconds);
		row.bytes = 8.0 * (double)(t.rows * n);
		bench_add(b, &row);
		whit_free(t.x);
	}
}

/* ---- encoding: bf16 rows in, rotated and packed rows out, as `whit quantize` does it ---- */

typedef struct encode {
	const whit_method *method;
	whit_job job;
	whit_err e;
	int rc;
} encode;

static void run_encode(void *ctx, int64_t k) {
	(void)k;
	encode *c = ctx;
	c->job.zero_groups = c->job.bad_scales = 0;
	c->rc |= c->method->run(&c->job, &c->e);
}

static int bench_encode(bench_run *b, const bench_filter *f, int64_t rows, int64_t cols, whit_err *e) {
	static const struct {
		const char *method, *format;
		double mse;
	} item[] = {
	        {"turboquant", "tq1g256", .3634}, {"turboquant", "tq2g256", .1175},  {"turboquant", "tq3g256", .03455},
	        {"turboquant", "tq4g256", .0095}, {"turboquant", "tq8g256", 4.2e-5}, {"nearest", "tq4g256", .0095},
	        {"nearest", "int4g128", .012},    {"nearest", "int8", 2e-4},         {"nearest", "q8_0", 2.3e-5},
	        {"nearest", "q4_0", .0066},       {"nearest", "q4_1", .0048},        {"nearest", "q5_0", .00161},
	        {"nearest", "q5_1", .0011},       {"nearest", "iq4_nl", .0054},      {"nearest", "iq4_xs", .0055},
	        {"nearest", "mxfp4", .0126},      {"nearest", "tq1_0", .19},         {"nearest", "tq2_0", .19},
	        {"nearest", "q1_0", .3621},       {"nearest", "q2_0", .1235}};
	ring src = {0};
	int rc = 0;
	for (int i = 0; !rc && i < WHIT_COUNT(item); i++) {
		bench_row row = {0};
		snprintf(row.name, sizeof row.name, "encode %s %s %lldx%lld", item[i].method, item[i].format,
		         (long long)rows, (long long)cols);
		if (!bench_wants(f, row.name)) continue;
		if (!src.n && (rc = ring_make(&src, "bf16", rows, cols, b->llc, 0, e))) break;
		float codebook[256];
		whit_mat dst = {.rows = rows, .cols = cols, .width = cols, .codebook = codebook};
		whit_rotation *rot = NULL;
		whit_weight w = {
		        .name = (char *)(uintptr_t) "bench", .ndim = 2, .shape = {rows, cols}, .mat = src.m[0]};
		encode c = {.method = whit_method_find(item[i].method, e)};
		if (!c.method) rc = e->code;
		if (!rc) rc = whit_spec_parse(item[i].format, &dst.spec, e);
		if (!rc && dst.spec.fmt->needs_codebook)
			rc = whit_codebook(codebook, dst.spec.bits, WHIT_DENSITY_GAUSSIAN,
			                   dst.spec.group ? dst.spec.group : cols, e);
		if (!rc && c.method->rotation != WHIT_ROT_NONE) {
			whit_rotation_spec s;
			rc = whit_rotation_plan(&s, c.method->rotation, 42, cols, dst.spec.group, e);
			if (!rc) rc = whit_rotation_new(&rot, &s, NULL, e);
			if (!rc) dst.rot = rot, dst.width = whit_rotation_width(rot);
		}
		if (!rc) rc = whit_mat_alloc(&dst, e);
		if (!rc) {
			c.job = (whit_job){.src = &w, .dst = &dst, .rule = WHIT_SCALE_LS};
			row.t = bench_measure(run_encode, &c, b->seconds);
			if (c.rc) rc = c.rc, *e = c.e;
			row.wrong = !(c.job.err / c.job.ref <= item[i].mse * 1.05);
			row.weights = (double)rows * (double)cols;
			row.bytes = 2 * row.weights;
			bench_add(b, &row);
		}
		whit_mat_free(&dst);
		whit_rotation_free(rot);
		if (!rc) rc = whit_interrupted(e);
	}
	ring_free(&src);
	return rc;
}

/* ---- decoding: packed rows in, floats out ---- */

typedef struct decode {
	const whit_mat *m;
	float *out; /* one row for each worker */
} decode;

static void run_decode_row(void *ctx, int64_t r, int worker) {
	decode *d = ctx;
	whit_mat_decode(d->m, r, r + 1, d->out + worker * d->m->cols);
}

static void run_decode(void *ctx, int64_t k) {
	(void)k;
	whit_parallel(((decode *)ctx)->m->rows, run_decode_row, ctx);
}

static int bench_decode(bench_run *b, const bench_filter *f, int64_t rows, int64_t cols, whit_err *e) {
	int rc = 0;
	for (int i = 0; !rc && whit_formats[i]; i++) {
		bench_row row = {0};
		ring src;
		if (!whit_formats[i]->block || !whit_formats[i]->block->encode) continue;
		snprintf(row.name, sizeof row.name, "decode %s %lldx%lld", whit_formats[i]->name, (long long)rows,
		         (long long)cols);
		if (!bench_wants(f, row.name)) continue;
		if ((rc = ring_make(&src, whit_formats[i]->name, rows, cols, b->llc, 0, e))) break;
		decode d = {&src.m[0], whit_alloc((size_t)(whit_threads() * cols) * sizeof(float))};
		row.t = bench_measure(run_decode, &d, b->seconds);
		row.weights = (double)rows * (double)cols;
		row.bytes = src.bytes;
		bench_add(b, &row);
		whit_free(d.out);
		ring_free(&src);
		rc = whit_interrupted(e);
	}
	return rc;
}

int bench_kernels(bench_run *b, const bench_filter *f, whit_err *e) {
	int rc = bench_linear(b, f, 4096, 14336, e);
	if (!rc) rc = bench_linear(b, f, 3584, 1024, e);
	if (!rc) bench_fwht(b, f);
	if (!rc) rc = bench_encode(b, f, 4096, 14336, e);
	return rc ? rc : bench_decode(b, f, 4096, 14336, e);
}
