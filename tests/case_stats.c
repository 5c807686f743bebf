/* stats: what whit calibrate sums up over a text, on a device against the CPU: every tensor of every layer, both
 * estimators that draw nothing, another model's inputs, streamed layers, several groups of chunks. */
#include <math.h>
#include "calib/stats.h"
#include "tests/case_whole.h"

enum {
	ALL = WHIT_STAT_DIAG | WHIT_STAT_HESSIAN | WHIT_STAT_FISHER | WHIT_STAT_FISHER_FULL | WHIT_STAT_GRADSQ |
	      WHIT_STAT_GUIDED | WHIT_STAT_WEIGHTS | WHIT_STAT_SIZE,
	RUNNING = WHIT_STAT_HESSIAN | WHIT_STAT_WEIGHTED /* by the weights of a run before */
};
#define GOLDEN WHIT_SOURCE "/tests/golden/models/"
static const struct {
	const char *model, *other; /* other: cross's */
	int estimator, streams, running;
} rows[] = {{GOLDEN "llama-f32", GOLDEN "llama-yarn-f16", WHIT_FISHER_SEQ, 0, 0},
            {GOLDEN "llama-f32", GOLDEN "llama-yarn-f16", WHIT_FISHER_SEQ, 0, 1},
            {GOLDEN "qwen3-bf16", NULL, WHIT_FISHER_TOKEN, 0, 0},
            {GOLDEN "qwen3_5-grouped-bf16", NULL, WHIT_FISHER_SEQ, 1, 0},
            {GOLDEN "qwen3_5-grouped-bf16", NULL, WHIT_FISHER_TOKEN, 0, 0}};

/* Letters between digits are tokens of their own, all of them below the golden models' 96. */
static const char text[] = "0a3B7c1d9E2f5G8h4i6J0k2L7m3n9O1p5q8R4s6T0u3v7W2x9Y1z5A8b4C6d0e2F7G";
enum { LEN = 16 };

/* Sums are of products of up to four values (guided: two of an input, two of a gradient), each within `tol`. */
static void compare(case_run *r, const whit_sum *got, const whit_sum *want, double tol) {
	double err = 0, all = 0;
	int64_t n = 1;
	for (int i = 0; i < want->ndim; i++) n *= want->shape[i];
	for (int64_t i = 0; i < n; i++) {
		int wide = want->dtype == WHIT_F64;
		double x = wide ? ((const double *)got->data)[i] : ((const float *)got->data)[i],
		       y = wide ? ((const double *)want->data)[i] : ((const float *)want->data)[i];
		err += (x - y) * (x - y);
		all += y * y;
	}
	if (!(all > 0 && sqrt(err / all) <= 4 * tol))
		case_fail(r, "%s: relative error %.3g of %.3g, need %.3g", want->name, sqrt(err / all), sqrt(all),
		          4 * tol);
}

/* m and other (or NULL) on the CPU, or on dev, where they hold `limit` bytes at most. */
static int open_both(case_run *r, int i, whit_model m[2], whit_dev *dev, size_t limit) {
	if (case_whole_open(r, &m[0], rows[i].model, dev, limit)) return -1;
	if (!rows[i].other || !case_whole_open(r, &m[1], rows[i].other, dev, 0)) return 0;
	whit_model_close(&m[0]);
	return -1;
}

static void close_both(whit_model m[2]) {
	for (int k = 0; k < 2; k++)
		if (m[k].ckpt.path) whit_model_close(&m[k]);
}

static int run(case_run *r, int i, whit_model m[2], const whit_tok *tok, int64_t chunks, whit_stats *s) {
	whit_stats_text t = {.name = "text", .data = text, .bytes = sizeof text - 1};
	/* two chunks a batch, and where groups hold one batch, two groups; of the head nothing but its input */
	whit_stats_opts o = {.kinds = rows[i].running ? WHIT_STAT_WEIGHTS : ALL,
	                     .estimator = rows[i].estimator,
	                     .groups = 3,
	                     .ctx = LEN,
	                     .chunks = chunks,
	                     .head = 1,
	                     .batch_tokens = 2 * LEN,
	                     .held_bytes = 1};
	whit_stats weights = {0};
	whit_err e = {0};
	int rc = rows[i].running ? whit_stats_run(&weights, &m[0], tok, &t, 1, &o, &e) : 0;
	if (rows[i].running) o.kinds = RUNNING, o.weights = &weights;
	if (rows[i].other) o.kinds |= WHIT_STAT_CROSS, o.other = &m[1];
	if (!rc) rc = whit_stats_run(s, &m[0], tok, &t, 1, &o, &e);
	if (rc) case_fail(r, "%s", e.text);
	if (!rc && rows[i].running) whit_stats_free(&weights);
	return rc;
}

/* A Hessian is symmetric to the last bit, wherever it was summed up. */
static void symmetric(case_run *r, const whit_sum *u) {
	const float *h = u->data;
	int64_t n = u->shape[0];
	for (int64_t k = 0; k < n * n; k++)
		if (h[k] != h[k % n * n + k / n]) {
			case_fail(r, "%s: is not symmetric at %lld", u->name, (long long)k);
			return;
		}
}

static void compare_all(case_run *r, const whit_stats *got, const whit_stats *want) {
	int64_t n = 0;
	for (int64_t l = 0; l <= want->m->layers; l++)
		for (int64_t k = 0; k < want->layer[l].n; k++, n++) {
			const whit_sum *x = &got->layer[l].sum[k], *y = &want->layer[l].sum[k];
			compare(r, x, y, case_whole_grad_tol(want->m));
			if (strstr(y->name, "/in.hessian")) symmetric(r, x);
		}
	if (!n || got->chunks != 3) case_fail(r, "%lld sums of %lld chunks", (long long)n, (long long)got->chunks);
}

static void compare_runs(case_run *r, whit_model cpu[2], whit_model m[2], int i) {
	char *path = whit_format_text("%s/tests/models/wiki12M-qwen3", WHIT_SOURCE);
	whit_stats want, got;
	whit_tok *tok = NULL;
	whit_err e = {0};
	if (whit_tok_open(&tok, path, &e))
		case_fail(r, "%s", e.text);
	else if (!run(r, i, cpu, tok, 3, &want)) {
		if (!run(r, i, m, tok, 3, &got)) {
			compare_all(r, &got, &want);
			whit_stats_free(&got);
		}
		whit_stats_free(&want);
	}
	if (tok) whit_tok_close(tok);
	whit_free(path);
}

/* A byte less than the model takes. */
static size_t too_little(case_run *r, int i) {
	whit_model m;
	if (case_whole_open(r, &m, rows[i].model, r->dev, 0)) return 0;
	size_t bytes = whit_model_device_bytes(&m) - 1;
	whit_model_close(&m);
	return whit_dev_used(r->dev) + bytes;
}

static void row(case_run *r, int i) {
	whit_model cpu[2] = {0}, m[2] = {0};
	case_label(r, "%s, %s%s%s", rows[i].model + sizeof GOLDEN - 1, whit_estimators[rows[i].estimator],
	           rows[i].streams ? ", streamed" : "", rows[i].running ? ", weighted" : "");
	if (case_skip(r, !r->dev) || case_skip_sanitized(r, i > 0) || open_both(r, i, cpu, NULL, 0)) return;
	size_t before = whit_dev_used(r->dev);
	if (!open_both(r, i, m, r->dev, rows[i].streams ? too_little(r, i) : 0)) {
		if (whit_model_streams(&m[0]) != rows[i].streams) case_fail(r, "streams, or not");
		compare_runs(r, cpu, m, i);
		close_both(m);
		if (whit_dev_used(r->dev) > before + (1 << 26)) /* scratch and cuBLAS's workspace stay */
			case_fail(r, "device memory is not given back");
	}
	close_both(cpu);
}

/* As of whole models. */
const case_set cases_stats = {"stats", WHIT_COUNT(rows), row, 1};
