/* int: symmetric uniform, w = scale * q with q in [-2^(B-1), 2^(B-1)).
 *
 *   row:   [code 0 | code 1 | ...] LSB-first fields of B bits, two's complement    [scale of group 0 | ...] F16 or F32
 *
 * Scales may be negative: the levels reach one step further down than up, so the sign decides which tail of
 * the group gets that step. The last group of a row may be short. */
#include "formats/codes.h"
#include "formats/nearest.h"
#include "formats/tensor.h"
#include <float.h>
#include <math.h>
#include <stdio.h>

extern const whit_format whit_format_int;

static int parse(const char *name, whit_spec *spec) {
	if (strncmp(name, "int", 3)) return -1;
	const char *s = name + 3;
	int bits = whit_parse_number(&s), group = 0;
	if (bits != 2 && bits != 3 && bits != 4 && bits != 8) return -1;
	if (*s == 'g') {
		s++;
		group = whit_parse_number(&s);
		if (group < 32 || group > 512 || group & (group - 1)) return -1;
	}
	if (*s) return -1;
	*spec = (whit_spec){.fmt = &whit_format_int, .bits = bits, .group = group};
	return 0;
}

static void print(const whit_spec *spec, char out[32]) {
	if (spec->group)
		snprintf(out, 32, "int%dg%d", spec->bits, spec->group);
	else
		snprintf(out, 32, "int%d", spec->bits);
}

static int planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES], whit_err *e) {
	if (width < 1)
		return whit_fail(e, WHIT_EUSAGE, "format int%d: width is %lld, need 1 or more", spec->bits,
		                 (long long)width),
		       -1;
	int64_t groups = spec->group ? (width + spec->group - 1) / spec->group : 1,
	        bytes = whit_codes_bytes(width, spec->bits);
	out[0] = (whit_plane_desc){"q_codes", WHIT_U8, bytes, (size_t)bytes};
	out[1] = (whit_plane_desc){"q_scales", scale_f32 ? WHIT_F32 : WHIT_F16, groups,
	                           (size_t)groups * (scale_f32 ? 4 : 2)};
	return 2;
}

/* Levels by code: the code as a two's complement integer of 2, 3, 4 or 8 bits. */
static const float *levels(int bits) {
#define L4(a) a, a + 1, a + 2, a + 3
#define L16(a) L4(a), L4(a + 4), L4(a + 8), L4(a + 12)
#define L64(a) L16(a), L16(a + 16), L16(a + 32), L16(a + 48)
	static const float l2[] = {0, 1, -2, -1}, l3[] = {L4(0), L4(-4)}, l4[] = {L4(0), L4(4), L4(-8), L4(-4)},
	                   l8[] = {L64(0), L64(64), L64(-128), L64(-64)};
	return bits == 2 ? l2 : bits == 3 ? l3 : bits == 4 ? l4 : l8;
#undef L64
#undef L16
#undef L4
}

static whit_codes view(const whit_mat *m) {
	int64_t group = m->spec.group ? m->spec.group : m->width;
	return (whit_codes){.m = m,
	                    .level = levels(m->spec.bits),
	                    .bits = m->spec.bits,
	                    .twos = 1,
	                    .group = group,
	                    .groups = (m->width + group - 1) / group};
}

static void decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	whit_codes c = view(m);
	whit_codes_decode(&c, r0, r1, out);
}

static void gemv(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	whit_codes c = view(m);
	whit_codes_gemv(&c, r0, r1, x, T, y, ldy);
}

/* What a step 1/inv is worth: the squared error that its codes remove at their own least-squares step. */
typedef struct trial {
	double gain, step;
} trial;

static void try_step(trial *best, const float *w, const float *imp, int64_t n, int top, double inv) {
	double wq, qq;
	whit_nearest_step_dots(w, imp, n, (float)inv, -top, top - 1, &wq, &qq);
	if (qq > 0 && wq * wq / qq > best->gain) *best = (trial){wq * wq / qq, wq / qq};
}

/* The scale rule: with e the weight of largest magnitude, trial steps are +-e/z, and the best one's
 * least-squares step is stored. 2 to 4 bits: z = top * 2^(i/4), i = -2..8, from unclipped with room to spare
 * to clipping at a quarter of e (rows with outliers), then six finer ones about the best. 8 bits: clipping never
 * pays more than a few steps (one clipped outlier costs more than n * step^2 / 12 saves), so z is near top. The
 * grid is fine enough that decoded values meet a trial step that reproduces them, and its least squares is exact. */
static double choose_step(const float *w, const float *imp, int64_t n, int bits, float e) {
	static const double near8[] = {128, 127, 127.5, 129, 130, 132};
	int top = 1 << (bits - 1);
	double at = 0;
	trial best = {0, 0};
	if (!(1024 / fabsf(e) <= FLT_MAX)) return -(double)e / top; /* 1/step would overflow */
	for (int sign = -1; sign <= 1; sign += 2)
		for (int i = 0; i < (bits == 8 ? WHIT_COUNT(near8) : 11); i++) {
			double z = bits == 8 ? near8[i] : top * exp2((i - 2) / 4.0), before = best.gain;
			try_step(&best, w, imp, n, top, sign * z / e);
			if (best.gain > before) at = sign * z;
		}
	for (int i = -3; i <= 3 && bits < 8; i++)
		if (i) try_step(&best, w, imp, n, top, at * exp2(i / 16.0) / e);
	return best.gain > 0 ? best.step : imp ? choose_step(w, NULL, n, bits, e) : -(double)e / top;
}

static int encode(whit_mat *m, int64_t r, const float *w, const float *imp, int rule, int64_t *zero_groups) {
	(void)rule; /* the rules are about codebooks of unit vectors */
	whit_codes c = view(m);
	int top = 1 << (c.bits - 1), bad = 0;
	uint8_t *code = whit_alloc((size_t)m->width);
	for (int64_t g = 0, i = 0; g < c.groups; g++, i += c.group) {
		int64_t n = WHIT_MIN(c.group, m->width - i);
		float e = whit_nearest_peak(w + i, n), s = 0;
		*zero_groups += e == 0;
		if (e != 0)
			s = whit_scale_round(choose_step(w + i, imp ? imp + i : NULL, n, c.bits, e), m->scale_f32,
			                     &bad);
		if (s != 0) whit_nearest_step(code + i, w + i, n, s, -top, top - 1);
		for (int64_t j = i; j < i + n; j++) code[j] &= (uint8_t)(2 * top - 1);
		whit_scale_put(m, r, g, s);
	}
	whit_codes_pack((uint8_t *)m->plane[0] + (size_t)r * m->row_bytes[0], code, m->width, c.bits);
	whit_free(code);
	return bad;
}

const whit_format whit_format_int = {
        .name = "int",
        .help = "intB, intBgG (symmetric uniform, B 2, 3, 4 or 8 bits, scale per row or per group G 32..512; scale "
                "F16)",
        .parse = parse,
        .print = print,
        .planes = planes,
        .decode = decode,
        .encode = encode,
        .gemv = gemv,
};
