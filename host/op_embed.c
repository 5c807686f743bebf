/* embed: rows of a matrix by token. */
#include "host/op_vec.h"
#include "host/ops.h"

void whit_embed_cpu(float *y, const int32_t *tokens, int64_t T, const whit_mat *w) {
	for (int64_t t = 0; t < T; t++) whit_mat_decode(w, tokens[t], tokens[t] + 1, y + t * w->cols);
}

typedef struct embed_job {
	float *y;
	const int32_t *tokens;
	const whit_mat *w;
} embed_job;

static void embed_item(void *ctx, int64_t t, int worker) {
	const embed_job *j = ctx;
	(void)worker;
	whit_embed_cpu(j->y + t * j->w->cols, j->tokens + t, 1, j->w);
}

void whit_embed_fast_cpu(float *y, const int32_t *tokens, int64_t T, const whit_mat *w) {
	embed_job j = {y, tokens, w};
	whit_items(T, w->cols * 2, embed_item, &j);
}

void whit_embed_back_cpu(float *dw, const float *dy, const int32_t *tokens, int64_t T, int64_t dim) {
	for (int64_t t = 0; t < T; t++)
		for (int64_t i = 0; i < dim; i++) dw[tokens[t] * dim + i] += dy[t * dim + i];
}
