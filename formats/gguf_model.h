/* gguf_model: how a language model lies in a GGUF: metadata against config.json, tensor names, row order
 * (ggml.md 5). One table row per architecture; both directions read it. */
#ifndef WHIT_GGUF_MODEL_H
#define WHIT_GGUF_MODEL_H
#include <jansson.h>
#include "formats/gguf.h"

typedef struct whit_gguf_arch {
	const char *name;      /* general.architecture */
	const char *hf;        /* model_type in config.json; NULL: the same */
	int paired;            /* rows of q and k are stored in pairs (whit_mat.paired) */
	int qk_norm, qkv_bias; /* has attn_q_norm and attn_k_norm; attn_{q,k,v}.bias */
	int biases;            /* any linear of a block may have a bias */
	int delta;             /* layers of gated delta net among those of attention (qwen35.md 3, 4) */
} whit_gguf_arch;
/* By either name, a text model's "_text" allowed; unknown: text lists what is known. */
const whit_gguf_arch *whit_gguf_arch_find(const char *name, whit_err *e);

/* Tensor names: "blk.3.attn_q.weight" <-> "model.layers.3.self_attn.q_proj.weight"; 0, or -1 silently where the other
 * side has no such tensor. A name without the "model." prefix, or with "model.language_model.", is also understood.
 * layers: of the model, what is behind them is a next-token head ("mtp."); 0: not known. */
int whit_gguf_name_to_hf(const whit_gguf_arch *a, const char *gguf, int64_t layers, char out[128]);
int whit_gguf_name_from_hf(const whit_gguf_arch *a, const char *hf, char out[64]);
/* 1 = rows (or a bias) of this tensor are stored in pairs; name as in config.json's world. */
int whit_gguf_is_paired(const whit_gguf_arch *a, const char *hf);

/* What a tensor's values become on their way from a Hugging Face checkpoint to a GGUF (qwen35.md 4). */
typedef struct whit_gguf_change {
	int one;                  /* 1 is added: norms that are zero-centred there */
	int rate;                 /* -exp */
	int columns;              /* blocks are of columns, else of rows (of a vector: of values) */
	int64_t first, block;     /* blocks of so many from there on change places; block 0: none do */
	int64_t k_heads, v_heads; /* block k * (v_heads / k_heads) + j becomes block j * k_heads + k */
} whit_gguf_change;
/* Of tensor `hf` of a model with that config (of the language model); 1 if anything changes. A config that a GGUF was
 * read into ("whit_gguf_layout") has nothing left to change. */
int whit_gguf_change_of(const whit_gguf_arch *a, const json_t *config, const char *hf, whit_gguf_change *c);
/* What puts blocks back where they were. */
whit_gguf_change whit_gguf_change_back(const whit_gguf_change *c);
/* Changes w (rows, cols) in place. */
void whit_gguf_apply(const whit_gguf_change *c, float *w, int64_t rows, int64_t cols);

/* config.json's keys from the metadata of g: what arch_NAME.c reads, so that it gives the same model as the original
 * checkpoint. rope_freqs.weight, where there is one, becomes rope_scaling of type "factors". Missing keys take
 * llama.cpp's defaults where it has them; the rest are errors with file and key. *config is the caller's. */
int whit_gguf_config(const whit_gguf *g, const whit_gguf_arch *a, json_t **config, whit_err *e);
/* The other way: {arch}.* and general.* keys of ggml.md 5 from a config.json (path: for messages) for a model of
 * `layers` blocks. What GGUF cannot say is an error naming the key. *rope_factors (hidden of head_dim / 2, whit_free
 * it) is set where the file needs a rope_freqs.weight, else NULL. */
int whit_gguf_put_config(whit_gguf_out *o, const whit_gguf_arch *a, const json_t *config, const char *path,
                         const char *model_name, float **rope_factors, int64_t *n_factors, whit_err *e);
#endif
