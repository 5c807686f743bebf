/* blocks: what all formats made of ggml's blocks share. */
#include "formats/blocks.h"
#include <stdio.h>
#include <strings.h>
#include "formats/tensor.h"

const int8_t whit_iq4_levels[16] = {WHIT_IQ4_LEVELS};

int whit_block_parse(const whit_format *f, const char *name, whit_spec *spec) {
	if (strcasecmp(name, f->name)) return -1;
	*spec = (whit_spec){.fmt = f, .group = f->block->weights};
	return 0;
}

void whit_block_print(const whit_spec *spec, char out[32]) { snprintf(out, 32, "%s", spec->fmt->name); }

int whit_block_planes(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES],
                      whit_err *e) {
	const whit_block *b = spec->fmt->block;
	(void)scale_f32; /* a block's bytes are fixed */
	if (width < 1 || width % b->weights)
		return whit_fail(e, WHIT_EUSAGE, "format %s: width is %lld, need a multiple of %d", spec->fmt->name,
		                 (long long)width, b->weights),
		       -1;
	int64_t bytes = width / b->weights * b->bytes;
	out[0] = (whit_plane_desc){"", WHIT_U8, bytes, (size_t)bytes};
	return 1;
}

void whit_block_decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	const whit_block *b = m->spec.fmt->block;
	for (int64_t r = r0; r < r1; r++) {
		const uint8_t *p = m->plane[0] + (size_t)r * m->row_bytes[0];
		for (int64_t i = 0; i < m->width; i += b->weights, p += b->bytes, out += b->weights) b->decode(p, out);
	}
}

int whit_block_encode(whit_mat *m, int64_t r, const float *w, const float *imp, int rule, int64_t *zero_groups) {
	(void)rule; /* the rules are about codebooks of unit vectors */
	uint8_t *row = (uint8_t *)(uintptr_t)m->plane[0] + (size_t)r * m->row_bytes[0];
	return m->spec.fmt->block->encode(row, w, imp, m->width, zero_groups);
}
