/* ops: what quantizing is made of, on a device: transforms, encoders, decoders, k-means, codebooks, Hessians, squares,
 * and the solver's rounding of a block of columns. Inputs lie in a ring larger than twice the L2; each result is
 * checked against the CPU's before it gets a time. */
#include <math.h>
#include <stdio.h>
#include "bench/run.h"
#include "formats/codebook.h"
#include "formats/tensor.h"
#include "host/ops.h"

enum { LAUNCHES = 16, RING = 16, CHECKED = 64 /* rows that the CPU computes too */ };

typedef struct task {
	whit_dev *d;
	int n;                        /* copies of x */
	float *x[RING], *w, *u, *out; /* rows of input; weights, or centroids, or fresh input; a matrix; results */
	double *sum;
	uint8_t *bytes;
	int64_t *count;
	int64_t rows, cols;
	whit_mat m; /* of encode and decode: planes in bytes, codebook on the device */
	float book[256];
	int k, dtype;        /* of fwht: length and storage */
	uint16_t *x16, *w16; /* BF16, what a product of x and w takes */
} task;

/* ---- what is queued ---- */

static void fwht(void *ctx, int i) {
	const task *t = ctx;
	whit_fwht_stored_cuda(t->d, t->x[i % t->n], t->dtype, t->rows * t->cols / t->k, t->k);
}
static void refill(void *ctx) {
	const task *t = ctx;
	for (int i = 0; i < t->n; i++)
		whit_dev_copy(t->d, t->x[i], t->w, (size_t)(t->rows * t->cols) * whit_dtype_size(t->dtype));
}
static void encode(void *ctx, int i) {
	const task *t = ctx;
	whit_rows_encode_cuda(t->d, &t->m, 0, t->rows, t->x[i % t->n], NULL, WHIT_SCALE_LS, t->count);
}
static void decode(void *ctx, int i) {
	const task *t = ctx;
	whit_rows_decode_cuda(t->d, &t->m, 0, t->rows, t->x[i % t->n]);
}
static void assign(void *ctx, int i) {
	const task *t = ctx;
	whit_kmeans_assign_cuda(t->d, (int32_t *)(void *)t->bytes, t->out, t->x[i % t->n], NULL, t->w, t->rows, t->cols,
	                        t->k);
}
/* What assigning cannot do without: products of all points and centroids, k a point to memory. */
static void distances(void *ctx, int i) {
	const task *t = ctx;
	(void)i;
	whit_dev_gemm(t->d, t->u, t->k, t->x16, t->w16, WHIT_BF16, t->rows, t->k, t->cols, 0);
}
static void sums(void *ctx, int i) {
	const task *t = ctx;
	whit_kmeans_sums_cuda(t->d, t->sum, t->sum + t->k * t->cols, (const int32_t *)(const void *)t->bytes,
	                      t->x[i % t->n], NULL, t->rows, t->cols, t->k);
}
static void lloyd(void *ctx, int i) {
	const task *t = ctx;
	whit_lloyd_cuda(t->d, t->out, t->sum, t->x[i % t->n], NULL, t->rows, t->cols, t->k, 0);
}
static void gram(void *ctx, int i) {
	const task *t = ctx;
	whit_gram_cuda(t->d, t->u, t->x[i % t->n], t->rows, t->cols);
}
static void squares(void *ctx, int i) {
	const task *t = ctx;
	whit_square_sums_cuda(t->d, t->out, t->sum, t->sum + t->rows, t->x[i % t->n], t->rows, t->cols);
}
static void columns(void *ctx, int i) {
	const task *t = ctx;
	const whit_columns c = {.v = t->x[i % t->n],
	                        .err = t->out,
	                        .level = t->bytes,
	                        .loss = t->sum,
	                        .scale = t->w,
	                        .u = t->u,
	                        .table = t->w + t->rows,
	                        .count = 16,
	                        .even = 1,
	                        .rows = t->rows,
	                        .n = t->cols,
	                        .to = t->cols,
	                        .end = t->cols};
	whit_columns_cuda(t->d, &c);
}

/* ---- tasks ---- */

static float *normals(int64_t n, uint64_t key) {
	whit_rng g;
	float *x = whit_alloc((size_t)n * sizeof *x);
	whit_rng_key(&g, 21, key, 0);
	for (int64_t i = 0; i < n; i++) x[i] = (float)whit_rng_normal(&g);
	return x;
}

static void *upload(whit_dev *d, const void *p, size_t bytes) {
	void *to = whit_dev_alloc(d, bytes);
	if (to && p) whit_dev_put(d, to, p, bytes);
	return to;
}

/* A ring of x (rows, cols), and room for results. */
static int begin(task *t, const bench_run *b, const float *x, int64_t rows, int64_t cols, whit_err *e) {
	size_t bytes = (size_t)(rows * cols) * sizeof *x;
	*t = (task){.d = b->dev, .rows = rows, .cols = cols};
	t->n = b->info.driver ? (int)WHIT_MIN(RING, 2 * b->info.l2 / bytes + 2) : 1;
	for (int i = 0; i < t->n; i++) t->x[i] = upload(t->d, x, bytes);
	t->out = upload(t->d, NULL, bytes);
	t->bytes = upload(t->d, NULL, bytes);
	t->sum = upload(t->d, NULL, (size_t)(2 * 256 * cols + rows + cols) * sizeof *t->sum);
	t->count = upload(t->d, NULL, 2 * sizeof *t->count);
	if (t->sum) whit_dev_zero(t->d, t->sum, (size_t)(2 * 256 * cols + rows + cols) * sizeof *t->sum);
	if (t->out) whit_dev_zero(t->d, t->out, bytes);
	return whit_dev_sync(t->d, e);
}

static void end(task *t) {
	void *all[] = {
	        t->w, t->u, t->x16, t->w16, t->out, t->sum, t->bytes, t->count, (void *)(uintptr_t)t->m.codebook};
	for (int i = 0; i < t->n; i++) whit_dev_free(t->d, t->x[i]);
	for (int i = 0; i < WHIT_COUNT(all); i++) whit_dev_free(t->d, all[i]);
}

/* Results of one call into host memory, which the caller frees. */
static void *result(task *t, void (*queue)(void *, int), const void *from, size_t bytes, whit_err *e) {
	void *to = whit_alloc(bytes);
	whit_dev_reset(t->d);
	queue(t, 0);
	whit_dev_get(t->d, to, from, bytes);
	if (whit_dev_sync(t->d, e)) memset(to, 0xff, bytes);
	return to;
}

/* row->C: the BLAS's time, if it has one. */
static int add(bench_run *b, task *t, bench_row *row, void (*queue)(void *, int), whit_err *e) {
	int launches = b->info.driver ? LAUNCHES : 1;
	if (!row->wrong) row->t = bench_queued(t->d, queue, t, launches, b->seconds, e);
	row->C = row->t.median > 0 ? row->C / row->t.median : 0;
	bench_add(b, row);
	return e->code ? e->code : whit_interrupted(e);
}

/* In place, so every launch of a sample has values of its own, which are random again for the next one: a second
 * transform would make them n times as large, and halves infinite. */
static int bench_fwht_on(bench_run *b, const bench_filter *f, const float *x, int64_t rows, int64_t cols, whit_err *e) {
	enum { LEAST = 6, MOST = 15 }; /* n = 2^6 to 2^15 */
	int64_t all = rows * cols, some = WHIT_MIN(all, 2 << MOST);
	int rc = 0;
	for (int i = 0; i < 2 * (MOST - LEAST + 1) && !rc; i++) {
		int n = 1 << (LEAST + i / 2), f16 = i % 2;
		size_t size = f16 ? 2 : 4, bytes = (size_t)all * size;
		bench_row row = {.bytes = 2 * (double)bytes, .weights = (double)all, .flops = (double)all * log2(n)};
		task t;
		snprintf(row.name, sizeof row.name, "fwht %s n=%d %lldx%lld", f16 ? "f16" : "f32", n, (long long)rows,
		         (long long)cols);
		if (!bench_wants(f, row.name) || some % n || all % n) continue;
		rc = begin(&t, b, x, rows, cols, e);
		t.k = n, t.dtype = f16 ? WHIT_F16 : WHIT_F32;
		uint16_t *half = f16 ? whit_alloc(bytes) : NULL;
		for (int64_t k = 0; k < all && f16; k++) half[k] = whit_f32_to_f16(x[k]);
		t.w = upload(t.d, f16 ? (const void *)half : x, bytes);
		for (; t.n < LAUNCHES && b->info.driver; t.n++) t.x[t.n] = upload(t.d, NULL, bytes);
		if (!rc && t.w && !whit_dev_failed(t.d)) {
			void *want = whit_alloc((size_t)some * size);
			memcpy(want, f16 ? (const void *)half : x, (size_t)some * size);
			whit_fwht_stored_cpu(want, t.dtype, some / n, n);
			refill(&t);
			void *got = result(&t, fwht, t.x[0], (size_t)some * size, e);
			row.wrong = memcmp(want, got, (size_t)some * size) != 0;
			whit_free(want), whit_free(got);
			if (!row.wrong)
				row.t = bench_queued_afresh(t.d, fwht, refill, &t, b->info.driver ? LAUNCHES : 1,
				                            b->seconds, e);
			bench_add(b, &row);
		}
		if (!rc) rc = whit_dev_sync(t.d, e);
		if (!rc) rc = e->code ? e->code : whit_interrupted(e);
		whit_free(half);
		end(&t);
	}
	return rc;
}

/* Encoding, whose bytes are the CPU's, and decoding them. */
static int bench_codes(bench_run *b, const bench_filter *f, const float *x, int64_t rows, int64_t cols, whit_err *e) {
	static const char *const format[] = {"tq4g128", "tq2g128", "int4g128", "int8g128",
	                                     "q8_0",    "q4_0",    "q4_k",     "q1_0"};
	int rc = 0;
	for (int i = 0; i < 2 * WHIT_COUNT(format) && !rc; i++) {
		bench_row row = {.weights = (double)(rows * cols)};
		int back = i % 2;
		size_t at[2] = {0}, bytes = 0;
		whit_mat cpu = {.rows = CHECKED / 8, .cols = cols, .width = cols};
		task t;
		snprintf(row.name, sizeof row.name, "%s %s %lldx%lld", back ? "decode" : "encode", format[i / 2],
		         (long long)rows, (long long)cols);
		if (!bench_wants(f, row.name)) continue;
		rc = begin(&t, b, x, rows, cols, e);
		if (!rc) rc = whit_spec_parse(format[i / 2], &cpu.spec, e);
		if (!rc && cpu.spec.fmt->needs_codebook)
			rc = whit_codebook(t.book, cpu.spec.bits, WHIT_DENSITY_GAUSSIAN, cpu.spec.group, e);
		if (!rc && cpu.spec.fmt->needs_codebook) cpu.codebook = t.book;
		if (!rc) rc = whit_mat_alloc(&cpu, e);
		if (!rc) {
			t.m = cpu;
			t.m.rows = rows;
			for (int p = 0; p < 2 && cpu.plane[p]; p++) {
				at[p] = bytes;
				t.m.plane[p] = t.bytes + bytes;
				bytes += (cpu.row_bytes[p] * (size_t)rows + 255) / 256 * 256;
			}
			if (cpu.codebook) t.m.codebook = upload(t.d, t.book, whit_mat_book_bytes(&cpu));
			row.bytes = (double)bytes + 4 * row.weights;
			int64_t zero = 0;
			for (int64_t r = 0; r < cpu.rows; r++)
				cpu.spec.fmt->encode(&cpu, r, x + r * cols, NULL, WHIT_SCALE_LS, &zero);
			uint8_t *got = result(&t, encode, t.bytes, bytes, e);
			for (int p = 0; p < 2 && cpu.plane[p]; p++)
				row.wrong |= memcmp(got + at[p], cpu.plane[p], whit_plane_bytes(&cpu, p)) != 0;
			whit_free(got);
			if (back) {
				size_t n = (size_t)(cpu.rows * cols) * sizeof *x;
				float *want = whit_alloc(n), *is = result(&t, decode, t.x[0], n, e);
				cpu.spec.fmt->decode(&cpu, 0, cpu.rows, want);
				row.wrong |= memcmp(want, is, n) != 0;
				whit_free(want), whit_free(is);
			}
			rc = add(b, &t, &row, back ? decode : encode, e);
		}
		whit_mat_free(&cpu);
		end(&t);
	}
	return rc;
}

/* Points and the first k of them, which are the centroids, as BF16; room for all products. */
static void halve(task *t, const float *x) {
	int64_t n = t->rows * t->cols;
	uint16_t *h = whit_alloc((size_t)n * sizeof *h);
	for (int64_t i = 0; i < n; i++) h[i] = whit_f32_to_bf16(x[i]);
	t->x16 = upload(t->d, h, (size_t)n * sizeof *h);
	t->w16 = upload(t->d, h, (size_t)(t->k * t->cols) * sizeof *h);
	t->u = upload(t->d, NULL, (size_t)(t->rows * t->k) * sizeof *t->u);
	whit_dev_sync(t->d, &(whit_err){0}); /* h is read; an error is told where it is compared */
	whit_free(h);
}

static int bench_kmeans_on(bench_run *b, const bench_filter *f, const float *x, int64_t n, int64_t dim, whit_err *e) {
	static const struct { int k, sums; } of[] = {{64, 0}, {128, 0}, {1024, 0}, {64, 1}};
	int rc = 0;
	for (int i = 0; i < WHIT_COUNT(of) && !rc; i++) {
		int k = of[i].k, last = of[i].sums;
		bench_row row = {.bytes = 4.0 * (double)(n * dim) + (last ? 4.0 : 8.0) * (double)n,
		                 .flops = last ? 0 : 2.0 * (double)(n * dim * k)};
		task t;
		snprintf(row.name, sizeof row.name, "kmeans %s k=%d %lldx%lld", last ? "sums" : "assign", k,
		         (long long)n, (long long)dim);
		if (!bench_wants(f, row.name) || k > n) continue;
		rc = begin(&t, b, x, n, dim, e);
		t.k = k;
		t.w = upload(t.d, x, (size_t)(k * dim) * sizeof *x);
		if (!rc) {
			int64_t some = last ? n : WHIT_MIN(n, CHECKED);
			int32_t *want = whit_alloc((size_t)n * sizeof *want),
			        *got = result(&t, assign, t.bytes, (size_t)n * 4, e);
			float *distance = whit_alloc((size_t)n * sizeof *distance);
			bench_time blas = {0};
			whit_kmeans_assign_cpu(want, distance, x, NULL, x, some, dim, k);
			row.wrong = memcmp(want, got, (size_t)some * 4) != 0;
			if (last) {
				size_t bytes = (size_t)(2 * k * dim) * sizeof(double);
				double *sum = whit_alloc(bytes), *is = result(&t, sums, t.sum, bytes, e);
				whit_kmeans_sums_cpu(sum, sum + k * dim, want, x, NULL, n, dim, k);
				row.wrong |= memcmp(sum, is, bytes) != 0;
				whit_free(sum), whit_free(is);
			} else {
				halve(&t, x);
				blas = bench_queued(t.d, distances, &t, b->info.driver ? LAUNCHES : 1, b->seconds, e);
			}
			whit_free(want), whit_free(got), whit_free(distance);
			row.C = blas.median;
			rc = add(b, &t, &row, last ? sums : assign, e);
		}
		end(&t);
	}
	return rc;
}

static int bench_lloyd_on(bench_run *b, const bench_filter *f, const float *x, int64_t rows, int64_t cols,
                          whit_err *e) {
	enum { K = 16, SOME = CHECKED / 4 };
	bench_row row = {.bytes = 4.0 * (double)(rows * cols), .weights = (double)(rows * cols)};
	float want[SOME * K];
	double loss[SOME];
	task t;
	snprintf(row.name, sizeof row.name, "lloyd k=%d %lldx%lld", K, (long long)rows, (long long)cols);
	if (!bench_wants(f, row.name)) return 0;
	int rc = begin(&t, b, x, rows, cols, e);
	t.k = K;
	if (!rc) {
		float *got = result(&t, lloyd, t.out, sizeof want, e);
		whit_lloyd_cpu(want, loss, x, NULL, SOME, cols, K, 0);
		row.wrong = memcmp(want, got, sizeof want) != 0;
		whit_free(got);
		rc = add(b, &t, &row, lloyd, e);
	}
	end(&t);
	return rc;
}

static int bench_sums(bench_run *b, const bench_filter *f, const float *x, int64_t rows, int64_t cols, whit_err *e) {
	int rc = 0;
	for (int i = 0; i < 2 && !rc; i++) {
		bench_row row = {.bytes = i ? 12.0 * (double)(rows * cols)
		                            : 4.0 * (double)(rows * cols + 2 * cols * cols),
		                 .flops = i ? 0 : 2.0 * (double)rows * (double)(cols * cols)};
		task t;
		snprintf(row.name, sizeof row.name, "%s %lldx%lld", i ? "square sums" : "gram", (long long)rows,
		         (long long)cols);
		if (!bench_wants(f, row.name)) continue;
		rc = begin(&t, b, x, rows, cols, e);
		t.u = upload(t.d, NULL, (size_t)(cols * cols) * sizeof *x);
		if (!rc && t.u) {
			whit_dev_zero(t.d, t.u, (size_t)(cols * cols) * sizeof *x);
			if (i) {
				double *want = whit_alloc((size_t)rows * sizeof *want),
				       *got = result(&t, squares, t.sum, (size_t)rows * sizeof *got, e);
				whit_row_squares_cpu(want, x, rows, cols, cols);
				row.wrong = memcmp(want, got, (size_t)rows * sizeof *want) != 0;
				whit_free(want), whit_free(got);
			} else {
				float *got = result(&t, gram, t.u, (size_t)cols * sizeof *got, e); /* its first row */
				for (int64_t c = 0; c < WHIT_MIN(cols, CHECKED); c++) {
					double sum = 0, mag = 0;
					for (int64_t r = 0; r < rows; r++) {
						sum += (double)x[r * cols] * x[r * cols + c];
						mag += fabs((double)x[r * cols] * x[r * cols + c]);
					}
					row.wrong |= !(fabs(got[c] - sum) <= 1e-5 * mag);
				}
				whit_free(got);
			}
			rc = add(b, &t, &row, i ? squares : gram, e);
		}
		end(&t);
	}
	return rc;
}

/* A block of 128 columns of 4 bits. Its U has ones on the diagonal and small numbers behind: by hand q, err, v. */
static int bench_columns_on(bench_run *b, const bench_filter *f, const float *x, int64_t rows, whit_err *e) {
	enum { N = 128 };
	bench_row row = {.bytes = (double)rows * N * (4 + 4 + 4 + 1),
	                 .flops = (double)rows * N * N,
	                 .weights = (double)rows * N};
	task t;
	snprintf(row.name, sizeof row.name, "columns 4 bit %lldx%d", (long long)rows, N);
	if (!bench_wants(f, row.name)) return 0;
	int rc = begin(&t, b, x, rows, N, e);
	float *u = whit_alloc(N * N * sizeof *u), *w = whit_alloc((size_t)(rows + 32) * sizeof *w);
	for (int i = 0; i < N; i++)
		for (int k = i; k < N; k++) u[i * N + k] = i == k ? 1 : 0.01f * (float)((i + k) % 7 - 3);
	for (int64_t r = 0; r < rows; r++) w[r] = 0.3f;
	for (int k = 0; k < 16; k++) w[rows + k] = (float)(k - 8), w[rows + 16 + k] = (float)k - 7.5f;
	t.u = upload(t.d, u, N * N * sizeof *u);
	t.w = upload(t.d, w, (size_t)(rows + 32) * sizeof *w);
	if (!rc && t.u && t.w) {
		float *got = result(&t, columns, t.out, (size_t)(CHECKED * N) * sizeof *got, e), v[N];
		for (int64_t r = 0; r < WHIT_MIN(rows, CHECKED); r++) {
			memcpy(v, x + r * N, sizeof v);
			for (int j = 0; j < N; j++) {
				float level = ceilf(v[j] / 0.3f + 8 - 0.5f), err;
				level = fminf(fmaxf(level, 0), 15) - 8;
				err = v[j] - 0.3f * level;
				row.wrong |= !(got[r * N + j] == -err);
				for (int k = j + 1; k < N; k++) v[k] += -err * u[j * N + k];
			}
		}
		whit_free(got);
		rc = add(b, &t, &row, columns, e);
	}
	whit_free(u), whit_free(w);
	end(&t);
	return rc;
}

int bench_ops(bench_run *b, const bench_filter *f, whit_err *e) {
	int small = !b->info.driver; /* emulated */
	int64_t rows = small ? CHECKED : 4096, cols = small ? 256 : 5120, points = small ? 200 : 65536;
	float *x = normals(WHIT_MAX(rows * cols, points * 128), 1);
	int rc = bench_fwht_on(b, f, x, rows, cols, e);
	if (!rc) rc = bench_codes(b, f, x, rows, cols, e);
	if (!rc) rc = bench_kmeans_on(b, f, x, points, 128, e);
	if (!rc) rc = bench_lloyd_on(b, f, x, rows, small ? cols : 4096, e);
	if (!rc) rc = bench_sums(b, f, x, rows, cols, e);
	if (!rc) rc = bench_columns_on(b, f, x, small ? CHECKED : 16384, e);
	whit_free(x);
	return rc;
}
