/* spans: a batch's sequences, as kernels find them. */
#ifndef WHIT_SPANS_CUH
#define WHIT_SPANS_CUH
#include "cuda/dev.cuh"

/* The sequence of row t: the first whose end is beyond it (some may be empty). */
static __device__ __forceinline__ int whit_dev_sequence(const int64_t *start, int n_seq, int64_t t) {
	int low = 0, high = n_seq - 1;
	while (low < high) {
		int mid = (low + high) / 2;
		if (start[mid + 1] > t)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}
#endif
