/* fuzz_logits: any bytes as a base-logits file. What the reader accepts lies inside the bytes to the last one. */
#include "eval/logits.h"
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	whit_logits l;
	whit_err e = {0};
	if (whit_logits_parse(&l, data, n, "fuzz", &e)) {
		if (!e.text[0] || l.row) abort();
		return 0;
	}
	int64_t rows = l.chunks * l.rows, tokens = l.ctx * l.chunks;
	if (l.row + (size_t)rows * l.row_bytes != data + n) abort();
	int32_t *ids = malloc((size_t)tokens * sizeof *ids);
	memcpy(ids, l.tokens, (size_t)tokens * sizeof *ids);
	if (whit_logits_match(&l, ids, tokens, l.ctx, l.vocab, "text", &e)) abort();
	ids[tokens - 1] ^= 1;
	if (!whit_logits_match(&l, ids, tokens, l.ctx, l.vocab, "text", &e)) abort();
	free(ids);
	float *row = malloc((size_t)l.vocab * sizeof *row);
	for (int64_t i = 0; i < rows; i++) {
		if (whit_logits_row(&l, i, row, &e)) continue;
		for (int64_t v = 0; v < l.vocab; v++)
			if (!isfinite(row[v]) || !(row[v] <= 1)) abort();
	}
	free(row);
	whit_logits_close(&l);
	return 0;
}
