/* json: jansson with our errors. Every getter names the file and key and both sides. */
#ifndef WHIT_JSON_H
#define WHIT_JSON_H
#include <jansson.h>
#include "host/base.h"

/* Parses a whole file or buffer strictly: duplicate keys, NUL in strings, bad UTF-8, Infinity, NaN and
 * trailing bytes are errors. An integer beyond int64 reads as a real (tokenizer configs hold 1e30 so). */
int whit_json_load(json_t **j, const char *path, whit_err *e);
int whit_json_parse(json_t **j, const char *text, size_t n, const char *name, whit_err *e);
/* Writes j (indented, keys in insertion order, 17 significant digits, newline at the end) whole or not at all. */
int whit_json_write(const json_t *j, const char *path, whit_err *e);
/* Reads key of object j into *out. required: absence is an error; else *out keeps its value. null = absent.
 * int: refuses reals with a fraction and values outside [lo, hi]. real: refuses non-finite. */
int whit_json_int(const json_t *j, const char *file, const char *key, int required, int64_t lo, int64_t hi,
                  int64_t *out, whit_err *e);
int whit_json_real(const json_t *j, const char *file, const char *key, int required, double lo, double hi, double *out,
                   whit_err *e);
int whit_json_bool(const json_t *j, const char *file, const char *key, int required, int *out, whit_err *e);
int whit_json_text(const json_t *j, const char *file, const char *key, int required, const char **out,
                   whit_err *e); /* borrowed from j */
/* The same for a member of JSON_OBJECT or JSON_ARRAY; borrowed from j. */
int whit_json_member(const json_t *j, const char *file, const char *key, int required, json_type type,
                     const json_t **out, whit_err *e);
/* 1 where `is` lacks a member of object need or has another value there; list then says of each "key is X, need Y". */
int whit_json_differs(const json_t *is, const json_t *need, char *list, size_t room);
const char *whit_json_kind(const json_t *j); /* "integer", "object", ...; NULL is "absent" */
#endif
