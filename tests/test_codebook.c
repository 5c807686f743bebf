/* Codebooks against turboquant.md 2: shipped constants, solved again, and their distortion. */
#include "formats/codebook.h"
#include "tests/test.h"

typedef struct target {
	double gauss, beta128, beta1024, last[8];
	int known; /* how many of the positive centroids the table prints; for 5 bits and more, first and last */
} target;

static const target want[9] = {
        {0},
        {.36338023, .360889, .363069, {.7978846}, 1},
        {.11748185, .116000, .117296, {.4527800, 1.5104176}, 2},
        {.034547761, .033966, .034475, {.2450942, .7560053, 1.3439093, 2.1519457}, 4},
        {.009501008,
         .0093148,
         .0094776,
         {.1283950, .3880483, .6567591, .9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896},
         8},
        {2.5046684e-3, 2.45146e-3, 2.49796e-3, {.0658897, 3.2607325}, 0},
        {6.4423967e-4, 6.2996e-4, 6.4244e-4, {.0334095, 3.7441013}, 0},
        {1.6347823e-4, 1.5977e-4, 1.6301e-4, {.0168282, 4.1896942}, 0},
        {4.1185083e-5, 4.0241e-5, 4.1066e-5, {.0084462, 4.6035356}, 0},
};

static void tables(void) {
	whit_err e;
	for (int bits = 1; bits <= 8; bits++) {
		int h = 1 << (bits - 1);
		double c[256], mse;
		float f[256];
		CHECK_RC(whit_lloyd_max(c, bits, 0, &mse, &e), e);
		CHECK_NEAR(mse, want[bits].gauss, 1e-4 * want[bits].gauss);
		CHECK_NEAR(c[h], want[bits].last[0], 2e-6);
		if (!want[bits].known) CHECK_NEAR(c[2 * h - 1], want[bits].last[1], 2e-6);
		for (int k = 0; k < want[bits].known; k++) CHECK_NEAR(c[h + k], want[bits].last[k], 2e-6);
		/* The shipped table is the solution, to a float's precision; d = 4^5 makes 1/sqrt(d) exact. */
		CHECK_RC(whit_codebook(f, bits, WHIT_DENSITY_GAUSSIAN, 1024, &e), e);
		double worst = 0;
		for (int k = 0; k < 2 * h; k++) worst = fmax(worst, fabs(f[k] * 32.0 - c[k]) / fabs(c[k]));
		CHECK_MSG(worst <= 0x1p-24 + 1e-11, "%d bits: shipped constants off by %g", bits, worst);
		for (int k = 1; k < 2 * h; k++)
			if (!(c[k] > c[k - 1])) CHECK_MSG(0, "%d bits: not ascending at %d", bits, k);
	}
}

static void beta(void) {
	whit_err e;
	for (int bits = 1; bits <= 8; bits++) {
		double c[256], mse;
		CHECK_RC(whit_lloyd_max(c, bits, 128, &mse, &e), e);
		CHECK_NEAR(mse, want[bits].beta128, 1e-4 * want[bits].beta128);
		CHECK_RC(whit_lloyd_max(c, bits, 1024, &mse, &e), e);
		CHECK_NEAR(mse, want[bits].beta1024, 1e-4 * want[bits].beta1024);
		for (int64_t d = 4; d < 50000000; d *= 7) {
			float f[256];
			int ok = whit_codebook(f, bits, WHIT_DENSITY_BETA, d, &e) == 0;
			for (int k = 1; ok && k < 1 << bits; k++) ok = f[k] > f[k - 1] && f[k] < 1;
			CHECK_MSG(ok, "%d bits, d = %lld", bits, (long long)d);
		}
	}
	/* A coordinate of the 4-sphere's... d = 4, 1 bit: density (1 - t^2)^(1/2), mean of the half 4 / (3 pi). */
	double c[2];
	CHECK_RC(whit_lloyd_max(c, 1, 4, NULL, &e), e);
	CHECK_NEAR(c[1], 4 / (3 * 3.14159265358979324), 1e-12);
}

/* The fixed point is one: each centroid is the mean of its cell under N(0,1), by an independent formula. */
static void centroid_condition(void) {
	whit_err e;
	double c[256];
	for (int bits = 1; bits <= 8; bits++) {
		CHECK_RC(whit_lloyd_max(c, bits, 0, NULL, &e), e);
		double worst = 0;
		for (int n = 1 << bits, k = n / 2; k < n; k++) {
			double a = 0.5 * (c[k - 1] + c[k]), b = k + 1 < n ? 0.5 * (c[k] + c[k + 1]) : INFINITY;
			double mass = 0.5 * (erfc(a / sqrt(2)) - (k + 1 < n ? erfc(b / sqrt(2)) : 0));
			double first =
			        (exp(-a * a / 2) - (k + 1 < n ? exp(-b * b / 2) : 0)) / sqrt(2 * 3.14159265358979324);
			worst = fmax(worst, fabs(first / mass - c[k]));
		}
		CHECK_MSG(worst <= 1e-11, "%d bits: centroid condition off by %g", bits, worst);
	}
}

/* turboquant.md 8: 100 rounds at 4 bits have not converged, and files depend on it. */
static void tq3_steps(void) {
	double c[16];
	whit_lloyd_steps(c, 4, 100);
	CHECK_NEAR(c[8], .12596, 5e-6);
	CHECK_NEAR(c[15], 2.71714, 5e-6);
	CHECK_NEAR(c[0], -c[15], 0);
	whit_lloyd_steps(c, 3, 2000);
	CHECK_NEAR(c[7], 2.1519457, 2e-6);
}

static void refusals(void) {
	whit_err e;
	float f[256];
	CHECK_FAILS(whit_codebook(f, 0, WHIT_DENSITY_GAUSSIAN, 128, &e), WHIT_EUSAGE, e, "0 bits");
	CHECK_FAILS(whit_codebook(f, 9, WHIT_DENSITY_GAUSSIAN, 128, &e), WHIT_EUSAGE, e, "9 bits");
	CHECK_FAILS(whit_codebook(f, 4, WHIT_DENSITY_BETA, 3, &e), WHIT_EUSAGE, e, "dimension 3");
}

TEST_MAIN(tables, beta, centroid_condition, tq3_steps, refusals)
