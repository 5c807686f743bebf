/* gguf: the container of llama.cpp and its kin (ggml.md 1): read one file, mapped and fully checked; write one
 * file, streamed. Versions 2 and 3, little-endian. Knows no model: keys and tensors are names here. */
#ifndef WHIT_GGUF_H
#define WHIT_GGUF_H
#include "formats/format.h"

typedef enum whit_gguf_kind { /* of a value, as the file numbers them */
	                      WHIT_GGUF_U8,
	                      WHIT_GGUF_I8,
	                      WHIT_GGUF_U16,
	                      WHIT_GGUF_I16,
	                      WHIT_GGUF_U32,
	                      WHIT_GGUF_I32,
	                      WHIT_GGUF_F32,
	                      WHIT_GGUF_BOOL,
	                      WHIT_GGUF_STRING,
	                      WHIT_GGUF_ARRAY,
	                      WHIT_GGUF_U64,
	                      WHIT_GGUF_I64,
	                      WHIT_GGUF_F64,
	                      WHIT_GGUF_KINDS
} whit_gguf_kind;

/* A tensor type of ggml's (ggml.md 2). The table has every number that was ever given out. */
typedef struct whit_ggml_type {
	int id;
	const char *name;   /* "Q4_K" */
	int block, bytes;   /* weights and bytes of a block; 0 = removed, or never in files */
	const char *format; /* name of the number format that computes with it; NULL = inspected only */
	int scales, at; /* F16 scales of a block, side by side from byte `at` on; WHIT_GGML_E8M0: one exponent there */
} whit_ggml_type;
enum { WHIT_GGML_E8M0 = -1 };
const whit_ggml_type *whit_ggml_type_of(int id);                  /* NULL = unknown */
const whit_ggml_type *whit_ggml_type_of_spec(const whit_spec *s); /* NULL = GGUF has no such type */

typedef struct whit_gguf_text { /* bytes in the file, without NUL */
	const char *p;
	size_t n;
} whit_gguf_text;

typedef struct whit_gguf_kv {
	char *key;            /* NUL-terminated, owned by the whit_gguf */
	int kind, elem;       /* elem: kind of an array's elements, else = kind */
	int64_t n;            /* elements; 1 if no array */
	const uint8_t *data;  /* numbers as in the file: little-endian, unaligned; NULL for strings */
	whit_gguf_text *text; /* n strings, NULL for numbers */
	const uint8_t *raw;   /* kind and value as in the file, raw_bytes long: to copy a pair unread */
	size_t raw_bytes;
} whit_gguf_kv;

typedef struct whit_gguf_tensor {
	char *name;
	const whit_ggml_type *type;
	int ndim;
	int64_t ne[4];       /* ne[0] is contiguous; unused ones are 1 */
	const uint8_t *data; /* bytes long, borrowed from the map */
	size_t bytes;
	uint64_t offset; /* from the start of the file */
	const char *file;
} whit_gguf_tensor;

typedef struct whit_gguf {
	whit_map map;
	const char *name; /* for messages */
	int version;
	int64_t alignment;
	whit_gguf_kv *kv;
	int64_t n_kv;
	whit_gguf_tensor *t; /* in file order */
	int64_t n;
	whit_gguf_kv **kv_by_key; /* the same, sorted, to find with */
	whit_gguf_tensor **t_by_name;
	whit_arena arena;
} whit_gguf;

/* 1 = the file begins as a GGUF does (of any version or byte order). No error: 0. */
int whit_gguf_is(const char *path);
/* Every refusal of ggml.md 1 is an error naming file, key or tensor, and both sides. */
int whit_gguf_open(whit_gguf *g, const char *path, whit_err *e);
/* The same on bytes in memory (fuzzing, tests); data stays the caller's and outlives g. */
int whit_gguf_parse(whit_gguf *g, const uint8_t *data, size_t n, const char *name, whit_err *e);
void whit_gguf_close(whit_gguf *g);
/* The n files of a split as one: pairs of the first, tensors of all, whose names must differ. Borrows from part. */
int whit_gguf_join(whit_gguf *g, const whit_gguf *part, int64_t n, whit_err *e);

const char *whit_gguf_kind_name(int kind);                               /* "u32" */
const whit_gguf_kv *whit_gguf_find(const whit_gguf *g, const char *key); /* NULL = absent */
const whit_gguf_tensor *whit_gguf_tensor_find(const whit_gguf *g, const char *name);
/* One value. Absent: *v stays and 0 is returned unless required. Another kind, or outside [lo, hi]: an error. Any
 * integer kind is read as an integer; F32 and F64 as a real. *text lives as long as g, with a NUL. */
int whit_gguf_int(const whit_gguf *g, const char *key, int required, int64_t lo, int64_t hi, int64_t *v, whit_err *e);
int whit_gguf_real(const whit_gguf *g, const char *key, int required, double lo, double hi, double *v, whit_err *e);
int whit_gguf_bool(const whit_gguf *g, const char *key, int required, int *v, whit_err *e);
int whit_gguf_string(const whit_gguf *g, const char *key, int required, const char **text, whit_err *e);
/* Element i of an array of integers of any kind; -1 if it has no integers, or this one is 2^63 or more. */
int whit_gguf_element(const whit_gguf_kv *kv, int64_t i, int64_t *v);
/* The array under key, whose elements must be of kind elem; *kv stays where it is absent. */
int whit_gguf_array(const whit_gguf *g, const char *key, int required, int elem, const whit_gguf_kv **kv, whit_err *e);

/* ---- writing: pairs, then tensor infos, then data in the same order; version 3, alignment 32 ---- */
typedef struct whit_gguf_out whit_gguf_out;
int whit_gguf_out_open(whit_gguf_out **o, const char *path, whit_err *e);
/* Pairs are kept in memory until the first data. A key that was put before, or is empty, is WHIT_EINTERNAL; a
 * real that is no number, a string beyond 1 GiB: WHIT_EINPUT. */
int whit_gguf_put_u32(whit_gguf_out *o, const char *key, uint32_t v, whit_err *e);
int whit_gguf_put_i32(whit_gguf_out *o, const char *key, int32_t v, whit_err *e);
int whit_gguf_put_u16(whit_gguf_out *o, const char *key, uint16_t v, whit_err *e);
int whit_gguf_put_f32(whit_gguf_out *o, const char *key, float v, whit_err *e);
int whit_gguf_put_bool(whit_gguf_out *o, const char *key, int v, whit_err *e);
int whit_gguf_put_string(whit_gguf_out *o, const char *key, const char *text, whit_err *e);
int whit_gguf_put_numbers(whit_gguf_out *o, const char *key, int elem, const void *v, int64_t n, whit_err *e);
int whit_gguf_put_strings(whit_gguf_out *o, const char *key, const whit_gguf_text *v, int64_t n, whit_err *e);
int whit_gguf_put_copy(whit_gguf_out *o, const whit_gguf_kv *kv, whit_err *e);
int whit_gguf_out_has(const whit_gguf_out *o, const char *key);
/* Announces a tensor; all are announced before the first data. Name over 63 bytes or repeated, ne[0] that is no
 * multiple of the block: an error. */
int whit_gguf_out_tensor(whit_gguf_out *o, const char *name, const whit_ggml_type *type, int ndim, const int64_t *ne,
                         whit_err *e);
/* The next n bytes of the tensors' data, in the order announced; padding between tensors is the writer's. */
int whit_gguf_out_write(whit_gguf_out *o, const void *p, size_t n, whit_err *e);
/* All announced bytes must have been written. Frees o, also on error. */
int whit_gguf_out_commit(whit_gguf_out *o, whit_err *e);
void whit_gguf_out_abort(whit_gguf_out *o);
#endif
