/* tok_text: a file's bytes as the ids that evaluation and calibration run on, with what is wrong with them said once.
 */
#include <utf8proc.h>
#include "host/progress.h"
#include "host/tokenizer.h"

static int64_t count_invalid(const char *text, size_t n) {
	int64_t bad = 0;
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t c;
		utf8proc_ssize_t k =
		        utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &c);
		bad += k < 1;
		i += k < 1 ? 1 : (size_t)k;
	}
	return bad;
}

int whit_tok_text(const whit_tok *t, const char *name, const char *text, size_t n, int64_t vocab, whit_ids *out,
                  int64_t *invalid, whit_err *e) {
	int64_t before = out->n;
	int rc;
	if (n == 0) return whit_fail(e, WHIT_EINPUT, "%s: is empty, need text", name);
	*invalid = count_invalid(text, n);
	if (*invalid)
		whit_say("warning: %s: %lld of %lld bytes are not UTF-8; they are tokenized as bytes", name,
		         (long long)*invalid, (long long)n);
	if ((rc = whit_tok_encode(t, text, n, WHIT_TOK_SPECIAL, out, e))) return whit_fail_in(e, "%s", name);
	for (int64_t i = before; i < out->n; i++)
		if (out->id[i] < 0 || out->id[i] >= vocab)
			return whit_fail(e, WHIT_EINPUT,
			                 "%s: token %lld is id %d, need one below the model's vocabulary %lld", name,
			                 (long long)(i - before), out->id[i], (long long)vocab);
	return 0;
}
