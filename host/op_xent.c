/* xent: cross entropy of logits, their KL divergence from a teacher's, gradients of both; labels drawn from them. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

/* sum exp(z - max), and the maximum, NaN where one is. */
static double exp_sum(const float *z, int64_t n, double *top) {
	double sum = 0;
	*top = -INFINITY;
	for (int64_t i = 0; i < n; i++) *top = z[i] > *top || isnan(z[i]) ? (double)z[i] : *top;
	for (int64_t i = 0; i < n; i++) sum += exp(z[i] - *top);
	return sum;
}

void whit_xent_cpu(double *loss, float *dz, const float *z, const int32_t *target, int64_t T, int64_t vocab) {
	for (int64_t t = 0; t < T; t++, z += vocab, dz += vocab) {
		double top, sum;
		if (target[t] < 0) {
			memset(dz, 0, (size_t)vocab * sizeof *dz);
			loss[t] = 0;
			continue;
		}
		sum = exp_sum(z, vocab, &top);
		loss[t] = log(sum) - (z[target[t]] - top);
		for (int64_t i = 0; i < vocab; i++) dz[i] = (float)(exp(z[i] - top) / sum - (i == target[t]));
	}
}

void whit_kl_cpu(double *loss, float *dz, const float *z, const float *teacher, int64_t T, int64_t vocab) {
	for (int64_t t = 0; t < T; t++, z += vocab, dz += vocab, teacher += vocab) {
		double ztop, ptop, zlog = log(exp_sum(z, vocab, &ztop)), plog = log(exp_sum(teacher, vocab, &ptop)),
		                   sum = 0;
		for (int64_t i = 0; i < vocab; i++) {
			double lp = teacher[i] - ptop - plog, lq = z[i] - ztop - zlog, p = exp(lp);
			if (!(p == 0)) sum += p * (lp - lq); /* p ln p is 0 there */
			dz[i] = (float)(exp(lq) - p);
		}
		loss[t] = sum;
	}
}

/* teacher NULL: cross entropy. */
typedef struct loss_job {
	double *loss;
	float *dz;
	const float *z, *teacher;
	const int32_t *target;
	int64_t vocab;
} loss_job;

static void loss_item(void *ctx, int64_t t, int worker) {
	const loss_job *j = ctx;
	int64_t at = t * j->vocab;
	(void)worker;
	if (j->teacher)
		whit_kl_cpu(j->loss + t, j->dz + at, j->z + at, j->teacher + at, 1, j->vocab);
	else
		whit_xent_cpu(j->loss + t, j->dz + at, j->z + at, j->target + t, 1, j->vocab);
}

void whit_xent_fast_cpu(double *loss, float *dz, const float *z, const int32_t *target, int64_t T, int64_t vocab) {
	loss_job j = {.loss = loss, .dz = dz, .z = z, .target = target, .vocab = vocab};
	whit_items(T, 40 * vocab, loss_item, &j);
}

void whit_kl_fast_cpu(double *loss, float *dz, const float *z, const float *teacher, int64_t T, int64_t vocab) {
	loss_job j = {.loss = loss, .dz = dz, .z = z, .teacher = teacher, .vocab = vocab};
	whit_items(T, 80 * vocab, loss_item, &j);
}

void whit_draw_cpu(int32_t *out, const float *z, const double *u, int64_t T, int64_t vocab) {
	for (int64_t t = 0; t < T; t++, z += vocab) {
		double top, sum = exp_sum(z, vocab, &top), seen = 0;
		int64_t i = 0;
		for (; i < vocab - 1 && u[t] >= 0; i++)
			if ((seen += exp(z[i] - top) / sum) > u[t]) break;
		out[t] = u[t] < 0 ? -1 : (int32_t)i;
	}
}
