/* Input: a GGUF whose metadata is read as a tokenizer. Encoding may fail; ids stay in the vocabulary; what comes back
 * decodes. */
#include "host/progress.h"
#include "host/tokenizer.h"
#include <stdlib.h>

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
	for (unsigned flags = 0; flags < 4; flags++) {
		whit_ids ids = {0};
		size_t len;
		if (whit_tok_encode(t, text, sizeof text - 1, flags, &ids, &e) == 0) {
			for (int64_t i = 0; i < ids.n; i++)
				if (ids.id[i] < 0 || ids.id[i] >= whit_tok_vocab(t)) abort();
			whit_free(whit_tok_decode(t, ids.id, ids.n, (int)(flags & 1), &len));
		}
		whit_ids_free(&ids);
	}
	whit_tok_close(t);
	return 0;
}
