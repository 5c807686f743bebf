/* recipe: which tensor gets what. Text lines "pattern format [key=value ...]", first match final, no match
 * an error; '#' begins a comment (operations.md 5). */
#ifndef WHIT_RECIPE_H
#define WHIT_RECIPE_H
#include "calib/method.h"

typedef struct whit_rule {
	char *pattern;      /* glob over checkpoint names: * ? [] and {a,b} */
	int keep;           /* format "keep": stays as it is */
	whit_spec spec;
	const whit_method *method;
	int rotation;       /* whit_rotation_kind */
	int rule;           /* WHIT_SCALE_* */
	int density;        /* WHIT_DENSITY_* */
	uint64_t seed;
	int line;
	int64_t hits;
} whit_rule;

typedef struct whit_recipe {
	whit_rule *rule;
	int n;
	char *path; /* for messages */
	whit_rule base; /* defaults of every line: the command's --method, --rotation, ... */
} whit_recipe;

int whit_recipe_parse(whit_recipe *r, const char *text, size_t n, const char *path, const whit_rule *base, whit_err *e);
/* The recipe that --method and --format alone mean: linears of blocks get the format, the rest is kept;
 * with_embeddings also takes embedding and head. */
int whit_recipe_uniform(whit_recipe *r, const whit_rule *base, int with_embeddings, whit_err *e);
whit_rule *whit_recipe_match(whit_recipe *r, const char *name, whit_err *e); /* NULL = no match, with text */
int whit_recipe_idle(const whit_recipe *r, whit_err *e); /* error naming the first rule that matched nothing */
char *whit_recipe_text(const whit_recipe *r);            /* resolved, whit_free it; parses back to the same */
void whit_recipe_free(whit_recipe *r);
#endif
