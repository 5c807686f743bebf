/* lora: adapters as llama.cpp loads them with --lora: a GGUF with, for matrices of a model's GGUF, two low-rank factors
 * that are added to them: y = W x + scale B (A x).
 *
 *	general.type "adapter", adapter.type "lora", general.architecture: the model's
 *	adapter.lora.alpha       F32; scale = alpha / rank, and 1 where it is 0 or absent
 *	NAME.weight.lora_a       (rank, columns), GGUF counts columns first
 *	NAME.weight.lora_b       (rows, rank), rows and columns in the order in which the model's GGUF stores them */
#ifndef WHIT_LORA_H
#define WHIT_LORA_H
#include "formats/gguf.h"

typedef struct whit_lora_pair {
	char name[64]; /* of the matrix in the model's GGUF, "blk.3.attn_q.weight" */
	const whit_gguf_tensor *a, *b;
	int64_t rows, cols, rank; /* rank: 1 to the lesser of rows and columns */
	float scale;
} whit_lora_pair;

typedef struct whit_lora {
	whit_gguf gguf;
	whit_lora_pair *pair; /* n of them, in the order of their lora_a in the file */
	int64_t n;
} whit_lora;

/* Refuses, beside what the container's reader does: files that are no adapter, or one of another architecture (arch: as
 * general.architecture has it); tensors that are none of a pair (norms too), pairs that do not fit together, types that
 * are not F32, F16 or BF16, values that are not finite. */
int whit_lora_open(whit_lora *l, const char *path, const char *arch, whit_err *e);
/* The same on bytes in memory; data stays the caller's and outlives l. */
int whit_lora_parse(whit_lora *l, const uint8_t *data, size_t n, const char *name, const char *arch, whit_err *e);
void whit_lora_close(whit_lora *l);
/* The factors as floats: a (rank, cols), b (rows, rank). */
void whit_lora_floats(const whit_lora_pair *p, float *a, float *b);

/* Writing: open, announce all matrices, then whit_gguf_out_write their factors in the same order, a before b, as F16;
 * scale 1 where all are of rank `rank`. */
int whit_lora_out_open(whit_gguf_out **o, const char *path, const char *arch, int64_t rank, whit_err *e);
int whit_lora_out_matrix(whit_gguf_out *o, const char *name, int64_t rows, int64_t cols, int64_t rank, whit_err *e);
#endif
