/* options: one table per subcommand is its parser, its --help and its error messages. */
#ifndef WHIT_OPTIONS_H
#define WHIT_OPTIONS_H
#include "host/base.h"

typedef struct whit_list { /* values of a repeatable option or the positional words */
	const char **v;
	int n;
} whit_list;

typedef struct whit_opt {
	const char *name; /* "--ctx"; a name without dashes is a positional argument, in order */
	char kind; /* 's' text, 'r' path that is read, 'w' path that is written, 'l' whit_list, of paths that are read,
	              'i' int64_t, 'd' double, 'f' flag (int), 'b' bytes (int64_t, K/M/G suffix) */
	const char *arg;  /* what the value is called in help: "N", "FILE" */
	const char *help; /* with default and unit */
	void *out;        /* const char **, int64_t *, double *, int *, whit_list *; holds the default */
	int required;
} whit_opt;

typedef struct whit_cmd {
	const char *name, *summary;
	int (*run)(int argc, char **argv, whit_err *e); /* argv[0] is the subcommand */
} whit_cmd;

/* The known name that a mistyped word probably meant (edit distance), or NULL. */
const char *whit_nearest_name(const char *word, const char *const *name, int n);
/* Parses argv[1..] into the table (terminated by name == NULL). --help anywhere prints the page to stdout
 * and returns 1. Misuse is WHIT_EUSAGE and names the nearest option; so is a file that is read and written, or written
 * by two options. Options every command has (--device, --vram, --threads, --cpu, --events, --quiet) are
 * handled here. */
int whit_options(const char *cmd, const char *summary, const whit_opt *opt, int argc, char **argv, whit_err *e);
/* The same for the options of a line of a file: without positional words, --help and what every command has; opt ends
 * with name NULL. */
int whit_options_line(const char *cmd, const whit_opt *opt, int argc, char **argv, whit_err *e);
/* "whit eval ...", as typed: words quoted where a shell would split or expand them. whit_free it. */
char *whit_command_text(int argc, char **argv);
#endif
