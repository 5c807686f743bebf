/* kquant_fast: the trials of kquant.c, over 16 groups side by side: kquant_simd.h compiled as plain C and for each
 * vector level. */
#ifndef WHIT_KQUANT_FAST_H
#define WHIT_KQUANT_FAST_H
#include "formats/kquant.h"
#include "formats/simd.h"

#ifndef WHIT_KLANES /* the device has one a thread */
#define WHIT_KLANES 16
#endif
/* Lane g is group g of one block of 16 groups, or group g % 8 of block g / 8 of two. */
typedef struct whit_kpanel {
	int n;                                          /* weights of a group, 16 or 32 */
	float x[32 * WHIT_KLANES], w[32 * WHIT_KLANES]; /* [i * WHIT_KLANES + g]: weight i, what its square counts */
	float sw[WHIT_KLANES], swx[WHIT_KLANES], swxx[WHIT_KLANES]; /* sums of w, w x, w x x: by groups */
} whit_kpanel;

/* Groups' steps and minima as real numbers, their errors and sums over their codes q: w q, w q q, w q x. */
typedef struct whit_kfit {
	float step[WHIT_KLANES], min[WHIT_KLANES], err[WHIT_KLANES];
	float q[WHIT_KLANES], qq[WHIT_KLANES], qx[WHIT_KLANES];
} whit_kfit;

/* groups: the sums of the panel; then each group alone. Without minima fit[0] has steps below 0, fit[1] above it;
 * otherwise fit[0] is all. near: given d and m per lane, the best integers near any of the fits, as floats, and how
 * they fit. codes: nearest ones for these steps and minima, [i * WHIT_KLANES + g], less code_lo. */
#define WHIT_KQUANT_FAST(level)                                                                                        \
	void whit_kquant_groups_##level(whit_kpanel *p, const whit_kshape *k, whit_kfit fit[2]);                       \
	void whit_kquant_near_##level(const whit_kpanel *p, const whit_kshape *k, const float *d, const float *m,      \
	                              const whit_kfit *fit, int fits, int reach, int min_reach, float *scale,          \
	                              float *min, whit_kfit *out);                                                     \
	void whit_kquant_codes_##level(const whit_kpanel *p, const whit_kshape *k, const float *step,                  \
	                               const float *min, uint8_t *code);
WHIT_KQUANT_FAST(plain)
WHIT_KQUANT_FAST(avx2)
WHIT_KQUANT_FAST(avx512)
#undef WHIT_KQUANT_FAST
#endif
