/* floats: matrices stored as plain f32, f16 or bf16, little-endian, one plane: the three formats' common code. */
#ifndef WHIT_FLOATS_H
#define WHIT_FLOATS_H
#include "formats/format.h"
#include "formats/tensor.h"

void whit_floats_decode(const whit_mat *m, int dtype, int64_t r0, int64_t r1, float *out);
int whit_floats_encode(whit_mat *m, int dtype, int64_t r, const float *w, int64_t *zero_groups);
/* Plain: double sums; the other: the fastest this CPU has, within the bound of whit_codes_gemv. */
void whit_floats_gemv_plain(const whit_mat *m, int dtype, int64_t r0, int64_t r1, const float *x, int T, float *y,
                            int64_t ldy);
void whit_floats_gemv(const whit_mat *m, int dtype, int64_t r0, int64_t r1, const float *x, int T, float *y,
                      int64_t ldy);
#endif
