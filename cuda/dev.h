/* dev: a device, as C sees it: no CUDA header is needed to read this. Errors of queued work stay with the device,
 * the first one counts, and whit_dev_sync tells it; after an error queued work is dropped. */
#ifndef WHIT_DEV_H
#define WHIT_DEV_H
#include "host/base.h"

/* Device number index. WHIT_ERESOURCE with the reason: none there, driver too old, device too old. */
int whit_dev_open(whit_dev **d, int index, whit_err *e);
void whit_dev_close(whit_dev *d); /* waits; NULL is allowed */

/* Device memory of at least 1 byte, aligned to 256, not zeroed. NULL: too little, told by whit_dev_sync too. */
void *whit_dev_alloc(whit_dev *d, size_t bytes);
void whit_dev_free(whit_dev *d, void *p); /* waits; NULL is allowed */

/* Queued copies; src of put must stay until whit_dev_sync. */
void whit_dev_put(whit_dev *d, void *dst, const void *src, size_t bytes);
void whit_dev_get(whit_dev *d, void *dst, const void *src, size_t bytes);
/* Waits for all that is queued. 0, or the first error since the last call, which is then forgotten. */
int whit_dev_sync(whit_dev *d, whit_err *e);
/* Keeps an error, unless one is kept already: what a twin cannot do. */
void whit_dev_fail(whit_dev *d, int code, const char *fmt, ...) WHIT_PRINTF(3, 4);
#endif
