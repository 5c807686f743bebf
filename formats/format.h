/* format: a number format says how bits decode into weights, and nothing about how codes are chosen.
 *
 * A matrix of any format is a whit_mat: row-major planes of bytes plus a little shared data. Plain F32,
 * F16 and BF16 are formats like any other, so that loading, computing and quantizing know one kind of
 * matrix. Rows of the table: formats.def; one file fmt_NAME.c each. */
#ifndef WHIT_FORMAT_H
#define WHIT_FORMAT_H
#include "host/base.h"
#include "formats/rotation.h"

typedef struct whit_format whit_format;

/* A format with its parameters filled in, as parsed from a name such as "tq4g128" or "int8". */
typedef struct whit_spec {
	const whit_format *fmt;
	int bits;  /* code width; 0 where the format has no choice */
	int group; /* weights that share a scale; 0 = the whole row; WHIT_GROUP_AUTO until whit_spec_resolve */
	int core;  /* "frc": thousandths of the rows that have more bits */
	int flags; /* "frc", "bin": a record's (frc1.h) */
	/* "vp": thousandths of the rows in each class but the last (vp1.h) */
	int16_t share[4];
} whit_spec;
enum { WHIT_GROUP_AUTO = -1 };

enum { WHIT_PLANES = 4 };

/* What one plane of a matrix is: "rows" rows of row_bytes bytes. Suffix and dtype are how it is stored. */
typedef struct whit_plane_desc {
	const char *suffix; /* "tq_codes"; the tensor is named PREFIX.suffix; "" = the tensor itself */
	int dtype;          /* whit_dtype (tensor.h) of an element */
	int64_t cols;       /* elements per row */
	size_t row_bytes;
} whit_plane_desc;

/* Planes are borrowed (mapped from a file, or owned by whoever made the matrix), row r of plane p starts
 * at plane[p] + r * row_bytes[p], with NO alignment promise. */
typedef struct whit_mat {
	whit_spec spec;
	int64_t rows, cols; /* logical: outputs x inputs */
	int64_t width;      /* stored columns: cols, or cols padded by the rotation */
	const uint8_t *plane[WHIT_PLANES];
	size_t row_bytes[WHIT_PLANES];
	int scale_f32; /* scales are F32 instead of F16 (turboquant.md 6) */
	/* 1 << bits ascending values; with a record's codebook the (whit_frc_choices, group) numbers of the profiles;
	 * NULL where the format has none; borrowed */
	const float *codebook;
	const struct whit_frc_book *book; /* "frc": the file's codebook that those are of; borrowed */
	int mirrored; /* codebook[last - i] is -codebook[i] for all i, and told (whit_mat_mirror); 0 = not known */
	const whit_rotation *rot; /* stored rows are rotated rows; NULL = as they are; borrowed */
	/* GGUF's row order of a llama's q and k (ggml.md 5): of each `paired` rows, stored row 2p + t is logical row
	 * t * paired / 2 + p. 0 = rows are stored in order. Formats see stored rows; whit_mat_decode and the ops give
	 * logical ones. */
	int64_t paired;
} whit_mat;
/* Where logical row r is stored. */
WHIT_BOTH int64_t whit_mat_row(const whit_mat *m, int64_t r) {
	int64_t h = m->paired, i = h ? r % h : 0;
	return h ? r - i + 2 * (i % (h / 2)) + i / (h / 2) : r;
}
/* The logical row that is stored as row s. */
static inline int64_t whit_mat_logical(const whit_mat *m, int64_t s) {
	int64_t h = m->paired, i = h ? s % h : 0;
	return h ? s - i + i % 2 * (h / 2) + i / 2 : s;
}

/* Bytes of m's codebook; 0 = none. */
size_t whit_mat_book_bytes(const whit_mat *m);

/* Tells what kernels that cannot look need to know of a codebook on the host. */
static inline void whit_mat_mirror(whit_mat *m) {
	int last = (1 << m->spec.bits) - 1;
	m->mirrored = m->codebook != NULL;
	for (int i = 0; m->codebook && i <= last; i++) m->mirrored &= m->codebook[last - i] == -m->codebook[i];
}

/* How a codebook format's encoder chooses the stored scale (turboquant.md 4). */
enum { WHIT_SCALE_LS, WHIT_SCALE_RAW, WHIT_SCALE_NORM, WHIT_SCALE_IP };

struct whit_format {
	const char *name; /* family, "tq" */
	const char *help; /* one line: names it accepts and what the bytes are */
	/* Parses a whole name ("tq4g128") into bits and group; 0 or -1, silently: the table tries each row. */
	int (*parse)(const char *name, whit_spec *spec);
	/* Canonical name of spec into out[32]; parse(name(spec)) == spec. */
	void (*print)(const whit_spec *spec, char out[32]);
	/* Planes of a (., width) matrix; returns their number, or -1 when the width does not fit (with text). */
	int (*planes)(const whit_spec *spec, int64_t width, int scale_f32, whit_plane_desc out[WHIT_PLANES],
	              whit_err *e);
	/* Rows [r0, r1) of m as floats, out (r1-r0, m->width), still in the rotated frame. */
	void (*decode)(const whit_mat *m, int64_t r0, int64_t r1, float *out);
	/* Nearest encoding of one row w[width] (already rotated, finite) into planes that this matrix owns
	 * (the const of plane is cast away here only). imp[width]: importance of each column in the squared
	 * error, or NULL = 1. rule: WHIT_SCALE_*. Returns the number of scales that an F16 cannot hold (0 when
	 * scale_f32); the caller then repeats the tensor with scale_f32. Adds all-zero groups to *zero_groups.
	 * Format f16 has no scale: it returns the number of weights beyond 65504, whatever scale_f32 says. */
	int (*encode)(whit_mat *m, int64_t r, const float *w, const float *imp, int rule, int64_t *zero_groups);
	/* y[t*ldy + r] = dot(row r, x + t*width) for r in [r0, r1), t in [0, T), straight from the packed
	 * bytes; T <= WHIT_GEMV_MAX. x is in the frame of the stored rows. NULL = none: decode instead. */
	void (*gemv)(const whit_mat *m, int64_t r0, int64_t r1, const float *x, int T, float *y, int64_t ldy);
	int needs_codebook;
	/* Not NULL: the matrix is no rows of bytes but one run of them, plane 0, row_bytes 0; its bytes (-1: no such
	 * matrix can be). */
	int64_t (*record)(const whit_spec *spec, int64_t rows, int64_t width);
	/* With record: WHIT_EINPUT unless the bytes of m can be decoded. */
	int (*check)(const whit_mat *m, whit_err *e);
	const struct whit_block *block; /* rows are whole blocks of ggml's (blocks.h); NULL = they are not */
};
enum { WHIT_GEMV_MAX = 8 };

/* The table: NULL-terminated, in formats.def order. */
extern const whit_format *const whit_formats[];
/* "tq4g128" -> spec. Unknown: WHIT_EUSAGE, the text lists what is known. */
int whit_spec_parse(const char *name, whit_spec *spec, whit_err *e);
static inline void whit_spec_name(const whit_spec *s, char out[32]) { s->fmt->print(s, out); }
/* Turns WHIT_GROUP_AUTO into the family's default for a weight of cols columns: 256, 128 where that does not
 * divide (64 for cols 64). Everything below and every row's functions need a resolved spec. */
void whit_spec_resolve(whit_spec *s, int64_t cols);
/* Bytes of all planes of a rows x width matrix, or -1 with text. */
int64_t whit_spec_bytes(const whit_spec *s, int64_t rows, int64_t width, int scale_f32, whit_err *e);
/* Bytes of plane p of m, which may be of no number format. */
static inline size_t whit_plane_bytes(const whit_mat *m, int p) {
	const whit_format *f = m->spec.fmt;
	return f && f->record && p == 0 ? (size_t)f->record(&m->spec, m->rows, m->width)
	                                : (size_t)m->rows * m->row_bytes[p];
}
/* Rows [r0, r1) in the original frame, out (r1-r0, m->cols): decode, then undo the rotation and padding. */
void whit_mat_decode(const whit_mat *m, int64_t r0, int64_t r1, float *out);
/* Twin of a row's decode, for rows r0.. of a matrix whose planes and codebook lie on the device: same bits. */
WHIT_DEVICE void whit_rows_decode_cuda(whit_dev *d, const whit_mat *m, int64_t r0, int64_t r1, float *out);
/* Twin of a row's encode for n rows: row i of w (n, m->width; device memory, already rotated, finite) is encoded as
 * stored row whit_mat_row(m, r0 + i) of m, whose planes lie on the device; imp (width) device memory or NULL; count: 2
 * int64 in device memory, adds scales an F16 cannot hold to count[0], all-zero groups to count[1]. Same bytes. */
WHIT_DEVICE void whit_rows_encode_cuda(whit_dev *d, const whit_mat *m, int64_t r0, int64_t n, const float *w,
                                       const float *imp, int rule, int64_t *count);
/* Allocates planes for spec/rows/cols/rot into m (spec, rows, cols, width, scale_f32, rot must be set);
 * whit_mat_free releases planes so allocated. */
int whit_mat_alloc(whit_mat *m, whit_err *e);
void whit_mat_free(whit_mat *m);
/* Allocates *to as the F32 matrix of what m decodes to, logical rows in the original frame; rows in parallel. */
int whit_mat_floats(whit_mat *to, const whit_mat *m, whit_err *e);
/* For parse functions: a decimal number of 1..65536 without leading zero at *s, which moves past it; or -1. */
int whit_parse_number(const char **s);
#endif
