/* kl: KL divergence of logits from a teacher's, and its gradient. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

/* The maximum, and the logarithm of sum exp(z - maximum) at *log_sum. */
static double top_of(const float *z, int64_t n, double *log_sum) {
	double top = -INFINITY, sum = 0;
	for (int64_t i = 0; i < n; i++) top = z[i] > top || isnan(z[i]) ? (double)z[i] : top;
	for (int64_t i = 0; i < n; i++) sum += exp(z[i] - top);
	*log_sum = log(sum);
	return top;
}

void whit_kl_cpu(double *loss, float *dz, const float *z, const float *teacher, int64_t T, int64_t vocab) {
	for (int64_t t = 0; t < T; t++, z += vocab, dz += vocab, teacher += vocab) {
		double zs, ps, ztop = top_of(z, vocab, &zs), ptop = top_of(teacher, vocab, &ps), sum = 0;
		for (int64_t i = 0; i < vocab; i++) {
			double lp = teacher[i] - ptop - ps, lq = z[i] - ztop - zs, p = exp(lp);
			if (!(p == 0)) sum += p * (lp - lq); /* p ln p is 0 there */
			dz[i] = (float)(exp(lq) - p);
		}
		loss[t] = sum;
	}
}

typedef struct kl_job {
	double *loss;
	float *dz;
	const float *z, *teacher;
	int64_t vocab;
} kl_job;

static void kl_item(void *ctx, int64_t t, int worker) {
	const kl_job *j = ctx;
	(void)worker;
	whit_kl_cpu(j->loss + t, j->dz + t * j->vocab, j->z + t * j->vocab, j->teacher + t * j->vocab, 1, j->vocab);
}

void whit_kl_fast_cpu(double *loss, float *dz, const float *z, const float *teacher, int64_t T, int64_t vocab) {
	kl_job j = {loss, dz, z, teacher, vocab};
	whit_items(T, 80 * vocab, kl_item, &j);
}
