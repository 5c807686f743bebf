/* markup: what the writers of tables and pictures share. */
#define _GNU_SOURCE
#include "eval/markup.h"
#include "eval/report.h"

#include <math.h>
#include <stdlib.h>

void whit_text_open(whit_text_out *o) {
	if (!(o->f = open_memstream(&o->buf, &o->n))) abort(); /* out of memory, as in whit_alloc */
}

char *whit_text_close(whit_text_out *o) {
	if (fclose(o->f)) abort();
	char *text = whit_strdup(o->buf);
	free(o->buf);
	return text;
}

void whit_text_put(FILE *f, const char *s) {
	json_t *j = whit_report_text(s, strlen(s));
	for (const char *c = json_string_value(j); *c; c++) {
		if (*c == '&')
			fputs("&amp;", f);
		else if (*c == '<')
			fputs("&lt;", f);
		else if (*c == '>')
			fputs("&gt;", f);
		else if (*c == '"')
			fputs("&quot;", f);
		else if (*c == '|')
			fputs("&#124;", f);
		else
			fputc((unsigned char)*c < 32 ? ' ' : *c, f);
	}
	json_decref(j);
}

void whit_svg_open(FILE *f, int64_t width, int64_t height, const char *what, const char *title, const char *model,
                   const char *line) {
	fprintf(f,
	        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%lld\" height=\"%lld\" viewBox=\"0 0 %lld %lld\" "
	        "font-family=\"sans-serif\" font-size=\"12\" fill=\"#1a1a1a\" role=\"img\">\n<title>%s of ",
	        (long long)width, (long long)height, (long long)width, (long long)height, what);
	whit_text_put(f, model);
	fprintf(f,
	        "</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
	        "<text x=\"10\" y=\"22\" font-size=\"16\" font-weight=\"bold\">%s</text>\n<text x=\"10\" y=\"42\">",
	        title);
	whit_text_put(f, model);
	fprintf(f, ", %s</text>\n", line);
}

void whit_svg_line(FILE *f, double x0, double y0, double x1, double y1, const char *colour, const char *dash) {
	fprintf(f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"", x0, y0, x1, y1, colour);
	if (dash) fprintf(f, " stroke-dasharray=\"%s\"", dash);
	fputs("/>\n", f);
}

json_t *whit_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }
