/* dev: devices, their memory and queues: the only file that calls the runtime for them. */
#include "cuda/dev.cuh"
#include <stdio.h>

enum { OLDEST = 80 }; /* compute capability, times ten */

static void keep(whit_dev *d, int code, const char *fmt, va_list ap) {
	if (d->err.code) return;
	vsnprintf(d->err.text, sizeof d->err.text, fmt, ap);
	d->err.code = code;
}

extern "C" {

void whit_dev_fail(whit_dev *d, int code, const char *fmt, ...) {
	va_list ap;
	va_start(ap, fmt);
	keep(d, code, fmt, ap);
	va_end(ap);
}

int whit_dev_open(whit_dev **out, int index, whit_err *e) {
	int n = 0, driver = 0, toolkit = 0;
	cudaDeviceProp p;
	cudaError_t rc = cudaGetDeviceCount(&n);
	cudaDriverGetVersion(&driver);
	cudaRuntimeGetVersion(&toolkit);
	if (rc == cudaErrorInsufficientDriver && driver)
		return whit_fail(e, WHIT_ERESOURCE, "device %d: driver is for CUDA %d.%d, need %d.%d", index,
		                 driver / 1000, driver / 10 % 100, toolkit / 1000, toolkit / 10 % 100);
	if (rc != cudaSuccess || n == 0)
		return whit_fail(e, WHIT_ERESOURCE, "device %d: no CUDA device (%s)", index,
		                 rc == cudaSuccess ? "none is there" : cudaGetErrorString(rc));
	if (index < 0 || index >= n)
		return whit_fail(e, WHIT_ERESOURCE, "device %d: is not there, need 0 to %d", index, n - 1);
	if ((rc = cudaGetDeviceProperties(&p, index)) != cudaSuccess)
		return whit_fail(e, WHIT_ERESOURCE, "device %d: %s", index, cudaGetErrorString(rc));
	if (p.major * 10 + p.minor < OLDEST)
		return whit_fail(e, WHIT_ERESOURCE, "device %d: %s has compute capability %d.%d, need %d.%d", index,
		                 p.name, p.major, p.minor, OLDEST / 10, OLDEST % 10);
	whit_dev *d = (whit_dev *)whit_alloc(sizeof *d);
	d->index = index;
	if ((rc = cudaSetDevice(index)) != cudaSuccess || (rc = cudaStreamCreate(&d->stream)) != cudaSuccess) {
		whit_free(d);
		return whit_fail(e, WHIT_ERESOURCE, "device %d: %s", index, cudaGetErrorString(rc));
	}
	*out = d;
	return 0;
}

void whit_dev_close(whit_dev *d) {
	if (!d) return;
	cudaStreamSynchronize(d->stream);
	cudaStreamDestroy(d->stream);
	whit_free(d);
}

void *whit_dev_alloc(whit_dev *d, size_t bytes) {
	void *p = NULL;
	if (d->err.code) return NULL;
	cudaError_t rc = cudaMalloc(&p, WHIT_MAX(bytes, 1));
	if (rc == cudaSuccess) return p;
	size_t left = 0, all = 0;
	cudaGetLastError();
	cudaMemGetInfo(&left, &all);
	whit_dev_fail(d, WHIT_ERESOURCE, "device %d: %zu bytes asked for, %zu of %zu are free (%s)", d->index, bytes,
	              left, all, cudaGetErrorString(rc));
	return NULL;
}

void whit_dev_free(whit_dev *d, void *p) { WHIT_CHECK(d, cudaFree(p)); }

void whit_dev_put(whit_dev *d, void *dst, const void *src, size_t bytes) {
	if (!d->err.code && bytes) WHIT_CHECK(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, d->stream));
}

void whit_dev_get(whit_dev *d, void *dst, const void *src, size_t bytes) {
	if (!d->err.code && bytes) WHIT_CHECK(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, d->stream));
}

int whit_dev_sync(whit_dev *d, whit_err *e) {
	WHIT_CHECK(d, cudaStreamSynchronize(d->stream));
	if (!d->err.code) return 0;
	*e = d->err;
	d->err.code = 0;
	return e->code;
}
}

int whit_dev_check(whit_dev *d, cudaError_t rc, const char *call, const char *file, int line) {
	if (rc == cudaSuccess) return 0;
	whit_dev_fail(d, rc == cudaErrorMemoryAllocation ? WHIT_ERESOURCE : WHIT_EINTERNAL, "%s:%d: %s: %s", file, line,
	              call, cudaGetErrorString(rc));
	return -1;
}
