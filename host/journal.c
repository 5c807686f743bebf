/* journal: the files of a run that can be interrupted. */
#include <stdio.h>
#include <stdlib.h>
#include "formats/json.h"
#include "host/journal.h"
#include "host/progress.h"

static const char *const suffix[WHIT_TO_FILES] = {".json", ".md", ".svg", ".journal"};

int whit_journal_open(whit_journal *j, const char *command, const char *base, const char *text, int force,
                      whit_err *e) {
	*j = (whit_journal){.command = command, .force = force};
	int rc = 0;
	if (!*base)
		return whit_fail(e, WHIT_EUSAGE, "%s: --out is '', need a name\nsee whit %s --help", command, command);
	for (int i = 0; i < WHIT_TO_FILES && !rc; i++) {
		j->path[i] = whit_format_text("%s%s", base, suffix[i]);
		if (whit_same_file(j->path[i], text))
			rc = whit_fail(e, WHIT_EUSAGE,
			               "%s: is the input (--text) and where --out writes, need another place", text);
		if (!rc) rc = whit_out_try(j->path[i], e);
	}
	for (int i = 0; i < WHIT_TO_JOURNAL && !rc && !force && !whit_file_exists(j->path[WHIT_TO_JOURNAL]); i++)
		if (whit_file_exists(j->path[i]))
			rc = whit_fail(e, WHIT_EUSAGE,
			               "%s: exists, without a journal; give another --out, or --force to replace it",
			               j->path[i]);
	return rc;
}

void whit_journal_inputs(whit_journal *j, json_t *inputs) {
	j->inputs = inputs;
	char *text = json_dumps(inputs, JSON_COMPACT);
	whit_hash_text(whit_hash_bytes(text, strlen(text)), j->print);
	free(text);
}

static int other_inputs(const whit_journal *j, const json_t *was, whit_err *e) {
	const char *path = j->path[WHIT_TO_JOURNAL];
	char list[700];
	if (whit_json_differs(was, j->inputs, list, sizeof list))
		return whit_fail(e, WHIT_EFINGERPRINT,
		                 "%s: belongs to other inputs: %s; give another --out, or --force to start anew", path,
		                 list);
	return whit_fail(e, WHIT_EFINGERPRINT, "%s: has inputs that this run does not have", path);
}

int whit_journal_read(const whit_journal *j, int64_t total, int (*add)(void *ctx, const json_t *entry, whit_err *e),
                      void *ctx, whit_err *e) {
	const char *path = j->path[WHIT_TO_JOURNAL];
	const json_t *inputs, *entries;
	json_t *was;
	if (j->force || !whit_file_exists(path)) return 0;
	int rc = whit_json_load(&was, path, e);
	if (rc) return rc;
	rc = whit_json_member(was, path, "inputs", 1, JSON_OBJECT, &inputs, e);
	if (!rc) rc = whit_json_member(was, path, "entries", 1, JSON_ARRAY, &entries, e);
	if (!rc && !json_equal(inputs, j->inputs)) rc = other_inputs(j, inputs, e);
	for (size_t i = 0; !rc && i < json_array_size(entries); i++) rc = add(ctx, json_array_get(entries, i), e);
	if (!rc && json_array_size(entries))
		whit_say("%s: %s: goes on behind %zu finished of %lld", j->command, path, json_array_size(entries),
		         (long long)total);
	json_decref(was);
	return rc;
}

int whit_journal_write(const whit_journal *j, json_t *entries, whit_err *e) {
	json_t *all = json_pack("{s:s, s:O, s:o}", "fingerprint", j->print, "inputs", j->inputs, "entries", entries);
	int rc = whit_json_write(all, j->path[WHIT_TO_JOURNAL], e);
	json_decref(all);
	return rc;
}

static int write_text(const char *path, const char *text, whit_err *e) {
	return whit_write_file(path, text, strlen(text), e);
}

int whit_journal_results(const whit_journal *j, json_t *json, char *markdown, char *svg, whit_err *e) {
	int rc = whit_json_write(json, j->path[WHIT_TO_JSON], e);
	if (!rc) rc = write_text(j->path[WHIT_TO_MARKDOWN], markdown, e);
	if (!rc) rc = write_text(j->path[WHIT_TO_SVG], svg, e);
	json_decref(json);
	whit_free(markdown);
	whit_free(svg);
	return rc;
}

void whit_journal_free(whit_journal *j) {
	for (int i = 0; i < WHIT_TO_FILES; i++) whit_free(j->path[i]);
	json_decref(j->inputs);
	memset(j, 0, sizeof *j);
}
