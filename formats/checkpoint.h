/* checkpoint: the one way to get at a model's weights, whatever stores them: a Hugging Face directory, one
 * that whit wrote, a third-party TQ3 directory, a GGUF file. Every tensor, packed or plain, is a whit_mat. */
#ifndef WHIT_CHECKPOINT_H
#define WHIT_CHECKPOINT_H
#include <jansson.h>
#include "formats/format.h"
#include "formats/tensor.h"

typedef struct whit_weight {
	char *name; /* checkpoint name, "model.layers.0.mlp.down_proj.weight" */
	int dtype;  /* element type of the original tensor */
	int ndim;
	int64_t shape[WHIT_DIMS]; /* original shape */
	whit_mat mat; /* rows = shape[0], cols = product of the rest; a vector is one row (1, n). A type that is no
	                 number format (I64) has spec.fmt NULL and its bytes in plane 0 */
	const char *file;
	const char *type; /* as its container calls it: "BF16", "tq4g128", "Q4_K", "IQ2_XXS" */
	int64_t bytes;    /* stored, all planes */
	int passthrough;  /* stored as it was */
	double rel_mse;   /* of a packed tensor as its manifest says, NaN = not known (GGUF); else 0 */
	int64_t zero_groups;
	const char *alias; /* non-NULL: no bytes of its own, the same tensor as this name (tied) */
} whit_weight;

/* GGUF: names, shapes, row order and config are turned into Hugging Face's; quantized tensors have dtype F32 and a
 * block format, those of types that are only inspected have spec.fmt NULL. */
typedef enum whit_ckpt_kind { WHIT_CKPT_HF, WHIT_CKPT_WHIT, WHIT_CKPT_TQ3, WHIT_CKPT_GGUF } whit_ckpt_kind;

typedef struct whit_ckpt {
	char *path; /* the directory, or the GGUF file (the first of a split) */
	whit_ckpt_kind kind;
	json_t *config; /* config.json, or what it would be */
	char *config_path;
	json_t *manifest;             /* quant_manifest.json of a directory that whit wrote, else NULL */
	const struct whit_gguf *gguf; /* metadata of a GGUF (of a split: all files as one), else NULL */
	const char *unfit;            /* why no architecture can run what is listed here; NULL = nothing known */
	whit_weight *w;               /* n weights sorted by name; only types that are number formats get a mat */
	int64_t n;
	int64_t file_bytes;            /* of all files needed to load the weights: also index, manifest, sidecar */
	struct whit_ckpt_private *own; /* maps, codebooks, rotations */
} whit_ckpt;

/* Refuses what operations.md 4 lists: missing and stray shards and tensors, foreign quantization, remote code,
 * manifests that do not fit their weights, NaN and Inf among scales (inside blocks: whit_weight_scales).
 * Weights themselves are not scanned. A GGUF file is known by its content, a split by any of its files. */
int whit_ckpt_open(whit_ckpt *c, const char *path, whit_err *e);
void whit_ckpt_close(whit_ckpt *c);
const whit_weight *whit_ckpt_find(const whit_ckpt *c, const char *name); /* NULL = absent; follows aliases */
/* Hash of the sorted lines "name, dtype, shape, hash of bytes" (turboquant.md 7), independent of sharding and
 * threads; of a packed weight, the hash of format, planes, codebook and rotation:
 * "xxh3-128:<hex>" into out[48]. Reads every byte. Aliases are not lines. */
int whit_ckpt_fingerprint(const whit_ckpt *c, char out[48], whit_err *e);
/* Error if a mapped file changed since it was opened. */
int whit_ckpt_check(const whit_ckpt *c, whit_err *e);
/* Refuses NaN and Inf among the scales inside blocks of ggml's; 0 at once for other formats. Reads every page. */
int whit_weight_scales(const whit_weight *w, whit_err *e);
/* Tells the OS that this weight's pages are not needed soon. */
void whit_weight_drop(const whit_weight *w);
const char *whit_ckpt_kind_name(whit_ckpt_kind k);
#endif
