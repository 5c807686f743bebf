/* dev: cuda/dev.cu's emulated twin. Queued work is done at once; memory is the emulator's. */
#include "cuda/dev.cuh"
#include <stdio.h>

extern "C" {
#include "tests/case.h"

void case_schedule(int i, char *text, size_t size) {
	emu::now = emu::schedule_number(i);
	emu::describe(text, size);
}

int whit_dev_open(whit_dev **d, int index, whit_err *e) {
	if (index) return whit_fail(e, WHIT_ERESOURCE, "device %d: is not there, need 0", index);
	*d = (whit_dev *)whit_alloc(sizeof **d);
	return 0;
}

void whit_dev_close(whit_dev *d) { whit_free(d); }

void whit_dev_fail(whit_dev *d, int code, const char *fmt, ...) {
	if (d->err.code) return;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(d->err.text, sizeof d->err.text, fmt, ap);
	va_end(ap);
	d->err.code = code;
}

void *whit_dev_alloc(whit_dev *d, size_t bytes) {
	(void)d;
	return emu::device_alloc(bytes);
}

void whit_dev_free(whit_dev *d, void *p) {
	char text[300];
	if (p && emu::device_free(p, text, sizeof text)) whit_dev_fail(d, WHIT_EINTERNAL, "%s", text);
}

void whit_dev_put(whit_dev *d, void *dst, const void *src, size_t bytes) {
	if (!d->err.code && bytes) memcpy(dst, src, bytes);
}

void whit_dev_get(whit_dev *d, void *dst, const void *src, size_t bytes) {
	if (!d->err.code && bytes) memcpy(dst, src, bytes);
}

int whit_dev_sync(whit_dev *d, whit_err *e) {
	char text[300];
	if (emu::device_check(text, sizeof text)) whit_dev_fail(d, WHIT_EINTERNAL, "%s", text);
	if (!d->err.code) return 0;
	*e = d->err;
	d->err.code = 0;
	return e->code;
}
}
