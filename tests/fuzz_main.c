/* fuzz_main: runs a fuzz target without libFuzzer: each file of the corpus directory (argv[1]), then argv[2]
 * mutations of them, the same on every run. A crash or a sanitizer's report is the failure. */
#include <dirent.h>
#include "tests/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { FILES = 256, GROW = 64 };

typedef struct seed {
	char *name, *data;
	size_t n;
} seed;

static int by_name(const void *a, const void *b) { return strcmp(((const seed *)a)->name, ((const seed *)b)->name); }

static int load(const char *dir, seed s[FILES]) {
	int n = 0;
	DIR *d = opendir(dir);
	if (!d) return 0;
	for (struct dirent *f; n < FILES && (f = readdir(d));) {
		if (f->d_name[0] == '.') continue;
		s[n].name = whit_format_text("%s/%s", dir, f->d_name);
		if ((s[n].data = test_read(s[n].name, &s[n].n))) n++;
	}
	closedir(d);
	qsort(s, (size_t)n, sizeof *s, by_name); /* directory order is nobody's promise */
	return n;
}

/* An exact heap copy, so that a read past the end is seen. */
static void feed(const char *p, size_t n) {
	uint8_t *copy = malloc(n ? n : 1);
	if (n) memcpy(copy, p, n);
	LLVMFuzzerTestOneInput(copy, n);
	free(copy);
}

/* One to four of: flip a bit, set a byte, truncate, insert, repeat a run, splice another seed's tail. */
static void mutate(const seed *all, int count, whit_rng *r) {
	static const char interesting[] = {0,   1,   '"', '\\', '{', '}',  '[',        ']',
	                                   ',', '-', '9', '.',  'e', 0x7f, (char)0x80, (char)0xff};
	const seed *s = &all[whit_rng_below(r, (uint64_t)count)], *other = &all[whit_rng_below(r, (uint64_t)count)];
	size_t room = s->n + other->n + 4 * GROW, n = s->n;
	char *b = calloc(room + 1, 1);
	memcpy(b, s->data, n);
	for (uint64_t k = 1 + whit_rng_below(r, 4); k; k--) {
		size_t at = (size_t)whit_rng_below(r, n + 1), len = (size_t)whit_rng_below(r, GROW);
		switch (whit_rng_below(r, 6)) {
		case 0:
			if (at < n) b[at] ^= (char)(1 << whit_rng_below(r, 8));
			break;
		case 1:
			if (at < n) b[at] = interesting[whit_rng_below(r, sizeof interesting)];
			break;
		case 2:
			n = at;
			break;
		case 3:
			if (n + 1 < room) memmove(b + at + 1, b + at, n++ - at), b[at] = (char)whit_rng_next(r);
			break;
		case 4:
			len = WHIT_MIN(len, n - at);
			if (n + len < room) memmove(b + at + len, b + at, n - at), n += len;
			break;
		default: {
			size_t from = (size_t)whit_rng_below(r, other->n + 1),
			       tail = WHIT_MIN(other->n - from, room - at);
			memcpy(b + at, other->data + from, tail);
			n = at + tail;
		}
		}
	}
	feed(b, n);
	free(b);
}

int main(int argc, char **argv) {
	static seed s[FILES];
	int n = argc == 3 ? load(argv[1], s) : 0, count = argc == 3 ? atoi(argv[2]) : 0;
	whit_rng r;
	if (n == 0 || count <= 0) {
		fprintf(stderr, "usage: %s CORPUS MUTATIONS: need a directory with files and a positive number\n",
		        argv[0]);
		return 2;
	}
	for (int i = 0; i < n; i++) feed(s[i].data, s[i].n);
	for (int i = 0; i < count; i++) {
		whit_rng_key(&r, 20240904, (uint64_t)i, 0);
		mutate(s, n, &r);
	}
	printf("%d files, %d mutations\n", n, count);
	for (int i = 0; i < n; i++) {
		whit_free(s[i].data);
		whit_free(s[i].name);
	}
	return 0;
}
