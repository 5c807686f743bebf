/* Input: a GGUF whose metadata is read as a tokenizer. */
#include "host/progress.h"
#include "tests/fuzz_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	static const char text[] = "a ab'll  12 ab\n\xff\xc3\xa9 e\xcc\x81<s>\xe2\x96\x81</s> x aabb";
	whit_gguf g;
	whit_tok *t;
	whit_err e;
	if (whit_gguf_parse(&g, data, n, "fuzz", &e)) return 0;
	whit_quiet(1);
	int rc = whit_tok_from_gguf(&t, &g, &e);
	whit_gguf_close(&g); /* t lives on */
	if (rc) return 0;
	fuzz_tokenizer(t, text, sizeof text - 1);
	whit_tok_close(t);
	return 0;
}
