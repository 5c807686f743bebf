/* fwht: the same bits as the CPU's fast twin, which adds in the same order; that one against the plain one. 16-bit
 * values are that twin's, rounded once. */
#include "formats/tensor.h"
#include "host/ops.h"
#include "tests/case.h"
#include <math.h>

static const struct {
	int64_t rows, n;
	int dtype, off; /* values by which the rows miss alignment */
} rows[] = {{1, 2, WHIT_F32, 0},
            {3, 1, WHIT_F32, 0},
            {5, 4, WHIT_F32, 0},
            {2, 16, WHIT_F32, 0},
            {0, 64, WHIT_F32, 0},
            {3, 32, WHIT_F32, 0},
            {7, 64, WHIT_F32, 0},
            {9, 128, WHIT_F32, 0},
            {2, 256, WHIT_F32, 0},
            {7, 512, WHIT_F32, 0},
            {3, 1024, WHIT_F32, 0},
            {3, 2048, WHIT_F32, 0},
            {3, 4096, WHIT_F32, 0},
            {1, 8192, WHIT_F32, 0},
            {1, 16384, WHIT_F32, 0},
            {1, 32768, WHIT_F32, 0},
            /* rows of no whole fours; what lies askew; more rows than a grid has in its second direction */
            {3, 2, WHIT_F32, 0},
            {5, 4, WHIT_F32, 3},
            {40, 64, WHIT_F32, 1},
            {5, 512, WHIT_F32, 2},
            {3, 1024, WHIT_F32, 1},
            {1, 2048, WHIT_F32, 1},
            {2, 4096, WHIT_F32, 1},
            {1, 16384, WHIT_F32, 3},
            {1, 32768, WHIT_F32, 1},
            {1, 65536, WHIT_F32, 2},
            {66000, 2, WHIT_F32, 0},
            {600, 256, WHIT_F32, 0},
            /* 16 bits */
            {3, 1, WHIT_F16, 0},
            {3, 2, WHIT_F16, 1},
            {5, 16, WHIT_BF16, 0},
            {600, 128, WHIT_F16, 0},
            {7, 512, WHIT_BF16, 1},
            {3, 1024, WHIT_F16, 0},
            {1, 2048, WHIT_BF16, 0},
            {3, 2048, WHIT_F16, 3},
            {2, 4096, WHIT_F16, 0},
            {1, 8192, WHIT_BF16, 2},
            {1, 16384, WHIT_F16, 0},
            {1, 32768, WHIT_F16, 0},
            {1, 32768, WHIT_BF16, 1},
            {1, 65536, WHIT_F16, 0},
            {2048, 4096, WHIT_F32, 0},
            {700, 32768, WHIT_F32, 0},
            {1400, 32768, WHIT_F16, 0},
            {5000, 8192, WHIT_BF16, 0}};

static float from(const uint8_t *p, int dtype, int64_t i) {
	if (dtype == WHIT_F32) return ((const float *)(const void *)p)[i];
	uint16_t bits = ((const uint16_t *)(const void *)p)[i];
	return dtype == WHIT_F16 ? whit_f16_to_f32(bits) : whit_bf16_to_f32(bits);
}

/* rows (n), stored as rows[i] says, `skip` bytes into bytes that stay as they are. */
static void on_device(case_run *r, int i, const uint8_t *init, const uint8_t *want, int64_t words, size_t skip) {
	for (int plain = 0; plain < 2; plain++) {
		uint8_t *y = (uint8_t *)case_inout(r, (const float *)(const void *)init, words);
		whit_dev_reset(r->dev);
		whit_dev_plain(r->dev, plain);
		whit_fwht_stored_cuda(r->dev, y + skip, rows[i].dtype, rows[i].rows, rows[i].n);
		whit_dev_plain(r->dev, 0);
		case_bits(r, y, (const uint32_t *)(const void *)want, words);
	}
}

static void row(case_run *r, int i) {
	int64_t n = rows[i].n, all = rows[i].rows * n, stages = 0;
	int dtype = rows[i].dtype;
	size_t size = dtype == WHIT_F32 ? 4 : 2, skip = (size_t)rows[i].off * size, bytes = (size_t)all * size;
	int64_t words = (int64_t)(skip + bytes + 3) / 4;
	if (case_skip_big(r, all > 200000)) return;
	case_label(r, "%s %lld x %lld, %d off", whit_dtype_name(dtype), (long long)rows[i].rows, (long long)n,
	           rows[i].off);
	float *x = case_normal(r, all);
	if (i == 0) x[0] = 3, x[1] = 5;
	uint8_t *init = case_host(r, (size_t)words * 4), *want = case_host(r, (size_t)words * 4), *at = init + skip;
	memset(init, 0x11, (size_t)words * 4);
	if (dtype == WHIT_F32) memcpy(at, x, bytes);
	for (int64_t k = 0; k < all && dtype != WHIT_F32; k++) {
		((uint16_t *)(void *)at)[k] = dtype == WHIT_F16 ? whit_f32_to_f16(x[k]) : whit_f32_to_bf16(x[k]);
		x[k] = from(at, dtype, k);
	}
	memcpy(want, init, (size_t)words * 4);
	whit_fwht_stored_cpu(want + skip, dtype, rows[i].rows, n);
	if (r->dev) {
		on_device(r, i, init, want, words, skip);
		if (n < 32768) return;
		case_shared(r->dev, 163 << 10); /* an A100's */
		on_device(r, i, init, want, words, skip);
		case_shared(r->dev, 0);
		return;
	}
	float *plain = case_host(r, (size_t)all * sizeof *plain), *mag = case_host(r, (size_t)all * sizeof *mag);
	memcpy(plain, x, (size_t)all * sizeof *x);
	whit_fwht_cpu(plain, rows[i].rows, n);
	if (i == 0 && !(plain[0] == 8 && plain[1] == -2))
		case_fail(r, "by hand: is (%g, %g), need (8, -2)", plain[0], plain[1]);
	while ((int64_t)1 << stages < n) stages++;
	double last = dtype == WHIT_F32 ? 0 : dtype == WHIT_F16 ? 0x1p-11 : 0x1p-8, sum = 0;
	for (int64_t k = 0; k < all; k++) { /* each stage rounds once: log2(n) * 2^-24 of the sum of magnitudes */
		if (k % n == 0) {
			sum = 0;
			for (int64_t j = k; j < k + n; j++) sum += fabsf(x[j]);
		}
		mag[k] = (float)(sum * (double)(stages + 1) * 0x1p-24 + fabsf(plain[k]) * last * 1.01);
	}
	float *y = case_inout(r, x, all);
	for (int64_t k = 0; k < all; k++) y[k] = from(want + skip, dtype, k);
	case_near(r, y, plain, mag, all, 1);
}

const case_set cases_fwht = {"fwht", WHIT_COUNT(rows), row, 0};
