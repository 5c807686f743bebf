/* recipe: which tensor gets what. Text lines "pattern format [key=value ...]", first match final, no match
 * an error; '#' begins a comment (operations.md 5).
 *
 *     *.layers.0.*                          keep
 *     *.{k,v}_proj.weight                   int8       method=nearest
 *     @linear                               tq4g256    rotation=hadamard seed=7
 *     @embedding                            keep
 *
 * A pattern is a glob over checkpoint names: * ? [a-z] [!x] {a,b}; or @linear, every linear of a block, or
 * @embedding, the embedding and the head. The format "keep" leaves a tensor as it is and takes no keys. Keys:
 * method, rotation (none, hadamard, haar_qr), scale (least_squares, raw, norm_corrected, ip), density
 * (gaussian, beta), seed. Norms and biases stay as they are without a line; a "keep" line may name them. */
#ifndef WHIT_RECIPE_H
#define WHIT_RECIPE_H
#include "calib/method.h"

enum { WHIT_CLASS_NONE, WHIT_CLASS_LINEAR, WHIT_CLASS_EMBEDDING }; /* as whit_model_role returns */

typedef struct whit_rule {
	char *pattern;
	int keep; /* format "keep": stays as it is */
	whit_spec spec;
	const whit_method *method;
	int rotation; /* whit_rotation_kind; -1 in a base: the method's default */
	int rule;     /* WHIT_SCALE_* */
	int density;  /* WHIT_DENSITY_* */
	uint64_t seed;
	int line;         /* 0 = not from a file, may stay idle */
	int64_t hits;     /* tensors it decided */
	int64_t shadowed; /* tensors it matches that an earlier line decided */
	int64_t unfit;    /* tensors it matches that cannot be quantized (norms, tied heads) */
} whit_rule;

typedef struct whit_recipe {
	whit_rule *rule;
	int n;
	char *path;     /* for messages */
	whit_rule base; /* defaults of every line: the command's --method, --rotation, ... */
} whit_recipe;

/* base supplies what a line does not say: method, rotation (or -1), rule, density, seed. Errors are
 * WHIT_EUSAGE and name file, line and the nearest word that exists. */
int whit_recipe_parse(whit_recipe *r, const char *text, size_t n, const char *path, const whit_rule *base, whit_err *e);
/* The recipe that --method and --format alone mean: linears of blocks get base->spec, the rest is kept;
 * with_embeddings also takes embedding and head. */
int whit_recipe_uniform(whit_recipe *r, const whit_rule *base, int with_embeddings, whit_err *e);
/* Appends those lines to a parsed recipe: what tensors get that no line of the file matches. */
int whit_recipe_add_uniform(whit_recipe *r, int with_embeddings, whit_err *e);
/* The first rule that matches, counted. NULL with text: none does, for a tensor that needs one. NULL without an
 * error (e->code 0): a tensor of WHIT_CLASS_NONE, which only "keep" lines decide. */
whit_rule *whit_recipe_match(whit_recipe *r, const char *name, int cls, whit_err *e);
int whit_recipe_idle(const whit_recipe *r, whit_err *e); /* error naming the first rule that matched nothing */
/* Resolved, with every key, without lines of no file that matched nothing; parses back to the same. whit_free it. */
char *whit_recipe_text(const whit_recipe *r);
void whit_recipe_free(whit_recipe *r);

/* Names of scale rules and densities, as files and options spell them; parse: -1 = unknown. */
const char *whit_scale_name(int rule);
int whit_scale_parse(const char *name);
const char *whit_density_name(int density);
int whit_density_parse(const char *name);
#endif
