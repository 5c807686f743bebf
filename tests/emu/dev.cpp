/* dev: cuda/dev.cu's emulated twin. Queued work is done at once; memory is the emulator's. */
#include "cuda/dev.cuh"
#include <cblas.h>
#include <lapacke.h>
#include <stdio.h>

static constexpr size_t MEMORY = (size_t)4 << 30; /* of the device that is played */

void *whit_dev_raw_alloc(whit_dev *d, size_t bytes) {
	return d->used + bytes > MEMORY ? NULL : emu::device_alloc(bytes);
}

void whit_dev_raw_free(whit_dev *d, void *p) {
	char text[300];
	if (emu::device_free(p, text, sizeof text)) whit_dev_fail(d, WHIT_EINTERNAL, "%s", text);
}

size_t whit_dev_raw_left(whit_dev *d) { return MEMORY - d->used; }

extern "C" {
#include "formats/tensor.h"
#include "tests/case.h"

void case_schedule(int i, char *text, size_t size) {
	emu::now = emu::schedule_number(i);
	emu::describe(text, size);
}

void case_shared(whit_dev *d, int bytes) {
	emu::shared_limit = bytes ? (size_t)bytes : 99 << 10, d->shared = (int)emu::shared_limit;
}

int whit_dev_open(whit_dev **d, int index, whit_err *e) {
	if (index) return whit_fail(e, WHIT_ERESOURCE, "device %d: is not there, need 0", index);
	*d = (whit_dev *)whit_alloc(sizeof **d);
	(*d)->terms = 3, (*d)->factors_from = 1;
	(*d)->sms = 4, (*d)->shared = 99 << 10, (*d)->capability = 80;
	return 0;
}

int whit_dev_open_on(whit_dev **d, int index, void *stream, whit_err *e) {
	if (stream) return whit_fail(e, WHIT_EUSAGE, "device %d: the emulated one has no streams, need NULL", index);
	return whit_dev_open(d, index, e);
}

void whit_dev_close(whit_dev *d) {
	if (!d) return;
	whit_dev_memory_free(d);
	whit_free(d);
}

void whit_dev_describe(whit_dev *d, whit_dev_info *i) {
	memset(i, 0, sizeof *i);
	snprintf(i->name, sizeof i->name, "emulated on the CPU");
	i->major = 8, i->sms = d->sms, i->l2 = 1 << 20, i->memory = MEMORY, i->free = whit_dev_raw_left(d);
	i->tuned = d->n_tuned;
}

static void move(whit_dev *d, void *dst, const void *src, size_t bytes) {
	emu::device_reach all;
	if (!d->err.code && bytes) memcpy(dst, src, bytes);
}
void whit_dev_put(whit_dev *d, void *dst, const void *src, size_t bytes) { move(d, dst, src, bytes); }
void whit_dev_get(whit_dev *d, void *dst, const void *src, size_t bytes) { move(d, dst, src, bytes); }
void whit_dev_copy(whit_dev *d, void *dst, const void *src, size_t bytes) { move(d, dst, src, bytes); }
void whit_dev_upload(whit_dev *d, void *dst, const void *src, size_t bytes) { move(d, dst, src, bytes); }
void whit_dev_zero(whit_dev *d, void *dst, size_t bytes) {
	emu::device_reach all;
	if (!d->err.code && bytes) memset(dst, 0, bytes);
}

void whit_dev_gemm(whit_dev *d, float *y, int64_t ldy, const void *x, const void *w, int dtype, int64_t T, int64_t rows,
                   int64_t cols, int add) {
	if (d->err.code || T == 0 || rows == 0) return;
	emu::device_reach all;
	const float *fx = (const float *)x, *fw = (const float *)w;
	float *copy = NULL;
	if (dtype != WHIT_F32) {
		copy = (float *)whit_alloc((size_t)((T + rows) * cols) * sizeof *copy);
		auto *to = dtype == WHIT_F16 ? whit_f16_to_f32_n : whit_bf16_to_f32_n;
		to(copy, x, T * cols);
		to(copy + T * cols, w, rows * cols);
		fx = copy, fw = copy + T * cols;
	}
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)T, (int)rows, (int)cols, 1, fx, (int)cols, fw,
	            (int)cols, add ? 1 : 0, y, (int)ldy);
	whit_free(copy);
}

void whit_dev_mul(whit_dev *d, float *c, int64_t ldc, const float *a, int64_t lda, int turn_a, const float *b,
                  int64_t ldb, int turn_b, int64_t m, int64_t n, int64_t k, int add) {
	if (d->err.code || m == 0 || n == 0) return;
	emu::device_reach all;
	cblas_sgemm(CblasRowMajor, turn_a ? CblasTrans : CblasNoTrans, turn_b ? CblasTrans : CblasNoTrans, (int)m,
	            (int)n, (int)k, 1, a, (int)lda, b, (int)ldb, add ? 1 : 0, c, (int)ldc);
}

void whit_dev_mul_f16(whit_dev *d, float *c, int64_t ldc, const uint16_t *a, const uint16_t *b, int64_t ld, int64_t m,
                      int64_t n, int64_t k, const float *scale) {
	if (d->err.code || m == 0 || n == 0 || k == 0) return;
	emu::device_reach all;
	int64_t na = (k - 1) * ld + m, nb = (k - 1) * ld + n;
	float *copy = (float *)whit_alloc((size_t)(na + nb) * sizeof *copy);
	whit_f16_to_f32_n(copy, a, na);
	whit_f16_to_f32_n(copy + na, b, nb);
	cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)n, (int)k, scale[0], copy, (int)ld, copy + na,
	            (int)ld, scale[1], c, (int)ldc);
	whit_free(copy);
}

void whit_dev_factors_of(whit_dev *d, const char *library) { d->solver_library = library; }

int whit_dev_factors(whit_dev *d, int64_t, size_t *room, whit_err *e) {
	*room = 256;
	if (!d->solver_library) return 0;
	return whit_fail(e, WHIT_ERESOURCE, "%s: the emulated device loads nothing, need LAPACK", d->solver_library);
}

/* The lower triangle by rows is the upper one by columns. */
int whit_dev_cholesky(whit_dev *d, double *a, int64_t n, void *room) {
	emu::device_reach all;
	if (d->err.code || n == 0) return 0;
	memset(room, 0xff, 256);
	lapack_int info = LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', (lapack_int)n, a, (lapack_int)n);
	if (info < 0) whit_dev_fail(d, WHIT_EINTERNAL, "dpotrf: argument %d is refused", (int)-info);
	return info > 0;
}

void whit_dev_invert(whit_dev *d, double *a, int64_t n, void *room) {
	emu::device_reach all;
	if (d->err.code || n == 0) return;
	memset(room, 0xff, 256);
	lapack_int info = LAPACKE_dtrtri(LAPACK_COL_MAJOR, 'U', 'N', (lapack_int)n, a, (lapack_int)n);
	if (info) whit_dev_fail(d, WHIT_EINTERNAL, "dtrtri: %d, need 0", (int)info);
}

void whit_dev_mul_upper(whit_dev *d, double *b, const double *u, int64_t n, int turn) {
	emu::device_reach all;
	if (d->err.code || n == 0) return;
	cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, turn ? CblasTrans : CblasNoTrans, CblasNonUnit, (int)n,
	            (int)n, 1, u, (int)n, b, (int)n);
}

int whit_dev_sync(whit_dev *d, whit_err *e) {
	char text[300];
	if (emu::device_check(text, sizeof text)) whit_dev_fail(d, WHIT_EINTERNAL, "%s", text);
	if (!d->err.code) return 0;
	*e = d->err;
	d->err.code = 0;
	return e->code;
}

void whit_dev_mark(whit_dev *, int, int) {}
void whit_dev_wait(whit_dev *, int, int) {}
int whit_graph_begin(whit_dev *) { return 0; }
whit_graph *whit_graph_end(whit_dev *) { return NULL; }
void whit_graph_run(whit_dev *, whit_graph *) {}
void whit_graph_free(whit_graph *) {}
}
