/* markup: text in memory, for Markdown and SVG. */
#ifndef WHIT_MARKUP_H
#define WHIT_MARKUP_H
#include <jansson.h>
#include <stdio.h>
#include "host/base.h"

/* A stream into memory, and the text it became, in whit_alloc's memory. */
typedef struct whit_text_out {
	FILE *f;
	char *buf;
	size_t n;
} whit_text_out;
void whit_text_open(whit_text_out *o);
char *whit_text_close(whit_text_out *o);
/* s with bytes that are not UTF-8 as \xNN, and what XML or Markdown would read as its own replaced. */
void whit_text_put(FILE *f, const char *s);
/* The start of a white picture of that size, to be ended by </svg>: its <title> is "WHAT of MODEL", on it stand `title`
 * and, below, "MODEL, LINE". */
void whit_svg_open(FILE *f, int64_t width, int64_t height, const char *what, const char *title, const char *model,
                   const char *line);
/* A line of that colour; dash: its stroke-dasharray, NULL = it has none. */
void whit_svg_line(FILE *f, double x0, double y0, double x1, double y1, const char *colour, const char *dash);
json_t *whit_json_number(double x); /* null where x is not finite */
#endif
