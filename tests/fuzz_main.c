/* fuzz_main: runs a fuzz target without libFuzzer: every file of a corpus as it is, then N fixed mutations of
 * them (flipped, deleted, repeated, overwritten and spliced bytes).   fuzz_NAME CORPUS N */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
enum { SEEDS = 256, ROOM = 1 << 20 };

static char *seed[SEEDS];
static size_t size[SEEDS];
static int seeds;

/* Exactly n bytes on the heap, so that a sanitizer sees one byte too many. */
static void run(const uint8_t *p, size_t n) {
	uint8_t *exact = malloc(n ? n : 1);
	if (!exact) abort();
	memcpy(exact, p, n);
	LLVMFuzzerTestOneInput(exact, n);
	free(exact);
}

static size_t mutate(uint8_t *p, size_t n, whit_rng *r) {
	size_t at = whit_rng_below(r, n + 1), len = whit_rng_below(r, 9), other = whit_rng_below(r, (uint64_t)seeds);
	switch (whit_rng_below(r, 5)) {
	case 0:
		if (at < n) p[at] ^= (uint8_t)(1u << whit_rng_below(r, 8));
		return n;
	case 1:
		for (size_t i = at; i < WHIT_MIN(n, at + len); i++) p[i] = (uint8_t)whit_rng_next(r);
		return n;
	case 2:
		len = WHIT_MIN(len, n - at);
		memmove(p + at, p + at + len, n - at - len);
		return n - len;
	case 3:
		len = WHIT_MIN(len, n - at);
		if (n + len > ROOM) return n;
		memmove(p + at + len, p + at, n - at);
		return n + len;
	default: {
		size_t from = whit_rng_below(r, size[other] + 1);
		len = WHIT_MIN(size[other] - from, whit_rng_below(r, 65));
		if (at + len > ROOM) return n;
		memcpy(p + at, seed[other] + from, len);
		return WHIT_MAX(n, at + len);
	}
	}
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

int main(int argc, char **argv) {
	struct dirent **file;
	int files = argc == 3 ? scandir(argv[1], &file, NULL, by_name) : -1, rounds = argc == 3 ? atoi(argv[2]) : 0;
	if (files < 0) return fprintf(stderr, "usage: %s CORPUS N\n", argv[0]), 2;
	for (int i = 0; i < files && seeds < SEEDS; i++) {
		char *path = whit_format_text("%s/%s", argv[1], file[i]->d_name);
		if (!whit_is_dir(path)) {
			seed[seeds] = test_read(path, &size[seeds]);
			if (size[seeds] <= ROOM) seeds++;
		}
		whit_free(path);
	}
	if (!seeds) return fprintf(stderr, "%s: holds no files\n", argv[1]), 2;
	uint8_t *buf = whit_alloc(ROOM);
	for (int i = 0; i < seeds; i++) run((uint8_t *)seed[i], size[i]);
	for (int i = 0; i < rounds; i++) {
		whit_rng r;
		whit_rng_key(&r, 1, (uint64_t)i, 0);
		size_t n = size[i % seeds];
		memcpy(buf, seed[i % seeds], n);
		for (uint64_t k = 1 + whit_rng_below(&r, 6); k > 0; k--) n = mutate(buf, n, &r);
		run(buf, n);
	}
	printf("%d seeds, %d mutations\n", seeds, rounds);
	return 0;
}
