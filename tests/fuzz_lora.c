/* fuzz_lora: any bytes as an adapter. What the reader accepts must be pairs that fit, finite, to the last number. */
#include "formats/lora.h"
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	whit_lora l;
	whit_err e = {0};
	if (whit_lora_parse(&l, data, n, "fuzz", "llama", &e)) {
		if (!e.text[0] || l.pair || l.gguf.t) abort();
		return 0;
	}
	if (l.n < 1) abort();
	for (int64_t i = 0; i < l.n; i++) {
		const whit_lora_pair *p = &l.pair[i];
		if (!p->name[0] || p->rank < 1 || p->rank > WHIT_MIN(p->rows, p->cols) || !isfinite(p->scale)) abort();
		float *a = whit_alloc((size_t)(p->rank * (p->rows + p->cols)) * sizeof *a), *b = a + p->rank * p->cols;
		whit_lora_floats(p, a, b);
		if (whit_first_nonfinite(a, p->rank * (p->rows + p->cols)) >= 0) abort();
		whit_free(a);
	}
	whit_lora_close(&l);
	return 0;
}
