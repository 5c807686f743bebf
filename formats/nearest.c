#include "formats/nearest_fast.h"

enum { LANES = 16 };

static double add_lanes(const double lane[LANES]) {
	double s = 0;
	for (int l = 0; l < LANES; l++) s += lane[l];
	return s;
}

static double norm2_plain(const float *y, int64_t n) {
	double lane[LANES] = {0};
	for (int64_t i = 0; i < n; i++) lane[i % LANES] += (double)y[i] * y[i]; /* exact product: 48 bits */
	return add_lanes(lane);
}

static float peak_plain(const float *y, int64_t n) {
	float e = 0;
	for (int64_t i = 0; i < n; i++)
		if (fabsf(y[i]) > fabsf(e)) e = y[i];
	return e;
}

static void search_plain(uint8_t *code, const float *y, int64_t n, const double *boundary, int bits) {
	for (int64_t i = 0; i < n; i++) {
		int k = 0;
		for (int step = 1 << (bits - 1); step; step >>= 1)
			if (y[i] > boundary[k + step - 1]) k += step;
		code[i] = (uint8_t)k;
	}
}

static void dots_plain(const float *y, const uint8_t *code, const float *imp, int64_t n, const float *level, int bits,
                       double *yc, double *cc) {
	double a[LANES] = {0}, b[LANES] = {0};
	(void)bits;
	for (int64_t i = 0; i < n; i++) {
		double c = level[code[i]], p = imp ? imp[i] * c : c; /* exact */
		a[i % LANES] = fma(p, y[i], a[i % LANES]);
		b[i % LANES] = fma(p, c, b[i % LANES]);
	}
	*yc = add_lanes(a);
	*cc = add_lanes(b);
}

static inline float clamp_round(float v, int lo, int hi) { return fminf(fmaxf(rintf(v), (float)lo), (float)hi); }

static void step_dots_plain(const float *y, const float *imp, int64_t n, float inv, int lo, int hi, double *yq,
                            double *qq) {
	double a[LANES] = {0}, b[LANES] = {0};
	for (int64_t i = 0; i < n; i++) {
		double q = clamp_round(y[i] * inv, lo, hi), p = imp ? imp[i] * q : q;
		a[i % LANES] = fma(p, y[i], a[i % LANES]);
		b[i % LANES] = fma(p, q, b[i % LANES]);
	}
	*yq = add_lanes(a);
	*qq = add_lanes(b);
}

static void step_plain(uint8_t *code, const float *y, int64_t n, float step, int lo, int hi) {
	for (int64_t i = 0; i < n; i++) code[i] = (uint8_t)(int)clamp_round(y[i] / step, lo, hi);
}

/* ---- the fastest this CPU has ---- */

#if WHIT_SIMD
#define PICK(name, ...)                                                                                                \
	(whit_cpu_level() >= 2   ? whit_nearest_##name##_avx512(__VA_ARGS__)                                           \
	 : whit_cpu_level() == 1 ? whit_nearest_##name##_avx2(__VA_ARGS__)                                             \
	                         : name##_plain(__VA_ARGS__))
#else
#define PICK(name, ...) name##_plain(__VA_ARGS__)
#endif

double whit_nearest_norm2(const float *y, int64_t n) { return PICK(norm2, y, n); }
float whit_nearest_peak(const float *y, int64_t n) { return PICK(peak, y, n); }

void whit_nearest_search(uint8_t *code, const float *y, int64_t n, const double *boundary, int bits) {
	PICK(search, code, y, n, boundary, bits);
}

void whit_nearest_dots(const float *y, const uint8_t *code, const float *imp, int64_t n, const float *level, int bits,
                       double *yc, double *cc) {
	PICK(dots, y, code, imp, n, level, bits, yc, cc);
}

void whit_nearest_step_dots(const float *y, const float *imp, int64_t n, float inv, int lo, int hi, double *yq,
                            double *qq) {
	PICK(step_dots, y, imp, n, inv, lo, hi, yq, qq);
}

void whit_nearest_step(uint8_t *code, const float *y, int64_t n, float step, int lo, int hi) {
	PICK(step, code, y, n, step, lo, hi);
}
