/* delta: the fast twins, in float. Many tokens: chunks of them as matrix products; few: one by one.
 *
 * Inside a chunk (Yang et al. 2024, eq. 11 and on), G_i the sum of ln decay up to token i, D_ij = exp(G_i - G_j),
 * j <= i, and S the state in front of it:
 *	e_i = v_i - exp(G_i) S^T k_i - sum_{j<i} B_ij u_j,  u_i = beta_i e_i,  B_ij = D_ij k_i.k_j
 *	y_i = exp(G_i) S^T q_i + sum_{j<=i} A_ij u_j,                          A_ij = D_ij q_i.k_j
 *	S behind it = exp(G_n) S + sum_j D_nj k_j u_j^T
 * No exponent is above 0 where no decay is above 1: nothing overflows, and what underflows is lost in the sums. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

enum { CHUNK = 64, MANY = 4 }; /* tokens of a chunk, and from which chunks pay */

typedef struct delta_job {
	const whit_delta *d;
	int64_t T;
	float *y, *state; /* of the forward */
	const whit_delta_grad *g;
	const float *dy;
	float *room; /* room_size floats for each worker */
	int64_t room_size;
	const whit_vec *v;
} delta_job;

static int64_t group_of(const whit_delta *d) { return d->v_heads / d->k_heads; }
static int64_t width_of(const whit_delta *d) { return (2 * d->k_heads + d->v_heads) * d->dim; }
/* The i-th of the v heads that read k head kh. */
static int64_t v_head(const whit_delta *d, int64_t kh, int64_t i) {
	return d->tiled ? i * d->k_heads + kh : kh * group_of(d) + i;
}

/* Scalars of a token and v head: few, so in double. */
typedef struct gates {
	double log_decay, beta, rate, soft, slope; /* ln decay = rate * soft; slope of soft by alpha */
} gates;
static gates gates_of(const whit_delta *d, int64_t t, int64_t h) {
	double a = (double)d->alpha[t * d->v_heads + h] + d->dt_bias[h], near = exp(-fabs(a));
	gates g = {.rate = d->rate_done ? d->rate[h] : -exp((double)d->rate[h])};
	g.beta = 1 / (1 + exp(-(double)d->beta[t * d->v_heads + h]));
	g.soft = (a > 0 ? a : 0) + log1p(near);
	g.slope = (a > 0 ? 1 : near) / (1 + near);
	g.log_decay = g.rate * g.soft;
	return g;
}

static float inverse_length(const whit_vec *v, const float *x, int64_t dim) {
	return 1 / sqrtf(v->sumsq(x, dim) + 1e-6f);
}

static void scaled(float *y, const float *x, float s, int64_t n) {
	for (int64_t i = 0; i < n; i++) y[i] = x[i] * s;
}

/* ---- few tokens ---- */

/* A v head: S^T k and S^T q are read off the state in one go, then it is written. room: k, q, S^T k, S^T q, S. */
static void delta_tokens(void *ctx, int64_t h, int worker) {
	const delta_job *j = ctx;
	const whit_delta *d = j->d;
	int64_t dim = d->dim, kw = d->k_heads * dim, kh = d->tiled ? h % d->k_heads : h / group_of(d);
	float *k = j->room + worker * j->room_size, *q = k + dim, *sk = q + dim, *sq = sk + dim, *S = sq + dim, kq;
	if (j->state)
		S = j->state + h * dim * dim;
	else
		memset(S, 0, (size_t)(dim * dim) * sizeof *S);
	for (int64_t t = 0; t < j->T; t++) {
		const float *row = d->qkv + t * width_of(d), *x = row + kh * dim, *v = row + 2 * kw + h * dim;
		float *y = j->y + (t * d->v_heads + h) * dim;
		gates g = gates_of(d, t, h);
		float decay = (float)exp(g.log_decay), beta = (float)g.beta;
		scaled(k, x + kw, inverse_length(j->v, x + kw, dim), dim);
		scaled(q, x, inverse_length(j->v, x, dim) / sqrtf((float)dim), dim);
		j->v->pv(sk, k, S, dim, dim, dim);
		j->v->pv(sq, q, S, dim, dim, dim);
		j->v->qk(&kq, q, k, dim, 1, dim, 1);
		for (int64_t i = 0; i < dim; i++) {
			sk[i] = beta * (v[i] - decay * sk[i]);
			y[i] = decay * sq[i] + kq * sk[i];
		}
		j->v->outer(S, decay, k, sk, dim, dim);
	}
}

/* ---- chunks ---- */

/* n tokens from t0, of one k head and one after the other of its v heads. Square matrices have rows of CHUNK. */
typedef struct chunk {
	int64_t t0, n;
	float *kq;                      /* (2n, dim): keys, then queries, of length 1 and 1 / sqrt(dim) */
	float *kt;                      /* (dim, CHUNK): keys, turned */
	float *dots;                    /* (2n, CHUNK): k_i.k_j, then q_i.k_j */
	float *decay, *A, *B;           /* (n, CHUNK): D, A, B, zeros above the diagonal, of B on it too */
	float *read;                    /* (2n, dim): S^T k_i, then S^T q_i */
	float *e, *u;                   /* (n, dim) */
	float *kend;                    /* (n, dim): D_nj k_j */
	float *row;                     /* (dim) */
	float from[CHUNK], beta[CHUNK]; /* exp(G_i) */
} chunk;

static int64_t chunk_floats(int64_t dim) { return 8 * CHUNK * dim + 5 * CHUNK * CHUNK + dim; }

/* The arrays of c out of p; returns what follows them. */
static float *chunk_place(chunk *c, float *p, int64_t dim) {
	int64_t m = CHUNK * dim, sq = CHUNK * CHUNK;
	c->kq = p, c->kt = p += 2 * m, c->read = p += m, c->e = p += 2 * m, c->u = p += m, c->kend = p += m;
	c->dots = p += m, c->decay = p += 2 * sq, c->A = p += sq, c->B = p += sq, c->row = p += sq;
	return p + dim;
}

/* What the v heads of a k head share. */
static void chunk_keys(chunk *c, const delta_job *j, int64_t kh, int64_t t0) {
	const whit_delta *d = j->d;
	int64_t dim = d->dim, kw = d->k_heads * dim, n = c->n = WHIT_MIN(CHUNK, j->T - t0);
	c->t0 = t0;
	for (int64_t i = 0; i < n; i++) {
		const float *q = d->qkv + (t0 + i) * width_of(d) + kh * dim, *k = q + kw;
		scaled(c->kq + i * dim, k, inverse_length(j->v, k, dim), dim);
		scaled(c->kq + (n + i) * dim, q, inverse_length(j->v, q, dim) / sqrtf((float)dim), dim);
		for (int64_t x = 0; x < dim; x++) c->kt[x * CHUNK + i] = c->kq[i * dim + x];
	}
	j->v->gemm(2 * n, n, dim, c->kq, dim, 1, c->kt, CHUNK, c->dots, CHUNK, 0);
}

/* Decays, differences of sums in double: of large ones floats would leave nothing. */
static void chunk_gates(chunk *c, const whit_delta *d, int64_t h) {
	int64_t n = c->n, dim = d->dim;
	double G[CHUNK], sum = 0;
	for (int64_t i = 0; i < n; i++) {
		gates g = gates_of(d, c->t0 + i, h);
		G[i] = sum += g.log_decay;
		c->from[i] = (float)exp(sum), c->beta[i] = (float)g.beta;
		float *D = c->decay + i * CHUNK, *A = c->A + i * CHUNK, *B = c->B + i * CHUNK;
		for (int64_t k = 0; k < n; k++) {
			D[k] = k < i ? expf((float)(sum - G[k])) : k == i;
			A[k] = k <= i ? D[k] * c->dots[(n + i) * CHUNK + k] : 0;
			B[k] = k < i ? D[k] * c->dots[i * CHUNK + k] : 0;
		}
	}
	for (int64_t i = 0; i < n; i++) scaled(c->kend + i * dim, c->kq + i * dim, c->decay[(n - 1) * CHUNK + i], dim);
}

/* e and u of v head h behind the state S (dim, dim). */
static void chunk_solve(chunk *c, const delta_job *j, int64_t h, const float *S) {
	const whit_delta *d = j->d;
	int64_t dim = d->dim, n = c->n;
	j->v->gemm(2 * n, dim, dim, c->kq, dim, 1, S, dim, c->read, dim, 0);
	for (int64_t i = 0; i < n; i++) {
		const float *v = d->qkv + (c->t0 + i) * width_of(d) + (2 * d->k_heads + h) * dim;
		float *e = c->e + i * dim, *u = c->u + i * dim;
		j->v->pv(c->row, c->B + i * CHUNK, c->u, dim, i, dim);
		for (int64_t x = 0; x < dim; x++) {
			e[x] = v[x] - c->from[i] * c->read[i * dim + x] - c->row[x];
			u[x] = c->beta[i] * e[x];
		}
	}
}

static void chunk_output(const chunk *c, const delta_job *j, int64_t h) {
	int64_t dim = j->d->dim, n = c->n, ld = j->d->v_heads * dim;
	float *y = j->y + c->t0 * ld + h * dim;
	for (int64_t i = 0; i < n; i++) scaled(y + i * ld, c->read + (n + i) * dim, c->from[i], dim);
	j->v->gemm(n, dim, n, c->A, CHUNK, 1, c->u, dim, y, ld, 1);
}

/* to = the state behind the chunk; to == S allowed. */
static void chunk_state(const chunk *c, const whit_vec *v, float *to, const float *S, int64_t dim) {
	scaled(to, S, c->from[c->n - 1], dim * dim);
	v->gemm(dim, dim, c->n, c->kend, 1, dim, c->u, dim, to, dim, 1);
}

/* A k head with its v heads: their states (group, dim, dim) stand in the room where none are kept. */
static void delta_chunks(void *ctx, int64_t kh, int worker) {
	const delta_job *j = ctx;
	const whit_delta *d = j->d;
	int64_t n = d->dim * d->dim, group = group_of(d);
	chunk c;
	float *own = chunk_place(&c, j->room + worker * j->room_size, d->dim);
	if (!j->state) memset(own, 0, (size_t)(group * n) * sizeof *own);
	for (int64_t t0 = 0; t0 < j->T; t0 += CHUNK) {
		chunk_keys(&c, j, kh, t0);
		for (int64_t i = 0; i < group; i++) {
			int64_t h = v_head(d, kh, i);
			float *S = j->state ? j->state + h * n : own + i * n;
			chunk_gates(&c, d, h);
			chunk_solve(&c, j, h, S);
			chunk_output(&c, j, h);
			chunk_state(&c, j->v, S, S, d->dim);
		}
	}
}

void whit_delta_fast_cpu(float *y, const whit_delta *d, float *state, int64_t T, whit_arena *scratch) {
	int64_t dim = d->dim, group = group_of(d);
	delta_job j = {.d = d, .T = T, .y = y, .state = state, .v = whit_vec_get()};
	j.room_size = T >= MANY ? chunk_floats(dim) + group * dim * dim : 4 * dim + dim * dim;
	j.room = whit_take(scratch, j.room_size * whit_threads());
	if (T >= MANY)
		whit_items(d->k_heads, T * group * dim * (8 * dim + 6 * CHUNK), delta_chunks, &j);
	else
		whit_items(d->v_heads, T * dim * dim * 8, delta_tokens, &j);
}

/* ---- gradient ---- */

/* Beside a chunk, its way back. */
typedef struct chunk_back {
	float *dkq;         /* (2n, dim): by keys and queries, sums over the v heads */
	float *du;          /* (n, dim): by u, from the last row on by e */
	float *ut, *turned; /* (dim, CHUNK), (dim, dim): u and a state, turned */
	float *dread;       /* (2n, dim): by S^T k_i, S^T q_i */
	float *dkend;       /* (n, dim) */
	float *dA, *dB;     /* (n, CHUNK) */
	double sums[CHUNK]; /* by G_i */
} chunk_back;

static int64_t back_floats(int64_t dim) { return 7 * CHUNK * dim + dim * dim + 2 * CHUNK * CHUNK; }

static float *back_place(chunk_back *b, float *p, int64_t dim) {
	int64_t m = CHUNK * dim;
	b->dkq = p, b->du = p += 2 * m, b->ut = p += m, b->dread = p += m, b->dkend = p += 2 * m, b->turned = p += m;
	b->dA = p += dim * dim, b->dB = p += CHUNK * CHUNK;
	return p + CHUNK * CHUNK;
}

static void turn(float *to, int64_t ld, const float *x, int64_t rows, int64_t cols) {
	for (int64_t i = 0; i < rows; i++)
		for (int64_t k = 0; k < cols; k++) to[k * ld + i] = x[i * cols + k];
}

static double dot(const whit_vec *v, const float *a, const float *b, int64_t n) {
	float s;
	v->qk(&s, a, b, n, 1, n, 1);
	return s;
}

/* du, then de in its place, and by beta; dS is the gradient by the state behind the chunk. */
static void back_solve(chunk_back *b, const chunk *c, const delta_job *j, const float *dy, const float *dS,
                       double *dbeta) {
	int64_t dim = j->d->dim, n = c->n, ld = j->d->v_heads * dim;
	float col[CHUNK];
	j->v->gemm(n, dim, n, c->A, 1, CHUNK, dy, ld, b->du, dim, 0);
	j->v->gemm(n, dim, dim, c->kend, dim, 1, dS, dim, b->du, dim, 1);
	for (int64_t i = n - 1; i >= 0; i--) {
		float *du = b->du + i * dim;
		for (int64_t k = i + 1; k < n; k++) col[k] = c->B[k * CHUNK + i];
		j->v->pv(c->row, col + i + 1, du + dim, dim, n - 1 - i, dim);
		for (int64_t x = 0; x < dim; x++) du[x] -= c->row[x];
		dbeta[i] = dot(j->v, du, c->e + i * dim, dim);
		scaled(du, du, c->beta[i], dim);
	}
}

/* Through A and B to keys, queries and decays. What a pair adds to one G it takes from the other: sums in double, so
 * that it is gone from all that do not stand between the two. */
static void back_pairs(chunk_back *b, const chunk *c, const delta_job *j, const float *dy) {
	int64_t dim = j->d->dim, n = c->n, ld = j->d->v_heads * dim;
	const float *k = c->kq, *q = k + n * dim;
	float *dk = b->dkq, *dq = dk + n * dim;
	turn(b->ut, CHUNK, c->u, n, dim);
	j->v->gemm(n, n, dim, dy, ld, 1, b->ut, CHUNK, b->dA, CHUNK, 0);
	j->v->gemm(n, n, dim, b->du, dim, 1, b->ut, CHUNK, b->dB, CHUNK, 0);
	for (int64_t i = 0; i < n; i++) {
		for (int64_t s = 0; s < n; s++) {
			int64_t at = i * CHUNK + s;
			double x = (double)b->dA[at] * c->A[at] - (double)b->dB[at] * c->B[at];
			if (s < i) b->sums[i] += x, b->sums[s] -= x;
			b->dA[at] = s <= i ? b->dA[at] * c->decay[at] : 0;
			b->dB[at] = s < i ? -b->dB[at] * c->decay[at] : 0;
		}
	}
	j->v->gemm(n, dim, n, b->dA, CHUNK, 1, k, dim, dq, dim, 1);
	j->v->gemm(n, dim, n, b->dA, 1, CHUNK, q, dim, dk, dim, 1);
	j->v->gemm(n, dim, n, b->dB, CHUNK, 1, k, dim, dk, dim, 1);
	j->v->gemm(n, dim, n, b->dB, 1, CHUNK, k, dim, dk, dim, 1);
}

/* Through the states; dS becomes the gradient by the one in front of the chunk, S. */
static void back_states(chunk_back *b, const chunk *c, const delta_job *j, const float *dy, const float *S, float *dS) {
	int64_t dim = j->d->dim, n = c->n, ld = j->d->v_heads * dim;
	turn(b->turned, dim, dS, dim, dim);
	j->v->gemm(n, dim, dim, c->u, dim, 1, b->turned, dim, b->dkend, dim, 0);
	for (int64_t i = 0; i < n; i++) {
		double x = dot(j->v, b->dkend + i * dim, c->kend + i * dim, dim);
		float D = c->decay[(n - 1) * CHUNK + i];
		b->sums[n - 1] += x, b->sums[i] -= x;
		for (int64_t k = 0; k < dim; k++) b->dkq[i * dim + k] += D * b->dkend[i * dim + k];
		scaled(b->dread + i * dim, b->du + i * dim, -c->from[i], dim);
		scaled(b->dread + (n + i) * dim, dy + i * ld, c->from[i], dim);
		b->sums[i] += dot(j->v, b->dread + i * dim, c->read + i * dim, dim) +
		              dot(j->v, b->dread + (n + i) * dim, c->read + (n + i) * dim, dim);
	}
	for (int64_t i = 0; i < dim; i++) b->sums[n - 1] += c->from[n - 1] * dot(j->v, dS + i * dim, S + i * dim, dim);
	turn(b->turned, dim, S, dim, dim);
	j->v->gemm(2 * n, dim, dim, b->dread, dim, 1, b->turned, dim, b->dkq, dim, 1);
	scaled(dS, dS, c->from[n - 1], dim * dim);
	j->v->gemm(dim, dim, 2 * n, c->kq, 1, dim, b->dread, dim, dS, dim, 1);
}

/* What v head h has of its own; a token's ln decay is in G of it and of all behind it. sums: by rate and dt_bias. */
static void back_head(const chunk_back *b, const chunk *c, const delta_job *j, int64_t h, const double *dbeta,
                      double *sums) {
	const whit_delta *d = j->d;
	const whit_delta_grad *g = j->g;
	int64_t dim = d->dim;
	double later = 0;
	for (int64_t i = c->n - 1; i >= 0; i--) {
		int64_t t = c->t0 + i, at = t * d->v_heads + h;
		float *dv = g->qkv ? g->qkv + t * width_of(d) + (2 * d->k_heads + h) * dim : NULL;
		gates p = gates_of(d, t, h);
		later += b->sums[i];
		for (int64_t k = 0; dv && k < dim; k++) dv[k] += b->du[i * dim + k];
		if (g->beta) g->beta[at] += (float)(dbeta[i] * p.beta / (1 + exp((double)d->beta[at])));
		if (g->alpha) g->alpha[at] += (float)(later * p.rate * p.slope);
		sums[0] += later * p.soft * (d->rate_done ? 1 : p.rate);
		sums[1] += later * p.rate * p.slope;
	}
}

/* dx += the gradient by x from that by unit = x n scale; x = unit / (n scale). */
static void length_back(const whit_vec *v, float *dx, const float *dunit, const float *x, float scale, int64_t dim) {
	float n = inverse_length(v, x, dim), along = (float)dot(v, dunit, x, dim) * n * n;
	for (int64_t i = 0; i < dim; i++) dx[i] += scale * n * (dunit[i] - x[i] * along);
}

static void back_keys(const chunk_back *b, const chunk *c, const delta_job *j, int64_t kh) {
	const whit_delta *d = j->d;
	int64_t dim = d->dim, kw = d->k_heads * dim;
	for (int64_t i = 0; j->g->qkv && i < c->n; i++) {
		int64_t at = (c->t0 + i) * width_of(d) + kh * dim;
		length_back(j->v, j->g->qkv + at + kw, b->dkq + i * dim, d->qkv + at + kw, 1, dim);
		length_back(j->v, j->g->qkv + at, b->dkq + (c->n + i) * dim, d->qkv + at, 1 / sqrtf((float)dim), dim);
	}
}

/* A k head with its v heads: forward, states kept in front of each chunk, S (chunks, group, dim, dim); then back. */
static void delta_back_item(void *ctx, int64_t kh, int worker) {
	const delta_job *j = ctx;
	const whit_delta *d = j->d;
	int64_t dim = d->dim, n = dim * dim, group = group_of(d), chunks = (j->T + CHUNK - 1) / CHUNK;
	chunk c;
	chunk_back b;
	double *sums = whit_alloc((size_t)(2 * group + CHUNK) * sizeof *sums), *dbeta = sums + 2 * group;
	float *dS = back_place(&b, chunk_place(&c, j->room + worker * j->room_size, dim), dim), *S = dS + group * n;
	memset(dS, 0, (size_t)(2 * group * n) * sizeof *dS);
	for (int64_t k = 0; k < chunks - 1; k++) {
		chunk_keys(&c, j, kh, k * CHUNK);
		for (int64_t i = 0; i < group; i++) {
			const float *before = S + (k * group + i) * n;
			chunk_gates(&c, d, v_head(d, kh, i));
			chunk_solve(&c, j, v_head(d, kh, i), before);
			chunk_state(&c, j->v, S + ((k + 1) * group + i) * n, before, dim);
		}
	}
	for (int64_t k = chunks - 1; k >= 0; k--) {
		chunk_keys(&c, j, kh, k * CHUNK);
		memset(b.dkq, 0, (size_t)(2 * c.n * dim) * sizeof *b.dkq);
		for (int64_t i = 0; i < group; i++) {
			int64_t h = v_head(d, kh, i);
			const float *dy = j->dy + (c.t0 * d->v_heads + h) * dim, *before = S + (k * group + i) * n;
			memset(b.sums, 0, sizeof b.sums);
			chunk_gates(&c, d, h);
			chunk_solve(&c, j, h, before);
			back_solve(&b, &c, j, dy, dS + i * n, dbeta);
			back_pairs(&b, &c, j, dy);
			back_states(&b, &c, j, dy, before, dS + i * n);
			back_head(&b, &c, j, h, dbeta, sums + 2 * i);
		}
		back_keys(&b, &c, j, kh);
	}
	for (int64_t i = 0; i < group; i++) {
		int64_t h = v_head(d, kh, i);
		if (j->g->rate) j->g->rate[h] += (float)sums[2 * i];
		if (j->g->dt_bias) j->g->dt_bias[h] += (float)sums[2 * i + 1];
	}
	whit_free(sums);
}

void whit_delta_back_fast_cpu(const whit_delta_grad *g, const float *dy, const whit_delta *d, int64_t T,
                              whit_arena *scratch) {
	int64_t dim = d->dim, group = group_of(d), chunks = (T + CHUNK - 1) / CHUNK;
	delta_job j = {.d = d, .T = T, .g = g, .dy = dy, .v = whit_vec_get()};
	if (T == 0) return;
	j.room_size = chunk_floats(dim) + back_floats(dim) + (chunks + 1) * group * dim * dim;
	j.room = whit_take(scratch, j.room_size * whit_threads());
	whit_items(d->k_heads, T * group * dim * (24 * dim + 20 * CHUNK), delta_back_item, &j);
}
