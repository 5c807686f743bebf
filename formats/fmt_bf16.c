/* bf16: the upper half of a binary32, little-endian, rounded to nearest even. */
#include "formats/floats.h"

extern const whit_format whit_format_bf16;

static int parse(const char *name, whit_spec *spec) { return whit_floats_parse(name, "bf16", &whit_format_bf16, spec); }

static void print(const whit_spec *spec, char out[32]) {
	(void)spec;
	memcpy(out, "bf16", sizeof "bf16");
}

static int planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES], whit_err *e) {
	(void)spec, (void)scale_f32, (void)e;
	return whit_floats_planes(WHIT_BF16, width, out);
}

static void decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) { whit_floats_decode(m, WHIT_BF16, r0, r1, out); }

static int encode(whit_mat *m, int64_t r, const float *w, const float *imp, int rule, int64_t *zero_groups) {
	(void)imp, (void)rule;
	return whit_floats_encode(m, WHIT_BF16, r, w, zero_groups);
}

static void gemv(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy) {
	whit_floats_gemv(m, WHIT_BF16, r0, r1, x, T, y, ldy);
}

const whit_format whit_format_bf16 = {
	.name = "bf16",
	.help = "bf16",
	.parse = parse,
	.print = print,
	.planes = planes,
	.decode = decode,
	.encode = encode,
	.gemv = gemv,
};
