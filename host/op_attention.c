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

/* BLOCK queries of one head, as the columns of tiles, and the keys that any of them sees. */
typedef struct attn_tile {
	int64_t g, t0, n, begin, keys; /* kv head; queries t0 .. t0 + n - 1; keys begin .. begin + keys - 1 */
	float *q, *p;                  /* (dim, BLOCK); (keys, BLOCK): what each query makes of each key, P^T */
} attn_tile;

/* S^T = K (scale Q)^T, softmax down the columns with what a query does not see at -Inf and then 0. room: q, then p. */
static attn_tile attn_scores(const attn_job *j, int64_t h, int64_t t0, float *room) {
	int64_t dim = j->dim, ldq = j->heads * dim, ld = j->kv_heads * dim, first = j->past + t0 + 1;
	attn_tile t = {.g = h / (j->heads / j->kv_heads), .t0 = t0, .n = WHIT_MIN(BLOCK, j->T - t0)};
	t.begin = j->window && first > j->window ? first - j->window : 0; /* first: keys the first query sees */
	t.keys = first + t.n - 1 - t.begin;
	t.q = room, t.p = room + dim * BLOCK;
	for (int64_t i = 0; i < t.n; i++)
		for (int64_t d = 0; d < dim; d++) t.q[d * BLOCK + i] = j->scale * j->q[(t0 + i) * ldq + h * dim + d];
	j->vec->gemm(t.keys, t.n, dim, j->k + t.begin * ld + t.g * dim, ld, 1, t.q, BLOCK, t.p, BLOCK, 0);
	for (int pass = 0; pass < 2; pass++) {
		for (int64_t i = 0; i < t.n; i++) {
			int64_t to = first + i - t.begin, from = j->window && to > j->window ? to - j->window : 0;
			for (int64_t r = 0; r < from; r++) t.p[r * BLOCK + i] = pass ? 0 : -INFINITY;
			for (int64_t r = to; r < t.keys; r++) t.p[r * BLOCK + i] = pass ? 0 : -INFINITY;
		}
		if (!pass) j->vec->softmax_columns(t.p, BLOCK, t.keys, t.n);
	}
	return t;
}

/* Y = P V */
static void attn_block(void *ctx, int64_t item, int worker) {
	const attn_job *j = ctx;
	int64_t h = item % j->heads, t0 = item / j->heads * BLOCK, dim = j->dim;
	int64_t ldq = j->heads * dim, ld = j->kv_heads * dim;
	attn_tile t = attn_scores(j, h, t0, j->tile + worker * j->tile_size);
	j->vec->gemm(t.n, dim, t.keys, t.p, 1, BLOCK, j->v + t.begin * ld + t.g * dim, ld, j->y + t0 * ldq + h * dim,
	             ldq, 0);
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

/* With p = softmax(scale q.k), dp_j = dy.v_j: ds_j = scale p_j (dp_j - sum p dp), and sum p dp = dy.y. */
void whit_attention_back_cpu(float *dq, float *dk, float *dv, const float *dy, const float *y, const float *q,
                             const float *k, const float *v, int64_t T, int64_t heads, int64_t kv_heads, int64_t dim,
                             float scale, int64_t window) {
	int64_t ld = kv_heads * dim;
	double *p = whit_alloc((size_t)(T + 1) * sizeof *p), *sum = whit_alloc((size_t)dim * sizeof *sum),
	       *sk = whit_alloc((size_t)(2 * T * ld + 1) * sizeof *sk), *sv = sk + T * ld;
	for (int64_t t = 0; t < T; t++) {
		int64_t begin = window && t + 1 > window ? t + 1 - window : 0;
		for (int64_t h = 0; h < heads; h++) {
			int64_t at = (t * heads + h) * dim, g = h / (heads / kv_heads) * dim;
			double top = -INFINITY, total = 0, dot = 0;
			for (int64_t j = begin; j <= t; j++) {
				p[j] = 0;
				for (int64_t i = 0; i < dim; i++) p[j] += (double)q[at + i] * k[j * ld + g + i];
				p[j] *= scale;
				top = p[j] > top ? p[j] : top;
			}
			for (int64_t j = begin; j <= t; j++) total += p[j] = exp(p[j] - top);
			for (int64_t i = 0; i < dim; i++) dot += (double)dy[at + i] * y[at + i];
			memset(sum, 0, (size_t)dim * sizeof *sum);
			for (int64_t j = begin; j <= t; j++) {
				double dp = 0, pj = p[j] / total;
				for (int64_t i = 0; i < dim; i++) dp += (double)dy[at + i] * v[j * ld + g + i];
				double ds = scale * pj * (dp - dot);
				for (int64_t i = 0; i < dim; i++) {
					sum[i] += ds * k[j * ld + g + i];
					sk[j * ld + g + i] += ds * q[at + i];
					sv[j * ld + g + i] += pj * dy[at + i];
				}
			}
			for (int64_t i = 0; dq && i < dim; i++) dq[at + i] += (float)sum[i];
		}
	}
	for (int64_t i = 0; dk && i < T * ld; i++) dk[i] += (float)sk[i];
	for (int64_t i = 0; dv && i < T * ld; i++) dv[i] += (float)sv[i];
	whit_free(p);
	whit_free(sum);
	whit_free(sk);
}

typedef struct attn_back_job {
	float *dq, *dk, *dv;
	const float *dy;
	attn_job f; /* y, q, k, v and the shapes; past 0 */
} attn_back_job;

/* The same tile, and s = dS^T beside it. */
static void back_block(const attn_back_job *b, int64_t h, int64_t t0, float *room) {
	const attn_job *j = &b->f;
	int64_t dim = j->dim, ldq = j->heads * dim, ld = j->kv_heads * dim, at = t0 * ldq + h * dim;
	attn_tile t = attn_scores(j, h, t0, room);
	int64_t n = t.n, keys = t.keys, out = t.begin * ld + t.g * dim;
	float *p = t.p, *s = p + j->T * BLOCK, dot[BLOCK];
	for (int64_t i = 0; i < n; i++) {
		const float *dy = b->dy + at + i * ldq, *y = j->y + at + i * ldq;
		double sum = 0;
		for (int64_t d = 0; d < dim; d++) {
			sum += (double)dy[d] * y[d];
			t.q[d * BLOCK + i] = dy[d];
		}
		dot[i] = (float)sum;
	}
	j->vec->gemm(keys, n, dim, j->v + out, ld, 1, t.q, BLOCK, s, BLOCK, 0);
	for (int64_t r = 0; r < keys; r++)
		for (int64_t i = 0; i < n; i++)
			s[r * BLOCK + i] = j->scale * p[r * BLOCK + i] * (s[r * BLOCK + i] - dot[i]);
	if (b->dq) j->vec->gemm(n, dim, keys, s, 1, BLOCK, j->k + out, ld, b->dq + at, ldq, 1);
	if (b->dk) j->vec->gemm(keys, dim, n, s, BLOCK, 1, j->q + at, ldq, b->dk + out, ld, 1);
	if (b->dv) j->vec->gemm(keys, dim, n, p, BLOCK, 1, b->dy + at, ldq, b->dv + out, ld, 1);
}

/* A kv head and the queries that read it, in order: its gradients are theirs alone. */
static void attn_back_item(void *ctx, int64_t g, int worker) {
	const attn_back_job *b = ctx;
	int64_t group = b->f.heads / b->f.kv_heads;
	for (int64_t h = g * group; h < (g + 1) * group; h++)
		for (int64_t t = 0; t < b->f.T; t += BLOCK) back_block(b, h, t, b->f.tile + worker * b->f.tile_size);
}

void whit_attention_back_fast_cpu(float *dq, float *dk, float *dv, const float *dy, const float *y, const float *q,
                                  const float *k, const float *v, int64_t T, int64_t heads, int64_t kv_heads,
                                  int64_t dim, float scale, int64_t window, whit_arena *scratch) {
	attn_back_job b = {
	        dq, dk, dv, dy, {NULL, q, k, v, T, 0, heads, kv_heads, dim, window, scale, NULL, 0, whit_vec_get()}};
	b.f.y = (float *)(uintptr_t)y; /* read alone */
	b.f.tile_size = (2 * T + dim) * BLOCK;
	b.f.tile = whit_take(scratch, b.f.tile_size * whit_threads());
	whit_items(kv_heads, heads / kv_heads * T * T * dim * 2, attn_back_item, &b);
}
