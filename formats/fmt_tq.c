/* tq: scalar codebook on unit vectors (TurboQuant 2504.19874; the weight recipe is scalar HIGGS 2411.17525, the
 * MSE form EDEN with S=1 2604.18555). turboquant.md 1, 4, 6.
 *
 *   row:   [code 0 | code 1 | ...] LSB-first fields of `bits` bits    [scale of group 0 | ...] F16 or F32
 *   w[i] = scale[i / group] * codebook[code i]
 *
 * The codebook belongs to one coordinate of a unit vector of the group's dimension, so a scale is about the
 * group's norm. It is shared by tensors, so the matrix only borrows it. */
#include "formats/codes.h"
#include "formats/nearest.h"
#include "formats/tensor.h"
#include <math.h>
#include <stdio.h>

extern const whit_format whit_format_tq;

static int parse(const char *name, whit_spec *spec) {
	if (strncmp(name, "tq", 2)) return -1;
	const char *s = name + 2;
	int bits = whit_parse_number(&s), group = WHIT_GROUP_AUTO;
	if (bits < 1 || bits > 8) return -1;
	if (!strcmp(s, "row")) {
		group = 0, s += 3;
	} else if (*s == 'g') {
		s++;
		group = whit_parse_number(&s);
		if (group != 64 && group != 128 && group != 256) return -1;
	}
	if (*s) return -1;
	*spec = (whit_spec){.fmt = &whit_format_tq, .bits = bits, .group = group};
	return 0;
}

static void print(const whit_spec *spec, char out[32]) {
	if (spec->group > 0)
		snprintf(out, 32, "tq%dg%d", spec->bits, spec->group);
	else
		snprintf(out, 32, "tq%d%s", spec->bits, spec->group ? "" : "row");
}

static int planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES], whit_err *e) {
	if (spec->group < 0) return whit_fail(e, WHIT_EINTERNAL, "format tq%d: group is unresolved", spec->bits), -1;
	if (width < 1 || (spec->group && width % spec->group))
		return whit_fail(e, WHIT_EUSAGE, "format tq%d: width is %lld, need a multiple of group %d", spec->bits,
		                 (long long)width, spec->group),
		       -1;
	int64_t groups = spec->group ? width / spec->group : 1, bytes = whit_codes_bytes(width, spec->bits);
	out[0] = (whit_plane_desc){"tq_codes", WHIT_U8, bytes, (size_t)bytes};
	out[1] = (whit_plane_desc){"tq_scales", scale_f32 ? WHIT_F32 : WHIT_F16, groups,
	                           (size_t)groups * (scale_f32 ? 4 : 2)};
	return 2;
}

static whit_codes view(const whit_mat *m) {
	int64_t group = m->spec.group ? m->spec.group : m->width;
	return (whit_codes){
	        .m = m, .level = m->codebook, .bits = m->spec.bits, .group = group, .groups = m->width / group};
}

static void decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	whit_codes c = view(m);
	whit_codes_decode(&c, r0, r1, out);
}

static void gemv(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	whit_codes c = view(m);
	whit_codes_gemv(&c, r0, r1, x, T, y, ldy);
}

/* The stored scale of one group of n weights y, of norm n2 = |y|^2 and chosen codes (turboquant.md 4). */
static double choose_scale(const whit_codes *c, const float *y, const uint8_t *code, const float *imp, double n2,
                           int rule) {
	double yc, cc;
	if (rule == WHIT_SCALE_RAW) return sqrt(n2);
	whit_nearest_dots(y, code, rule == WHIT_SCALE_LS ? imp : NULL, c->group, c->level, c->bits, &yc, &cc);
	if (rule == WHIT_SCALE_LS && !(cc > 0)) /* all importance zero */
		whit_nearest_dots(y, code, NULL, c->group, c->level, c->bits, &yc, &cc);
	return rule == WHIT_SCALE_NORM ? sqrt(n2 / cc) : rule == WHIT_SCALE_IP ? n2 / yc : yc / cc;
}

static int encode(whit_mat *m, int64_t r, const float *w, const float *imp, int rule, int64_t *zero_groups) {
	whit_codes c = view(m);
	int count = (1 << c.bits) - 1, bad = 0;
	uint8_t *code = whit_alloc((size_t)m->width);
	double boundary[255];
	for (int64_t g = 0; g < c.groups; g++) {
		const float *y = w + g * c.group;
		double n2 = whit_nearest_norm2(y, c.group), norm = sqrt(n2), s = 0;
		if (n2 > 0) {
			for (int k = 0; k < count; k++)
				boundary[k] = 0.5 * ((double)c.level[k] + c.level[k + 1]) * norm;
			whit_nearest_search(code + g * c.group, y, c.group, boundary, c.bits);
			s = choose_scale(&c, y, code + g * c.group, imp ? imp + g * c.group : NULL, n2, rule);
		} else {
			++*zero_groups; /* scale 0, codes 0 */
		}
		whit_scale_put(m, r, g, whit_scale_round(s, m->scale_f32, &bad));
	}
	whit_codes_pack((uint8_t *)m->plane[0] + (size_t)r * m->row_bytes[0], code, m->width, c.bits);
	whit_free(code);
	return bad;
}

const whit_format whit_format_tq = {
        .name = "tq",
        .help = "tqB, tqBgG, tqBrow (TurboQuant codebook, B 1..8 bits, group G 64, 128 or 256, or the row; scale F16)",
        .parse = parse,
        .print = print,
        .planes = planes,
        .decode = decode,
        .encode = encode,
        .gemv = gemv,
        .needs_codebook = 1,
};
