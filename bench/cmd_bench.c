/* cmd_bench: whit bench. */
#include "bench/run.h"
#include "host/commands.h"
#include "host/engine.h"

int whit_cmd_bench(int argc, char **argv, whit_err *e) {
	static whit_list word, model;
	static const char *json, *compute = "packed";
	static double seconds = 0.5;
	static int64_t prompt = 128, n = 32;
	static const whit_opt opt[] = {
	        {"CASE", 'l', NULL, "words a case's name must contain one of (default: every kernel case)", &word, 0},
	        {"--model", 'l', "MODEL", "prefill and decode of this model instead of kernels; may be repeated",
	         &model, 0},
	        {"--compute", 's', "HOW", "packed (from the codes) or float (decoded at load) (default packed)",
	         &compute, 0},
	        {"--prompt", 'i', "N", "tokens of prefill (default 128)", &prompt, 0},
	        {"-n", 'i', "N", "tokens to decode (default 32)", &n, 0},
	        {"--seconds", 'd', "S", "time for each case (default 0.5)", &seconds, 0},
	        {"--json", 'w', "FILE", "write every number there", &json, 0},
	        {0}};
	int rc = whit_options("bench", "measure kernels and models on this machine", opt, argc, argv, e);
	if (rc) return rc < 0 ? rc : 0;
	int packed = !strcmp(compute, "packed");
	if (!packed && strcmp(compute, "float"))
		return whit_fail(e, WHIT_EUSAGE, "bench: --compute is %s, need packed or float", compute);
	if (prompt < 1 || n < 1 || !(seconds > 0))
		return whit_fail(e, WHIT_EUSAGE,
		                 "bench: --prompt, -n and --seconds are %lld, %lld and %g, need positive ones",
		                 (long long)prompt, (long long)n, seconds);
	if (json && (rc = whit_out_try(json, e))) return rc;
	bench_run b;
	bench_begin(&b, seconds);
	for (int i = 0; i < model.n && !rc; i++)
		rc = bench_model(&b, model.v[i], packed ? 0 : WHIT_OPEN_DECODE, prompt, n, e);
	if (!model.n) rc = bench_kernels(&b, &(bench_filter){word.v, word.n}, e);
	if (!rc && !b.n)
		rc = whit_fail(
		        e, WHIT_EUSAGE,
		        "bench: no case's name holds \"%s\", need words such as linear, fwht, encode, tq4g256, M=1",
		        word.v[0]);
	if (rc) return rc;
	return bench_end(&b, json, e);
}
