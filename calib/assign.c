/* assign: rows are placed one after the other, each along the cheapest chain of moves: it enters a class, whose row
 * that moves on most cheaply enters another, and so on to a class with room. So the rows placed so far always cost the
 * least that they can (successive shortest paths). Costs are integers, so that sums of them are exact, and no rounding
 * makes a circle of moves look like a gain. */
#include "calib/assign.h"
#include <math.h>

enum { MOST = WHIT_ASSIGN_CLASSES };

typedef struct move {
	int64_t cost, row;
} move;

/* Moves of rows out of one class into another, the cheapest first; rows that have left since are among them. */
typedef struct heap {
	move *at;
	int64_t n, room;
} heap;

typedef struct assignment {
	const int64_t *cost; /* (n, classes) */
	int classes;
	uint8_t *class;
	int64_t left[MOST];
	heap moves[MOST][MOST];
} assignment;

/* Of moves that cost the same the one of the higher row, so that the lower one stays. */
static int before(const move *a, const move *b) { return a->cost != b->cost ? a->cost < b->cost : a->row > b->row; }

static void push(heap *h, move m) {
	if (h->n == h->room) {
		int64_t room = h->room ? 2 * h->room : 64;
		h->at = whit_realloc(h->at, (size_t)h->room * sizeof *h->at, (size_t)room * sizeof *h->at);
		h->room = room;
	}
	int64_t i = h->n++;
	for (; i > 0 && before(&m, &h->at[(i - 1) / 2]); i = (i - 1) / 2) h->at[i] = h->at[(i - 1) / 2];
	h->at[i] = m;
}

static void pop(heap *h) {
	move last = h->at[--h->n];
	int64_t i = 0, k;
	while ((k = 2 * i + 1) < h->n) {
		if (k + 1 < h->n && before(&h->at[k + 1], &h->at[k])) k++;
		if (!before(&h->at[k], &last)) break;
		h->at[i] = h->at[k];
		i = k;
	}
	h->at[i] = last;
}

/* The cheapest move from one class to another, or NULL. */
static const move *cheapest(assignment *a, int from, int to) {
	heap *h = &a->moves[from][to];
	while (h->n && a->class[h->at[0].row] != from) pop(h);
	return h->n ? h->at : NULL;
}

static void enter(assignment *a, int64_t row, int class) {
	const int64_t *cost = a->cost + row * a->classes;
	a->class[row] = (uint8_t) class;
	for (int to = 0; to < a->classes; to++)
		if (to != class) push(&a->moves[class][to], (move){cost[to] - cost[class], row});
}

/* Whether class c is on the chain that ends in class at. */
static int on_chain(const int *from, int at, int c) {
	while (at >= 0 && at != c) at = from[at];
	return at == c;
}

/* Cheapest chains into each class, by as many rounds as a chain can have moves: what each costs, and the class before,
 * -1 = the row itself. */
static void chains(assignment *a, const int64_t *cost, int64_t *sum, int *from) {
	int changed = 1;
	for (int c = 0; c < a->classes; c++) sum[c] = cost[c], from[c] = -1;
	for (int round = 1; round < a->classes && changed; round++) {
		changed = 0;
		for (int c = 0; c < a->classes; c++)
			for (int to = 0; to < a->classes; to++) {
				const move *m = c == to || on_chain(from, c, to) ? NULL : cheapest(a, c, to);
				if (!m || sum[c] + m->cost >= sum[to]) continue;
				sum[to] = sum[c] + m->cost, from[to] = c, changed = 1;
			}
	}
}

static void place(assignment *a, int64_t row) {
	int64_t sum[MOST];
	int from[MOST], end = -1;
	chains(a, a->cost + row * a->classes, sum, from);
	for (int c = 0; c < a->classes; c++)
		if (a->left[c] && (end < 0 || sum[c] < sum[end])) end = c;
	a->left[end]--;
	for (int c = end; c >= 0; c = from[c]) /* from the end: a class gives its row before it takes one */
		enter(a, from[c] < 0 ? row : cheapest(a, from[c], c)->row, c);
}

/* Costs as integers: the largest finite one 2^56, what is not finite twice that; a chain sums up nine of them at most.
 */
static int64_t *integers(const double *cost, int64_t n) {
	int64_t *k = whit_alloc((size_t)(n + 1) * sizeof *k);
	double most = 0;
	for (int64_t i = 0; i < n; i++)
		if (isfinite(cost[i])) most = fmax(most, fabs(cost[i]));
	for (int64_t i = 0; i < n; i++)
		k[i] = !isfinite(cost[i]) ? (int64_t)1 << 57 : most > 0 ? (int64_t)rint(cost[i] / most * 0x1p56) : 0;
	return k;
}

void whit_assign(uint8_t *class, const double *cost, int64_t n, int classes, const int64_t *room) {
	assignment a = {.cost = integers(cost, n * classes), .classes = classes, .class = class};
	memcpy(a.left, room, (size_t)classes * sizeof *room);
	for (int64_t r = 0; r < n; r++) place(&a, r);
	for (int c = 0; c < classes; c++)
		for (int to = 0; to < classes; to++) whit_free(a.moves[c][to].at);
	whit_free((void *)(uintptr_t)a.cost);
}
