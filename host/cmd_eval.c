/* whit eval: perplexity of a model and, with --ref, everything that quality.md asks of a pair. */
#include <stdio.h>
#include "eval/report.h"
#include "formats/json.h"
#include "host/cmd_measure.h"
#include "host/commands.h"
#include "host/device.h"
#include "host/progress.h"
#include "host/prompts.h"

/* Whose last positions the cosine is measured at, unless --prompts says otherwise. */
static const char *const own_prompts[] = {
        "The capital of France is",
        "In the beginning of the nineteenth century, the most important",
        "def fibonacci(n):\n    if n < 2:\n        return",
        "Water boils at a temperature of",
        "Once upon a time, there was a little",
        "The theory of evolution by natural selection was first",
        "2, 4, 8, 16, 32,",
        "He opened the letter, read it twice, and then",
};

typedef struct args {
	const char *model, *lora, *ref, *json, *prompts, *save_logits, *ref_logits, *tune;
	whit_measure_args on;
	int64_t samples;
	whit_list apart;
} args;

/* ---- one tokenizer for both models ---- */

/* Both models must tokenize the text alike, else their logits are about different tokens. */
static int same_tokens(const whit_tok *tok, const char *ref_dir, const char *model_dir, const whit_map *text,
                       whit_err *e) {
	whit_ids a = {0}, b = {0};
	whit_tok *other = NULL;
	int rc = whit_tok_open(&other, ref_dir, e);
	if (!rc) rc = whit_tok_encode(tok, (const char *)text->data, text->bytes, WHIT_TOK_SPECIAL, &a, e);
	if (!rc) rc = whit_tok_encode(other, (const char *)text->data, text->bytes, WHIT_TOK_SPECIAL, &b, e);
	for (int64_t i = 0; i < WHIT_MIN(a.n, b.n) && !rc; i++)
		if (a.id[i] != b.id[i])
			rc = whit_fail(e, WHIT_EINPUT,
			               "%s: token %lld of the text is %d, need the %d of the reference %s", model_dir,
			               (long long)i, a.id[i], b.id[i], ref_dir);
	if (!rc && a.n != b.n)
		rc = whit_fail(e, WHIT_EINPUT, "%s: makes %lld tokens of the text, need the %lld of the reference %s",
		               model_dir, (long long)a.n, (long long)b.n, ref_dir);
	whit_ids_free(&a);
	whit_ids_free(&b);
	whit_tok_close(other);
	return rc;
}

/* Equal tokenizer files need no such test. */
static int check_tokenizers(const whit_tok *tok, const char *model, const char *ref, const whit_map *text,
                            whit_err *e) {
	int same, rc = whit_tok_same(model, ref, &same, e);
	return rc || same ? rc : same_tokens(tok, ref, model, text, e);
}

/* ---- samples ---- */

static int sample(whit_model *m, const whit_tok *tok, const char *prompt, int64_t n, json_t **out, whit_err *e) {
	whit_ids ids = {0}, new = {0};
	size_t bytes;
	int rc = whit_tok_encode(tok, prompt, strlen(prompt), WHIT_TOK_SPECIAL | WHIT_TOK_PARSE, &ids, e);
	if (!rc) rc = whit_generate(m, ids.id, ids.n, n, 0, 0, &new, NULL, NULL, e);
	if (!rc) {
		char *text = whit_tok_decode(tok, new.id, new.n, 1, &bytes);
		*out = whit_report_text(text, bytes);
		whit_free(text);
	}
	whit_ids_free(&ids);
	whit_ids_free(&new);
	return rc;
}

/* Greedy continuations of each prompt by both models, as in sample_generations.json. */
static int samples_make(json_t *all, whit_model *m, whit_model *ref, const whit_tok *tok, const whit_prompts *p,
                        int64_t n, whit_err *e) {
	int rc = 0;
	for (int i = 0; i < p->n && !rc; i++) {
		json_t *base = NULL, *quantized = NULL, *o = json_object();
		if (ref) rc = sample(ref, tok, p->line[i], n, &base, e);
		if (!rc) rc = sample(m, tok, p->line[i], n, &quantized, e);
		json_object_set_new(o, "prompt", whit_report_text(p->line[i], strlen(p->line[i])));
		json_object_set_new(o, "base", base ? base : json_null());
		json_object_set_new(o, "quantized", quantized ? quantized : json_null());
		json_object_set_new(o, "max_new_tokens", json_integer((json_int_t)n));
		json_object_set_new(o, "decoding", json_string("greedy"));
		json_array_append_new(all, o);
	}
	return rc;
}

/* ---- the command ---- */

/* Fingerprints read every byte of both models, so only a report has them. */
static int write_json(whit_report *rep, const char *path, whit_err *e) {
	char model[48], ref[48];
	int rc = whit_ckpt_fingerprint(&rep->model->ckpt, model, e);
	if (!rc && rep->ref) rc = whit_ckpt_fingerprint(&rep->ref->ckpt, ref, e);
	if (rc) return rc;
	rep->model_fp = model;
	rep->ref_fp = rep->ref ? ref : NULL;
	json_t *j = whit_report_json(rep);
	rc = whit_json_write(j, path, e);
	json_decref(j);
	return rc;
}

/* Everything after opening: m and ref (or NULL) are open, so is the text. */
static int evaluate(const args *a, const whit_eval_opts *o, const char *command, whit_model *m,
                    const whit_adapted *adapter, whit_model *ref, const whit_tok *tok, const whit_map *text,
                    const whit_prompts *p, whit_err *e) {
	double *cosine = ref ? whit_alloc((size_t)p->n * sizeof *cosine) : NULL;
	json_t *samples = a->samples ? json_array() : NULL;
	whit_eval_result r = {0};
	whit_report rep = {.command = command,
	                   .model = m,
	                   .ref = ref,
	                   .adapter = a->lora ? adapter : NULL,
	                   .ref_logits = a->ref_logits,
	                   .compute = a->on.compute,
	                   .text = a->on.text,
	                   .result = &r,
	                   .prompt = p->line,
	                   .cosine = cosine,
	                   .n_prompt = p->n,
	                   .samples = samples};
	/* unequal vocabularies are whit_eval_run's to refuse */
	int rc = ref && ref->vocab == m->vocab ? check_tokenizers(tok, m->ckpt.path, ref->ckpt.path, text, e) : 0;
	if (!rc) rc = whit_eval_run(&r, m, ref, tok, (const char *)text->data, text->bytes, o, e);
	if (!rc && ref) rc = whit_eval_prompts(m, ref, tok, p->line, p->n, cosine, e);
	if (!rc && samples) rc = samples_make(samples, m, ref, tok, p, a->samples, e);
	/* The inputs must still be what was measured. */
	if (!rc) rc = whit_ckpt_check(&m->ckpt, e);
	if (!rc && ref) rc = whit_ckpt_check(&ref->ckpt, e);
	if (!rc) rc = whit_map_check(text, e);
	if (!rc) {
		whit_report_print(&rep, stdout);
		whit_event("eval",
		           json_pack("{s:s, s:s, s:f, s:I}", "model", a->model, "mode", whit_eval_mode_name(o->mode),
		                     "ppl", r.s.ppl.mean, "tokens", (json_int_t)r.s.tokens));
	}
	if (!rc && a->json) rc = write_json(&rep, a->json, e);
	whit_eval_free(&r);
	json_decref(samples);
	whit_free(cosine);
	return rc;
}

static int check_args(const args *a, whit_eval_opts *o, whit_err *e) {
	int rc = whit_measure_opts(o, &a->on, "eval", e);
	if (rc) return rc;
	if (a->samples < 0)
		return whit_fail(e, WHIT_EUSAGE, "eval: --samples is %lld, need at least 0", (long long)a->samples);
	if (a->ref && a->ref_logits) return whit_fail(e, WHIT_EUSAGE, "--ref-logits: is given with --ref, need one");
	if (o->mode != WHIT_CHUNKED && (a->save_logits || a->ref_logits))
		return whit_fail(e, WHIT_EUSAGE, "%s: needs --mode chunked, is %s",
		                 a->save_logits ? "--save-logits" : "--ref-logits", a->on.mode);
	o->apart = a->apart.n ? &a->apart : NULL;
	o->save_logits = a->save_logits;
	o->ref_logits = a->ref_logits;
	return 0;
}

int whit_cmd_eval(int argc, char **argv, whit_err *e) {
	args a = {.on = WHIT_MEASURE_DEFAULTS};
	whit_eval_opts o;
	const whit_opt opts[] = {
	        {"MODEL", 'r', "MODEL", "Hugging Face directory, GGUF file, or one that whit wrote", &a.model, 1},
	        {"--lora", 'r', "FILE",
	         "adapter (GGUF) that is added to MODEL's matrices as they are loaded: these become F32, 4 bytes a "
	         "weight",
	         &a.lora, 0},
	        {"--ref", 'r', "REF", "reference model: measure KL divergence, agreement and more against it", &a.ref,
	         0},
	        WHIT_MEASURE_OPTIONS(a.on),
	        {"--apart", 'l', "PATH",
	         "text or directory of statistics (what was calibrated on) that must share no 50 tokens with the text",
	         &a.apart, 0},
	        {"--save-logits", 'w', "FILE",
	         "write the model's logits as llama-perplexity's --kl-divergence-base (with --mode chunked)",
	         &a.save_logits, 0},
	        {"--ref-logits", 'r', "FILE", "such a file as the reference, instead of --ref", &a.ref_logits, 0},
	        {"--json", 'w', "FILE", "write the whole report as JSON", &a.json, 0},
	        {"--prompts", 'r', "FILE",
	         "prompts for last-token cosine and samples, one a line (default: eight of our own)", &a.prompts, 0},
	        {"--samples", 'i', "N", "greedy continuations of N tokens per prompt in the JSON (default: none)",
	         &a.samples, 0},
	        WHIT_TUNE_OPTION(a.tune),
	        {NULL, 0, NULL, NULL, NULL, 0},
	};
	unsigned flags;
	whit_model m, ref, *both[] = {&m, &ref};
	whit_adapted adapter;
	whit_dev *dev = NULL;
	whit_tok *tok = NULL;
	whit_map text = {0};
	whit_prompts p;
	int rc = whit_options("eval", "perplexity of a model, and its loss against a reference", opts, argc, argv, e);
	if (rc) return rc;
	if ((rc = check_args(&a, &o, e))) return rc;
	if (a.json && (rc = whit_out_try(a.json, e))) return rc;
	if (a.save_logits && (rc = whit_out_try(a.save_logits, e))) return rc;
	flags = whit_measure_flags(&a.on);

	if ((rc = whit_map_open(&text, a.on.text, e))) return rc;
	if ((rc = whit_prompts_read(&p, a.prompts, own_prompts, WHIT_COUNT(own_prompts), e))) goto prompts_free;
	if ((rc = whit_model_open(&m, a.model, flags, e))) goto prompts_free;
	if (a.lora && (rc = whit_model_adapt(&m, a.lora, &adapter, e))) goto model_close;
	/* of a split, the file that has the metadata */
	if ((rc = whit_tok_open(&tok, m.ckpt.path, e))) goto model_close;
	if (a.ref && (rc = whit_model_open(&ref, a.ref, flags, e))) goto model_close;
	if ((rc = whit_device_open_tuned(&dev, a.tune, e))) goto ref_close;
	if ((rc = whit_models_device(both, a.ref ? 2 : 1, dev, whit_eval_need(&m, a.ref ? &ref : NULL, &o), e)))
		goto ref_close;
	char *command = whit_command_text(argc, argv);
	rc = evaluate(&a, &o, command, &m, &adapter, a.ref ? &ref : NULL, tok, &text, &p, e);
	whit_free(command);
	whit_free(a.apart.v);
ref_close:
	if (a.ref) whit_model_close(&ref);
model_close:
	whit_tok_close(tok);
	whit_model_close(&m);
	whit_device_close(dev);
prompts_free:
	whit_prompts_free(&p);
	whit_map_close(&text);
	return rc;
}
