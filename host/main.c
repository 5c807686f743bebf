/* main: finds the subcommand, prints its error, exits with its code. Nothing else prints errors or exits. */
#include <stdio.h>
#include "host/commands.h"
#include "host/progress.h"

static const whit_cmd commands[] = {
#define COMMAND(name, summary) {#name, summary, whit_cmd_##name},
#include "host/commands.def"
#undef COMMAND
};

static void print_usage(FILE *f) {
	fprintf(f, "whit %s: quantize language models, prove what was lost, run the result\n\n", WHIT_VERSION);
	for (int i = 0; i < WHIT_COUNT(commands); i++)
		fprintf(f, "  whit %-11s %s\n", commands[i].name, commands[i].summary);
	fprintf(f, "\n`whit help CMD` or `whit CMD --help` prints a command's options.\n"
	           "exit codes: 0 good, 1 internal, 2 usage or recipe, 3 input, 4 resources, 5 non-finite,\n"
	           "            6 fingerprint, 7 lost rank, 8 check failed after export, 130/143 interrupted\n");
}

static const whit_cmd *find(const char *name) {
	for (int i = 0; i < WHIT_COUNT(commands); i++)
		if (!strcmp(commands[i].name, name)) return &commands[i];
	return NULL;
}

static int unknown(const char *word) {
	const char *name[WHIT_COUNT(commands)];
	for (int i = 0; i < WHIT_COUNT(commands); i++) name[i] = commands[i].name;
	const char *near = whit_nearest_name(word, name, (int)WHIT_COUNT(commands));
	fprintf(stderr, "whit: unknown command %s%s%s\nsee whit --help\n", word, near ? "; did you mean " : "",
	        near ? near : "");
	return -WHIT_EUSAGE;
}

int main(int argc, char **argv) {
	if (argc < 2) {
		print_usage(stderr);
		return -WHIT_EUSAGE;
	}
	if (!strcmp(argv[1], "--version")) return puts("whit " WHIT_VERSION) < 0;
	int help = !strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h");
	if (help && argc == 2) {
		print_usage(stdout);
		return 0;
	}
	const whit_cmd *c = find(argv[help ? 2 : 1]);
	if (!c) return unknown(argv[help ? 2 : 1]);
	char *ask[] = {argv[1], (char *)(uintptr_t) "--help", NULL};
	whit_err e = {0};
	whit_signals_catch();
	int rc = help ? c->run(2, ask, &e) : c->run(argc - 1, argv + 1, &e);
	whit_events_close();
	if (rc == 0 && fflush(stdout)) rc = whit_fail(&e, WHIT_ERESOURCE, "standard output: cannot write");
	if (rc < 0) {
		fprintf(stderr, "whit: %s\n", e.text);
		return -rc;
	}
	return 0;
}
