/* engine_own: what the parts of the engine share: engine.c (programs, the CPU) and engine_device.c (a device). */
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
	void ****on;      /* [layer][state of the program]: device array of a device's blocks */
	void *memory;     /* all of a device's blocks and arrays */
	void *graph;      /* of one decoding step of all sequences, or NULL */
	int64_t graph_of; /* the model's epoch when it was recorded */
	int steps;        /* decoding steps since then, or since the last change */
};

/* Programs of m in order: embed, layers, head. */
whit_program *whit_program_at(const whit_model *m, int64_t i);
int whit_node_linear(const whit_node *n);
/* Refuse ids outside the vocabulary, and sequences that the state (or NULL) does not hold. */
int whit_tokens_check(const whit_model *m, const whit_batch *b, whit_err *e);
int whit_state_check(const whit_batch *b, const whit_state *s, whit_err *e);

/* What a step reads and writes: value numbers, -1 = none. */
enum { WHIT_STEP_IN = 9, WHIT_STEP_OUT = 3 };
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

/* The same as the functions of engine.h without device_, for a model on a device. */
void whit_device_model_close(whit_model *m);
/* Slot k of program i (whit_program_at). */
int whit_device_replace(whit_model *m, int64_t i, int k, const whit_mat *mat, whit_err *e);
void whit_device_state_new(const whit_model *m, whit_state *s);
void whit_device_state_free(whit_state *s);
void whit_device_state_clear(whit_state *s);
int whit_device_embed(whit_model *m, const whit_batch *b, float *h, whit_err *e);
int whit_device_layer(whit_model *m, int64_t l, const whit_batch *b, whit_state *s, float *h, whit_err *e);
int whit_device_head(whit_model *m, const float *h, int64_t n, float *logits, whit_err *e);
/* logits (n_seq, vocab) or id (n_seq) to the host, or NULL. */
int whit_device_step(whit_model *m, const whit_batch *b, whit_state *s, float *logits, int32_t *id, whit_err *e);
#endif
