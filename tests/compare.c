/* compare: judging numbers, and the few services every test shares. */
#define _GNU_SOURCE
#include "tests/test.h"
#include <unistd.h>

double whit_max_abs_diff(const float *got, const float *want, int64_t n) {
	double worst = 0;
	for (int64_t i = 0; i < n; i++) {
		double d = fabs((double)got[i] - (double)want[i]);
		if (!(d <= worst)) worst = d;
		if (isnan(worst)) return INFINITY;
	}
	return worst;
}

double whit_rel_err(const float *got, const float *want, int64_t n) {
	double d2 = 0, w2 = 0;
	for (int64_t i = 0; i < n; i++) {
		double d = (double)got[i] - (double)want[i];
		d2 += d * d;
		w2 += (double)want[i] * (double)want[i];
	}
	if (!isfinite(d2) || !isfinite(w2)) return INFINITY;
	return d2 == 0 ? 0 : w2 == 0 ? INFINITY : sqrt(d2 / w2);
}

int64_t whit_first_beyond(const float *got, const float *want, int64_t n, double tol) {
	for (int64_t i = 0; i < n; i++)
		if (!(fabs((double)got[i] - (double)want[i]) <= tol)) return i;
	return -1;
}

int test_ok, test_failed, test_skipped;

int test_check(int cond, const char *file, int line, const char *fmt, ...) {
	if (cond) {
		test_ok++;
		return 1;
	}
	va_list ap;
	va_start(ap, fmt);
	if (test_failed++ < 50) {
		printf("%s:%d: FAILED: ", file, line);
		vprintf(fmt, ap);
		printf("\n");
	}
	va_end(ap);
	return 0;
}

int test_near(double got, double want, double tol, const char *file, int line, const char *what) {
	return test_check(fabs(got - want) <= tol, file, line, "%s: is %.12g, need %.12g within %g", what, got, want,
	                  tol);
}

int test_int(long long got, long long want, const char *file, int line, const char *what) {
	return test_check(got == want, file, line, "%s: is %lld, need %lld", what, got, want);
}

int test_text(const char *got, const char *want, const char *file, int line, const char *what) {
	return test_check(strcmp(got, want) == 0, file, line, "%s: is \"%s\", need \"%s\"", what, got, want);
}

int test_rc(int rc, const whit_err *e, const char *file, int line, const char *what) {
	return test_check(rc == 0, file, line, "%s: %s", what, rc ? e->text : "");
}

int test_fails(int rc, int want, const whit_err *e, const char *word, const char *file, int line, const char *what) {
	if (!test_check(rc == want, file, line, "%s: is %d (%s), need %d", what, rc, rc ? e->text : "no error", want))
		return 0;
	return test_check(strstr(e->text, word) != NULL, file, line, "%s: text \"%s\" lacks \"%s\"", what, e->text,
	                  word);
}

void test_skip(const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	test_skipped++;
	printf("SKIP: ");
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
}

int test_main(void (*const *fn)(void), int n) {
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 0; i < n; i++) fn[i]();
	printf("%d ok, %d failed, %d skipped\n", test_ok, test_failed, test_skipped);
	if (test_failed) return 1;
	if (test_ok) return 0;
	return test_skipped ? 77 : 1; /* a test that checked nothing has failed */
}

char *test_data(const char *relative) {
	char *path = whit_format_text("%s/%s", WHIT_DATA, relative);
	if (whit_file_exists(path)) return path;
	test_skip("%s is absent", path);
	whit_free(path);
	return NULL;
}

char *test_model(const char *name) {
	char *path = whit_format_text("%s/tests/models/%s", WHIT_SOURCE, name);
	if (whit_file_exists(path)) return path;
	whit_free(path);
	char *relative = whit_format_text("models/%s", name);
	path = test_data(relative);
	whit_free(relative);
	return path;
}

char *test_scratch(const char *name) {
	char *path = whit_format_text("%s/%ld-%s", WHIT_SCRATCH, (long)getpid(), name);
	char *rm = whit_format_text("rm -rf '%s'", path);
	if (system(rm)) abort();
	whit_free(rm);
	return path;
}

void test_write(const char *path, const void *p, size_t n) {
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(p, 1, n, f) != n || fclose(f)) {
		printf("cannot write %s\n", path);
		abort();
	}
}

char *test_read(const char *path, size_t *n) {
	whit_map m;
	whit_err e;
	if (whit_map_open(&m, path, &e)) return NULL;
	char *text = whit_alloc(m.bytes + 1);
	memcpy(text, m.data, m.bytes);
	if (n) *n = m.bytes;
	whit_map_close(&m);
	return text;
}

int whit_gemv_wrong(const whit_mat *m, int64_t r0, const float *x, int T) {
	int64_t rows = m->rows, cols = m->width;
	float *w = whit_alloc((size_t)(rows * cols) * sizeof *w), *y = whit_alloc((size_t)(8 * rows) * sizeof *y);
	int bad = 0;
	m->spec.fmt->decode(m, 0, rows, w);
	for (int64_t k = 0; k < 8 * rows; k++) y[k] = 1234;
	m->spec.fmt->gemv(m, r0, rows, x, T, y, rows);
	m->spec.fmt->gemv(m, r0, r0, x, T, y, rows); /* nothing */
	for (int64_t k = 0; k < 8 * rows; k++) {
		int64_t r = k % rows, t = k / rows;
		double dot = 0, mass = 0;
		for (int64_t c = 0; c < cols; c++) {
			dot += (double)w[r * cols + c] * x[t * cols + c];
			mass += fabs((double)w[r * cols + c] * x[t * cols + c]);
		}
		bad += r < r0 || t >= T ? y[k] != 1234
		                        : !(fabs(y[k] - dot) <= ((double)cols / 8 + 12) * 0x1p-23 * mass);
	}
	whit_free(w), whit_free(y);
	return bad;
}
