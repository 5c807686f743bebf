/* cmd_quantize: what whit quantize does once its options are read, for commands that quantize on the way. */
#ifndef WHIT_CMD_QUANTIZE_H
#define WHIT_CMD_QUANTIZE_H
#include "calib/allocate.h"
#include "host/cmd_plan.h"

/* What an allocator chose: lines of a recipe, the holder's to whit_free; NULL: there was nothing to choose. */
typedef struct whit_allocated {
	char *text;
	whit_allocation of;
} whit_allocated;

typedef struct whit_quantize_opts { /* strings are borrowed */
	const char *model, *out;
	/* what the weights depend on, as the options say it; method NULL = turboquant, into a GGUF nearest */
	const char *method, *format, *recipe, *rotation, *scale, *density, *imatrix, *sensitivity;
	double bpw;
	int64_t seed, bytes;
	int embeddings;
	int gguf; /* OUT is one */
	whit_calib_args calib;
	int64_t lora_rank; /* -1 = no adapter */
	const char *lora;  /* NULL: named after OUT */
	const whit_allocated
	        *allocated; /* whit_quantize_allocate's, of these options; NULL: chosen whenever asked for */
	int calib_if_asked; /* calib is for methods that need it, where there are none it is left out */
	/* the rest */
	const char *json, *eval, *prompts;
	int64_t ctx, samples;
	int plan, force;
	int bare;            /* nothing on stdout, no report in OUT */
	const char *command; /* as typed, for the report; NULL = not known */
} whit_quantize_opts;
/* clang-format off */
#define WHIT_QUANTIZE_DEFAULTS { .seed = 42, .samples = 32, .lora_rank = -1, .calib = WHIT_CALIB_DEFAULTS }
#define WHIT_QUANTIZE_OPTIONS(o) \
	{"--format", 's', "F", "number format of the linears of blocks (with --recipe: of what it does not match)", \
	 &(o).format, 0}, \
	{"--method", 's', "M", "how codes are chosen (below; default turboquant, into a GGUF nearest)", \
	 &(o).method, 0}, \
	{"--recipe", 'r', "FILE", "lines 'pattern format [key=value ...]', first match final", &(o).recipe, 0}, \
	{"--rotation", 's', "K", "none, hadamard or haar_qr (default: the method's)", &(o).rotation, 0}, \
	{"--scale", 's', "RULE", "least_squares, raw, norm_corrected or ip (default least_squares)", &(o).scale, 0}, \
	{"--density", 's', "D", "codebooks fitted to gaussian or beta (default gaussian)", &(o).density, 0}, \
	{"--seed", 'i', "S", "seed of the rotations, 0 or more (default 42)", &(o).seed, 0}, \
	{"--imatrix", 'r', "FILE", \
	 "importance of columns (llama-imatrix, whit calibrate), for tensors without a rotation", &(o).imatrix, 0}, \
	{"--bpw", 'd', "B", \
	 "choose each tensor's format, by --sensitivity (or --fisher: fabq-rc's records), for B bits per weight of those tensors", &(o).bpw, 0}, \
	{"--bytes", 'b', "BYTES", "the same for so many bytes of them", &(o).bytes, 0}, \
	{"--sensitivity", 'r', "FILE", "what each format costs: whit sensitivity --by tensor's JSON", \
	 &(o).sensitivity, 0}, \
	WHIT_CALIB_OPTIONS("--text", (o).calib), \
	{"--embeddings", 'f', NULL, "quantize embedding and head too", &(o).embeddings, 0}
/* clang-format on */

/* Refuses options that contradict each other, before any file is read. */
int whit_quantize_check(const whit_quantize_opts *o, whit_err *e);
/* What --bpw, --bytes and the files they choose by come to; measuring records takes its time. After an error *a is
 * empty. */
int whit_quantize_allocate(whit_allocated *a, const whit_quantize_opts *o, whit_err *e);
/* The recipe that they mean. Not known before: what the model makes of it (calib/quantize.h, whit_plan_make). */
int whit_quantize_recipe(whit_recipe *r, const whit_quantize_opts *o, whit_err *e);
/* Whether anything reads what calib gives. */
int whit_quantize_asks(const whit_recipe *r, const whit_quantize_opts *o);
/* The command, its options read and checked; with plan it writes nothing. st: what came out, or NULL. */
int whit_quantize_write(const whit_quantize_opts *o, whit_quantize_stats *st, whit_err *e);
#endif
