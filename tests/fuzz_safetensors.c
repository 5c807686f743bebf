/* fuzz_safetensors: any bytes as a weight file. What the reader accepts must be wholly inside the bytes. */
#include "formats/safetensors.h"
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
	whit_st s;
	whit_err e = {0};
	if (whit_st_parse(&s, data, n, "fuzz", &e)) {
		if (!e.text[0] || s.t || s.map.path) abort();
		return 0;
	}
	uint8_t sum = 0;
	size_t bytes = 0;
	for (int64_t i = 0; i < s.n; i++) {
		if (s.t[i].bytes != (size_t)whit_tensor_count(&s.t[i]) * whit_dtype_size(s.t[i].dtype)) abort();
		for (size_t k = 0; k < s.t[i].bytes; k++) sum ^= s.t[i].data[k];
		bytes += s.t[i].bytes;
	}
	if (bytes + 8 + whit_load_u64(data) != n) abort();
	whit_st_close(&s);
	return sum == 0 && bytes == SIZE_MAX; /* keeps the reads alive; always 0 */
}
