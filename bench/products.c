/* products: packed matrices times few tokens on a device (kernels.md): weights cold, in a ring of copies larger than
 * twice its L2, activations warm; a graph of at least 64 products is replayed, and a product's time is its share. In
 * the clock is all that whit_linear_cuda queues: the input's own kernel, the product, the gaps between them. */
#include "bench/run.h"
#include <math.h>
#include <stdio.h>
#include "formats/blocks.h"
#include "formats/codebook.h"
#include "formats/tensor.h"
#include "formats/twin.h"
#include "host/ops.h"
#include "host/progress.h"

enum { LAUNCHES = 64 };

typedef struct products {
	whit_dev *d;
	whit_mat *m; /* a ring of n, planes on the device */
	void **memory;
	int n, launches;
	int64_t M;
	const float *x;  /* (M, cols), on the device */
	float *y;        /* (M, rows) */
	const void *x16; /* (M, cols) BF16: then cuBLAS multiplies, m being BF16 */
	double bytes;    /* one copy */
	int64_t rank;    /* of a low-rank branch; 0: none */
	whit_low *low;   /* n */
} products;

static void queue(void *ctx, int i) {
	products *p = ctx;
	const whit_mat *m = &p->m[i % p->n];
	if (p->x16)
		whit_dev_gemm(p->d, p->y, m->rows, p->x16, m->plane[0], WHIT_BF16, p->M, m->rows, m->cols, 0);
	else
		whit_linear_low_cuda(p->d, p->y, p->x, p->M, m, p->rank ? &p->low[i % p->n] : NULL, NULL);
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

/* m's blocks as a device keeps them. */
static uint8_t *twin(whit_mat *m, const uint8_t *blocks, size_t at[WHIT_PLANES], size_t *bytes) {
	whit_mat t;
	m->plane[0] = blocks;
	if (!whit_twin_of(m, &t)) return NULL;
	at[1] = ((size_t)t.rows * t.row_bytes[0] + 255) / 256 * 256;
	*bytes = at[1] + ((size_t)t.rows * t.row_bytes[1] + 255) / 256 * 256;
	uint8_t *p = whit_alloc(*bytes + sizeof(float) * 256);
	whit_twin_rows(&t, m, 0, m->rows, p, p + at[1]);
	*m = t;
	return p;
}

static void ring_free(products *p) {
	for (int i = 0; i < p->n; i++) whit_dev_free(p->d, p->memory[i]);
	whit_free(p->memory);
	whit_free(p->m);
	whit_free(p->low);
	p->memory = NULL, p->m = NULL, p->low = NULL, p->n = 0;
}

/* format: a name, or name+rRANK for a low-rank branch beside it. */
static int ring_make(products *p, const char *format, int64_t rows, int64_t cols, size_t l2, int emulated, float *book,
                     whit_err *e) {
	const char *plus = strchr(format, '+');
	char name[32];
	snprintf(name, sizeof name, "%.*s", plus ? (int)(plus - format) : 31, format);
	p->rank = plus ? strtol(plus + 2, NULL, 10) : 0;
	whit_mat m = {.rows = rows, .cols = cols, .width = cols};
	whit_plane_desc plane[WHIT_PLANES];
	size_t at[WHIT_PLANES] = {0}, bytes = 0;
	int rc = whit_spec_parse(name, &m.spec, e), planes;
	if (!rc && m.spec.fmt->needs_codebook)
		rc = whit_codebook(book, m.spec.bits, WHIT_DENSITY_GAUSSIAN, m.spec.group ? m.spec.group : cols, e);
	if (rc) return rc;
	if ((planes = m.spec.fmt->planes(&m.spec, cols, 0, plane, e)) < 0) return e->code;
	for (int i = 0; i < planes; i++) {
		m.row_bytes[i] = plane[i].row_bytes;
		at[i] = bytes, bytes += (plane[i].row_bytes * (size_t)rows + 255) / 256 * 256;
	}
	size_t book_at = bytes;
	uint8_t *host = whit_alloc(bytes + sizeof(float) * 256);
	int block = m.spec.fmt->block != NULL;
	if (block) fill_blocks(&m, host);
	for (int i = 0; i < planes && !block; i++)
		fill(host + at[i], plane[i].row_bytes * (size_t)rows,
		     planes == 1 ? WHIT_BF16
		     : i         ? WHIT_F16
		                 : 0,
		     (uint64_t)i);
	uint8_t *changed = block ? twin(&m, host, at, &bytes) : NULL;
	if (changed) {
		whit_free(host);
		host = changed, planes = 2;
	}
	if (m.spec.fmt->needs_codebook) {
		if (!m.codebook) m.codebook = book;
		whit_mat_mirror(&m);
		memcpy(host + bytes, m.codebook, sizeof(float) << m.spec.bits);
		bytes += sizeof(float) << m.spec.bits;
	}
	size_t low_at = (bytes + 255) / 256 * 256, half = (size_t)p->rank * 2;
	if (p->rank) { /* B A x is to be about as large as what it is added to */
		host = whit_realloc(host, bytes, low_at + half * (size_t)(rows + cols));
		bytes = low_at + half * (size_t)(rows + cols);
		fill(host + low_at, half * (size_t)(rows + cols), WHIT_F16, 9);
	}
	p->n = (int)WHIT_MAX(2, WHIT_MIN(LAUNCHES, 2 * l2 / bytes + 1));
	p->launches = LAUNCHES / p->n * p->n;
	if (emulated) p->n = p->launches = 2;
	p->bytes = (double)bytes;
	p->m = whit_alloc(sizeof *p->m * (size_t)p->n);
	p->low = whit_alloc(sizeof *p->low * (size_t)p->n);
	p->memory = whit_alloc(sizeof *p->memory * (size_t)p->n);
	memset(p->memory, 0, sizeof *p->memory * (size_t)p->n);
	for (int i = 0; i < p->n; i++) {
		uint8_t *to = p->memory[i] = whit_dev_alloc(p->d, bytes);
		if (!to) break;
		whit_dev_put(p->d, to, host, bytes);
		p->m[i] = m;
		for (int k = 0; k < planes; k++) p->m[i].plane[k] = to + at[k];
		if (m.codebook) p->m[i].codebook = (const float *)(const void *)(to + book_at);
		const uint16_t *a = (const uint16_t *)(const void *)(to + low_at);
		p->low[i] = (whit_low){a, a + p->rank * cols, p->rank, 0x1p-10f};
	}
	rc = whit_dev_sync(p->d, e);
	whit_free(host);
	return rc;
}

/* The fast kernels against the plain one: within 2^-9 of the largest value (levels of a table are F16, 2^-12 of their
 * size, and random signs add up less than sizes do). NaN, and what the poison left, fail. */
static int wrong(products *p, whit_err *e) {
	int64_t n = p->M * p->m[0].rows;
	float *a = whit_alloc(sizeof *a * (size_t)n), *b = whit_alloc(sizeof *b * (size_t)n);
	double top = 0;
	int bad = 0;
	memset(a, 0xff, sizeof *a * (size_t)n);
	whit_dev_reset(p->d);
	whit_dev_put(p->d, p->y, a, sizeof *a * (size_t)n);
	queue(p, p->n - 1);
	whit_dev_get(p->d, a, p->y, sizeof *a * (size_t)n);
	int was = whit_dev_plain(p->d, 1);
	queue(p, p->n - 1);
	whit_dev_plain(p->d, was);
	whit_dev_get(p->d, b, p->y, sizeof *b * (size_t)n);
	bad = whit_dev_sync(p->d, e);
	for (int64_t i = 0; i < n; i++) top = fmax(top, fabs((double)b[i]));
	for (int64_t i = 0; i < n; i++) bad |= !(fabs((double)a[i] - b[i]) <= top * 0x1p-9);
	whit_free(a);
	whit_free(b);
	return bad;
}

static int shape(bench_run *b, const bench_filter *f, int64_t rows, int64_t cols, const float *x, const void *x16,
                 float *y, whit_err *e) {
	static const char *const format[] = {"bf16",         "tq8g128",       "int8g128", "tq4g128", "int4g128",
	                                     "int4g128+r32", "int4g128+r128", "int4g32",  "tq3g128", "tq2g128",
	                                     "tq2g128+r32",  "int2g128",      "tq1g128",  "tq1g256", "q8_0",
	                                     "q6_k",         "q5_k",          "q4_k",     "q2_0",    "q1_0"};
	static const int64_t Ms[] = {1, 2, 4, 8, 16, 32};
	bench_time blas[WHIT_COUNT(Ms)] = {{0}};
	int rc = 0;
	for (int i = 0; !rc && i < WHIT_COUNT(format); i++) {
		products p = {.d = b->dev, .x = x, .y = y};
		float book[256];
		for (int k = 0; !rc && k < WHIT_COUNT(Ms); k++) {
			bench_row row = {0};
			snprintf(row.name, sizeof row.name, "product %s %lldx%lld M=%lld", format[i], (long long)rows,
			         (long long)cols, (long long)Ms[k]);
			/* cuBLAS's time is what the others divide by */
			if (i && !bench_wants(f, row.name)) continue;
			if (!p.n && (rc = ring_make(&p, format[i], rows, cols, b->info.l2, !b->info.driver, book, e)))
				break;
			p.M = Ms[k];
			if (!i) {
				p.x16 = x16;
				blas[k] = bench_queued(p.d, queue, &p, p.launches, b->seconds, e);
				p.x16 = NULL;
			}
			if (!bench_wants(f, row.name)) continue;
			row.wrong = wrong(&p, e);
			if (!row.wrong) row.t = bench_queued(p.d, queue, &p, p.launches, b->seconds, e);
			rc = e->code;
			row.bytes = p.bytes + 4.0 * (double)(p.M * (rows + cols));
			row.weights = (double)rows * (double)cols;
			row.flops = 2.0 * (double)p.M * row.weights;
			if (row.t.median > 0) row.C = blas[k].median / row.t.median;
			bench_add(b, &row);
			if (!rc) rc = whit_interrupted(e);
		}
		ring_free(&p);
	}
	return rc;
}

int bench_products(bench_run *b, const bench_filter *f, whit_err *e) {
	/* Qwen3.6-27B's, and Qwen3.5-0.8B's; one small one where the device is emulated */
	static const int64_t model[][2] = {{34816, 5120}, {5120, 17408}, {16384, 5120}, {5120, 6144},
	                                   {1024, 5120},  {7168, 1024},  {1024, 3584}};
	static const int64_t tiny[][2] = {{70, 512}};
	int small = !b->info.driver, n = small ? WHIT_COUNT(tiny) : WHIT_COUNT(model), rc = 0;
	int64_t most = 32 * 34816;
	uint16_t *x16 = whit_alloc(sizeof *x16 * (size_t)most);
	float *x = whit_alloc(sizeof *x * (size_t)most);
	fill((uint8_t *)x16, sizeof *x16 * (size_t)most, WHIT_BF16, 5);
	for (int64_t i = 0; i < most; i++) x[i] = whit_bf16_to_f32(x16[i]);
	size_t bytes = sizeof *x * (size_t)most;
	float *dx = whit_dev_alloc(b->dev, bytes), *y = whit_dev_alloc(b->dev, bytes);
	uint16_t *dx16 = whit_dev_alloc(b->dev, bytes / 2);
	if (dx && y && dx16) {
		whit_dev_put(b->dev, dx, x, bytes);
		whit_dev_put(b->dev, dx16, x16, bytes / 2);
	}
	rc = whit_dev_sync(b->dev, e);
	for (int i = 0; !rc && i < n; i++) {
		const int64_t *s = small ? tiny[i] : model[i];
		rc = shape(b, f, s[0], s[1], dx, dx16, y, e);
	}
	whit_dev_free(b->dev, dx);
	whit_dev_free(b->dev, dx16);
	whit_dev_free(b->dev, y);
	whit_free(x16);
	whit_free(x);
	return rc;
}
