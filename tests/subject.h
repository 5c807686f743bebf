/* subject: a model, its tokenizer and eval/demo.txt, for tests that run the one over the other. */
#ifndef WHIT_TEST_SUBJECT_H
#define WHIT_TEST_SUBJECT_H
#include "host/engine.h"
#include "host/tokenizer.h"
#include "tests/test.h"

static whit_err e;

typedef struct subject {
	char *dir;
	whit_model m;
	whit_tok *tok;
	char *text;
	size_t n;
} subject;

static int subject_open(subject *s, char *dir) {
	memset(s, 0, sizeof *s);
	if (!(s->dir = dir)) return 0;
	char *path = whit_format_text("%s/eval/demo.txt", WHIT_SOURCE);
	s->text = test_read(path, &s->n);
	whit_free(path);
	return CHECK(s->text != NULL) && CHECK_RC(whit_model_open(&s->m, dir, 0, &e), e) &&
	       CHECK_RC(whit_tok_open(&s->tok, dir, &e), e);
}

static void subject_close(subject *s) {
	if (!s->dir) return;
	whit_tok_close(s->tok);
	whit_model_close(&s->m);
	free(s->text);
	whit_free(s->dir);
}
#endif
