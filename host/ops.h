/* ops: the CPU truth of every op a block program may hold, and its fast twin.
 *
 * Twins end in _cpu (plain, serial, sums in double), _fast_cpu (vectorised, threaded), _cuda. All
 * activations are row-major float, one row per token. Pointers are borrowed; outputs never overlap inputs
 * unless said. T, n may be 0. Fast twins give the same bytes at any thread count. scratch is memory the op
 * may take from; the caller resets it.
 *
 * A _cuda twin takes the CPU's arguments after the device; all pointers, a matrix's planes and codebook included, are
 * device memory. It only queues work: the device keeps the first error, whit_dev_sync tells it (cuda/dev.h). Plain
 * kernels stay beside faster ones in the same file. A build without CUDA has none of them. */
#ifndef WHIT_OPS_H
#define WHIT_OPS_H
#include "formats/format.h"

/* x (rows, n), F32, F16 or BF16 (tensor.h's whit_dtype), in place: the unnormalised Walsh-Hadamard transform of each
 * row, Sylvester order, n a power of two. All of it in float, whit_fwht_fast_cpu's (rotation.h); 16-bit values are
 * rounded once, at the end, and those beyond F16 become infinite. cuda: the same bits; 16-bit rows longer than a
 * block's shared memory take (rows, n) floats of scratch. */
void whit_fwht_stored_cpu(void *x, int dtype, int64_t rows, int64_t n);
WHIT_DEVICE void whit_fwht_stored_cuda(whit_dev *d, void *x, int dtype, int64_t rows, int64_t n);

/* y[t] = row tokens[t] of the (vocab, dim) matrix w, in the original frame. tokens are in range. */
void whit_embed_cpu(float *y, const int32_t *tokens, int64_t T, const whit_mat *w);
void whit_embed_fast_cpu(float *y, const int32_t *tokens, int64_t T, const whit_mat *w);
/* Of any format, rotated ones too: those take (T, width) of scratch. */
WHIT_DEVICE void whit_embed_cuda(whit_dev *d, float *y, const int32_t *tokens, int64_t T, const whit_mat *w);

/* y (T, n*dim): each of the n runs of dim values of a row is x / sqrt(mean(x^2) + eps) * (w + shift).
 * Zhang & Sennrich 2019, eq. 4; n > 1 is per-head QK-norm (w shared by heads); shift 1 for zero-centred.
 * y == x allowed. */
void whit_rmsnorm_cpu(float *y, const float *x, const float *w, int64_t T, int64_t n, int64_t dim, float eps,
                      float shift);
void whit_rmsnorm_fast_cpu(float *y, const float *x, const float *w, int64_t T, int64_t n, int64_t dim, float eps,
                           float shift);
WHIT_DEVICE void whit_rmsnorm_cuda(whit_dev *d, float *y, const float *x, const float *w, int64_t T, int64_t n,
                                   int64_t dim, float eps, float shift);

/* Rotary embedding of the first rot (even) of each head's dim values, pairing i with i + rot/2
 * (rotate_half), the rest copied: angle = pos[t] * inv_freq[i], both cos and sin scaled by mscale. Su et al.
 * 2021, eq. 34. The angle is rounded to float before cos and sin, as the models' own code does: at position
 * 8192 that rounding is 2.4e-4 of a turn's radian, so it is part of the function. y == x allowed. */
void whit_rope_cpu(float *y, const float *x, const int64_t *pos, int64_t T, int64_t heads, int64_t dim, int64_t rot,
                   const double *inv_freq, double mscale);
void whit_rope_fast_cpu(float *y, const float *x, const int64_t *pos, int64_t T, int64_t heads, int64_t dim,
                        int64_t rot, const double *inv_freq, double mscale);
WHIT_DEVICE void whit_rope_cuda(whit_dev *d, float *y, const float *x, const int64_t *pos, int64_t T, int64_t heads,
                                int64_t dim, int64_t rot, const double *inv_freq, double mscale);

/* y = silu(gate) * up, n values; silu(g) = g / (1 + exp(-g)). y == gate or up allowed. */
void whit_swiglu_cpu(float *y, const float *gate, const float *up, int64_t n);
void whit_swiglu_fast_cpu(float *y, const float *gate, const float *up, int64_t n);
WHIT_DEVICE void whit_swiglu_cuda(whit_dev *d, float *y, const float *gate, const float *up, int64_t n);

/* y = x * sigmoid(gate), n values; y == x allowed. */
void whit_gate_cpu(float *y, const float *x, const float *gate, int64_t n);
void whit_gate_fast_cpu(float *y, const float *x, const float *gate, int64_t n);
WHIT_DEVICE void whit_gate_cuda(whit_dev *d, float *y, const float *x, const float *gate, int64_t n);

/* a, b (T, heads*dim) = x (T, heads*2*dim): of each head's values the first dim, and the last. */
void whit_split_cpu(float *a, float *b, const float *x, int64_t T, int64_t heads, int64_t dim);
WHIT_DEVICE void whit_split_cuda(whit_dev *d, float *a, float *b, const float *x, int64_t T, int64_t heads,
                                 int64_t dim);

/* y = a + b, n values; y == a or b allowed. One twin: a single rounding has one result. */
void whit_add_cpu(float *y, const float *a, const float *b, int64_t n);
WHIT_DEVICE void whit_add_cuda(whit_dev *d, float *y, const float *a, const float *b, int64_t n);

/* Causal grouped-query attention of T new tokens of ONE sequence whose earlier `past` tokens are in k, v:
 * q (T, heads*dim), k and v (past+T, kv_heads*dim), y (T, heads*dim); scale multiplies q.k; head h reads
 * kv head h / (heads/kv_heads); query t sees keys [max(0, past+t+1-window), past+t], window 0 = all. */
void whit_attention_cpu(float *y, const float *q, const float *k, const float *v, int64_t T, int64_t past,
                        int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window);
/* Many queries: tiles of them; few: dot products. Scratch: one (64, past+T) tile per thread. */
void whit_attention_fast_cpu(float *y, const float *q, const float *k, const float *v, int64_t T, int64_t past,
                             int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window,
                             whit_arena *scratch);

/* Causal depthwise convolution over the T new tokens of ONE sequence, then silu: x, y (T, channels), w (channels,
 * taps), y[t][c] = silu(sum_k w[c][k] x[t - taps + 1 + k][c]). past (taps - 1, channels), oldest first, holds what came
 * before the first token and afterwards the last inputs; NULL: zeros, not kept. Gu & Dao 2023 (Mamba), as Qwen3-Next
 * has it. */
void whit_conv_cpu(float *y, const float *x, const float *w, float *past, int64_t T, int64_t channels, int64_t taps);
void whit_conv_fast_cpu(float *y, const float *x, const float *w, float *past, int64_t T, int64_t channels,
                        int64_t taps);

/* The gated delta rule (Yang et al. 2024, Gated Delta Networks, eq. 10) over the T new tokens of ONE sequence.
 * qkv (T, (2*k_heads + v_heads)*dim): queries, keys, values; beta, alpha (T, v_heads), before their activations; rate,
 * dt_bias (v_heads); y (T, v_heads*dim). Of each head q and k are divided by sqrt(sum x^2 + 1e-6), q by sqrt(dim) too.
 * Per token, S (dim of k, dim of v) of each v head:
 *	S *= exp(g), g = -exp(rate) * softplus(alpha + dt_bias)
 *	S += k (sigmoid(beta) (v - S^T k))^T, y = S^T q
 * state (v_heads, dim, dim) is S before, and afterwards behind, the tokens; NULL: zeros, not kept. */
typedef struct whit_delta {
	const float *qkv, *beta, *alpha, *rate, *dt_bias;
	int64_t k_heads, v_heads, dim; /* v_heads is a multiple of k_heads */
	int tiled;     /* v head h reads k head h % k_heads (GGUF's order); else h / (v_heads / k_heads) */
	int rate_done; /* rate holds -exp(rate) already (GGUF's ssm_a) */
} whit_delta;
/* Token by token, in double. */
void whit_delta_cpu(float *y, const whit_delta *d, float *state, int64_t T);
/* Chunks of 64 tokens (the same paper, eq. 11 and on) where there are many, else token by token; threads over heads.
 * Scratch for each thread: 8 (64, dim), 5 (64, 64), v_heads/k_heads (dim, dim). */
void whit_delta_fast_cpu(float *y, const whit_delta *d, float *state, int64_t T, whit_arena *scratch);

/* The tokens of a batch on the device: n_seq sequences, sequence s in rows [start[s], start[s+1]), its first new token
 * at position past[s]. The numbers are the host's, and part of a recorded step; the arrays are device memory. */
typedef struct whit_spans {
	int64_t T;
	int n_seq;
	const int64_t *start, *past, *pos; /* n_seq + 1, n_seq, T */
	int one;                           /* every sequence has exactly one token; 0: it is not known */
} whit_spans;

/* The same for a whole batch. cache NULL: no sequence has a past, keys and values are the rows of k and v. Else a
 * device array of n_seq state blocks, each keys (cap, kv_heads*dim), then values, of type kv (WHIT_F32, WHIT_F16:
 * tensor.h): they alone are read, and hold the new tokens already. Up to 8 tokens a sequence: keys are split over
 * blocks; scratch: (T, heads, splits, dim + 2). Dao et al. 2022 above. */
WHIT_DEVICE void whit_attention_cuda(whit_dev *d, float *y, const float *q, const float *k, const float *v,
                                     void *const *cache, int kv, int64_t cap, const whit_spans *b, int64_t heads,
                                     int64_t kv_heads, int64_t dim, float scale, int64_t window);
/* conv and delta of a whole batch. state NULL: no sequence has a past; else a device array of n_seq blocks, as past and
 * state above are. Pointers of d are device memory. dim 32, 64, 128: S in
 * registers; else, or plain, in memory, which without states is scratch, (n_seq, v_heads, dim, dim). */
WHIT_DEVICE void whit_conv_cuda(whit_dev *dev, float *y, const float *x, const float *w, void *const *state,
                                const whit_spans *b, int64_t channels, int64_t taps);
WHIT_DEVICE void whit_delta_cuda(whit_dev *dev, float *y, const whit_delta *d, void *const *state, const whit_spans *b);
/* Rows of new keys and values (T, width) into their sequences' caches. */
WHIT_DEVICE void whit_attention_put_cuda(whit_dev *d, void *const *cache, int kv, int64_t cap, const float *k,
                                         const float *v, const whit_spans *b, int64_t width);
/* What comes before attention, in one kernel: per-head RMSNorm of q and k (norms of dim, or NULL), rotary embedding of
 * both; then k and v into the caches, or, without, k to k_out. Equal to rmsnorm, rope and put one after the other. */
typedef struct whit_qkv {
	const float *q, *k, *v; /* (T, heads*dim), (T, kv_heads*dim) twice; v is read with caches only */
	float *q_out, *k_out;   /* k_out without caches only */
	const float *q_norm, *k_norm;
	float eps, shift, mscale;
	int64_t heads, kv_heads, dim, rot;
	const double *inv_freq; /* rot / 2, device memory */
} whit_qkv;
WHIT_DEVICE void whit_qkv_cuda(whit_dev *d, const whit_qkv *p, void *const *cache, int kv, int64_t cap,
                               const whit_spans *b);
/* whit_qkv_cuda, then whit_attention_cuda of what it made, to the bit; with caches and b->one in one kernel, where
 * attention splits keys over blocks anyway. Afterwards q_out may hold anything. q, k, v are aligned to 16. Scratch:
 * attention's. */
WHIT_DEVICE void whit_attend_cuda(whit_dev *d, const whit_qkv *p, void *const *cache, int kv, int64_t cap,
                                  const whit_spans *b, float *y, float scale, int64_t window);

/* y (T, rows) = x (T, cols) W^T + bias (rows, or NULL). Plain: decodes row by row, double sums. Where W is of blocks
 * (format.h), both twins round x to 8 bits as ggml does: formats/ints.h. */
void whit_linear_cpu(float *y, const float *x, int64_t T, const whit_mat *w, const float *bias);
/* Rotates x where the matrix is rotated, then gemv from packed bytes for few tokens, tiles of decoded rows
 * and packed x above (op_linear.c). */
void whit_linear_fast_cpu(float *y, const float *x, int64_t T, const whit_mat *w, const float *bias,
                          whit_arena *scratch);
/* Rotates x where the matrix is rotated. Activations as they are (the CPU rounds them for block formats, ints.h). Up
 * to WHIT_GEMV_MAX tokens: whit_gemv_cuda. Above, on tensor cores straight from codes, or whit_dev_gemm: for F16 and
 * BF16 weights x becomes a sum of whit_dev_terms terms of their type; others are decoded to such terms or to floats, a
 * tile of rows at a time. Scratch: twice 64 MB at most (one row and one token at least), and the rotated x. */
WHIT_DEVICE void whit_linear_cuda(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w,
                                  const float *bias);

/* A low-rank branch beside a matrix: y += scale B (A x) (LoRA, 2106.09685 eq. 3; FBQuant's sub-branch, 2501.16385). A
 * (rank, width) multiplies what the matrix's stored columns do, behind its rotation; B (rows, rank) has logical rows.
 * F16, borrowed, where the op computes. */
typedef struct whit_low {
	const uint16_t *a, *b;
	int64_t rank;
	float scale;
} whit_low;
/* y (T, rows) += scale B (A x), x (T, width); plain: sums in double. */
void whit_low_cpu(float *y, const float *x, int64_t T, int64_t rows, int64_t width, const whit_low *low);
/* whit_linear_cuda with low added to it; NULL: none. Packed matrices of up to 128 tokens, whose rank and width are
 * multiples of 8 and A and B on multiples of 16 bytes: A x is made by the input's kernel, and B's part is added where
 * sums are stored. Others: three more launches. */
WHIT_DEVICE void whit_linear_low_cuda(whit_dev *d, float *y, const float *x, int64_t T, const whit_mat *w,
                                      const whit_low *low, const float *bias);

/* Tiers: the ways that a device has to multiply a matrix by T tokens, in one list for whit_linear_cuda, whit_gemv_cuda,
 * `whit bench --tune` and tests (cuda/linear.cu). NULL beyond the last; and whether one takes a product. */
enum {
	WHIT_TIER_STREAM,
	WHIT_TIER_PACKED,
	WHIT_TIER_GEMV,
	WHIT_TIER_TERMS,
	WHIT_TIER_WIDE,
	WHIT_TIER_DECODED,
	WHIT_TIERS
};
WHIT_DEVICE const char *whit_tier_name(int tier);
WHIT_DEVICE int whit_tier_takes(int tier, const whit_mat *w, int64_t T);
/* The tier that a product runs by, unless the device is plain: the one it is tuned to (whit_dev_tune), if that takes
 * it, else the usual one. */
WHIT_DEVICE int whit_tier_usual(const whit_dev *d, const whit_mat *w, int64_t T);
WHIT_DEVICE int whit_tier_of(const whit_dev *d, const whit_mat *w, int64_t T);

/* y_k (T, rows_k) = pre(x) W_k^T + bias_k + add_k for up to three matrices that multiply one input, T <= WHIT_GEMV_MAX:
 * decoding, where launches cost as much as the small kernels they are for. No pointer may overlap y_k. The device's
 * alone: the CPU has nothing to gain from it. */
enum { WHIT_GEMV_WAYS = 3 };
enum {
	WHIT_PRE_NONE,  /* x as it is */
	WHIT_PRE_NORM,  /* whit_rmsnorm of x with norm, eps, shift */
	WHIT_PRE_SWIGLU /* silu(x) * x2 */
};
typedef struct whit_gemv {
	const float *x, *x2; /* (T, K); x2 is SWIGLU's other factor */
	int pre;
	const float *norm; /* (K) */
	float eps, shift;
	int n;
	const whit_mat *w[WHIT_GEMV_WAYS];   /* (rows_k, K) on the host, planes and codebooks on the device */
	float *y[WHIT_GEMV_WAYS];            /* (T, rows_k) */
	const float *bias[WHIT_GEMV_WAYS];   /* (rows_k), or NULL */
	const float *add[WHIT_GEMV_WAYS];    /* (T, rows_k), or NULL */
	const whit_low *low[WHIT_GEMV_WAYS]; /* on the host, or NULL */
} whit_gemv;
WHIT_DEVICE void whit_gemv_cuda(whit_dev *d, const whit_gemv *g, int64_t T);

/* ---- gradients ----
 *
 * whit_X_back_*: from dy, the gradient of a scalar by the op's output, those by its inputs and weights. Results are
 * ADDED to dx, dw and so on, so that values that several nodes read need nothing more; each may be NULL: not wanted.
 * Arguments that the forward call has too are its own, in the same shapes. No gradient overlaps an input. _cpu: plain,
 * sums in double; _fast_cpu and _cuda as above; the same bytes at any thread count and in every run. Tested against
 * central differences of the plain twins in double (tests/test_back.c). There is no state: every sequence starts at its
 * position 0. */

/* dw (vocab, dim) of a matrix of any format: rows of dy added, token by token. */
void whit_embed_back_cpu(float *dw, const float *dy, const int32_t *tokens, int64_t T, int64_t dim);
WHIT_DEVICE void whit_embed_back_cuda(whit_dev *d, float *dw, const float *dy, const int32_t *tokens, int64_t T,
                                      int64_t dim, int64_t vocab);

void whit_rmsnorm_back_cpu(float *dx, float *dw, const float *dy, const float *x, const float *w, int64_t T, int64_t n,
                           int64_t dim, float eps, float shift);
void whit_rmsnorm_back_fast_cpu(float *dx, float *dw, const float *dy, const float *x, const float *w, int64_t T,
                                int64_t n, int64_t dim, float eps, float shift, whit_arena *scratch);
WHIT_DEVICE void whit_rmsnorm_back_cuda(whit_dev *d, float *dx, float *dw, const float *dy, const float *x,
                                        const float *w, int64_t T, int64_t n, int64_t dim, float eps, float shift);

void whit_rope_back_cpu(float *dx, const float *dy, const int64_t *pos, int64_t T, int64_t heads, int64_t dim,
                        int64_t rot, const double *inv_freq, double mscale);
void whit_rope_back_fast_cpu(float *dx, const float *dy, const int64_t *pos, int64_t T, int64_t heads, int64_t dim,
                             int64_t rot, const double *inv_freq, double mscale);
WHIT_DEVICE void whit_rope_back_cuda(whit_dev *d, float *dx, const float *dy, const int64_t *pos, int64_t T,
                                     int64_t heads, int64_t dim, int64_t rot, const double *inv_freq, double mscale);

void whit_swiglu_back_cpu(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n);
void whit_swiglu_back_fast_cpu(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                               int64_t n);
WHIT_DEVICE void whit_swiglu_back_cuda(whit_dev *d, float *dgate, float *dup, const float *dy, const float *gate,
                                       const float *up, int64_t n);

void whit_gate_back_cpu(float *dx, float *dgate, const float *dy, const float *x, const float *gate, int64_t n);
void whit_gate_back_fast_cpu(float *dx, float *dgate, const float *dy, const float *x, const float *gate, int64_t n);
WHIT_DEVICE void whit_gate_back_cuda(whit_dev *d, float *dx, float *dgate, const float *dy, const float *x,
                                     const float *gate, int64_t n);

/* da, db: either may be NULL (then it adds nothing). */
void whit_split_back_cpu(float *dx, const float *da, const float *db, int64_t T, int64_t heads, int64_t dim);
WHIT_DEVICE void whit_split_back_cuda(whit_dev *d, float *dx, const float *da, const float *db, int64_t T,
                                      int64_t heads, int64_t dim);

/* ONE sequence without a past; y is the forward's output. Dao et al. 2022, algorithm 4. */
void whit_attention_back_cpu(float *dq, float *dk, float *dv, const float *dy, const float *y, const float *q,
                             const float *k, const float *v, int64_t T, int64_t heads, int64_t kv_heads, int64_t dim,
                             float scale, int64_t window);
void whit_attention_back_fast_cpu(float *dq, float *dk, float *dv, const float *dy, const float *y, const float *q,
                                  const float *k, const float *v, int64_t T, int64_t heads, int64_t kv_heads,
                                  int64_t dim, float scale, int64_t window, whit_arena *scratch);
/* The whole batch, every past[] 0. */
WHIT_DEVICE void whit_attention_back_cuda(whit_dev *d, float *dq, float *dk, float *dv, const float *dy, const float *y,
                                          const float *q, const float *k, const float *v, const whit_spans *b,
                                          int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window);

/* c (rows, n; ld ldc) += a (rows, k; lda) b (k, n; ldb): on the calling thread alone; an element's sum runs over k in
 * order, whatever rows and n are. */
void whit_multiply_add_cpu(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb,
                           int64_t rows, int64_t n, int64_t k);

/* dx (T, cols) += dy (T, rows) W, W in its original frame. What blocks round away of x counts as kept. */
void whit_linear_back_cpu(float *dx, const float *dy, int64_t T, const whit_mat *w);
void whit_linear_back_fast_cpu(float *dx, const float *dy, int64_t T, const whit_mat *w, whit_arena *scratch);
WHIT_DEVICE void whit_linear_back_cuda(whit_dev *d, float *dx, const float *dy, int64_t T, const whit_mat *w);
/* dw (rows, cols) += dy^T x, dbias (rows) += column sums of dy; dw or dbias NULL: not wanted. */
void whit_linear_grad_cpu(float *dw, float *dbias, const float *dy, const float *x, int64_t T, int64_t rows,
                          int64_t cols);
void whit_linear_grad_fast_cpu(float *dw, float *dbias, const float *dy, const float *x, int64_t T, int64_t rows,
                               int64_t cols, whit_arena *scratch);
WHIT_DEVICE void whit_linear_grad_cuda(whit_dev *d, float *dw, float *dbias, const float *dy, const float *x, int64_t T,
                                       int64_t rows, int64_t cols);

void whit_conv_back_cpu(float *dx, float *dw, const float *dy, const float *x, const float *w, int64_t T,
                        int64_t channels, int64_t taps);
/* Scratch: (T, 256) for each thread. */
void whit_conv_back_fast_cpu(float *dx, float *dw, const float *dy, const float *x, const float *w, int64_t T,
                             int64_t channels, int64_t taps, whit_arena *scratch);
/* Scratch: (T, channels), and (T/64, channels, taps). */
WHIT_DEVICE void whit_conv_back_cuda(whit_dev *dev, float *dx, float *dw, const float *dy, const float *x,
                                     const float *w, const whit_spans *b, int64_t channels, int64_t taps);

/* By the members of whit_delta with the same names; drate is that of what the weight holds (rate_done or not). */
typedef struct whit_delta_grad {
	float *qkv, *beta, *alpha, *rate, *dt_bias;
} whit_delta_grad;
void whit_delta_back_cpu(const whit_delta_grad *g, const float *dy, const whit_delta *d, int64_t T);
/* Chunks, as forward, from states kept in front of each. Scratch for each thread: 15 (64, dim), 7 (64, 64), (dim, dim),
 * and for each v head of a k head T/64 + 2 (dim, dim). */
void whit_delta_back_fast_cpu(const whit_delta_grad *g, const float *dy, const whit_delta *d, int64_t T,
                              whit_arena *scratch);
/* Scratch: for every v head (T, 2, dim), T/64 + n_seq (dim, dim), and for each of some 2 blocks a multiprocessor
 * (dim, dim), 11 (64, dim), 7 (64, 64). */
WHIT_DEVICE void whit_delta_back_cuda(whit_dev *dev, const whit_delta_grad *g, const float *dy, const whit_delta *d,
                                      const whit_spans *b);

/* Cross entropy in nats: loss[t] = ln sum exp(z_t) - z_t[target[t]]; dz (T, vocab) = softmax(z) - [target], written,
 * not added; dz == z allowed. target[t] -1: loss 0, dz 0. Sums in double. */
void whit_xent_cpu(double *loss, float *dz, const float *z, const int32_t *target, int64_t T, int64_t vocab);
void whit_xent_fast_cpu(double *loss, float *dz, const float *z, const int32_t *target, int64_t T, int64_t vocab);
WHIT_DEVICE void whit_xent_cuda(whit_dev *d, double *loss, float *dz, const float *z, const int32_t *target, int64_t T,
                                int64_t vocab);
/* KL divergence of softmax(z_t) from the teacher's, nats: loss[t] = sum P ln(P / Q); dz (T, vocab) = Q - P, written;
 * dz == z allowed. Sums in double. */
void whit_kl_cpu(double *loss, float *dz, const float *z, const float *teacher, int64_t T, int64_t vocab);
void whit_kl_fast_cpu(double *loss, float *dz, const float *z, const float *teacher, int64_t T, int64_t vocab);
/* out[t] = the first token whose cumulated softmax of z_t exceeds u[t], in [0, 1): a draw from the model;
 * u[t] < 0: -1. */
void whit_draw_cpu(int32_t *out, const float *z, const double *u, int64_t T, int64_t vocab);
WHIT_DEVICE void whit_draw_cuda(whit_dev *d, int32_t *out, const float *z, const double *u, int64_t T, int64_t vocab);

/* ---- sums that statistics are made of (calib/stats.h) ----
 * Added to what is there unless said. On a device the same bits as on the CPU, but for gram. Their order, on every
 * device: a column is added up row after row in pieces of WHIT_SUM_ROWS rows, a row in spans of WHIT_SUM_COLS columns
 * (within one, column j in lane j % 32 of a warp, lanes by halves), and pieces or spans are added one after another to
 * what is there. */
enum { WHIT_SUM_ROWS = 64, WHIT_SUM_COLS = 128 };

/* sum[j] += sum_t x[t][j], sq[j] += sum_t weight[t] x[t][j]^2 over x (T, cols), in double; sum or sq NULL: not wanted,
 * weight NULL: 1. A device takes scratch, as it does for square sums. */
void whit_column_sums_cpu(double *sum, double *sq, const float *x, const double *weight, int64_t T, int64_t cols);
WHIT_DEVICE void whit_column_sums_cuda(whit_dev *d, double *sum, double *sq, const float *x, const double *weight,
                                       int64_t T, int64_t cols);
/* Per column of x (T, cols): sum += |x|, most = the largest |x| and what it was; on the host alone. */
void whit_column_sizes_cpu(double *sum, double *most, const float *x, int64_t T, int64_t cols);
/* n[t] = sum_j x[t * ld + j]^2, j < cols, written. */
void whit_row_squares_cpu(double *n, const float *x, int64_t T, int64_t cols, int64_t ld);
WHIT_DEVICE void whit_row_squares_cuda(whit_dev *d, double *n, const float *x, int64_t T, int64_t cols, int64_t ld);
/* Of g (rows, cols): full (rows, cols) += g^2 in float, row (rows) and col (cols) += its sums over rows and columns in
 * double, square by square; each NULL: not wanted. */
void whit_square_sums_cpu(float *full, double *row, double *col, const float *g, int64_t rows, int64_t cols);
WHIT_DEVICE void whit_square_sums_cuda(whit_dev *d, float *full, double *row, double *col, const float *g, int64_t rows,
                                       int64_t cols);
/* y[t][j] = x[t][j] w[t], and, w NULL, x[t][j]^2; (T, cols). y == x allowed. */
void whit_rows_scale_cpu(float *y, const float *x, const double *w, int64_t T, int64_t cols);
WHIT_DEVICE void whit_rows_scale_cuda(whit_dev *d, float *y, const float *x, const double *w, int64_t T, int64_t cols);
/* h (n, n) += x^T x over x (T, n): in fast and on a device the upper triangle and a little left of it, which
 * whit_gram_mirror copies down. A device cuts x, scaled by a power of two, into two F16 terms, of whose products it
 * leaves out the smallest (cuda/sums.cu says what that costs: less than FP32's own sums); plain: in FP32. */
void whit_gram_cpu(float *h, const float *x, int64_t T, int64_t n);
void whit_gram_fast_cpu(float *h, const float *x, int64_t T, int64_t n, whit_arena *scratch);
WHIT_DEVICE void whit_gram_cuda(whit_dev *d, float *h, const float *x, int64_t T, int64_t n);
void whit_gram_mirror_cpu(float *h, int64_t n);
WHIT_DEVICE void whit_gram_mirror_cuda(whit_dev *d, float *h, int64_t n);
/* Tokens of a piece: sums in a tensor core's own accumulators stay short, and scratch (8 bytes a value) below 256 MB.
 */
static inline int64_t whit_gram_piece(int64_t T, int64_t n) {
	return WHIT_MIN(T, WHIT_MIN(2048, WHIT_MAX(((int64_t)1 << 25) / WHIT_MAX(n, 1), 64)));
}

/* ---- rounding with feedback: a device's part of calib/feedback.h, whose loops on the CPU are its own ---- */

/* Rounds columns [from, to) of rows in turn: k = the level nearest to v / scale (formats/unit.h), q = scale * level[k],
 * err = (v - q) / u[j][j], loss += err^2; columns up to `end` behind it get v += -err * u[j][.], and v_j * pass[j][.]
 * unless pass is NULL. err holds what columns handed on (-err), v what each was rounded from. turn not NULL: a trial,
 * which writes v of its columns there (rows, to - from) and loss, and nothing else. end - from is at most
 * WHIT_COLUMNS_MOST. All device memory. */
enum { WHIT_COLUMNS_MOST = 256 };
typedef struct whit_columns {
	float *v, *err, *turn; /* (rows, n) */
	uint8_t *level;        /* (rows, n) */
	double *loss;          /* (rows); added to, in a trial written */
	const float *scale;    /* (rows) */
	const float *u, *pass; /* (n, n) */
	const float *table;    /* levels, then the boundaries between them: count each */
	int count, even;       /* level[k] = level[0] + k */
	int64_t rows, n, from, to, end;
} whit_columns;
WHIT_DEVICE void whit_columns_cuda(whit_dev *d, const whit_columns *a);
/* to (rows, size) = the first `size` columns of from (rows, n). */
WHIT_DEVICE void whit_columns_take_cuda(whit_dev *d, float *to, const float *from, int64_t rows, int64_t n,
                                        int64_t size);
/* best[r] = the scale (F16 or F32) at scales + r row_bytes where loss[r] < least[r], which becomes it; loss NULL: all.
 */
WHIT_DEVICE void whit_columns_better_cuda(whit_dev *d, float *best, double *least, const uint8_t *scales,
                                          int64_t row_bytes, int f32, const double *loss, int64_t rows);
/* Stores s[r] there. */
WHIT_DEVICE void whit_columns_scale_cuda(whit_dev *d, uint8_t *scales, int64_t row_bytes, int f32, const float *s,
                                         int64_t rows);
/* codes (rows, (n bits + 7) / 8) = level ^ flip of (rows, n), as codes.h has them. */
WHIT_DEVICE void whit_columns_pack_cuda(whit_dev *d, uint8_t *codes, const uint8_t *level, int64_t rows, int64_t n,
                                        int bits, int flip);
/* y (rows, n) = scale[r][c / unit] level[k] of the levels k (rows, n), scale (rows, n / unit). */
WHIT_DEVICE void whit_columns_values_cuda(whit_dev *d, float *y, const uint8_t *k, const float *scale,
                                          const float *level, int64_t rows, int64_t n, int64_t unit);
/* y = a - b, n values; y may be a or b. */
WHIT_DEVICE void whit_subtract_cuda(whit_dev *d, float *y, const float *a, const float *b, int64_t n);
/* Around the factors of calib/feedback_make.c, (n, n) in double; J turns the order of rows, or columns, round.
 * a = J a J + more I. */
WHIT_DEVICE void whit_turn_cuda(whit_dev *d, double *a, int64_t n, double more);
/* to = the upper triangle of J a J, zeros below it. */
WHIT_DEVICE void whit_upper_cuda(whit_dev *d, float *to, const double *a, int64_t n);
/* The diagonal and what is below it become zero. */
WHIT_DEVICE void whit_strict_cuda(whit_dev *d, double *a, int64_t n);
/* to = a by, n values. */
WHIT_DEVICE void whit_floats_cuda(whit_dev *d, float *to, const double *a, int64_t n, double by);

/* ---- k-means with a weight for each coordinate (Lloyd 1982; fabq.md 2.5) ----
 * On a device the same bits as on the CPU. x, w (n, dim), w NULL: 1; c (k, dim), k > 0; all finite. */

/* nearest[i] = the m of the least sum_j w[i][j] (x[i][j] - c[m][j])^2, the lowest of equals; distance[i] = that sum, in
 * float. */
void whit_kmeans_assign_cpu(int32_t *nearest, float *distance, const float *x, const float *w, const float *c,
                            int64_t n, int64_t dim, int k);
/* dim above 512, or plain: from memory. Else tensor cores tell which centroids may be nearest, and those alone are
 * measured; all of them where k < 8, weights differ within a point, or anything is beyond what has a bound
 * (cuda/kmeans.cu). Numbers that are not finite end as on the CPU. Scratch: 6 k' dim' + 8 k' + 4 dim' bytes and a few,
 * of k and dim rounded up to 32 or 128. */
WHIT_DEVICE void whit_kmeans_assign_cuda(whit_dev *d, int32_t *nearest, float *distance, const float *x, const float *w,
                                         const float *c, int64_t n, int64_t dim, int k);
/* sum, weight (k, dim), written: those of w x and w over the points of each cluster, in double, piece after piece of
 * whit_kmeans_piece points. Scratch on a device: 2 k 2^14 doubles at most. */
void whit_kmeans_sums_cpu(double *sum, double *weight, const int32_t *nearest, const float *x, const float *w,
                          int64_t n, int64_t dim, int k);
WHIT_DEVICE void whit_kmeans_sums_cuda(whit_dev *d, double *sum, double *weight, const int32_t *nearest, const float *x,
                                       const float *w, int64_t n, int64_t dim, int k);
static inline int64_t whit_kmeans_piece(int64_t n, int64_t dim) {
	int64_t pieces = WHIT_MAX((1 << 14) / (dim + 1), 1);
	return WHIT_MAX((n + pieces - 1) / pieces, 64);
}

/* ---- codebooks of one dimension (Lloyd 1982; Max 1960) ----
 * For each row of x (rows, n), with the weights w (rows, n; NULL: 1): level (rows, k), ascending, and loss (rows) = the
 * sum of w (x - level)^2 at each value's nearest level, a tie at the lower. exact: the least there is, by dynamic
 * programming in O(k n log n), up to rounding: k (n / 256 + 16) 2^-50 of (sum w) max (x - middle)^2, middle = the value
 * in the middle of the row, which is taken off for the sake of that; else from runs of equal weight by steps of O(k log
 * n) until no boundary moves, WHIT_LLOYD_STEPS at most; a level that loses its values stays. Either way: of no more
 * different values than k all are levels, and the loss is 0. Equal levels are at the end alone, the last one repeated.
 * Values of weight 0 do not count; where none does (or n is 0) levels and loss are 0. x and w finite, w >= 0, k in [1,
 * WHIT_LLOYD_LEVELS], n < 2^31. Memory for each thread: 48 n bytes, exact 4 k n more. On a device the same bits as on
 * the CPU; n up to WHIT_LLOYD_MOST, else WHIT_EUSAGE. Scratch: exact, for two blocks a multiprocessor or fewer rows,
 * (40 + 2 k) (n + 1) bytes each. */
enum { WHIT_LLOYD_STEPS = 100, WHIT_LLOYD_LEVELS = 256, WHIT_LLOYD_MOST = 8192 };
void whit_lloyd_cpu(float *level, double *loss, const float *x, const float *w, int64_t rows, int64_t n, int k,
                    int exact);
WHIT_DEVICE void whit_lloyd_cuda(whit_dev *d, float *level, double *loss, const float *x, const float *w, int64_t rows,
                                 int64_t n, int k, int exact);

/* ---- on a device alone: what becomes of logits and hidden states (the CPU's: eval/metrics.c, engine.c) ---- */

/* Of one row, over the whole vocabulary; what a whit_point (eval/metrics.h) is made of. ln P = x - max_p - ln_p. */
enum { WHIT_LOGIT_TOP = 5 };
typedef struct whit_logit_sums {
	double max_p, ln_p, max_q, ln_q; /* the largest logit, and ln sum exp(x - max) */
	double kld, rev, llama, pq, pp,
	        qq;               /* sum P ln(P/Q), sum Q ln(Q/P), the first where ln P > -16; of raw logits */
	int64_t bad_p, bad_q;     /* index of the first NaN or Inf, -1 = none; then the rest says nothing */
	float p_target, q_target; /* logits of the target */
	int32_t top_p[WHIT_LOGIT_TOP],
	        top_q[WHIT_LOGIT_TOP]; /* largest first, lowest index on ties; below five: -1 - k */
} whit_logit_sums;
/* out (rows) of logits p and q (rows, vocab) and targets (rows, each in [0, vocab)); q NULL: what is Q's stays 0. Sums
 * in double: of n terms within (n + 8) 2^-52 of the sum of magnitudes. Equal rows give kld exactly 0. */
WHIT_DEVICE void whit_logits_measure_cuda(whit_dev *d, whit_logit_sums *out, const float *p, const float *q,
                                          int64_t rows, int64_t vocab, const int32_t *target);
/* Index of each row's largest logit, lowest on ties, and of its first NaN or Inf, or -1. Scratch: a few bytes a slice.
 */
WHIT_DEVICE void whit_argmax_cuda(whit_dev *d, int32_t *out, int64_t *bad, const float *x, int64_t rows, int64_t vocab);
/* y[i] = row row[i] of x, n of them. */
WHIT_DEVICE void whit_rows_gather_cuda(whit_dev *d, float *y, const float *x, const int64_t *row, int64_t n,
                                       int64_t width);
/* sum (4): |p - q|^2, |p|^2, |q|^2, <p, q> over all of p and q (rows, width), in double. */
WHIT_DEVICE void whit_rows_compare_cuda(whit_dev *d, double *sum, const float *p, const float *q, int64_t rows,
                                        int64_t width);
#endif
