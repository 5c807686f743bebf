/* tok: what the tokenizer's files share; private to host/tok*.c. tokenizer.c reads the files and drives,
 * tok_gguf.c reads GGUF metadata, tok_put.c writes it, tok_cut.c turns text into pieces (normalizers,
 * pre-tokenizers), tok_regex.c is their regular expressions, tok_bpe.c turns a piece into ids, tok_decode.c turns
 * ids into bytes. */
#ifndef WHIT_TOK_H
#define WHIT_TOK_H
#include "formats/gguf.h"
#include "formats/json.h"
#include "host/base.h"
#include "host/tokenizer.h"

/* ---- growing bytes; zero is empty ---- */
typedef struct tok_bytes {
	char *p;
	size_t n, room;
} tok_bytes;
void whit_bytes_add(tok_bytes *b, const char *p, size_t n);
void whit_bytes_char(tok_bytes *b, uint32_t cp); /* adds its UTF-8 */
void whit_bytes_free(tok_bytes *b);

/* ---- UTF-8, strict: no surrogates, nothing overlong, nothing above 10FFFF ---- */
/* Bytes of the character at p[n] and its code point; 0 if p does not begin one. */
size_t whit_utf8_char(const char *p, size_t n, uint32_t *cp);
/* Length of the longest stretch at p[n] (n > 0) that is all UTF-8 (*valid 1) or holds no character (0). */
size_t whit_utf8_stretch(const char *p, size_t n, int *valid);
int whit_is_space(uint32_t cp); /* Unicode White_Space */

/* ---- GPT-2's byte alphabet: each byte is one visible character ---- */
uint32_t whit_byte_to_char(uint8_t b);
int whit_char_to_byte(uint32_t cp); /* -1: not in the alphabet */

/* ---- patterns: a regular expression in Oniguruma's Ruby syntax, or a plain string ---- */
typedef struct tok_regex tok_regex; /* immutable, shared by threads */
int whit_regex_new(tok_regex **r, const char *pattern, const char *where, whit_err *e);
void whit_regex_free(tok_regex *r);
typedef struct tok_find {
	tok_regex *re; /* owned; NULL: text is the pattern */
	const char *text;
	size_t n;
} tok_find;
/* Match state, one per running encode; zero is ready. */
typedef struct tok_matcher {
	void *data, *context, *stack;
	unsigned count;
} tok_matcher;
void whit_matcher_free(tok_matcher *m);
/* Walks the matches of f in text[n], which is UTF-8 if f is a regular expression. An empty match right behind
 * the match before it is passed over (as Oniguruma's iterator does). Start with {.p, .n}, the rest zero. */
typedef struct tok_scan {
	const char *p;
	size_t n, at, start, end; /* the match is [start, end) */
	int any;
} tok_scan;
int whit_scan_next(tok_scan *s, const tok_find *f, tok_matcher *m, whit_err *e); /* 1 match, 0 none left, or error */
int whit_scan_plain(tok_scan *s, const char *text, size_t n);                    /* the same for a plain string */

/* ---- cutting ---- */
typedef struct tok_piece {
	size_t at, n;
} tok_piece;
typedef struct tok_text {
	tok_bytes b;
	tok_piece *piece;
	int64_t n, room;
} tok_text;
typedef struct tok_step {
	int kind; /* private to tok_cut.c */
	tok_find find;
	const char *text; /* put in front, or in place of a match */
	size_t n;
	int form, behavior, invert, first_only;
} tok_step;
typedef struct tok_steps {
	tok_step *v;
	int n, room;
} tok_steps;
#define TOK_SPACE "\xe2\x96\x81" /* U+2581, which SentencePiece writes for a space */
/* GPT-2's own cut, which ByteLevel makes where use_regex says so. */
#define TOK_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* Reads a "normalizer" or "pre_tokenizer" (NULL or null: none). Texts live in mem. */
int whit_normalizer_read(tok_steps *s, const json_t *j, const char *file, whit_arena *mem, whit_err *e);
int whit_pretokenizer_read(tok_steps *s, const json_t *j, const char *file, whit_arena *mem, whit_err *e);
void whit_steps_free(tok_steps *s);
int whit_find_read(tok_find *f, const json_t *j, const char *where, whit_arena *mem, whit_err *e);

/* ---- the work of one encode ---- */
typedef struct tok_symbol {
	int32_t prev, next, id; /* id -1: merged away */
	uint32_t cp;            /* its character; NO_CHAR: a byte or unknown token */
} tok_symbol;
typedef struct tok_merge {
	uint64_t order; /* rank, then position: the lowest goes first */
	int32_t id;
} tok_merge;
typedef struct tok_work {
	tok_text a, b;  /* a step reads a, writes b, swaps */
	tok_bytes kept; /* a section's normalized text, while its parts are cut */
	tok_matcher match;
	int32_t *cp; /* code points of a stretch in normalization */
	int64_t n_cp, room_cp;
	tok_symbol *sym;
	int64_t room_sym;
	tok_merge *heap;
	int64_t n_heap, room_heap;
} tok_work;
/* Makes text[n] the one piece of w->a (none if n is 0), then runs steps on it. start: it begins the text. */
void whit_cut_begin(tok_work *w, const char *text, size_t n);
int whit_cut(const tok_steps *s, tok_work *w, int start, whit_err *e);
void whit_work_free(tok_work *w);

/* ---- vocabulary and merges ---- */
typedef struct tok_word {
	const char *p; /* NULL: no token has this id */
	size_t n;
	int added, special;
} tok_word;
typedef struct tok_pair {
	uint64_t key; /* left id << 32 | right id */
	uint32_t rank;
	int32_t id; /* -1: the slot is free */
} tok_pair;
enum { TOK_SEAMS = 1 << 18 };
enum { TOK_LOW = 0x180 }; /* GPT-2's alphabet and Latin lie below: their ids come from a table */
typedef struct tok_bpe {
	tok_word *word; /* [n_word] by id, then n_lone characters that are no token; texts in mem */
	int64_t n_word, n_lone;
	char *text;    /* where the next word's text goes */
	int32_t *slot; /* open hash of text to id, model tokens only; -1 free */
	uint64_t slot_mask;
	tok_pair *pair;
	uint64_t pair_mask;
	int32_t low[TOK_LOW];
	int32_t byte[256];           /* ids of <0x00> ... with byte_fallback, else -1 */
	uint8_t seam[TOK_SEAMS / 8]; /* hashed pairs of characters that stand side by side in some token */
	int32_t unk;
	int fuse_unk, ignore_merges;
	whit_arena mem;
} tok_bpe;
/* Made by hand: begin, enter every token of the model, merges_begin, then merges of either kind, finish. */
/* Ids below n_word; at most n_token texts of `bytes` together. */
void whit_bpe_begin(tok_bpe *b, int64_t n_word, int64_t n_token, size_t bytes);
int32_t whit_bpe_enter(tok_bpe *b, int32_t id, const char *p, size_t n); /* -1, or the id that has this text */
void whit_bpe_merges_begin(tok_bpe *b, int64_t n);
/* The merge of l and r; at counts merges, for the message. */
int whit_bpe_merge(tok_bpe *b, const char *l, size_t nl, const char *r, size_t nr, int64_t at, const char *file,
                   whit_err *e);
/* SentencePiece's way: any two symbols whose text together is a token merge, the highest score first, the leftmost
 * of equals. Instead of merges_begin and merge. A character that is in tokens but none itself merges too; alone it
 * becomes bytes: room for two more texts per token is needed. score has n_word values. */
void whit_bpe_merges_by_score(tok_bpe *b, const float *score);
void whit_bpe_finish(tok_bpe *b, int byte_fallback);
/* Calls fn for each way to make a token of the model of two texts that are tokens or characters (id -1). */
typedef void (*tok_way_fn)(void *ctx, int32_t id, int32_t left, int32_t right, const char *at);
void whit_bpe_ways(const tok_bpe *b, tok_way_fn fn, void *ctx);
/* The merge of two tokens, or NULL. */
const tok_pair *whit_bpe_pair(const tok_bpe *b, int32_t left, int32_t right);
/* Reads "model"; room_id is the largest id + 1 that added tokens need. */
int whit_bpe_read(tok_bpe *b, const json_t *model, int64_t room_id, const char *file, whit_err *e);
void whit_bpe_free(tok_bpe *b);
/* -1: none. token: no lone character either. */
int32_t whit_bpe_find(const tok_bpe *b, const char *p, size_t n);
int32_t whit_bpe_token(const tok_bpe *b, const char *p, size_t n);
/* Appends the ids of one piece. */
int whit_bpe_encode(const tok_bpe *b, tok_work *w, const char *p, size_t n, whit_ids *out, const char *name,
                    whit_err *e);

/* ---- decoding ---- */
int whit_named_byte(const char *p, size_t n); /* the byte that "<0x41>" names, or -1 */
typedef struct tok_undo {
	int kind; /* private to tok_decode.c */
	const char *from, *to;
	size_t n_from, n_to;
	int64_t left, right;
} tok_undo;
typedef struct tok_decoder {
	tok_undo *v;
	int n, room;
	int none; /* no decoder: tokens joined by spaces */
} tok_decoder;
int whit_undo_read(tok_decoder *d, const json_t *j, const char *file, whit_arena *mem, whit_err *e);
char *whit_undo_run(const tok_decoder *d, const tok_bpe *b, const int32_t *ids, int64_t n, int skip_special,
                    size_t *len);

/* ---- the tokenizer ---- */
/* Added tokens that are looked for in the same text, sorted by bytes. */
typedef struct tok_added {
	const char *p;
	size_t n;
	int32_t id;
	int special, lstrip, rstrip, single_word, normalized;
} tok_added;
typedef struct tok_added_set {
	tok_added *v;
	int64_t n;
	uint8_t first[256]; /* whether one begins with the byte */
} tok_added_set;

struct whit_tok {
	char *name;
	tok_bpe bpe;
	tok_steps normalizer, pre;
	tok_decoder decoder;
	tok_added_set raw, normalized; /* looked for before and after normalization */
	tok_find word;                 /* a \w, for single_word; compiled where a token needs it */
	whit_ids front, back;          /* what the post-processor adds */
	int32_t bos, eos;
};
/* Gives added tokens their ids in the vocabulary and their places in the sets; v is sorted. */
int whit_added_enter(whit_tok *t, tok_added *v, int64_t n, whit_err *e);
int32_t whit_token_id(const whit_tok *t, const char *text); /* added tokens too; -1: none */
/* config may be NULL. */
int whit_tok_new(whit_tok **out, const json_t *root, const json_t *config, const char *name, whit_err *e);

/* Where a model keeps its tokenizer. */
typedef struct tok_source {
	char *json, *config,
	        *gguf; /* tokenizer.json with tokenizer_config.json (NULL = absent), or a GGUF; the rest NULL */
} tok_source;
int whit_tok_source(tok_source *s, const char *path, whit_err *e);
void whit_tok_source_free(tok_source *s);
int whit_tok_source_load(const tok_source *s, json_t **root, json_t **config, whit_err *e); /* of JSON */

/* ---- GGUF (ggml.md 5) ---- */
enum { TOK_NORMAL = 1, TOK_UNKNOWN, TOK_CONTROL, TOK_USER_DEFINED, TOK_UNUSED, TOK_BYTE, TOK_TYPES }; /* of a token */
/* Texts that llama.cpp takes for control tokens even where the file says user-defined (measured): ends of generation,
 * and Qwen's tokens for filling in the middle. */
int whit_tok_known_control(const char *p, size_t n);
/* Its names for pre-tokenizers. */
typedef struct tok_pre {
	const char *name;
	const char *pattern[4]; /* each cuts the pieces of the one before it */
	int whole_words;        /* a piece that is a token skips the merges */
	int adds_bos;           /* unless add_bos_token says otherwise */
} tok_pre;
extern const tok_pre whit_tok_pres[]; /* ends with name NULL; later rows of the same patterns are other names */
/* The names, for messages: "llama-bpe, qwen2"; whit_free it. */
char *whit_tok_pre_names(void);
#endif
