/* products: packed matrices times few tokens on a device (kernels.md): weights cold, in a ring of copies larger than
 * twice its L2, activations warm; a graph of at least 64 products is replayed, and a product's time is its share. In
 * the clock is all that whit_linear_cuda queues: the input's own kernel, the product, the gaps between them. */
#include "bench/products.h"
#include <math.h>
#include <stdio.h>
#include "formats/blocks.h"
#include "formats/codebook.h"
#include "formats/tensor.h"
#include "formats/twin.h"
#include "host/progress.h"

enum { LAUNCHES = 64, MOST = 128 * 34816 /* inputs, and results */ };

static void queue(void *ctx, int i) {
	products *p = ctx;
	const whit_mat *m = &p->m[i % p->n];
	if (p->x16)
		whit_dev_gemm(p->d, p->y, m->rows, p->x16, m->plane[0], WHIT_BF16, p->M, m->rows, m->cols, 0);
	else
		whit_linear_low_cuda(p->d, p->y, p->x, p->M, m, p->rank ? &p->low[i % p->n] : NULL, NULL);
}

bench_time bench_product(products *p, double seconds, whit_err *e) {
	return bench_queued(p->d, queue, p, p->launches, seconds, e);
}

/* Random codes; 16-bit floats of either sign from 2^-8 to 1 where scales or weights are. */
static void fill(uint8_t *p, size_t bytes, int floats, uint64_t key) {
	whit_rng r;
	whit_rng_key(&r, 11, key, 0);
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t v = whit_rng_next(&r);
		if (floats == WHIT_F16) v = (v & 0x9fff9fff9fff9fffull) | 0x2000200020002000ull;
		if (floats == WHIT_BF16) v = (v & 0x83ff83ff83ff83ffull) | 0x3c003c003c003c00ull;
		memcpy(p + i, &v, WHIT_MIN(bytes - i, 8));
	}
}

/* Blocks of ggml's: random codes, d and m of 2^-8 to 1. */
static void fill_blocks(const whit_mat *m, uint8_t *p) {
	const whit_block *b = m->spec.fmt->block;
	int whole = !strcmp(m->spec.fmt->name, "q6_k"); /* d is its last number */
	size_t n = (size_t)m->rows * m->row_bytes[0] / (size_t)b->bytes;
	fill(p, n * (size_t)b->bytes, 0, 0);
	for (size_t i = 0; i < n; i++)
		fill(p + i * (size_t)b->bytes + (whole ? 208 : 0), whole ? 2 : 4, WHIT_F16, i + 1);
}

void bench_ring_free(products *p) {
	for (int i = 0; i < p->n; i++) whit_dev_free(p->d, p->memory[i]);
	whit_free(p->memory);
	whit_free(p->m);
	whit_free(p->low);
	p->memory = NULL, p->m = NULL, p->low = NULL, p->n = 0;
}

int bench_ring(products *p, const whit_mat *host, const whit_dev_info *info, whit_err *e) {
	whit_mat m = *host;
	size_t at[WHIT_PLANES] = {0}, bytes = 0, book = whit_mat_book_bytes(host);
	uint8_t *changed = NULL; /* blocks as a device keeps them */
	if (whit_twin_of(host, &m)) {
		changed = whit_alloc((size_t)m.rows * (m.row_bytes[0] + m.row_bytes[1]));
		m.plane[0] = changed, m.plane[1] = changed + (size_t)m.rows * m.row_bytes[0];
		whit_twin_rows(&m, host, 0, m.rows, changed, changed + (size_t)m.rows * m.row_bytes[0]);
		book = whit_mat_book_bytes(&m);
	}
	whit_mat_mirror(&m);
	m.rot = NULL;
	for (int k = 0; k < WHIT_PLANES; k++)
		if (m.plane[k]) at[k] = bytes, bytes += (whit_plane_bytes(&m, k) + 255) / 256 * 256;
	/* a low-rank branch: B A x is to be no larger than what it is added to */
	size_t low_at = (bytes + book + 255) / 256 * 256, low = (size_t)p->rank * 2 * (size_t)(m.rows + m.width);
	uint8_t *factors = p->rank ? whit_alloc(low) : NULL;
	if (p->rank) fill(factors, low, WHIT_F16, 9);
	size_t all = p->rank ? low_at + low : bytes + book;
	p->bytes = (double)(bytes + book + low);
	p->n = (int)WHIT_MAX(2, WHIT_MIN(LAUNCHES, 2 * info->l2 / all + 1));
	p->launches = LAUNCHES / p->n * p->n;
	if (!info->driver) p->n = p->launches = 2;
	p->m = whit_alloc(sizeof *p->m * (size_t)p->n);
	p->low = whit_alloc(sizeof *p->low * (size_t)p->n);
	p->memory = whit_alloc(sizeof *p->memory * (size_t)p->n);
	memset(p->memory, 0, sizeof *p->memory * (size_t)p->n);
	for (int i = 0; i < p->n; i++) {
		uint8_t *to = p->memory[i] = whit_dev_alloc(p->d, all);
		if (!to) break;
		p->m[i] = m;
		for (int k = 0; k < WHIT_PLANES; k++) {
			if (!m.plane[k]) continue;
			p->m[i].plane[k] = to + at[k];
			whit_dev_put(p->d, to + at[k], m.plane[k], whit_plane_bytes(&m, k));
		}
		const uint16_t *a = (const uint16_t *)(const void *)(to + low_at);
		p->low[i] = (whit_low){a, a + p->rank * m.width, p->rank, 0x1p-10f};
		if (p->rank) whit_dev_put(p->d, to + low_at, factors, low);
		if (!book) continue;
		p->m[i].codebook = (const float *)(const void *)(to + bytes);
		whit_dev_put(p->d, to + bytes, m.codebook, book);
	}
	int rc = whit_dev_sync(p->d, e);
	whit_free(changed);
	whit_free(factors);
	return rc;
}

int bench_ring_random(products *p, const char *format, int64_t rows, int64_t cols, const whit_dev_info *info,
                      whit_err *e) {
	const char *plus = strchr(format, '+');
	char name[32];
	snprintf(name, sizeof name, "%.*s", plus ? (int)(plus - format) : 31, format);
	p->rank = plus ? strtol(plus + 2, NULL, 10) : 0;
	whit_mat m = {.rows = rows, .cols = cols, .width = cols};
	whit_plane_desc plane[WHIT_PLANES];
	float book[256];
	int rc = whit_spec_parse(name, &m.spec, e), planes;
	if (!rc && m.spec.fmt->needs_codebook)
		rc = whit_codebook(book, m.spec.bits, WHIT_DENSITY_GAUSSIAN, m.spec.group ? m.spec.group : cols, e);
	if (rc) return rc;
	if ((planes = m.spec.fmt->planes(&m.spec, cols, 0, plane, e)) < 0) return e->code;
	m.codebook = m.spec.fmt->needs_codebook ? book : NULL;
	for (int i = 0; i < planes; i++) {
		uint8_t *to = whit_alloc(plane[i].row_bytes * (size_t)rows);
		m.row_bytes[i] = plane[i].row_bytes;
		if (m.spec.fmt->block)
			fill_blocks(&m, to);
		else
			fill(to, plane[i].row_bytes * (size_t)rows,
			     planes == 1 ? WHIT_BF16
			     : i         ? WHIT_F16
			                 : 0,
			     (uint64_t)i);
		m.plane[i] = to;
	}
	rc = bench_ring(p, &m, info, e);
	for (int i = 0; i < planes; i++) whit_free((void *)(uintptr_t)m.plane[i]);
	return rc;
}

/* y of the ring's last matrix, poisoned before, on the host. */
static float *product(products *p, int plain) {
	size_t bytes = sizeof(float) * (size_t)(p->M * p->m[0].rows);
	float *y = whit_alloc(bytes);
	memset(y, 0xff, bytes);
	whit_dev_reset(p->d);
	whit_dev_put(p->d, p->y, y, bytes);
	int was = whit_dev_plain(p->d, plain);
	queue(p, p->n - 1);
	whit_dev_plain(p->d, was);
	whit_dev_get(p->d, y, p->y, bytes);
	return y;
}

/* Within 2^-9 of the largest value: levels of a table are F16, 2^-12 of their size, and random signs add up less than
 * sizes do. */
int bench_product_wrong(products *p, whit_err *e) {
	float *a = product(p, 0), *b = product(p, 1);
	int64_t n = p->M * p->m[0].rows;
	double top = 0;
	int bad = whit_dev_sync(p->d, e);
	for (int64_t i = 0; i < n; i++) top = fmax(top, fabs((double)b[i]));
	for (int64_t i = 0; i < n; i++) bad |= !(fabs((double)a[i] - b[i]) <= top * 0x1p-9);
	whit_free(a);
	whit_free(b);
	return bad;
}

const char *const bench_product_formats[] = {
        "bf16",    "tq8g128", "int8g128", "tq4g128",     "int4g128", "int4g128+r32", "int4g128+r128",
        "int4g32", "tq3g128", "tq2g128",  "tq2g128+r32", "int2g128", "tq1g128",      "tq1g256",
        "q8_0",    "q6_k",    "q5_k",     "q4_k",        "q2_0",     "q1_0",         NULL};

const bench_shape *bench_product_shapes(const whit_dev_info *info, int *n) {
	/* Qwen3.6-27B's, and Qwen3.5-0.8B's; one small one where the device is emulated */
	static const bench_shape model[] = {{34816, 5120}, {5120, 17408}, {16384, 5120}, {5120, 6144},
	                                    {1024, 5120},  {7168, 1024},  {1024, 3584}};
	static const bench_shape tiny[] = {{70, 512}};
	*n = info->driver ? WHIT_COUNT(model) : WHIT_COUNT(tiny);
	return info->driver ? model : tiny;
}

void bench_product_row(bench_row *row, const products *p) {
	double rows = (double)p->m[0].rows, cols = (double)p->m[0].width;
	row->bytes = p->bytes + 4.0 * (double)p->M * (rows + cols);
	row->weights = rows * cols;
	row->flops = 2.0 * (double)p->M * row->weights;
	row->tier = whit_tier_name(whit_tier_of(p->d, &p->m[0], p->M));
}

static int shape(bench_run *b, const bench_filter *f, int64_t rows, int64_t cols, const float *x, const void *x16,
                 float *y, whit_err *e) {
	const char *const *format = bench_product_formats;
	static const int64_t Ms[] = {1, 2, 4, 8, 16, 32, 64, 128};
	bench_time blas[WHIT_COUNT(Ms)] = {{0}};
	int rc = 0;
	for (int i = 0; !rc && format[i]; i++) {
		products p = {.d = b->dev, .x = x, .y = y};
		for (int k = 0; !rc && k < WHIT_COUNT(Ms); k++) {
			bench_row row = {0};
			snprintf(row.name, sizeof row.name, "product %s %lldx%lld M=%lld", format[i], (long long)rows,
			         (long long)cols, (long long)Ms[k]);
			/* cuBLAS's time is what the others divide by */
			if (i && !bench_wants(f, row.name)) continue;
			if (!p.n && (rc = bench_ring_random(&p, format[i], rows, cols, &b->info, e))) break;
			p.M = Ms[k];
			if (!i) {
				p.x16 = x16;
				blas[k] = bench_product(&p, b->seconds, e);
				p.x16 = NULL;
			}
			if (!bench_wants(f, row.name)) continue;
			bench_product_row(&row, &p);
			row.wrong = bench_product_wrong(&p, e);
			if (!row.wrong) row.t = bench_product(&p, b->seconds, e);
			rc = e->code;
			if (row.t.median > 0) row.C = blas[k].median / row.t.median;
			bench_add(b, &row);
			if (!rc) rc = whit_interrupted(e);
		}
		bench_ring_free(&p);
	}
	return rc;
}

int bench_inputs_make(bench_inputs *b, whit_dev *d, int64_t in, int64_t out, whit_err *e) {
	uint16_t *x16 = whit_alloc(sizeof *x16 * (size_t)in);
	float *x = whit_alloc(sizeof *x * (size_t)in);
	*b = (bench_inputs){.d = d};
	fill((uint8_t *)x16, sizeof *x16 * (size_t)in, WHIT_BF16, 5);
	for (int64_t i = 0; i < in; i++) x[i] = whit_bf16_to_f32(x16[i]);
	b->x = whit_dev_alloc(d, sizeof *x * (size_t)in);
	b->x16 = whit_dev_alloc(d, sizeof *x16 * (size_t)in);
	b->y = whit_dev_alloc(d, sizeof *x * (size_t)out);
	if (b->x && b->x16) {
		whit_dev_put(d, b->x, x, sizeof *x * (size_t)in);
		whit_dev_put(d, b->x16, x16, sizeof *x16 * (size_t)in);
	}
	int rc = whit_dev_sync(d, e);
	whit_free(x16);
	whit_free(x);
	return rc;
}

void bench_inputs_free(bench_inputs *b) {
	whit_dev_free(b->d, b->x);
	whit_dev_free(b->d, b->x16);
	whit_dev_free(b->d, b->y);
}

int bench_products(bench_run *b, const bench_filter *f, whit_err *e) {
	bench_inputs in;
	int n, rc = bench_inputs_make(&in, b->dev, MOST, MOST, e);
	const bench_shape *s = bench_product_shapes(&b->info, &n);
	for (int i = 0; !rc && i < n; i++) rc = shape(b, f, s[i].rows, s[i].cols, in.x, in.x16, in.y, e);
	bench_inputs_free(&in);
	return rc;
}
