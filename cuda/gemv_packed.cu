/* gemv_packed: a matrix of any number format times few tokens, straight from its bytes. A lane takes runs of eight
 * weights that lie side by side, so what they share (scale, block header) is read once. Not yet bound by memory. */
#include "cuda/gemv.cuh"
#include "cuda/runs.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, STEP = 32 * RUN };

/* A warp a row, as many blocks as run at once; the input in shared memory, or in `ready`. */
template <class F, int TT>
__global__ void __launch_bounds__(THREADS, TT == 1 ? 3 : 2)
        gemv_packed_kernel(const whit_mat m, const gemv_input in, const float *ready, int stride, float *y,
                           const float *bias, const float *add) {
	WHIT_SHARED_DYNAMIC(float, own);
	int lane = (int)threadIdx.x % 32;
	if (!ready) gemv_fill_norm<RUN, 1>(own, in);
	WHIT_AFTER();
	if (!ready) gemv_fill<RUN, 1>(own, in, in.T, stride);
	__syncthreads();
	const float *x = (ready ? ready : own) + 4 * lane;
	typename run<F>::row row = {};
	for (int64_t r = blockIdx.x * WARPS + threadIdx.x / 32; r < m.rows; r += gridDim.x * WARPS) {
		row.begin(m, whit_mat_row(&m, r));
		float sum[TT] = {}, w[RUN];
		for (int c = 0; c < in.K; c += STEP) {
			int i = c + lane * RUN, n = WHIT_MIN(in.K - i, RUN);
			if (n <= 0) continue;
			run<F>::template load<RUN>(w, m, row, i, n);
			WHIT_UNROLL
			for (int t = 0; t < TT; t++) {
				if (t >= in.T) continue;
				const float *f = x + t * stride + c;
				float4 a = *(const float4 *)f, b = *(const float4 *)(f + 128);
				float s = sum[t];
				s = fmaf(w[0], a.x, s), s = fmaf(w[1], a.y, s);
				s = fmaf(w[2], a.z, s), s = fmaf(w[3], a.w, s);
				s = fmaf(w[4], b.x, s), s = fmaf(w[5], b.y, s);
				s = fmaf(w[6], b.z, s), s = fmaf(w[7], b.w, s);
				sum[t] = s;
			}
		}
		float s = whit_warp_sums<TT>(sum);
		int t = lane / (32 / TT);
		if (lane % (32 / TT) || t >= in.T) continue;
		if (bias) s += bias[r];
		if (add) s += add[t * m.rows + r];
		y[t * m.rows + r] = s;
	}
}

void whit_gemv_packed(whit_dev *d, const gemv_input *in, const whit_mat *w, float *y, const float *bias,
                      const float *add) {
	int stride = (in->K + STEP - 1) / STEP * STEP;
	size_t bytes = (size_t)in->T * stride * sizeof(float);
	float *ready = NULL;
	if (bytes + 256 > (size_t)d->shared) {
		if (!(ready = (float *)whit_dev_take(d, bytes))) return;
		WHIT_LAUNCH_EARLY((gemv_input_kernel<RUN, 1>), 1, 4 * THREADS, 0, d, ready, *in, in->T, stride);
		bytes = 0;
	}
	/* as many as run at once: every block makes its input anew */
	unsigned grid =
	        (unsigned)WHIT_MIN((int64_t)whit_blocks(w->rows, WARPS), (int64_t)d->sms * (in->T == 1 ? 3 : 2));
	bool known = whit_with_format(w, [&](auto f) {
		if (in->T == 1)
			WHIT_LAUNCH_EARLY((gemv_packed_kernel<decltype(f), 1>), grid, THREADS, bytes, d, *w, *in, ready,
			                  stride, y, bias, add);
		else
			WHIT_LAUNCH_EARLY((gemv_packed_kernel<decltype(f), 8>), grid, THREADS, bytes, d, *w, *in, ready,
			                  stride, y, bias, add);
	});
	if (!known) whit_dev_fail(d, WHIT_EINTERNAL, "format %s: has no device code", w->spec.fmt->name);
}
