/* generate: continues a prompt; the text goes to stdout as it comes. */
#include <stdio.h>
#include "eval/eval.h"
#include "host/commands.h"
#include "host/device.h"
#include "host/progress.h"

/* Text that grows by tokens whose bytes may be a part of a character. */
typedef struct stream {
	const whit_tok *tok;
	whit_ids ids;       /* prompt and what followed */
	int64_t from, done; /* text of ids [0, done) is printed; [from, done) is what the next ids are decoded after */
} stream;

/* Whether the text ends inside a UTF-8 sequence. */
static int is_cut(const char *s, size_t n) {
	for (size_t k = 1; k <= 3 && k <= n; k++) {
		unsigned char c = (unsigned char)s[n - k];
		if ((c & 0xc0) == 0x80) continue;
		return c >= 0xc0 && k < (c >= 0xf0 ? 4u : c >= 0xe0 ? 3u : 2u);
	}
	return 0;
}

/* Prints what the ids after done add, unless it ends in a part of a character and more may come. Decoding
 * begins a few ids earlier because the first piece of a text may lose its space. */
static void print_new(stream *s, int last) {
	size_t n, before;
	char *all = whit_tok_decode(s->tok, s->ids.id + s->from, s->ids.n - s->from, 1, &n);
	char *old = whit_tok_decode(s->tok, s->ids.id + s->from, s->done - s->from, 1, &before);
	if (n > before && (last || !is_cut(all, n))) {
		fwrite(all + before, 1, n - before, stdout);
		fflush(stdout);
		s->from = s->done;
		s->done = s->ids.n;
	}
	whit_free(all);
	whit_free(old);
}

static void on_token(void *ctx, int32_t id) {
	stream *s = ctx;
	whit_ids_push(&s->ids, id);
	print_new(s, 0);
}

static int run(whit_model *m, whit_dev *dev, const whit_tok *tok, const char *prompt, int64_t n, double temp,
               int64_t seed, int64_t ctx, whit_err *e) {
	stream s = {.tok = tok};
	whit_ids out = {0};
	int rc = whit_tok_encode(tok, prompt, strlen(prompt), WHIT_TOK_SPECIAL | WHIT_TOK_PARSE, &s.ids, e);
	if (!rc && s.ids.n == 0 && m->bos >= 0) whit_ids_push(&s.ids, m->bos);
	int64_t n_prompt = s.done = s.ids.n;
	if (!rc && n_prompt + n > ctx)
		rc = whit_fail(e, WHIT_EUSAGE,
		               "generate: a prompt of %lld tokens and %lld new ones make %lld, the context is %lld",
		               (long long)n_prompt, (long long)n, (long long)(n_prompt + n), (long long)ctx);
	if (!rc) rc = whit_models_device(&m, 1, dev, whit_model_need(m, WHIT_PROMPT_CHUNK, 1, 1, n_prompt + n), e);
	if (!rc) {
		int32_t *ids = whit_alloc((size_t)(n_prompt + 1) * sizeof *ids); /* s.ids moves as it grows */
		memcpy(ids, s.ids.id, (size_t)n_prompt * sizeof *ids);
		double begin = whit_now();
		fputs(prompt, stdout);
		rc = whit_generate(m, ids, n_prompt, n, temp, (uint64_t)seed, &out, on_token, &s, e);
		print_new(&s, 1);
		putchar('\n');
		whit_free(ids);
		double took = whit_now() - begin;
		if (!rc)
			whit_say("%lld tokens after a prompt of %lld%s, %.2f s, %.1f tokens/s in all", (long long)out.n,
			         (long long)n_prompt, out.n < n ? " (the model ended the text)" : "", took,
			         (double)(n_prompt + out.n) / took);
	}
	whit_ids_free(&s.ids);
	whit_ids_free(&out);
	if (!rc && (fflush(stdout) || ferror(stdout)))
		rc = whit_fail(e, WHIT_ERESOURCE, "generate: writing to stdout failed");
	return rc;
}

int whit_cmd_generate(int argc, char **argv, whit_err *e) {
	const char *path = NULL, *lora = NULL, *prompt = NULL, *compute = "packed", *kv = "f32", *tune = NULL;
	int64_t n = 64, seed = 0, ctx = 0;
	double temp = 0;
	const whit_opt opt[] = {
	        {"MODEL", 'r', "MODEL", "Hugging Face directory, GGUF file, or one that whit wrote", &path, 1},
	        {"--lora", 'r', "FILE",
	         "adapter (GGUF) that is added to MODEL's matrices as they are loaded: these become F32, 4 bytes a "
	         "weight",
	         &lora, 0},
	        {"--prompt", 's', "TEXT", "what to continue; special tokens written in it count as such", &prompt, 1},
	        {"-n", 'i', "N", "new tokens at most (default 64)", &n, 0},
	        {"--temp", 'd', "T", "temperature of sampling; 0 takes the likeliest token (default 0)", &temp, 0},
	        {"--seed", 'i', "N", "of the draws: the same seed, the same text (default 0)", &seed, 0},
	        {"--ctx", 'i', "N", "tokens of prompt and text together (default: the model's context)", &ctx, 0},
	        {"--compute", 's', "HOW", "packed (from the codes) or float (decoded at load) (default packed)",
	         &compute, 0},
	        {"--kv", 's', "TYPE", "of keys and values in a device's cache: f32 or f16 (default f32)", &kv, 0},
	        WHIT_TUNE_OPTION(tune),
	        {0}};
	int rc = whit_options("generate", "continue a prompt", opt, argc, argv, e);
	if (rc) return rc < 0 ? rc : 0;
	int packed = !strcmp(compute, "packed");
	if (!packed && strcmp(compute, "float"))
		return whit_fail(e, WHIT_EUSAGE, "generate: --compute is %s, need packed or float", compute);
	int type;
	if ((rc = whit_device_kv(&type, "generate", kv, e))) return rc;
	if (n < 1) return whit_fail(e, WHIT_EUSAGE, "generate: -n is %lld, need 1 or more", (long long)n);
	if (ctx < 0) return whit_fail(e, WHIT_EUSAGE, "generate: --ctx is %lld, need 1 or more", (long long)ctx);
	whit_model m;
	whit_tok *tok = NULL;
	whit_dev *dev;
	if ((rc = whit_device_open_tuned(&dev, tune, e))) return rc;
	rc = whit_model_open(&m, path, packed ? 0 : WHIT_OPEN_DECODE, e);
	if (rc) goto out;
	m.kv = type;
	if (lora) rc = whit_model_adapt(&m, lora, &(whit_adapted){0}, e);
	if (!rc && ctx > m.context)
		rc = whit_fail(e, WHIT_EUSAGE, "generate: --ctx is %lld, the model's context is %lld", (long long)ctx,
		               (long long)m.context);
	if (!rc) rc = whit_tok_open(&tok, m.ckpt.path, e);
	if (!rc && whit_tok_vocab(tok) > m.vocab)
		rc = whit_fail(e, WHIT_EINPUT,
		               "%s: the tokenizer has ids up to %lld, need less than the %lld rows of the embedding",
		               path, (long long)whit_tok_vocab(tok) - 1, (long long)m.vocab);
	if (!rc) rc = run(&m, dev, tok, prompt, n, temp, seed, ctx ? ctx : m.context, e);
	if (tok) whit_tok_close(tok);
	whit_model_close(&m);
out:
	whit_device_close(dev);
	return rc;
}
