/* ptx: the instructions of cuda/ptx.cuh against plain arithmetic and the manual's fragment formulas, and an example of
 * cp.async, ldmatrix and mma together. Whole numbers, so that every result is exact on every target. */
#include "tests/case.h"
#include "tests/emu/probe.h"

static uint32_t word(case_run *r) { return whit_load_u32(case_random(r, 4)); }
static int small(case_run *r, int from, int n) { return from + (int)(word(r) % (uint32_t)n); }

static void bits(case_run *r) {
	static const uint32_t edges[] = {0, 1, ~0u, 0x80000000u, 0x7fffffffu, 0x80808080u, 0x7f7f7f7fu, 31};
	enum { N = 1000 };
	uint32_t *in = case_random(r, N * 16), *want = case_host(r, N * PROBE_BITS * 4);
	for (int i = 0; i < 4 * N; i += 3)
		if (in[i] % 2) in[i] = edges[in[i] / 2 % 8];
	for (int n = 0; n < N; n++) {
		uint32_t a = in[4 * n], b = in[4 * n + 1], c = in[4 * n + 2], s = in[4 * n + 3] % 32, sign = 0;
		uint32_t ss = c, us = c;
		for (int i = 0; i < 4; i++) {
			int x = (int8_t)(a >> 8 * i), y = (int8_t)(b >> 8 * i);
			sign |= (x < 0 ? 255u : 0u) << 8 * i;
			ss += (uint32_t)(x * y);
			us += (uint32_t)((x & 255) * y);
		}
		const uint32_t row[PROBE_BITS] = {(a & b) | c,
		                                  a ^ b ^ c,
		                                  (a & b) | (~a & c),
		                                  (a & b) ^ c,
		                                  a >> 24 | (a >> 8 & 0xff00) | (a << 8 & 0xff0000) | a << 24,
		                                  (a & 0xffff) | b << 16,
		                                  sign,
		                                  s ? b << s | a >> (32 - s) : b,
		                                  ss,
		                                  us,
		                                  s ? a >> s | b << (32 - s) : a};
		memcpy(want + n * PROBE_BITS, row, sizeof row);
	}
	float *out = case_out(r, N * PROBE_BITS);
	probe_bits_cuda(r->dev, (uint32_t *)out, case_in(r, in, N * 16), N);
	case_bits(r, out, want, N * PROBE_BITS);
}

static void ldmatrix(case_run *r, int form) {
	uint32_t want[128];
	for (int l = 0; l < 32; l++)
		for (int m = 0; m < 4; m++) {
			uint32_t v[2];
			for (int e = 0; e < 2; e++) {
				int row = l / 4, col = l % 4 * 2 + e;
				v[e] = (uint32_t)(128 * m + (form == 1 ? 16 * col + row : 16 * row + col));
			}
			want[4 * l + m] = form == 2 && m > 1 ? 0 : v[0] | v[1] << 16;
		}
	float *out = case_out(r, 128);
	probe_ldmatrix_cuda(r->dev, (uint32_t *)out, form);
	case_bits(r, out, want, 128);
}

/* Element i of a lane, as the manual's formulas have it: groupID = lane >> 2, threadID_in_group = lane % 4. */
typedef struct place {
	int row, col;
} place;
static place place_a16(int lane, int i) { /* i = 0..7 */
	return (place){i < 2 || (i >= 4 && i < 6) ? lane >> 2 : (lane >> 2) + 8,
	               lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
static place place_b16(int lane, int i) { /* i = 0..3 */
	return (place){lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2};
}
static place place_a8(int lane, int i) { /* i = 0..15 */
	return (place){i < 4 || (i >= 8 && i < 12) ? lane >> 2 : (lane >> 2) + 8,
	               lane % 4 * 4 + (i & 3) + (i < 8 ? 0 : 16)};
}
static place place_b8(int lane, int i) { /* i = 0..7 */
	return (place){lane % 4 * 4 + (i & 3) + (i < 4 ? 0 : 16), lane >> 2};
}
static place place_c(int lane, int i) { /* i = 0..3 */
	return (place){i < 2 ? lane >> 2 : (lane >> 2) + 8, lane % 4 * 2 + (i & 1)};
}

static uint32_t operand(int kind, int v) {
	return kind == PROBE_BF16 ? whit_f32_to_bf16((float)v)
	       : kind >= PROBE_S8 ? (uint32_t)v & 255
	                          : whit_f32_to_f16((float)v);
}
static void put(uint32_t *reg, int i, int per, uint32_t v) { reg[i / per] |= v << i % per * (32 / per); }
/* Sums of c: an int, a float, or half a register. */
static void put_sum(int kind, uint32_t *reg, int i, int v) {
	float f = (float)v;
	if (kind == PROBE_F16_F16)
		put(reg, i, 2, whit_f32_to_f16(f));
	else if (kind >= PROBE_S8)
		reg[i] = (uint32_t)v;
	else
		memcpy(reg + i, &f, 4);
}

static void mma(case_run *r, int kind) {
	int ints = kind >= PROBE_S8, K = ints ? 32 : 16, per = ints ? 4 : 2, A[16][32], B[32][8], C[16][8];
	uint32_t a[128] = {0}, b[64] = {0}, c[128] = {0}, want[128] = {0};
	for (int i = 0; i < 16 * K; i++) A[i / K][i % K] = small(r, kind == PROBE_U8S8 ? 0 : -7, 15);
	for (int i = 0; i < K * 8; i++) B[i / 8][i % 8] = small(r, -7, 15);
	for (int i = 0; i < 16 * 8; i++) C[i / 8][i % 8] = small(r, -50, 101);
	if (kind == PROBE_U8S8) A[3][5] = 255, B[5][2] = -128;
	for (int l = 0; l < 32; l++) {
		for (int i = 0; i < 4 * per; i++) {
			place p = ints ? place_a8(l, i) : place_a16(l, i);
			put(a + 4 * l, i, per, operand(kind, A[p.row][p.col]));
		}
		for (int i = 0; i < 2 * per; i++) {
			place p = ints ? place_b8(l, i) : place_b16(l, i);
			put(b + 2 * l, i, per, operand(kind, B[p.row][p.col]));
		}
		for (int i = 0; i < 4; i++) {
			place p = place_c(l, i);
			int sum = C[p.row][p.col];
			put_sum(kind, c + 4 * l, i, sum);
			for (int k = 0; k < K; k++) sum += A[p.row][k] * B[k][p.col];
			put_sum(kind, want + 4 * l, i, sum);
		}
	}
	float *out = case_inout(r, (const float *)(const void *)c, 128);
	probe_mma_cuda(r->dev, kind, (uint32_t *)out, case_in(r, a, sizeof a), case_in(r, b, sizeof b));
	case_bits(r, out, want, 128);
}

static void memory(case_run *r) {
	uint32_t *x = case_random(r, 256), s[64], want[64], zero = 0;
	memcpy(s, x, sizeof s);
	s[5] = s[7] = s[28] = s[29] = s[30] = s[31] = 0; /* what cp.async did not read */
	for (int i = 0; i < 32; i++) want[i] = s[i], want[32 + i] = s[63 - i];
	float *out = case_out(r, 64);
	probe_memory_cuda(r->dev, (uint32_t *)out, case_in(r, x, 256), case_in(r, &zero, 4));
	case_bits(r, out, want, 64);
}

/* Blocks that wait for each other: 1, some, and as many as an emulated device or the smallest card holds. */
static const struct { int blocks, rounds; } grids[] = {{1, 1}, {3, 2}, {5, 7}, {60, 2}};

static void grid(case_run *r, int i) {
	int n = 64 * grids[i].blocks;
	uint32_t *x = case_random(r, (size_t)n * 4), *want = case_host(r, (size_t)n * 4);
	for (int k = 0; k < n; k++) want[k] = x[(k + 64 * grids[i].rounds) % n];
	float *out = case_out(r, n);
	probe_grid_cuda(r->dev, (uint32_t *)out, case_in(r, x, (size_t)n * 4), grids[i].blocks, grids[i].rounds);
	case_bits(r, out, want, n);
}

static const struct {
	int64_t M, N, K;
	int bf16;
} tiles[] = {{32, 32, 32, 0}, {1, 40, 8, 0}, {33, 70, 200, 1}, {7, 1, 136, 1}, {1024, 1024, 1024, 1}};

static void tile(case_run *r, int i) {
	int64_t M = tiles[i].M, N = tiles[i].N, K = tiles[i].K;
	int *ai = case_host(r, (size_t)(M * K) * sizeof *ai), *bi = case_host(r, (size_t)(N * K) * sizeof *bi);
	uint16_t *a = case_host(r, (size_t)(M * K) * 2), *b = case_host(r, (size_t)(N * K) * 2);
	uint8_t *ra = case_random(r, (size_t)(M * K)), *rb = case_random(r, (size_t)(N * K));
	float *want = case_host(r, (size_t)(M * N) * sizeof *want);
	int kind = tiles[i].bf16 ? PROBE_BF16 : PROBE_F16;
	for (int64_t k = 0; k < M * K; k++) ai[k] = ra[k] % 17 - 8, a[k] = (uint16_t)operand(kind, ai[k]);
	for (int64_t k = 0; k < N * K; k++) bi[k] = rb[k] % 17 - 8, b[k] = (uint16_t)operand(kind, bi[k]);
	for (int64_t m = 0; m < M; m++)
		for (int64_t n = 0; n < N; n++) {
			int sum = 0;
			for (int64_t k = 0; k < K; k++) sum += ai[m * K + k] * bi[n * K + k];
			want[m * N + n] = (float)sum;
		}
	float *y = case_out(r, M * N);
	probe_tile_cuda(r->dev, y, case_in(r, a, (size_t)(M * K) * 2), case_in(r, b, (size_t)(N * K) * 2), M, N, K,
	                tiles[i].bf16);
	case_same(r, y, want, M * N);
}

enum {
	MMA = 1 + PROBE_LDMATRIX,
	GRID = MMA + PROBE_MMAS + 1,
	TILE = GRID + WHIT_COUNT(grids),
	ROWS = TILE + WHIT_COUNT(tiles)
};

static void row(case_run *r, int i) {
	if (case_skip(r, !r->dev) || case_skip_big(r, i >= TILE && tiles[i - TILE].M > 1000)) return;
	if (i == 0)
		case_label(r, "bits"), bits(r);
	else if (i < MMA)
		case_label(r, "ldmatrix %d", i - 1), ldmatrix(r, i - 1);
	else if (i < MMA + PROBE_MMAS)
		case_label(r, "mma %d", i - MMA), mma(r, i - MMA);
	else if (i < GRID)
		case_label(r, "memory"), memory(r);
	else if (i < TILE)
		case_label(r, "grid of %d blocks", grids[i - GRID].blocks), grid(r, i - GRID);
	else
		case_label(r, "tile %d", i - TILE), tile(r, i - TILE);
}

const case_set cases_ptx = {"ptx", ROWS, row, 0};
