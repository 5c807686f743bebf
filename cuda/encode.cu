/* encode: nearest encoding on the device. */
#include "cuda/encode.cuh"
extern "C" {
#include "formats/format.h"
}

extern "C" void whit_rows_encode_cuda(whit_dev *d, const whit_mat *m, int64_t r0, int64_t n, const float *w,
                                      const float *imp, int rule, int64_t *count) {
	(void)rule;
	if (n == 0) return;
	if (!whit_blocks_encode(d, m, r0, n, w, imp, count))
		whit_dev_fail(d, WHIT_EINTERNAL, "format %s: has no encoder on the device", m->spec.fmt->name);
}
