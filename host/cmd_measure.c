/* cmd_measure: checks of the options that say how a text is evaluated. */
#include "host/cmd_measure.h"
#include "eval/report.h"
#include "host/device.h"

static int bad_word(whit_err *e, const char *command, const char *option, const char *is, const char *need) {
	return whit_fail(e, WHIT_EUSAGE, "%s: %s is '%s', need %s\nsee whit %s --help", command, option, is, need,
	                 command);
}

int whit_measure_opts(whit_eval_opts *o, const whit_measure_args *a, const char *command, whit_err *e) {
	const struct {
		const char *name;
		int64_t value, least;
	} sizes[] = {{"--ctx", a->ctx, 0},
	             {"--stride", a->stride, 0},
	             {"--max-tokens", a->max_tokens, 0},
	             {"--batch-tokens", a->batch_tokens, 0},
	             {"--floor-tokens", a->floor_tokens, -1}};
	int mode = whit_eval_mode_parse(a->mode);
	if (mode < 0) return bad_word(e, command, "--mode", a->mode, "sliding, sliding_hf or chunked");
	if (strcmp(a->compute, "packed") && strcmp(a->compute, "float"))
		return bad_word(e, command, "--compute", a->compute, "packed or float");
	for (int i = 0; i < WHIT_COUNT(sizes); i++)
		if (sizes[i].value < sizes[i].least)
			return whit_fail(e, WHIT_EUSAGE, "%s: %s is %lld, need at least %lld", command, sizes[i].name,
			                 (long long)sizes[i].value, (long long)sizes[i].least);
	if (mode == WHIT_CHUNKED && a->stride && a->stride != a->ctx)
		return whit_fail(e, WHIT_EUSAGE, "%s: --stride is %lld, need none with --mode chunked", command,
		                 (long long)a->stride);
	*o = (whit_eval_opts){.name = a->text,
	                      .mode = mode,
	                      .ctx = a->ctx,
	                      .stride = a->stride,
	                      .max_tokens = a->max_tokens,
	                      .batch_tokens = a->batch_tokens,
	                      .floor_tokens = a->floor_tokens};
	return 0;
}

unsigned whit_measure_flags(const whit_measure_args *a) { return strcmp(a->compute, "float") ? 0 : WHIT_OPEN_DECODE; }

json_t *whit_measure_device(whit_dev *d) {
	char *name = whit_device_text(d);
	json_t *j = whit_report_text(name, strlen(name));
	whit_free(name);
	return j;
}

json_t *whit_measure_hash(whit_hash h) {
	char text[48];
	whit_hash_text(h, text);
	return json_string(text);
}

int whit_measure_hash_file(json_t **j, const char *path, whit_err *e) {
	whit_map m;
	int rc = whit_map_open(&m, path, e);
	if (rc) return rc;
	*j = whit_measure_hash(whit_hash_bytes(m.data, m.bytes));
	whit_map_close(&m);
	return 0;
}

int whit_measure_hash_stats(json_t **j, const char *dir, whit_err *e) {
	char *path = whit_format_text("%s/statistics.json", dir);
	int rc = whit_measure_hash_file(j, path, e);
	whit_free(path);
	return rc;
}
