/* embed: rows of a matrix by token, bit for bit. */
#include "host/ops.h"
#include "tests/case_mat.h"

static const struct {
	const char *format;
	int64_t vocab, width, T, paired;
} rows[] = {{"f32", 5, 33, 7, 0},   {"f16", 9, 64, 3, 0},      {"bf16", 8, 300, 1, 4},       {"f32", 3, 8, 0, 0},
            {"q4_k", 4, 256, 5, 0}, {"tq4g128", 6, 128, 9, 0}, {"bf16", 50000, 1024, 512, 0}};

static void row(case_run *r, int i) {
	int64_t T = rows[i].T, width = rows[i].width, n = T * width;
	if (case_skip_big(r, rows[i].vocab > 1000)) return;
	case_label(r, "%s %lld of %lld x %lld", rows[i].format, (long long)T, (long long)rows[i].vocab,
	           (long long)width);
	whit_mat m = case_mat(r, rows[i].format, rows[i].vocab, width, 1);
	m.paired = rows[i].paired;
	int32_t *tokens = case_host(r, (size_t)(T + 1) * sizeof *tokens);
	for (int64_t t = 0; t < T; t++) tokens[t] = (int32_t)((t * 7 + 3) % rows[i].vocab);
	float *want = case_host(r, (size_t)n * sizeof *want), *y = case_out(r, n);
	whit_embed_cpu(want, tokens, T, &m);
	whit_mat at = case_mat_in(r, &m);
	if (r->dev)
		whit_embed_cuda(r->dev, y, case_in(r, tokens, (size_t)T * sizeof *tokens), T, &at);
	else
		whit_embed_fast_cpu(y, tokens, T, &at);
	case_same(r, y, want, n);
}

const case_set cases_embed = {"embed", WHIT_COUNT(rows), row, 0};
