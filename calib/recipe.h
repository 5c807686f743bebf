/* recipe: which tensor gets what. Text lines "pattern format [key=value ...]", first match final, no match
 * an error; '#' begins a comment (operations.md 5).
 *
 *     *.layers.0.*                          keep
 *     *.{k,v}_proj.weight                   int8       method=nearest
 *     @linear                               tq4g256    rotation=hadamard seed=7
 *     @embedding                            keep
 *
 * A pattern is a glob over checkpoint names: * ? [a-z] [!x] {a,b}; or @linear, every linear of a block,
 * @embedding, the embedding and the head, or @head, what makes the logits: the head, or the tied embedding. The
 * format "keep" leaves a tensor as it is and takes no key but "when". Keys: method, rotation (none, hadamard,
 * haar_qr), scale (least_squares, raw, norm_corrected, ip), density (gaussian, beta), seed, when. Norms and biases
 * stay as they are without a line; a "keep" line may name them.
 *
 * A line with when=TERM,TERM... concerns a tensor only if all terms hold; it may decide nothing at all. Terms:
 *   more                  its layer i is among the first or last eighth of the n layers, or every third between:
 *                         i < n/8 or i >= 7n/8 or (i - n/8) % 3 == 2, in integers, as llama.cpp's mixes have it
 *   layer<X layer>=X layer=X    its layer; X is a number or n/NUMBER; false outside layers
 *   layers<X layers>=X layers=X    how many layers the model has
 *   gqa<X gqa>=X gqa=X    how many query heads share a key head
 *   arch=NAME             the architecture
 *   tied untied           whether the embedding is also the head
 *   imatrix               importance of columns was given (--imatrix) */
#ifndef WHIT_RECIPE_H
#define WHIT_RECIPE_H
#include "calib/method.h"

/* As whit_model_role returns; HEAD is an EMBEDDING that makes the logits. */
enum { WHIT_CLASS_NONE, WHIT_CLASS_LINEAR, WHIT_CLASS_EMBEDDING, WHIT_CLASS_HEAD };

typedef struct whit_subject { /* what lines may ask about a tensor */
	const char *name;
	int cls;                    /* WHIT_CLASS_* */
	int64_t layer, layers, gqa; /* layer -1 = outside layers */
	const char *arch;
	int tied, imatrix;
} whit_subject;

typedef struct whit_rule {
	char *pattern;
	char *when; /* NULL = always */
	int keep;   /* format "keep": stays as it is */
	whit_spec spec;
	const whit_method *method;
	int rotation; /* whit_rotation_kind; -1 in a base: the method's default */
	int rule;     /* WHIT_SCALE_* */
	int density;  /* WHIT_DENSITY_* */
	uint64_t seed;
	int line;         /* 0 = not from a file, may stay idle */
	int64_t hits;     /* tensors it decided */
	int64_t shadowed; /* tensors it matches that an earlier line decided */
	int64_t yielded;  /* of those, to a line with "when": another model might ask this one */
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
whit_rule *whit_recipe_match(whit_recipe *r, const whit_subject *s, whit_err *e);
/* Error naming the first rule that matched nothing, but for those with "when", or behind such. */
int whit_recipe_idle(const whit_recipe *r, whit_err *e);
/* Resolved, with every key, without lines of no file that matched nothing; parses back to the same. whit_free it. */
char *whit_recipe_text(const whit_recipe *r);
void whit_recipe_free(whit_recipe *r);
/* Puts the line "pattern format" before all others, as an option does: it may stay idle. */
int whit_recipe_prepend(whit_recipe *r, const char *pattern, const char *format, whit_err *e);

/* Moves rest's lines behind r's: what decides tensors that r does not match. They may stay idle. */
void whit_recipe_join(whit_recipe *r, whit_recipe *rest);

/* The recipes of calib/recipes that llama.cpp's users know by name ("Q4_K_M"), in the program itself. */
typedef struct whit_preset {
	const char *name, *text;
} whit_preset;
extern const whit_preset whit_presets[];               /* NULL-terminated, by name; made by calib/recipes/embed.cmake */
const whit_preset *whit_preset_find(const char *name); /* any case; "Q4_K" is Q4_K_M; NULL = no such */

/* Names of scale rules and densities, as files and options spell them; parse: -1 = unknown. */
const char *whit_scale_name(int rule);
int whit_scale_parse(const char *name);
const char *whit_density_name(int density);
int whit_density_parse(const char *name);
#endif
