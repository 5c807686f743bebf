/* attention_back: gradients of causal grouped-query attention, plain: a warp a query for dq, which leaves the query's
 * log-sum-exp and dy.y; then a warp a key for dk and dv, which goes through the queries that see it, head by head of
 * its group. No atomics: every sum has one order. Dao et al. 2022, algorithm 4, without its tiles. */
#include "cuda/dev.cuh"
#include <math.h>
extern "C" {
#include "host/ops.h"
}

enum { WARPS = 4, LANE = 8, SPAN = 32 * LANE }; /* dimensions that a lane, and a warp, has in registers */

struct attn_back {
	const float *dy, *y, *q, *k, *v;
	int64_t T, heads, kv_heads, dim, window;
	const int64_t *pos;
	float scale;
	float *lse, *dot; /* (T, heads) */
};

static __device__ __forceinline__ float warp_dot(const float *a, const float *b, int64_t dim) {
	float s = 0;
	for (int64_t i = (int64_t)threadIdx.x % 32; i < dim; i += 32) s = fmaf(a[i], b[i], s);
	return whit_warp_sum(s);
}

/* The first key that query t sees. */
static __device__ __forceinline__ int64_t first_key(const attn_back &a, int64_t t) {
	int64_t start = t - a.pos[t];
	return a.window && a.pos[t] + 1 > a.window ? t + 1 - a.window : start;
}

__global__ void attention_back_q_kernel(float *dq, const attn_back a) {
	int64_t item = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, t = item / a.heads, h = item % a.heads;
	int lane = (int)threadIdx.x % 32;
	if (t >= a.T) return;
	int64_t at = item * a.dim, ld = a.kv_heads * a.dim, g = h / (a.heads / a.kv_heads) * a.dim;
	const float *q = a.q + at, *dy = a.dy + at;
	float top = -INFINITY, sum = 0;
	for (int64_t j = first_key(a, t); j <= t; j++) {
		float s = a.scale * warp_dot(q, a.k + j * ld + g, a.dim), more = fmaxf(top, s);
		sum = sum * expf(top - more) + expf(s - more);
		top = more;
	}
	float lse = top + logf(sum), dot = warp_dot(dy, a.y + at, a.dim);
	if (lane == 0) a.lse[item] = lse, a.dot[item] = dot;
	for (int64_t c = 0; dq && c < a.dim; c += SPAN) {
		float acc[LANE] = {};
		for (int64_t j = first_key(a, t); j <= t; j++) {
			const float *k = a.k + j * ld + g;
			float p = expf(a.scale * warp_dot(q, k, a.dim) - lse);
			float ds = a.scale * p * (warp_dot(dy, a.v + j * ld + g, a.dim) - dot);
			WHIT_UNROLL
			for (int i = 0; i < LANE; i++) {
				int64_t e = c + lane + 32 * i;
				if (e < a.dim) acc[i] = fmaf(ds, k[e], acc[i]);
			}
		}
		WHIT_UNROLL
		for (int i = 0; i < LANE; i++) {
			int64_t e = c + lane + 32 * i;
			if (e < a.dim) dq[at + e] += acc[i];
		}
	}
}

__global__ void attention_back_kv_kernel(float *dk, float *dv, const attn_back a) {
	int64_t item = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, j = item / a.kv_heads, g = item % a.kv_heads;
	int lane = (int)threadIdx.x % 32;
	if (j >= a.T) return;
	int64_t group = a.heads / a.kv_heads, start = j - a.pos[j];
	const float *k = a.k + item * a.dim, *v = a.v + item * a.dim;
	for (int64_t c = 0; c < a.dim; c += SPAN) {
		float sk[LANE] = {}, sv[LANE] = {};
		for (int64_t h = g * group; h < (g + 1) * group; h++) {
			for (int64_t t = j; t < a.T && t - a.pos[t] == start && (!a.window || t - j < a.window); t++) {
				int64_t at = (t * a.heads + h) * a.dim;
				const float *q = a.q + at, *dy = a.dy + at;
				float p = expf(a.scale * warp_dot(q, k, a.dim) - a.lse[t * a.heads + h]);
				float ds = a.scale * p * (warp_dot(dy, v, a.dim) - a.dot[t * a.heads + h]);
				WHIT_UNROLL
				for (int i = 0; i < LANE; i++) {
					int64_t e = c + lane + 32 * i;
					if (e >= a.dim) continue;
					sk[i] = fmaf(ds, q[e], sk[i]);
					sv[i] = fmaf(p, dy[e], sv[i]);
				}
			}
		}
		WHIT_UNROLL
		for (int i = 0; i < LANE; i++) {
			int64_t e = c + lane + 32 * i;
			if (e >= a.dim) continue;
			if (dk) dk[item * a.dim + e] += sk[i];
			if (dv) dv[item * a.dim + e] += sv[i];
		}
	}
}

extern "C" void whit_attention_back_cuda(whit_dev *d, float *dq, float *dk, float *dv, const float *dy, const float *y,
                                         const float *q, const float *k, const float *v, const whit_spans *b,
                                         int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window) {
	int64_t n = b->T * heads;
	if (n * dim == 0) return;
	float *room = (float *)whit_dev_take(d, (size_t)(2 * n) * sizeof *room);
	if (!room) return;
	attn_back a = {dy, y, q, k, v, b->T, heads, kv_heads, dim, window, b->pos, scale, room, room + n};
	WHIT_LAUNCH(attention_back_q_kernel, whit_blocks(n, WARPS), 32 * WARPS, 0, d, dq, a);
	if (dk || dv)
		WHIT_LAUNCH(attention_back_kv_kernel, whit_blocks(b->T * kv_heads, WARPS), 32 * WARPS, 0, d, dk, dv, a);
}
