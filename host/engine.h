/* engine: a model is a list of block programs; a program is a list of nodes (op, inputs, outputs, weights,
 * attributes). An architecture file (arch_*.c) emits programs; this runs them, on any batch, with or
 * without per-sequence state. It knows no architecture. */
#ifndef WHIT_ENGINE_H
#define WHIT_ENGINE_H
#include "formats/checkpoint.h"
#include "host/ops.h"

enum { WHIT_NODE_IN = 6, WHIT_NODE_OUT = 3, WHIT_NODE_W = 4 };

/* Numbers an op may want; an op documents which it reads. */
typedef struct whit_attr {
	float eps, shift, scale;
	int64_t heads, kv_heads, dim, rot, window, taps;
	int tiled, rate_done; /* whit_delta's */
	const double *inv_freq;
	double mscale;
} whit_attr;

/* The tokens of one call: n_seq sequences, sequence s in rows [start[s], start[s+1]), its first new token at
 * position past[s] (0 without state). */
typedef struct whit_batch {
	int64_t T;
	int n_seq;
	const int64_t *start;  /* n_seq + 1 */
	const int64_t *past;   /* n_seq */
	const int64_t *pos;    /* T: position of each row in its sequence */
	const int32_t *tokens; /* T */
} whit_batch;

typedef struct whit_op whit_op;
typedef struct whit_node {
	const whit_op *op;
	int in[WHIT_NODE_IN], out[WHIT_NODE_OUT]; /* value numbers, -1 = none */
	int w[WHIT_NODE_W];                       /* slots of the program's weight table, -1 = none */
	whit_attr a;
	int state;        /* number of this node among the program's nodes with state, -1 = none */
	const char *role; /* "q_proj", "down_proj", "attn": for messages, recipes and statistics */
} whit_node;

/* What a node sees when it runs. Values are (T, width) floats. */
typedef struct whit_call {
	const whit_node *node;
	const whit_batch *batch;
	const float *in[WHIT_NODE_IN];
	float *out[WHIT_NODE_OUT];
	int64_t in_width[WHIT_NODE_IN], out_width[WHIT_NODE_OUT];
	const whit_mat *w[WHIT_NODE_W];
	const float *vec[WHIT_NODE_W]; /* one-row weights decoded to float, else NULL */
	void **state;                  /* per sequence: this node's state block, NULL without state */
	int64_t cap;                   /* tokens a state can hold */
	whit_arena *scratch;           /* forgotten when the node is done */
	int plain;                     /* run the plain twin */
	/* On a device, where every pointer above is device memory but node, batch itself and w, whose planes are: */
	whit_dev *dev;
	int kv; /* element type of caches: WHIT_F32 or WHIT_F16 */
} whit_call;

/* One row per op. Backward and CUDA twins, and recurrent state, are further columns of the same row. */
struct whit_op {
	const char *name;
	int (*forward)(whit_call *c, whit_err *e);
	/* From dout[], gradients by out[], adds those by in[] and w[] to din[] and dw[]: each NULL where it is not
	 * wanted, dout[] also where nothing reads the output. c is the forward call's, in[] and out[] filled, without
	 * state. NULL: no gradient passes. */
	int (*backward)(whit_call *c, const float *const dout[], float *const din[], float *const dw[], whit_err *e);
	/* Bytes of state per sequence for up to cap tokens; NULL = stateless. Zeroed at start. */
	size_t (*state_bytes)(const whit_node *n, int64_t cap);
	/* Queues forward's twin. State is a device array of pointers; errors stay with the device. */
	void (*cuda)(whit_call *c);
	void (*backward_cuda)(whit_call *c, const float *const dout[], float *const din[], float *const dw[]);
};
extern const whit_op *const whit_ops[]; /* NULL-terminated */
const whit_op *whit_op_find(const char *name);

typedef struct whit_slot { /* one weight of a program */
	const char *role;
	char *name;         /* checkpoint name; owned */
	int64_t rows, cols; /* the shape it must have; rows 0 = a vector (cols) */
	int64_t taps;       /* > 0: a vector stored as (cols / taps, 1, taps) */
	const whit_weight *weight;
	float *vec;     /* decoded, when it is one row; owned */
	whit_mat dense; /* decoded, when the model was opened so; owned */
} whit_slot;

/* What nodes compute with of a slot, where they compute. */
typedef struct whit_bound {
	const whit_mat *mat; /* NULL: a vector's */
	const float *vec;    /* decoded, when it is one row */
} whit_bound;

typedef struct whit_program {
	whit_node *node;
	int n_node;
	int64_t *width; /* columns of each value; value 0 is the input, n_val - 1 the output */
	int *buffer;    /* of each value between: values whose lives do not overlap share one */
	int64_t *buffer_width;
	int n_val, n_buffer;
	whit_slot *slot;
	whit_bound *bound, *opened; /* n_slot each, on the host: what stands there now, and what was opened */
	int n_slot;
	int n_state;
} whit_program;

/* Watches what linear nodes multiply, for calibration. Told once for each distinct input of a program, before its
 * first linear node runs: of layer `layer` (the number of layers = the head), value number `value` of that program,
 * x (T, cols), where the model computes. Nodes that share the value (q, k and v) share the call. An error stops the
 * pass. */
typedef struct whit_observer {
	int (*input)(void *ctx, int64_t layer, int value, const float *x, int64_t T, int64_t cols, whit_err *e);
	void *ctx;
} whit_observer;

/* Watches gradients. Told of each linear node of a layer, in reverse: of layer `layer`, weight `slot` of its program,
 * x (T, cols), its input, and dy (T, rows), the loss's gradient by its output, both where the model computes; b is the
 * call's. An error stops the pass. */
typedef struct whit_grad_observer {
	int (*linear)(void *ctx, int64_t layer, int slot, const whit_batch *b, const float *x, const float *dy,
	              whit_err *e);
	void *ctx;
} whit_grad_observer;

typedef struct whit_model {
	whit_ckpt ckpt;
	const struct whit_arch *arch;
	const json_t *config;                   /* ckpt.config, or the part of it that is the language model's */
	int64_t vocab, hidden, layers, context; /* context: max_position_embeddings */
	int32_t bos, eos[16];
	int n_eos;
	whit_program embed, *layer, head; /* embed: tokens to (T, hidden); head: norm and lm_head, to (T, vocab) */
	int plain;                        /* run plain twins (oracle, noise floor) */
	int original;                     /* run the model's own weights, though others are in their place */
	whit_dev *dev;                    /* where the model computes; NULL: on the CPU. Borrowed */
	struct whit_device_model *on;     /* what it holds there */
	int kv;                           /* element type of a device's caches: WHIT_F32 (at first) or WHIT_F16 */
	const whit_observer *observer;    /* or NULL; borrowed */
	const whit_grad_observer *grad_observer;
	whit_arena arena;                /* everything that lives as long as the model */
	whit_arena out, values, scratch; /* of the layer, the program and the node that is running */
	void *back;                      /* values and gradients of a layer, where m computes */
	size_t back_bytes;
} whit_model;

enum {
	WHIT_OPEN_DECODE = 1, /* decode packed matrices to F32 at load instead of computing from codes */
	WHIT_OPEN_LIST = 2    /* to be listed, not run: scales inside blocks are not checked, no page of them is read */
};
/* Opens checkpoint, recognises the architecture, binds every weight. Unknown architecture, missing, unused
 * or misshapen tensor, unimplemented or missing config key: errors that list what is known. */
int whit_model_open(whit_model *m, const char *path, unsigned flags, whit_err *e);
void whit_model_close(whit_model *m);

/* What an adapter has added to a model; path is borrowed. */
typedef struct whit_adapted {
	const char *path;
	int64_t matrices, rank, weights; /* linears of blocks, the largest rank, their weights */
	int64_t factor_bytes, bytes;     /* of the factors; of the whole file */
} whit_adapted;
/* Adds a LoRA adapter (formats/lora.h) to an open GGUF's matrices, which from then on are F32, whatever they are stored
 * as: 4 bytes a weight, said once. Before the model goes to a device or runs; after an error the model may only be
 * closed. Errors: whit_lora_open's; a model that is no GGUF; a name that is no linear of a block, another shape; values
 * that overflow. */
int whit_model_adapt(whit_model *m, const char *path, whit_adapted *info, whit_err *e);

/* Moves the computing of n models to a device, which they share; dev NULL: they stay on the CPU. Weights are copied
 * there as they are stored; a model that does not fit beside the others keeps embedding, norms and head there and
 * streams its layers, one computing while the next is on its way. reserve: bytes of device memory that activations
 * will need (whit_model_need of each, added up). WHIT_ERESOURCE names what is needed and what is there. To be called
 * once, before states are made; the models are closed before the device. */
int whit_models_device(whit_model *const m[], int n, whit_dev *dev, size_t reserve, whit_err *e);
/* Device bytes that batches of up to T tokens, heads of up to `rows` rows and n_seq states of cap tokens take. */
size_t whit_model_need(const whit_model *m, int64_t T, int64_t rows, int n_seq, int64_t cap);
size_t whit_model_device_bytes(const whit_model *m); /* of weights, on the device; 0 on the CPU */
int whit_model_streams(const whit_model *m);         /* 1: layers are streamed */
/* Puts mat, of the weight's shape and any format, in the place of matrix `name` wherever the model reads it (tied: as
 * embedding and as head); NULL puts the model's own back. On the CPU mat and what it points to are borrowed until then;
 * a device gets a copy, and only the rotation is borrowed. Not with states in use. Errors: no matrix of that name, or
 * another shape (WHIT_EINTERNAL); on a device its memory (WHIT_ERESOURCE), the model's own weights being back then. */
int whit_model_replace(whit_model *m, const char *name, const whit_mat *mat, whit_err *e);
/* The same of a vector: vec, as many floats; borrowed until then on the CPU, copied to a device. */
int whit_model_replace_vector(whit_model *m, const char *name, const float *vec, whit_err *e);
/* Memory where m computes, for h and logits below; zeroed on the CPU. On a device NULL is possible; the next call
 * then tells. */
void *whit_model_alloc(const whit_model *m, size_t bytes);
void whit_model_free(const whit_model *m, void *p);
/* n bytes of such memory to 0, and from one piece to another; queued on a device. */
void whit_model_zero(const whit_model *m, void *p, size_t n);
void whit_model_copy(const whit_model *m, void *to, const void *from, size_t n);

/* Per-sequence state (KV cache) of all layers for n_seq sequences of up to cap tokens. It stays valid as
 * long as the model. A batch with state has at most n_seq sequences: its sequence s continues state s. */
typedef struct whit_state whit_state;
whit_state *whit_state_new(const whit_model *m, int n_seq, int64_t cap);
void whit_state_free(whit_state *s);
void whit_state_clear(whit_state *s); /* all zero: a new start */
size_t whit_state_bytes(const whit_state *s);

/* In the three calls below h and logits lie where m computes (whit_model_alloc); batches are host memory.
 *
 * h (T, hidden) = embeddings of b->tokens; an id outside the vocabulary is an error. */
int whit_model_embed(whit_model *m, const whit_batch *b, float *h, whit_err *e);
/* Runs layer l in place on h (T, hidden). s NULL: no state, every past[] is 0. Non-finite output is
 * WHIT_ENONFINITE naming layer, row and column. The caller advances positions; state rows are written at
 * past[s] + i; more than the state holds is WHIT_EINTERNAL. One call at a time per model. */
int whit_model_layer(whit_model *m, int64_t l, const whit_batch *b, whit_state *s, float *h, whit_err *e);
/* logits (n, vocab) of n rows of h: final norm and head. Non-finite: WHIT_ENONFINITE. */
int whit_model_head(whit_model *m, const float *h, int64_t n, float *logits, whit_err *e);
/* Embed, all layers, and head of the last row of each sequence: logits (n_seq, vocab), in host memory. On a device
 * a step of one token a sequence is recorded once and then costs one launch. */
int whit_model_step(whit_model *m, const whit_batch *b, whit_state *s, float *logits, whit_err *e);
/* The same, of which only the likeliest token of each sequence comes back: id (n_seq), the lowest on ties. */
int whit_model_next(whit_model *m, const whit_batch *b, whit_state *s, int32_t *id, whit_err *e);

/* ---- gradients: of the sum of a loss over the rows of a batch ----
 *
 * Backwards through a model: the input of each layer is kept on the way up (embed, then layer by layer without state);
 * then head_back, layer_back from the last to the first, embed_back. h, dh and dw lie where m computes. dw: a pointer
 * for each slot of the program (layer l's, the head's, the embedding's), the gradient by that weight is ADDED there in
 * the weight's own shape, NULL where it is not wanted; dw NULL: none is. A tied head adds to its own slot. Same bytes
 * at any thread count and for any other sequences in the batch. Formats of blocks: what they round away of activations
 * counts as kept (straight through). */
typedef struct whit_loss {
	int32_t *target; /* n: the token each row is to predict, -1 = no loss there; in, or with draw out */
	const double
	        *draw; /* n numbers in [0, 1) by which targets are drawn from the model itself (below 0: -1), or NULL */
	double *loss;  /* n, out: cross entropy, nats */
	/* Not NULL, on the CPU alone: the loss is KL(teacher || m) instead, the teacher's logits being what its head
	 * makes of taught (n, hidden); target and draw have no use. */
	struct whit_model *teacher;
	const float *taught;
} whit_loss;
/* dh (n, hidden) = gradient by h (n, hidden), the output of the last layer; NULL: not wanted. l is host memory. Logits
 * are there for whit_model_head_tile(m) rows at a time. A loss that is not finite is WHIT_ENONFINITE. */
int whit_model_head_back(whit_model *m, const float *h, int64_t n, const whit_loss *l, float *dh, float *const dw[],
                         whit_err *e);
int64_t whit_model_head_tile(const whit_model *m);
/* dh (T, hidden): in, the gradient by the output of layer l for input h (T, hidden); out, by h. m's grad_observer is
 * told of linear nodes. Every past[] is 0. */
int whit_model_layer_back(whit_model *m, int64_t l, const whit_batch *b, const float *h, float *dh, float *const dw[],
                          whit_err *e);
/* As layer_back, for *loss = the sum of (y - want)^2 over b's rows, y what the layer makes of h, want (T, hidden). On
 * the CPU alone (WHIT_EINTERNAL). */
int whit_model_layer_fit(whit_model *m, int64_t l, const whit_batch *b, const float *h, const float *want, double *loss,
                         float *const dw[], whit_err *e);
int whit_model_embed_back(whit_model *m, const whit_batch *b, const float *dh, float *const dw[], whit_err *e);
/* Bytes that layer_back takes for T tokens, where m computes, beside h and dh. */
size_t whit_model_back_need(const whit_model *m, int64_t T);

/* ---- architectures ---- */
typedef struct whit_arch {
	const char *name; /* model_type in config.json */
	const char *help;
	/* Reads config, fills sizes and programs of m; weights are bound afterwards by the engine. */
	int (*build)(whit_model *m, whit_err *e);
	/* Tensor names the file may hold and this architecture does not use: NULL-terminated, '*' = any text. */
	const char *const *ignored;
} whit_arch;
extern const whit_arch *const whit_archs[]; /* archs.def order, NULL-terminated */
/* 1 = node i is linear and the first in p to read its input: where an observer is told of it. */
int whit_program_observed(const whit_program *p, int i);
/* Which weights a quantizer may touch: 1 = a linear of a block, 2 = embedding or head, 0 = neither.
 * *role gets the slot's role (NULL for a name the model does not use), *layer its layer (-1 outside). */
int whit_model_role(const whit_model *m, const char *name, const char **role, int64_t *layer);

/* Builders an architecture uses. A program starts with value 0 of in_width; values, slots and nodes are
 * numbered in the order of these calls; the last value made is the output. */
void whit_program_init(whit_program *p, int64_t in_width);
int whit_program_value(whit_program *p, int64_t width);
/* name: whit_format_text's, owned from here. rows 0 = a vector. */
int whit_program_slot(whit_program *p, const char *role, char *name, int64_t rows, int64_t cols);
/* A node whose in, out, w are all -1; valid until the next call. */
whit_node *whit_program_node(whit_program *p, const char *op, const char *role);
#endif
