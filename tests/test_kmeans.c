/* k-means against the exact answer in one dimension (dynamic programming over sorted points), where Lloyd's rounds can
 * only end above it; clusters that are apart; empty clusters, given centroids, too few points, thread counts. */
#include "calib/kmeans.h"
#include "host/ops.h"
#include "tests/test.h"

static void one_dimension(void) {
	enum { N = 400 };
	float x[N], w[N];
	double ratio = 0, best;
	whit_rng g;
	whit_err e;
	for (int t = 0; t < 24; t++) {
		int k = 2 << t % 4, weighted = t % 3 > 0;
		float c[16];
		whit_kmeans_result r;
		const whit_kmeans_opts o = {.k = k, .rounds = 300, .change = 1e-12, .seed = (uint64_t)t};
		whit_rng_key(&g, 8, (uint64_t)t, 0);
		for (int i = 0; i < N; i++)
			x[i] = (float)whit_rng_normal(&g), w[i] = weighted ? (float)whit_rng_uniform(&g) : 1;
		if (!CHECK_RC(whit_kmeans(c, &o, x, weighted ? w : NULL, N, 1, NULL, &r, &e), e)) return;
		whit_lloyd_cpu(c, &best, x, weighted ? w : NULL, 1, N, k, 1);
		CHECK_MSG(r.loss >= best * (1 - 1e-6), "%d: loss %.9g, exact %.9g", t, r.loss, best);
		CHECK_MSG(r.loss <= best * 1.6, "%d: loss %.9g, exact %.9g", t, r.loss, best);
		ratio += r.loss / best / 24;
	}
	CHECK_MSG(ratio < 1.15, "mean loss over the exact one: %.4f", ratio);
}

/* Five heaps, far apart: each centroid is the mean of one. */
static void heaps(void) {
	enum { N = 500, DIM = 40, K = 5 };
	float *x = whit_alloc(N * DIM * sizeof *x), *w = whit_alloc(N * DIM * sizeof *w), c[2][K * DIM];
	whit_rng g;
	whit_err e;
	whit_kmeans_result r[2];
	whit_rng_key(&g, 8, 100, 0);
	for (int i = 0; i < N; i++)
		for (int j = 0; j < DIM; j++) {
			x[i * DIM + j] = (float)(10 * (i % K == j % K) + 0.1 * whit_rng_normal(&g));
			w[i * DIM + j] = 0.5f + (float)whit_rng_uniform(&g);
		}
	for (int i = 0; i < 2; i++) {
		const whit_kmeans_opts o = {.k = K, .seed = 3};
		whit_threads_set(i ? 1 : 2);
		CHECK_RC(whit_kmeans(c[i], &o, x, w, N, DIM, NULL, &r[i], &e), e);
	}
	CHECK(!memcmp(c[0], c[1], sizeof c[0]) && r[0].loss == r[1].loss);
	for (int m = 0; m < K; m++) {
		int heap = 0;
		double sum[DIM] = {0}, weight[DIM] = {0};
		while (heap < K - 1 && c[0][m * DIM + heap] < 5) heap++;
		for (int i = heap; i < N; i += K)
			for (int j = 0; j < DIM; j++)
				sum[j] += (double)w[i * DIM + j] * x[i * DIM + j], weight[j] += w[i * DIM + j];
		for (int j = 0; j < DIM; j++) CHECK_NEAR(c[0][m * DIM + j], sum[j] / weight[j], 1e-6);
	}
	whit_free(x), whit_free(w);
}

static void corners(void) {
	whit_err e;
	whit_kmeans_result r;
	const float two[] = {0, 0, 0, 4}, far[] = {1, 2, 3, 101, 102, 103};
	float c[8] = {0};
	whit_kmeans_opts o = {.k = 8, .seed = 1};
	CHECK_RC(whit_kmeans(c, &o, two, NULL, 4, 1, NULL, &r, &e), e); /* fewer different points than centroids */
	CHECK(r.loss == 0);
	for (int m = 0; m < 8; m++) CHECK(c[m] == 0 || c[m] == 4);
	c[0] = 50, c[1] = -1000; /* given, and no point's: they stay */
	o = (whit_kmeans_opts){.k = 4, .keep = 2, .seed = 1};
	CHECK_RC(whit_kmeans(c, &o, far, NULL, 6, 1, NULL, &r, &e), e);
	CHECK(c[0] == 50 && c[1] == -1000);
	CHECK_NEAR(c[2] + c[3], 104, 1e-6);
	CHECK_NEAR(r.loss, 4, 1e-6);
	o.keep = 5;
	CHECK_FAILS(whit_kmeans(c, &o, far, NULL, 6, 1, NULL, &r, &e), WHIT_EUSAGE, e, "given");
	o.keep = 0;
	CHECK_FAILS(whit_kmeans(c, &o, far, NULL, 0, 1, NULL, &r, &e), WHIT_EUSAGE, e, "0 points");
}

TEST_MAIN(one_dimension, heaps, corners)
