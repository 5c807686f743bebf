/* whit calibrate: runs a model over text and writes what its linear layers' inputs were like. Today the diagonal, as an
 * importance matrix that llama.cpp reads too. */
#include <stdio.h>
#include "calib/stats.h"
#include "eval/report.h"
#include "formats/json.h"
#include "host/commands.h"
#include "host/device.h"
#include "host/progress.h"

typedef struct args {
	const char *model, *stats, *out, *json;
	whit_list text;
	int64_t ctx, chunks;
	int head;
} args;

/* Everything that lives for one run of the command. */
typedef struct session {
	args a;
	const whit_statistic *kind;
	whit_model model;
	whit_tok *tok;
	whit_map *map; /* of each text */
	whit_stats_text *text;
	whit_stats stats;
	whit_dev *dev;
	char *command;
} session;

static int parse_options(session *s, int argc, char **argv, whit_err *e) {
	args *a = &s->a;
	const whit_opt opts[] = {
	        {"MODEL", 'r', "MODEL", "Hugging Face directory, GGUF file, or a directory that whit wrote", &a->model,
	         1},
	        {"--text", 'l', "FILE", "calibration text; may be given several times", &a->text, 1},
	        {"--stats", 's', "WHAT", "diag: mean square of each linear layer's input columns (default)", &a->stats,
	         0},
	        {"--out", 'w', "FILE", "importance matrix to write, as llama.cpp's imatrix.gguf", &a->out, 1},
	        {"--ctx", 'i', "N", "tokens of a chunk (default: the model's context, at most 512)", &a->ctx, 0},
	        {"--chunks", 'i', "N", "use the first N chunks of the texts (default: all)", &a->chunks, 0},
	        {"--process-output", 'f', NULL,
	         "also the input of the head (output.weight; of a tied head, token_embd)", &a->head, 0},
	        {"--json", 'w', "FILE", "write a summary as JSON", &a->json, 0},
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	int rc = whit_options("calibrate", "statistics of a model's activations over calibration text", opts, argc,
	                      argv, e);
	if (rc) return rc;
	if (!(s->kind = whit_statistic_find(a->stats, e))) return whit_fail_in(e, "calibrate");
	if (a->ctx < 0) return whit_fail(e, WHIT_EUSAGE, "calibrate: --ctx is %lld, need 1 or more", (long long)a->ctx);
	if (a->chunks < 0)
		return whit_fail(e, WHIT_EUSAGE, "calibrate: --chunks is %lld, need 1 or more", (long long)a->chunks);
	return 0;
}

/* What can be known to fail is found before the work. */
static int preflight(session *s, whit_err *e) {
	int n = s->a.text.n, rc = whit_out_try(s->a.out, e);
	if (!rc && s->a.json) rc = whit_out_try(s->a.json, e);
	s->map = whit_alloc((size_t)n * sizeof *s->map);
	s->text = whit_alloc((size_t)n * sizeof *s->text);
	for (int i = 0; i < n && !rc; i++) {
		rc = whit_map_open(&s->map[i], s->a.text.v[i], e);
		if (rc) break;
		s->text[i] = (whit_stats_text){
		        .name = s->a.text.v[i], .data = (const char *)s->map[i].data, .bytes = s->map[i].bytes};
	}
	if (!rc) rc = whit_tok_open(&s->tok, s->a.model, e);
	if (!rc) rc = whit_model_open(&s->model, s->a.model, 0, e);
	if (!rc && !whit_gguf_arch_find(s->model.arch->name, e)) rc = e->code;
	if (!rc) rc = whit_device_open(&s->dev, e);
	return rc;
}

static json_t *texts_json(const session *s) {
	json_t *all = json_array();
	for (int i = 0; i < s->a.text.n; i++) {
		const whit_stats_text *t = &s->text[i];
		char hex[33];
		whit_hash_hex(whit_hash_bytes(t->data, t->bytes), hex);
		char *hash = whit_format_text("xxh3-128:%s", hex);
		json_array_append_new(all, json_pack("{s:o, s:s, s:I, s:I, s:I, s:I}", "path",
		                                     whit_report_text(t->name, strlen(t->name)), "hash", hash, "bytes",
		                                     (json_int_t)t->bytes, "bytes_not_utf8", (json_int_t)t->invalid,
		                                     "tokens", (json_int_t)t->tokens, "chunks", (json_int_t)t->chunks));
		whit_free(hash);
	}
	return all;
}

static int write_json(const session *s, int64_t weights, whit_err *e) {
	const whit_stats *t = &s->stats;
	char print[48];
	int rc = whit_ckpt_fingerprint(&s->model.ckpt, print, e);
	if (rc) return rc;
	json_t *j = json_pack(
	        "{s:i, s:s, s:o, s:{s:o, s:s, s:s}, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:f, s:f, "
	        "s:i, s:I}",
	        "format_version", 1, "program", "whit " WHIT_VERSION, "command",
	        whit_report_text(s->command, strlen(s->command)), "model", "path",
	        whit_report_text(s->a.model, strlen(s->a.model)), "architecture", s->model.arch->name, "fingerprint",
	        print, "texts", texts_json(s), "stats", t->kind->name, "ctx", (json_int_t)t->ctx, "chunks",
	        (json_int_t)t->chunks, "tokens", (json_int_t)t->tokens, "inputs", (json_int_t)t->n, "weights",
	        (json_int_t)weights, "process_output", s->a.head, "out", whit_report_text(s->a.out, strlen(s->a.out)),
	        "seconds", t->seconds, "tokens_per_s", (double)t->tokens / t->seconds, "threads", whit_threads(),
	        "peak_rss", (json_int_t)whit_peak_rss());
	rc = whit_json_write(j, s->a.json, e);
	json_decref(j);
	return rc;
}

static int work(session *s, whit_err *e) {
	whit_stats_opts o = {.kind = s->kind, .ctx = s->a.ctx, .chunks = s->a.chunks, .head = s->a.head};
	whit_imatrix im;
	whit_model *model = &s->model;
	int n = s->a.text.n, rc = whit_models_device(&model, 1, s->dev, whit_stats_need(model, &o), e);
	if (!rc) rc = whit_stats_run(&s->stats, &s->model, s->tok, s->text, n, &o, e);
	if (!rc) rc = whit_ckpt_check(&s->model.ckpt, e); /* the inputs must still be what was measured */
	for (int i = 0; i < n && !rc; i++) rc = whit_map_check(&s->map[i], e);
	if (!rc) rc = whit_stats_imatrix(&s->stats, &s->model, s->text, n, &im, e);
	if (rc) return rc;
	rc = whit_imatrix_write(&im, s->a.out, e);
	if (!rc) {
		const whit_stats *t = &s->stats;
		printf("wrote         %s: %s of %lld weights, %lld chunks of %lld tokens\n", s->a.out, t->kind->name,
		       (long long)im.n, (long long)t->chunks, (long long)t->ctx);
		printf("time          %.2f s, %.0f tokens/s, peak memory %.0f MB\n", t->seconds,
		       (double)t->tokens / t->seconds, (double)whit_peak_rss() / 1e6);
		whit_event("calibrate", json_pack("{s:s, s:I, s:I}", "stats", t->kind->name, "weights",
		                                  (json_int_t)im.n, "tokens", (json_int_t)t->tokens));
		if (s->a.json && (rc = write_json(s, im.n, e))) {
			whit_fail_in(e, "%s is complete, but its summary is not", s->a.out);
			if (rc != WHIT_EINT && rc != WHIT_ETERM) rc = e->code = WHIT_ECHECK;
		}
	}
	whit_imatrix_close(&im);
	return rc;
}

int whit_cmd_calibrate(int argc, char **argv, whit_err *e) {
	session s = {.a = {.stats = "diag"}};
	int rc = parse_options(&s, argc, argv, e);
	if (!rc) {
		s.command = whit_command_text(argc, argv);
		rc = preflight(&s, e);
		if (!rc) rc = work(&s, e);
		whit_event("end", json_pack("{s:i}", "code", -rc));
	}
	whit_stats_free(&s.stats);
	if (s.model.ckpt.path) whit_model_close(&s.model);
	whit_device_close(s.dev);
	if (s.tok) whit_tok_close(s.tok);
	for (int i = 0; s.map && i < s.a.text.n; i++)
		if (s.map[i].path) whit_map_close(&s.map[i]);
	whit_free(s.map);
	whit_free(s.text);
	whit_free(s.command);
	whit_free(s.a.text.v);
	return rc;
}
