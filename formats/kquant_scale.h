/* kquant_scale: what kquant.c and its twin on the device do to the d and m of one block: once, for the same bits.
 * Included after simd_plain.h. */

enum { RESTARTS = 2 };
/* Of the shortening, how much is undone. Mean KL divergence of q2_k on wiki5M and wiki12M, of ggml's, which is .1157
 * and .0835: none .1068 .0673, 1/2 .0923 .0656, 3/4 .0907 .0651, all .0920 .0655. q4_k and longer: no difference. */
#define LENGTHENING 0.75

/* A panel's weights are scaled to a largest of 1/2 .. 1, so that squares stay in range: weight = x * 2^exponent. What
 * F16 makes of x * 2^exponent, over 2^exponent: not 0, or all were lost; clamped and counted beyond F16. */
INLINE float f16_scale(double x, int exponent, int *over) {
	double v = ldexp(x, exponent);
	float r = F16_TO_F32(F32_TO_F16((float)fmin(fmax(v, -65504.0), 65504.0)));
	*over += fabs(v) >= 65520;
	if (r == 0 && v != 0) r = v < 0 ? -0x1p-24f : 0x1p-24f;
	return (float)ldexp((double)r, -exponent);
}

/* Blocks below F16 by far may be all small: the exponent's inverse stays a float. */
INLINE int exponent_of(float top) {
	int exponent = 0;
	frexp((double)top, &exponent);
	return WHIT_MAX(exponent, -100);
}

/* The floor: groups without importance get plain least squares, of no weight among others. */
INLINE float weight_of(float imp, double per_mean) { return (float)(imp * per_mean) + 0x1p-16f; }

/* d and m of least squared error for these sums over a block; 0 where they give none. */
INLINE int solve(const whit_kshape *k, double aa, double ab, double bb, double ax, double bx, double *d, double *m) {
	double det = aa * bb - ab * ab;
	if (det > 1e-5 * aa * bb) {
		*d = (ax * bb - bx * ab) / det;
		*m = (ab * ax - aa * bx) / det;
	} else if (aa > 0 && !(bb > 0))
		*d = ax / aa;
	else
		return 0;
	return !k->min_hi || (*d > 0 && *m >= 0);
}

/* By how much d and m are lengthened, for a block's error and its weighted squares. */
INLINE double longer(double error, double xx) { return xx > 0 ? 1 + LENGTHENING * fmin(1.0, error / xx) : 1; }
