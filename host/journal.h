/* journal: what commands share that measure one thing after the other: BASE.json, BASE.md and BASE.svg, written when
 * all is done, and BASE.journal, which keeps what is finished, so that an interrupted run goes on where it was. */
#ifndef WHIT_JOURNAL_H
#define WHIT_JOURNAL_H
#include <jansson.h>
#include "host/base.h"

enum { WHIT_TO_JSON, WHIT_TO_MARKDOWN, WHIT_TO_SVG, WHIT_TO_JOURNAL, WHIT_TO_FILES };
typedef struct whit_journal {
	const char *command; /* for messages */
	int force;           /* start anew over a journal of other inputs, replace files without one */
	char *path[WHIT_TO_FILES];
	json_t *inputs; /* what the numbers depend on */
	char print[48]; /* their hash */
} whit_journal;

/* Names the files, finds out whether they can be written, and refuses those that are there without a journal (a
 * config.json, say, is not ours to replace), and `text`, which is read. command is borrowed. */
int whit_journal_open(whit_journal *j, const char *command, const char *base, const char *text, int force, whit_err *e);
void whit_journal_inputs(whit_journal *j, json_t *inputs); /* takes them */
/* Tells add each entry of the journal, if there is one; add's error is the result. A journal of other inputs:
 * WHIT_EFINGERPRINT, with what differs. total: how many entries there will be, for the line that says it goes on. */
int whit_journal_read(const whit_journal *j, int64_t total, int (*add)(void *ctx, const json_t *entry, whit_err *e),
                      void *ctx, whit_err *e);
int whit_journal_write(const whit_journal *j, json_t *entries, whit_err *e); /* takes them */
/* Writes what came out and takes all three. */
int whit_journal_results(const whit_journal *j, json_t *json, char *markdown, char *svg, whit_err *e);
void whit_journal_free(whit_journal *j);
#endif
