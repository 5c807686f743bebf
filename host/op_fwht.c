/* fwht: the transform of values as they are stored. Float itself is formats/fwht.c's. */
#include "formats/rotation.h"
#include "formats/tensor.h"
#include "host/ops.h"

void whit_fwht_stored_cpu(void *x, int dtype, int64_t rows, int64_t n) {
	if (dtype == WHIT_F32) {
		whit_fwht_fast_cpu(x, rows, n);
		return;
	}
	float *v = whit_alloc((size_t)n * sizeof *v);
	for (uint16_t *row = x, *end = row + rows * n; row < end; row += n) {
		(dtype == WHIT_F16 ? whit_f16_to_f32_n : whit_bf16_to_f32_n)(v, row, n);
		whit_fwht_fast_cpu(v, 1, n);
		for (int64_t i = 0; i < n; i++)
			row[i] = dtype == WHIT_F16 ? whit_f32_to_f16(v[i]) : whit_f32_to_bf16(v[i]);
	}
	whit_free(v);
}
