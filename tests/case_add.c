/* add: one rounding has one result. */
#include "host/ops.h"
#include "tests/case.h"

static const int64_t sizes[] = {0, 1, 31, 257, 5000, 1 << 22};

static void row(case_run *r, int i) {
	int64_t n = sizes[i];
	size_t bytes = (size_t)n * sizeof(float);
	if (case_skip_big(r, n > 100000)) return;
	case_label(r, "%lld", (long long)n);
	float *a = case_normal(r, n), *b = case_normal(r, n), *want = case_host(r, bytes);
	for (int64_t k = 0; k < n; k++) want[k] = a[k] + b[k];
	float *y = case_out(r, n), *in_place = case_inout(r, a, n), *da = case_in(r, a, bytes),
	      *db = case_in(r, b, bytes);
	if (r->dev) {
		whit_add_cuda(r->dev, y, da, db, n);
		whit_add_cuda(r->dev, in_place, in_place, db, n);
	} else {
		whit_add_cpu(y, da, db, n);
		whit_add_cpu(in_place, in_place, db, n);
	}
	case_same(r, y, want, n);
	case_same(r, in_place, want, n);
}

const case_set cases_add = {"add", WHIT_COUNT(sizes), row, 0};
