/* add: the residual connection. */
#include "host/op_vec.h"
#include "host/ops.h"

enum { BLOCK = 8192 };

typedef struct add_job {
	float *y;
	const float *a, *b;
	int64_t n;
	const whit_vec *v;
} add_job;

static void add_item(void *ctx, int64_t i, int worker) {
	const add_job *j = ctx;
	(void)worker;
	int64_t at = i * BLOCK;
	j->v->add(j->y + at, j->a + at, j->b + at, WHIT_MIN(BLOCK, j->n - at));
}

void whit_add_cpu(float *y, const float *a, const float *b, int64_t n) {
	add_job j = {y, a, b, n, whit_vec_get()};
	whit_items((n + BLOCK - 1) / BLOCK, BLOCK, add_item, &j);
}
