/* engine_own: what the parts of the engine share: engine.c (programs, the CPU), engine_steps.c and engine_device.c (a
 * device), engine_back.c (gradients, on either). */
#ifndef WHIT_ENGINE_OWN_H
#define WHIT_ENGINE_OWN_H
#include "host/engine.h"

/* States of a model on the CPU are host memory; of one on a device, device memory. */
struct whit_state {
	int64_t layers, cap;
	int n_seq;
	size_t bytes;
	void ****block;   /* [layer][state of the program][sequence] */
	size_t **each;    /* [layer][state of the program]: bytes of a block */
	whit_dev *dev;    /* where the blocks are; NULL: the host */
	void ****on;      /* [layer][state of the program]: a device's copy of the array block, NULL on the host */
	void *graph;      /* of one decoding step of all sequences, or NULL */
	int64_t graph_of; /* the model's epoch when it was recorded */
	int steps;        /* decoding steps since then, or since the last change */
};

/* Programs of m in order: embed, layers, head. */
whit_program *whit_program_at(const whit_model *m, int64_t i);
int whit_node_is(const whit_node *n, const char *op);
int whit_node_linear(const whit_node *n);
/* Bytes of node n's state for one sequence of m, 0 without state. */
size_t whit_node_state(const whit_model *m, const whit_node *n, int64_t cap);
/* What node n of p sees: values by number, weights by slot, where the model computes. */
void whit_call_fill(whit_call *c, const whit_program *p, const whit_node *n, float *const value[],
                    const whit_bound *bound);
/* Tells m's observer of node i's input x (T, cols), where m computes, if it is to be told. */
int whit_observe(const whit_model *m, const whit_program *p, int i, const float *x, int64_t T, whit_err *e);
/* Refuse ids outside the vocabulary, and sequences that the state (or NULL) does not hold. */
int whit_tokens_check(const whit_model *m, const whit_batch *b, whit_err *e);
int whit_state_check(const whit_batch *b, const whit_state *s, whit_err *e);

/* What a step reads and writes: value numbers, -1 = none. */
enum { WHIT_STEP_IN = WHIT_NODE_IN + WHIT_NODE_OUT, WHIT_STEP_OUT = WHIT_NODE_IN };
typedef struct whit_step_io {
	int in[WHIT_STEP_IN], out[WHIT_STEP_OUT];
} whit_step_io;
/* Values between the input (0) and the output (n_val - 1) that do not live at once share a buffer. */
typedef struct whit_buffers {
	int *of;        /* of each value */
	int64_t *width; /* of each buffer */
	int n;
} whit_buffers;
void whit_buffers_plan(whit_buffers *b, const whit_step_io *step, int n_step, const int64_t *width, int n_val);
void whit_buffers_free(whit_buffers *b);

/* ---- steps (engine_steps.c) ---- */
enum { WHIT_WAY_PLAIN, WHIT_WAY_MANY, WHIT_WAY_FEW, WHIT_WAYS };
enum { WHIT_STEP_NODE, WHIT_STEP_GEMV, WHIT_STEP_ATTEND };
typedef struct whit_step {
	int kind, node;                             /* node: NODE's, ATTEND's attention, GEMV's first linear */
	int n;                                      /* GEMV: linears node .. node + n - 1 */
	int y[WHIT_GEMV_WAYS], add[WHIT_GEMV_WAYS]; /* where each result goes; -1 or what is added */
	int pre;                                    /* GEMV: the norm or swiglu before, or -1 */
	int rope[2], norm[2];                       /* ATTEND: nodes of q and k; norm -1: none */
	whit_step_io io;
} whit_step;
typedef struct whit_way {
	whit_step *step;
	int n;
	whit_buffers buf;
	int in_place; /* the output may lie where the input does */
} whit_way;
void whit_way_build(whit_way *w, const whit_program *p, int kind);
void whit_way_free(whit_way *w);

/* ---- on a device (engine_device.c) ---- */
/* Slot k of program i (whit_program_at): mat in its place, NULL: what was opened. */
int whit_device_replace(whit_model *m, int64_t i, int k, const whit_mat *mat, whit_err *e);
/* The same of a vector. */
int whit_device_replace_vector(whit_model *m, int64_t i, int k, const float *vec, whit_err *e);
/* A program as what computes it sees it. */
typedef struct whit_placed {
	const whit_node *node;
	const whit_bound *bound;
	whit_batch batch;
	int ring;
} whit_placed;
/* Layer l (-1: the embedding, the number of layers: the head) with batch b on m's device. Where layers are streamed,
 * queued work waits for it, and place_end, after a layer's work is queued, sends layer `next` on its way (below 0:
 * none). */
void whit_device_place(whit_model *m, int64_t l, const whit_batch *b, whit_placed *out);
void whit_device_place_end(whit_model *m, int64_t next, const whit_placed *at);
/* The same as the functions of engine.h without device_, for a model on a device. */
void whit_device_model_close(whit_model *m);
int whit_device_embed(whit_model *m, const whit_batch *b, float *h, whit_err *e);
int whit_device_layer(whit_model *m, int64_t l, const whit_batch *b, whit_state *s, float *h, whit_err *e);
int whit_device_head(whit_model *m, const float *h, int64_t n, float *logits, whit_err *e);
/* logits (n_seq, vocab) or id (n_seq) to the host, or NULL. */
int whit_device_step(whit_model *m, const whit_batch *b, whit_state *s, float *logits, int32_t *id, whit_err *e);
#endif
