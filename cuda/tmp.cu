#include "cuda/dev.cuh"
extern "C" {
#include "host/ops.h"
}
__global__ void put_kernel(void *const *cache, int64_t cap, const float *k, const float *v, int, const int64_t *start, const int64_t *past, int64_t width) {
	int64_t t = blockIdx.x; int s = 0; while (start[s + 1] <= t) s++;
	float *c = (float *)cache[s] + (past[s] + t - start[s]) * width;
	for (int64_t i = threadIdx.x; i < width; i += 32) c[i] = k[t * width + i], c[cap * width + i] = v[t * width + i];
}
__global__ void attn_kernel(float *y, const float *q, const float *k, const float *v, void *const *cache, int64_t cap, int, const int64_t *start, const int64_t *past, int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window) {
	int64_t t = blockIdx.x, h = threadIdx.x; int s = 0; while (start[s + 1] <= t) s++;
	int64_t ld = kv_heads * dim;
	const float *kk = cache ? (float *)cache[s] : k + start[s] * ld, *vv = cache ? (float *)cache[s] + cap * ld : v + start[s] * ld;
	int64_t end = past[s] + t - start[s] + 1, begin = window && end > window ? end - window : 0;
	kk += h / (heads / kv_heads) * dim, vv += h / (heads / kv_heads) * dim; q += (t * heads + h) * dim, y += (t * heads + h) * dim;
	double top = -1e300, total = 0;
	for (int64_t j = begin; j < end; j++) { double d = 0; for (int64_t i = 0; i < dim; i++) d += (double)q[i] * kk[j * ld + i]; d *= scale; top = d > top ? d : top; }
	for (int64_t i = 0; i < dim; i++) y[i] = 0;
	for (int64_t j = begin; j < end; j++) { double d = 0; for (int64_t i = 0; i < dim; i++) d += (double)q[i] * kk[j * ld + i]; d = exp(d * scale - top); total += d; for (int64_t i = 0; i < dim; i++) y[i] += (float)(d * vv[j * ld + i]); }
	for (int64_t i = 0; i < dim; i++) y[i] = (float)(y[i] / total);
}
__global__ void argmax_kernel(int32_t *out, int64_t *bad, const float *x, int64_t vocab) {
	if (threadIdx.x) return;
	x += blockIdx.x * vocab; int32_t b = 0; int64_t w = -1;
	for (int32_t i = 0; i < vocab; i++) { if (x[i] > x[b]) b = i; if (w < 0 && !(x[i] - x[i] == 0)) w = i; }
	out[blockIdx.x] = b; bad[blockIdx.x] = w;
}
__global__ void gather_kernel(float *y, const float *x, const int64_t *row, int64_t width) { for (int64_t i = threadIdx.x; i < width; i += 32) y[blockIdx.x * width + i] = x[row[blockIdx.x] * width + i]; }
extern "C" {
void whit_attention_cuda(whit_dev *d, float *y, const float *q, const float *k, const float *v, void *const *cache, int kv, int64_t cap, const whit_spans *b, int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window) { (void)kv; WHIT_LAUNCH(attn_kernel, (unsigned)b->T, (unsigned)heads, 0, d, y, q, k, v, cache, cap, b->n_seq, b->start, b->past, heads, kv_heads, dim, scale, window); }
void whit_attention_put_cuda(whit_dev *d, void *const *cache, int kv, int64_t cap, const float *k, const float *v, const whit_spans *b, int64_t width) { (void)kv; WHIT_LAUNCH(put_kernel, (unsigned)b->T, 32, 0, d, cache, cap, k, v, b->n_seq, b->start, b->past, width); }
void whit_argmax_cuda(whit_dev *d, int32_t *out, int64_t *bad, const float *x, int64_t rows, int64_t vocab) { WHIT_LAUNCH(argmax_kernel, (unsigned)rows, 32, 0, d, out, bad, x, vocab); }
void whit_rows_gather_cuda(whit_dev *d, float *y, const float *x, const int64_t *row, int64_t n, int64_t width) { WHIT_LAUNCH(gather_kernel, (unsigned)n, 32, 0, d, y, x, row, width); }
}
