/* safetensors: read one file (mapped, fully checked), write one file (streamed). Hugging Face's format:
 * u64 header length, JSON header, data; offsets contiguous, without gap or overlap. */
#ifndef WHIT_SAFETENSORS_H
#define WHIT_SAFETENSORS_H
#include "formats/tensor.h"

typedef struct whit_st {
	whit_map map;
	whit_tensor *t; /* n of them, in file order */
	int64_t n;
	char **meta; /* key, value, key, value, ..., n_meta pairs */
	int64_t n_meta;
} whit_st;

/* Every lie a header can tell is an error naming file, tensor and both sides (operations.md 4): empty,
 * truncated, header beyond file or 100 MB, bad JSON or UTF-8, duplicate key, unknown dtype, overlapping,
 * gapped, reversed or overflowing offsets, bytes != shape x dtype, zero dimension, Git-LFS pointer, pickle,
 * HTML. */
int whit_st_open(whit_st *s, const char *path, whit_err *e);
/* The same on bytes in memory (fuzzing, tests); data stays the caller's. */
int whit_st_parse(whit_st *s, const uint8_t *data, size_t n, const char *name, whit_err *e);
void whit_st_close(whit_st *s);
const whit_tensor *whit_st_find(const whit_st *s, const char *name); /* linear; NULL = absent */

/* Streamed writer: header space is reserved first and filled at commit, padded with spaces; data begins at
 * a multiple of 64. */
typedef struct whit_st_out whit_st_out;
/* header_bytes: upper bound of the header: the sum of whit_st_header_bound over tensor names and over
 * metadata keys and values. */
int whit_st_out_open(whit_st_out **o, const char *path, size_t header_bytes, whit_err *e);
size_t whit_st_header_bound(const char *name);
int whit_st_out_meta(whit_st_out *o, const char *key, const char *value, whit_err *e);
/* Begins a tensor of exactly the bytes its dtype and shape say; write them in any number of pieces. */
int whit_st_out_begin(whit_st_out *o, const char *name, int dtype, int ndim, const int64_t *shape, whit_err *e);
int whit_st_out_write(whit_st_out *o, const void *p, size_t n, whit_err *e);
int whit_st_out_commit(whit_st_out *o, whit_err *e); /* frees o, also on error */
void whit_st_out_abort(whit_st_out *o);
#endif
