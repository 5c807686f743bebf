/* encode: the nearest codes and scales of rows, the CPU's bytes: formats/fmt_tq.c, fmt_int.c and fmt_float.c, whose
 * rules stand there. Their sums are sixteen of doubles, term i in sum i % 16, added one after the other: so sixteen
 * threads have a group, a sum each. A group's weights are read two or three times, but from L1 or L2 after the first;
 * int's trials have those of groups of up to 128 in registers. Blocks: encode_blocks.cu. */
#include "cuda/encode.cuh"
#include <float.h>
#include <math.h>
extern "C" {
#include "formats/format.h"
}

enum { THREADS = 128, LANES = 16 };

struct encode_args {
	const float *w, *imp; /* (rows, width); (width) or NULL */
	int64_t r0, rows, group, groups;
	int64_t *count; /* bad scales, zero groups */
	int rule;
	double z[11], fine[7]; /* int: trial steps, as multiples of the largest weight, and the finer ones' factors */
	int trials;
};

/* What sixteen threads have: their group's weights and importance, and the lanes that shuffle. */
struct lanes {
	const float *y, *imp;
	int64_t n;
	int lane;
	unsigned mask;
};

/* Group number blockIdx * THREADS / LANES + ..., false: there are fewer. *row counts from 0, *g within the row. */
static __device__ __forceinline__ bool lanes_take(lanes &l, const encode_args &a, int64_t width, int64_t *row,
                                                  int64_t *g) {
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES;
	if (i >= a.rows * a.groups) return false;
	*row = i / a.groups, *g = i % a.groups;
	l.y = a.w + *row * width + *g * a.group;
	l.imp = a.imp ? a.imp + *g * a.group : NULL;
	l.n = WHIT_MIN(a.group, width - *g * a.group);
	l.lane = (int)threadIdx.x % LANES;
	l.mask = 0xffffu << (threadIdx.x & LANES);
	return true;
}

/* whit_scale_round and whit_scale_put, by one thread for all. */
static __device__ __forceinline__ float scale_put(const whit_mat &m, int64_t stored, int64_t g, double s, int lane,
                                                  int64_t *count) {
	uint8_t *p = const_cast<uint8_t *>(m.plane[1]) + (size_t)stored * m.row_bytes[1];
	float f;
	if (m.scale_f32) {
		f = (float)fmax(fmin(s, (double)FLT_MAX), -(double)FLT_MAX);
		if (lane == 0) memcpy(p + 4 * g, &f, 4);
		return f;
	}
	uint16_t h = whit_dev_to_f16((float)s);
	if (lane == 0) {
		memcpy(p + 2 * g, &h, 2);
		if (!(fabs(s) <= 65504) || (s != 0 && fabs(s) < 0x1p-14))
			atomicAdd(reinterpret_cast<unsigned long long *>(count), 1ull);
	}
	return whit_dev_f16(h);
}

/* Sixteen codes, one a thread, from bit at * bits of the row on: eight are a whole number of bytes, which as many of
 * their threads write, as far as the group goes. */
static __device__ __forceinline__ void codes_put(const whit_mat &m, int64_t stored, int64_t at, int64_t left, int code,
                                                 const lanes &l) {
	int bits = m.spec.bits, k = l.lane % 8;
	unsigned long long word = (unsigned long long)code << bits * k;
	for (int s = 4; s > 0; s /= 2) word |= __shfl_xor_sync(l.mask, word, s, 8);
	int64_t mine = WHIT_MIN(left - l.lane / 8 * 8, (int64_t)8); /* codes of these eight */
	uint8_t *p =
	        const_cast<uint8_t *>(m.plane[0]) + (size_t)stored * m.row_bytes[0] + (at + l.lane / 8 * 8) * bits / 8;
	if (mine > 0 && k < (mine * bits + 7) / 8) p[k] = (uint8_t)(word >> 8 * k);
}

/* ---- tq ---- */

/* Where y is compared: a group's boundaries are those of the codebook times its norm, in double. Of up to 16 levels
 * each of its threads has rounded one down to float, which y lies above as often. */
struct tq_levels {
	const float *codebook, *below; /* below: few levels' boundaries */
	double norm;
	int bits;
};

static __device__ __forceinline__ double tq_boundary(const tq_levels &v, int k) {
	return 0.5 * ((double)v.codebook[k] + v.codebook[k + 1]) * v.norm;
}

/* Boundaries strictly below y. */
template <bool few> static __device__ __forceinline__ int tq_code(const tq_levels &v, float y) {
	int k = 0;
	for (int step = 1 << (v.bits - 1); step; step >>= 1)
		if (few ? y > v.below[k + step - 1] : y > tq_boundary(v, k + step - 1)) k += step;
	return k;
}

/* <y, c> and <c, c>, a thread's part of each. */
struct tq_parts {
	double yc, cc;
};

static __device__ __forceinline__ void tq_add(tq_parts *p, const tq_levels &v, int code, float y, const float *imp) {
	double c = v.codebook[code], by = imp ? *imp * c : c;
	p->yc = fma(by, (double)y, p->yc);
	p->cc = fma(by, c, p->cc);
}

template <bool few> __global__ void __launch_bounds__(THREADS) tq_encode_kernel(const whit_mat m, const encode_args a) {
	WHIT_SHARED(float, below, [THREADS]);
	lanes l;
	int64_t row, g;
	if (!lanes_take(l, a, m.width, &row, &g)) return;
	int64_t stored = whit_mat_row(&m, a.r0 + row);
	double sum = 0, s = 0;
	for (int64_t i = l.lane; i < l.n; i += LANES) sum = fma((double)l.y[i], (double)l.y[i], sum);
	double n2 = encode_sum<LANES>(sum, l.mask);
	tq_levels v = {m.codebook, below + threadIdx.x / LANES * LANES, sqrt(n2), m.spec.bits};
	tq_parts p = {0, 0};
	const float *imp = a.rule == WHIT_SCALE_LS ? l.imp : NULL;
	if (few && l.lane + 1 < 1 << v.bits) below[threadIdx.x] = __double2float_rd(tq_boundary(v, l.lane));
	__syncwarp(l.mask);
	for (int64_t i0 = 0; i0 < l.n; i0 += LANES) {
		int64_t i = i0 + l.lane;
		bool in = n2 > 0 && i < l.n;
		int code = in ? tq_code<few>(v, l.y[i]) : 0;
		codes_put(m, stored, g * a.group + i0, l.n - i0, code, l);
		if (in) tq_add(&p, v, code, l.y[i], imp ? imp + i : NULL);
	}
	double yc = encode_sum<LANES>(p.yc, l.mask), cc = encode_sum<LANES>(p.cc, l.mask);
	if (n2 > 0 && imp && !(cc > 0)) { /* without importance, then */
		p = {0, 0};
		for (int64_t i = l.lane; i < l.n; i += LANES) tq_add(&p, v, tq_code<few>(v, l.y[i]), l.y[i], NULL);
		yc = encode_sum<LANES>(p.yc, l.mask), cc = encode_sum<LANES>(p.cc, l.mask);
	}
	if (n2 > 0)
		s = a.rule == WHIT_SCALE_RAW    ? v.norm
		    : a.rule == WHIT_SCALE_NORM ? sqrt(n2 / cc)
		    : a.rule == WHIT_SCALE_IP   ? n2 / yc
		                                : yc / cc;
	else if (l.lane == 0)
		atomicAdd(reinterpret_cast<unsigned long long *>(a.count + 1), 1ull);
	scale_put(m, stored, g, s, l.lane, a.count);
}

/* ---- int ---- */

static __device__ __forceinline__ float step_round(float v, int top) {
	return fminf(fmaxf(rintf(v), (float)-top), (float)(top - 1));
}

/* Of a trial: <w, q>^2 / <q, q>, whose largest counts, the first of equals; <w, q> and <q, q>; its number. */
struct trial {
	double gain, wq, qq;
	int number;
};

/* H of a thread's weights, 0 behind the group's last; H = 0: all of them, in memory. z: weight times importance. */
template <int H> struct held {
	float y[H > 0 ? H : 1];
	double z[H > 0 ? H : 1], imp[H > 0 ? H : 1];
};

template <int H, bool weighted>
static __device__ __forceinline__ void hold(held<H> &v, const lanes &l, const float *imp) {
	WHIT_UNROLL
	for (int k = 0; k < H; k++) {
		int64_t i = l.lane + k * LANES;
		v.y[k] = i < l.n ? l.y[i] : 0.0f;
		if (weighted) v.imp[k] = imp && i < l.n ? imp[i] : 1;
		v.z[k] = weighted ? v.imp[k] * v.y[k] : v.y[k];
	}
}

/* What one weight adds: q z and q^2 imp, whose products are exact before they are added, however they are made up.
 * 3 * 2^22 leaves the nearest integer in a float's lowest bits, as rintf rounds; a double takes them from there without
 * a conversion, of which a multiprocessor does few. */
static __device__ __forceinline__ float trial_add(double *a, float y, double z, float inv, int top) {
	float at = fminf(fmaxf(y * inv, (float)-top), (float)(top - 1)) + 0x1.8p23f;
	double q = __hiloint2double(0x43300000, __float_as_int(at)) - (0x1p52 + 0x4b400000);
	*a = fma(q, z, *a);
	return at - 0x1.8p23f;
}

template <int H, bool weighted>
static __device__ __forceinline__ void trial_sums(double *a, double *b, const held<H> &v, const lanes &l,
                                                  const float *imp, float inv, int top) {
	float squares = 0; /* of up to eight integers: exact */
	WHIT_UNROLL
	for (int k = 0; k < H; k++) {
		float q = trial_add(a, v.y[k], v.z[k], inv, top);
		if (weighted)
			*b = fma((double)(q * q), v.imp[k], *b);
		else
			squares += q * q;
	}
	for (int64_t i = l.lane; i < l.n && H == 0; i += LANES) {
		double p = imp ? imp[i] : 1;
		float q = trial_add(a, l.y[i], p * l.y[i], inv, top);
		*b = fma((double)(q * q), p, *b);
	}
	if (H > 0 && !weighted) *b = squares;
}

enum { TRIED = LANES / 2, ROOM = 33 /* doubles of a row: 32 threads, and one to keep banks apart */ };

/* Up to TRIED trials, number `first` and on; trial k's 1 / step is thread k's inv. Both sums of each go to a thread
 * that adds the sixteen parts, one after the other. room: the warp's, 2 TRIED rows. */
template <int H, bool weighted>
static __device__ __forceinline__ void try_some(trial *best, const held<H> &v, const lanes &l, const float *imp,
                                                int top, float inv, int first, int count, double (*room)[ROOM]) {
	int at = (int)threadIdx.x % 32, k = l.lane % TRIED;
	for (int t = 0; t < count; t++) {
		double a = 0, b = 0;
		trial_sums<H, weighted>(&a, &b, v, l, imp, __shfl_sync(l.mask, inv, t, LANES), top);
		room[t][at] = a, room[TRIED + t][at] = b;
	}
	__syncwarp(l.mask);
	double sum = 0;
	for (int i = 0; i < LANES && k < count; i++) sum += room[l.lane][at - l.lane + i];
	__syncwarp(l.mask);
	double other = __shfl_xor_sync(l.mask, sum, TRIED, LANES);
	double wq = l.lane < TRIED ? sum : other, qq = l.lane < TRIED ? other : sum;
	if (k < count && qq > 0 && wq * wq / qq > best->gain) *best = {wq * wq / qq, wq, qq, first + k};
}

/* The best of all sixteen threads'. */
static __device__ __forceinline__ trial best_of(trial t, const lanes &l) {
	for (int half = TRIED / 2; half > 0; half /= 2) {
		trial o = {__shfl_xor_sync(l.mask, t.gain, half, LANES), __shfl_xor_sync(l.mask, t.wq, half, LANES),
		           __shfl_xor_sync(l.mask, t.qq, half, LANES), __shfl_xor_sync(l.mask, t.number, half, LANES)};
		if (o.gain > t.gain || (o.gain == t.gain && o.number < t.number)) t = o;
	}
	return t;
}

/* a.trials steps of either sign, and around the best of them finer ones. */
template <int H, bool weighted>
static __device__ __forceinline__ trial try_steps(const lanes &l, const encode_args &a, const float *imp, int bits,
                                                  float e, double (*room)[ROOM]) {
	int top = 1 << (bits - 1), coarse = 2 * a.trials, k = l.lane % TRIED;
	trial best = {0, 0, 0, 0};
	held<H> v;
	hold<H, weighted>(v, l, imp);
	for (int t = 0; t < coarse; t += TRIED) {
		int mine = WHIT_MIN(t + k, coarse - 1);
		double z = a.z[mine % a.trials];
		float inv = (float)((mine < a.trials ? -z : z) / e);
		try_some<H, weighted>(&best, v, l, imp, top, inv, t, WHIT_MIN(TRIED, coarse - t), room);
	}
	best = best_of(best, l);
	if (bits == 8) return best;
	double z = best.gain > 0 ? a.z[best.number % a.trials] : 0;
	int fine = WHIT_MIN(k + (k > 2), 6); /* all but number 3, which is 1 */
	float inv = (float)((best.number < a.trials ? -z : z) * a.fine[fine] / e);
	try_some<H, weighted>(&best, v, l, imp, top, inv, coarse, 6, room);
	return best_of(best, l);
}

template <int H, bool weighted>
static __device__ __forceinline__ double choose_step(const lanes &l, const encode_args &a, int bits, float e,
                                                     double (*room)[ROOM]) {
	double unclipped = -(double)e / (1 << (bits - 1));
	if (!(1024 / fabsf(e) <= FLT_MAX)) return unclipped; /* 1 / step would overflow */
	trial best = try_steps<H, weighted>(l, a, l.imp, bits, e, room);
	if (weighted && !(best.gain > 0)) best = try_steps<H, weighted>(l, a, NULL, bits, e, room);
	return best.gain > 0 ? best.wq / best.qq : unclipped;
}

/* The first of the values of largest magnitude. */
static __device__ __forceinline__ float lanes_peak(const lanes &l) {
	float e = 0;
	int64_t at = l.lane;
	for (int64_t i = l.lane; i < l.n; i += LANES)
		if (fabsf(l.y[i]) > fabsf(e)) e = l.y[i], at = i;
	for (int k = LANES / 2; k > 0; k /= 2) {
		float o = __shfl_xor_sync(l.mask, e, k, LANES);
		int64_t i = __shfl_xor_sync(l.mask, at, k, LANES);
		if (fabsf(o) > fabsf(e) || (fabsf(o) == fabsf(e) && i < at)) e = o, at = i;
	}
	return e;
}

template <int H, bool weighted>
__global__ void __launch_bounds__(THREADS, 4) int_encode_kernel(const whit_mat m, const encode_args a) {
	WHIT_SHARED(double, room, [THREADS / 32][2 * TRIED][ROOM]);
	lanes l;
	int64_t row, g;
	if (!lanes_take(l, a, m.width, &row, &g)) return;
	int64_t stored = whit_mat_row(&m, a.r0 + row);
	int bits = m.spec.bits, top = 1 << (bits - 1);
	float e = lanes_peak(l);
	if (e == 0 && l.lane == 0) atomicAdd(reinterpret_cast<unsigned long long *>(a.count + 1), 1ull);
	double step = e != 0 ? choose_step<H, weighted>(l, a, bits, e, room[threadIdx.x / 32]) : 0;
	float s = scale_put(m, stored, g, step, l.lane, a.count);
	for (int64_t i0 = 0; i0 < l.n; i0 += LANES) {
		int64_t i = i0 + l.lane;
		int code = s != 0 && i < l.n ? (int)step_round(l.y[i] / s, top) & (2 * top - 1) : 0;
		codes_put(m, stored, g * a.group + i0, l.n - i0, code, l);
	}
}

/* ---- floats ---- */

/* A warp a row; bytes: of a number. Rows of what encoders write to lie as numbers of their size do. A memcpy of two
 * bytes in place of the store lost the lower one on an H200 (nvcc 13.0). */
__global__ void __launch_bounds__(THREADS)
        float_encode_kernel(const whit_mat m, const encode_args a, int bytes, bool f16) {
	int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
	int lane = (int)threadIdx.x % 32, over = 0, any = 0;
	if (row >= a.rows) return;
	const float *w = a.w + row * m.width;
	uint8_t *to = const_cast<uint8_t *>(m.plane[0]) + (size_t)whit_mat_row(&m, a.r0 + row) * m.row_bytes[0];
	for (int64_t i = lane; i < m.width; i += 32) {
		float v = w[i];
		any |= v != 0;
		over += f16 && !(fabsf(v) <= 65504);
		if (bytes == 4) {
			memcpy(to + 4 * i, &v, 4);
			continue;
		}
		reinterpret_cast<uint16_t *>(to)[i] = f16 ? whit_dev_to_f16(v) : whit_dev_to_bf16(v);
	}
	over = __reduce_add_sync(0xffffffffu, over);
	any = __any_sync(0xffffffffu, any);
	if (lane) return;
	if (over) atomicAdd(reinterpret_cast<unsigned long long *>(a.count), (unsigned long long)over);
	if (!any) atomicAdd(reinterpret_cast<unsigned long long *>(a.count + 1), 1ull);
}

/* ---- choice ---- */

/* The trial steps of fmt_int.c, by the host's exp2: a device's may differ in the last bit. */
static void int_trials(encode_args *a, int bits) {
	const double near8[] = {128, 127, 127.5, 129, 130, 132};
	a->trials = bits == 8 ? 6 : 11;
	for (int i = 0; i < a->trials; i++) a->z[i] = bits == 8 ? near8[i] : (1 << (bits - 1)) * exp2((i - 2) / 4.0);
	for (int i = 0; i < 7; i++) a->fine[i] = exp2((i - 3) / 16.0);
}

extern "C" void whit_rows_encode_cuda(whit_dev *d, const whit_mat *m, int64_t r0, int64_t n, const float *w,
                                      const float *imp, int rule, int64_t *count) {
	const char *name = m->spec.fmt->name;
	encode_args a = {};
	if (n == 0) return;
	a.w = w, a.imp = imp, a.r0 = r0, a.rows = n, a.rule = rule, a.count = count;
	a.group = m->spec.group ? m->spec.group : m->width;
	a.groups = (m->width + a.group - 1) / a.group;
	if (!strcmp(name, "tq")) {
		auto *kernel = m->spec.bits <= 4 ? tq_encode_kernel<true> : tq_encode_kernel<false>;
		WHIT_LAUNCH(kernel, whit_blocks(n * a.groups * LANES, THREADS), THREADS, 0, d, *m, a);
	} else if (!strcmp(name, "int")) {
		int_trials(&a, m->spec.bits);
		auto *kernel = a.group <= 2 * LANES   ? imp ? int_encode_kernel<2, true> : int_encode_kernel<2, false>
		                 : a.group <= 8 * LANES ? imp ? int_encode_kernel<8, true> : int_encode_kernel<8, false>
		                                        : int_encode_kernel<0, true>;
		WHIT_LAUNCH(kernel, whit_blocks(n * a.groups * LANES, THREADS), THREADS, 0, d, *m, a);
	} else if (!strcmp(name, "f32") || !strcmp(name, "f16") || !strcmp(name, "bf16")) {
		WHIT_LAUNCH(float_encode_kernel, whit_blocks(n * 32, THREADS), THREADS, 0, d, *m, a,
		            strcmp(name, "f32") ? 2 : 4, !strcmp(name, "f16"));
	} else if (!whit_blocks_encode(d, m, r0, n, w, imp, count)) {
		whit_dev_fail(d, WHIT_EINTERNAL, "format %s: has no encoder on the device", name);
	}
}
