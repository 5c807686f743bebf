/* compare: two files of `whit bench --json`, case by case. A case's spread is p10 to p90; where the two overlap, their
 * difference is noise. Ratios of R compare what each run made of its own copy roof, so they hold across drift; seconds
 * of two devices are set side by side and not judged. */
#include "bench/run.h"
#include <math.h>
#include <stdio.h>
#include "formats/json.h"

typedef struct run_file {
	const char *path;
	json_t *j, *rows;
} run_file;

static int read_run(run_file *f, whit_err *e) {
	int rc = whit_json_load(&f->j, f->path, e);
	if (rc) return rc;
	f->rows = json_object_get(f->j, "rows");
	if (!json_is_array(f->rows))
		return whit_fail(e, WHIT_EINPUT, "%s: has no rows, need a file of whit bench --json", f->path);
	const char *device = json_string_value(json_object_get(f->j, "device"));
	const char *date = json_string_value(json_object_get(f->j, "date"));
	printf("%s: %s, %s%s\n", f->path, device ? device : "device untold", date ? date : "date untold",
	       json_is_true(json_object_get(f->j, "drift")) ? ", its roofs DRIFTED" : "");
	return 0;
}

/* NaN: not measured. */
static double value(const json_t *row, const char *key) {
	const json_t *v = json_object_get(row, key);
	return json_is_number(v) ? json_number_value(v) : NAN;
}

static const json_t *find(const json_t *rows, const char *name) {
	size_t i;
	json_t *row;
	json_array_foreach(rows, i, row) {
		const char *other = json_string_value(json_object_get(row, "case"));
		if (other && !strcmp(name, other)) return row;
	}
	return NULL;
}

static const char *verdict(const json_t *a, const json_t *b) {
	if (json_is_true(json_object_get(a, "wrong")) || json_is_true(json_object_get(b, "wrong"))) return "WRONG";
	if (!(value(a, "seconds") > 0) || !(value(b, "seconds") > 0)) return "no time";
	if (value(b, "p90") < value(a, "p10")) return "faster";
	if (value(b, "p10") > value(a, "p90")) return "slower";
	return "noise";
}

int bench_compare(const char *before, const char *after, whit_err *e) {
	run_file a = {.path = before}, b = {.path = after};
	int rc = read_run(&a, e), alone = 0, both = 0;
	size_t i;
	json_t *row;
	if (!rc) rc = read_run(&b, e);
	if (rc) goto out;
	printf("%-44s %12s %12s %8s %8s\n", "case", "seconds", "then", "time", "R");
	json_array_foreach(a.rows, i, row) {
		const char *name = json_string_value(json_object_get(row, "case"));
		const json_t *other = name ? find(b.rows, name) : NULL;
		if (!other) {
			alone++;
			continue;
		}
		both++;
		double s = value(row, "seconds"), t = value(other, "seconds"), R = value(other, "R") / value(row, "R");
		printf("%-44s %12.4g %12.4g %7.3fx", name, s, t, t / s);
		if (isfinite(R))
			printf(" %7.3fx", R);
		else
			printf(" %8s", "-");
		printf("  %s\n", verdict(row, other));
	}
	printf("%d cases in both, %d and %d in one alone\n", both, alone, (int)json_array_size(b.rows) - both);
	if (!both) rc = whit_fail(e, WHIT_EUSAGE, "bench: %s and %s have no case in common", before, after);
out:
	json_decref(a.j);
	json_decref(b.j);
	return rc;
}
