/* lloyd: codebooks of one dimension, each row's own. Values are sorted once; then the weight, the weighted sum and that
 * of squares of any run of them are differences of prefix sums, so that a step of Lloyd's costs k searches, and a run
 * of the dynamic program one division. Sums are of x - middle: of x a large common offset would cancel in sum w x^2 -
 * (sum w x)^2 / sum w. Order of sums and searches is that of cuda/lloyd.cu. */
#include <math.h>
#include "host/op_vec.h"
#include "host/ops.h"

enum { PIECE = 8, LANES = 32, THREADS = 256 };

typedef struct points {
	int64_t m;               /* of positive weight */
	float *x, *w;            /* (m), ascending, equal ones as they came */
	double middle, *sums[3]; /* (m + 1): those of w, w d, w d^2 over the first i, d = x - middle */
} points;

/* 1. The values that count, sorted by four passes over the bytes of an order-preserving key. */
static void sort_row(points *p, const float *x, const float *w, int64_t n) {
	uint64_t *key[2] = {whit_alloc((size_t)(2 * n + 1) * sizeof **key)};
	key[1] = key[0] + n;
	for (int64_t i = 0; i < n; i++) {
		float v = x[i] + 0.0f; /* -0 is 0 */
		uint32_t u;
		if (w && !(w[i] > 0)) continue;
		memcpy(&u, &v, 4);
		key[0][p->m++] = (uint64_t)(u >> 31 ? ~u : u | 0x80000000u) << 32 | (uint32_t)i;
	}
	for (int pass = 0; pass < 4; pass++) {
		int64_t start[257] = {0};
		for (int64_t i = 0; i < p->m; i++) start[(key[pass % 2][i] >> (32 + 8 * pass) & 255) + 1]++;
		for (int b = 0; b < 256; b++) start[b + 1] += start[b];
		for (int64_t i = 0; i < p->m; i++) {
			uint64_t v = key[pass % 2][i];
			key[1 - pass % 2][start[v >> (32 + 8 * pass) & 255]++] = v;
		}
	}
	for (int64_t i = 0; i < p->m; i++) {
		uint32_t u = (uint32_t)(key[0][i] >> 32);
		u = u >> 31 ? u & 0x7fffffffu : ~u;
		memcpy(&p->x[i], &u, 4);
		p->w[i] = w ? w[(uint32_t)key[0][i]] : 1;
	}
	whit_free(key[0]);
}

static double term(const points *p, int power, int64_t i) {
	if (i >= p->m) return 0;
	double w = p->w[i], d = p->x[i] - p->middle;
	return power == 0 ? w : power == 1 ? w * d : w * d * d;
}

/* 2. Prefix sums: pieces of 8, a warp's 32 of them as its lanes add, warps one after another. */
static void sum_row(points *p, int power) {
	double before = 0, *sum = p->sums[power];
	for (int64_t first = 0; first <= p->m; first += LANES * PIECE) {
		double lane[LANES] = {0};
		for (int i = 0; i < LANES * PIECE; i++) lane[i / PIECE] += term(p, power, first + i);
		for (int by = 1; by < LANES; by *= 2)
			for (int l = LANES - 1; l >= by; l--) lane[l] += lane[l - by];
		for (int l = 0; l < LANES; l++) {
			double t = before + (l ? lane[l - 1] : 0);
			for (int64_t i = first + l * PIECE; i < first + (l + 1) * PIECE && i <= p->m; i++)
				sum[i] = t, t += term(p, power, i);
		}
		before += lane[LANES - 1];
	}
}

/* The squared error of values [a, b) about their mean; a weight that is lost in its neighbours' counts nothing. */
static double cost(const points *p, int64_t a, int64_t b) {
	double w = p->sums[0][b] - p->sums[0][a], s = p->sums[1][b] - p->sums[1][a],
	       e = p->sums[2][b] - p->sums[2][a] - (w > 0 ? s * s / w : 0);
	return w > 0 && e > 0 ? e : 0;
}

/* The means of runs, never outside them; a run that is empty keeps its level. */
static void levels_of(float *level, const int64_t *bound, int k, const points *p) {
	for (int j = 0; j < k; j++) {
		int64_t a = bound[j], b = bound[j + 1];
		if (a >= b) continue;
		double w = p->sums[0][b] - p->sums[0][a], s = p->sums[1][b] - p->sums[1][a];
		float mean = (float)(p->middle + (w > 0 ? s / w : 0));
		level[j] = mean > p->x[a] ? mean < p->x[b - 1] ? mean : p->x[b - 1] : p->x[a];
	}
}

/* The first value above `than`; the first prefix of a weight `than` or more. */
static int64_t above(const points *p, double than) {
	int64_t lo = 0, hi = p->m;
	while (lo < hi) {
		int64_t i = (lo + hi) / 2;
		if (p->x[i] > than)
			hi = i;
		else
			lo = i + 1;
	}
	return lo;
}
static int64_t quantile(const points *p, double than) {
	int64_t lo = 0, hi = p->m;
	while (lo < hi) {
		int64_t i = (lo + hi) / 2;
		if (p->sums[0][i] >= than)
			hi = i;
		else
			lo = i + 1;
	}
	return lo;
}

/* Runs by the boundaries half way between levels, a tie to the lower one; whether one has moved. */
static int bounds_of(int64_t *bound, const float *level, int k, const points *p) {
	int moved = 0;
	for (int j = 1; j < k; j++) {
		int64_t was = bound[j];
		bound[j] = above(p, ((double)level[j - 1] + level[j]) / 2);
		moved |= bound[j] != was;
	}
	return moved;
}

/* 3a. Lloyd's steps, from runs of equal weight, none of them empty. */
static void steps(float *level, int64_t *bound, int k, const points *p) {
	for (int j = 1; j < k; j++) {
		int64_t q = quantile(p, p->sums[0][p->m] * j / k);
		bound[j] = WHIT_MIN(WHIT_MAX(q, bound[j - 1] + 1), p->m - (k - j));
	}
	levels_of(level, bound, k, p);
	for (int i = 1; i < WHIT_LLOYD_STEPS && bounds_of(bound, level, k, p); i++) levels_of(level, bound, k, p);
}

/* least[i] = the least error of the first i values in j runs, of which the last begins at from[i], the lowest of
 * equals: somewhere in [lo, hi]. */
static void last_run(double *least, int32_t *from, const double *before, int64_t i, int64_t lo, int64_t hi,
                     const points *p) {
	least[i] = INFINITY, from[i] = (int32_t)lo;
	for (int64_t s = lo; s <= hi; s++) {
		double e = before[s] + cost(p, s, i);
		if (e < least[i]) least[i] = e, from[i] = (int32_t)s;
	}
}

/* 3b. The optimum (Wang & Song 2011, eq. 1): begins of last runs rise with i, so those of two neighbours are the limits
 * of all between them. First i = m, then by halving distances. */
static void program(int64_t *bound, int k, const points *p) {
	int64_t m = p->m, top = 1;
	double *least = whit_alloc((size_t)(2 * (m + 1)) * sizeof *least), *before = least + m + 1, *all = least;
	int32_t *froms = whit_alloc((size_t)(k * (m + 1)) * sizeof *froms);
	while (2 * top <= m) top *= 2;
	for (int64_t i = 1; i <= m; i++) least[i] = cost(p, 0, i);
	for (int j = 2; j <= k; j++) {
		int32_t *from = froms + (j - 1) * (m + 1);
		double *t = before;
		before = least, least = t;
		last_run(least, from, before, m, j - 1, m - 1, p);
		for (int64_t h = top; h > 0 && j < k; h /= 2)
			for (int64_t i = h; i < m; i += 2 * h)
				if (i >= j)
					last_run(least, from, before, i, i - h < j ? j - 1 : from[i - h],
					         WHIT_MIN(i - 1, from[WHIT_MIN(i + h, m)]), p);
	}
	for (int j = k - 1; j > 0; j--) bound[j] = froms[j * (m + 1) + bound[j + 1]];
	whit_free(all), whit_free(froms);
}

/* 4. Equal levels once, the last as often as it takes; the error of values at their nearest. */
static double finish(float *level, int64_t *bound, int k, const points *p) {
	double part[THREADS] = {0};
	int held = 1;
	for (int j = 1; j < k; j++)
		if (level[j] != level[held - 1]) level[held++] = level[j];
	for (int j = held; j < k; j++) level[j] = level[held - 1];
	bounds_of(bound, level, k, p);
	for (int64_t i = 0, j = 0; i < p->m; i++) {
		while (bound[j + 1] <= i) j++;
		double d = (double)p->x[i] - level[j];
		part[i % THREADS] += p->w[i] * d * d;
	}
	for (int half = THREADS / 2; half > 0; half /= 2)
		for (int l = 0; l < half; l++) part[l] += part[l + half];
	return part[0];
}

typedef struct job {
	float *level;
	double *loss;
	const float *x, *w;
	int64_t n;
	int k, exact;
} job;

static void row_item(void *ctx, int64_t row, int worker) {
	const job *j = ctx;
	int64_t n = j->n, bound[WHIT_LLOYD_LEVELS + 1] = {0}, distinct = 0;
	float *level = j->level + row * j->k;
	points p = {.x = whit_alloc((size_t)(2 * n + 1) * sizeof *p.x)};
	(void)worker;
	p.w = p.x + n;
	p.sums[0] = whit_alloc((size_t)(3 * (n + 1)) * sizeof **p.sums);
	p.sums[1] = p.sums[0] + n + 1, p.sums[2] = p.sums[1] + n + 1;
	sort_row(&p, j->x + row * n, j->w ? j->w + row * n : NULL, n);
	if (p.m) p.middle = p.x[p.m / 2];
	for (int power = 0; power < 2 + j->exact; power++) sum_row(&p, power);
	for (int64_t i = 0; i < p.m; i++) distinct += i == 0 || p.x[i] != p.x[i - 1];
	memset(level, 0, (size_t)j->k * sizeof *level);
	bound[j->k] = p.m;
	if (distinct <= j->k) {
		int held = 0;
		for (int64_t i = 0; i < p.m; i = above(&p, p.x[i])) level[held++] = p.x[i];
		for (; held && held < j->k; held++) level[held] = level[held - 1];
	} else if (j->exact) {
		program(bound, j->k, &p);
		levels_of(level, bound, j->k, &p);
	} else {
		steps(level, bound, j->k, &p);
	}
	j->loss[row] = finish(level, bound, j->k, &p);
	whit_free(p.x), whit_free(p.sums[0]);
}

void whit_lloyd_cpu(float *level, double *loss, const float *x, const float *w, int64_t rows, int64_t n, int k,
                    int exact) {
	job j = {level, loss, x, w, n, k, exact != 0};
	whit_items(rows, n * (exact ? 16 * k : 64), row_item, &j);
}
