/* twin: blocks to planes of codes and scales, and q6_k's to two of what they are. */
#include "formats/twin.h"
#include "formats/blocks.h"
#include "formats/codes.h"

static const struct twin {
	const char *block, *format;
	int bits, group, turned; /* turned: levels and scales have the other sign */
} twins[] = {{"q8_0", "int8", 8, 32, 0}, {"q4_0", "int4", 4, 32, 0},
             {"q2_0", "int2", 2, 64, 1}, {"tq2_0", "int2", 2, 256, 1},
             {"q1_0", "tq1", 1, 128, 0}, {"iq4_nl", "tq4", 4, 32, 0},
             {.block = "q6_k"}};

static const float signs[2] = {-1, 1}, iq4[16] = {WHIT_IQ4_LEVELS};

/* ---- q6_k_split ---- */

extern const whit_format whit_format_q6_k;
enum { SPLIT = 208, WHOLE = 210, WEIGHTS = 256 };

static void split_print(const whit_spec *s, char out[32]) { memcpy(out, s->fmt->name, strlen(s->fmt->name) + 1); }
static void split_decode(const whit_mat *m, int64_t r0, int64_t r1, float *out) {
	for (int64_t r = r0; r < r1; r++)
		for (int64_t b = 0; b < m->width / WEIGHTS; b++, out += WEIGHTS) {
			uint8_t block[WHOLE];
			memcpy(block, m->plane[0] + (size_t)r * m->row_bytes[0] + b * SPLIT, SPLIT);
			memcpy(block + SPLIT, m->plane[1] + (size_t)r * m->row_bytes[1] + b * 2, 2);
			whit_format_q6_k.block->decode(block, out);
		}
}
static const whit_format split = {.name = WHIT_TWIN_Q6_K, .print = split_print, .decode = split_decode};

static const struct twin *find(const whit_mat *m) {
	for (int i = 0; i < WHIT_COUNT(twins) && m->spec.fmt && m->spec.fmt->block; i++)
		if (!strcmp(m->spec.fmt->name, twins[i].block)) return &twins[i];
	return NULL;
}

/* Levels of the twin's codes, ascending; NULL: two's complement. */
static const float *levels(const struct twin *w) {
	return !w->format ? NULL : w->bits == 1 ? signs : !strcmp(w->block, "iq4_nl") ? iq4 : NULL;
}

int whit_twin_of(const whit_mat *m, whit_mat *t) {
	const struct twin *w = find(m);
	whit_err none;
	if (!w) return 0;
	*t = *m;
	t->plane[0] = t->plane[1] = NULL;
	if (!w->format) {
		t->spec.fmt = &split;
		t->row_bytes[0] = (size_t)(m->width / WEIGHTS * SPLIT);
		t->row_bytes[1] = (size_t)(m->width / WEIGHTS * 2);
		return 1;
	}
	if (whit_spec_parse(w->format, &t->spec, &none)) return 0;
	t->spec.group = w->group;
	t->codebook = levels(w);
	t->row_bytes[0] = (size_t)whit_codes_bytes(m->width, w->bits);
	t->row_bytes[1] = (size_t)(m->width / w->group) * 2;
	return 1;
}

typedef struct rows_job {
	const struct twin *w;
	const whit_mat *t, *m;
	int64_t r0;
	uint8_t *codes, *scales;
	uint8_t code[256]; /* of what unpack gives, less zero, plus 128 */
} rows_job;

static void row_item(void *ctx, int64_t i, int worker) {
	const rows_job *j = ctx;
	const whit_block *b = j->m->spec.fmt->block;
	const uint8_t *from = j->m->plane[0] + (size_t)(j->r0 + i) * j->m->row_bytes[0];
	uint8_t *codes = j->codes + (size_t)i * j->t->row_bytes[0],
	        *scales = j->scales + (size_t)i * j->t->row_bytes[1];
	(void)worker;
	for (int64_t k = 0; k < j->m->width / WEIGHTS && !j->w->format; k++) {
		memcpy(codes + k * SPLIT, from + k * WHOLE, SPLIT);
		memcpy(scales + k * 2, from + k * WHOLE + SPLIT, 2);
	}
	for (int64_t c = 0; c < j->m->width && j->w->format; c += b->weights, from += b->bytes) {
		uint8_t u[256];
		float scale[16], shift[16];
		b->ints->unpack(from, u, scale, shift);
		for (int k = 0; k < b->weights; k++) u[k] = j->code[u[k] - b->ints->zero + 128];
		whit_codes_pack(codes + whit_codes_bytes(c, j->w->bits), u, b->weights, j->w->bits);
		uint16_t s = whit_f32_to_f16(scale[0]) ^ (j->w->turned ? 0x8000 : 0); /* it was an F16 */
		memcpy(scales + c / b->weights * 2, &s, sizeof s);
	}
}

void whit_twin_rows(const whit_mat *t, const whit_mat *m, int64_t r0, int64_t r1, uint8_t *codes, uint8_t *scales) {
	rows_job j = {.w = find(m), .t = t, .m = m, .r0 = r0, .codes = codes, .scales = scales};
	const float *level = levels(j.w); /* t's may lie on a device by now */
	for (int v = -128; v < 128 && j.w->format; v++) {
		int k = j.w->turned ? -v : v, mask = (1 << j.w->bits) - 1;
		if (level) /* the code of level v */
			for (k = mask; k > 0 && level[k] > (float)v;) k--;
		j.code[v + 128] = (uint8_t)(k & mask);
	}
	whit_parallel(r1 - r0, row_item, &j);
}
