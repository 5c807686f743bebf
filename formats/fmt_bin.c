/* bin: a sign for each weight, a scale for each block of B of a row: s = r 2^(-q/16), r one float a row, q a byte a
 * block (frc1.h).
 *
 *   row:   [sign 0 | sign 1 | ...] 1 = +, LSB first, whole words of 32    [q of block 0 | ...]    [r] F16 or F32
 *
 * q's steps are 4.4 % wide, so a scale is at most 2.2 % off. The encoder leaves r twice the largest scale of the row:
 * room for scales that grow when codes are chosen with feedback. The last block of a row may be short. With a codebook
 * (of a record's binary class, frc1.h) a fourth plane has 4 or 8 bits a block: the profile that its weights are scaled
 * by, or that is added to them. */
#include <math.h>
#include <stdio.h>
#include "formats/codes.h"
#include "formats/frc1.h"
#include "formats/tensor.h"

static int parse(const char *name, whit_spec *spec) {
	if (strncmp(name, "bin", 3)) return -1;
	const char *s = name + 3;
	int group = whit_parse_number(&s);
	if (*s || whit_frc_log2(group) < 0) return -1;
	*spec = (whit_spec){.fmt = &whit_format_bin, .bits = 1, .group = group};
	return 0;
}

static void print(const whit_spec *spec, char out[32]) { snprintf(out, 32, "bin%d", spec->group); }

static int planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES], whit_err *e) {
	if (width < 1)
		return whit_fail(e, WHIT_EUSAGE, "format bin%d: width is %lld, need 1 or more", spec->group,
		                 (long long)width),
		       -1;
	const whit_frc f = whit_frc_layout(1, width, spec->group, 0, spec->flags);
	out[0] = (whit_plane_desc){"bin_signs", WHIT_U8, (int64_t)f.sign_row, f.sign_row};
	out[1] = (whit_plane_desc){"bin_exponents", WHIT_U8, f.blocks, (size_t)f.blocks};
	out[2] = (whit_plane_desc){"bin_scales", scale_f32 ? WHIT_F32 : WHIT_F16, 1, scale_f32 ? 4 : 2};
	if (!f.book_row) return 3;
	out[3] = (whit_plane_desc){"bin_profiles", WHIT_U8, (int64_t)f.book_row, f.book_row};
	return 4;
}

int whit_bin_profile(const whit_mat *m, int64_t r, int64_t b) {
	if (!(m->spec.flags & WHIT_FRC_BOOK)) return 0;
	const uint8_t *at = m->plane[3] + (size_t)r * m->row_bytes[3];
	return m->spec.flags & WHIT_FRC_WIDE ? at[b] & (WHIT_FRC_PROFILES - 1) : at[b / 2] >> b % 2 * 4 & 15;
}

void whit_bin_profile_put(const whit_mat *m, int64_t r, int64_t b, int k) {
	if (!(m->spec.flags & WHIT_FRC_BOOK)) return;
	uint8_t *at = (uint8_t *)(uintptr_t)m->plane[3] + (size_t)r * m->row_bytes[3];
	if (m->spec.flags & WHIT_FRC_WIDE)
		at[b] = (uint8_t)k;
	else
		at[b / 2] = (uint8_t)((at[b / 2] & 0xf0 >> b % 2 * 4) | k << b % 2 * 4);
}

float whit_frc_scale(float r, int q) {
	static const float T[16] = WHIT_FRC_T;
	return r * T[q % 16] * ldexpf(1, -(q / 16));
}

int whit_frc_q(float r, float s) {
	if (!(s > 0) || !(r > 0)) return 255;
	double q = rint(16 * log2((double)r / s));
	return q > 255 ? 255 : q > 0 ? (int)q : 0;
}

float whit_bin_row_scale(const whit_mat *m, int64_t r) {
	const uint8_t *p = m->plane[2] + (size_t)r * m->row_bytes[2];
	return m->scale_f32 ? whit_load_f32(p) : whit_f16_to_f32(whit_load_u16(p));
}

/* Rows [r0, r1) as codes with a scale a block, scales (r1 - r0, blocks) in memory that the caller frees. */
static whit_codes view(const whit_mat *m, whit_mat *rows, int64_t r0, int64_t r1, float **scales) {
	static const float level[2] = {-1, 1};
	int64_t blocks = (m->width + m->spec.group - 1) / m->spec.group;
	float *s = *scales = whit_alloc((size_t)((r1 - r0) * blocks + 1) * sizeof *s);
	for (int64_t r = r0; r < r1; r++) {
		const uint8_t *q = m->plane[1] + (size_t)r * m->row_bytes[1];
		for (int64_t b = 0; b < blocks; b++)
			s[(r - r0) * blocks + b] = whit_frc_scale(whit_bin_row_scale(m, r), q[b]);
	}
	*rows = *m;
	rows->plane[0] = m->plane[0] + (size_t)r0 * m->row_bytes[0];
	rows->plane[1] = (const uint8_t *)s;
	rows->row_bytes[1] = (size_t)blocks * sizeof *s;
	rows->scale_f32 = 1;
	return (whit_codes){.m = rows, .level = level, .bits = 1, .group = m->spec.group, .groups = blocks};
}

static void decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	whit_mat rows;
	float *scales;
	whit_codes c = view(m, &rows, r0, r1, &scales);
	whit_codes_decode(&c, 0, r1 - r0, out);
	for (int64_t r = r0; r < r1 && m->spec.flags & WHIT_FRC_BOOK; r++, out += m->width)
		for (int64_t i = 0; i < m->width; i++) {
			float f = m->codebook[whit_bin_profile(m, r, i / c.group) * c.group + i % c.group];
			out[i] = m->spec.flags & WHIT_FRC_ADDITIVE ? out[i] + f : out[i] * f;
		}
	whit_free(scales);
}

/* With profiles: rows are decoded, and products summed in lanes. */
static void gemv_profiles(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	enum { LANES = 16 };
	int64_t n = m->width;
	float *w = whit_alloc((size_t)n * sizeof *w);
	for (int64_t r = r0; r < r1; r++) {
		decode(m, r, r + 1, w);
		for (int t = 0; t < T; t++) {
			float part[LANES] = {0};
			int64_t i = 0;
			for (; i + LANES <= n; i += LANES)
				for (int l = 0; l < LANES; l++) part[l] += w[i + l] * x[t * n + i + l];
			for (int l = 0; i + l < n; l++) part[l] += w[i + l] * x[t * n + i + l];
			for (int half = LANES / 2; half > 0; half /= 2)
				for (int l = 0; l < half; l++) part[l] += part[l + half];
			y[t * ldy + r] = part[0];
		}
	}
	whit_free(w);
}

static void gemv(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	if (m->spec.flags & WHIT_FRC_BOOK) {
		gemv_profiles(m, r0, r1, x, T, y, ldy);
		return;
	}
	whit_mat rows;
	float *scales;
	whit_codes c = view(m, &rows, r0, r1, &scales);
	whit_codes_gemv(&c, 0, r1 - r0, x, T, y + r0, ldy);
	whit_free(scales);
}

float whit_bin_fit(const float *w, const float *imp, const float *c, int64_t n, double *gain) {
	double sum = 0, all = 0;
	for (int64_t i = 0; i < n; i++) {
		double p = imp ? imp[i] : 1, f = c ? c[i] : 1;
		sum += p * fabs((double)w[i]) * f;
		all += p * f * f;
	}
	if (gain) *gain = all > 0 ? sum * sum / all : 0;
	return all > 0 ? (float)(sum / all) : imp ? whit_bin_fit(w, NULL, c, n, NULL) : 0;
}

float whit_bin_fit_additive(const float *w, const float *imp, const float *c, int64_t n, double *gain) {
	double sum = 0, all = 0, own = 0, left = 0;
	for (int64_t i = 0; i < n; i++) {
		double p = imp ? imp[i] : 1, d = w[i] - (c ? c[i] : 0);
		sum += p * fabs(d), all += p;
		own += p * w[i] * w[i], left += p * d * d;
	}
	if (gain) *gain = all > 0 ? own - left + sum * sum / all : 0;
	return all > 0 ? (float)(sum / all) : imp ? whit_bin_fit_additive(w, NULL, c, n, NULL) : 0;
}

float whit_bin_choose(const whit_mat *m, const float *w, const float *imp, int64_t col, int64_t n, int *k) {
	double most, gain;
	const float *p = imp ? imp + col : NULL;
	float s = whit_bin_fit(w, p, NULL, n, &most);
	*k = 0;
	if (!(m->spec.flags & WHIT_FRC_BOOK) || n < m->spec.group) return s; /* a short block has no profile */
	for (int i = 1; i < whit_frc_choices(&m->spec); i++) {
		const float *c = m->codebook + i * m->spec.group;
		float t = m->spec.flags & WHIT_FRC_ADDITIVE ? whit_bin_fit_additive(w, p, c, n, &gain)
		                                            : whit_bin_fit(w, p, c, n, &gain);
		if (gain > most) most = gain, s = t, *k = i;
	}
	return s;
}

static int encode(whit_mat *m, int64_t r, const float *w, const float *imp, int rule, int64_t *zero_groups) {
	(void)rule; /* the rules are about codebooks of unit vectors */
	int64_t n = m->spec.group, blocks = (m->width + n - 1) / n;
	float *s = whit_alloc((size_t)blocks * sizeof *s), most = 0;
	uint8_t *q = (uint8_t *)(uintptr_t)m->plane[1] + (size_t)r * m->row_bytes[1],
	        *code = whit_alloc((size_t)m->width);
	uint8_t *sign = (uint8_t *)(uintptr_t)m->plane[0] + (size_t)r * m->row_bytes[0],
	        *root = (uint8_t *)(uintptr_t)m->plane[2] + (size_t)r * m->row_bytes[2];
	int bad = 0;
	for (int64_t b = 0; b < blocks; b++) {
		int k;
		int64_t size = WHIT_MIN(n, m->width - b * n);
		s[b] = whit_bin_choose(m, w + b * n, imp, b * n, size, &k);
		whit_bin_profile_put(m, r, b, k);
		const float *c = m->spec.flags & WHIT_FRC_ADDITIVE ? m->codebook + k * n : NULL;
		for (int64_t i = 0; i < size; i++) code[b * n + i] = w[b * n + i] >= (c ? c[i] : 0);
		*zero_groups += s[b] == 0;
		most = fmaxf(most, s[b]);
	}
	float top = whit_scale_round(2.0 * most, m->scale_f32, &bad);
	uint16_t half = whit_f32_to_f16(top);
	if (m->scale_f32)
		memcpy(root, &top, sizeof top);
	else
		memcpy(root, &half, sizeof half);
	for (int64_t b = 0; b < blocks; b++) q[b] = (uint8_t)whit_frc_q(top, s[b]);
	memset(sign, 0, m->row_bytes[0]);
	whit_codes_pack(sign, code, m->width, 1);
	whit_free(s);
	whit_free(code);
	return bad;
}

const whit_format whit_format_bin = {
        .name = "bin",
        .help = "binB (signs, blocks of B 64, 128, 256 or 512 with a scale of 8 bits under one F16 a row)",
        .parse = parse,
        .print = print,
        .planes = planes,
        .decode = decode,
        .encode = encode,
        .gemv = gemv,
};
