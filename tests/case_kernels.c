/* kernels: the library's calls (cuda/whit_kernels.h) give what whit's own twins give, and refuse what they cannot do,
 * with a word about it and nothing written. */
#include "cuda/whit_kernels.h"
#include <math.h>
#include "formats/tensor.h"
#include "host/ops.h"
#include "tests/case_mat.h"

static const struct {
	const char *format;
	int64_t rows, cols, T;
	int scale_f32;
} rows[] = {{"bf16", 33, 96, 3, 0},   {"tq4g128", 40, 256, 1, 0}, {"tq3g64", 17, 128, 9, 0}, {"int8", 20, 100, 40, 0},
            {"int2g32", 9, 64, 2, 1}, {"q4_k", 8, 256, 1, 0},     {"q1_0", 8, 128, 4, 0},    {"f32", 5, 31, 2, 0}};

static void refused(case_run *r, whit_kernels *k, int rc, int code, const char *word) {
	if (rc != code || !strstr(whit_kernels_error(k), word))
		case_fail(r, "code %d, \"%s\", need %d and \"%s\"", rc, rc ? whit_kernels_error(k) : "", code, word);
}

static void bad_input(case_run *r, whit_kernels *k, const whit_kernels_matrix *good, float *y, const float *x) {
	whit_kernels_plane p[WHIT_KERNELS_PLANES];
	whit_kernels_rotation *rot;
	whit_kernels_matrix m = *good;
	enum { BAD = WHIT_KERNELS_EUSAGE };
	float wrong[16];
	refused(r, k, whit_kernels_linear(k, y, x, 0, &m, NULL, 1), BAD, "tokens: is 0");
	refused(r, k, whit_kernels_linear(k, NULL, x, 1, &m, NULL, 1), BAD, "y: is NULL");
	refused(r, k, whit_kernels_linear(k, y, (const float *)((uintptr_t)x + 2), 1, &m, NULL, 1), BAD,
	        "x: lies 2 bytes off");
	refused(r, k, whit_kernels_decode(k, y, &m, 1, m.rows), BAD, "the matrix has");
	refused(r, k, whit_kernels_decode(k, y, &m, 0, 0), BAD, "rows to decode: is 0");
	m.rank = -1;
	refused(r, k, whit_kernels_linear(k, y, x, 1, &m, NULL, 1), BAD, "rank is -1");
	m.rank = 8, m.low_a = NULL;
	refused(r, k, whit_kernels_linear(k, y, x, 1, &m, NULL, 1), BAD, "low_a: is NULL");
	m = *good, m.plane[0] = NULL;
	refused(r, k, whit_kernels_linear(k, y, x, 1, &m, NULL, 1), BAD, "plane: is NULL");
	m = (whit_kernels_matrix){.format = "tq4g100", .rows = 4, .cols = 200};
	refused(r, k, whit_kernels_planes(k, &m, p), BAD, "tq4g100");
	m.format = "tq4g128";
	refused(r, k, whit_kernels_planes(k, &m, p), BAD, "128");
	m.format = "q4_k";
	refused(r, k, whit_kernels_planes(k, &m, p), BAD, "256");
	m.format = "frc128";
	refused(r, k, whit_kernels_planes(k, &m, p), BAD, "need one of rows");
	m.format = NULL;
	refused(r, k, whit_kernels_planes(k, &m, p), BAD, "no format");
	m.format = "int8", m.rows = 0;
	refused(r, k, whit_kernels_planes(k, &m, p), BAD, "rows: is 0");
	for (int i = 0; i < 16; i++) wrong[i] = (float)-i;
	m = (whit_kernels_matrix){.format = "tq4g64", .rows = 1, .cols = 64, .plane = {y, y}, .codebook = wrong};
	refused(r, k, whit_kernels_linear(k, y, x, 1, &m, NULL, 1), BAD, "ascending");
	refused(r, k, whit_kernels_fwht(k, y, 1, 24), BAD, "power of two");
	refused(r, k, whit_kernels_fwht_stored(k, y, 3, 1, 16), BAD, "storage: is 3");
	refused(r, k, whit_kernels_fwht_stored(k, (char *)y + 1, WHIT_KERNELS_F16, 1, 16), BAD, "x: lies 1 bytes off");
	refused(r, k, whit_kernels_fwht_stored(k, NULL, WHIT_KERNELS_BF16, 1, 16), BAD, "x: is NULL");
	refused(r, k, whit_kernels_fwht_stored(k, y, WHIT_KERNELS_BF16, 1, 24), BAD, "power of two");
	refused(r, k, whit_kernels_gram(k, y, NULL, 2, 2), BAD, "x: is NULL");
	refused(r, k, whit_kernels_square_sums(k, NULL, (double *)(void *)((char *)y + 4), NULL, x, 1, 1), BAD,
	        "row: lies 4 bytes off");
	refused(r, k, whit_kernels_kmeans_assign(k, (int32_t *)(void *)y, y, x, NULL, x, 1, 1, 0), BAD,
	        "centroids: is 0");
	refused(r, k, whit_kernels_lloyd(k, y, (double *)(void *)y, x, NULL, 1, 8193, 2, 0), BAD, "n: is 8193");
	refused(r, k, whit_kernels_lloyd(k, y, (double *)(void *)y, x, NULL, 1, 4, 257, 1), BAD, "levels: is 257");
	refused(r, k, whit_kernels_lloyd(k, y, (double *)(void *)y, x, NULL, 0, 4, 2, 0), BAD, "rows: is 0");
	refused(r, k, whit_kernels_rotation_new(k, &rot, 64, 65, 1), BAD, "group: is 65");
	refused(r, k, whit_kernels_rotate(k, NULL, y, x, 1), BAD, "rotation: is NULL");
}

/* The library has another queue than r's device, which is to have done its copies. */
static void copied(case_run *r) {
	whit_err e;
	if (whit_dev_sync(r->dev, &e)) case_fail(r, "%s", e.text);
}

/* A branch of rank 1, all ones: y gains the sum of a token's x, and half of it at scale 0.5. */
static void branch(case_run *r, whit_kernels *k, whit_kernels_matrix m, float *y, const float *dx, const float *x,
                   const float *was, int64_t T) {
	int64_t n = WHIT_MAX(m.rows, m.cols);
	uint16_t *ones = case_host(r, (size_t)n * sizeof *ones);
	float *want = case_host(r, (size_t)(T * m.rows) * sizeof *want),
	      *mag = case_host(r, (size_t)(T * m.rows) * sizeof *mag);
	for (int64_t i = 0; i < n; i++) ones[i] = whit_f32_to_f16(1);
	m.low_a = m.low_b = case_in(r, ones, (size_t)n * sizeof *ones);
	m.rank = 1, m.low_scale = 0.5f;
	for (int64_t i = 0; i < T * m.rows; i++) {
		double sum = 0, all = 0;
		for (int64_t c = 0; c < m.cols; c++)
			sum += x[i / m.rows * m.cols + c], all += fabsf(x[i / m.rows * m.cols + c]);
		want[i] = (float)(was[i] + 0.5 * sum), mag[i] = (float)(fabsf(was[i]) + all);
	}
	copied(r);
	if (whit_kernels_linear(k, y, dx, T, &m, NULL, 1) || whit_kernels_sync(k))
		case_fail(r, "%s", whit_kernels_error(k));
	case_near(r, y, want, mag, T * m.rows, 0x1p-18);
}

/* Halves, transformed, are the CPU's; n floats' bits. */
static void transformed(case_run *r, whit_kernels *k) {
	enum { ROWS = 6, N = 256, WORDS = ROWS * N / 2 };
	float *x = case_normal(r, ROWS * N);
	uint16_t *want = case_host(r, ROWS * N * sizeof *want);
	for (int storage = WHIT_KERNELS_F16; storage <= WHIT_KERNELS_BF16; storage++) {
		int f16 = storage == WHIT_KERNELS_F16;
		for (int i = 0; i < ROWS * N; i++) want[i] = f16 ? whit_f32_to_f16(x[i]) : whit_f32_to_bf16(x[i]);
		float *y = case_inout(r, (const float *)(const void *)want, WORDS);
		whit_fwht_stored_cpu(want, f16 ? WHIT_F16 : WHIT_BF16, ROWS, N);
		copied(r);
		if (whit_kernels_fwht_stored(k, y, storage, ROWS, N) || whit_kernels_sync(k))
			case_fail(r, "%s", whit_kernels_error(k));
		case_bits(r, y, (const uint32_t *)(const void *)want, WORDS);
	}
}

/* Rotated there and back. */
static void turn(case_run *r, whit_kernels *k) {
	enum { ROWS = 3, COLS = 192 };
	whit_kernels_rotation *rot;
	float *x = case_normal(r, ROWS * COLS);
	if (whit_kernels_rotation_new(k, &rot, COLS, 64, 5)) case_fail(r, "%s", whit_kernels_error(k));
	int64_t width = whit_kernels_rotation_width(rot);
	const float *at = case_in(r, x, ROWS * COLS * sizeof *x);
	float *y = case_out(r, ROWS * width), *back = case_out(r, ROWS * COLS);
	copied(r);
	if (whit_kernels_rotate(k, rot, y, at, ROWS) || whit_kernels_rotate_back(k, rot, back, y, ROWS))
		case_fail(r, "%s", whit_kernels_error(k));
	whit_kernels_rotation_free(k, rot);
	case_near(r, back, x, NULL, ROWS * COLS, 1e-5);
}

/* Codebooks of rows are the CPU's. */
static void codebooks(case_run *r, whit_kernels *k) {
	enum { ROWS = 3, N = 70, K = 4 };
	float *x = case_normal(r, ROWS * N), want[ROWS * K];
	double loss[ROWS];
	const float *at = case_in(r, x, ROWS * N * sizeof *x);
	for (int exact = 0; exact < 2; exact++) {
		float *y = case_out(r, ROWS * K);
		double *l = (double *)(void *)case_out(r, 2 * ROWS);
		whit_lloyd_cpu(want, loss, x, NULL, ROWS, N, K, exact);
		copied(r);
		if (whit_kernels_lloyd(k, y, l, at, NULL, ROWS, N, K, exact) || whit_kernels_sync(k))
			case_fail(r, "%s", whit_kernels_error(k));
		case_bits(r, y, (const uint32_t *)(const void *)want, ROWS * K);
		case_bits(r, l, (const uint32_t *)(const void *)loss, 2 * ROWS);
	}
}

static void row(case_run *r, int i) {
	whit_err e = {0};
	whit_kernels *k;
	char text[256] = "";
	int64_t N = rows[i].rows, K = rows[i].cols, T = rows[i].T;
	if (case_skip(r, !r->dev)) return;
	case_label(r, "%s, %lld x %lld, %lld tokens", rows[i].format, (long long)N, (long long)K, (long long)T);
	if (whit_kernels_open(&k, 0, NULL, text, sizeof text)) {
		case_fail(r, "%s", text);
		return;
	}
	whit_kernels_matrix m = {.format = rows[i].format, .rows = N, .cols = K, .scale_f32 = rows[i].scale_f32};
	whit_kernels_plane p[WHIT_KERNELS_PLANES];
	int n = whit_kernels_planes(k, &m, p);
	whit_mat own = {.rows = N, .cols = K, .width = K, .scale_f32 = rows[i].scale_f32};
	if (n < 0 || whit_spec_parse(rows[i].format, &own.spec, &e)) case_fail(r, "%s", whit_kernels_error(k));
	whit_spec_resolve(&own.spec, K);
	if (whit_mat_alloc(&own, &e)) case_fail(r, "%s", e.text);
	for (int q = 0; q < n; q++) {
		if (p[q].bytes != whit_plane_bytes(&own, q) || p[q].row_bytes != own.row_bytes[q])
			case_fail(r, "plane %d is %zu bytes, need %zu", q, p[q].bytes, whit_plane_bytes(&own, q));
		m.plane[q] = case_out(r, (int64_t)(p[q].bytes + 3) / 4);
	}
	float *w = case_normal(r, N * K), *x = case_normal(r, T * K), *bias = case_normal(r, N), book[256];
	int64_t beyond = -1, zero = 0;
	for (int q = 0; q < 256; q++) book[q] = (float)(q - (1 << own.spec.bits) / 2) + 0.5f;
	if (own.spec.fmt->needs_codebook) m.codebook = own.codebook = book;
	const float *dw = case_in(r, w, (size_t)(N * K) * sizeof *w);
	copied(r);
	if (whit_kernels_encode(k, &m, dw, NULL, &beyond)) case_fail(r, "%s", whit_kernels_error(k));
	for (int64_t o = 0; o < N; o++) own.spec.fmt->encode(&own, o, w + o * K, NULL, WHIT_SCALE_LS, &zero);
	if (beyond != 0) case_fail(r, "%lld scales beyond a half", (long long)beyond);
	float *want = case_host(r, (size_t)(N * K) * sizeof *want), *y = case_host(r, (size_t)(T * N) * sizeof *y),
	      *mag = case_host(r, (size_t)(T * N) * sizeof *mag), *out = case_out(r, N * K),
	      *product = case_out(r, T * N);
	whit_mat_decode(&own, 0, N, want);
	for (int64_t a = 0; a < T * N; a++) {
		double sum = bias[a % N], all = fabs(sum);
		for (int64_t c = 0; c < K; c++) {
			sum += (double)want[a % N * K + c] * x[a / N * K + c];
			all += fabs((double)want[a % N * K + c] * x[a / N * K + c]);
		}
		y[a] = (float)sum, mag[a] = (float)all;
	}
	const float *dx = case_in(r, x, (size_t)(T * K) * sizeof *x), *db = case_in(r, bias, (size_t)N * sizeof *bias);
	copied(r);
	if (whit_kernels_decode(k, out, &m, 0, N) || whit_kernels_linear(k, product, dx, T, &m, db, 1) ||
	    whit_kernels_sync(k))
		case_fail(r, "%s", whit_kernels_error(k));
	case_same(r, out, want, N * K);
	case_near(r, product, y, mag, T * N,
	          0x1p-11); /* tables' levels are halves; the products' own cases are closer */
	if (i == 0) bad_input(r, k, &m, product, dx);
	if (i == 1) turn(r, k), transformed(r, k), codebooks(r, k);
	size_t kept = whit_kernels_memory(k);
	for (int again = 0; again < 3; again++)
		if (whit_kernels_linear(k, product, dx, T, &m, NULL, 1)) case_fail(r, "%s", whit_kernels_error(k));
	if (whit_kernels_sync(k) || whit_kernels_memory(k) != kept) case_fail(r, "calls leave memory behind");
	if (whit_kernels_get(k, y, product, (size_t)(T * N) * sizeof *y)) case_fail(r, "%s", whit_kernels_error(k));
	branch(r, k, m, case_out(r, T * N), dx, x, y, T);
	whit_kernels_close(k);
	whit_mat_free(&own);
}

const case_set cases_kernels = {"kernels", WHIT_COUNT(rows), row, 0};
