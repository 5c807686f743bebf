/* logits: llama.cpp's base-logits file (quality.md 3), for exchange: 16-bit log-probabilities of each scored position
 * of chunked windows. Read mapped and checked whole before anything is allocated; written streamed, whole or absent. */
#ifndef WHIT_LOGITS_H
#define WHIT_LOGITS_H
#include "host/base.h"

typedef struct whit_logits {
	whit_map map;
	const char *name;                 /* for messages */
	int64_t ctx, vocab, chunks, rows; /* rows: positions of a chunk, ctx - 1 - ctx / 2 */
	const uint8_t *tokens, *row;      /* ctx * chunks ids; chunks * rows rows of row_bytes */
	size_t row_bytes;
} whit_logits;

/* Refuses another magic, counts out of range, and every length but the one the header says. */
int whit_logits_open(whit_logits *l, const char *path, whit_err *e);
/* The same on bytes in memory (fuzzing, tests); data stays the caller's and outlives l. */
int whit_logits_parse(whit_logits *l, const uint8_t *data, size_t n, const char *name, whit_err *e);
void whit_logits_close(whit_logits *l);
/* Whether it is about these n tokens in windows of ctx, by a model of this vocabulary; text: their name. It may have
 * fewer chunks. Errors (WHIT_EFINGERPRINT) name both sides, and the first token that differs. */
int whit_logits_match(const whit_logits *l, const int32_t *ids, int64_t n, int64_t ctx, int64_t vocab, const char *text,
                      whit_err *e);
/* out (vocab) = ln P of row i, not quite normalised: its tail is cut at 16 below the largest. Values that are no
 * log-probabilities (not finite, or above 0 by more than rounding): an error naming chunk and row. */
int whit_logits_row(const whit_logits *l, int64_t i, float *out, whit_err *e);

/* One row as the file has it, row_bytes long: f32 step, f32 least ln P, u16 codes. */
void whit_logits_pack(uint8_t *row, const float *logits, int64_t vocab);

typedef struct whit_logits_out {
	whit_out out;
	int64_t vocab, left; /* rows to come */
	size_t row_bytes;
	uint8_t *buf;
	int64_t room; /* rows of buf */
} whit_logits_out;
/* ids: ctx * chunks, as tokenized, without BOS in place of first tokens. */
int whit_logits_out_open(whit_logits_out *o, const char *path, int64_t ctx, int64_t vocab, int64_t chunks,
                         const int32_t *ids, whit_err *e);
/* The next n rows of logits (n, vocab), finite. */
int whit_logits_out_rows(whit_logits_out *o, const float *logits, int64_t n, whit_err *e);
int whit_logits_out_commit(whit_logits_out *o, whit_err *e); /* all rows must be there */
void whit_logits_out_abort(whit_logits_out *o);
#endif
