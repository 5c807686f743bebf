/* Input: a tokenizer.json, and behind its first NUL byte a text to encode. */
#include "tests/fuzz_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	static const char standard[] = "a ab'll  12\n\xff\xc3\xa9 e\xcc\x81<s>\xe2\x96\x81</s> x";
	const uint8_t *nul = memchr(data, 0, n);
	size_t n_json = nul ? (size_t)(nul - data) : n;
	const char *text = nul ? (const char *)nul + 1 : standard;
	size_t n_text = nul ? n - n_json - 1 : sizeof standard - 1;
	whit_tok *t;
	whit_err e;
	if (whit_tok_parse(&t, (const char *)data, n_json, NULL, 0, "fuzz", &e)) return 0;
	fuzz_tokenizer(t, text, n_text);
	whit_tok_close(t);
	return 0;
}
