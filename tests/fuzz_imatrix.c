/* fuzz_imatrix: any bytes as an importance matrix, GGUF or the older form. What the reader accepts must be finite and
 * in order. */
#include "formats/imatrix.h"
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	whit_imatrix m;
	whit_err e = {0};
	if (whit_imatrix_parse(&m, data, n, "fuzz", &e)) {
		if (!e.text[0] || m.w || m.path) abort();
		return 0;
	}
	for (int64_t i = 0; i < m.n; i++) {
		const whit_importance *w = &m.w[i];
		if (!w->name[0] || w->cols < 1 || !(w->count >= 0)) abort();
		if (i && strcmp(m.w[i - 1].name, w->name) >= 0) abort();
		for (int64_t k = 0; k < w->cols; k++)
			if (!(w->mean[k] >= 0) || !isfinite(w->mean[k]) || !isfinite(w->sum2[k])) abort();
	}
	whit_imatrix_close(&m);
	return 0;
}
