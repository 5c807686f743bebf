/* prompts: reads a file of prompts. Refuses binary files. */
#include "host/prompts.h"

enum { MOST_LINE = 1 << 20 };

static void add(whit_prompts *p, const char *line) {
	if (!(p->n & (p->n - 1))) /* it doubles at powers of two */
		p->line = whit_realloc(p->line, (size_t)p->n * sizeof *p->line,
		                       (size_t)WHIT_MAX(2 * p->n, 1) * sizeof *p->line);
	p->line[p->n++] = line;
}

static int read_lines(whit_prompts *p, const whit_map *file, const char *path, whit_err *e) {
	for (size_t i = 0, n; i < file->bytes; i += n + 1) {
		const char *line = (const char *)file->data + i, *end = memchr(line, '\n', file->bytes - i);
		n = end ? (size_t)(end - line) : file->bytes - i;
		size_t text = n && line[n - 1] == '\r' ? n - 1 : n;
		if (text > MOST_LINE || memchr(line, 0, text))
			return whit_fail(e, WHIT_EINPUT, "%s: offset %zu: is %s, need lines of text", path, i,
			                 text > MOST_LINE ? "a line beyond 1 MiB" : "binary");
		if (!text) continue;
		char *copy = whit_take_bytes(&p->mem, text + 1);
		memcpy(copy, line, text);
		copy[text] = 0;
		add(p, copy);
	}
	return p->n ? 0 : whit_fail(e, WHIT_EINPUT, "%s: has no prompt, need one on a line", path);
}

int whit_prompts_read(whit_prompts *p, const char *path, const char *const *own, int64_t n_own, whit_err *e) {
	whit_map file;
	*p = (whit_prompts){0};
	for (int64_t i = 0; i < n_own && !path; i++) add(p, own[i]);
	if (!path) return 0;
	int rc = whit_map_open(&file, path, e);
	if (rc) return rc;
	rc = read_lines(p, &file, path, e);
	whit_map_close(&file);
	if (rc) whit_prompts_free(p);
	return rc;
}

void whit_prompts_free(whit_prompts *p) {
	whit_free(p->line);
	whit_arena_free(&p->mem);
	*p = (whit_prompts){0};
}
