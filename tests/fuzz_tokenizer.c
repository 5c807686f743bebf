/* Input: a tokenizer.json, and behind its first NUL byte a text to encode. Encoding may fail; ids stay in the
 * vocabulary; what comes back decodes. */
#include "host/tokenizer.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	static const char standard[] = "a ab'll  12\n\xff\xc3\xa9 e\xcc\x81<s>\xe2\x96\x81</s> x";
	const uint8_t *nul = memchr(data, 0, n);
	size_t n_json = nul ? (size_t)(nul - data) : n, len;
	const char *text = nul ? (const char *)nul + 1 : standard;
	size_t n_text = nul ? n - n_json - 1 : sizeof standard - 1;
	whit_tok *t;
	whit_err e;
	if (whit_tok_parse(&t, (const char *)data, n_json, NULL, 0, "fuzz", &e)) return 0;
	for (unsigned flags = 0; flags < 4; flags++) {
		whit_ids ids = {0};
		if (whit_tok_encode(t, text, n_text, flags, &ids, &e) == 0) {
			for (int64_t i = 0; i < ids.n; i++)
				if (ids.id[i] < 0 || ids.id[i] >= whit_tok_vocab(t)) abort();
			whit_free(whit_tok_decode(t, ids.id, ids.n, (int)(flags & 1), &len));
		}
		whit_ids_free(&ids);
	}
	whit_tok_close(t);
	return 0;
}
