/* runs: eight weights of a row that lie side by side, of every number format: what they share (scale, block header,
 * profile) is read once. */
#ifndef WHIT_RUNS_CUH
#define WHIT_RUNS_CUH
#include "cuda/formats.cuh"

enum { RUN = 8 };

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
#endif
