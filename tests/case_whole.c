/* whole: tests/case_whole.h. */
#include "tests/case_whole.h"

/* Sums in 32 bits and in another order, over a few hundred terms and two layers, or a delta net: test_model.c's. */
double case_whole_tol(const whit_model *m) { return strncmp(m->arch->name, "qwen3_5", 7) ? 2e-5 : 1e-4; }
/* test_gradients.c's: what a delta net magnifies is magnified twice. */
double case_whole_grad_tol(const whit_model *m) { return strncmp(m->arch->name, "qwen3_5", 7) ? 2e-5 : 1e-3; }

const whit_batch *case_text_set(case_text *t, int n_seq, int64_t T, int64_t past, int64_t vocab) {
	for (int s = 0; s < n_seq; s++) {
		t->start[s] = s * T;
		t->past[s] = past;
		for (int64_t i = 0; i < T; i++) {
			t->pos[s * T + i] = past + i;
			t->token[s * T + i] = (int32_t)(((past + i) * 37 + s * 11 + 5) % vocab);
		}
	}
	t->start[n_seq] = n_seq * T;
	t->b = (whit_batch){n_seq * T, n_seq, t->start, t->past, t->pos, t->token};
	return &t->b;
}

int case_whole_open(case_run *r, whit_model *m, const char *path, whit_dev *dev, size_t limit) {
	whit_err e = {0};
	whit_model *one = m;
	int rc = whit_model_open(m, path, 0, &e);
	if (!rc && dev) {
		whit_dev_limit(dev, limit);
		rc = whit_models_device(&one, 1, dev, 0, &e);
		whit_dev_limit(dev, 0);
		if (rc) whit_model_close(m);
	}
	if (rc) case_fail(r, "%s", e.text);
	return rc;
}
