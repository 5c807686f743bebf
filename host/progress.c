/* progress: the bar, the plain lines, the event log. */
#include "host/progress.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static FILE *log_file;
static const char *log_path; /* an argument of main */
static double log_start;
static int silent, bar_shown;

int whit_events_open(const char *path, whit_err *e) {
	whit_events_close();
	if (!(log_file = fopen(path, "ae")))
		return whit_fail(e, WHIT_EUSAGE, "%s: cannot append: %s", path, strerror(errno));
	log_path = path;
	setvbuf(log_file, NULL, _IOLBF, 0); /* flushed per line: it outlives an out-of-memory kill */
	log_start = whit_now();
	whit_event("schema", json_pack("{s:i}", "version", 1));
	return 0;
}

void whit_events_close(void) {
	if (!log_file) return;
	int lost = ferror(log_file);
	if (fclose(log_file) || lost) whit_say("warning: %s: cannot write: events were lost", log_path);
	log_file = NULL;
}

void whit_event(const char *name, json_t *fields) {
	if (!log_file) {
		json_decref(fields);
		return;
	}
	json_t *line = json_pack("{s:s, s:f, s:I}", "event", name, "t", whit_now() - log_start, "peak_rss",
	                         (json_int_t)whit_peak_rss());
	if (fields) json_object_update(line, fields);
	json_dumpf(line, log_file, JSON_COMPACT);
	fputc('\n', log_file);
	json_decref(line);
	json_decref(fields);
}

void whit_quiet(int on) { silent = on; }

static void clear_bar(void) {
	if (bar_shown) fprintf(stderr, "\r\033[K");
	bar_shown = 0;
}

static void clock_text(double seconds, char out[32]) {
	long s = seconds > 0 && seconds < 1e8 ? (long)(seconds + 0.5) : 0;
	if (s >= 3600)
		snprintf(out, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
	else
		snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
}

void whit_progress_begin(whit_progress *p, const char *what, double total) {
	*p = (whit_progress){.what = what, .total = total, .start = whit_now(), .tty = isatty(2)};
	p->shown = p->start;
}

void whit_progress_step(whit_progress *p, double done, const char *label) {
	p->done = done;
	double now = whit_now();
	/* A bar redraws ten times a second; plain lines every ten seconds keep a log readable. */
	if (silent || (now - p->shown < (p->tty ? 0.1 : 10) && done < p->total)) return;
	p->shown = now;
	double share = p->total > 0 ? WHIT_MIN(done / p->total, 1) : 1;
	char eta[32], spent[32];
	clock_text(share > 0 ? (now - p->start) * (1 - share) / share : 0, eta);
	clock_text(now - p->start, spent);
	if (!p->tty) {
		fprintf(stderr, "%s: %3.0f %%, %s, ETA %s, %s\n", p->what, 100 * share, spent, eta, label ? label : "");
		return;
	}
	char bar[31];
	for (int i = 0; i < 30; i++) bar[i] = i < (int)(30 * share) ? '#' : '.';
	bar[30] = 0;
	fprintf(stderr, "\r\033[K%s [%s] %3.0f %% ETA %s  %.60s", p->what, bar, 100 * share, eta, label ? label : "");
	bar_shown = 1;
}

void whit_progress_end(whit_progress *p) {
	(void)p;
	clear_bar();
}

void whit_say(const char *fmt, ...) {
	if (silent && strncmp(fmt, "warning:", 8)) return;
	clear_bar();
	va_list ap;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}
