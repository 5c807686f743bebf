/* tensor: names and sizes of element types; nothing here reads a file. */
#include <stdio.h>
#include "formats/tensor.h"

static const struct {
	const char *name;
	size_t size;
} dtypes[WHIT_DTYPES] = {
        [WHIT_BOOL] = {"BOOL", 1}, [WHIT_U8] = {"U8", 1},           [WHIT_I8] = {"I8", 1},
        [WHIT_U16] = {"U16", 2},   [WHIT_I16] = {"I16", 2},         [WHIT_U32] = {"U32", 4},
        [WHIT_I32] = {"I32", 4},   [WHIT_U64] = {"U64", 8},         [WHIT_I64] = {"I64", 8},
        [WHIT_F16] = {"F16", 2},   [WHIT_BF16] = {"BF16", 2},       [WHIT_F32] = {"F32", 4},
        [WHIT_F64] = {"F64", 8},   [WHIT_F8_E4M3] = {"F8_E4M3", 1}, [WHIT_F8_E5M2] = {"F8_E5M2", 1},
};

const char *whit_dtype_name(int d) { return dtypes[d].name; }

int whit_dtype_parse(const char *name, size_t n) {
	for (int d = 0; d < WHIT_DTYPES; d++)
		if (strlen(dtypes[d].name) == n && !memcmp(dtypes[d].name, name, n)) return d;
	return -1;
}

size_t whit_dtype_size(int d) { return dtypes[d].size; }

int64_t whit_tensor_count(const whit_tensor *t) {
	int64_t n = 1;
	for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
	return n;
}

void whit_shape_text(const int64_t *shape, int ndim, char out[96]) {
	size_t n = (size_t)snprintf(out, 96, "[");
	for (int i = 0; i < ndim && n < 96; i++)
		n += (size_t)snprintf(out + n, 96 - n, "%s%lld", i ? ", " : "", (long long)shape[i]);
	if (n < 95)
		snprintf(out + n, 96 - n, "]");
	else
		strcpy(out + 90, "...]"); /* only shapes that no file can hold */
}
