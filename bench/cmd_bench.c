/* cmd_bench: whit bench. */
#include <stdlib.h>
#include "bench/run.h"
#include "host/commands.h"
#include "host/device.h"
#include "host/progress.h"
#include "host/tune.h"

static int by_value(const void *a, const void *b) {
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

/* Prompt lengths, shortest first: then a device's peak is that of the prompt it is told with. Owned by the caller. */
static int read_prompts(const whit_list *given, bench_load *load, whit_err *e) {
	int64_t *prompt = whit_alloc(sizeof *prompt * (size_t)WHIT_MAX(given->n, 1));
	load->prompt = prompt;
	load->n_prompt = given->n ? given->n : 1;
	prompt[0] = 128;
	for (int i = 0; i < given->n; i++) {
		char *end;
		prompt[i] = strtoll(given->v[i], &end, 10);
		if (*end || prompt[i] < 1 || prompt[i] > 1 << 30)
			return whit_fail(e, WHIT_EUSAGE, "bench: --prompt is \"%s\", need a positive whole number",
			                 given->v[i]);
	}
	qsort(prompt, (size_t)load->n_prompt, sizeof *prompt, by_value);
	return 0;
}

static int bench_models(bench_run *b, const whit_list *model, const bench_load *load, const char *tuned, whit_err *e) {
	int rc = 0;
	for (int i = 0; i < model->n && !rc; i++) {
		whit_dev *dev = NULL; /* one for each model: its peak is this model's */
		if (b->dev) rc = whit_device_open_tuned(&dev, tuned, e);
		if (!rc) rc = bench_model(b, model->v[i], load, dev, e);
		whit_device_close(dev);
	}
	return rc;
}

static int tune(bench_run *b, const bench_filter *f, const whit_list *model, const char *file, whit_err *e) {
	char *path = whit_tune_path(file, 1);
	int rc = path ? bench_tune(b, f, model->v, model->n, path, e)
	              : whit_fail(e, WHIT_EUSAGE, "bench: --tune has no file to write, need --tune-file FILE");
	whit_free(path);
	return rc;
}

int whit_cmd_bench(int argc, char **argv, whit_err *e) {
	static whit_list word, model, prompt;
	static const char *json, *compute = "packed", *kv = "f32", *tuned;
	static double seconds = 0.5;
	static int64_t n;
	static int greedy, compare, roofline, tunes;
	static const whit_opt opt[] = {
	        {"CASE", 'l', NULL, "words a case's name must contain one of (default: every kernel case)", &word, 0},
	        {"--model", 'l', "MODEL", "prefill and decode of this model instead of kernels; may be repeated",
	         &model, 0},
	        {"--compute", 's', "HOW", "packed (from the codes) or float (decoded at load) (default packed)",
	         &compute, 0},
	        {"--prompt", 'l', "N", "tokens of prefill; may be repeated (default 128)", &prompt, 0},
	        {"-n", 'i', "N", "tokens to decode (default 32, on a device 64)", &n, 0},
	        {"--kv", 's', "TYPE", "of keys and values in a device's cache: f32 or f16 (default f32)", &kv, 0},
	        {"--greedy", 'f', NULL, "decode by the likeliest token, found where the model computes", &greedy, 0},
	        {"--compare", 'f', NULL, "of two files of --json, given instead of words, each case's times and R",
	         &compare, 0},
	        {"--roofline", 'f', NULL, "of a file of --json and a name for a picture, given instead of words",
	         &roofline, 0},
	        {"--tune", 'f', NULL,
	         "on a device: time every way that the products, or those of --model, can go, and write the best to "
	         "--tune-file",
	         &tunes, 0},
	        WHIT_TUNE_OPTION(tuned),
	        {"--seconds", 'd', "S", "time for each case (default 0.5)", &seconds, 0},
	        {"--json", 'w', "FILE", "write every number there", &json, 0},
	        {0}};
	int rc = whit_options("bench", "measure kernels and models on this machine", opt, argc, argv, e);
	if (rc) return rc < 0 ? rc : 0;
	if (compare && (word.n != 2 || model.n))
		return whit_fail(e, WHIT_EUSAGE, "bench: --compare has %d files, need 2 and no --model", word.n);
	if (compare) return bench_compare(word.v[0], word.v[1], e);
	if (roofline && (word.n != 2 || model.n))
		return whit_fail(e, WHIT_EUSAGE,
		                 "bench: --roofline has %d names, need RUN.json and OUT.svg, no --model", word.n);
	if (roofline) return bench_roofline(word.v[0], word.v[1], e);
	int packed = !strcmp(compute, "packed");
	if (!packed && strcmp(compute, "float"))
		return whit_fail(e, WHIT_EUSAGE, "bench: --compute is %s, need packed or float", compute);
	bench_load load = {.open_flags = packed ? 0 : WHIT_OPEN_DECODE, .greedy = greedy};
	if ((rc = whit_device_kv(&load.kv, "bench", kv, e))) return rc;
	if (n < 0 || n > 1 << 30 || !(seconds > 0))
		return whit_fail(e, WHIT_EUSAGE, "bench: -n and --seconds are %lld and %g, need positive ones",
		                 (long long)n, seconds);
	if (json && (rc = whit_out_try(json, e))) return rc;
	bench_run b = {0};
	whit_dev *dev = NULL;
	if (!(rc = read_prompts(&prompt, &load, e)))
		rc = tunes ? whit_device_open(&dev, e) : whit_device_open_tuned(&dev, tuned, e);
	if (!rc && tunes && !dev)
		rc = whit_fail(e, WHIT_EUSAGE, "bench: --tune is about a device, the CPU computes; need --device cuda");
	if (rc) goto out;
	load.n = n ? n : dev ? 64 : 32;
	if ((rc = bench_begin(&b, seconds, dev, e))) goto out;
	bench_filter wanted = {word.v, word.n};
	rc = tunes     ? tune(&b, &wanted, &model, tuned, e)
	     : model.n ? bench_models(&b, &model, &load, tuned, e)
	     : dev     ? bench_products(&b, &wanted, e)
	               : bench_kernels(&b, &wanted, e);
	if (!rc && dev && !model.n && !tunes) rc = bench_ops(&b, &wanted, e);
	if (!rc && !b.n)
		rc = whit_fail(e, WHIT_EUSAGE, "bench: no case's name holds \"%s\", need words such as %s, M=1",
		               word.v[0],
		               dev ? "product, tq4g128, 5120x6144, fwht, encode, kmeans, gram"
		                   : "linear, fwht, encode, tq4g256");
	if (!rc) rc = bench_end(&b, json, e);
out:
	bench_free(&b);
	whit_device_close(dev);
	whit_free((void *)(uintptr_t)load.prompt);
	return rc;
}
