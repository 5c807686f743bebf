/* attention: causal, grouped queries, optional window. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

void whit_attention_cpu(float *y, const float *q, const float *k, const float *v, int64_t T, int64_t past,
                        int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window) {
	double *p = whit_alloc((size_t)(past + T) * sizeof *p), *sum = whit_alloc((size_t)dim * sizeof *sum);
	int64_t ld = kv_heads * dim;
	for (int64_t t = 0; t < T; t++) {
		int64_t end = past + t + 1, begin = window && end > window ? end - window : 0;
		for (int64_t h = 0; h < heads; h++, q += dim, y += dim) {
			const float *kh = k + h / (heads / kv_heads) * dim, *vh = v + h / (heads / kv_heads) * dim;
			double top = -INFINITY, total = 0;
			for (int64_t j = begin; j < end; j++) {
				double dot = 0;
				for (int64_t i = 0; i < dim; i++) dot += (double)q[i] * kh[j * ld + i];
				p[j] = dot * scale;
				top = p[j] > top ? p[j] : top;
			}
			memset(sum, 0, (size_t)dim * sizeof *sum);
			for (int64_t j = begin; j < end; j++) {
				double e = exp(p[j] - top);
				total += e;
				for (int64_t i = 0; i < dim; i++) sum[i] += e * vh[j * ld + i];
			}
			for (int64_t i = 0; i < dim; i++) y[i] = (float)(sum[i] / total);
		}
	}
	whit_free(p);
	whit_free(sum);
}

/* Queries of a tile, and the number of new tokens from which tiles pay. */
enum { BLOCK = 64, MANY = 8 };

typedef struct attn_job {
	float *y;
	const float *q, *k, *v;
	int64_t T, past, heads, kv_heads, dim, window;
	float scale;
	float *tile; /* tile_size floats for each worker */
	int64_t tile_size;
	const whit_vec *vec;
} attn_job;

/* One head, BLOCK queries as the columns of a tile: S^T = K (scale Q)^T, softmax down the columns with what
 * a query does not see at -Inf and then 0, Y = S V. */
static void attn_block(void *ctx, int64_t item, int worker) {
	const attn_job *j = ctx;
	int64_t h = item % j->heads, t0 = item / j->heads * BLOCK, n = WHIT_MIN(BLOCK, j->T - t0), dim = j->dim;
	int64_t g = h / (j->heads / j->kv_heads), ldq = j->heads * dim, ld = j->kv_heads * dim;
	int64_t first = j->past + t0 + 1, end = first + n - 1; /* keys the first query sees, the last one sees */
	int64_t begin = j->window && first > j->window ? first - j->window : 0, keys = end - begin;
	float *q = j->tile + worker * j->tile_size, *s = q + dim * BLOCK;
	const float *k = j->k + begin * ld + g * dim, *v = j->v + begin * ld + g * dim;
	for (int64_t i = 0; i < n; i++)
		for (int64_t d = 0; d < dim; d++) q[d * BLOCK + i] = j->scale * j->q[(t0 + i) * ldq + h * dim + d];
	j->vec->gemm(keys, n, dim, k, ld, 1, q, BLOCK, s, BLOCK, 0);
	for (int pass = 0; pass < 2; pass++) {
		for (int64_t i = 0; i < n; i++) {
			int64_t to = first + i - begin, from = j->window && to > j->window ? to - j->window : 0;
			for (int64_t r = 0; r < from; r++) s[r * BLOCK + i] = pass ? 0 : -INFINITY;
			for (int64_t r = to; r < keys; r++) s[r * BLOCK + i] = pass ? 0 : -INFINITY;
		}
		if (!pass) j->vec->softmax_columns(s, BLOCK, keys, n);
	}
	j->vec->gemm(n, dim, keys, s, 1, BLOCK, v, ld, j->y + t0 * ldq + h * dim, ldq, 0);
}

/* One query of all heads that share a kv head. */
static void attn_query(void *ctx, int64_t item, int worker) {
	const attn_job *j = ctx;
	int64_t g = item % j->kv_heads, t = item / j->kv_heads, group = j->heads / j->kv_heads,
	        ld = j->kv_heads * j->dim;
	int64_t end = j->past + t + 1, begin = j->window && end > j->window ? end - j->window : 0;
	float *s = j->tile + worker * j->tile_size;
	for (int64_t h = g * group; h < (g + 1) * group; h++) {
		int64_t at = (t * j->heads + h) * j->dim;
		j->vec->qk(s, j->q + at, j->k + begin * ld + g * j->dim, ld, end - begin, j->dim, j->scale);
		j->vec->softmax(s, end - begin);
		j->vec->pv(j->y + at, s, j->v + begin * ld + g * j->dim, ld, end - begin, j->dim);
	}
}

void whit_attention_fast_cpu(float *y, const float *q, const float *k, const float *v, int64_t T, int64_t past,
                             int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window,
                             whit_arena *scratch) {
	int many = T >= MANY;
	attn_job j = {y, q, k, v, T, past, heads, kv_heads, dim, window, scale, NULL, 0, whit_vec_get()};
	j.tile_size = many ? (past + T + dim) * BLOCK : past + T;
	j.tile = whit_take(scratch, j.tile_size * whit_threads());
	if (many)
		whit_items((T + BLOCK - 1) / BLOCK * heads, BLOCK * dim * (past + T) / 8, attn_block, &j);
	else
		whit_items(T * kv_heads, heads / kv_heads * dim * (past + T) / 2, attn_query, &j);
}
