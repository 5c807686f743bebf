/* feedback: codes chosen on a device against the CPU's: within a block of columns the same bytes and losses to the last
 * digits; behind one, sums of another order may decide a column that lies all but between two levels, so that few rows
 * differ and the loss hardly does. */
#include "calib/feedback.h"
#include <math.h>
#include "formats/codebook.h"
#include "tests/case.h"

static const struct {
	const char *format;
	int64_t rows, n, paired;
	int kind, exact; /* all columns in one block */
	float by;        /* what weights are multiplied by */
} rows[] = {{"int4g32", 70, 128, 0, WHIT_FEEDBACK_GPTQ, 1, 1},    {"int2g64", 33, 100, 0, WHIT_FEEDBACK_GPTQ, 1, 1},
            {"tq3g128", 40, 128, 0, WHIT_FEEDBACK_GPTQ, 1, 1},    {"int8", 17, 96, 0, WHIT_FEEDBACK_GPTQ, 1, 1},
            {"int3", 37, 103, 0, WHIT_FEEDBACK_GPTQ, 1, 1},       {"int8g64", 5, 37, 0, WHIT_FEEDBACK_GPTQ, 1, 1},
            {"int4g32", 65, 203, 0, WHIT_FEEDBACK_GPTQ, 0, 1},    {"tq2g64", 24, 128, 8, WHIT_FEEDBACK_GPTQ, 1, 1},
            {"int3g256", 20, 256, 0, WHIT_FEEDBACK_GPTQ, 1, 1},   {"int4g64", 66, 128, 0, WHIT_FEEDBACK_GPTQ, 1, 1e9f},
            {"tq4g64", 50, 320, 0, WHIT_FEEDBACK_GPTQ, 0, 1},     {"int3", 40, 400, 0, WHIT_FEEDBACK_GPTQ, 0, 1},
            {"int4g32", 48, 300, 0, WHIT_FEEDBACK_GPTAQ, 0, 1},   {"tq1g128", 130, 256, 0, WHIT_FEEDBACK_GPTAQ, 0, 1},
            {"tq5g128", 9, 640, 0, WHIT_FEEDBACK_GPTQ, 0, 1},     {"q4_0", 40, 128, 8, WHIT_FEEDBACK_GPTQ, 1, 1},
            {"q8_0", 20, 96, 0, WHIT_FEEDBACK_GPTQ, 1, 1},        {"q2_0", 24, 128, 0, WHIT_FEEDBACK_GPTQ, 1, 1},
            {"q1_0", 24, 128, 0, WHIT_FEEDBACK_GPTQ, 1, 1},       {"iq4_nl", 24, 128, 0, WHIT_FEEDBACK_GPTQ, 1, 1},
            {"tq2_0", 24, 256, 0, WHIT_FEEDBACK_GPTQ, 1, 1},      {"q4_0", 30, 320, 0, WHIT_FEEDBACK_GPTAQ, 0, 1},
            {"int4g128", 1024, 4096, 0, WHIT_FEEDBACK_GPTQ, 0, 1}};

static int64_t rows_apart(const whit_mat m[2], int64_t rows) {
	int64_t apart = 0;
	for (int64_t i = 0; i < rows; i++) {
		int same = 1;
		for (int p = 0; p < 2 && m[0].plane[p]; p++)
			same &= !memcmp(m[0].plane[p] + (size_t)i * m[0].row_bytes[p],
			                m[1].plane[p] + (size_t)i * m[1].row_bytes[p], m[0].row_bytes[p]);
		apart += !same;
	}
	return apart;
}

static void row(case_run *r, int at) {
	int64_t n = rows[at].n, N = rows[at].rows;
	if (case_skip(r, !r->dev) || case_skip_big(r, n > 1000)) return;
	case_label(r, "%s %lld x %lld, kind %d", rows[at].format, (long long)N, (long long)n, rows[at].kind);
	float *w = case_normal(r, N * n), *noise = case_normal(r, n * n), book[256];
	double *h[2], *g[2];
	whit_mat m[2];
	whit_job j[2];
	whit_feedback f;
	whit_err e = {0};
	whit_weight src = {.name = (char[]){"w"}, .file = "memory", .ndim = 2, .shape = {N, n}};
	const whit_feedback_opts o = {.damping = 0.01, .alpha = 0.5};
	for (int64_t i = 0; i < N * n; i++) w[i] *= rows[at].by * (i / n % 7 ? 1 : 3);
	for (int64_t i = 0; i < n && N > 3; i++) w[2 * n + i] = 0;
	for (int k = 0; k < 2; k++) h[k] = case_host(r, (size_t)(n * n) * 8), g[k] = case_host(r, (size_t)(n * n) * 8);
	for (int64_t i = 0; i < n; i++)
		for (int64_t k = 0; k < n; k++) {
			h[0][i * n + k] = pow(0.85, fabs((double)(i - k))) * sqrt((1 + i % 5) * (1 + k % 5));
			g[0][i * n + k] = h[0][i * n + k] + 0.02 * noise[i * n + k];
		}
	src.mat = (whit_mat){
	        .rows = N, .cols = n, .width = n, .plane = {(const uint8_t *)w}, .row_bytes = {(size_t)n * 4}};
	int rc = whit_spec_parse("f32", &src.mat.spec, &e);
	if (!rc)
		rc = whit_feedback_make(&f, rows[at].kind, h[0], rows[at].kind == WHIT_FEEDBACK_GPTAQ ? g[0] : NULL, n,
		                        &o, "w", &e);
	for (int k = 0; k < 2 && !rc; k++) {
		m[k] = (whit_mat){
		        .rows = N, .cols = n, .width = n, .paired = rows[at].paired, .scale_f32 = rows[at].by > 1};
		rc = whit_spec_parse(rows[at].format, &m[k].spec, &e);
		if (!rc && m[k].spec.fmt->needs_codebook) {
			rc = whit_codebook(book, m[k].spec.bits, WHIT_DENSITY_GAUSSIAN, m[k].spec.group, &e);
			m[k].codebook = book;
		}
		if (!rc) rc = whit_mat_alloc(&m[k], &e);
		j[k] = (whit_job){.src = &src, .dst = &m[k], .feedback = &f, .solver = k ? r->dev : NULL};
		if (!rc) rc = whit_feedback_run(&j[k], &e);
	}
	if (rc) {
		case_fail(r, "%s", e.text);
		return;
	}
	int64_t apart = rows_apart(m, N);
	/* losses of the nearest codes are sums of n products a column in float, of two orders */
	double near = 1e-4, off = fabs(j[1].loss / j[0].loss - 1);
	if (rows[at].exact ? apart != 0 : apart > N / 4)
		case_fail(r, "%lld of %lld rows differ", (long long)apart, (long long)N);
	if (!(off <= (rows[at].exact ? 1e-6 : 5e-3))) case_fail(r, "loss %.9g, on the CPU %.9g", j[1].loss, j[0].loss);
	if (!(fabs(j[1].loss_nearest / j[0].loss_nearest - 1) <= near))
		case_fail(r, "nearest %.9g, on the CPU %.9g", j[1].loss_nearest, j[0].loss_nearest);
	if (rows[at].exact && (j[0].err != j[1].err || j[0].ref != j[1].ref || j[0].zero_groups != j[1].zero_groups ||
	                       j[0].rows_nearest != j[1].rows_nearest || j[0].bad_scales != j[1].bad_scales))
		case_fail(r, "err %g %g, ref %g %g, zero %lld %lld, kept %lld %lld, bad %lld %lld", j[0].err, j[1].err,
		          j[0].ref, j[1].ref, (long long)j[0].zero_groups, (long long)j[1].zero_groups,
		          (long long)j[0].rows_nearest, (long long)j[1].rows_nearest, (long long)j[0].bad_scales,
		          (long long)j[1].bad_scales);
	if (!(j[1].loss < 0.95 * j[1].loss_nearest)) case_fail(r, "feedback gains nothing");
	/* the plain kernel */
	int was = whit_dev_plain(r->dev, 1);
	if (rows[at].exact && (whit_feedback_run(&j[1], &e) || rows_apart(m, N)))
		case_fail(r, "plain: %lld rows differ", (long long)rows_apart(m, N));
	whit_dev_plain(r->dev, was);
	/* a row that is not finite is told as on the CPU */
	w[(N - 1) * n + n / 2] = NAN;
	if (whit_feedback_run(&j[1], &e) != WHIT_ENONFINITE) case_fail(r, "NaN is taken");
	whit_feedback_free(&f);
	whit_mat_free(&m[0]), whit_mat_free(&m[1]);
}

const case_set cases_feedback = {"feedback", WHIT_COUNT(rows), row, 2};
