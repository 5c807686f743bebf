/* kmeans: Lloyd's algorithm (1982) from k-means++ seeds (Arthur & Vassilvitskii 2007), a weight for each coordinate of
 * each point: the codebooks of FABQ-RC (fabq.md 2.5). In one dimension the quantizer is Lloyd-Max's of the points. */
#ifndef WHIT_KMEANS_H
#define WHIT_KMEANS_H
#include "host/base.h"

typedef struct whit_kmeans_opts {
	int k;         /* centroids */
	int keep;      /* of which the first are given, and stay */
	int rounds;    /* at most; 0 = 25 */
	double change; /* ends where the loss falls by less than this part; 0 = 1e-4 */
	uint64_t seed;
} whit_kmeans_opts;

typedef struct whit_kmeans_result {
	double loss; /* sum over points of the weighted squared distance to their centroid */
	int rounds;
	int64_t empty; /* clusters that lost all points, and took the point that was worst off */
} whit_kmeans_result;

/* c (k, dim): the centroids. x, w (n, dim), w NULL: 1, not negative; n > 0. The same bytes on the CPU (dev NULL) and on
 * a device, at any thread count: sums are in double in a fixed order, ties go to the lowest. Fewer different points
 * than centroids: those left over repeat one. */
int whit_kmeans(float *c, const whit_kmeans_opts *o, const float *x, const float *w, int64_t n, int64_t dim,
                whit_dev *dev, whit_kmeans_result *r, whit_err *e);
#endif
