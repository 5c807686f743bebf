/* checkpoint_own: what the readers of checkpoint.c share; nobody else includes it. */
#ifndef WHIT_CHECKPOINT_OWN_H
#define WHIT_CHECKPOINT_OWN_H
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/json.h"
#include "formats/safetensors.h"

typedef struct whit_stored { /* one array of the weight files */
	const whit_tensor *t;
	int used; /* some weight is made of it */
} whit_stored;

typedef struct whit_named { /* a rotation or codebook of a manifest, built when first asked for */
	const char *id;
	void *p;
	struct whit_named *next;
} whit_named;

struct whit_ckpt_private {
	whit_arena arena; /* names and codebooks */
	whit_st *st;      /* weight files */
	int64_t n_st;
	whit_st sidecar;
	whit_stored *t; /* n_t arrays of all weight files, sorted by name */
	int64_t n_t;
	whit_named *rotation, *codebook, *frc_book;
	char *manifest_path;
	whit_gguf *gguf; /* files of a GGUF in order, and all as one */
	int64_t n_gguf;
	whit_gguf joined;
};

/* Opens dir's model.safetensors, or the shards of its index. */
int whit_ckpt_open_shards(whit_ckpt *c, whit_err *e);
/* Opens one more weight file. */
int whit_ckpt_open_file(whit_ckpt *c, const char *path, whit_err *e);
/* Sorts all arrays of the open files into own->t; the same name in two files is an error. */
int whit_ckpt_index(whit_ckpt *c, whit_err *e);
whit_stored *whit_ckpt_stored(const whit_ckpt *c, const char *name); /* NULL = absent */
/* Makes w the stored array as it is. */
int whit_weight_plain(whit_weight *w, whit_stored *s, whit_err *e);
/* Refuses NaN and Inf among the values of an F16, BF16 or F32 array. */
int whit_stored_finite(const whit_tensor *t, whit_err *e);
char *whit_ckpt_text(whit_ckpt *c, const char *fmt, ...) WHIT_PRINTF(2, 3); /* lives as long as c */

/* The two packed kinds: fill c->w and c->n from c->manifest or tq_config, own->t and the config. */
int whit_manifest_read(whit_ckpt *c, whit_err *e);
int whit_tq3_read(whit_ckpt *c, const json_t *tq, const char *file, whit_err *e);
/* A GGUF file: opens its set, fills c->config, c->w and c->n. */
int whit_ckpt_read_gguf(whit_ckpt *c, whit_err *e);
#endif
