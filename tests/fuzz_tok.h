/* fuzz_tok: what any tokenizer that opened must stand. Encoding may fail; ids stay in the vocabulary; what comes back
 * decodes. */
#include <stdlib.h>
#include "host/tokenizer.h"

static void fuzz_tokenizer(const whit_tok *t, const char *text, size_t n) {
	for (unsigned flags = 0; flags < 4; flags++) {
		whit_ids ids = {0};
		size_t len;
		whit_err e;
		if (whit_tok_encode(t, text, n, flags, &ids, &e) == 0) {
			for (int64_t i = 0; i < ids.n; i++)
				if (ids.id[i] < 0 || ids.id[i] >= whit_tok_vocab(t)) abort();
			whit_free(whit_tok_decode(t, ids.id, ids.n, (int)(flags & 1), &len));
		}
		whit_ids_free(&ids);
	}
}
