/* tokenizer: text to token ids and back, as Hugging Face's tokenizer.json says: byte-level BPE (GPT-2,
 * Qwen2/3, Llama 3 and kin) and SentencePiece-style BPE with byte fallback. Gives the ids of the tokenizers
 * library (0.23) but for: bytes that are not UTF-8, which it cannot take; characters assigned after Unicode 14,
 * which PCRE2 10.42 does not know as letters or digits; normalization of characters newer than its Unicode.
 * truncation, padding and clean_up_tokenization_spaces are not applied. What a file asks for and whit does not
 * know is an error that names it. A whit_tok does not change: threads may share it.
 * From GGUF metadata (ggml.md 5) it gives llama.cpp's ids, but for bytes that are not UTF-8, characters after Unicode
 * 14, and this: text never merges into control tokens. GGUF knows no normalizer: where tokenizer.json asks for NFC,
 * text that is not NFC gets other ids from the GGUF, in llama.cpp as here. */
#ifndef WHIT_TOKENIZER_H
#define WHIT_TOKENIZER_H
#include "formats/gguf.h"
#include "host/base.h"

typedef struct whit_tok whit_tok;
typedef struct whit_ids {
	int32_t *id;
	int64_t n, room;
} whit_ids;
void whit_ids_push(whit_ids *v, int32_t id);
void whit_ids_free(whit_ids *v);

enum {
	WHIT_TOK_SPECIAL = 1, /* add what the post-processor adds (BOS) */
	WHIT_TOK_PARSE = 2,   /* special tokens written in the text become their ids */
};
/* Of a model. path is a directory: reads tokenizer.json and, where present, tokenizer_config.json: bos_token and
 * eos_token are its words; add_bos_token or add_eos_token replaces the post-processor (one absent is false), as in
 * transformers 5. Without tokenizer.json it reads tokenizer.gguf, a GGUF of metadata. path is a file: a GGUF.
 * Errors are WHIT_EINPUT, and *t is NULL. */
int whit_tok_open(whit_tok **t, const char *path, whit_err *e);
int whit_tok_exists(const char *path); /* whether there is one to open; it may still be wrong */
/* *same: both models' tokenizers are the same bytes, tokenizer_config.json included. 0 may still mean equal ids. */
int whit_tok_same(const char *path, const char *other, int *same, whit_err *e);
/* The same from JSON text; config may be NULL. */
int whit_tok_parse(whit_tok **t, const char *json, size_t n, const char *config, size_t n_config, const char *name,
                   whit_err *e);
/* The same from a GGUF's metadata; g may be closed afterwards. */
int whit_tok_from_gguf(whit_tok **t, const whit_gguf *g, whit_err *e);
/* The other way: puts all tokenizer.* pairs of the model at path for an embedding of `rows` rows, which ids without a
 * token fill as [PAD{id}]. From a GGUF the pairs are copied. From tokenizer.json they are made such that llama.cpp
 * gives the same ids; what GGUF cannot say is an error that shows it, or a warning where only rare text differs. Ids
 * that end generation (generation_config.json, else config.json, else the tokenizer's eos) become eos, eot and eom. */
int whit_tok_put_gguf(const char *path, int64_t rows, whit_gguf_out *o, whit_err *e);
void whit_tok_close(whit_tok *t);
/* Appends the ids of text[n] (at most 1 GiB, any bytes) to out, which stays as it was on error. Bytes that are
 * not UTF-8 are encoded as bytes (both kinds of tokenizer), never lost; normalizers apply to valid stretches
 * only. So text decodes to itself, but for what a normalizer changed (NFC: characters with another composed
 * form, as e U+0301), blanks that an added token with lstrip or rstrip took, and U+2581 in SentencePiece's
 * kind, which stands for a space. Errors: a character without any token, a regular expression that passes its
 * match limit, a normalizer that grows text without end, an interrupt. */
int whit_tok_encode(const whit_tok *t, const char *text, size_t n, unsigned flags, whit_ids *out, whit_err *e);
/* Bytes of ids[n]; whit_free it. *len excludes the terminating NUL. skip_special drops special tokens; ids of
 * no token give nothing. The bytes of the first ids begin the bytes of all of them, so a stream shows what the
 * longer text has more; its end may be part of a character. */
char *whit_tok_decode(const whit_tok *t, const int32_t *ids, int64_t n, int skip_special, size_t *len);
int64_t whit_tok_vocab(const whit_tok *t); /* largest id + 1 */
int32_t whit_tok_bos(const whit_tok *t);   /* -1 = none */
int32_t whit_tok_eos(const whit_tok *t);
int whit_tok_is_special(const whit_tok *t, int32_t id);
int whit_tok_adds_bos(const whit_tok *t);
/* The ids of a text to measure or calibrate on, appended to out: special tokens only where the tokenizer puts them at
 * the start. Empty, or an id that is not below vocab: WHIT_EINPUT naming `name`. Bytes that are not UTF-8 are a
 * warning, counted in *invalid. */
int whit_tok_text(const whit_tok *t, const char *name, const char *text, size_t n, int64_t vocab, whit_ids *out,
                  int64_t *invalid, whit_err *e);
#endif
