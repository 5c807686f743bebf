/* options: the table is the parser. Also the options that every command has. */
#define _GNU_SOURCE
#include "host/options.h"
#include "host/device.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include "host/progress.h"

static int64_t threads;
static const char *cpu, *events;
static const char *device = "auto", *precision = "exact";
static int64_t vram;
static int quiet;

static const whit_opt common[] = {
        {"--device", 's', "DEV", "cpu, cuda, cuda:N or auto: a CUDA device where one can be used (default auto)",
         &device, 0},
        {"--vram", 'b', "BYTES", "use at most so much of the device's memory (default: what is free)", &vram, 0},
        {"--precision", 's', "HOW",
         "on a device: exact (activations keep 32 bits in products with 16-bit weights) or fast (they are rounded to "
         "16, a third of the time) (default exact)",
         &precision, 0},
        {"--threads", 'i', "N", "threads (default: one per core this process may use)", &threads, 0},
        {"--cpu", 's', "LEVEL", "use at most plain, avx2, avx512 or vnni (default: what the CPU has)", &cpu, 0},
        {"--events", 'w', "FILE", "append progress as JSON lines to FILE", &events, 0},
        {"--quiet", 'f', NULL, "no progress on stderr; warnings stay", &quiet, 0},
        {NULL, 0, NULL, NULL, NULL, 0},
};

static void print_table(const whit_opt *opt) {
	for (; opt->name; opt++) {
		char left[64];
		snprintf(left, sizeof left, "%s%s%s", opt->name, opt->arg && opt->name[0] == '-' ? " " : "",
		         opt->arg && opt->name[0] == '-' ? opt->arg : "");
		printf("  %-22s %s%s\n", left, opt->help, opt->required && opt->name[0] == '-' ? " (required)" : "");
	}
}

static void print_help(const char *cmd, const char *summary, const whit_opt *opt) {
	printf("whit %s: %s\n\nusage: whit %s", cmd, summary, cmd);
	for (const whit_opt *o = opt; o->name; o++)
		if (o->name[0] != '-') printf(o->required ? " %s" : " [%s]", o->name);
	for (const whit_opt *o = opt; o->name; o++)
		if (o->name[0] == '-' && o->required) printf(" %s %s", o->name, o->arg ? o->arg : "");
	printf(" [options]\n\n");
	print_table(opt);
	printf("\nevery command:\n");
	print_table(common);
}

/* Edits (insert, delete, change) from a to b, each at most 63 characters. */
static int distance(const char *a, const char *b) {
	int n = (int)strnlen(a, 63), m = (int)strnlen(b, 63), row[64];
	for (int j = 0; j <= m; j++) row[j] = j;
	for (int i = 1; i <= n; i++) {
		int diagonal = row[0];
		row[0] = i;
		for (int j = 1; j <= m; j++) {
			int up = row[j];
			row[j] = WHIT_MIN(WHIT_MIN(up, row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
			diagonal = up;
		}
	}
	return row[m];
}

const char *whit_nearest_name(const char *word, const char *const *name, int n) {
	const char *best = NULL;
	int least = INT_MAX;
	for (int i = 0; i < n; i++) {
		int d = distance(word, name[i]);
		if (d < least) least = d, best = name[i];
	}
	return best && least <= 1 + (int)strlen(best) / 2 ? best : NULL;
}

static int unknown(const char *cmd, const char *word, const whit_opt *opt, const whit_opt *every, whit_err *e) {
	const char *name[128];
	int n = 0;
	for (const whit_opt *o = opt; o->name && n < 120; o++)
		if (o->name[0] == '-') name[n++] = o->name;
	for (const whit_opt *o = every; o->name; o++) name[n++] = o->name;
	const char *near = whit_nearest_name(word, name, n);
	return whit_fail(e, WHIT_EUSAGE, "%s: unknown option %s%s%s\nsee whit %s --help", cmd, word,
	                 near ? "; did you mean " : "", near ? near : "", cmd);
}

static int bad_value(const char *cmd, const whit_opt *o, const char *v, const char *need, whit_err *e) {
	return whit_fail(e, WHIT_EUSAGE, "%s: %s is \"%s\", need %s\nsee whit %s --help", cmd, o->name, v, need, cmd);
}

static int parse_bytes(const char *v, int64_t *out) {
	char *end;
	errno = 0;
	double x = strtod(v, &end), scale = 1;
	if (*end == 'K' || *end == 'k')
		scale = 1e3, end++;
	else if (*end == 'M' || *end == 'm')
		scale = 1e6, end++;
	else if (*end == 'G' || *end == 'g')
		scale = 1e9, end++;
	if (end == v || *end || errno || !(x >= 0) || !(x * scale < 9e18)) return -1;
	*out = (int64_t)(x * scale);
	return 0;
}

static int set_value(const char *cmd, const whit_opt *o, const char *v, whit_err *e) {
	char *end;
	errno = 0;
	switch (o->kind) {
	case 's':
	case 'r':
	case 'w':
		*(const char **)o->out = v;
		return 0;
	case 'i':
		*(int64_t *)o->out = strtoll(v, &end, 10);
		return end == v || *end || errno ? bad_value(cmd, o, v, "a whole number", e) : 0;
	case 'd': {
		double x = strtod(v, &end);
		if (end == v || *end || errno || !(x - x == 0)) return bad_value(cmd, o, v, "a finite number", e);
		*(double *)o->out = x;
		return 0;
	}
	case 'b':
		return parse_bytes(v, o->out) ? bad_value(cmd, o, v, "bytes such as 4096, 64M or 1.5G", e) : 0;
	case 'l': {
		whit_list *l = o->out;
		l->v = whit_realloc(l->v, sizeof *l->v * (size_t)l->n, sizeof *l->v * (size_t)(l->n + 1));
		l->v[l->n++] = v;
		return 0;
	}
	default:
		return whit_fail(e, WHIT_EINTERNAL, "%s: option %s has kind %c", cmd, o->name, o->kind);
	}
}

static const whit_opt *find(const whit_opt *opt, const char *word, size_t n) {
	for (; opt->name; opt++)
		if (strlen(opt->name) == n && strncmp(opt->name, word, n) == 0) return opt;
	return NULL;
}

static int apply_common(const char *cmd, whit_err *e) {
	if (threads < 0 || threads > 4096)
		return whit_fail(e, WHIT_EUSAGE, "%s: --threads is %lld, need 0 to 4096", cmd, (long long)threads);
	whit_threads_set((int)threads);
	whit_quiet(quiet);
	if (cpu) {
		int level = 0;
		while (level <= WHIT_CPU_TOP && strcmp(cpu, whit_cpu_level_name(level))) level++;
		if (level > WHIT_CPU_TOP)
			return whit_fail(e, WHIT_EUSAGE, "%s: --cpu is %s, need plain, avx2, avx512 or vnni", cmd, cpu);
		whit_cpu_cap(level);
	}
	int rc = whit_device_ask(device, vram, precision, e);
	return rc ? whit_fail_in(e, "%s", cmd) : events ? whit_events_open(events, e) : 0;
}

/* Whether what w writes is what another option names. */
static int clash(const whit_opt *w, const whit_opt *o, whit_err *e) {
	const char *at = *(const char **)w->out, **v = o->out;
	int n = 1;
	if (o->kind == 'l') v = ((whit_list *)o->out)->v, n = ((whit_list *)o->out)->n;
	for (int i = 0; i < n; i++)
		if (v[i] && whit_same_file(at, v[i]))
			return whit_fail(e, WHIT_EUSAGE, "%s: %s (%s) and where %s writes, need another place", at,
			                 o->kind == 'w' ? "is an output" : "is the input", o->name, w->name);
	return 0;
}

static int check_paths(const whit_opt *opt, whit_err *e) {
	const whit_opt *const table[] = {opt, common};
	int rc;
	for (int a = 0; a < 2; a++)
		for (const whit_opt *w = table[a]; w->name; w++)
			for (int b = 0; b < 2 && w->kind == 'w' && *(const char **)w->out; b++)
				for (const whit_opt *o = table[b]; o->name; o++)
					if (o != w && strchr("rwl", o->kind) && (rc = clash(w, o, e))) return rc;
	return 0;
}

/* Without --help; every: the options that each command has beside those of opt. */
static int parse(const char *cmd, const whit_opt *opt, const whit_opt *every, int argc, char **argv, whit_err *e) {
	const whit_opt *place = opt;
	int rc;
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		if (word[0] != '-' || !word[1]) { /* positional */
			while (place->name && place->name[0] == '-') place++;
			if (!place->name)
				return whit_fail(e, WHIT_EUSAGE, "%s: one argument too many: %s\nsee whit %s --help",
				                 cmd, word, cmd);
			if ((rc = set_value(cmd, place, word, e))) return rc;
			if (place->kind != 'l') place++;
			continue;
		}
		size_t n = strcspn(word, "=");
		const whit_opt *o = find(opt, word, n);
		if (!o) o = find(every, word, n);
		if (!o) return unknown(cmd, word, opt, every, e);
		if (o->kind == 'f') {
			if (word[n]) return bad_value(cmd, o, word + n + 1, "no value", e);
			*(int *)o->out = 1;
			continue;
		}
		if (!word[n] && i + 1 == argc)
			return whit_fail(e, WHIT_EUSAGE, "%s: %s needs a value (%s)\nsee whit %s --help", cmd, o->name,
			                 o->arg, cmd);
		if ((rc = set_value(cmd, o, word[n] ? word + n + 1 : argv[++i], e))) return rc;
	}
	for (const whit_opt *o = opt; o->name; o++) {
		int absent = strchr("srw", o->kind) ? !*(const char **)o->out
		             : o->kind == 'l'       ? !((whit_list *)o->out)->n
		                                    : 0;
		if (o->required && absent)
			return whit_fail(e, WHIT_EUSAGE, "%s: %s is missing (%s)\nsee whit %s --help", cmd, o->name,
			                 o->help, cmd);
	}
	return 0;
}

int whit_options(const char *cmd, const char *summary, const whit_opt *opt, int argc, char **argv, whit_err *e) {
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return print_help(cmd, summary, opt), 1;
	int rc = parse(cmd, opt, common, argc, argv, e);
	if (!rc) rc = check_paths(opt, e);
	return rc ? rc : apply_common(cmd, e);
}

int whit_options_line(const char *cmd, const whit_opt *opt, int argc, char **argv, whit_err *e) {
	static const whit_opt none[] = {{NULL, 0, NULL, NULL, NULL, 0}};
	return parse(cmd, opt, none, argc, argv, e);
}

char *whit_command_text(int argc, char **argv) {
	char *all = whit_strdup("whit");
	for (int i = 0; i < argc; i++) {
		int plain = argv[i][0] && !argv[i][strcspn(argv[i], " \t\n'\"\\$`*?&|;<>()[]{}#!~")];
		char *longer = whit_format_text(plain ? "%s %s" : "%s '%s'", all, argv[i]);
		whit_free(all);
		all = longer;
	}
	return all;
}
