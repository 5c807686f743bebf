/* gemv: up to three matrices on one input of few tokens, with norm or swiglu before and bias and residual behind. The
 * reference multiplies decoded weights in double. The device's alone: on the CPU these are separate ops. */
#include "formats/rotation.h"
#include "host/ops.h"
#include "tests/case_mat.h"
#include <math.h>
#include <stdlib.h>

static const struct {
	int64_t T, K; /* K brought to what the first format takes */
	int pre, bias, add;
	struct {
		const char *format;
		int64_t rows, paired, shift; /* shift: bytes that the plane lies off 256 */
	} w[3];
	int64_t rot; /* block of a Hadamard rotation behind pre; 0: none */
} rows[] = {
        /* each type of weights, each number of tokens, and of matrices; tails of loads, rows, blocks */
        {1, 512, WHIT_PRE_NONE, 0, 0, {{"bf16", 37, 0, 0}}, 0},
        {1, 1024, WHIT_PRE_NORM, 0, 0, {{"bf16", 16, 0, 0}, {"bf16", 4, 0, 0}, {"bf16", 5, 0, 0}}, 0},
        {1, 1032, WHIT_PRE_SWIGLU, 1, 1, {{"bf16", 9, 0, 0}, {"bf16", 1, 0, 0}}, 0},
        {1, 8, WHIT_PRE_NORM, 1, 0, {{"f16", 3, 0, 0}}, 0},
        {2, 264, WHIT_PRE_NORM, 0, 1, {{"f16", 18, 6, 0}, {"f16", 12, 4, 0}, {"f16", 7, 0, 0}}, 0},
        {3, 520, WHIT_PRE_SWIGLU, 0, 1, {{"bf16", 33, 0, 0}}, 0},
        {4, 100, WHIT_PRE_NONE, 1, 1, {{"f32", 13, 0, 0}, {"f32", 6, 0, 16}}, 0},
        {5, 256, WHIT_PRE_NORM, 0, 0, {{"f32", 8, 8, 0}}, 0},
        {6, 776, WHIT_PRE_NONE, 1, 0, {{"bf16", 21, 0, 0}, {"bf16", 2, 0, 0}}, 0},
        {7, 640, WHIT_PRE_SWIGLU, 1, 1, {{"f16", 11, 0, 0}}, 0},
        {8, 512, WHIT_PRE_NORM, 1, 1, {{"bf16", 10, 0, 0}, {"bf16", 10, 10, 0}, {"bf16", 3, 0, 0}}, 0},
        /* shares of warps that end within rows: rows of two, three, many warps, warps with nothing */
        {1, 5000, WHIT_PRE_NORM, 1, 1, {{"bf16", 40, 0, 0}, {"bf16", 10, 10, 0}, {"bf16", 4, 0, 0}}, 0},
        {1, 20000, WHIT_PRE_NONE, 0, 1, {{"bf16", 9, 0, 0}}, 0},
        {1, 10008, WHIT_PRE_SWIGLU, 0, 0, {{"f16", 5, 0, 0}}, 0},
        {2, 3008, WHIT_PRE_NONE, 0, 0, {{"f16", 31, 0, 0}}, 0},
        {4, 2100, WHIT_PRE_NORM, 1, 0, {{"f32", 50, 0, 0}}, 0},
        {8, 2504, WHIT_PRE_NONE, 0, 1, {{"bf16", 40, 0, 0}, {"bf16", 3, 0, 0}}, 0},
        /* an input beyond shared memory */
        {1, 26000, WHIT_PRE_NORM, 0, 1, {{"bf16", 5, 0, 0}}, 0},
        {2, 13000, WHIT_PRE_SWIGLU, 0, 0, {{"f16", 3, 0, 0}}, 0},
        {4, 6400, WHIT_PRE_NONE, 0, 0, {{"f32", 2, 0, 0}}, 0},
        {8, 3584, WHIT_PRE_NORM, 0, 0, {{"bf16", 6, 0, 0}}, 0},
        {7, 3584, WHIT_PRE_SWIGLU, 0, 1, {{"f16", 6, 0, 0}, {"f16", 2, 0, 0}}, 0},
        {5, 6400, WHIT_PRE_NORM, 1, 1, {{"bf16", 6, 0, 0}}, 0},
        {8, 3584, WHIT_PRE_NORM, 0, 0, {{"q8_0", 6, 0, 0}}, 0},
        /* planes and rows that are not aligned */
        {1, 128, WHIT_PRE_NONE, 0, 0, {{"bf16", 9, 0, 2}, {"bf16", 9, 0, 0}}, 0},
        {3, 129, WHIT_PRE_NORM, 1, 1, {{"bf16", 5, 0, 1}, {"f16", 4, 0, 0}, {"f32", 3, 0, 3}}, 0},
        /* formats mixed; blocks; codes */
        {1, 256, WHIT_PRE_NORM, 0, 1, {{"q4_k", 9, 0, 0}, {"bf16", 9, 0, 0}, {"q6_k", 4, 0, 0}}, 0},
        {2, 256, WHIT_PRE_SWIGLU, 1, 0, {{"f16", 9, 0, 0}, {"bf16", 8, 0, 0}, {"f32", 4, 0, 0}}, 0},
        {1, 512, WHIT_PRE_NORM, 1, 1, {{"tq3g128", 6, 6, 0}, {"tq4g64", 3, 0, 0}}, 0},
        {7, 300, WHIT_PRE_NORM, 1, 0, {{"int3g64", 6, 0, 1}, {"int8", 3, 0, 0}, {"int2", 3, 0, 0}}, 0},
        {1, 96, WHIT_PRE_SWIGLU, 0, 0, {{"q8_0", 70, 0, 0}}, 0},
        /* packed ones in one launch; more blocks than a matrix has rows; and of two kinds */
        {1, 512, WHIT_PRE_NORM, 1, 1, {{"tq4g128", 70, 0, 0}, {"tq4g128", 34, 34, 0}, {"tq4g128", 17, 0, 0}}, 0},
        {3, 384, WHIT_PRE_SWIGLU, 0, 1, {{"int4g128", 40, 0, 0}, {"int2g128", 33, 0, 0}, {"int4g128", 9, 0, 0}}, 0},
        {1, 1024, WHIT_PRE_NORM, 1, 0, {{"int8g128", 1, 0, 0}, {"int8g128", 1, 0, 0}, {"int8g128", 1, 0, 0}}, 0},
        {1, 640, WHIT_PRE_NONE, 0, 0, {{"tq1g128", 300, 0, 0}, {"tq1g128", 2, 0, 0}}, 0},
        {8, 384, WHIT_PRE_NORM, 0, 1, {{"tq2g128", 20, 0, 0}, {"tq2g128", 50, 0, 0}}, 0},
        /* rotated: by warps, by blocks, a row in one; norms too, which a warp does not know */
        {1, 512, WHIT_PRE_NORM, 0, 0, {{"tq4g128", 20, 0, 0}, {"tq4g128", 9, 0, 0}}, 512},
        {2, 1024, WHIT_PRE_NORM, 0, 1, {{"tq4g256", 20, 0, 0}, {"bf16", 9, 0, 0}}, 1024},
        {3, 1536, WHIT_PRE_SWIGLU, 1, 0, {{"tq2g256", 20, 0, 0}}, 256},
        {1, 2048, WHIT_PRE_NORM, 0, 0, {{"tq3g128", 20, 0, 0}, {"int4g128", 9, 0, 0}}, 2048},
        {2, 768, WHIT_PRE_NONE, 0, 0, {{"tq8g128", 20, 0, 0}}, 768},
        {1, 768, WHIT_PRE_SWIGLU, 0, 1, {{"f16", 20, 0, 0}}, 768},
        {8, 256, WHIT_PRE_NONE, 0, 1, {{"q3_k", 3, 0, 0}, {"iq4_xs", 4, 4, 0}}, 0},
        /* records */
        {1, 200, WHIT_PRE_NORM, 1, 1, {{"frc64c100", 70, 0, 0}, {"frc64c200k", 33, 0, 0}}, 0},
        {5, 300, WHIT_PRE_SWIGLU, 0, 1, {{"frc128c60k", 50, 0, 0}, {"frc256", 9, 0, 0}, {"frc64c1000", 4, 0, 0}}, 0},
        {1, 35, WHIT_PRE_NONE, 0, 0, {{"frc64k", 6001, 0, 0}}, 0},
        {3,
         201,
         WHIT_PRE_NORM,
         0,
         1,
         {{"frc64w200kut", 40, 0, 0}, {"frc128kau", 20, 0, 0}, {"frc64w1000t", 5, 0, 0}},
         0},
        {1, 200, WHIT_PRE_NORM, 1, 1, {{"vp100-100-200-200", 70, 0, 0}, {"vp", 203, 0, 0}}, 0},
        {5, 300, WHIT_PRE_SWIGLU, 0, 1, {{"vp200-200-200-200", 50, 0, 0}, {"vp0-0-0-0", 9, 0, 0}}, 0},
        {1, 35, WHIT_PRE_NONE, 0, 0, {{"vp50-200-200-200", 6001, 0, 0}}, 0},
        /* nothing */
        {0, 64, WHIT_PRE_NORM, 0, 0, {{"bf16", 3, 0, 0}}, 0},
        {1, 64, WHIT_PRE_NORM, 0, 0, {{"bf16", 0, 0, 0}, {"bf16", 2, 0, 0}}, 0},
        /* of a model */
        {1, 4096, WHIT_PRE_NORM, 0, 0, {{"bf16", 4096, 0, 0}, {"bf16", 1024, 0, 0}, {"bf16", 1024, 0, 0}}, 0},
        {1, 4096, WHIT_PRE_NONE, 0, 1, {{"bf16", 4096, 0, 0}}, 0},
        {1, 4096, WHIT_PRE_NORM, 0, 0, {{"bf16", 12288, 0, 0}, {"bf16", 12288, 0, 0}}, 0},
        {1, 12288, WHIT_PRE_SWIGLU, 0, 1, {{"bf16", 4096, 0, 0}}, 0},
        {8, 12288, WHIT_PRE_SWIGLU, 0, 1, {{"bf16", 4096, 0, 0}}, 0},
        {5, 4096, WHIT_PRE_NORM, 0, 0, {{"bf16", 12288, 0, 0}, {"bf16", 12288, 0, 0}}, 0},
        {1, 4096, WHIT_PRE_NONE, 0, 0, {{"bf16", 1024, 0, 0}}, 0},
        {1, 4096, WHIT_PRE_NORM, 0, 0, {{"bf16", 151936, 0, 0}}, 0},
        {2, 4096, WHIT_PRE_NORM, 0, 0, {{"q4_k", 4096, 0, 0}, {"q6_k", 1024, 0, 0}}, 0},
};

/* pre(x) in double, and what its rounding on the device may be, of each value. */
static void prepare(double *out, double *bound, const float *x, const float *x2, const float *norm, int64_t K, int pre,
                    float eps, float shift) {
	double sum = 0;
	for (int64_t i = 0; i < K; i++) sum += (double)x[i] * x[i];
	double s = 1 / sqrt(sum / (double)K + eps);
	for (int64_t i = 0; i < K; i++) {
		out[i] = pre == WHIT_PRE_NORM     ? x[i] * s * ((double)norm[i] + shift)
		         : pre == WHIT_PRE_SWIGLU ? x[i] / (1 + exp(-(double)x[i])) * x2[i]
		                                  : x[i];
		/* norm: a thread adds K / 256 squares and a tree of 10, which the root halves, then mean, eps, root,
		 * inverse, sum and two products. swiglu: exp (2 units), 1 +, division, product. */
		bound[i] = fabs(out[i]) * 0x1p-24 *
		           (pre == WHIT_PRE_NORM     ? (double)K / 256 / 2 + 5 + 8
		            : pre == WHIT_PRE_SWIGLU ? 8
		                                     : 0);
	}
}

/* The same behind the rotation: a value is the sum of a block's, over its root, in float; the CPU's is what is wanted.
 */
static void rotate(double *px, double *pe, const whit_rotation *rot, float *from, float *to, int64_t T, int64_t K) {
	int64_t block = whit_rotation_get(rot)->block;
	for (int64_t i = 0; i < T * K; i++) from[i] = (float)px[i];
	whit_rotate_cpu(rot, to, from, T);
	for (int64_t b = 0; b < T * K; b += block) {
		double size = 0, err = 0;
		for (int64_t i = b; i < b + block; i++) size += fabs(px[i]), err += pe[i] + fabs(px[i]) * 0x1p-24;
		/* both sides' additions, up to 30 of them, and a product */
		err = (err + size * 62 * 0x1p-24) / sqrt((double)block);
		for (int64_t i = b; i < b + block; i++) px[i] = to[i], pe[i] = err;
	}
}

static void row(case_run *r, int i) {
	int64_t T = rows[i].T, K = case_mat_width(rows[i].w[0].format, rows[i].K), big = 0;
	int pre = rows[i].pre, n = 0;
	for (; n < 3 && rows[i].w[n].format; n++) big += rows[i].w[n].rows * K;
	if (case_skip_big(r, big > 300000) || case_skip(r, !r->dev)) return;
	case_label(r, "%lld x %lld, pre %d, %d matrices, %s %lld first", (long long)T, (long long)K, pre, n,
	           rows[i].w[0].format, (long long)rows[i].w[0].rows);
	float *x = case_normal(r, T * K + 1) + 1, *x2 = case_normal(r, T * K), *norm = case_normal(r, K);
	double *px = case_host(r, (size_t)(T * K) * sizeof *px), *pe = case_host(r, (size_t)(T * K) * sizeof *pe);
	float eps = 1e-6f, shift = (float)(i % 2);
	for (int64_t t = 0; t < T; t++)
		prepare(px + t * K, pe + t * K, x + t * K, x2 + t * K, norm, K, pre, eps, shift);
	size_t bytes = (size_t)(T * K) * sizeof *x;
	whit_rotation *rot = NULL;
	whit_rotation_spec spec;
	whit_err e;
	if (rows[i].rot) {
		if (whit_rotation_plan(&spec, WHIT_ROT_HADAMARD, 7, K, rows[i].rot, &e) || spec.block != rows[i].rot ||
		    whit_rotation_new(&rot, &spec, NULL, &e)) {
			case_fail(r, "%s", e.text);
			return;
		}
		rotate(px, pe, rot, case_host(r, bytes), case_host(r, bytes), T, K);
	}
	int odd = i % 3 == 1; /* activations off 16 bytes */
	whit_gemv g = {.x = (float *)case_in(r, x - odd, bytes + (size_t)odd * sizeof *x) + odd,
	               .x2 = case_in(r, x2, bytes),
	               .pre = pre,
	               .n = n};
	g.norm = case_in(r, norm, (size_t)K * sizeof *norm), g.eps = eps, g.shift = shift;
	whit_mat at[3];
	float *want[3], *mag[3], *near[3], *fx = case_host(r, (size_t)(T * K) * sizeof *fx),
	                                   *w = case_host(r, (size_t)K * sizeof *w);
	for (int64_t c = 0; c < T * K; c++) fx[c] = (float)px[c];
	for (int k = 0; k < n; k++) {
		whit_mat m = case_mat(r, rows[i].w[k].format, rows[i].w[k].rows, K, 1);
		int64_t N = m.rows, off = rows[i].w[k].shift;
		m.paired = rows[i].w[k].paired;
		float *bias = rows[i].bias ? case_normal(r, N) : NULL;
		float *add = rows[i].add ? case_normal(r, T * N) : NULL;
		want[k] = case_host(r, (size_t)(T * N) * sizeof(float));
		mag[k] = case_host(r, (size_t)(T * N) * sizeof(float));
		float *whole = case_host(r, (size_t)(T * N) * sizeof(float));
		for (int64_t o = 0; o < N; o++) {
			whit_mat_decode(&m, o, o + 1, w);
			for (int64_t t = 0; t < T; t++) {
				double y = bias ? bias[o] : 0, sum = fabs(y), err = 0;
				for (int64_t c = 0; c < K; c++) {
					y += w[c] * px[t * K + c];
					sum += fabs(w[c] * px[t * K + c]);
					err += fabs(w[c] * pe[t * K + c]);
				}
				if (add) y += add[t * N + o], sum += fabs(add[t * N + o]);
				/* a lane adds K / 32 products at most, five additions join lanes, twelve warps,
				 * bias and residual are added, the reference is rounded */
				want[k][t * N + o] = (float)y;
				mag[k][t * N + o] = (float)(sum * ((double)(K + 31) / 32 + 5 + 12 + 3) * 0x1p-24 + err);
				whole[t * N + o] = (float)sum;
			}
		}
		near[k] = mag[k];
		if (case_mat_packed(&m, T)) { /* rounding of pre(x) beside that of the product */
			near[k] = case_mat_packed_bound(r, &m, fx, whole, T);
			for (int64_t o = 0; o < T * N; o++) near[k][o] += mag[k][o];
		}
		if (off) { /* the same rows, elsewhere */
			uint8_t *moved = case_host(r, (size_t)N * m.row_bytes[0] + (size_t)off);
			memcpy(moved + off, m.plane[0], (size_t)N * m.row_bytes[0]);
			at[k] = case_mat_in(r, &m);
			at[k].plane[0] = (uint8_t *)case_in(r, moved, (size_t)N * m.row_bytes[0] + (size_t)off) + off;
		} else {
			at[k] = case_mat_in(r, &m);
		}
		at[k].rot = rot;
		g.w[k] = at + k;
		g.y[k] = case_out(r, T * N);
		g.bias[k] = bias ? case_in(r, bias, (size_t)N * sizeof *bias) : NULL;
		g.add[k] = add ? case_in(r, add, (size_t)(T * N) * sizeof *add) : NULL;
	}
	whit_gemv_cuda(r->dev, &g, T);
	for (int k = 0; k < n; k++) case_near(r, g.y[k], want[k], near[k], T * at[k].rows, 1);
	/* the plain kernels, a step at a time */
	for (int k = 0; k < n; k++) g.y[k] = case_out(r, T * at[k].rows);
	whit_dev_plain(r->dev, 1);
	whit_gemv_cuda(r->dev, &g, T);
	whit_dev_plain(r->dev, 0);
	for (int k = 0; k < n; k++) case_near(r, g.y[k], want[k], mag[k], T * at[k].rows, 1);
	whit_dev_reset(r->dev);
	whit_rotation_free(rot);
}

const case_set cases_gemv = {"gemv", WHIT_COUNT(rows), row, 0};
