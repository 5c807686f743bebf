/* conv: batches with and without a past, against the CPU's sequence by sequence; its gradient */
#include <math.h>
#include "tests/case_spans.h"

static const struct {
	int64_t channels, taps, len[SPANS];
	int past;
} rows[] = {
        {1, 1, {1, -1}, 0},        {5, 4, {1, -1}, 1},          {130, 4, {2, 0, 1, 7}, 1}, /* few: a thread a channel */
        {130, 4, {2, 0, 1, 7}, 0}, {7, 3, {30, 0, 1, -1}, 1},                              /* many: a thread a value */
        {300, 4, {70, 65, -1}, 1}, {129, 4, {3, 130, -1}, 0}, /* partial sums across the ends of sequences */
        {3, 9, {4, 20, -1}, 1},                               /* more taps than tokens */
        {4, 4, {0, -1}, 1},        {10240, 4, {1, 1, 1, 1}, 1}, {10240, 4, {512, -1}, 1},
};

/* What the sums of one sequence may be off by, in roundings of silu's argument: sum |w x|. */
static void sizes(float *mag, const float *x, const float *w, const float *past, int64_t T, int64_t channels,
                  int64_t taps) {
	for (int64_t i = 0; i < T * channels; i++) {
		double sum = 0;
		for (int64_t k = 0; k < taps; k++) {
			int64_t t = i / channels - taps + 1 + k, c = i % channels;
			double in = t >= 0 ? x[t * channels + c] : past ? past[(t + taps - 1) * channels + c] : 0;
			sum += fabs(w[c * taps + k] * in);
		}
		mag[i] = (float)sum;
	}
}

/* In units of 2^-24: a sum's taps + 1 roundings move silu's slope, that bends by 1/2 at most, so dsum by `lost` of dy;
 * then a sum over taps, or over 64 tokens and all parts in double, of terms 1.1 dy at most. */
static void back_sizes(float *mx, float *mw, const float *mag, const float *dy, const float *x, const float *w,
                       int64_t T, int64_t channels, int64_t taps) {
	for (int64_t i = 0; i < T * channels; i++) {
		int64_t t = i / channels, c = i % channels;
		double lost = 0.5 * (double)(taps + 1) * mag[i] + 10;
		for (int64_t k = 0; k < taps; k++) {
			int64_t in = t - taps + 1 + k;
			if (in < 0) continue;
			mx[in * channels + c] +=
			        (float)((lost + 1.1 * (double)(taps + 2)) * fabs((double)w[c * taps + k] * dy[i]));
			mw[c * taps + k] += (float)((lost + 1.1 * 68) * fabs((double)x[in * channels + c] * dy[i]));
		}
	}
}

static void back(case_run *r, const case_spans *b, const float *x, const float *w, int64_t channels, int64_t taps) {
	int64_t n = b->T * channels, nw = channels * taps;
	size_t bytes = (size_t)n * sizeof(float);
	float *dy = case_normal(r, n), *init = case_normal(r, n + nw), *want = case_host(r, bytes),
	      *dw = case_host(r, (size_t)nw * sizeof *dw);
	float *mag = case_host(r, bytes), *mx = case_host(r, bytes), *mw = case_host(r, (size_t)nw * sizeof *mw);
	memcpy(want, init, bytes), memcpy(dw, init + n, (size_t)nw * sizeof *dw);
	for (int64_t i = 0; i < n; i++) mx[i] = 2 * fabsf(init[i]);
	for (int64_t i = 0; i < nw; i++) mw[i] = 2 * (1 + (float)b->n_seq) * fabsf(init[n + i]);
	for (int s = 0; s < b->n_seq; s++) {
		int64_t at = b->start[s] * channels, T = b->start[s + 1] - b->start[s];
		whit_conv_back_cpu(want + at, dw, dy + at, x + at, w, T, channels, taps);
		sizes(mag + at, x + at, w, NULL, T, channels, taps);
		back_sizes(mx + at, mw, mag + at, dy + at, x + at, w, T, channels, taps);
	}
	for (int64_t i = 0; i < nw; i++) mw[i] += 2 * fabsf(dw[i]); /* of a sum of sequences, rounded in between */
	float *idy = case_in(r, dy, bytes), *ix = case_in(r, x, bytes), *iw = case_in(r, w, (size_t)nw * sizeof *w),
	      *gx = case_inout(r, init, n), *gw = case_inout(r, init + n, nw);
	for (int s = 0; !r->dev && s < b->n_seq; s++) {
		int64_t at = b->start[s] * channels, T = b->start[s + 1] - b->start[s];
		whit_conv_back_fast_cpu(gx + at, NULL, idy + at, ix + at, iw, T, channels, taps, &r->host);
		whit_conv_back_fast_cpu(NULL, gw, idy + at, ix + at, iw, T, channels, taps, &r->host);
	}
	if (r->dev) {
		whit_conv_back_cuda(r->dev, gx, NULL, idy, ix, iw, &b->dev, channels, taps);
		whit_conv_back_cuda(r->dev, NULL, gw, idy, ix, iw, &b->dev, channels, taps);
	}
	case_near(r, gx, want, mx, n, 0x1p-24);
	case_near(r, gw, dw, mw, nw, 0x1p-24);
}

static void row(case_run *r, int i) {
	static const int64_t none[SPANS] = {0};
	int64_t channels = rows[i].channels, taps = rows[i].taps, kept = (taps - 1) * channels;
	case_spans b;
	case_spans_make(r, &b, rows[i].len, none);
	int64_t n = b.T * channels;
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "%lld channels, %lld taps, %d sequences, %lld tokens%s", (long long)channels, (long long)taps,
	           b.n_seq, (long long)b.T, rows[i].past ? ", a past" : "");
	size_t bytes = (size_t)n * sizeof(float);
	float *x = case_normal(r, n), *w = case_normal(r, channels * taps), *past[SPANS] = {NULL},
	      *first[SPANS] = {NULL};
	float *want = case_host(r, bytes), *mag = case_host(r, bytes);
	for (int s = 0; s < b.n_seq; s++) {
		int64_t at = b.start[s] * channels, T = b.start[s + 1] - b.start[s];
		if (rows[i].past) first[s] = case_normal(r, kept), past[s] = case_host(r, (size_t)kept * 4);
		if (rows[i].past) memcpy(past[s], first[s], (size_t)kept * sizeof(float));
		sizes(mag + at, x + at, w, first[s], T, channels, taps);
		whit_conv_cpu(want + at, x + at, w, past[s], T, channels, taps);
	}
	/* a product and a sum a tap, silu changes 1.1 as fast as its argument; exp, sum, quotient, product */
	double tol = (1.1 * (double)(taps + 1) + 8) * 0x1p-24;
	float *ix = case_in(r, x, bytes), *iw = case_in(r, w, (size_t)(channels * taps) * sizeof *w);
	for (int plain = 0; plain <= !!r->dev; plain++) {
		float *y = case_out(r, n), *block[SPANS] = {NULL};
		for (int s = 0; rows[i].past && s < b.n_seq; s++) block[s] = case_inout(r, first[s], kept);
		for (int s = 0; !r->dev && s < b.n_seq; s++) {
			int64_t at = b.start[s] * channels, T = b.start[s + 1] - b.start[s];
			whit_conv_fast_cpu(y + at, ix + at, iw, block[s], T, channels, taps);
		}
		if (r->dev) {
			void *const *state = rows[i].past ? case_in(r, block, sizeof block) : NULL;
			int was = whit_dev_plain(r->dev, plain);
			whit_conv_cuda(r->dev, y, ix, iw, state, &b.dev, channels, taps);
			whit_dev_plain(r->dev, was);
		}
		case_near(r, y, want, mag, n, tol);
		for (int s = 0; rows[i].past && s < b.n_seq; s++) case_same(r, block[s], past[s], kept);
	}
	back(r, &b, x, w, channels, taps);
}

const case_set cases_conv = {"conv", WHIT_COUNT(rows), row, 3};
