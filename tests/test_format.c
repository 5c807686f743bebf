/* Number formats: what every row of the table must hold. Names, sizes, exact round trips, hostile bytes, ragged
 * widths, and the fast paths against the plain ones. */
#include "formats/codebook.h"
#include "formats/codes.h"
#include "formats/format.h"
#include "formats/tensor.h"
#include "tests/test.h"

static const char *const names[] = {
        "f32",     "f16",     "bf16",     "tq1g128", "tq2g64",   "tq3g128", "tq4g256",  "tq5g64", "tq6g128", "tq7g256",
        "tq8g128", "tq1row",  "tq2row",   "tq3row",  "tq4row",   "tq8row",  "int2",     "int3",   "int4",    "int8",
        "int2g32", "int3g64", "int4g128", "int4g32", "int8g512", "int8g32", "int3g256", "bin64",  "bin512"};
static const int64_t widths[] = {1, 2, 7, 33, 64, 100, 172, 256, 768, 1000, 1024};

static int fits(const char *name, int64_t width) {
	whit_spec s;
	whit_err e;
	whit_plane_desc d[WHIT_PLANES];
	return !whit_spec_parse(name, &s, &e) && s.fmt->planes(&s, width, 0, d, &e) > 0 &&
	       !(s.fmt->needs_codebook && !s.group && width < 4);
}

typedef struct fixture {
	whit_mat m;
	float codebook[256];
} fixture;

static void make(fixture *f, const char *name, int64_t rows, int64_t width, int scale_f32) {
	whit_err e;
	memset(f, 0, sizeof *f);
	f->m = (whit_mat){.rows = rows, .cols = width, .width = width, .scale_f32 = scale_f32};
	CHECK_RC(whit_spec_parse(name, &f->m.spec, &e), e);
	CHECK_RC(whit_mat_alloc(&f->m, &e), e);
	if (!f->m.spec.fmt->needs_codebook) return;
	CHECK_RC(whit_codebook(f->codebook, f->m.spec.bits, WHIT_DENSITY_GAUSSIAN,
	                       f->m.spec.group ? f->m.spec.group : width, &e),
	         e);
	f->m.codebook = f->codebook;
}

static float *normals(int64_t n, uint64_t key, double scale) {
	whit_rng g;
	float *x = whit_alloc((size_t)n * sizeof(float));
	whit_rng_key(&g, 11, key, 0);
	for (int64_t i = 0; i < n; i++) x[i] = (float)(scale * whit_rng_normal(&g));
	return x;
}

static int encode_all(fixture *f, const float *w, const float *imp, int rule, int64_t *zeros) {
	int bad = 0;
	for (int64_t r = 0; r < f->m.rows; r++)
		bad += f->m.spec.fmt->encode(&f->m, r, w + r * f->m.width, imp, rule, zeros);
	return bad;
}

static int same_planes(const whit_mat *a, const whit_mat *b) {
	for (int p = 0; p < WHIT_PLANES; p++)
		if (a->plane[p] && memcmp(a->plane[p], b->plane[p], (size_t)a->rows * a->row_bytes[p])) return 0;
	return 1;
}

static void parse_and_print(void) {
	whit_spec s, t;
	whit_err e;
	char out[32];
	static const char *const good[] = {"f32",    "f16",    "bf16",     "tq1",     "tq4",     "tq8",
	                                   "tq4row", "tq3g64", "tq2g128",  "tq5g256", "int2",    "int3",
	                                   "int4",   "int8",   "int4g128", "int8g32", "int2g512"};
	for (int i = 0; i < WHIT_COUNT(good); i++) {
		CHECK_RC(whit_spec_parse(good[i], &s, &e), e);
		whit_spec_name(&s, out);
		CHECK_TEXT(out, good[i]);
		CHECK_RC(whit_spec_parse(out, &t, &e), e);
		CHECK(t.fmt == s.fmt && t.bits == s.bits && t.group == s.group);
	}
	static const char *const wrong[] = {"",         "tq",
	                                    "tq0",      "tq9",
	                                    "tq4g",     "tq4g32",
	                                    "tq4g0128", "tq04",
	                                    "tq4gg128", "tq4rows",
	                                    "tq4row ",  "int",
	                                    "int5",     "int4g16",
	                                    "int4g96",  "int4g1024",
	                                    "int-4",    "int4g128x",
	                                    "f64",      "F33",
	                                    "q4_kk",    "tq4g99999999999999999999",
	                                    "int8g-32"};
	for (int i = 0; i < WHIT_COUNT(wrong); i++)
		CHECK_FAILS(whit_spec_parse(wrong[i], &s, &e), WHIT_EUSAGE, e, "tqBgG");
	static const struct {
		int64_t cols;
		int group;
	} autos[] = {{1024, 256}, {896, 128}, {64, 64}, {172, 128}, {3584, 256}, {320, 128}};
	for (int i = 0; i < WHIT_COUNT(autos); i++) {
		CHECK_RC(whit_spec_parse("tq4", &s, &e), e);
		CHECK_FAILS((int)whit_spec_bytes(&s, 1, 256, 0, &e) < 0 ? e.code : 0, WHIT_EINTERNAL, e, "unresolved");
		whit_spec_resolve(&s, autos[i].cols);
		CHECK_INT(s.group, autos[i].group);
	}
	CHECK_RC(whit_spec_parse("tq4g128", &s, &e), e);
	CHECK_FAILS(whit_spec_bytes(&s, 4, 100, 0, &e) < 0 ? e.code : 0, WHIT_EUSAGE, e, "100");
	CHECK_FAILS(whit_spec_bytes(&s, INT64_MAX / 64, 1 << 20, 0, &e) < 0 ? e.code : 0, WHIT_EINPUT, e, "larger");
}

/* turboquant.md 5, "Overhead": bits per weight of a 1000 x 1024 matrix. */
static void bits_per_weight(void) {
	static const struct {
		const char *name;
		double bits;
	} want[] = {{"tq4g64", 4.25},   {"tq4g128", 4.125}, {"tq4g256", 4.0625}, {"tq4row", 4.015625},
	            {"tq1g128", 1.125}, {"tq3g128", 3.125}, {"int4g128", 4.125}, {"int8", 8.015625},
	            {"f32", 32},        {"bf16", 16}};
	for (int i = 0; i < WHIT_COUNT(want); i++) {
		whit_spec s;
		whit_err e;
		CHECK_RC(whit_spec_parse(want[i].name, &s, &e), e);
		CHECK_NEAR((double)whit_spec_bytes(&s, 1000, 1024, 0, &e) * 8 / 1024000, want[i].bits, 0);
	}
}

/* turboquant.md 6: code i is stream bits [i b, i b + b), stream bit t is bit t % 8 of byte t / 8. */
static void packing(void) {
	for (int bits = 1; bits <= 8; bits++)
		for (int64_t n = 1; n <= 67; n += 3) {
			uint8_t code[67], want[68] = {0}, got[68] = {0}, back[67 + 1];
			for (int64_t i = 0; i < n; i++) {
				code[i] = (uint8_t)((i * 151 + 77 * bits) & ((1 << bits) - 1));
				for (int b = 0; b < bits; b++)
					if (code[i] >> b & 1)
						want[(i * bits + b) / 8] |= (uint8_t)(1 << (i * bits + b) % 8);
			}
			whit_codes_pack(got, code, n, bits);
			back[n] = 0x5a;
			whit_codes_unpack(back, got, n, bits);
			CHECK_MSG(!memcmp(got, want, sizeof got) && !memcmp(back, code, (size_t)n) && back[n] == 0x5a,
			          "%d bits, %d codes", bits, (int)n);
		}
}

/* Golden bytes of tq3 and int4: the drawing in the format's file, by hand. */
static void golden_bytes(void) {
	fixture f;
	float w[8] = {-7, -6, 1, 7, 0, 2, -1, 3}, out[8];
	int64_t zeros = 0;
	make(&f, "int4", 1, 8, 0);
	/* Best step: 1, from w itself; two's complement nibbles, low first. */
	CHECK_INT(encode_all(&f, w, NULL, WHIT_SCALE_LS, &zeros), 0);
	f.m.spec.fmt->decode(&f.m, 0, 1, out);
	CHECK(!memcmp(out, w, sizeof w));
	int positive = f.m.plane[1][1] == 0x3c;
	static const uint8_t up[4] = {0xa9, 0x71, 0x20, 0x3f}, down[4] = {0x67, 0x9f, 0xe0, 0xd1};
	CHECK(f.m.plane[1][0] == 0 && (positive || f.m.plane[1][1] == 0xbc));
	CHECK(!memcmp(f.m.plane[0], positive ? up : down, 4));
	whit_mat_free(&f.m);
	/* tq1: u = w / |w|; code 1 where positive, a zero takes the lower code; scale <w, c> / |c|^2. */
	make(&f, "tq1row", 1, 8, 1);
	CHECK_INT(encode_all(&f, w, NULL, WHIT_SCALE_LS, &zeros), 0);
	CHECK_INT(f.m.plane[0][0], 1 << 2 | 1 << 3 | 1 << 5 | 1 << 7);
	f.m.spec.fmt->decode(&f.m, 0, 1, out);
	CHECK_NEAR(out[2], 27.0 / 8, 1e-6);
	CHECK_NEAR(out[4], -27.0 / 8, 1e-6);
	whit_mat_free(&f.m);
}

/* Encoding what was decoded gives the same values exactly (codes of an encoder, F16 scales); a zero may change its
 * sign, since int's step may: -s times -q. */
static void round_trip(void) {
	for (int i = 0; i < WHIT_COUNT(names); i++)
		for (int c = 0; c < WHIT_COUNT(widths); c++) {
			int64_t n = widths[c], rows = 5, zeros = 0;
			/* Below 64 weights a unit vector's norm and its codes' norm differ too much for codes to be
			 * stable. */
			if (!fits(names[i], n) || (names[i][0] == 't' && n < 64)) continue;
			fixture a, b;
			make(&a, names[i], rows, n, 0);
			make(&b, names[i], rows, n, 0);
			float *w = normals(rows * n, (uint64_t)(i * 100 + c), 1),
			      *x = whit_alloc((size_t)(rows * n) * 4), *y = whit_alloc((size_t)(rows * n) * 4);
			CHECK_INT(encode_all(&a, w, NULL, WHIT_SCALE_LS, &zeros), 0);
			whit_mat_decode(&a.m, 0, rows, x);
			encode_all(&b, x, NULL, WHIT_SCALE_LS, &zeros);
			whit_mat_decode(&b.m, 0, rows, y);
			CHECK_MSG(!(whit_max_abs_diff(x, y, rows * n) > 0),
			          "%s width %d: decoded values do not encode to themselves", names[i], (int)n);
			whit_free(w), whit_free(x), whit_free(y);
			whit_mat_free(&a.m), whit_mat_free(&b.m);
		}
}

/* Every code byte and scale is legal to decode and multiply: nothing crashes or reads outside (run under asan
 * too), planes ending where their allocation ends, at an odd address. */
static void hostile_bytes(void) {
	int top = whit_cpu_level();
	whit_rng g;
	whit_rng_key(&g, 3, 1, 4);
	for (int i = 0; i < WHIT_COUNT(names); i++)
		for (int c = 0; c < WHIT_COUNT(widths); c++) {
			int64_t n = widths[c], rows = 3;
			if (!fits(names[i], n)) continue;
			fixture f;
			make(&f, names[i], rows, n, c % 2);
			whit_mat m = f.m;
			void *mine[WHIT_PLANES] = {0};
			for (int p = 0; p < WHIT_PLANES; p++) {
				if (!m.plane[p]) continue;
				size_t bytes = (size_t)rows * m.row_bytes[p];
				uint8_t *q = mine[p] = malloc(bytes + 1);
				for (size_t k = 0; k < bytes; k++) q[k + 1] = (uint8_t)whit_rng_next(&g);
				m.plane[p] = q + 1;
			}
			float *plain = whit_alloc((size_t)(rows * n) * 4), *out = whit_alloc((size_t)(rows * n) * 4),
			      *x = normals(8 * n, 1, 1), y[24];
			whit_cpu_cap(0);
			m.spec.fmt->decode(&m, 0, rows, plain);
			for (int level = 1; level <= top; level++) {
				whit_cpu_cap(level);
				m.spec.fmt->decode(&m, 0, rows, out);
				m.spec.fmt->gemv(&m, 0, rows, x, 8, y, rows);
				int differ = 0; /* NaN payloads aside */
				for (int64_t k = 0; k < rows * n; k++)
					differ += isnan(plain[k]) ? !isnan(out[k]) : memcmp(plain + k, out + k, 4) != 0;
				CHECK_MSG(!differ, "%s width %d: %s decodes %d differently", names[i], (int)n,
				          whit_cpu_level_name(level), differ);
			}
			whit_cpu_cap(top);
			for (int p = 0; p < WHIT_PLANES; p++) free(mine[p]);
			whit_free(plain), whit_free(out), whit_free(x);
			whit_mat_free(&f.m);
		}
}

/* Encoders give the same bytes at every level, with and without importance, for every rule. */
static void encoders_agree(void) {
	int top = whit_cpu_level();
	for (int i = 0; i < WHIT_COUNT(names); i++)
		for (int c = 0; c < WHIT_COUNT(widths); c++)
			for (int rule = 0; rule < 4 && top > 0; rule++) {
				int64_t n = widths[c], rows = 3, zeros = 0;
				if (!fits(names[i], n) || (rule && names[i][0] != 't')) continue;
				float *w = normals(rows * n, (uint64_t)(i * 7 + c), 0.02), *imp = normals(n, 77, 1);
				w[n / 2] = 0, w[n - 1] = -0.0f, w[rows * n - 1] *= 40;
				for (int64_t k = 0; k < n; k++) imp[k] *= imp[k];
				for (int weighted = 0; weighted < 2; weighted++) {
					fixture a, b;
					make(&a, names[i], rows, n, (c + rule) % 2);
					make(&b, names[i], rows, n, (c + rule) % 2);
					whit_cpu_cap(0);
					int bad = encode_all(&a, w, weighted ? imp : NULL, rule, &zeros);
					for (int level = 1; level <= top; level++) {
						whit_cpu_cap(level);
						int bad2 = encode_all(&b, w, weighted ? imp : NULL, rule, &zeros);
						CHECK_MSG(bad == bad2 && same_planes(&a.m, &b.m),
						          "%s width %d rule %d weighted %d: %s encodes differently",
						          names[i], (int)n, rule, weighted, whit_cpu_level_name(level));
					}
					whit_cpu_cap(top);
					whit_mat_free(&a.m), whit_mat_free(&b.m);
				}
				whit_free(w), whit_free(imp);
			}
}

/* gemv against double sums of the decoded rows, every T, ragged widths; outputs between guards; a token's
 * result does not depend on its company. Bound: whit_codes_gemv. */
static void gemv(void) {
	int top = whit_cpu_level();
	for (int i = 0; i < WHIT_COUNT(names); i++)
		for (int c = 0; c < WHIT_COUNT(widths); c++) {
			int64_t n = widths[c], rows = 7, ldy = rows + 2, zeros = 0;
			if (!fits(names[i], n)) continue;
			fixture f;
			make(&f, names[i], rows, n, c % 2);
			float *w = normals(rows * n, (uint64_t)i, 0.02), *x = normals(8 * n, 5, 1),
			      *d = whit_alloc((size_t)(rows * n) * 4), y[8 * 9];
			encode_all(&f, w, NULL, WHIT_SCALE_LS, &zeros);
			whit_mat_decode(&f.m, 0, rows, d);
			for (int level = 0; level <= top; level++) {
				float first[7] = {0};
				int bad = 0;
				whit_cpu_cap(level);
				for (int T = 1; T <= 8; T++) {
					for (int k = 0; k < 72; k++) y[k] = 1234;
					f.m.spec.fmt->gemv(&f.m, 1, rows, x, T, y,
					                   ldy); /* row 0 and two columns are guards */
					for (int t = 0; t < 8; t++)
						for (int64_t r = 0; r < ldy; r++) {
							if (r == 0 || r >= rows || t >= T) {
								bad += y[t * ldy + r] != 1234;
								continue;
							}
							double dot = 0, mass = 0;
							for (int64_t k = 0; k < n; k++) {
								dot += (double)d[r * n + k] * x[t * n + k];
								mass += fabs((double)d[r * n + k] * x[t * n + k]);
							}
							bad += !(fabs(y[t * ldy + r] - dot) <=
							         ((double)n / 8 + 12) * 0x1p-23 * mass);
							if (t == 0 && T == 1) first[r] = y[r];
							bad += t == 0 && y[r] != first[r];
						}
				}
				CHECK_MSG(!bad, "%s width %d: gemv of %s: %d wrong", names[i], (int)n,
				          whit_cpu_level_name(level), bad);
			}
			whit_cpu_cap(top);
			whit_free(w), whit_free(x), whit_free(d);
			whit_mat_free(&f.m);
		}
}

/* turboquant.md 6: zero groups, scales an F16 cannot hold, importance of zero, the largest floats. */
static void edges(void) {
	static const char *const scaled[] = {"tq4g64", "tq1g64", "tq8g64", "int4g64", "int8", "int2g64"};
	int top = whit_cpu_level();
	for (int level = 0; level <= top; level++)
		for (int i = 0; i < WHIT_COUNT(scaled); i++) {
			whit_cpu_cap(level);
			fixture f;
			float w[128] = {0}, out[128], imp[128] = {0};
			int64_t zeros = 0;
			make(&f, scaled[i], 1, 128, 0);
			memset((void *)f.m.plane[0], 0xff, f.m.row_bytes[0]);
			memset((void *)f.m.plane[1], 0xff, f.m.row_bytes[1]);
			CHECK_INT(encode_all(&f, w, NULL, WHIT_SCALE_LS, &zeros), 0);
			CHECK_INT(zeros, f.m.spec.group ? 2 : 1);
			for (size_t k = 0; k < f.m.row_bytes[0]; k++) CHECK_INT(f.m.plane[0][k], 0);
			f.m.spec.fmt->decode(&f.m, 0, 1, out);
			for (int k = 0; k < 128; k++)
				if (out[k] != 0) CHECK_MSG(0, "%s: zero decodes to %g", scaled[i], out[k]);
			static const double scales[] = {1e7, 1e-8, 1e30, 1e-30, 1e36};
			for (int s = 0; s < WHIT_COUNT(scales); s++) {
				float *v = normals(128, 8, 1);
				for (int k = 0; k < 128; k++) v[k] = (float)(v[k] * scales[s]);
				CHECK_MSG(encode_all(&f, v, NULL, WHIT_SCALE_LS, &zeros) > 0,
				          "%s x %g: F16 scale not reported", scaled[i], scales[s]);
				fixture g;
				make(&g, scaled[i], 1, 128, 1);
				CHECK_INT(encode_all(&g, v, NULL, WHIT_SCALE_LS, &zeros), 0);
				g.m.spec.fmt->decode(&g.m, 0, 1, out);
				double err = 0, ref = 0;
				for (int k = 0; k < 128; k++)
					err += ((double)out[k] - v[k]) * ((double)out[k] - v[k]),
					        ref += (double)v[k] * v[k];
				CHECK_MSG(err / ref <= 0.5, "%s x %g with F32 scales: relative error %g", scaled[i],
				          scales[s], err / ref);
				whit_mat_free(&g.m);
				whit_free(v);
			}
			/* No importance anywhere: as if all were 1. */
			float *v = normals(128, 9, 0.02);
			fixture g;
			make(&g, scaled[i], 1, 128, 0);
			encode_all(&f, v, imp, WHIT_SCALE_LS, &zeros);
			encode_all(&g, v, NULL, WHIT_SCALE_LS, &zeros);
			CHECK_MSG(same_planes(&f.m, &g.m), "%s: zero importance", scaled[i]);
			whit_free(v);
			whit_mat_free(&f.m), whit_mat_free(&g.m);
		}
	whit_cpu_cap(top);
	fixture f;
	int64_t zeros = 0;
	float big[2] = {65504, 70000};
	make(&f, "f16", 1, 2, 1);
	CHECK_INT(encode_all(&f, big, NULL, WHIT_SCALE_LS, &zeros), 1);
	whit_mat_free(&f.m);
}

/* Importance pulls the scale: the weighted error is never worse than that of the unweighted encoding. */
static void importance(void) {
	static const char *const scaled[] = {"tq2g128", "tq4g128", "int2g128", "int3g128", "int4g128", "int8"};
	for (int i = 0; i < WHIT_COUNT(scaled); i++) {
		enum { ROWS = 64, N = 256 };
		fixture a, b;
		int64_t zeros = 0;
		make(&a, scaled[i], ROWS, N, 0);
		make(&b, scaled[i], ROWS, N, 0);
		float *w = normals(ROWS * N, 21, 0.02), *imp = normals(N, 22, 1), *x = whit_alloc(ROWS * N * 4),
		      *y = whit_alloc(ROWS * N * 4);
		for (int k = 0; k < N; k++) imp[k] = imp[k] * imp[k] * imp[k] * imp[k];
		encode_all(&a, w, imp, WHIT_SCALE_LS, &zeros);
		encode_all(&b, w, NULL, WHIT_SCALE_LS, &zeros);
		whit_mat_decode(&a.m, 0, ROWS, x);
		whit_mat_decode(&b.m, 0, ROWS, y);
		double ea = 0, eb = 0;
		for (int k = 0; k < ROWS * N; k++) {
			ea += imp[k % N] * (x[k] - w[k]) * (x[k] - w[k]);
			eb += imp[k % N] * (y[k] - w[k]) * (y[k] - w[k]);
		}
		CHECK_MSG(ea <= eb, "%s: weighted error %g with importance, %g without", scaled[i], ea, eb);
		whit_free(w), whit_free(imp), whit_free(x), whit_free(y);
		whit_mat_free(&a.m), whit_mat_free(&b.m);
	}
}

/* whit_mat_decode undoes rotation and padding. */
static void rotated(void) {
	enum { ROWS = 37, COLS = 172 };
	whit_rotation_spec s;
	whit_rotation *rot;
	whit_err e;
	fixture f;
	int64_t zeros = 0;
	CHECK_RC(whit_rotation_plan(&s, WHIT_ROT_HADAMARD, 42, COLS, 128, &e), e);
	CHECK_RC(whit_rotation_new(&rot, &s, NULL, &e), e);
	make(&f, "tq8g128", ROWS, whit_rotation_width(rot), 0);
	f.m.cols = COLS;
	f.m.rot = rot;
	float *w = normals(ROWS * COLS, 31, 0.02), *y = whit_alloc((size_t)(ROWS * f.m.width) * 4),
	      *x = whit_alloc(ROWS * COLS * 4);
	whit_rotate_cpu(rot, y, w, ROWS);
	encode_all(&f, y, NULL, WHIT_SCALE_LS, &zeros);
	whit_mat_decode(&f.m, 0, ROWS, x);
	CHECK_NEAR(whit_rel_err(x, w, ROWS * COLS), 0, 0.01);
	whit_mat_decode(&f.m, 20, 21, y);
	CHECK(!memcmp(y, x + 20 * COLS, COLS * 4));
	whit_free(w), whit_free(x), whit_free(y);
	whit_mat_free(&f.m);
	whit_rotation_free(rot);
}

TEST_MAIN(parse_and_print, bits_per_weight, packing, golden_bytes, round_trip, hostile_bytes, encoders_agree, gemv,
          edges, importance, rotated)
