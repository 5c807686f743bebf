/* tensor: element types and named arrays as containers store them. */
#ifndef WHIT_TENSOR_H
#define WHIT_TENSOR_H
#include "host/base.h"

typedef enum whit_dtype {
	WHIT_BOOL,
	WHIT_U8,
	WHIT_I8,
	WHIT_U16,
	WHIT_I16,
	WHIT_U32,
	WHIT_I32,
	WHIT_U64,
	WHIT_I64,
	WHIT_F16,
	WHIT_BF16,
	WHIT_F32,
	WHIT_F64,
	WHIT_F8_E4M3,
	WHIT_F8_E5M2,
	WHIT_DTYPES
} whit_dtype;
enum { WHIT_DIMS = 8 };

const char *whit_dtype_name(int d);               /* safetensors spelling, "BF16" */
int whit_dtype_parse(const char *name, size_t n); /* -1 = unknown */
size_t whit_dtype_size(int d);

/* One array inside a mapped file: borrowed from the container that lists it. */
typedef struct whit_tensor {
	char *name;
	int dtype, ndim;
	int64_t shape[WHIT_DIMS];
	const uint8_t *data; /* bytes long, no alignment promise */
	size_t bytes;
	const char *file; /* for messages */
} whit_tensor;
int64_t whit_tensor_count(const whit_tensor *t);                    /* elements */
void whit_shape_text(const int64_t *shape, int ndim, char out[96]); /* "[1024, 3584]" */
#endif
