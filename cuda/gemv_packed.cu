/* gemv_packed: a matrix of any number format times few tokens, straight from its bytes. A lane takes runs of eight
 * weights that lie side by side, so what they share (scale, block header) is read once. Not yet bound by memory. */
#include "cuda/formats.cuh"
#include "cuda/gemv.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, RUN = 8, STEP = 32 * RUN };

/* n weights (8, fewer at the row's end; the rest zero) from column i on, a multiple of 8. */
template <class F> struct run {
	/* What is known of a row before its weights are read. */
	struct row {
		int64_t r;
		__device__ __forceinline__ void begin(const whit_mat &, int64_t stored) { r = stored; }
	};
	static __device__ __forceinline__ void load(float w[RUN], const whit_mat &m, const row &at, int i, int n) {
		int64_t r = at.r;
		WHIT_UNROLL
		for (int k = 0; k < RUN; k++) w[k] = k < n ? F::at(m, r, i + k) : 0.0f;
	}
};
/* Blocks hold whole runs, rows whole blocks. */
template <class B> struct run<whit_fmt_block<B>> {
	using row = run<whit_fmt_f32>::row;
	static __device__ __forceinline__ void load(float w[RUN], const whit_mat &m, const row &at, int i, int) {
		int64_t r = at.r;
		unsigned block = (unsigned)i / B::weights, within = (unsigned)i % B::weights;
		const uint8_t *b = whit_dev_row(m, 0, r) + (size_t)block * B::bytes;
		WHIT_UNROLL
		for (int k = 0; k < RUN; k++) w[k] = B::weight(b, (int)within + k);
	}
};
/* Eight codes of `bits` bits are `bits` bytes, and groups are multiples of eight. */
static __device__ __forceinline__ uint64_t codes(const whit_mat &m, int64_t r, int i, int n) {
	int bits = m.spec.bits, bytes = (n * bits + 7) / 8;
	const uint8_t *p = whit_dev_row(m, 0, r) + i / 8 * bits;
	uint64_t v = 0;
	WHIT_UNROLL
	for (int k = 0; k < RUN; k++)
		if (k < bytes) v |= (uint64_t)p[k] << 8 * k;
	return v;
}
template <> struct run<whit_fmt_tq> {
	using row = run<whit_fmt_f32>::row;
	static __device__ __forceinline__ void load(float w[RUN], const whit_mat &m, const row &at, int i, int n) {
		int64_t r = at.r;
		uint64_t v = codes(m, r, i, n);
		unsigned mask = (1u << m.spec.bits) - 1;
		float scale = whit_dev_scale(m, r, i);
		WHIT_UNROLL
		for (int k = 0; k < RUN; k++)
			w[k] = k < n ? scale * m.codebook[(unsigned)(v >> m.spec.bits * k) & mask] : 0.0f;
	}
};
template <> struct run<whit_fmt_int> {
	using row = run<whit_fmt_f32>::row;
	static __device__ __forceinline__ void load(float w[RUN], const whit_mat &m, const row &at, int i, int n) {
		int64_t r = at.r;
		uint64_t v = codes(m, r, i, n);
		int mask = (1 << m.spec.bits) - 1, top = 1 << (m.spec.bits - 1);
		float scale = whit_dev_scale(m, r, i);
		WHIT_UNROLL
		for (int k = 0; k < RUN; k++) {
			int code = (int)(v >> m.spec.bits * k) & mask;
			w[k] = k < n ? scale * (float)((code ^ top) - top) : 0.0f;
		}
	}
};

/* A record's: a byte of signs, or four or eight bytes of codes; one scale and, with a codebook, eight numbers of one
 * profile, blocks being multiples of eight. */
template <> struct run<whit_fmt_frc> {
	struct row {
		whit_frc f;
		whit_frc_row at;
		whit_frc_count count;
		__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) {
			if (!count.at) f = whit_frc_of(&m);
			const uint8_t *bits = m.plane[0] + f.bitmap;
			int64_t c = whit_dev_frc_rank(count, bits, r);
			bool core = bits[r / 8] >> r % 8 & 1;
			at = whit_dev_frc_row(f, m.plane[0], core ? c : r - c, core);
		}
	};
	static __device__ __forceinline__ void load(float w[RUN], const whit_mat &m, const row &r, int i, int n) {
		float s = whit_dev_frc_scale(r.f, r.at, i);
		bool additive = r.f.flags & WHIT_FRC_ADDITIVE;
		unsigned minus = r.at.core ? 0 : ~(unsigned)r.at.codes[i / 8];
		const float *c = r.f.book_row && !r.at.core
		                         ? m.codebook + whit_dev_frc_profile(r.f, r.at, i) + i % r.f.block
		                         : NULL;
		WHIT_UNROLL
		for (int k = 0; k < RUN; k++) {
			float v = s;
			if (k >= n) {
				w[k] = 0.0f;
				continue;
			}
			if (r.at.core) v *= whit_dev_frc_core(r.f, r.at, i + k);
			if (c && !additive) v *= c[k];
			v = __uint_as_float(__float_as_uint(v) ^ (minus << (31 - k) & 0x80000000u));
			if (c && additive) v += c[k];
			w[k] = r.f.flags & WHIT_FRC_BALANCE ? v * whit_dev_frc_balance(m, r.f, i + k) : v;
		}
	}
};

/* A record's of five classes: what the row's class loads. */
template <> struct run<whit_fmt_vp> {
	struct row {
		whit_vp_row at;
		whit_vp_count count;
		__device__ __forceinline__ void begin(const whit_mat &m, int64_t r) {
			at = whit_dev_vp_row(count, m, r);
		}
	};
	static __device__ __forceinline__ void load(float w[RUN], const whit_mat &, const row &r, int i, int n) {
		if (r.at.c == WHIT_VP_F16)
			run<whit_fmt_f16>::load(w, r.at.of, {r.at.r}, i, n);
		else if (r.at.c == WHIT_VP_BINARY)
			run<whit_fmt_bin>::load(w, r.at.of, {r.at.r}, i, n);
		else
			run<whit_fmt_int>::load(w, r.at.of, {r.at.r}, i, n);
	}
};

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
			run<F>::load(w, m, row, i, n);
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
		float s = gemv_fold<TT>(sum);
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
