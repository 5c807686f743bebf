/* cmd_measure: the options that commands share which evaluate: the text and how it is cut and computed. */
#ifndef WHIT_CMD_MEASURE_H
#define WHIT_CMD_MEASURE_H
#include <jansson.h>
#include "eval/eval.h"
#include "host/options.h"

typedef struct whit_measure_args {
	const char *text, *mode, *compute;
	int64_t ctx, stride, max_tokens, batch_tokens, floor_tokens;
} whit_measure_args;
/* clang-format off */
#define WHIT_MEASURE_DEFAULTS { .mode = "sliding", .compute = "packed", .floor_tokens = -1 }
#define WHIT_MEASURE_OPTIONS(a) \
	{"--text", 'r', "FILE", "text to measure on", &(a).text, 1}, \
	{"--mode", 's', "MODE", \
	 "sliding (default), sliding_hf (weighted as in the transformers documentation) or chunked " \
	 "(as llama-perplexity)", \
	 &(a).mode, 0}, \
	{"--ctx", 'i', "N", "window in tokens (default: the model's context, at most 512)", &(a).ctx, 0}, \
	{"--stride", 'i', "N", "tokens between windows (default: half the window)", &(a).stride, 0}, \
	{"--max-tokens", 'i', "N", "use the first N tokens of the text (default: all)", &(a).max_tokens, 0}, \
	{"--compute", 's', "HOW", "packed: from the codes (default); float: decoded first", &(a).compute, 0}, \
	{"--floor-tokens", 'i', "N", \
	 "positions to measure the noise floor on, 0 = none (default: 4e9 / parameters)", &(a).floor_tokens, 0}, \
	{"--batch-tokens", 'i', "N", "tokens in flight (default: chosen by the model's width)", &(a).batch_tokens, 0}
/* clang-format on */

/* Checks them and fills o, whose other members are zero. */
int whit_measure_opts(whit_eval_opts *o, const whit_measure_args *a, const char *command, whit_err *e);
/* What a journal says of a device (whit_device_text) and of a text. */
json_t *whit_measure_device(whit_dev *d);
json_t *whit_measure_hash(whit_hash h);
/* The same of a file, and of a directory of statistics, whose statistics.json tells of what the sums beside it were
 * made. Errors: whit_map_open's. */
int whit_measure_hash_file(json_t **j, const char *path, whit_err *e);
int whit_measure_hash_stats(json_t **j, const char *dir, whit_err *e);
unsigned whit_measure_flags(const whit_measure_args *a); /* of whit_model_open */
#endif
