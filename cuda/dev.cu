/* dev: devices, their memory and queues: the only file that calls the runtime for them. */
#include "cuda/dev.cuh"
#include <cublas_v2.h>
#include <cusolverDn.h>
#include <dlfcn.h>
#include <stdio.h>
extern "C" {
#include "formats/tensor.h"
}

enum { OLDEST = 80 };                         /* compute capability, times ten */
static constexpr size_t STAGE = 16 << 20;     /* bytes of a pinned buffer: enough to hide the hand-over */
static constexpr size_t WORKSPACE = 32 << 20; /* cuBLAS's: what it recommends for sm_90; fixed, so results are */

int whit_dev_check(whit_dev *d, cudaError_t rc, const char *call, const char *file, int line) {
	if (rc == cudaSuccess) return 0;
	whit_dev_fail(d, rc == cudaErrorMemoryAllocation ? WHIT_ERESOURCE : WHIT_EINTERNAL, "%s:%d: %s: %s", file, line,
	              call, cudaGetErrorString(rc));
	return -1;
}

void *whit_dev_raw_alloc(whit_dev *d, size_t bytes) {
	void *p = NULL;
	cudaSetDevice(d->index);
	if (cudaMalloc(&p, bytes) == cudaSuccess) return p;
	cudaGetLastError(); /* the caller says what was wanted */
	return NULL;
}

void whit_dev_raw_free(whit_dev *d, void *p) {
	cudaSetDevice(d->index);
	WHIT_CHECK(d, cudaStreamSynchronize(d->stream));
	WHIT_CHECK(d, cudaFree(p));
}

size_t whit_dev_raw_left(whit_dev *d) {
	size_t left = 0, all = 0;
	cudaSetDevice(d->index);
	WHIT_CHECK(d, cudaMemGetInfo(&left, &all));
	return left;
}

static int make(whit_dev *d) {
	int early = 0;
	WHIT_CHECK(d, cudaSetDevice(d->index));
	if (!d->lent) WHIT_CHECK(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking));
	WHIT_CHECK(d, cudaStreamCreateWithFlags(&d->copy, cudaStreamNonBlocking));
	for (int i = 0; i < WHIT_DEV_MARKS; i++)
		WHIT_CHECK(d, cudaEventCreateWithFlags(&d->mark[i], cudaEventDisableTiming));
	WHIT_CHECK(d, cudaDeviceGetAttribute(&early, cudaDevAttrComputeCapabilityMajor, d->index));
	d->early = early >= 9;
	WHIT_CHECK(d, cudaDeviceGetAttribute(&d->sms, cudaDevAttrMultiProcessorCount, d->index));
	WHIT_CHECK(d, cudaDeviceGetAttribute(&d->shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->index));
	return d->err.code;
}

/* ---- cuSOLVER: loaded, so that programs start without it ---- */

#define SOLVER_TEXT(n) SOLVER_DIGITS(n)
#define SOLVER_DIGITS(n) #n
static const char SOLVER[] = "libcusolver.so." SOLVER_TEXT(CUSOLVER_VER_MAJOR);

struct whit_dev_solver {
	decltype(&cusolverDnCreate) create;
	decltype(&cusolverDnDestroy) destroy;
	decltype(&cusolverDnSetStream) set_stream;
	decltype(&cusolverDnCreateParams) create_params;
	decltype(&cusolverDnDestroyParams) destroy_params;
	decltype(&cusolverDnXpotrf_bufferSize) potrf_size;
	decltype(&cusolverDnXpotrf) potrf;
	decltype(&cusolverDnXtrtri_bufferSize) trtri_size;
	decltype(&cusolverDnXtrtri) trtri;
	cusolverDnHandle_t handle;
	cusolverDnParams_t params;
};

static void solver_free(whit_dev *d) {
	whit_dev_solver *s = d->solver;
	if (s && s->params) s->destroy_params(s->params);
	if (s && s->handle) s->destroy(s->handle);
	whit_free(s);
	d->solver = NULL;
}

template <class F> static bool found(void *library, const char *name, F *to) {
	*to = reinterpret_cast<F>(dlsym(library, name));
	return *to != NULL;
}

/* The library stays for good: other devices use it, and its own threads may run. */
static int solver_load(whit_dev_solver *s, const char *name, whit_err *e) {
	void *l = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (!l || !found(l, "cusolverDnCreate", &s->create) || !found(l, "cusolverDnDestroy", &s->destroy) ||
	    !found(l, "cusolverDnSetStream", &s->set_stream) ||
	    !found(l, "cusolverDnCreateParams", &s->create_params) ||
	    !found(l, "cusolverDnDestroyParams", &s->destroy_params) ||
	    !found(l, "cusolverDnXpotrf_bufferSize", &s->potrf_size) || !found(l, "cusolverDnXpotrf", &s->potrf) ||
	    !found(l, "cusolverDnXtrtri_bufferSize", &s->trtri_size) || !found(l, "cusolverDnXtrtri", &s->trtri)) {
		const char *why = dlerror();
		return whit_fail(e, WHIT_ERESOURCE, "cuSOLVER: %s", why ? why : name);
	}
#if CUDART_VERSION >= 12030 /* what it does at first; older ones know no other way */
	decltype(&cusolverDnSetDeterministicMode) same;
	if (s->create(&s->handle) == CUSOLVER_STATUS_SUCCESS && found(l, "cusolverDnSetDeterministicMode", &same))
		same(s->handle, CUSOLVER_DETERMINISTIC_RESULTS);
#else
	s->create(&s->handle);
#endif
	return 0;
}

extern "C" {

static int open_on(whit_dev **out, int index, bool lent, cudaStream_t stream, whit_err *e) {
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
	d->terms = 3;
	d->factors_from = 512;
	d->capability = p.major * 10 + p.minor;
	d->lent = lent, d->stream = stream;
	if (make(d)) {
		whit_fail(e, WHIT_ERESOURCE, "device %d: %s: %s", index, p.name, d->err.text);
		whit_free(d);
		return e->code;
	}
	*out = d;
	return 0;
}

int whit_dev_open(whit_dev **out, int index, whit_err *e) { return open_on(out, index, false, NULL, e); }
int whit_dev_open_on(whit_dev **out, int index, void *stream, whit_err *e) {
	return open_on(out, index, true, (cudaStream_t)stream, e);
}

void whit_dev_close(whit_dev *d) {
	if (!d) return;
	cudaSetDevice(d->index);
	cudaStreamSynchronize(d->copy);
	cudaStreamSynchronize(d->stream);
	solver_free(d);
	if (d->blas) cublasDestroy((cublasHandle_t)d->blas);
	whit_dev_free(d, d->workspace);
	for (auto &s : d->stage)
		if (s.p) {
			cudaFreeHost(s.p);
			cudaEventDestroy(s.read);
		}
	for (auto m : d->mark) cudaEventDestroy(m);
	whit_dev_memory_free(d); /* waits on the stream */
	cudaStreamDestroy(d->copy);
	if (!d->lent) cudaStreamDestroy(d->stream);
	whit_free(d);
}

void whit_dev_describe(whit_dev *d, whit_dev_info *i) {
	cudaDeviceProp p;
	memset(i, 0, sizeof *i);
	if (WHIT_CHECK(d, cudaGetDeviceProperties(&p, d->index))) return;
	snprintf(i->name, sizeof i->name, "%.127s", p.name);
	i->index = d->index, i->major = p.major, i->minor = p.minor, i->sms = p.multiProcessorCount;
	i->l2 = (size_t)p.l2CacheSize, i->memory = p.totalGlobalMem, i->free = whit_dev_raw_left(d);
	i->tuned = d->n_tuned;
	cudaDriverGetVersion(&i->driver);
	cudaRuntimeGetVersion(&i->toolkit);
}

/* ---- the work queue ---- */

void whit_dev_put(whit_dev *d, void *dst, const void *src, size_t bytes) {
	if (!d->err.code && bytes) WHIT_CHECK(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, d->stream));
}

void whit_dev_get(whit_dev *d, void *dst, const void *src, size_t bytes) {
	if (!d->err.code && bytes) WHIT_CHECK(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, d->stream));
}

void whit_dev_copy(whit_dev *d, void *dst, const void *src, size_t bytes) {
	if (!d->err.code && bytes) WHIT_CHECK(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, d->stream));
}

void whit_dev_zero(whit_dev *d, void *dst, size_t bytes) {
	if (!d->err.code && bytes) WHIT_CHECK(d, cudaMemsetAsync(dst, 0, bytes, d->stream));
}

static int blas_failed(whit_dev *d, cublasStatus_t rc, const char *call) {
	if (rc == CUBLAS_STATUS_SUCCESS) return 0;
	whit_dev_fail(d, rc == CUBLAS_STATUS_ALLOC_FAILED ? WHIT_ERESOURCE : WHIT_EINTERNAL, "%s: %s", call,
	              cublasGetStatusString(rc));
	return -1;
}

/* A workspace of ours: one of cuBLAS's own would be outside --vram, and a recorded graph could not be run. */
static cublasHandle_t blas(whit_dev *d) {
	cublasHandle_t h = NULL;
	if (d->blas || d->err.code) return (cublasHandle_t)d->blas;
	if (!(d->workspace = whit_dev_alloc(d, WORKSPACE)) || blas_failed(d, cublasCreate(&h), "cublasCreate"))
		return NULL;
	d->blas = h;
	if (blas_failed(d, cublasSetStream(h, d->stream), "cublasSetStream") ||
	    blas_failed(d, cublasSetWorkspace(h, d->workspace, WORKSPACE), "cublasSetWorkspace") ||
	    blas_failed(d, cublasSetMathMode(h, CUBLAS_PEDANTIC_MATH), "cublasSetMathMode"))
		return NULL;
	return h;
}

void whit_dev_gemm(whit_dev *d, float *y, int64_t ldy, const void *x, const void *w, int dtype, int64_t T, int64_t rows,
                   int64_t cols, int add) {
	cudaDataType type = dtype == WHIT_F16 ? CUDA_R_16F : dtype == WHIT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
	float one = 1, zero = 0;
	if (d->err.code || T == 0 || rows == 0) return;
	if (T > INT32_MAX || rows > INT32_MAX || cols > INT32_MAX || ldy > INT32_MAX) {
		whit_dev_fail(d, WHIT_EINTERNAL, "gemm: %lld x %lld x %lld, need less than 2^31 each", (long long)T,
		              (long long)rows, (long long)cols);
		return;
	}
	cublasHandle_t h = blas(d);
	if (!h) return;
	/* column by column, as cuBLAS reads it: y^T (rows, T) = w (rows, cols) x^T */
	blas_failed(d,
	            cublasGemmEx(h, CUBLAS_OP_T, CUBLAS_OP_N, (int)rows, (int)T, (int)cols, &one, w, type, (int)cols, x,
	                         type, (int)cols, add ? &one : &zero, y, CUDA_R_32F, (int)ldy, CUBLAS_COMPUTE_32F,
	                         CUBLAS_GEMM_DEFAULT),
	            "cublasGemmEx");
}

static bool fits_blas(whit_dev *d, int64_t m, int64_t n, int64_t k, int64_t ld) {
	if (WHIT_MAX(WHIT_MAX(m, n), WHIT_MAX(k, ld)) <= INT32_MAX) return true;
	whit_dev_fail(d, WHIT_EINTERNAL, "mul: %lld x %lld x %lld, need less than 2^31 each", (long long)m,
	              (long long)n, (long long)k);
	return false;
}

void whit_dev_mul(whit_dev *d, float *c, int64_t ldc, const float *a, int64_t lda, int turn_a, const float *b,
                  int64_t ldb, int turn_b, int64_t m, int64_t n, int64_t k, int add) {
	float one = 1, zero = 0;
	if (d->err.code || m == 0 || n == 0) return;
	cublasHandle_t h = fits_blas(d, m, n, k, WHIT_MAX(ldc, WHIT_MAX(lda, ldb))) ? blas(d) : NULL;
	if (!h) return;
	/* column by column, as cuBLAS reads it: c^T (n, m) = B^T A^T */
	blas_failed(d,
	            cublasSgemm(h, turn_b ? CUBLAS_OP_T : CUBLAS_OP_N, turn_a ? CUBLAS_OP_T : CUBLAS_OP_N, (int)n,
	                        (int)m, (int)k, &one, b, (int)ldb, a, (int)lda, add ? &one : &zero, c, (int)ldc),
	            "cublasSgemm");
}

void whit_dev_mul_f16(whit_dev *d, float *c, int64_t ldc, const uint16_t *a, const uint16_t *b, int64_t ld, int64_t m,
                      int64_t n, int64_t k, const float *scale) {
	if (d->err.code || m == 0 || n == 0) return;
	cublasHandle_t h = fits_blas(d, m, n, k, WHIT_MAX(ldc, ld)) ? blas(d) : NULL;
	if (!h || blas_failed(d, cublasSetPointerMode(h, CUBLAS_POINTER_MODE_DEVICE), "cublasSetPointerMode")) return;
	blas_failed(d,
	            cublasGemmEx(h, CUBLAS_OP_N, CUBLAS_OP_T, (int)n, (int)m, (int)k, scale, b, CUDA_R_16F, (int)ld, a,
	                         CUDA_R_16F, (int)ld, scale + 1, c, CUDA_R_32F, (int)ldc, CUBLAS_COMPUTE_32F,
	                         CUBLAS_GEMM_DEFAULT),
	            "cublasGemmEx");
	blas_failed(d, cublasSetPointerMode(h, CUBLAS_POINTER_MODE_HOST), "cublasSetPointerMode");
}

/* ---- factors ---- */

void whit_dev_factors_of(whit_dev *d, const char *library) {
	solver_free(d);
	d->solver_library = library;
}

/* Where its memory is: a word for what it found first. */
static constexpr size_t INFO = 256;

/* Row after row, a lower triangle is cuSOLVER's upper one. */
static constexpr cublasFillMode_t LOWER = CUBLAS_FILL_MODE_UPPER;

static cusolverStatus_t potrf_size(const whit_dev_solver *s, int64_t n, size_t *device, size_t *host) {
	return s->potrf_size(s->handle, s->params, LOWER, n, CUDA_R_64F, NULL, n, CUDA_R_64F, device, host);
}

static cusolverStatus_t trtri_size(const whit_dev_solver *s, int64_t n, size_t *device, size_t *host) {
	return s->trtri_size(s->handle, LOWER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, NULL, n, device, host);
}

int whit_dev_factors(whit_dev *d, int64_t n, size_t *room, whit_err *e) {
	whit_dev_solver *s = d->solver;
	size_t potrf = 0, trtri = 0, host;
	cudaSetDevice(d->index);
	if (!s) {
		s = d->solver = (whit_dev_solver *)whit_alloc(sizeof *s);
		int rc = solver_load(s, d->solver_library ? d->solver_library : SOLVER, e);
		if (!rc && (!s->handle || s->set_stream(s->handle, d->stream) != CUSOLVER_STATUS_SUCCESS ||
		            s->create_params(&s->params) != CUSOLVER_STATUS_SUCCESS))
			rc = whit_fail(e, WHIT_ERESOURCE, "cuSOLVER does not start on device %d", d->index);
		if (rc) {
			solver_free(d);
			return rc;
		}
	}
	cusolverStatus_t rc = potrf_size(s, n, &potrf, &host);
	if (rc == CUSOLVER_STATUS_SUCCESS) rc = trtri_size(s, n, &trtri, &host);
	if (rc != CUSOLVER_STATUS_SUCCESS)
		return whit_fail(e, WHIT_ERESOURCE, "cuSOLVER: status %d for %lld columns, need 0", (int)rc,
		                 (long long)n);
	*room = INFO + WHIT_MAX(potrf, trtri);
	return 0;
}

/* What a call has left in room: 0, or the number that it stopped at. */
static int solver_told(whit_dev *d, cusolverStatus_t rc, const char *call, const void *room) {
	int info = 0;
	if (rc != CUSOLVER_STATUS_SUCCESS) {
		whit_dev_fail(d, rc == CUSOLVER_STATUS_ALLOC_FAILED ? WHIT_ERESOURCE : WHIT_EINTERNAL, "%s: status %d",
		              call, (int)rc);
		return 0;
	}
	if (WHIT_CHECK(d, cudaMemcpyAsync(&info, room, sizeof info, cudaMemcpyDeviceToHost, d->stream)) ||
	    WHIT_CHECK(d, cudaStreamSynchronize(d->stream)))
		return 0;
	if (info < 0) whit_dev_fail(d, WHIT_EINTERNAL, "%s: argument %d is refused", call, -info);
	return info;
}

int whit_dev_cholesky(whit_dev *d, double *a, int64_t n, void *room) {
	size_t device = 0, host = 0;
	if (d->err.code || n == 0) return 0;
	const whit_dev_solver *s = d->solver;
	cusolverStatus_t rc = potrf_size(s, n, &device, &host);
	void *own = whit_alloc(host + 1);
	if (rc == CUSOLVER_STATUS_SUCCESS)
		rc = s->potrf(s->handle, s->params, LOWER, n, CUDA_R_64F, a, n, CUDA_R_64F, (uint8_t *)room + INFO,
		              device, own, host, (int *)room);
	int info = solver_told(d, rc, "cusolverDnXpotrf", room);
	whit_free(own);
	return info > 0;
}

void whit_dev_invert(whit_dev *d, double *a, int64_t n, void *room) {
	size_t device = 0, host = 0;
	if (d->err.code || n == 0) return;
	const whit_dev_solver *s = d->solver;
	cusolverStatus_t rc = trtri_size(s, n, &device, &host);
	void *own = whit_alloc(host + 1);
	if (rc == CUSOLVER_STATUS_SUCCESS)
		rc = s->trtri(s->handle, LOWER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, a, n, (uint8_t *)room + INFO,
		              device, own, host, (int *)room);
	int info = solver_told(d, rc, "cusolverDnXtrtri", room);
	if (info > 0) whit_dev_fail(d, WHIT_EINTERNAL, "cusolverDnXtrtri: diagonal %d is 0", info);
	whit_free(own);
}

void whit_dev_mul_upper(whit_dev *d, double *b, const double *u, int64_t n, int turn) {
	double one = 1;
	if (d->err.code || n == 0) return;
	cublasHandle_t h = fits_blas(d, n, n, n, n) ? blas(d) : NULL;
	if (!h) return;
	/* column by column, as cuBLAS reads it: b^T becomes u^T b^T, u^T a lower triangle; b is its own output */
	blas_failed(d,
	            cublasDtrmm(h, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, turn ? CUBLAS_OP_T : CUBLAS_OP_N,
	                        CUBLAS_DIAG_NON_UNIT, (int)n, (int)n, &one, u, (int)n, b, (int)n, b, (int)n),
	            "cublasDtrmm");
}

int whit_dev_sync(whit_dev *d, whit_err *e) {
	cudaSetDevice(d->index);
	WHIT_CHECK(d, cudaStreamSynchronize(d->copy));
	WHIT_CHECK(d, cudaStreamSynchronize(d->stream));
	if (!d->err.code) return 0;
	*e = d->err;
	d->err.code = 0;
	return e->code;
}

/* ---- the copy queue ---- */

void whit_dev_upload(whit_dev *d, void *dst, const void *src, size_t bytes) {
	for (size_t at = 0; at < bytes && !d->err.code; at += STAGE) {
		auto *s = &d->stage[d->staged ^= 1];
		size_t n = WHIT_MIN(STAGE, bytes - at);
		if (!s->p && (WHIT_CHECK(d, cudaMallocHost((void **)&s->p, STAGE)) ||
		              WHIT_CHECK(d, cudaEventCreateWithFlags(&s->read, cudaEventDisableTiming))))
			return;
		if (WHIT_CHECK(d, cudaEventSynchronize(s->read))) return;
		memcpy(s->p, (const uint8_t *)src + at, n);
		WHIT_CHECK(d, cudaMemcpyAsync((uint8_t *)dst + at, s->p, n, cudaMemcpyHostToDevice, d->copy));
		WHIT_CHECK(d, cudaEventRecord(s->read, d->copy));
	}
}

void whit_dev_mark(whit_dev *d, int queue, int i) {
	if (!d->err.code) WHIT_CHECK(d, cudaEventRecord(d->mark[i], queue == WHIT_QUEUE_WORK ? d->stream : d->copy));
}

void whit_dev_wait(whit_dev *d, int queue, int i) {
	if (!d->err.code)
		WHIT_CHECK(d, cudaStreamWaitEvent(queue == WHIT_QUEUE_WORK ? d->stream : d->copy, d->mark[i], 0));
}

/* ---- graphs ---- */

int whit_graph_begin(whit_dev *d) {
	if (d->err.code) return 1;
	WHIT_CHECK(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal));
	return 1;
}

whit_graph *whit_graph_end(whit_dev *d) {
	cudaGraph_t g = NULL;
	cudaGraphExec_t run = NULL;
	cudaError_t rc = cudaStreamEndCapture(d->stream, &g);
	if (!d->err.code) WHIT_CHECK(d, rc);
	if (!d->err.code) WHIT_CHECK(d, cudaGraphInstantiate(&run, g, 0));
	if (g) cudaGraphDestroy(g);
	return d->err.code ? NULL : (whit_graph *)run;
}

void whit_graph_run(whit_dev *d, whit_graph *g) {
	if (!d->err.code) WHIT_CHECK(d, cudaGraphLaunch((cudaGraphExec_t)g, d->stream));
}

void whit_graph_free(whit_graph *g) {
	if (g) cudaGraphExecDestroy((cudaGraphExec_t)g);
}
}
