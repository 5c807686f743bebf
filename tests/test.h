/* test: check macros. A test program is `TEST_MAIN(run1, run2, ...)`; it ends with one line
 * "12 ok, 0 failed, 3 skipped" and exits 1 on any failure, 77 when everything was skipped. */
#ifndef WHIT_TEST_H
#define WHIT_TEST_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include "host/base.h"
#include "tests/compare.h"

extern int test_ok, test_failed, test_skipped;
/* Counts and prints one check; returns cond so that a test can stop early. */
int test_check(int cond, const char *file, int line, const char *fmt, ...) WHIT_PRINTF(4, 5);
void test_skip(const char *fmt, ...) WHIT_PRINTF(1, 2); /* counted and printed */

#define CHECK(cond) test_check(!!(cond), __FILE__, __LINE__, "%s", #cond)
#define CHECK_MSG(cond, ...) test_check(!!(cond), __FILE__, __LINE__, __VA_ARGS__)
/* |got - want| <= tol, and NaN fails. */
#define CHECK_NEAR(got, want, tol) test_near((double)(got), (double)(want), (double)(tol), __FILE__, __LINE__, #got)
#define CHECK_INT(got, want) test_int((long long)(got), (long long)(want), __FILE__, __LINE__, #got)
#define CHECK_TEXT(got, want) test_text((got), (want), __FILE__, __LINE__, #got)
/* rc 0; prints the error text otherwise. e is the whit_err it went to. */
#define CHECK_RC(rc, e) test_rc((rc), &(e), __FILE__, __LINE__, #rc)
/* The call fails with this code and its text holds this word. */
#define CHECK_FAILS(rc, wanted, e, word) test_fails((rc), (wanted), &(e), (word), __FILE__, __LINE__, #rc)
int test_near(double got, double want, double tol, const char *file, int line, const char *what);
int test_int(long long got, long long want, const char *file, int line, const char *what);
int test_text(const char *got, const char *want, const char *file, int line, const char *what);
int test_rc(int rc, const whit_err *e, const char *file, int line, const char *what);
int test_fails(int rc, int want, const whit_err *e, const char *word, const char *file, int line, const char *what);

int test_main(void (*const *fn)(void), int n);
#define TEST_MAIN(...)                                                                                                 \
	int main(void) {                                                                                               \
		void (*const fn[])(void) = {__VA_ARGS__};                                                              \
		return test_main(fn, (int)(sizeof fn / sizeof fn[0]));                                                 \
	}

/* WHIT_DATA/relative if it exists (whit_free it), else NULL after a counted skip. */
char *test_data(const char *relative);
/* 1 where a sanitizer makes all ten times slower: a test then skips, counted, more data through the same code. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#else
#define TEST_SANITIZED 0
#endif

/* A directory of the repository's own test models ("wiki12M-qwen3"): tests/models/NAME, or the data root's
 * models/NAME; NULL after a counted skip. */
char *test_model(const char *name);
/* A fresh name under the build's scratch directory, removed first if it exists; whit_free it. */
char *test_scratch(const char *name);
/* Writes a file (parents exist); aborts the program on failure: tests need their fixtures. */
void test_write(const char *path, const void *p, size_t n);
char *test_read(const char *path, size_t *n); /* whole file, NUL-terminated; NULL if absent */
#endif
