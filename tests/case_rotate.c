/* rotate: rotations of every kind and their inverses, plain kernels and fast ones: the CPU's bits, but for a dense
 * rotation. The CPU's plain level against its vectors. */
#include <math.h>
#include "formats/rotation.h"
#include "tests/case.h"

static const struct {
	int kind;
	int64_t rows, dim, group; /* the plan chooses blocks and base */
} rows[] = {{WHIT_ROT_NONE, 3, 100, 0},
            {WHIT_ROT_HADAMARD, 0, 128, 0},
            {WHIT_ROT_HADAMARD, 1, 128, 0},
            {WHIT_ROT_HADAMARD, 7, 256, 0},
            {WHIT_ROT_HADAMARD, 9, 512, 0},
            {WHIT_ROT_HADAMARD, 1, 1024, 0},
            {WHIT_ROT_HADAMARD, 3, 64, 0},
            {WHIT_ROT_HADAMARD, 3, 32, 0},
            {WHIT_ROT_HADAMARD, 5, 8, 0},
            {WHIT_ROT_HADAMARD, 2, 1, 0},
            {WHIT_ROT_HADAMARD, 7, 768, 256},
            {WHIT_ROT_HADAMARD, 9, 384, 128},
            {WHIT_ROT_HADAMARD, 7, 172, 128},
            {WHIT_ROT_HADAMARD, 3, 300, 256},
            {WHIT_ROT_HADAMARD, 2, 100, 0},
            {WHIT_ROT_HADAMARD, 7, 48, 0},
            {WHIT_ROT_HADAMARD, 9, 12, 0},
            {WHIT_ROT_HADAMARD, 1, 768, 0},
            {WHIT_ROT_HADAMARD, 7, 160, 0},
            {WHIT_ROT_HADAMARD, 9, 40, 0},
            {WHIT_ROT_HADAMARD, 1, 2560, 0},
            {WHIT_ROT_HADAMARD, 7, 896, 0},
            {WHIT_ROT_HADAMARD, 9, 28, 0},
            {WHIT_ROT_HADAMARD, 3, 3584, 0},
            {WHIT_ROT_HADAMARD, 1, 5120, 0},
            {WHIT_ROT_HADAMARD, 1, 6144, 0},
            {WHIT_ROT_HADAMARD, 1, 16384, 0},
            {WHIT_ROT_HADAMARD, 1, 32768, 0},
            {WHIT_ROT_HADAMARD, 2, 17408, 0},
            {WHIT_ROT_HADAMARD, 1, 28672, 0},
            {WHIT_ROT_TQ3, 7, 300, 128},
            {WHIT_ROT_TQ3, 1, 128, 128},
            {WHIT_ROT_TQ3, 2, 100, 16},
            {WHIT_ROT_TQ3, 1, 3000, 1024},
            {WHIT_ROT_HAAR_QR, 9, 5, 0},
            {WHIT_ROT_HAAR_QR, 7, 100, 0},
            /* odd lengths, columns of blocks, tiny blocks and columns, four rows a block of threads */
            {WHIT_ROT_HADAMARD, 6, 1152, 128},
            {WHIT_ROT_HADAMARD, 5, 333, 128},
            {WHIT_ROT_HADAMARD, 9, 1280, 256},
            {WHIT_ROT_HADAMARD, 3, 530, 64},
            {WHIT_ROT_HADAMARD, 5, 4, 0},
            {WHIT_ROT_HADAMARD, 3, 2, 0},
            {WHIT_ROT_HADAMARD, 3, 20, 0},
            {WHIT_ROT_HADAMARD, 2, 24, 0},
            {WHIT_ROT_HADAMARD, 2, 56, 0},
            {WHIT_ROT_HADAMARD, 1, 12288, 0},
            {WHIT_ROT_HADAMARD, 1, 20480, 0},
            {WHIT_ROT_HADAMARD, 1, 24576, 0},
            {WHIT_ROT_HADAMARD, 3, 2048, 0},
            {WHIT_ROT_HADAMARD, 2, 4096, 0},
            {WHIT_ROT_HADAMARD, 1, 8192, 0},
            {WHIT_ROT_TQ3, 3, 6, 4},
            {WHIT_ROT_TQ3, 3, 3, 2},
            {WHIT_ROT_TQ3, 3, 4099, 512},
            {WHIT_ROT_TQ3, 1, 5000, 4096},
            {WHIT_ROT_TQ3, 66000, 6, 4},
            {WHIT_ROT_HADAMARD, 4096, 5120, 0},
            {WHIT_ROT_HADAMARD, 4096, 5120, 128}};

/* Float sums of one CPU differ from another's by a step each: of width terms in any order by width * 2^-24 of their
 * magnitudes' sum, which is at most sqrt(width) |x| for a unit row. */
static double dense_tolerance(const float *x, int64_t rows, int64_t n) {
	double most = 0;
	for (int64_t r = 0; r < rows; r++, x += n) {
		double sum = 0;
		for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
		most = fmax(most, sqrt(sum));
	}
	return 2 * (double)n * 0x1p-24 * most;
}

static void check(case_run *r, const whit_rotation *rot, const float *x, const float *want, const float *back,
                  int64_t n) {
	int64_t dim = whit_rotation_get(rot)->dim, width = whit_rotation_width(rot);
	int dense = whit_rotation_dense(rot) != NULL;
	double tol = dense ? dense_tolerance(x, n, dim) : 0;
	float *y = case_out(r, n * width), *z = case_out(r, n * dim);
	float *work = case_inout(r, want, n * width);
	const float *in = case_in(r, x, (size_t)(n * dim) * sizeof *x);
	if (r->dev) {
		whit_rotate_cuda(r->dev, rot, y, in, n);
		whit_unrotate_cuda(r->dev, rot, z, work, n);
	} else {
		whit_rotate_cpu(rot, y, in, n);
		whit_unrotate_cpu(rot, z, work, n);
	}
	if (dense) {
		case_near(r, y, want, NULL, n * width, tol);
		case_near(r, z, back, NULL, n * dim, tol);
	} else {
		case_same(r, y, want, n * width);
		case_same(r, z, back, n * dim);
	}
}

static void row(case_run *r, int i) {
	int64_t n = rows[i].rows, dim = rows[i].dim;
	whit_rotation_spec s;
	whit_rotation *rot;
	whit_err e = {0};
	if (case_skip_big(r, n * dim > 100000)) return;
	if (whit_rotation_plan(&s, rows[i].kind, 7, dim, rows[i].group, &e) || whit_rotation_new(&rot, &s, NULL, &e)) {
		case_fail(r, "%s", e.text);
		return;
	}
	int64_t width = whit_rotation_width(rot);
	case_label(r, "%s %lld x %lld, block %lld, base %d", whit_rotation_kind_name(s.kind), (long long)n,
	           (long long)dim, (long long)s.block, s.base);
	float *x = case_normal(r, n * dim), *want = case_host(r, (size_t)(n * width) * sizeof *x);
	float *work = case_host(r, (size_t)(n * width) * sizeof *x),
	      *back = case_host(r, (size_t)(n * dim) * sizeof *x);
	whit_cpu_cap(0);
	whit_rotate_cpu(rot, want, x, n);
	memcpy(work, want, (size_t)(n * width) * sizeof *x);
	whit_unrotate_cpu(rot, back, work, n);
	whit_cpu_cap(WHIT_CPU_TOP);
	double most = 0; /* two maps of log2(width) + 28 roundings each, dense ones of width */
	for (int64_t k = 0; k < n * dim; k++) most = fmax(most, fabs((double)back[k] - x[k]));
	double loss = s.kind == WHIT_ROT_HAAR_QR ? 2 * dense_tolerance(x, n, dim) : 2 * 48 * 0x1p-24 * 6;
	if (!(most <= loss)) case_fail(r, "the inverse is off by %g, need at most %g", most, loss);
	check(r, rot, x, want, back, n);
	if (r->dev && s.block > 16384) {
		case_shared(r->dev, 227 << 10); /* an H100's */
		check(r, rot, x, want, back, n);
		case_shared(r->dev, 0);
	}
	if (r->dev) {
		int was = whit_dev_plain(r->dev, 1);
		check(r, rot, x, want, back, n);
		whit_dev_plain(r->dev, was);
		if (whit_dev_sync(r->dev, &e)) case_fail(r, "%s", e.text);
	}
	whit_rotation_free(rot);
}

const case_set cases_rotate = {"rotate", WHIT_COUNT(rows), row, 0};
